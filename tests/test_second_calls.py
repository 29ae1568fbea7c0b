"""Warm starts and later partial_fit calls: fastbp validates plain arrays itself, to the same end as scikit-learn."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import parity
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.preprocessing import LabelBinarizer

import fastbp
from fastbp import data

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

RNG = np.random.RandomState(9)
X = RNG.uniform(-1, 1, (30, 4))
Y = {"two": RNG.permutation(np.repeat([0, 1], 15)), "three": RNG.permutation(np.repeat([4, -2, 9], 10))}
WITH_NAN, WITH_INFINITY = X.copy(), X.copy()
WITH_NAN[3, 2], WITH_INFINITY[3, 2] = np.nan, np.inf

SAMPLES = {
    "the same": X,
    "float32": X.astype(np.float32),
    "Fortran": np.asfortranarray(X),
    "read-only": np.frombuffer(X.tobytes()).reshape(X.shape),
    "strided": np.repeat(X, 2, axis=0)[::2],
    "big-endian": X.astype(">f8"),
    "float16": X.astype(np.float16),
    "integers": np.round(X * 9).astype(int),
    "list": X.tolist(),
    "DataFrame": pd.DataFrame(X, columns=list("abcd")),
    "matrix": X.view(np.ma.MaskedArray),
    "CSR": scipy.sparse.csr_matrix(X),
    "a column less": X[:, 1:],
    "NaN": WITH_NAN,
    "infinity": WITH_INFINITY,
    "complex": X.astype(complex),
    "vector": X[:, 0],
    "one row": X[:1],
    "none": X[:0],
    "objects": X.astype(object),
    "strings": X.astype(str),
}

LABELS: dict[str, Callable[[NDArray[Any]], Any]] = {
    "the same": lambda y: y,
    "reversed": lambda y: y[::-1],
    "int8": lambda y: y.astype(np.int8),
    "big-endian": lambda y: y.astype(">i4"),
    "floats": lambda y: y.astype(float),
    "halves": lambda y: y + 0.5,
    "bool": lambda y: y > 0,
    "list": lambda y: y.tolist(),
    "Series": pd.Series,
    "column": lambda y: y[:, None],
    "two columns": lambda y: np.column_stack([y, y]),
    "one class": lambda y: np.zeros_like(y) + y[0],
    "a new class": lambda y: np.where(np.arange(len(y)) == 3, 7, y),
    "shorter": lambda y: y[1:],
    "none": lambda y: None,
    "strings": lambda y: y.astype(str),
    "NaN": lambda y: np.where(np.arange(len(y)) == 3, np.nan, y),
}


def state(model: Any) -> Any:
    own = {"random_state", "_random_state", "_optimizer", "_label_binarizer", *parity.OWN}
    return {name: value for name, value in vars(model).items() if name not in own}


def second_call(library: Any, name: str, how: str, samples: Any, targets: Any, first: Any) -> Any:
    """Fit, then fit again on other data; return the error, if any, and what is left."""
    params = {"hidden_layer_sizes": (5,), "random_state": 0, "batch_size": 8, "max_iter": 2}
    model = getattr(library, name)(**params, warm_start=how != "partial_fit").fit(X, first)
    try:
        getattr(model, how.removesuffix(", warm"))(samples, targets)
    except (ValueError, TypeError) as error:  # some only as NumPy stumbles, or as the kernels are called
        if any(word in str(error) for word in ("broadcast", "matmul", "dtype", "columns")):
            return isinstance(error, TypeError)
        return type(error), str(error), state(model)
    return state(model)


HOWS = ("fit", "partial_fit", "partial_fit, warm")


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("samples", SAMPLES)
@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_samples(name: str, samples: str, how: str, agree: Callable[..., None]) -> None:
    y = Y["three"]
    agree(lambda library: second_call(library, name, how, SAMPLES[samples], y, y), tolerance=1e-5)


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
@pytest.mark.parametrize("first", Y)
def test_labels(name: str, first: str, labels: str, how: str, agree: Callable[..., None]) -> None:
    y = Y[first] if name == "MLPClassifier" else Y[first].astype(float)
    agree(lambda library: second_call(library, name, how, X, LABELS[labels](Y[first]), y))


def test_samples_without_names_after_a_data_frame(agree: Callable[..., None]) -> None:
    """A second call without the columns' names is warned about, as in scikit-learn."""

    def action(library: Any) -> Any:
        model = library.MLPClassifier((5,), random_state=0, max_iter=2, warm_start=True)
        model.fit(SAMPLES["DataFrame"], Y["two"])
        return state(model.fit(X, Y["two"]))

    agree(action)


