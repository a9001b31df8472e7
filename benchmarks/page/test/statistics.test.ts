import { describe, expect, it } from "vitest";
import { inRounds, modelBench, percentile, runsPerTurn, turns } from "../src/statistics";

describe("percentiles", () => {
  it("lie between neighbours as numpy's", () => {
    // np.percentile([1, 2, 4, 10], [0, 50, 90, 99, 100])
    const samples = [10, 1, 4, 2];
    expect([0, 50, 90, 99, 100].map((q) => percentile(samples, q))).toEqual([1, 3, 8.2, 9.82, 10].map((v) => expect.closeTo(v, 12)));
    expect(samples).toEqual([10, 1, 4, 2]);
  });
  it("of nothing are no number", () => expect(percentile([], 50)).toBeNaN());
});

describe("ModelBench", () => {
  it("drops the 10 lowest and highest of each round", () => {
    const round = [...Array(10).fill(0), ...Array(30).fill(5), ...Array(10).fill(1000)] as number[];
    expect(modelBench([round, round.map((v) => v + 2)])).toBeCloseTo(6, 12);
  });
  it("needs a whole round", () => {
    expect(modelBench([Array(49).fill(1) as number[]])).toBeNull();
    expect(inRounds(Array(120).fill(1) as number[]).map((r) => r.length)).toEqual([50, 50]);
  });
});

describe("turns", () => {
  const first = (sides: number, count: number): number[] => {
    const found: number[] = [];
    for (const which of turns(sides)) {
      found.push(which);
      if (found.length === count) return found;
    }
    return found;
  };
  it("go forth and back", () => {
    expect(first(2, 8)).toEqual([0, 1, 1, 0, 0, 1, 1, 0]);
    expect(first(3, 6)).toEqual([0, 1, 2, 2, 1, 0]);
    expect(first(1, 3)).toEqual([0, 0, 0]);
  });
  it("give a fast side more runs, so that all end together", () => {
    expect(runsPerTurn([100, 1], 200, 10)).toEqual([1, 50]);
    expect(runsPerTurn([100, 90], 200, 10)).toEqual([1, 1]);
    for (const typical of [[3, 700], [0.2, 5, 40], [60]]) {
      const counts = runsPerTurn(typical, 200, 10);
      const rounds = typical.map((ms, i) => Math.max(200, 10_000 / ms) / counts[i]);
      expect(Math.max(...rounds)).toBeLessThan(1.05 * Math.min(...typical.map((ms) => Math.max(200, 10_000 / ms))));
    }
  });
});
