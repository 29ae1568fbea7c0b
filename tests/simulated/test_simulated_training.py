"""Training with the CUDA backend in the simulator, as users call it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastbp

SIZES = (5, 4, 3)


def data(n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, SIZES[0])).astype(np.float32), rng.integers(0, SIZES[-1], n)


def trained(backend: str, X: Any, y: Any, **options: Any) -> tuple[fastbp.History, fastbp.Network]:
    net = fastbp.Network(SIZES, dtype="float32", random_state=0, backend=backend)
    trainer = fastbp.Trainer(net, backend=backend, batch_size=4, random_state=0, **options)
    return trainer.fit(X, y, epochs=2), net


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5}, {"average_decay": 0.9}, {"optimizer": "nadam"}], ids=str)
def test_the_loss_goes_the_cpus_way(options: dict[str, Any]) -> None:
    X, y = data()
    (history, net), (expected, reference) = (trained(backend, X, y, **options) for backend in ("cuda", "numpy"))
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-5)
    np.testing.assert_allclose(net.parameters, reference.parameters, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(net.forward(X), reference.forward(X), rtol=1e-4, atol=1e-6)


def test_a_fit_goes_on_where_the_last_one_ended() -> None:
    X, y = data()
    once = fastbp.Network(SIZES, dtype="float32", random_state=0)
    twice = fastbp.Network(SIZES, dtype="float32", random_state=0)
    fastbp.Trainer(once, backend="cuda", batch_size=4, random_state=0).fit(X, y, epochs=2)
    trainer = fastbp.Trainer(twice, backend="cuda", batch_size=4, random_state=0)
    for _ in range(2):
        trainer.fit(X, y)
    np.testing.assert_array_equal(once.parameters, twice.parameters)


def test_moments_outlive_a_fit_on_fewer_samples() -> None:
    """Its mini-batches are smaller: another plan."""
    X, y = data(52)
    found = []
    for backend in ("cuda", "numpy"):
        net = fastbp.Network(SIZES, dtype="float32", random_state=0)
        trainer = fastbp.Trainer(net, backend=backend, batch_size=49, random_state=0)
        for n in (3, 52, 3):
            trainer.fit(X[:n], y[:n])
        found.append((net.parameters, trainer.m))
    for ours, expected in zip(*found, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-6)


def test_samples_that_are_not_finite_end_a_fit_and_change_nothing() -> None:
    X, y = data(200)
    X[150, 2] = np.nan
    net = fastbp.Network(SIZES, dtype="float32", random_state=0)
    before = net.parameters.copy()
    with pytest.raises(ValueError, match="NaN"):
        fastbp.Trainer(net, optimizer="sgd", backend="cuda", batch_size=50, random_state=0).fit(X, y)
    np.testing.assert_array_equal(net.parameters, before)


def test_an_estimator_learns() -> None:
    X, y = data()
    options: dict[str, Any] = {"hidden_layer_sizes": (4,), "max_iter": 2, "batch_size": 4, "random_state": 0}
    with pytest.warns(UserWarning, match="Maximum iterations"):
        ours = fastbp.MLPClassifier(**options, backend="cuda").fit(X, y)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        theirs = fastbp.MLPClassifier(**options, backend="numpy").fit(X, y)
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-5)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Maximum iterations")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_estimator_takes_samples_on_the_device(dtype: str) -> None:
    from numba import cuda

    X, y = data()
    X, there = X.astype(dtype), cuda.to_device(X.astype(dtype))
    options: dict[str, Any] = {"hidden_layer_sizes": (4,), "max_iter": 2, "batch_size": 4, "random_state": 0}
    kinds: list[tuple[Any, Any, str]] = [
        (fastbp.MLPClassifier, y, "predict_proba"),
        (fastbp.MLPRegressor, X[:, :2] * 2, "predict"),
    ]
    for kind, targets, predict in kinds:
        here = kind(**options, backend="cuda").fit(X, targets)
        ours = kind(**options, backend="cuda", device=0).fit(there, cuda.to_device(targets))
        assert ours.n_features_in_ == X.shape[1]
        assert ours.loss_curve_ == here.loss_curve_
        np.testing.assert_array_equal(getattr(ours, predict)(there), getattr(here, predict)(X))
        assert ours.coefs_[0].dtype == dtype
        ours.partial_fit(there, targets)
        with pytest.raises(ValueError, match="X has 4 features, but"):
            ours.predict(cuda.to_device(X[:, :4].copy()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "lbfgs"}, "solver='lbfgs' works on samples of the host"),
        ({"early_stopping": True}, "early_stopping=True works on samples of the host"),
        ({"backend": "numpy"}, "backend 'numpy' cannot reach them"),
        ({"precision": "tf32"}, "precision is 'tf32', but X is float64"),
        ({"device": 7}, "numbered 0 to 0 here"),
        ({"device": 0, "backend": "numpy"}, "computes on the CPU"),
        ({"device": -1}, "The 'device' parameter of MLPClassifier must be"),
        ({"precision": "half"}, "The 'precision' parameter of MLPClassifier must be"),
    ],
    ids=str,
)
def test_an_estimator_refuses_what_the_device_cannot_do(options: dict[str, Any], message: str) -> None:
    from numba import cuda

    X, y = data()
    model = fastbp.MLPClassifier((4,), **{"backend": "cuda", **options})
    with pytest.raises((ValueError, TypeError), match=message):
        model.fit(cuda.to_device(X.astype(np.float64)), y)
    assert not hasattr(model, "coefs_")


def test_an_estimator_refuses_bad_samples_on_the_device() -> None:
    from numba import cuda

    X, y = data()
    model = fastbp.MLPClassifier((4,), backend="cuda")
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples"):
        model.fit(cuda.to_device(X), y[:-1])
    X[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        model.fit(cuda.to_device(X), y)


def test_samples_may_lie_on_the_device() -> None:
    from numba import cuda

    X, y = data()
    expected, reference = trained("cuda", X, y)
    for samples, classes in ((X, y), (X.astype(np.float64), y.astype(np.int32))):
        history, net = trained("cuda", cuda.to_device(samples), cuda.to_device(classes))
        assert history.loss == expected.loss
        np.testing.assert_array_equal(net.parameters, reference.parameters)
    np.testing.assert_array_equal(net.forward(cuda.to_device(X)), net.forward(X))
    trainer, there = fastbp.Trainer(net, backend="cuda", batch_size=4), cuda.to_device(X)
    trainer.fit(there, y)
    trainer.fit(2 * X, y)
    np.testing.assert_array_equal(there.copy_to_host(), X)
    np.testing.assert_array_equal(net.forward(cuda.to_device(X[:2])), net.forward(X[:2]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"X": np.full((12, 5), np.nan, np.float32)}, "contains NaN"),
        ({"X": np.ones((12, 4), np.float32)}, "X has 4 features"),
        ({"X": np.ones(12, np.float32)}, "pass a matrix"),
        ({"y": np.full(12, 3)}, "class numbers from 3 to 3, but the network has 3 outputs"),
        ({"y": np.full(12, 0.5)}, "whole ones"),
        ({"y": np.zeros(11, np.int64)}, "pass 12 class numbers"),
    ],
    ids=str,
)
def test_bad_samples_on_the_device_are_refused(change: dict[str, np.ndarray], message: str) -> None:
    from numba import cuda

    X, y = data()
    net = fastbp.Network(SIZES, dtype="float32", random_state=0, backend="cuda")
    before = net.parameters.copy()
    samples = {name: cuda.to_device(array) for name, array in {"X": X, "y": y, **change}.items()}
    with pytest.raises(ValueError, match=message):
        fastbp.Trainer(net, backend="cuda").fit(**samples)
    np.testing.assert_array_equal(net.parameters, before)


def test_the_cpus_backends_refuse_samples_on_the_device() -> None:
    from numba import cuda

    X, y = data()
    with pytest.raises(TypeError, match="samples lie on a GPU, where backend 'numpy' cannot reach them"):
        trained("numpy", cuda.to_device(X), y)


def test_callbacks_see_what_was_learned_and_samples_stay_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastbp.kernels.numba_cuda.runs import Session

    loads, seen = [], []
    load = Session.load
    monkeypatch.setattr(Session, "load", lambda self, buffers: (loads.append(1), load(self, buffers))[1])

    class Watch(fastbp.Callback):
        def on_epoch_end(self, state: fastbp.TrainingState) -> None:
            seen.append(state.trainer.network.parameters.copy())

    X, y = data()
    net = fastbp.Network(SIZES, dtype="float32", random_state=0)
    fastbp.Trainer(net, backend="cuda", batch_size=6, random_state=0).fit(X, y, epochs=3, callbacks=[Watch()])
    assert len(loads) == 1
    assert (seen[0] != seen[1]).any()
    np.testing.assert_array_equal(seen[2], net.parameters)


def test_a_device_is_chosen_by_number() -> None:
    net = fastbp.Network(SIZES, dtype="float32", random_state=0)
    for device, message in ((7, "numbered 0 to 0 here"), (-1, "at least 0")):
        with pytest.raises(ValueError, match=message):
            fastbp.Trainer(net, backend="cuda", device=device)
    with pytest.raises(ValueError, match="computes on the CPU"):
        fastbp.Trainer(net, backend="numpy", device=0)
    fastbp.Trainer(net, backend="cuda", device=0).fit(*data(8))


@pytest.mark.parametrize("walked", [True, False])
def test_samples_without_room_come_in_chunks(walked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = data(18)
    expected, reference = trained("cuda", X, y)
    monkeypatch.setattr("fastbp.kernels.numba_cuda.runs.has_room", lambda n_bytes: False)
    monkeypatch.setattr("fastbp.kernels.numba_cuda.chunks.CHUNK_BYTES", 2 * 4 * X[:1].nbytes)
    if not walked:
        monkeypatch.setattr("fastbp.kernels.numba_cuda.runs.MOST_WALKED_FLOPS", 0)
    history, net = trained("cuda", X, y)
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-6)
    np.testing.assert_allclose(net.parameters, reference.parameters, rtol=1e-5, atol=1e-7)
    X[14, 1] = np.inf
    before = net.parameters.copy()
    with pytest.raises(ValueError, match="infinity"):
        fastbp.Trainer(net, backend="cuda", batch_size=4).fit(X, y)
    np.testing.assert_array_equal(net.parameters, before)


def test_a_device_that_is_full_says_so_and_a_smaller_fit_works(monkeypatch: pytest.MonkeyPatch) -> None:
    from fastbp.kernels.numba_cuda import memory

    X, y = data()
    net = fastbp.Network(SIZES, dtype="float32", random_state=0)
    trainer = fastbp.Trainer(net, backend="cuda", batch_size=4, random_state=0)
    before, copy = net.parameters.copy(), memory.cuda.to_device

    def full(array: np.ndarray, *arguments: Any) -> Any:
        if array.nbytes > 200:
            raise RuntimeError("[2] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY")
        return copy(array, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(memory.cuda, "to_device", full)
        patch.setattr(memory, "free_memory", lambda: (1000, 2000), raising=True)
        with pytest.raises(MemoryError, match="do not fit into the GPU's memory"):
            trainer.fit(X, y)
    np.testing.assert_array_equal(net.parameters, before)
    trainer.fit(X[:8], y[:8])
    assert (net.parameters != before).any()


def test_a_fit_that_found_no_room_may_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it works in is made anew, for it has more samples than the fit before."""
    from fastbp.kernels.numba_cuda import runs

    X, y = data()
    trainers = []
    for _ in range(2):
        net = fastbp.Network(SIZES, dtype="float32", random_state=0)
        trainers.append(fastbp.Trainer(net, backend="cuda", batch_size="full", random_state=0))
        trainers[-1].fit(X[:4], y[:4], shuffle=False)
    unlucky, lucky = trainers

    def full(*arguments: Any) -> Any:
        raise MemoryError("no room")

    with monkeypatch.context() as patch:
        patch.setattr(runs, "zeros", full)
        with pytest.raises(MemoryError, match="no room"):
            unlucky.fit(X, y, shuffle=False)
    for trainer in trainers:
        trainer.fit(X, y, shuffle=False)
    np.testing.assert_array_equal(unlucky.network.parameters, lucky.network.parameters)


