"""Values of every operation of the CUDA backend on a GPU, against the float64 reference, on real sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_operations import ACTIVATIONS, DTYPES, KEPT, OPTIMIZERS, SHAPES

from fastbp import kernels
from fastbp.bench.operations import Options, check_operation, run_operation

LARGE = ((257, 784, 129), (200, 1025, 1030))
"""Batch, inputs, outputs: more than a tile of each kind, with slices and, of the last, without."""


def check(operation: str, dtype: str, shape: tuple[int, int, int] = (33, 65, 49), **modes: Any) -> None:
    batch, inputs, outputs = shape
    options = Options(batch=batch, inputs=inputs, outputs=outputs, **modes)
    check_operation(kernels.backend("cuda"), operation, dtype, options)


@pytest.fixture(params=["walked", "launched"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small networks' steps by one kernel, and kernel by kernel."""
    if request.param == "launched":
        monkeypatch.setattr("fastbp.kernels.numba_cuda.runs.MOST_WALKED_FLOPS", 0)
    return str(request.param)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", kernels.OPERATIONS)
def test_every_shape(operation: str, dtype: str) -> None:
    for shape in (*SHAPES, *LARGE):
        check(operation, dtype, shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str, dtype: str) -> None:
    for operation in ("linear_forward", "activation_delta"):
        check(operation, dtype, activation=activation)
    if activation not in KEPT:
        check("output_delta", dtype, activation=activation)
    if activation != "softmax":
        for operation in ("batch_norm", "normalize", "activate", "dropout", "backprop_delta", "train_steps"):
            check(operation, dtype, activation=activation)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy", "binary_cross_entropy", "poisson"])
def test_every_loss(way: str, loss: str, dtype: str) -> None:
    for weighted in (True, False):
        for operation in ("output_delta", "train_steps"):
            check(operation, dtype, (40, 9, 17), loss=loss, weighted=weighted)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer(way: str, optimizer: str, dtype: str) -> None:
    decay = 0.0 if optimizer in ("sgd", "momentum", "nesterov") else 0.1
    modes = {"optimizer": optimizer, "decay": decay, "clip": 0.2, "l2": 0.3}
    for operation in ("linear_update", "train_steps"):
        check(operation, dtype, **modes)


@pytest.mark.parametrize(
    "modes",
    [
        {"sparse": True},
        {"classes": True, "loss": "cross_entropy", "activation": "gelu"},
        {"batch_norm": True},
        {"maxout": True},
        {"drops": True, "activation": "silu"},
        {"batch_norm": True, "maxout": True, "drops": True, "l2": 0.0},
    ],
    ids=str,
)
def test_runs_of_all_kinds(way: str, modes: dict[str, Any]) -> None:
    check("train_steps", "float32", (20, 9, 7), **modes)
    if not modes.get("drops"):
        check("predict", "float32", (20, 9, 7), **modes)


def test_an_output_does_not_depend_on_its_batch() -> None:
    backend, rng = kernels.backend("cuda"), np.random.default_rng(0)
    for n_in, n_out in ((784, 100), (1100, 1000)):
        X, W = rng.normal(size=(600, n_in)).astype("f4"), rng.normal(size=(n_in, n_out)).astype("f4")
        b, whole, single = np.zeros(n_out, "f4"), np.empty((600, n_out), "f4"), np.empty((1, n_out), "f4")
        backend.linear_forward(X, W, b, "tanh", whole)
        for r in (0, 317, 599):
            backend.linear_forward(X[r : r + 1], W, b, "tanh", single)
            np.testing.assert_array_equal(single[0], whole[r])


def test_a_run_can_be_repeated_bit_for_bit(way: str) -> None:
    backend, options = kernels.backend("cuda"), Options(batch=64, inputs=33, outputs=17)
    runs = [run_operation(backend, "train_steps", np.dtype("f4"), np.dtype("f4"), options) for _ in range(3)]
    for name, values in runs[0].items():
        for again in runs[1:]:
            np.testing.assert_array_equal(values, again[name])


def test_a_long_order_is_the_references() -> None:
    u = np.random.default_rng(0).random(100_000)
    order, expected = np.empty(len(u), np.int64), np.empty(len(u), np.int64)
    kernels.backend("cuda").shuffle(u.copy(), order)
    kernels.backend("numpy").shuffle(u, expected)
    np.testing.assert_array_equal(order, expected)
