"""The delta rule on a drifting stream (S8; Porr (2)-(11)): a linear neuron's weights follow what they are to learn.

Samples come one by one; each is used once and forgotten: w <- w - mu e x with the error e = y - d (Porr's text has e's
sign flipped in (9)-(11)). What is wanted, d = w*(n) x + noise, changes all the time: w* turns, and jumps once. A small
learning rate mu lags behind, a large one follows the noise as well, so that one between them errs least.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from drawing import BLUE, GREEN, ORANGE, PICTURES, new_figure, save
from matplotlib.figure import Figure
from numpy.typing import NDArray

import fastbp

NOISE = 0.5
"""Standard deviation of what no weights can predict."""


def stream(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return inputs X (n, 2), what is wanted d (n,), and the true weights (n, 2) at each sample."""
    generator = np.random.default_rng(0)
    angle = 2 * np.pi * np.arange(n) / n + np.where(np.arange(n) < n // 2, 0.0, np.pi / 2)
    true = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    X = generator.normal(size=(n, 2))
    return X, (X * true).sum(axis=1) + generator.normal(0, NOISE, n), true


def follow(X: NDArray[np.float64], d: NDArray[np.float64], mu: float, every: int) -> NDArray[np.float64]:
    """Learn from each sample in turn; return the weights after every ``every`` samples."""
    net = fastbp.Network((2, 1), output="identity", bias=False, dtype="float64", initializer="zeros")
    trainer = fastbp.Trainer(net, loss="squared_error", optimizer="sgd", learning_rate=mu)
    weights = []
    for sample, (x, wanted) in enumerate(zip(X, d, strict=True), start=1):
        trainer.step(x, wanted)
        if sample % every == 0:
            weights.append(net.weights[0][:, 0].copy())
    return np.array(weights)


def main(folder: str | Path = PICTURES, n: int = 4000, n_rates: int = 12) -> Figure:
    every = 10
    X, d, true = stream(n)
    seen = np.arange(every, n + 1, every)
    rates = np.geomspace(0.002, 0.4, n_rates)
    paths = [follow(X, d, mu, every) for mu in rates]
    settled = seen > n // 10  # the way from zero does not count
    errors = [float(((path - true[seen - 1]) ** 2).sum(axis=1)[settled].mean() ** 0.5) for path in paths]
    best = int(np.argmin(errors))
    print("    mu  distance of w from w*, root mean square")
    for mu, error in zip(rates, errors, strict=True):
        print(f"{mu:6.3f}  {error:.3f}{'  least' if error == errors[best] else ''}")

    figure, axes = new_figure("The delta rule on a drifting stream", 1, 2, height=4.2, width_ratios=(1.7, 1))
    axes[0].plot(np.arange(1, n + 1), true[:, 0], color="black", linewidth=2.5, label="true $w^*_1$")
    for index, colour in ((-1, ORANGE), (0, GREEN), (best, BLUE)):
        axes[0].plot(seen, paths[index][:, 0], color=colour, linewidth=1, label=rf"$\mu$ = {rates[index]:.3f}")
    axes[0].set(xlabel="samples seen", ylabel="first weight (no unit)", title="First weight of two: true and learnt")
    axes[0].legend(ncols=2, loc="upper center")
    axes[0].set_ylim(-2.5, 3.5)
    axes[1].loglog(rates, errors, "o-", color="black", markersize=4)
    for index, colour in ((-1, ORANGE), (0, GREEN), (best, BLUE)):
        axes[1].plot(rates[index], errors[index], "o", color=colour, markersize=9)
    axes[1].set(xlabel=r"learning rate $\mu$", ylabel="RMS distance of $w$ from $w^*$", title="Too slow, or too noisy")
    axes[1].set_yticks([0.1, 0.2, 0.4, 0.8], ["0.1", "0.2", "0.4", "0.8"])
    axes[1].set_xticks([0.003, 0.03, 0.3], ["0.003", "0.03", "0.3"])
    axes[1].minorticks_off()
    axes[1].grid(True, alpha=0.25)
    save(figure, "drifting_stream", folder)
    return figure


if __name__ == "__main__":
    main()
