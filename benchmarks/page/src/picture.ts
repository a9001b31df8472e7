/** An encoded picture -> what an artifact takes, by the rule that its manifest states. */

import { Told } from "./files";
import { resized, type Filter, type Raster } from "./resize";
import type { InputSpec } from "./types";

/** Where a picture of some size goes in an input of another. */
export interface Placement {
  width: number;
  height: number;
  left: number;
  top: number;
  filter: Filter;
}

const SQUARE = /^shortest side to (\d+), (bilinear|bicubic), antialias$/;
const STRETCH = /^stretch to (\d+) rows and (\d+) columns, bilinear, antialias$/;

/** Python's round: halves to the even neighbour. */
function even(value: number): number {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

/** The size that a picture is resized to, and what is cut from it (mobileclip/preprocessing.py: square). */
export function placement(width: number, height: number, input: InputSpec): Placement {
  const rule = input.resize ?? "";
  const [rows, columns] = input.shape.slice(-2);
  const square = SQUARE.exec(rule);
  if (square && input.crop === "centre") {
    const size = Number(square[1]);
    const [short, long] = width <= height ? [width, height] : [height, width];
    const wide = Math.trunc((size * long) / short);
    const [w, h] = width <= height ? [size, wide] : [wide, size];
    return { width: w, height: h, left: even((w - columns) / 2), top: even((h - rows) / 2), filter: square[2] as Filter };
  }
  const stretch = STRETCH.exec(rule);
  if (stretch && Number(stretch[1]) === rows && Number(stretch[2]) === columns)
    return { width: columns, height: rows, left: 0, top: 0, filter: "bilinear" };
  throw new Told(`the rule '${rule}', crop '${input.crop}' is unknown to this page: pictures are not timed.`);
}

/** RGB pixels of an input's size. */
export function fitted(image: Raster, input: InputSpec): Raster {
  const [height, width] = input.shape.slice(-2);
  const at = placement(image.width, image.height, input);
  return resized(image, at.width, at.height, { left: at.left, top: at.top, width, height }, at.filter);
}

/** RGB rows -> float32 [3, H, W] times `scale`. */
export function planes(image: Raster, scale: number): Float32Array<ArrayBuffer> {
  const size = image.width * image.height;
  const out = new Float32Array(3 * size);
  for (let i = 0; i < size; i++)
    for (let c = 0; c < 3; c++) out[c * size + i] = image.data[i * 3 + c] * scale;
  return out;
}

/** Upright RGBA pixels of an encoded picture, its colours as they are stored. */
export async function decoded(bytes: Uint8Array<ArrayBuffer>): Promise<Raster> {
  const bitmap = await createImageBitmap(new Blob([bytes]), { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (!context) throw new Told("this browser gives no canvas to a worker: pictures are not timed.");
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return { data: context.getImageData(0, 0, width, height).data, width, height, channels: 4 };
}
