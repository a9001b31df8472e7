/**
 * What is made of a detector's outputs, as `mobileclip/dense/host_detection.py` has it: objects of the picture as it came.
 *
 * Legend: K classes, N points, P prototypes, D rows of Mask R-CNN, n objects that are kept.
 */

import type { Size } from "./dense.ts";
import { content } from "./preprocess.ts";

export interface Found {
  /** [n, 4]: left, top, right, bottom in pixels of the picture. */
  boxes: Float32Array;
  scores: Float32Array;
  classes: Int32Array;
  /** Of each object, 1 where a pixel of the picture is its. */
  masks: Uint8Array[];
}

export interface Settings {
  /** Least score. */
  threshold: number;
  /** Objects at most. */
  most: number;
  /** Overlap (IoU) above which the worse of two of a class goes; null: the head needs none. */
  nms: number | null;
  /** Best answers that enter suppression. */
  candidates: number;
}

export const SETTINGS: Settings = { threshold: 0.05, most: 100, nms: null, candidates: 1000 };

interface Between {
  first: Int32Array;
  second: Int32Array;
  share: Float32Array;
}

/** The raw outputs of a one-stage head: boxes [1, 4, N], scores [1, K, N], coeffs [1, P, N], protos [1, P, h, w]. */
export function detected(
  outputs: { boxes: Float32Array; scores: Float32Array; coeffs: Float32Array; protos: Float32Array },
  shape: { classes: number; prototypes: number; height: number; width: number },
  original: Size,
  settings: Settings = SETTINGS,
  inside: Size = content(original, { height: 4 * shape.height, width: 4 * shape.width }),
): Found {
  const points = outputs.boxes.length / 4;
  const limit = settings.nms === null ? settings.most : settings.candidates;
  const best = bestScores(outputs.scores, settings.threshold, limit);
  const corners = new Float32Array(best.length * 4);
  best.forEach((place, i) => {
    for (let side = 0; side < 4; side++) corners[4 * i + side] = outputs.boxes[side * points + (place % points)];
  });
  const boxes = toOriginal(corners, original, inside);
  let kept = best.map((_, i) => i).filter((i) => hasArea(boxes, i));
  const classOf = (i: number) => Math.floor(best[i] / points);
  if (settings.nms !== null) kept = suppressed(boxes, kept, classOf, settings.nms);
  kept = kept.slice(0, settings.most);
  const masks = kept.map((i) => {
    const own = Float32Array.from({ length: shape.prototypes }, (_, p) => outputs.coeffs[p * points + (best[i] % points)]);
    return mixed(own, outputs.protos, shape, boxes.subarray(4 * i, 4 * i + 4), original, inside);
  });
  return {
    boxes: Float32Array.from(kept.flatMap((i) => [...boxes.subarray(4 * i, 4 * i + 4)])),
    scores: Float32Array.from(kept, (i) => outputs.scores[best[i]]),
    classes: Int32Array.from(kept, classOf),
    masks,
  };
}

/** The outputs of a static Mask R-CNN: boxes [D, 4], scores [D], labels [D], masks [D, m, m]. */
export function detectedRegions(
  outputs: { boxes: Float32Array; scores: Float32Array; labels: ArrayLike<number>; masks: Float32Array },
  side: number,
  original: Size,
  input: Size,
  settings: Settings = SETTINGS,
  inside: Size = content(original, input),
): Found {
  const boxes = toOriginal(outputs.boxes, original, inside);
  const order = Array.from(outputs.scores, (_, i) => i)
    .sort((a, b) => outputs.scores[b] - outputs.scores[a] || a - b)
    .filter((i) => outputs.scores[i] > settings.threshold && hasArea(boxes, i))
    .slice(0, settings.most);
  return {
    boxes: Float32Array.from(order.flatMap((i) => [...boxes.subarray(4 * i, 4 * i + 4)])),
    scores: Float32Array.from(order, (i) => outputs.scores[i]),
    classes: Int32Array.from(order, (i) => outputs.labels[i]),
    masks: order.map((i) =>
      pasted(outputs.masks.subarray(i * side * side, (i + 1) * side * side), side, boxes.subarray(4 * i, 4 * i + 4), original),
    ),
  };
}

function hasArea(boxes: Float32Array, i: number): boolean {
  return boxes[4 * i + 2] > boxes[4 * i] && boxes[4 * i + 3] > boxes[4 * i + 1];
}

/** Places of the best `most` scores above a threshold, best first; equal ones in order. */
function bestScores(scores: Float32Array, threshold: number, most: number): number[] {
  const least = Math.fround(threshold);
  const places: number[] = [];
  for (let i = 0; i < scores.length; i++) if (scores[i] > least) places.push(i);
  return places.sort((a, b) => scores[b] - scores[a] || a - b).slice(0, most);
}

/** From pixels of the input to pixels of the picture, clipped to it. */
function toOriginal(boxes: Float32Array, original: Size, inside: Size): Float32Array {
  const ratios = [Math.fround(original.width / inside.width), Math.fround(original.height / inside.height)];
  const ends = [original.width, original.height];
  return boxes.map((value, i) => Math.min(Math.max(Math.fround(value * ratios[i % 2]), 0), ends[i % 2]));
}

