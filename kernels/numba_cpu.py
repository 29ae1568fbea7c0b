"""Backend ``numba``: the operations of `reference`, compiled by Numba; arguments and formulas stand there.

It is the backend `cython` in Numba's words: `numba_packing` and `numba_workers` are its ``.pxi`` files, and the
primitives of `numba_tiles` and `numba_rows` its C. The operations take arrays; the kernels behind them, named alike
with an underscore, take pointers, so that `train_steps` walks a plan without making views. In the kernels ``tiles``
points to a table of the primitives' addresses.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import math

import numpy as np
from numba import float64

from . import contract
from .contract import NONE, Activation, Loss, Op, Optimizer, Source
from .numba_csr import csr_of, csr_size, forward_csr, update_csr
from .numba_dropout import dropout_by_hand
from .numba_few import rows_forward
from .numba_jit import as_writable, inlined, jit, kernel, tiles_of
from .numba_layers import is_between_layers, train_between_layers
from .numba_maxout import maxout_by_hand, maxout_delta_by_hand, maxout_units
from .numba_norm import batch_norm_by_hand, batch_norm_delta_by_hand, norm_of, normalize_by_hand, normalize_units
from .numba_online import online_steps
from .numba_packing import (
    AS_NUMBERS,
    Layer,
    States,
    activation_of,
    clear,
    gather,
    give_back,
    keep_numbers,
    layer_of,
    make_batch,
    numbers_of,
    pack_batch,
    pack_state,
    panel_rows,
    panel_width,
    place,
    source_of,
    sources_of,
    take_batch,
    take_layer,
    take_weights,
    uncounted,
    unpack_batch,
)
from .numba_parts import (
    BLOCK_SIZE,
    NORM_BLOCK,
    activate_units,
    activation_delta_of_units,
    average_packed,
    backprop_one,
    before_softmax,
    clear_squares,
    clip_packed,
    descend_one,
    finish_update,
    forward_one,
    forward_panels,
    forward_rows,
    further,
    group,
    has,
    n_blocks,
    norm_factor,
    optimizer_step,
    remember,
    scatter_strips,
    softmax_samples,
    spread,
    terms_at_once,
)
from .numba_rows import (
    activate_any_row,
    apply,
    custom_panel,
    custom_row,
    is_finite,
    move_average,
    output_classes,
    output_panel,
    output_row,
    rescale,
    square_sum,
    through_activation,
    through_softmax,
)
from .numba_rules import code_of
from .numba_tiles import ACROSS_STRIPS, FEW_ROWS, GRAIN, TILE_VECTORS, product, update
from .numba_vectors import (
    VECTOR_BYTES,
    address_of,
    as_pointer_to,
    at,
    is_null,
    lanes,
    load,
    load_vector,
    null,
    pointer,
    store,
    store_vector,
)
from .numba_workers import (
    Ahead,
    alone,
    atomic_load,
    atomic_store,
    meet,
    rounded,
    share,
    sum_of,
    take,
    whole,
    worker_of,
    workspace_size,
)
from .threads import STOPPED, together


def scratch_size(n_in, n_out, n_rows):
    """Return how many elements of ``scratch`` an operation on a layer needs: its arguments packed."""
    n_in, n_out, n_rows = whole(n_in), whole(n_out), whole(n_rows)
    batch = 2 * (contract.room(n_rows, n_in) + contract.room(n_rows, n_out))
    return workspace_size(n_in, n_out, n_rows, 1) + batch + 3 * (n_in + 1) * n_out


def run_scratch_size(plan, n_rows, n_threads, n_entries):
    """Return how many elements of ``scratch`` a walk of ``plan`` needs: parameters packed, and its largest layer."""
    rows = list(zip(*(plan[name].tolist() for name in ("op", "n_in", "n_out")), strict=True))
    layers = [(whole(n_in), whole(n_out)) for op, n_in, n_out in rows if op in contract.LAYER_OPS]
    n_in, n_out = (max((size[i] for size in layers), default=0) for i in range(2))
    widest = max((n for op, _, n in rows if op in _LAST), default=0)
    packed = sum((n_in + 3) * n_out for n_in, n_out in layers)  # with a bias, mean and variance
    csr = csr_size(plan, n_out, n_threads, n_entries)
    norms = 2 * (packed // NORM_BLOCK + 1 + 2 * len(plan)) if Op.CLIP_NORM in plan["op"].tolist() else 0
    parts = workspace_size(n_in, n_out, whole(n_rows), n_threads) + contract.room(n_rows, widest) + csr + whole(norms)
    return parts + sum(_used(plan)) * packed


_LAST = *contract.LAYER_OPS, Op.ACTIVATE, Op.MAXOUT
"""Rows that may be the last ones of a prediction."""


def rows_scratch_size(layers):
    """Return how many elements of ``scratch`` `predict_rows` needs: two layers' activations, one's sums and inputs."""
    return 4 * whole(int(layers[:, :2].max()))


def _used(plan):
    """Return whether a plan uses params, grads, m, v and average: 1 or 0."""
    ops = plan["op"].tolist()
    updates = Op.LINEAR_UPDATE, Op.OPTIMIZER_STEP, Op.BATCH_NORM_DELTA
    rules = {rule for op, rule in zip(ops, plan["optimizer"].tolist(), strict=True) if op in updates}
    gradient = NONE in rules or bool({Op.LINEAR_GRAD, Op.OPTIMIZER_STEP, Op.CLIP_NORM} & {*ops})
    m, v = (any(name in contract.MOMENTS[rule] for rule in rules - {NONE}) for name in ("m", "v"))
    return 1, int(gradient), int(m), int(v), int(Op.AVERAGE_STEP in ops)


PACKS = True
TAKES_CUSTOM = True
PREDICTED_ROWS, PREDICTED_FLOPS = 256, 5e9


def pack(plan, buffers, moments=True, samples=True):
    """Pack the parameters of a run, and what goes with them, into ``scratch``, where `train_steps` works on them."""
    _pack(*_packing(plan, buffers), True, moments, False)


def unpack(plan, buffers, params=True, moments=True):
    """Write the parameters of a run, and what goes with them, back to where their owner looks for them."""
    _pack(*_packing(plan, buffers), params, moments, True)


def shuffle(u, order, n_threads=1):
    _shuffle(u, order)


def gather_rows(X, order, out, n_threads=1):
    _gather_rows(X, order, out)


def gather_csr_rows(data, indices, indptr, order, out, n_threads=1):
    _gather_csr_rows(data, indices, indptr, order, out)


def gather_classes(classes, order, out, n_threads=1):
    _gather_classes(classes, order, out)


def linear_forward(a_prev, W, b, activation, a, scratch, n_threads=1):
    _forward_by_hand(_tiles(a), a_prev, W, b, _words(activation), a, scratch)


def batch_norm(
    z, gamma, beta, epsilon, momentum, activation, normalized, rstd, mean, variance, a, n_threads=1
):  # fmt: skip
    written, numbers = (normalized, rstd, mean, variance), (float(epsilon), float(momentum))
    tiles, scratch = _tiles(a, [Op.BATCH_NORM]), _scratch_for(z, a)
    batch_norm_by_hand(tiles, z, numbers, (gamma, beta), _words(activation), written, a, scratch)


def normalize(z, gamma, beta, mean, variance, epsilon, activation, a, n_threads=1):
    tiles, vectors = _tiles(a, [Op.NORMALIZE]), (gamma, beta, mean, variance)
    normalize_by_hand(tiles, z, vectors, float(epsilon), _words(activation), a, _scratch_for(z))


def activate(z, activation, a, saved, n_threads=1):
    _activate_by_hand(_tiles(a), z, _words(activation), a, saved)


def maxout(z, a, n_threads=1):
    maxout_by_hand(_tiles(a, [Op.MAXOUT]), z, a, _scratch_for(z, a))


def dropout(a, activation, probability, stream, step, saved, n_threads=1):
    tiles, draws = _tiles(a, [Op.DROPOUT]), (float(probability), int(stream))
    dropout_by_hand(tiles, a, _words(activation), *draws, step, saved, _scratch_for(a, a))


def output_delta(a, y, sample_weight, activation, loss, delta, n_threads=1):
    return _output_by_hand(_tiles(a), a, y, sample_weight, _words(activation), _words(loss), delta)


def activation_delta(a, activation, delta, n_threads=1):
    _activation_delta_by_hand(_tiles(delta), a, _words(activation), delta)


def maxout_delta(z, delta, delta_z, n_threads=1):
    maxout_delta_by_hand(_tiles(z, [Op.MAXOUT_DELTA]), z, delta, delta_z, _scratch_for(z, delta, delta_z))


def batch_norm_delta(normalized, rstd, gamma, step, delta, grad_gamma, grad_beta, n_threads=1):
    tiles, gradient = _tiles(delta, [Op.BATCH_NORM_DELTA]), (grad_gamma, grad_beta)
    batch_norm_delta_by_hand(tiles, normalized, rstd, gamma, step, delta, *gradient, _scratch_for(normalized, delta))


def backprop_delta(delta, W, a_prev, activation, delta_prev, scratch, n_threads=1):
    _backprop_by_hand(_tiles(delta), delta, W, a_prev, _words(activation), delta_prev, scratch)


def linear_grad(a_prev, delta, step, W, grad_W, grad_b, scratch, n_threads=1):
    moments = grad_W, grad_b, grad_W, grad_b  # there are none
    return _update_by_hand(_tiles(W), a_prev, delta, NONE, step, W, grad_W, grad_b, *moments, scratch)


def sgd_step(grad, step, param, n_threads=1):
    _step_by_hand(_tiles(grad), Optimizer.SGD.value, grad, step, param, param, param)


def momentum_step(grad, step, param, velocity, n_threads=1):
    _step_by_hand(_tiles(grad), Optimizer.MOMENTUM.value, grad, step, param, velocity, velocity)


def nesterov_step(grad, step, param, velocity, n_threads=1):
    _step_by_hand(_tiles(grad), Optimizer.NESTEROV.value, grad, step, param, velocity, velocity)


def adam_step(grad, step, param, m, v, n_threads=1):
    _step_by_hand(_tiles(grad), Optimizer.ADAM.value, grad, step, param, m, v)


def nadam_step(grad, step, param, m, v, n_threads=1):
    _step_by_hand(_tiles(grad), Optimizer.NADAM.value, grad, step, param, m, v)


def rmsprop_step(grad, step, param, v, n_threads=1):
    _step_by_hand(_tiles(grad), Optimizer.RMSPROP.value, grad, step, param, v, v)


def adagrad_step(grad, step, param, v, n_threads=1):
    _step_by_hand(_tiles(grad), Optimizer.ADAGRAD.value, grad, step, param, v, v)


def linear_update(a_prev, delta, optimizer, step, W, b, m_W, m_b, v_W, v_b, scratch, n_threads=1):
    return _update_by_hand(_tiles(W), a_prev, delta, optimizer, step, W, W, b, m_W, m_b, v_W, v_b, scratch)


def clip_norm(grad, step, n_threads=1):
    return _clip_by_hand(_tiles(grad), grad, step)


def average_step(param, step, average, n_threads=1):
    _average_by_hand(_tiles(param), param, step, average)


def train_steps(plan, steps, order, batch_size, buffers, losses, n_threads=1):
    tiles, used, flat, plan = _tiles_for(plan, buffers), _used(plan), _flat(buffers), as_writable(plan)
    if n_threads == 1 and plan["online"][0] == 1 and not (steps["l2"].any() or steps["clip"].any()):
        done = online_steps(tiles, plan, _copy_of(plan), steps, order, flat, losses)
        steps, order = steps[done:], order[done:]
        if not steps.size:
            return

    def work(thread, barrier):
        _train_steps(thread, barrier, tiles, plan, _copy_of(plan), used, steps, order, batch_size, flat, losses)

    together(work, n_threads)


def predict(plan, order, batch_size, buffers, out, n_threads=1):
    tiles, flat, plan = _tiles_for(plan, buffers), _flat(buffers), as_writable(plan)

    def work(thread, barrier):
        _predict(thread, barrier, tiles, plan, _copy_of(plan), order, batch_size, flat, out)

    together(work, n_threads)


def predict_rows(layers, X, params, scratch, out, n_threads=1):
    rows_forward(_tiles(params), as_writable(layers), as_writable(X), as_writable(params), scratch, out)


# ------------------------------------------------------------------------------------------------- kernels


def _tiles(array, ops=()):
    """Return the addresses of the primitives for an array's elements, of rare ones what rows of kinds ``ops`` call."""
    return tiles_of(array.dtype, ops)


