"""Arrays that others have put on the GPU: taken as they are, looked at there."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import math
from typing import Any

import numpy as np

from .memory import empty, launch, n_blocks_for, zeros
from .toolkit import IS_SIMULATED, THREADS, cuda, kernel


class _Interface:
    """An array of another library, by its ``__cuda_array_interface__``; it is kept alive with it."""

    def __init__(self, owner: Any, interface: dict[str, Any]) -> None:
        self.owner, self.__cuda_array_interface__ = owner, interface


def as_device_array(array: Any) -> Any:
    """Return another library's array as numba-cuda's, without a copy.

    Parameters
    ----------
    array : object
        With ``__cuda_array_interface__``, or with ``__dlpack__`` on a CUDA device.

    Raises
    ------
    ValueError
        If it is not C-contiguous.
    """
    if IS_SIMULATED:
        return array
    if not hasattr(array, "__cuda_array_interface__"):
        from cuda.core.utils import StridedMemoryView

        view = StridedMemoryView.from_dlpack(array, stream_ptr=-1)
        item = np.dtype(view.dtype)
        strides = None if view.strides is None else tuple(stride * item.itemsize for stride in view.strides)
        interface = {"shape": view.shape, "typestr": item.str, "data": (view.ptr, view.readonly), "version": 3}
        array = _Interface(view, {**interface, "strides": strides})
    found = cuda.as_cuda_array(array)
    if not found.is_c_contiguous():
        raise ValueError("an array on the GPU is not C-contiguous; pass a contiguous copy of it")
    return found


@kernel
def find_strange(array, found):
    """Write 1 where a number is not finite."""
    for i in range(cuda.grid(1), array.size, cuda.gridsize(1)):
        if not math.isfinite(array[i]):
            found[0] = 1


@kernel
def convert(source, target):
    """Copy numbers into an array of another dtype."""
    for i in range(cuda.grid(1), source.size, cuda.gridsize(1)):
        target[i] = source[i]


@kernel
def find_range(array, smallest, largest):
    """Find the smallest and the largest number that each thread of one block comes upon."""
    low, high = array[0], array[0]
    for i in range(cuda.threadIdx.x, array.size, THREADS):
        low, high = min(low, array[i]), max(high, array[i])
    smallest[cuda.threadIdx.x], largest[cuda.threadIdx.x] = low, high


def is_finite(array: Any) -> bool:
    """Tell whether all numbers of an array on the GPU are finite."""
    found = zeros(1, np.int64)
    launch(find_strange, n_blocks_for(array.size), array.reshape(array.size), found)
    return not found.copy_to_host()[0]


def converted(array: Any, dtype: Any) -> Any:
    """Return an array on the GPU in another dtype: itself, if that is its own."""
    if array.dtype == dtype:
        return array
    target = empty(array.size, dtype)
    launch(convert, n_blocks_for(array.size), array.reshape(array.size), target)
    return target.reshape(array.shape)


def value_range(array: Any) -> tuple[Any, Any]:
    """Return the smallest and the largest number of an array on the GPU."""
    smallest, largest = empty(THREADS, array.dtype), empty(THREADS, array.dtype)
    launch(find_range, 1, array.reshape(array.size), smallest, largest)
    return smallest.copy_to_host().min(), largest.copy_to_host().max()


def on_host(array: Any) -> np.ndarray[Any, Any]:
    """Return a copy on the host."""
    return np.asarray(as_device_array(array).copy_to_host())
