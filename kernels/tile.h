/* The primitives of tile_table.h for elements of type REAL, in vectors of LANES of them.
 *
 * Included twice, for float and double, by each tile_v*.c, which says how many lanes there are and how its instruction
 * set does what C cannot say of vectors. An element's arithmetic never depends on where in its
 * row or its batch it stands. */

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
#define larger JOIN(larger, REAL)
#define smaller JOIN(smaller, REAL)
#define first_lanes JOIN(first_lanes, REAL)
#define any JOIN(any, REAL)
#define lane_numbers JOIN(lane_numbers, REAL)
#define upper JOIN(upper, REAL)
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
    ALIGNED REAL lanes[LANES];
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
    ALIGNED REAL lanes[LANES];
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

/* y where it is larger than x, else x: a NaN in x stays. */
static INLINE vec larger(vec y, vec x) {
#ifdef LARGER_float
    return JOIN(LARGER, REAL)(y, x);
#else
    return choose(y > x, y, x);
#endif
}

static INLINE vec smaller(vec y, vec x) {
#ifdef SMALLER_float
    return JOIN(SMALLER, REAL)(y, x);
#else
    return choose(y < x, y, x);
#endif
}

/* Whether a condition holds in any lane. */
static INLINE int any(bits condition) {
#ifdef ANY_LANE
    return ANY_LANE(condition);
#elif HAS_VECTORS
    integer found = 0;
    UNROLL for (int j = 0; j < LANES; j++)
        found |= condition[j];
    return found != 0;
#else
    return condition;
#endif
}

/* The first n lanes of x, and `fill` in those beyond. */
static INLINE vec first_lanes(vec x, ptrdiff_t n, REAL fill) {
#if HAS_VECTORS
    bits index;
    memcpy(&index, lane_numbers, sizeof index);
    return choose(index < (integer)(n < LANES ? n : LANES), x, splat(fill));
#else
    return x;
#endif
}

/* Lane j + half in lane j, for all j below half; what the other lanes hold does not matter. */
static INLINE vec upper(vec x, int half) {
#if HAS_VECTORS
    bits index;
    memcpy(&index, lane_numbers + half, sizeof index);
    return SHUFFLE(x, index);
#else
    return x;
#endif
}

#if HAS_VECTORS
#define FIRST_LANE(x) (x)[0]
#else
#define FIRST_LANE(x) (x)
#endif

/* The upper half folded onto the lower one until one lane is left. */
static INLINE REAL sum_lanes(vec x) {
    UNROLL for (int half = LANES / 2; half; half /= 2)
        x += upper(x, half);
    return FIRST_LANE(x);
}

static INLINE REAL largest_lane(vec x) {
    UNROLL for (int half = LANES / 2; half; half /= 2)
        x = larger(upper(x, half), x);
    return FIRST_LANE(x);
}

#include "tile_math.h"

/* ------------------------------------------------------------------------------------------------ products */

#define product_tile JOIN(product_tile, REAL)
#define product_of JOIN(product_of, REAL)
#define product JOIN(product, REAL)
#define derived JOIN(derived, REAL)
#define finish_product JOIN(finish_product, REAL)

/* Samples that lie side by side in a panel, those that are there and those that are not. */
#define PITCH (TILE_VECTORS * LANES)

/* The rows of a tile are lanes of one strip. */
#define MAX_ROWS (TILE_ROWS < LANES ? TILE_ROWS : LANES)

/* Calls TILE(n_rows) for tiles of MAX_ROWS rows from `row` to `end`, then for smaller ones. */
#define EACH_TILE(TILE, row, end)                                                                                      \
    for (; MAX_ROWS >= 8 && row + 8 <= end; row += 8)                                                                  \
        TILE(8);                                                                                                       \
    for (; MAX_ROWS >= 4 && row + 4 <= end; row += 4)                                                                  \
        TILE(4);                                                                                                       \
    for (; MAX_ROWS >= 2 && row + 2 <= end; row += 2)                                                                  \
        TILE(2);                                                                                                       \
    for (; row < end; row++)                                                                                           \
        TILE(1);

static INLINE vec derived(const Activation *f, vec a, vec delta) {
    return times_derivative((int)f->code, (REAL)f->parameter, (REAL)f->at_zero, a, delta);
}

