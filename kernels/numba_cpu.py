"""Backend ``numba``: the operations of `reference`, compiled by Numba; arguments and formulas stand there.

A product runs over tiles (`numba_tiles`): a panel of columns is packed, each tile of it leaves its sums in a small block
of scratch, and what follows the product (bias and activation, Hadamard product, optimiser) is done to that block while
it is in the first-level cache. The operations take arrays; the kernels behind them, named alike with an underscore, take
pointers, so that `train_steps` walks a plan without making views.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import math

import numpy as np

from .contract import NONE, Activation, Loss, Op, Optimizer, Source
from .numba_math import exp, logistic, tanh
from .numba_tiles import (
    MAX_ROWS,
    TILE_VECTORS,
    VECTOR_BYTES,
    as_writable,
    at,
    cast,
    epsilon,
    jit,
    lanes,
    load,
    pointer,
    store,
    tile,
)


def scratch_size(n_in, n_out, n_rows):
    """Return how many elements of ``scratch`` the operations need for layers up to this size."""
    panel = TILE_VECTORS * VECTOR_BYTES // 4
    return panel * (MAX_ROWS + 1 + max(n_in, n_out, n_rows)) + n_out * (n_rows + panel)


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
        for j in range(n_columns):
            store(target, j, load(source, j))


@jit
def _gather_csr_rows(data, indices, indptr, n_columns, order, n_rows, out):
    for r in range(n_rows):
        target = at(out, r * n_columns)
        for j in range(n_columns):
            store(target, j, cast(0, out))
        sample = load(order, r)
        for e in range(load(indptr, sample), load(indptr, sample + 1)):
            j = load(indices, e)
            store(target, j, load(target, j) + load(data, e))


@jit
def _gather_classes(classes, n_columns, order, n_rows, out):
    for j in range(n_rows * n_columns):
        store(out, j, cast(0, out))
    for r in range(n_rows):
        store(out, r * n_columns + load(classes, load(order, r)), cast(1, out))


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
    squares = _update_weights(a_prev, delta, *shape, NONE, steps, s, W, grad_W, grad_W, grad_W, scratch)
    if has_bias:
        _update_bias(delta, n_rows, n_out, NONE, steps, s, grad_b, grad_b, grad_b, scratch)
    return squares


@jit
def _sgd_step(grad, n, steps, s, param):
    _apply(Optimizer.SGD, steps, s, 1, n, grad, n, param, param, param, n)


@jit
def _momentum_step(grad, n, steps, s, param, velocity):
    _apply(Optimizer.MOMENTUM, steps, s, 1, n, grad, n, param, velocity, velocity, n)


@jit
def _nesterov_step(grad, n, steps, s, param, velocity):
    _apply(Optimizer.NESTEROV, steps, s, 1, n, grad, n, param, velocity, velocity, n)


@jit
def _adam_step(grad, n, steps, s, param, m, v):
    _apply(Optimizer.ADAM, steps, s, 1, n, grad, n, param, m, v, n)


@jit
def _linear_update(
    a_prev, delta, n_rows, n_out, n_in, optimizer, steps, s, W, m_W, v_W, b, m_b, v_b, has_bias, scratch
):
    shape = n_rows, n_out, n_in
    squares = _update_weights(a_prev, delta, *shape, optimizer, steps, s, W, W, m_W, v_W, scratch)
    if has_bias:
        _update_bias(delta, n_rows, n_out, optimizer, steps, s, b, m_b, v_b, scratch)
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
                state = at(params, W), at(m, W), at(v, W)
                _apply(row.optimizer, steps, s, 1, n, at(grads, W), n, *state, n)
        losses[0] += steps[s].loss_scale * data_loss
        losses[1] += steps[s].loss_scale * 0.5 * steps[s].l2 * squares


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
def _pack(n_rows, columns, B, b_row, panel, stride):
    """Copy a panel of columns into dense rows of whole vectors, filled up with zeros."""
    for k in range(n_rows):
        source, target = at(B, k * b_row), at(panel, k * stride)
        for j in range(columns):
            store(target, j, load(source, j))
        for j in range(columns, stride):
            store(target, j, cast(0, panel))


@jit
def _transpose(A, n_rows, n_columns, out, stride):
    """Write A (n_rows, n_columns) transposed, its rows filled up with zeros to ``stride``."""
    for j in range(n_columns):
        for r in range(n_rows):
            store(out, j * stride + r, load(A, r * n_columns + j))
        for r in range(n_rows, stride):
            store(out, j * stride + r, cast(0, out))


@jit
def _activate(n_rows, columns, sums, sums_row, b, has_bias, activation, a, a_row):
    """Finish a tile of the forward product: a = act(sums + b). Softmax needs the whole row and comes later."""
    for r in range(n_rows):
        z, target = at(sums, r * sums_row), at(a, r * a_row)
        if has_bias:
            for j in range(columns):
                store(z, j, load(z, j) + load(b, j))
        if activation == Activation.RELU:
            for j in range(columns):
                x = load(z, j)
                store(target, j, cast(0, a) if x < 0 else x)
        elif activation == Activation.LOGISTIC:
            for j in range(columns):
                store(target, j, logistic(load(z, j)))
        elif activation == Activation.TANH:
            for j in range(columns):
                store(target, j, tanh(load(z, j)))
        elif activation == Activation.EXP:
            for j in range(columns):
                store(target, j, exp(load(z, j)))
        else:
            for j in range(columns):
                store(target, j, load(z, j))


@jit
def _softmax(a, n):
    largest = load(a, 0)
    for j in range(1, n):
        largest = max(largest, load(a, j))
    for j in range(n):
        store(a, j, exp(load(a, j) - largest))
    total = cast(0, a)
    for j in range(n):
        total += load(a, j)
    for j in range(n):
        store(a, j, load(a, j) / total)


@jit
def _through_activation(a, activation, n, delta):
    """Turn d loss / d a into d loss / d z for n elements: delta *= act'(z), in terms of a = act(z)."""
    one = cast(1, a)
    if activation == Activation.RELU:
        for j in range(n):
            store(delta, j, cast(0, a) if load(a, j) == 0 else load(delta, j))
    elif activation == Activation.LOGISTIC:
        for j in range(n):
            store(delta, j, load(delta, j) * (load(a, j) * (one - load(a, j))))
    elif activation == Activation.TANH:
        for j in range(n):
            store(delta, j, load(delta, j) * (one - load(a, j) * load(a, j)))
    elif activation == Activation.EXP:
        for j in range(n):
            store(delta, j, load(delta, j) * load(a, j))


