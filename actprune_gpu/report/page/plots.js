// The plots of a layer. Each returns its node; those that show channels also have mark(channel).

// The mean simplified silhouette for every number of clusters, with the knee and what was chosen.
function curvePlot(group, width = 430, height = 250) {
  const left = 38, right = 12, top = 16, bottom = 30;
  const [first, last] = group.ks;
  const low = Math.min(...group.mss), high = Math.max(...group.mss);
  const end = Math.max(last, group.k);
  const x = scale(first, Math.max(end, first + 1), left, width - right);
  const y = scale(low, high > low ? high : low + 1, height - bottom, top);
  const plot = svg('svg', { viewBox: `0 0 ${width} ${height}`, class: 'curve-plot', role: 'img',
    'aria-label': `Mean simplified silhouette for ${first} to ${last} clusters; knee ${group.knee}, kept ${group.k}` });
  for (const tick of ticks(low, high, 4)) {
    plot.append(svg('line', { class: 'axis', x1: left, x2: width - right, y1: y(tick), y2: y(tick) }),
      svg('text', { x: left - 6, y: y(tick) + 4, 'text-anchor': 'end' }, String(+tick.toFixed(4))));
  }
  for (const tick of ticks(first, end, 6)) {
    if (Number.isInteger(tick)) plot.append(svg('text', { x: x(tick), y: height - bottom + 15, 'text-anchor': 'middle' }, String(tick)));
  }
  plot.append(svg('text', { x: width - right, y: height - 2, 'text-anchor': 'end' }, 'number of clusters'));
  const at = (k) => y(group.mss[Math.min(Math.max(k, first), last) - first]);
  const points = group.mss.map((value, place) => `${x(first + place).toFixed(1)},${y(value).toFixed(1)}`);
  const chosen = x(Math.max(group.k, first));
  plot.append(
    svg('line', { class: 'knee-line', x1: x(group.knee), x2: x(group.knee), y1: top, y2: height - bottom }),
    svg('line', { class: 'kept-line', x1: chosen, x2: chosen, y1: top, y2: height - bottom }),
    svg('polyline', { class: 'curve', points: points.join(' ') }),
    svg('circle', { class: 'fill-knee', cx: x(group.knee), cy: at(group.knee), r: 4 }),
    svg('circle', { class: 'fill-kept', cx: chosen, cy: at(group.k), r: 4 }));
  // The labels flee from each other, and from the edge.
  const kneeFirst = group.knee <= group.k;
  const label = (kind, place, text, before) => svg('text', { class: kind, x: place + (before ? -5 : 5), y: top - 5,
    'text-anchor': before ? 'end' : 'start' }, text);
  const near = Math.abs(x(group.knee) - chosen) < 70;
  const edge = (place) => place > width - 90;
  if (group.knee === group.k) plot.append(label('knee', x(group.knee), `knee, kept ${group.k}`, edge(x(group.knee))));
  else {
    plot.append(label('knee', x(group.knee), `knee ${group.knee}`, near ? kneeFirst && x(group.knee) > 80 : edge(x(group.knee))),
      label('kept', chosen, `kept ${group.k}`, near ? !kneeFirst && chosen > 80 : edge(chosen)));
  }
  const readout = svg('text', { x: left + 4, y: height - 2 });
  const dot = svg('circle', { r: 3, class: 'ring', visibility: 'hidden' });
  plot.append(dot, readout);
  plot.addEventListener('pointermove', (event) => {
    const box = plot.getBoundingClientRect();
    const k = Math.round(scale(x(first), x(last), first, last)(((event.clientX - box.left) / box.width) * width));
    const near = Math.min(Math.max(k, first), last);
    filled(dot, { cx: x(near), cy: at(near), visibility: 'visible' }, []);
    readout.textContent = `${near} clusters: ${group.mss[near - first].toFixed(3)}`;
  });
  plot.addEventListener('pointerleave', () => { dot.setAttribute('visibility', 'hidden'); readout.textContent = ''; });
  return plot;
}

