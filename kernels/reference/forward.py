"""The reference's forward operations: from one layer's activations to the next one's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract import FIRST_KEPT
from .functions import act, derivative, pieces, through_activation
from .philox import is_kept

Array = NDArray[Any]


def linear_forward(
    a_prev: Array, W: Array, b: Array, activation: Array, a: Array, scratch: Array, n_threads: int = 1
) -> None:
    """Forward pass of one layer: z = a_prev W + b, a = act(z).

    Parameters
    ----------
    a_prev : ndarray of shape (B, I), dtype T
    W : ndarray of shape (I, O), dtype T
    b : ndarray of shape (O,), or (0,) for a layer without bias, dtype T
    activation : ndarray of shape (1,), dtype `ACTIVATION`
        Identity z; ReLU max(0, z); logistic 1 / (1 + exp(-z)); tanh z; exp z; softmax
        exp(z_k - max z) / sum_j exp(z_j - max z); leaky ReLU z if z > 0 else beta z; ELU z if z > 0 else
        beta (exp(z) - 1); SELU, ELU with constants of its own; softplus log(1 + exp(z)); sign; GELU z Phi(z), Phi the
        normal distribution; SiLU z / (1 + exp(-z)); ReLU with a derivative of one's own at 0; and custom ones.
    a : ndarray of shape (B, O), dtype T
        Written.
    scratch : ndarray, dtype T
        Private workspace of at least ``scratch_size(I, O, B)`` elements.
    n_threads : int

    Notes
    -----
    P&P (2)(3), Porr (2)(19), Cheng (3)-(5)(7) and table 1, Book 4.1.4, 4.3.
    """
    a[...] = 0
    for i in range(W.shape[0]):
        a += a_prev[:, i, None] * W[i]
    if b.size:
        a += b
    a[...] = act(a, activation[0])


def batch_norm(
    z: Array,
    gamma: Array,
    beta: Array,
    epsilon: float,
    momentum: float,
    activation: Array,
    normalized: Array,
    rstd: Array,
    mean: Array,
    variance: Array,
    a: Array,
    n_threads: int = 1,
) -> None:
    """Batch normalisation of z before the activation: a = act(gamma (z - mu) rstd + beta).

    mu and s^2 are mean and variance of each unit over the batch, s^2 divided by B; rstd = 1 / sqrt(s^2 + epsilon).

    Parameters
    ----------
    z : ndarray of shape (B, O), dtype T
    gamma, beta : ndarray of shape (O,), dtype T
    epsilon : float
        At least 0.
    momentum : float
        In [0, 1]: mean += momentum (mu - mean), and variance += momentum (s^2 B / (B - 1) - variance). A batch of one
        sample, which has no variance, leaves both as they are.
    activation : ndarray of shape (1,), dtype `ACTIVATION`
        As for `activate`.
    normalized : ndarray of shape (B, O), dtype T
        Written: (z - mu) rstd, for `batch_norm_delta`.
    rstd : ndarray of shape (O,), dtype T
        Written.
    mean, variance : ndarray of shape (O,), dtype T
        Those over many batches, for `normalize`; updated in place.
    a : ndarray of shape (B, O), dtype T
        Written.
    n_threads : int

    Notes
    -----
    Book 4.6.2-4.6.3 (whose variance is to be read as one over the batch), Ioffe & Szegedy 2015.
    """
    n, mu, squares = len(z), z.mean(axis=0), z.var(axis=0)
    rstd[:] = 1 / np.sqrt(squares + z.dtype.type(epsilon))
    normalized[...] = (z - mu) * rstd
    if n > 1:
        mean += momentum * (mu - mean)
        variance += momentum * (squares * (n / (n - 1)) - variance)
    a[...] = act(gamma * normalized + beta, activation[0])


def normalize(
    z: Array,
    gamma: Array,
    beta: Array,
    mean: Array,
    variance: Array,
    epsilon: float,
    activation: Array,
    a: Array,
    n_threads: int = 1,
) -> None:
    """Batch normalisation at prediction: a = act(gamma (z - mean) / sqrt(variance + epsilon) + beta).

    Parameters
    ----------
    z : ndarray of shape (B, O), dtype T
    gamma, beta, mean, variance : ndarray of shape (O,), dtype T
        Mean and variance are the running ones of `batch_norm`.
    epsilon : float
    activation : ndarray of shape (1,), dtype `ACTIVATION`
        As for `activate`.
    a : ndarray of shape (B, O), dtype T
        Written.
    n_threads : int

    Notes
    -----
    Book 4.6.3.
    """
    normalized = (z - mean) * (1 / np.sqrt(variance + z.dtype.type(epsilon)))
    a[...] = act(gamma * normalized + beta, activation[0])


def activate(z: Array, activation: Array, a: Array, saved: Array, n_threads: int = 1) -> None:
    """Activation alone: a = act(z), and, where it has to be kept, its derivative act'(z).

    Parameters
    ----------
    z : ndarray of shape (B, O), dtype T
        Pre-activations.
    activation : ndarray of shape (1,), dtype `ACTIVATION`
        As for `linear_forward`, but for softmax.
    a : ndarray of shape (B, O), dtype T
        Written.
    saved : ndarray of shape (B, O), or (0, O) where nothing is to be kept, dtype T
        Written: act'(z). `activation_delta` and `backprop_delta` take it for the activations from GELU on.
    n_threads : int

    Notes
    -----
    Cheng table 1, Book 4.3, P&P (4)(7), Porr (23). P&P call ReLU discontinuous at 0; its derivative is. What ReLU'(0)
    is, is a choice: 0 (Cheng, Book 4.5.1), 1 (SE's answer, Book 4.4), anything between (Porr: "one needs to decide").
    """
    if saved.size:
        saved[...] = derivative(z, activation[0])
    a[...] = act(z, activation[0])


def maxout(z: Array, a: Array, n_threads: int = 1) -> None:
    """Maxout: a_u = max_j z_(j O + u) over k pieces, each a linear layer of O units side by side with the others.

    Parameters
    ----------
    z : ndarray of shape (B, k O), dtype T
    a : ndarray of shape (B, O), dtype T
        Written.
    n_threads : int

    Notes
    -----
    Cheng table 1 (whose arg max runs over the pieces' a, not over x), Goodfellow et al. 2013.
    """
    a[...] = pieces(z, a).max(axis=1)


def dropout(
    a: Array, activation: Array, probability: float, stream: int, step: Array, saved: Array, n_threads: int = 1
) -> None:
    """Dropout: a = s (Hadamard) a, with s = 1 / probability for the units that are kept and 0 for the others.

    The kept ones are scaled up at once (inverted dropout), so that prediction takes all units as they are: Book 4.7
    multiplies the weights by the probability there, to the same effect.

    Parameters
    ----------
    a : ndarray of shape (B, O), dtype T
        Activations. Updated in place.
    activation : ndarray of shape (1,), dtype `ACTIVATION`
        The function whose output a is, as for `activate`.
    probability : float
        That a unit is kept, in (0, 1]: of each sample each for itself.
    stream : int
        Number of these masks among those of a step, in [0, 65536).
    step : ndarray of shape (1,), dtype `STEP`
        Its ``seed`` and ``number``. Unit u of sample r is kept if word u mod 4 of Philox4x32-10 with the counter
        (u div 4, r, number mod 2^32, stream + 65536 (number div 2^32)) and the key (seed mod 2^32, seed div 2^32) is
        less than 2^32 times the probability: masks depend on seed, step and unit, and on nothing else.
    saved : ndarray of shape (B, O), or (0, O) where nothing is to be kept, dtype T
        Written: s (Hadamard) act'(z), which `backprop_delta` takes for the activation ``KEPT``. For the activations
        from GELU on it holds act'(z) before.
    n_threads : int

    Notes
    -----
    Book 4.7, Srivastava et al. 2014.
    """
    scale = np.where(is_kept(a.shape, probability, stream, step[0]), a.dtype.type(1 / probability), a.dtype.type(0))
    if saved.size:
        factors = scale.copy()
        through_activation(saved if activation["code"][0] >= FIRST_KEPT else a, activation[0], factors)
        saved[...] = factors
    a *= scale
