"""Backend ``numba``: the operations of `reference`, compiled by Numba; arguments and formulas stand there.

It is the backend `cython` in Numba's words: `numba_packing` and `numba_workers` are its ``.pxi`` files, and the
primitives of `numba_tiles` and `numba_rows` its C. The operations take arrays; the kernels behind them, named alike
with an underscore, take pointers, so that `train_steps` walks a plan without making views. In the kernels ``tiles``
points to a table of the primitives' addresses.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from numba import int32

from . import contract
from .contract import NONE, Activation, Op, Optimizer, Source
from .numba_jit import as_writable, inlined, jit, kernel, tiles_of
from .numba_packing import (
    Layer,
    Sources,
    States,
    clear,
    gather,
    give_back,
    layer_of,
    make_batch,
    numbers_of,
    pack_batch,
    pack_state,
    panel_rows,
    panel_start,
    panel_width,
    place,
    take_batch,
    take_layer,
    take_weights,
    uncounted,
    unpack_batch,
)
from .numba_rows import (
    activate,
    add_outer,
    apply,
    is_finite,
    list_nonzero,
    output_panel,
    output_row,
    row_products,
    scatter_panel,
    softmax,
    softmax_panel,
    sum_rows,
    through_activation,
    weighted_rows,
)
from .numba_tiles import ACROSS_STRIPS, ALONG_STRIPS, CACHE_LINE, FEW_ROWS, GRAIN, TILE_VECTORS, product, update
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
    Share,
    alone,
    atomic_load,
    atomic_store,
    largest,
    meet,
    rounded,
    share,
    sum_of,
    worker_of,
    workspace_size,
)
from .threads import STOPPED, together

BLOCK_SIZE = 196608
"""Elements of a batch that stay in the second-level cache, beside weights."""


def scratch_size(n_in, n_out, n_rows):
    """Return how many elements of ``scratch`` an operation on a layer needs: its arguments packed."""
    n_in, n_out, n_rows = _whole(n_in), _whole(n_out), _whole(n_rows)
    batch = 2 * (contract.room(n_rows, n_in) + contract.room(n_rows, n_out))
    return workspace_size(n_in, n_out, n_rows, 1) + batch + 3 * (n_in + 1) * n_out


def run_scratch_size(plan, n_rows, n_threads):
    """Return how many elements of ``scratch`` a walk of ``plan`` needs: parameters packed, and its largest layer."""
    layers = [row for row in plan if row["op"] == Op.LINEAR_FORWARD]
    sizes = [(_whole(int(row["n_in"])), _whole(int(row["n_out"]))) for row in layers]
    n_in, n_out = (max(size, default=0) for size in ([n for n, _ in sizes], [n for _, n in sizes]))
    packed = sum((n_in + 1) * n_out for n_in, n_out in sizes)
    outputs = contract.room(n_rows, n_out)  # of a prediction
    return workspace_size(n_in, n_out, _whole(n_rows), n_threads) + outputs + sum(_used(plan)) * packed


def rows_scratch_size(layers):
    """Return how many elements of ``scratch`` `predict_rows` needs: two layers' activations, one's sums and inputs."""
    return 4 * _whole(int(layers[:, :2].max()))


def _whole(n):
    """Return n rounded up to whole vectors of the most lanes."""
    most_lanes = VECTOR_BYTES // 4
    return -(-n // most_lanes) * most_lanes


def _used(plan):
    """Return whether a plan uses params, grads, m and v: 1 or 0."""
    ops = plan["op"].tolist()
    updates = Op.LINEAR_UPDATE, Op.OPTIMIZER_STEP
    rules = {rule for op, rule in zip(ops, plan["optimizer"].tolist(), strict=True) if op in updates}
    gradient = Op.LINEAR_GRAD in ops or Op.OPTIMIZER_STEP in ops
    return 1, int(gradient), int(bool(rules - {Optimizer.SGD})), int(Optimizer.ADAM in rules)


PACKS = True


def pack(plan, buffers, moments=True):
    """Pack the parameters of a run, and what goes with them, into ``scratch``, where `train_steps` works on them."""
    _pack(*_packing(plan, buffers), True, moments, False)


def unpack(plan, buffers, params=True, moments=True):
    """Write the parameters of a run, and what goes with them, back to where their owner looks for them."""
    _pack(*_packing(plan, buffers), params, moments, True)


def gather_rows(X, order, out, n_threads=1):
    _gather_rows(X, order, out)


def gather_csr_rows(data, indices, indptr, order, out, n_threads=1):
    _gather_csr_rows(data, indices, indptr, order, out)


def gather_classes(classes, order, out, n_threads=1):
    _gather_classes(classes, order, out)


def linear_forward(a_prev, W, b, activation, a, saved, scratch, n_threads=1):
    _forward_by_hand(_tiles(a), a_prev, W, b, activation, a, scratch)


def output_delta(a, y, sample_weight, activation, loss, delta, n_threads=1):
    return _output_by_hand(_tiles(a), a, y, sample_weight, activation, loss, delta)


def backprop_delta(delta, W, a_prev, activation, saved, delta_prev, scratch, n_threads=1):
    _backprop_by_hand(_tiles(delta), delta, W, a_prev, activation, delta_prev, scratch)


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


def linear_update(a_prev, delta, optimizer, step, W, b, m_W, m_b, v_W, v_b, scratch, n_threads=1):
    return _update_by_hand(_tiles(W), a_prev, delta, optimizer, step, W, W, b, m_W, m_b, v_W, v_b, scratch)


def train_steps(plan, steps, order, batch_size, buffers, losses, n_threads=1):
    tiles, used, flat = _tiles(buffers.params), _used(plan), _flat(buffers)

    def work(thread, barrier):
        _train_steps(thread, barrier, tiles, plan.copy(), plan.copy(), used, steps, order, batch_size, *flat, losses)

    together(work, n_threads)


def predict(plan, order, batch_size, buffers, out, n_threads=1):
    tiles, flat = _tiles(buffers.params), _flat(buffers)

    def work(thread, barrier):
        _predict(thread, barrier, tiles, plan.copy(), plan.copy(), order, batch_size, *flat, out)

    together(work, n_threads)


def predict_rows(layers, X, params, scratch, out, n_threads=1):
    _predict_rows(_tiles(params), as_writable(layers), as_writable(X), as_writable(params), scratch, out)


# ------------------------------------------------------------------------------------------------- kernels


def _tiles(array):
    """Return the addresses of the primitives for an array's elements."""
    return tiles_of(array.dtype.name)


