"""Initial weights and biases: what a network's layers are drawn from, by name or as objects.

With f inputs and o outputs of a layer (fan-in and fan-out; Book: m_(l-1) and m_l):

=============  =====================  ==========================================================================
name           variance of a weight   source
=============  =====================  ==========================================================================
glorot_*       2 / (f + o)            Cheng table 2 (tanh, logistic: "Xavier"), Book 4.5.2, third heuristic
he_*           2 / f                  Cheng table 2 (ReLU), Book 4.5.2, k = 2
lecun_*        1 / f                  Book 4.5.2, k = 1 (tanh; the book calls it Xavier)
normal         1                      Book 4.5.1: the standard normal distribution
uniform        1 / 3                  on [-1, 1]
zeros          0                      Book 4.5.1: hidden units stay equal, the symmetry is never broken
orthogonal     1 / max(f, o)          Saxe et al. (2014): rows or columns are orthonormal
sklearn        2 / (f + o), or less   scikit-learn's: glorot_uniform, biases too; a third of it if logistic
=============  =====================  ==========================================================================

``*_uniform`` draws on [-r, r] with r = sqrt(3 variance), ``*_normal`` from the normal distribution, untruncated.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .ranges import check_range


class Layer(NamedTuple):
    """What an initialiser knows of a layer."""

    fan_in: int
    fan_out: int
    hidden_activation: str


@dataclass(frozen=True)
class Initializer:
    """Base of the initialisers: immutable; a subclass has `draw`.

    Parameters
    ----------
    bias : float, str, Initializer or None
        How biases begin: all at a number, or drawn by another initialiser; None: drawn as the weights are.

    Raises
    ------
    ValueError
        If the bias is not as described, or not finite.
    """

    bias: float | str | Initializer | None = field(default=0.0, kw_only=True)

    def __post_init__(self) -> None:
        bias = as_initializer(self.bias) if isinstance(self.bias, str) else self.bias
        if isinstance(self if bias is None else bias, Orthogonal):
            raise ValueError("a bias is no matrix and cannot be orthogonal; choose a number or another initialiser")
        if bias is not None and not isinstance(bias, Initializer):
            check_range("bias", bias, -np.inf, np.inf, open_low=True, open_high=True)
        object.__setattr__(self, "bias", bias)

    def draw(self, shape: tuple[int, ...], layer: Layer, random_state: np.random.RandomState) -> NDArray[np.float64]:
        """Draw a layer's weights, or its biases.

        Parameters
        ----------
        shape : tuple of int
            (fan_in, fan_out) for weights, (fan_out,) for biases.
        layer : Layer
        random_state : numpy.random.RandomState

        Returns
        -------
        ndarray of this shape, dtype float64
        """
        raise NotImplementedError(f"{type(self).__name__} has no method draw; a subclass of Initializer needs one")

    def draw_layer(
        self, layer: Layer, random_state: np.random.RandomState
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Draw first the weights W of shape (fan_in, fan_out), then the bias b of shape (fan_out,)."""
        W = self.draw((layer.fan_in, layer.fan_out), layer, random_state)
        if self.bias is None or isinstance(self.bias, Initializer):
            return W, (self.bias or self).draw((layer.fan_out,), layer, random_state)
        return W, np.full(layer.fan_out, float(self.bias))


@dataclass(frozen=True)
class SklearnUniform(Initializer):
    """As scikit-learn draws: on [-r, r], r = sqrt(6 / (fan_in + fan_out)), 2 for 6 where hidden units are logistic.

    Cheng table 2 (Xavier, uniform). The biases are drawn too, from the same interval. A network of float64 has the bits
    of an estimator with the same seed.

    Parameters
    ----------
    bias : float, str, Initializer or None
        As for `Initializer`; None: as scikit-learn does.
    """

    bias: float | str | Initializer | None = field(default=None, kw_only=True)

    def draw(self, shape: tuple[int, ...], layer: Layer, random_state: np.random.RandomState) -> NDArray[np.float64]:
        factor = 2.0 if layer.hidden_activation == "logistic" else 6.0
        bound = np.sqrt(factor / (layer.fan_in + layer.fan_out))
        return random_state.uniform(-bound, bound, shape)


