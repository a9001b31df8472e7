/** Files of the server, each checked before it is used. */

import { sha256 } from "./sha256";
import type { ArrayRef, FileRef } from "./types";

/** Largest file that is fetched: what 32-bit WebAssembly can hold. */
const MOST = 4 * 2 ** 30;

/** Something that the person in front of the page can understand. */
export class Told extends Error {}

/** The content of a file, of the size and hash that were promised. */
export async function fetched(file: FileRef): Promise<Uint8Array<ArrayBuffer>> {
  const name = file.url.split("/").pop() ?? file.url;
  if (file.bytes !== null && file.bytes > MOST) throw new Told(`${name} has ${file.bytes} bytes: a page can hold ${MOST}.`);
  const response = await fetch(file.url).catch((error: unknown) => {
    throw new Told(`${name} cannot be fetched (${String(error)}): is the server still there?`);
  });
  if (!response.ok) throw new Told(`${name} cannot be fetched: the server answers ${response.status}.`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  if (file.bytes !== null && bytes.length !== file.bytes)
    throw new Told(`${name} has ${bytes.length} bytes, its manifest says ${file.bytes}: export the bundle again.`);
  if ((await sha256(bytes)) !== file.sha256)
    throw new Told(`${name} is not the file of its manifest (another sha256): export the bundle again.`);
  return bytes;
}

export type Values = Float32Array | Uint8Array | Int8Array | Int32Array | BigInt64Array | Uint16Array;

const KINDS: Record<string, { make: (buffer: ArrayBuffer) => Values; bytes: number }> = {
  float32: { make: (b) => new Float32Array(b), bytes: 4 },
  float16: { make: (b) => new Uint16Array(b), bytes: 2 },
  uint8: { make: (b) => new Uint8Array(b), bytes: 1 },
  int8: { make: (b) => new Int8Array(b), bytes: 1 },
  int32: { make: (b) => new Int32Array(b), bytes: 4 },
  int64: { make: (b) => new BigInt64Array(b), bytes: 8 },
};

/** An array of the known answer. */
export async function array(ref: ArrayRef): Promise<Values> {
  const kind = KINDS[ref.dtype];
  if (!kind) throw new Told(`${ref.url} holds ${ref.dtype}: ${Object.keys(KINDS).join(", ")} can be read.`);
  const bytes = await fetched(ref);
  const wanted = ref.shape.reduce((a, b) => a * b, 1) * kind.bytes;
  if (bytes.length !== wanted) throw new Told(`${ref.url} has ${bytes.length} bytes, its shape wants ${wanted}.`);
  return kind.make(bytes.buffer);
}
