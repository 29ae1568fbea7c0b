/* The primitives of tile_table.h for elements of type REAL, in vectors of LANES of them.
 *
 * Included twice, for float and double, by each tile_v*.c, which says how many lanes there are and how its instruction
 * set loads and stores a part of a vector and takes a square root. Loops run over whole vectors and the last may be a
 * part: an element's arithmetic never depends on where in its row or its batch it stands. */

#define LANES JOIN(LANES, REAL)
#define integer JOIN(integer, REAL)
#define vec JOIN(vec, REAL)
#define bits JOIN(bits, REAL)

#if HAS_VECTORS
typedef REAL vec __attribute__((vector_size(LANES * sizeof(REAL))));
typedef integer bits __attribute__((vector_size(LANES * sizeof(REAL))));
#else
typedef REAL vec;
typedef integer bits;
#endif

/* ------------------------------------------------------------------------------------------------- vectors */

#define splat JOIN(splat, REAL)
#define load JOIN(load, REAL)
#define store JOIN(store, REAL)
#define load_part JOIN(load_part, REAL)
#define store_part JOIN(store_part, REAL)
#define root JOIN(root, REAL)
#define as_bits JOIN(as_bits, REAL)
#define as_real JOIN(as_real, REAL)
#define choose JOIN(choose, REAL)
#define first_lanes JOIN(first_lanes, REAL)
#define sum_lanes JOIN(sum_lanes, REAL)
#define largest_lane JOIN(largest_lane, REAL)

static INLINE vec splat(REAL x) {
    return x - (vec){0};
}

static INLINE vec load(const REAL *p) {
    vec x;
    memcpy(&x, p, sizeof x);
    return x;
}

static INLINE void store(REAL *p, vec x) {
    memcpy(p, &x, sizeof x);
}

/* Load the elements of a row of which n are left, at least one; lanes beyond them are 0. */
static INLINE vec load_part(const REAL *p, ptrdiff_t n) {
    if (n >= LANES)
        return load(p);
#ifdef LOAD_PART_float
    return JOIN(LOAD_PART, REAL)(p, n);
#else
    REAL lanes[LANES] = {0};
    UNROLL for (int j = 0; j < LANES - 1; j++)
        if (j < n)
            lanes[j] = p[j];
    return load(lanes);
#endif
}

static INLINE void store_part(REAL *p, ptrdiff_t n, vec x) {
    if (n >= LANES) {
        store(p, x);
        return;
    }
#ifdef STORE_PART_float
    JOIN(STORE_PART, REAL)(p, n, x);
#else
    REAL lanes[LANES];
    store(lanes, x);
    UNROLL for (int j = 0; j < LANES - 1; j++)
        if (j < n)
            p[j] = lanes[j];
#endif
}

/* The square root. */
static INLINE vec root(vec x) {
#ifdef ROOT_float
    return JOIN(ROOT, REAL)(x);
#else
    REAL lanes[LANES];
    store(lanes, x);
    for (int j = 0; j < LANES; j++)
        lanes[j] = (REAL)sqrt(lanes[j]);
    return load(lanes);
#endif
}

static INLINE bits as_bits(vec x) {
    bits y;
    memcpy(&y, &x, sizeof y);
    return y;
}

static INLINE vec as_real(bits x) {
    vec y;
    memcpy(&y, &x, sizeof y);
    return y;
}

/* condition ? yes : no, lane by lane; a comparison of vectors is -1 where it holds. */
static INLINE vec choose(bits condition, vec yes, vec no) {
#if HAS_VECTORS
    return as_real((condition & as_bits(yes)) | (~condition & as_bits(no)));
#else
    return condition ? yes : no;
#endif
}

/* The first n lanes of x, and `fill` in those beyond. */
static INLINE vec first_lanes(vec x, ptrdiff_t n, REAL fill) {
#if HAS_VECTORS
    bits index;
    UNROLL for (int j = 0; j < LANES; j++)
        index[j] = j;
    return choose(index < (integer)(n < LANES ? n : LANES), x, splat(fill));
#else
    return x;
#endif
}

