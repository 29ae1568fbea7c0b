"""Equations of Book: General Fully Connected Neural Networks, chapter 4.

Columns are samples, W^[k] has shape (m_k, m_(k-1)), sigma stands for any activation, and in 4.4 ReLU'(0) is 1.
"""

from __future__ import annotations

import itertools
import math
import os
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from source_checks import Operations, slope

import fastbp
from fastbp import kernels

Array = NDArray[np.float64]

RELU_AT_ZERO_1 = fastbp.ReLU(grad_at_zero=1)
"""ReLU with 4.4's derivative, 1 where z >= 0."""


def sigma(z: Any) -> Any:
    return 1 / (1 + np.exp(-z))


def relu(z: Any) -> Any:
    return np.maximum(z, 0)


def layers(*sizes: int, seed: int = 0) -> tuple[list[Array], list[Array]]:
    """Return W^[1], W^[2], ... and b^[1], b^[2], ... as columns."""
    rng = np.random.default_rng(seed)
    shapes = [(m, below) for below, m in itertools.pairwise(sizes)]
    return [rng.standard_normal(shape) for shape in shapes], [rng.standard_normal((m, 1)) for m, _ in shapes]


def network(ops: Operations, W: list[Array], b: list[Array], *functions: Any) -> fastbp.Network:
    return ops.network(W, [one[:, 0] for one in b], *functions)


# ------------------------------------------------------------------------------------------- 4.1 the full network


@pytest.mark.source("S26", "Book 4.1.1")
def test_the_architecture_by_the_validation_error(ops: Operations) -> None:
    """The validation set's error, watched while architectures are tried, chooses; early stopping keeps the best epoch.

    The classes are noisy: the longer a large network trains, the better it fits them, and the worse it predicts.
    """
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 5))
    y = (X[:, 0] * X[:, 1] + 0.7 * rng.standard_normal(120) > 0).astype(int)
    found = {}
    for n_hidden in (1, 32):
        options: dict[str, Any] = {"dtype": ops.dtype, "backend": ops.backend.name, "random_state": 0}
        net = fastbp.Network((5, n_hidden, 2), "tanh", **options)
        trainer = ops.trainer(net, "cross_entropy", optimizer=fastbp.Adam(0.03), batch_size=15)
        stopping = fastbp.EarlyStopping(patience=15)
        given: dict[str, Any] = {"epochs": 200, "validation_data": (X[60:], y[60:]), "callbacks": [stopping]}
        history = trainer.fit(X[:60], y[:60], **given)
        assert history.loss[-1] < history.loss[0]
        best = min(history.validation_loss)
        assert len(history.loss) == history.validation_loss.index(best) + 1 + 15 < 200
        assert trainer.evaluate(X[60:], y[60:]) == best < history.validation_loss[-1]
        found[n_hidden] = best
    assert found[32] < found[1]  # one unit cannot tell a product's sign


@pytest.mark.source("S1", "Book 4.1.4", "Book 4.1.3")
def test_n_layers(ops: Operations) -> None:
    """a^[k] = g^[k](W^[k] a^[k-1] + b^[k]), each layer with a function of its own."""
    W, b = layers(3, 4, 6, 5, 2)
    x = np.random.default_rng(1).standard_normal((3, 1))
    a = x
    for k, g in enumerate((sigma, np.tanh, relu, lambda z: z)):
        a = g(W[k] @ a + b[k])
    ops.close(network(ops, W, b, ("logistic", "tanh", "relu"), "identity").forward(x.T), a.T)


@pytest.mark.source("S2", "Book 4.1.4")
@pytest.mark.parametrize("sizes", [(7, 1), (3, 4, 1), (784, 128, 10), (5, 4, 3, 2)])
def test_the_number_of_parameters(ops: Operations, sizes: tuple[int, ...]) -> None:
    """(d + 1) m_1 + (m_1 + 1) m_2 + ... + (m_(r-1) + 1) m_r; without bias all the 1s fall away."""
    for bias in (True, False):
        net = fastbp.Network(sizes, output="identity", bias=bias, dtype=ops.dtype, backend=ops.backend.name)
        count = sum((below + bias) * m for below, m in itertools.pairwise(sizes))
        assert net.n_parameters == net.parameters.size == count
        assert net.n_parameters == sum(array.size for array in (*net.weights, *net.biases))
        assert f"{count} parameters" in repr(net)