/* Bias and activation, or the derivative of the activation below, where that needs more than a comparison. */
static void finish_product(ptrdiff_t n_rows, ptrdiff_t n_vectors, const Product *p, ptrdiff_t row, ptrdiff_t c_row) {
    for (ptrdiff_t r = row; r < row + n_rows; r++)
        for (ptrdiff_t v = 0; v < n_vectors; v++) {
            const ptrdiff_t here = r * c_row + v * LANES;
            REAL *c = (REAL *)p->C + here;
            if (p->below)
                store(c, derived(&p->activation, load((const REAL *)p->below + here), load(c)));
            else
                store(c, act((int)p->activation.code, (REAL)p->activation.parameter, load(c)));
        }
}

static INLINE void product_tile(const int form, const int n_rows, const int n_vectors, const Product *p, ptrdiff_t row) {
    const ptrdiff_t a_row = form == ALONG_STRIPS ? 1 : form == ACROSS_STRIPS ? LANES : p->a_next;
    const ptrdiff_t a_k = form == ALONG_STRIPS ? LANES : 1, segment = form == ACROSS_STRIPS ? LANES : p->n_terms;
    const ptrdiff_t b_k = form == FEW_ROWS ? LANES : PITCH, b_vector = form == FEW_ROWS ? p->b_next : LANES;
    const ptrdiff_t c_row = form == FEW_ROWS ? p->c_next : PITCH, first = row * c_row;
    const REAL *A = p->A, *B = p->B, *bias = p->bias, *below = p->below;
    REAL *C = (REAL *)p->C + first;
    vec sums[TILE_ROWS][TILE_VECTORS], columns[TILE_VECTORS];
    A += form == ALONG_STRIPS ? row / LANES * p->a_next + row % LANES : row * a_row;
    UNROLL for (int r = 0; r < n_rows; r++)
        UNROLL for (int v = 0; v < n_vectors; v++)
            sums[r][v] = p->begins ? splat(0) : load(C + r * c_row + v * LANES);
    for (ptrdiff_t start = 0; start < p->n_terms; start += segment, A += p->a_next) {
        const REAL *a = A, *stop = A + (segment < p->n_terms - start ? segment : p->n_terms - start) * a_k;
        if (form == ACROSS_STRIPS) /* the next tile's rows begin far away from what the processor foresees */
            UNROLL for (int r = 0; r < n_rows; r++)
                PREFETCH(A + (n_rows + r) * a_row);
        for (; a < stop; a += a_k, B += b_k) {
            UNROLL for (int v = 0; v < n_vectors; v++)
                columns[v] = load(B + v * b_vector);
            UNROLL for (int r = 0; r < n_rows; r++) {
                const vec x = splat(a[r * a_row]);
                UNROLL for (int v = 0; v < n_vectors; v++)
                    sums[r][v] += x * columns[v];
            }
        }
    }
    UNROLL for (int r = 0; r < n_rows; r++)
        UNROLL for (int v = 0; v < n_vectors; v++) {
            const ptrdiff_t here = r * c_row + v * LANES;
            vec z = sums[r][v];
            if (bias)
                z += form == FEW_ROWS ? load(bias + v * LANES) : splat(bias[row + r]);
            if (p->activation.code == RELU)
                z = below ? times_derivative(RELU, 0, 0, load(below + first + here), z) : act(RELU, 0, z);
            store(C + here, z);
        }
    if (p->activation.code != RELU && p->activation.code != IDENTITY)
        finish_product(n_rows, n_vectors, p, row, c_row);
}

static INLINE void product_of(const int form, const int n_vectors, const Product *p) {
    Product fixed = *p; /* the stores cannot change it */
    ptrdiff_t row = fixed.first;
    if (!fixed.ends)
        fixed.bias = NULL, fixed.activation.code = IDENTITY;
#define TILE(rows) product_tile(form, rows, n_vectors, &fixed, row)
    EACH_TILE(TILE, row, fixed.end)
#undef TILE
}

#define EACH_TILE_WIDTH(WIDTH, option) WIDTH(option, 1) WIDTH(option, 2) WIDTH(option, 3)

