"""A tile's sums by tensor cores, of float32 rounded to TF32: an exponent of 8 bits, 10 bits behind the point."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from numba import float32

from .stages import ALIGNMENT, SLICE_GRAIN, loader, n_loads
from .toolkit import cuda, device
from .vectors import A_PARTS, B_PARTS, C_PARTS, VECTOR_BYTES, WARP, add_by_tensor_cores

if TYPE_CHECKING:
    from .tiles import Tile

V = VECTOR_BYTES // 4
DOWN, ACROSS, TERMS = 16, 8, 8
"""A warp's product: rows, columns, terms."""

PRODUCTS_DOWN, PRODUCTS_ACROSS = 2, 2
"""Products that a warp has side by side."""

BANK_SHIFT = 8
"""Elements more from one term to the next: a warp, which reads four terms of eight rows, then hits all banks."""


@functools.cache
def tensor_accumulator(tile: Tile, a_by_terms: bool, b_by_terms: bool) -> Any:
    """Return the device function that forms a tile's sums, with the arguments of `tiles.accumulator`."""
    BM, BN, BK, THREADS = tile.rows, tile.columns, tile.depth, tile.threads
    A_LINE, B_LINE = BM + BANK_SHIFT, BN + BANK_SHIFT
    A_STAGE, B_STAGE = BK * A_LINE, BK * B_LINE
    A_AHEAD, B_AHEAD = n_loads(V, BM, BK, THREADS) * V, n_loads(V, BN, BK, THREADS) * V
    SUMS = PRODUCTS_DOWN * PRODUCTS_ACROSS * C_PARTS
    SHARED, WARPS_ACROSS = max(2 * (A_STAGE + B_STAGE), BM * BN), BN // (PRODUCTS_ACROSS * ACROSS)
    A_OWN, B_OWN = PRODUCTS_DOWN * A_PARTS, PRODUCTS_ACROSS * B_PARTS

    load_a, keep_a = loader(V, BM, BK, THREADS, A_LINE, a_by_terms, "rounded")
    load_b, keep_b = loader(V, BN, BK, THREADS, B_LINE, b_by_terms, "rounded")

    @device
    def add_products(sums, shared, a_stage, b_stage):
        """Add the products of a stage's terms to a warp's sums."""
        a = cuda.local.array(A_OWN, float32)
        b = cuda.local.array(B_OWN, float32)
        warp, lane = cuda.threadIdx.x // WARP, cuda.threadIdx.x % WARP
        row = warp // WARPS_ACROSS * PRODUCTS_DOWN * DOWN + lane // 4
        column = warp % WARPS_ACROSS * PRODUCTS_ACROSS * ACROSS + lane // 4
        for first in range(0, BK, TERMS):
            for i in range(A_OWN):
                term, down = first + lane % 4 + i % A_PARTS // 2 * 4, i // A_PARTS * DOWN + i % 2 * 8
                a[i] = shared[a_stage + term * A_LINE + row + down]
            for i in range(B_OWN):
                term, right = first + lane % 4 + i % B_PARTS * 4, i // B_PARTS * ACROSS
                b[i] = shared[b_stage + term * B_LINE + column + right]
            for i in range(PRODUCTS_DOWN):
                for j in range(PRODUCTS_ACROSS):
                    at = (i * PRODUCTS_ACROSS + j) * C_PARTS
                    add_by_tensor_cores(sums, at, a, i * A_PARTS, b, j * B_PARTS)

    @device
    def sum_slice(
        sums, shared, A, a_at, a_pitch, n_rows, B, b_at, b_pitch, n_columns, n_terms, row, column, first, end
    ):
        """Sum the terms from ``first`` to ``end``."""
        thread, b_base, last = cuda.threadIdx.x, 2 * A_STAGE, min(end, n_terms)
        a_ahead = cuda.local.array(A_AHEAD, float32)
        b_ahead = cuda.local.array(B_AHEAD, float32)
        for i in range(SUMS):
            sums[i] = 0
        load_a(a_ahead, shared, 0, A, a_at, a_pitch, row, n_rows, first, last, thread)
        load_b(b_ahead, shared, b_base, B, b_at, b_pitch, column, n_columns, first, last, thread)
        keep_a(a_ahead, shared, 0, thread)
        keep_b(b_ahead, shared, b_base, thread)
        cuda.syncthreads()
        stage = 0
        for term in range(first, end, BK):
            a_next, b_next = (1 - stage) * A_STAGE, b_base + (1 - stage) * B_STAGE
            if term + BK < end:
                load_a(a_ahead, shared, a_next, A, a_at, a_pitch, row, n_rows, term + BK, last, thread)
                load_b(b_ahead, shared, b_next, B, b_at, b_pitch, column, n_columns, term + BK, last, thread)
            add_products(sums, shared, stage * A_STAGE, b_base + stage * B_STAGE)
            stage = 1 - stage
            if term + BK < end:
                keep_a(a_ahead, shared, a_next, thread)
                keep_b(b_ahead, shared, b_next, thread)
            cuda.syncthreads()

    @device
    def accumulate(sums, A, a_at, a_pitch, n_rows, B, b_at, b_pitch, n_columns, n_terms, slices, row, column):
        """Form a tile's sums, slice by slice; each thread ends with some vectors of them."""
        shared = cuda.shared.array(SHARED, float32, ALIGNMENT)
        length = -(-n_terms // (slices * SLICE_GRAIN)) * SLICE_GRAIN
        arguments = A, a_at, a_pitch, n_rows, B, b_at, b_pitch, n_columns, n_terms, row, column
        part = cuda.local.array(SUMS, float32)
        for i in range(SUMS):
            sums[i] = 0
        for s in range(slices):
            sum_slice(part, shared, *arguments, s * length, (s + 1) * length)
            for i in range(SUMS):
                sums[i] += part[i]
        spread_out(sums, shared)

    @device
    def spread_out(sums, shared):
        """Bring a warp's sums to the threads that go on with them."""
        warp, lane = cuda.threadIdx.x // WARP, cuda.threadIdx.x % WARP
        row = warp // WARPS_ACROSS * PRODUCTS_DOWN * DOWN + lane // 4
        column = warp % WARPS_ACROSS * PRODUCTS_ACROSS * ACROSS + lane % 4 * 2
        for i in range(PRODUCTS_DOWN):
            for j in range(PRODUCTS_ACROSS):
                for e in range(C_PARTS):
                    at = (row + i * DOWN + e // 2 * 8) * BN + column + j * ACROSS + e % 2
                    shared[at] = sums[(i * PRODUCTS_ACROSS + j) * C_PARTS + e]
        cuda.syncthreads()
        for u in range(SUMS):
            sums[u] = shared[(cuda.threadIdx.x + u // V * THREADS) * V + u % V]
        cuda.syncthreads()

    return accumulate
