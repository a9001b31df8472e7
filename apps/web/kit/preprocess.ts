/**
 * A picture -> what a graph takes, as `mobileclip/preprocessing.py` and `mobileclip/dense/host*.py` have it: shortest
 * side to the size and the centre of that; stretched to the size; or made to fit with its ratio kept and filled.
 *
 * A rule is first made for a picture's size (`squareRule`, `stretchRule`, `letterboxRule`); it says how to resample, so
 * that pictures may come whole (`applied`) or in strips.
 */

import { PictureError } from "./errors.ts";
import { type Box, type Filter, type Pixels, Resampler } from "./resample.ts";

/** Pillow's limit for a resized picture, in pixels. */
const MOST = 178_956_970;

export interface Rule {
  /** Size that the whole picture is resized to. */
  size: { width: number; height: number };
  /** What of that is taken. */
  crop: Box;
  filter: Filter;
  /** Size of the input; what the crop does not fill (to the right and below) is `pad`. */
  input: { width: number; height: number };
  pad: number;
}

/** Half a number to the even one (Python's `round`). */
function halfEven(value: number): number {
  const low = Math.floor(value);
  return value - low !== 0.5 ? Math.round(value) : low % 2 ? low + 1 : low;
}

/** Shortest side to `size`, then the centre. */
export function squareRule(width: number, height: number, size: number, filter: Filter = "bilinear"): Rule {
  checkedSize(width, height);
  const [short, long] = width < height ? [width, height] : [height, width];
  const wide = Math.trunc((size * long) / short);
  if (size * wide > MOST) {
    const times = Math.floor(MOST / size ** 2).toLocaleString("en");
    throw new PictureError(`The picture is ${width} x ${height}: a side may be at most ${times} times the other.`);
  }
  const whole = width <= height ? { width: size, height: wide } : { width: wide, height: size };
  const crop = {
    left: halfEven((whole.width - size) / 2),
    top: halfEven((whole.height - size) / 2),
    width: size,
    height: size,
  };
  return { size: whole, crop, filter, input: { width: size, height: size }, pad: 0 };
}

/** To rows and columns, ratio not kept. */
export function stretchRule(width: number, height: number, rows: number, columns: number): Rule {
  checkedSize(width, height);
  const size = { width: columns, height: rows };
  return { size, crop: { left: 0, top: 0, ...size }, filter: "bilinear", input: size, pad: 0 };
}

/** Ratio kept, in the upper left corner of rows and columns. */
export function letterboxRule(width: number, height: number, rows: number, columns: number, pad = 0): Rule {
  checkedSize(width, height);
  const inside = content({ width, height }, { width: columns, height: rows });
  return { size: inside, crop: { left: 0, top: 0, ...inside }, filter: "bilinear", input: { width: columns, height: rows }, pad };
}

/** Size of a letterboxed picture inside its input. */
export function content(original: { width: number; height: number }, input: { width: number; height: number }): { width: number; height: number } {
  const scale = Math.min(input.height / original.height, input.width / original.width);
  const side = (value: number, most: number) => Math.min(Math.max(Math.trunc(value * scale + 0.5), 1), most);
  return { width: side(original.width, input.width), height: side(original.height, input.height) };
}

function checkedSize(width: number, height: number): void {
  if (!(width >= 1 && height >= 1)) {
    throw new PictureError(`The picture is ${width} x ${height}: it has no pixels; choose one with at least 1 x 1.`);
  }
}

/** What takes a picture of this size, row by row. */
export function resampler(rule: Rule, width: number, height: number): Resampler {
  return new Resampler(width, height, rule.size, rule.filter, rule.crop);
}

/** What a resampler gave -> RGB bytes of the whole input. */
export function placed(rule: Rule, rgb: Uint8Array): Uint8Array {
  const { crop, input } = rule;
  if (crop.width === input.width && crop.height === input.height) return rgb;
  const out = new Uint8Array(input.width * input.height * 3).fill(rule.pad);
  for (let y = 0; y < crop.height; y++) {
    out.set(rgb.subarray(y * crop.width * 3, (y + 1) * crop.width * 3), y * input.width * 3);
  }
  return out;
}

/** A whole picture by a rule -> RGB bytes of the input. */
export function applied(rule: Rule, image: Pixels): Uint8Array {
  const taking = resampler(rule, image.width, image.height);
  taking.push(image, 0);
  return placed(rule, taking.finish());
}

/**
 * RGB bytes -> float32 [3, H, W], each value times `scale`, and `(x - mean) / std` where they are given. 1/255 is a
 * division by 255, as torchvision's `ToTensor` does it: its last bit is another one than that of a product.
 */
export function toTensor(rgb: Uint8Array, scale = 1 / 255, mean?: readonly number[], std?: readonly number[]): Float32Array {
  const divisor = Math.round(1 / scale);
  const value = Math.abs(1 / scale - divisor) < 1e-6 ? (byte: number) => byte / divisor : (byte: number) => byte * scale;
  const area = rgb.length / 3;
  const out = new Float32Array(rgb.length);
  for (let channel = 0; channel < 3; channel++) {
    const table = Float32Array.from({ length: 256 }, (_, byte) => {
      const x = Math.fround(value(byte));
      if (!mean || !std) return x;
      return Math.fround(Math.fround(x - Math.fround(mean[channel])) / Math.fround(std[channel]));
    });
    for (let i = 0, at = channel; i < area; i++, at += 3) out[channel * area + i] = table[rgb[at]];
  }
  return out;
}
