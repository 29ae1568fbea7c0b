"""What is done to all parameters or their gradient, as they lie side by side; and the end of a step.

A run's parameters have rows filled up to whole vectors. ``where`` says of each parameter, in the order that its owner
knows, where it lies, and is negative for those of no layer.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import math

from numba import float64

from .blocks import N_SAMPLES, STEP_NUMBER, STOPPED, rows_of_step, sum_over_block
from .functions import FIELDS, L2, LOSS_SCALE, applied, keeps_m, keeps_v, rule_values
from .toolkit import THREADS, cuda, device, kernel

MAX_NORM, AVERAGE_DECAY = FIELDS.index("max_norm"), FIELDS.index("average_decay")
SPAN = 4096
"""Elements whose squares a block sums up: the order of a norm's sum follows from the gradient's length alone."""


@kernel
def spread_out(natural, placed, where):
    """Put parameters where they lie in a run."""
    for i in range(cuda.grid(1), natural.size, cuda.gridsize(1)):
        if where[i] >= 0:
            placed[where[i]] = natural[i]


@kernel
def brought_together(natural, placed, where):
    """Bring parameters back to the order that their owner knows."""
    for i in range(cuda.grid(1), natural.size, cuda.gridsize(1)):
        if where[i] >= 0:
            natural[i] = placed[where[i]]


@kernel
def optimizer_step(cursor, batch_size, steps, first, n, where, rule, grads, params, m, v):
    """Apply a rule to n parameters from number ``first`` on."""
    if rows_of_step(cursor, batch_size) == 0:
        return
    s = cursor[STEP_NUMBER]
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        at = where[first + i]
        if at < 0:
            continue
        g = grads[at]
        old_m, old_v = m[at] if keeps_m(rule) else g, v[at] if keeps_v(rule) else g
        params[at], new_m, new_v = applied(rule, rule_values(steps, s, g), g, params[at], old_m, old_v)
        if keeps_m(rule):
            m[at] = new_m
        if keeps_v(rule):
            v[at] = new_v


@kernel
def square_sums(cursor, batch_size, first, n, where, grads, sums):
    """Sum the squares of each `SPAN` elements of the gradient."""
    room = cuda.shared.array(THREADS, float64)
    if rows_of_step(cursor, batch_size) == 0:
        return
    total, begin = 0.0, cuda.blockIdx.x * SPAN
    for i in range(begin + cuda.threadIdx.x, min(n, begin + SPAN), THREADS):
        if where[first + i] >= 0:
            g = float(grads[where[first + i]])
            total += g * g
    total = sum_over_block(room, total)
    if cuda.threadIdx.x == 0:
        sums[cuda.blockIdx.x] = total


@kernel
def norm_of_sums(n_sums, sums, norm):
    """Take the root of all sums, in one block."""
    room = cuda.shared.array(THREADS, float64)
    total = 0.0
    for i in range(cuda.threadIdx.x, n_sums, THREADS):
        total += sums[i]
    total = sum_over_block(room, total)
    if cuda.threadIdx.x == 0:
        norm[0] = math.sqrt(total)


@kernel
def clip_norm(cursor, batch_size, steps, first, n, where, grads, norm):
    """Scale the gradient where its norm is above the step's ``max_norm``."""
    if rows_of_step(cursor, batch_size) == 0:
        return
    most, found = steps[cursor[STEP_NUMBER], MAX_NORM], norm[0] + 1e-6
    if most == 0 or found <= most:
        return
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        at = where[first + i]
        if at >= 0:
            grads[at] = grads[at] * type(grads[at])(most / found)


@kernel
def average_step(cursor, batch_size, steps, first, n, where, params, average):
    """Move the average of the parameters on."""
    if rows_of_step(cursor, batch_size) == 0:
        return
    share = 1 - steps[cursor[STEP_NUMBER], AVERAGE_DECAY]
    for i in range(cuda.grid(1), n, cuda.gridsize(1)):
        at = where[first + i]
        if at >= 0:
            average[at] = average[at] + type(average[at])(share) * (params[at] - average[at])


@device
def end_step_part(room, cursor, batch_size, steps, sums, squares, losses):
    """Add up a step's losses and squares in one block, and go on to the next step."""
    n, s = rows_of_step(cursor, batch_size), cursor[STEP_NUMBER]
    if n == 0:
        return
    total = penalty = 0.0
    for i in range(cuda.threadIdx.x, n, THREADS):
        total += sums[i]
    total = sum_over_block(room, total)
    if steps[s, L2] != 0:
        for i in range(cuda.threadIdx.x, squares.size, THREADS):
            penalty += squares[i]
        penalty = sum_over_block(room, penalty)
    if cuda.threadIdx.x == 0:
        losses[0] += steps[s, LOSS_SCALE] * total
        losses[1] += steps[s, LOSS_SCALE] * 0.5 * steps[s, L2] * penalty
        losses[2] += 1
        cursor[STEP_NUMBER] = s + 1


@kernel
def end_step(cursor, batch_size, steps, sums, squares, losses):
    room = cuda.shared.array(THREADS, float64)
    end_step_part(room, cursor, batch_size, steps, sums, squares, losses)


@kernel
def start(cursor, n_samples, losses):
    """Begin a run of steps on so many samples."""
    if cuda.grid(1) == 0:
        cursor[STEP_NUMBER], cursor[STOPPED], cursor[N_SAMPLES] = 0, 0, n_samples
        losses[0] = losses[1] = losses[2] = 0.0


@kernel
def go_on(cursor, n_samples):
    """Go on with so many further samples, which lie at the begin of their arrays; not after one that is not finite."""
    if cuda.grid(1) == 0:
        cursor[STEP_NUMBER], cursor[N_SAMPLES] = 0, n_samples


@kernel
def next_batch(cursor):
    """Go on to the next batch of a prediction."""
    if cuda.grid(1) == 0:
        cursor[STEP_NUMBER] += 1
