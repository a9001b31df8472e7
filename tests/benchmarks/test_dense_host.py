"""Dense models are compared by one rule: lowered once, proved against the form that trains, then timed side by side."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import dense_host, dense_sides, results
from benchmarks.__main__ import main
from mobileclip.errors import GateFailed, MobileClipError, UnknownName

PAIR = "nano+seg_linear@64:nano_swin@64x96"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def measured(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    options = ["--pairs", PAIR, "--threads", "1", "--runs", "3", "--cache", str(cache), "--out", str(out)]
    assert main(["dense_host", *options]) == 0
    return out


def test_what_a_comparison_says(measured: Path, cache: Path) -> None:
    (result,) = results.read([measured])
    a, b = result["a"], result["b"]
    assert (a["name"], b["name"]) == ("nano+seg_linear@64", "nano_swin@64x96")
    for side in (a, b):
        assert len(side["steady_ms"]) == len(side["cpu_ms"]) == 3
        assert side["delegates"] == 1
        assert side["loose"] == []
        assert side["parity"]["db"] > 90
        assert side["bytes"] > 4 * side["deployed_params"] * 0.99
        assert side["memory_mib"]["peak"] > side["memory_mib"]["runtime"] > 10
        assert side["gemm_ms"] > 0
    ratio = result["ratio"]
    assert ratio["low"] <= ratio["value"] <= ratio["high"]
    assert ratio["value"] == pytest.approx(np.median(b["steady_ms"]) / np.median(a["steady_ms"]))
    _, outputs = dense_sides.answer(cache / f"dense-{b['name']}-{dense_sides.__version__}")
    assert [item.shape for item in outputs] == [(1, 16 << i, 16 >> i, 24 >> i) for i in range(4)]


def test_table_and_report(measured: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- dense: made by `python -m benchmarks report` -->\n<!-- /dense -->\n")
    assert main(["report", str(measured), "--into", str(page)]) == 0
    lines = page.read_text().splitlines()
    assert sum(line.startswith("| nano+seg_linear@64 |") for line in lines) == 2
    assert sum(line.startswith("| nano_swin@64x96 |") for line in lines) == 1
    assert "| nano+seg_linear@64 | nano_swin@64x96 | 1 |" in page.read_text()


def test_wrong_artifacts_have_no_latency(measured: Path, cache: Path) -> None:
    pair = dense_host.pair_of(PAIR)
    folder = dense_sides.lowered(pair[1], cache)
    wanted = np.load(folder / "output0.npy")
    np.save(folder / "output0.npy", wanted + 1)
    memory = {side.name: {"runtime": 0.0, "peak": 0.0} for side in pair}
    text = r"nano_swin@64x96 gives a wrong known answer here \(.* dB\): a wrong artifact has no latency; delete it"
    with pytest.raises(GateFailed, match=text):
        dense_host.measure(pair, cache, threads=1, runs=1, warmup=1, memory=memory)
    np.save(folder / "output0.npy", wanted)


def test_published_sizes_of_the_pair() -> None:
    """38.5 M against 234.1 M parameters, "6.1x smaller" (papers)."""
    names = ("mci2+semfpn@512", "swin_l_384+uper@640")
    with torch.device("meta"):
        ours, theirs = (dense_sides.built(dense_sides.side_of(name)) for name in names)
    a, b = (sum(p.numel() for p in model.parameters()) / 1e6 for model in (ours, theirs))
    assert a == pytest.approx(38.5, rel=0.03)
    assert b == pytest.approx(234.1, rel=0.03)
    assert b / a == pytest.approx(6.08, rel=0.03)


def test_counts_of_the_deployed_form() -> None:
    """31.6 GMAC of the encoder at 512 px and 8.4 of the head (four times 7.85 at 256 px without the last layers)."""
    found = dense_sides.counted(dense_sides.side_of("mci2+semfpn_phone@512"))
    assert found["macs"] / 1e9 == pytest.approx(31.6 + 8.4, rel=0.01)
    assert sum(m * k * n * times for m, k, n, times in found["products"]) < found["macs"]


def test_names_of_sides() -> None:
    side = dense_sides.side_of("mci2+semfpn@480x640")
    assert (side.encoder, side.head, side.size) == ("mci2", "semfpn", (480, 640))
    for name in ("mci2+semfpn@480x640", "mci2@512", "swin_l_384+uper@640"):
        assert dense_sides.side_of(name).name == name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "mci2+semfpn",
            "'mci2+semfpn' names no side: write ENCODER+HEAD@SIZE or ENCODER@SIZE, such as mci2+semfpn@512 or",
        ),
        ("mci2@500", "a picture of 500 x 500 cannot be exported: both sides must be multiples of 32"),
    ],
)
def test_refuses_sides(name: str, text: str) -> None:
    with pytest.raises(MobileClipError, match=re.escape(text)):
        dense_sides.side_of(name)


def test_refuses_unknown_names_and_pairs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnknownName, match="unknown model 'mci9'"):
        dense_sides.side_of("mci9@64")
    with pytest.raises(UnknownName, match="unknown head 'semfpm': did you mean 'semfpn'"):
        dense_sides.side_of("mci2+semfpm@64")
    assert main(["dense_host", "--pairs", "mci2@64"]) == 2
    assert "'mci2@64' names no pair: write A:B, such as mci2+semfpn@512:swin_l_384+uper@640" in capsys.readouterr().err


def test_notes_are_json(measured: Path, cache: Path) -> None:
    for note in cache.glob("*/note.json"):
        assert {"name", "sha256", "bytes", "macs", "products", "params"} <= json.loads(note.read_text()).keys()
