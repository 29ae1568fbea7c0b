"""Callbacks that go by scores on the validation data, and the criterion by which full-batch descent ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from sklearn import metrics

import fastbp
from fastbp.callbacks import History, TrainingState


def classes(n: int = 90, n_classes: int = 3) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 5))
    return X, (X[:, :n_classes] + rng.normal(size=(n, n_classes))).argmax(axis=1)


def make(n_out: int = 3, output: str = "softmax", **options: Any) -> fastbp.Trainer:
    net = fastbp.Network((5, 12, n_out), "tanh", output, random_state=0)
    loss = "cross_entropy" if output in ("softmax", "logistic") else "squared_error"
    return fastbp.Trainer(net, **{"loss": loss, "learning_rate": 0.02, "batch_size": 16, "random_state": 0, **options})


class Predictions(fastbp.Callback):
    """Keeps what the network predicts after each epoch."""

    def __init__(self, X: Any) -> None:
        self.X, self.labels, self.outputs, self.parameters = X, [], [], []  # type: ignore[var-annotated]

    def on_epoch_end(self, state: TrainingState) -> None:
        network = state.trainer.network
        self.labels.append(network.predict(self.X))
        self.outputs.append(network.forward(self.X).astype(np.float64))
        self.parameters.append(network.parameters.copy())


def fit(trainer: fastbp.Trainer, X: Any, y: Any, callback: fastbp.Callback, epochs: int = 6) -> tuple[Any, Any]:
    seen = Predictions(X[60:])
    history = trainer.fit(X[:60], y[:60], epochs=epochs, validation_data=(X[60:], y[60:]), callbacks=[seen, callback])
    return history, seen


@pytest.mark.parametrize(
    ("name", "of_labels"),
    [
        ("accuracy", metrics.accuracy_score),
        ("balanced_accuracy", metrics.balanced_accuracy_score),
        ("f1_macro", lambda y, p: metrics.f1_score(y, p, average="macro")),
        ("matthews_corrcoef", metrics.matthews_corrcoef),
    ],
)
def test_scorers_of_classes_by_name(name: str, of_labels: Any) -> None:
    X, y = classes()
    history, seen = fit(make(), X, y, fastbp.EarlyStopping(name, patience=50))
    assert history.score == {name: [of_labels(y[60:], labels) for labels in seen.labels]}
    assert len(history.score[name]) == len(history.loss) == 6


@pytest.mark.parametrize(
    ("name", "of_probabilities"),
    [
        ("neg_log_loss", lambda y, p: -metrics.log_loss(y, p)),
        ("roc_auc_ovr", lambda y, p: metrics.roc_auc_score(y, p, multi_class="ovr")),
        ("top_k_accuracy", lambda y, p: metrics.top_k_accuracy_score(y, p, k=2)),
    ],
)
def test_scorers_of_probabilities_by_name(name: str, of_probabilities: Any) -> None:
    X, y = classes()
    history, seen = fit(make(), X, y, fastbp.EarlyStopping(name, patience=50))
    expected = [of_probabilities(y[60:], outputs / outputs.sum(axis=1, keepdims=True)) for outputs in seen.outputs]
    np.testing.assert_allclose(history.score[name], expected, rtol=1e-5)


@pytest.mark.parametrize(
    "form", [lambda y: y, lambda y: y[:, None], lambda y: y.astype(bool), lambda y: y.astype(float)]
)
def test_scorers_of_one_logistic_output(form: Any) -> None:
    X, y = classes(n_classes=2)
    stopping = [fastbp.EarlyStopping(name, patience=50) for name in ("roc_auc", "average_precision", "f1", "accuracy")]
    seen = Predictions(X[60:])
    trainer = make(1, "logistic")
    history = trainer.fit(X[:60], y[:60], epochs=4, validation_data=(X[60:], form(y[60:])), callbacks=[seen, *stopping])
    y = y[60:]
    for k in range(4):
        p, labels = seen.outputs[k][:, 0], seen.labels[k]
        np.testing.assert_allclose(history.score["roc_auc"][k], metrics.roc_auc_score(y, p), rtol=1e-12)
        np.testing.assert_allclose(history.score["average_precision"][k], metrics.average_precision_score(y, p))
        np.testing.assert_allclose(history.score["f1"][k], metrics.f1_score(y, labels), rtol=1e-12)
        np.testing.assert_allclose(history.score["accuracy"][k], np.mean(y == labels), rtol=1e-12)


def test_scorers_of_several_logistic_outputs() -> None:
    X, _ = classes()
    y = (X[:, :3] > 0).astype(int)
    history, seen = fit(make(3, "logistic"), X, y, fastbp.EarlyStopping("f1_macro", patience=50))
    expected = [metrics.f1_score(y[60:], labels, average="macro", zero_division=0) for labels in seen.labels]
    np.testing.assert_allclose(history.score["f1_macro"], expected)


@pytest.mark.parametrize(
    ("name", "n_out", "by_name"),
    [
        ("r2", 1, metrics.r2_score),
        ("r2", 2, metrics.r2_score),
        ("neg_mean_absolute_error", 2, lambda y, a: -metrics.mean_absolute_error(y, a)),
        ("neg_max_error", 1, lambda y, a: -metrics.max_error(y, a)),
    ],
)
def test_scorers_of_values(name: str, n_out: int, by_name: Any) -> None:
    X, _ = classes()
    y = X[:, :n_out] ** 2
    history, seen = fit(make(n_out, "identity"), X, y, fastbp.EarlyStopping(name, patience=50))
    np.testing.assert_allclose(history.score[name], [by_name(y[60:], outputs) for outputs in seen.outputs], rtol=1e-6)


@pytest.mark.parametrize("form", [np.asarray, np.ndarray.tolist, lambda y: np.eye(3)[y], lambda y: y.astype(float)])
@pytest.mark.parametrize("sparse", [False, True])
def test_every_form_of_validation_data(form: Any, sparse: bool) -> None:
    X, y = classes()
    found = []
    for X_val, y_val in ((X[60:], y[60:]), (scipy.sparse.csr_matrix(X[60:]) if sparse else X[60:], form(y[60:]))):
        stopping = fastbp.EarlyStopping("accuracy")
        found.append(make().fit(X[:60], y[:60], epochs=3, validation_data=(X_val, y_val), callbacks=[stopping]).score)
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["loss", "seconds", "validation_loss"])
def test_a_score_named_like_a_field_of_records_is_numbered(tmp_path: Path, name: str) -> None:
    X, y = classes()

    def one(network: Any, X: Any, y: Any) -> float:
        return 1.0

    one.__name__ = name
    callbacks = [fastbp.JSONLLogger(tmp_path / "log"), fastbp.EarlyStopping(one, patience=50)]
    history = make().fit(X[:60], y[:60], epochs=4, validation_data=(X[60:], y[60:]), callbacks=callbacks)
    assert history.score == {f"{name} 2": [1.0] * len(history.loss)}
    records = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [record[f"{name} 2"] for record in records] == [1.0] * len(records)
    assert [record["loss"] for record in records] == history.loss
    with pytest.raises(ValueError, match="there is no score to watch; pass validation_data"):
        make().fit(X, y, callbacks=[fastbp.EarlyStopping(one)])


@pytest.mark.source("S26", "Book 4.1.1")
def test_stopping_by_a_score_restores_the_best_parameters() -> None:
    X, y = classes()
    stopping = fastbp.EarlyStopping("accuracy", patience=4)
    history, seen = fit(trainer := make(learning_rate=0.1), X, y, stopping, epochs=300)
    best = int(np.argmax(history.score["accuracy"]))
    assert stopping.stopped_epoch == len(history.loss) == best + 5 < 300
    assert stopping.best == max(history.score["accuracy"])
    np.testing.assert_array_equal(trainer.network.parameters, seen.parameters[best])


def coldness(network: fastbp.Network, X: Any, y: Any) -> float:
    """A function that has nothing to do with scikit-learn: it falls while the outputs grow."""
    assert isinstance(network, fastbp.Network)
    return -float(network.forward(X).max())


@pytest.mark.parametrize("mode", ["auto", "max", "min"])
def test_a_users_function_and_its_mode(mode: str) -> None:
    X, y = classes()
    stopping = fastbp.EarlyStopping(coldness, patience=3, mode=mode)
    history, seen = fit(trainer := make(), X, y, stopping, epochs=40)
    scores = history.score["coldness"]
    np.testing.assert_allclose(scores, [-outputs.max() for outputs in seen.outputs])
    best = int(np.argmin(scores) if mode == "min" else np.argmax(scores))
    assert stopping.best == scores[best]
    assert len(scores) == min(best + 4, 40)
    np.testing.assert_array_equal(trainer.network.parameters, seen.parameters[best])


def test_a_loss_may_be_wanted_large() -> None:
    X, y = classes()
    stopping = fastbp.EarlyStopping("loss", patience=2, mode="max")
    history, _ = fit(make(), X, y, stopping, epochs=20)
    assert stopping.best == max(history.loss)
    assert len(history.loss) < 20


def test_scorers_that_are_objects_and_share_a_name() -> None:
    X, y = classes()
    calls: list[int] = []

    def count(network: Any, X: Any, y: Any) -> Any:
        calls.append(1)
        return np.float32(0.5)

    accuracy = metrics.make_scorer(metrics.accuracy_score)
    callbacks = [
        fastbp.EarlyStopping(count),
        fastbp.EarlyStopping(count),
        fastbp.EarlyStopping(lambda network, X, y: 1.0),
        fastbp.EarlyStopping(lambda network, X, y: 2),
        fastbp.EarlyStopping(metrics.make_scorer(metrics.mean_absolute_error, greater_is_better=False)),
        fastbp.EarlyStopping(accuracy),
        fastbp.EarlyStopping(accuracy),
        fastbp.EarlyStopping("accuracy"),
        fastbp.EarlyStopping("accuracy"),
    ]
    history = make().fit(X[:60], y[:60], epochs=2, validation_data=(X[60:], y[60:]), callbacks=callbacks)
    assert len(calls) == 2
    assert list(history.score) == [
        "count", "<lambda>", "<lambda> 2", "mean_absolute_error", "accuracy_score", "accuracy",
    ]  # fmt: skip
    assert history.score["<lambda> 2"] == [2.0, 2.0]
    assert history.score["count"] == [0.5, 0.5]
    assert history.score["accuracy"] == history.score["accuracy_score"]
    assert history.score["mean_absolute_error"][0] < 0


def test_a_function_called_like_a_scorer_of_scikit_learns() -> None:
    def accuracy(network: Any, X: Any, y: Any) -> float:
        return -1.0

    X, y = classes()
    callbacks = [fastbp.EarlyStopping(accuracy), fastbp.EarlyStopping("accuracy")]
    history = make().fit(X, y, validation_data=(X, y), callbacks=callbacks)
    assert history.score["accuracy"] == [-1.0]
    assert history.score["accuracy 2"][0] > 0
    assert [callback.best for callback in callbacks] == [-1.0, history.score["accuracy 2"][0]]


@pytest.mark.parametrize("every", [1, 2])
def test_the_checkpoint_with_the_best_score_is_kept(every: int, tmp_path: Path) -> None:
    X, y = classes()
    checkpoint = fastbp.Checkpoint(tmp_path / "{epoch}", every=every, best_of="balanced_accuracy")
    history, seen = fit(make(), X, y, checkpoint, epochs=12)
    best, wanted = -np.inf, []
    for epoch, score in enumerate(history.score["balanced_accuracy"], 1):
        if epoch % every == 0 and score > best:
            best = score
            wanted.append(str(epoch))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(wanted)
    np.testing.assert_array_equal(
        fastbp.load(tmp_path / wanted[-1]).network.parameters, seen.parameters[int(wanted[-1]) - 1]
    )


def test_a_log_has_the_scores_wherever_it_stands(tmp_path: Path) -> None:
    X, y = classes()
    callbacks = [fastbp.JSONLLogger(tmp_path / "log"), fastbp.EarlyStopping("accuracy")]
    history = make().fit(X, y, epochs=3, validation_data=(X, y), callbacks=callbacks)
    records = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [record["accuracy"] for record in records] == history.score["accuracy"]
    assert list(records[0]) == ["epoch", "step", "loss", "validation_loss", "accuracy", "seconds"]


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: fastbp.EarlyStopping("acuracy"), ValueError, "'acuracy'; choose 'validation_loss', 'loss', or"),
        (lambda: fastbp.Checkpoint("x", best_of="f2"), ValueError, "monitor is 'f2'"),
        (lambda: fastbp.EarlyStopping(3), TypeError, "monitor is a int; pass a name or a function"),
        (lambda: fastbp.EarlyStopping("loss", mode="up"), ValueError, "mode is 'up'; choose one of 'auto', 'min'"),
        (lambda: fastbp.Checkpoint("x", best_of="r2", mode="low"), ValueError, "mode is 'low'"),
        (lambda: fastbp.Converged(-1), ValueError, "tol is -1"),
        (lambda: fastbp.Converged(float("nan")), ValueError, "tol is nan"),
        (lambda: fastbp.Converged("x"), TypeError, "tol is 'x'; pass a number"),  # type: ignore[arg-type]
        (lambda: fastbp.Converged(patience=0), ValueError, "patience is 0; pass a whole number of at least 1 epoch"),
    ],
)  # fmt: skip
def test_bad_options_are_refused(build: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


@pytest.mark.parametrize(
    ("trainer", "callback", "validation", "message"),
    [
        (make(), fastbp.EarlyStopping("accuracy"), False, "there is no score to watch; pass validation_data"),
        (make(), fastbp.EarlyStopping(coldness), False, "there is no score to watch"),
        (make(), fastbp.EarlyStopping(), False, "there is no validation loss to watch"),
        (make(), fastbp.Checkpoint("x", best_of="accuracy"), False, "there is no score to watch"),
        (make(), fastbp.Checkpoint("x", best_of="validation_loss"), False, "there is no validation loss"),
        (make(), fastbp.EarlyStopping("roc_auc"), True, "scorer 'roc_auc' does not go with the network"),
        (make(3, "identity"), fastbp.EarlyStopping("f1"), True, "scorer 'f1' does not go with"),
        (make(3, "identity"), fastbp.EarlyStopping("neg_log_loss"), True, "scorer 'neg_log_loss' does not go with"),
    ],
)  # fmt: skip
def test_what_cannot_be_watched_is_refused_before_anything_changes(
    trainer: fastbp.Trainer, callback: fastbp.Callback, validation: bool, message: str
) -> None:
    X, y = classes()
    data = (X, y) if validation else None
    before = trainer.network.parameters.tobytes(), trainer.m.tobytes()
    with pytest.raises(ValueError, match=message):
        trainer.fit(X, y, validation_data=data, callbacks=[callback])
    assert (trainer.network.parameters.tobytes(), trainer.m.tobytes(), trainer.n_steps) == (*before, 0)
    trainer.fit(X, y)


@pytest.mark.parametrize("value", [None, "good", [1.0, 2.0]])
def test_a_function_that_returns_no_number_is_named(value: Any) -> None:
    X, y = classes()

    def scorer(network: Any, X: Any, y: Any) -> Any:
        return value

    with pytest.raises(TypeError, match=f"scorer 'scorer' returned a {type(value).__name__}; return a number"):
        make().fit(X, y, validation_data=(X, y), callbacks=[fastbp.EarlyStopping(scorer)])


def test_a_score_that_is_nan_is_no_improvement() -> None:
    X, y = classes()
    scores = iter([0.5, float("nan"), float("nan"), 0.9])
    stopping = fastbp.EarlyStopping(lambda network, X, y: next(scores), patience=2)
    history = make().fit(X, y, epochs=9, validation_data=(X, y), callbacks=[stopping])
    assert (stopping.best, stopping.stopped_epoch, len(history.loss)) == (0.5, 3, 3)


# --------------------------------------------------------------------------------------------- convergence


def run_on(callback: fastbp.Converged, losses: list[float]) -> int | None:
    """Return the epoch after which a callback would stop a training with these losses."""
    state = TrainingState(make(), len(losses), history=History())
    callback.on_train_begin(state)
    for state.epoch, loss in enumerate(losses, 1):
        state.history.loss.append(loss)
        callback.on_epoch_end(state)
        if state.stop_training:
            break
    return callback.converged_epoch


@pytest.mark.source("S9", "Cheng algorithm 9.1")
@pytest.mark.parametrize(
    ("options", "losses", "epoch"),
    [
        ({"tol": 0.1, "patience": 1}, [1.0, 0.8, 0.6, 0.55, 0.1], 4),
        ({"tol": 0.1, "patience": 2}, [1.0, 0.95, 0.94, 0.1], 3),
        ({"tol": 0.1, "patience": 2}, [1.0, 0.95, 0.5, 0.45, 0.44], 5),
        ({"tol": 0.1, "patience": 2}, [1.0, 0.95, 0.5, 0.45, 0.3], None),
        ({"tol": 0.5, "patience": 1}, [1.0, 0.5, 0.25], 3),
        ({"tol": 0.5, "patience": 1, "relative": True}, [1.0, 0.5, 0.25, 0.125], None),
        ({"tol": 0.1, "patience": 1, "relative": True}, [1.0, 0.5, 0.46], 3),
        ({"tol": 0.1, "patience": 1, "relative": True}, [-1.0, -2.0, -2.1], 3),
        ({"tol": 0.0, "patience": 2}, [1.0, 1.0, 1.0], 3),
        ({"tol": 0.0, "patience": 1}, [1.0, 0.9, 0.95], 3),
        ({"tol": 0.0, "patience": 1}, [1.0, 0.9999999, 0.9999998], None),
        ({"tol": 0.1, "patience": 2}, [1.0, float("nan"), float("nan")], 3),
        ({"tol": 0.1, "patience": 1}, [float("inf"), 1.0], 1),
    ],
)
def test_training_stops_when_the_loss_hardly_falls(options: Any, losses: list[float], epoch: int | None) -> None:
    assert run_on(fastbp.Converged(**options), losses) == epoch


@pytest.mark.source("S9", "Cheng algorithm 9.1", "Cheng 9.2.2")
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_full_batch_descent_runs_until_it_converges(reduction: str, backend_name: str) -> None:
    """Cheng 9.2.2: the whole gradient, step after step, until some stopping criterion."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 3))
    y = X @ [1.0, -2.0, 0.5] + 3
    net = fastbp.Network((3, 1), output="identity", dtype="float64", random_state=0, backend=backend_name)
    rate = 0.1 if reduction == "mean" else 0.1 / 40
    trainer = fastbp.Trainer(
        net, loss="squared_error", optimizer="sgd", learning_rate=rate, batch_size="full", backend=backend_name
    )
    converged = fastbp.Converged(tol=1e-12, patience=1)
    history = trainer.fit(X, y, epochs=10_000, callbacks=[converged], reduction=reduction)
    assert trainer.n_steps == len(history.loss) == converged.converged_epoch < 1000
    assert (np.diff(history.loss) < 0).all()
    np.testing.assert_allclose(net.parameters, [1, -2, 0.5, 3], atol=1e-4)
