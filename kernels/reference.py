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

from .contract import (
    ACTIVATION,
    IN_TABLES,
    LOSS,
    NONE,
    SELU_ALPHA,
    SELU_SCALE,
    Activation,
    Buffers,
    Loss,
    Op,
    Optimizer,
    Source,
)

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


def pack(plan: Array, buffers: Buffers, moments: bool = True) -> None:
    """Prepare the parameters of a run, and what goes with them, for `train_steps`: nothing to do here."""


def unpack(plan: Array, buffers: Buffers, params: bool = True, moments: bool = True) -> None:
    """Write what `train_steps` changed back to ``params, grads, m, v``: nothing to do here."""


def shuffle(u: Array, order: Array, n_threads: int = 1) -> None:
    """Draw an order of 0 ... n - 1: order[i] = order[j] and order[j] = i with j = floor(u_i (i + 1)) for each i.

    Parameters
    ----------
    u : ndarray of shape (n,), dtype float64
        Random numbers, uniform in [0, 1).
    order : ndarray of shape (n,), dtype int64
        Written.
    n_threads : int

    Notes
    -----
    The samples' order in an epoch (Cheng 9.1 line 3): Fisher and Yates' shuffle in Durstenfeld's form (Knuth, The Art
    of Computer Programming 3.4.2, algorithm P), from the inside out. All n! orders are equally likely, but for the 53
    bits of u.
    """
    places = (u * np.arange(1, len(u) + 1)).astype(np.int64)
    drawn: list[int] = []
    for i, j in enumerate(places.tolist()):
        drawn.append(i)
        drawn[i], drawn[j] = drawn[j], i
    order[:] = drawn


def gather_rows(X: Array, order: Array, out: Array, n_threads: int = 1) -> None:
    """Copy rows: out[r] = X[order[r]].

    Parameters
    ----------
    X : ndarray of shape (n, I), dtype T
    order : ndarray of shape (B,), dtype int64
        Row numbers, each in [0, n).
    out : ndarray of shape (B, I), dtype T
        Written.
    n_threads : int

    Notes
    -----
    One mini-batch of shuffled samples (Cheng 9.1 line 3, Book 4.6).
    """
    np.take(X, order, axis=0, out=out)


def gather_csr_rows(data: Array, indices: Array, indptr: Array, order: Array, out: Array, n_threads: int = 1) -> None:
    """Write rows of a CSR matrix densely: out[r] = X[order[r]]; entries of one place add up.

    Parameters
    ----------
    data : ndarray of shape (nnz,), dtype T
    indices : ndarray of shape (nnz,), dtype int32
        Column numbers, each in [0, I).
    indptr : ndarray of shape (n + 1,), dtype int64
        Row r is ``data[indptr[r]:indptr[r + 1]]``.
    order : ndarray of shape (B,), dtype int64
    out : ndarray of shape (B, I), dtype T
        Written.
    n_threads : int
    """
    out[...] = 0
    for row, sample in zip(out, order, strict=True):
        entries = slice(indptr[sample], indptr[sample + 1])
        np.add.at(row, indices[entries], data[entries])


def gather_classes(classes: Array, order: Array, out: Array, n_threads: int = 1) -> None:
    """Write targets one-hot: out[r, k] = 1 if k = classes[order[r]], else 0.

    Parameters
    ----------
    classes : ndarray of shape (n,), dtype int64
        Class numbers, each in [0, O).
    order : ndarray of shape (B,), dtype int64
    out : ndarray of shape (B, O), dtype T
        Written.
    n_threads : int

    Notes
    -----
    Cheng (2).
    """
    out[...] = 0
    out[np.arange(len(order)), classes[order]] = 1


