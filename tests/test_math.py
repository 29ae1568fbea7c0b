"""Exponential, logistic and tanh of the compiled backends: stated error, special values, no scalar tails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbp import kernels

LARGEST_ERROR = {"exp": 1.5, "logistic": 2.0, "tanh": 2.0, "log": 2.0}
"""In units of the last place of the exact result."""

EXACT: dict[str, Callable[[Any], Any]] = {
    "exp": np.exp,
    "logistic": lambda z: 1 / (1 + np.exp(-z)),
    "tanh": np.tanh,
}
"""Judged in extended precision (80 bits on x86-64)."""


def activate(backend: kernels.Backend, activation: str, z: np.ndarray) -> np.ndarray:
    """act(z), through a layer of one input whose weights are z: each z stands in another lane."""
    a = np.empty((1, len(z)), z.dtype)
    backend.linear_forward(np.ones((1, 1), z.dtype), z.reshape(1, -1), z[:0], activation, a)
    return a[0]


def errors(a: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance from the exact value in units of the last place."""
    return np.abs(a.astype(np.longdouble) - exact) / np.spacing(np.abs(exact).astype(a.dtype))


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="no precision beyond float64 to judge with")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", EXACT)
def test_errors_stay_below_what_is_stated(compiled: str, activation: str, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    z = np.concatenate(
        [
            rng.uniform(-80, 80, 200_000),
            rng.normal(size=500_000),
            rng.uniform(-1, 1, 20_000) * 10.0 ** rng.uniform(-30, 0, 20_000),
            np.log(2) * np.arange(-100, 100),
            np.log(2) * (np.arange(-100, 100) + 0.5),
        ]
    ).astype(dtype)
    found = errors(activate(kernels.backend(compiled), activation, z), EXACT[activation](z.astype(np.longdouble)))
    worst = found.argmax()
    assert found[worst] <= LARGEST_ERROR[activation], f"{found[worst]} ulp at {z[worst]!r}"


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="no precision beyond float64 to judge with")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_errors_of_the_logarithm_stay_below_what_is_stated(compiled: str, dtype: Any) -> None:
    """Seen through the loss of one output, -log(p) where the target is 1."""
    backend, rng = kernels.backend(compiled), np.random.default_rng(0)
    p = np.concatenate([rng.uniform(0, 1, 2000), 1 - 10 ** rng.uniform(-5, 0, 1000), 10 ** rng.uniform(-6, 0, 1000)])
    p = p.astype(dtype)
    one, none, delta = np.ones((1, 1), dtype), np.empty(0, dtype), np.empty((1, 1), dtype)
    options = "logistic", "binary_cross_entropy", delta
    found = np.array([backend.output_delta(value.reshape(1, 1), one, none, *options) for value in p])
    assert errors(found.astype(dtype), -np.log(p.astype(np.longdouble))).max() <= LARGEST_ERROR["log"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_values(compiled: str, dtype: Any) -> None:
    backend = kernels.backend(compiled)
    z = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e4, -1e4], dtype)
    for activation, expected in (
        ("identity", z),
        ("relu", [np.nan, np.inf, 0, 0, 0, 1e4, 0]),
        ("logistic", [np.nan, 1, 0, 0.5, 0.5, 1, 0]),
        ("tanh", [np.nan, 1, -1, 0, 0, 1, -1]),
        ("exp", [np.nan, np.inf, 0, 1, 1, np.inf, 0]),
    ):
        np.testing.assert_array_equal(activate(backend, activation, z), np.asarray(expected, dtype), err_msg=activation)
    assert np.isnan(activate(backend, "softmax", z)).all()
    np.testing.assert_array_equal(activate(backend, "softmax", np.array([1e30, -1e30], dtype)), [1, 0])


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=70), position=st.integers(0, 69))
@pytest.mark.parametrize("activation", ["logistic", "tanh", "exp"])
def test_a_value_does_not_depend_on_its_lane(
    compiled_name: str, activation: str, values: list[float], position: int
) -> None:
    backend = kernels.backend(compiled_name)
    z = np.array(values, np.float32)
    k = position % len(z)
    assert activate(backend, activation, z)[k] == activate(backend, activation, z[k : k + 1])[0]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_probabilities_of_a_softmax_sum_to_one(compiled: str, dtype: Any) -> None:
    backend = kernels.backend(compiled)
    rng = np.random.default_rng(1)
    for n in (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 1000):
        z = rng.normal(scale=10, size=n).astype(dtype)
        p = activate(backend, "softmax", z)
        exact = np.exp(z.astype(np.longdouble) - z.max())
        np.testing.assert_allclose(p, exact / exact.sum(), rtol=50 * np.finfo(dtype).eps)
