"""Activation functions by name and as objects."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from .kernels import Activation as Code
from .kernels import ActivationFunction, activation_function, custom_function
from .ranges import check_whole

if TYPE_CHECKING:
    from .kernels.numba_custom import CustomFunction

Interval = tuple[float, float]

REALS = (-math.inf, math.inf)
"""The domain of a function that takes any number."""


@dataclass(frozen=True)
class Activation:
    """Base of the activation functions: immutable, compared by value.

    Attributes
    ----------
    name : str
    """

    @property
    def name(self) -> str:
        """The name that stands for this function with its usual parameters."""
        return _NAMES[type(self)]

    @property
    def pieces(self) -> int:
        """Of how many linear pieces a unit takes the maximum before (maxout)."""
        return 1

    def function(self, dtype: Any) -> ActivationFunction:
        """Return the function as the kernels take it, for arrays of ``dtype``."""
        return activation_function(Code[self.name.upper()])

    def spec(self) -> Any:
        """Return what it is made from: its name, or a dict with its name and parameters where one is unusual."""
        parameters = asdict(self)
        return self.name if self == type(self)() else {"name": self.name, **parameters}

    def __str__(self) -> str:
        return self.name if self == type(self)() else repr(self)


@dataclass(frozen=True)
class Identity(Activation):
    """a = z: the linear neuron (Porr (2), Cheng 9.2)."""


@dataclass(frozen=True)
class ReLU(Activation):
    """a = max(0, z) (P&P (4), Porr (23), Cheng table 1, Book 4.3.2).

    Parameters
    ----------
    grad_at_zero : float
        The derivative at 0, in [0, 1]: 0 as in scikit-learn and PyTorch (Cheng, Book 4.5.1), 1 as in SE's answer and
        Book 4.4, or anything between (Porr: "one needs to decide").

    Raises
    ------
    ValueError
        If ``grad_at_zero`` is out of its range.
    """

    grad_at_zero: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "grad_at_zero", _number_inside("grad_at_zero", self.grad_at_zero, 0, 1))

    def function(self, dtype: Any) -> ActivationFunction:
        code = Code.RELU_AT_ZERO if self.grad_at_zero else Code.RELU
        return activation_function(code, at_zero=self.grad_at_zero)


@dataclass(frozen=True)
class LeakyReLU(Activation):
    """a = z where z > 0, else beta z (Cheng table 1, Book 4.3.3).

    Parameters
    ----------
    beta : float
        Between 0 and 1.
    grad_at_zero : float, optional
        The derivative at 0, in [0, 1]; left out, beta, as in PyTorch.

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    beta: float = 0.01
    grad_at_zero: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", _number_inside("beta", self.beta, 0, 1, is_open=True))
        if self.grad_at_zero is not None:
            object.__setattr__(self, "grad_at_zero", _number_inside("grad_at_zero", self.grad_at_zero, 0, 1))

    def function(self, dtype: Any) -> ActivationFunction:
        return activation_function(Code.LEAKY_RELU, self.beta, self.grad_at_zero)


@dataclass(frozen=True)
class ELU(Activation):
    """a = z where z > 0, else beta (exp(z) - 1) (Cheng table 1).

    Parameters
    ----------
    beta : float
        Greater than 0; PyTorch's alpha.

    Raises
    ------
    ValueError
        If ``beta`` is out of its range.
    """

    beta: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "beta", _number_inside("beta", self.beta, 0, float("inf"), is_open=True))

    def function(self, dtype: Any) -> ActivationFunction:
        return activation_function(Code.ELU, self.beta)


@dataclass(frozen=True)
class SELU(Activation):
    """a = 1.0507 z where z > 0, else 1.7581 (exp(z) - 1) (Klambauer et al. 2017)."""


@dataclass(frozen=True)
class Logistic(Activation):
    """a = 1 / (1 + exp(-z)) (Cheng table 1, Book 4.3.1)."""


@dataclass(frozen=True)
class Tanh(Activation):
    """a = tanh z (Cheng table 1, Book 4.3.1)."""


@dataclass(frozen=True)
class Softplus(Activation):
    """a = log(1 + exp(z))."""


@dataclass(frozen=True)
class GELU(Activation):
    """a = z Phi(z), Phi the distribution function of N(0, 1) (Hendrycks & Gimpel 2016), exactly: not its tanh form."""


