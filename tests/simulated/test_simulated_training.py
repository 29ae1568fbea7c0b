"""Training with the CUDA backend in the simulator, as users call it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastbp

SIZES = (6, 5, 3)


def data(n: int = 24) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, SIZES[0])).astype(np.float32), rng.integers(0, SIZES[-1], n)


def trained(backend: str, X: Any, y: Any, **options: Any) -> tuple[fastbp.History, fastbp.Network]:
    net = fastbp.Network(SIZES, dtype="float32", random_state=0, backend=backend)
    trainer = fastbp.Trainer(net, backend=backend, batch_size=8, random_state=0, **options)
    return trainer.fit(X, y, epochs=2), net


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5}, {"average_decay": 0.9}, {"optimizer": "nadam"}], ids=str)
def test_the_loss_goes_the_cpus_way(options: dict[str, Any]) -> None:
    X, y = data()
    (history, net), (expected, reference) = (trained(backend, X, y, **options) for backend in ("cuda", "numpy"))
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-5)
    np.testing.assert_allclose(net.parameters, reference.parameters, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(net.forward(X), reference.forward(X), rtol=1e-4, atol=1e-6)


def test_a_fit_goes_on_where_the_last_one_ended() -> None:
    X, y = data()
    once = fastbp.Network(SIZES, dtype="float32", random_state=0)
    twice = fastbp.Network(SIZES, dtype="float32", random_state=0)
    fastbp.Trainer(once, backend="cuda", batch_size=8, random_state=0).fit(X, y, epochs=2)
    trainer = fastbp.Trainer(twice, backend="cuda", batch_size=8, random_state=0)
    for _ in range(2):
        trainer.fit(X, y)
    np.testing.assert_array_equal(once.parameters, twice.parameters)


def test_samples_that_are_not_finite_end_a_fit_and_change_nothing() -> None:
    X, y = data(200)
    X[150, 2] = np.nan
    net = fastbp.Network(SIZES, dtype="float32", random_state=0)
    before = net.parameters.copy()
    with pytest.raises(ValueError, match="NaN"):
        fastbp.Trainer(net, optimizer="sgd", backend="cuda", batch_size=50, random_state=0).fit(X, y)
    np.testing.assert_array_equal(net.parameters, before)


def test_an_estimator_learns() -> None:
    X, y = data()
    options: dict[str, Any] = {"hidden_layer_sizes": (5,), "max_iter": 2, "batch_size": 8, "random_state": 0}
    with pytest.warns(UserWarning, match="Maximum iterations"):
        ours = fastbp.MLPClassifier(**options, backend="cuda").fit(X, y)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        theirs = fastbp.MLPClassifier(**options, backend="numpy").fit(X, y)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-5)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-4, atol=1e-6)
