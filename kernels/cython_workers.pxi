# The threads of a run in the backend `cython`: what each has for itself, what they share, and how work is divided.


cdef extern from "barrier.h":
    enum:
        N_THREADS, STOPPED

    ctypedef struct Patience:
        int32_t has_slept, until_trial, interval

    void barrier_wait(int32_t* barrier, Patience* patience) noexcept nogil
    void ATOMIC_STORE(int32_t* p, int32_t value) noexcept nogil
    int32_t ATOMIC_LOAD(int32_t* p) noexcept nogil


cdef struct Worker:
    Py_ssize_t thread, n_threads
    Py_ssize_t n_out  # of the widest layer
    int32_t* barrier
    Patience patience
    void* own  # this thread's: one sample's sums and list of inputs
    void* strips  # all threads': the errors of a layer in strips
    double* losses  # of each panel or row
    double* squares  # of the weights of each GRAIN inputs
    double* norms  # squares of a gradient, block by block

cdef struct Share:
    Py_ssize_t first, end


def _workspace_size(n_in, n_out, n_rows, n_threads):
    """Return how many elements of ``scratch`` threads need for layers up to this size, beside what is packed."""
    n_in, n_out, n_rows = _whole(n_in), _whole(n_out), _whole(n_rows)
    return n_threads * 2 * (n_in + n_out) + n_out * n_rows + 2 * (n_in + n_rows)


cdef Worker _worker(
    Py_ssize_t thread, int32_t* barrier, Py_ssize_t n_in, Py_ssize_t n_out, Py_ssize_t n_rows, real** rest
) noexcept nogil:
    """Return a thread's worker, its room cut off what is left of the scratch."""
    cdef Py_ssize_t n_threads = barrier[N_THREADS], L = tiles(rest[0]).lanes
    cdef Py_ssize_t own_size = 2 * (_rounded(n_in, L) + _rounded(n_out, L))
    cdef real* own = _take(rest, n_threads * own_size) + thread * own_size
    cdef real* strips = _take(rest, _rounded(n_out, L) * _rounded(n_rows, L))
    cdef real* losses = _take(rest, 2 * _rounded(n_rows, L))
    cdef real* squares = _take(rest, 2 * _rounded(n_in, L))
    return Worker(thread, n_threads, n_out, barrier, Patience(0, 0, 0), own, strips, <double*> losses, <double*> squares, NULL)


cdef Worker _worker_of(
    const Row* plan, Py_ssize_t n_plan, Py_ssize_t thread, int32_t* barrier, Py_ssize_t n_rows, real** rest
) noexcept nogil:
    """Return a thread's worker for the walk of a plan."""
    cdef Py_ssize_t n_in = 0, n_out = 0, r
    for r in range(n_plan):
        if _is_layer(&plan[r]):
            n_in, n_out = max(n_in, plan[r].n_in), max(n_out, plan[r].n_out)
    return _worker(thread, barrier, n_in, n_out, n_rows, rest)


cdef Worker _alone(const Batch* batch, const Layer* layer, real** rest) noexcept nogil:
    """Return the only worker of an operation by hand."""
    cdef int32_t one = 1
    cdef Worker worker = _worker(0, &one, layer.n_in, layer.n_out, batch.n, rest)
    worker.barrier = NULL
    return worker


cdef Worker _for_units(const Batch* batch, Py_ssize_t n, real** rest) noexcept nogil:
    """Return the only worker of an operation by hand on n units."""
    cdef Layer layer = Layer(1, n, NULL, NULL, NULL, NULL, NULL, NULL)
    return _alone(batch, &layer, rest)


cdef inline void _meet(Worker* worker) noexcept nogil:
    """Wait until all threads have come here."""
    if worker.n_threads > 1:
        barrier_wait(worker.barrier, &worker.patience)


cdef inline Share _share(Worker* worker, Py_ssize_t n, Py_ssize_t grain) noexcept nogil:
    """Return which of n things are this thread's: whole grains, as equally many as can be."""
    cdef Py_ssize_t n_grains
    if worker.n_threads == 1:
        return Share(0, n)
    n_grains = (n + grain - 1) // grain
    return Share(
        n_grains * worker.thread // worker.n_threads * grain,
        min(n, n_grains * (worker.thread + 1) // worker.n_threads * grain),
    )


cdef inline Py_ssize_t _largest(Worker* worker, Py_ssize_t n, Py_ssize_t grain) noexcept nogil:
    """Return how many of n things the most burdened thread has."""
    cdef Py_ssize_t n_grains = (n + grain - 1) // grain
    return min(n, (n_grains + worker.n_threads - 1) // worker.n_threads * grain)


cdef inline double _sum(const double* parts, Py_ssize_t n) noexcept nogil:
    """Add up what the threads found, in an order that does not depend on their number."""
    cdef double total = 0
    cdef Py_ssize_t i
    for i in range(n):
        total += parts[i]
    return total
