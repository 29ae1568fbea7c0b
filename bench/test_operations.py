"""Every operation, by hand, on every backend: checked against the float64 reference, then timed.

    pytest bench/ -k "linear_forward and f32" --benchmark-json=before.json
    python bench/compare.py before.json after.json

A case is named like ``linear_forward/f32/B32/784-128/numba``. The plans of ``train_steps`` and ``predict`` have a
hidden layer of I + O units between inputs and outputs.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fastbp import kernels
from fastbp.bench.operations import Options, arguments_of, check_operation

SHAPES = {"B1": (64, 32), "B32": (784, 128), "B64": (10, 64), "B200": (784, 100), "B256": (54, 128), "B128": (512, 512)}
"""Batch sizes and layers: online learning, digits in small and in scikit-learn's batches, tables, a deep network."""

DTYPES = {"f32": "float32", "f64": "float64"}
BACKENDS = [name for name, state in kernels.backends().items() if state == kernels.AVAILABLE]
OPTIONS = Options(activation="relu", loss="cross_entropy", classes=True)
CASES = [
    f"{operation}/{dtype}/{batch}/{n_in}-{n_out}/{backend}"
    for operation, dtype, (batch, (n_in, n_out)), backend in itertools.product(
        kernels.OPERATIONS, DTYPES, SHAPES.items(), BACKENDS
    )
]


@pytest.mark.parametrize("case", CASES)
def test_operation(benchmark: Any, case: str) -> None:
    operation, dtype, batch, layer, name = case.split("/")
    n_in, n_out = map(int, layer.split("-"))
    options = replace(OPTIONS, batch=int(batch[1:]), inputs=n_in, outputs=n_out)
    backend, working = kernels.backend(name), np.dtype(DTYPES[dtype])
    share = check_operation(backend, operation, working, options)
    arguments = arguments_of(backend, operation, working, working, options)
    benchmark.name = benchmark.fullname = case
    benchmark.extra_info["largest error, as a share of what is allowed"] = share
    benchmark(getattr(backend, operation), **arguments)
