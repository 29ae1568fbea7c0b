"""Threads: what they share, how many there are, and that nobody can see from a result how many there were."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import scipy.sparse
from fastbp.kernels import threads
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

import fastbp
from fastbp import kernels
from fastbp.data import as_features, is_sparse
from fastbp.layers import BatchNorm
from fastbp.layout import Layout
from fastbp.pace import SECONDS_BETWEEN_TRIALS, Pace
from fastbp.plan import Data, no_data, prediction_plan, run_buffers, training_plan
from fastbp.threads import FLOPS_WORTH_THREADS, available_threads, threads_for

ACTIVATIONS = [kernels.Activation.RELU, kernels.Activation.TANH, kernels.Activation.ELU, kernels.Activation.GELU]
OUTPUTS = {
    kernels.Loss.CROSS_ENTROPY: kernels.Activation.SOFTMAX,
    kernels.Loss.SQUARED_ERROR: kernels.Activation.IDENTITY,
}
RULES = list(kernels.Optimizer)
TRAININGS: dict[str, Any] = {
    "sizes": st.lists(st.integers(1, 70), min_size=2, max_size=4),
    "batch_size": st.integers(1, 120),
    "loss": st.sampled_from(list(OUTPUTS)),
    "hidden": st.sampled_from(ACTIVATIONS),
    "l2": st.sampled_from([0.0, 0.1]),
    "weighted": st.booleans(),
    "clip": st.sampled_from([0.0, 1e-3]),
    "clips_norm": st.booleans(),
    "averages": st.booleans(),
    "between": st.sets(st.sampled_from(["batch_norm", "maxout", "dropout"])),
}
"""Options of `train`; ``between`` names what stands between the layers."""


def functions(*codes: kernels.Activation) -> tuple[kernels.ActivationFunction, ...]:
    return tuple(kernels.activation_function(code) for code in codes)


def train(
    backend: kernels.Backend, sizes: tuple[int, ...], batch_size: int, n_threads: int, **options: Any
) -> tuple[np.ndarray, ...]:
    """Run three mini-batches, the last one shorter; return parameters, moments, losses, and predictions."""
    rng = np.random.default_rng(options.get("seed", 0))
    between = options.get("between", set()) - ({"batch_norm"} if batch_size == 1 else set())
    layout, dropout = between_layers(
        sizes, between, drops_inputs=not (options.get("sparse") or options.get("like_sparse"))
    )
    dtype, n = options.get("dtype", "float32"), 2 * batch_size + (batch_size + 1) // 2
    loss, hidden = options.get("loss", kernels.Loss.CROSS_ENTROPY), options.get("hidden", kernels.Activation.RELU)
    hidden = kernels.Activation.IDENTITY if layout.pieces else hidden
    activations = functions(*[hidden] * (layout.n_layers - 1), OUTPUTS[loss])
    X = rng.standard_normal((n, sizes[0])) * (rng.random((n, sizes[0])) < 0.7)
    data = {**no_data(dtype, sizes[0], sizes[-1]), "X": X.astype(dtype)}
    if options.get("sparse"):
        data |= as_features(scipy.sparse.csr_array(X), dtype)
    data["sample_weight"] = rng.random((n, 1)).astype(dtype) if options.get("weighted") else data["sample_weight"]
    if loss == kernels.Loss.CROSS_ENTROPY:
        data["classes"] = rng.integers(0, sizes[-1], n)
    else:
        data["y"] = rng.standard_normal((n, sizes[-1])).astype(dtype)
    form = Data(is_sparse(data), bool(data["classes"].size), bool(data["sample_weight"].size))
    rule = options.get("rule", kernels.Optimizer.ADAM)
    extras = {"clips_norm": options.get("clips_norm", False), "averages": options.get("averages", False)}
    plan = training_plan(layout, activations, loss, rule, batch_size, form, dropout=dropout, **extras)
    state = {name: (0.1 * rng.standard_normal(layout.size)).astype(dtype) for name in ("params", "m")}  # none diverges
    state["params"] = np.concatenate([state["params"], np.ones(layout.total_size - layout.size, dtype)])
    state["v"] = rng.random(layout.size).astype(dtype)
    state["grads"], state["average"] = np.zeros(layout.size, dtype), state["params"][: layout.size].copy()
    rates = {"rate": 0.01, "momentum": 0.9, "beta_1": 0.9, "beta_2": 0.99, "epsilon": 1e-8}
    decay = 1e-3 * (rule >= kernels.Optimizer.ADAM)  # AdamW
    limits = {"clip": options.get("clip", 0), "max_norm": 0.01, "average_decay": 0.9, "grad_rate": 0.001}
    steps = kernels.step_table(3, l2=options.get("l2", 0.1), grad_scale=1 / batch_size, decay=decay, **rates, **limits)
    steps["seed"], steps["number"] = 2.0**52 + 9, [0, 1, 2.0**40]
    buffers, losses = run_buffers(plan, backend, data, state, threads.capped(n_threads)), np.zeros(3)
    backend.train_steps(plan.rows, steps, rng.permutation(n), batch_size, buffers, losses, n_threads=n_threads)
    forward = prediction_plan(layout, activations, batch_size, Data(form.sparse))
    out, order = np.empty((n, sizes[-1]), dtype), np.arange(n)
    buffers = run_buffers(forward, backend, data, {"params": state["params"]}, threads.capped(n_threads))
    backend.predict(forward.rows, order, batch_size, buffers, out, n_threads=n_threads)
    return (*state.values(), losses, out)


def between_layers(sizes: tuple[int, ...], between: Any, drops_inputs: bool) -> tuple[Layout, tuple[float, ...]]:
    """Return a layout and dropout's probabilities for a network that has some of batch norm, maxout and dropout."""
    n_hidden = len(sizes) - 2
    pieces = (*[3] * n_hidden, 1) if "maxout" in between and n_hidden else ()
    norms = (*[BatchNorm(momentum=0.3)] * n_hidden, None) if "batch_norm" in between else ()
    dropout = (0.7 if drops_inputs else 1.0, *[0.7] * n_hidden) if "dropout" in between else ()
    return Layout(sizes, True, pieces, norms), dropout


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", RULES)
@settings(deadline=None)  # the first call compiles
@given(
    **TRAININGS,
    sparse=st.booleans(),
    n_threads=st.sampled_from([2, 3, 4, 8]),
)
def test_the_number_of_threads_does_not_change_a_bit(
    compiled_name: str, dtype: str, rule: int, sizes: list[int], batch_size: int, n_threads: int, **options: Any
) -> None:
    backend = kernels.backend(compiled_name)
    if options["loss"] == kernels.Loss.CROSS_ENTROPY:
        sizes[-1] += 1
    case = {"dtype": dtype, "rule": rule, **options}
    alone = train(backend, tuple(sizes), batch_size, 1, **case)
    for got, wanted in zip(train(backend, tuple(sizes), batch_size, n_threads, **case), alone, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", RULES)
@settings(deadline=None)  # the first call compiles
@given(
    **TRAININGS,
    n_threads=st.sampled_from([1, 2, 3]),
)
def test_csr_samples_give_the_bits_of_dense_ones(
    compiled_name: str, dtype: str, rule: int, sizes: list[int], batch_size: int, n_threads: int, **options: Any
) -> None:
    backend = kernels.backend(compiled_name)
    if options["loss"] == kernels.Loss.CROSS_ENTROPY:
        sizes[-1] += 1
    case = {"dtype": dtype, "rule": rule, "like_sparse": True, **options}
    dense = train(backend, tuple(sizes), batch_size, 1, **case)
    for got, wanted in zip(
        train(backend, tuple(sizes), batch_size, n_threads, sparse=True, **case), dense, strict=True
    ):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_each_thread_does_a_part_of_the_tiles(compiled: str, batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two threads runs alone, while somebody else comes to the barrier in the other one's place."""
    module = kernels.backend(compiled).module
    changed = []

    def only(chosen: int) -> Any:
        def together(work: Any, n_threads: int) -> None:
            barrier = threads.make_barrier(n_threads)
            worker = threading.Thread(target=work, args=(chosen, barrier))
            worker.start()
            while worker.is_alive():
                if barrier[threads.ARRIVED] == 1:
                    barrier[threads.ARRIVED] = 0
                    barrier[threads.GENERATION] += 1
                time.sleep(0)

        return together

    for thread in (0, 1):
        monkeypatch.setattr(module, "together", only(thread))
        before = train_one_layer(module, batch_size, steps=False)
        changed.append((train_one_layer(module, batch_size) != before).any(axis=1))
    assert changed[0].any()
    assert changed[1].any()
    assert (changed[0] ^ changed[1]).all(), "every row of W is updated by one of the threads"


def train_one_layer(module: Any, batch_size: int, steps: bool = True) -> np.ndarray:
    """Return the weights of one layer (40, 9) after a step of plain gradient descent in two threads."""
    rng, layout = np.random.default_rng(0), Layout((40, 9))
    loss, activation = kernels.Loss.SQUARED_ERROR, functions(kernels.Activation.IDENTITY)
    plan = training_plan(layout, activation, loss, kernels.Optimizer.SGD, batch_size, Data())
    data = {**no_data("float32", 40, 9)}
    data["X"], data["y"] = (1 + rng.random((batch_size, n), dtype="float32") for n in (40, 9))
    backend = kernels.Backend("under test", module)
    buffers = run_buffers(plan, backend, data, {"params": np.ones(layout.size, "float32")}, 2)
    buffers.work[:] = buffers.scratch[:] = 1  # the other thread's parts of activations and errors
    if steps:
        table = kernels.step_table(1, rate=0.1)
        module.pack(plan.rows, buffers)
        module.train_steps(plan.rows, table, np.arange(batch_size), batch_size, buffers, np.zeros(3), 2)
        module.unpack(plan.rows, buffers)
    return buffers.params[:360].reshape(40, 9)


@pytest.mark.parametrize("n_threads", [1, 2, 3, 8])
def test_all_threads_end_before_the_same_step(compiled: str, n_threads: int) -> None:
    """One of them finds NaN in the samples of the fourth step; the third one counts, with its loss."""
    backend, layout, rng = kernels.backend(compiled), Layout((40, 60, 3)), np.random.default_rng(0)
    activations = functions(kernels.Activation.RELU, kernels.Activation.SOFTMAX)
    form = Data(classes=True, checked=False)
    plan = training_plan(layout, activations, kernels.Loss.CROSS_ENTROPY, kernels.Optimizer.ADAM, 16, form)
    X, classes = rng.standard_normal((96, 40)).astype("float32"), rng.integers(0, 3, 96)
    X[50, 39] = np.nan
    data = {**no_data("float32", 40, 3), "X": X, "classes": classes}
    found = set()
    for _ in range(50):
        state = {name: np.full(layout.size, 0.01, "float32") for name in ("params", "m", "v")}
        buffers, losses = run_buffers(plan, backend, data, state, n_threads), np.zeros(3)
        steps = kernels.step_table(6, rate=0.01, epsilon=1e-8, beta_1=0.9, beta_2=0.99)
        backend.train_steps(plan.rows, steps, np.arange(96), 16, buffers, losses, n_threads=n_threads)
        found.add((*losses, state["params"].tobytes()))
    assert len(found) == 1
    assert found.pop()[2] == 3


def test_threads_that_cannot_be_started_are_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    start, seen = threading.Thread.start, []

    def start_two(thread: threading.Thread) -> None:
        if len(seen) == 2:
            raise RuntimeError("can't start new thread")
        seen.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    done = []
    threads.together(lambda thread, barrier: done.append((thread, int(barrier[threads.N_THREADS]))), 8)
    assert sorted(done) == [(0, 3), (1, 3), (2, 3)]


def test_nobody_waits_for_a_thread_that_was_interrupted(compiled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the first thread, before it enters the kernel: the others leave it, and the next run works."""
    module, together = kernels.backend(compiled).module, threads.together

    def interrupted(work: Any, n_threads: int) -> None:
        def enter(thread: int, barrier: np.ndarray) -> None:
            if thread == 0:
                time.sleep(0.05)
                raise KeyboardInterrupt
            work(thread, barrier)

        together(enter, n_threads)

    wanted = train(kernels.backend(compiled), (20, 10, 3), 50, 1)
    monkeypatch.setattr(module, "together", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(kernels.backend(compiled), (20, 10, 3), 50, 3)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("fastbp-")]
    monkeypatch.undo()
    for got, expected in zip(train(kernels.backend(compiled), (20, 10, 3), 50, 3), wanted, strict=True):
        np.testing.assert_array_equal(got, expected)


def test_a_thread_that_fails_ends_the_run(compiled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(thread: int, n_threads: int, home: int) -> None:
        raise OSError("no affinity here")

    backend = kernels.backend(compiled)
    monkeypatch.setattr(threads, "_settle", fail)
    with pytest.raises(OSError, match="no affinity here"):
        train(backend, (20, 10, 3), 50, 3)
    monkeypatch.undo()
    for got, wanted in zip(train(backend, (20, 10, 3), 50, 3), train(backend, (20, 10, 3), 50, 1), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_nobody_starts_a_million_threads(compiled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "MOST_THREADS", 5)
    monkeypatch.setattr(threads, "usable_processors", lambda: 2)
    net = fastbp.Network((20, 60, 3), random_state=0, n_threads=10**6)
    X, y = np.random.default_rng(0).standard_normal((2000, 20)).astype("float32"), np.arange(2000) % 3
    fastbp.Trainer(net, n_threads=10**6, random_state=0).fit(X, y)
    assert net.predict(X).shape == (2000,)
    assert threads_for(10**6, 1e9) == 5
    train(kernels.backend(compiled), (20, 10, 3), 50, 10**6)


def test_more_threads_than_processors_sleep_while_they_wait() -> None:
    assert threads.make_barrier(threads.usable_processors())[threads.N_SPINS] > 0 or threads.usable_processors() == 1
    assert threads.make_barrier(threads.usable_processors() + 1)[threads.N_SPINS] == 0


# ------------------------------------------------------------------------------------------- how many threads


def test_as_many_threads_as_asked_for() -> None:
    assert threads_for(3, 1.0) == threads_for(3, 1e12) == 3


@pytest.mark.parametrize("n_threads", [0, -6, 2.5, "2"])
def test_a_number_of_threads_that_was_set_later_is_checked(compiled: str, n_threads: Any) -> None:
    X, y = np.random.default_rng(0).standard_normal((200, 20)).astype("float32"), np.arange(200) % 3
    net = fastbp.Network((20, 6, 3), random_state=0)
    trainer = fastbp.Trainer(net)
    trainer.n_threads = net.n_threads = n_threads
    for action in (lambda: trainer.fit(X, y), lambda: net.predict(np.repeat(X, 5000, 0))):
        with pytest.raises(ValueError, match="n_threads is"):
            action()


def test_one_thread_where_a_batch_is_little_work() -> None:
    assert threads_for(None, 0.9 * FLOPS_WORTH_THREADS) == 1
    assert threads_for(None, FLOPS_WORTH_THREADS) == available_threads()


@pytest.mark.parametrize(
    ("value", "limit"), [("1", 1), ("1,4", 1), ("64", 64), ("0", 64), ("many", 64), ("", 64), ("²", 64)]
)
def test_omp_num_threads_limits(monkeypatch: pytest.MonkeyPatch, value: str, limit: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert 1 <= available_threads() <= limit
    assert (available_threads() == 1) == (limit == 1 or threads.usable_processors() == 1)


def test_lbfgs_takes_threads_though_it_holds_the_blas_to_one(compiled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, seen = np.random.default_rng(0), set()
    X, y = rng.standard_normal((300, 200)), rng.integers(0, 3, 300)
    model = fastbp.MLPClassifier((100,), solver="lbfgs", max_iter=2, backend=compiled)
    module = kernels.backend(compiled).module
    train_steps = module.train_steps

    def record(*arguments: Any) -> None:
        seen.add(arguments[-1])
        train_steps(*arguments)

    monkeypatch.setattr(module, "train_steps", record)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y)
    assert max(seen) == available_threads()


def test_threadpoolctl_limits() -> None:
    with threadpool_limits(1):
        assert available_threads() == 1


def test_threadpoolctl_limits_libraries_that_come_later() -> None:
    """In a process of its own: scikit-learn brings an OpenMP library after threads were counted."""
    program = """
from fastbp.threads import available_threads
from threadpoolctl import threadpool_info, threadpool_limits
available_threads()
import sklearn.neural_network
with threadpool_limits(1, user_api="openmp"):
    print(available_threads() if any(found["user_api"] == "openmp" for found in threadpool_info()) else 1)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(fastbp.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_affinity_limits() -> None:
    """In a process of its own: the affinity of this one's threads is left alone."""
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
    program += "from fastbp.threads import available_threads; print(available_threads())"
    environment = {**os.environ, "PYTHONPATH": str(Path(fastbp.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_threads_keep_off_their_callers_processor() -> None:
    """Where there are enough; otherwise they share all. The caller's own affinity stays."""
    usable = os.sched_getaffinity(0)
    if len(usable) < 2:
        pytest.skip("this process may use one processor only")
    home, masks = min(usable), {}

    def settle(n_threads: int) -> None:
        threads._settle(1, n_threads, home)
        masks[n_threads] = os.sched_getaffinity(0)

    for n_threads in (2, len(usable) + 1):
        other = threading.Thread(target=settle, args=(n_threads,))
        other.start()
        other.join()
    assert masks == {2: usable - {home}, len(usable) + 1: usable}
    assert os.sched_getaffinity(0) == usable


@pytest.mark.parametrize("kind", ["loky", "threading"])
def test_one_thread_in_a_worker_of_joblib(kind: str) -> None:
    calls = (joblib.delayed(available_threads)() for _ in range(2))
    n_jobs = max(2, threads.usable_processors())
    assert joblib.Parallel(n_jobs=n_jobs, backend=kind)(calls) == [1, 1]


# ----------------------------------------------------------------------------------------------------- pace


def run(pace: Pace, speed: dict[int, float], seconds: float) -> list[int]:
    """Train for so long at so many seconds a step; return the number of threads of each piece."""
    chosen, spent = [], 0.0
    while spent < seconds:
        n_steps, n_threads = pace.next()
        pace.observe(n_steps, n_threads, n_steps * speed[n_threads])
        chosen.append(n_threads)
        spent += n_steps * speed[n_threads]
    return chosen


def make_pace(n_threads: int) -> Pace:
    layout = Layout((784, 100, 10))
    activations = functions(kernels.Activation.RELU, kernels.Activation.SOFTMAX)
    plan = training_plan(layout, activations, kernels.Loss.CROSS_ENTROPY, kernels.Optimizer.ADAM, 200, Data())
    return Pace(plan, n_threads)


def test_one_thread_is_not_tried_against_others() -> None:
    assert set(run(make_pace(1), {1: 1e-3}, 3)) == {1}


@pytest.mark.parametrize(("seconds_alone", "faster"), [(0.9e-3, 1), (1.1e-3, 4)])
def test_the_faster_number_of_threads_is_taken(seconds_alone: float, faster: int) -> None:
    pieces = run(make_pace(4), {4: 1e-3, 1: seconds_alone}, 5 * SECONDS_BETWEEN_TRIALS)
    assert set(pieces[:4]) == {1, 4}
    assert pieces[4:].count(faster) > 0.8 * len(pieces[4:])


def test_threads_give_way_to_another_process_and_come_back() -> None:
    pace = make_pace(2)
    assert run(pace, {2: 0.6e-3, 1: 1e-3}, 3)[-2:] == [2, 2]
    assert run(pace, {2: 3e-3, 1: 1e-3}, 3)[-2:] == [1, 1]
    assert run(pace, {2: 0.6e-3, 1: 1e-3}, 5)[-2:] == [2, 2]