def _tiles_for(plan, buffers):
    """Return the addresses of the primitives for a walk of a plan."""
    return _tiles(buffers.params, plan["op"].tolist())


def _scratch_for(*matrices):
    """Return a workspace in which matrices of a batch have room when packed."""
    n_rows = len(matrices[0])
    size = workspace_size(whole(1), whole(1), whole(n_rows), 1)
    size += sum(contract.room(n_rows, matrix.shape[1]) for matrix in matrices)
    return np.empty(size, matrices[0].dtype)


def _words(record):
    """Return an ACTIVATION or a LOSS record as plain numbers."""
    return as_writable(record.view(np.int64))


def _copy_of(plan):
    """Return a copy of a plan, made as one of plain numbers: records take NumPy longer than a small kernel."""
    return plan.view(np.int64).copy().view(plan.dtype)


def _flat(buffers):
    """Return the buffers in the one form that `_train_steps` and `_predict` are compiled for."""
    return contract.Buffers._make([_flat_array(array) for array in buffers])


def _flat_array(array):
    return array if array.ndim == 1 and array.flags.writeable else as_writable(array).reshape(array.size)


@kernel("vWBpLqip")
def _linear_forward(tiles, worker, batch, a_prev, layer, activation, skip_zeros, a):
    after = before_softmax(activation)
    if batch.n == 1:
        forward_one(tiles, worker, a_prev, layer, after, skip_zeros, a)
    elif batch.n_panels == 0:
        forward_rows(tiles, worker, batch, a_prev, layer, after, a)
    else:
        forward_panels(tiles, worker, batch, a_prev, layer, after, a)
    if code_of(activation) == Activation.SOFTMAX:
        meet(worker)
        softmax_samples(tiles, worker, batch, layer.n_out, a)


