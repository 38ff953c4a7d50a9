// The parts of the page, from the values that Python has written into it.
const DATA = JSON.parse(document.getElementById('values').textContent);
const RUNS = DATA.runs;
const SEVERAL = RUNS.length > 1;
const HELD_OUT = 'held_out';
const EPISODES = ['success', 'return', 'episode_length'];
const SPEED = ['updates_per_second', 'data_wait'];
const TITLES = new Map(Object.entries({
  loss: 'Loss', lr: 'Learning rate', grad_norm: 'Norm of the gradients', skipped: 'Updates left out',
  success: 'Success', return: 'Return', episode_length: 'Length of an episode',
  updates_per_second: 'Updates per second since the start', data_wait: 'Share of the time spent waiting for data',
}));
const STATUS = { done: 'done', stopped: 'stopped', failed: 'failed', open: 'training', ended: 'not finished' };
const runKey = (index) => `run ${index}`;
const seriesOf = (run, split, name) => run.series.find((one) => one.split === split && one.name === name);

// A part of the page for each run; those of many runs are folded.
function perRun(parts) {
  if (RUNS.length <= 3) return parts;
  return RUNS.map((run, index) => (parts[index] ? el('details', { class: 'box' }, el('summary', null, run.name), parts[index]) : null));
}

// Overview

function lossOf(run) {
  const found = seriesOf(run, 'train', 'loss');
  return found && found.last ? found.last[1] : null;
}

function bestText(best) {
  return best ? `${short(best.value, 5)} after ${counted(best.step, 'update')}` : '—';
}

const secondsOf = (run) => Object.values(run.phases.seconds).reduce((sum, seconds) => sum + seconds, 0);
const updatesText = ({ done, total }) => `${done === null ? '0' : whole(done)}${total === null ? '' : ` of ${whole(total)}`}`;
const timeText = (run) => (secondsOf(run) ? `${run.phases.known ? '' : 'about '}${duration(secondsOf(run))}` : '—');

function statusDetail(run) {
  const last = run.processes[run.processes.length - 1];
  if (run.status === 'open') return 'or killed a moment ago';
  if (run.status === 'ended') return 'killed, or an older version';
  return last && last.message ? last.message.slice(0, 160) : null;
}

function tiles(run) {
  const best = run.best;
  const tile = (name, value, detail, kind) => el('div', null, el('dt', null, name), el('dd', { class: kind }, value, detail ? el('small', null, detail) : null));
  const latest = run.checkpoints.find(({ latest: isLatest }) => isLatest);
  const resumes = resumesOf(run).length;
  return el('dl', { class: 'tiles' },
    tile('Status', STATUS[run.status], statusDetail(run), `status-${run.status}`),
    tile('Updates', updatesText(run), resumes ? `resumed ${counted(resumes, 'time')}` : null),
    tile('Last training loss', short(lossOf(run), 5)),
    best ? tile(`Best ${best.monitor}`, short(best.value, 5), `after ${counted(best.step, 'update')}`) : null,
    tile('Time', timeText(run), run.processes.length ? `began ${moment(run.processes[0].time)}` : null),
    latest ? tile('Newest checkpoint', latest.name, bytes(latest.bytes)) : null);
}

function overview() {
  const notes = RUNS.flatMap((run) => run.notes.map((note) => (SEVERAL ? `${run.name}: ${note}` : note)));
  const rows = RUNS.map((run, index) => [
    el('span', null, sample(look(index)), ' ', run.name), STATUS[run.status], updatesText(run), short(lossOf(run), 5),
    run.best ? run.best.monitor : '—', bestText(run.best), timeText(run), resumesOf(run).length,
  ]);
  return section('overview', 'Overview',
    SEVERAL ? table('The runs', ['run', 'status', 'updates', 'last training loss', 'monitored', 'best', 'time', 'resumes'], rows, { numbers: [2, 3, 6, 7], kind: 'wide' }) : tiles(RUNS[0]),
    notes.length ? el('ul', { class: 'notes' }, notes.map((note) => el('li', null, note))) : null);
}

// Charts

