"""Training on a GPU, as users call it, against the CPU's loss curves."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import fastbp

ROWS: dict[str, tuple[tuple[int, ...], int, str]] = {
    "online": ((64, 32, 10), 1, "sgd"),
    "tiny": ((10, 64, 64, 2), 64, "adam"),
    "mnist32": ((784, 128, 10), 32, "sgd"),
    "tabular": ((54, 128, 64, 7), 256, "adam"),
    "deep": ((784, 512, 512, 512, 10), 128, "adam"),
}
"""Layers, mini-batch and optimiser: of one block, and of a graph of kernels."""


def data(sizes: tuple[int, ...], n: int = 2048) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, sizes[0])).astype(np.float32), rng.integers(0, sizes[-1], n)


def trained(row: str, backend: str, dtype: str = "float32", **options: Any) -> tuple[list[float], fastbp.Network]:
    sizes, batch_size, optimizer = ROWS[row]
    X, y = data(sizes)
    net = fastbp.Network(sizes, dtype=dtype, random_state=0, backend=backend)
    rule: dict[str, Any] = {"optimizer": optimizer, "learning_rate": 1e-3, "batch_size": batch_size}
    trainer = fastbp.Trainer(net, backend=backend, random_state=0, **rule, **options)
    return trainer.fit(X, y, epochs=2).loss + trainer.fit(X, y, epochs=2).loss, net


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("row", ROWS)
def test_the_loss_goes_the_cpus_way(row: str, dtype: str) -> None:
    (loss, net), (expected, reference) = (trained(row, backend, dtype) for backend in ("cuda", "numba"))
    tolerance = 2e-3 if dtype == "float32" else 1e-9
    np.testing.assert_allclose(loss, expected, rtol=tolerance)
    X = data(ROWS[row][0])[0][:300]
    np.testing.assert_allclose(net.forward(X), reference.forward(X), rtol=10 * tolerance, atol=10 * tolerance)


def test_a_graph_does_what_single_launches_do(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, net = trained("mnist32", "cuda")
    monkeypatch.setattr("fastbp.kernels.numba_cuda.toolkit.Graph.is_available", False)
    expected, reference = trained("mnist32", "cuda")
    assert loss == expected
    np.testing.assert_array_equal(net.parameters, reference.parameters)


@pytest.mark.parametrize("options", [{"clip_norm": 0.5}, {"clip_value": 0.1}, {"average_decay": 0.99}], ids=str)
def test_what_is_done_to_gradients_and_parameters(options: dict[str, Any]) -> None:
    (loss, _), (expected, _) = (trained("tabular", backend, **options) for backend in ("cuda", "numba"))
    np.testing.assert_allclose(loss, expected, rtol=2e-3)


def test_samples_without_room_come_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    loss, net = trained("mnist32", "cuda")
    monkeypatch.setattr("fastbp.kernels.numba_cuda.runs.has_room", lambda n_bytes: False)
    monkeypatch.setattr("fastbp.kernels.numba_cuda.chunks.CHUNK_BYTES", 2**18)
    again, reference = trained("mnist32", "cuda")
    np.testing.assert_allclose(again, loss, rtol=1e-6)
    np.testing.assert_array_equal(net.parameters, reference.parameters)


def test_too_much_for_the_device_is_an_error_and_a_smaller_fit_works() -> None:
    from fastbp.kernels.numba_cuda import memory

    with pytest.raises(MemoryError, match="do not fit into the GPU's memory"):
        memory.empty(2**42, np.float32)
    trained("tiny", "cuda")


@pytest.mark.parametrize("library", ["cupy", "torch"])
def test_arrays_of_others_are_taken_where_they_are(library: str) -> None:
    module = pytest.importorskip(library)
    sizes, batch_size, _ = ROWS["mnist32"]
    X, y = data(sizes)
    to_gpu = module.asarray if library == "cupy" else lambda array: module.as_tensor(array).cuda()
    losses, nets = [], []
    for samples, classes in ((X, y), (to_gpu(X), to_gpu(y))):
        net = fastbp.Network(sizes, dtype="float32", random_state=0, backend="cuda")
        trainer = fastbp.Trainer(net, backend="cuda", batch_size=batch_size, random_state=0)
        losses.append(trainer.fit(samples, classes, epochs=2).loss)
        nets.append(net)
    assert losses[0] == losses[1]
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)
    np.testing.assert_array_equal(nets[0].forward(to_gpu(X)), nets[0].forward(X))


def test_an_estimator_learns() -> None:
    X, y = data((20, 3), 500)
    options: dict[str, Any] = {"hidden_layer_sizes": (50,), "max_iter": 5, "random_state": 0}
    with pytest.warns(UserWarning, match="Maximum iterations"):
        ours = fastbp.MLPClassifier(**options, backend="cuda").fit(X, y)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        theirs = fastbp.MLPClassifier(**options, backend="numba").fit(X, y)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-3)


def test_fits_in_other_threads() -> None:
    """The second thread finds a GPU that the first one began to use."""
    expected, _ = trained("mnist32", "cuda")
    with ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(trained, "mnist32", "cuda") for _ in range(2)]:
            assert future.result()[0] == expected
