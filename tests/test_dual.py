"""Dual numbers: values and derivatives of every operation, errors of the inline functions, branches, loops, calls."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastbp.kernels.numba_custom import REALS, CustomFunction
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

TOLERANCE = {np.float32: 4e-6, np.float64: 2e-13}
"""Relative to the largest result of a case."""

LARGEST_ERROR = 2.0
"""Of the inline functions, in units of the last place of the exact result."""

ANY = np.array([-3.7, -2.3, -1.0, -0.6, -0.25, 0.3, 0.9, 1.0, 2.2, 3.6, 5.5])
POSITIVE = np.abs(ANY)
BELOW_ONE = ANY / 6
NAMES = {"math": math, "np": np, "special": special}

FUNCTIONS: list[tuple[str, str, np.ndarray]] = [
    ("exp(z)", "math.exp(z)", ANY),
    ("expm1(z)", "math.exp(z)", ANY),
    ("exp2(z)", "math.log(2) * 2**z", ANY),
    ("log(z)", "1 / z", POSITIVE),
    ("log1p(z)", "1 / (1 + z)", POSITIVE),
    ("log2(z)", "1 / (z * math.log(2))", POSITIVE),
    ("log10(z)", "1 / (z * math.log(10))", POSITIVE),
    ("sqrt(z)", "0.5 / math.sqrt(z)", POSITIVE),
    ("cbrt(z)", "1 / (3 * np.cbrt(z) ** 2)", ANY),
    ("sin(z)", "math.cos(z)", ANY),
    ("cos(z)", "-math.sin(z)", ANY),
    ("tan(z)", "1 + math.tan(z) ** 2", ANY),
    ("sinh(z)", "math.cosh(z)", ANY),
    ("cosh(z)", "math.sinh(z)", ANY),
    ("tanh(z)", "1 - math.tanh(z) ** 2", ANY),
    ("fabs(z)", "math.copysign(1, z)", ANY),
    ("floor(z)", "0.0", ANY),
    ("ceil(z)", "0.0", ANY),
    ("trunc(z)", "0.0", ANY),
    ("degrees(z)", "180 / math.pi", ANY),
    ("radians(z)", "math.pi / 180", ANY),
    ("hypot(z, 2)", "z / math.hypot(z, 2)", ANY),
    ("copysign(z, -1)", "-math.copysign(1, z)", ANY),
    ("fmod(z, 0.7)", "1.0", ANY),
]
"""Functions that `math` and `numpy` name alike."""

CASES: list[tuple[str, str, np.ndarray]] = [
    *((f"math.{f} + np.{f}", f"2 * ({slope})", z) for f, slope, z in FUNCTIONS),
    ("math.log(z, 3)", "1 / (z * math.log(3))", POSITIVE),
    ("math.asin(z)", "1 / math.sqrt(1 - z * z)", BELOW_ONE),
    ("math.acos(z)", "-1 / math.sqrt(1 - z * z)", BELOW_ONE),
    ("math.atan(z)", "1 / (1 + z * z)", ANY),
    ("math.asinh(z)", "1 / math.sqrt(1 + z * z)", ANY),
    ("math.acosh(z)", "1 / math.sqrt(z * z - 1)", POSITIVE + 1),
    ("math.atanh(z)", "1 / (1 - z * z)", BELOW_ONE),
    ("np.arcsin(z)", "1 / math.sqrt(1 - z * z)", BELOW_ONE),
    ("np.arccos(z)", "-1 / math.sqrt(1 - z * z)", BELOW_ONE),
    ("np.arctan(z)", "1 / (1 + z * z)", ANY),
    ("np.arcsinh(z)", "1 / math.sqrt(1 + z * z)", ANY),
    ("np.arccosh(z)", "1 / math.sqrt(z * z - 1)", POSITIVE + 1),
    ("np.arctanh(z)", "1 / (1 - z * z)", BELOW_ONE),
    ("math.atan2(z, 2)", "2 / (4 + z * z)", ANY),
    ("np.arctan2(2, z)", "-2 / (4 + z * z)", ANY),
    ("math.erf(z)", "2 / math.sqrt(math.pi) * math.exp(-z * z)", ANY),
    ("math.erfc(z)", "-2 / math.sqrt(math.pi) * math.exp(-z * z)", ANY),
    ("math.gamma(z)", "math.gamma(z) * special.digamma(z)", POSITIVE),
    ("math.lgamma(z)", "special.digamma(z)", POSITIVE),
    ("math.lgamma(z)", "special.digamma(z)", ANY[[0, 1, 3, 4]]),
    ("np.logaddexp(0, z)", "special.expit(z)", ANY),
    ("np.logaddexp(z, 2 * z)", "1 + special.expit(z)", ANY),
    ("np.square(z)", "2 * z", ANY),
    ("np.reciprocal(z)", "-1 / (z * z)", ANY),
    ("np.sign(z)", "0.0", ANY),
    ("np.heaviside(z, 0.5)", "0.0", ANY),
    ("np.rint(z)", "0.0", ANY),
    ("round(z)", "0.0", ANY),
    ("np.clip(z, -1.5, 2)", "1.0 if -1.5 < z < 2 else 0.0", ANY),
    ("np.clip(z, None, 0.5)", "1.0 if z < 0.5 else 0.0", ANY),
    ("np.clip(z, 0.5, None)", "1.0 if z > 0.5 else 0.0", ANY),
    ("np.where(z > 0, z, z / 2)", "1.0 if z > 0 else 0.5", ANY),
    ("np.maximum(0, z) - np.minimum(z, 0)", "math.copysign(1, z)", ANY),
    ("np.fmax(0, z) - np.fmin(z, 0)", "math.copysign(1, z)", ANY),
    ("max(0, z) - min(z, 0)", "math.copysign(1, z)", ANY),
    ("max(z, 1, z * z)", "2 * z if abs(z) > 1 else 0.0", ANY[np.abs(ANY) != 1]),
    ("min(z, 1, z * z)", "1.0 if z < 0 else 2 * z if z < 1 else 0.0", ANY[np.abs(ANY) != 1]),
    ("abs(z)", "math.copysign(1, z)", ANY),
    ("z % 0.7", "1.0", ANY),
    ("4.0 % z", "-(4.0 // z)", ANY),
    ("z // 0.7", "0.0", ANY),
    ("z**2", "2 * z", ANY),
    ("z**3 - z**7", "3 * z**2 - 7 * z**6", ANY),
    ("z**0", "0.0", ANY),
    ("z**-2", "-2 / z**3", ANY),
    ("z**20 / 1e9", "20 * z**19 / 1e9", ANY),
    ("z**0.5", "0.5 / math.sqrt(z)", POSITIVE),
    ("z**1.7", "1.7 * z**0.7", POSITIVE),
    ("1.3**z", "math.log(1.3) * 1.3**z", ANY),
    ("z**z", "z**z * (1 + math.log(z))", POSITIVE),
    ("math.pow(z, 3) + np.power(z, 2) + pow(z, 2)", "3 * z * z + 4 * z", ANY),
    ("1 / z - z / 3 + 2 / (1 + z * z)", "-1 / z**2 - 1 / 3 - 4 * z / (1 + z * z) ** 2", ANY),
    ("(z + 1) / (z * z + 2)", "(2 - 2 * z - z * z) / (z * z + 2) ** 2", ANY),
    ("-z + (+z) * 3", "2.0", ANY),
    ("np.add(z, 1) * np.subtract(2, z) / np.multiply(z, 2)", "-0.5 - 1 / (z * z)", ANY),
    ("np.negative(z) + np.divide(z, 2) + np.positive(z)", "0.5", ANY),
    ("(z > 0) * z", "float(z > 0)", ANY),
    ("float(z) + int(z)", "1.0", ANY),
    ("z and 2 * z", "2.0", ANY),
    ("1.0 if not z else z", "1.0", ANY),
    ("z if z >= 1 and z != 2 or z <= -1 else z * z", "1.0 if abs(z) >= 1 else 2 * z", ANY),
    ("z if math.isfinite(z) and not (np.isnan(z) or math.isinf(z)) else 0", "1.0", ANY),
]


def compiled(function: Callable[..., Any]) -> CustomFunction:
    """Compile without the checks, which are for users."""
    return CustomFunction("activation", function, None, REALS, None)


def python(text: str) -> Callable[[Any], Any]:
    function: Callable[[Any], Any] = eval(f"lambda z: {text}", dict(NAMES))
    return function


@pytest.mark.source("S25", "Book learning outcomes")
@pytest.mark.parametrize(("text", "slope", "z"), CASES, ids=[f"{k} {case[0]}" for k, case in enumerate(CASES)])
def test_values_and_derivatives(text: str, slope: str, z: np.ndarray) -> None:
    custom = compiled(python(text))
    for dtype, tolerance in TOLERANCE.items():
        x = z.astype(dtype)
        for found, exact in zip(custom.evaluate(x), (text, slope), strict=True):
            expected = np.array([float(python(exact)(float(value))) for value in x])
            assert found.dtype == dtype
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * max(1e-3, np.abs(expected).max()))


# ---------------------------------------------------------------------------------------- inline functions

INLINE: dict[str, Callable[[Any], Any]] = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
}
"""Judged in extended precision (80 bits on x86-64)."""


@pytest.fixture(scope="module")
def inline() -> dict[str, CustomFunction]:
    return {name: compiled(python(f"math.{name}(z)")) for name in (*INLINE, "erf", "tan")}


def errors(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Distance from the exact value in units of the last place."""
    return np.abs(found.astype(np.longdouble) - exact) / np.spacing(np.abs(exact).astype(found.dtype))