@kernel("vWBipppqiiip")
def _output_delta(tiles, worker, batch, n_out, a, y, weight, activation, loss, function, has_numbers, delta):
    """Samples are shared as in `softmax`. The losses of panels, or of rows, are left in ``worker.losses``.

    Panels of targets may hold numbers of classes.
    """
    L = lanes(delta)
    row, pitch = rounded(n_out, L), TILE_VECTORS * L
    first, end = share(worker, batch.n_panels if batch.n_panels else batch.n, 1)
    if batch.n_panels == 0:
        for r in range(first, end):
            factor = 1.0 if is_null(weight) else load(weight, r * L)
            pair = at(a, r * row), at(y, r * row)
            if loss == Loss.CUSTOM:
                loss_of_row = custom_row(tiles, n_out, 1, function, *pair, factor, at(delta, r * row))
            else:
                loss_of_row = output_row(tiles, n_out, 1, activation, loss, *pair, factor, at(delta, r * row))
            store(worker.losses, r, loss_of_row)
        return
    for p in range(first, end):
        here, samples = p * n_out * pitch, (panel_width(batch, p, L), panel_rows(batch, p, L))
        panels = at(a, here), at(y, here), further(weight, p * pitch), at(delta, here)
        if has_numbers:
            loss_of_panel = output_classes(tiles, n_out, *samples, *panels)
        elif loss == Loss.CUSTOM:
            loss_of_panel = custom_panel(tiles, n_out, *samples, function, *panels)
        else:
            loss_of_panel = output_panel(tiles, n_out, *samples, activation, loss, *panels)
        store(worker.losses, p, loss_of_panel)