@dataclass(frozen=True)
class SiLU(Activation):
    """a = z / (1 + exp(-z))."""


@dataclass(frozen=True)
class Maxout(Activation):
    """a = max_j z_j over k linear pieces of each unit (Cheng table 1, Goodfellow et al. 2013).

    A layer of O units has weights (I, k O) and k O biases: columns j O to (j + 1) O are the pieces number j. The error
    goes to the largest piece, the first of equals.

    Parameters
    ----------
    k : int
        Number of pieces, at least 2.

    Raises
    ------
    ValueError
        If ``k`` is no whole number of at least 2.
    """

    k: int = 2

    def __post_init__(self) -> None:
        check_whole("k", self.k, 2)
        object.__setattr__(self, "k", int(self.k))

    @property
    def pieces(self) -> int:
        return self.k

    def function(self, dtype: Any) -> ActivationFunction:
        return activation_function(Code.IDENTITY)


@dataclass(frozen=True)
class Sign(Activation):
    """a = -1, 0 or 1: the perceptron's unit (Cheng 9.1). Its derivative is 0, so that nothing below it learns."""


@dataclass(frozen=True)
class Softmax(Activation):
    """a_k = exp(z_k) / sum_j exp(z_j), for the output layer (Cheng (5), Book 4.3.4)."""


@dataclass(frozen=True)
class Exp(Activation):
    """a = exp(z), for the output layer: a rate."""


@dataclass(frozen=True, repr=False)
class CustomActivation(Activation):
    """a = f(z) for a Python function of your own, compiled with its derivative (Book's learning outcomes).

    Automatic differentiation finds f'. Both are compiled by Numba, and computed by the backend `numba` alone. Variables
    from outside f keep the values that they have now. `Network` and the estimators make such an object of any Python
    function; made once and passed to several, it is compiled once.

    Parameters
    ----------
    f : callable
        Of one number, returning a number. It may compute with arithmetic, comparisons, branches, loops, functions of
        `math` and `numpy` on single numbers, and other functions of that kind. It may not raise or print.
    derivative : callable, optional
        f', as such a function too, where it is better written by hand.
    domain : tuple of float
        The interval of z that f is made for, inside which it is checked.

    Attributes
    ----------
    compiled : CustomFunction
        ``compiled.evaluate(z)`` returns f(z) and f'(z) as kernels compute them.

    Raises
    ------
    ValueError
        If f is no function of one number, cannot be compiled (the message names the line), is NaN or infinite in its
        domain, or has another derivative than its difference quotients show.
    ImportError
        If Numba is not installed.

    Examples
    --------
    >>> import math
    >>> import fastbp
    >>> swish = fastbp.CustomActivation(lambda z: z / (1 + math.exp(-z)))
    >>> net = fastbp.Network((4, 8, 2), swish, random_state=0)
    >>> net.backend
    'numba'
    """

    f: Callable[[Any], Any]
    derivative: Callable[[Any], Any] | None = field(default=None, kw_only=True)
    domain: Interval = field(default=REALS, kw_only=True)
    compiled: CustomFunction = field(init=False, compare=False)

    def __post_init__(self) -> None:
        compiled = custom_function("activation", self.f, derivative=self.derivative, domain=self.domain)
        object.__setattr__(self, "compiled", compiled)

    @property
    def name(self) -> str:
        return "custom"

    def function(self, dtype: Any) -> ActivationFunction:
        return activation_function(Code.CUSTOM, function=self.compiled.address(dtype))

    def spec(self) -> Any:
        """Return the object itself: no plain data can hold a function."""
        return self

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return f"CustomActivation({self.f.__name__})"


_KINDS: dict[str, type[Activation]] = {
    "identity": Identity,
    "relu": ReLU,
    "leaky_relu": LeakyReLU,
    "elu": ELU,
    "selu": SELU,
    "logistic": Logistic,
    "tanh": Tanh,
    "softplus": Softplus,
    "gelu": GELU,
    "silu": SiLU,
    "maxout": Maxout,
    "sign": Sign,
    "softmax": Softmax,
    "exp": Exp,
}
_NAMES = {kind: name for name, kind in _KINDS.items()}
_OUTPUT_ONLY = (Softmax, Exp)

