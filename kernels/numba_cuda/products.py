"""The three matrix products of a layer: tiles of sums in registers, operands through shared memory, all else fused.

A block forms a tile of the result, each of its threads a small rectangle of sums. Both operands of a range of terms lie
in shared memory, term by term, while the next range is on its way from global memory in registers. Global memory is
read and written 16 bytes at a time: rows begin at multiples of that, and are filled up with zeros.

**Order of sums.** The terms of a product are divided into `N_SLICES` ranges, each summed in one chain; then the ranges'
sums are added in order. Very large layers have one range. Both follow from the layer's shape alone, so that a result
depends neither on the tile nor on the batch.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import float64

from ..contract import NONE
from .blocks import LANES, STEP_NUMBER, TEAMS, pitch_of, rows_of_step, sum_over_block, sum_over_teams
from .functions import GRAD_SCALE, KEEP, L2, act, applied, keeps_m, keeps_v, rule_values, through
from .norms import learn_one
from .toolkit import IS_SIMULATED, THREADS, cuda, device, kernel
from .vectors import VECTOR_BYTES, load_vector, store_vector

N_SLICES = 4
SLICE_GRAIN = 16
"""Slices are multiples of so many terms."""

ALIGNMENT = None if IS_SIMULATED else VECTOR_BYTES
"""Of shared memory, which vectors are loaded from."""

MANY_WEIGHTS = 2**20
"""Layers with so many have tiles enough for every processor, and one slice."""


class Tile(NamedTuple):
    """A block's tile: its rows and columns, terms at a time, a thread's rectangle, and groups that take slices."""

    rows: int
    columns: int
    depth: int
    thread_rows: int
    thread_columns: int
    groups: int

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


def n_slices(n_in: int, n_out: int) -> int:
    """Return into how many ranges the terms of a layer's products are divided."""
    return 1 if n_in * n_out >= MANY_WEIGHTS else N_SLICES


def menu(slices: int, dtype: Any) -> list[Tile]:
    """Return the tiles that a layer's products may take, the smallest first."""
    if np.dtype(dtype).itemsize == 8:  # twice as many registers a sum: none for the largest
        return [NARROW] if slices == 1 else [SHALLOW, NARROW]
    return [MEDIUM, LARGE] if slices == 1 else [SMALL, MEDIUM]


def tile_for(n_rows: int, n_columns: int, slices: int, dtype: Any, n_processors: int) -> Tile:
    """Return the tile for a product's result: the largest that gives every processor of the GPU one."""
    choice = menu(slices, dtype)
    fitting = [tile for tile in choice if n_tiles(tile, n_rows, n_columns) >= n_processors]
    return fitting[-1] if fitting else choice[0]


