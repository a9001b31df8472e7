"""A journey as steps: each is a command line of this toolkit, and says by name which steps' folders it reads.

    for step in steps_of(recipe_of("quickstart")):
        print(step.name, shlex.join(step.command))     # train mobileclip train nano-scenes --shards pack …

Unusual: there is no second way to do anything. What a step does is what its verb does, run by hand or from here, in
the run's folder; `{pack}` in an argument is the folder of the step `pack`, and so what a step depends on follows from
its own command line. Imports nothing heavy.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mobileclip.errors import TrainingError
from mobileclip.journey.recipes import TASKS, Journey, check
from mobileclip.recipes import assignments
from mobileclip.recipes import recipe_of as training

SHOWN = 8
"""Pictures of `verify`; more take longer and say little more."""
RESUMED = frozenset(("pack", "captions", "train", "finetune"))
"""Verbs that go on where they were; what others left of an unfinished step is removed first."""

_FOLDER = re.compile(r"\{([A-Za-z0-9]+(?:-[A-Za-z0-9]+)*)\}")  # {bundle-small}; not {00000..01279} and not {a,b}


@dataclass(frozen=True, kw_only=True)
class Step:
    """One command of the journey."""

    name: str
    """Also of its folder in the run's."""
    args: tuple[str, ...]
    """Of `mobileclip`, in the run's folder; `{NAME}` is the folder of the step of that name."""
    where: tuple[str, ...] = ()
    """Further arguments that say on what it runs, and decide nothing of what comes out."""
    launch: tuple[str, ...] = ()
    """What starts it in place of Python: torchrun and its options, which are followed by `-m mobileclip.cli`."""
    product: str = ""
    """What of its folder later steps read, by which it is known again; all of it if empty."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Steps whose folders it reads, in the order of its arguments."""
        found = [name for arg in self.args for name in _FOLDER.findall(arg)]
        return tuple(dict.fromkeys(name for name in found if name != self.name))

    @property
    def inputs(self) -> tuple[str, ...]:
        """The user's own files, folders, globs and brace patterns among its arguments: whatever begins with `/`."""
        found = [arg.partition("=")[2] if "=/" in arg else arg for arg in self.args]
        return tuple(dict.fromkeys(place for place in found if place.startswith("/")))

    @property
    def arguments(self) -> tuple[str, ...]:
        """What is run, the places of folders filled in."""
        return (*(_FOLDER.sub(r"\1", arg) for arg in self.args), *self.where)

    @property
    def command(self) -> tuple[str, ...]:
        """As a person would type it in the run's folder."""
        return (
            (*self.launch, "-m", "mobileclip.cli", *self.arguments) if self.launch else ("mobileclip", *self.arguments)
        )

    @property
    def resumed(self) -> bool:
        """Whether its verb goes on where it was."""
        return self.args[0] in RESUMED


def steps_of(journey: Journey) -> tuple[Step, ...]:
    """The steps of a journey, each behind those that it needs.

    Raises:
        TrainingError: the journey cannot begin, or a recipe of a step cannot take its options.
        UnknownName: no such recipe.
    """
    check(journey)
    steps = [*_corpus(journey), *_model(journey)]
    for task in TASKS:
        if getattr(journey, task):
            steps.append(_head(journey, task))
    bundles = _bundles(journey)
    steps += bundles
    photos = _photos(journey)
    seen = ("--images", photos) if photos else ()
    for bundle in bundles:
        where = bundle.name.removeprefix("bundle")
        args = ("verify", f"{{{bundle.name}}}", *seen, "--limit", str(SHOWN))
        steps.append(Step(name=f"verify{where}", args=args))
    if sets := _sets(journey):
        clip = [f"{{{bundle.name}}}" for bundle in bundles if bundle.name in ("bundle", "bundle-small")]
        args = ("evaluate", _trained(journey), *clip, *sets)
        steps.append(Step(name="evaluate-bundles", args=args))
    steps += _latency(journey, bundles)
    steps += [_app(journey, app) for app in journey.apps]
    return tuple(steps)


def _corpus(journey: Journey) -> list[Step]:
    """Pairs, their captions, and what is packed of them."""
    steps, shards = list[Step](), journey.shards
    if journey.scenes:
        drawn = ("--size", str(journey.size), "--count", str(journey.scenes), "--seed", str(journey.seed))
        val = ("--val-count", str(journey.val_count))
        steps.append(Step(name="scenes", args=("pack", "scenes", "{scenes}", *drawn, *val)))
        other = ("--size", str(journey.size), "--count", "1", "--val-count", "128", "--seed", str(journey.seed + 1))
        steps.append(Step(name="photos", args=("pack", "scenes", "{photos}", *other, "--no-dense")))
        shards = ("{scenes}/train",)
    if not journey.captions or journey.model:
        return steps
    from mobileclip.captions.recipe import recipe_of

    inner = _inner(journey, "captions")
    recipe_of(journey.captions, inner[1:])
    work = ("captions", "run", journey.captions, "--shards", *shards, "--out", "{captions}", *inner)
    where = ("--engine", journey.engine, *(("--address", journey.address) if journey.address else ()))
    steps.append(Step(name="captions", args=work, where=where))
    page = ("captions", "report", "{captions}", "--out", "{captions-page}/captions.html")
    steps.append(Step(name="captions-page", args=page))
    packing = ("pack", "shards", "--captions", "{captions}", "--out", "{pack}")
    steps.append(Step(name="pack", args=(*packing, "--size", "0") if journey.scenes else packing))
    return steps


