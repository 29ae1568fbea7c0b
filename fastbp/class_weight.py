"""Weights of classes: factors of the samples' weights, as scikit-learn's `compute_class_weight` has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kernels import Activation
from .ranges import check_range


def weigh_classes(class_weight: Any, data: Mapping[str, NDArray[Any]], output: Activation) -> NDArray[Any]:
    """Return the sample weights times the weights of the samples' classes.

    Parameters
    ----------
    class_weight : "balanced" or dict of int to float
        Balanced: n / (K n_k) for a class with n_k of the n samples, where K classes occur. A class that is not in the
        dict weighs 1.
    data : dict
        A run's buffers: ``y`` of shape (n, O) or ``classes`` of shape (n,), and ``sample_weight`` of shape (n, 1), or
        (0, 1) where samples weigh the same.
    output : Activation

    Returns
    -------
    ndarray of shape (n, 1), dtype of ``sample_weight``

    Raises
    ------
    ValueError
        If y are no classes, a key is none of them, a weight is negative or not finite, or all samples weigh 0.
    TypeError
        If the weights are neither of the two.
    """
    numbers, n_classes = _class_numbers(data, output)
    weights = _weights(class_weight, numbers, n_classes)[numbers][:, None]
    given = data["sample_weight"]
    with np.errstate(over="ignore"):
        weights = (weights * given if given.size else weights).astype(given.dtype)
    if not np.isfinite(weights).all() or not weights.any():
        raise ValueError(
            f"with class_weight={class_weight!r} all samples weigh 0, or one is too heavy for {given.dtype}; "
            "pass other weights"
        )
    return weights


def _class_numbers(data: Mapping[str, NDArray[Any]], output: Activation) -> tuple[NDArray[np.int64], int]:
    """Return each sample's class, and how many classes there are."""
    y = data["y"]
    if data["classes"].size:
        return data["classes"], y.shape[1]
    is_binary = ((y == 0) | (y == 1)).all()
    if is_binary and output == Activation.LOGISTIC and y.shape[1] == 1:
        return y[:, 0].astype(np.int64), 2
    if is_binary and output == Activation.SOFTMAX and (y.sum(axis=1) == 1).all():
        return y.argmax(axis=1), y.shape[1]
    raise ValueError(
        f"class_weight needs a class for each sample, but y holds other targets of shape {y.shape} beside output "
        f"{output.name.lower()!r}; pass class numbers, one-hot rows for softmax, 0 and 1 for one logistic output, or "
        "sample_weight instead"
    )


def _weights(class_weight: Any, numbers: NDArray[np.int64], n_classes: int) -> NDArray[np.float64]:
    """Return the weight of each class."""
    if isinstance(class_weight, str) and class_weight == "balanced":
        counts = np.bincount(numbers, minlength=n_classes)
        return len(numbers) / (np.count_nonzero(counts) * np.maximum(counts, 1.0))
    if isinstance(class_weight, str) or not isinstance(class_weight, Mapping):
        raise TypeError(f"class_weight is {class_weight!r}; pass None, 'balanced', or a dict from class to weight")
    weights = np.ones(n_classes)
    for key, weight in class_weight.items():
        if not isinstance(key, int | float | np.number) or key not in range(n_classes):
            raise ValueError(
                f"class_weight has the key {key!r}; pass weights of the class numbers 0 to {n_classes - 1}"
            )
        check_range(f"class_weight[{key!r}]", weight, 0, np.inf, open_high=True)
        weights[int(key)] = weight
    return weights
