/** Tabs as the ARIA Authoring Practices have them: arrow keys, Home and End move, one tab stop for all. */

import { button } from "./dom.ts";
import type { View } from "./views/view.ts";

export function showTabs(views: readonly View[]): void {
  const bar = document.getElementById("tabs");
  const panels = document.getElementById("panels");
  if (!bar || !panels) return;
  const tabs = views.map((view, i) =>
    button(view.title, () => select(i, false), { id: `tab-${i}`, attrs: { role: "tab", "aria-controls": `panel-${i}` } }),
  );
  views.forEach((view, i) => {
    view.panel.id = `panel-${i}`;
    view.panel.setAttribute("role", "tabpanel");
    view.panel.setAttribute("aria-labelledby", `tab-${i}`);
  });
  let current = -1;
  function select(place: number, focus: boolean): void {
    if (place !== current) views[current]?.shown?.(false);
    current = place;
    tabs.forEach((tab, i) => {
      const on = i === place;
      tab.setAttribute("aria-selected", String(on));
      tab.tabIndex = on ? 0 : -1;
      views[i].panel.hidden = !on;
    });
    if (focus) tabs[place].focus();
    views[place].shown?.(true);
  }
  bar.onkeydown = (event) => {
    const last = tabs.length - 1;
    const to: Record<string, number> = {
      ArrowRight: current === last ? 0 : current + 1,
      ArrowLeft: current === 0 ? last : current - 1,
      Home: 0,
      End: last,
    };
    if (event.key in to) {
      event.preventDefault();
      select(to[event.key], true);
    }
  };
  bar.replaceChildren(...tabs);
  panels.replaceChildren(...views.map((view) => view.panel));
  select(0, false);
}
