"""The samples' order, and mini-batches of them."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import math

from numba import int32

from .blocks import LANES, STEP_NUMBER, STOPPED, TEAMS, pitch_of, rows_of_step
from .toolkit import cuda, device, kernel

UNTAKEN = 2**62


@kernel
def shuffle(u, order, first_taker):
    """Draw an order as Fisher and Yates do, in one block; ``first_taker`` is as long as the order.

    Step i swaps places i and j <= i, which holds what earlier steps left there. Of all steps that have not been done
    each asks for its two places, and gets both if it is the first who asks: it then does what it does in sequence.
    Some logarithm of their number of rounds ends it (Shun et al. 2015).
    """
    n, thread, stride = order.size, cuda.threadIdx.x, cuda.blockDim.x
    n_left = cuda.shared.array(1, int32)
    for i in range(thread, n, stride):
        order[i] = i
        first_taker[i] = UNTAKEN
    cuda.syncthreads()
    while True:
        if thread == 0:
            n_left[0] = 0
        for i in range(thread, n, stride):
            if u[i] >= 0:
                cuda.atomic.min(first_taker, i, i)
                cuda.atomic.min(first_taker, int(u[i] * (i + 1)), i)
        cuda.syncthreads()
        for i in range(thread, n, stride):
            if u[i] >= 0:
                j = int(u[i] * (i + 1))
                if first_taker[i] == i and first_taker[j] == i:
                    order[i], order[j] = order[j], order[i]
                    u[i] = -1 - u[i]
                else:
                    n_left[0] = 1
        cuda.syncthreads()
        if n_left[0] == 0:
            break
        for i in range(thread, n, stride):
            first_taker[i] = UNTAKEN
        cuda.syncthreads()


@device
def gather_rows_part(block, n_blocks, cursor, batch_size, order, X, n_columns, finite, work, a):
    """Copy the batch's rows of X; where ``finite`` is 1, a number that is not ends the run before this step."""
    n, start = rows_of_step(cursor, batch_size), cursor[STEP_NUMBER] * batch_size
    team, lane, row_pitch = cuda.threadIdx.x // LANES, cuda.threadIdx.x % LANES, pitch_of(n_columns)
    for r in range(block * TEAMS + team, n, n_blocks * TEAMS):
        source, target = order[start + r] * n_columns, a + r * row_pitch
        for c in range(lane, n_columns, LANES):
            x = X[source + c]
            work[target + c] = x
            if finite == 1 and not math.isfinite(x):
                cursor[STOPPED] = 1


@device
def gather_csr_rows_part(block, n_blocks, cursor, batch_size, order, data, indices, indptr, n_columns, finite, work, a):
    """Write the batch's rows of a CSR matrix densely; entries of one place add up."""
    n, start = rows_of_step(cursor, batch_size), cursor[STEP_NUMBER] * batch_size
    team, lane, row_pitch = cuda.threadIdx.x // LANES, cuda.threadIdx.x % LANES, pitch_of(n_columns)
    for first in range(block * TEAMS, n, n_blocks * TEAMS):
        r = first + team
        if r < n:
            for c in range(lane, n_columns, LANES):
                work[a + r * row_pitch + c] = 0
        cuda.syncthreads()
        if r < n and lane == 0:
            for e in range(indptr[order[start + r]], indptr[order[start + r] + 1]):
                work[a + r * row_pitch + indices[e]] += data[e]
                if finite == 1 and not math.isfinite(data[e]):
                    cursor[STOPPED] = 1


@device
def gather_classes_part(block, n_blocks, cursor, batch_size, order, classes, n_columns, work, a):
    """Write the batch's targets one-hot."""
    n, start = rows_of_step(cursor, batch_size), cursor[STEP_NUMBER] * batch_size
    team, lane, row_pitch = cuda.threadIdx.x // LANES, cuda.threadIdx.x % LANES, pitch_of(n_columns)
    for r in range(block * TEAMS + team, n, n_blocks * TEAMS):
        k, target = classes[order[start + r]], a + r * row_pitch
        for c in range(lane, n_columns, LANES):
            work[target + c] = 1 if c == k else 0


@device
def write_rows_part(block, n_blocks, cursor, batch_size, work, a, n_columns, out):
    """Write the batch's outputs to where all of them go, one row behind the other."""
    n, start = rows_of_step(cursor, batch_size), cursor[STEP_NUMBER] * batch_size
    team, lane, row_pitch = cuda.threadIdx.x // LANES, cuda.threadIdx.x % LANES, pitch_of(n_columns)
    for r in range(block * TEAMS + team, n, n_blocks * TEAMS):
        for c in range(lane, n_columns, LANES):
            out[(start + r) * n_columns + c] = work[a + r * row_pitch + c]