@kernel("vWBpLpqp")
def _backprop_delta(tiles, worker, batch, delta, layer, a_prev, activation, delta_prev):
    """Inputs are shared as in `_linear_update`: a thread changes no weights that another one still needs."""
    L, n_in, n_out = lanes(delta), layer.n_in, layer.n_out
    first, end = share(worker, n_in, GRAIN)
    if batch.n_panels == 0:
        in_row, out_row = rounded(n_in, L), rounded(n_out, L)
        for r in range(batch.n):
            below = at(a_prev, r * in_row), activation, at(delta_prev, r * in_row)
            backprop_one(tiles, worker, first, end, at(delta, r * out_row), layer, *below)
        return
    pitch, block = TILE_VECTORS * L, terms_at_once(batch, L)
    for o in range(0, n_out, block):
        n_terms = min(n_out - o, block)
        weights, progress = (at(layer.W, o * n_in), n_in * L), (o == 0, o + n_terms == n_out)
        for p in range(batch.n_panels):
            shape = panel_width(batch, p, L) // L, first, end, n_terms
            error, out = (at(delta, (p * n_out + o) * pitch), 0), (at(delta_prev, p * n_in * pitch), 0)
            after = null(delta), activation, at(a_prev, p * n_in * pitch)
            product(tiles, ACROSS_STRIPS, *shape, *weights, *error, *out, *after, *progress)


