"""Estimators that are interrupted, diverge or get wrong input: what scikit-learn does, and no harm done."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import sklearn.neural_network
from small_problem import (
    CODES,
    VALUES,
    WITH_INFINITY,
    WITH_NAN,
    Agree,
    X,
    Y,
    classifier,
    fingerprint,
    learned,
    regressor,
)
from threadpoolctl import threadpool_info

import fastbp

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def interrupt() -> Iterator[Callable[[float], list[float]]]:
    """A function that sends this process a SIGINT after some seconds and notes when."""
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    timers = []

    def later(seconds: float) -> list[float]:
        sent: list[float] = []

        def send() -> None:
            sent.append(time.perf_counter())
            os.kill(os.getpid(), signal.SIGINT)

        timers.append(threading.Timer(seconds, send))
        timers[-1].start()
        return sent

    yield later
    for timer in timers:
        timer.cancel()
        timer.join()
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize(
    "params",
    [
        {"hidden_layer_sizes": (200,)},  # an epoch takes long: the signal comes within one
        {"hidden_layer_sizes": (200,), "solver": "sgd"},
        {"early_stopping": True},
    ],
    ids=str,
)
def test_interrupt_keeps_the_weights(
    params: dict[str, Any], compiled: str, interrupt: Callable[[float], list[float]]
) -> None:
    """Ctrl-C ends a fit within 250 ms, with scikit-learn's warning and with what was learned so far."""
    n_copies = 200 if "early_stopping" in params else 5000
    data, y = np.tile(X, (n_copies, 1)), np.tile(CODES, n_copies)
    model = classifier(fastbp, max_iter=10**6, tol=0, n_iter_no_change=10**6, **params)
    classifier(fastbp, **params).fit(X, CODES)  # compiles
    delays = []
    for _ in range(3):  # the machine may be busy: what counts is the quickest answer
        sent = interrupt(0.5)
        with pytest.warns(UserWarning, match="Training interrupted by user."):
            model.fit(data, y)
        delays.append(time.perf_counter() - sent[0])
    assert min(delays) < 0.25
    assert all(np.isfinite(array).all() for array in learned(model))
    assert model.score(X, CODES) > 0.9
    assert model.n_iter_ == len(model.loss_curve_)
    model.set_params(max_iter=2).fit(X, CODES)


