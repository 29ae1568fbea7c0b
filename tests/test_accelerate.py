"""Programs written for scikit-learn run on fastbp, in child processes too, and otherwise as before."""

from __future__ import annotations

import copy
import importlib
import logging
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import types
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import parity
import pytest
import sklearn
import sklearn.neural_network as public
import sklearn.neural_network._multilayer_perceptron as originals
from sklearn.base import clone
from sklearn.utils import all_estimators

import fastbp
from fastbp import accelerate, estimators, logs

ROOT = Path(fastbp.__file__).parents[1]
STARTUP = str(Path(fastbp.__file__).parent / "startup")
X = np.random.default_rng(0).normal(size=(20, 3))
Y = np.arange(20) % 2


def python(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with fastbp importable from anywhere and nothing patched."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("FASTBP_")}
    env = {**inherited, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "", **environment}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False)


def outcome(result: subprocess.CompletedProcess[str]) -> tuple[int, str, str]:
    return result.returncode, result.stdout, result.stderr


def write(path: Path, source: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(source))
    return path


# --------------------------------------------------------------------------------------------- patching here


@pytest.fixture
def patched() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # other tests have imported scikit-learn's classes
        fastbp.patch_sklearn()
    yield
    fastbp.unpatch_sklearn()


@pytest.fixture
def plain() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return originals.MLPClassifier((4,), max_iter=3, random_state=0).fit(X, Y)


def everything_patched() -> tuple[object, ...]:
    own = [dict(vars(cls)) for cls in (originals.MLPClassifier, originals.MLPRegressor)]
    return dict(vars(public)), dict(vars(originals)), own, list(sys.meta_path), dict(os.environ)


@pytest.mark.parametrize(
    ("python_path", "entries"),
    [(None, []), ("", []), ("one", ["one"]), (os.pathsep.join(["one", "two"]), ["one", "two"])],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_unpatching_restores_everything(
    monkeypatch: pytest.MonkeyPatch, python_path: str | None, entries: list[str]
) -> None:
    if python_path is None:
        monkeypatch.delenv("PYTHONPATH", raising=False)
    else:
        monkeypatch.setenv("PYTHONPATH", python_path)
    before = everything_patched()
    fastbp.patch_sklearn()
    fastbp.patch_sklearn()  # the second call does nothing
    try:
        assert public.MLPClassifier is fastbp.MLPClassifier
        assert public.MLPRegressor is fastbp.MLPRegressor
        assert os.environ["PYTHONPATH"].split(os.pathsep) == [STARTUP, *entries]
        assert os.environ["FASTBP_PATCH_SKLEARN"] == "1"
    finally:
        fastbp.unpatch_sklearn()
    assert everything_patched() == before
    fastbp.unpatch_sklearn()
    assert everything_patched() == before


def test_unpatching_keeps_what_the_program_did_to_pythonpath(patched: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["new", STARTUP, "old"]))
    fastbp.unpatch_sklearn()
    assert os.environ["PYTHONPATH"] == os.pathsep.join(["new", "old"])


def test_all_estimators_finds_fastbps_classes_once(patched: None) -> None:
    found = dict(item for item in all_estimators() if item[0].startswith("MLP"))
    assert found == {"MLPClassifier": fastbp.MLPClassifier, "MLPRegressor": fastbp.MLPRegressor}


def test_a_model_pickled_before_becomes_fastbps_and_predicts_the_same(plain: Any, patched: None) -> None:
    for model in (pickle.loads(pickle.dumps(plain)), copy.deepcopy(plain)):
        assert type(model) is public.MLPClassifier is fastbp.MLPClassifier
        assert set(vars(model)) == set(vars(plain)) | parity.OWN
        np.testing.assert_allclose(model.predict_proba(X), plain.predict_proba(X), rtol=1e-12)
        assert type(clone(model)) is fastbp.MLPClassifier
    regressor = originals.MLPRegressor(alpha=0.5)
    assert type(pickle.loads(pickle.dumps(regressor))) is fastbp.MLPRegressor
    assert pickle.loads(pickle.dumps(regressor)).alpha == 0.5


