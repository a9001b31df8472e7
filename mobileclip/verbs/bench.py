"""`mobileclip bench`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

from export.targets import targets_of
from mobileclip.errors import GateFailed, MobileClipError
from mobileclip.verbs.screen import progress, table

if TYPE_CHECKING:
    from benchmarks.protocol import Plan


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Time the artifacts of bundles on a device, interleaved with a baseline, after proving them right there.

    mobileclip bench out/s2 --against swin-l naive

    mobileclip bench out/s2 --device adb --against none

    mobileclip bench out/s2 --device browser --serve 192.168.1.20 --https
    """

    bundle: Positional[tuple[Path, ...]]
    """Folders that `mobileclip export` wrote."""
    device: str = "host"
    """host, adb, adb:SERIAL, iphone, iphone:NAME, browser, browser:webgpu."""
    against: tuple[str, ...] = ("swin-l", "naive")
    """Models exported by our rules, `naive` (plain export of the same weights), a target, other bundles, or `none`."""
    to: tuple[str, ...] = ()
    """Targets to time; all that the device runs when left out."""
    view: tuple[Literal["image", "text"], ...] = ("image",)
    """Views to time."""
    runs: int = 200
    """Timed runs of each side, at least; the protocol wants 200."""
    seconds: float = 10.0
    """Time of each side's timed runs, at least; the protocol wants 10."""
    threads: int = 0
    """Threads of the runtime; 0 is its own choice, on a host one for each core."""
    sustained: float = 0.0
    """Seconds to run on without pause after that; the last tenth is the sustained figure. 300 is the protocol's."""
    model_bench: bool = False
    """Run Apple's ModelBench rounds as well, with a new load each."""
    operators: bool = False
    """Tell time by operator and block as well (on a host)."""
    serve: str | None = None
    """With --device browser: address of this machine at which phones open the page, until Ctrl-C."""
    https: bool = False
    """With --serve: a certificate made here, without which a phone's page has one thread and a coarse clock."""
    out: Path = Path("runs/results")
    """Folder for the result JSONs."""
    json: bool = False
    """Print the results as JSON."""

    def run(self) -> int:
        """Measure against each baseline in turn; 1 where a device gave a wrong known answer."""
        from benchmarks.protocol import Plan
        from benchmarks.sides import device_of, kind_of
        from export.manifest import Bundle

        targets_of(self.to)
        against = [] if self.against == ("none",) else list(self.against)
        for item in against:
            kind_of(item)
        device_of(self.device)
        plan = Plan(
            runs=self.runs,
            seconds=self.seconds,
            threads=self.threads,
            sustained_s=self.sustained,
            model_bench=self.model_bench,
        )
        for bundle in self.bundle:
            Bundle.open(bundle, hashes=False)
        if self.serve is not None:
            return self._serve(self.serve, plan)
        with progress("measuring", self.json) as say:
            from benchmarks.measure import measure

            results = measure(
                self.bundle,
                device=self.device,
                against=against,
                targets=self.to or None,
                views=self.view,
                plan=plan,
                by_operator=self.operators,
                out=self.out,
                progress=say,
            )
        if self.json:
            print(json.dumps(results, indent=1))
        else:
            _print_bench(results)
        wrong = [result["problem"] for result in results if result["state"] == "wrong"]
        if wrong:
            raise GateFailed(" ".join(wrong).rstrip("."))
        return 0

    def _serve(self, address: str, plan: "Plan") -> int:
        """Let phones measure; what they hand back is printed when it is over."""
        if self.device != "browser" or len(self.bundle) != 1:
            raise MobileClipError(
                f"--serve shows the page of one bundle to phones, and {len(self.bundle)} for --device {self.device} "
                "were given: give one, and --device browser."
            )
        from benchmarks.browser_phone import serve

        results = serve(self.bundle[0], host=address, https=self.https, plan=plan, out=self.out)
        if self.json:
            print(json.dumps(results, indent=1))
        elif results:
            _print_bench(results)
        return 0


def _print_bench(results: Sequence[Mapping[str, Any]]) -> None:
    rows = [row for result in results for row in _rows(result)]
    columns = (
        "artifact",
        "device",
        "delegates / loose",
        "p50",
        "p90",
        "p99",
        "load",
        "first",
        "end to end",
        "memory MB",
        "times as fast (95 %)",
        "× GEMM",
    )
    hosts = {result["device"]["kind"] for result in results} & {"host", "browser"}
    told = f"; {' and '.join(sorted(hosts))} figures do not predict a phone" if hosts else ""
    table(f"times in ms{told}", columns, rows)
    for result in results:
        if result["state"] != "complete":
            print(f"{result['state']}: {result['problem']}")
        elif not result["protocol"]["whole"]:
            print("shorter than the protocol (200 runs and 10 s of each side): good for a look, not for a report.")
            break


def _rows(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    import numpy as np

    from benchmarks.protocol import added_memory

    ratios = {ratio["a"]: ratio for ratio in result["ratios"]}
    rows = []
    for index, item in enumerate(result["sides"]):
        loose = sum(entry["count"] for entry in item["loose"] if entry["compute"])
        times = [item["ms"].get(key) for key in ("p50", "p90", "p99")] + [item["load_ms"], item["first_ms"]]
        whole, peak, floor = item["end_to_end"]["ms"], added_memory(item), item.get("limits", {})
        ratio = ratios.get(index)
        rows.append(
            (
                item["name"],
                result["device"]["name"],
                "–" if item["delegates"] is None else f"{item['delegates']} / {loose}",
                *("–" if time is None else f"{time:.2f}" for time in times),
                f"{np.median(whole):.1f}" if whole else "–",
                f"{peak / 1e6:.0f}" if peak else "–",
                f"{ratio['value']:.2f}× ({ratio['low']:.2f}–{ratio['high']:.2f})" if ratio else "",
                f"{item['ms']['p50'] / floor['gemm_ms']:.2f}" if floor.get("gemm_ms") and item["ms"] else "–",
            )
        )
    return rows
