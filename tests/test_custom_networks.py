"""Networks and trainers with functions of users, beside built-in ones of the reference, and what is refused."""

from __future__ import annotations

import copy
import gc
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from small_problem import CODES, X

import fastbp
from fastbp import kernels
from fastbp.plan import Data, Layout, no_data, prediction_plan, run_buffers, training_plan

DTYPES = ["float32", "float64"]
SHIFT = 0.5


def tanh(z: Any) -> Any:
    return 1 - 2 / (math.exp(2 * z) + 1)


def silu(z: Any) -> Any:
    return z / (1 + math.exp(-z))


def softplus(z: Any) -> Any:
    return max(z, 0) + math.log1p(math.exp(-abs(z)))


def squared_error(a: Any, y: Any) -> Any:
    return 0.5 * (a - y) ** 2


def poisson(a: Any, y: Any) -> Any:
    return y * math.log(y / a) - y + a


ACTIVATIONS = {function.__name__: fastbp.CustomActivation(function) for function in (tanh, silu, softplus)}
SQUARED_ERROR = fastbp.CustomLoss(squared_error)
POISSON = fastbp.CustomLoss(poisson, domain=(0, math.inf), targets=(1e-3, math.inf))

RNG = np.random.default_rng(0)
SAMPLES = RNG.normal(size=(107, 6)) * (RNG.random((107, 6)) < 0.7)
CLASSES = RNG.integers(0, 3, 107)
TARGETS = RNG.uniform(0.1, 1, (107, 3))
WEIGHTS = RNG.uniform(0.1, 2, 107)


def learned(
    backend: str, hidden: Any, output: Any, loss: Any, data: Any, y: NDArray[Any], *, sizes: Any, **options: Any
) -> tuple[NDArray[Any], list[float], NDArray[Any]]:
    """Train a network; return its parameters, its losses in training and validation, and what it predicts."""
    network = {"dtype": options.pop("dtype", "float64"), "random_state": 1, "backend": backend}
    net, weights = fastbp.Network(sizes, hidden, output, **network), options.pop("sample_weight", None)
    trainer = fastbp.Trainer(net, loss=loss, random_state=0, backend=backend, **options)
    history = trainer.fit(data, y, epochs=2, sample_weight=weights, validation_data=(data, y), alpha=0.1)
    return net.parameters, history.loss + history.validation_loss, net.forward(data)


def check_same(custom: tuple[Any, Any, Any], built_in: tuple[Any, Any, Any], *data: Any, **options: Any) -> None:
    """Compare custom functions in the Numba backend with built-in ones in the reference."""
    single = options.get("dtype") == "float32"
    wanted, got = learned("numpy", *built_in, *data, **options), learned("numba", *custom, *data, **options)
    for ours, theirs in zip(got, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-4 if single else 1e-9, atol=1e-5 if single else 1e-11)


# ---------------------------------------------------------------------------------------------- activations


@pytest.mark.source("S25", "Book learning outcomes")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch_size", [1, 3, 32, 107])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_custom_activation_trains_as_the_built_in_one(name: str, batch_size: int, dtype: str) -> None:
    options = {"dtype": dtype, "batch_size": batch_size, "learning_rate": 0.01, "sizes": (6, 19, 7, 3)}
    pair = (ACTIVATIONS[name], "softmax", "cross_entropy"), (name, "softmax", "cross_entropy")
    check_same(*pair, SAMPLES, CLASSES, **options)


@pytest.mark.source("S25", "Book learning outcomes")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch_size", [1, 32])
def test_sparse_samples_weights_clipping_and_averages(batch_size: int, dtype: str) -> None:
    extras = {"clip_value": 0.05, "clip_norm": 0.1, "average_decay": 0.5, "optimizer": "nadam"}
    options = {"dtype": dtype, "batch_size": batch_size, "sample_weight": WEIGHTS, "sizes": (6, 19, 3), **extras}
    pair = (ACTIVATIONS["silu"], "softmax", "cross_entropy"), ("silu", "softmax", "cross_entropy")
    check_same(*pair, scipy.sparse.csr_array(SAMPLES), CLASSES, **options)


