/* Optimisers, and the update of a layer tile by tile, for vectors of REAL; included by tile.h. */

#define Rates JOIN(Rates, REAL)
#define rates_of JOIN(rates_of, REAL)
#define apply_rule JOIN(apply_rule, REAL)
#define clipped JOIN(clipped, REAL)
#define apply_flat JOIN(apply_flat, REAL)
#define apply JOIN(apply, REAL)
#define square_sum JOIN(square_sum, REAL)
#define rescale JOIN(rescale, REAL)
#define move_average JOIN(move_average, REAL)
#define Waiting JOIN(Waiting, REAL)
#define finish_vector JOIN(finish_vector, REAL)
#define finish_tile JOIN(finish_tile, REAL)
#define prefetch_tile JOIN(prefetch_tile, REAL)
#define fetch_ahead JOIN(fetch_ahead, REAL)
#define rows_of_next JOIN(rows_of_next, REAL)
#define update_tile JOIN(update_tile, REAL)
#define update_of JOIN(update_of, REAL)
#define Entry JOIN(Entry, REAL)
#define sum_entries JOIN(sum_entries, REAL)
#define update_entries_of JOIN(update_entries_of, REAL)
#define update JOIN(update, REAL)

/* A Step as vectors. They stay in memory, where an operation reads them for nothing: the registers are for sums. */
typedef struct {
    vec scale, l2, keep, rate, momentum, beta_1, rest_1, beta_2, rest_2, epsilon, kept, grad_rate;
} Rates;

static INLINE void rates_of(const Step *step, double scale, Rates *rates) {
    rates->scale = splat((REAL)scale), rates->l2 = splat((REAL)step->l2), rates->keep = splat((REAL)step->keep);
    rates->rate = splat((REAL)step->rate), rates->momentum = splat((REAL)step->momentum);
    rates->beta_1 = splat((REAL)step->beta_1), rates->rest_1 = splat((REAL)(1 - step->beta_1));
    rates->beta_2 = splat((REAL)step->beta_2), rates->rest_2 = splat((REAL)(1 - step->beta_2));
    rates->epsilon = splat((REAL)step->epsilon), rates->kept = splat((REAL)(1 - step->decay));
    rates->grad_rate = splat((REAL)step->grad_rate);
    IN_MEMORY(rates);
}

/* Apply an optimiser to the first n lanes of a vector of parameters; with NONE keep their gradient in `param`: there what
 * stood is not even read if `keep` is 0, for it may be NaN. */
static INLINE void apply_rule(const int rule, const Step *step, const Rates *rates, vec g, ptrdiff_t n, REAL *param,
                              REAL *m, REAL *v) {
    if (rule == NONE) {
        store_part(param, n, step->keep != 0 ? g + rates->keep * load_part(param, n) : g);
    } else if (rule == SGD) {
        store_part(param, n, load_part(param, n) - rates->rate * g);
    } else if (rule == ADAM || rule == NADAM) {
        const vec m_new = rates->beta_1 * load_part(m, n) + rates->rest_1 * g;
        const vec v_new = rates->beta_2 * load_part(v, n) + rates->rest_2 * (g * g);
        const vec kept = rates->kept * load_part(param, n);
        const vec change = rule == ADAM ? rates->rate * m_new : rates->rate * m_new + rates->grad_rate * g;
        store_part(m, n, m_new);
        store_part(v, n, v_new);
        store_part(param, n, kept - change / (root(v_new) + rates->epsilon));
    } else if (rule == RMSPROP || rule == ADAGRAD) {
        const vec old = load_part(v, n), kept = rates->kept * load_part(param, n);
        const vec v_new = rule == ADAGRAD ? old + g * g : rates->beta_2 * old + rates->rest_2 * (g * g);
        store_part(v, n, v_new);
        store_part(param, n, kept - rates->rate * g / (root(v_new) + rates->epsilon));
    } else {
        const vec velocity = rates->momentum * load_part(m, n) - rates->rate * g;
        const vec step_taken = rule == NESTEROV ? rates->momentum * velocity - rates->rate * g : velocity;
        store_part(m, n, velocity);
        store_part(param, n, load_part(param, n) + step_taken);
    }
}

