/** The page's side of the worker: requests as promises. */

import type { FromWorker, Kind, Reason, Requests } from "./messages.ts";

/** A request that failed, with a sentence for whoever uses the app. */
export class Failed extends Error {
  override name = "Failed";
  readonly reason: Reason;

  constructor(reason: Reason, message: string) {
    super(message);
    this.reason = reason;
  }
}

export type Progress = (loaded: number, all: number, what: string) => void;

interface Waiting {
  resolve(answer: unknown): void;
  reject(error: Error): void;
}

export class Client {
  onProgress: Progress = () => undefined;
  private worker: Worker;
  private readonly waiting = new Map<number, Waiting>();
  private next = 0;

  constructor() {
    this.worker = this.start();
  }

  private start(): Worker {
    const worker = new Worker(new URL("./engine.ts", import.meta.url), { type: "module", name: "engine" });
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => this.hear(data);
    worker.onerror = (event) => {
      // a worker that dies takes its requests with it: on phones the usual cause is that memory ran out
      event.preventDefault();
      this.fail(new Failed("memory", "The model's part of this page was ended, most likely because memory ran out."));
    };
    return worker;
  }

  private hear(data: FromWorker): void {
    if ("progress" in data) {
      this.onProgress(data.progress.loaded, data.progress.all, data.progress.what);
      return;
    }
    const waiting = this.waiting.get(data.id);
    this.waiting.delete(data.id);
    if ("failure" in data) waiting?.reject(new Failed(data.failure.reason, data.failure.message));
    else waiting?.resolve(data.answer);
  }

  private fail(error: Error): void {
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }

  /** Ends the worker with all that it holds, and begins another. */
  restart(): void {
    this.worker.terminate();
    this.fail(new Failed("fault", "The model was loaded anew."));
    this.worker = this.start();
  }

  ask<K extends Kind>(kind: K, ask: Requests[K]["ask"], transfer: Transferable[] = []): Promise<Requests[K]["answer"]> {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve: resolve as (answer: unknown) => void, reject });
      this.worker.postMessage({ id, kind, ask }, transfer);
    });
  }
}
