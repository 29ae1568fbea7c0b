"""What users do with scikit-learn's estimators, done with fastbp's: the same results, warnings and errors."""

from __future__ import annotations

import copy
import inspect
import logging
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import parity
import pytest
import scipy.sparse
import sklearn.neural_network
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from small_problem import CODES, VALUES, Agree, X, Y, classifier, fingerprint, learned, regressor

import fastbp
from fastbp import solvers

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

# ------------------------------------------------------------------------------------------ parameters that users edit


def _edit_in_place(model: Any) -> None:
    model.coefs_[0][2] = 0.5
    model.intercepts_[1] += 0.25


def _replace(model: Any) -> None:
    model.coefs_[1] = np.asfortranarray(model.coefs_[1] * 2)
    model.intercepts_ = [np.zeros_like(b) for b in model.intercepts_]


def _replace_by_single_precision(model: Any) -> None:
    model.coefs_ = [W.astype(np.float32) for W in model.coefs_]


def _tie_to_one_buffer(model: Any) -> None:
    flat = np.concatenate([array.ravel() for array in learned(model)][::-1])
    model.coefs_[0] = flat[-48:].reshape(6, 8)


def _remove_units(model: Any) -> None:
    model.coefs_ = [model.coefs_[0][:, ::2], model.coefs_[1][::2]]
    model.intercepts_[0] = model.intercepts_[0][::2]


EDITS = [_edit_in_place, _replace, _replace_by_single_precision, _tie_to_one_buffer, _remove_units]


@pytest.mark.parametrize("edit", EDITS)
def test_prediction_honours_edited_parameters(edit: Callable[[Any], None], agree: Agree) -> None:
    def action(library: Any) -> Any:
        model = classifier(library).fit(X, Y)
        edit(model)
        return model.predict_proba(X)

    agree(action, 1e-6 if edit is _replace_by_single_precision else 1e-9)


@pytest.mark.parametrize("edit", EDITS[:-1])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_partial_fit_honours_edited_parameters(edit: Callable[[Any], None], solver: str, agree: Agree) -> None:
    def action(library: Any) -> Any:
        model = classifier(library, solver=solver).fit(X, Y)
        edit(model)
        for _ in range(3):
            model.partial_fit(X, Y)
        return learned(model), model.loss_, model.predict_proba(X)

    agree(action, 1e-5 if edit is _replace_by_single_precision else 1e-9)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("edit", [_edit_in_place, _replace])
def test_warm_start_honours_edited_parameters(edit: Callable[[Any], None], solver: str, agree: Agree) -> None:
    def action(library: Any) -> Any:
        model = regressor(library, solver=solver, warm_start=True).fit(X, VALUES)
        edit(model)
        return learned(model.fit(X, VALUES)), model.loss_

    agree(action)


def test_warm_start_goes_on_after_units_are_removed(agree: Agree) -> None:
    def action(library: Any) -> Any:
        model = classifier(library, warm_start=True).fit(X, Y)
        _remove_units(model)
        return learned(model.fit(X, Y)), model.predict_proba(X)

    agree(action)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_parameters_are_updated_in_place(solver: str, compiled: str) -> None:
    """An array that a user took from ``coefs_`` follows partial_fit, as in scikit-learn."""
    model = classifier(fastbp, solver=solver).fit(X, Y)
    taken, before = learned(model), copy.deepcopy(learned(model))
    model.partial_fit(X, Y)
    for array, now, then in zip(taken, learned(model), before, strict=True):
        assert array is now
        assert (now != then).any()


def _cut_row(model: Any) -> None:
    model.coefs_[0] = model.coefs_[0][:-1]


def _cut_inner(model: Any) -> None:
    model.coefs_[1] = model.coefs_[1][:-1]


def _cut_bias(model: Any) -> None:
    model.intercepts_[0] = model.intercepts_[0][:-1]


def _flatten(model: Any) -> None:
    model.coefs_[1] = model.coefs_[1].ravel()


def _use_integers(model: Any) -> None:
    model.coefs_[0] = np.ones((6, 8), int)


