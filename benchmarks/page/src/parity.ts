/** Outputs against the known answer: the figures and the gate of export/parity.py. */

import type { Gate, KnownAnswer, OutputSpec } from "./types";

/** What is said of two equal arrays: more than float64 can tell apart. */
const LARGEST_DB = 400;

export interface Parity {
  db: number;
  cosine: number;
  max_error: number;
  equal?: number;
  found?: number;
}

/** An output with its shape; integers of 64 bits are numbers by then. */
export interface Output {
  values: ArrayLike<number>;
  shape: readonly number[];
}

/** Floats: signal to error in dB, cosine, largest error; anything not finite gives -400 dB and cosine 0. */
export function compare(output: ArrayLike<number>, reference: ArrayLike<number>): Parity {
  if (output.length !== reference.length) return { db: -LARGEST_DB, cosine: 0, max_error: 3.4028234663852886e38 };
  let [error, signal, own, product, worst] = [0, 0, 0, 0, 0];
  for (let i = 0; i < output.length; i++) {
    const [a, b] = [output[i], reference[i]];
    if (!Number.isFinite(a)) return { db: -LARGEST_DB, cosine: 0, max_error: 3.4028234663852886e38 };
    error += (a - b) ** 2;
    signal += b * b;
    own += a * a;
    product += a * b;
    worst = Math.max(worst, Math.abs(a - b));
  }
  const db = error === 0 ? LARGEST_DB : signal === 0 ? -LARGEST_DB : 10 * Math.log10(signal / error);
  const lengths = Math.sqrt(own) * Math.sqrt(signal);
  const cosine = lengths > 0 ? product / lengths : Number(error === 0);
  return { db: Math.min(db, LARGEST_DB), cosine: Math.min(cosine, 1), max_error: worst };
}

/** Labels: the share that agrees. */
export function compareLabels(output: ArrayLike<number>, reference: ArrayLike<number>): Parity {
  if (output.length !== reference.length) return { db: -LARGEST_DB, cosine: 0, max_error: 0, equal: 0 };
  let [wrong, worst] = [0, 0];
  for (let i = 0; i < output.length; i++) {
    if (output[i] !== reference[i]) wrong++;
    worst = Math.max(worst, Math.abs(output[i] - reference[i]));
  }
  const share = 1 - wrong / Math.max(output.length, 1);
  const db = wrong === 0 ? LARGEST_DB : 10 * Math.log10(output.length / wrong);
  return { db, cosine: share, max_error: worst, equal: share };
}

type Box = readonly [number, number, number, number];

const area = (b: Box): number => Math.max(b[2] - b[0], 0) * Math.max(b[3] - b[1], 0);

function overlap(a: Box, b: Box): number {
  const both = area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);
  return both > 0 ? both / (area(a) + area(b) - both) : 0;
}

function rows(output: Output): number[][] {
  const width = output.values.length / output.shape[0];
  const values = Array.from(output.values);
  return Array.from({ length: output.shape[0] }, (_, i) => values.slice(i * width, (i + 1) * width));
}

/**
 * Objects: boxes [D, 4], scores [D], labels [D], masks; rows may come in another order. One is found again by an object of
 * the same label that no other has claimed and whose box overlaps by at least `least`.
 */
export function compareObjects(outputs: Output[], references: Output[], least = 0.9): Parity[] {
  const [mine, theirs] = [outputs.map(rows), references.map(rows)];
  const box = (row: number[]): Box => row as unknown as Box;
  const there = theirs[0].flatMap((row, i) => (area(box(row)) > 0 ? [i] : []));
  const free = new Set(mine[0].flatMap((row, i) => (area(box(row)) > 0 ? [i] : [])));
  const any = there.length > 0 || free.size > 0;
  const total = Math.max(there.length, free.size, 1);
  const pairs: [number, number][] = [];
  for (const row of there) {
    let [best, most] = [-1, 0];
    for (const other of free) {
      if (mine[2][other][0] !== theirs[2][row][0]) continue;
      const shared = overlap(box(mine[0][other]), box(theirs[0][row]));
      if (shared > most) [best, most] = [other, shared];
    }
    if (best >= 0 && most >= least) {
      free.delete(best);
      pairs.push([best, row]);
    }
  }
  const share = any ? pairs.length / total : 1;
  return outputs.map((_, k) => {
    const a = pairs.length > 0 ? pairs.flatMap(([i]) => mine[k][i]) : [0];
    const b = pairs.length > 0 ? pairs.flatMap(([, i]) => theirs[k][i]) : [share === 1 ? 0 : 1];
    return { ...compare(a, b), found: share };
  });
}

/** One `Parity` an output; `specs` says how each is judged. */
export function compareOutputs(outputs: Output[], references: Output[], specs: OutputSpec[]): Parity[] {
  const matched = specs.flatMap((spec, i) => (spec.compare === "matched" ? [i] : []));
  const objects =
    matched.length > 0 ? compareObjects(matched.map((i) => outputs[i]), matched.map((i) => references[i])) : [];
  return specs.map((spec, i) => {
    if (spec.compare === "matched") return objects[matched.indexOf(i)];
    const judge = spec.compare === "equal" ? compareLabels : compare;
    return judge(outputs[i].values, references[i].values);
  });
}

export function passes(parity: Parity, gate: Gate): boolean {
  if (parity.equal !== undefined) return parity.equal >= gate.equal;
  const objects = parity.found === undefined || parity.found >= gate.found;
  return parity.db >= gate.db && parity.cosine >= gate.cosine && objects;
}

/** What the result says: right where every output passes, with figures no better than any output's. */
export function judged(found: Parity[], gate: Gate): KnownAnswer {
  const all = (key: "equal" | "found"): number | undefined => {
    const shares = found.flatMap((item) => item[key] ?? []);
    return shares.length > 0 && (key === "found" || shares.length === found.length) ? Math.min(...shares) : undefined;
  };
  const [equal, objects] = [all("equal"), all("found")];
  return {
    right: found.every((item) => passes(item, gate)),
    db: Math.min(...found.map((item) => item.db)),
    cosine: Math.min(...found.map((item) => item.cosine)),
    max_error: Math.max(...found.map((item) => item.max_error)),
    ...(equal === undefined ? {} : { equal }),
    ...(objects === undefined ? {} : { found: objects }),
  };
}