def _flat(buffers):
    """Return the buffers in the one form that `_train_steps` and `_predict` are compiled for."""
    return tuple(as_writable(array).reshape(array.size) for array in buffers)


@kernel("vWBpLiip")
def _linear_forward(tiles, worker, batch, a_prev, layer, activation, skip_zeros, a):
    after = Activation.IDENTITY if activation == Activation.SOFTMAX else activation
    if batch.n == 1:
        _forward_one(tiles, worker, a_prev, layer, after, skip_zeros, a)
    elif batch.n_panels == 0:
        _forward_rows(tiles, worker, batch, a_prev, layer, after, a)
    else:
        _forward_panels(tiles, worker, batch, a_prev, layer, after, a)
    if activation == Activation.SOFTMAX:
        meet(worker)
        _softmax(tiles, worker, batch, layer.n_out, a)


@kernel("vWBipppiip")
def _output_delta(tiles, worker, batch, n_out, a, y, weight, activation, loss, delta):
    """Samples are shared as in `_softmax`. The losses of panels, or of rows, are left in ``worker.losses``."""
    L = lanes(delta)
    row, pitch = rounded(n_out, L), TILE_VECTORS * L
    first, end = share(worker, batch.n_panels if batch.n_panels else batch.n, 1)
    if batch.n_panels == 0:
        for r in range(first, end):
            factor = 1.0 if is_null(weight) else load(weight, r * L)
            pair = at(a, r * row), at(y, r * row)
            loss_of_row = output_row(tiles, n_out, 1, activation, loss, *pair, factor, at(delta, r * row))
            store(worker.losses, r, loss_of_row)
        return
    for p in range(first, end):
        here, samples = p * n_out * pitch, (panel_width(batch, p, L), panel_rows(batch, p, L))
        panels = at(a, here), at(y, here), _further(weight, p * pitch), at(delta, here)
        store(worker.losses, p, output_panel(tiles, n_out, *samples, activation, loss, *panels))


