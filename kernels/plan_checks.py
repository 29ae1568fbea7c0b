"""What stands between a plan and a kernel that walks it: rows that would reach beyond their buffers are refused."""

from __future__ import annotations

import itertools
import sys
from enum import IntEnum
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .contract import (
    ACTIVATION,
    FIRST_KEPT,
    IN_TABLES,
    LAYER,
    LAYER_OPS,
    MOMENTS,
    NONE,
    PLAN_ROW,
    Activation,
    Buffers,
    Loss,
    Op,
    Optimizer,
    Source,
    room,
)

Array = NDArray[Any]
Row = dict[str, Any]

_GATHERS = (Op.GATHER_ROWS, Op.GATHER_CSR_ROWS, Op.GATHER_CLASSES)
_NORMALIZING = (Op.BATCH_NORM, Op.NORMALIZE, Op.BATCH_NORM_DELTA)
_FLAT = (Op.OPTIMIZER_STEP, Op.CLIP_NORM, Op.AVERAGE_STEP)
_ON_PARAMETERS = (
    *(Op.LINEAR_FORWARD, Op.BATCH_NORM, Op.NORMALIZE, Op.BATCH_NORM_DELTA),
    *(Op.BACKPROP_DELTA, Op.LINEAR_GRAD, Op.LINEAR_UPDATE),
)
_OF_PIECES = (Op.MAXOUT, Op.MAXOUT_DELTA)
_SIZED = (*_ON_PARAMETERS, *_OF_PIECES, *_FLAT)
"""The rows that have an ``n_in``."""

_WITH_RUNNING = (Op.BATCH_NORM, Op.NORMALIZE)
_WITH_RSTD = (Op.BATCH_NORM, Op.BATCH_NORM_DELTA)
_PREDICTING = (*_GATHERS, Op.LINEAR_FORWARD, Op.NORMALIZE, Op.ACTIVATE, Op.MAXOUT)
_TRAINING = tuple(op for op in Op if op != Op.NORMALIZE)
_DERIVATIVES = (Op.DROPOUT, Op.ACTIVATION_DELTA, Op.BACKPROP_DELTA)
"""The rows that look at an activation's derivative, which may have been kept."""

_ELEMENTWISE = (Op.BATCH_NORM, Op.NORMALIZE, Op.ACTIVATE, Op.DROPOUT)

WORK_FIELDS: dict[Op, dict[str, str]] = {
    Op.GATHER_ROWS: {"a": "n_out"},
    Op.GATHER_CSR_ROWS: {"a": "n_out"},
    Op.GATHER_CLASSES: {"a": "n_out"},
    Op.LINEAR_FORWARD: {"a_prev": "n_in", "a": "n_out"},
    Op.BATCH_NORM: {"a_prev": "n_out", "saved": "n_out", "a": "n_out"},
    Op.NORMALIZE: {"a_prev": "n_out", "a": "n_out"},
    Op.ACTIVATE: {"a_prev": "n_out", "a": "n_out", "saved": "n_out"},
    Op.MAXOUT: {"a_prev": "n_in", "a": "n_out"},
    Op.DROPOUT: {"a": "n_out", "saved": "n_out"},
    Op.OUTPUT_DELTA: {"a": "n_out", "y": "n_out", "delta": "n_out", "weight": ""},
    Op.ACTIVATION_DELTA: {"a_prev": "n_out", "delta": "n_out"},
    Op.MAXOUT_DELTA: {"a_prev": "n_in", "delta": "n_out", "delta_prev": "n_in"},
    Op.BATCH_NORM_DELTA: {"a_prev": "n_out", "delta": "n_out"},
    Op.BACKPROP_DELTA: {"delta": "n_out", "a_prev": "n_in", "delta_prev": "n_in"},
    Op.LINEAR_GRAD: {"a_prev": "n_in", "delta": "n_out"},
    Op.LINEAR_UPDATE: {"a_prev": "n_in", "delta": "n_out"},
    Op.OPTIMIZER_STEP: {},
    Op.CLIP_NORM: {},
    Op.AVERAGE_STEP: {},
}
"""What each row reads and writes in ``work``, and which of its sizes is the width; "" is one column."""

