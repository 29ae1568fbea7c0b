"""Schedules of the learning rate: PyTorch's numbers, in every optimiser's steps, from fit to fit and through files."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastbp
from fastbp.callbacks import History
from fastbp.schedules import (
    SCHEDULES,
    Constant,
    Cosine,
    CosineRestarts,
    Curve,
    Exponential,
    InverseScaling,
    MultiStepDecay,
    OneCycle,
    Plateau,
    Polynomial,
    ReduceOnPlateau,
    Schedule,
    Span,
    StepDecay,
    WarmUp,
    scale,
)

RATE = 0.1
EPOCH = 7
"""Steps of an epoch, where epochs are counted."""

PER_STEP: dict[str, tuple[Callable[..., Schedule], Callable[[Any, Any], Any], int]] = {
    "step": (lambda **o: StepDecay(30, 0.5, **o), lambda t, s: t.StepLR(s, 30, 0.5), 200),
    "multi-step": (
        lambda **o: MultiStepDecay([10, 40, 40, 90], 0.3, **o),
        lambda t, s: t.MultiStepLR(s, [10, 40, 40, 90], 0.3),
        120,
    ),
    "exponential": (lambda **o: Exponential(0.97, **o), lambda t, s: t.ExponentialLR(s, 0.97), 300),
    "cosine": (lambda **o: Cosine(100, **o), lambda t, s: t.CosineAnnealingLR(s, 100), 101),
    "cosine, minimum": (
        lambda **o: Cosine(100, minimum=0.2, **o),
        lambda t, s: t.CosineAnnealingLR(s, 100, eta_min=0.2 * RATE),
        101,
    ),
    "restarts": (
        lambda **o: CosineRestarts(30, minimum=0.1, **o),
        lambda t, s: t.CosineAnnealingWarmRestarts(s, 30, eta_min=0.1 * RATE),
        200,
    ),
    "restarts, longer and longer": (
        lambda **o: CosineRestarts(10, growth=3, **o),
        lambda t, s: t.CosineAnnealingWarmRestarts(s, 10, T_mult=3),
        500,
    ),
    "one cycle": (lambda **o: OneCycle(100, **o), lambda t, s: t.OneCycleLR(s, RATE, 100, cycle_momentum=False), 100),
    "one cycle, otherwise": (
        lambda **o: OneCycle(57, pct_start=0.11, div_factor=7, final_div_factor=90, **o),
        lambda t, s: t.OneCycleLR(s, RATE, 57, pct_start=0.11, div_factor=7, final_div_factor=90, cycle_momentum=False),
        57,
    ),
    "one cycle, only down": (
        lambda **o: OneCycle(40, pct_start=0, **o),
        lambda t, s: t.OneCycleLR(s, RATE, 40, pct_start=0.0, cycle_momentum=False),
        40,
    ),
    "warm-up": (lambda **o: WarmUp(5, **o), lambda t, s: t.LinearLR(s), 20),
    "warm-up from 0.01": (
        lambda **o: WarmUp(30, start=0.01, **o),
        lambda t, s: t.LinearLR(s, 0.01, total_iters=30),
        60,
    ),
    "warm-up, then cosine": (
        lambda **o: WarmUp(20, Cosine(80, **o), 0.05, **o),
        lambda t, s: t.SequentialLR(
            s, [t.LinearLR(s, 0.05, total_iters=20), t.CosineAnnealingLR(s, 80)], milestones=[20]
        ),
        100,
    ),
    "polynomial": (lambda **o: Polynomial(5, **o), lambda t, s: t.PolynomialLR(s), 12),
    "polynomial, square": (
        lambda **o: Polynomial(100, power=2.0, **o),
        lambda t, s: t.PolynomialLR(s, 100, power=2.0),
        150,
    ),
}


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch", reason="PyTorch's schedules are the judge")


def torch_rates(torch: Any, make: Callable[[Any, Any], Any], n: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    scheduler, rates = make(torch.optim.lr_scheduler, optimizer), []
    for _ in range(n):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.filterwarnings("ignore:The epoch parameter")
@pytest.mark.parametrize("name", PER_STEP)
def test_factors_are_pytorchs(name: str, torch: Any) -> None:
    make, make_theirs, n = PER_STEP[name]
    expected = np.array(torch_rates(torch, make_theirs, n)) / RATE
    np.testing.assert_allclose(make(unit="step").factors(0, n), expected, rtol=1e-12, atol=1e-12)
    by_epochs = make(staircase=True).factors(0, n * EPOCH, Span(EPOCH))
    np.testing.assert_allclose(by_epochs, np.repeat(expected, EPOCH), rtol=1e-12, atol=1e-12)


def test_reduction_on_plateaus_is_pytorchs(torch: Any) -> None:
    for seed in range(40):
        rng = np.random.default_rng(seed)
        losses = np.abs(np.cumsum(rng.normal(-0.01, 0.3, 120)) + 3).tolist()
        patience, cooldown, relative = int(rng.integers(0, 6)), int(rng.integers(0, 5)), bool(seed % 2)
        schedule = ReduceOnPlateau(
            "loss", gamma=0.5, patience=patience, threshold=0.05, relative=relative, cooldown=cooldown, minimum=0.02
        )
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
        theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer,
            factor=0.5,
            patience=patience,
            threshold=0.05,
            threshold_mode="rel" if relative else "abs",
            cooldown=cooldown,
            min_lr=0.02 * RATE,
        )
        plateau, found, expected = Plateau(), [], []
        for loss in losses:
            theirs.step(loss)
            plateau = schedule.after_epoch(plateau, History(loss=[loss]))
            found.append(schedule.factors(0, 1, None, plateau)[0])
            expected.append(optimizer.param_groups[0]["lr"] / RATE)
        assert min(expected) < 1
        np.testing.assert_allclose(found, expected, rtol=1e-12)


# ----------------------------------------------------------------------------------------- without a judge


def test_factors_by_their_formulas() -> None:
    t = np.arange(40)
    formulas: list[tuple[Schedule, Any]] = [
        (Constant(), np.ones(40)),
        (InverseScaling(), (t + 1) ** -0.5),
        (InverseScaling(2.0), 1 / (t + 1.0) ** 2),
        (StepDecay(10, unit="step"), 0.1 ** (t // 10)),
        (MultiStepDecay((5, 20), unit="step"), np.select([t < 5, t < 20], [1, 0.1], 0.01)),
        (Exponential(1.1, unit="step"), 1.1**t),
        (Polynomial(20, 3.0, 0.1, unit="step"), 0.1 + 0.9 * (1 - np.minimum(t, 20) / 20) ** 3),
        (Cosine(20, 0.1, unit="step"), 0.1 + 0.45 * (1 + np.cos(np.pi * np.minimum(t, 20) / 20))),
        (CosineRestarts(10, unit="step"), (1 + np.cos(np.pi * (t % 10) / 10)) / 2),
        (WarmUp(8, start=0.0, unit="step"), np.minimum(t / 8, 1)),
        (WarmUp(8, InverseScaling(), unit="step"), np.where(t < 8, (1 + t / 4) / 3, np.maximum(t - 7, 1.0) ** -0.5)),
    ]
    for schedule, expected in formulas:
        np.testing.assert_allclose(schedule.factors(0, 40), expected, rtol=1e-14, atol=1e-16, err_msg=repr(schedule))


def test_inverse_scaling_is_scikit_learns() -> None:
    from sklearn.neural_network._stochastic_optimizers import SGDOptimizer

    theirs = SGDOptimizer([], learning_rate_init=0.3, lr_schedule="invscaling", power_t=0.4)
    for step, factor in enumerate(InverseScaling(0.4).factors(0, 50)):
        theirs.iteration_ends(step)
        np.testing.assert_allclose(0.3 * factor, theirs.learning_rate, rtol=1e-15)


ALL: dict[str, Schedule] = {
    "constant": Constant(),
    "inverse scaling": InverseScaling(),
    "step": StepDecay(2),
    "multi-step": MultiStepDecay([1, 3]),
    "exponential": Exponential(0.8),
    "polynomial": Polynomial(),
    "cosine": Cosine(minimum=0.05),
    "cosine in steps": Cosine(20, unit="step"),
    "cosine by epochs": Cosine(staircase=True),
    "restarts": CosineRestarts(1, 2),
    "one cycle": OneCycle(),
    "warm-up": WarmUp(3, "one_cycle", unit="step"),
    "plateau": ReduceOnPlateau("loss", patience=0, threshold=0.02, gamma=0.5),
    "warm-up, then plateau": WarmUp(1, ReduceOnPlateau("loss", patience=0, threshold=0.5)),
}


def test_every_schedule_is_among_these() -> None:
    assert {type(schedule) for schedule in ALL.values()} == set(SCHEDULES.values())


@pytest.mark.parametrize("name", ALL)
def test_factors_do_not_depend_on_where_they_are_cut(name: str) -> None:
    schedule, span = ALL[name], Span(EPOCH, 5 * EPOCH)
    whole = schedule.factors(0, 5 * EPOCH, span)
    assert whole.shape == (5 * EPOCH,)
    assert whole.dtype == np.float64
    for cut in (0, 1, 3, EPOCH, EPOCH + 1, 4 * EPOCH, 5 * EPOCH):
        parts = schedule.factors(0, cut, span), schedule.factors(cut, 5 * EPOCH - cut, span)
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-15)


COUNTED_IN_EPOCHS = [
    schedule
    for schedule in ALL.values()
    if getattr(schedule, "unit", "epoch") == "epoch" and not isinstance(schedule, OneCycle)
]


@pytest.mark.parametrize("schedule", COUNTED_IN_EPOCHS, ids=repr)
def test_epochs_are_as_many_steps_as_they_have(schedule: Schedule) -> None:
    """A schedule of epochs, looked at where epochs begin, does not see how many steps they have."""
    few, many = (schedule.factors(0, 6 * n, Span(n, 6 * n))[::n] for n in (1, 50))
    np.testing.assert_allclose(few, many, rtol=1e-14, atol=1e-16)


def test_without_a_length_they_end_with_the_fit() -> None:
    span = Span(EPOCH, 3 * EPOCH)
    for left_out, given in ((Cosine(), Cosine(3)), (Polynomial(), Polynomial(3)), (OneCycle(), OneCycle(3))):
        np.testing.assert_array_equal(left_out.factors(0, 21, span), given.factors(0, 21, span))
    rest = WarmUp(1, Polynomial()).factors(0, 21, span)
    np.testing.assert_allclose(rest[EPOCH:], 1 - np.arange(14) / 14)
    one_cycle = OneCycle().factors(0, 21, span)
    np.testing.assert_allclose(one_cycle[0], 1 / 25)
    np.testing.assert_allclose(one_cycle.max(), 1, rtol=0.01)
    np.testing.assert_allclose(one_cycle[-1], 1 / 25e4)


@pytest.mark.parametrize("schedule", [Cosine(2), Polynomial(2), OneCycle(2)])
def test_beyond_their_end_they_stay(schedule: Schedule) -> None:
    found = schedule.factors(0, 50, Span(5))
    assert len(set(found[10:])) == 1
    assert found[-1] == found.min()


@pytest.mark.parametrize("total", [1, 2, 3, 4, 10])
def test_one_cycle_of_few_steps(total: int) -> None:
    for pct_start in (0.0, 0.1, 0.3, 0.5, 0.99):
        found = OneCycle(total, pct_start=pct_start, unit="step").factors(0, total)
        assert np.isfinite(found).all()
        assert (found <= 1).all()
        np.testing.assert_allclose(found[-1], 1 / 25e4)


# -------------------------------------------------------------------------------------------- in a training


OPTIMIZERS: dict[str, fastbp.optimizers.Optimizer] = {
    "sgd": fastbp.SGD(0.1),
    "momentum": fastbp.SGD(0.1, momentum=0.9),
    "nesterov": fastbp.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": fastbp.Adam(0.02),
    "adamw": fastbp.AdamW(0.02, weight_decay=0.3),
}


def data(n: int = 50) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, 6)), rng.integers(0, 3, n)


def make(backend: str = "auto", **options: Any) -> fastbp.Trainer:
    net = fastbp.Network((6, 8, 3), "tanh", dtype="float64", random_state=0, backend=backend)
    return fastbp.Trainer(net, **{"batch_size": 8, "random_state": 0, "backend": backend, **options})


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_each_step_is_one_at_the_scaled_rate(name: str, backend_name: str) -> None:
    """AdamW's decay goes with the rate, and Adam's corrections with the step."""
    X, y = data(32)
    optimizer = OPTIMIZERS[name]
    trainer = make(backend_name, optimizer=optimizer, schedule=Exponential(0.6, unit="step"))
    trainer.fit(X, y, shuffle=False, epochs=2)
    by_hand = make(backend_name, optimizer=optimizer)
    for step in range(8):
        single = fastbp.Trainer(
            by_hand.network,
            optimizer=optimizer.with_learning_rate(optimizer.learning_rate * 0.6**step),
            batch_size=8,
            backend=backend_name,
        )
        single.n_steps = step
        single.m[...], single.v[...] = by_hand.m, by_hand.v
        rows = slice(8 * (step % 4), 8 * (step % 4) + 8)
        single.fit(X[rows], y[rows], shuffle=False)
        by_hand.m[...], by_hand.v[...] = single.m, single.v
    np.testing.assert_allclose(trainer.network.parameters, by_hand.network.parameters, rtol=1e-12, atol=1e-14)
    assert (trainer.network.parameters != make().network.parameters).any()


def torch_training(torch: Any, net: fastbp.Network, optimizer: Any, scheduler: Any, X: Any, y: Any, epochs: int) -> Any:
    """Train a copy of a network with PyTorch, the scheduler after every mini-batch."""
    parameters = [torch.tensor(array.copy(), requires_grad=True) for array in (*net.weights, *net.biases)]
    optimizer = optimizer(parameters)
    scheduler = scheduler(optimizer)
    X, y = torch.tensor(X), torch.tensor(y)
    W1, W2, b1, b2 = parameters
    for _ in range(epochs):
        for start in range(0, len(X), 8):
            rows = slice(start, start + 8)
            loss = torch.nn.functional.cross_entropy(torch.tanh(X[rows] @ W1 + b1) @ W2 + b2, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
    return np.concatenate([parameter.detach().numpy().ravel() for parameter in parameters])


def test_a_training_with_adamw_and_one_cycle_is_pytorchs(torch: Any) -> None:
    X, y = data(50)
    trainer = make(optimizer=fastbp.AdamW(0.05, weight_decay=0.2), schedule="one_cycle")
    expected = torch_training(
        torch,
        trainer.network,
        lambda parameters: torch.optim.AdamW(parameters, 0.05, weight_decay=0.2),
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.05, 28, cycle_momentum=False),
        X,
        y,
        epochs=4,
    )
    np.testing.assert_allclose(train(trainer, X, y, 4), expected, rtol=1e-8, atol=1e-10)


def test_a_training_with_sgd_and_step_decay_is_pytorchs(torch: Any) -> None:
    X, y = data(50)
    trainer = make(optimizer=fastbp.SGD(0.3), schedule=StepDecay(1, 0.5))
    expected = torch_training(
        torch,
        trainer.network,
        lambda parameters: torch.optim.SGD(parameters, 0.3),
        lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.5),  # 7 mini-batches are an epoch
        X,
        y,
        epochs=4,
    )
    np.testing.assert_allclose(train(trainer, X, y, 4), expected, rtol=1e-10, atol=1e-12)


def train(trainer: fastbp.Trainer, X: Any, y: Any, epochs: int) -> Any:
    trainer.fit(X, y, epochs=epochs, shuffle=False)
    return trainer.network.parameters


def test_no_schedule_and_a_constant_one_have_the_same_bits() -> None:
    X, y = data()
    for optimizer in OPTIMIZERS.values():
        without, constant = (make(optimizer=optimizer, schedule=schedule) for schedule in (None, "constant"))
        assert without.fit(X, y, epochs=3).loss == constant.fit(X, y, epochs=3).loss
        np.testing.assert_array_equal(without.network.parameters, constant.network.parameters)


def test_the_history_tells_the_rates() -> None:
    X, y = data()
    history = make(optimizer=fastbp.SGD(0.5), schedule=StepDecay(2, 0.1)).fit(X, y, epochs=5)
    np.testing.assert_allclose(history.learning_rate, [0.5, 0.5, 0.05, 0.05, 0.005])
    assert make(optimizer=fastbp.SGD(0.5)).fit(X, y, epochs=2).learning_rate == [0.5, 0.5]
    history = make(optimizer=fastbp.Adam(0.5), schedule=Polynomial(), batch_size=25).fit(X, y, epochs=2)
    np.testing.assert_allclose(history.learning_rate, [0.5 * 3 / 4, 0.5 * 1 / 4])


def test_a_schedule_in_epochs_learns_from_the_fit_how_many_steps_they_have() -> None:
    X, y = data()
    for batch_size, n_steps in ((50, 1), (7, 8)):
        trainer = make(schedule=StepDecay(1, 0.5), batch_size=batch_size, optimizer=fastbp.SGD(1.0))
        assert trainer.fit(X, y, epochs=3).learning_rate == [1.0, 0.5, 0.25]
        assert trainer.n_steps == 3 * n_steps


def test_cuts_change_nothing(backend_name: str) -> None:
    X, y = data()
    found = []
    for every in (None, 1, 3):
        callback = fastbp.Callback()
        callback.every_n_steps = every
        trainer = make(backend_name, schedule=WarmUp(1, "cosine"))
        trainer.fit(X, y, epochs=3, callbacks=[callback])
        found.append(trainer.network.parameters)
    for parameters in found[1:]:
        np.testing.assert_array_equal(parameters, found[0])


def state_of(trainer: fastbp.Trainer) -> tuple[Any, ...]:
    return trainer.network.parameters.tobytes(), trainer.m.tobytes(), trainer.n_steps, trainer.plateau


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("how", ["save", "pickle", "deepcopy", "second fit"])
def test_a_schedule_goes_on_where_it_stood(name: str, how: str, tmp_path: Path) -> None:
    """Two fits of 3 and 2 epochs are one of 5, for a length that is left out as well."""
    X, y = data()
    whole, parts = (make(schedule=ALL[name], learning_rate=0.1) for _ in range(2))
    losses = whole.fit(X, y, epochs=5).loss
    copies = {
        "save": lambda trainer: (
            fastbp.save(trainer, tmp_path / "trainer"),
            fastbp.load(tmp_path / "trainer"),
        )[1],
        "pickle": lambda trainer: pickle.loads(pickle.dumps(trainer)),
        "deepcopy": copy.deepcopy,
        "second fit": lambda trainer: trainer,
    }

    class StopAfterThree(fastbp.Callback):
        def on_epoch_end(self, state: fastbp.TrainingState) -> None:
            state.stop_training = state.epoch == 3

    first = parts.fit(X, y, epochs=5, callbacks=[StopAfterThree()]).loss
    parts = copies[how](parts)
    assert parts.schedule == ALL[name]
    assert [*first, *parts.fit(X, y, epochs=2).loss] == losses
    assert state_of(parts) == state_of(whole)


def test_a_checkpoint_knows_what_the_schedule_has_seen(tmp_path: Path) -> None:
    X, y = data()
    trainer = make(schedule=ReduceOnPlateau("loss", patience=0, threshold=0.9, gamma=0.5), learning_rate=0.1)
    history = trainer.fit(X, y, epochs=4, callbacks=[fastbp.Checkpoint(tmp_path / "{epoch}")])
    assert history.learning_rate == [0.1, 0.1, 0.05, 0.025]
    assert trainer.plateau.factor == 0.125
    resumed = fastbp.load(tmp_path / "2")
    assert resumed.plateau.factor == 0.5
    assert resumed.fit(X, y, epochs=2).loss == history.loss[2:]


def test_reduction_goes_by_the_validation_loss() -> None:
    X, y = data(60)
    trainer = make(schedule=ReduceOnPlateau(patience=2, gamma=0.5), learning_rate=0.1)
    history = trainer.fit(X[:30], y[:30], epochs=40, validation_data=(X[30:], y[30:]))
    assert history.learning_rate[-1] < 0.1
    plateau, factors = Plateau(), [1.0]
    assert trainer.schedule is not None
    for loss in history.validation_loss:
        plateau = trainer.schedule.after_epoch(plateau, History(validation_loss=[loss]))
        factors.append(plateau.factor)
    np.testing.assert_allclose(history.learning_rate, 0.1 * np.array(factors[:-1]))
    assert trainer.plateau == plateau


def test_a_loss_that_is_nan_is_no_improvement() -> None:
    schedule, plateau = ReduceOnPlateau("loss", patience=1), Plateau()
    for loss in (1.0, math.nan, math.nan):
        plateau = schedule.after_epoch(plateau, History(loss=[loss]))
    assert plateau == Plateau(factor=0.1, best=1.0, waited=0, resting=0)


class Sawtooth(Curve):
    """A user's own."""

    def at(self, time: Any, end: float | None, tick: float) -> Any:
        return 1 - time % 1


