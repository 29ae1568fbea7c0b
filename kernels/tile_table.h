/* The primitives of the backend `cython`: what each tile_v*.c defines and cython_cpu.pyx calls.
 *
 * A primitive is a loop that must run in vector registers, compiled once for each instruction set and dtype. Elements
 * are passed as void pointers, so that one table type serves both dtypes. Sizes and strides count elements.
 *
 * Packed forms, made once for a run so that every load of a product is a whole vector (L lanes):
 *   strips    weights (I, O) and what goes with them, as [O / L][I][L], filled up with zeros;
 *   panels    a batch (B, n) of many samples, as [panel][n][TILE_VECTORS L]: a panel's samples stand side by side in 1
 *             to TILE_VECTORS vectors, the last one's filled up with copies;
 *   rows      a batch of few samples, as [B][n], each row filled up to whole vectors. */
#ifndef FASTBP_TILE_TABLE_H
#define FASTBP_TILE_TABLE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Activation, Loss, Optimizer, PLAN_ROW's NONE, ACTIVATION and STEP of contract.py; cython_cpu.pyx compares the records at
 * import. */
enum { IDENTITY, RELU, LOGISTIC, TANH, SOFTMAX, EXP, LEAKY_RELU, ELU, SELU, SOFTPLUS, SIGN, GELU, SILU, RELU_AT_ZERO };
enum { KEPT = 15 };
enum { SQUARED_ERROR, CROSS_ENTROPY, BINARY_CROSS_ENTROPY, POISSON };
enum { NONE = -1, SGD, MOMENTUM, NESTEROV, ADAM, NADAM, RMSPROP, ADAGRAD };

/* An activation function; from GELU on its derivative does not follow from its output. */
typedef struct {
    int64_t code, function;
    double parameter, at_zero;
} Activation;

typedef struct {
    double grad_scale, loss_scale, l2, keep, rate, momentum, beta_1, beta_2, epsilon, decay;
    double grad_rate, clip, max_norm, average_decay, seed, number;
} Step;

/* GRAIN: inputs of a layer that one thread updates, in whole tiles: these do not depend on how many threads there are. */
enum { TILE_VECTORS = 3, ROW_VECTORS = 8, GRAIN = 8, CACHE_LINE = 64 };

/* How a batch of n samples is packed: in panels, the first n_wide of them with `width` samples and the others with a
 * vector less; or, where n_panels is 0, in rows. */
typedef struct {
    ptrdiff_t n, n_panels, n_wide, width;
} Batch;

/* Which operand A of a product is broadcast, row by row: weights in strips, whose rows are a strip's lanes (forward) or run
 * across strips (backward); or a batch in rows, and then the strips are B. An update has one form more: what a CSR batch
 * holds, input by input. */
enum { ALONG_STRIPS, ACROSS_STRIPS, FEW_ROWS, ENTRIES };

/* Rows of a forward or backward product: C[r, :] = sum_k A[r, k] B[k, :], and what is done to a tile of them while it
 * stands in registers. The sum ascends over k in one accumulator. */
typedef struct {
    ptrdiff_t first, end, n_terms; /* the rows, from `first` to `end` */
    const void *A;
    ptrdiff_t a_next; /* from strip to strip; FEW_ROWS: from row to row */
    const void *B;    /* a panel; FEW_ROWS: strips */
    ptrdiff_t b_next; /* FEW_ROWS: from strip to strip */
    void *C;
    ptrdiff_t c_next;  /* FEW_ROWS: from row to row */
    const void *bias;  /* added, unless NULL: an element for each row; FEW_ROWS: for each column */
    Activation activation; /* act(z) or, with `below`, times act' in terms of what stands there like C */
    const void *below;     /* activations, or kept derivatives; NULL in a forward product */
    int begins, ends;  /* whether the sums begin at 0, or go on from C, and whether they are complete */
} Product;

enum { MOST_FAR = 3 }; /* samples, targets, weights */

/* Rows of samples, of targets or of weights, which a mini-batch takes in random order. */
typedef struct {
    const void *start;
    ptrdiff_t row_bytes;
} Far;

/* The next mini-batch. With each tile of an update a few bytes of it are asked for: rows in random order are not foreseen,
 * and would be waited for. */
typedef struct {
    const int64_t *order;
    Far sources[MOST_FAR];
    ptrdiff_t n_rows, n_sources;
    ptrdiff_t source, row, byte, bytes; /* where to go on, and how many bytes with each tile: whole cache lines */
} Ahead;

/* What a CSR batch holds, input by input. */
typedef struct {
    int64_t *start, *count; /* which entries are an input's: they ascend over the samples */
    int32_t *inputs;        /* those that have any */
    ptrdiff_t n_inputs;
    void *entries; /* pairs of a value and, as an integer of the same size, the number of its sample */
} Columns;

