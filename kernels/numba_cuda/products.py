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
from typing import Any

from numba import float64

from ..contract import NONE
from .blocks import LANES, STEP_NUMBER, TEAMS, pitch_of, rows_of_step, sum_over_block, sum_over_teams
from .functions import GRAD_SCALE, KEEP, L2, act, applied, keeps_m, keeps_v, rule_values, through
from .norms import learn_one
from .tiles import Tile, accumulator, constants_of, n_vectors, places
from .toolkit import THREADS, cuda, device, kernel
from .vectors import load_vector, store_vector


@functools.cache
def forward_kernel(tile: Tile, dtype: str, copies_later: bool) -> Any:
    """Return the kernel of a = act(a_prev W + b)."""
    accumulate = accumulator(tile, dtype, False, True, copies_later)
    place, vectors = places(tile, dtype), n_vectors(tile, dtype)
    T, V, BM, BN, SUMS = constants_of(tile, dtype)

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
def backprop_kernel(tile: Tile, dtype: str, copies_later: bool) -> Any:
    """Return the kernel of delta_prev = (delta W^T) (Hadamard) act'(z_prev)."""
    accumulate = accumulator(tile, dtype, False, False, copies_later)
    place, vectors = places(tile, dtype), n_vectors(tile, dtype)
    T, V, BM, BN, SUMS = constants_of(tile, dtype)

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
def update_kernel(tile: Tile, dtype: str, copies_later: bool) -> Any:
    """Return the kernel of dW = a_prev^T delta, of db, and of the rule that both are for, or of keeping them.

    The blocks after the last tile's sum the errors of a bias.
    """
    accumulate = accumulator(tile, dtype, True, True, copies_later)
    place, vectors = places(tile, dtype), n_vectors(tile, dtype)
    T, V, BM, BN, SUMS = constants_of(tile, dtype)

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
