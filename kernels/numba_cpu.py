"""Backend ``numba``: the operations of `reference`, compiled by Numba; arguments and formulas stand there.

A product runs over tiles (`numba_tiles`): a panel of columns is packed, each tile of it leaves its sums in a small
block of scratch, and what follows the product (bias and activation, Hadamard product, optimiser) is done to that block
while it is in the first-level cache. The operations take arrays; the kernels behind them, named alike with an
underscore, take pointers, so that `train_steps` walks a plan without making views.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import math

from .contract import NONE, Activation, Loss, Op, Optimizer, Source
from .numba_jit import as_writable, jit
from .numba_math import exp, logistic, tanh
from .numba_tiles import MAX_ROWS, TILE_VECTORS, tile
from .numba_vectors import (
    VECTOR_BYTES,
    at,
    epsilon,
    lanes,
    load,
    load_vector,
    max_lanes,
    maximum,
    pointer,
    splat,
    sqrt,
    store,
    store_vector,
    sum_lanes,
    zero_where_zero,
)


def scratch_size(n_in, n_out, n_rows):
    """Return how many elements of ``scratch`` the operations need for layers up to this size."""
    panel = TILE_VECTORS * VECTOR_BYTES // 4
    return panel * (MAX_ROWS + 1 + max(n_in, n_out, n_rows)) + n_out * (n_rows + panel)


def run_scratch_size(plan, n_rows, n_threads):
    """Return how many elements of ``scratch`` a walk of ``plan`` needs: as many as its largest layer."""
    layers = [row for row in plan if row["op"] == Op.LINEAR_FORWARD]
    return max((scratch_size(int(row["n_in"]), int(row["n_out"]), n_rows) for row in layers), default=0)


PACKS = False


def pack(plan, buffers, moments=True):
    """Prepare the parameters of a run for `train_steps`: it takes them as they are."""


def unpack(plan, buffers, params=True, moments=True):
    """Write back what `train_steps` changed: it stands there already."""


@jit
def gather_rows(X, order, out, n_threads):
    _gather_rows(pointer(X), out.shape[1], pointer(order), order.size, pointer(out))


@jit
def gather_csr_rows(data, indices, indptr, order, out, n_threads):
    source = pointer(data), pointer(indices), pointer(indptr)
    _gather_csr_rows(*source, out.shape[1], pointer(order), order.size, pointer(out))


@jit
def gather_classes(classes, order, out, n_threads):
    _gather_classes(pointer(classes), out.shape[1], pointer(order), order.size, pointer(out))


@jit
def linear_forward(a_prev, W, b, activation, a, saved, scratch, n_threads):
    weights = pointer(W), pointer(b), b.size > 0
    _linear_forward(pointer(a_prev), *a.shape, W.shape[0], *weights, activation, pointer(a), pointer(scratch))


@jit
def output_delta(a, y, sample_weight, activation, loss, delta, n_threads):
    weight = pointer(sample_weight), sample_weight.size > 0
    return _output_delta(pointer(a), pointer(y), *weight, *a.shape, activation, loss, pointer(delta))


@jit
def backprop_delta(delta, W, a_prev, activation, saved, delta_prev, scratch, n_threads):
    below = pointer(a_prev), activation, pointer(delta_prev)
    _backprop_delta(pointer(delta), *delta.shape, W.shape[0], pointer(W), *below, pointer(scratch))


@jit
def linear_grad(a_prev, delta, step, W, grad_W, grad_b, scratch, n_threads):
    shape = delta.shape[0], delta.shape[1], W.shape[0]
    gradient = pointer(grad_W), pointer(grad_b), grad_b.size > 0
    return _linear_grad(pointer(a_prev), pointer(delta), *shape, step, 0, pointer(W), *gradient, pointer(scratch))


@jit
def sgd_step(grad, step, param, n_threads):
    _sgd_step(pointer(grad), param.size, step, 0, pointer(param))


@jit
def momentum_step(grad, step, param, velocity, n_threads):
    _momentum_step(pointer(grad), param.size, step, 0, pointer(param), pointer(velocity))


@jit
def nesterov_step(grad, step, param, velocity, n_threads):
    _nesterov_step(pointer(grad), param.size, step, 0, pointer(param), pointer(velocity))


@jit
def adam_step(grad, step, param, m, v, n_threads):
    _adam_step(pointer(grad), param.size, step, 0, pointer(param), pointer(m), pointer(v))


@jit
def linear_update(a_prev, delta, optimizer, step, W, b, m_W, m_b, v_W, v_b, scratch, n_threads):
    shape = delta.shape[0], delta.shape[1], W.shape[0]
    weights = pointer(W), pointer(m_W), pointer(v_W)
    bias = pointer(b), pointer(m_b), pointer(v_b), b.size > 0
    return _linear_update(
        pointer(a_prev), pointer(delta), *shape, optimizer, step, 0, *weights, *bias, pointer(scratch)
    )


def train_steps(plan, steps, order, batch_size, buffers, losses, n_threads):
    _train_steps(plan, steps, order, batch_size, *_flat(buffers), losses)


def predict(plan, order, batch_size, buffers, out, n_threads):
    _predict(plan, order, batch_size, *_flat(buffers), out)


# ------------------------------------------------------------------------------------------------- kernels


def _flat(buffers):
    """Return the buffers in the one form that `_train_steps` and `_predict` are compiled for."""
    return tuple(as_writable(array).reshape(array.size) for array in buffers)


@jit
def _gather_rows(X, n_columns, order, n_rows, out):
    for r in range(n_rows):
        source, target = at(X, load(order, r) * n_columns), at(out, r * n_columns)
        for j in range(0, n_columns, lanes(out)):
            rest = n_columns - j
            store_vector(at(target, j), rest, load_vector(at(source, j), rest, 0))


@jit
def _gather_csr_rows(data, indices, indptr, n_columns, order, n_rows, out):
    _fill(out, n_rows * n_columns, 0)
    for r in range(n_rows):
        target, sample = at(out, r * n_columns), load(order, r)
        for e in range(load(indptr, sample), load(indptr, sample + 1)):
            j = load(indices, e)
            store(target, j, load(target, j) + load(data, e))


@jit
def _gather_classes(classes, n_columns, order, n_rows, out):
    _fill(out, n_rows * n_columns, 0)
    for r in range(n_rows):
        store(out, r * n_columns + load(classes, load(order, r)), 1)


@jit
def _linear_forward(a_prev, n_rows, n_out, n_in, W, b, has_bias, activation, a, scratch):
    vector, width = lanes(a), TILE_VECTORS * lanes(a)
    panel = at(scratch, (MAX_ROWS + 1) * width)
    for o in range(0, n_out, width):
        columns = min(width, n_out - o)
        n_vectors = (columns + vector - 1) // vector
        if n_rows > MAX_ROWS or columns % vector:
            stride, source = n_vectors * vector, panel
            _pack(n_in, columns, at(W, o), n_out, panel, stride)
        else:
            stride, source = n_out, at(W, o)
        r = 0
        while r < n_rows:
            rows = _tile_rows(n_rows - r)
            _tile(rows, n_vectors, n_in, at(a_prev, r * n_in), n_in, 1, source, stride, scratch)
            sums = scratch, n_vectors * vector
            _activate(rows, columns, *sums, at(b, o), has_bias, activation, at(a, r * n_out + o), n_out)
            r += rows
    if activation == Activation.SOFTMAX:
        for r in range(n_rows):
            _softmax(at(a, r * n_out), n_out)


@jit
def _output_delta(a, y, weight, has_weight, n_rows, n_out, activation, loss, delta):
    total = 0.0
    for r in range(n_rows):
        a_row, y_row, delta_row = at(a, r * n_out), at(y, r * n_out), at(delta, r * n_out)
        for j in range(n_out):
            store(delta_row, j, load(a_row, j) - load(y_row, j))
        if loss == Loss.SQUARED_ERROR:
            sample_loss = _half_square_sum(delta_row, n_out)
            if activation == Activation.SOFTMAX:
                _through_softmax(a_row, n_out, delta_row)
            else:
                _through_activation(a_row, activation, n_out, delta_row)
        else:
            sample_loss = _log_loss(a_row, y_row, n_out, epsilon(a), loss)
        if has_weight:
            w = load(weight, r)
            sample_loss *= w
            for j in range(n_out):
                store(delta_row, j, load(delta_row, j) * w)
        total += sample_loss
    return total


@jit
def _backprop_delta(delta, n_rows, n_out, n_in, W, a_prev, activation, delta_prev, scratch):
    vector, width = lanes(delta), TILE_VECTORS * lanes(delta)
    padded = (n_rows + vector - 1) // vector * vector
    transposed = at(scratch, (MAX_ROWS + 1) * width)
    _transpose(delta, n_rows, n_out, transposed, padded)
    for r in range(0, n_rows, width):
        rows = min(width, n_rows - r)
        n_vectors = (rows + vector - 1) // vector
        i = 0
        while i < n_in:
            units = _tile_rows(n_in - i)
            _tile(units, n_vectors, n_out, at(W, i * n_out), n_out, 1, at(transposed, r), padded, scratch)
            _store_transposed(rows, units, scratch, n_vectors * vector, at(delta_prev, r * n_in + i), n_in)
            i += units
        _through_activation(at(a_prev, r * n_in), activation, rows * n_in, at(delta_prev, r * n_in))


@jit
def _linear_grad(a_prev, delta, n_rows, n_out, n_in, steps, s, W, grad_W, grad_b, has_bias, scratch):
    shape = n_rows, n_out, n_in
    squares = _update_weights(a_prev, delta, *shape, NONE, steps[s], W, grad_W, grad_W, grad_W, scratch)
    if has_bias:
        _update_bias(delta, n_rows, n_out, NONE, steps[s], grad_b, grad_b, grad_b, scratch)
    return squares


@jit
def _sgd_step(grad, n, steps, s, param):
    _apply(Optimizer.SGD, steps[s], 1.0, 0.0, 1, n, grad, n, grad, False, param, param, param, param, n)


@jit
def _momentum_step(grad, n, steps, s, param, velocity):
    _apply(Optimizer.MOMENTUM, steps[s], 1.0, 0.0, 1, n, grad, n, grad, False, param, param, velocity, velocity, n)


@jit
def _nesterov_step(grad, n, steps, s, param, velocity):
    _apply(Optimizer.NESTEROV, steps[s], 1.0, 0.0, 1, n, grad, n, grad, False, param, param, velocity, velocity, n)


@jit
def _adam_step(grad, n, steps, s, param, m, v):
    _apply(Optimizer.ADAM, steps[s], 1.0, 0.0, 1, n, grad, n, grad, False, param, param, m, v, n)


@jit
def _linear_update(
    a_prev, delta, n_rows, n_out, n_in, optimizer, steps, s, W, m_W, v_W, b, m_b, v_b, has_bias, scratch
):
    shape = n_rows, n_out, n_in
    squares = _update_weights(a_prev, delta, *shape, optimizer, steps[s], W, W, m_W, v_W, scratch)
    if has_bias:
        _update_bias(delta, n_rows, n_out, optimizer, steps[s], b, m_b, v_b, scratch)
    return squares


@jit
def _train_steps(
    plan,
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
    sources = pointer(X), pointer(y), pointer(sample_weight)
    csr = pointer(X_data), pointer(X_indices), pointer(X_indptr)
    params, grads, m, v = pointer(params), pointer(grads), pointer(m), pointer(v)
    work, scratch = pointer(work), pointer(scratch)
    for s in range(steps.size):
        start = s * batch_size
        n_rows = min(batch_size, order.size - start)
        batch = at(pointer(order), start)
        data_loss = squares = 0.0
        for p in range(plan.size):
            row = plan[p]
            shape = n_rows, row.n_out, row.n_in
            a_prev, a, delta = at(work, row.a_prev), at(work, row.a), at(work, row.delta)
            W, b, has_bias = row.W, row.b, row.b != NONE
            if row.op <= Op.GATHER_CLASSES:
                _gather(row, sources, csr, pointer(classes), batch, n_rows, a)
                if row.finite == 1 and not _is_finite(a, n_rows * row.n_out):
                    return
            elif row.op == Op.LINEAR_FORWARD:
                weights = at(params, W), at(params, b), has_bias
                _linear_forward(a_prev, *shape, *weights, row.activation, a, scratch)
            elif row.op == Op.OUTPUT_DELTA:
                weight = at(work, row.weight), row.weight != NONE
                data_loss += _output_delta(
                    a, at(work, row.y), *weight, n_rows, row.n_out, row.activation, row.loss, delta
                )
            elif row.op == Op.BACKPROP_DELTA:
                below = a_prev, row.activation, at(work, row.delta_prev)
                _backprop_delta(delta, *shape, at(params, W), *below, scratch)
            elif row.op == Op.LINEAR_GRAD:
                gradient = at(grads, W), at(grads, b), has_bias
                squares += _linear_grad(a_prev, delta, *shape, steps, s, at(params, W), *gradient, scratch)
            elif row.op == Op.LINEAR_UPDATE:
                weights = at(params, W), at(m, W), at(v, W)
                bias = at(params, b), at(m, b), at(v, b), has_bias
                squares += _linear_update(a_prev, delta, *shape, row.optimizer, steps, s, *weights, *bias, scratch)
            elif row.op == Op.OPTIMIZER_STEP:
                n = row.n_in
                state = at(params, W), at(params, W), at(m, W), at(v, W)
                sums = at(grads, W), n, at(grads, W), False
                _apply(row.optimizer, steps[s], 1.0, 0.0, 1, n, *sums, *state, n)
        losses[0] += steps[s].loss_scale * data_loss
        losses[1] += steps[s].loss_scale * 0.5 * steps[s].l2 * squares
        losses[2] += 1


@jit
def _predict(
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
    sources = pointer(X), pointer(y), pointer(sample_weight)
    csr = pointer(X_data), pointer(X_indices), pointer(X_indptr)
    params, work, scratch = pointer(params), pointer(work), pointer(scratch)
    for start in range(0, order.size, batch_size):
        n_rows = min(batch_size, order.size - start)
        batch = at(pointer(order), start)
        for p in range(plan.size):
            row = plan[p]
            a = at(pointer(out), start * row.n_out) if row.a == NONE else at(work, row.a)
            if row.op == Op.LINEAR_FORWARD:
                weights = at(params, row.W), at(params, row.b), row.b != NONE
                shape = n_rows, row.n_out, row.n_in
                _linear_forward(at(work, row.a_prev), *shape, *weights, row.activation, a, scratch)
            else:
                _gather(row, sources, csr, pointer(classes), batch, n_rows, a)


# -------------------------------------------------------------------------------------- parts of the kernels


@jit
def _gather(row, sources, csr, classes, batch, n_rows, out):
    if row.op == Op.GATHER_CSR_ROWS:
        _gather_csr_rows(*csr, row.n_out, batch, n_rows, out)
    elif row.op == Op.GATHER_CLASSES:
        _gather_classes(classes, row.n_out, batch, n_rows, out)
    else:
        X, y, sample_weight = sources
        source = X if row.source == Source.X else (y if row.source == Source.Y else sample_weight)
        _gather_rows(source, row.n_out, batch, n_rows, out)


@jit
def _tile(n_rows, n_vectors, K, A, a_row, a_k, B, b_k, C):
    """Keep the tiles in one function, which the products share."""
    tile(n_rows, n_vectors, K, A, a_row, a_k, B, b_k, C)


@jit
def _tile_rows(remaining):
    """Return the most rows that a tile of the menu has and that remain."""
    return 8 if remaining >= 8 and MAX_ROWS == 8 else (4 if remaining >= 4 else (2 if remaining >= 2 else 1))


@jit
def _is_finite(x, n):
    """Tell whether no element is infinite or NaN."""
    zeros = splat(0.0, x)
    for j in range(0, n, lanes(x)):
        zeros = zeros + 0.0 * load_vector(at(x, j), n - j, 0)
    return sum_lanes(zeros) == 0


@jit
def _fill(x, n, value):
    for j in range(0, n, lanes(x)):
        store_vector(at(x, j), n - j, splat(value, x))


@jit
def _pack(n_rows, columns, B, b_row, panel, stride):
    """Copy a panel of columns into dense rows of whole vectors, filled up with zeros."""
    for k in range(n_rows):
        source, target = at(B, k * b_row), at(panel, k * stride)
        for j in range(0, columns, lanes(panel)):
            store_vector(at(target, j), stride, load_vector(at(source, j), columns - j, 0))


@jit
def _transpose(A, n_rows, n_columns, out, stride):
    """Write A (n_rows, n_columns) transposed, its rows filled up with zeros to ``stride``."""
    if n_rows < stride:
        _fill(out, n_columns * stride, 0)
    for j in range(n_columns):
        for r in range(n_rows):
            store(out, j * stride + r, load(A, r * n_columns + j))


@jit
def _activate(n_rows, columns, sums, sums_row, b, has_bias, activation, a, a_row):
    """Finish a tile of the forward product: a = act(sums + b). Softmax needs the whole row and comes later."""
    for r in range(n_rows):
        for j in range(0, columns, lanes(a)):
            rest = columns - j
            z = load_vector(at(sums, r * sums_row + j), sums_row, 0)
            if has_bias:
                z = z + load_vector(at(b, j), rest, 0)
            if activation == Activation.RELU:
                z = maximum(z, 0.0)
            elif activation == Activation.LOGISTIC:
                z = logistic(z)
            elif activation == Activation.TANH:
                z = tanh(z)
            elif activation == Activation.EXP:
                z = exp(z)
            store_vector(at(a, r * a_row + j), rest, z)


@jit
def _softmax(a, n):
    vector = lanes(a)
    largest = splat(-math.inf, a)
    for j in range(0, n, vector):
        largest = maximum(largest, load_vector(at(a, j), n - j, -math.inf))
    shift, total = max_lanes(largest), splat(0.0, a)
    for j in range(0, n, vector):
        e = exp(load_vector(at(a, j), n - j, -math.inf) - shift)
        store_vector(at(a, j), n - j, e)
        total = total + e
    norm = sum_lanes(total)
    for j in range(0, n, vector):
        store_vector(at(a, j), n - j, load_vector(at(a, j), n - j, 0) / norm)


@jit
def _through_activation(a, activation, n, delta):
    """Turn d loss / d a into d loss / d z for n elements: delta *= act'(z), in terms of a = act(z)."""
    if activation == Activation.IDENTITY:
        return
    for j in range(0, n, lanes(a)):
        a_j, d = load_vector(at(a, j), n - j, 0), load_vector(at(delta, j), n - j, 0)
        if activation == Activation.RELU:
            d = zero_where_zero(a_j, d)
        elif activation == Activation.LOGISTIC:
            d = d * (a_j * (1.0 - a_j))
        elif activation == Activation.TANH:
            d = d * (1.0 - a_j * a_j)
        elif activation == Activation.EXP:
            d = d * a_j
        store_vector(at(delta, j), n - j, d)


