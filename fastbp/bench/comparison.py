"""Two backends side by side, operation by operation: what they compute, then how long they take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .. import kernels
from .cases import Case
from .operations import Difference, arguments_of, largest_difference, run_operation
from .pairs import Ratio, ratio_of, repeats, seconds

PAGES, CACHE_LINE = 16 * 4096, 64
"""Bytes."""

WRONG = "wrong"
"""The verdict where a result is further from the reference than is allowed; such a case is not timed."""


@dataclass(frozen=True)
class Comparison:
    """What two backends make of a case.

    Parameters
    ----------
    case : Case
    errors : pair of Difference
        Of each backend from the float64 reference.
    difference : Difference
        Of the second backend from the first one.
    times : list of (float, float)
        Seconds of both, round by round.
    ratio : Ratio or None
        How many times as fast the second one is.
    """

    case: Case
    errors: tuple[Difference, Difference]
    difference: Difference
    times: list[tuple[float, float]]
    ratio: Ratio | None

    @property
    def verdict(self) -> str:
        """`WRONG`, or the ratio's verdict."""
        return WRONG if self.ratio is None else self.ratio.verdict

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it: without what is not finite."""
        return {**asdict(self, dict_factory=_finite), "case": str(self.case), "verdict": self.verdict}


def compare(backends: Sequence[kernels.Backend], cases: Iterable[Case], rounds: int) -> Iterator[Comparison]:
    """Compare two backends case by case.

    Parameters
    ----------
    backends : pair of Backend
    cases : iterable of Case
    rounds : int
        Timings of each. Every round has arguments of its own, at places drawn at random: where arrays come to lie, and
        how far from each other, makes an operation up to a fifth faster or slower.

    Yields
    ------
    Comparison
    """
    first, second = backends
    for case in cases:
        errors, difference = _differences(first, second, case)
        is_right = all(error.share <= 1 for error in errors)
        times = _times(first, second, case, rounds) if is_right else []
        yield Comparison(case, errors, difference, times, ratio_of(times) if is_right else None)


def _finite(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in fields}


def _differences(
    first: kernels.Backend, second: kernels.Backend, case: Case
) -> tuple[tuple[Difference, Difference], Difference]:
    dtype, options = np.dtype(case.dtype), case.options
    exact = run_operation(kernels.backend("numpy"), case.operation, dtype, np.dtype(np.float64), options)
    ours, theirs = (run_operation(backend, case.operation, dtype, dtype, options) for backend in (first, second))
    errors = largest_difference(ours, exact, dtype, options), largest_difference(theirs, exact, dtype, options)
    return errors, largest_difference(theirs, ours, dtype, options)


def _times(first: kernels.Backend, second: kernels.Backend, case: Case, rounds: int) -> list[tuple[float, float]]:
    """Return the seconds of both, by turns; who begins changes from round to round."""
    dtype, places = np.dtype(case.dtype), np.random.default_rng(0)

    def work(backend: kernels.Backend) -> Any:
        arguments = arguments_of(backend, case.operation, dtype, dtype, case.options)
        arguments = {name: _moved(value, places) for name, value in arguments.items()}
        operation = getattr(backend, case.operation)
        return lambda: operation(**arguments)

    both = first, second
    n = [repeats(work(backend)) for backend in both]
    times = []
    for number in range(rounds):
        pair, taken = [work(backend) for backend in both], [0.0, 0.0]
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            pair[which]()  # its arguments come into the caches
            taken[which] = seconds(pair[which], n[which])
        times.append((taken[0], taken[1]))
    return times


def _moved(value: Any, places: np.random.Generator) -> Any:
    """Return a copy of an array at a random cache line of `PAGES`; of buffers each one's, of all else itself."""
    if isinstance(value, kernels.Buffers):
        return kernels.Buffers(*(_moved(array, places) for array in value))
    if not isinstance(value, np.ndarray):
        return value
    room = np.empty(value.nbytes + PAGES + CACHE_LINE, np.uint8)
    start = -room.ctypes.data % CACHE_LINE + CACHE_LINE * int(places.integers(PAGES // CACHE_LINE))
    moved = room[start : start + value.nbytes].view(value.dtype).reshape(value.shape)
    moved[...] = value
    return moved