def spread(name: str, dtype: Any) -> np.ndarray:
    rng = np.random.default_rng(0)
    small = rng.uniform(-1, 1, 30_000) * 10.0 ** rng.uniform(-30, 0, 30_000)
    z = np.concatenate([rng.normal(size=200_000), rng.uniform(-80, 80, 50_000), small])
    if name in ("log", "log1p"):
        z = np.abs(z) if name == "log" else np.concatenate([z[z > -1], -1 + 10.0 ** rng.uniform(-15, 0, 20_000)])
    if name in ("sin", "cos"):
        far = rng.uniform(-1, 1, 50_000) * 10.0 ** rng.uniform(0, 5 if dtype == np.float32 else 12, 50_000)
        z = np.concatenate([z, far, np.pi / 2 * np.rint(far), np.pi / 4 * np.arange(-999, 999)])
    return z.astype(dtype)


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="no precision beyond float64 to judge with")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", INLINE)
def test_errors_of_inline_functions(inline: dict[str, CustomFunction], name: str, dtype: Any) -> None:
    z = spread(name, dtype)
    with np.errstate(all="ignore"):
        exact = INLINE[name](z.astype(np.longdouble))
        ordinary = np.isfinite(exact.astype(dtype)) & (exact != 0)
        found = errors(inline[name].evaluate(z)[0], exact)[ordinary]
    worst = found.argmax()
    assert found[worst] <= LARGEST_ERROR, f"{found[worst]} ulp at {z[ordinary][worst]!r}"


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_errors_of_the_error_function(inline: dict[str, CustomFunction], dtype: Any) -> None:
    """Judged by the C library's in float64, which is off by up to 1 ulp itself."""
    z = np.concatenate([np.linspace(-7, 7, 20_001), 10.0 ** np.linspace(-30, 0, 1000)]).astype(dtype)
    exact = np.array([math.erf(value) for value in z])
    assert errors(inline["erf"].evaluate(z)[0], exact).max() <= LARGEST_ERROR + (dtype == np.float64)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_circular_functions_of_any_number(inline: dict[str, CustomFunction], name: str, dtype: Any) -> None:
    """Beyond the inline reduction's range the C library takes over, number by number."""
    ordinary = np.linspace(-10, 10, 45)
    huge = np.array([2.0**18, 3e5, 1e10, -1e13, 1e22, -1e30, np.finfo(dtype).max], dtype)
    z = np.insert(ordinary, [0, 3, 3, 17, 20, 40, 45], huge).astype(dtype)
    found, slopes = inline[name].evaluate(z)
    expected = np.array([getattr(math, name)(value) for value in z])
    np.testing.assert_allclose(found, expected, rtol=4 * np.finfo(dtype).eps)
    without = np.isin(z, huge, invert=True)
    np.testing.assert_array_equal(inline[name].evaluate(z[without]), (found[without], slopes[without]))
    assert np.isnan(inline[name].evaluate(np.array([np.nan, np.inf, -np.inf], dtype))).all()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", ["exp", "expm1", "log", "log1p", "tanh"])
