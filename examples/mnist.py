"""Train 784-128-10 on MNIST and print the test accuracy for each backend and seed.

    python examples/mnist.py --data FOLDER [--backends cython numba] [--seeds 0 1 2 3 4] [--epochs 5]

FOLDER holds the four MNIST files, plain or gzipped.
"""

from __future__ import annotations

import argparse
import statistics
import time

import fastbp
from fastbp.datasets import load_mnist


def train(data: tuple, backend: str, seed: int, epochs: int) -> tuple[float, float]:
    """Return test accuracy and seconds of training."""
    X_train, y_train, X_test, y_test = data
    net = fastbp.Network((784, 128, 10), dtype="float32", random_state=seed, backend=backend)
    trainer = fastbp.Trainer(
        net,
        loss="cross_entropy",
        optimizer="adam",
        learning_rate=1e-3,
        batch_size=32,
        backend=backend,
        random_state=seed,
    )
    start = time.perf_counter()
    trainer.fit(X_train, y_train, epochs=epochs)
    seconds = time.perf_counter() - start
    return float((net.predict(X_test) == y_test).mean()), seconds


def main() -> None:
    available = [name for name, state in fastbp.backends().items() if state == "available" and name != "numpy"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with the four MNIST files")
    parser.add_argument("--backends", nargs="+", default=available)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    data = load_mnist(options.data)
    for backend in options.backends:
        accuracies = []
        for seed in options.seeds:
            accuracy, seconds = train(data, backend, seed, options.epochs)
            accuracies.append(accuracy)
            print(f"{backend:8s} seed {seed}: {accuracy:.2%} after {options.epochs} epochs in {seconds:.2f} s")
        print(f"{backend:8s} mean test accuracy {statistics.mean(accuracies):.2%}")


if __name__ == "__main__":
    main()
