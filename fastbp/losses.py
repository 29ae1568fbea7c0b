"""Losses and activations by name, and which of them go together."""

from __future__ import annotations

from .kernels import Activation, Loss

HIDDEN_ACTIVATIONS = ("identity", "relu", "logistic", "tanh")
"""Names of the activations of hidden layers."""

OUTPUT_ACTIVATIONS = (*HIDDEN_ACTIVATIONS, "softmax", "exp")
"""Names of the activations of the output layer."""

_LOSSES = {
    "squared_error": dict.fromkeys(OUTPUT_ACTIVATIONS, Loss.SQUARED_ERROR),
    "cross_entropy": {"softmax": Loss.CROSS_ENTROPY, "logistic": Loss.BINARY_CROSS_ENTROPY},
    "poisson": {"exp": Loss.POISSON},
}
LOSSES = tuple(_LOSSES)
"""Names of the losses: squared error sum_k (a_k - y_k)^2 / 2; cross-entropy on softmax or logistic outputs; Poisson."""


def as_activation(name: str, choices: tuple[str, ...], argument: str) -> Activation:
    """Return the code of an activation.

    Raises
    ------
    ValueError
        If the name is not one of ``choices``.
    """
    if name not in choices:
        raise ValueError(f"{argument} is {name!r}; choose one of {', '.join(map(repr, choices))}")
    return Activation[name.upper()]


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
        fitting = ", ".join(repr(loss) for loss in LOSSES if output in _LOSSES[loss])
        raise ValueError(
            f"loss {name!r} does not go with output {output!r}: build the network with output {outputs}, "
            f"or choose a loss of {fitting}"
        )
    return _LOSSES[name][output]
