// Line charts. All charts of the page share what is hidden, the smoothing and the range of updates.
const state = { hidden: new Set(), smoothing: 0.6, range: null };
const charts = [];
const HEIGHT = 230;
const MARGIN = { left: 58, right: 14, top: 12, bottom: 34 };

function redraw() {
  for (const chart of charts) chart.invalidate();
}

function toggled(key) {
  if (state.hidden.has(key)) state.hidden.delete(key);
  else state.hidden.add(key);
  for (const button of document.querySelectorAll('[data-key]')) {
    button.setAttribute('aria-pressed', String(!state.hidden.has(button.dataset.key)));
  }
  redraw();
}

function toggle(key, label, ...samples) {
  return on(el('button', { type: 'button', 'data-key': key, 'aria-pressed': String(!state.hidden.has(key)) }, samples, label),
    { click: () => toggled(key) });
}

function setRange(range) {
  state.range = range;
  document.getElementById('reset').hidden = range === null;
  redraw();
}

const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) entry.target.chart.seen(entry.isIntersecting);
}, { rootMargin: '300px' });

// A line: { keys, label, colour, dash, series, smooth, dots, best }. It is hidden if one of its keys is.
class Chart {
  // spec: { title, lines, marks, log, legend, unit }; log: whether the values stand on a logarithmic scale, as a function.
  constructor(spec) {
    this.spec = spec;
    this.isSeen = false;
    this.isDrawn = false;
    this.cursor = null;
    this.drag = null;
    this.drawing = svg('svg', { 'aria-hidden': 'true' });
    this.readout = el('div', { class: 'readout', hidden: true });
    this.spoken = el('div', { class: 'hidden-text', 'aria-live': 'polite' });
    this.plot = on(el('div', {
      class: 'plot', tabindex: '0', role: 'group', 'aria-roledescription': 'chart',
      'aria-label': `${spec.title}: a line chart. Left and right show values, plus and minus zoom, 0 shows all updates.`,
    }, this.drawing, this.readout, this.spoken), {
      pointermove: (event) => this.pointed(event),
      pointerleave: () => this.left(),
      pointerdown: (event) => this.pressed(event),
      pointerup: (event) => this.released(event),
      pointercancel: () => { this.drag = null; },
      dblclick: () => setRange(null),
      keydown: (event) => this.typed(event),
      blur: () => this.left(),
    });
    this.figure = el('figure', { class: 'chart' }, el('figcaption', null, spec.title, this.legend()), this.plot, this.remarks(), this.values());
    this.plot.chart = this;
    charts.push(this);
    watcher.observe(this.plot);
    new ResizeObserver(() => this.invalidate()).observe(this.plot);
  }

  legend() {
    const { lines, legend } = this.spec;
    if (!legend) return lines.some(({ dots }) => dots) ? strokes(lines) : null;
    const item = (line) => (legend === 'toggle' ? toggle(line.keys[0], line.label, sample(line)) : el('span', null, sample(line), line.label));
    return el('ul', { class: 'legend' }, lines.map((line) => el('li', null, item(line))));
  }

  remarks() {
    const found = [];
    for (const { series, label } of this.spec.lines) {
      if (!series.nonfiniteCount) continue;
      const [step, word] = series.nonfinite[0];
      found.push(`${label}: ${counted(series.nonfiniteCount, 'value')} not finite, the first ${word} at update ${whole(step)}`);
    }
    return found.map((text) => el('p', { class: 'remark' }, text));
  }

  // The values as a table, which is made when it is opened.
  values() {
    const details = el('details', null, el('summary', null, `Values of ${this.spec.title}`));
    return on(details, { toggle: () => {
      if (details.open && details.childElementCount === 1) details.append(valueTable(this.spec));
    } });
  }

  get lines() {
    return this.spec.lines.filter((line) => !line.keys.some((key) => state.hidden.has(key)));
  }

  get isLog() { return this.spec.log ? this.spec.log() : false; }

