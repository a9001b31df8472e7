/** The labels that pictures are held against: added, removed, kept in this browser. */

import { button, el, say, shortened } from "../dom.ts";

const KEPT = "mobileclip.labels";
const MOST = 200;
const MOST_CHARACTERS = 10_000;
const READS = "The model reads about 75 words";

export class Labels {
  readonly element: HTMLElement;
  values: string[];
  private readonly given: string[];
  private readonly list = el("ul", { className: "chips", attrs: { "aria-label": "Labels" } });
  private readonly input = el("input", {
    id: "new-label", type: "text", autocomplete: "off", enterKeyHint: "done", placeholder: "a label, such as: a red bicycle",
  });
  private readonly hint = el("p", { className: "hint", id: "label-hint", attrs: { role: "status" } });
  private readonly changed: () => void;

  constructor(given: string[], changed: () => void) {
    this.given = given.length ? given : ["a person", "an animal", "a building"];
    this.changed = changed;
    this.values = kept() ?? [...this.given];
    this.input.setAttribute("aria-describedby", "label-hint");
    const form = el("form", { className: "row" }, this.input, el("button", { type: "submit" }, "Add"));
    form.onsubmit = (event) => {
      event.preventDefault();
      this.add(this.input.value);
    };
    const reset = button("Labels as they came", () => this.set([...this.given]), { className: "quiet" });
    const heading = el("label", { htmlFor: "new-label", className: "heading" }, "Labels");
    this.element = el("section", { className: "labels" }, heading, this.list, form, this.hint, reset);
    this.show();
  }

  private add(text: string): void {
    const labels = text.split(/[\n;]/).map((label) => label.trim()).filter(Boolean);
    const fresh = labels.filter((label) => !this.values.includes(label));
    if (!fresh.length) {
      this.hint.textContent = labels.length ? "That label is there already." : "Type a label first.";
      return;
    }
    if (this.values.length + fresh.length > MOST) {
      this.hint.textContent = `At most ${MOST} labels are compared at once: remove some first.`;
      return;
    }
    const long = fresh.some((label) => label.length > MOST_CHARACTERS);
    this.hint.textContent = long ? `Only the first ${MOST_CHARACTERS.toLocaleString("en")} characters were taken.` : "";
    this.input.value = "";
    this.set([...this.values, ...fresh.map((label) => label.slice(0, MOST_CHARACTERS))]);
    say(`${shortened(fresh[0])} added, ${this.values.length} labels`);
  }

  private set(values: string[]): void {
    this.values = values;
    try {
      localStorage.setItem(KEPT, JSON.stringify(values));
    } catch {
      // kept until the page is closed
    }
    this.show();
    this.changed();
  }

  /** Which labels are longer than what the model reads. */
  cut(which: boolean[]): void {
    [...this.list.children].forEach((item, i) => item.classList.toggle("cut", which[i] ?? false));
    const count = which.filter(Boolean).length;
    const of = count === 1 ? "one label" : `${count} labels`;
    if (count) this.hint.textContent = `${READS}: the end of ${of} does not count.`;
    else if (this.hint.textContent?.startsWith(READS)) this.hint.textContent = "";
  }

  private show(): void {
    this.list.replaceChildren(
      ...this.values.map((label, place) =>
        el(
          "li",
          {},
          el("span", { title: shortened(label, 300) }, shortened(label, 40)),
          button("×", () => this.remove(place), { attrs: { "aria-label": `Remove ${shortened(label)}` } }),
        ),
      ),
    );
  }

  private remove(place: number): void {
    const [label] = this.values.slice(place, place + 1);
    this.set(this.values.filter((_, i) => i !== place));
    const buttons = this.list.querySelectorAll("button");
    (buttons[Math.min(place, buttons.length - 1)] ?? this.input).focus();
    say(`${shortened(label)} removed, ${this.values.length} labels`);
  }
}

function kept(): string[] | null {
  try {
    const found: unknown = JSON.parse(localStorage.getItem(KEPT) ?? "null");
    if (Array.isArray(found) && found.every((label) => typeof label === "string")) return found.slice(0, MOST);
  } catch {
    // damaged or not allowed: as they came
  }
  return null;
}
