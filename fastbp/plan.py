"""The step plan: the only place where forward pass, backward pass and update are put in order."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kernels import (
    NONE,
    PLAN_ROW,
    Activation,
    ActivationFunction,
    Backend,
    Buffers,
    Loss,
    LossFunction,
    Op,
    Optimizer,
    Source,
    activation_function,
    is_on_device,
    room,
)
from .layers import BatchNorm
from .layout import Layout
from .losses import is_pair

IDENTITY, KEPT = activation_function(Activation.IDENTITY), activation_function(Activation.KEPT)


ON_A_GPU = (
    "samples lie on a GPU, where backend {!r} cannot reach them; pass backend='cuda', or a copy that lies on the host"
)


@dataclass(frozen=True, eq=False)
class Plan:
    """A compiled plan and the workspace it needs.

    Attributes
    ----------
    rows : ndarray of dtype `fastbp.kernels.PLAN_ROW`
    batch_size : int
        The largest mini-batch that the workspace holds.
    work_size : int
        Elements of ``work``.
    flops : int
        Floating-point operations of the matrix products of a mini-batch.
    """

    rows: NDArray[np.void]
    batch_size: int
    work_size: int
    flops: int


@dataclass(frozen=True)
class Data:
    """What a plan must know of the data: in which form samples and targets come, and whether samples were checked."""

    sparse: bool = False
    classes: bool = False
    weighted: bool = False
    checked: bool = True


_ONLINE = (Op.GATHER_ROWS, Op.GATHER_CLASSES, Op.LINEAR_FORWARD, Op.OUTPUT_DELTA, Op.BACKPROP_DELTA, Op.LINEAR_UPDATE)
_PRODUCTS = (Op.LINEAR_FORWARD, Op.BACKPROP_DELTA, Op.LINEAR_GRAD, Op.LINEAR_UPDATE)


class _Builder:
    """Collects rows and lays out the workspace."""

    def __init__(self, layout: Layout, activations: tuple[ActivationFunction, ...], batch_size: int) -> None:
        self.layout, self.activations, self.batch_size = layout, activations, batch_size
        self.rows: list[NDArray[np.void]] = []
        self.work_size = 0
        self.a = [self.place(size) for size in layout.layer_sizes]
        self.known = list(zip((IDENTITY, *activations), self.a, strict=True))
        self.pieces, self.normalized, self.rstd = ([NONE] * len(self.a) for _ in range(3))
        self.y = self.weight = NONE
        self.delta = [NONE] * len(self.a)

    def place(self, n_columns: int, n_rows: int | None = None) -> int:
        """Reserve (batch_size, n_columns) elements of the workspace, or (n_rows, n_columns); return their offset."""
        offset = self.work_size
        self.work_size += room(n_rows or self.batch_size, n_columns)
        return offset

    def add(self, op: Op, activation: ActivationFunction | None = None, /, **values: float) -> None:
        """Append a row; what is not given is `NONE`, sizes and the barrier have defaults."""
        row = np.full(1, NONE, PLAN_ROW)
        if activation is not None:
            row["activation"], row["function"], row["parameter"], row["at_zero"] = activation
        for name, value in {"n_in": 0, "n_out": 0, "barrier": 1, "op": op, **values}.items():
            row[name] = value
        self.rows.append(row)

    def layer(self, index: int) -> dict[str, int]:
        """Return the fields that every row of layer ``index`` (from 1) shares."""
        n_in, n_out = self.layout.shapes[index - 1]
        b = NONE if self.layout.norms[index - 1] else self.layout.bias_offsets[index - 1]
        weights = {"W": self.layout.weight_offsets[index - 1], "b": b}
        return {"n_in": n_in, "n_out": n_out, "a_prev": self.a[index - 1], **weights}

    def gather(self, data: Data, barrier: int = 1) -> None:
        op, n_inputs = Op.GATHER_CSR_ROWS if data.sparse else Op.GATHER_ROWS, self.layout.layer_sizes[0]
        self.add(op, source=Source.X, finite=int(not data.checked), n_out=n_inputs, a=self.a[0], barrier=barrier)

    def gather_targets(self, data: Data) -> None:
        """Add the gathers of targets and sample weights: of all gathers, the threads wait after the last one."""
        n_out = self.layout.layer_sizes[-1]
        self.y = self.place(n_out)
        op = Op.GATHER_CLASSES if data.classes else Op.GATHER_ROWS
        self.add(op, source=Source.Y, n_out=n_out, a=self.y, barrier=int(not data.weighted))
        if data.weighted:
            self.weight = self.place(1)
            self.add(Op.GATHER_ROWS, source=Source.SAMPLE_WEIGHT, n_out=1, a=self.weight)

    def norm(self, index: int) -> dict[str, float]:
        """Return the fields that the rows of layer ``index`` share that normalise it."""
        norm, layout, at = self.layout.norms[index - 1], self.layout, index - 1
        if norm is None:
            return {}
        fields = {"n_in": 1, "n_out": layout.widths[at], "W": layout.gamma_offsets[at], "b": layout.bias_offsets[at]}
        running = {"mean": layout.mean_offsets[at], "variance": layout.variance_offsets[at]}
        return {**fields, **running, "epsilon": norm.epsilon, "momentum": norm.momentum}

    def forward(self) -> None:
        """Add the forward pass of a prediction; the last layer writes to the outputs."""
        for index, activation in enumerate(self.activations, start=1):
            layer, norm, a, n_out = self.layer(index), self.norm(index), self.a[index], self.layout.layer_sizes[index]
            out = NONE if index == len(self.activations) else a
            is_maxout, is_custom = layer["n_out"] > n_out, activation.code == Activation.CUSTOM
            is_last = not (norm or is_maxout or is_custom)
            z, fused = out if is_last else self.place(layer["n_out"]), IDENTITY if is_custom else activation
            self.add(Op.LINEAR_FORWARD, IDENTITY if norm else fused, **layer, a=z)
            if norm:
                self.add(Op.NORMALIZE, fused, **norm, a_prev=z, a=z if is_maxout or is_custom else out)
            if is_custom:
                self.add(Op.ACTIVATE, activation, n_out=n_out, a_prev=z, a=out)
            if is_maxout:
                self.add(Op.MAXOUT, n_in=layer["n_out"], n_out=n_out, a_prev=z, a=out)

    def training_forward(self, dropout: tuple[float, ...]) -> None:
        """Add the forward pass of a step. Derivatives that do not follow from outputs are kept beside them."""
        for index, activation in enumerate((IDENTITY, *self.activations)):
            if index:
                self.layer_forward(index, activation)
            if index < len(dropout) and dropout[index] < 1:
                self.drop(index, activation, dropout[index])

    def layer_forward(self, index: int, activation: ActivationFunction) -> None:
        """Add the forward pass of a layer: product, batch normalisation, activation, maxout."""
        layer, norm, a, n_out = self.layer(index), self.norm(index), self.a[index], self.layout.layer_sizes[index]
        is_maxout = layer["n_out"] > n_out
        y = z = self.place(layer["n_out"]) if is_maxout else a
        if norm:
            z, self.rstd[index] = self.place(layer["n_out"]), self.place(layer["n_out"], n_rows=1)
        fused = IDENTITY if activation.is_kept else activation
        self.add(Op.LINEAR_FORWARD, IDENTITY if norm else fused, **layer, a=z)
        if norm:
            self.add(Op.BATCH_NORM, fused, **norm, a_prev=z, saved=z, rstd=self.rstd[index], a=y)
            self.normalized[index] = z
        if activation.is_kept:
            saved = self.place(n_out)
            self.add(Op.ACTIVATE, activation, n_out=n_out, a_prev=y, a=a, saved=saved)
            self.known[index] = activation, saved
        if is_maxout:
            self.add(Op.MAXOUT, n_in=layer["n_out"], n_out=n_out, a_prev=y, a=a)
            self.pieces[index] = y

    def drop(self, index: int, activation: ActivationFunction, probability: float) -> None:
        """Add the dropout of a layer's units. Of hidden ones the derivative, with the mask in it, is kept."""
        n_out, saved = self.layout.layer_sizes[index], self.known[index][1] if activation.is_kept else NONE
        if index and not activation.is_kept:
            saved = self.place(n_out)
        fields = {"n_out": n_out, "probability": probability, "stream": index}
        self.add(Op.DROPOUT, activation, a=self.a[index], saved=saved, **fields)
        self.known[index] = KEPT, saved

    def output_delta(self, loss: LossFunction, *, classes: bool) -> None:
        """Add the loss and the error at the output.

        The error for a class is the output but for one unit of a sample, and takes its place. In online learning the
        next sample's output is formed while the error is still in use.
        """
        activation, n_out = self.activations[-1], self.layout.layer_sizes[-1]
        in_place = classes and loss.code == Loss.CROSS_ENTROPY and self.batch_size > 1
        self.delta = [NONE, *(self.place(size) for size in self.layout.layer_sizes[1:-1])]
        self.delta.append(self.a[-1] if in_place else self.place(n_out))
        at_once = is_pair(loss.code, activation.code) or activation.code == Activation.IDENTITY
        at_once = at_once or (loss.code == Loss.SQUARED_ERROR and not activation.is_kept)
        losses = {"loss": loss.code, "loss_function": loss.function}
        error = {"y": self.y, "weight": self.weight, "delta": self.delta[-1], "n_out": n_out}
        self.add(Op.OUTPUT_DELTA, activation if at_once else IDENTITY, a=self.a[-1], **losses, **error)
        if not at_once:
            place = self.known[-1][1]
            self.add(Op.ACTIVATION_DELTA, activation, n_out=n_out, a_prev=place, delta=self.delta[-1])

    def backward(self, optimizer: Optimizer | int) -> None:
        """Add, from the last layer down, the error of the layer below and this layer's update; its gradient for `NONE`.

        All errors of a step use the weights from before the step; the first layer's own is never computed. Threads
        share both rows of a layer alike, so that none changes weights which another still needs: they do not wait in
        between.
        """
        op = Op.LINEAR_GRAD if optimizer == NONE else Op.LINEAR_UPDATE
        for index in range(len(self.a) - 1, 0, -1):
            row = {**self.layer(index), "delta": self.through_layer(index, optimizer)}
            if index > 1:
                activation, known = self.known[index - 1]
                below = {"a_prev": known, "delta_prev": self.delta[index - 1]}
                self.add(Op.BACKPROP_DELTA, activation, **{**row, **below}, barrier=0)
            self.add(op, **row, optimizer=optimizer)

    def through_layer(self, index: int, optimizer: Optimizer | int) -> int:
        """Add what sends a layer's error through maxout and batch normalisation; return where its d loss / d z is."""
        delta, norm, (_, width) = self.delta[index], self.norm(index), self.layout.shapes[index - 1]
        if self.pieces[index] != NONE:
            n_out, below, delta = self.layout.layer_sizes[index], delta, self.place(width)
            self.add(Op.MAXOUT_DELTA, n_in=width, n_out=n_out, a_prev=self.pieces[index], delta=below, delta_prev=delta)
        if norm:
            known = {"a_prev": self.normalized[index], "rstd": self.rstd[index], "delta": delta}
            self.add(Op.BATCH_NORM_DELTA, **norm, **known, optimizer=optimizer)
        return delta

    def plan(self) -> Plan:
        rows = np.concatenate(self.rows)
        products = rows[np.isin(rows["op"], _PRODUCTS)]
        flops = 2 * self.batch_size * int((products["n_in"] * products["n_out"]).sum())
        return Plan(rows, self.batch_size, self.work_size, flops)


