"""A user's Python function on its way to Numba: as it is now, checked, and refused in a sentence that names the place.

What Numba says about code that it cannot compile fills a screen, and half of it is about Numba.
"""

from __future__ import annotations

import contextlib
import dis
import inspect
import linecache
import os
import re
from collections.abc import Iterable
from types import CellType, CodeType, FunctionType
from typing import Any

import numpy as np
from numba import types
from numba.core import errors
from numba.core.registry import cpu_target
from numba.extending import is_jitted

from .numba_dual import Dual
from .numba_jit import inlined

# ------------------------------------------------------------------------------------------------ freezing


def frozen(function: Any, known: dict[Any, Any], callers: tuple[Any, ...] = ()) -> Any:
    """Return Numba's dispatcher of a copy of a function, in which variables from outside keep their present values.

    So what is compiled later, for another dtype, sees the same. The plain Python functions that it calls are compiled
    like itself.

    Parameters
    ----------
    function : function or dispatcher
        The function. If Numba has compiled it already, that is done anew with the flags of this package.
    known : dict
        Becomes the dispatchers by Python function: this one first, then those that it calls.
    callers : tuple of function
        Those that led here.

    Raises
    ------
    ValueError
        If a function calls itself: compiled code has no limit of depth, and would end the process.
    """
    function = function.py_func if is_jitted(function) else function
    callers = (*callers, function)
    if function in callers[:-1]:
        place = _place(function.__code__.co_filename, function.__code__.co_firstlineno)
        raise ValueError(f"{function.__name__} cannot be compiled: it calls itself ({place}); write it as a loop")
    if function not in known:
        scope = {"__name__": function.__module__, "__builtins__": function.__globals__.get("__builtins__")}
        cells = tuple(CellType() for _ in function.__closure__ or ())
        defaults = function.__defaults__ and tuple(_snapshot(value, known, callers) for value in function.__defaults__)
        copy = FunctionType(function.__code__, scope, function.__name__, defaults, cells)
        copy.__kwdefaults__ = function.__kwdefaults__
        known[function] = inlined(copy, fastmath=False, forceinline=True, boundscheck=True)
        for name in _global_names(function.__code__) & function.__globals__.keys():
            scope[name] = _snapshot(function.__globals__[name], known, callers)
        for cell, original in zip(cells, function.__closure__ or (), strict=True):
            if _has_value(original):  # of one that has none Numba says which it is
                cell.cell_contents = _snapshot(original.cell_contents, known, callers)
    return known[function]


def _has_value(cell: CellType) -> bool:
    with contextlib.suppress(ValueError):
        return cell.cell_contents is not cell
    return False


def _codes(code: CodeType) -> list[CodeType]:
    """Return a function's code and that of the functions inside it."""
    nested = [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return [code, *(deeper for constant in nested for deeper in _codes(constant))]


def _global_names(code: CodeType) -> set[str]:
    instructions = (instruction for each in _codes(code) for instruction in dis.get_instructions(each))
    return {instruction.argval for instruction in instructions if instruction.opname == "LOAD_GLOBAL"}


def _snapshot(value: Any, known: dict[Any, Any], callers: tuple[Any, ...]) -> Any:
    if is_jitted(value) or (isinstance(value, FunctionType) and not _is_known_to_numba(value)):
        return frozen(value, known, callers)
    if isinstance(value, np.ndarray):
        return value.copy()
    if type(value) in (list, tuple):  # Numba knows constant tuples but not lists, and loops over those of one type
        return tuple(map(float, value)) if {type(item) for item in value} == {int, float} else tuple(value)
    return value


def _is_known_to_numba(function: Any) -> bool:
    try:
        return cpu_target.typing_context.resolve_value_type(function) is not None
    except (errors.NumbaError, ValueError):
        return False


# ------------------------------------------------------------------------------------------------- checks


_UNSUPPORTED = {
    "RAISE_VARARGS": "raises an exception, and compiled code has nobody to raise it to: return math.nan instead",
    "PUSH_EXC_INFO": "uses try or with, and compiled code raises no exceptions: test for the case instead",
}
"""Instructions of Python's that Numba would compile, and what to do about them."""


def check_form(title: str, function: Any, arguments: tuple[str, ...]) -> None:
    """Raise ValueError unless ``function`` is a plain Python function of so many arguments."""
    plain = function.py_func if is_jitted(function) else function
    example = f"def f({', '.join(arguments)}): return ..."
    if not inspect.isfunction(plain):
        raise ValueError(f"{title} must be a Python function, got {function!r}; write one: {example}")
    if inspect.iscoroutinefunction(plain) or inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain):
        raise ValueError(f"{title} must return a number, got a coroutine or generator; write {example}")
    signature = inspect.signature(plain)
    try:
        if any(parameter.kind == parameter.VAR_POSITIONAL for parameter in signature.parameters.values()):
            raise TypeError("Numba sees a tuple there")
        signature.bind(*arguments)
    except TypeError:
        raise ValueError(
            f"{title} must take {' and '.join(arguments)}, got a function of {signature}; write {example}"
        ) from None


