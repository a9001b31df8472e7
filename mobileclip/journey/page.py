"""The page of a run: what was made, by which command, how long it took, and what it can do; one file, no script.

    write(Path("runs/quickstart"), steps)         # runs/quickstart/report.html

It is written whenever a build ends, done or not, from the records of steps and nothing else, and has the look of the
other reports. Pages that steps write themselves are linked, so the run's folder is read as a whole.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mobileclip
from mobileclip.captions.report.html import Markup, Part, el, page, seconds, section, size, table
from mobileclip.data.arrays import placing
from mobileclip.dense.page_curves import curves, read_log
from mobileclip.dense.page_parts import STYLE, figure
from mobileclip.journey.recipes import TASKS
from mobileclip.journey.records import LOG, read, state_of
from mobileclip.journey.steps import Step
from mobileclip.journey.told import figures, told

PAGE = "report.html"
"""Name of the page in the run's folder."""

Answers = Mapping[str, Any]
"""Step -> what it printed; of finished steps alone."""


def write(root: Path, steps: Sequence[Step]) -> Path:
    """Write the page.

    Raises:
        OutputError: it cannot be written.
    """
    records = {step.name: read(root, step.name) for step in steps}
    states = state_of(root, tuple(steps))
    answers = {name: record["answer"] for name, record in records.items() if states[name] == "done"}
    sections = [
        section("Steps", _steps(steps, records, states), id_="steps"),
        section("Captions", *_link(root, "captions-page/captions.html", "before and after, samples"), id_="captions"),
        section("Training", _training(root), id_="training"),
        section("Zero-shot and retrieval", _evaluated(answers), id_="evaluation"),
        section("Dense tasks", _heads(root, answers), id_="dense"),
        section("Artifacts", _artifacts(answers), id_="artifacts"),
        section("Verified", _verified(answers), id_="verified"),
        section("Latency", _latency(answers), *_link(root, "latency/latency.html", "all figures"), id_="latency"),
        section("Apps", _apps(steps, answers), id_="apps"),
    ]
    names = [str(found).partition('id="')[2].partition('"')[0] for found in sections if found]
    body: list[Part] = [
        el("h1", f"{root.name}: from pairs to a phone"),
        el("p", f"Made by mobileclip {mobileclip.__version__}; every line that a step said is in ", _file(LOG), "."),
        el("nav", [el("a", name, href=f"#{name}") for name in names], aria_label="Sections"),
        _tiles(steps, records, states, answers),
        *sections,
    ]
    out = root / PAGE
    with placing(out) as file:
        file.write(page(f"{root.name}: from pairs to a phone", body, STYLE).encode())
    return out


def _tiles(steps: Sequence[Step], records: Answers, states: Mapping[str, str], answers: Answers) -> Markup:
    """What one wants to know first."""
    done = sum(state == "done" for state in states.values())
    time = sum(record.get("seconds", 0.0) for record in records.values())
    tiles = [("steps done", f"{done} of {len(steps)}", ""), ("time", seconds(time), "of all steps")]
    for row in answers.get("evaluate", {}).get("results", ()):
        if row["task"] == "zero-shot":
            tiles.append(("top-1", f"{row['top1']:.1%}", f"zero-shot, chance {row['chance']:.1%}"))
    for task in TASKS:
        found = answers.get(task)
        if found and found.get(found["metric"]) is not None:
            tiles.append((task, figure(found["metric"], found[found["metric"]]), found["metric"]))
    best = [side for side in _sides(answers) if side["ms"]]
    if best:
        tiles.append(("image", f"{best[0]['ms']['p50']:.2f} ms", best[0]["name"]))
    cells = [el("div", el("dt", name), el("dd", value, el("span", sub, class_="sub"))) for name, value, sub in tiles]
    return el("dl", cells, class_="tiles")


def _steps(steps: Sequence[Step], records: Answers, states: Mapping[str, str]) -> Markup:
    rows: list[Sequence[Part]] = []
    for step in steps:
        record, state = records[step.name], states[step.name]
        said: Part = told(step, record["answer"]) if state == "done" else ""
        if record.get("state") == "failed" and state != "done":
            state, said = (
                "failed",
                el("span", record["said"].partition(": ")[2] or f"exit code {record['code']}", class_="bad"),
            )
        time = seconds(record["seconds"]) if record.get("seconds") else ""
        rows.append([step.name, state, time, said, el("code", " ".join(step.command))])
    return table(["step", "state", "time", "what came out", "command, in this folder"], rows, "ttntt")


