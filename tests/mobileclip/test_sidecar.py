"""Side-cars: exact rows, alignment with their shard, damage."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from mobileclip.data import arrays, sidecar
from mobileclip.data.sidecar import SideCar, keys_hash
from mobileclip.errors import DataError, OutputError

KEYS = keys_hash(["a", "b", "c"])


def rows_of(count: int, dim: int = 24, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)


@pytest.mark.parametrize("kind", ["bf16", "int8"])
def test_rows_come_back(tmp_path: Path, kind: sidecar.Kind) -> None:
    rows, path = rows_of(6), tmp_path / "0.image.safetensors"
    sidecar.write(path, rows, kind=kind, keys=KEYS, counts=[2, 0, 4])
    car = SideCar.open(path).expect(KEYS, 3)
    assert (car.n, car.dim, car.kind) == (3, 24, kind)
    assert [len(car.rows(i)) for i in range(3)] == [2, 0, 4]
    found = np.concatenate([car.rows(i) for i in range(3)])
    if kind == "bf16":
        assert np.array_equal(found, torch.from_numpy(rows).to(torch.bfloat16).to(torch.float32).numpy())
    else:
        assert np.abs(found - rows).max() <= np.abs(rows).max() / 254 + 1e-6
    cosine = (found * rows).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(rows, axis=1)
    assert cosine.min() > 0.9999
    assert np.array_equal(car.row(2, 3), car.rows(2)[3])
    assert found.dtype == np.float32


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-(2.0**127), 2.0**127, width=32), min_size=1, max_size=40))
def test_bf16_rounds_as_torch_does(values: list[float]) -> None:
    rows = np.asarray([values], np.float32)
    expected = torch.from_numpy(rows).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(sidecar._to_bf16(rows), expected)


def test_is_a_safetensors_file(tmp_path: Path) -> None:
    sidecar.write(tmp_path / "x", rows_of(5), kind="bf16", keys=KEYS, counts=[1, 1, 3], provenance={"teacher": "vit"})
    tensors = load_file(tmp_path / "x")
    assert tensors["data"].dtype == torch.bfloat16
    assert tensors["start"].tolist() == [0, 1, 2, 5]


def test_another_shard_is_refused(tmp_path: Path) -> None:
    sidecar.write(tmp_path / "x", rows_of(3), kind="int8", keys=KEYS, counts=[1, 1, 1], texts="t1")
    car = SideCar.open(tmp_path / "x")
    with pytest.raises(
        DataError, match=r"belongs to another shard: it has 3 samples with keys .*, this shard has 3 with"
    ):
        car.expect(keys_hash(["a", "b", "d"]), 3)
    with pytest.raises(DataError, match="belongs to another shard: it has 3 samples"):
        car.expect(KEYS, 4)
    with pytest.raises(DataError, match="was made for other captions of this shard: make it again"):
        car.expect(KEYS, 3, "t2")


def test_what_does_not_agree_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows of shape \[3, 24\] for samples that count 4: they must agree"):
        sidecar.write(tmp_path / "x", rows_of(3), kind="bf16", keys=KEYS, counts=[4])
    bad = rows_of(3)
    bad[1, 1] = np.nan
    with pytest.raises(DataError, match="not finite or not of 24 columns: look for what made them"):
        sidecar.write(tmp_path / "x", bad, kind="bf16", keys=KEYS, counts=[3])
    with pytest.raises(DataError, match=r"provenance .* has more than .* bytes: make it shorter"):
        sidecar.write(tmp_path / "x", rows_of(3), kind="bf16", keys=KEYS, counts=[3], provenance={"x": "y" * 70_000})
    with pytest.raises(OutputError, match="cannot be written"):
        sidecar.write(Path("/proc/none/x"), rows_of(3), kind="bf16", keys=KEYS, counts=[3])
    assert list(tmp_path.iterdir()) == []


def test_damage_and_versions(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with pytest.raises(DataError, match="cannot be opened"):
        SideCar.open(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is empty: make it again"):
        SideCar.open(path)
    path.write_bytes(b"hello world, this is text")
    with pytest.raises(DataError, match="is damaged or of another format"):
        SideCar.open(path)
    arrays.save(path, {"start": np.zeros(1, np.int64)}, {"sidecar": 99})
    with pytest.raises(DataError, match="is a side-car of version 99, 1 is read: make it again"):
        SideCar.open(path)
    arrays.save(path, {"start": np.zeros(1, np.int64)}, {"sidecar": 1})
    with pytest.raises(DataError, match="is damaged"):
        SideCar.open(path)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_flipped_header_bytes_give_rows_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "flipped"
    sidecar.write(path, rows_of(4, 8), kind="int8", keys=KEYS, counts=[1, 3])
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, 700))] = data.draw(st.integers(0, 255))
    path.unlink()
    path.write_bytes(content)
    try:
        car = SideCar.open(path)
        for sample in range(car.n):
            car.rows(sample)
    except DataError:
        return


def test_arrays_refuse_claims_beyond_the_file(tmp_path: Path) -> None:
    header = json.dumps(
        {"__metadata__": {"json": "{}"}, "x": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}
    )
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"1234")
    with pytest.raises(DataError, match="an array lies outside the file"):
        arrays.load(tmp_path / "x")


def test_arrays_are_read_only_views(tmp_path: Path) -> None:
    given = {
        "a": np.arange(3, dtype=np.uint64),
        "b": np.zeros((0, 2), np.int64),
        "c": np.float32([[1, 2]]),
        "d": np.uint8([7]),
    }
    arrays.save(tmp_path / "x", given, {"n": "ü"})
    found, metadata = arrays.load(tmp_path / "x")
    assert metadata == {"n": "ü"}
    assert all(np.array_equal(found[name], given[name]) and found[name].dtype == given[name].dtype for name in given)
    with pytest.raises(ValueError, match="read-only"):
        found["a"][0] = 1
