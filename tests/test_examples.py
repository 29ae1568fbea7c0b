"""The examples: each runs, at a reduced size, and draws a picture that says what it shows."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastbp

EXAMPLES = Path(__file__).parents[1] / "examples"
if not EXAMPLES.exists():
    pytest.skip("examples/ is not installed with the package", allow_module_level=True)
pytest.importorskip("matplotlib", reason="the examples draw with matplotlib: pip install 'fastbp[plot]'")

NAMES = sorted(path.stem for path in EXAMPLES.glob("*.py") if path.stem not in ("__main__", "drawing"))
REDUCED: dict[str, dict[str, Any]] = {
    "batch_norm_dropout": {"epochs": 2, "seeds": 1},
    "digits": {"epochs": 2},
    "dying_units": {"epochs": 2},
    "drifting_stream": {"n": 400, "n_rates": 4},
    "error_valuation": {"epochs": 2},
    "initializer_symmetry": {"epochs": 3},
    "null_weights": {"epochs": 2},
    "universal_approximation": {"widths": (1, 4), "seeds": 1, "epochs": 20},
    "vanishing_gradients": {"depth": 4, "epochs": 2},
    "xor": {"epochs": 50, "seeds": 2},
}
"""Arguments of main with which an example is quick; others run as they are."""


@pytest.fixture(autouse=True)
def _examples_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)


def arguments(name: str) -> dict[str, Any]:
    """Return what an example's main is called with."""
    if name != "mnist":
        return REDUCED.get(name, {})
    generator = np.random.default_rng(0)
    X, y = generator.random((60, 784), dtype="float32"), np.arange(60) % 10
    return {"data": (X, y, X, y), "backends": ["numba"], "seeds": [0], "epochs": 1}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_prints_its_result_and_draws_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figure = importlib.import_module(name).main(folder=tmp_path, **arguments(name))
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1].startswith("picture: ")
    assert any(character.isdigit() for line in printed[:-1] for character in line)
    assert [path.name for path in tmp_path.iterdir()] == [f"{name}.png"]
    check_legible(figure)
    figure.draw_without_rendering()
    check_inside(figure)


def check_legible(figure: Any) -> None:
    """Check that the picture has a title, and its axes titles and labels, in letters large enough at 800 pixels."""
    assert figure.get_suptitle()
    assert figure.get_figwidth() == 8  # inches: 1 point is then 1.4 pixels
    for axes in figure.axes:
        is_colorbar = axes.get_label() == "<colorbar>"
        texts = [axes.yaxis.label] if is_colorbar else [axes.title, axes.xaxis.label, axes.yaxis.label]
        assert all(text.get_text() for text in texts)
        assert min(text.get_fontsize() for text in texts) >= 9


def check_inside(figure: Any) -> None:
    """Check that no title and no label is cut off at the picture's edge, or by its neighbour's title."""
    titles = [axes.title.get_window_extent() for axes in figure.axes if axes.title.get_text()]
    labels = [label.get_window_extent() for axes in figure.axes for label in (axes.xaxis.label, axes.yaxis.label)]
    for box in (*titles, *(label for label in labels if label.width)):
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0
        assert box.y1 <= figure.bbox.y1
    assert not any(one.overlaps(other) for i, one in enumerate(titles) for other in titles[:i])


@pytest.mark.parametrize("name", NAMES)
def test_the_picture_is_kept_small_and_shown_in_the_docs(name: str) -> None:
    picture = EXAMPLES / "pictures" / f"{name}.png"
    assert picture.stat().st_size < 150_000
    docs = EXAMPLES.parent / "docs" / "examples.md"
    assert f"](../examples/pictures/{name}.png)" in docs.read_text(encoding="utf-8")


def run_all(*names: str) -> subprocess.CompletedProcess[str]:
    """Run ``python examples NAMES`` with the fastbp that is tested."""
    environment = {**os.environ, "PYTHONPATH": str(Path(fastbp.__file__).parents[1])}
    command = [sys.executable, EXAMPLES, *names]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_an_example_without_its_data_counts_as_skipped_and_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTBP_MNIST", raising=False)
    done = run_all("mnist")
    assert done.returncode == 0, done.stderr
    assert "train-images-idx3-ubyte.gz" in done.stdout
    assert "SKIPPED" in done.stdout.splitlines()[-1]


def test_a_failing_example_fails_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTBP_MNIST", str(tmp_path))  # a folder without the files
    done = run_all("mnist")
    assert done.returncode == 1
    assert "FAILED" in done.stdout.splitlines()[-1]
    refused = run_all("mnist", "nonsense")
    assert refused.returncode == 2
    assert "'nonsense'" in refused.stderr