@pytest.mark.source("S2", "Book 4.1.5")
def test_the_whole_batch_as_a_matrix(ops: Operations) -> None:
    """A^[1] = sigma(W^[1] X + b^[1]), the bias broadcast. Printed, A^[1] = sigma(Z^[2]) has not even the shape."""
    W, b = layers(3, 4, 2)
    X = np.random.default_rng(1).standard_normal((3, 6))
    Z1 = W[0] @ X + np.hstack([b[0]] * 6)
    A1 = sigma(Z1)
    Z2 = W[1] @ A1 + np.hstack([b[1]] * 6)
    ops.close(ops.forward(X.T, W[0].T, b[0][:, 0], "logistic"), A1.T)
    net = network(ops, W, b, "logistic", "logistic")
    together = net.forward(X.T)
    ops.close(together, sigma(Z2).T)
    np.testing.assert_array_equal(np.vstack([net.forward(column[None]) for column in X.T]), together)
    assert sigma(Z2).shape != A1.shape


# ------------------------------------------------------------------------------------------- 4.2 approximation

POINTS = np.linspace(-2, 2, 201)[:, None]
TARGET = np.sin(3 * POINTS) + np.abs(POINTS - 0.5) + 0.5
"""A continuous function on a compact set, neither odd nor even, and no polynomial."""


def approximate(ops: Operations, function: str, n_hidden: int, bias: bool = True) -> float:
    """Return max |F(x) - f(x)| where F(x) = sum_i v_i psi(w_i x + b_i): w_i and b_i drawn, v_i by least squares."""
    rng = np.random.default_rng(0)
    w = rng.uniform(-4, 4, (1, 64))[:, :n_hidden]
    b = rng.uniform(-4, 4, 64)[:n_hidden] * bias
    units = ops.forward(POINTS, w, b, function)
    v, *_ = np.linalg.lstsq(units.astype(np.float64), TARGET, rcond=1e-6 if ops.dtype == "float32" else 1e-10)
    return float(np.abs(ops.forward(units, v) - TARGET).max())


@pytest.mark.source("S19", "Book 4.2")
@pytest.mark.parametrize("function", ["tanh", "logistic", "relu", "exp"])
def test_the_error_falls_with_the_number_of_hidden_units(ops: Operations, function: str) -> None:
    """|F(x) - f(x)| < epsilon for all x in K, for large enough N (the source has > for <)."""
    errors = [approximate(ops, function, n) for n in (2, 6, 16, 64)]
    assert errors[0] > 1
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.15


@pytest.mark.source("S19", "Book 4.2")
def test_not_with_a_polynomial(ops: Operations) -> None:
    """The identity: any number of units is a straight line."""
    line = TARGET - np.polyval(np.polyfit(POINTS[:, 0], TARGET[:, 0], 1), POINTS)
    for n_hidden in (2, 16, 64):
        assert approximate(ops, "identity", n_hidden) == pytest.approx(np.abs(line).max(), rel=1e-3)


