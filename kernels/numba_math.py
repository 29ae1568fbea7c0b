"""Elementary functions, and what activations are made of, of vectors and of single lanes.

x is split into n ln 2 + r with |r| <= ln 2 / 2; then exp(x) = 2^n (1 + r + r^2 p(r)), where p is a Chebyshev
polynomial. For the logarithm x = 2^n (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), and log(1 + f) =
2 atanh(s) = 2 s + s^3 q(s^2) for s = f / (2 + f), q another one. Sine and cosine subtract a multiple of pi / 2 in three
parts (Cody and Waite). Their polynomials and those of the error function are minimax ones. Errors stay below 2 ulp
(tested), but for the normal distribution function and what is made of it: far below 0, where it is next to 0 itself,
its exponential carries the rounding of x^2, up to 9.4 ulp.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import math

from .contract import SELU_ALPHA, SELU_SCALE
from .numba_exponents import has_bit, split_power, times_power_of_two
from .numba_jit import inlined
from .numba_vectors import absolute, choose, copy_sign, fma, make_constant, make_polynomial, maximum, minimum

_polynomial = make_polynomial(
    (0.0013926183587713495, 0.0083631790795227273, 0.041666554617204574, 0.16666576989698776, 0.5),
    (
        2.0914686968086877e-09,
        2.5105217004720745e-08,
        2.7557273643110295e-07,
        2.7557255400206424e-06,
        2.4801587325547741e-05,
        1.9841269874820625e-04,
        1.3888888888883748e-03,
        8.3333333333261351e-03,
        4.1666666666666671e-02,
        1.6666666666666671e-01,
        0.5,
    ),
)
_atanh_tail = make_polynomial(
    (0.2333046721630384, 0.2855082081596066, 0.4000012183980613, 0.6666666655449709),
    (
        0.1308662614784010,
        0.1326877313865689,
        0.1538623970281466,
        0.1818179564013291,
        0.2222222239171394,
        0.2857142857080361,
        0.4000000000000088,
        0.6666666666666667,
    ),
)
_tanh_tail = make_polynomial(
    (-0.0066102277, 0.021309389, -0.05390943, 0.13333113, -0.3333333),
    (
        -2.060276537636634e-05,
        8.511313685577671e-05,
        -2.346347410887237e-04,
        5.889360520074057e-04,
        -1.455661830100716e-03,
        3.592110378689024e-03,
        -8.863234397814355e-03,
        2.1869488493666944e-02,
        -5.3968253967434016e-02,
        1.3333333333332714e-01,
        -3.333333333333333e-01,
    ),
)
_erfc_tail = make_polynomial(
    (
        5.5456174e-05,
        2.8529373e-05,
        -5.9360516e-04,
        7.1657099e-04,
        4.2684572e-03,
        -2.4394630e-02,
        7.1665935e-02,
        -1.5011571e-01,
        2.4560380e-01,
        -3.2623357e-01,
        1.7900115e-01,
    ),
    (
        3.5331834308694778e-12,
        -1.192359432972162e-09,
        -3.1415743092983497e-09,
        9.719177278798781e-09,
        2.9248239643626536e-08,
        -7.380636958107934e-08,
        -1.8175465091578786e-07,
        6.605450384160452e-07,
        7.477908477767238e-07,
        -6.1840040148474335e-06,
        3.5839370488379924e-06,
        4.789896496650402e-05,
        -1.524627066817001e-04,
        -2.5535367649420533e-05,
        1.8029624216908552e-03,
        -8.220621149756831e-03,
        2.4143223972100038e-02,
        -5.4802326695266135e-02,
        1.0260431203221093e-01,
        -1.6357189552391527e-01,
        2.2600806691662123e-01,
        -2.7342193149542654e-01,
        1.4558972127503855e-01,
    ),
)
_erfc_middle = make_constant(3.0, 3.75)
_erfc_farthest = make_constant(12.0, 30.0)
_LOG2_E = 1.4426950408889634
one = make_constant(1.0, 1.0)
_shift = make_constant(12582912.0, 6755399441055744.0)  # 1.5 * 2^(mantissa bits): adding it rounds to a whole number
_ln2_high = make_constant(0.693115234375, 0.6931471803691238)  # so few bits that n ln2_high is exact
_ln2_low = make_constant(3.19461849453094e-05, 1.908214929270588e-10)
_lowest = make_constant(-104.0, -746.0)  # exp is 0 below and infinite above
_highest = make_constant(89.0, 710.0)
_smallest = make_constant(2.0**-126, 2.0**-1022)  # below numbers are subnormal
_mantissa = make_constant(23.0, 52.0)
_normalizer = make_constant(2.0**23, 2.0**52)


@inlined
def _reduced(x):
    """Return n, r and r^2 p(r) of x."""
    n = fma(x, _LOG2_E, _shift(x)) - _shift(x)
    r = fma(-n, _ln2_low(x), fma(-n, _ln2_high(x), x))
    return n, r, r * r * _polynomial(r)


@inlined
def exp(x):
    """Return e^x."""
    n, r, tail = _reduced(minimum(maximum(x, _lowest(x)), _highest(x)))
    return times_power_of_two(r + tail + 1.0, n)


@inlined
def logistic(x):
    """Return 1 / (1 + e^-x): 1 / (1 + e), and then one step of Newton's for what the sum 1 + e lost."""
    e = exp(-x)
    total = e + 1.0
    lost = minimum(e, 1.0) - (total - maximum(e, 1.0))
    inverse = 1.0 / total
    better = fma(inverse, fma(-total, inverse, 1.0) - lost * inverse, inverse)
    return choose(e < math.inf, better, inverse)


