"""CSR batches in the backend `numba`: the first layer's products cost what the entries cost.

No batch is made dense: it is ``cython_csr.pxi`` in Numba's words.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from typing import Any, NamedTuple

from numba import int32, int64

from .contract import NONE, WORK_BLOCK, Activation, Op, Optimizer
from .numba_jit import inlined, kernel, primitive, struct
from .numba_packing import clear, numbers_of, panel_rows, panel_width
from .numba_parts import (
    before_softmax,
    clear_squares,
    descend,
    finish_update,
    further,
    group,
    scatter_strips,
    softmax_samples,
)
from .numba_rows import activate_row, gather_panel, is_finite, weighted_rows
from .numba_rules import CLIP, GRAD_SCALE, IN_SCALE, L2, apply_rule, code_of, store_rates
from .numba_tiles import GRAIN, MAX_ROWS, SQUARES, TILE_VECTORS, finish_tile, rows_of_next
from .numba_vectors import (
    as_pointer_to,
    at,
    lanes,
    load,
    load_nth,
    load_whole,
    null,
    splat,
    store,
    store_whole,
)
from .numba_workers import meet, rounded, share, take, whole


@struct("C", "ipwpqqwp")
class Csr(NamedTuple):
    """What a thread needs for samples of CSR data; all but the first are pointers."""

    place: int  # where the plan puts the samples in ``work``; NONE if they are dense, or have to be
    x: Any  # this thread's: one sample, 0 everywhere but for the inputs that are listed
    inputs: Any  # this thread's: the list
    rows: Any  # this thread's: sums of the samples of a panel
    start: Any  # which entries are an input's: they ascend over the samples of a batch
    count: Any
    touched: Any  # this thread's: the inputs that have any
    entries: Any  # pairs of a value and, as an integer, the number of its sample


def csr_size(plan, n_out, n_threads, n_entries):
    """Return how many elements of ``scratch`` a plan that gathers CSR samples needs; n_entries are those of a batch."""
    n_in = max([whole(n) for n in plan["n_out"][plan["op"] == Op.GATHER_CSR_ROWS].tolist()], default=0)
    own = 2 * n_in + WORK_BLOCK[0] * n_out
    return n_threads * own + 5 * n_in + 2 * whole(n_entries) if n_in else 0


@inlined
def csr_row(plan):
    """Return the number of the row that gathers CSR samples, if only products with weights read these; or NONE."""
    found = NONE
    for r in range(plan.size):
        if plan[r].op == Op.GATHER_CSR_ROWS:
            if found != NONE:
                return NONE
            found = r
    for r in range(plan.size if found != NONE else 0):
        row, place = plan[r], plan[found].a
        if r != found and row.op != Op.OPTIMIZER_STEP:
            if place in (row.a, row.saved, row.y, row.weight, row.delta, row.delta_prev, row.rstd):
                return NONE
            is_product = row.op == Op.LINEAR_FORWARD or row.op == Op.LINEAR_GRAD or row.op == Op.LINEAR_UPDATE
            if row.a_prev == place and not (is_product and row.n_in == plan[found].n_out):
                return NONE
    return found


@inlined
def csr_of(plan, worker, rest):
    """Return what a thread needs for CSR samples, cut off what is left of the scratch, and what is left then.

    The entries begin where the rest does.
    """
    L, number = lanes(rest), csr_row(plan)
    place, n_in = (NONE, 0) if number == NONE else (plan[number].a, plan[number].n_out)
    n_whole = rounded(n_in, L)
    own_size = 2 * n_whole + TILE_VECTORS * L * rounded(worker.n_out, L) if n_in else 0
    all_own, rest = take(rest, worker.n_threads * own_size)
    start, rest = take(rest, 2 * n_in)
    count, rest = take(rest, 2 * n_in)
    touched, rest = take(rest, n_in)
    x = at(all_own, worker.thread * own_size)
    first, end = share(worker, n_in, GRAIN)
    start, count, touched = as_pointer_to(start, int64), as_pointer_to(count, int64), as_pointer_to(touched, int32)
    clear(x, n_in)
    for i in range(first, end):
        store(count, i, 0)
    own = x, as_pointer_to(at(x, n_whole), int32), at(x, 2 * n_whole)
    return Csr(place, *own, start, count, at(touched, first), rest), rest


@inlined
def open_sample(csr, sources, sample, first, end):
    """Write one sample's entries among some inputs to x, and list those that are not 0, counted from the first."""
    n_listed = 0
    for e in range(load(sources.X_indptr, sample), load(sources.X_indptr, sample + 1)):
        i, value = load(sources.X_indices, e) - first, load(sources.X_data, e)
        if i >= 0 and i < end - first and value != 0:
            store(csr.inputs, n_listed, i)
            store(csr.x, i, value)
            n_listed += 1
    return n_listed


