"""What fastbp finds on this machine: processor, threads, backends, libraries."""

from __future__ import annotations

import importlib
import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from . import __version__, gpu, kernels
from .threads import available_threads

_LIBRARIES = (
    "numpy",
    "scipy",
    "scikit-learn",
    "numba",
    "llvmlite",
    "numba-cuda",
    "safetensors",
    "threadpoolctl",
    "rich",
    "pandas",
    "pyarrow",
    "matplotlib",
)

_VECTOR_FEATURES = (
    "sse4.2",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avxvnni",
    "avx512f",
    "avx512vl",
    "avx512bw",
    "avx512dq",
    "avx512vnni",
    "avx512bf16",
    "avx512fp16",
    "amx-tile",
    "amx-bf16",
    "neon",
    "fullfp16",
    "dotprod",
    "bf16",
    "sve",
    "sve2",
)
"""LLVM's names of the features that matter to kernels."""


def describe() -> dict[str, Any]:
    """Return versions, processor, threads, backends and libraries.

    Returns
    -------
    dict
        What JSON can hold: ``fastbp, python, system, cpu, gpu, threads, backends, auto_backend, cython, numba,
        libraries``.
    """
    backends = kernels.backends()
    return {
        "fastbp": __version__,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": {"model": _cpu_model(), "features": _cpu_features()},
        "gpu": gpu.describe(),
        "threads": _threads(),
        "backends": backends,
        "auto_backend": _auto_backend(),
        "cython": _cython(backends),
        "numba": _numba(backends),
        "libraries": {name: _version(name) for name in _LIBRARIES},
    }


def _auto_backend() -> str:
    """Return what ``backend="auto"`` takes, or why there is none."""
    try:
        return kernels.resolve("auto")
    except (ImportError, ValueError) as error:
        return f"none: {error}"


def _cpu_model() -> str:
    """Return the processor's name, as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        if platform.system() == "Darwin":
            return _answer("sysctl", "-n", "machdep.cpu.brand_string")
    return platform.processor() or platform.machine()


def _answer(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return platform.processor()


def _cpu_features() -> list[str]:
    """Return the processor's vector instruction sets, weakest first; none where llvmlite, which knows, is missing."""
    try:
        from llvmlite import binding
    except ImportError:
        return []
    found = binding.get_host_cpu_features()
    return [name for name in _VECTOR_FEATURES if found.get(name)]


def _threads() -> dict[str, Any]:
    """Return how many threads there could be, and how many fastbp takes at most where ``n_threads`` is not given."""
    return {
        "processors": os.cpu_count(),
        "usable": kernels.usable_processors(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "fastbp_default": available_threads(),
    }


def _cython(backends: dict[str, str]) -> dict[str, Any]:
    """Return which instruction set the extension chose, and how it was built."""
    record = Path(kernels.__file__).with_name("cython_build.json")
    built = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    found = {"compiler": built.get("compiler"), "cython": built.get("cython")}
    if backends["cython"] != kernels.AVAILABLE:
        return {"instruction_set": None, "instruction_sets": [], **found}
    module = importlib.import_module(f"{kernels.__name__}.{kernels.MODULES['cython']}")
    return {"instruction_set": module.isa(), "instruction_sets": list(module.isas()), **found}


def _numba(backends: dict[str, str]) -> dict[str, Any]:
    """Return how wide the vectors of the Numba backend are, and where its compiled code is kept."""
    if backends["numba"] != kernels.AVAILABLE:
        return {"vector_bits": None, "cache": None}
    module = importlib.import_module(f"{kernels.__name__}.{kernels.MODULES['numba']}")
    caches = [kernel.stats.cache_path for kernel in vars(module).values() if hasattr(kernel, "stats")]
    return {"vector_bits": 8 * module.VECTOR_BYTES, "cache": next(filter(None, caches), None)}


def _version(library: str) -> str | None:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None