@functools.lru_cache(maxsize=64)
def prediction_plan(layout: Layout, activations: tuple[ActivationFunction, ...], batch_size: int, data: Data) -> Plan:
    """Compile the forward pass.

    Parameters
    ----------
    layout : Layout
    activations : tuple of ActivationFunction
        One for each layer.
    batch_size : int
    data : Data

    Returns
    -------
    Plan
        For ``predict``.
    """
    builder = _Builder(layout, activations, batch_size)
    builder.gather(data)
    builder.forward()
    return builder.plan()


def check_steps(
    batch_norm: Sequence[BatchNorm | None], dropout: Sequence[float], batch_size: int, *, sparse: bool
) -> None:
    """Refuse steps that batch normalisation or dropout cannot take.

    Parameters
    ----------
    batch_norm : sequence of BatchNorm or None
        For each layer.
    dropout : sequence of float
        As for `training_plan`.
    batch_size : int
        Samples of a mini-batch.
    sparse : bool
        Whether samples come as CSR.

    Raises
    ------
    ValueError
        If mini-batches of one sample are to be normalised, or inputs of sparse samples dropped.
    """
    if batch_size == 1 and any(batch_norm):
        raise ValueError(
            "mini-batches are of 1 sample, which has no variance for batch_norm to divide by; choose a larger "
            "batch_size (and pass more than one sample), or leave batch_norm out"
        )
    if sparse and any(p < 1 for p in dropout[:1]):
        raise ValueError(
            f"X is sparse, and inputs of sparse samples cannot be dropped (dropout has inputs={dropout[0]}); pass "
            "X.toarray(), or fastbp.Dropout(..., inputs=1)"
        )