/* The upper half folded onto the lower one until one lane is left. */
static INLINE REAL sum_lanes(vec x) {
    REAL lanes[LANES];
    store(lanes, x);
    UNROLL for (int half = LANES / 2; half; half /= 2)
        UNROLL for (int j = 0; j < half; j++)
            lanes[j] += lanes[j + half];
    return lanes[0];
}

static INLINE REAL largest_lane(vec x) {
    REAL lanes[LANES];
    store(lanes, x);
    UNROLL for (int half = LANES / 2; half; half /= 2)
        UNROLL for (int j = 0; j < half; j++)
            lanes[j] = lanes[j + half] > lanes[j] ? lanes[j + half] : lanes[j];
    return lanes[0];
}

#include "tile_math.h"

/* --------------------------------------------------------------------------------------------------- tiles */

#define tile_of JOIN(tile_of, REAL)
#define tile JOIN(tile, REAL)

static INLINE void tile_of(const int n_rows, const int n_vectors, ptrdiff_t K, const REAL *A, ptrdiff_t a_row,
                           ptrdiff_t a_k, const REAL *B, ptrdiff_t b_k, REAL *C) {
    vec sums[MAX_ROWS][TILE_VECTORS], columns[TILE_VECTORS];
    UNROLL for (int r = 0; r < n_rows; r++)
        UNROLL for (int v = 0; v < n_vectors; v++)
            sums[r][v] = splat(0);
    for (ptrdiff_t k = 0; k < K; k++) {
        UNROLL for (int v = 0; v < n_vectors; v++)
            columns[v] = load(B + k * b_k + v * LANES);
        UNROLL for (int r = 0; r < n_rows; r++) {
            const vec x = splat(A[r * a_row + k * a_k]);
            UNROLL for (int v = 0; v < n_vectors; v++)
                sums[r][v] += x * columns[v];
        }
    }
    UNROLL for (int r = 0; r < n_rows; r++)
        UNROLL for (int v = 0; v < n_vectors; v++)
            store(C + (r * n_vectors + v) * LANES, sums[r][v]);
}

#define TILE(rows, vectors)                                                                                            \
    case rows * (TILE_VECTORS + 1) + vectors:                                                                          \
        tile_of(rows, vectors, K, A, a_row, a_k, B, b_k, C);                                                           \
        break;

static void tile(ptrdiff_t n_rows, ptrdiff_t n_vectors, ptrdiff_t K, const void *A, ptrdiff_t a_row, ptrdiff_t a_k,
                 const void *B, ptrdiff_t b_k, void *C) {
    switch (n_rows * (TILE_VECTORS + 1) + n_vectors) {
#if MAX_ROWS == 8
        TILE(8, 1) TILE(8, 2) TILE(8, 3)
#endif
        TILE(4, 1) TILE(4, 2) TILE(4, 3)
        TILE(2, 1) TILE(2, 2) TILE(2, 3)
        TILE(1, 1) TILE(1, 2) TILE(1, 3)
    }
}

#define pack JOIN(pack, REAL)

static void pack(ptrdiff_t n_rows, ptrdiff_t columns, const void *B, ptrdiff_t b_row, void *panel, ptrdiff_t stride) {
    const REAL *source = B;
    REAL *target = panel;
    for (ptrdiff_t k = 0; k < n_rows; k++, source += b_row, target += stride)
        for (ptrdiff_t j = 0; j < columns; j += LANES)
            store(target + j, load_part(source + j, columns - j));
}

#define transpose_block JOIN(transpose_block, REAL)
#define transpose JOIN(transpose, REAL)

/* Transpose LANES vectors: the halves zipped together, log2(LANES) times. */
static INLINE void transpose_block(vec x[LANES]) {
#if HAS_VECTORS
    vec zipped[LANES];
    UNROLL for (int rest = LANES; rest > 1; rest /= 2) {
        UNROLL for (int j = 0; j < LANES / 2; j++) {
            zipped[2 * j] = ZIP(LOW, x[j], x[j + LANES / 2]);
            zipped[2 * j + 1] = ZIP(HIGH, x[j], x[j + LANES / 2]);
        }
        UNROLL for (int j = 0; j < LANES; j++)
            x[j] = zipped[j];
    }
#endif
}

