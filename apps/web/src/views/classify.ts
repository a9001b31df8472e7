/** Zero-shot: what the camera or a picture shows, among labels that can be changed. */

import { ranked } from "../../kit/ranking.ts";
import { Camera } from "../camera.ts";
import { button, droppable, el, notice, percent, pictureButton, say, shortened } from "../dom.ts";
import type { Classified } from "../messages.ts";
import { Labels } from "./labels.ts";
import type { Context, View } from "./view.ts";

const SHOWN = 10; // results
const SPOKEN = 4_000; // ms between two results that are read aloud, of the camera

export function classifyView(context: Context): View {
  return new Classify(context);
}

class Classify implements View {
  readonly title = "Classify";
  readonly panel: HTMLElement;
  private readonly context: Context;
  private readonly camera = new Camera();
  private readonly labels: Labels;
  private readonly stage = el("div", { className: "stage" });
  private readonly results = el("ol", { className: "results", attrs: { "aria-label": "Results" } });
  private readonly time = el("p", { className: "hint" });
  private readonly cameraButton = button("Use camera", () => void this.switchCamera());
  private readonly turnButton = button("Turn camera", () => void this.turnCamera(), { hidden: true });
  private picture: File | null = null;
  private address = "";
  private looping = false;
  private spoken = 0;
  private asked = 0;

  constructor(context: Context) {
    this.context = context;
    this.labels = new Labels(context.info.labels, () => void this.again());
    const choose = pictureButton("Choose picture", false, ([file]) => void this.take(file));
    const actions = el("div", { className: "row" }, this.cameraButton, choose, this.turnButton);
    this.panel = el("div", {}, this.stage, actions, this.results, this.time, this.labels.element);
    droppable(this.stage, ([file]) => void this.take(file));
    document.addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find((item) => item.type.startsWith("image/"));
      if (file && !this.panel.closest("[hidden]")) void this.take(file);
    });
    this.empty();
  }

  shown(on: boolean): void {
    if (!on && this.camera.on) this.stopCamera();
  }

  private empty(): void {
    const text = "Take or choose a picture: the model says which of the labels below fits it best. Nothing leaves this device.";
    this.stage.replaceChildren(el("p", { className: "empty" }, text));
  }

  private async take(file: File | undefined): Promise<void> {
    if (!file) return;
    notice("");
    this.stopCamera();
    this.picture = file;
    URL.revokeObjectURL(this.address);
    this.address = URL.createObjectURL(file);
    const image = el("img", { src: this.address, alt: `Picture ${file.name}` });
    image.onerror = () => this.stage.replaceChildren(el("p", { className: "empty" }, `${file.name} cannot be shown.`));
    this.stage.replaceChildren(image);
    this.results.replaceChildren();
    this.time.textContent = "Looking …";
    await this.again();
  }

  /** Once more, with other labels or another picture; of several that were asked for only the last is shown. */
  private async again(): Promise<void> {
    if (!this.picture || this.camera.on) return;
    const asked = ++this.asked;
    try {
      const found = await this.classify(this.picture, this.picture.name);
      if (asked === this.asked) this.show(found, true);
    } catch (error) {
      if (asked !== this.asked) return;
      this.picture = null;
      this.results.replaceChildren();
      this.time.textContent = "";
      this.empty();
      this.context.failed(error);
    }
  }

  private classify(picture: Blob | ImageBitmap, name: string): Promise<Classified> {
    const transfer = picture instanceof ImageBitmap ? [picture] : [];
    return this.context.client.ask("classify", { picture, name, texts: this.labels.values }, transfer);
  }

  private show(found: Classified, aloud: boolean): void {
    const labels = this.labels.values;
    this.labels.cut(found.cut);
    if (!found.probabilities || found.probabilities.length !== labels.length) {
      this.results.replaceChildren();
      this.time.textContent = labels.length ? "The model gave no number for this picture." : "Add a label to compare with.";
      return;
    }
    const shares = found.probabilities;
    const best = ranked(shares, SHOWN);
    this.results.replaceChildren(...best.map((place) => bar(labels[place], shares[place])));
    const reduced = found.reduced ? " The picture was too large for this browser and was made smaller first." : "";
    this.time.textContent = `${found.ms.toFixed(0)} ms on this device.${reduced}`;
    if (aloud || performance.now() - this.spoken > SPOKEN) {
      this.spoken = performance.now();
      say(best.slice(0, 3).map((place) => `${shortened(labels[place])} ${percent(shares[place])}`).join(", "));
    }
  }

  private async switchCamera(): Promise<void> {
    if (this.camera.on) {
      this.stopCamera();
      this.empty();
      return;
    }
    this.cameraButton.disabled = true;
    notice("");
    try {
      await this.camera.start();
      this.picture = null;
      this.stage.replaceChildren(this.camera.video);
      this.cameraButton.textContent = "Stop camera";
      this.turnButton.hidden = false;
      void this.loop();
    } catch (error) {
      this.context.failed(error);
    } finally {
      this.cameraButton.disabled = false;
    }
  }

  private async turnCamera(): Promise<void> {
    try {
      await this.camera.turn();
    } catch (error) {
      this.stopCamera();
      this.empty();
      this.context.failed(error);
    }
  }

  private stopCamera(): void {
    this.camera.stop();
    this.cameraButton.textContent = "Use camera";
    this.turnButton.hidden = true;
  }

  private async loop(): Promise<void> {
    if (this.looping) return;
    this.looping = true;
    try {
      while (this.camera.on) {
        const frame = await this.camera.frame();
        if (frame) {
          const found = await this.classify(frame, "The camera's picture");
          if (this.camera.on) this.show(found, false);
        }
        await new Promise((resolve) => requestAnimationFrame(resolve));
      }
    } catch (error) {
      this.stopCamera();
      this.empty();
      this.context.failed(error);
    } finally {
      this.looping = false;
    }
  }
}

function bar(label: string, share: number): HTMLElement {
  const fill = el("span", { className: "fill", attrs: { "aria-hidden": "true" } });
  fill.style.width = `${100 * share}%`;
  const name = el("span", { className: "name", title: shortened(label, 300) }, shortened(label, 80));
  return el("li", { attrs: { "data-label": label.slice(0, 200), "data-share": String(share) } }, fill, name, el("span", { className: "share" }, percent(share)));
}
