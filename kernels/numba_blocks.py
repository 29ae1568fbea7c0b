"""What the Numba backend's row primitives do in many vector registers at once, written as LLVM instructions.

A *block* is as many vectors as a vector has lanes: it can be transposed in registers. A *row* here is up to
`ROW_VECTORS` vectors of sums or addends, which stay in registers while a loop runs over the units that are listed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .numba_vectors import (
    Vector,
    emit_fma,
    emit_is_whole,
    emit_load,
    emit_load_part,
    emit_mask,
    emit_splat,
    emit_store,
    emit_zip,
    vector_of,
)

ROW_VECTORS = 8


# -------------------------------------------------------------------------------------------------- blocks


@intrinsic
def gather_block(typingctx: Any, X: Any, rows: Any, n: Any, panel: Any, pitch: Any) -> Any:
    """Transpose a block: n elements of each of the rows that begin at X + rows[lane] become n rows of a panel.

    Only as many elements as a vector has are taken. Return the sum of 0 x, lane by lane: 0 unless one is infinite or
    NaN.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        X, rows, n, panel, pitch = args
        vector = vector_of(signature.args[0].dtype)[0]
        zero, zeros = ir.Constant(vector, None), cgutils.alloca_once(builder, vector)
        sources = _rows_at(builder, X, rows, vector.count)

        def emit(mask: Any) -> None:
            block = [emit_load(builder, source, vector, mask) for source in sources]
            total = zero
            for x in block:
                total = emit_fma(builder, x, zero, total)
            builder.store(total, zeros)
            for lane, x in enumerate(_transpose(builder, block)):
                target = builder.gep(panel, [builder.mul(pitch, n.type(lane))])
                with builder.if_then(builder.icmp_signed("<", n.type(lane), n)):
                    emit_store(builder, x, target)

        with builder.if_else(emit_is_whole(builder, vector, n)) as (then, otherwise):
            with then:
                emit(None)
            with otherwise:
                emit(emit_mask(builder, vector, n))
        return builder.load(zeros)

    return Vector(X.dtype)(X, rows, types.intp, panel, types.intp), codegen


