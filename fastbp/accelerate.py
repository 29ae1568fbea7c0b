"""fastbp's networks in programs written for scikit-learn, without a change to them.

`patch_sklearn` replaces two names in one module, ``MLPClassifier`` and ``MLPRegressor`` in
``sklearn.neural_network``: that is where import statements and `sklearn.utils.all_estimators` look. The
private module that defines scikit-learn's classes is left alone: fastbp's classes inherit from those, and
plain estimators are pickled under that address and could not be pickled any more if something else stood
there.

Three things make it work wherever and whenever scikit-learn is imported:

- an import hook, for scikit-learn may not be imported yet, and costs too much to import on suspicion;
- ``__setstate__`` on scikit-learn's two classes, by which models pickled without fastbp come back as its own;
- two environment variables for processes started later (by joblib, multiprocessing, subprocess): PYTHONPATH
  leads them to ``startup/sitecustomize.py``, and FASTBP_PATCH_SKLEARN tells that file to patch.
"""

from __future__ import annotations

import builtins
import io
import logging
import os
import pkgutil
import re
import runpy
import sys
import threading
import types
import warnings
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any, NoReturn

log = logging.getLogger("fastbp")

_PUBLIC = "sklearn.neural_network"
_ORIGINALS = "sklearn.neural_network._multilayer_perceptron"
_REPLACEMENTS = "fastbp.estimators"
_NAMES = ("MLPClassifier", "MLPRegressor")
_STARTUP = str(Path(__file__).parent / "startup")
_FLAG = "FASTBP_PATCH_SKLEARN"
_OLDEST, _NEWEST = "1.7", "1.9"

_USAGE = """\
usage: python -m fastbp SCRIPT.py [ARGUMENT ...]
       python -m fastbp -m MODULE [ARGUMENT ...]

Runs a script or module as `python` would, with scikit-learn's MLPClassifier and MLPRegressor replaced by
fastbp's, in child processes too. With FASTBP_VERBOSE=1 in the environment it says so. All else: fastbp --help
"""


class _Patch:
    """What is patched at present, and what stood there before. Guarded by `_lock`."""

    def __init__(self) -> None:
        self.active = False
        self.watcher = _ImportWatcher()
        self.swapped: list[tuple[types.ModuleType, str, Any, Any]] = []  # module, name, before, now
        self.restoring: list[Any] = []  # scikit-learn's classes that carry our __setstate__
        self.python_path: tuple[str | None, str] | None = None  # before, now


