"""Backend ``cuda``: the operations of `reference`, on a GPU through numba-cuda; arguments and formulas stand there.

Arrays of the host are copied to the device and back. A run stays there from one call of `train_steps` to the next:
``scratch`` stands for what it has on the device. In `layers` each row of a plan becomes launches of kernels; an
operation by hand is a row of its own.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc, var-annotated"

from __future__ import annotations

import contextlib
import math

import numpy as np

from .. import contract
from ..contract import NONE, Op, Optimizer, Source
from ..foreign import is_on_device
from .chunks import CHUNK_BYTES
from .hand import Hand, row_of
from .memory import empty, launch, to_device
from .runs import Session, session_of
from .samples import shuffle as shuffle_kernel
from .toolkit import cuda, settings


def scratch_size(n_in, n_out, n_rows):
    """Return how many elements of ``scratch`` an operation on a layer needs: none of the host's."""
    return 0


def run_scratch_size(plan, n_rows, n_threads, n_entries):
    """Return how many elements of ``scratch`` a walk of ``plan`` needs: one, to stand for memory on the device."""
    return 1


def rows_scratch_size(layers):
    """Return how many elements of ``scratch`` `predict_rows` needs: none of the host's."""
    return 0


PACKS = True
TAKES_CUSTOM = False
PREDICTED_ROWS, PREDICTED_FLOPS = 8192, math.inf


def n_devices():
    """Return how many GPUs there are."""
    return len(cuda.gpus)


@contextlib.contextmanager
def on_device(number=None, precision=""):
    """Let this thread's runs take a GPU, by number, and a precision of products, ``"tf32"``, as long as it lasts."""
    before, settings.precision = settings.precision, precision
    try:
        with contextlib.nullcontext() if number is None else cuda.gpus[number]:
            yield
    finally:
        settings.precision = before


def pack(plan, buffers, moments=True, samples=True):
    """Copy samples and parameters of a run, and what goes with them, to the device, where `train_steps` works."""
    session = session_of(plan, buffers)
    if samples:
        session.load(buffers)
    session.carry(buffers, ("params", "grads", "average", *(("m", "v") if moments else ())), back=False)


def unpack(plan, buffers, params=True, moments=True):
    """Copy parameters of a run, and what goes with them, back to where their owner looks for them."""
    names = (*(("params", "grads", "average") if params else ()), *(("m", "v") if moments else ()))
    session_of(plan, buffers).carry(buffers, names, back=True)


def shuffle(u, order, n_threads=1):
    numbers, drawn = to_device(u), empty(order.size, np.int64)
    launch(shuffle_kernel, 1, numbers, drawn, empty(order.size, np.int64))
    drawn.copy_to_host(order)


def gather_rows(X, order, out, n_threads=1):
    hand = Hand(X.dtype, len(order))
    places = {"n_out": X.shape[1], "a": hand.work.put(out), "source": Source.X, "finite": 0}
    hand.do(Op.GATHER_ROWS, [out], data={"X": X}, order=order, **places)


def gather_csr_rows(data, indices, indptr, order, out, n_threads=1):
    hand, samples = Hand(data.dtype, len(order)), {"X_data": data, "X_indices": indices, "X_indptr": indptr}
    places = {"n_out": out.shape[1], "a": hand.work.put(out), "finite": 0}
    hand.do(Op.GATHER_CSR_ROWS, [out], data=samples, order=order, **places)


def gather_classes(classes, order, out, n_threads=1):
    hand = Hand(out.dtype, len(order))
    places = {"n_out": out.shape[1], "a": hand.work.put(out)}
    hand.do(Op.GATHER_CLASSES, [out], data={"classes": classes}, order=order, **places)


def linear_forward(a_prev, W, b, activation, a, scratch, n_threads=1):
    hand = Hand(a.dtype, len(a))
    places = {"a_prev": hand.work.put(a_prev), "a": hand.work.put(a), "W": hand.params.put(W), "b": hand.params.put(b)}
    hand.do(Op.LINEAR_FORWARD, [a], activation=activation, n_in=W.shape[0], n_out=W.shape[1], **places)


