# cython: language_level=3, binding=True, freethreading_compatible=True
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Backend ``cython``: the operations of `reference`, compiled by Cython over C tiles; arguments and formulas stand there.

A product runs over tiles (``tile.h``): a panel of columns is packed, each tile of it leaves its sums in a small block of
scratch, and what follows the product (bias and activation, Hadamard product, optimiser) is done to that block while it
is in the first-level cache. The operations take arrays; the kernels behind them, named alike with an underscore, take
pointers, so that `train_steps` walks a plan without making views.

What must run in vector registers is C, compiled once for each instruction set and reached through a table of functions
(``tile_table.h``); the table is chosen here, at import, by what the processor can do. The environment variable
``FASTBP_ISA`` overrides the choice.
"""

import os

from . import contract

from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset


cdef extern from "tile_table.h":
    enum:
        IDENTITY, RELU, LOGISTIC, TANH, SOFTMAX, EXP
        SQUARED_ERROR, CROSS_ENTROPY, BINARY_CROSS_ENTROPY, POISSON
        NONE, SGD, MOMENTUM, NESTEROV, ADAM
        TILE_VECTORS

    ctypedef struct Step:
        double grad_scale, loss_scale, l2, keep, rate, momentum, beta_1, beta_2, epsilon, decay

    ctypedef struct Tiles:
        Py_ssize_t lanes, max_rows
        void (*tile)(
            Py_ssize_t n_rows, Py_ssize_t n_vectors, Py_ssize_t K, const void* A, Py_ssize_t a_row, Py_ssize_t a_k,
            const void* B, Py_ssize_t b_k, void* C
        ) noexcept nogil
        void (*pack)(
            Py_ssize_t n_rows, Py_ssize_t columns, const void* B, Py_ssize_t b_row, void* panel, Py_ssize_t stride
        ) noexcept nogil
        void (*transpose)(
            Py_ssize_t n_rows, Py_ssize_t columns, const void* A, Py_ssize_t a_row, void* out, Py_ssize_t out_row,
            bint fill
        ) noexcept nogil
        Py_ssize_t (*list_nonzero)(Py_ssize_t n, const void* x, int32_t* list) noexcept nogil
        void (*weighted_rows)(
            Py_ssize_t n_listed, const int32_t* list, const void* x, const void* W, Py_ssize_t w_row, Py_ssize_t n,
            void* sums
        ) noexcept nogil
        void (*row_products)(
            Py_ssize_t n_listed, const int32_t* list, const void* delta, const void* W, Py_ssize_t w_row,
            Py_ssize_t n, void* products
        ) noexcept nogil
        void (*add_outer)(
            Py_ssize_t n_listed, const int32_t* list, double scale, const void* x, const void* d, void* W,
            Py_ssize_t w_row, Py_ssize_t n
        ) noexcept nogil
        bint (*is_finite)(Py_ssize_t n, const void* x) noexcept nogil
        void (*activate)(
            Py_ssize_t n_rows, Py_ssize_t columns, const void* sums, Py_ssize_t sums_row, const void* b, bint has_bias,
            int activation, void* a, Py_ssize_t a_row
        ) noexcept nogil
        void (*softmax)(Py_ssize_t n, void* z) noexcept nogil
        void (*through_activation)(Py_ssize_t n, const void* a, int activation, void* delta) noexcept nogil
        void (*through_softmax)(Py_ssize_t n, const void* a, void* delta) noexcept nogil
        void (*subtract)(Py_ssize_t n, const void* a, const void* y, void* delta) noexcept nogil
        double (*square_sum)(Py_ssize_t n, const void* x) noexcept nogil
        double (*log_loss)(int loss, Py_ssize_t n, const void* a, const void* y) noexcept nogil
        void (*multiply)(Py_ssize_t n, double factor, void* x) noexcept nogil
        void (*sum_rows)(Py_ssize_t n_rows, Py_ssize_t columns, const void* A, void* sums) noexcept nogil
        void (*add_squares)(
            Py_ssize_t n_rows, Py_ssize_t columns, const void* W, Py_ssize_t w_row, void* squares
        ) noexcept nogil
        void (*compact)(Py_ssize_t n_rows, Py_ssize_t columns, void* sums, Py_ssize_t stride) noexcept nogil
        void (*apply)(
            int rule, const Step* step, double scale, double l2, Py_ssize_t n_rows, Py_ssize_t columns,
            const void* sums, Py_ssize_t sums_row, const void* factors, const void* W, void* param, void* m, void* v,
            Py_ssize_t row
        ) noexcept nogil

    ctypedef struct InstructionSet:
        const char* name
        const Tiles* of_float
        const Tiles* of_double

    const InstructionSet *tile_v2
    const InstructionSet *tile_v3
    const InstructionSet *tile_v4
    bint runs_here(const char* name)


ctypedef fused real:
    float
    double


cdef enum Op:
    GATHER_ROWS, GATHER_CSR_ROWS, GATHER_CLASSES
    LINEAR_FORWARD, OUTPUT_DELTA, BACKPROP_DELTA, LINEAR_GRAD, LINEAR_UPDATE, OPTIMIZER_STEP

cdef enum Source:
    FROM_X, FROM_Y, FROM_SAMPLE_WEIGHT

cdef packed struct Row:
    int64_t op, activation, loss, optimizer, source, n_in, n_out
    int64_t a_prev, a, saved, y, weight, W, b, delta, delta_prev, barrier

cdef struct Sources:
    const void* X
    const void* X_data
    const int32_t* X_indices
    const int64_t* X_indptr
    const void* y
    const int64_t* classes
    const void* sample_weight


cdef const InstructionSet* COMPILED[3]
COMPILED[0], COMPILED[1], COMPILED[2] = tile_v4, tile_v3, tile_v2
cdef const InstructionSet* chosen = NULL


def scratch_size(n_in, n_out, n_rows):
    """Return how many elements of ``scratch`` the operations need for layers up to this size."""
    panel = TILE_VECTORS * chosen.of_float.lanes
    return panel * (chosen.of_float.max_rows + 1 + max(n_in, n_out, n_rows)) + n_out * (n_rows + panel)


def gather_rows(const real[:, ::1] X, const int64_t[::1] order, real[:, ::1] out, int n_threads=1):
    with nogil:
        _gather_rows(&X[0, 0], out.shape[1], &order[0], order.shape[0], &out[0, 0])


def gather_csr_rows(
    const real[::1] data,
    const int32_t[::1] indices,
    const int64_t[::1] indptr,
    const int64_t[::1] order,
    real[:, ::1] out,
    int n_threads=1,
):
    with nogil:
        _gather_csr_rows(
            &data[0], &indices[0], &indptr[0], out.shape[1], &order[0], order.shape[0], &out[0, 0]
        )


def gather_classes(const int64_t[::1] classes, const int64_t[::1] order, real[:, ::1] out, int n_threads=1):
    with nogil:
        _gather_classes(&classes[0], out.shape[1], &order[0], order.shape[0], &out[0, 0])


def linear_forward(
    const real[:, ::1] a_prev,
    const real[:, ::1] W,
    const real[::1] b,
    int activation,
    real[:, ::1] a,
    unsigned char[::1] saved,
    real[::1] scratch,
    int n_threads=1,
):
    with nogil:
        _linear_forward(
            &a_prev[0, 0], a.shape[0], a.shape[1], W.shape[0],
            &W[0, 0], &b[0], b.shape[0] > 0, activation, False, &a[0, 0], &scratch[0]
        )


def output_delta(
    const real[:, ::1] a,
    const real[:, ::1] y,
    const real[::1] sample_weight,
    int activation,
    int loss,
    real[:, ::1] delta,
    int n_threads=1,
):
    cdef double total
    with nogil:
        total = _output_delta(
            &a[0, 0], &y[0, 0], &sample_weight[0], sample_weight.shape[0] > 0,
            a.shape[0], a.shape[1], activation, loss, &delta[0, 0]
        )
    return total


def backprop_delta(
    const real[:, ::1] delta,
    const real[:, ::1] W,
    const real[:, ::1] a_prev,
    int activation,
    const unsigned char[::1] saved,
    real[:, ::1] delta_prev,
    real[::1] scratch,
    int n_threads=1,
):
    with nogil:
        _backprop_delta(
            &delta[0, 0], delta.shape[0], delta.shape[1], W.shape[0],
            &W[0, 0], &a_prev[0, 0], activation, &delta_prev[0, 0], &scratch[0]
        )


def linear_grad(
    const real[:, ::1] a_prev,
    const real[:, ::1] delta,
    const Step[::1] step,
    const real[:, ::1] W,
    real[:, ::1] grad_W,
    real[::1] grad_b,
    real[::1] scratch,
    int n_threads=1,
):
    cdef double squares
    with nogil:
        squares = _linear_grad(
            &a_prev[0, 0], &delta[0, 0], delta.shape[0], delta.shape[1], W.shape[0], &step[0],
            &W[0, 0], &grad_W[0, 0], &grad_b[0], grad_b.shape[0] > 0, &scratch[0]
        )
    return squares


def sgd_step(const real[::1] grad, const Step[::1] step, real[::1] param, int n_threads=1):
    with nogil:
        _optimizer_step(SGD, &grad[0], param.shape[0], &step[0], &param[0], &param[0], &param[0])


def momentum_step(
    const real[::1] grad, const Step[::1] step, real[::1] param, real[::1] velocity, int n_threads=1
):
    with nogil:
        _optimizer_step(MOMENTUM, &grad[0], param.shape[0], &step[0], &param[0], &velocity[0], &velocity[0])


def nesterov_step(
    const real[::1] grad, const Step[::1] step, real[::1] param, real[::1] velocity, int n_threads=1
):
    with nogil:
        _optimizer_step(NESTEROV, &grad[0], param.shape[0], &step[0], &param[0], &velocity[0], &velocity[0])


def adam_step(
    const real[::1] grad, const Step[::1] step, real[::1] param, real[::1] m, real[::1] v, int n_threads=1
):
    with nogil:
        _optimizer_step(ADAM, &grad[0], param.shape[0], &step[0], &param[0], &m[0], &v[0])


def linear_update(
    const real[:, ::1] a_prev,
    const real[:, ::1] delta,
    int optimizer,
    const Step[::1] step,
    real[:, ::1] W,
    real[::1] b,
    real[:, ::1] m_W,
    real[::1] m_b,
    real[:, ::1] v_W,
    real[::1] v_b,
    real[::1] scratch,
    int n_threads=1,
):
    cdef double squares
    with nogil:
        squares = _linear_update(
            &a_prev[0, 0], &delta[0, 0], delta.shape[0], delta.shape[1], W.shape[0], optimizer, &step[0],
            &W[0, 0], &m_W[0, 0], &v_W[0, 0], &b[0], &m_b[0], &v_b[0], b.shape[0] > 0, &scratch[0]
        )
    return squares


def train_steps(plan, steps, order, Py_ssize_t batch_size, buffers, losses, int n_threads=1):
    _train_steps(plan, steps, order, batch_size, *_flat(buffers), losses)


def predict(plan, order, Py_ssize_t batch_size, buffers, out, int n_threads=1):
    _predict(plan, order, batch_size, *_flat(buffers), out)


# ------------------------------------------------------------------------------------------------- kernels


def _flat(buffers):
    """Return the buffers in the one form that `_train_steps` and `_predict` are compiled for."""
    return tuple([array.reshape(array.size) for array in buffers])


cdef void _gather_rows(
    const real* X, Py_ssize_t n_columns, const int64_t* order, Py_ssize_t n_rows, real* out
) noexcept nogil:
    cdef Py_ssize_t r
    for r in range(n_rows):
        memcpy(out + r * n_columns, X + order[r] * n_columns, n_columns * sizeof(real))


cdef void _gather_csr_rows(
    const real* data, const int32_t* indices, const int64_t* indptr, Py_ssize_t n_columns,
    const int64_t* order, Py_ssize_t n_rows, real* out
) noexcept nogil:
    cdef Py_ssize_t r, e
    memset(out, 0, n_rows * n_columns * sizeof(real))
    for r in range(n_rows):
        for e in range(indptr[order[r]], indptr[order[r] + 1]):
            out[r * n_columns + indices[e]] += data[e]


cdef void _gather_classes(
    const int64_t* classes, Py_ssize_t n_columns, const int64_t* order, Py_ssize_t n_rows, real* out
) noexcept nogil:
    cdef Py_ssize_t r
    memset(out, 0, n_rows * n_columns * sizeof(real))
    for r in range(n_rows):
        out[r * n_columns + classes[order[r]]] = 1


cdef void _linear_forward(
    const real* a_prev, Py_ssize_t n_rows, Py_ssize_t n_out, Py_ssize_t n_in, const real* W, const real* b,
    bint has_bias, int activation, bint skip_zeros, real* a, real* scratch
) noexcept nogil:
    cdef const Tiles* cpu = tiles(a)
    cdef Py_ssize_t vector = cpu.lanes, width = TILE_VECTORS * vector
    cdef Py_ssize_t o = 0, r, rows, columns, n_vectors, stride
    cdef real* panel = scratch + (cpu.max_rows + 1) * width
    cdef const real* source
    if n_rows == 1:
        _forward_one(a_prev, n_out, n_in, W, b, has_bias, activation, skip_zeros, a, scratch)
        return
    while o < n_out:
        columns = min(width, n_out - o)
        n_vectors = (columns + vector - 1) // vector
        if n_rows > cpu.max_rows or columns % vector:
            stride, source = n_vectors * vector, panel
            cpu.pack(n_in, columns, W + o, n_out, panel, stride)
        else:
            stride, source = n_out, W + o
        r = 0
        while r < n_rows:
            rows = _tile_rows(n_rows - r, cpu.max_rows)
            cpu.tile(rows, n_vectors, n_in, a_prev + r * n_in, n_in, 1, source, stride, scratch)
            cpu.activate(
                rows, columns, scratch, n_vectors * vector, b + o, has_bias, activation, a + r * n_out + o, n_out
            )
            r += rows
        o += columns
    if activation == SOFTMAX:
        for r in range(n_rows):
            cpu.softmax(n_out, a + r * n_out)


cdef double _output_delta(
    const real* a, const real* y, const real* weight, bint has_weight, Py_ssize_t n_rows, Py_ssize_t n_out,
    int activation, int loss, real* delta
) noexcept nogil:
    cdef const Tiles* cpu = tiles(a)
    cdef double sample_loss, total = 0
    cdef Py_ssize_t r
    for r in range(n_rows):
        cpu.subtract(n_out, a, y, delta)
        if loss == SQUARED_ERROR:
            sample_loss = 0.5 * cpu.square_sum(n_out, delta)
            if activation == SOFTMAX:
                cpu.through_softmax(n_out, a, delta)
            else:
                cpu.through_activation(n_out, a, activation, delta)
        else:
            sample_loss = cpu.log_loss(loss, n_out, a, y)
        if has_weight:
            sample_loss *= weight[r]
            cpu.multiply(n_out, weight[r], delta)
        total += sample_loss
        a, y, delta = a + n_out, y + n_out, delta + n_out
    return total


cdef void _backprop_delta(
    const real* delta, Py_ssize_t n_rows, Py_ssize_t n_out, Py_ssize_t n_in, const real* W, const real* a_prev,
    int activation, real* delta_prev, real* scratch
) noexcept nogil:
    cdef const Tiles* cpu = tiles(delta)
    cdef Py_ssize_t vector = cpu.lanes, width = TILE_VECTORS * vector
    cdef Py_ssize_t padded = (n_rows + vector - 1) // vector * vector
    cdef Py_ssize_t r = 0, i, rows, units, n_vectors
    cdef real* transposed = scratch + (cpu.max_rows + 1) * width
    if n_rows == 1:
        _backprop_one(delta, n_out, n_in, W, a_prev, activation, delta_prev, scratch)
        return
    cpu.transpose(n_rows, n_out, delta, n_out, transposed, padded, True)
    while r < n_rows:
        rows = min(width, n_rows - r)
        n_vectors = (rows + vector - 1) // vector
        i = 0
        while i < n_in:
            units = _tile_rows(n_in - i, cpu.max_rows)
            cpu.tile(units, n_vectors, n_out, W + i * n_out, n_out, 1, transposed + r, padded, scratch)
            cpu.transpose(units, rows, scratch, n_vectors * vector, delta_prev + r * n_in + i, n_in, False)
            i += units
        cpu.through_activation(rows * n_in, a_prev + r * n_in, activation, delta_prev + r * n_in)
        r += rows


cdef double _linear_grad(
    const real* a_prev, const real* delta, Py_ssize_t n_rows, Py_ssize_t n_out, Py_ssize_t n_in, const Step* step,
    const real* W, real* grad_W, real* grad_b, bint has_bias, real* scratch
) noexcept nogil:
    cdef double squares = _update_weights(
        a_prev, delta, n_rows, n_out, n_in, NONE, step, W, grad_W, grad_W, grad_W, scratch
    )
    if has_bias:
        _update_bias(delta, n_rows, n_out, NONE, step, grad_b, grad_b, grad_b, scratch)
    return squares


cdef void _optimizer_step(
    int rule, const real* grad, Py_ssize_t n, const Step* step, real* param, real* m, real* v
) noexcept nogil:
    tiles(param).apply(rule, step, 1, 0, 1, n, grad, n, NULL, param, param, m, v, n)


cdef double _linear_update(
    const real* a_prev, const real* delta, Py_ssize_t n_rows, Py_ssize_t n_out, Py_ssize_t n_in, int optimizer,
    const Step* step, real* W, real* m_W, real* v_W, real* b, real* m_b, real* v_b, bint has_bias, real* scratch
) noexcept nogil:
    cdef double squares = _update_weights(
        a_prev, delta, n_rows, n_out, n_in, optimizer, step, W, W, m_W, v_W, scratch
    )
    if has_bias:
        _update_bias(delta, n_rows, n_out, optimizer, step, b, m_b, v_b, scratch)
    return squares


def _train_steps(
    const Row[::1] plan,
    const Step[::1] steps,
    const int64_t[::1] order,
    Py_ssize_t batch_size,
    const real[::1] X,
    const real[::1] X_data,
    const int32_t[::1] X_indices,
    const int64_t[::1] X_indptr,
    const real[::1] y,
    const int64_t[::1] classes,
    const real[::1] sample_weight,
    real[::1] params,
    real[::1] grads,
    real[::1] m,
    real[::1] v,
    real[::1] work,
    unsigned char[::1] saved,
    real[::1] scratch,
    double[::1] losses,
):
    cdef Sources sources = Sources(
        &X[0], &X_data[0], &X_indices[0], &X_indptr[0], &y[0], &classes[0], &sample_weight[0]
    )
    cdef Py_ssize_t s, start
    cdef bint skip_zeros
    with nogil:
        skip_zeros = tiles(&params[0]).is_finite(params.shape[0], &params[0])
        for s in range(steps.shape[0]):
            start = s * batch_size
            _train_step(
                &plan[0], plan.shape[0], &steps[s], &sources, &order[start], min(batch_size, order.shape[0] - start),
                skip_zeros, &params[0], &grads[0], &m[0], &v[0], &work[0], &scratch[0], &losses[0]
            )


cdef void _train_step(
    const Row* plan, Py_ssize_t n_plan, const Step* step, const Sources* sources, const int64_t* batch,
    Py_ssize_t n_rows, bint skip_zeros, real* params, real* grads, real* m, real* v, real* work, real* scratch,
    double* losses
) noexcept nogil:
    cdef double data_loss = 0, squares = 0
    cdef real* a_prev
    cdef real* a
    cdef real* delta
    cdef Py_ssize_t W, b
    cdef bint has_bias
    cdef const Row* row
    for row in plan[:n_plan]:
        a_prev, a, delta = work + row.a_prev, work + row.a, work + row.delta
        W, b, has_bias = row.W, row.b, row.b != NONE
        if row.op <= GATHER_CLASSES:
            _gather(row, sources, batch, n_rows, a)
        elif row.op == LINEAR_FORWARD:
            _linear_forward(
                a_prev, n_rows, row.n_out, row.n_in, params + W, params + b, has_bias, row.activation, skip_zeros, a,
                scratch
            )
        elif row.op == OUTPUT_DELTA:
            data_loss += _output_delta(
                a, work + row.y, work + row.weight, row.weight != NONE, n_rows, row.n_out,
                row.activation, row.loss, delta
            )
        elif row.op == BACKPROP_DELTA:
            _backprop_delta(
                delta, n_rows, row.n_out, row.n_in, params + W, a_prev, row.activation, work + row.delta_prev, scratch
            )
        elif row.op == LINEAR_GRAD:
            squares += _linear_grad(
                a_prev, delta, n_rows, row.n_out, row.n_in, step, params + W, grads + W, grads + b, has_bias, scratch
            )
        elif row.op == LINEAR_UPDATE:
            squares += _linear_update(
                a_prev, delta, n_rows, row.n_out, row.n_in, row.optimizer, step,
                params + W, m + W, v + W, params + b, m + b, v + b, has_bias, scratch
            )
        elif row.op == OPTIMIZER_STEP:
            _optimizer_step(row.optimizer, grads + W, row.n_in, step, params + W, m + W, v + W)
    losses[0] += step.loss_scale * data_loss
    losses[1] += step.loss_scale * 0.5 * step.l2 * squares
    losses[2] += 1


def _predict(
    const Row[::1] plan,
    const int64_t[::1] order,
    Py_ssize_t batch_size,
    const real[::1] X,
    const real[::1] X_data,
    const int32_t[::1] X_indices,
    const int64_t[::1] X_indptr,
    const real[::1] y,
    const int64_t[::1] classes,
    const real[::1] sample_weight,
    const real[::1] params,
    const real[::1] grads,
    const real[::1] m,
    const real[::1] v,
    real[::1] work,
    unsigned char[::1] saved,
    real[::1] scratch,
    real[:, ::1] out,
):
    cdef Sources sources = Sources(
        &X[0], &X_data[0], &X_indices[0], &X_indptr[0], &y[0], &classes[0], &sample_weight[0]
    )
    cdef Py_ssize_t start = 0, p, n_rows
    cdef const Row* row
    cdef real* a
    with nogil:
        while start < order.shape[0]:
            n_rows = min(batch_size, order.shape[0] - start)
            for p in range(plan.shape[0]):
                row = &plan[p]
                a = &out[start, 0] if row.a == NONE else &work[row.a]
                if row.op == LINEAR_FORWARD:
                    _linear_forward(
                        <const real*> &work[row.a_prev], n_rows, row.n_out, row.n_in,
                        &params[row.W], &params[row.b], row.b != NONE, row.activation, False, a, &scratch[0]
                    )
                else:
                    _gather(row, &sources, &order[start], n_rows, a)
            start += n_rows


# -------------------------------------------------------------------------------------- parts of the kernels


cdef inline const Tiles* tiles(const real* p) noexcept nogil:
    """Return the primitives for p's elements."""
    if real is float:
        return chosen.of_float
    else:
        return chosen.of_double


