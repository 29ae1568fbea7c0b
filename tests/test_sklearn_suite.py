"""scikit-learn's own tests of its MLP, run against fastbp's classes.

Each runs for each compiled backend, as it stands and once more while scikit-learn's loops raise.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any
from unittest import mock

import numpy as np
import pytest
import sklearn.neural_network
from conftest import COMPILED, SKLEARN_LOOPS, only_kernels
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import estimator_checks
from sklearn.utils._test_common import instance_generator
from sklearn.utils._testing import ignore_warnings

import fastbp
from fastbp import kernels

COUNTERPARTS = {
    fastbp.MLPClassifier: sklearn.neural_network.MLPClassifier,
    fastbp.MLPRegressor: sklearn.neural_network.MLPRegressor,
}


def _load_upstream() -> ModuleType:
    """Load scikit-learn's test module afresh, with fastbp's classes where it imports scikit-learn's."""
    home = Path(sklearn.neural_network.__file__).parent
    spec = importlib.util.spec_from_file_location("sklearn_test_mlp_on_fastbp", home / "tests" / "test_mlp.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    ours = {original.__name__: cls for cls, original in COUNTERPARTS.items()}
    with mock.patch.multiple(sklearn.neural_network, **ours):
        spec.loader.exec_module(module)
    return module


upstream = _load_upstream()
UPSTREAM_TESTS = {name: value for name, value in vars(upstream).items() if name.startswith("test_")}
globals().update(UPSTREAM_TESTS)


def _names(code: CodeType) -> set[str]:
    """Return the names that a function's code looks up, nested functions included."""
    nested = (_names(constant) for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*nested)


@pytest.fixture(autouse=True, params=[(name, alone) for name in COMPILED for alone in (False, True)])
def implementation(request: pytest.FixtureRequest, use_backend: Callable[[str], None]) -> Iterator[None]:
    """Run every test here for each backend, and again where nothing but its kernels can train."""
    name, alone = request.param
    use_backend(name)
    exempt = _names(request.function.__code__) & set(SKLEARN_LOOPS)
    with only_kernels() if alone and not exempt else contextlib.nullcontext():
        yield


def _check_parameters(table: str) -> Any:
    """Give fastbp's classes the entries that scikit-learn's classes have in a table of its test-suite."""
    entries = getattr(instance_generator, table)
    ours = {cls: entries[original] for cls, original in COUNTERPARTS.items() if original in entries}
    return mock.patch.dict(entries, ours)


def _expected_failures(estimator: Any) -> dict[str, str]:
    return instance_generator._get_expected_failed_checks(COUNTERPARTS[type(estimator)]())


with _check_parameters("INIT_PARAMS"), _check_parameters("PER_ESTIMATOR_CHECK_PARAMS"):
    ESTIMATORS = [estimator for cls in COUNTERPARTS for estimator in instance_generator._construct_instances(cls)]
    with_checks = estimator_checks.parametrize_with_checks(ESTIMATORS, expected_failed_checks=_expected_failures)

each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda estimator: type(estimator).__name__)


@with_checks
def test_estimator_checks(estimator: Any, check: Callable[[Any], None]) -> None:
    with ignore_warnings(category=(FutureWarning, ConvergenceWarning, UserWarning)):
        check(estimator)


@each_estimator
@pytest.mark.parametrize(
    "name",
    [
        "check_param_validation",
        "check_dataframe_column_names_consistency",
        "check_all_zero_sample_weights_error",
    ],
)
def test_checks_outside_the_list(estimator: Any, name: str) -> None:
    """What scikit-learn's test_common.py holds its estimators to beside the list."""
    check = getattr(estimator_checks, name, None)
    if check is None:
        pytest.skip(f"this scikit-learn has no {name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        check(type(estimator).__name__, estimator)


def test_upstream_is_complete() -> None:
    """No test was lost, and each that names its estimator holds fastbp's."""
    assert len(UPSTREAM_TESTS) > 40
    assert upstream.MLPClassifier is fastbp.MLPClassifier
    assert upstream.MLPRegressor is fastbp.MLPRegressor


@each_estimator
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_kernels_are_what_runs(estimator: Any, solver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and prediction enter the backend that the fixture chose, the expected number of times at least."""
    module, calls = kernels.backend().module, {"train_steps": 0, "predict": 0}

    def counted(name: str) -> Callable[..., Any]:
        operation = getattr(module, name)

        def run(*args: Any) -> Any:
            calls[name] += 1
            return operation(*args)

        return run

    for name in calls:
        monkeypatch.setattr(module, name, counted(name))
    X, y = np.random.RandomState(0).rand(30, 3), np.arange(30) % 2
    with ignore_warnings(category=ConvergenceWarning):
        model = type(estimator)(solver=solver, max_iter=5, tol=0).fit(X, y)
    assert calls["train_steps"] >= 5
    model.predict(X)
    assert calls["predict"] == 1
