"""Diagnostics against numbers found by hand, NumPy written out here, and closed forms."""

from __future__ import annotations

import dataclasses
import inspect
import types
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import sklearn.neural_network
from hypothesis import given, settings
from hypothesis import strategies as st
from probed import CLASSES, RNG, VALUES, X, chain, positive_network
from scipy.stats import norm

import fastbp
from fastbp import diagnostics, kernels
from fastbp.diagnostics import walk

TOLERANCE = {"float64": 1e-12, "float32": 2e-5}

dtypes = pytest.mark.parametrize("dtype", ["float64", "float32"])


# ------------------------------------------------------------------------------------------------------------- probe


@dtypes
def test_a_probe_keeps_what_back_propagation_computes(backend_name: str, dtype: str) -> None:
    """Written out for tanh, GELU and softmax: a hidden layer of each kind, penalty and sample weights."""
    net = fastbp.Network((4, 5, 6, 3), ["tanh", "gelu"], dtype=dtype, random_state=1, backend=backend_name)
    before = net.parameters.copy()
    weight = np.array([1, 2, 0.5, 1, 0, 1, 3.0])
    seen = diagnostics.probe(net, X, CLASSES, sample_weight=weight, alpha=0.4)

    (W1, W2, W3), (b1, b2, b3) = ([p.astype("float64") for p in group] for group in (net.weights, net.biases))
    z1 = X @ W1 + b1
    z2 = np.tanh(z1) @ W2 + b2
    z3 = z2 * norm.cdf(z2) @ W3 + b3
    p = np.exp(z3) / np.exp(z3).sum(axis=1, keepdims=True)
    delta3 = weight[:, None] * (p - np.eye(3)[CLASSES])
    delta2 = delta3 @ W3.T * (norm.cdf(z2) + z2 * norm.pdf(z2))
    delta1 = delta2 @ W2.T * (1 - np.tanh(z1) ** 2)
    penalty = 0.2 * sum((W**2).sum() for W in (W1, W2, W3))
    loss = (-weight * np.log(p[np.arange(7), CLASSES])).sum()

    def close(got: Any, wanted: Any) -> None:
        np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE[dtype])

    a1, a2 = np.tanh(z1), z2 * norm.cdf(z2)
    expected = (z1, X, a1, delta1, W1), (z2, a1, a2, delta2, W2), (z3, a2, p, delta3, W3)
    assert all(layer.z.dtype == dtype for layer in seen.layers)
    for layer, (z, a_prev, a, delta, W) in zip(seen.layers, expected, strict=True):
        close(layer.z, z)
        close(layer.a, a)
        close(layer.delta, delta)
        close(layer.grad_W, (a_prev.T @ delta + 0.4 * W) / weight.sum())
        close(layer.grad_b, delta.sum(axis=0) / weight.sum())
    close(seen.loss, (loss + penalty) / weight.sum())
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize("dropout", [None, fastbp.Dropout(0.8, inputs=0.8)], ids=["plain", "dropout"])
def test_a_probe_of_sparse_samples_is_one_of_dense_samples(backend_name: str, dropout: Any) -> None:
    net = fastbp.Network((4, 5, 3), dropout=dropout, random_state=0, backend=backend_name)
    samples = np.where(X > 0, X, 0)
    dense, sparse = (diagnostics.probe(net, data, CLASSES) for data in (samples, scipy.sparse.csr_matrix(samples)))
    assert dense.loss == sparse.loss
    np.testing.assert_array_equal(dense.layers[0].grad_W, sparse.layers[0].grad_W)


def test_a_probe_without_targets_has_no_way_back() -> None:
    net = fastbp.Network((4, 5, 3), output="sign", random_state=0)
    seen = diagnostics.probe(net, X)
    np.testing.assert_array_equal(seen.layers[-1].a, net.forward(X))
    assert np.isnan(seen.loss)
    for measure in (diagnostics.norms, diagnostics.valuation):
        with pytest.raises(ValueError, match=r"needs targets.*probe\(network, X, y\)"):
            measure(seen)


@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_a_probe_takes_trainers_and_estimators() -> None:
    net = fastbp.Network((4, 5, 3), output="softmax", dtype="float64", random_state=0)
    trainer = fastbp.Trainer(net, loss="squared_error", backend="numpy")
    seen = diagnostics.probe(trainer, X, CLASSES)
    assert seen.backend == "numpy"
    assert seen.loss == pytest.approx(0.5 * np.square(net.forward(X) - np.eye(3)[CLASSES]).sum() / 7, rel=1e-12)
    for library in (fastbp, sklearn.neural_network):
        model = library.MLPClassifier((5,), "tanh", max_iter=3, random_state=0)
        model.fit(np.tile(X, (4, 1)), np.tile(CLASSES, 4))
        seen = diagnostics.probe(model, X)
        np.testing.assert_allclose(seen.layers[-1].a, model.predict_proba(X), rtol=1e-12)


def test_what_cannot_be_probed_is_refused() -> None:
    net = fastbp.Network((4, 5, 3), random_state=0)
    with pytest.raises(TypeError, match="model is a dict; pass a Network, a Trainer or a fitted MLP estimator"):
        diagnostics.probe({}, X)
    with pytest.raises(ValueError, match="X has 3 features, but the network has 4"):
        diagnostics.probe(net, X[:, :3])
    with pytest.raises(ValueError, match="reduction is 'max'; choose one of 'mean', 'sum'"):
        diagnostics.probe(net, X, CLASSES, reduction="max")
    with pytest.raises(ValueError, match="alpha is -1; pass a number in"):
        diagnostics.probe(net, X, CLASSES, alpha=-1)