@pytest.mark.source("S19", "Book 4.2")
@pytest.mark.source("S25", "Book learning outcomes")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_with_functions_of_ones_own(dtype: str) -> None:
    """Units of sin and cos approximate; units of the polynomial z^2 are a parabola, however many there are."""
    if kernels.backends()["numba"] != kernels.AVAILABLE:
        pytest.skip("the Numba backend, which has functions of users, is not available")

    def errors(function: Any) -> list[float]:
        custom, found = fastbp.CustomActivation(function), []
        for n_hidden in (2, 6, 16, 64):
            net = fastbp.Network((1, n_hidden, n_hidden), custom, "identity", dtype=dtype, backend="numba")
            rng = np.random.default_rng(0)
            net.weights[0][...], net.biases[0][...] = rng.uniform(-4, 4, (2, 64))[:, :n_hidden]
            net.weights[1][...], net.biases[1][...] = np.eye(n_hidden), 0
            units = net.forward(POINTS).astype(np.float64)
            v, *_ = np.linalg.lstsq(units, TARGET, rcond=1e-6 if dtype == "float32" else 1e-10)
            found.append(float(np.abs(units @ v - TARGET).max()))
        return found

    for function in (lambda z: math.sin(z), lambda z: math.cos(z)):
        falling = errors(function)
        assert falling[-1] < 0.15 < 1 < falling[0]
    parabola = TARGET - np.polyval(np.polyfit(POINTS[:, 0], TARGET[:, 0], 2), POINTS)
    assert errors(lambda z: z * z)[1:] == pytest.approx([np.abs(parabola).max()] * 3, rel=1e-3)


@pytest.mark.source("S19", "Book 4.2")
@pytest.mark.parametrize("function", ["tanh", "relu"])
def test_not_without_the_threshold(ops: Operations, function: str) -> None:
    """Without b_i, F(0) = 0: tanh units are odd together, ReLU units homogeneous, F(c x) = c F(x) for c > 0.

    So |F - f| is at least |f(0)| with any number of units, though with thresholds the same units come near.
    """
    at_zero = float(np.abs(TARGET[100]).item())
    for n_hidden in (16, 64):
        assert approximate(ops, function, n_hidden, bias=False) >= at_zero - 1e-3
    assert approximate(ops, function, 64) < 0.2 * at_zero
    net = fastbp.Network((1, 64, 1), function, "identity", bias=False, dtype=ops.dtype, backend=ops.backend.name)
    assert net.forward([[0.0]])[0, 0] == 0
    if function == "relu":
        ops.close(net.forward(3 * POINTS), 3 * np.asarray(net.forward(POINTS), np.float64))
    else:
        ops.close(net.forward(-POINTS), -net.forward(POINTS))


@pytest.mark.source("S19", "Book 4.2")
def test_training_finds_an_approximation(ops: Operations) -> None:
    """What back-propagation finds: with 40 units less than a fifth of the mean square that 2 units leave."""
    losses = []
    for n_hidden in (2, 40):
        options: dict[str, Any] = {"dtype": ops.dtype, "backend": ops.backend.name, "random_state": 0}
        net = fastbp.Network((1, n_hidden, 1), "tanh", "identity", **options)
        trainer = ops.trainer(net, optimizer=fastbp.Adam(0.02), batch_size=67)
        losses.append(trainer.fit(POINTS, TARGET, epochs=400).loss[-1])
    assert losses[1] < 0.2 * losses[0]


# ------------------------------------------------------------------------------------------- 4.3 activation functions

FUNCTIONS: dict[str, tuple[Any, Any, Any]] = {
    "sigmoid": ("logistic", sigma, lambda z: sigma(z) * (1 - sigma(z))),
    "ReLU": (RELU_AT_ZERO_1, relu, lambda z: np.where(z < 0, 0, 1)),
    "leaky ReLU": (
        fastbp.LeakyReLU(0.01, grad_at_zero=1),
        lambda z: np.maximum(0.01 * z, z),
        lambda z: np.where(z < 0, 0.01, 1),
    ),
    "tanh": ("tanh", lambda z: (np.exp(z) - np.exp(-z)) / (np.exp(z) + np.exp(-z)), lambda z: 1 - np.tanh(z) ** 2),
}
"""What fastbp calls a function, and the function and its derivative of 4.3's R code, ReLU'(0) = 1 among them."""


