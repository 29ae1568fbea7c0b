"""Custom activations and losses: C functions over arrays, values kept from outside, and refusals that say why."""

from __future__ import annotations

import copy
import ctypes
import math
import pickle
import re
import statistics
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import pytest
from fastbp.kernels.numba_custom import CustomFunction, custom_activation, custom_loss
from fastbp.kernels.numba_jit import host_has
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

DTYPES = [np.float32, np.float64]
SLOPE = 0.1
WEIGHTS = np.array([1.0, 2.0])


def swish(z: Any) -> Any:
    return z / (1 + math.exp(-z))


def huber(a: Any, y: Any) -> Any:
    error = abs(a - y)
    return 0.5 * error**2 if error < 1 else error - 0.5


@pytest.fixture(scope="module")
def activation() -> CustomFunction:
    return custom_activation(swish)


@pytest.fixture(scope="module")
def loss() -> CustomFunction:
    return custom_loss(huber)


def call(custom: CustomFunction, dtype: Any, *arrays: NDArray[Any] | None, n: int) -> None:
    """Call the C function as compiled code would."""
    kinds = [ctypes.c_void_p] * len(arrays) + [ctypes.c_int64]
    pointers = [None if array is None else array.ctypes.data for array in arrays]
    ctypes.CFUNCTYPE(None, *kinds)(custom.address(dtype))(*pointers, n)


# --------------------------------------------------------------------------------------------- C functions


@pytest.mark.source("S25", "Book learning outcomes")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 2, 7, 8, 15, 16, 17, 33, 100_003])
def test_an_activation_is_computed_in_place_for_n_elements(activation: CustomFunction, n: int, dtype: Any) -> None:
    z = np.random.default_rng(n).normal(scale=3, size=n + 5).astype(dtype)
    values, slopes = z.copy(), np.full_like(z, 7)
    call(activation, dtype, values, slopes, n=n)
    s = 1 / (1 + np.exp(-z[:n].astype(np.float64)))
    exact = z[:n] * s
    np.testing.assert_allclose(values[:n], exact, rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(slopes[:n], s + exact * (1 - s), rtol=0, atol=8 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(values[n:], z[n:])
    np.testing.assert_array_equal(slopes[n:], 7)
    alone = z.copy()
    call(activation, dtype, alone, None, n=n)
    np.testing.assert_array_equal(alone, values)


@pytest.mark.source("S25", "Book learning outcomes")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 9, 16, 4099])
def test_a_loss_is_computed_for_n_elements(loss: CustomFunction, n: int, dtype: Any) -> None:
    a, y = np.random.default_rng(n).normal(scale=2, size=(2, n + 5)).astype(dtype)
    given_a, given_y, losses, delta = a.copy(), y.copy(), np.full_like(a, 7), np.full_like(a, 7)
    call(loss, dtype, a, y, losses, delta, n=n)
    error = a[:n] - y[:n]
    exact = np.where(np.abs(error) < 1, dtype(0.5) * error**2, np.abs(error) - dtype(0.5))
    np.testing.assert_allclose(losses[:n], exact, rtol=2 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(delta[:n], np.clip(error, -1, 1))
    np.testing.assert_array_equal(np.concatenate([losses[n:], delta[n:]]), 7)
    np.testing.assert_array_equal((a, y), (given_a, given_y))


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=70), position=st.integers(0, 69))
def test_a_result_does_not_depend_on_what_stands_beside_it(
    activation: CustomFunction, values: list[float], position: int
) -> None:
    z = np.array(values, np.float32)
    k = position % len(z)
    together, alone = activation.evaluate(z), activation.evaluate(z[k : k + 1])
    assert [array[k] for array in together] == [array[0] for array in alone]


