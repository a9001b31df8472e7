"""Batches are a function of seed and step, byte for byte, under any threads, ranks, restarts; what breaks is told."""

import io
import json
import os
import tarfile
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mobileclip.data.augment import OPERATIONS, Augment, operate, pick_stored
from mobileclip.data.batches import Batch
from mobileclip.data.corpus import Corpus, corpus
from mobileclip.data.loader import Loader
from mobileclip.data.order import hashed
from mobileclip.data.reading import Reader, Tally
from mobileclip.errors import DataError, UnknownName
from mobileclip.tokenizer import tokenize

POISON = Path(__file__).parents[3] / "shared" / "data" / "poison"
SIZE = 32


def jpeg(number: int, width: int = 72, height: int = 54, kind: str = "JPEG") -> bytes:
    generator = np.random.default_rng(number)
    small = Image.fromarray(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    file = io.BytesIO()
    small.resize((width, height), Image.Resampling.BICUBIC).save(file, kind, quality=90)
    return file.getvalue()


Members = dict[str, bytes | str]


def sample(number: int) -> Members:
    """A picture with a web text and two synthetic ones, whose own size differs from its neighbours'."""
    return {
        "jpg": jpeg(number, 60 + 7 * (number % 5), 50 + 5 * (number % 7)),
        "txt": f"web text {number}",
        "json": json.dumps({"uid": f"{number:032x}"}),
        "syn.json": json.dumps({"syn_text": [f"first caption of {number}. It goes on.", f"second of {number}"]}),
    }


def write(path: Path, samples: Sequence[Members], first: int = 0) -> Path:
    with tarfile.open(path, "w") as tar:
        for number, members in enumerate(samples, first):
            for extension, content in members.items():
                data = content.encode() if isinstance(content, str) else content
                info = tarfile.TarInfo(f"{number:06d}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """53 samples in 3 shards, one of them PNG."""
    folder = tmp_path_factory.mktemp("shards")
    for shard, (low, high) in enumerate([(0, 20), (20, 33), (33, 53)]):
        samples = [sample(number) for number in range(low, high)]
        if shard == 1:
            samples[3]["png"] = jpeg(99, kind="PNG")
            del samples[3]["jpg"]
        write(folder / f"{shard:05d}.tar", samples, low)
    return corpus([str(folder / "*.tar")])


@pytest.fixture(autouse=True)
def no_thread_stays() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("mobileclip-loader")]


def loaded(found: Corpus, steps: int, **options: Any) -> list[Batch]:
    defaults: dict[str, Any] = {"size": SIZE, "batch": 8, "policy": "both", "seed": 1, "threads": 2}
    return list(Loader(found, steps=steps, **(defaults | options)))


TENSORS = ("images", "tokens", "text_weight", "text_hash", "image_id")


def same(a: Batch, b: Batch) -> bool:
    return a.keys == b.keys and all(torch.equal(getattr(a, name), getattr(b, name)) for name in TENSORS)


def joined(parts: Sequence[Batch]) -> dict[str, Any]:
    out: dict[str, Any] = {name: torch.cat([getattr(part, name) for part in parts]) for name in TENSORS}
    return out | {"keys": [key for part in parts for key in part.keys]}


RICH = Augment(scale=(0.4, 1.0), flip=0.5, rand_augment=(2, 9))


def test_a_batch_is_what_it_says(found: Corpus) -> None:
    loader = Loader(found, size=SIZE, batch=8, policy="both", seed=1, steps=3)
    assert loader.steps_per_epoch == 6
    for number, batch in enumerate(loader):
        assert (batch.step, batch.epoch) == (number, 0)
        assert batch.images.shape == (8, 3, SIZE, SIZE)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert batch.tokens.shape == (8, 2, 77)
        assert (batch.tokens.dtype, batch.text_hash.dtype, batch.image_id.dtype) == (
            torch.int32,
            torch.int64,
            torch.int64,
        )
        assert batch.text_weight.tolist() == [[1, 1]] * 8
        assert batch.teacher_image is None
        for i, key in enumerate(batch.keys):
            one = int(key.split("/")[1])
            assert torch.equal(batch.tokens[i, 0], tokenize(f"web text {one}")[0])
            either = tokenize([f"first caption of {one}. It goes on.", f"second of {one}"])
            assert (batch.tokens[i, 1] == either).all(1).any()
            assert [found.sources[source] for source in batch.source[i]] == ["alt", "syn_text"]
    assert loader.consumed == {"alt": 24, "syn_text": 24}
    assert loader.wait_s > 0
    assert loader.broken == {}


def test_an_epoch_takes_every_sample_once_and_the_next_another_order(found: Corpus) -> None:
    batches = loaded(found, 12, batch=8)
    epochs = [[key for batch in batches[low : low + 6] for key in batch.keys] for low in (0, 6)]
    assert [len(set(keys)) for keys in epochs] == [48, 48]
    assert epochs[0] != epochs[1]
    assert [batch.epoch for batch in batches] == [0] * 6 + [1] * 6
    whole = loaded(found, 1, batch=53)[0]
    assert len(set(whole.keys)) == 53
    assert len(set(whole.image_id.tolist())) == 53


@pytest.mark.parametrize("augment", [Augment(), RICH], ids=["plain", "rich"])
@pytest.mark.parametrize("crop_on", ["host", "device"])
def test_threads_restarts_and_prefetching_change_no_byte(found: Corpus, augment: Augment, crop_on: str) -> None:
    straight = loaded(found, 9, augment=augment, threads=1)
    for threads, start, prefetch in ((1, 3, 1), (3, 5, 4), (2, 0, 2)):
        options: dict[str, Any] = {"threads": threads, "start_step": start, "prefetch": prefetch, "crop_on": crop_on}
        again = loaded(found, 9, augment=augment, **options)
        assert len(again) == 9 - start
        assert all(same(a, b) for a, b in zip(straight[start:], again, strict=True))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_large_pictures_are_the_same_on_host_and_device(tmp_path: Path, interpolation: Any) -> None:
    samples = [sample(number) | {"jpg": jpeg(number, 900 + number, 700)} for number in range(8)]
    samples[3] = samples[3] | {"png": jpeg(3, 1000, 400, kind="PNG")}
    del samples[3]["jpg"]
    large = corpus([str(write(tmp_path / "00000.tar", samples))])
    augment = Augment(scale=(0.2, 1.0), interpolation=interpolation)
    for size in (32, 100):
        options: dict[str, Any] = {"augment": augment, "size": size}
        host, device = (loaded(large, 2, crop_on=crop_on, **options) for crop_on in ("host", "device"))
        apart = [(a.images.int() - b.images.int()).abs().max() for a, b in zip(host, device, strict=True)]
        assert max(apart) <= (0 if interpolation == "bilinear" else 1)


@pytest.mark.parametrize("policy", ["alt", "pick", "ratio(0.5)", "both", "multi(3)", "sub(1)"])
def test_ranks_change_no_byte(found: Corpus, policy: str) -> None:
    one = loaded(found, 8, batch=8, policy=policy, augment=RICH)
    for world in (2, 4):
        ranks = [
            loaded(found, 8, batch=8 // world, policy=policy, augment=RICH, rank=rank, world=world, start_step=2)
            for rank in range(world)
        ]
        for step, parts in enumerate(zip(*ranks, strict=True), 2):
            whole = joined(parts)
            assert whole["keys"] == one[step].keys
            assert all(torch.equal(whole[name], getattr(one[step], name)) for name in TENSORS)


def test_seeds_make_another_run(found: Corpus) -> None:
    a, b = loaded(found, 1, seed=1)[0], loaded(found, 1, seed=2)[0]
    assert a.keys != b.keys


def test_a_sample_is_cropped_anew_in_each_epoch(found: Corpus) -> None:
    batches = loaded(found, 2, batch=53, policy="pick", augment=Augment(scale=(0.3, 0.6)))
    places = [{key: i for i, key in enumerate(batch.keys)} for batch in batches]
    pairs = [(batches[0].images[i], batches[1].images[places[1][key]]) for key, i in places[0].items()]
    assert not any(torch.equal(a, b) for a, b in pairs)


def test_a_window_of_shards_shuffles_within_it(found: Corpus) -> None:
    keys = [key for batch in loaded(found, 6, window=1) for key in batch.keys]
    shards = [key.split("/")[0] for key in keys]
    assert sum(a != b for a, b in pairwise(shards)) == 2
    assert len(set(keys)) == 48


def test_shards_from_afar_give_the_same_batches(found: Corpus, tmp_path: Path) -> None:
    import fsspec

    files = fsspec.filesystem("memory")
    for path in found.shards.places:
        files.pipe(f"/loader/{Path(path).name}", Path(path).read_bytes())
    far = corpus(["memory://loader/{00000..00002}.tar"], cache=tmp_path)
    options: dict[str, Any] = {"window": 2, "policy": "pick"}
    assert all(same(a, b) for a, b in zip(loaded(found, 7, **options), loaded(far, 7, **options), strict=True))


def test_buffers_go_round_and_never_under_a_tensor_that_is_kept(found: Corpus) -> None:
    loader = Loader(found, size=SIZE, batch=8, policy="alt", steps=40)
    for _ in loader:
        pass
    assert len(loader._buffers._arrays) <= loader.prefetch + 3
    kept = [(batch.images, batch.images.clone()) for batch in Loader(found, size=SIZE, batch=8, policy="alt", steps=12)]
    views = [batch.images[2:3] for batch in Loader(found, size=SIZE, batch=8, policy="alt", steps=12)]
    assert all(torch.equal(a, b) for a, b in kept)
    assert all(torch.equal(view, image[2:3]) for view, (image, _) in zip(views, kept, strict=True))


def test_a_consumer_that_leaves_stops_the_threads(found: Corpus) -> None:
    for batch in Loader(found, size=SIZE, batch=8, policy="alt", threads=4):
        if batch.step == 2:
            break
    iterator = iter(Loader(found, size=SIZE, batch=8, policy="alt"))
    next(iterator)
    del iterator  # and of the rest no_thread_stays makes sure

    def fails() -> None:
        for _ in Loader(found, size=SIZE, batch=8, policy="alt"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()


def test_iterating_again_begins_again(found: Corpus) -> None:
    loader = Loader(found, size=SIZE, batch=8, policy="alt", start_step=4, steps=6)
    first, second = list(loader), list(loader)
    assert [batch.step for batch in second] == [4, 5]
    assert all(same(a, b) for a, b in zip(first, second, strict=True))
    assert list(Loader(found, size=SIZE, batch=8, policy="alt", start_step=6, steps=6)) == []


def broken_corpus(folder: Path, bad: Callable[[int], bytes | None], count: int = 120) -> Corpus:
    samples = [sample(number) for number in range(count)]
    for number, members in enumerate(samples):
        content = bad(number)
        if content is not None:
            members["jpg"] = content
    return corpus([str(write(folder / "00000.tar", samples))])


def test_broken_pictures_are_replaced_counted_and_named(tmp_path: Path) -> None:
    found = broken_corpus(
        tmp_path, lambda number: jpeg(number)[:300] if number == 7 else b"GIF89a" if number == 8 else None
    )
    options: dict[str, Any] = {"size": SIZE, "batch": 10, "policy": "pick", "broken_share": 0.05, "steps": 24}
    loader = Loader(found, threads=1, **options)
    batches = list(loader)
    assert all(len(set(batch.keys)) >= 9 for batch in batches)
    assert not any(key in ("00000/000007", "00000/000008") for batch in batches for key in batch.keys)
    reasons = {reason: (problem.count, set(problem.names)) for reason, problem in loader.broken.items()}
    assert {name for _, names in reasons.values() for name in names} == {"00000/000007", "00000/000008"}
    assert any("damaged or cut short" in reason for reason in reasons)
    assert sum(count for count, _ in reasons.values()) >= 4  # two in each of two epochs
    again = list(Loader(found, threads=3, start_step=5, **options))
    assert all(same(a, b) for a, b in zip(batches[5:], again, strict=True))


def test_too_many_broken_pictures_are_an_error(tmp_path: Path) -> None:
    found = broken_corpus(tmp_path, lambda number: b"nothing" if number % 10 == 0 else None)
    loader = Loader(found, size=SIZE, batch=20, policy="alt", broken_share=0.02)
    with pytest.raises(
        DataError, match=r"samples cannot be used, 2\.0% are allowed \(\d+ × the picture is not a picture"
    ):
        for _ in loader:
            pass
    assert sum(problem.count for problem in loader.broken.values()) >= 2
    assert sum(1 for _ in Loader(found, size=SIZE, batch=20, policy="alt", broken_share=0.3, steps=20)) == 20


def test_a_corpus_of_nothing_but_broken_pictures_fails_at_once(tmp_path: Path) -> None:
    found = broken_corpus(tmp_path, lambda number: b"nothing")
    with pytest.raises(DataError, match=r"^\d+ of the first \d+ samples cannot be used.*mobileclip inspect"):
        next(iter(Loader(found, size=SIZE, batch=40, policy="alt", broken_share=1.0)))


def test_samples_that_stay_broken_are_an_error_even_when_many_are_allowed(tmp_path: Path) -> None:
    found = broken_corpus(tmp_path, lambda number: b"nothing", count=5)
    tally = Tally(1.0)
    tally.read(10_000)  # all good so far
    reader = Reader(corpus=found, size=SIZE, augment=Augment(), seed=0, teachers=False, tally=tally)
    with pytest.raises(
        DataError, match=r"^100 samples in a row cannot be used \(101 × the picture is not a picture that"
    ):
        reader.read(0, 0, np.array([3]), None)


def test_poison_pictures_do_not_stop_training(tmp_path: Path) -> None:
    if not POISON.is_dir():
        pytest.skip(f"no broken pictures at {POISON}")
    poison = [path.read_bytes() for path in sorted(POISON.iterdir()) if path.suffix != ""]
    found = broken_corpus(tmp_path, lambda number: poison[number] if number < len(poison) else None)
    loader = Loader(found, size=SIZE, batch=24, policy="alt", broken_share=0.5, steps=10, augment=RICH)
    assert sum(1 for _ in loader) == 10
    assert loader.broken


@pytest.mark.parametrize(
    ("opened", "text"),
    [
        (True, r"has [\d,]+ bytes, its index was made for [\d,]+: start again"),
        (False, r"holds 20 samples, and 40 when the run began: shards must not change under a run; start it again"),
    ],
)
def test_a_tar_that_changed_under_the_loader_is_told(tmp_path: Path, opened: bool, text: str) -> None:
    path = write(tmp_path / "00000.tar", [sample(number) for number in range(40)])
    found = corpus([str(path)])
    loader = Loader(found, size=SIZE, batch=8, policy="alt")
    if opened:
        assert found.shards[0].n == 40
    os.truncate(path, header_of(path, "000020.jpg"))
    with pytest.raises(DataError, match=text) as error:
        next(iter(loader))
    assert str(path) in str(error.value)
    assert "while loading step 0 (epoch 0) on rank 0" in error.value.__notes__


def header_of(path: Path, name: str) -> int:
    """Where a member's header begins."""
    with tarfile.open(path) as tar:
        return tar.getmember(name).offset


def test_a_corpus_smaller_than_a_step_is_told(found: Corpus) -> None:
    with pytest.raises(DataError) as error:
        Loader(found, size=SIZE, batch=32, world=2, policy="alt")
    assert str(error.value) == (
        "the corpus holds 53 samples, one step takes 64 (32 on each of 2 ranks): give more shards, or make the batch "
        "smaller."
    )


def test_what_makes_no_sense_is_told(found: Corpus) -> None:
    with pytest.raises(DataError, match="rank 2 of 2, prefetch 2, start_step 0: positive numbers and a rank below"):
        Loader(found, size=SIZE, batch=4, world=2, rank=2, policy="alt")
    with pytest.raises(DataError, match=r"^crop_on is 'gpu': 'host' or 'device' is allowed"):
        Loader(found, size=SIZE, batch=4, policy="alt", crop_on="gpu")  # type: ignore[arg-type]
    with pytest.raises(UnknownName, match="unknown caption policy 'al'"):
        Loader(found, size=SIZE, batch=4, policy="al")
    with pytest.raises(DataError, match="which no shard has: there are alt, syn_text"):
        Loader(found, size=SIZE, batch=4, policy="pick(gold=1)")


def test_a_failure_in_a_thread_reaches_the_consumer(found: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = Loader(found, size=SIZE, batch=8, policy="alt", threads=3)
    iterator = iter(loader)
    next(iterator)
    monkeypatch.setattr(loader, "policy", None)  # what only a mistake of ours could do
    with pytest.raises(AttributeError) as error:
        list(islice(iterator, 8))
    assert any(note.startswith("while loading step") for note in error.value.__notes__)


PAUG = [
    [[5, 6, 40, 50], [[3, 4.0], [5, -9.0]]],
    [[0, 0, 30, 30], [[11, 178.5], [13, 0.0]]],
    [[10, 0, 36, 60], None],
]


def reinforced(number: int, width: int, height: int, size: list[int] | None, text: bool) -> Members:
    params: Any = json.dumps(PAUG) if text else PAUG
    paug = {"param_aug": params} | ({"paug_size": size} if size else {})
    file = io.BytesIO()
    rows = np.arange(3, dtype=np.float32)[:, None] + 10 * number
    np.savez(file, image_emb=np.repeat(rows, 4, 1), text_emb=np.repeat(rows + 0.5, 4, 1))
    return sample(number) | {
        "jpg": jpeg(number, width, height),
        "paug.json": json.dumps(paug),
        "npz": file.getvalue(),
    }


@pytest.mark.parametrize("text", [True, False])
@pytest.mark.parametrize(("width", "height", "size"), [(72, 54, None), (72, 54, [72, 54]), (144, 108, [72, 54])])
@pytest.mark.parametrize("crop_on", ["host", "device"])
def test_stored_augmentations_are_replayed(
    tmp_path: Path, width: int, height: int, size: list[int] | None, text: bool, crop_on: Any
) -> None:
    samples = [reinforced(number, width, height, size, text) for number in range(24)]
    found = corpus([str(write(tmp_path / "00000.tar", samples))])
    options: dict[str, Any] = {"augment": RICH, "teachers": True, "crop_on": crop_on, "batch": 24}
    batch = loaded(found, 1, policy="both", **options)[0]
    assert batch.teacher_image is not None
    assert batch.teacher_text is not None
    seen = set()
    for i, key in enumerate(batch.keys):
        number = int(key.split("/")[1])
        which = int(pick_stored(hashed(1, 0, batch.image_id[i : i + 1].numpy().view(np.uint64)), np.array([3]))[0])
        seen.add(which)
        box, operations = PAUG[which]
        scale = width // 72
        top, left, h, w = (scale * side for side in box)
        pixels = np.array(Image.open(io.BytesIO(samples[number]["jpg"])))[top : top + h, left : left + w]
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        image = torch.nn.functional.interpolate(image, size=(SIZE, SIZE), mode="bilinear", antialias=True)
        for op, magnitude in operations or ():
            image = operate(image, OPERATIONS[op], magnitude)
        assert torch.equal(batch.images[i], image[0])
        assert batch.teacher_image[i].tolist() == [which + 10.0 * number] * 4
        assert batch.teacher_text[i, 0].tolist() == [10.0 * number + 0.5] * 4
        caption = 1 if torch.equal(batch.tokens[i, 1], tokenize(samples_caption(number, 0))[0]) else 2
        assert batch.teacher_text[i, 1].tolist() == [caption + 10.0 * number + 0.5] * 4
    assert seen == {0, 1, 2}


def samples_caption(number: int, which: int) -> str:
    return str(json.loads(sample(number)["syn.json"])["syn_text"][which])


def test_stored_augmentations_are_left_alone_when_asked(tmp_path: Path) -> None:
    samples = [reinforced(number, 72, 54, None, True) for number in range(8)]
    found = corpus([str(write(tmp_path / "00000.tar", samples))])
    batch = loaded(found, 1, policy="alt", augment=Augment(scale=(1.0, 1.0), ratio=(1.0, 100.0), replay=False))[0]
    for i, key in enumerate(batch.keys):
        pixels = np.array(Image.open(io.BytesIO(samples[int(key.split("/")[1])]["jpg"])))
        image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        whole = torch.nn.functional.interpolate(image, size=(SIZE, SIZE), mode="bilinear", antialias=True)[0]
        assert (whole.float() - batch.images[i].float()).abs().mean() < 30


def test_embeddings_that_cannot_be_joined_are_told(tmp_path: Path, found: Corpus) -> None:
    with pytest.raises(DataError, match="it has no teacher embeddings"):
        loaded(found, 1, batch=20, teachers=True)
    samples = [reinforced(number, 72, 54, None, True) for number in range(8)]
    for members in samples:
        members["json"] = json.dumps({"caption_blip": "a caption of another source"})
    other = corpus([str(write(tmp_path / "00000.tar", samples))])
    with pytest.raises(DataError, match=r"has no teacher embedding for its caption from 'caption_blip': name sources"):
        loaded(other, 1, policy="pick(caption_blip=1)", teachers=True)


def test_a_stored_augmentation_that_makes_no_sense_is_a_broken_sample(tmp_path: Path) -> None:
    samples = [sample(number) for number in range(60)]
    samples[5]["paug.json"] = json.dumps({"param_aug": [[[0, 0, 0, 0]]]})
    found = corpus([str(write(tmp_path / "00000.tar", samples))])
    loader = Loader(found, size=SIZE, batch=20, policy="alt", broken_share=0.1, steps=3)
    list(loader)
    assert {name for problem in loader.broken.values() for name in problem.names} == {"00000/000005"}
    assert next(iter(loader.broken)).startswith("a stored augmentation is")
