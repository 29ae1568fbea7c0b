"""Maxout in the backend `numba`. A unit's pieces lie as far apart as there are units, in a panel as in a row."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from .contract import Op
from .numba_jit import inlined, jit, primitive
from .numba_packing import make_batch, pack_batch, take_batch, unpack_batch
from .numba_parts import piece
from .numba_tiles import TILE_VECTORS
from .numba_vectors import at, choose, lanes, load_vector, maximum, null, pointer, splat, store_vector
from .numba_workers import alone, rounded, share


@inlined
def largest_piece(j, n, n_pieces, stride, z):
    """Return the largest of some pieces, for the elements from j on: NaN is larger than all."""
    best = load_vector(at(z, j), n - j, 0)
    for number in range(1, n_pieces):
        x = load_vector(at(z, number * stride + j), n - j, 0)
        best = choose(x == x, maximum(best, x), x)
    return best


@inlined
def maxout_row(n, n_pieces, stride, z, a):
    """Maxout of n elements, whose pieces begin ``stride`` apart."""
    for j in range(0, n, lanes(a)):
        store_vector(at(a, j), n - j, largest_piece(j, n, n_pieces, stride, z))


@inlined
def maxout_delta_row(n, n_pieces, stride, z, delta, delta_z):
    """Send the errors of n elements to the first of their largest pieces, and zeros to the others."""
    for j in range(0, n, lanes(z)):
        best, rest = largest_piece(j, n, n_pieces, stride, z), load_vector(at(delta, j), n - j, 0)
        for number in range(n_pieces):
            here = number * stride + j
            x = load_vector(at(z, here), n - j, 0)
            given = choose(x == best, rest, choose(x == x, 0.0, rest))
            rest = choose(x == best, 0.0, choose(x == x, rest, 0.0))
            store_vector(at(delta_z, here), n - j, given)


@inlined
def stride_of(batch, n, L):
    """Return how far apart the pieces of a unit lie."""
    return n * TILE_VECTORS * L if batch.n_panels else n


@primitive("vWBiipp", only_for=(Op.MAXOUT,))
def maxout_units(worker, batch, n_in, n, z, a):
    """Units are shared."""
    L, units = lanes(a), share(worker, n, lanes(a))
    for part in range(batch.n_panels if batch.n_panels else batch.n):
        (start, size), (below, _) = piece(batch, n, units, part, L), piece(batch, n_in, units, part, L)
        maxout_row(size, n_in // n, stride_of(batch, n, L), at(z, below), at(a, start))


@primitive("vWBiippp", only_for=(Op.MAXOUT_DELTA,))
def maxout_delta_units(worker, batch, n_in, n, z, delta, delta_z):
    """Units are shared. What fills up a row is set to 0: updates take whole vectors."""
    L, units = lanes(z), share(worker, n, lanes(z))
    for part in range(batch.n_panels if batch.n_panels else batch.n):
        (start, size), (below, _) = piece(batch, n, units, part, L), piece(batch, n_in, units, part, L)
        arrays = at(z, below), at(delta, start), at(delta_z, below)
        maxout_delta_row(size, n_in // n, stride_of(batch, n, L), *arrays)
        if batch.n_panels == 0 and units.end == n:
            end = part * rounded(n_in, L) + n_in
            store_vector(at(delta_z, end), rounded(n_in, L) - n_in, splat(0.0, z))


# -------------------------------------------------------------------------------- the operations by hand


@jit
def maxout_by_hand(tiles, z, a, scratch):
    table, batch, n_in, n = pointer(tiles), make_batch(a.shape[0], pointer(scratch)), z.shape[1], a.shape[1]
    worker, rest = alone(batch, 1, 1, pointer(scratch))
    below, rest = take_batch(rest, batch, n_in)
    out, rest = take_batch(rest, batch, n)
    pack_batch(table, worker, batch, n_in, pointer(z), null(worker.ahead), below)
    maxout_units(table, worker, batch, n_in, n, below, out)
    unpack_batch(table, worker, batch, n, out, pointer(a))


@jit
def maxout_delta_by_hand(tiles, z, delta, delta_z, scratch):
    table, batch = pointer(tiles), make_batch(delta.shape[0], pointer(scratch))
    n_in, n = z.shape[1], delta.shape[1]
    worker, rest = alone(batch, 1, 1, pointer(scratch))
    below, rest = take_batch(rest, batch, n_in)
    error, rest = take_batch(rest, batch, n)
    out, rest = take_batch(rest, batch, n_in)
    pack_batch(table, worker, batch, n_in, pointer(z), null(worker.ahead), below)
    pack_batch(table, worker, batch, n, pointer(delta), null(worker.ahead), error)
    maxout_delta_units(table, worker, batch, n_in, n, below, error, out)
    unpack_batch(table, worker, batch, n_in, out, pointer(delta_z))
