"""CSR samples against the same samples dense: training and prediction, after a check that not a bit differs.

    python bench/sparse.py [--rounds 9] [--backend auto] [--dtype float32] [--threads 1]

The two are timed by turns; a ratio is the median of the paired ratios, above 1 where CSR is faster.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse
from rich.console import Console
from rich.table import Table
from timing import by_turns

import fastbp


@dataclass(frozen=True)
class Case:
    """A network with one hidden layer, and data of a density."""

    n_inputs: int
    n_hidden: int
    batch_size: int
    optimizer: str
    density: float


CASES = [
    Case(n_inputs, n_hidden, batch_size, optimizer, density)
    for n_inputs, n_hidden, density in [(784, 128, 0.5), (784, 128, 0.19), (784, 128, 0.05), (20_000, 100, 0.005)]
    for batch_size, optimizer in [(1, "sgd"), (32, "sgd"), (200, "adam")]
]
"""Densities of pixels (0.19 is that of MNIST) and of words in texts."""


def learners(case: Case, data: Any, y: np.ndarray, options: argparse.Namespace) -> list[Callable[[], np.ndarray]]:
    """Return an epoch of training and a prediction: both return what they computed."""
    common = {"backend": options.backend, "n_threads": options.threads}
    net = fastbp.Network((case.n_inputs, case.n_hidden, 10), dtype=options.dtype, random_state=0, **common)
    rule = {"optimizer": case.optimizer, "learning_rate": 1e-4, "batch_size": case.batch_size}
    trainer = fastbp.Trainer(net, **rule, random_state=0, **common)

    def train() -> np.ndarray:
        trainer.fit(data, y)
        return net.parameters

    return [train, lambda: net.forward(data)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    table = Table("inputs", "hidden", "density", "batch", "optimiser", "CSR, samples/s", "training", "prediction")
    rng = np.random.default_rng(0)
    for case in CASES:
        n = max(2000, 2 * case.batch_size)
        X = scipy.sparse.random_array((n, case.n_inputs), density=case.density, format="csr", rng=rng)
        X, y = X.astype(options.dtype), rng.integers(0, 10, n)
        sparse, dense = (learners(case, data, y, options) for data in (X, X.toarray()))
        for ours, theirs in zip(sparse, dense, strict=True):
            np.testing.assert_array_equal(ours(), theirs())
        rates, ratios = [], []
        for ours, theirs in zip(sparse, dense, strict=True):
            pairs = by_turns(ours, theirs, options.rounds)
            rates.append(n / statistics.median(pair[0] for pair in pairs))
            ratios.append(statistics.median(theirs / ours for ours, theirs in pairs))
        shape = str(case.n_inputs), str(case.n_hidden), str(case.density), str(case.batch_size), case.optimizer
        table.add_row(*shape, f"{rates[0]:,.0f}", *(f"{ratio:.2f}x" for ratio in ratios))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
