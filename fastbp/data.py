"""Samples and targets: from whatever users hold to the contiguous arrays of one dtype that kernels take.

Everything is validated here, before a kernel runs; the caller's objects are never written to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kernels import Loss, is_canonical, is_on_device


def as_features(X: Any, dtype: Any, n_features: int | None = None, *, check: bool = True) -> dict[str, NDArray[Any]]:
    """Return samples as the buffers ``X`` (dense) or ``X_data, X_indices, X_indptr`` (sparse).

    Parameters
    ----------
    X : array-like or sparse matrix of shape (n, I)
        Whatever `sklearn.utils.check_array` takes.
    dtype : numpy.float32 or numpy.float64
    n_features : int, optional
        I, where it is known already.
    check : bool
        False where the caller has validated X.

    Raises
    ------
    ValueError
        If X is not a finite, numeric, non-empty (n, I) matrix.
    """
    if is_on_device(X):
        X = _on_device(X, dtype, check)
    elif check and not (is_ready(X, dtype) and is_finite(X)):
        X = _checked(X, dtype)
    if n_features is not None and X.shape[1] != n_features:
        raise ValueError(
            f"X has {X.shape[1]} features, but the network has {n_features} inputs; pass X of shape (n, {n_features})"
        )
    if hasattr(X, "tocsr"):
        _check_indices(X)
        return _as_csr(X.tocsr(), dtype)
    dense = X if is_on_device(X) else np.ascontiguousarray(X, dtype=dtype)
    return {
        "X": dense,
        "X_data": np.empty(0, dtype),
        "X_indices": np.empty(0, np.int32),
        "X_indptr": np.empty(0, np.int64),
    }


def _on_device(X: Any, dtype: Any, check: bool) -> Any:
    """Return samples that lie on a GPU as they are, or converted there."""
    from .kernels.numba_cuda import foreign

    X = foreign.as_device_array(X)
    if X.ndim != 2 or not X.size:
        raise ValueError(f"X has shape {X.shape}; pass a matrix of shape (n, I) with at least one sample")
    if X.dtype.kind not in "biuf":
        raise TypeError(f"X has dtype {X.dtype}; pass numbers")
    X = foreign.converted(X, np.dtype(dtype))
    if check and not foreign.is_finite(X):
        raise ValueError(f"Input X contains NaN, infinity or a value too large for {np.dtype(dtype)}.")
    return X


def _classes_on_device(y: Any, n: int, n_outputs: int) -> Any:
    """Return class numbers that lie on a GPU."""
    from .kernels.numba_cuda import foreign

    y = foreign.as_device_array(y)
    if y.dtype.kind not in "iu" or y.shape != (n,):
        raise ValueError(f"y has dtype {y.dtype} and shape {y.shape}; pass {n} class numbers, whole ones")
    low, high = foreign.value_range(y)
    if low < 0 or high >= n_outputs:
        raise ValueError(
            f"y holds class numbers from {low} to {high}, but the network has {n_outputs} outputs; pass numbers 0 to "
            f"{n_outputs - 1}"
        )
    return foreign.converted(y, np.dtype(np.int64))


def as_device_array(array: Any) -> Any:
    """Return an array that lies on a GPU, whoever made it, as Numba's: its dtype is one of NumPy's."""
    from .kernels.numba_cuda import foreign

    return foreign.as_device_array(array)


def on_host(array: Any) -> NDArray[Any]:
    """Return an array in the host's memory."""
    if not is_on_device(array):
        return np.asarray(array)
    from .kernels.numba_cuda import foreign

    return foreign.on_host(array)


def _checked(X: Any, dtype: Any) -> Any:
    """Return X as scikit-learn accepts it: numbers, finite in the dtype to come too, at least one."""
    from sklearn.utils import check_array

    X = check_array(X, accept_sparse=["csr", "csc"], dtype="numeric", order="C", input_name="X")
    if X.dtype.kind not in "biuf":
        raise TypeError(f"X has dtype {X.dtype}; pass numbers")
    if X.dtype == dtype:
        return X
    with np.errstate(over="ignore"):
        X = X.astype(dtype)
    if not np.isfinite(X.data if hasattr(X, "tocsr") else X).all():
        raise ValueError(f"X contains a value too large for {np.dtype(dtype)}, which becomes infinity; rescale X")
    return X


