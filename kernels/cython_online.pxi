# Online learning in the backend `cython`: gradient descent on one sample after the other, in one thread.
#
# The walk of a plan reads the first layer's weights for a sample's forward product, reads and writes them for its
# update, and reads them again for the next sample. Here an update and the next forward product go over them together,
# and a layer's inputs that are not 0 are listed once. The arithmetic is that of the walk, in the same order.


cdef struct Online:
    const Row* gather  # the sample's row, and then its target's
    const Row* forward  # the first layer's row; the others follow
    const Row* output
    const Row* update  # the first layer's, the last row; between it and the output the others' backward products and updates
    const Sources* sources


cdef Online _online_of(const Row* plan, Py_ssize_t n_plan, const Sources* sources) noexcept nogil:
    """Return where things stand in an online plan (contract.py)."""
    cdef Online online = Online(plan, plan, plan, plan + n_plan - 1, sources)
    while online.forward.op != LINEAR_FORWARD:
        online.forward += 1
    while online.output.op != OUTPUT_DELTA:
        online.output += 1
    return online


cdef inline int32_t* _listed(const Row* row, Py_ssize_t n, real* work) noexcept nogil:
    """Return where the inputs of a layer that are not 0 are listed, behind their number: after these n inputs themselves,
    in the room that a batch of many samples would take."""
    return <int32_t*> (work + row.a_prev + _rounded(n, tiles(work).lanes))


cdef Py_ssize_t _online_steps(
    Worker* worker, const Online* online, const int64_t* order, Py_ssize_t n_steps, const Step* steps, real* params,
    real* work, double* losses
) noexcept nogil:
    """Do gradient descent on some samples; return how many steps are done. Before samples or errors that are not finite,
    penalties and clipping it ends: these are left to the walk."""
    cdef const Tiles* cpu = tiles(work)
    cdef const Row* first = online.forward
    cdef const Row* row
    cdef const real* X = <const real*> online.sources.X
    cdef const real* x
    cdef const real* following
    cdef Py_ssize_t s = 0, n_in = first.n_in, n_kept = 0  # losses that have not been added up
    cdef bint is_forward = False, is_log = _is_log_loss(online)  # whether the first layer's product is there already
    cdef double loss
    while s < n_steps:
        x, following = X + order[s] * n_in, X + order[s + 1] * n_in if s + 1 < n_steps else NULL
        if steps[s].l2 != 0 or steps[s].clip != 0 or not (is_forward or cpu.is_finite(n_in, x)):
            break
        if following != NULL:
            cpu.fetch(n_in, following)
        if not is_forward:
            _online_forward(worker, first, x, params, work)
        row = first + 1
        while row < online.output:
            _online_forward(worker, row, work + row.a_prev, params, work)
            row += 1
        if not _online_errors(online, order[s], params, work, &loss):
            break
        losses[2] += 1
        if is_log:
            _kept(online, work)[n_kept] = (work + online.output.a)[online.sources.classes[order[s]]]
            n_kept += 1
        else:
            losses[0] += steps[s].loss_scale * loss
        row = online.output + 2
        while row < online.update:
            _online_update(row, work + row.a_prev, &steps[s], params, work)
            row += 2
        is_forward = following != NULL and cpu.is_finite(n_in, following)
        if is_forward:
            _online_turn(worker, online.update, x, following, &steps[s], params, work)
            _online_activate(worker, first, params, work)
        else:
            _online_update(online.update, x, &steps[s], params, work)
        s += 1
        if n_kept == cpu.lanes:
            _count_losses(online, order + s - n_kept, steps + s - n_kept, n_kept, work, losses)
            n_kept = 0
    _count_losses(online, order + s - n_kept, steps + s - n_kept, n_kept, work, losses)
    return s


cdef void _count_losses(
    const Online* online, const int64_t* order, const Step* steps, Py_ssize_t n_steps, real* work, double* losses
) noexcept nogil:
    """Add up the losses of some steps, at most as many as a vector has lanes, from the probabilities that were kept."""
    cdef real* kept = _kept(online, work)
    cdef Py_ssize_t s
    cdef double weight = 1
    tiles(work).log_losses(n_steps, kept, kept)
    for s in range(n_steps):
        if online.output.weight != NONE:
            weight = (<const real*> online.sources.sample_weight)[order[s]]
        losses[0] += steps[s].loss_scale * (weight * kept[s])


cdef inline bint _is_log_loss(const Online* online) noexcept nogil:
    """Return whether a sample's loss is -log of the probability of its class."""
    return online.output.loss == CROSS_ENTROPY and online.gather[1].op == GATHER_CLASSES


cdef inline real* _kept(const Online* online, real* work) noexcept nogil:
    """Return where the probabilities of some samples' classes are kept, whose logarithms are taken together: in the room of
    a batch's targets, behind the only one's."""
    return work + online.output.y + _rounded(online.output.n_out, tiles(work).lanes)


