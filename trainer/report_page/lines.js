// What is drawn of a series: its smoothed values, the part inside a range, and the scales.

// An exponential average that starts at the first value, so that the beginning is not pulled to 0.
function smoothed(values, weight) {
  let sum = 0;
  let total = 0;
  return values.map((value) => {
    sum = sum * weight + value * (1 - weight);
    total = total * weight + (1 - weight);
    return sum / total;
  });
}

// The index of the step that is nearest.
function nearest(steps, step) {
  let low = 0;
  let high = steps.length - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low > 0 && step - steps[low - 1] <= steps[low] - step ? low - 1 : low;
}

// The indices of the steps inside a range, and one more on each side so that lines reach the edge.
function inside(steps, [first, last]) {
  let from = 0;
  let to = steps.length;
  while (from < to && steps[from] < first) from += 1;
  while (to > from && steps[to - 1] > last) to -= 1;
  return [Math.max(0, from - 1), Math.min(steps.length, to + 1)];
}

function extent(pairs) {
  let low = Infinity;
  let high = -Infinity;
  for (const [least, largest] of pairs) {
    if (least < low) low = least;
    if (largest > high) high = largest;
  }
  return low > high ? null : [low, high];
}

function stepExtent(lines) {
  const ends = lines.filter((line) => line.series.steps.length).map(({ series: { steps } }) => [steps[0], steps[steps.length - 1]]);
  const found = extent(ends) || [0, 1];
  return found[0] === found[1] ? [found[0], found[0] + 1] : found;
}

// The values of the lines inside a range of steps, a little wider than they are.
function valueExtent(lines, range, log) {
  const pairs = [];
  for (const { series } of lines) {
    const [from, to] = inside(series.steps, range);
    for (let at = from; at < to; at += 1) {
      const step = series.steps[at];
      if (step < range[0] || step > range[1]) continue;
      let low = series.lows ? series.lows[at] : series.values[at];
      const high = series.highs ? series.highs[at] : series.values[at];
      if (log && low <= 0) low = series.values[at] > 0 ? series.values[at] : high;
      if (!log || high > 0) pairs.push([low, high]);
    }
  }
  const found = extent(pairs);
  if (found === null) return log ? [0.1, 1] : [0, 1];
  const [low, high] = found;
  if (log) return low === high ? [low / 2, high * 2] : [low / (high / low) ** 0.04, high * (high / low) ** 0.04];
  const room = low === high ? Math.abs(low) * 0.1 || 1 : (high - low) * 0.06;
  return [low >= 0 && low - room < 0 ? 0 : low - room, high + room];
}

function scale([low, high], from, to, log) {
  const position = log ? Math.log10 : (value) => value;
  const start = position(low);
  const unit = (to - from) / (position(high) - start);
  const scaled = (value) => from + (position(value) - start) * unit;
  scaled.back = (place) => {
    const value = start + (place - from) / unit;
    return log ? 10 ** value : value;
  };
  return scaled;
}

function ticks([low, high], wanted) {
  const rough = (high - low) / wanted;
  const size = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * size).find((candidate) => candidate >= rough * 0.8);
  const found = [];
  for (let index = Math.ceil(low / step - 1e-9); index * step <= high + step * 1e-9 && found.length < 50; index += 1) {
    found.push(Number((index * step).toPrecision(12)));
  }
  return found;
}

function logTicks([low, high], wanted) {
  const decades = Math.log10(high / low);
  if (decades < 0.7) return ticks([low, high], wanted);
  const factors = decades < 2.5 ? [1, 2, 5] : [1];
  const every = Math.max(1, Math.ceil(decades / 8));
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    if (power % every === 0) found.push(...factors.map((factor) => Number(`${factor}e${power}`)));
  }
  return found.filter((tick) => tick >= low && tick <= high);
}

function path(points) {
  let text = '';
  let pen = 'M';
  for (const [x, y] of points) {
    if (Number.isFinite(y)) {
      text += `${pen}${x.toFixed(1)} ${y.toFixed(1)}`;
      pen = 'L';
    } else {
      pen = 'M';
    }
  }
  return text;
}
