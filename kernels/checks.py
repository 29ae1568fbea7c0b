"""What stands between a caller and a kernel: every argument of every operation is checked here, once for all backends.

A wrong argument is refused before a kernel runs: the message says what was got, what was wanted and what to do.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from enum import IntEnum
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import reference
from .contract import (
    ACTIVATION,
    LOSS,
    NONE,
    OPERATIONS,
    PLAN_ROW,
    STEP,
    Activation,
    ActivationFunction,
    Buffers,
    Loss,
    LossFunction,
    Op,
    Optimizer,
    activation_function,
)
from .plan_checks import (
    Where,
    check_draws,
    check_epsilon,
    check_fraction,
    check_function,
    check_indices,
    check_layer_table,
    check_loss,
    check_loss_output,
    check_plan,
    check_stream,
)
from .threads import capped

Array = NDArray[Any]


class _Spec(NamedTuple):
    """Shape (one letter a dimension; ``O?``: or empty), dtype (None: T) and whether the operation writes the array."""

    shape: str
    dtype: Any = None
    written: bool = False


_READ, _WRITTEN = _Spec, functools.partial(_Spec, written=True)
_STEP, _ORDER, _ACTIVATION, _LOSS = _Spec("1", STEP), _Spec("B", np.int64), _Spec("1", ACTIVATION), _Spec("1", LOSS)
_SCRATCH = _Spec("*", written=True)
_GRADIENT_STEP = {"grad": _READ("P"), "step": _STEP, "param": _WRITTEN("P")}

_SPECS: dict[str, dict[str, _Spec]] = {
    "shuffle": {"u": _READ("n", np.float64), "order": _Spec("n", np.int64, written=True)},
    "gather_rows": {"X": _READ("nI"), "order": _ORDER, "out": _WRITTEN("BI")},
    "gather_csr_rows": {
        "data": _READ("z"),
        "indices": _READ("z", np.int32),
        "indptr": _READ("r", np.int64),
        "order": _ORDER,
        "out": _WRITTEN("BI"),
    },
    "gather_classes": {"classes": _READ("n", np.int64), "order": _ORDER, "out": _WRITTEN("BO")},
    "linear_forward": {
        "a_prev": _READ("BI"),
        "W": _READ("IO"),
        "b": _READ("O?"),
        "activation": _ACTIVATION,
        "a": _WRITTEN("BO"),
        "scratch": _SCRATCH,
    },
    "batch_norm": {
        "z": _READ("BO"),
        "gamma": _READ("O"),
        "beta": _READ("O"),
        "activation": _ACTIVATION,
        "normalized": _WRITTEN("BO"),
        "rstd": _WRITTEN("O"),
        "mean": _WRITTEN("O"),
        "variance": _WRITTEN("O"),
        "a": _WRITTEN("BO"),
    },
    "normalize": {
        "z": _READ("BO"),
        "gamma": _READ("O"),
        "beta": _READ("O"),
        "mean": _READ("O"),
        "variance": _READ("O"),
        "activation": _ACTIVATION,
        "a": _WRITTEN("BO"),
    },
    "activate": {
        "z": _READ("BO"),
        "activation": _ACTIVATION,
        "a": _WRITTEN("BO"),
        "saved": _WRITTEN("BO?"),
    },
    "maxout": {"z": _READ("BK"), "a": _WRITTEN("BO")},
    "dropout": {"a": _WRITTEN("BO"), "activation": _ACTIVATION, "step": _STEP, "saved": _WRITTEN("BO?")},
    "output_delta": {
        "a": _READ("BO"),
        "y": _READ("BO"),
        "sample_weight": _READ("B?"),
        "activation": _ACTIVATION,
        "loss": _LOSS,
        "delta": _WRITTEN("BO"),
    },
    "activation_delta": {"a": _READ("BO"), "activation": _ACTIVATION, "delta": _WRITTEN("BO")},
    "maxout_delta": {"z": _READ("BK"), "delta": _READ("BO"), "delta_z": _WRITTEN("BK")},
    "batch_norm_delta": {
        "normalized": _READ("BO"),
        "rstd": _READ("O"),
        "gamma": _READ("O"),
        "step": _STEP,
        "delta": _WRITTEN("BO"),
        "grad_gamma": _WRITTEN("O"),
        "grad_beta": _WRITTEN("O"),
    },
    "backprop_delta": {
        "delta": _READ("BO"),
        "W": _READ("IO"),
        "a_prev": _READ("BI"),
        "activation": _ACTIVATION,
        "delta_prev": _WRITTEN("BI"),
        "scratch": _SCRATCH,
    },
    "linear_grad": {
        "a_prev": _READ("BI"),
        "delta": _READ("BO"),
        "step": _STEP,
        "W": _READ("IO"),
        "grad_W": _WRITTEN("IO"),
        "grad_b": _WRITTEN("O?"),
        "scratch": _SCRATCH,
    },
    "sgd_step": _GRADIENT_STEP,
    "momentum_step": {**_GRADIENT_STEP, "velocity": _WRITTEN("P")},
    "nesterov_step": {**_GRADIENT_STEP, "velocity": _WRITTEN("P")},
    "adam_step": {**_GRADIENT_STEP, "m": _WRITTEN("P"), "v": _WRITTEN("P")},
    "nadam_step": {**_GRADIENT_STEP, "m": _WRITTEN("P"), "v": _WRITTEN("P")},
    "rmsprop_step": {**_GRADIENT_STEP, "v": _WRITTEN("P")},
    "adagrad_step": {**_GRADIENT_STEP, "v": _WRITTEN("P")},
    "linear_update": {
        "a_prev": _READ("BI"),
        "delta": _READ("BO"),
        "step": _STEP,
        "W": _WRITTEN("IO"),
        "b": _WRITTEN("O?"),
        "m_W": _WRITTEN("IO"),
        "m_b": _WRITTEN("O?"),
        "v_W": _WRITTEN("IO"),
        "v_b": _WRITTEN("O?"),
        "scratch": _SCRATCH,
    },
    "clip_norm": {"grad": _WRITTEN("P"), "step": _STEP},
    "average_step": {"param": _READ("P"), "step": _STEP, "average": _WRITTEN("P")},
    "train_steps": {
        "plan": _READ("p", PLAN_ROW),
        "steps": _READ("s", STEP),
        "order": _READ("k", np.int64),
        "losses": _Spec("3", np.float64, written=True),
    },
    "predict": {"plan": _READ("p", PLAN_ROW), "order": _READ("k", np.int64), "out": _WRITTEN("kO")},
    "predict_rows": {
        "layers": _READ("lL", np.int64),
        "X": _READ("N"),
        "params": _READ("P"),
        "scratch": _SCRATCH,
        "out": _WRITTEN("M"),
    },
}
_OPTIONAL = ("scratch", "n_threads")
"""Arguments that may be left out, by keyword."""

_CODES: dict[str, type[IntEnum]] = {"optimizer": Optimizer}


class Backend:
    """One backend's operations, each checking its arguments before its kernel runs.

    Every name of `fastbp.kernels.OPERATIONS` is a method with the arguments that `fastbp.kernels.reference` documents.
    Codes may be given by name (``"relu"``); ``scratch`` and ``n_threads`` may be left out.

    Attributes
    ----------
    name : str
    module : module
        The operations without checks, for callers that have checked already.
    """

    def __init__(self, name: str, module: ModuleType) -> None:
        self.name = name
        self.module = module
        for operation in OPERATIONS:
            setattr(self, operation, _checked(operation, module))

    def __repr__(self) -> str:
        return f"<fastbp.kernels backend {self.name!r}>"

    def __getattr__(self, name: str) -> Any:
        if name in OPERATIONS:  # set by __init__; this tells type checkers that they exist
            raise AttributeError(name)
        raise AttributeError(
            f"backend {self.name!r} has no operation {name!r}; the operations are {', '.join(OPERATIONS)}"
        )

    def scratch_size(self, plan: Array, batch_size: int, n_threads: int = 1, n_entries: int = 0) -> int:
        """Return how many elements of ``scratch`` a walk of ``plan`` needs.

        ``n_entries`` is how many entries of CSR data a mini-batch has at most.
        """
        return int(self.module.run_scratch_size(plan, batch_size, n_threads, n_entries))


def _checked(operation: str, module: ModuleType) -> Callable[..., Any]:
    """Return the module's operation behind the checks of its arguments."""
    contract = getattr(reference, operation)
    names = list(inspect.signature(contract).parameters)
    signature = _with_defaults(inspect.signature(contract))
    kernel, specs = getattr(module, operation), _SPECS[operation]

    @functools.wraps(contract)
    def checked(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values = bound.arguments
        for name in values.keys() & _CODES.keys():
            values[name] = _code(name, values[name])
        if "activation" in values:
            values["activation"] = _activation(values["activation"])
        if "loss" in values:
            values["loss"] = _loss(values["loss"])
        values["n_threads"] = capped(check_n_threads(values["n_threads"]))
        sizes = _check_arrays(values, specs)
        if operation in _RANGE_CHECKS:
            _RANGE_CHECKS[operation](values, sizes, module)
        _fill_in(values, sizes, module)
        if operation == "train_steps":
            module.pack(values["plan"], values["buffers"])
        result = kernel(*(values[name] for name in names))
        if operation == "train_steps":
            module.unpack(values["plan"], values["buffers"])
        return result

    checked.__signature__ = signature  # type: ignore[attr-defined]
    return checked


def _with_defaults(signature: inspect.Signature) -> inspect.Signature:
    """Make ``scratch`` and ``n_threads`` optional, by keyword."""
    parameters = [
        parameter.replace(kind=parameter.KEYWORD_ONLY, default=None) if name in _OPTIONAL else parameter
        for name, parameter in signature.parameters.items()
    ]
    return signature.replace(parameters=sorted(parameters, key=lambda parameter: parameter.kind))


def check_n_threads(n_threads: int | None) -> int:
    """Return a number of threads, 1 for None."""
    if n_threads is None:
        return 1
    whole = isinstance(n_threads, int | np.integer) and not isinstance(n_threads, bool)
    if not whole or not 1 <= n_threads < 2**31:
        raise ValueError(f"n_threads is {n_threads!r}; pass a whole number of at least 1, or None")
    return int(n_threads)


def _code(name: str, value: Any) -> int:
    """Return the code of an optimiser given by code or name."""
    return int(_member(name, _CODES[name], value))


def _member(name: str, codes: type[IntEnum], value: Any) -> IntEnum:
    try:
        return codes[value.upper()] if isinstance(value, str) else codes(value)
    except (KeyError, ValueError):
        names = ", ".join(repr(code.name.lower()) for code in codes)
        raise ValueError(f"unknown {name} {value!r}; choose one of {names}") from None


def _activation(value: Any) -> Any:
    """Return the record of an activation function given by record, by its fields, by code or by name."""
    if value is None or isinstance(value, np.ndarray):
        return value
    if not isinstance(value, ActivationFunction):
        value = activation_function(Activation(_member("activation", Activation, value)))
    return value.record()


def _loss(value: Any) -> Any:
    """Return the record of a loss given by record, by its fields, by code or by name."""
    if value is None or isinstance(value, np.ndarray):
        return value
    if not isinstance(value, LossFunction):
        value = LossFunction(Loss(_member("loss", Loss, value)))
    return value.record()


def _check_arrays(values: dict[str, Any], specs: dict[str, _Spec]) -> dict[str, int]:
    """Check every array's type, dtype, layout and shape; return the size that each letter stands for."""
    dtype = _floating_dtype(values, specs)
    sizes: dict[str, int] = {}
    owners: dict[str, str] = {}
    for name, spec in specs.items():
        array = values[name]
        if array is None and name in _OPTIONAL:  # filled in later
            continue
        _check_kind(name, array, np.dtype(spec.dtype or dtype), spec.written)
        if spec.shape == "*":
            continue
        optional, letters = spec.shape.endswith("?"), spec.shape.rstrip("?")
        if array.ndim != len(letters):
            raise ValueError(f"{name} has shape {array.shape}; pass an array of shape {_shape_text(spec.shape)}")
        if optional and array.size == 0:
            continue
        for letter, size in zip(letters, array.shape, strict=True):
            wanted = int(letter) if letter.isdigit() else sizes.setdefault(letter, size)
            owner = owners.setdefault(letter, name)
            if size != wanted:
                source = "" if letter.isdigit() else f" but {letter} is {wanted} in {owner} {values[owner].shape}"
                raise ValueError(
                    f"{name} has shape {array.shape}{source}; pass {name} of shape {_shape_text(spec.shape)}"
                )
            if size == 0 and letter not in "z":
                raise ValueError(f"{name} has shape {array.shape}: it is empty; pass at least one element")
    _check_overlap(values, specs)
    return sizes


def _shape_text(shape: str) -> str:
    letters = shape.rstrip("?")
    text = "(" + ", ".join(letters) + ("," if len(letters) == 1 else "") + ")"
    return f"{text} or (0,)" if shape.endswith("?") else text


def _floating_dtype(values: dict[str, Any], specs: dict[str, _Spec]) -> Any:
    """Return T, the dtype of the first floating array."""
    if "buffers" in values:
        return _check_buffers(values["buffers"])
    for name, spec in specs.items():
        if spec.dtype is None and name not in _OPTIONAL:
            dtype = getattr(values[name], "dtype", None)
            if dtype in (np.float32, np.float64):
                return dtype
            got = f"dtype {dtype}" if dtype is not None else f"a {type(values[name]).__name__}"
            raise TypeError(f"{name} is {got}; pass an ndarray of float32 or float64")
    return None


def _check_kind(name: str, array: Any, dtype: np.dtype[Any], written: bool) -> None:
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} is a {type(array).__name__}; pass an ndarray of dtype {_dtype_text(dtype)}")
    if array.dtype != dtype:
        raise TypeError(f"{name} has dtype {_dtype_text(array.dtype)}; pass dtype {_dtype_text(dtype)}")
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} is not C-contiguous; pass np.ascontiguousarray({name})")
    if written and not array.flags.writeable:
        raise ValueError(f"{name} is read-only but the operation writes it; pass a writable array")