@dtypes
def test_a_probe_of_a_network_with_batch_norm_maxout_and_dropout(backend_name: str, dtype: str) -> None:
    """Written out: GELU units that are normalised and dropped, normalised maxout units, an input that is dropped."""
    net = fastbp.Network(
        (4, 5, 6, 3),
        ["gelu", fastbp.Maxout(2)],
        batch_norm=fastbp.BatchNorm(epsilon=0.1),
        dropout=fastbp.Dropout([0.6, 1.0], inputs=0.8),
        dtype=dtype,
        random_state=1,
        backend=backend_name,
    )
    for gamma, beta in zip(net.gammas, net.biases, strict=False):
        gamma[...], beta[...] = RNG.uniform(0.5, 2, gamma.shape), RNG.normal(size=beta.shape)
    before = net.buffer.copy()
    seen = diagnostics.probe(net, X, CLASSES, alpha=0.4, reduction="sum", seed=11)
    np.testing.assert_array_equal(net.buffer, before)

    (W1, W2, W3), (b1, b2, b3) = ([p.astype("float64") for p in group] for group in (net.weights, net.biases))
    g1, g2 = (gamma.astype("float64") for gamma in net.gammas)
    first, second, last = seen.layers
    mask0, mask1 = (first.a_prev != 0) / 0.8, (second.a_prev != 0) / 0.6
    assert 0 < np.count_nonzero(mask0) < mask0.size
    assert 0 < np.count_nonzero(mask1) < mask1.size

    def normalize(z: Any) -> tuple[Any, Any]:
        rstd = 1 / np.sqrt(z.var(axis=0) + 0.1)
        return (z - z.mean(axis=0)) * rstd, rstd

    def through_norm(delta: Any, x: Any, rstd: Any, gamma: Any) -> Any:
        return gamma * rstd * (delta - delta.mean(axis=0) - x * (delta * x).mean(axis=0))

    x0 = X * mask0
    z1 = x0 @ W1
    n1, rstd1 = normalize(z1)
    u1 = g1 * n1 + b1
    a1 = u1 * norm.cdf(u1)
    x1 = a1 * mask1
    z2 = x1 @ W2
    n2, rstd2 = normalize(z2)
    u2 = g2 * n2 + b2
    a2, is_first = np.maximum(u2[:, :6], u2[:, 6:]), u2[:, :6] >= u2[:, 6:]
    p = np.exp(a2 @ W3 + b3)
    p /= p.sum(axis=1, keepdims=True)
    delta3 = p - np.eye(3)[CLASSES]
    delta_u2 = np.hstack([delta3 @ W3.T * is_first, delta3 @ W3.T * ~is_first])
    delta2 = through_norm(delta_u2, n2, rstd2, g2)
    delta_u1 = delta2 @ W2.T * mask1 * (norm.cdf(u1) + u1 * norm.pdf(u1))
    delta1 = through_norm(delta_u1, n1, rstd1, g1)

    def close(got: Any, wanted: Any) -> None:
        np.testing.assert_allclose(got, wanted, rtol=0, atol=TOLERANCE[dtype] * max(1, np.abs(wanted).max()))

    for layer, names in (
        (first, {"a_prev": x0, "z": z1, "normalized": n1, "rstd": rstd1, "u": u1, "a": a1, "delta_u": delta_u1,
                 "delta": delta1, "gamma": g1, "b": b1, "grad_W": x0.T @ delta1 + 0.4 * W1,
                 "grad_b": delta_u1.sum(axis=0), "grad_gamma": (delta_u1 * n1).sum(axis=0)}),
        (second, {"a_prev": x1, "z": z2, "normalized": n2, "rstd": rstd2, "u": u2, "a": a2, "delta_u": delta_u2,
                  "delta": delta2, "gamma": g2, "b": b2, "grad_W": x1.T @ delta2 + 0.4 * W2,
                  "grad_b": delta_u2.sum(axis=0), "grad_gamma": (delta_u2 * n2).sum(axis=0)}),
        (last, {"a_prev": a2, "z": a2 @ W3 + b3, "u": a2 @ W3 + b3, "a": p, "delta_u": delta3, "delta": delta3,
                "grad_W": a2.T @ delta3 + 0.4 * W3, "grad_b": delta3.sum(axis=0)}),
    ):  # fmt: skip
        for name, wanted in names.items():
            assert getattr(layer, name).dtype == dtype
            close(getattr(layer, name), wanted)
    assert last.gamma.size == last.normalized.size == last.rstd.size == last.grad_gamma.size == 0
    close(seen.loss, -np.log(p[np.arange(7), CLASSES]).sum() + 0.2 * sum((W**2).sum() for W in (W1, W2, W3)))