def is_plain(array: Any, n_columns: int | None, *, finite: bool = True) -> bool:
    """Tell whether an array passes every check as it is: finite, not empty, float32 or float64 in native byte order.

    This takes microseconds; scikit-learn's validation, which takes anything, needs many times as long as a small
    epoch. False may also mean that only a closer look can tell.

    Parameters
    ----------
    array : object
    n_columns : int or None
        Columns of the matrix wanted; None for a vector.
    finite : bool
        False where somebody else will look at the elements.
    """
    if type(array) is not np.ndarray or array.dtype not in (np.float32, np.float64) or not array.size:
        return False
    if array.shape[1:] != (() if n_columns is None else (n_columns,)):
        return False
    return not finite or is_finite(array)


def is_finite(array: NDArray[Any]) -> bool:
    """Tell whether an array has no NaN and no infinity. False may also mean that its sum is too large."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(array.sum()))  # any NaN or infinity makes the sum one


def is_ready(X: Any, dtype: Any) -> bool:
    """Tell whether X is an array that kernels can take as it is, if its elements are finite."""
    return type(X) is np.ndarray and X.dtype == dtype and X.ndim == 2 and X.size > 0 and X.flags.c_contiguous


def label_matrix(y: Any, n: int, classes: NDArray[Any], *, all_occur: bool) -> NDArray[np.bool_] | None:
    """Return whole-number labels as scikit-learn's LabelBinarizer does, or None where it has to look itself.

    Parameters
    ----------
    y : object
    n : int
        Labels wanted.
    classes : ndarray of shape (K,)
        Sorted.
    all_occur : bool
        Whether each class must be among the labels.

    Returns
    -------
    ndarray of shape (n, K), one True in each row, or (n, 1) for two classes; None if y is not a vector of n integers
    out of these classes, which are two or more.
    """
    if type(y) is not np.ndarray or y.shape != (n,) or y.dtype.kind not in "iu" or classes.dtype.kind not in "iu":
        return None
    if not 2 <= len(classes) <= n // 2:  # more, and scikit-learn asks whether this is a classification at all
        return None
    matrix = y[:, None] == classes
    occurring = matrix.any(axis=0)
    if np.count_nonzero(matrix) != n or (all_occur and not occurring.all()):
        return None
    return matrix[:, 1:] if len(classes) == 2 else matrix


def _check_indices(X: Any) -> None:
    """Refuse a damaged CSR or CSC matrix: SciPy does not look at the arrays that it is given."""
    if X.format not in ("csr", "csc"):
        return
    n_entries, n_minor = len(X.data), X.shape[1 if X.format == "csr" else 0]
    rising = X.indptr[0] == 0 and X.indptr[-1] == n_entries and (np.diff(X.indptr) >= 0).all()
    if not rising or len(X.indices) != n_entries or (n_entries and (X.indices.min() < 0 or X.indices.max() >= n_minor)):
        raise ValueError("X is a damaged sparse matrix: its indices lie outside of it; see X.check_format()")


def _as_csr(X: Any, dtype: Any) -> dict[str, NDArray[Any]]:
    """Return a CSR matrix's arrays; the indices are copies, since kernels trust them while they run."""
    if not is_canonical(X.indices, X.indptr):
        X = X.copy()
        X.has_canonical_format = False
        X.sum_duplicates()
    return {
        "X": np.empty((0, X.shape[1]), dtype),
        "X_data": np.ascontiguousarray(X.data, dtype=dtype),
        "X_indices": np.array(X.indices, dtype=np.int32),
        "X_indptr": np.array(X.indptr, dtype=np.int64),
    }


def n_samples(data: dict[str, NDArray[Any]]) -> int:
    """Return the number of samples in buffers from `as_features`."""
    return len(data["X_indptr"]) - 1 if len(data["X_indptr"]) else len(data["X"])


def is_sparse(data: dict[str, NDArray[Any]]) -> bool:
    """Tell whether buffers from `as_features` hold CSR data."""
    return bool(len(data["X_indptr"]))


