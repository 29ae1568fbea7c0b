"""Gradient check: what the backward operations return against central differences of the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import Activation, Loss
from ..layout import Layout
from ..network import Network
from ..ranges import check_range, check_whole
from .layers import text
from .walk import Batch, Layer, Probe, as_network

Array = NDArray[Any]

_KINKED = {
    Activation.RELU,
    Activation.RELU_AT_ZERO,
    Activation.LEAKY_RELU,
    Activation.ELU,
    Activation.SELU,
    Activation.SIGN,
}
"""Whose derivatives are not smooth at 0."""

_FINER = 0.01
"""How much finer the second step is, taken where the first crosses a kink or does not agree."""


@dataclass(frozen=True)
class BlockCheck:
    """What the check found in one block of parameters.

    Attributes
    ----------
    name : str
        ``"W1"``, ``"b1"``, ..., by layer; ``"gamma1"``, ... of layers with batch normalisation, whose beta is b.
    error : float
        The largest difference between gradient and difference quotient, relative to the largest gradient of the block.
    resolution : float
        What relative error rounding of the losses alone may bring about, an estimate: where it is above the tolerance,
        so much less is known.
    n_checked : int
        Parameters whose derivative was compared.
    n_left_out : int
        Parameters that were not, since a difference quotient is no derivative there: any step moves a pre-activation
        onto, off or across the kink of its activation, or makes another piece of a maxout unit the largest, or
        cross-entropy clips an output.
    worst : int
        Number, in the flat buffer, of the parameter with the largest error; -1 where none was compared.
    passed : bool
        Whether no error exceeds the tolerance and the resolution together.
    """

    name: str
    error: float
    resolution: float
    n_checked: int
    n_left_out: int
    worst: int
    passed: bool


@dataclass(frozen=True)
class GradientCheck:
    """Result of `check_gradient`.

    Attributes
    ----------
    blocks : tuple of BlockCheck
    tolerance : float
    """

    blocks: tuple[BlockCheck, ...]
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether all blocks passed."""
        return all(block.passed for block in self.blocks)

    @property
    def error(self) -> float:
        """The largest error of all blocks."""
        return max(block.error for block in self.blocks)

    def table(self) -> None:
        """Print the blocks on stdout, a line each."""
        from ..terminal import show_table

        columns = ("block", "largest error", "resolution", "checked", "left out", "passed")
        rows = [
            (block.name, *map(text, (block.error, block.resolution, block.n_checked, block.n_left_out, block.passed)))
            for block in self.blocks
        ]
        title = f"Gradient against central differences, tolerance {self.tolerance:g}"
        show_table(columns, rows, title=title, numbers=range(1, 5))


