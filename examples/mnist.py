"""MNIST's handwritten digits, 28 x 28 pixels (S18; Book 4.8.1): test accuracy by backend and seed.

    python examples/mnist.py --data FOLDER [--backends cython numba] [--seeds 0 1 2 3 4] [--epochs 5]

FOLDER holds the four MNIST files, plain or gzipped; left out, it is what the environment variable FASTBP_MNIST says.
Pixels are grey from 0 to 1, and the largest of ten softmax outputs of a 784-128-10 net is the answer. The picture shows
the last net: which digits it takes for which, and the first layer's weights of the 24 largest hidden units.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from typing import Any

from drawing import PICTURES, SKIPPED, new_figure, save
from matplotlib.figure import Figure

import fastbp
from fastbp import plots
from fastbp.datasets import load_mnist

HOW_TO_GET_IT = """skipped: this example needs MNIST, {problem}
Get train-images-idx3-ubyte.gz, train-labels-idx1-ubyte.gz, t10k-images-idx3-ubyte.gz and t10k-labels-idx1-ubyte.gz,
from https://storage.googleapis.com/cvdf-datasets/mnist/ for instance, into one folder, and say where it is:
python examples/mnist.py --data FOLDER, or FASTBP_MNIST=FOLDER make examples"""


def train(data: tuple[Any, ...], backend: str, seed: int, epochs: int) -> tuple[fastbp.Network, float]:
    """Return the network and the seconds of training."""
    net = fastbp.Network((784, 128, 10), dtype="float32", random_state=seed, backend=backend)
    trainer = fastbp.Trainer(
        net, loss="cross_entropy", learning_rate=1e-3, batch_size=32, backend=backend, random_state=seed
    )
    start = time.perf_counter()
    trainer.fit(*data[:2], epochs=epochs)
    return net, time.perf_counter() - start


def main(data: tuple[Any, ...], backends: list[str], seeds: list[int], epochs: int, folder: Any = PICTURES) -> Figure:
    X_test, y_test = data[2:]
    for backend in backends:
        accuracies = []
        for seed in seeds:
            net, seconds = train(data, backend, seed, epochs)
            predicted = net.predict(X_test)
            accuracies.append(float((predicted == y_test).mean()))
            print(f"{backend:8s} seed {seed}: {accuracies[-1]:.2%} after {epochs} epochs in {seconds:.2f} s")
        print(f"{backend:8s} mean test accuracy {statistics.mean(accuracies):.2%}")

    title = f"MNIST, 784-128-10 after {epochs} epochs: test accuracy {accuracies[-1]:.2%}"
    figure, axes = new_figure(title, 1, 2, height=3.7)
    plots.confusion_matrix(y_test, predicted, ax=axes[0]).set_title(f"{len(y_test):} test samples")
    plots.first_layer_weights(net, (28, 28), 24, ax=axes[1])
    save(figure, "mnist", folder)
    return figure


if __name__ == "__main__":
    available = [name for name, state in fastbp.backends().items() if state == "available" and name != "numpy"]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=os.environ.get("FASTBP_MNIST"), help="folder with the four MNIST files")
    parser.add_argument("--backends", nargs="+", default=available)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    if options.data is None:
        print(HOW_TO_GET_IT.format(problem="and no folder was named."))
        sys.exit(SKIPPED)
    main(load_mnist(options.data), options.backends, options.seeds, options.epochs)