@inlined
def tanh(x):
    """Return x + x^3 q(x^2) near 0, else 1 - 2 / (e^(2 |x|) + 1) with the sign of x."""
    y = absolute(x)
    square = y * y
    near = fma(y, square * _tanh_tail(square), y)
    return copy_sign(choose(y < 0.55, near, 1.0 - 2.0 / (exp(y + y) + 1.0)), x)


@inlined
def logarithm(x):
    """Return the natural logarithm: of 0 minus infinity, below NaN."""
    tiny = x < _smallest(x)
    power, m = split_power(choose(tiny, x * _normalizer(x), x))
    log = _logarithm_of(power - choose(tiny, _mantissa(x), 0.0), m - 1.0)
    return choose(x > 0.0, choose(x < math.inf, log, x), choose(x == 0.0, -math.inf, math.nan))


@inlined
def _logarithm_of(n, f):
    """Return log(2^n (1 + f)) for 1 + f in [sqrt(1/2), sqrt(2)]."""
    s, half = f / (2.0 + f), 0.5 * f * f
    square = s * s
    rest = s * (half + square * _atanh_tail(square)) + n * _ln2_low(f)
    return n * _ln2_high(f) + (f - (half - rest))  # 2 s = f - s f: the largest term, f, enters without an error


@inlined
def expm1(x):
    """Return e^x - 1, twice 2^(n - 1) - 1/2 + 2^(n - 1) (r + r^2 p(r)), with what r lost in rounding."""
    bounded = minimum(maximum(x, _lowest(x)), _highest(x))
    n, r, tail = _reduced(bounded)
    lost = fma(-n, _ln2_low(x), fma(-n, _ln2_high(x), bounded) - r)
    power = times_power_of_two(one(x), n - 1.0)
    half = (power - 0.5) + power * r + power * (tail + lost)
    return copy_sign(half + half, x)


@inlined
def log1p(x):
    """Return log(1 + x): log of the sum, and what rounding took from it."""
    total = 1.0 + x
    lost = minimum(x, 1.0) - (total - maximum(x, 1.0))
    n, m = split_power(total)
    log = _logarithm_of(n, m - 1.0) + lost / total
    usual = choose(total > 0.0, choose(x < math.inf, log, x), choose(total == 0.0, -math.inf, math.nan))
    return choose(x == 0.0, x, usual)


@inlined
def softplus(x):
    """Return log(1 + e^x)."""
    return maximum(x, 0.0) + log1p(exp(-absolute(x)))


@inlined
def normal(x):
    """Return Phi(x) = erfc(-x / sqrt(2)) / 2, the distribution function of N(0, 1), and its density.

    exp(y^2) erfc(y) is a polynomial of t = (y - middle) / (y + middle), for y up to where exp(-y^2) is 0.
    """
    e = exp(-0.5 * (x * x))
    y = minimum(absolute(x) * 0.7071067811865476, _erfc_farthest(x))
    below = 0.5 * e * _erfc_tail((y - _erfc_middle(x)) / (y + _erfc_middle(x)))
    return choose(x > 0.0, 1.0 - below, below), 0.3989422804014327 * e


@inlined
def gelu(x):
    """Return x Phi(x) and its derivative. Where Phi is 0, x is held finite: minus infinity times 0 is no number."""
    p, density = normal(x)
    farthest = 2.0 * _erfc_farthest(x)
    return maximum(x, -farthest) * p, p + minimum(maximum(x, -farthest), farthest) * density


@inlined
def silu(x):
    """Return x / (1 + e^-x) and its derivative, likewise."""
    p, farthest = logistic(x), -2.0 * _lowest(x)
    return maximum(x, -farthest) * p, p + minimum(maximum(x, -farthest), farthest) * (p * (1.0 - p))


