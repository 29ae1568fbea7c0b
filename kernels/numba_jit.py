"""How the Numba backend compiles: one set of flags for all kernels, and a cache on disk that cannot go stale."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import binding
from numba.core import caching

log = logging.getLogger("fastbp")

FASTMATH = {"contract"}
"""The one set of float flags: products and sums may fuse; NaN, infinities and the order of sums are kept."""


def host_has(feature: str) -> bool:
    """Tell whether this machine's processor has a feature of LLVM's list."""
    return bool(binding.get_host_cpu_features().get(feature, False))


class _SourcesStamp:
    """Mixin for Numba's cache locators: compiled code is fresh while no source of this package changed.

    Numba looks at the file of the function alone and would keep code that inlined an older callee of another file.
    """

    def get_source_stamp(self) -> str:
        return _sources_stamp()


@functools.cache
def _sources_stamp() -> str:
    digest = hashlib.sha256(__name__.encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _CacheImpl(caching.CompileResultCacheImpl):
    _locator_classes = tuple(
        type(locator.__name__, (_SourcesStamp, locator), {})
        for locator in (
            caching.UserProvidedCacheLocator,
            caching.InTreeCacheLocator,
            caching.UserWideCacheLocator,
        )
    )


class _Cache(caching.FunctionCache):
    _impl_class = _CacheImpl


def jit(function: Callable[..., Any]) -> Any:
    """Compile a kernel on first use, without the GIL, cached on disk where a folder can be written."""
    dispatcher = numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy")(function)
    try:
        dispatcher._cache = _Cache(function)
    except RuntimeError as error:
        log.info("the Numba backend compiles anew in this process: %s", error)
    return dispatcher


def as_writable(array: Any) -> Any:
    """Return the array itself, or a writable view of a read-only one: Numba compiles the two kinds separately.

    For arrays that a kernel only reads.
    """
    if array.flags.writeable or not array.size:
        return array if array.flags.writeable else array.copy()
    interface = dict(array.__array_interface__)
    interface["data"] = (interface["data"][0], False)
    return np.asarray(_ArrayInterface(interface, array))


class _ArrayInterface:
    """What NumPy needs to make a view, and the array that keeps the memory alive."""

    def __init__(self, interface: dict[str, Any], owner: Any) -> None:
        self.__array_interface__ = interface
        self.owner = owner
