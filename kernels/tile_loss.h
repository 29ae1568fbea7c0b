/* Losses of vectors of REAL, of rows and panels, and their derivatives; included by tile.h. */

#define margin JOIN(margin, REAL)
#define losses JOIN(losses, REAL)
#define loss_derivative JOIN(loss_derivative, REAL)
#define output_row_of JOIN(output_row_of, REAL)
#define output_row JOIN(output_row, REAL)
#define log_losses JOIN(log_losses, REAL)
#define output_panel_of JOIN(output_panel_of, REAL)
#define output_panel JOIN(output_panel, REAL)
#define output_classes JOIN(output_classes, REAL)

/* Losses, output by output. What weighs 0 is left out, 0 log 0 = 0, and its logarithm not even taken where that holds for
 * the whole vector: most targets are 0 or 1. */
static INLINE vec losses(const int loss, vec a, vec y) {
    if (loss == NONE)
        return splat(0);
    if (loss == SQUARED_ERROR)
        return (REAL)0.5 * ((a - y) * (a - y));
    if (loss == POISSON)
        return (a - y) + choose(y == 0, y / a, y * logarithm(y / a)); /* 0 / 0 is NaN, as in scikit-learn */
    const vec p = between(margin, a, 1 - margin);
    vec sum = splat(0);
    if (any(y != 0))
        sum = choose(y == 0, sum, -y * logarithm(p));
    if (loss == BINARY_CROSS_ENTROPY && any(y != 1))
        sum += choose(y == 1, splat(0), (y - 1) * logarithm(1 - p));
    return sum;
}

/* d loss / d a, of the clipped probability. */
static INLINE vec loss_derivative(const int loss, vec a, vec y) {
    const vec p = between(margin, a, 1 - margin);
    switch (loss) {
    case CROSS_ENTROPY:
        return choose(y == 0, splat(0), -y / p);
    case BINARY_CROSS_ENTROPY:
        return (p - y) / (p * (1 - p));
    case POISSON:
        return 1 - choose(y == 0, splat(0), y / a);
    default:
        return a - y;
    }
}

static INLINE double output_row_of(const int loss, ptrdiff_t n, int padded, const Activation *f, const REAL *a,
                                   const REAL *y, REAL weight, REAL *delta) {
    const int by_output = f->code == IDENTITY;
    vec total = splat(0);
    for (ptrdiff_t j = 0; j < n; j += LANES) {
        const vec a_j = row_vector(a, j, n, padded, 1), y_j = row_vector(y, j, n, padded, 1);
        total += first_lanes(losses(loss, a_j, y_j), n - j, 0);
        store_part(delta + j, padded ? LANES : n - j,
                   weight * first_lanes(by_output ? loss_derivative(loss, a_j, y_j) : a_j - y_j, n - j, 0));
    }
    if (loss == SQUARED_ERROR && f->code == SOFTMAX)
        through_softmax(n, padded, a, delta);
    else if (loss == SQUARED_ERROR)
        through_activation(n, a, f, delta);
    return (double)weight * sum_lanes(total);
}

#define EACH_LOSS(LOSS) LOSS(NONE) LOSS(SQUARED_ERROR) LOSS(CROSS_ENTROPY) LOSS(BINARY_CROSS_ENTROPY) LOSS(POISSON)

#define OUTPUT_ROW(loss)                                                                                               \
    case loss:                                                                                                         \
        return output_row_of(loss, n, padded, activation, a, y, (REAL)weight, delta);

static double output_row(ptrdiff_t n, int padded, const Activation *activation, int loss, const void *a, const void *y,
                         double weight, void *delta) {
    switch (loss) { EACH_LOSS(OUTPUT_ROW) }
    return 0;
}

static void log_losses(ptrdiff_t n, const void *p, void *out) {
    for (ptrdiff_t j = 0; j < n; j += LANES)
        store_part((REAL *)out + j, n - j, losses(CROSS_ENTROPY, load_part((const REAL *)p + j, n - j), splat(1)));
}

static INLINE double output_panel_of(const int loss, ptrdiff_t n, ptrdiff_t width, ptrdiff_t n_rows, const Activation *f,
                                     const REAL *a, const REAL *y, const REAL *weight, REAL *delta) {
    const int by_output = f->code == IDENTITY && loss != SQUARED_ERROR;
    double sum = 0;
    for (ptrdiff_t r = 0; r < width; r += LANES) {
        const vec weights = weight ? load(weight + r) : splat(1);
        vec total = splat(0), p = splat(0), ones = splat(0), others = splat(0);
        for (ptrdiff_t here = r; here < n * PITCH; here += PITCH) {
            const vec a_j = load(a + here), y_j = load(y + here), excess = y_j * y_j - y_j;
            if (loss != CROSS_ENTROPY)
                total += losses(loss, a_j, y_j);
            p += y_j * a_j;
            ones += y_j;
            others += excess * excess;
            store(delta + here, weights * (by_output ? loss_derivative(loss, a_j, y_j) : a_j - y_j));
        }
        if (loss == CROSS_ENTROPY && !any((first_lanes(ones, n_rows - r, 1) != 1) | (others != 0)))
            total = losses(loss, p, splat(1)); /* each sample has one class: one logarithm for all of its outputs */
        else if (loss == CROSS_ENTROPY)
            for (ptrdiff_t here = r; here < n * PITCH; here += PITCH)
                total += losses(loss, load(a + here), load(y + here));
        sum += sum_lanes(first_lanes(weights * total, n_rows - r, 0));
    }
    if (loss == SQUARED_ERROR && f->code == SOFTMAX)
        through_softmax_panel(n, width, a, delta);
    else if (loss == SQUARED_ERROR)
        for (ptrdiff_t j = 0; j < n; j++)
            through_activation(width, a + j * PITCH, f, delta + j * PITCH);
    return sum;
}

#define OUTPUT_PANEL(loss)                                                                                             \
    case loss:                                                                                                         \
        return output_panel_of(loss, n, width, n_rows, activation, a, y, weight, delta);

static double output_panel(ptrdiff_t n, ptrdiff_t width, ptrdiff_t n_rows, const Activation *activation, int loss,
                           const void *a, const void *y, const void *weight, void *delta) {
    switch (loss) { EACH_LOSS(OUTPUT_PANEL) }
    return 0;
}

/* delta = weight a everywhere, and weight (a - 1) where a sample's class is: little, if it comes in place of a. */
static double output_classes(ptrdiff_t n, ptrdiff_t width, ptrdiff_t n_rows, const void *a, const void *classes,
                             const void *weight, void *delta) {
    const REAL *a_of = a, *class = classes, *weight_of = weight;
    REAL *delta_of = delta, p[LANES];
    double sum = 0;
    for (ptrdiff_t r = 0; r < width; r += LANES) {
        const vec weights = weight ? load(weight_of + r) : splat(1);
        for (ptrdiff_t sample = r; sample < r + LANES; sample++)
            p[sample - r] = a_of[(ptrdiff_t)class[sample] * PITCH + sample];
        if (weight || delta != a)
            for (ptrdiff_t here = r; here < n * PITCH; here += PITCH)
                store(delta_of + here, weights * load(a_of + here));
        const vec p_class = load(p);
        store(p, weights * (p_class - 1));
        for (ptrdiff_t sample = r; sample < r + LANES; sample++)
            delta_of[(ptrdiff_t)class[sample] * PITCH + sample] = p[sample - r];
        sum += sum_lanes(first_lanes(weights * losses(CROSS_ENTROPY, p_class, splat(1)), n_rows - r, 0));
    }
    return sum;
}
