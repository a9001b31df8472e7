/** The bundle's graphs, run by onnxruntime-web: each is loaded when it is first needed, and proved by its known answer. */

import { Bundle } from "../kit/bundle.ts";
import { BundleError } from "../kit/errors.ts";
import { type Artifact, type ArrayFile, listed, type View } from "../kit/manifest.ts";
import { dot, normalised } from "../kit/ranking.ts";
import type { Filter } from "../kit/resample.ts";
import { CONTEXT, Tokenizer } from "../kit/tokenizer.ts";
import type { ModelInfo, Tested } from "./messages.ts";
import { type Ort, type Runtime, started } from "./runtime.ts";
import { besideApp, mark, type Tell } from "./source.ts";

const TARGET = "onnx";
const FEWEST_EQUAL = 0.97; // of labels, where the gate says nothing
type Task = "segmentation" | "depth";

export interface Outputs {
  values: Float32Array | Int32Array | BigInt64Array | Uint8Array;
  shape: readonly number[];
}

interface Words {
  labels: string[];
  template?: string;
  palette?: number[][];
}

/** How a picture becomes the input of the view that gives its embedding. */
export interface Picture {
  resize: "square" | "stretch";
  height: number;
  width: number;
  filter: Filter;
  scale: number;
}

export class Model {
  readonly bundle: Bundle;
  readonly info: ModelInfo;
  /** null: the bundle has no text tower. */
  readonly tokenizer: Tokenizer | null;
  readonly picture: Picture;
  private readonly small: boolean;
  private readonly runtime: Runtime;
  private readonly sessions = new Map<string, Ort.InferenceSession>();

  private constructor(bundle: Bundle, tokenizer: Tokenizer | null, words: Words, small: boolean, runtime: Runtime) {
    this.bundle = bundle;
    this.runtime = runtime;
    this.tokenizer = tokenizer;
    this.small = small && bundle.hasSmall(TARGET);
    this.picture = pictureOf(this.imageArtifact());
    this.info = this.described(words);
  }

  /** Reads the bundle beside the app; graphs come later. */
  static async open(base: string, { small, gpu }: { small: boolean; gpu: boolean }, tell: Tell): Promise<Model> {
    const bundle = await Bundle.open(besideApp(base, tell));
    const { manifest } = bundle;
    const of = [...new Set(manifest.artifacts.map((item) => item.target))];
    if (!of.includes(TARGET)) {
      throw new BundleError(`This model was exported for ${of.join(", ")}; this app runs ${TARGET}. Export it with --to ${TARGET}.`);
    }
    const words = wordsOf(await bundle.text(manifest.labels));
    const runtime = await started(base, gpu);
    if (!manifest.tokenizer) return new Model(bundle, null, words, small, runtime);
    const merges = await bundle.read("merges.txt");
    await bundle.checkTokenizer(merges);
    return new Model(bundle, new Tokenizer(new TextDecoder().decode(merges)), words, small, runtime);
  }

  get context(): number {
    return this.bundle.manifest.tokenizer?.context ?? CONTEXT;
  }

  get logitScale(): number {
    return this.bundle.manifest.model.logit_scale ?? 100;
  }

  /** The artifact that gives picture embeddings; of a bundle of dense tasks alone, its only one. */
  private imageArtifact(): Artifact {
    for (const view of ["image", "multitask"] as const) {
      if (this.bundle.has(view, TARGET)) return this.bundle.artifact(view, TARGET, this.small);
    }
    const first = this.bundle.manifest.artifacts.find((item) => item.target === TARGET && item.inputs[0]?.kind === "image");
    if (!first) throw new BundleError("This model has no part that takes pictures. Export it again with its image view.");
    return first;
  }

  private described(words: Words): ModelInfo {
    const { manifest } = this.bundle;
    const image = this.imageArtifact();
    const tasks = (["segmentation", "depth"] as const).filter((task) => this.denseView(task) !== null);
    const embeds = image.view === "image" || image.view === "multitask";
    const used = [image, ...(this.bundle.has("text", TARGET) ? [this.bundle.artifact("text", TARGET, this.small)] : [])];
    const dense = tasks.length > 0;
    return {
      name: manifest.model.name,
      source: manifest.model.checkpoint.source,
      licence: manifest.model.checkpoint.licence,
      researchOnly: manifest.model.checkpoint.research_only,
      precision: [...new Set(used.map((item) => item.precision))].join(", "),
      bytes: used.reduce((sum, item) => sum + item.bytes, 0),
      words: embeds && manifest.tokenizer !== null && this.bundle.has("text", TARGET),
      labels: dense && !words.template ? [] : words.labels,
      template: words.template ?? "a photo of a {}",
      tasks,
      classes: words.palette ? words.labels : [],
      palette: words.palette?.flat() ?? [],
      hasSmall: this.bundle.hasSmall(TARGET),
      small: this.small,
      space: image.sha256,
      width: manifest.model.embed_dim ?? 0,
      threads: this.runtime.threads,
      hasGpu: this.runtime.hasGpu,
      gpu: this.runtime.gpu,
      files: listed(manifest).map(([, sha256]) => mark(sha256)),
    };
  }

  private async session(artifact: Artifact): Promise<Ort.InferenceSession> {
    const known = this.sessions.get(artifact.file);
    if (known) return known;
    const bytes = await this.bundle.read(artifact.file);
    const made = await this.runtime.ort.InferenceSession.create(bytes, {
      executionProviders: this.runtime.providers,
      graphOptimizationLevel: "all",
    });
    this.sessions.set(artifact.file, made);
    return made;
  }

