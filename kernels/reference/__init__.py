"""Backend ``numpy``: the contract itself, written to be read.

Every other backend does what stands here. Letters: B batch, I inputs, O outputs of a layer, n samples, T the dtype
(float32 or float64) that all floating arrays of a call share. Arrays are C-contiguous. ``z`` is always the
pre-activation, ``a`` the activation, ``a_prev`` the activation of the layer below, ``delta`` = d loss / d z.

The order of every sum is part of the contract: forward sums ascend over the inputs with one accumulator an output, so
that a row's result does not depend on the batch it stands in.

Sources: P&P (Placzek & Placzek), Porr, Cheng (ch. 9), SE (question and answer on ReLU), Book (ch. 4).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract import ACTIVATION, IN_TABLES, LOSS, NONE, Buffers, Op, Source
from .backward import (
    activation_delta,
    backprop_delta,
    batch_norm_delta,
    linear_grad,
    maxout_delta,
    output_delta,
)
from .data import gather_classes, gather_csr_rows, gather_rows, shuffle
from .forward import activate, batch_norm, dropout, linear_forward, maxout, normalize
from .rules import (
    adagrad_step,
    adam_step,
    average_step,
    clip_norm,
    linear_update,
    momentum_step,
    nadam_step,
    nesterov_step,
    optimizer_step,
    rmsprop_step,
    sgd_step,
)

__all__ = [
    "PACKS",
    "TAKES_CUSTOM",
    "activate",
    "activation_delta",
    "adagrad_step",
    "adam_step",
    "average_step",
    "backprop_delta",
    "batch_norm",
    "batch_norm_delta",
    "clip_norm",
    "dropout",
    "gather_classes",
    "gather_csr_rows",
    "gather_rows",
    "linear_forward",
    "linear_grad",
    "linear_update",
    "maxout",
    "maxout_delta",
    "momentum_step",
    "nadam_step",
    "nesterov_step",
    "normalize",
    "output_delta",
    "pack",
    "predict",
    "predict_rows",
    "rmsprop_step",
    "rows_scratch_size",
    "run_scratch_size",
    "scratch_size",
    "sgd_step",
    "shuffle",
    "train_steps",
    "unpack",
]

Array = NDArray[Any]


def scratch_size(n_in: int, n_out: int, n_rows: int) -> int:
    """Return how many elements of ``scratch`` a layer of this size needs for ``n_rows`` samples: none here."""
    return 0


def rows_scratch_size(layers: Array) -> int:
    """Return how many elements of ``scratch`` `predict_rows` needs: none."""
    return 0


def run_scratch_size(plan: Array, n_rows: int, n_threads: int, n_entries: int) -> int:
    """Return how many elements of ``scratch`` a walk of ``plan`` needs for batches of ``n_rows`` samples: none here."""
    return 0


PACKS = False
"""Whether a run works on copies of its parameters, which `pack` makes and `unpack` writes back."""

TAKES_CUSTOM = False
"""Whether there are custom activations and losses: functions of users, compiled by Numba."""

PREDICTED_ROWS, PREDICTED_FLOPS = 256, 5e9
"""Rows that go through the network together in prediction, so that their activations stay in the second-level cache;
and the work of a call of `predict`, in which Ctrl-C is not heard: a tenth of a second or less of one processor."""


def pack(plan: Array, buffers: Buffers, moments: bool = True, samples: bool = True) -> None:
    """Prepare the parameters of a run, and what goes with them, for `train_steps`: nothing to do here."""


def unpack(plan: Array, buffers: Buffers, params: bool = True, moments: bool = True) -> None:
    """Write what `train_steps` changed back to ``params, grads, m, v``: nothing to do here."""


def train_steps(
    plan: Array, steps: Array, order: Array, batch_size: int, buffers: Buffers, losses: Array, n_threads: int = 1
) -> None:
    """Run whole mini-batches: step s walks the plan's rows on the samples order[s B : (s + 1) B].

    Parameters
    ----------
    plan : ndarray of shape (n_rows,), dtype `PLAN_ROW`
    steps : ndarray of shape (ceil(len(order) / B),), dtype `STEP`
    order : ndarray of shape (k,), dtype int64
        Sample numbers. The last mini-batch may be shorter than the others.
    batch_size : int
        B above.
    buffers : Buffers
        ``params``, ``m``, ``v``, ``average`` are updated in place; ``grads``, ``work``, ``scratch`` are overwritten.
    losses : ndarray of shape (3,), dtype float64
        Added to: the samples' losses and the L2 penalty, both times ``loss_scale`` of their step, and the number of
        steps done.
    n_threads : int

    Notes
    -----
    Algorithm 9.1 and (9) of Cheng, Book 4.6. A run may be cut after any step without changing a bit. It ends before a
    step whose samples are not all finite if the row that gathers them asks for that.
    """
    for s in range(len(steps)):
        batch = order[s * batch_size : (s + 1) * batch_size]
        step = steps[s : s + 1]
        data_loss = squares = 0.0
        for row in plan:
            op, layer = row["op"], _Layer(row, buffers, len(batch))
            if op <= Op.GATHER_CLASSES:
                _gather(row, buffers, batch, layer.a)
                if row["finite"] == 1 and not np.isfinite(layer.a).all():
                    return
            elif op < Op.OUTPUT_DELTA:
                _forward(row, layer, layer.a, step)
            elif op == Op.OUTPUT_DELTA:
                outputs = layer.a, layer.y, layer.weight
                data_loss += output_delta(*outputs, _activation(row), _loss(row), layer.delta)
            elif op < Op.OPTIMIZER_STEP:
                squares += _backward(row, layer, step)
            else:
                _update(row, buffers, step)
        losses[0] += step["loss_scale"][0] * data_loss
        losses[1] += step["loss_scale"][0] * 0.5 * step["l2"][0] * squares
        losses[2] += 1


def predict(plan: Array, order: Array, batch_size: int, buffers: Buffers, out: Array, n_threads: int = 1) -> None:
    """Forward pass of many rows: out[r] = network(X[order[r]]).

    Parameters
    ----------
    plan : ndarray of shape (n_rows,), dtype `PLAN_ROW`
        A gather and, for each layer, ``LINEAR_FORWARD`` and what its activation asks for: ``NORMALIZE``, ``ACTIVATE``,
        ``MAXOUT``. The last row's ``a`` is ``NONE``: it writes to ``out``.
    order : ndarray of shape (k,), dtype int64
    batch_size : int
        How many rows go through the network together; the result does not depend on it.
    buffers : Buffers
        ``work`` and ``scratch`` are overwritten.
    out : ndarray of shape (k, O), dtype T
        Written.
    n_threads : int
    """
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        for row in plan:
            layer = _Layer(row, buffers, len(batch))
            a = out[start : start + batch_size] if row["a"] == NONE else layer.a
            if row["op"] <= Op.GATHER_CLASSES:
                _gather(row, buffers, batch, a)
            else:
                _forward(row, layer, a)


def predict_rows(layers: Array, X: Array, params: Array, scratch: Array, out: Array, n_threads: int = 1) -> None:
    """Forward pass of few rows on parameters as they lie, in no more time than they take: nothing is packed.

    Parameters
    ----------
    layers : ndarray of shape (n_layers, 13), dtype int64
        A row for each layer, with the columns `fastbp.kernels.contract.LAYER`.
    X : ndarray of shape (n * I,), dtype T
        Samples, one behind the other.
    params : ndarray, dtype T
    scratch : ndarray, dtype T
        Private workspace of at least ``rows_scratch_size(layers)`` elements.
    out : ndarray of shape (n * O,), dtype T
        Written: the same numbers as those of `predict`, bit for bit.
    n_threads : int
        The operation runs on one.
    """
    a, T = X.reshape(-1, layers[0, 0]), params.dtype
    for layer in layers:
        n_in, n_out, at_W, at_b = layer[:4].tolist()
        pieces, at_gamma, at_mean, at_variance = layer[8:12].tolist()
        W, activation = params[at_W : at_W + n_in * n_out].reshape(n_in, n_out), layer[4:8].view(ACTIVATION)
        b, gamma, mean, variance = (
            params[at : at + n_out] if at != NONE else params[:0] for at in (at_b, at_gamma, at_mean, at_variance)
        )
        a_prev, a = a, np.empty((len(a), n_out), T)
        if at_gamma == NONE:
            linear_forward(a_prev, W, b, activation, a, scratch)
        else:
            z, epsilon = np.empty_like(a), float(layer[12:].view(np.float64)[0])
            linear_forward(a_prev, W, params[:0], _IDENTITY, z, scratch)
            normalize(z, gamma, b, mean, variance, epsilon, activation, a)
        if pieces > 1:
            z, a = a, np.empty((len(a), n_out // pieces), T)
            maxout(z, a)
    out[:] = a.ravel()


_IDENTITY = np.zeros(1, ACTIVATION)


class _Layer:
    """The arrays that one row of a plan names, as views into the run's buffers."""

    def __init__(self, row: Any, buffers: Buffers, n_rows: int) -> None:
        n_in, n_out = int(row["n_in"]), int(row["n_out"])

        def view(flat: Array, offset: str, *shape: int) -> Array:
            start = int(row[offset])
            if start == NONE or not flat.size:
                return flat[:0]
            return flat[start : start + int(np.prod(shape))].reshape(shape)

        if row["op"] >= Op.OPTIMIZER_STEP:
            return
        self.a_prev = view(buffers.work, "a_prev", n_rows, n_in)
        self.z = view(buffers.work, "a_prev", n_rows, n_out)
        self.a = view(buffers.work, "a", n_rows, n_out)
        self.y = view(buffers.work, "y", n_rows, n_out)
        self.weight = view(buffers.work, "weight", n_rows)
        self.delta = view(buffers.work, "delta", n_rows, n_out)
        self.delta_prev = view(buffers.work, "delta_prev", n_rows, n_in)
        self.saved = view(buffers.work, "saved", n_rows, n_out)
        self.rstd = view(buffers.work, "rstd", n_out)
        self.mean, self.variance = view(buffers.params, "mean", n_out), view(buffers.params, "variance", n_out)
        self.W, self.b = view(buffers.params, "W", n_in, n_out), view(buffers.params, "b", n_out)
        self.grad_W, self.grad_b = view(buffers.grads, "W", n_in, n_out), view(buffers.grads, "b", n_out)
        self.m_W, self.m_b = view(buffers.m, "W", n_in, n_out), view(buffers.m, "b", n_out)
        self.v_W, self.v_b = view(buffers.v, "W", n_in, n_out), view(buffers.v, "b", n_out)
        self.scratch = buffers.scratch


