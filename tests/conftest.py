"""Fixtures and hooks that the tests share."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import sklearn.neural_network
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, BaseOptimizer, SGDOptimizer

import fastbp
from fastbp import kernels

pytest.register_assert_rewrite("gradients", "parity", "small_problem", "source_checks")

import parity  # noqa: E402 - after its assertions are set to be rewritten
import source_checks  # noqa: E402

COMPILED = tuple(name for name in kernels.MODULES if name in kernels.AUTO_ORDER)
"""The backends that run without Python between steps: what users get."""

TESTS = Path(__file__).parent
IS_SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"

HOST = tuple(name for name in kernels.MODULES if name != "cuda")
"""The backends that need no GPU; the other one is tested in simulated/ and in test_cuda_ptx.py."""

SKLEARN_LOOPS = ("_backprop", "_forward_pass", "_forward_pass_fast", "update_params")
"""What scikit-learn's own loop cannot do without: where these raise, only kernels can have trained."""

DIFFERENCES = "largest differences"
"""Name of the property under which a test reports what `pytest_terminal_summary` prints."""


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background: Ctrl-C could not be tested
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "exhaustive: thousands of mixes; run with -m exhaustive")


def _why_not_simulated() -> str | None:
    """Return why the tests of simulated/ are skipped. The simulator is chosen when numba-cuda is first imported."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "the package numba-cuda is missing; pip install 'fastbp[cuda]'"
    if not IS_SIMULATED:
        return "kernels are simulated in a process of their own: NUMBA_ENABLE_CUDASIM=1 pytest tests/simulated"
    return None


def _why_not_on_a_gpu() -> str | None:
    """Return why the tests of gpu/ are skipped."""
    if IS_SIMULATED:
        return "the simulator is no GPU"
    state = kernels.backends()["cuda"]
    return None if state == kernels.AVAILABLE else state


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what this machine or process cannot run; leave the exhaustive tests out unless the selection names them."""
    folders = {"simulated": _why_not_simulated, "gpu": _why_not_on_a_gpu}
    for folder, why_not in folders.items():
        for item in (item for item in items if item.path.parent == TESTS / folder):
            if folder == "gpu":
                item.add_marker(pytest.mark.gpu)
            if (reason := why_not()) is not None:
                item.add_marker(pytest.mark.skip(reason=reason))
    if "exhaustive" in config.option.markexpr:
        return
    left_out = [item for item in items if item.get_closest_marker("exhaustive")]
    items[:] = [item for item in items if item not in left_out]
    if left_out:
        config.hook.pytest_deselected(items=left_out)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print the largest differences from scikit-learn that the parity tests saw."""
    largest: dict[str, float] = {}
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        for name, value in getattr(report, "user_properties", []):
            if name == DIFFERENCES:
                for what, difference in value.items():
                    largest[what] = max(difference, largest.get(what, 0.0))
    if largest:
        terminalreporter.section("largest differences from scikit-learn, of an array's largest magnitude")
        for what, difference in sorted(largest.items()):
            terminalreporter.write_line(f"{what:60s} {difference:.1e}")


@pytest.fixture
def global_random_seed() -> int:
    """The seed that scikit-learn's own tests ask for."""
    return 42


@pytest.fixture
def use_backend(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that makes a backend what ``backend="auto"`` stands for, and the other compiled ones raise."""

    def use(name: str) -> None:
        _require(name)
        monkeypatch.setenv("FASTBP_BACKEND", name)
        for other, state in kernels.backends().items():
            if other != name and state == kernels.AVAILABLE:
                for operation in ("train_steps", "predict"):
                    _forbid(monkeypatch, kernels.backend(other).module, operation)

    return use


@pytest.fixture(params=COMPILED)
def compiled(request: pytest.FixtureRequest, use_backend: Callable[[str], None]) -> str:
    """Each compiled backend in turn, as what ``backend="auto"`` stands for."""
    use_backend(request.param)
    return str(request.param)


@pytest.fixture
def agree(compiled: str) -> Callable[..., None]:
    """Run an action on scikit-learn's estimators and, with scikit-learn's loops forbidden, on fastbp's; compare."""

    def check(action: Callable[[Any], Any], tolerance: float = 1e-9) -> None:
        theirs, expected = parity.listen(action, sklearn.neural_network)
        with only_kernels():
            ours, got = parity.listen(action, fastbp)
        assert ours.error == theirs.error
        assert ours.warned == theirs.warned
        parity.assert_agrees(got, expected, tolerance)

    return check


def _require(name: str) -> None:
    """Skip visibly where a backend is missing; fail where CI says that cython must be there."""
    reason = kernels.backends()[name]
    if reason != kernels.AVAILABLE:
        if name == "cython" and os.environ.get("FASTBP_REQUIRE_CYTHON") == "1":
            pytest.fail(f"FASTBP_REQUIRE_CYTHON is set, but backend 'cython' is not available: {reason}")
        pytest.skip(f"backend {name!r} is not available: {reason}")


@pytest.fixture(params=HOST, scope="session")
def backend_name(request: pytest.FixtureRequest) -> str:
    """The name of each backend in turn."""
    _require(request.param)
    return str(request.param)


@pytest.fixture(params=COMPILED, scope="session")
def compiled_name(request: pytest.FixtureRequest) -> str:
    """The name of each compiled backend in turn."""
    _require(request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def backend(backend_name: str) -> kernels.Backend:
    """Each backend in turn."""
    return kernels.backend(backend_name)


@pytest.fixture(params=["float32", "float64"])
def ops(request: pytest.FixtureRequest, backend: kernels.Backend) -> source_checks.Operations:
    """Each backend's operations by hand, in each dtype."""
    return source_checks.Operations(backend, request.param)


@contextlib.contextmanager
def only_kernels() -> Iterator[None]:
    """Replace scikit-learn's loops and updates by functions that raise."""
    with pytest.MonkeyPatch.context() as patch:
        for cls in (BaseMultilayerPerceptron, BaseOptimizer, SGDOptimizer, AdamOptimizer):
            for name in SKLEARN_LOOPS:
                if hasattr(cls, name):
                    _forbid(patch, cls, name)
        yield


def _forbid(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    @functools.wraps(getattr(owner, name))  # a backend that is first loaded now reads its signature
    def forbidden(*args: Any, **kwargs: Any) -> NoReturn:
        raise AssertionError(f"{getattr(owner, '__name__', owner)}.{name} ran")

    monkeypatch.setattr(owner, name, forbidden)