  private async run(artifact: Artifact, values: Float32Array | Int32Array | BigInt64Array): Promise<Map<string, Outputs>> {
    const session = await this.session(artifact);
    const { name, shape, dtype } = artifact.inputs[0];
    const wide = dtype === "int64" && values instanceof Int32Array ? BigInt64Array.from(values, BigInt) : values;
    const input = new this.runtime.ort.Tensor(dtype as "float32" | "int32" | "int64", wide, shape);
    const found = await session.run({ [name]: input });
    const out = new Map<string, Outputs>();
    for (const item of artifact.outputs) {
      const tensor = found[item.name];
      if (!tensor) throw new BundleError(`The model's ${artifact.file} gives no ${item.name}. Export it again.`);
      out.set(item.name, { values: tensor.data as Outputs["values"], shape: tensor.dims });
    }
    return out;
  }

  /** The first output, which of image, text and multitask views is the embedding. */
  private async embedding(artifact: Artifact, values: Float32Array | Int32Array): Promise<Float32Array> {
    const found = await this.run(artifact, values);
    return Float32Array.from(found.get(artifact.outputs[0].name)?.values as Float32Array);
  }

  image(pixels: Float32Array): Promise<Float32Array> {
    return this.embedding(this.imageArtifact(), pixels);
  }

  text(ids: Int32Array): Promise<Float32Array> {
    return this.embedding(this.bundle.artifact("text", TARGET, this.small), ids);
  }

  /** The view that a dense task comes from, and which of its outputs is the task's. */
  private denseView(task: Task): { artifact: Artifact; output: string } | null {
    const head = this.bundle.manifest.dense?.heads.find((item) => item.task === task);
    const view = ([task, "multitask"] as View[]).find((item) => this.bundle.has(item, TARGET));
    if (!head || !view) return null;
    const artifact = this.bundle.artifact(view, TARGET, this.small);
    const output = artifact.outputs.find((item) => head.outputs.includes(item.name));
    return output ? { artifact, output: output.name } : null;
  }

  private denseOf(task: Task): { artifact: Artifact; output: string } {
    const found = this.denseView(task);
    if (!found) throw new BundleError(`This model has no ${task} part. Export it with one.`);
    return found;
  }

  denseInput(task: Task): { height: number; width: number; scale: number } {
    const { shape, scale } = this.denseOf(task).artifact.inputs[0];
    return { height: shape[2], width: shape[3], scale: scale ?? 1 / 255 };
  }

  async dense(task: Task, pixels: Float32Array): Promise<Outputs> {
    const { artifact, output } = this.denseOf(task);
    return (await this.run(artifact, pixels)).get(output) as Outputs;
  }

  /**
   * Runs the known inputs of what the app will use; hashes of what was proved before are passed over.
   *
   * @throws BundleError an answer is wrong: this browser does not run the model rightly.
   */
  async prove(before: string[]): Promise<{ tested: Tested[]; proved: string[] }> {
    const tested: Tested[] = [];
    const proved: string[] = [];
    for (const artifact of this.usedArtifacts()) {
      const proof = this.runtime.gpu ? `${artifact.sha256}-gpu` : artifact.sha256;
      if (before.includes(proof)) continue;
      const known = this.bundle.manifest.known_answer[artifact.view];
      if (!known) continue;
      const input = await this.bundle.array(known.input);
      const entry: ArrayFile = artifact.quantisation?.known_answer.output ?? known.output;
      const wanted = await this.bundle.array(entry);
      const found = (await this.run(artifact, input)).get(artifact.outputs[0].name) as Outputs;
      const told = { view: artifact.view, ...agreement(found.values, wanted, artifact) };
      tested.push(told);
      if (!(told.agreement >= told.least)) {
        throw new BundleError(
          `This browser does not run the model rightly: the known answer of its ${artifact.view} part came out otherwise ` +
            `(${told.agreement.toFixed(4)}, at least ${told.least} is right). Try another browser.`,
        );
      }
      proved.push(proof);
    }
    return { tested, proved };
  }

  private usedArtifacts(): Artifact[] {
    const found = [this.imageArtifact()];
    if (this.info.words) found.push(this.bundle.artifact("text", TARGET, this.small));
    for (const task of this.info.tasks) found.push(this.denseOf(task).artifact);
    return [...new Map(found.map((item) => [item.file, item])).values()];
  }
}

function agreement(found: Outputs["values"], wanted: ArrayLike<number | bigint>, artifact: Artifact): { agreement: number; least: number } {
  const { gate } = artifact;
  if (found instanceof Float32Array) {
    const cosine = dot(normalised(found), normalised(wanted as ArrayLike<number>));
    return { agreement: found.length === wanted.length ? cosine : NaN, least: gate.cosine };
  }
  let equal = 0;
  for (let i = 0; i < found.length; i++) if (Number(found[i]) === Number(wanted[i])) equal++;
  return { agreement: equal / wanted.length, least: gate.equal ?? FEWEST_EQUAL };
}

function pictureOf(artifact: Artifact): Picture {
  const { shape, scale, resize = "" } = artifact.inputs[0];
  return {
    resize: resize.startsWith("shortest side") ? "square" : "stretch",
    height: shape[2],
    width: shape[3],
    filter: resize.includes("bicubic") ? "bicubic" : "bilinear",
    scale: scale ?? 1 / 255,
  };
}

function wordsOf(text: string): Words {
  try {
    const found = JSON.parse(text) as Words;
    if (Array.isArray(found.labels) && found.labels.every((label) => typeof label === "string")) return found;
  } catch {
    // said below
  }
  throw new BundleError("The model's labels.json cannot be read. Install the bundle again.");
}
