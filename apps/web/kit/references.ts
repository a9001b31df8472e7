/**
 * Character references (`&amp;`, `&#8217;`) -> characters, in the two ways that CLIP's text cleaning uses: as browsers
 * do it (`unescaped`, Python's `html.unescape`), and only where it is certain (`unescapedStrictly`, ftfy's).
 */

import { ENTITIES } from "./entities.ts";

/** What bytes 0x80 to 0x9f are in Windows-1252; those that it leaves out are themselves. */
export const WINDOWS_1252_HIGH =
  "\u20ac\x81\u201a\u0192\u201e\u2026\u2020\u2021\u02c6\u2030\u0160\u2039\u0152\x8d\u017d\x8f" +
  "\x90\u2018\u2019\u201c\u201d\u2022\u2013\u2014\u02dc\u2122\u0161\u203a\u0153\x9d\u017e\u0178";

interface Tables {
  html: Map<string, string>; // name, with its semicolon unless it needs none
  strict: Map<string, string>; // &name;
}

let tables: Tables | null = null;

function known(): Tables {
  if (tables) return tables;
  const html = new Map<string, string>();
  const strict = new Map<string, string>();
  for (const entry of ENTITIES.split("|")) {
    const [marked, codes] = entry.split(" ");
    const name = marked.replace("*", "");
    const text = String.fromCodePoint(...codes.split("+").map((code) => parseInt(code, 16)));
    html.set(`${name};`, text);
    if (marked.endsWith("*")) html.set(name, text);
    strict.set(`&${name};`, text);
  }
  tables = { html, strict };
  // a name in lower case is known in capitals as well, where HTML gives that no meaning: &NTILDE;
  for (const [name, text] of [...strict]) {
    const upper = name.toUpperCase();
    if (name === name.toLowerCase() && unescaped(upper) === upper) strict.set(upper, text.toUpperCase());
  }
  return tables;
}

function numbered(number: number): string {
  if (number === 0) return "\ufffd";
  if (number === 0x0d) return "\r";
  if (number >= 0x80 && number <= 0x9f) return WINDOWS_1252_HIGH[number - 0x80];
  if ((number >= 0xd800 && number <= 0xdfff) || !(number <= 0x10ffff)) return "\ufffd";
  const none =
    (number >= 1 && number <= 8) ||
    number === 0x0b ||
    (number >= 0x0e && number <= 0x1f) ||
    number === 0x7f ||
    (number >= 0xfdd0 && number <= 0xfdef) ||
    (number & 0xfffe) === 0xfffe;
  return none ? "" : String.fromCodePoint(number);
}

/** As browsers do it: the longest name at the beginning counts, and a semicolon may be missing where it always could. */
export function unescaped(text: string): string {
  if (!text.includes("&")) return text;
  const { html } = known();
  return text.replace(/&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[^\t\n\f <&#;]{1,32};?)/gu, (whole, reference: string) => {
    if (reference[0] === "#") {
      const hexadecimal = reference[1] === "x" || reference[1] === "X";
      return numbered(hexadecimal ? parseInt(reference.slice(2), 16) : parseInt(reference.slice(1), 10));
    }
    const exact = html.get(reference);
    if (exact !== undefined) return exact;
    for (let length = reference.length - 1; length > 1; length--) {
      const found = html.get(reference.slice(0, length));
      if (found !== undefined) return found + reference.slice(length);
    }
    return whole;
  });
}

/** Only whole references with their semicolon. */
export function unescapedStrictly(text: string): string {
  if (!text.includes("&")) return text;
  const { strict } = known();
  return text.replace(/&#?[0-9A-Za-z]{1,24};/g, (whole) => {
    const named = strict.get(whole);
    if (named !== undefined) return named;
    if (whole[1] !== "#") return whole;
    const found = unescaped(whole);
    return found.includes(";") ? whole : found;
  });
}
