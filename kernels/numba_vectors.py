"""Vectors for the Numba backend: pointers, and a Numba type for one register of float32 or float64 lanes.

Numba leaves vectorisation to LLVM's guesses: a loop of unknown length gets checks for overlap and a scalar tail, and
layers are often narrower than a register. With `Vector` a kernel says what it means: the last, partial vector of a row
is loaded and stored under a mask. Arithmetic between vectors, and with scalars, reads as usual: a scalar is rounded to
the vector's dtype and spread over its lanes.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, lower_cast, register_model

from .numba_jit import host_has

VECTOR_BYTES = 64 if host_has("avx512f") else (32 if host_has("avx2") else 16)
HAS_FMA = host_has("fma") or host_has("neon")
HAS_COMPRESS = host_has("avx512vl")


class Vector(types.Type):
    """The Numba type of one register of lanes."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        super().__init__(f"{type(self).__name__}({dtype})")

    @property
    def llvm(self) -> Any:
        """LLVM's type of it."""
        return vector_of(self.dtype)[0]


class Lane(Vector):
    """The Numba type of one lane by itself: a number, with the functions of vectors, for loops that LLVM vectorises.

    Its products and sums fuse where `fma` says so only: its result depends on no code around it.
    """

    as_written = True

    @property
    def llvm(self) -> Any:
        return vector_of(self.dtype)[0].element


class Mask(types.Type):
    """The Numba type of a condition for each lane of a `Vector`: what a comparison of two returns."""

    def __init__(self, vector: Vector) -> None:
        self.vector = vector
        super().__init__(f"Mask({vector})")


@register_model(Vector)
@register_model(Lane)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, kind.llvm)


@register_model(Mask)
class _MaskModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Mask) -> None:
        super().__init__(manager, kind, as_many(kind.vector.llvm, ir.IntType(1)))


def vector_of(dtype: Any) -> tuple[ir.VectorType, int]:
    """Return the LLVM vector of a dtype, and the alignment of its elements."""
    size = dtype.bitwidth // 8
    return ir.VectorType(ir.FloatType() if size == 4 else ir.DoubleType(), VECTOR_BYTES // size), size


def emit_call(builder: Any, name: str, result: Any, *args: Any) -> Any:
    """Call an LLVM intrinsic by its full name: llvmlite cannot declare those on vectors."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def element_of(kind: Any) -> Any:
    """Return LLVM's type of the elements of a vector, or of the one lane that ``kind`` is."""
    return kind.element if isinstance(kind, ir.VectorType) else kind


def as_many(kind: Any, element: Any) -> Any:
    """Return LLVM's type of as many other elements."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def emit_constant(kind: Any, value: Any) -> Any:
    """Return a constant, the same in all lanes."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def _suffix(kind: Any) -> str:
    lanes = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
    return f"{lanes}f{32 if isinstance(element_of(kind), ir.FloatType) else 64}"


def emit_splat(builder: Any, scalar: Any, vector: Any) -> Any:
    """Spread a scalar over all lanes."""
    if not isinstance(vector, ir.VectorType):
        return scalar
    undefined, first = ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), vector.count), None)
    return builder.shuffle_vector(builder.insert_element(undefined, scalar, ir.IntType(32)(0)), undefined, first)


def emit_fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """Return x y + z: one rounding where the processor has it, else a product and a sum."""
    if not HAS_FMA:
        return builder.fadd(builder.fmul(x, y), z)
    return emit_call(builder, f"llvm.fma.{_suffix(x.type)}", x.type, x, y, z)


def emit_sqrt(builder: Any, x: Any) -> Any:
    """Return the square roots of the lanes."""
    return emit_call(builder, f"llvm.sqrt.{_suffix(x.type)}", x.type, x)


