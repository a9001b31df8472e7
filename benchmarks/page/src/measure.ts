/**
 * The protocol of benchmarks/protocol.py: prove each artifact right, warm up, time the sides in turns A B B A, then what
 * an app waits for from an encoded picture on. Times are `performance.now`, whose steps are told in the result.
 */

import type { Tensor } from "onnxruntime-web";
import { afterOf } from "./after";
import { array, fetched, Told } from "./files";
import { compareOutputs, judged, type Output } from "./parity";
import { decoded, fitted, placement, planes } from "./picture";
import { gpuAdapter, heapBytes, missing, Session, startRuntime } from "./sessions";
import { sha256 } from "./sha256";
import { inRounds, MODEL_BENCH, modelBench, percentile, runsPerTurn, turns } from "./statistics";
import type { DeviceInfo, EndToEnd, Job, Plan, Provider, Result, Side, Subject } from "./types";

/** Threads when none are asked for: more than four of a phone's cores are slow ones. */
const MOST_THREADS = 4;
/** One end-to-end run for so many forward runs, and at least so many: as on the host. */
const [SHARE, LEAST] = [10, 10];
/**
 * How long the browser's word on memory is waited for, after loading and once more at the end. Chromium never says it
 * while WebAssembly's threads sleep; the size of their memory is told in any case.
 */
const MEMORY_WAIT_MS = 2000;
/** Pause between two words about how far it is. */
const TELL_MS = 500;

/** Where the measurement tells how far it is. */
export interface Listener {
  progress(text: string, share: number | null): void;
  snapshot(result: Result): void;
  /** Memory of the whole page, in bytes; null where the browser does not tell. */
  memory(): Promise<number | null>;
}

/** One artifact on one provider. */
interface Opened {
  subject: Subject;
  side: Side;
  session: Session;
  model: Uint8Array<ArrayBuffer>;
  feed: Tensor;
  /** Of one run, from the warm-up. */
  typical: number;
}

export async function measure(job: Job, device: DeviceInfo, listener: Listener): Promise<Result> {
  const { plan } = job;
  const cores = navigator.hardwareConcurrency || 1;
  const threads = globalThis.crossOriginIsolated ? plan.threads || Math.min(cores, MOST_THREADS) : 1;
  const result: Result = {
    schema: 2,
    date: new Date().toISOString(),
    device,
    protocol: {
      order: job.subjects.length * job.providers.length > 1 ? "ABBA" : "A",
      runs: plan.runs,
      seconds: plan.seconds,
      warmup_runs: plan.warmup_runs,
      warmup_s: plan.warmup_s,
      threads,
      affinity: null,
      process: "page",
      fixed_performance: null,
      sustained_s: plan.sustained_s,
    },
    thermal: [],
    sides: [],
    state: "complete",
    problem: null,
  };
  const run = new Run(result, plan, threads, listener);
  await run.open(job.subjects, await run.present(job.providers, job.software));
  await run.time();
  if (plan.end_to_end) await run.endToEnd();
  if (plan.sustained_s > 0) await run.sustained();
  if (plan.model_bench) await run.rounds();
  await run.close();
  return result;
}

/** The steps of `performance.now` here, in ms: browsers round it. */
export function timerStep(): number {
  let least = Infinity;
  for (let i = 0; i < 50; i++) {
    const start = performance.now();
    let now = start;
    while (now === start) now = performance.now();
    least = Math.min(least, now - start);
  }
  return least;
}

class Run {
  private opened: Opened[] = [];
  private memory: Promise<number | null> = Promise.resolve(null);
  private lastSnapshot = performance.now();

  constructor(
    private readonly result: Result,
    private readonly plan: Plan,
    private readonly threads: number,
    private readonly listener: Listener,
  ) {
    this.details.timer_step_ms = timerStep();
  }

  private get details(): Record<string, unknown> {
    return this.result.device.details;
  }

  /** The providers that this browser has; what the others lack is told. */
  async present(providers: Provider[], software: boolean): Promise<Provider[]> {
    const told: Record<string, string> = {};
    for (const provider of providers) told[provider] = (await missing(provider, software)) ?? "used";
    this.details.providers = told;
    const found = providers.filter((provider) => told[provider] === "used");
    if (found.includes("webgpu")) this.details.gpu = await gpuAdapter();
    if (found.length === 0)
      throw new Told(`${providers.map((name) => `${name} is ${told[name]}`).join("; ")}.`);
    return found;
  }