def _gather(row: Any, buffers: Buffers, order: Array, out: Array) -> None:
    if row["op"] == Op.GATHER_CSR_ROWS:
        gather_csr_rows(buffers.X_data, buffers.X_indices, buffers.X_indptr, order, out)
    elif row["op"] == Op.GATHER_CLASSES:
        gather_classes(buffers.classes, order, out)
    else:
        source = {Source.X: buffers.X, Source.Y: buffers.y, Source.SAMPLE_WEIGHT: buffers.sample_weight}
        gather_rows(source[row["source"]], order, out)


def _forward(row: Any, layer: _Layer, a: Array, step: Array | None = None) -> None:
    """Do a row of the forward pass."""
    op, activation = row["op"], _activation(row)
    if op == Op.LINEAR_FORWARD:
        linear_forward(layer.a_prev, layer.W, layer.b, activation, a, layer.scratch)
    elif op == Op.BATCH_NORM:
        normal = layer.saved, layer.rstd, layer.mean, layer.variance
        batch_norm(layer.z, layer.W[0], layer.b, row["epsilon"], row["momentum"], activation, *normal, a)
    elif op == Op.NORMALIZE:
        normalize(layer.z, layer.W[0], layer.b, layer.mean, layer.variance, row["epsilon"], activation, a)
    elif op == Op.ACTIVATE:
        activate(layer.z, activation, a, layer.saved)
    elif op == Op.MAXOUT:
        maxout(layer.a_prev, a)
    elif step is not None:
        dropout(a, activation, row["probability"], row["stream"], step, layer.saved)


