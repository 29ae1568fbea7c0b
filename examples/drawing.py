"""What the examples' pictures share: size, colours, and where they are saved."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from PIL import Image

PICTURES = Path(__file__).parent / "pictures"

SKIPPED = 77
"""Exit status of an example that lacks its data, as of a test that Automake skips."""

BLUE, ORANGE, GREEN, PURPLE, YELLOW, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
"""Okabe and Ito's colours, which colour-blind readers can tell apart."""

matplotlib.rcParams.update({"axes.titlesize": "medium", "legend.frameon": False, "legend.fontsize": "small"})


def new_figure(title: str, n_rows: int = 1, n_columns: int = 1, *, height: float = 4.0, **options: Any) -> Any:
    """Return a figure 8 inches wide, and its axes: one, or an array of them."""
    figure = Figure(figsize=(8, height), layout="constrained")
    figure.suptitle(title, fontweight="bold")
    return figure, figure.subplots(n_rows, n_columns, **options)


def save(figure: Figure, name: str, folder: str | Path) -> None:
    """Write a picture, of 256 colours at most, which makes it small, and say where it is."""
    path = Path(folder) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    with io.BytesIO() as drawn:
        figure.savefig(drawn, format="png", dpi=110)
        Image.open(drawn).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE).save(path, optimize=True)
    print(f"picture: {path}")
