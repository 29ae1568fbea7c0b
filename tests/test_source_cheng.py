"""Equations of Cheng: Artificial Neural Networks, chapter 9, Training multilayer networks.

Cheng's a is the summed input that fastbp calls z, h its activation; w^l of shape (outputs, inputs) leads from layer l
to l + 1, and in matrix form its first column is the bias, met by h_0 = 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastbp.kernels import reference, step_table
from numpy.typing import NDArray
from source_checks import Operations, slope

import fastbp
from fastbp import kernels

Array = NDArray[np.float64]

CORNERS = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
XOR = np.array([0, 1, 1, 0])


def with_one(h: Array) -> Array:
    """Return [1; h], column by column."""
    return np.vstack([np.ones((1, h.shape[1])), h])


def softmax(a: Array) -> Array:
    """(5), column by column."""
    return np.exp(a) / np.exp(a).sum(axis=0)


def logistic(a: Any) -> Any:
    return 1 / (1 + np.exp(-a))


@pytest.fixture
def w() -> list[Array]:
    """w^1 and w^2 of a network 4-5-3, the biases in their first columns."""
    rng = np.random.default_rng(4)
    return [rng.standard_normal((5, 5)), rng.standard_normal((3, 6))]


@pytest.fixture
def x() -> Array:
    """Seven samples, column by column."""
    return np.random.default_rng(5).standard_normal((4, 7))


def network(ops: Operations, w: list[Array], *functions: Any) -> fastbp.Network:
    return ops.network([one[:, 1:] for one in w], [one[:, 0] for one in w], *functions)


# ------------------------------------------------------------------------------------------- 9.1 XOR


@pytest.mark.source("S17", "Cheng (1a)", "Cheng (1b)", "Cheng (1c)")
def test_xor_by_hand(ops: Operations) -> None:
    """Two units that each get one corner wrong, and one that asks for both: +1 on the off-diagonal, else -1."""
    first, second = np.array([[1.5, -1, -1], [-0.5, 1, 1]]), np.array([[-1.0, 1, 1]])
    hidden = ops.forward(CORNERS, first[:, 1:].T, first[:, 0], "sign")
    assert hidden.tolist() == [[1, -1], [1, 1], [1, 1], [-1, 1]]
    assert network(ops, [first, second], "sign", "sign").predict(CORNERS).tolist() == [-1, 1, 1, -1]


@pytest.mark.source("S17", "Cheng 9.1")
def test_xor_learned(ops: Operations) -> None:
    """A trained network solves it as well; without a hidden layer none can: the classes are not linearly separable."""
    for sizes, is_solved in (((2, 8, 2), True), ((2, 2), False)):
        options: dict[str, Any] = {"dtype": ops.dtype, "backend": ops.backend.name, "random_state": 0}
        net = fastbp.Network(sizes, "tanh", **options)
        ops.trainer(net, "cross_entropy", optimizer=fastbp.Adam(0.05), batch_size="full").fit(CORNERS, XOR, epochs=200)
        assert (net.predict(CORNERS) == XOR).all() == is_solved


# ------------------------------------------------------------------------------------------- 9.2 data and model


@pytest.mark.source("S16", "Cheng (2)")
def test_one_hot(ops: Operations) -> None:
    """x_i = 1 if i = j, else 0."""
    out = np.full((4, 3), 7, ops.dtype)
    ops.backend.gather_classes(np.array([2, 0, 1, 2]), np.array([0, 1, 2, 3]), out)
    assert out.tolist() == [[0, 0, 1], [1, 0, 0], [0, 1, 0], [0, 0, 1]]


@pytest.mark.source("S16", "Cheng 9.2")
def test_the_class_is_the_largest_output(ops: Operations, w: list[Array], x: Array) -> None:
    """Predicted class = arg max_i phi_i^m(a)."""
    h = softmax(w[1] @ with_one(np.tanh(w[0] @ with_one(x))))
    assert network(ops, w, "tanh").predict(x.T).tolist() == [int(np.argmax(column)) for column in h.T]


@pytest.mark.source(
    "S1", "Cheng (3)", "Cheng (4)", "Cheng (7a)", "Cheng (7b)", "Cheng (7c)", "Cheng (7h)", "Cheng (7i)"
)
@pytest.mark.source("S4", "Cheng (5)")
def test_the_forward_pass(ops: Operations, w: list[Array], x: Array) -> None:
    """h^1 = [1; x], a^2 = w^1 h^1, h^2 = [1; phi(a^2)], ..., h^m = softmax(a^m): the last layer sums as well."""
    h2 = with_one(np.tanh(w[0] @ with_one(x)))
    a3 = w[1] @ h2
    ops.close(ops.forward(x.T, w[0][:, 1:].T, w[0][:, 0], "tanh"), h2[1:].T)
    found = network(ops, w, "tanh", "softmax").forward(x.T)
    ops.close(found, softmax(a3).T)
    elementwise = [[sum(w[1][i, 1 + j] * h2[1 + j, n] for j in range(5)) + w[1][i, 0] for i in range(3)] for n in (0,)]
    ops.close(found[:1], softmax(np.array(elementwise).T).T)
    assert np.abs(found - softmax(h2[1:4]).T).max() > 0.1  # "a^m = h^(m-1)" of the text would skip w^(m-1)


@pytest.mark.source("S1", "Cheng (7a)", "Cheng (7f)", "Cheng (7g)", "Cheng (7h)", "Cheng (7i)")
def test_the_forward_pass_through_many_layers(ops: Operations, x: Array) -> None:
    """a^(l+1) = w^l h^l, h^(l+1) = [1; phi^(l+1)(a^(l+1))], from one layer to the next; only h^m has no 1."""
    rng = np.random.default_rng(10)
    w = [rng.standard_normal((n_out, 1 + n_in)) / 2 for n_in, n_out in ((4, 6), (6, 5), (5, 7), (7, 3))]
    h = with_one(x)
    for one in w[:-1]:
        h = with_one(np.tanh(one @ h))
    ops.close(network(ops, w, "tanh", "identity").forward(x.T), (w[-1] @ h).T)


BETA = 0.3
TABLE_1: dict[str, tuple[Any, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "logistic": ("logistic", logistic, lambda a: logistic(a) * (1 - logistic(a))),
    "tanh": (
        "tanh",
        lambda a: (np.exp(a) - np.exp(-a)) / (np.exp(a) + np.exp(-a)),
        lambda a: 1 - np.tanh(a) ** 2,
    ),
    "ReLU": ("relu", lambda a: np.where(a <= 0, 0, a), lambda a: np.where(a <= 0, 0, 1)),
    "leaky ReLU": (
        fastbp.LeakyReLU(BETA),
        lambda a: np.maximum(BETA * a, a),
        lambda a: np.where(a <= 0, BETA, 1),
    ),
    "ELU": (
        fastbp.ELU(BETA),
        lambda a: np.where(a <= 0, BETA * (np.exp(a) - 1), a),
        lambda a: np.where(a <= 0, BETA * np.exp(a), 1),
    ),
}
"""What fastbp calls a function, the function, and its derivative."""


@pytest.mark.source("S4", "Cheng table 1")
@pytest.mark.source("S3", "Cheng table 1")
@pytest.mark.parametrize("name", TABLE_1)
def test_table_1(ops: Operations, name: str) -> None:
    """phi(a) and phi'(a), at 0 too, where table 1 takes the lower branch."""
    given, function, derivative = TABLE_1[name]
    code = given if isinstance(given, str) else given.function(ops.dtype)
    a = np.array([[-5.0, -1.3, -0.2, 0.0, 0.4, 1.0, 4.0]])
    phi, slopes = ops.activate(a, code)
    ops.close(phi, function(a))
    ops.close(slopes, derivative(a))
    ops.close(ops.activation_delta(phi, code, np.full(a.shape, 2.0)), 2 * derivative(a))
    w1, x = np.array([[0.3, -0.7], [0.2, 0.5], [-0.4, 0.1]]), np.array([[1.0, 2.0]])
    ops.close(ops.forward(x, w1.T, activation=code), function(x @ w1.T))


