"""Samples that the GPU has no room for: gathered on the host in their order, and brought there chunk by chunk."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np

from ..contract import Buffers
from .memory import Array, empty
from .toolkit import cuda

CHUNK_BYTES = 2**26
"""A chunk's samples: long enough to copy at full speed."""

BROUGHT = ("X", "y", "classes", "sample_weight")


class Chunks:
    """Two chunks of samples in pinned memory and two on the device: one is learned from while the other is brought.

    Parameters
    ----------
    buffers : Buffers
        With dense samples, which are not kept alive.

    Attributes
    ----------
    stream : stream
        Where what learns from a chunk has to be launched.
    nothing : dict
        Arrays of a run that stand for samples as long as no chunk is there.
    """

    def __init__(self, buffers: Buffers) -> None:
        self._sources = {name: weakref.ref(getattr(buffers, name)) for name in BROUGHT}
        self._row_bytes = buffers.X[:1].nbytes
        self.stream, self._copying = cuda.stream(), cuda.stream()
        dtypes = {name: getattr(buffers, name).dtype for name in buffers._fields[:7]}
        self.nothing = {name: empty(1, dtype) for name, dtype in dtypes.items()}
        self._pairs: list[dict[str, tuple[Array, Any]]] = [{}, {}]
        self._used = [cuda.event() for _ in range(2)]
        self._brought = [cuda.event() for _ in range(2)]
        self._turn = 1

    def steps_at_once(self, batch_size: int) -> int:
        """Return the steps of a chunk."""
        return max(1, CHUNK_BYTES // (batch_size * self._row_bytes))

    def bring(self, order: Array) -> dict[str, Any]:
        """Return a chunk's arrays on the device: the samples of ``order``, one behind the other."""
        self._turn = 1 - self._turn
        pairs, brought = self._pairs[self._turn], self._brought[self._turn]
        if pairs:
            brought.synchronize()  # the pinned memory is free again
        for name, reference in self._sources.items():
            source = reference()
            if source is None:
                raise RuntimeError("the samples of this run are gone")
            if len(source):
                self._copy(name, source, order, pairs)
        brought.record(self._copying)
        brought.wait(self.stream)
        return {**self.nothing, **{name: there for name, (_, there) in pairs.items()}}

    def _copy(self, name: str, source: Array, order: Array, pairs: dict[str, tuple[Array, Any]]) -> None:
        """Gather rows into pinned memory, and send them to the device once its last chunk has been used."""
        width = source[:1].size
        size = len(order) * width
        if name not in pairs or pairs[name][0].size < size:
            pairs[name] = cuda.pinned_array(size, source.dtype), empty(size, source.dtype)
        pinned, there = pairs[name]
        np.take(source.reshape(len(source), width), order, axis=0, out=pinned[:size].reshape(len(order), width))
        self._used[self._turn].wait(self._copying)
        there[:size].copy_to_device(pinned[:size], stream=self._copying)

    def is_used(self) -> None:
        """Note that all that learns from the last chunk has been launched."""
        self._used[self._turn].record(self.stream)
