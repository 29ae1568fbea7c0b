"""P&P's upper error valuation against the error itself (S23; P&P (11)-(18)), layer by layer.

P&P estimate the error that is sent back by E^l ~ B_l X^l, B_(l-1) = (W^l)^T B_l W^l, as if all U were positive. (13)
drops the targets Y on the way. Left: with positive weights and samples all U are positive, and the form with Y is
exact; the one without Y is not. Middle and right: in a usual net half of the U are negative; the form is exact with
each sample's ReLU masks only, and after training the estimate values the output and not the error. What always holds is
||E^l|| <= ||W^L||_2 ... ||W^(l+1)||_2 ||E^L||.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from drawing import BLUE, GREEN, ORANGE, PICTURES, PURPLE, new_figure, save
from matplotlib.figure import Figure

import fastbp
from fastbp import diagnostics

FORMS = {
    "true error": ("error", {"color": "black", "linewidth": 5, "alpha": 0.3}),
    "with Y and masks": ("masked_exact", {"color": BLUE, "linestyle": "--"}),
    "with Y": ("exact", {"color": GREEN, "linestyle": "-.", "marker": "s"}),
    "P&P's estimate": ("estimate", {"color": ORANGE, "linestyle": ":", "marker": "o"}),
    "bound": ("bound", {"color": PURPLE, "marker": "^"}),
}
"""Attribute of the valuation, and how it is drawn."""


def show(axes: Any, title: str, found: diagnostics.Valuation) -> None:
    """Print a valuation, and draw it."""
    print(f"\n{title}: {found.positive[:-1].mean():.0%} of the hidden U are at least 0")
    print("layer" + "".join(f"{name:>18}" for name in FORMS))
    for layer, row in enumerate(zip(*(getattr(found, name) for name, _ in FORMS.values()), strict=True), start=1):
        print(f"{layer:5d}" + "".join(f"{value:18.4g}" for value in row))
    layers = np.arange(1, len(found.error) + 1)
    for name, (attribute, style) in FORMS.items():
        axes.semilogy(layers, getattr(found, attribute), label=name, markersize=5, **style)
    axes.set(xlabel="layer", ylabel=r"RMS $\|E^l\|$ over the samples", title=title, xticks=layers)


def main(folder: str | Path = PICTURES, epochs: int = 200) -> Figure:
    generator = np.random.default_rng(0)
    X = generator.random((200, 8))
    Y = np.stack([np.sin(3 * X[:, 0]) + X[:, 1], X[:, 2] * X[:, 3] + 1], axis=1)
    nets = [
        fastbp.Network(
            (8, 16, 16, 16, 2), "relu", "relu", bias=False, dtype="float64", initializer="he_normal", random_state=3
        )
        for _ in range(2)
    ]
    nets[0].parameters[...] = 0.4 * np.abs(nets[0].parameters)
    figure, axes = new_figure("The error sent back, and what P&P's valuation makes of it", 1, 3, height=4.0)
    show(axes[0], "All W and X positive", diagnostics.valuation(diagnostics.probe(nets[0], X, Y)))
    show(axes[1], "Usual net, untrained", diagnostics.valuation(diagnostics.probe(nets[1], X, Y)))
    trainer = fastbp.Trainer(nets[1], loss="squared_error", learning_rate=3e-3, random_state=0)
    trainer.fit(X, Y, epochs=epochs)
    show(axes[2], "Usual net, trained", diagnostics.valuation(diagnostics.probe(nets[1], X, Y)))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    save(figure, "error_valuation", folder)
    return figure


if __name__ == "__main__":
    main()