@pytest.mark.source("S4", "Cheng table 1")
@pytest.mark.parametrize("k", [2, 3, 5])
def test_maxout(ops: Operations, k: int) -> None:
    """phi(a) = max_i a_i; d phi / d a_j = delta_jk for k = arg max_i a_i, where the table prints arg max_i x_i."""
    rng = np.random.default_rng(k)
    z, delta = rng.standard_normal((7, k, 4)), rng.standard_normal((7, 4))
    z[0, :, 0] = 1.0  # of equals the first
    a = np.empty((7, 4), ops.dtype)
    flat = ops.array(z.reshape(7, k * 4))
    ops.backend.maxout(flat, a)
    ops.close(a, z.max(axis=1))
    delta_z = np.empty_like(flat)
    ops.backend.maxout_delta(flat, ops.array(delta), delta_z)
    largest = z.argmax(axis=1)
    wanted = np.array([[[delta[r, u] * (j == largest[r, u]) for u in range(4)] for j in range(k)] for r in range(7)])
    ops.close(delta_z, wanted.reshape(7, k * 4))


@pytest.mark.source("S4", "Cheng (5)", "Cheng table 1")
def test_softmax_and_its_jacobian(ops: Operations) -> None:
    """d phi_i / d a_j = phi_i (delta_ij - phi_j): what comes back to a_j is the sum over all i."""
    a, back = np.array([[0.3, -1.0, 2.0], [0.0, 0.1, 0.2]]), np.array([[1.0, -2.0, 0.5], [0.7, 0.7, -3.0]])
    phi = softmax(a.T).T
    ops.close(ops.forward(a, np.eye(3), activation="softmax"), phi)
    jacobians = [[[phi[n, i] * ((i == j) - phi[n, j]) for j in range(3)] for i in range(3)] for n in (0, 1)]
    wanted = [back[n] @ np.array(jacobians[n]) for n in (0, 1)]
    ops.close(ops.activation_delta(phi, "softmax", back), wanted)


