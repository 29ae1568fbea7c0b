"""Estimators in threads, forked children and joblib's workers: the same numbers everywhere, and no process dies."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import parity
import pytest
import sklearn.neural_network
from numpy.typing import NDArray
from sklearn.ensemble import BaggingClassifier
from sklearn.model_selection import GridSearchCV

import fastbp

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning", "ignore:This process .* is multi-threaded:DeprecationWarning"
)
needs_fork = pytest.mark.skipif(
    "fork" not in multiprocessing.get_all_start_methods(), reason=f"{sys.platform} has no fork"
)

RNG = np.random.RandomState(2)
X = RNG.uniform(-1, 1, (60, 5))
Y = (X @ RNG.standard_normal((5, 3))).argmax(axis=1)


def fit(backend: str, seed: int) -> list[NDArray[Any]]:
    """Fit and predict; returns parameters and probabilities."""
    solver = ("adam", "sgd", "lbfgs")[seed % 3]
    model = fastbp.MLPClassifier((9,), solver=solver, max_iter=30, random_state=seed, backend=backend, tol=0)
    model.fit(X, Y)
    return [*model.coefs_, *model.intercepts_, model.predict_proba(X)]


def assert_same(got: list[list[NDArray[Any]]], backend: str) -> None:
    for seed, arrays in enumerate(got):
        parity.assert_agrees(list(arrays), fit(backend, seed), 0)


def test_threads(compiled: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        assert_same(list(pool.map(fit, [compiled] * 12, range(12))), compiled)


def test_threads_share_an_estimator_for_prediction(compiled: str) -> None:
    model = fastbp.MLPClassifier((9,), max_iter=5, random_state=0).fit(X, Y)
    data = [np.roll(X, shift, axis=0) for shift in range(40)]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(model.predict_proba, data))
    expected = model.predict_proba(X)
    for shift, probabilities in enumerate(got):
        np.testing.assert_array_equal(probabilities, np.roll(expected, shift, axis=0))


FORKING = """
import faulthandler, multiprocessing, sys
from concurrent.futures import ThreadPoolExecutor
sys.path.insert(0, {tests!r})
import test_workers

def fit(seed):
    faulthandler.dump_traceback_later(60, exit=True)  # a child that hangs says where
    return test_workers.fit({backend!r}, seed)

test_workers.fit({backend!r}, 0)
with ThreadPoolExecutor(1) as pool:
    busy = pool.submit(lambda: [test_workers.fit({backend!r}, 0) for _ in range(5)])
    with multiprocessing.get_context("fork").Pool(2) as children:
        got = children.map_async(fit, range(6)).get(timeout=120)
    busy.result()
test_workers.assert_same(got, {backend!r})
"""


FORKING_INSIDE_LBFGS = """
import faulthandler, multiprocessing, sys, threading
sys.path.insert(0, {tests!r})
import test_workers
from fastbp.solvers import one_blas_thread
from threadpoolctl import threadpool_info

def n_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

def fit(seed):
    faulthandler.dump_traceback_later(60, exit=True)
    return n_threads(), test_workers.fit({backend!r}, seed), n_threads()

def stay_inside():
    with one_blas_thread():
        entered.set()
        leave.wait()

test_workers.fit({backend!r}, 2)
before, entered, leave = n_threads(), threading.Event(), threading.Event()
threading.Thread(target=stay_inside, daemon=True).start()
entered.wait()
with multiprocessing.get_context("fork").Pool(1) as children:
    first, got, last = children.apply_async(fit, [2]).get(timeout=120)
assert first == last == before, (before, first, last)
assert set(n_threads()) == {{1}}
leave.set()
test_workers.parity.assert_agrees(got, test_workers.fit({backend!r}, 2), 0)
"""


@needs_fork
@pytest.mark.parametrize("program", [FORKING, FORKING_INSIDE_LBFGS], ids=["training", "inside lbfgs"])
def test_forked_child(program: str, compiled: str, tmp_path: Path) -> None:
    """A child forked after the parent trained, while another of its threads trains, trains too.

    In a process of its own: the threads that tests before this one left behind must not stand at the fork.
    """
    program = program.format(tests=str(Path(__file__).parent), backend=compiled)
    where = str(Path(fastbp.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": where}
    command = [sys.executable, "-W", "ignore", "-c", program]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["loky", "threading", pytest.param("multiprocessing", marks=needs_fork)])
def test_joblib(kind: str, compiled: str) -> None:
    calls = (joblib.delayed(fit)(compiled, seed) for seed in range(6))
    assert_same(joblib.Parallel(n_jobs=2, backend=kind)(calls), compiled)


def test_grid_search(compiled: str) -> None:
    """The same search in scikit-learn and, in worker processes, in fastbp."""
    grid = {"alpha": [1e-4, 0.1], "hidden_layer_sizes": [(5,), (7, 4)]}
    results = {}
    for library, params in ((sklearn.neural_network, {}), (fastbp, {"backend": compiled})):
        model = library.MLPClassifier(max_iter=20, random_state=0, **params)
        search = GridSearchCV(model, grid, n_jobs=2, cv=3).fit(X, Y)
        results[library] = search.cv_results_["mean_test_score"], search.best_params_, search.predict_proba(X)
    parity.assert_agrees(results[fastbp], results[sklearn.neural_network], 1e-9)


def test_memory_mapped_data_in_workers(compiled: str) -> None:
    """Joblib hands large arrays to its workers memory-mapped and read-only."""
    model = fastbp.MLPClassifier((4,), max_iter=3, random_state=0, backend=compiled)
    bagging = BaggingClassifier(model, n_estimators=4, n_jobs=2, random_state=0)
    data, y = np.tile(X, (50, 60)), np.tile(Y, 50)
    assert data.nbytes > 2**20
    with joblib.parallel_config(backend="loky", max_nbytes="100K"):
        got = bagging.fit(data, y).predict_proba(data[:20])
    parity.assert_agrees(got, bagging.set_params(n_jobs=None).fit(data, y).predict_proba(data[:20]), 1e-14)