def test_plain_arrays_are_not_handed_to_scikit_learn(compiled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What this file compares is fastbp's own validation, not scikit-learn's with itself."""
    for name, y in (("MLPClassifier", Y["two"]), ("MLPRegressor", X[:, 0])):
        model = getattr(fastbp, name)(hidden_layer_sizes=(5,), max_iter=2, warm_start=True).fit(X, y)
        original = next(cls for cls in type(model).__mro__[2:] if "_validate_input" in vars(cls))
        monkeypatch.setattr(original, "_validate_input", None)
        model.fit(X, y)
        with pytest.raises(TypeError, match="not callable"):
            model.fit(X.tolist(), y)


@pytest.mark.parametrize("solver", ["sgd", "adam"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("how", ["fit", "partial_fit"])
@pytest.mark.parametrize("random_state", [0, None, np.random.RandomState(3)])
def test_a_value_that_a_kernel_comes_upon_changes_nothing(
    backend_name: str, solver: str, value: float, how: str, random_state: Any
) -> None:
    params = {"warm_start": True, "max_iter": 2, "batch_size": 8, "random_state": random_state}
    model = fastbp.MLPClassifier((5,), solver=solver, backend=backend_name, **params).fit(X, Y["three"])
    wrong = X.copy()
    wrong[-1, -1] = value
    before, everybodys = pickle.dumps(model), pickle.dumps(np.random.get_state())  # noqa: NPY002
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
        getattr(model, how)(wrong, Y["three"])
    assert pickle.dumps(model) == before
    assert pickle.dumps(np.random.get_state()) == everybodys  # noqa: NPY002


def test_the_same_parameters_are_validated_once_and_wrong_ones_always() -> None:
    model = fastbp.MLPClassifier((5,), max_iter=1).fit(X, Y["two"])
    for name, value in {"alpha": -1.0, "solver": "newton", "tol": None, "backend": [], "max_iter": 1.0}.items():
        for _ in range(2):
            with pytest.raises(ValueError, match=f"The '{name}' parameter of MLPClassifier must be"):
                clone(model).set_params(**{name: value}).fit(X, Y["two"])


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=40), st.sets(st.integers(-4, 4), min_size=1), st.booleans())
def test_label_matrix_is_label_binarizers(labels: list[int], known: set[int], all_occur: bool) -> None:
    y, classes = np.array(labels), np.array(sorted(known))
    got = data.label_matrix(y, len(y), classes, all_occur=all_occur)
    occurring = set(labels)
    if got is None:
        assert len(known) < 2 or len(known) > len(y) // 2 or occurring - known or (all_occur and known - occurring)
    else:
        np.testing.assert_array_equal(got, LabelBinarizer().fit(classes).transform(y).astype(bool), strict=True)


@given(st.lists(st.floats(allow_nan=True, width=32), min_size=1, max_size=30))
def test_is_plain_takes_no_infinity(values: list[float]) -> None:
    """What it refuses without cause is only looked at again; what it takes is finite."""
    for dtype in (np.float32, np.float64):
        array = np.array(values, dtype)
        assert not data.is_plain(array, None) or np.isfinite(array).all()
    assert data.is_plain(np.array(values), None) == bool(np.isfinite(values).all())


def test_is_plain_does_not_trust_a_sum_that_overflows() -> None:
    assert not data.is_plain(np.full((30, 4), 1e308), 4)
