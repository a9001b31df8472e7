/** Numbers of 16 bits (IEEE 754 binary16), as bits in a Uint16Array: half the room for stored embeddings. */

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** The nearest half, ties to even; too large a value is infinite. */
export function toHalf(value: number): number {
  float[0] = value;
  const x = bits[0];
  const sign = (x >>> 16) & 0x8000;
  const exponent = (x >>> 23) & 0xff;
  let mantissa = x & 0x7fffff;
  if (exponent === 0xff) return sign | 0x7c00 | (mantissa ? 0x200 : 0);
  const shifted = exponent - 112; // biases: 127 - 15
  if (shifted >= 31) return sign | 0x7c00;
  if (shifted <= 0) {
    if (shifted < -10) return sign;
    mantissa |= 0x800000;
    const shift = 14 - shifted;
    const kept = mantissa >>> shift;
    const rest = mantissa & ((1 << shift) - 1);
    const middle = 1 << (shift - 1);
    return sign | (kept + (rest > middle || (rest === middle && (kept & 1)) ? 1 : 0));
  }
  const kept = (shifted << 10) | (mantissa >>> 13);
  const rest = mantissa & 0x1fff;
  return sign | (kept + (rest > 0x1000 || (rest === 0x1000 && (kept & 1)) ? 1 : 0));
}

/** The value of a half. */
export function fromHalf(half: number): number {
  const sign = half & 0x8000 ? -1 : 1;
  const exponent = (half >>> 10) & 0x1f;
  const mantissa = half & 0x3ff;
  if (exponent === 0) return sign * mantissa * 2 ** -24;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * (1 + mantissa / 1024) * 2 ** (exponent - 15);
}

/** Values -> halves. */
export function toHalves(values: ArrayLike<number>): Uint16Array {
  const out = new Uint16Array(values.length);
  for (let i = 0; i < values.length; i++) out[i] = toHalf(values[i]);
  return out;
}

/** Halves -> values, exactly. */
export function fromHalves(halves: Uint16Array): Float32Array {
  const out = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) out[i] = fromHalf(halves[i]);
  return out;
}
