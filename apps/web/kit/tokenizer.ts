/**
 * Text -> token ids: CLIP's byte-pair encoding of lowercased text, the same ids as `mobileclip/tokenizer.py`.
 *
 * Made from `merges.txt`: 48,894 merges, one `left right` a line, in order of rank; merge i makes id 512 + i. A text of
 * any length costs what its cleaning and its first tokens cost.
 *
 * Source: Sennrich et al. (2016), section 3.2; openai/CLIP clip/simple_tokenizer.py.
 */

import { cleaned } from "./clean.ts";
import { BundleError } from "./errors.ts";

/** Tokens a row, start and end included. */
export const CONTEXT = 77;
export const START = 49406;
export const END = 49407;
/** Behind END. Not END itself: towers without a causal mask see the padding. */
export const PAD = 0;
const MERGES = 48_894;
const SPECIAL: Record<string, number> = { "<start_of_text>": START, "<end_of_text>": END };

/** What Python's `str.split` takes for whitespace. */
const BETWEEN = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u;
// The reference's pattern ignores case: so the long s counts as an s, and the iota below (U+0345), whose capital is a
// letter while it is none, is no part of any word.
const WORD = /<[sſ]tart_of_text>|<end_of_text>|'[sſ]|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\p{L}\p{N}\u0345]+/gu;
const LETTERS = /^[a-z]+$/; // one word, and its own symbols
const CACHED = 50_000;
const CACHED_LENGTH = 64;

export interface Row {
  /** START, tokens, END, zeros. */
  ids: Int32Array;
  /** Whether the text was too long and its end is not in `ids`. */
  cut: boolean;
}

export class Tokenizer {
  private readonly names: string[]; // id -> byte symbols, </w> at the end of a word
  private readonly words = new Map<string, number>(); // byte symbols of a whole word -> id
  private readonly pairs = new PairTable();
  private readonly cache = new Map<string, readonly number[]>();

  /** From the content of `merges.txt`. */
  constructor(merges: string) {
    const lines = merges.split("\n");
    if (lines[lines.length - 1] === "") lines.pop();
    if (lines.length !== MERGES) {
      throw new BundleError(
        `The tokenizer's merges.txt holds ${lines.length.toLocaleString("en")} merges; ` +
          `${MERGES.toLocaleString("en")} are needed. Install the bundle again.`,
      );
    }
    const ids = new Map<string, number>();
    this.names = [...SYMBOLS, ...SYMBOLS.map((symbol) => `${symbol}</w>`)];
    this.names.forEach((name, id) => ids.set(name, id));
    for (const line of lines) {
      const space = line.indexOf(" ");
      const [left, right] = [line.slice(0, space), line.slice(space + 1)];
      const made = left + right;
      const [a, b] = [ids.get(left), ids.get(right)];
      if (a === undefined || b === undefined) {
        throw new BundleError(`The tokenizer's merges.txt is damaged at "${line}". Install the bundle again.`);
      }
      this.pairs.set(a, b, this.names.length);
      ids.set(made, this.names.length);
      this.names.push(made);
    }
    // every merge that ends a word is what the word it spells comes to
    this.names.forEach((name, id) => {
      if (name.endsWith("</w>")) this.words.set(name.slice(0, -4), id);
    });
  }

  /** One text -> `context` ids. */
  row(text: string, context = CONTEXT): Row {
    const room = context - 2;
    const found = this.tokens(text, room + 1);
    const cut = found.length > room;
    if (cut) found.length = room;
    const ids = new Int32Array(context);
    ids[0] = START;
    ids.set(found, 1);
    ids[found.length + 1] = END;
    return { ids, cut };
  }

  /** Texts -> ids [N, context], row by row. */
  tokenize(texts: readonly string[], context = CONTEXT): Int32Array {
    const out = new Int32Array(texts.length * context);
    texts.forEach((text, index) => out.set(this.row(text, context).ids, index * context));
    return out;
  }

  /** All ids of a text, without START and END. */
  encode(text: string): number[] {
    return this.tokens(text, Infinity);
  }

  /** Ids -> text in lower case, a space behind each word. */
  decode(ids: Iterable<number>): string {
    const bytes: number[] = [];
    for (const id of ids) {
      const name = id === START ? "<start_of_text>" : id === END ? "<end_of_text>" : (this.names[id] ?? "");
      const whole = name.endsWith("</w>");
      for (const symbol of whole ? name.slice(0, -4) : name) bytes.push(BYTES.get(symbol) ?? 0x3f);
      if (whole) bytes.push(0x20);
    }
    return new TextDecoder().decode(Uint8Array.from(bytes));
  }

  /** Ids of a text; more than `enough` of them are not wanted. */
  private tokens(text: string, enough: number): number[] {
    const found: number[] = [];
    for (const chunk of cleaned(text).split(BETWEEN)) {
      if (found.length >= enough) break;
      if (!chunk) continue;
      let known = this.cache.get(chunk);
      if (!known) {
        known = this.chunk(chunk);
        if (chunk.length <= CACHED_LENGTH) {
          if (this.cache.size >= CACHED) this.cache.clear();
          this.cache.set(chunk, known);
        }
      }
      for (const id of known) found.push(id);
    }
    if (found.length > enough) found.length = enough;
    return found;
  }

