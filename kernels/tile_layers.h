/* Batch normalisation, maxout and dropout, on batches in panels and in rows; included by tile.h.
 *
 * A sum over the batch is one unit's, and runs in an order that follows from the batch alone. */

#define panel_width JOIN(panel_width, REAL)
#define unit_total JOIN(unit_total, REAL)
#define batch_moments JOIN(batch_moments, REAL)
#define affine JOIN(affine, REAL)
#define normalize_panels JOIN(normalize_panels, REAL)
#define normalize JOIN(normalize, REAL)
#define delta_panels JOIN(delta_panels, REAL)
#define batch_norm_delta JOIN(batch_norm_delta, REAL)
#define is_larger JOIN(is_larger, REAL)
#define maxout JOIN(maxout, REAL)
#define maxout_delta JOIN(maxout_delta, REAL)
#define scale_quad JOIN(scale_quad, REAL)
#define scale_units JOIN(scale_units, REAL)
#define drop JOIN(drop, REAL)
#define dropout JOIN(dropout, REAL)

static INLINE ptrdiff_t panel_width(const Batch *batch, ptrdiff_t p) {
    return p < batch->n_wide ? batch->width : batch->width - LANES;
}

/* ------------------------------------------------------------------------------------- batch normalisation */

/* The sum over a batch in panels of one unit's x, of (x - shift)^2, or of x y. */
static INLINE REAL unit_total(const int kind, const Batch *batch, ptrdiff_t n, const REAL *x, const REAL *y, REAL shift) {
    vec total[TILE_VECTORS];
    ptrdiff_t left = batch->n;
    UNROLL for (int v = 0; v < TILE_VECTORS; v++)
        total[v] = splat(0);
    for (ptrdiff_t p = 0; p < batch->n_panels; p++) {
        const ptrdiff_t width = panel_width(batch, p);
        UNROLL for (int v = 0; v < TILE_VECTORS; v++)
            if (v * LANES < width) {
                vec term = load(x + v * LANES);
                if (kind == SQUARES)
                    term = (term - shift) * (term - shift);
                if (kind == PRODUCTS)
                    term = term * load(y + v * LANES);
                total[v] += left - v * LANES >= LANES ? term : first_lanes(term, left - v * LANES, 0);
            }
        left -= width;
        x += n * PITCH, y += n * PITCH;
    }
    return sum_lanes((total[0] + total[1]) + total[2]);
}

static void batch_moments(const Batch *batch, ptrdiff_t n, ptrdiff_t row, ptrdiff_t first, ptrdiff_t end, const void *from,
                          void *means, void *variances) {
    const REAL *z = from, count = (REAL)batch->n;
    REAL *mean = means, *variance = variances;
    for (ptrdiff_t u = first; batch->n_panels && u < end; u++) {
        const REAL *unit = z + u * PITCH;
        mean[u - first] = unit_total(PLAIN_SUM, batch, n, unit, unit, 0) / count;
        variance[u - first] = unit_total(SQUARES, batch, n, unit, unit, mean[u - first]) / count;
    }
    for (ptrdiff_t u = first; !batch->n_panels && u < end; u += LANES) {
        vec total = splat(0), squares = splat(0);
        for (ptrdiff_t r = 0; r < batch->n; r++)
            total += load_part(z + r * row + u, end - u);
        const vec center = total / count;
        for (ptrdiff_t r = 0; r < batch->n; r++) {
            const vec distance = load_part(z + r * row + u, end - u) - center;
            squares += distance * distance;
        }
        store_part(mean + u - first, end - u, center);
        store_part(variance + u - first, end - u, squares / count);
    }
}

/* gamma x + beta, always with one rounding less or always with one more: prediction has the bits of one row's. */
static INLINE vec affine(vec gamma, vec x, vec beta) {
    return gamma * x + beta;
}

static INLINE void normalize_panels(const int code, const Batch *batch, ptrdiff_t n, ptrdiff_t first, ptrdiff_t end,
                                    const REAL *z, const Affine *by, const Activation *f, REAL *normalized, REAL *a) {
    for (ptrdiff_t p = 0; p < batch->n_panels; p++)
        for (ptrdiff_t u = first; u < end; u++) {
            const ptrdiff_t here = (p * n + u) * PITCH, width = panel_width(batch, p), at = u - first;
            const vec mean = splat(((const REAL *)by->mean)[at]), rstd = splat(((const REAL *)by->rstd)[at]);
            const vec gamma = splat(((const REAL *)by->gamma)[at]), beta = splat(((const REAL *)by->beta)[at]);
            for (ptrdiff_t r = here; r < here + width; r += LANES) {
                const vec x = (load(z + r) - mean) * rstd;
                if (normalized)
                    store(normalized + r, x);
                store(a + r, act(code, 0, affine(gamma, x, beta)));
            }
            if (f->code != code)
                activate_row(width, a + here, NULL, f, a + here, NULL);
        }
}

