"""Activation functions by name and as objects: values, derivatives, files, and what is refused."""

from __future__ import annotations

import copy
import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_problem import CODES, X

import fastbp
from fastbp import activations as act
from fastbp import kernels

OBJECTS = [
    act.Identity(),
    act.ReLU(),
    act.ReLU(grad_at_zero=0.5),
    act.LeakyReLU(),
    act.LeakyReLU(0.2, grad_at_zero=1),
    act.ELU(),
    act.ELU(0.4),
    act.SELU(),
    act.Logistic(),
    act.Tanh(),
    act.Softplus(),
    act.GELU(),
    act.SiLU(),
]


def network(hidden: Any, output: Any = "softmax", **options: Any) -> fastbp.Network:
    return fastbp.Network((6, 9, 7, 3), hidden, output, dtype="float64", random_state=0, **options)


@pytest.mark.parametrize("function", OBJECTS, ids=str)
def test_a_network_learns_with_every_activation(backend: kernels.Backend, function: act.Activation) -> None:
    samples = np.random.default_rng(0).standard_normal((60, 6))
    y = (samples[:, 0] * samples[:, 1] > 0).astype(int) + (samples[:, 2] > 1)
    net = network(function, backend=backend.name)
    trainer = fastbp.Trainer(net, learning_rate=0.02, batch_size=20, backend=backend.name, random_state=0)
    history = trainer.fit(samples, y, epochs=40)
    assert history.loss[-1] < 0.8 * history.loss[0]


