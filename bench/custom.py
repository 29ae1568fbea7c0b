"""Custom activations and losses against built-in ones in the backend numba, after a check that they learn the same.

    python bench/custom.py [--rounds 9] [--dtype float32] [--threads 1]

The two are timed by turns; a ratio is the median of the paired ratios, above 1 where the custom one is faster.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from timing import by_turns

import fastbp

SHAPES = [
    ((64, 32, 10), 1),
    ((64, 100, 10), 32),
    ((64, 100, 10), 200),
    ((784, 128, 10), 32),
    ((128, 256, 256, 256, 10), 64),
]
"""Layers and mini-batch: single samples, small, in scikit-learn's batches, MNIST, and deep."""


def silu(z: float) -> float:
    return z / (1 + math.exp(-z))


def softplus(z: float) -> float:
    return math.log1p(math.exp(z))


def squared_error(a: float, y: float) -> float:
    return 0.5 * (a - y) ** 2


def poisson(a: float, y: float) -> float:
    return y * math.log(y / a) - y + a


def cases() -> dict[str, list[dict[str, Any]]]:
    """Return what `epochs` takes, built-in and custom, by name."""
    positive = {"domain": (0, math.inf), "targets": (1e-3, math.inf)}
    functions = {"silu": silu, "softplus": softplus, "tanh": lambda z: math.tanh(z)}
    losses = {
        "squared_error": ("identity", fastbp.CustomLoss(squared_error)),
        "poisson": ("softplus", fastbp.CustomLoss(poisson, **positive)),
    }
    pairs = {
        name: [{"hidden": name}, {"hidden": fastbp.CustomActivation(function)}] for name, function in functions.items()
    }
    for name, (output, custom) in losses.items():
        pairs[name] = [{"output": output, "loss": loss} for loss in (name, custom)]
    return pairs


def n_steps(batch_size: int) -> int:
    """Return how many mini-batches an epoch has: so many that they, and not their start, take its time."""
    return max(16, 2000 // batch_size)


def epochs(
    sizes: tuple[int, ...],
    batch_size: int,
    options: argparse.Namespace,
    hidden: Any = "relu",
    output: str = "softmax",
    loss: Any = "cross_entropy",
) -> Callable[[], np.ndarray]:
    """Return an epoch of training, which returns what it knows of the gradient: Adam's steps forget its size."""
    rng, n = np.random.default_rng(0), n_steps(batch_size) * batch_size
    X, y = rng.normal(size=(n, sizes[0])).astype(options.dtype), rng.integers(0, sizes[-1], n)
    if output != "softmax":
        y = rng.uniform(0.1, 1, (n, sizes[-1]))
    common = {"backend": "numba", "n_threads": options.threads}
    net = fastbp.Network(sizes, hidden, output, dtype=options.dtype, random_state=0, **common)
    rule = {"optimizer": "adam", "learning_rate": 1e-5, "batch_size": batch_size}
    trainer = fastbp.Trainer(net, loss=loss, **rule, random_state=0, **common)

    def train() -> np.ndarray:
        trainer.fit(X, y)
        return trainer.m

    return train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    tolerance = 1e-4 if options.dtype == "float32" else 1e-9
    table = Table("function", "layers", "batch", "built-in, steps/s", "custom", "smallest", "largest")
    for name, pair in cases().items():
        for sizes, batch_size in SHAPES:
            built_in, custom = (epochs(sizes, batch_size, options, **functions) for functions in pair)
            found, wanted = custom(), built_in()
            np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
            times = by_turns(built_in, custom, options.rounds)
            ratios = [theirs / ours for theirs, ours in times]
            rate = n_steps(batch_size) / statistics.median(theirs for theirs, _ in times)
            shown = [f"{value:.2f}x" for value in (statistics.median(ratios), min(ratios), max(ratios))]
            table.add_row(name, "-".join(map(str, sizes)), str(batch_size), f"{rate:,.0f}", *shown)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
