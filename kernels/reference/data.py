"""The reference's operations on samples: their order, and mini-batches of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def shuffle(u: Array, order: Array, n_threads: int = 1) -> None:
    """Draw an order of 0 ... n - 1: order[i] = order[j] and order[j] = i with j = floor(u_i (i + 1)) for each i.

    Parameters
    ----------
    u : ndarray of shape (n,), dtype float64
        Random numbers, uniform in [0, 1).
    order : ndarray of shape (n,), dtype int64
        Written.
    n_threads : int

    Notes
    -----
    The samples' order in an epoch (Cheng 9.1 line 3): Fisher and Yates' shuffle in Durstenfeld's form (Knuth, The Art
    of Computer Programming 3.4.2, algorithm P), from the inside out. All n! orders are equally likely, but for the 53
    bits of u.
    """
    places = (u * np.arange(1, len(u) + 1)).astype(np.int64)
    drawn: list[int] = []
    for i, j in enumerate(places.tolist()):
        drawn.append(i)
        drawn[i], drawn[j] = drawn[j], i
    order[:] = drawn


def gather_rows(X: Array, order: Array, out: Array, n_threads: int = 1) -> None:
    """Copy rows: out[r] = X[order[r]].

    Parameters
    ----------
    X : ndarray of shape (n, I), dtype T
    order : ndarray of shape (B,), dtype int64
        Row numbers, each in [0, n).
    out : ndarray of shape (B, I), dtype T
        Written.
    n_threads : int

    Notes
    -----
    One mini-batch of shuffled samples (Cheng 9.1 line 3, Book 4.6).
    """
    np.take(X, order, axis=0, out=out)


def gather_csr_rows(data: Array, indices: Array, indptr: Array, order: Array, out: Array, n_threads: int = 1) -> None:
    """Write rows of a CSR matrix densely: out[r] = X[order[r]]; entries of one place add up.

    Parameters
    ----------
    data : ndarray of shape (nnz,), dtype T
    indices : ndarray of shape (nnz,), dtype int32
        Column numbers, each in [0, I).
    indptr : ndarray of shape (n + 1,), dtype int64
        Row r is ``data[indptr[r]:indptr[r + 1]]``.
    order : ndarray of shape (B,), dtype int64
    out : ndarray of shape (B, I), dtype T
        Written.
    n_threads : int
    """
    out[...] = 0
    for row, sample in zip(out, order, strict=True):
        entries = slice(indptr[sample], indptr[sample + 1])
        np.add.at(row, indices[entries], data[entries])


def gather_classes(classes: Array, order: Array, out: Array, n_threads: int = 1) -> None:
    """Write targets one-hot: out[r, k] = 1 if k = classes[order[r]], else 0.

    Parameters
    ----------
    classes : ndarray of shape (n,), dtype int64
        Class numbers, each in [0, O).
    order : ndarray of shape (B,), dtype int64
    out : ndarray of shape (B, O), dtype T
        Written.
    n_threads : int

    Notes
    -----
    Cheng (2).
    """
    out[...] = 0
    out[np.arange(len(order)), classes[order]] = 1
