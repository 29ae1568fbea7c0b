"""Exponents and other bits of floating-point numbers: intrinsics on vectors, and on single lanes."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .numba_vectors import VECTOR_BYTES, Mask, as_many, element_of, emit_call, emit_constant, vector_function


@intrinsic
def times_power_of_two(typingctx: Any, x: Any, n: Any) -> Any:
    """Return x 2^n for whole n, which may lie beyond the exponents of the dtype."""
    return vector_function(_emit_scaled)(x, n)


def _emit_scaled(builder: Any, x: Any, n: Any) -> Any:
    if VECTOR_BYTES < 64 or not isinstance(x.type, ir.VectorType):
        return _emit_scaled_twice(builder, x, n)
    bits, all_lanes, as_usual = (32 if x.type.count == 16 else 64), ir.IntType(x.type.count)(-1), ir.IntType(32)(4)
    name = f"llvm.x86.avx512.mask.scalef.p{'s' if bits == 32 else 'd'}.512"
    return emit_call(builder, name, x.type, x, n, x, all_lanes, as_usual)


def _emit_scaled_twice(builder: Any, x: Any, n: Any) -> Any:
    """Multiply by two powers of 2: n + 1.5 * 2^(mantissa bits) has n in the low bits, which move into the exponent."""
    bits, bias, mantissa = (32, 127, 23) if isinstance(element_of(x.type), ir.FloatType) else (64, 1023, 52)
    integers = as_many(x.type, ir.IntType(bits))
    shift = emit_constant(x.type, 1.5 * 2.0**mantissa)
    half = builder.fadd(builder.fmul(n, emit_constant(x.type, 0.5)), shift)
    for shifted in (half, builder.fadd(builder.fsub(n, builder.fsub(half, shift)), shift)):
        exponent = builder.add(builder.bitcast(shifted, integers), emit_constant(integers, bias))
        x = builder.fmul(x, builder.bitcast(builder.shl(exponent, emit_constant(integers, mantissa)), x.type))
    return x


@intrinsic
def split_power(typingctx: Any, x: Any) -> Any:
    """Return n and m of x = 2^n m, m in [sqrt(1/2), sqrt(2)), for normal x > 0."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        (x,) = args
        single = isinstance(element_of(x.type), ir.FloatType)
        bits, mantissa, root_half = (32, 23, 0x3F3504F3) if single else (64, 52, 0x3FE6A09E667F3BCD)
        integers, shift = as_many(x.type, ir.IntType(bits)), emit_constant(x.type, 1.5 * 2.0**mantissa)
        raw, places = builder.bitcast(x, integers), emit_constant(integers, mantissa)
        n = builder.ashr(builder.sub(raw, emit_constant(integers, root_half)), places)
        m = builder.bitcast(builder.sub(raw, builder.shl(n, places)), x.type)
        shifted = builder.add(n, builder.bitcast(shift, integers))
        power = builder.fsub(builder.bitcast(shifted, x.type), shift)
        return context.make_tuple(builder, signature.return_type, (power, m))

    return types.UniTuple(x, 2)(x), codegen


@intrinsic(prefer_literal=True)
def has_bit(typingctx: Any, n: Any, place: Any) -> Any:
    """Tell whether a bit of a whole number is set, as in two's complement: ``has_bit(n, 0)`` is whether n is odd."""
    bit = 1 << place.literal_value

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        n = args[0]
        bits, mantissa = (32, 23) if isinstance(element_of(n.type), ir.FloatType) else (64, 52)
        integers = as_many(n.type, ir.IntType(bits))
        raw = builder.bitcast(builder.fadd(n, emit_constant(n.type, 1.5 * 2.0**mantissa)), integers)
        return builder.icmp_unsigned("!=", builder.and_(raw, emit_constant(integers, bit)), emit_constant(integers, 0))

    return Mask(n)(n, place), codegen
