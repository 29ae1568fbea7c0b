"""A small problem, and estimators of scikit-learn's or fastbp's to train on it."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Agree = Callable[..., None]
"""The fixture ``agree``."""

RNG = np.random.RandomState(5)
X = RNG.uniform(-1, 1, (40, 6))
Y = np.array(["a", "b", "c"])[(X @ RNG.standard_normal((6, 3))).argmax(axis=1)]
CODES = np.unique(Y, return_inverse=True)[1]
VALUES = X @ RNG.standard_normal((6, 2))
WITH_NAN, WITH_INFINITY = X.copy(), X.copy()
WITH_NAN[3, 2], WITH_INFINITY[3, 2] = np.nan, np.inf


def classifier(library: Any, **params: Any) -> Any:
    defaults = {"hidden_layer_sizes": (8,), "max_iter": 5, "batch_size": 16, "random_state": 0}
    return library.MLPClassifier(**{**defaults, **params})


def regressor(library: Any, **params: Any) -> Any:
    defaults = {"hidden_layer_sizes": (8,), "max_iter": 5, "batch_size": 16, "random_state": 0}
    return library.MLPRegressor(**{**defaults, **params})


def learned(model: Any) -> list[NDArray[Any]]:
    return [*model.coefs_, *model.intercepts_]


def fingerprint(data: Any) -> bytes:
    """Return everything that a fit could change in its argument."""
    out = io.BytesIO()
    pickle.dump(data if isinstance(data, list) or hasattr(data, "tocsr") else np.asarray(data), out)
    flags = repr(data.flags) if isinstance(data, np.ndarray) else ""
    return out.getvalue() + flags.encode()
