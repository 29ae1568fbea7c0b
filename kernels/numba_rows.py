"""Primitives of the Numba backend on rows and panels: what ``tile_table.h`` lists beside `product` and `update`.

Arguments, packed forms and formulas stand there. An element's arithmetic never depends on where in its row or its batch
it stands.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import math

import numba

from .contract import FIRST_KEPT, NONE, Activation, Loss
from .numba_blocks import (
    ROW_VECTORS,
    add_outer_vectors,
    block_products,
    gather_block,
    scatter_block,
    weighted_vectors,
)
from .numba_jit import inlined, primitive
from .numba_math import exp, logarithm
from .numba_rules import (
    IN_SCALE,
    act,
    apply_rule,
    at_zero_of,
    beta_of,
    code_of,
    derivative_to_keep,
    function_of,
    store_rates,
    times_derivative,
)
from .numba_tiles import CACHE_LINE, TILE_VECTORS, prefetch
from .numba_vectors import (
    address_of,
    any_lane,
    as_pointer_to,
    at,
    call_at,
    choose,
    first_lanes,
    is_null,
    lanes,
    list_lanes,
    load,
    load_nth,
    load_vector,
    load_whole,
    make_constant,
    max_lanes,
    maximum,
    minimum,
    splat,
    stack_vectors,
    store,
    store_vector,
    store_whole,
    sum_lanes,
)

# ------------------------------------------------------------------------------------------- packed forms


@primitive("viipipi")
def pack(n_rows, columns, source, from_row, to, to_row):
    """Copy the rows of a matrix to rows of whole vectors, filled up with zeros."""
    for r in range(n_rows):
        for j in range(0, columns, lanes(to)):
            store_whole(to, r * to_row + j, load_vector(at(source, r * from_row + j), columns - j, 0))


@primitive("viipipi")
def unpack(n_rows, columns, source, from_row, to, to_row):
    """Copy them back."""
    for r in range(n_rows):
        for j in range(0, columns, lanes(to)):
            store_vector(at(to, r * to_row + j), columns - j, load_whole(source, r * from_row + j))


@inlined
def pitch(panel):
    """Return how many samples lie side by side in a panel, those that are there and those that are not."""
    return TILE_VECTORS * lanes(panel)


@primitive("iipiqiip")
def gather_panel(n, X, row, order, n_rows, width, panel):
    """Transpose samples into a panel, the last one repeated up to its width; return whether all elements are finite."""
    rows, zeros = as_pointer_to(stack_vectors(X), numba.int64), splat(0, X)
    for r in range(0, width, lanes(X)):
        for lane in range(lanes(X)):
            sample = min(r + lane, n_rows - 1)
            store(rows, lane, (sample if is_null(order) else load(order, sample)) * row)
        for j in range(0, n, lanes(X)):
            zeros += gather_block(at(X, j), rows, n - j, at(panel, j * pitch(panel) + r), pitch(panel))
    return sum_lanes(zeros) == 0


@primitive("vipipiii")
def scatter_panel(n, panel, n_rows, out, row, vector, fill):
    """Transpose a panel's samples to rows, in whole vectors filled up with zeros if ``fill``."""
    for j in range(0, n, lanes(out)):
        for r in range(0, n_rows, lanes(out)):
            source, target = at(panel, j * pitch(panel) + r), at(out, r * row + j // lanes(out) * vector)
            scatter_block(source, pitch(panel), n - j, target, row, n_rows - r, lanes(out) if fill else n - j)


# ---------------------------------------------------------------------------------------------- one sample


@primitive("iippw")
def list_nonzero(n, x, other, listed):
    """List the indices of the elements that are not 0 in x or in ``other``, ascending; return how many."""
    found = 0
    for j in range(0, n, lanes(x)):
        x_j, other_j = load_vector(at(x, j), n - j, 0), load_vector(at(other, j), n - j, 0)
        found += list_lanes(choose(x_j != 0, x_j, other_j) != 0, j, at(listed, found))
    return found


@primitive("vip")
def fetch(n, x):
    """Begin to fetch n elements."""
    first, byte = address_of(x), 0
    n_bytes = address_of(at(x, n)) - first
    while byte < n_bytes:  # a range with a step would divide
        prefetch(first + byte)
        byte += CACHE_LINE
    prefetch(first + n_bytes - 1)  # rows begin anywhere in a line


@primitive("iip")
def is_finite(n, x):
    """Return whether no element is infinite or NaN."""
    zeros = splat(0, x)
    for j in range(0, n, lanes(x)):
        zeros += 0 * load_vector(at(x, j), n - j, 0)
    return not any_lane(zeros != 0)


@inlined
def vectors_of(n, p):
    """Return how many vectors n elements fill, up to `ROW_VECTORS`."""
    return min((n + lanes(p) - 1) // lanes(p), ROW_VECTORS)


@primitive("viwppiiip")
def weighted_rows(n_listed, listed, x, W, w_row, w_vector, n, sums):
    """sums[j] = sum_t x[listed[t]] W[listed[t], j]: one sample's forward product, ascending over t."""
    for o in range(0, n, ROW_VECTORS * lanes(W)):
        weights = at(W, o // lanes(W) * w_vector)
        weighted_vectors(vectors_of(n - o, W), n_listed, listed, x, weights, w_row, w_vector, n - o, at(sums, o))


@primitive("viwppiip")
def row_products(n_listed, listed, delta, W, n_in, n, products):
    """products[i] = sum_j delta[j] W[i, j]: one sample's backward product for the units that are listed."""
    rows, sums = as_pointer_to(stack_vectors(W), numba.int64), stack_vectors(W)
    n_vectors = (n + lanes(W) - 1) // lanes(W)
    for t in range(0, n_listed, lanes(W)):
        for lane in range(lanes(W)):
            store(rows, lane, load(listed, min(t + lane, n_listed - 1)) * lanes(W))
        store_whole(sums, 0, block_products(n_listed - t, rows, delta, W, lanes(W) * n_in, n_vectors))
        for lane in range(min(lanes(W), n_listed - t)):
            store(products, load(listed, t + lane), load(sums, lane))


@primitive("viwdpppii")
def add_outer(n_listed, listed, scale, x, d, W, n_in, n):
    """W[i, :] += scale x[i] d: one sample's step of gradient descent for the rows that are listed."""
    for o in range(0, n, ROW_VECTORS * lanes(W)):
        n_vectors, weights = vectors_of(n - o, W), at(W, o * n_in)
        add_outer_vectors(n_vectors, n_listed, listed, scale, x, at(d, o), weights, lanes(W) * n_in)


# --------------------------------------------------------------------------------------------- activations


@primitive("vippqpp")
def activate_row(n, sums, b, activation, a, saved):
    """Write a = act(sums + b) for a row of n, and act' to ``saved`` unless it is null; softmax comes later."""
    code, beta, at_zero = code_of(activation), beta_of(activation), at_zero_of(activation)
    for j in range(0, n, lanes(a)):
        z = load_vector(at(sums, j), n - j, 0)
        if not is_null(b):
            z += load_vector(at(b, j), n - j, 0)
        output = act(code, beta, z)
        store_vector(at(a, j), n - j, output)
        if not is_null(saved):
            derivative = times_derivative(code, beta, at_zero, output, splat(1, a))
            if code >= FIRST_KEPT.value:
                derivative = derivative_to_keep(code, at_zero, z)
            store_vector(at(saved, j), n - j, derivative)


@primitive("vippqpp")
def activate_custom_row(n, sums, b, activation, a, saved):
    """Do the same for a custom activation; on its own, since a call makes whoever may do it slower without it, too."""
    for j in range(0, n, lanes(a)):
        z = load_vector(at(sums, j), n - j, 0)
        if not is_null(b):
            z += load_vector(at(b, j), n - j, 0)
        store_vector(at(a, j), n - j, z)
    call_at(function_of(activation), (a, saved), n)


@inlined
def activate_any_row(tiles, n, sums, b, activation, a, saved):
    """Do that of the two which the activation asks for."""
    if code_of(activation) == Activation.CUSTOM:
        activate_custom_row(tiles, n, sums, b, activation, a, saved)
    else:
        activate_row(tiles, n, sums, b, activation, a, saved)


@inlined
def filled(n, padded, row):
    """Return where a row of n ends: with its filling if it is padded."""
    return (n + lanes(row) - 1) // lanes(row) * lanes(row) if padded else n


@primitive("viip")
def softmax(n, padded, z):
    """Turn a row of z into softmax(z), filled up with zeros if it is padded."""
    largest, total, end = splat(-math.inf, z), splat(0, z), filled(n, padded, z)
    for j in range(0, n, lanes(z)):
        largest = maximum(largest, load_vector(at(z, j), n - j, -math.inf))
    shift = splat(max_lanes(largest), z)
    for j in range(0, n, lanes(z)):
        e = first_lanes(exp(load_vector(at(z, j), n - j, 0) - shift), n - j, 0)
        store_vector(at(z, j), end - j, e)
        total += e
    inverse = 1.0 / splat(sum_lanes(total), z)
    for j in range(0, n, lanes(z)):
        store_vector(at(z, j), end - j, load_vector(at(z, j), n - j, 0) * inverse)


@primitive("viip")
def softmax_panel(n, width, z):
    """Turn a panel of z into softmax(z). The sums run as in `softmax`, whose lanes are the vectors of ``partial``."""
    partial = stack_vectors(z)
    for r in range(0, width, lanes(z)):
        a, largest, second = at(z, r), load_whole(z, r), load_whole(z, r + (n - 1) * pitch(z))
        for pair in range((n - 1) // 2):  # a maximum waits for itself
            here = (2 * pair + 1) * pitch(z)
            largest = maximum(largest, load_whole(a, here))
            second = maximum(second, load_whole(a, here + pitch(z)))
        largest = maximum(largest, second)
        for lane in range(lanes(z)):
            store_whole(partial, lane * lanes(z), splat(0, z))
        for j in range(n):
            e, here = exp(load_whole(a, j * pitch(z)) - largest), j % lanes(z) * lanes(z)
            store_whole(a, j * pitch(z), e)
            store_whole(partial, here, load_whole(partial, here) + e)
        inverse = 1.0 / sum_partial(partial)
        for j in range(n):
            store_whole(a, j * pitch(z), load_whole(a, j * pitch(z)) * inverse)


@inlined
def sum_partial(partial):
    """Return the sum of a block of vectors, added as `sum_lanes` adds lanes."""
    half = lanes(partial) // 2
    while half:
        for lane in range(half):
            low, high = lane * lanes(partial), (lane + half) * lanes(partial)
            store_whole(partial, low, load_whole(partial, low) + load_whole(partial, high))
        half //= 2
    return load_whole(partial, 0)


@primitive("vipqp")
def through_activation(n, a, activation, delta):
    """Turn d loss / d a into d loss / d z: delta *= act'(z), in terms of a = act(z), or of what was kept."""
    derive(n, a, activation, delta)


@inlined
def derive(n, a, activation, delta):
    """Do the work of `through_activation`, for primitives too."""
    code, beta, at_zero = code_of(activation), beta_of(activation), at_zero_of(activation)
    for j in range(0, n, lanes(a)):
        pair = load_vector(at(a, j), n - j, 0), load_vector(at(delta, j), n - j, 0)
        store_vector(at(delta, j), n - j, times_derivative(code, beta, at_zero, *pair))


@primitive("viipp")
def through_softmax(n, padded, a, delta):
    """Do the same for softmax and its full Jacobian: delta_i = a_i (delta_i - sum_j delta_j a_j)."""
    jacobian(n, padded, a, delta)


@inlined
def jacobian(n, padded, a, delta):
    """Do the work of `through_softmax`, for primitives too."""
    products, end = splat(0, a), filled(n, padded, a)
    for j in range(0, n, lanes(a)):
        products += load_vector(at(a, j), n - j, 0) * load_vector(at(delta, j), n - j, 0)
    mean = splat(sum_lanes(products), a)
    for j in range(0, n, lanes(a)):
        a_j, d = load_vector(at(a, j), n - j, 0), load_vector(at(delta, j), n - j, 0)
        store_vector(at(delta, j), end - j, (d - mean) * a_j)


@primitive("viipp")
def through_softmax_panel(n, width, a, delta):
    """Do the same for the samples of a panel."""
    jacobian_panel(n, width, a, delta)


@inlined
def jacobian_panel(n, width, a, delta):
    """Do the work of `through_softmax_panel`, for primitives too."""
    for r in range(0, width, lanes(a)):
        mean = splat(0, a)
        for here in range(r, n * pitch(a), pitch(a)):
            mean += load_whole(a, here) * load_whole(delta, here)
        for here in range(r, n * pitch(a), pitch(a)):
            store_whole(delta, here, (load_whole(delta, here) - mean) * load_whole(a, here))


# -------------------------------------------------------------------------------------------------- losses

margin = make_constant(2.0**-23, 2.0**-52)  # probabilities are held this far from 0 and 1


@inlined
def losses_of(loss, a, y):
    """Return the losses, output by output; what weighs 0 is left out, 0 log 0 = 0.

    Its logarithm is not even taken where that holds for the whole vector: most targets are 0 or 1.
    """
    if loss == NONE:
        return splat(0.0, a)
    if loss == Loss.SQUARED_ERROR:
        return 0.5 * ((a - y) * (a - y))
    if loss == Loss.POISSON:
        return (a - y) + choose(y == 0, y / a, y * logarithm(y / a))  # 0 / 0 is NaN, as in scikit-learn
    p, total = minimum(maximum(a, margin(a)), 1 - margin(a)), splat(0, a)
    if any_lane(y != 0):
        total = choose(y == 0, 0, -y * logarithm(p))
    if loss == Loss.BINARY_CROSS_ENTROPY and any_lane(y != 1):
        total += choose(y == 1, 0, (y - 1) * logarithm(1 - p))
    return total


@inlined
def loss_derivative(loss, a, y):
    """Return d loss / d a, of the clipped probability."""
    if loss == Loss.POISSON:
        return 1.0 - choose(y == 0, 0, y / a)
    p = minimum(maximum(a, margin(a)), 1 - margin(a))
    if loss == Loss.CROSS_ENTROPY:
        return choose(y == 0, 0, -y / p)
    return (p - y) / (p * (1.0 - p))


@inlined
def is_by_output(activation, loss):
    """Tell whether delta is d loss / d a, and not simply a - y."""
    return code_of(activation) == Activation.IDENTITY and loss > Loss.SQUARED_ERROR


@primitive("diiqippdp")
def output_row(n, padded, activation, loss, a, y, weight, delta):
    """Return the loss of one sample; write its delta = d loss / d z, filled up with zeros if rows are padded.

    With NONE for a loss it is left out, and delta is that of a cross-entropy. For the identity it is d loss / d a.
    """
    total, end, by_output = splat(0, a), filled(n, padded, a), is_by_output(activation, loss)
    for j in range(0, n, lanes(a)):
        a_j, y_j = load_vector(at(a, j), n - j, 1), load_vector(at(y, j), n - j, 1)
        d = a_j - y_j
        if by_output:
            d = first_lanes(loss_derivative(loss, a_j, y_j), n - j, 0)
        total += first_lanes(losses_of(loss, a_j, y_j), n - j, 0)
        store_vector(at(delta, j), end - j, weight * d)
    if loss == Loss.SQUARED_ERROR and code_of(activation) == Activation.SOFTMAX:
        jacobian(n, padded, a, delta)
    elif loss == Loss.SQUARED_ERROR:
        derive(n, a, activation, delta)
    return weight * sum_lanes(total)


@primitive("diiiqipppp")
def output_panel(n, width, n_rows, activation, loss, a, y, weight, delta):
    """Return the loss of a panel's samples and write their deltas; without weights they all weigh 1."""
    result, by_output = 0.0, is_by_output(activation, loss)
    for r in range(0, width, lanes(a)):
        weights = splat(1, a) if is_null(weight) else load_whole(weight, r)
        total, p, ones, others = splat(0, a), splat(0, a), splat(0, a), splat(0, a)
        for here in range(r, n * pitch(a), pitch(a)):
            a_j, y_j = load_whole(a, here), load_whole(y, here)
            d, excess = a_j - y_j, y_j * y_j - y_j
            if by_output:
                d = loss_derivative(loss, a_j, y_j)
            if loss != Loss.CROSS_ENTROPY:
                total += losses_of(loss, a_j, y_j)
            p += y_j * a_j
            ones += y_j
            others += excess * excess
            store_whole(delta, here, weights * d)
        if loss == Loss.CROSS_ENTROPY:
            if any_lane(first_lanes(ones, n_rows - r, 1) != 1) or any_lane(others != 0):
                for here in range(r, n * pitch(a), pitch(a)):
                    total += losses_of(Loss.CROSS_ENTROPY, load_whole(a, here), load_whole(y, here))
            else:  # each sample has one class: one logarithm for all of its outputs
                total = losses_of(Loss.CROSS_ENTROPY, p, splat(1, a))
        result += sum_lanes(first_lanes(weights * total, n_rows - r, 0))
    if loss == Loss.SQUARED_ERROR and code_of(activation) == Activation.SOFTMAX:
        jacobian_panel(n, width, a, delta)
    elif loss == Loss.SQUARED_ERROR:
        for j in range(0, n * pitch(a), pitch(a)):
            derive(width, at(a, j), activation, at(delta, j))
    return result


@primitive("diiipppp")
def output_classes(n, width, n_rows, a, classes, weight, delta):
    """Do the same for a cross-entropy whose delta is a - y; numbers of classes stand in place of targets.

    That is weight a everywhere, and weight (a - 1) where a sample's class is: little, if delta comes in place of a.
    """
    result, p = 0.0, stack_vectors(a)
    for r in range(0, width, lanes(a)):
        weights = splat(1, a) if is_null(weight) else load_whole(weight, r)
        for sample in range(r, r + lanes(a)):
            store(p, sample - r, load(a, int(load(classes, sample)) * pitch(a) + sample))
        if not is_null(weight) or address_of(delta) != address_of(a):
            for here in range(r, n * pitch(a), pitch(a)):
                store_whole(delta, here, weights * load_whole(a, here))
        p_class = load_whole(p, 0)
        store_whole(p, 0, weights * (p_class - 1))
        for sample in range(r, r + lanes(a)):
            store(delta, int(load(classes, sample)) * pitch(a) + sample, load(p, sample - r))
        total = losses_of(Loss.CROSS_ENTROPY, p_class, splat(1, a))
        result += sum_lanes(first_lanes(weights * total, n_rows - r, 0))
    return result


@primitive("diiippdp")
def custom_row(n, padded, function, a, y, weight, delta):
    """Do the work of `output_row` for a custom loss, whose C function is at an address; delta is d loss / d a."""
    losses, total, end = stack_vectors(a), splat(0, a), filled(n, padded, a)
    for j in range(0, n, lanes(a)):
        n_here = min(n - j, lanes(a))
        call_at(function, (at(a, j), at(y, j), losses, at(delta, j)), n_here)
        total += load_vector(losses, n_here, 0)
        store_vector(at(delta, j), end - j, weight * load_vector(at(delta, j), n_here, 0))
    return weight * sum_lanes(total)


@primitive("diiiipppp")
def custom_panel(n, width, n_rows, function, a, y, weight, delta):
    """Do the same for a panel's samples; without weights they all weigh 1."""
    losses, totals, result = stack_vectors(a), stack_vectors(a), 0.0
    for r in range(0, width, lanes(a)):
        store_whole(totals, r, splat(0, a))
    for here in range(0, n * pitch(a), pitch(a)):
        call_at(function, (at(a, here), at(y, here), losses, at(delta, here)), width)
        for r in range(0, width, lanes(a)):
            store_whole(totals, r, load_whole(totals, r) + load_whole(losses, r))
            if not is_null(weight):
                store_whole(delta, here + r, load_whole(weight, r) * load_whole(delta, here + r))
    for r in range(0, width, lanes(a)):
        weights = splat(1, a) if is_null(weight) else load_whole(weight, r)
        result += sum_lanes(first_lanes(weights * load_whole(totals, r), n_rows - r, 0))
    return result


@primitive("viipiip")
def sum_rows(n_vectors, n_rows, A, row, vector, sums):
    """sums[:] = sum_r A[r, :] for 1 to `TILE_VECTORS` vectors of columns, which stand ``vector`` apart."""
    B, C = at(A, vector if n_vectors > 1 else 0), at(A, 2 * vector if n_vectors > 2 else 0)
    first, second, third = splat(0, A), splat(0, A), splat(0, A)
    for r in range(n_rows):
        first += load_whole(A, r * row)
        second += load_whole(B, r * row)
        third += load_whole(C, r * row)
    store_whole(sums, 0, first)
    if n_vectors > 1:
        store_whole(sums, lanes(A), second)
    if n_vectors > 2:
        store_whole(sums, 2 * lanes(A), third)


# ---------------------------------------------------------------------------------------------- optimisers


@primitive("viDdipppp")
def apply(rule, step, scale, n, grad, param, m, v):
    """Apply an optimiser to n parameters whose gradient is scale grad; NONE keeps the gradient itself."""
    rates = stack_vectors(param)
    store_rates(step, scale, rates)
    for j in range(0, n, lanes(grad)):
        g = load_nth(rates, IN_SCALE) * load_vector(at(grad, j), n - j, 0)
        apply_rule(rule, rates, g, n - j, at(param, j), at(m, j), at(v, j))


@primitive("dip")
def square_sum(n, x):
    """Return the sum of the squares of n elements; in more than one sum, for each waits for itself."""
    first, second, third, fourth = splat(0, x), splat(0, x), splat(0, x), splat(0, x)
    for j in range(0, n, lanes(x)):
        value = load_vector(at(x, j), n - j, 0)
        first, second, third, fourth = second, third, fourth, first + value * value
    return sum_lanes((first + second) + (third + fourth))


@primitive("vidp")
def rescale(n, factor, x):
    """X *= factor."""
    for j in range(0, n, lanes(x)):
        store_vector(at(x, j), n - j, splat(factor, x) * load_vector(at(x, j), n - j, 0))


@primitive("vidpp")
def move_average(n, rest, x, average):
    """Average += rest (x - average)."""
    for j in range(0, n, lanes(x)):
        old = load_vector(at(average, j), n - j, 0)
        store_vector(at(average, j), n - j, old + splat(rest, x) * (load_vector(at(x, j), n - j, 0) - old))