_OPTIONAL = {Op.ACTIVATE: "saved", Op.DROPOUT: "saved", Op.OUTPUT_DELTA: "weight"}
"""What a row may do without."""

_ROW_CODES: dict[Op, dict[str, type[IntEnum]]] = {
    Op.GATHER_ROWS: {"source": Source},
    Op.OUTPUT_DELTA: {"activation": Activation, "loss": Loss},
    **{op: {"activation": Activation} for op in (Op.LINEAR_FORWARD, *_ELEMENTWISE, *_DERIVATIVES)},
}
"""What codes a row holds, beside its optimizer."""

_LOSS_OUTPUTS = {
    Loss.CROSS_ENTROPY: Activation.SOFTMAX,
    Loss.BINARY_CROSS_ENTROPY: Activation.LOGISTIC,
    Loss.POISSON: Activation.EXP,
    Loss.CUSTOM: Activation.IDENTITY,
}
"""Of which activation `output_delta` sends each loss through the derivative; of any, if it is not here."""

_KNOWN: dict[type[IntEnum], frozenset[int]] = {
    codes: frozenset(map(int, codes)) for codes in (Activation, Loss, Optimizer, Source)
}
_WITHOUT_PARAMETERS = _KNOWN[Activation] - {
    *(Activation.LEAKY_RELU, Activation.ELU, Activation.RELU_AT_ZERO, Activation.CUSTOM, Activation.KEPT)
}
"""The activations of which nothing but the code can be wrong."""


def check_indices(name: str, indices: Array, end: int) -> None:
    """Refuse indices out of [0, end)."""
    if indices.size and (indices.min() < 0 or indices.max() >= end):
        bad = indices[(indices < 0) | (indices >= end)][0]
        raise ValueError(f"{name} holds {bad}; every entry must lie in [0, {end})")


class Where(NamedTuple):
    """Where a function is to run: in which backend, and on numbers of which dtype."""

    module: ModuleType
    dtype: Any

    def check_custom(self, place: str, kind: str, address: int) -> None:
        """Refuse an address that is not a custom function's: a call of anything else would end the process."""
        if not self.module.TAKES_CUSTOM:
            raise ValueError(f"{place} holds a custom {kind}; the Numba backend has them: pass backend='numba'")
        custom = sys.modules.get(f"{__package__}.numba_custom")  # nobody has made one where that is not there
        if custom is None or custom.FUNCTIONS.get(address, ())[:2] != (kind, self.dtype.name):
            raise ValueError(
                f"{place} holds the address {address}, where there is no custom {kind} of this process for "
                f"{self.dtype}; pass what CustomFunction.address('{self.dtype}') returns"
            )


def check_loss(place: str, code: int, address: int, where: Where) -> None:
    """Refuse a loss that is none, and a function that is not there."""
    if code not in _KNOWN[Loss]:
        raise ValueError(f"{place} holds the unknown loss {code}; pass a code of fastbp.kernels.Loss")
    if code == Loss.CUSTOM:
        where.check_custom(place, "loss", address)


def check_loss_output(place: str, code: int, activation: int) -> None:
    """Refuse an output activation through whose derivative a loss cannot be sent at once."""
    got = Activation(activation)
    wanted = _LOSS_OUTPUTS.get(Loss(code), got)
    if got not in (wanted, Activation.IDENTITY):
        raise ValueError(
            f"{place} {Loss(code).name.lower()!r} needs the output activation {wanted.name.lower()!r}, got "
            f"{got.name.lower()!r}; or pass 'identity' for d loss / d a, and activation_delta for the rest"
        )
    if got >= FIRST_KEPT:
        raise ValueError(
            f"{place}: the derivative of {got.name.lower()!r} is not known from its output; pass 'identity' for "
            "d loss / d a, and activation_delta for the rest"
        )


