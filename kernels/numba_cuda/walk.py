"""One kernel that runs many steps of a small network: a block walks the plan, activations in its shared memory."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, assignment"

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numba import float32, float64
from numpy.typing import NDArray

from ..contract import NONE, Op, Source
from .blocks import STEP_NUMBER, rows_of_step
from .flat import end_step_part
from .functions import SOFTMAX
from .norms import batch_norm_delta_part, batch_norm_part
from .samples import gather_classes_part, gather_rows_part
from .small import block_products
from .stages import ALIGNMENT
from .toolkit import THREADS, cuda, kernel
from .units import (
    activate_part,
    activation_delta_part,
    dropout_part,
    maxout_delta_part,
    maxout_part,
    output_delta_part,
    softmax_part,
)

WHOLE = (
    *("op", "activation", "loss", "optimizer", "source", "finite", "n_in", "n_out", "a_prev", "a", "saved", "y"),
    *("weight", "W", "b", "delta", "delta_prev", "mean", "variance", "rstd", "stream", "squares"),
)
REAL = ("parameter", "at_zero", "epsilon", "momentum", "probability")
"""What the kernel knows of a plan's rows: whole numbers and floating ones, a table each."""

# fmt: off
(OP, ACTIVATION, LOSS, OPTIMIZER, SOURCE, FINITE, N_IN, N_OUT, A_PREV, A, SAVED, Y, WEIGHT, W, B, DELTA, DELTA_PREV,
 MEAN, VARIANCE, RSTD, STREAM, SQUARES) = range(len(WHOLE))
PARAMETER, AT_ZERO, EPSILON, MOMENTUM, PROBABILITY = range(len(REAL))
(GATHER_ROWS, GATHER_CSR_ROWS, GATHER_CLASSES, LINEAR_FORWARD, BATCH_NORM, NORMALIZE, ACTIVATE, MAXOUT, DROPOUT,
 OUTPUT_DELTA, ACTIVATION_DELTA, MAXOUT_DELTA, BATCH_NORM_DELTA, BACKPROP_DELTA, LINEAR_GRAD, LINEAR_UPDATE) = (
    int(op) for op in Op if op <= Op.LINEAR_UPDATE
)
# fmt: on
FROM_X, FROM_Y = int(Source.X), int(Source.Y)

WALKED = frozenset(op for op in Op if op <= Op.LINEAR_UPDATE) - {Op.NORMALIZE, Op.GATHER_CSR_ROWS}
"""The rows that a walk has."""


def tables(rows: list[Any]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return what the kernel knows of a plan's rows."""
    whole = np.array([[int(getattr(row, name)) for name in WHOLE] for row in rows], np.int64)
    return whole, np.array([[float(getattr(row, name)) for name in REAL] for row in rows], np.float64)


@functools.cache
def walk_kernel() -> Any:
    """Return the kernel that walks a plan, in float32. ``work`` lies in the block's dynamic shared memory."""
    forward, backprop, update = block_products("float32")

    @kernel
    def walk(arguments):
        (
            n_steps, cursor, batch_size, order, steps, whole, real, X, y, classes,
            sample_weight, params, grads, m, v, work_size, sums, squares, losses, epsilon,
        ) = arguments  # fmt: skip
        room = cuda.shared.array(THREADS, float64)
        work = cuda.shared.array(0, float32, ALIGNMENT)
        for i in range(cuda.threadIdx.x, work_size, THREADS):
            work[i] = 0
        cuda.syncthreads()
        for _ in range(n_steps):
            now = 0, 1, cursor, batch_size
            with_room = 0, 1, room, cursor, batch_size
            for r in range(len(whole)):
                # asked anew for each row: a gather that finds what is not finite ends the run before this step
                n, s = rows_of_step(cursor, batch_size), cursor[STEP_NUMBER]
                op, n_in, n_out = whole[r, OP], whole[r, N_IN], whole[r, N_OUT]
                code, parameter, at_zero = whole[r, ACTIVATION], real[r, PARAMETER], real[r, AT_ZERO]
                a_prev, a, delta, weights, bias = (
                    whole[r, A_PREV],
                    whole[r, A],
                    whole[r, DELTA],
                    whole[r, W],
                    whole[r, B],
                )
                if op == LINEAR_FORWARD:
                    forward(n, work, params, n_in, n_out, a_prev, weights, bias, code, parameter, a)
                    if code == SOFTMAX:
                        cuda.syncthreads()
                        softmax_part(*with_room, n_out, work, a)
                elif op == BACKPROP_DELTA:
                    function = code, parameter, at_zero
                    backprop(n, work, params, n_in, n_out, delta, weights, a_prev, *function, whole[r, DELTA_PREV])
                elif op == LINEAR_UPDATE or op == LINEAR_GRAD:
                    rule = whole[r, OPTIMIZER] if op == LINEAR_UPDATE else NONE
                    states = steps, work, params, grads, m, v
                    if n > 0:
                        places = n_in, n_out, a_prev, delta, rule, weights, bias, squares, whole[r, SQUARES]
                        update(room, n, s, *states, *places)
                elif op == GATHER_ROWS:
                    source = X
                    if whole[r, SOURCE] == FROM_Y:
                        source = y
                    elif whole[r, SOURCE] != FROM_X:
                        source = sample_weight
                    gather_rows_part(*now, order, source, n_out, whole[r, FINITE], work, a)
                elif op == GATHER_CLASSES:
                    gather_classes_part(*now, order, classes, n_out, work, a)
                elif op == OUTPUT_DELTA:
                    function = code, parameter, at_zero, whole[r, LOSS], epsilon
                    output_delta_part(*with_room, n_out, work, a, whole[r, Y], whole[r, WEIGHT], *function, delta, sums)
                elif op == ACTIVATION_DELTA:
                    activation_delta_part(*with_room, n_out, work, a_prev, code, parameter, at_zero, delta)
                elif op == ACTIVATE:
                    activate_part(*now, n_out, work, a_prev, code, parameter, at_zero, a, whole[r, SAVED])
                elif op == DROPOUT:
                    function = code, parameter, at_zero, real[r, PROBABILITY], whole[r, STREAM]
                    dropout_part(*now, steps, n_out, work, a, *function, whole[r, SAVED])
                elif op == MAXOUT:
                    maxout_part(*now, n_in, n_out, work, a_prev, a)
                elif op == MAXOUT_DELTA:
                    maxout_delta_part(*now, n_in, n_out, work, a_prev, delta, whole[r, DELTA_PREV])
                elif op == BATCH_NORM:
                    numbers = weights, bias, real[r, EPSILON], real[r, MOMENTUM], code, parameter
                    kept = whole[r, SAVED], whole[r, RSTD], whole[r, MEAN], whole[r, VARIANCE]
                    batch_norm_part(*with_room, n_out, work, params, a_prev, *numbers, *kept, a)
                elif op == BATCH_NORM_DELTA:
                    states = n_out, work, params, grads, m, v, a_prev
                    batch_norm_delta_part(
                        *with_room, steps, *states, whole[r, RSTD], weights, bias, whole[r, OPTIMIZER], delta
                    )
                cuda.syncthreads()
            end_step_part(room, cursor, batch_size, steps, sums, squares, losses)
            cuda.syncthreads()

    return walk
