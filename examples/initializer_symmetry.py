"""Initial weights must differ (S11; Book 4.5.1-4.5.2, Cheng 9.3.1 and table 2): equal hidden units stay equal.

All weights zero: no gradient reaches any weight, and only the output's bias learns. All weights the same number: every
hidden unit has the same gradient, so that 16 of them are worth one. Xavier's and He's random weights break the
symmetry. The left picture is the largest distance between the incoming weights of any two hidden units.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from drawing import BLUE, GREEN, ORANGE, PICTURES, PURPLE, new_figure, save
from matplotlib.figure import Figure
from scipy.spatial.distance import pdist
from sklearn.datasets import make_moons

import fastbp
from fastbp.initializers import Constant

INITIALIZERS = {
    "zeros": ("zeros", PURPLE, {"linewidth": 5, "alpha": 0.5}),
    "constant 0.5": (Constant(0.5), ORANGE, {"linestyle": "--"}),
    "Xavier uniform": ("glorot_uniform", GREEN, {"linestyle": "-."}),
    "He normal": ("he_normal", BLUE, {}),
}
"""Initialiser, and how it is drawn."""


class Distances(fastbp.Callback):
    """Keeps, after each epoch, the largest distance between the incoming weights of two hidden units."""

    def __init__(self) -> None:
        self.largest: list[float] = []

    def on_epoch_end(self, state: fastbp.TrainingState) -> None:
        self.largest.append(float(pdist(state.trainer.network.weights[0].T).max()))


def main(folder: str | Path = PICTURES, epochs: int = 200) -> Figure:
    X, y = make_moons(400, noise=0.15, random_state=0)
    X = fastbp.Standardizer.fit(X).transform(X)
    figure, axes = new_figure("Equal hidden units stay equal: 2-16-2 with ReLU on two moons", 1, 2, height=3.8)
    print("initialiser     distance of units  training loss  accuracy")
    for name, (initializer, colour, style) in INITIALIZERS.items():
        net = fastbp.Network((2, 16, 2), hidden_activation="relu", initializer=initializer, random_state=0)
        trainer = fastbp.Trainer(net, loss="cross_entropy", optimizer=fastbp.SGD(0.1), random_state=0)
        distances = Distances()
        history = trainer.fit(X, y, epochs=epochs, callbacks=[distances])
        accuracy = float((net.predict(X) == y).mean())
        print(f"{name:15s} {distances.largest[-1]:17.6f} {history.loss[-1]:14.4f} {accuracy:9.1%}")
        axes[0].plot(np.arange(1, epochs + 1), distances.largest, color=colour, label=name, **style)
        axes[1].plot(np.arange(1, epochs + 1), history.loss, color=colour, **style)
    axes[0].set(xlabel="epoch", ylabel="largest distance of two units", title="Distance between hidden units' weights")
    axes[1].set(xlabel="epoch", ylabel="cross-entropy (nats)", title="Training loss", ylim=(0, None))
    figure.legend(loc="outside lower center", ncols=4)
    save(figure, "initializer_symmetry", folder)
    return figure


if __name__ == "__main__":
    main()
