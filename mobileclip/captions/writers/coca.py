"""Captions of open_clip's CoCa with a key-value cache: the same tokens as its own `generate`, many times as fast.

    decoder = CocaDecoder(model)                                # an open_clip CoCa; its weights are used in place
    out = decoder.generate(images, keys, top_p=0.9)             # images [B, 3, S, S], keys uint64 [B, K]
    out.tokens[3, 1]                                            # image 3, caption 1

open_clip runs the whole prefix through both text stacks, the projection of the image's tokens through every
cross-attention, and the vocabulary for every position, anew for each token of each caption. Here an image is encoded
once; its keys and values of every cross-attention are made once and serve all K captions, which attend to them as K
queries of one image; each token passes the stacks once; rows that have ended leave the batch.

Why that is exact: the text tower puts its class token behind the text, under a causal mask, so no token sees it, and
what is masked besides is keys of padding, which only rows that have ended hold. (A tower whose padding is not the
decoder's gets that mask here too.) Hence what a token is depends on the tokens before it alone. A tower without the
causal mask, or one from another library, is refused.

Source of what is computed: open_clip 3.3, coca_model.py `CoCa.generate`, transformer.py `TextTransformer` and
`MultimodalTransformer`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobileclip.captions.writers.sampling import Words, draw
from mobileclip.errors import CheckpointError

# B images, K captions each, R rows (captions that have not ended), H heads, d = C / H, N tokens of an image

_LIVE_SHARE = 0.75  # of the rows; below it those that have ended are dropped, which copies the cache


@dataclass(frozen=True, kw_only=True, eq=False)
class Generated:
    """What came out for B images and K captions each."""

    tokens: Tensor
    """int64 [B, K, L]: start, text, end, padding; L is that of the longest, or what was asked for."""
    length: Tensor
    """int64 [B, K]: tokens that the model chose, the end included where it chose that too."""
    logprob: Tensor
    """float64 [B, K]: sum of their log-probabilities under the model itself, before anything is filtered."""
    ended: Tensor
    """bool [B, K]: the model ended it; False: it was stopped at the limit."""


class CocaDecoder:
    """An incremental decoder over the weights of an open_clip CoCa in evaluation mode.

    Raises:
        CheckpointError: the model's text tower is none that can be decoded token by token.
    """

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self.text, self.decoder = model.text, model.text_decoder
        _require_causal(model)
        self.pad = int(model.pad_id)
        self.limit = min(self.text.context_length, self.decoder.context_length)
        """Most tokens that the stacks can see, the start included."""

    @torch.inference_mode()
    def generate(
        self,
        images: Tensor,
        keys: Words,
        *,
        seq_len: int = 30,
        min_seq_len: int = 5,
        top_p: float | None = None,
        temperature: float = 1.0,
        repetition_penalty: float = 1.0,
        sot: int = 49_406,
        eos: int = 49_407,
        fixed_output_length: bool = False,
    ) -> Generated:
        """K captions of each image, tokens and rules as open_clip's `generate` has them.

        Args:
            images: [B, 3, S, S], normalised.
            keys: [B, K]; from `sampling.row_keys`. What is drawn for a caption follows from its key.
            seq_len: tokens of a caption at most, start and end included; the last is always the end.
            min_seq_len: the end is not chosen before there are so many tokens.
            top_p: nucleus; None takes the likeliest token.
            temperature: of the draw; the nucleus is that of temperature 1.
            repetition_penalty: logits of tokens that are there already are divided by it, negative ones multiplied.
            sot: id of the start.
            eos: id of the end.
            fixed_output_length: give `seq_len` columns, even if all captions are shorter.
        """
        assert min_seq_len < seq_len <= self.limit + 1, (min_seq_len, seq_len, self.limit)
        count, k = keys.shape
        rules = _Rules(min_seq_len, top_p, temperature, repetition_penalty, eos)
        state, flat = _State(self, images, k, seq_len), keys.reshape(-1)
        tokens = torch.full((count * k, seq_len), self.pad, device=images.device)
        tokens[:, 0], last = sot, 0
        length = torch.zeros(count * k, dtype=torch.long, device=images.device)
        logprob = torch.zeros(count * k, dtype=torch.float64, device=images.device)
        ended = torch.zeros(count * k, dtype=torch.bool, device=images.device)
        while state.going.any():
            step, last = last, last + 1
            live = state.rows[state.going]
            if last + 1 == seq_len:  # whatever the model would say
                tokens[live, last] = eos
                break
            raw = self._logits(state, tokens[state.rows, :last], step)[state.going]
            chosen = rules.choose(raw, tokens[live, :last], flat[live.cpu().numpy()], step)
            over = (chosen == eos) | (chosen == self.pad)
            tokens[live, last], ended[live] = chosen, over
            logprob[live] += (raw.gather(1, chosen[:, None])[:, 0] - raw.logsumexp(-1)).double()
            length[live] += 1
            state.end(over)
        width = seq_len if fixed_output_length else last + 1
        shape = (count, k)
        return Generated(
            tokens=tokens[:, :width].view(*shape, -1),
            length=length.view(shape),
            logprob=logprob.view(shape),
            ended=ended.view(shape),
        )

    def _logits(self, state: "_State", tokens: Tensor, step: int) -> Tensor:
        """Prefixes [R, step + 1], all but the last token cached -> float32 [R, V] for the next token."""
        mask = self._mask(tokens)
        x = self.text.token_embedding(tokens[:, -1]) + self.text.positional_embedding[step]
        unimodal = len(self.text.transformer.resblocks)
        for number, block in enumerate(self.text.transformer.resblocks):
            x = state.attend(number, block, x, step, mask)
        pairs = zip(self.decoder.resblocks, self.decoder.cross_attn, strict=True)
        for number, (block, cross) in enumerate(pairs):
            x = state.attend(unimodal + number, block, x, step, None)
            x = state.look(number, cross, x)
        logits: Tensor = self.decoder.ln_final(x) @ self.decoder.text_projection
        return logits.float()

    def _mask(self, tokens: Tensor) -> Tensor | None:
        """Keys [R, 1, 1, step + 1] that the text tower may see, where its padding may stand inside a caption."""
        if self.text.pad_id == self.pad:
            return None
        valid: Tensor = tokens != self.text.pad_id
        if not self.text.correct_cls_mask:  # as the published weights were trained: one place late
            valid = torch.cat([torch.ones_like(valid[:, :1]), valid[:, :-1]], 1)
        return valid[:, None, None, :]


@dataclass(frozen=True)
class _Rules:
    """How the next token is chosen; in open_clip's order."""

    min_seq_len: int
    top_p: float | None
    temperature: float
    repetition_penalty: float
    eos: int

    def choose(self, logits: Tensor, prefix: Tensor, keys: Words, step: int) -> Tensor:
        """Logits [R, V], prefixes [R, step + 1], keys [R] -> ids [R]."""
        logits = self.ruled(logits, prefix)
        if self.top_p is None:
            return logits.argmax(-1)
        return draw(logits, keys, step, top_p=self.top_p, temperature=self.temperature).to(logits.device)

    def ruled(self, logits: Tensor, prefix: Tensor) -> Tensor:
        """Logits after the least length and the penalty; before the nucleus."""
        if prefix.shape[1] < self.min_seq_len:
            logits = logits.clone()
            logits[:, self.eos] = -torch.inf
        if self.repetition_penalty != 1.0:
            there = logits.gather(1, prefix)
            there = torch.where(there < 0, there * self.repetition_penalty, there / self.repetition_penalty)
            logits = logits.scatter(1, prefix, there)
        return logits


