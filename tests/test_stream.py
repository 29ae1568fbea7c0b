"""`Trainer.step`: samples as they come, against a fit on all of them in their order."""

from __future__ import annotations

import copy
import operator
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastbp
from fastbp import kernels, schedules

RNG = np.random.default_rng(0)
X, LABELS = RNG.standard_normal((40, 6)), RNG.integers(0, 3, 40)
TARGETS = RNG.uniform(0.1, 0.9, (40, 3))

KINDS: dict[str, tuple[str, str, Any]] = {
    "classes": ("softmax", "cross_entropy", LABELS),
    "matrix": ("softmax", "cross_entropy", TARGETS / TARGETS.sum(axis=1, keepdims=True)),
    "numbers": ("identity", "squared_error", TARGETS),
    "two classes": ("logistic", "cross_entropy", LABELS == 1),
}


def make(backend: str, kind: str = "classes", dtype: str = "float64", **options: Any) -> fastbp.Trainer:
    output, loss, y = KINDS[kind]
    sizes = (6, 5, 1 if y.ndim == 1 and output == "logistic" else 3)
    network = {name: options.pop(name) for name in ("batch_norm", "dropout") if name in options}
    net = fastbp.Network(sizes, "tanh", output, dtype=dtype, random_state=0, backend=backend, **network)
    return fastbp.Trainer(net, loss=loss, backend=backend, random_state=0, **{"optimizer": "sgd", **options})


def state(trainer: fastbp.Trainer) -> tuple[Any, ...]:
    arrays = trainer.network.buffer, trainer.m, trainer.v, trainer.average
    return *(array.tobytes() for array in arrays), trainer.n_steps


OPTIONS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "momentum": {"optimizer": fastbp.SGD(0.1, 0.9)},
    "adam, averaged, clipped": {"optimizer": "adam", "average_decay": 0.9, "clip_norm": 0.2},
    "inverse scaling": {"schedule": "inverse_scaling"},
    "dropout": {"dropout": fastbp.Dropout(0.5, inputs=0.8)},
}


@pytest.mark.source("S8", "Porr 2", "Porr (5)", "Porr (6)")
@pytest.mark.source("S9", "Cheng algorithm 9.1")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_stream_is_a_fit_in_the_samples_order(backend_name: str, dtype: str, kind: str, options: str) -> None:
    y = KINDS[kind][2]
    fitted, stepping = (make(backend_name, kind, dtype, batch_size=1, **OPTIONS[options]) for _ in range(2))
    whole = fitted.fit(X, y, shuffle=False, alpha=0.01)
    losses = [stepping.step(x, target, alpha=0.01) for x, target in zip(X, y, strict=True)]
    assert state(stepping) == state(fitted)
    assert np.mean(losses) == pytest.approx(whole.loss[0], rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"batch_norm": True}])
def test_a_few_samples_at_a_time(backend_name: str, options: dict[str, Any]) -> None:
    fitted, stepping = (make(backend_name, batch_size=8, optimizer="adam", **options) for _ in range(2))
    fitted.fit(X, LABELS, shuffle=False)
    for start in range(0, 40, 8):
        stepping.step(X[start : start + 8], LABELS[start : start + 8])
    assert state(stepping) == state(fitted)


def test_steps_and_fits_by_turns(backend_name: str) -> None:
    """Moments go from one to the other, whoever looks at them in between."""
    fitted, mixed = (make(backend_name, batch_size=1, optimizer="adam") for _ in range(2))
    fitted.fit(X, LABELS, shuffle=False)
    for x, label in zip(X[:10], LABELS[:10], strict=True):
        mixed.step(x, label)
    mixed.fit(X[10:20], LABELS[10:20], shuffle=False)
    mixed.step(X[20], LABELS[20])
    assert mixed.m.any()
    mixed.step(list(X[21]), int(LABELS[21]))
    mixed = pickle.loads(pickle.dumps(mixed))
    for x, label in zip(X[22:30], LABELS[22:30], strict=True):
        mixed.step(x[None], [label])
    mixed = copy.deepcopy(mixed)
    mixed.fit(X[30:], LABELS[30:], shuffle=False)
    assert state(mixed) == state(fitted)


def test_what_is_written_to_the_moments_counts(backend_name: str) -> None:
    """A fit comes between a step and whoever sets the moments back: the next step takes them from there."""
    trainers = [make(backend_name, batch_size=1, optimizer="adam") for _ in range(2)]
    for trainer in trainers:
        trainer.step(X[0], LABELS[0])
        trainer.fit(X[:5], LABELS[:5], shuffle=False)
        trainer.m[...] = trainer.v[...] = 0
    stepping, fitted = trainers
    stepping.step(X[5], LABELS[5])
    fitted.fit(X[5:6], LABELS[5:6])
    assert state(stepping) == state(fitted)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_step_goes_on_with_the_moments_of_a_fit(backend_name: str, batch_size: int) -> None:
    fitted, mixed = (make(backend_name, batch_size=batch_size, optimizer="adam") for _ in range(2))
    fitted.fit(X[:24], LABELS[:24], shuffle=False)
    mixed.fit(X[:8], LABELS[:8], shuffle=False)
    for start in range(8, 24, batch_size):
        mixed.step(X[start : start + batch_size], LABELS[start : start + batch_size])
    assert state(mixed) == state(fitted)