@dataclass(frozen=True)
class _Gained(Initializer):
    """Base of those that take a factor for all weights."""

    gain: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("gain", self.gain, 0, np.inf, open_low=True, open_high=True)


@dataclass(frozen=True)
class GlorotUniform(_Gained):
    """Uniform on [-r, r], r = gain sqrt(6 / (fan_in + fan_out)): Cheng table 2 (Xavier, uniform).

    Parameters
    ----------
    gain : float
        Greater than 0.
    bias : float, str, Initializer or None
        As for `Initializer`.
    """

    def draw(self, shape: tuple[int, ...], layer: Layer, random_state: np.random.RandomState) -> NDArray[np.float64]:
        bound = self.gain * np.sqrt(6 / (layer.fan_in + layer.fan_out))
        return random_state.uniform(-bound, bound, shape)


@dataclass(frozen=True)
class GlorotNormal(_Gained):
    """Normal of variance gain^2 2 / (fan_in + fan_out): Cheng table 2 (Xavier, normal), Book 4.5.2.

    Parameters are those of `GlorotUniform`.
    """

    def draw(self, shape: tuple[int, ...], layer: Layer, random_state: np.random.RandomState) -> NDArray[np.float64]:
        return random_state.normal(0.0, self.gain * np.sqrt(2 / (layer.fan_in + layer.fan_out)), shape)


@dataclass(frozen=True)
class _ForRelu(Initializer):
    """Base of He's: k = 2 / (1 + negative_slope^2), which is Book 4.5.2's 2 for ReLU."""

    negative_slope: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("negative_slope", self.negative_slope, 0, np.inf, open_high=True)

    @property
    def _k(self) -> float:
        return 2 / (1 + self.negative_slope**2)


@dataclass(frozen=True)
class HeUniform(_ForRelu):
    """Uniform on [-r, r], r = sqrt(3 k / fan_in), k = 2 / (1 + negative_slope^2): Cheng table 2 (ReLU), Book 4.5.2.

    Parameters
    ----------
    negative_slope : float
        At least 0: of a leaky ReLU (He et al. 2015, (15)).
    bias : float, str, Initializer or None
        As for `Initializer`.
    """

    def draw(self, shape: tuple[int, ...], layer: Layer, random_state: np.random.RandomState) -> NDArray[np.float64]:
        bound = np.sqrt(3 * self._k / layer.fan_in)
        return random_state.uniform(-bound, bound, shape)


@dataclass(frozen=True)
class HeNormal(_ForRelu):
    """Normal of variance k / fan_in, k = 2 / (1 + negative_slope^2): Cheng table 2 (ReLU), Book 4.5.2.

    Parameters are those of `HeUniform`.
    """

    def draw(self, shape: tuple[int, ...], layer: Layer, random_state: np.random.RandomState) -> NDArray[np.float64]:
        return random_state.normal(0.0, np.sqrt(self._k / layer.fan_in), shape)


@dataclass(frozen=True)
class LeCunUniform(Initializer):
    """Uniform on [-r, r], r = sqrt(3 / fan_in): variance k / fan_in with Book 4.5.2's k = 1 for tanh."""

    def draw(self, shape: tuple[int, ...], layer: Layer, random_state: np.random.RandomState) -> NDArray[np.float64]:
        bound = np.sqrt(3 / layer.fan_in)
        return random_state.uniform(-bound, bound, shape)


@dataclass(frozen=True)
class LeCunNormal(Initializer):
    """Normal of variance 1 / fan_in: Book 4.5.2's k = 1 for tanh."""

    def draw(self, shape: tuple[int, ...], layer: Layer, random_state: np.random.RandomState) -> NDArray[np.float64]:
        return random_state.normal(0.0, np.sqrt(1 / layer.fan_in), shape)