@pytest.mark.parametrize("method", ["predict", "partial_fit", "fit"])
@pytest.mark.parametrize("damage", [_cut_row, _cut_inner, _cut_bias, _flatten])
def test_parameters_that_do_not_fit_are_refused(damage: Callable[[Any], None], method: str, compiled: str) -> None:
    model = classifier(fastbp, warm_start=True).fit(X, Y)
    coefs, intercepts, expected = list(model.coefs_), list(model.intercepts_), model.predict_proba(X)
    damage(model)
    with pytest.raises(ValueError, match=r"coefs_|features"):
        getattr(model, method)(*((X,) if method == "predict" else (X, Y)))
    model.coefs_, model.intercepts_ = coefs, intercepts
    np.testing.assert_array_equal(model.predict_proba(X), expected)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_moments_that_do_not_fit_are_refused(solver: str, agree: Agree) -> None:
    def action(library: Any) -> Any:
        model = classifier(library, solver=solver).fit(X, Y)
        _remove_units(model)
        with pytest.raises(ValueError, match=r"broadcast|optimizer"):
            model.partial_fit(X, Y)
        return model.fit(X, Y).predict_proba(X)

    agree(action)


def test_integer_parameters_predict_but_do_not_train(agree: Agree) -> None:
    def action(library: Any) -> Any:
        model = classifier(library).fit(X, Y)
        _use_integers(model)
        with pytest.raises(TypeError):
            model.partial_fit(X, Y)
        return model.predict_proba(X)

    agree(action)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_targets_of_another_width_in_a_warm_start(solver: str, agree: Agree) -> None:
    """scikit-learn broadcasts one column over the outputs that there are, and refuses other numbers."""

    def action(library: Any) -> Any:
        model = regressor(library, solver=solver, warm_start=True).fit(X, VALUES)
        model.fit(X, VALUES[:, 0])
        return learned(model), model.loss_, model.predict(X)

    if solver == "adam":
        agree(action)

    def wider(library: Any) -> None:
        model = regressor(library, solver=solver, warm_start=True).fit(X, VALUES)
        with pytest.raises(ValueError, match=r"broadcast|shape|y has 4 columns but the network has 2 outputs"):
            model.fit(X, np.hstack([VALUES, VALUES]))

    agree(wider)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_solvers_that_change_in_a_warm_start(dtype: str, agree: Agree) -> None:
    def action(library: Any) -> Any:
        model = regressor(library, warm_start=True)
        for solver in ("adam", "lbfgs", "sgd", "lbfgs", "adam"):
            model.set_params(solver=solver).fit(X.astype(dtype), VALUES)
        return learned(model.partial_fit(X.astype(dtype), VALUES)), model.loss_curve_

    agree(action, 1e-6 if dtype == "float64" else 1e-3)


def test_partial_fit_after_lbfgs(agree: Agree) -> None:
    """scikit-learn's L-BFGS leaves nothing behind that partial_fit could append its loss to."""

    def action(library: Any) -> str:
        model = classifier(library, solver="lbfgs").fit(X, Y).set_params(solver="adam")
        with pytest.raises(AttributeError, match="loss_curve_") as caught:
            model.partial_fit(X, Y)
        return type(caught.value).__name__

    agree(action)


@pytest.mark.parametrize("sizes", [7, [4, 3], np.array([5, 2]), (np.int8(3),), []], ids=str)
@pytest.mark.parametrize("solver", ["sgd", "lbfgs"])
def test_forms_of_layer_sizes(sizes: Any, solver: str, agree: Agree) -> None:
    agree(lambda library: learned(classifier(library, hidden_layer_sizes=sizes, solver=solver).fit(X, Y)), 1e-6)


def test_layers_of_another_size_in_a_warm_start(agree: Agree) -> None:
    def action(library: Any) -> Any:
        model = classifier(library, warm_start=True).fit(X, Y).set_params(hidden_layer_sizes=(5,))
        return learned(model.fit(X, Y))

    agree(action)