@pytest.mark.source("S14", "Book 4.6.2")
def test_batch_norm_by_hand(backend_name: str) -> None:
    """z = w x with x = +-1 is normalised to +-w / sqrt(w^2 + epsilon), whose derivative is epsilon / sqrt(...)^3."""
    norm_ = fastbp.BatchNorm(epsilon=1.0)
    net = fastbp.Network((1, 1, 1), "identity", "identity", batch_norm=norm_, dtype="float64", backend=backend_name)
    net.parameters[...] = 1, 1, 0, 0, 2  # W1, W2, beta, b2, gamma
    seen = diagnostics.probe(net, [[1.0], [-1.0]], [0.0, 0.0])
    layer, root = seen.layers[0], np.sqrt(2)
    np.testing.assert_allclose(layer.normalized.ravel(), [1 / root, -1 / root])
    np.testing.assert_allclose(layer.a.ravel(), [root, -root])
    assert seen.loss == pytest.approx(1)
    # dL/dw = mean of a x gamma epsilon / (w^2 + epsilon)^(3/2) = 2 root / root^3; dL/dgamma = mean of a a / gamma
    np.testing.assert_allclose([layer.grad_W[0, 0], layer.grad_gamma[0], layer.grad_b[0]], [1, 1, 0], atol=1e-15)


@pytest.mark.source("S4", "Cheng table 1")
def test_maxout_by_hand(backend_name: str) -> None:
    """Two pieces with weights 1 and -1 are |x|; at x = 0 the first of equals gets the error."""
    net = fastbp.Network((1, 1, 1), fastbp.Maxout(2), "identity", dtype="float64", backend=backend_name)
    net.parameters[...] = 1, -1, 1, 0, 0, 0
    seen = diagnostics.probe(net, [[3.0], [-2.0], [0.0]], [1.0, 1.0, 1.0], reduction="sum")
    layer = seen.layers[0]
    np.testing.assert_array_equal(layer.z, [[3, -3], [-2, 2], [0, 0]])
    np.testing.assert_array_equal(layer.a.ravel(), [3, 2, 0])
    np.testing.assert_array_equal(layer.delta, [[2, 0], [0, 1], [-1, 0]])
    np.testing.assert_array_equal(layer.grad_W, [[6, -2]])
    np.testing.assert_allclose(diagnostics.norms(seen).delta_norm[0], np.sqrt(6 / 3))
    np.testing.assert_array_equal(diagnostics.null_weights(net).n_weights, [2, 1])
    assert diagnostics.zeros(seen).n_dying[0] == 0


@pytest.mark.source("S15", "Book 4.7")
def test_the_masks_of_a_probe() -> None:
    def a_prev(model: Any, **options: Any) -> Any:
        return diagnostics.probe(model, X, CLASSES, **options).layers[1].a_prev

    net = fastbp.Network((4, 50, 3), "tanh", dropout=0.5, dtype="float64", random_state=0)
    plain = fastbp.Network((4, 50, 3), "tanh", dtype="float64", random_state=0)
    a = a_prev(plain)
    dropped = a_prev(net)
    assert 0.4 < (dropped == 0).mean() < 0.6
    np.testing.assert_allclose(dropped[dropped != 0], 2 * a[dropped != 0])
    np.testing.assert_array_equal(diagnostics.probe(net, X).layers[0].a, a)
    np.testing.assert_array_equal(a_prev(net, dropout=False), a)
    np.testing.assert_array_equal(a_prev(net, seed=0), dropped)
    assert (a_prev(net, seed=1) != dropped).any()
    trainer = fastbp.Trainer(net, learning_rate=1e-12, random_state=7, batch_size="full")
    first = a_prev(trainer)
    assert (first != dropped).any()
    np.testing.assert_array_equal(a_prev(trainer), first)
    trainer.fit(X, CLASSES)
    assert ((a_prev(trainer) == 0) != (first == 0)).any()  # its next step has other masks
    np.testing.assert_allclose(a_prev(trainer, seed=0), dropped, rtol=0, atol=1e-9)


def test_a_batch_norm_estimator_is_made_a_network() -> None:
    """What an estimator keeps of it, here of one that is no more than its attributes."""
    options: dict[str, Any] = {"batch_norm": [True, False], "dropout": 0.5, "dtype": "float64"}
    net = fastbp.Network((4, 5, 6, 3), [fastbp.Maxout(3), "relu"], random_state=0, **options)
    net.buffer[...] = RNG.uniform(0.5, 1, net.buffer.size)
    model = types.SimpleNamespace(
        coefs_=list(net.weights),
        intercepts_=list(net.biases),
        batch_norm_scales_=list(net.gammas),
        batch_norm_means_=list(net.running_means),
        batch_norm_variances_=list(net.running_variances),
        activation=[fastbp.Maxout(3), "relu"],
        out_activation_="softmax",
        batch_norm=[True, False],
        dropout=0.5,
    )
    made = walk.as_network(model)
    assert made.spec() == net.spec()
    np.testing.assert_array_equal(made.buffer, net.buffer)


def test_bad_masks_are_refused() -> None:
    net = fastbp.Network((4, 5, 3), dropout=0.5, random_state=0)
    with pytest.raises(TypeError, match=r"dropout is 0.5; pass True or False: the probabilities are the network's own"):
        diagnostics.probe(net, X, dropout=0.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"dropout is 0.5; pass True or False"):
        diagnostics.Diagnostics(X, dropout=0.5)  # type: ignore[arg-type]
    for seed, wanted in ((-1, "a whole number of at least 0"), (1.5, "a whole number"), (2**53, "a number in")):
        with pytest.raises(ValueError, match=f"seed is {seed}; pass {wanted}"):
            diagnostics.probe(net, X, seed=seed)  # type: ignore[arg-type]


