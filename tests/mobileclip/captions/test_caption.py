"""Stage "caption" from tars to side-cars, and CoCa's weights and options that cannot be used."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_coca
import torch
from given import pairs, ran, tar
from PIL import Image
from safetensors.torch import load_file, save_file
from small_server import serving

from mobileclip.captions import tables
from mobileclip.captions.flags import names
from mobileclip.captions.recipe import build
from mobileclip.captions.writers.caption import Caption
from mobileclip.captions.writers.captioner import Ask, Options, flags_of, picture, tidied
from mobileclip.captions.writers.coca_captioner import CocaCaptioner, _text
from mobileclip.errors import CheckpointError, DataError, MobileClipError, UnknownName
from mobileclip.tokenizer import END, START, encode


@pytest.fixture(scope="session")
def coca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small CoCa with CLIP's vocabulary; tests that change it copy it."""
    return small_coca.saved(tmp_path_factory.mktemp("coca") / "small")


def rows(folder: Path, stage: Any, shard: Path) -> list[dict[str, Any]]:
    plan = ran([stage], [shard], folder)
    (item,) = plan.shards
    found: list[dict[str, Any]] = tables.read(plan.stem(stage.name, item.name)).to_pylist()
    return found


def test_captions_of_a_shard(tmp_path: Path, coca: Path) -> None:
    shard = pairs(tmp_path / "0.tar", {str(number): "a text" for number in range(6)})
    (stage,) = build("r", [{"kind": "caption", "name": "coca", "model": str(coca), "k": 3, "max_tokens": 9}]).stages
    found = rows(tmp_path / "one", stage, shard)
    assert [row["status"] for row in found] == ["ok"] * 6
    assert all(len(row["texts"]) == len(row["lp"]) == len(row["n_tok"]) == len(row["flags"]) == 3 for row in found)
    assert len({text for row in found for text in row["texts"]}) > 15
    assert all(lp < 0 for row in found for lp in row["lp"])
    plan = ran([stage], [shard], tmp_path / "two")
    (item,) = plan.shards
    done = plan.done("coca", item)
    assert done is not None
    assert done.sha256 == tables.digest((tmp_path / "one").rglob("0.parquet").__next__().read_bytes())
    assert done.provenance["captioner"] == "coca"
    assert done.provenance["sampling"] == "top_p"
    other = rows(tmp_path / "seed", Caption(name="coca", model=str(coca), k=3, max_tokens=9, seed=1), shard)
    assert [row["texts"] for row in other] != [row["texts"] for row in found]


def test_a_broken_picture_changes_no_other_row(tmp_path: Path, coca: Path) -> None:
    stage = Caption(model=str(coca), k=2, max_tokens=8)
    from given import jpeg

    uid = {"uid": "0" * 31 + "1"}
    good = [("a", {"jpg": jpeg(1), "json": uid}), ("b", {"jpg": jpeg(2), "json": {"uid": "0" * 31 + "2"}})]
    whole = rows(tmp_path / "one", stage, tar(tmp_path / "1.tar", good))
    bad = [("0", {"jpg": b"no picture"}), *good, ("c", {"txt": "alone"})]
    found = rows(tmp_path / "two", stage, tar(tmp_path / "2.tar", bad))
    assert [row["texts"] for row in found] == [None, *(row["texts"] for row in whole), None]
    assert [row["status"][:12] for row in found] == ["broken image", "ok", "ok", "no image"]