function resumesOf(run) {
  return run.processes.filter((process, index) => index > 0 && process.reached > process.began);
}

const MARKS = RUNS.flatMap((run, index) => resumesOf(run).map(({ began }) => ({ key: runKey(index), step: began, colour: SEVERAL ? look(index).colour : 7 })));

function bestOf(run, name) {
  return run.best && run.best.monitor.replace(/^val_/, '') === name ? run.best : null;
}

// The lines of a metric: in training and in evaluations, of each run.
function metricLines(name, smooth) {
  return RUNS.flatMap((run, index) => ['train', HELD_OUT].flatMap((split) => {
    const series = seriesOf(run, split, name);
    if (!series) return [];
    const isHeldOut = split === HELD_OUT;
    const looks = SEVERAL ? { colour: look(index).colour, dash: isHeldOut ? '5 3' : look(index).dash } : { colour: isHeldOut ? 1 : 0, dash: null };
    const label = SEVERAL ? `${run.name}${isHeldOut ? ', held out' : ''}` : isHeldOut ? 'held out' : 'training';
    return [{ keys: [runKey(index)], label, series, smooth: smooth && !isHeldOut, dots: isHeldOut, best: isHeldOut ? bestOf(run, name) : null, ...looks }];
  }));
}

function metricCharts(names, { smooth = true, log } = {}) {
  return names.map((name) => {
    const lines = metricLines(name, smooth);
    return new Chart({ title: TITLES.get(name) || name, lines, marks: MARKS, log, legend: SEVERAL ? null : 'plain' }).figure;
  });
}

// A family of metrics with one value a component: one chart of one run, and one chart a component of several.
function familyCharts(family, { smooth, log }) {
  const found = new Map();
  RUNS.forEach((run, index) => run.series.forEach((series) => {
    if (series.split !== 'train' || !series.name.startsWith(`${family}/`)) return;
    const component = series.name.slice(family.length + 1);
    if (!found.has(component)) found.set(component, []);
    found.get(component).push({ keys: [runKey(index)], label: run.name, series, smooth, ...look(index) });
  }));
  const title = TITLES.get(family) || family;
  if (SEVERAL) {
    return [...found].map(([component, lines]) => new Chart({ title: `${title}: ${component}`, lines, marks: MARKS, log, legend: null }).figure);
  }
  const lines = [...found].map(([component, [line]]) => ({ ...line, ...look(componentIndex(component)), label: component, keys: [`component ${component}`] }));
  return [new Chart({ title, lines, marks: MARKS, log, legend: 'toggle' }).figure];
}

const COMPONENTS = [];
function componentIndex(name) {
  if (!COMPONENTS.includes(name)) COMPONENTS.push(name);
  return COMPONENTS.indexOf(name);
}

function allNames() {
  const splits = new Map();
  for (const run of RUNS) {
    for (const { split, name } of run.series) {
      if (split !== 'train' && split !== HELD_OUT) continue;
      if (!splits.has(name)) splits.set(name, new Set());
      splits.get(name).add(split);
    }
  }
  return splits;
}

// The names of metrics by the section that shows them.
function groups() {
  const splits = allNames();
  const names = [...splits.keys()];
  const components = new Set(names.filter((name) => name.startsWith('lr/')).map((name) => name.slice(3)));
  const families = new Set();
  const found = { losses: [], metrics: [], rollouts: [], families: [], speed: [] };
  for (const name of names) {
    const slash = name.indexOf('/');
    const family = slash > 0 ? name.slice(0, slash) : null;
    if (name === 'loss' || family === 'loss') found.losses.push(name);
    else if (EPISODES.includes(name)) found.rollouts.push(name);
    else if (SPEED.includes(name)) found.speed.push(name);
    else if (family && splits.get(name).has('train') && components.has(name.slice(slash + 1))) families.add(family);
    else found.metrics.push(name);
  }
  families.delete('lr');
  found.rates = components.size ? ['lr'] : [];
  found.families = [...families];
  return found;
}

