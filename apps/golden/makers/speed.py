"""Statistics of latency: samples and what a result or a screen says of them."""

from typing import Any

import numpy as np

from benchmarks.protocol import in_rounds, model_bench, percentiles
from makers.form import file


def cases() -> dict[str, Any]:
    """latency.json."""
    rng = np.random.default_rng(800_000)
    found = []
    for name, count in (("none", 0), ("one", 1), ("two", 2), ("200", 200), ("a round and a rest", 77), ("ten", 10)):
        samples = [round(float(value), 4) for value in 3 + rng.gamma(2.0, 0.4, count)]
        found.append(
            {
                "name": name,
                "ms": samples,
                "percentiles": percentiles(samples),
                "model_bench": model_bench(in_rounds(samples)),
                "tolerance": 1e-9,
            }
        )
    return file(found)