static void transpose(ptrdiff_t n_rows, ptrdiff_t columns, const void *A, ptrdiff_t a_row, void *out,
                      ptrdiff_t out_row, int fill) {
    for (ptrdiff_t r = 0; r < n_rows; r += LANES) {
        const ptrdiff_t rows = n_rows - r < LANES ? n_rows - r : LANES;
        for (ptrdiff_t j = 0; j < columns; j += LANES) {
            const REAL *source = (const REAL *)A + r * a_row + j;
            REAL *target = (REAL *)out + j * out_row + r;
            vec block[LANES];
            UNROLL for (int l = 0; l < LANES; l++)
                block[l] = l < rows ? load_part(source + l * a_row, columns - j) : splat(0);
            transpose_block(block);
            UNROLL for (int l = 0; l < LANES; l++)
                if (l < columns - j)
                    store_part(target + l * out_row, fill ? LANES : rows, block[l]);
        }
    }
}

/* ---------------------------------------------------------------------------------------------- one sample */

#define list_nonzero JOIN(list_nonzero, REAL)
#define sum_vectors JOIN(sum_vectors, REAL)
#define weighted_rows_of JOIN(weighted_rows_of, REAL)
#define weighted_rows JOIN(weighted_rows, REAL)
#define row_products JOIN(row_products, REAL)
#define add_outer_of JOIN(add_outer_of, REAL)
#define add_outer JOIN(add_outer, REAL)
#define is_finite JOIN(is_finite, REAL)

static ptrdiff_t list_nonzero(ptrdiff_t n, const void *row, int32_t *list) {
    const REAL *x = row;
    ptrdiff_t found = 0;
#ifdef LIST_NONZERO_float
    for (ptrdiff_t j = 0; j < n; j += LANES)
        found += JOIN(LIST_NONZERO, REAL)(load_part(x + j, n - j), (int32_t)j, list + found);
#else
    for (ptrdiff_t j = 0; j < n; j++) {
        list[found] = (int32_t)j; /* overwritten by the next one unless it counts: no branch to guess */
        found += x[j] != 0;
    }
#endif
    return found;
}

static INLINE void weighted_rows_of(const int n_vectors, ptrdiff_t n_listed, const int32_t *list, const REAL *x,
                                    const REAL *W, ptrdiff_t w_row, ptrdiff_t columns, REAL *sums) {
    vec total[ROW_VECTORS];
    UNROLL for (int v = 0; v < n_vectors; v++)
        total[v] = splat(0);
    for (ptrdiff_t t = 0; t < n_listed; t++) {
        const REAL *w = W + list[t] * w_row;
        const vec factor = splat(x[list[t]]);
        UNROLL for (int v = 0; v < n_vectors - 1; v++)
            total[v] += factor * load(w + v * LANES);
        total[n_vectors - 1] += factor * load_part(w + (n_vectors - 1) * LANES, columns - (n_vectors - 1) * LANES);
    }
    UNROLL for (int v = 0; v < n_vectors; v++)
        store(sums + v * LANES, total[v]);
}

#define WEIGHTED_ROWS(vectors)                                                                                         \
    case vectors:                                                                                                      \
        weighted_rows_of(vectors, n_listed, list, x, weights + o, w_row, n - o, total + o);                            \
        break;

static void weighted_rows(ptrdiff_t n_listed, const int32_t *list, const void *factors, const void *W, ptrdiff_t w_row,
                          ptrdiff_t n, void *sums) {
    const REAL *x = factors, *weights = W;
    REAL *total = sums;
    for (ptrdiff_t o = 0; o < n; o += ROW_VECTORS * LANES) {
        const ptrdiff_t n_vectors = (n - o + LANES - 1) / LANES;
        switch (n_vectors < ROW_VECTORS ? n_vectors : ROW_VECTORS) {
            WEIGHTED_ROWS(1) WEIGHTED_ROWS(2) WEIGHTED_ROWS(3) WEIGHTED_ROWS(4)
            WEIGHTED_ROWS(5) WEIGHTED_ROWS(6) WEIGHTED_ROWS(7) WEIGHTED_ROWS(8)
        }
    }
}

