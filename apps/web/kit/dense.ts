/**
 * What is made of a segmentation or depth output, as `mobileclip/dense/host.py` has it: stretched to the size of the
 * picture, logits and depths bilinearly (corners not aligned), labels to the nearest.
 */

export interface Size {
  height: number;
  width: number;
}

interface Places {
  first: Int32Array;
  second: Int32Array;
  share: Float32Array;
}

/** Of `many` outputs along an axis of `few` inputs: the two that each lies between, and the share of the second. */
function places(few: number, many: number): Places {
  const found = { first: new Int32Array(many), second: new Int32Array(many), share: new Float32Array(many) };
  for (let i = 0; i < many; i++) {
    const at = Math.max((i + 0.5) * (few / many) - 0.5, 0);
    const first = Math.min(Math.trunc(at), few - 1);
    found.first[i] = first;
    found.second[i] = Math.min(first + 1, few - 1);
    found.share[i] = at - first;
  }
  return found;
}

/** Rows of maps [C, h, w] enlarged to `size`, from top to bottom: calls `row(y, values)` with [C, width]. */
function enlarged(
  maps: Float32Array,
  channels: number,
  small: Size,
  size: Size,
  row: (y: number, values: Float32Array) => void,
): void {
  const down = places(small.height, size.height);
  const across = places(small.width, size.width);
  const values = new Float32Array(channels * size.width);
  const wide = new Map<number, Float32Array>(); // rows of the small maps as wide as the picture
  const widened = (y: number): Float32Array => {
    const known = wide.get(y);
    if (known) return known;
    for (const other of wide.keys()) if (other < y - 1) wide.delete(other);
    const out = new Float32Array(channels * size.width);
    for (let c = 0; c < channels; c++) {
      const start = (c * small.height + y) * small.width;
      for (let x = 0; x < size.width; x++) {
        const share = across.share[x];
        const left = Math.fround(maps[start + across.first[x]] * Math.fround(1 - share));
        out[c * size.width + x] = left + Math.fround(maps[start + across.second[x]] * share);
      }
    }
    wide.set(y, out);
    return out;
  };
  for (let y = 0; y < size.height; y++) {
    const [above, below, share] = [widened(down.first[y]), widened(down.second[y]), down.share[y]];
    const rest = Math.fround(1 - share);
    for (let i = 0; i < values.length; i++) values[i] = Math.fround(above[i] * rest) + Math.fround(below[i] * share);
    row(y, values);
  }
}

/** Logits [1, K, h, w] -> the best class of each pixel; of equal ones the first. */
export function segmented(logits: Float32Array, classes: number, small: Size, size: Size): Uint8Array {
  const out = new Uint8Array(size.height * size.width);
  const most = new Float32Array(size.width);
  enlarged(logits, classes, small, size, (y, values) => {
    const labels = out.subarray(y * size.width, (y + 1) * size.width);
    most.set(values.subarray(0, size.width));
    for (let c = 1, at = size.width; c < classes; c++) {
      for (let x = 0; x < size.width; x++, at++) {
        if (values[at] > most[x]) {
          most[x] = values[at];
          labels[x] = c;
        }
      }
    }
  });
  return out;
}

/** Labels [1, 1, h, w], any integers -> the nearest of each pixel. */
export function segmentedLabels(labels: ArrayLike<number | bigint>, small: Size, size: Size): Uint8Array {
  const nearest = (few: number, many: number) =>
    Int32Array.from({ length: many }, (_, i) => Math.trunc(Math.min(((i + 0.5) * few) / many, few - 1)));
  const [rows, columns] = [nearest(small.height, size.height), nearest(small.width, size.width)];
  const out = new Uint8Array(size.height * size.width);
  for (let y = 0, at = 0; y < size.height; y++) {
    const start = rows[y] * small.width;
    for (let x = 0; x < size.width; x++, at++) out[at] = Number(labels[start + columns[x]]);
  }
  return out;
}

/** Distances [1, 1, h, w] in metres -> those of each pixel. */
export function depths(output: Float32Array, small: Size, size: Size): Float32Array {
  const out = new Float32Array(size.height * size.width);
  enlarged(output, 1, small, size, (y, values) => out.set(values, y * size.width));
  return out;
}