def check_gradient(
    model: Any,
    X: Any,
    y: Any,
    *,
    loss: Any = None,
    sample_weight: Any = None,
    alpha: float = 0.0,
    reduction: str = "mean",
    backend: str | None = None,
    dropout: bool = True,
    seed: int | None = None,
    per_block: int | None = 100,
    step: float = 1e-4,
    tolerance: float = 1e-6,
    random_state: int | np.random.Generator | None = 0,
) -> GradientCheck:
    """Compare a network's gradient with central differences of its loss, in float64.

    The derivative by a parameter p is taken for (8 (L(p+h) - L(p-h)) - (L(p+2h) - L(p-2h))) / (12 h), whose error is of
    order h^4. Where a pre-activation changes its sign between these points (or leaves 0) and its activation has a kink
    there, or another piece of a maxout unit becomes the largest, the quotient mixes two derivatives; it is then taken
    again with a hundredth of h, and if the kink is still between the points, the parameter is left out: which
    derivative holds there is a choice, not for quotients to check. The same finer step is tried where the two do not
    agree. All parameters are left out where a probability is so far off its target that cross-entropy clips it: the
    loss is flat there, and its gradient, on purpose, is not.

    The loss is that of a step of training: batch normalisation by the batch's own mean and variance, through which the
    gradient goes, and the same units dropped in every pass.

    Parameters
    ----------
    model, X, y, loss, sample_weight, alpha, reduction, backend, dropout, seed
        As for `probe`. A float32 network is checked with its parameters in float64.
    per_block : int, optional
        At most so many parameters of each layer's weights, biases and gammas are drawn and compared; None: all of them.
        Each takes four passes forward.
    step : float
        Of a parameter of magnitude 1 or less that meets inputs of magnitude 1 or less; scaled for others.
    tolerance : float
        Relative to the largest gradient of the block.
    random_state : None, int or numpy.random.Generator
        For the draw.

    Returns
    -------
    GradientCheck

    Raises
    ------
    ValueError, TypeError
        If an argument is not as described.

    Notes
    -----
    Cheng 9.2, SE, Book 4.6.2 (whose gradient is left to the reader), 4.7.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbp
    >>> net = fastbp.Network((4, 5, 3), "tanh", random_state=0)
    >>> found = fastbp.diagnostics.check_gradient(net, np.eye(4), np.array([0, 1, 2, 0]))
    >>> found.passed, found.error < 1e-9
    (True, True)
    """
    check_range("step", step, 0, 1, open_low=True)
    check_range("tolerance", tolerance, 0, np.inf, open_high=True)
    if per_block is not None:
        check_whole("per_block", per_block, 1)
    if y is None:
        raise ValueError("y is None; pass targets: without them there is no loss to differentiate")
    network = _in_float64(as_network(model))
    batch = Batch.of(model, network, X, y, loss, sample_weight, alpha, reduction, backend, dropout, seed)
    walk = batch.walk(network.buffer)
    walk.run()
    quotients = _Quotients(batch, network.buffer, batch.probe(walk))
    rng = np.random.default_rng(random_state)
    blocks = []
    for kind, index, numbers in _blocks(network.layout):
        drawn = numbers
        if per_block is not None and drawn.size > per_block:
            drawn = np.sort(rng.choice(drawn, per_block, replace=False))
        largest = float(np.abs(walk.gradient[numbers]).max())
        h = step / quotients.reach(kind, index)
        compared = [_compare(quotients, k, float(walk.gradient[k]), largest, h, tolerance) for k in drawn]
        blocks.append(_summary(f"{kind}{index + 1}", drawn, compared, tolerance))
    return GradientCheck(tuple(blocks), tolerance)


def _blocks(layout: Layout) -> list[tuple[str, int, NDArray[np.int64]]]:
    """Return the kind and the layer of each block of parameters, and the numbers of these in the flat buffer."""
    numbers = np.arange(layout.size)
    layers = range(layout.n_layers)
    kinds = {"W": (layers, layout.weights(numbers)), "gamma": (layout.normalized, layout.gammas(numbers))}
    if layout.bias:
        kinds["b"] = layers, layout.biases(numbers)
    return [
        (kind, index, block.ravel())
        for kind in ("W", "b", "gamma")
        if kind in kinds
        for index, block in zip(*kinds[kind], strict=True)
    ]


class _Quotients:
    """Difference quotients of a batch's loss, and what rounding may do to them."""

    def __init__(self, batch: Batch, params: Array, probe: Probe) -> None:
        self.batch, self.params, self.probe = batch, params.copy(), probe
        self.sides = _sides(probe.layers)
        products = [np.abs(layer.delta) * (np.abs(layer.a_prev) @ np.abs(layer.W)) for layer in probe.layers]
        products += [_through_norm(layer) for layer in probe.layers if layer.gamma.size]
        weight = probe.sample_weight[:, None] if probe.sample_weight.size else 1.0
        products.append(weight * _through_output(probe))
        self.is_clipped = _is_clipped(probe)
        with np.errstate(over="ignore"):  # then nothing is known, and the resolution says so
            size = abs(probe.loss) + probe.scale * float(np.sqrt(sum(np.square(one).sum() for one in products)))
        self.rounding = 4 * np.finfo(np.float64).eps * size  # of a loss, each product's error on its own

    def reach(self, kind: str, index: int) -> float:
        """Return how far a layer carries a step of its weights, biases or gammas, at least 1."""
        layer = self.probe.layers[index]
        if kind == "W":
            stretch = max(1.0, float(np.abs(layer.gamma * layer.rstd).max(initial=0.0)))
            return stretch * max(1.0, float(np.abs(layer.a_prev).max()))
        return max(1.0, float(np.abs(layer.normalized).max())) if kind == "gamma" else 1.0

    def central(self, k: int, h: float) -> tuple[float, float] | None:
        """Return the derivative by a parameter and how far rounding may move it; None where there is none."""
        if self.is_clipped:
            return None
        here, losses = self.params[k], []
        try:
            for factor in (1, -1, 2, -2):
                self.params[k] = here + factor * h
                walk = self.batch.walk(self.params)
                walk.run_to_loss()
                if _sides(self.batch.layers(walk)) != self.sides:
                    return None
                losses.append(walk.loss)
        finally:
            self.params[k] = here
        quotient = (8 * (losses[0] - losses[1]) - (losses[2] - losses[3])) / (12 * h)
        return quotient, 1.5 * self.rounding / h


