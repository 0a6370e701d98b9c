// The data, and what is said about it. Sentences are made as report/sentences.py makes them.
const data = JSON.parse(document.getElementById('data').textContent);
const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';

data.groups.forEach((group, number) => {
  group.index = number;
  group.n = group.numbers.length;
  group.isKept = (channel) => group.kept[channel] === '1';
  group.keptCount = [...group.kept].filter((flag) => flag === '1').length;
  group.whole = group.keptCount === group.channels;
  group.ties = new Set(group.tie || []);
  // The place of a channel among the clusters that are drawn in colours of their own.
  const keepers = group.keeper && [...new Set(group.order.map((channel) => group.keeper[channel]))];
  group.cluster = keepers && group.keeper.map((keeper) => keepers.indexOf(keeper));
  group.spokenFor = (channel) =>
    group.keeper
      ? group.keeper.flatMap((keeper, other) => (keeper === channel && other !== channel ? [other] : []))
      : [];
});

function fill(template, values) {
  return template.replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

function listed(numbers) {
  const more = numbers.length - 8;
  const named = numbers.slice(0, 8).join(', ');
  return (numbers.length === 1 ? 'channel ' : 'channels ') + named + (more > 0 ? ` and ${more} more` : '');
}

function sentence(group, channel) {
  const values = {
    channel: group.numbers[channel], layer: group.layer, kind: data.kind, own: group.weights[channel],
    rank: group.rank[channel], n: group.n, k: group.keptCount,
  };
  if (group.keeper) {
    const keeper = group.keeper[channel];
    const others = group.spokenFor(channel);
    const compared = { kind: data.kind, own: values.own, other: group.weights[keeper] };
    values.keeper = group.numbers[keeper];
    values.compared = fill(group.ties.has(channel) ? data.equal : data.larger, compared);
    values.size = others.length + 1;
    values.others = listed(others.map((other) => group.numbers[other]));
    if (group.r) values.r = group.r[channel] === null ? 'unknown' : (group.r[channel] / 100).toFixed(2);
  }
  return fill(data.templates[group.cases[channel]], values);
}

// What is known of a channel besides.
function figures(group, channel) {
  const found = [];
  if (data.criterion !== 'random') found.push(`weight ${group.weights[channel]} (${data.kind}), number ${group.rank[channel]} of ${group.n}`);
  if (group.heat) {
    const [first, second, value] = group.heat.best[channel];
    found.push(`mean separability ${group.heat.mean[channel].toFixed(2)}`);
    found.push(`tells ${pairName(group, first, second)} apart best (${value.toFixed(2)})`);
  }
  const own = group.stability;
  if (own && own.starts) found.push(`kept from ${own.starts.kept[channel]} of ${own.starts.jaccard.length} other starts`);
  if (own && own.images) found.push(`kept with ${own.images.kept[channel]} of ${own.images.jaccard.length} draws of images`);
  return found.join(' · ');
}

function pairName(group, first, second) {
  return `${data.classes[group.heat.classes[first]]} | ${data.classes[group.heat.classes[second]]}`;
}

// In 0..2, for the channel in a row and the class pair in a column of the heat map.
function separability(group, row, column) {
  return (ALPHABET.indexOf(group.heat.cells[row * group.heat.pairs.length + column]) / 63) * 2;
}

function number(value) {
  if (value >= 1000) return Math.round(value).toLocaleString('en');
  return Number.isInteger(value) ? String(value) : value.toPrecision(3);
}

function percent(share) {
  return `${(100 * share).toFixed(share > 0.1 || share === 0 ? 0 : 1)} %`;
}

function about(group) {
  const parts = [`${group.keptCount} of ${group.channels} channels kept (${percent(group.keptCount / group.channels)})`];
  if (group.knee !== null) parts.push(`knee at ${group.knee}, ${group.kneeReason}`);
  parts.push(group.knee === group.k ? 'nothing moved it' : `number set by ${group.reason}`);
  if (group.gone) parts.push(`${group.gone.length} dropped in earlier steps`);
  return parts.join(' · ');
}

function together(group) {
  const others = group.members.filter(([layer]) => layer !== group.layer);
  const [, own] = group.members[0];
  const from = group.name === group.layer ? '' : `Channels ${own} of ${group.layer}. `;
  const list = others.map(([layer, numbers]) => `${layer} (${numbers})`).join(', ');
  return from + (others.length ? `They go together with ${list}.` : '');
}
