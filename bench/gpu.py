"""What the CUDA backend does on this GPU: operations beside the card's ceilings, training beside PyTorch and JAX.

    python bench/gpu.py [--out bench/results] [--rounds 5] [--only products operations training]

Operations are checked against NumPy in float64 before they are timed. Times are medians of rounds that take turns, by
the device's events where one kernel is timed, and by the clock around a synchronised epoch where training is.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX would take most of the memory

from fastbp.kernels.numba_cuda import tiles
from fastbp.kernels.numba_cuda.hand import Hand, row_of
from fastbp.kernels.numba_cuda.layers import LAUNCHES, Launch
from fastbp.kernels.numba_cuda.toolkit import Graph, n_processors
from numba import cuda
from rich.console import Console
from rich.table import Table

import fastbp
from fastbp import kernels
from fastbp.environment import describe

Op = kernels.Op
ROWS: dict[str, tuple[tuple[int, ...], int, str, int]] = {
    "online": ((64, 32, 10), 1, "sgd", 1797),
    "tiny": ((10, 64, 64, 2), 64, "adam", 8192),
    "mnist32": ((784, 128, 10), 32, "sgd", 4096),
    "skdef": ((784, 100, 10), 200, "adam", 6000),
    "tabular": ((54, 128, 64, 7), 256, "adam", 32768),
    "deep": ((784, 512, 512, 512, 10), 128, "adam", 2048),
    "wide": ((1024, 2048, 2048, 1000), 256, "adam", 2048),
}
"""Layers, mini-batch, optimiser and samples."""

PRODUCTS = ((32, 784, 128), (200, 784, 100), (256, 54, 128), (128, 512, 512), (256, 2048, 2048), (4096, 4096, 4096))
"""Batch, inputs, outputs."""

OTHER_SIZES = 4096, 1024
"""Samples and units of the other operations."""

COPIED = 2**28
"""Elements that are copied for the card's bandwidth."""

LAUNCHES_A_ROUND = 20
SECONDS_A_ROUND = 0.15
TRAINING_SECONDS = 150
"""After these no further row is begun."""


def event_seconds(work: Callable[[], object]) -> float:
    """Return how long work takes on the device that does something `LAUNCHES_A_ROUND` times in one launch."""
    begin, end = cuda.event(), cuda.event()
    begin.record()
    work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / LAUNCHES_A_ROUND


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """Return what times some work on the device."""
    return lambda: event_seconds(work)


