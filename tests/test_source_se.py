"""Equations of SE: a question on back-propagation with ReLU, derived wrongly, and the answer that mends it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from source_checks import Operations, slope

import fastbp

Array = NDArray[np.float64]


def relu(z: Any) -> Any:
    return np.where(z < 0, 0.0, z)


def step(z: Any) -> Any:
    return np.where(z < 0, 0.0, 1.0)


# ------------------------------------------------------------------------------------------- the answer's definitions


@pytest.mark.source("S3", "SE ReLU'", "Book 4.3.2", "Book 4.4.1")
@pytest.mark.parametrize("at_zero", [0.0, 0.5, 1.0])
def test_the_derivative_at_zero(ops: Operations, at_zero: float) -> None:
    """With the formula it is 1, "but you could equally treat it as 0, or 0.5"."""
    z, function = np.array([[-2.0, 0.0, 3.0]]), fastbp.ReLU(at_zero).function(ops.dtype)
    r, derivative = ops.activate(z, function)
    ops.close(r, relu(z))
    assert derivative.tolist() == [[0, at_zero, 1]]
    if at_zero == 1:
        assert derivative.tolist() == step(z).tolist()


@pytest.mark.source("S3", "SE ReLU'", "Book 4.4.2")
@pytest.mark.parametrize("at_zero", [0.0, 0.5, 1.0])
def test_learning_at_zero(ops: Operations, at_zero: float) -> None:
    """A unit that stands at z = 0 learns by as much of its error as is chosen."""
    net = ops.network([[[1.0, -1.0]], [[2.0]]], (), fastbp.ReLU(at_zero), "identity")
    x, y = np.array([[3.0, 3.0]]), np.array([[1.0]])
    first, _ = ops.gradient(net, x, y)
    assert first.tolist() == [[-2 * at_zero * 3, -2 * at_zero * 3]]  # (0 - y) W^2 ReLU'(0) x


# ------------------------------------------------------------------------------------------- simplified network


@pytest.mark.source("S10", "SE simplified network")
@pytest.mark.source("S6", "SE simplified network")
@pytest.mark.source("S5", "SE simplified network")
@pytest.mark.parametrize("W", [0.7, -0.7])
def test_one_layer_of_one_neuron(ops: Operations, W: float) -> None:
    """dC/dW = (ReLU(W x) - y) Step(W x) x. The question has y - ReLU and no Step: the wrong sign, and no death."""
    x, y = 2.0, 0.5
    (found,) = ops.gradient(ops.network([[[W]]], (), "relu", "relu"), np.array([[x]]), np.array([[y]]))
    ops.close(found, [[(relu(W * x) - y) * step(W * x) * x]])
    exact = slope(lambda W: 0.5 * float((y - relu(W[0] * x)) ** 2), np.array([W]))
    np.testing.assert_allclose(found[0], exact, atol=1e-6)
    question = (y - relu(W * x)) * x
    assert question * found[0, 0] < 0 or (W < 0 and found[0, 0] == 0 and question != 0)


@pytest.mark.source("S7", "SE question")
@pytest.mark.source("S10", "SE question")
@pytest.mark.parametrize("w", [(0.5, 0.8, 1.1), (0.5, -0.8, 1.1)])
def test_three_layers_of_one_neuron(ops: Operations, w: tuple[float, float, float]) -> None:
    """dC/dw_3 = (r - y) Step Step Step w_1 w_2 x, w_3 being the first layer's: each layer has a Step of its own."""
    w_1, w_2, w_3 = w
    x, y = 2.0, 3.0
    z1 = w_3 * x
    z2 = w_2 * relu(z1)
    z3 = w_1 * relu(z2)
    at_top = (relu(z3) - y) * step(z3)
    wanted = [at_top * w_1 * step(z2) * w_2 * step(z1) * x, at_top * w_1 * step(z2) * relu(z1), at_top * relu(z2)]
    net = ops.network([[[w_3]], [[w_2]], [[w_1]]], (), fastbp.ReLU(1.0), fastbp.ReLU(1.0))
    found = ops.gradient(net, np.array([[x]]), np.array([[y]]))
    ops.close([float(g[0, 0]) for g in found], wanted)


# ------------------------------------------------------------------------------------------- more general network


@pytest.mark.source("S6", "SE 1", "SE 2")
@pytest.mark.source("S7", "SE 3")
def test_the_three_equations(ops: Operations) -> None:
    """dC/dz_j = dC/dr_j Step(z_j); dC/dr_i = sum_j dC/dz_j W_ij; dC/dW_ij = dC/dz_j r_i.

    Here W_ij leads from i to j, as in fastbp.
    """
    rng = np.random.default_rng(0)
    r, W, from_above = rng.standard_normal((1, 4)), rng.standard_normal((4, 3)), rng.standard_normal((1, 3))
    z = r @ W
    one = from_above * step(z)
    two = [[sum(one[0, j] * W[i, j] for j in range(3)) for i in range(4)]]
    three = [[one[0, j] * r[0, i] for j in range(3)] for i in range(4)]
    ops.close(ops.activation_delta(relu(z), "relu", from_above), one)
    ops.close(ops.error_below(one, W), two)
    ops.close(ops.linear_grad(r, one, W)[0], three)
    below = np.array([[0.0, 1.5, 0.0, 0.2]])  # outputs of the layer below: steps 2 and 1 at once
    ops.close(ops.backprop_delta(one, W, below, "relu"), two * (below > 0))


# ------------------------------------------------------------------------------------------- vanishing, exploding


def sent_down(ops: Operations, function: str, weight: float, n_layers: int, z: float) -> list[float]:
    """Return an error's size below 1, 2, ... layers of one unit each, all of them at the same z."""
    a, _ = ops.activate([[z]], function)
    delta, sizes = ops.array([[1.0]]), []
    for _ in range(n_layers):
        delta = ops.backprop_delta(delta, [[weight]], a, function)
        sizes.append(float(delta[0, 0]))
    return sizes


@pytest.mark.source("S20", "SE back to your questions")
def test_the_factor_of_a_quarter(ops: Operations) -> None:
    """The logistic function's y (1 - y) is 0.25 at best, at x = 0, once a layer; ReLU's derivative is 1 or 0."""
    n = 12
    np.testing.assert_allclose(sent_down(ops, "logistic", 1.0, n, 0.0), 0.25 ** np.arange(1, n + 1), rtol=1e-5)
    assert sent_down(ops, "logistic", 1.0, 1, 3.0)[0] < 0.05
    assert sent_down(ops, "relu", 1.0, n, 0.5) == [1.0] * n
    assert sent_down(ops, "relu", 1.0, n, -0.5) == [0.0] * n


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # of the reference
@pytest.mark.source("S20", "SE back to your questions", "Book 4.5.1")
def test_weights_let_it_vanish_or_explode_with_relu_too(ops: Operations) -> None:
    """ "If there's thousands of layers, there would be a lot of multiplication due to weights": yes."""
    for weight in (0.5, 2.0):
        np.testing.assert_allclose(sent_down(ops, "relu", weight, 100, 1.0)[-1], weight**100, rtol=1e-5)
    assert sent_down(ops, "relu", 2.0, 2000, 1.0)[-1] == np.inf
