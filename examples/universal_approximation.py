"""Universal approximation (S19; Book 4.2): the error falls as hidden units are added, if there are biases.

One hidden layer and a linear output, F(x) = sum_i v_i psi(w_i x + b_i) + c, fit a curve on [-1, 1]. With psi = tanh,
logistic or ReLU more units fit it better. With psi = identity, a polynomial, F is a straight line however many units
there are. Without the biases b and c ReLU units add up to two straight pieces, tanh units to an odd function, which
comes no nearer to this curve than its even part's largest value, 0.5. (Read the book's "> epsilon" as "< epsilon".)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from drawing import BLUE, GREEN, ORANGE, PICTURES, SKY, YELLOW, new_figure, save
from matplotlib.figure import Figure

import fastbp
from fastbp.initializers import GlorotUniform, Normal, Uniform

KINDS = {
    "tanh": ("tanh", True, BLUE, "o-"),
    "logistic": ("logistic", True, GREEN, "s-"),
    "ReLU": ("relu", True, ORANGE, "^-"),
    "identity": ("identity", True, "black", "x--"),
    "tanh, no bias": ("tanh", False, SKY, "o--"),
    "ReLU, no bias": ("relu", False, YELLOW, "^--"),
}
"""Activation, bias, and how it is drawn."""

X = np.linspace(-1, 1, 101)[:, None]
TARGET = 0.5 * np.sin(2 * np.pi * X[:, 0]) + X[:, 0] ** 2 - 0.5


def fit(kind: str, n_hidden: int, seed: int, epochs: int) -> Any:
    """Return the fitted values at X."""
    activation, bias, *_ = KINDS[kind]
    first = Normal(4.0, bias=Uniform(4.0))  # so that the units bend at different places of [-1, 1]
    net = fastbp.Network(
        (1, n_hidden, 1), hidden_activation=activation, output="identity", bias=bias, dtype="float64",
        initializer=[first, GlorotUniform(gain=0.5)], random_state=seed,
    )  # fmt: skip
    trainer = fastbp.Trainer(
        net, loss="squared_error", learning_rate=0.02, schedule="cosine", batch_size="full", n_threads=1
    )
    trainer.fit(X, TARGET, epochs=epochs, shuffle=False)
    return net.predict(X)


def main(
    folder: str | Path = PICTURES,
    widths: tuple[int, ...] = (1, 4, 16, 64),
    seeds: int = 3,
    epochs: int = 2000,
) -> Figure:
    fits, errors = {}, {}
    print("largest error on [-1, 1], median of", seeds, "seeds; hidden units:")
    print(" " * 14 + "".join(f"{width:>8}" for width in widths))
    for kind in KINDS:
        fits[kind] = [[fit(kind, width, seed, epochs) for seed in range(seeds)] for width in widths]
        errors[kind] = np.median([[np.abs(F - TARGET).max() for F in at_width] for at_width in fits[kind]], axis=1)
        print(f"{kind:14s}" + "".join(f"{error:8.4f}" for error in errors[kind]))

    figure, axes = new_figure("Universal approximation needs a non-polynomial unit and biases", 1, 2, height=4.4)
    for kind, (_, _, colour, style) in KINDS.items():
        axes[0].loglog(widths, errors[kind], style, color=colour, markersize=5, label=kind)
    axes[0].set(xlabel="number of hidden units", ylabel="largest error (no unit)", title="Error against width")
    axes[0].set_xticks(widths, widths)
    axes[0].minorticks_off()
    axes[1].plot(X, TARGET, color="0.75", linewidth=6, label="target")
    for kind, (_, _, colour, style) in KINDS.items():
        axes[1].plot(X, fits[kind][-1][0], style.strip("os^x"), color=colour, linewidth=1.4)
    axes[1].set(xlabel="x (no unit)", ylabel="F(x) (no unit)", title=f"Fits with {widths[-1]} hidden units")
    axes[1].legend(loc="upper center")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    save(figure, "universal_approximation", folder)
    return figure


if __name__ == "__main__":
    main()
