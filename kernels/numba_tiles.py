"""Register tiles of the Numba backend: products and updates that keep a block of sums in vector registers.

Numba's own loops cannot do that, so a tile is written as LLVM instructions: for each form of a product and each shape
of a fixed menu one loop of vector FMAs over rows x vectors sums. What is compiled depends on the dtype and this menu
alone, never on the size of a layer. The packed forms are those of the Cython backend (``tile_table.h``).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .contract import Activation, Optimizer
from .numba_jit import host_has, inlined, primitive
from .numba_rules import (
    CLIP,
    GRAD_SCALE,
    IN_BETA_1,
    IN_BETA_2,
    IN_EPSILON,
    IN_KEPT,
    IN_L2,
    IN_RATE,
    IN_REST_1,
    IN_REST_2,
    IN_SCALE,
    L2,
    act,
    apply_rule,
    at_zero_of,
    beta_of,
    code_of,
    store_rates,
    times_derivative,
)
from .numba_vectors import (
    address_of,
    at,
    emit_fma,
    emit_splat,
    emit_sqrt,
    is_null,
    lanes,
    load,
    load_nth,
    load_whole,
    null,
    pointer_at,
    splat,
    store,
    store_whole,
    sum_lanes,
    vector_of,
)
from .numba_workers import Ahead

TILE_ROWS = (8, 4, 2, 1) if host_has("avx512f") else (4, 2, 1)
TILE_VECTORS = 3
MAX_ROWS = TILE_ROWS[0]
"""The menu: tiles of 1 to `MAX_ROWS` rows and 1 to `TILE_VECTORS` vectors. 8 x 3 sums, 3 vectors and a broadcast fill
28 of AVX-512's 32 registers, 4 x 3 the 16 of AVX2."""

ALONG_STRIPS, ACROSS_STRIPS, FEW_ROWS = range(3)
"""Which operand of a product is broadcast, row by row: weights in strips, whose rows are a strip's lanes (forward) or
run across strips (backward); or a batch in rows, and then the strips are the other operand."""

GRAIN = 8
"""Inputs of a layer that one thread updates, in whole tiles: these do not depend on how many threads there are."""

CACHE_LINE = 64

SQUARES = 15
"""Where, behind the vectors of `store_rates`, a thread adds up the squares of a tile's weights."""


# ------------------------------------------------------------------------------------------------ products


@primitive("viiiiipipipipqpii")
def product(
    form, n_vectors, first, end, n_terms, A, a_next, B, b_next, C, c_next, bias, activation, below, begins, ends
):
    """Rows of a forward or backward product, C[r, :] = sum_k A[r, k] B[k, :], and what is done to a tile of them."""
    if ends == 0:
        bias, activation = null(bias), null(activation)
    row, code = first, code_of(activation)
    while row < end:
        n_rows = tile_rows(min(end - row, lanes(C)) if form == ALONG_STRIPS else end - row)  # a strip's at most
        _product_tile(form, n_rows, n_vectors, row, n_terms, A, a_next, B, b_next, C, c_next, bias, code, below, begins)
        if code > Activation.RELU:
            _finish_product(form, n_rows, n_vectors, row, C, c_next, activation, below)
        row += n_rows


@inlined
def tile_rows(remaining):
    """Return the most rows that a tile of the menu has and that remain."""
    return 8 if remaining >= 8 and MAX_ROWS == 8 else (4 if remaining >= 4 else (2 if remaining >= 2 else 1))


@inlined
def _finish_product(form, n_rows, n_vectors, row, C, c_next, activation, below):
    """Activation, or the derivative of the one below, where that needs more than a comparison."""
    vector, code, beta, at_zero = lanes(C), code_of(activation), beta_of(activation), at_zero_of(activation)
    c_row = c_next if form == FEW_ROWS else TILE_VECTORS * vector
    for r in range(row, row + n_rows):
        for here in range(r * c_row, r * c_row + n_vectors * vector, vector):
            z = load_whole(C, here)
            if is_null(below):
                store_whole(C, here, act(code, beta, z))
            else:
                store_whole(C, here, times_derivative(code, beta, at_zero, load_whole(below, here), z))


