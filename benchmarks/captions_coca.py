"""CoCa's captions with a key-value cache against open_clip's own `generate`: same model, same pictures, same sampling.

    python -m benchmarks.captions_coca --images 8 --rounds 3

K captions of 30 tokens a picture. open_clip's side calls `generate` K times, as Apple's generator of captions does;
ours is called once. Weights are drawn, since none are at hand: every caption runs to its limit on both sides, and the
nucleus holds most of the vocabulary, which is the dearest case of our draw. With `--sharp` logits are scaled until it
holds few tokens, as after training.

Greedy captions of both sides are compared first; nothing is timed where they differ. Then both are run in one process,
on one thread, interleaved A B B A; compared is the CPU time of the process, which neighbours on the machine disturb
less than the clock on the wall. `limit` is the time of the matrix products alone that no way of writing these captions
can leave out, measured in the same run with the same weights and numbers of rows.

open_clip 3.3 lacks `generate` beside transformers 5, in which beam search's scorer is gone: the names that it needs
besides are given to it here; nothing that it runs is changed.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import results
from benchmarks.timing import ratio_of_medians
from mobileclip.captions.writers.coca import CocaDecoder
from mobileclip.captions.writers.sampling import row_keys
from mobileclip.errors import GateFailed

CAPTIONS, TOKENS, TOP_P = 5, 30, 0.9
"""Of a picture; of a caption, start and end included; of the nucleus: as Apple's captions were made."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model."""

    name: str
    """open_clip's, or what it is like."""
    width: int | None = None
    """Of a smaller one: of both text stacks; None: open_clip's model of that name."""
    layers: int = 0
    """Of each of its three stacks."""
    sharpness: float = 1.0
    """What the logits are scaled by."""


