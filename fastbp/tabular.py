"""A model from a table and predictions for a table: what the command line does between reading and printing."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .preprocessing import Columns, Preprocessing, check_complete, guess_task, is_missing
from .standardizer import Standardizer


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Attributes
    ----------
    model : MLPClassifier or MLPRegressor
    preprocessing : Preprocessing
    reason : str
        Why the task is what it is.
    n_train, n_test : int
        Rows trained on and held out.
    seconds : float
        What `fit` took.
    score : float or None
        Accuracy or R² on the held-out rows; None if there are none.
    baseline : float or None
        Accuracy of the most frequent class, for comparison. R² compares with the mean already.
    """

    model: Any
    preprocessing: Preprocessing
    reason: str
    n_train: int
    n_test: int
    seconds: float
    score: float | None
    baseline: float | None


def train(
    columns: Columns,
    target: str,
    *,
    task: str = "auto",
    categorical: Iterable[str] = (),
    test_fraction: float = 0.2,
    dtype: Any = np.float32,
    **parameters: Any,
) -> Trained:
    """Train an estimator on a part of a table and score it on the rest.

    Parameters
    ----------
    columns : mapping of str to ndarray of shape (n,)
    target : str
        The column to be predicted.
    task : {"auto", "classification", "regression"}
    categorical : iterable of str
        Columns of numbers that are categories.
    test_fraction : float
        In [0, 1): the part of the rows that is held out, drawn at random; of each class alike where there are
        enough of it.
    dtype : numpy.float32 or numpy.float64
    **parameters
        Of `fastbp.MLPClassifier` or `fastbp.MLPRegressor`; ``random_state`` draws the held-out rows too.

    Returns
    -------
    Trained

    Raises
    ------
    ValueError
        If values are missing, or the table does not fit the task.
    KeyboardInterrupt
        If Ctrl-C was pressed: a model that was not trained to its end is not returned.
    """
    if target not in columns:
        raise ValueError(f"there is no column {target!r}; the table has {', '.join(map(repr, columns))}")
    check_complete(columns)
    reason = "as asked for"
    if task == "auto":
        task, reason = guess_task(columns[target])
    labels = columns[target] if task == "classification" else None
    training, held_out = _split(len(columns[target]), labels, test_fraction, parameters.get("random_state"))
    part = _rows(columns, training)
    preprocessing = Preprocessing.fit(part, target, task, categorical=categorical)
    model = _estimator(task, parameters)
    seconds = fit_to_the_end(model, preprocessing.transform(part, dtype), preprocessing.targets(part))
    score = baseline = None
    if len(held_out):
        rest = _rows(columns, held_out)
        found = measure(predict(model, preprocessing, rest)[0], preprocessing, rest)
        score = None if found is None else found[1]
        baseline = _most_frequent(part[target], rest[target]) if task == "classification" else None
    return Trained(model, preprocessing, reason, len(training), len(held_out), seconds, score, baseline)


