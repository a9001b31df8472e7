/** Every golden case: what Python gives, this kit gives. */

import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { join, relative } from "node:path";
import { describe, expect, it, test } from "vitest";
import { Bundle, type Source } from "../kit/bundle.ts";
import { depthColours, distances, palette } from "../kit/colours.ts";
import { depths, segmented, segmentedLabels, type Size } from "../kit/dense.ts";
import { detected, detectedRegions, SETTINGS } from "../kit/detection.ts";
import { HalfIndex, type Hit, IntegerIndex, quantised } from "../kit/embeddings.ts";
import type { View } from "../kit/manifest.ts";
import { type Mode, toRgb } from "../kit/modes.ts";
import { orientation, upright } from "../kit/orientation.ts";
import { applied, letterboxRule, squareRule, stretchRule, toTensor } from "../kit/preprocess.ts";
import { ensembled, normalised, probabilities, ranked } from "../kit/ranking.ts";
import type { Filter, Pixels } from "../kit/resample.ts";
import { modelBench, percentiles } from "../kit/statistics.ts";
import { END, START, Tokenizer } from "../kit/tokenizer.ts";
import { array, difference, GOLDEN, golden, rows, type Stored } from "./arrays.ts";

const MERGES = readFileSync(`${GOLDEN}merges.txt`);
const tokenizer = new Tokenizer(MERGES.toString("utf8"));

describe("tokens", () => {
  interface Case {
    text: string;
    ids: number[];
    tokens?: number;
  }
  const file = golden<{
    cases: Case[];
    repaired: Case[];
    surrogates: { utf16: number[]; ids: number[] }[];
    context: number;
    merges_sha256: string;
  }>("tokenization.json");

  it("has the merges that manifests name", () => {
    expect(createHash("sha256").update(MERGES).digest("hex")).toBe(file.merges_sha256);
  });

  it(`gives the ids of ${file.cases.length} texts`, () => {
    expect(file.cases.length).toBeGreaterThanOrEqual(2000);
    const wrong = file.cases.filter(({ text, ids, tokens }) => {
      const { ids: row, cut } = tokenizer.row(text);
      const expected = [START, ...ids, END, ...Array(file.context - 2 - ids.length).fill(0)];
      return cut !== (tokens !== undefined) || expected.some((id, i) => row[i] !== id);
    });
    expect(wrong.map(({ text, ids }) => [text, ids, tokenizer.encode(text)])).toEqual([]);
    for (const { text, tokens } of file.cases) if (tokens) expect(tokenizer.encode(text).length).toBe(tokens);
  });

  it("leaves mojibake as it is and takes halves of surrogate pairs", () => {
    for (const { text, ids } of file.repaired) expect(tokenizer.encode(text).slice(0, 75), text).toEqual(ids);
    for (const { utf16, ids } of file.surrogates) {
      expect(tokenizer.encode(String.fromCharCode(...utf16)), utf16.join()).toEqual(ids);
    }
  });
});

