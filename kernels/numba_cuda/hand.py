"""Operations called by hand on arrays of the host: copied to the device, done there as a row of a plan, copied back."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..contract import IN_TABLES, NONE, PLAN_ROW, Op
from . import flat
from .functions import FIELDS
from .layers import LAUNCHES, WITH_SQUARES, Run, n_update_tiles
from .memory import Array, Shelf, empty, launch, to_device, zeros
from .toolkit import settings


def row_of(op: Op, **fields: Any) -> Any:
    """Return a row of a plan; fields that are left out are `NONE`."""
    return SimpleNamespace(**{**dict.fromkeys(PLAN_ROW.names or (), NONE), "op": op, "squares": 0, **fields})


class Hand:
    """Arrays for one row of a plan.

    Parameters
    ----------
    dtype : dtype
    n : int
        Samples of the batch.
    """

    def __init__(self, dtype: Any, n: int = 1) -> None:
        self.dtype, self.n = dtype, n
        self.work, self.params, self.grads, self.m, self.v, self.average = (Shelf(dtype) for _ in range(6))

    def do(
        self,
        op: Op,
        written: Sequence[Array],
        *,
        activation: Any = None,
        loss: Any = None,
        step: Any = None,
        data: Any = None,
        order: Any = None,
        **fields: Any,
    ) -> Run:
        """Do a row of a plan whose fields these are, and write what it left into ``written``.

        Fields that are left out are `NONE`.
        """
        if activation is not None:
            fields |= dict(zip(IN_TABLES, activation[0].item(), strict=True))
        if loss is not None:
            fields["loss"] = int(loss["code"][0])
        return self.do_rows([row_of(op, **fields)], written, step=step, data=data, order=order)

    def do_rows(self, rows: Sequence[Any], written: Sequence[Array], **samples: Any) -> Run:
        """Do rows one after the other, and write what they left into ``written``."""
        n_squares = sum(
            n_update_tiles(self.dtype.name, settings.precision, row) for row in rows if row.op in WITH_SQUARES
        )
        run = self._run(n_squares, **samples)
        launch(flat.start, 1, run.cursor, self.n, run.losses)
        for row in rows:
            for one in LAUNCHES[row.op](run, row):
                one(0)
        for shelf in (self.work, self.params, self.grads, self.m, self.v, self.average):
            shelf.bring_back(written)
        return run

    def _run(self, n_squares: int, step: Any = None, data: Any = None, order: Any = None) -> Run:
        """Return the arrays on the device."""
        nothing = {name: zeros(1, self.dtype) for name in ("X", "X_data", "y", "sample_weight")}
        numbers = {name: zeros(1, np.int64) for name in ("X_indptr", "classes")}
        table = np.zeros((1, len(FIELDS)), np.float64) if step is None else step.view(np.float64).reshape(1, -1)
        n_parameters = max(self.params.size, self.grads.size, 1)
        everything: dict[str, Any] = {**nothing, **numbers, "X_indices": zeros(1, np.int32)}
        everything |= {name: to_device(array) for name, array in (data or {}).items()}
        return Run(
            cursor=zeros(3, np.int64),
            batch_size=self.n,
            order=to_device(np.arange(self.n) if order is None else order),
            steps=to_device(table).reshape(table.shape),
            **everything,
            params=self.params.on_device(),
            grads=self.grads.on_device(),
            m=self.m.on_device(),
            v=self.v.on_device(),
            average=self.average.on_device(),
            where=to_device(np.arange(n_parameters)),
            work=self.work.on_device(),
            sums=zeros(self.n, np.float64),
            squares=zeros(n_squares, np.float64),
            norm=empty(1 + n_parameters // flat.SPAN, np.float64),
            losses=zeros(3, np.float64),
            precision=settings.precision,
        )
