"""Tiles of a product's result: which there are, which one a product gets, and how a block forms its sums."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numba
import numpy as np

from .stages import ALIGNMENT, SLICE_GRAIN, loader, n_loads
from .tensor import tensor_accumulator
from .toolkit import IS_SIMULATED, cuda, device
from .vectors import VECTOR_BYTES, load_vector, wait_for_copies

N_SLICES = 4

MANY_WEIGHTS = 2**20
"""Layers with so many have tiles enough for every processor, and one slice."""


class Tile(NamedTuple):
    """A block's tile: rows, columns, terms at a time, a thread's rectangle, groups for slices, and who multiplies."""

    rows: int
    columns: int
    depth: int
    thread_rows: int
    thread_columns: int
    groups: int
    by_tensor_cores: bool = False

    @property
    def group_threads(self) -> int:
        """Threads that form one slice's sums."""
        return self.rows // self.thread_rows * (self.columns // self.thread_columns)

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.groups * self.group_threads


SMALL = Tile(8, 4, 4, 4, 4, 4) if IS_SIMULATED else Tile(32, 32, 8, 4, 4, 4)
MEDIUM = Tile(16, 8, 4, 4, 4, 1) if IS_SIMULATED else Tile(64, 64, 16, 4, 4, 1)
SHALLOW = SMALL._replace(depth=SMALL.depth // 2)
NARROW = Tile(8, 8, 4, 4, 2, 1) if IS_SIMULATED else Tile(64, 32, 8, 4, 2, 1)
LARGE = Tile(16, 32, 4, 8, 8, 1) if IS_SIMULATED else Tile(128, 128, 8, 8, 8, 1)
"""The menu; the shallow and the narrow one are for float64.

A small tile's four groups each sum a slice; larger tiles sum slices one after the other, if there are any. The largest
keeps no second sum in registers, and serves layers of one slice. All have `THREADS` threads.
"""


TENSOR = Tile(32, 16, 8, 4, 4, 1, True) if IS_SIMULATED else Tile(64, 64, 16, 4, 4, 1, True)
"""For products of float32 rounded to TF32. A warp has 32 x 16 of it."""

TF32 = "tf32"
"""The precision that asks for it."""


def n_slices(n_in: int, n_out: int) -> int:
    """Return into how many ranges the terms of a layer's products are divided."""
    return 1 if n_in * n_out >= MANY_WEIGHTS else N_SLICES


def menu(slices: int, dtype: Any) -> list[Tile]:
    """Return the tiles that a layer's products may take, the smallest first."""
    if np.dtype(dtype).itemsize == 8:  # twice as many registers a sum: none for the largest
        return [NARROW] if slices == 1 else [SHALLOW, NARROW]
    return [MEDIUM, LARGE] if slices == 1 else [SMALL, MEDIUM]


def tile_for(n_rows: int, n_columns: int, slices: int, dtype: Any, n_processors: int, precision: str = "") -> Tile:
    """Return the tile for a product's result: the largest that gives every processor of the GPU one."""
    if precision == TF32 and np.dtype(dtype) == np.float32:
        return TENSOR
    choice = menu(slices, dtype)
    fitting = [tile for tile in choice if n_tiles(tile, n_rows, n_columns) >= n_processors]
    return fitting[-1] if fitting else choice[0]


def n_tiles(tile: Tile, n_rows: int, n_columns: int) -> int:
    """Return how many tiles cover a result."""
    return -(-n_rows // tile.rows) * -(-n_columns // tile.columns)


@functools.cache
def accumulator(tile: Tile, dtype: str, a_by_terms: bool, b_by_terms: bool, copies_later: bool) -> Any:
    """Return the device function that forms a tile's sums.

    ``a_by_terms``: an operand has a row for each term; else a row for each row (column) of the result.
    ``copies_later``: global memory is copied to shared memory without a thread's help, which GPUs since 8.0 can.
    """
    if tile.by_tensor_cores:
        return tensor_accumulator(tile, a_by_terms, b_by_terms)
    T, V = getattr(numba, dtype), VECTOR_BYTES // np.dtype(dtype).itemsize
    BM, BN, BK, TM, TN, GROUPS = tile[:6]
    OWN, ACROSS = tile.group_threads, BN // TN
    A_LINE, B_LINE = BM + V, BN + V  # a vector more: threads that store across lines then hit other banks
    A_STAGE, B_STAGE = BK * A_LINE, BK * B_LINE
    A_AHEAD, B_AHEAD, SUMS = n_loads(V, BM, BK, OWN) * V, n_loads(V, BN, BK, OWN) * V, TM * TN
    STAGES = max(GROUPS * 2 * (A_STAGE + B_STAGE), GROUPS * BM * BN if GROUPS > 1 else 0)
    A_APART, B_APART = BM // (TM // V), BN // (TN // V)

    way, IS_COPIED = "later" if copies_later else "", copies_later and (a_by_terms or b_by_terms)
    load_a, keep_a = loader(V, BM, BK, OWN, A_LINE, a_by_terms, way)
    load_b, keep_b = loader(V, BN, BK, OWN, B_LINE, b_by_terms, way)

    @device
    def add_products(sums, shared, a_stage, b_stage, own_rows, own_columns):
        """Add the products of a stage's terms to a thread's sums."""
        a = cuda.local.array(TM, T)
        b = cuda.local.array(TN, T)
        for k in range(BK):
            for i in range(TM // V):
                vector = load_vector(shared, a_stage + k * A_LINE + i * A_APART + own_rows)
                for e in range(V):
                    a[i * V + e] = vector[e]
            for j in range(TN // V):
                vector = load_vector(shared, b_stage + k * B_LINE + j * B_APART + own_columns)
                for e in range(V):
                    b[j * V + e] = vector[e]
            for i in range(TM):
                for j in range(TN):
                    sums[i * TN + j] += a[i] * b[j]

    @device
    def sum_slice(
        sums, shared, A, a_at, a_pitch, n_rows, B, b_at, b_pitch, n_columns, n_terms, row, column, first, end
    ):
        """Sum the terms from ``first`` to ``end``."""
        thread, group = cuda.threadIdx.x % OWN, cuda.threadIdx.x // OWN
        own_rows, own_columns = thread // ACROSS * V, thread % ACROSS * V
        a_base = group * 2 * (A_STAGE + B_STAGE)
        b_base = a_base + 2 * A_STAGE
        a_ahead = cuda.local.array(A_AHEAD, T)
        b_ahead = cuda.local.array(B_AHEAD, T)
        for i in range(SUMS):
            sums[i] = 0
        last = min(end, n_terms)
        load_a(a_ahead, shared, a_base, A, a_at, a_pitch, row, n_rows, first, last, thread)
        load_b(b_ahead, shared, b_base, B, b_at, b_pitch, column, n_columns, first, last, thread)
        keep_a(a_ahead, shared, a_base, thread)
        keep_b(b_ahead, shared, b_base, thread)
        if IS_COPIED:
            wait_for_copies()
        cuda.syncthreads()
        stage = 0
        for term in range(first, end, BK):
            a_next, b_next = a_base + (1 - stage) * A_STAGE, b_base + (1 - stage) * B_STAGE
            if term + BK < end:
                load_a(a_ahead, shared, a_next, A, a_at, a_pitch, row, n_rows, term + BK, last, thread)
                load_b(b_ahead, shared, b_next, B, b_at, b_pitch, column, n_columns, term + BK, last, thread)
            add_products(sums, shared, a_base + stage * A_STAGE, b_base + stage * B_STAGE, own_rows, own_columns)
            stage = 1 - stage
            if term + BK < end:
                keep_a(a_ahead, shared, a_next, thread)
                keep_b(b_ahead, shared, b_next, thread)
                if IS_COPIED:
                    wait_for_copies()
            cuda.syncthreads()

    @device
    def accumulate(sums, A, a_at, a_pitch, n_rows, B, b_at, b_pitch, n_columns, n_terms, slices, row, column):
        """Form a tile's sums; a thread's end in ``sums``, where `places` says which they are."""
        shared = cuda.shared.array(STAGES, T, ALIGNMENT)
        length = -(-n_terms // (slices * SLICE_GRAIN)) * SLICE_GRAIN
        arguments = A, a_at, a_pitch, n_rows, B, b_at, b_pitch, n_columns, n_terms, row, column
        if GROUPS > 1:
            group = cuda.threadIdx.x // OWN
            sum_slice(sums, shared, *arguments, group * length, (group + 1) * length)
            add_groups(sums, shared)
        elif SUMS > 16:
            sum_slice(sums, shared, *arguments, 0, length)
        else:
            part = cuda.local.array(SUMS, T)
            for i in range(SUMS):
                sums[i] = 0
            for s in range(slices):
                sum_slice(part, shared, *arguments, s * length, (s + 1) * length)
                for i in range(SUMS):
                    sums[i] += part[i]

    @device
    def add_groups(sums, shared):
        """Add the groups' sums in order; each thread of the block ends with some vectors of them."""
        thread, group = cuda.threadIdx.x % OWN, cuda.threadIdx.x // OWN
        for i in range(TM):
            at = group * BM * BN + (i // V * A_APART + thread // ACROSS * V + i % V) * BN
            for j in range(TN):
                shared[at + j // V * B_APART + thread % ACROSS * V + j % V] = sums[i * TN + j]
        cuda.syncthreads()
        for u in range(BM * BN // (GROUPS * OWN)):
            at = (cuda.threadIdx.x + u // V * GROUPS * OWN) * V + u % V
            sums[u] = shared[at]
            for g in range(1, GROUPS):
                sums[u] += shared[g * BM * BN + at]
        cuda.syncthreads()

    return accumulate


@functools.cache
def places(tile: Tile, dtype: str) -> Any:
    """Return the device function that says in which row and column of the tile a thread's vector number u begins."""
    V = VECTOR_BYTES // np.dtype(dtype).itemsize
    BM, BN, _, TM, TN, GROUPS = tile[:6]
    OWN, ACROSS, A_APART, B_APART = tile.group_threads, BN // TN, BM // (TM // V), BN // (TN // V)
    BY_TENSOR_CORES = tile.by_tensor_cores

    @device
    def place(u):
        if GROUPS > 1 or BY_TENSOR_CORES:
            at = (cuda.threadIdx.x + u * GROUPS * OWN) * V
            return at // BN, at % BN
        i, j = u // (TN // V), u % (TN // V)
        return i // V * A_APART + cuda.threadIdx.x // ACROSS * V + i % V, j * B_APART + cuda.threadIdx.x % ACROSS * V

    return place


def n_vectors(tile: Tile, dtype: str) -> int:
    """Return how many vectors of the tile a thread ends with."""
    return tile.rows * tile.columns * np.dtype(dtype).itemsize // (VECTOR_BYTES * tile.threads)


def constants_of(tile: Tile, dtype: str) -> tuple[Any, int, int, int, int]:
    """Return a kernel's type of numbers, elements of a vector, the tile's rows and columns, and sums of a thread."""
    T, V = getattr(numba, dtype), VECTOR_BYTES // np.dtype(dtype).itemsize
    return T, V, tile.rows, tile.columns, max(tile.thread_rows * tile.thread_columns, n_vectors(tile, dtype) * V)