def test_a_row_that_diagnostics_do_not_know_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(walk._OPERATIONS, kernels.Op.ACTIVATE)
    with pytest.raises(NotImplementedError, match="row ACTIVATE, which diagnostics do not know"):
        diagnostics.probe(fastbp.Network((4, 5, 3), "gelu"), X)


# ------------------------------------------------------------------------------------------------------------- norms


@pytest.mark.source("S20", "Cheng 9.3", "SE")
@dtypes
def test_a_logistic_layer_passes_at_most_a_quarter_down(backend_name: str, dtype: str) -> None:
    """At z = 0 its derivative is exactly 0.25, and a weight of 1 leaves it: delta falls to 0.25^k after k layers."""
    net = chain("logistic", 6, bias=-0.5, backend=backend_name)  # a = 0.5 everywhere, so that z = 0
    net.biases[0][...] = 0
    if dtype == "float32":
        narrow = fastbp.Network((1,) * 7, "logistic", "logistic", dtype=dtype, backend=backend_name)
        narrow.parameters[...] = net.parameters
        net = narrow
    seen = diagnostics.probe(net, [[0.0], [0.0]], [[1.0], [0.0]], loss="squared_error")
    found = diagnostics.norms(seen)
    np.testing.assert_allclose(found.delta_ratio, 0.25 ** np.arange(5, -1, -1), rtol=1e-6)
    assert found.delta_norm[-1] == pytest.approx(0.5 * 0.25)  # |a - y| a (1 - a) in both samples
    relu = diagnostics.norms(diagnostics.probe(chain("relu", 6), [[2.0]], [[1.0]]))
    np.testing.assert_array_equal(relu.delta_ratio, 1)
    np.testing.assert_array_equal(relu.gradient_norm, 2)  # a_prev is 2, delta 1


@pytest.mark.source("S20", "Cheng 9.3", "Cheng table 2", "Book 4.5.1")
def test_gradients_explode_with_unit_variance_and_vanish_with_small_weights_but_for_he() -> None:
    sizes, data, targets = (50, *[50] * 9, 2), RNG.normal(size=(64, 50)), RNG.normal(size=(64, 2))
    normal = fastbp.initializers.Normal

    def first(initializer: Any, activation: str = "relu") -> float:
        net = fastbp.Network(sizes, activation, "identity", initializer=initializer, random_state=0)
        return float(diagnostics.norms(diagnostics.probe(net, data, targets)).delta_ratio[0])

    # a ReLU layer of 50 units passes on delta times the root of 50 / 2 times the variance of its weights: 5 sigma
    assert 5.0**9 / 10 < first(normal(1.0)) < 5.0**9 * 10
    assert 0.1**9 / 10 < first(normal(0.02)) < 0.1**9 * 10
    assert 0.1 < first("he_normal") < 10
    assert first("glorot_normal", "logistic") < 0.25**8