describe("pixels", () => {
  interface Case {
    name: string;
    kind: "square" | "stretch" | "letterbox";
    picture?: Stored;
    generated?: [number, number];
    size: [number, number];
    interpolation: Filter;
    pixels: Stored;
    content?: [number, number];
    tolerance: number;
  }
  interface File {
    name: string;
    base64: string;
    orientation: number;
    stored: Stored;
    upright: Stored;
    refused?: true;
  }
  const file = golden<{
    cases: Case[];
    tensors: { name: string; pixels: Stored; mean: number[]; std: number[]; tensor: Stored; tolerance: number }[];
    modes: { mode: Mode; pixels: Stored; rgb: Stored; palette?: Stored }[];
    files: File[];
  }>("preprocessing.json");

  function pixelsOf(entry: Stored): Pixels {
    const [height, width] = entry.shape;
    return { width, height, channels: 3, data: array(entry) };
  }

  function generated(width: number, height: number): Pixels {
    const data = new Uint8Array(width * height * 3);
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++) {
        for (let c = 0; c < 3; c++, at++) data[at] = (2 * c + 3) * x + (3 * c + 5) * y + 11 * ((x * y) % 7);
      }
    }
    return { width, height, channels: 3, data };
  }

  test.each(file.cases.map((item) => [item.name, item] as const))("%s", (_, item) => {
    const image = item.picture ? pixelsOf(item.picture) : generated(...(item.generated as [number, number]));
    const [height, width] = item.size;
    const rule =
      item.kind === "square"
        ? squareRule(image.width, image.height, height, item.interpolation)
        : item.kind === "stretch"
          ? stretchRule(image.width, image.height, height, width)
          : letterboxRule(image.width, image.height, height, width);
    expect(difference(applied(rule, image), array<Uint8Array>(item.pixels))).toBeLessThanOrEqual(item.tolerance);
    if (item.content) expect([rule.size.height, rule.size.width]).toEqual(item.content);
  });

  test.each(file.tensors.map((item) => [item.name, item] as const))("tensor: %s", (_, item) => {
    const found = toTensor(array(item.pixels), 1 / 255, item.mean, item.std);
    expect(difference(found, array<Float32Array>(item.tensor))).toBeLessThanOrEqual(item.tolerance);
  });

  test.each(file.modes.map((item) => [item.mode, item] as const))("mode %s", (_, item) => {
    const found = toRgb(item.mode, array(item.pixels), item.palette && array(item.palette));
    expect(difference(found, array<Uint8Array>(item.rgb))).toBe(0);
  });

  test.each(file.files.filter((item) => !item.refused).map((item) => [item.name, item] as const))("file: %s", (_, item) => {
    expect(orientation(new Uint8Array(Buffer.from(item.base64, "base64")))).toBe(item.orientation);
    const turned = upright(pixelsOf(item.stored), item.orientation);
    expect([turned.height, turned.width]).toEqual(item.upright.shape.slice(0, 2));
    expect(difference(turned.data, array<Uint8Array>(item.upright))).toBeLessThanOrEqual(3); // decoded twice
  });
});

describe("ranking", () => {
  interface Case {
    name: string;
    image: Stored;
    texts: Stored;
    logit_scale: number;
    probabilities: number[];
    order: number[];
    refused?: true;
    tolerance: number;
  }
  const file = golden<{
    cases: Case[];
    ensembles: { templates: number; texts: Stored; classes: Stored; tolerance: number }[];
  }>("ranking.json");

  test.each(file.cases.map((item) => [item.name, item] as const))("%s", (_, item) => {
    const found = probabilities(array<Float32Array>(item.image), rows(item.texts), item.logit_scale);
    if (item.refused) {
      expect(found).toBeNull();
      return;
    }
    expect(difference(found ?? [], item.probabilities)).toBeLessThanOrEqual(item.tolerance);
    expect(ranked(found ?? [])).toEqual(item.order);
  });

  it("makes classes of several texts", () => {
    for (const { templates, texts, classes, tolerance } of file.ensembles) {
      const given = rows(texts);
      rows(classes).forEach((wanted, i) => {
        expect(difference(ensembled(given.slice(i * templates, (i + 1) * templates)), wanted)).toBeLessThanOrEqual(tolerance);
      });
    }
  });
});