def _dtype_text(dtype: np.dtype[Any]) -> str:
    return {PLAN_ROW: "PLAN_ROW", STEP: "STEP", ACTIVATION: "ACTIVATION", LOSS: "LOSS"}.get(dtype, str(dtype))


def _check_overlap(values: dict[str, Any], specs: dict[str, _Spec]) -> None:
    arrays = [(name, values[name]) for name in specs if values[name] is not None]
    for name, spec in specs.items():
        if spec.written and values[name] is not None:
            for other, array in arrays:
                if other != name and np.may_share_memory(values[name], array):
                    raise ValueError(f"{name} shares memory with {other}; pass arrays that do not overlap")


def _fill_in(values: dict[str, Any], sizes: dict[str, int], module: ModuleType) -> None:
    """Allocate ``scratch`` where it was left out; refuse one that is too small."""
    if "scratch" in values:
        if "layers" in values:
            needed, dtype = module.rows_scratch_size(values["layers"]), values["params"].dtype
        else:
            needed, dtype = module.scratch_size(sizes["I"], sizes["O"], sizes["B"]), values["W"].dtype
        scratch = values["scratch"]
        if scratch is None:
            values["scratch"] = np.empty(needed, dtype)
        elif scratch.ndim != 1 or scratch.size < needed:
            raise ValueError(f"scratch has shape {scratch.shape}; pass a flat array of at least {needed} elements")


