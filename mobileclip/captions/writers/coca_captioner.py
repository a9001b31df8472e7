"""open_clip's CoCa as a writer of captions: weights in, pictures resized as the model was trained, texts out.

    captioner = CocaCaptioner.load(options, "caption")

The model is open_clip's name with weights (a file, or a tag of open_clip's, which is downloaded), or a folder with
open_clip_config.json and weights. Files of weights are read by this toolkit: nothing in them is unpickled, and every
tensor must fit. A caption ends at the end token, or at CLIP's padding token, where open_clip ends it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mobileclip.captions.writers.captioner import Answer, Ask, Kept, Options, picture
from mobileclip.captions.writers.coca import CocaDecoder, Generated
from mobileclip.captions.writers.sampling import row_keys
from mobileclip.checkpoint_build import require_finite
from mobileclip.checkpoint_files import read_json, read_weights, sha256_of
from mobileclip.errors import CheckpointError, DataError, UnknownName, some
from mobileclip.tokenizer import END, PAD, START, VOCABULARY, decode

CONFIG = "open_clip_config.json"
"""Of a folder with a model."""
WEIGHTS = ("open_clip_model.safetensors", "model.safetensors", "open_clip_pytorch_model.bin")
"""Of a folder, in the order of preference."""

_MIN_SEQ_LEN = 5  # open_clip's default
_ROWS = 160  # captions that are written side by side
_LARGEST = 8_192  # of any size in a configuration but the vocabulary's


class CocaCaptioner:
    """K captions a picture by one CoCa."""

    def __init__(
        self, model: Any, transform: Any, options: Options, stage: str, about: Mapping[str, Any] | None = None
    ) -> None:
        self.device = torch.device(options.device)
        self.dtype = torch.bfloat16 if options.bf16 else torch.float32
        self.decoder = CocaDecoder(model.to(self.device, self.dtype))
        self.transform, self.options, self.stage = transform, options, stage
        if options.max_tokens > self.decoder.limit + 1:
            raise DataError(
                f"{stage}.max_tokens is {options.max_tokens}: this CoCa sees {self.decoder.limit} tokens, so "
                f"{self.decoder.limit + 1} are allowed."
            )
        self.provenance: Mapping[str, Any] = {
            "captioner": "coca",
            **(about or {}),
            "licence": options.licence,
            **options.sampled,
            "bf16": options.bf16,
        }

    @classmethod
    def load(cls, options: Options, stage: str) -> "CocaCaptioner":
        """The model that options name.

        Raises:
            CheckpointError, UnknownName: it is not there, or cannot be read or decoded.
        """
        config, weights = _found(options)
        model = built(config["model_cfg"], weights)
        about = {"model": options.model, "weights": options.weights or weights.name, "sha256": sha256_of(weights)}
        return cls(model, transform_of(model, config.get("preprocess_cfg", {})), options, stage, about)

    def __call__(self, asks: Sequence[Ask], kept: Kept | None = None) -> list[Answer]:
        answers: list[Answer] = []
        size = max(1, min(self.options.batch, _ROWS // self.options.k))
        for first in range(0, len(asks), size):
            found = self._some(asks[first : first + size])
            for number, answer in enumerate(found if kept is not None else ()):
                assert kept is not None
                kept(first + number, answer)
            answers += found
        return answers

    def _some(self, asks: Sequence[Ask]) -> list[Answer]:
        options = self.options
        pictures = [ask.pixels for ask in asks if ask.pixels is not None]
        pixels = torch.stack([self.transform(picture(found)) for found in pictures])
        found = self.decoder.generate(
            pixels.to(self.device, self.dtype),
            row_keys([ask.uid for ask in asks], self.stage, options.k, options.seed),
            seq_len=options.max_tokens,
            min_seq_len=min(options.min_tokens or _MIN_SEQ_LEN, options.max_tokens - 1),
            top_p=options.top_p if options.sampling == "top_p" else None,
            temperature=options.temperature,
            repetition_penalty=options.repetition_penalty,
            sot=START,
            eos=END,
        )
        return [answer_of(found, at) for at in range(len(asks))]


def answer_of(found: Generated, at: int) -> Answer:
    """Image `at` of what was generated, as texts."""
    tokens, length = found.tokens[at].tolist(), found.length[at].tolist()
    return Answer(
        texts=tuple(_text(row) for row in tokens),
        lp=tuple(
            total / count if count else None for total, count in zip(found.logprob[at].tolist(), length, strict=True)
        ),
        n_tok=tuple(length),
        ended=tuple(found.ended[at].tolist()),
    )


def _text(ids: Sequence[int]) -> str:
    """Up to the end or the padding; an id that the tokenizer does not have is left out."""
    inside = []
    for token in ids[1:]:
        if token in (END, PAD):
            break
        if token < VOCABULARY and token != START:
            inside.append(token)
    return decode(inside).strip()


def transform_of(model: Any, preprocess: Mapping[str, Any]) -> Any:
    """What a model's pictures go through before it: PIL image -> float32 [3, S, S]."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    known = {"mean", "std", "interpolation", "resize_mode", "fill_color"}
    given = {name: value for name, value in preprocess.items() if name in known and value is not None}
    try:
        return image_transform_v2(PreprocessCfg(size=model.visual.image_size, **given), is_train=False)
    except Exception as error:  # open_clip asserts and torchvision raises what they do not know
        raise CheckpointError(f"the model's preprocess_cfg {given} is none ({error}): correct {CONFIG}.") from error


