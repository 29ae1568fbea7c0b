"""Every operation of the kernels on random arguments, and how far its result is from the reference's in float64.

Arguments are made in a dtype, a backend works on them, and the reference on the same numbers in float64. The sums'
lengths follow from the shapes, the tolerances from the dtype.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..kernels import (
    Activation,
    ActivationFunction,
    Backend,
    Buffers,
    Loss,
    Optimizer,
    activation_function,
    step_table,
)
from ..layers import BatchNorm
from ..layout import Layout
from ..plan import Data, Plan, no_data, prediction_plan, run_buffers, training_plan

Array = NDArray[Any]

TOLERANCES = {"float32": 1e-6, "float64": 2e-15}
"""Largest error of an element, divided by the sum of its own and the array's largest magnitude, where sums are short.

For longer sums it grows with the root of their length.
"""

OUTPUTS = {
    "shuffle": ("order",),
    "gather_rows": ("out",),
    "gather_csr_rows": ("out",),
    "gather_classes": ("out",),
    "linear_forward": ("a",),
    "batch_norm": ("normalized", "rstd", "mean", "variance", "a"),
    "normalize": ("a",),
    "activate": ("a", "saved"),
    "maxout": ("a",),
    "dropout": ("a", "saved"),
    "output_delta": ("delta", "returned"),
    "activation_delta": ("delta",),
    "maxout_delta": ("delta_z",),
    "batch_norm_delta": ("delta", "grad_gamma", "grad_beta"),
    "backprop_delta": ("delta_prev",),
    "linear_grad": ("grad_W", "grad_b", "returned"),
    "sgd_step": ("param",),
    "momentum_step": ("param", "velocity"),
    "nesterov_step": ("param", "velocity"),
    "adam_step": ("param", "m", "v"),
    "nadam_step": ("param", "m", "v"),
    "rmsprop_step": ("param", "v"),
    "adagrad_step": ("param", "v"),
    "linear_update": ("W", "b", "m_W", "m_b", "v_W", "v_b", "returned"),
    "clip_norm": ("grad", "returned"),
    "average_step": ("average",),
    "train_steps": ("params", "m", "v", "losses"),
    "predict": ("out",),
    "predict_rows": ("out",),
}
"""What each operation writes or returns."""


@dataclass(frozen=True)
class Options:
    """What an operation is checked on.

    Parameters
    ----------
    batch, inputs, outputs : int
        B, I, O. The plans of ``train_steps`` and ``predict`` have a hidden layer between, of I + O units.
    activation : str
        Of the layer; of the layer below for ``backprop_delta``; of the hidden layer in a plan. There ReLU's kink makes
        float32 and float64 part where units are many.
    loss : str
        Decides the output's activation.
    optimizer : str
    bias, weighted, sparse, classes : bool
        Whether there are biases, sample weights, CSR data, class numbers for targets.
    l2, decay : float
        Of the step.
    keep : float
        Of the step of ``linear_grad`` and ``batch_norm_delta``.
    clip : float
        Of the step.
    at_zero : float, optional
        The derivative at 0 of the activations that have a choice.
    keeps : bool
        Whether ``activate`` and ``dropout`` keep the derivative.
    batch_norm, maxout, drops : bool
        Whether a plan's hidden layer is normalised, is one of maxout units, and drops units, as the inputs do then.
    epsilon : float
        Of batch normalisation. Where it is small and samples are few, errors and their derivative all but cancel.
    pieces : int
        Of maxout units.
    probability : float
        That a unit is kept.
    seed : int
    """

    batch: int = 5
    inputs: int = 4
    outputs: int = 3
    activation: str = "tanh"
    loss: str = "squared_error"
    optimizer: str = "adam"
    bias: bool = True
    weighted: bool = False
    sparse: bool = False
    classes: bool = False
    l2: float = 0.01
    keep: float = 0.0
    decay: float = 0.0
    clip: float = 0.0
    at_zero: float | None = None
    keeps: bool = True
    batch_norm: bool = False
    maxout: bool = False
    drops: bool = False
    epsilon: float = 0.5
    pieces: int = 3
    probability: float = 0.7
    seed: int = 0

    @property
    def output(self) -> str:
        """The activation that goes with the loss."""
        outputs = {"cross_entropy": "softmax", "binary_cross_entropy": "logistic", "poisson": "exp"}
        return outputs.get(self.loss, "identity")

    def steps(self, number: int = 1) -> NDArray[np.void]:
        """Return step records with a value in every field but ``keep``."""
        values = {"rate": 0.02, "momentum": 0.9, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-3}
        scales = {"grad_scale": 1 / self.batch, "loss_scale": 0.5}
        more = {"grad_rate": 0.01, "average_decay": 0.8, "clip": self.clip}
        table = step_table(number, **values, **scales, **more, l2=self.l2, decay=self.decay)
        table["seed"], table["number"] = 2.0**40 + 2.0**20 + 7, 2.0**33 + 5 + np.arange(number)
        return table


class Draws:
    """Random arrays of a dtype, handed out in the dtype in which to compute with them."""

    def __init__(self, options: Options, dtype: Any, working: Any) -> None:
        self.options, self.dtype, self.working = options, dtype, working
        self.rng = np.random.RandomState(options.seed)

    def cast(self, array: Array) -> Array:
        return np.ascontiguousarray(array.astype(self.dtype).astype(self.working))

    def normal(self, *shape: int) -> Array:
        return self.cast(self.rng.standard_normal(shape))

    def positive(self, *shape: int) -> Array:
        return self.cast(self.rng.uniform(0.1, 2, shape))

    def bias(self, *shape: int) -> Array:
        """Return values for a bias, or for what goes with it, empty where there is none."""
        return self.normal(*shape) if self.options.bias else np.empty(0, self.working)

    def activations(self, name: str, *shape: int) -> Array:
        """Return outputs of an activation."""
        z = self.rng.standard_normal(shape)
        if name == "softmax":
            return self.cast(np.exp(z) / np.exp(z).sum(axis=1, keepdims=True))
        functions: dict[str, Callable[[Array], Array]] = {
            "relu": lambda z: np.maximum(z, 0),
            "logistic": lambda z: 1 / (1 + np.exp(-z)),
            "tanh": np.tanh,
            "exp": np.exp,
            "softplus": lambda z: np.log1p(np.exp(z)),
            "sign": np.sign,
        }
        return self.cast(functions[name](z) if name in functions else z)

    def z(self, *shape: int) -> Array:
        """Return pre-activations, some of them 0."""
        z = self.rng.standard_normal(shape) * 3
        z.flat[::7] = 0
        return self.cast(z)

    def targets(self, *shape: int) -> Array:
        """Return targets that go with the loss."""
        if self.options.loss == "cross_entropy":
            return self.cast(np.eye(shape[1])[self.rng.randint(shape[1], size=shape[0])])
        if self.options.loss == "binary_cross_entropy":
            return self.cast(self.rng.randint(2, size=shape).astype(float))
        if self.options.loss == "poisson":
            return self.cast(self.rng.poisson(1.5, shape).astype(float))
        return self.normal(*shape)

    def order(self, length: int, n: int) -> NDArray[np.int64]:
        return self.rng.randint(n, size=length).astype(np.int64)

    def csr(self, n: int, width: int) -> tuple[Array, NDArray[np.int32], NDArray[np.int64]]:
        """Return CSR rows, some of them empty, some with entries of one place twice."""
        lengths = self.rng.randint(0, width + 2, size=n)
        lengths[0] = 0
        indptr = np.r_[0, np.cumsum(lengths)].astype(np.int64)
        return self.normal(indptr[-1]), self.rng.randint(width, size=indptr[-1]).astype(np.int32), indptr

    def canonical_csr(self, n: int, width: int) -> tuple[Array, NDArray[np.int32], NDArray[np.int64]]:
        """Return CSR rows, some of them empty, one full, some entries 0: the indices ascend."""
        lengths = self.rng.randint(0, width + 1, size=n)
        lengths[0], lengths[-1] = 0, width
        indptr = np.r_[0, np.cumsum(lengths)].astype(np.int64)
        indices = [np.sort(self.rng.permutation(width)[:length]) for length in lengths]
        data = self.normal(indptr[-1])
        data[4::5] = 0
        return data, np.concatenate(indices, dtype=np.int32), indptr


class WrongResult(AssertionError):
    """An operation's result lies further from the reference than its tolerance."""


