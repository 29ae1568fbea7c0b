"""Functions of dual numbers: those of `math` and `numpy` on one number, and Python's own.

The common ones are inline arithmetic, which LLVM vectorises. The others call the C library, one number at a time.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import builtins
import math
import operator

import numpy as np
from numba import types

from .numba_dual import Dual, chain, chain_two, constant, give_up_if, lane, number, pick, rule, value_of
from .numba_jit import inlined
from .numba_math import erf, exp, expm1, log1p, logarithm, logistic, one, sine_and_cosine, sine_limit, tanh
from .numba_vectors import HAS_FMA, absolute, choose, copy_sign, fma, make_constant, minimum, sqrt

_LN2, _LN10 = math.log(2.0), math.log(10.0)
_DEGREES, _RADIANS = 180.0 / math.pi, math.pi / 180.0
_ERF_SLOPE = 2.0 / math.sqrt(math.pi)
_largest = make_constant(float(np.finfo(np.float32).max), float(np.finfo(np.float64).max))


# --------------------------------------------------------------------- exponentials, logarithms and powers


@inlined
def _finite(slope):
    """Bound a slope: where exp(-x) is infinite, 1 / (1 + exp(-x)) has the derivative 0, not infinity / infinity^2."""
    return minimum(slope, _largest(slope))


@rule(math.exp, np.exp)
def _exp(x):
    e = exp(value_of(x))
    return chain(e, _finite(e), x)


@rule(math.expm1, np.expm1)
def _expm1(x):
    return chain(expm1(value_of(x)), _finite(exp(value_of(x))), x)


@rule(math.exp2, np.exp2)
def _exp2(x):
    e = lane(np.exp2(number(value_of(x))))
    return chain(e, _finite(e) * _LN2, x)


@rule(math.log, np.log)
def _log(x):
    return chain(logarithm(value_of(x)), 1.0 / value_of(x), x)


@rule(math.log)
def _log_of_base(x, base):
    return _log(x) / _log(base)


@rule(math.log1p, np.log1p)
def _log1p(x):
    return chain(log1p(value_of(x)), 1.0 / (1.0 + value_of(x)), x)


@rule(math.log2, np.log2)
def _log2(x):
    return chain(math.log2(number(value_of(x))), 1.0 / (value_of(x) * _LN2), x)


@rule(math.log10, np.log10)
def _log10(x):
    return chain(math.log10(number(value_of(x))), 1.0 / (value_of(x) * _LN10), x)


@rule(np.logaddexp)
def _logaddexp(x, y):
    u, v = value_of(x), value_of(y)
    difference = choose(u == v, 0.0, u - v)  # of infinities too
    larger = choose(u > v, u, v)
    total = larger + log1p(exp(-absolute(difference)))
    return chain_two(total, logistic(difference), x, logistic(-difference), y)


@rule(math.sqrt, np.sqrt)
def _sqrt(x):
    root = sqrt(value_of(x))
    return chain(root, 0.5 / root, x)


@rule(math.cbrt, np.cbrt)
def _cbrt(x):
    root = lane(np.cbrt(number(value_of(x))))
    return chain(root, 1.0 / (3.0 * root * root), x)


@rule(np.square)
def _square(x):
    return x * x


@rule(np.reciprocal)
def _reciprocal(x):
    return 1.0 / x


_POWERS = (operator.pow, operator.ipow, builtins.pow, math.pow, np.power, np.float_power)


@inlined
def _product(x, n):
    """Return x^n for whole n >= 0, by squaring."""
    result, square = one(x), x
    while n > 0:
        if n & 1:
            result = result * square
        square = square * square
        n >>= 1
    return result


@rule(*_POWERS, kinds=(Dual, types.Integer))
def _whole_power(x, n):
    if abs(n) > 16:  # there the errors of the products add up
        return x ** float(n)
    u = value_of(x)
    if n == 0:
        return chain(one(u), 0.0, x)
    below = _product(u, abs(n) - 1)
    whole = below * u
    if n > 0:
        return chain(whole, n * below, x)
    return chain(1.0 / whole, n / (whole * u), x)


@rule(*_POWERS)
def _power(x, y):
    """The derivative is x' y x^(y - 1) + y' x^y log(x): the first term is 0 where y is, the second one where x is."""
    u, v = value_of(x), value_of(y)
    whole = lane(number(u) ** number(v))
    below = lane(number(u) ** number(v - 1.0))
    slope_x = choose(v == 0.0, 0.0, v * below)
    slope_y = choose(u == 0.0, 0.0, whole * logarithm(u))
    return chain_two(whole, slope_x, x, slope_y, y)


# ------------------------------------------------------------------------------------ circle and hyperbola


@inlined
def _sine_and_cosine(u):
    give_up_if(absolute(u) > sine_limit(u))
    return sine_and_cosine(u)


@inlined
def _exact_sine_and_cosine(u):
    return lane(math.sin(number(u))), lane(math.cos(number(u)))


def _make_sine(sine_and_cosine):
    def sine(x):
        s, c = sine_and_cosine(value_of(x))
        return chain(s, c, x)

    return sine


def _make_cosine(sine_and_cosine):
    def cosine(x):
        s, c = sine_and_cosine(value_of(x))
        return chain(c, -s, x)

    return cosine


def _make_tangent(sine_and_cosine):
    def tangent(x):
        s, c = sine_and_cosine(value_of(x))
        t = s / c
        return chain(t, fma(t, t, 1.0), x)

    return tangent


for _make, *_functions in (
    (_make_sine, math.sin, np.sin),
    (_make_cosine, math.cos, np.cos),
    (_make_tangent, math.tan, np.tan),
):
    if HAS_FMA:
        rule(*_functions, exact=_make(_exact_sine_and_cosine))(_make(_sine_and_cosine))
    else:  # the fast way takes products apart that only a fused sum keeps whole
        rule(*_functions)(_make(_exact_sine_and_cosine))


@rule(math.sinh, np.sinh)
def _sinh(x):
    u = number(value_of(x))
    return chain(math.sinh(u), math.cosh(u), x)


@rule(math.cosh, np.cosh)
def _cosh(x):
    u = number(value_of(x))
    return chain(math.cosh(u), math.sinh(u), x)


@rule(math.tanh, np.tanh)
def _tanh(x):
    t = tanh(value_of(x))
    return chain(t, fma(-t, t, 1.0), x)


@rule(math.asin, np.arcsin)
def _asin(x):
    u = value_of(x)
    return chain(math.asin(number(u)), 1.0 / sqrt((1.0 - u) * (1.0 + u)), x)


@rule(math.acos, np.arccos)
def _acos(x):
    u = value_of(x)
    return chain(math.acos(number(u)), -1.0 / sqrt((1.0 - u) * (1.0 + u)), x)


@rule(math.atan, np.arctan)
def _atan(x):
    u = value_of(x)
    return chain(math.atan(number(u)), 1.0 / (1.0 + u * u), x)


@rule(math.atan2, np.arctan2)
def _atan2(y, x):
    v, u = value_of(y), value_of(x)
    square = u * u + v * v
    return chain_two(math.atan2(number(v), number(u)), u / square, y, -v / square, x)


@rule(math.asinh, np.arcsinh)
def _asinh(x):
    u = value_of(x)
    return chain(math.asinh(number(u)), 1.0 / sqrt(1.0 + u * u), x)


@rule(math.acosh, np.arccosh)
def _acosh(x):
    u = value_of(x)
    return chain(math.acosh(number(u)), 1.0 / sqrt((u - 1.0) * (u + 1.0)), x)


@rule(math.atanh, np.arctanh)
def _atanh(x):
    u = value_of(x)
    return chain(math.atanh(number(u)), 1.0 / ((1.0 - u) * (1.0 + u)), x)


@rule(math.hypot, np.hypot)
def _hypot(x, y):
    u, v = value_of(x), value_of(y)
    root = lane(math.hypot(number(u), number(v)))
    return chain_two(root, choose(root == 0.0, 0.0, u / root), x, choose(root == 0.0, 0.0, v / root), y)


@rule(math.degrees, np.degrees, np.rad2deg)
def _degrees(x):
    return x * _DEGREES


@rule(math.radians, np.radians, np.deg2rad)
def _radians(x):
    return x * _RADIANS


# ------------------------------------------------------------------------------------------ error and gamma


@rule(math.erf)
def _erf(x):
    u = value_of(x)
    return chain(erf(u), _ERF_SLOPE * exp(-u * u), x)


@rule(math.erfc)
def _erfc(x):
    u = value_of(x)
    return chain(math.erfc(number(u)), -_ERF_SLOPE * exp(-u * u), x)


@inlined
def _digamma(x):
    """Return the derivative of log(gamma(x)): a series for large x, brought there by psi(x) = psi(x + 1) - 1 / x."""
    y, total = 1.0 * x, 0.0
    if y <= 0.0:  # psi(x) = psi(1 - x) - pi / tan(pi x)
        y, total = 1.0 - y, -math.pi / math.tan(math.pi * y)
    while y < 10.0:
        total -= 1.0 / y
        y += 1.0
    w = 1.0 / (y * y)
    series = w * (1 / 12 - w * (1 / 120 - w * (1 / 252 - w * (1 / 240 - w * (1 / 132 - w * (691 / 32760))))))
    return total + math.log(y) - 0.5 / y - series


@rule(math.lgamma)
def _lgamma(x):
    u = number(value_of(x))
    return chain(math.lgamma(u), _digamma(u), x)


@rule(math.gamma)
def _gamma(x):
    u = number(value_of(x))
    gamma = math.gamma(u)
    return chain(gamma, gamma * _digamma(u), x)


# --------------------------------------------------------------------------------- parts of a number, choices


@rule(abs, math.fabs, np.fabs, np.absolute)
def _absolute(x):
    u = value_of(x)
    return chain(absolute(u), choose(u == 0.0, 0.0, copy_sign(1.0, u)), x)


@rule(math.copysign, np.copysign)
def _copysign(x, y):
    u = value_of(x)
    result = copy_sign(u, value_of(y))
    return chain(result, choose(result == u, 1.0, -1.0), x)


@rule(np.sign)
def _sign(x):
    u = value_of(x)
    return constant(choose(u > 0.0, 1.0, choose(u < 0.0, -1.0, u)), x)


@rule(np.heaviside)
def _heaviside(x, at_zero):
    u = value_of(x)
    step = constant(choose(u > 0.0, 1.0, choose(u < 0.0, 0.0, u)), x)
    return pick(u == 0.0, at_zero, step)


@rule(math.floor, np.floor)
def _floor(x):
    return constant(np.floor(number(value_of(x))), x)


@rule(math.ceil, np.ceil)
def _ceil(x):
    return constant(np.ceil(number(value_of(x))), x)


@rule(math.trunc, np.trunc)
def _trunc(x):
    return constant(np.trunc(number(value_of(x))), x)


@rule(round, np.rint)
def _round(x):
    return constant(np.rint(number(value_of(x))), x)


@inlined
def _floor_divided(u, v):
    """Return the floor of u / v, and u - floor(u / v) v: Python's rest, of the sign of v."""
    rest = np.fmod(u, v)
    if rest == 0.0:
        rest = math.copysign(rest, v)
    elif (rest < 0.0) != (v < 0.0):
        rest += v
    return lane(np.rint((u - rest) / v)), lane(rest)