  /** Load every artifact on every provider and prove it right. What fails is told and has no samples. */
  async open(subjects: Subject[], providers: Provider[]): Promise<void> {
    const starts: Record<string, number> = {};
    for (const provider of providers) {
      this.listener.progress(`starting ${provider}`, null);
      starts[provider] = await startRuntime(provider, this.threads);
    }
    this.details.runtime_start_ms = starts;
    for (const subject of subjects) {
      this.listener.progress(`loading ${subject.name}`, null);
      const model = await fetched(subject.artifact);
      const feed = await array(subject.feed);
      const expected: Output[] = [];
      for (const ref of subject.expected) {
        const values = await array(ref);
        expected.push({ values: values instanceof BigInt64Array ? Array.from(values, Number) : values, shape: ref.shape });
      }
      for (const provider of providers) {
        const side = emptySide(subject, provider, this.threads, model.length);
        this.result.sides.push(side);
        this.listener.progress(`proving ${subject.name} on ${provider}`, null);
        try {
          await this.prove(subject, side, model, feed, expected);
        } catch (error) {
          this.trouble("partial", `${subject.name} does not run on ${provider}: ${message(error)}`);
        }
      }
    }
    this.memory = this.listener.memory(); // comes with the next collection of garbage, which a busy worker puts off
    await this.remembered();
  }

  private async prove(
    subject: Subject,
    side: Side,
    model: Uint8Array<ArrayBuffer>,
    known: Awaited<ReturnType<typeof array>>,
    expected: Output[],
  ): Promise<void> {
    const start = performance.now();
    const session = await Session.open(model, side.runtime.provider, this.threads);
    side.load_ms = performance.now() - start;
    side.runtime.version = session.version;
    const feed = session.tensor(known, subject.feed.shape);
    const before = performance.now();
    const outputs = await session.run(feed);
    side.first_ms = performance.now() - before;
    const found = session.ordered(outputs, subject.outputs.map((spec) => spec.name));
    const hashes = await Promise.all(found.map((output) => sha256(output.bytes.slice())));
    const fits = found.length === expected.length && found.every((o, i) => o.values.length === expected[i].values.length);
    if (expected.length === 0) side.known_answer = { right: null, sha256: hashes };
    else if (!fits) side.known_answer = { right: false, db: -400, cosine: 0, max_error: 0, sha256: hashes };
    else {
      const shaped = found.map((output, i) => ({ values: output.values, shape: expected[i].shape }));
      side.known_answer = { ...judged(compareOutputs(shaped, expected, subject.outputs), subject.gate), sha256: hashes };
    }
    if (side.known_answer.right === false) {
      await session.release();
      const db = (side.known_answer.db ?? NaN).toFixed(1);
      this.trouble(
        "wrong",
        `${subject.name} gives a wrong known answer on ${side.runtime.provider} (${db} dB): a wrong artifact has no latency.`,
      );
    } else this.opened.push({ subject, side, session, model, feed, typical: side.first_ms });
  }

  /** Warm up, then the steady runs of all sides in turns. */
  async time(): Promise<void> {
    const { plan, opened } = this;
    if (opened.length === 0) return;
    for (const item of opened) {
      this.listener.progress(`warming up ${label(item)}`, null);
      const times: number[] = [];
      const start = performance.now();
      while (times.length < plan.warmup_runs || performance.now() - start < plan.warmup_s * 1000)
        times.push(await timed(item));
      item.side.warmup = times.length;
      if (times.length > 0) item.typical = percentile(times, 50);
    }
    const counts = runsPerTurn(opened.map((item) => item.typical), plan.runs, plan.seconds);
    const done = new Float64Array(opened.length);
    const finished = (i: number): boolean =>
      opened[i].side.steady_ms.length >= plan.runs && done[i] >= plan.seconds * 1000;
    let step = 0;
    for (const which of turns(opened.length)) {
      if (step % opened.length === 0 && opened.every((_, i) => finished(i))) break;
      for (let k = 0; k < counts[which]; k++) {
        const ms = await timed(opened[which]);
        opened[which].side.steady_ms.push(ms);
        done[which] += ms;
      }
      step++;
      const shares = opened.map(({ side }, i) =>
        Math.min(side.steady_ms.length / plan.runs, plan.seconds > 0 ? done[i] / (plan.seconds * 1000) : 1),
      );
      this.tell(`timing ${opened.map(label).join(" and ")}`, Math.min(...shares, 1));
    }
    for (const { side } of opened)
      side.model_bench = { mean_ms: modelBench(inRounds(side.steady_ms)), reloaded: false, rounds_ms: [] };
  }

  async endToEnd(): Promise<void> {
    for (const item of this.opened) {
      this.listener.progress(`timing ${label(item)} from the encoded picture on`, null);
      try {
        item.side.end_to_end = await this.whole(item);
      } catch (error) {
        item.side.end_to_end = emptyEnd(message(error));
      }
    }
  }