def linear_forward(
    a_prev: Array, W: Array, b: Array, activation: Array, a: Array, scratch: Array, n_threads: int = 1
) -> None:
    """Forward pass of one layer: z = a_prev W + b, a = act(z).

    Parameters
    ----------
    a_prev : ndarray of shape (B, I), dtype T
    W : ndarray of shape (I, O), dtype T
    b : ndarray of shape (O,), or (0,) for a layer without bias, dtype T
    activation : ndarray of shape (1,), dtype `ACTIVATION`
        Identity z; ReLU max(0, z); logistic 1 / (1 + exp(-z)); tanh z; exp z; softmax
        exp(z_k - max z) / sum_j exp(z_j - max z); leaky ReLU z if z > 0 else beta z; ELU z if z > 0 else
        beta (exp(z) - 1); SELU, ELU with constants of its own; softplus log(1 + exp(z)); sign; GELU z Phi(z), Phi the
        normal distribution; SiLU z / (1 + exp(-z)); ReLU with a derivative of one's own at 0; and custom ones.
    a : ndarray of shape (B, O), dtype T
        Written.
    scratch : ndarray, dtype T
        Private workspace of at least ``scratch_size(I, O, B)`` elements.
    n_threads : int

    Notes
    -----
    P&P (2)(3), Porr (2)(19), Cheng (3)-(5)(7) and table 1, Book 4.1.4, 4.3.
    """
    a[...] = 0
    for i in range(W.shape[0]):
        a += a_prev[:, i, None] * W[i]
    if b.size:
        a += b
    a[...] = _act(a, activation[0])


def activate(z: Array, activation: Array, a: Array, saved: Array, n_threads: int = 1) -> None:
    """Activation alone: a = act(z), and, where it has to be kept, its derivative act'(z).

    Parameters
    ----------
    z : ndarray of shape (B, O), dtype T
        Pre-activations.
    activation : ndarray of shape (1,), dtype `ACTIVATION`
        As for `linear_forward`, but for softmax.
    a : ndarray of shape (B, O), dtype T
        Written.
    saved : ndarray of shape (B, O), or (0, O) where nothing is to be kept, dtype T
        Written: act'(z). `activation_delta` and `backprop_delta` take it for the activations from GELU on.
    n_threads : int

    Notes
    -----
    Cheng table 1, Book 4.3, P&P (4)(7), Porr (23). P&P call ReLU discontinuous at 0; its derivative is. What ReLU'(0)
    is, is a choice: 0 (Cheng, Book 4.5.1), 1 (SE's answer, Book 4.4), anything between (Porr: "one needs to decide").
    """
    if saved.size:
        saved[...] = _derivative(z, activation[0])
    a[...] = _act(z, activation[0])


def output_delta(
    a: Array, y: Array, sample_weight: Array, activation: Array, loss: Array, delta: Array, n_threads: int = 1
) -> float:
    """Loss of a batch and its derivative by the pre-activation: delta = w d loss / d z.

    Parameters
    ----------
    a : ndarray of shape (B, O), dtype T
        Outputs of the network, after ``activation``.
    y : ndarray of shape (B, O), dtype T
        Targets.
    sample_weight : ndarray of shape (B,), or (0,) where all weigh 1, dtype T
    activation : ndarray of shape (1,), dtype `ACTIVATION`
        The output's. Identity stands for any other whose derivative `activation_delta` brings in: delta is then
        w d loss / d a.
    loss : ndarray of shape (1,), dtype `LOSS`
        Of one sample. Squared error: sum_k (a_k - y_k)^2 / 2, with any activation.
        Cross-entropy (softmax): -sum_k y_k log a_k. Binary cross-entropy (logistic):
        -sum_k y_k log a_k + (1 - y_k) log(1 - a_k). In both the probability is first clipped to
        [eps, 1 - eps], eps that of T. Poisson (exp): sum_k y_k log(y_k / a_k) - y_k + a_k. Custom (identity):
        sum_k f(a_k, y_k).
    delta : ndarray of shape (B, O), dtype T
        Written. With the pairs in parentheses it is w (a - y).
    n_threads : int

    Returns
    -------
    float
        The sum over the batch of w times the loss.

    Notes
    -----
    P&P (1)(5), Porr (3)(4), Cheng (6c)(6d)(8a), Book 4.4. Cheng's (6d) and (8a) hold for elementwise activations only;
    softmax with squared error goes through its full Jacobian (Cheng table 1).
    """
    np.subtract(a, y, out=delta)
    code = loss["code"][0]
    if code == Loss.SQUARED_ERROR:
        per_sample = 0.5 * np.square(delta, dtype=np.float64).sum(axis=1)
        _through_activation(a, activation[0], delta)
    else:
        per_sample = _log_loss(a, y, code)
        if activation["code"][0] == Activation.IDENTITY:
            delta[...] = _loss_derivative(a, y, code)
    if sample_weight.size:
        per_sample = per_sample * sample_weight
        delta *= sample_weight[:, None]
    return float(per_sample.sum())


