"""Every row of docs/sources.md is cited by a test, every mark names a row and its equations, every name is one.

A mark is ``@pytest.mark.source("S6", "P&P (10)", "Cheng (8b)")`` on a test: the row, and the equations that it tests.
Marks are read from the files, not from what was collected: so it is the same to run one file or all, by one process or
several.
"""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fastbp import kernels

TESTS = Path(__file__).parent
DOCUMENT = TESTS.parent / "docs" / "sources.md"
EXAMPLES = TESTS.parent / "examples"

ROWS = tuple(f"S{number}" for number in range(1, 27))
COLUMNS = ("row", "what", "where", "in fastbp", "tests", "example")
SOURCES = ("P&P", "Porr", "Cheng", "SE", "Book")


class Mark(NamedTuple):
    """A mark on a test, and where it stands."""

    file: str
    test: str
    row: str
    equations: tuple[str, ...]


def marks_in(text: str, file: str) -> Iterator[Mark]:
    """Yield the marks ``source`` of a file with tests.

    Raises
    ------
    ValueError
        If a mark stands on anything but a test, or its arguments are not texts as they stand there.
    """
    tree = ast.parse(text)
    n_found = 0
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name.startswith("test_"):
            for decorator in filter(_is_mark, function.decorator_list):
                n_found += 1
                arguments = [argument.value for argument in decorator.args if isinstance(argument, ast.Constant)]
                if decorator.keywords or len(arguments) < len(decorator.args) or not arguments:
                    raise ValueError(f"{file}: {function.name} has a mark of other arguments than a row and equations")
                yield Mark(file, function.name, arguments[0], tuple(arguments[1:]))
    if n_found < sum(map(_is_mark, ast.walk(tree))):
        raise ValueError(f"{file}: a mark stands elsewhere than on a function test_...")


def _is_mark(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.source"


def fault(mark: Mark) -> str | None:
    """Return what is wrong with a mark."""
    if mark.row not in ROWS:
        return f"{mark.row!r} is no row: it is one of {ROWS[0]} to {ROWS[-1]}"
    if not mark.equations:
        return "names no equation; add one, such as 'Cheng (8b)', or a section, such as 'Book 4.6'"
    for equation in mark.equations:
        source, _, place = str(equation).partition(" ")
        if source not in SOURCES or (not place and source != "SE"):  # SE numbers nothing but its three equations
            return f"{equation!r} is no equation or section of {', '.join(SOURCES)}"
    return None


@functools.cache
def marks() -> tuple[Mark, ...]:
    """Return the marks of all files."""
    files = sorted(TESTS.glob("test_*.py"))
    return tuple(mark for path in files for mark in marks_in(path.read_text(encoding="utf-8"), path.name))


@functools.cache
def table() -> dict[str, dict[str, str]]:
    """Return the cells of the document's table by row and column."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in DOCUMENT.read_text(encoding="utf-8").splitlines()
        if re.match(r"\| S\d+ \|", line)
    ]
    return {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in cells}


def names_in(text: str) -> list[str]:
    """Return what stands between backticks."""
    return re.findall(r"`([^`]+)`", text)


def exists(name: str) -> bool:
    """Tell whether a test, example, operation, or something of fastbp's, ``fastbp.Trainer(clip_norm=)``, is there."""
    if name in kernels.OPERATIONS:
        return True
    if name.startswith("examples/"):
        return (EXAMPLES / name.removeprefix("examples/")).is_file()
    file, _, test = name.partition("::")
    if file.startswith("test_") and file.endswith(".py"):
        path = TESTS / file
        return path.is_file() and (not test or f"def {test}(" in path.read_text(encoding="utf-8"))
    path, _, parameters = name.partition("(")
    found = _find(path)
    return found is not None and all(
        parameter in inspect.signature(found).parameters for parameter in re.findall(r"(\w+)=", parameters)
    )


def _find(path: str) -> Any:
    """Return what a dotted path names, None for nothing."""
    parts = path.split(".")
    if parts[0] != "fastbp":
        return None
    found = importlib.import_module("fastbp")
    for end, part in enumerate(parts[1:], 2):
        try:
            found = getattr(found, part)
        except AttributeError:
            try:
                found = importlib.import_module(".".join(parts[:end]))
            except ImportError:
                return None
    return found


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_cited(row: str) -> None:
    assert any(mark.row == row for mark in marks()), f'mark a test: @pytest.mark.source("{row}", "Book 4.6", ...)'


def test_every_mark_names_a_row_and_its_equations() -> None:
    faults = [f"{mark.file}::{mark.test}: {fault(mark)}" for mark in marks() if fault(mark)]
    assert not faults, "\n".join(faults)


def test_the_table_has_every_row() -> None:
    assert tuple(table()) == ROWS
    assert all(cells["what"] and cells["where"] and cells["in fastbp"] for cells in table().values())


@pytest.mark.parametrize("row", ROWS)
def test_what_a_row_names_exists(row: str) -> None:
    missing = [name for cell in table()[row].values() for name in names_in(cell) if not exists(name)]
    assert not missing, f"row {row} of docs/sources.md names {missing}"


@pytest.mark.parametrize("row", ROWS)
def test_a_row_names_the_files_of_its_tests(row: str) -> None:
    assert sorted(names_in(table()[row]["tests"])) == sorted({mark.file for mark in marks() if mark.row == row})


def test_what_the_text_names_exists() -> None:
    prose = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if not line.startswith("| S")]
    assert not [name for name in names_in("\n".join(prose)) if not exists(name)]


