/** Search by words over photos that were added; their embeddings are kept in this browser, and indexing can be paused. */

import { Failed } from "../client.ts";
import { button, droppable, el, notice, pictureButton, say, shortened } from "../dom.ts";
import { type Photo, rowsOf, Store } from "../store.ts";
import type { Context, View } from "./view.ts";

const MOST = 60; // results
const PAUSE = 250; // ms behind the last letter

export function searchView(context: Context): View {
  return new Search(context);
}

class Search implements View {
  readonly title = "Search";
  readonly panel: HTMLElement;
  private readonly context: Context;
  private store: Store | null = null;
  private photos: Photo[] = [];
  private paused = false;
  private indexing = false;
  private stale = false; // the worker's index lacks photos
  private timer = 0;
  private addresses: string[] = [];
  private readonly status = el("p", { id: "index-status", attrs: { role: "status" } });
  private readonly bar = el("progress", { hidden: true, attrs: { "aria-labelledby": "index-status" } });
  private readonly pauseButton = button("Pause", () => this.switchPause(), { hidden: true });
  private readonly problems = el("ul", { className: "problems" });
  private readonly input = el("input", {
    id: "query", type: "search", autocomplete: "off", enterKeyHint: "search", placeholder: "a dog on a beach",
  });
  private readonly found = el("p", { className: "hint", attrs: { role: "status" } });
  private readonly grid = el("ul", { className: "grid", attrs: { "aria-label": "Photos that were found, best first" } });
  private readonly removeButton = button("Remove all photos", () => void this.removeAll(), { className: "quiet", hidden: true });

  constructor(context: Context) {
    this.context = context;
    const choose = pictureButton("Add photos", true, (files) => void this.add(files));
    const drop = el("div", { className: "drop row" }, this.status, choose);
    const form = el("form", { attrs: { role: "search" } }, el("label", { htmlFor: "query", className: "heading" }, "What is on the photo?"), this.input);
    form.onsubmit = (event) => {
      event.preventDefault();
      void this.search();
    };
    this.input.oninput = () => {
      clearTimeout(this.timer);
      this.timer = window.setTimeout(() => void this.search(), PAUSE);
    };
    const progress = el("div", { className: "row" }, this.bar, this.pauseButton);
    this.panel = el("div", {}, form, drop, progress, this.found, this.grid, this.problems, this.removeButton);
    droppable(this.panel, (files) => void this.add(files));
    void this.begin();
  }

  private async begin(): Promise<void> {
    try {
      this.store = await Store.open();
      await this.reload();
      void this.index();
    } catch (error) {
      this.context.failed(error);
    }
  }

  /** Photos whose embeddings are of this very model; the others say so. */
  private async reload(): Promise<void> {
    if (!this.store) return;
    const done = await this.store.all("done");
    this.photos = done.filter((photo) => photo.space === this.context.info.space);
    const others = done.filter((photo) => photo.space !== this.context.info.space);
    const failed = await this.store.all("failed");
    this.stale = true;
    this.removeButton.hidden = !done.length && !failed.length;
    this.problems.replaceChildren(...failed.map((photo) => el("li", {}, shortened(photo.problem, 200))));
    if (others.length) {
      const remove = button("Remove them", () => void this.store?.remove(others.map((photo) => photo.id)).then(() => this.reload()));
      const many = others.length === 1 ? "1 photo was" : `${others.length} photos were`;
      this.problems.append(el("li", {}, `${many} indexed with another model and cannot be searched with this one: add them again. `, remove));
    }
    await this.tell();
    await this.search();
  }

  private async tell(): Promise<void> {
    if (!this.store) return;
    const waiting = await this.store.count("waiting");
    const done = this.photos.length;
    this.bar.hidden = this.pauseButton.hidden = !waiting;
    this.bar.max = waiting + done;
    this.bar.value = done;
    this.status.textContent = waiting
      ? `${done} of ${waiting + done} photos indexed${this.paused ? ", paused" : ""}`
      : done
        ? `${done} ${done === 1 ? "photo" : "photos"}, all indexed`
        : "No photos yet: drop some here, or add them. They stay on this device.";
  }

  private async add(files: File[]): Promise<void> {
    if (!this.store) return;
    try {
      const added = await this.store.add(files);
      void navigator.storage?.persist?.();
      notice("");
      say(added ? `${added} photos added` : "These photos are there already");
      await this.tell();
      void this.index();
    } catch (error) {
      this.context.failed(error);
    }
  }

  private switchPause(): void {
    this.paused = !this.paused;
    this.pauseButton.textContent = this.paused ? "Continue" : "Pause";
    void this.tell();
    void this.index();
  }

  private async index(): Promise<void> {
    if (this.indexing || !this.store) return;
    this.indexing = true;
    try {
      for (;;) {
        const photo = this.paused ? undefined : await this.store.next();
        if (!photo) break;
        await this.indexOne(this.store, photo);
        await this.tell();
      }
      await this.reload();
      if (this.photos.length && !this.paused) say("All photos are indexed");
    } catch (error) {
      this.context.failed(error);
    } finally {
      this.indexing = false;
    }
  }

  private async indexOne(store: Store, photo: Photo): Promise<void> {
    try {
      const { embedding, thumbnail } = await this.context.client.ask("embed", { picture: photo.file ?? new Blob(), name: photo.name });
      this.photos.push(await store.done(photo, this.context.info.space, embedding, thumbnail));
      this.stale = true;
    } catch (error) {
      // of a picture that cannot be taken it is said so, and the others go on; without a model nothing does
      if (!(error instanceof Failed) || error.reason === "memory" || error.reason === "bundle") throw error;
      await store.failed(photo, error.message);
    }
  }

  private async search(): Promise<void> {
    const text = this.input.value.trim();
    if (!text || !this.photos.length) {
      this.found.textContent = text && !this.photos.length ? "Add photos first." : "";
      this.show(this.photos.filter((photo) => photo.thumbnail).slice(-MOST).reverse(), []);
      return;
    }
    try {
      if (this.stale) await this.fill();
      const { hits, cut } = await this.context.client.ask("search", { text, most: MOST });
      const photos = hits.map((hit) => this.photos[hit.place]).filter((photo) => photo?.thumbnail);
      this.show(photos, hits.map((hit) => hit.score));
      const long = cut ? " The text is longer than what the model reads: its end does not count." : "";
      this.found.textContent = `${photos.length} photos, best first.${long}`;
    } catch (error) {
      this.context.failed(error);
    }
  }

  private async fill(): Promise<void> {
    const rows = rowsOf(this.photos, this.context.info.width);
    this.stale = false; // a photo that is added meanwhile makes it stale again
    await this.context.client.ask("fill", { rows, count: this.photos.length }, [rows.buffer]);
  }

  private show(photos: readonly Photo[], scores: readonly number[]): void {
    for (const address of this.addresses) URL.revokeObjectURL(address);
    this.addresses = photos.map((photo) => URL.createObjectURL(photo.thumbnail as Blob));
    this.grid.replaceChildren(
      ...photos.map((photo, i) => {
        const score: Record<string, string> = scores[i] === undefined ? {} : { "data-score": String(scores[i]) };
        return el("li", { attrs: score }, el("img", { src: this.addresses[i], alt: photo.name, loading: "lazy" }));
      }),
    );
  }

  private async removeAll(): Promise<void> {
    if (!confirm("Remove all photos and what is known of them from this browser? Your files stay.")) return;
    await this.store?.clear();
    await this.reload();
  }
}