def test_all_work_on_the_device_is_on_the_one_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    import contextlib

    from fastbp.kernels import numba_cuda
    from fastbp.kernels.numba_cuda import foreign, runs
    from numba import cuda

    chosen: list[int | None] = []
    seen: list[str] = []
    original = numba_cuda.on_device

    @contextlib.contextmanager
    def on_device(number: int | None = None, precision: str = "") -> Any:
        chosen.append(number)
        with original(number, precision):
            yield
        chosen.pop()

    def watched(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def watch(*arguments: Any, **options: Any) -> Any:
            seen.append(name)
            assert chosen[-1:] == [0], name
            return function(*arguments, **options)

        monkeypatch.setattr(owner, name, watch)

    monkeypatch.setattr(numba_cuda, "on_device", on_device)
    watched(foreign, "is_finite")
    watched(runs.Session, "train")
    watched(runs.Session, "carry")
    X, y = data()
    net = fastbp.Network(SIZES, dtype="float32", random_state=0)
    trainer = fastbp.Trainer(net, backend="cuda", batch_size=4, device=0)
    trainer.fit(cuda.to_device(X), y)
    seen.clear()
    assert trainer.m.any()
    assert seen == ["carry"]
    trainer.fit(cuda.to_device(X), y)
    assert {"is_finite", "train", "carry"} <= set(seen)


def test_a_precision_is_asked_for_by_name() -> None:
    net = fastbp.Network(SIZES, dtype="float32", random_state=0)
    with pytest.raises(ValueError, match="precision is 'half'; choose one of 'tf32'"):
        fastbp.Trainer(net, backend="cuda", precision="half")
    with pytest.raises(ValueError, match="which tensor cores have; pass backend='cuda'"):
        fastbp.Trainer(net, backend="numpy", precision="tf32")
    with pytest.raises(ValueError, match="the network's dtype is float64"):
        fastbp.Trainer(fastbp.Network(SIZES, dtype="float64"), backend="cuda", precision="tf32")


@pytest.mark.parametrize("column", [0, -1])
@pytest.mark.parametrize("walked", [True, False])
def test_a_step_on_a_sample_that_is_not_finite_changes_nothing(
    walked: bool, column: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not walked:
        monkeypatch.setattr("fastbp.kernels.numba_cuda.runs.MOST_WALKED_FLOPS", 0)
    X, y = data()
    net = fastbp.Network(SIZES, dtype="float32", random_state=0)
    trainer = fastbp.Trainer(net, backend="cuda", random_state=0)
    trainer.step(X[0], y[0])
    before = net.parameters.copy()
    X[1, column] = np.nan
    with pytest.raises(ValueError, match="leave this sample out"):
        trainer.step(X[1], y[1])
    np.testing.assert_array_equal(net.parameters, before)
    assert trainer.step(X[2], y[2]) > 0
