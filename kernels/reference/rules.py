"""The reference's update rules, and what is done to whole gradients and parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract import Optimizer
from .backward import linear_grad
from .functions import square_sum

Array = NDArray[Any]


def sgd_step(grad: Array, step: Array, param: Array, n_threads: int = 1) -> None:
    """Gradient descent: param -= rate grad.

    Parameters
    ----------
    grad : ndarray of shape (P,), dtype T
    step : ndarray of shape (1,), dtype `STEP`
        Where its ``clip`` is not 0, this and the other rules clip the gradient's elements to [-clip, clip].
    param : ndarray of shape (P,), dtype T
        Updated in place.
    n_threads : int

    Notes
    -----
    Porr (5)(6), Cheng (8f)(9), Book 4.5; clipping: Cheng 9.3.3, Book 4.5.2.
    """
    param -= step["rate"][0] * _clipped(grad, step)


def momentum_step(grad: Array, step: Array, param: Array, velocity: Array, n_threads: int = 1) -> None:
    """Gradient descent with momentum: v = momentum v - rate grad; param += v.

    Parameters
    ----------
    grad : ndarray of shape (P,), dtype T
    step : ndarray of shape (1,), dtype `STEP`
    param, velocity : ndarray of shape (P,), dtype T
        Updated in place.
    n_threads : int
    """
    velocity *= step["momentum"][0]
    velocity -= step["rate"][0] * _clipped(grad, step)
    param += velocity


def nesterov_step(grad: Array, step: Array, param: Array, velocity: Array, n_threads: int = 1) -> None:
    """Nesterov's momentum: v = momentum v - rate grad; param += momentum v - rate grad.

    Parameters
    ----------
    grad : ndarray of shape (P,), dtype T
    step : ndarray of shape (1,), dtype `STEP`
    param, velocity : ndarray of shape (P,), dtype T
        Updated in place.
    n_threads : int
    """
    grad = _clipped(grad, step)
    velocity *= step["momentum"][0]
    velocity -= step["rate"][0] * grad
    param += step["momentum"][0] * velocity - step["rate"][0] * grad


def adam_step(grad: Array, step: Array, param: Array, m: Array, v: Array, n_threads: int = 1) -> None:
    """Adam: m = beta_1 m + (1 - beta_1) g; v = beta_2 v + (1 - beta_2) g^2; param -= rate m / (sqrt(v) + epsilon).

    Parameters
    ----------
    grad : ndarray of shape (P,), dtype T
        g above.
    step : ndarray of shape (1,), dtype `STEP`
        The bias corrections are part of ``rate`` (and, in the form with a corrected epsilon, of ``epsilon``). Where
        ``decay`` is not 0, ``param`` is first multiplied by 1 - decay (AdamW).
    param, m, v : ndarray of shape (P,), dtype T
        Updated in place.
    n_threads : int
    """
    _update_moments(_clipped(grad, step), step, m, v)
    param -= step["decay"][0] * param
    param -= step["rate"][0] * m / (np.sqrt(v) + step["epsilon"][0])


def nadam_step(grad: Array, step: Array, param: Array, m: Array, v: Array, n_threads: int = 1) -> None:
    """Adam with Nesterov's momentum: m, v as Adam; param -= (rate m + grad_rate g) / (sqrt(v) + epsilon).

    Parameters
    ----------
    grad : ndarray of shape (P,), dtype T
        g above.
    step : ndarray of shape (1,), dtype `STEP`
        The corrections are part of ``rate``, ``grad_rate`` and ``epsilon``.
    param, m, v : ndarray of shape (P,), dtype T
        Updated in place.
    n_threads : int

    Notes
    -----
    Dozat 2016, algorithm 2.
    """
    grad = _clipped(grad, step)
    _update_moments(grad, step, m, v)
    param -= step["decay"][0] * param
    param -= (step["rate"][0] * m + step["grad_rate"][0] * grad) / (np.sqrt(v) + step["epsilon"][0])


def rmsprop_step(grad: Array, step: Array, param: Array, v: Array, n_threads: int = 1) -> None:
    """RMSprop: v = beta_2 v + (1 - beta_2) g^2; param -= rate g / (sqrt(v) + epsilon).

    Parameters
    ----------
    grad : ndarray of shape (P,), dtype T
        g above.
    step : ndarray of shape (1,), dtype `STEP`
    param, v : ndarray of shape (P,), dtype T
        Updated in place.
    n_threads : int

    Notes
    -----
    Tieleman & Hinton 2012, lecture 6.5.
    """
    grad, beta_2 = _clipped(grad, step), step["beta_2"][0]
    v *= beta_2
    v += (1 - beta_2) * grad * grad
    param -= step["decay"][0] * param
    param -= step["rate"][0] * grad / (np.sqrt(v) + step["epsilon"][0])


def adagrad_step(grad: Array, step: Array, param: Array, v: Array, n_threads: int = 1) -> None:
    """Adagrad: v = v + g^2; param -= rate g / (sqrt(v) + epsilon).

    Parameters
    ----------
    grad : ndarray of shape (P,), dtype T
        g above.
    step : ndarray of shape (1,), dtype `STEP`
    param, v : ndarray of shape (P,), dtype T
        Updated in place.
    n_threads : int

    Notes
    -----
    Duchi, Hazan & Singer 2011.
    """
    grad = _clipped(grad, step)
    v += grad * grad
    param -= step["decay"][0] * param
    param -= step["rate"][0] * grad / (np.sqrt(v) + step["epsilon"][0])


def linear_update(
    a_prev: Array,
    delta: Array,
    optimizer: int,
    step: Array,
    W: Array,
    b: Array,
    m_W: Array,
    m_b: Array,
    v_W: Array,
    v_b: Array,
    scratch: Array,
    n_threads: int = 1,
) -> float:
    """Gradient of one layer and the optimiser's step on it, the gradient never stored.

    The gradient is that of `linear_grad` with ``grad_scale`` and ``l2`` of ``step`` (``keep`` is ignored), the update
    that of the optimiser's ``_step`` operation.

    Parameters
    ----------
    a_prev : ndarray of shape (B, I), dtype T
    delta : ndarray of shape (B, O), dtype T
    optimizer : int
        An `Optimizer`.
    step : ndarray of shape (1,), dtype `STEP`
    W, m_W, v_W : ndarray of shape (I, O), dtype T
        Updated in place. SGD leaves ``m`` and ``v`` alone, momentum keeps its velocity in ``m``.
    b, m_b, v_b : ndarray of shape (O,), or (0,) for a layer without bias, dtype T
        Updated in place.
    n_threads : int

    Returns
    -------
    float
        Sum of the squares of W before the update where ``l2`` is not 0; else 0.

    Notes
    -----
    Cheng (6a)(6b)(8f)-(9), Book 4.5.
    """
    grad_W, grad_b = np.zeros_like(W), np.zeros_like(b)
    squares = linear_grad(a_prev, delta, step, W, grad_W, grad_b, scratch)
    optimizer_step(optimizer, step, grad_W.ravel(), W.ravel(), m_W.ravel(), v_W.ravel())
    optimizer_step(optimizer, step, grad_b, b, m_b, v_b)
    return squares


def clip_norm(grad: Array, step: Array, n_threads: int = 1) -> float:
    """Clip a gradient by its norm: grad *= min(1, max_norm / (norm + 1e-6)), norm = sqrt(sum_i grad_i^2).

    Parameters
    ----------
    grad : ndarray of shape (P,), dtype T
        Of all parameters. Updated in place.
    step : ndarray of shape (1,), dtype `STEP`
        Its ``max_norm``; with 0 nothing is clipped.
    n_threads : int

    Returns
    -------
    float
        The norm that the gradient had.

    Notes
    -----
    Beyond Cheng 9.3.3 and Book 4.5.2, which clip each element: Pascanu, Mikolov & Bengio 2013, with PyTorch's 1e-6.
    """
    norm, max_norm = float(np.sqrt(square_sum(grad))), float(step["max_norm"][0])
    if max_norm != 0 and not norm + 1e-6 <= max_norm:
        grad *= max_norm / (norm + 1e-6)
    return norm


def average_step(param: Array, step: Array, average: Array, n_threads: int = 1) -> None:
    """Moving average of the parameters: average += (1 - average_decay) (param - average).

    Parameters
    ----------
    param : ndarray of shape (P,), dtype T
    step : ndarray of shape (1,), dtype `STEP`
    average : ndarray of shape (P,), dtype T
        Updated in place.
    n_threads : int

    Notes
    -----
    Polyak & Juditsky 1992, with exponential weights.
    """
    average += (1 - step["average_decay"][0]) * (param - average)


def optimizer_step(optimizer: int, step: Array, grad: Array, param: Array, m: Array, v: Array) -> None:
    """Apply the rule of an `Optimizer` code."""
    if optimizer == Optimizer.SGD:
        sgd_step(grad, step, param)
    elif optimizer == Optimizer.MOMENTUM:
        momentum_step(grad, step, param, m)
    elif optimizer == Optimizer.NESTEROV:
        nesterov_step(grad, step, param, m)
    elif optimizer == Optimizer.ADAM:
        adam_step(grad, step, param, m, v)
    elif optimizer == Optimizer.NADAM:
        nadam_step(grad, step, param, m, v)
    elif optimizer == Optimizer.RMSPROP:
        rmsprop_step(grad, step, param, v)
    else:
        adagrad_step(grad, step, param, v)


def _clipped(grad: Array, step: Array) -> Array:
    """Return the gradient with its elements clipped."""
    clip = float(step["clip"][0])
    return np.clip(grad, -clip, clip) if clip != 0 else grad


def _update_moments(grad: Array, step: Array, m: Array, v: Array) -> None:
    """Move the moments of Adam and Nadam on."""
    beta_1, beta_2 = step["beta_1"][0], step["beta_2"][0]
    m *= beta_1
    m += (1 - beta_1) * grad
    v *= beta_2
    v += (1 - beta_2) * grad * grad
