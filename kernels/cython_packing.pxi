# Packed forms of the backend `cython`: how batches and parameters lie in a run (tile_table.h says why).


cdef inline const Tiles* tiles(const real* p) noexcept nogil:
    """Return the primitives for p's elements."""
    if real is float:
        return chosen.of_float
    else:
        return chosen.of_double


cdef inline Py_ssize_t _rounded(Py_ssize_t n, Py_ssize_t lanes) noexcept nogil:
    return (n + lanes - 1) // lanes * lanes


cdef Batch _batch(Py_ssize_t n, const real* p) noexcept nogil:
    """Return how a batch of n samples is packed: few in rows, more in panels as equally wide as can be."""
    cdef Py_ssize_t L = tiles(p).lanes, n_vectors = (n + L - 1) // L
    cdef Py_ssize_t n_panels = (n_vectors + TILE_VECTORS - 1) // TILE_VECTORS
    if n == 1 or n <= L // 2:
        return Batch(n, 0, 0, 0)
    if n_vectors % n_panels == 0:
        return Batch(n, n_panels, n_panels, n_vectors // n_panels * L)
    return Batch(n, n_panels, n_vectors % n_panels, (n_vectors // n_panels + 1) * L)


cdef inline Py_ssize_t _panel_width(const Batch* batch, Py_ssize_t p, Py_ssize_t lanes) noexcept nogil:
    return batch.width if p < batch.n_wide else batch.width - lanes


cdef inline Py_ssize_t _panel_start(const Batch* batch, Py_ssize_t p, Py_ssize_t lanes) noexcept nogil:
    """Return the number of the panel's first sample."""
    return p * batch.width - (p - batch.n_wide) * lanes if p > batch.n_wide else p * batch.width


cdef inline Py_ssize_t _panel_rows(const Batch* batch, Py_ssize_t p, Py_ssize_t lanes) noexcept nogil:
    """Return how many samples the panel has."""
    return min(_panel_width(batch, p, lanes), batch.n - _panel_start(batch, p, lanes))


cdef bint _pack_batch(
    Worker* worker, const Batch* batch, Py_ssize_t n, const real* X, const int64_t* order, real* out
) noexcept nogil:
    """Pack the samples of X (., n) that ``order`` names, or the first ones if it is NULL; columns are shared, or rows. Return
    whether what this thread packed is finite."""
    cdef const Tiles* cpu = tiles(out)
    cdef Py_ssize_t L = cpu.lanes, row = _rounded(n, L), r, p, start
    cdef bint finite = True, is_finite
    cdef Share share = _share(worker, n, L) if batch.n_panels else _share(worker, batch.n, 1)
    for r in range(share.first, share.end if batch.n_panels == 0 else share.first):
        cpu.pack(1, n, X + (r if order == NULL else order[r]) * n, n, out + r * row, row)
        finite = cpu.is_finite(row, out + r * row) and finite
    for p in range(batch.n_panels):
        start = _panel_start(batch, p, L)
        is_finite = cpu.gather_panel(
            share.end - share.first, X + share.first + (start * n if order == NULL else 0), n,
            NULL if order == NULL else order + start, _panel_rows(batch, p, L), _panel_width(batch, p, L),
            out + (p * n + share.first) * TILE_VECTORS * L
        )
        finite = finite and is_finite
    return finite


cdef void _unpack_batch(
    Worker* worker, const Batch* batch, Py_ssize_t n, const real* packed, real* out
) noexcept nogil:
    """Write a batch back; panels are shared, or rows."""
    cdef const Tiles* cpu = tiles(out)
    cdef Py_ssize_t L = cpu.lanes, row = _rounded(n, L), p
    cdef Share share = _share(worker, batch.n_panels if batch.n_panels else batch.n, 1)
    if batch.n_panels == 0:
        cpu.unpack(share.end - share.first, n, packed + share.first * row, row, out + share.first * n, n)
        return
    for p in range(share.first, share.end):
        cpu.scatter_panel(
            n, packed + p * n * TILE_VECTORS * L, _panel_rows(batch, p, L), out + _panel_start(batch, p, L) * n, n, L, False
        )


cdef inline void _write_classes(
    const int64_t* classes, const int64_t* order, Py_ssize_t n, Py_ssize_t pitch, real* out
) noexcept nogil:
    """Write the classes of n samples side by side to where all is 0; the units of a sample stand ``pitch`` apart."""
    cdef Py_ssize_t r
    for r in range(n):
        out[r + classes[order[r]] * pitch] = 1


cdef enum:
    MOST_NUMBERS = 16777216  # classes that all elements, of 24 bits at least, tell apart


cdef bint _numbers_do(const Row* plan, Py_ssize_t n_plan, Py_ssize_t place) noexcept nogil:
    """Return whether classes are gathered to a place that is read as targets of a cross-entropy, and as nothing else."""
    cdef Py_ssize_t r
    cdef bint is_gathered = False, is_used
    for r in range(n_plan):
        if plan[r].op == GATHER_CLASSES and plan[r].a == place:
            is_gathered = True
            if plan[r].n_out > MOST_NUMBERS:
                return False
        else:
            is_used = place in (plan[r].a, plan[r].a_prev, plan[r].saved, plan[r].weight, plan[r].delta, plan[r].delta_prev, plan[r].rstd)
            if is_used or (plan[r].op == OUTPUT_DELTA and plan[r].y == place and plan[r].loss != CROSS_ENTROPY):
                return False
    return is_gathered


cdef void _keep_numbers(Row* plan, Py_ssize_t n_plan) noexcept nogil:
    """Mark the rows of a packed plan that gather classes and read them where numbers do, and save a panel of targets: in
    batches that lie in panels. What a caller left there goes. Each mark is written once: another thread may look already."""
    cdef Py_ssize_t r, place
    for r in range(n_plan):
        place = plan[r].a if plan[r].op == GATHER_CLASSES else plan[r].y if plan[r].op == OUTPUT_DELTA else NONE
        if plan[r].op != GATHER_ROWS:
            plan[r].source = AS_NUMBERS if place != NONE and _numbers_do(plan, n_plan, place) else NONE


cdef inline void _write_numbers(
    const int64_t* classes, const int64_t* order, Py_ssize_t n, Py_ssize_t width, real* out
) noexcept nogil:
    """Write the numbers of the classes of n samples, filled up to ``width``."""
    cdef Py_ssize_t r
    for r in range(n):
        out[r] = <real> classes[order[r]]
    memset(out + n, 0, (width - n) * sizeof(real))


cdef inline void _write_entries(
    const Sources* sources, const int64_t* order, Py_ssize_t n, Py_ssize_t pitch, real* out
) noexcept nogil:
    """Write the entries of n CSR samples likewise."""
    cdef Py_ssize_t r, e
    for r in range(n):
        for e in range(sources.X_indptr[order[r]], sources.X_indptr[order[r] + 1]):
            out[r + sources.X_indices[e] * pitch] += (<const real*> sources.X_data)[e]


cdef inline const void* _source(const Row* row, const Sources* sources) noexcept nogil:
    """Return whence a row of the plan gathers."""
    if row.op == GATHER_CLASSES:
        return sources.classes
    return sources.X if row.source == FROM_X else (sources.y if row.source == FROM_Y else sources.sample_weight)


cdef bint _gather(
    Worker* worker, const Row* row, const Csr* csr, const Batch* batch, real* out
) noexcept nogil:
    """Pack a batch of samples, targets or weights, but for CSR samples that are read where they lie. Return whether what
    this thread packed is finite, if it is dense."""
    cdef const Sources* sources = csr.sources
    cdef const int64_t* order = csr.order
    cdef Py_ssize_t L = tiles(out).lanes, n = row.n_out, n_parts, unit, pitch, part, start, n_rows
    cdef Share share
    if row.op == GATHER_ROWS:
        return _pack_batch(worker, batch, n, <const real*> _source(row, sources), order, out)
    if row.op == GATHER_CSR_ROWS and row.a == csr.place:
        return True
    n_parts, unit, pitch, n_rows = batch.n, _rounded(n, L), 1, 1
    if batch.n_panels:
        n_parts, unit, pitch = batch.n_panels, n * TILE_VECTORS * L, TILE_VECTORS * L
    share = _share(worker, n_parts, 1)
    if batch.n_panels and row.source == AS_NUMBERS:
        for part in range(share.first, share.end):
            start, n_rows = _panel_start(batch, part, L), _panel_rows(batch, part, L)
            _write_numbers(sources.classes, order + start, n_rows, _panel_width(batch, part, L), out + part * unit)
        return True
    memset(out + share.first * unit, 0, (share.end - share.first) * unit * sizeof(real))
    for part in range(share.first, share.end):
        start = part
        if batch.n_panels:
            start, n_rows = _panel_start(batch, part, L), _panel_rows(batch, part, L)
        if row.op == GATHER_CLASSES:
            _write_classes(sources.classes, order + start, n_rows, pitch, out + part * unit)
        else:
            _write_entries(sources, order + start, n_rows, pitch, out + part * unit)
    return True


cdef void _pack_weights(const Layer* layer, real* W, real* strips, bint back) noexcept nogil:
    """Pack weights, or write them back: some rows at a time, whose pages and cache lines stay at hand for all strips."""
    cdef const Tiles* cpu = tiles(W)
    cdef Py_ssize_t L = cpu.lanes, n_in = layer.n_in, n_out = layer.n_out, i = 0, o, n_rows, columns
    while i < n_in:
        n_rows, o = min(L, n_in - i), 0
        while o < n_out:
            columns = min(L, n_out - o)
            if back:
                cpu.unpack(n_rows, columns, strips + o * n_in + i * L, L, W + i * n_out + o, n_out)
            else:
                cpu.pack(n_rows, columns, W + i * n_out + o, n_out, strips + o * n_in + i * L, L)
            o += L
        i += L


cdef Py_ssize_t _place(const Row* natural, Row* packed, Py_ssize_t n_plan, const real* p) noexcept nogil:
    """Set W and b, mean and variance of each row to where they lie when packed; return the size of all."""
    cdef Py_ssize_t L = tiles(p).lanes, size = 0, r, first
    for r in range(n_plan):
        if _is_layer(&natural[r]) and _first_with(natural, natural[r].W) == r:
            packed[r].W = size
            size += natural[r].n_in * _rounded(natural[r].n_out, L)
            if natural[r].b != NONE:
                packed[r].b = size
                size += _rounded(natural[r].n_out, L)
            if natural[r].op != LINEAR_FORWARD:
                packed[r].mean, packed[r].variance = size, size + _rounded(natural[r].n_out, L)
                size += 2 * _rounded(natural[r].n_out, L)
    for r in range(n_plan):
        if _is_layer(&natural[r]) or natural[r].op in (BATCH_NORM_DELTA, BACKPROP_DELTA, LINEAR_GRAD, LINEAR_UPDATE):
            first = _first_with(natural, natural[r].W)
            packed[r].W, packed[r].b = packed[first].W, packed[first].b
            packed[r].mean, packed[r].variance = packed[first].mean, packed[first].variance
    return size


cdef inline bint _is_layer(const Row* row) noexcept nogil:
    """Return whether a row is the forward pass of a layer. One that normalises has gamma for weights and beta for a bias."""
    return row.op == LINEAR_FORWARD or row.op == BATCH_NORM or row.op == NORMALIZE


cdef inline Py_ssize_t _first_with(const Row* plan, Py_ssize_t W) noexcept nogil:
    """Return the first row on a layer's weights: its forward pass."""
    cdef Py_ssize_t r = 0
    while not _is_layer(&plan[r]) or plan[r].W != W:
        r += 1
    return r


cdef void _pack_state(
    const Row* natural, const Row* plan, Py_ssize_t n_plan, bint running, real* flat, real* packed, bint back
) noexcept nogil:
    """Pack a flat buffer that is laid out like the parameters, ``running`` with means and variances, or write it back."""
    cdef Py_ssize_t r, n_out
    cdef Layer layer
    for r in range(n_plan):
        if _is_layer(&plan[r]) and _first_with(natural, natural[r].W) == r:
            layer, n_out = _layer(&plan[r], packed, packed, packed), plan[r].n_out
            _pack_weights(&layer, flat + natural[r].W, packed + plan[r].W, back)
            if plan[r].b != NONE:
                _pack_vector(n_out, flat + natural[r].b, packed + plan[r].b, back)
            if running and plan[r].op != LINEAR_FORWARD:
                _pack_vector(n_out, flat + natural[r].mean, packed + plan[r].mean, back)
                _pack_vector(n_out, flat + natural[r].variance, packed + plan[r].variance, back)


cdef inline void _pack_vector(Py_ssize_t n, real* vector, real* packed, bint back) noexcept nogil:
    """Pack what has an element for each unit, or write it back."""
    if back:
        tiles(vector).unpack(1, n, packed, n, vector, n)
    else:
        tiles(vector).pack(1, n, vector, n, packed, n)


def _pack(
    const int64_t[::1] natural_rows, int64_t[::1] rows, used, bint parameters, bint moments, real[::1] params,
    real[::1] grads, real[::1] m, real[::1] v, real[::1] average, real[::1] scratch, bint back
):
    """Pack the flat buffers that are used one behind the other, or write them back."""
    cdef const Row* natural = <const Row*> &natural_rows[0]
    cdef Row* plan = <Row*> &rows[0]
    cdef Py_ssize_t n_plan = rows.shape[0] * sizeof(int64_t) // sizeof(Row)
    cdef real* flat[5]
    cdef real* packed = &scratch[0]
    cdef Py_ssize_t state, size = _place(natural, plan, n_plan, packed)
    flat[0], flat[1], flat[2], flat[3], flat[4] = &params[0], &grads[0], &m[0], &v[0], &average[0]
    for state in range(5):
        if used[state] and (moments if state in (2, 3) else parameters):
            with nogil:
                _pack_state(natural, plan, n_plan, state == 0, flat[state], packed, back)
        packed += size if used[state] else 0


cdef inline Layer _layer(const Row* row, real* params, real* m, real* v) noexcept nogil:
    """Return a row's layer in packed buffers."""
    cdef Layer layer = Layer(row.n_in, row.n_out, params + row.W, m + row.W, v + row.W, NULL, NULL, NULL)
    if row.b != NONE:
        layer.b, layer.m_b, layer.v_b = params + row.b, m + row.b, v + row.b
    return layer


# -------------------------------------------------------------------------------- the operations by hand


cdef inline real* _take(real** rest, Py_ssize_t n) noexcept nogil:
    """Cut n elements off what is left of the scratch, in whole vectors."""
    cdef real* start = rest[0]
    rest[0] += _rounded(n, tiles(start).lanes)
    return start


cdef inline real* _first_of(real[:, ::1] matrix) noexcept nogil:
    """Return where a matrix begins that may be left out: NULL if it is empty."""
    return &matrix[0, 0] if matrix.shape[0] and matrix.shape[1] else NULL


cdef inline real* _take_batch(real** rest, const Batch* batch, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t L = tiles(rest[0]).lanes
    return _take(rest, batch.n * _rounded(n, L) if batch.n_panels == 0 else batch.n_panels * n * TILE_VECTORS * L)


cdef real* _take_packed(real** rest, Worker* worker, const Batch* batch, Py_ssize_t n, const real* X) noexcept nogil:
    """Pack the samples of X (., n)."""
    cdef real* packed = _take_batch(rest, batch, n)
    _pack_batch(worker, batch, n, X, NULL, packed)
    return packed


cdef real* _take_weights(real** rest, const Layer* layer, const real* W) noexcept nogil:
    """Pack weights, or what goes with them."""
    cdef real* strips = _take(rest, layer.n_in * _rounded(layer.n_out, tiles(W).lanes))
    _pack_weights(layer, <real*> W, strips, False)
    return strips


cdef real* _take_bias(real** rest, const Layer* layer, const real* b, Py_ssize_t n) noexcept nogil:
    """Pack a bias, or what goes with it; NULL if there is none."""
    cdef real* row = _take(rest, n)
    if n == 0:
        return NULL
    tiles(b).pack(1, n, b, n, row, n)
    return row


def _update_by_hand(
    const real[:, ::1] a_prev, const real[:, ::1] delta, int rule, const Step[::1] step, const real[:, ::1] W,
    real[:, ::1] param_W, real[::1] param_b, real[:, ::1] m_W, real[::1] m_b, real[:, ::1] v_W, real[::1] v_b,
    real[::1] scratch
):
    """Pack a layer with its moments, update it or keep its gradient, and write it back."""
    cdef Batch batch = _batch(delta.shape[0], &scratch[0])
    cdef Layer layer = Layer(W.shape[0], W.shape[1], NULL, NULL, NULL, NULL, NULL, NULL)
    cdef const Tiles* cpu = tiles(&scratch[0])
    cdef real* rest = &scratch[0]
    cdef Worker worker = _alone(&batch, &layer, &rest)
    cdef real* below
    cdef real* error
    cdef real* weights
    cdef bint moment = rule > SGD and rule < RMSPROP, second = rule >= ADAM
    cdef Py_ssize_t n_out = W.shape[1], n_bias = param_b.shape[0]
    with nogil:
        below = _take_packed(&rest, &worker, &batch, layer.n_in, &a_prev[0, 0])
        error = _take_packed(&rest, &worker, &batch, n_out, &delta[0, 0])
        layer.W, layer.b = _take_weights(&rest, &layer, &param_W[0, 0]), _take_bias(&rest, &layer, &param_b[0], n_bias)
        weights = <real*> layer.W
        if rule == NONE:
            weights = _take_weights(&rest, &layer, &W[0, 0])
        if moment:
            layer.m_W, layer.m_b = _take_weights(&rest, &layer, &m_W[0, 0]), _take_bias(&rest, &layer, &m_b[0], n_bias)
        if second:
            layer.v_W, layer.v_b = _take_weights(&rest, &layer, &v_W[0, 0]), _take_bias(&rest, &layer, &v_b[0], n_bias)
        _linear_update(&worker, &batch, below, error, rule, &step[0], &layer, weights, NULL, NULL)
        _pack_weights(&layer, &param_W[0, 0], <real*> layer.W, True)
        if moment:
            _pack_weights(&layer, &m_W[0, 0], <real*> layer.m_W, True)
        if second:
            _pack_weights(&layer, &v_W[0, 0], <real*> layer.v_W, True)
        if n_bias:
            cpu.unpack(1, n_out, layer.b, n_out, &param_b[0], n_out)
        if n_bias and moment:
            cpu.unpack(1, n_out, layer.m_b, n_out, &m_b[0], n_out)
        if n_bias and second:
            cpu.unpack(1, n_out, layer.v_b, n_out, &v_b[0], n_out)
    return _sum(worker.squares, (layer.n_in + GRAIN - 1) // GRAIN) if step[0].l2 != 0 else 0
