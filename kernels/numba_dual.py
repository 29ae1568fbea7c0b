"""Dual numbers for Numba: the derivative of a user's function, found by forward-mode automatic differentiation.

A dual number x + x' eps, with eps^2 = 0, is a value and its derivative by the function's argument, whose own derivative
is 1. Arithmetic follows from eps^2 = 0: (x + x' eps) (y + y' eps) = x y + (x' y + x y') eps; any other function f makes
f(x) + f'(x) x' eps of it. What Numba compiles for floats, it compiles for a `Dual` number too: branches, loops and
calls. Only the operations differ: the operators stand here, the functions in `numba_dual_math`.

A plain number beside a dual one takes its dtype; so does a variable that is a number on one path and dual on another.
At a kink the derivative is that of the branch taken; abs, min and max have the mean of the slopes on both sides.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.core.typing.templates import AbstractTemplate, infer_global
from numba.extending import intrinsic, lower_builtin, lower_cast, register_model

from .numba_jit import inlined
from .numba_vectors import Lane, emit_fma

NUMBERS = (types.Integer, types.Float, types.Boolean)
"""The Numba types that a dual number may stand beside."""


class Dual(types.Type):
    """The Numba type of a number in a user's function: its value and its derivative, two lanes of ``dtype``.

    Parameters
    ----------
    dtype : numba type
        float32 or float64.
    varies : bool
        False for a number that does not depend on the variable: it has no derivative, and none is computed.
    exact : bool
        A function that holds for a range of arguments gives up beyond it (`give_up_if`). With ``exact`` it is computed
        in a way that always holds, and takes longer.
    """

    as_written = True

    def __init__(self, dtype: Any, varies: bool = True, exact: bool = False) -> None:
        self.dtype, self.varies, self.exact = dtype, varies, exact
        super().__init__(f"Dual({dtype}{'' if varies else ', constant'}{', exact' if exact else ''})")

    def unify(self, typingctx: Any, other: Any) -> Any:
        """Return the type of a variable that has this type on one path and another one on a second path."""
        if isinstance(other, NUMBERS):
            return self
        if isinstance(other, Dual) and (other.dtype, other.exact) == (self.dtype, self.exact):
            return self if self.varies else other
        return None


@register_model(Dual)
class _DualModel(models.StructModel):
    def __init__(self, manager: Any, kind: Dual) -> None:
        lanes = ("value", "derivative") if kind.varies else ("value",)
        super().__init__(manager, kind, [(name, Lane(kind.dtype)) for name in lanes])


class Parts(NamedTuple):
    """A dual number in LLVM's hands. A constant has no derivative."""

    value: Any
    derivative: Any = None


def emit_split(context: Any, builder: Any, kind: Any, number: Any) -> Parts:
    """Return the parts of a dual number."""
    proxy = cgutils.create_struct_proxy(kind)(context, builder, value=number)
    return Parts(proxy.value, proxy.derivative if kind.varies else None)


def emit_join(context: Any, builder: Any, kind: Any, parts: Parts) -> Any:
    """Return the dual number of parts; a derivative that is missing is 0."""
    proxy = cgutils.create_struct_proxy(kind)(context, builder)
    proxy.value = parts.value
    if kind.varies:
        proxy.derivative = _real(parts.value, 0.0) if parts.derivative is None else parts.derivative
    return proxy._getvalue()


def _real(like: Any, value: float) -> Any:
    return ir.Constant(like.type, value)


@lower_cast(types.Integer, Dual)
@lower_cast(types.Float, Dual)
@lower_cast(types.Boolean, Dual)
def _from_number(context: Any, builder: Any, from_type: Any, to_type: Any, value: Any) -> Any:
    as_float = context.cast(builder, value, types.unliteral(from_type), to_type.dtype)
    return emit_join(context, builder, to_type, Parts(as_float))


@lower_cast(Dual, Dual)
def _from_constant(context: Any, builder: Any, from_type: Any, to_type: Any, value: Any) -> Any:
    return emit_join(context, builder, to_type, emit_split(context, builder, from_type, value))


def promoted(args: Any, kinds: tuple[type, ...]) -> list[Any] | None:
    """Return the types as which a function of dual numbers takes its arguments, None if it does not take them.

    One of them is dual at least. Where the function wants a `Dual`, a number becomes a constant; other kinds of
    arguments stay what they are.
    """
    first = next((arg for arg in args if isinstance(arg, Dual)), None)
    if first is None or len(args) != len(kinds):
        return None
    constant, result = Dual(first.dtype, False, first.exact), []
    for arg, kind in zip(args, kinds, strict=True):
        if isinstance(arg, kind):
            result.append(types.unliteral(arg))
        elif kind is Dual and isinstance(arg, NUMBERS):
            result.append(constant)
        else:
            return None
    return result


