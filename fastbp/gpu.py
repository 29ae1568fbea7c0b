"""Whether there is a GPU that fastbp can use."""

from __future__ import annotations

from typing import Any

from . import kernels

CUDA = "cuda"


def has_gpu() -> bool:
    """Tell whether ``backend="cuda"`` works here.

    Returns
    -------
    bool

    Examples
    --------
    >>> import fastbp
    >>> backend = "cuda" if fastbp.has_gpu() else "auto"
    """
    return kernels.backends()[CUDA] == kernels.AVAILABLE


def require_gpu() -> None:
    """Do nothing where ``backend="cuda"`` works, and raise what it would raise where it does not.

    Raises
    ------
    ImportError
        With the cause (no package, no driver, one that is too old, no device) and what to do.
    """
    kernels.backend(CUDA)


def describe() -> dict[str, Any]:
    """Return what there is to say of the GPU: nothing but None where there is none that works.

    Returns
    -------
    dict
        ``name, compute_capability, multiprocessors``, ``memory`` in bytes, and ``walked_flops``: the work of a step up
        to which one kernel does all steps of a run.
    """
    if not has_gpu():
        return dict.fromkeys(("name", "compute_capability", "multiprocessors", "memory", "walked_flops"))
    from .kernels.numba_cuda.runs import MOST_WALKED_FLOPS
    from .kernels.numba_cuda.toolkit import device_facts

    return {**device_facts(), "walked_flops": MOST_WALKED_FLOPS}
