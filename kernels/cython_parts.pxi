# Parts of the kernels of the backend `cython`: a product or an update for many samples, for few, and for one.


cdef enum:
    BLOCK_SIZE = 196608  # elements that stay in the second-level cache, beside weights


cdef inline void _spread(Ahead* ahead, Py_ssize_t n_tiles) noexcept nogil:
    """Begin to fetch the next samples with the tiles of an update."""
    cdef Py_ssize_t s, n_bytes = 0
    for s in range(ahead.n_sources):
        n_bytes += ahead.n_rows * ahead.sources[s].row_bytes
    ahead.source = ahead.row = ahead.byte = 0
    ahead.bytes = (n_bytes // CACHE_LINE // max(n_tiles, 1) + 1) * CACHE_LINE


cdef inline void _remember(Ahead* ahead, const void* start, Py_ssize_t row_bytes) noexcept nogil:
    """Note whence the next mini-batch, if there is one, will take rows."""
    if ahead.n_rows and ahead.n_sources < MOST_FAR:
        ahead.sources[ahead.n_sources] = Far(start, row_bytes)
        ahead.n_sources += 1


cdef inline Py_ssize_t _group(Py_ssize_t n_strips, Py_ssize_t strip) noexcept nogil:
    """Return how many strips, from ``strip`` on, go into a tile: groups as equally wide as can be."""
    cdef Py_ssize_t n_groups = (n_strips + TILE_VECTORS - 1) // TILE_VECTORS
    return n_strips // n_groups + (strip < n_strips % n_groups * (n_strips // n_groups + 1))


cdef inline Py_ssize_t _block(const Batch* batch, Py_ssize_t lanes) noexcept nogil:
    """Return how many terms of a product's sums are added at a time: the panels of so many units fit in a cache."""
    return max(BLOCK_SIZE // _rounded(batch.n, lanes) // lanes, 4) * lanes


cdef void _forward_panels(
    Worker* worker, const Batch* batch, const real* a_prev, const Layer* layer, const Activation* activation, real* a
) noexcept nogil:
    """Forward product of many samples. Units are shared, or panels where that divides the work more equally."""
    cdef const Tiles* cpu = tiles(a)
    cdef Py_ssize_t L = cpu.lanes, n_in = layer.n_in, n_out = layer.n_out, p, k = 0, block = _block(batch, L)
    cdef Share units = _share(worker, n_out, GRAIN), panels = Share(0, batch.n_panels)
    cdef Product product
    if worker.n_threads > 1 and _largest(worker, n_out, GRAIN) * batch.n_panels > _largest(worker, batch.n_panels, 1) * n_out:
        units, panels = Share(0, n_out), _share(worker, batch.n_panels, 1)
    product.first, product.end, product.a_next = units.first, units.end, n_in * L
    product.activation, product.bias, product.below = activation[0], layer.b, NULL
    while k < n_in:
        product.n_terms, product.A = min(n_in - k, block), <real*> layer.W + k * L
        product.begins, product.ends = k == 0, k + product.n_terms == n_in
        for p in range(panels.first, panels.end):
            product.B, product.C = a_prev + (p * n_in + k) * TILE_VECTORS * L, a + p * n_out * TILE_VECTORS * L
            cpu.product(ALONG_STRIPS, _panel_width(batch, p, L) // L, &product)
        k += product.n_terms


cdef void _forward_rows(
    Worker* worker, const Batch* batch, const real* a_prev, const Layer* layer, const Activation* activation, real* a
) noexcept nogil:
    """Forward product of few samples."""
    cdef const Tiles* cpu = tiles(a)
    cdef Py_ssize_t L = cpu.lanes, n_in = layer.n_in, n_strips = (layer.n_out + L - 1) // L, n_vectors
    cdef Share strips = _share(worker, n_strips, 1)
    cdef Product product
    product.first, product.end, product.n_terms, product.begins, product.ends = 0, batch.n, n_in, True, True
    product.A, product.a_next, product.b_next, product.c_next = a_prev, _rounded(n_in, L), n_in * L, n_strips * L
    product.activation, product.below = activation[0], NULL
    while strips.first < strips.end:
        n_vectors = _group(strips.end - strips.first, 0)
        product.B, product.C = <real*> layer.W + strips.first * n_in * L, a + strips.first * L
        product.bias = NULL if layer.b == NULL else <real*> layer.b + strips.first * L
        cpu.product(FEW_ROWS, n_vectors, &product)
        strips.first += n_vectors


cdef void _forward_one(
    Worker* worker, const real* a_prev, const Layer* layer, const Activation* activation, bint skip_zeros, real* a
) noexcept nogil:
    """Forward product of one sample: only the rows of W whose input is not 0 are read, if there is no 0 x infinity."""
    cdef const Tiles* cpu = tiles(a)
    cdef Py_ssize_t L = cpu.lanes, n_in = layer.n_in, n_inputs
    cdef Share strips = _share(worker, (layer.n_out + L - 1) // L, 1)
    cdef Py_ssize_t first = strips.first * L, n = (strips.end - strips.first) * L
    cdef real* sums = <real*> worker.own
    cdef int32_t* inputs = <int32_t*> (sums + n)
    n_inputs = cpu.list_nonzero(n_in, a_prev, a_prev, inputs) if skip_zeros else _list_all(n_in, inputs)
    cpu.weighted_rows(n_inputs, inputs, a_prev, <real*> layer.W + first * n_in, L, n_in * L, n, sums)
    cpu.activate_row(n, sums, NULL if layer.b == NULL else <real*> layer.b + first, activation, a + first, NULL)


cdef void _softmax(Worker* worker, const Batch* batch, Py_ssize_t n_out, real* a) noexcept nogil:
    cdef const Tiles* cpu = tiles(a)
    cdef Py_ssize_t L = cpu.lanes, r, p
    cdef Share share = _share(worker, batch.n_panels if batch.n_panels else batch.n, 1)
    for r in range(share.first, share.end if batch.n_panels == 0 else share.first):
        cpu.softmax(n_out, True, a + r * _rounded(n_out, L))
    for p in range(share.first, share.end if batch.n_panels else share.first):
        cpu.softmax_panel(n_out, _panel_width(batch, p, L), a + p * n_out * TILE_VECTORS * L)


cdef inline const Activation* _activation(const Row* row) noexcept nogil:
    """Return the activation of a plan's row."""
    return <const Activation*> &row.activation


cdef inline const Activation* _before_softmax(const Activation* activation) noexcept nogil:
    """Return what is done to single units before softmax looks at them all: nothing; else the activation itself."""
    if activation.code == SOFTMAX:
        return &PLAIN
    return activation


cdef void _activate(
    Worker* worker, const Batch* batch, Py_ssize_t n, const real* z, const Activation* activation, real* a, real* saved
) noexcept nogil:
    """Activation of n units. Units are shared."""
    cdef const Tiles* cpu = tiles(a)
    cdef Py_ssize_t part, place, size
    cdef Share units = _share(worker, n, cpu.lanes)
    for part in range(batch.n_panels if batch.n_panels else batch.n):
        place, size = _piece(batch, n, units, part, cpu.lanes)
        cpu.activate_row(size, z + place, NULL, activation, a + place, NULL if saved == NULL else saved + place)


cdef void _activation_delta(
    Worker* worker, const Batch* batch, Py_ssize_t n, const real* a, const Activation* activation, real* delta
) noexcept nogil:
    """Derivative of the activation of n units. Units are shared; of softmax, whose sums run over them, samples are."""
    cdef const Tiles* cpu = tiles(delta)
    cdef Py_ssize_t L = cpu.lanes, part, place, size, n_parts = batch.n_panels if batch.n_panels else batch.n
    cdef Share units = _share(worker, n, L), samples = _share(worker, n_parts, 1)
    if activation.code == SOFTMAX:
        for part in range(samples.first, samples.end):
            if batch.n_panels:
                place = part * n * TILE_VECTORS * L
                cpu.through_softmax_panel(n, _panel_width(batch, part, L), a + place, delta + place)
            else:
                place = part * _rounded(n, L)
                cpu.through_softmax(n, True, a + place, delta + place)
        return
    for part in range(n_parts):
        place, size = _piece(batch, n, units, part, L)
        cpu.through_activation(size, a + place, activation, delta + place)


cdef inline (Py_ssize_t, Py_ssize_t) _piece(
    const Batch* batch, Py_ssize_t n, Share units, Py_ssize_t part, Py_ssize_t lanes
) noexcept nogil:
    """Return where some of n units begin in a panel, or in a row, and how many elements they have there side by side."""
    cdef Py_ssize_t pitch = TILE_VECTORS * lanes
    if batch.n_panels:
        return (part * n + units.first) * pitch, (units.end - units.first) * pitch
    return part * _rounded(n, lanes) + units.first, units.end - units.first


cdef void _backprop_one(
    Worker* worker, Share share, const real* delta, const Layer* layer, const real* a_prev,
    const Activation* activation, real* delta_prev
) noexcept nogil:
    """Backward product of one sample: only the rows of W whose unit passes anything on are read."""
    cdef const Tiles* cpu = tiles(delta)
    cdef Py_ssize_t L = cpu.lanes, n = share.end - share.first, n_units
    cdef int32_t* units = <int32_t*> worker.own
    a_prev, delta_prev = a_prev + share.first, delta_prev + share.first
    memset(delta_prev, 0, (_rounded(share.end, L) - share.first if share.end == layer.n_in else n) * sizeof(real))
    n_units = cpu.list_nonzero(n, a_prev, a_prev, units) if activation.code == RELU else _list_all(n, units)
    cpu.row_products(
        n_units, units, delta, <real*> layer.W + share.first * L, layer.n_in, _rounded(layer.n_out, L), delta_prev
    )
    if activation.code != RELU:
        cpu.through_activation(n, a_prev, activation, delta_prev)


cdef void _descend_one(
    Worker* worker, Share share, const real* a_prev, const real* delta, const Step* step, const Layer* layer, Csr* csr
) noexcept nogil:
    """Gradient descent on one sample: only the rows of W whose input is not 0 change."""
    cdef const Tiles* cpu = tiles(delta)
    cdef Py_ssize_t L = cpu.lanes, n = _rounded(layer.n_out, L), n_inputs
    cdef int32_t* inputs = <int32_t*> worker.own if csr == NULL else csr.inputs
    cdef const real* x = a_prev + share.first if csr == NULL else <const real*> csr.x
    cdef double scale = -step.rate * step.grad_scale
    cdef int32_t first = 0
    cdef real one = 1
    if csr == NULL:
        n_inputs = cpu.list_nonzero(share.end - share.first, x, x, inputs)
    else:
        n_inputs = _open_sample(csr, <real*> csr.x, csr.order[0], share)
    cpu.add_outer(n_inputs, inputs, scale, x, delta, <real*> layer.W + share.first * L, layer.n_in, n)
    if csr != NULL:
        _close_sample(csr, <real*> csr.x, n_inputs)
    if layer.b != NULL and worker.thread == 0:
        cpu.add_outer(1, &first, scale, &one, delta, layer.b, 1, n)


cdef void _scatter_strips(
    Worker* worker, const Batch* batch, Py_ssize_t n_out, const real* delta, real* strips
) noexcept nogil:
    """Turn the errors of a layer from panels into strips."""
    cdef const Tiles* cpu = tiles(delta)
    cdef Py_ssize_t L = cpu.lanes, p
    cdef Share units = _share(worker, n_out, L)
    for p in range(batch.n_panels):
        cpu.scatter_panel(
            units.end - units.first, delta + (p * n_out + units.first) * TILE_VECTORS * L, _panel_rows(batch, p, L),
            strips + units.first * batch.n + _panel_start(batch, p, L) * L, L, batch.n * L, True
        )


cdef void _update_bias(
    Worker* worker, const Batch* batch, const real* strips, Py_ssize_t strip_size, int rule, const Step* step,
    const Layer* layer
) noexcept nogil:
    """Apply ``rule`` to a bias, or keep its gradient; ``strips`` are those of a batch in panels, or its rows."""
    cdef const Tiles* cpu = tiles(strips)
    cdef Py_ssize_t L = cpu.lanes, n_strips = (layer.n_out + L - 1) // L, n_vectors, at
    cdef Py_ssize_t row = L if batch.n_panels else n_strips * L
    cdef Share share = _share(worker, n_strips, 1)
    cdef real* sums = <real*> worker.own
    while share.first < share.end:
        n_vectors, at = _group(share.end - share.first, 0), share.first * L
        cpu.sum_rows(n_vectors, batch.n, strips + share.first * strip_size, row, strip_size, sums)
        cpu.apply(
            rule, step, step.grad_scale, n_vectors * L, sums, <real*> layer.b + at, <real*> layer.m_b + at,
            <real*> layer.v_b + at
        )
        share.first += n_vectors


cdef void _clear_filling(Worker* worker, const Layer* layer, real* W) noexcept nogil:
    """Set what fills up a layer's last strip to 0 again: Adam made it 0 / 0."""
    cdef Py_ssize_t L = tiles(W).lanes, first = layer.n_out // L * L, filled = layer.n_out - first, i, lane
    cdef Share share = _share(worker, layer.n_in, GRAIN)
    for lane in range(filled, L if filled else 0):
        for i in range(share.first, share.end):
            W[first * layer.n_in + i * L + lane] = 0
        if layer.b != NULL and worker.thread == worker.n_threads - 1:  # it had the last strip of the bias
            (<real*> layer.b)[first + lane] = 0


cdef inline Py_ssize_t _list_all(Py_ssize_t n, int32_t* list) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n):
        list[i] = <int32_t> i
    return n


cdef enum:
    NORM_BLOCK = 4096  # elements whose squares are added up together


cdef inline Py_ssize_t _n_blocks(Py_ssize_t n) noexcept nogil:
    return (n + NORM_BLOCK - 1) // NORM_BLOCK


cdef inline bint _has(const Row* plan, Py_ssize_t n_plan, int64_t op) noexcept nogil:
    """Return whether a plan has a row of a kind."""
    cdef Py_ssize_t r
    for r in range(n_plan):
        if plan[r].op == op:
            return True
    return False


cdef inline double _norm_factor(double norm, const Step* step) noexcept nogil:
    """Return what a gradient is multiplied with to be clipped by its norm."""
    return 1 if step.max_norm == 0 or norm + 1e-6 <= step.max_norm else step.max_norm / (norm + 1e-6)


cdef struct Span:
    Py_ssize_t first, n


cdef inline Span _span(
    const Row* natural, const Row* plan, Py_ssize_t r, const Row* row, Py_ssize_t lanes, bint bias
) noexcept nogil:
    """Return where the weights, or the bias, of a layer lie when packed; nothing unless the flat range of ``row`` has them."""
    cdef Py_ssize_t n_out = _rounded(plan[r].n_out, lanes), end = row.W + row.n_in
    if not _is_layer(&plan[r]) or _first_with(natural, natural[r].W) != r:
        return Span(0, 0)
    if bias:
        return Span(plan[r].b, n_out) if natural[r].b != NONE and row.W <= natural[r].b < end else Span(0, 0)
    return Span(plan[r].W, plan[r].n_in * n_out) if row.W <= natural[r].W < end else Span(0, 0)


cdef void _optimizer_step(
    Worker* worker, const Row* natural, const Row* plan, Py_ssize_t n_plan, const Row* row, const Step* step,
    real** states
) noexcept nogil:
    """Apply a rule to those parameters, packed, that lie in the flat range of ``row``."""
    cdef const Tiles* cpu = tiles(states[0])
    cdef Py_ssize_t r, at, part
    cdef Span span
    cdef Share share
    cdef Layer layer
    for r in range(n_plan):
        for part in range(2):
            span = _span(natural, plan, r, row, cpu.lanes, part == 1)
            share, at = _share(worker, span.n, cpu.lanes), span.first
            at += share.first
            cpu.apply(
                row.optimizer, step, 1, share.end - share.first, states[1] + at, states[0] + at, states[2] + at,
                states[3] + at
            )
    if row.optimizer >= ADAM and <real> step.epsilon == 0:
        _meet(worker)
        for r in range(n_plan):
            if _is_layer(&plan[r]):
                layer = _layer(&plan[r], states[0], states[0], states[0])
                _clear_filling(worker, &layer, <real*> layer.W)


cdef void _average_step(
    Worker* worker, const Row* natural, const Row* plan, Py_ssize_t n_plan, const Row* row, const Step* step,
    real** states
) noexcept nogil:
    """Move the average of those parameters, packed, that lie in the flat range of ``row``."""
    cdef const Tiles* cpu = tiles(states[0])
    cdef Py_ssize_t r, at, part
    cdef Span span
    cdef Share share
    for r in range(n_plan):
        for part in range(2):
            span = _span(natural, plan, r, row, cpu.lanes, part == 1)
            share, at = _share(worker, span.n, cpu.lanes), span.first
            at += share.first
            cpu.move_average(share.end - share.first, 1 - step.average_decay, states[0] + at, states[4] + at)


cdef void _clip_norm(
    Worker* worker, const Row* natural, const Row* plan, Py_ssize_t n_plan, const Row* row, const Step* step, real* grads
) noexcept nogil:
    """Clip the gradient, packed, of the parameters that lie in the flat range of ``row``, by its norm. Blocks are shared,
    and their sums added up in an order that does not depend on the number of threads."""
    cdef const Tiles* cpu = tiles(grads)
    cdef Py_ssize_t r, part, block, first = 0
    cdef double factor
    cdef Span span
    cdef Share share
    for r in range(n_plan):
        for part in range(2):
            span = _span(natural, plan, r, row, cpu.lanes, part == 1)
            share = _share(worker, _n_blocks(span.n), 1)
            for block in range(share.first, share.end):
                worker.norms[first + block] = cpu.square_sum(
                    min(NORM_BLOCK, span.n - block * NORM_BLOCK), grads + span.first + block * NORM_BLOCK
                )
            first += _n_blocks(span.n)
    _meet(worker)
    factor = _norm_factor(sqrt(_sum(worker.norms, first)), step)
    for r in range(n_plan if factor != 1 else 0):
        for part in range(2):
            span = _span(natural, plan, r, row, cpu.lanes, part == 1)
            share = _share(worker, span.n, cpu.lanes)
            cpu.rescale(share.end - share.first, factor, grads + span.first + share.first)