/* Rows of the update of a layer: the gradient of the inputs from `first` to `end` and some strips, and the optimiser. */
typedef struct {
    Batch batch;
    ptrdiff_t n_in, first, end;
    const void *a_prev;     /* panels; FEW_ROWS: rows, n_in elements apart */
    const Columns *columns; /* ENTRIES: in place of a_prev */
    const void *delta;      /* strips of a batch in panels, rows of another */
    ptrdiff_t d_next;       /* from strip to strip, or from row to row */
    int rule;
    const Step *step;
    const void *W;
    void *param, *m, *v; /* where the strips begin */
    ptrdiff_t w_vector;
    double *squares; /* sums of W^2, one for GRAIN inputs, added to unless l2 is 0 */
    Ahead *ahead;    /* or NULL */
} Update;

/* What is done to the units of a batch that is normalised. */
typedef struct {
    const void *mean, *rstd, *gamma, *beta;
} Affine;

/* Which units dropout keeps. */
typedef struct {
    double probability;
    int64_t stream, seed, number;
} Masks;

typedef struct {
    ptrdiff_t lanes; /* L, elements of a vector register */

    /* n_vectors is 1 to TILE_VECTORS. */
    void (*product)(int form, ptrdiff_t n_vectors, const Product *product);
    void (*update)(int form, ptrdiff_t n_vectors, const Update *update);

    /* Copy the rows of a matrix (n_rows, columns) to rows of whole vectors, filled up with zeros; and back. */
    void (*pack)(ptrdiff_t n_rows, ptrdiff_t columns, const void *from, ptrdiff_t from_row, void *to, ptrdiff_t to_row);
    void (*unpack)(ptrdiff_t n_rows, ptrdiff_t columns, const void *from, ptrdiff_t from_row, void *to,
                   ptrdiff_t to_row);

    /* Transpose: n elements of the samples order[0 .. n_rows] (or of the first ones, if order is NULL), which stand `row`
     * apart in X, become the columns of a panel; from n_rows to width the last one is repeated. Return whether no element
     * is infinite or NaN. */
    int (*gather_panel)(ptrdiff_t n, const void *X, ptrdiff_t row, const int64_t *order, ptrdiff_t n_rows,
                        ptrdiff_t width, void *panel);

    /* Transpose a panel: sample r to out + r * row, in whole vectors filled up with zeros if `fill`; the next L units of a
     * sample stand `vector` further on. */
    void (*scatter_panel)(ptrdiff_t n, const void *panel, ptrdiff_t n_rows, void *out, ptrdiff_t row, ptrdiff_t vector,
                          int fill);

    /* List the indices of the elements that are not 0 in x or in `other` (which may be x again), ascending; return how
     * many. The list has room for n, in whole vectors. */
    ptrdiff_t (*list_nonzero)(ptrdiff_t n, const void *x, const void *other, int32_t *list);

    /* Begin to fetch n elements. */
    void (*fetch)(ptrdiff_t n, const void *x);

    /* Whether no element is infinite or NaN. */
    int (*is_finite)(ptrdiff_t n, const void *x);

    /* One sample's forward product over the rows of W that are listed: sums[j] = sum_t x[list[t]] W[list[t], j], each
     * sum ascending over t in one accumulator. W (., n) has the strides w_row and, from vector to vector, w_vector. */
    void (*weighted_rows)(ptrdiff_t n_listed, const int32_t *list, const void *x, const void *W, ptrdiff_t w_row,
                          ptrdiff_t w_vector, ptrdiff_t n, void *sums);

    /* One sample's backward product for the units that are listed: products[i] = sum_j delta[j] W[i, j], W in strips of
     * n_in rows and delta in n whole vectors; what is not listed is left alone. */
    void (*row_products)(ptrdiff_t n_listed, const int32_t *list, const void *delta, const void *W, ptrdiff_t n_in,
                         ptrdiff_t n, void *products);

    /* One sample's step of gradient descent for the rows that are listed: W[i, :] += scale x[i] d, W in
     * strips of n_in rows and d in n whole vectors. */
    void (*add_outer)(ptrdiff_t n_listed, const int32_t *list, double scale, const void *x,
                      const void *d, void *W, ptrdiff_t n_in, ptrdiff_t n);

    /* The same, and at once the forward product of the next sample, whose inputs are `next`: each row of W is at hand
     * once. Between the vectors of a row there are n_in L elements. */
    void (*add_outer_forward)(ptrdiff_t n_listed, const int32_t *list, double scale, const void *x, const void *d,
                              const void *next, void *W, ptrdiff_t n_in, ptrdiff_t n, void *sums);

    /* a = act(sums + b) for a row of n, and act' to `saved` unless it is NULL; softmax comes later. */
    void (*activate_row)(ptrdiff_t n, const void *sums, const void *b, const Activation *activation, void *a, void *saved);

    /* Turn a row of z into softmax(z), filled up with zeros to whole vectors if it is `padded`; the same for the samples
     * of a panel. */
    void (*softmax)(ptrdiff_t n, int padded, void *z);
    void (*softmax_panel)(ptrdiff_t n, ptrdiff_t width, void *z);

    /* Turn d loss / d a into d loss / d z: delta *= act'(z), in terms of a = act(z), or of what was kept. */
    void (*through_activation)(ptrdiff_t n, const void *a, const Activation *activation, void *delta);

    /* The same for softmax and its full Jacobian: one sample, and a panel of them. */
    void (*through_softmax)(ptrdiff_t n, int padded, const void *a, void *delta);
    void (*through_softmax_panel)(ptrdiff_t n, ptrdiff_t width, const void *a, void *delta);

    /* Mean and variance over a batch of the units from `first` to `end` of n, which are written one behind the other. Here
     * and below a batch in rows has them `row` elements apart, and nothing but the n units of a row is touched. */
    void (*batch_moments)(const Batch *batch, ptrdiff_t n, ptrdiff_t row, ptrdiff_t first, ptrdiff_t end, const void *z,
                          void *mean, void *variance);

    /* a = act(gamma x + beta) for x = (z - mean) rstd, which is written to `normalized` unless that is NULL; the vectors
     * begin with the unit `first`. */
    void (*normalize)(const Batch *batch, ptrdiff_t n, ptrdiff_t row, ptrdiff_t first, ptrdiff_t end, const void *z,
                      const Affine *affine, const Activation *activation, void *normalized, void *a);

    /* delta = gamma rstd (delta - mean of delta - x mean of delta x), and the sums of delta x and delta over the batch. */
    void (*batch_norm_delta)(const Batch *batch, ptrdiff_t n, ptrdiff_t row, ptrdiff_t first, ptrdiff_t end,
                             const void *normalized, const Affine *affine, void *delta, void *sums_gamma, void *sums_beta);

    /* n units side by side, the next piece of each of them `next` elements on: their largest pieces, or the error that
     * goes to these, and 0 to all others. */
    void (*maxout)(ptrdiff_t n, ptrdiff_t pieces, ptrdiff_t next, const void *z, void *a);
    void (*maxout_delta)(ptrdiff_t n, ptrdiff_t pieces, ptrdiff_t next, const void *z, const void *delta, void *delta_z);

    /* Drop units from `first`, a multiple of 32, to `end` of a batch: a *= s, and s act' to `saved` unless it is NULL. */
    void (*dropout)(const Batch *batch, ptrdiff_t n, ptrdiff_t row, ptrdiff_t first, ptrdiff_t end, const Masks *masks,
                    const Activation *activation, void *a, void *saved);

    /* Loss of one sample, and its delta = d loss / d z (d loss / d a for the identity), filled up with zeros if rows are
     * `padded`; both times the sample's weight. Return the loss. */
    double (*output_row)(ptrdiff_t n, int padded, const Activation *activation, int loss, const void *a, const void *y,
                         double weight, void *delta);

    /* out = -log(p): the losses of n samples whose class is the only target. With NONE for a loss output_row leaves them
     * out; its delta is that of a cross-entropy. */
    void (*log_losses)(ptrdiff_t n, const void *p, void *out);

    /* Loss and delta for a panel of n_rows samples, weights in a row of `width` or NULL. */
    double (*output_panel)(ptrdiff_t n, ptrdiff_t width, ptrdiff_t n_rows, const Activation *activation, int loss,
                           const void *a, const void *y, const void *weight, void *delta);

    /* The same for a cross-entropy whose delta is a - y; numbers of classes stand in place of targets, and delta may in
     * that of a. */
    double (*output_classes)(ptrdiff_t n, ptrdiff_t width, ptrdiff_t n_rows, const void *a, const void *classes,
                             const void *weight, void *delta);

    /* sums[:] = sum_r A[r, :] for 1 to TILE_VECTORS vectors of columns, which stand `vector` apart. */
    void (*sum_rows)(ptrdiff_t n_vectors, ptrdiff_t n_rows, const void *A, ptrdiff_t row, ptrdiff_t vector, void *sums);

    /* Apply an optimiser to n parameters whose gradient is scale (grad + l2 W). NONE for an optimiser keeps the gradient
     * itself. */
    void (*apply)(int rule, const Step *step, double scale, ptrdiff_t n, const void *grad, void *param, void *m,
                  void *v);

    /* The sum of the squares of n elements. */
    double (*square_sum)(ptrdiff_t n, const void *x);

    /* x *= factor. */
    void (*rescale)(ptrdiff_t n, double factor, void *x);

    /* average += rest (x - average). */
    void (*move_average)(ptrdiff_t n, double rest, const void *x, void *average);
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
