"""What the recipe `mci2-real` costs on a cluster: hours and money of every stage, each from a rate with its source.

    for row in stage_costs(13_000_000_000, 1_280_000_000, 64, "h100", 2.5):
        print(row.stage, row.hours, row.cost, row.source)

A plan on paper: nothing of this size was run by this project. Rates of this computer are in benchmarks/results and a
test holds the constants here against them; rates of GPUs are published ones carried over by arithmetic, and marked so.
`rates` puts your own in their place, of which one hour on one of your machines is enough. Imports nothing heavy.
docs/training-at-scale.md tells how each is reached.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Literal, NamedTuple

from mobileclip.errors import MobileClipError, UnknownName

PUBLISHED_IMAGES = 1417.0
"""Pictures a second that fastvit_mci2 encodes on an RTX 4090: timm's benchmark table, amp, eager, NCHW."""
ENCODE_GFLOP = 15.69
"""Of a picture at 256 px in the fused image encoder of MCi2 (7.85 GMACs), counted by torch."""
TRAIN_GFLOP = 64.96
"""Of a pair at 256 px in training: three times the 21.65 of a forward pass of MobileCLIP-S2, counted by torch."""
SEGMENT_GFLOP = 318.6
"""Of a picture at 512 px in finetuning MCi2 with Semantic FPN: three times twice the 53.1 GMACs of its graph."""
DETECT_GFLOP = 1700.0
"""Of a picture of 800 x 1216 with Mask R-CNN: MCi2's 31.6 GMACs at 512 px by area, and as much again for FPN and heads
beside their masks, three times twice."""
DEPTH_GFLOP = 280.0
"""Of a picture of 480 x 480 with a depth head: Semantic FPN's by area."""
HASHED = 250.6
"""Pictures a second and core that are decoded and hashed: photos of 168 kB, 500 px."""
CLEANED = 16_527.0
"""Captions a second and core that are cleaned and scored: web titles."""
LOADED = 401.3
"""Packed pictures of short side 288 a second and core that become a training batch of 256 px."""
CAPTIONED = 100.0
"""Pictures a second and GPU that get five captions: a round figure between the published ones in
docs/captions-at-scale.md, 13 of Florence-2 and 52 of a 1B model bound by its preprocessing, and CoCa with a cache."""
PACKED = 146.1
"""Pictures a second and core that are read, decoded, scaled to short side 288 and encoded again: photos of 168 kB."""
STORM = 1.0447
"""Time of caption work over its ideal where machines are taken away: the real scheduler, simulated."""
_ONE_MACHINE = 8  # GPUs that a finetuning batch of 16 to 32 pictures is divided over
_RESULTS = "benchmarks/results"
_LOOP = "loop_cpu_nano_scenes_64px_64.json"
_GPU = "published (timm: MCi2 on an RTX 4090, amp), scaled by data sheets and FLOPs"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A kind of GPU, by its maker's data sheet."""

    tflops: float
    """Dense bf16 with fp32 sums, 10**12 operations a second."""
    bandwidth: float
    """Of its memory, TB/s."""


GPUS: Mapping[str, Gpu] = {
    "rtx4090": Gpu(tflops=165.2, bandwidth=1.008),
    "l40s": Gpu(tflops=362.0, bandwidth=0.864),
    "a100": Gpu(tflops=312.0, bandwidth=2.039),
    "h100": Gpu(tflops=989.4, bandwidth=3.35),
    "h200": Gpu(tflops=989.4, bandwidth=4.8),
    "b200": Gpu(tflops=2250.0, bandwidth=8.0),
}
"""Name -> GPU (SXM forms where there are several)."""


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """One stage of a plan."""

    stage: str
    """Name; also the key of `rates`."""
    unit: str
    """What is counted."""
    work: int
    """How many of them."""
    device: Literal["GPU", "core", "machine"]
    """What does the work."""
    devices: int
    """How many of these work side by side."""
    rate: float
    """Units a second and device, with all losses."""
    source: str
    """Where the rate is from: `measured here (file)`, `published (source)`, `assumed (why)` or `given`."""
    hours: float
    """From its beginning to its end."""
    gpu_hours: float
    """Hours times GPUs; 0 where none works."""
    cost: float
    """Of its GPUs or cores, in the currency of the price."""


