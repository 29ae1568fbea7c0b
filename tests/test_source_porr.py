"""Equations of Porr: Deep learning analytics.

y_i is the activity of unit i, w[j, i] = omega_ji the weight from j to i: fastbp's W as it is. The error is
e_i = y_i - d_i (3); from (10) on the printed weight changes take it for d_i - y_i, and so have the wrong sign.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from source_checks import Operations, slope

Array = NDArray[np.float64]

MU = 0.1
W_IN = np.array([[0.4, -0.6], [0.1, 0.8], [-0.5, 0.3]])
"""omega_kj: from three inputs to two units."""
W_OUT = np.array([[0.7, -0.2], [0.5, 0.9]])
"""omega_ji: from two units to two outputs."""
INPUT, DESIRED = np.array([3.0, 1.5, 0.6]), np.array([0.3, -0.8])


def step(ops: Operations, weights: list[Array], function: str, x: Array, d: Array) -> list[Array]:
    """Return the weight changes, w[j, i] as Porr has them, of one step on one sample."""
    net = ops.network([w.T for w in weights], (), function, function)
    before = [w.copy() for w in net.weights]
    ops.trainer(net, learning_rate=MU, batch_size=1).fit(x[None], d[None])
    return [w - old for w, old in zip(net.weights, before, strict=True)]


# ------------------------------------------------------------------------------------------- 2-5 linear neuron


@pytest.mark.source("S8", "Porr (2)", "Porr (3)", "Porr (4)")
@pytest.mark.source("S1", "Porr (2)")
@pytest.mark.source("S5", "Porr (4)")
def test_the_linear_neuron_and_its_error(ops: Operations) -> None:
    """y_i = sum_j y_j omega_ji; e_i = y_i - d_i; E = e^2 / 2, summed over the outputs."""
    wanted = [sum(INPUT[j] * W_IN[j, i] for j in range(3)) for i in range(2)]
    ops.close(ops.forward(INPUT[None], W_IN)[0], wanted)
    ops.close(ops.network([W_IN.T], (), "relu", "identity").forward(INPUT[None])[0], wanted)
    e, E = ops.output_delta([wanted], DESIRED[None], "identity", "squared_error")
    ops.close(e[0], wanted - DESIRED)
    assert pytest.approx((0.5 * (wanted - DESIRED) ** 2).sum(), rel=1e-6) == E


@pytest.mark.source("S8", "Porr (5)", "Porr (6)", "Porr (7)", "Porr (8)", "Porr (9)", "Porr (10)", "Porr (11)")
@pytest.mark.source("S7", "Porr (5)", "Porr (6)")
def test_the_delta_rule(ops: Operations) -> None:
    """omega_ji += mu (d_i - y_i) y_j. As printed, mu e_i y_j with e_i = y_i - d_i, the error would grow."""
    (change,) = step(ops, [W_IN], "identity", INPUT, DESIRED)
    e = INPUT @ W_IN - DESIRED
    ops.close(change, -MU * np.outer(INPUT, e))
    printed = MU * np.outer(INPUT, e)
    assert np.square(INPUT @ (W_IN + change) - DESIRED).sum() < np.square(e).sum()
    assert np.square(INPUT @ (W_IN + printed) - DESIRED).sum() > np.square(e).sum()


@pytest.mark.source("S8", "Porr (2)", "Porr (11)")
def test_learning_over_time(ops: Operations) -> None:
    """Samples come one by one, n = 1, 2, ..., and what is to be learned drifts: the weights follow.

    The rule's own loop, a fit of each sample as it comes, and one fit of the stream in its order give the same.
    """
    rng, n = np.random.default_rng(0), 400
    stream = rng.standard_normal((n, 3))
    true = np.stack([np.array([1.0, -1.0, 0.5]) * np.cos(2 * np.pi * t / n) for t in range(n)])
    desired = (stream * true).sum(axis=1)

    w, seen = np.zeros(3), []
    for x, d in zip(stream, desired, strict=True):
        e = x @ w - d
        w = w - MU * e * x
        seen.append(abs(e))
    assert np.mean(seen[-100:]) < 0.25 * np.mean(np.abs(desired[-100:]))  # it follows: the weights of t = 0 would not

    one_by_one = ops.network([np.zeros((1, 3))], (), "relu", "identity")
    trainer = ops.trainer(one_by_one, learning_rate=MU, batch_size=1)
    for x, d in zip(stream, desired, strict=True):
        trainer.fit(x[None], d[None, None])
    assert trainer.n_steps == n
    ops.close(one_by_one.weights[0][:, 0], w)
    at_once = ops.network([np.zeros((1, 3))], (), "relu", "identity")
    ops.trainer(at_once, learning_rate=MU, batch_size=1).fit(stream, desired[:, None], shuffle=False)
    np.testing.assert_array_equal(at_once.parameters, one_by_one.parameters)


# ------------------------------------------------------------------------------------------- 6 multi-layer network


@pytest.mark.source("S8", "Porr (12)", "Porr (13)", "Porr (14)", "Porr (15)", "Porr (16)", "Porr (17)", "Porr (18)")
@pytest.mark.source("S6", "Porr (13)")
def test_the_linear_network(ops: Operations) -> None:
    """Internal error e_j = sum_i e_i omega_ji, and omega_kj -= mu y_k e_j: again against the printed sign."""
    y_j = INPUT @ W_IN
    e_i = y_j @ W_OUT - DESIRED
    e_j = np.array([sum(e_i[i] * W_OUT[j, i] for i in range(2)) for j in range(2)])
    ops.close(ops.error_below(e_i[None], W_OUT)[0], e_j)
    change = step(ops, [W_IN, W_OUT], "identity", INPUT, DESIRED)
    ops.close(change[0], -MU * np.outer(INPUT, e_j))
    ops.close(change[1], -MU * np.outer(y_j, e_i))


@pytest.mark.source("S8", "Porr 7")
@pytest.mark.source("S1", "Porr (2)", "Book 4.1.3")
def test_a_linear_network_is_one_linear_layer(ops: Operations) -> None:
    """Any linear deep network can be reduced to one layer: W_new = W^2 W^1, b_new = W^2 b^1 + b^2."""
    b_in, b_out = np.array([0.2, -0.4]), np.array([1.0, 0.5])
    deep = ops.network([W_IN.T, W_OUT.T], [b_in, b_out], "identity", "identity")
    shallow = ops.network([W_OUT.T @ W_IN.T], [W_OUT.T @ b_in + b_out], "relu", "identity")
    X = np.random.default_rng(1).standard_normal((20, 3))
    ops.close(deep.forward(X), shallow.forward(X))


# ------------------------------------------------------------------------------------------- 7 non-linear networks

FUNCTIONS: dict[str, tuple[Any, Any]] = {
    "relu": (lambda v: np.where(v < 0, 0, v), lambda v: np.where(v < 0, 0.0, 1.0)),
    "tanh": (np.tanh, lambda v: 1 - np.tanh(v) ** 2),
    "logistic": (lambda v: 1 / (1 + np.exp(-v)), lambda v: np.exp(-v) / (1 + np.exp(-v)) ** 2),
}
"""Theta and Theta' of v."""


