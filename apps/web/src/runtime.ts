/**
 * onnxruntime-web in one of its two builds: WebAssembly alone, which is small and gives the same numbers everywhere, or
 * with WebGPU, which is loaded only where it was chosen.
 */

import type * as Ort from "onnxruntime-web/wasm";
import mjs from "onnxruntime-web/ort-wasm-simd-threaded.mjs?url";
import wasm from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import gpuMjs from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.mjs?url";
import gpuWasm from "onnxruntime-web/ort-wasm-simd-threaded.asyncify.wasm?url";

export type { Ort };

export interface Runtime {
  ort: typeof Ort;
  providers: ("wasm" | "webgpu")[];
  threads: number;
  /** Whether there is a graphics processor, and whether it is used. */
  hasGpu: boolean;
  gpu: boolean;
}

/** Whether this browser gives a graphics processor; having the interface alone says nothing. */
async function gpuIsThere(): Promise<boolean> {
  const { gpu } = navigator as Navigator & { gpu?: { requestAdapter(): Promise<object | null> } };
  return (await gpu?.requestAdapter().catch(() => null)) != null;
}

/** Loads the build; without a graphics processor it is the first one, whatever was asked for. */
export async function started(base: string, gpu: boolean): Promise<Runtime> {
  const hasGpu = await gpuIsThere();
  const used = gpu && hasGpu;
  const ort = used ? await import("onnxruntime-web/webgpu") : await import("onnxruntime-web/wasm");
  const threads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  ort.env.wasm.wasmPaths = {
    mjs: new URL(used ? gpuMjs : mjs, base).href,
    wasm: new URL(used ? gpuWasm : wasm, base).href,
  };
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
  return { ort, providers: used ? ["webgpu", "wasm"] : ["wasm"], threads, hasGpu, gpu: used };
}