def test_read_only_parameters_are_refused(backend_name: str) -> None:
    trainer = make(backend_name)
    trainer.step(X[0], LABELS[0])
    trainer.network.parameters.flags.writeable = False
    then = state(trainer)
    with pytest.raises(ValueError, match="parameters are read-only; set network"):
        trainer.step(X[1], LABELS[1])
    assert state(trainer) == then


@pytest.mark.parametrize("name", ["m", "v", "average", "network.buffer"])
@pytest.mark.parametrize("action", ["fit", "step"])
def test_whatever_a_step_writes_must_be_writeable(backend_name: str, name: str, action: str) -> None:
    trainer = make(backend_name, optimizer="adam", average_decay=0.9, batch_size=1)
    trainer.step(X[0], LABELS[0])
    then = state(trainer)
    operator.attrgetter(name)(trainer).flags.writeable = False
    with pytest.raises(ValueError, match=rf"read-only; set \w+\.{name.split('.')[-1]}\.flags"):
        getattr(trainer, action)(*((X[1], 1) if action == "step" else (X, LABELS)))
    assert state(trainer) == then


def test_an_interruption_leaves_whole_steps(backend_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C right after the kernel: the step is done, and its parameters and moments are where they belong."""
    trainers = [make(backend_name, batch_size=1, optimizer="adam") for _ in range(2)]
    for trainer in trainers:
        trainer.step(X[0], LABELS[0])
    module = kernels.backend(backend_name).module
    kernel = module.train_steps

    def interrupted(*args: Any) -> None:
        kernel(*args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "train_steps", interrupted)
        with pytest.raises(KeyboardInterrupt):
            trainers[0].step(X[1], LABELS[1])
    trainers[1].step(X[1], LABELS[1])
    assert state(trainers[0]) == state(trainers[1])


WRONG: dict[str, tuple[Callable[[fastbp.Trainer], Any], str]] = {
    "inputs": (lambda t: t.step(X[0, :5], 1), "5 features"),
    "dimensions": (lambda t: t.step(X[None], [1]), "one sample of shape"),
    "class": (lambda t: t.step(X[0], 3), "0 to 2"),
    "part of a class": (lambda t: t.step(X[0], 0.5), "class numbers"),
    "targets": (lambda t: t.step(X[0], [0.5, 0.5]), "columns"),
    "NaN": (lambda t: t.step(np.full(6, np.nan), 1), "NaN"),
    "infinity among others": (
        lambda t: t.step(np.array([[1.0] * 6, [np.inf] * 6]), [1, 2]),
        "infinity",
    ),
    "penalty": (lambda t: t.step(X[0], 1, alpha=-1), "alpha"),
    "number of targets": (lambda t: t.step(X[:2], [1]), "samples"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("before", [0, 3])
def test_what_is_wrong_changes_nothing(backend_name: str, wrong: str, before: int) -> None:
    trainer, action, message = make(backend_name, optimizer="adam"), *WRONG[wrong]
    for x, label in zip(X[:before], LABELS[:before], strict=True):
        trainer.step(x, label)
    then = state(trainer)
    with pytest.raises(ValueError, match=message):
        action(trainer)
    assert state(trainer) == then
    trainer.step(X[5], LABELS[5])
    assert trainer.n_steps == before + 1


EPOCHS = {
    "by name": "cosine",
    "staircase": schedules.InverseScaling(unit="epoch", staircase=True),
    "then": schedules.WarmUp(3, schedules.StepDecay(2), unit="step"),
    "losses": schedules.ReduceOnPlateau("loss"),
    "warm-up": schedules.WarmUp(3),
}


@pytest.mark.parametrize("schedule", EPOCHS)
def test_a_schedule_that_counts_epochs(backend_name: str, schedule: str) -> None:
    with pytest.raises(ValueError, match="goes by epochs, and samples as they come have none; pass unit='step'"):
        make(backend_name, schedule=EPOCHS[schedule]).step(X[0], LABELS[0])


@pytest.mark.parametrize("schedule", ["constant", schedules.WarmUp(9, schedules.Cosine(20, unit="step"), unit="step")])
def test_a_schedule_that_counts_steps(backend_name: str, schedule: Any) -> None:
    fitted, stepping = (make(backend_name, schedule=schedule, batch_size=1) for _ in range(2))
    fitted.fit(X, LABELS, shuffle=False)
    for x, label in zip(X, LABELS, strict=True):
        stepping.step(x, label)
    assert state(stepping) == state(fitted)


def test_a_schedule_that_must_know_the_end(backend_name: str) -> None:
    trainer = make(backend_name, schedule=schedules.Cosine(unit="step"))
    with pytest.raises(ValueError, match="not known when that is"):
        trainer.step(X[0], LABELS[0])
    assert trainer.n_steps == 0


def test_sparse_samples_are_refused(backend_name: str) -> None:
    scipy = pytest.importorskip("scipy.sparse")
    with pytest.raises(ValueError, match="toarray"):
        make(backend_name).step(scipy.csr_matrix(X[:1]), LABELS[:1])
