"""The faster forms of training are exact."""

import copy
from collections import Counter

import pytest
import torch
from timm.models.fastvit import RepMixer
from torch.nn import functional as F

from mobileclip.fuse import fuse
from mobileclip.models import create
from mobileclip.models.training import DepthwiseConv2d, MergedMixer, PooledText, on_tiny_map, quicken, weight_gradient
from mobileclip.tokenizer import tokenize


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize(("stride", "multiplier"), [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("size", [(4, 4), (7, 9), (8, 32), (16, 48), (5, 64)])
def test_the_weight_gradient_is_autograds(kernel: int, stride: int, multiplier: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    weight = torch.randn(3 * multiplier, 1, kernel, kernel, generator=generator, dtype=torch.float64).requires_grad_()
    out = F.conv2d(x, weight, None, stride, kernel // 2, 1, 3)
    grad = torch.randn(out.shape, generator=generator, dtype=torch.float64)
    out.backward(grad)
    torch.testing.assert_close(weight_gradient(x, grad, kernel, stride), weight.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize(("stride", "multiplier"), [(1, 1), (2, 1), (2, 2)])
@pytest.mark.parametrize("size", [(2, 2), (4, 4), (3, 5), (1, 1)])
def test_a_tiny_map_is_convolved_by_matrices(kernel: int, stride: int, multiplier: int, size: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(3 * multiplier, 1, kernel, kernel, generator=generator, dtype=torch.float64).requires_grad_()
    expected = F.conv2d(x, weight, None, stride, kernel // 2, 1, 3)
    found = on_tiny_map(x, weight, stride)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(y.sin().sum(), (x, weight)) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["nano", "nano_scenes", "nano_vit"])
def test_a_quickened_model_has_the_same_weights_outputs_and_gradients(name: str) -> None:
    plain, quick = create(name, seed=1), create(name, seed=1)
    names = list(quick.state_dict())
    assert quicken(quick) is quick
    assert list(quick.state_dict()) == names
    ids = tokenize(["a red ball", "a small blue cube to the left of a cone", "x"])
    size = plain.config.preprocess.size
    pixels = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(2))
    for model in (plain, quick):
        model.train()
        image, text, _ = model(pixels, ids)
        (image @ text.T).square().sum().backward()
    largest = max(float(p.grad.abs().max()) for p in plain.parameters() if p.grad is not None)
    for (key, a), b in zip(plain.named_parameters(), quick.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), key
        if a.grad is not None and b.grad is not None:
            assert float((a.grad - b.grad).abs().max()) < 1e-5 * largest, key
    with torch.no_grad():
        torch.testing.assert_close(plain.eval()(pixels, ids)[0], quick.eval()(pixels, ids)[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(fuse(plain)(pixels, ids)[1], fuse(quick)(pixels, ids)[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(4, 6, 5, 7), (2, 3, 8, 8)])
def test_a_merged_mixer_is_timms(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    plain = RepMixer(shape[1], 3, layer_scale_init_value=0.3).double()
    for p in plain.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    merged = copy.deepcopy(plain)
    merged.__class__ = MergedMixer
    # the extraordinary too: a channel without variance, where epsilon decides, and one far from zero
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    x[:, 0], x[:, 1] = 0.5, x[:, 1] + 100
    grad = torch.randn(shape, generator=generator, dtype=torch.float64)
    found = []
    for mixer in (plain, merged):
        given = x.clone().requires_grad_()
        mixer(given)  # running statistics move twice
        out = mixer(given) if mixer is plain else MergedMixer.forward(mixer, given)
        out.backward(grad)
        found.append((out.detach(), given.grad, [p.grad for p in mixer.parameters()], mixer.state_dict()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-8, atol=1e-8)
    for mixer in (plain.eval(), merged.eval()):
        torch.testing.assert_close(mixer(x), plain(x))


def test_what_is_quickened() -> None:
    convs = [m for m in quicken(create("mobileclip_s2")).image.modules() if isinstance(m, DepthwiseConv2d)]
    sizes = Counter(conv.kernel_size[0] for conv in convs)
    assert sizes[7] == 44 + 3 + 1  # of the MLPs, the downsamplers and the positional encoding
    for name in ("nano", "nano_scenes", "mobileclip2_s0"):
        assert isinstance(quicken(create(name)).text, PooledText)
    assert not isinstance(quicken(create("nano_mct")).text, PooledText)
