"""The container of a model: a safetensors file whose metadata describe the tensors and carry a hash.

The metadata hold one entry, ``fastbp``: JSON of the form ``{"format": "fastbp-model", "version": 1, "sha256": ...,
"content": {...}}``. The hash is taken over the content and every tensor's name, dtype, shape and bytes, so that
damage anywhere is noticed. What the content means is the affair of `fastbp.io`.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import replacing

FORMAT, VERSION = "fastbp-model", 1

_KEY = "fastbp"
_DTYPES = {"F64", "F32", "F16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8", "BOOL"}
"""Safetensors' names of the dtypes that a model file may hold: all those that NumPy has too."""


class ModelFileError(ValueError):
    """A file that is no whole model file of a version that this fastbp reads."""


def write(path: str | os.PathLike[str], content: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> None:
    """Write a model file: to a temporary file in the same folder, flushed to the disk, then moved into place.

    Parameters
    ----------
    path : str or os.PathLike
    content : dict
        What JSON can hold, without NaN and infinities.
    tensors : dict of str to ndarray
        Boolean or numeric arrays.

    Raises
    ------
    OSError
        If the file cannot be written; what lay there before stays.
    """
    from safetensors.numpy import save

    tensors = {name: np.asarray(array, array.dtype.newbyteorder("="), order="C") for name, array in tensors.items()}
    digest = _digest(content, tensors)
    head = {"format": FORMAT, "version": VERSION, "sha256": digest, "content": content}
    with replacing(path) as temporary:
        temporary.write_bytes(save(tensors, {_KEY: _json(head)}))


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, NDArray[Any]], str]:
    """Read a model file and verify it.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    content : dict
    tensors : dict of str to ndarray
        Writable arrays of their own.
    sha256 : str
        The hash, in hexadecimal digits.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        If the file is damaged, foreign or of a newer format.
    """
    from safetensors import SafetensorError, safe_open

    path = _existing(path)
    try:
        with safe_open(path, framework="numpy") as file:
            head = _head(path, file.metadata())
            tensors = {name: _tensor(path, file, name) for name in sorted(file.keys())}
    except SafetensorError as error:
        raise ModelFileError(
            f"{path} is no model file, or a damaged one: it cannot be read as safetensors ({error}); "
            "pass a file that fastbp.save or `fastbp train` wrote, or get it again"
        ) from error
    digest = _digest(head["content"], tensors)
    if digest != head["sha256"]:
        raise ModelFileError(
            f"{path} is damaged: its content has the SHA-256 {digest[:16]}..., but {head['sha256'][:16]}... "
            "was written; get the file again, or train anew"
        )
    return head["content"], tensors, digest


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}; pass the path of a model file")
    if not path.is_file():
        raise ModelFileError(f"{path} is no regular file; pass the path of a model file")
    return path


def _head(path: Path, metadata: dict[str, str] | None) -> dict[str, Any]:
    """Return the description in a file's metadata, if it is one of this format and of no newer version."""
    foreign = f"pass a file that fastbp.save or `fastbp train` wrote (safetensors with {_KEY!r} in the metadata)"
    if not metadata or _KEY not in metadata:
        found = ", ".join(map(repr, sorted(metadata))) if metadata else "none"
        raise ModelFileError(f"{path} is a safetensors file of another kind (its metadata: {found}); {foreign}")
    try:
        head = json.loads(metadata[_KEY], parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ModelFileError(f"{path} is damaged: its description is no JSON ({error}); get it again") from error
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise ModelFileError(f"{path} is of another format than {FORMAT!r}; {foreign}")
    version = head.get("version")
    if type(version) is not int or version < 1:
        raise ModelFileError(f"{path} is damaged: its description has no version; get it again")
    if version > VERSION:
        raise ModelFileError(
            f"{path} has format version {version}, but this fastbp reads versions up to {VERSION}; "
            "upgrade with: pip install --upgrade fastbp"
        )
    if not isinstance(head.get("content"), dict) or not isinstance(head.get("sha256"), str):
        raise ModelFileError(f"{path} is damaged: its description lacks content or hash; get it again")
    return head


def _refuse_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")


def _tensor(path: Path, file: Any, name: str) -> NDArray[Any]:
    dtype = file.get_slice(name).get_dtype()
    if dtype not in _DTYPES:
        raise ModelFileError(f"{path} is damaged: tensor {name!r} has dtype {dtype}, which no model has; get it again")
    return np.array(file.get_tensor(name))


def _digest(content: dict[str, Any], tensors: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    table = [[name, tensors[name].dtype.name, tensors[name].shape] for name in sorted(tensors)]
    digest.update(_json([content, table]).encode())
    for name in sorted(tensors):
        little_endian = tensors[name].astype(tensors[name].dtype.newbyteorder("<"), copy=False)
        digest.update(little_endian.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def _json(value: Any) -> str:
    """Return the one JSON text that stands for a value, with the keys in their order."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