def check_function(place: str, function: tuple[Any, ...], where: Where, may_be_kept: bool = False) -> None:
    """Refuse an activation whose code is none, parameters out of range, and a function that is not there.

    ``function`` has the fields of `ACTIVATION`.
    """
    code, address, beta, at_zero = function
    if code in _WITHOUT_PARAMETERS:
        return
    if code not in _KNOWN[Activation]:
        raise ValueError(f"{place} holds the unknown activation {code}; pass a code of fastbp.kernels.Activation")
    if code == Activation.CUSTOM:
        where.check_custom(place, "activation", address)
    if code == Activation.KEPT and not may_be_kept:
        raise ValueError(f"{place} holds 'kept', which is no function; pass the activation itself")
    if code == Activation.ELU and not 0 <= beta < np.inf:
        raise ValueError(f"{place} has beta {beta}; pass a finite number of at least 0")
    if code == Activation.LEAKY_RELU and not 0 < beta < 1:
        raise ValueError(f"{place} has beta {beta}; pass a number between 0 and 1")
    if code in (Activation.LEAKY_RELU, Activation.RELU_AT_ZERO) and not 0 <= at_zero <= 1:
        raise ValueError(f"{place} has the derivative {at_zero} at 0; pass a number in [0, 1]")


def check_fraction(place: str, name: str, value: Any, open_low: bool = False) -> None:
    """Refuse what is not in [0, 1], or (0, 1]."""
    if not isinstance(value, int | float | np.number) or not (0 < value <= 1 if open_low else 0 <= value <= 1):
        raise ValueError(f"{place} has the {name} {value}; pass a number in {'(' if open_low else '['}0, 1]")


def check_epsilon(place: str, value: Any) -> None:
    """Refuse what cannot be added to a variance."""
    if not isinstance(value, int | float | np.number) or not 0 <= value < np.inf:
        raise ValueError(f"{place} has the epsilon {value}; pass a finite number of at least 0")


def check_stream(place: str, value: Any) -> None:
    """Refuse a number of dropout masks that a counter has no room for."""
    if not isinstance(value, int | np.integer) or not 0 <= value < 65536:
        raise ValueError(f"{place} has the stream {value}; pass a whole number in [0, 65536)")


def check_draws(steps: Array) -> None:
    """Refuse seeds and numbers of steps that the generator of dropout's masks cannot take."""
    for name, bits in {"seed": 53, "number": 48}.items():
        values = steps[name]
        wrong = ~((values >= 0) & (values < 2.0**bits) & (values == np.floor(values)))
        if wrong.any():
            raise ValueError(f"steps has the {name} {values[wrong][0]}; pass whole numbers in [0, 2**{bits})")


def check_plan(plan: Array, buffers: Buffers, batch_size: int, module: ModuleType, predicting: bool = False) -> None:
    """Refuse a plan that would reach beyond the buffers of its run, or call what is not there."""
    where, rows = Where(module, buffers.params.dtype), rows_of(plan)
    allowed = _PREDICTING if predicting else _TRAINING
    for number, row in enumerate(rows):
        if row["op"] not in allowed:
            raise ValueError(f"row {number} of the plan holds the operation {row['op']}; here only {allowed} run")
        op = Op(row["op"])
        place = f"row {number} of the plan, {op.name.lower()},"
        _check_sizes(place, op, row)
        _check_values(place, op, row, where)
        for offset, columns in WORK_FIELDS[op].items():
            width = room(batch_size, row[columns] if columns else 1)
            is_output = predicting and number == len(rows) - 1 and offset == "a"
            if row[offset] == NONE and (_OPTIONAL.get(op) == offset or is_output):
                continue
            _check_span(place, offset, row[offset], width, "work", buffers.work)
        if op in _WITH_RSTD:
            _check_span(place, "rstd", row["rstd"], room(1, row["n_out"]), "work", buffers.work)
        for names, offset, length in _parameter_spans(row, op):
            for name in names:
                _check_span(place, offset, row[offset], length, name, getattr(buffers, name))
    _check_layers(rows)
    _check_sources(rows, buffers)
    if any(row["online"] not in (0, NONE) for row in rows) and not (batch_size == 1 and _is_online(rows)):
        raise ValueError("the plan is marked online, but its rows are not those of an online plan; pass online 0")