@pytest.mark.source("S25", "Book learning outcomes")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", [(6, 3), (6, 5, 3)])
@pytest.mark.parametrize("batch_size", [1, 32])
def test_a_custom_output(batch_size: int, sizes: tuple[int, ...], dtype: str) -> None:
    options = {"dtype": dtype, "batch_size": batch_size, "optimizer": "sgd", "learning_rate": 0.05, "sizes": sizes}
    for hidden, name, loss in (("relu", "tanh", "squared_error"), ("gelu", "silu", SQUARED_ERROR)):
        pair = (hidden, ACTIVATIONS[name], loss), (hidden, name, "squared_error")
        check_same(*pair, SAMPLES, TARGETS, **options)


@pytest.mark.source("S25", "Book learning outcomes")
def test_each_layer_may_have_its_own() -> None:
    net = fastbp.Network((6, 4, 5, 2), [silu, "relu"], tanh, dtype="float64", random_state=0)
    (W1, W2, W3), (b1, b2, b3) = net.weights, net.biases
    z = SAMPLES @ W1 + b1
    wanted = np.tanh(np.maximum(z / (1 + np.exp(-z)) @ W2 + b2, 0) @ W3 + b3)
    np.testing.assert_allclose(net.forward(SAMPLES), wanted, rtol=1e-12, atol=1e-14)
    assert net.hidden_activation == (fastbp.CustomActivation(silu), "relu")
    assert repr(net).startswith("<fastbp.Network 6-4-5-2, CustomActivation(silu)-relu, CustomActivation(tanh), ")


@pytest.mark.source("S25", "Book learning outcomes")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", ["softmax", ACTIVATIONS["tanh"], "identity"])
def test_a_prediction_is_the_same_bit_for_bit_however_it_is_made(output: Any, dtype: str) -> None:
    net = fastbp.Network((6, 37, 5), ACTIVATIONS["silu"], output, dtype=dtype, random_state=0)
    samples = np.random.default_rng(1).normal(size=(301, 6)).astype(dtype)
    together, rows = net.forward(samples), np.empty((301, 5), dtype)
    net.predict_into(samples, rows)
    np.testing.assert_array_equal(rows, together)
    np.testing.assert_array_equal(np.vstack([net.forward(samples[i : i + 1]) for i in range(301)]), together)
    np.testing.assert_array_equal(net.forward(scipy.sparse.csr_array(samples)), together)
    np.testing.assert_array_equal(net.forward(samples[:35]), together[:35])


def steps(dtype: str, loss: Any, n_threads: int, batch_size: int) -> list[NDArray[Any]]:
    """Run three mini-batches and a prediction by the kernels themselves."""
    backend, layout, rng = kernels.backend("numba"), Layout((17, 45, 33, 5)), np.random.default_rng(2)
    n = 2 * batch_size + 1
    functions = [ACTIVATIONS[name].function(dtype) for name in ("silu", "softplus", "tanh")]
    data = {**no_data(dtype, 17, 5), "X": rng.normal(size=(n, 17)).astype(dtype)}
    data["y"] = rng.uniform(0.1, 1, (n, 5)).astype(dtype)
    params = (0.1 * rng.normal(size=layout.size)).astype(dtype)
    plan = training_plan(layout, tuple(functions), loss.function(dtype), kernels.Optimizer.SGD, batch_size, Data())
    buffers, losses = run_buffers(plan, backend, data, {"params": params}, n_threads), np.zeros(3)
    table = kernels.step_table(3, rate=0.1, grad_scale=1 / batch_size)
    backend.train_steps(plan.rows, table, rng.permutation(n), batch_size, buffers, losses, n_threads=n_threads)
    forward, out = prediction_plan(layout, tuple(functions), batch_size, Data()), np.empty((n, 5), dtype)
    buffers = run_buffers(forward, backend, data, {"params": params}, n_threads)
    backend.predict(forward.rows, np.arange(n), batch_size, buffers, out, n_threads=n_threads)
    return [params, losses, out]