@pytest.mark.parametrize("size", [5, 12])
def test_layers_of_another_size_in_a_warm_start_of_lbfgs(size: int, compiled: str) -> None:
    """scikit-learn refuses larger layers and, for smaller ones, optimises what lies first in its packed parameters."""
    model = classifier(fastbp, solver="lbfgs", warm_start=True).fit(X, Y)
    expected = model.predict_proba(X)
    with pytest.raises(ValueError, match=rf"replace them by arrays of shapes \[\(6, {size}\)"):
        model.set_params(hidden_layer_sizes=(size,)).fit(X, Y)
    np.testing.assert_array_equal(model.predict_proba(X), expected)


# ------------------------------------------------------------------------------------------------------ dtypes, inputs


@pytest.mark.parametrize("first", ["float64", "float32"])
@pytest.mark.parametrize("second", ["float64", "float32", "float16", "int64"])
@pytest.mark.parametrize("solver", ["adam", "sgd"])
def test_dtypes_that_change_between_calls(first: str, second: str, solver: str, agree: Agree) -> None:
    scaled = 3 * X

    def action(library: Any) -> Any:
        model = regressor(library, solver=solver).fit(scaled.astype(first), VALUES)
        predicted = model.predict(scaled.astype(second))
        for _ in range(2):
            model.partial_fit(scaled.astype(second), VALUES)
        return predicted, learned(model), model.predict(scaled.astype(first)), model.loss_curve_

    agree(action, 1e-9 if first == "float64" else 1e-4)


def _memory_mapped(array: NDArray[Any], folder: Path) -> NDArray[Any]:
    np.save(folder / "array.npy", array)
    return np.load(folder / "array.npy", mmap_mode="r")


def _read_only(array: NDArray[Any], folder: Path) -> NDArray[Any]:
    array = array.copy()
    array.flags.writeable = False
    return array


def _data_frame(array: NDArray[Any], folder: Path) -> Any:
    return pytest.importorskip("pandas").DataFrame(array, columns=[f"x{i}" for i in range(array.shape[1])])


FORMS: dict[str, Callable[[NDArray[Any], Path], Any]] = {
    "integers": lambda array, folder: (9 * array).astype(np.int32),
    "booleans": lambda array, folder: array > 0,
    "float16": lambda array, folder: array.astype(np.float16),
    "big-endian": lambda array, folder: array.astype(">f8"),
    "big-endian float32": lambda array, folder: array.astype(">f4"),
    "Fortran": lambda array, folder: np.asfortranarray(array),
    "strided": lambda array, folder: np.repeat(array, 2, axis=1)[:, ::2],
    "reversed": lambda array, folder: array[::-1, ::-1],
    "read-only": _read_only,
    "memory-mapped": _memory_mapped,
    "list": lambda array, folder: array.tolist(),
    "objects": lambda array, folder: array.astype(object),
    "data frame": _data_frame,
    "CSR": lambda array, folder: scipy.sparse.csr_array(np.where(array > 0, array, 0)),
    "CSC": lambda array, folder: scipy.sparse.csc_matrix(np.where(array > 0, array, 0)),
    "COO": lambda array, folder: scipy.sparse.coo_array(np.where(array > 0, array, 0)),
    "CSR with long indices": lambda array, folder: _with_long_indices(array),
    "CSR with doubled entries": lambda array, folder: _doubled(array),
}


def _with_long_indices(array: NDArray[Any]) -> Any:
    data = scipy.sparse.csr_array(array)
    data.indices, data.indptr = data.indices.astype(np.int64), data.indptr.astype(np.int64)
    return data


def _doubled(array: NDArray[Any]) -> Any:
    """Return a CSR matrix in which each entry stands twice, unsorted."""
    n, width = array.shape
    indices = np.tile(np.r_[np.arange(width)[::-1], np.arange(width)], n)
    data = np.hstack([array[:, ::-1], array]).ravel()
    return scipy.sparse.csr_matrix((data, indices, 2 * width * np.arange(n + 1)), array.shape)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_forms_of_input(form: str, solver: str, agree: Agree, tmp_path: Path) -> None:
    data = FORMS[form](X, tmp_path)
    before = fingerprint(data)

    def action(library: Any) -> Any:
        model = classifier(library, solver=solver).fit(data, Y)
        names = list(getattr(model, "feature_names_in_", []))
        return learned(model), model.predict_proba(data), model.predict(data), names, model.n_features_in_

    agree(action, 1e-5 if "32" in form else 1e-9 if solver == "adam" else 1e-6)
    assert fingerprint(data) == before