def batch_norm(z, gamma, beta, epsilon, momentum, activation, normalized, rstd, mean, variance, a, n_threads=1):
    hand, written = Hand(a.dtype, len(a)), [normalized, rstd, mean, variance, a]
    works = {"a_prev": z, "saved": normalized, "rstd": rstd, "a": a}
    parameters = {"W": gamma, "b": beta, "mean": mean, "variance": variance}
    places = {name: hand.work.put(array) for name, array in works.items()}
    places |= {name: hand.params.put(array) for name, array in parameters.items()}
    numbers = {"epsilon": float(epsilon), "momentum": float(momentum)}
    hand.do(Op.BATCH_NORM, written, activation=activation, n_in=1, n_out=a.shape[1], **numbers, **places)


def normalize(z, gamma, beta, mean, variance, epsilon, activation, a, n_threads=1):
    hand, parameters = Hand(a.dtype, len(a)), {"W": gamma, "b": beta, "mean": mean, "variance": variance}
    places = {"a_prev": hand.work.put(z), "a": hand.work.put(a)}
    places |= {name: hand.params.put(array) for name, array in parameters.items()}
    sizes = {"n_in": 1, "n_out": a.shape[1], "epsilon": float(epsilon)}
    hand.do(Op.NORMALIZE, [a], activation=activation, **sizes, **places)


def activate(z, activation, a, saved, n_threads=1):
    hand = Hand(a.dtype, len(a))
    places = {"a_prev": hand.work.put(z), "a": hand.work.put(a), "saved": hand.work.put(saved)}
    hand.do(Op.ACTIVATE, [a, saved], activation=activation, n_out=a.shape[1], **places)


def maxout(z, a, n_threads=1):
    hand = Hand(a.dtype, len(a))
    places = {"a_prev": hand.work.put(z), "a": hand.work.put(a)}
    hand.do(Op.MAXOUT, [a], n_in=z.shape[1], n_out=a.shape[1], **places)


def dropout(a, activation, probability, stream, step, saved, n_threads=1):
    hand, draws = Hand(a.dtype, len(a)), {"probability": float(probability), "stream": int(stream)}
    places = {"a": hand.work.put(a), "saved": hand.work.put(saved)}
    hand.do(Op.DROPOUT, [a, saved], activation=activation, step=step, n_out=a.shape[1], **draws, **places)


def output_delta(a, y, sample_weight, activation, loss, delta, n_threads=1):
    hand = Hand(a.dtype, len(a))
    places = {"a": hand.work.put(a), "y": hand.work.put(y), "delta": hand.work.put(delta)}
    places["weight"] = hand.work.put(sample_weight.reshape(-1, 1))
    run = hand.do(Op.OUTPUT_DELTA, [delta], activation=activation, loss=loss, n_out=a.shape[1], **places)
    return float(run.sums.copy_to_host().sum())


def activation_delta(a, activation, delta, n_threads=1):
    hand = Hand(a.dtype, len(a))
    places = {"a_prev": hand.work.put(a), "delta": hand.work.put(delta)}
    hand.do(Op.ACTIVATION_DELTA, [delta], activation=activation, n_out=a.shape[1], **places)


def maxout_delta(z, delta, delta_z, n_threads=1):
    hand = Hand(z.dtype, len(z))
    places = {"a_prev": hand.work.put(z), "delta": hand.work.put(delta), "delta_prev": hand.work.put(delta_z)}
    hand.do(Op.MAXOUT_DELTA, [delta_z], n_in=z.shape[1], n_out=delta.shape[1], **places)