def _check_unit_interval(name: str, numbers: Array) -> None:
    outside = ~((numbers >= 0) & (numbers < 1))
    if outside.any():
        raise ValueError(f"{name} holds {numbers[outside][0]}; every entry must lie in [0, 1)")


def _check_csr(data: Array, indices: Array, indptr: Array, n_columns: int) -> None:
    check_indices("indices", indices, n_columns)
    if indptr[0] != 0 or indptr[-1] != len(data) or (np.diff(indptr) < 0).any():
        raise ValueError(f"indptr must rise from 0 to {len(data)}, the number of entries; got {indptr}")


def is_canonical(indices: Array, indptr: Array) -> bool:
    """Tell whether the indices of each row of a CSR matrix ascend without repeats."""
    ascends = np.ones(len(indices) + 1, bool)  # whether an entry lies behind the one before, or begins a row
    np.greater(indices[1:], indices[:-1], out=ascends[1:-1])
    ascends[indptr] = True
    return bool(ascends.all())


def _check_csr_gather(values: dict[str, Any], sizes: dict[str, int], module: ModuleType) -> None:
    _check_csr(values["data"], values["indices"], values["indptr"], sizes["I"])
    check_indices("order", values["order"], sizes["r"] - 1)


def _check_classes_gather(values: dict[str, Any], sizes: dict[str, int], module: ModuleType) -> None:
    check_indices("order", values["order"], sizes["n"])
    check_indices("classes", values["classes"], sizes["O"])


