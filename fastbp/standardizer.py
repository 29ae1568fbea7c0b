"""Samples on a common scale: each column minus its mean, divided by its standard deviation (Book 4.6.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from .preprocessing import divisor

_BLOCK = 2**16
"""Elements that are worked on together: their copies in float64 stay in the cache."""


@dataclass(frozen=True, eq=False)
class Standardizer:
    """What a training set's columns have for mean and deviation, to be taken from its rows and all later ones.

    x becomes (x - mean) / deviation, with mean = sum x_i / n and deviation^2 = sum (x_i - mean)^2 / n over the training
    set (Book 4.6.1). The deviation of a constant counts as 1, so that it becomes 0. Sparse samples are only divided:
    without their zeros they would fill the memory.

    Parameters
    ----------
    mean : ndarray of shape (I,), dtype float64
        0 where nothing is to be taken off.
    deviation : ndarray of shape (I,), dtype float64
        Above 0.

    Raises
    ------
    ValueError
        If the two are not finite vectors of one length, or a deviation is not above 0.

    Examples
    --------
    >>> import numpy as np
    >>> import fastbp
    >>> scale = fastbp.Standardizer.fit(np.array([[1.0, 5.0], [3.0, 5.0]]))
    >>> scale.transform(np.array([[2.0, 5.0], [4.0, 6.0]]))
    array([[0., 0.],
           [2., 1.]])
    """

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]

    def __post_init__(self) -> None:
        for name in ("mean", "deviation"):
            object.__setattr__(self, name, np.array(getattr(self, name), dtype=np.float64))
            getattr(self, name).flags.writeable = False
        if self.mean.ndim != 1 or self.mean.shape != self.deviation.shape:
            raise ValueError(f"mean and deviation have shapes {self.mean.shape} and {self.deviation.shape}; pass (I,)")
        if not (np.isfinite(self.mean).all() and np.isfinite(self.deviation).all() and (self.deviation > 0).all()):
            raise ValueError("mean and deviation must be finite, and deviations above 0")

    def __repr__(self) -> str:
        what = "mean and deviation" if self.mean.any() else "deviation"
        return f"<fastbp.Standardizer of {self.n_inputs} columns, by {what}>"

    @property
    def n_inputs(self) -> int:
        """How many columns it is for."""
        return len(self.mean)

    @classmethod
    def fit(cls, X: Any, *, center: bool | None = None) -> Self:
        """Learn from the training set.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, I)
        center : bool, optional
            Whether the mean is taken off; left out, if X is dense. False lets `transform` take sparse samples.

        Raises
        ------
        ValueError
            If X is not a finite, numeric (n, I) matrix, if sparse X shall be centered, or if its numbers are too large
            for their squares to be added up.
        """
        X = _as_matrix(X)
        is_sparse = hasattr(X, "tocsr")
        if center is None:
            center = not is_sparse
        elif center and is_sparse:
            raise ValueError("X is sparse, and without its zeros would not be; pass center=False, or a dense X")
        with np.errstate(over="ignore", invalid="ignore"):
            mean, deviation = _sparse_moments(X) if is_sparse else _moments(X)
        if not np.isfinite(deviation).all():
            column = int(np.flatnonzero(~np.isfinite(deviation))[0])
            raise ValueError(f"column {column} of X holds numbers whose squares cannot be added up; scale it down")
        return cls(mean if center else np.zeros_like(mean), divisor(deviation, mean))

    def transform(self, X: Any, dtype: Any = None) -> Any:
        """Return samples on the common scale, computed in float64 and rounded.

        Parameters
        ----------
        X : array-like or sparse matrix of shape (n, I)
        dtype : {None, "float32", "float64"}
            None: float32 for samples of it, else float64.

        Returns
        -------
        ndarray of shape (n, I), or `scipy.sparse` CSR matrix or array where X is sparse

        Raises
        ------
        ValueError
            If X is not a finite, numeric (n, I) matrix, or if it is sparse and the mean would have to be taken off.
        """
        return self._apply(X, dtype, lambda block, mean, deviation: (block - mean) / deviation)

    def inverse_transform(self, X: Any, dtype: Any = None) -> Any:
        """Return the samples that `transform` makes X of. Parameters, result and errors are those of `transform`."""
        return self._apply(X, dtype, lambda block, mean, deviation: block * deviation + mean)

    def _apply(self, X: Any, dtype: Any, rule: Any) -> Any:
        X = _as_matrix(X, self.n_inputs)
        dtype = _as_dtype(X.dtype if dtype is None else dtype, given=dtype is not None)
        if hasattr(X, "tocsr"):
            if self.mean.any():
                raise ValueError(
                    "X is sparse, and without the mean would not be; learn the scale with center=False, or pass X dense"
                )
            X = X.tocsr()
            data = rule(X.data, 0.0, self.deviation[X.indices]).astype(dtype)
            return type(X)((data, X.indices.copy(), X.indptr.copy()), X.shape)
        out = np.empty(X.shape, dtype)
        for rows in _blocks(X):
            out[rows] = rule(X[rows], self.mean, self.deviation)
        return out


def _as_matrix(X: Any, n_inputs: int | None = None) -> Any:
    """Return X as scikit-learn accepts it, sparse or dense, with the columns wanted."""
    from sklearn.utils import check_array

    X = check_array(X, accept_sparse=["csr", "csc"], dtype="numeric", input_name="X")
    if X.dtype.kind not in "biuf":
        raise TypeError(f"X has dtype {X.dtype}; pass numbers")
    if n_inputs is not None and X.shape[1] != n_inputs:
        raise ValueError(f"X has {X.shape[1]} columns, but the scale was learnt from {n_inputs}; pass as many")
    return X


def _as_dtype(dtype: Any, given: bool) -> np.dtype[Any]:
    """Return float32 or float64: as given, or that in which samples of a dtype fit best."""
    found = np.dtype(dtype)
    if given and found not in (np.float32, np.float64):
        raise ValueError(f"dtype is {dtype!r}; choose 'float32' or 'float64', or leave it out")
    return np.dtype(np.float32 if found in (np.float16, np.float32) else np.float64)


def _blocks(X: NDArray[Any]) -> Iterator[slice]:
    """Yield the rows of a matrix, a block at a time."""
    height = max(1, _BLOCK // X.shape[1])
    for start in range(0, len(X), height):
        yield slice(start, start + height)


def _moments(X: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and deviation of each column.

    Numbers are added up from the first row's on, so that of a constant nothing is left, not even rounding.
    """
    origin = X[0].astype(np.float64)
    mean = origin + sum((X[rows] - origin).sum(axis=0) for rows in _blocks(X)) / len(X)
    variance = sum(((X[rows] - mean) ** 2).sum(axis=0) for rows in _blocks(X)) / len(X)
    return mean, np.sqrt(variance)


def _sparse_moments(X: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and deviation of each column of a sparse matrix, zeros included."""
    X = X.tocsr()
    if not X.has_canonical_format:  # entries that stand for one number together
        X = X.copy()
        X.sum_duplicates()
    (n, n_columns), columns, values = X.shape, X.indices, X.data.astype(np.float64)
    mean = np.bincount(columns, values, n_columns) / n
    n_zeros = n - np.bincount(columns, minlength=n_columns)
    squares = np.bincount(columns, (values - mean[columns]) ** 2, n_columns) + n_zeros * mean**2
    is_constant = X.max(axis=0).toarray().ravel() == X.min(axis=0).toarray().ravel()
    return mean, np.where(is_constant, 0.0, np.sqrt(squares / n))