@inlined
def elu(beta, x):
    """Return x where it is not negative, else beta (e^x - 1)."""
    return choose(x < 0.0, beta * expm1(x), x)


@inlined
def selu(x):
    """Return the scaled ELU."""
    return SELU_SCALE * elu(SELU_ALPHA, x)


# ----------------------------------------------------------------- functions of users, and their derivatives


_sine_tail = make_polynomial(
    (-0.00019516654720064253, 0.008332173340022564, -0.16666655242443085),
    (
        1.589650445910065e-10,
        -2.5050753257594096e-08,
        2.7557313662027397e-06,
        -0.0001984126982972519,
        0.008333333333322316,
        -0.16666666666666632,
    ),
)
_cosine_tail = make_polynomial(
    (2.4437740648863837e-05, -0.001388736185617745, 0.04166664555668831),
    (
        -1.1359448711687689e-11,
        2.087571956024578e-09,
        -2.7557314326049407e-07,
        2.4801587289395014e-05,
        -0.001388888888887399,
        0.0416666666666666,
    ),
)
_erf_near = make_polynomial(
    (
        7.889095286373049e-05,
        -0.0008020834065973759,
        0.005189534742385149,
        -0.026854444295167923,
        0.11283600330352783,
        -0.3761262595653534,
        0.12837916612625122,
    ),
    (
        -7.801191888341914e-10,
        1.3722976770798816e-08,
        -1.6209175731923008e-07,
        1.6447517609499445e-06,
        -1.492474465356765e-05,
        0.00012055295319730584,
        -0.0008548325989661416,
        0.005223977607422502,
        -0.026866170643276073,
        0.11283791670945252,
        -0.3761263890318355,
        0.12837916709551256,
    ),
)
_erf_far = make_polynomial(
    (
        0.00018557360453996807,
        -0.0029396044556051493,
        0.021805310621857643,
        -0.10303735733032227,
        -0.6382256746292114,
        -1.1270400285720825,
        -0.0003537176817189902,
    ),
    (
        1.0390280363333865e-12,
        -4.751635496642466e-11,
        1.017036517743964e-09,
        -1.3522131428200563e-08,
        1.2483025415841034e-07,
        -8.451901568056695e-07,
        4.3017694169785755e-06,
        -1.6421443315078678e-05,
        4.476978328806416e-05,
        -6.975005019850868e-05,
        -4.595683339555937e-05,
        0.0006428351979893269,
        -0.0017709273039854456,
        0.00028223037510825355,
        0.019076954223938142,
        -0.10274664210609258,
        -0.6366287038762636,
        -1.1283772823708142,
        -1.8438744903692125e-07,
    ),
)
_erf_end = make_constant(4.0, 6.0)  # from here on erf is 1
_TWO_OVER_PI = 0.6366197723675814
_half_pi = make_constant(1.5707963705062866, 1.5707963267948966)  # three parts, together pi / 2
_half_pi_middle = make_constant(-4.371138828673793e-08, 6.123233995736766e-17)
_half_pi_low = make_constant(-1.7151245100058819e-15, -1.4973849048591698e-33)
sine_limit = make_constant(2.0**18, 2.0**40)
"""Up to this |x|, and on processors that fuse products with sums, `sine_and_cosine` holds."""


@inlined
def erf(x):
    """Return the error function: x + x p(x^2) up to 1, 1 - e^q(|x|) beyond, with the sign of x."""
    y = absolute(x)
    near = fma(y, _erf_near(y * y), y)
    far = 1.0 - exp(_erf_far(minimum(y, _erf_end(y))))
    return copy_sign(choose(y < 1.0, near, far), x)


@inlined
def sine_and_cosine(x):
    """Return sin(x) and cos(x), for |x| up to `sine_limit`."""
    n = fma(x, _TWO_OVER_PI, _shift(x)) - _shift(x)
    high, middle = fma(-n, _half_pi(x), x), n * _half_pi_middle(x)  # high is exact
    r = high - middle
    back = r - high
    low = (high - (r - back)) - (middle + back) - fma(n, _half_pi_middle(x), -middle) - n * _half_pi_low(x)
    square = r * r
    half = 0.5 * square
    sine = r + fma(r * square, _sine_tail(square), fma(-half, low, low))
    near = 1.0 - half
    cosine = near + (((1.0 - near) - half) + fma(square * square, _cosine_tail(square), -(r * low)))
    odd = has_bit(n, 0)
    first, second = choose(odd, cosine, sine), choose(odd, sine, cosine)
    return choose(has_bit(n, 1), -first, first), choose(has_bit(n + 1.0, 1), -second, second)
