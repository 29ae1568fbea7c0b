"""Labels and categories as numbers and one-hot, and back (Cheng 9.2).

Labels may be text or numbers. As numbers 0, 1, 2, ... they are what `Trainer.fit` takes for classes; as inputs such
numbers would say that classes lie in an order, so that categories become one input each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .preprocessing import MOST_CATEGORIES, is_missing, one_hot, warn_of_unknown


@dataclass(frozen=True, eq=False)
class Labels:
    """The classes of a training set, in ascending order: class k is the k-th of them.

    Parameters
    ----------
    classes : ndarray of shape (K,)
        Different texts or different numbers, ascending.

    Raises
    ------
    ValueError
        If the classes are not as described.

    Examples
    --------
    >>> import fastbp
    >>> labels = fastbp.Labels.fit(["wasp", "ant", "bee", "ant"])
    >>> labels.encode(["bee", "ant"])
    array([1, 0])
    >>> labels.one_hot(["bee", "ant"])
    array([[0., 1., 0.],
           [1., 0., 0.]], dtype=float32)
    >>> labels.decode([[0.1, 0.2, 0.7]])
    array(['wasp'], dtype='<U4')
    """

    classes: NDArray[Any]

    def __post_init__(self) -> None:
        classes = np.array(_as_labels(self.classes))
        if not len(classes) or (classes[:-1] >= classes[1:]).any():
            raise ValueError(f"classes are {self.classes!r}; pass different ones in ascending order, or use Labels.fit")
        classes.flags.writeable = False
        object.__setattr__(self, "classes", classes)

    def __repr__(self) -> str:
        shown = ", ".join(map(repr, self.classes[:5].tolist()))
        return f"<fastbp.Labels of {len(self.classes)} classes: {shown}{', ...' if len(self.classes) > 5 else ''}>"

    @classmethod
    def fit(cls, y: Any) -> Self:
        """Learn the classes.

        Parameters
        ----------
        y : array-like of shape (n,)
            Texts, whole numbers, or booleans.

        Raises
        ------
        ValueError
            If y is not a vector, is empty, lacks values or holds decimal numbers.
        TypeError
            If y holds something else, or both texts and numbers.
        """
        return cls(np.unique(_as_labels(y)))

    def encode(self, y: Any) -> NDArray[np.int64]:
        """Return the class number of each label, as `Trainer.fit` takes them.

        Parameters
        ----------
        y : array-like of shape (n,)

        Returns
        -------
        ndarray of shape (n,), dtype int64

        Raises
        ------
        ValueError, TypeError
            As for `fit`, and if a label is none of the classes.
        """
        y = _as_labels(y)
        if (y.dtype.kind == "U") != (self.classes.dtype.kind == "U"):
            kinds = ("texts", "numbers") if y.dtype.kind == "U" else ("numbers", "texts")
            raise TypeError(f"y holds {kinds[0]}, but the classes are {kinds[1]}; pass labels of the same kind")
        numbers = np.minimum(np.searchsorted(self.classes, y), len(self.classes) - 1)
        unknown = np.unique(y[self.classes[numbers] != y])
        if len(unknown):
            shown = ", ".join(map(repr, unknown[:10].tolist()))
            raise ValueError(f"y holds labels that are none of the {len(self.classes)} classes: {shown}; remove them")
        return numbers

    def one_hot(self, y: Any, dtype: Any = "float32") -> NDArray[Any]:
        """Return a row for each label with a 1 in the column of its class, else 0 (Cheng 9.2).

        Parameters and errors are those of `encode`.

        Returns
        -------
        ndarray of shape (n, K)
        """
        return np.eye(len(self.classes), dtype=dtype)[self.encode(y)]

    def decode(self, predictions: Any) -> NDArray[Any]:
        """Return the labels that predictions stand for.

        Parameters
        ----------
        predictions : array-like of shape (n,) or (n, K)
            Class numbers, as `Network.predict` returns them, or an output for each class: the largest counts (arg max,
            Cheng 9.2).

        Returns
        -------
        ndarray of shape (n,), dtype of the classes

        Raises
        ------
        ValueError
            If they are neither.
        """
        predictions, n_classes = np.asarray(predictions), len(self.classes)
        if predictions.ndim == 2 and predictions.shape[1] == n_classes and predictions.dtype.kind in "biuf":
            return self.classes[predictions.argmax(axis=1)]
        if predictions.ndim != 1 or predictions.dtype.kind not in "biu":
            raise ValueError(
                f"predictions have shape {predictions.shape} and dtype {predictions.dtype}; pass class numbers of "
                f"shape (n,) or outputs of shape (n, {n_classes})"
            )
        if predictions.size and not 0 <= predictions.min() <= predictions.max() < n_classes:
            raise ValueError(
                f"predictions hold numbers from {predictions.min()} to {predictions.max()}; classes have 0 to "
                f"{n_classes - 1}"
            )
        return self.classes[predictions.astype(np.int64)]


@dataclass(frozen=True, eq=False)
class OneHot:
    """The categories of a training set's columns: each category becomes an input that is 1 where it occurs (Cheng 9.2).

    Parameters
    ----------
    categories : tuple of ndarray
        Those of each column: different texts or different numbers, ascending.

    Raises
    ------
    ValueError
        If they are not as described.

    Examples
    --------
    >>> import fastbp
    >>> rule = fastbp.OneHot.fit([["red", 1], ["blue", 2], ["red", 3]])
    >>> rule.transform([["blue", 3]])
    array([[1., 0., 0., 0., 1.]], dtype=float32)
    """

    categories: tuple[NDArray[Any], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "categories", tuple(Labels(column).classes for column in self.categories))

    def __repr__(self) -> str:
        widths = " + ".join(str(len(column)) for column in self.categories)
        return f"<fastbp.OneHot of {len(self.categories)} columns, {widths} inputs>"

    @property
    def n_inputs(self) -> int:
        """How many columns the matrix has."""
        return sum(len(column) for column in self.categories)

    @classmethod
    def fit(cls, X: Any) -> Self:
        """Learn the categories.

        Parameters
        ----------
        X : array-like of shape (n, C) or (n,)
            Columns of texts, whole numbers or booleans.

        Raises
        ------
        ValueError, TypeError
            As for `Labels.fit`, or if a column has more than `fastbp.preprocessing.MOST_CATEGORIES` different values.
        """
        categories = tuple(np.unique(column) for column in _as_columns(X))
        for number, column in enumerate(categories):
            if len(column) > MOST_CATEGORIES:
                raise ValueError(
                    f"column {number} of X has {len(column)} different values, more than {MOST_CATEGORIES}; leave it "
                    "out, or group its values"
                )
        return cls(categories)

    def transform(self, X: Any, dtype: Any = "float32") -> NDArray[Any]:
        """Return the inputs for some rows.

        Parameters
        ----------
        X : array-like of shape (n, C), or (n,) for one column
        dtype : numpy.float32 or numpy.float64

        Returns
        -------
        ndarray of shape (n, n_inputs)

        Raises
        ------
        ValueError, TypeError
            As for `fit`, and if there are more or fewer columns.

        Warns
        -----
        UserWarning
            If a category did not occur in training: all its inputs are 0.
        """
        columns = _as_columns(X)
        if len(columns) != len(self.categories):
            raise ValueError(f"X has {len(columns)} columns, but had {len(self.categories)} in training; pass as many")
        matrix, start, unknown = np.zeros((len(columns[0]), self.n_inputs), dtype), 0, {}
        for number, (column, categories) in enumerate(zip(columns, self.categories, strict=True)):
            part = matrix[:, start : start + len(categories)]
            unknown[number] = one_hot(column.tolist(), categories.tolist(), part)
            start += len(categories)
        warn_of_unknown(unknown, len(matrix))
        return matrix

    def inverse_transform(self, matrix: Any) -> NDArray[Any]:
        """Return the category of each column that has the largest input; None where all are 0.

        Parameters
        ----------
        matrix : array-like of shape (n, n_inputs)

        Returns
        -------
        ndarray of shape (n, C), dtype object

        Raises
        ------
        ValueError
            If the matrix has another shape.
        """
        matrix = np.asarray(matrix)
        if matrix.ndim != 2 or matrix.shape[1] != self.n_inputs:
            raise ValueError(f"the matrix has shape {matrix.shape}; pass (n, {self.n_inputs})")
        found, start = np.empty((len(matrix), len(self.categories)), object), 0
        for number, categories in enumerate(self.categories):
            part = matrix[:, start : start + len(categories)]
            rows = part.any(axis=1)
            found[rows, number] = categories[part[rows].argmax(axis=1)]
            start += len(categories)
        return found


def _as_columns(X: Any) -> list[NDArray[Any]]:
    """Return the columns of a table of categories; a vector is one column."""
    if not isinstance(X, np.ndarray):
        X = np.asarray(X, dtype=object)  # numbers beside texts stay numbers
    if X.ndim == 1:
        X = X[:, None]
    if X.ndim != 2 or not X.size:
        raise ValueError(f"X has shape {X.shape}; pass rows of categories: (n, columns), both at least 1")
    return [_as_labels(X[:, number], f"column {number} of X") for number in range(X.shape[1])]


def _as_labels(y: Any, name: str = "y") -> NDArray[Any]:
    """Return labels as a vector of texts or of whole numbers."""
    y = y if isinstance(y, np.ndarray) else np.asarray(y, dtype=object)
    if y.ndim != 1 or not y.size:
        raise ValueError(f"{name} has shape {y.shape}; pass a vector of labels")
    if y.dtype.kind == "O":
        y = _typed(y, name)
    if y.dtype.kind not in "biufU":
        raise TypeError(f"{name} has dtype {y.dtype}; pass texts, whole numbers or booleans")
    _check_present(is_missing(y), name)
    if y.dtype.kind == "f":
        is_whole = np.isfinite(y) & (y == np.round(y))
        if not is_whole.all():
            raise ValueError(f"{name} holds {y[~is_whole][0]}, which is no label; pass texts or whole numbers")
    return y


def _typed(y: NDArray[Any], name: str) -> NDArray[Any]:
    """Return objects as texts or as numbers, whichever all of them are."""
    values = y.tolist()
    _check_present(np.array([value is None or (isinstance(value, float) and value != value) for value in values]), name)
    if all(isinstance(value, str) for value in values):
        return np.array(values, dtype=str)
    if all(isinstance(value, bool | int | float | np.number | np.bool_) for value in values):
        return np.array(values)
    kinds = ", ".join(sorted({type(value).__name__ for value in values}))
    raise TypeError(f"{name} holds {kinds}; pass either texts, or whole numbers and booleans")


def _check_present(is_missing: NDArray[np.bool_], name: str) -> None:
    if is_missing.any():
        raise ValueError(
            f"{name} lacks {int(is_missing.sum())} of {len(is_missing)} labels; fill them in, or remove these rows"
        )
