"""How well judging web texts tells true from wrong ones, on scenes, where what is wrong with each is known."""

from typing import Any

import numpy as np
import numpy.typing as npt

from mobileclip.captions import tables
from mobileclip.captions.judge import PARTS
from mobileclip.captions.plan import Plan
from mobileclip.data.scene_captions import AltNoise, alt_caption
from mobileclip.data.scene_layout import layout

WRONG = {"other_image", "no_content", "file_name", "wrong_shape", "wrong_colour"}
"""Kinds and faults of a text that make it wrong; one that is merely poor is true."""


def judged(asked: Plan, seed: int, count: int, noise: AltNoise) -> dict[str, Any]:
    """How well q and its parts tell true texts from wrong ones, and what selection did to the share of wrong ones."""
    good, q, parts, kept = [], [], [], []
    for item in asked.shards:
        rows = tables.read(asked.stem("judge", item.name), ["key", "q_clean", "parts_clean"]).to_pylist()
        keep = tables.read(asked.stem("select", item.name), ["keep"]).column("keep").to_pylist()
        for row, one in zip(rows, keep, strict=True):
            alt = alt_caption(layout(seed, int(row["key"])), noise=noise, corpus=count)
            good.append(alt.kind not in WRONG and not WRONG & set(alt.faults))
            q.append(row["q_clean"][0])
            parts.append(row["parts_clean"][0])
            kept.append(one)
    right, chosen, terms = np.array(good), np.array(kept), np.array(parts)
    print(
        f"seed {seed}: AUROC of q {auroc(q, right):.3f}, wrong {1 - right.mean():.1%} -> {1 - right[chosen].mean():.1%}"
    )
    return {
        "auroc": {"q": auroc(q, right)} | {name: auroc(terms[:, PARTS.index(name)], right) for name in PARTS[:4]},
        "wrong": float(1 - right.mean()),
        "wrong_of_kept": float(1 - right[chosen].mean()),
        "kept": float(chosen.mean()),
        "kept_of_true": float(chosen[right].mean()),
    }


def auroc(score: npt.ArrayLike, good: npt.ArrayLike) -> float:
    """Probability that a good one scores above a bad one, ties counting half (Mann and Whitney 1947)."""
    values, right = np.asarray(score, np.float64), np.asarray(good, bool)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    n, m = int(right.sum()), int((~right).sum())
    return float((ranks[right].sum() - n * (n + 1) / 2) / (n * m))
