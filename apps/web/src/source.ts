/** The bundle beside the app, over HTTP from this origin; each file is asked for with its hash, so that it can be kept. */

import type { Source } from "../kit/bundle.ts";
import { BundleError } from "../kit/errors.ts";

export type Tell = (loaded: number, all: number, what: string) => void;

/** What of a hash is in an address. */
export function mark(sha256: string): string {
  return sha256.slice(0, 16);
}

/** Reads `bundle/` of `base`. */
export function besideApp(base: string, tell: Tell): Source {
  return {
    async read(name, known) {
      const url = new URL(`bundle/${name.split("/").map(encodeURIComponent).join("/")}`, base);
      if (known) url.searchParams.set("v", mark(known.sha256));
      let response: Response;
      try {
        response = await fetch(url);
      } catch {
        throw new BundleError(
          `The model could not be loaded (${name}): there is no network, and it was not loaded before. Try again with one.`,
        );
      }
      // a server of one page answers with that page where a file is missing
      const page = response.headers.get("Content-Type")?.includes("text/html") ?? false;
      if (response.status === 404 || (response.ok && page)) return null;
      if (!response.ok) {
        throw new BundleError(`The model could not be loaded: the server answered ${response.status} for ${name}.`);
      }
      return whole(response, known?.bytes, (loaded, all) => tell(loaded, all, name));
    },
  };
}

async function whole(response: Response, bytes: number | undefined, tell: (loaded: number, all: number) => void): Promise<Uint8Array<ArrayBuffer>> {
  if (!bytes || !response.body) return new Uint8Array(await response.arrayBuffer());
  let out = new Uint8Array(bytes);
  let loaded = 0;
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (loaded + value.length > out.length) {
      const larger = new Uint8Array(Math.max(loaded + value.length, out.length * 2)); // not what was exported: its hash will say so
      larger.set(out.subarray(0, loaded));
      out = larger;
    }
    out.set(value, loaded);
    loaded += value.length;
    tell(loaded, bytes);
  }
  return loaded === out.length ? out : out.slice(0, loaded);
}
