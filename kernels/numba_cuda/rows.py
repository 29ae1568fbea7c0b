"""A kernel for each operation that is shared out by samples or by units: the whole grid does one row of a plan."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import float64

from . import norms, samples, units
from .toolkit import THREADS, cuda, kernel


def spread(part: Callable[..., Any]) -> Any:
    """Return the kernel that spreads an operation over the blocks of a grid."""

    @kernel
    def whole(arguments):
        part(cuda.blockIdx.x, cuda.gridDim.x, *arguments)

    return whole


def spread_with_room(part: Callable[..., Any]) -> Any:
    """Return the same for an operation whose threads add up what they have."""

    @kernel
    def whole(arguments):
        room = cuda.shared.array(THREADS, float64)
        part(cuda.blockIdx.x, cuda.gridDim.x, room, *arguments)

    return whole


gather_rows = spread(samples.gather_rows_part)
gather_csr_rows = spread(samples.gather_csr_rows_part)
gather_classes = spread(samples.gather_classes_part)
write_rows = spread(samples.write_rows_part)
softmax = spread_with_room(units.softmax_part)
batch_norm = spread_with_room(norms.batch_norm_part)
normalize = spread(norms.normalize_part)
activate = spread(units.activate_part)
maxout = spread(units.maxout_part)
dropout = spread(units.dropout_part)
output_delta = spread_with_room(units.output_delta_part)
activation_delta = spread_with_room(units.activation_delta_part)
maxout_delta = spread(units.maxout_delta_part)
batch_norm_delta = spread_with_room(norms.batch_norm_delta_part)