def training_plan(
    layout: Layout,
    activations: tuple[ActivationFunction, ...],
    loss: Loss | LossFunction,
    optimizer: Optimizer,
    batch_size: int,
    data: Data,
    *,
    dropout: tuple[float, ...] = (),
    clips_norm: bool = False,
    averages: bool = False,
) -> Plan:
    """Compile a step: gather, forward pass, loss, then back-propagation and update layer by layer.

    Parameters
    ----------
    layout : Layout
    activations : tuple of ActivationFunction
    loss : Loss or LossFunction
    optimizer : Optimizer
        The kernels' update rule.
    batch_size : int
    data : Data
    dropout : tuple of float
        Probabilities that units are kept: of the inputs and of each hidden layer; empty: nothing is dropped.
    clips_norm : bool
        Whether the gradient is clipped by its norm: it is then formed as a whole before any parameter changes.
    averages : bool
        Whether a moving average of the parameters is kept.

    Returns
    -------
    Plan
        For ``train_steps``.

    Raises
    ------
    ValueError
        As `check_steps` says.

    Notes
    -----
    Cheng algorithm 9.1, Book 4.4.4.
    """
    check_steps(layout.norms, dropout, batch_size, sparse=data.sparse)
    more = dropout, clips_norm, averages
    return _step_plan(layout, activations, loss, batch_size, data, optimizer, *more)


