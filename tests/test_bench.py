"""The scripts that compare two runs of the benchmark cases, and two versions by turns."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

COMPARE = Path(__file__).parents[1] / "bench" / "compare.py"
if not COMPARE.exists():
    pytest.skip("bench/ is not installed with the package", allow_module_level=True)


def write(path: Path, **medians: float) -> Path:
    """Write a run whose quartiles lie 5 % off their medians."""
    stats = {name: {"median": median, "q1": 0.95 * median, "q3": 1.05 * median} for name, median in medians.items()}
    path.write_text(json.dumps({"benchmarks": [{"name": name, "stats": each} for name, each in stats.items()]}))
    return path


def compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(COMPARE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_only_what_lies_outside_the_noise_is_a_difference(tmp_path: Path) -> None:
    before = write(tmp_path / "before.json", forward=2.0, update=1.0, gather=1.0, gone=1.0)
    after = write(tmp_path / "after.json", forward=1.0, update=1.05, gather=2.0, added=1.0)
    shown = compare(before, after)
    assert shown.returncode == 0, shown.stderr
    assert "3 cases in both runs: 1 faster, 1 same, 1 slower" in shown.stdout
    assert "2.00" in shown.stdout
    assert "0.50" in shown.stdout
    assert "update" not in shown.stdout
    assert "update" in compare(before, after, "--all").stdout


def test_names_are_shown_whole(tmp_path: Path) -> None:
    names = [f"linear_update/f32/B128/512-512/{backend}" for backend in ("numba", "numpy", "cython")]
    before = write(tmp_path / "before.json", **dict.fromkeys(names, 2.0))
    after = write(tmp_path / "after.json", **dict.fromkeys(names, 1.0))
    shown = compare(before, after).stdout
    words = "".join(line.split("│")[1].strip() for line in shown.splitlines() if line.startswith("│"))
    assert all(name in words for name in names)


def test_a_file_that_is_no_run_is_refused(tmp_path: Path) -> None:
    good, bad = write(tmp_path / "good.json", forward=1.0), tmp_path / "bad.json"
    bad.write_text("{}")
    listed, unmeasured, halted = (tmp_path / f"{name}.json" for name in ("listed", "unmeasured", "halted"))
    listed.write_text("[]")
    unmeasured.write_text('{"benchmarks": [{"name": "forward"}]}')
    write(halted, forward=0.0)
    for path in (bad, listed, unmeasured, halted, tmp_path / "missing.json"):
        refused = compare(good, path)
        assert refused.returncode == 1
        assert path.name in refused.stderr
        assert "Traceback" not in refused.stderr


def test_a_version_against_itself() -> None:
    """Both processes compute the same, and a ratio is found for each kind of work.

    A checkout that was never built has the Numba backend alone, even where the installed fastbp has more.
    """
    checkout = COMPARE.parents[1]
    options = ["--rounds", "1", "--processes", "1", "--rows", "tiny", "--dtypes", "float32", "--backends", "numba"]
    command = [sys.executable, "bench/versions.py", ".", ".", "--kinds", "fit", "predict", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=checkout)
    assert done.returncode == 0, done.stderr
    rows = [line.split("│")[1:-1] for line in done.stdout.splitlines() if "tiny" in line]
    assert [row[0].strip() for row in rows] == ["fit", "predict"]
    assert all(float(row[4]) > 0 for row in rows)


def test_a_folder_without_a_checkout_is_no_version(tmp_path: Path) -> None:
    command = [sys.executable, str(COMPARE.with_name("versions.py")), str(tmp_path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "pass a checkout's folder" in done.stderr or "No module named 'fastbp'" in done.stderr
