"""Callbacks: code that sees a training from outside, at its cuts."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .ranges import check_choice, check_range, check_whole

if TYPE_CHECKING:
    from .trainer import Trainer

LOSSES = ("validation_loss", "loss")
"""What of the history can be monitored by name, beside scores."""

_TAKEN = (*LOSSES, "epoch", "step", "seconds")
"""Names that a score cannot have in records; another one of the same name is numbered."""


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
    score : dict of str to list of float
        The scores on the validation data that callbacks watch, by name.
    """

    loss: list[float] = field(default_factory=list)
    validation_loss: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    learning_rate: list[float] = field(default_factory=list)
    score: dict[str, list[float]] = field(default_factory=dict)


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
    validation_data : tuple (X, y) or None
        As it was passed to ``fit``.
    scorers : dict of str to callable
        Functions ``scorer(network, X, y)``; their scores on the validation data are entered in ``history.score`` after
        each epoch, before `Callback.on_epoch_end`.
    """

    trainer: Trainer
    n_epochs: int
    epoch: int = 0
    step: int = 0
    history: History = field(default_factory=History)
    stop_training: bool = False
    validation_data: tuple[Any, Any] | None = None
    scorers: dict[str, Callable[[Any, Any, Any], float]] = field(default_factory=dict)

    def enter_scores(self) -> None:
        """Enter the scores of this moment in the history.

        Raises
        ------
        TypeError
            If a scorer returns no number.
        """
        for name, scorer in self.scorers.items():
            self.history.score.setdefault(name, []).append(self.score(name, scorer))

    def score(self, name: str, scorer: Callable[[Any, Any, Any], float]) -> float:
        """Return a score on the validation data."""
        assert self.validation_data is not None  # who enters a scorer asks for them
        value = scorer(self.trainer.network, *self.validation_data)
        try:
            return float(value)
        except (TypeError, ValueError):
            raise TypeError(f"scorer {name!r} returned a {type(value).__name__}; return a number") from None


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


class Monitor:
    """What a callback watches after each epoch: a loss, or a score on the validation data.

    Parameters
    ----------
    monitor : str or callable
        ``"validation_loss"``, ``"loss"``, the name of a scorer of scikit-learn, or ``scorer(network, X, y)``.
    mode : {"auto", "min", "max"}
        What is better. Auto: less of a loss, more of a score.

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described.
    """

    def __init__(self, monitor: Any, mode: str = "auto") -> None:
        check_choice("mode", mode, ("auto", "min", "max"))
        self.name, self.scorer = monitor, None
        if not (isinstance(monitor, str) and monitor in LOSSES):
            from .scoring import as_scorer

            self.name, self.scorer = as_scorer(monitor)
        self.wants_less = mode == "min" or (mode == "auto" and self.scorer is None)

    @property
    def worst(self) -> float:
        """What everything is better than."""
        return math.inf if self.wants_less else -math.inf

    def begin(self, state: TrainingState) -> None:
        """Ask for what is watched.

        Raises
        ------
        ValueError
            If there are no validation data, or scikit-learn's scorer cannot score the network on them.
        """
        if (self.scorer is not None or self.name != "loss") and state.validation_data is None:
            what = "score" if self.scorer else "validation loss"
            raise ValueError(f"there is no {what} to watch; pass validation_data=(X, y) to fit, or watch 'loss'")
        if self.scorer is not None:
            self._check_scorer(state)
            self.key, number = self.name, 1
            while self.key in _TAKEN or state.scorers.setdefault(self.key, self.scorer) != self.scorer:
                number += 1
                self.key = f"{self.name} {number}"

    def _check_scorer(self, state: TrainingState) -> None:
        """Try a scorer of scikit-learn's, whose names stand for many that do not go with a network."""
        from .scoring import SklearnScorer

        if isinstance(self.scorer, SklearnScorer):
            try:
                state.score(self.name, self.scorer)
            except (ValueError, TypeError, AttributeError) as error:
                raise ValueError(
                    f"scorer {self.name!r} does not go with the network or the validation data: {error}"
                ) from error

    def value(self, state: TrainingState) -> float:
        """Return this epoch's value."""
        values: list[float] = (
            getattr(state.history, self.name) if self.scorer is None else state.history.score[self.key]
        )
        return values[-1]

    def is_better(self, value: float, best: float, by: float = 0.0) -> bool:
        """Tell whether a value is better than the best so far by more than some number; NaN is not."""
        return value < best - by if self.wants_less else value > best + by