def test_a_users_own_schedule(tmp_path: Path) -> None:
    X, y = data(32)
    trainer = make(optimizer=fastbp.SGD(1.0), schedule=Sawtooth())
    assert trainer.fit(X, y, epochs=2).learning_rate == [0.25, 0.25]
    with pytest.raises(TypeError, match="the schedule is a Sawtooth; a model file can hold those of"):
        fastbp.save(trainer, tmp_path / "trainer")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize("name", ["constant", "inverse_scaling", "polynomial", "cosine", "one_cycle", "warm_up"])
def test_names_stand_for_objects(name: str) -> None:
    trainer = make(schedule=name)
    assert trainer.schedule == SCHEDULES[name]()
    assert f", {trainer.schedule!r}, batch_size 8" in repr(trainer)
    trainer.fit(*data(), epochs=2)


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        ("cosin", ValueError, "unknown schedule 'cosin'; choose one of 'constant', 'inverse_scaling'"),
        (
            "step",
            ValueError,
            r"'step' cannot be chosen by name alone; pass .*\.StepDecay\(step_size=...\)",
        ),
        ("multi_step", ValueError, r"MultiStepDecay\(milestones=...\)"),
        ("exponential", ValueError, r"Exponential\(gamma=...\)"),
        ("cosine_restarts", ValueError, r"CosineRestarts\(period=...\)"),
        (0.5, TypeError, "schedule is a float; pass a name or an object"),
        (Cosine, TypeError, r"pass a name or an object such as fastbp.schedules.Cosine\(\)"),
    ],
)
def test_bad_schedules_are_refused(schedule: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(schedule=schedule)
    with pytest.raises(error, match=message):
        WarmUp(3, schedule)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Cosine(unit="batch"), ValueError, "unit is 'batch'; choose one of 'epoch', 'step'"),
        (lambda: Cosine(0), ValueError, "total is 0; pass a whole number of at least 1"),
        (lambda: Cosine(2.5), ValueError, "total is 2.5"),  # type: ignore[arg-type]
        (lambda: Cosine(minimum=2), ValueError, r"minimum is 2; pass a number in \[0, 1\]"),
        (lambda: CosineRestarts(0), ValueError, "period is 0"),
        (lambda: CosineRestarts(5, 0), ValueError, "growth is 0"),
        (lambda: StepDecay(0), ValueError, "step_size is 0"),
        (lambda: StepDecay(3, -1), ValueError, r"gamma is -1; pass a number in \(0, inf\)"),
        (lambda: MultiStepDecay([3, 0]), ValueError, "a milestone is 0"),
        (lambda: MultiStepDecay(3), TypeError, r"milestones is 3; pass whole numbers, as \(30, 60\)"),  # type: ignore[arg-type]
        (lambda: MultiStepDecay("12"), ValueError, "a milestone is '1'"),  # type: ignore[arg-type]
        (lambda: Exponential(0), ValueError, "gamma is 0"),
        (lambda: Polynomial(power=0), ValueError, "power is 0"),
        (lambda: InverseScaling(-1), ValueError, "power is -1"),
        (lambda: InverseScaling("x"), TypeError, "power is 'x'; pass a number"),  # type: ignore[arg-type]
        (lambda: OneCycle(pct_start=1), ValueError, r"pct_start is 1; pass a number in \[0, 1\)"),
        (lambda: OneCycle(div_factor=0.5), ValueError, "div_factor is 0.5"),
        (lambda: OneCycle(final_div_factor=math.inf), ValueError, "final_div_factor is inf"),
        (lambda: WarmUp(0), ValueError, "length is 0"),
        (lambda: WarmUp(start=1.5), ValueError, "start is 1.5"),
        (lambda: ReduceOnPlateau("accuracy"), ValueError, "monitor is 'accuracy'"),
        (lambda: ReduceOnPlateau(gamma=1), ValueError, r"gamma is 1; pass a number in \(0, 1\)"),
        (lambda: ReduceOnPlateau(patience=-1), ValueError, "patience is -1"),
        (lambda: ReduceOnPlateau(threshold=1), ValueError, "threshold is 1"),
        (lambda: ReduceOnPlateau(cooldown=0.5), ValueError, "cooldown is 0.5"),  # type: ignore[arg-type]
        (lambda: ReduceOnPlateau(minimum=-0.1), ValueError, "minimum is -0.1"),
    ],
)
def test_bad_numbers_are_refused(build: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_an_end_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Cosine\(.*ends with the fit, but it is not known when that is; pass total"):
        Cosine().factors(0, 10)


@pytest.mark.parametrize("schedule", [ReduceOnPlateau(), WarmUp(2, "reduce_on_plateau")])
def test_a_schedule_by_the_validation_loss_needs_one_and_changes_nothing(schedule: Schedule) -> None:
    trainer = make(schedule=schedule)
    before = state_of(trainer)
    with pytest.raises(ValueError, match="goes by the validation loss; pass validation_data"):
        trainer.fit(*data())
    assert state_of(trainer) == before


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_factors_that_are_no_rates_change_nothing(value: float) -> None:
    class Bad(Schedule):
        def factors(self, t: int, n_steps: int, span: Any = None, plateau: Any = None) -> Any:
            return np.full(n_steps, value)

    trainer = make(schedule=Bad())
    before = state_of(trainer), str(trainer.random_state.bit_generator.state)
    with pytest.raises(ValueError, match="they must be finite and at least 0"):
        trainer.fit(*data())
    assert (state_of(trainer), str(trainer.random_state.bit_generator.state)) == before


def test_a_schedule_cannot_be_replaced_or_changed() -> None:
    trainer = make(schedule="cosine")
    with pytest.raises(AttributeError, match=r"Trainer\.schedule cannot be replaced"):
        trainer.schedule = None
    with pytest.raises(AttributeError):
        trainer.schedule.minimum = 0.5  # type: ignore[misc, union-attr]


def test_scaling_leaves_what_is_no_rate() -> None:
    values = {"rate": np.array([1.0, 2.0]), "decay": 0.5, "beta_1": 0.9, "epsilon": np.array([3.0, 4.0])}
    found = scale(values, np.array([0.5, 0.25]))
    assert {name: np.asarray(value).tolist() for name, value in found.items()} == {
        "rate": [0.5, 0.5],
        "decay": [0.25, 0.125],
        "beta_1": 0.9,
        "epsilon": [3.0, 4.0],
    }
    assert scale(values, None) is values


# -------------------------------------------------------------------------------------------------- in files


@pytest.mark.parametrize("name", ALL)
def test_every_schedule_comes_back_from_a_file(name: str, tmp_path: Path) -> None:
    trainer = make(schedule=ALL[name])
    trainer.plateau = Plateau(0.25, 1.5, 3, 2)
    fastbp.save(trainer, tmp_path / "trainer")
    found = fastbp.load(tmp_path / "trainer")
    assert found.schedule == trainer.schedule
    assert repr(found.schedule) == repr(trainer.schedule)
    assert found.plateau == trainer.plateau


def test_a_file_from_before_there_were_schedules_is_read(tmp_path: Path) -> None:
    from fastbp import modelfile

    trainer = make()
    trainer.fit(*data())
    fastbp.save(trainer, tmp_path / "trainer")
    content, tensors, _ = modelfile.read(tmp_path / "trainer")
    for name in ("schedule", "plateau"):
        del content["trainer"]["dict"][name]
    modelfile.write(tmp_path / "trainer", content, tensors)
    found = fastbp.load(tmp_path / "trainer")
    assert (found.schedule, found.plateau) == (None, Plateau())
    assert found.fit(*data()).loss == trainer.fit(*data()).loss


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("schedule", "dict", "kind"), "eval", "KeyError: 'eval'"),
        (("schedule", "dict", "start"), 7.0, "start is 7.0"),
        (("schedule", "dict", "then", "dict", "milestones"), {"tuple": [0]}, "a milestone is 0"),
        (("schedule", "dict", "then"), 3, "schedule is a int"),
        (("schedule", "dict", "colour"), 3, "TypeError"),
        (("plateau",), {"tuple": [2.0, 1.0, 0, 0]}, "plateau is"),
        (("plateau",), {"tuple": [0.5, 1.0, -1, 0]}, "plateau is"),
        (("plateau",), {"tuple": [0.5, 1.0, 0, "0"]}, "plateau is"),
        (("plateau",), {"tuple": [0.5] * 9}, "TypeError"),
        (("plateau",), None, "TypeError"),
    ],
)
def test_a_forged_schedule_is_refused(path: tuple[str, ...], value: Any, message: str, tmp_path: Path) -> None:
    from fastbp import modelfile

    fastbp.save(make(schedule=WarmUp(2, MultiStepDecay([3, 5]))), tmp_path / "trainer")
    content, tensors, _ = modelfile.read(tmp_path / "trainer")
    place = content["trainer"]["dict"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    modelfile.write(tmp_path / "trainer", content, tensors)
    with pytest.raises(fastbp.ModelFileError, match=f"does not describe a model of fastbp .*{message}"):
        fastbp.load(tmp_path / "trainer")


def test_inspection_tells_the_schedule(tmp_path: Path) -> None:
    from fastbp.inspection import describe

    for schedule in (None, Cosine(30)):
        fastbp.save(make(schedule=schedule), tmp_path / "trainer")
        training = describe(tmp_path / "trainer")["training"]
        assert training.get("schedule") == (None if schedule is None else repr(schedule))
