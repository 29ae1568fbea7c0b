"""Nothing is allocated inside a training step: as many allocations for 10 steps as for 10,000."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastbp

COUNTER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

static long calls;
long allocation_calls(void) { return calls; }

#define COUNTED(result, name, declared, passed) \
    result name declared { \
        static result (*next) declared; \
        if (!next) next = (result (*) declared)dlsym(RTLD_NEXT, #name); \
        __atomic_add_fetch(&calls, 1, __ATOMIC_RELAXED); \
        return next passed; \
    }
COUNTED(void *, malloc, (size_t n), (n))
COUNTED(void *, realloc, (void *p, size_t n), (p, n))
COUNTED(void *, aligned_alloc, (size_t a, size_t n), (a, n))
COUNTED(int, posix_memalign, (void **p, size_t a, size_t n), (p, a, n))
"""

PROGRAM = """
import ctypes, sys
import numpy as np
import fastbp
from fastbp import kernels

backend, dtype, sparse = sys.argv[1], sys.argv[2], sys.argv[3] == "csr"
calls = ctypes.CDLL(None).allocation_calls
calls.restype = ctypes.c_long
rng = np.random.default_rng(0)
X, y = rng.normal(size=(10_000, 9)), rng.integers(0, 4, 10_000)
if sparse:
    import scipy.sparse
    X = scipy.sparse.csr_matrix(X)
net = fastbp.Network((9, 21, 4), dtype=dtype, random_state=0, backend=backend)
trainer = fastbp.Trainer(net, optimizer=sys.argv[4], batch_size=1, backend=backend)
run = trainer._run(trainer._data(X, y, np.ones(10_000)), {})
table = kernels.step_table(10_000, rate=1e-3, beta_1=0.9, beta_2=0.99, epsilon=1e-8, l2=1e-3)
order, losses, module = np.arange(10_000), np.zeros(3), kernels.backend(backend).module
found = []
for n in (10_000, 10, 10_000, 10, 10_000):
    samples, steps = order[:n], table[:n]
    before = calls()
    module.train_steps(run.plan.rows, steps, samples, 1, run.buffers, losses, 1)
    found.append(calls() - before)
print(*found[1:])
assert found[1] == found[2] == found[3] == found[4], found
assert calls() > 1000, "the counter is not in place"
"""


@pytest.fixture(scope="module")
def counter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that counts calls of malloc and its kin in the process that preloads it."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("counting allocations needs Linux and a C compiler")
    folder = tmp_path_factory.mktemp("counter")
    (folder / "counter.c").write_text(COUNTER)
    library = folder / "counter.so"
    command = [compiler, "-shared", "-fPIC", "-O1", str(folder / "counter.c"), "-o", str(library), "-ldl"]
    subprocess.run(command, check=True)
    return library


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("data", ["dense", "csr"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_step_allocates_nothing(
    compiled: str, dtype: str, data: str, optimizer: str, counter: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", PROGRAM, compiled, dtype, data, optimizer]
    here = str(Path(fastbp.__file__).parents[1])  # what these tests import, installed or a checkout
    environment = {**os.environ, "LD_PRELOAD": str(counter), "PYTHONPATH": here}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
