/**
 * What CLIP's tokenizer does to a text before it looks for words: references become characters, typographic forms
 * (quotation marks, ligatures, widths) plain ones, control characters go, and what remains is in NFC.
 *
 * One step of the reference is left out: the guess that a text was decoded with a wrong encoding, and its repair
 * (`schÃ¶n`). It is for texts out of the web; what people type into an app is not such a text.
 *
 * Source: open_clip src/open_clip/tokenizer.py (basic_clean); ftfy 6.3 (fix_text), whose order of steps this is.
 */

import { unescaped, unescapedStrictly, WINDOWS_1252_HIGH } from "./references.ts";

const PLAIN = /^[\t\n\f\r -%'-~]*$/; // whitespace and printable ASCII without '&': nothing to do
const REMOVED = /[\0-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc]/g;
const ESCAPES = /\x1b\[[\p{Nd};]*[a-zA-Z]/gu;
const WIDE = /[\u3000\uff01-\uffef]/g;
const LINES = /\r\n|[\r\u2028\u2029\x85]/g;
const LONE = /[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/g;
const WORK = 1_000_000; // characters of a line times passes over it

const LIGATURES: Record<string, string> = {
  "\u0132": "IJ", "\u0133": "ij", "\u0149": "\u02bcn",
  "\u01f1": "DZ", "\u01f2": "Dz", "\u01f3": "dz",
  "\u01c4": "D\u017d", "\u01c5": "D\u017e", "\u01c6": "d\u017e",
  "\u01c7": "LJ", "\u01c8": "Lj", "\u01c9": "lj",
  "\u01ca": "NJ", "\u01cb": "Nj", "\u01cc": "nj",
  "\ufb00": "ff", "\ufb01": "fi", "\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl",
  "\ufb05": "\u017ft", "\ufb06": "st",
};
const LIGATURE = new RegExp(`[${Object.keys(LIGATURES).join("")}]`, "g");

/** A text as words are looked for in it; not yet in lower case. */
export function cleaned(text: string): string {
  if (PLAIN.test(text)) return text;
  let entities = true; // all that a line does to the next: behind a '<', references are not what they seem
  let out = "";
  for (const [line] of text.matchAll(/[^\n]*\n|[^\n]+/g)) {
    entities &&= !line.includes("<");
    out += fixed(line, entities);
  }
  return unescaped(unescaped(out));
}

/** One line, over and over until nothing changes: a reference may be inside of another. */
function fixed(line: string, entities: boolean): string {
  for (let left = 8 + WORK / line.length; left > 0; left--) {
    const before = line;
    if (entities) line = unescapedStrictly(line);
    line = line.replace(/[\x80-\x9f]/g, (char) => WINDOWS_1252_HIGH[char.charCodeAt(0) - 0x80]);
    line = line.replace(LIGATURE, (char) => LIGATURES[char]);
    line = line.replace(WIDE, (char) => char.normalize("NFKC"));
    line = line.replace(/[\u201c-\u201f]/g, '"').replace(/[\u02bc\u2018-\u201b]/g, "'");
    line = line.replace(LINES, "\n").replace(LONE, "\ufffd");
    line = line.replace(ESCAPES, "").replace(REMOVED, "").normalize("NFC");
    if (line === before) break;
  }
  return line;
}
