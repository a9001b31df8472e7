/**
 * The page: finds out what to measure (the job of the server that it comes from, or a bundle beside it), lets the worker
 * measure, shows it, and hands the result back: as a file, and to the server where that asked for it.
 *
 * In the address, `?bundle=ADDRESS/` names another bundle of the same server, `?quick` measures for 2 s each instead of
 * 10, `?start` does not wait to be asked, and `?report` hands the result of a bundle to the server too (POST post/result).
 */

import "./style.css";
import { subjectsOf, type Manifest } from "./bundle";
import { pageMemory, thisDevice } from "./device";
import { Told } from "./files";
import type { DeviceInfo, FileRef, FromWorker, Job, Plan, Result, ToWorker } from "./types";
import { byId, element, show, showSides } from "./view";

/** `Plan()` of benchmarks/protocol.py. */
const PLAN: Plan = {
  runs: 200,
  seconds: 10,
  warmup_runs: 10,
  warmup_s: 1,
  threads: 0,
  end_to_end: true,
  sustained_s: 0,
  model_bench: false,
};
/** Pauses between what the server is told. */
const [HEARTBEAT_MS, PARTIAL_MS] = [1000, 5000];

/** A quick look instead of the whole protocol. */
const QUICK = { runs: 40, seconds: 2 } as const;

const query = new URLSearchParams(location.search);

/** What is heard of while it goes on. */
class Reporter {
  private text = "the page is open";
  private result: Result | null = null;
  private beats = 0;
  private readonly timer: ReturnType<typeof setInterval>;

  constructor() {
    this.timer = setInterval(() => this.beat(), HEARTBEAT_MS);
  }

  progress(text: string): void {
    this.text = text;
  }

  snapshot(result: Result): void {
    this.result = result;
  }

  async end(what: "result" | "failed", content: unknown): Promise<boolean> {
    clearInterval(this.timer);
    return send(what, content);
  }

  private beat(): void {
    void send("progress", { text: this.text });
    if (++this.beats % (PARTIAL_MS / HEARTBEAT_MS) === 0 && this.result) void send("partial", this.result);
  }
}

async function send(what: string, content: unknown): Promise<boolean> {
  try {
    const body = JSON.stringify(content);
    const answer = await fetch(`post/${what}`, { method: "POST", headers: { "Content-Type": "application/json" }, body });
    return answer.ok;
  } catch {
    return false; // the page shows the result in any case
  }
}

async function jobHere(): Promise<{ job: Job; served: boolean }> {
  const bundle = query.get("bundle");
  if (bundle === null) {
    const answer = await fetch("job.json").catch(() => null);
    if (answer?.ok && answer.headers.get("Content-Type")?.includes("json"))
      return { job: placed((await answer.json()) as Job), served: true };
  }
  const base = new URL(bundle ?? "bundle/", location.href);
  if (base.origin !== location.origin) throw new Told("a bundle must lie on the server that this page comes from.");
  const answer = await fetch(new URL("manifest.json", base)).catch(() => null);
  if (!answer?.ok) throw new Told(`there is no bundle at ${base.pathname}: put one there, or open the page with ?bundle=ADDRESS/.`);
  const manifest = (await answer.json()) as Manifest & { labels?: string };
  const words = await fetch(new URL(manifest.labels ?? "labels.json", base)).then((found) => found.json()).catch(() => []);
  const count = (Array.isArray(words) ? words : (words.labels ?? [])).length;
  const subjects = subjectsOf(manifest, base.href, count);
  const job: Job = { subjects, plan: PLAN, providers: ["wasm", "webgpu"], software: false, start: false };
  return { job, served: query.has("report") };
}

/** A job whose addresses are whole: the worker's own lie elsewhere than the page's. */
function placed(job: Job): Job {
  const at = <T extends FileRef>(file: T): T => ({ ...file, url: new URL(file.url, location.href).href });
  const subjects = job.subjects.map((subject) => ({
    ...subject,
    artifact: at(subject.artifact),
    feed: at(subject.feed),
    expected: subject.expected.map(at),
    picture: subject.picture && at(subject.picture),
  }));
  return { ...job, subjects };
}

function warn(): void {
  if (globalThis.crossOriginIsolated) return;
  const why = globalThis.isSecureContext
    ? "the server does not isolate this page (headers COOP and COEP)"
    : "this address is plain http, not https";
  show("warning", `Slower than it could be: ${why}. So there is one thread, a coarse clock${globalThis.isSecureContext ? "" : " and no WebGPU"}.`);
}

