"""What is done to the units of a mini-batch one by one, or sample by sample: activations, dropout, maxout, losses."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import math

from numba import uint32, uint64

from ..contract import NONE, PHILOX_KEYS, PHILOX_MULTIPLIERS, PHILOX_ROUNDS
from .blocks import LANES, STEP_NUMBER, TEAMS, largest_over_lanes, pitch_of, rows_of_step, sum_over_lanes
from .functions import FIELDS, FROM_KEPT, IDENTITY, SOFTMAX, act, derivative, loss_of, slope_of, through
from .toolkit import cuda, device

SEED, NUMBER = FIELDS.index("seed"), FIELDS.index("number")
LOW, SHIFT = 0xFFFFFFFF, 32


@device
def activate_part(block, n_blocks, cursor, batch_size, n_out, work, z, code, parameter, at_zero, a, saved):
    """Activation alone; its derivative is kept in ``saved`` unless that is `NONE`."""
    n, row_pitch = rows_of_step(cursor, batch_size), pitch_of(n_out)
    team, lane = cuda.threadIdx.x // LANES, cuda.threadIdx.x % LANES
    for r in range(block * TEAMS + team, n, n_blocks * TEAMS):
        for c in range(r * row_pitch + lane, r * row_pitch + n_out, LANES):
            x = work[z + c]
            if saved != NONE:
                work[saved + c] = derivative(x, code, parameter, at_zero)
            work[a + c] = act(x, code, parameter)


@device
def softmax_part(block, n_blocks, room, cursor, batch_size, n_out, work, a):
    """Softmax of each sample's outputs, in place."""
    n, row_pitch = rows_of_step(cursor, batch_size), pitch_of(n_out)
    team, lane = cuda.threadIdx.x // LANES, cuda.threadIdx.x % LANES
    for first in range(block * TEAMS, n, n_blocks * TEAMS):
        r = first + team
        begin = a + r * row_pitch + lane
        end = a + r * row_pitch + n_out if r < n else begin
        most = -math.inf
        for c in range(begin, end, LANES):
            if not work[c] <= most and most == most:
                most = float(work[c])
        most = largest_over_lanes(room, most)
        total = 0.0
        for c in range(begin, end, LANES):
            T = type(work[c])
            work[c] = math.exp(work[c] - T(most))
            total += work[c]
        total = sum_over_lanes(room, total)
        for c in range(begin, end, LANES):
            work[c] = work[c] / total


@device
def maxout_part(block, n_blocks, cursor, batch_size, n_in, n_out, work, z, a):
    """The largest of each unit's pieces."""
    n, row_pitch, z_pitch = rows_of_step(cursor, batch_size), pitch_of(n_out), pitch_of(n_in)
    team, lane = cuda.threadIdx.x // LANES, cuda.threadIdx.x % LANES
    for r in range(block * TEAMS + team, n, n_blocks * TEAMS):
        for u in range(lane, n_out, LANES):
            most = work[z + r * z_pitch + u]
            for piece in range(u + n_out, n_in, n_out):
                x = work[z + r * z_pitch + piece]
                if not x <= most and most == most:
                    most = x
            work[a + r * row_pitch + u] = most


@device
def maxout_delta_part(block, n_blocks, cursor, batch_size, n_in, n_out, work, z, delta, delta_z):
    """The error of each unit to the first of its largest pieces."""
    n, row_pitch, z_pitch = rows_of_step(cursor, batch_size), pitch_of(n_out), pitch_of(n_in)
    team, lane = cuda.threadIdx.x // LANES, cuda.threadIdx.x % LANES
    for r in range(block * TEAMS + team, n, n_blocks * TEAMS):
        for u in range(lane, n_out, LANES):
            first, most = u, work[z + r * z_pitch + u]
            for piece in range(u + n_out, n_in, n_out):
                x = work[z + r * z_pitch + piece]
                if not x <= most and most == most:
                    first, most = piece, x
            for piece in range(u, n_in, n_out):
                work[delta_z + r * z_pitch + piece] = 0
            work[delta_z + r * z_pitch + first] = work[delta + r * row_pitch + u]


@device
def philox_round(a, b, c, d, first_key, second_key):
    """Return the four words after a round of Philox4x32."""
    first, second = uint64(a) * uint64(PHILOX_MULTIPLIERS[0]), uint64(c) * uint64(PHILOX_MULTIPLIERS[1])
    return (
        uint32((second >> uint64(SHIFT)) ^ uint64(b) ^ uint64(first_key)),
        uint32(second & uint64(LOW)),
        uint32((first >> uint64(SHIFT)) ^ uint64(d) ^ uint64(second_key)),
        uint32(first & uint64(LOW)),
    )