@dataclass(frozen=True)
class Normal(Initializer):
    """Normal of a given standard deviation, whatever the layer's size (Book 4.5.1: 1).

    Parameters
    ----------
    std : float
        At least 0.
    bias : float, str, Initializer or None
        As for `Initializer`.
    """

    std: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("std", self.std, 0, np.inf, open_high=True)

    def draw(self, shape: tuple[int, ...], layer: Layer, random_state: np.random.RandomState) -> NDArray[np.float64]:
        return random_state.normal(0.0, self.std, shape)


@dataclass(frozen=True)
class Uniform(Initializer):
    """Uniform on [-bound, bound], whatever the layer's size.

    Parameters
    ----------
    bound : float
        At least 0, and not so large that 2 bound is infinite.
    bias : float, str, Initializer or None
        As for `Initializer`.
    """

    bound: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("bound", self.bound, 0, float(np.finfo(np.float64).max) / 2)

    def draw(self, shape: tuple[int, ...], layer: Layer, random_state: np.random.RandomState) -> NDArray[np.float64]:
        return random_state.uniform(-self.bound, self.bound, shape)


@dataclass(frozen=True)
class Constant(Initializer):
    """The same number for all weights: hidden units begin equal and stay so (Book 4.5.1).

    Parameters
    ----------
    value : float
    bias : float, str, Initializer or None
        As for `Initializer`.
    """

    value: float

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("value", self.value, -np.inf, np.inf, open_low=True, open_high=True)

    def draw(self, shape: tuple[int, ...], layer: Layer, random_state: np.random.RandomState) -> NDArray[np.float64]:
        return np.full(shape, float(self.value))


@dataclass(frozen=True)
class Zeros(Initializer):
    """Zero for all weights, as one begins a network without hidden layers (with them: Book 4.5.1)."""

    def draw(self, shape: tuple[int, ...], layer: Layer, random_state: np.random.RandomState) -> NDArray[np.float64]:
        return np.zeros(shape)


@dataclass(frozen=True)
class Orthogonal(_Gained):
    """Orthonormal rows or columns, whichever are fewer, times a gain; uniformly distributed among all such matrices.

    The QR decomposition of a matrix from the standard normal distribution, its columns given the signs of R's diagonal
    (Mezzadri 2007), as `torch.nn.init.orthogonal_` does. The last bits depend on the LAPACK that NumPy has.

    Parameters
    ----------
    gain : float
        Greater than 0.
    bias : float, str or Initializer
        As for `Initializer`; a bias cannot be orthogonal, so it cannot be None.
    """

    def draw(self, shape: tuple[int, ...], layer: Layer, random_state: np.random.RandomState) -> NDArray[np.float64]:
        Q, R = np.linalg.qr(random_state.standard_normal((max(shape), min(shape))))
        Q *= np.where(np.diag(R) < 0, -self.gain, self.gain)
        return Q if shape[0] >= shape[1] else Q.T


INITIALIZERS: dict[str, type[Initializer]] = {
    "sklearn": SklearnUniform,
    "glorot_uniform": GlorotUniform,
    "glorot_normal": GlorotNormal,
    "he_uniform": HeUniform,
    "he_normal": HeNormal,
    "lecun_uniform": LeCunUniform,
    "lecun_normal": LeCunNormal,
    "normal": Normal,
    "uniform": Uniform,
    "zeros": Zeros,
    "orthogonal": Orthogonal,
}
"""Initialisers by name; `Constant` has none, for it needs its value."""


