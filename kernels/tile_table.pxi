# tile_table.h, for Cython; what the primitives do stands there.


cdef extern from "tile_table.h":
    enum:
        IDENTITY, RELU, LOGISTIC, TANH, SOFTMAX, EXP
        LEAKY_RELU, ELU, SELU, SOFTPLUS, SIGN, GELU, SILU, RELU_AT_ZERO, KEPT
        SQUARED_ERROR, CROSS_ENTROPY, BINARY_CROSS_ENTROPY, POISSON
        NONE, SGD, MOMENTUM, NESTEROV, ADAM, NADAM, RMSPROP, ADAGRAD
        TILE_VECTORS, GRAIN, CACHE_LINE, MOST_FAR
        ALONG_STRIPS, ACROSS_STRIPS, FEW_ROWS, ENTRIES

    ctypedef struct Activation:
        int64_t code, function
        double parameter, at_zero

    ctypedef struct Step:
        double grad_scale, loss_scale, l2, keep, rate, momentum, beta_1, beta_2, epsilon, decay
        double grad_rate, clip, max_norm, average_decay, seed, number

    ctypedef struct Batch:
        Py_ssize_t n, n_panels, n_wide, width

    ctypedef struct Product:
        Py_ssize_t first, end, n_terms
        const void* A
        Py_ssize_t a_next
        const void* B
        Py_ssize_t b_next
        void* C
        Py_ssize_t c_next
        const void* bias
        Activation activation
        const void* below
        bint begins, ends

    ctypedef struct Far:
        const void* start
        Py_ssize_t row_bytes

    ctypedef struct Ahead:
        const int64_t* order
        Far sources[MOST_FAR]
        Py_ssize_t n_rows, n_sources, source, row, byte, bytes

    ctypedef struct Columns:
        int64_t* start
        int64_t* count
        int32_t* inputs
        Py_ssize_t n_inputs
        void* entries

    ctypedef struct Update:
        Batch batch
        Py_ssize_t n_in, first, end
        const void* a_prev
        const Columns* columns
        const void* delta
        Py_ssize_t d_next
        int rule
        const Step* step
        const void* W
        void* param
        void* m
        void* v
        Py_ssize_t w_vector
        double* squares
        Ahead* ahead

    ctypedef struct Affine:
        const void* mean
        const void* rstd
        const void* gamma
        const void* beta

    ctypedef struct Masks:
        double probability
        int64_t stream, seed, number

    ctypedef struct Tiles:
        Py_ssize_t lanes
        void (*product)(int form, Py_ssize_t n_vectors, const Product* product) noexcept nogil
        void (*update)(int form, Py_ssize_t n_vectors, const Update* update) noexcept nogil
        void (*pack)(
            Py_ssize_t n_rows, Py_ssize_t columns, const void* source, Py_ssize_t from_row, void* to, Py_ssize_t to_row
        ) noexcept nogil
        void (*unpack)(
            Py_ssize_t n_rows, Py_ssize_t columns, const void* source, Py_ssize_t from_row, void* to, Py_ssize_t to_row
        ) noexcept nogil
        bint (*gather_panel)(
            Py_ssize_t n, const void* X, Py_ssize_t row, const int64_t* order, Py_ssize_t n_rows, Py_ssize_t width,
            void* panel
        ) noexcept nogil
        void (*scatter_panel)(
            Py_ssize_t n, const void* panel, Py_ssize_t n_rows, void* out, Py_ssize_t row, Py_ssize_t vector,
            bint fill
        ) noexcept nogil
        Py_ssize_t (*list_nonzero)(Py_ssize_t n, const void* x, const void* other, int32_t* list) noexcept nogil
        void (*fetch)(Py_ssize_t n, const void* x) noexcept nogil
        bint (*is_finite)(Py_ssize_t n, const void* x) noexcept nogil
        void (*weighted_rows)(
            Py_ssize_t n_listed, const int32_t* list, const void* x, const void* W, Py_ssize_t w_row,
            Py_ssize_t w_vector, Py_ssize_t n, void* sums
        ) noexcept nogil
        void (*row_products)(
            Py_ssize_t n_listed, const int32_t* list, const void* delta, const void* W, Py_ssize_t n_in,
            Py_ssize_t n, void* products
        ) noexcept nogil
        void (*add_outer)(
            Py_ssize_t n_listed, const int32_t* list, double scale, const void* x, const void* d, void* W,
            Py_ssize_t n_in, Py_ssize_t n
        ) noexcept nogil
        void (*add_outer_forward)(
            Py_ssize_t n_listed, const int32_t* list, double scale, const void* x, const void* d, const void* following,
            void* W, Py_ssize_t n_in, Py_ssize_t n, void* sums
        ) noexcept nogil
        void (*activate_row)(
            Py_ssize_t n, const void* sums, const void* b, const Activation* activation, void* a, void* saved
        ) noexcept nogil
        void (*softmax)(Py_ssize_t n, bint padded, void* z) noexcept nogil
        void (*softmax_panel)(Py_ssize_t n, Py_ssize_t width, void* z) noexcept nogil
        void (*through_activation)(
            Py_ssize_t n, const void* a, const Activation* activation, void* delta
        ) noexcept nogil
        void (*through_softmax)(Py_ssize_t n, bint padded, const void* a, void* delta) noexcept nogil
        void (*through_softmax_panel)(Py_ssize_t n, Py_ssize_t width, const void* a, void* delta) noexcept nogil
        void (*batch_moments)(
            const Batch* batch, Py_ssize_t n, Py_ssize_t row, Py_ssize_t first, Py_ssize_t end, const void* z, void* mean,
            void* variance
        ) noexcept nogil
        void (*normalize)(
            const Batch* batch, Py_ssize_t n, Py_ssize_t row, Py_ssize_t first, Py_ssize_t end, const void* z,
            const Affine* affine, const Activation* activation, void* normalized, void* a
        ) noexcept nogil
        void (*batch_norm_delta)(
            const Batch* batch, Py_ssize_t n, Py_ssize_t row, Py_ssize_t first, Py_ssize_t end, const void* normalized,
            const Affine* affine, void* delta, void* sums_gamma, void* sums_beta
        ) noexcept nogil
        void (*maxout)(Py_ssize_t n, Py_ssize_t pieces, Py_ssize_t following, const void* z, void* a) noexcept nogil
        void (*maxout_delta)(
            Py_ssize_t n, Py_ssize_t pieces, Py_ssize_t following, const void* z, const void* delta, void* delta_z
        ) noexcept nogil
        void (*dropout)(
            const Batch* batch, Py_ssize_t n, Py_ssize_t row, Py_ssize_t first, Py_ssize_t end, const Masks* masks,
            const Activation* activation, void* a, void* saved
        ) noexcept nogil
        double (*output_row)(
            Py_ssize_t n, bint padded, const Activation* activation, int loss, const void* a, const void* y,
            double weight, void* delta
        ) noexcept nogil
        void (*log_losses)(Py_ssize_t n, const void* p, void* out) noexcept nogil
        double (*output_panel)(
            Py_ssize_t n, Py_ssize_t width, Py_ssize_t n_rows, const Activation* activation, int loss, const void* a,
            const void* y, const void* weight, void* delta
        ) noexcept nogil
        double (*output_classes)(
            Py_ssize_t n, Py_ssize_t width, Py_ssize_t n_rows, const void* a, const void* classes, const void* weight,
            void* delta
        ) noexcept nogil
        void (*sum_rows)(
            Py_ssize_t n_vectors, Py_ssize_t n_rows, const void* A, Py_ssize_t row, Py_ssize_t vector, void* sums
        ) noexcept nogil
        void (*apply)(
            int rule, const Step* step, double scale, Py_ssize_t n, const void* grad, void* param, void* m, void* v
        ) noexcept nogil
        double (*square_sum)(Py_ssize_t n, const void* x) noexcept nogil
        void (*rescale)(Py_ssize_t n, double factor, void* x) noexcept nogil
        void (*move_average)(Py_ssize_t n, double rest, const void* x, void* average) noexcept nogil

    ctypedef struct InstructionSet:
        const char* name
        const Tiles* of_float
        const Tiles* of_double

    const InstructionSet *tile_v2
    const InstructionSet *tile_v3
    const InstructionSet *tile_v4
    bint runs_here(const char* name)
