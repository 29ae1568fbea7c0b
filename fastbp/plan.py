"""The step plan: the only place where forward pass, backward pass and update are put in order."""

from __future__ import annotations

import functools
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
    room,
)
from .losses import is_pair

IDENTITY = activation_function(Activation.IDENTITY)


@dataclass(frozen=True)
class Layout:
    """Where each layer's parameters lie in the flat buffer: all weights, then all biases, as scikit-learn packs them.

    Parameters
    ----------
    layer_sizes : tuple of int
        Inputs, hidden layers, outputs.
    bias : bool
    """

    layer_sizes: tuple[int, ...]
    bias: bool = True

    @property
    def n_layers(self) -> int:
        """Number of layers with weights."""
        return len(self.layer_sizes) - 1

    @functools.cached_property
    def shapes(self) -> list[tuple[int, int]]:
        """Shape (inputs, outputs) of each layer's weights."""
        return list(zip(self.layer_sizes[:-1], self.layer_sizes[1:], strict=True))

    @functools.cached_property
    def weight_offsets(self) -> list[int]:
        """Offset of each layer's weights."""
        return [int(end) for end in np.cumsum([0, *(i * o for i, o in self.shapes)])]

    @functools.cached_property
    def bias_offsets(self) -> list[int]:
        """Offset of each layer's bias, `NONE` where there is none."""
        if not self.bias:
            return [NONE] * self.n_layers
        return [self.weight_offsets[-1] + int(end) for end in np.cumsum([0, *self.layer_sizes[1:-1]])]

    @functools.cached_property
    def size(self) -> int:
        """Number of parameters: (d + 1) m_1 + (m_1 + 1) m_2 + ... (Book 4.1.4)."""
        return self.weight_offsets[-1] + (sum(self.layer_sizes[1:]) if self.bias else 0)

    def table(self, activations: tuple[ActivationFunction, ...]) -> NDArray[np.int64]:
        """Return the layers as the kernels' ``predict_rows`` takes them."""
        places = zip(self.shapes, self.weight_offsets[:-1], self.bias_offsets, strict=True)
        sizes = np.array([(*shape, W, b) for shape, W, b in places], np.int64)
        functions = np.concatenate([activation.record() for activation in activations])
        return np.hstack([sizes, functions.view(np.int64).reshape(len(sizes), -1)])

    def weights(self, flat: NDArray[Any]) -> list[NDArray[Any]]:
        """Return each layer's weights as views into a flat buffer."""
        offsets = zip(self.weight_offsets[:-1], self.shapes, strict=True)
        return [flat[start : start + i * o].reshape(i, o) for start, (i, o) in offsets]

    def biases(self, flat: NDArray[Any]) -> list[NDArray[Any]]:
        """Return each layer's bias as views into a flat buffer; none for a network without biases."""
        if not self.bias:
            return []
        return [flat[start : start + o] for start, o in zip(self.bias_offsets, self.layer_sizes[1:], strict=True)]


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
        self.saved = [NONE] * len(self.a)
        self.y = self.weight = NONE
        self.delta = [NONE] * len(self.a)

    def place(self, n_columns: int) -> int:
        """Reserve (batch_size, n_columns) elements of the workspace and return their offset."""
        offset = self.work_size
        self.work_size += room(self.batch_size, n_columns)
        return offset

    def add(self, op: Op, activation: ActivationFunction | None = None, /, **values: int) -> None:
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
        weights = {"W": self.layout.weight_offsets[index - 1], "b": self.layout.bias_offsets[index - 1]}
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

    def forward(self) -> None:
        """Add the forward pass of a prediction; the last layer writes to the outputs."""
        for index, activation in enumerate(self.activations, start=1):
            a = NONE if index == len(self.activations) else self.a[index]
            if activation.code == Activation.CUSTOM:
                self.add(Op.LINEAR_FORWARD, IDENTITY, **self.layer(index), a=self.a[index])
                self.add(Op.ACTIVATE, activation, n_out=self.layout.layer_sizes[index], a_prev=self.a[index], a=a)
            else:
                self.add(Op.LINEAR_FORWARD, activation, **self.layer(index), a=a)

    def training_forward(self) -> None:
        """Add the forward pass of a step. Derivatives that do not follow from outputs are kept beside them."""
        for index, activation in enumerate(self.activations, start=1):
            a, n_out = self.a[index], self.layout.layer_sizes[index]
            self.add(Op.LINEAR_FORWARD, IDENTITY if activation.is_kept else activation, **self.layer(index), a=a)
            if activation.is_kept:
                self.saved[index] = self.place(n_out)
                self.add(Op.ACTIVATE, activation, n_out=n_out, a_prev=a, a=a, saved=self.saved[index])

    def known(self, index: int) -> int:
        """Return what layer ``index`` has that its derivative follows from: its output, or what was kept."""
        return self.saved[index] if self.activations[index - 1].is_kept else self.a[index]

    def output_delta(self, loss: LossFunction) -> None:
        """Add the loss and the error at the output."""
        self.delta = [NONE, *(self.place(size) for size in self.layout.layer_sizes[1:])]
        activation, n_out = self.activations[-1], self.layout.layer_sizes[-1]
        at_once = is_pair(loss.code, activation.code) or activation.code == Activation.IDENTITY
        at_once = at_once or (loss.code == Loss.SQUARED_ERROR and not activation.is_kept)
        losses = {"loss": loss.code, "loss_function": loss.function}
        error = {"y": self.y, "weight": self.weight, "delta": self.delta[-1], "n_out": n_out}
        self.add(Op.OUTPUT_DELTA, activation if at_once else IDENTITY, a=self.a[-1], **losses, **error)
        if not at_once:
            place = self.known(len(self.activations))
            self.add(Op.ACTIVATION_DELTA, activation, n_out=n_out, a_prev=place, delta=self.delta[-1])

    def backward(self, op: Op, optimizer: Optimizer | int) -> None:
        """Add, from the last layer down, the error of the layer below and then this layer's gradient or update.

        All errors of a step use the weights from before the step; the first layer's own is never computed. Threads
        share both rows of a layer alike, so that none changes weights which another still needs: they do not wait in
        between.
        """
        for index in range(len(self.a) - 1, 0, -1):
            row = {**self.layer(index), "delta": self.delta[index]}
            if index > 1:
                below = {"a_prev": self.known(index - 1), "delta_prev": self.delta[index - 1]}
                self.add(Op.BACKPROP_DELTA, self.activations[index - 2], **{**row, **below}, barrier=0)
            self.add(op, **row, optimizer=optimizer)

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


