"""CoCa models of open_clip's real classes, small and seeded, and open_clip's own `generate` to compare with."""

import json
from pathlib import Path
from typing import Any

import torch
from open_clip import coca_model
from open_clip.coca_model import CoCa
from safetensors.torch import save_model

SIZE = 32
"""Pixels a side of its pictures."""


def config(
    vocabulary: int = 100, context: int = 24, width: int = 32, layers: int = 2, heads: int = 4, **text: Any
) -> dict[str, Any]:
    """A `model_cfg` as open_clip has it; `text` goes to the text tower alone."""
    both = {"context_length": context, "vocab_size": vocabulary, "width": width, "heads": heads, "layers": layers}
    scale = {name: text.pop(name) for name in ("ls_init_value",) if name in text}
    return {
        "embed_dim": width,
        "multimodal_cfg": {**both, **scale},
        "text_cfg": {**both, **scale, "embed_cls": True, "output_tokens": True, **text},
        "vision_cfg": {
            "image_size": SIZE,
            "layers": 2,
            "width": 48,
            "patch_size": 8,
            "head_width": 16,
            "attentional_pool": True,
            "attn_pooler_heads": 4,
            "attn_pooler_queries": 9,
            "output_tokens": True,
        },
    }


def small(seed: int = 0, correct_cls_mask: bool = False, **options: Any) -> CoCa:
    """A CoCa with weights that are drawn large enough for its captions to differ by picture."""
    model = CoCa(**config(**options)).eval()
    model.text.correct_cls_mask = correct_cls_mask
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            if value.ndim and "ln_" not in name:
                value.normal_(0, 0.3 if value.ndim > 1 else 0.1, generator=generator)
    return model


def saved(folder: Path, seed: int = 0) -> Path:
    """A folder with a CoCa of CLIP's vocabulary that captions can be written with."""
    options = {"vocabulary": 49_408, "context": 32}
    model = small(seed, **options)
    with torch.no_grad():  # a few hundred tokens are likely, and the end is among them
        model.text_decoder.text_projection[:, 5_000:49_407] *= 0.2
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(folder / "open_clip_model.safetensors"))
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic"}
    document = {"model_cfg": config(**options), "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    return folder


def with_generate() -> None:
    """Give open_clip 3.3 its `generate` back, which it lacks beside transformers 5: beam search's parts are gone there.

    Nothing is replaced: the names that it wants are those of transformers, without beam search's.
    """
    import transformers

    if coca_model._has_transformers:
        return
    names = ("TopPLogitsWarper", "TopKLogitsWarper", "RepetitionPenaltyLogitsProcessor", "MinLengthLogitsProcessor")
    for name in (*names, "LogitsProcessorList", "MaxLengthCriteria", "StoppingCriteriaList"):
        setattr(coca_model, name, getattr(transformers, name))
    coca_model.GENERATION_TYPES.update(top_k=transformers.TopKLogitsWarper, top_p=transformers.TopPLogitsWarper)
    coca_model._has_transformers = True
