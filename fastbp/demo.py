"""The demonstration: handwritten digits, learnt by fastbp and by scikit-learn from the same seed."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np

from .files import replacing
from .plots import new_axes
from .tabular import fit_to_the_end

ROUNDS = 5
"""Timed runs of each, in turn."""


@dataclass(frozen=True)
class Learner:
    """One side of the comparison.

    Attributes
    ----------
    name : str
    model : estimator
        Of the last run; all runs give the same numbers.
    first_seconds : float
        The first `fit`, with whatever has to be loaded or compiled.
    seconds : list of float
        The `fit`s after it.
    accuracy : float
        On the test set.
    """

    name: str
    model: Any
    first_seconds: float
    seconds: list[float]
    accuracy: float

    @property
    def median_seconds(self) -> float:
        """The time that is reported."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class Result:
    """What the demonstration found; the learners are fastbp's and scikit-learn's."""

    fastbp: Learner
    sklearn: Learner
    n_train: int
    n_test: int

    @property
    def speedup(self) -> float:
        """How many times sooner fastbp is done."""
        return self.sklearn.median_seconds / self.fastbp.median_seconds

    @property
    def largest_difference(self) -> float:
        """Of the two loss curves, at any epoch."""
        curves = [np.asarray(learner.model.loss_curve_) for learner in (self.fastbp, self.sklearn)]
        return float(np.max(np.abs(curves[0] - curves[1])))


def run(seed: int = 0, max_iter: int = 100, backend: str = "auto") -> Result:
    """Train both on scikit-learn's bundled digits, a few times in turn, and time them.

    Parameters
    ----------
    seed : int
        For the split, the initial weights and the order of the samples.
    max_iter : int
        Epochs.
    backend : str
        Of fastbp.

    Returns
    -------
    Result
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    from .estimators import MLPClassifier

    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, test_size=0.25, stratify=y, random_state=seed)
    settings: dict[str, Any] = {
        "max_iter": max_iter,
        "n_iter_no_change": max_iter,
        "random_state": seed,
    }  # all epochs are run
    own = MLPClassifier(**settings, backend=backend)
    models = {f"fastbp ({_backend_name(backend)})": own, "scikit-learn": own.to_sklearn()}
    first = {name: fit_to_the_end(model, X, y) for name, model in models.items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(ROUNDS):
        for name, model in models.items():
            times[name].append(fit_to_the_end(model, X, y))
    learners = [
        Learner(name, model, first[name], times[name], float(model.score(X_test, y_test)))
        for name, model in models.items()
    ]
    return Result(learners[0], learners[1], len(y), len(y_test))


def draw(result: Result, path: str | os.PathLike[str]) -> None:
    """Draw the loss curves, and the time each took, into a PNG file.

    Parameters
    ----------
    result : Result
    path : str or os.PathLike

    Raises
    ------
    ImportError
        If matplotlib is missing; the message says how to get it.
    OSError
        If the file cannot be written.
    """
    curves, times = new_axes(1, 2, figsize=(10, 4.5), width_ratios=(2.2, 1))
    figure = curves.figure
    figure.suptitle(f"Handwritten digits: fastbp {result.speedup:.1f} times as fast as scikit-learn", fontweight="bold")
    _draw_curves(curves, result)
    _draw_times(times, result)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


_COLOURS = ("#d95f02", "#1f4e79")


def _draw_curves(axes: Any, result: Result) -> None:
    """Draw a thin dashed line on a thick pale one: they coincide, and both are to be seen."""
    ours, theirs = result.fastbp, result.sklearn
    epochs = np.arange(1, len(ours.model.loss_curve_) + 1)
    axes.plot(epochs, theirs.model.loss_curve_, color=_COLOURS[1], alpha=0.35, linewidth=7, label=_label(theirs))
    axes.plot(
        epochs,
        ours.model.loss_curve_,
        color=_COLOURS[0],
        linewidth=1.8,
        linestyle=(0, (4, 2)),
        label=_label(ours),
    )
    axes.set(yscale="log", xlabel="epoch", ylabel="training loss (cross-entropy)", xlim=(1, max(2, len(epochs))))
    axes.set_title(f"Training loss: largest difference {result.largest_difference:.1e}", fontsize="medium")
    axes.grid(True, which="major", alpha=0.25)
    axes.legend(frameon=False)


def _label(learner: Learner) -> str:
    return f"{learner.name}, test accuracy {learner.accuracy:.1%}"


def _draw_times(axes: Any, result: Result) -> None:
    learners = (result.fastbp, result.sklearn)
    bars = axes.bar([learner.name for learner in learners], [x.median_seconds for x in learners], color=_COLOURS)
    axes.bar_label(bars, [f"{learner.median_seconds:.2f} s" for learner in learners], padding=3)
    axes.set(ylabel="seconds")
    axes.set_title(f"Time of a fit, median of {len(result.fastbp.seconds)}", fontsize="medium")
    axes.margins(y=0.12)
    axes.spines[["top", "right"]].set_visible(False)


def _backend_name(backend: str) -> str:
    from . import kernels

    return str(kernels.resolve(backend))
