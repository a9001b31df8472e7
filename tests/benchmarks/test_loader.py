"""The comparison with open_clip runs, on pictures that it makes up, and writes what its table shows."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import loader


def test_a_small_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("webdataset")
    threads = torch.get_num_threads()
    try:
        arguments = ["--out", str(tmp_path), "--samples", "64", "--batch", "8", "--batches", "1", "--rounds", "2"]
        assert loader.main([*arguments, "--only", "scenes of 128 64"]) == 0
    finally:
        torch.set_num_threads(threads)
    result = json.loads((tmp_path / "loader.json").read_text())
    (case,) = result["cases"]
    assert case["case"]["size"] == 64
    for side in ("open_clip", "host", "crops"):
        assert len(case[side]["cpu_us"]) == len(case[side]["wall_us"]) == 2
        assert case[side]["per_core"] > 0
    assert case["host"]["ratio"]["low"] <= case["host"]["ratio"]["value"] <= case["host"]["ratio"]["high"]
    assert {"decode", "tokenise, once", "index, built once"} <= set(case["parts_us"])
    assert f"**{case['host']['ratio']['value']:.1f}**" in capsys.readouterr().out
    assert result["tools"]["simplejpeg"]