def common(kinds: Iterable[Any]) -> Dual:
    """Return the type of a result that depends on arguments of these types."""
    duals = [kind for kind in kinds if isinstance(kind, Dual)]
    return next((kind for kind in duals if kind.varies), duals[0])


# ----------------------------------------------------------------------------------------------- operators


def _define(emit: Callable[..., Any], n_args: int, *functions: Any, result: Any = None) -> None:
    """Define functions of dual numbers by the LLVM instructions on their `Parts`.

    ``emit`` returns `Parts`, or a value of the type ``result``.
    """

    def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pairs = zip(signature.args, args, strict=True)
        answer = emit(builder, *(emit_split(context, builder, kind, number) for kind, number in pairs))
        return answer if result else emit_join(context, builder, signature.return_type, answer)

    for function in functions:

        @infer_global(function)
        class Template(AbstractTemplate):
            def generic(self, args: Any, kws: Any) -> Any:
                kinds = None if kws else promoted(args, (Dual,) * n_args)
                return kinds and (result or common(kinds))(*kinds)

        lower_builtin(function, *[Dual] * n_args)(lower)


def _plus(builder: Any, x: Any, y: Any) -> Any:
    """Return x + y of derivatives, where a missing one is 0."""
    if x is None or y is None:
        return y if x is None else x
    return builder.fadd(x, y)


def _times(builder: Any, factor: Any, x: Any) -> Any:
    """Return a factor times a derivative, which may be missing."""
    return None if x is None else builder.fmul(factor, x)


def _minus(builder: Any, x: Any) -> Any:
    return None if x is None else builder.fneg(x)


def _add(builder: Any, x: Parts, y: Parts) -> Parts:
    return Parts(builder.fadd(x.value, y.value), _plus(builder, x.derivative, y.derivative))


def _subtract(builder: Any, x: Parts, y: Parts) -> Parts:
    return Parts(builder.fsub(x.value, y.value), _plus(builder, x.derivative, _minus(builder, y.derivative)))


def _multiply(builder: Any, x: Parts, y: Parts) -> Parts:
    value, derivative = builder.fmul(x.value, y.value), _times(builder, x.value, y.derivative)
    if x.derivative is None or derivative is None:
        return Parts(value, _plus(builder, _times(builder, y.value, x.derivative), derivative))
    return Parts(value, emit_fma(builder, x.derivative, y.value, derivative))


def _divide(builder: Any, x: Parts, y: Parts) -> Parts:
    """Return (x' - (x / y) y') / y; where x is constant as -((x / y) y') (1 / y), a single division if x is 1."""
    quotient = builder.fdiv(x.value, y.value)
    lost = _times(builder, quotient, y.derivative)
    if lost is None:
        return Parts(quotient, None if x.derivative is None else builder.fdiv(x.derivative, y.value))
    if x.derivative is None:
        return Parts(quotient, builder.fmul(builder.fneg(lost), builder.fdiv(_real(quotient, 1.0), y.value)))
    return Parts(quotient, builder.fdiv(builder.fsub(x.derivative, lost), y.value))


def _negate(builder: Any, x: Parts) -> Parts:
    return Parts(builder.fneg(x.value), _minus(builder, x.derivative))


_define(_add, 2, operator.add, operator.iadd, np.add)
_define(_subtract, 2, operator.sub, operator.isub, np.subtract)
_define(_multiply, 2, operator.mul, operator.imul, np.multiply)
_define(_divide, 2, operator.truediv, operator.itruediv, np.divide)
_define(_negate, 1, operator.neg, np.negative)
_define(lambda builder, x: x, 1, operator.pos, float, np.positive)


def _define_comparison(sign: str, *functions: Any) -> None:
    def emit(builder: Any, x: Parts, y: Parts) -> Any:
        compare = builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered
        return compare(sign, x.value, y.value)

    _define(emit, 2, *functions, result=types.boolean)


_define_comparison("<", operator.lt, np.less)
_define_comparison("<=", operator.le, np.less_equal)
_define_comparison(">", operator.gt, np.greater)
_define_comparison(">=", operator.ge, np.greater_equal)
_define_comparison("==", operator.eq, np.equal)
_define_comparison("!=", operator.ne, np.not_equal)


def _is_true(builder: Any, x: Parts) -> Any:
    return builder.fcmp_unordered("!=", x.value, _real(x.value, 0.0))