def test_a_server_s_captions_with_a_cache(tmp_path: Path) -> None:
    shard = pairs(tmp_path / "0.tar", {str(number): "a text" for number in range(6)})
    with serving() as server:
        options = {"name": "vlm", "captioner": "server", "model": "m", "prompt": "Describe it.", "k": 2}
        stage = Caption(**options, url=server.url, cache=str(tmp_path / "cache"), first_sentence=True)
        first = rows(tmp_path / "one", stage, shard)
        assert len(server.requests) == 6
        assert rows(tmp_path / "two", stage, shard) == first
        assert len(server.requests) == 6
    plan = ran([stage], [shard], tmp_path / "two")
    done = plan.done("vlm", plan.shards[0])
    assert done is not None
    assert done.provenance["prompt"] == "Describe it."
    with pytest.raises(MobileClipError, match="answers nobody: no connection"):  # it is gone, and nothing is cached
        rows(tmp_path / "three", Caption(**options, url=server.url, retries=0), shard)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"k": 0}, "caption.k is 0: 1 to 100 texts are allowed."),
        ({"top_p": 0.0}, "caption.top_p is 0.0: a share over 0 and up to 1 is allowed."),
        ({"temperature": 0.0}, "caption.temperature is 0.0: over 0 and up to 10 is allowed."),
        ({"max_tokens": 3, "min_tokens": 3}, "caption.min_tokens is 3 and max_tokens 3: the first must be less"),
        ({"repetition_penalty": 0.0}, "caption.repetition_penalty is 0.0: 0.1 to 10 is allowed, 1 changes nothing."),
        ({"batch": 0}, "caption.batch is 0: 1 to 4,096 samples are allowed."),
        ({"sampling": "beam"}, "caption.sampling is 'beam', which coca has not: take 'top_p' or 'greedy', or a"),
        (
            {"sampling": "beam", "captioner": "transformers", "k": 4},
            "caption.beams is 3 for k = 4: k to 100 are allowed.",
        ),
        (
            {"sampling": "greedy", "k": 2},
            "caption.sampling is 'greedy' and k is 2: the likeliest text is one; take k = 1",
        ),
        ({"timeout": 0.0}, "caption has rate 0.0, concurrency 8, timeout 0.0, deadline 300.0, retries 4: no negative"),
        ({"max_cost": 1.0}, "caption.max_cost is 1.0 with prices 0.0 and 0.0: give both prices."),
        ({"device": "tpu"}, "caption.device is 'tpu': cpu, cuda, cuda:1, ... or mps is allowed."),
        ({"side": 1}, "caption.side is 1: 32 to 4,096 pixels are allowed."),
        ({"captioner": "server", "prompt": "p"}, "caption.url is '': give the server's http(s) address."),
        ({"captioner": "server", "url": "http://x"}, "caption.prompt is empty: say what the server is to be asked"),
        ({"prompt": "p"}, "caption.prompt is set, which CoCa does not take."),
        ({"model": " "}, "caption.model is empty: name a model."),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        Caption(**{"model": "coca_ViT-L-14", **options})
    assert said in str(caught.value)


def load(folder: Path, **options: Any) -> CocaCaptioner:
    return CocaCaptioner.load(Options(model=str(folder), **options), "caption")


def changed(coca: Path, folder: Path, part: str = "", **values: Any) -> Path:
    """A copy of the folder with other values in its configuration."""
    shutil.copytree(coca, folder)
    document = json.loads((folder / "open_clip_config.json").read_text())
    (document["model_cfg"][part] if part else document["model_cfg"]).update(values)
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    return folder


def test_weights_are_those_of_the_file(coca: Path, tmp_path: Path) -> None:
    loaded = load(coca).decoder.model
    made = small_coca.small(0, vocabulary=49_408, context=32)
    assert torch.equal(loaded.text.attn_mask, made.text.attn_mask)
    assert torch.equal(loaded.text_decoder.attn_mask, made.text_decoder.attn_mask)
    assert torch.equal(loaded.text.token_embedding.weight, made.text.token_embedding.weight)
    torch.save({"state_dict": made.state_dict() | {"text.attn_mask": made.text.attn_mask}}, tmp_path / "w.pt")
    folder = shutil.copytree(coca, tmp_path / "folder")
    shutil.copy(tmp_path / "w.pt", folder / "w.pt")
    other = load(folder, weights="w.pt").decoder.model
    assert torch.equal(other.visual.conv1.weight, loaded.visual.conv1.weight)