#define PRODUCT(form, vectors)                                                                                         \
    case form * (TILE_VECTORS + 1) + vectors:                                                                          \
        product_of(form, vectors, p);                                                                                  \
        break;

static void product(int form, ptrdiff_t n_vectors, const Product *p) {
    switch (form * (TILE_VECTORS + 1) + n_vectors) {
        EACH_TILE_WIDTH(PRODUCT, ALONG_STRIPS)
        EACH_TILE_WIDTH(PRODUCT, ACROSS_STRIPS)
        EACH_TILE_WIDTH(PRODUCT, FEW_ROWS)
    }
}

#include "tile_update.h"

/* ------------------------------------------------------------------------------------------- packed forms */

#define pack JOIN(pack, REAL)
#define unpack JOIN(unpack, REAL)
#define transpose_block JOIN(transpose_block, REAL)
#define gather_panel JOIN(gather_panel, REAL)
#define scatter_panel JOIN(scatter_panel, REAL)

static void pack(ptrdiff_t n_rows, ptrdiff_t columns, const void *from, ptrdiff_t from_row, void *to,
                 ptrdiff_t to_row) {
    for (ptrdiff_t r = 0; r < n_rows; r++)
        for (ptrdiff_t j = 0; j < columns; j += LANES)
            store((REAL *)to + r * to_row + j, load_part((const REAL *)from + r * from_row + j, columns - j));
}

static void unpack(ptrdiff_t n_rows, ptrdiff_t columns, const void *from, ptrdiff_t from_row, void *to,
                   ptrdiff_t to_row) {
    for (ptrdiff_t r = 0; r < n_rows; r++)
        for (ptrdiff_t j = 0; j < columns; j += LANES)
            store_part((REAL *)to + r * to_row + j, columns - j, load((const REAL *)from + r * from_row + j));
}

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

static int gather_panel(ptrdiff_t n, const void *X, ptrdiff_t row, const int64_t *order, ptrdiff_t n_rows,
                        ptrdiff_t width, void *panel) {
    vec zeros[4] = {splat(0), splat(0), splat(0), splat(0)}; /* more than one, for each waits for itself */
    for (ptrdiff_t r = 0; r < width; r += LANES) {
        const REAL *rows[LANES];
        for (ptrdiff_t l = 0; l < LANES; l++) {
            const ptrdiff_t sample = r + l < n_rows ? r + l : n_rows - 1;
            rows[l] = (const REAL *)X + (order ? order[sample] : sample) * row;
        }
        for (ptrdiff_t j = 0; j < n; j += LANES) {
            REAL *target = (REAL *)panel + j * PITCH + r;
            vec block[LANES];
            UNROLL for (int l = 0; l < LANES; l++) {
                block[l] = load_part(rows[l] + j, n - j);
                zeros[l % 4] += 0 * block[l];
            }
            transpose_block(block);
            UNROLL for (int l = 0; l < LANES; l++)
                if (l < n - j)
                    store(target + l * PITCH, block[l]);
        }
    }
    return sum_lanes((zeros[0] + zeros[1]) + (zeros[2] + zeros[3])) == 0;
}

static void scatter_panel(ptrdiff_t n, const void *panel, ptrdiff_t n_rows, void *out, ptrdiff_t row, ptrdiff_t vector,
                          int fill) {
    for (ptrdiff_t j = 0; j < n; j += LANES)
        for (ptrdiff_t r = 0; r < n_rows; r += LANES) {
            const REAL *source = (const REAL *)panel + j * PITCH + r;
            REAL *target = (REAL *)out + r * row + j / LANES * vector;
            vec block[LANES];
            UNROLL for (int l = 0; l < LANES; l++)
                block[l] = l < n - j ? load(source + l * PITCH) : splat(0);
            transpose_block(block);
            UNROLL for (int l = 0; l < LANES; l++)
                if (l < n_rows - r)
                    store_part(target + l * row, fill ? LANES : n - j, block[l]);
        }
}

#include "tile_sample.h"

/* --------------------------------------------------------------------------------------------- activations */

#define activate_of JOIN(activate_of, REAL)
#define activate_row JOIN(activate_row, REAL)
#define row_vector JOIN(row_vector, REAL)
#define softmax JOIN(softmax, REAL)
#define softmax_panel JOIN(softmax_panel, REAL)
#define derive JOIN(derive, REAL)
#define through_activation JOIN(through_activation, REAL)
#define through_softmax JOIN(through_softmax, REAL)
#define through_softmax_panel JOIN(through_softmax_panel, REAL)

