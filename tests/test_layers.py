"""Batch normalisation, dropout and maxout as users meet them: in networks, trainers and estimators."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import sklearn.neural_network
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from small_problem import CODES, VALUES, WITH_NAN, X, Y, classifier, regressor

import fastbp
from fastbp import fitted
from fastbp.layers import as_dropout

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

KINDS: dict[str, dict[str, Any]] = {
    "batch norm": {"batch_norm": True},
    "dropout": {"dropout": 0.6},
    "maxout": {"activation": "maxout"},
    "all": {
        "hidden_layer_sizes": (8, 5),
        "activation": ["tanh", fastbp.Maxout(3)],
        "batch_norm": [fastbp.BatchNorm(momentum=0.3), True],
        "dropout": fastbp.Dropout((0.5, 0.9), inputs=0.8),
    },
}


def state(model: Any) -> dict[str, Any]:
    """Return all that a fit could have left, as bytes where it is an object."""
    return {name: pickle.dumps(value) for name, value in vars(model).items()}


def parts(model: Any) -> list[NDArray[Any]]:
    return [array for name in fitted.NAMES for array in getattr(model, name, ())]


def assert_same(model: Any, other: Any) -> None:
    """The same numbers bit for bit, of the same attributes."""
    assert vars(model).keys() == vars(other).keys()
    for ours, theirs in zip(parts(model), parts(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(model.predict_proba(X), other.predict_proba(X))


# ---------------------------------------------------------------------------------------------------- bad values

CURE = r"pass the probability that a unit is kept, in \(0, 1\] \(1 drops nothing\), or fastbp\.Dropout"
BAD_KEPT = [0, -0.1, 1.0001, float("nan"), float("inf"), True, "0.5", 1j]


@pytest.mark.parametrize("p", BAD_KEPT)
def test_probabilities_are_refused(p: Any) -> None:
    for name, make in {
        "dropout": lambda: fastbp.Dropout(p),
        "dropout ": lambda: fastbp.Dropout([0.5, p]),
        "inputs": lambda: fastbp.Dropout(0.5, inputs=p),
        "dropout  ": lambda: fastbp.Network((2, 3, 2), dropout=p),
        "dropout   ": lambda: fastbp.Network((2, 3, 3, 2), dropout=(0.5, p)),
    }.items():
        with pytest.raises(ValueError, match=rf"^{name.strip()} is .*{CURE}"):
            make()


@pytest.mark.parametrize("p", BAD_KEPT)
@pytest.mark.parametrize("make", [classifier, regressor])
def test_probabilities_are_refused_by_estimators(make: Callable[..., Any], p: Any) -> None:
    model = make(fastbp, dropout=p)
    before = state(model)
    with pytest.raises(ValueError, match=rf"^dropout is .*{CURE}|'dropout' parameter .* a float in the range \(0.0, 1"):
        model.fit(X, CODES)
    assert state(model) == before
    with pytest.raises(ValueError, match=rf"^dropout is .*{CURE}"):
        make(fastbp, dropout=[p]).fit(X, CODES)


@settings(max_examples=50, deadline=None)
@given(
    p=st.floats(0, 1, exclude_min=True) | st.integers(1, 1),
    kind=st.sampled_from([float, np.float64]),
    n=st.integers(0, 3),
)
def test_probabilities_in_their_range_are_taken(p: float, kind: type, n: int) -> None:
    assert as_dropout(kind(p), n) == (1.0, *[p] * n)
    assert as_dropout(fastbp.Dropout([kind(p)] * n, inputs=kind(p)), n) == (p,) * (n + 1)
    assert as_dropout(np.float32(0.5), n) == (1.0, *[0.5] * n)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fastbp.BatchNorm(epsilon=0), ValueError, r"epsilon is 0; pass a number in \(0"),
        (lambda: fastbp.BatchNorm(epsilon=float("inf")), ValueError, r"epsilon is inf; pass a number in \(0, inf\)"),
        (lambda: fastbp.BatchNorm(epsilon=float("nan")), ValueError, "epsilon is nan; pass"),
        (lambda: fastbp.BatchNorm(epsilon="small"), TypeError, "epsilon is 'small'; pass a number"),
        (lambda: fastbp.BatchNorm(momentum=1.5), ValueError, r"momentum is 1.5; pass a number in \[0, 1\]"),
        (lambda: fastbp.BatchNorm(momentum=-0.1), ValueError, "momentum is -0.1; pass"),
        (lambda: fastbp.Network((2, 3, 2), batch_norm="yes"), TypeError, "batch_norm is 'yes'; pass True, False or an"),
        (lambda: fastbp.Network((2, 3, 2), batch_norm=1), TypeError, "batch_norm is 1; pass True, False or an object"),
        (lambda: fastbp.Network((2, 3, 2), batch_norm=[1]), TypeError, "batch_norm is 1; pass True, False or an obj"),
        (lambda: fastbp.Network((2, 3, 2), batch_norm=[True] * 2), ValueError, "has 2 entries; pass one for each of 1"),
        (lambda: fastbp.Network((2, 3, 2), batch_norm=True, bias=False), ValueError, "pass bias=True"),
        (lambda: fastbp.Network((2, 3, 2), dropout=[0.5] * 2), ValueError, "2 probabilities; pass one for each of 1"),
        (lambda: fastbp.Network((2, 3, 2), dropout=fastbp.Dropout([])), ValueError, "0 probabilities; pass one for"),
        (lambda: fastbp.Maxout(1), ValueError, "k is 1; pass a whole number of at least 2"),
        (lambda: fastbp.Maxout(2.0), ValueError, r"k is 2\.0; pass a whole number of at least 2"),
        (lambda: fastbp.Maxout(True), ValueError, "k is True; pass a whole number of at least 2"),
        (lambda: fastbp.Maxout("3"), ValueError, "k is '3'; pass a whole number of at least 2"),
        (lambda: fastbp.Network((2, 3, 2), "maxxout"), ValueError, "is 'maxxout'; choose one of .*'maxout'"),
        (lambda: fastbp.Network((2, 3, 2), {"name": "maxout", "pieces": 3}), ValueError, r"the parameters \['k'\]"),
    ],
)
def test_bad_values_are_refused_with_what_to_do(make: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"batch_norm": "yes"}, "'batch_norm' parameter of MLPClassifier must be an instance of 'bool'.* Got 'yes'"),
        ({"batch_norm": 1}, "'batch_norm' parameter of MLPClassifier must be an instance of 'bool'.* Got 1 instead"),
        ({"batch_norm": [True, True]}, "batch_norm has 2 entries; pass one for each of 1 hidden layers"),
        ({"dropout": [0.5, 0.5]}, "dropout has 2 probabilities; pass one for each of 1 hidden layers"),
        ({"activation": "maxxout"}, "'activation' parameter of MLPClassifier must be a str among .*'maxout'"),
        ({"activation": ["maxout"] * 2}, "has 2 entries; pass one for each of 1 hidden layers"),
        ({"batch_norm": True, "solver": "lbfgs"}, "solver is 'lbfgs'.* choose solver='adam' or solver='sgd'"),
        ({"dropout": 0.9, "solver": "lbfgs"}, "solver is 'lbfgs'.* choose solver='adam' or solver='sgd'"),
        ({"batch_norm": True, "batch_size": 1}, "mini-batches are of 1 sample, .*choose a larger batch_size"),
    ],
)
def test_estimators_refuse_and_stay_what_they_were(params: dict[str, Any], message: str) -> None:
    model = classifier(fastbp, warm_start=True).fit(X, Y)
    model.set_params(**params)
    before = state(model)
    with pytest.raises(ValueError, match=message):
        model.fit(X, Y)
    assert state(model) == before
    if params.get("solver") != "lbfgs":
        with pytest.raises(
            (ValueError, TypeError), match=rf"{message}|pass True, False or an obj|choose one of .*maxout"
        ):
            model.partial_fit(X, Y)  # of a trained estimator, which scikit-learn does not validate
        assert state(model) == before


@pytest.mark.parametrize("form", [scipy.sparse.csr_matrix, scipy.sparse.csc_array])
def test_dropped_inputs_of_sparse_samples_are_refused(form: Any) -> None:
    dropout, message = fastbp.Dropout(0.9, inputs=0.5), r"X is sparse, .*pass X\.toarray\(\), or fastbp\.Dropout"
    model = classifier(fastbp, dropout=dropout).fit(X, Y)
    before = state(model)
    with pytest.raises(ValueError, match=message):
        model.partial_fit(form(X), Y)
    assert state(model) == before
    model.predict(form(X))
    trainer = fastbp.Trainer(fastbp.Network((6, 4, 3), dropout=dropout, random_state=0), random_state=0)
    parameters, order = trainer.network.parameters.copy(), trainer.random_state.bit_generator.state
    with pytest.raises(ValueError, match=message):
        trainer.fit(form(X), CODES)
    np.testing.assert_array_equal(trainer.network.parameters, parameters)
    assert trainer.random_state.bit_generator.state == order
    trainer.fit(X, CODES)


def test_mini_batches_of_one_sample_are_refused_and_a_last_one_is_not() -> None:
    net = fastbp.Network((6, 4, 3), batch_norm=True, random_state=0)
    before = net.buffer.copy()
    for batch_size, n in ((1, 40), (32, 1), ("full", 1)):
        with pytest.raises(ValueError, match="mini-batches are of 1 sample, which has no variance"):
            fastbp.Trainer(net, batch_size=batch_size).fit(X[:n], CODES[:n])
    np.testing.assert_array_equal(net.buffer, before)
    fastbp.Trainer(net, batch_size=20).fit(X[:21], CODES[:21])
    assert np.isfinite(net.buffer).all()
    assert np.isfinite(parts(classifier(fastbp, batch_norm=True, batch_size=13).fit(X, Y))[-1]).all()


@pytest.mark.parametrize("params", [{"batch_norm": True}, {"dropout": 0.5}, {"activation": "maxout"}])
def test_scikit_learns_own_loop_knows_none_of_it(params: dict[str, Any]) -> None:
    class Mine(fastbp.MLPClassifier):
        def _backprop(self, *args: Any) -> Any:
            return super()._backprop(*args)

    with pytest.raises(ValueError, match=r"scikit-learn's own loop must run: Mine overrides _backprop"):
        Mine((4,)).set_params(**params).fit(X, Y)


# -------------------------------------------------------------------------------------- estimators against others


def parts_of(net: fastbp.Network) -> list[NDArray[Any]]:
    return [*net.weights, *net.biases, *net.gammas, *net.running_means, *net.running_variances]


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_estimator_trains_as_a_trainer_of_the_reference(kind: str, solver: str, compiled_name: str) -> None:
    params = {"shuffle": False, "solver": solver, "alpha": 0.01, "backend": compiled_name, **KINDS[kind]}
    model = classifier(fastbp, **params).partial_fit(X, Y, classes=np.unique(Y))
    begun = classifier(fastbp, **params, learning_rate_init=1e-300)
    sizes = (6, *np.atleast_1d(model.hidden_layer_sizes), 3)
    options = {name: KINDS[kind].get(name) for name in ("batch_norm", "dropout")}
    net = fastbp.Network(sizes, model.activation, dtype="float64", backend="numpy", **options)
    begun.partial_fit(X, Y, classes=np.unique(Y))  # as good as not at all: but for running means and variances
    for view, array in zip([*net.weights, *net.biases], [*begun.coefs_, *begun.intercepts_], strict=True):
        view[...] = array
    rule = fastbp.SGD(1e-3, momentum=0.9, nesterov=True) if solver == "sgd" else fastbp.Adam(1e-3)
    trainer = fastbp.Trainer(net, optimizer=rule, batch_size=16, backend="numpy")
    trainer._seed = getattr(model, "_dropout_state", (0, 0))[0]
    losses = trainer.fit(X, CODES, epochs=4, shuffle=False, alpha=0.01).loss
    for _ in range(3):
        model.partial_fit(X, Y)
    np.testing.assert_allclose(model.loss_curve_, losses, rtol=1e-9)
    for ours, theirs in zip(parts(model), parts_of(net), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.predict_proba(X), net.predict_proba(X), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_batch_normalisation_in_estimators_is_pytorchs(solver: str, weighted: bool, compiled: str) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: nothing to compare with")
    net = fastbp.Network((6, 8, 5, 2), "tanh", "identity", dtype="float64", random_state=0)
    modules: list[Any] = []
    for layer, (W, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        linear = torch.nn.Linear(*W.shape, dtype=torch.float64, bias=layer == 2)
        linear.weight.data = torch.tensor(W.T)
        modules.append(linear)
        if layer == 2:
            linear.bias.data = torch.tensor(b)
        else:
            modules += [torch.nn.BatchNorm1d(W.shape[1], dtype=torch.float64), torch.nn.Tanh()]
    twin = torch.nn.Sequential(*modules)
    linears = [module for module in modules if isinstance(module, torch.nn.Linear)]
    alpha, weight = 0.3, np.linspace(0.5, 2, 40) if weighted else np.ones(40)
    rules = {
        "sgd": lambda p: torch.optim.SGD(p, 0.05, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, 0.02, eps=1e-30),  # so small that where it stands does not count
    }
    optimizer = rules[solver](twin.parameters())
    for _ in range(5):
        for start in range(0, 40, 16):
            part = slice(start, start + 16)
            w = torch.tensor(weight[part])
            losses = ((twin(torch.tensor(X[part])) - torch.tensor(VALUES[part])) ** 2).sum(1) / 2
            penalty = alpha / 2 * sum((linear.weight**2).sum() for linear in linears)
            optimizer.zero_grad()
            (((w * losses).sum() + penalty) / w.sum()).backward()
            optimizer.step()
    twin.eval()
    settings = {"sgd": {"learning_rate_init": 0.05, "nesterovs_momentum": False}, "adam": {"learning_rate_init": 0.02}}
    model = regressor(
        fastbp, hidden_layer_sizes=(8, 5), activation="tanh", batch_norm=True, solver=solver, shuffle=False
    ).set_params(alpha=alpha, epsilon=1e-30, **settings[solver])
    model.fit(X, VALUES, sample_weight=weight if weighted else None)
    norms = [module for module in modules if isinstance(module, torch.nn.BatchNorm1d)]
    expected = {
        "coefs_": [linear.weight.data.T for linear in linears],
        "intercepts_": [*(norm.bias.data for norm in norms), linears[-1].bias.data],
        "batch_norm_scales_": [norm.weight.data for norm in norms],
        "batch_norm_means_": [norm.running_mean for norm in norms],
        "batch_norm_variances_": [norm.running_var for norm in norms],
    }
    for name, arrays in expected.items():
        for ours, theirs in zip(getattr(model, name), arrays, strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-8, atol=1e-10, err_msg=name)
    np.testing.assert_allclose(model.predict(X), twin(torch.tensor(X)).detach().numpy(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", ["batch norm", "all"])
def test_prediction_takes_running_statistics(kind: str, compiled: str) -> None:
    """The forward pass written out, from nothing but the public attributes."""
    model = classifier(fastbp, **KINDS[kind], max_iter=20).fit(X, Y)
    norms = [fastbp.BatchNorm()] if kind == "batch norm" else [fastbp.BatchNorm(momentum=0.3), fastbp.BatchNorm()]
    a = X
    for layer, norm in enumerate(norms):
        mean, variance = model.batch_norm_means_[layer], model.batch_norm_variances_[layer]
        z = (a @ model.coefs_[layer] - mean) / np.sqrt(variance + norm.epsilon)
        z = z * model.batch_norm_scales_[layer] + model.intercepts_[layer]
        is_maxout = kind == "all" and layer == 1
        a = z.reshape(len(X), 3, 5).max(1) if is_maxout else (np.tanh(z) if kind == "all" else np.maximum(z, 0))
    z = np.exp(a @ model.coefs_[-1] + model.intercepts_[-1])
    np.testing.assert_allclose(model.predict_proba(X), z / z.sum(1, keepdims=True), rtol=1e-9)
    np.testing.assert_allclose(model.predict_proba(X[:2]), model.predict_proba(X)[:2], rtol=0)


def test_maxout_begins_as_scikit_learn_and_draws_the_rest_after() -> None:
    params = {"hidden_layer_sizes": (8, 4), "random_state": 7, "max_iter": 1, "learning_rate_init": 1e-300}
    ours = classifier(fastbp, activation=[fastbp.Maxout(2), fastbp.Maxout(3)], **params).fit(X, Y)
    theirs = classifier(sklearn.neural_network, activation="relu", **params).fit(X, Y)
    for layer, (W, b) in enumerate(zip(theirs.coefs_, theirs.intercepts_, strict=True)):
        np.testing.assert_array_equal(ours.coefs_[layer][:, : W.shape[1]], W)
        np.testing.assert_array_equal(ours.intercepts_[layer][: len(b)], b)
    generator = np.random.RandomState(7)
    for W, b in zip(theirs.coefs_, theirs.intercepts_, strict=True):
        generator.uniform(size=W.size + b.size)
    bound = np.sqrt(6 / (6 + 8))
    np.testing.assert_allclose(ours.coefs_[0][:, 8:], generator.uniform(-bound, bound, (6, 8)), rtol=1e-15)
    assert [W.shape for W in ours.coefs_] == [(6, 16), (8, 12), (4, 3)]


def test_maxout_learns_by_lbfgs(compiled: str) -> None:
    model = regressor(fastbp, activation=fastbp.Maxout(3), solver="lbfgs", alpha=0, max_iter=300).fit(X, VALUES**2)
    assert model.score(X, VALUES**2) > 0.99
    assert model.loss_ == pytest.approx(np.mean((model.predict(X) - VALUES**2) ** 2) / 2, rel=1e-6)


# ------------------------------------------------------------------------------------------- dropout's generator


@pytest.mark.parametrize("dropout", [None, 1, 1.0, [1.0], fastbp.Dropout(1, inputs=1)])
def test_nothing_is_drawn_where_nothing_is_dropped(dropout: Any) -> None:
    states = []
    for library, params in ((fastbp, {"dropout": dropout}), (sklearn.neural_network, {})):
        generator = np.random.RandomState(3)
        model = classifier(library, random_state=generator, **params).fit(X, Y)
        assert not hasattr(model, "_dropout_state")
        states.append(generator.get_state())
    np.testing.assert_array_equal(states[0][1], states[1][1])
    assert states[0][2:] == states[1][2:]


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_steps_are_counted_on_through_partial_fit(solver: str, compiled: str) -> None:
    whole = classifier(fastbp, dropout=0.6, solver=solver, shuffle=False, max_iter=3).fit(X, Y)
    pieces = classifier(fastbp, dropout=0.6, solver=solver, shuffle=False)
    for _ in range(3):
        pieces.partial_fit(X, Y, classes=np.unique(Y))
    assert whole._dropout_state == pieces._dropout_state
    assert whole._dropout_state[1] == 3 * 3
    np.testing.assert_array_equal(whole.coefs_[0], pieces.coefs_[0])
    pieces._dropout_state = pieces._dropout_state[0], 0
    whole.partial_fit(X, Y)
    pieces.partial_fit(X, Y)
    assert (whole.coefs_[0] != pieces.coefs_[0]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_threads(kind: str, compiled: str) -> None:
    models = [classifier(fastbp, n_threads=n, **KINDS[kind]).fit(X, Y) for n in (1, 3)]
    assert_same(*models)


# --------------------------------------------------------------------------------------------- scikit-learn's ways


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("through", [lambda model: pickle.loads(pickle.dumps(model)), copy.deepcopy])
def test_copies_go_on_alike(kind: str, through: Callable[[Any], Any], compiled: str) -> None:
    model = classifier(fastbp, warm_start=True, **KINDS[kind]).fit(X, CODES)
    other, before = through(model), copy.deepcopy(model)
    assert_same(model, other)
    other.partial_fit(X, CODES)
    assert_same(model, before)
    model.partial_fit(X, CODES)
    assert_same(model, other)
    assert_same(model.fit(X, CODES), other.fit(X, CODES))


@pytest.mark.parametrize("kind", KINDS)
def test_clones_are_untrained_and_train_alike(kind: str, compiled: str) -> None:
    model = classifier(fastbp, **KINDS[kind]).fit(X, Y)
    other = clone(model)
    assert other.get_params() == model.get_params()
    assert not hasattr(other, "coefs_")
    assert_same(other.fit(X, Y), model)


def test_grid_search_over_layers(compiled: str) -> None:
    grid = {"batch_norm": [False, True, fastbp.BatchNorm(momentum=0.5)], "dropout": [None, 0.9, np.float32(0.5)]}
    search = GridSearchCV(classifier(fastbp), grid, cv=2, error_score="raise").fit(X, Y)
    assert len(search.cv_results_["params"]) == 9
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


@pytest.mark.parametrize("kind", ["batch norm", "dropout", "maxout"])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_sparse_samples_train_like_dense_ones(kind: str, solver: str, compiled: str) -> None:
    data = np.where(X > 0, X, 0)
    models = [
        classifier(fastbp, solver=solver, **KINDS[kind]).fit(form(data), Y)
        for form in (np.asarray, scipy.sparse.csr_array)
    ]
    assert_same(*models)


def test_a_sample_that_weighs_nothing_has_no_gradient(compiled: str) -> None:
    """Batch normalisation takes its mean and variance of all samples alike, as PyTorch's does; the loss is weighted."""
    weight = np.where(np.arange(40) < 30, 1.0, 0.0)
    target = np.where(weight[:, None] > 0, VALUES, 1e6)
    models = [
        regressor(fastbp, batch_norm=True, batch_size=40).fit(X, y, sample_weight=weight) for y in (VALUES, target)
    ]
    for ours, theirs in zip(parts(models[0]), parts(models[1]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_early_stopping_keeps_the_best_of_batch_normalisation(compiled: str) -> None:
    kept: list[dict[str, Any]] = []

    class Watched(fastbp.MLPClassifier):
        def _update_no_improvement_count(self, *args: Any) -> None:
            super()._update_no_improvement_count(*args)
            kept.append({name: copy.deepcopy(getattr(self, name)) for name in fitted.NAMES})

    model = Watched((8,), batch_norm=True, early_stopping=True, max_iter=30, learning_rate_init=0.05, random_state=1)
    model.fit(X, Y)
    best = int(np.argmax(model.validation_scores_))
    assert best < len(kept) - 1
    for name in fitted.NAMES:
        for ours, theirs in zip(getattr(model, name), kept[best][name], strict=True):
            np.testing.assert_array_equal(ours, theirs, err_msg=name)
    assert (kept[best]["batch_norm_means_"][0] != kept[-1]["batch_norm_means_"][0]).any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("random_state", [0, "generator"])
def test_a_fit_that_is_undone_leaves_everything(kind: str, random_state: Any, compiled: str) -> None:
    generator = np.random.RandomState(4) if random_state == "generator" else 0
    model = classifier(fastbp, random_state=generator, warm_start=True, **KINDS[kind]).fit(X, CODES)
    before = state(model)
    for method in (model.partial_fit, model.fit):
        with pytest.raises(ValueError, match="NaN"):
            method(np.vstack([X, WITH_NAN]), np.hstack([CODES, CODES]))
        assert state(model) == before


def test_parameters_lie_in_one_buffer(compiled: str) -> None:
    model = classifier(fastbp, **KINDS["all"]).fit(X, Y)
    base = model.coefs_[0].base
    assert all(array.base is base for array in parts(model))
    taken, before = parts(model), copy.deepcopy(parts(model))
    model.partial_fit(X, Y)
    for array, now, then in zip(taken, parts(model), before, strict=True):
        assert array is now
        assert (now != then).any()


def test_state_follows_the_parameters() -> None:
    model = classifier(fastbp, batch_norm=True).fit(X, Y)
    assert hasattr(model, "batch_norm_scales_")
    with pytest.raises(ValueError, match=r"batch_norm_scales_, .* but batch_norm=False wants .*call fit to begin anew"):
        model.set_params(batch_norm=False).predict(X)
    model.fit(X, Y)
    assert not any(hasattr(model, name) for name in fitted.BATCH_NORM)
    with pytest.raises(ValueError, match=r"batch_norm=True wants .*call fit to begin anew"):
        model.set_params(batch_norm=True).partial_fit(X, Y)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("make", [classifier, regressor])
def test_to_sklearn_folds_batch_normalisation(make: Callable[..., Any], early_stopping: bool, compiled: str) -> None:
    params = {"batch_norm": [True, fastbp.BatchNorm(epsilon=0.1)], "dropout": 0.8, "hidden_layer_sizes": (8, 5)}
    y = Y if make is classifier else VALUES
    ours = make(fastbp, early_stopping=early_stopping, max_iter=20, **params).fit(X, y)
    theirs = ours.to_sklearn()
    assert type(theirs).__module__.startswith("sklearn.")
    assert not any("batch_norm" in name or "dropout" in name for name in vars(theirs))
    np.testing.assert_allclose(theirs._forward_pass_fast(X), ours._forward_pass_fast(X), rtol=1e-10)
    assert not any(np.shares_memory(W, V) for W, V in zip(theirs.coefs_, ours.coefs_, strict=True))
    if not early_stopping:
        theirs.partial_fit(X, y)
    with pytest.raises(ValueError, match="scikit-learn does not know it"):
        make(fastbp, activation="maxout").to_sklearn()


# ---------------------------------------------------------------------------------------------- networks, trainers

OPTIONS: dict[str, dict[str, Any]] = {
    "batch norm": {"batch_norm": True},
    "dropout": {"dropout": fastbp.Dropout(0.7, inputs=0.9)},
    "maxout": {"hidden_activation": fastbp.Maxout(3)},
    "all": {"hidden_activation": "maxout", "batch_norm": [True, None], "dropout": [0.5, 0.8]},
}


def trainer_of(kind: str, **params: Any) -> fastbp.Trainer:
    net = fastbp.Network((6, 5, 4, 3), random_state=0, backend="numpy", **OPTIONS[kind])
    return fastbp.Trainer(net, batch_size=7, random_state=1, **params)


@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("through", [lambda trainer: pickle.loads(pickle.dumps(trainer)), copy.deepcopy])
def test_copies_of_trainers_go_on_alike(kind: str, through: Callable[[Any], Any]) -> None:
    trainer = trainer_of(kind)
    trainer.fit(X, CODES, epochs=2)
    other = through(trainer)
    assert other.network.spec() == trainer.network.spec()
    np.testing.assert_array_equal(other.network.buffer, trainer.network.buffer)
    for each in (trainer, other):
        each.fit(X, CODES, epochs=2)
    np.testing.assert_array_equal(other.network.buffer, trainer.network.buffer)


def test_an_averaged_network_keeps_the_running_statistics() -> None:
    trainer = trainer_of("all", average_decay=0.9)
    trainer.fit(X, CODES, epochs=3)
    averaged = trainer.averaged()
    np.testing.assert_array_equal(averaged.parameters, trainer.average)
    for ours, theirs, start in (
        (averaged.running_means, trainer.network.running_means, 0),
        (averaged.running_variances, trainer.network.running_variances, 1),
    ):
        np.testing.assert_array_equal(ours[0], theirs[0])
        assert (ours[0] != start).all()
        assert not np.shares_memory(ours[0], theirs[0])


def test_early_stopping_of_a_trainer_restores_the_running_statistics() -> None:
    seen: list[NDArray[Any]] = []

    class Watch(fastbp.Callback):
        def on_epoch_end(self, state: Any) -> None:
            seen.append(state.trainer.network.buffer.copy())

    trainer = trainer_of("batch norm", optimizer=fastbp.Adam(0.1))
    stop = fastbp.EarlyStopping(patience=3)
    history = trainer.fit(X, CODES, epochs=60, validation_data=(X[::3], CODES[::3] * 0), callbacks=[Watch(), stop])
    best = int(np.argmin(history.validation_loss))
    assert best < len(seen) - 1
    np.testing.assert_array_equal(trainer.network.buffer, seen[best])


@pytest.mark.parametrize(
    "activation",
    [
        fastbp.LeakyReLU(np.float32(0.1)),
        fastbp.ELU(np.float64(0.5)),
        fastbp.ReLU(np.float32(1)),
        fastbp.Maxout(np.int64(3)),
    ],
    ids=repr,
)
def test_parameters_from_numpy_are_kept_as_pythons(activation: fastbp.activations.Activation, tmp_path: Path) -> None:
    net = fastbp.Network((3, 4, 2), activation, random_state=0)
    fastbp.save(net, tmp_path / "net.safetensors")
    copy = fastbp.load(tmp_path / "net.safetensors")
    assert copy.functions == net.functions
    assert repr(copy.hidden_activation) == repr(activation)
    assert "np." not in repr(activation)


@pytest.mark.parametrize("wrong", [True, "0.5", None, np.nan])
def test_what_is_no_number_is_no_parameter(wrong: Any) -> None:
    with pytest.raises(ValueError, match="pass a number in"):
        fastbp.ELU(wrong)