// The channels in the plane. Each is tied to the one that is kept of its cluster.
function mapPlot(group, point) {
  const margin = 34;
  const plot = svg('svg', { viewBox: `${-margin} ${-margin} ${1000 + 2 * margin} ${600 + 2 * margin}`, class: 'map', role: 'img',
    'aria-label': `Map of ${group.n} channels, ${group.keptCount} of them kept` });
  // The axes of an embedding mean nothing, so it lies down where it would stand.
  const standing = spread(group.xy, 0) < spread(group.xy, 1);
  const fit = fitted(standing ? group.xy.map(([a, b]) => [b, a]) : group.xy);
  const radius = Math.max(4.5, Math.min(11, 90 / Math.sqrt(group.n)));
  const ties = [], dots = [];
  fit.forEach(([cx, cy], channel) => {
    const colour = `--hue:${hue(group.cluster[channel])}`;
    const keeper = group.keeper[channel];
    if (keeper !== channel) {
      const [x2, y2] = fit[keeper];
      ties.push(svg('line', { class: 'tie', x1: cx, y1: cy, x2, y2, 'stroke-width': radius / 4, style: colour, 'data-keeper': keeper }));
    }
    const kept = group.isKept(channel);
    dots.push(svg('circle', { class: `channel ${kept ? 'kept' : 'dropped'}`, cx, cy, r: kept ? radius * 1.25 : radius * 0.8,
      style: colour, 'data-channel': channel, 'data-keeper': keeper }));
  });
  const ring = svg('circle', { class: 'ring', r: radius * 1.9, visibility: 'hidden' });
  const order = dots.map((dot, channel) => [group.isKept(channel), dot]).sort((a, b) => a[0] - b[0]).map(([, dot]) => dot);
  plot.append(...ties, ...order, ring);
  if (point) follow(plot, point, (event) => {
    const box = plot.getBoundingClientRect(), view = plot.viewBox.baseVal;
    const ratio = Math.max(view.width / box.width, view.height / box.height);
    const px = (event.clientX - box.left - box.width / 2) * ratio + view.x + view.width / 2;
    const py = (event.clientY - box.top - box.height / 2) * ratio + view.y + view.height / 2;
    return nearest(fit, px, py);
  });
  plot.mark = (channel) => {
    plot.classList.toggle('pointed', channel !== null);
    ring.setAttribute('visibility', channel === null ? 'hidden' : 'visible');
    const cluster = channel === null ? null : String(group.keeper[channel]);
    for (const node of [...ties, ...dots]) node.classList.toggle('near', node.dataset.keeper === cluster);
    if (channel !== null) filled(ring, { cx: fit[channel][0], cy: fit[channel][1] }, []);
  };
  return plot;
}

const spread = (points, axis) => Math.max(...points.map((p) => p[axis])) - Math.min(...points.map((p) => p[axis]));

// Points inside 1000 by 600, both axes with one scale, in the middle.
function fitted(points) {
  const low = [0, 1].map((axis) => Math.min(...points.map((p) => p[axis])));
  const size = [0, 1].map((axis) => Math.max(spread(points, axis), 1));
  const factor = Math.min(1000 / size[0], 600 / size[1]);
  return points.map((p) => [0, 1].map((axis) => (p[axis] - low[axis]) * factor + ((axis ? 600 : 1000) - size[axis] * factor) / 2));
}

function nearest(points, x, y) {
  let best = 0, least = Infinity;
  points.forEach(([px, py], channel) => {
    const distance = (px - x) ** 2 + (py - y) ** 2;
    if (distance < least) [best, least] = [channel, distance];
  });
  return best;
}

// Without clusters: the weights from the largest down, and where the list was cut.
function rankPlot(group, point, width = 880, height = 190) {
  const left = 8, bottom = 22, top = 8;
  const values = group.order.map((channel) => Math.max(0, Number(group.weights[channel])));
  const most = Math.max(...values) || 1;
  const step = (width - 2 * left) / group.n;
  const plot = svg('svg', { viewBox: `0 0 ${width} ${height}`, class: 'ranks', role: 'img',
    'aria-label': `Weights of ${group.n} channels in order, the first ${group.keptCount} are kept` });
  group.order.forEach((channel, place) => {
    const size = Math.max(1, (values[place] / most) * (height - bottom - top));
    plot.append(svg('rect', { class: group.isKept(channel) ? 'fill-kept' : 'fill-dropped', 'data-channel': channel,
      x: left + place * step, y: height - bottom - size, width: Math.max(0.6, step * 0.86), height: size }));
  });
  const ring = svg('rect', { class: 'ring', y: top - 4, height: height - bottom - top + 8, width: step, visibility: 'hidden' });
  plot.append(ring, svg('text', { x: left, y: height - 4 }, `largest ${data.kind}`),
    svg('text', { x: width - left, y: height - 4, 'text-anchor': 'end' }, 'smallest'));
  if (point) follow(plot, point, (event) => {
    const box = plot.getBoundingClientRect();
    const place = Math.floor((((event.clientX - box.left) / box.width) * width - left) / step);
    return group.order[Math.min(group.n - 1, Math.max(0, place))];
  });
  plot.mark = (channel) => {
    ring.setAttribute('visibility', channel === null ? 'hidden' : 'visible');
    if (channel !== null) ring.setAttribute('x', left + (group.rank[channel] - 1) * step);
  };
  return plot;
}

