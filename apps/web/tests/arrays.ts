/** Golden files: JSON, and arrays in base64. */

import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

export const GOLDEN = fileURLToPath(new URL("../../golden/", import.meta.url));

export interface Stored {
  dtype: keyof typeof KINDS;
  shape: number[];
  base64: string;
}

const KINDS = {
  uint8: Uint8Array,
  int8: Int8Array,
  uint16: Uint16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  float16: Uint16Array, // bits
  float32: Float32Array,
};

export function golden<T>(name: string): T {
  const found = JSON.parse(readFileSync(`${GOLDEN}${name}`, "utf8")) as { version: number; cases: unknown[] };
  if (found.version !== 1) throw new Error(`${name} is of version ${found.version}, these tests read 1`);
  if (!found.cases.length) throw new Error(`${name} has no cases`);
  return found as T;
}

export function array<T>(entry: Stored): T {
  const bytes = new Uint8Array(Buffer.from(entry.base64, "base64"));
  return new KINDS[entry.dtype](bytes.buffer) as T;
}

/** Rows of a two-dimensional array. */
export function rows(entry: Stored): Float32Array[] {
  const values = array<Float32Array>(entry);
  const [count, width] = entry.shape;
  return Array.from({ length: count }, (_, i) => values.subarray(i * width, (i + 1) * width));
}

/** Largest difference of two arrays of one length. */
export function difference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  if (a.length !== b.length) return Infinity;
  let most = 0;
  for (let i = 0; i < a.length; i++) if (!Object.is(a[i], b[i])) most = Math.max(most, Math.abs(a[i] - b[i]));
  return most;
}
