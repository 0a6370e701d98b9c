// The page itself: what is on top, the table of layers, the chosen layer, and the keys.
const byId = (id) => document.getElementById(id);
const state = { group: null, rows: [], sort: 'index', down: false, held: null, painted: [] };

function showTop() {
  byId('title').textContent = `${data.model}, pruned`;
  const channels = sum(data.groups, (group) => group.channels), kept = sum(data.groups, (group) => group.keptCount);
  const whole = data.groups.filter((group) => group.whole).length;
  const reasons = {};
  for (const group of data.groups) for (const letter of group.cases) reasons[letter] = (reasons[letter] || 0) + 1;
  const gone = channels - kept;
  const story = byId('story');
  story.append(element('b', {}, `${number(gone)} of ${number(channels)} channels went`), `, from ${data.groups.length - whole} of ${data.groups.length} groups of layers. `);
  if (data.criterion === 'separability') {
    const alike = (reasons.a || 0) + (reasons.m || 0), unlike = reasons.u || 0;
    story.append('Channels were grouped by which classes they tell apart; of each cluster the one with the largest weight stays and speaks for the rest. ');
    if (reasons.h) story.append('Where there was room for more than the knee says, the heaviest others stay as well. ');
    if (alike + unlike) story.append(`Of those dropped${data.steps > 1 ? ' in the last step' : ''}, ${number(reasons.a || 0)} separate the same class pairs as theirs (r ≥ 0.9), ${number(reasons.m || 0)} much the same (r ≥ 0.5), and ${number(unlike)} had to go although they differ.`);
  } else if (data.criterion === 'random') story.append('Channels were drawn by lot: there are no clusters and no knees.');
  else if (data.criterion === 'reconstruct') story.append('Channels were taken in the order in which they best reconstruct what is read of the layer: there are no clusters and no knees.');
  else story.append(`Channels were ranked by ${data.kind}, each by itself: there are no clusters and no knees.`);
  if (data.stability) {
    const { starts, images, chance } = data.stability;
    const parts = [starts !== null && `${starts.toFixed(2)} from other starts of t-SNE`, images !== null && `${images.toFixed(2)} with other draws of the images`].filter(Boolean);
    if (parts.length) story.append(` Selected again, the lists agree by ${parts.join(' and ')} (mean Jaccard index; by chance ${chance.toFixed(2)}).`);
  }
  for (const figure of data.figures) {
    const share = figure.ratio === null ? null : Math.min(1, figure.ratio);
    byId('figures').append(element('div', { class: 'figure' },
      element('dt', {}, figure.name, element('span', {}, figure.ratio === null ? '' : `× ${figure.ratio.toFixed(figure.ratio < 0.1 ? 3 : 2)}`)),
      element('dd', {}, element('span', { class: 'before' }, `${number(figure.before)} → `), element('span', { class: 'after' }, number(figure.after)),
        element('div', { class: 'quiet' }, figure.unit),
        element('div', { class: 'bar' }, element('i', { style: `width:${100 * (share ?? 0)}%` })))));
  }
  for (const [name, value] of [...data.facts, ['Measured', data.measured]]) byId('facts').append(element('dt', {}, name), element('dd', {}, value));
  byId('notes').textContent = data.notes.map((note) => `Note: ${note}.`).join(' ');
  if (data.criterion !== 'separability') document.querySelectorAll('.clusters').forEach((node) => node.remove());
}

const sum = (list, value) => list.reduce((total, item) => total + value(item), 0);

