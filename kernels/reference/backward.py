"""The reference's backward operations: loss, errors from the output down, gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract import Activation, Loss
from .functions import log_loss, loss_derivative, pieces, square_sum, through_activation

Array = NDArray[Any]


def output_delta(
    a: Array, y: Array, sample_weight: Array, activation: Array, loss: Array, delta: Array, n_threads: int = 1
) -> float:
    """Loss of a batch and its derivative by the pre-activation: delta = w d loss / d z.

    Parameters
    ----------
    a : ndarray of shape (B, O), dtype T
        Outputs of the network, after ``activation``.
    y : ndarray of shape (B, O), dtype T
        Targets.
    sample_weight : ndarray of shape (B,), or (0,) where all weigh 1, dtype T
    activation : ndarray of shape (1,), dtype `ACTIVATION`
        The output's. Identity stands for any other whose derivative `activation_delta` brings in: delta is then
        w d loss / d a.
    loss : ndarray of shape (1,), dtype `LOSS`
        Of one sample. Squared error: sum_k (a_k - y_k)^2 / 2, with any activation.
        Cross-entropy (softmax): -sum_k y_k log a_k. Binary cross-entropy (logistic):
        -sum_k y_k log a_k + (1 - y_k) log(1 - a_k). In both the probability is first clipped to
        [eps, 1 - eps], eps that of T. Poisson (exp): sum_k y_k log(y_k / a_k) - y_k + a_k. Custom (identity):
        sum_k f(a_k, y_k).
    delta : ndarray of shape (B, O), dtype T
        Written. With the pairs in parentheses it is w (a - y), and with classes of a cross-entropy it may be ``a``.
    n_threads : int

    Returns
    -------
    float
        The sum over the batch of w times the loss.

    Notes
    -----
    P&P (1)(5), Porr (3)(4), Cheng (6c)(6d)(8a), Book 4.4. Cheng's (6d) and (8a) hold for elementwise activations only;
    softmax with squared error goes through its full Jacobian (Cheng table 1).
    """
    code = loss["code"][0]
    if code == Loss.SQUARED_ERROR:
        np.subtract(a, y, out=delta)
        per_sample = 0.5 * np.square(delta, dtype=np.float64).sum(axis=1)
        through_activation(a, activation[0], delta)
    else:
        per_sample = log_loss(a, y, code)
        is_pair = activation["code"][0] != Activation.IDENTITY
        delta[...] = a - y if is_pair else loss_derivative(a, y, code)
    if sample_weight.size:
        per_sample = per_sample * sample_weight
        delta *= sample_weight[:, None]
    return float(per_sample.sum())


def activation_delta(a: Array, activation: Array, delta: Array, n_threads: int = 1) -> None:
    """Hadamard product alone: delta = delta (Hadamard) act'(z), from d loss / d a to d loss / d z.

    Parameters
    ----------
    a : ndarray of shape (B, O), dtype T
        Activations; for the activations from GELU on the derivative that `activate` kept.
    activation : ndarray of shape (1,), dtype `ACTIVATION`
        In terms of a: identity 1; ReLU 1 where a > 0 else 0; logistic a (1 - a); tanh 1 - a^2; exp a; leaky ReLU 1
        where a > 0, ``at_zero`` where a = 0, else beta; ELU 1 where a > 0 else a + beta; SELU likewise; softplus
        1 - exp(-a); sign 0. Softmax by its full Jacobian, a_i ((i = j) - a_j).
    delta : ndarray of shape (B, O), dtype T
        Updated in place.
    n_threads : int

    Notes
    -----
    P&P (10), Cheng (8b) and table 1, SE 2, Book 4.3.
    """
    through_activation(a, activation[0], delta)


def maxout_delta(z: Array, delta: Array, delta_z: Array, n_threads: int = 1) -> None:
    """Send the error of maxout units to their pieces: all of it to the largest, the first of equals.

    Parameters
    ----------
    z : ndarray of shape (B, k O), dtype T
        As `maxout` had them.
    delta : ndarray of shape (B, O), dtype T
        d loss / d a.
    delta_z : ndarray of shape (B, k O), dtype T
        Written: d loss / d z_(j O + u) = delta_u for the j of the largest piece, else 0.
    n_threads : int

    Notes
    -----
    Cheng table 1, (8b).
    """
    largest = pieces(z, delta).argmax(axis=1)
    pieces(delta_z, delta)[...] = 0
    np.put_along_axis(pieces(delta_z, delta), largest[:, None], delta[:, None], axis=1)


def batch_norm_delta(
    normalized: Array,
    rstd: Array,
    gamma: Array,
    step: Array,
    delta: Array,
    grad_gamma: Array,
    grad_beta: Array,
    n_threads: int = 1,
) -> None:
    """Error and gradient through `batch_norm`: delta_z = gamma rstd (delta - mean delta - x mean (delta x)).

    x is ``normalized``; means are over the batch. dgamma = grad_scale sum_r delta_r x_r, dbeta = grad_scale sum_r
    delta_r.

    Parameters
    ----------
    normalized : ndarray of shape (B, O), dtype T
    rstd, gamma : ndarray of shape (O,), dtype T
    step : ndarray of shape (1,), dtype `STEP`
        Its ``grad_scale`` and ``keep``, as for `linear_grad`.
    delta : ndarray of shape (B, O), dtype T
        By what the activation is taken of; updated in place to d loss / d z.
    grad_gamma, grad_beta : ndarray of shape (O,), dtype T
        Written.
    n_threads : int

    Notes
    -----
    Book 4.6.2 (the gradient is left to the reader there), Ioffe & Szegedy 2015, section 3.
    """
    scale, keep = float(step["grad_scale"][0]), float(step["keep"][0])
    sums = (delta * normalized).sum(axis=0), delta.sum(axis=0)
    for grad, total in zip((grad_gamma, grad_beta), sums, strict=True):
        grad[...] = scale * total if keep == 0 else keep * grad + scale * total
    delta -= sums[1] / len(delta) + normalized * (sums[0] / len(delta))
    delta *= gamma * rstd


def backprop_delta(
    delta: Array,
    W: Array,
    a_prev: Array,
    activation: Array,
    delta_prev: Array,
    scratch: Array,
    n_threads: int = 1,
) -> None:
    """Send the error one layer down: delta_prev = (delta W^T) (Hadamard) act'(z_prev).

    Parameters
    ----------
    delta : ndarray of shape (B, O), dtype T
    W : ndarray of shape (I, O), dtype T
        The weights from before the step's update.
    a_prev : ndarray of shape (B, I), dtype T
        Activations of the layer below; for the activations from GELU on the derivative that `activate` kept.
    activation : ndarray of shape (1,), dtype `ACTIVATION`
        That of the layer below; derivatives as in `activation_delta`.
    delta_prev : ndarray of shape (B, I), dtype T
        Written.
    scratch : ndarray, dtype T
        As for `linear_forward`.
    n_threads : int

    Notes
    -----
    P&P (10), Porr (13)(22), Cheng (6f)(8b), SE 1-2, Book 4.4.4. In P&P (6) and (9) read dU for dX, or ReLU' counts
    twice; Porr (22) leaves the derivative at v_i out of its sum.
    """
    np.matmul(delta, W.T, out=delta_prev)
    through_activation(a_prev, activation[0], delta_prev)


def linear_grad(
    a_prev: Array,
    delta: Array,
    step: Array,
    W: Array,
    grad_W: Array,
    grad_b: Array,
    scratch: Array,
    n_threads: int = 1,
) -> float:
    """Gradient of one layer: dW = grad_scale (a_prev^T delta + l2 W), db = grad_scale sum_r delta_r.

    Parameters
    ----------
    a_prev : ndarray of shape (B, I), dtype T
    delta : ndarray of shape (B, O), dtype T
    step : ndarray of shape (1,), dtype `STEP`
        Its ``grad_scale``, ``l2`` and ``keep``; with ``keep`` 1 the gradient is added to what is there. It is not
        clipped here.
    W : ndarray of shape (I, O), dtype T
    grad_W : ndarray of shape (I, O), dtype T
        Written.
    grad_b : ndarray of shape (O,), or (0,) for a layer without bias, dtype T
        Written.
    n_threads : int

    Returns
    -------
    float
        Sum of the squares of W where ``l2`` is not 0, for the penalty in the loss; else 0.

    Notes
    -----
    Cheng (6a)(6b), SE 3, Book 4.4.2.
    """
    scale, l2, keep = (float(step[name][0]) for name in ("grad_scale", "l2", "keep"))
    penalty = l2 * W if l2 else 0.0  # without one, weights that are not finite leave the gradient alone
    gradient = scale * (a_prev.T @ delta + penalty)
    grad_W[...] = gradient if keep == 0 else keep * grad_W + gradient
    if grad_b.size:
        gradient = scale * delta.sum(axis=0)
        grad_b[...] = gradient if keep == 0 else keep * grad_b + gradient
    return square_sum(W) if l2 else 0.0