cdef void _gather(
    const Row* row, const Sources* sources, const int64_t* batch, Py_ssize_t n_rows, real* out
) noexcept nogil:
    cdef const void* source
    if row.op == GATHER_CSR_ROWS:
        _gather_csr_rows(
            <const real*> sources.X_data, sources.X_indices, sources.X_indptr, row.n_out, batch, n_rows, out
        )
    elif row.op == GATHER_CLASSES:
        _gather_classes(sources.classes, row.n_out, batch, n_rows, out)
    else:
        source = sources.X if row.source == FROM_X else (sources.y if row.source == FROM_Y else sources.sample_weight)
        _gather_rows(<const real*> source, row.n_out, batch, n_rows, out)


cdef inline Py_ssize_t _tile_rows(Py_ssize_t remaining, Py_ssize_t max_rows) noexcept nogil:
    """Return the most rows that a tile of the menu has and that remain."""
    while max_rows > remaining:
        max_rows //= 2
    return max_rows


cdef void _forward_one(
    const real* a_prev, Py_ssize_t n_out, Py_ssize_t n_in, const real* W, const real* b, bint has_bias,
    int activation, bint skip_zeros, real* a, real* scratch
) noexcept nogil:
    """Forward product of one sample: only the rows of W whose input is not 0 are read, if there is no 0 x infinity."""
    cdef const Tiles* cpu = tiles(a)
    cdef int32_t* inputs = <int32_t*> (scratch + n_out + cpu.lanes)
    cdef Py_ssize_t n_inputs = cpu.list_nonzero(n_in, a_prev, inputs) if skip_zeros else _list_all(n_in, inputs)
    cpu.weighted_rows(n_inputs, inputs, a_prev, W, n_out, n_out, scratch)
    cpu.activate(1, n_out, scratch, n_out, b, has_bias, activation, a, n_out)
    if activation == SOFTMAX:
        cpu.softmax(n_out, a)


