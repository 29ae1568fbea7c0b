"""XOR, which no single perceptron computes: once with weights set by hand, once learnt (S17; Cheng 9.1, (1a)-(1c)).

By hand, two sign units draw a line each; between the lines lies +1. A net of the same shape finds lines like these
when it is trained, but not from all initial weights: with two hidden units some trainings stop at a worse minimum.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from drawing import BLUE, ORANGE, PICTURES, new_figure, save
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

import fastbp

X = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float64")
Y = np.array([-1, 1, 1, -1], "float64")


def by_hand() -> fastbp.Network:
    """Cheng (1a)-(1c): the first of his three numbers is the bias."""
    net = fastbp.Network((2, 2, 1), hidden_activation="sign", output="sign", dtype="float64")
    net.weights[0][...] = [[-1, 1], [-1, 1]]
    net.biases[0][...] = [1.5, -0.5]
    net.weights[1][...] = [[1], [1]]
    net.biases[1][...] = -1
    return net


def trained(seed: int, epochs: int) -> fastbp.Network:
    net = fastbp.Network((2, 2, 1), hidden_activation="tanh", output="tanh", dtype="float64", random_state=seed)
    trainer = fastbp.Trainer(
        net, loss="squared_error", optimizer=fastbp.SGD(0.2, momentum=0.9), batch_size="full", random_state=seed
    )
    trainer.fit(X, Y, epochs=epochs)
    return net


def solves(net: fastbp.Network) -> bool:
    return bool((np.sign(net.predict(X)) == Y).all())


def draw(axes: Any, net: fastbp.Network, title: str) -> None:
    """Colour the plane by the sign of the output, and draw the line of each hidden unit."""
    grid = np.linspace(-0.5, 1.5, 301)
    plane = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    positive = (net.predict(plane) > 0).reshape(301, 301)
    axes.pcolormesh(grid, grid, positive, cmap=ListedColormap(["#f6d9c6", "#cfe3f1"]), rasterized=True)
    for unit, style in enumerate(("--", ":")):
        z = (plane @ net.weights[0][:, unit] + net.biases[0][unit]).reshape(301, 301)
        axes.contour(grid, grid, z, levels=[0], colors="black", linestyles=style, linewidths=1.2)
        axes.plot([], [], color="black", linestyle=style, label=f"hidden unit {unit + 1}: z = 0")
    for sign, marker, colour in ((1, "o", BLUE), (-1, "s", ORANGE)):
        points = X[sign == Y]
        axes.plot(*points.T, marker, color=colour, markersize=11, label=f"wanted {sign:+d}")
    axes.set(xlabel="input $x_1$", ylabel="input $x_2$", title=title, aspect="equal")


def main(folder: str | Path = PICTURES, epochs: int = 2000, seeds: int = 20) -> Figure:
    hand = by_hand()
    nets = [trained(seed, epochs) for seed in range(seeds)]
    solved = [net for net in nets if solves(net)]
    net = (solved or nets)[0]
    print(" x1  x2  wanted  by hand  trained")
    for x, wanted, first, second in zip(X, Y, hand.predict(X), net.predict(X), strict=True):
        print(f"{x[0]:3.0f} {x[1]:3.0f} {wanted:+7.0f} {first:+8.0f} {second:+8.3f}")
    print(f"{len(solved)} of {seeds} trainings of {epochs} epochs solved XOR")
    figure, axes = new_figure("XOR: output +1 (blue) and -1 (orange)", 1, 2, height=4.6)
    draw(axes[0], hand, "by hand: sign units, Cheng (1a)-(1c)")
    draw(axes[1], net, f"trained: tanh units ({len(solved)} of {seeds} seeds solve it)")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    save(figure, "xor", folder)
    return figure


if __name__ == "__main__":
    main()
