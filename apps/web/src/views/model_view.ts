/** What model this is, where it is from, whether it was proved, and what of it is kept. */

import { button, el, megabytes } from "../dom.ts";
import type { Tested } from "../messages.ts";
import type { Context, View } from "./view.ts";

export interface ModelActions {
  useSmall(small: boolean): void;
  useGpu(gpu: boolean): void;
}

export function modelView(context: Context, tested: Tested[], actions: ModelActions): View {
  const { info } = context;
  const proof = tested.length
    ? tested.map((item) => `${item.view}: ${item.agreement.toFixed(5)} (at least ${item.least})`).join("; ")
    : "passed at an earlier start";
  const threads = `${info.threads} ${info.threads === 1 ? "thread" : "threads"}`;
  const facts: [string, string][] = [
    ["Model", `${info.name}, ${info.precision}, ${megabytes(info.bytes)}`],
    ["From", info.source],
    ["Licence of the weights", info.researchOnly ? `${info.licence}: for research only` : info.licence],
    ["Known answers", proof],
    ["Runs on", info.gpu ? "the graphics processor, WebGPU" : `${threads} of the main processor, WebAssembly`],
  ];
  const list = el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
  const kept = el("dd", {}, "unknown");
  list.append(el("dt", {}, "Kept in this browser"), kept);
  const choices: HTMLElement[] = [];
  if (info.hasSmall) {
    const text = info.small ? "Use the full model" : "Use the smaller model (needs less memory)";
    choices.push(button(text, () => actions.useSmall(!info.small)));
  }
  if (info.hasGpu) {
    const text = info.gpu ? "Use the main processor" : "Try the graphics processor";
    choices.push(button(text, () => actions.useGpu(!info.gpu)));
  }
  const panel = el("div", {}, list, el("div", { className: "row" }, ...choices), el("p", { className: "hint" }, PRIVATE));
  const shown = (on: boolean) => {
    if (!on) return;
    void navigator.storage?.estimate?.().then(({ usage }) => {
      kept.textContent = usage ? megabytes(usage) : "nothing";
    });
  };
  return { title: "Model", panel, shown };
}

const PRIVATE =
  "Pictures, words and what the model makes of them stay on this device. The page asks no other server than the one it " +
  "came from, and after the first start it needs none.";