def activation_delta(a: Array, activation: Array, delta: Array, n_threads: int = 1) -> None:
    """Hadamard product alone: delta = delta (Hadamard) act'(z), from d loss / d a to d loss / d z.

    Parameters
    ----------
    a : ndarray of shape (B, O), dtype T
        Activations; for the activations from GELU on the derivative that `activate` kept.
    activation : ndarray of shape (1,), dtype `ACTIVATION`
        In terms of a: identity 1; ReLU 1 where a > 0 else 0; logistic a (1 - a); tanh 1 - a^2; exp a; leaky ReLU 1
        where a > 0, ``at_zero`` where a = 0, else beta; ELU 1 where a > 0 else a + beta; SELU likewise; softplus
        1 - exp(-a); sign 0. Softmax by its full Jacobian, a_i ((i = j) - a_j).
    delta : ndarray of shape (B, O), dtype T
        Updated in place.
    n_threads : int

    Notes
    -----
    P&P (10), Cheng (8b) and table 1, SE 2, Book 4.3.
    """
    _through_activation(a, activation[0], delta)


def backprop_delta(
    delta: Array,
    W: Array,
    a_prev: Array,
    activation: Array,
    delta_prev: Array,
    scratch: Array,
    n_threads: int = 1,
) -> None:
    """Send the error one layer down: delta_prev = (delta W^T) (Hadamard) act'(z_prev).

    Parameters
    ----------
    delta : ndarray of shape (B, O), dtype T
    W : ndarray of shape (I, O), dtype T
        The weights from before the step's update.
    a_prev : ndarray of shape (B, I), dtype T
        Activations of the layer below; for the activations from GELU on the derivative that `activate` kept.
    activation : ndarray of shape (1,), dtype `ACTIVATION`
        That of the layer below; derivatives as in `activation_delta`.
    delta_prev : ndarray of shape (B, I), dtype T
        Written.
    scratch : ndarray, dtype T
        As for `linear_forward`.
    n_threads : int

    Notes
    -----
    P&P (10), Porr (13)(22), Cheng (6f)(8b), SE 1-2, Book 4.4.4. In P&P (6) and (9) read dU for dX, or ReLU' counts
    twice; Porr (22) leaves the derivative at v_i out of its sum.
    """
    np.matmul(delta, W.T, out=delta_prev)
    _through_activation(a_prev, activation[0], delta_prev)


def linear_grad(
    a_prev: Array,
    delta: Array,
    step: Array,
    W: Array,
    grad_W: Array,
    grad_b: Array,
    scratch: Array,
    n_threads: int = 1,
) -> float:
    """Gradient of one layer: dW = grad_scale (a_prev^T delta + l2 W), db = grad_scale sum_r delta_r.

    Parameters
    ----------
    a_prev : ndarray of shape (B, I), dtype T
    delta : ndarray of shape (B, O), dtype T
    step : ndarray of shape (1,), dtype `STEP`
        Its ``grad_scale``, ``l2`` and ``keep``; with ``keep`` 1 the gradient is added to what is there. It is not
        clipped here.
    W : ndarray of shape (I, O), dtype T
    grad_W : ndarray of shape (I, O), dtype T
        Written.
    grad_b : ndarray of shape (O,), or (0,) for a layer without bias, dtype T
        Written.
    n_threads : int

    Returns
    -------
    float
        Sum of the squares of W where ``l2`` is not 0, for the penalty in the loss; else 0.

    Notes
    -----
    Cheng (6a)(6b), SE 3, Book 4.4.2.
    """
    scale, l2, keep = (float(step[name][0]) for name in ("grad_scale", "l2", "keep"))
    gradient = scale * (a_prev.T @ delta + l2 * W)
    grad_W[...] = gradient if keep == 0 else keep * grad_W + gradient
    if grad_b.size:
        gradient = scale * delta.sum(axis=0)
        grad_b[...] = gradient if keep == 0 else keep * grad_b + gradient
    return _square_sum(W) if l2 else 0.0


