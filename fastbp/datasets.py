"""Files in the IDX format, in which MNIST and its relatives are distributed."""

from __future__ import annotations

import gzip
import io
import math
import os
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

_GZIP_MAGIC = b"\x1f\x8b"
_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_CHUNK = 1 << 24

_MNIST_FILES = (("train-images", 3), ("train-labels", 1), ("t10k-images", 3), ("t10k-labels", 1))


def load_idx(path: str | os.PathLike[str]) -> NDArray[Any]:
    """Read an array from an IDX file, plain or compressed by gzip.

    The file is two zero bytes, a byte for the dtype, a byte for the number of dimensions, the sizes as
    big-endian 32-bit integers, and the elements, big-endian, the last index changing fastest. Whether it is
    compressed is told from its content, not its name.

    Parameters
    ----------
    path : str or os.PathLike
        The file.

    Returns
    -------
    ndarray
        Of any number of dimensions; C-contiguous, writable; uint8, int8, int16, int32, float32 or float64 in
        the machine's byte order.

    Raises
    ------
    FileNotFoundError, IsADirectoryError
        If there is no such file, or it is a folder.
    ValueError
        If the file is not in the IDX format, ends early, goes on after the last element, is damaged, or
        claims a shape that NumPy cannot hold. No more memory is taken than the file has content for.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> from fastbp.datasets import load_idx
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "labels"
    ...     _ = path.write_bytes(bytes([0, 0, 0x08, 1, 0, 0, 0, 3, 7, 2, 1]))
    ...     load_idx(path)
    array([7, 2, 1], dtype=uint8)
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; pass a file in it, or pass the folder to load_mnist")
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no file {path}; pass the path of an IDX file, such as train-images-idx3-ubyte.gz"
        ) from None
    with file:
        if not _is_gzip(file):
            return _read_array(file, path, os.fstat(file.fileno()).st_size)
        try:
            with gzip.open(file) as unpacked:
                return _read_array(unpacked, path, None)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is a damaged gzip file ({error}); get the file again") from error


def load_mnist(
    folder: str | os.PathLike[str],
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Read MNIST, or another data set in its four files, as training and test set.

    Parameters
    ----------
    folder : str or os.PathLike
        Where the files lie: ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``,
        ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``; each also with ``.idx`` in place of
        ``-idx``, and with ``.gz`` at its end.

    Returns
    -------
    X_train : ndarray of shape (60000, 784) and dtype float32
        An image a row, pixels from 0 (background) to 1. Other data sets of this form have other sizes.
    y_train : ndarray of shape (60000,) and dtype int64
        Which digit each image shows.
    X_test, y_test : ndarrays of shape (10000, 784) and (10000,)
        The same for the test set.

    Raises
    ------
    FileNotFoundError
        If one of the four files is missing.
    ValueError
        If one of them is no IDX file, or they do not go together.
    """
    folder = Path(folder)
    paths = [_find(folder, stem, n_dims) for stem, n_dims in _MNIST_FILES]
    X_train, y_train = _images_and_labels(*paths[:2])
    X_test, y_test = _images_and_labels(*paths[2:])
    if X_train.shape[1] != X_test.shape[1]:
        raise ValueError(
            f"the images in {paths[0]} have {X_train.shape[1]} pixels, in {paths[2]} {X_test.shape[1]}; "
            "put the four files of one data set into the folder"
        )
    return X_train, y_train, X_test, y_test


def _is_gzip(file: BinaryIO) -> bool:
    magic = file.read(len(_GZIP_MAGIC))
    file.seek(0)
    return magic == _GZIP_MAGIC


def _read_array(stream: io.BufferedIOBase | BinaryIO, path: Path, file_size: int | None) -> NDArray[Any]:
    """Read header and elements; `file_size` is the length of the stream where it is known beforehand."""
    dtype, shape = _read_header(stream, path)
    wanted = math.prod(shape) * dtype.itemsize
    header = 4 + 4 * len(shape)
    sizes = " x ".join(map(str, shape)) or "one"
    claim = f"its header announces {sizes} elements of {dtype.name}, {wanted} bytes"
    if file_size is not None and file_size < header + wanted:
        raise ValueError(f"{path} ends early: {claim}, but {file_size - header} follow; get the file again")
    data = _read_up_to(stream, wanted)
    if len(data) < wanted:
        raise ValueError(f"{path} ends early: {claim}, but {len(data)} follow; get the file again")
    if stream.read(1):
        more = "more" if file_size is None else f"{file_size - header}"
        raise ValueError(f"{path} goes on after its array: {claim}, but {more} follow; get the file again")
    try:
        array = np.frombuffer(data, dtype).reshape(shape)
    except ValueError as error:
        raise ValueError(f"{path} does not fit into a NumPy array: {claim} ({error})") from error
    return array.astype(dtype.newbyteorder("="), copy=False)


def _read_header(stream: io.BufferedIOBase | BinaryIO, path: Path) -> tuple[np.dtype[Any], tuple[int, ...]]:
    start = stream.read(4)
    if start[:2] != b"\0\0"[: len(start)]:
        raise ValueError(
            f"{path} is not an IDX file: it begins with {start!r}, an IDX file with two zero bytes; "
            "pass a file such as train-images-idx3-ubyte, plain or compressed by gzip"
        )
    if len(start) < 4:
        raise ValueError(f"{path} ends early: a header has 4 bytes or more, not {len(start)}; get the file again")
    code, n_dims = start[2], start[3]
    if code not in _DTYPES:
        known = ", ".join(f"0x{code:02X} ({np.dtype(name).name})" for code, name in _DTYPES.items())
        raise ValueError(f"{path} is not an IDX file: its third byte is 0x{code:02X}, a dtype's are {known}")
    sizes = stream.read(4 * n_dims)
    if len(sizes) < 4 * n_dims:
        raise ValueError(
            f"{path} ends early: its header announces {n_dims} dimensions, but {len(sizes)} bytes follow "
            f"in place of {4 * n_dims} for their sizes; get the file again"
        )
    return np.dtype(_DTYPES[code]), tuple(np.frombuffer(sizes, ">u4").tolist())


def _read_up_to(stream: io.BufferedIOBase | BinaryIO, n_bytes: int) -> bytearray:
    """Read n_bytes, or what there is. In pieces: one large read would allocate all that the header claims."""
    data = bytearray()
    while len(data) < n_bytes:
        piece = stream.read(min(_CHUNK, n_bytes - len(data)))
        if not piece:
            break
        data += piece
    return data


def _find(folder: Path, stem: str, n_dims: int) -> Path:
    names = [f"{stem}{mark}idx{n_dims}-ubyte{end}" for end in ("", ".gz") for mark in ("-", ".")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder} has no file {' or '.join(names)}; pass the folder that holds MNIST's four files")


def _images_and_labels(images_path: Path, labels_path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    images, labels = load_idx(images_path), load_idx(labels_path)
    for path, array, n_dims in ((images_path, images, 3), (labels_path, labels, 1)):
        if array.dtype != np.uint8 or array.ndim != n_dims:
            raise ValueError(
                f"{path} holds {array.dtype} in {array.ndim} dimensions; MNIST's file has uint8 in {n_dims}; "
                "read other IDX files with load_idx"
            )
    if len(images) != len(labels):
        raise ValueError(
            f"{images_path} has {len(images)} images, {labels_path} {len(labels)} labels; "
            "put the four files of one data set into the folder"
        )
    pixels = images.reshape(len(images), math.prod(images.shape[1:]))
    return np.divide(pixels, 255, dtype=np.float32), labels.astype(np.int64)
