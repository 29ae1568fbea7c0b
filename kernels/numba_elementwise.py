"""A user's function of numbers over arrays: a C function that Numba makes of it, whose loop LLVM vectorises.

The arrays are taken a vector at a time. The loop over its lanes calls the user's function, which LLVM inlines. Branches
become choices between lanes, and the loop vector instructions; it stays a loop where the function needs one of its own,
or the C library. An element's result is the same wherever it stands, and however many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils, errors
from numba.core.ccallback import CFunc
from numba.core.registry import cpu_target
from numba.extending import intrinsic, is_jitted

from .numba_dual import GIVES_UP, Dual, Parts, emit_join, emit_split
from .numba_jit import c_function
from .numba_vectors import (
    at,
    is_null,
    lanes,
    load,
    load_vector,
    load_whole,
    stack_vectors,
    store_vector,
    store_whole,
    vector_of,
)

_INDEX, _BYTE = ir.IntType(64), ir.IntType(8)


# ------------------------------------------------------------------------------------------------- calls


class Call(NamedTuple):
    """A user's function, compiled for numbers of some type."""

    function: Any
    signature: Any

    def emit(self, context: Any, builder: Any, numbers: list[Any]) -> tuple[Any, Parts]:
        """Call it with LLVM's values; return whether it ended without a result, and the parts of its result.

        The derivative is that by the first number.
        """
        compiled, kinds = _compiled(self), self.signature.args
        args = [_argument(context, builder, kinds[k], x, k == 0) for k, x in enumerate(numbers)]
        args += [cgutils.get_null_value(context.get_value_type(kind)) for kind in kinds[len(numbers) :]]  # left out
        context.add_linking_libs([compiled.library])
        callee = context.declare_function(builder.module, compiled.fndesc)
        result = self.signature.return_type
        status, answer = context.call_conv.call_function(builder, callee, result, kinds, args)
        if not isinstance(kinds[0], Dual):
            return status.is_error, Parts(context.cast(builder, answer, result, kinds[0]))
        return status.is_error, emit_split(context, builder, kinds[0], context.cast(builder, answer, result, kinds[0]))


def _argument(context: Any, builder: Any, kind: Any, x: Any, is_first: bool) -> Any:
    if not isinstance(kind, Dual):
        return x
    return emit_join(context, builder, kind, Parts(x, ir.Constant(x.type, 1.0) if is_first else None))


def _compiled(call: Call) -> Any:
    return call.function.dispatcher.overloads[call.signature.args]


def call_of(function: Any, dtype: Any, n_args: int, varies: bool, exact: bool = False) -> Call:
    """Compile a dispatcher for the arguments of a custom function.

    Parameters
    ----------
    function : dispatcher, or its Numba type
        The user's function.
    dtype : numba type
        float32 or float64.
    n_args : int
        Number of arguments.
    varies : bool
        Whether to find the derivative by the first argument. Without it, what Numba knows for floats but not for `Dual`
        numbers is allowed too.
    exact : bool
        As in `Dual`.

    Raises
    ------
    numba.core.errors.NumbaError
        If it cannot be compiled.
    """
    kind = types.Dispatcher(function) if is_jitted(function) else function
    constant = Dual(dtype, False, exact)
    duals = Dual(dtype, varies, exact), *[constant] * (n_args - 1)
    typing_context = cpu_target.typing_context
    try:
        return Call(kind, kind.get_call_type(typing_context, duals, {}))
    except errors.NumbaError:
        if varies:
            raise
    return Call(kind, kind.get_call_type(typing_context, (dtype,) * n_args, {}))


def uses(call: Call, functions: set[Any]) -> bool:
    """Tell whether a function, or one that it calls, calls some of these."""
    return _uses(_compiled(call), functions, set())


def _uses(compiled: Any, functions: set[Any], seen: set[Any]) -> bool:
    kinds = set(compiled.type_annotation.typemap.values()) - seen
    seen |= kinds
    if any(isinstance(kind, types.Function) and kind.typing_key in functions for kind in kinds):
        return True
    called = [kind.dispatcher for kind in kinds if isinstance(kind, types.Dispatcher)]
    return any(_uses(version, functions, seen) for dispatcher in called for version in dispatcher.overloads.values())


# ------------------------------------------------------------------------------------------------- loops


class _Calls(NamedTuple):
    """What computes a custom function: one function with its derivative, or one for each."""

    function: Call
    slope: Call | None

    def emit(self, context: Any, builder: Any, numbers: list[Any], n_results: int) -> tuple[Any, list[Any]]:
        """Return whether there is no result, and the value, or the value and the derivative."""
        failed, parts = self.function.emit(context, builder, numbers)
        if n_results == 1 or self.slope is None:
            return failed, list(parts[:n_results])
        slope_failed, slope = self.slope.emit(context, builder, numbers)
        return builder.or_(failed, slope_failed), [parts.value, slope.value]

    def gives_up(self) -> bool:
        return any(uses(call, GIVES_UP) for call in self if call is not None)


def _calls_of(function: Any, slope: Any, dtype: Any, n_args: int, exact: bool = False) -> _Calls:
    if slope is None or slope is types.none:
        return _Calls(call_of(function, dtype, n_args, True, exact), None)
    return _Calls(*(call_of(part, dtype, n_args, False, exact) for part in (function, slope)))