@jit
def _through_softmax(a, n, delta):
    """Do the same for a row of softmax outputs, whose Jacobian is a_i ((i = j) - a_j)."""
    total = splat(0.0, a)
    for j in range(0, n, lanes(a)):
        total = total + load_vector(at(delta, j), n - j, 0) * load_vector(at(a, j), n - j, 0)
    mean = sum_lanes(total)
    for j in range(0, n, lanes(a)):
        d = load_vector(at(delta, j), n - j, 0) - mean
        store_vector(at(delta, j), n - j, d * load_vector(at(a, j), n - j, 0))


@jit
def _half_square_sum(x, n):
    total = 0.0
    for j in range(n):
        total += float(load(x, j)) * float(load(x, j))
    return 0.5 * total


@jit
def _log_loss(a, y, n, eps, loss):
    """Loss of one sample where delta = a - y. What weighs 0 is left out: 0 log 0 = 0."""
    total = 0.0
    for j in range(n):
        target, p = float(load(y, j)), float(load(a, j))
        if loss == Loss.POISSON:
            total += p - target
            ratio = target / p  # 0 / 0 is NaN, as in scikit-learn
            total += target * math.log(ratio) if target != 0 else ratio
        else:
            p = eps if p < eps else (1 - eps if p > 1 - eps else p)
            if target != 0:
                total -= target * math.log(p)
            if loss == Loss.BINARY_CROSS_ENTROPY and target != 1:
                total -= (1 - target) * math.log(1 - p)
    return total


