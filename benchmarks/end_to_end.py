"""What a user waits for: from an encoded picture in memory to what an app shows, timed part by part on this machine.

Decode (turned upright), resize and crop by the manifest's rule, the forward pass, and what an app makes of it: the
embedding scaled to unit length and ranked against labels; label maps and depths of the picture's own size; objects.
"""

import json
import time
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.protocol import Plan, Subject
from export.dense import BundlePredictor
from export.manifest import Bundle
from export.pictures import pictures
from export.runtimes import Session
from mobileclip.images import read_image

SHARE = 10
"""One end-to-end run for so many forward runs: it is a figure beside, and its parts are long."""
LEAST = 10
"""End-to-end runs of a side, at least."""

Parts = tuple[float, float, float, float]
"""Decode, resize, forward, what follows: nanoseconds."""


def whole(subject: Subject, session: Session, plan: Plan) -> dict[str, Any]:
    """`end_to_end` of a side.

    Args:
        session: the subject's, loaded already.
    """
    if subject.picture is None:
        return {"ms": [], "reason": "a text view begins with no picture."}
    if subject.bundle is None:
        return {"ms": [], "reason": "a plain export has no manifest that says how a picture enters."}
    content = subject.picture.read_bytes()
    bundle = Bundle.open(subject.bundle, hashes=False)
    run = _embedding(bundle, session) if subject.entry["view"] == "image" else _dense(bundle, subject, session)
    if run is None:
        return {"ms": [], "reason": f"of a {subject.entry['view']} view an app makes too many things to time one."}
    for _ in range(2):
        run(content)
    found = [run(content) for _ in range(max(LEAST, plan.runs // SHARE))]
    decode, resize, forward, after = (np.array(column) / 1e6 for column in zip(*found, strict=True))
    with Image.open(BytesIO(content)) as image:
        size = list(image.size)
    return {
        "ms": (decode + resize + forward + after).tolist(),
        "decode_ms": decode.tolist(),
        "resize_ms": resize.tolist(),
        "forward_ms": forward.tolist(),
        "after_ms": after.tolist(),
        "picture": size,
        "reason": None,
    }


def _embedding(bundle: Bundle, session: Session) -> Callable[[bytes], Parts]:
    fit = pictures(bundle.manifest, "image")
    labels = _labels(bundle)
    width = bundle.manifest["model"]["embed_dim"]
    texts = np.random.default_rng(0).normal(size=(len(labels), width)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    scale = np.float32(bundle.manifest["model"]["logit_scale"])

    def run(content: bytes) -> Parts:
        times = [time.perf_counter_ns()]
        image = read_image(content)
        times.append(time.perf_counter_ns())
        x = fit(image).numpy()
        times.append(time.perf_counter_ns())
        embedding = session.run([x])[0].reshape(-1)
        times.append(time.perf_counter_ns())
        logits = scale * (texts @ (embedding / np.linalg.norm(embedding)))
        shown = np.exp(logits - logits.max())
        np.argsort(-shown / shown.sum())
        times.append(time.perf_counter_ns())
        return _parts(times)

    return run


def _dense(bundle: Bundle, subject: Subject, session: Session) -> Callable[[bytes], Parts] | None:
    heads: Sequence[Any] = bundle.manifest.get("dense", {}).get("heads", ())
    if len(heads) != 1 or subject.entry["view"] == "dense":
        return None
    predictor = BundlePredictor(bundle, subject.entry, heads[0], session=session)

    def run(content: bytes) -> Parts:
        times = [time.perf_counter_ns()]
        image = np.asarray(read_image(content).convert("RGB"))
        times.append(time.perf_counter_ns())
        x = predictor.feed(image)
        times.append(time.perf_counter_ns())
        outputs = predictor.forward(x)
        times.append(time.perf_counter_ns())
        predictor.finish(outputs, (image.shape[0], image.shape[1]))
        times.append(time.perf_counter_ns())
        return _parts(times)

    return run


def _parts(times: Sequence[int]) -> Parts:
    a, b, c, d, e = times
    return (b - a, c - b, d - c, e - d)


def _labels(bundle: Bundle) -> list[str]:
    words = json.loads(Path(bundle.path / bundle.manifest["labels"]).read_text(encoding="utf-8"))
    labels: list[str] = words["labels"] if isinstance(words, dict) else words
    return labels