static INLINE void activate_of(const int code, ptrdiff_t n, const REAL *sums, const REAL *b, const Activation *f, REAL *a,
                                REAL *saved) {
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        vec z = load_part(sums + j, n - j), derivative;
        if (b)
            z += load_part(b + j, n - j);
        if (code < GELU || saved == NULL) {
            store_part(a + j, n - j, act(code, (REAL)f->parameter, z));
        } else {
            store_part(a + j, n - j, keep_derivative(code, (REAL)f->parameter, (REAL)f->at_zero, z, &derivative));
            store_part(saved + j, n - j, derivative);
        }
    }
}

static INLINE void derive(const int code, ptrdiff_t n, const REAL *a, const Activation *f, REAL *delta) {
    for (ptrdiff_t j = 0; j < n; j += LANES)
        store_part(delta + j, n - j,
                   times_derivative(code, (REAL)f->parameter, (REAL)f->at_zero, load_part(a + j, n - j),
                                    load_part(delta + j, n - j)));
}

#define EACH_ACTIVATION(ACTIVATION)                                                                                    \
    ACTIVATION(IDENTITY) ACTIVATION(RELU) ACTIVATION(LOGISTIC) ACTIVATION(TANH) ACTIVATION(SOFTMAX) ACTIVATION(EXP)    \
    ACTIVATION(LEAKY_RELU) ACTIVATION(ELU) ACTIVATION(SELU) ACTIVATION(SOFTPLUS) ACTIVATION(SIGN) ACTIVATION(GELU)     \
    ACTIVATION(SILU) ACTIVATION(RELU_AT_ZERO) ACTIVATION(KEPT)

#define DERIVE(code)                                                                                                   \
    case code:                                                                                                         \
        derive(code, n, a, activation, delta);                                                                         \
        break;

static void through_activation(ptrdiff_t n, const void *a, const Activation *activation, void *delta) {
    switch (activation->code) { EACH_ACTIVATION(DERIVE) }
}

#define ACTIVATE(code)                                                                                                 \
    case code:                                                                                                         \
        activate_of(code, n, sums, b, activation, a, saved);                                                          \
        break;

static void activate_row(ptrdiff_t n, const void *sums, const void *b, const Activation *activation, void *a, void *saved) {
    switch (activation->code) { EACH_ACTIVATION(ACTIVATE) }
    if (saved && activation->code < GELU) { /* derivatives by hand */
        for (ptrdiff_t j = 0; j < n; j += LANES)
            store_part((REAL *)saved + j, n - j, splat(1));
        through_activation(n, a, activation, saved);
    }
}

/* The vector of a row that begins at j: whole if the row is filled up, and with its filling set to `fill`. */
static INLINE vec row_vector(const REAL *row, ptrdiff_t j, ptrdiff_t n, int padded, REAL fill) {
    return first_lanes(padded ? load(row + j) : load_part(row + j, n - j), n - j, fill);
}

static void softmax(ptrdiff_t n, int padded, void *row) {
    REAL *a = row;
    vec largest = splat(-(REAL)INFINITY), total = splat(0);
    for (ptrdiff_t j = 0; j < n; j += LANES)
        largest = larger(row_vector(a, j, n, padded, -(REAL)INFINITY), largest);
    const vec shift = splat(largest_lane(largest));
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const vec e = first_lanes(exponential(row_vector(a, j, n, padded, 0) - shift), n - j, 0);
        store_part(a + j, padded ? LANES : n - j, e);
        total += e;
    }
    const vec inverse = 1 / splat(sum_lanes(total));
    for (ptrdiff_t j = 0; j < n; j += LANES)
        store_part(a + j, padded ? LANES : n - j, row_vector(a, j, n, padded, 0) * inverse);
}

