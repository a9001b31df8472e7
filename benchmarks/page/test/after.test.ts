import { describe, expect, it } from "vitest";
import { afterOf, best, greys, nearest, ranked, unit, unitVectors } from "../src/after";
import type { Subject } from "../src/types";

const subject = (view: string, outputs: Subject["outputs"]): Subject => ({
  name: "", view, outputs, labels: 3, picture: null, expected: [], gate: { db: 0, cosine: 0, equal: 0, found: 0 },
  artifact: { url: "", sha256: "", bytes: 1 }, input: { name: "", kind: "image", shape: [] },
  feed: { url: "", sha256: "", bytes: 1, dtype: "float32", shape: [] },
});

describe("an embedding", () => {
  it("is ranked by cosine, whatever its length", () => {
    const bank = [unit([1, 0]), unit([1, 1]), unit([-1, 0])];
    expect(ranked([10, 9], bank).map((item) => item.place)).toEqual([1, 0, 2]);
    expect(ranked([3, 4], [unit([3, 4])])[0].cosine).toBeCloseTo(1, 6);
  });
  it("meets as many unit vectors as there are labels", () => {
    const bank = unitVectors(5, 16);
    expect(bank).toHaveLength(5);
    for (const one of bank) expect(Math.hypot(...one)).toBeCloseTo(1, 5);
  });
});

describe("maps", () => {
  it("are enlarged before the best is taken (mobileclip/dense/host.py: segmented)", () => {
    // places(2, 4): 0, 1/4, 3/4, 1 of the way; class 1 overtakes between
    const logits = { values: [1, 1, 0, 3], shape: [1, 2, 1, 2] };
    expect(Array.from(best(logits, 4, 1))).toEqual([0, 0, 1, 1]);
  });
  it("of labels go to the nearest", () => {
    expect(Array.from(nearest({ values: [1, 2, 3, 4], shape: [1, 1, 2, 2] }, 4, 2))).toEqual([1, 1, 2, 2, 3, 3, 4, 4]);
  });
  it("of distances become greys", () => {
    expect(Array.from(greys({ values: [1, 3], shape: [1, 1, 1, 2] }, 4, 1))).toEqual([0, 64, 191, 255]);
    expect(Array.from(greys({ values: [2, 2], shape: [1, 1, 1, 2] }, 2, 1))).toEqual([0, 0]);
  });
  it("are made into pictures of the picture's size", () => {
    const shown = afterOf(subject("segmentation", [{ name: "l", meaning: "", compare: "equal" }]));
    expect(shown?.([{ values: [0, 1, 2, 0], shape: [1, 1, 2, 2] }], 6, 4)).toHaveLength(24);
    expect(afterOf(subject("detection", []))).toBeNull();
  });
});