@jit
def _store_transposed(n_rows, units, sums, sums_row, out, out_row):
    """Write a tile of units x rows as rows x units."""
    for r in range(n_rows):
        for i in range(units):
            store(out, r * out_row + i, load(sums, i * sums_row + r))


@jit
def _update_weights(a_prev, delta, n_rows, n_out, n_in, rule, step, W, param, m, v, scratch):
    """Form the weights' gradient tile by tile and apply ``rule`` to each tile; return the sum of W^2 if l2 is not 0."""
    vector, width = lanes(delta), TILE_VECTORS * lanes(delta)
    panel, squares = at(scratch, (MAX_ROWS + 1) * width), splat(0.0, delta)
    if n_rows == 1 and n_out % vector == 0:  # one sample's outer product needs no sums: its rows are delta x input
        if step.l2 != 0:
            squares = _square_sums(n_in, n_out, W, n_out)
        state = W, param, m, v, n_out
        _apply(rule, step, step.grad_scale, step.l2, n_in, n_out, delta, 0, a_prev, True, *state)
        return sum_lanes(squares)
    for o in range(0, n_out, width):
        columns = min(width, n_out - o)
        n_vectors = (columns + vector - 1) // vector
        stride = n_vectors * vector
        _pack(n_rows, columns, at(delta, o), n_out, panel, stride)
        i = 0
        while i < n_in:
            units = _tile_rows(n_in - i)
            _tile(units, n_vectors, n_rows, at(a_prev, i), 1, n_in, panel, stride, scratch)
            corner = i * n_out + o
            if step.l2 != 0:
                squares = squares + _square_sums(units, columns, at(W, corner), n_out)
            state = at(W, corner), at(param, corner), at(m, corner), at(v, corner), n_out
            block = units, columns, scratch, stride
            if columns == n_out and columns < stride:
                block = _compact(*block)
            _apply(rule, step, step.grad_scale, step.l2, *block, scratch, False, *state)
            i += units
    return sum_lanes(squares)


