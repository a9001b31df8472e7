/**
 * Search among embeddings: exactly in fp16, in int8, and by sign codes first. Rows and questions are made of unit length,
 * so a score is a cosine. The best come first; of equal ones, the one that was added first.
 */

import { fromHalf, toHalf } from "./half.ts";
import { normalised } from "./ranking.ts";
import { type Dots, dotsOver } from "./simd.ts";

export interface Hit {
  /** Place of the row, in order of adding. */
  place: number;
  score: number;
}

/** Unit vector -> integers and their scale: max|v| / 127; halves are rounded away from zero. */
export function quantised(row: Float32Array): { integers: Int8Array; scale: number } {
  let largest = 0;
  for (const value of row) largest = Math.max(largest, Math.abs(value));
  const integers = new Int8Array(row.length);
  if (!(largest > 0)) return { integers, scale: 0 };
  for (let i = 0; i < row.length; i++) {
    integers[i] = Math.sign(row[i]) * Math.floor((Math.abs(row[i]) * 127) / largest + 0.5);
  }
  return { integers, scale: Math.fround(largest / 127) };
}

/** Unit vector -> one bit a value, whether it is above 0; the first is the lowest of its byte. */
export function signs(row: Float32Array): Uint8Array {
  const out = new Uint8Array(Math.ceil(row.length / 8));
  for (let i = 0; i < row.length; i++) if (row[i] > 0) out[i >> 3] |= 1 << (i & 7);
  return out;
}

/** The `most` highest scores, best first, equal ones in order. */
export function best(scores: ArrayLike<number>, most: number): Hit[] {
  const heap: Hit[] = []; // the worst that is kept is at 0
  const worse = (a: Hit, b: Hit) => a.score < b.score || (a.score === b.score && a.place > b.place);
  const sink = () => {
    for (let at = 0; ; ) {
      let least = at;
      for (const child of [2 * at + 1, 2 * at + 2]) if (child < heap.length && worse(heap[child], heap[least])) least = child;
      if (least === at) return;
      [heap[at], heap[least]] = [heap[least], heap[at]];
      at = least;
    }
  };
  for (let place = 0; place < scores.length; place++) {
    const score = scores[place];
    if (heap.length < most) {
      let at = heap.push({ place, score }) - 1;
      for (let parent = (at - 1) >> 1; at > 0 && worse(heap[at], heap[parent]); at = parent, parent = (at - 1) >> 1) {
        [heap[at], heap[parent]] = [heap[parent], heap[at]];
      }
    } else if (most > 0 && score > heap[0].score) {
      heap[0] = { place, score };
      sink();
    }
  }
  return heap.sort((a, b) => b.score - a.score || a.place - b.place);
}

/** Exact search in fp16: 2 bytes a value. */
export class HalfIndex {
  readonly width: number;
  private rows = new Uint16Array(0);
  private filled = 0;

  constructor(width: number) {
    this.width = width;
  }

  get count(): number {
    return this.filled;
  }

  add(embedding: ArrayLike<number>): void {
    if ((this.filled + 1) * this.width > this.rows.length) {
      const larger = new Uint16Array(Math.max(64, this.filled * 2) * this.width);
      larger.set(this.rows);
      this.rows = larger;
    }
    const row = normalised(embedding);
    for (let i = 0; i < this.width; i++) this.rows[this.filled * this.width + i] = toHalf(row[i]);
    this.filled++;
  }

  /** The stored bits of a row. */
  stored(place: number): Uint16Array {
    return this.rows.subarray(place * this.width, (place + 1) * this.width);
  }

  search(question: ArrayLike<number>, most: number): Hit[] {
    const asked = normalised(question);
    const scores = new Float64Array(this.filled);
    for (let place = 0, at = 0; place < this.filled; place++) {
      let sum = 0;
      for (let i = 0; i < this.width; i++, at++) sum += HALVES[this.rows[at]] * asked[i];
      scores[place] = sum;
    }
    return best(scores, most);
  }
}

const HALVES = Float32Array.from({ length: 65536 }, (_, half) => fromHalf(half));
const BATCH = 4096; // rows whose products are worked out at once
const PAGE = 65536;

/** Search in int8, 1 byte a value, and by sign codes first. Rows lie in a WebAssembly memory, each padded to 16 bytes. */
export class IntegerIndex {
  readonly width: number;
  private readonly padded: number;
  private readonly memory = new WebAssembly.Memory({ initial: 1 });
  private readonly dots: Dots | null;
  private readonly start: number; // of the rows; before them the question and a batch's results
  private readonly words: number; // 32-bit words of a sign code
  private codes = new Uint32Array(0);
  private scales = new Float32Array(0);
  private filled = 0;

  constructor(width: number, simd = true) {
    this.width = width;
    this.padded = Math.ceil(width / 16) * 16;
    this.words = Math.ceil(width / 32);
    this.start = this.padded * 2 + BATCH * 4;
    this.dots = simd ? dotsOver(this.memory) : null;
  }

  get count(): number {
    return this.filled;
  }