  invalidate() {
    this.isDrawn = false;
    if (this.isSeen && !this.waits) {
      this.waits = true;
      requestAnimationFrame(() => { this.waits = false; this.draw(); });
    }
  }

  seen(isSeen) {
    this.isSeen = isSeen;
    if (isSeen && !this.isDrawn) this.draw();
  }

  draw() {
    const width = this.plot.clientWidth;
    if (!width) return;
    this.isDrawn = true;
    const { lines, isLog } = this;
    const range = state.range || stepExtent(lines);
    const extentOfValues = valueExtent(lines, range, isLog);
    this.x = scale(range, MARGIN.left, width - MARGIN.right, false);
    this.y = scale(extentOfValues, HEIGHT - MARGIN.bottom, MARGIN.top, isLog);
    this.range = range;
    this.width = width;
    const id = `clip${charts.indexOf(this)}`;
    const frame = {
      x: MARGIN.left - 5, y: MARGIN.top - 5,
      width: Math.max(0, width - MARGIN.left - MARGIN.right + 10), height: HEIGHT - MARGIN.top - MARGIN.bottom + 10,
    };
    this.drawing.setAttribute('viewBox', `0 0 ${width} ${HEIGHT}`);
    this.drawing.replaceChildren(
      svg('clipPath', { id }, svg('rect', frame)),
      this.axes(range, extentOfValues, isLog),
      svg('g', { 'clip-path': `url(#${id})` }, this.marks(range), lines.map((line) => this.line(line, range, isLog))),
      this.labels(lines, range, isLog),
      this.over = svg('g'),
    );
    this.point();
  }

  axes(range, extentOfValues, isLog) {
    const { x, y, width } = this;
    const right = width - MARGIN.right;
    const bottom = HEIGHT - MARGIN.bottom;
    const drawn = svg('g');
    for (const tick of isLog ? logTicks(extentOfValues, 5) : ticks(extentOfValues, 5)) {
      drawn.append(svg('line', { class: 'grid', x1: MARGIN.left, x2: right, y1: y(tick), y2: y(tick) }),
        svg('text', { x: MARGIN.left - 7, y: y(tick) + 4, 'text-anchor': 'end' }, short(tick, 6)));
    }
    for (const tick of ticks(range, Math.max(2, Math.floor(width / 95))).filter(Number.isInteger)) {
      drawn.append(svg('line', { class: 'axis', x1: x(tick), x2: x(tick), y1: bottom, y2: bottom + 4 }),
        svg('text', { x: Math.min(x(tick), width - 3.2 * whole(tick).length), y: bottom + 16, 'text-anchor': 'middle' }, whole(tick)));
    }
    drawn.append(svg('line', { class: 'axis', x1: MARGIN.left, x2: right, y1: bottom, y2: bottom }),
      svg('text', { x: right, y: HEIGHT - 4, 'text-anchor': 'end' }, 'update'));
    return drawn;
  }

  // Where a run was resumed.
  marks(range) {
    const marks = this.spec.marks.filter(({ key, step }) => !state.hidden.has(key) && step >= range[0] && step <= range[1]);
    return marks.map(({ step, colour }) => svg('line', {
      class: `resume k${colour}`, x1: this.x(step), x2: this.x(step), y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom,
    }));
  }

  line(line, range, isLog) {
    const { series, colour, dash } = line;
    const [from, to] = inside(series.steps, range);
    const place = (value) => (isLog && value <= 0 ? NaN : this.y(value));
    const points = (values) => {
      const found = [];
      for (let at = from; at < to; at += 1) found.push([this.x(series.steps[at]), place(values[at])]);
      return found;
    };
    const drawn = svg('g');
    const isSmooth = line.smooth && state.smoothing > 0 && to - from > 2;
    if (series.lows) {
      const outline = path([...points(series.highs), ...points(series.lows).reverse()]);
      drawn.append(svg('path', { class: `band f${colour} k${colour}`, d: outline }));
    }
    if (isSmooth && !series.lows) drawn.append(svg('path', { class: `raw k${colour}`, d: path(points(series.values)) }));
    const shown = points(isSmooth ? smoothed(series.values, state.smoothing) : series.values);
    drawn.append(svg('path', { class: `curve k${colour}`, d: path(shown), 'stroke-dasharray': dash }));
    if ((line.dots && to - from <= 80) || to - from === 1) {
      for (const [x, y] of shown) if (Number.isFinite(y)) drawn.append(svg('circle', { class: `f${colour}`, cx: x, cy: y, r: 3 }));
    }
    return drawn;
  }

