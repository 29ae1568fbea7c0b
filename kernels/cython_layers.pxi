# Batch normalisation, maxout and dropout in the steps of the backend `cython`. Units are shared: a unit's sums over the batch
# are one thread's.


cdef enum:
    DRAWN = 32  # units whose masks are drawn together, at most

cdef struct Norm:
    Py_ssize_t n
    void* gamma
    void* beta
    void* mean
    void* variance
    double epsilon, momentum


cdef inline Norm _norm(const Row* row, real* params) noexcept nogil:
    """Return a row's normalisation in packed parameters."""
    return Norm(
        row.n_out, params + row.W, params + row.b, params + row.mean, params + row.variance, row.epsilon, row.momentum
    )


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


cdef void _batch_norm(
    Worker* worker, const Batch* batch, const Norm* norm, const real* z, const Activation* activation, real* saved,
    real* rstd, real* a
) noexcept nogil:
    cdef const Tiles* cpu = tiles(a)
    cdef Py_ssize_t n = norm.n, pitch = _rounded(n, cpu.lanes)
    cdef Share units = _share(worker, n, cpu.lanes)
    cdef Py_ssize_t first = units.first, size = units.end - units.first
    cdef real* mu = <real*> worker.own
    cdef Affine affine = Affine(mu, rstd + first, <real*> norm.gamma + first, <real*> norm.beta + first)
    cpu.batch_moments(batch, n, pitch, first, units.end, z, mu, rstd + first)
    _keep_moments(
        batch.n, size, norm.epsilon, norm.momentum, mu, rstd + first, <real*> norm.mean + first,
        <real*> norm.variance + first
    )
    cpu.normalize(batch, n, pitch, first, units.end, z, &affine, activation, saved, a)


cdef void _normalize(
    Worker* worker, const Batch* batch, const Norm* norm, const real* z, const Activation* activation, real* a
) noexcept nogil:
    cdef const Tiles* cpu = tiles(a)
    cdef Py_ssize_t n = norm.n
    cdef Share units = _share(worker, n, cpu.lanes)
    cdef Py_ssize_t first = units.first
    cdef real* rstd = <real*> worker.own
    cdef Affine affine = Affine(<real*> norm.mean + first, rstd, <real*> norm.gamma + first, <real*> norm.beta + first)
    _take_roots(units.end - first, norm.epsilon, <real*> norm.variance + first, rstd)
    cpu.normalize(batch, n, _rounded(n, cpu.lanes), first, units.end, z, &affine, activation, NULL, a)


cdef void _batch_norm_delta(
    Worker* worker, const Batch* batch, Py_ssize_t n, const real* normalized, const real* rstd, const real* gamma,
    int rule, const Step* step, const Layer* layer, real* delta
) noexcept nogil:
    """Apply ``rule`` to gamma and beta, the weights and the bias of ``layer``, or keep their gradient there with NONE."""
    cdef const Tiles* cpu = tiles(delta)
    cdef Share units = _share(worker, n, cpu.lanes)
    cdef Py_ssize_t first = units.first, size = units.end - units.first
    cdef real* sums_gamma = <real*> worker.own
    cdef real* sums_beta = sums_gamma + _rounded(n, cpu.lanes)
    cdef Affine affine = Affine(NULL, rstd + first, gamma + first, NULL)
    cpu.batch_norm_delta(
        batch, n, _rounded(n, cpu.lanes), first, units.end, normalized, &affine, delta, sums_gamma, sums_beta
    )
    cpu.apply(
        rule, step, step.grad_scale, size, sums_gamma, <real*> layer.W + first, <real*> layer.m_W + first,
        <real*> layer.v_W + first
    )
    cpu.apply(
        rule, step, step.grad_scale, size, sums_beta, <real*> layer.b + first, <real*> layer.m_b + first,
        <real*> layer.v_b + first
    )


cdef void _maxout(
    Worker* worker, const Batch* batch, Py_ssize_t n_in, Py_ssize_t n, const real* z, real* a
) noexcept nogil:
    cdef const Tiles* cpu = tiles(a)
    cdef Py_ssize_t L = cpu.lanes, pieces = n_in // n, part, place, size, from_place
    cdef Share units = _share(worker, n, L)
    for part in range(batch.n_panels if batch.n_panels else batch.n):
        place, size = _piece(batch, n, units, part, L)
        from_place, size = _piece(batch, n_in, units, part, L)
        cpu.maxout(size, pieces, n * (TILE_VECTORS * L if batch.n_panels else 1), z + from_place, a + place)


cdef void _maxout_delta(
    Worker* worker, const Batch* batch, Py_ssize_t n_in, Py_ssize_t n, const real* z, const real* delta, real* delta_z
) noexcept nogil:
    """What fills up a row is set to 0: the products after it read whole vectors."""
    cdef const Tiles* cpu = tiles(z)
    cdef Py_ssize_t L = cpu.lanes, pieces = n_in // n, part, place, size, to_place
    cdef Share units = _share(worker, n, L)
    for part in range(batch.n_panels if batch.n_panels else batch.n):
        place, size = _piece(batch, n, units, part, L)
        to_place, size = _piece(batch, n_in, units, part, L)
        cpu.maxout_delta(
            size, pieces, n * (TILE_VECTORS * L if batch.n_panels else 1), z + to_place, delta + place, delta_z + to_place
        )
        if batch.n_panels == 0 and units.end == n:
            size = _rounded(n_in, L)
            memset(delta_z + part * size + n_in, 0, (size - n_in) * sizeof(real))


cdef void _dropout(
    Worker* worker, const Batch* batch, Py_ssize_t n, real* a, const Activation* activation, double probability,
    int64_t stream, const Step* step, real* saved
) noexcept nogil:
    cdef const Tiles* cpu = tiles(a)
    cdef Share units = _share(worker, n, DRAWN)
    cdef Masks masks = Masks(probability, stream, <int64_t> step.seed, <int64_t> step.number)
    cpu.dropout(batch, n, _rounded(n, cpu.lanes), units.first, units.end, &masks, activation, a, saved)