CASES = (
    Case(name="half of ViT-B/32", width=384, layers=6),
    Case(name="half of ViT-B/32, sharp", width=384, layers=6, sharpness=6.0),
    Case(name="coca_ViT-B-32"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a table, write a result."""
    parser = argparse.ArgumentParser(prog="benchmarks captions_coca", description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "captions", help="folder")
    parser.add_argument("--images", type=int, default=8, help="in a batch")
    parser.add_argument("--rounds", type=int, default=4, help="of each side; of A B B A")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    args = parser.parse_args(argv)
    result = coca(images=args.images, rounds=args.rounds, only=args.only, progress=print)
    path = results.write(args.out, "coca", result)
    print(f"\n{table([result])}\n\nraw samples: {path}")
    return 0


def coca(
    *, images: int = 8, rounds: int = 4, only: str = "", progress: Callable[[str], object] = lambda line: None
) -> dict[str, Any]:
    """Time both sides for every case.

    Raises:
        GateFailed: greedy captions differ.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = []
        for case in CASES:
            if only in case.name:
                found.append(_measure(case, images, rounds))
                progress(_line(found[-1]))
    finally:
        torch.set_num_threads(threads)
    tools = {name: version(name) for name in ("torch", "open_clip_torch", "transformers")}
    protocol = {"order": "ABBA", "process": "one", "threads": 1, "images": images, "rounds": rounds}
    sampling = {"captions": CAPTIONS, "tokens": TOKENS, "top_p": TOP_P, "temperature": 1.0}
    return results.stamp() | {
        "study": "captions_coca",
        "tools": tools,
        "protocol": protocol,
        "sampling": sampling,
        "cases": found,
    }


def table(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: CPU seconds a picture of both sides, how many times as fast, and how far from the products alone."""
    lines = [
        "| model | open_clip, s a picture | ours | times as fast | 95 % | matrix products alone | × limit |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in (case for result in found for case in result["cases"]):
        ratio = case["ratio"]
        cells = [case["case"]["name"], f"{case['open_clip']['median_s']:.2f}", f"{case['ours']['median_s']:.3f}"]
        cells += [f"**{ratio['value']:.1f}**", f"{ratio['low']:.1f}–{ratio['high']:.1f}"]
        cells += [f"{case['limit_s']:.3f}", f"{case['ours']['median_s'] / case['limit_s']:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _line(case: dict[str, Any]) -> str:
    return (
        f"{case['case']['name']}: {case['ours']['median_s']:.3f} s of CPU a picture against "
        f"{case['open_clip']['median_s']:.2f}, {case['ratio']['value']:.1f} times as fast"
    )


def _measure(case: Case, images: int, rounds: int) -> dict[str, Any]:
    _give_generate()
    model = _model(case)
    decoder, size = CocaDecoder(model), int(model.visual.image_size[0])
    pictures = torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(0))
    keys = row_keys([str(number) for number in range(images)], "bench", CAPTIONS)
    _require_equal(model, decoder, pictures, keys)
    sides: dict[str, Callable[[], object]] = {
        "open_clip": lambda: [
            model.generate(pictures, generation_type="top_p", top_p=TOP_P, seq_len=TOKENS) for _ in range(CAPTIONS)
        ],
        "ours": lambda: decoder.generate(pictures, keys, top_p=TOP_P, seq_len=TOKENS),
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    limits = []
    for turn in range(rounds):
        for name in list(sides) if turn % 2 else list(sides)[::-1]:
            times[name].append(_clocked(sides[name], images))
        limits.append(_limit(decoder, pictures) / images)
    cpu = {name: tuple(seconds for seconds, _ in clocks) for name, clocks in times.items()}
    told = {
        name: {
            "median_s": float(np.median(cpu[name])),
            "cpu_s": list(cpu[name]),
            "wall_s": [wall for _, wall in clocks],
        }
        for name, clocks in times.items()
    }
    limit = float(np.median(limits))
    ratio = asdict(ratio_of_medians(cpu["ours"], cpu["open_clip"]))
    return {"case": asdict(case), "greedy": "equal", **told, "limit_s": limit, "ratio": ratio}


def _model(case: Case) -> Any:
    import open_clip
    from open_clip.coca_model import CoCa

    config = open_clip.get_model_config("coca_ViT-B-32")
    config.pop("custom_text")
    if case.width is not None:
        for part in ("text_cfg", "multimodal_cfg"):
            config[part] |= {"width": case.width, "layers": case.layers, "heads": case.width // 64}
        config["embed_dim"] = case.width
        config["vision_cfg"] |= {"width": 384, "layers": case.layers}
    torch.manual_seed(0)
    model = CoCa(**config).eval()
    with torch.no_grad():  # open_clip leaves it as it finds the memory
        width = model.text_decoder.text_projection.shape[0]
        model.text_decoder.text_projection.normal_(0, case.sharpness * width**-0.5)
    return model


def _require_equal(model: Any, decoder: CocaDecoder, pictures: Tensor, keys: Any) -> None:
    theirs = model.generate(pictures, generation_type="top_k", top_k=1, seq_len=TOKENS)
    ours = decoder.generate(pictures, keys[:, :1], seq_len=TOKENS)
    if not torch.equal(theirs, ours.tokens[:, 0]):
        raise GateFailed("greedy captions differ from open_clip's: a faster wrong answer is none")


@torch.inference_mode()
def _limit(decoder: CocaDecoder, pictures: Tensor) -> float:
    """CPU seconds of the matrix products: pictures, their keys and values, and each token of each caption once."""
    rows, steps = len(pictures) * CAPTIONS, TOKENS - 2
    start = time.process_time()
    _, embeddings = decoder.model._encode_image(pictures)
    products = []
    for block in (*decoder.text.transformer.resblocks, *decoder.decoder.resblocks):
        products += [block.attn.in_proj_weight, block.attn.out_proj.weight]
        products += [block.mlp.c_fc.weight, block.mlp.c_proj.weight]
    for block in decoder.decoder.cross_attn:
        width = block.attn.embed_dim
        F.linear(embeddings, block.attn.in_proj_weight[width:])
        products += [block.attn.in_proj_weight[:width], block.attn.out_proj.weight]
        products += [block.mlp.c_fc.weight, block.mlp.c_proj.weight]
    inputs = {width: torch.randn(rows, width) for width in {weight.shape[1] for weight in products}}
    x = torch.randn(rows, decoder.decoder.text_projection.shape[0])
    for _ in range(steps):
        for weight in products:
            F.linear(inputs[weight.shape[1]], weight)
        x @ decoder.decoder.text_projection
    return time.process_time() - start


def _give_generate() -> None:
    import transformers
    from open_clip import coca_model

    if coca_model._has_transformers:
        return
    names = ("TopPLogitsWarper", "TopKLogitsWarper", "RepetitionPenaltyLogitsProcessor", "MinLengthLogitsProcessor")
    for name in (*names, "LogitsProcessorList", "MaxLengthCriteria", "StoppingCriteriaList"):
        setattr(coca_model, name, getattr(transformers, name))
    coca_model.GENERATION_TYPES.update(top_k=transformers.TopKLogitsWarper, top_p=transformers.TopPLogitsWarper)
    coca_model._has_transformers = True


def _clocked(run: Callable[[], object], images: int) -> tuple[float, float]:
    """Seconds a picture: CPU of the process, wall."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return (time.process_time() - cpu) / images, (time.perf_counter() - wall) / images


if __name__ == "__main__":
    sys.exit(main())