@kernel("vWBppiSLpi")
def _linear_update(tiles, worker, batch, a_prev, delta, rule, step, layer, W, n_ahead):
    """Apply ``rule`` to a layer, or keep its gradient with NONE, and fetch so many of the next samples meanwhile.

    W is penalised: unless l2 is 0 the sums of W^2 are left in ``worker.squares``.
    """
    L, n_in, n_strips = lanes(delta), layer.n_in, (layer.n_out + lanes(delta) - 1) // lanes(delta)
    first, end = share(worker, n_in, GRAIN)
    is_plain = rule == Optimizer.SGD and step.l2 == 0 and step.clip == 0
    if batch.n == 1 and is_plain and is_finite(tiles, layer.n_out, delta):
        descend_one(tiles, worker, first, end, a_prev, delta, step, layer)
        return
    spread(worker.ahead, n_ahead, ((end - first + L - 1) // L) * ((n_strips + TILE_VECTORS - 1) // TILE_VECTORS))
    form, strips, strip_size, in_row, d_next = FEW_ROWS, delta, L, rounded(n_in, L), n_strips * L
    if batch.n_panels:
        form, strips, strip_size, in_row, d_next = ACROSS_STRIPS, worker.strips, batch.n * L, n_in, batch.n * L
        scatter_strips(tiles, worker, batch, layer.n_out, delta, strips)
    if batch.n_panels or step.l2 != 0:  # all strips are there, and the squares of the layer above have been added up
        meet(worker)
    if step.l2 != 0:
        clear_squares(worker, first, end)
    strip = 0
    while strip < n_strips:
        n_vectors, here = group(n_strips, strip) if batch.n_panels else 1, strip * n_in * L
        error = at(strips, strip * strip_size), d_next
        weights = at(W, here), at(layer.W, here), at(layer.m_W, here), at(layer.v_W, here), n_in * L
        own = worker.squares, worker.ahead, worker.tile
        samples, inputs = (batch.n, batch.n_panels, batch.n_wide, batch.width), (in_row, first, end, a_prev)
        update(tiles, form, n_vectors, *samples, *inputs, *error, rule, numbers_of(step), *weights, *own)
        strip += n_vectors
    finish_update(tiles, worker, batch, strips, strip_size, rule, step, layer)


@inlined
def _states(packed, size, used):
    """Return where the parameters of a run lie, and those that go with them, one behind the other."""
    grads = at(packed, size)
    m = at(grads, used[1] * size)
    v = at(m, used[2] * size)
    return States(packed, grads, m, v, at(v, used[3] * size))


@jit
def _train_steps(
    thread,
    barrier,
    tiles,
    natural,
    plan,
    used,
    steps,
    order,
    batch_size,
    buffers,
    losses,
):
    natural, plan, losses = uncounted(natural), uncounted(plan), uncounted(losses)
    table, packed = pointer(tiles), pointer(buffers.scratch)
    size = place(natural, plan, packed)
    states = _states(packed, size, used)
    worker, rest = worker_of(plan, thread, pointer(barrier), batch_size, at(packed, sum(used) * size))
    norms, rest = take(rest, 2 * (n_blocks(size) + 2 * plan.size) if has(plan, Op.CLIP_NORM) else 0)
    norms = as_pointer_to(norms, float64)
    csr, rest = csr_of(plan, worker, rest)
    keep_numbers(plan)
    is_near = buffers.X.size <= BLOCK_SIZE  # asking ahead for near samples takes longer than it saves
    skip_zeros = False
    if batch_size == 1 or order.size % batch_size == 1:
        skip_zeros = is_finite(table, size, packed) != 0
    for s in range(steps.size):
        start, end = s * batch_size, min((s + 1) * batch_size, order.size)
        following = share(worker, min(batch_size, order.size - end), 1)
        store(worker.ahead, Ahead.ORDER, address_of(at(pointer(order), end + following.first)))
        batch, n_ahead = make_batch(end - start, rest), 0 if is_near else following.end - following.first
        samples = sources_of(buffers), at(pointer(order), start), csr, n_ahead, skip_zeros
        memory = states, pointer(buffers.work), norms, losses
        if not _train_step(table, worker, natural, plan, batch, steps[s], *samples, *memory):
            break


@inlined
def _train_step(
    tiles, worker, natural, plan, batch, step, sources, order, csr, n_ahead, skip_zeros, states, work, norms, losses
):
    """Do a step; return False, and do nothing, if its samples are not finite."""
    data_loss, squares, a_first = 0.0, 0.0, NONE
    store(worker.ahead, Ahead.N_SOURCES, 0)
    for r in range(plan.size):
        row = plan[r]
        a_prev, a, delta = at(work, row.a_prev), at(work, row.a), at(work, row.delta)
        if row.op <= Op.GATHER_CLASSES:
            if not gather(tiles, worker, row, sources, order, batch, a, csr.place) and row.finite == 1:
                atomic_store(at(worker.barrier, STOPPED), 1)
            if row.op == Op.GATHER_CLASSES:
                remember(worker.ahead, address_of(sources.classes), 8)  # bytes of an int64
            elif row.op == Op.GATHER_ROWS:
                remember(worker.ahead, address_of(source_of(row, sources)), row.n_out * (VECTOR_BYTES // lanes(a)))
                a_first = row.a if row.source == Source.X else a_first
        elif row.op == Op.LINEAR_FORWARD:
            layer = layer_of(row, states.params, states.params, states.params)
            if row.a_prev == csr.place:
                forward_csr(tiles, worker, batch, csr, sources, order, layer, activation_of(row), a)
            else:
                _linear_forward(tiles, worker, batch, a_prev, layer, activation_of(row), skip_zeros, a)
        elif row.op == Op.ACTIVATE:
            saved = null(work) if row.saved == NONE else at(work, row.saved)
            activate_units(tiles, worker, batch, row.n_out, a_prev, activation_of(row), a, saved)
        elif row.op == Op.OUTPUT_DELTA:
            weight = null(work) if row.weight == NONE else at(work, row.weight)
            targets, is_numbers = (at(work, row.y), weight), int(row.source == AS_NUMBERS)
            functions = activation_of(row), row.loss, row.loss_function
            _output_delta(tiles, worker, batch, row.n_out, a, *targets, *functions, is_numbers, delta)
        elif row.op == Op.ACTIVATION_DELTA:
            activation_delta_of_units(tiles, worker, batch, row.n_out, a_prev, activation_of(row), delta)
        elif is_between_layers(row.op):
            train_between_layers(tiles, worker, batch, row, step, states, work)
        elif row.op == Op.BACKPROP_DELTA:
            layer = layer_of(row, states.params, states.params, states.params)
            _backprop_delta(tiles, worker, batch, delta, layer, a_prev, activation_of(row), at(work, row.delta_prev))
        elif row.op == Op.OPTIMIZER_STEP:
            optimizer_step(tiles, worker, natural, plan, row, step, states)
        elif row.op == Op.CLIP_NORM:
            clip_packed(tiles, worker, natural, plan, row, step, states.grads, norms)
        elif row.op == Op.AVERAGE_STEP:
            average_packed(tiles, worker, natural, plan, row, step, states)
        else:
            layer, rule, n_fetched = layer_of(row, states.grads, states.grads, states.grads), NONE, 0
            if row.op == Op.LINEAR_UPDATE:
                layer, rule = layer_of(row, states.params, states.m, states.v), row.optimizer
                n_fetched = n_ahead if row.a_prev == a_first else 0
            weights = layer, at(states.params, row.W)
            if row.a_prev == csr.place:
                update_csr(tiles, worker, batch, csr, sources, order, delta, rule, step, *weights)
            else:
                _linear_update(tiles, worker, batch, a_prev, delta, rule, step, *weights, n_fetched)
        if row.barrier:
            meet(worker)
        if row.op <= Op.GATHER_CLASSES and atomic_load(at(worker.barrier, STOPPED)):  # later others may be a step ahead
            return False
        if row.op == Op.OUTPUT_DELTA:
            data_loss += sum_of(worker.losses, batch.n_panels if batch.n_panels else batch.n)
        elif (row.op == Op.LINEAR_GRAD or row.op == Op.LINEAR_UPDATE) and step.l2 != 0:
            squares += sum_of(worker.squares, (row.n_in + GRAIN - 1) // GRAIN)
    if worker.thread == 0:
        losses[0] += step.loss_scale * data_loss
        losses[1] += step.loss_scale * 0.5 * step.l2 * squares
        losses[2] += 1
    return True


@jit
def _predict(
    thread,
    barrier,
    tiles,
    natural,
    plan,
    order,
    batch_size,
    buffers,
    out,
):
    natural, plan, sources = uncounted(natural), uncounted(plan), sources_of(buffers)
    table, packed, n_out = pointer(tiles), pointer(buffers.scratch), out.shape[1]
    size = place(natural, plan, packed)
    worker, rest = worker_of(plan, thread, pointer(barrier), batch_size, at(packed, size))
    csr, rest = csr_of(plan, worker, rest)
    keep_numbers(plan)
    if thread == 0:
        pack_state(table, natural, plan, pointer(buffers.params), packed, False, True)
    for start in range(0, order.size, batch_size):
        if atomic_load(at(worker.barrier, STOPPED)):
            break
        batch, samples = make_batch(min(batch_size, order.size - start), packed), at(pointer(order), start)
        for r in range(plan.size):
            row = plan[r]
            a = rest if row.a == NONE else at(pointer(buffers.work), row.a)
            if row.op == Op.LINEAR_FORWARD:
                layer, a_prev = layer_of(row, packed, packed, packed), at(pointer(buffers.work), row.a_prev)
                if row.a_prev == csr.place:
                    forward_csr(table, worker, batch, csr, sources, samples, layer, activation_of(row), a)
                else:
                    _linear_forward(table, worker, batch, a_prev, layer, activation_of(row), False, a)
            elif row.op == Op.NORMALIZE:
                z, norm = at(pointer(buffers.work), row.a_prev), norm_of(row, packed)
                normalize_units(table, worker, batch, norm, z, activation_of(row), a)
            elif row.op == Op.ACTIVATE:
                z = at(pointer(buffers.work), row.a_prev)
                activate_units(table, worker, batch, row.n_out, z, activation_of(row), a, null(a))
            elif row.op == Op.MAXOUT:
                maxout_units(table, worker, batch, row.n_in, row.n_out, at(pointer(buffers.work), row.a_prev), a)
            else:
                gather(table, worker, row, sources, samples, batch, a, csr.place)
            meet(worker)
        unpack_batch(table, worker, batch, n_out, rest, at(pointer(out), start * n_out))


# -------------------------------------------------------------------------------- the operations by hand


def _packing(plan, buffers):
    """Return the first arguments of `_pack`."""
    arrays = map(_flat_array, (*buffers[7:12], buffers.scratch))
    return _tiles(buffers.params), as_writable(plan), _copy_of(plan), _used(plan), *arrays


@jit
def _pack(tiles, natural, plan, used, params, grads, m, v, average, scratch, parameters, moments, back):
    """Pack the flat buffers that are used one behind the other, or write them back."""
    flat = States(pointer(params), pointer(grads), pointer(m), pointer(v), pointer(average))
    packed = pointer(scratch)
    size = place(natural, plan, packed)
    for state in range(5):
        if used[state] and (moments if state == 2 or state == 3 else parameters):
            pack_state(pointer(tiles), natural, plan, flat[state], packed, back, state == 0)
        packed = at(packed, used[state] * size)


@jit
def _shuffle(u, order):
    for i in range(order.size):
        j = np.int64(u[i] * (i + 1))
        order[i] = order[j]
        order[j] = i


@jit
def _gather_rows(X, order, out):
    n_columns, L = out.shape[1], lanes(pointer(out))
    for r in range(order.size):
        source, target = at(pointer(X), order[r] * n_columns), at(pointer(out), r * n_columns)
        for j in range(0, n_columns, L):
            store_vector(at(target, j), n_columns - j, load_vector(at(source, j), n_columns - j, 0))


@jit
def _gather_csr_rows(data, indices, indptr, order, out):
    clear(pointer(out), out.size)
    for r in range(order.size):
        for e in range(indptr[order[r]], indptr[order[r] + 1]):
            out[r, indices[e]] += data[e]


@jit
def _gather_classes(classes, order, out):
    clear(pointer(out), out.size)
    for r in range(order.size):
        out[r, classes[order[r]]] = 1


@jit
def _forward_by_hand(tiles, a_prev, W, b, activation, a, scratch):
    table, batch = pointer(tiles), make_batch(a.shape[0], pointer(scratch))
    n_in, n_out = W.shape
    worker, rest = alone(batch, n_in, n_out, pointer(scratch))
    below, rest = take_batch(rest, batch, n_in)
    out, rest = take_batch(rest, batch, n_out)
    weights, bias, rest = take_layer(table, rest, W, b, True)
    pack_batch(table, worker, batch, n_in, pointer(a_prev), null(worker.ahead), below)
    layer = _plain_layer(n_in, n_out, weights, bias)
    _linear_forward(table, worker, batch, below, layer, pointer(activation), False, out)
    unpack_batch(table, worker, batch, n_out, out, pointer(a))


@jit
def _activate_by_hand(tiles, z, activation, a, saved):
    kept = pointer(saved) if saved.size else null(pointer(saved))
    activate_any_row(pointer(tiles), a.size, pointer(z), null(pointer(a)), pointer(activation), pointer(a), kept)


@jit
def _output_by_hand(tiles, a, y, sample_weight, activation, loss, delta):
    total, n_out = 0.0, a.shape[1]
    for r in range(a.shape[0]):
        weight = float(sample_weight[r]) if sample_weight.size else 1.0
        rows = at(pointer(a), r * n_out), at(pointer(y), r * n_out), weight, at(pointer(delta), r * n_out)
        if loss[0] == Loss.CUSTOM:
            total += custom_row(pointer(tiles), n_out, 0, loss[1], *rows)
        else:
            total += output_row(pointer(tiles), n_out, 0, pointer(activation), loss[0], *rows)
    return total


@jit
def _activation_delta_by_hand(tiles, a, activation, delta):
    n = delta.shape[1]
    for r in range(delta.shape[0]):
        row = at(pointer(a), r * n), at(pointer(delta), r * n)
        if code_of(pointer(activation)) == Activation.SOFTMAX:
            through_softmax(pointer(tiles), n, 0, *row)
        else:
            through_activation(pointer(tiles), n, row[0], pointer(activation), row[1])


@jit
def _backprop_by_hand(tiles, delta, W, a_prev, activation, delta_prev, scratch):
    table, batch = pointer(tiles), make_batch(delta.shape[0], pointer(scratch))
    n_in, n_out = W.shape
    worker, rest = alone(batch, n_in, n_out, pointer(scratch))
    error, rest = take_batch(rest, batch, n_out)
    below, rest = take_batch(rest, batch, n_in)
    out, rest = take_batch(rest, batch, n_in)
    weights, rest = take_weights(table, rest, W)
    pack_batch(table, worker, batch, n_out, pointer(delta), null(worker.ahead), error)
    pack_batch(table, worker, batch, n_in, pointer(a_prev), null(worker.ahead), below)
    layer = _plain_layer(n_in, n_out, weights, null(weights))
    _backprop_delta(table, worker, batch, error, layer, below, pointer(activation), out)
    unpack_batch(table, worker, batch, n_in, out, pointer(delta_prev))


@inlined
def _plain_layer(n_in, n_out, W, b):
    """Return a layer without moments."""
    return Layer(n_in, n_out, W, null(W), null(W), b, null(b), null(b))


@jit
def _update_by_hand(tiles, a_prev, delta, rule, step, W, param_W, param_b, m_W, m_b, v_W, v_b, scratch):
    """Pack a layer with its moments, update it or keep its gradient, and write it back."""
    table, batch = pointer(tiles), make_batch(delta.shape[0], pointer(scratch))
    n_in, n_out = W.shape
    worker, rest = alone(batch, n_in, n_out, pointer(scratch))
    below, rest = take_batch(rest, batch, n_in)
    error, rest = take_batch(rest, batch, n_out)
    pack_batch(table, worker, batch, n_in, pointer(a_prev), null(worker.ahead), below)
    pack_batch(table, worker, batch, n_out, pointer(delta), null(worker.ahead), error)
    params, b, rest = take_layer(table, rest, param_W, param_b, True)
    m, m_bias, rest = take_layer(table, rest, m_W, m_b, rule > Optimizer.SGD and rule < Optimizer.RMSPROP)
    v, v_bias, rest = take_layer(table, rest, v_W, v_b, rule >= Optimizer.ADAM)
    weights, layer = params, Layer(n_in, n_out, params, m, v, b, m_bias, v_bias)
    if rule == NONE:
        weights, rest = take_weights(table, rest, W)
    _linear_update(table, worker, batch, below, error, rule, step[0], layer, weights, 0)
    give_back(table, params, b, param_W, param_b)
    give_back(table, m, m_bias, m_W, m_b)
    give_back(table, v, v_bias, v_W, v_b)
    return sum_of(worker.squares, (n_in + GRAIN - 1) // GRAIN) if step[0].l2 != 0 else 0.0


@jit
def _step_by_hand(tiles, rule, grad, step, param, m, v):
    state = pointer(param), pointer(m), pointer(v)
    apply(pointer(tiles), rule, numbers_of(step[0]), 1.0, param.size, pointer(grad), *state)


@jit
def _clip_by_hand(tiles, grad, step):
    total, n = 0.0, grad.size
    for start in range(0, n, NORM_BLOCK):
        total += square_sum(pointer(tiles), min(NORM_BLOCK, n - start), at(pointer(grad), start))
    norm = math.sqrt(total)
    rescale(pointer(tiles), n, norm_factor(norm, step[0]), pointer(grad))
    return norm


@jit
def _average_by_hand(tiles, param, step, average):
    move_average(pointer(tiles), average.size, 1.0 - step[0].average_decay, pointer(param), pointer(average))
