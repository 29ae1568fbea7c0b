"""Where there is no GPU, everything else works, and asking for one says what is missing and what to do."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fastbp
from fastbp import kernels

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(fastbp.__file__).parents[1])}
HAS_PACKAGE = importlib.util.find_spec("numba_cuda") is not None


@pytest.fixture(autouse=True)
def _asked_anew() -> Any:
    """Let each test ask whether there is a GPU, and none of them answer for the tests behind it."""
    kernels._why_not.cache_clear()
    yield
    kernels._why_not.cache_clear()


def test_importing_fastbp_and_training_imports_no_cuda_package() -> None:
    program = """
import sys
import numpy as np
import fastbp
for backend in ("auto", "numba"):
    net = fastbp.Network((3, 2), backend=backend)
    fastbp.Trainer(net, backend=backend).fit(np.ones((8, 3)), np.arange(8) % 2)
packages = {"cuda", "cupy", "numba_cuda", "nvmath", "torch"}
print(sorted(name for name in sys.modules if name.partition(".")[0] in packages or name == "numba.cuda.cudadrv"))
"""
    done = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_package_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "numba_cuda" else find_spec(name))
    assert "pip install 'fastbp[cuda]'" in fastbp.backends()["cuda"]
    assert not fastbp.has_gpu()
    net = fastbp.Network((3, 2))
    before = net.parameters.copy()
    with pytest.raises(ImportError, match="the package numba-cuda is missing; run: pip install"):
        fastbp.Trainer(net, backend="cuda")
    with pytest.raises(ImportError, match="numba-cuda is missing"):
        fastbp.require_gpu()
    with pytest.raises(ImportError, match="numba-cuda is missing"):
        fastbp.MLPClassifier(backend="cuda").fit(np.ones((8, 3)), np.arange(8) % 2)
    np.testing.assert_array_equal(net.parameters, before)


needs_package = pytest.mark.skipif(not HAS_PACKAGE, reason="the package numba-cuda is missing")


@needs_package
def test_a_machine_without_a_driver_says_so() -> None:
    """In a process of its own, to which no driver can be found."""
    program = """
import fastbp
print(fastbp.has_gpu())
for action in (fastbp.require_gpu, lambda: fastbp.Trainer(fastbp.Network((3, 2)), backend="cuda")):
    try:
        action()
    except ImportError as error:
        print(error)
"""
    environment = {**ENVIRONMENT, "CUDA_VISIBLE_DEVICES": "", "NUMBA_ENABLE_CUDASIM": "0"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    has_gpu, *messages = done.stdout.splitlines()
    assert has_gpu == "False"
    assert len(messages) == 2
    for message in messages:
        assert message.startswith("backend 'cuda' is not available: ")
        assert "driver" in message


@needs_package
@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("CUDA driver library cannot be found.", "there is no NVIDIA driver"),
        ("Error at driver init: CUDA_ERROR_NO_DEVICE (100)", "finds no GPU; see whether nvidia-smi lists one"),
        ("CUDA_ERROR_INSUFFICIENT_DRIVER (35)", "too old .*; install a newer one"),
        ("CUDA_ERROR_SYSTEM_NOT_READY (802)", "CUDA does not start: CUDA_ERROR_SYSTEM_NOT_READY"),
        ((11, 4), r"is one of CUDA 11.4; install a driver of CUDA 1\d.0 or newer"),
        (0, "finds no GPU"),
    ],
)
def test_each_cause_has_its_cure(problem: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    toolkit = pytest.importorskip("fastbp.kernels.numba_cuda.toolkit")
    if toolkit.IS_SIMULATED:
        pytest.skip("the simulator needs no driver")

    def get_version() -> tuple[int, int]:
        if isinstance(problem, str):
            raise toolkit.CudaSupportError(problem)
        return problem if isinstance(problem, tuple) else (13, 0)

    there = SimpleNamespace(driver=SimpleNamespace(driver=SimpleNamespace(get_version=get_version)), gpus=())
    monkeypatch.setattr(toolkit, "cuda", there)
    toolkit.why_not.cache_clear()
    try:
        with pytest.raises(ImportError, match=message):
            fastbp.require_gpu()
    finally:
        toolkit.why_not.cache_clear()


@needs_package
def test_numpy_without_row_stack_is_helped() -> None:
    """As NumPy 2.5, which numba-cuda 0.30 does not know; in a process of its own."""
    program = """
import numpy as np
if hasattr(np, "row_stack"):
    del np.row_stack
import fastbp.kernels.numba_cuda.toolkit
print(np.row_stack is np.vstack)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"


class OfJax:
    """As JAX's arrays: the type has the interface, and an array that lies on the host does not."""

    def __init__(self, there: bool) -> None:
        self.there = there

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if not self.there:
            raise AttributeError("not on a GPU")
        return {}


class OfDLPack:
    def __init__(self, device: int) -> None:
        self.device = device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0


@pytest.mark.parametrize(
    ("array", "is_there"),
    [
        (OfJax(True), True),
        (OfJax(False), False),
        (OfDLPack(2), True),
        (OfDLPack(1), False),
        (np.ones(2), False),
        ([1, 2], False),
    ],
)
def test_arrays_on_a_gpu_are_known(array: Any, is_there: bool) -> None:
    assert kernels.is_on_device(array) == is_there


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_arrays_of_others_on_the_host_are_plain_samples(library: str) -> None:
    module = pytest.importorskip(library)
    X = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    foreign = module.from_numpy(X) if library == "torch" else module.numpy.asarray(X)
    net = fastbp.Network((3, 2), dtype="float32", random_state=0)
    np.testing.assert_array_equal(net.forward(foreign), net.forward(X))
