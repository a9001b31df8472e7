"""Drawing the next token so that it follows from the row alone: from its key, the step and the model's logits.

    keys = row_keys(["0f...", "a3..."], "caption", k=5)     # uint64 [2, 5]
    ids = draw(logits, keys.reshape(-1), step=3, top_p=0.9, temperature=1.0)

A token wins a race: every token that may be drawn gets a waiting time, exponential with its probability as the rate,
made from a hash of (key, step, token); the first is drawn. That has exactly the softmax's distribution. Unlike a walk
along the cumulative sum, the last bits of the logits, which depend on what else is in the batch, practically never
change who is first.

Source: order of the processing (nucleus of the logits, then temperature) and what a nucleus keeps: open_clip's
`CoCa.generate` and transformers' `TopPLogitsWarper`. The race: Maddison et al. (2014), "A* sampling", section 2.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mobileclip.data.order import hashed, uniform

Words = npt.NDArray[np.uint64]

_GOLDEN, _MIX_1, _MIX_2 = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15  # of `order.hashed`, signed


def row_keys(uids: Sequence[str], name: str, k: int, seed: int = 0) -> Words:
    """uint64 [B, k]: what the draws of caption 0..k-1 of each sample are made from."""
    found = [
        hashlib.sha256(f"{seed} {name} {uid} {number}".encode("utf-8", "surrogatepass")).digest()[:8]
        for uid in uids
        for number in range(k)
    ]
    return np.frombuffer(b"".join(found), "<u8").astype(np.uint64).reshape(len(uids), k)


def draw(logits: Tensor, keys: Words, step: int, *, top_p: float, temperature: float) -> Tensor:
    """Logits [R, V] (-inf: never) and keys [R] -> ids int64 [R], drawn from softmax(nucleus(logits) / temperature)."""
    kept = nucleus(logits, top_p)
    if logits.device.type == "cpu":
        return torch.from_numpy(_race_of_rows(logits, kept, keys, step, temperature))
    noise = _waiting(hashed(keys, step), logits.shape[-1], logits.device)
    scores = logits.double() / temperature - noise.log()
    return scores.masked_fill(~kept, -torch.inf).argmax(-1)


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Logits [R, V] -> bool [R, V]: the likeliest tokens that together have a probability of at least `top_p`.

    Of equal logits at the edge all are kept. Sums are open_clip's, float32 from the least likely token on.
    """
    if top_p >= 1.0:
        return logits > -torch.inf
    if logits.device.type == "cpu":
        rising = torch.from_numpy(np.sort(logits.float().numpy(), axis=-1))  # twenty times as fast as torch's
    else:
        rising = logits.float().sort(-1).values
    removed = (rising.softmax(-1).cumsum(-1) <= 1 - top_p).sum(-1, keepdim=True)
    least = rising.gather(-1, removed.clamp(max=logits.shape[-1] - 1))
    return logits >= least


def _race_of_rows(logits: Tensor, kept: Tensor, keys: Words, step: int, temperature: float) -> npt.NDArray[np.int64]:
    """As the race on all tokens, but only those that are kept take part."""
    scores, among, states = logits.numpy(), kept.numpy(), hashed(keys, step)
    out = np.empty(len(keys), np.int64)
    for row in range(len(keys)):
        tokens = np.flatnonzero(among[row])
        waits: npt.NDArray[Any] = -np.log1p(-uniform_after(states[row], tokens))
        with np.errstate(divide="ignore"):
            out[row] = tokens[np.argmax(scores[row, tokens].astype(np.float64) / temperature - np.log(waits))]
    return out


def uniform_after(state: Any, tokens: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """`order.uniform(..., tokens)` where `state` is `order.hashed(...)`."""
    return uniform(state, tokens)


def _waiting(states: Words, vocabulary: int, device: torch.device) -> Tensor:
    """Float64 [R, V]: what `uniform_after` gives for all tokens, as waiting times of rate 1; on any device."""
    words = torch.from_numpy(states.view(np.int64)).to(device).unsqueeze(1)
    tokens = torch.arange(vocabulary, device=device)
    word = _mix((_mix(words + _GOLDEN) ^ tokens) + _GOLDEN)
    return -torch.log1p(-_shifted(word, 11).double() * 2.0**-53)


def _mix(word: Tensor) -> Tensor:
    word = (word ^ _shifted(word, 30)) * _MIX_1
    word = (word ^ _shifted(word, 27)) * _MIX_2
    return word ^ _shifted(word, 31)


def _shifted(word: Tensor, bits: int) -> Tensor:
    """A shift to the right that brings in zeros, of int64."""
    return (word >> bits) & ((1 << (64 - bits)) - 1)