@dataclass(frozen=True)
class Difference:
    """Where two results of an operation differ most, of all that it writes and returns.

    Parameters
    ----------
    output : str
        The name of the array, or ``"returned"``.
    index : tuple of int
        The element.
    got, wanted : float
    ulp : float
        The difference in units of the last place of the array's largest element.
    share : float
        The same as a share of what is allowed.
    """

    output: str
    index: tuple[int, ...]
    got: float
    wanted: float
    ulp: float
    share: float


def largest_difference(got: dict[str, Array], wanted: dict[str, Array], dtype: Any, options: Options) -> Difference:
    """Return where two results differ most, as a share of what is allowed.

    Parameters
    ----------
    got, wanted : dict
        As from `run_operation`. What is not a number is not equal to anything.
    dtype : numpy.dtype
        That of the arguments: its epsilon counts.
    options : Options
        What the operation was run on.
    """
    allowed = TOLERANCES[dtype.name] * max(1.0, (options.batch + options.inputs + options.outputs) / 16) ** 0.5
    found = []
    for output, values in wanted.items():
        expected = np.atleast_1d(np.asarray(values, np.float64))
        error = np.abs(np.subtract(got[output], expected, dtype=np.float64))
        # a loss may be 0 but for the clipping of probabilities at the dtype's epsilon; an order of one is 0; and a sum
        # that stands alone may cancel, where an error is one of its terms, which are of order 1
        least = 1.0 if output in ("returned", "losses", "order") or expected.size == 1 else np.finfo(float).tiny
        largest = np.abs(expected).max(initial=least)
        share = error / (allowed * (np.abs(expected) + largest))
        if not error.size:
            continue
        index = np.unravel_index(np.argmax(share), share.shape)
        found_there, wanted_there = (float(np.atleast_1d(result[output])[index]) for result in (got, wanted))
        with np.errstate(invalid="ignore"):  # of infinity there is no last place
            ulp = float(error[index] / np.spacing(np.asarray(largest, dtype)))
        found.append(Difference(output, tuple(map(int, index)), found_there, wanted_there, ulp, float(share[index])))
    nothing = Difference("", (), 0.0, 0.0, 0.0, 0.0)
    return max(found, key=lambda each: np.inf if np.isnan(each.share) else each.share, default=nothing)


