# Batch normalisation, maxout and dropout in the steps of the backend `cython`. Units are shared: a unit's sums over the batch
# are one thread's.


cdef enum:
    DRAWN = 32  # units whose masks are drawn together, at most


cdef void _take_roots(Py_ssize_t n, double epsilon, const real* variance, real* rstd) noexcept nogil:
    """rstd = 1 / sqrt(variance + epsilon)."""
    cdef Py_ssize_t u
    for u in range(n):
        rstd[u] = <real> 1 / <real> sqrt(variance[u] + <real> epsilon)


cdef void _keep_moments(
    Py_ssize_t n_samples, Py_ssize_t n, double epsilon, double momentum, const real* mu, real* rstd, real* mean,
    real* variance
) noexcept nogil:
    """Move running means and variances on by those of a batch; turn its variances, which stand in ``rstd``, into that."""
    cdef Py_ssize_t u
    cdef double unbiased = <double> n_samples / (n_samples - 1) if n_samples > 1 else 0
    for u in range(n if n_samples > 1 else 0):
        mean[u] += <real> momentum * (mu[u] - mean[u])
        variance[u] += <real> momentum * (<real> unbiased * rstd[u] - variance[u])
    _take_roots(n, epsilon, rstd, rstd)


cdef inline Masks _masks(double probability, int64_t stream, const Step* step) noexcept nogil:
    return Masks(probability, stream, <int64_t> step.seed, <int64_t> step.number)


cdef void _batch_norm(
    Worker* worker, const Batch* batch, const Row* row, const real* z, real* params, real* work, real* a
) noexcept nogil:
    cdef const Tiles* cpu = tiles(a)
    cdef Py_ssize_t n = row.n_out, pitch = _rounded(n, cpu.lanes)
    cdef Share units = _share(worker, n, cpu.lanes)
    cdef Py_ssize_t first = units.first, size = units.end - units.first
    cdef real* mu = <real*> worker.own
    cdef real* rstd = work + row.rstd + first
    cdef Affine affine = Affine(mu, rstd, params + row.W + first, params + row.b + first)
    cpu.batch_moments(batch, n, pitch, first, units.end, z, mu, rstd)
    _keep_moments(
        batch.n, size, row.epsilon, row.momentum, mu, rstd, params + row.mean + first, params + row.variance + first
    )
    cpu.normalize(batch, n, pitch, first, units.end, z, &affine, _activation(row), work + row.saved, a)


cdef void _normalize(
    Worker* worker, const Batch* batch, const Row* row, const real* z, const real* params, real* a
) noexcept nogil:
    cdef const Tiles* cpu = tiles(a)
    cdef Py_ssize_t n = row.n_out
    cdef Share units = _share(worker, n, cpu.lanes)
    cdef Py_ssize_t first = units.first
    cdef real* rstd = <real*> worker.own
    cdef Affine affine = Affine(params + row.mean + first, rstd, params + row.W + first, params + row.b + first)
    _take_roots(units.end - first, row.epsilon, params + row.variance + first, rstd)
    cpu.normalize(batch, n, _rounded(n, cpu.lanes), first, units.end, z, &affine, _activation(row), NULL, a)


cdef void _batch_norm_delta(
    Worker* worker, const Batch* batch, const Row* row, const Step* step, const real* normalized, const real* rstd,
    const Layer* layer, const real* gamma, real* delta
) noexcept nogil:
    """gamma and beta are the weights and the bias of ``layer``, or their gradient where the row has no rule."""
    cdef const Tiles* cpu = tiles(delta)
    cdef Py_ssize_t n = row.n_out
    cdef Share units = _share(worker, n, cpu.lanes)
    cdef Py_ssize_t first = units.first, size = units.end - units.first
    cdef real* sums_gamma = <real*> worker.own
    cdef real* sums_beta = sums_gamma + _rounded(n, cpu.lanes)
    cdef Affine affine = Affine(NULL, rstd + first, gamma + first, NULL)
    cpu.batch_norm_delta(
        batch, n, _rounded(n, cpu.lanes), first, units.end, normalized, &affine, delta, sums_gamma, sums_beta
    )
    cpu.apply(
        row.optimizer, step, step.grad_scale, size, sums_gamma, <real*> layer.W + first, <real*> layer.m_W + first,
        <real*> layer.v_W + first
    )
    cpu.apply(
        row.optimizer, step, step.grad_scale, size, sums_beta, <real*> layer.b + first, <real*> layer.m_b + first,
        <real*> layer.v_b + first
    )


cdef void _maxout(Worker* worker, const Batch* batch, const Row* row, const real* z, real* a) noexcept nogil:
    cdef const Tiles* cpu = tiles(a)
    cdef Py_ssize_t L = cpu.lanes, n = row.n_out, pieces = row.n_in // n, part, place, size, from_place
    cdef Share units = _share(worker, n, L)
    for part in range(batch.n_panels if batch.n_panels else batch.n):
        place, size = _piece(batch, n, units, part, L)
        from_place, size = _piece(batch, row.n_in, units, part, L)
        cpu.maxout(size, pieces, n * (TILE_VECTORS * L if batch.n_panels else 1), z + from_place, a + place)


cdef void _maxout_delta(
    Worker* worker, const Batch* batch, const Row* row, const real* z, const real* delta, real* delta_z
) noexcept nogil:
    """What fills up a row is set to 0: the products after it read whole vectors."""
    cdef const Tiles* cpu = tiles(z)
    cdef Py_ssize_t L = cpu.lanes, n = row.n_out, pieces = row.n_in // n, part, place, size, to_place
    cdef Share units = _share(worker, n, L)
    for part in range(batch.n_panels if batch.n_panels else batch.n):
        place, size = _piece(batch, n, units, part, L)
        to_place, size = _piece(batch, row.n_in, units, part, L)
        cpu.maxout_delta(
            size, pieces, n * (TILE_VECTORS * L if batch.n_panels else 1), z + to_place, delta + place, delta_z + to_place
        )
        if batch.n_panels == 0 and units.end == n:
            size = _rounded(row.n_in, L)
            memset(delta_z + part * size + row.n_in, 0, (size - row.n_in) * sizeof(real))


cdef void _dropout(
    Worker* worker, const Batch* batch, const Row* row, const Step* step, real* a, real* saved
) noexcept nogil:
    cdef const Tiles* cpu = tiles(a)
    cdef Share units = _share(worker, row.n_out, DRAWN)
    cdef Masks masks = _masks(row.probability, row.stream, step)
    cpu.dropout(
        batch, row.n_out, _rounded(row.n_out, cpu.lanes), units.first, units.end, &masks, _activation(row), a, saved
    )
