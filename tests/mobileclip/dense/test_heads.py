"""Segmentation and depth heads against other people's implementations, plain formulas and published sizes."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import FeaturePyramidNetwork
from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

import mobileclip
from mobileclip.config import config_of
from mobileclip.dense.config import DenseConfig
from mobileclip.dense.model import build, build_head
from mobileclip.dense.samples import Targets
from mobileclip.models import seed_weights
from mobileclip.models.heads.depth import silog
from mobileclip.models.heads.linear import FLOOR

CHANNELS = (8, 16, 24, 32)
MCI2 = (80, 160, 320, 640)
SEGMENTATION = ("semfpn", "uper", "seg_linear")
DEPTH = ("depth", "depth_phone", "depth_linear")


def config(head: str, classes: int = 5, **args: object) -> DenseConfig:
    labels = () if head.startswith("depth") else tuple(f"class {index}" for index in range(classes))
    return DenseConfig(encoder=config_of("nano"), head=head, size=(64, 96), labels=labels, args=args)


def head_of(name: str, **args: object) -> Any:
    head = build_head(config(name, **({"width": 16} if name == "uper" else {}), **args), CHANNELS)
    seed_weights(head, 1)
    return head.eval()


def maps() -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(2, c, 64 // s, 96 // s) for c, s in zip(CHANNELS, (4, 8, 16, 32), strict=True)]


def targets() -> Targets:
    torch.manual_seed(1)
    labels = torch.randint(0, 5, (2, 64, 96))
    labels[:, :8] = 255
    depth = torch.rand(2, 64, 96) * 8
    depth[:, :8] = 0
    return Targets(sizes=((64, 96),) * 2, labels=labels, depth=depth)


@torch.no_grad()
def test_upernet_equals_that_of_transformers() -> None:
    backbone = ConvNextConfig(
        hidden_sizes=list(CHANNELS), depths=[1] * 4, out_features=[f"stage{i}" for i in range(1, 5)]
    )
    theirs = UperNetForSemanticSegmentation(
        UperNetConfig(
            backbone_config=backbone, hidden_size=16, auxiliary_channels=12, auxiliary_in_channels=24, num_labels=5
        )
    ).eval()
    seed_weights(theirs, 2)
    ours = head_of("uper", aux=12)
    names = {
        "decode_head.classifier": "classify",
        "decode_head.bottleneck": "bottleneck",
        "decode_head.fpn_bottleneck": "joined",
        **{f"decode_head.psp_modules.{i}.1": f"pooled.{i}" for i in range(4)},
        **{f"decode_head.lateral_convs.{i}": f"lateral.{i}" for i in range(3)},
        **{f"decode_head.fpn_convs.{i}": f"output.{i}" for i in range(3)},
        "auxiliary_head.convs.0": "auxiliary",
        "auxiliary_head.classifier": "auxiliary.4",
    }
    state = {}
    for theirs_name, ours_name in names.items():
        for key, value in theirs.state_dict().items():
            if key.startswith(theirs_name + "."):
                rest = key.removeprefix(theirs_name + ".").replace("conv.", "0.").replace("batch_norm.", "1.")
                state[f"{ours_name}.{rest}"] = value
    ours.load_state_dict(state)
    x = maps()
    torch.testing.assert_close(ours(x), theirs.decode_head(x))
    torch.testing.assert_close(ours.auxiliary(x[2]), theirs.auxiliary_head(x))


@torch.no_grad()
def test_semantic_fpn_equals_torchvisions_neck_and_plain_sums() -> None:
    head = head_of("semfpn", neck=12, width=10)
    neck = FeaturePyramidNetwork(list(CHANNELS), 12).eval()
    own = head.neck.state_dict()
    neck.load_state_dict(
        {
            f"{block}_blocks.{i}.0.{part}": own[f"{name}.{i}.{part}"]
            for block, name in (("inner", "lateral"), ("layer", "output"))
            for i in range(4)
            for part in ("weight", "bias")
        }
    )
    x = maps()
    levels = list(neck(dict(zip("abcd", x, strict=True))).values())
    total = torch.zeros(2, 10, 16, 24)
    for index, level in enumerate(levels):
        layers = [layer for layer in head.levels[index] if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)]
        assert len(layers) == 2 * max(1, index)
        for conv, norm in zip(layers[::2], layers[1::2], strict=True):
            level = F.relu(norm(conv(level)))
            if index:
                level = F.interpolate(level, scale_factor=2, mode="bilinear", align_corners=False)
        total += level
    torch.testing.assert_close(head(x), head.classify(total))


@pytest.mark.parametrize(
    ("head", "args", "millions"),
    [
        ("uper", {"aux": 0}, 30.6),
        ("uper", {"width": 256, "aux": 0}, 8.8),
        ("uper_phone", {"aux": 0}, 2.8),
        ("semfpn", {}, 4.3),
        ("semfpn_phone", {}, 1.8),
        ("depth", {}, 0.17),
    ],
)
def test_heads_on_mci2_have_the_published_sizes(head: str, args: dict[str, int], millions: float) -> None:
    with torch.device("meta"):
        built = build_head(config(head, classes=150, **args), MCI2)
    assert sum(p.numel() for p in built.parameters()) / 1e6 == pytest.approx(millions, rel=0.03)


def test_mci2_with_semantic_fpn_has_the_published_size() -> None:
    labels = tuple(map(str, range(150)))
    with torch.device("meta"):
        model = mobileclip.fuse(
            build(DenseConfig(encoder=config_of("mci2"), head="semfpn", size=(512, 512), labels=labels))
        )
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(38.5, rel=0.03)


@pytest.mark.parametrize(("name", "layers"), [("semfpn", 1), ("uper", 2), ("seg_linear", 0)])
def test_a_tenth_of_the_channels_drops_out_in_training(name: str, layers: int) -> None:
    """mmsegmentation's `dropout_ratio=0.1`, before each classifier; whole channels, and nothing in evaluation."""
    head, x = head_of(name), maps()
    dropped = [layer for layer in head.modules() if isinstance(layer, nn.Dropout2d)]
    assert [layer.p for layer in dropped] == [0.1] * layers
    with torch.no_grad():
        assert torch.equal(head(x), head(x))
        if layers:
            for layer in dropped:
                layer.train()
            assert not torch.equal(head(x), head(x))


