"""Where the 256 steps of a tensor lie: between its least and greatest value, or closer where that loses less.

A range that leaves rare values out has finer steps for all others; which one is best is searched over a histogram of
all values that were seen. What only a GELU reads is judged behind it: far below zero every value gives nothing, so that
the steps are better spent elsewhere. torchao's own `HistogramObserver` searches too, but knows no reader and takes
minutes for a network of this depth.

Weights keep the range up to the largest of each channel: with 127 steps a clipped one loses more than finer steps give,
in every channel that was tried.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchao.quantization.pt2e.observer import UniformQuantizationObserverBase

Behind = Callable[[Tensor], Tensor]
_BINS = 8192
"""Of a histogram from minus to plus a power of two; some 8 or more fall on each of 256 steps."""
_SHRUNK = torch.linspace(1.0, 0.3, 15)
"""Shares of the least and the greatest value that are tried as ends of a range of activations."""
FINEST = 2.0**-30
"""Smallest step: keeps XNNPACK's product of steps within its limits (2^-32 to 256), whatever a channel holds."""


class ActivationRange(UniformQuantizationObserverBase):  # type: ignore[misc]
    """Range of a tensor with the least squared error of 256 steps, zero being one of them; or simply its ends.

    `behind` is what alone reads the tensor: errors are those of its output.
    """

    def __init__(
        self, *, search: bool = True, behind: Behind | None = None, eps: float = FINEST, **kwargs: Any
    ) -> None:
        super().__init__(eps=eps, **kwargs)
        self.search, self.behind, self.limit = search, behind or _same, 2.0**-10
        self.counts = torch.zeros(_BINS, dtype=torch.float64)
        self.least = self.greatest = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Counts the values of `x`, any shape; returns `x`."""
        least, greatest = (float(end) for end in torch.aminmax(x))
        self.least, self.greatest = min(self.least, least), max(self.greatest, greatest)
        if self.search:
            while self.limit <= max(-self.least, self.greatest):
                half = self.counts.reshape(-1, 2).sum(1)
                self.counts = torch.nn.functional.pad(half, (_BINS // 4, _BINS // 4))
                self.limit *= 2
            self.counts += torch.histc(x.float(), _BINS, -self.limit, self.limit)
        return x

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """(step [1], zero point [1])."""
        ends = self.best() if self.search else (self.least, self.greatest)
        found: tuple[Tensor, Tensor] = self._calculate_qparams(*map(torch.tensor, ends))
        return found

    def best(self) -> tuple[float, float]:
        """Both ends of the range that loses least."""
        there = self.counts > 0
        values = ((torch.arange(_BINS) + 0.5) * (2 * self.limit / _BINS) - self.limit)[there].float()
        counts = self.counts[there].float()
        least, greatest = (end.reshape(-1, 1) for end in (self.least * _SHRUNK, self.greatest * _SHRUNK))
        if not self.least:
            least = least[:1]
        if not self.greatest:
            greatest = greatest[:1]
        errors = torch.stack([self._errors(values, counts, low, greatest) for low in least])
        row, column = divmod(int(errors.argmin()), errors.shape[1])
        return float(least[row]), float(greatest[column])

    def _errors(self, values: Tensor, counts: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Squared errors of `values` [N], there `counts` [N] times, in ranges from `low` [1] to `high` [M, 1]: [M]."""
        step = ((high - low) / 255).clamp_min(FINEST)
        zero = (low / step).round()
        rounded = torch.clamp((values / step).round(), zero, zero + 255) * step
        return ((self.behind(rounded) - self.behind(values)).square() * counts).sum(1)


def _same(x: Tensor) -> Tensor:
    return x
