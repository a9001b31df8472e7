/** Elements, made of text alone: no HTML is ever parsed from a label, a file's name or a manifest. */

type Child = Node | string | null;
type Props<K extends keyof HTMLElementTagNameMap> = Partial<Omit<HTMLElementTagNameMap[K], "style">> & {
  attrs?: Record<string, string>;
};

/** An element with properties, attributes and children. */
export function el<K extends keyof HTMLElementTagNameMap>(tag: K, props: Props<K> = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  const { attrs, ...rest } = props;
  const made = Object.assign(document.createElement(tag), rest);
  for (const [name, value] of Object.entries(attrs ?? {})) made.setAttribute(name, value);
  made.append(...children.filter((child) => child !== null));
  return made;
}

/** A button of words. */
export function button(text: string, onclick: () => void, props: Props<"button"> = {}): HTMLButtonElement {
  return el("button", { type: "button", onclick, ...props }, text);
}

/** A button that opens the file dialog, for one picture or several. */
export function pictureButton(text: string, multiple: boolean, onfiles: (files: File[]) => void): HTMLElement {
  const input = el("input", { type: "file", accept: "image/*", multiple, className: "unseen" });
  input.onchange = () => {
    const files = [...(input.files ?? [])];
    input.value = ""; // the same file may be chosen again
    if (files.length) onfiles(files);
  };
  return el("label", { className: "button" }, text, input);
}

/** Lets files be dropped on an element. */
export function droppable(target: HTMLElement, onfiles: (files: File[]) => void): void {
  const over = (on: boolean) => (event: DragEvent) => {
    event.preventDefault();
    target.classList.toggle("over", on);
  };
  target.addEventListener("dragover", over(true));
  target.addEventListener("dragleave", over(false));
  target.addEventListener("drop", (event) => {
    over(false)(event);
    const files = [...(event.dataTransfer?.files ?? [])];
    if (files.length) onfiles(files);
  });
}

let said = "";

/** Tells screen readers, politely, and once. */
export function say(text: string): void {
  const live = document.getElementById("live");
  if (!live || text === said) return;
  said = text;
  live.textContent = text;
}

/** What a person must see: an error, or a choice with buttons. Empty: takes it away. */
export function notice(text: string, ...actions: HTMLElement[]): void {
  const place = document.getElementById("notice");
  if (!place) return;
  place.replaceChildren(...(text ? [el("p", {}, text), ...(actions.length ? [el("div", { className: "row" }, ...actions)] : [])] : []));
}

export function megabytes(bytes: number): string {
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(0)} kB` : `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

export function percent(share: number): string {
  return `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;
}

/** A text of any length, short enough to be read. */
export function shortened(text: string, most = 60): string {
  const chars = [...text];
  return chars.length > most ? `${chars.slice(0, most - 1).join("")}…` : text;
}
