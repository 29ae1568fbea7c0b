"""Batch normalisation in the backend `numba`: in panels a sample is a lane, in rows a unit.

Units are shared among threads, a vector of them at a time: a unit's sums over the batch are formed by one thread, in an
order that depends on the batch alone.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from typing import Any, NamedTuple

from .contract import NONE, Activation, Op
from .numba_jit import inlined, jit, kernel, primitive, struct
from .numba_packing import (
    Layer,
    make_batch,
    numbers_of,
    pack_batch,
    panel_rows,
    panel_width,
    take_batch,
    unpack_batch,
)
from .numba_parts import activate_units
from .numba_rows import apply
from .numba_rules import code_of
from .numba_tiles import TILE_VECTORS
from .numba_vectors import (
    at,
    first_lanes,
    fma,
    is_null,
    lanes,
    load,
    load_vector,
    load_whole,
    maximum,
    null,
    pointer,
    splat,
    sqrt,
    stack_vectors,
    store,
    store_vector,
    store_whole,
    sum_lanes,
)
from .numba_workers import alone, rounded, share


@struct("N", "ippppdd")
class Norm(NamedTuple):
    """A layer that normalises n units: pointers to its vectors, and its numbers."""

    n: int
    gamma: Any
    beta: Any
    mean: Any
    variance: Any
    epsilon: float
    momentum: float


@inlined
def norm_of(row, params):
    """Return a row's normalisation in packed parameters."""
    vectors = at(params, row.W), at(params, row.b), at(params, row.mean), at(params, row.variance)
    return Norm(row.n_out, *vectors, row.epsilon, row.momentum)


@primitive("vBiipppp", only_for=(Op.BATCH_NORM, Op.BATCH_NORM_DELTA))
def sum_over_batch(batch, n, u, x, y, centre, sums):
    """Sum (x - centre) (y - centre) over the batch, or x where y is null, for the units from u on, a vector of them.

    In panels in three sums in turn, for each waits for itself.
    """
    L, pitch, row, total = lanes(x), TILE_VECTORS * lanes(x), rounded(n, lanes(x)), splat(0.0, x)
    for r in range(batch.n if batch.n_panels == 0 else 0):
        value = load_vector(at(x, r * row + u), n - u, 0)
        if is_null(y):
            total += value
        else:
            c = load_whole(centre, 0)
            total = fma(value - c, load_vector(at(y, r * row + u), n - u, 0) - c, total)
    store_whole(sums, 0, total)
    for lane in range(min(L, n - u) if batch.n_panels else 0):
        first, second, third, c = total, total, total, splat(load(centre, lane), x)
        for p in range(batch.n_panels):
            here, n_rows = (p * n + u + lane) * pitch, panel_rows(batch, p, L)
            for r in range(0, n_rows, L):
                value, term = load_whole(x, here + r), first
                if is_null(y):
                    term += first_lanes(value, n_rows - r, 0)
                else:
                    other = first_lanes(load_whole(y, here + r) - c, n_rows - r, 0)
                    term = fma(first_lanes(value - c, n_rows - r, 0), other, term)
                first, second, third = second, third, term
        store(sums, lane, sum_lanes((first + second) + third))


@inlined
def inverse_root(variance, epsilon):
    """Return 1 / sqrt(variance + epsilon)."""
    return 1.0 / sqrt(variance + epsilon)


@inlined
def normalized(z, mean, rstd):
    """Return z normalised: for vectors of samples and of units alike."""
    return (z - mean) * rstd


@inlined
def scaled(gamma, x, beta):
    """Return gamma x + beta, fused: the bits are the same for few rows and for many."""
    return fma(gamma, x, beta)


@inlined
def rectified(is_relu, z):
    return maximum(z, 0.0) if is_relu else z


@inlined
def write_normalized(batch, norm, u, z, mean, rstd, is_relu, saved, a):
    """Normalise the units from u on, a vector of them: z to ``saved``, unless it is null, and what comes of it to a."""
    n, L, row, pitch = norm.n - u, lanes(a), rounded(norm.n, lanes(a)), TILE_VECTORS * lanes(a)
    for r in range(batch.n if batch.n_panels == 0 else 0):
        here = r * row + u
        x = normalized(load_vector(at(z, here), n, 0), load_whole(mean, 0), load_whole(rstd, 0))
        if not is_null(saved):
            store_vector(at(saved, here), n, x)
        y = scaled(load_vector(at(norm.gamma, u), n, 0), x, load_vector(at(norm.beta, u), n, 0))
        store_vector(at(a, here), n, rectified(is_relu, y))
    for lane in range(min(L, n) if batch.n_panels else 0):
        centre, scale = splat(load(mean, lane), a), splat(load(rstd, lane), a)
        gamma, beta = splat(load(norm.gamma, u + lane), a), splat(load(norm.beta, u + lane), a)
        for p in range(batch.n_panels):
            start = (p * norm.n + u + lane) * pitch
            for here in range(start, start + panel_width(batch, p, L), L):
                x = normalized(load_whole(z, here), centre, scale)
                if not is_null(saved):
                    store_whole(saved, here, x)
                store_whole(a, here, rectified(is_relu, scaled(gamma, x, beta)))


