/** How a picture lies: the EXIF orientation of JPEG and PNG files, and pixels turned upright. For where a decoder does not. */

import type { Pixels } from "./resample.ts";

const TAG = 0x0112; // EXIF 2.32, table 4

/** 1 to 8; 1 where nothing is said or what is said is broken. */
export function orientation(file: Uint8Array): number {
  try {
    const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
    const block = view.getUint16(0) === 0xffd8 ? inJpeg(view) : view.getUint32(0) === 0x89504e47 ? inPng(view) : null;
    return block ? inTiff(block) : 1;
  } catch (error) {
    if (error instanceof RangeError) return 1; // cut short
    throw error;
  }
}

function inJpeg(view: DataView): DataView | null {
  for (let at = 2; at + 4 <= view.byteLength; ) {
    if (view.getUint8(at) !== 0xff) return null;
    const marker = view.getUint8(at + 1);
    if (marker === 0xff) {
      at++; // a byte of filling
      continue;
    }
    if (marker === 0xda || marker === 0xd9) return null;
    const length = view.getUint16(at + 2);
    if (marker === 0xe1 && view.getUint32(at + 4) === 0x45786966) return part(view, at + 10, length - 8); // "Exif\0\0"
    at += 2 + length;
  }
  return null;
}

function inPng(view: DataView): DataView | null {
  for (let at = 8; at + 8 <= view.byteLength; ) {
    const length = view.getUint32(at);
    if (view.getUint32(at + 4) === 0x65584966) return part(view, at + 8, length); // "eXIf"
    at += 12 + length;
  }
  return null;
}

function part(view: DataView, start: number, length: number): DataView {
  return new DataView(view.buffer, view.byteOffset + start, Math.min(length, view.byteLength - start));
}

function inTiff(view: DataView): number {
  const order = view.getUint16(0);
  if (order !== 0x4949 && order !== 0x4d4d) return 1;
  const little = order === 0x4949;
  if (view.getUint16(2, little) !== 42) return 1;
  const start = view.getUint32(4, little);
  for (let i = 0; i < view.getUint16(start, little); i++) {
    const at = start + 2 + 12 * i;
    if (view.getUint16(at, little) === TAG) {
      const value = view.getUint16(at + 8, little);
      return value >= 1 && value <= 8 ? value : 1;
    }
  }
  return 1;
}

/** Pixels as they must be shown. */
export function upright(image: Pixels, turn: number): Pixels {
  if (turn <= 1 || turn > 8) return image;
  const { width, height, channels, data } = image;
  const swaps = turn >= 5;
  const out = { width: swaps ? height : width, height: swaps ? width : height, channels, data: new Uint8Array(data.length) };
  for (let y = 0, into = 0; y < out.height; y++) {
    for (let x = 0; x < out.width; x++, into += channels) {
      const [a, b] = swaps ? [y, x] : [x, y]; // column and row as they lie, but for the mirroring
      const column = [2, 3, 7, 8].includes(turn) ? width - 1 - a : a;
      const row = [3, 4, 6, 7].includes(turn) ? height - 1 - b : b;
      const at = (row * width + column) * channels;
      for (let c = 0; c < channels; c++) out.data[into + c] = data[at + c];
    }
  }
  return out;
}
