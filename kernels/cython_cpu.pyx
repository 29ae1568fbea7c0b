# cython: language_level=3, binding=True, freethreading_compatible=True
# cython: boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Backend ``cython``: the operations of `reference`, compiled by Cython over C tiles; arguments and formulas stand there.

A run packs its parameters once, so that every load of a product is a whole vector: weights in strips of a vector's
width, a mini-batch in panels whose samples stand side by side (``tile_table.h``). A product runs over tiles that stay in
registers until all that follows them is done: bias and activation, Hadamard product, optimiser. The operations by
hand pack their arguments, call the same kernels, named alike with an underscore, and unpack the results; those that go
element by element call the C function on the arrays as they are.

What must run in vector registers is C, compiled once for each instruction set and reached through a table of functions;
the table is chosen here, at import, by what the processor can do. The environment variable ``FASTBP_ISA`` overrides the
choice.
"""

import os

import numpy as np

from . import contract
from .threads import together

from libc.math cimport sqrt
from libc.stdint cimport int32_t, int64_t
from libc.string cimport memcpy, memset


include "tile_table.pxi"


ctypedef fused real:
    float
    double


cdef enum Op:
    GATHER_ROWS, GATHER_CSR_ROWS, GATHER_CLASSES
    LINEAR_FORWARD, BATCH_NORM, NORMALIZE, ACTIVATE, MAXOUT, DROPOUT
    OUTPUT_DELTA, ACTIVATION_DELTA, MAXOUT_DELTA, BATCH_NORM_DELTA, BACKPROP_DELTA
    LINEAR_GRAD, LINEAR_UPDATE, OPTIMIZER_STEP, CLIP_NORM, AVERAGE_STEP

cdef enum Source:
    FROM_X, FROM_Y, FROM_SAMPLE_WEIGHT
    AS_NUMBERS  # of the classes and what reads them, in packed plans: see `_keep_numbers`

cdef struct Row:
    int64_t op
    int64_t activation, function  # an Activation, with the next two
    double parameter, at_zero
    int64_t loss, loss_function, optimizer, source, finite, n_in, n_out
    int64_t a_prev, a, saved, y, weight, W, b, delta, delta_prev, mean, variance, rstd
    double epsilon, momentum, probability
    int64_t stream, barrier, online

cdef struct LayerRow:
    int64_t n_in, n_out, W, b
    int64_t activation, function
    double parameter, at_zero
    int64_t pieces, gamma, mean, variance
    double epsilon

cdef struct Sources:
    const void* X
    const void* X_data
    const int32_t* X_indices
    const int64_t* X_indptr
    const void* y
    const int64_t* classes
    const void* sample_weight

cdef struct Layer:
    Py_ssize_t n_in, n_out
    void* W
    void* m_W
    void* v_W
    void* b  # NULL where there is none
    void* m_b
    void* v_b


cdef Activation PLAIN = Activation(IDENTITY, 0, 0, 0)

cdef const InstructionSet* COMPILED[3]
COMPILED[0], COMPILED[1], COMPILED[2] = tile_v4, tile_v3, tile_v2
cdef const InstructionSet* chosen = NULL


def scratch_size(n_in, n_out, n_rows):
    """Return how many elements of ``scratch`` an operation on a layer needs: its arguments packed."""
    batch = 2 * (contract.room(n_rows, _whole(n_in)) + contract.room(n_rows, _whole(n_out)))
    return _workspace_size(n_in, n_out, n_rows, 1) + batch + 3 * (_whole(n_in) + 1) * _whole(n_out)


def run_scratch_size(plan, n_rows, n_threads, n_entries):
    """Return how many elements of ``scratch`` a walk of ``plan`` needs: its parameters packed, and its largest layer."""
    rows = list(zip(*[plan[name].tolist() for name in ("op", "n_in", "n_out")]))
    layers = [(n_in, n_out) for op, n_in, n_out in rows if op in contract.LAYER_OPS]
    n_in, n_out = [max([size[i] for size in layers], default=0) for i in range(2)]
    widest = max([n for op, _, n in rows if op in LAST], default=0)
    packed = sum([(n_in + 3) * _whole(n_out) for n_in, n_out in layers])  # with a bias, mean and variance
    csr = _csr_size(plan, n_out, n_threads, n_entries)
    norms = 2 * (packed // NORM_BLOCK + 1 + 2 * len(plan)) if CLIP_NORM in plan["op"].tolist() else 0
    parts = _workspace_size(n_in, n_out, n_rows, n_threads) + contract.room(n_rows, _whole(widest)) + csr + _whole(norms)
    return parts + sum(_used(plan)) * packed


LAST = *contract.LAYER_OPS, ACTIVATE, MAXOUT
"""Rows that may be the last ones of a prediction."""


def rows_scratch_size(layers):
    """Return how many elements of ``scratch`` `predict_rows` needs: two layers' activations, one's sums and inputs."""
    return 4 * _whole(int(layers[:, :2].max()))


def _whole(n):
    """Return n rounded up to whole vectors of the most lanes."""
    return -(-n // chosen.of_float.lanes) * chosen.of_float.lanes


def _used(plan):
    """Return whether a plan uses params, grads, m, v and average."""
    ops = plan["op"].tolist()
    updates = LINEAR_UPDATE, BATCH_NORM_DELTA, OPTIMIZER_STEP
    rules = {rule for op, rule in zip(ops, plan["optimizer"].tolist()) if op in updates}
    gradient = NONE in rules or bool({LINEAR_GRAD, OPTIMIZER_STEP, CLIP_NORM} & {*ops})
    m, v = [any([name in contract.MOMENTS[rule] for rule in rules - {NONE}]) for name in ("m", "v")]
    return True, gradient, m, v, AVERAGE_STEP in ops


PACKS = True
TAKES_CUSTOM = False
PREDICTED_ROWS, PREDICTED_FLOPS = 256, 5e9


def pack(plan, buffers, moments=True, samples=True):
    """Pack the parameters of a run, and what goes with them, into ``scratch``, where `train_steps` works on them."""
    _pack(*_numbers(plan), _used(plan), True, moments, *buffers[7:12], buffers.scratch, False)


def unpack(plan, buffers, params=True, moments=True):
    """Write the parameters of a run, and what goes with them, back to where their owner looks for them."""
    _pack(*_numbers(plan), _used(plan), params, moments, *buffers[7:12], buffers.scratch, True)


def shuffle(const double[::1] u, int64_t[::1] order, int n_threads=1):
    cdef Py_ssize_t i, j
    with nogil:
        for i in range(order.shape[0]):
            j = <Py_ssize_t> (u[i] * (i + 1))
            order[i] = order[j]
            order[j] = i


def gather_rows(const real[:, ::1] X, const int64_t[::1] order, real[:, ::1] out, int n_threads=1):
    cdef Py_ssize_t r, n_columns = out.shape[1]
    with nogil:
        for r in range(order.shape[0]):
            memcpy(&out[r, 0], &X[order[r], 0], n_columns * sizeof(real))


def gather_csr_rows(
    const real[::1] data,
    const int32_t[::1] indices,
    const int64_t[::1] indptr,
    const int64_t[::1] order,
    real[:, ::1] out,
    int n_threads=1,
):
    cdef Py_ssize_t r, e
    with nogil:
        memset(&out[0, 0], 0, out.shape[0] * out.shape[1] * sizeof(real))
        for r in range(order.shape[0]):
            for e in range(indptr[order[r]], indptr[order[r] + 1]):
                out[r, indices[e]] += data[e]


def gather_classes(const int64_t[::1] classes, const int64_t[::1] order, real[:, ::1] out, int n_threads=1):
    cdef Py_ssize_t r
    with nogil:
        memset(&out[0, 0], 0, out.shape[0] * out.shape[1] * sizeof(real))
        for r in range(order.shape[0]):
            out[r, classes[order[r]]] = 1


def linear_forward(
    const real[:, ::1] a_prev,
    const real[:, ::1] W,
    const real[::1] b,
    const Activation[::1] activation,
    real[:, ::1] a,
    real[::1] scratch,
    int n_threads=1,
):
    cdef Batch batch = _batch(a.shape[0], &scratch[0])
    cdef Layer layer = Layer(W.shape[0], W.shape[1], NULL, NULL, NULL, NULL, NULL, NULL)
    cdef real* rest = &scratch[0]
    cdef Worker worker = _alone(&batch, &layer, &rest)
    cdef real* below
    cdef real* out
    with nogil:
        below = _take_packed(&rest, &worker, &batch, layer.n_in, &a_prev[0, 0])
        out = _take_batch(&rest, &batch, layer.n_out)
        layer.W, layer.b = _take_weights(&rest, &layer, &W[0, 0]), _take_bias(&rest, &layer, &b[0], b.shape[0])
        _linear_forward(&worker, &batch, below, &layer, &activation[0], False, out)
        _unpack_batch(&worker, &batch, layer.n_out, out, &a[0, 0])


def batch_norm(
    const real[:, ::1] z,
    const real[::1] gamma,
    const real[::1] beta,
    double epsilon,
    double momentum,
    const Activation[::1] activation,
    real[:, ::1] normalized,
    real[::1] rstd,
    real[::1] mean,
    real[::1] variance,
    real[:, ::1] a,
    int n_threads=1,
):
    cdef Py_ssize_t n = z.shape[1]
    cdef Batch batch = _batch(z.shape[0], &a[0, 0])
    cdef real[::1] scratch = _scratch_for(z, a)
    cdef real* rest = &scratch[0]
    cdef Worker worker = _for_units(&batch, n, &rest)
    cdef Norm norm = Norm(n, <void*> &gamma[0], <void*> &beta[0], &mean[0], &variance[0], epsilon, momentum)
    cdef real* packed
    cdef real* out
    with nogil:
        packed, out = _take_packed(&rest, &worker, &batch, n, &z[0, 0]), _take_batch(&rest, &batch, n)
        _batch_norm(&worker, &batch, &norm, packed, &activation[0], packed, &rstd[0], out)
        _unpack_batch(&worker, &batch, n, packed, &normalized[0, 0])
        _unpack_batch(&worker, &batch, n, out, &a[0, 0])


def normalize(
    const real[:, ::1] z,
    const real[::1] gamma,
    const real[::1] beta,
    const real[::1] mean,
    const real[::1] variance,
    double epsilon,
    const Activation[::1] activation,
    real[:, ::1] a,
    int n_threads=1,
):
    cdef Py_ssize_t n = z.shape[1]
    cdef Batch batch = _batch(z.shape[0], &a[0, 0])
    cdef real[::1] scratch = _scratch_for(z)
    cdef real* rest = &scratch[0]
    cdef Worker worker = _for_units(&batch, n, &rest)
    cdef Norm norm = Norm(n, <void*> &gamma[0], <void*> &beta[0], <void*> &mean[0], <void*> &variance[0], epsilon, 0)
    cdef real* packed
    with nogil:
        packed = _take_packed(&rest, &worker, &batch, n, &z[0, 0])
        _normalize(&worker, &batch, &norm, packed, &activation[0], packed)
        _unpack_batch(&worker, &batch, n, packed, &a[0, 0])


def activate(
    const real[:, ::1] z, const Activation[::1] activation, real[:, ::1] a, real[:, ::1] saved, int n_threads=1
):
    with nogil:
        tiles(&a[0, 0]).activate_row(
            a.shape[0] * a.shape[1], &z[0, 0], NULL, &activation[0], &a[0, 0], _first_of(saved)
        )


def maxout(const real[:, ::1] z, real[:, ::1] a, int n_threads=1):
    cdef Py_ssize_t n_in = z.shape[1], n = a.shape[1]
    cdef Batch batch = _batch(a.shape[0], &a[0, 0])
    cdef real[::1] scratch = _scratch_for(z, a)
    cdef real* rest = &scratch[0]
    cdef Worker worker = _for_units(&batch, n, &rest)
    cdef real* packed
    cdef real* out
    with nogil:
        packed, out = _take_packed(&rest, &worker, &batch, n_in, &z[0, 0]), _take_batch(&rest, &batch, n)
        _maxout(&worker, &batch, n_in, n, packed, out)
        _unpack_batch(&worker, &batch, n, out, &a[0, 0])


def dropout(
    real[:, ::1] a, const Activation[::1] activation, double probability, int64_t stream, const Step[::1] step,
    real[:, ::1] saved, int n_threads=1
):
    cdef Py_ssize_t n = a.shape[1]
    cdef Batch batch = _batch(a.shape[0], &a[0, 0])
    cdef real[::1] scratch = _scratch_for(a, a)
    cdef real* rest = &scratch[0]
    cdef Worker worker = _for_units(&batch, n, &rest)
    cdef real* packed
    cdef real* kept = NULL
    with nogil:
        packed = _take_packed(&rest, &worker, &batch, n, &a[0, 0])
        if _first_of(saved) != NULL:
            kept = _take_packed(&rest, &worker, &batch, n, &saved[0, 0])
        _dropout(&worker, &batch, n, packed, &activation[0], probability, stream, &step[0], kept)
        _unpack_batch(&worker, &batch, n, packed, &a[0, 0])
        if kept != NULL:
            _unpack_batch(&worker, &batch, n, kept, &saved[0, 0])


def output_delta(
    const real[:, ::1] a,
    const real[:, ::1] y,
    const real[::1] sample_weight,
    const Activation[::1] activation,
    loss,
    real[:, ::1] delta,
    int n_threads=1,
):
    cdef const Tiles* cpu = tiles(&delta[0, 0])
    cdef int code = loss["code"][0]
    cdef Py_ssize_t r, n_out = a.shape[1]
    cdef double weight, total = 0
    with nogil:
        for r in range(a.shape[0]):
            weight = sample_weight[r] if sample_weight.shape[0] else 1
            total += cpu.output_row(n_out, False, &activation[0], code, &a[r, 0], &y[r, 0], weight, &delta[r, 0])
    return total


def activation_delta(
    const real[:, ::1] a, const Activation[::1] activation, real[:, ::1] delta, int n_threads=1
):
    cdef const Tiles* cpu = tiles(&delta[0, 0])
    cdef Py_ssize_t r, n = delta.shape[1]
    with nogil:
        for r in range(delta.shape[0]):
            if activation[0].code == SOFTMAX:
                cpu.through_softmax(n, False, &a[r, 0], &delta[r, 0])
            else:
                cpu.through_activation(n, &a[r, 0], &activation[0], &delta[r, 0])


def maxout_delta(const real[:, ::1] z, const real[:, ::1] delta, real[:, ::1] delta_z, int n_threads=1):
    cdef Py_ssize_t n_in = z.shape[1], n = delta.shape[1]
    cdef Batch batch = _batch(delta.shape[0], &z[0, 0])
    cdef real[::1] scratch = _scratch_for(z, delta, delta_z)
    cdef real* rest = &scratch[0]
    cdef Worker worker = _for_units(&batch, n, &rest)
    cdef real* packed
    cdef real* error
    cdef real* out
    with nogil:
        packed = _take_packed(&rest, &worker, &batch, n_in, &z[0, 0])
        error, out = _take_packed(&rest, &worker, &batch, n, &delta[0, 0]), _take_batch(&rest, &batch, n_in)
        _maxout_delta(&worker, &batch, n_in, n, packed, error, out)
        _unpack_batch(&worker, &batch, n_in, out, &delta_z[0, 0])


def batch_norm_delta(
    const real[:, ::1] normalized,
    const real[::1] rstd,
    const real[::1] gamma,
    const Step[::1] step,
    real[:, ::1] delta,
    real[::1] grad_gamma,
    real[::1] grad_beta,
    int n_threads=1,
):
    cdef Py_ssize_t n = delta.shape[1]
    cdef Batch batch = _batch(delta.shape[0], &delta[0, 0])
    cdef real[::1] scratch = _scratch_for(normalized, delta)
    cdef real* rest = &scratch[0]
    cdef Worker worker = _for_units(&batch, n, &rest)
    cdef Layer layer = Layer(1, n, &grad_gamma[0], NULL, NULL, &grad_beta[0], NULL, NULL)
    cdef real* x
    cdef real* error
    with nogil:
        x, error = _take_packed(&rest, &worker, &batch, n, &normalized[0, 0]), _take_packed(&rest, &worker, &batch, n, &delta[0, 0])
        _batch_norm_delta(&worker, &batch, n, x, &rstd[0], &gamma[0], NONE, &step[0], &layer, error)
        _unpack_batch(&worker, &batch, n, error, &delta[0, 0])


def backprop_delta(
    const real[:, ::1] delta,
    const real[:, ::1] W,
    const real[:, ::1] a_prev,
    const Activation[::1] activation,
    real[:, ::1] delta_prev,
    real[::1] scratch,
    int n_threads=1,
):
    cdef Batch batch = _batch(delta.shape[0], &scratch[0])
    cdef Layer layer = Layer(W.shape[0], W.shape[1], NULL, NULL, NULL, NULL, NULL, NULL)
    cdef real* rest = &scratch[0]
    cdef Worker worker = _alone(&batch, &layer, &rest)
    cdef real* error
    cdef real* below
    cdef real* out
    with nogil:
        error = _take_packed(&rest, &worker, &batch, layer.n_out, &delta[0, 0])
        below = _take_packed(&rest, &worker, &batch, layer.n_in, &a_prev[0, 0])
        out = _take_batch(&rest, &batch, layer.n_in)
        layer.W = _take_weights(&rest, &layer, &W[0, 0])
        _backprop_delta(&worker, &batch, error, &layer, below, &activation[0], out)
        _unpack_batch(&worker, &batch, layer.n_in, out, &delta_prev[0, 0])


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
    return _update_by_hand(
        a_prev, delta, NONE, step, W, grad_W, grad_b, grad_W[:0], grad_b[:0], grad_W[:0], grad_b[:0], scratch
    )


def sgd_step(const real[::1] grad, const Step[::1] step, real[::1] param, int n_threads=1):
    with nogil:
        tiles(&param[0]).apply(SGD, &step[0], 1, param.shape[0], &grad[0], &param[0], NULL, NULL)


def momentum_step(
    const real[::1] grad, const Step[::1] step, real[::1] param, real[::1] velocity, int n_threads=1
):
    with nogil:
        tiles(&param[0]).apply(MOMENTUM, &step[0], 1, param.shape[0], &grad[0], &param[0], &velocity[0], NULL)


def nesterov_step(
    const real[::1] grad, const Step[::1] step, real[::1] param, real[::1] velocity, int n_threads=1
):
    with nogil:
        tiles(&param[0]).apply(NESTEROV, &step[0], 1, param.shape[0], &grad[0], &param[0], &velocity[0], NULL)


def adam_step(
    const real[::1] grad, const Step[::1] step, real[::1] param, real[::1] m, real[::1] v, int n_threads=1
):
    with nogil:
        tiles(&param[0]).apply(ADAM, &step[0], 1, param.shape[0], &grad[0], &param[0], &m[0], &v[0])


def nadam_step(
    const real[::1] grad, const Step[::1] step, real[::1] param, real[::1] m, real[::1] v, int n_threads=1
):
    with nogil:
        tiles(&param[0]).apply(NADAM, &step[0], 1, param.shape[0], &grad[0], &param[0], &m[0], &v[0])


def rmsprop_step(const real[::1] grad, const Step[::1] step, real[::1] param, real[::1] v, int n_threads=1):
    with nogil:
        tiles(&param[0]).apply(RMSPROP, &step[0], 1, param.shape[0], &grad[0], &param[0], NULL, &v[0])


def adagrad_step(const real[::1] grad, const Step[::1] step, real[::1] param, real[::1] v, int n_threads=1):
    with nogil:
        tiles(&param[0]).apply(ADAGRAD, &step[0], 1, param.shape[0], &grad[0], &param[0], NULL, &v[0])


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
    return _update_by_hand(a_prev, delta, optimizer, step, W, W, b, m_W, m_b, v_W, v_b, scratch)


def clip_norm(real[::1] grad, const Step[::1] step, int n_threads=1):
    cdef const Tiles* cpu = tiles(&grad[0])
    cdef Py_ssize_t block, n = grad.shape[0]
    cdef double total = 0, norm
    with nogil:
        for block in range(_n_blocks(n)):
            total += cpu.square_sum(min(NORM_BLOCK, n - block * NORM_BLOCK), &grad[block * NORM_BLOCK])
        norm = sqrt(total)
        cpu.rescale(n, _norm_factor(norm, &step[0]), &grad[0])
    return norm


def average_step(const real[::1] param, const Step[::1] step, real[::1] average, int n_threads=1):
    with nogil:
        tiles(&average[0]).move_average(average.shape[0], 1 - step[0].average_decay, &param[0], &average[0])


def train_steps(plan, steps, order, Py_ssize_t batch_size, buffers, losses, int n_threads=1):
    used, flat, numbers = _used(plan), _flat(buffers), steps.view(np.float64)

    def work(thread, barrier):
        _train_steps(thread, barrier, *_numbers(plan), used, numbers, order, batch_size, *flat, losses)

    together(work, n_threads)


def predict(plan, order, Py_ssize_t batch_size, buffers, out, int n_threads=1):
    flat = _flat(buffers)

    def work(thread, barrier):
        _predict(thread, barrier, *_numbers(plan), order, batch_size, *flat, out)

    together(work, n_threads)


def predict_rows(
    const int64_t[:, ::1] layers, const real[::1] X, const real[::1] params, real[::1] scratch, real[::1] out,
    int n_threads=1
):
    cdef const LayerRow* rows = <const LayerRow*> &layers[0, 0]
    cdef const LayerRow* last = rows + layers.shape[0] - 1
    cdef Py_ssize_t sample, n_in = rows.n_in, n_out = last.n_out // last.pieces
    with nogil:
        for sample in range(X.shape[0] // n_in):
            _predict_row(rows, layers.shape[0], &X[sample * n_in], &params[0], &scratch[0], &out[sample * n_out])


include "cython_workers.pxi"
include "cython_packing.pxi"
include "cython_csr.pxi"
include "cython_online.pxi"


# ------------------------------------------------------------------------------------------------- kernels


def _numbers(plan):
    """Return a plan's rows as plain numbers, and a copy: to look at records takes NumPy longer than a small kernel."""
    rows = plan.view(np.int64)
    return rows, rows.copy()