@intrinsic
def _product_tile(
    typingctx: Any,
    form: Any,
    n_rows: Any,
    n_vectors: Any,
    row: Any,
    n_terms: Any,
    A: Any,
    a_next: Any,
    B: Any,
    b_next: Any,
    C: Any,
    c_next: Any,
    bias: Any,
    activation: Any,
    below: Any,
    begins: Any,
) -> Any:
    """One tile: bias, and ReLU or its derivative, while it stands in registers. The sum ascends over k."""
    i = types.intp
    signature = types.void(i, i, i, i, i, A, i, B, i, C, i, bias, i, below, i)
    return signature, _switch({ALONG_STRIPS: (1, 2, 3), ACROSS_STRIPS: (1, 2, 3), FEW_ROWS: (1, 3)}, _emit_product)


def _emit_product(builder: Any, form: int, n_rows: int, n_vectors: int, vector: Any, operands: Any) -> None:
    row, n_terms, A, a_next, B, b_next, C, c_next, bias, activation, below, begins = operands
    integer, few, L = row.type, form == FEW_ROWS, vector.count
    pitch = integer(TILE_VECTORS * L)
    a_row = {ALONG_STRIPS: integer(1), ACROSS_STRIPS: integer(L), FEW_ROWS: a_next}[form]
    a_k = integer(L if form == ALONG_STRIPS else 1)
    c_row = c_next if few else pitch
    tile = _Tile(builder, vector, n_rows, n_vectors)
    b_k, b_vector = (integer(L), b_next) if few else (pitch, integer(L))
    if form == ALONG_STRIPS:
        strip, lane = builder.udiv(row, integer(L)), builder.urem(row, integer(L))
        start = builder.gep(A, [builder.add(builder.mul(strip, a_next), lane)])
    else:
        start = builder.gep(A, [builder.mul(row, a_row)])
    corner = builder.mul(row, c_row)
    C, below = builder.gep(C, [corner]), builder.gep(below, [corner])
    places = [
        builder.add(builder.mul(integer(r), c_row), integer(v * L)) for r in range(n_rows) for v in range(n_vectors)
    ]

    def go_on(sums: list[Any]) -> list[Any]:
        return [tile.load(C, place) for place in places]

    def add_segment(count: Any, a: Any, b: Any, sums: list[Any]) -> list[Any]:
        return tile.add_products(count, (a, a_row, a_k), (b, b_k, b_vector), sums)

    sums = _emit_if(builder, builder.icmp_signed("==", begins, integer(0)), tile.zeros(), go_on)
    if form == ACROSS_STRIPS:
        n_segments = builder.udiv(builder.add(n_terms, integer(L - 1)), integer(L))

        def next_strip(index: Any, carried: list[Any]) -> list[Any]:
            a, b, *sums = carried
            for r in range(n_rows):  # the next tile's rows begin far away from what the processor foresees
                _emit_prefetch(builder, builder.gep(a, [integer((n_rows + r) * L)]))
            rest = builder.sub(n_terms, builder.mul(index, integer(L)))
            count = builder.select(builder.icmp_signed("<", rest, integer(L)), rest, integer(L))
            b, *sums = add_segment(count, a, b, sums)
            return [builder.gep(a, [a_next]), b, *sums]

        sums = _emit_loop(builder, n_segments, [start, B, *sums], next_strip)[2:]
    else:
        sums = add_segment(n_terms, start, B, sums)[1:]

    finished = _emit_finish(tile, sums, row if not few else None, bias, activation, operands[10], below, places)
    for place, total in zip(places, finished, strict=True):
        tile.store(total, C, place)


