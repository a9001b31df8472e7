import { describe, expect, it } from "vitest";
import { compare, compareLabels, compareObjects, compareOutputs, judged, passes, type Output } from "../src/parity";
import type { Gate, OutputSpec } from "../src/types";

const FP32: Gate = { db: 90, cosine: 0.999999, equal: 0.9995, found: 0.95 };
const of = (values: number[], ...shape: number[]): Output => ({ values, shape });
const specs = (...compares: (OutputSpec["compare"] | null)[]): OutputSpec[] =>
  compares.map((one, i) => ({ name: `o${i}`, meaning: "", ...(one ? { compare: one } : {}) }));

describe("floats", () => {
  it("are judged as export/parity.py does", () => {
    // compare([1, 2, 3.003], [1, 2, 3]) -> db 61.92..., error 0.003
    const found = compare([1, 2, 3.003], [1, 2, 3]);
    expect(found.db).toBeCloseTo(10 * Math.log10(14 / 0.003 ** 2), 6);
    expect(found.max_error).toBeCloseTo(0.003, 9);
    expect(passes(found, FP32)).toBe(false);
  });
  it("that are equal are as near as can be told", () => expect(compare([1, -2], [1, -2]).db).toBe(400));
  it("that are not finite, or of another number, pass nothing", () => {
    for (const wrong of [[NaN, 1], [Infinity, 1], [1]])
      expect(passes(compare(wrong, [1, 1]), { db: -399, cosine: 0.1, equal: 0, found: 0 })).toBe(false);
  });
  it("of nothing but zeros need zeros", () => {
    expect(compare([0, 0], [0, 0])).toMatchObject({ db: 400, cosine: 1 });
    expect(compare([1, 0], [0, 0])).toMatchObject({ db: -400, cosine: 0 });
  });
});

describe("labels", () => {
  it("count by their share", () => {
    const found = compareLabels([1, 2, 3, 4], [1, 2, 3, 5]);
    expect(found).toMatchObject({ equal: 0.75, max_error: 1 });
    expect(passes(found, { ...FP32, equal: 0.75 })).toBe(true);
    expect(passes(found, { ...FP32, equal: 0.76 })).toBe(false);
  });
});

describe("objects", () => {
  const boxes = [0, 0, 10, 10, 20, 20, 40, 40, 0, 0, 0, 0];
  const reference = [of(boxes, 3, 4), of([0.9, 0.8, 0], 3), of([1, 2, 0], 3)];
  it("are found in any order, empty rows are none", () => {
    const swapped = [of([20, 20, 40, 40, 0, 0, 0, 0, 0, 0, 10, 10], 3, 4), of([0.8, 0, 0.9], 3), of([2, 0, 1], 3)];
    for (const item of compareObjects(swapped, reference)) expect(item).toMatchObject({ found: 1, db: 400 });
  });
  it("of another label or place are not found", () => {
    const other = [reference[0], reference[1], of([1, 3, 0], 3)];
    expect(compareObjects(other, reference)[0].found).toBe(0.5);
    const moved = [of([0, 0, 10, 10, 26, 20, 46, 40, 0, 0, 0, 0], 3, 4), reference[1], reference[2]];
    expect(compareObjects(moved, reference)[0].found).toBe(0.5);
  });
});

describe("a known answer", () => {
  it("is right where every output passes, and told by the worst", () => {
    const outputs = [of([1, 2], 2), of([1, 1, 1, 0], 4)];
    const references = [of([1, 2.0000001], 2), of([1, 1, 1, 1], 4)];
    const found = compareOutputs(outputs, references, specs(null, "equal"));
    expect(judged(found, { ...FP32, equal: 0.7 }).right).toBe(true);
    const told = judged(found, FP32);
    expect(told).toMatchObject({ right: false, max_error: 1 });
    expect(told.equal).toBeUndefined(); // only where all outputs are labels, as in Python
    expect(told.cosine).toBe(0.75);
  });
});
