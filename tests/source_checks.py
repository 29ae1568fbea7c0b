"""What the tests of the sources' equations share: operations by hand, networks of given weights, a step's gradient.

The sources write columns, W^l of shape (outputs, inputs) and samples side by side; fastbp has rows, W of shape (inputs,
outputs) and samples one below the other. The tests keep the sources' form and transpose where they meet fastbp.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.testing import assert_allclose
from numpy.typing import NDArray

import fastbp
from fastbp import kernels

Array = NDArray[Any]

TOLERANCES = {"float32": 1e-5, "float64": 1e-12}
"""Largest error as a share of an array's largest magnitude: sums of some ten terms, through a few layers."""


class Operations:
    """A backend's operations by hand, in one dtype: they take what NumPy takes and return what they write."""

    def __init__(self, backend: kernels.Backend, dtype: str) -> None:
        self.backend, self.dtype = backend, dtype
        self.none = np.empty(0, dtype)

    def array(self, values: Any) -> Array:
        return np.array(values, self.dtype, order="C")

    def forward(self, a_prev: Any, W: Any, b: Any = (), activation: Any = "identity") -> Array:
        a_prev, W = self.array(a_prev), self.array(W)
        a = np.empty((len(a_prev), W.shape[1]), self.dtype)
        self.backend.linear_forward(a_prev, W, self.array(b), activation, a)
        return a

    def activate(self, z: Any, activation: Any) -> tuple[Array, Array]:
        """Return a and act'(z)."""
        z = self.array(z)
        a, saved = np.empty_like(z), np.empty_like(z)
        self.backend.activate(z, activation, a, saved)
        return a, saved

    def output_delta(self, a: Any, y: Any, activation: str, loss: str) -> tuple[Array, float]:
        """Return delta and the loss."""
        a = self.array(a)
        delta = np.empty_like(a)
        return delta, self.backend.output_delta(a, self.array(y), self.none, activation, loss, delta)

    def activation_delta(self, a: Any, activation: str, delta: Any) -> Array:
        delta = self.array(delta)
        self.backend.activation_delta(self.array(a), activation, delta)
        return delta

    def backprop_delta(self, delta: Any, W: Any, a_prev: Any, activation: str) -> Array:
        a_prev = self.array(a_prev)
        delta_prev = np.empty_like(a_prev)
        self.backend.backprop_delta(self.array(delta), self.array(W), a_prev, activation, delta_prev)
        return delta_prev

    def error_below(self, delta: Any, W: Any) -> Array:
        """Return d loss / d a of the layer below: what is sent back before any derivative comes in."""
        return self.backprop_delta(delta, W, np.ones((len(delta), len(W))), "identity")

    def linear_grad(self, a_prev: Any, delta: Any, W: Any) -> tuple[Array, Array]:
        """Return dW and db, summed over the batch."""
        W, delta = self.array(W), self.array(delta)
        grad_W, grad_b = np.empty_like(W), np.empty(W.shape[1], self.dtype)
        self.backend.linear_grad(self.array(a_prev), delta, kernels.step_table(), W, grad_W, grad_b)
        return grad_W, grad_b

    def close(self, got: Any, wanted: Any) -> None:
        """Assert that two arrays agree, but for the rounding of the dtype."""
        close(got, wanted, self.dtype)

    def network(self, weights: Sequence[Any], biases: Sequence[Any] = (), *functions: Any) -> fastbp.Network:
        """Return a network with these weights, of shape (outputs, inputs), and its hidden and output activation."""
        sizes = (np.shape(weights[0])[1], *(len(W) for W in weights))
        options: dict[str, Any] = {"bias": bool(len(biases)), "dtype": self.dtype, "backend": self.backend.name}
        net = fastbp.Network(sizes, *functions, **options)
        for mine, given in zip([*net.weights, *net.biases], [*weights, *biases], strict=True):
            mine[...] = np.transpose(given)
        return net

    def trainer(self, net: fastbp.Network, loss: str = "squared_error", **options: Any) -> fastbp.Trainer:
        """Return a trainer by plain gradient descent, unless told otherwise."""
        defaults = {"optimizer": "sgd", "learning_rate": None if "optimizer" in options else 1.0, "random_state": 0}
        return fastbp.Trainer(net, loss=loss, backend=self.backend.name, **{**defaults, **options})

    def gradient(self, net: fastbp.Network, X: Any, y: Any, loss: str = "squared_error") -> list[Array]:
        """Return the gradient of the summed loss by W^1, W^2, ... in the sources' form, then by b^1, b^2, ...

        It is minus what a step of descent at rate 1 changes; the network is left as it was.
        """
        before = net.parameters.copy()
        self.trainer(net, loss, batch_size="full").fit(X, y, reduction="sum")
        change = before - net.parameters
        net.parameters[...] = before
        return [W.T.copy() for W in net.layout.weights(change)] + [b.copy() for b in net.layout.biases(change)]


def close(got: Any, wanted: Any, dtype: str) -> None:
    """Assert that two arrays agree, but for the rounding of a dtype."""
    wanted = np.asarray(wanted, np.float64)
    assert np.shape(got) == wanted.shape
    assert_allclose(got, wanted, rtol=0, atol=TOLERANCES[dtype] * np.abs(wanted).max(initial=1e-3))


def slope(function: Any, at: Array, h: float = 1e-6) -> Array:
    """Return the derivative of a function of an array by each of its elements, by central differences in float64."""
    found = np.empty_like(at, np.float64)
    for place in np.ndindex(at.shape):
        above, below = (np.array(at, np.float64) for _ in range(2))
        above[place] += h
        below[place] -= h
        found[place] = (function(above) - function(below)) / (2 * h)
    return found