def _sides(layers: tuple[Layer, ...]) -> list[bytes]:
    """Return on which side of their kinks all units are: the signs of u, or which piece is the largest."""
    kinked = [np.sign(layer.u).astype(np.int8) for layer in layers if layer.activation.code in _KINKED]
    return [side.tobytes() for side in (*kinked, *(layer.pieces.argmax(axis=1) for layer in layers if layer.is_maxout))]


def _compare(
    quotients: _Quotients, k: int, gradient: float, largest: float, step: float, tolerance: float
) -> tuple[float, float] | None:
    """Return the relative error of one parameter's gradient, and its resolution; None where it is left out."""
    h = step * max(1.0, abs(quotients.params[k]))
    found = None
    for h_now in (h, _FINER * h):
        central = quotients.central(k, h_now)
        if central is None:
            continue
        quotient, rounding = central
        scale = max(largest, abs(quotient))
        found = (0.0, 0.0)
        if scale:
            found = abs(gradient - quotient) / scale, rounding / scale
        if found[0] <= tolerance:
            break
    return found


def _through_norm(layer: Layer) -> Array:
    """Return what relative errors of z, of its mean and of u do to the loss; z may be far from 0, and near its mean."""
    return np.abs(layer.delta_u) * (np.abs(layer.gamma * layer.rstd * layer.z) + np.abs(layer.u))


def _through_output(probe: Probe) -> Array:
    """Return what relative errors of the outputs do to the loss, |a d loss / d a|, which is large near 1 - a = 0."""
    a, error = probe.layers[-1].a, np.abs(probe.layers[-1].a - probe.y)
    if probe.loss_code == Loss.SQUARED_ERROR:
        return error * np.abs(a)
    if probe.loss_code == Loss.BINARY_CROSS_ENTROPY:
        return error / np.maximum(1 - a, np.finfo(np.float64).eps)
    return error if probe.loss_code == Loss.POISSON else probe.y


def _is_clipped(probe: Probe) -> bool:
    """Tell whether cross-entropy clips a probability, to [eps, 1 - eps], that is not where its target is."""
    if probe.loss_code not in (Loss.CROSS_ENTROPY, Loss.BINARY_CROSS_ENTROPY):
        return False
    a, eps = probe.layers[-1].a, np.finfo(np.float64).eps
    return bool((((a < eps) | (a > 1 - eps)) & (np.abs(a - probe.y) > eps)).any())


def _summary(name: str, drawn: Array, compared: list[tuple[float, float] | None], tolerance: float) -> BlockCheck:
    known = [(error, limit, int(k)) for k, pair in zip(drawn, compared, strict=True) if pair for error, limit in [pair]]
    error, _, worst = max(known, default=(0.0, 0.0, -1))
    return BlockCheck(
        name=name,
        error=error,
        resolution=max((limit for _, limit, _ in known), default=0.0),
        n_checked=len(known),
        n_left_out=len(drawn) - len(known),
        worst=worst,
        passed=all(error <= tolerance + limit for error, limit, _ in known),
    )


def _in_float64(network: Network) -> Network:
    """Return a copy of a network whose parameters are float64."""
    copy = Network(**{**network.spec(), "dtype": "float64"}, initializer="zeros", backend=network.backend)
    copy.buffer[...] = network.buffer
    return copy
