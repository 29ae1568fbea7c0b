"""Philox4x32-10, a generator whose numbers are a function of a counter and a key (Salmon et al. 2011)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract import PHILOX_KEYS, PHILOX_MULTIPLIERS, PHILOX_ROUNDS

Array = NDArray[Any]

LOW = np.uint64(0xFFFFFFFF)


def philox(counter: tuple[Array, Array, Array, Array], key: tuple[int, int]) -> tuple[Array, Array, Array, Array]:
    """Return the four words of each counter.

    Parameters
    ----------
    counter : tuple of ndarray, dtype uint64
        Four words of 32 bits, arrays that broadcast.
    key : tuple of int
        Two words of 32 bits.

    Returns
    -------
    tuple of ndarray, dtype uint64
        Four words of 32 bits.
    """
    a, b, c, d = counter
    for rounds in range(PHILOX_ROUNDS):
        low, high = (np.uint64((k + rounds * step) & int(LOW)) for k, step in zip(key, PHILOX_KEYS, strict=True))
        first, second = a * np.uint64(PHILOX_MULTIPLIERS[0]), c * np.uint64(PHILOX_MULTIPLIERS[1])
        a, b, c, d = second >> np.uint64(32) ^ b ^ low, second & LOW, first >> np.uint64(32) ^ d ^ high, first & LOW
    return a, b, c, d


def is_kept(shape: tuple[int, ...], probability: float, stream: int, step: Any) -> Array:
    """Return which units of a batch `dropout` keeps: a bool matrix (B, O)."""
    n_rows, n_units = shape
    seed, number = int(step["seed"]), int(step["number"])
    quads, rows = np.arange(-(-n_units // 4), dtype=np.uint64), np.arange(n_rows, dtype=np.uint64)
    third, fourth = np.array([number & int(LOW), stream + ((number >> 32) << 16)], np.uint64)[:, None, None]
    words = philox((quads, rows[:, None], third, fourth), (seed & int(LOW), seed >> 32))
    drawn = np.stack(np.broadcast_arrays(*words), axis=2).reshape(n_rows, -1)[:, :n_units]
    return drawn < probability * 2.0**32
