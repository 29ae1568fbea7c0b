"""Dying units (S21; Cheng 9.3.2, Book 4.5.2): ReLU against leaky ReLU and ELU.

A ReLU unit whose z is at most 0 for all samples is always 0, and so is its gradient: its weights never change again,
and only what changes below it can open it. Here the biases begin at -0.75, so that most hidden units are shut from the
start. Leaky ReLU and ELU have a gradient where z < 0, 0.01 and exp z, and their units come back: ELU's at once.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from drawing import BLUE, GREEN, ORANGE, PICTURES, new_figure, save
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastbp
from fastbp import diagnostics
from fastbp.initializers import HeNormal

KINDS = {
    "ReLU": ("relu", ORANGE, "-"),
    "leaky ReLU (0.01)": (fastbp.LeakyReLU(0.01), GREEN, "-."),
    "ELU": ("elu", BLUE, "--"),
}
"""Activation, and how it is drawn."""


class ShutUnits(fastbp.Callback):
    """Keeps, from before the training on, the share of hidden units with z <= 0 for all samples."""

    def __init__(self, X: np.ndarray) -> None:
        self.X, self.shares = X, []

    def on_train_begin(self, state: fastbp.TrainingState) -> None:
        hidden = diagnostics.probe(state.trainer.network, self.X).layers[:-1]
        self.shares.append(np.mean([(layer.z <= 0).all(axis=0).mean() for layer in hidden]))

    on_epoch_end = on_train_begin


def main(folder: str | Path = PICTURES, epochs: int = 100) -> Figure:
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, test_size=0.25, stratify=y, random_state=0)
    initializers = [HeNormal(bias=-0.75), HeNormal(bias=-0.75), HeNormal()]
    figure, axes = new_figure("Dying units: 64-64-64-10 on digits, biases begin at -0.75", 1, 2, height=4.0)
    print("activation          shut before  shut at the end  always exactly 0  training loss  test accuracy")
    for kind, (activation, colour, style) in KINDS.items():
        net = fastbp.Network((64, 64, 64, 10), activation, initializer=initializers, random_state=0)
        trainer = fastbp.Trainer(net, loss="cross_entropy", optimizer=fastbp.SGD(0.05), random_state=0)
        shut = ShutUnits(X)
        history = trainer.fit(X, y, epochs=epochs, callbacks=[shut])
        dying = diagnostics.zeros(diagnostics.probe(net, X)).dying_units[:-1].mean()
        accuracy = float((net.predict(X_test) == y_test).mean())
        print(f"{kind:18s} {shut.shares[0]:12.1%} {shut.shares[-1]:16.1%} {dying:17.1%}", end="")
        print(f" {history.loss[-1]:14.4f} {accuracy:14.1%}")
        axes[0].plot(100 * np.array(shut.shares), style, color=colour, label=kind)
        axes[1].semilogy(np.arange(1, epochs + 1), history.loss, style, color=colour)
    axes[0].set(xlabel="epoch", ylabel="hidden units (%)", title="Units with z <= 0 for all training samples")
    axes[0].set_ylim(0, 100)
    axes[1].set(xlabel="epoch", ylabel="cross-entropy (nats)", title="Training loss")
    figure.legend(loc="outside lower center", ncols=3)
    save(figure, "dying_units", folder)
    return figure


if __name__ == "__main__":
    main()
