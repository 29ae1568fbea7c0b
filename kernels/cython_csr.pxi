# CSR batches in the backend `cython`: the first layer's products cost what the entries cost, and no batch is made dense.


cdef struct Csr:
    Py_ssize_t place  # where the plan puts the samples in ``work``; NONE if they are dense, or have to be
    Py_ssize_t n_in
    const Sources* sources
    const int64_t* order  # of this batch
    void* x  # this thread's: one sample, 0 everywhere but for the inputs that are listed
    int32_t* inputs  # this thread's: the list
    void* rows  # this thread's: sums of the samples of a panel
    Columns columns


def _csr_size(plan, n_out, n_threads, n_entries):
    """Return how many elements of ``scratch`` a plan that gathers CSR samples needs; n_entries are those of a batch."""
    n_in = max([_whole(int(row["n_out"])) for row in plan if row["op"] == GATHER_CSR_ROWS], default=0)
    own = 2 * n_in + contract.WORK_BLOCK[0] * _whole(n_out)
    return n_threads * own + 5 * n_in + 2 * _whole(n_entries) if n_in else 0


cdef const Row* _csr_row(const Row* plan, Py_ssize_t n_plan) noexcept nogil:
    """Return the row that gathers CSR samples, if only products with weights read what it gathers; or NULL."""
    cdef const Row* found = NULL
    cdef const Row* row
    cdef Py_ssize_t r
    for r in range(n_plan):
        if plan[r].op == GATHER_CSR_ROWS:
            if found != NULL:
                return NULL
            found = &plan[r]
    for r in range(n_plan if found != NULL else 0):
        row = &plan[r]
        if row == found or row.op == OPTIMIZER_STEP:
            continue
        if found.a in (row.a, row.saved, row.y, row.weight, row.delta, row.delta_prev):
            return NULL
        if row.a_prev == found.a and (
            row.op not in (LINEAR_FORWARD, LINEAR_GRAD, LINEAR_UPDATE) or row.n_in != found.n_out
        ):
            return NULL
    return found


cdef Csr _csr_of(
    const Row* plan, Py_ssize_t n_plan, Worker* worker, const Sources* sources, real** rest
) noexcept nogil:
    """Return what a thread needs for CSR samples, cut off what is left of the scratch: all but the entries, which begin
    where that ends."""
    cdef const Row* row = _csr_row(plan, n_plan)
    cdef Py_ssize_t L = tiles(rest[0]).lanes, n_in = 0 if row == NULL else row.n_out, whole = _rounded(n_in, L)
    cdef Py_ssize_t own_size = 2 * whole + TILE_VECTORS * L * _rounded(worker.n_out, L)
    cdef real* x = rest[0] + worker.thread * own_size
    cdef Columns columns = Columns(NULL, NULL, NULL, 0, NULL)
    cdef Csr csr = Csr(NONE, n_in, sources, NULL, x, <int32_t*> (x + whole), x + 2 * whole, columns)
    cdef Share share = _share(worker, n_in, GRAIN)
    if row != NULL:
        csr.place = row.a
        _take(rest, worker.n_threads * own_size)
        csr.columns.start = <int64_t*> _take(rest, 2 * n_in)
        csr.columns.count = <int64_t*> _take(rest, 2 * n_in)
        csr.columns.inputs = <int32_t*> _take(rest, n_in) + share.first
        csr.columns.entries = rest[0]
        memset(x, 0, n_in * sizeof(real))
        memset(csr.columns.count + share.first, 0, (share.end - share.first) * sizeof(int64_t))
    return csr


cdef Py_ssize_t _open_sample(Csr* csr, real* x, int64_t sample, Share inputs) noexcept nogil:
    """Write one sample's entries among some inputs to x, and list those that are not 0, counted from the first input."""
    cdef const real* data = <const real*> csr.sources.X_data
    cdef Py_ssize_t e, i, n_listed = 0
    for e in range(csr.sources.X_indptr[sample], csr.sources.X_indptr[sample + 1]):
        i = csr.sources.X_indices[e] - inputs.first
        if 0 <= i < inputs.end - inputs.first and data[e] != 0:
            csr.inputs[n_listed] = <int32_t> i
            x[i] = data[e]
            n_listed += 1
    return n_listed


