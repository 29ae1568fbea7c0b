"""Runs through a backend, for network, trainer and estimators alike: mini-batches with their cuts, prediction."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .data import is_sparse, n_samples
from .kernels import ActivationFunction, Backend, Buffers, step_table
from .layout import Layout
from .pace import Pace
from .plan import Data, Plan, no_data, prediction_plan, run_buffers
from .threads import threads_for

PIECE_ROWS = 2048
"""A call of a backend's prediction has so many rows at least: for each the weights are packed again, which is work for
a hundred."""

FEW_ROWS = 8
"""So many rows are predicted one by one: packing the weights would take longer."""

FLOPS_WORTH_STARTING = 1e8
"""Work of a prediction that is worth starting threads for."""


class NonFinite(ValueError):
    """Samples that a kernel came upon are not finite."""


class Run:
    """A plan bound to a backend and to the buffers of one fit.

    Parameters
    ----------
    backend : Backend
    plan : Plan
    buffers : Buffers
    pace : Pace, optional
        With the most threads to take; it may come from an earlier run of the same plan.

    Attributes
    ----------
    losses : ndarray of shape (3,)
        Of the last call of `steps`: the samples' losses, the L2 penalty, the number of steps done.
    has_moments : bool
        Whether the workspace holds the moments, newer than where their owner looks for them.
    """

    def __init__(self, backend: Backend, plan: Plan, buffers: Buffers, pace: Pace | None = None) -> None:
        self.backend, self.plan, self.buffers, self.pace = backend, plan, buffers, pace or Pace(plan)
        self.losses = np.zeros(3)
        self.has_moments = self._packed = self._has_samples = False

    def steps(
        self,
        order: NDArray[np.int64],
        table: NDArray[np.void],
        on_cut: Callable[[int], Any] | None = None,
        steps_to_cut: Callable[[int], int] | None = None,
    ) -> None:
        """Run the steps of a table on the samples of ``order``, cut into pieces.

        Parameters and moments are up to date again after `sync`.

        Parameters
        ----------
        order : ndarray of shape (k,), dtype int64
        table : ndarray of dtype `fastbp.kernels.STEP`
            One record for each mini-batch.
        on_cut : callable, optional
            Called after every piece with the number of steps done; a true result ends the run.
        steps_to_cut : callable, optional
            From the number of steps done, how many may follow until a cut is wanted.

        Raises
        ------
        NonFinite
            Before a step whose samples are not finite.
        """
        batch_size, done = self.plan.batch_size, 0
        self.losses[:] = 0
        while done < len(table):
            if not self._packed:
                self.backend.module.pack(self.plan.rows, self.buffers, not self.has_moments, not self._has_samples)
                self.has_moments, self._packed, self._has_samples = bool(self.buffers.m.size), True, True
            count, n_threads = self.pace.next()
            count = min(count, len(table) - done)
            if steps_to_cut is not None:
                count = min(count, steps_to_cut(done))
            samples = order[done * batch_size : (done + count) * batch_size]
            start = time.perf_counter()
            piece = self.plan.rows, table[done : done + count], samples, batch_size
            self.backend.module.train_steps(*piece, self.buffers, self.losses, n_threads)
            self.pace.observe(count, n_threads, time.perf_counter() - start)
            done += count
            if self.n_done < done:
                raise NonFinite(f"X contains NaN or infinity among the samples of step {self.n_done}")
            if on_cut is not None and on_cut(done):
                return

    def sync(self, moments: bool = True) -> None:
        """Write parameters and moments, or the gradient, to where their owner reads and may change them.

        Parameters
        ----------
        moments : bool
            False leaves the moments in the workspace, for a `resume` there.
        """
        moments = moments and self.has_moments
        if self._packed or moments:
            self.backend.module.unpack(self.plan.rows, self.buffers, self._packed, moments)
            self._packed, self.has_moments = False, self.has_moments and not moments

    def discard(self) -> None:
        """Forget what the steps did to parameters and moments; for backends that work on copies."""
        self.has_moments = self._packed = False

    def without_data(self) -> Run:
        """Return a run that can be synced, and holds on to no samples."""
        layout = self.buffers.X.shape[1], self.buffers.y.shape[1]
        rest = Run(self.backend, self.plan, self.buffers._replace(**no_data(self.buffers.params.dtype, *layout)))
        rest.has_moments = self.has_moments
        return rest

    @property
    def n_done(self) -> int:
        """Steps done by the last call of `steps`, counted in the kernel: right after an interruption, too."""
        return int(self.losses[2])


class RowForward:
    """The forward pass of few rows: nothing is packed, and Python does little.

    Parameters
    ----------
    backend : Backend
    layout : Layout
    activations : tuple of ActivationFunction
    """

    def __init__(self, backend: Backend, layout: Layout, activations: tuple[ActivationFunction, ...]) -> None:
        self.backend, self.layers = backend, layout.table(activations)
        self.kernel = backend.module.predict_rows
        self.scratch_size = backend.module.rows_scratch_size(self.layers)

    def __call__(self, X: NDArray[Any], params: NDArray[Any], out: NDArray[Any]) -> None:
        """Write the outputs for X to ``out``: flat arrays of one dtype, samples one behind the other."""
        self.kernel(self.layers, X, params, np.empty(self.scratch_size, params.dtype), out)


def forward(
    backend: Backend,
    layout: Layout,
    activations: tuple[ActivationFunction, ...],
    params: NDArray[Any],
    data: dict[str, NDArray[Any]],
    n_threads: int | None = None,
) -> NDArray[Any]:
    """Return the network's outputs for all samples.

    Parameters
    ----------
    backend : Backend
    layout : Layout
    activations : tuple of ActivationFunction
        One for each layer.
    params : ndarray
        All parameters, in the layout.
    data : dict
        As from `fastbp.data.as_features`.
    n_threads : int

    Returns
    -------
    ndarray of shape (n, O)
    """
    n, n_inputs, n_outputs = n_samples(data), layout.layer_sizes[0], layout.layer_sizes[-1]
    if n <= FEW_ROWS and not is_sparse(data) and not kernels.is_on_device(data["X"]):
        out = np.empty((n, n_outputs), params.dtype)
        RowForward(backend, layout, activations)(data["X"].reshape(-1), params, out.reshape(-1))
        return out
    batch_size = min(backend.module.PREDICTED_ROWS, 1 << (n - 1).bit_length())  # few sizes: their plans are kept
    plan = prediction_plan(layout, activations, batch_size, Data(sparse=is_sparse(data)))
    data = {**no_data(params.dtype, n_inputs, n_outputs), **data}
    n_threads = threads_for(n_threads, plan.flops) if plan.flops * n >= FLOPS_WORTH_STARTING * batch_size else 1
    buffers = run_buffers(plan, backend, data, {"params": params}, n_threads)
    out = np.empty((n, n_outputs), params.dtype)
    n_batches = min(n // batch_size + 1, backend.module.PREDICTED_FLOPS / plan.flops)
    piece = max(PIECE_ROWS, int(n_batches) * batch_size)
    for start in range(0, n, piece):
        rows = np.arange(start, min(start + piece, n), dtype=np.int64)
        backend.module.predict(plan.rows, rows, batch_size, buffers, out[start : start + piece], n_threads)
    return out


def batch_scales(
    n_samples: int, batch_size: int, weights: NDArray[Any] | None = None, reduction: str = "mean"
) -> dict[str, NDArray[np.float64] | float]:
    """Return ``grad_scale`` and ``loss_scale`` for each mini-batch of an epoch.

    Parameters
    ----------
    n_samples, batch_size : int
    weights : ndarray of shape (n_samples,), optional
        Sample weights in the epoch's order.
    reduction : {"mean", "sum"}
        Mean: each batch divides by its own weight sum, while the epoch's loss weights batches by their length, as in
        scikit-learn. Sum: nothing is divided (Cheng's batch gradient descent).

    Raises
    ------
    ZeroDivisionError
        If the weights of a mini-batch sum to 0.
    """
    if reduction == "sum":
        return {"grad_scale": 1.0, "loss_scale": 1.0}
    if weights is None:
        return {"grad_scale": _equal_scales(n_samples, batch_size), "loss_scale": 1.0}
    lengths = _lengths(n_samples, batch_size)
    sums = np.add.reduceat(weights, np.arange(0, n_samples, batch_size), dtype=np.float64)
    if (sums == 0).any():
        raise ZeroDivisionError("Weights sum to zero, can't be normalized")
    return {"grad_scale": 1 / sums, "loss_scale": lengths / sums}


@functools.lru_cache(maxsize=4)
def _equal_scales(n_samples: int, batch_size: int) -> NDArray[np.float64]:
    """Return 1 / length for each mini-batch: the same array for each epoch, which `StepRecords` then writes once."""
    scales = 1 / _lengths(n_samples, batch_size)
    scales.flags.writeable = False
    return scales


def _lengths(n_samples: int, batch_size: int) -> NDArray[np.float64]:
    n_batches = -(-n_samples // batch_size)
    lengths = np.full(n_batches, float(batch_size))
    lengths[-1] = n_samples - (n_batches - 1) * batch_size
    return lengths


class StepRecords:
    """The records of an epoch's steps, of which each epoch writes what differs from the one before.

    To write all of them takes a twentieth of the time that steps on single samples take. They are kept until the next
    epoch, 128 bytes a step.
    """

    def __init__(self) -> None:
        self._table = step_table(0)
        self._written: dict[str, Any] = {}

    def of(self, n_steps: int, *values: dict[str, Any]) -> NDArray[np.void]:
        """Return the records for several dicts of fields, until the next call; an array must not change meanwhile."""
        merged = {name: value for fields in values for name, value in fields.items()}
        if len(self._table) != n_steps or self._written.keys() != merged.keys():
            self._table, self._written = step_table(n_steps), dict.fromkeys(merged)
        for name, value in merged.items():
            written = self._written[name]
            is_array = isinstance(value, np.ndarray) or isinstance(written, np.ndarray)
            if written is not value and (is_array or written != value):
                self._table[name] = self._written[name] = value
        return self._table