@pytest.mark.source("S4", "Book 4.3.1", "Book 4.3.2", "Book 4.3.3", "Book 4.3.4")
@pytest.mark.source("S3", "Book 4.3.2", "Book 4.3.3")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_and_derivatives(ops: Operations, name: str) -> None:
    """Cheng's table 1 has the lower branch's derivative at 0, the Book the upper one's: fastbp has both."""
    given, function, derivative = FUNCTIONS[name]
    code = given if isinstance(given, str) else given.function(ops.dtype)
    z = np.linspace(-4, 4, 17)[None]
    assert 0 in z
    a, slopes = ops.activate(z, code)
    ops.close(a, function(z))
    ops.close(slopes, derivative(z))
    ops.close(ops.forward(z.T, [[1.0]], activation=code), function(z.T))


# ------------------------------------------------------------------------------------------- 4.4 forward, backward


@pytest.mark.source("S6", "Book 4.4.1", "Book 4.4.2")
@pytest.mark.source("S7", "Book 4.4.1", "Book 4.4.2")
@pytest.mark.source("S3", "Book 4.4.1", "Book 4.4.2")
@pytest.mark.source("S5", "Book 4.4.1")
def test_two_layers(ops: Operations) -> None:
    """delta^[2] = yhat - y, delta^[1] = (W^[2]' (yhat - y)) (Hadamard) 1{z^[1] >= 0}; gradients delta a', delta."""
    W, b = layers(3, 4, 1)
    x, y = np.array([[1.0], [2.0], [-0.5]]), np.array([[0.7]])
    W[0], b[0] = np.round(W[0] * 64) / 64, np.round(b[0] * 64) / 64  # exact in float32, too
    b[0][2] = -W[0][2] @ x  # unit 2 stands at z = 0, where 1{z >= 0} is 1
    z1 = W[0] @ x + b[0]
    assert z1[2] == 0
    a1 = relu(z1)
    yhat = W[1] @ a1 + b[1]
    delta2 = yhat - y
    delta1 = (W[1].T @ delta2) * (z1 >= 0)
    net = network(ops, W, b, RELU_AT_ZERO_1, "identity")
    found = ops.gradient(net, x.T, y.T)
    for mine, wanted in zip(found, (delta1 @ x.T, delta2 @ a1.T, delta1[:, 0], delta2[:, 0]), strict=True):
        ops.close(mine, wanted)
    assert delta1[2] != 0
    assert ops.trainer(net).evaluate(x.T, y.T) == pytest.approx(0.5 * float(delta2[0, 0]) ** 2, rel=1e-5)


@pytest.mark.source("S6", "Book 4.4.3", "Book 4.4.4")
@pytest.mark.source("S7", "Book 4.4.4")
@pytest.mark.source("S1", "Book 4.4.3")
def test_many_layers(ops: Operations) -> None:
    """delta^[k] = (W^[k+1]' delta^[k+1]) (Hadamard) ReLU'(z^[k]), from k = r down to 1, and central differences."""
    W, b = layers(3, 5, 4, 6, 2, seed=3)
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((3, 1)), rng.standard_normal((2, 1))

    def forward(W: list[Array]) -> tuple[list[Array], list[Array]]:
        z: list[Array] = []
        a = [x]
        for k in range(len(W)):
            z.append(W[k] @ a[-1] + b[k])
            a.append(relu(z[-1]) if k < len(W) - 1 else z[-1])
        return z, a

    z, a = forward(W)
    delta = [z[-1] - y]
    for k in range(len(W) - 2, -1, -1):
        delta.insert(0, (W[k + 1].T @ delta[0]) * (z[k] > 0))
        ops.close(ops.backprop_delta(delta[1].T, W[k + 1].T, a[k + 1].T, "relu"), delta[0].T)
    wanted = [delta[k] @ a[k].T for k in range(len(W))]
    found = ops.gradient(network(ops, W, b, "relu", "identity"), x.T, y.T)
    for k in range(len(W)):
        ops.close(found[k], wanted[k])
        ops.close(found[len(W) + k], delta[k][:, 0])

        def J(one: Array, k: int = k) -> float:
            _, a = forward([*W[:k], one, *W[k + 1 :]])
            return 0.5 * float(np.square(a[-1] - y).sum())

        np.testing.assert_allclose(wanted[k], slope(J, W[k]), rtol=1e-6, atol=1e-7)


