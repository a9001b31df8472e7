"""Named finetunings: each is a function that returns a complete `Finetune`; a variant calls another and replaces.

    recipe = recipe_of("ade-semfpn", {"batch": "16", "labels": "0.1"})

Sources: the protocols of mmsegmentation, mmdetection, Swin-Transformer, ConvNeXt, PoolFormer, MIM-Depth-Estimation,
BTS and DINOv3, as each function names them. `-mci2` marks what we start from for MCi2 where no protocol was published.
Imports nothing heavy.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mobileclip.dense.plan import Finetune, check
from mobileclip.recipes import overridden


def ade_semfpn() -> Finetune:
    """ADE20K with Semantic FPN 256/128 for 40 k steps of 32 (PVT, PoolFormer, FastViT, RepViT)."""
    return Finetune(
        name="ade-semfpn",
        head="semfpn",
        size=(512, 512),
        transform="ade",
        batch=32,
        steps=40_000,
        lr=2e-4,
        weight_decay=1e-4,
        schedule="poly",
        power=0.9,
        save_every=4_000,
        evaluate_every=4_000,
    )


def ade_semfpn_phone() -> Finetune:
    """`ade-semfpn` with the phone's head, 128/128."""
    return replace(ade_semfpn(), name="ade-semfpn-phone", head="semfpn_phone")


def ade_semfpn_mci2() -> Finetune:
    """`ade-semfpn`, where we start for MCi2: rates by stage, drop path, BatchNorm that joins in after a while."""
    return replace(
        ade_semfpn(),
        name="ade-semfpn-mci2",
        weight_decay=0.05,
        warmup=1500,
        warmup_factor=1e-6,
        lr_decay=0.85,
        drop_path=0.2,
        bn="sync",
        frozen_bn_steps=1500,
    )


def ade_uper() -> Finetune:
    """ADE20K with UPerNet 512 and its auxiliary head for 160 k steps of 16, as for Swin (mmsegmentation)."""
    return Finetune(
        name="ade-uper",
        head="uper",
        size=(512, 512),
        transform="ade",
        batch=16,
        steps=160_000,
        lr=6e-5,
        weight_decay=0.01,
        warmup=1500,
        warmup_factor=1e-6,
        schedule="poly",
        power=1.0,
        drop_path=0.3,
        save_every=16_000,
        evaluate_every=16_000,
    )


def ade_uper_phone() -> Finetune:
    """`ade-uper` with the phone's head, 128 channels."""
    return replace(ade_uper(), name="ade-uper-phone", head="uper_phone")


def ade_uper_convnext() -> Finetune:
    """`ade-uper` as for ConvNeXt-B: rates by stage."""
    return replace(ade_uper(), name="ade-uper-convnext", lr=1e-4, weight_decay=0.05, lr_decay=0.9, drop_path=0.4)


def ade_uper_640() -> Finetune:
    """`ade-uper` at 640, in windows every 426 pixels, as for Swin-L from ImageNet-22k."""
    return replace(ade_uper(), name="ade-uper-640", size=(640, 640), evaluation="slide", crop=640, stride=426)


def ade_uper_vit() -> Finetune:
    """`ade-uper` as for ViT-B (MAE, BEiT): 768 channels, rates by block, measured in windows."""
    return replace(
        ade_uper(),
        name="ade-uper-vit",
        args={"width": 768},
        lr=1e-4,
        weight_decay=0.05,
        lr_decay=0.65,
        decay_by="layer",
        drop_path=0.1,
        evaluation="slide",
        crop=512,
        stride=256,
    )


def ade_uper_dbot() -> Finetune:
    """`ade-uper-vit` at the rate of dBOT, which MobileCLIP2's table 11 is nearest to."""
    return replace(ade_uper_vit(), name="ade-uper-dbot", lr=7e-4)


def ade_linear() -> Finetune:
    """ADE20K, one affine layer on the frozen encoder's last map (DINOv3, config-ade20k-linear-training)."""
    return Finetune(
        name="ade-linear",
        head="seg_linear",
        size=(512, 512),
        transform="ade",
        batch=16,
        steps=40_000,
        lr=1e-3,
        weight_decay=1e-3,
        warmup=1500,
        schedule="cosine",
        freeze=True,
        evaluation="slide",
        crop=512,
        stride=341,
        save_every=4_000,
        evaluate_every=10_000,
    )


