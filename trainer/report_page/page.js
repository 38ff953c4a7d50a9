// The page from top to bottom, and its controls.
const THEMES = ['auto', 'light', 'dark'];
const darkness = matchMedia('(prefers-color-scheme: dark)');

function storedTheme() {
  try {
    const stored = localStorage.getItem('innerstep-theme');
    return THEMES.includes(stored) ? stored : 'auto';
  } catch {
    return 'auto'; // a browser may refuse to store anything for a file
  }
}

let theme = storedTheme();

function applyTheme() {
  document.documentElement.dataset.theme = theme === 'auto' ? (darkness.matches ? 'dark' : 'light') : theme;
}

function themeChoice() {
  const choice = on(el('select', { id: 'theme' }, THEMES.map((name) => el('option', { value: name }, name))), { change: () => {
    theme = choice.value;
    try {
      localStorage.setItem('innerstep-theme', theme);
    } catch {
      // it holds until the page is closed
    }
    applyTheme();
  } });
  choice.value = theme;
  return el('label', { class: 'control' }, 'Theme', choice);
}

function smoothing() {
  const shown = el('output', { for: 'smoothing' }, state.smoothing.toFixed(2));
  const slider = on(el('input', { type: 'range', id: 'smoothing', min: 0, max: 0.99, step: 0.01, value: state.smoothing }), { input: () => {
    state.smoothing = Number(slider.value);
    shown.textContent = state.smoothing.toFixed(2);
    redraw();
  } });
  return el('label', { class: 'control' }, 'Smoothing', slider, shown);
}

function runLegend() {
  const item = (run, index) => el('li', null, toggle(runKey(index), run.name, sample(look(index))));
  return el('ul', { class: 'legend', id: 'runs', 'aria-label': 'Runs, shown or hidden' }, RUNS.map(item));
}

function bar(sections) {
  const title = SEVERAL ? counted(RUNS.length, 'run') : RUNS[0].name;
  const links = sections.map((part) => el('li', null, el('a', { href: `#${part.id}` }, part.querySelector('h2').firstChild.textContent)));
  const reset = on(el('button', { type: 'button', id: 'reset', class: 'reset', hidden: true }, 'Show all updates'), { click: () => setRange(null) });
  return [
    el('div', { class: 'top' }, el('h1', null, title, el('small', null, 'innerstep report')), el('nav', { 'aria-label': 'Sections' }, el('ul', null, links))),
    el('div', { class: 'tools' }, SEVERAL ? runLegend() : null, smoothing(), themeChoice(), reset),
  ];
}

function build() {
  const names = groups();
  const inTables = new Set([...names.losses, ...names.metrics, ...names.rollouts]);
  const sections = [
    overview(),
    chartSection('losses', 'Losses', (log) => metricCharts(names.losses, { log }), false),
    chartSection('metrics', 'Metrics', (log) => metricCharts(names.metrics, { log }), false),
    chartSection('rates', 'Learning rates', (log) => names.rates.flatMap((family) => familyCharts(family, { smooth: false, log })), false),
    chartSection('gradients', 'Gradients', (log) => names.families.flatMap((family) => familyCharts(family, { smooth: true, log })), false),
    rollouts(names.rollouts),
    half(evaluations(inTables)),
    half(section('checkpoints', 'Checkpoints', perRun(RUNS.map(checkpointTable)))),
    timeSection(names.speed),
    planSection(),
    configSection(),
  ].filter((part) => part !== null);
  document.getElementById('bar').replaceChildren(...bar(sections));
  document.getElementById('content').replaceChildren(...sections);
  const help = 'Drag over a chart, or use plus and minus on it, to see a part of the updates; double-click or 0 shows all. A dotted line marks a resume.';
  document.getElementById('end').append(el('p', null, help), el('p', null, `Made ${moment(DATA.made)} by innerstep ${DATA.version}. Files: `, RUNS.map(({ path: place }) => el('code', null, place, ' '))));
}

applyTheme();
build();
on(darkness, { change: applyTheme });
on(window, { beforeprint: () => {
  for (const chart of charts) chart.draw();
  for (const details of document.querySelectorAll('details.box')) details.open = true;
} });