@pytest.mark.source("S7", "Book 4.5")
def test_updated_biases_and_weights(ops: Operations) -> None:
    """b := b - alpha dJ/db, W := W - alpha dJ/dW."""
    W, b = layers(3, 2)
    x, y, alpha = np.array([[1.0], [2.0], [-0.5]]), np.array([[0.7], [-1.0]]), 0.1
    error = W[0] @ x + b[0] - y
    net = network(ops, W, b, "relu", "identity")
    ops.trainer(net, learning_rate=alpha, batch_size=1).fit(x.T, y.T)
    ops.close(net.weights[0].T, W[0] - alpha * error @ x.T)
    ops.close(net.biases[0], (b[0] - alpha * error)[:, 0])
    updated = ops.array(W[0].ravel())
    ops.backend.sgd_step(ops.array((error @ x.T).ravel()), kernels.step_table(rate=alpha), updated)
    ops.close(updated, (W[0] - alpha * error @ x.T).ravel())


# ------------------------------------------------------------------------------------------- 4.5 weight initialisation


@pytest.mark.source("S11", "Book 4.5.1")
@pytest.mark.parametrize("gamma", [0.0, 0.3])
def test_equal_weights_stay_equal(ops: Operations, gamma: float) -> None:
    """All weights gamma, biases 0: both hidden units give ReLU(gamma x_1 + gamma x_2) and have the same gradient."""
    rng = np.random.default_rng(0)
    X, y = rng.uniform(0, 1, (30, 2)), rng.standard_normal((30, 1))
    options: dict[str, Any] = {"dtype": ops.dtype, "backend": ops.backend.name}
    for initializer, breaks in ((fastbp.initializers.Constant(gamma), False), ("he_normal", True)):
        net = fastbp.Network((2, 2, 1), "relu", "identity", initializer=initializer, random_state=1, **options)
        if not breaks:
            hidden = ops.forward(X, net.weights[0], activation="relu")
            ops.close(hidden, np.repeat(relu(gamma * X.sum(axis=1))[:, None], 2, axis=1))
            first, second = ops.gradient(net, X, y)[:2]
            np.testing.assert_array_equal(first[0], first[1])
            assert second[0, 0] == second[0, 1]
            assert gamma == 0 or first.any()
        ops.trainer(net, learning_rate=0.1, batch_size=5).fit(X, y, epochs=10)
        assert (net.weights[0][:, 0] != net.weights[0][:, 1]).any() == breaks


@pytest.mark.source("S11", "Book 4.5.2")
@pytest.mark.parametrize(
    ("initializer", "variance"),
    [("he_normal", 2 / 400), ("lecun_normal", 1 / 400), ("glorot_normal", 2 / (400 + 300))],
)
def test_variances_of_initial_weights(ops: Operations, initializer: str, variance: float) -> None:
    """k / m_(l-1) with k = 2 for ReLU and 1 for tanh, or 2 / (m_(l-1) + m_l), from a normal distribution; biases 0."""
    options: dict[str, Any] = {"dtype": ops.dtype, "backend": ops.backend.name, "random_state": 0}
    net = fastbp.Network((400, 300), output="identity", initializer=initializer, **options)
    W = net.weights[0].astype(np.float64)
    assert W.var() == pytest.approx(variance, rel=0.02)
    assert W.mean() == pytest.approx(0, abs=4 * (variance / W.size) ** 0.5)
    assert np.mean(np.abs(W) < variance**0.5) == pytest.approx(0.6827, abs=0.005)
    assert not net.biases[0].any()


# ------------------------------------------------------------------------------------------- 4.6 normalising inputs