def sgd_step(grad: Array, step: Array, param: Array, n_threads: int = 1) -> None:
    """Gradient descent: param -= rate grad.

    Parameters
    ----------
    grad : ndarray of shape (P,), dtype T
    step : ndarray of shape (1,), dtype `STEP`
        Where its ``clip`` is not 0, this and the other rules clip the gradient's elements to [-clip, clip].
    param : ndarray of shape (P,), dtype T
        Updated in place.
    n_threads : int

    Notes
    -----
    Porr (5)(6), Cheng (8f)(9), Book 4.5; clipping: Cheng 9.3.3, Book 4.5.2.
    """
    param -= step["rate"][0] * _clipped(grad, step)


def momentum_step(grad: Array, step: Array, param: Array, velocity: Array, n_threads: int = 1) -> None:
    """Gradient descent with momentum: v = momentum v - rate grad; param += v.

    Parameters
    ----------
    grad : ndarray of shape (P,), dtype T
    step : ndarray of shape (1,), dtype `STEP`
    param, velocity : ndarray of shape (P,), dtype T
        Updated in place.
    n_threads : int
    """
    velocity *= step["momentum"][0]
    velocity -= step["rate"][0] * _clipped(grad, step)
    param += velocity


def nesterov_step(grad: Array, step: Array, param: Array, velocity: Array, n_threads: int = 1) -> None:
    """Nesterov's momentum: v = momentum v - rate grad; param += momentum v - rate grad.

    Parameters
    ----------
    grad : ndarray of shape (P,), dtype T
    step : ndarray of shape (1,), dtype `STEP`
    param, velocity : ndarray of shape (P,), dtype T
        Updated in place.
    n_threads : int
    """
    grad = _clipped(grad, step)
    velocity *= step["momentum"][0]
    velocity -= step["rate"][0] * grad
    param += step["momentum"][0] * velocity - step["rate"][0] * grad


def adam_step(grad: Array, step: Array, param: Array, m: Array, v: Array, n_threads: int = 1) -> None:
    """Adam: m = beta_1 m + (1 - beta_1) g; v = beta_2 v + (1 - beta_2) g^2; param -= rate m / (sqrt(v) + epsilon).

    Parameters
    ----------
    grad : ndarray of shape (P,), dtype T
        g above.
    step : ndarray of shape (1,), dtype `STEP`
        The bias corrections are part of ``rate`` (and, in the form with a corrected epsilon, of ``epsilon``). Where
        ``decay`` is not 0, ``param`` is first multiplied by 1 - decay (AdamW).
    param, m, v : ndarray of shape (P,), dtype T
        Updated in place.
    n_threads : int
    """
    _update_moments(_clipped(grad, step), step, m, v)
    param -= step["decay"][0] * param
    param -= step["rate"][0] * m / (np.sqrt(v) + step["epsilon"][0])


def nadam_step(grad: Array, step: Array, param: Array, m: Array, v: Array, n_threads: int = 1) -> None:
    """Adam with Nesterov's momentum: m, v as Adam; param -= (rate m + grad_rate g) / (sqrt(v) + epsilon).

    Parameters
    ----------
    grad : ndarray of shape (P,), dtype T
        g above.
    step : ndarray of shape (1,), dtype `STEP`
        The corrections are part of ``rate``, ``grad_rate`` and ``epsilon``.
    param, m, v : ndarray of shape (P,), dtype T
        Updated in place.
    n_threads : int

    Notes
    -----
    Dozat 2016, algorithm 2.
    """
    grad = _clipped(grad, step)
    _update_moments(grad, step, m, v)
    param -= step["decay"][0] * param
    param -= (step["rate"][0] * m + step["grad_rate"][0] * grad) / (np.sqrt(v) + step["epsilon"][0])


