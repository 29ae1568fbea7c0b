"""Arrays of other libraries on a GPU: known by what they offer, without importing any of these libraries."""

from __future__ import annotations

from typing import Any

DLPACK_CUDA = 2, 13
"""DLPack's codes of memory on a CUDA device, managed memory too."""


def is_on_device(array: Any) -> bool:
    """Tell whether an object is an array on a GPU: of CuPy, PyTorch, JAX, Numba, or of whoever speaks DLPack.

    Parameters
    ----------
    array : object
    """
    kind = type(array)
    if kind.__module__.startswith("numba.cuda.simulator"):
        return True
    if kind.__module__.partition(".")[0] == "torch":  # whose interface raises for tensors elsewhere
        return getattr(getattr(array, "device", None), "type", None) == "cuda"
    if hasattr(kind, "__cuda_array_interface__"):
        return hasattr(array, "__cuda_array_interface__")
    teller = getattr(array, "__dlpack_device__", None)
    return teller is not None and not hasattr(array, "__array_interface__") and int(teller()[0]) in DLPACK_CUDA
