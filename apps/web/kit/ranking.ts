/** Zero-shot classification: embeddings of a picture and of texts -> probabilities. */

/** A vector of length 1; one of zeros stays, one that is not finite becomes NaN. */
export function normalised(vector: ArrayLike<number>): Float32Array {
  const out = Float32Array.from(vector);
  let largest = 0; // divided by first, so that no square overflows or vanishes
  for (const value of out) largest = Math.max(largest, Math.abs(value)); // NaN stays
  if (!Number.isFinite(largest)) return out.fill(NaN);
  if (largest === 0) return out;
  let sum = 0;
  for (let i = 0; i < out.length; i++) {
    out[i] /= largest;
    sum += out[i] * out[i];
  }
  const length = Math.fround(Math.sqrt(sum));
  for (let i = 0; i < out.length; i++) out[i] /= length;
  return out;
}

/** Whether all values are numbers. */
export function finite(vector: ArrayLike<number>): boolean {
  for (let i = 0; i < vector.length; i++) if (!Number.isFinite(vector[i])) return false;
  return true;
}

/** Sum of the products of two vectors. */
export function dot(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i];
  return sum;
}

/** exp(x) of each over their sum, with the largest taken off first. */
export function softmax(logits: ArrayLike<number>): Float64Array {
  const out = Float64Array.from(logits);
  const most = out.reduce((a, b) => Math.max(a, b), -Infinity);
  let sum = 0;
  for (let i = 0; i < out.length; i++) sum += out[i] = Math.exp(out[i] - most);
  for (let i = 0; i < out.length; i++) out[i] /= sum;
  return out;
}

/**
 * Probability of each text for a picture: softmax of logit_scale times their cosines. Embeddings need no unit length. A
 * text whose embedding is not finite has probability 0; null where the picture's, or that of every text, is not.
 */
export function probabilities(
  image: ArrayLike<number>,
  texts: readonly ArrayLike<number>[],
  logitScale: number,
): Float64Array | null {
  const known = texts.map(finite);
  if (!finite(image) || !known.includes(true)) return null;
  const own = normalised(image);
  return softmax(texts.map((text, i) => (known[i] ? logitScale * dot(own, normalised(text)) : -Infinity)));
}

/** The embedding of a class from those of several texts: of unit length, their mean, that of unit length. */
export function ensembled(texts: readonly ArrayLike<number>[]): Float32Array {
  const rows = texts.map(normalised);
  return normalised(Float32Array.from(rows[0], (_, i) => rows.reduce((sum, row) => sum + row[i], 0) / rows.length));
}

/** Places of the highest values, best first; of equal ones the first. */
export function ranked(values: ArrayLike<number>, most = values.length): number[] {
  return Array.from(values, (_, place) => place)
    .sort((a, b) => values[b] - values[a] || a - b)
    .slice(0, most);
}

/** A label in a template: every `{}` is replaced. */
export function filled(template: string, label: string): string {
  return template.replaceAll("{}", label);
}
