"""Callbacks: when they are called, what they see, and that they can stop a training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastbp


def make(n: int = 64) -> tuple[fastbp.Trainer, Any, Any]:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(n, 6)), rng.integers(0, 3, n)
    net = fastbp.Network((6, 8, 3), dtype="float64", random_state=0)
    return fastbp.Trainer(net, learning_rate=0.05, batch_size=16, random_state=0), X, y


class Recorder(fastbp.Callback):
    """Writes down what it is called for."""

    def __init__(self, every_n_steps: int | None = None, stop_at_step: int | None = None) -> None:
        self.every_n_steps, self.stop_at_step = every_n_steps, stop_at_step
        self.calls: list[tuple[str, int, int]] = []

    def note(self, what: str, state: fastbp.TrainingState) -> None:
        self.calls.append((what, state.epoch, state.step))

    def on_train_begin(self, state: fastbp.TrainingState) -> None:
        self.note("train begin", state)

    def on_epoch_begin(self, state: fastbp.TrainingState) -> None:
        self.note("epoch begin", state)

    def on_step_end(self, state: fastbp.TrainingState) -> None:
        self.note("step", state)
        state.stop_training = state.step == self.stop_at_step

    def on_epoch_end(self, state: fastbp.TrainingState) -> None:
        assert len(state.history.loss) == state.epoch
        self.note("epoch end", state)

    def on_train_end(self, state: fastbp.TrainingState) -> None:
        self.note("train end", state)


def test_callbacks_are_called_in_order() -> None:
    trainer, X, y = make()
    recorder = Recorder(every_n_steps=3)
    trainer.fit(X, y, epochs=2, callbacks=[recorder])
    assert recorder.calls == [
        ("train begin", 0, 0),
        ("epoch begin", 1, 0),
        ("step", 1, 3),
        ("epoch end", 1, 4),
        ("epoch begin", 2, 4),
        ("step", 2, 6),
        ("epoch end", 2, 8),
        ("train end", 2, 8),
    ]


def test_two_intervals_are_both_kept() -> None:
    trainer, X, y = make(160)
    threes, fours = Recorder(every_n_steps=3), Recorder(every_n_steps=4)
    trainer.fit(X, y, epochs=2, callbacks=[threes, fours])
    assert [step for what, _, step in threes.calls if what == "step"] == [3, 6, 9, 12, 15, 18]
    assert [step for what, _, step in fours.calls if what == "step"] == [4, 8, 12, 16, 20]


def test_a_callback_stops_training_at_a_step() -> None:
    trainer, X, y = make()
    history = trainer.fit(X, y, epochs=10, callbacks=[Recorder(every_n_steps=1, stop_at_step=6)])
    assert trainer.n_steps == 6
    assert len(history.loss) == 2
    assert np.isfinite(history.loss).all()


def test_train_end_is_called_after_an_error() -> None:
    class Broken(fastbp.Callback):
        def on_epoch_end(self, state: fastbp.TrainingState) -> None:
            raise RuntimeError("broken")

    trainer, X, y = make()
    recorder = Recorder()
    with pytest.raises(RuntimeError, match="broken"):
        trainer.fit(X, y, callbacks=[recorder, Broken()])
    assert recorder.calls[-1][0] == "train end"


@pytest.mark.source("S26", "Book 4.1.1")
def test_early_stopping_restores_the_best_parameters() -> None:
    trainer, X, y = make(40)
    stopping = fastbp.EarlyStopping(patience=3)
    history = trainer.fit(X[:20], y[:20], epochs=500, validation_data=(X[20:], y[20:]), callbacks=[stopping])
    best = int(np.argmin(history.validation_loss))
    assert stopping.stopped_epoch == len(history.loss) == best + 4
    assert stopping.best == history.validation_loss[best]
    assert trainer.evaluate(X[20:], y[20:]) == history.validation_loss[best]


def test_early_stopping_without_validation_data_says_what_to_do() -> None:
    trainer, X, y = make()
    with pytest.raises(ValueError, match="pass validation_data"):
        trainer.fit(X, y, callbacks=[fastbp.EarlyStopping()])
    trainer.fit(X, y, epochs=3, callbacks=[fastbp.EarlyStopping(monitor="loss")])


def test_a_checkpoint_goes_on_bit_for_bit(tmp_path: Path) -> None:
    trainer, X, y = make()
    trainer.fit(X, y, epochs=4, callbacks=[fastbp.Checkpoint(tmp_path / "{epoch}.safetensors", every=2)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2.safetensors", "4.safetensors"]
    resumed = fastbp.load(tmp_path / "2.safetensors")
    resumed.fit(X, y, epochs=2)
    np.testing.assert_array_equal(resumed.network.parameters, trainer.network.parameters)


def test_the_best_checkpoint_is_kept(tmp_path: Path) -> None:
    trainer, X, y = make(40)
    path = tmp_path / "best.safetensors"
    callbacks = [fastbp.Checkpoint(path, best_of="validation_loss")]
    history = trainer.fit(X[:20], y[:20], epochs=60, validation_data=(X[20:], y[20:]), callbacks=callbacks)
    assert history.validation_loss[-1] > min(history.validation_loss)
    assert fastbp.load(path).evaluate(X[20:], y[20:]) == min(history.validation_loss)


def test_the_log_has_a_line_an_epoch(tmp_path: Path) -> None:
    trainer, X, y = make()
    path = tmp_path / "log.jsonl"
    history = trainer.fit(X, y, epochs=3, validation_data=(X, y), callbacks=[fastbp.JSONLLogger(path)])
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["loss"] for record in records] == history.loss
    assert [record["validation_loss"] for record in records] == history.validation_loss
    assert [record["step"] for record in records] == [4, 8, 12]


@pytest.mark.parametrize(
    ("make_callback", "message"),
    [
        (lambda: fastbp.EarlyStopping(monitor="acuracy"), "monitor is 'acuracy'"),
        (lambda: fastbp.EarlyStopping(patience=0), "patience is 0"),
        (lambda: fastbp.Checkpoint("x", every=0), "every is 0"),
        (lambda: fastbp.Checkpoint("x", best_of="f2"), "monitor is 'f2'"),
    ],
)
def test_bad_options_are_refused(make_callback: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_callback()


class Clipper(fastbp.Callback):
    """Changes the parameters between steps, as a user may."""

    every_n_steps = 1

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def on_step_end(self, state: fastbp.TrainingState) -> None:
        parameters = state.trainer.network.parameters
        self.seen.append(parameters.copy())
        np.clip(parameters, -0.1, 0.1, out=parameters)


def test_parameters_are_up_to_date_for_a_callback_which_may_change_them(compiled: str) -> None:
    trainer, X, y = make()
    clipper = Clipper()
    trainer.fit(X, y, epochs=2, callbacks=[clipper], shuffle=False)
    by_hand, X, y = make()
    for seen in clipper.seen:  # the same steps, one fit each
        start = 16 * (by_hand.n_steps % 4)
        by_hand.fit(X[start : start + 16], y[start : start + 16], shuffle=False)
        np.testing.assert_array_equal(by_hand.network.parameters, seen)
        np.clip(by_hand.network.parameters, -0.1, 0.1, out=by_hand.network.parameters)
    assert len(clipper.seen) == 8