@pytest.mark.parametrize("name", SEGMENTATION)
def test_segmentation_loss_is_cross_entropy_at_the_size_of_the_labels(name: str) -> None:
    head, truth, x = head_of(name), targets(), maps()
    parts = head.loss(x, truth)
    raw = head(x) if name != "seg_linear" else head.classify(head.norm(x[-1]))

    def entropy(logits: Tensor) -> Tensor:
        wide = F.interpolate(logits, size=(64, 96), mode="bilinear", align_corners=False)
        assert truth.labels is not None
        return F.cross_entropy(wide, truth.labels, ignore_index=255)

    torch.testing.assert_close(parts["segmentation"], entropy(raw))
    if name == "uper":
        torch.testing.assert_close(parts["auxiliary"], 0.4 * entropy(head.auxiliary(x[2])))
    assert head(x).shape == (2, 5, 16, 24)


@pytest.mark.parametrize("name", SEGMENTATION + DEPTH)
def test_a_batch_without_truth_costs_nothing(name: str) -> None:
    head, x = head_of(name).train(), maps()
    empty = Targets(sizes=((64, 96),) * 2, labels=torch.full((2, 64, 96), 255), depth=torch.zeros(2, 64, 96))
    total = sum(head.loss(x, empty).values())
    total.backward()
    assert float(total.detach()) == 0
    grads = [p.grad for p in head.parameters() if p.grad is not None]
    assert grads
    assert all(bool((grad == 0).all()) for grad in grads)


@pytest.mark.parametrize("name", SEGMENTATION + DEPTH)
def test_training_lowers_the_loss(name: str) -> None:
    torch.manual_seed(0)
    head, x, truth = head_of(name).train(), maps(), targets()
    optimiser = torch.optim.AdamW(head.parameters(), 3e-3)
    losses = []
    for _ in range(8):
        loss = sum(head.loss(x, truth).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert all(p.grad is not None for p in head.parameters())
    assert losses[-1] < losses[0]


def test_silog_is_the_formula_and_does_not_see_holes() -> None:
    truth = torch.tensor([[[0.0, 2.0, 3.0], [1.0, 0.0, 8.0]]])
    predicted = torch.tensor([[[9.0, 1.0, 3.5], [2.0, 1e-9, 7.0]]], requires_grad=True)
    d = [math.log(2.0 / 1), math.log(3 / 3.5), math.log(1 / 2), math.log(8 / 7)]
    want = math.sqrt(sum(v * v for v in d) / 4 - 0.5 * (sum(d) / 4) ** 2)
    loss = silog(predicted, truth)
    assert float(loss.detach()) == pytest.approx(want, rel=1e-6)
    loss.backward()
    assert predicted.grad is not None
    assert predicted.grad[0, 0, 0] == predicted.grad[0, 1, 1] == 0
    exact = truth.clone().requires_grad_()
    silog(exact, truth).backward()  # the root has no slope at zero
    assert exact.grad is not None
    assert bool(torch.isfinite(exact.grad).all())


@torch.no_grad()
@pytest.mark.parametrize(("name", "stride"), [("depth", 1), ("depth_phone", 4), ("depth_linear", 4)])
def test_depth_lies_between_zero_and_the_largest(name: str, stride: int) -> None:
    out = head_of(name)([50 * x for x in maps()])
    assert out.shape == (2, 1, 64 // stride, 96 // stride)
    assert 0 <= float(out.min()) < float(out.max()) <= 10


@torch.no_grad()
def test_linear_depth_is_one_affine_layer_on_all_maps_together() -> None:
    head = head_of("depth_linear", bins=16)
    x = maps()
    wide = torch.cat([F.interpolate(m, size=(16, 24), mode="bilinear", align_corners=False) for m in x], dim=1)
    scale = torch.cat([n.weight / (n.running_var + n.eps).sqrt() for n in head.norms])
    shift = torch.cat([n.bias - n.running_mean * n.weight / (n.running_var + n.eps).sqrt() for n in head.norms])
    weight = torch.cat([r.weight for r in head.reads], dim=1)
    bias = sum(r.bias for r in head.reads)
    logits = F.conv2d(wide * scale[:, None, None] + shift[:, None, None], weight) + bias[:, None, None]
    shares = F.normalize(logits.relu() + FLOOR, p=1, dim=1)
    centres = torch.linspace(1e-3, 10, 16)[:, None, None]
    torch.testing.assert_close(head(x), (shares * centres).sum(1, keepdim=True))
