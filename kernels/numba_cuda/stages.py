"""How an operand's next terms come from global memory into shared memory, by way of registers."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from typing import Any

from .toolkit import IS_SIMULATED, device
from .vectors import VECTOR_BYTES, copy_vector_later, load_vector, round_tf32, store_vector

ALIGNMENT = None if IS_SIMULATED else VECTOR_BYTES
"""Of shared memory, which vectors are loaded from."""

SLICE_GRAIN = 16
"""The slices of a product are multiples of so many terms."""


def n_loads(V: int, width: int, depth: int, threads: int) -> int:
    """Return how many vectors of a stage a thread loads."""
    return -(-width * depth // (V * threads))


def loader(V: int, width: int, depth: int, threads: int, line: int, by_terms: bool, way: str = "") -> Any:
    """Return device functions that load an operand's stage from global memory, and keep it in shared memory.

    One begins before the products of a stage, the other ends behind them: in between numbers wait in registers, or are
    copied without a thread's help.

    Parameters
    ----------
    V : int
        Elements of a vector.
    width, depth : int
        Rows (or columns) of the tile, and terms of a stage.
    threads : int
        That share the work.
    line : int
        From one term to the next in shared memory.
    by_terms : bool
        Whether the operand has a row for each term; else a row for each row (column) of the result.
    way : {"", "rounded", "later"}
        Rounded to TF32 on the way; or copied by `copy_vector_later`, where an operand lies by terms.
    """
    loads = n_loads(V, width, depth, threads)
    ACROSS = width // V if by_terms else depth // V

    rounds, is_copied = way == "rounded", way == "later" and by_terms

    @device
    def load(ahead, shared, stage, X, at, pitch, first, n, term, n_terms, thread):
        for u in range(loads):
            v = thread + u * threads
            if by_terms:
                k, i = term + v // ACROSS, first + v % ACROSS * V
                inside = v // ACROSS < depth and k < n_terms and i < n
                place = at + k * pitch + i
            else:
                k, i = term + v % ACROSS * V, first + v // ACROSS
                inside = v // ACROSS < width and k < n_terms and i < n
                place = at + i * pitch + k
            if is_copied:
                if v // ACROSS < depth:
                    target = stage + v // ACROSS * line + v % ACROSS * V
                    copy_vector_later(shared, target, X, place if inside else 0, inside)
            elif inside:
                vector = load_vector(X, place)
                for e in range(V):
                    ahead[u * V + e] = vector[e]
            else:
                for e in range(V):
                    ahead[u * V + e] = 0

    @device
    def keep(ahead, shared, stage, thread):
        if rounds:
            for e in range(loads * V):
                ahead[e] = round_tf32(ahead[e])
        for u in range(0 if is_copied else loads):
            v = thread + u * threads
            if by_terms:
                if v // ACROSS < depth:
                    store_vector(shared, stage + v // ACROSS * line + v % ACROSS * V, ahead, u * V)
            elif v // ACROSS < width:
                for e in range(V):
                    shared[stage + (v % ACROSS * V + e) * line + v // ACROSS] = ahead[u * V + e]

    return load, keep
