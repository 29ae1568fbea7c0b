"""Two runs of `pytest bench/ --benchmark-json=...` side by side: how many times as fast the second one is.

    python bench/compare.py BEFORE.json AFTER.json [--all]

The noise band of a ratio comes from the quartiles of both runs: the slower half of one against the faster half of the
other, both ways. Only what lies outside its band is a difference; ``--all`` shows the rest, too.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from fastbp.bench.pairs import Ratio


def read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the statistics of a run's cases by name."""
    try:
        cases = {case["name"]: case["stats"] for case in json.loads(path.read_text(encoding="utf-8"))["benchmarks"]}
        whole = all(stats[value] > 0 for stats in cases.values() for value in ("q1", "median", "q3"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(
            f"{path} is no result of pytest --benchmark-json ({error!r}); run pytest bench/ first"
        ) from None
    if not whole:
        raise SystemExit(f"{path} has times that are not above 0; run pytest bench/ again")
    return cases


def compare(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> dict[str, Ratio]:
    """Return how many times as fast each case became that both runs have, and its noise band; the slowest first."""
    ratios = {}
    for name in before.keys() & after.keys():
        old, new = before[name], after[name]
        low, high = old["q1"] / new["q3"], old["q3"] / new["q1"]
        ratios[name] = Ratio(old["median"] / new["median"], low, high)
    return dict(sorted(ratios.items(), key=lambda item: item[1].value))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--all", action="store_true", help="show the cases within their noise band, too")
    options = parser.parse_args()
    ratios, console = compare(read(options.before), read(options.after)), Console()
    table = Table(Column("case", overflow="fold"), "times as fast", "noise band", "verdict")
    for name, ratio in ratios.items():
        if options.all or ratio.verdict != "same":
            table.add_row(name, f"{ratio.value:.2f}", f"{ratio.low:.2f} to {ratio.high:.2f}", ratio.verdict)
    console.print(table)
    counts = Counter(ratio.verdict for ratio in ratios.values())
    summary = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("faster", "same", "slower"))
    console.print(f"{len(ratios)} cases in both runs: {summary}")


if __name__ == "__main__":
    main()
