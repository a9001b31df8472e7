"""Latencies of phones that were published by others. They stand in a column of their own and are never mixed with what
was measured here: another protocol, another day, another file."""

from dataclasses import dataclass

MODEL_BENCH = "iPhone 12 Pro Max, Core ML fp16, ModelBench"
"""How Apple's papers measured: dummy input, default compute units, 20 rounds of 50 runs with a new load each."""
_CLIP = "Vasu et al., MobileCLIP (CVPR 2024)"
_DR = "Faghri et al., MobileCLIP2 (TMLR 2025)"


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published latency."""

    ms: float
    device: str
    source: str


PUBLISHED: dict[tuple[str, str], Published] = {
    (model, view): Published(ms=ms, device=MODEL_BENCH, source=source)
    for model, image, text, source in (
        ("mobileclip_s0", 1.5, 1.6, _CLIP),
        ("mobileclip_s1", 2.5, 3.3, _CLIP),
        ("mobileclip_s2", 3.6, 3.3, _CLIP),
        ("mobileclip_b", 10.4, 3.3, _CLIP),
        ("mobileclip2_s2", 3.6, 3.3, _DR),
        ("mci0", 1.5, None, _CLIP),
        ("mci1", 2.5, None, _CLIP),
        ("mci2", 3.6, None, _CLIP),
        ("vit_b16", 10.4, None, _CLIP),
    )
    for view, ms in (("image", image), ("text", text))
    if ms is not None
}
"""(model, view) -> what was published of it."""


def published(model: str, view: str) -> Published | None:
    """What was published of a model's view, if anything."""
    return PUBLISHED.get((model, view))