class _State:
    """What is cached for the rows that have not ended, and for their images."""

    def __init__(self, decoder: CocaDecoder, images: Tensor, k: int, seq_len: int) -> None:
        _, embeddings = decoder.model._encode_image(images)
        self.memory = [_keys_values(cross, embeddings) for cross in decoder.decoder.cross_attn]
        self.rows = torch.arange(len(images) * k, device=images.device)  # [R] in the cache, by number
        self.image = self.rows // k  # [R] their images, as places in `memory`
        self.going = torch.ones_like(self.rows, dtype=torch.bool)  # [R] of them not ended yet
        self.cache = []
        for block in (*decoder.text.transformer.resblocks, *decoder.decoder.resblocks):
            heads, width = block.attn.num_heads, block.attn.embed_dim
            self.cache.append(embeddings.new_empty(2, len(self.rows), heads, seq_len - 2, width // heads))
        self._place()

    def attend(self, number: int, block: Any, x: Tensor, step: int, mask: Tensor | None) -> Tensor:
        """A self-attention block for the newest tokens [R, C], with those before them from the cache."""
        attn, (keys, values) = block.attn, self.cache[number]
        query, key, value = (
            F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
            .view(len(x), 3, attn.num_heads, -1)
            .unbind(1)
        )
        keys[:, :, step], values[:, :, step] = key, value
        seen = F.scaled_dot_product_attention(
            query.unsqueeze(2), keys[:, :, : step + 1], values[:, :, : step + 1], attn_mask=mask
        )
        return _finished(block, x, seen.reshape(len(x), -1))

    def look(self, number: int, block: Any, x: Tensor) -> Tensor:
        """A cross-attention block for the newest tokens [R, C]: those of one image together."""
        attn, (keys, values) = block.attn, self.memory[number]
        width = attn.embed_dim
        query = F.linear(block.ln_1(x), attn.in_proj_weight[:width], attn.in_proj_bias[:width])
        images, full = len(keys), len(x) == len(keys) * self.most
        grid = query if full else query.new_zeros(images * self.most, width).index_copy_(0, self.place, query)
        grid = grid.view(images, self.most, attn.num_heads, -1).transpose(1, 2)  # [B, H, K, d]
        seen = F.scaled_dot_product_attention(grid, keys, values).transpose(1, 2).reshape(-1, width)
        return _finished(block, x, seen if full else seen[self.place])

    def end(self, over: Tensor) -> None:
        """Note which of the rows that were going have ended; drop them when they are many."""
        self.going[self.going.nonzero()[:, 0]] = ~over
        if int(self.going.sum()) > _LIVE_SHARE * len(self.going):
            return
        kept = self.going.nonzero()[:, 0]
        self.cache = [layer.index_select(1, kept) for layer in self.cache]
        images, self.image = torch.unique(self.image[kept], return_inverse=True)
        if len(images) < len(self.memory[0][0]):
            self.memory = [(keys[images], values[images]) for keys, values in self.memory]
        self.rows, self.going = self.rows[kept], self.going[kept]
        self._place()

    def _place(self) -> None:
        """Where rows lie in a grid [B, most] of the images' captions; rows of an image follow one another."""
        counts = self.image.bincount()
        self.most = int(counts.max()) if len(counts) else 0
        first = counts.cumsum(0) - counts
        inside = torch.arange(len(self.image), device=self.image.device) - first[self.image]
        self.place = self.image * self.most + inside


def _finished(block: Any, x: Tensor, seen: Tensor) -> Tensor:
    """The rest of a block, behind its attention's heads."""
    x = x + block.ls_1(block.attn.out_proj(seen))
    out: Tensor = x + block.ls_2(block.mlp(block.ln_2(x)))
    return out


def _keys_values(block: Any, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens of images [B, N, C] -> keys and values [B, H, N, d] of a cross-attention."""
    attn, width = block.attn, block.attn.embed_dim
    found = F.linear(block.ln_1_kv(embeddings), attn.in_proj_weight[width:], attn.in_proj_bias[width:])
    found = found.view(*embeddings.shape[:2], 2, attn.num_heads, -1).permute(2, 0, 3, 1, 4).contiguous()
    return found[0], found[1]


def _require_causal(model: Any) -> None:
    """Refuse what cannot be decoded token by token, or is not built of the blocks that are known here."""
    from open_clip.transformer import ResidualAttentionBlock, TextTransformer

    text, decoder = model.text, model.text_decoder
    if not isinstance(text, TextTransformer):
        raise CheckpointError(
            f"the model's text tower is a {type(text).__name__}, in which every token sees the whole text, so nothing "
            "can be cached: take a CoCa with open_clip's own text tower, such as coca_ViT-L-14."
        )
    if text.attn_mask is None or text.cls_emb is None:
        lacking = "causal mask" if text.attn_mask is None else "class token (embed_cls)"
        raise CheckpointError(
            f"the model's text tower has no {lacking}, with which CoCa writes captions: take a model that was trained "
            "for that, such as coca_ViT-L-14."
        )
    blocks: list[nn.Module] = [*text.transformer.resblocks, *decoder.resblocks, *decoder.cross_attn]
    other = sorted({type(block).__name__ for block in blocks if type(block) is not ResidualAttentionBlock})
    if other:
        raise CheckpointError(f"the model is built of {', '.join(other)}: ResidualAttentionBlock alone is known here.")