describe("search", () => {
  interface Scored {
    order: number[];
    scores: number[];
    stored: Stored;
    tolerance: number;
  }
  interface Case {
    name: string;
    rows: Stored;
    question: Stored;
    most: number;
    candidates: number;
    fp16: Scored;
    int8: Scored & { scales: Stored; question: Stored; question_scale: number; dots: Stored };
    binary: { codes: Stored; distances: Stored; order: number[] };
  }
  const cases = golden<{ cases: Case[] }>("search.json").cases;
  const ULP = 1; // numpy sums squares pairwise in float32, and the last bit of a length is its own

  function agree(found: Hit[], wanted: { order: number[]; scores: number[]; tolerance: number }): void {
    expect(found.map((hit) => hit.place)).toEqual(wanted.order);
    expect(difference(found.map((hit) => hit.score), wanted.scores)).toBeLessThanOrEqual(wanted.tolerance);
  }

  test.each(cases.map((item) => [item.name, item] as const))("fp16: %s", (_, item) => {
    const index = new HalfIndex(item.rows.shape[1]);
    for (const row of rows(item.rows)) index.add(row);
    const stored = Array.from({ length: index.count }, (_, i) => [...index.stored(i)]).flat();
    expect(difference(stored, array<Uint16Array>(item.fp16.stored))).toBeLessThanOrEqual(ULP); // bits of halves
    agree(index.search(array<Float32Array>(item.question), item.most), item.fp16);
  });

  test.each(cases.flatMap((item) => [true, false].map((simd) => [item.name, simd, item] as const)))(
    "int8 and signs: %s, SIMD %s",
    (_, simd, item) => {
      const index = new IntegerIndex(item.rows.shape[1], simd);
      for (const row of rows(item.rows)) index.add(row);
      const places = Array.from({ length: index.count }, (_, i) => i);
      expect(difference(places.flatMap((i) => [...index.stored(i)]), array<Int8Array>(item.int8.stored))).toBe(0);
      expect(difference(places.map((i) => index.scale(i)), array<Float32Array>(item.int8.scales))).toBeLessThan(1e-8);
      const question = array<Float32Array>(item.question);
      const asked = quantised(normalised(question));
      expect(difference(asked.integers, array<Int8Array>(item.int8.question))).toBe(0);
      expect(Math.abs(asked.scale - item.int8.question_scale)).toBeLessThan(1e-8);
      agree(index.search(question, item.most), item.int8);
      expect(difference(places.flatMap((i) => [...index.code(i)]), array<Uint8Array>(item.binary.codes))).toBe(0);
      expect(difference(index.distances(normalised(question)), array<Int32Array>(item.binary.distances))).toBe(0);
      const near = index.searchCodes(question, item.most, item.candidates);
      expect(near.map((hit) => hit.place)).toEqual(item.binary.order);
    },
  );
});

describe("segmentation and depth", () => {
  interface Case {
    name: string;
    kind: "logits" | "labels" | "depth";
    output: Stored;
    size: [number, number];
    labels: Stored;
    metres: Stored;
    tolerance: number;
  }
  const file = golden<{
    cases: Case[];
    colours: { name: string; count?: number; metres?: Stored; low: number; high: number; rgb: Stored }[];
  }>("segmentation.json");

  test.each(file.cases.map((item) => [item.name, item] as const))("%s", (_, item) => {
    const [, channels, height, width] = item.output.shape;
    const size: Size = { height: item.size[0], width: item.size[1] };
    if (item.kind === "depth") {
      const found = depths(array(item.output), { height, width }, size);
      expect(difference(found, array<Float32Array>(item.metres))).toBeLessThanOrEqual(item.tolerance);
      return;
    }
    const found =
      item.kind === "logits"
        ? segmented(array(item.output), channels, { height, width }, size)
        : segmentedLabels(array(item.output), { height, width }, size);
    expect(difference(found, array<Uint8Array>(item.labels))).toBe(0);
  });

  test.each(file.colours.map((item) => [item.name, item] as const))("colours: %s", (_, item) => {
    const wanted = array<Uint8Array>(item.rgb);
    if (!item.metres) {
      expect(difference(item.count ? palette(item.count) : distances(), wanted)).toBe(0);
      return;
    }
    const given = item.name.includes("given") ? { low: item.low, high: item.high } : undefined;
    const found = depthColours(array(item.metres), given);
    expect(difference(found.rgb, wanted)).toBe(0);
    expect(difference([found.low, found.high], [item.low, item.high])).toBeLessThan(1e-6);
  });
});