// One column for every group, as high as it has channels.
function showSkyline() {
  const width = Math.max(280, byId('skyline').clientWidth), height = 150, foot = 20;
  const most = Math.max(...data.groups.map((group) => group.channels));
  const step = width / data.groups.length;
  const y = scale(0, most, 0, height - 6);
  const plot = svg('svg', { viewBox: `0 0 ${width} ${height + foot}`, width: '100%', role: 'img', 'aria-label': 'Channels of every layer, kept and dropped' });
  let block = null, free = 0;
  data.groups.forEach((group, place) => {
    const left = place * step, bar = Math.max(1, step - Math.min(5, step * 0.24)), base = height;
    const column = svg('g', { class: 'column', 'data-group': group.index },
      svg('title', {}, `${group.name}: ${group.keptCount} of ${group.channels}`),
      svg('rect', { class: 'hit', x: left, y: 0, width: step, height: height + foot }),
      svg('rect', { class: 'fill-dropped', x: left, width: bar, y: base - y(group.channels), height: y(group.channels - group.keptCount), rx: 1.5 }),
      svg('rect', { class: 'fill-kept', x: left, width: bar, y: base - y(group.keptCount), height: y(group.keptCount), rx: 1.5 }));
    if (group.knee !== null) column.append(svg('rect', { class: 'fill-knee', x: left, width: bar, y: base - y(group.knee) - 1, height: 2 }));
    const own = (/^[^\d]*\d+/.exec(group.name) || [group.name])[0];
    if (own !== block && left >= free) {
      column.append(svg('text', { x: left, y: height + 14 }, own.replace(/^\D*/, '')));
      free = left + 18;
    }
    block = own;
    column.addEventListener('click', () => choose(group.index));
    plot.append(column);
  });
  byId('skyline').replaceChildren(plot);
}

const columns = [
  { key: 'index', name: 'Layer', value: (group) => group.index },
  { key: 'bar', name: 'Channels', title: 'Kept and dropped channels, and the knee', value: (group) => group.channels },
  { key: 'share', name: 'Kept', value: (group) => group.keptCount / group.channels, number: true },
  { key: 'knee', name: 'Knee', title: 'Number of clusters at which more of them stop to pay', value: (group) => group.knee ?? Infinity, number: true },
  { key: 'curve', name: 'Silhouette', title: 'Mean simplified silhouette for every number of clusters, with knee and choice', value: (group) => (group.mss ? Math.max(...group.mss) : -1), optional: true },
  { key: 'stable', name: 'Stable', title: 'Mean Jaccard index of selections on other draws of the images (or from other starts) with this one', value: (group) => stable(group) ?? Infinity, number: true, optional: true },
  { key: 'why', name: 'Why', title: 'What set the number of channels kept', value: (group) => group.reason, optional: true },
].filter(({ key }) => {
  if (key === 'knee' || key === 'curve') return data.criterion === 'separability';
  return key !== 'stable' || data.stability;
});

const stable = (group) => (group.stability ? (group.stability.images ?? group.stability.starts)?.mean ?? null : null);

function showTable() {
  const head = element('tr');
  for (const { key, name, title, number: isNumber, optional } of columns) {
    const button = element('button', { type: 'button', title }, name);
    button.addEventListener('click', () => {
      state.down = state.sort === key ? !state.down : false;
      state.sort = key;
      arrange();
    });
    head.append(element('th', { scope: 'col', class: [isNumber && 'number', optional && 'optional'].filter(Boolean).join(' '), 'data-key': key }, button));
  }
  const body = element('tbody');
  state.rows = data.groups.map((group) => row(group));
  byId('table').append(element('table', { role: 'grid', 'aria-labelledby': 'layers-title' }, element('thead', {}, head), body));
  byId('filter').addEventListener('input', arrange);
  byId('show').addEventListener('change', arrange);
  byId('filters').addEventListener('submit', (event) => event.preventDefault());
  if (data.criterion !== 'separability') byId('show').querySelector('[value=moved]').remove();
  arrange();
}

function row(group) {
  const most = Math.max(...data.groups.map((other) => other.channels));
  const x = scale(0, most, 0, 118);
  const bar = svg('svg', { class: 'bar-plot', viewBox: '0 0 120 14', height: 14, preserveAspectRatio: 'none', role: 'img', 'aria-label': `${group.keptCount} of ${group.channels} kept` },
    svg('rect', { class: 'fill-dropped', y: 2, width: x(group.channels), height: 10, rx: 2 }),
    svg('rect', { class: 'fill-kept', y: 2, width: x(group.keptCount), height: 10, rx: 2 }));
  if (group.knee !== null) bar.append(svg('rect', { class: 'fill-knee', x: x(group.knee) - 1, width: 2, height: 14 }));
  const cells = {
    index: element('td', {}, group.name), bar: element('td', {}, bar),
    share: element('td', { class: 'number' }, `${group.keptCount} / ${group.channels}`),
    knee: element('td', { class: 'number' }, group.knee === null ? '' : String(group.knee)),
    curve: element('td', { class: 'optional' }, group.mss ? spark(group) : ''),
    stable: element('td', { class: 'number optional' }, stable(group) === null ? '' : stable(group).toFixed(2)),
    why: element('td', { class: 'why optional', title: group.reason }, group.reason),
  };
  const node = element('tr', { tabindex: -1, 'data-group': group.index, 'aria-selected': 'false' }, ...columns.map(({ key }) => cells[key]));
  node.addEventListener('click', () => choose(group.index));
  return node;
}

