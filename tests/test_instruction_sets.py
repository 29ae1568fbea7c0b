"""Other instruction sets than this processor's best, each in a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import fastbp
from fastbp import kernels


@pytest.mark.parametrize("isa", ["v2", "v3", "v4"])
def test_values_hold_with_another_instruction_set(isa: str) -> None:
    """Long doubles judge the errors there: a kernel that leaves MMX registers behind would break them."""
    if kernels.backends()["cython"] != kernels.AVAILABLE:
        pytest.skip("backend 'cython' is not available")
    cython = kernels.backend("cython").module
    if isa == cython.isa():
        pytest.skip(f"{isa} is in use: all other tests run with it")
    if isa not in cython.isas():
        pytest.skip(f"this processor and build run {', '.join(cython.isas())}")
    here = Path(__file__).parent
    files = [str(here / name) for name in ("test_operations.py", "test_math.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-k", "cython", *files]
    environment = {**os.environ, "FASTBP_ISA": isa, "PYTHONPATH": str(Path(fastbp.__file__).parents[1])}
    environment.pop("PYTEST_XDIST_WORKER", None)
    done = subprocess.run(command, env=environment, cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout


def test_an_instruction_set_that_is_none_is_not_passed_over() -> None:
    """A slip of the pen would cost the faster backend otherwise, and nobody would know."""
    if kernels.backends()["cython"] != kernels.AVAILABLE:
        pytest.skip("backend 'cython' is not available")
    environment = {**os.environ, "FASTBP_ISA": "v5", "PYTHONPATH": str(Path(fastbp.__file__).parents[1])}
    command = [sys.executable, "-c", "import fastbp; fastbp.Network((3, 2))"]
    here = Path(__file__).parent
    done = subprocess.run(command, env=environment, cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "FASTBP_ISA is 'v5', but this build and processor run v" in done.stderr


NARROW_VECTORS = """
from llvmlite import binding
features = {name: False for name in binding.get_host_cpu_features()}
binding.get_host_cpu_features = lambda: features
from fastbp.kernels import numba_vectors
from fastbp.bench.operations import Options, check_operation
from fastbp import kernels
assert numba_vectors.VECTOR_BYTES == 16
backend = kernels.backend("numba")
for shape in ((2, 9, 5), (33, 20, 17)):
    options = dict(zip(("batch", "inputs", "outputs"), shape)), {"batch_norm": True, "maxout": True, "drops": True}
    check_operation(backend, "linear_forward", "float64", Options(**options[0]))
    check_operation(backend, "train_steps", "float64", Options(activation="identity", **options[0], **options[1]))
"""


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="vectors are narrow here anyway")
def test_numba_with_vectors_of_two_numbers(tmp_path: Path) -> None:
    """Narrower than a tile has rows: x86 before AVX, and ARM."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(Path(fastbp.__file__).parents[1]), str(here)])
    narrow = {"NUMBA_CPU_NAME": "x86-64-v2", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", NARROW_VECTORS]
    environment = {**os.environ, **narrow, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, cwd=here, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
