"""Tables from files: CSV and Parquet with pandas, NumPy's npz without."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_CSV = (".csv", ".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zst")
_PARQUET = (".parquet", ".pq")
_NPZ = (".npz",)


def read_table(
    path: str | os.PathLike[str],
    *,
    exclude: Collection[str] = (),
    only: Collection[str] | None = None,
    text: Collection[str] = (),
    separator: str = ",",
) -> dict[str, NDArray[Any]]:
    """Read a table as columns by name.

    Parameters
    ----------
    path : str or os.PathLike
        ``.csv`` (also compressed: ``.csv.gz``), ``.parquet`` or ``.npz``. In an npz file an array of shape (n,) is a
        column, one of shape (n, k) is k columns: ``X`` becomes ``X[0]``, ``X[1]``, ...
    exclude : collection of str
        Columns to leave out. Each must exist.
    only : collection of str, optional
        Leave out all columns but these; they need not exist.
    text : collection of str
        Columns that are text even if they look like numbers.
    separator : str
        What stands between a CSV file's values.

    Returns
    -------
    dict of str to ndarray of shape (n,)
        Numbers and booleans in their dtype, text as objects, None where it is missing.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file.
    ImportError
        If pandas or pyarrow is needed and missing.
    ValueError
        If the file cannot be read as its name says, is empty, or a column holds neither numbers nor text.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; pass a file")
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}; pass a .csv, .parquet or .npz file")
    name = path.name.lower()
    columns: Any
    if name.endswith(_NPZ):
        columns = _read_npz(path)
    elif name.endswith(_CSV):
        columns = _read_csv(path, text, separator)
    elif name.endswith(_PARQUET):
        columns = _read_parquet(path)
    else:
        raise ValueError(f"{path} has an unknown ending; pass a .csv, .parquet or .npz file")
    unknown = [column for column in exclude if column not in columns]
    if unknown:
        raise ValueError(f"there is no column {unknown[0]!r} to leave out; {path} has {', '.join(map(repr, columns))}")
    chosen = [column for column in columns if column not in exclude and (only is None or column in only)]
    table = {str(column): _as_column(column, columns[column], column in text) for column in chosen}
    if any(len(values) == 0 for values in table.values()) or len(columns) == 0:
        raise ValueError(f"{path} has no rows; pass a table with at least one")
    return table


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, zlib, struct and NumPy each have errors of their own
        raise ValueError(
            f"{path} cannot be read as a .npz file without pickled objects ({error}); write it with numpy.savez"
        ) from error
    columns: dict[str, NDArray[Any]] = {}
    for name, array in arrays.items():
        if array.ndim not in (1, 2):
            raise ValueError(
                f"array {name!r} in {path} has shape {array.shape}; save arrays of shape (n,) or (n, columns)"
            )
        columns |= {name: array} if array.ndim == 1 else {f"{name}[{i}]": array[:, i] for i in range(array.shape[1])}
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"the arrays in {path} have different lengths: {lengths}; save arrays with one row a sample")
    return columns


def _read_csv(path: Path, text: Iterable[str], separator: str) -> Any:
    pandas = _import_pandas(path)
    try:
        frame = pandas.read_csv(path, sep=separator, dtype=dict.fromkeys(text, str), low_memory=False)
    except (ValueError, UnicodeError, EOFError, OSError) as error:  # pandas' own errors are ValueErrors
        raise ValueError(f"{path} cannot be read as CSV ({' '.join(str(error).split())}); correct the file") from error
    if len(frame.columns) == 1 and any(other in frame.columns[0] for other in ";\t|"):
        raise ValueError(
            f"{path} has one column, {frame.columns[0]!r}; pass --separator if its values are not parted by commas"
        )
    return frame


def _read_parquet(path: Path) -> Any:
    pandas = _import_pandas(path)
    if importlib.util.find_spec("pyarrow") is None:
        raise ImportError(f"reading {path} needs pyarrow, which is not installed; run: pip install 'fastbp[data]'")
    try:
        return pandas.read_parquet(path, engine="pyarrow")
    except (ValueError, OSError) as error:  # pyarrow's own errors are ValueErrors and OSErrors
        raise ValueError(f"{path} cannot be read as Parquet ({' '.join(str(error).split())}); write it anew") from error


def _import_pandas(path: Path) -> Any:
    if importlib.util.find_spec("pandas") is None:
        raise ImportError(
            f"reading {path} needs pandas, which is not installed; run: pip install 'fastbp[data]', or pass a .npz file"
        )
    import pandas

    return pandas


def _as_column(name: Any, values: Any, as_text: bool) -> NDArray[Any]:
    """Return a column of a data frame or of an npz file as numbers or text."""
    if isinstance(values, np.ndarray):
        kind = values.dtype.kind
        missing = np.isnan(values) if kind == "f" else np.zeros(len(values), bool)
    else:
        kind, missing = _pandas_kind(values), values.isna().to_numpy()
    if kind not in "biufUO":
        raise ValueError(
            f"column {name!r} holds {values.dtype}, neither numbers nor text; convert it, or leave it out with "
            f"--exclude {name}"
        )
    if as_text or kind in "UO":
        return _as_text(name, values, missing)
    if isinstance(values, np.ndarray):
        return values
    if missing.any():
        return np.asarray(values.to_numpy(np.float64, na_value=np.nan))
    return np.asarray(values.to_numpy(getattr(values.dtype, "numpy_dtype", values.dtype)))


def _as_text(name: Any, values: Any, missing: NDArray[np.bool_]) -> NDArray[Any]:
    items = values.tolist()
    for value, gone in zip(items, missing, strict=True):
        if not gone and not isinstance(value, str | bool | int | float):
            raise ValueError(
                f"column {name!r} holds objects such as {value!r}, neither numbers nor text; convert it, or leave "
                f"it out with --exclude {name}"
            )
    texts = np.empty(len(items), object)
    texts[:] = [None if gone else str(value) for value, gone in zip(items, missing, strict=True)]
    return texts


def _pandas_kind(values: Any) -> str:
    """Return NumPy's letter for what a column of a data frame holds."""
    from pandas.api import types

    if isinstance(values.dtype, types.CategoricalDtype) or types.is_string_dtype(values.dtype):
        return "O"
    kind = getattr(values.dtype, "kind", "O")
    return kind if isinstance(kind, str) else "O"
