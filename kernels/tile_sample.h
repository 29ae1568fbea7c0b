/* Products and updates for one sample, over the inputs or units that are listed; included by tile.h. */

#define list_nonzero JOIN(list_nonzero, REAL)
#define fetch JOIN(fetch, REAL)
#define is_finite JOIN(is_finite, REAL)
#define A_FEW (LANES < 4 ? LANES : LANES / 4)
#define sum_vectors JOIN(sum_vectors, REAL)
#define weighted_rows_of JOIN(weighted_rows_of, REAL)
#define weighted_rows JOIN(weighted_rows, REAL)
#define row_products_of JOIN(row_products_of, REAL)
#define row_products JOIN(row_products, REAL)
#define add_outer_of JOIN(add_outer_of, REAL)
#define add_outer JOIN(add_outer, REAL)
#define add_outer_forward_of JOIN(add_outer_forward_of, REAL)
#define add_outer_forward JOIN(add_outer_forward, REAL)

static ptrdiff_t list_nonzero(ptrdiff_t n, const void *row, const void *other_row, int32_t *list) {
    const REAL *x = row, *other = other_row;
    ptrdiff_t found = 0;
#ifdef LIST_NONZERO_float
    for (ptrdiff_t j = 0; j < n; j += LANES)
        found += JOIN(LIST_NONZERO, REAL)(load_part(x + j, n - j), load_part(other + j, n - j), (int32_t)j, list + found);
#else
    for (ptrdiff_t j = 0; j < n; j++) {
        list[found] = (int32_t)j; /* overwritten by the next one unless it counts: no branch to guess */
        found += (x[j] != 0) | (other[j] != 0);
    }
#endif
    return found;
}

static void fetch(ptrdiff_t n, const void *x) {
    const char *first = x, *stop = (const char *)((const REAL *)x + n);
    for (const char *line = first; line < stop; line += CACHE_LINE)
        PREFETCH(line);
    PREFETCH(stop - 1); /* rows begin anywhere in a line */
}

static int is_finite(ptrdiff_t n, const void *row) {
    vec zeros = splat(0);
    for (ptrdiff_t j = 0; j < n; j += LANES)
        zeros += 0 * load_part((const REAL *)row + j, n - j);
    return !any(zeros != 0);
}

static INLINE void weighted_rows_of(const int n_vectors, ptrdiff_t n_listed, const int32_t *list, const REAL *x,
                                    const REAL *W, ptrdiff_t w_row, ptrdiff_t w_vector, ptrdiff_t columns,
                                    REAL *sums) {
    const int last = n_vectors - 1;
    vec total[ROW_VECTORS];
    UNROLL for (int v = 0; v < n_vectors; v++)
        total[v] = splat(0);
    for (ptrdiff_t t = 0; t < n_listed; t++) {
        const REAL *w = W + list[t] * w_row;
        const vec factor = splat(x[list[t]]);
        UNROLL for (int v = 0; v < last; v++)
            total[v] += factor * load(w + v * w_vector);
        total[last] += factor * load_part(w + last * w_vector, columns - last * LANES);
    }
    UNROLL for (int v = 0; v < n_vectors; v++)
        store(sums + v * LANES, total[v]);
}

#define EACH_WIDTH(WIDTH) WIDTH(1) WIDTH(2) WIDTH(3) WIDTH(4) WIDTH(5) WIDTH(6) WIDTH(7) WIDTH(8)

#define WEIGHTED_ROWS(vectors)                                                                                         \
    case vectors:                                                                                                      \
        weighted_rows_of(vectors, n_listed, list, x, weights, w_row, w_vector, n - o, (REAL *)sums + o);               \
        break;

static void weighted_rows(ptrdiff_t n_listed, const int32_t *list, const void *x, const void *W, ptrdiff_t w_row,
                          ptrdiff_t w_vector, ptrdiff_t n, void *sums) {
    for (ptrdiff_t o = 0; o < n; o += ROW_VECTORS * LANES) {
        const REAL *weights = (const REAL *)W + o / LANES * w_vector;
        const ptrdiff_t n_vectors = (n - o + LANES - 1) / LANES;
        switch (n_vectors < ROW_VECTORS ? n_vectors : ROW_VECTORS) { EACH_WIDTH(WEIGHTED_ROWS) }
    }
}

/* Return the sum of each of n_rows vectors, over and over: neighbours zipped and added, log2(LANES) times. */
static INLINE vec sum_vectors(const int n_rows, vec x[LANES]) {
#if HAS_VECTORS
    UNROLL for (int half = LANES / 2; half; half /= 2)
        UNROLL for (int j = 0; j < (half < n_rows ? half : n_rows); j++) {
            const vec other = x[j + half < n_rows ? j + half : j];
            x[j] = ZIP(LOW, x[j], other) + ZIP(HIGH, x[j], other);
        }
#endif
    return x[0];
}

/* The products of n_rows rows, of which n_listed count. */
static INLINE void row_products_of(const int n_rows, ptrdiff_t n_listed, const int32_t *list, const REAL *d,
                                   const REAL *W, ptrdiff_t n_in, ptrdiff_t n, REAL *products) {
    vec total[LANES];
    ALIGNED REAL lanes[LANES];
    UNROLL for (int l = 0; l < n_rows; l++)
        total[l] = splat(0);
    ptrdiff_t j = 0;
    do { /* n is not 0: were the loop one that may not run, the sums would lie in memory */
        const vec factor = load(d + j);
        UNROLL for (int l = 0; l < n_rows; l++)
            total[l] += factor * load(W + list[l] * LANES + j * n_in);
    } while ((j += LANES) < n);
    store(lanes, sum_vectors(n_rows, total));
    for (int l = 0; l < n_rows && l < n_listed; l++)
        products[list[l]] = lanes[l];
}

