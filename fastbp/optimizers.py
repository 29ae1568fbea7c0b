"""Optimisers: names and hyper-parameters. Their arithmetic is a kernel; here they turn into its step records."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kernels import MOMENTS
from .kernels import Optimizer as Rule
from .ranges import check_range


class Optimizer:
    """Base of the optimisers: immutable hyper-parameters.

    Attributes
    ----------
    learning_rate : float
    """

    learning_rate: float

    @property
    def rule(self) -> Rule:
        """The kernels' update rule."""
        names = ", ".join(kind.__name__ for kind in OPTIMIZERS.values())
        raise AttributeError(f"{type(self).__name__} has no update rule; use one of {names}")

    @property
    def n_moments(self) -> int:
        """How many numbers the rule keeps for each parameter."""
        return len(MOMENTS[self.rule])

    def step_values(self, t: int, n_steps: int) -> dict[str, Any]:
        """Return fields of `fastbp.kernels.STEP` for the steps t + 1 to t + n_steps."""
        return {"rate": self.learning_rate}

    def with_learning_rate(self, learning_rate: float) -> Optimizer:
        """Return a copy with another learning rate."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return type(self)(**{**values, "learning_rate": learning_rate})


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent: W -= learning_rate dW (Cheng (8f)(9), Porr (5)(6)), with momentum if wanted.

    Parameters
    ----------
    learning_rate : float
        Greater than 0.
    momentum : float
        In [0, 1]; v = momentum v - learning_rate dW, W += v.
    nesterov : bool
        Nesterov's momentum: W += momentum v - learning_rate dW.

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    learning_rate: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False

    def __post_init__(self) -> None:
        check_range("learning_rate", self.learning_rate, 0, np.inf, open_low=True, open_high=True)
        check_range("momentum", self.momentum, 0, 1)

    @property
    def rule(self) -> Rule:
        if not self.momentum:
            return Rule.SGD
        return Rule.NESTEROV if self.nesterov else Rule.MOMENTUM

    def step_values(self, t: int, n_steps: int) -> dict[str, Any]:
        return {"rate": self.learning_rate, "momentum": self.momentum}


@dataclass(frozen=True)
class Adam(Optimizer):
    """Adam, by default in scikit-learn's form: the epsilon is added to the uncorrected root.

    W -= learning_rate sqrt(1 - beta_2^t) / (1 - beta_1^t) m / (sqrt(v) + epsilon).

    Parameters
    ----------
    learning_rate : float
        Greater than 0.
    beta_1, beta_2 : float
        In [0, 1): decay of the moments m and v.
    epsilon : float
        Greater than 0.
    form : {"sklearn", "torch"}
        PyTorch adds the epsilon to the corrected root, sqrt(v) / sqrt(1 - beta_2^t).

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    learning_rate: float = 0.001
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    form: str = field(default="sklearn", kw_only=True)

    def __post_init__(self) -> None:
        check_range("learning_rate", self.learning_rate, 0, np.inf, open_low=True, open_high=True)
        check_range("beta_1", self.beta_1, 0, 1, open_high=True)
        check_range("beta_2", self.beta_2, 0, 1, open_high=True)
        check_range("epsilon", self.epsilon, 0, np.inf, open_low=True, open_high=True)
        if self.form not in ("sklearn", "torch"):
            raise ValueError(f"form is {self.form!r}; choose 'sklearn' or 'torch'")

    @property
    def rule(self) -> Rule:
        return Rule.ADAM

    def step_values(self, t: int, n_steps: int) -> dict[str, Any]:
        correction_1, correction_2 = self._corrections(t, n_steps)
        return {
            "rate": self.learning_rate * np.sqrt(correction_2) / correction_1,
            "beta_1": self.beta_1,
            "beta_2": self.beta_2,
            "epsilon": self.epsilon * (np.sqrt(correction_2) if self.form == "torch" else 1.0),
        }

    def _corrections(self, t: int, n_steps: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return 1 - beta^t of both moments for each step."""
        times = np.arange(t + 1, t + n_steps + 1, dtype=np.float64)
        with np.errstate(under="ignore"):
            return 1 - np.power(self.beta_1, times), 1 - np.power(self.beta_2, times)


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay and PyTorch's corrected epsilon: W -= learning_rate weight_decay W first.

    W -= learning_rate / (1 - beta_1^t) m / (sqrt(v) / sqrt(1 - beta_2^t) + epsilon).

    Parameters
    ----------
    learning_rate, beta_1, beta_2, epsilon : float
        As in `Adam`.
    weight_decay : float
        At least 0; weights and biases decay alike.

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    weight_decay: float = 0.01
    form: str = field(default="torch", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("weight_decay", self.weight_decay, 0, np.inf, open_high=True)

    def step_values(self, t: int, n_steps: int) -> dict[str, Any]:
        return {**super().step_values(t, n_steps), "decay": self.learning_rate * self.weight_decay}


@dataclass(frozen=True)
class Nadam(Adam):
    """Adam with Nesterov's momentum, as in PyTorch (Dozat 2016).

    With mu_t = beta_1 (1 - 0.5 * 0.96^(t momentum_decay)) and M_t their product up to t, W -= learning_rate
    (mu_{t+1} / (1 - M_{t+1}) m + (1 - mu_t) / (1 - M_t) dW) / (sqrt(v) / sqrt(1 - beta_2^t) + epsilon).

    Parameters
    ----------
    learning_rate, beta_1, beta_2, epsilon : float
        As in `Adam`.
    momentum_decay : float
        At least 0.

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    learning_rate: float = 0.002
    momentum_decay: float = 0.004
    form: str = field(default="torch", kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("momentum_decay", self.momentum_decay, 0, np.inf, open_high=True)

    @property
    def rule(self) -> Rule:
        return Rule.NADAM

    def step_values(self, t: int, n_steps: int) -> dict[str, Any]:
        _, correction_2 = self._corrections(t, n_steps)
        root = np.sqrt(correction_2)
        times = np.arange(1, t + n_steps + 2, dtype=np.float64)
        with np.errstate(under="ignore"):
            mu = self.beta_1 * (1 - 0.5 * 0.96 ** (times * self.momentum_decay))
            product = np.cumprod(mu)
        here, following = slice(t, t + n_steps), slice(t + 1, None)
        return {
            **super().step_values(t, n_steps),
            "rate": self.learning_rate * root * mu[following] / (1 - product[following]),
            "grad_rate": self.learning_rate * root * (1 - mu[here]) / (1 - product[here]),
        }


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """v = beta_2 v + (1 - beta_2) dW^2, W -= learning_rate dW / (sqrt(v) + epsilon) (Tieleman & Hinton 2012).

    Parameters
    ----------
    learning_rate : float
        Greater than 0.
    beta_2 : float
        In [0, 1): decay of v; PyTorch's alpha.
    epsilon : float
        Greater than 0.

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    learning_rate: float = 0.01
    beta_2: float = 0.99
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        check_range("learning_rate", self.learning_rate, 0, np.inf, open_low=True, open_high=True)
        check_range("beta_2", self.beta_2, 0, 1, open_high=True)
        check_range("epsilon", self.epsilon, 0, np.inf, open_low=True, open_high=True)

    @property
    def rule(self) -> Rule:
        return Rule.RMSPROP

    def step_values(self, t: int, n_steps: int) -> dict[str, Any]:
        return {"rate": self.learning_rate, "beta_2": self.beta_2, "epsilon": self.epsilon}


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """v = v + dW^2, W -= learning_rate dW / (sqrt(v) + epsilon) (Duchi, Hazan & Singer 2011).

    Parameters
    ----------
    learning_rate : float
        Greater than 0.
    epsilon : float
        Greater than 0.

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    learning_rate: float = 0.01
    epsilon: float = 1e-10

    def __post_init__(self) -> None:
        check_range("learning_rate", self.learning_rate, 0, np.inf, open_low=True, open_high=True)
        check_range("epsilon", self.epsilon, 0, np.inf, open_low=True, open_high=True)

    @property
    def rule(self) -> Rule:
        return Rule.ADAGRAD

    def step_values(self, t: int, n_steps: int) -> dict[str, Any]:
        return {"rate": self.learning_rate, "epsilon": self.epsilon}


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "adam": Adam,
    "adamw": AdamW,
    "nadam": Nadam,
    "rmsprop": RMSprop,
    "adagrad": Adagrad,
}


def as_optimizer(optimizer: str | Optimizer, learning_rate: float | None = None) -> Optimizer:
    """Return the optimiser that a name or an object stands for.

    Parameters
    ----------
    optimizer : str or Optimizer
        ``"sgd"``, ``"adam"``, ``"adamw"``, ``"nadam"``, ``"rmsprop"``, ``"adagrad"``, or an object such as
        ``Adam(1e-3, beta_1=0.8)``.
    learning_rate : float, optional
        Replaces the default of a named optimiser; refused beside an object, which has its own.

    Raises
    ------
    ValueError
        If the name is unknown, or both an object and a learning rate were given.
    TypeError
        If it is neither a name nor an optimiser.
    """
    if isinstance(optimizer, Optimizer):
        if learning_rate is not None:
            raise ValueError(
                f"got learning_rate={learning_rate!r} and {optimizer!r}, which has its own; set it in the object"
            )
        return optimizer
    if not isinstance(optimizer, str):
        raise TypeError(
            f"optimizer is a {type(optimizer).__name__}; pass a name or an object such as fastbp.Adam(1e-3)"
        )
    if optimizer not in OPTIMIZERS:
        names = ", ".join(repr(name) for name in OPTIMIZERS)
        raise ValueError(f"unknown optimizer {optimizer!r}; choose one of {names}, or pass an object")
    kind = OPTIMIZERS[optimizer]
    return kind() if learning_rate is None else kind(learning_rate)  # type: ignore[call-arg]