@pytest.mark.source("S25", "Book learning outcomes")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch_size", [1, 5, 60, 200])
def test_the_number_of_threads_does_not_change_a_bit(batch_size: int, dtype: str) -> None:
    wanted = steps(dtype, SQUARED_ERROR, 1, batch_size)
    for n_threads in (2, 3):
        for got, expected in zip(steps(dtype, SQUARED_ERROR, n_threads, batch_size), wanted, strict=True):
            np.testing.assert_array_equal(got, expected)


# --------------------------------------------------------------------------------------------------- losses


@pytest.mark.source("S25", "Book learning outcomes")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch_size", [1, 3, 32])
@pytest.mark.parametrize("weights", [None, WEIGHTS], ids=["alike", "weighted"])
@pytest.mark.parametrize(
    ("custom", "built_in", "output"),
    [
        (SQUARED_ERROR, "squared_error", "identity"),
        (SQUARED_ERROR, "squared_error", "softmax"),
        (SQUARED_ERROR, "squared_error", "leaky_relu"),
        (SQUARED_ERROR, "squared_error", "gelu"),
        (POISSON, "poisson", "exp"),
        (POISSON, "poisson", "softplus"),
    ],
)
def test_a_custom_loss_trains_as_the_built_in_one(
    custom: Any, built_in: str, output: str, weights: Any, batch_size: int, dtype: str
) -> None:
    options = {"dtype": dtype, "batch_size": batch_size, "sizes": (6, 19, 3), "sample_weight": weights}
    settings = {"optimizer": "sgd", "learning_rate": 0.02, **options}
    check_same(("relu", output, custom), ("relu", output, built_in), SAMPLES, TARGETS, **settings)


@pytest.mark.source("S25", "Book learning outcomes")
def test_class_numbers_are_targets_of_0_and_1() -> None:
    options = {"batch_size": 32, "sizes": (6, 19, 3)}
    pair = ("relu", "softmax", SQUARED_ERROR), ("relu", "softmax", "squared_error")
    check_same(*pair, SAMPLES, CLASSES, **options)


@pytest.mark.source("S25", "Book learning outcomes")
def test_a_custom_loss_can_be_watched_and_evaluated() -> None:
    """The loss is log cosh: taken by NumPy from what the network predicts."""
    net = fastbp.Network((6, 8, 3), output="identity", dtype="float64", random_state=0)
    trainer = fastbp.Trainer(net, loss=lambda a, y: math.log(math.cosh(a - y)), learning_rate=0.01, random_state=0)
    stopping = fastbp.EarlyStopping("validation_loss", patience=3)
    history = trainer.fit(SAMPLES, TARGETS, epochs=8, validation_data=(SAMPLES, TARGETS), callbacks=[stopping])
    losses = np.log(np.cosh(net.forward(SAMPLES) - TARGETS)).sum(axis=1)
    assert history.validation_loss[-1] == pytest.approx(losses.mean(), rel=1e-12)
    assert trainer.evaluate(SAMPLES, TARGETS, WEIGHTS) == pytest.approx(np.average(losses, weights=WEIGHTS), rel=1e-12)
    assert "loss CustomLoss(<lambda>)" in repr(trainer)


def bent(z: Any) -> Any:
    return z + math.sin(z) if z > 0 else math.expm1(z) * 2


def quartic(a: Any, y: Any) -> Any:
    return (a - y) ** 4 + 0.5 * y * a


BENT, QUARTIC = fastbp.CustomActivation(bent), fastbp.CustomLoss(quartic)


