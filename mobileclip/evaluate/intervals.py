"""How sure a share is: Wilson's interval, also for answers that come in clusters, and McNemar's test for two encoders.

Sources: Wilson (1927), as given in Brown, Cai and DasGupta (2001), section 3.1.1; the effective number of answers of a
clustered sample in Korn and Graubard (1998); McNemar (1947), in its exact binomial form.
"""

import math

import numpy as np
import numpy.typing as npt

Z = 1.959963984540054
"""Two-sided 95 % of the normal distribution."""


def wilson(right: float, n: float) -> tuple[float, float]:
    """95 % interval of a share of `right` in `n` answers, each in 0..1; (0, 1) for no answer."""
    if n <= 0:
        return 0.0, 1.0
    share = right / n
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return (0.0 if right <= 0 else middle - half), (1.0 if right >= n else middle + half)


def clustered(right: npt.NDArray[np.bool_], cluster: npt.NDArray[np.int64]) -> tuple[float, float]:
    """95 % interval of the share of `right` where answers of one `cluster` (captions of one picture) go together.

    Wilson's interval with `n` divided by the design effect; where all answers are equal that effect cannot be seen, and
    each cluster counts as one answer.
    """
    _, of = np.unique(cluster, return_inverse=True)
    sizes = np.bincount(of).astype(np.float64)
    groups, n = len(sizes), len(right)
    share = float(right.mean()) if n else 0.0
    if groups == n:
        return wilson(share * n, n)
    if groups < 2 or share in (0.0, 1.0):
        return wilson(share * groups, groups)
    excess = np.bincount(of, right) - share * sizes
    variance = groups / (groups - 1) * float((excess**2).sum()) / n**2
    effective = n if variance == 0 else min(float(n), share * (1 - share) / variance)
    return wilson(share * effective, effective)


def mcnemar(only_first: int, only_second: int) -> float:
    """Chance of a split at least as uneven as this among the answers that one of two encoders alone gets right."""
    n, few = only_first + only_second, min(only_first, only_second)
    if n == 0:
        return 1.0
    logs = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2) for k in range(few + 1)]
    top = max(logs)
    return min(1.0, 2 * math.exp(top) * math.fsum(math.exp(value - top) for value in logs))
