"""Mixes of parameters and data, run on scikit-learn's estimators and on fastbp's, and compared.

A `Case` is one mix. `observe` trains an estimator on it and notes everything that a user can see; `compare` holds two
such observations against each other.
"""

from __future__ import annotations

import contextlib
import functools
import io
import random
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
import scipy.sparse
import sklearn.neural_network
from numpy.typing import NDArray
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron

N_SAMPLES, N_FEATURES = 61, 7

AXES: dict[str, tuple[Any, ...]] = {
    "task": (
        "binary",
        "binary strings",
        "multiclass",
        "multiclass strings",
        "multilabel",
        "one output",
        "many outputs",
        "poisson",
        "poisson many",
    ),
    "activation": ("relu", "tanh", "logistic", "identity"),
    "solver": ("adam", "sgd", "momentum", "nesterov", "lbfgs"),
    "learning_rate": ("constant", "invscaling", "adaptive"),
    "alpha": (1e-4, 0.0, 0.03),
    "patience": ("long", "short"),
    "early_stopping": (False, True),
    "batch_size": ("auto", 1, 8, 17, 1000),
    "shuffle": (True, False),
    "mode": ("fit", "warm start", "partial_fit"),
    "weights": ("none", "random", "some zero"),
    "form": ("C", "F", "CSR", "CSC"),
    "dtype": ("float64", "float32"),
    "hidden_layer_sizes": ((5,), (), (1,), (16, 9), (33, 8, 3)),
}

OWN = frozenset({"batch_norm", "dropout", "backend", "n_threads", "progress", "device", "precision"})
"""Parameters that scikit-learn's estimators do not have."""

TOLERANCES = {"float64": 1e-9, "float32": 1e-3, "float64 lbfgs": 1e-6, "float32 lbfgs": 1e-3}
"""The largest difference allowed, divided by the largest magnitude of its array."""

WHOLES = {
    "loss_": "loss_curve_",
    "best_loss_": "loss_curve_",
    "best_validation_score_": "validation_scores_",
    "predict few": "predict",
    "predict_proba few": "predict_proba",
}
"""Single numbers, and the curve whose magnitude is theirs."""

SOLVERS = {
    "adam": {"solver": "adam", "learning_rate_init": 0.003},
    "sgd": {"solver": "sgd", "momentum": 0.0, "learning_rate_init": 0.01},
    "momentum": {"solver": "sgd", "nesterovs_momentum": False, "learning_rate_init": 0.001},
    "nesterov": {"solver": "sgd", "nesterovs_momentum": True, "learning_rate_init": 0.001},
    "lbfgs": {"solver": "lbfgs"},
}
EPOCHS = (20, 10, 5, 2)
VARIANTS = range(1, 6)
PATIENCE = {"long": {}, "short": {"n_iter_no_change": 2, "tol": 0.02}}


@dataclass(frozen=True)
class Case:
    """One value of each axis."""

    task: str
    activation: str
    solver: str
    learning_rate: str
    alpha: float
    patience: str
    early_stopping: bool
    batch_size: int | str
    shuffle: bool
    mode: str
    weights: str
    form: str
    dtype: str
    hidden_layer_sizes: tuple[int, ...]

    def __str__(self) -> str:
        return ",".join(str(value).replace(" ", "") for value in asdict(self).values())

    @property
    def kind(self) -> str:
        """The row of `TOLERANCES`."""
        return f"{self.dtype} lbfgs" if self.solver == "lbfgs" else self.dtype

    @property
    def class_name(self) -> str:
        return "MLPRegressor" if "output" in self.task or "poisson" in self.task else "MLPClassifier"


def allowed(values: dict[str, Any]) -> bool:
    """Tell whether scikit-learn takes a mix of these values, as far as they are chosen already."""
    stochastic_only = {
        "learning_rate": "constant",
        "early_stopping": False,
        "batch_size": "auto",
        "shuffle": True,
    }
    if values.get("solver") == "lbfgs":
        if any(values.get(name, plain) != plain for name, plain in stochastic_only.items()):
            return False
        if values.get("mode") == "partial_fit":
            return False
    if values.get("solver") == "adam" and values.get("learning_rate", "constant") != "constant":
        return False
    if values.get("mode") == "partial_fit" and values.get("early_stopping"):
        return False
    return not (values.get("batch_size") == 1 and values.get("weights") == "some zero")