@pytest.mark.source("S25", "Book learning outcomes")
@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("output", [BENT, "softmax", "identity"])
def test_a_step_is_minus_the_gradient_of_the_loss(output: Any, batch_size: int) -> None:
    """By central differences of the loss, which NumPy computes (Cheng 9.2)."""
    rng = np.random.default_rng(3)
    samples, y = rng.normal(size=(batch_size, 4)), rng.uniform(0, 1, (batch_size, 3))
    net = fastbp.Network((4, 5, 3), BENT, output, dtype="float64", random_state=4)
    options = {"optimizer": "sgd", "learning_rate": 1.0, "batch_size": batch_size}
    trainer, start = fastbp.Trainer(net, loss=QUARTIC, **options), net.parameters.copy()

    def loss(parameters: NDArray[Any]) -> float:
        (first, second), (b1, b2) = net.layout.weights(parameters), net.layout.biases(parameters)
        each = np.vectorize(bent)
        a = each(samples @ first + b1) @ second + b2
        a = {BENT: each, "softmax": lambda z: np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)}.get(output, np.array)(a)
        return float(((a - y) ** 4 + 0.5 * y * a).sum() / batch_size)

    slopes = [(loss(start + h) - loss(start - h)) / 2e-6 for h in 1e-6 * np.eye(start.size)]
    history = trainer.fit(samples, y)
    rounding = 4 * np.finfo(float).eps * loss(start) / 1e-6  # of the losses, in a difference quotient
    np.testing.assert_allclose(start - net.parameters, slopes, rtol=1e-6, atol=2e-8 + rounding)
    assert history.loss[0] == pytest.approx(loss(start), rel=1e-12)


# ------------------------------------------------------------------------------------------ operations by hand


@pytest.mark.source("S25", "Book learning outcomes")
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_operations_take_them(dtype: str) -> None:
    backend, rng = kernels.backend("numba"), np.random.default_rng(5)
    z, y, weight = rng.normal(size=(5, 19)), rng.normal(size=(5, 19)).astype(dtype), rng.uniform(1, 2, 5).astype(dtype)
    z = z.astype(dtype)
    a, saved, delta = np.empty_like(z), np.empty_like(z), np.empty_like(z)
    function, tolerance = ACTIVATIONS["silu"].function(dtype), 8 * float(np.finfo(dtype).eps)
    backend.activate(z, function, a, saved)
    s = 1 / (1 + np.exp(-z.astype(np.float64)))
    np.testing.assert_allclose(a, z * s, rtol=tolerance)
    np.testing.assert_allclose(saved, s * (1 + z * (1 - s)), rtol=tolerance, atol=tolerance)
    loss = backend.output_delta(a, y, weight, "identity", SQUARED_ERROR.function(dtype), delta)
    np.testing.assert_allclose(delta, weight[:, None] * (a - y), rtol=tolerance)
    assert loss == pytest.approx((weight[:, None] * (a - y) ** 2).sum() / 2, rel=10 * tolerance)
    product = delta * saved
    backend.activation_delta(saved, function, delta)
    np.testing.assert_array_equal(delta, product)


