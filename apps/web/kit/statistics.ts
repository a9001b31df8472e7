/** Figures of latency samples, as `benchmarks/protocol.py` has them. */

export interface Percentiles {
  p50: number;
  p90: number;
  p99: number;
  min: number;
  mean: number;
  n: number;
}

/** Percentile q (0..100) of samples, linear between the two nearest (numpy's default). */
export function percentile(samples: ArrayLike<number>, q: number): number {
  const sorted = Float64Array.from(samples).sort();
  const at = (sorted.length - 1) * (q / 100);
  const low = Math.floor(at);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low] + (sorted[high] - sorted[low]) * (at - low);
}

/** All of a result's figures; null for no sample. */
export function percentiles(samples: ArrayLike<number>): Percentiles | null {
  if (!samples.length) return null;
  const [p50, p90, p99] = [50, 90, 99].map((q) => percentile(samples, q));
  let min = Infinity;
  let sum = 0;
  for (let i = 0; i < samples.length; i++) {
    min = Math.min(min, samples[i]);
    sum += samples[i];
  }
  return { p50, p90, p99, min, mean: sum / samples.length, n: samples.length };
}

const [ROUND, DROPPED] = [50, 10];

/**
 * Mean of Apple's ModelBench: samples in whole rounds of 50, of each the 10 lowest and 10 highest dropped, the mean of the
 * rounds' means; null without a whole round.
 */
export function modelBench(samples: ArrayLike<number>): number | null {
  const rounds = Math.floor(samples.length / ROUND);
  if (!rounds) return null;
  let sum = 0;
  for (let round = 0; round < rounds; round++) {
    const sorted = Float64Array.from({ length: ROUND }, (_, i) => samples[round * ROUND + i]).sort();
    const kept = sorted.subarray(DROPPED, ROUND - DROPPED);
    sum += kept.reduce((a, b) => a + b, 0) / kept.length;
  }
  return sum / rounds;
}
