"""How the Numba backend compiles: one set of flags for all kernels, and a cache on disk that cannot go stale."""

from __future__ import annotations

import contextlib
import functools
import gc
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import caching, cgutils
from numba.core.ccallback import CFunc
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.cpu_options import FastMathOptions
from numba.core.dispatcher import _FunctionCompiler  # type: ignore[attr-defined]
from numba.core.typing import signature
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import lower_builtin
from numba.np.numpy_support import from_dtype
from numpy.typing import NDArray

from .contract import PLAN_ROW, STEP

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


class _CacheFile(caching.IndexDataCacheFile):
    """An index of compiled versions of a function, and a file for each, named by what it is compiled for.

    Numba numbers the files. Of two processes that compile at once, both may take a number for different dtypes, and the
    index of the one then leads to the code of the other.
    """

    def save(self, key: Any, data: Any) -> None:
        """Save the code first and then the index: what that names is there."""
        index = self._load_index()
        index[key] = self._index_name.replace(".nbi", f".{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}.nbc")
        self._save_data(index[key], data)
        self._save_index(index)


class _Cache(caching.FunctionCache):
    _impl_class = _CacheImpl

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        stamp = self._impl.locator.get_source_stamp()
        self._cache_file = _CacheFile(self._cache_path, self._impl.filename_base, stamp)


@contextlib.contextmanager
def _collecting_rarely() -> Iterator[None]:
    """Let Python look for cyclic garbage rarely: Numba compiles with millions of small objects, and few such cycles.

    5 to 12 % of the time that a cold start takes, for 1 % of its memory.
    """
    threshold = gc.get_threshold()
    if threshold[0]:
        gc.set_threshold(max(10_000, threshold[0]), *threshold[1:])
    try:
        yield
    finally:
        gc.set_threshold(*threshold)


class _Compiler(_FunctionCompiler):
    def _compile_core(self, args: Any, return_type: Any) -> Any:
        with _collecting_rarely():
            return super()._compile_core(args, return_type)


def jit(function: Callable[..., Any]) -> Any:
    """Compile on first use what Python calls, without the GIL, cached on disk where a folder can be written."""
    dispatcher = _with(_Compiler, numba.njit(nogil=True, fastmath=FASTMATH, error_model="numpy")(function))
    try:
        dispatcher._cache = _Cache(function)
    except RuntimeError as error:
        log.info("the Numba backend compiles anew in this process: %s", error)
    return dispatcher


