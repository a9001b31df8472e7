/**
 * How fast the kit is on one core: `npm run bench`. Prints figures and exits with 1 where one is above its limit.
 *
 * Tokenising is timed with nothing cached (a new tokenizer each round); search over random unit vectors, the question
 * changing. Medians of rounds, after rounds that do not count. Limits hold for processor time: one core, however busy.
 */

import { readFileSync } from "node:fs";
import { IntegerIndex } from "../kit/embeddings.ts";
import { applied, squareRule } from "../kit/preprocess.ts";
import { percentile } from "../kit/statistics.ts";
import { Tokenizer } from "../kit/tokenizer.ts";

const golden = (name: string) => readFileSync(`../golden/${name}`, "utf8"); // npm runs it in apps/web
const [CAPTIONS, ROWS, WIDTH] = [1_000, 100_000, 512];
let failed = false;

interface Times {
  wall: number;
  cpu: number;
}

/** Medians, in ms: time that passed, and time of processors, which other programs on this machine do not lengthen. */
function timed(round: () => void, count: number, warmup: number): Times {
  const [wall, cpu]: [number[], number[]] = [[], []];
  for (let i = 0; i < warmup + count; i++) {
    const [start, used] = [performance.now(), process.cpuUsage()];
    round();
    const { user, system } = process.cpuUsage(used);
    if (i < warmup) continue;
    wall.push(performance.now() - start);
    cpu.push((user + system) / 1000);
  }
  return { wall: percentile(wall, 50), cpu: percentile(cpu, 50) };
}

function told(what: string, { wall, cpu }: Times, limit?: number): void {
  const verdict = limit === undefined ? "" : cpu < limit ? `  (limit ${limit})` : `  ABOVE THE LIMIT of ${limit}`;
  if (limit !== undefined && cpu >= limit) failed = true;
  console.log(`${what.padEnd(64)} ${wall.toFixed(2).padStart(8)} ${cpu.toFixed(2).padStart(8)}${verdict}`);
}

function captions(): string[] {
  const names = (JSON.parse(golden("tokenization.json")) as { cases: { text: string }[] }).cases.slice(0, CAPTIONS);
  return names.map(({ text }, i) => `A photo of a ${text} and ${names[(i * 7) % CAPTIONS].text}, number ${i}, on a table.`);
}

function tokens(): void {
  const merges = golden("merges.txt");
  const texts = captions();
  let made: Tokenizer[] = [];
  told("reading the merges (once an app's start)", timed(() => made.push(new Tokenizer(merges)), 5, 3));
  made = Array.from({ length: 15 }, () => new Tokenizer(merges));
  told(`tokenising ${CAPTIONS} captions, nothing cached`, timed(() => made.pop()?.tokenize(texts), 10, 5), 50);
  const known = new Tokenizer(merges);
  told(`tokenising ${CAPTIONS} captions, again`, timed(() => known.tokenize(texts), 20, 5));
  told("tokenising a text of 10,000 characters", timed(() => known.row("photo of a cat ".repeat(667)), 20, 5));
  told("tokenising a word of 10,000 characters", timed(() => known.row("donaudampfschiff".repeat(625)), 20, 5));
}

function random(seed: number): () => number {
  return () => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0; // Numerical Recipes, 7.1
    return seed / 2 ** 31 - 1;
  };
}

function search(simd: boolean): void {
  const next = random(8);
  const index = new IntegerIndex(WIDTH, simd);
  const vector = () => Float32Array.from({ length: WIDTH }, next);
  for (let i = 0; i < ROWS; i++) index.add(vector());
  const of = `the best 50 of ${ROWS.toLocaleString("en")} int8 x ${WIDTH}`;
  const how = simd ? "WebAssembly SIMD" : "typed arrays alone";
  told(`${of}, ${how}`, timed(() => index.search(vector(), 50), 20, 5), simd ? 20 : undefined);
  if (simd) told(`${of}, sign codes first`, timed(() => index.searchCodes(vector(), 50, 1000), 20, 5), 20);
}

function pixels(): void {
  const [width, height] = [4032, 3024];
  const image = { width, height, channels: 4 as const, data: new Uint8ClampedArray(width * height * 4).fill(100) };
  told("4032 x 3024 to 256, exact", timed(() => applied(squareRule(width, height, 256), image), 5, 2));
}

console.log(`${"".padEnd(64)} ${"ms".padStart(8)} ${"CPU ms".padStart(8)}`);
tokens();
search(true);
search(false);
pixels();
process.exit(failed ? 1 : 0);
