"""Exponential, logistic and hyperbolic tangent of vectors.

x is split into n ln 2 + r with |r| <= ln 2 / 2; then exp(x) = 2^n (1 + r + r^2 p(r)), where p
is a Chebyshev polynomial. Errors stay below 2 ulp (tested).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import math

from .numba_jit import jit
from .numba_vectors import (
    absolute,
    copy_sign,
    fma,
    make_constant,
    make_polynomial,
    maximum,
    minimum,
    power_of_two,
    where_below,
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
        4.1666666666669756e-02,
        1.6666666666666671e-01,
        0.5,
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


@jit
def _reduced(x):
    """Return n, r and r^2 p(r) of x."""
    n = fma(x, _LOG2_E, _shift(x)) - _shift(x)
    r = fma(-n, _ln2_low(x), fma(-n, _ln2_high(x), x))
    return n, r, r * r * _polynomial(r)


@jit
def exp(x):
    """Return e^x."""
    n, r, tail = _reduced(minimum(maximum(x, _lowest(x)), _highest(x)))
    shifted = fma(n, 0.5, _shift(x))  # 2^n in two factors: n may lie beyond the exponents of the dtype
    return (r + tail + 1.0) * power_of_two(shifted) * power_of_two((n - (shifted - _shift(x))) + _shift(x))


@jit
def logistic(x):
    """Return 1 / (1 + e^-x): 1 / (1 + e), and then one step of Newton's for what the sum 1 + e lost."""
    e = exp(-x)
    total = e + 1.0
    lost = minimum(e, 1.0) - (total - maximum(e, 1.0))
    inverse = 1.0 / total
    better = fma(inverse, fma(-total, inverse, 1.0) - lost * inverse, inverse)
    return where_below(e, math.inf, better, inverse)


@jit
def tanh(x):
    """Return x + x^3 q(x^2) near 0, else 1 - 2 / (e^(2 |x|) + 1) with the sign of x."""
    y = absolute(x)
    square = y * y
    near = fma(y, square * _tanh_tail(square), y)
    return copy_sign(where_below(y, 0.55, near, 1.0 - 2.0 / (exp(y + y) + 1.0)), x)
