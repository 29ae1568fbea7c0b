"""IDX files: what is written is read back, and no file, however broken, does worse than a clear error."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from fastbp.datasets import load_idx, load_mnist

CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}

arrays = st.sampled_from(list(CODES)).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=6, min_side=0, max_side=5))
)


def header(dtype: str, *shape: int) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, CODES[dtype], len(shape), *shape)


def idx(array: NDArray[Any]) -> bytes:
    return header(array.dtype.name, *array.shape) + array.astype(array.dtype.newbyteorder(">")).tobytes()


def array_or_error(path: Path) -> NDArray[Any] | str:
    try:
        return load_idx(path)
    except ValueError as error:
        return str(error)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("idx") / "file"


@given(array=arrays, compressed=st.booleans())
def test_reads_back_what_was_written(path: Path, array: NDArray[Any], compressed: bool) -> None:
    path.write_bytes(gzip.compress(idx(array)) if compressed else idx(array))
    read = load_idx(path)
    np.testing.assert_array_equal(read, array, strict=True)
    assert read.dtype.isnative
    assert read.flags.c_contiguous
    assert read.flags.writeable


@given(array=arrays, compressed=st.booleans(), data=st.data())
def test_a_file_that_ends_early_is_refused(
    path: Path, array: NDArray[Any], compressed: bool, data: st.DataObject
) -> None:
    content = gzip.compress(idx(array)) if compressed else idx(array)
    path.write_bytes(content[: data.draw(st.integers(2 * compressed, len(content) - 1))])
    with pytest.raises(ValueError, match=r"ends early|damaged gzip"):
        load_idx(path)


@given(array=arrays, compressed=st.booleans(), more=st.binary(min_size=1, max_size=9))
def test_a_file_that_goes_on_after_its_array_is_refused(
    path: Path, array: NDArray[Any], compressed: bool, more: bytes
) -> None:
    path.write_bytes(gzip.compress(idx(array) + more) if compressed else idx(array) + more)
    with pytest.raises(ValueError, match="goes on after its array"):
        load_idx(path)


@given(content=st.binary(max_size=40), start=st.sampled_from([b"", b"\0\0", b"\0\0\x08", b"\x1f\x8b\x08\0"]))
def test_any_bytes_give_an_array_or_a_value_error(path: Path, content: bytes, start: bytes) -> None:
    path.write_bytes(start + content)
    read = array_or_error(path)
    if isinstance(read, str):
        assert str(path) in read
    else:
        assert idx(read) == start + content


@given(array=arrays, data=st.data())
def test_a_flipped_bit_in_a_compressed_file_never_changes_the_array(
    path: Path, array: NDArray[Any], data: st.DataObject
) -> None:
    content = bytearray(gzip.compress(idx(array)))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    read = array_or_error(path)
    if isinstance(read, str):
        assert str(path) in read
    else:  # gzip has bits that mean nothing: padding, the time of writing
        np.testing.assert_array_equal(read, array, strict=True)


@pytest.mark.parametrize("shape", [(2**32 - 1,), (70_000, 2**20, 3), (2**32 - 1,) * 200])
@pytest.mark.parametrize("compressed", [False, True])
def test_no_memory_is_taken_for_what_a_header_claims(path: Path, shape: tuple[int, ...], compressed: bool) -> None:
    content = header("float64", *shape) + bytes(1000)
    path.write_bytes(gzip.compress(content) if compressed else content)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"ends early.* 1000 follow"):
            load_idx(path)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shape", [(1,) * 100, (0, 2**32 - 1, 2**32 - 1)])
def test_a_shape_that_numpy_cannot_hold_is_refused(path: Path, shape: tuple[int, ...]) -> None:
    path.write_bytes(header("uint8", *shape) + bytes(0 not in shape))
    with pytest.raises(ValueError, match="does not fit into a NumPy array"):
        load_idx(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "ends early"),
        (b"<!DOCTYPE html>", r"not an IDX file: it begins with b'<!DO'"),
        (b"\x93NUMPY", "not an IDX file"),
        (b"\0\0\x0a\x01\0\0\0\x01\0", "third byte is 0x0A.*0x0B \\(int16\\)"),
        (gzip.compress(b"<!DOCTYPE html>", mtime=0), "not an IDX file"),
    ],
)
def test_a_foreign_file_is_refused_with_what_it_is(path: Path, content: bytes, message: str) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_idx(path)


def test_an_absent_file_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no file .*absent; pass"):
        load_idx(tmp_path / "absent")
    with pytest.raises(IsADirectoryError, match="load_mnist"):
        load_idx(str(tmp_path))


STEMS = ("train-images", "train-labels", "t10k-images", "t10k-labels")


def small_mnist() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    sizes = {"train": 7, "t10k": 3}
    files = {f"{name}-images": rng.integers(0, 256, (n, 4, 5), dtype=np.uint8) for name, n in sizes.items()}
    files["train-images"].flat[:2] = 0, 255
    return files | {f"{name}-labels": rng.integers(0, 10, n, dtype=np.uint8) for name, n in sizes.items()}


def write(folder: Path, files: dict[str, NDArray[Any]], mark: str = "-", gz: bool = False) -> None:
    for stem, array in files.items():
        name = f"{stem}{mark}idx{3 if 'images' in stem else 1}-ubyte"
        (folder / (name + ".gz" * gz)).write_bytes(gzip.compress(idx(array)) if gz else idx(array))


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("mark", ["-", "."])
def test_mnist_is_read_from_files_of_either_name(tmp_path: Path, mark: str, gz: bool) -> None:
    files = small_mnist()
    write(tmp_path, files, mark, gz)
    parts: tuple[NDArray[Any], ...] = load_mnist(tmp_path)
    for read, stem in zip(parts, STEMS, strict=True):
        if "images" in stem:
            expected = files[stem].reshape(len(read), 20).astype(np.float32) / np.float32(255)
        else:
            expected = files[stem].astype(np.int64)
        np.testing.assert_array_equal(read, expected, strict=True)
    X_train = load_mnist(str(tmp_path))[0]
    assert (X_train.min(), X_train.max()) == (0, 1)


@pytest.mark.parametrize("stem", STEMS)
def test_a_missing_mnist_file_is_named(tmp_path: Path, stem: str) -> None:
    files = small_mnist()
    del files[stem]
    write(tmp_path, files)
    with pytest.raises(FileNotFoundError, match=f"has no file {stem}-idx.*{stem}.idx.*gz; pass the folder"):
        load_mnist(tmp_path)


@pytest.mark.parametrize(
    ("stem", "content", "message"),
    [
        ("train-labels", np.zeros(6, np.uint8), "7 images, .* 6 labels"),
        ("t10k-images", np.zeros((3, 4, 4), np.uint8), "20 pixels, .* 16"),
        ("t10k-images", np.zeros((3, 20), np.uint8), "uint8 in 2 dimensions"),
        ("train-labels", np.zeros(7, np.int32), "int32 in 1 dimensions"),
    ],
)
def test_mnist_files_that_do_not_go_together_are_refused(
    tmp_path: Path, stem: str, content: NDArray[Any], message: str
) -> None:
    write(tmp_path, small_mnist() | {stem: content})
    with pytest.raises(ValueError, match=message):
        load_mnist(tmp_path)
