/** What the browser and this app make of an encoded picture: built alone, and run in a page by `browser.mjs`. */

import { stretchRule } from "../kit/preprocess.ts";
import { fitted, opened } from "../src/decode.ts";

interface Golden {
  refused?: true;
  upright?: { shape: number[]; base64: string };
}

/** Size that came out and the largest difference from what is expected; what was said where nothing came out. */
export async function decoded(bytes: Uint8Array<ArrayBuffer>, golden: Golden): Promise<object> {
  try {
    const { bitmap } = await opened(new Blob([bytes]), "golden");
    const { width, height } = bitmap;
    const rgb = fitted(bitmap, stretchRule(width, height, height, width));
    const wanted = Uint8Array.from(atob(golden.upright?.base64 ?? ""), (char) => char.charCodeAt(0));
    let most = wanted.length === rgb.length ? 0 : Infinity;
    for (let i = 0; i < rgb.length; i++) most = Math.max(most, Math.abs(rgb[i] - wanted[i]));
    return { size: [height, width], difference: most };
  } catch (error) {
    return { refused: String(error) };
  }
}