def difference_from_reference(backend: Backend, name: str, dtype: Any, options: Options = Options()) -> Difference:
    """Return where an operation, called by hand, is furthest from what the reference gives in float64.

    Parameters
    ----------
    backend : Backend
    name : str
        One of `fastbp.kernels.OPERATIONS`.
    dtype : {"float32", "float64"}
    options : Options
        Shapes and modes.
    """
    dtype = np.dtype(dtype)
    got = run_operation(backend, name, dtype, dtype, options)
    wanted = run_operation(kernels.backend("numpy"), name, dtype, np.dtype(np.float64), options)
    return largest_difference(got, wanted, dtype, options)


def check_operation(backend: Backend, name: str, dtype: Any, options: Options = Options()) -> float:
    """Return the largest error of an operation, as a share of what is allowed; parameters as above.

    Raises
    ------
    WrongResult
        If it is more than that, or not a number.
    """
    worst = difference_from_reference(backend, name, dtype, options)
    if not worst.share <= 1:
        raise WrongResult(
            f"{name} of {backend!r}: {worst.output} is off by {abs(worst.got - worst.wanted)} at {worst.index}, "
            f"{worst.share} x allowed"
        )
    return worst.share


def run_operation(backend: Backend, name: str, dtype: Any, working: Any, options: Options) -> dict[str, Array]:
    """Call an operation on numbers of ``dtype``, held in ``working``; return all that it writes and returns."""
    arguments = arguments_of(backend, name, dtype, working, options)
    returned = getattr(backend, name)(**arguments)
    written = {output: array.copy() for output, array in output_arrays(name, arguments).items()}
    return written if returned is None else {**written, "returned": np.asarray(returned)}


