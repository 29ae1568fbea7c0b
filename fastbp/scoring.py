"""Scores on validation data: a user's functions, and scikit-learn's scorers on a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import get_scorer, get_scorer_names
from sklearn.metrics._scorer import _BaseScorer

from .network import Network

Scorer = Callable[[Network, Any, Any], float]
"""A score of a network on samples and targets."""


class _Regressor(RegressorMixin, BaseEstimator):
    """A network as scikit-learn's scorers want a regressor."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, X: Any) -> NDArray[Any]:
        return self.network.predict(X)


class _Classifier(ClassifierMixin, BaseEstimator):
    """A network as scikit-learn's scorers want a classifier."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.classes_ = np.arange(max(network.layer_sizes[-1], 2))  # one logistic output tells 0 from 1

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, X: Any) -> NDArray[Any]:
        return self.network.predict(X)

    def predict_proba(self, X: Any) -> NDArray[Any]:
        return self.network.predict_proba(X)


@dataclass(frozen=True)
class SklearnScorer:
    """A scorer of scikit-learn's, by name or as an object, as a function of networks."""

    scorer: Any

    def __call__(self, network: Network, X: Any, y: Any) -> float:
        """Return the score: of a classifier where the outputs are probabilities, else of a regressor."""
        score = get_scorer(self.scorer)
        if network.functions[-1].name in ("softmax", "logistic"):
            return score(_Classifier(network), X, _as_labels(y, network))
        return score(_Regressor(network), X, y)


def as_scorer(monitor: Any) -> tuple[str, Scorer]:
    """Return the name and the function that a score is known by.

    Parameters
    ----------
    monitor : str or callable
        A name of `sklearn.metrics.get_scorer_names`, a scorer of `sklearn.metrics.make_scorer`, or a function
        ``scorer(network, X, y)`` that returns a number.

    Raises
    ------
    ValueError
        If scikit-learn has no scorer of the name.
    TypeError
        If it is none of these.
    """
    if isinstance(monitor, str):
        if monitor not in get_scorer_names():
            raise ValueError(
                f"monitor is {monitor!r}; choose 'validation_loss', 'loss', or a scorer of scikit-learn such as "
                "'accuracy' (sklearn.metrics.get_scorer_names() lists them), or pass a function scorer(network, X, y)"
            )
        return monitor, SklearnScorer(monitor)
    if isinstance(monitor, _BaseScorer):
        return monitor._score_func.__name__, SklearnScorer(monitor)
    if not callable(monitor):
        raise TypeError(f"monitor is a {type(monitor).__name__}; pass a name or a function scorer(network, X, y)")
    return getattr(monitor, "__name__", type(monitor).__name__), monitor


def _as_labels(y: Any, network: Network) -> NDArray[Any]:
    """Return targets in the form of the network's predictions: one-hot rows as class numbers, a column as a vector."""
    y = np.asarray(y.toarray() if hasattr(y, "toarray") else y)
    if y.ndim == 2 and y.shape[1] == 1:
        return y[:, 0]
    if (
        network.functions[-1].name == "softmax"
        and y.ndim == 2
        and ((y == 0) | (y == 1)).all()
        and (y.sum(axis=1) == 1).all()
    ):
        return y.argmax(axis=1)
    return y