def coco_1x() -> Finetune:
    """COCO with Mask R-CNN for 12 epochs at one scale (PVT, PoolFormer, FastViT, RepViT)."""
    return Finetune(
        name="coco-1x",
        head="mask_rcnn",
        size=(800, 1344),
        transform="coco_1x",
        batch=16,
        epochs=12,
        lr=2e-4,
        lr_batch=16,
        weight_decay=1e-4,
        warmup=500,
        warmup_factor=1e-3,
        schedule="drops",
        drops=(8, 11),
        save_every=2_000,
    )


def coco_1x_phone() -> Finetune:
    """`coco-1x` with the phone's head, 128 channels, at 512."""
    return replace(coco_1x(), name="coco-1x-phone", head="mask_rcnn_phone", size=(512, 512))


def coco_1x_mci2() -> Finetune:
    """`coco-1x`, where we start for MCi2."""
    return replace(coco_1x(), name="coco-1x-mci2", weight_decay=0.05, lr_decay=0.9)


def coco_3x() -> Finetune:
    """COCO with Mask R-CNN for 36 epochs at many scales, as for Swin-T and -S."""
    return replace(
        coco_1x(),
        name="coco-3x",
        transform="coco_3x",
        epochs=36,
        drops=(27, 33),
        lr=1e-4,
        weight_decay=0.05,
        drop_path=0.2,
    )


def coco_3x_convnext() -> Finetune:
    """`coco-3x` as for ConvNeXt-T: rates by six groups of blocks."""
    return replace(coco_3x(), name="coco-3x-convnext", lr_decay=0.95, decay_by="bucket", buckets=6)


def coco_onestage() -> Finetune:
    """COCO with the phone's one-stage detector at 512: the rates of `coco-3x`, averaged weights."""
    return replace(
        coco_3x(),
        name="coco-onestage",
        head="onestage",
        size=(512, 512),
        transform="coco_lsj",
        transform_args={"scale": [0.5, 1.5]},
        lr=2e-4,
        lr_decay=0.9,
        drop_path=0.1,
        clip=10.0,
        ema=0.9998,
    )


def coco_linear() -> Finetune:
    """COCO, one 1x1 convolution a branch on the frozen encoder's maps."""
    return replace(
        coco_onestage(), name="coco-linear", head="det_linear", epochs=12, drops=(8, 11), freeze=True, drop_path=0.0
    )


def nyu_depth() -> Finetune:
    """NYUv2 for 25 epochs of 24 (MIM-Depth-Estimation, SwinV2-B)."""
    return Finetune(
        name="nyu-depth",
        head="depth",
        size=(480, 480),
        transform="nyu",
        batch=24,
        epochs=25,
        lr=5e-4,
        weight_decay=0.05,
        schedule="up_down",
        power=0.9,
        end_lr=3e-5,
        lr_decay=0.9,
        decay_by="layer",
        drop_path=0.3,
        save_every=1_000,
        evaluate_every=5_000,
    )


def nyu_depth_phone() -> Finetune:
    """`nyu-depth` with the phone's head: 32 channels, a quarter of the resolution."""
    return replace(nyu_depth(), name="nyu-depth-phone", head="depth_phone")


def nyu_depth_mci2() -> Finetune:
    """`nyu-depth`, where we start for MCi2: rates by stage."""
    return replace(nyu_depth(), name="nyu-depth-mci2", lr_decay=0.8, decay_by="stage")


def nyu_vpd() -> Finetune:
    """`nyu-depth` as VPD has it."""
    return replace(nyu_depth(), name="nyu-vpd", weight_decay=0.1)


def nyu_bts() -> Finetune:
    """NYUv2 for 50 epochs as BTS has it: the inner part of the picture, rotated a little, then 416 x 544."""
    return replace(
        nyu_depth(),
        name="nyu-bts",
        size=(416, 544),
        transform="nyu_bts",
        epochs=50,
        lr=1e-4,
        schedule="poly",
        end_lr=1e-5,
        lr_decay=1.0,
        drop_path=0.0,
        eval_size=(480, 640),
    )