cdef void _backprop_one(
    const real* delta, Py_ssize_t n_out, Py_ssize_t n_in, const real* W, const real* a_prev, int activation,
    real* delta_prev, real* scratch
) noexcept nogil:
    """Backward product of one sample: only the rows of W whose unit passes anything on are read."""
    cdef const Tiles* cpu = tiles(delta)
    cdef int32_t* units = <int32_t*> scratch
    cdef Py_ssize_t n_units
    if activation == RELU:
        n_units = cpu.list_nonzero(n_in, a_prev, units)
        memset(delta_prev, 0, n_in * sizeof(real))
    else:
        n_units = _list_all(n_in, units)
    cpu.row_products(n_units, units, delta, W, n_out, n_out, delta_prev)
    cpu.through_activation(n_in, a_prev, activation, delta_prev)


cdef void _update_one(
    const real* a_prev, const real* delta, Py_ssize_t n_out, Py_ssize_t n_in, int rule, const Step* step,
    const real* W, real* param, real* m, real* v, real* scratch
) noexcept nogil:
    """Apply ``rule`` to one sample's gradient, whose rows are delta x input: there is nothing to sum."""
    cdef const Tiles* cpu = tiles(delta)
    cdef int32_t* rows = <int32_t*> scratch
    cdef Py_ssize_t n_rows
    if n_out == 1:  # the gradient's only column is contiguous, too
        cpu.apply(rule, step, step.grad_scale, step.l2, 1, n_in, a_prev, n_in, delta, W, param, m, v, n_in)
    elif rule == SGD and step.l2 == 0 and cpu.is_finite(n_out, delta):
        n_rows = cpu.list_nonzero(n_in, a_prev, rows)
        cpu.add_outer(n_rows, rows, -step.rate * step.grad_scale, a_prev, delta, param, n_out, n_out)
    else:
        cpu.apply(rule, step, step.grad_scale, step.l2, n_in, n_out, delta, 0, a_prev, W, param, m, v, n_out)


