"""Two pieces of work by turns, so that a slow minute hits both, and what their times say of the ratio."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

Work = Callable[[], object]

SECONDS = 2e-3
"""How long a timing takes at least."""


@dataclass(frozen=True)
class Ratio:
    """How many times as fast the second of two is, and between which ratios the true median lies at 99 %.

    Parameters
    ----------
    value, low, high : float
    """

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """``"faster"``, ``"slower"``, or ``"same"`` where noise alone could make the difference."""
        if self.low > 1:
            return "faster"
        return "slower" if self.high < 1 else "same"

    def is_slower_than(self, factor: float) -> bool:
        """Tell whether the second surely takes more than ``factor`` times as long."""
        return self.high * factor < 1


def seconds(work: Work, n: int) -> float:
    """Return how long some work takes, done n times."""
    start = time.perf_counter()
    for _ in range(n):
        work()
    return (time.perf_counter() - start) / n


def repeats(work: Work) -> int:
    """Return how often some work must be done to fill a timing."""
    n = 1
    while (passed := n * seconds(work, n)) < SECONDS:
        n = max(2 * n, min(int(1.2 * n * SECONDS / max(passed, 1e-9)), 100 * n))
    return n


def ratio_of(times: Sequence[tuple[float, float]]) -> Ratio:
    """Return the median of paired ratios, and its interval by order statistics, which asks nothing of the noise.

    Parameters
    ----------
    times : sequence of (float, float)
        Seconds of the first and the second, round by round; of less than eight rounds the interval is infinite.
    """
    from scipy.stats import quantile_test

    ratios = [first / second for first, second in times]
    interval = quantile_test(ratios, q=1, p=0.5).confidence_interval(0.99)
    low, high = float(interval.low), float(interval.high)
    return Ratio(statistics.median(ratios), 0.0 if math.isnan(low) else low, math.inf if math.isnan(high) else high)