def training_plan(
    layout: Layout,
    activations: tuple[ActivationFunction, ...],
    loss: Loss | LossFunction,
    optimizer: Optimizer,
    batch_size: int,
    data: Data,
    *,
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
    clips_norm : bool
        Whether the gradient is clipped by its norm: it is then formed as a whole before any parameter changes.
    averages : bool
        Whether a moving average of the parameters is kept.

    Returns
    -------
    Plan
        For ``train_steps``.

    Notes
    -----
    Cheng algorithm 9.1, Book 4.4.4.
    """
    return _step_plan(layout, activations, loss, batch_size, data, Op.LINEAR_UPDATE, optimizer, clips_norm, averages)


def gradient_plan(
    layout: Layout, activations: tuple[ActivationFunction, ...], loss: Loss | LossFunction, batch_size: int, data: Data
) -> Plan:
    """Compile loss and gradient without an update, as L-BFGS and a gradient check need them.

    Parameters and result are those of `training_plan`; the gradient is left in ``grads``.
    """
    return _step_plan(layout, activations, loss, batch_size, data, Op.LINEAR_GRAD, NONE)


@functools.lru_cache(maxsize=64)
def _step_plan(
    layout: Layout,
    activations: tuple[ActivationFunction, ...],
    loss: Loss | LossFunction,
    batch_size: int,
    data: Data,
    op: Op,
    optimizer: Optimizer | int,
    clips_norm: bool = False,
    averages: bool = False,
) -> Plan:
    builder = _Builder(layout, activations, batch_size)
    builder.gather(data, barrier=0)
    builder.gather_targets(data)
    builder.training_forward()
    builder.output_delta(loss if isinstance(loss, LossFunction) else LossFunction(loss))
    everything = {"W": 0, "n_in": layout.size}
    if clips_norm:
        builder.backward(Op.LINEAR_GRAD, NONE)
        builder.add(Op.CLIP_NORM, **everything)
        builder.add(Op.OPTIMIZER_STEP, optimizer=optimizer, **everything)
    else:
        builder.backward(op, optimizer)
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
        ``params`` and, where the plan uses them, ``grads``, ``m`` and ``v``.
    n_threads : int
    spare : dict, optional
        ``work`` and ``scratch`` of a run that has ended, taken where they fit: new memory may cost more than a run.
    """
    dtype = state["params"].dtype
    unused = state["params"][:0]
    state = {name: state.get(name, unused) for name in ("params", "grads", "m", "v", "average")}
    n_entries = _most_entries(data["X_indptr"], plan.batch_size) if len(data["X_indptr"]) else 0
    sizes = {"work": plan.work_size, "scratch": _scratch_size(backend, plan, n_threads, n_entries)}
    workspace = {name: _reuse((spare or {}).get(name), size, dtype) for name, size in sizes.items()}
    return Buffers(**data, **state, **workspace)


def _reuse(array: NDArray[Any] | None, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    return array if array is not None and (array.size, array.dtype) == (size, dtype) else aligned_empty(size, dtype)