@rule(operator.floordiv, operator.ifloordiv, np.floor_divide)
def _floordiv(x, y):
    return constant(_floor_divided(number(value_of(x)), number(value_of(y)))[0], x)


@rule(operator.mod, operator.imod, np.mod)
def _mod(x, y):
    quotient, rest = _floor_divided(number(value_of(x)), number(value_of(y)))
    return chain_two(rest, 1.0, x, -quotient, y)


@rule(math.fmod, np.fmod)
def _fmod(x, y):
    u, v = number(value_of(x)), number(value_of(y))
    rest = np.fmod(u, v)
    return chain_two(rest, 1.0, x, -lane(np.rint((u - rest) / v)), y)


@rule(np.where)
def _where(condition, x, y):
    return pick(value_of(condition) != 0.0, x, y)


@inlined
def _unless_equal(x, y, other):
    """Return ``other``, one of x and y, but where they are equal their mean, which has the mean slope.

    That of abs at 0 is a mean too: so log(1 + exp(-abs(z))) + max(z, 0), which is smooth, has the right one there.
    """
    return pick(value_of(x) == value_of(y), chain_two(value_of(x), 0.5, x, 0.5, y), other)


@rule(min)
def _min(x, y):
    return _unless_equal(x, y, pick(value_of(y) < value_of(x), y, x))


