"""Parts of the kernels of the backend `numba`: a product or an update for many samples, for few, and for one."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import math

from numba import int32

from .contract import NONE, Activation, Optimizer
from .numba_jit import inlined, kernel
from .numba_packing import (
    clear,
    first_with,
    layer_of,
    numbers_of,
    panel_rows,
    panel_start,
    panel_width,
)
from .numba_rows import (
    activate_any_row,
    activate_row,
    add_outer,
    apply,
    list_nonzero,
    move_average,
    rescale,
    row_products,
    scatter_panel,
    softmax,
    softmax_panel,
    square_sum,
    sum_rows,
    through_activation,
    through_softmax,
    through_softmax_panel,
    weighted_rows,
)
from .numba_rules import code_of
from .numba_tiles import ALONG_STRIPS, CACHE_LINE, FEW_ROWS, GRAIN, TILE_VECTORS, product
from .numba_vectors import (
    as_pointer_to,
    at,
    is_null,
    lanes,
    load,
    null,
    store,
)
from .numba_workers import (
    MOST_FAR,
    Ahead,
    Share,
    is_layer,
    largest,
    meet,
    rounded,
    share,
    sum_of,
)

BLOCK_SIZE = 196608
"""Elements that stay in the second-level cache, beside weights."""


@inlined
def further(p, n):
    """Return p + n, or null if p is."""
    return p if is_null(p) else at(p, n)


@inlined
def spread(ahead, n_rows, n_tiles):
    """Begin to fetch so many of the next samples with the tiles of an update."""
    n_sources, n_bytes = load(ahead, Ahead.N_SOURCES), 0
    for source in range(n_sources):
        n_bytes += n_rows * load(ahead, Ahead.ROW_BYTES + source)
    store(ahead, Ahead.N_ROWS, n_rows)
    store(ahead, Ahead.SOURCE, 0 if n_rows else n_sources)
    store(ahead, Ahead.ROW, 0)
    store(ahead, Ahead.BYTE, 0)
    store(ahead, Ahead.BYTES, (n_bytes // CACHE_LINE // max(n_tiles, 1) + 1) * CACHE_LINE)


@inlined
def remember(ahead, start, row_bytes):
    """Note whence the next mini-batch will take rows."""
    n_sources = load(ahead, Ahead.N_SOURCES)
    if n_sources < MOST_FAR:
        store(ahead, Ahead.STARTS + n_sources, start)
        store(ahead, Ahead.ROW_BYTES + n_sources, row_bytes)
        store(ahead, Ahead.N_SOURCES, n_sources + 1)


@inlined
def group(n_strips, strip):
    """Return how many strips, from ``strip`` on, go into a tile: groups as equally wide as can be."""
    n_groups = (n_strips + TILE_VECTORS - 1) // TILE_VECTORS
    return n_strips // n_groups + int(strip < n_strips % n_groups * (n_strips // n_groups + 1))


@inlined
def terms_at_once(batch, L):
    """Return how many terms of a product's sums are added at a time: the panels of so many units fit in a cache."""
    return max(BLOCK_SIZE // rounded(batch.n, L) // L, 4) * L


@inlined
def forward_panels(tiles, worker, batch, a_prev, layer, activation, a):
    """Forward product of many samples. Units are shared, or panels where that divides the work more equally."""
    L, n_in, n_out, n_panels = lanes(a), layer.n_in, layer.n_out, batch.n_panels
    units, panels = share(worker, n_out, GRAIN), Share(0, n_panels)
    if largest(worker, n_out, GRAIN) * n_panels > largest(worker, n_panels, 1) * n_out and worker.n_threads > 1:
        units, panels = Share(0, n_out), share(worker, n_panels, 1)
    pitch, block = TILE_VECTORS * L, terms_at_once(batch, L)
    for k in range(0, n_in, block):
        n_terms = min(n_in - k, block)
        weights, progress = (at(layer.W, k * L), n_in * L), (k == 0, k + n_terms == n_in)
        for p in range(panels.first, panels.end):
            shape = panel_width(batch, p, L) // L, units.first, units.end, n_terms
            below, out = (at(a_prev, (p * n_in + k) * pitch), 0), (at(a, p * n_out * pitch), 0)
            after = layer.b, activation, null(a)
            product(tiles, ALONG_STRIPS, *shape, *weights, *below, *out, *after, *progress)


@inlined
def forward_rows(tiles, worker, batch, a_prev, layer, activation, a):
    """Forward product of few samples."""
    L, n_in = lanes(a), layer.n_in
    n_strips = (layer.n_out + L - 1) // L
    strip, end = share(worker, n_strips, 1)
    while strip < end:
        n_vectors = TILE_VECTORS if end - strip >= TILE_VECTORS else 1
        below, weights = (a_prev, rounded(n_in, L)), (at(layer.W, strip * n_in * L), n_in * L)
        out, after = (at(a, strip * L), n_strips * L), (further(layer.b, strip * L), activation, null(a))
        product(tiles, FEW_ROWS, n_vectors, 0, batch.n, n_in, *below, *weights, *out, *after, True, True)
        strip += n_vectors


@inlined
def forward_one(tiles, worker, a_prev, layer, activation, skip_zeros, a):
    """Forward product of one sample: only the rows of W whose input is not 0 are read, if there is no 0 x infinity."""
    L, n_in = lanes(a), layer.n_in
    strips = share(worker, (layer.n_out + L - 1) // L, 1)
    first, n, sums = strips.first * L, (strips.end - strips.first) * L, worker.own
    inputs = as_pointer_to(at(sums, n), int32)
    n_inputs = list_nonzero(tiles, n_in, a_prev, a_prev, inputs) if skip_zeros else list_all(n_in, inputs)
    weighted_rows(tiles, n_inputs, inputs, a_prev, at(layer.W, first * n_in), L, n_in * L, n, sums)
    activate_row(tiles, n, sums, further(layer.b, first), activation, at(a, first), null(a))


@inlined
def before_softmax(activation):
    """Return what is done to single units before softmax looks at them all: nothing; else the activation itself."""
    return null(activation) if code_of(activation) == Activation.SOFTMAX else activation


@inlined
def piece(batch, n, units, part, L):
    """Return where some of n units begin in a panel, or in a row, and how many elements they have there."""
    if batch.n_panels:
        return (part * n + units.first) * TILE_VECTORS * L, (units.end - units.first) * TILE_VECTORS * L
    return part * rounded(n, L) + units.first, units.end - units.first


@kernel("vWBipqpp")
def activate_units(tiles, worker, batch, n, z, activation, a, saved):
    """Activation of n units. Units are shared.

    In a panel that is not full a custom one is called for the vectors that hold samples alone: what lies beside them is
    anything, over which it might take long.
    """
    L, pitch, units = lanes(a), TILE_VECTORS * lanes(a), share(worker, n, lanes(a))
    for part in range(batch.n_panels if batch.n_panels else batch.n):
        here, size = piece(batch, n, units, part, L)
        width = panel_width(batch, part, L) if batch.n_panels and code_of(activation) == Activation.CUSTOM else pitch
        if width == pitch:
            activate_any_row(tiles, size, at(z, here), null(a), activation, at(a, here), further(saved, here))
        else:
            for unit in range(here, here + size, pitch):
                activate_any_row(tiles, width, at(z, unit), null(a), activation, at(a, unit), further(saved, unit))


@kernel("vWBipqp")
def activation_delta_of_units(tiles, worker, batch, n, a, activation, delta):
    """Derivative of the activation of n units. Units are shared; of softmax, whose sums run over them, samples are."""
    L, n_parts = lanes(delta), batch.n_panels if batch.n_panels else batch.n
    if code_of(activation) == Activation.SOFTMAX:
        first, end = share(worker, n_parts, 1)
        for part in range(first, end):
            if batch.n_panels:
                here = part * n * TILE_VECTORS * L
                through_softmax_panel(tiles, n, panel_width(batch, part, L), at(a, here), at(delta, here))
            else:
                here = part * rounded(n, L)
                through_softmax(tiles, n, 1, at(a, here), at(delta, here))
        return
    units = share(worker, n, L)
    for part in range(n_parts):
        here, size = piece(batch, n, units, part, L)
        through_activation(tiles, size, at(a, here), activation, at(delta, here))


@inlined
def softmax_samples(tiles, worker, batch, n_out, a):
    L = lanes(a)
    first, end = share(worker, batch.n_panels if batch.n_panels else batch.n, 1)
    for part in range(first, end):
        if batch.n_panels == 0:
            softmax(tiles, n_out, 1, at(a, part * rounded(n_out, L)))
        else:
            softmax_panel(tiles, n_out, panel_width(batch, part, L), at(a, part * n_out * TILE_VECTORS * L))


@inlined
def backprop_one(tiles, worker, first, end, delta, layer, a_prev, activation, delta_prev):
    """Backward product of one sample: only the rows of W whose unit passes anything on are read."""
    L, n, units = lanes(delta), end - first, as_pointer_to(worker.own, int32)
    a_prev, delta_prev = at(a_prev, first), at(delta_prev, first)
    clear(delta_prev, rounded(end, L) - first if end == layer.n_in else n)
    is_relu = code_of(activation) == Activation.RELU
    n_units = list_nonzero(tiles, n, a_prev, a_prev, units) if is_relu else list_all(n, units)
    weights = at(layer.W, first * L), layer.n_in
    row_products(tiles, n_units, units, delta, *weights, rounded(layer.n_out, L), delta_prev)
    if not is_relu:
        through_activation(tiles, n, a_prev, activation, delta_prev)


@inlined
def descend_one(tiles, worker, first, end, a_prev, delta, step, layer):
    """Gradient descent on one sample: only the rows of W whose input is not 0 change."""
    inputs, x = as_pointer_to(worker.own, int32), at(a_prev, first)
    descend(tiles, worker, first, list_nonzero(tiles, end - first, x, x, inputs), inputs, x, delta, step, layer)


@inlined
def descend(tiles, worker, first, n_inputs, inputs, x, delta, step, layer):
    """Gradient descent on the rows of W that are listed; ``inputs`` and x are counted from ``first``."""
    L, n, scale = lanes(delta), rounded(layer.n_out, lanes(delta)), -step.rate * step.grad_scale
    add_outer(tiles, n_inputs, inputs, scale, x, delta, at(layer.W, first * L), layer.n_in, n)
    if not is_null(layer.b) and worker.thread == 0:
        number, one = as_pointer_to(worker.own, int32), at(worker.own, L)
        store(number, 0, 0)
        store(one, 0, 1)
        add_outer(tiles, 1, number, scale, one, delta, layer.b, 1, n)


@inlined
def scatter_strips(tiles, worker, batch, n_out, delta, strips):
    """Turn the errors of a layer from panels into strips."""
    L = lanes(delta)
    first, end = share(worker, n_out, L)
    for p in range(batch.n_panels):
        panel, n_rows = at(delta, (p * n_out + first) * TILE_VECTORS * L), panel_rows(batch, p, L)
        out = at(strips, first * batch.n + panel_start(batch, p, L) * L)
        scatter_panel(tiles, end - first, panel, n_rows, out, L, batch.n * L, 1)


@inlined
def clear_squares(worker, first, end):
    """Begin to add up the squares of the weights of some inputs."""
    for grain in range(first // GRAIN, (end + GRAIN - 1) // GRAIN):
        store(worker.squares, grain, 0)


@inlined
def finish_update(tiles, worker, batch, strips, strip_size, rule, step, layer):
    """Update what a layer has beside the weights of its inputs."""
    if not is_null(layer.b):
        update_bias(tiles, worker, batch, strips, strip_size, rule, step, layer)
    store(worker.own, 0, step.epsilon)  # rounded to the dtype
    if rule >= Optimizer.ADAM and load(worker.own, 0) == 0:
        clear_filling(worker, layer)


@inlined
def update_bias(tiles, worker, batch, strips, strip_size, rule, step, layer):
    """Apply ``rule`` to a bias, or keep its gradient; ``strips`` are those of a batch in panels, or its rows."""
    L, sums, numbers = lanes(strips), worker.own, numbers_of(step)
    n_strips = (layer.n_out + L - 1) // L
    row = L if batch.n_panels else n_strips * L
    strip, end = share(worker, n_strips, 1)
    while strip < end:
        n_vectors = group(end - strip, 0)
        sum_rows(tiles, n_vectors, batch.n, at(strips, strip * strip_size), row, strip_size, sums)
        state = at(layer.b, strip * L), at(layer.m_b, strip * L), at(layer.v_b, strip * L)
        apply(tiles, rule, numbers, step.grad_scale, n_vectors * L, sums, *state)
        strip += n_vectors


@inlined
def clear_filling(worker, layer):
    """Set what fills up a layer's last strip to 0 again: Adam made it 0 / 0."""
    L, n_in = lanes(layer.W), layer.n_in
    start, end = layer.n_out // L * L, rounded(layer.n_out, L)
    first, end_in = share(worker, n_in, GRAIN)
    for lane in range(layer.n_out - start, end - start):
        for i in range(first, end_in):
            store(layer.W, start * n_in + i * L + lane, 0)
        if not is_null(layer.b) and worker.thread == worker.n_threads - 1:  # it had the last strip of the bias
            store(layer.b, start + lane, 0)


@inlined
def list_all(n, list):
    for i in range(n):
        store(list, i, i)
    return n


NORM_BLOCK = 4096
"""Elements whose squares are added up together."""


@inlined
def n_blocks(n):
    return (n + NORM_BLOCK - 1) // NORM_BLOCK


@inlined
def has(plan, op):
    """Tell whether a plan has a row of a kind."""
    found = False
    for r in range(plan.size):
        found = found or plan[r].op == op
    return found


@inlined
def norm_factor(norm, step):
    """Return what a gradient is multiplied with to be clipped by its norm."""
    if step.max_norm == 0 or norm + 1e-6 <= step.max_norm:
        return 1.0
    return step.max_norm / (norm + 1e-6)


@inlined
def span_of(natural, plan, r, row, L, bias):
    """Return where the weights, or the bias, of a layer lie when packed, and how many elements they have.

    None, unless the flat range of ``row`` has them.
    """
    n_out, end = rounded(plan[r].n_out, L), row.W + row.n_in
    if not is_layer(plan[r].op) or first_with(natural, natural[r].W) != r:
        return 0, 0
    if bias:
        return (plan[r].b, n_out) if natural[r].b != NONE and row.W <= natural[r].b < end else (0, 0)
    return (plan[r].W, plan[r].n_in * n_out) if row.W <= natural[r].W < end else (0, 0)


@inlined
def optimizer_step(tiles, worker, natural, plan, row, step, states):
    """Apply a rule to those parameters, packed, that lie in the flat range of ``row``."""
    L, rule = lanes(states.params), row.optimizer
    for r in range(plan.size):
        for part in range(2):
            first, n = span_of(natural, plan, r, row, L, part == 1)
            share_first, share_end = share(worker, n, L)
            here = first + share_first
            state = at(states.grads, here), at(states.params, here), at(states.m, here), at(states.v, here)
            apply(tiles, rule, numbers_of(step), 1.0, share_end - share_first, *state)
    store(worker.own, 0, step.epsilon)  # rounded to the dtype
    if rule >= Optimizer.ADAM and load(worker.own, 0) == 0:
        meet(worker)
        for r in range(plan.size):
            if is_layer(plan[r].op):
                clear_filling(worker, layer_of(plan[r], states.params, states.params, states.params))


@inlined
def average_packed(tiles, worker, natural, plan, row, step, states):
    """Move the average of those parameters, packed, that lie in the flat range of ``row``."""
    L = lanes(states.params)
    for r in range(plan.size):
        for part in range(2):
            first, n = span_of(natural, plan, r, row, L, part == 1)
            share_first, share_end = share(worker, n, L)
            pair = at(states.params, first + share_first), at(states.average, first + share_first)
            move_average(tiles, share_end - share_first, 1.0 - step.average_decay, *pair)


@inlined
def clip_packed(tiles, worker, natural, plan, row, step, grads, norms):
    """Clip the gradient, packed, of the parameters that lie in the flat range of ``row``, by its norm.

    Blocks are shared, and their sums added up in an order that does not depend on the number of threads.
    """
    L, n_norms = lanes(grads), 0
    for r in range(plan.size):
        for part in range(2):
            first, n = span_of(natural, plan, r, row, L, part == 1)
            block, end = share(worker, n_blocks(n), 1)
            while block < end:
                here, rest = first + block * NORM_BLOCK, n - block * NORM_BLOCK
                store(norms, n_norms + block, square_sum(tiles, min(NORM_BLOCK, rest), at(grads, here)))
                block += 1
            n_norms += n_blocks(n)
    meet(worker)
    factor = norm_factor(math.sqrt(sum_of(norms, n_norms)), step)
    if factor != 1:
        for r in range(plan.size):
            for part in range(2):
                first, n = span_of(natural, plan, r, row, L, part == 1)
                share_first, share_end = share(worker, n, L)
                rescale(tiles, share_end - share_first, factor, at(grads, first + share_first))