def covering_cases(seed: int = 0) -> list[Case]:
    """Return cases in which every allowed pair of two axes' values occurs."""
    rng = random.Random(seed)
    missing = {
        ((a, x), (b, y)): None
        for a, b in combinations(AXES, 2)
        for x in AXES[a]
        for y in AXES[b]
        if allowed({a: x, b: y})
    }
    cases = []
    while missing:
        candidates = [_extend(dict(next(iter(missing))), missing, rng) for _ in range(10)]
        best = max(candidates, key=lambda values: len(pairs(values) & missing.keys()))
        cases.append(Case(**best))
        for pair in pairs(best):
            missing.pop(pair, None)
    return cases


def random_cases(number: int, seed: int = 0) -> list[Case]:
    """Return cases drawn at random from all that are allowed."""
    rng = random.Random(seed)
    return [Case(**_extend({}, {}, rng)) for _ in range(number)]


def _extend(values: dict[str, Any], missing: dict[Any, None], rng: random.Random) -> dict[str, Any]:
    """Choose the other axes' values in random order, each so that most missing pairs are met."""
    for axis in rng.sample(list(AXES), len(AXES)):
        if axis not in values:
            choices = [value for value in AXES[axis] if allowed({**values, axis: value})]
            gains = [len(pairs({**values, axis: value}) & missing.keys()) for value in choices]
            best = max(gains)
            values[axis] = rng.choice([choice for choice, gain in zip(choices, gains, strict=True) if gain == best])
    return {axis: values[axis] for axis in AXES}


def pairs(values: dict[str, Any]) -> set[tuple[tuple[str, Any], tuple[str, Any]]]:
    return set(combinations([(axis, values[axis]) for axis in AXES if axis in values], 2))