def _check_loss(values: dict[str, Any], sizes: dict[str, int], module: ModuleType) -> None:
    _check_activation(values, sizes, module)
    code, address = values["loss"][0].item()
    check_loss("loss", code, address, _where(values, module))
    check_loss_output("loss", code, values["activation"]["code"][0])


def _check_activation(values: dict[str, Any], sizes: dict[str, int], module: ModuleType) -> None:
    """Refuse a record that is no activation function of this backend's."""
    check_function("activation", values["activation"][0].item(), _where(values, module))


def _check_derivative(values: dict[str, Any], sizes: dict[str, int], module: ModuleType) -> None:
    """The same, but for one whose derivative was kept."""
    check_function("activation", values["activation"][0].item(), _where(values, module), may_be_kept=True)


def _where(values: dict[str, Any], module: ModuleType) -> Where:
    dtype = next(array.dtype for name in ("a", "delta") if (array := values.get(name)) is not None)
    return Where(module, dtype)


def _check_forward(values: dict[str, Any], sizes: dict[str, int], module: ModuleType) -> None:
    _check_activation(values, sizes, module)
    _refuse_custom(values, "linear_forward")


def _refuse_custom(values: dict[str, Any], operation: str) -> None:
    if values["activation"][0].item()[0] == Activation.CUSTOM:
        raise ValueError(f"{operation} takes no custom activation; pass 'identity', and the result to activate")