def test_nan_and_infinity_pass_through(activation: CustomFunction, loss: CustomFunction) -> None:
    values, slopes = activation.evaluate([np.nan, 1.0, np.inf, -1e300, 1e300])
    np.testing.assert_array_equal(values, [np.nan, swish(1.0), np.inf, 0, 1e300])
    assert np.isnan(slopes[0])
    assert np.isfinite(slopes[[1, 3, 4]]).all()
    losses, delta = loss.evaluate([np.nan, np.inf, 0.0, 0.0], [0.0, 0.0, np.nan, -np.inf])
    np.testing.assert_array_equal(losses, [np.nan, np.inf, np.nan, np.inf])
    np.testing.assert_array_equal(delta[[1, 3]], 1)


@pytest.mark.skipif(not host_has("avx2"), reason="the processor has no AVX2")
@pytest.mark.parametrize("function", [swish, lambda z: z if z > 0 else 0.01 * z, lambda z: math.sin(z) + z**2])
def test_loops_are_vectorised(function: Callable[[Any], Any]) -> None:
    compiled = CustomFunction("activation", function, None, (-math.inf, math.inf), None)._c_function("float32")
    assert not re.search(r"call .*@(llvm\.)?(exp|tanh|pow)f?[.(]", compiled._library.get_llvm_str())
    assert len(re.findall(r"v(mul|fmadd\w+)ps\s.*[yz]mm", compiled._library.get_asm_str())) >= 2


def test_a_loop_that_cannot_be_vectorised_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    values, _ = custom_activation(lambda z: math.asinh(z)).evaluate([2.0])
    assert values[0] == math.asinh(2.0)
    assert capfd.readouterr() == ("", "")


def test_an_index_out_of_range_gives_nan() -> None:
    table = (1.0, 2.0, 4.0)
    stepped = custom_activation(lambda z: z * table[int(z)], domain=(0, 3))
    z = np.linspace(0, 8, 50)
    values, slopes = stepped.evaluate(z)
    expected = [value * table[int(value)] if value < 3 else np.nan for value in z]
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(np.isnan(slopes), z >= 3)


