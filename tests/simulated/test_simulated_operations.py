"""Values of every operation of the CUDA backend against the float64 reference, in the simulator, on small shapes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_contract import (  # noqa: F401 - run here for the backend of this folder
    test_backend_has_scratch_size,
    test_backend_packs_and_unpacks,
    test_operation_has_the_contracts_arguments,
    test_operations_are_defined_in_the_contracts_order,
)
from test_operations import ACTIVATIONS, DTYPES, KEPT, OPTIMIZERS

from fastbp import kernels
from fastbp.bench.operations import Options, check_operation, run_operation


@pytest.fixture(params=["cuda"], scope="session")
def backend_name(request: pytest.FixtureRequest) -> str:
    """The name of the backend of this folder's tests."""
    return str(request.param)


SHAPES = ((1, 1, 1), (5, 4, 3), (9, 18, 6), (3, 33, 7))
"""Batch, inputs, outputs: one, less than a vector or a tile, more than one."""

RUNS = ("train_steps", "predict", "predict_rows")


def check(operation: str, dtype: str, shape: tuple[int, int, int] | None = None, **modes: Any) -> None:
    batch, inputs, outputs = shape or ((3, 3, 2) if operation in RUNS else (5, 4, 3))
    options = Options(batch=batch, inputs=inputs, outputs=outputs, **modes)
    check_operation(kernels.backend("cuda"), operation, dtype, options)


@pytest.fixture(params=["walked", "launched"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Small networks' steps by one kernel, and kernel by kernel as those of larger ones."""
    if request.param == "launched":
        monkeypatch.setattr("fastbp.kernels.numba_cuda.runs.MOST_WALKED_FLOPS", 0)
    return str(request.param)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("operation", [name for name in kernels.OPERATIONS if name not in RUNS])
def test_every_shape(operation: str, shape: tuple[int, int, int], dtype: str) -> None:
    check(operation, dtype, shape)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("operation", RUNS)
def test_runs(operation: str, dtype: str) -> None:
    check(operation, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation: str, dtype: str) -> None:
    for operation in ("linear_forward", "activation_delta"):
        check(operation, dtype, activation=activation)
    if activation not in KEPT:
        check("output_delta", dtype, activation=activation)
    if activation != "softmax":
        for operation in ("batch_norm", "normalize", "activate", "dropout", "backprop_delta"):
            check(operation, dtype, activation=activation)


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy", "binary_cross_entropy", "poisson"])
def test_every_loss(way: str, loss: str, weighted: bool) -> None:
    check("output_delta", "float64", loss=loss, weighted=weighted)
    check("train_steps", "float32", loss=loss, weighted=weighted)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer(way: str, optimizer: str) -> None:
    decay = 0.0 if optimizer in ("sgd", "momentum", "nesterov") else 0.1
    modes = {"optimizer": optimizer, "decay": decay, "clip": 0.2, "l2": 0.3}
    check("linear_update", "float64", **modes, bias=False)
    check("train_steps", "float32", **modes)


def test_a_gradient_is_added_to_another() -> None:
    for operation in ("linear_grad", "batch_norm_delta"):
        check(operation, "float64", keep=1.0, l2=0.0)


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
    check("train_steps", "float32", **modes)
    if not modes.get("drops"):
        check("predict", "float32", **modes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("many_weights", [True, False])
def test_large_tiles(dtype: str, many_weights: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results of some tiles, with their terms in slices or in one."""
    monkeypatch.setattr("fastbp.kernels.numba_cuda.tiles.MANY_WEIGHTS", 1 if many_weights else 2**20)
    shape = (17, 18, 35) if many_weights else (17, 34, 10)
    for operation in ("linear_forward", "backprop_delta", "linear_update"):
        check(operation, dtype, shape)


def test_an_output_does_not_depend_on_its_batch() -> None:
    """Not even on the tile that its batch gets."""
    backend, rng = kernels.backend("cuda"), np.random.default_rng(0)
    X, W, b = rng.normal(size=(40, 70)), rng.normal(size=(70, 20)), rng.normal(size=20)
    whole, single = np.empty((40, 20)), np.empty((1, 20))
    backend.linear_forward(X, W, b, "tanh", whole)
    for r in (0, 17, 39):
        backend.linear_forward(X[r : r + 1], W, b, "tanh", single)
        np.testing.assert_array_equal(single[0], whole[r])


def test_a_run_can_be_repeated_bit_for_bit(way: str) -> None:
    backend, options = kernels.backend("cuda"), Options(batch=5, inputs=4, outputs=3)
    first, second = (run_operation(backend, "train_steps", np.dtype("f4"), np.dtype("f4"), options) for _ in range(2))
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name])


def test_a_long_order_is_the_references() -> None:
    u = np.random.default_rng(0).random(300)
    order, expected = np.empty(300, np.int64), np.empty(300, np.int64)
    kernels.backend("cuda").shuffle(u.copy(), order)
    kernels.backend("numpy").shuffle(u, expected)
    np.testing.assert_array_equal(order, expected)


def rounded(x: np.ndarray) -> np.ndarray:
    """Return numbers of float32 rounded to TF32, 10 bits behind the point."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.round(mantissa * 2**11) / 2**11, exponent)


@pytest.mark.parametrize("shape", [(3, 5, 2), (33, 9, 17)])
def test_products_by_tensor_cores(shape: tuple[int, int, int]) -> None:
    """Of numbers rounded to TF32 the sums are those of float32, whichever thread of a warp has which number."""
    from fastbp.kernels.numba_cuda import on_device

    backend, rng, (n, n_in, n_out) = kernels.backend("cuda"), np.random.default_rng(0), shape
    shapes = (n, n_in), (n_in, n_out), (n, n_out)
    X, W, delta = (rng.standard_normal(size).astype(np.float32) for size in shapes)
    nothing, a, below = np.empty(0, np.float32), np.empty_like(delta), np.empty_like(X)
    gradient, step = np.empty_like(W), kernels.step_table()
    with on_device(precision="tf32"):
        backend.linear_forward(X, W, nothing, "identity", a)
        backend.backprop_delta(delta, W, X, "identity", below)
        backend.linear_grad(X, delta, step, W, gradient, nothing)
    products = {"a": (a, X, W), "below": (below, delta, W.T), "gradient": (gradient, X.T, delta)}
    for name, (found, left, right) in products.items():
        expected = rounded(left) @ rounded(right)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max(), err_msg=name)
        assert np.abs(found - left.astype(np.float64) @ right).max() > 1e-5
    backend.linear_forward(X, W, nothing, "identity", a)
    np.testing.assert_allclose(a, X.astype(np.float64) @ W, rtol=0, atol=1e-5)
