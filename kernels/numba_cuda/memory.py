"""Arrays on the device: matrices with rows of whole vectors, copies there and back, and words for full memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..contract import NONE
from ..foreign import is_on_device
from .blocks import pitch
from .toolkit import IS_SIMULATED, THREADS, cuda, n_processors

Array = NDArray[Any]


BLOCKS_PER_PROCESSOR = 8
"""Blocks of a kernel whose threads go on to further elements."""

MOST_OF_ROOM = 0.7
"""Samples that take more of the free memory than this come in chunks."""


def empty(size: int, dtype: Any) -> Any:
    """Return an array on the device; it has one element at least, for kernels take no empty ones."""
    with _explaining(size * np.dtype(dtype).itemsize):
        return cuda.device_array(max(1, size), dtype)


def zeros(size: int, dtype: Any) -> Any:
    """Return an array of zeros on the device."""
    return to_device(np.zeros(max(1, size), dtype))


def to_device(array: Any) -> Any:
    """Return a copy on the device, flat; numba-cuda's own arrays are there already."""
    if is_on_device(array):
        return array.reshape(array.size)
    flat = np.ascontiguousarray(array).reshape(-1)
    with _explaining(flat.nbytes):
        return cuda.to_device(flat if flat.size else np.zeros(1, flat.dtype))


def address_of(array: Any) -> int:
    """Return where an array lies on the device."""
    return id(array) if IS_SIMULATED else int(array.__cuda_array_interface__["data"][0])


@contextlib.contextmanager
def _explaining(n_bytes: int) -> Iterator[None]:
    """Say what did not fit, where the device's memory runs out."""
    try:
        yield
    except Exception as error:
        if "OUT_OF_MEMORY" not in str(error):
            raise
        free, total = free_memory()
        raise MemoryError(
            f"{n_bytes / 1e9:.3g} GB do not fit into the GPU's memory: {free / 1e9:.3g} of {total / 1e9:.3g} GB are "
            "free; pass a smaller batch_size or fewer samples, or end what else is there"
        ) from error


def free_memory() -> tuple[int, int]:
    """Return how many bytes of the current GPU's memory are free, and how many it has."""
    found = cuda.current_context().get_memory_info()
    return int(found[0]), int(found[1])


def n_blocks_for(n: int, at_once: int = THREADS) -> int:
    """Return how many blocks go over n things, of which a block takes some at once: no more than run together."""
    return min(-(-n // at_once), BLOCKS_PER_PROCESSOR * n_processors())


def has_room(n_bytes: int) -> bool:
    """Tell whether so much fits on the device, beside what a run needs."""
    return IS_SIMULATED or n_bytes <= MOST_OF_ROOM * free_memory()[0]


def launch(kernel: Any, n_blocks: int, *arguments: Any, stream: Any = 0, threads: int = THREADS) -> None:
    """Launch a kernel of so many blocks."""
    kernel[max(1, n_blocks), threads, stream](*arguments)


def launch_spread(kernel: Any, n_blocks: int, *arguments: Any, stream: Any = 0, shared: int = 0) -> None:
    """Launch a kernel that takes its arguments as one tuple, with some bytes of dynamic shared memory."""
    if IS_SIMULATED:  # which looks for arrays among the arguments themselves
        arguments = tuple(getattr(argument, "_ary", argument) for argument in arguments)
    kernel[max(1, n_blocks), THREADS, stream, shared](arguments)


class Shelf:
    """Matrices and vectors side by side in one array on the device, put there and brought back in one copy each."""

    def __init__(self, dtype: Any) -> None:
        self.dtype, self.size = np.dtype(dtype), 0
        self._parts: list[tuple[int, Array]] = []

    def put(self, array: Array) -> int:
        """Take in a matrix, or a vector as a row; return where it will lie: `NONE` where it is empty."""
        if array.size == 0:
            return NONE
        matrix, at = array.reshape(-1, array.shape[-1]), self.size
        self._parts.append((at, matrix))
        self.size += matrix.shape[0] * pitch(matrix.shape[1])
        return at

    def on_device(self) -> Any:
        """Return the array, on the device."""
        flat = np.zeros(self.size, self.dtype)
        for at, matrix in self._parts:
            _rows(flat, at, matrix)[:, : matrix.shape[1]] = matrix
        self.array = to_device(flat)
        return self.array

    def bring_back(self, arrays: Sequence[Array]) -> None:
        """Write what kernels left where arrays were put into these."""
        flat = self.array.copy_to_host()
        for at, matrix in self._parts:
            if any(np.shares_memory(matrix, array) for array in arrays):
                matrix[...] = _rows(flat, at, matrix)[:, : matrix.shape[1]]


def _rows(flat: Array, at: int, matrix: Array) -> Array:
    """Return the place of a matrix as one, its filling included."""
    n_rows, width = matrix.shape[0], pitch(matrix.shape[1])
    return flat[at : at + n_rows * width].reshape(n_rows, width)
