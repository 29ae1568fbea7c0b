"""What starting costs: import, first fit, compilation. Prints seconds; medians of several processes.

python bench/startup.py [--runs 5]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

import fastbp

IMPORTS = """
import time
start = time.perf_counter(); import sklearn.neural_network
middle = time.perf_counter(); import fastbp
from fastbp import MLPClassifier
print(time.perf_counter() - middle)
"""
FIRST_FIT = """
import time, warnings
warnings.simplefilter("ignore")
start = time.perf_counter()
from sklearn.datasets import load_digits
from fastbp import MLPClassifier
X, y = load_digits(return_X_y=True)
loaded = time.perf_counter()
MLPClassifier(backend="{backend}", max_iter=1, random_state=0).fit(X, y)
print(time.perf_counter() - loaded)
"""
COLD_NUMBA = """
import time
import numpy as np
import scipy.sparse
import fastbp
X, y = np.random.default_rng(0).normal(size=(64, 20)), np.arange(64) % 3
start = time.perf_counter()
for dtype in ("float32", "float64"):
    for data in (X, scipy.sparse.csr_matrix(X)):
        net = fastbp.Network((20, 16, 3), dtype=dtype, backend="numba")
        fastbp.Trainer(net, backend="numba").fit(data, y, validation_data=(data, y))
        net.predict(data)
print(time.perf_counter() - start)
"""
ARCHITECTURES = """
import time
import numpy as np
import fastbp
rng = np.random.default_rng(0)
X, y = rng.normal(size=(64, 20)), np.arange(64) % 3
def fit(sizes):
    start = time.perf_counter()
    net = fastbp.Network((20, *sizes, 3), "relu", dtype="float32", backend="numba")
    fastbp.Trainer(net, backend="numba", batch_size=int(rng.integers(1, 64))).fit(X, y)
    return time.perf_counter() - start
fit((5,))
print(max(fit(rng.integers(1, 300, rng.integers(1, 4)).tolist()) for _ in range(20)))
"""


def seconds(program: str, **environment: str) -> float:
    command = [sys.executable, "-P", "-c", program]
    environment = {**os.environ, **environment}
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(output.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    runs = range(parser.parse_args().runs)
    imports = statistics.median(seconds(IMPORTS) for _ in runs)
    print(f"import fastbp and its estimators, scikit-learn imported: {imports:.3f} s")
    for backend in ("auto", "numba"):
        program = FIRST_FIT.format(backend=backend)
        seconds(program)
        first = statistics.median(seconds(program) for _ in runs)
        print(f"first fit on digits, backend {backend} ({fastbp.kernels.resolve(backend)}), warm cache: {first:.3f} s")
    with tempfile.TemporaryDirectory() as cache:
        print(f"numba, cold cache, both dtypes, dense and CSR: {seconds(COLD_NUMBA, NUMBA_CACHE_DIR=cache):.1f} s")
    print(f"numba, slowest of 20 new architectures in a warm process: {seconds(ARCHITECTURES):.3f} s")


if __name__ == "__main__":
    main()