@intrinsic
def _each_lane(typingctx: Any, function: Any, slope: Any, inputs: Any, values: Any, slopes: Any) -> Any:
    """Apply a function to the lanes of the vectors at the pointers ``inputs``, and write a vector of its values.

    And, unless ``slopes`` is None, one of its derivatives: those that the function ``slope`` returns, or, if that is
    None, those that are found. NaN is written where there is no result even in the exact way.
    """
    dtype, n_results = values.dtype, 1 if slopes is types.none else 2
    usual = _calls_of(function, slope, dtype, len(inputs))
    exact = _calls_of(function, slope, dtype, len(inputs), True) if usual.gives_up() else None

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = vector_of(dtype)[0]
        sources, targets = cgutils.unpack_tuple(builder, args[2]), args[3:][:n_results]
        nan = ir.Constant(vector.element, float("nan"))

        def evaluate(k: Any, calls: _Calls) -> tuple[Any, list[Any]]:
            return calls.emit(context, builder, [builder.load(builder.gep(p, [k])) for p in sources], n_results)

        def store(k: Any, results: list[Any]) -> None:
            for result, target in zip(results, targets, strict=True):
                builder.store(result, builder.gep(target, [k]))

        def once(k: Any) -> None:
            failed, results = evaluate(k, usual if exact is None else exact)
            store(k, [builder.select(failed, nan, result) for result in results])

        if exact is None:
            _emit_lanes(builder, vector.count, once)
        else:
            _emit_twice(builder, vector.count, lambda k: evaluate(k, usual), store, once)
        return context.get_dummy_value()

    return types.void(function, slope, inputs, values, slopes), codegen


def _emit_twice(builder: Any, count: int, evaluate: Any, store: Any, once: Any) -> None:
    """Evaluate each lane, and those that gave up once more."""
    gave_up = cgutils.alloca_once(builder, ir.ArrayType(_BYTE, count))
    gave_up.align = count

    def first(k: Any) -> None:
        failed, results = evaluate(k)
        store(k, results)
        builder.store(builder.zext(failed, _BYTE), builder.gep(gave_up, [_INDEX(0), k]))

    def second(k: Any) -> None:
        failed = builder.load(builder.gep(gave_up, [_INDEX(0), k]))
        with builder.if_then(builder.icmp_unsigned("!=", failed, _BYTE(0))):
            once(k)

    _emit_lanes(builder, count, first)
    together = ir.IntType(8 * count)
    any_failed = builder.load(builder.bitcast(gave_up, together.as_pointer()))
    with builder.if_then(builder.icmp_unsigned("!=", any_failed, together(0)), likely=False):
        _emit_lanes(builder, count, second)


def _emit_lanes(builder: Any, count: int, body: Callable[[Any], None]) -> None:
    """Emit a loop over the lanes of a vector for LLVM to vectorise: it may not unroll it before."""
    before, inside, after = builder.block, builder.append_basic_block("lane"), builder.append_basic_block("lanes_end")
    builder.branch(inside)
    builder.position_at_end(inside)
    k = builder.phi(_INDEX)
    body(k)
    following = builder.add(k, _INDEX(1))
    jump = builder.cbranch(builder.icmp_unsigned("<", following, _INDEX(count)), inside, after)
    k.add_incoming(_INDEX(0), before)
    k.add_incoming(following, builder.block)
    module = builder.module
    hint = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    loop = ir.MDValue(module, [], name=str(len(module.metadata)))
    loop.operands = loop, hint  # a loop's metadata names itself
    jump.set_metadata("llvm.loop", loop)
    builder.position_at_end(after)


def compile_activation(function: Any, slope: Any, dtype: Any) -> CFunc:
    """Compile an activation to ``void f(T *z, T *derivative, int64 n)``.

    z becomes f(z) in place, and ``derivative`` f'(z) unless it points nowhere.

    Parameters
    ----------
    function : dispatcher
        f.
    slope : dispatcher or None
        f', or None: then it is found.
    dtype : numba type
        T, float32 or float64.
    """

    def run(z, derivative, n):  # type: ignore[no-untyped-def]
        inputs, values, slopes = stack_vectors(z), stack_vectors(z), stack_vectors(z)
        for i in range(0, n, lanes(z)):
            store_whole(inputs, 0, load_vector(at(z, i), n - i, load(z, i)))
            if is_null(derivative):
                _each_lane(function, slope, (inputs,), values, None)
            else:
                _each_lane(function, slope, (inputs,), values, slopes)
                store_vector(at(derivative, i), n - i, load_whole(slopes, 0))
            store_vector(at(z, i), n - i, load_whole(values, 0))

    pointer = types.CPointer(dtype)
    return c_function(run, [pointer, pointer, types.int64])


def compile_loss(function: Any, slope: Any, dtype: Any) -> CFunc:
    """Compile a loss to ``void f(const T *a, const T *y, T *losses, T *delta, int64 n)``.

    ``losses`` becomes loss(a, y), and ``delta`` its derivative by a; parameters are as for `compile_activation`.
    """

    def run(a, y, losses, delta, n):  # type: ignore[no-untyped-def]
        outputs, targets, values, slopes = stack_vectors(a), stack_vectors(a), stack_vectors(a), stack_vectors(a)
        for i in range(0, n, lanes(a)):
            store_whole(outputs, 0, load_vector(at(a, i), n - i, load(a, i)))
            store_whole(targets, 0, load_vector(at(y, i), n - i, load(y, i)))
            _each_lane(function, slope, (outputs, targets), values, slopes)
            store_vector(at(losses, i), n - i, load_whole(values, 0))
            store_vector(at(delta, i), n - i, load_whole(slopes, 0))

    pointer = types.CPointer(dtype)
    return c_function(run, [pointer, pointer, pointer, pointer, types.int64])