def test_norms_by_hand() -> None:
    net = fastbp.Network((2, 2, 1), output="identity", dtype="float64")
    net.weights[0][...], net.weights[1][...] = [[1, -1], [2, 0]], [[3], [4]]
    net.parameters[-3:] = 0, 0, 1
    seen = diagnostics.probe(net, [[1.0, 1.0]], [8.0])
    # z1 = (3, -1), a1 = (3, 0), a2 = 10; delta2 = 2, delta1 = (6, 0); grad_W1 = ((6, 0), (6, 0)), grad_W2 = (6, 0)
    found = diagnostics.norms(seen)
    np.testing.assert_allclose(found.delta_norm, [6, 2])
    np.testing.assert_allclose(found.gradient_norm, [np.sqrt(72), 6])
    np.testing.assert_allclose(found.bias_gradient_norm, [6, 2])
    np.testing.assert_allclose(found.relative_gradient, [np.sqrt(72 / 6), 6 / 5])
    np.testing.assert_allclose(found.gradient_ratio, [np.sqrt(2), 1])
    assert list(found.as_dict()) == [
        "gradient_norm", "bias_gradient_norm", "relative_gradient", "delta_norm", "gradient_ratio", "delta_ratio"
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------- zeros and null weights


@pytest.mark.source("S21", "Cheng 9.3.2")
@dtypes
def test_zero_activations_and_dying_units(backend_name: str, dtype: str) -> None:
    net = fastbp.Network((2, 4, 1), output="identity", dtype=dtype, backend=backend_name)
    net.weights[0][...] = [[1, -1, 1, -1], [1, -1, -1, 1]]
    net.biases[0][...] = [0, 0, 0, 5]
    net.weights[1][...], net.biases[1][...] = 1, 0
    samples = [[1.0, 2.0], [2.0, 1.0], [3.0, 3.0]]
    # z: (3, -3, -1, 6), (3, -3, 1, 4), (6, -6, 0, 5): unit 2 is dead, unit 3 is at zero for two samples of three
    found = diagnostics.zeros(diagnostics.probe(net, samples))
    np.testing.assert_array_equal(found.dying[0], [False, True, False, False])
    np.testing.assert_allclose(found.zero_activations, [5 / 12, 0])
    np.testing.assert_allclose(found.dying_units, [1 / 4, 0])
    np.testing.assert_array_equal(found.n_dying, [1, 0])
    seen = diagnostics.probe(net, samples, [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(seen.layers[0].grad_W[:, 1], 0)  # it never learns again


@pytest.mark.source("S21", "Cheng 9.3.2")
@pytest.mark.source("S15", "Book 4.7")
def test_dropped_units_are_not_dead(backend_name: str) -> None:
    """Of four units that are all at work but one, most are dropped at times: zero is only the one that is dead."""
    net = fastbp.Network((2, 4, 1), output="identity", dropout=0.3, dtype="float64", backend=backend_name)
    net.weights[0][...], net.biases[0][...] = [[1, 1, 1, -1]] * 2, 0
    seen = diagnostics.probe(net, [[1.0, 2.0], [2.0, 1.0]], [1.0, 1.0])
    assert (seen.layers[1].a_prev == 0).sum() > 2
    np.testing.assert_array_equal(diagnostics.zeros(seen).dying[0], [False, False, False, True])
    np.testing.assert_allclose(diagnostics.zeros(seen).zero_activations[0], 1 / 4)


@pytest.mark.source("S21", "Cheng 9.3.2")
def test_leaky_relu_and_elu_have_no_dying_units() -> None:
    for activation, n_dying in (("relu", 4), ("leaky_relu", 0), ("elu", 0)):
        net = fastbp.Network((2, 4, 1), activation, "identity", dtype="float64")
        net.weights[0][...], net.biases[0][...], net.weights[1][...] = -1, 0, 1
        seen = diagnostics.probe(net, [[1.0, 2.0], [0.5, 0.1]], [1.0, 5.0])
        assert diagnostics.zeros(seen).n_dying[0] == n_dying
        assert (diagnostics.norms(seen).gradient_norm[0] == 0) == bool(n_dying)


@pytest.mark.source("S22", "P&P abstract")
@dtypes
def test_null_weights(dtype: str) -> None:
    net = fastbp.Network((2, 3, 2), dtype=dtype)
    net.weights[0][...] = [[0, 1, -0.0], [1e-4, -1e-4, 2]]
    net.weights[1][...] = [[1, 1], [0.5, -2e-3], [1, 1]]
    found = diagnostics.null_weights(net, tolerance=2e-4)
    np.testing.assert_allclose(found.null_weights, [2 / 6, 0])
    np.testing.assert_allclose(found.small_weights, [4 / 6, 0])
    np.testing.assert_array_equal(found.n_null, [2, 0])
    np.testing.assert_array_equal(found.n_weights, [6, 6])
    np.testing.assert_allclose(diagnostics.null_weights(net, 0.01).small_weights, [4 / 6, 1 / 6])
    with pytest.raises(ValueError, match="tolerance is -1; pass a number"):
        diagnostics.null_weights(net, -1)


@pytest.mark.source("S22", "P&P abstract")
def test_null_weights_keep_a_network_from_learning() -> None:
    """Zeros in both layers pass neither activation nor error: their gradients are 0, and the zeros stay."""
    net = fastbp.Network((4, 6, 3), bias=False, dtype="float64", random_state=0)
    net.weights[0][:, :3], net.weights[1][:3] = 0, 0
    trainer = fastbp.Trainer(net, random_state=0)
    trainer.fit(X, CLASSES, epochs=20)
    np.testing.assert_array_equal(diagnostics.null_weights(net).n_null, [12, 9])


# --------------------------------------------------------------------------------------------------------- valuation


@pytest.mark.source("S23", "P&P (11)-(18)")
@pytest.mark.parametrize("bias", [False, True])
def test_the_exact_form_is_the_truth_where_all_u_are_positive(backend_name: str, bias: bool) -> None:
    net = positive_network(2, (4, 6, 5, 3), bias=bias, backend=backend_name)
    samples, targets = np.abs(X), np.abs(VALUES) + 1
    found = diagnostics.valuation(diagnostics.probe(net, samples, targets))
    # written in P&P's letters: columns, W of shape (outputs, inputs), E^(l-1) = (W^l)' E^l
    W1, W2, W3 = (W.T for W in net.weights)
    b1, b2, b3 = (b[:, None] for b in net.biases) if bias else (0, 0, 0)
    X1 = W1 @ samples.T + b1
    X2 = W2 @ X1 + b2
    X3 = W3 @ X2 + b3
    E3 = X3 - targets.T
    E2 = W3.T @ E3
    E1 = W2.T @ E2
    B2 = W3.T @ W3
    B1 = W2.T @ B2 @ W2
    for got, wanted in zip(found.chain, (B1, B2, np.eye(3)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-12)
    for got, wanted in zip(found.errors, (E1, E2, E3), strict=True):
        np.testing.assert_allclose(got, wanted.T, rtol=1e-12)
    for got, wanted in zip(found.estimates, (B1 @ X1, B2 @ X2, X3), strict=True):
        np.testing.assert_allclose(got, wanted.T, rtol=1e-12)
    for got in (found.exacts, found.masked_exacts):
        for ours, truth in zip(got, found.errors, strict=True):
            np.testing.assert_allclose(ours, truth, rtol=1e-12, atol=1e-12)
    assert found.holds.all()
    np.testing.assert_array_equal(found.positive, 1)
    np.testing.assert_allclose(found.error, [np.sqrt((E**2).sum() / 7) for E in (E1, E2, E3)])
    np.testing.assert_allclose(found.chain_norm, [np.linalg.norm(B, 2) for B in (B1, B2, np.eye(3))])
    assert (found.estimate > found.error * 1.1).all()  # (13) drops Y, and that is to be seen


@pytest.mark.source("S23", "P&P (7)", "P&P (10)-(13)")
@dtypes
def test_with_masks_the_exact_form_always_holds(backend_name: str, dtype: str) -> None:
    relu = fastbp.ReLU(grad_at_zero=0.5)
    net = fastbp.Network((4, 8, 8, 3), [relu, "relu"], "identity", dtype=dtype, random_state=5, backend=backend_name)
    found = diagnostics.valuation(diagnostics.probe(net, X, VALUES))
    for ours, truth in zip(found.masked_exacts, found.errors, strict=True):
        np.testing.assert_allclose(ours, truth, rtol=0, atol=TOLERANCE[dtype])
    assert 0.2 < found.positive[1] < 0.8
    assert found.holds.tolist() == [False, True, True]
    assert np.abs(found.exacts[0] - found.errors[0]).max() > 0.01  # without masks it does not
    np.testing.assert_allclose(found.exacts[1], found.errors[1], rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.source("S23", "P&P (12)")
@pytest.mark.parametrize("at_zero", [0.0, 0.5, 1.0])
def test_at_zero_the_assumption_depends_on_the_derivative(at_zero: float) -> None:
    """P&P's (12) takes ReLU'(0) for 1: with another choice U >= 0 is not enough."""
    net = fastbp.Network((1, 1, 1), output=fastbp.ReLU(at_zero), bias=False, dtype="float64")
    net.parameters[...] = 1, 0  # U^2 = 0
    net.weights[1][...] = 0
    found = diagnostics.valuation(diagnostics.probe(net, [[1.0]], [3.0]))
    np.testing.assert_array_equal(found.positive, 1)
    assert found.holds.tolist() == [at_zero == 1, True]
    np.testing.assert_allclose(found.masked_exacts[0], found.errors[0])


@pytest.mark.source("S23", "P&P (10)", "P&P 2.1")
@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), sizes=st.lists(st.integers(1, 6), min_size=2, max_size=5), bias=st.booleans())
def test_the_bound_holds(seed: int, sizes: list[int], bias: bool) -> None:
    rng = np.random.default_rng(seed)
    net = fastbp.Network(sizes, output="relu", bias=bias, dtype="float64", backend="numpy", random_state=seed)
    net.parameters[...] = rng.normal(size=net.n_parameters)
    samples, targets = rng.normal(size=(5, sizes[0])), rng.normal(size=(5, sizes[-1]))
    found = diagnostics.valuation(diagnostics.probe(net, samples, targets))
    factor = 1.0
    for index in range(len(net.weights) - 1, -1, -1):
        assert found.bound[index] == pytest.approx(factor * found.error[-1])
        per_sample = np.linalg.norm(found.errors[index], axis=1)
        limit = factor * np.linalg.norm(found.errors[-1], axis=1)
        assert (per_sample <= limit * (1 + 1e-12)).all()
        factor *= np.sqrt(np.linalg.eigvalsh(net.weights[index].T @ net.weights[index]).max())


@pytest.mark.source("S23", "P&P (13)", "P&P (16)-(18)")
def test_norms_of_the_chain_bound_nothing() -> None:
    """X = 0 makes estimate and ||B|| ||X|| 0, while the error is what Y makes it."""
    net = fastbp.Network((1, 1, 1), output="identity", bias=False, dtype="float64")
    net.parameters[...] = 2, 3
    found = diagnostics.valuation(diagnostics.probe(net, [[0.0]], [5.0]))
    np.testing.assert_array_equal(found.estimate, 0)
    np.testing.assert_array_equal(found.chain_norm, [9, 1])
    np.testing.assert_array_equal(found.error, [15, 5])
    np.testing.assert_array_equal(found.exact, found.error)
    np.testing.assert_array_equal(found.bound, [15, 5])


def test_networks_without_such_a_valuation_are_refused() -> None:
    def value(*args: Any, loss: str = "squared_error", weight: Any = None, **options: Any) -> None:
        net = fastbp.Network((4, 5, 3), *args, **options)
        diagnostics.valuation(diagnostics.probe(net, X, np.abs(VALUES), loss=loss, sample_weight=weight))

    with pytest.raises(ValueError, match=r"X = U where U is positive, which 'tanh' does not give; use identity and"):
        value("tanh", "identity")
    with pytest.raises(ValueError, match="which 'leaky_relu' does not give"):
        value("leaky_relu", "identity")
    with pytest.raises(ValueError, match="which 'exp' does not give"):
        value("relu", "exp", loss="poisson")
    seen = diagnostics.probe(fastbp.Network((4, 5, 3), output="identity"), X, np.abs(VALUES))
    with pytest.raises(ValueError, match=r"E\^L = X\^L - Y, which is squared error's; the loss is 'poisson'"):
        diagnostics.valuation(dataclasses.replace(seen, loss_code=kernels.Loss.POISSON))
    with pytest.raises(ValueError, match="this network has CLIP_NORM"):
        diagnostics.valuation(dataclasses.replace(seen, operations=seen.operations | {kernels.Op.CLIP_NORM}))
    with pytest.raises(ValueError, match="make the probe without sample_weight"):
        value("relu", "identity", weight=np.ones(7))
    with pytest.raises(ValueError, match=r"and a maxout unit has several U; use identity and ReLU layers"):
        value("maxout", "identity")
    with pytest.raises(ValueError, match=r"each sample alone, and batch normalisation .*; build the network without"):
        value("relu", "identity", batch_norm=True)
    with pytest.raises(ValueError, match=r"where dropout stands; make the probe with dropout=False"):
        value("relu", "identity", dropout=0.5)
    net = fastbp.Network((4, 5, 3), "relu", "identity", dropout=0.5)
    assert diagnostics.valuation(diagnostics.probe(net, X, VALUES, dropout=False)).holds[-1]


# ---------------------------------------------------------------------------------------------------- gradient check


CASES = [
    ("tanh", "softmax", "cross_entropy", {}),
    (["relu", "silu"], "logistic", "cross_entropy", {}),
    (["leaky_relu", "elu"], "identity", "squared_error", {"bias": False}),
    ([fastbp.ReLU(0.5), "gelu"], "softmax", "squared_error", {}),
    ("selu", "softplus", "poisson", {}),
    ("softplus", "exp", "poisson", {"bias": False}),
]


@pytest.mark.source("S24", "Cheng 9.2", "SE")
@pytest.mark.parametrize(("hidden", "output", "loss", "options"), CASES, ids=lambda value: str(value)[:20])
def test_gradients_pass_the_check(backend_name: str, hidden: Any, output: str, loss: str, options: Any) -> None:
    net = fastbp.Network((4, 5, 6, 3), hidden, output, random_state=2, backend=backend_name, **options)
    targets = RNG.dirichlet([1, 1, 1], 7)
    weight = RNG.uniform(0.5, 2, 7)
    found = diagnostics.check_gradient(net, X, targets, loss=loss, alpha=0.3, sample_weight=weight)
    assert found.passed
    assert found.error < 1e-8
    assert [block.name for block in found.blocks] == ["W1", "W2", "W3", "b1", "b2", "b3"][: 3 if options else 6]
    assert all(
        block.n_checked + block.n_left_out == W.size for block, W in zip(found.blocks, net.weights, strict=False)
    )
    assert sum(block.n_left_out for block in found.blocks) == 0


@pytest.mark.source("S24", "Cheng 9.2", "SE")
@pytest.mark.parametrize("operation", ["linear_grad", "backprop_delta", "activation_delta", "output_delta", "activate"])
def test_a_wrong_gradient_fails_the_check(
    backend: kernels.Backend, operation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = fastbp.Network((4, 5, 6, 3), ["silu", "tanh"], "logistic", random_state=2, backend=backend.name)
    arguments: dict[str, Any] = {"loss": "squared_error" if operation == "activation_delta" else "cross_entropy"}
    if operation == "activation_delta":
        net = fastbp.Network((4, 5, 6, 3), "tanh", "gelu", random_state=2, backend=backend.name)
    assert diagnostics.check_gradient(net, X, VALUES > 0, **arguments).passed
    right = getattr(backend, operation)
    written = {"linear_grad": 4, "backprop_delta": 4, "activation_delta": 2, "output_delta": 5, "activate": 3}

    def wrong(*args: Any, **kwargs: Any) -> Any:
        result = right(*args, **kwargs)
        args[written[operation]][..., 0] *= 1.001
        return result

    monkeypatch.setattr(backend, operation, wrong)
    found = diagnostics.check_gradient(net, X, VALUES > 0, **arguments)
    assert not found.passed
    assert found.error > 1e-5
    first = found.blocks[0]
    assert not first.passed
    assert 0 <= first.worst < net.weights[0].size


LAYERED: dict[str, Any] = {
    "hidden_activation": ["silu", fastbp.Maxout(2), "tanh"],
    "batch_norm": [True, True, False],
    "dropout": [0.7, 0.9, 0.8],
    "random_state": 2,
}


@pytest.mark.source("S24", "Cheng 9.2", "SE")
@pytest.mark.source("S14", "Book 4.6.2")
@pytest.mark.source("S15", "Book 4.7")
def test_gradients_through_what_stands_between_layers_pass_the_check(backend_name: str) -> None:
    net = fastbp.Network((4, 5, 6, 5, 3), **LAYERED, backend=backend_name)
    found = diagnostics.check_gradient(net, X, CLASSES, per_block=None)
    assert found.passed
    assert found.error < 1e-6
    checked = {block.name: block.n_checked for block in found.blocks}
    sizes = {"W1": 20, "W2": 60, "W3": 30, "W4": 15, "b1": 5, "b2": 12, "b3": 5, "b4": 3, "gamma1": 5, "gamma2": 12}
    assert checked == sizes


@pytest.mark.source("S24", "Cheng 9.2", "SE")
@pytest.mark.source("S14", "Book 4.6.2")
@pytest.mark.parametrize(
    ("operation", "output"),
    [
        ("batch_norm", "normalized"),
        ("batch_norm", "rstd"),
        ("batch_norm_delta", "delta"),
        ("batch_norm_delta", "grad_gamma"),
        ("batch_norm_delta", "grad_beta"),
        ("maxout_delta", "delta_z"),
        ("dropout", "saved"),
    ],
)
def test_a_flipped_sign_between_the_layers_fails_the_check(
    backend: kernels.Backend, operation: str, output: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = fastbp.Network((4, 5, 6, 5, 3), **LAYERED, backend=backend.name)
    assert diagnostics.check_gradient(net, X, CLASSES, per_block=5).passed
    right = getattr(backend, operation)
    place = list(inspect.signature(right).parameters).index(output)

    def wrong(*args: Any, **kwargs: Any) -> Any:
        right(*args, **kwargs)
        args[place][...] *= -1

    monkeypatch.setattr(backend, operation, wrong)
    assert not diagnostics.check_gradient(net, X, CLASSES, per_block=5).passed


@pytest.mark.source("S24", "SE")
@pytest.mark.source("S4", "Cheng table 1")
def test_where_another_piece_becomes_the_largest_nothing_is_compared() -> None:
    net = fastbp.Network((1, 1, 1), fastbp.Maxout(2), "identity", dtype="float64")
    net.parameters[...] = 1, -1, 1, 0, 0, 0.5
    found = diagnostics.check_gradient(net, [[0.0]], [2.0])  # z = (0, 0): a step of either bias makes one the larger
    by_name = {block.name: block for block in found.blocks}
    assert found.passed
    assert (by_name["b1"].n_checked, by_name["b1"].n_left_out) == (0, 2)
    assert by_name["W1"].n_checked == 2  # x = 0: no step of a weight moves z
    for z in (3e-5, -3e-5):  # within the first step of the other piece, not within the second
        net.biases[0][0] = z
        found = diagnostics.check_gradient(net, [[0.0]], [2.0])
        assert found.passed
        assert sum(block.n_left_out for block in found.blocks) == 0


@pytest.mark.source("S14", "Book 4.6.2")
def test_inputs_far_from_zero_pass_through_batch_norm() -> None:
    """Rounding of z is then large beside what is left of it when the mean is gone; the resolution says so."""
    net = fastbp.Network((4, 6, 3), "tanh", batch_norm=True, random_state=0)
    near, far = (diagnostics.check_gradient(net, X + shift, CLASSES) for shift in (0, 1e4))
    assert near.passed
    assert near.error < 1e-7
    assert far.passed
    assert far.blocks[0].resolution > 1e2 * near.blocks[0].resolution


@pytest.mark.source("S24", "SE", "Porr (23)")
def test_a_kink_is_no_error() -> None:
    """At z = 0 a central difference finds 1/2 whatever ReLU'(0) is: such parameters are told, not judged."""
    for at_zero in (0.0, 0.5, 1.0):
        net = fastbp.Network((1, 1, 1), fastbp.ReLU(at_zero), "identity", dtype="float64")
        net.parameters[...] = 1, 1, 0, 0.5
        found = diagnostics.check_gradient(net, [[0.0]], [2.0])
        by_name = {block.name: block for block in found.blocks}
        assert found.passed
        assert (by_name["b1"].n_checked, by_name["b1"].n_left_out, by_name["b1"].worst) == (0, 1, -1)
        assert by_name["W1"].n_checked == 1  # x = 0: no step of the weight moves z
        assert by_name["b2"].n_checked == 1


@pytest.mark.source("S24", "SE")
def test_near_a_kink_a_finer_step_is_taken() -> None:
    net = fastbp.Network((1, 1, 1), "relu", "identity", dtype="float64")
    for z in (3e-5, -3e-5):  # within the first step of the kink, not within the second
        net.parameters[...] = 1, 1, z, 0.5
        found = diagnostics.check_gradient(net, [[0.0]], [2.0])
        assert found.passed
        assert [block.n_left_out for block in found.blocks] == [0, 0, 0, 0]


@pytest.mark.parametrize("output", ["softmax", "logistic"])
def test_where_cross_entropy_is_clipped_nothing_is_compared(output: str) -> None:
    """Its loss is flat there, its gradient is not."""
    net = fastbp.Network((2, 2), output=output, bias=False, dtype="float64")
    net.weights[0][...] = np.diag([100, -100])
    wrong = diagnostics.check_gradient(net, [[1.0, 1.0]], [[0.0, 1.0]])
    assert (wrong.blocks[0].n_checked, wrong.blocks[0].n_left_out) == (0, 4)
    right = diagnostics.check_gradient(net, [[1.0, 1.0]], [[1.0, 0.0]])
    assert right.passed
    assert right.blocks[0].n_checked == 4


def test_large_inputs_and_drawn_parameters_pass() -> None:
    net = fastbp.Network((4, 30, 3), "tanh", random_state=0)
    found = diagnostics.check_gradient(net, 1000 * X, CLASSES, per_block=7)
    assert found.passed
    assert [block.n_checked for block in found.blocks] == [7, 7, 7, 3]


def test_what_cannot_be_checked_is_refused() -> None:
    net = fastbp.Network((4, 5, 3), random_state=0)
    with pytest.raises(ValueError, match="y is None; pass targets"):
        diagnostics.check_gradient(net, X, None)
    with pytest.raises(ValueError, match="step is 0"):
        diagnostics.check_gradient(net, X, CLASSES, step=0)
    with pytest.raises(ValueError, match="per_block is 0"):
        diagnostics.check_gradient(net, X, CLASSES, per_block=0)
