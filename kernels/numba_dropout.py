"""Dropout in the backend `numba`: masks by Philox4x32-10 (``reference/philox.py``), a vector of counters at a time.

A counter's four words are four neighbouring units of one sample. In panels the lanes are samples, and the words fall to
where they belong; in rows the lanes are counters, whose words are then put in turn.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import math
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .contract import FIRST_KEPT, PHILOX_KEYS, PHILOX_MULTIPLIERS, PHILOX_ROUNDS, Op
from .numba_jit import inlined, jit, primitive
from .numba_packing import make_batch, pack_batch, panel_start, panel_width, take_batch, unpack_batch
from .numba_parts import further
from .numba_rules import at_zero_of, beta_of, code_of, times_derivative
from .numba_tiles import TILE_VECTORS
from .numba_vectors import (
    at,
    emit_constant,
    emit_load,
    emit_shuffle,
    emit_splat,
    emit_store,
    emit_zip,
    is_null,
    lanes,
    load_nth,
    load_vector,
    null,
    pointer,
    stack_vectors,
    store_vector,
    vector_of,
)
from .numba_workers import alone, rounded, share

WORD = ir.IntType(32)


class Masks(NamedTuple):
    """What is the same for all masks of a row of the plan in a step."""

    third: int
    fourth: int
    key: int
    second_key: int
    last_kept: int  # the largest word for which a unit is kept
    scale: float


@inlined
def masks_of(probability, stream, step):
    seed, number = int(step.seed), int(step.number)
    counter, key = (number & 0xFFFFFFFF, stream + ((number >> 32) << 16)), (seed & 0xFFFFFFFF, seed >> 32)
    return Masks(*counter, *key, math.ceil(probability * 4294967296.0) - 1, 1.0 / probability)


@intrinsic
def draw(
    typingctx: Any, quad: Any, quad_step: Any, row: Any, row_step: Any, numbers: Any, scale: Any, factors: Any
) -> Any:
    """Write four vectors of factors, one for each word of a vector's counters: ``scale`` where it is kept, else 0.

    A lane's counter has quad + lane quad_step and row + lane row_step; ``numbers`` are the other words of counter and
    key, and the largest word that is kept.
    """

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        quad, quad_step, row, row_step, numbers, scale, factors = args
        vector = vector_of(signature.args[-1].dtype)[0]
        words, zero = ir.VectorType(WORD, vector.count), ir.Constant(vector, None)
        lane_numbers = ir.Constant(words, list(range(vector.count)))

        def spread(value: Any) -> Any:
            return emit_splat(builder, builder.trunc(value, WORD), words)

        def counted(first: Any, step: Any) -> Any:
            return builder.add(spread(first), builder.mul(lane_numbers, spread(step)))

        third, fourth, key, second_key, last_kept = (spread(builder.extract_value(numbers, n)) for n in range(5))
        counter = counted(quad, quad_step), counted(row, row_step), third, fourth
        scales = emit_splat(builder, builder.fptrunc(scale, vector.element) if is_single(vector) else scale, vector)
        for number, word in enumerate(_emit_philox(builder, counter, (key, second_key))):
            is_kept = builder.icmp_unsigned("<=", word, last_kept)
            place = builder.gep(factors, [ir.IntType(64)(number * vector.count)])
            emit_store(builder, builder.select(is_kept, scales, zero), place)
        return context.get_dummy_value()

    integer = types.int64
    numbers = types.UniTuple(integer, 5)
    return types.void(integer, integer, integer, integer, numbers, types.float64, factors), codegen


def is_single(vector: ir.VectorType) -> bool:
    """Tell whether a vector's lanes are float32."""
    return isinstance(vector.element, ir.FloatType)


def _emit_philox(builder: Any, counter: tuple[Any, ...], key: tuple[Any, Any]) -> tuple[Any, ...]:
    """Return the four words of each counter (Salmon et al. 2011, 3.3)."""
    (a, b, c, d), (low, high) = counter, key
    for _ in range(PHILOX_ROUNDS):
        (first_high, first_low), (second_high, second_low) = (
            _emit_product(builder, x, factor) for x, factor in zip((a, c), PHILOX_MULTIPLIERS, strict=True)
        )
        a, b = builder.xor(builder.xor(second_high, b), low), second_low
        c, d = builder.xor(builder.xor(first_high, d), high), first_low
        low, high = (
            builder.add(k, emit_constant(k.type, step)) for k, step in zip((low, high), PHILOX_KEYS, strict=True)
        )
    return a, b, c, d


