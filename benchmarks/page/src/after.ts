/** What an app makes of an output: an embedding is ranked, maps are enlarged and coloured (mobileclip/dense/host.py). */

import type { Output } from "./parity";
import type { Subject } from "./types";

/** Makes what is shown of the outputs of one picture of `width` x `height`; null where this page cannot. */
export type After = (outputs: Output[], width: number, height: number) => unknown;

export function afterOf(subject: Subject): After | null {
  if (subject.view === "image") {
    let bank: Float32Array[] | null = null;
    return ([embedding]) => {
      bank ??= unitVectors(subject.labels, embedding.values.length);
      return ranked(embedding.values, bank);
    };
  }
  if (subject.view === "segmentation" && subject.outputs.length === 1) {
    const labels = subject.outputs[0].compare === "equal";
    const palette = colours(Math.max(subject.labels, 1));
    return ([map], width, height) => coloured(labels ? nearest(map, width, height) : best(map, width, height), palette);
  }
  if (subject.view === "depth" && subject.outputs.length === 1)
    return ([map], width, height) => coloured(greys(map, width, height), colours(256));
  return null;
}

/** Texts' embeddings stand on the device beforehand; which they are does not matter to the time. */
export function unitVectors(count: number, length: number): Float32Array[] {
  let seed = 1;
  const next = (): number => (seed = (seed * 48271) % 2147483647) / 2147483647 - 0.5; // Park and Miller's generator
  return Array.from({ length: Math.max(count, 1) }, () => unit(Float32Array.from({ length }, next)));
}

export function unit(values: ArrayLike<number>): Float32Array {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i] * values[i];
  const scale = sum > 0 ? 1 / Math.sqrt(sum) : 0;
  return Float32Array.from(values, (value) => value * scale);
}

/** Places of `bank`, the most similar first, with their cosines. */
export function ranked(embedding: ArrayLike<number>, bank: Float32Array[]): { place: number; cosine: number }[] {
  const mine = unit(embedding);
  const scored = bank.map((other, place) => {
    let cosine = 0;
    for (let i = 0; i < mine.length; i++) cosine += mine[i] * other[i];
    return { place, cosine };
  });
  return scored.sort((a, b) => b.cosine - a.cosine);
}

/** Of `many` places along an axis of `few`: the two that each lies between, and the share of the second. */
function between(few: number, many: number): { first: Int32Array; second: Int32Array; share: Float32Array } {
  const [first, second, share] = [new Int32Array(many), new Int32Array(many), new Float32Array(many)];
  for (let i = 0; i < many; i++) {
    const at = Math.max((i + 0.5) * (few / many) - 0.5, 0);
    first[i] = Math.min(Math.trunc(at), few - 1);
    second[i] = Math.min(first[i] + 1, few - 1);
    share[i] = at - first[i];
  }
  return { first, second, share };
}

/** Calls `use` with each channel of [1, C, h, w] enlarged bilinearly, row by row, so that they never exist at once. */
function enlarged(
  map: Output,
  width: number,
  height: number,
  use: (row: number, channel: number, values: Float32Array) => void,
): void {
  const [h, w] = map.shape.slice(-2);
  const channels = map.values.length / (h * w);
  const [down, across] = [between(h, height), between(w, width)];
  const [line, out] = [new Float32Array(w), new Float32Array(width)];
  for (let y = 0; y < height; y++)
    for (let c = 0; c < channels; c++) {
      const [a, b] = [(c * h + down.first[y]) * w, (c * h + down.second[y]) * w];
      const s = down.share[y];
      for (let x = 0; x < w; x++) line[x] = map.values[a + x] * (1 - s) + map.values[b + x] * s;
      for (let x = 0; x < width; x++) {
        const t = across.share[x];
        out[x] = line[across.first[x]] * (1 - t) + line[across.second[x]] * t;
      }
      use(y, c, out);
    }
}

/** Logits -> the best class of each pixel of the picture. */
export function best(map: Output, width: number, height: number): Uint8Array {
  const out = new Uint8Array(width * height);
  const most = new Float32Array(width);
  enlarged(map, width, height, (row, channel, values) => {
    if (channel === 0) most.fill(-Infinity);
    for (let x = 0; x < width; x++)
      if (values[x] > most[x]) {
        most[x] = values[x];
        out[row * width + x] = channel;
      }
  });
  return out;
}

/** Labels -> the nearest of each pixel of the picture. */
export function nearest(map: Output, width: number, height: number): Uint8Array {
  const [h, w] = map.shape.slice(-2);
  const place = (i: number, few: number, many: number): number => Math.trunc(Math.min(((i + 0.5) * few) / many, few - 1));
  const columns = Int32Array.from({ length: width }, (_, x) => place(x, w, width));
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const line = place(y, h, height) * w;
    for (let x = 0; x < width; x++) out[y * width + x] = map.values[line + columns[x]];
  }
  return out;
}

/** Distances -> 0 (nearest) .. 255 (farthest) of each pixel of the picture. */
export function greys(map: Output, width: number, height: number): Uint8Array {
  const metres = new Float32Array(width * height);
  enlarged(map, width, height, (row, _, values) => metres.set(values, row * width));
  let [low, high] = [Infinity, -Infinity];
  for (let i = 0; i < metres.length; i++) {
    low = Math.min(low, metres[i]);
    high = Math.max(high, metres[i]);
  }
  const out = new Uint8Array(metres.length);
  for (let i = 0; i < out.length; i++) out[i] = Math.round((255 * (metres[i] - low)) / (high - low || 1));
  return out;
}

/** RGBA of classes: hues a golden angle apart, as 32-bit values for one write a pixel. */
function colours(count: number): Uint32Array {
  return Uint32Array.from({ length: count }, (_, i) => {
    const channel = (shift: number): number => Math.round(127.5 + 127.5 * Math.cos(i * 2.399963 + shift));
    return ((255 << 24) | (channel(4.19) << 16) | (channel(2.09) << 8) | channel(0)) >>> 0;
  });
}

function coloured(labels: Uint8Array, palette: Uint32Array): Uint32Array {
  const out = new Uint32Array(labels.length); // `from` with a function takes some twenty times as long
  for (let i = 0; i < out.length; i++) out[i] = palette[labels[i] % palette.length];
  return out;
}
