"""How many threads a run may take."""

from __future__ import annotations

import functools
import os
import sys

from .kernels import capped, check_n_threads, usable_processors

FLOPS_WORTH_THREADS = 2e6
"""Work of a mini-batch, some ten microseconds: below it threads would spend their time waiting for each other."""


def threads_for(n_threads: int | None, flops: float, n_available: int | None = None) -> int:
    """Return how many threads a run may take at most.

    Parameters
    ----------
    n_threads : int or None
        What the caller asked for. None: as many as `available_threads`, and one where a mini-batch is little work.
    flops : float
        Floating-point operations of a mini-batch.
    n_available : int, optional
        What `available_threads` said before.

    Raises
    ------
    ValueError
        If n_threads is not a whole number of at least 1.
    """
    if n_threads is not None:
        return capped(check_n_threads(n_threads))  # attributes may have been set since they were checked
    if flops < FLOPS_WORTH_THREADS:
        return 1
    return n_available or available_threads()


def available_threads() -> int:
    """Return how many threads this process, or the worker that it is, should use.

    The least of: the processors that its affinity and its container's quota leave it, ``OMP_NUM_THREADS``, and what
    threadpoolctl says of the loaded BLAS and OpenMP libraries. One in a worker of joblib that was given no number.
    """
    if _in_a_worker() and "OMP_NUM_THREADS" not in os.environ:
        return 1
    return max(1, min(usable_processors(), _quota(), _environment(), *_libraries()))


def _environment() -> int:
    """Return ``OMP_NUM_THREADS``, whose first number counts, or no limit."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else sys.maxsize


@functools.cache
def _quota() -> int:
    from joblib import cpu_count

    return int(cpu_count())


def _libraries() -> list[int]:
    """Return how many threads the libraries that are loaded may use."""
    return [library.num_threads or sys.maxsize for library in _controller(len(sys.modules)).lib_controllers]


@functools.lru_cache(maxsize=1)
def _controller(n_modules: int):  # type: ignore[no-untyped-def]
    """Look for libraries, which takes milliseconds: anew once further modules, which may bring some, are there."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def _in_a_worker() -> bool:
    """Tell whether joblib runs this call beside others."""
    joblib = sys.modules.get("joblib")
    return joblib is not None and joblib.parallel.get_active_backend()[0].nesting_level > 0
