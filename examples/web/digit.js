// Strokes -> 8x8, as the bitmaps behind scikit-learn's digits were made: see `pixelsOf`.

const SIDE = 32, HEIGHT = 32, WIDTH = 20; // of the bitmap, and of the ink in it
const INK = 312; // pixels that are on, the mean of the data set; its standard deviation is 34
const PENS = [1 / 12, 1 / 4]; // thinnest and thickest, of the height
const STRETCH = 3; // at most, of one axis against the other
const EDGE = 1 / 10; // of the height: what counts as top and as bottom

/** 64 counts from 0 to 16 of strokes [[[x, y], ...], ...]; null without ink.
 *
 * The data set counts the pixels that are on in every 4x4 block of NIST's 32x32 bitmaps. There the slant is
 * gone (top and bottom begin at the same column), the ink fills 32 rows and about 20 columns, each axis scaled by
 * itself, and thin lines were thickened: all classes have the same ink. A plain "1" is stretched by no more than
 * STRETCH.
 */
export function pixelsOf(strokes) {
  if (strokes.length === 0) return null;
  const level = [1, 2, 3].reduce(upright, strokes.map(dense)); // each leaves a tenth of the slant: EDGE
  const ink = rasterised(level);
  const counts = new Array(64).fill(0);
  ink.forEach((on, i) => {
    const row = Math.floor(i / SIDE), column = i % SIDE;
    if (on) counts[Math.floor(row / 4) * 8 + Math.floor(column / 4)] += 1;
  });
  return counts;
}

/** A polyline with points no further apart than 2. */
function dense(stroke) {
  return stroke.flatMap(([x, y], i) => {
    const [a, b] = stroke[Math.max(i - 1, 0)], parts = Math.max(1, Math.ceil(Math.hypot(x - a, y - b) / 2));
    return Array.from({ length: parts }, (_, k) => {
      const share = (k + 1) / parts;
      return [a + (x - a) * share, b + (y - b) * share];
    });
  });
}

/** Sheared so that the leftmost ink at the top is above the leftmost at the bottom. */
function upright(strokes) {
  const points = strokes.flat(), [top, bottom] = extent(points.map(([, y]) => y));
  const height = bottom - top, leftmost = (near) => extent(points.filter(([, y]) => near(y)).map(([x]) => x))[0];
  const across = extent(points.map(([x]) => x));
  if (height < (across[1] - across[0]) / STRETCH || height === 0) return strokes; // a dash has no slant
  const shift = leftmost((y) => y >= bottom - EDGE * height) - leftmost((y) => y <= top + EDGE * height);
  return strokes.map((stroke) => stroke.map(([x, y]) => [x - shift * (y - top) / height, y]));
}

/** Booleans of the bitmap, row by row, by the pen whose ink is nearest to INK. */
function rasterised(strokes) {
  const context = surface();
  let [thin, thick] = PENS, best = null;
  const size = (bitmap) => bitmap.filter(Boolean).length;
  for (let i = 0; i < 7; i += 1) {
    const pen = (thin + thick) / 2, bitmap = drawn(context, strokes, pen), much = size(bitmap);
    if (best === null || Math.abs(much - INK) < Math.abs(size(best) - INK)) best = bitmap;
    if (much > INK) thick = pen;
    else thin = pen;
  }
  return best;
}

/** The bitmap by one pen (of the height). */
function drawn(context, strokes, share) {
  const points = strokes.flat();
  const [left, right] = extent(points.map(([x]) => x));
  const [top, bottom] = extent(points.map(([, y]) => y));
  const width = right - left, height = Math.max(bottom - top, width / STRETCH, 1);
  const down = HEIGHT * (1 - share) / height;
  const pen = HEIGHT * share / down;
  const across = Math.min(WIDTH / (width + pen), STRETCH * down);
  context.clearRect(0, 0, SIDE, SIDE);
  context.setTransform(across, 0, 0, down, SIDE / 2, SIDE / 2);
  context.translate(-(left + right) / 2, -(top + bottom) / 2);
  trace(context, strokes, pen);
  context.setTransform(1, 0, 0, 1, 0, 0);
  const { data } = context.getImageData(0, 0, SIDE, SIDE);
  return Array.from({ length: SIDE * SIDE }, (_, i) => data[4 * i + 3] >= 128);
}

/** Stroke polylines with a round pen. */
export function trace(context, strokes, pen) {
  context.lineWidth = pen;
  context.lineCap = context.lineJoin = "round";
  for (const stroke of strokes) {
    context.beginPath();
    context.moveTo(...stroke[0]);
    for (const point of stroke) context.lineTo(...point); // the first point makes a dot of a click
    context.stroke();
  }
}

function extent(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

function surface() {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = SIDE;
  return canvas.getContext("2d", { willReadFrequently: true });
}
