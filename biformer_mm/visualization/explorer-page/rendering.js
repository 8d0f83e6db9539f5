'use strict';

/* What the page says: of the state, in words and numbers. */

const MOST_ATTENDED = 8; // tokens listed for a heat map
const PADDING = 'padding: zeros that complete the map and count as tokens.';

const element = (id) => document.getElementById(id);

const state = {
  wanted: {stage: 0, block: 0}, // as the sliders stand
  stage: null, // what is loaded, and shown
  block: 0,
  routing: null,
  heat: null,
  mode: 'regions', // or 'attention'
  direction: 'to', // or 'from'
  head: MEAN,
  position: {x: data.image.pictureWidth / 2, y: data.image.pictureHeight / 2},
  probe: null, // where attention is read: a position, or null
};
let drawing;

/* ---- state ---- */

/** Attention other than bi-level routing has no regions to show. */
function mode() {
  return state.stage.topk === null ? 'attention' : state.mode;
}

function currentRegion() {
  return regionOf(state.stage, tokenAt(state.stage, state.position));
}

function currentToken() {
  return nearestRecorded(state.stage, state.heat, state.position);
}

function currentRoutes() {
  const routes = state.direction === 'to' ? routesTo : routesFrom;
  return routes(state.stage, state.routing, currentRegion());
}

function update(changes) {
  Object.assign(state, changes);
  render();
}

/** Show another block; numbers that are out of range go to the nearest. */
async function showBlock(stageNumber, blockNumber) {
  const stageIndex = clamp(stageNumber, data.stages.length);
  const stage = data.stages[stageIndex];
  const block = clamp(blockNumber, stage.routings.length);
  const wanted = {stage: stageIndex, block};
  state.wanted = wanted;
  renderSliders();
  const [routing, heat] = await Promise.all(
    [loadRouting(stage, block), loadHeat(stage, block)]);
  if (state.wanted !== wanted) return; // the reader has gone on
  const head = state.head < stage.heads ? state.head : MEAN;
  update({stage, block, routing, heat, head});
}

function clamp(index, count) {
  return Math.min(Math.max(index, 0), count - 1);
}

/* ---- words and numbers ---- */

function percent(thousandths) {
  return thousandths ? `${(thousandths / 10).toFixed(1)} %` : '< 0.1 %';
}

/** A share that is known to `tolerance`, with no more digits than that. */
function approximately(share, tolerance) {
  const value = 100 * share;
  if (!tolerance) return `${Number(value.toPrecision(3))} %`;
  const exponent = Math.floor(Math.log10(100 * tolerance));
  const unit = 10 ** exponent;
  const digits = Math.max(-exponent, 0);
  const upwards = (x) => (Math.ceil(x / unit - 1e-6) * unit).toFixed(digits);
  if (share <= tolerance) return `≤ ${upwards(value + 100 * tolerance)} %`;
  // Half a unit more, for the value is rounded to units as well.
  return `${value.toFixed(digits)} ± ${upwards(100 * tolerance + unit / 2)} %`;
}

function placeOf({row, col}) {
  return `row ${row + 1}, column ${col + 1}`;
}

function placeOfRegion(stage, region) {
  if (!isOnMap(stage, region)) return 'padding';
  return placeOf({
    row: Math.floor(region / stage.side),
    col: region % stage.side,
  });
}

function headName() {
  if (state.head === MEAN) return `mean of ${state.stage.heads} heads`;
  return `head ${state.head + 1} of ${state.stage.heads}`;
}

function factsOf(stage) {
  const [h, w] = stage.topk === null ? stage.map : stage.region;
  const size = `${h} × ${w} tokens`;
  if (stage.topk === null) {
    const kind = stage.attention[0].toUpperCase() + stage.attention.slice(1);
    return `${kind} attention, ${size}: no routing, heat maps only.`;
  }
  return `S = ${stage.side}, k = ${stage.topk}, regions of ${size}`;
}

function count(number, thing) {
  return `${number || 'no'} ${thing}${number === 1 ? '' : 's'}`;
}

/* ---- rendering ---- */

function render() {
  if (!state.stage) return; // still loading
  renderSliders();
  renderChoices();
  if (mode() === 'regions') renderRegions();
  else renderAttention();
  element('live').textContent =
    `Stage ${state.stage.number}, block ${state.block + 1}. ` +
    element('caption').textContent;
}

function renderSliders() {
  const {stage, block} = state.wanted;
  const blocks = data.stages[stage].routings.length;
  const last = data.stages[data.stages.length - 1].number;
  const number = data.stages[stage].number;
  setSlider('stage', stage, data.stages.length, `${number} of ${last}`);
  setSlider('block', block, blocks, `${block + 1} of ${blocks}`);
}

function setSlider(id, value, values, label) {
  const slider = element(id);
  slider.max = values - 1;
  slider.value = value;
  slider.disabled = values === 1;
  slider.setAttribute('aria-valuetext', label);
  element(`${id}-label`).textContent = label;
}