def rmsprop_step(grad: Array, step: Array, param: Array, v: Array, n_threads: int = 1) -> None:
    """RMSprop: v = beta_2 v + (1 - beta_2) g^2; param -= rate g / (sqrt(v) + epsilon).

    Parameters
    ----------
    grad : ndarray of shape (P,), dtype T
        g above.
    step : ndarray of shape (1,), dtype `STEP`
    param, v : ndarray of shape (P,), dtype T
        Updated in place.
    n_threads : int

    Notes
    -----
    Tieleman & Hinton 2012, lecture 6.5.
    """
    grad, beta_2 = _clipped(grad, step), step["beta_2"][0]
    v *= beta_2
    v += (1 - beta_2) * grad * grad
    param -= step["decay"][0] * param
    param -= step["rate"][0] * grad / (np.sqrt(v) + step["epsilon"][0])


def adagrad_step(grad: Array, step: Array, param: Array, v: Array, n_threads: int = 1) -> None:
    """Adagrad: v = v + g^2; param -= rate g / (sqrt(v) + epsilon).

    Parameters
    ----------
    grad : ndarray of shape (P,), dtype T
        g above.
    step : ndarray of shape (1,), dtype `STEP`
    param, v : ndarray of shape (P,), dtype T
        Updated in place.
    n_threads : int

    Notes
    -----
    Duchi, Hazan & Singer 2011.
    """
    grad = _clipped(grad, step)
    v += grad * grad
    param -= step["decay"][0] * param
    param -= step["rate"][0] * grad / (np.sqrt(v) + step["epsilon"][0])


def linear_update(
    a_prev: Array,
    delta: Array,
    optimizer: int,
    step: Array,
    W: Array,
    b: Array,
    m_W: Array,
    m_b: Array,
    v_W: Array,
    v_b: Array,
    scratch: Array,
    n_threads: int = 1,
) -> float:
    """Gradient of one layer and the optimiser's step on it, the gradient never stored.

    The gradient is that of `linear_grad` with ``grad_scale`` and ``l2`` of ``step`` (``keep`` is ignored), the update
    that of the optimiser's ``_step`` operation.

    Parameters
    ----------
    a_prev : ndarray of shape (B, I), dtype T
    delta : ndarray of shape (B, O), dtype T
    optimizer : int
        An `Optimizer`.
    step : ndarray of shape (1,), dtype `STEP`
    W, m_W, v_W : ndarray of shape (I, O), dtype T
        Updated in place. SGD leaves ``m`` and ``v`` alone, momentum keeps its velocity in ``m``.
    b, m_b, v_b : ndarray of shape (O,), or (0,) for a layer without bias, dtype T
        Updated in place.
    n_threads : int

    Returns
    -------
    float
        Sum of the squares of W before the update where ``l2`` is not 0; else 0.

    Notes
    -----
    Cheng (6a)(6b)(8f)-(9), Book 4.5.
    """
    grad_W, grad_b = np.zeros_like(W), np.zeros_like(b)
    squares = linear_grad(a_prev, delta, step, W, grad_W, grad_b, scratch)
    _optimizer_step(optimizer, step, grad_W.ravel(), W.ravel(), m_W.ravel(), v_W.ravel())
    _optimizer_step(optimizer, step, grad_b, b, m_b, v_b)
    return squares


def clip_norm(grad: Array, step: Array, n_threads: int = 1) -> float:
    """Clip a gradient by its norm: grad *= min(1, max_norm / (norm + 1e-6)), norm = sqrt(sum_i grad_i^2).

    Parameters
    ----------
    grad : ndarray of shape (P,), dtype T
        Of all parameters. Updated in place.
    step : ndarray of shape (1,), dtype `STEP`
        Its ``max_norm``; with 0 nothing is clipped.
    n_threads : int

    Returns
    -------
    float
        The norm that the gradient had.

    Notes
    -----
    Beyond Cheng 9.3.3 and Book 4.5.2, which clip each element: Pascanu, Mikolov & Bengio 2013, with PyTorch's 1e-6.
    """
    norm, max_norm = float(np.sqrt(_square_sum(grad))), float(step["max_norm"][0])
    if max_norm != 0 and not norm + 1e-6 <= max_norm:
        grad *= max_norm / (norm + 1e-6)
    return norm


