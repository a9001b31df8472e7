/** What the page and its worker say to each other. */

export interface Tested {
  view: string;
  /** Cosine with the known answer, or share of equal labels. */
  agreement: number;
  /** Least that is right. */
  least: number;
}

export interface ModelInfo {
  name: string;
  source: string;
  licence: string;
  researchOnly: boolean;
  precision: string;
  bytes: number;
  /** Whether pictures can be compared with words. */
  words: boolean;
  labels: string[];
  template: string;
  /** Dense tasks that can be shown. */
  tasks: ("segmentation" | "depth")[];
  classes: string[];
  /** RGB of each class. */
  palette: number[];
  /** Whether the bundle has fewer bits as well, and whether they are in use. */
  hasSmall: boolean;
  small: boolean;
  /** Hash of what makes picture embeddings: those of another are not comparable. */
  space: string;
  width: number;
  threads: number;
  /** Whether there is a graphics processor that could run it, and whether it does. */
  hasGpu: boolean;
  gpu: boolean;
  /** Beginnings of the hashes of the bundle's files, as they are asked for. */
  files: string[];
}

export interface Classified {
  /** Of each text; null where the model gave no number. */
  probabilities: number[] | null;
  /** Which texts were too long. */
  cut: boolean[];
  /** The browser made the picture smaller before it was seen. */
  reduced: boolean;
  ms: number;
}

export interface Segmented {
  task: "segmentation" | "depth";
  width: number;
  height: number;
  /** Class of each pixel, or RGB of each distance. */
  pixels: Uint8Array<ArrayBuffer>;
  /** The picture, as large as that, RGBA. */
  picture: Uint8ClampedArray<ArrayBuffer>;
  /** In metres, of depth. */
  low: number;
  high: number;
  ms: number;
}

export interface Embedded {
  embedding: Float32Array<ArrayBuffer>;
  thumbnail: Blob;
  reduced: boolean;
}

export interface Found {
  place: number;
  score: number;
}

/** What the page can ask for: argument and answer of each. */
export interface Requests {
  load: { ask: { small: boolean; gpu: boolean; tested: string[] }; answer: { info: ModelInfo; tested: Tested[]; proved: string[] } };
  classify: { ask: { picture: Blob | ImageBitmap; name: string; texts: string[] }; answer: Classified };
  segment: { ask: { picture: Blob; name: string; task: "segmentation" | "depth" }; answer: Segmented };
  embed: { ask: { picture: Blob; name: string }; answer: Embedded };
  fill: { ask: { rows: Float32Array<ArrayBuffer>; count: number }; answer: null };
  search: { ask: { text: string; most: number }; answer: { hits: Found[]; cut: boolean } };
}

export type Kind = keyof Requests;

/** Why a request failed: a model that cannot be used, a picture that cannot, no memory, or a fault of ours. */
export type Reason = "bundle" | "picture" | "memory" | "fault";

export interface Failure {
  reason: Reason;
  message: string;
  /** Whether there is a smaller model that was not in use. */
  smaller: boolean;
}

export type ToWorker = { [K in Kind]: { id: number; kind: K; ask: Requests[K]["ask"] } }[Kind];
export type FromWorker =
  | { id: number; answer: unknown }
  | { id: number; failure: Failure }
  | { progress: { loaded: number; all: number; what: string } };