def nyu_linear() -> Finetune:
    """NYUv2, one affine layer to 256 bins on the frozen encoder's maps (DINOv3, config-nyu)."""
    return Finetune(
        name="nyu-linear",
        head="depth_linear",
        size=(416, 544),
        transform="nyu_bts",
        batch=16,
        steps=38_400,
        lr=3e-4,
        weight_decay=1e-4,
        clip=35.0,
        warmup=1500,
        schedule="cosine",
        freeze=True,
        eval_size=(480, 640),
        flip=True,
        save_every=4_000,
        evaluate_every=9_600,
    )


def scenes_segmentation() -> Finetune:
    """Procedural scenes with a nano encoder: a minute or two on two cores."""
    return Finetune(
        name="scenes-segmentation",
        head="semfpn",
        args={"neck": 64, "width": 64},
        size=(96, 96),
        model="nano_scenes",
        transform="scenes",
        batch=16,
        steps=300,
        lr=3e-3,
        weight_decay=0.05,
        clip=1.0,
        warmup=30,
        warmup_factor=0.05,
        schedule="poly",
        power=0.9,
        lr_decay=0.6,
        bn="live",
        precision="fp32",
        save_every=150,
        log_every=25,
    )


def scenes_detection() -> Finetune:
    """`scenes-segmentation` with the one-stage detector."""
    return replace(
        scenes_segmentation(), name="scenes-detection", head="onestage", args={"width": 32}, ema=0.99, clip=10.0
    )


def scenes_depth() -> Finetune:
    """`scenes-segmentation` with the depth head."""
    return replace(scenes_segmentation(), name="scenes-depth", head="depth_phone", args={})


RECIPES: Mapping[str, Callable[[], Finetune]] = {
    "ade-semfpn": ade_semfpn,
    "ade-semfpn-phone": ade_semfpn_phone,
    "ade-semfpn-mci2": ade_semfpn_mci2,
    "ade-uper": ade_uper,
    "ade-uper-phone": ade_uper_phone,
    "ade-uper-convnext": ade_uper_convnext,
    "ade-uper-640": ade_uper_640,
    "ade-uper-vit": ade_uper_vit,
    "ade-uper-dbot": ade_uper_dbot,
    "ade-linear": ade_linear,
    "coco-1x": coco_1x,
    "coco-1x-phone": coco_1x_phone,
    "coco-1x-mci2": coco_1x_mci2,
    "coco-3x": coco_3x,
    "coco-3x-convnext": coco_3x_convnext,
    "coco-onestage": coco_onestage,
    "coco-linear": coco_linear,
    "nyu-depth": nyu_depth,
    "nyu-depth-phone": nyu_depth_phone,
    "nyu-depth-mci2": nyu_depth_mci2,
    "nyu-vpd": nyu_vpd,
    "nyu-bts": nyu_bts,
    "nyu-linear": nyu_linear,
    "scenes-segmentation": scenes_segmentation,
    "scenes-detection": scenes_detection,
    "scenes-depth": scenes_depth,
}
"""Name -> function that gives the recipe."""


def recipe_of(name: str, overrides: Mapping[str, Any] | None = None) -> Finetune:
    """The recipe called `name` with some fields replaced; texts are read as the field's type.

    Raises:
        UnknownName: no such recipe, model, head or field.
        TrainingError: a value that the field cannot hold, or fields that exclude each other.
    """
    if overrides and str(overrides.get("qat", "")).lower() in ("true", "1", "yes"):
        overrides = {**_rounding(overridden(name, RECIPES, None)), **overrides}
    recipe = overridden(name, RECIPES, overrides)
    if overrides and ("steps" in overrides) != ("epochs" in overrides):  # the one that is asked for holds
        recipe = replace(recipe, epochs=0) if "steps" in overrides else replace(recipe, steps=0)
    check(recipe)
    return recipe


def _rounding(recipe: Finetune) -> dict[str, Any]:
    """What --qat changes in a recipe unless it is set: a tenth of the training at a tenth of its rate, one for all."""
    length = {"epochs": max(recipe.epochs // 10, 1)} if recipe.epochs else {"steps": max(recipe.steps // 10, 1)}
    return {
        **length,
        "warmup": min(recipe.warmup, max(recipe.steps // 100, 1)) if recipe.warmup else 0,
        "lr": recipe.lr / 10,
        "end_lr": 0.0,
        "schedule": "cosine",
        "weight_decay": 0.0,
        "drop_path": 0.0,
        "ema": 0.0,
        "keep_head": True,
    }