def _scratch_for(*matrices):
    """Return a workspace in which matrices of a batch have room when packed."""
    n_rows, widths = len(matrices[0]), [matrix.shape[1] for matrix in matrices]
    size = _workspace_size(1, min(widths), n_rows, 1) + sum([contract.room(n_rows, _whole(n)) for n in widths])
    return np.empty(size, np.asarray(matrices[0]).dtype)


def _flat(buffers):
    """Return the buffers in the one form that `_train_steps` and `_predict` are compiled for."""
    return [array if array.ndim == 1 else array.reshape(array.size) for array in buffers]


cdef void _linear_forward(
    Worker* worker, const Batch* batch, const real* a_prev, const Layer* layer, const Activation* activation,
    bint skip_zeros, real* a
) noexcept nogil:
    cdef const Activation* after = _before_softmax(activation)
    if batch.n == 1:
        _forward_one(worker, a_prev, layer, after, skip_zeros, a)
    elif batch.n_panels == 0:
        _forward_rows(worker, batch, a_prev, layer, after, a)
    else:
        _forward_panels(worker, batch, a_prev, layer, after, a)
    if activation.code == SOFTMAX:
        _meet(worker)
        _softmax(worker, batch, layer.n_out, a)


cdef void _output_delta(
    Worker* worker, const Batch* batch, Py_ssize_t n_out, const real* a, const real* y, const real* weight,
    const Activation* activation, int loss, bint has_numbers, real* delta
) noexcept nogil:
    """Samples are shared as in `_softmax`. The losses of panels, or of rows, are left in ``worker.losses``. Panels of targets
    may hold numbers of classes."""
    cdef const Tiles* cpu = tiles(delta)
    cdef Py_ssize_t L = cpu.lanes, row = _rounded(n_out, L), r, p, at, width, n_rows, pitch = TILE_VECTORS * L
    cdef Share share = _share(worker, batch.n_panels if batch.n_panels else batch.n, 1)
    cdef const real* weights
    if batch.n_panels == 0:
        for r in range(share.first, share.end):
            worker.losses[r] = cpu.output_row(
                n_out, True, activation, loss, a + r * row, y + r * row, 1 if weight == NULL else weight[r * L],
                delta + r * row
            )
        return
    for p in range(share.first, share.end):
        at, width, n_rows = p * n_out * pitch, _panel_width(batch, p, L), _panel_rows(batch, p, L)
        weights = NULL if weight == NULL else weight + p * pitch
        if has_numbers:
            worker.losses[p] = cpu.output_classes(n_out, width, n_rows, a + at, y + at, weights, delta + at)
        else:
            worker.losses[p] = cpu.output_panel(
                n_out, width, n_rows, activation, loss, a + at, y + at, weights, delta + at
            )