@pytest.mark.source("S25", "Book learning outcomes")
def test_what_stands_at_no_function_is_refused() -> None:
    """A call of it would end the process: neither made-up addresses, nor those of another dtype or kind."""
    backend, z = kernels.backend("numba"), np.ones((2, 3))
    untouched = np.zeros((2, 3))
    code, function = kernels.Activation.CUSTOM, ACTIVATIONS["silu"]
    loss = SQUARED_ERROR.function("float64")
    for address in (0, 12345, function.function("float32").function, loss.function):
        wrong = kernels.ActivationFunction(code, address)
        with pytest.raises(ValueError, match=rf"holds the address {address}, where there is no custom activation"):
            backend.activate(z, wrong, untouched, untouched.copy())
        layers = Layout((3, 2)).table((wrong,))
        with pytest.raises(ValueError, match=rf"row 0 of layers holds the address {address}"):
            backend.predict_rows(layers, np.ones(3), np.ones(8), np.zeros(2))
        plan = training_plan(Layout((3, 3)), (wrong,), loss, kernels.Optimizer.SGD, 2, Data())
        data = {**no_data("float64", 3, 3), "X": z, "y": z}
        params = np.zeros(12)
        buffers = run_buffers(plan, backend, data, {"params": params}, 1)
        with pytest.raises(ValueError, match=rf"activate, holds the address {address}"):
            backend.train_steps(plan.rows, kernels.step_table(1, rate=1), np.arange(2), 2, buffers, np.zeros(3))
    with pytest.raises(ValueError, match="loss holds the address 7, where there is no custom loss of this process"):
        backend.output_delta(z, z.copy(), np.empty(0), "identity", loss._replace(function=7), untouched)
    with pytest.raises(ValueError, match="'custom' needs the output activation 'identity', got 'relu'"):
        backend.output_delta(z, z.copy(), np.empty(0), "relu", loss, untouched)
    with pytest.raises(ValueError, match="linear_forward takes no custom activation; pass 'identity', and the result"):
        backend.linear_forward(z, np.ones((3, 3)), np.ones(3), function.function("float64"), untouched)
    assert not untouched.any()
    assert not params.any()


@pytest.mark.source("S25", "Book learning outcomes")
@pytest.mark.parametrize("name", ["numpy", "cython"])
def test_the_other_backends_say_who_has_them(name: str) -> None:
    if kernels.backends()[name] != kernels.AVAILABLE:
        pytest.skip(f"backend {name!r} is not available")
    wanted = f"backend '{name}' has no custom functions, which the Numba backend calls; pass backend='numba'"
    custom = ACTIVATIONS["silu"]
    with pytest.raises(ValueError, match=wanted):
        fastbp.Network((6, 4, 2), custom, backend=name)
    net = fastbp.Network((6, 4, 2), "relu", "identity", backend=name)
    with pytest.raises(ValueError, match=wanted):
        fastbp.Trainer(net, loss=SQUARED_ERROR, backend=name)
    with pytest.raises(ValueError, match=wanted):
        fastbp.MLPClassifier(activation=custom, backend=name).fit(X, CODES)
    net = fastbp.Network((6, 4, 2), custom)
    assert net.backend == fastbp.Trainer(net).backend == "numba"
    with pytest.raises(ValueError, match=wanted):
        fastbp.Trainer(net, backend=name)
    net.backend = name
    with pytest.raises(ValueError, match=wanted):
        net.forward(X)
    z, backend = np.ones((1, 2)), kernels.backend(name)
    with pytest.raises(ValueError, match="a custom activation; the Numba backend has them"):
        backend.activate(z, custom.function("float64"), z.copy(), z.copy())
    with pytest.raises(ValueError, match="a custom loss; the Numba backend has them"):
        backend.output_delta(z, z.copy(), np.empty(0), "identity", SQUARED_ERROR.function("float64"), z.copy())


# ---------------------------------------------------------------------------------------------- refusals


def calls_unknown(z: Any) -> Any:
    scale = 2.0
    return scale * np.sinc(z)


def calls_itself(z: Any) -> Any:
    return calls_itself(z - 1) if z > 0 else z


def through_another(z: Any) -> Any:
    return back_again(z) if z > 0 else z


def back_again(z: Any) -> Any:
    return through_another(z - 1)


WRONG: list[tuple[Callable[..., Any], str]] = [
    (calls_itself, r"calls_itself cannot be compiled: it calls itself \(line \d+ of .*\); write it as a loop"),
    (through_another, "through_another cannot be compiled: it calls itself"),
    (lambda *z: z[0], r"must take z, got a function of \(\*z\)"),
    (calls_unknown, r"custom activation calls_unknown cannot be compiled: there is no sinc\(number\) \(line \d+ of .*"),
    (lambda z: math.sqrt(z), "is nan at z = -8; restrict it to where it is finite"),
    (lambda z, y: z, r"must take z, got a function of \(z, y\)"),
]