def test_special_values(inline: dict[str, CustomFunction], name: str, dtype: Any) -> None:
    z = np.array(
        [np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 1e4, -1e4, np.finfo(dtype).tiny, np.finfo(dtype).max], dtype
    )
    with np.errstate(all="ignore"):
        expected = INLINE[name](z)
    np.testing.assert_allclose(inline[name].evaluate(z)[0], expected, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("name", ["minimum", "maximum", "fmin", "fmax"])
def test_nan_in_minima_and_maxima(name: str) -> None:
    z = np.array([np.nan, 1.0, 3.0])
    for text in (f"np.{name}(z, 2)", f"np.{name}(2, z)", f"np.{name}(z, math.nan)", f"np.{name}(math.nan, z)"):
        np.testing.assert_array_equal(compiled(python(text)).evaluate(z)[0], python(text)(z))


# ------------------------------------------------------------------------------------- dtypes, kinks, ends


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_numbers_take_the_dtype_of_what_they_stand_beside(dtype: Any) -> None:
    z = np.array([-2.7, 0.1, 3.3], dtype)
    values, slopes = compiled(lambda z: z * 0.1 + 1 / 3).evaluate(z)
    np.testing.assert_array_equal(values, z * dtype(0.1) + dtype(1 / 3))
    np.testing.assert_array_equal(slopes, np.full(3, 0.1, dtype))


@pytest.mark.parametrize(
    ("text", "slope"),
    [
        ("abs(z)", 0),
        ("math.hypot(z, 0)", 0),
        ("max(z, 0)", 0.5),
        ("min(0, 3 * z)", 1.5),
        ("math.log1p(math.exp(-abs(z))) + max(z, 0)", 0.5),  # smooth
        ("z if z > 0 else 0.0", 0),
        ("0.0 if z < 0 else z", 1),
        ("np.clip(z, 0, 1)", 0.5),
        ("np.where(z > 0, z, 3 * z)", 3),
        ("np.heaviside(z, 0.5)", 0),
        ("z**2", 0),
        ("z**3 + z**2.0 + z**1", 1),
    ],
)
def test_kinks_have_the_slope_of_the_branch_taken_or_the_mean(text: str, slope: float) -> None:
    values, slopes = compiled(python(text)).evaluate(np.zeros(1))
    assert slopes[0] == slope
    assert values[0] == python(text)(0.0)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_saturated_functions_have_the_slope_zero(dtype: Any) -> None:
    """The exponential is infinite there, and a slope of infinity / infinity would be NaN."""
    z = np.array([-1e4, 1e4, -100, 100], dtype)
    values, slopes = compiled(lambda z: 1 / (1 + math.exp(-z))).evaluate(z)
    np.testing.assert_allclose(values, special.expit(z.astype(np.float64)), atol=1e-38)
    np.testing.assert_allclose(slopes, 0, atol=1e-38)
    values, slopes = compiled(lambda z: z / (1 + math.exp(-z))).evaluate(z)
    np.testing.assert_allclose(values, np.maximum(z, 0), atol=1e-36)
    np.testing.assert_allclose(slopes, z > 0, atol=1e-36)


# --------------------------------------------------------------------------------- branches, loops, calls


def horner(z: Any, coefficients: Any = (0.5, -1, 2)) -> Any:
    total = 0
    for coefficient in coefficients:
        total = total * z + coefficient
    return total


def halved(z: Any) -> Any:
    steps = 0
    while abs(z) > 1 and steps < 5:
        z /= 2
        steps += 1
    return z * steps


def powers(z: Any) -> Any:
    x = 0
    for k in range(4):
        x += z**k
    return x


def pieces(z: Any) -> Any:
    if z < -1:
        return -1.0
    result = 1
    if z < 1:
        result = 0.5 * z * (3 - z * z)
    return result


def nested(z: Any) -> Any:
    def scaled(x: Any) -> Any:
        return x * z

    return scaled(z) + (lambda x: x - 1)(scaled(2))


def summed(z: Any) -> Any:
    return sum([z**k for k in range(3)])


def in_a_loop(z: Any) -> Any:
    n = 0
    while z >= 1:
        z, n = z - 1, n + 1
    return z * z + n


def in_place(z: Any) -> Any:
    x = z
    x += 1
    x -= 0.5
    x *= x
    x /= 2
    x **= 2
    x //= 1000
    x %= 7
    return x + z


FLOW: list[tuple[Callable[[Any], Any], Callable[[Any], Any]]] = [
    (horner, lambda z: z - 1),
    (halved, lambda z: next(k / 2**k for k in range(6) if abs(z) / 2**k <= 1 or k == 5)),
    (powers, lambda z: 1 + 2 * z + 3 * z * z),
    (pieces, lambda z: 1.5 * (1 - z * z) if -1 < z < 1 else 0.0),
    (nested, lambda z: 2 * z + 2),
    (summed, lambda z: 1 + 2 * z),
    (in_a_loop, lambda z: 2 * (z - max(0, math.floor(z)))),
    (in_place, lambda z: 1.0),
]


@pytest.mark.parametrize(("function", "slope"), FLOW, ids=[function.__name__ for function, _ in FLOW])
def test_control_flow(function: Callable[[Any], Any], slope: Callable[[Any], Any]) -> None:
    z = ANY[np.abs(ANY) != 1]
    values, slopes = compiled(function).evaluate(z)
    np.testing.assert_allclose(values, [function(float(value)) for value in z], rtol=1e-14)
    np.testing.assert_allclose(slopes, [slope(float(value)) for value in z], rtol=1e-14)


def is_positive(x: Any) -> bool:
    return x > 0


def expressions() -> st.SearchStrategy[str]:
    """Return texts of analytic functions of z, in terms of a module m."""
    unary = st.sampled_from(
        [
            "m.tanh({})",
            "m.sin({})",
            "m.cos({})",
            "m.exp(-({})**2)",
            "m.log(1.5 + ({})**2)",
            "m.sqrt(1 + ({})**2)",
            "m.atan({})",
        ]
    )
    binary = st.sampled_from(
        ["({} + {})", "({} - {})", "{} * {}", "{} / (1.5 + ({})**2)", "({0} if is_positive({1}) else 2 * {1})"]
    )
    leaves = st.sampled_from(["z", "z", "0.7", "(1 - z)", "z**3 / 9"])
    return st.recursive(
        leaves,
        lambda inner: (
            st.builds(str.format, unary, inner) | st.builds(lambda text, x, y: text.format(x, y), binary, inner, inner)
        ),
        max_leaves=6,
    )


@pytest.mark.source("S25", "Book learning outcomes")
@settings(max_examples=12, deadline=None)
@given(text=expressions())
def test_compositions_have_the_derivatives_that_complex_steps_give(text: str) -> None:
    """f(z + i h) = f(z) + i h f'(z) up to h^2, with no difference that loses digits."""
    custom = compiled(eval(f"lambda z: 0 * z + {text}", {"m": math, "is_positive": is_positive}))
    function = eval(f"lambda z: 0 * z + {text}", {"m": cmath, "is_positive": lambda x: x.real > 0})
    z = np.array([-1.9, -0.7, -0.11, 0.23, 0.9, 1.7])
    steps = [function(complex(value, 1e-30)) for value in z]
    values, slopes = custom.evaluate(z)
    np.testing.assert_allclose(values, [step.real for step in steps], rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(slopes, [step.imag / 1e-30 for step in steps], rtol=1e-9, atol=1e-11)
