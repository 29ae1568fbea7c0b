"""One version against another: training and prediction in two checkouts, by turns, each in processes of its own.

    git worktree add ../before COMMIT && (cd ../before && python setup.py build_ext --inplace)
    python bench/versions.py ../before . [--kinds fit predict estimator] [--rows online deep] [--processes 3]

The two must compute the same before they are timed. A ratio above 1 is a slower second version: in each pair of
processes the median of the paired ratios, and of these the median, the smallest and the largest. Where a process's
buffers come to lie alone makes small networks up to a fifth faster or slower: one pair tells nothing about them.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from timing import seconds

ROWS: dict[str, tuple[tuple[int, ...], int, str, int]] = {
    "online": ((64, 32, 10), 1, "sgd", 1797),
    "tiny": ((10, 64, 64, 2), 64, "adam", 8192),
    "mnist32": ((784, 128, 10), 32, "sgd", 4096),
    "skdef": ((784, 100, 10), 200, "adam", 6000),
    "tabular": ((54, 128, 64, 7), 256, "adam", 32768),
    "deep": ((784, 512, 512, 512, 10), 128, "adam", 2048),
    "wide": ((1024, 2048, 2048, 1000), 256, "adam", 512),
}
"""Layers, mini-batch, optimiser and samples."""

KINDS = ("fit", "predict", "estimator")


def make(kind: str, row: str, backend: str, dtype: str) -> Callable[[], np.ndarray]:
    """Return an epoch of training, or a prediction; both return what they computed."""
    import fastbp

    sizes, batch_size, optimizer, n = ROWS[row]
    rng = np.random.default_rng(0)
    X, y = rng.random((n, sizes[0])).astype(dtype), rng.integers(0, sizes[-1], n)
    common: dict[str, Any] = {"backend": backend, "n_threads": 1, "random_state": 0}
    if kind == "estimator":
        rule = {"solver": optimizer, "batch_size": batch_size, "max_iter": 1, "momentum": 0.0}
        model = fastbp.MLPClassifier(sizes[1:-1], **rule, **common)
        return lambda: model.fit(X, y).coefs_[0]
    net = fastbp.Network(sizes, dtype=dtype, **common)
    if kind == "predict":
        return lambda: net.forward(X)
    trainer = fastbp.Trainer(net, optimizer=optimizer, learning_rate=1e-3, batch_size=batch_size, **common)

    def train() -> np.ndarray:
        trainer.fit(X, y)
        return net.parameters

    return train


def serve(checkout: str) -> None:
    """Time what lines on the standard input ask for: the first time a case is named, return what it computed."""
    sys.path.insert(0, checkout)
    import fastbp

    if not Path(fastbp.__file__).is_relative_to(checkout):
        raise SystemExit(f"fastbp is imported from {fastbp.__file__}, not from {checkout}; pass a checkout's folder")
    warnings.simplefilter("ignore")  # one epoch does not converge
    works: dict[tuple[str, ...], Callable[[], np.ndarray]] = {}
    for line in sys.stdin:
        case = tuple(json.loads(line))
        if case in works:
            print(seconds(works[case]), flush=True)
        else:
            works[case] = make(*case)
            print(json.dumps(np.asarray(works[case](), np.float64).ravel()[::97].tolist()), flush=True)


class Version:
    """A process that times one checkout."""

    def __init__(self, checkout: str) -> None:
        command = [sys.executable, __file__, "--serve", os.path.abspath(checkout)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=checkout)

    def ask(self, case: tuple[str, ...]) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(case), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"{' '.join(self.process.args)} ended with {self.process.wait()}; see its error above")
        return json.loads(answer)


def ratio(versions: list[Version], case: tuple[str, ...], rounds: int) -> float:
    """Return the median of the paired ratios in one pair of processes, after a check that both compute the same."""
    before, after = (np.array(version.ask(case)) for version in versions)
    tolerance = 1e-3 if case[-1] == "float32" else 1e-9
    np.testing.assert_allclose(after, before, rtol=0, atol=tolerance * np.abs(before).max())
    for version in versions:  # the first fits learn their pace
        version.ask(case)
    times = [(versions[0].ask(case), versions[1].ask(case)) for _ in range(rounds)]
    return statistics.median(after / before for before, after in times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("before")
    parser.add_argument("after")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--backends", nargs="+", default=["cython", "numba"])
    parser.add_argument("--dtypes", nargs="+", default=["float32", "float64"])
    options = parser.parse_args()
    cases = list(itertools.product(options.kinds, options.rows, options.backends, options.dtypes))
    ratios: dict[tuple[str, ...], list[float]] = {case: [] for case in cases}
    for _ in range(options.processes):
        versions = [Version(checkout) for checkout in (options.before, options.after)]
        for case in cases:
            ratios[case].append(ratio(versions, case, options.rounds))
        for version in versions:
            version.process.communicate()
    table = Table("kind", "row", "backend", "dtype", "time after / before", "smallest", "largest")
    for case, found in ratios.items():
        table.add_row(*case, *(f"{f(found):.3f}" for f in (statistics.median, min, max)))
    Console(width=100).print(table)


if __name__ == "__main__":
    serve(sys.argv[2]) if sys.argv[1:2] == ["--serve"] else main()