@jit
def _through_softmax(a, n, delta):
    """The same for a row of softmax outputs, whose Jacobian is a_i ((i = j) - a_j)."""
    mean = cast(0, a)
    for j in range(n):
        mean += load(delta, j) * load(a, j)
    for j in range(n):
        store(delta, j, (load(delta, j) - mean) * load(a, j))


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
            if target != 0:
                total += target * math.log(target / p)
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
def _update_weights(a_prev, delta, n_rows, n_out, n_in, rule, steps, s, W, param, m, v, scratch):
    """Form the weights' gradient tile by tile and apply ``rule`` to each tile; return the sum of W^2 if l2 is not 0."""
    vector, width = lanes(delta), TILE_VECTORS * lanes(delta)
    squares, panel = at(scratch, MAX_ROWS * width), at(scratch, (MAX_ROWS + 1) * width)
    for j in range(width):
        store(squares, j, cast(0, scratch))
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
            _finish_gradient(units, columns, steps, s, scratch, stride, at(W, corner), n_out, squares)
            state = at(param, corner), at(m, corner), at(v, corner), n_out
            _apply(rule, steps, s, units, columns, scratch, stride, *state)
            i += units
    total = 0.0
    for j in range(width):
        total += load(squares, j)
    return total


@jit
def _update_bias(delta, n_rows, n_out, rule, steps, s, param, m, v, scratch):
    for o in range(n_out):
        store(scratch, o, cast(0, scratch))
    for r in range(n_rows):
        row = at(delta, r * n_out)
        for o in range(n_out):
            store(scratch, o, load(scratch, o) + load(row, o))
    scale = cast(steps[s].grad_scale, scratch)
    for o in range(n_out):
        store(scratch, o, load(scratch, o) * scale)
    _apply(rule, steps, s, 1, n_out, scratch, n_out, param, m, v, n_out)


@jit
def _finish_gradient(n_rows, columns, steps, s, g, g_row, W, w_row, squares):
    """Turn a tile of sums into the gradient g = scale (sums + l2 W) and add W^2, column by column, to ``squares``."""
    scale, l2 = cast(steps[s].grad_scale, g), cast(steps[s].l2, g)
    for r in range(n_rows):
        g_r, W_r = at(g, r * g_row), at(W, r * w_row)
        if l2 == 0:
            for j in range(columns):
                store(g_r, j, load(g_r, j) * scale)
        else:
            for j in range(columns):
                w = load(W_r, j)
                store(g_r, j, (load(g_r, j) + l2 * w) * scale)
                store(squares, j, load(squares, j) + w * w)


@jit
def _apply(rule, steps, s, n_rows, columns, g, g_row, param, m, v, param_row):
    """Apply an optimiser (or ``NONE``: keep the gradient itself) to a block of parameters with gradient g."""
    step = steps[s]
    rate, momentum, keep = cast(step.rate, g), cast(step.momentum, g), cast(step.keep, g)
    for r in range(n_rows):
        g_r, p_r = at(g, r * g_row), at(param, r * param_row)
        m_r, v_r = at(m, r * param_row), at(v, r * param_row)
        if rule == NONE:
            if keep == 0:
                for j in range(columns):
                    store(p_r, j, load(g_r, j))
            else:
                for j in range(columns):
                    store(p_r, j, keep * load(p_r, j) + load(g_r, j))
        elif rule == Optimizer.SGD:
            for j in range(columns):
                store(p_r, j, load(p_r, j) - rate * load(g_r, j))
        elif rule == Optimizer.MOMENTUM:
            for j in range(columns):
                velocity = momentum * load(m_r, j) - rate * load(g_r, j)
                store(m_r, j, velocity)
                store(p_r, j, load(p_r, j) + velocity)
        elif rule == Optimizer.NESTEROV:
            for j in range(columns):
                velocity = momentum * load(m_r, j) - rate * load(g_r, j)
                store(m_r, j, velocity)
                store(p_r, j, load(p_r, j) + (momentum * velocity - rate * load(g_r, j)))
        else:
            _adam(step, columns, g_r, p_r, m_r, v_r)


@jit
def _adam(step, n, g, p, m, v):
    rate, epsilon, kept = cast(step.rate, g), cast(step.epsilon, g), cast(1 - step.decay, g)
    beta_1, beta_2 = cast(step.beta_1, g), cast(step.beta_2, g)
    rest_1, rest_2 = cast(1 - step.beta_1, g), cast(1 - step.beta_2, g)
    for j in range(n):
        m_j = beta_1 * load(m, j) + rest_1 * load(g, j)
        v_j = beta_2 * load(v, j) + rest_2 * (load(g, j) * load(g, j))
        store(m, j, m_j)
        store(v, j, v_j)
        store(p, j, kept * load(p, j) - rate * m_j / (math.sqrt(v_j) + epsilon))