cdef void _online_forward(Worker* worker, const Row* row, const real* x, real* params, real* work) noexcept nogil:
    """Forward product; list the inputs that are not 0."""
    cdef const Tiles* cpu = tiles(work)
    cdef Py_ssize_t L = cpu.lanes, n_in = row.n_in
    cdef int32_t* listed = _listed(row, n_in, work)
    listed[0] = <int32_t> cpu.list_nonzero(n_in, x, x, listed + 1)
    cpu.weighted_rows(
        listed[0], listed + 1, x, params + row.W, L, n_in * L, _rounded(row.n_out, L), worker.own
    )
    _online_activate(worker, row, params, work)


cdef void _online_activate(Worker* worker, const Row* row, real* params, real* work) noexcept nogil:
    """Turn the sums of a layer into its activations."""
    cdef const Tiles* cpu = tiles(work)
    cdef real* a = work + row.a
    cpu.activate_row(
        _rounded(row.n_out, cpu.lanes), worker.own, NULL if row.b == NONE else params + row.b,
        _before_softmax(_activation(row)), a, NULL
    )
    if row.activation == SOFTMAX:
        cpu.softmax(row.n_out, True, a)


cdef bint _online_errors(
    const Online* online, int64_t sample, const real* params, real* work, double* loss
) noexcept nogil:
    """Find all layers' errors, and the loss unless its logarithm can wait; return whether the errors are finite.

    An error that is not makes all products with it so: it is seen further down, unless there are none."""
    cdef const Tiles* cpu = tiles(work)
    cdef const Row* row
    cdef Py_ssize_t L = cpu.lanes, n_in
    cdef const real* weight = <const real*> online.sources.sample_weight
    cdef real* y = work + online.output.y
    cdef real* delta = work + online.output.delta
    cdef real* delta_prev
    cdef int32_t* listed
    cdef bint finite = True
    _online_target(online, sample, y)
    loss[0] = cpu.output_row(
        online.output.n_out, True, _activation(online.output),
        NONE if _is_log_loss(online) else <int> online.output.loss, work + online.output.a, y,
        1 if online.output.weight == NONE else weight[sample], delta
    )
    row = online.output + 1
    while row < online.update:
        n_in, listed, delta_prev = row.n_in, _listed(row, row.n_in, work), work + row.delta_prev
        memset(delta_prev, 0, _rounded(n_in, L) * sizeof(real))
        if row.activation != RELU:
            listed[0] = <int32_t> _list_all(n_in, listed + 1)
        finite = finite and (listed[0] > 0 or cpu.is_finite(_rounded(row.n_out, L), delta))
        cpu.row_products(listed[0], listed + 1, delta, params + row.W, n_in, _rounded(row.n_out, L), delta_prev)
        if row.activation != RELU:
            cpu.through_activation(n_in, work + row.a_prev, _activation(row), delta_prev)
        delta = delta_prev
        row += 2
    return finite and cpu.is_finite(online.update.n_out, delta)


cdef void _online_target(const Online* online, int64_t sample, real* y) noexcept nogil:
    """Write a sample's targets, in whole vectors."""
    cdef const Row* row = online.gather + 1
    cdef Py_ssize_t n = row.n_out, n_filled = _rounded(n, tiles(y).lanes)
    if row.op == GATHER_CLASSES:
        memset(y, 0, n_filled * sizeof(real))
        y[online.sources.classes[sample]] = 1
    else:
        tiles(y).pack(1, n, <const real*> online.sources.y + sample * n, n, y, n_filled)


cdef void _online_update(
    const Row* row, const real* x, const Step* step, real* params, real* work
) noexcept nogil:
    """Gradient descent on a layer."""
    cdef const Tiles* cpu = tiles(work)
    cdef Py_ssize_t n = _rounded(row.n_out, cpu.lanes)
    cdef int32_t* listed = _listed(row, row.n_in, work)
    cpu.add_outer(
        listed[0], listed + 1, -step.rate * step.grad_scale, x, work + row.delta, params + row.W, row.n_in, n
    )
    _online_update_bias(row, step, params, work)


cdef void _online_update_bias(
    const Row* row, const Step* step, real* params, real* work
) noexcept nogil:
    cdef int32_t first = 0
    cdef real one = 1
    if row.b != NONE:
        tiles(work).add_outer(
            1, &first, -step.rate * step.grad_scale, &one, work + row.delta, params + row.b, 1,
            _rounded(row.n_out, tiles(work).lanes)
        )


cdef void _online_turn(
    Worker* worker, const Row* row, const real* x, const real* following, const Step* step, real* params, real* work
) noexcept nogil:
    """Gradient descent on the first layer, and its sums for the sample that follows."""
    cdef const Tiles* cpu = tiles(work)
    cdef Py_ssize_t n_in = row.n_in
    cdef int32_t* listed = _listed(row, n_in, work)
    listed[0] = <int32_t> cpu.list_nonzero(n_in, x, following, listed + 1)
    cpu.add_outer_forward(
        listed[0], listed + 1, -step.rate * step.grad_scale, x, work + row.delta, following, params + row.W, n_in,
        _rounded(row.n_out, cpu.lanes), worker.own
    )
    _online_update_bias(row, step, params, work)