@inlined
def close_sample(csr, n_listed):
    """Make x 0 again."""
    for t in range(n_listed):
        store(csr.x, load(csr.inputs, t), 0)


@kernel("vWBCOqLqp")
def forward_csr(tiles, worker, batch, csr, sources, order, layer, activation, a):
    """Forward product of CSR samples: only the rows of W whose input is not 0 are read. Units are shared, in strips."""
    L, n_in, n_strips, start = lanes(a), layer.n_in, (layer.n_out + lanes(a) - 1) // lanes(a), 0
    strips, after = share(worker, n_strips, 1), before_softmax(activation)
    first, n = strips.first * L, (strips.end - strips.first) * L
    b = further(layer.b, first)
    for p in range(max(batch.n_panels, 1)):
        n_rows = panel_rows(batch, p, L) if batch.n_panels else batch.n
        for r in range(n_rows):
            row = at(csr.rows, r * n) if batch.n_panels else at(a, r * n_strips * L + first)
            n_listed = open_sample(csr, sources, load(order, start + r), 0, n_in)
            weighted_rows(tiles, n_listed, csr.inputs, csr.x, at(layer.W, first * n_in), L, n_in * L, n, row)
            close_sample(csr, n_listed)
            activate_row(tiles, n, row, b, after, row, null(row))
        if batch.n_panels:
            panel, n_units = at(a, (p * layer.n_out + first) * TILE_VECTORS * L), min(n, layer.n_out - first)
            gather_panel(tiles, n_units, csr.rows, n, null(order), n_rows, panel_width(batch, p, L), panel)
        start += n_rows
    if code_of(activation) == Activation.SOFTMAX:
        meet(worker)
        softmax_samples(tiles, worker, batch, layer.n_out, a)


@inlined
def list_columns(batch, csr, sources, order, first, end):
    """List the entries of a batch input by input: those of the inputs that are this thread's.

    Return how many of these have any.
    """
    n_touched = place = 0
    for r in range(batch.n):
        sample = load(order, r)
        for e in range(load(sources.X_indptr, sample), load(sources.X_indptr, sample + 1)):
            i = load(sources.X_indices, e)
            if i >= first and i < end:
                if load(csr.count, i) == 0:
                    store(csr.touched, n_touched, i)
                    n_touched += 1
                store(csr.count, i, load(csr.count, i) + 1)
            elif i < first:  # another thread's, which come before
                place += 1
    for t in range(n_touched):
        i = load(csr.touched, t)
        store(csr.start, i, place)
        place += load(csr.count, i)
        store(csr.count, i, 0)
    for r in range(batch.n):
        sample = load(order, r)
        for e in range(load(sources.X_indptr, sample), load(sources.X_indptr, sample + 1)):
            i = load(sources.X_indices, e)
            if i >= first and i < end:
                entry = at(csr.entries, 2 * (load(csr.start, i) + load(csr.count, i)))
                store(entry, 0, load(sources.X_data, e))
                store(as_pointer_to(at(entry, 1), int32), 0, r)
                store(csr.count, i, load(csr.count, i) + 1)
    return n_touched


