"""The upper error valuation of Placzek & Placzek, beside the error itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..kernels import Activation, Loss, Op
from .layers import ByLayer
from .walk import Layer, Probe

Array = NDArray[Any]

_FUNCTIONS = (Activation.IDENTITY, Activation.RELU, Activation.RELU_AT_ZERO)
_OPERATIONS = {
    Op.GATHER_ROWS,
    Op.GATHER_CSR_ROWS,
    Op.GATHER_CLASSES,
    Op.LINEAR_FORWARD,
    Op.ACTIVATE,
    Op.OUTPUT_DELTA,
    Op.ACTIVATION_DELTA,
    Op.BACKPROP_DELTA,
    Op.LINEAR_GRAD,
}
_OBSTACLES = {
    Op.MAXOUT: "takes X = U where U is positive, and a maxout unit has several U; use identity and ReLU layers",
    Op.BATCH_NORM: "takes U = W X + b of each sample alone, and batch normalisation takes mean and variance of them "
    "all; build the network without batch_norm",
    Op.DROPOUT: "takes X = W X + b between the layers, where dropout stands; make the probe with dropout=False",
}
"""Why a plan with such a row has no valuation."""


@dataclass(frozen=True, eq=False)
class Valuation(ByLayer):
    """Error and valuation of each layer; see `valuation`.

    The arrays of shape (L,) are root mean squares over the samples of norms of vectors; the tuples hold the vectors, of
    shape (B, O) for each layer.

    Attributes
    ----------
    error : ndarray of shape (L,)
        Of the true E^l = d loss / d X^l.
    estimate : ndarray of shape (L,)
        Of B_l X^l, P&P's (13)-(18).
    exact : ndarray of shape (L,)
        Of B_l X^l - P_l^T (Y - c_l): the truth where ``holds``.
    masked_estimate, masked_exact : ndarray of shape (L,)
        The same with the ReLU masks of each sample; the second is always the truth.
    bound : ndarray of shape (L,)
        Of ||W^L||_2 ... ||W^(l+1)||_2 ||E^L||, which no error exceeds.
    chain_norm : ndarray of shape (L,)
        ||B_l||_2.
    positive : ndarray of shape (L,)
        Share of the U^l, over samples and units, that are at least 0, as (11) and (12) want them.
    holds : ndarray of shape (L,), dtype bool
        Whether all units of the layers above l have the derivative 1 throughout, so that (11), (12) hold down to l.
    errors, estimates, exacts, masked_estimates, masked_exacts : tuple of ndarray of shape (B, O)
    chain : tuple of ndarray of shape (O, O)
        B_l, without masks.
    """

    error: Array
    estimate: Array
    exact: Array
    masked_estimate: Array
    masked_exact: Array
    bound: Array
    chain_norm: Array
    positive: Array
    holds: NDArray[np.bool_]
    errors: tuple[Array, ...]
    estimates: tuple[Array, ...]
    exacts: tuple[Array, ...]
    masked_estimates: tuple[Array, ...]
    masked_exacts: tuple[Array, ...]
    chain: tuple[Array, ...]


def valuation(probe: Probe) -> Valuation:
    """Value each layer's error from above, as P&P do, and compare it with the error.

    P&P write columns, X^l = F(W^l X^(l-1)), with W^l of shape (outputs, inputs). Here samples are rows and W is
    (inputs, outputs), the transpose of theirs. With P_l = W^L ... W^(l+1) in their letters::

        E^L = X^L - Y,    E^(l-1) = (W^l)^T (F'(U^l) * E^l)            the error; theirs (5), (10)
        B_L = 1,          B_(l-1) = (W^l)^T B_l W^l                    the chain; theirs (18). Here B = W B W^T
        E^l ~ B_l X^l                                                  the estimate; theirs (16), (17)
        E^l = B_l X^l - P_l^T (Y - c_l)                                exact where F is the identity above l
        ||E^l|| <= ||W^L||_2 ... ||W^(l+1)||_2 ||E^L||                 always, for 0 <= F' <= 1

    Biases are no obstacle: X^L = P_l X^l + c_l, with c_l what the biases b^(l+1), ..., b^L alone bring to the output.
    P&P have none, so that c_l = 0. The estimate leaves it out as it leaves out Y. With masks each W^l stands behind the
    sample's own diagonal matrix F'(U^l); the exact form then holds for all samples.

    Parameters
    ----------
    probe : Probe
        With targets, squared error, identity and ReLU units only, without batch normalisation, dropout and sample
        weights.

    Returns
    -------
    Valuation
        Computed in float64 from the probe's arrays; the errors are the backend's.

    Raises
    ------
    ValueError
        If the probe is not as described: for other activations U is not X where it is positive, and for other losses
        E^L is not X^L - Y.

    Notes
    -----
    P&P (11)-(18). Where they err: (13) drops Y, so that B_l X^l is no bound, and not even near the error once the
    network has learnt: it then values the output, the error being its distance from Y. ||B_l|| ||X^l|| bounds nothing
    either: it is 0 where X^l is 0, and the error need not be. That E^1 "depends directly on X^0" does not follow from
    (16), where error and X are of the same layer; it takes (15) once more, which brings W^1 in. At U = 0 their (12)
    takes the derivative for 1, which is a choice (see `fastbp.ReLU`); ``holds`` goes by the network's own.

    Examples
    --------
    >>> import fastbp
    >>> from fastbp import diagnostics
    >>> net = fastbp.Network((1, 1, 1), output="relu", bias=False, dtype="float64")
    >>> net.parameters[...] = 2, 3
    >>> found = diagnostics.valuation(diagnostics.probe(net, [[1.0]], [5.0]))
    >>> found.estimate, found.exact, found.error  # X^2 = 6, E^2 = 6 - 5, E^1 = 3 E^2
    (array([18.,  6.]), array([3., 1.]), array([3., 1.]))
    """
    _check(probe)
    layers = probe.layers
    errors = _errors(probe)
    ones = [np.ones_like(layer.z, np.float64) for layer in layers]
    masks = [_derivative(layer) for layer in layers]
    estimates, exacts = _forms(probe, ones)
    masked_estimates, masked_exacts = _forms(probe, masks)
    spectral = [float(np.linalg.norm(layer.W.astype(np.float64), 2)) for layer in layers]
    factors = np.cumprod([1.0, *spectral[:0:-1]])[::-1]
    chain = _chain([layer.W.astype(np.float64) for layer in layers])
    is_one = np.array([bool((mask == 1).all()) for mask in masks])
    return Valuation(
        error=_rms(errors),
        estimate=_rms(estimates),
        exact=_rms(exacts),
        masked_estimate=_rms(masked_estimates),
        masked_exact=_rms(masked_exacts),
        bound=factors * _rms(errors)[-1],
        chain_norm=np.array([np.linalg.norm(B, 2) for B in chain]),
        positive=np.array([(layer.z >= 0).mean() for layer in layers]),
        holds=np.array([is_one[layer + 1 :].all() for layer in range(len(layers))]),
        errors=errors,
        estimates=estimates,
        exacts=exacts,
        masked_estimates=masked_estimates,
        masked_exacts=masked_exacts,
        chain=chain,
    )


def _check(probe: Probe) -> None:
    probe.need_targets("a valuation of the error")
    reason = _why_not(probe)
    if reason is not None:
        raise ValueError(f"the error valuation (P&P (11)-(18)) {reason}")


def _why_not(probe: Probe) -> str | None:
    others = [layer.activation.code.name.lower() for layer in probe.layers if layer.activation.code not in _FUNCTIONS]
    if others:
        return f"takes X = U where U is positive, which {others[0]!r} does not give; use identity and ReLU layers"
    if probe.loss_code != Loss.SQUARED_ERROR:
        return f"takes E^L = X^L - Y, which is squared error's; the loss is {probe.loss_code.name.lower()!r}"
    if probe.sample_weight.size:
        return "is of single samples, which weights only scale; make the probe without sample_weight"
    for op, reason in _OBSTACLES.items():
        if op in probe.operations:
            return reason
    more = sorted(op.name for op in probe.operations - _OPERATIONS)
    return f"takes X = W X + b between the layers, and this network has {', '.join(more)}" if more else None


def _errors(probe: Probe) -> tuple[Array, ...]:
    """Return E^l = d loss / d X^l of each layer, by the backend: what is sent down, without act' (P&P (5)(10))."""
    backend, last = kernels.backend(probe.backend), probe.layers[-1]
    errors = [np.empty_like(last.a)]
    backend.output_delta(last.a, probe.y, probe.sample_weight, Activation.IDENTITY, probe.loss_code, errors[0])
    for layer in probe.layers[:0:-1]:
        errors.insert(0, np.empty_like(layer.a_prev))
        backend.backprop_delta(layer.delta, layer.W, layer.a_prev, Activation.IDENTITY, errors[0])
    return tuple(errors)


def _derivative(layer: Layer) -> Array:
    """Return F'(U) as 0, 1, or what the network takes for it at 0. Then X = F'(U) U for each of these functions."""
    if layer.activation.code == Activation.IDENTITY:
        return np.ones_like(layer.z, np.float64)
    return np.where(layer.z > 0, 1.0, np.where(layer.z == 0, layer.activation.at_zero, 0.0))


def _chain(weights: list[Array]) -> tuple[Array, ...]:
    """Return B_1, ..., B_L: B_L = 1 and, in rows, B_(l-1) = W^l B_l W^l' (P&P (18))."""
    chain = [np.eye(weights[-1].shape[1])]
    for W in weights[:0:-1]:
        chain.insert(0, W @ chain[0] @ W.T)
    return tuple(chain)


def _forms(probe: Probe, masks: list[Array]) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    """Return B_l X^l and B_l X^l - P_l^T (Y - c_l) of each layer, W standing behind a mask of ones or of F'(U).

    B_l X^l is sent up to the output and down again: with masks B_l is another for each sample.
    """
    estimates, exacts = [], []
    for index, layer in enumerate(probe.layers):
        x, c = layer.a.astype(np.float64), np.zeros_like(layer.a, np.float64)
        above = list(zip(probe.layers, masks, strict=True))[index + 1 :]
        for upper, mask in above:
            x, c = (x @ upper.W) * mask, (c @ upper.W + (upper.b if upper.b.size else 0)) * mask
        rest = c - probe.y
        for upper, mask in reversed(above):
            x, rest = (x * mask) @ upper.W.T, (rest * mask) @ upper.W.T
        estimates.append(x)
        exacts.append(x + rest)
    return tuple(estimates), tuple(exacts)


def _rms(vectors: tuple[Array, ...]) -> Array:
    """Return the root mean square over the samples of their vectors' norms."""
    return np.array([np.sqrt(np.square(rows, dtype=np.float64).sum(axis=1).mean()) for rows in vectors])
