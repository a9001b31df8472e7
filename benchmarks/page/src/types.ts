/** What comes in (a job: artifacts and a plan) and what goes out (a result, `benchmarks/result.schema.json`). */

export type Provider = "wasm" | "webgpu";

/** How much is measured: `Plan` of benchmarks/protocol.py. */
export interface Plan {
  runs: number;
  seconds: number;
  warmup_runs: number;
  warmup_s: number;
  /** 0: at most 4, one for each core. */
  threads: number;
  end_to_end: boolean;
  sustained_s: number;
  model_bench: boolean;
}

/** A file of the server and what it must be. */
export interface FileRef {
  url: string;
  sha256: string;
  /** Checked where the manifest says it. */
  bytes: number | null;
}

/** Little-endian values, row by row. */
export interface ArrayRef extends FileRef {
  dtype: string;
  shape: number[];
}

export interface InputSpec {
  name: string;
  kind: string;
  shape: number[];
  scale?: number;
  resize?: string;
  crop?: string;
}

export interface OutputSpec {
  name: string;
  meaning: string;
  compare?: "equal" | "matched";
}

export interface Gate {
  db: number;
  cosine: number;
  equal: number;
  found: number;
}

export interface Subject {
  name: string;
  view: string;
  artifact: FileRef;
  input: InputSpec;
  outputs: OutputSpec[];
  feed: ArrayRef;
  expected: ArrayRef[];
  gate: Gate;
  picture: FileRef | null;
  /** How many texts an embedding is ranked against, or classes there are. */
  labels: number;
}

export interface Job {
  subjects: Subject[];
  plan: Plan;
  providers: Provider[];
  /** Whether WebGPU may be a processor that plays a graphics processor: right, and far slower. */
  software: boolean;
  /** Whether to begin without being asked. */
  start: boolean;
}

export interface KnownAnswer {
  right: boolean | null;
  db?: number;
  cosine?: number;
  max_error?: number;
  equal?: number;
  found?: number;
  sha256?: string[];
}

export interface EndToEnd {
  ms: number[];
  decode_ms: number[];
  resize_ms: number[];
  forward_ms: number[];
  after_ms: number[];
  picture: [number, number] | null;
  reason: string | null;
}

export interface Side {
  name: string;
  sha256: string;
  bytes: number;
  runtime: { name: string; version: string | null; provider: Provider; threads: number | null };
  known_answer: KnownAnswer;
  load_ms: number | null;
  first_ms: number | null;
  warmup: number | null;
  steady_ms: number[];
  end_to_end: EndToEnd;
  sustained_ms: number[];
  model_bench: { mean_ms: number | null; reloaded: boolean; rounds_ms: number[][] } | null;
  memory: { start_bytes: number | null; loaded_bytes: number | null; peak_bytes: number | null };
}

export type Details = Record<string, unknown>;

export interface DeviceInfo {
  kind: "browser";
  name: string;
  model: string | null;
  soc: string | null;
  os: string | null;
  cores: number | null;
  memory_bytes: number | null;
  details: Details;
}

export type State = "complete" | "partial" | "wrong";

export interface Result {
  schema: 2;
  date: string;
  device: DeviceInfo;
  protocol: Record<string, unknown>;
  thermal: never[];
  sides: Side[];
  state: State;
  problem: string | null;
}

/** From the worker that measures to the page that shows. */
export type FromWorker =
  | { kind: "progress"; text: string; share: number | null }
  | { kind: "memory" }
  | { kind: "snapshot"; result: Result }
  | { kind: "done"; result: Result }
  | { kind: "failed"; message: string };

/** From the page to the worker. */
export type ToWorker = { kind: "start"; job: Job; device: DeviceInfo } | { kind: "memory"; bytes: number | null };
