"""NYUv2 as a tree, a .mat and .h5 frames."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import made
import numpy as np
import pytest
from refusals import refused

from mobileclip.dense import open_set


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    makers = {"nyu": made.nyu_tree}
    return {name: maker(tmp_path_factory.mktemp(name)) for name, maker in makers.items()}


def test_nyu_tree(roots: dict[str, Path], tmp_path: Path) -> None:
    for split, place in (("train", "sync"), ("val", "official_splits/test"), ("train795", "official_splits/train")):
        opened = open_set(roots["nyu"], "depth", split)
        assert len(opened) == 2
        assert opened[0].name == f"{place.rpartition('/')[2]}/room_0000/rgb_00045.png"
        depth = opened[0].depth
        assert depth is not None
        assert not depth[100:150, 200:260].any()  # holes stay
        assert np.allclose(depth[0, 0], 1.0)
    root = made.nyu_tree(tmp_path / "nyu")
    (root / "sync" / "room_0000" / "sync_depth_00045.png").unlink()
    opened = open_set(root, "depth", "train")
    assert opened.skipped == {"image without a depth map": 1}
    made.save(np.zeros((480, 640), np.uint16), root / "sync" / "room_0001" / "sync_depth_00045.png")
    hollow = open_set(root, "depth", "train")[0].depth  # delivered: no pixel of it counts
    assert hollow is not None
    assert not hollow.any()


def test_nyu_list(tmp_path: Path) -> None:
    root = made.nyu_tree(tmp_path / "nyu")
    path = root / "train_list.txt"
    path.write_text(
        "/room_0001/rgb_00045.png /room_0001/sync_depth_00045.png 518.8579\nroom_0000/rgb_00045.png None 5\n"
    )
    assert open_set(root, "depth", "train")[0].name == "sync/room_0001/rgb_00045.png"
    assert len(open_set(root, "depth", "train")) == 1
    path.write_text("../x.png sync/room_0000/sync_depth_00045.png 5\n")
    text = refused(lambda: open_set(root, "depth", "train"))
    assert "train_list.txt' line 1 is '../x.png sync" in text
    assert "as paths that stay below the folder." in text
    path.write_text("room_0007/rgb_00045.png room_0007/sync_depth_00045.png\n")
    text = refused(lambda: open_set(root, "depth", "train"))
    assert "line 1 names 'room_0007/rgb_00045.png', which is not there with its depth: get both." in text


def test_nyu_mat_equals_the_tree(roots: dict[str, Path], tmp_path: Path) -> None:
    """Transposed, with the black frame, in whole millimetres."""
    mat = made.nyu_mat(tmp_path / "nyu_depth_v2_labeled.mat")
    tree = open_set(roots["nyu"], "depth", "val")
    for path in (mat, tmp_path):
        opened = open_set(path, "depth", "val")
        assert len(opened) == 2
        for index in range(2):
            one, other = opened[index], tree[index]
            assert np.array_equal(one.image, other.image)
            assert one.depth is not None
            assert np.array_equal(one.depth, np.asarray(other.depth))
    train = open_set(mat, "depth", "train")
    assert len(train) == 1
    assert "has 1 frames to train on; the protocol trains on 24,231" in train.notes[0]
    assert len(open_set(mat, "depth", "train795")) == 1


def test_nyu_splits(tmp_path: Path) -> None:
    import scipy.io

    mat = made.nyu_mat(tmp_path / "a.mat")
    splits = tmp_path / "splits.json"
    splits.write_text('{"testNdxs": [0]}')
    text = refused(lambda: open_set(mat, "depth"))
    assert f"the split 'test' beside '{mat}' names frames that it does not have: it has 1 to 3." in text
    splits.write_text('{"test": [1]}')
    assert "splits.json' cannot be read ('testNdxs'): trainNdxs and testNdxs" in refused(lambda: open_set(mat, "depth"))
    splits.unlink()
    text = refused(lambda: open_set(mat, "depth"))
    assert "has no splits.mat beside the .mat: get it from the data set's page, or write splits.json" in text
    numbers = {"trainNdxs": np.array([[3]]), "testNdxs": np.array([[2], [1]], np.uint16)}
    scipy.io.savemat(tmp_path / "splits.mat", numbers)
    assert len(open_set(mat, "depth")) == 2
    (tmp_path / "splits.mat").write_bytes(b"MATLAB 5.0 nonsense" * 50)
    assert "splits.mat' cannot be read (" in refused(lambda: open_set(mat, "depth"))


def test_nyu_h5(tmp_path: Path) -> None:
    root = made.nyu_h5(tmp_path / "h5")
    for split in ("train", "val"):
        opened = open_set(root, "depth", split)
        image, depth = made.frame(len(split))
        assert np.array_equal(opened[0].image, image)
        assert np.array_equal(np.asarray(opened[0].depth), depth)
    path = root / "val" / "official" / "00001.h5"

    def changed(change: Callable[[Any], None]) -> str:
        with h5py.File(path, "w") as file:
            file["rgb"], file["depth"] = np.zeros((3, 4, 6), np.uint8), np.ones((4, 6), np.float32)
            change(file)
        return refused(lambda: open_set(root, "depth", "val")[0])

    def other(name: str, value: Any) -> Callable[[Any], None]:
        def change(file: Any) -> None:
            del file[name]
            file[name] = value

        return change

    def no_depth(file: Any) -> None:
        del file["depth"]

    assert "00001.h5' has no array 'depth' of its own: it is needed; get the file again." in changed(no_depth)
    with h5py.File(tmp_path / "secret.h5", "w") as secret:
        secret["depth"] = np.ones((4, 6), np.float32)
    link = h5py.ExternalLink(str(tmp_path / "secret.h5"), "depth")
    assert "has no array 'depth' of its own" in changed(other("depth", link))
    text = changed(other("depth", np.ones((4, 6), np.int32)))
    assert "has an array 'depth' of int32 with 2 dimensions: floats with 2 are allowed." in text
    text = changed(other("rgb", np.ones((3, 5, 6), np.uint8)))
    assert "has rgb (3, 5, 6) and depth (4, 6): [3, H, W] and [H, W] are allowed." in text
    assert "holds the depth -1 m: 0 or more is allowed." in changed(other("depth", np.full((4, 6), -1, np.float32)))
    path.write_bytes(b"nonsense")
    assert "00001.h5' is no HDF5 file that can be read (" in refused(lambda: open_set(root, "depth", "val")[0])
    with h5py.File(path, "w") as file:
        file["rgb"] = np.zeros((3, 4, 6), np.uint8)
        file["depth"] = np.array([[np.nan, np.inf, 1, 2, 3, 50]] * 4, np.float32)
    depth = open_set(root, "depth", "val")[0].depth
    assert depth is not None
    assert depth[0].tolist() == [0, 0, 1, 2, 3, 0]


def test_nyu_mat_of_another_shape(tmp_path: Path) -> None:
    mat = made.nyu_mat(tmp_path / "a.mat")
    with h5py.File(mat, "w") as file:
        file["images"], file["rawDepths"] = np.zeros((3, 3, 6, 4), np.uint8), np.zeros((3, 6, 5), np.float32)
    text = refused(lambda: open_set(mat, "depth")[0])
    assert "has images (3, 3, 6, 4) and rawDepths (3, 6, 5): [N, 3, W, H] and [N, W, H] are allowed" in text
    with h5py.File(mat, "w") as file:
        file.create_dataset("images", (3, 3, 20_000, 10_000), np.uint8)
        file.create_dataset("rawDepths", (3, 20_000, 10_000), np.float32)
    text = refused(lambda: open_set(mat, "depth")[0])
    assert "has frames of more than 178,956,970 pixels: that many are allowed." in text