  /** Adds an embedding, of any length. */
  add(embedding: ArrayLike<number>): void {
    const row = normalised(embedding);
    const { integers, scale } = quantised(row);
    this.room(this.filled + 1);
    new Int8Array(this.memory.buffer).set(integers, this.start + this.filled * this.padded);
    this.scales[this.filled] = scale;
    new Uint8Array(this.codes.buffer).set(signs(row), this.filled * this.words * 4);
    this.filled++;
  }

  private room(count: number): void {
    const missing = this.start + count * this.padded - this.memory.buffer.byteLength;
    // by an eighth more than needed, so that adding one by one stays linear
    if (missing > 0) this.memory.grow(Math.ceil((missing + this.memory.buffer.byteLength / 8) / PAGE));
    if (count > this.scales.length) {
      const larger = Math.max(64, Math.ceil(count * 1.5));
      const [scales, codes] = [new Float32Array(larger), new Uint32Array(larger * this.words)];
      scales.set(this.scales);
      codes.set(this.codes);
      [this.scales, this.codes] = [scales, codes];
    }
  }

  /** The stored integers of a row. */
  stored(place: number): Int8Array {
    return new Int8Array(this.memory.buffer, this.start + place * this.padded, this.width);
  }

  scale(place: number): number {
    return this.scales[place];
  }

  /** The sign code of a row. */
  code(place: number): Uint8Array {
    return new Uint8Array(this.codes.buffer, place * this.words * 4, Math.ceil(this.width / 8));
  }

  /** The best of all rows. */
  search(question: ArrayLike<number>, most: number): Hit[] {
    const asked = this.ask(normalised(question));
    const scores = new Float64Array(this.filled);
    const sums = new Int32Array(this.memory.buffer, this.padded * 2, BATCH);
    for (let from = 0; from < this.filled; from += BATCH) {
      const many = Math.min(BATCH, this.filled - from);
      this.multiply(from, many, asked.integers);
      for (let i = 0; i < many; i++) scores[from + i] = sums[i] * this.scales[from + i];
    }
    return best(scores, most).map(({ place, score }) => ({ place, score: score * asked.scale }));
  }

  /** The best of those `candidates` whose sign codes differ least: faster still, and not exact. */
  searchCodes(question: ArrayLike<number>, most: number, candidates: number): Hit[] {
    const row = normalised(question);
    const asked = this.ask(row);
    const near = least(this.distances(row), this.width, candidates);
    const sums = new Int32Array(this.memory.buffer, this.padded * 2, 1);
    const scores = new Float64Array(near.length);
    for (let i = 0; i < near.length; i++) {
      this.multiply(near[i], 1, asked.integers);
      scores[i] = sums[0] * this.scales[near[i]];
    }
    return best(scores, most).map(({ place, score }) => ({ place: near[place], score: score * asked.scale }));
  }

  /** Puts a question before the rows. */
  private ask(row: Float32Array): { integers: Int8Array; scale: number } {
    const asked = quantised(row);
    const wide = new Int16Array(this.memory.buffer, 0, this.padded).fill(0);
    wide.set(asked.integers);
    return asked;
  }

  /** Products of rows with the question, to the place of a batch's results. */
  private multiply(from: number, many: number, question: Int8Array): void {
    const [start, sums] = [this.start + from * this.padded, this.padded * 2];
    if (this.dots) {
      this.dots(start, 0, many, this.padded, sums);
      return;
    }
    const rows = new Int8Array(this.memory.buffer, start, many * this.padded);
    const out = new Int32Array(this.memory.buffer, sums, many);
    for (let place = 0, at = 0; place < many; place++, at += this.padded) {
      let sum = 0;
      for (let i = 0; i < question.length; i++) sum += rows[at + i] * question[i];
      out[place] = sum;
    }
  }

  /** Of each row, the number of signs that differ from those of a unit vector. */
  distances(row: Float32Array): Int32Array {
    const asked = new Uint32Array(this.words);
    new Uint8Array(asked.buffer).set(signs(row));
    const out = new Int32Array(this.filled);
    for (let place = 0, at = 0; place < this.filled; place++) {
      let bits = 0;
      for (let i = 0; i < this.words; i++, at++) bits += ones(this.codes[at] ^ asked[i]);
      out[place] = bits;
    }
    return out;
  }
}

/** Places of the `many` least distances (0 to `most`), ascending; of equal ones the first. */
function least(distances: Int32Array, most: number, many: number): Int32Array {
  const counts = new Int32Array(most + 1);
  for (const distance of distances) counts[distance]++;
  let [limit, within] = [0, 0]; // all below the limit, and of those at it as many as there is room for
  while (limit < most && within + counts[limit] <= many) within += counts[limit++];
  const out = new Int32Array(Math.min(many, distances.length));
  for (let place = 0, into = 0, room = many - within; into < out.length; place++) {
    if (distances[place] < limit || (distances[place] === limit && room-- > 0)) out[into++] = place;
  }
  return out;
}

/** Bits that are set in 32 (Hacker's Delight, 5-1). */
function ones(word: number): number {
  word -= (word >>> 1) & 0x55555555;
  word = (word & 0x33333333) + ((word >>> 2) & 0x33333333);
  return Math.imul((word + (word >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
