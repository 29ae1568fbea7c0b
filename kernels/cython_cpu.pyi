"""Types of the backend ``cython``; formulas, shapes and dtypes stand in `reference`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .contract import Buffers

Array = NDArray[Any]
Integers = NDArray[np.int64]

def scratch_size(n_in: int, n_out: int, n_rows: int) -> int: ...
def rows_scratch_size(layers: Integers) -> int: ...
def run_scratch_size(plan: NDArray[np.void], n_rows: int, n_threads: int, n_entries: int) -> int: ...

PACKS: bool
TAKES_CUSTOM: bool
PREDICTED_ROWS: int
PREDICTED_FLOPS: float

def pack(plan: NDArray[np.void], buffers: Buffers, moments: bool = True, samples: bool = True) -> None: ...
def unpack(plan: NDArray[np.void], buffers: Buffers, params: bool = True, moments: bool = True) -> None: ...
def shuffle(u: NDArray[np.float64], order: Integers, n_threads: int = 1) -> None: ...
def gather_rows(X: Array, order: Integers, out: Array, n_threads: int = 1) -> None: ...
def gather_csr_rows(
    data: Array, indices: NDArray[np.int32], indptr: Integers, order: Integers, out: Array, n_threads: int = 1
) -> None: ...
def gather_classes(classes: Integers, order: Integers, out: Array, n_threads: int = 1) -> None: ...
def linear_forward(
    a_prev: Array,
    W: Array,
    b: Array,
    activation: NDArray[np.void],
    a: Array,
    scratch: Array,
    n_threads: int = 1,
) -> None: ...
def activate(z: Array, activation: NDArray[np.void], a: Array, saved: Array, n_threads: int = 1) -> None: ...
def output_delta(
    a: Array,
    y: Array,
    sample_weight: Array,
    activation: NDArray[np.void],
    loss: NDArray[np.void],
    delta: Array,
    n_threads: int = 1,
) -> float: ...
def activation_delta(a: Array, activation: NDArray[np.void], delta: Array, n_threads: int = 1) -> None: ...
def backprop_delta(
    delta: Array,
    W: Array,
    a_prev: Array,
    activation: NDArray[np.void],
    delta_prev: Array,
    scratch: Array,
    n_threads: int = 1,
) -> None: ...
def linear_grad(
    a_prev: Array,
    delta: Array,
    step: NDArray[np.void],
    W: Array,
    grad_W: Array,
    grad_b: Array,
    scratch: Array,
    n_threads: int = 1,
) -> float: ...
def sgd_step(grad: Array, step: NDArray[np.void], param: Array, n_threads: int = 1) -> None: ...
def momentum_step(grad: Array, step: NDArray[np.void], param: Array, velocity: Array, n_threads: int = 1) -> None: ...
def nesterov_step(grad: Array, step: NDArray[np.void], param: Array, velocity: Array, n_threads: int = 1) -> None: ...
def adam_step(grad: Array, step: NDArray[np.void], param: Array, m: Array, v: Array, n_threads: int = 1) -> None: ...
def nadam_step(grad: Array, step: NDArray[np.void], param: Array, m: Array, v: Array, n_threads: int = 1) -> None: ...
def rmsprop_step(grad: Array, step: NDArray[np.void], param: Array, v: Array, n_threads: int = 1) -> None: ...
def adagrad_step(grad: Array, step: NDArray[np.void], param: Array, v: Array, n_threads: int = 1) -> None: ...
def linear_update(
    a_prev: Array,
    delta: Array,
    optimizer: int,
    step: NDArray[np.void],
    W: Array,
    b: Array,
    m_W: Array,
    m_b: Array,
    v_W: Array,
    v_b: Array,
    scratch: Array,
    n_threads: int = 1,
) -> float: ...
def clip_norm(grad: Array, step: NDArray[np.void], n_threads: int = 1) -> float: ...
def average_step(param: Array, step: NDArray[np.void], average: Array, n_threads: int = 1) -> None: ...
def train_steps(
    plan: NDArray[np.void],
    steps: NDArray[np.void],
    order: Integers,
    batch_size: int,
    buffers: Buffers,
    losses: NDArray[np.float64],
    n_threads: int = 1,
) -> None: ...
def predict(
    plan: NDArray[np.void], order: Integers, batch_size: int, buffers: Buffers, out: Array, n_threads: int = 1
) -> None: ...
def predict_rows(layers: Integers, X: Array, params: Array, scratch: Array, out: Array, n_threads: int = 1) -> None: ...
def isas() -> tuple[str, ...]:
    """Return the names of the instruction sets that were compiled and that this processor runs, the best first."""

def isa() -> str:
    """Return the name of the instruction set in use; the environment variable ``FASTBP_ISA`` overrides the best one."""