@jit
def _update_bias(delta, n_rows, n_out, rule, step, param, m, v, scratch):
    vector = lanes(delta)
    for o in range(0, n_out, vector):
        total = splat(0.0, delta)
        for r in range(n_rows):
            total = total + load_vector(at(delta, r * n_out + o), n_out - o, 0)
        store_vector(at(scratch, o), vector, total)
    _apply(rule, step, step.grad_scale, 0.0, 1, n_out, scratch, n_out, scratch, False, param, param, m, v, n_out)


@jit
def _compact(n_rows, columns, sums, stride):
    """Close the gaps between the rows of a tile as wide as its layer, in place; return its shape as one long row.

    The parameters have no gaps: row by row, each masked load would wait for the masked store of the row before it.
    """
    for r in range(1, n_rows):
        for j in range(0, columns, lanes(sums)):
            store_vector(at(sums, r * columns + j), stride, load_vector(at(sums, r * stride + j), stride, 0))
    return 1, n_rows * columns, sums, n_rows * columns


@jit
def _square_sums(n_rows, columns, W, w_row):
    """Return the sums of the squares of a block, lane by lane."""
    total = splat(0.0, W)
    for r in range(n_rows):
        for j in range(0, columns, lanes(W)):
            w = load_vector(at(W, r * w_row + j), columns - j, 0)
            total = total + w * w
    return total


