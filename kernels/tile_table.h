/* The primitives of the backend `cython`: what each tile_v*.c defines and cython_cpu.pyx calls.
 *
 * A primitive is a loop that must run in vector registers, compiled once for each instruction set and dtype. Elements
 * are passed as void pointers, so that one table type serves both dtypes. */
#ifndef FASTBP_TILE_TABLE_H
#define FASTBP_TILE_TABLE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Activation, Loss, Optimizer, PLAN_ROW's NONE and STEP of contract.py; cython_cpu.pyx compares them at import. */
enum { IDENTITY, RELU, LOGISTIC, TANH, SOFTMAX, EXP };
enum { SQUARED_ERROR, CROSS_ENTROPY, BINARY_CROSS_ENTROPY, POISSON };
enum { NONE = -1, SGD, MOMENTUM, NESTEROV, ADAM };

typedef struct {
    double grad_scale, loss_scale, l2, keep, rate, momentum, beta_1, beta_2, epsilon, decay;
} Step;

enum { TILE_VECTORS = 3, ROW_VECTORS = 8 };

typedef struct {
    ptrdiff_t lanes;    /* elements of a vector register */
    ptrdiff_t max_rows; /* rows of the largest tile; the others have 1, 2, 4 ... rows */

    /* C[r, :] = sum_k A[r, k] B[k, :], each sum ascending over k in one accumulator. a_row and a_k are the strides of A,
     * b_k that of B along k; C is written densely. n_rows is a power of two, n_vectors 1 to TILE_VECTORS. */
    void (*tile)(ptrdiff_t n_rows, ptrdiff_t n_vectors, ptrdiff_t K, const void *A, ptrdiff_t a_row, ptrdiff_t a_k,
                 const void *B, ptrdiff_t b_k, void *C);

    /* Copy a panel of columns into dense rows of whole vectors, filled up with zeros. */
    void (*pack)(ptrdiff_t n_rows, ptrdiff_t columns, const void *B, ptrdiff_t b_row, void *panel, ptrdiff_t stride);

    /* Write A (n_rows, columns) transposed; with `fill` each row of the result is filled up with zeros to out_row. */
    void (*transpose)(ptrdiff_t n_rows, ptrdiff_t columns, const void *A, ptrdiff_t a_row, void *out, ptrdiff_t out_row,
                      int fill);

    /* List the indices of the elements that are not 0, ascending; return how many. The list has room for n, in whole
     * vectors. */
    ptrdiff_t (*list_nonzero)(ptrdiff_t n, const void *x, int32_t *list);

    /* One sample's forward product over the rows of W that are listed: sums[j] = sum_t x[list[t]] W[list[t], j], each
     * sum ascending over t in one accumulator, for n columns; written in whole vectors. */
    void (*weighted_rows)(ptrdiff_t n_listed, const int32_t *list, const void *x, const void *W, ptrdiff_t w_row,
                          ptrdiff_t n, void *sums);

    /* One sample's backward product for the units that are listed: products[i] = sum_j delta[j] W[i, j] over n columns,
     * for each i in the list; the others are left alone. */
    void (*row_products)(ptrdiff_t n_listed, const int32_t *list, const void *delta, const void *W, ptrdiff_t w_row,
                         ptrdiff_t n, void *products);

    /* One sample's step of gradient descent for the rows that are listed: W[i, :] += scale x[i] d, n columns. */
    void (*add_outer)(ptrdiff_t n_listed, const int32_t *list, double scale, const void *x, const void *d, void *W,
                      ptrdiff_t w_row, ptrdiff_t n);

    /* Whether no element is infinite or NaN. */
    int (*is_finite)(ptrdiff_t n, const void *x);

    /* Finish a tile of the forward product: a = act(sums + b). Softmax needs the whole row and comes later. */
    void (*activate)(ptrdiff_t n_rows, ptrdiff_t columns, const void *sums, ptrdiff_t sums_row, const void *b,
                     int has_bias, int activation, void *a, ptrdiff_t a_row);

    /* Turn a row of z into softmax(z). */
    void (*softmax)(ptrdiff_t n, void *z);

    /* Turn d loss / d a into d loss / d z: delta *= act'(z), in terms of a = act(z). */
    void (*through_activation)(ptrdiff_t n, const void *a, int activation, void *delta);

    /* The same for a row of softmax outputs, whose Jacobian is a_i ((i = j) - a_j). */
    void (*through_softmax)(ptrdiff_t n, const void *a, void *delta);

    /* delta = a - y. */
    void (*subtract)(ptrdiff_t n, const void *a, const void *y, void *delta);

    /* Return the sum of x^2, in float64. */
    double (*square_sum)(ptrdiff_t n, const void *x);

    /* Return the loss of one sample, where delta = a - y: any but the squared error. */
    double (*log_loss)(int loss, ptrdiff_t n, const void *a, const void *y);

    /* x *= factor. */
    void (*multiply)(ptrdiff_t n, double factor, void *x);

    /* sums[j] = sum_r A[r, j]. */
    void (*sum_rows)(ptrdiff_t n_rows, ptrdiff_t columns, const void *A, void *sums);

    /* Add the squares of a block, lane by lane, to one vector of sums. */
    void (*add_squares)(ptrdiff_t n_rows, ptrdiff_t columns, const void *W, ptrdiff_t w_row, void *squares);

    /* Close the gaps between the rows of a tile as wide as its layer, in place. The parameters have no gaps: row by row,
     * each masked load would wait for the masked store of the row before it. */
    void (*compact)(ptrdiff_t n_rows, ptrdiff_t columns, void *sums, ptrdiff_t stride);

    /* Apply an optimiser to a block of parameters whose gradient is scale (sums + l2 W). Each row of the sums is
     * multiplied by its factor, unless factors is NULL. NONE for an optimiser keeps the gradient itself. W, param, m, v
     * share the stride `row`. */
    void (*apply)(int rule, const Step *step, double scale, double l2, ptrdiff_t n_rows, ptrdiff_t columns,
                  const void *sums, ptrdiff_t sums_row, const void *factors, const void *W, void *param, void *m,
                  void *v, ptrdiff_t row);
} Tiles;

typedef struct {
    const char *name;
    const Tiles *of_float, *of_double;
} InstructionSet;

/* NULL where the compiler or the processor family has no such instruction set. */
extern const InstructionSet *const tile_v2, *const tile_v3, *const tile_v4;

#if defined(__x86_64__) && defined(__GNUC__) && !defined(FASTBP_PLAIN)
#define HAS_X86_TARGETS 1

/* Whether this processor runs an instruction set: what the target pragma of tile_v*.c turns on, and no more. */
static inline int runs_here(const char *name) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("sse4.2"))
        return 0;
    if (!strcmp(name, "v2"))
        return 1;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma"))
        return 0;
    if (!strcmp(name, "v3"))
        return 1;
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}
#else
#define HAS_X86_TARGETS 0

static inline int runs_here(const char *name) {
    return name != NULL;
}
#endif

#endif