@pytest.mark.parametrize(("hidden", "output"), list(itertools.product(OBJECTS, ["softplus", "gelu", act.ELU(0.5)])))
def test_backends_agree_on_every_pair(compiled_name: str, hidden: act.Activation, output: Any) -> None:
    """Outputs whose derivative is known from them and outputs whose derivative is kept, after three steps."""
    rng, results = np.random.default_rng(0), []
    Y = rng.uniform(0.1, 1, (9, 3))
    for name in ("numpy", compiled_name):
        net = network(hidden, output, backend=name)
        trainer = fastbp.Trainer(net, loss="squared_error", batch_size=4, backend=name, random_state=0)
        trainer.fit(X[:9], Y, epochs=1)
        results.append((net.parameters, net.forward(X)))
    for got, wanted in zip(results[1], results[0], strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", act.HIDDEN_ACTIVATIONS)
def test_a_name_stands_for_the_object_with_the_usual_parameters(name: str) -> None:
    kind = act.as_activation(name, act.HIDDEN_ACTIVATIONS, "hidden_activation")
    assert kind == type(kind)()
    assert kind.name == str(kind) == kind.spec() == name
    np.testing.assert_array_equal(network(name).forward(np.eye(6)), network(kind).forward(np.eye(6)))


def test_each_layer_may_have_its_own(backend: kernels.Backend) -> None:
    net = network(["tanh", act.LeakyReLU(0.3)], "identity", backend=backend.name)
    first, second, third = net.weights
    b = net.biases
    z = np.tanh(X @ first + b[0]) @ second + b[1]
    wanted = np.where(z > 0, z, 0.3 * z) @ third + b[2]
    np.testing.assert_allclose(net.forward(X), wanted, rtol=1e-12)
    assert "tanh-LeakyReLU(beta=0.3" in repr(net)


@pytest.mark.source("S3", "Porr (23)", "SE ReLU'", "Book 4.3.2")
def test_relu_learns_at_zero_as_it_is_told(backend: kernels.Backend) -> None:
    """All pre-activations are 0: what the first layer learns is the derivative there, times what comes from above."""
    changes = []
    for at_zero in (0.0, 0.25, 1.0):
        net = fastbp.Network((2, 1, 1), act.ReLU(at_zero), "identity", dtype="float64", backend=backend.name)
        net.weights[0][...], net.weights[1][...] = 0, 1
        net.biases[0][...] = net.biases[1][...] = 0
        trainer = fastbp.Trainer(
            net, loss="squared_error", optimizer="sgd", learning_rate=1.0, batch_size=1, backend=backend.name
        )
        trainer.fit(np.array([[1.0, 2.0]]), np.array([[3.0]]))
        changes.append(net.weights[0].ravel().tolist())
    assert changes == [[0, 0], [0.75, 1.5], [3, 6]]


@pytest.mark.parametrize("activation", ["gelu", act.ReLU(0.5), ["elu", act.LeakyReLU(0.2)]])
def test_estimators_take_them(compiled_name: str, activation: Any) -> None:
    params = {"hidden_layer_sizes": (8, 6), "activation": activation, "max_iter": 5, "random_state": 0, "tol": 0}
    estimators = [fastbp.MLPClassifier(**params, backend=name) for name in ("numpy", compiled_name)]
    with pytest.warns(Warning, match="Maximum iterations"):
        wanted, got = (estimator.fit(X, CODES).predict_proba(X) for estimator in estimators)
    np.testing.assert_allclose(got, wanted, rtol=1e-8)
    with pytest.raises(ValueError, match="scikit-learn does not know it; choose one of 'identity', 'logistic', 'relu'"):
        estimators[0].to_sklearn()


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_every_solver_takes_them(compiled_name: str, solver: str) -> None:
    params = {"hidden_layer_sizes": (8,), "activation": "silu", "max_iter": 8, "random_state": 0, "solver": solver}
    losses = []
    for name in ("numpy", compiled_name):
        with pytest.warns(Warning, match="converge"):
            losses.append(fastbp.MLPClassifier(**params, backend=name).fit(X, CODES).loss_)
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


@pytest.mark.parametrize("hidden", ["gelu", act.LeakyReLU(0.2, 0.5), ("tanh", act.ELU(0.3))])
def test_they_are_kept_in_files_copies_and_pickles(tmp_path: Path, hidden: Any) -> None:
    net = network(hidden)
    fastbp.save(net, tmp_path / "net.safetensors")
    for other in (fastbp.load(tmp_path / "net.safetensors"), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.functions == net.functions
        assert other.hidden_activation == net.hidden_activation
        np.testing.assert_array_equal(other.forward(X), net.forward(X))


def test_an_estimators_activation_is_kept_in_files(tmp_path: Path) -> None:
    activation = (act.LeakyReLU(0.2), "gelu")
    clf = fastbp.MLPClassifier((5, 4), activation=activation, max_iter=2, random_state=0)
    with pytest.warns(Warning, match="Maximum iterations"):
        clf.fit(X, CODES)
    fastbp.save(clf, tmp_path / "clf.safetensors")
    other = fastbp.load(tmp_path / "clf.safetensors")
    assert other.activation == activation
    np.testing.assert_array_equal(other.predict_proba(X), clf.predict_proba(X))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: act.LeakyReLU(0), r"beta is 0; pass a number in \(0, 1\)"),
        (lambda: act.LeakyReLU(1.0), "beta is 1.0"),
        (lambda: act.LeakyReLU(float("nan")), "beta is nan"),
        (lambda: act.LeakyReLU("a"), "beta is 'a'"),
        (lambda: act.ELU(-1.0), "beta is -1.0"),
        (lambda: act.ReLU(1.5), r"grad_at_zero is 1.5; pass a number in \[0, 1\]"),
        (lambda: act.LeakyReLU(0.1, -0.1), "grad_at_zero is -0.1"),
        (lambda: network("swish"), "hidden_activation is 'swish'; choose one of 'identity', 'relu', 'leaky_relu'"),
        (lambda: network("softmax"), "hidden_activation is 'softmax'; choose one of"),
        (lambda: network(act.Softmax()), "hidden_activation is 'softmax'; choose one of"),
        (lambda: network(["relu"]), "has 1 entries; pass one for each of 2 hidden layers"),
        (lambda: network({"name": "elu", "alpha": 2.0}), r"'elu' has the parameters \['beta'\]"),
    ],
)
def test_what_is_no_activation_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_no_activation_at_all_is_refused() -> None:
    with pytest.raises(TypeError, match=r"hidden_activation is a int; pass a name or an object such as"):
        network(3)


@pytest.mark.source("S17", "Cheng 9.1")
def test_a_network_of_sign_units_predicts_but_does_not_learn(backend: kernels.Backend) -> None:
    net = fastbp.Network((2, 3, 1), "sign", "sign", backend=backend.name, random_state=0)
    assert set(np.unique(net.forward(np.random.default_rng(0).standard_normal((50, 2))))) <= {-1, 0, 1}
    with pytest.raises(ValueError, match=r"'squared_error' does not go with output 'sign'.*nothing learns"):
        fastbp.Trainer(net, loss="squared_error")


def test_records_that_are_no_activation_are_refused(backend: kernels.Backend) -> None:
    z, a, saved = np.ones((1, 2)), np.zeros((1, 2)), np.zeros((1, 2))
    functions = {
        "beta 2": kernels.activation_function(kernels.Activation.LEAKY_RELU, 2.0),
        "beta nan": kernels.activation_function(kernels.Activation.ELU, float("nan")),
        "derivative 3.0 at 0": kernels.activation_function(kernels.Activation.RELU_AT_ZERO, at_zero=3.0),
        "custom activation": kernels.activation_function(kernels.Activation.CUSTOM),
    }
    for message, function in functions.items():
        with pytest.raises(ValueError, match=message):
            backend.activate(z, function, a, saved)
    assert not a.any()
