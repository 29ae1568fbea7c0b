"""Losses by name and as objects, and which output activations they go with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from .activations import OUTPUT_ACTIVATIONS, REALS, Interval, is_function
from .kernels import Activation, Loss, LossFunction, custom_function

if TYPE_CHECKING:
    from .kernels.numba_custom import CustomFunction


@dataclass(frozen=True, repr=False)
class CustomLoss:
    """A sample's loss sum_k f(a_k, y_k), f a Python function of your own, compiled (Book's learning outcomes).

    Automatic differentiation finds d f / d a, and what stands in `fastbp.CustomActivation` holds here, too. The loss
    goes with every output but sign. `Trainer` makes such an object of any Python function.

    Parameters
    ----------
    f : callable
        Of an output a and a target y, numbers both, returning a number.
    derivative : callable, optional
        d f / d a, as such a function too, where it is better written by hand.
    domain : tuple of float
        The interval of a, inside which f is checked: ``(0, 1)`` for probabilities, whose logarithms it takes.
    targets : tuple of float, optional
        The interval of y, with its ends where they are finite. Left out: that of a.
        `Trainer.fit` refuses others.

    Attributes
    ----------
    compiled : CustomFunction
        ``compiled.evaluate(a, y)`` returns f and d f / d a as kernels compute them.

    Raises
    ------
    ValueError
        As for `fastbp.CustomActivation`.
    ImportError
        If Numba is not installed.

    Examples
    --------
    >>> import math
    >>> import fastbp
    >>> net = fastbp.Network((4, 8, 1), output="identity", random_state=0)
    >>> trainer = fastbp.Trainer(net, loss=fastbp.CustomLoss(lambda a, y: math.log(math.cosh(a - y))))
    >>> trainer.backend
    'numba'
    """

    f: Callable[[Any, Any], Any]
    derivative: Callable[[Any, Any], Any] | None = field(default=None, kw_only=True)
    domain: Interval = field(default=REALS, kw_only=True)
    targets: Interval | None = field(default=None, kw_only=True)
    compiled: CustomFunction = field(init=False, compare=False)

    def __post_init__(self) -> None:
        intervals = {"domain": self.domain, "targets": self.targets}
        object.__setattr__(self, "compiled", custom_function("loss", self.f, derivative=self.derivative, **intervals))

    def function(self, dtype: Any) -> LossFunction:
        """Return the loss as the kernels take it, for arrays of ``dtype``."""
        return LossFunction(Loss.CUSTOM, self.compiled.address(dtype))

    def check_targets(self, y: NDArray[Any]) -> None:
        """Raise ValueError if targets lie outside their interval."""
        low, high = self.compiled.targets or REALS
        if y.min() < low or y.max() > high:
            raise ValueError(
                f"{self!r} is made for targets in [{low:g}, {high:g}], got {y.min():g} to {y.max():g}; pass such "
                "targets, or make the loss with targets=(low, high)"
            )

    def __repr__(self) -> str:
        return f"CustomLoss({self.f.__name__})"


_LOSSES = {
    "squared_error": {name: Loss.SQUARED_ERROR for name in (*OUTPUT_ACTIVATIONS, "custom") if name != "sign"},
    "cross_entropy": {"softmax": Loss.CROSS_ENTROPY, "logistic": Loss.BINARY_CROSS_ENTROPY},
    "poisson": {"exp": Loss.POISSON, "softplus": Loss.POISSON},
}
LOSSES = tuple(_LOSSES)
"""Names of the losses: squared error sum_k (a_k - y_k)^2 / 2; cross-entropy on softmax or logistic outputs; Poisson."""

_PAIRS = {
    (Loss.CROSS_ENTROPY, Activation.SOFTMAX),
    (Loss.BINARY_CROSS_ENTROPY, Activation.LOGISTIC),
    (Loss.POISSON, Activation.EXP),
}


def as_loss(loss: Any) -> str | CustomLoss:
    """Return a loss by name or as an object: a Python function compiled.

    Raises
    ------
    ValueError
        If the name is unknown, or the function cannot be compiled.
    """
    if is_function(loss):
        loss = CustomLoss(loss)
    if not isinstance(loss, CustomLoss) and loss not in LOSSES:
        names = ", ".join(map(repr, LOSSES))
        raise ValueError(f"loss is {loss!r}; choose one of {names}, or pass a Python function of output and target")
    return loss


def loss_function(loss: str | CustomLoss, output: str, dtype: Any) -> LossFunction:
    """Return a loss as the kernels take it, for an output activation and arrays of ``dtype``.

    Raises
    ------
    ValueError
        If the loss does not go with the output.
    """
    if isinstance(loss, CustomLoss) and output != "sign":
        return loss.function(dtype)
    outputs = {} if isinstance(loss, CustomLoss) else _LOSSES[loss]
    if output not in outputs:
        wanted = " or ".join(map(repr, outputs)) or "any other"
        fitting = ", ".join(repr(loss) for loss in LOSSES if output in _LOSSES[loss]) or "none: nothing learns below it"
        raise ValueError(
            f"loss {loss!r} does not go with output {output!r}: build the network with output {wanted}, "
            f"or choose a loss of {fitting}"
        )
    return LossFunction(outputs[output])


def is_pair(loss: Loss, output: Activation) -> bool:
    """Tell whether the kernels find d loss / d z at the output at once, without d loss / d a and act' one by one."""
    return (loss, output) in _PAIRS
