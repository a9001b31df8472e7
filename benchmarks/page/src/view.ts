/** What is on the screen. Every foreign word enters as text, never as markup. */

import { percentile } from "./statistics";
import type { Result, Side } from "./types";

type Child = Node | string;

export function element(tag: string, className = "", ...children: Child[]): HTMLElement {
  const made = document.createElement(tag);
  if (className) made.className = className;
  made.append(...children);
  return made;
}

export function byId<T extends HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

export function show(id: string, text?: string | null): void {
  const found = byId(id);
  found.hidden = text === null;
  if (typeof text === "string") found.textContent = text;
}

/** Milliseconds as people read them. */
export function ms(value: number | null | undefined): string {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value >= 10_000) return `${(value / 1000).toFixed(1)} s`;
  return `${value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0)} ms`;
}

function megabytes(bytes: number | null): string {
  return bytes === null ? "not told" : `${Math.round(bytes / 2 ** 20)} MiB`;
}

/** One card a side, and once it is finished what the browser itself is like. */
export function showSides(result: Result, finished: boolean): void {
  const cards = result.sides.map((side) => card(side, finished));
  byId("sides").replaceChildren(...cards, ...(finished ? [browserCard(result)] : []));
}

function browserCard(result: Result): HTMLElement {
  const { details } = result.device;
  const providers = Object.entries((details.providers ?? {}) as Record<string, string>);
  const gpu = Object.values((details.gpu ?? {}) as Record<string, string>).filter(Boolean).join(" ");
  const step = typeof details.timer_step_ms === "number" ? `${(1000 * details.timer_step_ms).toFixed(0)} µs` : "–";
  return element(
    "article",
    "card",
    element("h2", "", "This browser"),
    ...providers.map(([name, told]) => element("p", "", `${name}: ${told}${name === "webgpu" && gpu ? `, ${gpu}` : ""}`)),
    figures([
      ["isolated", details.cross_origin_isolated ? "yes" : "no"],
      ["clock's step", step],
      ["WebAssembly", typeof details.wasm_heap_bytes === "number" ? megabytes(details.wasm_heap_bytes) : "–"],
    ]),
  );
}

function card(side: Side, finished: boolean): HTMLElement {
  const { known_answer: known, runtime } = side;
  const threads = runtime.provider === "wasm" ? `, ${runtime.threads} ${runtime.threads === 1 ? "thread" : "threads"}` : "";
  const proved =
    known.right === null
      ? badge(side.first_ms === null ? "not run" : "no known answer", false)
      : known.right
        ? badge(`right: ${known.equal === undefined ? `${known.db?.toFixed(0)} dB` : `${(100 * known.equal).toFixed(2)} % equal`}`, false)
        : badge("wrong answer", true);
  const made = element(
    "article",
    "card",
    element("h2", "", side.name),
    element("p", "quiet", `${runtime.name} ${runtime.version ?? ""}, ${runtime.provider}${threads} `, proved),
  );
  if (side.steady_ms.length > 0) made.append(...steady(side));
  made.append(
    figures([
      ["load", ms(side.load_ms)],
      ["first run", ms(side.first_ms)],
      ["file", `${(side.bytes / 1e6).toFixed(1)} MB`],
      ...(side.memory.peak_bytes === null
        ? []
        : [["memory of the page", megabytes(side.memory.peak_bytes)] as [string, string]]),
      ...(side.sustained_ms.length > 0
        ? [["sustained", ms(percentile(side.sustained_ms, 50))] as [string, string]]
        : []),
      ...(side.model_bench?.reloaded ? [["ModelBench", ms(side.model_bench.mean_ms)] as [string, string]] : []),
    ]),
  );
  if (side.end_to_end.ms.length > 0) made.append(...whole(side));
  else if (finished && side.end_to_end.reason)
    made.append(element("p", "quiet", `From a picture on: ${side.end_to_end.reason}`));
  return made;
}

function badge(text: string, bad: boolean): HTMLElement {
  return element("span", bad ? "badge bad" : "badge", text);
}

function figures(pairs: [string, string][]): HTMLElement {
  return element("dl", "", ...pairs.map(([name, value]) => element("div", "", element("dt", "", name), element("dd", "", value))));
}

function steady(side: Side): HTMLElement[] {
  const times = side.steady_ms;
  return [
    element("p", "big", ms(percentile(times, 50)), " ", element("small", "", "median of a run")),
    figures([
      ["90 % within", ms(percentile(times, 90))],
      ["99 % within", ms(percentile(times, 99))],
      ["runs", String(times.length)],
    ]),
    trace(times),
  ];
}

/** Times in order, so that heat and noise are seen; the highest hundredth is cut off. */
function trace(times: number[]): HTMLElement {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("class", "trace");
  svg.setAttribute("viewBox", "0 0 100 100");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", "time of each run, in order");
  const step = Math.max(Math.ceil(times.length / 400), 1);
  const points = Array.from({ length: Math.ceil(times.length / step) }, (_, i) =>
    percentile(times.slice(i * step, (i + 1) * step), 50),
  );
  const [low, high] = [Math.min(...points), Math.max(percentile(points, 99), Math.min(...points) * 1.2)];
  const line = document.createElementNS(space, "polyline");
  const place = (value: number, i: number): string => {
    const x = points.length > 1 ? (100 * i) / (points.length - 1) : 50;
    return `${x.toFixed(2)},${(96 - (92 * (Math.min(value, high) - low)) / (high - low || 1)).toFixed(2)}`;
  };
  line.setAttribute("points", points.map(place).join(" "));
  svg.append(line);
  return svg as unknown as HTMLElement;
}

function whole(side: Side): HTMLElement[] {
  const end = side.end_to_end;
  const parts: [string, number][] = [
    ["decode", percentile(end.decode_ms, 50)],
    ["resize", percentile(end.resize_ms, 50)],
    ["forward", percentile(end.forward_ms, 50)],
    ["after", percentile(end.after_ms, 50)],
  ];
  const bar = element("div", "parts", ...parts.map(([name, value]) => part(name, value)));
  const key = element(
    "p",
    "quiet key",
    ...parts.map(([name, value]) => element("span", "", element("i", name), `${name} ${ms(value)}`)),
  );
  const size = end.picture ? ` of ${end.picture[0]} × ${end.picture[1]}` : "";
  return [element("h3", "", `From a picture${size} to what is shown: ${ms(percentile(end.ms, 50))}`), bar, key];
}

function part(name: string, value: number): HTMLElement {
  const made = element("i", name);
  made.style.flexGrow = String(value);
  return made;
}