  // The best evaluation, and the values that are not finite.
  labels(lines, range, isLog) {
    const drawn = svg('g');
    for (const { series, best, colour } of lines) {
      if (best && best.step >= range[0] && best.step <= range[1] && (!isLog || best.value > 0)) {
        const [x, y] = [this.x(best.step), this.y(best.value)];
        const isRight = x > this.width - 60;
        drawn.append(svg('circle', { class: `best k${colour}`, cx: x, cy: y, r: 6.5 }), this.spec.legend === null ? '' :
          svg('text', { class: 'best-label', x: x + (isRight ? -10 : 10), y: y < 30 ? y + 16 : y - 7, 'text-anchor': isRight ? 'end' : 'start' }, 'best'));
      }
      for (const [step, word] of series.nonfinite || []) {
        if (step >= range[0] && step <= range[1]) {
          drawn.append(svg('text', { class: 'odd', x: this.x(step), y: MARGIN.top + 4, 'text-anchor': 'middle' }, '✕', svg('title', null, `${word} at update ${step}`)));
        }
      }
    }
    return drawn;
  }

  // Pointer and keys

  left() {
    this.cursor = null;
    this.point();
  }

  placeOf(event) {
    const box = this.plot.getBoundingClientRect();
    return Math.min(this.width - MARGIN.right, Math.max(MARGIN.left, (event.clientX - box.left) * this.width / box.width));
  }

  pointed(event) {
    if (!this.x) return;
    const steps = this.lines.map(({ series }) => series.steps).filter((found) => found.length);
    if (!steps.length) return;
    const place = this.placeOf(event);
    const target = this.x.back(place);
    const candidates = steps.map((found) => found[nearest(found, target)]);
    this.cursor = candidates.reduce((best, step) => (Math.abs(step - target) < Math.abs(best - target) ? step : best));
    this.point(this.drag === null ? null : [this.drag, place]);
  }

  pressed(event) {
    if (event.pointerType === 'mouse' && event.button === 0 && this.x) {
      this.drag = this.placeOf(event);
      this.plot.setPointerCapture(event.pointerId);
    }
  }

  released(event) {
    const [from, to] = [this.drag, this.drag === null ? 0 : this.placeOf(event)];
    this.drag = null;
    if (from !== null && Math.abs(to - from) > 8) setRange([this.x.back(Math.min(from, to)), this.x.back(Math.max(from, to))]);
    else this.point();
  }