def batch_norm_delta(normalized, rstd, gamma, step, delta, grad_gamma, grad_beta, n_threads=1):
    hand, written = Hand(delta.dtype, len(delta)), [delta, grad_gamma, grad_beta]
    works = {"a_prev": normalized, "rstd": rstd, "delta": delta}
    places = {name: hand.work.put(array) for name, array in works.items()}
    hand.params.put(gamma)
    places |= {"W": hand.grads.put(grad_gamma), "b": hand.grads.put(grad_beta)}
    hand.do(Op.BATCH_NORM_DELTA, written, step=step, n_in=1, n_out=delta.shape[1], **places)


def backprop_delta(delta, W, a_prev, activation, delta_prev, scratch, n_threads=1):
    hand = Hand(delta.dtype, len(delta))
    works = {"delta": delta, "a_prev": a_prev, "delta_prev": delta_prev}
    places = {name: hand.work.put(array) for name, array in works.items()} | {"W": hand.params.put(W)}
    hand.do(Op.BACKPROP_DELTA, [delta_prev], activation=activation, n_in=W.shape[0], n_out=W.shape[1], **places)


def linear_grad(a_prev, delta, step, W, grad_W, grad_b, scratch, n_threads=1):
    hand = Hand(delta.dtype, len(delta))
    places = {"a_prev": hand.work.put(a_prev), "delta": hand.work.put(delta)}
    hand.params.put(W)
    places |= {"W": hand.grads.put(grad_W), "b": hand.grads.put(grad_b)}
    sizes = {"n_in": W.shape[0], "n_out": W.shape[1]}
    return _squares(step, hand.do(Op.LINEAR_GRAD, [grad_W, grad_b], step=step, **sizes, **places))


def sgd_step(grad, step, param, n_threads=1):
    _by_rule(Optimizer.SGD, grad, step, param)


def momentum_step(grad, step, param, velocity, n_threads=1):
    _by_rule(Optimizer.MOMENTUM, grad, step, param, m=velocity)


def nesterov_step(grad, step, param, velocity, n_threads=1):
    _by_rule(Optimizer.NESTEROV, grad, step, param, m=velocity)


def adam_step(grad, step, param, m, v, n_threads=1):
    _by_rule(Optimizer.ADAM, grad, step, param, m=m, v=v)


def nadam_step(grad, step, param, m, v, n_threads=1):
    _by_rule(Optimizer.NADAM, grad, step, param, m=m, v=v)


def rmsprop_step(grad, step, param, v, n_threads=1):
    _by_rule(Optimizer.RMSPROP, grad, step, param, v=v)


def adagrad_step(grad, step, param, v, n_threads=1):
    _by_rule(Optimizer.ADAGRAD, grad, step, param, v=v)


def linear_update(a_prev, delta, optimizer, step, W, b, m_W, m_b, v_W, v_b, scratch, n_threads=1):
    hand, written = Hand(delta.dtype, len(delta)), [W, b, m_W, m_b, v_W, v_b]
    places = {"a_prev": hand.work.put(a_prev), "delta": hand.work.put(delta)}
    for shelf, weights, bias in ((hand.params, W, b), (hand.m, m_W, m_b), (hand.v, v_W, v_b)):
        places |= {"W": shelf.put(weights), "b": shelf.put(bias)}
    sizes = {"n_in": W.shape[0], "n_out": W.shape[1], "optimizer": int(optimizer)}
    return _squares(step, hand.do(Op.LINEAR_UPDATE, written, step=step, **sizes, **places))


def clip_norm(grad, step, n_threads=1):
    hand = Hand(grad.dtype)
    run = hand.do(Op.CLIP_NORM, [grad], step=step, W=hand.grads.put(grad), n_in=len(grad))
    return float(run.norm.copy_to_host()[0])


def average_step(param, step, average, n_threads=1):
    hand = Hand(param.dtype)
    hand.average.put(average)
    hand.do(Op.AVERAGE_STEP, [average], step=step, W=hand.params.put(param), n_in=len(param))


