"""Named journeys: each is a function that returns a complete `Journey`; a variant calls another and replaces.

    journey = recipe_of("quickstart", ["scenes=2000", "train.steps=40"])

A journey says what is made, from what, and with which recipe of each step; the steps' own recipes say the rest, and
`STEP.FIELD=VALUE` reaches into them. Imports nothing heavy.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mobileclip.errors import TrainingError
from mobileclip.recipes import assignments, overridden

TASKS = ("segmentation", "detection", "depth")
"""Dense tasks, in the order of the journey."""
BUNDLES = ("bundle", "bundle-small", *(f"bundle-{task}" for task in TASKS))
"""Steps that export."""
REACHED = ("captions", "train", *TASKS)
"""Steps whose own recipes `STEP.FIELD=VALUE` reaches."""


@dataclass(frozen=True, kw_only=True)
class Journey:
    """From pairs to a phone."""

    name: str
    """Key of `RECIPES` that this began as."""
    scenes: int = 0
    """Procedural scenes to draw as the corpus; 0: `shards` are the corpus."""
    val_count: int = 512
    """Scenes to measure on."""
    size: int = 96
    """Side of the scenes in pixels."""
    seed: int = 0
    """Of scenes and training."""
    shards: tuple[str, ...] = ()
    """Folders, globs, brace patterns or URLs of tars, where no scenes are drawn."""
    val: str = ""
    """What the image-text model is evaluated on: classes, captions, or both; the scenes' own where they are drawn."""
    photos: str = ""
    """Folder of pictures that set ranges and prove artifacts; of other scenes where scenes are drawn."""

    captions: str = "scenes"
    """Recipe of `mobileclip captions run`, or its TOML file; empty: the shards as they are."""
    engine: Literal["local", "ray", "array"] = "local"
    """Of the caption work."""
    address: str = ""
    """Of a Ray cluster."""

    model: str = ""
    """Checkpoint to go on with in place of captions and training; empty: the model is trained."""
    train: str = "nano-scenes"
    """Recipe of `mobileclip train`."""
    launch: str = ""
    """What starts training and finetuning, as `torchrun --nproc-per-node 8`; empty: one process."""

    segmentation: str = ""
    """Recipe of `mobileclip finetune segmentation`; empty: no such head."""
    segmentation_data: str = ""
    """Its data set; the scenes where they are drawn."""
    detection: str = ""
    """Recipe of `mobileclip finetune detection`; empty: no such head."""
    detection_data: str = ""
    """Its data set; the scenes where they are drawn."""
    depth: str = ""
    """Recipe of `mobileclip finetune depth`; empty: no such head."""
    depth_data: str = ""
    """Its data set; the scenes where they are drawn."""

    targets: tuple[str, ...] = ("coreml", "executorch-xnnpack", "onnx")
    """Targets of the artifacts in floats."""
    precision: str = "w8a8"
    """Of a second bundle of the image-text model; empty: none."""
    small: tuple[str, ...] = ("executorch-xnnpack", "onnx")
    """Targets of that second bundle."""

    devices: tuple[str, ...] = ("host",)
    """Where latency is measured: host, adb, adb:SERIAL, browser, ..."""
    timed: tuple[str, ...] = ()
    """Bundles whose latency is measured: bundle, bundle-small, bundle-segmentation, ...; empty: all."""
    against: tuple[str, ...] = ("naive",)
    """What latency is compared with; swin-l is the paper's."""
    runs: int = 200
    """Timed runs of each side."""
    seconds: float = 10.0
    """Seconds of each side's timed runs, at least."""
    apps: tuple[str, ...] = ("ios", "android", "web")
    """Sample apps that get a bundle."""

    gpu: str = ""
    """Kind of GPU that --plan reckons with, as h100; empty: none."""
    gpus: int = 1
    """How many of them."""
    price: float = 0.0
    """Of one for an hour, in any currency; 0: no cost is told."""
    pairs: int = 0
    """Image-text pairs of the corpus, for --plan."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """Stage of --plan -> your own units a second and device, as JSON, in place of published ones."""

    options: tuple[str, ...] = ()
    """STEP.FIELD=VALUE for the recipes of steps, as train.steps=200 or captions.select.min_q=0.5."""


def quickstart() -> Journey:
    """Scenes, a nano model, a head: all of the journey in minutes on two cores, from nothing but the install."""
    return Journey(
        name="quickstart",
        scenes=5_000,
        segmentation="scenes-segmentation",
        small=("executorch-xnnpack",),
        timed=("bundle", "bundle-small"),
        runs=30,
        seconds=1.0,
        options=("train.steps=240", "train.warmup=50", "segmentation.steps=120", "segmentation.warmup=20"),
    )


def scenes_mci2() -> Journey:
    """Scenes and MCi2 itself, with three heads, against Swin-L: laid out for one GPU and an hour."""
    heads = ("model=mobileclip_s2", "size=256,256", "steps=1500", "warmup=150", "batch=32", "precision=bf16")
    return Journey(
        name="scenes-mci2",
        scenes=60_000,
        size=256,
        train="mci2-scratch",
        segmentation="scenes-segmentation",
        detection="scenes-detection",
        depth="scenes-depth",
        against=("swin-l", "naive"),
        options=(
            "train.captions=pick(syn_text_quality=1, syn_text_short=1)",
            *("train.batch=256", "train.steps=2500", "train.warmup=250", "train.save_every=500"),
            *(f"{task}.{option}" for task in TASKS for option in heads),
        ),
    )


def mci2_real() -> Journey:
    """The paper's own way: your shards, quality captions, MCi2 over 13 billion samples, ADE20K, COCO, NYUv2."""
    return Journey(
        name="mci2-real",
        captions="quality",
        engine="ray",
        train="mci2-scratch",
        launch="torchrun --nproc-per-node 8",
        segmentation="ade-semfpn-mci2",
        detection="coco-1x-mci2",
        depth="nyu-depth",
        targets=("coreml", "executorch-coreml", "executorch-xnnpack", "onnx"),
        against=("swin-l", "naive"),
        options=("train.batch=65536", "train.accumulate=8", "train.steps=200000"),
        gpu="h100",
        gpus=64,
        pairs=1_280_000_000,
    )


