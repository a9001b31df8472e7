"""Palettes: the 2^bits values that weights of a group of channels are rounded to, by one-dimensional k-means.

Lloyd's steps alone end far from the best palette: on trained weights, whose tails are long, with twice to eighty times
its squared error, from quantiles or from an even grid. What helps is where they begin (levels as dense as the cube root
of the weights' density: Panter and Dite 1951, equation 27) and swaps (two neighbours become one, the cell with the
largest error becomes two), which end within 1 to 8 % of the best. All groups at once, on sorted values and running
sums: 35 million weights take some ten seconds of one core.
"""

import torch
from torch import Tensor

LEAST = 8
"""Channels that share a palette, at least: Apple names 8 or 16 as what is still faster than floats (coremltools' guide,
"Palettization, Performance")."""
SHARE = 1 / 16
"""Bytes of palettes to bytes of places, at most; groups grow until it holds."""
_SWAPS = 12
_FIRST, _AFTER = 10, 3  # Lloyd's steps before the first swap, and after each


def group_of(channels: int, inner: int, bits: int) -> int:
    """How many of `channels` channels with `inner` weights each share a palette."""
    group = LEAST
    while group < channels and 2 * 2**bits > SHARE * group * inner * bits / 8:
        group *= 2
    return group if channels % group == 0 else channels


@torch.no_grad()
def palettes(values: Tensor, bits: int, importance: Tensor | None = None) -> Tensor:
    """[G, N] -> [G, 2^bits], ascending: the values of each group that leave the least squared error.

    Args:
        values: the weights of G groups.
        bits: of a place.
        importance: [G, N], what the square of each weight's error counts; all the same without.
    """
    values, order = values.sort(dim=1)
    counts = torch.ones_like(values) if importance is None else importance.gather(1, order)
    exact, wide = values.double(), counts.double()
    sums = torch.stack([_running(wide), _running(wide * exact), _running(wide * exact * exact)])  # [3, G, N + 1]
    table = _beginning(values, counts, 2**bits)
    best, least = table, torch.full((len(values), 1), float("inf"), dtype=torch.float64)
    for swap in range(_SWAPS):
        for _ in range(_AFTER if swap else _FIRST):
            table = _means(_cells(table, exact, sums)[0], table).sort(dim=1).values
        cells, edges = _cells(table, exact, sums)
        error = _errors(cells)
        better = error.sum(1, keepdim=True) < least
        best, least = torch.where(better, table, best), torch.where(better, error.sum(1, keepdim=True), least)
        cells, edges = _cells(best, exact, sums)
        table = _swapped(best, cells, edges, exact, sums, swap)
    return best.float()


def nearest(table: Tensor, values: Tensor) -> Tensor:
    """[G, K] ascending and [G, N] -> int64 [G, N]: the place of the nearest entry of each value's group."""
    return torch.searchsorted(((table[:, 1:] + table[:, :-1]) / 2).contiguous(), values.contiguous())


def _running(values: Tensor) -> Tensor:
    return torch.cat([values.new_zeros(len(values), 1), values.cumsum(1)], dim=1)


def _beginning(values: Tensor, counts: Tensor, size: int) -> Tensor:
    """Levels as dense as the cube root of the density, which the gaps between sorted values tell."""
    gaps = values.diff(dim=1) ** (2 / 3) * counts[:, 1:] ** (1 / 3)
    mass = _running(gaps.double())
    steps = (torch.arange(size, dtype=torch.float64) + 0.5) / size * mass[:, -1:]
    return values.gather(1, torch.searchsorted(mass, steps).clamp(max=values.shape[1] - 1)).double()


def _cells(table: Tensor, values: Tensor, sums: Tensor) -> tuple[Tensor, Tensor]:
    """What is nearest to each entry: sums [3, G, K] (count, value, square), and edges [G, K + 1] among the values."""
    groups, size = values.shape
    inner = torch.searchsorted(values, ((table[:, 1:] + table[:, :-1]) / 2).contiguous())
    edges = torch.cat([inner.new_zeros(groups, 1), inner, inner.new_full((groups, 1), size)], dim=1)
    return sums.gather(2, edges.expand(3, -1, -1)).diff(dim=2), edges


def _means(cells: Tensor, otherwise: Tensor) -> Tensor:
    return torch.where(cells[0] > 0, cells[1] / cells[0].clamp(min=1e-300), otherwise)


def _errors(cells: Tensor) -> Tensor:
    return (cells[2] - _means(cells, cells[1]) * cells[1]).clamp(min=0)


def _swapped(table: Tensor, cells: Tensor, edges: Tensor, values: Tensor, sums: Tensor, turn: int) -> Tensor:
    """One entry of each group moved from where it is missed least to where it is missed most; which of the next best
    places are tried changes with `turn`."""
    means = _means(cells, table)
    left, right = cells[0][:, :-1], cells[0][:, 1:]
    cost = left * right / (left + right).clamp(min=1e-300) * means.diff(dim=1) ** 2  # Ward 1963
    worst = _errors(cells).topk(4, dim=1).indices[:, turn % 4, None]
    cheap = cost.topk(2, dim=1, largest=False).indices[:, turn // 4 % 2, None]
    low, high = edges.gather(1, worst), edges.gather(1, worst + 1)
    middle = torch.searchsorted(values, means.gather(1, worst)).clamp(min=low, max=high)
    halves = sums.gather(2, torch.cat([low, middle, high], dim=1).expand(3, -1, -1)).diff(dim=2)  # [3, G, 2]
    fits = (halves[0] > 0).all(dim=1, keepdim=True) & (worst != cheap) & (worst != cheap + 1)
    pair = torch.stack([cells.gather(2, (cheap + step).expand(3, -1, -1)) for step in (0, 1)]).sum(0)
    one = _means(pair, table.gather(1, cheap))
    two = _means(halves, halves[1])
    moved = table.scatter(1, cheap, one).scatter(1, cheap + 1, two[:, 1:]).scatter(1, worst, two[:, :1])
    return torch.where(fits, moved, table).sort(dim=1).values
