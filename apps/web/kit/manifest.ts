/**
 * The manifest of a bundle: the JSON beside artifacts and all that an app reads about them. `parsed` refuses what is not
 * a manifest of this version; its sentences are for whoever uses the app.
 *
 * Source: export/manifest.schema.json, version 1.
 */

import { BundleError } from "./errors.ts";

export const SCHEMA = 1;
/** Largest manifest that is read, in bytes. */
export const MOST_BYTES = 8 << 20;

const AGAIN = "Install the bundle again.";
const EXPORT = "Export the model again.";

export type View = "image" | "text" | "segmentation" | "depth" | "detection" | "multitask" | "dense";

export interface ArrayFile {
  file: string;
  dtype: "float32" | "int32" | "int64";
  shape: number[];
}

export interface Input {
  name: string;
  kind: "image" | "text";
  shape: number[];
  dtype: "float32" | "int32" | "int64" | "image";
  scale?: number;
  resize?: string;
  crop?: string;
}

export interface Output {
  name: string;
  shape: number[];
  dtype: string;
  meaning: string;
  normalised: boolean;
}

export interface Quantisation {
  known_answer: { output: ArrayFile; others?: ArrayFile[] };
}

export interface Artifact {
  file: string;
  sha256: string;
  bytes: number;
  view: View;
  target: string;
  precision: string;
  quantisation: Quantisation | null;
  inputs: Input[];
  outputs: Output[];
  /** What it must reach against its known answer. */
  gate: { db: number; cosine: number; equal?: number; passed: boolean | null };
}

export interface Head {
  task: "segmentation" | "detection" | "depth";
  head: string;
  outputs: string[];
  classes?: number;
  max_depth?: number;
  postprocess: Record<string, unknown>;
}

export interface Manifest {
  schema: number;
  created: string;
  preset: string;
  model: {
    name: string;
    embed_dim?: number;
    logit_scale?: number;
    checkpoint: { source: string; licence: string; research_only: boolean };
  };
  tokenizer: { sha256: string; context: number; start: number; end: number; pad: number } | null;
  labels: string;
  dense?: { input: { size: [number, number]; resize: "stretch" | "letterbox"; pad?: number }; heads: Head[] };
  known_answer: Record<string, { input: ArrayFile; output: ArrayFile; others?: ArrayFile[]; picture?: string }>;
  artifacts: Artifact[];
  files: Record<string, string>;
}

type Check = (value: unknown) => boolean;

const text: Check = (value) => typeof value === "string";
const real: Check = (value) => typeof value === "number" && Number.isFinite(value);
const whole: Check = (value) => Number.isInteger(value);
const truth: Check = (value) => typeof value === "boolean";
const positive: Check = (value) => whole(value) && (value as number) >= 1;
const sha256: Check = (value) => text(value) && /^[0-9a-f]{64}$/.test(value as string);
const plain: Check = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const oneOf = (...allowed: unknown[]): Check => (value) => allowed.includes(value);
const nothingOr = (check: Check): Check => (value) => value === null || check(value);
const listOf = (check: Check, least = 0): Check => (value) => Array.isArray(value) && value.length >= least && value.every(check);
const mapOf = (check: Check): Check => (value) => plain(value) && Object.values(value as object).every(check);

/** An object with all of `required`, and of `optional` what is there, as they must be. */
function shaped(required: Record<string, Check>, optional: Record<string, Check> = {}): Check {
  return (value) => {
    if (!plain(value)) return false;
    const given = value as Record<string, unknown>;
    return (
      Object.entries(required).every(([key, check]) => Object.hasOwn(given, key) && check(given[key])) &&
      Object.entries(optional).every(([key, check]) => !Object.hasOwn(given, key) || check(given[key]))
    );
  };
}