class _Stage(NamedTuple):
    name: str
    unit: str
    work: float
    device: Literal["GPU", "core", "machine"]
    rate: float
    source: str
    most: int = sys.maxsize


def stage_costs(
    samples_seen: int,
    pairs: int,
    gpus: int,
    gpu: str,
    price: float = 0.0,
    *,
    captioned: float = 1.0,
    kept: float = 1.0,
    finetunes: Mapping[str, int] | None = None,
    cores: int = 12,
    core_price: float = 0.0,
    efficiency: float = 0.9,
    rates: Mapping[str, float] | None = None,
) -> tuple[StageCost, ...]:
    """Hours and cost of every stage of `mci2-real`, in the order in which they run.

    Args:
        samples_seen: pairs that training looks at, with repetitions.
        pairs: of the corpus.
        gpus: that there are.
        gpu: key of `GPUS`.
        price: of one GPU for an hour, its machine with it; 0 where cost is not asked.
        captioned: share of the pairs that a captioner writes for; the rest keeps its web text.
        kept: share of the pairs that is packed.
        finetunes: dense task -> pictures seen; the published protocols where left out.
        cores: of CPUs beside each GPU.
        core_price: of one core for an hour in stages without a GPU; 0 where the machines of the GPUs do them.
        efficiency: of training on all GPUs over one alone.
        rates: stage -> your own units a second and device, in place of the figures here.

    Raises:
        UnknownName: no such GPU, task or stage.
        MobileClipError: a number that none of it can have.
    """
    if gpu not in GPUS:
        raise UnknownName("GPU", gpu, GPUS)
    seen = dict(PROTOCOLS) if finetunes is None else dict(finetunes)
    for task in seen:
        if task not in PROTOCOLS:
            raise UnknownName("dense task", task, PROTOCOLS)
    _check(
        {"samples_seen": samples_seen, "pairs": pairs, "gpus": gpus, "cores": cores},
        {"captioned": captioned, "kept": kept, "efficiency": efficiency},
        {"price": price, "core_price": core_price, **{f"{task} pictures": count for task, count in seen.items()}},
    )
    stages = [
        *_captions(pairs, captioned, gpu),
        *_training(samples_seen, round(pairs * kept), gpu, cores, efficiency),
        *_heads(seen, gpu),
        *_afterwards(),
    ]
    own = dict(rates or {})
    for name, rate in own.items():
        if name not in {stage.name for stage in stages}:
            raise UnknownName("stage", name, [stage.name for stage in stages])
        _check({f"the rate of {name}": rate}, {}, {})
    count = {"GPU": gpus, "core": gpus * cores, "machine": 1}
    return tuple(
        _cost(stage, min(count[stage.device], stage.most), own.get(stage.name), price, core_price) for stage in stages
    )


PROTOCOLS: Mapping[str, int] = {
    "segmentation": 40_000 * 32,
    "detection": 12 * 117_266,
    "depth": 25 * 24_231,
}
"""Dense task -> pictures seen: 40,000 steps of 32 of ADE20K, 12 epochs of COCO, 25 epochs of NYUv2."""


def encoded(gpu: str) -> float:
    """Pictures of 256 px that MCi2 encodes in a second on a GPU: the published rate of one, carried over by the smaller
    of arithmetic and bandwidth, for depthwise convolutions wait for memory."""
    known, base = GPUS[gpu], GPUS["rtx4090"]
    return PUBLISHED_IMAGES * min(known.tflops / base.tflops, known.bandwidth / base.bandwidth)