class EarlyStopping(Callback):
    """Stop when a loss no longer falls, or a score no longer rises (Book 4.1.1); go back to the best parameters.

    Parameters
    ----------
    monitor : str or callable
        ``"validation_loss"``, ``"loss"``, the name of a scorer of scikit-learn (``"accuracy"``, ``"f1_macro"``,
        ``"r2"``, ...) or a function ``scorer(network, X, y)`` that returns a number. Scores are taken on the validation
        data after each epoch, and kept in ``history.score``.
    patience : int
        How many epochs without improvement are borne.
    min_delta : float
        What counts as improvement.
    restore_best : bool
        End with the parameters of the best epoch.
    mode : {"auto", "min", "max"}
        What is better. Auto: less of a loss, more of a score.

    Attributes
    ----------
    best : float
        The best loss or score seen.
    stopped_epoch : int or None
        The epoch at which training was stopped.

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described; from ``fit``, before anything changes, if there are no validation data to
        watch, or scikit-learn's scorer cannot score the network on them.
    """

    def __init__(
        self,
        monitor: Any = "validation_loss",
        patience: int = 10,
        min_delta: float = 0.0,
        restore_best: bool = True,
        mode: str = "auto",
    ) -> None:
        self._monitor = Monitor(monitor, mode)
        check_whole("patience", patience, 1, "epoch")
        check_range("min_delta", min_delta, 0, math.inf)
        self.monitor, self.patience, self.min_delta, self.restore_best = monitor, patience, min_delta, restore_best

    def on_train_begin(self, state: TrainingState) -> None:
        self._monitor.begin(state)
        self.best, self.waited = self._monitor.worst, 0
        self.stopped_epoch: int | None = None
        self._best_buffer: NDArray[Any] | None = None

    def on_epoch_end(self, state: TrainingState) -> None:
        value = self._monitor.value(state)
        self.waited = 0 if self._monitor.is_better(value, self.best, self.min_delta) else self.waited + 1
        if self._monitor.is_better(value, self.best):
            self.best = value
            if self.restore_best:
                self._best_buffer = state.trainer.network.buffer.copy()  # running means and variances too
        if self.waited >= self.patience:
            self.stopped_epoch = state.epoch
            state.stop_training = True

    def on_train_end(self, state: TrainingState) -> None:
        if self._best_buffer is not None:
            state.trainer.network.buffer[...] = self._best_buffer
            self._best_buffer = None


class Converged(Callback):
    """Stop when the training loss hardly falls any more: the stopping criterion of Cheng algorithm 9.1.

    Parameters
    ----------
    tol : float
        At least 0: an epoch whose loss is not below the lowest so far, or by less than this, brings nothing.
    patience : int
        How many such epochs, one after the other, end the training.
    relative : bool
        Whether ``tol`` is a part of the lowest loss.

    Attributes
    ----------
    best : float
        The lowest loss seen.
    converged_epoch : int or None
        The epoch at which training was stopped.

    Raises
    ------
    ValueError
        If an argument is not as described.
    """

    def __init__(self, tol: float = 1e-4, patience: int = 10, *, relative: bool = False) -> None:
        check_range("tol", tol, 0, math.inf, open_high=True)
        check_whole("patience", patience, 1, "epoch")
        self.tol, self.patience, self.relative = tol, patience, relative

    def on_train_begin(self, state: TrainingState) -> None:
        self.best, self.waited = math.inf, 0
        self.converged_epoch: int | None = None

    def on_epoch_end(self, state: TrainingState) -> None:
        loss = state.history.loss[-1]
        wanted = self.tol * abs(self.best) if self.relative and math.isfinite(self.best) else self.tol
        self.waited = 0 if loss < self.best and self.best - loss >= wanted else self.waited + 1
        self.best = min(self.best, loss)
        if self.waited >= self.patience:
            self.converged_epoch = state.epoch
            state.stop_training = True


class Checkpoint(Callback):
    """Save the trainer after epochs, so that training can go on from the file bit for bit.

    Parameters
    ----------
    path : path-like
        The file; ``{epoch}`` in it stands for the epoch's number.
    every : int
        Save after each ``every``-th epoch.
    best_of : None, str or callable
        Save only where this loss is the lowest, or this score the highest, of those after which one was saved. As
        ``monitor`` of `EarlyStopping`.
    mode : {"auto", "min", "max"}
        As for `EarlyStopping`.

    Raises
    ------
    ValueError, TypeError
        As for `EarlyStopping`. `Trainer.fit` raises TypeError for functions of users, which a model file cannot hold.
    """

    def __init__(self, path: str | Path, every: int = 1, best_of: Any = None, mode: str = "auto") -> None:
        check_whole("every", every, 1, "epoch")
        self._monitor = None if best_of is None else Monitor(best_of, mode)
        self.path, self.every, self.best_of = path, every, best_of

    def on_train_begin(self, state: TrainingState) -> None:
        from .io import check_data_only

        check_data_only(state.trainer.network, state.trainer.loss)  # rather than after an epoch
        if self._monitor is not None:
            self._monitor.begin(state)
            self.best = self._monitor.worst

    def on_epoch_end(self, state: TrainingState) -> None:
        from .io import save

        if state.epoch % self.every:
            return
        if self._monitor is not None:
            value = self._monitor.value(state)
            if not self._monitor.is_better(value, self.best):
                return
            self.best = value
        save(state.trainer, str(self.path).replace("{epoch}", str(state.epoch)))


class JSONLLogger(Callback):
    """Write one JSON object a line after each epoch: epoch, step, loss, validation loss, scores, seconds.

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
        record |= {name: scores[-1] for name, scores in history.score.items()}
        record["seconds"] = history.seconds[-1]
        finite = {key: value if np.isfinite(value) else None for key, value in record.items()}
        self._file.write(json.dumps(finite) + "\n")
        self._file.flush()

    def on_train_end(self, state: TrainingState) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