const shape = listOf(positive);
const array = shaped({ file: text, dtype: oneOf("float32", "int32", "int64"), shape });
const checkpoint = shaped({ form: text, source: text, sha256: nothingOr(text), licence: text, research_only: truth });
const input = shaped(
  { name: text, kind: oneOf("image", "text"), shape, dtype: oneOf("float32", "int32", "int64", "image") },
  { colour: text, scale: real, resize: text, crop: text },
);
const output = shaped({ name: text, shape, dtype: text, meaning: text, normalised: truth });
const artifact = shaped({
  file: text,
  sha256,
  bytes: positive,
  view: oneOf("image", "text", "segmentation", "depth", "detection", "multitask", "dense"),
  target: text,
  precision: text,
  quantisation: nothingOr(shaped({ known_answer: shaped({ output: array }, { others: listOf(array) }) })),
  inputs: listOf(input),
  outputs: listOf(output),
  rewrites: listOf(text),
  delegates: nothingOr(whole),
  loose: listOf(plain),
  parity: nothingOr(plain),
  gate: shaped({ db: real, cosine: real, passed: nothingOr(truth) }),
});
const side: Check = (value) => whole(value) && (value as number) >= 32;
const head = shaped(
  { task: oneOf("segmentation", "detection", "depth"), head: text, outputs: listOf(text, 1), postprocess: plain },
  { classes: positive, category_ids: listOf(whole), max_depth: real },
);
const dense = shaped({
  input: shaped(
    {
      size: (value) => listOf(side, 2)(value) && (value as unknown[]).length === 2,
      resize: oneOf("stretch", "letterbox"),
      interpolation: oneOf("bilinear"),
      antialias: truth,
    },
    { pad: (value) => whole(value) && (value as number) >= 0 && (value as number) <= 255 },
  ),
  heads: listOf(head),
});
const manifest = shaped(
  {
    created: text,
    generator: shaped({ name: text, version: text, tools: mapOf(text) }),
    model: shaped({ name: text, config: plain, checkpoint }, { embed_dim: positive, logit_scale: real }),
    preset: text,
    recipe: plain,
    tokenizer: nothingOr(shaped({ kind: text, sha256: text, context: whole, start: whole, end: whole, pad: whole })),
    labels: text,
    known_answer: mapOf(shaped({ input: array, output: array }, { others: listOf(array), picture: text })),
    artifacts: listOf(artifact, 1),
    files: mapOf(sha256),
  },
  { dense },
);

/**
 * The content of a manifest.json -> a manifest.
 *
 * @throws BundleError it is not JSON, of another version, or lacks something; or it names a file outside of its folder.
 */
export function parsed(bytes: Uint8Array): Manifest {
  const value = json(bytes);
  const version = plain(value) ? (value as { schema?: unknown }).schema : undefined;
  if (!whole(version)) throw notJson();
  if ((version as number) > SCHEMA) {
    throw new BundleError(
      `This model was made for a newer app (manifest version ${version}, this app reads ${SCHEMA}). ` +
        "Update the app, or export the model again.",
    );
  }
  if ((version as number) < SCHEMA) {
    throw new BundleError(`This model's manifest is of version ${version}, this app reads ${SCHEMA}. ${EXPORT}`);
  }
  if (!manifest(value)) throw new BundleError(`The model's manifest.json does not say what this app needs. ${EXPORT}`);
  const found = value as Manifest;
  for (const [name] of listed(found)) inside(name);
  return found;
}

/** Every file that a manifest speaks of, and its hash: artifacts first, then the others by name. */
export function listed(found: Manifest): [string, string][] {
  const names = Object.keys(found.files).sort((a, b) => (a < b ? -1 : 1));
  return [
    ...found.artifacts.map((item): [string, string] => [item.file, item.sha256]),
    ...names.map((name): [string, string] => [name, found.files[name]]),
  ];
}

/** `name`, which must lie inside of the bundle's folder. */
export function inside(name: string): string {
  if (!name || name.startsWith("/") || name.split("/").includes("..") || /[\\?#\0]|^[a-z][a-z0-9+.-]*:/i.test(name)) {
    throw new BundleError(`The model's manifest names a file outside of its folder (${name}). Do not use this bundle.`);
  }
  return name;
}

function json(bytes: Uint8Array): unknown {
  if (bytes.length > MOST_BYTES) throw notJson();
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    throw notJson(); // SyntaxError, TypeError of the decoder, RangeError of one nested too deep
  }
}

function notJson(): BundleError {
  return new BundleError(`The model's manifest.json cannot be read: it is not JSON. ${AGAIN}`);
}
