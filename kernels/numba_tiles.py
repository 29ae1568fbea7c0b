"""LLVM building blocks of the Numba backend: register tiles, unchecked element access, fused multiply-add.

Numba's own loops cannot hold a block of sums in vector registers. A `tile` can: for each shape of a fixed menu it is one
loop of vector FMAs over rows x vectors accumulators. What is compiled depends on the dtype and this menu alone, never on
the size of a layer.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
from llvmlite import binding, ir
from numba import types
from numba.core import caching, cgutils
from numba.extending import intrinsic

log = logging.getLogger("fastbp")

FASTMATH = {"contract"}
"""The one set of float flags: products and sums may fuse; NaN, infinities and the order of sums are kept."""


def _host_has(feature: str) -> bool:
    return bool(binding.get_host_cpu_features().get(feature, False))


if _host_has("avx512f"):
    VECTOR_BYTES, TILE_ROWS = 64, (8, 4, 2, 1)
elif _host_has("avx2"):
    VECTOR_BYTES, TILE_ROWS = 32, (4, 2, 1)
else:
    VECTOR_BYTES, TILE_ROWS = 16, (4, 2, 1)
HAS_FMA = _host_has("fma") or _host_has("neon")
TILE_VECTORS = 3
MAX_ROWS = TILE_ROWS[0]
"""The menu: tiles of 1 to `MAX_ROWS` rows and 1 to `TILE_VECTORS` vectors. 8 x 3 sums, 3 vectors and a broadcast fill 28
of AVX-512's 32 registers, 4 x 3 the 16 of AVX2."""


class _SourcesStamp:
    """Mixin for Numba's cache locators: compiled code is fresh while no source of this package changed.

    Numba looks at the file of the function alone and would keep code that inlined an older callee of another file.
    """

    def get_source_stamp(self) -> str:
        return _sources_stamp()


@functools.cache
def _sources_stamp() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _CacheImpl(caching.CompileResultCacheImpl):
    _locator_classes = [
        type(locator.__name__, (_SourcesStamp, locator), {})
        for locator in (
            caching.UserProvidedCacheLocator,
            caching.InTreeCacheLocator,
            caching.UserWideCacheLocator,
        )
    ]


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


@intrinsic
def pointer(typingctx: Any, array: Any) -> Any:
    """Return the address of an array's first element. The caller keeps the array alive."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return cgutils.create_struct_proxy(signature.args[0])(context, builder, value=args[0]).data

    return types.CPointer(array.dtype)(array), codegen


@intrinsic
def at(typingctx: Any, p: Any, i: Any) -> Any:
    """Return the pointer p + i."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.gep(args[0], [args[1]])

    return p(p, types.intp), codegen


@intrinsic
def load(typingctx: Any, p: Any, i: Any) -> Any:
    """Return p[i]. An array's own p[i] wraps negative indices around, which keeps loops from vectorising."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.gep(args[0], [args[1]]))

    return p.dtype(p, types.intp), codegen


@intrinsic
def store(typingctx: Any, p: Any, i: Any, value: Any) -> Any:
    """Set p[i] = value."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.void(p, types.intp, p.dtype), codegen


@intrinsic
def cast(typingctx: Any, value: Any, p: Any) -> Any:
    """Return ``value`` in the dtype of p's elements: a float64 scalar would draw a float32 loop up to float64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.cast(builder, args[0], signature.args[0], signature.args[1].dtype)

    return p.dtype(value, p), codegen


@intrinsic
def lanes(typingctx: Any, p: Any) -> Any:
    """Return how many of p's elements fill a vector register."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.IntType(64)(VECTOR_BYTES // (signature.args[0].dtype.bitwidth // 8))

    return types.int64(p), codegen


@intrinsic
def epsilon(typingctx: Any, p: Any) -> Any:
    """Return the machine epsilon of p's elements, as float64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.DoubleType()(float(np.finfo(signature.args[0].dtype.name).eps))

    return types.float64(p), codegen


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
    def __init__(self, interface: dict[str, Any], owner: Any) -> None:
        self.__array_interface__ = interface
        self.owner = owner


def _vector_fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """Emit x y + z: one rounding where the processor has it, else a product and a sum."""
    if not HAS_FMA:
        return builder.fadd(builder.fmul(x, y), z)
    kind = x.type
    lanes = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
    element = kind.element if lanes else kind
    name = f"llvm.fma.{lanes}{'f32' if isinstance(element, ir.FloatType) else 'f64'}"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * 3), name)
    return builder.call(function, [x, y, z])


@intrinsic
def fma(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
    """Return x y + z with one rounding."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _vector_fma(builder, *args)

    return x(x, x, x), codegen