def emit_shuffle(builder: Any, x: Any, y: Any, lanes: list[int]) -> Any:
    """Pick lanes of two vectors, those of y counted on from those of x."""
    return builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def emit_zip(builder: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """Return the lower and the upper halves of two vectors, their lanes by turns."""
    count = x.type.count
    turns = [lane + side * count for lane in range(count) for side in (0, 1)]
    return emit_shuffle(builder, x, y, turns[:count]), emit_shuffle(builder, x, y, turns[count:])


def emit_mask(builder: Any, vector: ir.VectorType, n: Any) -> Any:
    """Return a mask of the first n lanes."""
    index = ir.VectorType(ir.IntType(32), vector.count)
    count = emit_splat(builder, builder.trunc(n, ir.IntType(32)), index)
    return builder.icmp_signed("<", ir.Constant(index, list(range(vector.count))), count)


def emit_load(builder: Any, p: Any, vector: ir.VectorType, mask: Any = None, fill: Any = None) -> Any:
    """Load a vector; with a mask its lanes alone, and ``fill`` or zeros in the others."""
    at_p, align = builder.bitcast(p, vector.as_pointer()), _align(vector)
    if mask is None:
        return builder.load(at_p, align=align)
    rest = ir.Constant(vector, None) if fill is None else fill
    return emit_call(builder, f"llvm.masked.load.{_suffix(vector)}.p0", vector, at_p, ir.IntType(32)(align), mask, rest)


def emit_store(builder: Any, value: Any, p: Any, mask: Any = None) -> None:
    """Store a vector; with a mask its lanes alone."""
    vector, align = value.type, _align(value.type)
    at_p = builder.bitcast(p, vector.as_pointer())
    if mask is None:
        builder.store(value, at_p, align=align)
    else:
        name = f"llvm.masked.store.{_suffix(vector)}.p0"
        emit_call(builder, name, ir.VoidType(), value, at_p, ir.IntType(32)(align), mask)


def emit_load_part(builder: Any, p: Any, vector: ir.VectorType, n: Any, fill: Any = None) -> Any:
    """Load the first n elements, as many as a vector has, and ``fill`` or zeros in the lanes beyond them."""
    with builder.if_else(emit_is_whole(builder, vector, n)) as (then, otherwise):
        with then:
            whole, from_whole = emit_load(builder, p, vector), builder.block
        with otherwise:
            part, from_part = emit_load(builder, p, vector, emit_mask(builder, vector, n), fill), builder.block
    result = builder.phi(vector)
    result.add_incoming(whole, from_whole)
    result.add_incoming(part, from_part)
    return result


def emit_is_whole(builder: Any, vector: ir.VectorType, n: Any) -> Any:
    """Tell whether n elements fill a vector."""
    return builder.icmp_signed(">=", n, n.type(vector.count))


def _align(vector: ir.VectorType) -> int:
    return 4 if isinstance(vector.element, ir.FloatType) else 8


# ------------------------------------------------------------------------------------------------ pointers


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
def null(typingctx: Any, p: Any) -> Any:
    """Return the pointer of p's type that points nowhere."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(args[0].type, None)

    return p(p), codegen


@intrinsic
def is_null(typingctx: Any, p: Any) -> Any:
    """Tell whether a pointer points nowhere."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.icmp_unsigned("==", args[0], ir.Constant(args[0].type, None))

    return types.boolean(p), codegen


@intrinsic
def address_of(typingctx: Any, p: Any) -> Any:
    """Return a pointer as a number."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.ptrtoint(args[0], ir.IntType(64))

    return types.int64(p), codegen


@intrinsic
def pointer_at(typingctx: Any, address: Any, p: Any) -> Any:
    """Return an address as a pointer of p's type."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], args[1].type)

    return p(types.int64, p), codegen


@intrinsic
def call_at(typingctx: Any, address: Any, pointers: Any, n: Any) -> Any:
    """Call the C function ``void f(T *, ..., int64_t n)`` at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        values = [*cgutils.unpack_tuple(builder, args[1]), args[2]]
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in values]).as_pointer()
        builder.call(builder.inttoptr(args[0], kind), values)
        return context.get_dummy_value()

    return types.void(types.int64, pointers, types.int64), codegen


@intrinsic
def as_pointer_to(typingctx: Any, p: Any, dtype: Any) -> Any:
    """Return the pointer p as one to elements of another dtype: ``as_pointer_to(p, numba.int32)``."""
    kind = types.CPointer(dtype.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(kind))

    return kind(p, dtype), codegen


@intrinsic
def load(typingctx: Any, p: Any, i: Any) -> Any:
    """Return p[i]."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.gep(args[0], [args[1]]))

    return p.dtype(p, types.intp), codegen


@intrinsic
def store(typingctx: Any, p: Any, i: Any, value: Any) -> Any:
    """Set p[i] = value, rounded to the dtype of p's elements."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[2], builder.gep(args[0], [args[1]]))
        return context.get_dummy_value()

    return types.void(p, types.intp, p.dtype), codegen


@intrinsic
def epsilon(typingctx: Any, p: Any) -> Any:
    """Return the machine epsilon of p's elements, as float64."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.DoubleType()(float(np.finfo(signature.args[0].dtype.name).eps))

    return types.float64(p), codegen


@intrinsic
def lanes(typingctx: Any, p: Any) -> Any:
    """Return how many of p's elements fill a vector."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.IntType(64)(vector_of(signature.args[0].dtype)[0].count)

    return types.int64(p), codegen


# ------------------------------------------------------------------------------------- vectors and memory


@intrinsic
def load_whole(typingctx: Any, p: Any, i: Any) -> Any:
    """Return a whole vector, the elements from p[i] on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        p, i = args
        return emit_load(builder, builder.gep(p, [i]), vector_of(signature.args[0].dtype)[0])

    return Vector(p.dtype)(p, types.intp), codegen


@intrinsic
def load_nth(typingctx: Any, p: Any, n: Any) -> Any:
    """Return the n-th of the vectors that lie one behind the other at p."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = vector_of(signature.args[0].dtype)[0]
        place = builder.mul(args[1], args[1].type(vector.count))
        return emit_load(builder, builder.gep(args[0], [place]), vector)

    return Vector(p.dtype)(p, types.intp), codegen


@intrinsic
def store_whole(typingctx: Any, p: Any, i: Any, value: Any) -> Any:
    """Store all lanes of a vector from p[i] on."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        p, i, value = args
        emit_store(builder, value, builder.gep(p, [i]))
        return context.get_dummy_value()

    return types.void(p, types.intp, Vector(p.dtype)), codegen


@intrinsic
def load_vector(typingctx: Any, p: Any, n: Any, fill: Any) -> Any:
    """Return the first n elements at p as a vector, ``fill`` in the lanes beyond them; n may exceed a vector."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        p, n, fill = args
        vector = vector_of(signature.args[0].dtype)[0]
        return emit_load_part(builder, p, vector, n, emit_splat(builder, fill, vector))

    return Vector(p.dtype)(p, types.intp, p.dtype), codegen


@intrinsic
def store_vector(typingctx: Any, p: Any, n: Any, value: Any) -> Any:
    """Store the first n lanes of a vector at p, all of them if n is larger."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        p, n, value = args
        with builder.if_else(emit_is_whole(builder, value.type, n)) as (then, otherwise):
            with then:
                emit_store(builder, value, p)
            with otherwise:
                emit_store(builder, value, p, emit_mask(builder, value.type, n))
        return context.get_dummy_value()

    return types.void(p, types.intp, Vector(p.dtype)), codegen


@intrinsic
def splat(typingctx: Any, value: Any, p: Any) -> Any:
    """Return a vector with ``value`` in all lanes, of the dtype of p: a pointer or another vector."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return args[0]

    return Vector(p.dtype)(Vector(p.dtype), p), codegen


@intrinsic
def stack_vectors(typingctx: Any, p: Any) -> Any:
    """Return room on the stack for 16 vectors of p's elements: the most lanes that a vector has."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        room = cgutils.alloca_once(builder, ir.ArrayType(vector_of(signature.args[0].dtype)[0], 16))
        room.align = VECTOR_BYTES
        return builder.bitcast(room, args[0].type)

    return p(p), codegen


@intrinsic
def first_lanes(typingctx: Any, x: Any, n: Any, fill: Any) -> Any:
    """Return the first n lanes of x, and ``fill`` in those beyond."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, n, fill = args
        return builder.select(emit_mask(builder, x.type, n), x, fill)

    return x(x, types.intp, x), codegen


@intrinsic
def list_lanes(typingctx: Any, condition: Any, first: Any, listed: Any) -> Any:
    """List the lanes for which a condition holds, counted from ``first``, and return how many.

    ``listed`` points to int32, with room for a whole vector's lanes.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        condition, first, listed = args
        emit = _emit_compressed if HAS_COMPRESS else _emit_listed
        return emit(builder, condition, builder.trunc(first, ir.IntType(32)), listed)

    return types.intp(condition, types.intp, listed), codegen


def _emit_compressed(builder: Any, condition: Any, first: Any, listed: Any) -> Any:
    """Shift the lanes together in a register and store it whole: the form that writes to memory is microcoded."""
    count = condition.type.count
    indices = ir.VectorType(ir.IntType(32), count)
    lanes = builder.add(ir.Constant(indices, list(range(count))), emit_splat(builder, first, indices))
    name = f"llvm.x86.avx512.mask.compress.v{count}i32"
    together = emit_call(builder, name, indices, lanes, ir.Constant(indices, None), condition)
    builder.store(together, builder.bitcast(listed, indices.as_pointer()), align=4)
    return builder.zext(builder.ctpop(builder.bitcast(condition, ir.IntType(count))), ir.IntType(64))


def _emit_listed(builder: Any, condition: Any, first: Any, listed: Any) -> Any:
    """Write every lane; the next one overwrites it unless it counts: no branch to guess."""
    found = ir.IntType(64)(0)
    for lane in range(condition.type.count):
        builder.store(builder.add(first, first.type(lane)), builder.gep(listed, [found]))
        counts = builder.extract_element(condition, ir.IntType(32)(lane))
        found = builder.add(found, builder.zext(counts, found.type))
    return found


# ---------------------------------------------------------------------------------------------- arithmetic


@lower_cast(types.Number, Vector)
def _spread(context: Any, builder: Any, from_type: Any, to_type: Any, value: Any) -> Any:
    return emit_splat(builder, context.cast(builder, value, from_type, to_type.dtype), to_type.llvm)


def _overload(function: Any, emit: Callable[..., Any], compares: bool = False) -> None:
    """Define an operator on vectors, or on a vector and a scalar; it returns a `Vector`, or a `Mask` if it compares."""

    @infer_global(function)
    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            vector = next((arg for arg in args if isinstance(arg, Vector)), None)
            if vector is None:
                return None
            return (Mask(vector) if compares else vector)(*[vector] * len(args))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit(builder, *args)

    lower_builtin(function, Vector)(codegen)
    lower_builtin(function, Vector, Vector)(codegen)


def _fusing(x: Any) -> tuple[str, ...]:
    return ("contract",) if isinstance(x.type, ir.VectorType) else ()


for _add in (operator.add, operator.iadd):
    _overload(_add, lambda builder, x, y: builder.fadd(x, y, flags=_fusing(x)))
_overload(operator.sub, lambda builder, x, y: builder.fsub(x, y, flags=_fusing(x)))
_overload(operator.mul, lambda builder, x, y: builder.fmul(x, y, flags=_fusing(x)))
_overload(operator.truediv, lambda builder, x, y: builder.fdiv(x, y))
_overload(operator.neg, lambda builder, x: builder.fneg(x))
_overload(operator.lt, lambda builder, x, y: builder.fcmp_ordered("<", x, y), compares=True)
_overload(operator.gt, lambda builder, x, y: builder.fcmp_ordered(">", x, y), compares=True)
_overload(operator.eq, lambda builder, x, y: builder.fcmp_ordered("==", x, y), compares=True)
_overload(operator.ne, lambda builder, x, y: builder.fcmp_unordered("!=", x, y), compares=True)


@intrinsic
def choose(typingctx: Any, condition: Any, yes: Any, no: Any) -> Any:
    """Return ``yes`` in the lanes where the condition holds, else ``no``."""
    vector = condition.vector

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(*args)

    return vector(condition, vector, vector), codegen


@intrinsic
def any_lane(typingctx: Any, condition: Any) -> Any:
    """Tell whether a condition holds in any lane."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        lanes = builder.bitcast(args[0], ir.IntType(args[0].type.count))
        return builder.icmp_unsigned("!=", lanes, lanes.type(0))

    return types.boolean(condition), codegen


def vector_function(emit: Callable[..., Any]) -> Any:
    """Make a function of vectors; scalars beside a vector are spread."""

    def typed(*kinds: Any) -> Any:
        vector = next(kind for kind in kinds if isinstance(kind, Vector))

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emit(builder, *args)

        return vector(*[vector] * len(kinds)), codegen

    return typed


@intrinsic
def fma(typingctx: Any, x: Any, y: Any, z: Any) -> Any:
    """Return x y + z with one rounding."""
    return vector_function(emit_fma)(x, y, z)


@intrinsic
def sqrt(typingctx: Any, x: Any) -> Any:
    """Return the square root of each lane."""
    return vector_function(emit_sqrt)(x)


@intrinsic
def absolute(typingctx: Any, x: Any) -> Any:
    """Return |x|."""
    return vector_function(lambda builder, x: emit_call(builder, f"llvm.fabs.{_suffix(x.type)}", x.type, x))(x)


@intrinsic
def copy_sign(typingctx: Any, x: Any, sign: Any) -> Any:
    """Return |x| with the signs of ``sign``."""

    def emit(builder: Any, x: Any, sign: Any) -> Any:
        return emit_call(builder, f"llvm.copysign.{_suffix(x.type)}", x.type, x, sign)

    return vector_function(emit)(x, sign)


@intrinsic
def minimum(typingctx: Any, x: Any, y: Any) -> Any:
    """Return y where y < x, else x: a NaN in x stays."""
    return vector_function(lambda builder, x, y: builder.select(builder.fcmp_ordered("<", y, x), y, x))(x, y)


@intrinsic
def maximum(typingctx: Any, x: Any, y: Any) -> Any:
    """Return y where y > x, else x: a NaN in x stays."""
    return vector_function(lambda builder, x, y: builder.select(builder.fcmp_ordered(">", y, x), y, x))(x, y)


def make_polynomial(single: tuple[float, ...], double: tuple[float, ...]) -> Any:
    """Make Horner's scheme by FMAs, coefficients for float32 and float64 given from the highest power down."""

    @intrinsic
    def polynomial(typingctx: Any, x: Any) -> Any:
        def emit(builder: Any, x: Any) -> Any:
            coefficients = single if isinstance(element_of(x.type), ir.FloatType) else double
            total, *rest = (emit_constant(x.type, coefficient) for coefficient in coefficients)
            for coefficient in rest:
                total = emit_fma(builder, total, x, coefficient)
            return total

        return vector_function(emit)(x)

    return polynomial


def make_constant(single: float, double: float) -> Any:
    """Make a function that returns one of two constants, spread over a vector like its argument."""
    return make_polynomial((single,), (double,))


def _reduce(emit: Callable[..., Any]) -> Any:
    """Make a function that folds a vector's upper half onto its lower one until one lane is left."""

    def typed(x: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            (vector,) = args
            while vector.type.count > 1:
                half = vector.type.count // 2
                undefined = ir.Constant(vector.type, ir.Undefined)
                low, high = (
                    ir.Constant(ir.VectorType(ir.IntType(32), half), list(range(start, start + half)))
                    for start in (0, half)
                )
                parts = (builder.shuffle_vector(vector, undefined, part) for part in (low, high))
                vector = emit(builder, *parts)
            return builder.extract_element(vector, ir.IntType(32)(0))

        return x.dtype(x), codegen

    return typed


@intrinsic
def sum_lanes(typingctx: Any, x: Any) -> Any:
    """Return the sum of all lanes, always added in the same order."""
    return _reduce(lambda builder, low, high: builder.fadd(low, high))(x)


@intrinsic
def max_lanes(typingctx: Any, x: Any) -> Any:
    """Return the largest lane."""

    def emit(builder: Any, low: Any, high: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", high, low), high, low)

    return _reduce(emit)(x)
