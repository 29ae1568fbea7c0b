"""Online learning: steps on single samples, which compiled backends take in a way of their own, are the walk's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fastbp.kernels import Activation, Loss, Optimizer, activation_function
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbp import kernels
from fastbp.layout import Layout
from fastbp.plan import Data, no_data, run_buffers, training_plan

OUTPUTS = {
    (Loss.CROSS_ENTROPY, Activation.SOFTMAX): True,
    (Loss.BINARY_CROSS_ENTROPY, Activation.LOGISTIC): False,
    (Loss.SQUARED_ERROR, Activation.IDENTITY): False,
    (Loss.SQUARED_ERROR, Activation.SOFTMAX): False,
    (Loss.POISSON, Activation.EXP): False,
}
"""Losses and output activations, and whether the targets are classes."""


def train(
    backend: kernels.Backend, sizes: tuple[int, ...], n: int, online: bool = True, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Train on n samples in turn; return the parameters and the run's losses."""
    rng, layout, dtype = np.random.default_rng(0), Layout(sizes, bias=options.get("bias", True)), options["dtype"]
    loss, output = options.get("output", (Loss.CROSS_ENTROPY, Activation.SOFTMAX))
    codes = (*[options.get("hidden", Activation.RELU)] * (layout.n_layers - 1), output)
    activations = tuple(activation_function(code) for code in codes)
    X = rng.standard_normal((n, sizes[0])) * (rng.random((n, sizes[0])) < options.get("density", 0.5))
    data = {**no_data(dtype, sizes[0], sizes[-1]), "X": X.astype(dtype)}
    data["X"][options.get("nan_in", [])] = np.nan
    if OUTPUTS[loss, output]:
        data["classes"] = rng.integers(0, sizes[-1], n)
    else:
        data["y"] = rng.random((n, sizes[-1])).astype(dtype)
    if options.get("weighted"):
        data["sample_weight"] = rng.random((n, 1)).astype(dtype)
    form = Data(classes=bool(data["classes"].size), weighted=bool(data["sample_weight"].size), checked=False)
    plan = training_plan(layout, activations, loss, Optimizer.SGD, 1, form)
    rows = plan.rows.copy()
    assert rows["online"][0] == 1
    rows["online"] = online
    params = (options.get("scale", 0.2) * rng.standard_normal(layout.size)).astype(dtype)
    steps = kernels.step_table(n, rate=rng.uniform(0, 0.1, n))
    steps["l2"][options.get("penalty_in", [])] = 0.1
    buffers, losses = run_buffers(plan, backend, data, {"params": params}, 1), np.zeros(3)
    backend.train_steps(rows, steps, rng.permutation(n), 1, buffers, losses, n_threads=1)
    return params, losses


def check_same(backend: kernels.Backend, sizes: tuple[int, ...], n: int, **options: Any) -> np.ndarray:
    """Compare with the walk of the plan, bit for bit; return the losses."""
    walked, wanted = train(backend, sizes, n, online=False, **options)
    params, losses = train(backend, sizes, n, **options)
    np.testing.assert_array_equal(params, walked)
    np.testing.assert_array_equal(losses, wanted)
    return losses


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(deadline=None)  # the first call compiles
@given(
    sizes=st.lists(st.integers(1, 150), min_size=2, max_size=5),
    n=st.integers(1, 50),
    output=st.sampled_from(list(OUTPUTS)),
    hidden=st.sampled_from([code for code in Activation if code <= Activation.SIGN and code != Activation.SOFTMAX]),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    weighted=st.booleans(),
    bias=st.booleans(),
)
def test_samples_in_turn_give_the_bits_of_the_walk(
    compiled_name: str, dtype: str, sizes: list[int], n: int, **options: Any
) -> None:
    losses = check_same(kernels.backend(compiled_name), tuple(sizes), n, dtype=dtype, **options)
    assert losses[2] == n


@pytest.mark.parametrize("place", [0, 1, 20, 21, 39])
def test_a_penalty_in_between(compiled: str, place: int) -> None:
    losses = check_same(kernels.backend(compiled), (30, 20, 4), 40, dtype="float32", penalty_in=[place])
    assert losses[1] > 0
    assert losses[2] == 40


@pytest.mark.parametrize("place", [0, 1, 20, 39])
def test_samples_that_are_not_finite_end_the_run(compiled: str, place: int) -> None:
    losses = check_same(kernels.backend(compiled), (30, 20, 4), 40, dtype="float32", nan_in=[place])
    assert losses[2] < 40


@pytest.mark.parametrize("hidden", [Activation.RELU, Activation.TANH])
def test_errors_that_overflow_end_as_in_the_walk(compiled: str, hidden: Activation) -> None:
    """Weights so large that products with the errors, and then the parameters, become infinite and NaN."""
    output = Loss.SQUARED_ERROR, Activation.IDENTITY
    params, _ = train(kernels.backend(compiled), (5, 30, 3), 40, dtype="float32", output=output, scale=1e18)
    assert not np.isfinite(params).all()
    check_same(kernels.backend(compiled), (5, 30, 3), 40, dtype="float32", output=output, hidden=hidden, scale=1e18)


@pytest.mark.parametrize("change", ["batch", "rule", "sparse"])
def test_other_plans_are_walked(change: str) -> None:
    rule = Optimizer.ADAM if change == "rule" else Optimizer.SGD
    data, layout = Data(sparse=change == "sparse", classes=True), Layout((4, 3))
    activations = (activation_function(Activation.SOFTMAX),)
    plan = training_plan(layout, activations, Loss.CROSS_ENTROPY, rule, 1 + (change == "batch"), data)
    assert plan.rows["online"][0] == 0