@kernel("vWBpLpip")
def _backprop_delta(tiles, worker, batch, delta, layer, a_prev, activation, delta_prev):
    """Inputs are shared as in `_linear_update`: a thread changes no weights that another one still needs."""
    L, n_in, n_out = lanes(delta), layer.n_in, layer.n_out
    first, end = share(worker, n_in, GRAIN)
    if batch.n_panels == 0:
        in_row, out_row = rounded(n_in, L), rounded(n_out, L)
        for r in range(batch.n):
            below = at(a_prev, r * in_row), activation, at(delta_prev, r * in_row)
            _backprop_one(tiles, worker, first, end, at(delta, r * out_row), layer, *below)
        return
    pitch, block = TILE_VECTORS * L, _block(batch, L)
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
    if batch.n == 1 and rule == Optimizer.SGD and step.l2 == 0 and is_finite(tiles, layer.n_out, delta):
        _descend_one(tiles, worker, first, end, a_prev, delta, step, layer)
        return
    _spread(worker.ahead, n_ahead, ((end - first + L - 1) // L) * ((n_strips + TILE_VECTORS - 1) // TILE_VECTORS))
    form, strips, strip_size, in_row, d_next = FEW_ROWS, delta, L, rounded(n_in, L), n_strips * L
    if batch.n_panels:
        form, strips, strip_size, in_row, d_next = ACROSS_STRIPS, worker.strips, batch.n * L, n_in, batch.n * L
        _scatter_strips(tiles, worker, batch, layer.n_out, delta, strips)
    if batch.n_panels or step.l2 != 0:  # all strips are there, and the squares of the layer above have been added up
        meet(worker)
    if step.l2 != 0:
        for grain in range(first // GRAIN, (end + GRAIN - 1) // GRAIN):
            store(worker.squares, grain, 0)
    strip = 0
    while strip < n_strips:
        n_vectors, here = _group(n_strips, strip) if batch.n_panels else 1, strip * n_in * L
        error = at(strips, strip * strip_size), d_next
        weights = at(W, here), at(layer.W, here), at(layer.m_W, here), at(layer.v_W, here), n_in * L
        own = worker.squares, worker.ahead, worker.tile
        samples, inputs = (batch.n, batch.n_panels, batch.n_wide, batch.width), (in_row, first, end, a_prev)
        update(tiles, form, n_vectors, *samples, *inputs, *error, rule, numbers_of(step), *weights, *own)
        strip += n_vectors
    if not is_null(layer.b):
        _update_bias(tiles, worker, batch, strips, strip_size, rule, step, layer)
    store(worker.own, 0, step.epsilon)
    if rule == Optimizer.ADAM and load(worker.own, 0) == 0:
        _clear_filling(worker, layer)


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
    X,
    X_data,
    X_indices,
    X_indptr,
    y,
    classes,
    sample_weight,
    params,
    grads,
    m,
    v,
    work,
    saved,
    scratch,
    losses,
):
    sources = Sources(
        pointer(X),
        pointer(X_data),
        pointer(X_indices),
        pointer(X_indptr),
        pointer(y),
        pointer(classes),
        pointer(sample_weight),
    )
    natural, plan, losses = uncounted(natural), uncounted(plan), uncounted(losses)
    table, packed = pointer(tiles), pointer(scratch)
    size = place(natural, plan, packed)
    states = _states(packed, size, used)
    worker, rest = worker_of(plan, thread, pointer(barrier), batch_size, at(packed, sum(used) * size))
    skip_zeros = False
    if batch_size == 1 or order.size % batch_size == 1:
        skip_zeros = is_finite(table, size, packed) != 0
    for s in range(steps.size):
        start, end = s * batch_size, min((s + 1) * batch_size, order.size)
        following = share(worker, min(batch_size, order.size - end), 1)
        store(worker.ahead, Ahead.ORDER, address_of(at(pointer(order), end + following.first)))
        batch, n_ahead = make_batch(end - start, rest), following.end - following.first
        data = sources, at(pointer(order), start), n_ahead, skip_zeros, states, pointer(work)
        if not _train_step(table, worker, natural, plan, batch, steps[s], *data, losses):
            break


@inlined
def _train_step(tiles, worker, natural, plan, batch, step, sources, order, n_ahead, skip_zeros, states, work, losses):
    """Do a step; return False, and do nothing, if its samples are not finite."""
    data_loss, squares, a_first = 0.0, 0.0, NONE
    for r in range(plan.size):
        row = plan[r]
        a_prev, a, delta = at(work, row.a_prev), at(work, row.a), at(work, row.delta)
        if row.op <= Op.GATHER_CLASSES:
            if not gather(tiles, worker, row, sources, order, batch, a) and row.finite == 1:
                atomic_store(at(worker.barrier, STOPPED), 1)
            if row.op == Op.GATHER_ROWS and row.source == Source.X:
                a_first = row.a
                store(worker.ahead, Ahead.X, address_of(sources.X))
                store(worker.ahead, Ahead.ROW_BYTES, row.n_out * (VECTOR_BYTES // lanes(a)))
        elif row.op == Op.LINEAR_FORWARD:
            layer = layer_of(row, states.params, states.params, states.params)
            _linear_forward(tiles, worker, batch, a_prev, layer, row.activation, skip_zeros, a)
        elif row.op == Op.OUTPUT_DELTA:
            weight = null(work) if row.weight == NONE else at(work, row.weight)
            targets = at(work, row.y), weight, row.activation, row.loss
            _output_delta(tiles, worker, batch, row.n_out, a, *targets, delta)
        elif row.op == Op.BACKPROP_DELTA:
            layer = layer_of(row, states.params, states.params, states.params)
            _backprop_delta(tiles, worker, batch, delta, layer, a_prev, row.activation, at(work, row.delta_prev))
        elif row.op == Op.OPTIMIZER_STEP:
            _optimizer_step(tiles, worker, natural, plan, row, step, states)
        else:
            layer, rule, n_fetched = layer_of(row, states.grads, states.grads, states.grads), NONE, 0
            if row.op == Op.LINEAR_UPDATE:
                layer, rule = layer_of(row, states.params, states.m, states.v), row.optimizer
                n_fetched = n_ahead if row.a_prev == a_first else 0
            weights = layer, at(states.params, row.W)
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
    X,
    X_data,
    X_indices,
    X_indptr,
    y,
    classes,
    sample_weight,
    params,
    grads,
    m,
    v,
    work,
    saved,
    scratch,
    out,
):
    sources = Sources(
        pointer(X),
        pointer(X_data),
        pointer(X_indices),
        pointer(X_indptr),
        pointer(y),
        pointer(classes),
        pointer(sample_weight),
    )
    natural, plan = uncounted(natural), uncounted(plan)
    table, packed, n_out = pointer(tiles), pointer(scratch), out.shape[1]
    size = place(natural, plan, packed)
    worker, rest = worker_of(plan, thread, pointer(barrier), batch_size, at(packed, size))
    if thread == 0:
        pack_state(table, natural, plan, pointer(params), packed, False)
    for start in range(0, order.size, batch_size):
        if atomic_load(at(worker.barrier, STOPPED)):
            break
        batch, samples = make_batch(min(batch_size, order.size - start), packed), at(pointer(order), start)
        for r in range(plan.size):
            row = plan[r]
            a = rest if row.a == NONE else at(pointer(work), row.a)
            if row.op == Op.LINEAR_FORWARD:
                layer, a_prev = layer_of(row, packed, packed, packed), at(pointer(work), row.a_prev)
                _linear_forward(table, worker, batch, a_prev, layer, row.activation, False, a)
            else:
                gather(table, worker, row, sources, samples, batch, a)
            meet(worker)
        unpack_batch(table, worker, batch, n_out, rest, at(pointer(out), start * n_out))


# -------------------------------------------------------------------------------------- parts of the kernels


@jit
def _predict_rows(tiles, layers, X, params, scratch, out):
    """Forward pass of one sample after the other; W has its natural form."""
    table, own, vector = pointer(tiles), pointer(scratch), lanes(pointer(scratch))
    last, room = len(layers) - 1, 0
    for number in range(len(layers)):
        room = max(room, rounded(max(layers[number, 0], layers[number, 1]), vector))
    sums = at(own, 2 * room)
    inputs = as_pointer_to(at(sums, room), int32)
    for sample in range(X.size // layers[0, 0]):
        x = at(pointer(X), sample * layers[0, 0])
        for number in range(len(layers)):
            n_in, n, place_W, place_b, activation = layers[number]
            a = at(pointer(out), sample * n) if number == last else at(own, number % 2 * room)
            b = null(own) if place_b == NONE else at(pointer(params), place_b)
            is_softmax = activation == Activation.SOFTMAX
            weighted_rows(table, _list_all(n_in, inputs), inputs, x, at(pointer(params), place_W), n, vector, n, sums)
            activate(table, n, sums, b, Activation.IDENTITY.value if is_softmax else activation, a)
            if is_softmax:
                softmax(table, n, 0, a)
            x = a


@inlined
def _states(packed, size, used):
    """Return where the parameters of a run lie, and those that go with them, one behind the other."""
    grads = at(packed, size)
    m = at(grads, used[1] * size)
    return States(packed, grads, m, at(m, used[2] * size))


@inlined
def _further(p, n):
    """Return p + n, or null if p is."""
    return p if is_null(p) else at(p, n)


@inlined
def _spread(ahead, n_rows, n_tiles):
    """Begin to fetch so many of the next samples with the tiles of an update."""
    n_lines = (n_rows * load(ahead, Ahead.ROW_BYTES) + CACHE_LINE - 1) // CACHE_LINE
    store(ahead, Ahead.N_ROWS, n_rows)
    store(ahead, Ahead.ROW, 0)
    store(ahead, Ahead.BYTE, 0)
    store(ahead, Ahead.BYTES, (n_lines // max(n_tiles, 1) + 1) * CACHE_LINE)


@inlined
def _group(n_strips, strip):
    """Return how many strips, from ``strip`` on, go into a tile: groups as equally wide as can be."""
    n_groups = (n_strips + TILE_VECTORS - 1) // TILE_VECTORS
    return n_strips // n_groups + int(strip < n_strips % n_groups * (n_strips // n_groups + 1))


@inlined
def _block(batch, L):
    """Return how many terms of a product's sums are added at a time: the panels of so many units fit in a cache."""
    return max(BLOCK_SIZE // rounded(batch.n, L) // L, 4) * L


@inlined
def _forward_panels(tiles, worker, batch, a_prev, layer, activation, a):
    """Forward product of many samples. Units are shared, or panels where that divides the work more equally."""
    L, n_in, n_out, n_panels = lanes(a), layer.n_in, layer.n_out, batch.n_panels
    units, panels = share(worker, n_out, GRAIN), Share(0, n_panels)
    if largest(worker, n_out, GRAIN) * n_panels > largest(worker, n_panels, 1) * n_out and worker.n_threads > 1:
        units, panels = Share(0, n_out), share(worker, n_panels, 1)
    pitch, block = TILE_VECTORS * L, _block(batch, L)
    for k in range(0, n_in, block):
        n_terms = min(n_in - k, block)
        weights, progress = (at(layer.W, k * L), n_in * L), (k == 0, k + n_terms == n_in)
        for p in range(panels.first, panels.end):
            shape = panel_width(batch, p, L) // L, units.first, units.end, n_terms
            below, out = (at(a_prev, (p * n_in + k) * pitch), 0), (at(a, p * n_out * pitch), 0)
            after = layer.b, activation, null(a)
            product(tiles, ALONG_STRIPS, *shape, *weights, *below, *out, *after, *progress)


@inlined
def _forward_rows(tiles, worker, batch, a_prev, layer, activation, a):
    """Forward product of few samples."""
    L, n_in = lanes(a), layer.n_in
    n_strips = (layer.n_out + L - 1) // L
    strip, end = share(worker, n_strips, 1)
    while strip < end:
        n_vectors = TILE_VECTORS if end - strip >= TILE_VECTORS else 1
        below, weights = (a_prev, rounded(n_in, L)), (at(layer.W, strip * n_in * L), n_in * L)
        out, after = (at(a, strip * L), n_strips * L), (_further(layer.b, strip * L), activation, null(a))
        product(tiles, FEW_ROWS, n_vectors, 0, batch.n, n_in, *below, *weights, *out, *after, True, True)
        strip += n_vectors


@inlined
def _forward_one(tiles, worker, a_prev, layer, activation, skip_zeros, a):
    """Forward product of one sample: only the rows of W whose input is not 0 are read, if there is no 0 x infinity."""
    L, n_in = lanes(a), layer.n_in
    strips = share(worker, (layer.n_out + L - 1) // L, 1)
    first, n, sums = strips.first * L, (strips.end - strips.first) * L, worker.own
    inputs = as_pointer_to(at(sums, n), int32)
    n_inputs = list_nonzero(tiles, n_in, a_prev, inputs) if skip_zeros else _list_all(n_in, inputs)
    weighted_rows(tiles, n_inputs, inputs, a_prev, at(layer.W, first * n_in), L, n_in * L, n, sums)
    activate(tiles, n, sums, _further(layer.b, first), activation, at(a, first))


@inlined
def _softmax(tiles, worker, batch, n_out, a):
    L = lanes(a)
    first, end = share(worker, batch.n_panels if batch.n_panels else batch.n, 1)
    for part in range(first, end):
        if batch.n_panels == 0:
            softmax(tiles, n_out, 1, at(a, part * rounded(n_out, L)))
        else:
            softmax_panel(tiles, n_out, panel_width(batch, part, L), at(a, part * n_out * TILE_VECTORS * L))


@inlined
def _backprop_one(tiles, worker, first, end, delta, layer, a_prev, activation, delta_prev):
    """Backward product of one sample: only the rows of W whose unit passes anything on are read."""
    L, n, units = lanes(delta), end - first, as_pointer_to(worker.own, int32)
    a_prev, delta_prev = at(a_prev, first), at(delta_prev, first)
    clear(delta_prev, rounded(end, L) - first if end == layer.n_in else n)
    n_units = list_nonzero(tiles, n, a_prev, units) if activation == Activation.RELU else _list_all(n, units)
    weights = at(layer.W, first * L), layer.n_in
    row_products(tiles, n_units, units, delta, *weights, rounded(layer.n_out, L), delta_prev)
    if activation != Activation.RELU:
        through_activation(tiles, n, a_prev, activation, delta_prev)


@inlined
def _descend_one(tiles, worker, first, end, a_prev, delta, step, layer):
    """Gradient descent on one sample: only the rows of W whose input is not 0 change."""
    L, scale, inputs = lanes(delta), -step.rate * step.grad_scale, as_pointer_to(worker.own, int32)
    n = rounded(layer.n_out, L)
    n_inputs = list_nonzero(tiles, end - first, at(a_prev, first), inputs)
    add_outer(tiles, n_inputs, inputs, scale, at(a_prev, first), delta, at(layer.W, first * L), layer.n_in, n)
    if not is_null(layer.b) and worker.thread == 0:
        one = at(worker.own, L)
        store(inputs, 0, 0)
        store(one, 0, 1)
        add_outer(tiles, 1, inputs, scale, one, delta, layer.b, 1, n)


@inlined
def _scatter_strips(tiles, worker, batch, n_out, delta, strips):
    """Turn the errors of a layer from panels into strips."""
    L = lanes(delta)
    first, end = share(worker, n_out, L)
    for p in range(batch.n_panels):
        panel, n_rows = at(delta, (p * n_out + first) * TILE_VECTORS * L), panel_rows(batch, p, L)
        out = at(strips, first * batch.n + panel_start(batch, p, L) * L)
        scatter_panel(tiles, end - first, panel, n_rows, out, L, batch.n * L, 1)


@inlined
def _update_bias(tiles, worker, batch, strips, strip_size, rule, step, layer):
    """Apply ``rule`` to a bias, or keep its gradient; ``strips`` are those of a batch in panels, or its rows."""
    L, sums, numbers = lanes(strips), worker.own, numbers_of(step)
    n_strips = (layer.n_out + L - 1) // L
    first, end = share(worker, n_strips, 1)
    for strip in range(first, end):
        sum_rows(tiles, batch.n, at(strips, strip * strip_size), L if batch.n_panels else n_strips * L, sums)
        state = at(layer.b, strip * L), at(layer.m_b, strip * L), at(layer.v_b, strip * L)
        apply(tiles, rule, numbers, step.grad_scale, L, sums, *state)


@inlined
def _clear_filling(worker, layer):
    """Set what fills up a layer's last strip to 0 again: Adam made it 0 / 0."""
    L, n_in = lanes(layer.W), layer.n_in
    start, end = layer.n_out // L * L, rounded(layer.n_out, L)
    first, end_in = share(worker, n_in, GRAIN)
    for lane in range(layer.n_out - start, end - start):
        for i in range(first, end_in):
            store(layer.W, start * n_in + i * L + lane, 0)
        if not is_null(layer.b) and worker.thread == worker.n_threads - 1:  # it had the last strip of the bias
            store(layer.b, start + lane, 0)


@inlined
def _list_all(n, list):
    for i in range(n):
        store(list, i, i)
    return n


@inlined
def _optimizer_step(tiles, worker, natural, plan, row, step, states):
    """Apply a rule to those parameters, packed, that lie in the flat range of ``row``."""
    L, end = lanes(states.params), row.W + row.n_in
    for r in range(plan.size):
        if plan[r].op == Op.LINEAR_FORWARD:
            n_out = plan[r].n_out
            if row.W <= natural[r].W < end:
                _apply_span(tiles, worker, row.optimizer, step, plan[r].W, plan[r].n_in * rounded(n_out, L), states)
            if natural[r].b != NONE and row.W <= natural[r].b < end:
                _apply_span(tiles, worker, row.optimizer, step, plan[r].b, n_out, states)


@inlined
def _apply_span(tiles, worker, rule, step, first, n, states):
    """Apply a rule to n packed parameters from ``first`` on."""
    part = share(worker, n, lanes(states.params))
    here, length = first + part.first, part.end - part.first
    state = at(states.grads, here), at(states.params, here), at(states.m, here), at(states.v, here)
    apply(tiles, rule, numbers_of(step), 1.0, length, *state)


# -------------------------------------------------------------------------------- the operations by hand


def _packing(plan, buffers):
    """Return the first arguments of `_pack`."""
    flat = _flat(buffers[7:11])
    return _tiles(buffers.params), plan.copy(), plan.copy(), _used(plan), *flat, buffers.scratch


@jit
def _pack(tiles, natural, plan, used, params, grads, m, v, scratch, parameters, moments, back):
    """Pack the flat buffers that are used one behind the other, or write them back."""
    flat, packed = States(pointer(params), pointer(grads), pointer(m), pointer(v)), pointer(scratch)
    size = place(natural, plan, packed)
    for state in range(4):
        if used[state] and (parameters if state < 2 else moments):
            pack_state(pointer(tiles), natural, plan, flat[state], packed, back)
        packed = at(packed, used[state] * size)


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
    _linear_forward(table, worker, batch, below, layer, activation, False, out)
    unpack_batch(table, worker, batch, n_out, out, pointer(a))


@jit
def _output_by_hand(tiles, a, y, sample_weight, activation, loss, delta):
    total, n_out = 0.0, a.shape[1]
    for r in range(a.shape[0]):
        weight = float(sample_weight[r]) if sample_weight.size else 1.0
        rows = at(pointer(a), r * n_out), at(pointer(y), r * n_out), weight, at(pointer(delta), r * n_out)
        total += output_row(pointer(tiles), n_out, 0, activation, loss, *rows)
    return total


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
    _backprop_delta(table, worker, batch, error, layer, below, activation, out)
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
    m, m_bias, rest = take_layer(table, rest, m_W, m_b, rule > Optimizer.SGD)
    v, v_bias, rest = take_layer(table, rest, v_W, v_b, rule == Optimizer.ADAM)
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