describe("detection", () => {
  interface Case {
    name: string;
    kind: "points" | "objects";
    outputs: Record<"boxes" | "scores" | "coeffs" | "protos" | "labels" | "masks", Stored>;
    size: [number, number];
    original: [number, number];
    threshold?: number;
    most?: number;
    nms?: number;
    boxes: Stored;
    scores: Stored;
    classes: Stored;
    masks: Stored;
    tolerance: number;
  }

  test.each(golden<{ cases: Case[] }>("detection.json").cases.map((item) => [item.name, item] as const))("%s", (_, item) => {
    const given = (name: keyof Case["outputs"]) => array<Float32Array>(item.outputs[name]);
    const [original, input] = [item.original, item.size].map(([height, width]) => ({ height, width }));
    const { threshold = SETTINGS.threshold, most = SETTINGS.most, nms = SETTINGS.nms } = item;
    const settings = { ...SETTINGS, threshold, most, nms };
    let found;
    if (item.kind === "points") {
      const outputs = { boxes: given("boxes"), scores: given("scores"), coeffs: given("coeffs"), protos: given("protos") };
      const [, prototypes, height, width] = item.outputs.protos.shape;
      const shape = { classes: item.outputs.scores.shape[1], prototypes, height, width };
      found = detected(outputs, shape, original, settings);
    } else {
      const outputs = { boxes: given("boxes"), scores: given("scores"), labels: given("labels"), masks: given("masks") };
      found = detectedRegions(outputs, item.outputs.masks.shape[1], original, input, settings);
    }
    expect(found.scores.length).toBe(item.scores.shape[0]);
    expect(difference(found.boxes, array<Float32Array>(item.boxes))).toBeLessThanOrEqual(item.tolerance);
    expect(difference(found.scores, array<Float32Array>(item.scores))).toBeLessThanOrEqual(item.tolerance);
    expect([...found.classes]).toEqual([...array<BigInt64Array>(item.classes)].map(Number));
    expect(difference(found.masks.flatMap((mask) => [...mask]), array<Uint8Array>(item.masks))).toBe(0);
  });
});

describe("latency", () => {
  interface Case {
    name: string;
    ms: number[];
    percentiles: Record<string, number>;
    model_bench: number | null;
    tolerance: number;
  }

  test.each(golden<{ cases: Case[] }>("latency.json").cases.map((item) => [item.name, item] as const))("%s", (_, item) => {
    const found: Record<string, number> = { ...percentiles(item.ms) };
    expect(Object.keys(found).sort()).toEqual(Object.keys(item.percentiles).sort());
    for (const [key, value] of Object.entries(item.percentiles)) {
      expect(Math.abs(found[key] - value)).toBeLessThanOrEqual(item.tolerance);
    }
    const bench = modelBench(item.ms);
    if (item.model_bench === null) expect(bench).toBeNull();
    else expect(Math.abs((bench ?? NaN) - item.model_bench)).toBeLessThanOrEqual(item.tolerance);
  });
});

describe("manifests", () => {
  interface Case {
    bundle: string;
    ok: boolean;
    view: View;
    target: string;
    file?: string;
    code?: string;
    message?: string;
  }

  function source(folder: string): Source {
    return {
      read: async (name) => (existsSync(join(folder, name)) ? new Uint8Array(readFileSync(join(folder, name))) : null),
      list: async (name) => {
        const root = join(folder, name);
        if (!existsSync(root) || !statSync(root).isDirectory()) return null;
        const inside = readdirSync(root, { recursive: true, withFileTypes: true });
        return inside.filter((item) => item.isFile()).map((item) => relative(root, join(item.parentPath, item.name)));
      },
    };
  }

  const cases = golden<{ cases: Case[] }>("manifests.json").cases;
  test.each(cases.map((item) => [item.bundle, item.target, item.view, item] as const))("%s for %s, %s", async (_, _target, _view, item) => {
    const opened = async () => {
      const bundle = await Bundle.open(source(join(GOLDEN, "bundles", item.bundle)));
      await bundle.checkFiles();
      await bundle.checkTokenizer(new Uint8Array(MERGES));
      return bundle.artifact(item.view, item.target);
    };
    if (item.ok) expect((await opened()).file).toBe(item.file);
    else await expect(opened()).rejects.toThrow(expect.objectContaining({ name: "BundleError", message: item.message }));
  });
});
