"""How the scripts of this folder time: two pieces of work by turns, so that a slow minute hits both."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS = 0.1
"""How long one timing takes at least."""


def seconds(work: Callable[[], object]) -> float:
    """Return how long some work takes, done as often as fills a timing."""
    start, n = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < SECONDS:
        work()
        n += 1
    return passed / n


def by_turns(one: Callable[[], object], other: Callable[[], object], rounds: int) -> list[tuple[float, float]]:
    """Return the seconds of both, round by round."""
    return [(seconds(one), seconds(other)) for _ in range(rounds)]
