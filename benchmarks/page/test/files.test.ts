import { createHash } from "node:crypto";
import { describe, expect, it } from "vitest";
import { inside, subjectsOf, type Manifest } from "../src/bundle";
import { browserOf, systemOf } from "../src/device";
import { digest, sha256 } from "../src/sha256";

describe("SHA-256 written out", () => {
  it("agrees with the platform's at every length around a block", async () => {
    for (const length of [0, 1, 54, 55, 56, 57, 63, 64, 65, 119, 120, 1000, 70_001]) {
      const bytes = Uint8Array.from({ length }, (_, i) => (i * 31 + 7) & 255);
      const wanted = createHash("sha256").update(bytes).digest("hex");
      expect(Buffer.from(digest(bytes)).toString("hex")).toBe(wanted);
      expect(await sha256(bytes)).toBe(wanted);
    }
  });
});

const hash = "ab".repeat(32);
const stored = (file: string) => ({ file, dtype: "float32", shape: [1, 2] });
const gate = { db: 15, cosine: 0.99, equal: 0.95, found: 0.7 };
const manifest = (changes: Partial<Manifest["artifacts"][number]> = {}): Manifest => ({
  schema: 1,
  model: { name: "nano" },
  artifacts: [
    {
      file: "image.onnx", sha256: hash, bytes: 10, view: "image", target: "onnx", precision: "fp32", quantisation: null,
      inputs: [{ name: "image", kind: "image", shape: [1, 3, 8, 8] }], outputs: [{ name: "e", meaning: "embedding" }], gate,
      ...changes,
    },
  ],
  known_answer: { image: { input: stored("known_answer/i.bin"), output: stored("known_answer/o.bin"), picture: "known_answer/p.png" } },
  files: { "known_answer/i.bin": hash, "known_answer/o.bin": hash, "known_answer/q.bin": hash, "known_answer/p.png": hash },
});

describe("a bundle", () => {
  it("becomes what is timed", () => {
    const [subject] = subjectsOf(manifest(), "http://x/b/", 7);
    expect(subject).toMatchObject({
      name: "nano image onnx fp32",
      artifact: { url: "http://x/b/image.onnx", sha256: hash, bytes: 10 },
      feed: { url: "http://x/b/known_answer/i.bin", sha256: hash },
      picture: { url: "http://x/b/known_answer/p.png" },
      gate,
      labels: 7,
    });
  });
  it("of integers is held against its own integers", () => {
    const quantisation = { known_answer: { output: stored("known_answer/q.bin") } };
    const [subject] = subjectsOf(manifest({ precision: "w8a8", quantisation }), "b/", 1);
    expect(subject.expected[0].url).toBe("b/known_answer/q.bin");
    expect(subject.gate.db).toBe(20);
  });
  it("of another version, for other devices, or with files elsewhere is told", () => {
    expect(() => subjectsOf({ ...manifest(), schema: 2 }, "b/", 1)).toThrow("manifest is of version 2, this page reads 1");
    expect(() => subjectsOf(manifest({ target: "coreml" }), "b/", 1)).toThrow("holds nothing for a browser");
    expect(() => subjectsOf({ ...manifest(), files: {} }, "b/", 1)).toThrow("says no hash of known_answer/i.bin");
    for (const file of ["../x", "/x", "a//b", "a/../b", "http://y/z", "", "a\\b", "a?b"])
      expect(() => inside("b/", file)).toThrow("lies outside of it");
  });
});

describe("a user agent", () => {
  it("is read as people name it", () => {
    const phone = "Mozilla/5.0 (iPhone; CPU iPhone OS 26_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.1 Mobile/15E148 Safari/604.1";
    expect([browserOf(phone), systemOf(phone)]).toEqual(["Safari 26.1", "iOS 26.1"]);
    const pixel = "Mozilla/5.0 (Linux; Android 16; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/143.0.0.0 Mobile Safari/537.36";
    expect([browserOf(pixel), systemOf(pixel)]).toEqual(["Chrome 143", "Android 16"]);
    expect([browserOf("curl/8"), systemOf("curl/8")]).toEqual(["browser", ""]);
  });
});
