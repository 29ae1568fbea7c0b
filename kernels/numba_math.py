"""Exponential, logistic and hyperbolic tangent of vectors.

x is split into n ln 2 + r with |r| <= ln 2 / 2; then exp(x) = 2^n (1 + r + r^2 p(r)), where p
is a Chebyshev polynomial. Errors stay below 3 ulp (tested).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

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
_LOG2_E = 1.4426950408889634
_shift = make_constant(12582912.0, 6755399441055744.0)  # 1.5 * 2^(mantissa bits): adding it rounds to a whole number
_ln2_high = make_constant(0.693115234375, 0.6931471803691238)  # so few bits that n ln2_high is exact
_ln2_low = make_constant(3.19461849453094e-05, 1.908214929270588e-10)
_lowest = make_constant(-104.0, -746.0)  # exp is 0 below and infinite above
_highest = make_constant(89.0, 710.0)
_saturated = make_constant(20.0, 40.0)  # tanh(x / 2) is 1 above


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
    """Return 1 / (1 + e^-x)."""
    return 1.0 / (exp(-x) + 1.0)


@jit
def tanh(x):
    """Return expm1(2 x) / (expm1(2 x) + 2) for |x|, where less cancels than for -|x|, with the sign of x."""
    n, r, tail = _reduced(minimum(absolute(x + x), _saturated(x)))
    power = power_of_two(n + _shift(x))
    expm1 = fma(power, tail, fma(power, r, power - 1.0))
    return copy_sign(expm1 / (expm1 + 2.0), x)