def make_data(case: Case, variant: int = 0) -> tuple[Any, NDArray[Any], NDArray[Any] | None]:
    """Return X, y and sample weights; a variant but 0 has the rows in another order, X off by a unit in its last place.

    A computation that rounds cannot tell the variants from each other.
    """
    rng = np.random.RandomState(7)
    X = rng.uniform(-1, 1, (N_SAMPLES, N_FEATURES)).astype(case.dtype)
    X[rng.random_sample(X.shape) < 0.3] = 0
    scores = X @ rng.standard_normal((N_FEATURES, 3)) + 0.3 * rng.standard_normal((N_SAMPLES, 3))
    forms = {
        "C": np.ascontiguousarray,
        "F": np.asfortranarray,
        "CSR": scipy.sparse.csr_matrix,
        "CSC": scipy.sparse.csc_array,
    }
    weights = None if case.weights == "none" else rng.uniform(0.2, 3, N_SAMPLES)
    if weights is not None and case.weights == "some zero":
        weights[rng.permutation(N_SAMPLES)[: N_SAMPLES // 3]] = 0
    y = _targets(case, scores, rng)
    if variant:
        rng = np.random.RandomState(variant)
        rows = rng.permutation(N_SAMPLES)
        towards = np.where(X == 0, 0, rng.choice([-np.inf, np.inf], X.shape)).astype(case.dtype)
        X, y, weights = np.nextafter(X, towards)[rows], y[rows], None if weights is None else weights[rows]
    return forms[case.form](X), y, weights


def _targets(case: Case, scores: NDArray[Any], rng: np.random.RandomState) -> NDArray[Any]:
    number = scores.argmax(axis=1)
    targets = {
        "binary": lambda: number == 1,
        "binary strings": lambda: np.array(["no", "yes"])[(number == 1).astype(int)],
        "multiclass": lambda: np.array([3, -1, 8])[number],
        "multiclass strings": lambda: np.array(["red", "green", "blue"], dtype=object)[number],
        "multilabel": lambda: (scores > 0).astype(int),
        "one output": lambda: scores[:, 0].astype(case.dtype),
        "many outputs": lambda: scores,
        "poisson": lambda: rng.poisson(np.exp(scores[:, 0].clip(-1, 1))),
        "poisson many": lambda: np.exp(scores.clip(-1, 1)).astype(case.dtype),
    }
    return targets[case.task]()


def make_estimator(case: Case, library: Any, epochs: int) -> Any:
    """Return a library's untrained estimator for a case, verbose, with a random state of its own."""
    warm = case.mode == "warm start"
    loss = {"loss": "poisson"} if "poisson" in case.task else {}
    copied = ("activation", "alpha", "early_stopping", "batch_size", "shuffle", "hidden_layer_sizes")
    return getattr(library, case.class_name)(
        **{name: getattr(case, name) for name in (*copied, "learning_rate")},
        **SOLVERS[case.solver],
        **PATIENCE[case.patience],
        **loss,
        max_iter=epochs // 2 if warm else epochs,
        warm_start=warm,
        validation_fraction=0.2,
        verbose=True,
        random_state=np.random.RandomState(3),
    )


@dataclass
class Observation:
    """What a user can see of a training and its predictions."""

    n_iter: int = 0
    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    predicted: NDArray[Any] = field(default_factory=lambda: np.empty(0))
    printed: list[str] = field(default_factory=list)
    warned: list[tuple[str, str]] = field(default_factory=list)
    attributes: dict[str, Any] = field(default_factory=dict)
    random_state: Any = None
    error: tuple[str, str] | None = None


@contextlib.contextmanager
def listening(seen: Observation) -> Iterator[None]:
    """Note what is printed, warned and raised. What NumPy says about its own arithmetic is left out."""
    out = io.StringIO()
    with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(out):
        warnings.simplefilter("always")
        try:
            yield
        except Exception as error:
            seen.error = type(error).__name__, str(error)
    seen.printed += out.getvalue().splitlines()
    seen.warned += [
        (warning.category.__name__, str(warning.message))
        for warning in caught
        if not issubclass(warning.category, RuntimeWarning)
    ]


def listen(action: Callable[[Any], Any], library: Any) -> tuple[Observation, Any]:
    """Run an action on a library; return what it said and its result."""
    seen, result = Observation(), None
    with listening(seen):
        result = action(library)
    return seen, result


def observe(case: Case, library: Any, epochs: int | None = None, variant: int = 0) -> Observation:
    """Train a library's estimator on a case, by default as long as `n_epochs` says, and return what can be seen."""
    X, y, sample_weight = make_data(case, variant)
    epochs = n_epochs(case) if epochs is None else epochs
    estimator, seen = make_estimator(case, library, epochs), Observation()
    with listening(seen):
        for _ in range(epochs if case.mode == "partial_fit" else 2 if case.mode == "warm start" else 1):
            if case.mode == "partial_fit":
                classes = {} if case.class_name == "MLPRegressor" else {"classes": _classes(y)}
                estimator.partial_fit(X, y, sample_weight=sample_weight, **classes)
            else:
                estimator.fit(X, y, sample_weight=sample_weight)
    look_at(estimator, seen)
    if seen.error is None:
        look_at_predictions(estimator, X, seen)
    return seen


def _classes(y: NDArray[Any]) -> NDArray[Any]:
    return np.unique(y) if y.ndim == 1 else np.arange(y.shape[1])


def look_at(estimator: Any, seen: Observation) -> None:
    """Note a trained estimator's attributes."""
    seen.random_state = estimator.random_state.get_state()
    seen.n_iter = getattr(estimator, "n_iter_", 0)
    for name in ("loss_curve_", "validation_scores_", "loss_", "best_loss_", "best_validation_score_"):
        value = getattr(estimator, name, None)
        if value is not None:
            seen.arrays[name] = np.atleast_1d(value)
    for name in ("coefs_", "intercepts_"):
        for layer, array in enumerate(getattr(estimator, name, [])):
            seen.arrays[f"{name}{layer}"] = array
    seen.attributes = {name: kind_of(value) for name, value in vars(estimator).items() if name not in OWN}


def look_at_predictions(estimator: Any, X: Any, seen: Observation) -> None:
    """Note what a trained estimator predicts, for many rows and for a few."""
    seen.predicted = estimator.predict(X)
    if seen.predicted.dtype.kind == "f":
        seen.arrays["predict"] = seen.predicted
        seen.arrays["predict few"] = estimator.predict(X[:3])
    if hasattr(estimator, "predict_proba"):
        seen.arrays["predict_proba"] = estimator.predict_proba(X)
        seen.arrays["predict_proba few"] = estimator.predict_proba(X[:3])
        seen.arrays["predict_log_proba"] = estimator.predict_log_proba(X)


def kind_of(value: Any) -> Any:
    """Return type, dtype and shape of a value, and of what a list or an object holds."""
    name = type(value).__name__
    if isinstance(value, np.ndarray):
        return name, str(value.dtype), value.shape
    if isinstance(value, list | tuple):
        return name, [kind_of(item) for item in value]
    if type(value).__module__.startswith("sklearn.neural_network"):
        moments = ("ms", "vs", "velocities")
        return name, {key: key in moments or kind_of(item) for key, item in vars(value).items()}
    return name


@functools.cache
def n_epochs(case: Case) -> int:
    """Return how long to train: 20 epochs, with L-BFGS at most, and as long as scikit-learn agrees with itself.

    L-BFGS's line search branches on the last bits of losses and gradients, and its matrices amplify them: after 20
    iterations on variants of the same data, or with the last place of its gradients moved, scikit-learn may stand
    elsewhere by any amount. Until then, all agree.
    """
    if case.solver != "lbfgs":
        return EPOCHS[0]
    for epochs in EPOCHS:
        wanted = observe(case, sklearn.neural_network, epochs)
        variants = [observe(case, sklearn.neural_network, epochs, variant) for variant in VARIANTS]
        for seed in VARIANTS:
            with gradients_moved(seed):
                variants.append(observe(case, sklearn.neural_network, epochs))
        if all(_furthest(seen, wanted) <= TOLERANCES[case.kind] / 10 for seen in variants):
            return epochs
    return EPOCHS[-1]


@contextlib.contextmanager
def gradients_moved(seed: int) -> Iterator[None]:
    """Move each number of scikit-learn's L-BFGS gradients by the last place of the largest one: no sum is exacter."""
    rng, kept = np.random.default_rng(seed), BaseMultilayerPerceptron._loss_grad_lbfgs

    def moved(self: Any, *args: Any) -> Any:
        loss, gradient = kept(self, *args)
        places = rng.integers(-1, 2, gradient.shape).astype(gradient.dtype)
        return loss, gradient + places * np.spacing(np.abs(gradient).max())

    BaseMultilayerPerceptron._loss_grad_lbfgs = moved
    try:
        yield
    finally:
        BaseMultilayerPerceptron._loss_grad_lbfgs = kept


def _furthest(seen: Observation, wanted: Observation) -> float:
    """Return the largest difference of two trainings' loss and parameters; infinity where one stopped before."""
    if (seen.n_iter, seen.error) != (wanted.n_iter, wanted.error):
        return float("inf")
    whole = {name: wanted.arrays.get(WHOLES.get(name, name)) for name in wanted.arrays}
    return max(
        difference(seen.arrays[name], array, whole[name])
        for name, array in wanted.arrays.items()
        if name == "loss_" or name.startswith(("coefs_", "intercepts_"))
    )


@functools.cache
def sklearn_observation(case: Case) -> Observation:
    """Return what scikit-learn's own estimator shows, computed once."""
    return observe(case, sklearn.neural_network)


def compare(case: Case, ours: Observation, theirs: Observation) -> dict[str, float]:
    """Assert that two observations agree; return the largest difference of each kind of array."""
    tolerance = TOLERANCES[case.kind]
    assert ours.error == theirs.error
    assert ours.warned == theirs.warned
    assert ours.n_iter == theirs.n_iter
    assert ours.attributes == theirs.attributes
    assert_same_random_state(ours.random_state, theirs.random_state)
    assert_same_lines(ours.printed, theirs.printed, case.dtype)
    if theirs.error is not None:  # a failed epoch may be left half-way
        return {}
    assert ours.arrays.keys() == theirs.arrays.keys()
    differences = {
        name: difference(ours.arrays[name], wanted, theirs.arrays.get(WHOLES.get(name, name)))
        for name, wanted in theirs.arrays.items()
    }
    too_large = {name: value for name, value in differences.items() if not value <= tolerance}
    assert not too_large, f"larger than {tolerance}: {too_large}"
    if ours.predicted.dtype.kind != "f":
        assert ours.predicted.dtype == theirs.predicted.dtype
        np.testing.assert_array_equal(ours.predicted, theirs.predicted)
    return {f"{case.kind:14s} {name}": value for name, value in _by_quantity(differences).items()}


def difference(got: NDArray[Any], wanted: NDArray[Any], whole: NDArray[Any] | None = None) -> float:
    """Return the largest difference of two arrays, divided by the largest magnitude; NaN where a NaN stands.

    The magnitude is that of ``whole``, of which the arrays may be a part. Infinities, as in the logarithm of a
    probability of 0, differ by nothing from themselves.
    """
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    whole = wanted if whole is None else whole
    largest = np.abs(whole, where=np.isfinite(whole), out=np.zeros(whole.shape)).max(initial=0)
    apart = np.subtract(got, wanted, where=got != wanted, out=np.zeros(wanted.shape), dtype=np.float64)
    return float(np.abs(apart).max(initial=0) / (largest or 1))


def _by_quantity(differences: dict[str, float]) -> dict[str, float]:
    """Return the largest difference over all layers of each quantity."""
    largest: dict[str, float] = {}
    for name, value in differences.items():
        quantity = re.sub(r"\d+$", "", name)
        largest[quantity] = max(value, largest.get(quantity, 0.0))
    return largest


def assert_same_random_state(ours: Any, theirs: Any) -> None:
    assert ours[0] == theirs[0]
    np.testing.assert_array_equal(ours[1], theirs[1])
    assert ours[2:] == theirs[2:]


def assert_same_lines(ours: Sequence[str], theirs: Sequence[str], dtype: str) -> None:
    """Hold printed lines against each other: the same text, numbers equal to the last digit but one unit."""
    assert len(ours) == len(theirs)
    number = re.compile(r"-?\d+\.\d+|nan|inf")
    for our_line, their_line in zip(ours, theirs, strict=True):
        assert number.sub("#", our_line) == number.sub("#", their_line)
        for got, wanted in zip(number.findall(our_line), number.findall(their_line), strict=True):
            unit = 10.0 ** -len(wanted.partition(".")[2])
            rtol = TOLERANCES["float32"] if dtype == "float32" else 0
            np.testing.assert_allclose(float(got), float(wanted), rtol=rtol, atol=1.01 * unit)


def assert_agrees(got: Any, wanted: Any, tolerance: float) -> None:
    """Assert that results are of the same types and, floating arrays within a tolerance, the same."""
    assert type(got) is type(wanted)
    if isinstance(wanted, dict):
        assert got.keys() == wanted.keys()
        for key in wanted:
            assert_agrees(got[key], wanted[key], tolerance)
    elif isinstance(wanted, list | tuple):
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            assert_agrees(one, other, tolerance)
    elif scipy.sparse.issparse(wanted):
        assert_agrees(got.toarray(), wanted.toarray(), tolerance)
    elif isinstance(wanted, np.ndarray) and wanted.dtype.kind == "f":
        assert difference(got, wanted) <= tolerance
    elif isinstance(wanted, float | np.floating):
        assert difference(np.asarray(got), np.asarray(wanted)) <= tolerance
    else:
        np.testing.assert_array_equal(got, wanted)