class _InlinedLibrary(JITCodeLibrary):
    """Holds code that callers take in: machine code of it alone would never run."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class _InlinedPipeline(Compiler):
    def __init__(self, typingctx: Any, targetctx: Any, library: Any, *rest: Any) -> None:
        super().__init__(typingctx, targetctx, _InlinedLibrary(targetctx.codegen(), "inlined"), *rest)


class _InlinedCompiler(_Compiler):
    """Compiles no further than to LLVM's language, which takes a sixth off the time of a cold start.

    Code for arguments of a type with ``as_written`` has no float flags: its results depend on no code around it.
    """

    as_written = False

    def _customize_flags(self, flags: Any) -> Any:
        flags.no_compile = True
        if self.as_written:
            flags.fastmath = FastMathOptions(False)
        return flags

    def _compile_core(self, args: Any, return_type: Any) -> Any:
        self.as_written = any(getattr(kind, "as_written", False) for kind in args)
        result = super()._compile_core(args, return_type)
        key: Any = [].append  # stands for the entry point: any function that is like no other
        result.target_context.insert_user_function(key, result.fndesc, [result.library])
        return result._replace(entry_point=key)


def inlined(function: Callable[..., Any], **options: Any) -> Any:
    """Compile what only compiled code calls: with no way in from Python, and no cache beside that of its callers.

    ``options`` are those of Numba's beside the usual ones.
    """
    wrappers = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    flags = {"nogil": True, "fastmath": FASTMATH, "error_model": "numpy", **wrappers, **options}
    return _with(_InlinedCompiler, numba.njit(pipeline_class=_InlinedPipeline, **flags)(function))


def _with(compiler: type[_Compiler], dispatcher: Any) -> Any:
    """Let a dispatcher compile its own way."""
    own = dispatcher._compiler
    dispatcher._compiler = compiler(own.py_func, own.targetdescr, own.targetoptions, own.locals, own.pipeline_class)
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


_CODES = {"v": types.void, "i": types.intp, "d": types.float64}
_CODES |= {"R": from_dtype(PLAN_ROW), "S": from_dtype(STEP)}
_POINTERS = {"D": types.float64, "q": types.int64, "w": types.int32}
_STRUCTS: dict[str, tuple[type, str]] = {}
_PRIMITIVES: list[_Primitive] = []


class _Primitive(NamedTuple):
    function: Callable[..., Any]
    spec: str
    takes_tiles: bool
    only_for: frozenset[int]


def struct(code: str, spec: str) -> Callable[[type], type]:
    """Give a NamedTuple a letter for `primitive`; ``spec`` has a letter for each field."""

    def define(kind: type) -> type:
        _STRUCTS[code] = kind, spec
        return kind

    return define


def primitive(
    spec: str, takes_tiles: bool = False, only_for: Iterable[int] = ()
) -> Callable[[Callable[..., Any]], Any]:
    """Make a part of the kernels that is compiled once for each dtype, and called through a table of addresses.

    Numba compiles what a function calls again with each of its callers. A primitive stands alone: in compiled code
    ``name(tiles, ...)`` calls it, where ``tiles`` is the `pointer` of a table from `tiles_of`.

    Parameters
    ----------
    spec : str
        A letter for the result and one for each argument: v nothing, i integer, d double; pointers p to elements of the
        dtype, D to double, q to int64, w to int32; records R of a plan, S of the steps; and the letters of `struct`.
    takes_tiles : bool
        Whether the function takes ``tiles`` as its first argument, for it calls primitives itself.
    only_for : iterable of Op
        The rows of a plan that call it, where these are rare: without such a row it is not compiled.
    """

    def define(function: Callable[..., Any]) -> Any:
        place = len(_PRIMITIVES)
        _PRIMITIVES.append(_Primitive(function, spec, takes_tiles, frozenset(only_for)))

        @functools.wraps(function)
        def call(tiles: Any, *args: Any) -> Any:
            raise TypeError(f"{function.__name__} is for compiled code")

        class Template(AbstractTemplate):
            key = call

            def generic(self, args: Any, kws: Any) -> Any:
                dtype = next(arg.dtype for arg, code in zip(args[1:], spec[1:], strict=True) if code == "p")
                return signature(*_types(spec[:1], dtype), args[0], *_types(spec[1:], dtype))

        infer_global(call, types.Function(Template))

        @lower_builtin(call, types.VarArg(types.Any))
        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            # as Numba's own code is called: a wrapper for C takes as long as a small primitive
            given = slice(0 if takes_tiles else 1, None)
            kind = context.call_conv.get_function_type(sig.return_type, sig.args[given])
            address = builder.load(builder.gep(args[0], [ir.IntType(64)(place)]))
            result, error = (cgutils.alloca_once(builder, pointer.pointee) for pointer in kind.args[:2])
            values = context.get_arg_packer(sig.args[given]).as_arguments(builder, args[given])
            builder.call(builder.inttoptr(address, kind.as_pointer()), [result, error, *values])  # none raises
            return builder.load(result) if spec[0] != "v" else context.get_dummy_value()

        return call

    return define


def kernel(spec: str, only_for: Iterable[int] = ()) -> Callable[[Callable[..., Any]], Any]:
    """Make a kernel a primitive that calls primitives."""
    return primitive(spec, takes_tiles=True, only_for=only_for)


def _types(spec: str, dtype: Any) -> list[Any]:
    """Return the Numba types that the letters stand for."""
    return [_type(code, dtype) for code in spec]


def _type(code: str, dtype: Any) -> Any:
    if code in _STRUCTS:
        kind, fields = _STRUCTS[code]
        return types.BaseTuple.from_types(tuple(_types(fields, dtype)), kind)
    return _CODES[code] if code in _CODES else types.CPointer({"p": dtype, **_POINTERS}[code])


def tiles_of(dtype: np.dtype[Any], ops: Iterable[int] = ()) -> NDArray[np.int64]:
    """Return the addresses of the primitives for elements of a dtype.

    Rare ones that rows of kinds ``ops`` do not call have the address 0.
    """
    return _tiles_of(dtype, len(_PRIMITIVES), _rare(len(_PRIMITIVES)).intersection(ops))


@functools.cache
def _rare(n_primitives: int) -> frozenset[int]:
    """Return the kinds of rows for which primitives are compiled of which other plans have no need."""
    return frozenset[int]().union(*(each.only_for for each in _PRIMITIVES))


@functools.cache
def _tiles_of(dtype: np.dtype[Any], n_primitives: int, ops: frozenset[int]) -> NDArray[np.int64]:
    is_called = [not each.only_for or bool(each.only_for & ops) for each in _PRIMITIVES]
    return np.array([_address(n, dtype.name) if called else 0 for n, called in enumerate(is_called)], np.int64)


@functools.cache
def _address(place: int, dtype: str) -> int:
    """Return where the code of a primitive lies that Numba's own calls take, beside the wrapper for C."""
    compiled = _compiled(place, dtype)
    library = compiled._library  # type: ignore[attr-defined]
    return int(library.get_pointer_to_function(compiled.native_name.removeprefix("cfunc.")))


@functools.cache
def _compiled(place: int, dtype: str) -> CFunc:
    function, spec, takes_tiles, _ = _PRIMITIVES[place]
    result, *args = _types(spec, types.float32 if dtype == "float32" else types.float64)
    args = [types.CPointer(types.int64), *args] if takes_tiles else args
    cache = None
    with contextlib.suppress(RuntimeError):  # no folder for a cache: `jit` says so
        cache = _Cache(function)
    return c_function(function, args, result, cache)


def c_function(function: Callable[..., Any], args: list[Any], result: Any = types.void, cache: Any = None) -> CFunc:
    """Compile a function that C code can call, of Numba types of arguments and result."""
    options = {"nopython": True, "fastmath": FASTMATH, "error_model": "numpy"}
    compiled = CFunc(function, (tuple(args), result), locals={}, options=options)
    if cache is not None:
        compiled._cache = cache  # type: ignore[attr-defined]
    with _collecting_rarely():
        compiled.compile()
    return compiled
