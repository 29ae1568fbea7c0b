"""From the columns of a table to the matrix that a network takes: numbers normalised, categories one-hot.

What is learnt here is learnt from the training rows alone and kept in the model file, so that later tables are treated
alike.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Columns = Mapping[str, NDArray[Any]]
"""A table: names, and columns of one length. Numbers and booleans are NumPy's; text is objects, None if missing."""

TASKS = ("classification", "regression")

MOST_CLASSES = 20
"""Whole numbers with at most so many different values are taken for classes where the task is not given."""

MOST_CATEGORIES = 1000
"""More distinct texts than this are hardly categories, and each of them costs an input."""


@dataclass(frozen=True)
class Scale:
    """A mean and a standard deviation: x becomes (x - mean) / deviation."""

    mean: float
    deviation: float

    @classmethod
    def fit(cls, values: NDArray[Any], name: str) -> Self:
        """Return the scale of some numbers; the deviation of a constant counts as 1.

        Raises
        ------
        ValueError
            If the numbers are too large for their squares to be added up.
        """
        with np.errstate(over="ignore"):
            mean, deviation = (
                float(np.mean(values, dtype=np.float64)),
                float(np.std(values, dtype=np.float64)),
            )
        if not math.isfinite(deviation):
            raise ValueError(f"column {name!r} holds numbers up to {np.max(np.abs(values))}; scale it down")
        return cls(mean, float(divisor(deviation, mean)))

    def apply(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return the values on this scale."""
        return (values - self.mean) / self.deviation

    def undo(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Return what had these values on this scale."""
        return values * self.deviation + self.mean


def divisor(deviation: Any, mean: Any) -> NDArray[np.float64]:
    """Return what to divide by for a deviation of 1: for numbers that are constant but for rounding, 1."""
    return np.where(deviation > 10 * np.finfo(np.float64).eps * np.abs(mean), deviation, 1.0)


@dataclass(frozen=True)
class Feature:
    """One column of inputs: a scale for numbers, or the categories of a text."""

    name: str
    scale: Scale | None = None
    categories: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """How many inputs the column becomes."""
        return 1 if self.scale is not None else len(self.categories)


@dataclass(frozen=True)
class Target:
    """The column to be predicted; a regression's is normalised too."""

    name: str
    task: str
    scale: Scale | None = None


@dataclass(frozen=True)
class Preprocessing:
    """How a table becomes a matrix.

    Attributes
    ----------
    features : tuple of Feature
    target : Target

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp.preprocessing import Preprocessing
    >>> table = {"size": np.array([1.0, 3.0]), "colour": np.array(["red", "blue"], object), "price": np.array([5, 9])}
    >>> rule = Preprocessing.fit(table, "price", "regression")
    >>> rule.transform(table)
    array([[-1.,  0.,  1.],
           [ 1.,  1.,  0.]])
    """

    features: tuple[Feature, ...]
    target: Target

    @classmethod
    def fit(cls, columns: Columns, target: str, task: str, *, categorical: Iterable[str] = ()) -> Self:
        """Learn from training rows.

        Parameters
        ----------
        columns : mapping of str to ndarray of shape (n,)
            All columns but the target become inputs. Text becomes one input for each of its values, in
            alphabetical order; numbers become (x - mean) / deviation.
        target : str
        task : {"classification", "regression"}
        categorical : iterable of str
            Columns of numbers that shall be treated as text.

        Raises
        ------
        ValueError
            If a value is missing or infinite, a text has more than `MOST_CATEGORIES` values, or the target does not
            fit the task.
        """
        check_complete(columns)
        _check_target(columns, target, task)
        as_text = set(categorical)
        features = [_fit_feature(name, values, name in as_text) for name, values in columns.items() if name != target]
        if not features:
            raise ValueError(f"the table has no columns beside the target {target!r}; there is nothing to learn from")
        scale = Scale.fit(columns[target], target) if task == "regression" else None
        return cls(tuple(features), Target(target, task, scale))

    @property
    def n_inputs(self) -> int:
        """How many columns the matrix has."""
        return sum(feature.width for feature in self.features)

    def transform(self, columns: Columns, dtype: Any = np.float64) -> NDArray[Any]:
        """Return the matrix of a table; columns are found by name, others than the features are ignored.

        Parameters
        ----------
        columns : mapping of str to ndarray of shape (n,)
        dtype : numpy.float32 or numpy.float64

        Returns
        -------
        ndarray of shape (n, n_inputs)

        Raises
        ------
        ValueError
            If a column is missing, holds text instead of numbers, or lacks values.

        Warns
        -----
        UserWarning
            If a text was not among the training rows': all its inputs are 0.
        """
        missing = [feature.name for feature in self.features if feature.name not in columns]
        if missing:
            raise ValueError(
                f"the table lacks {_names(missing)}, which the model was trained on; it has {_names(columns)}"
            )
        used = {feature.name: columns[feature.name] for feature in self.features}
        check_complete(used)
        X = np.zeros((len(next(iter(used.values()))), self.n_inputs), dtype)
        start, unknown = 0, {}
        for feature in self.features:
            part = X[:, start : start + feature.width]
            if feature.scale is not None:
                part[:, 0] = feature.scale.apply(_as_numbers(feature.name, used[feature.name]))
            else:
                unknown[feature.name] = one_hot(_as_text(used[feature.name]), feature.categories, part)
            start += feature.width
        warn_of_unknown(unknown, len(X))
        return X

    def targets(self, columns: Columns) -> NDArray[Any]:
        """Return what a model learns for a table: class labels, or numbers of mean 0 and deviation 1."""
        values = columns[self.target.name]
        if self.target.scale is not None:
            return self.target.scale.apply(_as_numbers(self.target.name, values))
        return values.astype(str) if values.dtype.kind == "O" else values

    def restore(self, predictions: NDArray[Any]) -> NDArray[Any]:
        """Return a model's predictions in the target's own unit, in their dtype."""
        if self.target.scale is None:
            return predictions
        return self.target.scale.undo(predictions.astype(np.float64)).astype(predictions.dtype)

    def to_content(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_content(cls, content: dict[str, Any]) -> Self:
        """Return what `to_content` was called on.

        Raises
        ------
        KeyError, TypeError, ValueError
            If the content is malformed.
        """
        features = tuple(
            Feature(str(item["name"]), _as_scale(item["scale"]), tuple(str(value) for value in item["categories"]))
            for item in content["features"]
        )
        target = content["target"]
        if target["task"] not in TASKS:
            raise ValueError(f"task is {target['task']!r}")
        return cls(features, Target(str(target["name"]), target["task"], _as_scale(target["scale"])))


def guess_task(values: NDArray[Any]) -> tuple[str, str]:
    """Return the task that a target suggests, and why: text, booleans and few whole numbers are classes.

    Parameters
    ----------
    values : ndarray of shape (n,)

    Returns
    -------
    task : {"classification", "regression"}
    reason : str
    """
    if values.dtype.kind == "O":
        return "classification", "the target is text"
    if values.dtype.kind == "b":
        return "classification", "the target is true or false"
    if values.dtype.kind in "iu":
        n_values = len(np.unique(values))
        if n_values <= MOST_CLASSES:
            return "classification", f"the target has {n_values} different whole numbers"
        return "regression", f"the target has {n_values} different whole numbers, more than {MOST_CLASSES}"
    return "regression", "the target holds decimal numbers"


def check_complete(columns: Columns) -> None:
    """Refuse missing and infinite values.

    Raises
    ------
    ValueError
        Naming the columns and how many values each lacks.
    """
    for kind, count, cure in (
        ("missing", _count_missing, "fill them in, or remove these rows or columns"),
        ("infinite", _count_infinite, "replace them, or remove these rows or columns"),
    ):
        found = {name: n for name, values in columns.items() if (n := count(values))}
        if found:
            listed = ", ".join(f"{name!r} ({n} of {len(columns[name])})" for name, n in list(found.items())[:10])
            more = f" and {len(found) - 10} columns more" if len(found) > 10 else ""
            raise ValueError(f"there are {kind} values in {listed}{more}; {cure}")


def is_missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which values of a column are missing: NaN, or None in text."""
    if values.dtype.kind == "O":
        return np.array([value is None for value in values], bool)
    return np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), bool)


def _count_missing(values: NDArray[Any]) -> int:
    return int(is_missing(values).sum())


def _count_infinite(values: NDArray[Any]) -> int:
    return int(np.isinf(values).sum()) if values.dtype.kind == "f" else 0


def _check_target(columns: Columns, target: str, task: str) -> None:
    if task not in TASKS:
        raise ValueError(f"task is {task!r}; choose 'classification' or 'regression'")
    if target not in columns:
        raise ValueError(f"there is no column {target!r} to be the target; the table has {_names(columns)}")
    values = columns[target]
    if task == "regression" and values.dtype.kind == "O":
        raise ValueError(f"the target {target!r} is text such as {values[0]!r}; use --task classification")
    if task == "classification":
        if values.dtype.kind == "f" and (values != np.round(values)).any():
            raise ValueError(f"the target {target!r} holds decimal numbers, no classes; use --task regression")
        if len(set(values.tolist())) < 2:
            (only,) = set(values.tolist())
            raise ValueError(f"the target {target!r} is {only!r} in every row; there is nothing to tell apart")


def _fit_feature(name: str, values: NDArray[Any], as_text: bool) -> Feature:
    if values.dtype.kind != "O" and not as_text:
        return Feature(name, Scale.fit(values, name))
    categories = tuple(sorted(set(_as_text(values))))
    if len(categories) > MOST_CATEGORIES:
        raise ValueError(
            f"column {name!r} has {len(categories)} different texts, more than {MOST_CATEGORIES}; leave it out with "
            f"--exclude {name}, or group its values"
        )
    return Feature(name, None, categories)


def _as_numbers(name: str, values: NDArray[Any]) -> NDArray[np.float64]:
    if values.dtype.kind == "O":
        raise ValueError(
            f"column {name!r} held numbers in training, but here it holds text such as {_first_text(values)!r}; "
            "correct these values"
        )
    return values.astype(np.float64)


def _first_text(values: NDArray[Any]) -> Any:
    """Return the first value that is no number."""
    for value in values:
        try:
            float(value)
        except ValueError:
            return value
    return values[0]


def _as_text(values: NDArray[Any]) -> list[str]:
    return [str(value) for value in values.tolist()]


def one_hot(values: list[Any], categories: Sequence[Any], out: NDArray[Any]) -> list[Any]:
    """Write a 1 into each value's column of zeros and return the values that have none (Cheng 9.2)."""
    position = {category: i for i, category in enumerate(categories)}
    found = np.array([position.get(value, -1) for value in values])
    rows = np.flatnonzero(found >= 0)
    out[rows, found[rows]] = 1
    return [values[row] for row in np.flatnonzero(found < 0)]


def warn_of_unknown(unknown: Mapping[Any, list[Any]], n_rows: int) -> None:
    """Warn, where the caller's caller is, of values by column that did not occur in training."""
    for name, values in unknown.items():
        if values:
            warnings.warn(
                f"column {name!r}: {len(values)} of {n_rows} values, such as {values[0]!r}, did not occur in training; "
                "their inputs are all 0",
                stacklevel=3,
            )


def _names(names: Iterable[str]) -> str:
    listed = list(names)
    more = f" and {len(listed) - 10} more" if len(listed) > 10 else ""
    return f"column{'s' * (len(listed) > 1)} {', '.join(map(repr, listed[:10]))}{more}"


def _as_scale(content: dict[str, float] | None) -> Scale | None:
    return None if content is None else Scale(float(content["mean"]), float(content["deviation"]))
