/**
 * onnxruntime-web, one session a provider. A provider that cannot run an artifact is an error here: onnxruntime-web itself
 * would take the next one of a list and not say so, so it is never given a list.
 *
 * WebAssembly and WebGPU are two builds: that with WebGPU unwinds its stack to wait for the GPU, which costs the processor
 * time that plain WebAssembly does not spend.
 */

import type { InferenceSession, Tensor } from "onnxruntime-web";
import asyncMjs from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.mjs?url";
import asyncWasm from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url";
import plainMjs from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import plainWasm from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import type { Values } from "./files";
import type { Output } from "./parity";
import type { Provider } from "./types";

type Ort = typeof import("onnxruntime-web");

/** WebAssembly memories that were made since `watchMemories`; they grow and never shrink. */
const memories: WebAssembly.Memory[] = [];

/** Notes every WebAssembly memory that is made from now on: the runtime does not tell the size of its own. */
export function watchMemories(): void {
  WebAssembly.Memory = new Proxy(WebAssembly.Memory, {
    construct(target, args: [WebAssembly.MemoryDescriptor]) {
      const memory = new target(...args);
      memories.push(memory);
      return memory;
    },
  });
}

/** Bytes of all WebAssembly memory, which is their peak as well. */
export const heapBytes = (): number => memories.reduce((sum, memory) => sum + memory.buffer.byteLength, 0);

/** The runtime of a provider, with its threads set; loaded on first use. */
async function runtime(provider: Provider, threads: number): Promise<Ort> {
  const ort: Ort = provider === "wasm" ? await import("onnxruntime-web/wasm") : await import("onnxruntime-web/webgpu");
  const [mjs, wasm] = provider === "wasm" ? [plainMjs, plainWasm] : [asyncMjs, asyncWasm];
  ort.env.wasm.wasmPaths = {
    mjs: new URL(mjs, import.meta.url).href,
    wasm: new URL(wasm, import.meta.url).href,
  };
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.proxy = false;
  return ort;
}

/** Loads and starts the runtime itself, which counts in no artifact's load; how long it took, in ms. */
export async function startRuntime(provider: Provider, threads: number): Promise<number> {
  const start = performance.now();
  await (await Session.open(identity(), provider, threads)).release();
  return performance.now() - start;
}

/** The smallest artifact: y = x, one float (onnx.proto3: ModelProto). */
function identity(): Uint8Array {
  const text = (value: string): number[] => Array.from(value, (char) => char.charCodeAt(0));
  const field = (number: number, content: number[]): number[] => [(number << 3) | 2, content.length, ...content];
  const varint = (number: number, value: number): number[] => [number << 3, value];
  const shape = field(1, varint(1, 1));
  const value = (name: string): number[] => [
    ...field(1, text(name)),
    ...field(2, field(1, [...varint(1, 1), ...field(2, shape)])),
  ];
  const node = [...field(1, text("x")), ...field(2, text("y")), ...field(4, text("Identity"))];
  const graph = [...field(1, node), ...field(2, text("g")), ...field(11, value("x")), ...field(12, value("y"))];
  return Uint8Array.from([...varint(1, 8), ...field(7, graph), ...field(8, varint(2, 13))]);
}

/** An artifact that is ready to run. */
export class Session {
  private constructor(
    private readonly ort: Ort,
    private readonly session: InferenceSession,
    readonly provider: Provider,
    readonly threads: number,
  ) {}

  static async open(model: Uint8Array, provider: Provider, threads: number): Promise<Session> {
    const ort = await runtime(provider, threads);
    const session = await ort.InferenceSession.create(model, {
      executionProviders: [provider],
      graphOptimizationLevel: "all",
    });
    return new Session(ort, session, provider, ort.env.wasm.numThreads ?? threads);
  }

  get version(): string {
    return this.ort.env.versions.web ?? this.ort.env.versions.common;
  }

  /** A tensor of the type that the artifact takes. */
  tensor(values: Values, shape: readonly number[]): Tensor {
    const told = this.session.inputMetadata[0];
    const type = told.isTensor ? told.type : "float32";
    if (type === "int64" && !(values instanceof BigInt64Array))
      return new this.ort.Tensor("int64", BigInt64Array.from(values as Int32Array, BigInt), shape);
    if (type === "int32" && values instanceof BigInt64Array)
      return new this.ort.Tensor("int32", Int32Array.from(values, Number), shape);
    return new this.ort.Tensor(type, values as never, shape);
  }

  /** All outputs, read back; the work is done when this resolves. */
  run(input: Tensor): Promise<InferenceSession.OnnxValueMapType> {
    return this.session.run({ [this.session.inputNames[0]]: input });
  }

  /** Outputs in the order of `names`; in the artifact's own where its names are others. */
  ordered(outputs: InferenceSession.OnnxValueMapType, names: readonly string[]): (Output & { bytes: Uint8Array<ArrayBuffer> })[] {
    const own = this.session.outputNames;
    return (names.every((name) => own.includes(name)) ? names : own).map((name) => {
      const tensor = outputs[name] as Tensor;
      const data = tensor.data as Values;
      const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
      return { values: data instanceof BigInt64Array ? Array.from(data, Number) : data, shape: tensor.dims, bytes };
    });
  }

  release(): Promise<void> {
    return this.session.release();
  }
}

/** Whether a provider can be tried at all; null where it can, else why not. */
export async function missing(provider: Provider, software: boolean): Promise<string | null> {
  if (provider === "wasm") return typeof WebAssembly === "object" ? null : "absent: this browser has no WebAssembly";
  if (!navigator.gpu)
    return globalThis.isSecureContext
      ? "absent: this browser has no WebGPU"
      : "absent: WebGPU needs https or this very machine";
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  if (!adapter) return "absent: WebGPU finds no graphics processor here";
  const played = adapter.info.isFallbackAdapter || SOFTWARE.test(adapter.info.architecture);
  return played && !software ? `absent: WebGPU finds only software (${adapter.info.architecture}) here` : null;
}

const SOFTWARE = /swiftshader|llvmpipe|lavapipe/i;

/** What WebGPU says of the graphics processor. */
export async function gpuAdapter(): Promise<Record<string, string> | null> {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  if (!adapter) return null;
  const { vendor, architecture, device, description } = adapter.info;
  return { vendor, architecture, device, description };
}
