"""Every operation, by hand, on every backend: checked against the float64 reference, then timed.

    pytest bench/ -k "linear_forward and f32" --benchmark-json=before.json
    python bench/compare.py before.json after.json

A case is named like ``linear_forward/f32/B32/784-128/numba``; `fastbp compare` times the same ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fastbp import kernels
from fastbp.bench.cases import Case, cases
from fastbp.bench.operations import arguments_of, check_operation

BACKENDS = [name for name, state in kernels.backends().items() if state == kernels.AVAILABLE]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("case", cases(), ids=str)
def test_operation(benchmark: Any, case: Case, name: str) -> None:
    backend, dtype = kernels.backend(name), np.dtype(case.dtype)
    share = check_operation(backend, case.operation, dtype, case.options)
    arguments = arguments_of(backend, case.operation, dtype, dtype, case.options)
    benchmark.name = benchmark.fullname = f"{case}/{name}"
    benchmark.extra_info["largest error, as a share of what is allowed"] = share
    benchmark(getattr(backend, case.operation), **arguments)