# ------------------------------------------------------------------------------------------- 9.2 errors

LOSSES: dict[tuple[str, str], tuple[Callable[[Array], Array], Callable[[Array, Array], float]]] = {
    ("squared_error", "identity"): (lambda a: a, lambda h, y: 0.5 * float(np.square(h - y).sum())),
    ("squared_error", "tanh"): (np.tanh, lambda h, y: 0.5 * float(np.square(h - y).sum())),
    ("squared_error", "softmax"): (softmax, lambda h, y: 0.5 * float(np.square(h - y).sum())),
    ("cross_entropy", "softmax"): (softmax, lambda h, y: -float((y * np.log(h)).sum())),
    ("cross_entropy", "logistic"): (logistic, lambda h, y: -float((y * np.log(h) + (1 - y) * np.log(1 - h)).sum())),
}
"""Output activation and summed loss for each pair of loss and output."""


@pytest.mark.source("S5", "Cheng 9.2")
@pytest.mark.source("S6", "Cheng (6c)", "Cheng (6d)", "Cheng (8a)")
@pytest.mark.parametrize("pair", LOSSES, ids="-".join)
def test_loss_and_error_at_the_output(ops: Operations, pair: tuple[str, str]) -> None:
    """delta^m = d L / d a^m, for any differentiable loss; with cross-entropy on softmax or logistic it is h - y."""
    loss, output = pair
    function, L = LOSSES[pair]
    a, y = np.array([[0.3, -1.0, 0.7], [1.2, 0.1, -0.4]]).T, np.array([[0.2, 0.5, 0.3], [0.0, 1.0, 0.0]]).T
    h = function(a)
    code = "binary_cross_entropy" if output == "logistic" else loss
    delta, found = ops.output_delta(h.T, y.T, output, code)
    assert found == pytest.approx(L(h, y), rel=1e-5)
    exact = slope(lambda a: L(function(a), y), a)
    np.testing.assert_allclose(delta.T, exact, atol=1e-6)
    if loss == "cross_entropy":
        ops.close(delta.T, h - y)


