/** Segmentation and depth: what each pixel is, or how far, over the picture. */

import { button, droppable, el, notice, percent, pictureButton, say } from "../dom.ts";
import type { Segmented } from "../messages.ts";
import type { Context, View } from "./view.ts";

const CLASSES_SHOWN = 12;

export function segmentView(context: Context): View {
  return new Segment(context);
}

class Segment implements View {
  readonly title: string;
  readonly panel: HTMLElement;
  private readonly context: Context;
  private task: Segmented["task"];
  private file: File | null = null;
  private found: Segmented | null = null;
  private readonly canvas = el("canvas", { attrs: { role: "img" } });
  private readonly stage = el("div", { className: "stage" });
  private readonly opacity = el("input", { id: "opacity", type: "range", min: "0", max: "100", value: "60" });
  private readonly legend = el("ul", { className: "legend", attrs: { "aria-label": "What is in the picture" } });
  private readonly time = el("p", { className: "hint", attrs: { role: "status" } });

  constructor(context: Context) {
    this.context = context;
    const { tasks } = context.info;
    this.task = tasks[0];
    this.title = tasks.includes("segmentation") ? "Segment" : "Depth";
    const choose = pictureButton("Choose picture", false, ([file]) => void this.take(file));
    const turns = tasks.length > 1 ? tasks.map((task) => this.taskButton(task)) : [];
    this.opacity.oninput = () => this.draw();
    const slider = el("label", { className: "slider", htmlFor: "opacity" }, "Overlay", this.opacity);
    this.panel = el("div", {}, this.stage, el("div", { className: "row" }, choose, ...turns), slider, this.time, this.legend);
    this.stage.append(el("p", { className: "empty" }, "Choose a picture: the model says what each of its pixels is."));
    droppable(this.stage, ([file]) => void this.take(file));
  }

  private taskButton(task: Segmented["task"]): HTMLElement {
    return button(task === "depth" ? "Depth" : "Classes", () => {
      this.task = task;
      void this.again();
    });
  }

  private async take(file: File | undefined): Promise<void> {
    this.file = file ?? null;
    await this.again();
  }

  private async again(): Promise<void> {
    if (!this.file) return;
    notice("");
    this.time.textContent = "Looking …";
    try {
      this.found = await this.context.client.ask("segment", { picture: this.file, name: this.file.name, task: this.task });
      this.stage.replaceChildren(this.canvas);
      this.draw();
      this.explain(this.found);
    } catch (error) {
      this.time.textContent = "";
      this.context.failed(error);
    }
  }

  private draw(): void {
    if (!this.found) return;
    const { width, height, picture, pixels, task } = this.found;
    const share = Number(this.opacity.value) / 100;
    const { palette } = this.context.info;
    this.canvas.width = width;
    this.canvas.height = height;
    const out = new ImageData(width, height);
    for (let i = 0, at = 0; i < width * height; i++, at += 4) {
      for (let c = 0; c < 3; c++) {
        const colour = task === "depth" ? pixels[3 * i + c] : (palette[3 * pixels[i] + c] ?? 128);
        out.data[at + c] = picture[at + c] * (1 - share) + colour * share;
      }
      out.data[at + 3] = 255;
    }
    this.canvas.getContext("2d")?.putImageData(out, 0, 0);
  }

  private explain(found: Segmented): void {
    this.time.textContent = `${found.ms.toFixed(0)} ms on this device.`;
    if (found.task === "depth") {
      const told = `From ${found.low.toFixed(1)} m (light) to ${found.high.toFixed(1)} m (dark).`;
      this.canvas.setAttribute("aria-label", `Distances: ${told}`);
      this.legend.replaceChildren(el("li", {}, told));
      say(told);
      return;
    }
    const { classes, palette } = this.context.info;
    const counts = new Map<number, number>();
    for (const label of found.pixels) counts.set(label, (counts.get(label) ?? 0) + 1);
    const shares = [...counts].map(([label, count]) => ({ label, share: count / found.pixels.length }));
    shares.sort((a, b) => b.share - a.share);
    const name = (label: number) => classes[label] ?? `class ${label}`;
    this.legend.replaceChildren(
      ...shares.slice(0, CLASSES_SHOWN).map(({ label, share }) => {
        const swatch = el("span", { className: "swatch", attrs: { "aria-hidden": "true" } });
        swatch.style.background = `rgb(${palette.slice(3 * label, 3 * label + 3).join(" ")})`;
        return el("li", { attrs: { "data-label": name(label), "data-share": String(share) } }, swatch, name(label), el("span", { className: "share" }, percent(share)));
      }),
    );
    const told = shares.slice(0, 5).map(({ label, share }) => `${name(label)} ${percent(share)}`).join(", ");
    this.canvas.setAttribute("aria-label", `Segmented picture: ${told}`);
    say(told);
  }
}
