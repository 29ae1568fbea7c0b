"""Equations of P&P: Placzek & Placzek, Learning algorithm analysis for deep neural network with ReLu.

Layers have no bias and ReLU everywhere, in the output layer too. E^l = d Phi / d X^l, and 1^l stands for ReLU'(U^l).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from source_checks import Operations, slope

import fastbp

Array = NDArray[np.float64]


class Pass(NamedTuple):
    """Internal vectors U^1 ... U^L and output vectors X^0 ... X^L."""

    U: list[Array]
    X: list[Array]


def forward(weights: Sequence[Array], x: Array) -> Pass:
    """(2) U^l = W^l X^(l-1), (3) X^l = F(U^l), (4) F = max(0, U)."""
    found = Pass([], [x])
    for W in weights:
        found.U.append(W @ found.X[-1])
        found.X.append(np.maximum(0, found.U[-1]))
    return found


def target_function(weights: Sequence[Array], x: Array, y: Array) -> float:
    """(1) Phi = (X^L - Y)' (X^L - Y) / 2."""
    error = forward(weights, x).X[-1] - y
    return float(error @ error) / 2


@pytest.fixture
def weights() -> list[Array]:
    """W^1, W^2, W^3 of a network 4-5-6-3."""
    rng = np.random.default_rng(2)
    return [rng.standard_normal(shape) for shape in ((5, 4), (6, 5), (3, 6))]


@pytest.fixture
def positive() -> list[Array]:
    """Weights with which all U^l >= 0 for inputs of at least 0: the assumption of 2.1."""
    rng = np.random.default_rng(3)
    return [rng.uniform(0.1, 1, shape) for shape in ((5, 4), (6, 5), (3, 6))]


x = np.array([0.9, 0.4, 1.3, 0.2])
y = np.array([1.5, -0.3, 0.8])


def errors(ops: Operations, weights: Sequence[Array], x: Array, y: Array) -> list[Array]:
    """Return E^0, E^1, ..., E^L as the kernels send them back."""
    X = [ops.array(column[None]) for column in forward(weights, x).X]
    sent = [X[-1] - ops.array(y[None])]
    delta, _ = ops.output_delta(X[-1], y[None], "relu", "squared_error")
    for layer in range(len(weights) - 1, -1, -1):
        sent.insert(0, ops.error_below(delta, weights[layer].T))
        if layer > 0:
            delta = ops.backprop_delta(delta, weights[layer].T, X[layer], "relu")
    return [error[0] for error in sent]


# ------------------------------------------------------------------------------------------- 1 module structure


@pytest.mark.source("S1", "P&P (2)", "P&P (3)")
def test_a_layer_without_bias(ops: Operations, weights: list[Array]) -> None:
    """U^l = W^l X^(l-1), X^l = F(U^l), for l = 1 ... L."""
    wanted = forward(weights, x)
    a = x[None]
    for W, X in zip(weights, wanted.X[1:], strict=True):
        a = ops.forward(a, W.T, activation="relu")
        ops.close(a[0], X)
    net = ops.network(weights, (), "relu", "relu")
    assert net.biases == ()
    ops.close(net.forward(x[None])[0], wanted.X[-1])


@pytest.mark.source("S3", "P&P (4)", "P&P (7)")
def test_relu_and_its_derivative(ops: Operations) -> None:
    """f = max(0, u) with f = 0 for u = 0; dX / dU = 1(U). Not f is discontinuous at 0, as the text has it, but f'."""
    u = np.array([[-2.0, -1e-6, 0.0, 1e-6, 3.0]])
    f, derivative = ops.activate(u, "relu")
    ops.close(f, [[0, 0, 0, 1e-6, 3]])
    assert derivative.tolist() == [[0, 0, 0, 1, 1]]
    assert f[0, 3] - f[0, 1] <= 1.1e-6  # f goes through 0 without a jump
    assert derivative[0, 3] - derivative[0, 1] == 1


# ------------------------------------------------------------------------------------------- 2 learning algorithm


@pytest.mark.source("S5", "P&P (1)")
def test_the_target_function(ops: Operations) -> None:
    """Phi = (X^L - Y)' (X^L - Y) / 2: half, of the sum over the outputs."""
    X = np.array([[1.0, 2.0, 0.5]])
    _, phi = ops.output_delta(X, y[None], "identity", "squared_error")
    assert phi == pytest.approx((0.5**2 + 2.3**2 + 0.3**2) / 2, rel=1e-6)


@pytest.mark.source("S6", "P&P (5)", "P&P (7)")
@pytest.mark.source("S10", "P&P (5)", "P&P (7)")
def test_the_error_at_a_relu_output(ops: Operations) -> None:
    """E^L = X^L - Y, and through ReLU'(U^L): 1(U^L) (Hadamard) E^L."""
    U = np.array([[-1.0, 0.7, 2.0]])
    X = np.maximum(0, U)
    at_outputs, _ = ops.output_delta(X, y[None], "identity", "squared_error")
    ops.close(at_outputs, X - y)
    delta, _ = ops.output_delta(X, y[None], "relu", "squared_error")
    ops.close(delta, (U > 0) * (X - y))