def rows_of(plan: Array) -> list[Row]:
    """Return the rows of a plan as dicts of Python's numbers: to look at records takes NumPy ten times as long."""
    return [dict(zip(PLAN_ROW.names or (), values, strict=True)) for values in plan.tolist()]


def _check_sizes(place: str, op: Op, row: Row) -> None:
    n_in, n_out = row["n_in"], row["n_out"]
    sizes = {"n_in": n_in, "n_out": n_out}
    if n_in < int(op in _SIZED) or n_out < int(op not in _FLAT):
        raise ValueError(f"{place} has the sizes {sizes}; pass positive ones")
    if op in _NORMALIZING and n_in != 1:
        raise ValueError(f"{place} has n_in {n_in}; pass 1: one gamma for each unit")
    if op in _OF_PIECES and n_in % n_out:
        raise ValueError(f"{place} has the sizes {sizes}; pass an n_in that is a multiple of n_out")


def _check_values(place: str, op: Op, row: Row, where: Where) -> None:
    """Check a row's codes and numbers."""
    for name, codes in _ROW_CODES.get(op, {}).items():
        if name == "loss":
            check_loss(place, row["loss"], row["loss_function"], where)
        elif name == "activation":
            function = tuple(row[field] for field in IN_TABLES)
            check_function(place, function, where, may_be_kept=op in _DERIVATIVES)
            if op in LAYER_OPS and row[name] == Activation.CUSTOM:
                raise ValueError(f"{place} holds a custom activation; put it in an activate row behind")
            if op in _ELEMENTWISE and row[name] == Activation.SOFTMAX:
                raise ValueError(f"{place} holds softmax, which is no function of single numbers")
        elif row[name] not in _KNOWN[codes]:
            raise ValueError(
                f"{place} holds the unknown {name} {row[name]}; pass a code of fastbp.kernels.{codes.__name__}"
            )
    if op == Op.OUTPUT_DELTA:
        check_loss_output(f"{place} with loss", row["loss"], row["activation"])
    if op == Op.BACKPROP_DELTA and row["activation"] == Activation.SOFTMAX:
        raise ValueError(f"{place} holds softmax, an output activation; pass that of the layer below")
    if op in _WITH_RUNNING:
        check_epsilon(place, row["epsilon"])
    if op == Op.BATCH_NORM:
        check_fraction(place, "momentum", row["momentum"])
    if op == Op.DROPOUT:
        check_fraction(place, "probability", row["probability"], open_low=True)
        check_stream(place, row["stream"])


def _parameter_spans(row: Row, op: Op) -> list[tuple[tuple[str, ...], str, int]]:
    """Return which buffers a row uses beside ``work``, from which of its offsets on, and how many elements."""
    if op not in _ON_PARAMETERS and op not in _FLAT:
        return []
    names: tuple[str, ...] = ("params",)
    keeps_gradient = op == Op.LINEAR_GRAD or (op == Op.BATCH_NORM_DELTA and row["optimizer"] == NONE)
    if keeps_gradient:
        names = ("params", "grads")
    elif op in (Op.LINEAR_UPDATE, Op.BATCH_NORM_DELTA, Op.OPTIMIZER_STEP):
        if row["optimizer"] not in _KNOWN[Optimizer]:
            raise ValueError(f"the plan holds the unknown optimizer {row['optimizer']}")
        names = ("params", *MOMENTS[Optimizer(row["optimizer"])])
    if op in _FLAT:
        names = {Op.OPTIMIZER_STEP: (*names, "grads"), Op.CLIP_NORM: ("grads",)}.get(op, ("params", "average"))
        return [(names, "W", row["n_in"])]
    has_bias = op in _NORMALIZING or (row["b"] != NONE and op != Op.BACKPROP_DELTA)
    bias = [(names, "b", row["n_out"])] if has_bias else []
    running = [(("params",), name, row["n_out"]) for name in ("mean", "variance") if op in _WITH_RUNNING]
    return [(names, "W", row["n_in"] * row["n_out"]), *bias, *running]


