"""Samples as they come, one after the other: what a step on them needs is prepared once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kernels import step_table
from .run import NonFinite, Run


def as_step(x: Any, y: Any) -> tuple[Any, Any]:
    """Return one sample and its target as a batch of one; a batch as it is.

    Raises
    ------
    ValueError
        If x is neither a vector nor a matrix.
    """
    if hasattr(x, "tocsr"):
        raise ValueError("x is a sparse matrix; pass x.toarray(), or the samples to fit")
    if not (type(x) is np.ndarray and x.dtype.kind == "f"):
        x = np.asarray(x)
    if x.ndim not in (1, 2):
        raise ValueError(f"x has shape {x.shape}; pass one sample of shape (I,), or a few of shape (n, I)")
    return (x[None], np.asarray(y)[None]) if x.ndim == 1 else (x, y)


class Stream:
    """A run of one step whose samples are replaced before it is done again.

    Parameters
    ----------
    run : Run
        Its buffers of samples and targets, arrays of its own, have the length of a batch. The kernels look whether
        samples are finite.
    n_classes : int
        What class numbers are below; 0 where targets are numbers.
    """

    def __init__(self, run: Run, n_classes: int) -> None:
        self.run, self.n_classes = run, n_classes
        self.order = np.arange(len(run.buffers.X), dtype=np.int64)
        self.table = step_table(grad_scale=1 / len(self.order))

    def fits(self, workspace: dict[str, NDArray[Any]]) -> bool:
        """Tell whether a workspace is still the one that this stream works in."""
        return workspace.get("scratch") is self.run.buffers.scratch

    def takes(self, x: Any, y: Any) -> bool:
        """Put one sample and its class in place, if they need no closer look."""
        X = self.run.buffers.X
        is_ready = type(x) is np.ndarray and x.dtype == X.dtype and x.shape == X.shape[1:] and len(X) == 1
        if not is_ready or not isinstance(y, int | np.integer) or not 0 <= y < self.n_classes:
            return False
        X[0], self.run.buffers.classes[0] = x, y
        return True

    def put(self, data: dict[str, NDArray[Any]]) -> bool:
        """Put samples and targets in place, if they have the shapes of this stream's."""
        buffers = self.run.buffers._asdict()
        if any(data[name].shape != buffers[name].shape for name in ("X", "y", "classes")):
            return False
        for name in ("X", "y", "classes"):
            buffers[name][...] = data[name]
        return True

    def step(self, values: Mapping[str, Any], moments: bool) -> float:
        """Do a step and return its mean loss; leave the moments in the workspace unless they are asked for.

        Raises
        ------
        NonFinite
            Before a step on samples that are not finite.
        """
        run, rows, buffers = self.run, self.run.plan.rows, self.run.buffers
        for name, value in values.items():
            self.table[name] = value
        run.losses[:] = 0
        module, has_any = run.backend.module, bool(buffers.m.size)
        module.pack(rows, buffers, not run.has_moments)
        try:
            module.train_steps(rows, self.table, self.order, len(self.order), buffers, run.losses, 1)
        finally:
            module.unpack(rows, buffers, True, moments and has_any)
            run.has_moments = has_any and not moments
        if not run.n_done:
            raise NonFinite("x contains NaN or infinity; leave this sample out")
        return float(run.losses[0] + run.losses[1]) / len(self.order)