  private chunk(chunk: string): number[] {
    const found: number[] = [];
    const lower = chunk.toLowerCase();
    if (LETTERS.test(lower)) {
      this.word(lower, found);
      return found;
    }
    for (const [word] of lower.matchAll(WORD)) {
      const special = SPECIAL[word];
      if (special !== undefined) found.push(special);
      else this.word(symbolsOf(word), found);
    }
    return found;
  }

  private word(symbols: string, found: number[]): void {
    const whole = this.words.get(symbols);
    if (whole !== undefined) {
      found.push(whole);
      return;
    }
    const ids = new Int32Array(symbols.length);
    for (let i = 0; i < ids.length; i++) ids[i] = SYMBOL_IDS[symbols.charCodeAt(i)];
    ids[ids.length - 1] += 256;
    for (const id of merged(ids, this.pairs)) found.push(id);
  }
}

/** Applies the merges to the symbols of a word: lowest rank first, leftmost first within a rank. */
function merged(ids: Int32Array, pairs: PairTable): number[] {
  const count = ids.length;
  const after = Int32Array.from(ids, (_, i) => i + 1);
  const before = Int32Array.from(ids, (_, i) => i - 1);
  const queue = new Queue();
  const offer = (left: number, right: number) => {
    const made = pairs.get(ids[left], ids[right]);
    if (made >= 0) queue.push(made * PLACES + left);
  };
  for (let i = 0; i + 1 < count; i++) offer(i, i + 1);
  while (queue.size) {
    const key = queue.pop();
    const made = Math.floor(key / PLACES);
    const place = key % PLACES;
    const right = after[place];
    if (ids[place] < 0 || right >= count || pairs.get(ids[place], ids[right]) !== made) continue; // one was merged since
    ids[place] = made;
    ids[right] = -1;
    after[place] = after[right];
    if (after[right] < count) {
      before[after[right]] = place;
      offer(place, after[place]);
    }
    if (before[place] >= 0) offer(before[place], place);
  }
  return Array.from(ids).filter((id) => id >= 0);
}

const PLACES = 2 ** 24;

/** Numbers, smallest first (a binary heap). */
class Queue {
  private readonly items: number[] = [];

  get size(): number {
    return this.items.length;
  }

  push(item: number): void {
    const { items } = this;
    let at = items.push(item) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (items[parent] <= item) break;
      items[at] = items[parent];
      at = parent;
    }
    items[at] = item;
  }

  pop(): number {
    const { items } = this;
    const first = items[0];
    const last = items.pop() as number;
    const count = items.length;
    if (count) {
      let at = 0;
      for (;;) {
        let child = 2 * at + 1;
        if (child >= count) break;
        if (child + 1 < count && items[child + 1] < items[child]) child++;
        if (items[child] >= last) break;
        items[at] = items[child];
        at = child;
      }
      items[at] = last;
    }
    return first;
  }
}

/** (left id, right id) -> made id: open addressing in three flat arrays, which a Map of numbers is several times slower than. */
class PairTable {
  private static readonly size = 1 << 17;
  private readonly lefts = new Int32Array(PairTable.size).fill(-1);
  private readonly rights = new Int32Array(PairTable.size);
  private readonly made = new Int32Array(PairTable.size);

  private slot(left: number, right: number): number {
    let at = (Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)) >>> 15;
    while (this.lefts[at] >= 0 && (this.lefts[at] !== left || this.rights[at] !== right)) at = (at + 1) & (PairTable.size - 1);
    return at;
  }

  set(left: number, right: number, made: number): void {
    const at = this.slot(left, right);
    this.lefts[at] = left;
    this.rights[at] = right;
    this.made[at] = made;
  }

  get(left: number, right: number): number {
    const at = this.slot(left, right);
    return this.lefts[at] < 0 ? -1 : this.made[at];
  }
}

/** Byte symbols in order of id: bytes that print stand for themselves, the others for characters from 256 on. */
const PRINTING = (byte: number) => (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
const ORDER = [...Array(256).keys()].filter(PRINTING).concat([...Array(256).keys()].filter((byte) => !PRINTING(byte)));
const SYMBOLS = ORDER.map((byte, id) => String.fromCharCode(PRINTING(byte) ? byte : 256 + id - 188));
const BYTES = new Map(SYMBOLS.map((symbol, id) => [symbol, ORDER[id]]));
const SYMBOL_IDS = new Int32Array(512);
SYMBOLS.forEach((symbol, id) => (SYMBOL_IDS[symbol.charCodeAt(0)] = id));
const BYTE_SYMBOLS = Array.from({ length: 256 }, (_, byte) => SYMBOLS[ORDER.indexOf(byte)]);
const encoder = new TextEncoder();

function symbolsOf(word: string): string {
  if (/^[!-~]*$/.test(word)) return word;
  let symbols = "";
  for (const byte of encoder.encode(word)) symbols += BYTE_SYMBOLS[byte];
  return symbols;
}