@rule(max)
def _max(x, y):
    return _unless_equal(x, y, pick(value_of(y) > value_of(x), y, x))


@rule(min)
def _min_of_three(x, y, z):
    return min(min(x, y), z)


@rule(max)
def _max_of_three(x, y, z):
    return max(max(x, y), z)


@inlined
def _is_nan(x):
    return value_of(x) != value_of(x)


@rule(np.minimum)
def _minimum(x, y):
    return pick(_is_nan(y), y, _min(x, y))


@rule(np.maximum)
def _maximum(x, y):
    return pick(_is_nan(y), y, _max(x, y))


@rule(np.fmin)
def _fmin(x, y):
    return pick(_is_nan(x), y, _min(x, y))


@rule(np.fmax)
def _fmax(x, y):
    return pick(_is_nan(x), y, _max(x, y))


@rule(np.clip)
def _clip(x, low, high):
    return _min(_max(x, low), high)


@rule(np.clip, kinds=(Dual, types.NoneType, Dual))
def _clip_above(x, low, high):
    return _min(x, high)


@rule(np.clip, kinds=(Dual, Dual, types.NoneType))
def _clip_below(x, low, high):
    return _max(x, low)


@rule(math.isnan, np.isnan)
def _isnan(x):
    return math.isnan(number(value_of(x)))


@rule(math.isinf, np.isinf)
def _isinf(x):
    return math.isinf(number(value_of(x)))


@rule(math.isfinite, np.isfinite)
def _isfinite(x):
    return math.isfinite(number(value_of(x)))