cdef inline Py_ssize_t _list_all(Py_ssize_t n, int32_t* list) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        list[i] = <int32_t> i
    return n


cdef double _update_weights(
    const real* a_prev, const real* delta, Py_ssize_t n_rows, Py_ssize_t n_out, Py_ssize_t n_in, int rule,
    const Step* step, const real* W, real* param, real* m, real* v, real* scratch
) noexcept nogil:
    """Form the weights' gradient tile by tile and apply ``rule`` to each tile; return the sum of W^2 if l2 is not 0."""
    cdef const Tiles* cpu = tiles(delta)
    cdef Py_ssize_t vector = cpu.lanes, width = TILE_VECTORS * vector
    cdef Py_ssize_t o = 0, i, j, units, columns, n_vectors, stride, corner, rows, length, row
    cdef real *squares = scratch + cpu.max_rows * width
    cdef real *panel = scratch + (cpu.max_rows + 1) * width
    cdef double total = 0
    memset(squares, 0, vector * sizeof(real))
    if n_rows == 1:
        if step.l2 != 0:
            cpu.add_squares(n_in, n_out, W, n_out, squares)
        _update_one(a_prev, delta, n_out, n_in, rule, step, W, param, m, v, panel)
        o = n_out
    while o < n_out:
        columns = min(width, n_out - o)
        n_vectors = (columns + vector - 1) // vector
        stride = n_vectors * vector
        cpu.pack(n_rows, columns, delta + o, n_out, panel, stride)
        i = 0
        while i < n_in:
            units = _tile_rows(n_in - i, cpu.max_rows)
            cpu.tile(units, n_vectors, n_rows, a_prev + i, 1, n_in, panel, stride, scratch)
            corner = i * n_out + o
            if step.l2 != 0:
                cpu.add_squares(units, columns, W + corner, n_out, squares)
            rows, length, row = units, columns, stride
            if columns == n_out and columns < stride:
                cpu.compact(units, columns, scratch, stride)
                rows, length, row = 1, units * columns, units * columns
            cpu.apply(
                rule, step, step.grad_scale, step.l2, rows, length, scratch, row, NULL,
                W + corner, param + corner, m + corner, v + corner, n_out
            )
            i += units
        o += columns
    for j in range(vector):
        total += squares[j]
    return total