@pytest.mark.source("S13", "Book 4.6.1")
def test_descent_converges_faster_on_normalised_inputs(ops: Operations) -> None:
    """(x_j - mu_j) / sigma_j with the training set's mu and sigma, for later samples, too."""
    rng = np.random.default_rng(0)
    scales, shifts = np.array([1.0, 30.0, 0.0]), np.array([0.0, 20.0, 5.0])  # the third is constant
    X, later = (rng.standard_normal((n, 3)) * scales + shifts for n in (100, 20))
    coefficients = np.array([[1.0], [0.1], [0.0]])
    scale = fastbp.Standardizer.fit(X)
    mu, deviation = X.mean(axis=0), np.where(scales == 0, 1, X.std(axis=0))
    ops.close(scale.transform(later, ops.dtype), (later - mu) / deviation)

    def descend(samples: Array) -> tuple[fastbp.Network, float]:
        net = ops.network([np.zeros((1, 3))], [np.zeros(1)], "relu", "identity")
        steepest = np.linalg.norm(np.hstack([samples, np.ones((100, 1))]), 2) ** 2 / 100
        trainer = ops.trainer(net, learning_rate=1 / steepest, batch_size="full")
        return net, trainer.fit(samples, X @ coefficients, epochs=60).loss[-1]

    _, raw = descend(X)
    net, normalised = descend(np.asarray(scale.transform(X)))
    assert normalised < 1e-6 * raw
    np.testing.assert_allclose(net.forward(scale.transform(later)), later @ coefficients, atol=1e-4)


# ------------------------------------------------------------------------------------------- 4.6.3 batch normalisation


@pytest.mark.source("S14", "Book 4.6.3")
@pytest.mark.parametrize("n", [2, 5, 64, 131])
def test_every_unit_is_normalised_scaled_and_shifted(ops: Operations, n: int) -> None:
    """mu_j, sigma_j^2 over the mini-batch; zbar = (z - mu) / sqrt(sigma^2 + eps); gamma zbar + beta.

    The Book's variance divides by m, which it has as the number of all samples elsewhere: here it is the batch's.
    """
    rng = np.random.default_rng(n)
    z = 3 * rng.standard_normal((n, 6)) + rng.standard_normal(6)
    gamma, beta, eps = rng.uniform(0.5, 2, 6), rng.standard_normal(6), 1e-3
    mu = sum(z[i] for i in range(n)) / n
    variance = sum((z[i] - mu) ** 2 for i in range(n)) / n
    bar = (z - mu) / np.sqrt(variance + eps)
    a, normalized = (np.empty_like(ops.array(z)) for _ in range(2))
    rstd, mean, running = np.empty(6, ops.dtype), ops.array(np.ones(6)), ops.array(np.ones(6))
    affine = ops.array(gamma), ops.array(beta)
    ops.backend.batch_norm(ops.array(z), *affine, eps, 0.25, "tanh", normalized, rstd, mean, running, a)
    ops.close(normalized, bar)
    ops.close(a, np.tanh(gamma * bar + beta))
    ops.close(mean, 0.75 + 0.25 * mu)
    ops.close(running, 0.75 + 0.25 * variance * n / (n - 1))


@pytest.mark.source("S14", "Book 4.6.3")
def test_prediction_normalises_by_what_training_has_seen(ops: Operations) -> None:
    """A sample is predicted alike in any batch, with the running mean and variance."""
    rng = np.random.default_rng(0)
    X, y = 2 + 3 * rng.standard_normal((60, 4)), rng.integers(0, 3, 60)
    options: dict[str, Any] = {"dtype": ops.dtype, "backend": ops.backend.name, "random_state": 0}
    net = fastbp.Network((4, 5, 3), batch_norm=True, **options)
    ops.trainer(net, "cross_entropy", learning_rate=0.1, batch_size=20).fit(X, y, epochs=30)
    mean, variance = net.running_means[0], net.running_variances[0]
    assert abs(mean).max() > 0.5
    bar = (X @ net.weights[0] - mean) / np.sqrt(variance + 1e-5)
    z = relu(net.gammas[0] * bar + net.biases[0]) @ net.weights[1] + net.biases[1]
    ops.close(net.forward(X), np.exp(z) / np.exp(z).sum(axis=1, keepdims=True))
    np.testing.assert_array_equal(net.forward(X)[7:8], net.forward(X[7:8]))


