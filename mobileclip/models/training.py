"""`quicken(model)`: the same model, trained faster on a CPU; exact, weights keep their names.

oneDNN has kernels for the weight gradient of depthwise 3x3 convolutions; a larger one falls to a reference loop that
takes a third of MCi2's backward pass. Here it is a few batched matrix products: for each row of taps, the rows of the
padded input times the rows of the gradient give all pairs of columns, whose diagonals are the taps.

A causal text tower (MobileCLIP-B) gets only as many columns as the longest caption of the batch has.

N images, C channels, m outputs a channel, k taps a side, s stride, [H, W] in, [h, w] out.
"""

from typing import Any

import torch
from open_clip.transformer import TextTransformer, text_global_pool
from torch import Tensor, nn
from torch.nn import functional as F

from mobileclip.models import Clip

COLUMNS = 16
"""Output columns of one product: all pairs are computed and only `COLUMNS + k - 1` of each can be taps."""
LEAST = 5
"""Smallest kernel that is slow in oneDNN."""


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return F.conv2d(x, weight, None, stride, weight.shape[-1] // 2, 1, x.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad, stride, pad = grads[0].contiguous(), ctx.stride, weight.shape[-1] // 2
        for_x = None
        if ctx.needs_input_grad[0]:
            for_x = torch.ops.aten.convolution_backward(
                grad, x, weight, None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], x.shape[1], [True, False, False]
            )[0]
        return for_x, weight_gradient(x, grad, weight.shape[-1], stride) if ctx.needs_input_grad[1] else None, None


def weight_gradient(x: Tensor, grad: Tensor, k: int, stride: int) -> Tensor:
    """x [N, C, H, W], gradient of the output [N, C*m, h, w] -> gradient of the depthwise weight [C*m, 1, k, k].

    For padding k // 2; H + 2 * padding is rounded up to a multiple of the stride.
    """
    n, c, height, _ = x.shape
    m, (out_h, out_w) = grad.shape[1] // c, grad.shape[2:]
    pad = k // 2
    block = COLUMNS if out_w % COLUMNS == 0 else out_w
    blocks, window = out_w // block, stride * (block - 1) + k
    more = (-(height + 2 * pad)) % stride
    padded = F.pad(x, (pad, pad + stride, pad, pad + more)).transpose(0, 1)  # [C, N, H', W']
    rows = padded.shape[2] // stride
    windows = padded.unfold(3, window, stride * block)[:, :, :, :blocks]  # [C, N, H', blocks, window]
    # rows of zeros behind each image's output let one shifted view of all images' rows serve every row of taps
    g = F.pad(grad, (0, 0, 0, rows - out_h)).view(n, c, m, rows, blocks, block)
    g = g.permute(1, 4, 0, 3, 2, 5).reshape(c * blocks, n * rows, m * block)
    out = x.new_empty(c, m, k, k)
    length = n * rows
    for first in range(stride):
        a = windows[:, :, first::stride].permute(0, 3, 1, 2, 4).reshape(c * blocks, length, window)
        for i in range(first, k, stride):
            shift = i // stride
            pairs = torch.bmm(a[:, shift:].transpose(1, 2), g[:, : length - shift])  # [C * blocks, window, m * block]
            span = m * block
            taps = pairs.as_strided(
                (c, blocks, m, k, block), (blocks * window * span, window * span, block, span, stride * span + 1)
            )
            out[:, :, i] = taps.sum((1, 4))
    return out.view(c * m, 1, k, k)


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution whose weight gradient is `weight_gradient` on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C*m, h, w]."""
        slow = x.device.type == "cpu" and x.dtype == torch.float32 and torch.is_grad_enabled() and x.is_contiguous()
        if not slow or torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        out: Tensor = _Depthwise.apply(x, self.weight, self.stride[0])
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)


class CausalText(TextTransformer):  # type: ignore[misc]
    """A causal text tower that leaves out the columns behind the longest text of a batch."""

    def forward(self, text: Tensor) -> Tensor:
        """Ids [N, 77] -> [N, E]. END is pooled, and a causal tower sees nothing behind it."""
        if text.device.type == "cpu":  # elsewhere the length would have to be waited for
            text = text[:, : int(text.argmax(dim=1).max()) + 1]
        x, mask = self._embeds(text)
        x = self.ln_final(self.transformer(x, attn_mask=mask[: text.shape[1], : text.shape[1]]))
        pooled: Tensor = text_global_pool(x, text, pool_type=self.pool_type) @ self.text_projection
        return pooled


def quicken(model: Clip) -> Clip:
    """Give towers the faster forms above where they fit, in place; returns `model`."""
    text: Any = model.text
    if type(text) is TextTransformer and text.attn_mask is not None and text.pool_type == "argmax":
        text.__class__ = CausalText
    for module in model.image.modules():
        if type(module) is nn.Conv2d and _suits(module):
            module.__class__ = DepthwiseConv2d
    return model


def _suits(conv: nn.Conv2d) -> bool:
    k, stride = conv.kernel_size, conv.stride
    return (
        conv.groups == conv.in_channels > 1
        and k[0] == k[1] >= LEAST
        and k[0] % 2 == 1
        and stride[0] == stride[1]
        and conv.padding == (k[0] // 2, k[1] // 2)
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
    )