def medians(works: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """Return the median seconds of each, measured by turns after a first time that does not count."""
    for measure in works.values():
        measure()
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, measure in works.items():
            found[name].append(measure())
    return {name: statistics.median(seconds) for name, seconds in found.items()}


# ------------------------------------------------------------------------------------------------------- ceilings


def ceilings(rounds: int) -> dict[str, Any]:
    """Return the copy bandwidth and, where a library with cuBLAS is here, its rate of products in float32."""
    source, target = cuda.device_array(COPIED, np.float32), cuda.device_array(COPIED, np.float32)

    def copies() -> None:
        for _ in range(LAUNCHES_A_ROUND):
            target.copy_to_device(source)

    copied = medians({"copy": timed(copies)}, rounds)["copy"]
    blas = blas_product()
    found: dict[str, Any] = {"copy_GB_per_s": 2 * source.nbytes / copied / 1e9, "cublas_TFLOP_per_s": None}
    if blas is not None:
        product = blas(4096, 4096, 4096)
        seconds = medians({"blas": timed(product)}, rounds)["blas"]
        found["cublas_TFLOP_per_s"] = 2 * 4096**3 / seconds / 1e12
    return found


def replayed(work: Callable[[], object]) -> Callable[[], object]:
    """Return what does some of PyTorch's work `LAUNCHES_A_ROUND` times, as one CUDA graph on the default stream."""
    import torch

    for _ in range(3):
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(LAUNCHES_A_ROUND):
            work()
    return graph.replay


def blas_product() -> Callable[[int, int, int], Callable[[], object]] | None:
    """Return what makes a product in cuBLAS, float32 without TF32, for some sizes; None where no library has it."""
    try:
        import torch
    except ImportError:
        return None
    torch.backends.cuda.matmul.allow_tf32 = False

    def make(n: int, n_in: int, n_out: int) -> Callable[[], object]:
        a, b = (torch.randn(shape, device="cuda") for shape in ((n, n_in), (n_in, n_out)))
        out = torch.empty((n, n_out), device="cuda")
        return replayed(lambda: torch.mm(a, b, out=out))

    return make


# ----------------------------------------------------------------------------------------------------- operations


def launched(launches: list[Launch]) -> Callable[[], object]:
    """Return what does some launches `LAUNCHES_A_ROUND` times, as one graph: Python would be slower than kernels."""
    many = launches * LAUNCHES_A_ROUND
    for one in launches:
        one(0)
    if Graph.is_available:
        return Graph(many).launch
    return lambda: [one(0) for one in many]


def layer(n: int, n_in: int, n_out: int, dtype: str) -> dict[str, Callable[[], object]]:
    """Return the three products of a layer as launches on arrays on the device; forward's result was checked."""
    rng = np.random.default_rng(0)
    shapes = {"a_prev": (n, n_in), "a": (n, n_out), "delta": (n, n_out), "delta_prev": (n, n_in)}
    hand = Hand(np.dtype(dtype), n)
    arrays = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    places = {name: hand.work.put(array) for name, array in arrays.items()}
    W, b = (rng.standard_normal(shape).astype(dtype) / n_in**0.5 for shape in ((n_in, n_out), (n_out,)))
    for shelf, moments in ((hand.params, (W, b)), (hand.m, (W, b)), (hand.v, (W * W, b * b))):
        places |= {name: shelf.put(array) for name, array in zip(("W", "b"), moments, strict=True)}
    relu = dict(zip(("activation", "function", "parameter", "at_zero"), (1, 0, 0.0, 0.0), strict=True))
    sizes = {"n_in": n_in, "n_out": n_out, **places, **relu}
    rows = {
        "linear_forward": row_of(Op.LINEAR_FORWARD, **sizes),
        "backprop_delta": row_of(Op.BACKPROP_DELTA, **{**sizes, "a_prev": places["a_prev"]}),
        "linear_update": row_of(Op.LINEAR_UPDATE, **sizes, optimizer=int(kernels.Optimizer.ADAM)),
    }
    step = kernels.step_table(rate=1e-3, beta_1=0.9, beta_2=0.999, epsilon=1e-8, grad_scale=1 / n)
    run = hand.do_rows([rows["linear_forward"]], [arrays["a"]], step=step)
    expected = np.maximum(arrays["a_prev"].astype(float) @ W + b, 0)
    error = np.abs(arrays["a"] - expected).max() / np.abs(expected).max()
    if not error < {"float32": 1e-5, "float64": 1e-13}[dtype]:
        raise SystemExit(f"linear_forward of {n} x {n_in} x {n_out} in {dtype} is off by {error:.1e}")
    run = run._replace(squares=cuda.to_device(np.zeros(100_000)))

    return {name: launched(list(LAUNCHES[row.op](run, row))) for name, row in rows.items()}


def time_products(rounds: int) -> list[dict[str, Any]]:
    """Return each product's rate, and its share of cuBLAS's."""
    found, blas = [], blas_product()
    for dtype in ("float32", "float64"):
        for n, n_in, n_out in PRODUCTS:
            if dtype == "float64" and n * n_in * n_out > 2**33:
                continue
            works = {name: timed(work) for name, work in layer(n, n_in, n_out, dtype).items()}
            if blas is not None and dtype == "float32":
                product = blas(n, n_in, n_out)
                works["cublas"] = timed(product)
            seconds = medians(works, rounds)
            for name, taken in seconds.items():
                rate = 2 * n * n_in * n_out / taken / 1e12
                share = seconds["cublas"] / taken if "cublas" in seconds else None
                sizes = f"{n} x {n_in} x {n_out}"
                tile = tiles.tile_for(n, n_out, tiles.n_slices(n_in, n_out), dtype, n_processors())
                found.append(
                    {
                        "operation": name,
                        "dtype": dtype,
                        "sizes": sizes,
                        "tile": f"{tile.rows}x{tile.columns}",
                        "us": taken * 1e6,
                        "TFLOP_per_s": rate,
                        "against_cublas": share,
                    }
                )
    return found


def time_operations(rounds: int) -> list[dict[str, Any]]:
    """Return how long a step's other rows take."""
    (n, width), dtype = OTHER_SIZES, np.dtype("f4")
    rng, found = np.random.default_rng(0), []
    hand = Hand(dtype, n)
    names = ("a_prev", "a", "saved", "delta", "y")
    places = {name: hand.work.put(rng.random((n, width)).astype(dtype)) for name in names}
    places |= {"rstd": hand.work.put(np.ones(width, dtype))}
    vectors = ("W", "b", "mean", "variance")
    places |= {name: hand.params.put(np.ones(width, dtype)) for name in vectors}
    common = {"n_in": 1, "n_out": width, "parameter": 1.0, "at_zero": 0.0, "epsilon": 1e-3, "momentum": 0.1}
    common |= {**places, "probability": 0.5, "stream": 1, "loss": 0, "weight": kernels.NONE, "finite": 0, "source": 0}
    rows = {
        "gather_rows": (Op.GATHER_ROWS, 2, {}),
        "gather_classes": (Op.GATHER_CLASSES, 1, {}),
        "activate gelu": (Op.ACTIVATE, 3, {"activation": int(kernels.Activation.GELU)}),
        "activate tanh": (Op.ACTIVATE, 2, {"activation": int(kernels.Activation.TANH), "saved": kernels.NONE}),
        "dropout": (Op.DROPOUT, 3, {"activation": int(kernels.Activation.RELU)}),
        "output_delta": (Op.OUTPUT_DELTA, 3, {"activation": 0}),
        "activation_delta": (Op.ACTIVATION_DELTA, 3, {"activation": int(kernels.Activation.TANH)}),
        "batch_norm": (Op.BATCH_NORM, 4, {"activation": 0}),
        "batch_norm_delta": (Op.BATCH_NORM_DELTA, 4, {"optimizer": int(kernels.Optimizer.SGD)}),
    }
    data = {"X": rng.random((n, width)).astype(dtype), "classes": rng.integers(0, width, n)}
    run = hand.do_rows([], [], step=kernels.step_table(rate=0.0), data=data)
    works, moved = {}, {}
    for name, (op, passes, fields) in rows.items():
        launches = list(LAUNCHES[op](run, row_of(op, **{**common, **fields})))
        works[name] = timed(launched(launches))
        moved[name] = passes * n * width * dtype.itemsize
    for name, seconds in medians(works, rounds).items():
        found.append({"operation": name, "us": seconds * 1e6, "GB_per_s": moved[name] / seconds / 1e9})
    return found


# ------------------------------------------------------------------------------------------------------- training


def epoch_seconds(epoch: Callable[[], object]) -> float:
    """Return how long an epoch takes that ends synchronised, done as often as fills a round."""
    start, count, passed = time.perf_counter(), 0, 0.0
    while not count or passed < SECONDS_A_ROUND:
        epoch()
        count, passed = count + 1, time.perf_counter() - start
    return passed / count


def fastbp_epochs(row: str, X: Any, y: Any) -> Callable[[], object]:
    """Return an epoch of fastbp, samples on the device as the others have them."""
    sizes, batch_size, optimizer, _ = ROWS[row]
    net = fastbp.Network(sizes, dtype="float32", random_state=0, backend="cuda")
    rule: dict[str, Any] = {"optimizer": optimizer, "learning_rate": 1e-3, "batch_size": batch_size}
    trainer = fastbp.Trainer(net, backend="cuda", random_state=0, **rule)
    samples, classes = cuda.to_device(X), cuda.to_device(y)
    return lambda: trainer.fit(samples, classes, epochs=5)


def torch_epochs(row: str, X: Any, y: Any, kind: str) -> Callable[[], object] | None:
    """Return five epochs of PyTorch: eager, compiled, or replaying a CUDA graph of a step."""
    try:
        import torch
    except ImportError:
        return None
    sizes, batch_size, optimizer, n = ROWS[row]
    torch.manual_seed(0)
    modules: list[Any] = []
    for n_in, n_out in itertools.pairwise(sizes):
        modules += [torch.nn.Linear(n_in, n_out), torch.nn.ReLU()]
    model = torch.nn.Sequential(*modules[:-1]).cuda()
    samples, classes = torch.as_tensor(X).cuda(), torch.as_tensor(y).cuda()
    loss = torch.nn.CrossEntropyLoss()
    if optimizer == "sgd":
        rule: Any = torch.optim.SGD(model.parameters(), lr=1e-3)
    else:
        rule = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=kind == "graph")
    run = torch.compile(lambda a, b: loss(model(a), b)) if kind == "compile" else lambda a, b: loss(model(a), b)
    chosen = torch.zeros(batch_size, dtype=torch.long, device="cuda")

    def step() -> None:
        rule.zero_grad(set_to_none=kind != "graph")
        run(samples[chosen], classes[chosen]).backward()
        rule.step()

    replay = step
    if kind == "graph":
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        replay = graph.replay

    def epochs() -> None:
        for _ in range(5):
            order = torch.randperm(n, device="cuda")
            for start in range(0, n - batch_size + 1, batch_size):
                chosen.copy_(order[start : start + batch_size])
                replay()
        torch.cuda.synchronize()

    return epochs