static INLINE vec clipped(const int rule, const Step *step, vec g) {
    return rule != NONE && step->clip != 0 ? between((REAL)-step->clip, g, (REAL)step->clip) : g;
}

static INLINE void apply_flat(const int rule, const Step *step, const Rates *rates, ptrdiff_t n, const REAL *grad,
                              REAL *param, REAL *m, REAL *v) {
    for (ptrdiff_t j = 0; j < n; j += LANES)
        apply_rule(rule, step, rates, clipped(rule, step, rates->scale * load_part(grad + j, n - j)), n - j, param + j,
                   m + j, v + j);
}

#define EACH_RULE(RULE)                                                                                                \
    RULE(NONE) RULE(SGD) RULE(MOMENTUM) RULE(NESTEROV) RULE(ADAM) RULE(NADAM) RULE(RMSPROP) RULE(ADAGRAD)

#define APPLY(rule)                                                                                                    \
    case rule:                                                                                                         \
        apply_flat(rule, step, &rates, n, grad, param, m, v);                                                          \
        break;

static void apply(int rule, const Step *step, double scale, ptrdiff_t n, const void *grad, void *param, void *m,
                  void *v) {
    Rates rates;
    rates_of(step, scale, &rates);
    switch (rule) { EACH_RULE(APPLY) }
}

