"""The report's style sheet: system fonts, light and dark, wide and narrow, no network."""

STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --soft: #59636e; --line: #d8dee4; --wash: #f5f7f9;
  --accent: #0a5bc4; --bar: #6ea3e8; --mark: #b4380a; --alarm: #fff0e8; --alarm-ink: #8f2d06; --note: #eef4fc;
  --note-ink: #0b4a9e; --good: #17693b; --good-wash: #e6f5ec; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e6eaee; --soft: #9aa5b1; --line: #313840;
  --wash: #1c2127; --accent: #7ab2ff; --bar: #3f76bf; --mark: #ff9a66; --alarm: #38200f; --alarm-ink: #ffb38a;
  --note: #16263b; --note-ink: #a9cdff; --good: #7fd7a3; --good-wash: #15301f; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; scroll-padding-top: 3rem; }
body { margin: 0 auto; padding: 0 1.5rem 4rem; max-width: 84rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 2rem 0 .25rem; letter-spacing: -.01em; }
h2 { font-size: 1.25rem; line-height: 1.3; margin: 3rem 0 .75rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.75rem 0 .5rem; }
p { margin: .5rem 0; max-width: 60rem; }
a { color: var(--accent); text-decoration: none; }
a:hover, a:focus { text-decoration: underline; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
code, .mono { font: .86em/1.4 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; }
.soft, figcaption, caption { color: var(--soft); }
.small { font-size: .86rem; }
nav { position: sticky; top: 0; z-index: 2; margin: 1rem -1.5rem 0; padding: .5rem 1.5rem; background: var(--paper);
  border-bottom: 1px solid var(--line); display: flex; gap: .25rem 1.1rem; overflow-x: auto; white-space: nowrap; }
.tiles { display: flex; flex-wrap: wrap; gap: 1px; margin: 1.25rem 0;
  padding: 0; background: var(--line); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
.tiles div { flex: 1 1 9.5rem; background: var(--paper); padding: .75rem 1rem; }
.tiles dt { color: var(--soft); font-size: .86rem; }
.tiles dd { margin: 0; font-size: 1.5rem; line-height: 1.25; font-variant-numeric: tabular-nums; }
.tiles .sub { display: block; color: var(--soft); font-size: .8rem; line-height: 1.35; }
.notices { list-style: none; margin: 1rem 0; padding: 0; display: grid; gap: .5rem; }
.notices li { padding: .6rem .9rem; border-radius: 6px; border-left: 4px solid; background: var(--note);
  border-color: var(--note-ink); overflow-wrap: anywhere; }
.notices li.warning { background: var(--alarm); border-color: var(--alarm-ink); }
.notices b { color: var(--note-ink); margin-right: .4rem; }
.notices .warning b { color: var(--alarm-ink); }
.scroll { overflow-x: auto; margin: .75rem 0; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .9rem; }
caption { text-align: left; padding: .5rem .75rem; font-size: .86rem; }
caption span { position: sticky; left: .75rem; display: inline-block; max-width: calc(100vw - 4.5rem); }
th, td { padding: .35rem .75rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
thead th { border-top: 0; background: var(--wash); color: var(--soft); font-weight: 600; white-space: nowrap;
  vertical-align: bottom; }
caption + thead th { border-top: 1px solid var(--line); }
tbody th { font-weight: 500; min-width: 8rem; position: sticky; left: 0; background: var(--paper); }
thead th:first-child { position: sticky; left: 0; }
tbody tr:hover > * { background: var(--wash); }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.reference { color: var(--soft); font-style: italic; }
.edge { border-left: 2px solid var(--line); }
.bad { color: var(--alarm-ink); font-weight: 600; }
.reading { display: block; color: var(--soft); font-size: .82rem; min-width: 13rem; }
svg { display: block; }
.wide { width: 45%; min-width: 15rem; }
.plot { width: 100%; height: 2.4rem; }
.axis { width: 100%; height: 1.3rem; overflow: visible; }
tr:has(.plot) > * { vertical-align: bottom; }
tr:has(.axis) > * { border-top: 0; padding-top: 0; }
.axis text { fill: var(--soft); font-size: 11px; font-family: inherit; }
.area { fill: var(--bar); }
.median { stroke: var(--mark); stroke-width: 1.6; vector-effect: non-scaling-stroke; }
.base { stroke: var(--line); stroke-width: 1; vector-effect: non-scaling-stroke; }
.track { fill: var(--line); }
.meter { width: 9rem; height: .7rem; margin-top: .35rem; }
.cards { display: grid; gap: 1rem; }
.card { display: grid; grid-template-columns: 256px minmax(0, 1fr); gap: 0 1.1rem; border: 1px solid var(--line);
  border-radius: 8px; padding: .9rem; break-inside: avoid; }
.card header { grid-column: 1 / -1; display: flex; flex-wrap: wrap; gap: .2rem .7rem; align-items: baseline;
  margin-bottom: .6rem; min-width: 0; }
.card header .mono { overflow-wrap: anywhere; color: var(--soft); }
figure { margin: 0; }
.card img { display: block; max-width: 100%; height: auto; border-radius: 4px; background: var(--wash); }
.none { width: 100%; min-height: 7rem; display: grid; place-items: center; text-align: center; padding: .75rem;
  border: 1px dashed var(--line); border-radius: 4px; color: var(--soft); font-size: .86rem; overflow-wrap: anywhere; }
.captions { margin: 0; display: grid; gap: .55rem; align-content: start; }
.captions dt { font-weight: 600; font-size: .86rem; }
.captions dt .soft { font-weight: 400; }
.captions dt:not(:first-child) { border-top: 1px solid var(--line); padding-top: .5rem; }
.captions dd { margin: 0; padding-left: .7rem; border-left: 3px solid var(--line); min-width: 0; }
.captions dd.used { border-color: var(--good); }
.foreign { overflow-wrap: anywhere; unicode-bidi: isolate; overflow: clip; }
.captions .foreign { display: block; max-height: 16rem; overflow: hidden; }
.code { font: .72em/1 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; color: var(--soft);
  border: 1px solid var(--line); border-radius: 3px; padding: 0 .2em; margin: 0 .1em; white-space: nowrap; }
.scores { display: flex; flex-wrap: wrap; gap: 0 .9rem; color: var(--soft); font-size: .82rem;
  font-variant-numeric: tabular-nums; }
.scores b { color: var(--ink); font-weight: 500; }
.tag { display: inline-block; border-radius: 3px; padding: 0 .4em; font-size: .78rem; background: var(--wash);
  color: var(--soft); border: 1px solid var(--line); overflow-wrap: anywhere; }
.tag.good { background: var(--good-wash); color: var(--good); border-color: transparent; }
.tag.alarm { background: var(--alarm); color: var(--alarm-ink); border-color: transparent; }
details { margin: .5rem 0; border: 1px solid var(--line); border-radius: 8px; padding: .5rem .9rem; }
summary { cursor: pointer; }
details[open] > summary { margin-bottom: .5rem; }
details h3 { margin: 1rem 0 .3rem; font-size: .88rem; }
.facts { display: grid; grid-template-columns: minmax(0, 12rem) minmax(0, 1fr); gap: .2rem 1rem; margin: 0;
  font-size: .88rem; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; white-space: pre-wrap; }
footer { margin-top: 3rem; color: var(--soft); font-size: .86rem; }
@media (max-width: 44rem) {
  body { padding: 0 .9rem 3rem; font-size: 14.5px; }
  nav { margin: 1rem -.9rem 0; padding: .5rem .9rem; }
  h1 { font-size: 1.45rem; }
  .card { grid-template-columns: minmax(0, 1fr); }
  .card figure { margin-bottom: .7rem; }
  .facts { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .facts dd { margin-bottom: .5rem; }
  tbody th { max-width: 10.5rem; }
}
@media print { nav { display: none; } body { max-width: none; } details { border: 0; padding: 0; } }
"""
"""CSS; the page's policy allows it by its hash."""