cdef void _update_bias(
    const real* delta, Py_ssize_t n_rows, Py_ssize_t n_out, int rule, const Step* step,
    real* param, real* m, real* v, real* scratch
) noexcept nogil:
    cdef const Tiles* cpu = tiles(delta)
    cpu.sum_rows(n_rows, n_out, delta, scratch)
    cpu.apply(rule, step, step.grad_scale, 0, 1, n_out, scratch, n_out, NULL, param, param, m, v, n_out)


# -------------------------------------------------------------------------------- the choice of instructions


def isas():
    """Return the names of the instruction sets that were compiled and that this processor runs, the best first."""
    cdef const InstructionSet* candidate
    return tuple([
        candidate.name.decode() for candidate in COMPILED if candidate is not NULL and runs_here(candidate.name)
    ])


def isa():
    """Return the name of the instruction set in use."""
    return chosen.name.decode()


def _choose():
    """Take the best instruction set, or the one that FASTBP_ISA names."""
    global chosen
    cdef const InstructionSet* candidate
    names = isas()
    if not names:
        raise ImportError("this processor has no SSE4.2, which the Cython backend needs; use backend='numba'")
    wanted = os.environ.get("FASTBP_ISA") or names[0]
    if wanted not in names:
        raise ImportError(
            f"FASTBP_ISA is {wanted!r}, but this build and processor run {', '.join(names)}; "
            "set it to one of these or unset it"
        )
    for candidate in COMPILED:
        if candidate is not NULL and candidate.name.decode() == wanted:
            chosen = candidate


def _check_contract():
    """Refuse to run beside a contract.py whose records are not those that were compiled in."""
    cdef Row row
    cdef Step step
    memset(&row, 0, sizeof(Row))
    memset(&step, 0, sizeof(Step))
    if (tuple(<dict> row), tuple(<dict> step)) != (contract.PLAN_ROW.names, contract.STEP.names):
        raise ImportError(
            "the extension cython_cpu was compiled for another version of contract.py; build it again: "
            "python setup.py build_ext --inplace"
        )


_check_contract()
_choose()
