"""Weights of classes: scikit-learn's numbers, as factors of the samples' weights; and all samples at once."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

import fastbp


def data(n: int = 60, n_classes: int = 3) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    shares = np.arange(1, n_classes + 1) / (n_classes * (n_classes + 1) / 2)
    return rng.normal(size=(n, 5)), rng.choice(n_classes, n, p=shares)


def make(n_out: int = 3, output: str = "softmax", dtype: str = "float64", **options: Any) -> fastbp.Trainer:
    net = fastbp.Network((5, 6, n_out), output=output, dtype=dtype, random_state=0)
    loss = "cross_entropy" if output in ("softmax", "logistic") else "squared_error"
    return fastbp.Trainer(net, **{"loss": loss, "batch_size": 16, "random_state": 0, **options})


def assert_trains_like(
    got: fastbp.Trainer, wanted: fastbp.Trainer, class_weight: Any, weights: Any, **fit: Any
) -> None:
    assert got.fit(**fit, class_weight=class_weight).loss == wanted.fit(**{**fit, "sample_weight": weights}).loss
    np.testing.assert_array_equal(got.network.parameters, wanted.network.parameters)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("class_weight", ["balanced", {0: 2.0, 1: 0.5, 2: 7}, {1.0: 4.0}, {np.int64(2): 0.0}])
def test_class_weights_are_scikit_learns(class_weight: Any, dtype: str) -> None:
    X, y = data()
    weights = compute_sample_weight(class_weight, y)
    assert_trains_like(make(dtype=dtype), make(dtype=dtype), class_weight, weights, X=X, y=y, epochs=2)


def test_they_multiply_the_sample_weights() -> None:
    X, y = data()
    given = np.random.default_rng(0).uniform(0.1, 3, 60)
    weights = given * compute_sample_weight("balanced", y)
    assert_trains_like(make(), make(), "balanced", weights, X=X, y=y, sample_weight=given)


def test_balanced_classes_weigh_the_same_together() -> None:
    X, y = data()
    classes = np.unique(y)
    weights = compute_class_weight("balanced", classes=classes, y=y)
    np.testing.assert_allclose(weights * np.bincount(y), 20)
    equal = np.tile([0, 1, 2], 20)
    one, other = make(), make()
    assert one.fit(X, equal, class_weight="balanced").loss == other.fit(X, equal, sample_weight=np.ones(60)).loss


def test_a_class_that_does_not_occur_counts_for_none() -> None:
    """As where scikit-learn is asked for the classes of y: two of the network's four occur."""
    X, y = data()
    y = np.where(y == 2, 3, 0)
    weights = compute_sample_weight("balanced", y)
    assert_trains_like(make(4), make(4), "balanced", weights, X=X, y=y)


def test_every_form_of_classes() -> None:
    X, y = data()
    expected = make()
    expected.fit(X, y, class_weight="balanced")
    for form in (np.eye(3)[y], np.eye(3, dtype=np.float32)[y], y.astype(float), y.tolist(), np.eye(3)[y].tolist()):
        trainer = make()
        trainer.fit(scipy.sparse.csr_matrix(X), form, class_weight="balanced")
        np.testing.assert_array_equal(trainer.network.parameters, expected.network.parameters)
    y, weights = y > 1, compute_sample_weight({False: 2, True: 3}, y > 1)
    for binary in (y, y.astype(int), y.astype(float)[:, None]):
        one, other = make(1, "logistic"), make(1, "logistic")
        assert_trains_like(one, other, {0: 2, 1: 3}, weights, X=X, y=binary)


@pytest.mark.parametrize(
    ("trainer", "change", "error", "message"),
    [
        (make(), {"class_weight": "equal"}, TypeError, "class_weight is 'equal'; pass None, 'balanced', or a dict"),
        (make(), {"class_weight": [1, 2, 3]}, TypeError, r"class_weight is \[1, 2, 3\]"),
        (make(), {"class_weight": {3: 1.0}}, ValueError, "has the key 3; pass weights of the class numbers 0 to 2"),
        (make(), {"class_weight": {-1: 1.0}}, ValueError, "has the key -1"),
        (make(), {"class_weight": {0.5: 1.0}}, ValueError, "has the key 0.5"),
        (make(), {"class_weight": {"a": 1.0}}, ValueError, "has the key 'a'"),
        (make(), {"class_weight": {1: -2.0}}, ValueError, r"class_weight\[1\] is -2.0; pass a number in \[0, inf\)"),
        (make(), {"class_weight": {1: np.nan}}, ValueError, r"class_weight\[1\] is nan"),
        (make(), {"class_weight": {1: "2"}}, TypeError, r"class_weight\[1\] is '2'; pass a number"),
        (make(), {"class_weight": {0: 0, 1: 0, 2: 0}}, ValueError, "all samples weigh 0"),
        (make(dtype="float32"), {"class_weight": {0: 1e300}}, ValueError, "too heavy for float32"),
        (make(), {"y": np.full((60, 3), 1 / 3)}, ValueError, "a class for each sample, but y holds other targets"),
        (make(3, "logistic"), {"y": np.zeros((60, 3))}, ValueError, r"of shape \(60, 3\) beside output 'logistic'"),
        (make(1, "logistic"), {"y": np.full(60, 0.5)}, ValueError, "pass class numbers, one-hot rows for softmax"),
        (make(1, "identity"), {"y": np.ones(60)}, ValueError, "beside output 'identity'; .* or sample_weight instead"),
    ],
)  # fmt: skip
def test_what_is_no_class_or_no_weight_changes_nothing(
    trainer: fastbp.Trainer, change: dict[str, Any], error: type[Exception], message: str
) -> None:
    X, y = data()
    before = trainer.network.parameters.tobytes(), str(trainer.random_state.bit_generator.state)
    with pytest.raises(error, match=message):
        trainer.fit(**{"X": X, "y": y, "class_weight": "balanced", **change})
    assert (trainer.network.parameters.tobytes(), str(trainer.random_state.bit_generator.state)) == before
    assert trainer.n_steps == 0


# ------------------------------------------------------------------------------------- all samples at once


@pytest.mark.parametrize("batch_size", ["full", None])
def test_all_samples_at_once_are_one_step(batch_size: Any, backend_name: str) -> None:
    X, y = data()
    full, counted = (make(batch_size=size, backend=backend_name) for size in (batch_size, 60))
    assert full.batch_size == "full"
    assert full.fit(X, y, epochs=5).loss == counted.fit(X, y, epochs=5).loss
    assert full.n_steps == counted.n_steps == 5
    np.testing.assert_array_equal(full.network.parameters, counted.network.parameters)
    full.fit(X[:7], y[:7], epochs=3)
    assert full.n_steps == 8


def test_it_is_kept(tmp_path: Path) -> None:
    trainer = make(batch_size="full")
    fastbp.save(trainer, tmp_path / "trainer")
    for again in (fastbp.load(tmp_path / "trainer"), pickle.loads(pickle.dumps(trainer))):
        assert again.batch_size == "full"
        assert "batch_size full" in repr(again)


@pytest.mark.parametrize("batch_size", [0, -1, 1.5, True, "all", [3]])
def test_other_batch_sizes_are_refused(batch_size: Any) -> None:
    with pytest.raises(ValueError, match="pass a whole number of at least 1 sample, or 'full' for all at once"):
        make(batch_size=batch_size)