def _check_alone(values: dict[str, Any], sizes: dict[str, int], module: ModuleType) -> None:
    _check_activation(values, sizes, module)
    _refuse_softmax(values)


def _refuse_softmax(values: dict[str, Any]) -> None:
    if values["activation"]["code"][0] == Activation.SOFTMAX:
        raise ValueError("softmax is no function of single numbers; linear_forward has it")


def _check_update(values: dict[str, Any], sizes: dict[str, int], module: ModuleType) -> None:
    for name in ("m_b", "v_b"):
        if len(values[name]) != len(values["b"]):
            raise ValueError(f"{name} has shape {values[name].shape}; pass {name} of shape {values['b'].shape}, as b")


def _check_below(values: dict[str, Any], sizes: dict[str, int], module: ModuleType) -> None:
    _check_derivative(values, sizes, module)
    if values["activation"]["code"][0] == Activation.SOFTMAX:
        raise ValueError("softmax is an output activation; backprop_delta takes that of a hidden layer")


def _check_buffers(buffers: Buffers) -> Any:
    """Check the arrays of a run and return their dtype."""
    if not isinstance(buffers, Buffers):
        raise TypeError(f"buffers is a {type(buffers).__name__}; pass fastbp.kernels.Buffers")
    dtype = buffers.params.dtype
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"params has dtype {dtype}; pass float32 or float64")
    kinds = {"X_indices": np.int32, "X_indptr": np.int64, "classes": np.int64}
    written = {"params", "grads", "m", "v", "average", "work", "scratch"}
    for name, array in buffers._asdict().items():
        _check_kind(name, array, np.dtype(kinds.get(name, dtype)), name in written)
        wanted = 2 if name in ("X", "y", "sample_weight") else 1
        if array.ndim != wanted:
            raise ValueError(f"{name} has shape {array.shape}; pass {wanted} dimension{'s' * (wanted > 1)}")
    if buffers.X_indptr.size:
        _check_csr(buffers.X_data, buffers.X_indices, buffers.X_indptr, buffers.X.shape[1])
        if not is_canonical(buffers.X_indices, buffers.X_indptr):
            raise ValueError("X_indices does not ascend within each sample, without repeats; call X.sum_duplicates()")
    return dtype