def average_step(param: Array, step: Array, average: Array, n_threads: int = 1) -> None:
    """Moving average of the parameters: average += (1 - average_decay) (param - average).

    Parameters
    ----------
    param : ndarray of shape (P,), dtype T
    step : ndarray of shape (1,), dtype `STEP`
    average : ndarray of shape (P,), dtype T
        Updated in place.
    n_threads : int

    Notes
    -----
    Polyak & Juditsky 1992, with exponential weights.
    """
    average += (1 - step["average_decay"][0]) * (param - average)


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
            layer = _Layer(row, buffers, len(batch))
            if row["op"] <= Op.GATHER_CLASSES:
                _gather(row, buffers, batch, layer.a)
                if row["finite"] == 1 and not np.isfinite(layer.a).all():
                    return
            elif row["op"] == Op.LINEAR_FORWARD:
                weights = layer.W, layer.b, _activation(row)
                linear_forward(layer.a_prev, *weights, layer.a, buffers.scratch)
            elif row["op"] == Op.ACTIVATE:
                activate(layer.z, _activation(row), layer.a, layer.saved)
            elif row["op"] == Op.OUTPUT_DELTA:
                outputs = layer.a, layer.y, layer.weight
                data_loss += output_delta(*outputs, _activation(row), _loss(row), layer.delta)
            elif row["op"] == Op.ACTIVATION_DELTA:
                activation_delta(layer.z, _activation(row), layer.delta)
            elif row["op"] == Op.BACKPROP_DELTA:
                below = layer.a_prev, _activation(row), layer.delta_prev
                backprop_delta(layer.delta, layer.W, *below, buffers.scratch)
            elif row["op"] == Op.LINEAR_GRAD:
                gradient = layer.W, layer.grad_W, layer.grad_b
                squares += linear_grad(layer.a_prev, layer.delta, step, *gradient, buffers.scratch)
            elif row["op"] == Op.LINEAR_UPDATE:
                rule = row["optimizer"], step
                state = layer.W, layer.b, layer.m_W, layer.m_b, layer.v_W, layer.v_b
                squares += linear_update(layer.a_prev, layer.delta, *rule, *state, buffers.scratch)
            else:
                span = slice(row["W"], row["W"] + row["n_in"])
                grad, param, m, v, average = (array[span] for array in _states(buffers))
                if row["op"] == Op.OPTIMIZER_STEP:
                    _optimizer_step(row["optimizer"], step, grad, param, m, v)
                elif row["op"] == Op.CLIP_NORM:
                    clip_norm(grad, step)
                else:
                    average_step(param, step, average)
        losses[0] += step["loss_scale"][0] * data_loss
        losses[1] += step["loss_scale"][0] * 0.5 * step["l2"][0] * squares
        losses[2] += 1