static void normalize(const Batch *batch, ptrdiff_t n, ptrdiff_t row, ptrdiff_t first, ptrdiff_t end, const void *from,
                      const Affine *by, const Activation *f, void *normalized, void *to) {
    const REAL *z = from;
    REAL *a = to;
    if (batch->n_panels && f->code == RELU)
        normalize_panels(RELU, batch, n, first, end, z, by, f, normalized, a);
    else if (batch->n_panels)
        normalize_panels(IDENTITY, batch, n, first, end, z, by, f, normalized, a);
    for (ptrdiff_t r = 0; r < (batch->n_panels ? 0 : batch->n); r++) {
        for (ptrdiff_t u = first; u < end; u += LANES) {
            const ptrdiff_t here = r * row + u, rest = end - u, at = u - first;
            const vec mean = load_part((const REAL *)by->mean + at, rest), rstd = load_part((const REAL *)by->rstd + at, rest);
            const vec gamma = load_part((const REAL *)by->gamma + at, rest), beta = load_part((const REAL *)by->beta + at, rest);
            const vec x = (load_part(z + here, rest) - mean) * rstd;
            if (normalized)
                store_part((REAL *)normalized + here, rest, x);
            store_part(a + here, rest, affine(gamma, x, beta));
        }
        activate_row(end - first, a + r * row + first, NULL, f, a + r * row + first, NULL);
    }
}

static INLINE void delta_panels(const Batch *batch, ptrdiff_t n, const REAL *x, REAL factor, REAL mean_gamma, REAL mean_beta,
                                REAL *delta) {
    for (ptrdiff_t p = 0; p < batch->n_panels; p++, x += n * PITCH, delta += n * PITCH)
        for (ptrdiff_t r = 0; r < panel_width(batch, p); r += LANES)
            store(delta + r, factor * (load(delta + r) - (mean_gamma * load(x + r) + mean_beta)));
}

static void batch_norm_delta(const Batch *batch, ptrdiff_t n, ptrdiff_t row, ptrdiff_t first, ptrdiff_t end,
                             const void *normalized, const Affine *by, void *errors, void *sums_gamma, void *sums_beta) {
    const REAL *x = normalized, *gamma = by->gamma, *rstd = by->rstd, count = (REAL)batch->n;
    REAL *delta = errors, *of_gamma = sums_gamma, *of_beta = sums_beta;
    for (ptrdiff_t u = first; batch->n_panels && u < end; u++) {
        const ptrdiff_t here = u * PITCH, at = u - first;
        of_gamma[at] = unit_total(PRODUCTS, batch, n, delta + here, x + here, 0);
        of_beta[at] = unit_total(PLAIN_SUM, batch, n, delta + here, delta + here, 0);
        delta_panels(batch, n, x + here, gamma[at] * rstd[at], of_gamma[at] / count, of_beta[at] / count, delta + here);
    }
    for (ptrdiff_t u = first; !batch->n_panels && u < end; u += LANES) {
        const ptrdiff_t rest = end - u, at = u - first;
        const vec factor = load_part(gamma + at, rest) * load_part(rstd + at, rest);
        vec total = splat(0), products = splat(0);
        for (ptrdiff_t r = 0; r < batch->n; r++) {
            const vec error = load_part(delta + r * row + u, rest);
            total += error;
            products += error * load_part(x + r * row + u, rest);
        }
        for (ptrdiff_t r = 0; r < batch->n; r++) {
            const ptrdiff_t here = r * row + u;
            const vec mean = products / count * load_part(x + here, rest) + total / count;
            store_part(delta + here, rest, factor * (load_part(delta + here, rest) - mean));
        }
        store_part(of_gamma + at, rest, products);
        store_part(of_beta + at, rest, total);
    }
}

/* ------------------------------------------------------------------------------------------------- maxout */

/* NaN is larger than any number. */
static INLINE bits is_larger(vec y, vec x) {
    return (y > x) | ((y != y) & (x == x));
}

static void maxout(ptrdiff_t n, ptrdiff_t pieces, ptrdiff_t next, const void *from, void *to) {
    const REAL *z = from;
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        vec largest = load_part(z + j, n - j);
        for (ptrdiff_t k = 1; k < pieces; k++) {
            const vec piece = load_part(z + k * next + j, n - j);
            largest = choose(is_larger(piece, largest), piece, largest);
        }
        store_part((REAL *)to + j, n - j, largest);
    }
}

