"""Depthwise convolutions in the forms that XNNPACK has fast kernels for. Exact: only the order of additions changes.

XNNPACK's depthwise kernels (x86 and ARM alike; its src/configs/dwconv-config.c) take up to 25 taps and one output a
channel. A 7x7 (49 taps), or two outputs a channel, silently becomes a grouped indirect GEMM with groups of one channel,
which wastes almost the whole vector unit: more than half of MCi2's time. Figures of every form that was tried are in
docs/log.md.
"""

import torch
from torch import Tensor, fx, nn

from mobileclip.models.mci import FusedMCi, FusedMciPyramid, SqueezeExcitation

LEAST_POSITIONS = 256
"""Outputs of a channel from which on a depthwise convolution is better left in floats (`floats_are_faster`)."""

_EVEN, _ODD, _ALL = (0, 2, 4, 6), (1, 3, 5), (0, 1, 2, 3, 4, 5, 6)
_PIECES: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    (_EVEN, (1, 2, 3, 4, 5)),
    (_ODD, _ALL),
    (_EVEN, (0, 6)),
)
"""Rows x columns of the 7x7 kernel in each piece: 20 + 21 + 8 = 49 taps, for kernels of 25, 25 and 9."""


def is_depthwise(conv: nn.Module) -> bool:
    """Whether every input channel is convolved on its own (with one output or several), plainly zero-padded."""
    return (
        isinstance(conv, nn.Conv2d)
        and conv.groups == conv.in_channels > 1
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
        and isinstance(conv.padding, tuple)
    )


def floats_are_faster(node: fx.Node, least: int = LEAST_POSITIONS) -> bool:
    """Whether a depthwise convolution in an exported graph should stay in floats where its neighbours are in 8 bits.

    Integer kernels of depthwise convolutions multiply no faster than those of floats (x86: two to three times slower,
    XNNPACK and onnxruntime alike; docs/log.md), and rounding between the pieces of a split one costs most of the
    precision. What speaks for integers is size: a kernel of k x k weighs as much whatever the map it runs over, so
    maps of fewer than `least` positions, where little time is spent, are not worth it.
    """
    if node.target != torch.ops.aten.conv2d.default:
        return False
    rows, columns = map(int, node.meta["val"].shape[-2:])
    return bool(len(node.args) > 6 and node.args[6] != 1 and rows * columns >= least)


class SplitDepthwise(nn.Module):
    """A 7x7 depthwise convolution (stride 1 or 2) as the sum of three dilated ones.

    Even rows x the inner five columns, odd rows x all columns, even rows x the outer two. Each set is evenly spaced and
    symmetric about the centre, so that each piece is an ordinary convolution with symmetric padding whose output has
    the right size already: no slice, no padding operator. Dilation runs along the rows because along the columns
    XNNPACK needs a larger indirection buffer.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
        self.pieces = nn.ModuleList(
            _depthwise(
                weight[:, :, list(rows)][:, :, :, list(columns)],
                bias if index == 0 else None,
                stride=conv.stride,
                padding=(3 - rows[0], 3 - columns[0]),
                dilation=(rows[1] - rows[0], columns[1] - columns[0]),
            )
            for index, (rows, columns) in enumerate(_PIECES)
        )

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = self.pieces
        y: Tensor = first(x)
        for piece in rest:
            y = y + piece(x)
        return y


class SplitMultiplier(nn.Module):
    """A depthwise convolution with m outputs a channel as m plain ones, side by side.

    The outputs come multiplier by multiplier, not interleaved: output i is channel `permutation[i]` of the original,
    and the layers that follow must be permuted with it (`split_multiplier` does).
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        multiplier = conv.out_channels // conv.in_channels
        weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
        self.parts = nn.ModuleList(
            _depthwise(
                weight[part::multiplier],
                None if bias is None else bias[part::multiplier],
                stride=conv.stride,
                padding=(int(conv.padding[0]), int(conv.padding[1])),
                dilation=(1, 1),
            )
            for part in range(multiplier)
        )
        self.permutation = torch.arange(conv.out_channels).reshape(-1, multiplier).t().flatten()

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([part(x) for part in self.parts], dim=1)


def split_depthwise(module: nn.Module) -> nn.Module | None:
    """A 7x7 depthwise convolution with one output a channel as `SplitDepthwise`."""
    if not is_depthwise(module):
        return None
    assert isinstance(module, nn.Conv2d)
    fits = module.kernel_size == (7, 7) and module.padding == (3, 3) and module.out_channels == module.in_channels
    return SplitDepthwise(module) if fits else None


def split_multiplier(module: nn.Module) -> nn.Module | None:
    """`FusedMCi` with its three downsamplers and its last convolution, two outputs a channel, as `SplitMultiplier`;
    its pyramid alone, for dense heads, likewise.

    The permutation is folded into squeeze-and-excitation and into the dense layer behind; activation and pooling keep
    it. Changes the module that it is given.
    """
    if not isinstance(module, FusedMCi | FusedMciPyramid):
        return None
    for stage in module.stages:
        assert isinstance(stage, nn.Sequential)
        _split_first(stage, None)
    if isinstance(module, FusedMCi):
        _split_first(module.final, module.head)
    return module


def _split_first(layers: nn.Sequential, behind: nn.Linear | nn.Conv2d | None) -> None:
    conv = layers[0]
    if not isinstance(conv, nn.Conv2d) or not is_depthwise(conv) or conv.out_channels == conv.in_channels:
        return
    layers[0] = split = SplitMultiplier(conv)
    for layer in [*layers[1:], behind]:
        if isinstance(layer, SqueezeExcitation):
            _permute_inputs(layer.fc1, split.permutation)
            _permute_outputs(layer.fc2, split.permutation)
        elif isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            _permute_inputs(layer, split.permutation)
            return
        else:
            assert isinstance(layer, nn.GELU), f"a {type(layer).__name__} does not keep a permutation of channels"


@torch.no_grad()
def _permute_inputs(layer: nn.Conv2d | nn.Linear, permutation: Tensor) -> None:
    layer.weight.data = layer.weight[:, permutation].clone()


@torch.no_grad()
def _permute_outputs(layer: nn.Conv2d, permutation: Tensor) -> None:
    layer.weight.data = layer.weight[permutation].clone()
    if layer.bias is not None:
        layer.bias.data = layer.bias[permutation].clone()


def _depthwise(
    weight: Tensor,
    bias: Tensor | None,
    *,
    stride: tuple[int, ...],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> nn.Conv2d:
    """A depthwise convolution that holds copies of `weight` [C, 1, K, L] and `bias` [C]."""
    channels = weight.shape[0]
    conv = nn.Conv2d(
        channels,
        channels,
        (weight.shape[2], weight.shape[3]),
        stride=(stride[0], stride[1]),
        padding=padding,
        dilation=dilation,
        groups=channels,
        bias=bias is not None,
        device="meta",
    )
    conv.weight = nn.Parameter(weight.clone(), requires_grad=False)
    if bias is not None:
        conv.bias = nn.Parameter(bias.clone(), requires_grad=False)
    return conv