def test_weights_that_do_not_fit(coca: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(coca, tmp_path / "folder")
    tensors = load_file(folder / "open_clip_model.safetensors")
    tensors["more"] = tensors.pop("text.cls_emb")
    tensors["text.positional_embedding"] = torch.zeros(3, 32)
    save_file(tensors, folder / "open_clip_model.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load(folder)
    assert (
        "there are 1 missing (text.cls_emb), 1 unexpected (more), 1 of another shape (text.positional_embedding); give"
    ) in str(caught.value)
    tensors = load_file(coca / "open_clip_model.safetensors")
    tensors["text.cls_emb"][0] = torch.nan
    save_file(tensors, folder / "open_clip_model.safetensors")
    with pytest.raises(CheckpointError, match=r"has a value that is not finite in text\.cls_emb"):
        load(folder)


@pytest.mark.parametrize(
    ("part", "values", "said"),
    [
        ("text_cfg", {"hf_model_name": "roberta-base"}, "has a tower of another library (hf_model_name), in which"),
        ("vision_cfg", {"timm_model_name": "resnet50"}, "has a tower of another library (timm_model_name), in which"),
        ("text_cfg", {"width": 10**9}, "says width = 1000000000: 0 to 8,192 is allowed."),
        ("text_cfg", {"width": 33}, "builds no CoCa ("),
        ("text_cfg", {"surprise": 1}, "builds no CoCa ("),
        ("", {"text_cfg": None}, "is no CoCa: its configuration lacks one of text_cfg, vision_cfg, multimodal_cfg."),
    ],
)
def test_configurations_that_are_none(coca: Path, tmp_path: Path, part: str, values: Any, said: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(changed(coca, tmp_path / "folder", part, **values))
    assert said in str(caught.value)


def test_models_that_are_not_there(coca: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="unknown CoCa model, or folder of one 'coca_vit'"):
        load(Path("coca_vit"))
    with pytest.raises(UnknownName, match=r"unknown weights of coca_ViT-B-32 'laion2b'"):
        load(Path("coca_ViT-B-32"), weights="laion2b")
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds no CoCa: open_clip_config.json with a model_cfg and one of"):
        load(tmp_path)
    with pytest.raises(DataError, match=r"caption.max_tokens is 34: this CoCa sees 32 tokens, so 33 are allowed."):
        load(coca, max_tokens=34)


def test_a_strip_is_no_wall(coca: Path) -> None:
    assert picture(np.zeros((2, 50_000, 3), np.uint8)).size == (16, 2)
    assert picture(np.zeros((50_000, 3, 3), np.uint8)).size == (3, 24)
    assert picture(np.zeros((100, 800, 3), np.uint8)).size == (800, 100)
    asks = [Ask(uid="a", pixels=np.zeros((1, 50_000, 3), np.uint8))]
    assert load(coca, max_tokens=8)(asks)[0].texts


def test_a_device_that_is_not_there(coca: Path) -> None:
    with pytest.raises(DataError) as caught:
        Caption(model=str(coca), device="cuda:99").worker(None)
    assert str(caught.value) == (
        "caption.device is 'cuda:99', which this machine has not: take cpu, or run where it is."
    )


def test_stages_bring_no_model_before_they_work() -> None:
    stages = "mobileclip.captions.writers.caption, mobileclip.captions.writers.rewrite"
    seen = f"import sys, {stages}; print({{'torch'}} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", seen], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_pictures_are_prepared_as_the_model_says(coca: Path) -> None:
    found = load(coca).transform(Image.new("RGB", (90, 60), (255, 0, 127)))
    assert found.shape == (3, small_coca.SIZE, small_coca.SIZE)
    assert found[:, 5, 5].tolist() == pytest.approx([2.0, -2.0, (127 / 255 - 0.5) / 0.25])


def test_the_text_of_a_row() -> None:
    ids = [START, *encode("a dog . on a beach"), END, 0, 0]
    assert _text(ids) == "a dog . on a beach"
    assert _text([START, *encode("a dog"), 0, 0]) == "a dog"  # where open_clip ends it too
    assert _text([START, 49_999, END]) == ""


def test_texts_on_one_line_and_their_flags() -> None:
    assert tidied(" a\tdog\n\x00on it. And more", first_sentence=False) == "a dog on it. And more"
    assert tidied(" a dog. And more", first_sentence=True) == "a dog"

    def flags(text: str, before: tuple[str, ...] = (), raw: str = "", ended: bool = True) -> list[str]:
        return names(flags_of(text, before, raw or text, ended))

    assert flags("a dog on a beach") == []
    assert flags("") == ["empty"]
    assert flags("a dog", ("a dog",)) == ["duplicate"]
    assert flags("a dog on", ended=False) == ["truncated"]
    assert flags("a dog", raw="a dog. on", ended=False) == []  # the sentence is whole
    assert flags("red dog here red dog here red dog here") == ["repeated"]
