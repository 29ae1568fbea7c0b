/* Activation functions on vectors of REAL, included by tile.h.
 *
 * x is split into n ln 2 + r with |r| <= ln 2 / 2; then exp(x) = 2^n (1 + r + r^2 p(r)), where p is a Chebyshev
 * polynomial. For the logarithm x = 2^n (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), and log(1 + f) =
 * 2 atanh(s) = 2 s + s^3 q(s^2) for s = f / (2 + f), q another one. The largest errors stand in the tests. */

#ifndef FASTBP_TILE_MATH_H
#define FASTBP_TILE_MATH_H

/* The highest power first. */
static const float polynomial_float[] = {1.3926183587713495e-03f, 8.3631790795227273e-03f, 4.1666554617204574e-02f,
                                         1.6666576986896777e-01f, 0.5f};
static const double polynomial_double[] = {2.0914686968086877e-09, 2.5105217004720745e-08, 2.7557273643110295e-07,
                                           2.7557255400206424e-06, 2.4801587325547741e-05, 1.9841269874820625e-04,
                                           1.3888888888883748e-03, 8.3333333333261351e-03, 4.1666666666666671e-02,
                                           1.6666666666666671e-01, 0.5};

/* q of the logarithm. */
static const float atanh_tail_float[] = {0.2333046721630384f, 0.2855082081596066f, 0.4000012183980613f,
                                         0.6666666655449709f};
static const double atanh_tail_double[] = {0.1308662614784010, 0.1326877313865689, 0.1538623970281466,
                                           0.1818179564013291, 0.2222222239171394, 0.2857142857080361,
                                           0.4000000000000088, 0.6666666666666667};

/* q of the hyperbolic tangent. */
static const float tanh_tail_float[] = {-6.6102277e-03f, 2.1309389e-02f, -5.390943e-02f, 1.3333113e-01f,
                                        -3.333333e-01f};
static const double tanh_tail_double[] = {-2.060276537636634e-05, 8.511313685577671e-05, -2.346347410887237e-04,
                                          5.889360520074057e-04, -1.455661830100716e-03, 3.592110378689024e-03,
                                          -8.863234397814355e-03, 2.1869488493666944e-02, -5.3968253967434016e-02,
                                          1.3333333333332714e-01, -3.333333333333333e-01};

/* exp(x^2) erfc(x) as a polynomial of t = (x - middle) / (x + middle), for x up to `farthest`, where exp(-x^2) is 0. */
static const float erfc_tail_float[] = {5.5456174e-05f, 2.8529373e-05f, -5.9360516e-04f, 7.1657099e-04f,
                                        4.2684572e-03f, -2.4394630e-02f, 7.1665935e-02f, -1.5011571e-01f,
                                        2.4560380e-01f, -3.2623357e-01f, 1.7900115e-01f};
static const double erfc_tail_double[] = {
    3.5331834308694778e-12, -1.192359432972162e-09, -3.1415743092983497e-09, 9.719177278798781e-09,
    2.9248239643626536e-08, -7.380636958107934e-08, -1.8175465091578786e-07, 6.605450384160452e-07,
    7.477908477767238e-07,  -6.1840040148474335e-06, 3.5839370488379924e-06, 4.789896496650402e-05,
    -1.524627066817001e-04, -2.5535367649420533e-05, 1.8029624216908552e-03, -8.220621149756831e-03,
    2.4143223972100038e-02, -5.4802326695266135e-02, 1.0260431203221093e-01, -1.6357189552391527e-01,
    2.2600806691662123e-01, -2.7342193149542654e-01, 1.4558972127503855e-01};
static const float erfc_middle_float = 3, erfc_farthest_float = 12;
static const double erfc_middle_double = 3.75, erfc_farthest_double = 30;

#define SELU_SCALE 1.0507009873554804934
#define SELU_ALPHA 1.6732632423543772848

/* Adding `shift`, 1.5 * 2^mantissa, rounds to a whole number. ln 2 comes in two parts, the first exact in products with
 * n. Beyond `lowest` and `highest` exp is 0 and infinite. Below `smallest` numbers are subnormal. `root_half` are the bits of sqrt(1/2). */
#define REDUCTION(REAL, integer)                                                                                       \
    struct {                                                                                                           \
        REAL shift, log2_e, ln2_high, ln2_low, lowest, highest, smallest;                                   \
        integer bias, mantissa, root_half;                                                                             \
    }
static const REDUCTION(float, integer_float) reduction_float = {
    12582912.0f, 1.44269504f, 0.693115234375f, 3.19461849e-05f, -104.0f, 89.0f, FLT_MIN, 127, 23, 0x3f3504f3};
static const REDUCTION(double, integer_double) reduction_double = {
    6755399441055744.0, 1.4426950408889634, 0.6931471803691238, 1.908214929270588e-10, -746.0, 710.0, DBL_MIN, 1023, 52, 0x3fe6a09e667f3bcd};

#endif