/* Return the sum of each of LANES vectors: neighbours zipped and added, log2(LANES) times. */
static INLINE vec sum_vectors(vec x[LANES]) {
#if HAS_VECTORS
    UNROLL for (int half = LANES / 2; half; half /= 2)
        UNROLL for (int j = 0; j < half; j++)
            x[j] = ZIP(LOW, x[j], x[j + half]) + ZIP(HIGH, x[j], x[j + half]);
#endif
    return x[0];
}

static void row_products(ptrdiff_t n_listed, const int32_t *list, const void *delta, const void *W, ptrdiff_t w_row,
                         ptrdiff_t n, void *products) {
    const REAL *d = delta;
    for (ptrdiff_t t = 0; t < n_listed; t += LANES) {
        const REAL *rows[LANES];
        vec total[LANES];
        REAL lanes[LANES];
        UNROLL for (int l = 0; l < LANES; l++) {
            rows[l] = (const REAL *)W + list[t + l < n_listed ? t + l : n_listed - 1] * w_row;
            total[l] = splat(0);
        }
        for (ptrdiff_t j = 0; j < n; j += LANES) {
            const vec factor = load_part(d + j, n - j);
            UNROLL for (int l = 0; l < LANES; l++)
                total[l] += factor * load_part(rows[l] + j, n - j);
        }
        store(lanes, sum_vectors(total));
        for (int l = 0; l < LANES && t + l < n_listed; l++)
            ((REAL *)products)[list[t + l]] = lanes[l];
    }
}

static INLINE void add_outer_of(const int n_vectors, ptrdiff_t n_listed, const int32_t *list, REAL scale, const REAL *x,
                                const REAL *d, REAL *W, ptrdiff_t w_row, ptrdiff_t columns) {
    const int last = n_vectors - 1;
    vec addends[ROW_VECTORS];
    UNROLL for (int v = 0; v < n_vectors; v++)
        addends[v] = load_part(d + v * LANES, columns - v * LANES);
    for (ptrdiff_t t = 0; t < n_listed; t++) {
        REAL *w = W + list[t] * w_row;
        const vec factor = splat(scale * x[list[t]]);
        UNROLL for (int v = 0; v < last; v++)
            store(w + v * LANES, load(w + v * LANES) + factor * addends[v]);
        store_part(w + last * LANES, columns - last * LANES,
                   load_part(w + last * LANES, columns - last * LANES) + factor * addends[last]);
    }
}

#define ADD_OUTER(vectors)                                                                                             \
    case vectors:                                                                                                      \
        add_outer_of(vectors, n_listed, list, (REAL)scale, x, addend + o, weights + o, w_row, n - o);                  \
        break;

static void add_outer(ptrdiff_t n_listed, const int32_t *list, double scale, const void *x, const void *d, void *W,
                      ptrdiff_t w_row, ptrdiff_t n) {
    const REAL *addend = d;
    REAL *weights = W;
    for (ptrdiff_t o = 0; o < n; o += ROW_VECTORS * LANES) {
        const ptrdiff_t n_vectors = (n - o + LANES - 1) / LANES;
        switch (n_vectors < ROW_VECTORS ? n_vectors : ROW_VECTORS) {
            ADD_OUTER(1) ADD_OUTER(2) ADD_OUTER(3) ADD_OUTER(4) ADD_OUTER(5) ADD_OUTER(6) ADD_OUTER(7) ADD_OUTER(8)
        }
    }
}

static int is_finite(ptrdiff_t n, const void *row) {
    vec zeros = splat(0);
    for (ptrdiff_t j = 0; j < n; j += LANES)
        zeros += 0 * load_part((const REAL *)row + j, n - j);
    return sum_lanes(zeros) == 0;
}

