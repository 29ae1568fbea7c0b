"""The Cython backend's other instruction sets: the value tests again, each in a process of its own."""

from __future__ import annotations

import os
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
