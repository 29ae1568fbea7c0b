# The walk of a plan in the backend `cython`: steps of training, prediction of many samples and of one.


def _train_steps(
    Py_ssize_t thread,
    int32_t[::1] barrier,
    const int64_t[::1] natural_rows,
    int64_t[::1] rows,
    used,
    const double[::1] numbers,
    const int64_t[::1] order,
    Py_ssize_t batch_size,
    const real[::1] X,
    const real[::1] X_data,
    const int32_t[::1] X_indices,
    const int64_t[::1] X_indptr,
    const real[::1] y,
    const int64_t[::1] classes,
    const real[::1] sample_weight,
    real[::1] params,
    real[::1] grads,
    real[::1] m,
    real[::1] v,
    real[::1] average,
    real[::1] work,
    real[::1] scratch,
    double[::1] losses,
):
    cdef Sources sources = Sources(
        &X[0], &X_data[0], &X_indices[0], &X_indptr[0], &y[0], &classes[0], &sample_weight[0]
    )
    cdef const Row* natural = <const Row*> &natural_rows[0]
    cdef Row* plan = <Row*> &rows[0]
    cdef const Step* steps = <const Step*> &numbers[0]
    cdef real* packed[5]
    cdef real* rest = &scratch[0]
    cdef Py_ssize_t n_plan = rows.shape[0] * sizeof(int64_t) // sizeof(Row)
    cdef Py_ssize_t n_steps = numbers.shape[0] * sizeof(double) // sizeof(Step)
    cdef Py_ssize_t s = 0, start, n_rows, state, size = _place(natural, plan, n_plan, rest)
    cdef bint skip_zeros, is_near = X.shape[0] <= BLOCK_SIZE  # asking ahead for near samples takes longer than it saves
    cdef Online online
    cdef Ahead ahead
    cdef Batch batch = _batch(batch_size, rest)
    cdef Share share
    cdef Worker worker
    cdef Csr csr
    for state in range(5):
        packed[state] = rest
        rest += size if used[state] else 0
    worker = _worker_of(plan, n_plan, thread, &barrier[0], batch_size, &rest)
    worker.norms = <double*> _take(&rest, 2 * (_n_blocks(size) + 2 * n_plan) if _has(plan, n_plan, CLIP_NORM) else 0)
    csr = _csr_of(plan, n_plan, &worker, &sources, &rest)
    _keep_numbers(plan, n_plan)
    with nogil:
        skip_zeros = (batch_size == 1 or order.shape[0] % batch_size == 1) and tiles(rest).is_finite(size, packed[0])
        if plan.online == 1 and worker.n_threads == 1 and skip_zeros:
            online = _online_of(plan, n_plan, &sources)
            s = _online_steps(
                &worker, &online, &order[0], n_steps, steps, packed[0], &work[0], &losses[0]
            )
        for s in range(s, n_steps):
            start = s * batch_size
            n_rows = min(batch_size, order.shape[0] - start)
            if n_rows != batch.n:
                batch = _batch(n_rows, rest)
            csr.order = &order[start]
            start += n_rows
            share = _share(&worker, min(batch_size, order.shape[0] - start), 1)
            ahead.order, ahead.n_rows = &order[0] + start + share.first, 0 if is_near else share.end - share.first
            if not _train_step(
                &worker, natural, plan, n_plan, &batch, &steps[s], &csr, &ahead, skip_zeros, packed,
                &work[0], &losses[0]
            ):
                break