def n_tiles(tile: Tile, n_rows: int, n_columns: int) -> int:
    """Return how many tiles cover a result."""
    return -(-n_rows // tile.rows) * -(-n_columns // tile.columns)


@functools.cache
def accumulator(tile: Tile, dtype: str, a_by_terms: bool, b_by_terms: bool) -> Any:
    """Return the device function that forms a tile's sums.

    ``a_by_terms``: an operand has a row for each term; else a row for each row (column) of the result.
    """
    T, V = getattr(numba, dtype), VECTOR_BYTES // np.dtype(dtype).itemsize
    BM, BN, BK, TM, TN, GROUPS = tile
    OWN, ACROSS = tile.group_threads, BN // TN
    A_LINE, B_LINE = BM + V, BN + V  # a vector more: threads that store across lines then hit other banks
    A_STAGE, B_STAGE = BK * A_LINE, BK * B_LINE
    A_LOADS, B_LOADS = -(-BM * BK // (V * OWN)), -(-BN * BK // (V * OWN))
    A_AHEAD, B_AHEAD, SUMS = A_LOADS * V, B_LOADS * V, TM * TN
    STAGES = max(GROUPS * 2 * (A_STAGE + B_STAGE), GROUPS * BM * BN if GROUPS > 1 else 0)
    A_APART, B_APART = BM // (TM // V), BN // (TN // V)

    load_a, keep_a = _loader(T, V, BM, BK, OWN, A_LOADS, A_LINE, a_by_terms)
    load_b, keep_b = _loader(T, V, BN, BK, OWN, B_LOADS, B_LINE, b_by_terms)

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
        load_a(a_ahead, A, a_at, a_pitch, row, n_rows, first, last, thread)
        load_b(b_ahead, B, b_at, b_pitch, column, n_columns, first, last, thread)
        keep_a(a_ahead, shared, a_base, thread)
        keep_b(b_ahead, shared, b_base, thread)
        cuda.syncthreads()
        stage = 0
        for term in range(first, end, BK):
            if term + BK < end:
                load_a(a_ahead, A, a_at, a_pitch, row, n_rows, term + BK, last, thread)
                load_b(b_ahead, B, b_at, b_pitch, column, n_columns, term + BK, last, thread)
            add_products(sums, shared, a_base + stage * A_STAGE, b_base + stage * B_STAGE, own_rows, own_columns)
            stage = 1 - stage
            if term + BK < end:
                keep_a(a_ahead, shared, a_base + stage * A_STAGE, thread)
                keep_b(b_ahead, shared, b_base + stage * B_STAGE, thread)
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
    BM, BN, _, TM, TN, GROUPS = tile
    OWN, ACROSS, A_APART, B_APART = tile.group_threads, BN // TN, BM // (TM // V), BN // (TN // V)

    @device
    def place(u):
        if GROUPS > 1:
            at = (cuda.threadIdx.x + u * GROUPS * OWN) * V
            return at // BN, at % BN
        i, j = u // (TN // V), u % (TN // V)
        return i // V * A_APART + cuda.threadIdx.x // ACROSS * V + i % V, j * B_APART + cuda.threadIdx.x % ACROSS * V

    return place


def n_vectors(tile: Tile, dtype: str) -> int:
    """Return how many vectors of the tile a thread ends with."""
    return tile.rows * tile.columns * np.dtype(dtype).itemsize // (VECTOR_BYTES * tile.threads)


def _loader(T: Any, V: int, width: int, depth: int, threads: int, loads: int, line: int, by_terms: bool) -> Any:
    """Return device functions that load an operand's stage from global memory, and keep it in shared memory."""
    ACROSS = width // V if by_terms else depth // V

    @device
    def load(ahead, X, at, pitch, first, n, term, n_terms, thread):
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
            if inside:
                vector = load_vector(X, place)
                for e in range(V):
                    ahead[u * V + e] = vector[e]
            else:
                for e in range(V):
                    ahead[u * V + e] = 0

    @device
    def keep(ahead, shared, stage, thread):
        for u in range(loads):
            v = thread + u * threads
            if by_terms:
                if v // ACROSS < depth:
                    store_vector(shared, stage + v // ACROSS * line + v % ACROSS * V, ahead, u * V)
            elif v // ACROSS < width:
                for e in range(V):
                    shared[stage + (v % ACROSS * V + e) * line + v // ACROSS] = ahead[u * V + e]

    return load, keep


def _constants(tile: Tile, dtype: str) -> tuple[Any, int, int, int, int]:
    """Return a kernel's type of numbers, elements of a vector, the tile's rows and columns, and sums of a thread."""
    T, V = getattr(numba, dtype), VECTOR_BYTES // np.dtype(dtype).itemsize
    return T, V, tile.rows, tile.columns, max(tile.thread_rows * tile.thread_columns, n_vectors(tile, dtype) * V)


@functools.cache
def forward_kernel(tile: Tile, dtype: str) -> Any:
    """Return the kernel of a = act(a_prev W + b)."""
    accumulate, place, vectors = accumulator(tile, dtype, False, True), places(tile, dtype), n_vectors(tile, dtype)
    T, V, BM, BN, SUMS = _constants(tile, dtype)

    @kernel
    def linear_forward(cursor, batch_size, slices, work, params, n_in, n_out, a_prev, W, b, code, parameter, a):
        n, down = rows_of_step(cursor, batch_size), (batch_size + BM - 1) // BM
        row, column = cuda.blockIdx.x % down * BM, cuda.blockIdx.x // down * BN
        if row >= n:
            return
        sums = cuda.local.array(SUMS, T)
        out_pitch = pitch_of(n_out)
        below, weights = (work, a_prev, pitch_of(n_in), n), (params, W, out_pitch, n_out)
        accumulate(sums, *below, *weights, n_in, slices, row, column)
        for u in range(vectors):
            r, c = place(u)
            if row + r < n and column + c < n_out:
                for e in range(V):
                    z = sums[u * V + e]
                    if b != NONE:
                        z += params[b + column + c + e]
                    sums[u * V + e] = act(z, code, parameter) if column + c + e < n_out else T(0)
                store_vector(work, a + (row + r) * out_pitch + column + c, sums, u * V)

    return linear_forward


@functools.cache
def backprop_kernel(tile: Tile, dtype: str) -> Any:
    """Return the kernel of delta_prev = (delta W^T) (Hadamard) act'(z_prev)."""
    accumulate, place, vectors = accumulator(tile, dtype, False, False), places(tile, dtype), n_vectors(tile, dtype)
    T, V, BM, BN, SUMS = _constants(tile, dtype)

    @kernel
    def backprop_delta(
        cursor, batch_size, slices, work, params, n_in, n_out, delta, W, known, code, parameter, at_zero, delta_prev
    ):
        n, down = rows_of_step(cursor, batch_size), (batch_size + BM - 1) // BM
        row, column = cuda.blockIdx.x % down * BM, cuda.blockIdx.x // down * BN
        if row >= n:
            return
        sums = cuda.local.array(SUMS, T)
        in_pitch, out_pitch = pitch_of(n_in), pitch_of(n_out)
        errors, weights = (work, delta, out_pitch, n), (params, W, out_pitch, n_in)
        accumulate(sums, *errors, *weights, n_out, slices, row, column)
        for u in range(vectors):
            r, c = place(u)
            if row + r < n and column + c < n_in:
                at = (row + r) * in_pitch + column + c
                a = load_vector(work, known + at)
                for e in range(V):
                    slope = through(sums[u * V + e], a[e], code, parameter, at_zero)
                    sums[u * V + e] = slope if column + c + e < n_in else T(0)
                store_vector(work, delta_prev + at, sums, u * V)

    return backprop_delta


@device
def update_bias(room, n, s, first, steps, work, params, grads, m, v, n_out, delta, rule, b):
    """Let a bias learn, or keep its gradient: a lane takes a unit, the teams its samples."""
    out_pitch, team, u = pitch_of(n_out), cuda.threadIdx.x // LANES, first + cuda.threadIdx.x % LANES
    T, total = type(work[0]), 0.0
    for r in range(team, n if u < n_out else 0, TEAMS):
        total += work[delta + r * out_pitch + u]
    total = sum_over_teams(room, total)
    if team == 0 and u < n_out:
        learn_one(steps, s, rule, T(total), params, grads, m, v, b + u)


@functools.cache
def update_kernel(tile: Tile, dtype: str) -> Any:
    """Return the kernel of dW = a_prev^T delta, of db, and of the rule that both are for, or of keeping them.

    The blocks after the last tile's sum the errors of a bias.
    """
    accumulate, place, vectors = accumulator(tile, dtype, True, True), places(tile, dtype), n_vectors(tile, dtype)
    T, V, BM, BN, SUMS = _constants(tile, dtype)

    @kernel
    def linear_update(
        cursor, batch_size, slices, steps, work, params, grads, m, v, n_in, n_out, a_prev, delta, rule, W, b, squares,
        place_of_squares,
    ):  # fmt: skip
        n, s, down = rows_of_step(cursor, batch_size), cursor[STEP_NUMBER], (n_in + BM - 1) // BM
        row, column = cuda.blockIdx.x % down * BM, cuda.blockIdx.x // down * BN
        if n == 0:
            return
        out_pitch, room = pitch_of(n_out), cuda.shared.array(THREADS, float64)
        if column >= n_out:
            first = (cuda.blockIdx.x - down * ((n_out + BN - 1) // BN)) * LANES
            update_bias(room, n, s, first, steps, work, params, grads, m, v, n_out, delta, rule, b)
            return
        sums = cuda.local.array(SUMS, T)
        below, errors = (work, a_prev, pitch_of(n_in), n_in), (work, delta, out_pitch, n_out)
        accumulate(sums, *below, *errors, n, slices, row, column)
        scale, l2, keep = T(steps[s, GRAD_SCALE]), T(steps[s, L2]), T(steps[s, KEEP])
        values, total = rule_values(steps, s, scale), 0.0
        new_m, new_v = cuda.local.array(V, T), cuda.local.array(V, T)
        for u in range(vectors):
            r, c = place(u)
            if row + r < n_in and column + c < n_out:
                at, n_inside = W + (row + r) * out_pitch + column + c, n_out - column - c
                w = load_vector(params, at)
                old_m = load_vector(m, at) if keeps_m(rule) else w
                old_v = load_vector(v, at) if keeps_v(rule) else w
                kept = load_vector(grads, at) if rule == NONE else w
                for e in range(V):
                    g, new_m[e], new_v[e] = sums[u * V + e], T(0), T(0)
                    if l2 != T(0):
                        g += l2 * w[e]
                        total += float64(w[e]) * float64(w[e])
                    g = scale * g
                    if e >= n_inside:
                        sums[u * V + e] = T(0)
                    elif rule == NONE:
                        sums[u * V + e] = g if keep == T(0) else keep * kept[e] + g
                    else:
                        sums[u * V + e], new_m[e], new_v[e] = applied(rule, values, g, w[e], old_m[e], old_v[e])
                if rule == NONE:
                    store_vector(grads, at, sums, u * V)
                else:
                    store_vector(params, at, sums, u * V)
                if keeps_m(rule):
                    store_vector(m, at, new_m, 0)
                if keeps_v(rule):
                    store_vector(v, at, new_v, 0)
        if l2 != T(0):
            total = sum_over_block(room, total)
            if cuda.threadIdx.x == 0:
                squares[place_of_squares + cuda.blockIdx.x] = total

    return linear_update
