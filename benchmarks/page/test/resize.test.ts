/** Against Pillow itself: pillow.json is written by `python tests/benchmarks/test_browser.py`. */

import { describe, expect, it } from "vitest";
import { fitted, placement, planes } from "../src/picture";
import type { InputSpec } from "../src/types";
import golden from "./pillow.json";

const square = (size: number, filter: string): InputSpec => ({
  name: "image", kind: "image", shape: [1, 3, size, size], resize: `shortest side to ${size}, ${filter}, antialias`, crop: "centre",
});

describe("a picture", () => {
  for (const item of golden)
    it(`of ${item.width} x ${item.height} is fitted as Pillow does: ${item.resize}`, () => {
      const data = Uint8Array.from({ length: item.width * item.height * 3 }, (_, i) => (i * i * 7 + i * 13) % 256);
      const input = { name: "image", kind: "image", shape: item.shape, resize: item.resize, crop: item.crop };
      const found = fitted({ data, width: item.width, height: item.height, channels: 3 }, input);
      expect(Array.from(found.data)).toEqual(item.pixels);
    });
  it("with alpha loses it", () => {
    const data = Uint8Array.from([1, 2, 3, 255, 4, 5, 6, 0, 7, 8, 9, 9, 10, 11, 12, 77]);
    const found = fitted({ data, width: 2, height: 2, channels: 4 }, square(2, "bilinear"));
    expect(Array.from(found.data)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
  });
  it("is cut where Python rounds", () => {
    // round((5 - 2) / 2) = round(1.5) = 2, round((7 - 2) / 2) = round(2.5) = 2
    expect(placement(50, 20, square(2, "bicubic"))).toMatchObject({ width: 5, height: 2, left: 2, top: 0 });
    expect(placement(20, 70, square(2, "bicubic"))).toMatchObject({ width: 2, height: 7, left: 0, top: 2 });
  });
  it("of an unknown rule is told", () => {
    expect(() => placement(4, 4, { ...square(2, "lanczos") })).toThrow("the rule 'shortest side to 2, lanczos, antialias'");
    expect(() => placement(4, 4, { ...square(2, "bicubic"), crop: "none" })).toThrow("is unknown to this page");
  });
  it("becomes planes", () => {
    const found = planes({ data: Uint8Array.from([255, 0, 51, 102, 255, 0]), width: 2, height: 1, channels: 3 }, 1 / 255);
    expect(Array.from(found)).toEqual([1, 0.4, 0, 1, 0.2, 0].map((v) => expect.closeTo(v, 6)));
  });
});