class _ImportWatcher:
    """Meta-path finder that has `_use_replacements` called at the end of two modules' import.

    The replacements are watched as well: where they are imported first, they import scikit-learn's module
    themselves, and at the end of that import they do not exist yet.
    """

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname not in (_PUBLIC, _REPLACEMENTS):
            return None
        for finder in list(sys.meta_path):
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _NotifyingLoader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _NotifyingLoader:
    """A loader that takes itself out of the module it loads, loads it, and says so."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _use_replacements()


# Held for assignments only, never during an import: importing threads hold import locks as they ask for it.
_lock = threading.Lock()
_patch = _Patch()
_converting = threading.local()


def patch_sklearn() -> None:
    """Replace scikit-learn's MLPClassifier and MLPRegressor by fastbp's, here and in child processes.

    This does not import scikit-learn: if it is not imported yet, the names are replaced when it is. Calling
    it again does nothing. From then on

    - ``from sklearn.neural_network import MLPClassifier`` and `sklearn.utils.all_estimators` give fastbp's
      classes, which are subclasses of scikit-learn's;
    - plain estimators that are unpickled or deep-copied, from old model files too, become fastbp's;
    - Python processes started by this one (joblib's loky and multiprocessing workers, subprocesses) do the
      same, through the environment variables PYTHONPATH and FASTBP_PATCH_SKLEARN. Workers that run already
      are not reached, nor multiprocessing's children of a Python started with -E, -I or -S, which disregards
      them.

    Call it before scikit-learn's classes are imported: what modules imported earlier stays as it was, and a
    warning names these modules. Pickles of fastbp's estimators need fastbp where they are loaded; pickles of
    what their ``to_sklearn()`` returns do not.

    Warns
    -----
    UserWarning
        If modules hold scikit-learn's own classes already; if fastbp's classes cannot be imported
        (scikit-learn's stay in place then); if scikit-learn is of an untested version.

    See Also
    --------
    unpatch_sklearn : Undoes it.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.patch_sklearn()
    >>> from sklearn.neural_network import MLPClassifier
    >>> MLPClassifier.__module__
    'fastbp.estimators'
    >>> fastbp.unpatch_sklearn()
    """
    with _lock:
        if _patch.active:
            return
        _patch.active = True
        sys.meta_path.insert(0, _patch.watcher)
        _prepare_child_processes()
    if sys.flags.ignore_environment or sys.flags.no_site:
        log.warning("not accelerated: multiprocessing's children, which inherit -E, -I or -S from this Python")
    if _PUBLIC in sys.modules:
        _use_replacements()
        _warn_of_earlier_imports()


def unpatch_sklearn() -> None:
    """Undo `patch_sklearn`: scikit-learn's names and the environment are again as they were.

    What a program imported meanwhile under scikit-learn's names, estimators made from it, and processes that
    run already stay as they are and go on working. Where nothing is patched, nothing happens.

    Examples
    --------
    >>> import fastbp
    >>> fastbp.patch_sklearn()
    >>> fastbp.unpatch_sklearn()
    >>> from sklearn.neural_network import MLPClassifier
    >>> MLPClassifier.__module__
    'sklearn.neural_network._multilayer_perceptron'
    """
    with _lock:
        if not _patch.active:
            return
        _patch.active = False
        if _patch.watcher in sys.meta_path:
            sys.meta_path.remove(_patch.watcher)
        for module, name, before, now in reversed(_patch.swapped):
            if getattr(module, name, None) is now:
                setattr(module, name, before)
        for original in _patch.restoring:
            del original.__setstate__
        _patch.swapped, _patch.restoring = [], []
        _release_child_processes()
    log.info("scikit-learn's own classes are back in sklearn.neural_network")


def check_sklearn_version() -> None:
    """Warn, once in a process, if scikit-learn is of a version that fastbp is not tested with.

    Warns
    -----
    UserWarning
        Naming the installed version and the tested ones.
    """
    import sklearn

    if not _minor(_OLDEST) <= _minor(sklearn.__version__) <= _minor(_NEWEST):
        _warn_once(
            f"scikit-learn {sklearn.__version__} is installed, fastbp is tested with {_OLDEST} to {_NEWEST}; "
            f"results may differ. To get a tested version: pip install 'scikit-learn=={_NEWEST}.*'"
        )


def run_script(argv: Sequence[str]) -> None:
    """Run a script or module as ``python`` would, with `patch_sklearn` in force from its first line.

    ``sys.argv``, ``sys.path[0]``, ``__main__``, exit codes and tracebacks are those of ``python SCRIPT ...``
    and ``python -m MODULE ...``; a folder or zip file with a ``__main__.py`` counts as a script there and
    here.

    Parameters
    ----------
    argv : sequence of str
        ``[script, *arguments]`` or ``["-m", module, *arguments]``.

    Raises
    ------
    SystemExit
        With code 2 if `argv` names nothing to run; else what the script raises.
    """
    arguments = list(argv)
    if arguments[:1] in (["-h"], ["--help"]):
        print(_USAGE, end="")
        raise SystemExit(0)
    is_module = arguments[:1] == ["-m"]
    if len(arguments) < 1 + is_module or (arguments[0].startswith("-") and not is_module):
        print(_USAGE, end="", file=sys.stderr)
        raise SystemExit(2)
    patch_sklearn()
    # Not runpy.run_path: it would take `__main__` away at the script's end, under threads and exit handlers.
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        if is_module:
            sys.argv[:] = ["-m", *arguments[2:]]
            _run_as_main(arguments[1], True)
        else:
            sys.argv[:] = arguments
            _run_path(arguments[0])
    except SystemExit:
        raise
    except BaseException as error:
        _hide_own_frames(error)
        raise


def _use_replacements() -> None:
    """Put fastbp's classes in place, if both modules are there by now."""
    try:
        __import__(_REPLACEMENTS)  # import_module would raise where two threads' imports wait for each other
    except Exception as error:  # this runs inside a program's `import sklearn...`, which works without fastbp
        _warn_once(
            "fastbp's MLPClassifier and MLPRegressor cannot be imported; scikit-learn's own stay in place: "
            f"{error!r}. Look for what is missing with: fastbp info"
        )
        return
    # What is missing here is still being imported further up; when that ends, this is called again.
    public, originals = sys.modules.get(_PUBLIC), sys.modules.get(_ORIGINALS)
    classes = {name: getattr(sys.modules[_REPLACEMENTS], name, None) for name in _NAMES}
    if public is None or originals is None or None in classes.values():
        return
    with _lock:
        if not _patch.active or all(getattr(public, name) is cls for name, cls in classes.items()):
            return
        for name, replacement in classes.items():
            _patch.swapped.append((public, name, getattr(public, name), replacement))
            setattr(public, name, replacement)
            _convert_when_unpickled(getattr(originals, name), replacement)
    check_sklearn_version()
    log.info("sklearn.neural_network.MLPClassifier and MLPRegressor are now fastbp's")


def _convert_when_unpickled(original: Any, replacement: Any) -> None:
    """Let plain estimators become fastbp's as they get their state from a pickle or a deep copy."""
    if original in _patch.restoring:
        return

    def __setstate__(self: Any, state: Any) -> None:
        super(original, self).__setstate__(state)
        if type(self) is original and not getattr(_converting, "active", False):
            _convert(self, replacement)

    original.__setstate__ = __setstate__
    _patch.restoring.append(original)


def _convert(plain: Any, replacement: Any) -> None:
    _converting.active = True  # from_sklearn may copy, which comes back here
    try:
        converted = replacement.from_sklearn(plain)
    except Exception as error:  # the model is readable and can predict: keep it
        _warn_once(f"an unpickled {type(plain).__name__} stays scikit-learn's, unaccelerated: {error!r}")
    else:
        plain.__class__ = replacement
        plain.__dict__ = vars(converted)
    finally:
        _converting.active = False


def _warn_of_earlier_imports() -> None:
    """Name the modules that hold one of scikit-learn's own classes from an import before the patch."""
    originals = {id(before) for _, _, before, _ in _patch.swapped}
    holders = sorted(
        name
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] not in ("sklearn", "fastbp")
        and any(id(value) in originals for value in _namespace(module))
    )
    if holders:
        warnings.warn(
            f"{', '.join(holders)} imported MLPClassifier or MLPRegressor before fastbp.patch_sklearn() was "
            "called and go on with scikit-learn's own. Call patch_sklearn() first, or repeat these imports",
            stacklevel=3,
        )


def _namespace(module: object) -> list[object]:
    try:  # past any __getattribute__ of lazy modules, which would import them
        return list(object.__getattribute__(module, "__dict__").values())
    except AttributeError:
        return []


_warned: set[str] = set()


def _minor(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def _warn_once(message: str) -> None:
    if message not in _warned:
        _warned.add(message)
        warnings.warn(message, stacklevel=3)


def _prepare_child_processes() -> None:
    before = os.environ.get("PYTHONPATH")
    entries = before.split(os.pathsep) if before else []
    if _STARTUP not in entries:
        now = os.pathsep.join([_STARTUP, *entries])
        os.environ["PYTHONPATH"] = now
        _patch.python_path = (before, now)
    os.environ[_FLAG] = "1"


def _release_child_processes() -> None:
    os.environ.pop(_FLAG, None)
    current = os.environ.get("PYTHONPATH", "")
    before, now = _patch.python_path or (None, None)
    _patch.python_path = None
    if current != now:  # changed since, or inherited: take out what is ours
        before = os.pathsep.join(entry for entry in current.split(os.pathsep) if entry != _STARTUP) or None
    if before is None:
        os.environ.pop("PYTHONPATH", None)
    else:
        os.environ["PYTHONPATH"] = before


# runpy's public functions run a temporary `__main__`. This one is what the interpreter itself calls for
# modules, folders and zip files; even its error messages are wanted.
_run_as_main: Callable[[str, bool], Any] = runpy._run_module_as_main  # type: ignore[attr-defined]


def _run_path(path: str) -> None:
    absolute = os.path.abspath(path)
    if pkgutil.get_importer(absolute) is not None:  # a folder or zip file
        sys.path[: not sys.flags.safe_path] = [absolute]
        _run_as_main("__main__", False)
        return
    try:
        with io.open_code(absolute) as file:
            source = file.read()
    except OSError as error:
        _exit_cannot_open(absolute, error)
    if not sys.flags.safe_path:
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    main = vars(sys.modules["__main__"])
    main.update(__file__=absolute, __cached__=None, __builtins__=builtins)
    main["__loader__"] = SourceFileLoader("__main__", absolute)
    exec(compile(source, absolute, "exec", dont_inherit=True), main)


def _exit_cannot_open(path: str, error: OSError) -> NoReturn:
    reason = f"[Errno {error.errno}] {error.strerror}"
    print(f"{sys.executable}: can't open file {path!r}: {reason}", file=sys.stderr)
    raise SystemExit(2)


def _hide_own_frames(error: BaseException) -> None:
    """Have the report of an error that ends the script begin where plain Python's does."""
    traceback = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename == __file__:
        traceback = traceback.tb_next
    report = sys.excepthook

    def report_from_script(kind: type[BaseException], value: BaseException, whole: Any) -> None:
        if value is error:
            value.__traceback__ = whole = traceback
        report(kind, value, whole)

    sys.excepthook = report_from_script