@pytest.mark.source("S6", "Cheng (6d)", "Cheng (8a)", "Cheng table 1")
@pytest.mark.source("S5", "Cheng (6d)")
def test_softmax_needs_its_jacobian(ops: Operations) -> None:
    """(6d) and (8a), phi'(a) (Hadamard) grad L, hold for elementwise phi only: softmax's diagonal is not enough."""
    a, y = np.array([[0.3, -1.0, 0.7]]), np.array([[0.0, 1.0, 0.0]])
    h = softmax(a.T).T
    delta, _ = ops.output_delta(h, y, "softmax", "squared_error")
    jacobian = np.diag(h[0]) - np.outer(h[0], h[0])
    ops.close(delta[0], jacobian.T @ (h - y)[0])
    as_printed = np.diag(jacobian) * (h - y)[0]
    assert np.abs(delta[0] - as_printed).max() > 0.05
    elementwise, _ = ops.output_delta(np.tanh(a), y, "tanh", "squared_error")
    ops.close(elementwise, (1 - np.tanh(a) ** 2) * (np.tanh(a) - y))


@pytest.mark.source("S6", "Cheng (6e)", "Cheng (6f)", "Cheng (8b)", "Cheng (8d)")
@pytest.mark.parametrize("name", TABLE_1)
def test_the_recursive_equation(ops: Operations, name: str, w: list[Array]) -> None:
    """delta^l = phi'(a^l) (Hadamard) (w^l)' delta^(l+1): of (w^l)' the bias row must go, for h_0 = 1 has no a."""
    given, function, derivative = TABLE_1[name]
    code = given if isinstance(given, str) else given.function(ops.dtype)
    rng = np.random.default_rng(6)
    a, delta = rng.standard_normal((5, 7)), rng.standard_normal((3, 7))
    whole = w[1].T @ delta
    assert whole.shape == (6, 7)  # one row more than a has
    wanted = derivative(a) * whole[1:]
    ops.close(ops.backprop_delta(delta.T, w[1][:, 1:].T, function(a).T, code), wanted.T)
    k = [sum(delta[k, 0] * w[1][k, 1 + i] for k in range(3)) for i in range(5)]
    np.testing.assert_allclose(wanted[:, 0], derivative(a[:, 0]) * k)


@pytest.mark.source("S7", "Cheng (6a)", "Cheng (6b)", "Cheng (8f)", "Cheng (8h)", "Cheng (9)")
@pytest.mark.parametrize("pair", LOSSES, ids="-".join)
def test_the_weight_updates(ops: Operations, pair: tuple[str, str], w: list[Array], x: Array) -> None:
    """Delta w^l = -eta delta^(l+1) (h^l)', biases as weights from h_0 = 1; w^l <- w^l + Delta w^l."""
    loss, output = pair
    function, L = LOSSES[pair]
    y = softmax(np.random.default_rng(7).standard_normal((3, 7)))
    h1 = with_one(x)
    h2 = with_one(np.tanh(w[0] @ h1))
    h3 = function(w[1] @ h2)
    errors = {"identity": h3 - y, "tanh": (1 - h3**2) * (h3 - y), "logistic": h3 - y, "softmax": h3 - y}
    delta3 = errors[output]
    if pair == ("squared_error", "softmax"):
        delta3 = h3 * (h3 - y - (h3 * (h3 - y)).sum(axis=0))
    delta2 = (1 - h2[1:] ** 2) * (w[1][:, 1:].T @ delta3)
    grad = [delta2 @ h1.T, delta3 @ h2.T]
    exact = slope(lambda w2: L(function(w2 @ h2), y), w[1])
    np.testing.assert_allclose(grad[1], exact, rtol=1e-6, atol=1e-7)

    net = network(ops, w, "tanh", output)
    found = ops.gradient(net, x.T, y.T, loss)
    for layer in (0, 1):
        ops.close(np.column_stack([found[2 + layer], found[layer]]), grad[layer])
    eta = 0.05
    ops.trainer(net, loss, learning_rate=eta, batch_size="full").fit(x.T, y.T, reduction="sum")
    for layer in (0, 1):
        after = np.column_stack([net.biases[layer], net.weights[layer].T])
        ops.close(after, w[layer] - eta * grad[layer])


# ------------------------------------------------------------------------------------------- 9.2.1, 9.2.2 descent

ETA = 0.05


def gradients(w: list[Array], x: Array, y: Array) -> list[Array]:
    """Return delta^(l+1) (h^l)' of a network with tanh and identity and squared error, summed over the columns."""
    h1 = with_one(x)
    h2 = with_one(np.tanh(w[0] @ h1))
    delta3 = w[1] @ h2 - y
    delta2 = (1 - h2[1:] ** 2) * (w[1][:, 1:].T @ delta3)
    return [delta2 @ h1.T, delta3 @ h2.T]