def test_threads_may_compile_and_call_at_once() -> None:
    custom = CustomFunction("activation", swish, None, (-math.inf, math.inf), None)
    z, results = np.linspace(-5, 5, 1001), []
    threads = [threading.Thread(target=lambda: results.append(custom.evaluate(z))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for values, slopes in results:
        np.testing.assert_array_equal((values, slopes), results[0])


# ------------------------------------------------------------------------------------- what is kept and given


def test_evaluate_broadcasts_and_takes_the_dtype_of_float32(loss: CustomFunction) -> None:
    losses, delta = loss.evaluate(np.array([[0.5], [3.0]], np.float32), np.zeros(3, np.float32))
    assert losses.dtype == delta.dtype == np.float32
    np.testing.assert_array_equal(losses, [[0.125] * 3, [2.5] * 3])
    assert loss.evaluate(1, np.float32(0))[0].dtype == np.float64
    with pytest.raises(ValueError, match="a custom loss takes a and y, got 1 argument"):
        loss.evaluate([1.0])


def test_values_from_outside_are_those_when_it_was_made() -> None:
    global SLOPE, WEIGHTS
    shift, table, numbers = 1.0, np.array([3.0, 5.0]), [1, 0.5]

    def outer(x: Any) -> Any:
        return x * SLOPE + table[1]

    custom = custom_activation(lambda z: outer(z) + shift + WEIGHTS[0] * z + numbers[1])
    expected = custom.evaluate(2.0)[0]
    assert expected == 2 * 0.1 + 5 + 1 + 2 + 0.5
    before = SLOPE, WEIGHTS.copy()
    shift, table[1], numbers[1], SLOPE, WEIGHTS[0] = 100.0, 100.0, 100.0, 100.0, 100.0
    try:
        assert custom.evaluate(2.0)[0] == expected
        assert custom.evaluate(np.float32(2))[0] == np.float32(expected)  # compiled only now
    finally:
        SLOPE, WEIGHTS[:] = before


def test_functions_that_numba_compiled_are_compiled_anew() -> None:
    doubled = numba.njit(lambda x: 2 * x)
    custom = custom_activation(numba.njit(lambda z, power=2: doubled(z) ** power))
    assert [float(array) for array in custom.evaluate(3.0)] == [36, 24]


def test_a_derivative_may_be_given() -> None:
    """Then the function may be what Numba knows for floats only, like np.sinc."""

    def slope(z: Any) -> Any:
        return (math.cos(math.pi * z) - np.sinc(z)) / z if z != 0 else 0.0

    custom = custom_activation(lambda z: np.sinc(z), derivative=slope)
    for dtype in DTYPES:
        z = np.array([-1.3, 0.0, 0.5, 2.0], dtype)
        values, slopes = custom.evaluate(z)
        np.testing.assert_allclose(values, np.sinc(z), atol=2 * np.finfo(dtype).eps)
        np.testing.assert_allclose(slopes, [slope(value) for value in z], atol=8 * np.finfo(dtype).eps)
    squared = custom_loss(lambda a, y: (a - y) ** 2, derivative=lambda a, y: 2 * (a - y))
    assert [float(array) for array in squared.evaluate(5, 2)] == [9, 6]


def test_equality_copies_and_pickles(activation: CustomFunction, loss: CustomFunction) -> None:
    assert activation == custom_activation(swish)
    assert hash(activation) == hash(custom_activation(swish))
    assert activation != custom_activation(lambda z: swish(z))
    assert activation != loss
    assert activation != swish
    assert repr(activation) == "<custom activation swish>"
    assert (loss.kind, loss.name, loss.function) == ("loss", "huber", huber)
    assert copy.copy(activation) is copy.deepcopy(activation) is activation
    assert pickle.loads(pickle.dumps(loss)) == loss


@pytest.mark.parametrize("dtype", [np.float16, np.int64])
def test_other_dtypes_are_refused(activation: CustomFunction, dtype: Any) -> None:
    with pytest.raises(ValueError, match=f"compiled for float32 and float64, got {np.dtype(dtype)}"):
        activation.address(dtype)


# ------------------------------------------------------------------------------------------------ refusals


def raises_itself(z: Any) -> Any:
    assert z < 100
    return z


def catches(z: Any) -> Any:
    try:
        return 1 / z
    except ZeroDivisionError:
        return 0.0


def returns_nothing(z: Any) -> Any:
    if z > 0:
        return z
    return None


def prints(z: Any) -> Any:
    print(z)
    return z


def generates(z: Any) -> Any:
    yield z


def calls_another(z: Any) -> Any:
    return statistics_of(z) + 1


def statistics_of(z: Any) -> Any:
    return statistics.mean([z, z])


REFUSED: list[tuple[Any, str]] = [
    (3, "custom activation int must be a Python function, got 3; write one: def f"),
    (np.tanh, "custom activation tanh must be a Python function, got <ufunc 'tanh'>"),
    (lambda z, y: z * y, r"must take z, got a function of \(z, y\); write def f\(z\): return"),
    (lambda: 1.0, r"must take z, got a function of \(\)"),
    (generates, "must return a number, got a coroutine or generator"),
    (raises_itself, r"raises an exception.*return math.nan instead \(line \d+ of .*test_custom.py: assert z < 100\)"),
    (catches, r"uses try or with.*test for the case instead \(line \d+ of"),
    (returns_nothing, "must return a number, got None on some path"),
    (lambda z: None, "must return a number, got None;"),
    (lambda z: z > 0, "must return a number, got bool"),
    (lambda z: (z, z), "must return a number, got UniTuple"),
    (prints, "custom activation prints prints, and compiled code has no time"),
    (lambda z: np.sinc(z), r"there is no sinc\(number\) \(line \d+ of .*test_custom.py: .*np.sinc\(z\)"),
    (lambda z: z + unknown, "name 'unknown' is not defined"),  # type: ignore[name-defined]  # noqa: F821
    (lambda z: z.clip(0), r"Unknown attribute 'clip' of type number \(line \d+ of .*test_custom.py: .*clip"),
    (lambda z: math.nothing(z), "module 'math' has no attribute 'nothing'"),  # type: ignore[attr-defined]
    (lambda z: z + 1j, r"there is no add\(number, complex128\)"),
    (
        calls_another,
        r"'mean'.*\(line \d+ of .*test_custom.py: return statistics.mean\(\[z, z\]\)\). Write it with arith",
    ),
    (lambda z: math.sqrt(z), r"is nan at z = -8; restrict it to where it is finite: domain=\(low, high\)$"),
    (lambda z: 1 / z, "is inf at z = 0; restrict it"),
    (lambda z: math.sqrt(abs(z)), "has the derivative nan at z = 0; compute that point in a branch of its own"),
    (lambda z: 2**70 * z, r"is -0 when compiled, and -9.4.*e\+21 in Python at z = -8; .* must fit in 64 bits"),
    (lambda z: np.random.normal() * z, r"is .* when compiled, and .* in Python"),  # noqa: NPY002
]


@pytest.mark.parametrize(("function", "message"), REFUSED, ids=[message[:30] for _, message in REFUSED])
def test_refusals_say_what_and_where(function: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        custom_activation(function)


def test_refusals_of_losses_and_derivatives() -> None:
    with pytest.raises(ValueError, match=r"custom loss <lambda> must take a and y, got a function of \(a\)"):
        custom_loss(lambda a: a)
    with pytest.raises(
        ValueError, match="has the derivative -8, but slopes of -16 below and -16 above at z = -8; mend"
    ):
        custom_activation(lambda z: z * z, derivative=lambda z: z)
    with pytest.raises(
        ValueError, match="the derivative of custom activation <lambda> cannot be compiled: there is no"
    ):
        custom_activation(lambda z: z * z, derivative=lambda z: len(z))
    with pytest.raises(ValueError, match="the derivative of custom activation <lambda> must be a Python function"):
        custom_activation(lambda z: z * z, derivative=0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="has the derivative 1, but slopes of 2 below"):  # int() does not vary
        custom_activation(lambda z: z + int(1e6 * z) * 1e-6)


def cross_entropy(a: Any, y: Any) -> Any:
    return -y * math.log(a) - (1 - y) * math.log(1 - a)


def deviance(a: Any, y: Any) -> Any:
    return y * math.log(y / a) - y + a


def test_domains() -> None:
    entropy = custom_loss(cross_entropy, domain=(0, 1))
    assert (entropy.domain, entropy.targets) == ((0, 1), (0, 1))
    losses, delta = entropy.evaluate([0.25, 0.5], [1.0, 0.0])
    np.testing.assert_allclose((losses, delta), [[math.log(4), math.log(2)], [-4, 2]])
    assert custom_loss(deviance, domain=(0, math.inf), targets=(0.1, math.inf)).targets == (0.1, math.inf)
    assert custom_activation(lambda z: math.log(-z), domain=(-math.inf, 0)).domain == (-math.inf, 0)
    with pytest.raises(ValueError, match=r"is nan at a = -8, y = -8; .*domain=\(low, high\) of a, or targets="):
        custom_loss(cross_entropy)
    with pytest.raises(ValueError, match=r"is nan at a = 0.001, y = 0; .*targets=\(low, high\) of y"):
        custom_loss(deviance, domain=(0, math.inf))
    for domain in ((1, 0), (0, 0), (math.nan, 1), 3, (1,), "ab"):
        with pytest.raises(ValueError, match="domain must be"):
            custom_activation(swish, domain=domain)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="targets must be"):
            custom_loss(huber, targets=domain)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "function",
    [
        abs,
        math.floor,
        lambda z: max(z, 0),
        lambda z: 1.0 if z > 0 else 0.0,
        lambda z: z % 1,
        lambda z: np.sign(z) * z**2,
    ],
    ids=["abs", "floor", "relu", "step", "sawtooth", "sign"],
)
def test_kinks_and_jumps_are_accepted(function: Callable[[Any], Any]) -> None:
    """Many points of the check are kinks of them."""
    assert custom_activation(lambda z: function(z)).kind == "activation"