def _backward(row: Any, layer: _Layer, step: Array) -> float:
    """Do a row of the backward pass and return the sum of the squares of penalised weights."""
    op, activation = row["op"], _activation(row)
    if op == Op.ACTIVATION_DELTA:
        activation_delta(layer.z, activation, layer.delta)
    elif op == Op.MAXOUT_DELTA:
        maxout_delta(layer.a_prev, layer.delta, layer.delta_prev)
    elif op == Op.BATCH_NORM_DELTA:
        _batch_norm_delta(row, layer, step)
    elif op == Op.BACKPROP_DELTA:
        backprop_delta(layer.delta, layer.W, layer.a_prev, activation, layer.delta_prev, layer.scratch)
    elif op == Op.LINEAR_GRAD:
        gradient = layer.W, layer.grad_W, layer.grad_b
        return linear_grad(layer.a_prev, layer.delta, step, *gradient, layer.scratch)
    else:
        state = layer.W, layer.b, layer.m_W, layer.m_b, layer.v_W, layer.v_b
        return linear_update(layer.a_prev, layer.delta, row["optimizer"], step, *state, layer.scratch)
    return 0.0


def _batch_norm_delta(row: Any, layer: _Layer, step: Array) -> None:
    """Do `batch_norm_delta` and keep the gradient, or apply the row's rule."""
    gamma, beta = layer.W[0], layer.b
    known = layer.z, layer.rstd, gamma, step, layer.delta
    if row["optimizer"] == NONE:
        batch_norm_delta(*known, layer.grad_W[0], layer.grad_b)
        return
    grad_gamma, grad_beta = np.zeros_like(gamma), np.zeros_like(beta)
    batch_norm_delta(*known, grad_gamma, grad_beta)
    optimizer_step(row["optimizer"], step, grad_gamma, gamma, layer.m_W.ravel(), layer.v_W.ravel())
    optimizer_step(row["optimizer"], step, grad_beta, beta, layer.m_b, layer.v_b)


def _update(row: Any, buffers: Buffers, step: Array) -> None:
    """Do a row on a part of all parameters."""
    span = slice(row["W"], row["W"] + row["n_in"])
    states = buffers.grads, buffers.params, buffers.m, buffers.v, buffers.average
    grad, param, m, v, average = (array[span] for array in states)
    if row["op"] == Op.OPTIMIZER_STEP:
        optimizer_step(row["optimizer"], step, grad, param, m, v)
    elif row["op"] == Op.CLIP_NORM:
        clip_norm(grad, step)
    else:
        average_step(param, step, average)


def _activation(row: Any) -> Array:
    """Return the activation of a plan's row."""
    return np.array([tuple(row[name] for name in IN_TABLES)], ACTIVATION)


def _loss(row: Any) -> Array:
    """Return the loss of a plan's row."""
    return np.array([(row["loss"], row["loss_function"])], LOSS)