@kernel("vWBCOqpiSLp")
def update_csr(tiles, worker, batch, csr, sources, order, delta, rule, step, layer, W):
    """Do the work of `_linear_update` on a layer whose inputs are CSR samples."""
    L, n_in, n_strips, strip = lanes(delta), layer.n_in, (layer.n_out + lanes(delta) - 1) // lanes(delta), 0
    first, end = share(worker, n_in, GRAIN)
    is_plain = rule == Optimizer.SGD and step.l2 == 0 and step.clip == 0
    if batch.n == 1 and is_plain and is_finite(tiles, layer.n_out, delta):
        n_listed = open_sample(csr, sources, load(order, 0), first, end)
        descend(tiles, worker, first, n_listed, csr.inputs, csr.x, delta, step, layer)
        close_sample(csr, n_listed)
        return
    strips, strip_size, between = delta, L, (n_strips * L, L)
    if batch.n_panels:
        strips, strip_size, between = worker.strips, batch.n * L, (L, batch.n * L)
        scatter_strips(tiles, worker, batch, layer.n_out, delta, strips)
    n_touched = list_columns(batch, csr, sources, order, first, end)
    if batch.n_panels or step.l2 != 0:  # all strips are there, and the squares of the layer above have been added up
        meet(worker)
    if step.l2 != 0:
        clear_squares(worker, first, end)
    while strip < n_strips:
        n_vectors, here = group(n_strips, strip) if batch.n_panels else 1, strip * n_in * L
        columns, error = (csr.touched, csr.start, csr.count, csr.entries), (at(strips, strip * strip_size), *between)
        weights = at(W, here), at(layer.W, here), at(layer.m_W, here), at(layer.v_W, here), n_in * L
        own, numbers = (worker.squares, worker.tile), numbers_of(step)
        update_entries(tiles, n_vectors, first, end, n_touched, *columns, *error, rule, numbers, *weights, *own)
        strip += n_vectors
    for t in range(n_touched):
        store(csr.count, load(csr.touched, t), 0)
    finish_update(tiles, worker, batch, strips, strip_size, rule, step, layer)


@primitive("viiiiwqqppiiiDppppiDp")
def update_entries(
    n_vectors, first, end, n_touched, touched, start, count, entries, delta, d_sample, d_strip, rule, step, W, param, m,
    v, w_vector, squares, own,
):  # fmt: skip
    """Rows of the update of a layer: plain descent changes those inputs that have entries, any other rule all."""
    vector, l2, sums = lanes(own), load(step, L2), at(own, 16 * lanes(own))
    store_rates(step, load(step, GRAD_SCALE), own)
    store_whole(own, SQUARES * vector, splat(0.0, own))
    if rule == Optimizer.SGD and l2 == 0 and load(step, CLIP) == 0:
        for t in range(n_touched):
            row = load(touched, t)
            sum_entries(n_vectors, load(start, row), load(count, row), entries, delta, d_sample, d_strip, sums)
            for strip in range(n_vectors):
                here = strip * w_vector + row * vector
                g = load_nth(own, IN_SCALE) * load_nth(sums, strip * MAX_ROWS)
                apply_rule(rule, own, g, vector, at(param, here), at(m, here), at(v, here))
        return
    row = first
    while row < end:
        n_rows = min(rows_of_next(n_vectors, end - row), end - row)  # those of `update`
        for r in range(n_rows):
            place = at(sums, r * vector)
            sum_entries(n_vectors, load(start, row + r), load(count, row + r), entries, delta, d_sample, d_strip, place)
        finish_tile(rule, 0, n_vectors, row, n_rows, sums, own, l2, W, param, m, v, w_vector, squares)
        row += n_rows


@inlined
def sum_entries(n_vectors, first, n, entries, delta, d_sample, d_strip, sums):
    """The gradient of an input: the sum over its entries ascends over the samples, as where zeros are added, too."""
    for strip in range(n_vectors):
        errors, total = at(delta, strip * d_strip), splat(0.0, delta)
        for e in range(first, first + n):
            entry = at(entries, 2 * e)
            sample = load(as_pointer_to(at(entry, 1), int32), 0)
            total += splat(load(entry, 0), delta) * load_whole(errors, sample * d_sample)
        store_whole(sums, strip * MAX_ROWS * lanes(delta), total)
