"""Losses by name, and which output activations they go with."""

from __future__ import annotations

from .activations import OUTPUT_ACTIVATIONS
from .kernels import Activation, Loss

_LOSSES = {
    "squared_error": {name: Loss.SQUARED_ERROR for name in OUTPUT_ACTIVATIONS if name != "sign"},
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


def as_loss(name: str, output: str) -> Loss:
    """Return the code of a loss for an output activation.

    Raises
    ------
    ValueError
        If the name is unknown, or the loss does not go with the output.
    """
    if name not in _LOSSES:
        raise ValueError(f"loss is {name!r}; choose one of {', '.join(map(repr, LOSSES))}")
    if output not in _LOSSES[name]:
        outputs = " or ".join(map(repr, _LOSSES[name]))
        fitting = ", ".join(repr(loss) for loss in LOSSES if output in _LOSSES[loss]) or "none: nothing learns below it"
        raise ValueError(
            f"loss {name!r} does not go with output {output!r}: build the network with output {outputs}, "
            f"or choose a loss of {fitting}"
        )
    return _LOSSES[name][output]


def is_pair(loss: Loss, output: Activation) -> bool:
    """Tell whether the kernels find d loss / d z at the output at once, without d loss / d a and act' one by one."""
    return (loss, output) in _PAIRS