cdef void _backprop_delta(
    Worker* worker, const Batch* batch, const real* delta, const Layer* layer, const real* a_prev,
    const Activation* activation, real* delta_prev
) noexcept nogil:
    """Inputs are shared as in `_linear_update`: a thread changes no weights that another one still needs."""
    cdef const Tiles* cpu = tiles(delta)
    cdef Py_ssize_t L = cpu.lanes, n_in = layer.n_in, n_out = layer.n_out, r, p, pitch = TILE_VECTORS * L
    cdef Py_ssize_t in_row = _rounded(n_in, L), out_row = _rounded(n_out, L), o = 0, block = _block(batch, L)
    cdef Share share = _share(worker, n_in, GRAIN)
    cdef Product product
    if batch.n_panels == 0:
        for r in range(batch.n):
            _backprop_one(
                worker, share, delta + r * out_row, layer, a_prev + r * in_row, activation, delta_prev + r * in_row
            )
        return
    product.first, product.end, product.a_next = share.first, share.end, n_in * L
    product.bias, product.activation = NULL, activation[0]
    while o < n_out:
        product.n_terms, product.A = min(n_out - o, block), <real*> layer.W + o * n_in
        product.begins, product.ends = o == 0, o + product.n_terms == n_out
        for p in range(batch.n_panels):
            product.B, product.C = delta + (p * n_out + o) * pitch, delta_prev + p * n_in * pitch
            product.below = a_prev + p * n_in * pitch
            cpu.product(ACROSS_STRIPS, _panel_width(batch, p, L) // L, &product)
        o += block


cdef void _linear_update(
    Worker* worker, const Batch* batch, const real* a_prev, const real* delta, int rule, const Step* step,
    const Layer* layer, const real* W, Csr* csr, Ahead* ahead
) noexcept nogil:
    """Apply ``rule`` to a layer, or keep its gradient with NONE; its inputs are ``a_prev``, or samples of ``csr`` unless it
    is NULL. W is penalised: unless l2 is 0 the sums of W^2 are left in ``worker.squares``."""
    cdef const Tiles* cpu = tiles(delta)
    cdef Py_ssize_t L = cpu.lanes, n_in = layer.n_in, n_strips = (layer.n_out + L - 1) // L, strip = 0, n_vectors, at
    cdef Py_ssize_t strip_size = L
    cdef Share share = _share(worker, n_in, GRAIN)
    cdef const real* strips = delta
    cdef int form = ACROSS_STRIPS if batch.n_panels else FEW_ROWS
    cdef Update update
    if batch.n == 1 and rule == SGD and step.l2 == 0 and step.clip == 0 and cpu.is_finite(layer.n_out, delta):
        _descend_one(worker, share, a_prev, delta, step, layer, csr)
        return
    update.batch, update.n_in, update.a_prev, update.rule, update.step = batch[0], n_in, a_prev, rule, step
    update.first, update.end, update.w_vector, update.ahead = share.first, share.end, n_in * L, ahead
    update.squares = worker.squares
    if ahead != NULL:
        _spread(ahead, ((share.end - share.first + L - 1) // L) * ((n_strips + TILE_VECTORS - 1) // TILE_VECTORS))
    if batch.n_panels:
        strips, strip_size, update.d_next = <real*> worker.strips, batch.n * L, batch.n * L
        _scatter_strips(worker, batch, layer.n_out, delta, <real*> worker.strips)
    else:
        update.n_in, update.d_next = _rounded(n_in, L), n_strips * L
    if csr != NULL:
        form, update.columns = ENTRIES, &csr.columns
        _list_columns(batch, csr, delta, share)
    if batch.n_panels or step.l2 != 0:  # all strips are there, and the squares of the layer above have been added up
        _meet(worker)
    if step.l2 != 0:
        memset(worker.squares + share.first // GRAIN, 0, (share.end - share.first + GRAIN - 1) // GRAIN * sizeof(double))
    while strip < n_strips:
        n_vectors, at = _group(n_strips, strip), strip * n_in * L
        update.delta, update.W, update.param = strips + strip * strip_size, W + at, <real*> layer.W + at
        update.m, update.v = <real*> layer.m_W + at, <real*> layer.v_W + at
        cpu.update(form, n_vectors, &update)
        strip += n_vectors
    if csr != NULL:
        _forget_columns(csr)
    if layer.b != NULL:
        _update_bias(worker, batch, strips, strip_size, rule, step, layer)
    if rule >= ADAM and <real> step.epsilon == 0:
        _clear_filling(worker, layer, <real*> layer.W)


include "cython_parts.pxi"
include "cython_layers.pxi"
include "cython_walk.pxi"


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
    cdef LayerRow layer
    memset(&row, 0, sizeof(Row))
    memset(&step, 0, sizeof(Step))
    memset(&layer, 0, sizeof(LayerRow))
    found = tuple(<dict> row), tuple(<dict> step), tuple(<dict> layer), tuple(<dict> PLAIN)
    if found != (contract.PLAN_ROW.names, contract.STEP.names, contract.LAYER, contract.ACTIVATION.names):
        raise ImportError(
            "the extension cython_cpu was compiled for another version of contract.py; build it again: "
            "python setup.py build_ext --inplace"
        )


_check_contract()
_choose()
