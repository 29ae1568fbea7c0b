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
from drawing import PICTURES, new_figure, save
from matplotlib.figure import Figure

import fastbp
from fastbp import diagnostics, plots


def show(axes: Any, title: str, found: diagnostics.Valuation) -> None:
    """Print a valuation, and draw it."""
    print(f"\n{title}: {found.positive[:-1].mean():.0%} of the hidden U are at least 0")
    found.table()
    plots.valuation(found, axes).set(title=title, ylabel=r"RMS $\|E^l\|$ over samples")
    axes.get_legend().remove()


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
    figure, axes = new_figure("The error sent back, and P&P's valuation of it", 1, 3, height=4.4, sharey=True)
    show(axes[0], "All W and X positive", diagnostics.valuation(diagnostics.probe(nets[0], X, Y)))
    show(axes[1], "Usual net, untrained", diagnostics.valuation(diagnostics.probe(nets[1], X, Y)))
    trainer = fastbp.Trainer(nets[1], loss="squared_error", learning_rate=3e-3, random_state=0)
    trainer.fit(X, Y, epochs=epochs)
    show(axes[2], "Usual net, trained", diagnostics.valuation(diagnostics.probe(nets[1], X, Y)))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save(figure, "error_valuation", folder)
    return figure


if __name__ == "__main__":
    main()
