"""Batch normalisation and dropout on small data (S14, S15; Book 4.6.2-4.7): what they do to a net that learns by heart.

200 digits are few for a 64-128-128-10 net: its loss on them falls towards 0, its loss on others does not. Batch
normalisation brings each unit's z to mean 0 and variance 1 in each mini-batch. Dropout keeps each hidden unit with
probability 0.5 and each pixel with 0.8 (the Book's p; other libraries' rates are 1 - p); prediction takes all units.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from drawing import BLUE, GREEN, ORANGE, PICTURES, new_figure, save
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastbp

KINDS = {
    "none": ({}, "black", "-"),
    "batch norm": ({"batch_norm": True}, BLUE, "--"),
    "dropout": ({"dropout": fastbp.Dropout(0.5, inputs=0.8)}, ORANGE, "-."),
    "both": ({"batch_norm": True, "dropout": fastbp.Dropout(0.5, inputs=0.8)}, GREEN, ":"),
}
"""Arguments of the network, and how it is drawn."""


def main(folder: str | Path = PICTURES, epochs: int = 150, seeds: int = 5) -> Figure:
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, train_size=200, stratify=y, random_state=0)
    x = np.arange(1, epochs + 1)
    title = f"Batch normalisation and dropout: {len(y)} digits, means of {seeds} seeds"
    figure, axes = new_figure(title, 1, 2, height=4.2)
    print(f"after {epochs} epochs, mean of {seeds} seeds (standard deviation of the accuracy)")
    print("            loss on training set  on test set  test accuracy")
    for kind, (settings, colour, style) in KINDS.items():
        curves, ends = [], []
        for seed in range(seeds):
            net = fastbp.Network((64, 128, 128, 10), initializer="he_normal", random_state=seed, **settings)
            trainer = fastbp.Trainer(net, loss="cross_entropy", learning_rate=1e-3, batch_size=20, random_state=seed)
            curves.append(trainer.fit(X, y, epochs=epochs, validation_data=(X_test, y_test)).validation_loss)
            ends.append((trainer.evaluate(X, y), curves[-1][-1], (net.predict(X_test) == y_test).mean()))
        trained, tested, accuracy = np.mean(ends, axis=0)
        print(f"{kind:10s} {trained:21.4f} {tested:12.4f} {accuracy:14.1%} ({np.std(ends, axis=0)[2]:.1%})")
        axes[0].semilogy(x, np.mean(curves, axis=0), style, color=colour, label=kind)
        axes[1].plot([kind] * seeds, [100 * end[2] for end in ends], "o", color=colour, alpha=0.5)
        axes[1].plot(kind, 100 * accuracy, "_", color=colour, markersize=28, markeredgewidth=2.5)
    axes[0].set(xlabel="epoch", ylabel="cross-entropy (nats)", title="Loss on the test set")
    axes[0].legend()
    axes[1].set_xlim(-0.5, 3.5)
    axes[1].set(xlabel="what is added to the net", ylabel="test accuracy (%)", title="Each seed, and the mean")
    save(figure, "batch_norm_dropout", folder)
    return figure


if __name__ == "__main__":
    main()