@inlined
def activate_rest(tiles, worker, batch, n, activation, a):
    """Activation of normalised units, in place, where it needs more than a comparison; each thread has its own."""
    if code_of(activation) > Activation.RELU:
        activate_units(tiles, worker, batch, n, a, activation, a, null(a))


@inlined
def move_running(momentum, n, value, running):
    """Move a running mean, or a variance: running += momentum (value - running)."""
    old = load_vector(running, n, 0)
    store_vector(running, n, fma(splat(momentum, running), value - old, old))


@kernel("vWBNpqppp", only_for=(Op.BATCH_NORM,))
def batch_norm_units(tiles, worker, batch, norm, z, activation, saved, rstd, a):
    L, n, units = lanes(a), batch.n, share(worker, norm.n, lanes(a))
    sums, mean, inverse = stack_vectors(a), stack_vectors(a), stack_vectors(a)
    store_whole(mean, 0, splat(0.0, a))
    for u in range(units.first, units.end, L):
        sum_over_batch(tiles, batch, norm.n, u, z, null(z), mean, sums)
        mu = load_whole(sums, 0) / n
        store_whole(mean, 0, mu)
        sum_over_batch(tiles, batch, norm.n, u, z, z, mean, sums)
        squares = load_whole(sums, 0) / n
        store_whole(inverse, 0, inverse_root(squares, norm.epsilon))
        store_vector(at(rstd, u), norm.n - u, load_whole(inverse, 0))
        if n > 1:
            move_running(norm.momentum, norm.n - u, mu, at(norm.mean, u))
            move_running(norm.momentum, norm.n - u, squares * (n / (n - 1)), at(norm.variance, u))
        is_relu = code_of(activation) == Activation.RELU
        write_normalized(batch, norm, u, z, mean, inverse, is_relu, saved, a)
    activate_rest(tiles, worker, batch, norm.n, activation, a)


@kernel("vWBNpqp", only_for=(Op.NORMALIZE,))
def normalize_units(tiles, worker, batch, norm, z, activation, a):
    units, mean, inverse = share(worker, norm.n, lanes(a)), stack_vectors(a), stack_vectors(a)
    for u in range(units.first, units.end, lanes(a)):
        store_whole(mean, 0, load_vector(at(norm.mean, u), norm.n - u, 0))
        store_whole(inverse, 0, inverse_root(load_vector(at(norm.variance, u), norm.n - u, 1), norm.epsilon))
        is_relu = code_of(activation) == Activation.RELU
        write_normalized(batch, norm, u, z, mean, inverse, is_relu, null(a), a)
    activate_rest(tiles, worker, batch, norm.n, activation, a)


@inlined
def normalize_row(n, z, gamma, beta, mean, variance, epsilon):
    """Normalise one sample in place, its units side by side, with the bits of `normalize_units`."""
    for u in range(0, n, lanes(z)):
        rest, inverse = n - u, inverse_root(load_vector(at(variance, u), n - u, 1), epsilon)
        x = normalized(load_vector(at(z, u), rest, 0), load_vector(at(mean, u), rest, 0), inverse)
        y = scaled(load_vector(at(gamma, u), rest, 0), x, load_vector(at(beta, u), rest, 0))
        store_vector(at(z, u), rest, y)


@inlined
def passed_on(delta, x, mean, mean_product, factor):
    """Return an error sent through normalisation: factor (delta - mean delta - x mean (delta x))."""
    return factor * (delta - fma(x, mean_product, mean))


@inlined
def write_delta(batch, n_units, u, x, products, sums, factor, delta):
    """Send the error of the units from u on, a vector of them, through normalisation."""
    n, L, row, pitch = n_units - u, lanes(x), rounded(n_units, lanes(x)), TILE_VECTORS * lanes(x)
    mean, mean_product = load_whole(sums, 0) / batch.n, load_whole(products, 0) / batch.n
    for r in range(batch.n if batch.n_panels == 0 else 0):
        here = r * row + u
        pair = load_vector(at(delta, here), n, 0), load_vector(at(x, here), n, 0)
        store_vector(at(delta, here), n, passed_on(*pair, mean, mean_product, load_whole(factor, 0)))
    for lane in range(min(L, n) if batch.n_panels else 0):
        of_unit = splat(load(sums, lane), x) / batch.n, splat(load(products, lane), x) / batch.n
        scale = splat(load(factor, lane), x)
        for p in range(batch.n_panels):
            start = (p * n_units + u + lane) * pitch
            for here in range(start, start + panel_width(batch, p, L), L):
                store_whole(delta, here, passed_on(load_whole(delta, here), load_whole(x, here), *of_unit, scale))


