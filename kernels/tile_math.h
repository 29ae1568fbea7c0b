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
#define logarithm JOIN(logarithm, REAL)
#define tanh_tail JOIN(tanh_tail, REAL)
#define hyperbolic_tangent JOIN(hyperbolic_tangent, REAL)
#define act JOIN(act, REAL)
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

static INLINE vec logarithm(vec x) {
    const bits tiny = x < reduction.smallest;
    const vec scaled = choose(tiny, x * (REAL)((integer)1 << reduction.mantissa), x);
    const bits n = (as_bits(scaled) - reduction.root_half) >> reduction.mantissa;
    const vec f = as_real(as_bits(scaled) - (n << reduction.mantissa)) - 1;
    const vec power = (as_real(n + as_bits(splat(reduction.shift))) - reduction.shift) -
                      choose(tiny, splat((REAL)reduction.mantissa), splat(0));
    const vec s = f / (2 + f), s2 = s * s, half = (REAL)0.5 * f * f;
    vec q = splat(atanh_tail[0]);
    UNROLL for (size_t k = 1; k < sizeof atanh_tail / sizeof *atanh_tail; k++)
        q = q * s2 + atanh_tail[k];
    /* 2 s = f - s f: the largest term, f, enters without an error */
    const vec log = power * reduction.ln2_high + (f - (half - (s * (half + s2 * q) + power * reduction.ln2_low)));
    return choose(x > 0, choose(x < (REAL)INFINITY, log, x), choose(x == 0, splat(-(REAL)INFINITY), splat((REAL)NAN)));
}

/* act(z); softmax needs the whole row and comes later. */
static INLINE vec act(const int activation, vec z) {
    switch (activation) {
    case RELU:
        return choose(z < 0, splat(0), z);
    case LOGISTIC:
        return logistic(z);
    case TANH:
        return hyperbolic_tangent(z);
    case EXP:
        return exponential(z);
    default:
        return z;
    }
}

/* delta act'(z), in terms of a = act(z). */
static INLINE vec times_derivative(const int activation, vec a, vec delta) {
    switch (activation) {
    case RELU:
        return choose(a == 0, splat(0), delta);
    case LOGISTIC:
        return delta * (a * (1 - a));
    case TANH:
        return delta * (1 - a * a);
    case EXP:
        return delta * a;
    default:
        return delta;
    }
}