/* The sums run as in `softmax`, whose lanes are the vectors of `partial` here: a sample's result is the same. */
static void softmax_panel(ptrdiff_t n, ptrdiff_t width, void *panel) {
    for (ptrdiff_t r = 0; r < width; r += LANES) {
        REAL *a = (REAL *)panel + r;
        vec largest = load(a), second = load(a + (n - 1) * PITCH), partial[LANES]; /* a maximum waits for itself */
        for (int l = 0; l < LANES; l++)
            partial[l] = splat(0);
        for (ptrdiff_t j = 1; j + 1 < n; j += 2) {
            largest = larger(load(a + j * PITCH), largest);
            second = larger(load(a + (j + 1) * PITCH), second);
        }
        largest = larger(second, largest);
        for (ptrdiff_t j = 0; j < n; j++) {
            const vec e = exponential(load(a + j * PITCH) - largest);
            store(a + j * PITCH, e);
            partial[j % LANES] += e;
        }
        UNROLL for (int half = LANES / 2; half; half /= 2)
            UNROLL for (int l = 0; l < half; l++)
                partial[l] += partial[l + half];
        const vec inverse = 1 / partial[0];
        for (ptrdiff_t j = 0; j < n; j++)
            store(a + j * PITCH, load(a + j * PITCH) * inverse);
    }
}

/* delta_i = a_i (delta_i - sum_j delta_j a_j). */
static void through_softmax(ptrdiff_t n, int padded, const void *row, void *error) {
    const REAL *a = row;
    REAL *delta = error;
    vec products = splat(0);
    for (ptrdiff_t j = 0; j < n; j += LANES)
        products += row_vector(a, j, n, padded, 0) * row_vector(delta, j, n, padded, 0);
    const vec mean = splat(sum_lanes(products));
    for (ptrdiff_t j = 0; j < n; j += LANES)
        store_part(delta + j, padded ? LANES : n - j,
                   (row_vector(delta, j, n, padded, 0) - mean) * row_vector(a, j, n, padded, 0));
}

static void through_softmax_panel(ptrdiff_t n, ptrdiff_t width, const void *panel, void *errors) {
    for (ptrdiff_t r = 0; r < width; r += LANES) {
        const REAL *a = (const REAL *)panel + r;
        REAL *delta = (REAL *)errors + r;
        vec mean = splat(0);
        for (ptrdiff_t here = 0; here < n * PITCH; here += PITCH)
            mean += load(a + here) * load(delta + here);
        for (ptrdiff_t here = 0; here < n * PITCH; here += PITCH)
            store(delta + here, (load(delta + here) - mean) * load(a + here));
    }
}

#include "tile_loss.h"
#include "tile_layers.h"

/* --------------------------------------------------------------------------------------------------- table */

#define sum_rows_of JOIN(sum_rows_of, REAL)
#define sum_rows JOIN(sum_rows, REAL)

static INLINE void sum_rows_of(const int n_vectors, ptrdiff_t n_rows, const REAL *A, ptrdiff_t row, ptrdiff_t vector,
                               REAL *sums) {
    vec total[TILE_VECTORS];
    UNROLL for (int v = 0; v < n_vectors; v++)
        total[v] = splat(0);
    for (ptrdiff_t r = 0; r < n_rows; r++)
        UNROLL for (int v = 0; v < n_vectors; v++)
            total[v] += load(A + r * row + v * vector);
    UNROLL for (int v = 0; v < n_vectors; v++)
        store(sums + v * LANES, total[v]);
}

#define SUM_ROWS(unused, vectors)                                                                                      \
    case vectors:                                                                                                      \
        sum_rows_of(vectors, n_rows, A, row, vector, sums);                                                            \
        break;

static void sum_rows(ptrdiff_t n_vectors, ptrdiff_t n_rows, const void *A, ptrdiff_t row, ptrdiff_t vector, void *sums) {
    switch (n_vectors) { EACH_TILE_WIDTH(SUM_ROWS, _) }
}

#define table JOIN(table, REAL)

static const Tiles table = {
    LANES,        product,      update,        pack,      unpack,   gather_panel,       scatter_panel,
    list_nonzero, fetch,         is_finite,     weighted_rows, row_products, add_outer, add_outer_forward,
    activate_row, softmax,
    softmax_panel, through_activation, through_softmax, through_softmax_panel, batch_moments, normalize,
    batch_norm_delta, maxout, maxout_delta, dropout, output_row, log_losses, output_panel, output_classes, sum_rows,
    apply, square_sum, rescale, move_average,
};