@pytest.mark.source("S1", "Porr (19)")
@pytest.mark.source("S4", "Porr (19)", "Porr 7")
@pytest.mark.source("S3", "Porr (23)")
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_nonlinear_neuron(ops: Operations, function: str) -> None:
    """y_i = Theta(v_i), v_i = sum_j y_j omega_ji."""
    theta, _ = FUNCTIONS[function]
    ops.close(ops.forward(INPUT[None], W_IN, activation=function)[0], theta(INPUT @ W_IN))


@pytest.mark.source("S6", "Porr (20)", "Porr (21)", "Porr (22)")
@pytest.mark.source("S7", "Porr (20)", "Porr (21)", "Porr (22)")
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_nonlinear_network(ops: Operations, function: str) -> None:
    """omega_ji -= mu Theta'(v_i) y_j e_i; omega_kj -= mu Theta'(v_j) y_k sum_i e_i Theta'(v_i) omega_ji.

    Printed, the derivative is taken at y for v, the sum of (22) lacks Theta'(v_i), and the signs are turned.
    """
    theta, slope_of = FUNCTIONS[function]

    def E(w_in: Array, w_out: Array) -> float:
        return 0.5 * float(np.square(theta(theta(INPUT @ w_in) @ w_out) - DESIRED).sum())

    v_j = INPUT @ W_IN
    v_i = theta(v_j) @ W_OUT
    e_i = theta(v_i) - DESIRED
    e_j = W_OUT @ (e_i * slope_of(v_i))
    out, internal = np.outer(theta(v_j), slope_of(v_i) * e_i), np.outer(INPUT, slope_of(v_j) * e_j)
    change = step(ops, [W_IN, W_OUT], function, INPUT, DESIRED)
    ops.close(change[1], -MU * out)
    ops.close(change[0], -MU * internal)
    np.testing.assert_allclose(out, slope(lambda w: E(W_IN, w), W_OUT), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(internal, slope(lambda w: E(w, W_OUT), W_IN), rtol=1e-6, atol=1e-9)
    if function != "relu":  # whose derivative is the same at y as at v, and at the outputs 1 or 0
        assert not np.allclose(out, np.outer(theta(v_j), slope_of(theta(v_i)) * e_i), rtol=0.01)
        assert not np.allclose(internal, np.outer(INPUT, slope_of(v_j) * (W_OUT @ e_i)), rtol=0.01)
