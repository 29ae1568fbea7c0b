"""Custom activations and losses: plain Python functions of numbers, compiled together with their derivatives.

Source: "automatic differentiation" among the learning outcomes of the Book. A derivative is found by forward-mode
automatic differentiation (`numba_dual`), and compared with difference quotients before anything is trained with it.
"""

from __future__ import annotations

import ctypes
import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numpy.typing import ArrayLike, NDArray

from . import numba_dual_math  # noqa: F401 - makes the functions of dual numbers known to Numba
from .numba_elementwise import call_of, compile_activation, compile_loss, uses
from .numba_source import check_form, check_instructions, check_result, frozen, refusal

log = logging.getLogger("fastbp")

Function = Callable[..., Any]
Interval = tuple[float, float]
Arguments = list[NDArray[np.float64]]

REALS = (-math.inf, math.inf)
"""The domain of a function that takes any number."""

FUNCTIONS: dict[int, tuple[str, str, Any]] = {}
"""Every C function by its address, with its kind and dtype. They stay: a plan may outlive whom it was made for."""

_ARGUMENTS = {"activation": ("z",), "loss": ("a", "y")}
_DTYPES = {"float32": types.float32, "float64": types.float64}


class _Source:
    """One of the user's Python functions."""

    def __init__(self, title: str, function: Any, arguments: tuple[str, ...]) -> None:
        check_form(title, function, arguments)
        self.title, self.n_args = title, len(arguments)
        self._known: dict[Any, Any] = {}
        self.dispatcher = frozen(function, self._known)
        check_instructions(title, self._known)

    def check_compiles(self, dtype: Any, varies: bool) -> None:
        """Raise ValueError if it does not, or returns no number."""
        try:
            call = call_of(self.dispatcher, dtype, self.n_args, varies)
        except Exception as error:
            log.debug("%s cannot be compiled", self.title, exc_info=True)
            raise refusal(self.title, self._known, error) from None
        check_result(self.title, call.signature.return_type)
        if uses(call, {print}):
            raise ValueError(f"{self.title} prints, and compiled code has no time for it: drop the print")


