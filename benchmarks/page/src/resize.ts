/**
 * Pictures made smaller or larger exactly as Pillow does it (libImaging/Resample.c): antialiased, columns first, 8 bits
 * between, weights in 22 bits. mobileclip/preprocessing.py and mobileclip/dense/host.py are the oracles.
 */

export type Filter = "bilinear" | "bicubic";

/** Pixels of `channels` values each, row by row. */
export interface Raster {
  data: Uint8Array | Uint8ClampedArray;
  width: number;
  height: number;
  channels: number;
}

/** What of the resized picture is wanted. */
export interface Window {
  left: number;
  top: number;
  width: number;
  height: number;
}

const BITS = 22;

const FILTERS: Record<Filter, { support: number; weight: (x: number) => number }> = {
  bilinear: { support: 1, weight: (x) => Math.max(1 - Math.abs(x), 0) },
  bicubic: {
    support: 2,
    // Keys' cubic with a = -1/2
    weight: (value) => {
      const x = Math.abs(value);
      if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
      return x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
    },
  },
};

interface Weights {
  first: Int32Array;
  count: Int32Array;
  /** Of each output, `most` places. */
  values: Int32Array;
  most: number;
}

/** Weights of the outputs `from .. from + length - 1` of `many` along an axis of `few` inputs. */
function weights(few: number, many: number, from: number, length: number, filter: Filter): Weights {
  const { support, weight } = FILTERS[filter];
  const scale = few / many;
  const wide = Math.max(scale, 1);
  const reach = support * wide;
  const most = Math.ceil(reach) * 2 + 1;
  const out: Weights = {
    first: new Int32Array(length),
    count: new Int32Array(length),
    values: new Int32Array(length * most),
    most,
  };
  const row = new Float64Array(most);
  for (let i = 0; i < length; i++) {
    const center = (from + i + 0.5) * scale;
    const first = Math.max(Math.trunc(center - reach + 0.5), 0);
    const count = Math.min(Math.trunc(center + reach + 0.5), few) - first;
    let sum = 0;
    for (let k = 0; k < count; k++) sum += row[k] = weight((k + first - center + 0.5) * (1 / wide));
    for (let k = 0; k < count; k++) {
      const value = (sum !== 0 ? row[k] * (1 / sum) : row[k]) * 2 ** BITS;
      out.values[i * most + k] = Math.trunc(value < 0 ? value - 0.5 : value + 0.5);
    }
    out.first[i] = first;
    out.count[i] = count;
  }
  return out;
}

const clip = (sum: number): number => Math.min(Math.max(Math.floor(sum / 2 ** BITS), 0), 255);

/** `image` resized to `width` x `height`, of which `window` is computed -> RGB. */
export function resized(image: Raster, width: number, height: number, window: Window, filter: Filter): Raster {
  const across = width === image.width ? null : weights(image.width, width, window.left, window.width, filter);
  const down = height === image.height ? null : weights(image.height, height, window.top, window.height, filter);
  const top = down ? down.first[0] : window.top;
  const last = window.height - 1;
  const rows = (down ? down.first[last] + down.count[last] : window.top + window.height) - top;
  const narrow = across ? columns(image, across, top, rows) : cut(image, window.left, window.width, top, rows);
  return down ? lines(narrow, down, top) : narrow;
}

function cut(image: Raster, left: number, width: number, top: number, rows: number): Raster {
  const data = new Uint8Array(width * rows * 3);
  for (let y = 0; y < rows; y++)
    for (let x = 0; x < width; x++)
      for (let c = 0; c < 3; c++)
        data[(y * width + x) * 3 + c] = image.data[((y + top) * image.width + x + left) * image.channels + c];
  return { data, width, height: rows, channels: 3 };
}

function columns(image: Raster, w: Weights, top: number, rows: number): Raster {
  const [width, step] = [w.first.length, image.channels];
  const data = new Uint8Array(width * rows * 3);
  const start = 2 ** (BITS - 1);
  for (let y = 0; y < rows; y++) {
    const line = (y + top) * image.width;
    for (let x = 0; x < width; x++) {
      let [r, g, b] = [start, start, start];
      let at = (line + w.first[x]) * step;
      const base = x * w.most;
      for (let k = 0; k < w.count[x]; k++, at += step) {
        const value = w.values[base + k];
        r += image.data[at] * value;
        g += image.data[at + 1] * value;
        b += image.data[at + 2] * value;
      }
      const out = (y * width + x) * 3;
      data[out] = clip(r);
      data[out + 1] = clip(g);
      data[out + 2] = clip(b);
    }
  }
  return { data, width, height: rows, channels: 3 };
}

function lines(image: Raster, w: Weights, top: number): Raster {
  const [height, stride] = [w.first.length, image.width * 3];
  const data = new Uint8Array(height * stride);
  const sums = new Float64Array(stride);
  for (let y = 0; y < height; y++) {
    sums.fill(2 ** (BITS - 1));
    for (let k = 0; k < w.count[y]; k++) {
      const value = w.values[y * w.most + k];
      const line = (w.first[y] + k - top) * stride;
      for (let i = 0; i < stride; i++) sums[i] += image.data[line + i] * value;
    }
    for (let i = 0; i < stride; i++) data[y * stride + i] = clip(sums[i]);
  }
  return { data, width: image.width, height, channels: 3 };
}
