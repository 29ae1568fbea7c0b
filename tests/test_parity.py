"""Drop-in means the same numbers: mixes of parameters and data on scikit-learn's estimators and on fastbp's.

A sample in which all pairs of values occur runs each time, thousands of mixes with ``-m exhaustive``. While fastbp's
side runs, scikit-learn's loops raise.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

import parity
import pytest
from conftest import DIFFERENCES, only_kernels

import fastbp

COVERING = [case for seed in range(3) for case in parity.covering_cases(seed)]
N_CHUNKS, CHUNK = 40, 100


@pytest.mark.parametrize("case", COVERING, ids=str)
def test_mix(case: parity.Case, compiled: str, record_property: Callable[[str, Any], None]) -> None:
    theirs = parity.sklearn_observation(case)
    with only_kernels():
        ours = parity.observe(case, fastbp)
    record_property(DIFFERENCES, parity.compare(case, ours, theirs))


@pytest.mark.exhaustive
@pytest.mark.parametrize("chunk", range(N_CHUNKS))
def test_random_mixes(chunk: int, compiled: str, record_property: Callable[[str, Any], None]) -> None:
    cases = parity.random_cases(CHUNK, seed=1000 + chunk)
    theirs = [parity.sklearn_observation(case) for case in cases]
    with only_kernels():
        ours = [parity.observe(case, fastbp) for case in cases]
    largest: dict[str, float] = {}
    failed = {}
    for case, seen, expected in zip(cases, ours, theirs, strict=True):
        try:
            for what, difference in parity.compare(case, seen, expected).items():
                largest[what] = max(difference, largest.get(what, 0.0))
        except AssertionError as error:
            failed[str(case)] = str(error)
    record_property(DIFFERENCES, largest)
    assert not failed


def test_covering_sample_covers() -> None:
    """Every allowed pair of values of two axes occurs; a mix that scikit-learn refuses does not."""
    seen = {pair for case in parity.covering_cases() for pair in parity.pairs(vars(case))}
    assert all(parity.allowed(vars(case)) for case in COVERING)
    wanted = {
        ((a, x), (b, y))
        for (a, b) in combinations(parity.AXES, 2)
        for x in parity.AXES[a]
        for y in parity.AXES[b]
        if parity.allowed({a: x, b: y})
    }
    assert seen == wanted
    assert len(wanted) > 500


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lbfgs_mixes_train_long(dtype: str) -> None:
    """Most mixes are held against scikit-learn over all 20 iterations, not over the fewer of `parity.n_epochs`."""
    lengths = [parity.n_epochs(case) for case in COVERING if case.kind == f"{dtype} lbfgs"]
    assert len(lengths) >= 10
    assert lengths.count(20) >= (0.6 if dtype == "float32" else 0.9) * len(lengths)


def test_nan_passes_no_comparison() -> None:
    case = COVERING[0]
    theirs, ours = parity.sklearn_observation(case), parity.observe(case, fastbp)
    parity.compare(case, ours, theirs)
    ours.arrays["coefs_0"] = ours.arrays["coefs_0"] * float("nan")
    with pytest.raises(AssertionError, match="coefs_0"):
        parity.compare(case, ours, theirs)