def arguments_of(backend: Backend, name: str, dtype: Any, working: Any, options: Options) -> dict[str, Any]:
    """Return the arguments of an operation, by name: numbers of ``dtype``, held in ``working``."""
    return _ARGUMENTS[name](Draws(options, dtype, working), options, backend)


def output_arrays(name: str, arguments: dict[str, Any]) -> dict[str, Array]:
    """Return the arrays that an operation writes, from its arguments by name."""
    buffers = arguments["buffers"]._asdict() if "buffers" in arguments else {}
    everything = {**buffers, **arguments}
    return {output: everything[output] for output in OUTPUTS[name] if output != "returned"}


def _shuffle(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    return {"u": draw.rng.uniform(size=options.batch), "order": draw.order(options.batch, options.batch)}


def _gather_rows(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    n = options.batch + 3
    return {
        "X": draw.normal(n, options.inputs),
        "order": draw.order(options.batch, n),
        "out": draw.normal(options.batch, options.inputs),
    }


def _gather_csr_rows(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    n = options.batch + 3
    data, indices, indptr = draw.csr(n, options.inputs)
    order, out = draw.order(options.batch, n), draw.normal(options.batch, options.inputs)
    return {"data": data, "indices": indices, "indptr": indptr, "order": order, "out": out}


def _gather_classes(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    n = options.batch + 3
    return {
        "classes": draw.order(n, options.outputs),
        "order": draw.order(options.batch, n),
        "out": draw.normal(options.batch, options.outputs),
    }


def _linear_forward(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    return {
        "a_prev": draw.normal(options.batch, options.inputs),
        "W": draw.cast(draw.normal(options.inputs, options.outputs) / options.inputs**0.5),
        "b": draw.bias(options.outputs),
        "activation": options.activation,
        "a": draw.normal(options.batch, options.outputs),
    }


def _activate(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    shape = options.batch, options.outputs
    return {
        "z": draw.z(*shape),
        "activation": _activations(options)[0].record(),
        "a": draw.normal(*shape),
        "saved": draw.normal(*shape) if options.keeps else np.empty((0, options.outputs), draw.working),
    }


def _batch_norm(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    shape = options.batch, options.outputs
    return {
        "z": draw.z(*shape),
        "gamma": draw.normal(shape[1]),
        "beta": draw.normal(shape[1]),
        "epsilon": options.epsilon,
        "momentum": 0.3,
        "activation": _activations(options)[0].record(),
        "normalized": draw.normal(*shape),
        "rstd": draw.normal(shape[1]),
        "mean": draw.normal(shape[1]),
        "variance": draw.positive(shape[1]),
        "a": draw.normal(*shape),
    }


def _normalize(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    arguments = _batch_norm(draw, options, backend)
    return {name: arguments[name] for name in arguments if name not in ("momentum", "normalized", "rstd")}


def _maxout(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    z = draw.z(options.batch, options.pieces * options.outputs)
    return {"z": z, "a": draw.normal(options.batch, options.outputs)}


def _dropout(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    shape = options.batch, options.outputs
    return {
        "a": draw.activations(options.activation, *shape),
        "activation": _activations(options)[0].record(),
        "probability": options.probability,
        "stream": 3,
        "step": options.steps(),
        "saved": draw.normal(*shape) if options.keeps else np.empty((0, options.outputs), draw.working),
    }


def _maxout_delta(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    z = draw.z(options.batch, options.pieces * options.outputs)
    return {"z": z, "delta": draw.normal(options.batch, options.outputs), "delta_z": draw.normal(*z.shape)}


def _batch_norm_delta(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    shape, step = (options.batch, options.outputs), options.steps()
    step["keep"] = options.keep
    z = draw.rng.standard_normal(shape)
    rstd = 1 / np.sqrt(z.var(axis=0) + options.epsilon)
    return {
        "normalized": draw.cast((z - z.mean(axis=0)) * rstd),
        "rstd": draw.cast(rstd),
        "gamma": draw.normal(shape[1]),
        "step": step,
        "delta": draw.normal(*shape),
        "grad_gamma": draw.normal(shape[1]),
        "grad_beta": draw.normal(shape[1]),
    }


def _activation_delta(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    shape = options.batch, options.outputs
    a = draw.activations(options.activation, *shape)
    return {"a": a, "activation": _activations(options)[0].record(), "delta": draw.normal(*shape)}


def _output_delta(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    shape = options.batch, options.outputs
    activation = options.activation if options.loss == "squared_error" else options.output
    return {
        "a": draw.activations(activation, *shape),
        "y": draw.targets(*shape),
        "sample_weight": draw.positive(options.batch if options.weighted else 0),
        "activation": activation,
        "loss": options.loss,
        "delta": draw.normal(*shape),
    }


def _backprop_delta(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    return {
        "delta": draw.normal(options.batch, options.outputs),
        "W": draw.normal(options.inputs, options.outputs),
        "a_prev": draw.activations(options.activation, options.batch, options.inputs),
        "activation": options.activation,
        "delta_prev": draw.normal(options.batch, options.inputs),
    }


def _linear_grad(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    step = options.steps()
    step["keep"] = options.keep
    return {
        "a_prev": draw.normal(options.batch, options.inputs),
        "delta": draw.normal(options.batch, options.outputs),
        "step": step,
        "W": draw.normal(options.inputs, options.outputs),
        "grad_W": draw.normal(options.inputs, options.outputs),
        "grad_b": draw.bias(options.outputs),
    }


def _optimizer_step(*moments: str) -> Callable[[Draws, Options, Backend], dict[str, Any]]:
    def arguments(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
        n = options.inputs * options.outputs
        state = {name: draw.positive(n) if name == "v" else draw.normal(n) for name in moments}
        return {"grad": draw.normal(n), "step": options.steps(), "param": draw.normal(n), **state}

    return arguments


def _clip_norm(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    grad, step = draw.normal(options.inputs * options.outputs), options.steps()
    step["max_norm"] = 0.7 * np.sqrt(np.square(grad).sum())
    return {"grad": grad, "step": step}


def _average_step(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    n = options.inputs * options.outputs
    return {"param": draw.normal(n), "step": options.steps(), "average": draw.normal(n)}


def _linear_update(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    shape = options.inputs, options.outputs
    return {
        "a_prev": draw.normal(options.batch, options.inputs),
        "delta": draw.normal(options.batch, options.outputs),
        "optimizer": options.optimizer,
        "step": options.steps(),
        "W": draw.normal(*shape),
        "b": draw.bias(options.outputs),
        "m_W": draw.normal(*shape),
        "m_b": draw.bias(options.outputs),
        "v_W": draw.positive(*shape),
        "v_b": np.abs(draw.bias(options.outputs)),
    }


def _train_steps(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    n_steps = 3
    n, length = options.batch + 3, n_steps * options.batch - options.batch // 2  # the last batch is ragged
    layout, activations = _layout(options), _activations(options)
    form = Data(options.sparse, options.classes, options.weighted)
    rule = Optimizer[options.optimizer.upper()]
    dropout = (1.0 if options.sparse else 0.8, options.probability) if options.drops else ()
    plan = training_plan(layout, activations, Loss[options.loss.upper()], rule, options.batch, form, dropout=dropout)
    data = _samples(draw, options, n)
    if options.classes:
        data |= {"classes": draw.order(n, options.outputs)}
    else:
        data |= {"y": draw.targets(n, options.outputs)}
    if options.weighted:
        data |= {"sample_weight": draw.positive(n, 1)}
    velocity = draw.cast(draw.normal(layout.size) / 100)  # so small that no probability comes near its clipping
    state = {"params": _parameters(draw, layout), "m": velocity, "v": draw.positive(layout.size)}
    return {
        "plan": plan.rows,
        "steps": options.steps(n_steps),
        "order": draw.order(length, n),
        "batch_size": options.batch,
        "buffers": _with_room_for_entries(run_buffers(plan, backend, data, state, 1), plan, backend, options),
        "losses": np.zeros(3),
    }


def _with_room_for_entries(buffers: Buffers, plan: Plan, backend: Backend, options: Options) -> Buffers:
    """Return buffers for batches in which a sample may come more than once."""
    n_entries = options.batch * options.inputs if options.sparse else 0
    size = backend.scratch_size(plan.rows, options.batch, 1, n_entries)
    return buffers._replace(scratch=np.empty(size, buffers.params.dtype))


def _predict(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    n, length = options.batch + 3, 2 * options.batch + 1
    layout = _layout(options)
    plan = prediction_plan(layout, _activations(options), options.batch, Data(sparse=options.sparse))
    buffers = run_buffers(plan, backend, _samples(draw, options, n), {"params": _parameters(draw, layout)}, 1)
    return {
        "plan": plan.rows,
        "order": draw.order(length, n),
        "batch_size": options.batch,
        "buffers": _with_room_for_entries(buffers, plan, backend, options),
        "out": draw.normal(length, options.outputs),
    }


def _predict_rows(draw: Draws, options: Options, backend: Backend) -> dict[str, Any]:
    n, layout = min(options.batch, 3), _layout(options)
    return {
        "layers": layout.table(_activations(options)),
        "X": draw.normal(n * options.inputs),
        "params": _parameters(draw, layout),
        "out": draw.normal(n * options.outputs),
    }


def _layout(options: Options) -> Layout:
    sizes, pieces = (options.inputs, options.inputs + options.outputs, options.outputs), options.pieces
    norms = (BatchNorm(options.epsilon, 0.3), None) if options.batch_norm else ()
    return Layout(sizes, options.bias, (pieces, 1) if options.maxout else (), norms)


def _activations(options: Options) -> tuple[ActivationFunction, ActivationFunction]:
    hidden, output = (Activation[name.upper()] for name in (options.activation, options.output))
    return activation_function(hidden, at_zero=options.at_zero), activation_function(output)


def _parameters(draw: Draws, layout: Layout) -> Array:
    params = np.empty(layout.total_size, draw.working)
    params[: layout.size] = draw.normal(layout.size) / max(layout.layer_sizes) ** 0.5
    for mean, variance in zip(layout.means(params), layout.variances(params), strict=True):
        mean[:], variance[:] = draw.normal(len(mean)), draw.positive(len(variance))
    return draw.cast(params)


def _samples(draw: Draws, options: Options, n: int) -> dict[str, Array]:
    """Return a run's data buffers with n samples, dense or CSR."""
    data = no_data(draw.working, options.inputs, options.outputs)
    if options.sparse:
        return {
            **data,
            **dict(zip(("X_data", "X_indices", "X_indptr"), draw.canonical_csr(n, options.inputs), strict=True)),
        }
    return {**data, "X": draw.normal(n, options.inputs)}


_ARGUMENTS: dict[str, Callable[[Draws, Options, Backend], dict[str, Any]]] = {
    "shuffle": _shuffle,
    "gather_rows": _gather_rows,
    "gather_csr_rows": _gather_csr_rows,
    "gather_classes": _gather_classes,
    "linear_forward": _linear_forward,
    "batch_norm": _batch_norm,
    "normalize": _normalize,
    "activate": _activate,
    "maxout": _maxout,
    "dropout": _dropout,
    "output_delta": _output_delta,
    "activation_delta": _activation_delta,
    "maxout_delta": _maxout_delta,
    "batch_norm_delta": _batch_norm_delta,
    "backprop_delta": _backprop_delta,
    "linear_grad": _linear_grad,
    "sgd_step": _optimizer_step(),
    "momentum_step": _optimizer_step("velocity"),
    "nesterov_step": _optimizer_step("velocity"),
    "adam_step": _optimizer_step("m", "v"),
    "nadam_step": _optimizer_step("m", "v"),
    "rmsprop_step": _optimizer_step("v"),
    "adagrad_step": _optimizer_step("v"),
    "linear_update": _linear_update,
    "clip_norm": _clip_norm,
    "average_step": _average_step,
    "train_steps": _train_steps,
    "predict": _predict,
    "predict_rows": _predict_rows,
}
