"""Vanishing and exploding gradients (S20; Cheng 9.3, Book 4.5.1): the error's norm, layer by layer on its way down.

Each layer multiplies the error by W^T and act'. Xavier's weights keep norms as they are, and the logistic's derivative
is at most 0.25: so the error falls to a quarter at each layer. Weights four times as large make up for part of it.
N(0, 1) weights multiply it by about 8, the root of 64: with ReLU it explodes. The logistic saturates, which takes that
back, so that here Cheng's vanishing pair, logistic and N(0, 1), vanishes less than logistic and Xavier. He's weights
with ReLU and Xavier's with tanh keep the error. The right picture is what this means for training.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
from drawing import BLUE, GREEN, ORANGE, PICTURES, PURPLE, SKY, YELLOW, new_figure, save
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

import fastbp
from fastbp import diagnostics
from fastbp.initializers import GlorotNormal

KINDS = {
    "ReLU, N(0, 1)": ("relu", "normal", ORANGE, "^--"),
    "ReLU, He": ("relu", "he_normal", BLUE, "^-"),
    "tanh, Xavier": ("tanh", "glorot_normal", GREEN, "o-"),
    "logistic, N(0, 1)": ("logistic", "normal", YELLOW, "s--"),
    "logistic, 4 x Xavier": ("logistic", GlorotNormal(gain=4.0), SKY, "s-."),
    "logistic, Xavier": ("logistic", "glorot_normal", PURPLE, "s-"),
}
"""Activation, initialiser, and how it is drawn."""


class Losses(fastbp.Callback):
    """Keeps the loss of each epoch, also of a training that fails."""

    def on_train_begin(self, state: fastbp.TrainingState) -> None:
        self.seen = state.history.loss


def main(folder: str | Path = PICTURES, depth: int = 10, epochs: int = 30) -> Figure:
    X, y = load_digits(return_X_y=True)
    X = fastbp.Standardizer.fit(X).transform(X)
    layers = np.arange(1, depth + 1)
    title = f"Vanishing and exploding errors: digits, {depth - 1} hidden layers of 64 units"
    figure, axes = new_figure(title, 1, 2, height=4.6)
    print("                      ||delta|| of layer 1 / of the output layer   a layer's factor   loss at the end")
    for kind, (activation, initializer, colour, style) in KINDS.items():
        sizes = (64,) * depth + (10,)
        net = fastbp.Network(sizes, activation, "softmax", initializer=initializer, dtype="float64", random_state=0)
        norms = diagnostics.norms(diagnostics.probe(net, X[:500], y[:500]))
        trainer = fastbp.Trainer(net, loss="cross_entropy", optimizer=fastbp.SGD(0.01), random_state=0)
        losses = Losses()
        with contextlib.suppress(ValueError):  # weights that are not finite any more
            trainer.fit(X, y, epochs=epochs, callbacks=[losses])
        end = f"{losses.seen[-1]:.4f}" if np.isfinite(net.parameters).all() else "diverged"
        factor = norms.delta_ratio[0] ** (1 / (depth - 1))
        print(f"{kind:20s}  {norms.delta_ratio[0]:42.1e}  {factor:17.2f}  {end:>16s}")
        axes[0].semilogy(layers, norms.delta_ratio, style, color=colour, markersize=5, label=kind)
        if end != "diverged":
            axes[1].semilogy(np.arange(1, epochs + 1), losses.seen, style[1:], color=colour)
    axes[0].plot(layers, 0.25 ** (depth - layers), color="0.6", linewidth=6, alpha=0.5, zorder=0, label="0.25 a layer")
    axes[0].set(xlabel="layer (the error goes from right to left)", ylabel=r"RMS $\|\delta\|$ / the output layer's")
    axes[0].set(title="Errors before training", xticks=layers)
    axes[1].set(xlabel="epoch", ylabel="cross-entropy (nats)", title="Training loss, SGD with learning rate 0.01")
    figure.legend(loc="outside lower center", ncols=4)
    save(figure, "vanishing_gradients", folder)
    return figure


if __name__ == "__main__":
    main()