  typed(event) {
    const longest = this.lines.map(({ series }) => series.steps).reduce((best, steps) => (steps.length > best.length ? steps : best), []);
    if (!longest.length || !this.x || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = this.cursor === null ? longest.length - 1 : nearest(longest, this.cursor);
    const moves = { ArrowLeft: at - (this.cursor === null ? 0 : 1), ArrowRight: at + 1, Home: 0, End: longest.length - 1 };
    if (event.key in moves) {
      this.cursor = longest[Math.min(longest.length - 1, Math.max(0, moves[event.key]))];
      this.point();
      this.spoken.textContent = [...this.readout.children].map((part) => part.textContent).join(', ');
    } else if (event.key === '+' || event.key === '-') {
      const middle = this.cursor === null ? (this.range[0] + this.range[1]) / 2 : this.cursor;
      const half = (this.range[1] - this.range[0]) * (event.key === '+' ? 0.25 : 1);
      const [first, last] = stepExtent(this.lines);
      setRange(half * 2 >= last - first ? null : [Math.max(first, middle - half), Math.min(last, middle + half)]);
    } else if (event.key === '0' || event.key === 'Escape') {
      setRange(null);
    } else {
      return;
    }
    event.preventDefault();
  }

  // Draw the cursor with the values there, and the part that is being chosen.
  point(chosen = null) {
    if (!this.over) return;
    this.over.replaceChildren();
    this.readout.hidden = this.cursor === null;
    if (chosen !== null) {
      const [from, to] = [Math.min(...chosen), Math.max(...chosen)];
      this.over.append(svg('rect', { class: 'chosen', x: from, y: MARGIN.top, width: to - from, height: HEIGHT - MARGIN.top - MARGIN.bottom }));
    }
    if (this.cursor === null) return;
    const x = this.x(this.cursor);
    this.over.append(svg('line', { class: 'cursor', x1: x, x2: x, y1: MARGIN.top, y2: HEIGHT - MARGIN.bottom }));
    const rows = this.lines.map((line) => this.valueAtCursor(line)).filter((row) => row !== null);
    this.readout.replaceChildren(el('div', null, `update ${whole(this.cursor)}`), ...rows);
    const isLeft = x > this.width / 2;
    this.readout.style.left = isLeft ? `${MARGIN.left + 6}px` : 'auto';
    this.readout.style.right = isLeft ? 'auto' : `${MARGIN.right + 4}px`;
  }

  valueAtCursor(line) {
    const { series, colour } = line;
    if (!series.steps.length) return null;
    const at = nearest(series.steps, this.cursor);
    const width = (this.range[1] - this.range[0]) / Math.max(60, this.width - MARGIN.left);
    if (Math.abs(series.steps[at] - this.cursor) > 6 * width) return null;
    const isSmooth = line.smooth && state.smoothing > 0;
    const value = isSmooth ? smoothed(series.values, state.smoothing)[at] : series.values[at];
    if (!this.isLog || value > 0) {
      this.over.append(svg('circle', { class: `f${colour}`, cx: this.x(series.steps[at]), cy: this.y(value), r: 4 }));
    }
    const range = series.lows ? ` (${short(series.lows[at])} to ${short(series.highs[at])})` : '';
    const raw = isSmooth && !series.lows ? ` (raw ${short(series.values[at])})` : '';
    return el('div', null, sample(line), `${line.label} ${short(value)}${range}${raw}`);
  }
}

// What the strokes mean where the colours are those of the runs.
function strokes(lines) {
  const neutral = (dash, dots, label) => el('li', null, el('span', null, sample({ colour: 7, dash, dots }), label));
  const isTrained = lines.some(({ dots }) => !dots);
  return el('ul', { class: 'legend' }, isTrained ? neutral(null, false, 'training') : null, neutral('5 3', true, 'held out'),
    lines.some(({ best }) => best) ? el('li', null, el('span', null, '◯ best')) : null);
}

const MOST_ROWS = 200;

function valueTable({ title, lines }) {
  const steps = [...new Set(lines.flatMap(({ series }) => series.steps))].sort((one, other) => one - other);
  const every = Math.max(1, Math.ceil(steps.length / MOST_ROWS));
  const shown = steps.filter((step, index) => index % every === 0 || index === steps.length - 1);
  const columns = lines.map(({ series }) => new Map(series.steps.map((step, at) => [step, series.values[at]])));
  const thinned = every > 1 || lines.some(({ series }) => series.thinned);
  const caption = `${title}, by update${thinned ? `; ${whole(shown.length)} points, evenly spread` : ''}`;
  return table(caption, ['update', ...lines.map(({ label }) => label)],
    shown.map((step) => [whole(step), ...columns.map((column) => short(column.has(step) ? column.get(step) : null, 6))]),
    { numbers: lines.map((line, index) => index + 1), kind: 'tall' });
}