/* --------------------------------------------------------------------------------------------- activations */

#define activate_rows JOIN(activate_rows, REAL)
#define activate JOIN(activate, REAL)
#define softmax JOIN(softmax, REAL)
#define derive JOIN(derive, REAL)
#define through_activation JOIN(through_activation, REAL)
#define through_softmax JOIN(through_softmax, REAL)

static INLINE void activate_rows(ptrdiff_t n_rows, ptrdiff_t columns, const REAL *sums, ptrdiff_t sums_row,
                                 const REAL *b, int has_bias, const int activation, REAL *a, ptrdiff_t a_row) {
    for (ptrdiff_t r = 0; r < n_rows; r++, sums += sums_row, a += a_row)
        for (ptrdiff_t j = 0; j < columns; j += LANES) {
            vec z = load(sums + j);
            if (has_bias)
                z += load_part(b + j, columns - j);
            store_part(a + j, columns - j, act(activation, z));
        }
}

#define ACTIVATE(activation)                                                                                           \
    case activation:                                                                                                   \
        activate_rows(n_rows, columns, sums, sums_row, b, has_bias, activation, a, a_row);                             \
        break;

static void activate(ptrdiff_t n_rows, ptrdiff_t columns, const void *sums, ptrdiff_t sums_row, const void *b,
                     int has_bias, int activation, void *a, ptrdiff_t a_row) {
    switch (activation) {
        ACTIVATE(IDENTITY)
        ACTIVATE(RELU)
        ACTIVATE(LOGISTIC)
        ACTIVATE(TANH)
        ACTIVATE(SOFTMAX)
        ACTIVATE(EXP)
    }
}

static void softmax(ptrdiff_t n, void *row) {
    REAL *a = row;
    vec largest = splat(-(REAL)INFINITY), total = splat(0);
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const vec z = first_lanes(load_part(a + j, n - j), n - j, -(REAL)INFINITY);
        largest = choose(z > largest, z, largest);
    }
    const vec shift = splat(largest_lane(largest));
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const vec e = first_lanes(exponential(load_part(a + j, n - j) - shift), n - j, 0);
        store_part(a + j, n - j, e);
        total += e;
    }
    const vec divisor = splat(sum_lanes(total));
    for (ptrdiff_t j = 0; j < n; j += LANES)
        store_part(a + j, n - j, load_part(a + j, n - j) / divisor);
}

static INLINE void derive(ptrdiff_t n, const REAL *a, const int activation, REAL *delta) {
    for (ptrdiff_t j = 0; j < n; j += LANES)
        store_part(delta + j, n - j,
                   times_derivative(activation, load_part(a + j, n - j), load_part(delta + j, n - j)));
}

#define DERIVE(activation)                                                                                             \
    case activation:                                                                                                   \
        derive(n, a, activation, delta);                                                                               \
        break;

static void through_activation(ptrdiff_t n, const void *a, int activation, void *delta) {
    switch (activation) {
        DERIVE(RELU)
        DERIVE(LOGISTIC)
        DERIVE(TANH)
        DERIVE(EXP)
    }
}

static void through_softmax(ptrdiff_t n, const void *outputs, void *errors) {
    const REAL *a = outputs;
    REAL *delta = errors;
    vec products = splat(0);
    for (ptrdiff_t j = 0; j < n; j += LANES)
        products += load_part(delta + j, n - j) * load_part(a + j, n - j);
    const vec mean = splat(sum_lanes(products));
    for (ptrdiff_t j = 0; j < n; j += LANES)
        store_part(delta + j, n - j, (load_part(delta + j, n - j) - mean) * load_part(a + j, n - j));
}

/* ---------------------------------------------------------------------------------------------------- rows */

#define subtract JOIN(subtract, REAL)
#define square_sum JOIN(square_sum, REAL)
#define margin JOIN(margin, REAL)
#define losses JOIN(losses, REAL)
#define log_loss JOIN(log_loss, REAL)
#define multiply JOIN(multiply, REAL)
#define sum_rows JOIN(sum_rows, REAL)

