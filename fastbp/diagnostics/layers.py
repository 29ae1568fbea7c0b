"""What is measured layer by layer: norms of gradients and errors, units at zero, null weights."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..network import Network
from ..ranges import check_range
from .walk import Probe

Array = NDArray[Any]


class ByLayer:
    """Base of results with numbers for each layer with weights, from the first to the output layer."""

    def as_dict(self) -> dict[str, Array]:
        """Return the arrays of shape (L,), one number for each of L layers, by name."""
        arrays = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray) and array.ndim == 1}

    def table(self) -> None:
        """Print them on stdout: a table with colours on a terminal, plain lines elsewhere."""
        from ..terminal import show_table

        numbers = self.as_dict()
        columns = ["layer", *(name.replace("_", " ") for name in numbers)]
        rows = [
            (layer, *map(text, values)) for layer, values in enumerate(zip(*numbers.values(), strict=True), start=1)
        ]
        show_table(columns, rows, numbers=range(len(columns)))


def text(number: Any) -> str:
    """Return a number as tables show it."""
    if isinstance(number, bool | np.bool_):
        return "yes" if number else "no"
    return f"{number:.3g}" if isinstance(number, float | np.floating) else str(number)


@dataclass(frozen=True, eq=False)
class Norms(ByLayer):
    """How large gradients and errors are in each layer; see `norms`. All of shape (L,), dtype float64.

    Attributes
    ----------
    gradient_norm : ndarray
        ||grad_W||, the root of the sum of squares.
    bias_gradient_norm : ndarray
        ||grad_b||, of a normalised layer beta's; 0 without biases.
    relative_gradient : ndarray
        ||grad_W|| / ||W||.
    delta_norm : ndarray
        Root mean square over the samples of ||delta||, delta = d loss / d z: below batch normalisation, where there is
        any, and of all pieces of maxout units.
    gradient_ratio, delta_ratio : ndarray
        Of the norms to the output layer's: far below 1 in the first layers they vanish, far above they explode.
    """

    gradient_norm: Array
    bias_gradient_norm: Array
    relative_gradient: Array
    delta_norm: Array
    gradient_ratio: Array
    delta_ratio: Array


def norms(probe: Probe) -> Norms:
    """Measure gradients and errors by layer, to see whether they vanish or explode on their way down.

    Parameters
    ----------
    probe : Probe
        With targets.

    Returns
    -------
    Norms

    Raises
    ------
    ValueError
        If the probe has no targets.

    Notes
    -----
    Cheng 9.3, SE, Book 4.5.1. On its way down a layer the error is multiplied by W^T and act'. The logistic's act' is
    at most 0.25, so that delta shrinks to a quarter or less where ||W|| is 1; ReLU's is 0 or 1.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbp
    >>> from fastbp import diagnostics
    >>> net = fastbp.Network((4, 4, 4, 2), "logistic", random_state=0)
    >>> found = diagnostics.norms(diagnostics.probe(net, np.eye(4), np.array([0, 1, 0, 1])))
    >>> bool(found.delta_ratio[0] < found.delta_ratio[1] < 1)
    True
    """
    probe.need_targets("a norm of gradients")
    gradient = np.array([_norm(layer.grad_W) for layer in probe.layers])
    weights = np.array([_norm(layer.W) for layer in probe.layers])
    delta = np.array([_norm(layer.delta) for layer in probe.layers]) / np.sqrt(probe.n_samples)
    with np.errstate(divide="ignore", invalid="ignore"):  # a gradient of 0 has no ratio: NaN or infinity say so
        return Norms(
            gradient_norm=gradient,
            bias_gradient_norm=np.array([_norm(layer.grad_b) for layer in probe.layers]),
            relative_gradient=gradient / weights,
            delta_norm=delta,
            gradient_ratio=gradient / gradient[-1],
            delta_ratio=delta / delta[-1],
        )


@dataclass(frozen=True, eq=False)
class Zeros(ByLayer):
    """Units at zero in each layer; see `zeros`.

    Attributes
    ----------
    zero_activations : ndarray of shape (L,)
        Share of the activations, over samples and units, that are 0 before any is dropped: representational sparsity.
    dying_units : ndarray of shape (L,)
        Share of the units that are 0 for all samples.
    n_dying : ndarray of shape (L,), dtype int64
        How many these are.
    dying : tuple of ndarray of bool
        Of each layer, of shape (O,): which.
    """

    zero_activations: Array
    dying_units: Array
    n_dying: Array
    dying: tuple[NDArray[np.bool_], ...]


def zeros(probe: Probe) -> Zeros:
    """Count the activations that are zero, and the units that are zero for all samples of the probe.

    A unit whose activation and derivative are 0 for all inputs never learns again (dying ReLU). A probe can show this
    for its own samples only: take enough of them.

    Parameters
    ----------
    probe : Probe
        Targets are not needed.

    Returns
    -------
    Zeros

    Notes
    -----
    Cheng 9.3.2. Only what is exactly 0 counts: leaky ReLU, ELU, logistic and their kin have no such units. Units that
    dropout sets to 0 do not count, but those above them are computed from what is left; see `probe` for
    ``dropout=False``.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbp
    >>> from fastbp import diagnostics
    >>> net = fastbp.Network((2, 2, 1), output="identity", random_state=0)
    >>> net.weights[0][...] = [[1, -1], [1, -1]]
    >>> net.biases[0][...] = 0
    >>> diagnostics.zeros(diagnostics.probe(net, [[1.0, 2.0], [3.0, 4.0]])).dying[0]
    array([False,  True])
    """
    at_zero = [layer.a == 0 for layer in probe.layers]
    dying = tuple(layer.all(axis=0) for layer in at_zero)
    return Zeros(
        zero_activations=np.array([layer.mean() for layer in at_zero]),
        dying_units=np.array([layer.mean() for layer in dying]),
        n_dying=np.array([layer.sum() for layer in dying]),
        dying=dying,
    )


@dataclass(frozen=True, eq=False)
class NullWeights(ByLayer):
    """Weights of no effect in each layer; see `null_weights`. Biases and gammas do not count.

    Attributes
    ----------
    null_weights : ndarray of shape (L,)
        Share of the weights that are exactly 0.
    small_weights : ndarray of shape (L,)
        Share of those at most ``tolerance`` away from 0.
    n_null, n_weights : ndarray of shape (L,), dtype int64
        How many are exactly 0, and how many there are.
    tolerance : float
    """

    null_weights: Array
    small_weights: Array
    n_null: Array
    n_weights: Array
    tolerance: float


def null_weights(model: Network | Probe, tolerance: float = 1e-3) -> NullWeights:
    """Count null weight coefficients by layer.

    Parameters
    ----------
    model : Network or Probe
    tolerance : float
        At least 0: up to this magnitude a weight counts as small.

    Returns
    -------
    NullWeights

    Raises
    ------
    ValueError
        If ``tolerance`` is out of its range.

    Notes
    -----
    P&P, abstract: networks with ReLU "include a lot of null value of weight coefficients", which slow convergence.
    Gradient descent alone hardly makes a weight exactly 0, a penalty makes it small: hence both counts.

    Examples
    --------
    >>> import fastbp
    >>> net = fastbp.Network((2, 2, 1), output="identity", random_state=0)
    >>> net.weights[0][0] = 0
    >>> fastbp.diagnostics.null_weights(net).null_weights
    array([0.5, 0. ])
    """
    check_range("tolerance", tolerance, 0, np.inf, open_high=True)
    return NullWeights(
        null_weights=np.array([(W == 0).mean() for W in model.weights]),
        small_weights=np.array([(np.abs(W) <= tolerance).mean() for W in model.weights]),
        n_null=np.array([(W == 0).sum() for W in model.weights]),
        n_weights=np.array([W.size for W in model.weights]),
        tolerance=float(tolerance),
    )


def _norm(array: Array) -> float:
    """Return the root of the sum of squares, summed in float64: squares of float32 may overflow."""
    return float(np.linalg.norm(array.astype(np.float64).ravel()))