def as_printed(net: fastbp.Network) -> list[Array]:
    return [np.column_stack([b, W.T]) for W, b in zip(net.weights, net.biases, strict=True)]


@pytest.fixture
def y(x: Array) -> Array:
    return np.stack([np.sin(x[0]), x[1] * x[2], x.mean(axis=0)])


def drawn_order(ops: Operations, u: Array) -> Any:
    """Return the order that `shuffle` makes of u, by its docstring: order[i] = order[j], order[j] = i."""
    order = np.zeros(len(u), np.int64)
    for i, one in enumerate(u):
        j = int(one * (i + 1))
        order[i], order[j] = order[j], i
    found = np.zeros_like(order)
    ops.backend.shuffle(u, found)
    np.testing.assert_array_equal(found, order)
    assert sorted(order) == list(range(len(u)))
    return order


@pytest.mark.source("S9", "Cheng algorithm 9.1")
def test_algorithm_9_1(ops: Operations, w: list[Array], x: Array, y: Array) -> None:
    """Select a pair, forward, backward, update all weights; the next pair meets the new weights.

    Pairs are drawn without putting them back: each comes once an epoch, in random order.
    """
    net = network(ops, w, "tanh", "identity")
    ops.trainer(net, learning_rate=ETA, batch_size=1, random_state=3).fit(x.T, y.T, epochs=3)
    generator, wanted = np.random.default_rng(3), [one.copy() for one in w]
    for _ in range(3):
        for n in drawn_order(ops, generator.random(x.shape[1])):
            changes = gradients(wanted, x[:, [n]], y[:, [n]])
            wanted = [one - ETA * change for one, change in zip(wanted, changes, strict=True)]
    for found, one in zip(as_printed(net), wanted, strict=True):
        ops.close(found, one)


@pytest.mark.source("S9", "Cheng 9.2.2", "Cheng (9)")
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_batch_gradient_descent(ops: Operations, reduction: str, w: list[Array], x: Array, y: Array) -> None:
    """The updates are summed over the entire data set before the weights change; the mean has eta / n for eta."""
    net = network(ops, w, "tanh", "identity")
    ops.trainer(net, learning_rate=ETA, batch_size="full").fit(x.T, y.T, epochs=4, reduction=reduction)
    wanted, rate = [one.copy() for one in w], ETA if reduction == "sum" else ETA / x.shape[1]
    for _ in range(4):
        wanted = [one - rate * change for one, change in zip(wanted, gradients(wanted, x, y), strict=True)]
    for found, one in zip(as_printed(net), wanted, strict=True):
        ops.close(found, one)


@pytest.mark.source("S9", "Cheng 9.2.2", "Book 4.6")
def test_mini_batches(ops: Operations, w: list[Array], x: Array, y: Array) -> None:
    """Of three samples, the last one of one: all pairs of a batch meet the same weights, the next one's new ones."""
    net = network(ops, w, "tanh", "identity")
    ops.trainer(net, learning_rate=ETA, batch_size=3).fit(x.T, y.T, epochs=2, shuffle=False)
    wanted = [one.copy() for one in w]
    for _ in range(2):
        for columns in ([0, 1, 2], [3, 4, 5], [6]):
            changes = gradients(wanted, x[:, columns], y[:, columns])
            wanted = [one - ETA * change / len(columns) for one, change in zip(wanted, changes, strict=True)]
    for found, one in zip(as_printed(net), wanted, strict=True):
        ops.close(found, one)


# ------------------------------------------------------------------------------------------- 9.3 gradients


def deep(ops: Operations, function: str, initializer: Any, n_layers: int = 10) -> tuple[Array, Array]:
    """Return by layer the root mean square of the activations and of the gradient, at the first step."""
    options: dict[str, Any] = {"dtype": ops.dtype, "backend": ops.backend.name, "random_state": 0}
    net = fastbp.Network((*[64] * n_layers, 1), function, "identity", initializer=initializer, **options)
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((50, 64)), rng.standard_normal((50, 1))
    grads, activations, a = ops.gradient(net, X, y)[: n_layers - 1], [], ops.array(X)
    for W in net.weights[:-1]:
        a = ops.forward(a, W, activation=function)
        activations.append(a)

    def sizes(arrays: list[Any]) -> Array:
        return np.array([np.sqrt(np.mean(np.square(array, dtype=np.float64))) for array in arrays])

    return sizes(activations), sizes(grads)