static void subtract(ptrdiff_t n, const void *outputs, const void *targets, void *errors) {
    const REAL *a = outputs, *y = targets;
    REAL *delta = errors;
    for (ptrdiff_t j = 0; j < n; j += LANES)
        store_part(delta + j, n - j, load_part(a + j, n - j) - load_part(y + j, n - j));
}

/* Eight sums run side by side: one alone would wait for each addition. */
static double square_sum(ptrdiff_t n, const void *row) {
    const REAL *x = row;
    double sums[8] = {0}, total = 0;
    ptrdiff_t j = 0;
    for (; j + 8 <= n; j += 8)
        for (int lane = 0; lane < 8; lane++)
            sums[lane] += (double)x[j + lane] * x[j + lane];
    for (; j < n; j++)
        sums[j % 8] += (double)x[j] * x[j];
    for (int lane = 0; lane < 8; lane++)
        total += sums[lane];
    return total;
}

/* What weighs 0 is left out: 0 log 0 = 0. */
static INLINE vec losses(const int loss, vec a, vec y) {
    if (loss == POISSON)
        return (a - y) + choose(y == 0, y / a, y * logarithm(y / a)); /* 0 / 0, as in scikit-learn */
    const vec p = between(margin, a, 1 - margin);
    vec sum = choose(y == 0, splat(0), -y * logarithm(p));
    if (loss == BINARY_CROSS_ENTROPY)
        sum += choose(y == 1, splat(0), (y - 1) * logarithm(1 - p));
    return sum;
}

#define LOSS(loss)                                                                                                     \
    case loss:                                                                                                         \
        for (ptrdiff_t j = 0; j < n; j += LANES)                                                                       \
            total += first_lanes(losses(loss, load_part(a + j, n - j), load_part(y + j, n - j)), n - j, 0);            \
        break;

static double log_loss(int loss, ptrdiff_t n, const void *outputs, const void *targets) {
    const REAL *a = outputs, *y = targets;
    vec total = splat(0);
    switch (loss) {
        LOSS(CROSS_ENTROPY)
        LOSS(BINARY_CROSS_ENTROPY)
        LOSS(POISSON)
    }
    return sum_lanes(total);
}

static void multiply(ptrdiff_t n, double factor, void *row) {
    REAL *x = row;
    for (ptrdiff_t j = 0; j < n; j += LANES)
        store_part(x + j, n - j, load_part(x + j, n - j) * (REAL)factor);
}

static void sum_rows(ptrdiff_t n_rows, ptrdiff_t columns, const void *A, void *sums) {
    for (ptrdiff_t j = 0; j < columns; j += LANES) {
        const REAL *column = (const REAL *)A + j;
        vec total = splat(0);
        for (ptrdiff_t r = 0; r < n_rows; r++)
            total += load_part(column + r * columns, columns - j);
        store_part((REAL *)sums + j, columns - j, total);
    }
}

/* ---------------------------------------------------------------------------------------------- optimisers */

#define add_squares JOIN(add_squares, REAL)
#define compact JOIN(compact, REAL)
#define keep_gradient JOIN(keep_gradient, REAL)
#define descend JOIN(descend, REAL)
#define descend_with_momentum JOIN(descend_with_momentum, REAL)
#define descend_by_adam JOIN(descend_by_adam, REAL)
#define apply_rule JOIN(apply_rule, REAL)
#define apply JOIN(apply, REAL)

static void add_squares(ptrdiff_t n_rows, ptrdiff_t columns, const void *W, ptrdiff_t w_row, void *squares) {
    vec total = load(squares);
    for (ptrdiff_t j = 0; j < columns; j += LANES) {
        const REAL *block = (const REAL *)W + j;
        vec part = splat(0);
        for (ptrdiff_t r = 0; r < n_rows; r++) {
            const vec w = load_part(block + r * w_row, columns - j);
            part += w * w;
        }
        total += part;
    }
    store(squares, total);
}

