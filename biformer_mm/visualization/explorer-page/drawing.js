'use strict';

/* What is seen on the picture. All lengths are pixels of the network's input,
 * but for widths of lines and letters, which are those of the screen. */

// Both rise evenly in lightness, so that they can be told apart in grey and
// by colour-blind readers: matplotlib's cividis and inferno.
const RANK_COLORS = [[0, 34, 78], [53, 69, 108], [102, 105, 112],
  [148, 142, 119], [200, 184, 102], [254, 232, 56]];
const HEAT_COLORS = [[0, 0, 4], [33, 12, 74], [87, 16, 110], [138, 34, 106],
  [188, 55, 84], [228, 90, 49], [249, 142, 9], [249, 203, 53],
  [252, 255, 164]];
const OUTLINE = 'rgb(255 255 255 / 60%)'; // of regions of no rank
const HEAT_ALPHAS = [0.45, 0.9]; // of no and of most attention

/** The colour at a position between 0 and 1 of a row of colours. */
function colorAt(colors, position) {
  const place = Math.min(Math.max(position, 0), 1) * (colors.length - 1);
  const i = Math.min(Math.floor(place), colors.length - 2);
  return colors[i].map((from, channel) =>
    Math.round(from + (colors[i + 1][channel] - from) * (place - i)));
}

/** Yellow for the first rank, dark for the last: its colour in CSS. */
function rankColor(rank, ranks) {
  const last = (rank - 1) / Math.max(ranks - 1, 1);
  return `rgb(${colorAt(RANK_COLORS, 1 - 0.8 * last)})`;
}

/** A canvas that draws what the network sees, at the screen's resolution. */
class Drawing {
  constructor(canvas, picture) {
    this.canvas = canvas;
    this.picture = picture;
    this.context = canvas.getContext('2d');
  }

  /** One grid, the regions routed to in colour, the chosen one dashed. */
  drawRegions(stage, region, routes) {
    this.start();
    const routed = routes.filter((route) => isOnMap(stage, route.region));
    const boxes = routed.map((route) => boxOf(stage, route.region));
    this.dim(boxes);
    this.drawGrid(stage);
    routed.forEach((route, i) => {
      const color = rankColor(route.rank, routes.length);
      this.outline(boxes[i], color, this.isSmall(boxes[i]) ? 1 : 2, 1.5);
      this.writeRoute(boxes[i], route);
    });
    this.outlineChosen(stage, region);
  }

  /** One token's attention in its routed regions. */
  drawAttention(stage, routes, token, attention, probe) {
    this.start();
    this.dim([]);
    this.drawHeat(stage, attention);
    if (stage.topk !== null) {
      for (const {region} of routes) {
        const box = boxOf(stage, region);
        if (isOnMap(stage, region)) this.outline(box, OUTLINE, 1, 0);
      }
      this.outlineChosen(stage, regionOf(stage, token));
    }
    if (probe) this.outline(boxOfToken(stage, probe), 'white', 1.5, -1);
    this.mark(middleOfToken(stage, token));
  }

  /** The picture, and hatched what pads it to the network's input. */
  start() {
    const {width, height, pictureWidth, pictureHeight} = data.image;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(this.canvas.clientWidth * ratio);
    this.canvas.height = Math.round(this.canvas.clientHeight * ratio);
    const scale = this.canvas.width / width;
    this.pixel = ratio / scale; // one of the screen's
    const {context} = this;
    context.setTransform(scale, 0, 0, this.canvas.height / height, 0, 0);
    if (pictureWidth < width || pictureHeight < height) this.hatch();
    context.drawImage(this.picture, 0, 0, pictureWidth, pictureHeight);
  }

  hatch() {
    const {context, pixel} = this;
    const {width, height} = data.image;
    context.fillStyle = '#777';
    context.fillRect(0, 0, width, height);
    context.strokeStyle = '#999';
    context.lineWidth = 2 * pixel;
    context.beginPath();
    for (let x = -height; x < width; x += 8 * pixel) {
      context.moveTo(x, height);
      context.lineTo(x + height, 0);
    }
    context.stroke();
  }

  /** Grey and dark, but in some boxes. */
  dim(boxes) {
    const {context} = this;
    const {width, height} = data.image;
    context.save();
    context.beginPath();
    context.rect(0, 0, width, height);
    for (const box of boxes) context.rect(box.x, box.y, box.width, box.height);
    context.clip('evenodd');
    context.globalCompositeOperation = 'saturation';
    context.fillStyle = '#777';
    context.fillRect(0, 0, width, height);
    context.globalCompositeOperation = 'source-over';
    context.fillStyle = 'rgb(10 12 18 / 55%)';
    context.fillRect(0, 0, width, height);
    context.restore();
  }

