"""How a block's threads share work, and sums over them in an order that is always the same.

A block is `TEAMS` teams of `LANES` threads. A team takes a row of a matrix, its lanes the columns; where columns are
summed, a lane takes a column and the teams its rows. All threads of a block come to every meeting. ``room`` is shared
memory for `THREADS` numbers of float64, which kernels have and hand down: two device functions with shared arrays of
their own cannot be linked into one kernel twice.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from .toolkit import IS_SIMULATED, THREADS, cuda, device

LANES = 4 if IS_SIMULATED else 32
TEAMS = THREADS // LANES

STEP_NUMBER, STOPPED, N_SAMPLES = range(3)
"""Places in a run's ``cursor``: the step that is next, whether the run has ended early, and how many samples its order
has."""

PITCH = 4
"""Rows of a matrix on the device begin at multiples of so many elements, filled up with zeros: whole vectors."""


def pitch(n: int) -> int:
    """Return the distance between the rows of a matrix of n columns."""
    return -(-n // PITCH) * PITCH


@device
def pitch_of(n):
    """Return the distance between the rows of a matrix of n columns."""
    return (n + PITCH - 1) // PITCH * PITCH


@device
def rows_of_step(cursor, batch_size):
    """Return how many samples the next step has: none once the run has ended."""
    if cursor[STOPPED] != 0:
        return 0
    return max(0, min(batch_size, cursor[N_SAMPLES] - cursor[STEP_NUMBER] * batch_size))


@device
def sum_over_lanes(room, value):
    """Return the sum of a team's values."""
    thread = cuda.threadIdx.x
    lane = thread % LANES
    room[thread] = value
    half = LANES // 2
    while half > 0:
        cuda.syncthreads()
        if lane < half:
            room[thread] += room[thread + half]
        half //= 2
    cuda.syncthreads()
    total = room[thread - lane]
    cuda.syncthreads()
    return total


@device
def largest_over_lanes(room, value):
    """Return the largest of a team's values; NaN if one is NaN."""
    thread = cuda.threadIdx.x
    lane = thread % LANES
    room[thread] = value
    half = LANES // 2
    while half > 0:
        cuda.syncthreads()
        if lane < half and not room[thread] >= room[thread + half]:
            if room[thread] == room[thread]:
                room[thread] = room[thread + half]
        half //= 2
    cuda.syncthreads()
    most = room[thread - lane]
    cuda.syncthreads()
    return most


@device
def sum_over_teams(room, value):
    """Return the sum of the values that the teams' threads of this lane have."""
    thread = cuda.threadIdx.x
    room[thread] = value
    half = TEAMS // 2
    while half > 0:
        cuda.syncthreads()
        if thread // LANES < half:
            room[thread] += room[thread + half * LANES]
        half //= 2
    cuda.syncthreads()
    total = room[thread % LANES]
    cuda.syncthreads()
    return total


@device
def sum_over_block(room, value):
    """Return the sum of all threads' values."""
    return sum_over_lanes(room, sum_over_teams(room, value))