def _check_span(place: str, offset: str, start: int, length: int, name: str, buffer: Array) -> None:
    """Refuse ``length`` elements from ``start`` on that do not lie within a buffer."""
    if start < 0 or start + length > buffer.size:
        raise ValueError(
            f"{name} has {buffer.size} elements; {place} needs those from {start} ({offset}) to {start + length}"
        )


def _check_layers(rows: list[Row]) -> None:
    """Refuse rows on parameters that are not those of one layer's forward pass: a backend packs layers whole."""
    layers: dict[int, tuple[int, ...]] = {}
    for row in (row for row in rows if row["op"] in LAYER_OPS):
        running = (row["mean"], row["variance"]) if row["op"] in _WITH_RUNNING else (NONE, NONE)
        layer = (row["n_in"], row["n_out"], row["b"], *running)
        if layers.setdefault(row["W"], layer) != layer:
            raise ValueError(f"two layers of the plan share the weights at {row['W']} but not their sizes and bias")
    if not any(row["op"] == Op.LINEAR_FORWARD for row in rows):
        raise ValueError("the plan has no linear_forward; add one for each layer")
    spans = [(W, W + n_in * n_out) for W, (n_in, n_out, *_) in layers.items()]
    vectors = [(start, layer[1]) for layer in layers.values() for start in layer[2:] if start != NONE]
    running_spans = [(start, layer[1]) for layer in layers.values() for start in layer[3:] if start != NONE]
    spans = sorted(spans + [(start, start + n_out) for start, n_out in vectors])
    if any(end > start for (_, end), (start, _) in itertools.pairwise(spans)):
        raise ValueError(f"the plan's layers overlap: their parameters lie at {spans}")
    for number, row in enumerate(rows):
        op, W, found = Op(row["op"]), row["W"], (row["n_in"], row["n_out"], row["b"])
        if op in _ON_PARAMETERS:
            wanted, mean = layers.get(W, ())[:3], layers.get(W, ())[3:4]
            if mean and (mean[0] == NONE) == (op in _NORMALIZING):
                raise ValueError(
                    f"row {number} of the plan, {op.name.lower()}, is not for the parameters at {W}: rows of batch "
                    "normalisation go with one another, and products with products"
                )
            if found[:2] != wanted[:2] or (op != Op.BACKPROP_DELTA and found != wanted):
                raise ValueError(
                    f"row {number} of the plan, {op.name.lower()}, has n_in, n_out, b {found} for the weights at {W}, "
                    f"but the layer there has {wanted or 'no forward pass'}"
                )
        elif op in _FLAT and any(start < W < end or start < W + found[0] < end for start, end in spans):
            name = op.name.lower()
            raise ValueError(f"row {number} of the plan, {name}, has to do with parts of the parameters at {spans}")
        elif op in _FLAT and any(W - n_out < start < W + found[0] for start, n_out in running_spans):
            name = op.name.lower()
            raise ValueError(f"row {number} of the plan, {name}, would change running means or variances: no rule does")


def _is_online(rows: list[Row]) -> bool:
    """Tell whether the rows are those of an online plan (`PLAN_ROW`)."""
    layers = [row for row in rows if row["op"] == Op.LINEAR_FORWARD]
    n_gathers = len(rows) - 3 * len(layers)
    if n_gathers not in (2, 3) or len({layer["W"] for layer in layers}) < len(layers):
        return False
    wanted = _online_rows(rows[:n_gathers], layers, rows[n_gathers + len(layers) :])
    return all(row[name] == value for row, fields in zip(rows, wanted, strict=True) for name, value in fields.items())