def check_instructions(title: str, functions: Iterable[Any]) -> None:
    """Raise ValueError if one of the Python functions raises or handles exceptions."""
    for code in (code for function in functions for code in _codes(function.__code__)):
        for instruction in dis.get_instructions(code):
            if instruction.opname in _UNSUPPORTED:
                line = (instruction.positions and instruction.positions.lineno) or code.co_firstlineno
                place = _place(code.co_filename, line)
                raise ValueError(f"{title} cannot be compiled: it {_UNSUPPORTED[instruction.opname]} ({place})")


def check_result(title: str, kind: Any) -> None:
    """Raise ValueError unless the Numba type of a function's result is that of a number."""
    if not isinstance(kind, (Dual, types.Integer, types.Float)):
        got = {"none": "None", "OptionalType(number)": "None on some path"}.get(_plain(str(kind)), _plain(str(kind)))
        raise ValueError(f"{title} must return a number, got {got}; see what its return statements return")


# ----------------------------------------------------------------------------------------------- refusals


ADVICE = (
    "Write it with arithmetic, comparisons, branches, loops, the functions of math and numpy on single numbers, and "
    "Python functions made of these"
)

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_PLACE = re.compile(r'File "(.+?)", line (\d+)')
_MISSING = re.compile(r"No implementation of function .+? found for signature:\s+>>> (.+)")
_BOILERPLATE = re.compile(r"Failed in nopython mode pipeline|\s*$")
_RAISED_FROM = re.compile(r"\.*\s*Raised from .*")
_IN_PLAIN_WORDS = (
    (re.compile(r"Literal\[\w+\]\(([^()]*)\)"), r"\1"),
    (re.compile(r"Dual\([^()]*\)|\bu?int\d+\b|\bfloat\d+\b"), "number"),
    (re.compile(r"array\(number, 0d, C\)"), "array that np.where makes of plain numbers"),
    (re.compile(r"<unknown function>"), "such a function as this one of "),
    (re.compile(r"Invalid use of getiter with parameters \((.*)\)"), r"no loop over \1: write all as floats"),
)
"""Numba's types and names, and what users call them."""


def refusal(title: str, functions: Iterable[Any], error: Exception) -> ValueError:
    """Return the error that tells a user why a function cannot be compiled.

    Parameters
    ----------
    title : str
        What is being compiled.
    functions : iterable of function
        The user's function and those that it calls.
    error : Exception
        What Numba raised.
    """
    text = _COLOUR.sub("", str(error))
    codes = [function.__code__ for function in functions]
    files = {os.path.abspath(code.co_filename): code.co_filename for code in codes}
    places = [(files.get(os.path.abspath(file)), int(line)) for file, line in _PLACE.findall(text)]
    own = (codes[0].co_filename, codes[0].co_firstlineno)
    file, line = next(((file, line) for file, line in places if file is not None), own)
    return ValueError(f"{title} cannot be compiled: {_reason(text)} ({_place(file, line)}). {ADVICE}")


def _place(file: str, line: int) -> str:
    text = linecache.getline(file, line).strip()
    return f"line {line} of {file}" + (f": {text}" if text else "")


def _reason(text: str) -> str:
    missing = _MISSING.search(text)
    lines = [line for line in text.splitlines() if not _BOILERPLATE.match(line)]
    reason = f"there is no {missing[1]}" if missing else (lines or ["Numba does not say why"])[0]
    return _RAISED_FROM.sub("", _plain(reason)).strip().rstrip(".")[:200]


def _plain(text: str) -> str:
    for pattern, words in _IN_PLAIN_WORDS:
        text = pattern.sub(words, text)
    return text
