/**
 * Dot products of bytes in WebAssembly with SIMD, made here instruction by instruction: an engine turns the same loop
 * over typed arrays into one product at a time, which is several times slower.
 *
 * One function: `dots(rows, question, count, width, out)`, addresses in bytes: for each of `count` rows of `width`
 * int8 (a multiple of 16) its product with `width` int16, as int32.
 *
 * Source of the encoding: WebAssembly core specification 2.0, sections 5.4 and 5.5.
 */

const I32 = 0x7f;
const V128 = 0x7b;
const [ROWS, QUESTION, COUNT, WIDTH, OUT, PLACE, LOW, HIGH, BYTES] = [0, 1, 2, 3, 4, 5, 6, 7, 8]; // parameters, locals

function number(value: number): number[] {
  const out: number[] = []; // unsigned LEB128
  do {
    const rest = value >>> 7;
    out.push((value & 0x7f) | (rest ? 0x80 : 0));
    value = rest;
  } while (value);
  return out;
}

function section(id: number, content: number[]): number[] {
  return [id, ...number(content.length), ...content];
}

const text = (value: string) => [...number(value.length), ...new TextEncoder().encode(value)];
const get = (local: number) => [0x20, local];
const set = (local: number) => [0x21, local];
const constant = (value: number) => [0x41, value]; // below 64
const add = [0x6a];
const simd = (operation: number, ...more: number[]) => [0xfd, ...number(operation), ...more];
const load = (offset: number) => simd(0x00, 0, ...number(offset)); // v128.load, any alignment
const widenedLow = simd(0x87);
const widenedHigh = simd(0x88);
const products = simd(0xba); // i32x4.dot_i16x8_s
const sum = simd(0xae); // i32x4.add
const lane = (index: number) => simd(0x1b, index);
const advance = (local: number, by: number[]) => [...get(local), ...by, ...add, ...set(local)];

function accumulate(into: number, widened: number[], offset: number): number[] {
  const question = [...get(QUESTION), ...get(PLACE), ...constant(1), 0x74, ...add, ...load(offset)];
  return [...get(into), ...get(BYTES), ...widened, ...question, ...products, ...sum, ...set(into)];
}

function body(): number[] {
  const zero = [...constant(0), ...simd(0x11)];
  const bytes = [...get(ROWS), ...get(PLACE), ...add, ...load(0), ...set(BYTES)];
  const inner = [
    ...bytes,
    ...accumulate(LOW, widenedLow, 0),
    ...accumulate(HIGH, widenedHigh, 16),
    ...advance(PLACE, constant(16)),
    ...[...get(PLACE), ...get(WIDTH), 0x49, 0x0d, 0], // again while place < width
  ];
  const both = [...get(LOW), ...get(HIGH), ...sum, ...set(LOW)];
  const lanes = [0, 1, 2, 3].flatMap((index) => [...get(LOW), ...lane(index), ...(index ? add : [])]);
  const outer = [
    ...[...constant(0), ...set(PLACE), ...zero, ...set(LOW), ...zero, ...set(HIGH)],
    ...[0x03, 0x40, ...inner, 0x0b],
    ...both,
    ...[...get(OUT), ...lanes, 0x36, 2, 0],
    ...[...advance(OUT, constant(4)), ...advance(ROWS, get(WIDTH))],
    ...[...get(COUNT), ...constant(1), 0x6b, 0x22, COUNT, 0x0d, 0], // again while --count
  ];
  const locals = [2, 1, I32, 3, V128];
  return [...locals, 0x03, 0x40, ...outer, 0x0b, 0x0b];
}

function program(): Uint8Array<ArrayBuffer> {
  const code = body();
  return Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, [1, 0x60, 5, I32, I32, I32, I32, I32, 0]),
    ...section(2, [1, ...text("m"), ...text("m"), 0x02, 0, 1]),
    ...section(3, [1, 0]),
    ...section(7, [1, ...text("dots"), 0, 0]),
    ...section(10, [1, ...number(code.length), ...code]),
  ]);
}

export type Dots = (rows: number, question: number, count: number, width: number, out: number) => void;

/** The function over a memory; null where there is no SIMD. */
export function dotsOver(memory: WebAssembly.Memory): Dots | null {
  try {
    const instance = new WebAssembly.Instance(new WebAssembly.Module(program()), { m: { m: memory } });
    return instance.exports.dots as Dots;
  } catch {
    return null;
  }
}