def at(gpu: str, gflop: float) -> float:
    """Units of so many GFLOP a second, at the arithmetic speed at which pictures are encoded."""
    return encoded(gpu) * ENCODE_GFLOP / gflop


def total(costs: tuple[StageCost, ...]) -> tuple[float, float, float]:
    """Hours one after the other, GPU-hours, cost."""
    return sum(row.hours for row in costs), sum(row.gpu_hours for row in costs), sum(row.cost for row in costs)


def _captions(pairs: int, captioned: float, gpu: str) -> list[_Stage]:
    written = pairs * captioned
    where = f"measured here ({_RESULTS}/captions/"
    rows = [
        _Stage("captions: images", "pictures", pairs, "core", HASHED, f"{where}captions_images.json)"),
        _Stage("captions: clean", "captions", pairs, "core", CLEANED, f"{where}text.json)"),
        _Stage("captions: embed", "pictures", pairs, "GPU", encoded(gpu), _GPU),
        _Stage(
            "captions: write",
            "pictures, 5 captions each",
            written,
            "GPU",
            CAPTIONED,
            "assumed (docs/captions-at-scale.md: published captioners write for 1 to 52 a second)",
        ),
        _Stage("captions: clean what was written", "captions", 5 * written, "core", CLEANED, f"{where}text.json)"),
    ]
    return [stage._replace(rate=stage.rate / STORM) for stage in rows]


def _training(samples_seen: int, packed: int, gpu: str, cores: int, efficiency: float) -> list[_Stage]:
    step, input_ = at(gpu, TRAIN_GFLOP) * efficiency, LOADED * cores
    source = f"{_GPU}; {efficiency:g} of it on all GPUs (assumed)"
    if input_ < step:
        source = f"measured here ({_RESULTS}/train/loader.json): {cores} cores a GPU feed less than it could train on"
    return [
        _Stage("pack", "pictures", packed, "core", PACKED, f"measured here ({_RESULTS}/train/{_LOOP})"),
        _Stage("train", "samples seen", samples_seen, "GPU", min(step, input_), source),
    ]


def _heads(seen: Mapping[str, int], gpu: str) -> list[_Stage]:
    gflop = {"segmentation": SEGMENT_GFLOP, "detection": DETECT_GFLOP, "depth": DEPTH_GFLOP}
    return [
        _Stage(f"finetune {task}", "pictures seen", count, "GPU", at(gpu, gflop[task]), _GPU, _ONE_MACHINE)
        for task, count in seen.items()
    ]


def _afterwards() -> list[_Stage]:
    guess = "assumed (minutes on one machine; nothing in it grows with the corpus)"
    return [_Stage("export, verify, bench, report, apps", "bundles", 2, "machine", 2 / 3600, guess)]


def _cost(stage: _Stage, devices: int, own: float | None, price: float, core_price: float) -> StageCost:
    rate = stage.rate if own is None else own
    hours = stage.work / (rate * devices) / 3600
    on_gpus = stage.device == "GPU"
    return StageCost(
        stage=stage.name,
        unit=stage.unit,
        work=round(stage.work),
        device=stage.device,
        devices=devices,
        rate=rate,
        source=stage.source if own is None else "given",
        hours=hours,
        gpu_hours=hours * devices if on_gpus else 0.0,
        cost=hours * devices * (price if on_gpus else core_price),
    )


def _check(counts: Mapping[str, float], shares: Mapping[str, float], amounts: Mapping[str, float]) -> None:
    for name, value in counts.items():
        if not (isfinite(value) and value > 0):
            raise MobileClipError(f"{name} is {value}: a plan needs more than 0.")
    for name, value in shares.items():
        if not 0 < value <= 1:
            raise MobileClipError(f"{name} is {value}: it is a share, above 0 and at most 1.")
    for name, value in amounts.items():
        if not (isfinite(value) and value >= 0):
            raise MobileClipError(f"{name} is {value}: it can be 0 or more.")