# ------------------------------------------------------------------------------------------- that these tests can fail


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        (Mark("f", "t", "S27", ("Book 4.6",)), "'S27' is no row"),
        (Mark("f", "t", "P&P (1)", ("P&P (2)",)), "no row"),
        (Mark("f", "t", "S1", ()), "names no equation"),
        (Mark("f", "t", "S1", ("Goodfellow (6.1)",)), "no equation or section"),
        (Mark("f", "t", "S1", ("P&P (2)", "Book")), "'Book' is no equation"),
    ],
)
def test_a_mark_without_row_or_equation_is_found(mark: Mark, message: str) -> None:
    assert message in (fault(mark) or "")


@pytest.mark.parametrize(
    "text",
    [
        "pytestmark = pytest.mark.source('S1', 'P&P (2)')",
        "@pytest.mark.source('S1', 'P&P (2)')\ndef helper(): ...",
        "@pytest.mark.source(ROW, 'P&P (2)')\ndef test_it(): ...",
        "@pytest.mark.source(row='S1')\ndef test_it(): ...",
        "@pytest.mark.source()\ndef test_it(): ...",
    ],
)
def test_a_mark_that_cannot_be_read_is_found(text: str) -> None:
    with pytest.raises(ValueError, match="mark"):
        list(marks_in(text, "test_it.py"))


def test_marks_are_found_in_classes_and_one_above_the_other() -> None:
    text = (
        "class TestIt:\n    @pytest.mark.source('S1', 'P&P (2)')\n"
        "    @pytest.mark.source('S2', 'Book 4.1.4', 'Book 4.1.5')\n    def test_it(self): ..."
    )
    found = [Mark("f", "test_it", "S1", ("P&P (2)",)), Mark("f", "test_it", "S2", ("Book 4.1.4", "Book 4.1.5"))]
    assert list(marks_in(text, "f")) == found


@pytest.mark.parametrize(
    "name",
    [
        "linear_backward",
        "examples/none.py",
        "test_none.py",
        "test_sources.py::test_none",
        "fastbp.none",
        "fastbp.kernels.none.linear_forward",
        "fastbp.Trainer(none=)",
        "numpy.dot",
    ],
)
def test_a_name_of_nothing_is_found(name: str) -> None:
    assert not exists(name)


@pytest.mark.parametrize(
    "name",
    [
        "linear_forward",
        "test_sources.py",
        "test_sources.py::test_a_name_of_nothing_is_found",
        "fastbp.Trainer",
        "fastbp.Trainer(clip_norm=, batch_size=)",
        "fastbp.Trainer.fit(reduction=)",
        "fastbp.kernels.reference.linear_forward",
    ],
)
def test_a_name_of_something_is_found(name: str) -> None:
    assert exists(name)