TARGETS: dict[str, Any] = {
    "list": Y.tolist(),
    "objects": Y.astype(object),
    "column": Y[:, None],
    "floats": (Y == "a").astype(float),
    "booleans": Y == "b",
    "one class": np.zeros(len(Y), int),
    "big integers": CODES + 2**40,
    "int8": CODES.astype(np.int8),
    "multilabel": VALUES > 0,
    "multilabel list": (VALUES > 0).astype(int).tolist(),
    "multilabel, one column": (VALUES[:, :1] > 0).astype(int),
    "sparse multilabel": scipy.sparse.csr_matrix((VALUES > 0).astype(int)),
}


@pytest.mark.parametrize("form", TARGETS)
@pytest.mark.parametrize("params", [{}, {"early_stopping": True}, {"solver": "lbfgs"}], ids=str)
def test_forms_of_classes(form: str, params: dict[str, Any], agree: Agree) -> None:
    def action(library: Any) -> Any:
        model = classifier(library, **params).fit(X, TARGETS[form])
        return learned(model), model.predict(X), model.predict_proba(X), model.classes_, model.loss_

    agree(action, 1e-9 if params.get("solver") != "lbfgs" else 1e-6)


def test_classes_in_a_series(agree: Agree) -> None:
    pandas = pytest.importorskip("pandas")
    for y in (pandas.Series(Y, dtype="category"), pandas.Series(Y), pandas.DataFrame({"target": Y})):
        agree(lambda library, y=y: classifier(library).fit(X, y).predict(X))


@pytest.mark.parametrize("loss", ["squared_error", "poisson"])
@pytest.mark.parametrize("kind", [">f4", "float16", "int32", "bool", "float64"])
def test_forms_of_values(kind: str, loss: str, agree: Agree) -> None:
    y = np.abs(3 * VALUES).astype(kind)

    def action(library: Any) -> Any:
        models = [regressor(library, loss=loss).fit(X.astype(dtype), y) for dtype in ("f8", "f4")]
        return [(learned(model), model.predict(X), model.loss_curve_, model.best_loss_) for model in models]

    agree(action, 1e-5)


WEIGHTS: dict[str, Any] = {
    "list": np.arange(1, 41).tolist(),
    "integers": np.arange(40),
    "float32": np.linspace(0, 1, 40, dtype=np.float32),
    "number": 2.0,
    "some negative": np.linspace(-0.1, 1, 40),
    "tiny": np.full(40, 1e-3),
    "zero": np.zeros(40),
    "zero in one batch": (np.arange(40) >= 16).astype(float),
    "NaN": np.full(40, np.nan),
    "too short": np.ones(39),
    "two columns": np.ones((40, 2)),
}


@pytest.mark.parametrize("form", WEIGHTS)
@pytest.mark.parametrize("params", [{}, {"early_stopping": True}, {"solver": "lbfgs"}], ids=str)
def test_forms_of_weights(form: str, params: dict[str, Any], agree: Agree) -> None:
    def action(library: Any) -> Any:
        model = regressor(library, shuffle=False, **params).fit(X, VALUES, sample_weight=WEIGHTS[form])
        return learned(model), model.loss_, model.predict(X)

    agree(action, 1e-9 if params.get("solver") != "lbfgs" else 1e-6)


# ---------------------------------------------------------------------------------------------- copies, other libraries