@intrinsic
def scatter_block(typingctx: Any, panel: Any, pitch: Any, n: Any, out: Any, row: Any, n_rows: Any, columns: Any) -> Any:
    """Transpose a block back: n rows of a panel to n_rows samples ``row`` apart, at most as many as a vector has lanes.

    Of each sample ``columns`` elements are written, zeros beyond n.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        panel, pitch, n, out, row, n_rows, columns = args
        vector = vector_of(signature.args[0].dtype)[0]
        zero, integer = ir.Constant(vector, None), n.type
        targets = [builder.gep(out, [builder.mul(row, integer(lane))]) for lane in range(vector.count)]

        def load(lane: int, is_whole: bool) -> Any:
            if is_whole:
                return emit_load(builder, builder.gep(panel, [builder.mul(pitch, integer(lane))]), vector)
            is_there = builder.icmp_signed("<", integer(lane), n)
            place = builder.select(is_there, builder.mul(pitch, integer(lane)), integer(0))
            return builder.select(is_there, emit_load(builder, builder.gep(panel, [place]), vector), zero)

        def emit(is_whole: bool) -> None:
            block = _transpose(builder, [load(lane, is_whole) for lane in range(vector.count)])
            for lane, (x, target) in enumerate(zip(block, targets, strict=True)):
                is_there = builder.icmp_signed("<", integer(lane), n_rows)
                count = builder.select(is_there, columns, integer(0))
                emit_store(builder, x, target, None if is_whole else emit_mask(builder, vector, count))

        is_whole = builder.and_(*(emit_is_whole(builder, vector, count) for count in (n, n_rows)))
        with builder.if_else(is_whole) as (then, otherwise):
            with then:
                emit(True)
            with otherwise:
                emit(False)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(panel, integer, integer, out, integer, integer, integer), codegen


@intrinsic
def block_products(typingctx: Any, n_rows: Any, rows: Any, delta: Any, W: Any, w_vector: Any, n_vectors: Any) -> Any:
    """Return sum_j delta[j] W[rows[lane] + j] for at least n_rows lanes; W's vectors stand ``w_vector`` apart."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n_rows, rows, delta, W, w_vector, n_vectors = args
        vector = vector_of(signature.args[3].dtype)[0]
        found = cgutils.alloca_once(builder, vector)

        def emit(count: int) -> None:
            sources = _rows_at(builder, W, rows, count)
            totals = [cgutils.alloca_once(builder, vector) for _ in sources]
            for total in totals:
                builder.store(ir.Constant(vector, None), total)
            with cgutils.for_range(builder, n_vectors) as loop:
                here = builder.mul(loop.index, loop.index.type(vector.count))
                factor = emit_load(builder, builder.gep(delta, [here]), vector)
                offset = builder.mul(loop.index, w_vector)
                for source, total in zip(sources, totals, strict=True):
                    w = emit_load(builder, builder.gep(source, [offset]), vector)
                    builder.store(emit_fma(builder, factor, w, builder.load(total)), total)
            builder.store(_sum_vectors(builder, [builder.load(total) for total in totals]), found)

        few = max(1, vector.count // 4)
        with builder.if_else(builder.icmp_signed("<=", n_rows, n_rows.type(few))) as (then, otherwise):
            with then:
                emit(few)
            with otherwise:
                emit(vector.count)
        return builder.load(found)

    return Vector(W.dtype)(types.intp, rows, delta, W, types.intp, types.intp), codegen


def _rows_at(builder: Any, start: Any, rows: Any, count: int) -> list[Any]:
    """Return the pointers start + rows[lane]."""
    offsets = [builder.load(builder.gep(rows, [ir.IntType(64)(lane)])) for lane in range(count)]
    return [builder.gep(start, [offset]) for offset in offsets]


def _transpose(builder: Any, block: list[Any]) -> list[Any]:
    """Transpose a block: the halves zipped together, log2(lanes) times."""
    half, rest = len(block) // 2, len(block)
    while rest > 1:
        pairs = zip(block[:half], block[half:], strict=True)
        block = [zipped for x, y in pairs for zipped in emit_zip(builder, x, y)]
        rest //= 2
    return block


def _sum_vectors(builder: Any, block: list[Any]) -> Any:
    """Return the sum of each vector of a block, over and over: neighbours zipped and added, log2(lanes) times."""
    half = block[0].type.count // 2
    while half:
        pairs = zip(block[:half], block[half:] or block, strict=True)
        block = [builder.fadd(*emit_zip(builder, x, y)) for x, y in pairs]
        half //= 2
    return block[0]


# ---------------------------------------------------------------------------------------------------- rows


@intrinsic
def weighted_vectors(
    typingctx: Any,
    n_vectors: Any,
    n_listed: Any,
    listed: Any,
    x: Any,
    W: Any,
    w_row: Any,
    w_vector: Any,
    n: Any,
    sums: Any,
) -> Any:
    """sums[j] = sum_t x[listed[t]] W[listed[t], j] for 1 to `ROW_VECTORS` vectors of n columns in all.

    Each sum ascends over t in one accumulator.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n_vectors, n_listed, listed, x, W, w_row, w_vector, n, sums = args
        vector, integer = vector_of(signature.args[4].dtype)[0], n.type

        def emit(width: int) -> None:
            totals = [cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in range(width)]
            rest = builder.sub(n, integer((width - 1) * vector.count))
            with cgutils.for_range(builder, n_listed) as loop:
                i = _unit(builder, listed, loop.index)
                factor = emit_splat(builder, builder.load(builder.gep(x, [i])), vector)
                places = _vectors_at(builder, builder.gep(W, [builder.mul(i, w_row)]), w_vector, width)
                row = [emit_load(builder, place, vector) for place in places[:-1]]
                row.append(emit_load_part(builder, places[-1], vector, rest))
                for w, total in zip(row, totals, strict=True):
                    builder.store(emit_fma(builder, factor, w, builder.load(total)), total)
            for place, total in zip(_vectors_at(builder, sums, integer(vector.count), width), totals, strict=True):
                emit_store(builder, builder.load(total), place)

        _emit_each_width(builder, n_vectors, emit)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(integer, integer, listed, x, W, integer, integer, integer, sums), codegen


@intrinsic
def add_outer_vectors(
    typingctx: Any, n_vectors: Any, n_listed: Any, listed: Any, scale: Any, x: Any, d: Any, W: Any, w_vector: Any
) -> Any:
    """W[i, :] += scale x[i] d for each i that is listed and 1 to `ROW_VECTORS` vectors of d."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n_vectors, n_listed, listed, scale, x, d, W, w_vector = args
        vector, integer = vector_of(signature.args[6].dtype)[0], n_vectors.type

        def emit(width: int) -> None:
            places = _vectors_at(builder, d, integer(vector.count), width)
            addends = [emit_load(builder, place, vector) for place in places]
            with cgutils.for_range(builder, n_listed) as loop:
                i = _unit(builder, listed, loop.index)
                factor = emit_splat(builder, builder.fmul(scale, builder.load(builder.gep(x, [i]))), vector)
                start = builder.gep(W, [builder.mul(i, integer(vector.count))])
                places = _vectors_at(builder, start, w_vector, width)
                changed = _emit_added(builder, places, factor, addends)
                for w, place in zip(changed, places, strict=True):
                    emit_store(builder, w, place)

        _emit_each_width(builder, n_vectors, emit)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(integer, integer, listed, x.dtype, x, d, W, integer), codegen


@intrinsic
def add_outer_forward_vectors(
    typingctx: Any,
    n_vectors: Any,
    n_listed: Any,
    listed: Any,
    scale: Any,
    x: Any,
    d: Any,
    following: Any,
    W: Any,
    w_vector: Any,
    sums: Any,
) -> Any:
    """Do `add_outer_vectors`, and at once sum ``following[i] W[i, :]``, for 1 to ``ROW_VECTORS // 2`` vectors."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n_vectors, n_listed, listed, scale, x, d, following, W, w_vector, sums = args
        vector, integer = vector_of(signature.args[7].dtype)[0], n_vectors.type

        def emit(width: int) -> None:
            places = _vectors_at(builder, d, integer(vector.count), width)
            addends = [emit_load(builder, place, vector) for place in places]
            totals = [cgutils.alloca_once_value(builder, ir.Constant(vector, None)) for _ in range(width)]
            with cgutils.for_range(builder, n_listed) as loop:
                i = _unit(builder, listed, loop.index)
                factor = emit_splat(builder, builder.fmul(scale, builder.load(builder.gep(x, [i]))), vector)
                following_factor = emit_splat(builder, builder.load(builder.gep(following, [i])), vector)
                start = builder.gep(W, [builder.mul(i, integer(vector.count))])
                places = _vectors_at(builder, start, w_vector, width)
                changed = _emit_added(builder, places, factor, addends)
                for w, place, total in zip(changed, places, totals, strict=True):
                    emit_store(builder, w, place)
                    builder.store(emit_fma(builder, following_factor, w, builder.load(total)), total)
            for place, total in zip(_vectors_at(builder, sums, integer(vector.count), width), totals, strict=True):
                emit_store(builder, builder.load(total), place)

        _emit_each_width(builder, n_vectors, emit, ROW_VECTORS // 2)
        return context.get_dummy_value()

    integer = types.intp
    return types.void(integer, integer, listed, x.dtype, x, d, following, W, integer, sums), codegen


def _emit_added(builder: Any, places: list[Any], factor: Any, addends: list[Any]) -> list[Any]:
    """Return what stands at some places, with factor x addend added.

    All is loaded before any of it is stored: strips that are a multiple of 4 KB apart look alike to the processor,
    which lets a load wait for a store to what may be its place.
    """
    row = [emit_load(builder, place, factor.type) for place in places]
    return [emit_fma(builder, factor, addend, w) for addend, w in zip(addends, row, strict=True)]


def _unit(builder: Any, listed: Any, t: Any) -> Any:
    """Return listed[t]."""
    return builder.sext(builder.load(builder.gep(listed, [t])), t.type)


def _vectors_at(builder: Any, start: Any, stride: Any, count: int) -> list[Any]:
    """Return pointers to ``count`` vectors that stand ``stride`` apart."""
    return [builder.gep(start, [builder.mul(stride, stride.type(v))]) for v in range(count)]


def _emit_each_width(builder: Any, n_vectors: Any, emit: Callable[[int], None], most: int = ROW_VECTORS) -> None:
    """Emit a switch over 1 to ``most`` vectors."""
    done = builder.append_basic_block("row.done")
    choice = builder.switch(n_vectors, done)
    for width in range(1, most + 1):
        block = builder.append_basic_block(f"row.{width}")
        choice.add_case(n_vectors.type(width), block)
        builder.position_at_end(block)
        emit(width)
        builder.branch(done)
    builder.position_at_end(done)