// A section of charts with its own switch for a logarithmic scale.
function chartSection(id, title, make, isLog) {
  const box = el('input', { type: 'checkbox', id: `${id}-log` });
  box.checked = isLog;
  const before = charts.length;
  const figures = make(() => box.checked);
  if (!figures.length) return null;
  const own = charts.slice(before);
  on(box, { change: () => own.forEach((chart) => chart.invalidate()) });
  return el('section', { id, 'aria-labelledby': `${id}-title`, class: figures.length === 1 ? 'half' : null },
    el('h2', { id: `${id}-title` }, title, el('label', null, box, 'logarithmic scale')),
    el('div', { class: 'charts' }, figures));
}

// Evaluations and episodes

function evaluations(names) {
  const parts = RUNS.map((run) => {
    const all = run.series.filter(({ split, name }) => split === HELD_OUT && names.has(name));
    if (!all.length) return null;
    const steps = [...new Set(all.flatMap((series) => series.steps))].sort((one, other) => one - other);
    const every = Math.max(1, Math.ceil(steps.length / MOST_ROWS));
    const best = run.best ? run.best.step : null;
    const shown = steps.filter((step, index) => index % every === 0 || step === best || index === steps.length - 1);
    const rows = shown.map((step) => [
      el('span', null, whole(step), step === best ? badge('best') : null),
      ...all.map(({ steps: own, values }) => short(own.includes(step) ? values[own.indexOf(step)] : null, 5)),
    ]);
    const rule = run.best ? `; best: the ${run.best.mode === 'max' ? 'highest' : 'lowest'} ${run.best.monitor}` : '';
    return table(`${SEVERAL ? `${run.name}: e` : 'E'}valuations, by updates done${rule}`, ['after update', ...all.map(({ name }) => name)], rows, { numbers: all.map((one, index) => index + 1), kind: 'tall' });
  });
  return section('evaluations', 'Evaluations', parts.some((part) => part !== null) ? perRun(parts) : el('p', { class: 'muted' }, 'No evaluation has been written.'));
}

function picture({ name, kind, link, content }) {
  const shown = content === null ? null : kind.startsWith('video')
    ? el('video', { src: content, controls: true, preload: 'metadata', 'aria-label': name })
    : el('img', { src: content, alt: `Episodes of the policy: ${name}` });
  return el('figure', null, shown, el('figcaption', null, el('a', { href: link }, name)));
}

function rollouts(names) {
  const media = RUNS.filter(({ pictures }) => pictures.length).map((run) => [
    SEVERAL ? el('h3', null, run.name) : null, el('div', { class: 'media' }, run.pictures.map(picture)),
  ]);
  const figures = metricCharts(names);
  if (!figures.length && !media.length) return null;
  return section('rollouts', 'Episodes in the environment', figures.length ? el('div', { class: 'charts' }, figures) : null, media);
}

// Time

const PHASES = ['start', 'updates', 'waiting for data', 'evaluation', 'checkpoints', 'pictures'];

function phasesOf(run) {
  const place = ([name]) => (PHASES.includes(name) ? PHASES.indexOf(name) : PHASES.length);
  const found = Object.entries(run.phases.seconds).filter(([, seconds]) => seconds > 0).sort((one, other) => place(one) - place(other));
  return found.map(([name, seconds]) => ({ name, seconds, colour: `b${place([name]) % 8}` }));
}

function timeOf(run) {
  const phases = phasesOf(run);
  const total = secondsOf(run);
  if (!total) return [SEVERAL ? el('h3', null, run.name) : null, el('p', { class: 'muted' }, 'The files of this run do not record its time.')];
  const bar = el('div', { class: 'stack', 'aria-hidden': 'true' }, phases.map(({ name, seconds, colour }) => {
    const part = el('div', { class: colour, title: `${name}: ${duration(seconds)}` });
    part.style.width = `${100 * seconds / total}%`;
    return part;
  }));
  const rows = phases.map(({ name, seconds, colour }) => [
    el('span', null, el('span', { class: `swatch ${colour}`, 'aria-hidden': 'true' }), name), duration(seconds), `${(100 * seconds / total).toFixed(1)} %`,
  ]);
  const source = run.phases.known ? '' : ', estimated from updates_per_second: this run has no timeline.jsonl';
  return el('div', null, SEVERAL ? el('h3', null, run.name) : null, bar, table(`Time by phase, ${duration(total)} in all${source}`, ['phase', 'time', 'share'], rows, { numbers: [1, 2] }), processTable(run));
}