_define(_is_true, 1, bool, operator.truth, result=types.boolean)
_define(lambda builder, x: builder.not_(_is_true(builder, x)), 1, operator.not_, result=types.boolean)
_define(lambda builder, x: builder.fptosi(x.value, ir.IntType(64)), 1, int, result=types.int64)


# --------------------------------------------------------------------------------------------------- rules


GIVES_UP: set[Any] = set()
"""Functions of dual numbers that may give up, as users write them."""

_GAVE_UP = ir.Constant(ir.IntType(32), 64)
"""What a function returns in place of Numba's code for success."""


def rule(*functions: Any, exact: Callable[..., Any] | None = None, kinds: tuple[type, ...] | None = None) -> Any:
    """Define functions of dual numbers by Python code, which gets at their lanes with `value_of` and `chain`.

    Parameters
    ----------
    *functions : callable
        What users call; Numba knows it for floats.
    exact : callable, optional
        Code that never gives up, for functions that may.
    kinds : tuple of types, optional
        Numba types of the arguments that the code takes. Left out: `Dual` for each.
    """

    def define(code: Callable[..., Any]) -> Any:
        usual = inlined(code, forceinline=True)
        careful = inlined(exact, forceinline=True) if exact else usual
        taken = kinds or (Dual,) * code.__code__.co_argcount

        def chosen(args: Any) -> Any:
            return types.Dispatcher(careful if common(args).exact else usual)

        def lower(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return context.get_function(chosen(signature.args), signature)(builder, args)

        for function in functions:

            @infer_global(function)
            class Template(AbstractTemplate):
                def generic(self, args: Any, kws: Any) -> Any:
                    given = None if kws else promoted(args, taken)
                    return given and chosen(given).get_call_type(self.context, given, {})

            lower_builtin(function, *taken)(lower)
        if exact:
            GIVES_UP.update(functions)
        return usual

    return define


@intrinsic
def value_of(typingctx: Any, x: Any) -> Any:
    """Return the value of a dual number, a lane."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit_split(context, builder, signature.args[0], args[0]).value

    return Lane(x.dtype)(x), codegen


@intrinsic
def constant(typingctx: Any, value: Any, like: Any) -> Any:
    """Return a lane as a dual number that does not vary, as exact as another one."""
    kind = Dual(like.dtype, False, like.exact)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return emit_join(context, builder, kind, Parts(args[0]))

    return kind(Lane(like.dtype), like), codegen


@intrinsic
def chain(typingctx: Any, value: Any, slope: Any, x: Any) -> Any:
    """Return the dual number of a function of x: its value, and its derivative ``slope`` times that of x."""
    lane = Lane(x.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, slope, x = args
        derivative = emit_split(context, builder, signature.args[2], x).derivative
        return emit_join(context, builder, signature.return_type, Parts(value, _times(builder, slope, derivative)))

    return x(lane, lane, x), codegen


@intrinsic
def chain_two(typingctx: Any, value: Any, slope_x: Any, x: Any, slope_y: Any, y: Any) -> Any:
    """Return the dual number of a function of x and y, of which one may be constant."""
    lane = Lane(x.dtype)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        value, slope_x, x, slope_y, y = args
        by_x = emit_split(context, builder, signature.args[2], x).derivative
        by_y = emit_split(context, builder, signature.args[4], y).derivative
        derivative = _plus(builder, _times(builder, slope_x, by_x), _times(builder, slope_y, by_y))
        return emit_join(context, builder, signature.return_type, Parts(value, derivative))

    return common((x, y))(lane, lane, x, lane, y), codegen


@intrinsic
def pick(typingctx: Any, condition: Any, yes: Any, no: Any) -> Any:
    """Return one of two dual numbers. Both are computed: loops with no branch inside can be vectorised."""
    kind = common((yes, no))

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        condition, yes, no = args
        return builder.select(condition, yes, no)

    return kind(condition, kind, kind), codegen


@intrinsic
def number(typingctx: Any, x: Any) -> Any:
    """Return a lane as a float, of which Numba knows many functions."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return args[0]

    return x.dtype(x), codegen


@intrinsic
def lane(typingctx: Any, x: Any) -> Any:
    """Return a float as a lane."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return args[0]

    return Lane(x)(x), codegen


@intrinsic
def give_up_if(typingctx: Any, condition: Any) -> Any:
    """End the user's function without a result if a condition holds; it is called again with exact numbers then."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        with builder.if_then(args[0], likely=False):
            context.call_conv._return_errcode_raw(builder, _GAVE_UP)
        return context.get_dummy_value()

    return types.void(condition), codegen
