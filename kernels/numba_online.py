"""Online learning in the backend `numba`: gradient descent on one sample after the other, in one thread.

It is ``cython_online.pxi`` in Numba's words, and compiled when it is first asked for.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from numba import int32

from .contract import NONE, Activation, Loss, Op
from .numba_blocks import ROW_VECTORS, add_outer_forward_vectors
from .numba_jit import inlined, jit
from .numba_packing import activation_of, clear, place, sources_of, uncounted
from .numba_parts import before_softmax, list_all
from .numba_rows import (
    activate_row,
    add_outer,
    custom_row,
    fetch,
    is_finite,
    list_nonzero,
    losses_of,
    output_row,
    pack,
    row_products,
    softmax,
    through_activation,
    weighted_rows,
)
from .numba_vectors import (
    as_pointer_to,
    at,
    fma,
    lanes,
    load,
    load_vector,
    load_whole,
    null,
    pointer,
    splat,
    store,
    store_vector,
    store_whole,
)
from .numba_workers import rounded


class Online(NamedTuple):
    """Where things stand in an online plan, and in memory."""

    forward: int  # the first layer's row; the others follow
    output: int
    update: int  # the first layer's, the last row; between it and the output the others' backward products and updates
    is_log: bool  # whether a sample's loss is -log of the probability of its class
    sources: Any
    params: Any
    work: Any
    sums: Any  # of a layer


@inlined
def _online_of(plan, buffers, params, sums):
    """Return where things stand in an online plan (`contract.PLAN_ROW`)."""
    forward = output = 0
    while plan[forward].op != Op.LINEAR_FORWARD:
        forward += 1
    while plan[output].op != Op.OUTPUT_DELTA:
        output += 1
    is_log = plan[output].loss == Loss.CROSS_ENTROPY and plan[1].op == Op.GATHER_CLASSES
    arrays = sources_of(buffers), params, pointer(buffers.work), sums
    return Online(forward, output, plan.size - 1, is_log, *arrays)


@inlined
def _listed(online, row):
    """Return where the inputs of a layer that are not 0 are listed, behind their number.

    That is after the inputs themselves, in the room that a batch of many samples would take.
    """
    return as_pointer_to(at(online.work, row.a_prev + rounded(row.n_in, lanes(online.work))), int32)


@jit
def online_steps(tiles, natural, plan, steps, order, buffers, losses):
    """Do gradient descent on some samples; return how many steps are done.

    Before samples or errors that are not finite, penalties and clipping it ends: these are left to the walk.
    """
    natural, plan, losses = uncounted(natural), uncounted(plan), uncounted(losses)
    table, params = pointer(tiles), pointer(buffers.scratch)
    size = place(natural, plan, params)
    if not is_finite(table, size, params):
        return 0
    online = _online_of(plan, buffers, params, at(params, size))
    s = n_kept = 0  # losses that have not been added up
    is_forward = False  # whether the first layer's product is there already
    n_in, L = plan[online.forward].n_in, lanes(params)
    while s < steps.size:
        x, step = at(online.sources.X, order[s] * n_in), steps[s]
        if step.l2 != 0 or step.clip != 0 or not (is_forward or is_finite(table, n_in, x)):
            break
        following = at(online.sources.X, order[min(s + 1, steps.size - 1)] * n_in)
        fetch(table, n_in, following)
        if not is_forward:
            _forward(table, online, plan[online.forward], x)
        for number in range(online.forward + 1, online.output):
            _forward(table, online, plan[number], at(online.work, plan[number].a_prev))
        finite, loss = _errors(table, online, plan, order[s])
        if not finite:
            break
        losses[2] += 1
        if online.is_log:
            p = load(online.work, plan[online.output].a + load(online.sources.classes, order[s]))
            store(_kept(online, plan), n_kept, p)
            n_kept += 1
        else:
            losses[0] += step.loss_scale * loss
        for number in range(online.output + 2, online.update, 2):
            _update(table, online, plan[number], at(online.work, plan[number].a_prev), step)
        row, is_forward = plan[online.update], False
        if s + 1 < steps.size:
            is_forward = is_finite(table, n_in, following) != 0
        if is_forward:
            _turn(table, online, row, x, following, step)
            _activate(table, online, plan[online.forward])
        else:
            _update(table, online, row, x, step)
        s += 1
        if n_kept == L:
            _count_losses(online, plan, steps, order, s - n_kept, s, losses)
            n_kept = 0
    _count_losses(online, plan, steps, order, s - n_kept, s, losses)
    return s


@inlined
def _count_losses(online, plan, steps, order, first, end, losses):
    """Add up the losses of some steps, at most as many as a vector has lanes, from the probabilities that were kept."""
    kept, n = _kept(online, plan), end - first
    store_vector(kept, n, losses_of(Loss.CROSS_ENTROPY, load_vector(kept, n, 1), splat(1.0, kept)))
    for s in range(first, end):
        weight = 1.0
        if plan[online.output].weight != NONE:
            weight = float(load(online.sources.sample_weight, order[s]))
        losses[0] += steps[s].loss_scale * (weight * load(kept, s - first))


@inlined
def _kept(online, plan):
    """Return where the probabilities of some samples' classes are kept, whose logarithms are taken together.

    That is in the room of a batch's targets, behind the only one's.
    """
    row = plan[online.output]
    return at(online.work, row.y + rounded(row.n_out, lanes(online.work)))


@inlined
def _forward(tiles, online, row, x):
    """Forward product; list the inputs that are not 0."""
    L, n_in, listed = lanes(x), row.n_in, _listed(online, row)
    n_listed = list_nonzero(tiles, n_in, x, x, at(listed, 1))
    store(listed, 0, n_listed)
    weights, n = at(online.params, row.W), rounded(row.n_out, L)
    weighted_rows(tiles, n_listed, at(listed, 1), x, weights, L, n_in * L, n, online.sums)
    _activate(tiles, online, row)


@inlined
def _activate(tiles, online, row):
    """Turn the sums of a layer into its activations."""
    a, b = at(online.work, row.a), null(online.params)
    if row.b != NONE:
        b = at(online.params, row.b)
    activate_row(tiles, rounded(row.n_out, lanes(a)), online.sums, b, before_softmax(activation_of(row)), a, null(a))
    if row.activation == Activation.SOFTMAX:
        softmax(tiles, row.n_out, 1, a)


@functools.partial(inlined, forceinline=True)  # a call would put some twenty numbers on the stack
def _errors(tiles, online, plan, sample):
    """Find all layers' errors; return whether they are finite, and the loss unless its logarithm can wait.

    An error that is not finite makes all products with it so: it is seen further down, unless there are none.
    """
    row, work, finite, weight = plan[online.output], online.work, True, 1.0
    y, delta, L = at(work, row.y), at(work, row.delta), lanes(work)
    _target(tiles, online, plan[1], sample, y)
    if row.weight != NONE:
        weight = float(load(online.sources.sample_weight, sample))
    loss_code, errors = NONE if online.is_log else row.loss, (at(work, row.a), y, weight, delta)
    if loss_code == Loss.CUSTOM:
        loss = custom_row(tiles, row.n_out, 1, row.loss_function, *errors)
    else:
        loss = output_row(tiles, row.n_out, 1, activation_of(row), loss_code, *errors)
    for number in range(online.output + 1, online.update, 2):
        row = plan[number]
        n_in, n_out, listed = row.n_in, rounded(row.n_out, L), _listed(online, row)
        delta_prev = at(work, row.delta_prev)
        clear(delta_prev, rounded(n_in, L))
        if row.activation != Activation.RELU:
            store(listed, 0, list_all(n_in, at(listed, 1)))
        n_listed = int(load(listed, 0))
        finite = finite and (n_listed > 0 or is_finite(tiles, n_out, delta) != 0)
        row_products(tiles, n_listed, at(listed, 1), delta, at(online.params, row.W), n_in, n_out, delta_prev)
        if row.activation != Activation.RELU:
            through_activation(tiles, n_in, at(work, row.a_prev), activation_of(row), delta_prev)
        delta = delta_prev
    return finite and is_finite(tiles, plan[online.update].n_out, delta) != 0, loss


@inlined
def _target(tiles, online, row, sample, y):
    """Write a sample's targets, in whole vectors."""
    n, n_filled = row.n_out, rounded(row.n_out, lanes(y))
    if row.op == Op.GATHER_CLASSES:
        clear(y, n_filled)
        store(y, load(online.sources.classes, sample), 1)
    else:
        pack(tiles, 1, n, at(online.sources.y, sample * n), n, y, n_filled)


