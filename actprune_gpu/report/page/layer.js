// The chosen layer: its plots, and the channel that is pointed at.
function showLayer(group) {
  const said = element('span');
  const words = element('p'), more = element('p', { class: 'quiet' });
  const box = element('div', { class: 'sentence', 'aria-live': 'polite' }, words, more);
  let parts = [];
  const show = (channel) => {
    const shown = channel ?? state.held;
    parts.forEach((part) => part.mark(shown));
    box.classList.toggle('dropped', shown !== null && !group.isKept(shown));
    words.textContent = shown === null ? 'Point at a channel, or move along the strip with the arrow keys, to see why it was kept or dropped.' : sentence(group, shown);
    more.textContent = shown === null ? '' : figures(group, shown);
    strip.setAttribute('aria-valuenow', group.numbers[shown ?? 0]);
    strip.setAttribute('aria-valuetext', words.textContent);
  };
  const point = (channel, hold) => {
    if (hold) state.held = state.held === channel ? null : channel;
    show(channel);
  };
  const strip = stripPlot(group, point);
  strip.addEventListener('keydown', (event) => {
    const steps = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
    if (event.key in steps) {
      event.preventDefault();
      const from = state.held ?? (steps[event.key] > 0 ? -1 : group.n);
      state.held = Math.min(group.n - 1, Math.max(0, from + steps[event.key]));
      show(null);
    } else if (event.key === 'Escape') { state.held = null; show(null); }
  });
  const plots = element('div', { class: 'plots' });
  parts = [strip, ...addPlots(group, plots, point, (words) => { said.textContent = words; }, said)];
  addPairs(group, plots);
  addStability(group, plots);
  byId('layer').replaceChildren(
    element('h2', {}, group.name),
    element('p', { class: 'quiet' }, about(group)),
    element('p', { class: 'quiet' }, together(group)),
    strip, box, plots);
  paint(parts);
  show(null);
}

// Add the plots of a group to a node, and return those that mark channels.
function addPlots(group, plots, point, say, said) {
  const parts = [];
  const plot = (title, note, node, wide) => {
    plots.append(element('div', wide ? { class: 'wide' } : {}, element('h3', {}, title, note), node));
    if (node.mark) parts.push(node);
    return node;
  };
  if (group.mss) plot('Silhouette by number of clusters', element('span'), curvePlot(group));
  if (group.xy) plot('Map of the channels', element('span', {}, 'large ones speak for the tied'), mapPlot(group, point));
  if (!group.xy) plot(`Channels by ${data.kind}`, element('span', {}, 'the criterion ranks, it knows no clusters'), rankPlot(group, point), true);
  if (group.heat) {
    const drawn = group.heat.pairs.length < group.heat.all ? `${group.heat.pairs.length} of ${group.heat.all} class pairs` : `${group.heat.all} class pairs`;
    const rows = group.keeper ? 'channels by cluster' : 'channels by weight';
    const heat = plot(`Separability: ${rows}, ${drawn}`, said || element('span'), heatPlot(group, point, say, point ? 330 : 110), true);
    heat.after(element('div', { class: 'ends quiet' }, element('span', {}, '← most separable pairs'),
      element('span', {}, '0', element('i', { class: 'scale' }), '2'), element('span', {}, 'least →')));
  }
  return parts;
}

function addPairs(group, plots) {
  if (!group.heat) return;
  const table = (title, pairs) => element('div', {}, element('h3', {}, title), element('table', { class: 'pairs' },
    element('tbody', {}, ...pairs.map(([first, second, mean]) => element('tr', {}, element('td', {}, pairName(group, first, second)), element('td', {}, mean.toFixed(2)))))));
  plots.append(table('Told apart best (mean of all channels)', group.heat.most), table('Told apart worst', group.heat.least));
}

function addStability(group, plots) {
  const own = group.stability;
  if (!own) return;
  const drawn = (title, repeats) => element('div', {}, element('h3', {}, title, element('span', {}, `Jaccard ${repeats.mean.toFixed(2)}, knee ${repeats.knees[0]}–${repeats.knees[1]}`)), repeatsPlot(repeats, own.chance));
  if (own.starts) plots.append(drawn(`${own.starts.jaccard.length} other starts of t-SNE`, own.starts));
  if (own.images) plots.append(drawn(`${own.images.jaccard.length} draws of the images`, own.images));
  else plots.append(element('p', { class: 'quiet' }, 'The moments were not kept by parts of the images: only starts were varied.'));
}

function paint(parts) {
  state.painted = parts.filter((part) => part.paint);
  state.painted.forEach((part) => part.paint());
}

// On paper every layer has its plots.
function showPrinted() {
  if (byId('printed').childElementCount) return;
  for (const group of data.groups) {
    const plots = element('div', { class: 'plots' });
    const node = element('section', { class: 'print-layer' }, element('h2', {}, group.name),
      element('p', { class: 'quiet' }, about(group)), plots);
    byId('printed').append(node);
    addPlots(group, plots, null, null, null).filter((part) => part.paint).forEach((part) => part.paint());
  }
}

addEventListener('beforeprint', showPrinted);
matchMedia('print').addEventListener('change', (query) => { if (query.matches) showPrinted(); });
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => state.painted.forEach((part) => part.paint()));
addEventListener('resize', () => { showSkyline(); mark(); });

function mark() {
  document.querySelectorAll('.column').forEach((node) => node.classList.toggle('chosen', Number(node.dataset.group) === state.group));
}

// The layer in the address, or the one that has lost most channels.
function initial() {
  const wanted = location.hash.slice(1);
  const names = (group) => [group.name, encodeURIComponent(group.name), group.layer];
  const named = data.groups.findIndex((group) => names(group).includes(wanted));
  if (named >= 0) return named;
  const lost = data.groups.map((group) => group.channels - group.keptCount);
  return lost.indexOf(Math.max(...lost));
}

addEventListener('hashchange', () => choose(initial()));
showTop();
showSkyline();
showTable();
choose(initial());
