"""Small random models of the real classes write captions, each from its own sample alone."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_writers
import torch

from mobileclip.captions.writers.captioner import Ask, Options
from mobileclip.captions.writers.transformers_captioner import TransformersWriter, load
from mobileclip.errors import CheckpointError, MissingExtra

MODELS = ("blip", "blip2", "llava", "florence")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of a model, made once."""
    root = tmp_path_factory.mktemp("models")

    def made(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            name, _, chat = name.partition(" ")
            getattr(small_writers, name)(folder, **({"chat": True} if chat else {}))
        return folder

    return made


def asks(count: int, prompt: str = "what is this") -> list[Ask]:
    pixels = [np.random.default_rng(n).integers(0, 256, (40 + n, 50, 3), np.uint8) for n in range(count)]
    return [Ask(uid=str(n), pixels=found, prompts=(prompt,) if prompt else ()) for n, found in enumerate(pixels)]


def writer(folder: Path, looks: bool = True, **options: Any) -> TransformersWriter:
    given = {"k": 3, "max_tokens": 9, "offline": True} | options
    return load(Options(model=str(folder), **given), "test", looks=looks)


@pytest.mark.parametrize("prompt", ["", "what is this"])
@pytest.mark.parametrize("name", MODELS)
def test_captions_follow_from_the_sample_alone(model: Callable[[str], Path], name: str, prompt: str) -> None:
    if name == "llava" and not prompt:
        prompt = "photo"
    write = writer(model(name), temperature=1.3)
    together = write(asks(5, prompt))
    torch.manual_seed(1)  # chance of the process has no part in it
    alone = [answer for ask in asks(5, prompt)[::-1] for answer in write([ask])][::-1]
    assert [answer.texts for answer in together] == [answer.texts for answer in alone]
    assert len({text for answer in together for text in answer.texts}) > 8
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(np.array(one.lp, float), np.array(other.lp, float), atol=1e-4)
        assert one.n_tok == other.n_tok


@pytest.mark.parametrize("name", MODELS)
def test_the_likeliest_text_is_that_of_generate(model: Callable[[str], Path], name: str) -> None:
    write = writer(model(name), k=1, sampling="greedy")
    answers = write(asks(4))
    inputs = write._inputs([(ask, 0) for ask in asks(4)])
    found = write.model.generate(**inputs, max_new_tokens=9, do_sample=False, num_beams=1)
    theirs = write.tokenizer.batch_decode(found, skip_special_tokens=True)
    assert all(text.strip().endswith(answer.texts[0]) for text, answer in zip(theirs, answers, strict=True))
    assert any(answer.texts[0] for answer in answers)


def test_beams_are_those_of_generate(model: Callable[[str], Path]) -> None:
    write = writer(model("blip2"), k=2, sampling="beam", beams=4)
    answers = write(asks(3, ""))
    inputs = write._inputs([(ask, 0) for ask in asks(3, "")])
    found = write.model.generate(**inputs, max_new_tokens=9, do_sample=False, num_beams=4, num_return_sequences=2)
    theirs = [text.strip() for text in write.tokenizer.batch_decode(found, skip_special_tokens=True)]
    assert [text for answer in answers for text in answer.texts] == theirs
    assert {answer.lp for answer in answers} == {(None, None)}


def test_log_probabilities_and_ends(model: Callable[[str], Path]) -> None:
    write = writer(model("language"), looks=False, k=4, max_tokens=30)
    answers = write([Ask(uid=str(n), prompts=("the dog on the wall",)) for n in range(6)])
    ended = [(count, end) for answer in answers for count, end in zip(answer.n_tok, answer.ended, strict=True)]
    assert {end for _, end in ended} == {True, False}
    assert all(end or count == 30 for count, end in ended)
    whole = write.tokenizer("the dog on the wall", return_tensors="pt").input_ids
    inside = write.tokenizer(answers[0].texts[0], add_special_tokens=False, return_tensors="pt").input_ids
    if int(inside.shape[1]) == answers[0].n_tok[0]:  # no special token was written and left out of the text
        logits = write.model(torch.cat([whole, inside], 1)).logits[0, whole.shape[1] - 1 : -1]
        told = logits.log_softmax(-1).gather(1, inside[0][:, None]).mean()
        assert answers[0].lp[0] == pytest.approx(float(told), abs=1e-4)


def test_an_end_that_a_model_is_made_to_write_is_none(model: Callable[[str], Path]) -> None:
    answers = writer(model("florence"), max_tokens=4)(asks(3))
    assert {end for answer in answers for end in answer.ended} == {False}
    assert {count for answer in answers for count in answer.n_tok} == {3}


@pytest.mark.parametrize("name", ["language", "language chat"])
def test_prompts_of_their_own(model: Callable[[str], Path], name: str) -> None:
    write = writer(model(name), looks=False, k=2)
    pairs = [("the dog", "a small cat on a wall"), ("red", "blue"), ("what is this", "dog")]
    rows = [Ask(uid=str(n), prompts=pair, system="a photo") for n, pair in enumerate(pairs)]
    together = write(rows)
    assert [answer.texts for answer in together] == [write([row])[0].texts for row in rows]
    assert all(len(answer.texts) == 2 for answer in together)


def test_provenance_says_what_wrote(model: Callable[[str], Path]) -> None:
    about = writer(model("blip"), licence="BSD").provenance
    assert (about["class"], about["licence"], about["k"]) == ("BlipForConditionalGeneration", "BSD", 3)


def test_what_cannot_be_loaded(tmp_path: Path, model: Callable[[str], Path]) -> None:
    import shutil

    with pytest.raises(
        CheckpointError, match=r"'.*nowhere' cannot be loaded by transformers 5\..* give a repository or"
    ):
        writer(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="cannot be loaded by transformers"):
        writer(model("language"))  # no model for pictures
    folder = shutil.copytree(model("blip"), tmp_path / "blip")
    (folder / "model.safetensors").write_bytes(b"\x08" + b"\0" * 7 + b"{}      ")
    with pytest.raises(CheckpointError, match=r"'.*blip' (lacks|cannot be loaded)"):
        writer(folder)
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")  # a pickle is not read
    with pytest.raises(CheckpointError, match="with safetensors"):
        writer(folder)


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra) as caught:
        load(Options(model="m"), "test", looks=True)
    assert str(caught.value) == (
        "captions by transformers models need transformers: pip install 'mobileclip-toolkit[captioners]'"
    )
