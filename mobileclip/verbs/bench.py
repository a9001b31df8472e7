"""`mobileclip bench`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from export.targets import targets_of
from mobileclip.errors import MobileClipError
from mobileclip.verbs.screen import progress, table


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Time the artifacts of a bundle on this machine against a baseline, interleaved, after proving them right.

    mobileclip bench out/s2 --against swin-l
    """

    bundle: Positional[Path]
    """Folder that `mobileclip export` wrote."""
    device: Literal["host"] = "host"
    """Where to measure."""
    against: tuple[str, ...] = ("swin-l", "naive")
    """Models exported by our rules, `naive` (plain export of the same weights), a target here, or other bundles."""
    to: tuple[str, ...] = ("executorch-xnnpack", "onnx")
    """Targets to time."""
    view: tuple[Literal["image", "text"], ...] = ("image",)
    """Views to time."""
    runs: int = 40
    """Timed runs of each side."""
    threads: int = 0
    """Threads of both runtimes; 0 is one for each core."""
    out: Path = Path("runs/results")
    """Folder for the result JSONs."""
    json: bool = False
    """Print the results as JSON."""

    def run(self) -> int:
        """Measure against each baseline in turn."""
        targets_of(self.to)
        if self.runs < 2:
            raise MobileClipError(f"{self.runs} runs cannot give a median and an interval: take at least 2.")
        from benchmarks.sides import kind_of
        from export.manifest import Bundle

        for against in self.against:
            kind_of(against)
        Bundle.open(self.bundle, hashes=False)
        with progress("measuring", self.json) as say:
            from benchmarks.host import measure

            results = [
                result
                for against in self.against
                for result in measure(
                    self.bundle,
                    device=self.device,
                    against=against,
                    targets=self.to,
                    views=self.view,
                    runs=self.runs,
                    threads=self.threads,
                    out=self.out,
                    progress=say,
                )
            ]
        if self.json:
            print(json.dumps(results, indent=1))
        else:
            _print_bench(results)
        return 0


def _print_bench(results: Sequence[Mapping[str, Any]]) -> None:
    rows = []
    for result in results:
        ratio, limit = result["ratio"], result["gemm_ms"]
        for side in ("a", "b"):
            item = result[side]
            loose = sum(entry["count"] for entry in item["loose"] if entry["compute"])
            divided = "–" if item["delegates"] is None else f"{item['delegates']} / {loose}"
            times = [f"{item[key]:.1f}" for key in ("p50_ms", "p90_ms", "p99_ms", "load_ms", "first_ms")]
            told = f"{ratio['value']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f})" if side == "a" else ""
            bound = f"{item['p50_ms'] / limit:.2f}" if side == "a" else ""
            rows.append((item["name"], divided, *times, told, bound))
    columns = (
        "artifact",
        "delegates / loose",
        "p50",
        "p90",
        "p99",
        "load",
        "first",
        "times as fast (95 %)",
        "× GEMM floor",
    )
    table("times in ms on this host; they do not predict a phone", columns, rows)
