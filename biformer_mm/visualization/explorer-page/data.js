'use strict';

/* What the page was given, as written by explorer.py. Regions and tokens are
 * counted from 0 here and from 1 on the page. */

const data = JSON.parse(document.getElementById('data').textContent);

const MEAN = -1; // instead of a head's number

/** Packed text -> ArrayBuffer. */
async function unpack(text) {
  const packed = atob(text);
  const bytes = new Uint8Array(packed.length);
  for (let i = 0; i < packed.length; i++) bytes[i] = packed.charCodeAt(i);
  const stream = new Blob([bytes]).stream();
  const unpacked = stream.pipeThrough(new DecompressionStream('deflate'));
  return new Response(unpacked).arrayBuffer();
}

/** A block's routing: who routes to whom, and shares in thousandths. */
async function loadRouting(stage, block) {
  if (stage.topk === null) {
    return {k: 1, index: Uint32Array.of(0)}; // one region, to itself
  }
  const buffer = await unpack(stage.routings[block]);
  const regions = stage.side ** 2;
  const routes = regions * stage.topk;
  return {
    k: stage.topk,
    index: new Uint32Array(buffer, 0, routes),
    shares: new Uint16Array(buffer, 4 * routes, routes),
    padding: new Uint16Array(buffer, 6 * routes, regions),
  };
}

/** A block's heat maps: the tokens that have one, and where it lies. */
async function loadHeat(stage, block) {
  const keys = stage.region[0] * stage.region[1] * (stage.topk ?? 1);
  const tokens = [];
  for (const round of stage.rounds) {
    const places = new Uint16Array(await unpack(round.tokens));
    const buffer = await unpack(round.heat[block]);
    const count = places.length / 2 * stage.heads;
    const most = new Float32Array(buffer, 0, count);
    const padding = new Float32Array(buffer, 4 * count, count);
    const levels = new Uint8Array(buffer, 8 * count);
    for (let i = 0; i < places.length / 2; i++) {
      const from = i * stage.heads;
      const to = from + stage.heads;
      tokens.push({
        row: places[2 * i],
        col: places[2 * i + 1],
        most: most.subarray(from, to),
        padding: padding.subarray(from, to),
        levels: levels.subarray(from * keys, to * keys),
      });
    }
  }
  return {
    tokens,
    rows: sortedUnique(tokens.map((token) => token.row)),
    cols: sortedUnique(tokens.map((token) => token.col)),
  };
}

function sortedUnique(numbers) {
  return [...new Set(numbers)].sort((a, b) => a - b);
}

/** Regions that `region` routes to, best first. */
function routesTo(stage, routing, region) {
  return Array.from({length: routing.k}, (_, j) => {
    const at = region * routing.k + j;
    return {region: routing.index[at], share: routing.shares[at], rank: j + 1};
  });
}

/** Regions of the map that route to `region`, those that give most first. */
function routesFrom(stage, routing, region) {
  const found = [];
  routing.index.forEach((target, at) => {
    const origin = Math.floor(at / routing.k);
    if (target === region && isOnMap(stage, origin)) {
      found.push({region: origin, share: routing.shares[at]});
    }
  });
  found.sort((a, b) => b.share - a.share);
  return found.map((route, i) => ({...route, rank: i + 1}));
}

/** A token's attention to every token of the map, for a head or their mean.
 *
 * Values are NaN outside the routed regions. `tolerance` is how far they may
 * be off for having been rounded. */
function attentionOf(stage, routing, token, head) {
  const [height, width] = stage.map;
  const [h, w] = stage.region;
  const heads = head === MEAN ? [...token.most.keys()] : [head];
  const values = new Float32Array(height * width).fill(NaN);
  const start = regionOf(stage, token) * routing.k;
  const routed = routing.index.subarray(start, start + routing.k);
  routed.forEach((region, j) => {
    for (const {row, col} of tokensOf(stage, region)) {
      const key = j * h * w + (row % h) * w + col % w;
      let sum = 0;
      for (const m of heads) {
        const level = token.levels[m * routing.k * h * w + key];
        sum += level / data.levels * token.most[m];
      }
      values[row * width + col] = sum / heads.length;
    }
  });
  const mean = (perHead) =>
    heads.reduce((sum, m) => sum + perHead[m], 0) / heads.length;
  return {
    values,
    most: values.reduce((a, b) => (b > a ? b : a), 0),
    tolerance: mean(token.most) / data.levels / 2,
    padding: mean(token.padding),
  };
}

/** The tokens of a region that are on the map, row by row. */
function* tokensOf(stage, region) {
  const {row: top, col: left} = cornerOf(stage, region);
  const bottom = Math.min(top + stage.region[0], stage.map[0]);
  const right = Math.min(left + stage.region[1], stage.map[1]);
  for (let row = top; row < bottom; row++) {
    for (let col = left; col < right; col++) yield {row, col};
  }
}

/** A region's first token. */
function cornerOf(stage, region) {
  return {
    row: Math.floor(region / stage.side) * stage.region[0],
    col: region % stage.side * stage.region[1],
  };
}

/** Whether a region has a token that is not padding. */
function isOnMap(stage, region) {
  const {row, col} = cornerOf(stage, region);
  return row < stage.map[0] && col < stage.map[1];
}

function regionOf(stage, token) {
  return Math.floor(token.row / stage.region[0]) * stage.side +
    Math.floor(token.col / stage.region[1]);
}

/** The token at a position of the network's input, in pixels. */
function tokenAt(stage, {x, y}) {
  const place = (position, size) =>
    Math.min(Math.max(Math.floor(position / stage.stride), 0), size - 1);
  return {row: place(y, stage.map[0]), col: place(x, stage.map[1])};
}

/** The middle of a token, as far as it is on the network's input. */
function middleOfToken(stage, token) {
  return middleOf(boxOfToken(stage, token));
}

function boxOfToken(stage, {row, col}) {
  return boxOfTokens(stage, row, col, 1, 1);
}

function boxOf(stage, region) {
  const {row, col} = cornerOf(stage, region);
  return boxOfTokens(stage, row, col, ...stage.region);
}

/** The part of the network's input that some tokens cover, in pixels. */
function boxOfTokens(stage, row, col, rows, cols) {
  const clip = (token, size) => Math.min(token * stage.stride, size);
  const x = clip(col, data.image.width);
  const y = clip(row, data.image.height);
  return {
    x,
    y,
    width: clip(col + cols, data.image.width) - x,
    height: clip(row + rows, data.image.height) - y,
  };
}

function middleOf({x, y, width, height}) {
  return {x: x + width / 2, y: y + height / 2};
}

/** The recorded token nearest to a position, of the same region if it has
 * one. */
function nearestRecorded(stage, heat, position) {
  const wanted = tokenAt(stage, position);
  const region = regionOf(stage, wanted);
  const inside = heat.tokens.filter((t) => regionOf(stage, t) === region);
  const candidates = inside.length ? inside : heat.tokens;
  const distance = ({row, col}) =>
    (row - wanted.row) ** 2 + (col - wanted.col) ** 2;
  return candidates.reduce(
    (best, t) => (best && distance(best) <= distance(t) ? best : t), null);
}