@intrinsic
def power_of_two(typingctx: Any, shifted: Any) -> Any:
    """Return 2^n for shifted = n + 1.5 * 2^(mantissa bits): n stands in the low bits and moves into the exponent."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        single = signature.args[0] == types.float32
        integer, bias, mantissa = (ir.IntType(32), 127, 23) if single else (ir.IntType(64), 1023, 52)
        bits = builder.add(builder.bitcast(args[0], integer), integer(bias))
        return builder.bitcast(builder.shl(bits, integer(mantissa)), args[0].type)

    return shifted(shifted), codegen


def make_polynomial(coefficients: dict[Any, tuple[float, ...]]) -> Any:
    """Generate Horner's scheme by FMAs; ``coefficients`` are given for each dtype, the highest power first."""

    @intrinsic
    def polynomial(typingctx: Any, x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            (point,) = args
            total, *rest = (ir.Constant(point.type, c) for c in coefficients[signature.args[0]])
            for coefficient in rest:
                total = _vector_fma(builder, total, point, coefficient)
            return total

        return x(x), codegen

    return polynomial


@intrinsic
def tile(
    typingctx: Any, n_rows: Any, n_vectors: Any, K: Any, A: Any, a_row: Any, a_k: Any, B: Any, b_k: Any, C: Any
) -> Any:
    """C[r, :] = sum_k A[r, k] B[k, :] for ``n_rows`` of `TILE_ROWS` and 1 to `TILE_VECTORS` vectors of columns.

    A, B, C point to elements of one dtype; ``a_row`` and ``a_k`` are the strides of A, ``b_k`` that of B along k; C is
    written densely. Each sum ascends over k in one accumulator.
    """
    integer = types.intp
    return types.void(integer, integer, integer, A, integer, integer, B, integer, C), _emit_tiles


def _emit_tiles(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Emit a switch over the menu, one loop for each shape."""
    n_rows, n_vectors, *operands = args
    integer = n_rows.type
    done = builder.append_basic_block("tile.done")
    key = builder.add(builder.mul(n_rows, integer(TILE_VECTORS + 1)), n_vectors)
    choice = builder.switch(key, done)
    for rows in TILE_ROWS:
        for vectors in range(1, TILE_VECTORS + 1):
            block = builder.append_basic_block(f"tile.{rows}x{vectors}")
            choice.add_case(integer(rows * (TILE_VECTORS + 1) + vectors), block)
            builder.position_at_end(block)
            _emit_tile(rows, vectors, builder, signature.args[3], operands)
            builder.branch(done)
    builder.position_at_end(done)
    return context.get_dummy_value()


def _emit_tile(n_rows: int, n_vectors: int, builder: Any, kind: Any, operands: Any) -> None:
    """Emit the loop over k of one tile: its sums stay in vector registers until they are stored."""
    K, A, a_row, a_k, B, b_k, C = operands
    single = kind.dtype == types.float32
    align = 4 if single else 8
    lanes = VECTOR_BYTES // align
    vector = ir.VectorType(ir.FloatType() if single else ir.DoubleType(), lanes)
    undefined, zero, integer = ir.Constant(vector, ir.Undefined), ir.Constant(vector, None), K.type
    first_lane = ir.Constant(ir.VectorType(ir.IntType(32), lanes), None)

    def vector_at(start: Any, offset: Any) -> Any:
        return builder.bitcast(builder.gep(start, [offset]), vector.as_pointer())

    rows = [builder.gep(A, [builder.mul(a_row, integer(r))]) for r in range(n_rows)]
    before = builder.block
    loop, after = builder.append_basic_block("tile.k"), builder.append_basic_block("tile.store")
    builder.cbranch(builder.icmp_signed(">", K, integer(0)), loop, after)

    builder.position_at_end(loop)
    k, at_a, at_b = (builder.phi(integer) for _ in range(3))
    sums = [builder.phi(vector) for _ in range(n_rows * n_vectors)]
    columns = [
        builder.load(vector_at(B, builder.add(at_b, integer(v * lanes))), align=align) for v in range(n_vectors)
    ]
    totals = []
    for r in range(n_rows):
        scalar = builder.insert_element(undefined, builder.load(builder.gep(rows[r], [at_a])), ir.IntType(32)(0))
        splat = builder.shuffle_vector(scalar, undefined, first_lane)
        for v in range(n_vectors):
            totals.append(_vector_fma(builder, splat, columns[v], sums[r * n_vectors + v]))
    next_k = builder.add(k, integer(1))
    following = (next_k, builder.add(at_a, a_k), builder.add(at_b, b_k), *totals)
    for phi, value in zip((k, at_a, at_b, *sums), following, strict=True):
        phi.add_incoming(ir.Constant(phi.type, None if phi.type == vector else 0), before)
        phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed("<", next_k, K), loop, after)

    builder.position_at_end(after)
    results = [builder.phi(vector) for _ in totals]
    for result, total in zip(results, totals, strict=True):
        result.add_incoming(zero, before)
        result.add_incoming(total, loop)
    for index, result in enumerate(results):
        builder.store(result, vector_at(C, integer(index * lanes)), align=align)
