/**
 * Resizing equal to Pillow's to the bit: convolution with a filter that widens with the scale (so that it has an
 * antialias), along one axis and then the other, each rounded to 8 bits, with weights as integers of 22 bits. Rows are
 * made narrower first; where the height shrinks by more than twice what the width does, columns are made shorter first.
 *
 * Unusual here: a picture may come in strips of rows, and only what a crop needs is worked out, so that 100 megapixels
 * are never in memory as numbers.
 *
 * Source of the formulas: Pillow 13, src/libImaging/Resample.c (precompute_coeffs, ImagingResampleHorizontal_8bpc).
 */

export type Filter = "bilinear" | "bicubic";

export interface Box {
  left: number;
  top: number;
  width: number;
  height: number;
}

/** Rows of 8-bit pixels, 3 (RGB) or 4 (RGBA, the fourth is not used) values each. */
export interface Pixels {
  width: number;
  height: number;
  channels: 3 | 4;
  data: Bytes;
}

type Bytes = Uint8Array | Uint8ClampedArray;

interface Weights {
  first: Int32Array; // of each output, its first input
  count: Int32Array;
  values: Int32Array; // `most` of each output
  most: number;
}

const BITS = 22;
const HALF = 1 << (BITS - 1);

const FILTERS: Record<Filter, { support: number; at: (x: number) => number }> = {
  bilinear: { support: 1, at: (x) => Math.max(1 - Math.abs(x), 0) },
  bicubic: { support: 2, at: cubic },
};