def test_plain_estimators_can_be_pickled_under_the_patch_for_programs_without_fastbp(plain: Any, patched: None) -> None:
    dumped = pickle.dumps(fastbp.MLPClassifier.from_sklearn(plain).to_sklearn())
    assert b"fastbp" not in dumped
    fastbp.unpatch_sklearn()
    assert type(pickle.loads(dumped)) is originals.MLPClassifier


class Subclass(originals.MLPClassifier):  # type: ignore[misc]
    """A user's class over scikit-learn's, defined before the patch."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.restored_ = True


def test_unpickled_estimators_of_other_classes_are_left_alone(plain: Any, patched: None) -> None:
    model = pickle.loads(pickle.dumps(Subclass()))
    assert type(model) is Subclass
    assert model.restored_
    fast = pickle.loads(pickle.dumps(public.MLPClassifier(n_threads=3)))
    assert type(fast) is fastbp.MLPClassifier
    assert fast.n_threads == 3
    assert type(clone(plain)) is originals.MLPClassifier


def test_a_model_that_cannot_be_converted_is_loaded_as_it_is(
    plain: Any, patched: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(estimator: Any) -> Any:
        raise TypeError("no such thing")

    monkeypatch.setattr(fastbp.MLPClassifier, "from_sklearn", refuse)
    with pytest.warns(UserWarning, match="unpickled MLPClassifier stays scikit-learn's.*no such thing"):
        model = pickle.loads(pickle.dumps(plain))
    assert type(model) is originals.MLPClassifier
    np.testing.assert_array_equal(model.predict(X), plain.predict(X))


def test_modules_that_imported_before_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(types.ModuleType):
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError("a lazy module was imported")

    holder, bystander = types.ModuleType("holder"), types.ModuleType("bystander")
    holder.Net, bystander.array = public.MLPRegressor, X  # type: ignore[attr-defined]
    for name, module in {"pack.holder": holder, "bystander": bystander, "lazy": Lazy("lazy")}.items():
        monkeypatch.setitem(sys.modules, name, module)
    try:
        with pytest.warns(UserWarning, match="Call patch_sklearn") as caught:
            fastbp.patch_sklearn()
        assert holder.Net is originals.MLPRegressor
    finally:
        fastbp.unpatch_sklearn()
    named = str(caught[0].message).partition(" imported ")[0].split(", ")
    assert "pack.holder" in named
    assert not {"bystander", "lazy", "fastbp.estimators", "sklearn.neural_network"} & set(named)
    assert caught[0].filename == __file__


def test_without_working_estimators_scikit_learn_stays_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerate, "_warned", set())
    monkeypatch.setitem(sys.modules, "fastbp.estimators", None)
    try:
        with pytest.warns(UserWarning, match="cannot be imported; scikit-learn's own stay in place.*fastbp info"):
            fastbp.patch_sklearn()
        assert public.MLPClassifier is originals.MLPClassifier
    finally:
        fastbp.unpatch_sklearn()


@pytest.mark.parametrize(
    ("version", "tested"),
    [
        ("1.6.1", False),
        ("1.7.0", True),
        ("1.9.1", True),
        ("1.9rc1", True),
        ("1.10.0", False),
        ("2.0.dev0", False),
    ],
)
def test_an_untested_scikit_learn_is_told_once(monkeypatch: pytest.MonkeyPatch, version: str, tested: bool) -> None:
    monkeypatch.setattr(accelerate, "_warned", set())
    monkeypatch.setattr(sklearn, "__version__", version)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        accelerate.check_sklearn_version()
        accelerate.check_sklearn_version()
    assert len(caught) == (not tested)
    if not tested:
        assert version in str(caught[0].message)
        assert "tested with 1.7 to 1.9" in str(caught[0].message)


def test_reloading_scikit_learns_module_keeps_the_patch(patched: None) -> None:
    importlib.reload(public)
    assert public.MLPClassifier is fastbp.MLPClassifier
    assert public.__spec__ is not None
    assert public.__spec__.loader is public.__loader__
    assert type(public.__loader__).__module__ != "fastbp.accelerate"
    fastbp.unpatch_sklearn()
    assert public.MLPClassifier is originals.MLPClassifier


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_many_threads_may_patch_and_unpatch() -> None:
    before = everything_patched()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                fastbp.patch_sklearn()
                fastbp.unpatch_sklearn()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert everything_patched() == before


def test_verbose_prints_each_line_once_to_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("fastbp")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logging.WARNING)
    logger.manager._clear_cache()  # type: ignore[attr-defined]
    monkeypatch.setenv("FASTBP_VERBOSE", "0")
    logs.configure_logging()
    logger.info("quiet")
    monkeypatch.setenv("FASTBP_VERBOSE", "1")
    logs.configure_logging()
    logs.configure_logging()
    logger.info("loud")
    assert capsys.readouterr().err == f"fastbp[{os.getpid()}] loud\n"


# ---------------------------------------------------------------------------------------- patching elsewhere


@pytest.mark.parametrize("first", ["fastbp.estimators", "sklearn.neural_network", "both in threads"])
def test_the_order_of_imports_does_not_matter(tmp_path: Path, first: str) -> None:
    script = write(
        tmp_path / "script.py",
        """
        import importlib, sys, threading
        import fastbp
        fastbp.patch_sklearn()
        assert "sklearn" not in sys.modules
        if sys.argv[1] == "both in threads":
            names = ["fastbp.estimators", "sklearn.neural_network"] * 4
            threads = [threading.Thread(target=importlib.import_module, args=[name]) for name in names]
            for thread in threads: thread.start()
            for thread in threads: thread.join()
        else:
            importlib.import_module(sys.argv[1])
        import sklearn.neural_network
        print(sklearn.neural_network.MLPRegressor.__mro__[:3])
        """,
    )
    expected = f"{(estimators.MLPRegressor, estimators._KernelMLP, originals.MLPRegressor)}\n"
    assert outcome(python(script, first, cwd=tmp_path)) == (0, expected, "")


CHILDREN = """
    import multiprocessing, subprocess, sys
    from joblib import Parallel, delayed

    def probe(*arguments):
        import sklearn.neural_network as public
        return public.MLPClassifier.__module__, [type(argument).__module__ for argument in arguments]

    if __name__ == "__main__":
        from sklearn.neural_network import MLPClassifier
        how = sys.argv[1]
        if how == "subprocess":
            code = "from sklearn.neural_network import MLPClassifier as C; print(C.__module__)"
            print(subprocess.check_output([sys.executable, "-c", code], text=True).strip())
        elif how in ("loky", "threading", "multiprocessing"):
            for found in Parallel(2, backend=how)(delayed(probe)(*[MLPClassifier()] * n) for n in (0, 1)):
                print(*found)
        else:
            with multiprocessing.get_context(how).Pool(1) as pool:
                print(*pool.apply(probe, [MLPClassifier()]))
                print(*pool.apply(probe))
