/** Decoded pixels of other kinds -> RGB, as Pillow's `convert("RGB")` has it (16-bit grey: its high byte). */

export type Mode = "L" | "LA" | "RGBA" | "I;16" | "P" | "CMYK";

const VALUES: Record<Mode, number> = { L: 1, LA: 2, RGBA: 4, "I;16": 1, P: 1, CMYK: 4 };

/** RGB bytes; alpha is dropped, not blended. `palette`: RGB of each index, for mode P. */
export function toRgb(mode: Mode, pixels: Uint8Array | Uint16Array, palette?: Uint8Array): Uint8Array {
  const step = VALUES[mode];
  const out = new Uint8Array((pixels.length / step) * 3);
  for (let at = 0, into = 0; at < pixels.length; at += step, into += 3) {
    for (let c = 0; c < 3; c++) {
      const first = pixels[at];
      if (mode === "L" || mode === "LA") out[into + c] = first;
      else if (mode === "I;16") out[into + c] = first >> 8;
      else if (mode === "RGBA") out[into + c] = pixels[at + c];
      else if (mode === "P") out[into + c] = palette ? palette[3 * first + c] : first;
      else out[into + c] = light(pixels[at + c], 255 - pixels[at + 3]);
    }
  }
  return out;
}

/** What an ink leaves of what black leaves: Pillow, src/libImaging/Convert.c (cmyk2rgb), MULDIV255. */
function light(ink: number, left: number): number {
  const t = ink * left + 128;
  return Math.max(0, left - (((t >> 8) + t) >> 8));
}
