"""Schedules of the learning rate: by which factor of the optimiser's own the next steps are taken.

A schedule knows no state but the number of steps done, which its trainer counts: so it goes on where it stood from fit
to fit, and after saving and loading. Lengths count epochs, or steps with ``unit="step"``; an epoch has as many steps as
in the present fit. Where a length called ``total`` is left out, the schedule ends with the fit. The names are those of
`torch.optim.lr_scheduler`, with which the factors agree: with ``unit="step"`` if its ``step()`` is called after every
mini-batch, with ``staircase=True`` if it is called after every epoch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .ranges import check_choice, check_range, check_whole

if TYPE_CHECKING:
    from .callbacks import History

Factors = NDArray[np.float64]


class Span(NamedTuple):
    """What a schedule knows of the fit: steps in an epoch, and how many will be done when it ends (None: unknown)."""

    steps_per_epoch: int = 1
    last_step: int | None = None


class Plateau(NamedTuple):
    """What `ReduceOnPlateau` has seen so far; the trainer keeps it.

    Attributes
    ----------
    factor : float
        By now.
    best : float
        The lowest loss.
    waited : int
        Epochs since then, or since the last reduction.
    resting : int
        Epochs still to be let pass after a reduction.
    """

    factor: float = 1.0
    best: float = math.inf
    waited: int = 0
    resting: int = 0


class Schedule:
    """Base of the schedules: immutable; a subclass has `factors`."""

    @property
    def monitor(self) -> str | None:
        """The loss that it goes by, if any: ``"loss"`` or ``"validation_loss"``."""
        return None

    @property
    def counts_epochs(self) -> bool:
        """Whether it goes by epochs, be it their number or their losses."""
        return self.monitor is not None

    def factors(self, t: int, n_steps: int, span: Span | None = None, plateau: Plateau | None = None) -> Factors:
        """Return the factors of the learning rate for the steps t + 1 to t + n_steps.

        Parameters
        ----------
        t : int
            Steps done before.
        n_steps : int
        span : Span, optional
            The fit: for lengths in epochs, and for those left out.
        plateau : Plateau, optional
            What losses have been seen.

        Returns
        -------
        ndarray of shape (n_steps,), dtype float64

        Raises
        ------
        ValueError
            If a length was left out and the span does not say when the fit ends.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method factors; a subclass of Schedule needs one")

    def after_epoch(self, plateau: Plateau, history: History) -> Plateau:
        """Return what has been seen when an epoch's losses are in the history."""
        return plateau


@dataclass(frozen=True)
class Constant(Schedule):
    """The optimiser's own learning rate throughout."""

    def factors(self, t: int, n_steps: int, span: Span | None = None, plateau: Plateau | None = None) -> Factors:
        return np.ones(n_steps)


