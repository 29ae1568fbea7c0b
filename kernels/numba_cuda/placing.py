"""Where a plan's matrices lie on the device: their rows filled up to whole vectors, one matrix behind the other."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract import LAYER_OPS, NONE, Op
from ..plan_checks import WORK_FIELDS, rows_of
from .blocks import pitch

FIELDS = ("W", "b", "mean", "variance")
"""A row's offsets among the parameters."""

WITH_LAYER = (*LAYER_OPS, Op.BATCH_NORM_DELTA, Op.BACKPROP_DELTA, Op.LINEAR_GRAD, Op.LINEAR_UPDATE)


FORWARD = (*LAYER_OPS, Op.ACTIVATE, Op.MAXOUT)
OUTPUTS = -2
"""Stands for the place that a prediction's last row writes to until it has one."""


class Placement:
    """The rows of a plan with offsets as they are on the device, and where each parameter lies there.

    Attributes
    ----------
    rows : list of SimpleNamespace
        With the fields of `PLAN_ROW`; offsets in ``work`` are the plan's.
    where : ndarray of int64
        From a parameter's number to its place; `NONE` for those of no layer.
    size : int
        Elements of the parameters on the device.
    """

    def __init__(self, plan: NDArray[np.void], n_parameters: int) -> None:
        self.rows = [SimpleNamespace(**row) for row in rows_of(plan)]
        self.where = np.full(n_parameters, NONE, np.int64)
        self.size = 0
        for row in self.rows:
            row.op = Op(row.op)
            if row.op in WITH_LAYER:
                self._place(row)

    def _place(self, row: Any) -> None:
        """Place a row's parameters, unless they were by an earlier row, and turn its offsets into places."""
        for field in FIELDS:
            at = getattr(row, field)
            if at == NONE:
                continue
            n_rows = row.n_in if field == "W" else 1
            span = self.where[at : at + n_rows * row.n_out].reshape(n_rows, row.n_out)
            if span[0, 0] == NONE:
                width = pitch(row.n_out)
                span[...] = self.size + np.arange(n_rows)[:, None] * width + np.arange(row.n_out)
                self.size += n_rows * width
            setattr(row, field, int(span[0, 0]))


def placed_work(rows: list[Any], batch_size: int) -> tuple[list[Any], int]:
    """Lay a mini-batch's matrices side by side.

    Returns
    -------
    list of SimpleNamespace
        The rows with places in ``work`` for offsets. A prediction's last row has a place to write to, too.
    int
        Elements of ``work`` on the device.
    """
    rows = [SimpleNamespace(**vars(row)) for row in rows]
    if rows[-1].op in FORWARD and rows[-1].a == NONE:
        rows[-1].a = OUTPUTS
    uses = [(row, field, columns) for row in rows for field, columns in WORK_FIELDS[row.op].items()]
    uses += [(row, "rstd", "") for row in rows if row.op in (Op.BATCH_NORM, Op.BATCH_NORM_DELTA)]
    uses = [use for use in uses if getattr(use[0], use[1]) != NONE]
    sizes: dict[int, int] = {}
    for row, field, columns in uses:
        at, width = getattr(row, field), getattr(row, columns) if columns else 1
        size = pitch(row.n_out) if field == "rstd" else batch_size * pitch(width)
        sizes[at] = max(sizes.get(at, 0), size)
    offsets = sorted(sizes)
    ends = np.cumsum([sizes[at] for at in offsets]).tolist()
    places = {at: end - sizes[at] for at, end in zip(offsets, ends, strict=True)}
    for row, field, _ in uses:
        setattr(row, field, places[getattr(row, field)])
    return rows, ends[-1] if ends else 0