#define polynomial JOIN(polynomial, REAL)
#define reduction JOIN(reduction, REAL)
#define power_of_two JOIN(power_of_two, REAL)
#define times_power_of_two JOIN(times_power_of_two, REAL)
#define between JOIN(between, REAL)
#define reduce JOIN(reduce, REAL)
#define exponential JOIN(exponential, REAL)
#define logistic JOIN(logistic, REAL)
#define atanh_tail JOIN(atanh_tail, REAL)
#define exponential_minus_1 JOIN(exponential_minus_1, REAL)
#define logarithm_of JOIN(logarithm_of, REAL)
#define logarithm JOIN(logarithm, REAL)
#define softplus JOIN(softplus, REAL)
#define normal JOIN(normal, REAL)
#define erfc_tail JOIN(erfc_tail, REAL)
#define erfc_middle JOIN(erfc_middle, REAL)
#define erfc_farthest JOIN(erfc_farthest, REAL)
#define tanh_tail JOIN(tanh_tail, REAL)
#define hyperbolic_tangent JOIN(hyperbolic_tangent, REAL)
#define act JOIN(act, REAL)
#define keep_derivative JOIN(keep_derivative, REAL)
#define times_derivative JOIN(times_derivative, REAL)

/* 2^n for shifted = n + shift: n stands in the low bits and moves into the exponent. */
static INLINE vec power_of_two(vec shifted) {
    return as_real((as_bits(shifted) + reduction.bias) << reduction.mantissa);
}

/* x 2^n for whole n, which may lie beyond the exponents of REAL: 2^n in two factors. */
static INLINE vec times_power_of_two(vec x, vec n) {
#ifdef SCALE_float
    return JOIN(SCALE, REAL)(x, n);
#else
    const vec half = n * (REAL)0.5 + reduction.shift;
    const vec rest = (n - (half - reduction.shift)) + reduction.shift;
    return x * power_of_two(half) * power_of_two(rest);
#endif
}

/* x, held between two bounds; NaN stays. */
static INLINE vec between(REAL low, vec x, REAL high) {
    return smaller(splat(high), larger(splat(low), x));
}

/* Return n; set r and p(r). */
static INLINE vec reduce(vec x, vec *r, vec *p) {
    const vec n = (x * reduction.log2_e + reduction.shift) - reduction.shift;
    *r = (x - n * reduction.ln2_high) - n * reduction.ln2_low;
    *p = splat(polynomial[0]);
    UNROLL for (size_t power = 1; power < sizeof polynomial / sizeof *polynomial; power++)
        *p = *p * *r + polynomial[power];
    return n;
}

static INLINE vec exponential(vec x) {
    vec r, p;
    const vec n = reduce(between(reduction.lowest, x, reduction.highest), &r, &p);
    return times_power_of_two(((r * r) * p + r) + 1, n);
}

/* e^x - 1 for x <= 0: 2^n - 1 + 2^n (r + r^2 p(r)), which loses nothing near 0, where n is 0. */
static INLINE vec exponential_minus_1(vec x) {
    vec r, p;
    const vec n = reduce(between(reduction.lowest, x, 0), &r, &p);
    return times_power_of_two((r * r) * p + r, n) + (times_power_of_two(splat(1), n) - 1);
}

/* 1 / (1 + e), and then one step of Newton's for what the sum 1 + e lost. */
static INLINE vec logistic(vec x) {
    const vec e = exponential(-x), sum = 1 + e, inverse = 1 / sum;
    const vec lost = choose(e > 1, splat(1), e) - (sum - choose(e > 1, e, splat(1)));
    const vec better = inverse + inverse * ((1 - sum * inverse) - lost * inverse);
    return choose(e < (REAL)INFINITY, better, inverse);
}

/* x + x^3 q(x^2) near 0, else 1 - 2 / (exp(2 |x|) + 1) with the sign of x. */
static INLINE vec hyperbolic_tangent(vec x) {
    const bits sign = as_bits(x) & as_bits(splat(-(REAL)0));
    const vec y = as_real(as_bits(x) ^ sign), square = y * y, large = 1 - 2 / (exponential(y + y) + 1);
    vec q = splat(tanh_tail[0]);
    UNROLL for (size_t k = 1; k < sizeof tanh_tail / sizeof *tanh_tail; k++)
        q = q * square + tanh_tail[k];
    return as_real(as_bits(choose(y < (REAL)0.55, y * (square * q) + y, large)) | sign);
}

/* log(2^power (1 + f)) for 1 + f in [sqrt(1/2), sqrt(2)]. */
static INLINE vec logarithm_of(vec power, vec f) {
    const vec s = f / (2 + f), s2 = s * s, half = (REAL)0.5 * f * f;
    vec q = splat(atanh_tail[0]);
    UNROLL for (size_t k = 1; k < sizeof atanh_tail / sizeof *atanh_tail; k++)
        q = q * s2 + atanh_tail[k];
    /* 2 s = f - s f: the largest term, f, enters without an error */
    return power * reduction.ln2_high + (f - (half - (s * (half + s2 * q) + power * reduction.ln2_low)));
}