@pytest.mark.source("S25", "Book learning outcomes")
@pytest.mark.parametrize(("function", "message"), WRONG)
def test_functions_that_are_refused(function: Any, message: str) -> None:
    for make in (
        lambda: fastbp.Network((6, 4, 2), function),
        lambda: fastbp.Network((6, 4, 2), output=function),
        lambda: fastbp.MLPClassifier(activation=function).fit(X, CODES),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.source("S25", "Book learning outcomes")
def test_losses_and_derivatives_that_are_refused() -> None:
    with pytest.raises(
        ValueError, match="has the derivative -8, but slopes of -16 below and -16 above at z = -8; mend"
    ):
        fastbp.CustomActivation(lambda z: z * z, derivative=lambda z: z)
    net = fastbp.Network((6, 2), output="identity")
    with pytest.raises(ValueError, match=r"custom loss <lambda> is nan at a = -8, y = -8; restrict it"):
        fastbp.Trainer(net, loss=lambda a, y: -y * math.log(a))
    with pytest.raises(ValueError, match="or pass a Python function of output and target"):
        fastbp.Trainer(net, loss=3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"CustomLoss\(squared_error\) does not go with output 'sign'"):
        fastbp.Trainer(fastbp.Network((6, 2), output="sign"), loss=SQUARED_ERROR)
    trainer, start = fastbp.Trainer(net, loss=POISSON), net.parameters.copy()
    with pytest.raises(ValueError, match=r"is made for targets in \[0.001, inf\], got -1 to 2; pass such targets"):
        trainer.fit(X, np.array([[-1, 2]] * len(X)))
    with pytest.raises(ValueError, match=r"got 0 to 1; pass such targets"):
        trainer.fit(X, CODES % 2)
    np.testing.assert_array_equal(net.parameters, start)
    with pytest.raises(TypeError, match="hidden_activation is a type; pass a name or an object"):
        fastbp.Network((6, 4, 2), fastbp.GELU)


@pytest.mark.source("S25", "Book learning outcomes")
def test_without_numba_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_why_not", lambda name: "the package numba is missing; run: pip install numba")
    with pytest.raises(
        ImportError, match="Numba compiles custom functions, but the package numba is missing; run: pip"
    ):
        fastbp.CustomActivation(silu)


# -------------------------------------------------------------------------------------- what lives, and how long


@pytest.mark.source("S25", "Book learning outcomes")
def test_values_from_outside_are_those_when_the_network_was_made() -> None:
    global SHIFT
    slope = 2.0

    def tilted(z: Any) -> Any:
        return slope * z + SHIFT

    net = fastbp.Network((6, 2), output=tilted, dtype="float64", random_state=0)
    before, other = net.forward(SAMPLES), net
    kept = SHIFT
    slope, SHIFT = 3.0, 1.5
    try:
        np.testing.assert_array_equal(net.forward(SAMPLES), before)
        other = fastbp.Network((6, 2), output=tilted, dtype="float64", random_state=0)
    finally:
        SHIFT = kept
    np.testing.assert_allclose(other.forward(SAMPLES), 3 * (before - kept) / 2 + 1.5, rtol=1e-12, atol=1e-13)


@pytest.mark.source("S25", "Book learning outcomes")
def test_functions_of_one_name_are_told_apart() -> None:
    def make(power: int) -> Callable[[Any], Any]:
        def f(z: Any) -> Any:
            return z**power

        return f

    nets = [fastbp.Network((6, 1), output=make(power), dtype="float64", random_state=0) for power in (1, 2, 3)]
    z, *powers = (net.forward(SAMPLES) for net in nets)
    for got, power in zip(powers, (2, 3), strict=True):
        np.testing.assert_allclose(got, z**power, rtol=1e-12)
    assert nets[0].functions[0] != nets[1].functions[0]


@pytest.mark.source("S25", "Book learning outcomes")
def test_a_network_trains_on_after_everything_else_is_gone() -> None:
    """Machine code stays where plans that are kept, and the network, have it."""

    def make() -> fastbp.Trainer:
        scale = 0.5
        net = fastbp.Network((6, 9, 3), lambda z: scale * z / (1 + abs(z)), dtype="float64", random_state=0)
        return fastbp.Trainer(net, loss=lambda a, y: scale * (a - y) ** 2, batch_size=16, random_state=0)

    trainer, others = make(), [make()]
    wanted = others[0].fit(SAMPLES, TARGETS, epochs=3).loss
    got = []
    for _ in range(3):
        others.clear()
        gc.collect()
        others.append(make())
        got += trainer.fit(SAMPLES, TARGETS, epochs=1).loss
    assert got == wanted


@pytest.mark.source("S25", "Book learning outcomes")
def test_copies_and_pickles_go_on_alike() -> None:
    net = fastbp.Network((6, 9, 3), silu, tanh, dtype="float64", random_state=0)
    trainer = fastbp.Trainer(net, loss=squared_error, batch_size=16, random_state=0)
    trainer.fit(SAMPLES, TARGETS)
    others = [pickle.loads(pickle.dumps(trainer)), copy.deepcopy(trainer)]
    wanted = trainer.fit(SAMPLES, TARGETS).loss
    for other in others:
        assert (other.loss, other.network.functions) == (trainer.loss, net.functions)
        assert other.fit(SAMPLES, TARGETS).loss == wanted
        np.testing.assert_array_equal(other.network.parameters, net.parameters)
    same = copy.copy(net)
    assert same.functions[0].compiled is net.functions[0].compiled  # type: ignore[attr-defined]
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(fastbp.Network((6, 9, 3), lambda z: 2 * z))


@pytest.mark.source("S25", "Book learning outcomes")
def test_another_process_compiles_them_anew(tmp_path: Path) -> None:
    """An address means nothing there: what is pickled holds none."""
    (tmp_path / "functions.py").write_text("import math\n\n\ndef f(z):\n    return z / (1 + math.exp(-z))\n")
    program = (
        "import pickle, sys, numpy as np, fastbp\n"
        "from functions import f\n"
        "net = fastbp.Network((3, 4, 2), f, dtype='float64', random_state=0)\n"
        "print(net.forward(np.ones((9, 3)))[0, 0].hex())\n"
        "pickle.dump(fastbp.Trainer(net, loss='cross_entropy'), open('net', 'wb'))\n"
    )
    reader = (
        "import pickle, numpy as np, fastbp\n"
        "other = fastbp.CustomActivation(lambda z: z * 2)\n"
        "print(pickle.load(open('net', 'rb')).network.forward(np.ones((9, 3)))[0, 0].hex())\n"
    )
    paths = f"import sys; sys.path[:0] = {[str(tmp_path), *sys.path]!r}\n"
    printed = [
        subprocess.run(
            [sys.executable, "-c", paths + text], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout
        for text in (program, reader)
    ]
    assert printed[0] == printed[1] != ""


@pytest.mark.source("S25", "Book learning outcomes")
def test_model_files_refuse_them(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    net = fastbp.Network((6, 4, 1), silu, "identity")
    with pytest.raises(TypeError, match=r"the network has a custom activation.*pickle it, or keep network.par"):
        fastbp.save(net, path)
    trainer = fastbp.Trainer(fastbp.Network((6, 1), output="identity"), loss=SQUARED_ERROR)
    with pytest.raises(TypeError, match="the trainer has a custom loss, a Python function, and a model file holds"):
        fastbp.save(trainer, path)
    before = trainer.network.parameters.copy()
    with pytest.raises(TypeError, match="the trainer has a custom loss"):
        trainer.fit(X, CODES, callbacks=[fastbp.Checkpoint(path)])
    np.testing.assert_array_equal(trainer.network.parameters, before)
    with pytest.raises(TypeError, match=r"activation is a .*which a model file cannot hold"):
        fastbp.save(fastbp.MLPClassifier(activation=silu), path)
    assert not path.exists()


# -------------------------------------------------------------------------------------------------- estimators


@pytest.mark.source("S25", "Book learning outcomes")
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_estimators_take_them(solver: str) -> None:
    params = {"hidden_layer_sizes": (8, 6), "max_iter": 5, "random_state": 0, "tol": 0, "solver": solver}
    wanted = fastbp.MLPClassifier(activation="silu", backend="numpy", **params)
    got = fastbp.MLPClassifier(activation=silu, **params)
    with pytest.warns(Warning, match="converge"):
        pair = [model.fit(X, CODES).predict_proba(X) for model in (wanted, got)]
    np.testing.assert_allclose(pair[1], pair[0], rtol=1e-7)
    assert got.get_params()["activation"] is silu
    again = pickle.loads(pickle.dumps(got))
    np.testing.assert_array_equal(again.predict_proba(X), pair[1])


@pytest.mark.source("S25", "Book learning outcomes")
def test_an_estimator_compiles_once_a_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    compile_custom, made = kernels.custom_function, []

    def counted(*args: Any, **options: Any) -> Any:
        made.append(args)
        return compile_custom(*args, **options)

    monkeypatch.setattr("fastbp.activations.custom_function", counted)
    model = fastbp.MLPRegressor(hidden_layer_sizes=(4,), activation=silu, max_iter=1)
    for times in (1, 2):
        with pytest.warns(Warning, match="converge"):
            model.fit(X, CODES)
        model.predict(X)
        model.partial_fit(X, CODES)
        assert len(made) == times


@pytest.mark.source("S25", "Book learning outcomes")
def test_estimators_with_them_are_cloned_and_searched() -> None:
    grid = {"activation": [ACTIVATIONS["silu"], tanh, "relu"]}
    model = fastbp.MLPClassifier((4,), max_iter=3, random_state=0)
    with pytest.warns(Warning, match="converge"):
        search = GridSearchCV(model, grid, cv=2).fit(X, CODES)
    assert len(search.cv_results_["mean_test_score"]) == 3
    assert clone(fastbp.MLPClassifier(activation=ACTIVATIONS["tanh"])).activation == ACTIVATIONS["tanh"]
    with pytest.raises(ValueError, match="scikit-learn does not know it"):
        fastbp.MLPClassifier(activation=tanh).to_sklearn()


@pytest.mark.source("S25", "Book learning outcomes")
def test_fastbp_imports_no_numba_for_their_names() -> None:
    program = "import sys, fastbp; fastbp.CustomActivation, fastbp.CustomLoss; print('numba' in sys.modules)"
    paths = f"import sys; sys.path[:0] = {sys.path!r}\n"
    result = subprocess.run([sys.executable, "-c", paths + program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


@pytest.mark.source("S25", "Book learning outcomes")
def test_gradients_of_networks_with_them_are_checked() -> None:
    """A probe and a gradient check call what Numba compiled, beside batch normalisation and dropout too."""
    X, y = np.random.default_rng(0).standard_normal((12, 4)), np.random.default_rng(1).uniform(0.1, 1, (12, 2))
    net = fastbp.Network(
        (4, 6, 5, 2),
        [lambda z: math.sin(z), "tanh"],
        lambda z: math.log1p(math.exp(z)),
        batch_norm=[True, False],
        dropout=fastbp.Dropout(0.7, inputs=0.9),
        dtype="float64",
        random_state=0,
        backend="numba",
    )
    loss = fastbp.CustomLoss(lambda a, y: y * math.log(y / a) - y + a, domain=(0, math.inf), targets=(1e-3, math.inf))
    found = fastbp.diagnostics.check_gradient(net, X, y, loss=loss)
    assert found.passed
    assert found.error < 1e-6
    assert sum(block.n_checked for block in found.blocks) > 60
