"""Tables: with colours and wrapped on a terminal, plain lines in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

WIDTH_IN_PIPES = 10_000
"""Columns where the output is no terminal: nothing is wrapped."""


def show_pairs(pairs: Iterable[tuple[str, Any]], title: str | None = None) -> None:
    """Print names and values as a table of two columns."""
    show_table(("", ""), [(name, value) for name, value in pairs], title=title, header=False)


def show_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    title: str | None = None,
    header: bool = True,
    numbers: Iterable[int] = (),
) -> None:
    """Print a table on stdout: with colours on a terminal, plain elsewhere.

    Parameters
    ----------
    columns : sequence of str
        Headings.
    rows : iterable of sequences
        Printed as `str` prints them.
    title : str, optional
    header : bool
        Whether to show the headings.
    numbers : iterable of int
        Which columns hold numbers, set flush right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal = sys.stdout.isatty()
    console = Console(file=sys.stdout, width=None if terminal else WIDTH_IN_PIPES)
    table = Table(box=box.SIMPLE_HEAD if header else None, show_header=header, pad_edge=False, title_justify="left")
    for index, name in enumerate(columns):
        style = "bold" if index == 0 and not header else None
        table.add_column(Text(name), justify="right" if index in set(numbers) else "left", style=style, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(value)) for value in row))
    with console.capture() as printed:
        if title is not None:
            console.print(Text(title, style="bold"))
        console.print(table)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in printed.get().splitlines())
