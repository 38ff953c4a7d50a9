// Elements of text, never of markup: whatever a run is called stays a text.
const SVG = 'http://www.w3.org/2000/svg';

function fill(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === true) made.setAttribute(name, '');
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== ''));
  return made;
}

const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

function on(element, events) {
  for (const [name, handler] of Object.entries(events)) element.addEventListener(name, handler);
  return element;
}

// Numbers

const whole = (number) => Number(number).toLocaleString('en');

function short(number, digits = 4) {
  if (number === null || number === undefined) return '—';
  if (number === 0) return '0';
  if (Number.isInteger(number) && Math.abs(number) < 1e6) return whole(number);
  const size = Math.abs(number);
  if (size >= 1e6 || size < 1e-4) return number.toExponential(Math.max(0, digits - 2)).replace(/\.?0+e/, 'e').replace('e+', 'e');
  return String(Number(number.toPrecision(digits)));
}

function duration(seconds) {
  if (seconds < 10) return `${seconds.toFixed(seconds < 1 ? 2 : 1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

function bytes(number) {
  for (const [unit, size] of [['GB', 1e9], ['MB', 1e6], ['kB', 1e3]]) {
    if (number >= size) return `${(number / size).toFixed(1)} ${unit}`;
  }
  return `${number} B`;
}

const counted = (number, noun) => `${whole(number)} ${noun}${number === 1 ? '' : 's'}`;

function moment(text) {
  const time = new Date(text);
  return Number.isNaN(time.getTime()) ? String(text) : time.toISOString().slice(0, 16).replace('T', ' ') + ' UTC';
}

// Tables. numbers: the columns that are aligned to the right. A wide table scrolls in its frame, also by keyboard.

function table(caption, header, rows, { numbers = [], kind = '' } = {}) {
  const cell = (tag, value, column, attributes) =>
    el(tag, { class: numbers.includes(column) ? 'number' : null, ...attributes }, value);
  return el('div', { class: `scroll ${kind}`, tabindex: '0', role: 'region', 'aria-label': caption },
    el('table', null,
      el('caption', null, caption),
      el('thead', null, el('tr', null, header.map((name, column) => cell('th', name, column, { scope: 'col' })))),
      el('tbody', null, rows.map((row) => el('tr', null, row.map((value, column) =>
        column === 0 ? cell('th', value, 0, { scope: 'row' }) : cell('td', value, column)))))));
}

function section(id, title, ...children) {
  return el('section', { id, 'aria-labelledby': `${id}-title` }, el('h2', { id: `${id}-title` }, title), children);
}

// A section that shares a row with another one, where there is room.
function half(made) {
  if (made) made.classList.add('half');
  return made;
}

// A dotted path, which a narrow table may break after a dot.
const dotted = (name) => el('span', null, name.split('.').flatMap((part, index) => (index ? ['.', el('wbr'), part] : [part])));
const badge = (text) => [' ', el('span', { class: 'badge' }, text)];

// The stroke of a line: eight colours, and a dash for each further eight.
const DASHES = [null, '7 3', '2 3'];
const look = (index) => ({ colour: index % 8, dash: DASHES[Math.floor(index / 8) % 3] });

function sample({ colour, dash, dots }) {
  return svg('svg', { width: 22, height: 10, viewBox: '0 0 22 10', 'aria-hidden': 'true' },
    svg('line', { x1: 1, x2: 21, y1: 5, y2: 5, class: `k${colour}`, 'stroke-width': 2.4, 'stroke-dasharray': dash }),
    dots ? svg('circle', { cx: 11, cy: 5, r: 3.2, class: `f${colour}` }) : null);
}
