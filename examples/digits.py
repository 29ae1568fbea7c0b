"""Handwritten digits, 8 x 8 pixels (S18; Book 4.8.1): which are taken for which, and what the first layer looks at.

The data set comes with scikit-learn. Pixels are grey from 0 to 1, the net has three layers (64-32-10), and the largest
of ten softmax outputs is the answer.
"""

from __future__ import annotations

from pathlib import Path

from drawing import PICTURES, new_figure, save
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastbp
from fastbp import plots


def main(folder: str | Path = PICTURES, epochs: int = 60) -> Figure:
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, test_size=0.25, stratify=y, random_state=0)
    net = fastbp.Network((64, 32, 10), output="softmax", initializer="he_normal", random_state=0)
    trainer = fastbp.Trainer(net, loss="cross_entropy", optimizer="adam", learning_rate=3e-3, random_state=0)
    history = trainer.fit(X, y, epochs=epochs, alpha=1e-2)
    predicted = net.predict(X_test)
    accuracy = float((predicted == y_test).mean())
    print(f"{len(y)} digits to learn from, {len(y_test)} to test; {net.n_parameters} parameters")
    print(f"training loss after {epochs} epochs: {history.loss[-1]:.4f}")
    print(f"test accuracy: {accuracy:.2%}, {(predicted != y_test).sum()} mistakes")

    figure, axes = new_figure(f"Digits of 8 x 8 pixels, 64-32-10: test accuracy {accuracy:.1%}", 1, 2, height=3.7)
    plots.confusion_matrix(y_test, predicted, ax=axes[0]).set_title(f"{len(y_test)} test samples")
    plots.first_layer_weights(net, (8, 8), 24, ax=axes[1])
    save(figure, "digits", folder)
    return figure


if __name__ == "__main__":
    main()
