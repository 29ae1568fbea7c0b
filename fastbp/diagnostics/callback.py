"""A callback that measures a network at the cuts of its training."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..callbacks import Callback, TrainingState
from ..ranges import check_range, check_whole
from .layers import ByLayer, norms, null_weights, text, zeros
from .upper_error import valuation
from .walk import Probe, check_dropout, probe

Array = NDArray[Any]


class Diagnostics(Callback):
    """Measure a network on a fixed batch, before the training and at its cuts.

    It looks on: the training's numbers are, bit for bit, those without it. Its own time is what a few passes of the
    batch through the unfused operations take, at each cut; a training without it spends none.

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n, I)
        The batch that is sent through the network at each cut: a few hundred samples that stay the same.
    y : array-like of shape (n,) or (n, O), optional
        Its targets; without them only zeros and null weights are measured.
    every_n_epochs : int, optional
        Measure after each ``every_n_epochs``-th epoch; None: not after epochs.
    every_n_steps : int, optional
        Measure after each ``every_n_steps``-th step, too.
    measures : iterable of str, optional
        ``"norms"``, ``"zeros"``, ``"null_weights"``, ``"valuation"``: what the functions of these names measure. Left
        out, all but the valuation that the batch allows.
    alpha : float
        L2 penalty that the gradients contain, as in ``fit``.
    tolerance : float
        Of `null_weights`.
    dropout : bool
        False: nothing is dropped from the batch, whatever the network says. Else each cut has the same masks, as it has
        the same samples: what changes from cut to cut is the network.

    Attributes
    ----------
    epochs : ndarray of shape (n_cuts,), dtype int64
        Epoch of each cut, counted over all fits; 0 before the first.
    steps : ndarray of shape (n_cuts,), dtype int64
        Steps the trainer had done.

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described; from ``fit``, before anything changes, if the batch does not fit the
        network.

    Notes
    -----
    Cheng 9.3 (norms, zeros), P&P abstract (null weights), P&P (11)-(18) (valuation).

    Examples
    --------
    >>> import numpy as np
    >>> import fastbp
    >>> X, y = np.eye(4, dtype="float32"), np.array([0, 1, 1, 0])
    >>> watch = fastbp.diagnostics.Diagnostics(X, y)
    >>> trainer = fastbp.Trainer(fastbp.Network((4, 8, 2), random_state=0), random_state=0)
    >>> _ = trainer.fit(X, y, epochs=3, callbacks=[watch])
    >>> watch["gradient_norm"].shape, watch.epochs
    ((4, 2), array([0, 1, 2, 3]))
    """

    def __init__(
        self,
        X: Any,
        y: Any = None,
        *,
        every_n_epochs: int | None = 1,
        every_n_steps: int | None = None,
        measures: Iterable[str] | None = None,
        alpha: float = 0.0,
        tolerance: float = 1e-3,
        dropout: bool = True,
    ) -> None:
        if every_n_epochs is not None:
            check_whole("every_n_epochs", every_n_epochs, 1)
        if every_n_steps is not None:
            check_whole("every_n_steps", every_n_steps, 1)
        check_range("tolerance", tolerance, 0, np.inf, open_high=True)
        self.X, self.y, self.alpha, self.tolerance, self.dropout = X, y, alpha, tolerance, check_dropout(dropout)
        self.every_n_epochs, self.every_n_steps = every_n_epochs, every_n_steps
        self.measures = _as_measures(measures, y is not None)
        self._functions: dict[str, Callable[[Probe], ByLayer]] = {
            **MEASURES,
            "null_weights": functools.partial(null_weights, tolerance=tolerance),
        }
        self._cuts: list[tuple[int, int]] = []
        self._rows: dict[str, list[Array]] = {}
        self._epochs_before = 0

    @property
    def epochs(self) -> NDArray[np.int64]:
        """Epoch of each cut."""
        return np.array([epoch for epoch, _ in self._cuts], np.int64)

    @property
    def steps(self) -> NDArray[np.int64]:
        """Steps done at each cut."""
        return np.array([step for _, step in self._cuts], np.int64)

    def __getitem__(self, name: str) -> Array:
        """Return a measure as an array of shape (n_cuts, L): a row for each cut, a column for each layer."""
        if name not in self._rows:
            known = ", ".join(map(repr, self._rows)) or "nothing yet: pass callbacks=[...] to fit"
            raise KeyError(f"{name!r} was not measured; there is {known}")
        return np.array(self._rows[name])

    def as_dict(self) -> dict[str, Array]:
        """Return everything measured by name, with ``epochs`` and ``steps``."""
        return {"epochs": self.epochs, "steps": self.steps, **{name: self[name] for name in self._rows}}

    def table(self, measure: str | None = None) -> None:
        """Print a measure on stdout, a line for each cut, or, without a name, the last cut, a line for each layer.

        Raises
        ------
        KeyError
            If there is no such measure.
        """
        from ..terminal import show_table

        if measure is None:
            columns, title = [name.replace("_", " ") for name in self._rows], "Nothing measured yet"
            if self._cuts:
                title = "After epoch {}, step {}".format(*self._cuts[-1])
            lines = zip(*(rows[-1] for rows in self._rows.values()), strict=True)
            cells = [(layer, *map(text, line)) for layer, line in enumerate(lines, start=1)]
            show_table(["layer", *columns], cells, title=title, numbers=range(len(columns) + 1))
            return
        values = self[measure]
        columns = ["epoch", "step", *(f"layer {layer}" for layer in range(1, values.shape[1] + 1))]
        cells = [(*cut, *map(text, row)) for cut, row in zip(self._cuts, values, strict=True)]
        show_table(columns, cells, title=measure.replace("_", " "), numbers=range(len(columns)))

    def on_train_begin(self, state: TrainingState) -> None:
        n_layers = state.trainer.network.layout.n_layers
        if self._rows and (before := next(iter(self._rows.values()))[0].size) != n_layers:
            raise ValueError(
                f"this callback has measured a network of {before} layers, and the one to be trained has {n_layers}; "
                "pass a new Diagnostics"
            )
        self._measure(state)

    def on_step_end(self, state: TrainingState) -> None:
        self._measure(state)

    def on_epoch_end(self, state: TrainingState) -> None:
        if self.every_n_epochs is not None and state.epoch % self.every_n_epochs == 0:
            self._measure(state)

    def on_train_end(self, state: TrainingState) -> None:
        self._epochs_before += state.epoch

    def _measure(self, state: TrainingState) -> None:
        cut = self._epochs_before + state.epoch, state.step
        if cut in self._cuts[-1:]:  # of a step that ends an epoch, or of a fit that goes on
            return
        seen = probe(state.trainer, self.X, self.y, alpha=self.alpha, dropout=self.dropout, seed=0)
        found = [self._functions[measure](seen) for measure in self.measures]
        for name, value in (item for numbers in found for item in numbers.as_dict().items()):
            self._rows.setdefault(name, []).append(value)
        self._cuts.append(cut)


MEASURES: dict[str, Callable[[Probe], ByLayer]] = {
    "norms": norms,
    "zeros": zeros,
    "null_weights": null_weights,
    "valuation": valuation,
}
"""What `Diagnostics` can measure, by name."""

_NEED_TARGETS = ("norms", "valuation")


def _as_measures(measures: Iterable[str] | None, has_targets: bool) -> tuple[str, ...]:
    if measures is None:
        return ("norms", "zeros", "null_weights") if has_targets else ("zeros", "null_weights")
    chosen = (measures,) if isinstance(measures, str) else tuple(measures)
    if not chosen or not set(chosen) <= set(MEASURES):
        raise ValueError(f"measures is {measures!r}; choose from {', '.join(map(repr, MEASURES))}")
    needing = [name for name in chosen if name in _NEED_TARGETS]
    if needing and not has_targets:
        raise ValueError(f"measure {needing[0]!r} needs targets; pass Diagnostics(X, y)")
    return chosen
