"""Writing a file so that at its place there is always a whole one, the old or the new."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give an empty temporary file in the same folder; move it into place when the block ends.

    Before the move its content is flushed to the disk, after it the folder is. When the block fails, the
    temporary file is removed and what lay at ``path`` stays as it was. A link is followed, and the mode of a
    file that is replaced is kept.

    Parameters
    ----------
    path : str or os.PathLike
        Where the file shall lie.

    Yields
    ------
    pathlib.Path
        The temporary file, to be opened and written in the block.

    Raises
    ------
    OSError
        As `check_writable`, or if the disk is full.
    """
    target = check_writable(path)
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(8)}.tmp")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        if target.exists():
            shutil.copymode(target, temporary)
        _sync(temporary)
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name != "nt":  # Windows cannot open a folder
        _sync(target.parent)


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Return the file that a path leads to, if it can be written.

    Parameters
    ----------
    path : str or os.PathLike
        A file that exists, or a new one in a folder that exists.

    Returns
    -------
    pathlib.Path

    Raises
    ------
    FileNotFoundError, IsADirectoryError, PermissionError
        If the folder is missing, the path is something else than a file, or writing is not allowed.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {target.parent}; make it, or choose another place than {path}")
    if target.exists() and not target.is_file():
        raise IsADirectoryError(f"{path} is no regular file; pass the path of a file")
    for place in (target, target.parent):
        if place.exists() and not os.access(place, os.W_OK):
            raise PermissionError(f"{place} must not be written; change its mode, or choose another place")
    return target


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