static double square_sum(ptrdiff_t n, const void *x) {
    vec sums[4] = {splat(0), splat(0), splat(0), splat(0)}; /* more than one, for each waits for itself */
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const vec value = load_part((const REAL *)x + j, n - j);
        sums[j / LANES % 4] += value * value;
    }
    return (double)sum_lanes((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

static void rescale(ptrdiff_t n, double factor, void *x) {
    for (ptrdiff_t j = 0; j < n; j += LANES)
        store_part((REAL *)x + j, n - j, (REAL)factor * load_part((REAL *)x + j, n - j));
}

static void move_average(ptrdiff_t n, double rest, const void *x, void *mean) {
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const vec old = load_part((REAL *)mean + j, n - j);
        store_part((REAL *)mean + j, n - j, old + (REAL)rest * (load_part((const REAL *)x + j, n - j) - old));
    }
}

/* A tile whose sums are complete, how many of its vectors the optimiser has taken, and the sums of W^2 of those. */
typedef struct {
    ptrdiff_t row, n_rows, n_vectors, taken;
    vec sums[TILE_VECTORS * MAX_ROWS], squares;
} Waiting;

/* The optimiser on the next vector of a tile that waits. `may_clip` is 0 where gradients are not clipped: in the loop over
 * the next tile's sums, which has no register to spare. */
static INLINE void finish_vector(const int rule, const int may_clip, const Step *step, const Rates *rates, const Update *u,
                                 Waiting *tile) {
    const ptrdiff_t v = tile->taken / MAX_ROWS, r = tile->taken % MAX_ROWS;
    const ptrdiff_t here = v * u->w_vector + (tile->row + r) * LANES;
    vec g = tile->sums[tile->taken];
    if (step->l2 != 0) {
        const vec w = load((const REAL *)u->W + here);
        g += rates->l2 * w;
        tile->squares += w * w;
    }
    g = rates->scale * g;
    apply_rule(rule, step, rates, may_clip ? clipped(rule, step, g) : g, LANES, (REAL *)u->param + here,
               (REAL *)u->m + here, (REAL *)u->v + here);
    tile->taken += r + 1 < tile->n_rows ? 1 : MAX_ROWS - r;
}

static INLINE void finish_tile(const int rule, const Step *step, const Rates *rates, const Update *u, Waiting *tile) {
    while (tile->taken < tile->n_vectors * MAX_ROWS)
        finish_vector(rule, 1, step, rates, u, tile);
    if (step->l2 != 0 && tile->n_vectors)
        u->squares[tile->row / GRAIN] += sum_lanes(tile->squares);
    tile->squares = splat(0);
}

/* What the optimiser will read of a tile, one array a panel. Weights alone come soon enough without. */
static INLINE void prefetch_tile(const int rule, const int n_rows, const int n_vectors, const Update *u, ptrdiff_t row,
                                 ptrdiff_t panel) {
    const REAL *states[] = {u->param, rule == RMSPROP || rule == ADAGRAD ? u->v : u->m, u->v};
    const int n_states = rule == ADAM || rule == NADAM ? 3 : rule > SGD ? 2 : 0;
    const ptrdiff_t last = u->batch.n_panels - 1;
    UNROLL for (int s = 0; s < n_states; s++)
        if (panel == (s < last ? s : last))
            UNROLL for (int v = 0; v < n_vectors; v++)
                UNROLL for (int r = 0; r < n_rows; r++)
                    PREFETCH(states[s] + v * u->w_vector + (row + r) * LANES);
}

static INLINE void fetch_ahead(Ahead *a) {
    ptrdiff_t rest = a->bytes;
    while (rest > 0 && a->source < a->n_sources) {
        const ptrdiff_t row_bytes = a->sources[a->source].row_bytes;
        const char *x = (const char *)a->sources[a->source].start + a->order[a->row] * row_bytes;
        const ptrdiff_t stop = rest < row_bytes - a->byte ? a->byte + rest : row_bytes;
        for (ptrdiff_t byte = a->byte; byte < stop; byte += CACHE_LINE)
            PREFETCH(x + byte);
        rest -= stop - a->byte;
        a->byte = stop;
        if (stop == row_bytes) {
            PREFETCH(x + stop - 1); /* rows begin anywhere in a line */
            a->byte = 0, a->row++;
        }
        if (a->row == a->n_rows)
            a->row = 0, a->source++;
    }
}

/* How many rows the next tile has if `rest` remain. A sum waits for itself, so that less than eight of them take as long as
 * eight: a tile with rows to spare, whose sums are dropped, is faster than several small ones. What the spare rows read
 * lies in the room of the batch (`room` of contract.py). */
static INLINE int rows_of_next(const int n_vectors, ptrdiff_t rest) {
    if (MAX_ROWS >= 8 && rest > (n_vectors < TILE_VECTORS ? 4 : 6))
        return 8;
    if (MAX_ROWS >= 4 && rest > 2)
        return 4;
    return MAX_ROWS >= 2 && rest > 1 ? 2 : 1;
}

/* While the sums of a tile are formed, an optimiser that takes roots takes the tile before it, vector by vector: it waits
 * for square roots and divisions, not for the units that multiply. */
static INLINE void update_tile(const int rule, const int form, const int n_rows, const int n_vectors, const Step *step,
                               const Rates *rates, const Update *u, ptrdiff_t row, Waiting *before) {
    const ptrdiff_t rows_left = n_rows < u->end - row ? n_rows : u->end - row;
    const ptrdiff_t a_row = form == FEW_ROWS ? 1 : PITCH, a_k = form == FEW_ROWS ? u->n_in : 1;
    const ptrdiff_t d_k = form == FEW_ROWS ? u->d_next : LANES, d_vector = form == FEW_ROWS ? LANES : u->d_next;
    const ptrdiff_t end = step->clip != 0 ? 0 : before->n_vectors * MAX_ROWS, pause = u->batch.n / (TILE_VECTORS * MAX_ROWS) + 1;
    const REAL *A = (const REAL *)u->a_prev + row * a_row, *D = u->delta;
    vec sums[TILE_ROWS][TILE_VECTORS], columns[TILE_VECTORS];
    ptrdiff_t rest = u->batch.n, panel = 0;
    if (u->ahead)
        fetch_ahead(u->ahead);
    UNROLL for (int r = 0; r < n_rows; r++)
        UNROLL for (int v = 0; v < n_vectors; v++)
            sums[r][v] = splat(0);
    while (rest > 0) {
        const ptrdiff_t width = panel < u->batch.n_wide ? u->batch.width : u->batch.width - LANES;
        const ptrdiff_t length = form == FEW_ROWS || rest < width ? rest : width;
        const REAL *a = A, *last = A + length * a_k;
        if (form != FEW_ROWS)
            prefetch_tile(rule, n_rows, n_vectors, u, row + n_rows, panel);
        while (a < last) {
            const REAL *stop = rule >= ADAM && last - a > pause * a_k ? a + pause * a_k : last;
            for (; a < stop; a += a_k, D += d_k) {
                UNROLL for (int v = 0; v < n_vectors; v++)
                    columns[v] = load(D + v * d_vector);
                UNROLL for (int r = 0; r < n_rows; r++) {
                    const vec x = splat(a[r * a_row]);
                    UNROLL for (int v = 0; v < n_vectors; v++)
                        sums[r][v] += x * columns[v];
                }
            }
            if (rule >= ADAM && before->taken < end)
                finish_vector(rule, 0, step, rates, u, before);
        }
        A += u->n_in * PITCH;
        rest -= length;
        panel++;
    }
    finish_tile(rule, step, rates, u, before);
    if (rule == SGD && step->l2 == 0 && step->clip == 0 && rows_left == n_rows) {
        UNROLL for (int v = 0; v < n_vectors; v++)
            UNROLL for (int r = 0; r < n_rows; r++) {
                REAL *w = (REAL *)u->param + v * u->w_vector + (row + r) * LANES;
                store(w, load(w) - rates->rate * (rates->scale * sums[r][v]));
            }
        return;
    }
    UNROLL for (int v = 0; v < n_vectors; v++)
        UNROLL for (int r = 0; r < n_rows; r++)
            before->sums[v * MAX_ROWS + r] = sums[r][v];
    before->row = row, before->n_rows = rows_left, before->n_vectors = n_vectors, before->taken = 0;
}

static INLINE void update_of(const int rule, const int form, const int n_vectors, const Update *u) {
    const Update fixed = *u; /* the stores cannot change it */
    const Step step = *u->step;
    ptrdiff_t row = fixed.first;
    Rates rates;
    Waiting last;
    rates_of(&step, step.grad_scale, &rates);
    last.row = last.n_rows = last.n_vectors = last.taken = 0;
    last.squares = splat(0);
#define TILE(rows)                                                                                                     \
    case rows:                                                                                                         \
        if (rows <= MAX_ROWS)                                                                                          \
            update_tile(rule, form, rows, n_vectors, &step, &rates, &fixed, row, &last);                               \
        break;
    for (int n_rows; row < fixed.end; row += n_rows)
        switch (n_rows = rows_of_next(n_vectors, fixed.end - row)) { TILE(8) TILE(4) TILE(2) TILE(1) }
#undef TILE
    finish_tile(rule, &step, &rates, &fixed, &last);
}

typedef struct {
    REAL value;
    integer sample;
} Entry;

/* The gradient of an input: the sum over its entries ascends over the samples, as it does where zeros are added, too. */
static INLINE void sum_entries(const int n_vectors, const Update *u, ptrdiff_t row, vec sums[TILE_VECTORS]) {
    const ptrdiff_t d_k = u->batch.n_panels ? LANES : u->d_next, d_vector = u->batch.n_panels ? u->d_next : LANES;
    const Entry *entry = (const Entry *)u->columns->entries + u->columns->start[row];
    const Entry *stop = entry + u->columns->count[row];
    UNROLL for (int v = 0; v < n_vectors; v++)
        sums[v] = splat(0);
    for (; entry < stop; entry++) {
        const vec x = splat(entry->value);
        UNROLL for (int v = 0; v < n_vectors; v++)
            sums[v] += x * load((const REAL *)u->delta + entry->sample * d_k + v * d_vector);
    }
}

/* Plain descent changes the weights of those inputs that have entries, any other rule all of them. */
static INLINE void update_entries_of(const int rule, const int n_vectors, const Update *u) {
    const Update fixed = *u; /* the stores cannot change it */
    const Step step = *u->step;
    vec sums[TILE_VECTORS];
    Rates rates;
    rates_of(&step, step.grad_scale, &rates);
    if (rule == SGD && step.l2 == 0 && step.clip == 0) {
        for (ptrdiff_t t = 0; t < fixed.columns->n_inputs; t++) {
            const ptrdiff_t row = fixed.columns->inputs[t];
            sum_entries(n_vectors, &fixed, row, sums);
            UNROLL for (int v = 0; v < n_vectors; v++) {
                REAL *w = (REAL *)fixed.param + v * fixed.w_vector + row * LANES;
                store(w, load(w) - rates.rate * (rates.scale * sums[v]));
            }
        }
        return;
    }
    Waiting tile;
    tile.row = fixed.first, tile.n_vectors = n_vectors, tile.squares = splat(0);
    while (tile.row < fixed.end) {
        const ptrdiff_t rest = fixed.end - tile.row, n_rows = rows_of_next(n_vectors, rest);
        tile.taken = 0, tile.n_rows = n_rows < rest ? n_rows : rest; /* those of `update_tile` */
        for (ptrdiff_t r = 0; r < tile.n_rows; r++) {
            sum_entries(n_vectors, &fixed, tile.row + r, sums);
            UNROLL for (int v = 0; v < n_vectors; v++)
                tile.sums[v * MAX_ROWS + r] = sums[v];
        }
        finish_tile(rule, &step, &rates, &fixed, &tile);
        tile.row += tile.n_rows;
    }
}

#define UPDATE_STRIPS(rule, vectors)                                                                                   \
    case ACROSS_STRIPS * (TILE_VECTORS + 1) + vectors:                                                                 \
        update_of(rule, ACROSS_STRIPS, vectors, u);                                                                    \
        break;

#define UPDATE_ROWS(rule, vectors)                                                                                     \
    case FEW_ROWS * (TILE_VECTORS + 1) + vectors:                                                                      \
        update_of(rule, FEW_ROWS, vectors, u);                                                                         \
        break;

#define UPDATE_ENTRIES(rule, vectors)                                                                                  \
    case ENTRIES * (TILE_VECTORS + 1) + vectors:                                                                       \
        update_entries_of(rule, vectors, u);                                                                           \
        break;

/* A function for each rule: in one that holds them all compilers give up on keeping sums in registers. */
#define UPDATE_BY(rule)                                                                                                \
    static NOINLINE void JOIN(update_by_##rule, REAL)(int form, ptrdiff_t n_vectors, const Update *u) {                \
        switch (form * (TILE_VECTORS + 1) + n_vectors) {                                                               \
            EACH_TILE_WIDTH(UPDATE_STRIPS, rule)                                                                       \
            EACH_TILE_WIDTH(UPDATE_ROWS, rule)                                                                         \
            EACH_TILE_WIDTH(UPDATE_ENTRIES, rule)                                                                      \
        }                                                                                                              \
    }

EACH_RULE(UPDATE_BY)

#define UPDATE(rule)                                                                                                   \
    case rule:                                                                                                         \
        JOIN(update_by_##rule, REAL)(form, n_vectors, u);                                                              \
        break;

static void update(int form, ptrdiff_t n_vectors, const Update *u) {
    switch (u->rule) { EACH_RULE(UPDATE) }
}
