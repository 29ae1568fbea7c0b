"""Whether there is a GPU that fastbp can use, and the choice of one."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np

from . import kernels
from .ranges import check_choice, check_whole

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


def as_device(device: Any, backend: str) -> int | None:
    """Return a GPU's number, checked: None stands for the one in use.

    Parameters
    ----------
    device : int or None
    backend : str
        What is to compute there.

    Raises
    ------
    ValueError
        If the backend computes on the CPU, or there is no such GPU.
    """
    if device is None:
        return None
    if backend != CUDA:
        raise ValueError(f"device is {device!r}, but backend {backend!r} computes on the CPU; pass backend='cuda'")
    check_whole("device", device, 0)
    n_devices = kernels.backend(CUDA).module.n_devices()
    if device >= n_devices:
        raise ValueError(f"device is {device}, but GPUs are numbered 0 to {n_devices - 1} here; pass one of these")
    return int(device)


def as_precision(precision: Any, backend: str) -> str | None:
    """Return a precision of products, checked: None stands for that of the parameters.

    Raises
    ------
    ValueError
        If it is unknown, or the backend computes on the CPU.
    """
    if precision is None:
        return None
    check_choice("precision", precision, ("tf32",))
    if backend != CUDA:
        raise ValueError(f"precision is {precision!r}, which tensor cores have; pass backend='cuda', or leave it out")
    return str(precision)


def check_precision(precision: str | None, dtype: Any, what: str) -> None:
    """Refuse a precision of products that is not one of ``dtype``, which is ``what``."""
    if precision is not None and dtype != np.float32:
        raise ValueError(f"precision is {precision!r}, but {what} is {dtype}; make one of dtype='float32'")


def on_device(device: int | None, precision: str | None) -> AbstractContextManager[Any]:
    """Let this thread's runs on backend ``"cuda"`` take a GPU and a precision, for as long as this lasts."""
    if device is None and precision is None:
        return nullcontext()
    return cast(AbstractContextManager[Any], kernels.backend(CUDA).module.on_device(device, precision or ""))


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