@pytest.mark.source("S6", "P&P (9)", "P&P (10)")
@pytest.mark.source("S10", "P&P (9)", "P&P (10)")
def test_the_error_sent_back(ops: Operations, weights: list[Array]) -> None:
    """E^(l-1) = (W^l)' (1^l (Hadamard) E^l), and E^(l-1) = d Phi / d X^(l-1) by central differences."""
    U, X = forward(weights, x)
    sent = errors(ops, weights, x, y)
    E = X[-1] - y
    for layer in range(len(weights), 0, -1):
        E = weights[layer - 1].T @ ((U[layer - 1] > 0) * E)
        ops.close(sent[layer - 1], E)
        above = weights[layer - 1 :]
        exact = slope(lambda column, above=above: target_function(above, column, y), X[layer - 1])
        np.testing.assert_allclose(E, exact, rtol=1e-6, atol=1e-7)


@pytest.mark.source("S7", "P&P (6)", "P&P (8)")
@pytest.mark.source("S10", "P&P (6)", "P&P (8)")
def test_the_gradient_of_every_layer(ops: Operations, weights: list[Array]) -> None:
    """d Phi / d W^l = (1(U^l) (Hadamard) E^l) (X^(l-1))'. What (8) calls d X / d W is this derivative of Phi."""
    U, X = forward(weights, x)
    E, wanted = X[-1] - y, []
    for layer in range(len(weights) - 1, -1, -1):
        delta = (U[layer] > 0) * E
        wanted.insert(0, np.outer(delta, X[layer]))
        grad_W, _ = ops.linear_grad(X[layer][None], delta[None], weights[layer].T)
        ops.close(grad_W.T, wanted[0])
        E = weights[layer].T @ delta
    found = ops.gradient(ops.network(weights, (), "relu", "relu"), x[None], y[None])
    for layer, (mine, by_hand) in enumerate(zip(found, wanted, strict=True)):
        ops.close(mine, by_hand)

        def phi(W: Array, layer: int = layer) -> float:
            return target_function([*weights[:layer], W, *weights[layer + 1 :]], x, y)

        np.testing.assert_allclose(by_hand, slope(phi, weights[layer]), rtol=1e-6, atol=1e-7)


@pytest.mark.source("S7", "P&P (6)")
@pytest.mark.source("S6", "P&P (9)")
def test_the_derivative_counts_once(ops: Operations) -> None:
    """As printed, E (dX / dU) (dX / dW) has F' twice, since dX / dW = F'(U) X^(l-1): read dU / dW, and dU / dX in (9).

    ReLU' is 0 or 1, and twice as good as once; the logistic function tells the difference.
    """
    W, target = np.array([[0.3, -0.2, 0.5, 0.1]]), np.array([0.9])
    X = 1 / (1 + np.exp(-W @ x))
    once, twice = (np.outer((X - target) * (X * (1 - X)) ** times, x) for times in (1, 2))
    (found,) = ops.gradient(ops.network([W], (), "relu", "logistic"), x[None], target[None])
    ops.close(found, once)
    exact = slope(lambda W: float((1 / (1 + np.exp(-W @ x)) - target) @ (1 / (1 + np.exp(-W @ x)) - target)) / 2, W)
    np.testing.assert_allclose(once, exact, rtol=1e-7)
    assert (np.abs(found) > 3 * np.abs(twice)).all()


# ------------------------------------------------------------------------------------------- 2.1 error valuation


@pytest.mark.source("S3", "P&P (11)", "P&P (12)")
def test_where_u_is_not_negative_relu_is_the_identity(ops: Operations, positive: list[Array]) -> None:
    """X^l = F(U^l) = U^l and F'(U^l) = 1 for all U^l >= 0: that asks for the derivative 1 at U = 0, too."""
    assert all((U >= 0).all() for U in forward(positive, x).U)
    found = ops.network(positive, (), "relu", "relu").forward(x[None])
    ops.close(found[0], positive[2] @ positive[1] @ positive[0] @ x)
    _, derivative = ops.activate([[0.0, 2.0]], fastbp.ReLU(grad_at_zero=1).function(ops.dtype))
    assert derivative.tolist() == [[1, 1]]


def chain(weights: Sequence[Array]) -> list[Array]:
    """Return B_0, ..., B_L with B_L = I and D = A' B A: B_(l-1) = (W^l)' B_l W^l (18)."""
    B = [np.eye(len(weights[-1]))]
    for W in reversed(weights):
        B.insert(0, W.T @ B[0] @ W)
    return B