RECIPES: Mapping[str, Callable[[], Journey]] = {
    "quickstart": quickstart,
    "scenes-mci2": scenes_mci2,
    "mci2-real": mci2_real,
}
"""Name -> function that gives the journey."""


def recipe_of(name: str, items: Sequence[str] = ()) -> Journey:
    """The journey called `name` with some fields replaced.

    Args:
        items: FIELD=VALUE of the journey, or STEP.FIELD=VALUE of a step's own recipe, which go behind its own.

    Raises:
        UnknownName: no such journey or field.
        TrainingError: a value that the field cannot hold, or an item that sets nothing.
    """
    own, inner = list[str](), list[str]()
    for item in items:
        step, dot, _ = item.partition("=")[0].partition(".")
        (inner if dot and step in REACHED else own).append(item)
    assignments(inner)
    journey = overridden(name, RECIPES, assignments(own))
    return replace(journey, options=(*journey.options, *inner))


def planned(journey: Journey) -> tuple[Journey, tuple[str, ...]]:
    """The same with a word in capitals for each thing that only a user has, and how these are given."""
    missing: dict[str, str] = {}
    if not journey.scenes:
        missing = {name: "" for name in ("photos", "val") if not getattr(journey, name)}
        missing |= {
            f"{task}_data": "" for task in TASKS if getattr(journey, task) and not getattr(journey, f"{task}_data")
        }
    words = {name: name.upper().replace("_", "-") for name in missing}
    needed = [f"--set {name}={word}" for name, word in words.items()]
    shards, options = journey.shards, list(journey.options)
    if not journey.scenes and not shards and not journey.model:
        shards, needed = ("SHARDS",), ["--shards SHARDS", *needed]
    for option in _MODELS.get(journey.captions, ()):
        if not any(item.startswith(f"captions.{option}=") for item in options):
            options.append(f"captions.{option}=MODEL")
            needed.append(f"--set captions.{option}=MODEL")
    filled: Any = words
    return replace(journey, shards=shards, options=tuple(options), **filled), tuple(needed)


_MODELS = {"filter": ("embed.model",), "quality": ("embed.model", "coca.model")}
"""Caption recipe -> its options that have no default."""


def check(journey: Journey) -> None:
    """Raise unless the journey can begin.

    Raises:
        TrainingError: what came and what is allowed.
    """
    rules = {
        "it has no corpus: pass --shards with folders, globs or URLs of tars, or --set scenes=6000": not (
            journey.shards or journey.scenes or journey.model
        ),
        "shards and a model are both given: leave one of them out": bool(journey.shards and journey.model),
        "scenes and shards are both given: leave one of them out": bool(journey.shards) and journey.scenes > 0,
        f"captions '{journey.captions}' has options of captions.…, and no caption work is done": not journey.captions
        and any(item.startswith("captions.") for item in journey.options),
        f"timed names {', '.join(journey.timed)}: {', '.join(BUNDLES)} are allowed": not set(BUNDLES).issuperset(
            journey.timed
        ),
        f"runs is {journey.runs}: at least 2": journey.runs < 2,
        f"gpus is {journey.gpus}: at least 1": journey.gpus < 1,
        f"precision {journey.precision} needs pictures: --set photos=FOLDER, or precision= for none": bool(
            journey.precision
        )
        and not journey.photos
        and not journey.scenes,
    }
    for task in TASKS:
        if getattr(journey, task) and not getattr(journey, f"{task}_data") and not journey.scenes:
            rules[f"{task} has no data: --set {task}_data=FOLDER, or {task}= to leave it out"] = True
    for fault, holds in rules.items():
        if holds:
            raise TrainingError(f"journey {journey.name}: {fault}.")
