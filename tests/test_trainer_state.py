"""What a fit leaves behind: nothing if its data are bad, and moments that stay true to every way to read them."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

import fastbp
from fastbp import kernels
from fastbp.run import NonFinite

OPTIMIZERS = {"sgd": "sgd", "nesterov": fastbp.SGD(0.05, momentum=0.9, nesterov=True), "adam": "adam"}


def make_trainer(backend: str, optimizer: Any = "adam", batch_size: int = 16, dtype: str = "float32") -> fastbp.Trainer:
    net = fastbp.Network((7, 5, 3), dtype=dtype, random_state=0, backend=backend)
    return fastbp.Trainer(net, optimizer=optimizer, batch_size=batch_size, backend=backend, random_state=0)


def make_data(n: int, dtype: str = "float32") -> tuple[Any, Any]:
    rng = np.random.default_rng(n)
    return rng.normal(size=(n, 7)).astype(dtype), rng.integers(0, 3, n)


def state_of(trainer: fastbp.Trainer) -> tuple[Any, ...]:
    arrays = trainer.network.parameters.copy(), trainer.m.copy(), trainer.v.copy()
    return *(array.tobytes() for array in arrays), trainer.n_steps, str(trainer.random_state.bit_generator.state)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("n", [20, 200])  # checked before the run, and while it gathers
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("batch_size", [1, 16, 400])
def test_samples_that_are_not_finite_change_nothing(
    backend_name: str, optimizer: str, n: int, bad: float, batch_size: int
) -> None:
    X, y = make_data(n)
    trainer = make_trainer(backend_name, OPTIMIZERS[optimizer], batch_size)
    trainer.fit(X, y, epochs=2)
    for where in (0, n // 2, n - 1):
        before = state_of(copy.deepcopy(trainer))
        damaged = X.copy()
        damaged[where, where % 7] = bad
        with pytest.raises(ValueError, match=r"contains (NaN|infinity)"):
            trainer.fit(damaged, y, epochs=2)
        assert state_of(copy.deepcopy(trainer)) == before
    goes_on, anew = trainer.fit(X, y), make_trainer(backend_name, OPTIMIZERS[optimizer], batch_size)
    assert anew.fit(X, y, epochs=3).loss[-1] == goes_on.loss[-1]
    assert state_of(trainer) == state_of(anew)


@pytest.mark.parametrize("batch", [1, 4, 16])
def test_steps_end_before_samples_that_are_not_finite(backend: kernels.Backend, batch: int) -> None:
    """Seen through the kernels themselves: the steps before are done, those after are not."""
    from fastbp.plan import Data, no_data, run_buffers, training_plan

    net = fastbp.Network((7, 5, 3), random_state=0, backend=backend.name, dtype="float64")
    X, y = make_data(5 * batch, "float64")
    X[3 * batch, 2] = np.nan
    plan = training_plan(
        net.layout,
        net.activations,
        kernels.Loss.CROSS_ENTROPY,
        kernels.Optimizer.SGD,
        batch,
        Data(classes=True, checked=False),
    )
    data = {**no_data(np.float64, 7, 3), "X": X, "classes": y.astype(np.int64)}
    buffers = run_buffers(plan, backend, data, {"params": net.parameters}, 1)
    losses = np.zeros(3)
    steps = kernels.step_table(5, rate=0.1)
    backend.train_steps(plan.rows, steps, np.arange(5 * batch), batch, buffers, losses)
    assert losses[2] == 3
    assert np.isfinite(net.parameters).all()
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("optimizer", ["nesterov", "adam"])
@pytest.mark.parametrize("sizes", [(20, 20), (200, 200), (20, 200, 20), (200, 20)])
@pytest.mark.parametrize("look", [0, 1, 2])
def test_moments_can_be_read_and_changed_between_fits(
    backend_name: str, optimizer: str, sizes: tuple[int, ...], look: int
) -> None:
    """Whether and when somebody looks at the moments makes no difference, and what he writes there counts."""
    watched, alone = (make_trainer(backend_name, OPTIMIZERS[optimizer]) for _ in range(2))
    seen = None
    for position, n in enumerate(sizes):
        X, y = make_data(n)
        if position == look:
            seen = watched.m, watched.v
        assert watched.fit(X, y).loss == alone.fit(X, y).loss
    assert state_of(watched) == state_of(alone)
    if seen is not None:
        assert seen[0].tobytes() == alone.m.tobytes()
        assert seen[1].tobytes() == alone.v.tobytes()
    watched.m[...] = 0
    watched.v[...] = 0
    alone = make_trainer(backend_name, OPTIMIZERS[optimizer])
    alone.network.parameters[...] = watched.network.parameters
    alone.n_steps, alone.random_state = watched.n_steps, copy.deepcopy(watched.random_state)
    assert watched.fit(*make_data(40)).loss == alone.fit(*make_data(40)).loss
    assert state_of(watched) == state_of(alone)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("sizes", [(20, 20), (200, 20), (20, 200), (200, 200), (5, 20)])
@pytest.mark.parametrize("event", ["m", "pickle", "deepcopy", "refused", "another trainer"])
def test_parameters_written_between_fits_count(
    backend_name: str, optimizer: str, sizes: tuple[int, int], event: str
) -> None:
    """Whatever happens to the moments, the network's parameters are their owner's between two fits."""
    trainer, other = (make_trainer(backend_name, OPTIMIZERS[optimizer]) for _ in range(2))
    trainer.fit(*make_data(sizes[0]))
    written = np.random.default_rng(3).normal(size=trainer.network.n_parameters).astype("float32")
    trainer.network.parameters[...] = written
    if event == "m":
        trainer.m.sum()
    elif event == "refused":
        with pytest.raises(ValueError, match="NaN"):
            trainer.fit(np.full((sizes[1], 7), np.nan, "float32"), make_data(sizes[1])[1])
    elif event == "another trainer":
        helper = fastbp.Trainer(trainer.network, batch_size=16, backend=backend_name, random_state=1)
        helper.fit(*make_data(30))
        written = trainer.network.parameters.copy()
    else:
        {"pickle": pickle.dumps, "deepcopy": copy.deepcopy}[event](trainer)
    np.testing.assert_array_equal(trainer.network.parameters, written)
    other.fit(*make_data(sizes[0]))
    other.m.sum()
    other.network.parameters[...] = written
    assert trainer.fit(*make_data(sizes[1])).loss == other.fit(*make_data(sizes[1])).loss
    assert state_of(trainer) == state_of(other)


@pytest.mark.parametrize("when", ["on_train_begin", "on_epoch_begin", "on_epoch_end"])
@pytest.mark.parametrize("sizes", [(20, 20), (200, 20), (200, 200)])
def test_callbacks_see_and_change_the_moments(backend_name: str, when: str, sizes: tuple[int, int]) -> None:
    trainer, watched = (make_trainer(backend_name) for _ in range(2))
    trainer.fit(*make_data(sizes[0]))
    watched.fit(*make_data(sizes[0]))
    expected = watched.m.copy()
    seen: list[Any] = []

    class Zero(fastbp.Callback):
        pass

    def look(self: Any, state: Any) -> None:
        seen.append(state.trainer.m.copy())
        state.trainer.m[...] = 0

    setattr(Zero, when, look)
    trainer.fit(*make_data(sizes[1]), callbacks=[Zero()])
    if when != "on_epoch_end":
        np.testing.assert_array_equal(seen[0], expected)
        watched.m[...] = 0
    watched.fit(*make_data(sizes[1]))
    if when == "on_epoch_end":
        np.testing.assert_array_equal(seen[0], watched.m)
        watched.m[...] = 0
    assert state_of(trainer) == state_of(watched)


def test_weights_that_sum_to_zero_leave_the_generator(backend_name: str) -> None:
    trainer, weights = make_trainer(backend_name), np.zeros(200)
    weights[0] = 1
    before = state_of(trainer)
    with pytest.raises(ZeroDivisionError, match="sum to zero"):
        trainer.fit(*make_data(200), sample_weight=weights)
    assert state_of(trainer) == before


@pytest.mark.parametrize("how", [pickle.dumps, copy.deepcopy], ids=["pickle", "deepcopy"])
def test_a_copy_taken_after_a_fit_has_its_moments(backend_name: str, how: Any) -> None:
    X, y = make_data(20)
    trainer = make_trainer(backend_name)
    trainer.fit(X, y, epochs=3)
    again = how(trainer)
    again = pickle.loads(again) if isinstance(again, bytes) else again
    assert trainer.fit(X, y).loss == again.fit(X, y).loss
    assert state_of(trainer) == state_of(again)


def test_a_shallow_copy_learns_for_itself(backend_name: str) -> None:
    X, y = make_data(20)
    trainer = make_trainer(backend_name)
    trainer.fit(X, y)
    again, before = copy.copy(trainer), state_of(trainer)
    assert state_of(again) == before
    again.fit(X, y)
    assert state_of(trainer) == before
    assert state_of(again) != before


@pytest.mark.skipif(kernels.resolve() == "numba", reason="the Cython backend, which it would take, is not built")
def test_a_trainer_whose_backend_is_not_here_takes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = make_data(20)
    trainer = make_trainer("numba")
    trainer.fit(X, y)
    stored, why_not = pickle.dumps(trainer), kernels._why_not
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "_why_not", lambda name: "away" if name == "numba" else why_not(name))
        kernels._load.cache_clear()  # as in a process that never had it
        again = pickle.loads(stored)
    assert again.backend != "numba"
    assert again.fit(X, y).loss == pytest.approx(trainer.fit(X, y).loss, rel=1e-4)


class Failing(fastbp.Callback):
    """Fails with an error of its own after some steps."""

    every_n_steps = 1

    def __init__(self, error: type[Exception], step: int) -> None:
        self.error, self.step = error, step

    def on_step_end(self, state: Any) -> None:
        if state.step == self.step:
            raise self.error("the callback's")


@pytest.mark.parametrize("error", [ZeroDivisionError, NonFinite, KeyError])
@pytest.mark.parametrize("step", [1, 3, 4])
def test_an_error_of_a_callback_leaves_the_steps_done(backend_name: str, error: type[Exception], step: int) -> None:
    X, y = make_data(2 * 16)
    failed, whole = make_trainer(backend_name), make_trainer(backend_name)
    with pytest.raises(error, match="the callback's"):
        failed.fit(X, y, epochs=2, callbacks=[Failing(error, step)])
    assert failed.n_steps == step
    seen: list[Any] = []

    class Watch(fastbp.Callback):
        every_n_steps = 1

        def on_step_end(self, state: Any) -> None:
            seen.append(state_of(state.trainer)[:4])

    whole.fit(X, y, epochs=2, callbacks=[Watch()])
    assert state_of(failed)[:4] == seen[step - 1]


@pytest.mark.parametrize("name", ["m", "v", "network", "backend", "clip_value", "clip_norm", "average_decay"])
def test_what_buffers_depend_on_cannot_be_replaced(name: str) -> None:
    trainer = make_trainer("numpy")
    with pytest.raises(AttributeError, match=rf"Trainer\.{name} cannot be replaced"):
        setattr(trainer, name, None)


def test_records_of_steps_are_those_of_this_fit(backend_name: str) -> None:
    """What a fit leaves in the records of its steps does not reach the next one: a copy without them learns alike."""
    X, y = make_data(20)
    weight = np.linspace(0.1, 1, 20)
    trainer = make_trainer(backend_name, batch_size=6)
    fits: list[dict[str, Any]] = [{}, {"alpha": 0.1}, {}, {"sample_weight": weight}, {"sample_weight": weight[::-1]}]
    fits += [{}, {"reduction": "sum"}, {"alpha": 0.1, "sample_weight": weight}, {"epochs": 3}, {}]
    for n, options in enumerate(fits):
        rows = slice(None) if n % 3 else slice(13)
        options = {name: value[rows] if name == "sample_weight" else value for name, value in options.items()}
        again = copy.deepcopy(trainer)
        for each in (trainer, again):
            each.fit(X[rows], y[rows], **options)
        assert state_of(again) == state_of(trainer), options