function cubic(value: number): number {
  const a = -0.5;
  const x = Math.abs(value);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

/** Weights of the inputs of outputs `from` to `from + many` of `outputs`, along an axis of `inputs`. */
function weights(inputs: number, outputs: number, filter: Filter, from: number, many: number): Weights {
  const scale = inputs / outputs;
  const stretch = Math.max(scale, 1);
  const support = FILTERS[filter].support * stretch;
  const most = Math.ceil(support) * 2 + 1;
  const found = { first: new Int32Array(many), count: new Int32Array(many), values: new Int32Array(many * most), most };
  const exact = new Float64Array(most);
  for (let place = 0; place < many; place++) {
    const centre = (from + place + 0.5) * scale;
    const low = Math.max(Math.trunc(centre - support + 0.5), 0);
    const high = Math.min(Math.trunc(centre + support + 0.5), inputs);
    let sum = 0;
    for (let i = 0; i < high - low; i++) {
      sum += exact[i] = FILTERS[filter].at((i + low - centre + 0.5) * (1 / stretch));
    }
    for (let i = 0; i < high - low; i++) {
      const share = (sum === 0 ? exact[i] : exact[i] / sum) * (1 << BITS);
      found.values[place * most + i] = Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    }
    found.first[place] = low;
    found.count[place] = high - low;
  }
  return found;
}

function clipped(sum: number): number {
  const value = sum >> BITS;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

/** Takes a picture from top to bottom in strips of rows; `finish` gives the resized (and cropped) RGB bytes. */
export class Resampler {
  /** First row that is needed. */
  readonly top: number;
  /** Row behind the last one that is needed. */
  readonly bottom: number;
  private readonly width: number;
  private readonly crop: Box;
  private readonly across: Weights | null;
  private readonly down: Weights | null;
  private readonly rows: Uint8Array; // across first: needed rows, as wide as the crop
  private readonly sums: Int32Array | null; // down first: of each value of the crop's rows, as wide as the picture

  constructor(
    width: number,
    height: number,
    size: { width: number; height: number },
    filter: Filter = "bilinear",
    crop: Box = { left: 0, top: 0, ...size },
  ) {
    this.width = width;
    this.crop = crop;
    this.across = size.width === width ? null : weights(width, size.width, filter, crop.left, crop.width);
    this.down = size.height === height ? null : weights(height, size.height, filter, crop.top, crop.height);
    const last = crop.height - 1;
    this.top = this.down ? this.down.first[0] : crop.top;
    this.bottom = this.down ? this.down.first[last] + this.down.count[last] : crop.top + crop.height;
    const downFirst = this.across && this.down && height > size.height && height - size.height > 2 * (width - size.width);
    this.sums = downFirst ? new Int32Array(crop.height * width * 3).fill(HALF) : null;
    this.rows = new Uint8Array(downFirst ? 0 : (this.bottom - this.top) * crop.width * 3);
  }

  /** Rows `from` and on of the picture; those that are not needed are passed over. */
  push(strip: Pixels, from: number): void {
    const line = this.width * strip.channels;
    for (let y = Math.max(from, this.top); y < Math.min(from + strip.height, this.bottom); y++) {
      if (this.sums) this.add(strip.data, (y - from) * line, strip.channels, y);
      else this.narrow(strip.data, (y - from) * line, strip.channels, this.rows, (y - this.top) * this.crop.width * 3);
    }
  }

  /** One row to the crop's columns. */
  private narrow(data: Bytes, start: number, channels: number, out: Uint8Array, into: number): void {
    const { across, crop } = this;
    for (let x = 0; x < crop.width; x++, into += 3) {
      if (!across) {
        const at = start + (crop.left + x) * channels;
        out[into] = data[at];
        out[into + 1] = data[at + 1];
        out[into + 2] = data[at + 2];
        continue;
      }
      let [red, green, blue] = [HALF, HALF, HALF];
      let at = start + across.first[x] * channels;
      const begin = x * across.most;
      for (let i = begin; i < begin + across.count[x]; i++, at += channels) {
        const weight = across.values[i];
        red += data[at] * weight;
        green += data[at + 1] * weight;
        blue += data[at + 2] * weight;
      }
      out[into] = clipped(red);
      out[into + 1] = clipped(green);
      out[into + 2] = clipped(blue);
    }
  }

  /** What row `y` gives to the sums of the crop's rows. */
  private add(data: Bytes, start: number, channels: number, y: number): void {
    const { down, sums, crop } = this;
    if (!down || !sums) return;
    for (let row = 0; row < crop.height && down.first[row] <= y; row++) {
      const place = y - down.first[row];
      if (place >= down.count[row]) continue;
      const weight = down.values[row * down.most + place];
      for (let x = 0, at = start, into = row * this.width * 3; x < this.width; x++, at += channels, into += 3) {
        sums[into] += data[at] * weight;
        sums[into + 1] += data[at + 1] * weight;
        sums[into + 2] += data[at + 2] * weight;
      }
    }
  }

  /** RGB bytes, row by row. */
  finish(): Uint8Array {
    const { down, rows, crop, sums } = this;
    const line = crop.width * 3;
    if (sums) {
      const tall = Uint8Array.from(sums, clipped);
      const out = new Uint8Array(crop.height * line);
      for (let y = 0; y < crop.height; y++) this.narrow(tall, y * this.width * 3, 3, out, y * line);
      return out;
    }
    if (!down) return rows;
    const out = new Uint8Array(crop.height * line);
    for (let y = 0; y < crop.height; y++) {
      const start = (down.first[y] - this.top) * line;
      const begin = y * down.most;
      for (let x = 0; x < line; x++) {
        let sum = HALF;
        let at = start + x;
        for (let i = begin; i < begin + down.count[y]; i++, at += line) sum += rows[at] * down.values[i];
        out[y * line + x] = clipped(sum);
      }
    }
    return out;
  }
}

/** A whole picture -> RGB bytes of `size`, or of a box in it. */
export function resized(image: Pixels, size: { width: number; height: number }, filter: Filter = "bilinear", crop?: Box): Uint8Array {
  const resampler = new Resampler(image.width, image.height, size, filter, crop);
  resampler.push(image, 0);
  return resampler.finish();
}