@jit
def _apply(rule, step, scale, l2, n_rows, columns, sums, sums_row, factors, has_factors, W, param, m, v, row):
    """Apply an optimiser to a block of parameters whose gradient is scale (sums + l2 W).

    Each row of the sums is multiplied by its factor, if there are any. ``NONE`` for an optimiser keeps the gradient
    itself. W, param, m, v share the stride ``row``.
    """
    scale, l2_, rate = splat(scale, param), splat(l2, param), splat(step.rate, param)
    momentum, keep = splat(step.momentum, param), splat(step.keep, param)
    betas = splat(step.beta_1, param), splat(step.beta_2, param)
    rests = splat(1.0 - step.beta_1, param), splat(1.0 - step.beta_2, param)
    epsilon, kept = splat(step.epsilon, param), splat(1.0 - step.decay, param)
    for r in range(n_rows):
        factor = splat(load(factors, r) if has_factors else 1, param)
        for j in range(0, columns, lanes(param)):
            rest, here = columns - j, r * row + j
            g = load_vector(at(sums, r * sums_row + j), rest, 0)
            if has_factors:
                g = g * factor
            if l2 != 0:
                g = g + l2_ * load_vector(at(W, here), rest, 0)
            g = scale * g
            if rule == NONE:
                _keep(g, rest, step.keep != 0, keep, at(param, here))
            elif rule == Optimizer.SGD:
                _sgd(g, rest, rate, at(param, here))
            elif rule == Optimizer.MOMENTUM:
                _momentum(g, rest, rate, momentum, at(param, here), at(m, here))
            elif rule == Optimizer.NESTEROV:
                _nesterov(g, rest, rate, momentum, at(param, here), at(m, here))
            else:
                _adam(g, rest, rate, betas, rests, epsilon, kept, at(param, here), at(m, here), at(v, here))


@jit
def _keep(g, n, accumulate, keep, grad):
    if accumulate:
        g = g + keep * load_vector(grad, n, 0)
    store_vector(grad, n, g)


@jit
def _sgd(g, n, rate, param):
    store_vector(param, n, load_vector(param, n, 0) - rate * g)


@jit
def _momentum(g, n, rate, momentum, param, velocity):
    v = momentum * load_vector(velocity, n, 0) - rate * g
    store_vector(velocity, n, v)
    store_vector(param, n, load_vector(param, n, 0) + v)


@jit
def _nesterov(g, n, rate, momentum, param, velocity):
    v = momentum * load_vector(velocity, n, 0) - rate * g
    store_vector(velocity, n, v)
    store_vector(param, n, load_vector(param, n, 0) + (momentum * v - rate * g))


@jit
def _adam(g, n, rate, betas, rests, epsilon, kept, param, m, v):
    m_new = betas[0] * load_vector(m, n, 0) + rests[0] * g
    v_new = betas[1] * load_vector(v, n, 0) + rests[1] * (g * g)
    store_vector(m, n, m_new)
    store_vector(v, n, v_new)
    store_vector(param, n, kept * load_vector(param, n, 0) - rate * m_new / (sqrt(v_new) + epsilon))