@functools.partial(inlined, forceinline=True)  # likewise
def _update(tiles, online, row, x, step):
    """Gradient descent on a layer."""
    listed, delta, scale = _listed(online, row), at(online.work, row.delta), -step.rate * step.grad_scale
    n, weights = rounded(row.n_out, lanes(x)), at(online.params, row.W)
    add_outer(tiles, int(load(listed, 0)), at(listed, 1), scale, x, delta, weights, row.n_in, n)
    _update_bias(online, row, delta, scale)


@inlined
def _update_bias(online, row, delta, scale):
    if row.b != NONE:
        b = at(online.params, row.b)
        for j in range(0, row.n_out, lanes(b)):
            store_whole(b, j, fma(splat(scale, b), load_whole(delta, j), load_whole(b, j)))


@inlined
def _turn(tiles, online, row, x, following, step):
    """Gradient descent on the first layer, and its sums for the sample that follows."""
    L, n_in, listed, scale = lanes(x), row.n_in, _listed(online, row), -step.rate * step.grad_scale
    delta, n = at(online.work, row.delta), rounded(row.n_out, lanes(x))
    n_listed = list_nonzero(tiles, n_in, x, following, at(listed, 1))
    store(listed, 0, n_listed)
    for o in range(0, n, ROW_VECTORS // 2 * L):  # half as many as in add_outer: each of them takes two registers
        rows = at(online.params, row.W + o * n_in), n_in * L, at(online.sums, o)
        n_vectors = min((n - o) // L, ROW_VECTORS // 2)
        add_outer_forward_vectors(n_vectors, n_listed, at(listed, 1), scale, x, at(delta, o), following, *rows)
    _update_bias(online, row, delta, scale)
