"""The study of pictures in caption work, on few pictures."""

import json
from pathlib import Path

import pytest

from benchmarks import captions_images


def test_a_small_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--rounds", "1", "--hashes", "400", "--embeddings", "200", "--out", str(tmp_path)]
    assert captions_images.main(options) == 0
    result = json.loads((tmp_path / "captions_images.json").read_text())
    assert result["study"] == "captions_images"
    sides = result["hash"]
    assert sides["decoded"]["ratio"]["value"] == 1
    assert all(side["us"] > 0 for side in sides.values())
    assert result["copies"]["found"]["quality 50"][-1] > 0.9
    assert result["copies"]["different"] == sorted(result["copies"]["different"])
    assert [case["found"] for case in result["hashes"]] == [1]
    assert [case["found"] for case in result["embeddings"]] == [1]
    assert "| decoded, and hashed from the same pixels |" in capsys.readouterr().out
