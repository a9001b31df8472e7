/** The page's side of the worker: requests as promises. */

import type { Failure, FromWorker, Kind, Reason, Requests } from "./messages.ts";

/** A request that failed, with a sentence for whoever uses the app. */
export class Failed extends Error {
  override name = "Failed";
  readonly reason: Reason;
  /** Whether there is a smaller model that was not in use. */
  readonly smaller: boolean;

  constructor({ reason, message, smaller }: Failure) {
    super(message);
    this.reason = reason;
    this.smaller = smaller;
  }
}

export type Progress = (loaded: number, all: number, what: string) => void;

interface Waiting {
  resolve(answer: unknown): void;
  reject(error: Error): void;
}

export class Client {
  onProgress: Progress = () => undefined;
  private readonly worker: Worker;
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
      const message = "The model's part of this page was ended, most likely because memory ran out.";
      this.fail(new Failed({ reason: "memory", message, smaller: false }));
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
    if ("failure" in data) waiting?.reject(new Failed(data.failure));
    else waiting?.resolve(data.answer);
  }

  private fail(error: Error): void {
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }

  ask<K extends Kind>(kind: K, ask: Requests[K]["ask"], transfer: Transferable[] = []): Promise<Requests[K]["answer"]> {
    const id = this.next++;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve: resolve as (answer: unknown) => void, reject });
      this.worker.postMessage({ id, kind, ask }, transfer);
    });
  }
}
