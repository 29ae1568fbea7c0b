"""The contract between networks and kernels: operations, codes and tables.

A backend is a module with every function of `OPERATIONS`, under the same name, with the same arguments in the same
order. `fastbp/` compiles a network, its loss and its optimiser once into a *step plan*, a table of `PLAN_ROW` records;
``train_steps`` of every backend walks that table for each mini-batch. What changes from step to step (learning rate,
scale of the gradient) stands in a second table of `STEP` records, one row a step.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

OPERATIONS = (
    "shuffle",
    "gather_rows",
    "gather_csr_rows",
    "gather_classes",
    "linear_forward",
    "batch_norm",
    "normalize",
    "activate",
    "maxout",
    "dropout",
    "output_delta",
    "activation_delta",
    "maxout_delta",
    "batch_norm_delta",
    "backprop_delta",
    "linear_grad",
    "sgd_step",
    "momentum_step",
    "nesterov_step",
    "adam_step",
    "nadam_step",
    "rmsprop_step",
    "adagrad_step",
    "linear_update",
    "clip_norm",
    "average_step",
    "train_steps",
    "predict",
    "predict_rows",
)
"""The operations of every backend, in the order in which every backend's file defines them.

Beside them each backend has ``scratch_size(n_in, n_out, n_rows)`` and ``run_scratch_size(plan, n_rows, n_threads,
n_entries)``: how many elements of private workspace an operation on a layer needs, and a walk of a plan over batches
with up to ``n_entries`` entries of CSR data; ``rows_scratch_size(layers)`` is what ``predict_rows`` needs. Calls of a
module's ``train_steps`` stand between ``pack(plan, buffers)`` and ``unpack(plan, buffers)``: where `PACKS` is true,
parameters and moments are worked on in ``scratch`` from the one to the other, in the backend's own form, and a run that
is not unpacked changed nothing. With ``moments=False`` the two leave the moments where they are, and with
``params=False`` `unpack` leaves parameters and gradients. ``samples=False`` says that the run's samples are those of
the call before: a backend that has them elsewhere need not copy them again.
"""


class Activation(IntEnum):
    """Codes of the activation functions a = act(z).

    Up to `SIGN` the derivative follows from the output a. From `GELU` on it does not: there `activate` keeps act'(z)
    beside a while the network learns, and that takes the place of a wherever a derivative is found from outputs.
    `CUSTOM` is a function of a user's, compiled, whose address goes with the code: backends with ``TAKES_CUSTOM`` call
    it in `activate` and `predict_rows`. Products and batch normalisation take no such function: an ``ACTIVATE`` row
    follows theirs. `KEPT` is no function: it stands for any one whose derivative, maybe with more factors, was kept.
    """

    IDENTITY = 0
    RELU = 1
    LOGISTIC = 2
    TANH = 3
    SOFTMAX = 4
    EXP = 5
    LEAKY_RELU = 6
    ELU = 7
    SELU = 8
    SOFTPLUS = 9
    SIGN = 10
    GELU = 11
    SILU = 12
    RELU_AT_ZERO = 13
    CUSTOM = 14
    KEPT = 15


FIRST_KEPT = Activation.GELU
"""The first activation whose derivative does not follow from its output."""

SELU_SCALE, SELU_ALPHA = 1.0507009873554804934, 1.6732632423543772848
"""Klambauer et al. 2017, (14)."""

ACTIVATION = np.dtype(
    [
        ("code", np.int64),  # Activation
        ("function", np.int64),  # CUSTOM: address of the compiled function
        ("parameter", np.float64),  # LEAKY_RELU, ELU: beta
        ("at_zero", np.float64),  # LEAKY_RELU, RELU_AT_ZERO: act'(0)
    ]
)
"""An activation function with what it needs to know."""

IN_TABLES = ("activation", "function", "parameter", "at_zero")
"""What the fields of `ACTIVATION` are called in `PLAN_ROW` and `LAYER`."""


class ActivationFunction(NamedTuple):
    """The fields of `ACTIVATION`, as numbers that can be compared."""

    code: Activation
    function: int = 0
    parameter: float = 0.0
    at_zero: float = 0.0

    @property
    def is_kept(self) -> bool:
        """Whether the derivative has to be kept beside the output."""
        return self.code >= FIRST_KEPT

    def record(self) -> NDArray[np.void]:
        """Return it as an array of one `ACTIVATION`, which the operations take."""
        return np.array([tuple(self)], ACTIVATION)


BETA = {Activation.LEAKY_RELU: 0.01, Activation.ELU: 1.0}
"""The usual parameters (Cheng table 1, Book 4.3.3)."""


def activation_function(
    code: Activation, parameter: float | None = None, at_zero: float | None = None, function: int = 0
) -> ActivationFunction:
    """Return an activation function, with the usual values for what is left out: beta, and ReLU'(0) = 0."""
    parameter = BETA.get(code, 0.0) if parameter is None else float(parameter)
    if at_zero is None:
        at_zero = parameter if code == Activation.LEAKY_RELU else 0.0
    return ActivationFunction(code, function, parameter, float(at_zero))