def _training(root: Path) -> Part:
    found = read_log(root / "train" / "log.jsonl")
    return curves(found, "top1", "higher") if found else None


def _evaluated(answers: Answers) -> Part:
    """The model, and what was made of it, on the same pictures."""
    rows: list[Sequence[Part]] = []
    found = answers.get("evaluate-bundles") or answers.get("evaluate") or {"results": ()}
    for row in found["results"]:
        rows.append([row["encoder"], row["task"], f"{row['n']:,}", figures(row)])
    return table(["model", "task", "pictures", "figures"], rows, "ttnt")


def _heads(root: Path, answers: Answers) -> Part:
    rows: list[Sequence[Part]] = []
    for task in TASKS:
        found = answers.get(task)
        if found:
            value = figure(found["metric"], found.get(found["metric"]))
            links = _link(root, f"{task}/report.html", "curves, classes, pictures")
            rows.append([task, found["recipe"]["name"], found["metric"], value, f"{found['pictures']:,}", *links])
    return table(["task", "recipe", "figure", "value", "labelled pictures", "page"], rows, "tttnnt")


def _artifacts(answers: Answers) -> Part:
    rows: list[Sequence[Part]] = []
    for name, manifest in answers.items():
        if not name.startswith("bundle"):
            continue
        for entry in manifest["artifacts"]:
            gate = {True: "passed", False: "FAILED", None: "not run here"}[entry["gate"].get("passed")]
            parity = entry["parity"]
            near = "–" if parity is None else _near(parity)
            cells = [entry["target"], entry["precision"], size(entry["bytes"]), near, gate]
            rows.append([el("span", f"{name}/{entry['file']}", class_="mono"), *cells])
    return table(["file", "target", "precision", "size", "nearness on the known answer", "gate"], rows, "tttntt")


def _near(parity: Mapping[str, Any]) -> str:
    """Of the first output: what tells most of it."""
    found = next(iter(parity["outputs"].values())) if parity.get("outputs") else parity
    cosine, db = found.get("cosine"), found.get("db")
    told = [f"cosine {cosine:.6f}" if cosine is not None else "", f"{db:.0f} dB" if db is not None else ""]
    return ", ".join(item for item in told if item) or "–"


def _verified(answers: Answers) -> Part:
    rows: list[Sequence[Part]] = []
    for name, found in answers.items():
        if not name.startswith("verify"):
            continue
        for row in found["artifacts"]:
            verdict = "not run here" if row["passed"] is None else "passed" if row["passed"] else "FAILED"
            near = [f"{row['cosine']:.6f}", f"{row['db']:.0f}"] if row["passed"] is not None else ["", ""]
            where = f"bundle{name.removeprefix('verify')}/{row['file']} {row['output']}".strip()
            rows.append([el("span", where, class_="mono"), row["runtime"], str(row["inputs"]), *near, verdict])
    head = ["artifact and output", "run by", "inputs", "least cosine", "least dB", "verdict"]
    return table(head, rows, "ttnnnt")


def _results(answers: Answers) -> list[Mapping[str, Any]]:
    return [result for name, found in answers.items() if name.startswith("bench") for result in found]


def _sides(answers: Answers) -> list[Mapping[str, Any]]:
    return [side for result in _results(answers) for side in result["sides"]]


def _latency(answers: Answers) -> Part:
    rows: list[Sequence[Part]] = []
    for result in _results(answers):
        ratios = {ratio["a"]: ratio for ratio in result["ratios"]}
        for place, side in enumerate(result["sides"]):
            ratio = ratios.get(place)
            times = [f"{side['ms'][key]:.2f}" if side["ms"] else "–" for key in ("p50", "p90")]
            ahead = f"{ratio['value']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f})" if ratio else ""
            rows.append([side["name"], result["device"]["name"], *times, ahead])
    return table(["artifact", "device", "p50, ms", "p90, ms", "times as fast as the next (95 %)"], rows, "ttnnn")


def _apps(steps: Sequence[Step], answers: Answers) -> Part:
    rows: list[Sequence[Part]] = [
        [step.args[2], told(step, answers[step.name]), _file(step.name)]
        for step in steps
        if step.args[0] == "apps" and step.name in answers
    ]
    return table(["app", "what it runs", "folder that becomes its bundle"], rows)


def _link(root: Path, path: str, text: str) -> list[Part]:
    return [el("p", el("a", text, href=path))] if (root / path).is_file() else []


def _file(name: str) -> Markup:
    return el("a", name, href=name)