function spark(group, width = 62, height = 18) {
  const x = scale(0, group.mss.length - 1, 1, width - 1), y = scale(Math.min(...group.mss), Math.max(...group.mss), height - 3, 3);
  const [first, last] = group.ks;
  const dot = (k, kind) => svg('circle', { class: kind, r: 2.2, cx: x(Math.min(Math.max(k, first), last) - first), cy: y(group.mss[Math.min(Math.max(k, first), last) - first]) });
  return svg('svg', { width, height, class: 'spark', 'aria-hidden': 'true' },
    svg('polyline', { points: group.mss.map((value, place) => `${x(place).toFixed(1)},${y(value).toFixed(1)}`).join(' ') }),
    dot(group.knee, 'fill-knee'), dot(group.k, 'fill-kept'));
}

// Sort and filter the rows.
function arrange() {
  const words = byId('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  const kind = { all: () => true, less: (g) => !g.whole, whole: (g) => g.whole, moved: (g) => g.knee !== g.k }[byId('show').value];
  const { value } = columns.find(({ key }) => key === state.sort);
  const sign = state.down ? -1 : 1;
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  const groups = data.groups
    .filter((group) => kind(group) && words.every((word) => text(group).includes(word)))
    .sort((a, b) => sign * compare(value(a), value(b)) || a.index - b.index);
  document.querySelector('#table tbody').replaceChildren(...groups.map((group) => state.rows[group.index]));
  for (const head of document.querySelectorAll('#table th')) {
    if (head.dataset.key === state.sort) head.setAttribute('aria-sort', state.down ? 'descending' : 'ascending');
    else head.removeAttribute('aria-sort');
  }
  byId('count').textContent = groups.length === data.groups.length ? '' : `${groups.length} of ${data.groups.length} shown`;
  rove();
}

const text = (group) => [group.name, ...group.members.map(([layer]) => layer), group.reason].join(' ').toLowerCase();

// One row is in the order of the Tab key: the chosen one, or else the first.
function rove() {
  const shown = [...document.querySelectorAll('#table tbody tr')];
  state.rows.forEach((node) => node.setAttribute('tabindex', -1));
  const chosen = shown.find((node) => Number(node.dataset.group) === state.group) || shown[0];
  if (chosen) chosen.setAttribute('tabindex', 0);
}

function choose(index, focus = false) {
  state.group = index;
  state.held = null;
  state.rows.forEach((node, place) => node.setAttribute('aria-selected', String(place === index)));
  document.querySelectorAll('.column').forEach((node) => node.classList.toggle('chosen', Number(node.dataset.group) === index));
  rove();
  if (focus) state.rows[index].focus();
  const group = data.groups[index];
  showLayer(group);
  try {
    history.replaceState(null, '', `#${encodeURIComponent(group.name)}`);
  } catch { /* some browsers allow only so many a minute; the address is a convenience */ }
}

function move(step) {
  const shown = [...document.querySelectorAll('#table tbody tr')];
  const at = shown.findIndex((node) => Number(node.dataset.group) === state.group);
  const next = shown[Math.min(shown.length - 1, Math.max(0, at + step))];
  if (next) choose(Number(next.dataset.group), true);
}

document.addEventListener('keydown', (event) => {
  const inField = /INPUT|SELECT/.test(event.target.tagName);
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === '/' && !inField) { event.preventDefault(); byId('filter').focus(); return; }
  if (inField) {
    if (event.key === 'Escape' && event.target.id === 'filter') { event.target.value = ''; arrange(); }
    if (event.key === 'ArrowDown' && event.target.id === 'filter') { event.preventDefault(); move(0); }
    return;
  }
  const inTable = event.target.closest('#table tbody');
  const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
  if (inTable && event.key in steps) { event.preventDefault(); move(steps[event.key]); }
  else if (inTable && (event.key === 'ArrowRight' || event.key === 'Enter')) { event.preventDefault(); document.querySelector('.strip').focus(); }
});