function start(job: Job, device: DeviceInfo, reporter: Reporter | null): void {
  const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
  const post = (sent: ToWorker): void => worker.postMessage(sent);
  let last: Result | null = null;
  show("status", undefined);
  show("setup", null);
  show("problem", null);
  show("hand", null);
  byId("sides").replaceChildren();
  const asleep = keepAwake();

  const finish = (result: Result): void => {
    worker.terminate();
    void asleep.then((lock) => lock?.release());
    show("status", null);
    if (result.problem) show("problem", result.problem);
    showSides(result, true);
    offer(result, () => start(job, device, null));
    void reporter?.end("result", result);
  };
  const fail = (text: string): void => {
    if (last) return finish({ ...last, state: "partial", problem: text });
    worker.terminate();
    show("status", null);
    show("problem", text);
    void reporter?.end("failed", { message: text });
  };
  worker.onerror = (event) => fail(`the measurement broke off: ${event.message || "the browser says no more"}.`);
  worker.onmessage = ({ data }: MessageEvent<FromWorker>): void => {
    if (data.kind === "progress") {
      show("text", data.text);
      const bar = byId<HTMLProgressElement>("bar");
      if (data.share === null) bar.removeAttribute("value");
      else bar.value = data.share;
      reporter?.progress(data.text);
    } else if (data.kind === "memory") void pageMemory().then((bytes) => post({ kind: "memory", bytes }));
    else if (data.kind === "snapshot") {
      last = data.result;
      showSides(last, false);
      reporter?.snapshot({ ...last, state: "partial", problem: "The measurement broke off: what was measured until then is kept." });
    } else if (data.kind === "done") finish(data.result);
    else fail(data.message);
  };
  byId("stop").onclick = () => fail("Stopped: what was measured until then is kept.");
  post({ kind: "start", job, device });
}

/** A phone that darkens its screen slows the page down. */
async function keepAwake(): Promise<WakeLockSentinel | null> {
  return (await navigator.wakeLock?.request("screen").catch(() => null)) ?? null;
}

function offer(result: Result, again: () => void): void {
  show("hand", undefined);
  byId("save").onclick = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(result, null, 1)], { type: "application/json" }));
    link.download = `${result.device.name.replace(/[^\w.]+/g, "-")}-${result.date.slice(0, 19).replace(/:/g, "")}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };
  byId("again").onclick = again;
}

/** Lets a person choose what to measure and how long. */
function setup(job: Job, begin: (job: Job) => void): void {
  const boxes = job.subjects.map((subject) => {
    const box = document.createElement("input");
    box.type = "checkbox";
    box.checked = subject.view !== "text" || job.subjects.length === 1;
    return box;
  });
  const length = document.createElement("select");
  for (const [text, value] of [
    ["Whole protocol: 10 s each", "whole"],
    ["Quick look: 2 s each", "quick"],
    ["Whole, then 5 min each on end", "sustained"],
  ]) length.append(new Option(text, value));
  const button = element("button", "", "Measure") as HTMLButtonElement;
  button.type = "button";
  button.onclick = () => {
    const plan = { ...job.plan };
    if (length.value === "quick") Object.assign(plan, QUICK);
    if (length.value === "sustained") plan.sustained_s = 300;
    const subjects = job.subjects.filter((_, i) => boxes[i].checked);
    if (subjects.length > 0) begin({ ...job, plan, subjects });
  };
  byId("setup").replaceChildren(
    element("h2", "", "What to measure"),
    ...job.subjects.map((subject, i) =>
      element("label", "check", boxes[i], `${subject.name}, ${((subject.artifact.bytes ?? 0) / 1e6).toFixed(1)} MB`),
    ),
    element("label", "", length),
    element("div", "row", button),
  );
  show("setup", undefined);
}

async function main(): Promise<void> {
  const device = await thisDevice();
  show("device", `${device.name}, ${device.cores ?? "?"} cores`);
  warn();
  let served = false;
  try {
    const found = await jobHere();
    served = found.served;
    const reporter = served ? new Reporter() : null;
    const job = query.has("quick") ? { ...found.job, plan: { ...found.job.plan, ...QUICK } } : found.job;
    if (job.start || query.has("start")) start(job, device, reporter);
    else setup(job, (chosen) => start(chosen, device, reporter));
  } catch (error) {
    const text = error instanceof Error ? error.message : String(error);
    show("problem", text);
    if (served) void send("failed", { message: text });
  }
}

void main();
