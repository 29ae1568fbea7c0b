"""Callbacks: code that sees a training from outside, at its cuts."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from .trainer import Trainer


@dataclass
class History:
    """What a training went through, one entry for each epoch.

    Attributes
    ----------
    loss : list of float
        Mean training loss, penalty included, each batch's taken before its update.
    validation_loss : list of float
        Mean loss on the validation data, without penalty; empty where there are none.
    seconds : list of float
        Wall time.
    learning_rate : list of float
        That of the epoch's last step: the optimiser's own times the schedule's factor, before Adam's corrections.
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)


@dataclass
class TrainingState:
    """What callbacks see.

    Attributes
    ----------
    trainer : Trainer
        Its network's ``parameters`` are those of this moment.
    n_epochs : int
        How many epochs this call to ``fit`` was asked for.
    epoch : int
        Number of the current epoch in this call, from 1.
    step : int
        Steps done since the trainer was made.
    history : History
    stop_training : bool
        Set to True, training ends at the next cut.
    """

    trainer: Trainer
    n_epochs: int
    epoch: int = 0
    step: int = 0
    history: History = field(default_factory=History)
    stop_training: bool = False


class Callback:
    """Base of all callbacks; override what is wanted.

    Attributes
    ----------
    every_n_steps : int or None
        How often `on_step_end` is called; None: never.
    """

    every_n_steps: int | None = None

    def on_train_begin(self, state: TrainingState) -> None:
        """Run before the first epoch."""

    def on_epoch_begin(self, state: TrainingState) -> None:
        """Run before each epoch."""

    def on_step_end(self, state: TrainingState) -> None:
        """Run after every ``every_n_steps`` steps."""

    def on_epoch_end(self, state: TrainingState) -> None:
        """Run after each epoch, when its losses are in the history."""

    def on_train_end(self, state: TrainingState) -> None:
        """Run at the end, also after an interruption or an error."""


class EarlyStopping(Callback):
    """Stop when a loss no longer falls (Book 4.1.1), and go back to the best parameters.

    Parameters
    ----------
    monitor : {"validation_loss", "loss"}
    patience : int
        How many epochs without improvement are borne.
    min_delta : float
        What counts as improvement.
    restore_best : bool
        End with the parameters of the best epoch.

    Attributes
    ----------
    best : float
        The lowest loss seen.
    stopped_epoch : int or None
        The epoch at which training was stopped.
    """

    def __init__(
        self,
        monitor: str = "validation_loss",
        patience: int = 10,
        min_delta: float = 0.0,
        restore_best: bool = True,
    ) -> None:
        _check_monitor(monitor)
        if not isinstance(patience, int) or patience < 1:
            raise ValueError(f"patience is {patience!r}; pass a whole number of at least 1 epoch")
        if not min_delta >= 0:
            raise ValueError(f"min_delta is {min_delta!r}; pass a number of at least 0")
        self.monitor, self.patience, self.min_delta, self.restore_best = monitor, patience, min_delta, restore_best

    def on_train_begin(self, state: TrainingState) -> None:
        self.best, self.waited = math.inf, 0
        self.stopped_epoch: int | None = None
        self._best_parameters: NDArray[Any] | None = None

    def on_epoch_end(self, state: TrainingState) -> None:
        value = _monitored(state, self.monitor)
        self.waited = 0 if value < self.best - self.min_delta else self.waited + 1
        if value < self.best:
            self.best = value
            if self.restore_best:
                self._best_parameters = state.trainer.network.parameters.copy()
        if self.waited >= self.patience:
            self.stopped_epoch = state.epoch
            state.stop_training = True

    def on_train_end(self, state: TrainingState) -> None:
        if self._best_parameters is not None:
            state.trainer.network.parameters[...] = self._best_parameters
            self._best_parameters = None


class Checkpoint(Callback):
    """Save the trainer after epochs, so that training can go on from the file bit for bit.

    Parameters
    ----------
    path : path-like
        The file; ``{epoch}`` in it stands for the epoch's number.
    every : int
        Save after each ``every``-th epoch.
    best_of : {None, "validation_loss", "loss"}
        Save only where this loss is the lowest so far.
    """

    def __init__(self, path: str | Path, every: int = 1, best_of: str | None = None) -> None:
        if every < 1:
            raise ValueError(f"every is {every}; pass at least 1 epoch")
        if best_of is not None:
            _check_monitor(best_of)
        self.path, self.every, self.best_of = path, every, best_of

    def on_train_begin(self, state: TrainingState) -> None:
        self.best = math.inf

    def on_epoch_end(self, state: TrainingState) -> None:
        from .io import save

        if state.epoch % self.every:
            return
        if self.best_of is not None:
            value = _monitored(state, self.best_of)
            if not value < self.best:
                return
            self.best = value
        save(state.trainer, str(self.path).replace("{epoch}", str(state.epoch)))


class JSONLLogger(Callback):
    """Write one JSON object a line after each epoch: epoch, step, loss, validation loss, seconds.

    Parameters
    ----------
    path : path-like
        Appended to.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._file: IO[str] | None = None

    def on_train_begin(self, state: TrainingState) -> None:
        self._file = self.path.open("a", encoding="utf-8")

    def on_epoch_end(self, state: TrainingState) -> None:
        assert self._file is not None
        history = state.history
        record: dict[str, Any] = {"epoch": state.epoch, "step": state.step, "loss": history.loss[-1]}
        if history.validation_loss:
            record["validation_loss"] = history.validation_loss[-1]
        record["seconds"] = history.seconds[-1]
        finite = {key: value if np.isfinite(value) else None for key, value in record.items()}
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()

    def on_train_end(self, state: TrainingState) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _check_monitor(monitor: str) -> None:
    if monitor not in ("validation_loss", "loss"):
        raise ValueError(f"monitor is {monitor!r}; choose 'validation_loss' or 'loss'")


def _monitored(state: TrainingState, monitor: str) -> float:
    values: list[float] = getattr(state.history, monitor)
    if not values:
        raise ValueError("there is no validation loss to watch; pass validation_data=(X, y) to fit, or monitor='loss'")
    return values[-1]
