"""What stands between the products of layers in the backend `numba`: the rows of a plan for which few plans ask."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from .contract import NONE, Op
from .numba_dropout import dropout_units
from .numba_jit import inlined, kernel
from .numba_maxout import maxout_delta_units, maxout_units
from .numba_norm import batch_norm_delta_units, batch_norm_units, norm_of
from .numba_packing import activation_of, layer_of
from .numba_vectors import at, null

TRAINED = Op.BATCH_NORM, Op.MAXOUT, Op.DROPOUT, Op.MAXOUT_DELTA, Op.BATCH_NORM_DELTA


@inlined
def is_between_layers(op):
    """Tell whether `train_between_layers` does a row of this kind."""
    is_forward = op == Op.BATCH_NORM or op == Op.MAXOUT or op == Op.DROPOUT
    return is_forward or op == Op.MAXOUT_DELTA or op == Op.BATCH_NORM_DELTA


@kernel("vWBRSTp", only_for=TRAINED)
def train_between_layers(tiles, worker, batch, row, step, states, work):
    """Do a row of a step, one of those that are compiled only for plans which have them."""
    a_prev, a, delta, n = at(work, row.a_prev), at(work, row.a), at(work, row.delta), row.n_out
    saved, activation = null(work) if row.saved == NONE else at(work, row.saved), activation_of(row)
    if row.op == Op.BATCH_NORM:
        norm = norm_of(row, states.params)
        batch_norm_units(tiles, worker, batch, norm, a_prev, activation, saved, at(work, row.rstd), a)
    elif row.op == Op.MAXOUT:
        maxout_units(tiles, worker, batch, row.n_in, n, a_prev, a)
    elif row.op == Op.DROPOUT:
        dropout_units(tiles, worker, batch, n, a, activation, row.probability, row.stream, step, saved)
    elif row.op == Op.MAXOUT_DELTA:
        maxout_delta_units(tiles, worker, batch, row.n_in, n, a_prev, delta, at(work, row.delta_prev))
    else:
        layer = layer_of(row, states.grads, states.grads, states.grads)
        if row.optimizer != NONE:
            layer = layer_of(row, states.params, states.m, states.v)
        known = a_prev, at(work, row.rstd), at(states.params, row.W)
        batch_norm_delta_units(tiles, worker, batch, n, *known, row.optimizer, step, layer, delta)
