"""What the examples' pictures share: size, colours, images of a net, and where they are saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

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
    """Write a picture, and say where it is."""
    path = Path(folder) / f"{name}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None}, pil_kwargs={"optimize": True})
    print(f"picture: {path}")


def draw_confusion(axes: Any, confusion: NDArray[np.int64]) -> None:
    """Draw how many samples of each class (rows) were taken for which (columns); only mistakes are coloured."""
    mistakes = confusion - np.diag(np.diag(confusion))
    axes.imshow(mistakes, cmap="Oranges", vmax=max(1, 1.5 * mistakes.max()))
    for (row, column), count in np.ndenumerate(confusion):
        if count:
            weight = "bold" if row == column else "normal"
            axes.text(column, row, count, ha="center", va="center", fontsize=8, fontweight=weight)
    classes = np.arange(len(confusion))
    axes.set(xticks=classes, yticks=classes, xlabel="predicted digit", ylabel="true digit")
    axes.set_title("Number of test samples, mistakes in colour")


def draw_first_layer(axes: Any, W: NDArray[Any], side: int) -> None:
    """Draw the weights W of shape (side^2, units) as an image for each unit, row after row, all on one scale."""
    n_columns = int(np.ceil(np.sqrt(W.shape[1])))
    n_rows = -(-W.shape[1] // n_columns)
    tiles = np.full((n_rows, side + 1, n_columns, side + 1), np.nan)
    for unit in range(W.shape[1]):
        tiles[unit // n_columns, :side, unit % n_columns, :side] = W[:, unit].reshape(side, side)
    tiles = tiles.reshape(n_rows * (side + 1), -1)[:-1, :-1]
    limit = np.quantile(np.abs(W), 0.998)  # a few extreme weights would leave the others pale
    image = axes.imshow(tiles, cmap="PuOr", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set(xticks=[], yticks=[], xlabel=f"pixel column ({n_columns} units in a row)", ylabel="pixel row")
    axes.set_title(f"First-layer weights of {W.shape[1]} hidden units")
    axes.figure.colorbar(image, ax=axes, label="weight (no unit)", shrink=0.8)