class Loss(IntEnum):
    """Codes of the losses of one sample, as a function of its outputs a and targets y."""

    SQUARED_ERROR = 0
    CROSS_ENTROPY = 1
    BINARY_CROSS_ENTROPY = 2
    POISSON = 3
    CUSTOM = 4


LOSS = np.dtype(
    [
        ("code", np.int64),  # Loss
        ("function", np.int64),  # CUSTOM: address of the compiled function
    ]
)
"""A loss with what it needs to know."""


class LossFunction(NamedTuple):
    """The fields of `LOSS`, as numbers that can be compared."""

    code: Loss
    function: int = 0

    def record(self) -> NDArray[np.void]:
        """Return it as an array of one `LOSS`, which `output_delta` takes."""
        return np.array([tuple(self)], LOSS)


class Optimizer(IntEnum):
    """Codes of the update rules. AdamW is Adam with ``decay`` in its `STEP` record."""

    SGD = 0
    MOMENTUM = 1
    NESTEROV = 2
    ADAM = 3
    NADAM = 4
    RMSPROP = 5
    ADAGRAD = 6


MOMENTS = {
    Optimizer.SGD: (),
    Optimizer.MOMENTUM: ("m",),
    Optimizer.NESTEROV: ("m",),
    Optimizer.ADAM: ("m", "v"),
    Optimizer.NADAM: ("m", "v"),
    Optimizer.RMSPROP: ("v",),
    Optimizer.ADAGRAD: ("v",),
}
"""Which moments an update rule keeps."""


class Op(IntEnum):
    """Codes of the plan's rows: what `train_steps` and `predict` do, row by row."""

    GATHER_ROWS = 0
    GATHER_CSR_ROWS = 1
    GATHER_CLASSES = 2
    LINEAR_FORWARD = 3
    BATCH_NORM = 4
    NORMALIZE = 5
    ACTIVATE = 6
    MAXOUT = 7
    DROPOUT = 8
    OUTPUT_DELTA = 9
    ACTIVATION_DELTA = 10
    MAXOUT_DELTA = 11
    BATCH_NORM_DELTA = 12
    BACKPROP_DELTA = 13
    LINEAR_GRAD = 14
    LINEAR_UPDATE = 15
    OPTIMIZER_STEP = 16
    CLIP_NORM = 17
    AVERAGE_STEP = 18


LAYER_OPS = Op.LINEAR_FORWARD, Op.BATCH_NORM, Op.NORMALIZE
"""Rows that are the forward pass of a layer with parameters of its own."""


class Source(IntEnum):
    """Which of a run's arrays a ``GATHER_ROWS`` row copies from."""

    X = 0
    Y = 1
    SAMPLE_WEIGHT = 2


NONE = -1
"""In a plan: there is no such buffer (no bias, no sample weights)."""

PLAN_ROW = np.dtype(
    [
        ("op", np.int64),  # Op
        (
            "activation",
            np.int64,
        ),  # the fields of ACTIVATION: this layer's, or the one's below (backprop)
        ("function", np.int64),
        ("parameter", np.float64),
        ("at_zero", np.float64),
        ("loss", np.int64),  # the fields of LOSS
        ("loss_function", np.int64),
        ("optimizer", np.int64),  # Optimizer
        ("source", np.int64),  # Source
        ("finite", np.int64),  # 1: the run ends before a step where what this row gathers is not all finite
        ("n_in", np.int64),  # inputs I of the layer; MAXOUT: units times pieces; BATCH_NORM: 1; on flat ranges: length
        ("n_out", np.int64),  # outputs O of the layer; for a gather the number of columns
        ("a_prev", np.int64),  # offset in work: activations below, (B, I); for a derivative, where it is kept, that
        ("a", np.int64),  # offset in work: activations of this layer, (B, O)
        ("saved", np.int64),  # offset in work: what is kept for the derivative, (B, O), or NONE
        ("y", np.int64),  # offset in work: targets of the batch, (B, O)
        ("weight", np.int64),  # offset in work: sample weights of the batch, (B,), or NONE
        ("W", np.int64),  # offset in params, grads, m, v: weights, (I, O); BATCH_NORM: gamma
        ("b", np.int64),  # offset in params, grads, m, v: bias, (O,), or NONE; BATCH_NORM: beta
        ("delta", np.int64),  # offset in work: d loss / d z of this layer, (B, O); that of a, if it comes in its place
        ("delta_prev", np.int64),  # offset in work: d loss / d z of the layer below, (B, I)
        ("mean", np.int64),  # offset in params: running mean, (O,)
        ("variance", np.int64),  # offset in params: running variance, (O,)
        ("rstd", np.int64),  # offset in work: 1 / (standard deviation) of each unit, (O,)
        ("epsilon", np.float64),  # BATCH_NORM: added to the variance
        ("momentum", np.float64),  # BATCH_NORM: share of a batch in the running mean and variance
        ("probability", np.float64),  # DROPOUT: that a unit is kept
        ("stream", np.int64),  # DROPOUT: number of its masks among those of a step
        ("barrier", np.int64),  # 1: all threads finish this row before any begins the next
        ("online", np.int64),  # 1 in the first row: see below
    ]
)
"""One row of a step plan. Offsets count elements of the run's dtype.

A plan is *online* if its steps are gradient descent on one dense sample each: it gathers the sample, its target and
maybe its weight, and has the layers' forward products from the first to the last, the error at the output, then from
the last layer down to the second its backward product and its update, and the first one's update. No two layers share
weights. A backend may take the samples of an online plan in turn in a way of its own.
"""