"""


@pytest.mark.parametrize("how", ["loky", "threading", "multiprocessing", "spawn", "fork", "subprocess"])
def test_child_processes_are_accelerated(tmp_path: Path, how: str) -> None:
    if how == "fork" and sys.platform != "linux":
        pytest.skip("forking is safe on Linux only")
    script = write(tmp_path / "script.py", CHILDREN)
    result = python("-W", "ignore", "-m", "fastbp", script, how, cwd=tmp_path)
    lines = set(result.stdout.splitlines())
    assert (result.returncode, result.stderr) == (0, "")
    if how == "subprocess":
        assert lines == {"fastbp.estimators"}
    else:
        assert lines == {"fastbp.estimators []", "fastbp.estimators ['fastbp.estimators']"}


PROBE = "from sklearn.neural_network import MLPClassifier as C; print(C.__module__)"


@pytest.mark.parametrize("verbose", ["0", "1"])
def test_a_child_without_fastbp_runs_plain_scikit_learn(tmp_path: Path, verbose: str) -> None:
    write(tmp_path / "site" / "sitecustomize.py", "import sys; sys.modules['fastbp'] = None; print('next')")
    path = os.pathsep.join([STARTUP, str(tmp_path / "site")])
    result = python("-c", PROBE, cwd=tmp_path, PYTHONPATH=path, FASTBP_PATCH_SKLEARN="1", FASTBP_VERBOSE=verbose)
    assert (result.returncode, result.stdout) == (0, "next\nsklearn.neural_network._multilayer_perceptron\n")
    assert ("runs plain scikit-learn: ModuleNotFoundError" in result.stderr) == (verbose == "1")
    assert verbose == "1" or not result.stderr


START = """
    import sys
    print(sorted(set(sys.modules) & {"fastbp", "sklearn", "numpy", "logging", "sitecustomize"}), sys.path[1:])