def as_targets(y: Any, dtype: Any, n: int, n_outputs: int, loss: Loss) -> dict[str, NDArray[Any]]:
    """Return targets as the buffers ``y`` (a matrix) and ``classes`` (class numbers), one of them empty.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, O)
        Whole numbers of shape (n,) beside more than one output are class numbers; else targets.
    dtype : numpy.float32 or numpy.float64
    n : int
        Number of samples.
    n_outputs : int
        O.
    loss : Loss

    Raises
    ------
    ValueError
        If y does not fit the samples, the outputs or the loss.
    TypeError
        If y holds strings or objects.
    """
    if is_on_device(y) and len(y.shape) == 1 and n_outputs > 1:
        return {"y": np.empty((0, n_outputs), dtype), "classes": _classes_on_device(y, n, n_outputs)}
    y = on_host(y.toarray() if hasattr(y, "toarray") else y)
    if y.dtype.kind not in "biuf":
        raise TypeError(
            f"y has dtype {y.dtype}; pass class numbers 0 to {n_outputs - 1} (numpy.unique(y, return_inverse=True)[1]) "
            "or a matrix of numbers"
        )
    if y.ndim not in (1, 2) or len(y) != n:
        raise ValueError(f"y has shape {y.shape} but X has {n} samples; pass y of shape ({n},) or ({n}, {n_outputs})")
    if y.ndim == 1 and n_outputs > 1:
        return {"y": np.empty((0, n_outputs), dtype), "classes": _as_classes(y, n_outputs)}
    if y.ndim == 1:
        y = y[:, None]
    if y.shape[1] != n_outputs:
        raise ValueError(
            f"y has {y.shape[1]} columns but the network has {n_outputs} outputs; pass y of shape ({n}, {n_outputs})"
        )
    matrix = np.ascontiguousarray(y, dtype=dtype)
    if not np.isfinite(matrix).all():
        raise ValueError("y contains NaN or infinity; remove these samples")
    _check_range(matrix, loss)
    return {"y": matrix, "classes": np.empty(0, np.int64)}


def _as_classes(y: NDArray[Any], n_outputs: int) -> NDArray[np.int64]:
    is_float = y.dtype.kind == "f"
    has_numbers = not is_float or np.isfinite(y).all()
    with np.errstate(invalid="ignore"):  # of numbers beyond those of int64, which differ then
        classes = np.array(y, dtype=np.int64) if has_numbers else None  # a copy: kernels trust it while they run
    if classes is None or (is_float and (classes != y).any()):
        raise ValueError(
            f"y holds numbers that are no class numbers, beside a network with {n_outputs} outputs; pass whole numbers "
            f"0 to {n_outputs - 1} or a matrix of shape ({len(y)}, {n_outputs})"
        )
    if classes.min() < 0 or classes.max() >= n_outputs:
        raise ValueError(
            f"y holds class numbers from {classes.min()} to {classes.max()}, but the network has {n_outputs} outputs; "
            f"pass numbers 0 to {n_outputs - 1}"
        )
    return classes


def _check_range(y: NDArray[Any], loss: Loss) -> None:
    """Refuse targets for which a loss is not defined."""
    if loss == Loss.POISSON and (y < 0).any():
        raise ValueError(f"loss 'poisson' needs targets of at least 0, got {y.min()}")
    if loss in (Loss.CROSS_ENTROPY, Loss.BINARY_CROSS_ENTROPY) and ((y < 0) | (y > 1)).any():
        raise ValueError(f"loss 'cross_entropy' needs targets in [0, 1], got {y.min()} to {y.max()}")
    if loss == Loss.CROSS_ENTROPY and not np.allclose(y.sum(axis=1), 1, atol=1e-3):
        raise ValueError(
            "loss 'cross_entropy' on softmax needs targets that sum to 1 in each row; for labels that do not exclude "
            "each other build the network with output='logistic'"
        )


def as_sample_weight(sample_weight: Any, dtype: Any, n: int) -> NDArray[Any]:
    """Return sample weights as an (n, 1) matrix, or (0, 1) for None.

    Raises
    ------
    ValueError
        If the weights are not n finite numbers of at least 0, at least one of them above 0.
    """
    if sample_weight is None:
        return np.empty((0, 1), dtype)
    weights = on_host(sample_weight)
    if weights.dtype.kind not in "biuf" or weights.shape != (n,):
        raise ValueError(f"sample_weight has dtype {weights.dtype} and shape {weights.shape}; pass {n} numbers")
    weights = np.ascontiguousarray(weights, dtype=dtype)[:, None]
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise ValueError("sample_weight must be finite, at least 0, and not 0 throughout")
    return weights