STEP = np.dtype(
    [
        (name, np.float64)
        for name in (
            "grad_scale",  # factor of the summed gradient: 1 / (sum of the batch's sample weights), or 1
            "loss_scale",  # factor of the batch's summed loss where it is added to the run's loss
            "l2",  # L2 penalty: 0.5 l2 sum W^2, scaled like the loss
            "keep",  # factor of the gradient that is in grads already: 0 overwrites, 1 accumulates
            "rate",  # step size; Adam's bias corrections are in it
            "momentum",  # factor of the velocity
            "beta_1",  # Adam: decay of the first moment
            "beta_2",  # Adam: decay of the second moment
            "epsilon",  # Adam: added to the root of the second moment
            "decay",  # decoupled weight decay a step (AdamW: learning rate times weight decay)
            "grad_rate",  # Nadam: step size of the gradient itself, beside that of the first moment
            "clip",  # the gradient's elements are clipped to [-clip, clip]; 0: they are not
            "max_norm",  # the norm of the whole gradient that CLIP_NORM lets pass; 0: any
            "average_decay",  # factor of the average that AVERAGE_STEP adds parameters to
            "seed",  # DROPOUT: whole number in [0, 2^53)
            "number",  # DROPOUT: of this step among all, a whole number in [0, 2^48)
        )
    ]
)
"""What may change from step to step, one record a step."""


LAYER = ("n_in", "n_out", "W", "b", *IN_TABLES, "pieces", "gamma", "mean", "variance", "epsilon")
"""Columns of the table of layers that ``predict_rows`` takes, whole numbers all: of floating ones the bits.

Sizes, offsets in ``params`` (b may be `NONE`), the fields of `ACTIVATION`, how many outputs stand for one maxout unit
(1: there are none), and, where z is normalised, more offsets (else gamma is `NONE`; b is beta) and what is added to the
variance.
"""

PHILOX_ROUNDS = 10
PHILOX_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
PHILOX_KEYS = 0x9E3779B9, 0xBB67AE85
"""The generator of dropout's masks: rounds, what words are multiplied with, what keys grow by (Salmon et al. 2011)."""

WORK_BLOCK = (48, 16)
"""In ``work`` a matrix has room for multiples of this many rows and columns: a backend may pack it as it likes."""


def room(n_rows: int, n_columns: int) -> int:
    """Return how many elements of ``work`` a matrix takes."""
    rows, columns = WORK_BLOCK
    return -(-n_rows // rows) * rows * -(-n_columns // columns) * columns


class Buffers(NamedTuple):
    """All arrays of a run, owned by the caller; T is float32 or float64, the same in all.

    Dense data has ``X`` (n, I) and empty ``X_data, X_indices, X_indptr``; CSR data has ``X`` (0, I), and the indices of
    a sample ascend without repeats. Targets are either ``y`` (n, O) or class numbers ``classes`` (n,).
    ``sample_weight`` is (n, 1), or (0, 1) where samples weigh the same. ``params, grads, m, v, average`` share one
    layout; only ``params`` goes on, with the running means and variances, which no rule updates. ``work`` is laid out
    by the plan, and ``scratch`` is the backend's own, large enough for the largest layer.
    """

    X: NDArray[Any]
    X_data: NDArray[Any]
    X_indices: NDArray[np.int32]
    X_indptr: NDArray[np.int64]
    y: NDArray[Any]
    classes: NDArray[np.int64]
    sample_weight: NDArray[Any]
    params: NDArray[Any]
    grads: NDArray[Any]
    m: NDArray[Any]
    v: NDArray[Any]
    average: NDArray[Any]
    work: NDArray[Any]
    scratch: NDArray[Any]


def step_table(n_steps: int = 1, **values: float | NDArray[np.float64]) -> NDArray[np.void]:
    """Return ``n_steps`` records of `STEP`.

    Parameters
    ----------
    n_steps : int
        Number of records.
    **values : float or ndarray of shape (n_steps,)
        Fields of `STEP`. Left out: ``grad_scale`` and ``loss_scale`` are 1, all others 0.

    Returns
    -------
    ndarray of shape (n_steps,), dtype `STEP`
    """
    table = np.zeros(n_steps, STEP)
    table["grad_scale"] = 1.0
    table["loss_scale"] = 1.0
    for name, value in values.items():
        table[name] = value
    return table
