"""Records of steps: what each was made from, and whether it still is what came out then.

    state_of("runs/quickstart", steps)            # {"scenes": "done", "train": "begun", ...}

A step's key is a hash of its arguments, of the products of the steps that it reads and of the user's files. It is done
when its record has this key and its product is what came out then. Imports nothing heavy.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mobileclip
from mobileclip.data.arrays import placing
from mobileclip.journey.products import hash_of, seen
from mobileclip.journey.steps import Step

STEPS, LOG = "steps", "log.txt"
"""Names in the run's folder."""
FORMAT = 1
"""Of records and keys."""


def state_of(folder: str | os.PathLike[str], steps: tuple[Step, ...]) -> dict[str, str]:
    """Step -> "done", "changed" (it will be made again), "begun" or "to do"; nothing is run or written."""
    root, found = Path(folder), dict[str, str]()
    for step in steps:
        record = read(root, step.name)
        if not record:
            found[step.name] = "to do"
        elif any(found.get(name, "to do") != "done" for name in step.needs):
            found[step.name] = "changed"
        elif fits(root, step, record, key_of(root, step)):
            found[step.name] = "done"
        else:
            found[step.name] = "begun" if record["state"] != "done" else "changed"
    return found


def read(root: Path, name: str) -> dict[str, Any]:
    """The record of a step; empty where there is none that can be read."""
    try:
        found = json.loads((root / STEPS / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("format") == FORMAT else {}


def key_of(root: Path, step: Step) -> str:
    """Hash of all that decides what a step makes."""
    needs = {name: read(root, name).get("product", "") for name in step.needs}
    inputs = {place: hash_of(Path(place)) for place in step.inputs}
    said = [FORMAT, mobileclip.__version__, step.args, needs, inputs]
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def fits(root: Path, step: Step, record: Mapping[str, Any], key: str) -> bool:
    """Whether a step was finished under this key, and its product is as it was then."""
    if record.get("key") != key or record.get("state") != "done":
        return False
    product = root / step.name / step.product
    if record["seen"] == "" or record["seen"] == seen(product):
        return True
    if record["product"] != hash_of(product):
        return False
    write(root / STEPS / f"{step.name}.json", {**record, "seen": seen(product)})
    return True


def write(path: Path, value: object) -> None:
    """JSON, complete or not at all."""
    with placing(path) as file:
        file.write(json.dumps(value, indent=1, default=list).encode() + b"\n")