@pytest.mark.parametrize(
    "params",
    [
        {"solver": "sgd", "learning_rate_init": 1e6, "activation": "identity"},
        {"solver": "sgd", "learning_rate_init": 1e6, "momentum": 0.0},
        {"solver": "adam", "learning_rate_init": 1e300},
        {"solver": "sgd", "learning_rate_init": 10, "loss": "poisson", "activation": "identity"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_diverging_runs_end_with_sklearns_message(params: dict[str, Any], dtype: str, agree: Agree) -> None:
    def action(library: Any) -> Any:
        model = regressor(library, max_iter=50, **params)
        with pytest.raises(ValueError, match="Solver produced non-finite parameter weights"):
            model.fit((1e3 * X).astype(dtype), np.abs(VALUES))
        return model.n_iter_, [np.isfinite(loss) for loss in model.loss_curve_]

    agree(action)


@pytest.mark.parametrize("activation", ["relu", "tanh", "logistic", "identity"])
def test_nan_stays_visible(activation: str, agree: Agree) -> None:
    """Where checks are switched off, NaN and infinity run through the network as in scikit-learn."""

    def action(library: Any) -> Any:
        model = classifier(library, activation=activation).fit(X, Y)
        with sklearn.config_context(assume_finite=True):
            probabilities = model.predict_proba(np.vstack([X, WITH_NAN, WITH_INFINITY, -WITH_INFINITY]))
            with pytest.raises(ValueError, match="non-finite parameter weights"):
                model.fit(WITH_NAN, Y)
        return np.isnan(probabilities), np.nan_to_num(probabilities)

    agree(action)


def test_poisson_of_negative_targets(agree: Agree) -> None:
    def action(library: Any) -> Any:
        model = regressor(library, loss="poisson").fit(X, VALUES)
        return learned(model), [bool(np.isnan(loss)) for loss in model.loss_curve_], model.best_loss_

    agree(action)


BAD_FITS: dict[str, tuple[dict[str, Any], Any, Any]] = {
    "one dimension": ({}, X[:, 0], Y),
    "three dimensions": ({}, X[:, :, None], Y),
    "NaN": ({}, WITH_NAN, Y),
    "infinity": ({}, WITH_INFINITY, Y),
    "no samples": ({}, X[:0], Y[:0]),
    "no features": ({}, X[:, :0], Y),
    "text": ({}, np.full((40, 6), "x"), Y),
    "objects": ({}, np.full((40, 6), None, dtype=object), Y),
    "complex": ({}, X + 1j, Y),
    "a number": ({}, 3.0, Y),
    "nothing": ({}, None, Y),
    "fewer targets": ({}, X, Y[:-1]),
    "more targets": ({}, X, np.r_[Y, Y]),
    "continuous classes": ({}, X, VALUES[:, 0]),
    "no targets": ({}, X, None),
    "three-dimensional targets": ({}, X, VALUES[:, :, None]),
    "unknown activation": ({"activation": "swish"}, X, Y),
    "unknown solver": ({"solver": "adagrad"}, X, Y),
    "unknown schedule": ({"learning_rate": "cosine"}, X, Y),
    "unknown backend": ({"backend": "fortran"}, X, Y),
    "negative layer": ({"hidden_layer_sizes": (-3,)}, X, Y),
    "layer of nothing": ({"hidden_layer_sizes": (3, 0)}, X, Y),
    "layer of text": ({"hidden_layer_sizes": "many"}, X, Y),
    "negative batch": ({"batch_size": -1}, X, Y),
    "batch of a fraction": ({"batch_size": 3.5}, X, Y),
    "no iterations": ({"max_iter": 0}, X, Y),
    "negative alpha": ({"alpha": -1.0}, X, Y),
    "no learning rate": ({"learning_rate_init": 0.0}, X, Y),
    "large momentum": ({"momentum": 2.0}, X, Y),
    "beta of one": ({"beta_1": 1.0}, X, Y),
    "validation part too small": ({"early_stopping": True, "validation_fraction": 0.01}, X, VALUES[:, 0] > 0),
    "no threads": ({"n_threads": 0}, X, Y),
    "progress in words": ({"progress": "yes"}, X, Y),
}
OURS_ALONE = {
    "unknown activation": "'activation' parameter of MLPClassifier must be a str among",
    "unknown backend": "'backend' parameter",
    "no threads": "'n_threads'",
    "progress in words": "'progress'",
}


@pytest.mark.parametrize("name", [name for name in BAD_FITS if name not in OURS_ALONE])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_bad_input_is_refused_as_sklearn_refuses_it(name: str, method: str, agree: Agree) -> None:
    """The same error, arguments untouched, and the estimator goes on."""
    params, bad_X, bad_y = BAD_FITS[name]
    before = fingerprint(bad_X), fingerprint(bad_y)

    def action(library: Any) -> Any:
        model = classifier(library)
        with pytest.raises((ValueError, TypeError)) as caught:
            getattr(model.set_params(**params), method)(bad_X, bad_y, **_classes(method))
        model.set_params(**classifier(library).get_params()).fit(X, Y)
        return type(caught.value).__name__, str(caught.value), model.predict_proba(X)

    if method == "fit" or name not in ("validation part too small", "no iterations"):
        agree(action)
    assert (fingerprint(bad_X), fingerprint(bad_y)) == before


def _classes(method: str) -> dict[str, Any]:
    return {"classes": np.unique(Y)} if method == "partial_fit" else {}


@pytest.mark.parametrize("name", OURS_ALONE)
def test_bad_parameters_of_ours_are_refused(name: str, compiled: str) -> None:
    params, *_ = BAD_FITS[name]
    with pytest.raises(ValueError, match=OURS_ALONE[name]):
        classifier(fastbp, **params).fit(X, Y)


@pytest.mark.parametrize(
    "data",
    [X[:, :-1], X[0], WITH_NAN, X[:0], np.full((3, 6), "x"), scipy.sparse.csr_array(X[:, :-1]), None],
    ids=["fewer features", "one dimension", "NaN", "no samples", "text", "fewer sparse features", "nothing"],
)
@pytest.mark.parametrize("method", ["predict", "predict_proba", "partial_fit", "score"])
def test_bad_input_to_a_trained_estimator(data: Any, method: str, agree: Agree) -> None:
    def action(library: Any) -> Any:
        model = classifier(library).fit(X, Y)
        arguments = (data,) if method.startswith("predict") else (data, Y[: 1 if data is None else len(X)])
        with pytest.raises((ValueError, TypeError)) as caught:
            getattr(model, method)(*arguments)
        return type(caught.value).__name__, str(caught.value), model.predict_proba(X)

    agree(action)


def test_methods_before_fit_and_of_other_solvers(agree: Agree) -> None:
    def action(library: Any) -> Any:
        caught = []
        for model in (classifier(library), regressor(library), classifier(library, solver="lbfgs")):
            for call in (lambda m: m.predict(X), lambda m: m.partial_fit(X, Y), lambda m: m.partial_fit):
                try:
                    call(model)
                except (AttributeError, TypeError, ValueError) as error:
                    kind = TypeError if isinstance(error, TypeError) else type(error)
                    caught.append((kind.__name__, "" if kind is TypeError else str(error)))
        return caught

    agree(action)


def test_unseen_classes(agree: Agree) -> None:
    def action(library: Any) -> Any:
        model = classifier(library).fit(X, Y)
        with pytest.raises(ValueError, match="classes") as partial:
            model.partial_fit(X, np.where(Y == "a", "z", Y))
        with pytest.raises(ValueError, match="warm_start") as warm:
            model.set_params(warm_start=True).fit(X, np.where(Y == "a", "b", Y))
        with pytest.raises(ValueError, match="early_stopping") as early:
            model.set_params(warm_start=False, early_stopping=True).partial_fit(X, Y)
        return str(partial.value), str(warm.value), str(early.value), learned(model)

    agree(action)


def test_partial_fit_of_some_classes(agree: Agree) -> None:
    def action(library: Any) -> Any:
        model = classifier(library)
        for part in (Y == "a", Y == "b", Y != "b"):
            model.partial_fit(X[part], Y[part], classes=["a", "b", "c"])
        return learned(model), model.loss_curve_, model.t_, model.n_iter_, model._optimizer.learning_rate

    agree(action)


def test_blas_threads_are_given_back(compiled: str) -> None:
    """L-BFGS runs under one BLAS thread; fits that overlap in time leave the limit as they found it."""
    before = _blas_threads()
    models = [classifier(fastbp, solver="lbfgs", max_iter=n) for n in (5, 60, 30, 90)]
    threads = [threading.Thread(target=model.fit, args=(X, Y)) for model in models]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(hasattr(model, "loss_") for model in models)
    assert _blas_threads() == before


def _blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]
