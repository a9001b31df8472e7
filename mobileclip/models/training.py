"""`quicken(model)`: the same model, trained faster on a CPU; exact, weights keep their names.

oneDNN has kernels for the weight gradient of depthwise 3x3 convolutions; a larger one falls to a reference loop that
takes a third of MCi2's backward pass. Here it is a few batched matrix products: for each row of taps, the rows of the
padded input times the rows of the gradient give all pairs of columns, whose diagonals are the taps.

RepMixer, the block that MCi2 is made of, has four BatchNorms and six sums over its map; all of it is affine in the
input and the convolution's output, with coefficients a channel that follow from means and variances (`MergedMixer`).

On maps of at most 4x4 pixels any depthwise convolution is faster as one matrix a channel.

A text tower's last layer computes END's token alone, the only one that is pooled (five sixths of that layer saved), and
a causal tower (MobileCLIP-B) gets only as many columns as the longest caption of the batch has.

N images, C channels, m outputs a channel, k taps a side, s stride, [H, W] in, [h, w] out.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from open_clip.transformer import TextTransformer
from timm.models.fastvit import RepMixer
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from mobileclip.models import Clip


COLUMNS = 16
"""Output columns of one product: all pairs are computed and only `COLUMNS + k - 1` of each can be taps."""
LEAST = 5
"""Smallest kernel whose weight gradient is slow in oneDNN."""
TINY = 16
"""Pixels of a map on which a depthwise convolution is a product with one matrix a channel."""


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


def on_tiny_map(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Depthwise convolution (padding k // 2) of x [N, C, H, W] of few pixels, as C products [N, HW] x [HW, m*hw]."""
    (n, c, height, width), k = x.shape, weight.shape[-1]
    m = weight.shape[0] // c
    places = _places(height, width, k, stride).to(x.dtype)
    out_h, out_w = ((side + 2 * (k // 2) - k) // stride + 1 for side in (height, width))
    matrices = (weight.view(c * m, k * k) @ places).view(c, m, height * width, out_h * out_w)
    matrices = matrices.transpose(1, 2).reshape(c, height * width, m * out_h * out_w)
    out = torch.bmm(x.view(n, c, height * width).transpose(0, 1), matrices)  # [C, N, m*hw]
    return out.view(c, n, m, out_h, out_w).transpose(0, 1).reshape(n, c * m, out_h, out_w)


@lru_cache(maxsize=64)
def _places(height: int, width: int, k: int, stride: int) -> Tensor:
    """[k*k, H*W*h*w]: 1 where a tap takes an input pixel to an output pixel."""
    pixels = torch.eye(height * width).view(height * width, 1, height, width)
    taps = F.conv2d(pixels, torch.eye(k * k).view(k * k, 1, k, k), None, stride, k // 2)  # [HW, k*k, h, w]
    return taps.transpose(0, 1).reshape(k * k, -1)


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution that trains on a CPU by `on_tiny_map` or `weight_gradient`, where these are faster."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C*m, h, w]."""
        slow = x.device.type == "cpu" and x.dtype == torch.float32 and torch.is_grad_enabled()
        tiny, k = x.shape[2] * x.shape[3] <= TINY, self.kernel_size[0]
        if not slow or torch.is_autocast_enabled("cpu") or not (tiny or k >= LEAST):
            return super().forward(x)
        fast: Callable[[Tensor, Tensor, int], Tensor] = on_tiny_map if tiny else _Depthwise.apply
        out = fast(x.contiguous(), self.weight, self.stride[0])
        return out if self.bias is None else out + self.bias.view(-1, 1, 1)


class MergedMixer(RepMixer):  # type: ignore[misc]
    """timm's RepMixer in two passes over its input: in training too, all but the convolution is affine.

    Three of its four BatchNorms see the input itself, or the input times a number a channel, so their statistics are
    those of the input. What is left is a x + b y + c, y the convolution's output, with a, b, c a channel, which depend
    on means and variances of x and y.
    """

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> the same."""
        if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not self._merges():
            out: Tensor = super().forward(x)
            return out
        mixer = self.mixer
        conv, scale = mixer.conv_kxk[0], mixer.conv_scale
        y = conv.conv(x)
        norms = (conv.bn, scale.bn, mixer.identity, self.norm.identity)
        parameters = [p for norm in norms for p in (norm.weight, norm.bias)]
        eps = [norm.eps for norm in norms]
        out, *moments = _AffineOfMoments.apply(
            x, y, eps, self.layer_scale.gamma.flatten(), scale.conv.weight.flatten(), *parameters
        )
        self._follow(norms, moments, x.numel() // x.shape[1])
        return out

    def _merges(self) -> bool:
        if self.reparam_conv is not None or not self.training or not hasattr(self.layer_scale, "gamma"):
            return False
        norms = [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]
        return len(norms) == 4 and all(norm.training and norm.momentum is not None for norm in norms)

    @torch.no_grad()
    def _follow(self, norms: Sequence[Any], moments: Sequence[Tensor], count: int) -> None:
        """Running statistics, as `F.batch_norm` would have them."""
        mean_x, var_x, mean_y, var_y = moments
        w = self.mixer.conv_scale.conv.weight.flatten()
        seen = ((mean_y, var_y), (w * mean_x, w * w * var_x), (mean_x, var_x), (mean_x, var_x))
        for norm, (mean, var) in zip(norms, seen, strict=True):
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(var * (count / max(count - 1, 1)), norm.momentum)
            norm.num_batches_tracked.add_(1)


class _AffineOfMoments(torch.autograd.Function):
    """a x + b y + c, where a, b, c are functions of the moments of x and y; autograd sees those [C] functions only."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, eps: Sequence[float], *parameters: Tensor) -> tuple[Tensor, ...]:
        moments = (*_moments(x), *_moments(y))
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in (*moments, *parameters)]
            coefficients = _coefficients(eps, *leaves)
        a, b, c = (t.detach().view(-1, 1, 1) for t in coefficients)
        ctx.save_for_backward(x, y)
        ctx.graph = (leaves, coefficients)
        ctx.mark_non_differentiable(*moments)
        return torch.addcmul(c, x, a).addcmul_(y, b), *moments

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (x, y), (leaves, coefficients), grad = ctx.saved_tensors, ctx.graph, grads[0]
        sums = [(grad * x).sum((0, 2, 3)), (grad * y).sum((0, 2, 3)), grad.sum((0, 2, 3))]
        by_leaf = torch.autograd.grad(coefficients, leaves, sums)
        count = x.numel() // x.shape[1]

        def through(t: Tensor, factor: Tensor, mean: Tensor, by_mean: Tensor, by_var: Tensor) -> Tensor:
            slope = 2 / count * by_var  # of the variance: 2 (t - mean) / count
            offset = by_mean / count - slope * mean
            out = torch.addcmul(offset.view(-1, 1, 1), t, slope.view(-1, 1, 1))
            return out.addcmul_(grad, factor.view(-1, 1, 1))

        with torch.no_grad():
            for_x = through(x, coefficients[0], leaves[0], by_leaf[0], by_leaf[1])
            for_y = through(y, coefficients[1], leaves[2], by_leaf[2], by_leaf[3])
        return for_x, for_y, None, *by_leaf[4:]


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance a channel; torch.var_mean over these dimensions is several times slower."""
    mean = x.mean((0, 2, 3))
    return mean, (x - mean.view(-1, 1, 1)).square_().mean((0, 2, 3))


def _coefficients(eps: Sequence[float], *t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """RepMixer, x + layer_scale (BN(conv x) + BN(w x) + BN(x) - BN(x)), as a x + b y + c."""
    mean_x, var_x, mean_y, var_y, gamma, w, g_conv, b_conv, g_scale, b_scale, g_same, b_same, g_norm, b_norm = t
    a = g_same * (var_x + eps[2]).rsqrt() - g_norm * (var_x + eps[3]).rsqrt()
    a = gamma * (a + g_scale * w * (w * w * var_x + eps[1]).rsqrt())
    b = gamma * g_conv * (var_y + eps[0]).rsqrt()
    return 1 + a, b, gamma * (b_conv + b_scale + b_same - b_norm) - a * mean_x - b * mean_y


class PooledText(TextTransformer):  # type: ignore[misc]
    """A text tower whose last layer computes the pooled token alone; a causal one drops columns behind all texts."""

    def forward(self, text: Tensor) -> Tensor:
        """Ids [N, 77] -> [N, E]."""
        end = text.argmax(dim=1)  # END is the largest id, and what is pooled
        if self.attn_mask is not None and text.device.type == "cpu":  # elsewhere the length would have to be waited for
            text = text[:, : int(end.max()) + 1]
        x, mask = self._embeds(text)
        mask = None if mask is None else mask[: text.shape[1], : text.shape[1]]
        *blocks, last = self.transformer.resblocks
        for block in blocks:
            x = block(x, attn_mask=mask)
        row = torch.arange(len(end), device=end.device)
        keys = last.ln_1(x)
        if mask is not None:  # [N * heads, 1, L]: what each END may see
            mask = mask.to(x.dtype)[end].repeat_interleave(last.attn.num_heads, dim=0)[:, None]
        seen = last.attn(keys[row, end][:, None], keys, keys, need_weights=False, attn_mask=mask)[0][:, 0]
        y = x[row, end] + last.ls_1(seen)
        y = y + last.ls_2(last.mlp(last.ln_2(y)))
        pooled: Tensor = self.ln_final(y) @ self.text_projection
        return pooled


def quicken(model: "Clip") -> "Clip":
    """Give towers the faster forms above where they fit, in place; returns `model`."""
    text: Any = model.text
    if type(text) is TextTransformer and text.pool_type == "argmax" and text.cls_emb is None:
        text.__class__ = PooledText
    quicken_tower(model.image)
    return model


def quicken_tower(tower: nn.Module) -> None:
    """The same for an image tower, or whatever holds one."""
    for module in tower.modules():
        if type(module) is RepMixer:
            module.__class__ = MergedMixer
        if type(module) is nn.Conv2d and _suits(module):
            module.__class__ = DepthwiseConv2d


def _suits(conv: nn.Conv2d) -> bool:
    k, stride = conv.kernel_size, conv.stride
    return (
        conv.groups == conv.in_channels > 1
        and k[0] == k[1]
        and k[0] % 2 == 1
        and stride[0] == stride[1]
        and conv.padding == (k[0] // 2, k[1] // 2)
        and conv.dilation == (1, 1)
        and conv.padding_mode == "zeros"
    )