def predict(
    model: Any, preprocessing: Preprocessing | None, columns: Columns, standardizer: Standardizer | None = None
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return a model's predictions for a table, and the matrix that the model took.

    Parameters
    ----------
    model : Network, MLPClassifier or MLPRegressor
    preprocessing : Preprocessing or None
        None: the columns are the inputs, in their order or by the names that the model knows.
    columns : mapping of str to ndarray of shape (n,)
    standardizer : Standardizer, optional
        What brings the inputs to the model's scale.

    Returns
    -------
    predictions : ndarray of shape (n,) or (n, n_outputs)
    X : ndarray of shape (n, n_inputs)

    Raises
    ------
    ValueError
        If columns are missing or do not hold what the model was trained on.
    """
    dtype = model.dtype if hasattr(model, "dtype") else model.coefs_[0].dtype
    if preprocessing is not None:
        X = preprocessing.transform(columns, dtype)
        return preprocessing.restore(model.predict(X)), X
    X = _matrix(columns, getattr(model, "feature_names_in_", None), dtype if standardizer is None else np.float64)
    if standardizer is not None:
        X = standardizer.transform(X, dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="X does not have valid feature names")  # they were matched here
        return model.predict(X), X


def measure(predictions: NDArray[Any], preprocessing: Preprocessing, columns: Columns) -> tuple[str, float, int] | None:
    """Return how good predictions are where the table knows the answers.

    Returns
    -------
    tuple of str, float, int, or None
        The measure's name, its value, and the number of rows; None if the table has no answers.
    """
    target = preprocessing.target
    if target.name not in columns:
        return None
    answers = columns[target.name]
    known = ~is_missing(answers)
    n_needed = 2 if target.task == "regression" else 1
    if known.sum() < n_needed or (target.task == "regression" and answers.dtype.kind == "O"):
        return None
    value = _score(predictions[known], answers[known], target.task)
    return MEASURES[target.task], value, int(known.sum())


MEASURES = {"classification": "accuracy", "regression": "R²"}
"""How predictions are scored."""


def _split(
    n: int, labels: NDArray[Any] | None, test_fraction: float, random_state: Any
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows to train on and those to hold out."""
    from sklearn.model_selection import train_test_split

    rows = np.arange(n)
    if not test_fraction:
        return rows, rows[:0]
    if labels is not None:
        numbers, counts = np.unique(labels.astype(str), return_inverse=True, return_counts=True)[1:]
        n_test = int(np.ceil(n * test_fraction))
        labels = numbers if counts.min() > 1 and len(counts) <= min(n_test, n - n_test) else None
    training, held_out = train_test_split(rows, test_size=test_fraction, stratify=labels, random_state=random_state)
    return np.sort(training), np.sort(held_out)


def _rows(columns: Columns, rows: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    return {name: values[rows] for name, values in columns.items()}


def _estimator(task: str, parameters: dict[str, Any]) -> Any:
    from .estimators import MLPClassifier, MLPRegressor

    return (MLPClassifier if task == "classification" else MLPRegressor)(**parameters)


def fit_to_the_end(model: Any, X: NDArray[Any], y: NDArray[Any]) -> float:
    """Fit an estimator for as many epochs as it has, and return the seconds that it took.

    Raises
    ------
    KeyboardInterrupt
        After Ctrl-C, where `fit` itself warns and keeps what it has.
    """
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs was asked for
        warnings.filterwarnings("error", message="Training interrupted by user", category=UserWarning)
        start = time.perf_counter()
        try:
            model.fit(X, y)
        except UserWarning as warning:
            if "interrupted" in str(warning):
                raise KeyboardInterrupt from None
            raise
        return time.perf_counter() - start


def _score(predictions: NDArray[Any], answers: NDArray[Any], task: str) -> float:
    """Return accuracy or R²."""
    if task == "regression":
        from sklearn.metrics import r2_score

        return float(r2_score(answers.astype(np.float64), predictions))
    if predictions.dtype.kind in "biuf" and answers.dtype.kind in "biuf":
        return float(np.mean(predictions == answers))
    return float(np.mean(predictions.astype(str) == answers.astype(str)))


def _most_frequent(training: NDArray[Any], held_out: NDArray[Any]) -> float:
    """Return the accuracy of always predicting the training rows' most frequent class."""
    classes, counts = np.unique(training.astype(str), return_counts=True)
    return float(np.mean(held_out.astype(str) == classes[counts.argmax()]))


def _matrix(columns: Columns, names: NDArray[Any] | None, dtype: Any) -> NDArray[Any]:
    """Return columns of numbers as a matrix."""
    chosen = list(columns) if names is None else names.tolist()
    missing = [name for name in chosen if name not in columns]
    if missing:
        raise ValueError(f"the table lacks {', '.join(map(repr, missing[:10]))}, which the model was trained on")
    texts = [name for name in chosen if columns[name].dtype.kind not in "biuf"]
    if texts:
        raise ValueError(
            f"column {texts[0]!r} is text, but this model file has no preprocessing for text; pass a table of numbers"
        )
    check_complete({name: columns[name] for name in chosen})
    return np.column_stack([columns[name] for name in chosen]).astype(dtype)