def _emit_product(builder: Any, x: Any, factor: int) -> tuple[Any, Any]:
    """Return the upper and the lower words of x times a constant: products of 64 bits, of even and of odd lanes."""
    count, wide = x.type.count, ir.VectorType(ir.IntType(64), x.type.count // 2)
    even, odd = (
        builder.bitcast(builder.mul(builder.zext(half, wide), emit_constant(wide, factor)), x.type)
        for half in (emit_shuffle(builder, x, x, list(range(first, count, 2))) for first in (0, 1))
    )
    upper, lower = ([lane + place + side for lane in range(0, count, 2) for side in (0, count)] for place in (1, 0))
    return emit_shuffle(builder, even, odd, upper), emit_shuffle(builder, even, odd, lower)


@intrinsic
def take_turns(typingctx: Any, factors: Any) -> Any:
    """Put the lanes of four vectors in turn: the first of each, the second of each, ..."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = vector_of(signature.args[0].dtype)[0]
        places = [builder.gep(args[0], [ir.IntType(64)(number * vector.count)]) for number in range(4)]
        first, second, third, fourth = (emit_load(builder, place, vector) for place in places)
        pairs = zip(emit_zip(builder, first, third), emit_zip(builder, second, fourth), strict=True)
        turns = [zipped for even, odd in pairs for zipped in emit_zip(builder, even, odd)]
        for value, place in zip(turns, places, strict=True):
            emit_store(builder, value, place)
        return context.get_dummy_value()

    return types.void(factors), codegen


@inlined
def drop(n, factor, activation, a, saved):
    """Multiply n units, a vector of them at most, by their factors; keep the derivative with the factor in it."""
    code, value = code_of(activation), load_vector(a, n, 0)
    if not is_null(saved):
        known = load_vector(saved, n, 0) if code >= FIRST_KEPT.value else value
        kept = times_derivative(code, beta_of(activation), at_zero_of(activation), known, factor)
        store_vector(saved, n, kept)
    store_vector(a, n, factor * value)


@primitive("vWBipqdiSp", only_for=(Op.DROPOUT,))
def dropout_units(worker, batch, n, a, activation, probability, stream, step, saved):
    """Units are shared, four at a time; of few samples, samples are."""
    L, pitch, row, masks = lanes(a), TILE_VECTORS * lanes(a), rounded(n, lanes(a)), masks_of(probability, stream, step)
    factors, numbers = stack_vectors(a), (masks.third, masks.fourth, masks.key, masks.second_key, masks.last_kept)
    if batch.n_panels == 0:
        first, end = share(worker, batch.n, 1)
        for r in range(first, end):
            for u in range(0, n, 4 * L):
                draw(u // 4, 1, r, 0, numbers, masks.scale, factors)
                take_turns(factors)
                for j in range(u, min(u + 4 * L, n), L):
                    here = r * row + j
                    drop(n - j, load_nth(factors, (j - u) // L), activation, at(a, here), further(saved, here))
        return
    first, end = share(worker, n, 4)
    for p in range(batch.n_panels):
        start = panel_start(batch, p, L)
        for u in range(first, end, 4):
            for r in range(0, panel_width(batch, p, L), L):
                draw(u // 4, 0, start + r, 1, numbers, masks.scale, factors)
                for word in range(min(4, end - u)):
                    here = (p * n + u + word) * pitch + r
                    drop(L, load_nth(factors, word), activation, at(a, here), further(saved, here))


@jit
def dropout_by_hand(tiles, a, activation, probability, stream, step, saved, scratch):
    table, batch, n = pointer(tiles), make_batch(a.shape[0], pointer(scratch)), a.shape[1]
    worker, rest = alone(batch, 1, 1, pointer(scratch))
    out, rest = take_batch(rest, batch, n)
    kept, rest = take_batch(rest, batch, n)
    pack_batch(table, worker, batch, n, pointer(a), null(worker.ahead), out)
    if saved.size:
        pack_batch(table, worker, batch, n, pointer(saved), null(worker.ahead), kept)
    to_keep = kept if saved.size else null(kept)
    dropout_units(table, worker, batch, n, out, pointer(activation), probability, stream, step[0], to_keep)
    unpack_batch(table, worker, batch, n, out, pointer(a))
    if saved.size:
        unpack_batch(table, worker, batch, n, kept, pointer(saved))