@pytest.mark.source("S20", "Cheng 9.3", "Cheng 9.3.1", "Book 4.5.1")
def test_gradients_vanish_and_explode(ops: Operations) -> None:
    """From the ninth layer down to the first, of 64 units each.

    N(0, 1) lets ReLU's gradients explode; Xavier's weights for tanh and He's for ReLU keep their size. Logistic units
    saturate with N(0, 1), as the source says, but Xavier's weights (table 2) are no cure: with them the derivative is
    near its best, 0.25, and the gradient falls by about that factor a layer, faster than with N(0, 1).
    """
    fall = {}
    for function, initializer in (
        ("logistic", "normal"),
        ("logistic", "glorot_normal"),
        ("tanh", "glorot_normal"),
        ("relu", "he_normal"),
        ("relu", "normal"),
    ):
        _, gradient = deep(ops, function, initializer)
        fall[function, initializer] = gradient[0] / gradient[-1]
        if (function, initializer) == ("relu", "normal"):
            assert gradient.min() > 1e10
    assert 0.15**8 < fall["logistic", "glorot_normal"] < 0.25**8 < fall["logistic", "normal"] < 0.5
    assert 0.1 < fall["tanh", "glorot_normal"] < 10
    assert 0.1 < fall["relu", "he_normal"] < 10


@pytest.mark.source("S20", "Cheng 9.3")
def test_normal_weights_saturate_logistic_units(ops: Operations) -> None:
    """The mean derivative in the fifth layer: small with N(0, 1), near 0.25 with Xavier's weights."""
    for initializer, low, high in (("normal", 0.0, 0.1), ("glorot_normal", 0.2, 0.25)):
        options: dict[str, Any] = {"dtype": ops.dtype, "initializer": initializer, "random_state": 0}
        net = fastbp.Network([64] * 6, "logistic", "logistic", **options)
        a = np.random.default_rng(0).standard_normal((50, 64))
        for W in net.weights:
            a = ops.forward(a, W, activation="logistic")
        slopes = ops.activation_delta(a, "logistic", np.ones_like(a))
        assert low < slopes.mean() < high


@pytest.mark.source("S11", "Cheng 9.3.1", "Cheng table 2")
@pytest.mark.parametrize(
    ("function", "initializer"),
    [("tanh", "glorot_normal"), ("tanh", "glorot_uniform"), ("relu", "he_normal"), ("relu", "he_uniform")],
)
def test_outputs_have_about_the_size_of_inputs(ops: Operations, function: str, initializer: str) -> None:
    """What table 2 is for: activations neither die out nor explode in ten layers; with half its sigma they do."""
    activations, _ = deep(ops, function, initializer)
    assert activations[-1] > 0.2
    assert activations[-1] < 3
    halved, _ = deep(ops, function, fastbp.initializers.Normal(0.5 * (2 / 64 if function == "relu" else 1 / 64) ** 0.5))
    assert halved[-1] < 0.02 * activations[-1]


@pytest.mark.source("S21", "Cheng 9.3.2")
@pytest.mark.source("S3", "Cheng 9.3.2")
def test_a_dead_unit_does_not_come_back(ops: Operations) -> None:
    """Negative for all samples, a ReLU's incoming weights are not updated; those of leaky ReLU and ELU are."""
    rng = np.random.default_rng(8)
    X, y = rng.uniform(0, 1, (30, 3)), rng.standard_normal((30, 2))
    first = np.array([[1.0, 0.5, -0.2], [-1.0, -2.0, -0.5], [0.3, 0.3, 0.3]])  # unit 1 is below zero throughout
    hidden = ops.forward(X, first.T, activation="relu")
    assert (hidden == 0).all(axis=0).tolist() == [False, True, False]
    for function, learns in (("relu", False), ("leaky_relu", True), ("elu", True)):
        net = ops.network([first, rng.standard_normal((2, 3))], (), function, "identity")
        ops.trainer(net, batch_size=5, learning_rate=0.05).fit(X, y, epochs=3)
        moved = (ops.array(first) != net.weights[0].T).any(axis=1)
        assert moved.tolist() == [True, learns, True]


