"""A custom activation in three lines (S25; the Book's learning outcomes): mish, which fastbp does not have.

A plain Python function of one number is all that a network needs: its derivative is found by automatic differentiation,
compared with difference quotients, and compiled with it into the training step. Here it learns handwritten digits,
beside ReLU and tanh.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from drawing import BLUE, GREEN, ORANGE, PICTURES, new_figure, save
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import fastbp


def mish(z: float) -> float:
    softplus = max(z, 0) + math.log1p(math.exp(-abs(z)))
    return z * math.tanh(softplus)


COLOURS = {"mish": BLUE, "relu": ORANGE, "tanh": GREEN}


def main(folder: str | Path = PICTURES, epochs: int = 40) -> Figure:
    X, y = load_digits(return_X_y=True)
    X, X_test, y, y_test = train_test_split(X / 16, y, test_size=0.25, stratify=y, random_state=0)
    custom = fastbp.CustomActivation(mish)
    z = np.linspace(-5, 3, 161)
    values, slopes = custom.compiled.evaluate(z)
    quotients = (custom.compiled.evaluate(z + 1e-5)[0] - custom.compiled.evaluate(z - 1e-5)[0]) / 2e-5
    print(f"largest distance of the derivative from difference quotients: {np.abs(slopes - quotients).max():.1e}")

    figure, (left, right) = new_figure("A custom activation: mish(z) = z tanh(softplus(z))", 1, 2, height=3.8)
    left.plot(z, values, color=BLUE, label="mish(z)")
    left.plot(z, slopes, color=BLUE, linestyle="--", label="its derivative, found automatically")
    left.plot(z[::10], quotients[::10], "o", color="0.2", markersize=4, label="difference quotients")
    left.set(title="The function and its derivative", xlabel="pre-activation z", ylabel="activation; derivative")
    left.legend()
    for name, activation in {"mish": custom, "relu": "relu", "tanh": "tanh"}.items():
        net = fastbp.Network((64, 32, 10), activation, "softmax", initializer="he_normal", random_state=0)
        trainer = fastbp.Trainer(net, optimizer="adam", learning_rate=3e-3, random_state=0)
        loss = trainer.fit(X, y, epochs=epochs).loss
        accuracy = float((net.predict(X_test) == y_test).mean())
        print(f"{name:5s} backend {trainer.backend:7s} training loss {loss[-1]:.5f}, test accuracy {accuracy:.2%}")
        right.semilogy(range(1, epochs + 1), loss, color=COLOURS[name], label=f"{name}, test accuracy {accuracy:.1%}")
    right.set(title=f"Digits, 64-32-10, {len(y)} samples", xlabel="epoch", ylabel="training loss (cross-entropy, nats)")
    right.legend()
    save(figure, "custom_activation", folder)
    return figure


if __name__ == "__main__":
    main()
