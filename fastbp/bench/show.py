"""Comparisons on a terminal and as JSON; the progress of long runs."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from ..files import replacing
from ..terminal import show_table
from .comparison import WRONG, Comparison
from .operations import Difference

_Result = TypeVar("_Result")


def collect(results: Iterable[_Result], n_expected: int) -> list[_Result]:
    """Return all results, or after Ctrl-C those that there are; a bar with the time left is shown on a terminal."""
    from rich.console import Console
    from rich.progress import track

    found: list[_Result] = []
    console = Console(file=sys.stderr)
    try:
        for result in track(results, "", n_expected, console=console, transient=True, disable=not console.is_terminal):
            found.append(result)
    except KeyboardInterrupt:
        print(f"fastbp: interrupted; {len(found)} of {n_expected} cases were finished", file=sys.stderr)
    return found


def failures(found: Iterable[Comparison], fail_slower: float | None) -> list[Comparison]:
    """Return the comparisons whose results are wrong, or whose second backend is slower than is allowed."""
    return [
        comparison
        for comparison in found
        if comparison.ratio is None or (fail_slower is not None and comparison.ratio.is_slower_than(fail_slower))
    ]


def comparisons(found: Sequence[Comparison], names: Sequence[str], fail_slower: float | None) -> None:
    """Print a table of comparisons, how many of each verdict there are, and which fail."""
    first, second = names
    columns = (
        *("operation", f"error of {first}, ulp", f"error of {second}, ulp", "they differ, ulp", "where"),
        *(f"{first}, us", f"{second}, us", f"{second} is x times as fast", "99 % interval", "verdict"),
    )
    show_table(columns, map(_row, found), numbers=(1, 2, 3, 5, 6, 7))
    counts = Counter(comparison.verdict for comparison in found)
    verdicts = ("faster", "same", "slower", *([WRONG] if counts[WRONG] else []))
    print(f"{second} beside {first}: " + ", ".join(f"{counts[verdict]} {verdict}" for verdict in verdicts))
    for failure in failures(found, fail_slower):
        print(f"{failure.case}: {_reason(failure, fail_slower)}")


def _row(comparison: Comparison) -> tuple[str, ...]:
    case, difference, ratio = str(comparison.case), comparison.difference, comparison.ratio
    errors = (f"{error.ulp:.3g}" for error in (*comparison.errors, difference))
    start = case, *errors, _place(difference) if difference.ulp else ""
    if ratio is None:
        return *start, "", "", "", "", WRONG
    middle = sorted(comparison.times, key=sum)[len(comparison.times) // 2]
    times = (f"{1e6 * seconds:.3g}" for seconds in middle)
    return *start, *times, f"{ratio.value:.2f}", f"{ratio.low:.2f} to {ratio.high:.2f}", comparison.verdict


def _place(difference: Difference) -> str:
    return f"{difference.output}[{', '.join(map(str, difference.index))}]"


def _reason(failure: Comparison, fail_slower: float | None) -> str:
    if failure.ratio is not None:
        return f"takes {1 / failure.ratio.value:.2f} times as long, surely more than {fail_slower}"
    worst = max(failure.errors, key=lambda error: float("inf") if error.share != error.share else error.share)
    return f"{_place(worst)} is {worst.got}, the reference has {worst.wanted}: {worst.share:.3g} times what is allowed"


def write(found: Sequence[Comparison], path: Path) -> None:
    """Write comparisons as JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps([comparison.as_dict() for comparison in found], indent=1), encoding="utf-8")