def _emit_finish(
    tile: _Tile, sums: list[Any], row: Any, bias: Any, activation: Any, below: Any, below_tile: Any, places: list[Any]
) -> list[Any]:
    """Emit what is done to sums in registers: bias, by rows or (row is None) by columns; ReLU, or its derivative."""
    builder, vector, integer = tile.builder, tile.vector, activation.type

    def add_bias(sums: list[Any]) -> list[Any]:
        if row is None:
            biases = [tile.load(bias, integer(v * vector.count)) for v in range(tile.n_vectors)] * tile.n_rows
        else:
            scalars = [builder.load(builder.gep(bias, [builder.add(row, integer(r))])) for r in range(tile.n_rows)]
            biases = [emit_splat(builder, scalar, vector) for scalar in scalars for _ in range(tile.n_vectors)]
        return [builder.fadd(z, b) for z, b in zip(sums, biases, strict=True)]

    def rectify(sums: list[Any]) -> list[Any]:
        zero = ir.Constant(vector, None)
        return [builder.select(builder.fcmp_ordered("<", z, zero), zero, z) for z in sums]

    def pass_on(sums: list[Any]) -> list[Any]:
        zero = ir.Constant(vector, None)
        passes = [builder.fcmp_ordered("==", tile.load(below_tile, place), zero) for place in places]
        return [builder.select(closed, zero, z) for closed, z in zip(passes, sums, strict=True)]

    is_relu = builder.icmp_signed("==", activation, integer(int(Activation.RELU)))
    is_backward = builder.not_(_is_null(builder, below))
    sums = _emit_if(builder, builder.not_(_is_null(builder, bias)), sums, add_bias)
    sums = _emit_if(builder, builder.and_(is_relu, builder.not_(is_backward)), sums, rectify)
    return _emit_if(builder, builder.and_(is_relu, is_backward), sums, pass_on)


# ------------------------------------------------------------------------------------------------- updates


@primitive("viiiiiiiiippiiDppppiDqp")
def update(
    form, n_vectors, n, n_panels, n_wide, width, n_in, first, end, a_prev, delta, d_next, rule, step, W, param, m, v,
    w_vector, squares, ahead, own,
):  # fmt: skip
    """Rows of the update of a layer: the gradient of some inputs and strips, and the optimiser on each tile of it.

    While the sums of a tile are formed, Adam takes the tile before it, vector by vector: it waits for square roots and
    divisions, not for the units that multiply.
    """
    vector = lanes(own)
    store_rates(step, load(step, GRAD_SCALE), own)
    store_whole(own, SQUARES * vector, splat(0.0, own))
    sums, before = at(own, 16 * vector), at(own, (16 + TILE_VECTORS * MAX_ROWS) * vector)
    is_adam, l2 = rule == Optimizer.ADAM and load(step, CLIP) == 0, load(step, L2)
    is_direct = int(rule == Optimizer.SGD and l2 == 0 and load(step, CLIP) == 0)
    has_both = rule == Optimizer.ADAM or rule == Optimizer.NADAM
    n_states = 0 if form == FEW_ROWS or rule <= Optimizer.SGD else (3 if has_both else 2)
    second = v if rule > Optimizer.NADAM else m
    pause = n // (TILE_VECTORS * MAX_ROWS) + 1 if is_adam else n
    row, row_before, rows_before, taken = first, first, 0, 0
    state = W, param, m, v, w_vector, squares
    while row < end:
        n_rows = rows_of_next(n_vectors, end - row)
        rows_left = min(n_rows, end - row)
        applies = int(is_direct != 0 and rows_left == n_rows)
        _fetch_ahead(ahead)
        for s in range(n_panels, n_states):
            _prefetch_block(
                n_rows, n_vectors, at(param if s == 0 else (second if s == 1 else v), (row + n_rows) * vector), w_vector
            )
        end_before = n_vectors * MAX_ROWS if is_adam and rows_before > 0 else 0
        taken = _update_tile(
            form, n_rows, n_vectors, row, n, n_panels, n_wide, width, n_in, a_prev, delta, d_next, pause, n_states,
            applies, 0, end_before, row_before, rows_before, before, own, W, param, second, v, w_vector, sums,
        )  # fmt: skip
        if is_adam:
            finish_tile(rule, taken, n_vectors, row_before, rows_before, before, own, l2, *state)
            sums, before, taken = before, sums, 0
        elif applies == 0:
            finish_tile(rule, taken, n_vectors, row, rows_left, sums, own, l2, *state)
        row_before, rows_before = row, rows_left
        row += n_rows
    if is_adam:
        finish_tile(rule, taken, n_vectors, row_before, rows_before, before, own, l2, W, param, m, v, w_vector, squares)