  drawGrid(stage) {
    const {context, pixel} = this;
    const {width, height} = data.image;
    context.beginPath();
    for (let i = 1; i < stage.side; i++) {
      const x = i * stage.region[1] * stage.stride;
      const y = i * stage.region[0] * stage.stride;
      context.moveTo(x, 0);
      context.lineTo(x, height);
      context.moveTo(0, y);
      context.lineTo(width, y);
    }
    context.lineWidth = pixel;
    context.strokeStyle = 'rgb(255 255 255 / 22%)';
    context.stroke();
  }

  drawHeat(stage, {values, most}) {
    const [height, width] = stage.map;
    const map = new OffscreenCanvas(width, height);
    const image = new ImageData(width, height);
    values.forEach((value, i) => {
      if (Number.isNaN(value)) return; // outside the routed regions
      const part = most ? value / most : 0;
      const alpha = HEAT_ALPHAS[0] + (HEAT_ALPHAS[1] - HEAT_ALPHAS[0]) * part;
      image.data.set([...colorAt(HEAT_COLORS, part), 255 * alpha], 4 * i);
    });
    map.getContext('2d').putImageData(image, 0, 0);
    const {context} = this;
    context.imageSmoothingEnabled = false;
    context.drawImage(map, 0, 0, width * stage.stride, height * stage.stride);
    context.imageSmoothingEnabled = true;
  }

  /** A frame `inset` pixels inside a box, cased in black. */
  outline(box, color, lineWidth, inset, dash = []) {
    const {context, pixel} = this;
    const margin = (inset + lineWidth / 2) * pixel;
    const inside = (length) => Math.max(length - 2 * margin, 0);
    const frame = [box.x + margin, box.y + margin, inside(box.width),
      inside(box.height)];
    context.strokeStyle = 'rgb(0 0 0 / 70%)';
    context.lineWidth = (lineWidth + 1.5) * pixel;
    context.strokeRect(...frame);
    context.strokeStyle = color;
    context.lineWidth = lineWidth * pixel;
    context.setLineDash(dash.map((length) => length * pixel));
    context.strokeRect(...frame);
    context.setLineDash([]);
  }

  outlineChosen(stage, region) {
    const box = boxOf(stage, region);
    this.outline(box, 'white', this.isSmall(box) ? 1.5 : 2, 0, [5, 3]);
  }

  isSmall(box) {
    return Math.min(box.width, box.height) < 32 * this.pixel;
  }

  /** The rank and, where there is room, the share. */
  writeRoute(box, {rank, share}) {
    const {pixel} = this;
    const size = Math.min(box.height * 0.7, box.width * 0.6, 15 * pixel);
    if (size < 6 * pixel) return; // too small to read
    const {x, y} = middleOf(box);
    if (box.width < 64 * pixel || box.height < 48 * pixel) {
      this.write(String(rank), x, y, size);
    } else {
      this.write(String(rank), x, y - 8 * pixel, size);
      this.write(percent(share), x, y + 10 * pixel, 12 * pixel);
    }
  }

  write(text, x, y, size) {
    const {context, pixel} = this;
    context.font = `600 ${size}px system-ui, sans-serif`;
    context.textAlign = 'center';
    context.textBaseline = 'middle';
    context.lineWidth = 3 * pixel;
    context.lineJoin = 'round';
    context.strokeStyle = 'rgb(0 0 0 / 80%)';
    context.strokeText(text, x, y);
    context.fillStyle = 'white';
    context.fillText(text, x, y);
  }

  /** A ring around a token's middle. */
  mark({x, y}) {
    const {context, pixel} = this;
    for (const [color, width] of [['black', 4], ['white', 2]]) {
      context.strokeStyle = color;
      context.lineWidth = width * pixel;
      context.beginPath();
      context.arc(x, y, 7 * pixel, 0, 2 * Math.PI);
      context.stroke();
    }
  }
}

/** A colour scale for the legend. */
function drawScale(canvas, colors, from, to) {
  const context = canvas.getContext('2d');
  for (let x = 0; x < canvas.width; x++) {
    const position = from + (to - from) * x / (canvas.width - 1);
    context.fillStyle = `rgb(${colorAt(colors, position)})`;
    context.fillRect(x, 0, 1, canvas.height);
  }
}
