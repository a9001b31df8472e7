/** Figures from samples, as numpy and benchmarks/protocol.py compute them. */

/** Apple's ModelBench: rounds of 50 runs, the 10 lowest and 10 highest of each dropped. */
export const MODEL_BENCH = { runs: 50, rounds: 20, dropped: 10 } as const;

/** The q-th percentile (0..100), linear between neighbours as numpy's default; NaN of nothing. */
export function percentile(samples: readonly number[], q: number): number {
  if (samples.length === 0) return NaN;
  const sorted = [...samples].sort((a, b) => a - b);
  const place = ((sorted.length - 1) * q) / 100;
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}

export function mean(samples: readonly number[]): number {
  return samples.reduce((sum, value) => sum + value, 0) / samples.length;
}

/** ModelBench's mean over whole rounds; null where there is none. */
export function modelBench(rounds: readonly (readonly number[])[]): number | null {
  const kept = rounds
    .filter((times) => times.length >= MODEL_BENCH.runs)
    .map((times) => [...times].sort((a, b) => a - b).slice(MODEL_BENCH.dropped, -MODEL_BENCH.dropped));
  return kept.length > 0 ? mean(kept.map(mean)) : null;
}

/** Steady samples cut into rounds of 50, whole ones only. */
export function inRounds(samples: readonly number[]): number[][] {
  const count = Math.floor(samples.length / MODEL_BENCH.runs);
  return Array.from({ length: count }, (_, i) => samples.slice(MODEL_BENCH.runs * i, MODEL_BENCH.runs * (i + 1)));
}

/**
 * How many runs a side makes at each of its turns, so that all sides are done in about as many turns.
 *
 * A side needs `runs` runs and `seconds` in all. A fast one needs many, a slow one few; with one run a turn the slow one
 * would be run far longer than asked for.
 *
 * @param typical each side's time of one run in ms, from its warm-up.
 */
export function runsPerTurn(typical: readonly number[], runs: number, seconds: number): number[] {
  const needed = typical.map((ms) => Math.max(runs, Math.ceil((seconds * 1000) / Math.max(ms, 1e-3))));
  const turns = Math.min(...needed);
  return needed.map((count) => Math.ceil(count / turns));
}

/** Places 0..n-1 forth and back, for ever: A B B A of two, A B C C B A of three, A of one. */
export function* turns(sides: number): Generator<number> {
  for (;;) {
    for (let i = 0; i < sides; i++) yield i;
    for (let i = sides - 1; i >= 0; i--) yield i;
  }
}