def train_steps(plan, steps, order, batch_size, buffers, losses, n_threads=1):
    session_of(plan, buffers).train(steps, order, int(batch_size), losses)


def predict(plan, order, batch_size, buffers, out, n_threads=1):
    session = Session(plan, buffers)
    session.carry(buffers, ("params",), back=False)
    if is_on_device(buffers.X) or not buffers.X.size:
        session.load(buffers)
        session.predict(order, int(batch_size), out)
        return
    together = max(1, CHUNK_BYTES // (batch_size * buffers.X[:1].nbytes)) * batch_size
    for start in range(0, len(order), together):
        rows = order[start : start + together]
        session.load(buffers._replace(X=buffers.X[rows]))
        session.predict(np.arange(len(rows)), int(batch_size), out[start : start + together])


def predict_rows(layers, X, params, scratch, out, n_threads=1):
    n_inputs, rows = int(layers[0, 0]), []
    samples = X.reshape(-1, n_inputs)
    hand = Hand(params.dtype, len(samples))
    a = hand.work.put(samples)
    for number, layer in enumerate(layers):
        outputs = out.reshape(hand.n, -1) if number == len(layers) - 1 else None
        a = _add_layer(hand, rows, layer, params, a, outputs)
    hand.do_rows(rows, [out])


def _add_layer(hand, rows, layer, params, a_prev, outputs):
    """Add the rows of a layer's forward pass; return where its outputs are."""
    n_in, n_out, at_W, at_b = layer[:4].tolist()
    pieces, at_gamma, at_mean, at_variance = layer[8:12].tolist()
    function = dict(zip(contract.IN_TABLES, layer[4:8].view(contract.ACTIVATION)[0].item(), strict=True))
    vectors = {"b": at_b, "mean": at_mean, "variance": at_variance}
    places = {name: hand.params.put(params[at : at + n_out]) for name, at in vectors.items() if at != NONE}
    weights = hand.params.put(params[at_W : at_W + n_in * n_out].reshape(n_in, n_out))
    sizes, is_last = {"n_in": n_in, "n_out": n_out, "a_prev": a_prev}, outputs is not None
    a = hand.work.put(outputs if is_last and pieces == 1 else np.empty((hand.n, n_out), params.dtype))
    if at_gamma == NONE:
        rows.append(row_of(Op.LINEAR_FORWARD, **sizes, **function, a=a, W=weights, b=places.get("b", NONE)))
    else:
        z = hand.work.put(np.empty((hand.n, n_out), params.dtype))
        rows.append(row_of(Op.LINEAR_FORWARD, **sizes, **_IDENTITY, a=z, W=weights))
        places["W"] = hand.params.put(params[at_gamma : at_gamma + n_out])
        epsilon = float(layer[12:].view(np.float64)[0])
        rows.append(row_of(Op.NORMALIZE, n_in=1, n_out=n_out, a_prev=z, a=a, epsilon=epsilon, **function, **places))
    if pieces > 1:
        z, n_units = a, n_out // pieces
        a = hand.work.put(outputs if is_last else np.empty((hand.n, n_units), params.dtype))
        rows.append(row_of(Op.MAXOUT, n_in=n_out, n_out=n_units, a_prev=z, a=a))
    return a


_IDENTITY = dict.fromkeys(contract.IN_TABLES, 0)


def _squares(step, run):
    """Return the sum of the squares of a layer's weights, where its step has a penalty."""
    return float(run.squares.copy_to_host().sum()) if step["l2"][0] else 0.0


def _by_rule(rule, grad, step, param, m=None, v=None):
    """Apply an update rule to a flat array."""
    hand, states = Hand(grad.dtype), {"params": param, "m": m, "v": v}
    for name, array in states.items():
        if array is not None:
            getattr(hand, name).put(array)
    written = [array for array in states.values() if array is not None]
    hand.do(Op.OPTIMIZER_STEP, written, step=step, W=hand.grads.put(grad), n_in=len(grad), optimizer=int(rule))