def built(config: Mapping[str, Any], weights: Path) -> Any:
    """A CoCa of an open_clip `model_cfg` with the weights of a file.

    Raises:
        CheckpointError: the configuration is no CoCa's, or the file does not fit it.
    """
    from open_clip.coca_model import CoCa

    parts = ("text_cfg", "vision_cfg", "multimodal_cfg")
    if any(not isinstance(config.get(part), Mapping) for part in parts):
        raise CheckpointError(
            f"the model for '{weights}' is no CoCa: its configuration lacks one of {', '.join(parts)}."
        )
    foreign = [name for part in parts for name in config[part] if name.startswith(("hf_", "timm_"))]
    if foreign:
        raise CheckpointError(
            f"the model for '{weights}' has a tower of another library ({foreign[0]}), in which captions cannot be "
            "decoded token by token: take one of open_clip's own towers, such as coca_ViT-L-14."
        )
    _require_bounded(config, weights)
    values = {name: value for name, value in config.items() if name != "custom_text"}
    try:
        with torch.device("meta"):
            model = CoCa(**values)
    except Exception as error:  # whatever a configuration that is none makes open_clip raise
        reason = " ".join(str(error).split())[:160]
        raise CheckpointError(f"the configuration for '{weights}' builds no CoCa ({reason}): correct it.") from error
    tensors = read_weights(weights)
    _fill(model, {name: value for name, value in tensors.items() if not name.endswith("attn_mask")}, weights)
    return model.eval().requires_grad_(False)


def _fill(model: Any, tensors: Mapping[str, Tensor], weights: Path) -> None:
    """Give a model on no device its memory and its weights; only when they fit."""
    places = model.state_dict()
    scalars = [name for name in tensors if name in places and tensors[name].numel() == places[name].numel() == 1]
    tensors = {**tensors, **{name: tensors[name].reshape(places[name].shape) for name in scalars}}
    misfits = {
        "missing": [name for name in places if name not in tensors],
        "unexpected": [name for name in tensors if name not in places],
        "of another shape": [name for name in places if name in tensors and tensors[name].shape != places[name].shape],
    }
    if any(misfits.values()):
        parts = [f"{len(names)} {what} ({some(names)})" for what, names in misfits.items() if names]
        raise CheckpointError(
            f"'{weights}' does not fit the CoCa that was asked for: of {len(tensors)} tensors there are "
            f"{', '.join(parts)}; give the file of that model."
        )
    for name, value in tensors.items():
        require_finite(name, value, f"'{weights}'")
    model.to_empty(device="cpu")
    model.load_state_dict(tensors, strict=True)
    model.text.register_buffer("attn_mask", model.text.build_causal_mask(), persistent=False)
    decoder = model.text_decoder
    decoder.register_buffer("attn_mask", decoder.build_attention_mask(), persistent=False)


def _require_bounded(config: Mapping[str, Any], weights: Path) -> None:
    for part, values in config.items():
        for name, value in values.items() if isinstance(values, Mapping) else [(part, values)]:
            if isinstance(value, int) and not 0 <= value <= (_LARGEST if name != "vocab_size" else 1_000_000):
                raise CheckpointError(
                    f"the configuration for '{weights}' says {name} = {value}: 0 to {_LARGEST:,} is allowed."
                )


def _found(options: Options) -> tuple[dict[str, Any], Path]:
    """The configuration of a model and the file of its weights."""
    folder = Path(options.model)
    if folder.is_dir():
        config = read_json(folder / CONFIG)
        names = [options.weights] if options.weights else list(WEIGHTS)
        weights = next((folder / name for name in names if (folder / name).is_file()), None)
        if weights is None or not isinstance(config.get("model_cfg"), dict):
            raise CheckpointError(f"'{folder}' holds no CoCa: {CONFIG} with a model_cfg and one of {', '.join(names)}.")
        return config, weights
    return _by_name(options)


def _by_name(options: Options) -> tuple[dict[str, Any], Path]:
    """By open_clip's tables."""
    import open_clip
    from open_clip import pretrained

    known = [name for name in open_clip.list_models() if name.startswith("coca")]
    if options.model not in known:
        raise UnknownName("CoCa model, or folder of one", options.model, known)
    config: dict[str, Any] = {"model_cfg": open_clip.get_model_config(options.model)}
    if Path(options.weights).is_file():
        return config, Path(options.weights)
    settings = pretrained.get_pretrained_cfg(options.model, options.weights)
    if not settings:
        raise UnknownName(
            f"weights of {options.model}",
            options.weights or "(none)",
            pretrained.list_pretrained_tags_by_model(options.model) or ["a file"],
        )
    try:
        found = pretrained.download_pretrained(settings, prefer_hf_hub=True)
    except Exception as error:  # open_clip, its client and its transport raise each their own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")
        raise CheckpointError(
            f"'{options.model}:{options.weights}' could not be fetched ({reason}): go online, or give a file of its "
            "weights."
        ) from error
    return config | {"preprocess_cfg": settings}, Path(found)