static void compact(ptrdiff_t n_rows, ptrdiff_t columns, void *sums, ptrdiff_t stride) {
    for (ptrdiff_t r = 1; r < n_rows; r++)
        for (ptrdiff_t j = 0; j < columns; j += LANES)
            store((REAL *)sums + r * columns + j, load((REAL *)sums + r * stride + j));
}

/* What stood there is not even read where `keep` is 0: it may be NaN. */
static INLINE void keep_gradient(Step step, vec g, ptrdiff_t n, REAL *grad) {
    if (step.keep != 0)
        g += (REAL)step.keep * load_part(grad, n);
    store_part(grad, n, g);
}

static INLINE void descend(Step step, vec g, ptrdiff_t n, REAL *param) {
    store_part(param, n, load_part(param, n) - (REAL)step.rate * g);
}

static INLINE void descend_with_momentum(Step step, const int nesterov, vec g, ptrdiff_t n, REAL *param, REAL *velocity) {
    const REAL momentum = (REAL)step.momentum, rate = (REAL)step.rate;
    const vec v = momentum * load_part(velocity, n) - rate * g;
    store_part(velocity, n, v);
    store_part(param, n, load_part(param, n) + (nesterov ? momentum * v - rate * g : v));
}

static INLINE void descend_by_adam(Step step, vec g, ptrdiff_t n, REAL *param, REAL *m, REAL *v) {
    const vec m_new = (REAL)step.beta_1 * load_part(m, n) + (REAL)(1 - step.beta_1) * g;
    const vec v_new = (REAL)step.beta_2 * load_part(v, n) + (REAL)(1 - step.beta_2) * (g * g);
    const vec kept = (REAL)(1 - step.decay) * load_part(param, n);
    store_part(m, n, m_new);
    store_part(v, n, v_new);
    store_part(param, n, kept - (REAL)step.rate * m_new / (root(v_new) + (REAL)step.epsilon));
}

static INLINE void apply_rule(const int rule, Step step, REAL scale, REAL l2, ptrdiff_t n_rows, ptrdiff_t columns,
                              const REAL *sums, ptrdiff_t sums_row, const REAL *factors, const REAL *W, REAL *param,
                              REAL *m, REAL *v, ptrdiff_t row) {
    for (ptrdiff_t r = 0; r < n_rows; r++)
        for (ptrdiff_t j = 0; j < columns; j += LANES) {
            const ptrdiff_t here = r * row + j, n = columns - j;
            vec g = load_part(sums + r * sums_row + j, n);
            if (factors)
                g *= factors[r];
            if (l2 != 0)
                g += l2 * load_part(W + here, n);
            g *= scale;
            if (rule == NONE)
                keep_gradient(step, g, n, param + here);
            else if (rule == SGD)
                descend(step, g, n, param + here);
            else if (rule == MOMENTUM || rule == NESTEROV)
                descend_with_momentum(step, rule == NESTEROV, g, n, param + here, m + here);
            else
                descend_by_adam(step, g, n, param + here, m + here, v + here);
        }
}

#define APPLY(rule)                                                                                                    \
    case rule:                                                                                                         \
        apply_rule(rule, *step, (REAL)scale, (REAL)l2, n_rows, columns, sums, sums_row, factors, W, param, m, v, row); \
        break;

static void apply(int rule, const Step *step, double scale, double l2, ptrdiff_t n_rows, ptrdiff_t columns,
                  const void *sums, ptrdiff_t sums_row, const void *factors, const void *W, void *param, void *m,
                  void *v, ptrdiff_t row) {
    switch (rule) {
        APPLY(NONE)
        APPLY(SGD)
        APPLY(MOMENTUM)
        APPLY(NESTEROV)
        APPLY(ADAM)
    }
}

#define table JOIN(table, REAL)

static const Tiles table = {
    LANES,       MAX_ROWS,           tile,            pack,     transpose,  list_nonzero, weighted_rows, row_products,
    add_outer, is_finite, activate,    softmax,            through_activation, through_softmax, subtract, square_sum, log_loss, multiply,
    sum_rows,    add_squares,        compact,         apply,
};
