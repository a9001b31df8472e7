"""The floor under an encoder's latency: its matrix products alone, at the speed that this machine multiplies matrices.

Every dense convolution and linear layer of the fused view is one product of [M, K] and [K, N]; torch's fp32 GEMM runs
each shape on the same number of threads. What a device spends beyond the sum is depthwise convolutions, activations,
attention's softmax, moving memory, and a runtime's own overhead.
"""

import time
from collections import Counter

import torch
from torch import Tensor, nn

from export.views import View

Product = tuple[int, int, int]
"""(M, K, N): rows, inner length, columns."""


def products(view: View) -> Counter[Product]:
    """The matrix products of one run of `view`, and how often each occurs (attention's own products included)."""
    found: Counter[Product] = Counter()

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Linear):
            found[(output.numel() // module.out_features, module.in_features, module.out_features)] += 1
        elif isinstance(module, nn.Conv2d) and module.groups == 1:
            inner = module.weight[0].numel()
            found[(output.shape[2] * output.shape[3], inner, module.out_channels)] += 1

    hooks = [module.register_forward_hook(note) for module in view.modules()]
    try:
        with torch.no_grad():
            view(view.example)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def macs(found: Counter[Product]) -> int:
    """Multiply-accumulates of the products."""
    return sum(m * k * n * count for (m, k, n), count in found.items())


def gemm_floor_ms(found: Counter[Product], threads: int, repeats: int = 15) -> float:
    """Sum over the products of the median time of torch's fp32 GEMM on `threads` threads, in ms."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return sum(count * _median_ms(product, repeats) for product, count in found.items())
    finally:
        torch.set_num_threads(before)


def _median_ms(product: Product, repeats: int) -> float:
    m, k, n = product
    a, b, out = torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)
    times = []
    for index in range(repeats + 3):
        start = time.perf_counter_ns()
        torch.mm(a, b, out=out)
        if index >= 3:
            times.append((time.perf_counter_ns() - start) / 1e6)
    return sorted(times)[len(times) // 2]