def _check_train_steps(values: dict[str, Any], sizes: dict[str, int], module: ModuleType) -> None:
    batch_size = _check_run(values, module, predicting=False)
    if Op.DROPOUT in values["plan"]["op"]:
        check_draws(values["steps"])
    n_steps = -(-sizes["k"] // batch_size)
    if sizes["s"] != n_steps:
        raise ValueError(
            f"steps has {sizes['s']} records but {sizes['k']} samples in batches of {batch_size} make {n_steps} steps"
        )


def _check_predict(values: dict[str, Any], sizes: dict[str, int], module: ModuleType) -> None:
    _check_run(values, module, predicting=True)
    last = values["plan"][-1]
    if last["op"] <= Op.GATHER_CLASSES or last["a"] != NONE or last["n_out"] != sizes["O"]:
        raise ValueError(f"the plan's last row must write (n, {sizes['O']}) outputs to out: its a must be NONE")


def _check_predict_rows(values: dict[str, Any], sizes: dict[str, int], module: ModuleType) -> None:
    check_layer_table(values["layers"], values["X"], values["params"], values["out"], module)


def _check_pieces(values: dict[str, Any], sizes: dict[str, int], module: ModuleType) -> None:
    if sizes["K"] % sizes["O"]:
        raise ValueError(f"z has {sizes['K']} columns for {sizes['O']} units; pass as many for each unit")


def _check_batch_norm(values: dict[str, Any], sizes: dict[str, int], module: ModuleType) -> None:
    _check_normalize(values, sizes, module)
    check_fraction("batch_norm", "momentum", values["momentum"])


def _check_normalize(values: dict[str, Any], sizes: dict[str, int], module: ModuleType) -> None:
    _check_alone(values, sizes, module)
    _refuse_custom(values, "batch normalisation")
    check_epsilon("batch normalisation", values["epsilon"])


def _check_dropout(values: dict[str, Any], sizes: dict[str, int], module: ModuleType) -> None:
    _check_derivative(values, sizes, module)
    _refuse_softmax(values)
    check_fraction("dropout", "probability", values["probability"], open_low=True)
    check_stream("dropout", values["stream"])
    check_draws(values["step"])


def _check_run(values: dict[str, Any], module: ModuleType, predicting: bool) -> int:
    """Check what `train_steps` and `predict` share: batch size, order, and that the plan stays within the buffers."""
    plan, buffers, batch_size = values["plan"], values["buffers"], values["batch_size"]
    if isinstance(batch_size, bool) or not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; pass a whole number of at least 1")
    check_plan(plan, buffers, int(batch_size), module, predicting)
    n_samples = max(len(buffers.X), len(buffers.X_indptr) - 1)
    check_indices("order", values["order"], n_samples)
    n_entries = 0
    if len(buffers.X_indptr) and len(values["order"]):
        per_sample = np.diff(buffers.X_indptr)[values["order"]]
        n_entries = int(np.add.reduceat(per_sample, np.arange(0, len(per_sample), batch_size)).max())
    needed = module.run_scratch_size(plan, int(batch_size), values["n_threads"], n_entries)
    if buffers.scratch.size < needed:
        raise ValueError(f"scratch has {buffers.scratch.size} elements; this plan needs {needed}")
    return int(batch_size)


_RANGE_CHECKS: dict[str, Callable[[dict[str, Any], dict[str, int], ModuleType], None]] = {
    "shuffle": lambda values, sizes, module: _check_unit_interval("u", values["u"]),
    "gather_rows": lambda values, sizes, module: check_indices("order", values["order"], sizes["n"]),
    "gather_csr_rows": _check_csr_gather,
    "gather_classes": _check_classes_gather,
    "linear_forward": _check_forward,
    "batch_norm": _check_batch_norm,
    "normalize": _check_normalize,
    "activate": _check_alone,
    "maxout": _check_pieces,
    "dropout": _check_dropout,
    "output_delta": _check_loss,
    "activation_delta": _check_derivative,
    "maxout_delta": _check_pieces,
    "backprop_delta": _check_below,
    "linear_update": _check_update,
    "train_steps": _check_train_steps,
    "predict": _check_predict,
    "predict_rows": _check_predict_rows,
}