def product(weights: Sequence[Array], size: int) -> Array:
    """Return W^L ... W^(l+1), the identity where there are none."""
    found = np.eye(size)
    for W in weights:
        found = W @ found
    return found


@pytest.mark.source("S23", "P&P (13)", "P&P (14)", "P&P (15)", "P&P (16)", "P&P (17)", "P&P (18)")
def test_the_error_is_the_valuation_less_the_targets_part(ops: Operations, positive: list[Array]) -> None:
    """E^l = B_l X^l - (W^L ... W^(l+1))' Y, B_(l-1) = (W^l)' B_l W^l: (13) leaves Y out.

    So (16), E^(L-1) = (W^L)' W^L X^(L-1), and (17) hold for Y = 0 only, and E^l depends on X^0 through X^l alone.
    """
    X, B = forward(positive, x).X, chain(positive)
    np.testing.assert_allclose(B[1], positive[1].T @ (positive[2].T @ positive[2]) @ positive[1])  # (17)'s braces
    for target in (y, np.zeros(3)):
        for layer, E in enumerate(errors(ops, positive, x, target)):
            dropped = product(positive[layer:], len(X[layer])).T @ target
            ops.close(E, B[layer] @ X[layer] - dropped)
            if target is y:
                assert np.abs(dropped).max() > 0.1  # what the printed estimate is off by


@pytest.mark.source("S23", "P&P (10)", "P&P (16)")
@pytest.mark.parametrize("assumption", ["positive", "weights"])
def test_what_bounds_the_error(ops: Operations, assumption: str, request: pytest.FixtureRequest) -> None:
    """||E^l|| <= ||W^(l+1)|| ... ||W^L|| ||E^L|| by (10), whatever the signs; ||B_l|| ||X^l|| bounds nothing."""
    weights = request.getfixturevalue(assumption)
    far = 100 * np.array([1.0, -1.0, 1.0])
    X, B = forward(weights, x).X, chain(weights)
    valuation_fails = []
    for layer, E in enumerate(errors(ops, weights, x, far)):
        norms = np.prod([np.linalg.norm(W, 2) for W in weights[layer:]])
        assert np.linalg.norm(E) <= norms * np.linalg.norm(X[-1] - far) * (1 + 1e-5)
        valuation_fails.append(np.linalg.norm(E) > np.linalg.norm(B[layer], 2) * np.linalg.norm(X[layer]))
    assert any(valuation_fails)


# ------------------------------------------------------------------------------------------- null weights


@pytest.mark.source("S22", "P&P abstract", "P&P (8)", "P&P (10)")
def test_null_weights_take_part_in_learning_as_the_equations_have_it(ops: Operations, weights: list[Array]) -> None:
    """Null weights out of a unit: no error comes back to it (10). Null weights into it as well: it never learns (8)."""
    weights[1][:, 2] = 0  # out of unit 2 of the first hidden layer
    weights[0][3], weights[1][:, 3] = 0, 0  # into and out of unit 3
    E = errors(ops, weights, x, y)[1]
    assert E[2] == E[3] == 0
    assert np.abs(np.delete(E, [2, 3])).min() > 0
    net = ops.network(weights, (), "relu", "identity")
    first, second = ops.gradient(net, x[None], y[None])[:2]
    assert not first[[2, 3]].any()
    assert not second[:, 3].any()

    rng = np.random.default_rng(0)
    samples, targets = rng.standard_normal((40, 4)), rng.standard_normal((40, 3))
    ops.trainer(net, learning_rate=0.01, batch_size=4).fit(samples, targets, epochs=5)
    assert not net.weights[0][:, 3].any()
    assert not net.weights[1][3].any()
    assert net.weights[1][2].any()  # unit 2 does give signals: what leads out of it learns, and then it does
    assert np.isfinite(net.parameters).all()


def learn(ops: Operations, share: float) -> float:
    """Return the loss after training a teacher's function from weights a share of which is null."""
    rng = np.random.default_rng(5)
    samples = rng.standard_normal((80, 4))
    targets = np.maximum(0, samples @ rng.standard_normal((4, 8))) @ rng.standard_normal((8, 2)) / 4
    weights = [rng.standard_normal(shape) * (2 / shape[1]) ** 0.5 for shape in ((24, 4), (24, 24), (2, 24))]
    for W in weights:
        W[rng.random(W.shape) < share] = 0
    net = ops.network(weights, (), "relu", "identity")
    return ops.trainer(net, batch_size=8, learning_rate=0.02).fit(samples, targets, epochs=10).loss[-1]


@pytest.mark.source("S22", "P&P abstract")
def test_null_weights_slow_convergence(ops: Operations) -> None:
    """The more weights are null at first, the further the loss is after the same steps."""
    losses = [learn(ops, share) for share in (0.0, 0.7, 0.9)]
    assert losses[0] < losses[1] < losses[2]