def as_initializer(initializer: Any) -> Initializer:
    """Return the initialiser that a name or an object stands for.

    Raises
    ------
    ValueError
        If the name is unknown.
    TypeError
        If it is neither a name nor an initialiser.
    """
    if isinstance(initializer, Initializer):
        return initializer
    if not isinstance(initializer, str):
        raise TypeError(
            f"an initializer is a {type(initializer).__name__}; pass a name or an object such as "
            "fastbp.initializers.HeNormal(), or one for each layer"
        )
    if initializer not in INITIALIZERS:
        names = ", ".join(map(repr, INITIALIZERS))
        raise ValueError(f"unknown initializer {initializer!r}; choose one of {names}, or pass an object")
    return INITIALIZERS[initializer]()


def as_initializers(initializer: Any, n_layers: int) -> list[Initializer]:
    """Return an initialiser for each layer: one for all, or one each.

    Raises
    ------
    ValueError
        If a name is unknown, or there are more or fewer than layers.
    TypeError
        If one is neither a name nor an initialiser.
    """
    if isinstance(initializer, str | Initializer) or not isinstance(initializer, Iterable):
        return [as_initializer(initializer)] * n_layers
    initializers = [as_initializer(each) for each in initializer]
    if len(initializers) != n_layers:
        raise ValueError(
            f"there are {len(initializers)} initializers, but {n_layers} layers with weights; pass one for all, "
            f"or {n_layers}"
        )
    return initializers


def draw_layers(
    initializers: list[Initializer],
    shapes: list[tuple[int, int]],
    pieces: list[int],
    hidden_activations: list[str],
    random_state: np.random.RandomState,
    dtype: np.dtype[Any],
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Draw the weights and biases of all layers in float64, from the first layer up, and round them.

    The pieces of maxout units are linear layers side by side, each drawn like any other.

    Parameters
    ----------
    initializers : list of Initializer
        One for each layer.
    shapes : list of (int, int)
        Inputs and units of each layer.
    pieces : list of int
        How many each unit of a layer has; 1: it is no maxout unit.
    hidden_activations : list of str
        Names, at least as many as layers.
    random_state : numpy.random.RandomState
    dtype : numpy.float32 or numpy.float64

    Returns
    -------
    list of (W, b)
        Arrays of shape (inputs, units times pieces) and (units times pieces,).

    Raises
    ------
    ValueError
        If what was drawn has another shape, or is not finite in the dtype.
    """
    drawn = []
    for number, (initializer, shape, n_pieces) in enumerate(zip(initializers, shapes, pieces, strict=True), 1):
        layer = Layer(*shape, hidden_activations[number - 1])
        parts = [_draw_layer(initializer, layer, number, random_state, dtype) for _ in range(n_pieces)]
        drawn.append((np.hstack([W for W, _ in parts]), np.hstack([b for _, b in parts])))
    return drawn


def _draw_layer(
    initializer: Initializer, layer: Layer, number: int, random_state: np.random.RandomState, dtype: np.dtype[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Draw a layer, or a piece of one, and check what was drawn."""
    shape = layer[:2]
    with np.errstate(over="ignore"):
        W, b = (np.asarray(values).astype(dtype) for values in initializer.draw_layer(layer, random_state))
    if (W.shape, b.shape) != (shape, shape[1:]):
        raise ValueError(f"{initializer!r} drew shapes {W.shape} and {b.shape}; layer {number} needs {shape}")
    if not (np.isfinite(W).all() and np.isfinite(b).all()):
        raise ValueError(f"{initializer!r} drew values for layer {number} that are not finite in {dtype}")
    return W, b


def as_random_state(random_state: Any) -> np.random.RandomState:
    """Return a `numpy.random.RandomState` from None, a seed or such an object, as scikit-learn does.

    Raises
    ------
    ValueError
        If ``random_state`` is none of them.
    """
    if random_state is None:
        return np.random.RandomState()
    if isinstance(random_state, np.random.RandomState):
        return random_state
    if isinstance(random_state, int | np.integer) and not isinstance(random_state, bool):
        return np.random.RandomState(random_state)
    raise ValueError(f"random_state is {random_state!r}; pass None, a whole number, or a numpy.random.RandomState")