static INLINE vec logarithm(vec x) {
    const bits tiny = x < reduction.smallest;
    const vec scaled = choose(tiny, x * (REAL)((integer)1 << reduction.mantissa), x);
    const bits n = (as_bits(scaled) - reduction.root_half) >> reduction.mantissa;
    const vec f = as_real(as_bits(scaled) - (n << reduction.mantissa)) - 1;
    const vec power = (as_real(n + as_bits(splat(reduction.shift))) - reduction.shift) -
                      choose(tiny, splat((REAL)reduction.mantissa), splat(0));
    const vec log = logarithm_of(power, f);
    return choose(x > 0, choose(x < (REAL)INFINITY, log, x), choose(x == 0, splat(-(REAL)INFINITY), splat((REAL)NAN)));
}

/* log(1 + e^x) = max(x, 0) + log(1 + e) for e = e^-|x|, of which 1 + e would lose the lower half. */
static INLINE vec softplus(vec x) {
    const vec e = exponential(smaller(-x, x));
    const bits is_large = e > (REAL)0.41421356237309505;
    return larger(x, splat(0)) + logarithm_of(choose(is_large, splat(1), splat(0)), choose(is_large, (e - 1) / 2, e));
}

/* Phi(x) = erfc(-x / sqrt(2)) / 2, the distribution function of N(0, 1), and its density. */
static INLINE vec normal(vec x, vec *density) {
    const vec e = exponential((REAL)-0.5 * (x * x));
    const vec y = smaller(splat(erfc_farthest), larger(-x, x) * (REAL)0.70710678118654752440);
    const vec t = (y - erfc_middle) / (y + erfc_middle);
    vec q = splat(erfc_tail[0]);
    UNROLL for (size_t k = 1; k < sizeof erfc_tail / sizeof *erfc_tail; k++)
        q = q * t + erfc_tail[k];
    *density = (REAL)0.39894228040143267794 * e;
    const vec below = (REAL)0.5 * e * q;
    return choose(x > 0, 1 - below, below);
}

/* act(z); softmax needs the whole row and comes later. What z times a function of z needs is held in a range where that
 * function is 0: minus infinity times 0 is no number. */
static INLINE vec act(const int code, REAL beta, vec z) {
    vec density;
    switch (code) {
    case RELU:
    case RELU_AT_ZERO:
        return choose(z < 0, splat(0), z);
    case LOGISTIC:
        return logistic(z);
    case TANH:
        return hyperbolic_tangent(z);
    case EXP:
        return exponential(z);
    case LEAKY_RELU:
        return choose(z < 0, beta * z, z);
    case ELU:
        return choose(z < 0, beta * exponential_minus_1(z), z);
    case SELU:
        return (REAL)SELU_SCALE * choose(z < 0, (REAL)SELU_ALPHA * exponential_minus_1(z), z);
    case SOFTPLUS:
        return softplus(z);
    case SIGN:
        return choose(z < 0, splat(-1), choose(z > 0, splat(1), z));
    case GELU:
        return larger(splat(-2 * erfc_farthest), z) * normal(z, &density);
    case SILU:
        return larger(splat(2 * reduction.lowest), z) * logistic(z);
    default:
        return z;
    }
}

/* act(z), and act'(z) of those activations whose outputs do not tell it; for the others it follows from the output. */
static INLINE vec keep_derivative(const int code, REAL beta, REAL at_zero, vec z, vec *derivative) {
    const vec a = act(code, beta, z);
    if (code == GELU) {
        vec density;
        const vec p = normal(z, &density);
        *derivative = p + between(-2 * erfc_farthest, z, 2 * erfc_farthest) * density;
    } else if (code == SILU) {
        const vec p = logistic(z);
        *derivative = p + between(2 * reduction.lowest, z, -2 * reduction.lowest) * (p * (1 - p));
    } else {
        *derivative = choose(z > 0, splat(1), choose(z < 0, splat(0), choose(z == 0, splat(at_zero), z)));
    }
    return a;
}

/* delta act'(z), in terms of a = act(z); from GELU on, of the derivative itself. */
static INLINE vec times_derivative(const int code, REAL beta, REAL at_zero, vec a, vec delta) {
    switch (code) {
    case RELU:
        return choose(a == 0, splat(0), delta);
    case LOGISTIC:
        return delta * (a * (1 - a));
    case TANH:
        return delta * (1 - a * a);
    case LEAKY_RELU:
        return delta * choose(a > 0, splat(1), choose(a == 0, splat(at_zero), splat(beta)));
    case ELU:
        return delta * choose(a > 0, splat(1), a + beta);
    case SELU:
        return delta * choose(a > 0, splat((REAL)SELU_SCALE), a + (REAL)(SELU_SCALE * SELU_ALPHA));
    case SOFTPLUS:
        return delta * -exponential_minus_1(-a);
    case SIGN:
        return delta * 0;
    case EXP:
    case GELU:
    case SILU:
    case RELU_AT_ZERO:
    case KEPT:
        return delta * a;
    default:
        return delta;
    }
}