class CustomFunction:
    """An activation or a loss that a user wrote, compiled: what `custom_activation` and `custom_loss` return.

    Variables from outside the function keep the values in it that they had when this object was made. Two objects are
    equal if they are of one kind and of the same Python functions. A copy is the object itself; a pickle names the
    functions, as any pickle of a function does, and they are compiled and checked again where it is read.

    Attributes
    ----------
    kind : str
        ``"activation"`` or ``"loss"``.
    function : callable
        The Python function.
    derivative : callable or None
        The Python function of the derivative, where one was given.
    name : str
        The function's name, ``"<lambda>"`` if it has none.
    domain : tuple of float
        The interval of z, or of a, in which the function was checked.
    targets : tuple of float or None
        For a loss, the interval of y.
    """

    def __init__(
        self, kind: str, function: Function, derivative: Function | None, domain: Interval, targets: Interval | None
    ) -> None:
        title = f"custom {kind} {getattr(function, '__name__', type(function).__name__)}"
        self._function, self._derivative = _Source(title, function, _ARGUMENTS[kind]), None
        if derivative is not None:
            self._derivative = _Source(f"the derivative of {title}", derivative, _ARGUMENTS[kind])
        self.kind, self.function, self.derivative, self.name = kind, function, derivative, function.__name__
        self.domain, self.targets = domain, targets
        self._c_functions: dict[str, Any] = {}

    def address(self, dtype: Any) -> int:
        """Return the address of the C function for a dtype, which the first call compiles.

        Of an activation it is ``void f(T *z, T *derivative, int64_t n)``: z becomes f(z) in place, and ``derivative``,
        unless it is null, f'(z). Of a loss it is ``void f(const T *a, const T *y, T *losses, T *delta, int64_t n)``:
        ``losses`` becomes loss(a, y), and ``delta`` d loss / d a. The arrays have n elements each, and share none. It
        needs no GIL and raises nothing: where there is no result, it writes NaN. A value does not depend on where it
        stands, on n, or on whether derivatives are wanted.

        Parameters
        ----------
        dtype : dtype
            T, float32 or float64.

        Returns
        -------
        int
            It holds as long as the process.

        Raises
        ------
        ValueError
            If the dtype is another one.
        """
        return int(self._c_function(np.dtype(dtype).name).address)

    def _c_function(self, dtype: str) -> Any:
        if dtype not in _DTYPES:
            raise ValueError(f"custom functions are compiled for float32 and float64, got {dtype}")
        if dtype not in self._c_functions:
            kind = _DTYPES[dtype]
            self._function.check_compiles(kind, self._derivative is None)
            if self._derivative is not None:
                self._derivative.check_compiles(kind, False)
            compile_for = compile_activation if self.kind == "activation" else compile_loss
            slope = None if self._derivative is None else self._derivative.dispatcher
            compiled: Any = compile_for(self._function.dispatcher, slope, kind)
            FUNCTIONS[int(compiled.address)] = self.kind, dtype, compiled
            # two threads may both come here: all shall have the address of one and the same
            self._c_functions.setdefault(dtype, compiled)
        return self._c_functions[dtype]

    def evaluate(self, *arguments: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the values and the derivatives for arrays of arguments.

        Parameters
        ----------
        *arguments : array_like
            z of an activation; a and y of a loss, which are broadcast. They are computed in float32 if all are of that
            dtype, else in float64.

        Returns
        -------
        values : ndarray
            f(z), or loss(a, y).
        derivatives : ndarray
            f'(z), or d loss / d a.

        Raises
        ------
        ValueError
            If there are too many or too few arguments, or they cannot be broadcast.
        """
        names = _ARGUMENTS[self.kind]
        if len(arguments) != len(names):
            raise ValueError(f"a custom {self.kind} takes {' and '.join(names)}, got {len(arguments)} arguments")
        arrays = [np.asarray(argument) for argument in arguments]
        dtype = np.dtype(np.float32 if all(array.dtype == np.float32 for array in arrays) else np.float64)
        inputs = [np.array(array, dtype, order="C") for array in np.broadcast_arrays(*arrays)]
        values = inputs[0] if self.kind == "activation" else np.empty_like(inputs[0])
        buffers = [*inputs, np.empty_like(values)]
        if self.kind == "loss":
            buffers.insert(2, values)
        call = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * len(buffers), ctypes.c_int64)(self.address(dtype))
        call(*[buffer.ctypes.data for buffer in buffers], values.size)
        return values, buffers[-1]

    def _key(self) -> tuple[Any, ...]:
        return self.kind, self.function, self.derivative

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CustomFunction) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"<custom {self.kind} {self.name}>"

    def __copy__(self) -> CustomFunction:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> CustomFunction:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _checked, (self.kind, self.function, self.derivative, self.domain, self.targets)


def custom_activation(
    function: Function, *, derivative: Function | None = None, domain: Interval = REALS
) -> CustomFunction:
    """Make an activation of a Python function ``def f(z): ...``.

    a = f(z) for each unit alone; backpropagation multiplies by f'(z), which automatic differentiation finds.

    Parameters
    ----------
    function : callable
        A Python function of one number that returns a number. It may compute with arithmetic, comparisons, branches,
        loops, functions of `math` and `numpy` on single numbers, and other functions of that kind; it may use numbers,
        tuples and arrays from outside, and keeps the values that they have now. It may not raise or print.
    derivative : callable, optional
        f', as such a function too, where it is better written by hand: then f may be anything that Numba compiles.
    domain : tuple of float
        The interval of the numbers that f is made for. f is checked inside it, and may be NaN outside.

    Returns
    -------
    CustomFunction

    Raises
    ------
    ValueError
        If f is no function of one number, cannot be compiled (the message names the line), is NaN or infinite in its
        domain, or has another derivative than its difference quotients show. At a kink any number between the slopes
        on its two sides will do.

    Examples
    --------
    >>> import math
    >>> from fastbp.kernels.numba_custom import custom_activation
    >>> swish = custom_activation(lambda z: z / (1 + math.exp(-z)))
    >>> values, derivatives = swish.evaluate([0.0, 100.0])
    >>> values, derivatives
    (array([  0., 100.]), array([0.5, 1. ]))
    """
    return _checked("activation", function, derivative, domain, None)


def custom_loss(
    function: Function,
    *,
    derivative: Function | None = None,
    domain: Interval = REALS,
    targets: Interval | None = None,
) -> CustomFunction:
    """Make a loss of a Python function ``def loss(a, y): ...``.

    It is the loss of one output a with the target y. Backpropagation starts with d loss / d a, which automatic
    differentiation finds.

    Parameters
    ----------
    function : callable
        A Python function of two numbers that returns a number. What it may do is the same as for `custom_activation`.
    derivative : callable, optional
        d loss / d a as a function of a and y, where it is better written by hand.
    domain : tuple of float
        The interval of a, inside which the loss is finite: ``(0, 1)`` for probabilities, whose logarithms it takes.
    targets : tuple of float, optional
        The interval of y, with its ends where they are finite. Left out: that of a.

    Returns
    -------
    CustomFunction

    Raises
    ------
    ValueError
        As for `custom_activation`.

    Examples
    --------
    >>> import math
    >>> from fastbp.kernels.numba_custom import custom_loss
    >>> log_cosh = custom_loss(lambda a, y: math.log(math.cosh(a - y)))
    >>> losses, delta = log_cosh.evaluate([1.0, 3.0], 1.0)
    >>> losses.round(3), delta.round(3)
    (array([0.   , 1.325]), array([0.   , 0.964]))
    """
    return _checked("loss", function, derivative, domain, domain if targets is None else targets)


def _checked(
    kind: str, function: Function, derivative: Function | None, domain: Interval, targets: Interval | None
) -> CustomFunction:
    domain = _interval("domain", domain)
    targets = None if targets is None else _interval("targets", targets)
    custom = CustomFunction(kind, function, derivative, domain, targets)
    _check(custom, _sample(custom))
    return custom


# ------------------------------------------------------------------------------------------------- checks


def _interval(name: str, interval: Any) -> Interval:
    try:
        low, high = map(float, interval)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a pair of numbers (low, high), got {interval!r}") from None
    if not low < high:
        raise ValueError(f"{name} must be an interval (low, high) with low < high, got {interval!r}")
    return low, high


def _sample(custom: CustomFunction) -> Arguments:
    """Return arguments inside the domain, those at which simple functions have kinks among them."""
    x = _inside(*custom.domain)
    if custom.targets is None:
        return [x]
    ends = [end for end in custom.targets if math.isfinite(end)]
    grid = np.meshgrid(x, np.concatenate([ends, _inside(*custom.targets)[::4]]))
    return [axis.ravel() for axis in grid]


def _inside(low: float, high: float) -> NDArray[np.float64]:
    if math.isfinite(low) and math.isfinite(high):
        return low + (high - low) * np.concatenate([[1e-3, 0.02], np.linspace(0.05, 0.95, 19), [0.98, 0.999]])
    steps = np.array([1e-3, 0.02, 0.1, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3, 4, 5.3, 8])
    if math.isfinite(low):
        return low + steps
    if math.isfinite(high):
        return high - steps[::-1]
    return np.sort(np.concatenate([np.linspace(-4, 4, 33), [-8, -5.3, -1e-3, 1e-3, 5.3, 8]]))


def _check(custom: CustomFunction, arguments: Arguments) -> None:
    """Refuse a function that is not finite, computes something else than in Python, or has the wrong derivative.

    The derivative is compared with the slopes to the left and to the right, which differ little where the function is
    smooth. At a kink it may lie anywhere between them; at a jump one of them is very large.
    """
    (x, *rest), (low, high) = arguments, custom.domain
    step = np.minimum(6e-6 * np.maximum(1.0, np.abs(x)), 0.25 * np.minimum(x - low, high - x))
    (values, slopes), (before, _), (after, _) = (custom.evaluate(at, *rest) for at in (x, x - step, x + step))
    finite = "restrict it to where it is finite: domain=(low, high)"
    finite += " of a, or targets=(low, high) of y" if custom.kind == "loss" else ""
    _refuse(custom, arguments, ~np.isfinite(values), lambda k: f"is {values[k]}", finite)
    apart = "compute that point in a branch of its own, or give derivative=..."
    _refuse(custom, arguments, ~np.isfinite(slopes), lambda k: f"has the derivative {slopes[k]}", apart)
    expected = _in_python(custom, arguments)
    _refuse(
        custom,
        arguments,
        np.isfinite(expected) & ~np.isclose(values, expected, rtol=1e-9, atol=1e-12 * np.abs(values).max()),
        lambda k: f"is {values[k]:.6g} when compiled, and {expected[k]:.6g} in Python",
        "it must depend on nothing but its arguments, and its integers must fit in 64 bits",
    )
    left, right = (values - before) / (x - (x - step)), (after - values) / ((x + step) - x)
    steepest = np.maximum(np.abs(left), np.abs(right))
    rounding = 64 * np.finfo(np.float64).eps * np.abs(values) / step
    slack = 1e-4 * (steepest + np.median(steepest)) + rounding  # the median for slopes near 0, which curvature changes
    _refuse(
        custom,
        arguments,
        (slopes < np.minimum(left, right) - slack) | (slopes > np.maximum(left, right) + slack),
        lambda k: f"has the derivative {slopes[k]:.6g}, but slopes of {left[k]:.6g} below and {right[k]:.6g} above",
        "where branches meet, take min, max or abs instead, or give derivative=..."
        if custom.derivative is None
        else "mend derivative=, or leave it out",
    )


def _in_python(custom: CustomFunction, arguments: Arguments) -> NDArray[np.float64]:
    """Return the values that Python computes, NaN where it raises: compiled code has infinity or NaN there."""
    function = getattr(custom.function, "py_func", custom.function)

    def value(*numbers: float) -> float:
        try:
            return float(function(*numbers))
        except Exception:  # whatever a user's function may raise
            return math.nan

    with np.errstate(all="ignore"):
        return np.array([value(*point) for point in zip(*(axis.tolist() for axis in arguments), strict=True)])


def _refuse(
    custom: CustomFunction, arguments: Arguments, wrong: NDArray[np.bool_], say: Callable[[int], str], advice: str
) -> None:
    """Raise ValueError about the first arguments for which something is wrong."""
    if wrong.any():
        k = int(wrong.argmax())
        names = _ARGUMENTS[custom.kind]
        point = ", ".join(f"{name} = {axis[k]:.6g}" for name, axis in zip(names, arguments, strict=True))
        raise ValueError(f"custom {custom.kind} {custom.name} {say(k)} at {point}; {advice}")