def gradient_plan(
    layout: Layout,
    activations: tuple[ActivationFunction, ...],
    loss: Loss | LossFunction,
    batch_size: int,
    data: Data,
    *,
    dropout: tuple[float, ...] = (),
) -> Plan:
    """Compile loss and gradient without an update, as L-BFGS and a gradient check need them.

    Parameters and result are those of `training_plan`; the gradient is left in ``grads``.
    """
    return _step_plan(layout, activations, loss, batch_size, data, NONE, dropout)


@functools.lru_cache(maxsize=64)
def _step_plan(
    layout: Layout,
    activations: tuple[ActivationFunction, ...],
    loss: Loss | LossFunction,
    batch_size: int,
    data: Data,
    optimizer: Optimizer | int,
    dropout: tuple[float, ...] = (),
    clips_norm: bool = False,
    averages: bool = False,
) -> Plan:
    builder = _Builder(layout, activations, batch_size)
    builder.gather(data, barrier=0)
    builder.gather_targets(data)
    builder.training_forward(dropout)
    builder.output_delta(loss if isinstance(loss, LossFunction) else LossFunction(loss), classes=data.classes)
    everything = {"W": 0, "n_in": layout.size}
    if clips_norm:
        builder.backward(NONE)
        builder.add(Op.CLIP_NORM, **everything)
        builder.add(Op.OPTIMIZER_STEP, optimizer=optimizer, **everything)
    else:
        builder.backward(optimizer)
    if averages:
        builder.add(Op.AVERAGE_STEP, **everything)
    is_plain = all(row["op"][0] in _ONLINE for row in builder.rows)
    builder.rows[0]["online"] = is_plain and optimizer == Optimizer.SGD and batch_size == 1
    return builder.plan()


