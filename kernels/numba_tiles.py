"""Register tiles of the Numba backend: products that keep a block of sums in vector registers.

Numba's own loops cannot do that. A `tile` can: for each shape of a fixed menu it is one loop of vector FMAs over
rows x vectors accumulators. What is compiled depends on the dtype and this menu alone, never on the size of a layer.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .numba_jit import host_has
from .numba_vectors import emit_fma, vector_of

TILE_ROWS = (8, 4, 2, 1) if host_has("avx512f") else (4, 2, 1)
TILE_VECTORS = 3
MAX_ROWS = TILE_ROWS[0]
"""The menu: tiles of 1 to `MAX_ROWS` rows and 1 to `TILE_VECTORS` vectors. 8 x 3 sums, 3 vectors and a broadcast fill
28 of AVX-512's 32 registers, 4 x 3 the 16 of AVX2."""


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
    vector, align = vector_of(kind.dtype)
    lanes = vector.count
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
    columns = [builder.load(vector_at(B, builder.add(at_b, integer(v * lanes))), align=align) for v in range(n_vectors)]
    totals = []
    for r in range(n_rows):
        scalar = builder.insert_element(undefined, builder.load(builder.gep(rows[r], [at_a])), ir.IntType(32)(0))
        splat = builder.shuffle_vector(scalar, undefined, first_lane)
        row = sums[r * n_vectors : (r + 1) * n_vectors]
        totals += [emit_fma(builder, splat, column, total) for column, total in zip(columns, row, strict=True)]
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
