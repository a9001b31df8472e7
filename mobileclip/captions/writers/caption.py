"""Stage "caption": K captions of every picture by a captioner: CoCa, a transformers model, or a server.

    [[stage]]
    kind = "caption"
    captioner = "coca"
    model = "coca_ViT-L-14"
    weights = "mscoco_finetuned_laion2b_s13b_b90k"
    k = 5
    first_sentence = true

    [[stage]]
    kind = "caption"
    name = "vlm"
    captioner = "server"
    model = "Qwen/Qwen2.5-VL-7B-Instruct"
    url = "http://127.0.0.1:8000/v1"
    prompt = "Describe this image in one sentence."
    max_tokens = 60

Captioners see the pixels that all stages see, and are loaded once a process. What is drawn for a caption follows from
the sample's uid, the stage's name, the seed and the caption's number; the batch has no part in it.

Defaults of CoCa's sampling are those with which Apple's captions were made: nucleus 0.9, 30 tokens, temperature 1.
Source: Vasu et al., MobileCLIP (2024), section 4; apple/ml-mobileclip-dr.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from mobileclip.captions.stage import Batch, Columns, Everything, Prepared, checked, chosen
from mobileclip.captions.tables import file_digest
from mobileclip.captions.writers.captioner import SCHEMA, Ask, Options, Writer, columns, writer_of


@dataclass(frozen=True, kw_only=True)
class Caption(Options):
    """Captions of pictures."""

    kind: ClassVar[str] = "caption"
    version: ClassVar[int] = 1
    prepares: ClassVar[bool] = False
    divisible: ClassVar[bool] = True

    name: str = "caption"
    """What other stages call it."""
    captioner: Literal["coca", "transformers", "server"] = "coca"
    """What writes."""
    prompt: str = ""
    """What the model is asked; "" where it wants none. CoCa takes none."""

    def __post_init__(self) -> None:
        self.check(self.name, self.captioner)
        checked(not self.prompt or self.captioner != "coca", f"{self.name}.prompt is set, which CoCa does not take.")
        checked(
            bool(self.prompt) or self.captioner != "server",
            f"{self.name}.prompt is empty: say what the server is to be asked, as in 'Describe this image.'",
        )

    def needs(self) -> tuple[str, ...]:
        return ()

    def looks(self) -> bool:
        return True

    def points_at(self) -> Mapping[str, str]:
        return pointed_at(self, self.captioner)

    def prepare(self, everything: Everything) -> pa.Table | None:
        return None

    def worker(self, prepared: Prepared | None) -> "CaptionWorker":
        return CaptionWorker(self, writer_of(self, self.captioner, self.name))


class CaptionWorker:
    """Pixels -> captions."""

    schema = SCHEMA

    def __init__(self, stage: Caption, writer: Writer) -> None:
        self.stage, self.writer = stage, writer
        self.provenance: Mapping[str, Any] = {
            **writer.provenance,
            **prompted(stage.prompt),
            "first_sentence": stage.first_sentence,
        }

    def __call__(self, batch: Batch) -> Columns:
        places = chosen(batch)
        prompts = (self.stage.prompt,) if self.stage.prompt else ()
        asks = [
            Ask(uid=batch.rows[at].uid, pixels=batch.pixels[at], image=batch.images[at], prompts=prompts)
            for at in places
        ]
        return columns(batch.status, places, self.writer(asks) if asks else [], self.stage.first_sentence)


def prompted(*prompts: str) -> dict[str, Any]:
    """Prompts and their hash, as provenance says them."""
    said = [prompt for prompt in prompts if prompt]
    if not said:
        return {}
    digest = hashlib.sha256("\0".join(said).encode("utf-8", "surrogatepass")).hexdigest()
    return {"prompt": said[0] if len(said) == 1 else said, "prompt_sha256": digest}


def pointed_at(options: Options, kind: str) -> dict[str, str]:
    """Model and weights on this disk -> hashes of their content.

    Raises:
        DataError: a file cannot be read.
    """
    if kind == "server":
        return {}
    named = {"model": options.model, "weights": options.weights}
    return {name: file_digest(Path(place)) for name, place in named.items() if place and Path(place).exists()}
