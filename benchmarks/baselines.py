"""What artifacts are held against: the plain export of the same weights, and other encoders exported by our own rules.

`naive` is what an engineer gets without this project: timm's `reparameterize_model`, then the converter's defaults. A
baseline by a model's name (Swin-L) is exported exactly as carefully as MCi2 is, so that what is compared is the
network and not the care. Both are kept in a cache; their weights are seeded where none are given, because latency
does not depend on them.
"""

import hashlib
import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.utils.model import reparameterize_model
from torch import Tensor, nn

from benchmarks.sides import CACHE
from export.manifest import Bundle, sha256_of, size_of
from export.recipe import export
from export.reference import reference_subject
from export.targets import TARGETS, Kind
from export.to_executorch import loose_operators
from export.views import View
from mobileclip import __version__
from mobileclip.errors import MobileClipError


class _Naive(nn.Module):
    """One tower as it is published, batch 1: no fused form, no rewrite. Of a dense model the encoder's branches are
    merged and its head is as it trains; the outputs are the view's."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, x: Tensor) -> Any:
        return self.tower(x)


def naive(bundle: Bundle, view: Kind, target: str, cache: Path = CACHE) -> tuple[Path, dict[str, Any]]:
    """The plain export of the bundle's own checkpoint: (artifact, its entry as in a manifest).

    Raises:
        MobileClipError: the target cannot run on a host, or the checkpoint is not where the manifest says.
    """
    if target not in ("onnx", "executorch-xnnpack"):
        raise MobileClipError(f"a naive {target} cannot be timed on a host: choose onnx or executorch-xnnpack.")
    about = bundle.manifest["model"]["checkpoint"]
    key = hashlib.sha256(json.dumps([about["source"], about["sha256"], view, target, __version__]).encode()).hexdigest()
    path = cache / f"naive-{key[:16]}{TARGETS[target].suffix}"
    note = path.with_suffix(".json")
    if not note.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        outputs = next(item["outputs"] for item in bundle.manifest["artifacts"] if item["view"] == view)
        found = reference_subject(bundle, about["source"]).views()[view]
        entry = _lower_naively(found, target, path) | {"target": target, "view": view, "outputs": outputs}
        note.write_text(json.dumps(entry))
    loaded: dict[str, Any] = json.loads(note.read_text())
    return path, loaded | {"sha256": sha256_of(path), "bytes": size_of(path)}


def _lower_naively(view: View, target: str, path: Path) -> dict[str, Any]:
    module = _Naive(reparameterize_model(view.tower)).eval()
    example = torch.rand_like(view.example) if view.kind != "text" else torch.zeros(1, 77, dtype=torch.int64)
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            if target == "onnx":
                program = torch.onnx.export(module, (example,), dynamo=True, external_data=False, verbose=False)
                assert program is not None
                program.save(str(path), external_data=False)
                return {"delegates": None, "loose": []}
            return _naive_xnnpack(module, example, path)
    finally:
        logging.disable(previous)


def _naive_xnnpack(module: nn.Module, example: Tensor, path: Path) -> dict[str, Any]:
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    from export.to_executorch import delegation_of

    program = torch.export.export(module, (example,))
    edge = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    found = delegation_of(edge)
    path.write_bytes(edge.to_executorch().buffer)
    return {"delegates": found.delegates, "loose": loose_operators(found)}


def exported(
    name: str, target: str, cache: Path = CACHE, progress: Callable[[str], None] = lambda line: None
) -> Bundle:
    """A bundle of the seeded model called `name`, exported by our own rules for one target."""
    version = sha256_of(Path(__file__).parent.parent / "export" / "rewrites.py")[:8]
    folder = cache / f"{name}-{target}-{__version__}-{version}"
    if not (folder / "manifest.json").exists():
        progress(f"exporting {name} for {target}, once")
        export(f"seeded:{name}", [target], folder, force=True, progress=progress)
    return Bundle.open(folder, hashes=False)