def jax_epochs(row: str, X: Any, y: Any) -> Callable[[], object] | None:
    """Return five epochs of JAX, each one compiled scan over its steps."""
    try:
        import jax
    except ImportError:
        return None
    if jax.default_backend() != "gpu":
        return None
    jnp = jax.numpy
    sizes, batch_size, optimizer, n = ROWS[row]
    keys = jax.random.split(jax.random.PRNGKey(0), len(sizes))
    pairs = zip(keys, sizes[:-1], sizes[1:], strict=False)
    params = [(jax.random.normal(k, (i, o)) * np.float32(np.sqrt(2 / i)), jnp.zeros(o)) for k, i, o in pairs]
    samples, classes = jnp.asarray(X), jnp.asarray(y)

    def loss(params: Any, x: Any, c: Any) -> Any:
        for W, b in params[:-1]:
            x = jax.nn.relu(x @ W + b)
        z = x @ params[-1][0] + params[-1][1]
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(z), c[:, None], 1))

    def step(state: Any, chosen: Any) -> Any:
        params, m, v, t = state
        grads, t = jax.grad(loss)(params, samples[chosen], classes[chosen]), t + 1
        if optimizer == "sgd":
            return (jax.tree.map(lambda p, g: p - 1e-3 * g, params, grads), m, v, t), None
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, grads)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, grads)
        rate = 1e-3 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        return (jax.tree.map(lambda p, m, v: p - rate * m / (jnp.sqrt(v) + 1e-8), params, m, v), m, v, t), None

    @jax.jit
    def epoch(state: Any, key: Any) -> Any:
        order = jax.random.permutation(key, n)[: n // batch_size * batch_size]
        return jax.lax.scan(step, state, order.reshape(-1, batch_size))[0]

    nothing = jax.tree.map(jnp.zeros_like, params)
    kept = {"state": (params, nothing, nothing, jnp.zeros(())), "key": jax.random.PRNGKey(1)}

    def epochs() -> None:
        for _ in range(5):
            kept["key"], now = jax.random.split(kept["key"])
            kept["state"] = epoch(kept["state"], now)
        jax.block_until_ready(kept["state"])

    return epochs


def time_training(rounds: int) -> list[dict[str, Any]]:
    """Return each contender's samples a second on each row; one that fails keeps no other from being timed."""
    found: list[dict[str, Any]] = []
    deadline = time.perf_counter() + TRAINING_SECONDS
    for row, (sizes, _, _, n) in ROWS.items():
        if time.perf_counter() > deadline:
            found.append({"row": row, "contender": "all", "samples_per_s": None, "problem": "no time was left"})
            continue
        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((n, sizes[0])).astype(np.float32), rng.integers(0, sizes[-1], n)
        makers: dict[str, Callable[[], Callable[[], object] | None]] = {
            "fastbp": functools.partial(fastbp_epochs, row, X, y),
            "torch graph": functools.partial(torch_epochs, row, X, y, "graph"),
            "jax": functools.partial(jax_epochs, row, X, y),
        }
        if row != "online":  # a minute an epoch
            makers["torch"] = functools.partial(torch_epochs, row, X, y, "eager")
            makers["torch.compile"] = functools.partial(torch_epochs, row, X, y, "compile")
        works: dict[str, Callable[[], float]] = {}
        for name, make in makers.items():
            try:
                epochs = make()
                if epochs is not None:
                    epochs()
                    works[name] = functools.partial(epoch_seconds, epochs)
            except Exception as error:
                problem = f"{type(error).__name__}: {str(error)[:200]}"
                found.append({"row": row, "contender": name, "samples_per_s": None, "problem": problem})
        for name, seconds in medians(works, rounds).items():
            found.append({"row": row, "contender": name, "samples_per_s": 5 * n / seconds, "problem": None})
    return found


# --------------------------------------------------------------------------------------------------------- report


def environment() -> dict[str, Any]:
    """Return what fastbp finds, and the libraries beside which it is timed."""
    found: dict[str, Any] = describe()
    found["host"] = platform.platform()
    for name in ("torch", "jax", "cupy", "numba_cuda"):
        module = sys.modules.get(name)
        found[name] = getattr(module, "__version__", None)
    command = ["git", "rev-parse", "--short", "HEAD"]
    found["commit"] = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    return found


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """Print results as a table."""
    if not rows:
        return
    table = Table(title=title)
    for name in rows[0]:
        table.add_column(name, justify="left" if isinstance(rows[0][name], str) else "right")
    for row in rows:
        cells = [
            f"{value:,.3g}" if isinstance(value, float) else str("" if value is None else value)
            for value in row.values()
        ]
        table.add_row(*cells)
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("bench/results"))
    parser.add_argument("--rounds", type=int, default=5)
    parts = ("products", "operations", "training")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    options = parser.parse_args()
    fastbp.require_gpu()
    result: dict[str, Any] = {"environment": environment(), "ceilings": ceilings(options.rounds)}
    print(json.dumps(result["ceilings"]))
    name = "".join(c if c.isalnum() else "-" for c in str(result["environment"]["gpu"]["name"])).strip("-").lower()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"gpu-{name}.json"
    for part, measure in zip(parts, (time_products, time_operations, time_training), strict=True):
        if part in options.only:
            result[part] = measure(options.rounds)
            show(part, result[part])
            write(path, {**result, "environment": environment()})
    print(f"wrote {path}")


def write(path: Path, result: dict[str, Any]) -> None:
    """Write what there is so far, aside first."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


if __name__ == "__main__":
    main()
