/** The page: gets itself ready to work without a network, loads the model, and shows what it can do. */

import { Client, Failed } from "./client.ts";
import { button, megabytes, notice, say } from "./dom.ts";
import type { ModelInfo } from "./messages.ts";
import { showTabs } from "./tabs.ts";
import { classifyView } from "./views/classify.ts";
import { modelView } from "./views/model_view.ts";
import { searchView } from "./views/search.ts";
import { segmentView } from "./views/segment.ts";
import type { Context } from "./views/view.ts";

const SMALL = "mobileclip.small";
const GPU = "mobileclip.gpu";
const PROVED = "mobileclip.proved";
const TURNED = "mobileclip.isolated";
const LITTLE_MEMORY = 2; // GiB, as browsers say it
const LARGE = 100_000_000; // bytes of a model that is much for such a device
const WAIT_FOR_WORKER = 8_000; // ms

const kept = {
  get(key: string): string | null {
    try {
      return localStorage.getItem(key);
    } catch {
      return null;
    }
  },
  set(key: string, value: string): void {
    try {
      localStorage.setItem(key, value);
    } catch {
      // until the page is closed, then
    }
  },
};

/** Waits until the service worker is in charge, so that what is loaded from here on is kept. */
async function offline(): Promise<void> {
  if (!("serviceWorker" in navigator) || import.meta.env.DEV) return;
  try {
    await navigator.serviceWorker.register("./sw.js", { scope: "./" });
    if (!navigator.serviceWorker.controller) {
      await Promise.race([
        new Promise((resolve) => navigator.serviceWorker.addEventListener("controllerchange", resolve, { once: true })),
        new Promise((resolve) => setTimeout(resolve, WAIT_FOR_WORKER)),
      ]);
    }
  } catch {
    return; // the page works without it, but not without a network
  }
  // its headers bring threads; they count from the next time on that the page is loaded
  if (!crossOriginIsolated && navigator.serviceWorker.controller && !sessionStorage.getItem(TURNED)) {
    sessionStorage.setItem(TURNED, "1");
    location.reload();
    await new Promise(() => undefined);
  }
}

/** Lets go of files of other bundles that the service worker kept. */
async function forgetOthers(files: readonly string[]): Promise<void> {
  if (!("caches" in globalThis)) return;
  const cache = await caches.open("bundle");
  for (const request of await cache.keys()) {
    const mark = new URL(request.url).searchParams.get("v");
    if (mark && !files.includes(mark)) await cache.delete(request);
  }
}

function showProgress(loaded: number, all: number, what: string): void {
  const bar = document.getElementById("loaded") as HTMLProgressElement;
  const text = document.getElementById("loading-text");
  bar.value = all ? loaded / all : 0;
  if (text) text.textContent = `Loading the model: ${what}, ${megabytes(loaded)} of ${megabytes(all)}`;
}

function busy(on: boolean): void {
  const loading = document.getElementById("loading");
  if (loading) loading.hidden = !on;
  document.getElementById("main")?.setAttribute("aria-busy", String(on));
}

class App {
  private readonly client = new Client();
  private info: ModelInfo | null = null;

  constructor() {
    this.client.onProgress = showProgress;
  }

  async load(small: boolean): Promise<void> {
    notice("");
    busy(true);
    try {
      const tested = (kept.get(PROVED) ?? "").split(" ").filter(Boolean);
      const gpu = kept.get(GPU) === "1";
      const { info, tested: proofs, proved } = await this.client.ask("load", { small, gpu, tested });
      kept.set(PROVED, [...tested, ...proved].slice(-20).join(" "));
      this.info = info;
      busy(false);
      const context: Context = { client: this.client, info, failed: (error) => this.failed(error) };
      const views = [
        ...(info.words ? [classifyView(context), searchView(context)] : []),
        ...(info.tasks.length ? [segmentView(context)] : []),
        modelView(context, proofs, {
          useSmall: (wanted) => this.switch(SMALL, wanted),
          useGpu: (wanted) => this.switch(GPU, wanted),
        }),
      ];
      showTabs(views);
      document.body.dataset.state = "ready";
      say(`The model ${info.name} is ready`);
      const motto = document.querySelector(".private");
      if (motto && info.researchOnly) motto.textContent = "All on this device; weights for research only";
      if (gpu && !info.gpu) {
        kept.set(GPU, "");
        notice("This browser gives no graphics processor any more: the main one is used.");
      }
      this.offerSmall(info);
      void forgetOthers(info.files).catch(() => undefined); // room is all that it is about
    } catch (error) {
      busy(false);
      this.failed(error);
    }
  }

  private switch(what: string, on: boolean): void {
    kept.set(what, on ? "1" : "");
    location.reload();
  }

  private offerSmall(info: ModelInfo): void {
    const memory = (navigator as Navigator & { deviceMemory?: number }).deviceMemory ?? Infinity;
    if (!info.hasSmall || info.small || memory > LITTLE_MEMORY || info.bytes < LARGE * Math.min(memory, 1)) return;
    notice("This device has little memory. There is a smaller model that needs less of it.", button("Use the smaller model", () => this.switch(SMALL, true)));
  }

  private failed(error: unknown): void {
    document.body.dataset.state = this.info ? "ready" : "failed";
    const message = error instanceof Error ? error.message : String(error);
    if (!this.info && kept.get(GPU) === "1") {
      // whatever it was, it may be the graphics processor: the main one is tried before anything is said but that
      kept.set(GPU, "");
      notice(
        `The graphics processor cannot be used for this model: ${message}`,
        button("Use the main processor", () => location.reload()),
      );
      return;
    }
    const again = button("Try again", () => location.reload());
    if (error instanceof Failed && error.reason === "memory") {
      const smaller = error.smaller || (this.info !== null && this.info.hasSmall && !this.info.small);
      const offer = smaller ? [button("Use the smaller model", () => this.switch(SMALL, true))] : [];
      notice(`${message} ${smaller ? "Use the smaller model, or close" : "Close"} other pages and apps.`, ...offer, again);
    } else if (!this.info) notice(message, again);
    else notice(message);
  }
}

async function start(): Promise<void> {
  busy(true);
  if (typeof WebAssembly === "undefined" || typeof OffscreenCanvas === "undefined") {
    busy(false);
    notice("This browser is too old for this page: it has no WebAssembly or no OffscreenCanvas. Update it.");
    return;
  }
  await offline();
  await new App().load(kept.get(SMALL) === "1");
}

void start();
