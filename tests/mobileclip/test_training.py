"""The faster forms of training are exact."""

import pytest
import torch
from torch.nn import functional as F

from mobileclip.fuse import fuse
from mobileclip.models import create
from mobileclip.models.training import CausalText, DepthwiseConv2d, quicken, weight_gradient
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


def test_what_is_quickened() -> None:
    convs = [m for m in quicken(create("mobileclip_s2")).image.modules() if isinstance(m, DepthwiseConv2d)]
    assert len(convs) == 51  # 44 of the MLPs, 3 of the downsamplers, 4 positional encodings
    assert {conv.kernel_size for conv in convs} == {(7, 7)}
    assert isinstance(quicken(create("nano_scenes")).text, CausalText)
    assert not isinstance(quicken(create("nano")).text, CausalText)