// How well every channel (rows) tells pairs of classes (columns) apart.
function heatPlot(group, point, say, most = 330) {
  const columns = group.heat.pairs.length;
  const node = element('div', { class: 'heat' });
  const gutter = element('canvas', { width: 2, height: group.n, 'aria-hidden': 'true' });
  const canvas = element('canvas', { width: columns, height: group.n, role: 'img',
    'aria-label': `Separability of ${group.heat.all} class pairs by ${group.n} channels` });
  const height = Math.max(point ? group.n : 0, Math.min(Math.max(group.n * 7, 120), most));
  for (const part of [gutter, canvas]) part.style.height = `${height}px`;
  const cross = element('div', { class: 'cross', hidden: '' });
  node.append(gutter, canvas, cross);
  const rowOf = new Map(group.order.map((channel, row) => [channel, row]));
  node.paint = () => {
    const colours = palette(node);
    const context = canvas.getContext('2d');
    const pixels = context.createImageData(columns, group.n);
    for (let row = 0; row < group.n; row++) {
      for (let column = 0; column < columns; column++) {
        pixels.data.set([...colours.heat(separability(group, row, column) / 2), 255], 4 * (row * columns + column));
      }
    }
    context.putImageData(pixels, 0, 0);
    const side = gutter.getContext('2d');
    side.clearRect(0, 0, 2, group.n);
    group.order.forEach((channel, row) => {
      const kept = group.isKept(channel);
      side.fillStyle = group.cluster ? colours.cluster(group.cluster[channel], 1) : colours.dropped;
      side.fillRect(0, row, 1, 1);
      side.fillStyle = kept ? colours.ink : colours.dropped;
      if (kept) side.fillRect(1, row, 1, 1);
    });
  };
  const outline = (row, column) => {
    const size = [canvas.offsetWidth / columns, height / group.n];
    cross.hidden = row === null;
    if (row === null) return;
    cross.style.top = `${row * size[1] - 1}px`;
    cross.style.height = `${Math.max(size[1], 2) + 2}px`;
    cross.style.left = `${canvas.offsetLeft + (column === null ? 0 : column * size[0]) - 1}px`;
    cross.style.width = `${(column === null ? canvas.offsetWidth : size[0]) + 2}px`;
  };
  let column = null;
  if (point) follow(canvas, (channel, hold) => { point(channel, hold); }, (event) => {
    const box = canvas.getBoundingClientRect();
    const inside = (value, size) => Math.min(size - 1, Math.max(0, Math.floor(value * size)));
    column = inside((event.clientX - box.left) / box.width, columns);
    const row = inside((event.clientY - box.top) / box.height, group.n);
    const [first, second] = group.heat.pairs[column];
    say(`channel ${group.numbers[group.order[row]]}, ${pairName(group, first, second)}: ${separability(group, row, column).toFixed(2)}`);
    return group.order[row];
  });
  canvas.addEventListener('pointerleave', () => { column = null; if (say) say(''); });
  node.mark = (channel) => (channel === null ? outline(null) : outline(rowOf.get(channel), column));
  return node;
}

// All channels in the order of their numbers: what the arrow keys move along.
function stripPlot(group, point) {
  const step = 1000 / group.n;
  const plot = svg('svg', { viewBox: '0 0 1000 26', preserveAspectRatio: 'none', class: 'strip', tabindex: 0, role: 'slider',
    'aria-label': 'Channel', 'aria-valuemin': group.numbers[0], 'aria-valuemax': group.numbers[group.n - 1], 'aria-valuenow': group.numbers[0] });
  group.numbers.forEach((_, channel) => {
    const kept = group.isKept(channel);
    plot.append(svg('rect', { class: kept ? 'fill-kept' : 'fill-dropped', x: channel * step, y: kept ? 2 : 9, height: kept ? 22 : 15, width: step * 0.82 }));
  });
  const ring = svg('rect', { class: 'fill-knee', y: 0, height: 26, width: Math.max(step, 3), visibility: 'hidden' });
  plot.append(ring);
  follow(plot, point, (event) => {
    const box = plot.getBoundingClientRect();
    return Math.min(group.n - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * group.n)));
  });
  plot.mark = (channel) => {
    ring.setAttribute('visibility', channel === null ? 'hidden' : 'visible');
    if (channel !== null) ring.setAttribute('x', channel * step);
  };
  return plot;
}

// Jaccard indices of repeats from 0 to 1, with their mean and what chance gives.
function repeatsPlot(repeats, chance, width = 300) {
  const x = scale(0, 1, 8, width - 8);
  const plot = svg('svg', { viewBox: `0 0 ${width} 40`, class: 'repeats', role: 'img',
    'aria-label': `Mean Jaccard index ${repeats.mean.toFixed(2)}, by chance ${chance.toFixed(2)}` });
  plot.append(svg('line', { class: 'axis', x1: x(0), x2: x(1), y1: 14, y2: 14 }),
    svg('line', { class: 'knee-line', x1: x(chance), x2: x(chance), y1: 4, y2: 24 }));
  repeats.jaccard.forEach((value) => plot.append(svg('circle', { class: 'fill-kept', 'fill-opacity': 0.55, cx: x(value), cy: 14, r: 4.5 })));
  for (const [place, anchor] of [[0, 'start'], [1, 'end']]) plot.append(svg('text', { x: x(place), y: 36, 'text-anchor': anchor }, String(place)));
  plot.append(svg('text', { class: 'knee', x: x(chance), y: 36, 'text-anchor': 'middle' }, `chance ${chance.toFixed(2)}`));
  return plot;
}

// Call point(channel, hold) for the channel under the pointer: hold on a click, null on leaving.
function follow(node, point, channelAt) {
  node.addEventListener('pointermove', (event) => point(channelAt(event), false));
  node.addEventListener('pointerleave', () => point(null, false));
  node.addEventListener('click', (event) => point(channelAt(event), true));
}