  private async whole({ subject, session }: Opened): Promise<EndToEnd> {
    if (subject.picture === null) return emptyEnd(`a ${subject.view} view begins with no picture here.`);
    const after = afterOf(subject);
    if (after === null) return emptyEnd(`of a ${subject.view} view an app makes too many things to time one.`);
    const encoded = await fetched(subject.picture);
    const first = await decoded(encoded);
    placement(first.width, first.height, subject.input); // a rule that is unknown here is told before anything is timed
    const found: EndToEnd = { ...emptyEnd(null), picture: [first.width, first.height] };
    const names = subject.outputs.map((spec) => spec.name);
    const count = Math.max(Math.ceil(this.plan.runs / SHARE), LEAST);
    for (let i = -2; i < count; i++) {
      const marks = [performance.now()];
      const image = await decoded(encoded);
      marks.push(performance.now());
      const input = session.tensor(planes(fitted(image, subject.input), subject.input.scale ?? 1), subject.input.shape);
      marks.push(performance.now());
      const outputs = await session.run(input);
      marks.push(performance.now());
      after(session.ordered(outputs, names), image.width, image.height);
      marks.push(performance.now());
      if (i < 0) continue;
      found.ms.push(marks[4] - marks[0]);
      found.decode_ms.push(marks[1] - marks[0]);
      found.resize_ms.push(marks[2] - marks[1]);
      found.forward_ms.push(marks[3] - marks[2]);
      found.after_ms.push(marks[4] - marks[3]);
    }
    return found;
  }

  /** Runs without pause; those of the last tenth are kept. */
  async sustained(): Promise<void> {
    const total = this.plan.sustained_s * 1000;
    for (const item of this.opened) {
      const start = performance.now();
      for (let at = 0; at < total; at = performance.now() - start) {
        const ms = await timed(item);
        if (performance.now() - start >= 0.9 * total) item.side.sustained_ms.push(ms);
        this.tell(`running ${label(item)} without pause`, at / total);
      }
    }
  }

  /** ModelBench as it is: a new load for each round, one run that does not count, then 50. */
  async rounds(): Promise<void> {
    for (const item of this.opened) {
      const rounds: number[][] = [];
      for (let round = 0; round < MODEL_BENCH.rounds; round++) {
        await item.session.release();
        item.session = await Session.open(item.model, item.side.runtime.provider, this.threads);
        await timed(item);
        const times: number[] = [];
        for (let i = 0; i < MODEL_BENCH.runs; i++) times.push(await timed(item));
        rounds.push(times);
        this.tell(`ModelBench's rounds of ${label(item)}`, (round + 1) / MODEL_BENCH.rounds);
      }
      item.side.model_bench = { mean_ms: modelBench(rounds), reloaded: true, rounds_ms: rounds };
    }
  }

  async close(): Promise<void> {
    this.details.wasm_heap_bytes = heapBytes();
    const bytes = await this.remembered();
    if (bytes !== null) this.details.peak_memory = "measureUserAgentSpecificMemory, once while all was loaded";
    for (const { side, session } of this.opened) {
      side.memory.loaded_bytes = side.memory.peak_bytes = bytes;
      await session.release();
    }
  }

  private remembered(): Promise<number | null> {
    return Promise.race([this.memory, new Promise<null>((resolve) => setTimeout(resolve, MEMORY_WAIT_MS, null))]);
  }

  private trouble(state: "partial" | "wrong", sentence: string): void {
    if (this.result.state !== "wrong") this.result.state = state;
    this.result.problem = [this.result.problem, sentence].filter(Boolean).join(" ");
  }

  private tell(text: string, share: number): void {
    if (performance.now() - this.lastSnapshot < TELL_MS) return;
    this.lastSnapshot = performance.now();
    this.listener.progress(text, share);
    this.listener.snapshot(this.result);
  }
}

async function timed({ session, feed }: Opened): Promise<number> {
  const start = performance.now();
  await session.run(feed);
  return performance.now() - start;
}

const label = (item: Opened): string => `${item.subject.name} on ${item.side.runtime.provider}`;

export const message = (error: unknown): string => (error instanceof Error ? error.message : String(error));

function emptyEnd(reason: string | null): EndToEnd {
  return { ms: [], decode_ms: [], resize_ms: [], forward_ms: [], after_ms: [], picture: null, reason };
}

function emptySide(subject: Subject, provider: Provider, threads: number, bytes: number): Side {
  return {
    name: subject.name,
    sha256: subject.artifact.sha256,
    bytes,
    runtime: { name: "onnxruntime-web", version: null, provider, threads },
    known_answer: { right: null },
    load_ms: null,
    first_ms: null,
    warmup: null,
    steady_ms: [],
    end_to_end: emptyEnd("it was not measured."),
    sustained_ms: [],
    model_bench: null,
    memory: { start_bytes: null, loaded_bytes: null, peak_bytes: null },
  };
}
