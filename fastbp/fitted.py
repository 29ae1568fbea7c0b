"""What an estimator has learned: arrays under scikit-learn's names, batch normalisation's beside them, one buffer."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .activations import as_hidden_activations
from .layers import BatchNorm, as_batch_norm
from .layout import Layout

BATCH_NORM = {"batch_norm_scales_": 1, "batch_norm_means_": 0, "batch_norm_variances_": 1}
"""Attributes with an array for each normalised layer, and what it begins with: gamma, running mean and variance."""

NAMES = ("coefs_", "intercepts_", *BATCH_NORM)
"""Attributes that hold what was learned, in the flat buffer's order; a normalised layer's beta is its intercept."""


def best_name(name: str) -> str:
    """Return where early stopping keeps the best of an attribute, by scikit-learn's rule."""
    return f"_best_{name.removesuffix('_')}"


def layout_of(estimator: Any) -> Layout:
    """Return the layout of a fitted estimator: its ``coefs_`` tell the sizes, its parameters the rest."""
    shapes = [np.shape(W) for W in estimator.coefs_]
    pieces = [one.pieces for one in as_hidden_activations(estimator._compiled_activation(), len(shapes) - 1)]
    units = [shape[-1] // k for shape, k in zip(shapes, (*pieces, 1), strict=True)]
    return layout_for(estimator, (shapes[0][0], *units))


def layout_for(estimator: Any, layer_sizes: tuple[int, ...]) -> Layout:
    """Return the layout of layers of these sizes with an estimator's activations and batch normalisation."""
    n_hidden = len(layer_sizes) - 2
    pieces = [one.pieces for one in as_hidden_activations(estimator._compiled_activation(), n_hidden)]
    return _layout(layer_sizes, (*pieces, 1), (*as_batch_norm(estimator.batch_norm, n_hidden), None))


@functools.lru_cache(maxsize=64)
def _layout(layer_sizes: tuple[int, ...], pieces: tuple[int, ...], batch_norm: tuple[BatchNorm | None, ...]) -> Layout:
    """Return a layout: what it knows of its offsets is kept from fit to fit."""
    return Layout(layer_sizes, True, pieces, batch_norm)


def arrays_of(estimator: Any, layout: Layout) -> list[NDArray[Any]]:
    """Return what was learned in the buffer's order: users may have replaced it, by what fits a layout.

    Raises
    ------
    ValueError
        If shapes are others than the layout's.
    """
    lists = [[np.asanyarray(array) for array in getattr(estimator, name, ())] for name in NAMES]
    shapes = [[array.shape for array in arrays] for arrays in lists]
    wanted = shapes_of(layout)
    if shapes[:2] != wanted[:2]:
        got, fitting = [*shapes[0], *shapes[1]], [*wanted[0], *wanted[1]]
        raise ValueError(f"coefs_ and intercepts_ have shapes {got}; replace them by arrays of shapes {fitting}")
    if shapes != wanted:
        raise ValueError(
            f"{', '.join(BATCH_NORM)} have shapes {shapes[2:]}, but batch_norm={estimator.batch_norm!r} wants "
            f"{wanted[2:]}; set batch_norm to what the estimator was fitted with, or call fit to begin anew"
        )
    return [array for arrays in lists for array in arrays]


def shapes_of(layout: Layout) -> list[list[tuple[int, ...]]]:
    """Return the shapes of the arrays in each of `NAMES`."""
    vectors: list[tuple[int, ...]] = [(width,) for width in layout.widths]
    return [list(layout.shapes), vectors, *[[vectors[layer] for layer in layout.normalized]] * len(BATCH_NORM)]


def views_of(layout: Layout, flat: NDArray[Any]) -> dict[str, list[NDArray[Any]]]:
    """Return the attributes that hold what was learned, as views into a flat buffer."""
    return by_name(layout, [*layout.parameters(flat), *layout.running(flat)])


def by_name(layout: Layout, arrays: list[NDArray[Any]]) -> dict[str, list[NDArray[Any]]]:
    """Return arrays in the buffer's order under the attributes that hold them: batch normalisation's where it is."""
    n, n_normalized = layout.n_layers, len(layout.normalized)
    names = NAMES if n_normalized else NAMES[:2]
    ends = np.cumsum([0, n, n, *[n_normalized] * len(BATCH_NORM)]).tolist()
    return {name: arrays[start:end] for name, start, end in zip(names, ends, ends[1:], strict=False)}


def keep_best(estimator: Any) -> None:
    """Keep a copy of what was learned as the best so far."""
    for name in NAMES:
        if hasattr(estimator, name):
            setattr(estimator, best_name(name), [array.copy() for array in getattr(estimator, name)])


def fold_batch_norm(source: Any, target: Any) -> None:
    """Give ``target`` the weights and biases that predict without batch normalisation what ``source`` does with it.

    gamma (a W - mean) / r + beta = a (W gamma / r) + (beta - mean gamma / r), where r = sqrt(variance + epsilon). They
    are the best so far, too.
    """
    layout = layout_of(source)
    coefs, intercepts, *known = (list(getattr(source, name)) for name in NAMES)
    for layer, gamma, mean, variance in zip(layout.normalized, *known, strict=True):
        W, beta, norm = coefs[layer], intercepts[layer], layout.norms[layer]
        factor = gamma / np.sqrt(variance.astype(np.float64) + (0.0 if norm is None else norm.epsilon))
        coefs[layer], intercepts[layer] = (W * factor).astype(W.dtype), (beta - mean * factor).astype(beta.dtype)
    for name, arrays in (("coefs_", coefs), ("intercepts_", intercepts)):
        for attribute in (name, best_name(name)):
            setattr(target, attribute, [array.copy() for array in arrays])