cdef bint _train_step(
    Worker* worker, const Row* natural, const Row* plan, Py_ssize_t n_plan, const Batch* batch, const Step* step,
    Csr* csr, Ahead* ahead, bint skip_zeros, real** states, real* work, double* losses
) noexcept nogil:
    """Do a step; return False, and do nothing, if its samples are not finite."""
    cdef double data_loss = 0, squares = 0
    cdef real* a_prev
    cdef real* a
    cdef real* delta
    cdef Csr* sparse
    cdef const Row* row
    cdef Layer layer
    cdef Norm norm
    cdef real* saved
    cdef Py_ssize_t r, row_bytes, a_first = NONE
    ahead.n_sources = 0
    for r in range(n_plan):
        row = &plan[r]
        a_prev, a, delta, sparse = work + row.a_prev, work + row.a, work + row.delta, csr if row.a_prev == csr.place else NULL
        saved = NULL if row.saved == NONE else work + row.saved
        if row.op <= GATHER_CLASSES:
            if not _gather(worker, row, csr, batch, a) and row.finite == 1:
                ATOMIC_STORE(worker.barrier + STOPPED, 1)
            if row.op == GATHER_ROWS and row.source == FROM_X:
                a_first = row.a
            if row.op != GATHER_CSR_ROWS:
                row_bytes = sizeof(int64_t) if row.op == GATHER_CLASSES else row.n_out * sizeof(real)
                _remember(ahead, _source(row, csr.sources), row_bytes)
        elif row.op == LINEAR_FORWARD:
            layer = _layer(row, states[0], states[0], states[0])
            if sparse != NULL:
                _forward_csr(worker, batch, sparse, &layer, _activation(row), a)
            else:
                _linear_forward(worker, batch, a_prev, &layer, _activation(row), skip_zeros, a)
        elif row.op == BATCH_NORM:
            norm = _norm(row, states[0])
            _batch_norm(worker, batch, &norm, a_prev, _activation(row), saved, work + row.rstd, a)
        elif row.op == ACTIVATE:
            _activate(worker, batch, row.n_out, a_prev, _activation(row), a, saved)
        elif row.op == MAXOUT:
            _maxout(worker, batch, row.n_in, row.n_out, a_prev, a)
        elif row.op == DROPOUT:
            _dropout(worker, batch, row.n_out, a, _activation(row), row.probability, row.stream, step, saved)
        elif row.op == OUTPUT_DELTA:
            _output_delta(
                worker, batch, row.n_out, a, work + row.y, NULL if row.weight == NONE else work + row.weight,
                _activation(row), row.loss, row.source == AS_NUMBERS, delta
            )
        elif row.op == ACTIVATION_DELTA:
            _activation_delta(worker, batch, row.n_out, a_prev, _activation(row), delta)
        elif row.op == MAXOUT_DELTA:
            _maxout_delta(worker, batch, row.n_in, row.n_out, a_prev, delta, work + row.delta_prev)
        elif row.op == BATCH_NORM_DELTA:
            layer = _layer(row, states[1 if row.optimizer == NONE else 0], states[2], states[3])
            _batch_norm_delta(
                worker, batch, row.n_out, a_prev, work + row.rstd, states[0] + row.W, row.optimizer, step, &layer, delta
            )
        elif row.op == BACKPROP_DELTA:
            layer = _layer(row, states[0], states[0], states[0])
            _backprop_delta(worker, batch, delta, &layer, a_prev, _activation(row), work + row.delta_prev)
        elif row.op == LINEAR_GRAD:
            layer = _layer(row, states[1], states[1], states[1])
            _linear_update(worker, batch, a_prev, delta, NONE, step, &layer, states[0] + row.W, sparse, NULL)
        elif row.op == LINEAR_UPDATE:
            layer = _layer(row, states[0], states[2], states[3])
            _linear_update(
                worker, batch, a_prev, delta, row.optimizer, step, &layer, states[0] + row.W, sparse,
                ahead if row.a_prev == a_first else NULL
            )
        elif row.op == OPTIMIZER_STEP:
            _optimizer_step(worker, natural, plan, n_plan, row, step, states)
        elif row.op == CLIP_NORM:
            _clip_norm(worker, natural, plan, n_plan, row, step, states[1])
        elif row.op == AVERAGE_STEP:
            _average_step(worker, natural, plan, n_plan, row, step, states)
        if row.barrier:
            _meet(worker)
        if row.op <= GATHER_CLASSES and ATOMIC_LOAD(worker.barrier + STOPPED):  # later on others may be a step ahead
            return False
        if row.op == OUTPUT_DELTA:
            data_loss += _sum(worker.losses, batch.n_panels if batch.n_panels else batch.n)
        elif (row.op == LINEAR_GRAD or row.op == LINEAR_UPDATE) and step.l2 != 0:
            squares += _sum(worker.squares, (row.n_in + GRAIN - 1) // GRAIN)
    if worker.thread == 0:
        losses[0] += step.loss_scale * data_loss
        losses[1] += step.loss_scale * 0.5 * step.l2 * squares
        losses[2] += 1
    return True


def _predict(
    Py_ssize_t thread,
    int32_t[::1] barrier,
    const int64_t[::1] natural_rows,
    int64_t[::1] rows,
    const int64_t[::1] order,
    Py_ssize_t batch_size,
    const real[::1] X,
    const real[::1] X_data,
    const int32_t[::1] X_indices,
    const int64_t[::1] X_indptr,
    const real[::1] y,
    const int64_t[::1] classes,
    const real[::1] sample_weight,
    const real[::1] params,
    const real[::1] grads,
    const real[::1] m,
    const real[::1] v,
    const real[::1] average,
    real[::1] work,
    real[::1] scratch,
    real[:, ::1] out,
):
    cdef Sources sources = Sources(
        &X[0], &X_data[0], &X_indices[0], &X_indptr[0], &y[0], &classes[0], &sample_weight[0]
    )
    cdef const Row* natural = <const Row*> &natural_rows[0]
    cdef Row* plan = <Row*> &rows[0]
    cdef Py_ssize_t n_plan = rows.shape[0] * sizeof(int64_t) // sizeof(Row)
    cdef real* packed = &scratch[0]
    cdef real* rest = packed + _place(natural, plan, n_plan, packed)
    cdef Worker worker = _worker_of(plan, n_plan, thread, &barrier[0], batch_size, &rest)
    cdef Csr csr = _csr_of(plan, n_plan, &worker, &sources, &rest)
    cdef Py_ssize_t start = 0, p, n_rows, n_out = out.shape[1]
    cdef Batch batch
    cdef Layer layer
    cdef Norm norm
    cdef const Row* row
    cdef real* a_prev
    cdef real* a
    _keep_numbers(plan, n_plan)
    with nogil:
        if thread == 0:
            _pack_state(natural, plan, n_plan, True, <real*> &params[0], packed, False)
        while start < order.shape[0] and not ATOMIC_LOAD(worker.barrier + STOPPED):
            n_rows = min(batch_size, order.shape[0] - start)
            batch, csr.order = _batch(n_rows, packed), &order[start]
            for p in range(n_plan):
                row, a_prev = &plan[p], &work[plan[p].a_prev]
                a = rest if row.a == NONE else &work[row.a]
                if row.op == LINEAR_FORWARD:
                    layer = _layer(row, packed, packed, packed)
                    if row.a_prev == csr.place:
                        _forward_csr(&worker, &batch, &csr, &layer, _activation(row), a)
                    else:
                        _linear_forward(&worker, &batch, a_prev, &layer, _activation(row), False, a)
                elif row.op == NORMALIZE:
                    norm = _norm(row, packed)
                    _normalize(&worker, &batch, &norm, a_prev, _activation(row), a)
                elif row.op == ACTIVATE:
                    _activate(&worker, &batch, row.n_out, a_prev, _activation(row), a, <real*> NULL)
                elif row.op == MAXOUT:
                    _maxout(&worker, &batch, row.n_in, row.n_out, a_prev, a)
                else:
                    _gather(&worker, row, &csr, &batch, a)
                _meet(&worker)
            _unpack_batch(&worker, &batch, n_out, rest, &out[start, 0])
            start += n_rows


cdef void _predict_row(
    const LayerRow* layers, Py_ssize_t n_layers, const real* x, const real* params, real* scratch, real* out
) noexcept nogil:
    """Forward pass of one sample; W has its natural form."""
    cdef const Tiles* cpu = tiles(scratch)
    cdef Py_ssize_t room = 0, l, n
    cdef real* sums
    cdef real* z
    cdef real* a
    cdef const LayerRow* layer
    cdef Batch one = Batch(1, 0, 0, 0)
    cdef Affine affine
    for l in range(n_layers):
        room = max(room, _rounded(max(layers[l].n_in, layers[l].n_out), cpu.lanes))
    sums = scratch + 2 * room
    for l in range(n_layers):
        layer, n, a = &layers[l], layers[l].n_out, out if l == n_layers - 1 else scratch + l % 2 * room
        cpu.weighted_rows(
            _list_all(layer.n_in, <int32_t*> (sums + room)), <int32_t*> (sums + room), x, params + layer.W, n,
            cpu.lanes, n, sums
        )
        z = a if layer.pieces == 1 else sums
        if layer.gamma == NONE:
            cpu.activate_row(
                n, sums, NULL if layer.b == NONE else params + layer.b,
                _before_softmax(<const Activation*> &layer.activation), z, NULL
            )
        else:
            _take_roots(n, layer.epsilon, params + layer.variance, sums + room)
            affine = Affine(params + layer.mean, sums + room, params + layer.gamma, params + layer.b)
            cpu.normalize(&one, n, n, 0, n, sums, &affine, <const Activation*> &layer.activation, NULL, z)
        if layer.activation == SOFTMAX:
            cpu.softmax(n, False, z)
        if layer.pieces > 1:
            cpu.maxout(n // layer.pieces, layer.pieces, n // layer.pieces, z, a)
        x = a