function renderChoices() {
  const {stage} = state;
  const regions = mode() === 'regions';
  element('facts').textContent = factsOf(stage);
  check('mode', mode());
  check('direction', state.direction);
  document.querySelector('[name=mode][value=regions]').disabled =
    stage.topk === null;
  element('directions').hidden = !regions;
  element('heads').hidden = regions;
  if (element('heads').querySelectorAll('input').length !== stage.heads + 1) {
    addHeads(stage.heads);
  }
  check('head', state.head);
}

function check(name, value) {
  document.querySelector(`[name=${name}][value="${value}"]`).checked = true;
}

function addHeads(heads) {
  const buttons = [MEAN, ...Array(heads).keys()].map((head) => {
    const label = document.createElement('label');
    const input = document.createElement('input');
    input.type = 'radio';
    input.name = 'head';
    input.value = head;
    label.append(input, textSpan('', head === MEAN ? 'Mean' : head + 1));
    return label;
  });
  element('heads').replaceChildren(
    element('heads').querySelector('legend'), ...buttons);
}

function renderRegions() {
  const {stage, routing} = state;
  const region = currentRegion();
  const routes = currentRoutes();
  drawing.drawRegions(stage, region, routes);
  const name = `Region at ${placeOfRegion(stage, region)}`;
  if (state.direction === 'to') {
    caption(`${name} routes to ${count(routes.length, 'region')}.`);
    const padding = routing.padding[region];
    note(padding ? `${percent(padding)} of it falls on ${PADDING}` : '');
  } else {
    caption(`${name} is routed to by ${count(routes.length, 'region')}.`);
    note('');
  }
  const whose = state.direction === 'to' ? 'its' : 'their';
  list(`Share of ${whose} attention`, routes.map((route) => ({
    color: rankColor(route.rank, routes.length),
    place: placeOfRegion(stage, route.region),
    value: percent(route.share),
    part: route.share / Math.max(...routes.map((other) => other.share), 1),
  })));
  const low = routes.length > 1 ? 'first' : '';
  legend(RANK_COLORS, 1, 0.2, low, `last of ${routes.length}`);
}

function renderAttention() {
  const {stage, routing, heat} = state;
  const token = currentToken();
  if (!token) return renderNoAttention();
  const attention = attentionOf(stage, routing, token, state.head);
  const probe = state.probe && tokenAt(stage, state.probe);
  const routes = stage.topk === null ? [] :
    routesTo(stage, routing, regionOf(stage, token));
  drawing.drawAttention(stage, routes, token, attention, probe);
  caption(`Token at ${placeOf(token)}, ${headName()}.` +
    readingAt(attention, probe));
  list('Most attended tokens', mostAttended(attention));
  const tokens = stage.map[0] * stage.map[1];
  const padding = attention.padding ?
    `${approximately(attention.padding, 0)} falls on ${PADDING} ` : '';
  const recorded = heat.tokens.length === tokens ? '' :
    `${heat.tokens.length} of ${tokens} tokens have a heat map; a click ` +
    'takes the nearest.';
  note(padding + recorded);
  legend(HEAT_COLORS, 0, 1, '0', mostOf(attention));
}

function renderNoAttention() {
  drawing.start();
  caption('No heat map of this stage fits the file’s limit of size.');
  list('', []);
  note('');
  legend(HEAT_COLORS, 0, 1, '', '');
}

/** The maximum: known exactly of a head, not of their mean. */
function mostOf({most, tolerance}) {
  return approximately(most, state.head === MEAN ? tolerance : 0);
}

function readingAt({values, tolerance}, probe) {
  if (!probe) return '';
  const value = values[probe.row * state.stage.map[1] + probe.col];
  const reading = Number.isNaN(value) ? '0 %, not routed to' :
    approximately(value, tolerance);
  return ` To ${placeOf(probe)}: ${reading}.`;
}

function mostAttended({values, most, tolerance}) {
  const width = state.stage.map[1];
  return [...values.keys()].filter((i) => values[i] > 0)
    .sort((a, b) => values[b] - values[a]).slice(0, MOST_ATTENDED)
    .map((i) => ({
      color: `rgb(${colorAt(HEAT_COLORS, values[i] / most)})`,
      place: placeOf({row: Math.floor(i / width), col: i % width}),
      value: approximately(values[i], tolerance),
      part: values[i] / most,
    }));
}

function caption(text) {
  element('caption').textContent = text;
}

function note(text) {
  element('note').textContent = text;
}

/** Rows of a numbered list, each with a bar for its part of the largest.
 *
 * Without rows there is neither title nor list, nor a stop of the keyboard's
 * focus. */
function list(title, rows) {
  element('list-title').textContent = title;
  element('list-title').hidden = element('list').hidden = !rows.length;
  element('list').replaceChildren(...rows.map((row) => {
    const item = document.createElement('li');
    const bar = textSpan('bar', '');
    bar.style.width = `${100 * row.part}%`;
    bar.style.backgroundColor = row.color;
    item.append(textSpan('place', row.place), textSpan('value', row.value),
      bar);
    return item;
  }));
}

function textSpan(className, text) {
  const span = document.createElement('span');
  span.className = className;
  span.textContent = text;
  return span;
}

function legend(colors, from, to, low, high) {
  element('legend').hidden = !low;
  element('legend-low').textContent = low;
  element('legend-high').textContent = high;
  drawScale(element('legend-bar'), colors, from, to);
}