OUTPUT_ACTIVATIONS = tuple(_KINDS)
"""Names of the activations of the output layer."""

HIDDEN_ACTIVATIONS = tuple(name for name, kind in _KINDS.items() if kind not in _OUTPUT_ONLY)
"""Names of the activations of hidden layers."""


def is_function(value: Any) -> bool:
    """Tell whether something is to be made a custom activation or loss."""
    return callable(value) and not isinstance(value, type)


def is_custom(activation: Any) -> bool:
    """Tell whether an activation, or one of a sequence of them, is a user's function."""
    if isinstance(activation, str):
        return False
    some = activation if isinstance(activation, list | tuple) else [activation]
    return any(isinstance(one, CustomActivation) or is_function(one) for one in some)


def as_activation(activation: Any, choices: tuple[str, ...], argument: str) -> Activation:
    """Return the activation function that a name, an object, a `Activation.spec` or a Python function stands for.

    Raises
    ------
    ValueError
        If it is not one of ``choices``, its parameters are out of range, or the function cannot be compiled.
    TypeError
        If it is none of these.
    """
    if isinstance(activation, dict):
        kind = _kind(activation.get("name"), choices, argument)
        parameters = {key: value for key, value in activation.items() if key != "name"}
        known = [field.name for field in fields(kind)]
        if not set(parameters) <= set(known):
            raise ValueError(f"{argument} is {activation!r}; {activation['name']!r} has the parameters {known}")
        activation = kind(**parameters)
    if isinstance(activation, str):
        _kind(activation, choices, argument)
        return _usual(activation)
    if is_function(activation):
        activation = CustomActivation(activation)
    if not isinstance(activation, Activation):
        raise TypeError(
            f"{argument} is a {type(activation).__name__}; pass a name or an object such as fastbp.LeakyReLU(0.05), or "
            "a Python function of one number"
        )
    if not isinstance(activation, CustomActivation):
        _kind(activation.name, choices, argument)
    return activation


@functools.cache
def _usual(name: str) -> Activation:
    """Return the function of a name, with its usual parameters."""
    return _KINDS[name]()


def as_hidden_activations(activation: Any, n_layers: int) -> tuple[Activation, ...]:
    """Return each hidden layer's activation function, from one for all or a sequence with one for each.

    Raises
    ------
    ValueError
        If a sequence has another length than there are hidden layers, or one is no activation of hidden layers.
    """
    argument = "hidden_activation"
    if isinstance(activation, Sequence) and not isinstance(activation, str):
        if len(activation) != n_layers:
            raise ValueError(f"{argument} has {len(activation)} entries; pass one for each of {n_layers} hidden layers")
        return tuple(as_activation(one, HIDDEN_ACTIVATIONS, argument) for one in activation)
    return (as_activation(activation, HIDDEN_ACTIVATIONS, argument),) * n_layers


def to_plain(activation: Any) -> Any:
    """Return plain data for an activation, or a sequence of them, as a user gave it: for files."""
    if isinstance(activation, list | tuple):
        return [to_plain(one) for one in activation]
    return activation.spec() if isinstance(activation, Activation) else activation


def from_plain(activation: Any) -> Any:
    """Return what `to_plain` was given, and Python functions compiled.

    Raises
    ------
    ValueError
        If it names no activation function, or parameters out of range, or a function cannot be compiled.
    """
    if isinstance(activation, list | tuple):
        return tuple(from_plain(one) for one in activation)
    if isinstance(activation, dict) or is_function(activation):
        return as_activation(activation, OUTPUT_ACTIVATIONS, "activation")
    return activation


def _kind(name: Any, choices: tuple[str, ...], argument: str) -> type[Activation]:
    if name not in choices:
        raise ValueError(f"{argument} is {name!r}; choose one of {', '.join(map(repr, choices))}")
    return _KINDS[name]


def _number_inside(name: str, value: Any, low: float, high: float, *, is_open: bool = False) -> float:
    """Return a number as a float of Python's, which files can hold, if it lies inside an interval."""
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not is_number or not (low < value < high if is_open else low <= value <= high):
        interval = f"({low}, {high})" if is_open else f"[{low}, {high}]"
        raise ValueError(f"{name} is {value!r}; pass a number in {interval}")
    return float(value)
