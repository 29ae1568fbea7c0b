"""The one place that imports numba-cuda: what compiles and launches kernels here, and what keeps it from doing so."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

if not hasattr(np, "row_stack"):  # NumPy 2.5 has it no more, and numba-cuda 0.30 asks for it
    setattr(np, "row_stack", np.vstack)  # noqa: B010 - ruff would write vstack for the old name

from numba import cuda as cuda
from numba.cuda.cudadrv.error import CudaSupportError

DEFAULT_SHARED_BYTES = 46 * 1024
"""Dynamic shared memory that a block may have unasked, beside what the walk declares: 48 KB in all."""

IS_SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"
"""Whether kernels run as Python, one thread of a block after the other, without a GPU: slowly, for tests."""

if not IS_SIMULATED:
    from numba.cuda.cudadrv.driver import binding, driver

THREADS = 8 if IS_SIMULATED else 256
"""Threads of a block. With two blocks on a processor at once each may have 128 registers."""


class _Settings(threading.local):
    """What a thread's runs have in common.

    Attributes
    ----------
    precision : str
        ``"tf32"``, or empty for products in the numbers' own.
    """

    precision = ""


settings = _Settings()


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel when it is first launched, once for each dtype."""
    return cuda.jit(function) if IS_SIMULATED else cuda.jit(function, launch_bounds=(THREADS, 2))


def device(function: Callable[..., Any]) -> Any:
    """Compile what kernels call, into each of them: the compiler then sees which memory a pointer points to."""
    return cuda.jit(function, device=True) if IS_SIMULATED else cuda.jit(function, device=True, forceinline=True)


def n_processors() -> int:
    """Return how many multiprocessors the current GPU has."""
    return 2 if IS_SIMULATED else int(cuda.get_current_device().MULTIPROCESSOR_COUNT)


def device_facts() -> dict[str, Any]:
    """Return what there is to say of the GPU in use."""
    if IS_SIMULATED:
        return {"name": "numba-cuda's simulator", "compute_capability": None, "multiprocessors": None, "memory": None}
    device = cuda.get_current_device()
    return {
        "name": str(device.name, "utf-8") if isinstance(device.name, bytes) else str(device.name),
        "compute_capability": ".".join(map(str, device.compute_capability)),
        "multiprocessors": n_processors(),
        "memory": int(cuda.current_context().get_memory_info()[1]),
    }


def copies_later() -> bool:
    """Tell whether the current GPU copies to shared memory without a thread's help."""
    return IS_SIMULATED or tuple(cuda.get_current_device().compute_capability)[:2] >= (8, 0)


def most_shared_bytes() -> int:
    """Return how much shared memory a block may have on the current GPU."""
    return 2**17 if IS_SIMULATED else int(cuda.get_current_device().MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)


def shared_limit_raised(function: Any, arguments: tuple[Any, ...], n_bytes: int) -> int:
    """Let a kernel that takes its arguments as one tuple have so many bytes of dynamic shared memory; return them."""
    if not IS_SIMULATED and n_bytes > DEFAULT_SHARED_BYTES:
        compiled = function.compile((function.typeof_pyval(arguments),))
        loaded = compiled._codelibrary.get_cufunc()
        limit = binding.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        driver.cuKernelSetAttribute(limit, n_bytes, loaded.handle, loaded.device.id)
    return n_bytes


class Graph:
    """Launches that are captured once, and then done at once as often as one likes.

    Parameters
    ----------
    launches : list of callable
        Each launches a compiled kernel on the stream that it is given. Their arrays must outlive the graph.
    """

    is_available = not IS_SIMULATED

    def __init__(self, launches: list[Callable[[Any], None]]) -> None:
        from cuda.core import LEGACY_DEFAULT_STREAM, Device

        self.launches, self.stream = launches, LEGACY_DEFAULT_STREAM
        device = Device(cuda.get_current_device().id)
        device.set_current()  # for this thread
        builder = device.create_graph_builder()
        builder.begin_building()
        for one in launches:
            one(builder)
        self.graph = builder.end_building().complete()

    def launch(self) -> None:
        """Do all launches."""
        self.graph.launch(self.stream)


def oldest_driver() -> tuple[int, int]:
    """Return the version of CUDA whose drivers load what is compiled here: by its first number that of the bindings."""
    return int(importlib.metadata.version("cuda-bindings").partition(".")[0]), 0


@functools.cache
def why_not() -> str | None:
    """Return what keeps kernels from running and what to do about it, or None."""
    if IS_SIMULATED:
        return None
    try:
        version = cuda.driver.driver.get_version()
        n_devices = len(cuda.gpus)
    except CudaSupportError as error:
        return _cause(str(error))
    if version < oldest_driver():
        found, wanted = ".".join(map(str, version)), ".".join(map(str, oldest_driver()))
        return f"the NVIDIA driver is one of CUDA {found}; install a driver of CUDA {wanted} or newer"
    if n_devices == 0:
        return "the NVIDIA driver finds no GPU; see whether nvidia-smi lists one, and what CUDA_VISIBLE_DEVICES says"
    return None


def _cause(message: str) -> str:
    """Return what an error of the driver's start means."""
    if "cannot be found" in message or "not found" in message:
        return "there is no NVIDIA driver (libcuda); install one, or take backend='auto', which computes on the CPU"
    if "NO_DEVICE" in message:
        return "the NVIDIA driver finds no GPU; see whether nvidia-smi lists one, and what CUDA_VISIBLE_DEVICES says"
    if "INSUFFICIENT_DRIVER" in message or "too old" in message:
        return f"the NVIDIA driver is too old ({message.strip()}); install a newer one"
    return f"CUDA does not start: {message.strip()}"
