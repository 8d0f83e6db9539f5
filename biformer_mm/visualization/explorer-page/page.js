'use strict';

/* What the reader does. */

const view = element('view');

/* ---- pointer ---- */

function positionOf(event) {
  const box = view.querySelector('canvas').getBoundingClientRect();
  return {
    x: (event.clientX - box.left) / box.width * data.image.width,
    y: (event.clientY - box.top) / box.height * data.image.height,
  };
}

function onMove(event) {
  if (event.pointerType === 'touch' || !state.stage) return;
  if (mode() === 'attention') return update({probe: positionOf(event)});
  const before = currentRegion();
  state.position = positionOf(event);
  if (currentRegion() !== before) render();
}

/** On the region that is shown: its token. On another: that region, which
 * only happens without a mouse. */
function onClick(event) {
  if (!state.stage) return;
  const position = positionOf(event);
  const {stage} = state;
  const region = regionOf(stage, tokenAt(stage, position));
  const pick = mode() === 'attention' || region === currentRegion();
  update({position, mode: pick ? 'attention' : 'regions'});
}

/* ---- keyboard ---- */

const ARROWS = {
  ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0],
};

const KEYS = {
  enter: () => update({mode: 'attention', probe: null}),
  escape: () => update({mode: 'regions', probe: null}),
  s: (step) => showBlock(state.wanted.stage + step, state.wanted.block),
  b: (step) => showBlock(state.wanted.stage, state.wanted.block + step),
  h: (step) => update({head: nextHead(step)}),
  r: () => update({direction: state.direction === 'to' ? 'from' : 'to'}),
  t: () => toggleTheme(),
};

function onKey(event) {
  if (!state.stage || event.ctrlKey || event.altKey || event.metaKey) return;
  const arrow = ARROWS[event.key];
  const action = KEYS[event.key.toLowerCase()];
  if (arrow) move(arrow, event.shiftKey);
  else if (action) action(event.shiftKey ? -1 : 1);
  else return;
  event.preventDefault();
}

function move(arrow, reading) {
  if (mode() === 'regions') moveRegion(arrow);
  else if (reading) moveProbe(arrow);
  else moveToken(arrow);
}

function moveRegion([down, right]) {
  const {stage} = state;
  const region = currentRegion();
  const row = clamp(Math.floor(region / stage.side) + down, stage.side);
  const col = clamp(region % stage.side + right, stage.side);
  // A position in the padding counts as the nearest on the map.
  const next = boxOf(stage, row * stage.side + col);
  update({position: middleOf(next)});
}

/** To the next of the recorded tokens, which lie on rows and columns. */
function moveToken([down, right]) {
  const {stage, heat} = state;
  const token = currentToken();
  if (!token) return;
  const next = (lines, line, step) =>
    lines[clamp(lines.indexOf(line) + step, lines.length)];
  update({
    position: middleOfToken(stage, {
      row: next(heat.rows, token.row, down),
      col: next(heat.cols, token.col, right),
    }),
  });
}

function moveProbe([down, right]) {
  const {stage} = state;
  const {row, col} = state.probe ? tokenAt(stage, state.probe) :
    currentToken();
  update({
    probe: middleOfToken(stage, {
      row: clamp(row + down, stage.map[0]),
      col: clamp(col + right, stage.map[1]),
    }),
  });
}

/** After the last head comes their mean. */
function nextHead(step) {
  const heads = state.stage.heads + 1;
  return (state.head - MEAN + step + heads) % heads + MEAN;
}

/* ---- theme ---- */

const darkSystem = window.matchMedia('(prefers-color-scheme: dark)');
let theme = darkSystem.matches ? 'dark' : 'light';

function showTheme() {
  document.documentElement.style.colorScheme = theme;
  element('theme').textContent =
    theme === 'dark' ? 'Light theme' : 'Dark theme';
}

function toggleTheme() {
  theme = theme === 'dark' ? 'light' : 'dark';
  showTheme();
}

/* ---- start ---- */

function onChoice(event) {
  const {name, value} = event.target;
  if (name === 'head') update({head: Number(value)});
  else if (name === 'mode') update({mode: value, probe: null});
  else if (name === 'direction') update({direction: value});
}

/** A browser that is too old says so, instead of showing nothing. */
function onFailure({reason}) {
  caption(`This page needs a browser of 2024 or later (${reason}).`);
}

function listen() {
  view.addEventListener('pointermove', onMove);
  view.addEventListener('pointerleave', () => update({probe: null}));
  view.addEventListener('click', onClick);
  view.addEventListener('keydown', onKey);
  document.addEventListener('change', onChoice);
  element('stage').addEventListener('input', (event) =>
    showBlock(Number(event.target.value), state.wanted.block));
  element('block').addEventListener('input', (event) =>
    showBlock(state.wanted.stage, Number(event.target.value)));
  element('theme').addEventListener('click', toggleTheme);
  darkSystem.addEventListener('change', (event) => {
    theme = event.matches ? 'dark' : 'light';
    showTheme();
  });
  new ResizeObserver(render).observe(view);
}

async function start() {
  window.addEventListener('unhandledrejection', onFailure);
  showTheme();
  const {width, height, source} = data.image;
  document.body.style.setProperty('--width', width);
  document.body.style.setProperty('--height', height);
  view.setAttribute('aria-label', `${data.title}: picture with regions`);
  const picture = new Image();
  picture.src = source;
  await picture.decode();
  drawing = new Drawing(element('overlay'), picture);
  listen();
  // The paper's figure shows the last block that routes.
  const routing = data.stages.findLastIndex((stage) => stage.topk !== null);
  showBlock(Math.max(routing, 0), Infinity);
}

start();
