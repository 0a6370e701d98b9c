// Small helpers: elements, scales, colours. Text only ever goes into text nodes.
function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  return filled(node, attributes, children);
}

function svg(name, attributes = {}, ...children) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', name);
  return filled(node, attributes, children);
}

function filled(node, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

function scale(low, high, from, to) {
  const factor = high > low ? (to - from) / (high - low) : 0;
  return (value) => from + (value - low) * factor;
}

// Round numbers inside a range, about as many as asked for.
function ticks(low, high, wanted) {
  const raw = (high - low) / wanted;
  if (!(raw > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step * 1e-9; tick += step) found.push(+tick.toPrecision(6));
  return found;
}

// Hues far from one another, however many clusters there are: turns by the golden angle.
const hue = (cluster) => (200 + cluster * 137.508) % 360;

// The colours of an element's surroundings: light, dark, or of paper.
function palette(node) {
  const style = getComputedStyle(node);
  const value = (name) => style.getPropertyValue(name).trim();
  const stops = ['--heat-0', '--heat-1', '--heat-2'].map((name) => {
    const hex = parseInt(value(name).slice(1), 16);
    return [hex >> 16, (hex >> 8) & 255, hex & 255];
  });
  const heat = (share) => {
    const place = Math.min(1, Math.max(0, share)) * 2;
    const [from, to] = place < 1 ? [stops[0], stops[1]] : [stops[1], stops[2]];
    return from.map((channel, at) => Math.round(channel + (to[at] - channel) * (place < 1 ? place : place - 1)));
  };
  const cluster = (number, alpha) =>
    `oklch(${value('--hue-l')} ${value('--hue-c')} ${hue(number)} / ${alpha})`;
  return { heat, cluster, ink: value('--ink'), kept: value('--kept'), dropped: value('--dropped') };
}
