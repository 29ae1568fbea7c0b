"""What activations, batch normalisation and dropout cost: an epoch of training against the same with ReLU alone.

    python bench/layers.py [--rounds 9] [--dtype float32] [--threads 1] [--backends cython numba]

The two are timed by turns; a cost is the median of the paired ratios of their times. Maxout has as many weights as
ReLU, in fewer units of two pieces each.
Before it is timed, each network's steps are compared with those of the backend numpy.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from timing import by_turns

import fastbp

SHAPES = {"skdef": ((784, 100, 10), 200, 6000), "deep": ((784, 512, 512, 512, 10), 128, 1024)}
"""Layers, mini-batch and samples: scikit-learn's defaults on MNIST, and a deep network."""

KINDS: dict[str, dict[str, Any]] = {
    **{name: {"hidden_activation": name} for name in ("relu", "leaky_relu", "elu", "selu", "tanh", "logistic")},
    **{name: {"hidden_activation": name} for name in ("softplus", "gelu", "silu", "maxout")},
    "ReLU'(0) = 1": {"hidden_activation": fastbp.ReLU(grad_at_zero=1)},
    "batch_norm": {"batch_norm": True},
    "dropout 0.5": {"dropout": 0.5},
    "dropout, inputs too": {"dropout": fastbp.Dropout(0.5, inputs=0.8)},
    "batch_norm, dropout": {"batch_norm": True, "dropout": 0.5},
}


def n_weights(sizes: tuple[int, ...], pieces: int = 1) -> int:
    """Return how many weights a network has whose hidden units have so many pieces."""
    *hidden, last = itertools.pairwise(sizes)
    return sum(i * o * pieces for i, o in hidden) + last[0] * last[1]


def with_as_many_weights(sizes: tuple[int, ...], pieces: int) -> tuple[int, ...]:
    """Return the sizes with equally wide hidden layers that come closest to the same number of weights."""

    def narrowed(width: int) -> tuple[int, ...]:
        return (sizes[0], *[width] * (len(sizes) - 2), sizes[-1])

    widths = range(1, max(sizes[1:-1]) + 1)
    return narrowed(min(widths, key=lambda width: abs(n_weights(narrowed(width), pieces) - n_weights(sizes))))


def make(
    shape: str, kind: str, backend: str, options: argparse.Namespace, n: int | None = None
) -> tuple[fastbp.Trainer, Callable[[], object]]:
    """Return a trainer and its epoch, on n samples or on the workload's."""
    sizes, batch_size, n_samples = SHAPES[shape]
    if kind == "maxout":
        sizes = with_as_many_weights(sizes, 2)
    rng = np.random.default_rng(0)
    X, y = (
        rng.random((n_samples, sizes[0])).astype(options.dtype)[:n],
        rng.integers(0, sizes[-1], n_samples)[:n],
    )
    common = {"backend": backend, "n_threads": options.threads}
    net = fastbp.Network(sizes, dtype=options.dtype, random_state=0, **KINDS[kind], **common)
    rule = {"optimizer": "adam", "learning_rate": 1e-5, "batch_size": batch_size}
    trainer = fastbp.Trainer(net, **rule, random_state=0, **common)
    return trainer, lambda: trainer.fit(X, y)


def check(shape: str, kind: str, backend: str, options: argparse.Namespace) -> None:
    """Compare three steps, the last on a part of a mini-batch, with those of the reference.

    What is compared is the average gradient, array by array, and what batch normalisation counted: Adam's steps forget
    how large a gradient was.
    """
    found: list[list[np.ndarray]] = []
    for name in (backend, "numpy"):
        trainer, epoch = make(shape, kind, name, options, n=5 * SHAPES[shape][1] // 2)
        epoch()
        network = trainer.network
        found.append([*network.layout.parameters(trainer.m), *network.layout.running(network.buffer)])
    tolerance = 1e-3 if options.dtype == "float32" else 1e-9
    for ours, wanted in zip(*found, strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backends", nargs="+", default=["cython", "numba"])
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    options = parser.parse_args()
    table = Table("workload", "backend", "layers", "cost", "smallest", "largest")
    for shape, backend in itertools.product(SHAPES, options.backends):
        check(shape, "relu", backend, options)
        _, plain = make(shape, "relu", backend, options)
        for kind in options.kinds:
            check(shape, kind, backend, options)
            _, other = make(shape, kind, backend, options)
            plain(), other()  # the first fit compiles, and learns its pace
            times = by_turns(plain, other, options.rounds)
            costs = [theirs / ours for ours, theirs in times]
            table.add_row(shape, backend, kind, *(f"{f(costs):.2f}" for f in (statistics.median, min, max)))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