static void row_products(ptrdiff_t n_listed, const int32_t *list, const void *delta, const void *W, ptrdiff_t n_in,
                         ptrdiff_t n, void *products) {
    int32_t rest[LANES];
    for (; n_listed >= LANES; n_listed -= LANES, list += LANES)
        row_products_of(LANES, LANES, list, delta, W, n_in, n, products);
    if (!n_listed)
        return;
    for (int l = 0; l < LANES; l++)
        rest[l] = list[l < n_listed ? l : 0]; /* in memory: of rows known to be one the compiler keeps a product, unfused */
    if (n_listed > A_FEW)
        row_products_of(LANES, n_listed, rest, delta, W, n_in, n, products);
    else
        row_products_of(A_FEW, n_listed, rest, delta, W, n_in, n, products);
}

/* All loads of a row come before its stores: strips that are a multiple of 4 KB apart look alike to the processor, which
 * lets a load wait for a store to what may be its place. */
static INLINE void add_outer_of(const int n_vectors, ptrdiff_t n_listed, const int32_t *list, REAL scale, const REAL *x,
                                const REAL *d, REAL *W, ptrdiff_t w_vector) {
    vec addends[ROW_VECTORS], changed[ROW_VECTORS];
    UNROLL for (int v = 0; v < n_vectors; v++)
        addends[v] = load(d + v * LANES);
    for (ptrdiff_t t = 0; t < n_listed; t++) {
        REAL *w = W + list[t] * LANES;
        const vec factor = splat(scale * x[list[t]]);
        UNROLL for (int v = 0; v < n_vectors; v++)
            changed[v] = load(w + v * w_vector) + factor * addends[v];
        UNROLL for (int v = 0; v < n_vectors; v++)
            store(w + v * w_vector, changed[v]);
    }
}

#define ADD_OUTER(vectors)                                                                                             \
    case vectors:                                                                                                      \
        add_outer_of(vectors, n_listed, list, (REAL)scale, x, (const REAL *)d + o, (REAL *)W + o * n_in, LANES * n_in); \
        break;

static void add_outer(ptrdiff_t n_listed, const int32_t *list, double scale, const void *x, const void *d, void *W,
                      ptrdiff_t n_in, ptrdiff_t n) {
    for (ptrdiff_t o = 0; o < n; o += ROW_VECTORS * LANES) {
        const ptrdiff_t n_vectors = (n - o + LANES - 1) / LANES;
        switch (n_vectors < ROW_VECTORS ? n_vectors : ROW_VECTORS) { EACH_WIDTH(ADD_OUTER) }
    }
}

/* Half as many vectors at a time as in add_outer: each of them takes two registers. */
static INLINE void add_outer_forward_of(const int n_vectors, ptrdiff_t n_listed, const int32_t *list, REAL scale,
                                        const REAL *x, const REAL *d, const REAL *next, REAL *W, ptrdiff_t w_vector,
                                        REAL *sums) {
    vec addends[ROW_VECTORS / 2], changed[ROW_VECTORS / 2], total[ROW_VECTORS / 2];
    UNROLL for (int v = 0; v < n_vectors; v++) {
        addends[v] = load(d + v * LANES);
        total[v] = splat(0);
    }
    for (ptrdiff_t t = 0; t < n_listed; t++) {
        REAL *w = W + list[t] * LANES;
        const vec factor = splat(scale * x[list[t]]), next_factor = splat(next[list[t]]);
        UNROLL for (int v = 0; v < n_vectors; v++)
            changed[v] = load(w + v * w_vector) + factor * addends[v];
        UNROLL for (int v = 0; v < n_vectors; v++) {
            store(w + v * w_vector, changed[v]);
            total[v] += next_factor * changed[v];
        }
    }
    UNROLL for (int v = 0; v < n_vectors; v++)
        store(sums + v * LANES, total[v]);
}

#define ADD_OUTER_FORWARD(vectors)                                                                                     \
    case vectors:                                                                                                      \
        add_outer_forward_of(vectors, n_listed, list, (REAL)scale, x, (const REAL *)d + o, next, (REAL *)W + o * n_in, \
                             LANES * n_in, (REAL *)sums + o);                                                          \
        break;

static void add_outer_forward(ptrdiff_t n_listed, const int32_t *list, double scale, const void *x, const void *d,
                              const void *next, void *W, ptrdiff_t n_in, ptrdiff_t n, void *sums) {
    for (ptrdiff_t o = 0; o < n; o += ROW_VECTORS / 2 * LANES) {
        const ptrdiff_t n_vectors = (n - o + LANES - 1) / LANES;
        switch (n_vectors < ROW_VECTORS / 2 ? n_vectors : ROW_VECTORS / 2) {
            ADD_OUTER_FORWARD(1) ADD_OUTER_FORWARD(2) ADD_OUTER_FORWARD(3) ADD_OUTER_FORWARD(4)
        }
    }
}