@pytest.mark.source("S21", "Cheng 9.3.2")
def test_relu_makes_zeros(ops: Operations) -> None:
    """Representational sparsity: of symmetric weights and inputs, half the activations are 0; of tanh's none."""
    rng = np.random.default_rng(9)
    X, W = rng.standard_normal((200, 20)), rng.standard_normal((20, 100))
    assert np.mean(ops.forward(X, W, activation="relu") == 0) == pytest.approx(0.5, abs=0.02)
    assert np.mean(ops.forward(X, W, activation="tanh") == 0) == 0


@pytest.mark.source("S4", "Cheng 9.3.2")
def test_elu_with_beta_1_is_smooth_at_zero(ops: Operations) -> None:
    """For beta = 1 its derivative has no jump at 0; for other beta it has."""
    for beta, jump in ((1.0, 0.0), (0.25, 0.75)):
        _, slopes = ops.activate([[-1e-6, 1e-6]], fastbp.ELU(beta).function(ops.dtype))
        assert slopes[0, 1] - slopes[0, 0] == pytest.approx(jump, abs=2e-6)


# ------------------------------------------------------------------------------------------- 9.3.3 clipping


@pytest.mark.source("S12", "Cheng 9.3.3", "Book 4.5.2")
def test_gradients_are_limited_to_a_range(ops: Operations, w: list[Array], x: Array, y: Array) -> None:
    """A gradient beyond g is set to g, one below -g to -g, all others stay."""
    g = 0.8
    grad = gradients(w, x, y)
    assert min(np.mean(np.abs(one) > g) for one in grad) > 0.2
    assert min(np.mean(np.abs(one) < g) for one in grad) > 0.05
    net = network(ops, w, "tanh", "identity")
    ops.trainer(net, learning_rate=ETA, batch_size="full", clip_value=g).fit(x.T, y.T, reduction="sum")
    for found, start, one in zip(as_printed(net), w, grad, strict=True):
        ops.close(found, start - ETA * np.minimum(np.maximum(one, -g), g))


RULES = ("sgd_step", "momentum_step", "nesterov_step", "adam_step", "nadam_step", "rmsprop_step", "adagrad_step")


@pytest.mark.source("S12", "Cheng 9.3.3")
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_clips(ops: Operations, rule: str) -> None:
    """A rule that clips to [-g, g] does with a gradient what it does with the clipped one unclipped."""
    assert set(RULES) == {name for name in kernels.OPERATIONS if name.endswith("_step")} - {"average_step"}
    names = [n for n in ("velocity", "m", "v") if n in reference.__dict__[rule].__code__.co_varnames]
    grad = np.array([-3.0, -0.5, -0.2, 0.0, 0.1, 0.5, 7.0])
    values = {"rate": 0.1, "momentum": 0.9, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-3, "grad_rate": 0.02}
    results = []
    for clip, given in ((0.5, grad), (0.0, np.clip(grad, -0.5, 0.5))):
        arrays = {name: ops.array(np.full(7, 0.3)) for name in ("param", *names)}
        getattr(ops.backend, rule)(ops.array(given), step_table(clip=clip, **values), **arrays)
        assert (arrays["param"] != ops.array(np.full(7, 0.3))).any()
        results.append(arrays)
    for name, clipped in results[0].items():
        np.testing.assert_array_equal(clipped, results[1][name])


@pytest.mark.source("S12", "Cheng 9.3.3")
def test_the_norm_may_be_limited_instead(ops: Operations) -> None:
    """Beyond the source: the whole gradient keeps its direction, and has at most the norm g."""
    grad = np.array([3.0, -4.0, 12.0])
    for g, wanted in ((6.5, grad / 2), (13.1, grad), (0.0, grad)):
        clipped = ops.array(grad)
        assert ops.backend.clip_norm(clipped, step_table(max_norm=g)) == pytest.approx(13, rel=1e-6)
        np.testing.assert_allclose(clipped, wanted, rtol=1e-6)
