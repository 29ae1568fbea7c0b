"""What the tests of diagnostics share: seven samples with classes or values, and networks that are known by heart."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastbp

RNG = np.random.default_rng(3)
X, CLASSES = RNG.normal(size=(7, 4)), np.array([0, 2, 1, 1, 0, 2, 2])
VALUES = RNG.normal(size=(7, 3))


def chain(activation: str, n_layers: int, weight: float = 1.0, bias: float = 0.0, **options: Any) -> fastbp.Network:
    """Return one unit above the other, each with the same weight and bias."""
    net = fastbp.Network((1,) * (n_layers + 1), activation, activation, dtype="float64", **options)
    for W in net.weights:
        W[...] = weight
    for b in net.biases:
        b[...] = bias
    return net


def positive_network(seed: int, sizes: tuple[int, ...], **options: Any) -> fastbp.Network:
    net = fastbp.Network(sizes, "relu", "relu", dtype="float64", random_state=seed, **options)
    net.parameters[...] = np.abs(net.parameters) + 0.01
    return net