@pytest.mark.source("S14", "Book 4.6.2")
def test_a_higher_learning_rate_without_exploding(ops: Operations) -> None:
    """What batch normalisation enables: at a rate that overthrows the plain network, the normalised one learns."""
    rng = np.random.default_rng(0)
    X = 20 * rng.standard_normal((200, 10))
    y = (X[:, 0] * X[:, 1] > 0).astype(int)

    def accuracy(batch_norm: bool) -> float:
        options: dict[str, Any] = {"dtype": ops.dtype, "backend": ops.backend.name, "random_state": 0}
        net = fastbp.Network((10, 20, 20, 2), batch_norm=batch_norm, **options)
        ops.trainer(net, "cross_entropy", learning_rate=0.5, batch_size=50).fit(X, y, epochs=60)
        return float(np.mean(net.predict(X) == y))

    assert accuracy(True) > 0.95
    assert accuracy(False) < 0.8


# ------------------------------------------------------------------------------------------- 4.7 dropout


@pytest.mark.source("S15", "Book 4.7.1")
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8, 1.0])
def test_each_unit_is_kept_with_probability_p(ops: Operations, p: float) -> None:
    """Another random selection in each step, of each sample and unit; what is kept is divided by p at once."""
    steps, shape = 30, (40, 33)
    masks = np.empty((steps, *shape))
    for number in range(steps):
        a = np.full(shape, 2, ops.dtype)
        saved = np.empty(shape, ops.dtype)
        step = kernels.step_table(seed=5, number=number)
        ops.backend.dropout(a, "identity", p, 1, step, saved)
        masks[number] = a / 2
        np.testing.assert_array_equal(saved, a / 2)
    ops.close(np.unique(masks), np.unique([0, 1 / p]) if p < 1 else [1])
    kept = masks > 0
    deviation = np.sqrt(p * (1 - p))
    for axes in ((1, 2), (0, 2), (0, 1), (0, 1, 2)):  # by step, by sample, by unit, and in all
        count = np.prod([kept.shape[axis] for axis in axes])
        assert np.abs(kept.mean(axis=axes) - p).max() <= 4.5 * deviation / np.sqrt(count)
    if 0 < p < 1:  # neighbours in step, sample and unit know nothing of each other
        for axis in range(3):
            first, second = np.split(kept.take(range(kept.shape[axis] // 2 * 2), axis), 2, axis)
            both = np.mean((first - p) * (second - p))
            assert abs(both) <= 4.5 * deviation**2 / np.sqrt(first.size)


@pytest.mark.source("S15", "Book 4.7.2")
def test_the_average_over_all_thinned_networks(ops: Operations) -> None:
    """Of M hidden and visible units there are 2^M thinned networks; prediction takes all units, weights times p.

    Of a network that is linear above the dropped units that is the average itself, and for a softmax over dropped units
    the geometric mean, normalised. Inverted dropout has the weights of prediction; the Book's are 1 / p times as large.
    """
    rng, p, q = np.random.default_rng(0), 0.6, 0.7
    x, W, V = rng.standard_normal(4), rng.standard_normal((5, 4)), rng.standard_normal((3, 5))
    hidden = ops.network([np.eye(4), V @ W], (), "identity", "identity")  # dropped, then linear
    soft = ops.network([W[:3]], (), "relu", "softmax")
    average, log_mean = np.zeros(3), np.zeros(3)
    for kept in itertools.product([0, 1], repeat=4):
        probability = np.prod([q if one else 1 - q for one in kept])
        thinned = np.array(kept) * x / q
        average += probability * (V @ W @ thinned)
        z = W[:3] @ thinned
        log_mean += probability * (z - np.log(np.exp(z).sum()))
    ops.close(hidden.forward([x])[0], average)
    ops.close(soft.forward([x])[0], np.exp(log_mean) / np.exp(log_mean).sum())

    options: dict[str, Any] = {"dtype": ops.dtype, "backend": ops.backend.name, "random_state": 0}
    dropped = fastbp.Network((4, 5, 3), "relu", "identity", dropout=fastbp.Dropout(p, inputs=q), **options)
    plain = fastbp.Network((4, 5, 3), "relu", "identity", **options)
    np.testing.assert_array_equal(dropped.forward([x]), plain.forward([x]))


@pytest.mark.source("S15", "Book 4.7.1")
def test_a_step_updates_one_thinned_network(ops: Operations) -> None:
    """The step is that of the network without the dropped units, hidden and visible, with the kept ones scaled up."""
    rng, p, q = np.random.default_rng(1), 0.5, 0.75
    X, Y = rng.standard_normal((20, 8)), rng.standard_normal((20, 3))
    options: dict[str, Any] = {"dtype": ops.dtype, "backend": ops.backend.name, "random_state": 0}
    net = fastbp.Network((8, 9, 3), "tanh", "identity", dropout=fastbp.Dropout(p, inputs=q), **options)
    trainer = ops.trainer(net, learning_rate=1.0, batch_size="full")
    step = kernels.step_table(seed=trainer._seed, number=0)
    masks = []
    for stream, (width, probability) in enumerate(((8, q), (9, p))):
        mask = np.ones((20, width), ops.dtype)
        ops.backend.dropout(mask, "identity", probability, stream, step, mask[:0])
        masks.append(mask)
    W, V, b, c = (array.astype(np.float64) for array in (*net.weights, *net.biases))
    thinned = X * masks[0]
    h = np.tanh(thinned @ W + b)
    E = h * masks[1] @ V + c - Y
    below = (E @ V.T) * masks[1] * (1 - h**2)
    before = [array.copy() for array in (*net.weights, *net.biases)]
    loss = trainer.fit(X, Y, reduction="sum", shuffle=False).loss[0]
    wanted = thinned.T @ below, (h * masks[1]).T @ E, below.sum(axis=0), E.sum(axis=0)
    assert loss == pytest.approx(0.5 * (E**2).sum(), rel=1e-5)
    for start, now, gradient in zip(before, (*net.weights, *net.biases), wanted, strict=True):
        ops.close(start - now, gradient)


# ------------------------------------------------------------------------------------------- 4.8 handwritten digits


@pytest.mark.source("S18", "Book 4.8.1")
@pytest.mark.source("S16", "Book 4.8.1")
def test_handwritten_digits(ops: Operations) -> None:
    """A three-layer network, grey 0 to 1 in, ten outputs of which the highest says which digit.

    On scikit-learn's digits of 8 x 8 pixels, which come with it.
    """
    from sklearn.datasets import load_digits

    X, y = load_digits(return_X_y=True)
    X = X / 16
    assert (X.min(), X.max()) == (0, 1)
    options: dict[str, Any] = {"dtype": ops.dtype, "backend": ops.backend.name, "random_state": 0}
    net = fastbp.Network((64, 30, 10), "logistic", "softmax", **options)
    trainer = ops.trainer(net, "cross_entropy", optimizer=fastbp.Adam(0.01), batch_size=50)
    trainer.fit(X[:1300], y[:1300], epochs=15)
    assert np.mean(net.predict(X[1300:]) == y[1300:]) > 0.9
    assert net.predict(X[1300:]).tolist() == net.forward(X[1300:]).argmax(axis=1).tolist()


@pytest.mark.source("S18", "Book 4.8.1")
def test_mnist(compiled_name: str) -> None:
    """The same on 28 x 28 pixels of MNIST, where its four files are to be had."""
    folder = os.environ.get("FASTBP_MNIST")
    if not folder:
        pytest.skip("set FASTBP_MNIST to a folder with MNIST's four files")
    X, y, X_test, y_test = fastbp.datasets.load_mnist(folder)
    assert X.shape == (60_000, 28 * 28)
    assert (X.min(), X.max()) == (0, 1)
    net = fastbp.Network((784, 64, 10), "relu", "softmax", random_state=0, backend=compiled_name)
    trainer = fastbp.Trainer(net, learning_rate=2e-3, batch_size=64, backend=compiled_name, random_state=0)
    trainer.fit(X, y, epochs=3)
    assert np.mean(net.predict(X_test) == y_test) > 0.965