@dataclass(frozen=True)
class Curve(Schedule):
    """Base of the schedules that are functions of time; a subclass has `at`.

    Parameters
    ----------
    unit : {"epoch", "step"}
        What lengths count.
    staircase : bool
        Whether the factor changes only between epochs, rather than from step to step.

    Raises
    ------
    ValueError
        If the unit is not one of these.
    """

    unit: str = field(default="epoch", kw_only=True)
    staircase: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        check_choice("unit", self.unit, ("epoch", "step"))

    @property
    def counts_epochs(self) -> bool:
        return self.unit == "epoch"

    def factors(self, t: int, n_steps: int, span: Span | None = None, plateau: Plateau | None = None) -> Factors:
        span = span or Span()
        in_unit, steps = self._steps_in_unit(span), np.arange(t, t + n_steps, dtype=np.int64)
        end = None if span.last_step is None else span.last_step / in_unit
        if self.staircase:
            return self.at((steps // in_unit).astype(np.float64), None if end is None else math.ceil(end), 1.0)
        return self.at(steps / in_unit, end, 1 / in_unit)

    def _steps_in_unit(self, span: Span) -> int:
        return span.steps_per_epoch if self.unit == "epoch" else 1

    def at(self, time: Factors, end: float | None, tick: float) -> Factors:
        """Return the factors of the steps that begin at some times, all counted in the unit.

        Parameters
        ----------
        time : ndarray of shape (n,)
            Ascending, from 0.
        end : float or None
            When the fit ends.
        tick : float
            From one step to the next.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method at; a subclass of Curve needs one")


@dataclass(frozen=True)
class InverseScaling(Curve):
    """1 / t^power for step t = 1, 2, ...: scikit-learn's ``invscaling``, eta / t^power_t.

    `sklearn.neural_network` counts samples and changes the rate after each epoch; with ``unit="epoch"`` the base is
    1 + epochs done.

    Parameters
    ----------
    power : float
        At least 0.
    unit : {"step", "epoch"}
    staircase : bool
        As for `Curve`.
    """

    power: float = 0.5
    unit: str = field(default="step", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("power", self.power, 0, np.inf, open_high=True)

    def at(self, time: Factors, end: float | None, tick: float) -> Factors:
        return np.power(1 + time, -self.power)


@dataclass(frozen=True)
class Exponential(Curve):
    """gamma^t (PyTorch's ExponentialLR).

    Parameters
    ----------
    gamma : float
        Greater than 0; above 1 the rate grows, as when one looks for the largest that is borne.
    unit : {"epoch", "step"}
    staircase : bool
        As for `Curve`.
    """

    gamma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_gamma(self.gamma)

    def at(self, time: Factors, end: float | None, tick: float) -> Factors:
        with np.errstate(under="ignore", over="ignore"):
            return np.power(float(self.gamma), time)


@dataclass(frozen=True)
class StepDecay(Curve):
    """gamma^floor(t / step_size): smaller by gamma after every so many epochs (PyTorch's StepLR).

    Parameters
    ----------
    step_size : int
        Epochs, or steps.
    gamma : float
        Greater than 0.
    unit : {"epoch", "step"}
    """

    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("step_size", self.step_size, 1)
        _check_gamma(self.gamma)

    def at(self, time: Factors, end: float | None, tick: float) -> Factors:
        with np.errstate(under="ignore", over="ignore"):
            return np.power(float(self.gamma), time // self.step_size)


@dataclass(frozen=True)
class MultiStepDecay(Curve):
    """gamma^k after k of the milestones (PyTorch's MultiStepLR).

    Parameters
    ----------
    milestones : iterable of int
        After how many epochs, or steps, the rate gets smaller; a number given twice counts twice.
    gamma : float
        Greater than 0.
    unit : {"epoch", "step"}
    """

    milestones: Iterable[int]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            milestones = tuple(self.milestones)
        except TypeError:
            raise TypeError(f"milestones is {self.milestones!r}; pass whole numbers, as (30, 60)") from None
        for milestone in milestones:
            check_whole("a milestone", milestone, 1)
        object.__setattr__(self, "milestones", tuple(sorted(map(int, milestones))))
        _check_gamma(self.gamma)

    def at(self, time: Factors, end: float | None, tick: float) -> Factors:
        passed = np.searchsorted(np.array(self.milestones, np.float64), time, side="right")
        with np.errstate(under="ignore", over="ignore"):
            return np.power(float(self.gamma), passed.astype(np.float64))


@dataclass(frozen=True)
class _Ending(Curve):
    """Base of those that end, at a time of their own or with the fit, and stay at their last value."""

    total: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.total is not None:
            check_whole("total", self.total, 1)

    def _end(self, end: float | None) -> float:
        if self.total is not None:
            return float(self.total)
        if end is None:
            raise ValueError(
                f"{self!r} ends with the fit, but it is not known when that is; pass total, or a span with last_step"
            )
        return float(end)


@dataclass(frozen=True)
class Polynomial(_Ending):
    """minimum + (1 - minimum) (1 - t / total)^power, from 1 down (PyTorch's PolynomialLR, whose minimum is 0).

    Parameters
    ----------
    total : int, optional
        Epochs, or steps; left out, until the fit ends.
    power : float
        Greater than 0; 1 is a straight line.
    minimum : float
        In [0, 1]: where it ends and stays.
    unit : {"epoch", "step"}
    staircase : bool
        As for `Curve`.
    """

    power: float = 1.0
    minimum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("power", self.power, 0, np.inf, open_low=True, open_high=True)
        check_range("minimum", self.minimum, 0, 1)

    def at(self, time: Factors, end: float | None, tick: float) -> Factors:
        left = 1 - np.minimum(time / self._end(end), 1)
        return self.minimum + (1 - self.minimum) * np.power(left, self.power)


@dataclass(frozen=True)
class Cosine(_Ending):
    """minimum + (1 - minimum) (1 + cos(pi t / total)) / 2, from 1 down (PyTorch's CosineAnnealingLR).

    Loshchilov and Hutter (2017), equation (5), without restarts. Beyond ``total`` it stays at the minimum, where
    PyTorch's rises again.

    Parameters
    ----------
    total : int, optional
        Epochs, or steps; left out, until the fit ends.
    minimum : float
        In [0, 1]: where it ends and stays.
    unit : {"epoch", "step"}
    staircase : bool
        As for `Curve`.
    """

    minimum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("minimum", self.minimum, 0, 1)

    def at(self, time: Factors, end: float | None, tick: float) -> Factors:
        return _cosine(1.0, self.minimum, np.minimum(time / self._end(end), 1))


@dataclass(frozen=True)
class CosineRestarts(Curve):
    """The cosine again and again, each time over a longer period if wanted (PyTorch's CosineAnnealingWarmRestarts).

    Loshchilov and Hutter (2017), equation (5): within a period T_i, minimum + (1 - minimum) (1 + cos(pi t / T_i)) / 2
    with t since the last restart, and T_(i+1) = growth T_i.

    Parameters
    ----------
    period : int
        Epochs, or steps, until the first restart.
    growth : int
        How many times as long the next period is.
    minimum : float
        In [0, 1]: what a period falls to.
    unit : {"epoch", "step"}
    staircase : bool
        As for `Curve`.
    """

    period: int
    growth: int = 1
    minimum: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("period", self.period, 1)
        check_whole("growth", self.growth, 1)
        check_range("minimum", self.minimum, 0, 1)

    def at(self, time: Factors, end: float | None, tick: float) -> Factors:
        if self.growth == 1:
            return _cosine(1.0, self.minimum, np.mod(time, self.period) / self.period)
        restarts = [0.0]
        while len(time) and restarts[-1] <= time[-1]:
            restarts.append(restarts[-1] + self.period * float(self.growth) ** (len(restarts) - 1))
        passed = np.searchsorted(restarts, time, side="right") - 1
        since = time - np.array(restarts)[passed]
        return _cosine(1.0, self.minimum, since / (self.period * np.power(float(self.growth), passed)))


@dataclass(frozen=True)
class OneCycle(_Ending):
    """From 1 / div_factor up to 1 and down to 1 / (div_factor final_div_factor), along cosines (PyTorch's OneCycleLR).

    The optimiser's learning rate is the highest, PyTorch's ``max_lr``. The momentum is not cycled: this is its
    ``cycle_momentum=False``. Smith and Topin (2018).

    Parameters
    ----------
    total : int, optional
        Epochs, or steps; left out, until the fit ends.
    pct_start : float
        In [0, 1): the part of the whole in which the rate rises.
    div_factor, final_div_factor : float
        At least 1.
    unit : {"epoch", "step"}
    staircase : bool
        As for `Curve`.
    """

    pct_start: float = 0.3
    div_factor: float = 25.0
    final_div_factor: float = 1e4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("pct_start", self.pct_start, 0, 1, open_high=True)
        check_range("div_factor", self.div_factor, 1, np.inf, open_high=True)
        check_range("final_div_factor", self.final_div_factor, 1, np.inf, open_high=True)

    def at(self, time: Factors, end: float | None, tick: float) -> Factors:
        total, start = self._end(end), 1 / self.div_factor
        peak, last = self.pct_start * total - tick, total - tick  # times of the steps with the highest and lowest rate
        falling = _cosine(1.0, start / self.final_div_factor, np.clip((time - peak) / (last - peak), 0, 1))
        if peak <= 0:
            return falling
        return np.where(time <= peak, _cosine(start, 1.0, np.minimum(time / peak, 1)), falling)


@dataclass(frozen=True)
class WarmUp(Curve):
    """start + (1 - start) t / length until then 1 or another schedule, which begins at its beginning.

    PyTorch's LinearLR, then the other in a SequentialLR.

    Parameters
    ----------
    length : int
        Epochs, or steps, in which the rate rises.
    then : str or Schedule
        By name or as an object; its lengths are its own, and one left out is what remains of the fit.
    start : float
        In [0, 1]: the first factor.
    unit : {"epoch", "step"}
    staircase : bool
        As for `Curve`.
    """

    length: int = 5
    then: str | Schedule = "constant"
    start: float = 1 / 3

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("length", self.length, 1)
        check_range("start", self.start, 0, 1)
        object.__setattr__(self, "then", as_schedule(self.then) or Constant())

    @property
    def _next(self) -> Schedule:
        assert isinstance(self.then, Schedule)  # since __post_init__
        return self.then

    @property
    def monitor(self) -> str | None:
        return self._next.monitor

    @property
    def counts_epochs(self) -> bool:
        return super().counts_epochs or self._next.counts_epochs

    def factors(self, t: int, n_steps: int, span: Span | None = None, plateau: Plateau | None = None) -> Factors:
        span = span or Span()
        length = self.length * self._steps_in_unit(span)
        n_rising = min(max(length - t, 0), n_steps)
        rising = super().factors(t, n_rising, span)
        if n_rising == n_steps:
            return rising
        rest = Span(span.steps_per_epoch, None if span.last_step is None else span.last_step - length)
        return np.concatenate([rising, self._next.factors(t + n_rising - length, n_steps - n_rising, rest, plateau)])

    def at(self, time: Factors, end: float | None, tick: float) -> Factors:
        return self.start + (1 - self.start) * (time / self.length)

    def after_epoch(self, plateau: Plateau, history: History) -> Plateau:
        return self._next.after_epoch(plateau, history)


@dataclass(frozen=True)
class ReduceOnPlateau(Schedule):
    """Smaller by gamma when a loss has not improved for more than ``patience`` epochs (PyTorch's ReduceLROnPlateau).

    What it has seen stands in ``trainer.plateau``; it is saved, copied and goes on with the trainer.

    Parameters
    ----------
    monitor : {"validation_loss", "loss"}
    gamma : float
        In (0, 1).
    patience : int
        Epochs without improvement that are borne; at least 0.
    threshold : float
        Only a loss below best (1 - threshold), with a threshold in [0, 1), is an improvement; if not relative, below
        best - threshold.
    relative : bool
    cooldown : int
        Epochs after a reduction in which none is counted; at least 0.
    minimum : float
        In [0, 1]: the smallest factor.
    """

    monitor: str = "validation_loss"
    gamma: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    relative: bool = True
    cooldown: int = 0
    minimum: float = 0.0

    def __post_init__(self) -> None:
        check_choice("monitor", self.monitor, ("validation_loss", "loss"))
        check_range("gamma", self.gamma, 0, 1, open_low=True, open_high=True)
        check_whole("patience", self.patience, 0)
        check_range("threshold", self.threshold, 0, 1 if self.relative else np.inf, open_high=True)
        check_whole("cooldown", self.cooldown, 0)
        check_range("minimum", self.minimum, 0, 1)

    def factors(self, t: int, n_steps: int, span: Span | None = None, plateau: Plateau | None = None) -> Factors:
        return np.full(n_steps, (plateau or Plateau()).factor)

    def after_epoch(self, plateau: Plateau, history: History) -> Plateau:
        loss = getattr(history, self.monitor)[-1]
        factor, best, waited, resting = plateau
        limit = best * (1 - self.threshold) if self.relative else best - self.threshold
        best, waited = (loss, 0) if loss < limit else (best, waited + 1)
        if resting:
            resting, waited = resting - 1, 0
        if waited > self.patience:
            smaller = max(float(factor * self.gamma), float(self.minimum))
            factor, waited, resting = min(factor, smaller), 0, self.cooldown
        return Plateau(factor, best, waited, resting)


SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "inverse_scaling": InverseScaling,
    "step": StepDecay,
    "multi_step": MultiStepDecay,
    "exponential": Exponential,
    "polynomial": Polynomial,
    "cosine": Cosine,
    "cosine_restarts": CosineRestarts,
    "one_cycle": OneCycle,
    "warm_up": WarmUp,
    "reduce_on_plateau": ReduceOnPlateau,
}
"""Schedules by name."""


def as_schedule(schedule: Any) -> Schedule | None:
    """Return the schedule that a name or an object stands for; None for None.

    Raises
    ------
    ValueError
        If the name is unknown, or that of a schedule which needs numbers.
    TypeError
        If it is neither a name nor a schedule.
    """
    if schedule is None or isinstance(schedule, Schedule):
        return schedule
    if not isinstance(schedule, str):
        raise TypeError(
            f"schedule is a {type(schedule).__name__}; pass a name or an object such as fastbp.schedules.Cosine()"
        )
    if schedule not in SCHEDULES:
        names = ", ".join(map(repr, SCHEDULES))
        raise ValueError(f"unknown schedule {schedule!r}; choose one of {names}, or pass an object")
    kind = SCHEDULES[schedule]
    needed = [each.name for each in fields(kind) if each.default is MISSING]  # type: ignore[arg-type]
    if needed:
        arguments = ", ".join(f"{name}=..." for name in needed)
        raise ValueError(
            f"schedule {schedule!r} cannot be chosen by name alone; pass fastbp.schedules.{kind.__name__}({arguments})"
        )
    return kind()


def scale(step_values: dict[str, Any], factors: Factors | None) -> dict[str, Any]:
    """Return an optimiser's step records with the learning rate scaled: the step size, and the decay if there is one.

    AdamW's decay is the learning rate times the weight decay, as in PyTorch; Adam's corrections stand beside the rate
    and stay. A momentum is scikit-learn's: the velocity holds gradients times the rates of their own steps, while
    PyTorch multiplies all of it by the present rate.

    Parameters
    ----------
    step_values : dict
        From `Optimizer.step_values`.
    factors : ndarray of shape (n_steps,), or None
        None: without a schedule.

    Raises
    ------
    ValueError
        If a factor is negative or not finite.
    """
    if factors is None:
        return step_values
    if not (np.isfinite(factors).all() and (factors >= 0).all()):
        raise ValueError(
            f"the schedule gives factors from {factors.min()} to {factors.max()}; they must be finite and at least 0"
        )
    return {
        name: value * factors if name in ("rate", "grad_rate", "decay") else value
        for name, value in step_values.items()
    }


def _cosine(start: float, end: float, part: Factors) -> Factors:
    """Return the way from start to end along half a cosine, a part of it in [0, 1] done."""
    return end + (start - end) * (1 + np.cos(np.pi * part)) / 2


def _check_gamma(gamma: float) -> None:
    check_range("gamma", gamma, 0, np.inf, open_low=True, open_high=True)
