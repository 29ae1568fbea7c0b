"""Kernels of fastbp: one contract, several implementations. They know arrays, never networks.

`backend` returns one implementation, `backends` says which there are and why the others are not. The contract, with
each operation's formula, shapes and source, stands in `fastbp.kernels.reference`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checks import Backend, check_n_threads, is_canonical
from .contract import (
    ACTIVATION,
    LOSS,
    MOMENTS,
    NONE,
    OPERATIONS,
    PLAN_ROW,
    STEP,
    Activation,
    ActivationFunction,
    Buffers,
    Loss,
    LossFunction,
    Op,
    Optimizer,
    Source,
    activation_function,
    room,
    step_table,
)
from .foreign import is_on_device
from .threads import capped, usable_processors

if TYPE_CHECKING:
    from .numba_custom import CustomFunction

__all__ = [
    "ACTIVATION",
    "LOSS",
    "MODULES",
    "MOMENTS",
    "NONE",
    "OPERATIONS",
    "PLAN_ROW",
    "STEP",
    "Activation",
    "ActivationFunction",
    "Backend",
    "Buffers",
    "Loss",
    "LossFunction",
    "Op",
    "Optimizer",
    "Source",
    "activation_function",
    "backend",
    "backends",
    "capped",
    "check_n_threads",
    "custom_function",
    "is_canonical",
    "is_on_device",
    "resolve",
    "room",
    "step_table",
    "usable_processors",
]

MODULES = {
    "numpy": "reference",
    "numba": "numba_cpu",
    "cython": "cython_cpu",
    "cuda": "numba_cuda",
}
"""The backends, one line each: name and module."""

AUTO_ORDER = ("cython", "numba")
"""What ``backend="auto"`` takes: the first of these that is available."""

AVAILABLE = "available"


def backends() -> dict[str, str]:
    """Return each backend's name with ``"available"``, or why it is not and what to do.

    Returns
    -------
    dict of str to str

    Examples
    --------
    >>> import fastbp
    >>> fastbp.backends()["numpy"]
    'available'
    """
    return {name: _why_not(name) or AVAILABLE for name in MODULES}


def resolve(name: str = "auto", *, custom: bool = False) -> str:
    """Return the backend that a name stands for.

    Parameters
    ----------
    name : str
        A key of `MODULES`, or ``"auto"``: the environment variable ``FASTBP_BACKEND`` where it is set, else cython
        if it is built, else numba.
    custom : bool
        Whether it has to call custom functions: ``"auto"`` is a backend that does.

    Raises
    ------
    ValueError
        If there is no such backend.
    ImportError
        If ``"auto"`` finds none, or the environment variable ``FASTBP_ISA`` names no instruction set.
    """
    source = ""
    if name == "auto" and os.environ.get("FASTBP_BACKEND"):
        name, source = os.environ["FASTBP_BACKEND"], " in the environment variable FASTBP_BACKEND"
    if name == "auto":
        available = [candidate for candidate in AUTO_ORDER if _why_not(candidate) is None]
        if custom:
            available = [candidate for candidate in available if _load(candidate).module.TAKES_CUSTOM] or available
        elif "cython" not in available and os.environ.get("FASTBP_ISA") and "FASTBP_ISA" in (_why_not("cython") or ""):
            raise ImportError(_why_not("cython"))
        if not available:
            reasons = "; ".join(f"{candidate}: {_why_not(candidate)}" for candidate in AUTO_ORDER)
            raise ImportError(f"no compiled backend is available ({reasons}); backend='numpy' works, slowly")
        return available[0]
    if name not in MODULES:
        names = ", ".join(repr(known) for known in ("auto", *MODULES))
        raise ValueError(f"unknown backend {name!r}{source}; choose one of {names}")
    return name


def backend(name: str = "auto", *, custom: bool = False) -> Backend:
    """Return a backend's operations.

    Parameters
    ----------
    name : str
    custom : bool
        As for `resolve`.

    Returns
    -------
    Backend

    Raises
    ------
    ValueError
        If there is no such backend, or it cannot call custom functions and has to.
    ImportError
        If it is not available here; the message says why and what to do.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbp
    >>> a_prev, W, b = np.ones((2, 3)), np.ones((3, 4)), np.zeros(4)
    >>> a = np.empty((2, 4))
    >>> fastbp.kernels.backend("numpy").linear_forward(a_prev, W, b, "relu", a)
    >>> a[0]
    array([3., 3., 3., 3.])
    """
    found = _load(resolve(name, custom=custom))
    if custom and not found.module.TAKES_CUSTOM:
        raise ValueError(
            f"backend {found.name!r} has no custom functions, which the Numba backend calls; pass backend='numba'"
        )
    return found


def custom_function(kind: str, function: Callable[..., Any], **options: Any) -> CustomFunction:
    """Compile a Python function of numbers, with its derivative, and check it.

    Parameters
    ----------
    kind : {"activation", "loss"}
    function : callable
    **options
        As for `fastbp.kernels.numba_custom.custom_activation` and `custom_loss`, which this is without importing Numba
        before it is needed.

    Raises
    ------
    ValueError
        As for those.
    ImportError
        If Numba is not installed.
    """
    reason = _why_not("numba")
    if reason is not None:
        raise ImportError(f"Numba compiles custom functions, but {reason}")
    from .numba_custom import custom_activation, custom_loss

    return (custom_activation if kind == "activation" else custom_loss)(function, **options)


@functools.cache
def _load(name: str) -> Backend:
    reason = _why_not(name)
    if reason is not None:
        raise ImportError(f"backend {name!r} is not available: {reason}")
    return Backend(name, importlib.import_module(f".{MODULES[name]}", __name__))


@functools.cache
def _why_not(name: str) -> str | None:
    """Return why a backend is not available and what to do, or None. Nothing heavy is imported for the answer."""
    if name == "numba" and importlib.util.find_spec("numba") is None:
        return "the package numba is missing; run: pip install numba"
    if name == "cuda":
        if importlib.util.find_spec("numba_cuda") is None:
            return "the package numba-cuda is missing; run: pip install 'fastbp[cuda]'"
        return str(importlib.import_module(f"{__name__}.numba_cuda.toolkit").why_not() or "") or None
    if name == "cython":
        if importlib.util.find_spec(f"{__name__}.cython_cpu") is None:
            return _why_not_built()
        try:
            importlib.import_module(f"{__name__}.cython_cpu")
        except (ImportError, ValueError) as error:
            return str(error)
    return None


def _why_not_built() -> str:
    """Return what the build of this installation recorded about the missing extension."""
    if (Path(__file__).parent.parent / "setup.py").exists():
        return (
            "the extension is not built in this checkout, which is what Python imports here. With a C compiler, build "
            "it: pip install cython setuptools && python setup.py build_ext --inplace. Or install fastbp, and start "
            "Python in another folder"
        )
    record = Path(__file__).with_name("cython_build.json")
    cause = "the extension was not built"
    if record.exists():
        cause = json.loads(record.read_text(encoding="utf-8")).get("reason") or cause
    return (
        f"{cause}. Install a C compiler (Debian: apt install gcc; macOS: xcode-select --install) and reinstall without "
        "the wheel that pip cached: in a checkout pip install --force-reinstall --no-deps --no-cache-dir . (or: make "
        "clean && make test); from a package index the same with --no-binary fastbp fastbp in place of the dot"
    )
