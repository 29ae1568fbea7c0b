"""The loops behind scikit-learn's solvers, over the kernels: epochs of sgd and adam, loss and gradient for L-BFGS.

`fastbp.estimators` holds what users see; here stands what runs, with scikit-learn's optimisers as the keepers of the
hyper-parameters and moments.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network._base import LOSS_FUNCTIONS
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
from threadpoolctl import threadpool_limits

from .data import as_features, is_sparse, n_samples
from .fitted import arrays_of, by_name, layout_of
from .kernels import Buffers, Loss, step_table
from .layers import as_dropout
from .layout import Layout
from .optimizers import SGD, Adam, Optimizer
from .pace import Pace
from .plan import Data, aligned_empty, gradient_plan, run_buffers, training_plan
from .run import NonFinite, Run, StepRecords, batch_scales
from .threads import available_threads, threads_for

log = logging.getLogger("fastbp")

GRADIENT_BATCH = 1024
"""Samples that go through the network together for L-BFGS's loss and gradient, which add up over such blocks."""


class Epochs:
    """Epochs of an estimator's stochastic solver over the kernels."""

    def __init__(self, estimator: Any, X: Any, y: Any, sample_weight: Any) -> None:
        self.estimator, self.layout = estimator, layout_of(estimator)
        layout = self.layout
        self.parameters = arrays_of(estimator, layout)
        for name in by_name(layout, self.parameters):
            setattr(estimator, name, _as_list(getattr(estimator, name)))
        dtype = kernel_dtype(X, self.parameters)
        self.is_checked = not estimator._checks_while_fitting(X)
        data = as_features(X, dtype, layout.layer_sizes[0], check=False)
        self.n_samples = n = n_samples(data)
        _warn_if_clipped(estimator.batch_size, n)
        self.batch_size = batch_size_for(estimator.batch_size, n)
        self.order = np.arange(n, dtype=int)
        data.update(_targets(y, dtype, layout.layer_sizes[-1], estimator.out_activation_))
        self.weights = None if sample_weight is None else np.asarray(sample_weight, np.float64)
        data["sample_weight"] = _weight_column(sample_weight, dtype)
        length = n if estimator.batch_size == "auto" else np.int64(self.batch_size)  # as NumPy's clip returns it
        self.loss_type = type(loss_of_one(estimator, y, sample_weight, dtype) * length)
        self.flat = as_flat(self.parameters, dtype)
        self.moments = _moments(estimator._optimizer, layout.parameters(self.flat), dtype)
        self.rule = _as_rule(estimator._optimizer)
        self.dropout = as_dropout(estimator.dropout, layout.n_layers - 1)
        self.run_, self.records = self._make_run(data), StepRecords()
        self.random_state = None if self.is_checked else estimator._random_state.get_state(legacy=False)
        if any(p < 1 for p in self.dropout) and not hasattr(estimator, "_dropout_state"):
            estimator._dropout_state = int(estimator._random_state.randint(2**53, dtype=np.int64)), 0

    def _make_run(self, data: dict[str, NDArray[Any]]) -> Run:
        estimator, layout = self.estimator, self.layout
        backend = estimator._kernels()
        form = Data(is_sparse(data), bool(data["classes"].size), bool(data["sample_weight"].size), self.is_checked)
        codes = estimator._activations(layout, self.flat.dtype), estimator._loss_code()
        plan = training_plan(layout, *codes, self.rule.rule, self.batch_size, form, dropout=self.dropout)
        state = {"params": self.flat, **self.moments}
        n_threads = threads_for(estimator.n_threads, plan.flops)
        buffers = run_buffers(plan, backend, data, state, n_threads, _take_workspace())
        log.info(
            "%s.fit runs on backend %s: %d samples in batches of %d",
            type(estimator).__name__,
            backend.name,
            self.n_samples,
            self.batch_size,
        )
        return Run(backend, plan, buffers, Pace(plan, n_threads))

    def run(self) -> Any:
        """Run one epoch and return its loss."""
        estimator = self.estimator
        if estimator.shuffle:
            self.order = _shuffled(self.order, estimator._random_state)
        weights = None if self.weights is None else self.weights[self.order]
        n_steps = -(-self.n_samples // self.batch_size)
        t = getattr(estimator._optimizer, "t", 0)
        scales = batch_scales(self.n_samples, self.batch_size, weights)
        seed, first = getattr(estimator, "_dropout_state", (0, 0))
        masks = {"seed": seed, "number": first + np.arange(n_steps)} if hasattr(estimator, "_dropout_state") else {}
        table = self.records.of(n_steps, scales, {"l2": estimator.alpha}, self._rates(t, n_steps), masks)
        try:
            self.run_.steps(self.order, table)
        except NonFinite:
            self.run_.discard()
            self.run_.losses[:] = 0
            estimator._random_state.set_state(self.random_state)
            raise
        finally:
            done = self.run_.n_done
            if hasattr(estimator, "_dropout_state"):
                estimator._dropout_state = seed, first + done
            if isinstance(estimator._optimizer, AdamOptimizer) and done:
                estimator._optimizer.t = t + done
                estimator._optimizer.learning_rate = table["rate"][done - 1]
        data_loss, penalty, _ = self.run_.losses.tolist()
        if estimator.loss == "squared_error":  # scikit-learn's loss is the mean over the outputs, its gradient the sum
            data_loss /= self.layout.layer_sizes[-1]
        return self.loss_type((data_loss + penalty) / self.n_samples)

    def _rates(self, t: int, n_steps: int) -> dict[str, Any]:
        """Return the optimiser's fields of the step records, at the learning rate of this epoch."""
        optimizer = self.estimator._optimizer
        if isinstance(optimizer, SGDOptimizer):
            return {"rate": optimizer.learning_rate, "momentum": optimizer.momentum}
        return self.rule.step_values(t, n_steps)

    def end(self) -> None:
        """Write parameters and moments back, and leave the workspace to the next fit."""
        self.store()
        _keep_workspace(self.run_.buffers)

    def store(self) -> None:
        """Write parameters and moments back to where the estimator keeps them."""
        self.run_.sync()
        layout = self.layout
        learned = [*layout.parameters(self.flat), *layout.running(self.flat)]
        moments = [(layout.parameters(flat), arrays) for flat, arrays in self._moment_arrays()]
        for views, arrays in ((learned, self.parameters), *moments):
            for position, (array, view) in enumerate(zip(arrays, views, strict=True)):
                if np.may_share_memory(array, view):
                    continue
                if array.flags.writeable:
                    np.copyto(array, view, casting="same_kind")
                else:  # memory-mapped: the estimator gets an array of its own
                    arrays[position] = view.astype(array.dtype)
        for name, arrays in by_name(layout, self.parameters).items():
            getattr(self.estimator, name)[:] = arrays

    def _moment_arrays(self) -> list[tuple[NDArray[Any], list[NDArray[Any]]]]:
        optimizer = self.estimator._optimizer
        return [(self.moments[name], getattr(optimizer, kept)) for name, kept in _moment_names(optimizer).items()]


class LossAndGradient:
    """Loss and gradient over all samples, block by block, for L-BFGS.

    SciPy 1.17 rounds the points to the dtype of the first one, which is X's; before, they were float64. The numbers are
    computed in the dtype of X and point together, as NumPy would.
    """

    def __init__(self, estimator: Any, layout: Layout, X: Any, y: Any, sample_weight: Any) -> None:
        self.estimator, self.layout = estimator, layout
        self.samples = X, y, sample_weight
        self.n_available = available_threads()  # asked before the BLAS is held to one
        self.n_averaged = layout.layer_sizes[-1] if estimator.loss == "squared_error" else 1
        self.dtype: np.dtype[Any] = np.dtype(np.void)  # until the first point

    def __call__(self, packed: NDArray[Any]) -> tuple[np.float64, NDArray[Any]]:
        dtype = kernel_dtype(self.samples[0], [packed])
        if dtype != self.dtype:
            self._prepare(dtype)
        self.params[...] = packed
        self.run.steps(self.order, self.table)
        self.run.sync()
        data_loss, penalty, _ = self.run.losses.tolist()
        return np.float64(data_loss / self.n_averaged + penalty), self.grads.copy()

    def _prepare(self, dtype: np.dtype[Any]) -> None:
        """Make the buffers and the steps for points of a dtype: one step for each block of samples."""
        estimator, layout, (X, y, sample_weight) = self.estimator, self.layout, self.samples
        self.dtype = dtype
        data = as_features(X, dtype, layout.layer_sizes[0], check=False)
        n = n_samples(data)
        data.update(_targets(y, dtype, layout.layer_sizes[-1], estimator.out_activation_))
        data["sample_weight"] = _weight_column(sample_weight, dtype)
        backend = estimator._kernels()
        self.params, self.grads = aligned_empty(layout.size, dtype), aligned_empty(layout.size, dtype)
        form = Data(is_sparse(data), bool(data["classes"].size), sample_weight is not None)
        codes = estimator._activations(layout, dtype), estimator._loss_code()
        plan = gradient_plan(layout, *codes, min(n, GRADIENT_BATCH), form)
        n_threads = threads_for(estimator.n_threads, plan.flops, self.n_available)
        buffers = run_buffers(plan, backend, data, {"params": self.params, "grads": self.grads}, n_threads)
        self.run = Run(backend, plan, buffers, Pace(plan, n_threads))
        self.order = np.arange(n, dtype=np.int64)
        scale = batch_scales(n, n, sample_weight)["grad_scale"]
        n_blocks = -(-n // plan.batch_size)
        first = np.arange(n_blocks) == 0  # the first block overwrites the gradient and takes the penalty
        values = {"grad_scale": scale, "loss_scale": scale, "keep": ~first, "l2": estimator.alpha * first}
        self.table = step_table(n_blocks, **values)


class _ProcessLimit:
    """One BLAS thread in the whole process while any thread is inside.

    Limits of threads that overlap would outlast each other, and threadpoolctl listens to one thread at a time: so a
    thread of our own sets the limit for all, and lifts it when the last one leaves.
    """

    def __init__(self) -> None:
        self.lock, self.n_inside = threading.Lock(), 0
        if hasattr(os, "register_at_fork"):
            hooks = {"after_in_parent": self.lock.release, "after_in_child": self._forget}
            os.register_at_fork(before=self.lock.acquire, **hooks)

    def __enter__(self) -> None:
        with self.lock:
            if self.n_inside == 0:
                self.is_set, self.may_end = threading.Event(), threading.Event()
                self.keeper = threading.Thread(target=self._keep, name="fastbp-one-blas-thread", daemon=True)
                self.keeper.start()
                self.is_set.wait()
            self.n_inside += 1

    def __exit__(self, *error: object) -> None:
        with self.lock:
            if self.n_inside == 1:
                self.may_end.set()
                self.keeper.join()
            self.n_inside = max(0, self.n_inside - 1)  # 0 already in a child forked by a thread inside

    def _keep(self) -> None:
        self.limits = threadpool_limits(1, user_api="blas")
        with self.limits:
            self.is_set.set()
            self.may_end.wait()

    def _forget(self) -> None:
        """Lift the limit in a forked child: those who were inside stayed in the parent, and so did the keeper."""
        if self.n_inside:
            self.n_inside = 0
            with self.limits:
                pass
        self.lock.release()


_process_limit = _ProcessLimit()


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let a BLAS use one thread: some keep that setting for the process, some for each thread."""
    with _process_limit, threadpool_limits(1, user_api="blas"):
        yield


def kernel_dtype(X: Any, parameters: list[NDArray[Any]]) -> np.dtype[Any]:
    """Return the dtype in which NumPy would compute with X and these parameters: float32 or float64."""
    found = np.result_type(X.dtype, *(array.dtype for array in parameters))
    return np.dtype(np.float32 if found in (np.float16, np.float32) else np.float64)


def zeros_like_flat(arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return zeros like some arrays of one dtype, side by side in one buffer."""
    flat = aligned_empty(sum(array.size for array in arrays), arrays[0].dtype)
    flat[:] = 0
    ends = np.cumsum([array.size for array in arrays]).tolist()
    return [flat[end - array.size : end].reshape(array.shape) for end, array in zip(ends, arrays, strict=True)]


def as_flat(arrays: list[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return arrays as one flat buffer: without a copy where they lie side by side in one already."""
    base = arrays[0].base
    if isinstance(base, np.ndarray) and base.ndim == 1 and base.flags.c_contiguous:
        start = end = _address(arrays[0])
        for array in arrays:
            fits = array.base is base and array.dtype == dtype and array.flags.carray
            if not (fits and _address(array) == end):
                break
            end += array.nbytes
        else:
            first = start - _address(base)
            return base.view(np.uint8)[first : first + end - start].view(dtype)
    flat = aligned_empty(sum(array.size for array in arrays), dtype)
    np.concatenate([array.ravel() for array in arrays], out=flat, casting="same_kind")
    return flat


def _as_list(arrays: Any) -> list[NDArray[Any]]:
    """Return the list itself: after early stopping it is that of the best parameters, too."""
    return arrays if isinstance(arrays, list) else list(arrays)


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _moment_names(optimizer: AdamOptimizer | SGDOptimizer) -> dict[str, str]:
    """Return which of the kernels' moments is which attribute of scikit-learn's optimiser."""
    if isinstance(optimizer, AdamOptimizer):
        return {"m": "ms", "v": "vs"}
    return {"m": "velocities"} if optimizer.momentum else {}


def _moments(
    optimizer: AdamOptimizer | SGDOptimizer, parameters: list[NDArray[Any]], dtype: np.dtype[Any]
) -> dict[str, NDArray[Any]]:
    """Return the kernels' moments, flat, if they belong to these parameters."""
    moments = {name: getattr(optimizer, kept) for name, kept in _moment_names(optimizer).items()}
    wanted = [array.shape for array in parameters]
    for arrays in moments.values():
        if [array.shape for array in arrays] != wanted:
            raise ValueError(
                f"coefs_ and intercepts_ have shapes {wanted}, but the optimizer began with others; "
                "call fit instead of partial_fit to begin anew"
            )
    return {name: as_flat(arrays, dtype) for name, arrays in moments.items()}


def _as_rule(optimizer: AdamOptimizer | SGDOptimizer) -> Optimizer:
    """Return fastbp's optimiser with the hyper-parameters of scikit-learn's."""
    if isinstance(optimizer, AdamOptimizer):
        betas = optimizer.beta_1, optimizer.beta_2
        return Adam(optimizer.learning_rate_init, *betas, optimizer.epsilon)
    return SGD(optimizer.learning_rate_init, optimizer.momentum, optimizer.nesterov)


def _targets(y: Any, dtype: np.dtype[Any], n_outputs: int, output: str) -> dict[str, NDArray[Any]]:
    """Return validated targets as a run's buffers: class numbers for exclusive classes, else a matrix.

    One column beside several outputs, as a warm start may bring it, stands for all of them: scikit-learn's difference
    of outputs and targets broadcasts.
    """
    if y.dtype.kind not in "biuf":
        raise TypeError(f"y has dtype {y.dtype}; pass numbers")
    if y.shape[1] not in (1, n_outputs):
        raise ValueError(f"y has {y.shape[1]} columns but the network has {n_outputs} outputs; pass as many columns")
    y = np.broadcast_to(y, (len(y), n_outputs))
    classes = _class_numbers(y) if output == "softmax" and y.dtype == bool else None
    if classes is not None:
        return {"y": np.empty((0, n_outputs), dtype), "classes": classes}
    return {"y": np.ascontiguousarray(y, dtype=dtype), "classes": np.empty(0, np.int64)}


def _class_numbers(y: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """Return where the one true value of each row stands, or None where a row has none or several."""
    n, n_outputs = y.shape
    places = np.flatnonzero(y)
    if len(places) != n:
        return None
    classes = places - n_outputs * np.arange(n)
    return classes if classes.min() >= 0 and classes.max() < n_outputs else None


def _weight_column(sample_weight: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    if sample_weight is None:
        return np.empty((0, 1), dtype)
    return np.ascontiguousarray(sample_weight, dtype=dtype).reshape(-1, 1)


def loss_of_one(estimator: Any, y: NDArray[Any], sample_weight: NDArray[Any] | None, dtype: np.dtype[Any]) -> Any:
    """Return scikit-learn's loss of one sample, outputs of ``dtype``: for the type of the losses that it reports."""
    name = "binary_log_loss" if estimator._loss_code() == Loss.BINARY_CROSS_ENTROPY else estimator.loss
    return _loss_of_one(name, y.shape[1], y.dtype, None if sample_weight is None else sample_weight.dtype, dtype)


@functools.lru_cache(maxsize=64)
def _loss_of_one(name: str, n_outputs: int, y_dtype: Any, weight_dtype: Any, dtype: Any) -> Any:
    weight = None if weight_dtype is None else np.ones(1, weight_dtype)
    return LOSS_FUNCTIONS[name](np.zeros((1, n_outputs), y_dtype), np.full((1, n_outputs), 0.5, dtype), weight)


def _shuffled(order: NDArray[Any], random_state: np.random.RandomState) -> NDArray[Any]:
    """Return what `sklearn.utils.shuffle` does, which takes longer to look at its arguments than a small epoch."""
    indices = np.arange(len(order))
    random_state.shuffle(indices)
    return order[indices]


MOST_SPARE_BYTES = 2**26
_spare_workspaces: list[dict[str, NDArray[Any]]] = []
"""What the last fit worked in, unless it was large: new memory costs a small fit more than its steps."""


def _take_workspace() -> dict[str, NDArray[Any]]:
    """Return the spare workspace, if no other thread's fit has it."""
    try:
        return _spare_workspaces.pop()
    except IndexError:
        return {}


def _keep_workspace(buffers: Buffers) -> None:
    if buffers.work.nbytes + buffers.scratch.nbytes <= MOST_SPARE_BYTES:
        _spare_workspaces[:] = [{"work": buffers.work, "scratch": buffers.scratch}]


def batch_size_for(batch_size: int | str, n: int) -> int:
    """Return the size of the mini-batches, clipped to the number of samples."""
    return min(200 if batch_size == "auto" else int(batch_size), n)


def _warn_if_clipped(batch_size: int | str, n: int) -> None:
    """Warn in scikit-learn's words where there are too few samples for a mini-batch."""
    if batch_size != "auto" and int(batch_size) > n:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
        )