def predict(plan: Array, order: Array, batch_size: int, buffers: Buffers, out: Array, n_threads: int = 1) -> None:
    """Forward pass of many rows: out[r] = network(X[order[r]]).

    Parameters
    ----------
    plan : ndarray of shape (n_rows,), dtype `PLAN_ROW`
        A gather and one ``LINEAR_FORWARD`` a layer; the last one's ``a`` is ``NONE``: it writes to ``out``.
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
            if row["op"] == Op.LINEAR_FORWARD:
                linear_forward(layer.a_prev, layer.W, layer.b, _activation(row), a, buffers.scratch)
            elif row["op"] == Op.ACTIVATE:
                activate(layer.z, _activation(row), a, layer.saved)
            else:
                _gather(row, buffers, batch, a)


def predict_rows(layers: Array, X: Array, params: Array, scratch: Array, out: Array, n_threads: int = 1) -> None:
    """Forward pass of few rows on parameters as they lie, in no more time than they take: nothing is packed.

    Parameters
    ----------
    layers : ndarray of shape (n_layers, 8), dtype int64
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
    a = X.reshape(-1, layers[0, 0])
    for layer in layers:
        n_in, n_out, at_W, at_b = layer[:4].tolist()
        W = params[at_W : at_W + n_in * n_out].reshape(n_in, n_out)
        b = params[at_b : at_b + n_out] if at_b != NONE else params[:0]
        a_prev, a = a, np.empty((len(a), n_out), params.dtype)
        linear_forward(a_prev, W, b, layer[4:].view(ACTIVATION), a, scratch)
    out[:] = a.ravel()


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
        self.W, self.b = view(buffers.params, "W", n_in, n_out), view(buffers.params, "b", n_out)
        self.grad_W, self.grad_b = view(buffers.grads, "W", n_in, n_out), view(buffers.grads, "b", n_out)
        self.m_W, self.m_b = view(buffers.m, "W", n_in, n_out), view(buffers.m, "b", n_out)
        self.v_W, self.v_b = view(buffers.v, "W", n_in, n_out), view(buffers.v, "b", n_out)


def _gather(row: Any, buffers: Buffers, order: Array, out: Array) -> None:
    if row["op"] == Op.GATHER_CSR_ROWS:
        gather_csr_rows(buffers.X_data, buffers.X_indices, buffers.X_indptr, order, out)
    elif row["op"] == Op.GATHER_CLASSES:
        gather_classes(buffers.classes, order, out)
    else:
        source = {Source.X: buffers.X, Source.Y: buffers.y, Source.SAMPLE_WEIGHT: buffers.sample_weight}
        gather_rows(source[row["source"]], order, out)


def _states(buffers: Buffers) -> tuple[Array, ...]:
    return buffers.grads, buffers.params, buffers.m, buffers.v, buffers.average


def _clipped(grad: Array, step: Array) -> Array:
    """Return the gradient with its elements clipped."""
    clip = float(step["clip"][0])
    return np.clip(grad, -clip, clip) if clip != 0 else grad


def _update_moments(grad: Array, step: Array, m: Array, v: Array) -> None:
    """Move the moments of Adam and Nadam on."""
    beta_1, beta_2 = step["beta_1"][0], step["beta_2"][0]
    m *= beta_1
    m += (1 - beta_1) * grad
    v *= beta_2
    v += (1 - beta_2) * grad * grad


def _optimizer_step(optimizer: int, step: Array, grad: Array, param: Array, m: Array, v: Array) -> None:
    if optimizer == Optimizer.SGD:
        sgd_step(grad, step, param)
    elif optimizer == Optimizer.MOMENTUM:
        momentum_step(grad, step, param, m)
    elif optimizer == Optimizer.NESTEROV:
        nesterov_step(grad, step, param, m)
    elif optimizer == Optimizer.ADAM:
        adam_step(grad, step, param, m, v)
    elif optimizer == Optimizer.NADAM:
        nadam_step(grad, step, param, m, v)
    elif optimizer == Optimizer.RMSPROP:
        rmsprop_step(grad, step, param, v)
    else:
        adagrad_step(grad, step, param, v)


def _activation(row: Any) -> Array:
    """Return the activation of a plan's row."""
    return np.array([tuple(row[name] for name in IN_TABLES)], ACTIVATION)


def _loss(row: Any) -> Array:
    """Return the loss of a plan's row."""
    return np.array([(row["loss"], row["loss_function"])], LOSS)


