"""Exponential, logistic, hyperbolic tangent and logarithm of vectors.

x is split into n ln 2 + r with |r| <= ln 2 / 2; then exp(x) = 2^n (1 + r + r^2 p(r)), where p is a Chebyshev
polynomial. For the logarithm x = 2^n (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)), and log(1 + f) =
2 atanh(s) = 2 s + s^3 q(s^2) for s = f / (2 + f), q another one. Errors stay below 2 ulp (tested).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import math

from .numba_jit import inlined
from .numba_vectors import (
    absolute,
    choose,
    copy_sign,
    fma,
    make_constant,
    make_polynomial,
    maximum,
    minimum,
    split_power,
    times_power_of_two,
)

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
_LOG2_E = 1.4426950408889634
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
    n, f = power - choose(tiny, _mantissa(x), 0.0), m - 1.0
    s, half = f / (2.0 + f), 0.5 * f * f
    square = s * s
    rest = s * (half + square * _atanh_tail(square)) + n * _ln2_low(x)
    log = n * _ln2_high(x) + (f - (half - rest))  # 2 s = f - s f: the largest term, f, enters without an error
    return choose(x > 0.0, choose(x < math.inf, log, x), choose(x == 0.0, -math.inf, math.nan))
