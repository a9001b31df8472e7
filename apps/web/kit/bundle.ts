/**
 * A bundle: a folder of artifacts and its manifest, read from wherever a `Source` reads. No byte of it is used before
 * its SHA-256 was compared with the manifest's.
 */

import { BundleError } from "./errors.ts";
import { type Artifact, type ArrayFile, inside, listed, type Manifest, parsed, type View } from "./manifest.ts";

const AGAIN = "Install the bundle again.";

export interface Source {
  /** The content of a file; null where there is none. `known` is what the manifest says of it, where it is known. */
  read(name: string, known?: { sha256: string; bytes?: number }): Promise<Uint8Array<ArrayBuffer> | null>;
  /** Files of a folder, with their paths in it; null where `name` is no folder, or folders cannot be listed. */
  list?(name: string): Promise<string[] | null>;
}

export type Values = Float32Array | Int32Array | BigInt64Array;

export class Bundle {
  readonly manifest: Manifest;
  private readonly source: Source;
  private readonly hashes: Map<string, string>;

  private constructor(source: Source, manifest: Manifest) {
    this.source = source;
    this.manifest = manifest;
    this.hashes = new Map(listed(manifest));
  }

  /**
   * Reads the manifest.
   *
   * @throws BundleError none, or none that this app can use.
   */
  static async open(source: Source): Promise<Bundle> {
    const bytes = await source.read("manifest.json");
    if (!bytes) {
      throw new BundleError(
        "There is no model here: manifest.json is missing. Install a bundle that `mobileclip export` made.",
      );
    }
    return new Bundle(source, parsed(bytes));
  }

  /**
   * Reads and compares every file of the bundle.
   *
   * @throws BundleError a file is missing or changed.
   */
  async checkFiles(): Promise<void> {
    for (const [name, expected] of listed(this.manifest)) {
      const parts = await this.source.list?.(name);
      if (!parts) await this.read(name);
      else if ((await this.folderHash(name, parts)) !== expected) throw changed(name);
    }
  }

  private async folderHash(name: string, parts: string[]): Promise<string> {
    const order = parts.map((path) => path.split("/")).sort(byParts);
    let whole = "";
    for (const path of order.map((one) => one.join("/"))) {
      const bytes = await this.source.read(inside(`${name}/${path}`));
      whole += `${path}\0${bytes ? await sha256(bytes) : ""}\n`;
    }
    return sha256(new TextEncoder().encode(whole));
  }

  /**
   * The artifact of a view for a runtime: the floats where there are several, or that with fewer bits if `small`.
   *
   * @throws BundleError there is none.
   */
  artifact(view: View, target: string, small = false): Artifact {
    const of = this.manifest.artifacts.filter((item) => item.view === view);
    const found = of.filter((item) => item.target === target);
    if (!found.length) {
      const has = [...new Set(of.map((item) => item.target))].sort().join(", ");
      throw new BundleError(
        `This model has no ${view} part for ${target} (it has ${has || "none"}). Export it with --to ${target}.`,
      );
    }
    return found.find((item) => (item.quantisation !== null) === small) ?? found[0];
  }

  /** Whether there is an artifact of a view for a runtime. */
  has(view: View, target: string): boolean {
    return this.manifest.artifacts.some((item) => item.view === view && item.target === target);
  }

  /** Whether some artifact for a runtime also comes with fewer bits. */
  hasSmall(target: string): boolean {
    const of = this.manifest.artifacts.filter((item) => item.target === target);
    return of.some((item) => item.quantisation && of.some((other) => other.view === item.view && !other.quantisation));
  }

  /**
   * A file of the bundle.
   *
   * @throws BundleError it is missing or changed, or no part of the bundle.
   */
  async read(name: string): Promise<Uint8Array<ArrayBuffer>> {
    const expected = this.hashes.get(name);
    if (!expected) throw new BundleError(`The model's manifest does not speak of ${name}. ${AGAIN}`);
    const bytes = this.manifest.artifacts.find((item) => item.file === name)?.bytes;
    const found = await this.source.read(inside(name), { sha256: expected, bytes });
    if (!found) throw new BundleError(`The model is incomplete: ${name} is missing. ${AGAIN}`);
    if ((await sha256(found)) !== expected) throw changed(name);
    return found;
  }

  /** A text file of the bundle. */
  async text(name: string): Promise<string> {
    return new TextDecoder().decode(await this.read(name));
  }

  /** An array of a known answer. */
  async array(entry: ArrayFile): Promise<Values> {
    const bytes = await this.read(entry.file);
    const make = { float32: Float32Array, int32: Int32Array, int64: BigInt64Array }[entry.dtype];
    const count = entry.shape.reduce((a, b) => a * b, 1);
    if (bytes.length !== count * make.BYTES_PER_ELEMENT) throw changed(entry.file);
    return new make(bytes.buffer, bytes.byteOffset, count);
  }

  /**
   * Compares the manifest's tokenizer with merges.txt, whose content is given.
   *
   * @throws BundleError it is another one.
   */
  async checkTokenizer(merges: Uint8Array<ArrayBuffer>): Promise<void> {
    const own = this.manifest.tokenizer;
    if (own && own.sha256 !== (await sha256(merges))) {
      throw new BundleError(
        "This model was made for another tokenizer: its texts would be misread. Export it again with this version.",
      );
    }
  }
}

function changed(name: string): BundleError {
  return new BundleError(`The model is damaged: ${name} is not the file that was exported. ${AGAIN}`);
}

function byParts(a: string[], b: string[]): number {
  for (let i = 0; i < Math.min(a.length, b.length); i++) if (a[i] !== b[i]) return a[i] < b[i] ? -1 : 1;
  return a.length - b.length;
}

/** In hexadecimal. */
export async function sha256(bytes: Uint8Array<ArrayBuffer>): Promise<string> {
  if (!globalThis.crypto?.subtle) {
    throw new BundleError("This page was not opened over https or from this very device, so no file can be checked.");
  }
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