def aligned_empty(size: int, dtype: Any) -> NDArray[Any]:
    """Return an uninitialised flat array that begins at a cache line."""
    itemsize = np.dtype(dtype).itemsize
    raw = np.empty(size * itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size * itemsize].view(dtype)


def no_data(dtype: Any, n_features: int, n_outputs: int) -> dict[str, NDArray[Any]]:
    """Return empty data buffers, to be replaced by those that a run has."""
    return {
        "X": np.empty((0, n_features), dtype),
        "X_data": np.empty(0, dtype),
        "X_indices": np.empty(0, np.int32),
        "X_indptr": np.empty(0, np.int64),
        "y": np.empty((0, n_outputs), dtype),
        "classes": np.empty(0, np.int64),
        "sample_weight": np.empty((0, 1), dtype),
    }


@functools.lru_cache(maxsize=64)
def _scratch_size(backend: Backend, plan: Plan, n_threads: int, n_entries: int) -> int:
    return backend.scratch_size(plan.rows, plan.batch_size, n_threads, n_entries)


def _most_entries(indptr: NDArray[np.int64], batch_size: int) -> int:
    """Return how many entries of CSR data the samples of a mini-batch have at most."""
    lengths = np.diff(indptr)
    if batch_size < len(lengths):
        lengths = np.partition(lengths, -batch_size)[-batch_size:]
    return int(lengths.sum())


def run_buffers(
    plan: Plan,
    backend: Backend,
    data: dict[str, NDArray[Any]],
    state: dict[str, NDArray[Any]],
    n_threads: int,
    spare: dict[str, NDArray[Any]] | None = None,
) -> Buffers:
    """Put a run's buffers together: the caller's data and parameters, and a workspace allocated here, once.

    Parameters
    ----------
    plan : Plan
    backend : Backend
    data : dict
        As from `no_data`.
    state : dict
        ``params`` and, where the plan uses them, ``grads``, ``m``, ``v`` and ``average``.
    n_threads : int
    spare : dict, optional
        ``work`` and ``scratch`` of a run that has ended, taken where they fit: new memory may cost more than a run.
    """
    if backend.name != "cuda" and any(is_on_device(data[name]) for name in ("X", "classes")):
        raise TypeError(ON_A_GPU.format(backend.name))
    dtype = state["params"].dtype
    unused = state["params"][:0]
    state = {name: state.get(name, unused) for name in ("params", "grads", "m", "v", "average")}
    n_entries = _most_entries(data["X_indptr"], plan.batch_size) if len(data["X_indptr"]) else 0
    sizes = {"work": plan.work_size, "scratch": _scratch_size(backend, plan, n_threads, n_entries)}
    workspace = {name: _reuse((spare or {}).get(name), size, dtype) for name, size in sizes.items()}
    return Buffers(**data, **state, **workspace)


def _reuse(array: NDArray[Any] | None, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    return array if array is not None and (array.size, array.dtype) == (size, dtype) else aligned_empty(size, dtype)