def _online_rows(gathers: list[Row], layers: list[Row], backward: list[Row]) -> list[Row]:
    """Return which fields the rows of an online plan must have, so that each reads what others left for it."""
    (x, y, *weight), delta, wanted = gathers, backward[0]["delta"], [{"op": Op.GATHER_ROWS, "source": Source.X}]
    is_classes = y["op"] == Op.GATHER_CLASSES
    wanted.append({"op": Op.GATHER_CLASSES} if is_classes else {"op": Op.GATHER_ROWS, "source": Source.Y})
    wanted += [{"op": Op.GATHER_ROWS, "source": Source.SAMPLE_WEIGHT}] * len(weight)
    for below in [x, *layers[:-1]]:
        wanted.append({"op": Op.LINEAR_FORWARD, "a_prev": below["a"], "n_in": below["n_out"]})
    target = {"n_out": y["n_out"], "y": y["a"], "weight": weight[0]["a"] if weight else NONE}
    wanted.append({"op": Op.OUTPUT_DELTA, "a": layers[-1]["a"], **target})
    for number, layer in reversed(list(enumerate(layers))):
        known = {"W": layer["W"], "a_prev": layer["a_prev"], "delta": delta}
        if number:
            activation = {name: layers[number - 1][name] for name in IN_TABLES}
            wanted.append({"op": Op.BACKPROP_DELTA, **known, **activation})
            delta = backward[2 * (len(layers) - number) - 1]["delta_prev"]
        wanted.append({"op": Op.LINEAR_UPDATE, **known, "optimizer": Optimizer.SGD})
    return wanted


def _check_sources(rows: list[Row], buffers: Buffers) -> None:
    """Refuse gathers of more columns than their source has, or of targets that are not there."""
    n_samples = max(len(buffers.X), len(buffers.X_indptr) - 1)
    sources = {Source.X: buffers.X, Source.Y: buffers.y, Source.SAMPLE_WEIGHT: buffers.sample_weight}
    wanted: tuple[int, ...]
    got: tuple[int, ...]
    for row in rows:
        if row["op"] == Op.GATHER_ROWS:
            wanted, got = (n_samples, row["n_out"]), sources[Source(row["source"])].shape
        elif row["op"] == Op.GATHER_CSR_ROWS:
            wanted, got = (n_samples, row["n_out"]), (len(buffers.X_indptr) - 1, buffers.X.shape[1])
            if any(other["op"] == Op.DROPOUT and other["a"] == row["a"] for other in rows):
                raise ValueError("the plan drops inputs of CSR samples, which are never made dense; pass dense ones")
        elif row["op"] == Op.GATHER_CLASSES:
            wanted, got = (n_samples,), buffers.classes.shape
            check_indices("classes", buffers.classes, row["n_out"])
        else:
            continue
        if wanted != got:
            name = Op(row["op"]).name.lower()
            raise ValueError(f"the plan's {name} needs a source of shape {wanted}, got {got}")


def check_layer_table(layers: Array, X: Array, params: Array, out: Array, module: ModuleType) -> None:
    """Refuse a table of layers for ``predict_rows`` that would reach beyond its arrays."""
    size, width = len(params), 0
    if layers.shape[1] != len(LAYER):
        raise ValueError(f"layers has shape {layers.shape}; pass a row of {len(LAYER)} numbers for each layer: {LAYER}")
    for number, layer in enumerate(layers):
        place = f"row {number} of layers"
        n_in, n_out, W, b = layer[:4].tolist()
        pieces, *more = layer[LAYER.index("pieces") : -1].tolist()
        check_function(place, layer[4:8].view(ACTIVATION)[0].item(), Where(module, params.dtype))
        vectors = [b, *more] if more[0] != NONE else [b] if b != NONE else []
        fits = W >= 0 and W + n_in * n_out <= size and all(0 <= start <= size - n_out for start in vectors)
        if n_in < 1 or n_out < 1 or not fits or (number and n_in != width):
            raise ValueError(
                f"{place} is {layer.tolist()}, params has {size} elements; pass n_in (the width of the row before), "
                "n_out, W, b, activation and the rest of parameters that lie within params"
            )
        if pieces < 1 or n_out % pieces:
            raise ValueError(f"{place} has {n_out} outputs in {pieces} pieces; pass a number that divides the outputs")
        if more[0] != NONE:
            check_epsilon(place, layer[-1:].view(np.float64)[0])
        width = n_out // pieces
    n = len(X) // layers[0, 0]
    if len(X) != n * layers[0, 0] or len(out) != n * width:
        raise ValueError(
            f"X has {len(X)} elements and out has {len(out)}; pass n times {layers[0, 0]} and n times {width}"
        )
