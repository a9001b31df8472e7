/**
 * The worker that holds the model, so that the page stays quick: it reads the bundle, decodes pictures, runs the graphs
 * with onnxruntime-web, and searches.
 */

import { BundleError, PictureError } from "../kit/errors.ts";
import { IntegerIndex } from "../kit/embeddings.ts";
import { squareRule, stretchRule, toTensor, type Rule } from "../kit/preprocess.ts";
import { filled, normalised, probabilities } from "../kit/ranking.ts";
import { depths, segmented, segmentedLabels, type Size } from "../kit/dense.ts";
import { depthColours } from "../kit/colours.ts";
import { fitted, opened, smaller } from "./decode.ts";
import type { Classified, Embedded, Failure, FromWorker, Kind, Requests, Segmented, ToWorker } from "./messages.ts";
import { Model, type Outputs } from "./model.ts";

declare const self: DedicatedWorkerGlobalScope;

const KNOWN_TEXTS = 2_000; // embeddings of texts that are kept
const THUMBNAIL = 320;
const SHOWN = 1024; // longest side of a picture with its segmentation

let model: Model | null = null;
let index: IntegerIndex | null = null;
const texts = new Map<string, { embedding: Float32Array; cut: boolean }>();

function loaded(): Model {
  if (!model) throw new BundleError("No model is loaded.");
  return model;
}

async function load({ small, gpu, tested }: Requests["load"]["ask"]): Promise<Requests["load"]["answer"]> {
  const base = new URL("../", self.location.href).href; // this file lies in a folder of the app
  model = await Model.open(base, { small, gpu }, (done, all, what) => post({ progress: { loaded: done, all, what } }));
  const proofs = await model.prove(tested);
  return { info: model.info, ...proofs };
}

async function textOf(text: string): Promise<{ embedding: Float32Array; cut: boolean }> {
  const known = texts.get(text);
  if (known) return known;
  const { tokenizer } = loaded();
  if (!tokenizer) throw new BundleError("This model has no text part. Export it with one.");
  const { ids, cut } = tokenizer.row(text, loaded().context);
  const found = { embedding: normalised(await loaded().text(ids)), cut };
  if (texts.size >= KNOWN_TEXTS) texts.clear();
  texts.set(text, found);
  return found;
}

function ruleFor(bitmap: ImageBitmap): Rule {
  const { resize, height, width, filter } = loaded().picture;
  return resize === "square"
    ? squareRule(bitmap.width, bitmap.height, height, filter)
    : stretchRule(bitmap.width, bitmap.height, height, width);
}

async function imageOf(bitmap: ImageBitmap): Promise<Float32Array> {
  const { scale } = loaded().picture;
  return normalised(await loaded().image(toTensor(fitted(bitmap, ruleFor(bitmap)), scale)));
}

async function classify({ picture, name, texts: asked }: Requests["classify"]["ask"]): Promise<Classified> {
  const prompts = [];
  for (const label of asked) prompts.push(await textOf(filled(loaded().info.template, label)));
  const start = performance.now();
  const { bitmap, reduced } = await opened(picture, name);
  try {
    const embedding = await imageOf(bitmap);
    const found = probabilities(embedding, prompts.map((prompt) => prompt.embedding), loaded().logitScale);
    return {
      probabilities: found && [...found],
      cut: prompts.map((prompt) => prompt.cut),
      reduced,
      ms: performance.now() - start,
    };
  } finally {
    bitmap.close();
  }
}

async function embed({ picture, name }: Requests["embed"]["ask"]): Promise<Embedded> {
  const { bitmap, reduced } = await opened(picture, name);
  try {
    const embedding = Float32Array.from(await imageOf(bitmap));
    const thumbnail = await smaller(bitmap, THUMBNAIL).convertToBlob({ type: "image/jpeg", quality: 0.8 });
    return { embedding, thumbnail, reduced };
  } finally {
    bitmap.close();
  }
}

async function segment({ picture, name, task }: Requests["segment"]["ask"]): Promise<Segmented> {
  const start = performance.now();
  const { bitmap } = await opened(picture, name);
  try {
    const input = loaded().denseInput(task);
    const rule = stretchRule(bitmap.width, bitmap.height, input.height, input.width);
    const outputs = await loaded().dense(task, toTensor(fitted(bitmap, rule), input.scale));
    const canvas = smaller(bitmap, SHOWN);
    const context = canvas.getContext("2d");
    if (!context) throw new PictureError("This browser gives no canvas to draw pictures with.");
    const size: Size = { height: canvas.height, width: canvas.width };
    const { data } = context.getImageData(0, 0, size.width, size.height);
    return { task, ...size, ...shownOf(task, outputs, size), picture: data, ms: performance.now() - start };
  } finally {
    bitmap.close();
  }
}

function shownOf(task: Segmented["task"], outputs: Outputs, size: Size): Pick<Segmented, "pixels" | "low" | "high"> {
  const { values, shape } = outputs;
  const small = { height: shape[shape.length - 2], width: shape[shape.length - 1] };
  if (task === "depth") {
    const { rgb, low, high } = depthColours(depths(Float32Array.from(values as Float32Array), small, size));
    return { pixels: Uint8Array.from(rgb), low, high };
  }
  const pixels =
    values instanceof Float32Array
      ? segmented(values, shape[shape.length - 3], small, size)
      : segmentedLabels(values, small, size);
  return { pixels: Uint8Array.from(pixels), low: 0, high: 0 };
}

function fill({ rows, count }: Requests["fill"]["ask"]): null {
  const width = loaded().info.width;
  index = new IntegerIndex(width);
  for (let i = 0; i < count; i++) index.add(rows.subarray(i * width, (i + 1) * width));
  return null;
}

async function search({ text, most }: Requests["search"]["ask"]): Promise<Requests["search"]["answer"]> {
  const { embedding, cut } = await textOf(text);
  return { hits: index?.search(embedding, most) ?? [], cut };
}

const HANDLERS: { [K in Kind]: (ask: Requests[K]["ask"]) => Requests[K]["answer"] | Promise<Requests[K]["answer"]> } = {
  load,
  classify,
  segment,
  embed,
  fill,
  search,
};

function post(message: FromWorker): void {
  self.postMessage(message);
}

function failureOf(error: unknown): Failure {
  const message = error instanceof Error ? error.message : String(error);
  const smaller = model !== null && model.info.hasSmall && !model.info.small;
  if (error instanceof BundleError) return { reason: "bundle", message, smaller };
  if (error instanceof PictureError) return { reason: "picture", message, smaller };
  // what browsers and the runtime say of memory: RangeError of an array, bad_alloc, abort of WebAssembly
  if (error instanceof RangeError || /memory|alloc|abort/i.test(message)) {
    return { reason: "memory", message: "This device has too little free memory for the model.", smaller };
  }
  return { reason: "fault", message: `Something went wrong (${message.slice(0, 200)}).`, smaller };
}

let last: Promise<void> = Promise.resolve(); // one request after the other: a session runs one thing at a time

self.onmessage = ({ data }: MessageEvent<ToWorker>) => {
  last = last.then(async () => {
    try {
      const handler = HANDLERS[data.kind] as (ask: unknown) => unknown;
      post({ id: data.id, answer: await handler(data.ask) });
    } catch (error) {
      post({ id: data.id, failure: failureOf(error) });
    }
  });
};
