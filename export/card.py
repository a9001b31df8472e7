"""What people read of a bundle: `MODEL_CARD.md`, and `LICENSES`.

Both say what the manifest and the checkpoint's record say, and nothing else: the same artifacts have the same card,
without dates and without folders of the machine that made it. What a checkpoint does not tell, the card says it does
not tell. Names in foreign checkpoints are shortened and cannot add lines or links.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from export.install import APPS
from export.licences import CLIP_TOKENIZER, OPEN_CLIP, mit

CARD = "MODEL_CARD.md"
"""Name of the card in a bundle."""
LICENCES = "LICENSES"
"""Name of the licences in a bundle."""
_LONGEST = 160
_RECIPE = {
    "name": "recipe",
    "model": "model",
    "init": "began from",
    "checkpoint": "began from",
    "data": "data",
    "shards": "data",
    "labels": "share of the labels",
    "captions": "captions",
    "teachers": "teachers",
    "distill": "share of distillation",
    "batch": "samples a step",
    "seed": "seed",
}
"""Fields of a recipe that decide what a model knows -> how the card calls them."""
_TASKS = {
    "segmentation": "names the class of each pixel",
    "detection": "finds objects, with boxes and masks where its head has them",
    "depth": "tells the distance of each pixel in metres",
}


def card(manifest: Mapping[str, Any]) -> str:
    """MODEL_CARD.md of a bundle, from its manifest (`files` and `created` are not read)."""
    sections = (
        _what(manifest),
        _weights(manifest),
        _artifacts(manifest["artifacts"]),
        _interface(manifest),
        _use(manifest),
        _limits(manifest),
        _made(manifest["generator"]),
    )
    return "\n\n".join("\n".join(section) for section in sections) + "\n"


def licences(manifest: Mapping[str, Any]) -> str:
    """LICENSES of a bundle: what the weights and everything else in it may be used for."""
    lines = ["What this bundle may be used for.", ""]
    for name, checkpoint in _checkpoints(manifest):
        lines.append(f"Weights of {name}: {_safe(checkpoint['licence'])} (from {place(checkpoint['source'])}).")
    if _research_only(manifest):
        lines += ["These weights may be used for research only: do not ship this bundle in a product."]
    lines += [
        "",
        "Graph and manifest: made by mobileclip-toolkit (MIT).",
        "Labels, where they are a data set's: names of its classes; none of its pictures is here.",
        "Runtimes, not contained: ExecuTorch (BSD-3-Clause), onnxruntime (MIT), Core ML (part of Apple's systems).",
    ]
    if manifest["tokenizer"] is not None:
        lines += [
            "Tokenizer, put beside the artifacts when the bundle is installed into an app: the merges of OpenAI's CLIP",
            "as open_clip distributes them, both under the MIT License:",
            "",
            mit(CLIP_TOKENIZER, OPEN_CLIP),
        ]
    return "\n".join(lines).rstrip("\n") + "\n"


def place(source: str) -> str:
    """Where weights come from, without the folders of this machine: a name, or the last part of an absolute path."""
    for kind in (PurePosixPath, PureWindowsPath):
        if kind(source).is_absolute():
            return _safe(kind(source).name)
    return _safe(source)


def _safe(value: Any) -> str:
    """A foreign value as one short piece of text that Markdown reads as it is."""
    text = " ".join(str(value).split())
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
    for sign in "\\`|<>[]":
        text = text.replace(sign, f"\\{sign}" if sign in "\\`|[]" else {"<": "&lt;", ">": "&gt;"}[sign])
    return text


def _checkpoints(manifest: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    yield _safe(manifest["model"]["name"]), manifest["model"]["checkpoint"]
    for head in manifest.get("dense", {}).get("heads", ()):
        if "checkpoint" in head:
            yield f"the head {_safe(head['head'])}", head["checkpoint"]


def _research_only(manifest: Mapping[str, Any]) -> bool:
    return any(checkpoint["research_only"] for _, checkpoint in _checkpoints(manifest))


def _what(manifest: Mapping[str, Any]) -> Iterator[str]:
    model, heads = manifest["model"], manifest.get("dense", {}).get("heads", ())
    config = model["config"].get("encoder", model["config"])
    yield f"# {_safe(model['name'])}"
    yield ""
    tower = f"An image encoder `{_safe(config['image']['timm'])}`"
    if "embed_dim" in model:
        side = config["preprocess"]["size"]
        text = " and a text encoder" if config["text"] else ""
        yield f"{tower}{text} with embeddings of {model['embed_dim']} numbers"
        yield f"for pictures of {side} x {side} pixels, as files for phones."
        if config["text"]:
            yield "Cosines of pictures and texts say how well they fit: classes by their names, search by words."
    else:
        yield f"{tower} with a head, as files for phones."
    for head in heads:
        classes = f" of {head['classes']} classes" if head.get("classes") else ""
        yield f"- {head['task']}{classes} by the head `{_safe(head['head'])}`: {_TASKS[head['task']]}."


def _weights(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield "## Weights"
    for name, checkpoint in _checkpoints(manifest):
        yield ""
        digest = f", SHA-256 `{checkpoint['sha256'][:16]}…`" if checkpoint["sha256"] else ""
        yield f"**{name}**: from `{place(checkpoint['source'])}`, form {_safe(checkpoint['form'])}{digest}."
        yield f"Licence: {_safe(checkpoint['licence'])}."
        if checkpoint["research_only"]:
            yield "**For research only: not for a product.**"
        yield from (f"Note: {_safe(warning)}" for warning in checkpoint.get("warnings", ()))
        yield from _training(checkpoint)


def _training(checkpoint: Mapping[str, Any]) -> Iterator[str]:
    record = checkpoint.get("record") or {}
    if checkpoint["form"].startswith("seeded"):
        yield "The weights are drawn by chance and were never trained: good for sizes and times, not for answers."
        return
    if "recipe" not in record:
        yield "The checkpoint does not tell how it was trained, nor on what."
        return
    yield ""
    yield "| training | |"
    yield "|---|---|"
    recipe = record["recipe"] if isinstance(record["recipe"], Mapping) else {}
    for field, called in _RECIPE.items():
        if recipe.get(field) not in (None, "", [], (), {}):
            yield f"| {called} | {_valued(recipe[field])} |"
    for key, called in (("step", "steps"), ("pictures", "labelled pictures")):
        if key in record:
            yield f"| {called} | {_valued(record[key])} |"
    shares = record.get("captions")
    if isinstance(shares, Mapping) and shares and all(isinstance(n, int) for n in shares.values()):
        every = max(sum(shares.values()), 1)
        told = ", ".join(f"{_safe(key)} {n:,} ({n / every:.0%})" for key, n in sorted(shares.items()))
        yield f"| captions that it saw | {told} |"
    for key, value in record.items():
        if isinstance(value, float):
            yield f"| {_safe(key)}, on its validation set | {value:.4g} |"


def _valued(value: Any) -> str:
    """A value of a recipe; of paths their last part."""
    if isinstance(value, str):
        return place(value)
    if isinstance(value, Sequence):
        return _safe(", ".join(place(str(item)) for item in value))
    return f"{value:,}" if isinstance(value, int) else _safe(value)


def _artifacts(entries: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    from export.judged import proof_of

    yield "## Files"
    yield ""
    yield "Each was compared with the model that it was made from, on the input in `known_answer` or, where it has"
    yield "fewer bits, on pictures that set none of its ranges. Not run: there was no runtime where it was made."
    yield ""
    yield "| file | view | target | precision | MB | delegates | against the model | gate |"
    yield "|---|---|---|---|---|---|---|---|"
    for entry in entries:
        gate = {True: "passed", False: "**missed**", None: "not run"}[entry["gate"]["passed"]]
        delegates = "–" if entry["delegates"] is None else str(entry["delegates"])
        cells = (f"`{entry['file']}`", entry["view"], entry["target"], entry["precision"])
        size = f"{entry['bytes'] / 1e6:.1f}"
        yield "| " + " | ".join((*cells, size, delegates, _safe(proof_of(entry)), gate)) + " |"
    small = [entry for entry in entries if entry["quantisation"] is not None and "kept" in entry["quantisation"]]
    if small:
        yield ""
    for entry in small:
        told = entry["quantisation"]
        kept = ", ".join(
            f"{item['name']} {item['value']:.4g} ({'≥' if item['better'] == 'higher' else '≤'} {item['limit']:g})"
            for item in told["kept"]["numbers"]
        )
        seen = f"ranges from {told['calibration']} inputs, judged on {told['kept']['pictures']}"
        yield f"- `{entry['file']}`, {seen}: {kept}"


def _interface(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield "## Inputs and outputs"
    yield ""
    yield f"Names and types are those of the preset `{_safe(manifest['preset'])}`."
    if manifest["tokenizer"] is not None:
        words = manifest["tokenizer"]
        yield (
            f"Texts are {words['context']} token ids of CLIP's byte-pair encoding, {words['start']} first, "
            f"{words['end']} last, then {words['pad']}."
        )
    if "logit_scale" in manifest["model"]:
        yield f"Cosines times {manifest['model']['logit_scale']:.2f} are the logits of a softmax over texts."
    yield ""
    yield "| view | | name | shape | type | |"
    yield "|---|---|---|---|---|---|"
    yield from dict.fromkeys(_rows(manifest["artifacts"]))


def _rows(entries: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for entry in entries:
        for item in entry["inputs"]:
            yield _row(entry["view"], "in", item, _pixels(item) if item["kind"] == "image" else "token ids")
        for item in entry["outputs"]:
            unit = ", of unit length" if item["normalised"] else ""
            yield _row(entry["view"], "out", item, f"{item['meaning']}{unit}")


def _pixels(item: Mapping[str, Any]) -> str:
    values = "8 bits" if item["dtype"] == "image" else "0 to 1"
    return f"{item['colour']}, {values}; {item['resize']}; crop: {item['crop']}"


def _row(view: str, side: str, item: Mapping[str, Any], told: str) -> str:
    shape = " x ".join(map(str, item["shape"]))
    return f"| {view} | {side} | `{_safe(item['name'])}` | {shape} | {item['dtype']} | {_safe(told)} |"


def _use(manifest: Mapping[str, Any]) -> Iterator[str]:
    targets = {entry["target"] for entry in manifest["artifacts"]}
    yield "## Use"
    yield ""
    yield "In this folder, with mobileclip-toolkit installed:"
    yield ""
    yield "```"
    yield "mobileclip verify ."
    yield "mobileclip bench . --against none"
    yield from (f"mobileclip apps install {app} ." for app, about in APPS.items() if targets & set(about.targets))
    yield "```"
    yield ""
    yield "An app needs `manifest.json` alone to know the rest; its first test is `known_answer`."


def _limits(manifest: Mapping[str, Any]) -> Iterator[str]:
    entries = manifest["artifacts"]
    yield "## Known limits"
    yield ""
    yield "- Shapes are fixed: one picture or text at a time, of the sizes above."
    if manifest["tokenizer"] is not None:
        yield f"- Texts of more than {manifest['tokenizer']['context'] - 2} tokens are cut."
    for entry in entries:
        if entry["gate"]["passed"] is None:
            reason = _safe(entry["gate"].get("reason", "no runtime"))
            yield f"- `{entry['file']}` was not run where it was made: {reason}."
        if entry["gate"]["passed"] is False:
            yield f"- `{entry['file']}` missed its gate and was accepted all the same."
        for item in entry["loose"]:
            if item["compute"]:
                told = f"{item['count']} x `{_safe(item['operator'])}`, {_safe(item['reason'])}"
                yield f"- `{entry['file']}` computes outside of its delegate: {told}."
    if any(entry["precision"] == "fp16" for entry in entries):
        yield "- fp16 ends at 65,504; `mobileclip verify . --audit` shows how near the largest values are."
    yield "- Accuracy and latency are of your pictures and your device: `mobileclip evaluate` and `bench` tell them."
    yield "- A model that learned from pictures and texts of the web has their gaps and prejudices: test it on yours."


def _made(generator: Mapping[str, Any]) -> Iterator[str]:
    tools = ", ".join(f"{name} {version}" for name, version in generator["tools"].items())
    yield f"Made by {generator['name']} {generator['version']} with {tools}."
