"""Packed forms of the backend `numba`: how batches and parameters lie in a run (``tile_table.h`` says why)."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .contract import NONE, PLAN_ROW, Loss, Op, Source
from .numba_jit import inlined, kernel, struct
from .numba_rows import gather_panel, is_finite, pack, scatter_panel, unpack
from .numba_tiles import TILE_VECTORS
from .numba_vectors import at, is_null, lanes, load, null, pointer, splat, store, store_vector
from .numba_workers import is_layer, is_norm, rounded, share, take


@struct("B", "iiii")
class Batch(NamedTuple):
    """How a batch of n samples is packed.

    In panels, the first n_wide of them with ``width`` samples and the others with a vector less; or, where n_panels is
    0, in rows.
    """

    n: int
    n_panels: int
    n_wide: int
    width: int


@struct("L", "iipppppp")
class Layer(NamedTuple):
    """A layer's parameters and what goes with them, packed; null where there is none."""

    n_in: int
    n_out: int
    W: Any
    m_W: Any
    v_W: Any
    b: Any
    m_b: Any
    v_b: Any


@struct("O", "ppwqpqp")
class Sources(NamedTuple):
    """Pointers to the data of a run."""

    X: Any
    X_data: Any
    X_indices: Any
    X_indptr: Any
    y: Any
    classes: Any
    sample_weight: Any


@struct("T", "ppppp")
class States(NamedTuple):
    """Pointers to the parameters, packed, and to what lies like them."""

    params: Any
    grads: Any
    m: Any
    v: Any
    average: Any


@intrinsic
def numbers_of(typingctx: Any, step: Any) -> Any:
    """Return the pointer to the numbers of a STEP record."""
    kind = types.CPointer(types.float64)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], context.get_value_type(kind))

    return kind(step), codegen


