"""Random networks: training with fastbp against the bare matrix products of its steps in torch (MKL), nothing else.

    python bench/sweep.py [--seed 0] [--count 20] [--rounds 9] [--backend auto] [--dtype float32] [--threads 1]
        [--optimizer adam] [--most 2e10]

Depth, widths and batch size are log-uniform. Each class of work, below 1, 1 to 100 and above 100 MFLOP a step, gets
``--count`` networks. The two are timed by turns; a rate is the median of the paired ratios.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from fastbp.kernels import usable_processors
from rich.console import Console
from rich.table import Table
from timing import by_turns

import fastbp

CLASSES = {"below 1 MFLOP": (0, 1e6), "1 to 100 MFLOP": (1e6, 1e8), "above 100 MFLOP": (1e8, math.inf)}


@dataclass(frozen=True)
class Case:
    """One network and its batch size."""

    sizes: tuple[int, ...]
    batch_size: int

    @property
    def flops(self) -> int:
        """Of a step: three products a layer, two for the first one."""
        products = [n_in * n_out for n_in, n_out in itertools.pairwise(self.sizes)]
        return 2 * self.batch_size * (3 * sum(products) - products[0])

    @property
    def n_steps(self) -> int:
        """Steps of an epoch that is long enough to time."""
        return max(3, min(200, int(2e9 / self.flops)))


def log_uniform(rng: np.random.Generator, low: int, high: int) -> int:
    return round(math.exp(rng.uniform(math.log(low), math.log(high))))


def draw(rng: np.random.Generator, low: float, high: float, most: float) -> Case:
    """Draw networks until one has a step of ``low`` to ``high`` floating-point operations, and at most ``most``."""
    while True:
        n_layers, batch_size = log_uniform(rng, 1, 8), log_uniform(rng, 1, 2048)
        case = Case(tuple(log_uniform(rng, 3, 3000) for _ in range(n_layers + 1)), batch_size)
        if low <= case.flops < high and case.flops <= most:
            return case


def training(case: Case, optimizer: str, backend: str, dtype: str, n_threads: int) -> Callable[[], object]:
    """Return an epoch of training."""
    rng, n = np.random.default_rng(0), case.batch_size * case.n_steps
    X = rng.standard_normal((n, case.sizes[0])).astype(dtype)
    y = rng.integers(0, case.sizes[-1], n)
    net = fastbp.Network(case.sizes, dtype=dtype, random_state=0, backend=backend)
    options = {"batch_size": case.batch_size, "backend": backend, "n_threads": n_threads}
    trainer = fastbp.Trainer(net, optimizer=optimizer, learning_rate=1e-4, random_state=0, **options)
    return lambda: trainer.fit(X, y)


def products(case: Case, dtype: str) -> Callable[[], object]:
    """Return the matrix products of the same epoch, and nothing else."""
    kind, sizes, batch = getattr(torch, dtype), case.sizes, case.batch_size
    a, delta = ([torch.randn(batch, size, dtype=kind) for size in sizes] for _ in range(2))
    W = [torch.randn(n_in, n_out, dtype=kind) for n_in, n_out in itertools.pairwise(sizes)]
    gradient = [torch.empty_like(w) for w in W]

    def epoch() -> None:
        for _ in range(case.n_steps):
            for i, w in enumerate(W):
                torch.mm(a[i], w, out=a[i + 1])
            for i in reversed(range(len(W))):
                torch.mm(a[i].T, delta[i + 1], out=gradient[i])
                if i:
                    torch.mm(delta[i + 1], W[i].T, out=delta[i])

    return epoch


def ratio(case: Case, options: argparse.Namespace) -> float:
    """Return how many times as fast as the bare products an epoch is."""
    ours = training(case, options.optimizer, options.backend, options.dtype, options.threads)
    bare = products(case, options.dtype)
    ours(), bare()
    return statistics.median(theirs / mine for theirs, mine in by_turns(bare, ours, options.rounds))


def at_least(least: int) -> Callable[[str], int]:
    """Return what turns an argument into a whole number, and refuses smaller ones."""

    def whole(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is too small; pass a whole number of at least {least}")
        return int(text)

    return whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=at_least(0), default=0)
    parser.add_argument("--count", type=at_least(1), default=20, help="networks in each class (default: 20)")
    parser.add_argument("--rounds", type=at_least(1), default=9)
    parser.add_argument("--backend", default="auto", choices=("auto", *fastbp.backends()))
    parser.add_argument("--dtype", default="float32", choices=("float32", "float64"))
    parser.add_argument("--threads", type=at_least(1), default=1)
    parser.add_argument("--optimizer", default="adam", choices=("sgd", "adam"))
    parser.add_argument("--most", type=float, default=2e10, help="largest step, in FLOP (default: 2e10)")
    options = parser.parse_args()
    least = max(low for low, _ in CLASSES.values())
    if options.most <= least:
        parser.error(f"argument --most: {options.most:g} leaves a class of work empty; pass more than {least:g}")
    if options.threads > usable_processors():
        parser.error(f"argument --threads: there are {usable_processors()} processors")
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.threads :])
    torch.set_num_threads(options.threads)
    rng, console = np.random.default_rng(options.seed), Console()
    summary = Table("work a step", "networks", "worst", "median", "best")
    for name, (low, high) in CLASSES.items():
        ratios = []
        for _ in range(options.count):
            case = draw(rng, low, high, options.most)
            ratios.append(ratio(case, options))
            sizes = "-".join(map(str, case.sizes))
            console.print(f"{ratios[-1]:6.2f}  {case.flops / 1e6:10.3f} MFLOP  batch {case.batch_size:<5d} {sizes}")
        values = min(ratios), statistics.median(ratios), max(ratios)
        summary.add_row(name, str(options.count), *(f"{value:.2f}" for value in values))
    console.print(summary)


if __name__ == "__main__":
    main()