def _act(z: Array, activation: Any) -> Array:
    """Return act(z)."""
    code, beta = activation["code"], float(activation["parameter"])
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if code in (Activation.RELU, Activation.RELU_AT_ZERO):
            return np.maximum(z, 0)
        if code == Activation.LOGISTIC:
            return 1 / (1 + np.exp(-z))
        if code == Activation.TANH:
            return np.tanh(z)
        if code == Activation.SOFTMAX:
            exp = np.exp(z - z.max(axis=1, keepdims=True))
            return exp / exp.sum(axis=1, keepdims=True)
        if code == Activation.EXP:
            return np.exp(z)
        if code == Activation.LEAKY_RELU:
            return np.where(z > 0, z, beta * z)
        if code == Activation.ELU:
            return np.where(z > 0, z, beta * np.expm1(z))
        if code == Activation.SELU:
            return SELU_SCALE * np.where(z > 0, z, SELU_ALPHA * np.expm1(z))
        if code == Activation.SOFTPLUS:
            return np.logaddexp(z, np.zeros_like(z))
        if code == Activation.SIGN:
            return np.sign(z)
        if code == Activation.GELU:
            return np.where(z == -np.inf, 0, z * _normal(z))
        if code == Activation.SILU:
            return np.where(z == -np.inf, 0, z / (1 + np.exp(-z)))
    return z


def _normal(z: Array) -> Array:
    """Return Phi(z), the distribution function of N(0, 1)."""
    from scipy.special import ndtr

    return ndtr(z)


def _derivative(z: Array, activation: Any) -> Array:
    """Return act'(z)."""
    code = activation["code"]
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if code == Activation.GELU:
            return _normal(z) + np.where(np.isinf(z), 0, z * np.exp(-0.5 * z * z) / np.sqrt(2 * np.pi))
        if code == Activation.SILU:
            p = 1 / (1 + np.exp(-z))
            return p + np.where(np.isinf(z), 0, z * p * (1 - p))
    if code == Activation.RELU_AT_ZERO:
        return np.where(z == 0, float(activation["at_zero"]), np.where(z > 0, 1, z * 0))
    derivative = np.ones_like(z)
    _through_activation(_act(z, activation), activation, derivative)
    return derivative


def _through_activation(a: Array, activation: Any, delta: Array) -> None:
    """Turn d loss / d a into d loss / d z, in place."""
    code, beta = activation["code"], float(activation["parameter"])
    if code == Activation.RELU:
        delta[a == 0] = 0
    elif code == Activation.LOGISTIC:
        delta *= a * (1 - a)
    elif code == Activation.TANH:
        delta *= 1 - a * a
    elif code == Activation.SOFTMAX:
        delta -= (delta * a).sum(axis=1, keepdims=True)
        delta *= a
    elif code == Activation.EXP or code >= Activation.GELU:
        delta *= a
    elif code == Activation.LEAKY_RELU:
        delta *= np.where(a > 0, 1, np.where(a == 0, float(activation["at_zero"]), beta))
    elif code == Activation.ELU:
        delta *= np.where(a > 0, 1, a + beta)
    elif code == Activation.SELU:
        delta *= np.where(a > 0, SELU_SCALE, a + SELU_SCALE * SELU_ALPHA)
    elif code == Activation.SOFTPLUS:
        delta *= -np.expm1(-a)
    elif code == Activation.SIGN:
        delta *= 0


def _log_loss(a: Array, y: Array, loss: int) -> Array:
    """Return the loss of each sample for the losses whose delta is a - y; 0 log 0 = 0."""
    if loss == Loss.POISSON:
        return (_xlogy(y, y / a) - y + a).sum(axis=1, dtype=np.float64)
    eps = np.finfo(a.dtype).eps
    p = np.clip(a, eps, 1 - eps)
    if loss == Loss.CROSS_ENTROPY:
        return -_xlogy(y, p).sum(axis=1, dtype=np.float64)
    return -(_xlogy(y, p) + _xlogy(1 - y, 1 - p)).sum(axis=1, dtype=np.float64)


def _loss_derivative(a: Array, y: Array, loss: int) -> Array:
    """Return d loss / d a, of the clipped probability."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if loss == Loss.POISSON:
            return 1 - np.where(y == 0, 0, y / a)
        eps = np.finfo(a.dtype).eps
        p = np.clip(a, eps, 1 - eps)
        if loss == Loss.CROSS_ENTROPY:
            return np.where(y == 0, 0, -y / p)
        return (p - y) / (p * (1 - p))


def _xlogy(x: Array, y: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((x == 0) & ~np.isnan(y), 0, x * np.log(y))


def _square_sum(W: Array) -> float:
    return float(np.square(W, dtype=np.float64).sum())