def _model(journey: Journey) -> list[Step]:
    """The image-text model, and what it can do."""
    steps = [] if journey.model else [_training(journey)]
    if sets := _sets(journey):
        steps.append(Step(name="evaluate", args=("evaluate", _trained(journey), *sets)))
    return steps


def _training(journey: Journey) -> Step:
    shards = ("{pack}",) if journey.captions else ("{scenes}/train",) if journey.scenes else journey.shards
    inner = _inner(journey, "train", f"seed={journey.seed}")
    training(journey.train, assignments(inner[1:]))
    args = ("train", journey.train, "--shards", *shards, "--out", "{train}", *inner)
    launch = tuple(shlex.split(journey.launch))
    return Step(name="train", args=args, launch=launch, product="last")


def _head(journey: Journey, task: str) -> Step:
    """A dense head on the trained encoder."""
    from mobileclip.dense.recipes import recipe_of

    inner = _inner(journey, task, f"seed={journey.seed}")
    recipe_of(getattr(journey, task), assignments(inner[1:]))
    given = getattr(journey, f"{task}_data")
    args = ("finetune", task, getattr(journey, task), "--checkpoint", _trained(journey), "--data", given or "{scenes}")
    launch = tuple(shlex.split(journey.launch))
    return Step(name=task, args=(*args, "--out", f"{{{task}}}", *inner), launch=launch, product="last")


def _bundles(journey: Journey) -> list[Step]:
    """The model for phones in floats and in fewer bits, and a bundle of each head. Exporting fuses."""
    targets = ("--to", *journey.targets)
    steps = [Step(name="bundle", args=("export", _trained(journey), "--out", "{bundle}", *targets))]
    if journey.precision:
        bits = ("--precision", journey.precision, "--calibration", _photos(journey), "--to", *journey.small)
        steps.append(Step(name="bundle-small", args=("export", _trained(journey), "--out", "{bundle-small}", *bits)))
    for task in TASKS:
        if getattr(journey, task):
            name = f"bundle-{task}"
            steps.append(Step(name=name, args=("export", f"{{{task}}}/last", "--out", f"{{{name}}}", *targets)))
    return steps


def _latency(journey: Journey, bundles: Sequence[Step]) -> list[Step]:
    """Times of bundles on each device, and the page of them."""
    steps, pages = [], []
    timed = [f"{{{bundle.name}}}" for bundle in bundles if not journey.timed or bundle.name in journey.timed]
    plan = ("--runs", str(journey.runs), "--seconds", f"{journey.seconds:g}")
    for device in journey.devices if timed else ():
        name = "bench" if device == "host" else f"bench-{device.replace(':', '-')}"
        held = ("--against", *journey.against)
        args = ("bench", *timed, "--device", device, *held, *plan)
        steps.append(Step(name=name, args=(*args, "--out", f"{{{name}}}")))
        pages.append(f"{{{name}}}")
    if pages:
        steps.append(Step(name="latency", args=("report", *pages, "--html", "{latency}/latency.html")))
    return steps


def _app(journey: Journey, app: str) -> Step:
    """A bundle as the sample app wants it."""
    args = ("apps", "install", app, "{bundle}", "--into", f"{{app-{app}}}")
    return Step(name=f"app-{app}", args=args)


def _trained(journey: Journey) -> str:
    """The image-text model."""
    return journey.model or "{train}/last"


def _photos(journey: Journey) -> str:
    return "{photos}/val/images" if journey.scenes else journey.photos


def _sets(journey: Journey) -> tuple[str, ...]:
    """What `evaluate` measures on; nothing where there is no such set."""
    val = journey.val or ("{scenes}/val" if journey.scenes else "")
    return ("--zero-shot", val, "--retrieval", val) if val else ()


def _inner(journey: Journey, step: str, *first: str) -> tuple[str, ...]:
    """`--set` with the options of a step's own recipe."""
    prefix = f"{step}."
    found = [*first, *(item.removeprefix(prefix) for item in journey.options if item.startswith(prefix))]
    return ("--set", *found) if found else ()


def rooted(journey: Journey, base: Path) -> Journey:
    """The same with the user's paths as they are seen from any folder; URLs and names stay.

    Raises:
        TrainingError: one that must be there is not.
    """
    places: dict[str, str] = {
        name: getattr(journey, name) for name in ("val", "photos", *(f"{task}_data" for task in TASKS))
    }
    for name, place in places.items():
        if place and not (base / place).exists():
            raise TrainingError(
                f"journey {journey.name}: {name} is {place}, which does not exist: give a path that does."
            )
    if journey.captions.endswith(".toml"):
        places["captions"] = journey.captions
    if journey.model and (base / journey.model).exists():
        places["model"] = journey.model
    found: dict[str, Any] = {name: str(base.absolute() / place) for name, place in places.items() if place}
    shards = tuple(place if "://" in place else str(base.absolute() / place) for place in journey.shards)
    options = []
    for item in journey.options:
        key, _, value = item.partition("=")
        there = bool(value) and len(value) < 1_000 and (base / value).exists()
        options.append(f"{key}={base.absolute() / value}" if there else item)
    return replace(journey, shards=shards, options=tuple(options), **found)