function processTable(run) {
  const rows = run.processes.map((process, index) => [
    moment(process.time || ''), process.began === 0 && index === 0 ? 'start' : `resume after ${whole(process.began)}`, whole(process.reached), duration(process.seconds),
    endText(process, index === run.processes.length - 1 ? run.status : 'ended'),
    [process.device, process.processes > 1 ? `${process.processes} processes` : null, process.innerstep ? `innerstep ${process.innerstep}` : null, process.torch ? `torch ${process.torch}` : null].filter(Boolean).join(', '),
  ]);
  if (!rows.length) return null;
  return table(`Starts and resumes${SEVERAL ? ` of ${run.name}` : ''}`, ['began', 'from', 'updates done', 'time', 'end', 'on'], rows, { numbers: [2, 3] });
}

// status: that of the run, for its last process. A run that is done may be drawing pictures, or was killed then.
function endText({ end, message }, status) {
  if (end === null) return { open: 'training', done: 'not written' }[status] || 'killed';
  if (end === 'done') return 'done';
  if (end === 'StoppedBySignal') return `stopped by ${message.split(':')[0]}`;
  return message ? el('span', { class: 'long' }, `${end}: ${message}`) : end;
}

function timeSection(names) {
  const figures = metricCharts(names);
  return section('time', 'Time', el('div', { class: 'pair' }, RUNS.map(timeOf)),
    figures.length ? [el('h3', null, 'Speed'), el('div', { class: 'charts' }, figures)] : null);
}

// Checkpoints, plan and config

function checkpointTable(run) {
  const rows = run.checkpoints.map((one) => [
    el('span', null, one.name, one.latest ? badge('latest') : null, one.best ? badge('best') : null, one.finite ? null : badge('not finite')),
    whole(one.step), bytes(one.bytes),
  ]);
  const title = SEVERAL ? `${run.name}: checkpoints` : 'Checkpoints';
  if (!rows.length) return el('p', { class: 'muted' }, `${title}: none.`);
  const total = run.checkpoints.reduce((sum, one) => sum + one.bytes, 0);
  return table(`${title}: ${rows.length}, ${bytes(total)}`, ['folder', 'updates done', 'size'], rows, { numbers: [1, 2], kind: 'tall' });
}

function planOf({ name, plan }) {
  const shown = plan === null ? el('p', { class: 'muted' }, 'Not known.') : el('pre', { tabindex: '0' }, plan);
  return el('div', null, SEVERAL ? el('h3', null, name) : null, shown);
}

function planSection() {
  const known = RUNS.some(({ plan }) => plan !== null);
  return known ? section('plan', 'Plan', perRun(RUNS.map(planOf))) : null;
}

function configOf({ name, changed, config }) {
  if (!config) return el('p', { class: 'muted' }, `${SEVERAL ? `${name}: ` : ''}the config cannot be shown.`);
  return el('details', { class: 'box' },
    el('summary', null, `${SEVERAL ? `${name}: ` : ''}${counted(changed.length, 'value')} that ${changed.length === 1 ? 'is' : 'are'} not the default`),
    table('Values that differ from the defaults; — where there is no default', ['field', 'value', 'default'], changed.map(([path, ...values]) => [dotted(path), ...values]), { kind: 'names' }),
    el('details', null, el('summary', null, 'The whole config.yaml'), el('pre', { tabindex: '0' }, config)));
}

function differences() {
  if (!SEVERAL) return null;
  if (!DATA.differences.length) return el('p', null, 'The configs of these runs are the same.');
  return table('Fields in which the configs differ', ['field', ...RUNS.map(({ name }) => name)], DATA.differences.map(([path, values]) => [dotted(path), ...values]), { kind: 'names' });
}

function configSection() {
  return section('config', 'Config', differences(), RUNS.map(configOf));
}
