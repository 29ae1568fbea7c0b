"""Activation functions, their derivatives, and losses, as the reference's operations take them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract import SELU_ALPHA, SELU_SCALE, Activation, Loss

Array = NDArray[Any]


def act(z: Array, activation: Any) -> Array:
    """Return act(z)."""
    code, beta = activation["code"], float(activation["parameter"])
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if code in (Activation.RELU, Activation.RELU_AT_ZERO):
            return np.maximum(z, 0)
        if code == Activation.LOGISTIC:
            return 1 / (1 + np.exp(-z))
        if code == Activation.TANH:
            return np.tanh(z)
        if code == Activation.SOFTMAX:
            exp = np.exp(z - z.max(axis=1, keepdims=True))
            return exp / exp.sum(axis=1, keepdims=True)
        if code == Activation.EXP:
            return np.exp(z)
        if code == Activation.LEAKY_RELU:
            return np.where(z > 0, z, beta * z)
        if code == Activation.ELU:
            return np.where(z > 0, z, beta * np.expm1(z))
        if code == Activation.SELU:
            return SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(z))
        if code == Activation.SOFTPLUS:
            return np.logaddexp(z, np.zeros_like(z))
        if code == Activation.SIGN:
            return np.sign(z)
        if code == Activation.GELU:
            return np.where(z == -np.inf, 0, z * _normal(z))
        if code == Activation.SILU:
            return np.where(z == -np.inf, 0, z / (1 + np.exp(-z)))
    return z


def _normal(z: Array) -> Array:
    """Return Phi(z), the distribution function of N(0, 1)."""
    from scipy.special import ndtr

    return ndtr(z)


def derivative(z: Array, activation: Any) -> Array:
    """Return act'(z)."""
    code = activation["code"]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if code == Activation.GELU:
            return _normal(z) + np.where(np.isinf(z), 0, z * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi))
        if code == Activation.SILU:
            p = 1 / (1 + np.exp(-z))
            return p + np.where(np.isinf(z), 0, z * p * (1 - p))
    if code == Activation.RELU_AT_ZERO:
        return np.where(z == 0, float(activation["at_zero"]), np.where(z > 0, 1, np.where(z < 0, 0, z)))
    derivative = np.ones_like(z)
    through_activation(act(z, activation), activation, derivative)
    return derivative


def through_activation(a: Array, activation: Any, delta: Array) -> None:
    """Turn d loss / d a into d loss / d z, in place."""
    code, beta = activation["code"], float(activation["parameter"])
    if code == Activation.RELU:
        delta[a == 0] = 0
    elif code == Activation.LOGISTIC:
        delta *= a * (1 - a)
    elif code == Activation.TANH:
        delta *= 1 - a * a
    elif code == Activation.SOFTMAX:
        delta -= (delta * a).sum(axis=1, keepdims=True)
        delta *= a
    elif code == Activation.EXP or code >= Activation.GELU:
        delta *= a
    elif code == Activation.LEAKY_RELU:
        delta *= np.where(a > 0, 1, np.where(a == 0, float(activation["at_zero"]), beta))
    elif code == Activation.ELU:
        delta *= np.where(a > 0, 1, a + beta)
    elif code == Activation.SELU:
        delta *= np.where(a > 0, SELU_SCALE, a + SELU_SCALE * SELU_ALPHA)
    elif code == Activation.SOFTPLUS:
        delta *= -np.expm1(-a)
    elif code == Activation.SIGN:
        delta *= 0


def log_loss(a: Array, y: Array, loss: int) -> Array:
    """Return the loss of each sample for the losses whose delta is a - y; 0 log 0 = 0."""
    if loss == Loss.POISSON:
        return (_xlogy(y, y / a) - y + a).sum(axis=1, dtype=np.float64)
    eps = np.finfo(a.dtype).eps
    p = np.clip(a, eps, 1 - eps)
    if loss == Loss.CROSS_ENTROPY:
        return -_xlogy(y, p).sum(axis=1, dtype=np.float64)
    return -(_xlogy(y, p) + _xlogy(1 - y, 1 - p)).sum(axis=1, dtype=np.float64)


def loss_derivative(a: Array, y: Array, loss: int) -> Array:
    """Return d loss / d a, of the clipped probability."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if loss == Loss.POISSON:
            return 1 - np.where(y == 0, 0, y / a)
        eps = np.finfo(a.dtype).eps
        p = np.clip(a, eps, 1 - eps)
        if loss == Loss.CROSS_ENTROPY:
            return np.where(y == 0, 0, -y / p)
        return (p - y) / (p * (1 - p))


def _xlogy(x: Array, y: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((x == 0) & ~np.isnan(y), 0, x * np.log(y))


def square_sum(W: Array) -> float:
    """Return the sum of the squares of all elements, in float64."""
    return float(np.square(W, dtype=np.float64).sum())


def pieces(z: Array, a: Array) -> Array:
    """Return the pieces of maxout units, (B, k O), as a view of shape (B, k, O)."""
    return z.reshape(len(a), -1, a.shape[1])
