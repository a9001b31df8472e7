/** A bundle's manifest -> what can be timed here: its ONNX artifacts with their known answers. */

import { Told } from "./files";
import type { ArrayRef, FileRef, Gate, InputSpec, OutputSpec, Subject } from "./types";

const SCHEMA = 1;
/** What an artifact with integer activations must reach against the same integers: MADE of export/targets.py. */
const MADE: Gate = { db: 20, cosine: 0.995, equal: 0.97, found: 0.7 };

interface StoredArray {
  file: string;
  dtype: string;
  shape: number[];
}

interface Answer {
  output: StoredArray;
  others?: StoredArray[];
}

export interface Manifest {
  schema: number;
  model: { name: string };
  artifacts: {
    file: string;
    sha256: string;
    bytes: number;
    view: string;
    target: string;
    precision: string;
    quantisation: { blocks?: Record<string, string>; known_answer: Answer } | null;
    inputs: InputSpec[];
    outputs: OutputSpec[];
    gate: Gate;
  }[];
  known_answer: Record<string, Answer & { input: StoredArray; picture?: string }>;
  files: Record<string, string>;
}

/** What the page can run of a bundle that lies at `base` (an address that ends in a slash). */
export function subjectsOf(manifest: Manifest, base: string, labels: number): Subject[] {
  if (manifest?.schema !== SCHEMA)
    throw new Told(`the bundle's manifest is of version ${manifest?.schema}, this page reads ${SCHEMA}: export it again.`);
  const found = manifest.artifacts.filter((artifact) => artifact.target === "onnx");
  if (found.length === 0) throw new Told("the bundle holds nothing for a browser: export it with --to onnx.");
  return found.map((artifact) => {
    const answer = manifest.known_answer[artifact.view];
    if (!answer) throw new Told(`the bundle has no known answer of ${artifact.view}: export it again.`);
    const known = artifact.quantisation?.known_answer ?? answer;
    const precisions = [artifact.precision, ...Object.values(artifact.quantisation?.blocks ?? {})];
    return {
      name: [manifest.model.name, artifact.view, artifact.target, artifact.precision].join(" "),
      view: artifact.view,
      artifact: { url: inside(base, artifact.file), sha256: artifact.sha256, bytes: artifact.bytes },
      input: artifact.inputs[0],
      outputs: artifact.outputs,
      feed: stored(answer.input),
      expected: [known.output, ...(known.others ?? [])].map(stored),
      gate: precisions.includes("w8a8") ? MADE : artifact.gate,
      picture: answer.picture ? listed(answer.picture) : null,
      labels,
    };
  });

  function stored(entry: StoredArray): ArrayRef {
    return { ...listed(entry.file), dtype: entry.dtype, shape: entry.shape };
  }

  function listed(file: string): FileRef {
    const sha256 = manifest.files[file];
    if (!sha256) throw new Told(`the bundle's manifest says no hash of ${file}: export it again.`);
    return { url: inside(base, file), sha256, bytes: null };
  }
}

/** The address of a bundle's file, which must lie inside of it. */
export function inside(base: string, file: string): string {
  const parts = file.split("/");
  if (file === "" || /[\\?#%:]/.test(file) || parts.some((part) => part === "" || part === "." || part === ".."))
    throw new Told(`the bundle names the file '${file}', which lies outside of it; do not use this bundle.`);
  return base + parts.map(encodeURIComponent).join("/");
}