@kernel("vWBipppiSLp", only_for=(Op.BATCH_NORM_DELTA,))
def batch_norm_delta_units(tiles, worker, batch, n, x, rstd, gamma, rule, step, layer, delta):
    """Apply ``rule`` to gamma and beta, or keep their gradient with NONE, once the error is through."""
    L, units = lanes(delta), share(worker, n, lanes(delta))
    zeros, products, sums, factor = stack_vectors(x), stack_vectors(x), stack_vectors(x), stack_vectors(x)
    store_whole(zeros, 0, splat(0.0, x))
    for u in range(units.first, units.end, L):
        sum_over_batch(tiles, batch, n, u, delta, x, zeros, products)
        sum_over_batch(tiles, batch, n, u, delta, null(x), zeros, sums)
        store_whole(factor, 0, load_vector(at(gamma, u), n - u, 0) * load_vector(at(rstd, u), n - u, 0))
        write_delta(batch, n, u, x, products, sums, factor, delta)
        rates, m = (rule, numbers_of(step), step.grad_scale), min(L, n - u)
        apply(tiles, *rates, m, products, at(layer.W, u), at(layer.m_W, u), at(layer.v_W, u))
        apply(tiles, *rates, m, sums, at(layer.b, u), at(layer.m_b, u), at(layer.v_b, u))


# -------------------------------------------------------------------------------- the operations by hand


@jit
def batch_norm_by_hand(tiles, z, numbers, vectors, activation, outputs, a, scratch):
    table, batch, n = pointer(tiles), make_batch(a.shape[0], pointer(scratch)), a.shape[1]
    (gamma, beta), (epsilon, momentum), (saved, rstd, mean, variance) = vectors, numbers, outputs
    worker, rest = alone(batch, 1, 1, pointer(scratch))
    packed, rest = take_batch(rest, batch, n)
    out, rest = take_batch(rest, batch, n)
    pack_batch(table, worker, batch, n, pointer(z), null(worker.ahead), packed)
    norm = Norm(n, pointer(gamma), pointer(beta), pointer(mean), pointer(variance), epsilon, momentum)
    batch_norm_units(table, worker, batch, norm, packed, pointer(activation), packed, pointer(rstd), out)
    unpack_batch(table, worker, batch, n, packed, pointer(saved))
    unpack_batch(table, worker, batch, n, out, pointer(a))


@jit
def normalize_by_hand(tiles, z, vectors, epsilon, activation, a, scratch):
    table, batch, n = pointer(tiles), make_batch(a.shape[0], pointer(scratch)), a.shape[1]
    gamma, beta, mean, variance = vectors
    worker, rest = alone(batch, 1, 1, pointer(scratch))
    packed, rest = take_batch(rest, batch, n)
    pack_batch(table, worker, batch, n, pointer(z), null(worker.ahead), packed)
    norm = Norm(n, pointer(gamma), pointer(beta), pointer(mean), pointer(variance), epsilon, 0.0)
    normalize_units(table, worker, batch, norm, packed, pointer(activation), packed)
    unpack_batch(table, worker, batch, n, packed, pointer(a))


@jit
def batch_norm_delta_by_hand(tiles, x, rstd, gamma, step, delta, grad_gamma, grad_beta, scratch):
    table, batch, n = pointer(tiles), make_batch(delta.shape[0], pointer(scratch)), delta.shape[1]
    worker, rest = alone(batch, 1, 1, pointer(scratch))
    packed, rest = take_batch(rest, batch, n)
    error, rest = take_batch(rest, batch, n)
    pack_batch(table, worker, batch, n, pointer(x), null(worker.ahead), packed)
    pack_batch(table, worker, batch, n, pointer(delta), null(worker.ahead), error)
    to_gamma, to_beta = pointer(grad_gamma), pointer(grad_beta)
    layer = Layer(1, n, to_gamma, to_gamma, to_gamma, to_beta, to_beta, to_beta)
    known = packed, pointer(rstd), pointer(gamma)
    batch_norm_delta_units(table, worker, batch, n, *known, NONE, step[0], layer, error)
    unpack_batch(table, worker, batch, n, error, pointer(delta))
