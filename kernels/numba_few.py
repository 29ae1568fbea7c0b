"""Prediction of few samples in the backend `numba`, one after the other: W has its natural form."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from numba import float64, int32

from .contract import LAYER, NONE, Activation
from .numba_jit import inlined, jit
from .numba_maxout import maxout_row
from .numba_norm import normalize_row
from .numba_parts import before_softmax, list_all
from .numba_rows import activate_any_row, softmax, weighted_rows
from .numba_rules import code_of
from .numba_vectors import as_pointer_to, at, lanes, load, null, pointer
from .numba_workers import rounded

N_IN, N_OUT, PLACE_W, PLACE_B, ACTIVATION, _, _, _, PIECES, GAMMA, MEAN, VARIANCE, EPSILON = range(len(LAYER))
"""Columns of the table of layers."""


@jit
def rows_forward(tiles, layers, X, params, scratch, out):
    table, own, vector = pointer(tiles), pointer(scratch), lanes(pointer(scratch))
    last, room = len(layers) - 1, 0
    for number in range(len(layers)):
        room = max(room, rounded(max(layers[number, N_IN], layers[number, N_OUT]), vector))
    sums = at(own, 2 * room)
    inputs = as_pointer_to(at(sums, room), int32)
    for sample in range(X.size // layers[0, N_IN]):
        x = at(pointer(X), sample * layers[0, N_IN])
        for number in range(len(layers)):
            layer = at(pointer(layers), number * layers.shape[1])
            n_units = load(layer, N_OUT) // load(layer, PIECES)
            a = at(pointer(out), sample * n_units) if number == last else at(own, number % 2 * room)
            _layer_forward(table, layer, pointer(params), x, inputs, sums, a)
            x = a


@inlined
def _layer_forward(tiles, layer, params, x, inputs, sums, a):
    n_in, n, n_pieces, activation = load(layer, N_IN), load(layer, N_OUT), load(layer, PIECES), at(layer, ACTIVATION)
    b = null(a) if load(layer, PLACE_B) == NONE else at(params, load(layer, PLACE_B))
    weights = at(params, load(layer, PLACE_W))
    weighted_rows(tiles, list_all(n_in, inputs), inputs, x, weights, n, lanes(a), n, sums)
    if load(layer, GAMMA) != NONE:
        gamma, running = (
            at(params, load(layer, GAMMA)),
            (at(params, load(layer, MEAN)), at(params, load(layer, VARIANCE))),
        )
        normalize_row(n, sums, gamma, b, *running, load(as_pointer_to(layer, float64), EPSILON))
        b = null(a)
    z = sums if n_pieces > 1 else a
    activate_any_row(tiles, n, sums, b, before_softmax(activation), z, null(a))
    if code_of(activation) == Activation.SOFTMAX:
        softmax(tiles, n, 0, z)
    if n_pieces > 1:
        maxout_row(n // n_pieces, n_pieces, n // n_pieces, z, a)
