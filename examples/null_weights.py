"""Null weight coefficients (S22; P&P, abstract): how many there are, and what they do to convergence.

P&P say that networks with ReLU "include a lot of null value of weight coefficients", to the detriment of convergence.
Left: gradient descent alone makes hardly any weight small; an L2 penalty does. Right: trainings that begin with a share
of the weights at 0 converge later the more there are, and with all of them at 0 not at all; the others' gradients soon
bring most null weights to life.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from drawing import BLUE, GREEN, ORANGE, PICTURES, PURPLE, YELLOW, new_figure, save
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import fastbp
from fastbp import diagnostics
from fastbp.initializers import HeNormal

COLOURS = (BLUE, GREEN, YELLOW, ORANGE, PURPLE)
STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))


@dataclass(frozen=True)
class PartlyNull(HeNormal):
    """He's weights, a share of which is 0."""

    share: float = 0.0

    def draw(self, shape, layer, random_state):
        W = super().draw(shape, layer, random_state)
        W[random_state.random_sample(shape) < self.share] = 0
        return W


def train(share: float, alpha: float, epochs: int) -> tuple[fastbp.History, diagnostics.Diagnostics]:
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype("float32")
    net = fastbp.Network((64, 64, 64, 10), "relu", initializer=PartlyNull(share=share), random_state=0)
    trainer = fastbp.Trainer(net, loss="cross_entropy", optimizer=fastbp.SGD(0.05), random_state=0)
    watch = diagnostics.Diagnostics(X[:100], measures="null_weights", tolerance=1e-2)
    return trainer.fit(X, y, epochs=epochs, alpha=alpha, callbacks=[watch]), watch


def main(folder: str | Path = PICTURES, epochs: int = 100) -> Figure:
    figure, axes = new_figure("Null weights: 64-64-64-10 with ReLU on digits", 1, 2, height=4.2)
    print("L2 penalty  |w| <= 0.01 before, at the end  loss, penalty included")
    for alpha, colour, style in zip((0.0, 0.1, 0.3, 1.0), COLOURS, STYLES, strict=False):
        history, watch = train(0.0, alpha, epochs)
        small = 100 * watch["small_weights"].mean(axis=1)
        print(f"{alpha:10.2f}  {small[0]:19.1f} % {small[-1]:9.1f} %  {history.loss[-1]:22.4f}")
        axes[0].plot(watch.epochs, small, color=colour, linestyle=style, label=f"alpha = {alpha:g}")
    print("null at the start  at the end  epochs until the loss is below 0.5")
    for share, colour, style in zip((0.0, 0.5, 0.8, 0.9, 1.0), COLOURS, STYLES, strict=True):
        history, watch = train(share, 0.0, epochs)
        null, reached = 100 * watch["null_weights"].mean(axis=1), np.flatnonzero(np.array(history.loss) < 0.5)
        print(f"{null[0]:15.1f} % {null[-1]:9.1f} %  {reached[0] + 1 if reached.size else 'never'}")
        axes[1].semilogy(np.arange(1, epochs + 1), history.loss, color=colour, linestyle=style, label=f"{share:.0%}")
    axes[0].set(xlabel="epoch", ylabel="weights with |w| <= 0.01 (%)", title="Small weights, by L2 penalty")
    axes[1].set(xlabel="epoch", ylabel="cross-entropy (nats)", title="Training loss, by share of null weights at first")
    axes[0].legend()
    axes[1].legend()
    save(figure, "null_weights", folder)
    return figure


if __name__ == "__main__":
    main()
