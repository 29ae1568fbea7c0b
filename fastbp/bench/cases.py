"""The shapes on which operations are timed, and the names of the cases."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from .. import kernels
from .operations import Options

DTYPES = {"f32": "float32", "f64": "float64"}
"""As they stand in the names of cases."""


@dataclass(frozen=True)
class Shape:
    """A layer and a mini-batch.

    Parameters
    ----------
    batch, inputs, outputs : int
        B, I, O.
    """

    batch: int
    inputs: int
    outputs: int

    def __str__(self) -> str:
        return f"B{self.batch}/{self.inputs}-{self.outputs}"


SHAPES = (
    Shape(1, 64, 32),
    Shape(32, 784, 128),
    Shape(64, 10, 64),
    Shape(200, 784, 100),
    Shape(256, 54, 128),
    Shape(128, 512, 512),
)
"""Online learning, digits in small and in scikit-learn's batches, tables, a deep network."""


@dataclass(frozen=True)
class Case:
    """An operation on arguments of a shape and a dtype; its name is like ``linear_forward/f32/B32/784-128``.

    The plans of ``train_steps`` and ``predict`` have a hidden layer of I + O units.
    """

    operation: str
    dtype: str
    shape: Shape

    def __str__(self) -> str:
        short = next(short for short, dtype in DTYPES.items() if dtype == self.dtype)
        return f"{self.operation}/{short}/{self.shape}"

    @property
    def options(self) -> Options:
        """What the arguments are drawn for: ReLU, and classes as targets."""
        shape = self.shape
        return Options(shape.batch, shape.inputs, shape.outputs, "relu", "cross_entropy", classes=True)


def cases(
    operations: Iterable[str] = kernels.OPERATIONS,
    dtypes: Iterable[str] = tuple(DTYPES.values()),
    shapes: Iterable[Shape] = SHAPES,
) -> list[Case]:
    """Return all cases of some operations, in the contract's order."""
    chosen = set(operations)
    in_order = (name for name in kernels.OPERATIONS if name in chosen)
    return [Case(*case) for case in itertools.product(in_order, dtypes, shapes)]