def _bit_equal(model: Any, other: Any) -> None:
    np.testing.assert_array_equal(model.predict_proba(X), other.predict_proba(X))
    for ours, theirs in zip(learned(model), learned(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def _through_pickle(model: Any, folder: Path) -> Any:
    return pickle.loads(pickle.dumps(model))


def _through_joblib(model: Any, folder: Path) -> Any:
    joblib.dump(model, folder / "model.joblib")
    return joblib.load(folder / "model.joblib")


def _through_memory_map(model: Any, folder: Path) -> Any:
    joblib.dump(model, folder / "model.joblib")
    return joblib.load(folder / "model.joblib", mmap_mode="r")


def _go_on(model: Any) -> None:
    model.fit(X, CODES)
    if not model.early_stopping:
        model.partial_fit(X, CODES)


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize(
    "through",
    [_through_pickle, _through_joblib, _through_memory_map, lambda model, folder: copy.deepcopy(model)],
    ids=["pickle", "joblib", "joblib memory-mapped", "deepcopy"],
)
@pytest.mark.parametrize("early_stopping", [False, True])
def test_copies_predict_and_train_alike(
    through: Callable[[Any, Path], Any], solver: str, early_stopping: bool, compiled: str, tmp_path: Path
) -> None:
    model = classifier(fastbp, solver=solver, early_stopping=early_stopping, warm_start=True).fit(X, CODES)
    other, before = through(model, tmp_path), copy.deepcopy(model)
    _bit_equal(model, other)
    _go_on(other)
    _bit_equal(model, before)
    _go_on(model)
    _bit_equal(model, other)


def test_clone_is_untrained_and_trains_alike(compiled: str) -> None:
    model = classifier(fastbp, backend=compiled, n_threads=1).fit(X, Y)
    other = clone(model)
    assert other.get_params() == model.get_params()
    assert not hasattr(other, "coefs_")
    _bit_equal(other.fit(X, Y), model)


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_state_holds_nothing_compiled(solver: str, compiled: str) -> None:
    """Everything that an estimator keeps is scikit-learn's, NumPy's or Python's own."""
    ours, theirs = (classifier(library, solver=solver).fit(X, Y) for library in (fastbp, sklearn.neural_network))
    kinds = {name: parity.kind_of(value) for name, value in vars(ours).items() if name not in parity.OWN}
    assert kinds == {name: parity.kind_of(value) for name, value in vars(theirs).items()}


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("make", [classifier, regressor])
def test_to_and_from_sklearn(make: Callable[..., Any], solver: str, compiled: str) -> None:
    y = Y if make is classifier else VALUES
    ours = make(fastbp, solver=solver, n_threads=2).fit(X, y)
    theirs = ours.to_sklearn()
    assert type(theirs).__module__.startswith("sklearn.")
    assert not parity.OWN & vars(theirs).keys()
    back = type(ours).from_sklearn(theirs, backend=compiled, n_threads=2)
    assert (back.backend, back.n_threads) == (compiled, 2)
    for model in (theirs, back):
        np.testing.assert_array_equal(model.predict(X), ours.predict(X)) if make is classifier else None
        parity.assert_agrees(model._forward_pass_fast(X), ours._forward_pass_fast(X), 1e-12)
    if solver != "lbfgs":
        for model in (ours, theirs, back):
            model.partial_fit(X, y)
        parity.assert_agrees(learned(theirs), learned(ours), 1e-9)
        parity.assert_agrees(learned(back), learned(ours), 0)


@pytest.mark.parametrize("make", [classifier, regressor])
def test_untrained_estimators_convert(make: Callable[..., Any]) -> None:
    theirs = make(fastbp, alpha=0.5).to_sklearn()
    assert theirs.get_params() == make(sklearn.neural_network, alpha=0.5).get_params()
    assert type(make(fastbp)).from_sklearn(theirs).alpha == 0.5


class WithTitle(fastbp.MLPClassifier):
    """A user's subclass with a parameter of its own."""

    def __init__(self, title: str = "", alpha: float = 1e-4) -> None:
        super().__init__(alpha=alpha, max_iter=3, random_state=0)
        self.title = title

    @classmethod
    def _get_param_names(cls) -> list[str]:
        return sorted([*fastbp.MLPClassifier._get_param_names(), "title"])


def test_subclasses_convert(compiled: str) -> None:
    ours = WithTitle("x", alpha=0.2).fit(X, Y)
    theirs = ours.to_sklearn()
    assert type(theirs) is sklearn.neural_network.MLPClassifier
    assert theirs.alpha == 0.2
    back = fastbp.MLPClassifier.from_sklearn(ours)
    _bit_equal(back, ours)
    assert not hasattr(theirs, "title")
    assert not hasattr(back, "title")


def test_from_sklearn_refuses_other_estimators() -> None:
    with pytest.raises(TypeError, match="pass a scikit-learn MLPClassifier"):
        fastbp.MLPClassifier.from_sklearn(sklearn.neural_network.MLPRegressor())


def test_conversion_copies(compiled: str) -> None:
    ours = classifier(fastbp).fit(X, Y)
    theirs, before = ours.to_sklearn(), copy.deepcopy(ours)
    theirs.coefs_[0][...] = 0
    theirs._optimizer.ms[0][...] = 7
    _bit_equal(ours, before)


# ----------------------------------------------------------------------------------------------- the same from outside


def test_a_subclass_may_change_parameters_between_epochs(agree: Agree) -> None:
    def action(library: Any) -> Any:
        class Clipped(library.MLPRegressor):
            def _update_no_improvement_count(self, *args: Any) -> None:
                for W in self.coefs_:
                    np.clip(W, -0.1, 0.1, out=W)
                super()._update_no_improvement_count(*args)

        return learned(Clipped(hidden_layer_sizes=(8,), max_iter=4, random_state=0).fit(X, VALUES))

    agree(action)


@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_an_epsilon_that_rounds_to_zero(batch_size: int, agree: Agree) -> None:
    params = {"epsilon": 1e-50, "alpha": 1e-3, "batch_size": batch_size, "activation": "tanh", "max_iter": 2}

    def action(library: Any) -> Any:
        model = regressor(library, **params).fit(X.astype(np.float32), VALUES.astype(np.float32))
        return learned(model), model.loss_

    agree(action, tolerance=1e-3)


@pytest.mark.parametrize("name", ["MLPClassifier", "MLPRegressor"])
def test_signature_and_tags(name: str) -> None:
    ours, theirs = getattr(fastbp, name), getattr(sklearn.neural_network, name)
    own, plain = (list(inspect.signature(cls).parameters.values()) for cls in (ours, theirs))
    assert [(p.name, p.kind, p.default) for p in own[:-7]] == [(p.name, p.kind, p.default) for p in plain]
    assert [(p.name, p.kind, p.default) for p in own[-7:]] == [
        ("batch_norm", inspect.Parameter.KEYWORD_ONLY, False),
        ("dropout", inspect.Parameter.KEYWORD_ONLY, None),
        ("backend", inspect.Parameter.KEYWORD_ONLY, "auto"),
        ("n_threads", inspect.Parameter.KEYWORD_ONLY, None),
        ("progress", inspect.Parameter.KEYWORD_ONLY, False),
        ("device", inspect.Parameter.KEYWORD_ONLY, None),
        ("precision", inspect.Parameter.KEYWORD_ONLY, None),
    ]
    assert ours().__sklearn_tags__() == theirs().__sklearn_tags__()
    public = {member for member in dir(theirs) if not member.startswith("_")}
    assert {member for member in dir(ours) if not member.startswith("_")} == public | {"to_sklearn", "from_sklearn"}
    assert isinstance(ours(), theirs)


def test_global_random_state(agree: Agree) -> None:
    """``random_state=None`` draws from NumPy's global state, as much as scikit-learn does."""
    state = check_random_state(None)
    saved = state.get_state()

    def action(library: Any) -> Any:
        state.seed(11)
        model = classifier(library, random_state=None, early_stopping=True).fit(X, Y)
        return learned(model), state.get_state()[1:3]

    agree(action)
    state.set_state(saved)


def test_weights_are_routed(agree: Agree) -> None:
    def action(library: Any) -> Any:
        with sklearn.config_context(enable_metadata_routing=True):
            model = classifier(library).set_fit_request(sample_weight=True)
            pipeline = sklearn.pipeline.make_pipeline(sklearn.preprocessing.StandardScaler(), model)
            return pipeline.fit(X, Y, sample_weight=np.arange(1.0, 41)).predict_proba(X)

    agree(action)


def test_warnings_turned_to_errors_keep_the_training(agree: Agree) -> None:
    def action(library: Any) -> Any:
        model = classifier(library)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            with pytest.raises(ConvergenceWarning):
                model.fit(X, Y)
        return learned(model), model.n_iter_

    agree(action)


def test_changed_data_is_seen(compiled: str) -> None:
    """Nothing derived from X or y outlives a fit."""
    data, target = X.copy(), VALUES.copy()
    model = regressor(fastbp, warm_start=False).fit(data, target)
    data *= -2
    target += 1
    other = regressor(fastbp).fit(data.copy(), target.copy())
    parity.assert_agrees(learned(model.fit(data, target)), learned(other), 0)


def test_progress_is_silent_where_there_is_no_terminal(compiled: str, capfd: pytest.CaptureFixture[str]) -> None:
    classifier(fastbp, progress=True).fit(X, Y)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_bits_do_not_depend_on_batch_threads_or_sparseness(dtype: str, compiled: str) -> None:
    data = np.where(np.tile(X, (9, 1)) > -0.3, np.tile(X, (9, 1)), 0).astype(dtype)
    y = np.tile(Y, 9)
    model = classifier(fastbp, hidden_layer_sizes=(33, 7)).fit(data, y)
    expected = model.predict_proba(data)
    for row in range(0, len(data), 37):
        np.testing.assert_array_equal(model.predict_proba(data[row : row + 1])[0], expected[row])
    _bit_equal(classifier(fastbp, hidden_layer_sizes=(33, 7), n_threads=3).fit(data, y), model)
    _bit_equal(classifier(fastbp, hidden_layer_sizes=(33, 7)).fit(scipy.sparse.csr_array(data), y), model)


def test_fitted_parameters_lie_in_one_buffer(compiled: str) -> None:
    """partial_fit trains where ``coefs_`` lie; nothing is copied forth and back."""
    model = classifier(fastbp, batch_size=8).fit(X, Y)
    assert np.shares_memory(solvers.as_flat(learned(model), np.dtype(float)), model.coefs_[0])


# ------------------------------------------------------------------------------------------------- scikit-learn's loop


@pytest.mark.parametrize(
    ("method", "solver"),
    [("_backprop", "adam"), ("_backprop", "lbfgs"), ("_compute_loss_grad", "sgd"), ("_loss_grad_lbfgs", "lbfgs")],
)
def test_overridden_loops_run(method: str, solver: str, compiled: str, caplog: pytest.LogCaptureFixture) -> None:
    """A subclass that changes scikit-learn's loop gets it, and the log says why."""

    def fit(library: Any) -> tuple[Any, int]:
        base, calls = library.MLPClassifier, []

        def counted(self: Any, *args: Any) -> Any:
            calls.append(method)
            return getattr(base, method)(self, *args)

        model = type("Mine", (base,), {method: counted})(solver=solver, max_iter=4, random_state=0)
        return model.fit(X, Y), len(calls)

    theirs, expected = fit(sklearn.neural_network)
    with caplog.at_level(logging.WARNING, logger="fastbp"):
        ours, n_calls = fit(fastbp)
    assert n_calls == expected > 0
    assert f"Mine.fit runs scikit-learn's own loop: Mine overrides {method}" in caplog.text
    parity.assert_agrees(learned(ours), learned(theirs), 1e-9)


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
def test_output_activations_of_the_users_choice_run(
    solver: str, compiled: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A bounded regressor by way of ``out_activation_``: scikit-learn's delta does not know that activation."""

    def fit(library: Any) -> Any:
        model = regressor(library, solver=solver, warm_start=True).fit(X, VALUES)
        model.out_activation_ = "tanh"
        model.fit(X, VALUES)
        return learned(model), model.predict(X), model.loss_

    theirs = fit(sklearn.neural_network)
    assert not caplog.text
    with caplog.at_level(logging.WARNING, logger="fastbp"):
        parity.assert_agrees(fit(fastbp), theirs, 1e-9)
    assert "out_activation_ is 'tanh'" in caplog.text


def test_log_names_the_backend(compiled: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fastbp"):
        classifier(fastbp).fit(X, Y)
    assert f"MLPClassifier.fit runs on backend {compiled}: 40 samples in batches of 16" in caplog.text