@inlined
def rows_of_next(n_vectors, rest):
    """Return how many rows the next tile of an update has if ``rest`` remain.

    A sum waits for itself, so that less than eight of them take as long as eight: a tile with rows to spare, whose sums
    are dropped, is faster than several small ones. What the spare rows read lies in the `room` of the batch.
    """
    if MAX_ROWS == 8 and rest > (4 if n_vectors < TILE_VECTORS else 6):
        return 8
    return 4 if rest > 2 else (2 if rest > 1 else 1)


@inlined
def finish_tile(rule, taken, n_vectors, row, n_rows, sums, rates, l2, W, param, m, v, w_vector, squares):
    """The optimiser on the vectors of a tile that it has not taken yet."""
    vector = lanes(sums)
    penalty = load_nth(rates, SQUARES)
    while taken < n_vectors * MAX_ROWS and n_rows > 0:
        here = taken // MAX_ROWS * w_vector + (row + taken % MAX_ROWS) * vector
        g = load_nth(sums, taken)
        if l2 != 0:
            w = load_whole(W, here)
            g = g + load_nth(rates, IN_L2) * w
            penalty = penalty + w * w
        apply_rule(rule, rates, load_nth(rates, IN_SCALE) * g, vector, at(param, here), at(m, here), at(v, here))
        taken += 1 if taken % MAX_ROWS + 1 < n_rows else MAX_ROWS - taken % MAX_ROWS
    if l2 != 0 and n_rows > 0:
        store(squares, row // GRAIN, load(squares, row // GRAIN) + sum_lanes(penalty))
    store_whole(rates, SQUARES * vector, splat(0.0, sums))


@inlined
def _fetch_ahead(ahead):
    """Ask for some bytes of the next mini-batch: rows in random order are not foreseen."""
    rest, n_rows, n_sources = load(ahead, Ahead.BYTES), load(ahead, Ahead.N_ROWS), load(ahead, Ahead.N_SOURCES)
    source, row, byte = load(ahead, Ahead.SOURCE), load(ahead, Ahead.ROW), load(ahead, Ahead.BYTE)
    order = pointer_at(load(ahead, Ahead.ORDER), ahead)
    while rest > 0 and source < n_sources:
        row_bytes = load(ahead, Ahead.ROW_BYTES + source)
        start = load(ahead, Ahead.STARTS + source) + load(order, row) * row_bytes
        stop = min(byte + rest, row_bytes)
        rest -= stop - byte
        while byte < stop:  # a range with a step would divide
            prefetch(start + byte)
            byte += CACHE_LINE
        byte = stop
        if stop == row_bytes:
            prefetch(start + stop - 1)  # rows begin anywhere in a line
            byte, row = 0, row + 1
        if row == n_rows:
            row, source = 0, source + 1
    store(ahead, Ahead.SOURCE, source)
    store(ahead, Ahead.ROW, row)
    store(ahead, Ahead.BYTE, byte)


@inlined
def _prefetch_block(n_rows, n_vectors, start, w_vector):
    """Ask for one array's part of a tile."""
    for v in range(n_vectors):
        for r in range(n_rows):
            prefetch(address_of(at(start, v * w_vector + r * lanes(start))))


@intrinsic
def _update_tile(
    typingctx: Any,
    form: Any,
    n_rows: Any,
    n_vectors: Any,
    row: Any,
    n: Any,
    n_panels: Any,
    n_wide: Any,
    width: Any,
    n_in: Any,
    a_prev: Any,
    delta: Any,
    d_next: Any,
    pause: Any,
    n_states: Any,
    is_direct: Any,
    taken: Any,
    end_before: Any,
    row_before: Any,
    rows_before: Any,
    before: Any,
    rates: Any,
    W: Any,
    param: Any,
    m: Any,
    v: Any,
    w_vector: Any,
    sums: Any,
) -> Any:
    """Form the sums of a tile, and leave them in ``sums`` or, for plain descent, apply them.

    Every ``pause`` samples Adam takes a vector of the tile ``before``, from ``taken`` to ``end_before``; return how far
    it came.
    """
    i = types.intp
    integers, p = (i,) * 9, param
    signature = i(*integers, a_prev, delta, i, i, i, i, i, i, i, i, before, rates, W, p, m, v, i, sums)
    return signature, _switch({ACROSS_STRIPS: (1, 2, 3), FEW_ROWS: (1,)}, _emit_update)


def _emit_update(builder: Any, form: int, n_rows: int, n_vectors: int, vector: Any, operands: Any) -> Any:
    row, n, n_panels, n_wide, width, n_in, a_prev, delta, d_next, pause, n_states, is_direct, *waiting = operands
    taken, end_before, row_before, rows_before, before, rates, W, param, m, v, w_vector, sums = waiting
    integer, few, L = row.type, form == FEW_ROWS, vector.count
    pitch = integer(TILE_VECTORS * L)
    a_row, a_k = (integer(1), n_in) if few else (pitch, integer(1))
    d_k, d_vector = (d_next, integer(L)) if few else (integer(L), d_next)
    tile = _Tile(builder, vector, n_rows, n_vectors)
    adam = _Adam(builder, vector, rates, (W, param, m, v), w_vector, (before, row_before, rows_before))
    start = builder.gep(a_prev, [builder.mul(row, a_row)])

    def chunk(index: Any, carried: list[Any]) -> list[Any]:
        rest, a, d, taken, *sums = carried
        count = builder.select(builder.icmp_signed("<", rest, pause), rest, pause)
        d, *sums = tile.add_products(count, (a, a_row, a_k), (d, d_k, d_vector), sums)
        (taken,) = _emit_if(builder, builder.icmp_signed("<", taken, end_before), [taken], adam.take)
        return [builder.sub(rest, count), builder.gep(a, [builder.mul(count, a_k)]), d, taken, *sums]

    def add_chunks(length: Any, a: Any, d: Any, taken: Any, sums: list[Any]) -> list[Any]:
        count = builder.udiv(builder.add(length, builder.sub(pause, integer(1))), pause)
        return _emit_loop(builder, count, [length, a, d, taken, *sums], chunk)[2:]

    if few:
        _, taken, *totals = add_chunks(n, start, delta, taken, tile.zeros())
    else:

        def panel(index: Any, carried: list[Any]) -> list[Any]:
            rest, a, d, taken, *sums = carried
            ahead = builder.mul(builder.add(row, integer(n_rows)), integer(L))
            for place, state in enumerate((param, m, v)):
                is_due = builder.icmp_signed("==", index, integer(place))
                is_due = builder.and_(is_due, builder.icmp_signed("<", integer(place), n_states))
                with builder.if_then(is_due):
                    for r in range(n_rows):
                        for c in range(n_vectors):
                            offset = builder.add(ahead, builder.add(builder.mul(integer(c), w_vector), integer(r * L)))
                            _emit_prefetch(builder, builder.gep(state, [offset]))
            is_wide = builder.icmp_signed("<", index, n_wide)
            here = builder.select(is_wide, width, builder.sub(width, integer(L)))
            length = builder.select(builder.icmp_signed("<", rest, here), rest, here)
            d, taken, *sums = add_chunks(length, a, d, taken, sums)
            return [builder.sub(rest, length), builder.gep(a, [builder.mul(n_in, pitch)]), d, taken, *sums]

        _, _, _, taken, *totals = _emit_loop(builder, n_panels, [n, start, delta, taken, *tile.zeros()], panel)

    with builder.if_else(builder.icmp_signed("!=", is_direct, integer(0))) as (then, otherwise):
        with then:
            rate, scale = tile.load(rates, integer(IN_RATE * L)), tile.load(rates, integer(IN_SCALE * L))
            for c, r in itertools.product(range(n_vectors), range(n_rows)):
                place = builder.add(
                    builder.mul(integer(c), w_vector), builder.mul(builder.add(row, integer(r)), integer(L))
                )
                step = builder.fneg(builder.fmul(scale, totals[r * n_vectors + c]))
                tile.store(emit_fma(builder, rate, step, tile.load(param, place)), param, place)
        with otherwise:
            for index, total in enumerate(totals):
                r, c = divmod(index, n_vectors)
                tile.store(total, sums, integer((c * MAX_ROWS + r) * L))
    return taken


# ------------------------------------------------------------------------------------------- instructions


class _Tile:
    """Emits the instructions on a tile of ``n_rows`` x ``n_vectors`` sums, row by row."""

    def __init__(self, builder: Any, vector: Any, n_rows: int, n_vectors: int) -> None:
        self.builder, self.vector, self.n_rows, self.n_vectors = builder, vector, n_rows, n_vectors
        self.align = 4 if isinstance(vector.element, ir.FloatType) else 8

    def at(self, start: Any, offset: Any) -> Any:
        return self.builder.bitcast(self.builder.gep(start, [offset]), self.vector.as_pointer())

    def load(self, start: Any, offset: Any) -> Any:
        return self.builder.load(self.at(start, offset), align=self.align)

    def store(self, value: Any, start: Any, offset: Any) -> None:
        self.builder.store(value, self.at(start, offset), align=self.align)

    def zeros(self) -> list[Any]:
        return [ir.Constant(self.vector, None)] * (self.n_rows * self.n_vectors)

    def add_products(self, count: Any, A: Any, B: Any, sums: list[Any]) -> list[Any]:
        """Add ``count`` terms A[r, k] B[k, :]; A and B are start and strides. Return where B ends, and the sums."""
        builder, (a, a_row, a_k), (b, b_k, b_vector) = self.builder, A, B
        integer = count.type

        def add(index: Any, carried: list[Any]) -> list[Any]:
            a, b, *sums = carried
            columns = [self.load(b, builder.mul(integer(v), b_vector)) for v in range(self.n_vectors)]
            totals = []
            for r in range(self.n_rows):
                scalar = builder.load(builder.gep(a, [builder.mul(integer(r), a_row)]))
                splat = emit_splat(builder, scalar, self.vector)
                row = sums[r * self.n_vectors : (r + 1) * self.n_vectors]
                totals += [emit_fma(builder, splat, column, total) for column, total in zip(columns, row, strict=True)]
            return [builder.gep(a, [a_k]), builder.gep(b, [b_k]), *totals]

        return _emit_loop(builder, count, [a, b, *sums], add)[1:]


class _Adam:
    """Emits the optimiser on the next vector of a tile that waits."""

    def __init__(self, builder: Any, vector: Any, rates: Any, arrays: Any, w_vector: Any, before: Any) -> None:
        self.tile = _Tile(builder, vector, 1, 1)
        self.builder, self.rates, self.arrays, self.w_vector, self.before = builder, rates, arrays, w_vector, before

    def rate(self, index: int) -> Any:
        return self.tile.load(self.rates, ir.IntType(64)(index * self.tile.vector.count))

    def take(self, values: list[Any]) -> list[Any]:
        (taken,), builder, integer = values, self.builder, ir.IntType(64)
        (W, param, m, v), (sums, row, n_rows), L = self.arrays, self.before, integer(self.tile.vector.count)
        r, c = builder.and_(taken, integer(MAX_ROWS - 1)), builder.udiv(taken, integer(MAX_ROWS))
        here = builder.add(builder.mul(c, self.w_vector), builder.mul(builder.add(row, r), L))
        g = self.tile.load(sums, builder.mul(taken, L))
        l2 = builder.load(builder.gep(self.rates, [builder.mul(integer(IN_L2), L)]))
        is_penalised = builder.fcmp_unordered("!=", l2, ir.Constant(l2.type, 0.0))
        (g,) = _emit_if(builder, is_penalised, [g], lambda values: [self._penalise(values[0], W, here)])
        g = builder.fmul(self.rate(IN_SCALE), g)
        m_rest, v_rest = builder.fmul(self.rate(IN_REST_1), g), builder.fmul(self.rate(IN_REST_2), builder.fmul(g, g))
        m_new = emit_fma(builder, self.rate(IN_BETA_1), self.tile.load(m, here), m_rest)
        v_new = emit_fma(builder, self.rate(IN_BETA_2), self.tile.load(v, here), v_rest)
        self.tile.store(m_new, m, here)
        self.tile.store(v_new, v, here)
        divisor = builder.fadd(emit_sqrt(builder, v_new), self.rate(IN_EPSILON))
        change = builder.fdiv(builder.fmul(self.rate(IN_RATE), m_new), divisor)
        w = emit_fma(builder, self.rate(IN_KEPT), self.tile.load(param, here), builder.fneg(change))
        self.tile.store(w, param, here)
        is_last = builder.icmp_signed(">=", builder.add(r, integer(1)), n_rows)
        skipped = builder.select(is_last, builder.sub(integer(MAX_ROWS), r), integer(1))
        return [builder.add(taken, skipped)]

    def _penalise(self, g: Any, W: Any, here: Any) -> Any:
        """Return g + l2 w, and add w^2 to the sum of squares."""
        w, place = self.tile.load(W, here), ir.IntType(64)(SQUARES * self.tile.vector.count)
        squares = emit_fma(self.builder, w, w, self.tile.load(self.rates, place))
        self.tile.store(squares, self.rates, place)
        return emit_fma(self.builder, self.rate(IN_L2), w, g)


def _switch(vectors: dict[int, tuple[int, ...]], emit: Callable[..., Any]) -> Callable[..., Any]:
    """Return a code generator: a switch over forms, rows and numbers of vectors, with the result of ``emit``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        form, n_rows, n_vectors, *operands = args
        integer = form.type
        vector = vector_of(next(arg.dtype for arg in signature.args if isinstance(arg, types.CPointer)))[0]
        done = builder.append_basic_block("tile.done")
        key = builder.add(builder.mul(builder.add(builder.mul(form, integer(16)), n_rows), integer(4)), n_vectors)
        before, choice, results = builder.block, builder.switch(key, done), []
        menu = [(form, rows, n) for form, counts in vectors.items() for rows in TILE_ROWS for n in counts]
        for each in menu:
            block = builder.append_basic_block("tile.{}.{}x{}".format(*each))
            choice.add_case(integer((each[0] * 16 + each[1]) * 4 + each[2]), block)
            builder.position_at_end(block)
            results.append((emit(builder, *each, vector, operands), builder.block))
            builder.branch(done)
        builder.position_at_end(done)
        if results[0][0] is None:
            return context.get_dummy_value()
        result = builder.phi(integer)
        result.add_incoming(integer(0), before)
        for value, block in results:
            result.add_incoming(value, block)
        return result

    return codegen


def _emit_loop(builder: Any, count: Any, carried: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """Emit ``for index in range(count): carried = body(index, carried)`` and return what is carried in the end."""
    before, loop, after = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.cbranch(builder.icmp_signed(">", count, count.type(0)), loop, after)
    builder.position_at_end(loop)
    index, inside = builder.phi(count.type), [builder.phi(value.type) for value in carried]
    following = body(index, inside)
    next_index = builder.add(index, count.type(1))
    for phi, first, value in zip((index, *inside), (count.type(0), *carried), (next_index, *following), strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(value, builder.block)
    end = builder.block
    builder.cbranch(builder.icmp_signed("<", next_index, count), loop, after)
    return _join(builder, after, carried, before, following, end)


def _emit_if(builder: Any, condition: Any, values: list[Any], change: Callable[[list[Any]], list[Any]]) -> list[Any]:
    """Emit ``if condition: values = change(values)`` and return the values."""
    before, then, after = builder.block, builder.append_basic_block("then"), builder.append_basic_block("after")
    builder.cbranch(condition, then, after)
    builder.position_at_end(then)
    changed = change(values)
    end = builder.block
    builder.branch(after)
    return _join(builder, after, values, before, changed, end)


def _join(builder: Any, block: Any, values: list[Any], before: Any, others: list[Any], end: Any) -> list[Any]:
    """Begin a block that is reached with some values from one block, and with others from another."""
    builder.position_at_end(block)
    joined = [builder.phi(value.type) for value in values]
    for phi, value, other in zip(joined, values, others, strict=True):
        phi.add_incoming(value, before)
        phi.add_incoming(other, end)
    return joined


def _is_null(builder: Any, p: Any) -> Any:
    return builder.icmp_unsigned("==", p, ir.Constant(p.type, None))


def _emit_prefetch(builder: Any, p: Any) -> None:
    """Ask for the cache line at p."""
    byte, flag = builder.bitcast(p, ir.IntType(8).as_pointer()), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte.type, flag, flag, flag])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [byte, flag(0), flag(3), flag(1)])


@intrinsic
def prefetch(typingctx: Any, place: Any) -> Any:
    """Ask for the cache line at an address."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        _emit_prefetch(builder, builder.inttoptr(args[0], ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.intp), codegen
