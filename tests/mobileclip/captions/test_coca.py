"""The decoder with a cache says what open_clip's own `generate` says, token for token."""

from typing import Any

import pytest
import torch
import transformers as t
from open_clip.coca_model import CoCa
from small_coca import SIZE, small, with_generate
from torch import Tensor

from mobileclip.captions.writers.coca import CocaDecoder, _Rules, _State
from mobileclip.captions.writers.sampling import nucleus, row_keys
from mobileclip.errors import CheckpointError

SOT, EOS = 98, 99
MODELS: dict[str, dict[str, Any]] = {
    "plain": {},
    "long": {"context": 40, "layers": 1},
    "deep, two heads": {"layers": 4, "heads": 2, "width": 48},
    "layer scale": {"ls_init_value": 0.5},
    "padding of its own": {"pad_id": 7},
    "padding of its own, mask in place": {"pad_id": 7, "correct_cls_mask": True},
}


def pictures(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def keys(count: int, k: int = 1) -> Any:
    return row_keys([str(number) for number in range(count)], "test", k)


def ending(model: CoCa) -> CoCa:
    """The same, with captions that end at different lengths."""
    with torch.no_grad():
        model.text_decoder.text_projection.mul_(0.4)
        model.text_decoder.text_projection[:, EOS] += 0.04
    return model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(2))
def test_greedy_captions_are_those_of_open_clip(name: str, seed: int) -> None:
    with_generate()
    model = small(seed, **MODELS[name])
    decoder = CocaDecoder(model)
    for count, seq_len, penalty in ((1, 7, 1.0), (3, 25, 1.0), (5, decoder.limit + 1, 1.4), (4, 12, 0.7)):
        images = pictures(count, seed)
        rules = {"seq_len": seq_len, "repetition_penalty": penalty}
        theirs = model.generate(
            images, generation_type="top_k", top_k=1, sot_token_id=SOT, eos_token_id=EOS, max_seq_len=99, **rules
        )
        ours = decoder.generate(images, keys(count), sot=SOT, eos=EOS, **rules)
        assert torch.equal(ours.tokens[:, 0], theirs)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("least", [0, 4, 9])
def test_captions_of_different_length_end_as_in_open_clip(fixed: bool, least: int) -> None:
    with_generate()
    lengths = set()
    for seed in range(4):
        model = ending(small(seed))
        rules = {"seq_len": 16, "min_seq_len": least, "fixed_output_length": fixed}
        theirs = model.generate(
            pictures(9), generation_type="top_k", top_k=1, sot_token_id=SOT, eos_token_id=EOS, **rules
        )
        ours = CocaDecoder(model).generate(pictures(9), keys(9), sot=SOT, eos=EOS, **rules)
        assert torch.equal(ours.tokens[:, 0], theirs)
        lengths |= set(ours.length.flatten().tolist())
    assert len(lengths) > 2


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_nucleus_are_those_of_open_clip_for_every_prefix(name: str) -> None:
    with_generate()
    model, images = small(5, **MODELS[name]), pictures(4)
    decoder = CocaDecoder(model)
    rules = _Rules(min_seq_len=5, top_p=0.8, temperature=1.0, repetition_penalty=1.3, eos=EOS)
    theirs = [t.MinLengthLogitsProcessor(5, torch.tensor(EOS)), t.RepetitionPenaltyLogitsProcessor(1.3)]
    theirs_rules = t.LogitsProcessorList([*theirs, t.TopPLogitsWarper(0.8)])
    prefix = torch.randint(1, 98, (4, 15), generator=torch.Generator().manual_seed(1))
    prefix[:, 0], prefix[1, 4], prefix[2, 5:7] = SOT, 7, 7
    with torch.inference_mode():
        latent, embeddings = model._encode_image(images)
        state = _State(decoder, images, 1, 17)
        for length in range(1, 16):
            x = prefix[:, :length]
            logits = model(images, x, image_latent=latent, image_embs=embeddings, output_labels=False)["logits"][:, -1]
            ours = decoder._logits(state, x, length - 1)
            torch.testing.assert_close(ours, logits, atol=1e-5, rtol=1e-5)
            ruled = rules.ruled(ours, x)
            filtered = ruled.masked_fill(~nucleus(ruled, 0.8), -torch.inf)
            torch.testing.assert_close(filtered.softmax(-1), theirs_rules(x, logits).softmax(-1), atol=1e-5, rtol=0)


def test_a_caption_does_not_depend_on_the_batch() -> None:
    decoder, images, own = CocaDecoder(ending(small(1))), pictures(12), keys(12, 5)
    rules = {"seq_len": 18, "sot": SOT, "eos": EOS, "top_p": 0.9, "min_seq_len": 2, "fixed_output_length": True}
    together = decoder.generate(images, own, **rules)
    assert len(set(together.length.flatten().tolist())) > 3  # rows left the batch at different steps
    for at in (0, 5, 11):
        alone = decoder.generate(images[at : at + 1], own[at : at + 1], **rules)
        assert torch.equal(alone.tokens[0], together.tokens[at])
        torch.testing.assert_close(alone.logprob[0], together.logprob[at])
    some = decoder.generate(images[[7, 2]], own[[7, 2]][:, [3]], **rules)
    assert torch.equal(some.tokens[:, 0], together.tokens[[7, 2], 3])
    assert len({tuple(row) for row in together.tokens.flatten(0, 1).tolist()}) > 50


def test_log_probabilities_are_those_of_the_model() -> None:
    model, images = ending(small(2)), pictures(3)
    found = CocaDecoder(model).generate(images, keys(3, 2), seq_len=14, top_p=0.7, sot=SOT, eos=EOS)
    for at in range(3):
        for number in range(2):
            row, length = found.tokens[at, number], int(found.length[at, number])
            with torch.inference_mode():
                logits = model(images[at : at + 1], row[None, :length], output_labels=False)["logits"][0]
            told = logits.log_softmax(-1).gather(1, row[1 : length + 1, None]).sum()
            torch.testing.assert_close(found.logprob[at, number], told.double(), atol=1e-4, rtol=1e-4)
            assert bool(found.ended[at, number]) == (int(row[length]) in (0, EOS))


def test_what_cannot_be_decoded_token_by_token_is_refused() -> None:
    model = small()
    model.text.attn_mask = None
    with pytest.raises(CheckpointError) as caught:
        CocaDecoder(model)
    assert str(caught.value) == (
        "the model's text tower has no causal mask, with which CoCa writes captions: take a model that was trained for "
        "that, such as coca_ViT-L-14."
    )
    model = small()
    model.text.cls_emb = None
    with pytest.raises(CheckpointError, match=r"has no class token \(embed_cls\), with which CoCa writes captions"):
        CocaDecoder(model)
    model = small()
    model.text = torch.nn.Linear(1, 1)
    with pytest.raises(CheckpointError, match="text tower is a Linear, in which every token sees the whole text"):
        CocaDecoder(model)
    model = small()
    model.text_decoder.resblocks[0] = torch.nn.Identity()
    with pytest.raises(CheckpointError, match="built of Identity: ResidualAttentionBlock alone is known here"):
        CocaDecoder(model)