"""


@pytest.mark.parametrize("following", ["print('next')", "1 / 0", "import no_such_module", None])
def test_a_child_starts_as_without_the_hook(tmp_path: Path, following: str | None) -> None:
    (tmp_path / "site").mkdir()
    if following is not None:
        write(tmp_path / "site" / "sitecustomize.py", following)
    script, site = write(tmp_path / "script.py", START), str(tmp_path / "site")
    path = os.pathsep.join([STARTUP, site])
    with_hook = python(script, cwd=tmp_path, PYTHONPATH=path, FASTBP_PATCH_SKLEARN="1")
    without = python(script, cwd=tmp_path, PYTHONPATH=site)
    assert with_hook.returncode == without.returncode == 0
    assert with_hook.stderr == without.stderr
    assert with_hook.stdout.replace("'sitecustomize'", "") == without.stdout.replace("'sitecustomize'", "")


def test_a_child_may_unpatch_before_it_imports_scikit_learn(tmp_path: Path) -> None:
    code = "import fastbp; fastbp.patch_sklearn(); fastbp.unpatch_sklearn(); " + PROBE
    path = os.pathsep.join([STARTUP, str(ROOT)])
    result = python("-c", code, cwd=tmp_path, PYTHONPATH=path, FASTBP_PATCH_SKLEARN="1")
    assert outcome(result) == (0, "sklearn.neural_network._multilayer_perceptron\n", "")


# ------------------------------------------------------------------------------------------------ the runner

SCRIPTS = {
    "surroundings": """
        '''What a program can see of how it was started.'''
        import os, sys
        main = sys.modules["__main__"]
        assert vars(main) is globals()
        cached = __cached__ and os.path.basename(__cached__)
        print(sys.argv, sys.path[0], __name__, __doc__, __package__, cached)
        print(getattr(__spec__, "name", None), type(__loader__).__name__, os.path.realpath(__file__))
        print(sorted(set(globals()) - {"__annotations__"}), "annotations" in globals(), 1 / 3)
        def f(x: no_such_name): pass
        """,
    "exit": "import sys; print('before'); sys.exit(3)",
    "exit with a message": "import sys; sys.exit('the message')",
    "error": """
        def fail(n):
            if n:
                fail(n - 1)
            try:
                1 / n
            except ZeroDivisionError as error:
                raise ValueError("outer") from error
        fail(2)
        """,
    "syntax error": "print('never'",
    "interrupt": "import os, signal, time; os.kill(os.getpid(), signal.SIGINT); time.sleep(9)",
    "own hook": """
        import sys, traceback
        def hook(kind, value, tb):
            print(kind, value, [frame.name for frame in traceback.extract_tb(tb)])
        sys.excepthook = hook
        raise KeyError("x")
        """,
    "after the end": """
        import atexit, pickle, threading, time
        class Kept: pass
        def later(where):
            time.sleep(0.1)
            print(where, type(pickle.loads(pickle.dumps(Kept()))) is Kept)
        atexit.register(later, "at exit")
        threading.Thread(target=later, args=["thread"]).start()
        """,
}


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *((name, "script.py") for name in SCRIPTS),
        *((name, form) for name in ("surroundings", "error") for form in ("link.py", "-m", "folder", "archive")),
    ],
)
def test_runs_as_plain_python_does(tmp_path: Path, name: str, form: str) -> None:
    script = write(tmp_path / "script.py", SCRIPTS[name])
    start: list[object] = [form]
    if form == "link.py":
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "link.py").symlink_to(script.rename(tmp_path / "elsewhere" / "script.py"))
    elif form == "-m":
        start = ["-m", "script"]
    elif form == "folder":
        (tmp_path / "folder").mkdir()
        script.rename(tmp_path / "folder" / "__main__.py")
    elif form == "archive":
        with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
            archive.write(script, "__main__.py")
    expected = outcome(python(*start, "a", "-b", cwd=tmp_path))
    assert outcome(python("-m", "fastbp", *start, "a", "-b", cwd=tmp_path)) == expected


@pytest.mark.parametrize("arguments", [["absent.py"], ["-m", "absent"], ["-m", "pack"], ["empty"]], ids=" ".join)
def test_what_cannot_be_run_is_refused_as_plain_python_does(tmp_path: Path, arguments: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "pack" / "__init__.py", "")
    expected = outcome(python(*arguments, cwd=tmp_path))
    assert expected[0] != 0
    assert outcome(python("-m", "fastbp", *arguments, cwd=tmp_path)) == expected


@pytest.mark.parametrize("arguments", [[], ["-m"], ["-x", "script.py"], ["--help"]], ids=str)
def test_usage(arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as caught:
        accelerate.run_script(arguments)
    printed = capsys.readouterr()
    assert caught.value.code == (0 if arguments == ["--help"] else 2)
    assert (printed.out if arguments == ["--help"] else printed.err).startswith("usage: python -m fastbp")
    assert "FASTBP_PATCH_SKLEARN" not in os.environ


def test_a_script_that_needs_no_scikit_learn_does_not_get_it(tmp_path: Path) -> None:
    code = "import sys; print(sorted(set(sys.modules) & {'sklearn', 'numpy', 'numba', 'rich', 'fastbp'}))"
    result = python("-m", "fastbp", write(tmp_path / "script.py", code), cwd=tmp_path)
    assert outcome(result) == (0, "['fastbp']\n", "")


TRAINING = """
    import sys
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier
    X, y = load_digits(return_X_y=True)
    model = MLPClassifier((8,), max_iter=3, random_state=0).fit(X[:300] / 16, y[:300])
    np.save(sys.argv[1], model.loss_curve_)
    print(type(model).__module__)
"""


def test_an_unchanged_script_trains_on_fastbp_to_the_same_losses(tmp_path: Path) -> None:
    script = write(tmp_path / "script.py", TRAINING)
    start = ["-W", "ignore"]
    slow = python(*start, script, "slow.npy", cwd=tmp_path)
    fast = python(*start, "-m", "fastbp", script, "fast.npy", cwd=tmp_path, FASTBP_VERBOSE="1")
    assert outcome(slow) == (0, "sklearn.neural_network._multilayer_perceptron\n", "")
    assert (fast.returncode, fast.stdout) == (0, "fastbp.estimators\n")
    assert "MLPClassifier and MLPRegressor are now fastbp's" in fast.stderr
    np.testing.assert_allclose(np.load(tmp_path / "fast.npy"), np.load(tmp_path / "slow.npy"), rtol=1e-9)