static void maxout_delta(ptrdiff_t n, ptrdiff_t pieces, ptrdiff_t next, const void *from, const void *errors, void *to) {
    const REAL *z = from, *delta = errors;
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        vec largest = load_part(z + j, n - j), which = splat(0);
        for (ptrdiff_t k = 1; k < pieces; k++) {
            const vec piece = load_part(z + k * next + j, n - j);
            const bits better = is_larger(piece, largest);
            largest = choose(better, piece, largest);
            which = choose(better, splat((REAL)k), which);
        }
        for (ptrdiff_t k = 0; k < pieces; k++)
            store_part((REAL *)to + k * next + j, n - j,
                       choose(which == splat((REAL)k), load_part(delta + j, n - j), splat(0)));
    }
}

/* ------------------------------------------------------------------------------------------------ dropout */

/* s of four units, for LANES samples from `sample` on. Where a lane has 32 bits, those of the even and of the odd samples are
 * drawn apart and slid into one another. */
static INLINE void scale_quad(ptrdiff_t quad, ptrdiff_t sample, const Masks *masks, REAL scale, vec factors[4]) {
    const int halves = LANES > LANES_double;
    const uint32_t last = last_kept(masks->probability);
    wide words[4], odd[4];
    draw(words, all_lanes((uint64_t)quad), counted((uint64_t)sample, halves ? 2 : 1), masks);
    if (halves)
        draw(odd, all_lanes((uint64_t)quad), counted((uint64_t)sample + 1, 2), masks);
    UNROLL for (int w = 0; w < 4; w++) {
        const wide word = (words[w] & 0xFFFFFFFFu) | (halves ? odd[w] << 32 : words[w] & 0);
        bits lanes;
#if HAS_VECTORS
        memcpy(&lanes, &word, sizeof lanes);
#else
        lanes = (integer)word;
#endif
        /* with 32 bits, as numbers with a sign, both are 2^31 less */
        if (sizeof(integer) == 4)
            lanes = (lanes ^ (integer)0x80000000u) > (integer)(last ^ 0x80000000u);
        else
            lanes = lanes > (integer)last;
        factors[w] = choose(lanes, splat(0), splat(scale));
    }
}

/* s of the units of one sample, from `unit` on: as many as four vectors of words. */
static INLINE void scale_units(ptrdiff_t unit, ptrdiff_t sample, const Masks *masks, REAL scale,
                               REAL factors[4 * LANES_double]) {
    const uint32_t last = last_kept(masks->probability);
    wide words[4];
    uint64_t lanes[LANES_double];
    draw(words, counted((uint64_t)unit / 4, 1), all_lanes((uint64_t)sample), masks);
    for (int w = 0; w < 4; w++) {
        memcpy(lanes, &words[w], sizeof lanes);
        for (int l = 0; l < LANES_double; l++)
            factors[4 * l + w] = (uint32_t)lanes[l] > last ? 0 : scale;
    }
}

/* n elements side by side. */
static INLINE void drop(ptrdiff_t n, const REAL *factors, const Activation *f, REAL *a, REAL *saved) {
    for (ptrdiff_t j = 0; saved && j < n; j += LANES) {
        const vec s = load_part(factors + j, n - j);
        store_part(saved + j, n - j, f->code >= GELU ? s * load_part(saved + j, n - j) : s);
    }
    if (saved && f->code < GELU)
        through_activation(n, a, f, saved);
    for (ptrdiff_t j = 0; j < n; j += LANES)
        store_part(a + j, n - j, load_part(factors + j, n - j) * load_part(a + j, n - j));
}

static void dropout(const Batch *batch, ptrdiff_t n, ptrdiff_t row, ptrdiff_t first, ptrdiff_t end, const Masks *masks,
                    const Activation *f, void *activations, void *kept) {
    REAL *a = activations, *saved = kept;
    const REAL scale = (REAL)(1 / masks->probability);
    ptrdiff_t sample = 0;
    for (ptrdiff_t p = 0; p < batch->n_panels; p++) {
        const ptrdiff_t width = panel_width(batch, p);
        for (ptrdiff_t u = first; u < end; u += 4) {
            ALIGNED REAL factors[4][PITCH];
            for (ptrdiff_t r = 0; r < width; r += LANES) {
                vec quad[4];
                scale_quad(u / 4, sample + r, masks, scale, quad);
                UNROLL for (int w = 0; w < 4; w++)
                    store(&factors[w][r], quad[w]);
            }
            for (ptrdiff_t w = 0; w < 4 && u + w < end; w++) {
                const ptrdiff_t here = (p * n + u + w) * PITCH;
                drop(width, factors[w], f, a + here, saved ? saved + here : NULL);
            }
        }
        sample += width;
    }
    for (; batch->n_panels == 0 && sample < batch->n; sample++)
        for (ptrdiff_t u = first; u < end; u += 4 * LANES_double) {
            ALIGNED REAL factors[4 * LANES_double];
            const ptrdiff_t here = sample * row + u, size = end - u < 4 * LANES_double ? end - u : 4 * LANES_double;
            scale_units(u, sample, masks, scale, factors);
            drop(size, factors, f, a + here, saved ? saved + here : NULL);
        }
}