@device
def drawn(quad, row, stream, seed, number):
    """Return four words for the units of a quad of a sample: Philox4x32-10."""
    a, b = uint32(quad), uint32(row)
    c, d = uint32(number & LOW), uint32(stream + ((number >> SHIFT) << 16))
    for i in range(PHILOX_ROUNDS):
        keys = (seed & LOW) + i * PHILOX_KEYS[0], (seed >> SHIFT) + i * PHILOX_KEYS[1]
        a, b, c, d = philox_round(a, b, c, d, keys[0] & LOW, keys[1] & LOW)
    return a, b, c, d


@device
def dropout_part(
    block, n_blocks, cursor, batch_size, steps, n_out, work, a, code, parameter, at_zero, probability, stream, saved
):
    """Drop units and scale the others; mask and derivative are kept in ``saved`` unless that is `NONE`."""
    n, row_pitch, s = rows_of_step(cursor, batch_size), pitch_of(n_out), cursor[STEP_NUMBER]
    team, lane = cuda.threadIdx.x // LANES, cuda.threadIdx.x % LANES
    if n == 0:
        return
    seed, number, threshold = int(steps[s, SEED]), int(steps[s, NUMBER]), probability * 2.0**32
    for r in range(block * TEAMS + team, n, n_blocks * TEAMS):
        for quad in range(lane, (n_out + 3) // 4, LANES):
            words = drawn(quad, r, stream, seed, number)
            for i in range(4):
                c = r * row_pitch + quad * 4 + i
                if quad * 4 + i < n_out:
                    T = type(work[a])
                    factor = T(1 / probability) if words[i] < threshold else T(0)
                    if saved != NONE:
                        known = work[saved + c] if code >= FROM_KEPT else work[a + c]
                        work[saved + c] = through(factor, known, code, parameter, at_zero)
                    work[a + c] = work[a + c] * factor


@device
def output_delta_part(
    block,
    n_blocks,
    room,
    cursor,
    batch_size,
    n_out,
    work,
    a,
    y,
    weight,
    code,
    parameter,
    at_zero,
    loss,
    epsilon,
    delta,
    sums,
):
    """Errors at the output, and each sample's weighted loss in ``sums``. Weights are a matrix of one column."""
    n, row_pitch, weight_pitch = rows_of_step(cursor, batch_size), pitch_of(n_out), pitch_of(1)
    team, lane = cuda.threadIdx.x // LANES, cuda.threadIdx.x % LANES
    for first in range(block * TEAMS, n, n_blocks * TEAMS):
        r = first + team
        begin = r * row_pitch + lane
        end = r * row_pitch + n_out if r < n else begin
        T = type(work[0])
        w = T(1)
        if weight != NONE and r < n:
            w = work[weight + r * weight_pitch]
        total = inner = 0.0
        for c in range(begin, end, LANES):
            total += loss_of(work[a + c], work[y + c], loss, epsilon)
            d = work[a + c] - work[y + c]
            if loss != 0 and code == IDENTITY:
                d = slope_of(work[a + c], work[y + c], loss, epsilon)
            if loss == 0 and code == SOFTMAX:
                inner += d * work[a + c]
            elif loss == 0:
                d = through(d, work[a + c], code, parameter, at_zero)
            work[delta + c] = d * w
        total = sum_over_lanes(room, total)
        if loss == 0 and code == SOFTMAX:
            inner = sum_over_lanes(room, inner)
            for c in range(begin, end, LANES):
                work[delta + c] = (work[a + c] - work[y + c] - T(inner)) * work[a + c] * w
        if lane == 0 and r < n:
            sums[r] = total * w


@device
def activation_delta_part(
    block, n_blocks, room, cursor, batch_size, n_out, work, known, code, parameter, at_zero, delta
):
    """Errors through an activation, in place; softmax by its full Jacobian."""
    n, row_pitch = rows_of_step(cursor, batch_size), pitch_of(n_out)
    team, lane = cuda.threadIdx.x // LANES, cuda.threadIdx.x % LANES
    for first in range(block * TEAMS, n, n_blocks * TEAMS):
        r = first + team
        begin = r * row_pitch + lane
        end = r * row_pitch + n_out if r < n else begin
        inner = 0.0
        if code == SOFTMAX:
            for c in range(begin, end, LANES):
                inner += work[delta + c] * work[known + c]
            inner = sum_over_lanes(room, inner)
        T = type(work[0])
        for c in range(begin, end, LANES):
            if code == SOFTMAX:
                work[delta + c] = (work[delta + c] - T(inner)) * work[known + c]
            else:
                work[delta + c] = through(work[delta + c], work[known + c], code, parameter, at_zero)