cdef void _close_sample(Csr* csr, real* x, Py_ssize_t n_listed) noexcept nogil:
    """Make x 0 again."""
    cdef Py_ssize_t t
    for t in range(n_listed):
        x[csr.inputs[t]] = 0


cdef void _forward_csr(
    Worker* worker, const Batch* batch, Csr* csr, const Layer* layer, const Activation* activation, real* a
) noexcept nogil:
    """Forward product of CSR samples: only the rows of W whose input is not 0 are read. Units are shared, in strips."""
    cdef const Tiles* cpu = tiles(a)
    cdef Py_ssize_t L = cpu.lanes, n_in = layer.n_in, n_strips = (layer.n_out + L - 1) // L, r, p, n_rows, n_listed
    cdef Share strips = _share(worker, n_strips, 1)
    cdef Py_ssize_t first = strips.first * L, n = (strips.end - strips.first) * L, start = 0
    cdef const Activation* after = _before_softmax(activation)
    cdef real* rows = <real*> csr.rows
    cdef real* x = <real*> csr.x
    cdef real* row
    cdef const real* b = NULL if layer.b == NULL else <real*> layer.b + first
    for p in range(max(batch.n_panels, 1)):
        n_rows = _panel_rows(batch, p, L) if batch.n_panels else batch.n
        for r in range(n_rows):
            row = rows + r * n if batch.n_panels else a + r * n_strips * L + first
            n_listed = _open_sample(csr, x, csr.order[start + r], Share(0, n_in))
            cpu.weighted_rows(n_listed, csr.inputs, x, <real*> layer.W + first * n_in, L, n_in * L, n, row)
            _close_sample(csr, x, n_listed)
            cpu.activate_row(n, row, b, after, row, NULL)
        if batch.n_panels:
            cpu.gather_panel(
                min(n, layer.n_out - first), rows, n, NULL, n_rows, _panel_width(batch, p, L),
                a + (p * layer.n_out + first) * TILE_VECTORS * L
            )
        start += n_rows
    if activation.code == SOFTMAX:
        _meet(worker)
        _softmax(worker, batch, layer.n_out, a)


cdef void _list_columns(const Batch* batch, Csr* csr, const real* p, Share inputs) noexcept nogil:
    """List the entries of a batch input by input: those of the inputs that are this thread's."""
    cdef const Sources* data = csr.sources
    cdef Columns* columns = &csr.columns
    cdef Py_ssize_t r, e, i, t, place = 0
    columns.n_inputs = 0
    for r in range(batch.n):
        for e in range(data.X_indptr[csr.order[r]], data.X_indptr[csr.order[r] + 1]):
            i = data.X_indices[e]
            if inputs.first <= i < inputs.end:
                if columns.count[i] == 0:
                    columns.inputs[columns.n_inputs] = <int32_t> i
                    columns.n_inputs += 1
                columns.count[i] += 1
            elif i < inputs.first:  # another thread's, which come before
                place += 1
    for t in range(columns.n_inputs):
        i = columns.inputs[t]
        columns.start[i] = place
        place += columns.count[i]
        columns.count[i] = 0
    for r in range(batch.n):
        for e in range(data.X_indptr[csr.order[r]], data.X_indptr[csr.order[r] + 1]):
            i = data.X_indices[e]
            if inputs.first <= i < inputs.end:
                _set_entry(columns, columns.start[i] + columns.count[i], (<const real*> data.X_data)[e], r)
                columns.count[i] += 1


cdef inline void _set_entry(Columns* columns, Py_ssize_t place, real value, Py_ssize_t sample) noexcept nogil:
    cdef real* entry = <real*> columns.entries + 2 * place
    entry[0] = value
    if real is float:
        (<int32_t*> entry)[1] = <int32_t> sample
    else:
        (<int64_t*> entry)[1] = sample


cdef void _forget_columns(Csr* csr) noexcept nogil:
    cdef Py_ssize_t t
    for t in range(csr.columns.n_inputs):
        csr.columns.count[csr.columns.inputs[t]] = 0