@intrinsic
def activation_of(typingctx: Any, row: Any) -> Any:
    """Return the address of the activation of a plan's row."""
    place = PLAN_ROW.fields["activation"][1]  # type: ignore[index]

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        words = builder.bitcast(args[0], ir.IntType(64).as_pointer())
        return builder.gep(words, [ir.IntType(64)(place // 8)])

    return types.CPointer(types.int64)(row), codegen


@intrinsic
def uncounted(typingctx: Any, array: Any) -> Any:
    """Return an array to which references are not counted: that costs more than a row of a small plan."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        struct = cgutils.create_struct_proxy(signature.args[0])(context, builder, value=args[0])
        struct.meminfo = cgutils.get_null_value(struct.meminfo.type)
        return struct._getvalue()

    return array(array), codegen


@inlined
def make_batch(n, p):
    """Return how a batch of n samples is packed: few in rows, more in panels as equally wide as can be."""
    L = lanes(p)
    n_vectors = (n + L - 1) // L
    n_panels = (n_vectors + TILE_VECTORS - 1) // TILE_VECTORS
    if n == 1 or n <= L // 2:
        return Batch(n, 0, 0, 0)
    if n_vectors % n_panels == 0:
        return Batch(n, n_panels, n_panels, n_vectors // n_panels * L)
    return Batch(n, n_panels, n_vectors % n_panels, (n_vectors // n_panels + 1) * L)


@inlined
def panel_width(batch, p, L):
    return batch.width if p < batch.n_wide else batch.width - L


@inlined
def panel_start(batch, p, L):
    """Return the number of the panel's first sample."""
    return p * batch.width - max(p - batch.n_wide, 0) * L


@inlined
def panel_rows(batch, p, L):
    """Return how many samples the panel has."""
    return min(panel_width(batch, p, L), batch.n - panel_start(batch, p, L))


@inlined
def pack_batch(tiles, worker, batch, n, X, order, out):
    """Pack the samples of X (., n) that ``order`` names, or the first ones if it is null; columns are shared, or rows.

    Return whether what this thread packed is finite.
    """
    L, finite = lanes(out), True
    if batch.n_panels == 0:
        row = rounded(n, L)
        first, end = share(worker, batch.n, 1)
        for r in range(first, end):
            sample = r if is_null(order) else load(order, r)
            pack(tiles, 1, n, at(X, sample * n), n, at(out, r * row), row)
            finite = is_finite(tiles, row, at(out, r * row)) != 0 and finite
        return finite
    first, end = share(worker, n, L)
    for p in range(batch.n_panels):
        start = panel_start(batch, p, L)
        source, samples = at(X, first), order
        if is_null(order):
            source = at(source, start * n)
        else:
            samples = at(order, start)
        n_rows, width = panel_rows(batch, p, L), panel_width(batch, p, L)
        panel = at(out, (p * n + first) * TILE_VECTORS * L)
        finite = gather_panel(tiles, end - first, source, n, samples, n_rows, width, panel) != 0 and finite
    return finite


@inlined
def unpack_batch(tiles, worker, batch, n, packed, out):
    """Write a batch back; panels are shared, or rows."""
    L = lanes(out)
    first, end = share(worker, batch.n_panels if batch.n_panels else batch.n, 1)
    if batch.n_panels == 0:
        row = rounded(n, L)
        unpack(tiles, end - first, n, at(packed, first * row), row, at(out, first * n), n)
        return
    for p in range(first, end):
        rows = at(out, panel_start(batch, p, L) * n)
        scatter_panel(tiles, n, at(packed, p * n * TILE_VECTORS * L), panel_rows(batch, p, L), rows, n, L, 0)


@inlined
def write_classes(classes, order, n, pitch, out):
    """Write the classes of n samples side by side to where all is 0; the units of a sample stand ``pitch`` apart."""
    for r in range(n):
        store(out, r + load(classes, load(order, r)) * pitch, 1)


MOST_NUMBERS = 2**24
"""Classes that all elements, of 24 bits at least, tell apart."""

AS_NUMBERS = 3
"""The source of the classes, and of what reads them, in packed plans: see `keep_numbers`."""


@inlined
def numbers_do(plan, place):
    """Tell whether classes are gathered to a place that is read as targets of a cross-entropy, and as nothing else."""
    is_gathered = False
    for r in range(plan.size):
        row = plan[r]
        if row.op == Op.GATHER_CLASSES and row.a == place:
            is_gathered = True
            if row.n_out > MOST_NUMBERS:
                return False
        else:
            is_used = place in (row.a, row.a_prev, row.saved, row.weight, row.delta, row.delta_prev, row.rstd)
            if is_used or (row.op == Op.OUTPUT_DELTA and row.y == place and row.loss != Loss.CROSS_ENTROPY):
                return False
    return is_gathered


@inlined
def keep_numbers(plan):
    """Mark the rows of a packed plan that gather classes and read them where numbers do, and save a panel of targets.

    That is in batches that lie in panels. What a caller left there goes. Each mark is written once: another thread may
    look already.
    """
    for r in range(plan.size):
        row = plan[r]
        place = row.a if row.op == Op.GATHER_CLASSES else row.y if row.op == Op.OUTPUT_DELTA else NONE
        if row.op != Op.GATHER_ROWS:
            plan[r].source = AS_NUMBERS if place != NONE and numbers_do(plan, place) else NONE


@inlined
def write_numbers(classes, order, n, width, out):
    """Write the numbers of the classes of n samples, filled up to ``width``."""
    for r in range(n):
        store(out, r, load(classes, load(order, r)))
    clear(at(out, n), width - n)


@inlined
def write_entries(sources, order, n, pitch, out):
    """Write the entries of n CSR samples likewise."""
    for r in range(n):
        sample = load(order, r)
        for e in range(load(sources.X_indptr, sample), load(sources.X_indptr, sample + 1)):
            place = r + load(sources.X_indices, e) * pitch
            store(out, place, load(out, place) + load(sources.X_data, e))


@inlined
def source_of(row, sources):
    """Return whence a ``GATHER_ROWS`` row of the plan takes them."""
    source = sources.X
    if row.source != Source.X:
        source = sources.y if row.source == Source.Y else sources.sample_weight
    return source


@kernel("iWROqBpi")
def gather(tiles, worker, row, sources, order, batch, out, csr_place):
    """Pack a batch of samples, targets or weights, but for CSR samples that are read where they lie.

    Return whether what this thread packed is finite, if it is dense.
    """
    L, n = lanes(out), row.n_out
    if row.op == Op.GATHER_ROWS:
        return pack_batch(tiles, worker, batch, n, source_of(row, sources), order, out)
    if row.op == Op.GATHER_CSR_ROWS and row.a == csr_place:
        return True
    n_parts, unit, pitch = batch.n, rounded(n, L), 1
    if batch.n_panels:
        n_parts, unit, pitch = batch.n_panels, n * TILE_VECTORS * L, TILE_VECTORS * L
    first, end = share(worker, n_parts, 1)
    if batch.n_panels and row.source == AS_NUMBERS:
        for part in range(first, end):
            samples, n_rows = at(order, panel_start(batch, part, L)), panel_rows(batch, part, L)
            write_numbers(sources.classes, samples, n_rows, panel_width(batch, part, L), at(out, part * unit))
        return True
    clear(at(out, first * unit), (end - first) * unit)
    for part in range(first, end):
        start, n_rows = part, 1
        if batch.n_panels:
            start, n_rows = panel_start(batch, part, L), panel_rows(batch, part, L)
        if row.op == Op.GATHER_CLASSES:
            write_classes(sources.classes, at(order, start), n_rows, pitch, at(out, part * unit))
        else:
            write_entries(sources, at(order, start), n_rows, pitch, at(out, part * unit))
    return True


@inlined
def clear(x, n):
    """Set n elements to 0."""
    for j in range(0, n, lanes(x)):
        store_vector(at(x, j), n - j, splat(0.0, x))


@kernel("viippi")
def pack_weights(tiles, n_in, n_out, W, strips, back):
    """Pack weights, or write them back: some rows at a time, whose pages and cache lines stay at hand for all."""
    L = lanes(W)
    for i in range(0, n_in, L):
        n_rows = min(L, n_in - i)
        for o in range(0, n_out, L):
            columns, strip, corner = min(L, n_out - o), at(strips, o * n_in + i * L), at(W, i * n_out + o)
            if back:
                unpack(tiles, n_rows, columns, strip, L, corner, n_out)
            else:
                pack(tiles, n_rows, columns, corner, n_out, strip, L)


@inlined
def place(natural, packed, p):
    """Set W and b, mean and variance of each row to where these lie when packed; return the size of all."""
    L, size = lanes(p), 0
    for r in range(natural.size):
        if is_layer(natural[r].op) and first_with(natural, natural[r].W) == r:
            packed[r].W = size
            size += natural[r].n_in * rounded(natural[r].n_out, L)
            if natural[r].b != NONE:
                packed[r].b = size
                size += rounded(natural[r].n_out, L)
            if is_norm(natural[r].op):
                packed[r].mean, packed[r].variance = size, size + rounded(natural[r].n_out, L)
                size += 2 * rounded(natural[r].n_out, L)
    for r in range(natural.size):
        op = natural[r].op
        is_backward = op == Op.BATCH_NORM_DELTA or op == Op.BACKPROP_DELTA
        if is_layer(op) or is_backward or op == Op.LINEAR_GRAD or op == Op.LINEAR_UPDATE:
            first = first_with(natural, natural[r].W)
            packed[r].W, packed[r].b = packed[first].W, packed[first].b
            packed[r].mean, packed[r].variance = packed[first].mean, packed[first].variance
    return size


@inlined
def first_with(plan, W):
    """Return the first row on a layer's weights: its forward pass."""
    r = 0
    while not is_layer(plan[r].op) or plan[r].W != W:
        r += 1
    return r


@inlined
def pack_state(tiles, natural, plan, flat, packed, back, with_running):
    """Pack a flat buffer that is laid out like the parameters, or write it back; running means and variances too."""
    for r in range(plan.size):
        if is_layer(plan[r].op) and first_with(natural, natural[r].W) == r:
            n_in, n_out = plan[r].n_in, plan[r].n_out
            pack_weights(tiles, n_in, n_out, at(flat, natural[r].W), at(packed, plan[r].W), back)
            if plan[r].b != NONE:
                pack_vector(tiles, n_out, at(flat, natural[r].b), at(packed, plan[r].b), back)
            if with_running and is_norm(plan[r].op):
                pack_vector(tiles, n_out, at(flat, natural[r].mean), at(packed, plan[r].mean), back)
                pack_vector(tiles, n_out, at(flat, natural[r].variance), at(packed, plan[r].variance), back)


@inlined
def pack_vector(tiles, n_out, b, packed, back):
    """Pack a bias, or another vector of a layer, or write it back."""
    if back:
        unpack(tiles, 1, n_out, packed, n_out, b, n_out)
    else:
        pack(tiles, 1, n_out, b, n_out, packed, n_out)


@inlined
def sources_of(buffers):
    """Return the pointers to the data of a run."""
    indices = pointer(buffers.X_indices), pointer(buffers.X_indptr)
    targets = pointer(buffers.y), pointer(buffers.classes), pointer(buffers.sample_weight)
    return Sources(pointer(buffers.X), pointer(buffers.X_data), *indices, *targets)


@inlined
def layer_of(row, params, m, v):
    """Return a row's layer in packed buffers."""
    b = m_b = v_b = null(params)
    if row.b != NONE:
        b, m_b, v_b = at(params, row.b), at(m, row.b), at(v, row.b)
    return Layer(row.n_in, row.n_out, at(params, row.W), at(m, row.W), at(v, row.W), b, m_b, v_b)


# -------------------------------------------------------------------------------- the operations by hand


@inlined
def take_batch(rest, batch, n):
    """Cut off room for a packed batch."""
    L = lanes(rest)
    return take(rest, batch.n_panels * n * TILE_VECTORS * L if batch.n_panels else batch.n * rounded(n, L))


@inlined
def take_weights(tiles, rest, W):
    """Pack weights, or what goes with them."""
    n_in, n_out = W.shape
    strips, rest = take(rest, n_in * rounded(n_out, lanes(rest)))
    pack_weights(tiles, n_in, n_out, pointer(W), strips, False)
    return strips, rest


@inlined
def take_layer(tiles, rest, W, b, is_used):
    """Pack weights and bias, or what goes with them; null where there is none."""
    strips = packed = null(rest)
    if is_used:
        strips, rest = take_weights(tiles, rest, W)
    if is_used and b.size:
        packed, rest = take(rest, b.size)
        pack_vector(tiles, b.size, pointer(b), packed, False)
    return strips, packed, rest


@inlined
def give_back(tiles, strips, packed, W, b):
    """Write back what `take_layer` packed."""
    if not is_null(strips):
        pack_weights(tiles, *W.shape, pointer(W), strips, True)
    if not is_null(packed):
        pack_vector(tiles, b.size, pointer(b), packed, True)