/** Of boxes, best first, those that stay: each removes all later ones of its class that overlap it too much. */
function suppressed(boxes: Float32Array, places: number[], classOf: (i: number) => number, overlap: number): number[] {
  const f = Math.fround;
  const area = (i: number) => f(f(boxes[4 * i + 2] - boxes[4 * i]) * f(boxes[4 * i + 3] - boxes[4 * i + 1]));
  const kept: number[] = [];
  for (const i of places) {
    const stays = kept.every((other) => {
      if (classOf(other) !== classOf(i)) return true;
      const across = f(Math.min(boxes[4 * i + 2], boxes[4 * other + 2]) - Math.max(boxes[4 * i], boxes[4 * other]));
      const down = f(Math.min(boxes[4 * i + 3], boxes[4 * other + 3]) - Math.max(boxes[4 * i + 1], boxes[4 * other + 1]));
      const common = f(Math.max(across, 0) * Math.max(down, 0));
      return !(common > f(f(overlap) * f(f(area(i) + area(other)) - common)));
    });
    if (stays) kept.push(i);
  }
  return kept;
}

/** The mask of one object: where the sum of its coefficients times prototypes, between these bilinearly, is above 0. */
function mixed(
  own: Float32Array,
  protos: Float32Array,
  shape: { height: number; width: number },
  box: Float32Array,
  original: Size,
  inside: Size,
): Uint8Array {
  const area = shape.height * shape.width;
  const logits = new Float32Array(area);
  own.forEach((coefficient, p) => {
    for (let i = 0, at = p * area; i < area; i++, at++) logits[i] += coefficient * protos[at];
  });
  const axis = (low: number, high: number, many: number, some: number, few: number) => {
    const [start, stop] = [Math.max(Math.ceil(low - 0.5), 0), Math.min(Math.ceil(high - 0.5), many)];
    const at = Float64Array.from({ length: Math.max(stop - start, 0) }, (_, i) => ((start + i + 0.5) * (some / many)) / 4 - 0.5);
    return { start, places: between(at, few) };
  };
  const down = axis(box[1], box[3], original.height, inside.height, shape.height);
  const across = axis(box[0], box[2], original.width, inside.width, shape.width);
  return filled(logits, shape.width, down, across, original, 0);
}

/** The mask of one object from probabilities over its box: stretched as torchvision's `paste_masks_in_image` does. */
function pasted(mask: Float32Array, m: number, box: Float32Array, original: Size): Uint8Array {
  const f = Math.fround;
  const side = m + 2;
  const padded = new Float32Array(side * side);
  for (let y = 0; y < m; y++) padded.set(mask.subarray(y * m, (y + 1) * m), (y + 1) * side + 1);
  const grow = f(f(side / (side - 2)) * 0.5);
  const corners = [0, 1].map((i) => {
    const half = f(f(box[i + 2] - box[i]) * grow);
    const middle = f(f(box[i + 2] + box[i]) * 0.5);
    return [Math.trunc(f(middle - half)), Math.trunc(f(middle + half))];
  });
  const axis = ([low, high]: number[], many: number) => {
    const [start, stop] = [Math.max(low, 0), Math.min(high + 1, many)];
    const at = Float64Array.from(
      { length: Math.max(stop - start, 0) },
      (_, i) => (start + i - low + 0.5) * (side / (high - low + 1)) - 0.5,
    );
    return { start, places: between(at, side) };
  };
  return filled(padded, side, axis(corners[1], original.height), axis(corners[0], original.width), original, 0.5);
}

/** Of positions among `few` samples, the two that each lies between; beyond the outer ones, these. */
function between(at: Float64Array, few: number): Between {
  const place = at.map((value) => Math.min(Math.max(value, 0), few - 1));
  const first = Int32Array.from(place, Math.trunc);
  return {
    first,
    second: first.map((value) => Math.min(value + 1, few - 1)),
    share: Float32Array.from(place, (value, i) => value - first[i]),
  };
}

/** 1 where values, bilinearly at rows and columns between their own, are above `least`. */
function filled(
  values: Float32Array,
  line: number,
  down: { start: number; places: Between },
  across: { start: number; places: Between },
  original: Size,
  least: number,
): Uint8Array {
  const f = Math.fround;
  const out = new Uint8Array(original.height * original.width);
  const [rows, columns] = [down.places, across.places];
  for (let y = 0; y < rows.first.length; y++) {
    const [above, below] = [rows.first[y] * line, rows.second[y] * line];
    const [second, rest] = [rows.share[y], f(1 - rows.share[y])];
    const into = (down.start + y) * original.width + across.start;
    for (let x = 0; x < columns.first.length; x++) {
      const [left, right] = [columns.first[x], columns.second[x]];
      const [share, most] = [columns.share[x], f(1 - columns.share[x])];
      const top = f(f(values[above + left] * most) + f(values[above + right] * share));
      const bottom = f(f(values[below + left] * most) + f(values[below + right] * share));
      if (f(f(top * rest) + f(bottom * second)) > least) out[into + x] = 1;
    }
  }
  return out;
}
