"""What stands between the layers of a network: batch normalisation and dropout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

import numpy as np

from .ranges import check_range


@dataclass(frozen=True)
class BatchNorm:
    """Batch normalisation of z before the activation: gamma (z - mu) / sqrt(s^2 + epsilon) + beta (Book 4.6.2).

    mu and s^2 are mean and variance of each unit over the mini-batch (s^2 divided by B), gamma and beta are learned.
    While the network learns, running means and variances are kept for prediction: mean += momentum (mu - mean), and for
    the variance likewise, of s^2 B / (B - 1) (Book 4.6.3, and PyTorch). A batch of one sample leaves them as they are.

    Parameters
    ----------
    epsilon : float
        Greater than 0.
    momentum : float
        In [0, 1]: the share of a batch in the running means and variances.

    Raises
    ------
    ValueError
        If a value is out of its range.
    """

    epsilon: float = 1e-5
    momentum: float = 0.1

    def __post_init__(self) -> None:
        check_range("epsilon", self.epsilon, 0, float("inf"), open_low=True, open_high=True)
        check_range("momentum", self.momentum, 0, 1)
        for name in ("epsilon", "momentum"):
            object.__setattr__(self, name, float(getattr(self, name)))


@dataclass(frozen=True)
class Dropout:
    """Dropout: in each step each unit of each sample is kept with a probability of its own (Book 4.7).

    What is kept is divided by the probability at once (inverted dropout), so that prediction takes all units as they
    are: Book 4.7 multiplies the weights by the probability there, to the same effect.

    Parameters
    ----------
    hidden : float or sequence of float
        Probability p in (0, 1] that a unit of a hidden layer is *kept*; of all hidden layers or each. PyTorch's and
        Keras's rates are 1 - p.
    inputs : float
        The same for the inputs.

    Raises
    ------
    ValueError
        If a probability is out of its range.
    """

    hidden: float | Sequence[float] = 0.5
    inputs: float = 1.0

    def __post_init__(self) -> None:
        hidden: Any = self.hidden
        if isinstance(hidden, Sequence) and not isinstance(hidden, str):
            hidden = tuple(hidden)
            object.__setattr__(self, "hidden", hidden)
        for p in hidden if isinstance(hidden, tuple) else (hidden,):
            _check_kept("dropout", p)
        _check_kept("inputs", self.inputs)


def as_batch_norm(batch_norm: Any, n_layers: int) -> tuple[BatchNorm | None, ...]:
    """Return each hidden layer's batch normalisation, from one bool or `BatchNorm` for all, or one for each.

    Raises
    ------
    ValueError
        If a sequence has another length than there are hidden layers.
    TypeError
        If it is none of these.
    """
    if isinstance(batch_norm, Sequence) and not isinstance(batch_norm, str):
        if len(batch_norm) != n_layers:
            raise ValueError(f"batch_norm has {len(batch_norm)} entries; pass one for each of {n_layers} hidden layers")
        return tuple(_as_batch_norm(one) for one in batch_norm)
    return (_as_batch_norm(batch_norm),) * n_layers


def _as_batch_norm(batch_norm: Any) -> BatchNorm | None:
    if isinstance(batch_norm, dict):
        return BatchNorm(**batch_norm)
    if isinstance(batch_norm, BatchNorm):
        return batch_norm
    if batch_norm is None:
        return None
    if isinstance(batch_norm, bool | np.bool_):
        return BatchNorm() if batch_norm else None
    raise TypeError(
        f"batch_norm is {batch_norm!r}; pass True, False or an object such as fastbp.BatchNorm(momentum=0.01)"
    )


def as_dropout(dropout: Any, n_layers: int) -> tuple[float, ...]:
    """Return the probabilities that units are kept: of the inputs, and of each hidden layer.

    Raises
    ------
    ValueError
        If a probability is out of (0, 1], or a sequence has another length than there are hidden layers.
    """
    if dropout is None:
        return (1.0,) * (n_layers + 1)
    if not isinstance(dropout, Dropout):
        dropout = Dropout(**dropout) if isinstance(dropout, dict) else Dropout(dropout)
    hidden = dropout.hidden if isinstance(dropout.hidden, tuple) else (dropout.hidden,) * n_layers
    if len(hidden) != n_layers:
        raise ValueError(f"dropout has {len(hidden)} probabilities; pass one for each of {n_layers} hidden layers")
    return (float(dropout.inputs), *(float(p) for p in hidden))


def to_plain(value: Any) -> Any:
    """Return plain data for batch normalisation or dropout as a user gave it, one or a sequence: for files."""
    if isinstance(value, list | tuple):
        return type(value)(to_plain(one) for one in value)
    return asdict(value) if isinstance(value, BatchNorm | Dropout) else value


def from_plain(value: Any, kind: type[BatchNorm] | type[Dropout]) -> Any:
    """Return what `to_plain` was given; a dict is an object of ``kind``.

    Raises
    ------
    ValueError, TypeError
        If a dict holds what the object does not take.
    """
    if isinstance(value, list | tuple):
        return type(value)(from_plain(one, kind) for one in value)
    return kind(**value) if isinstance(value, dict) else value


def _check_kept(name: str, probability: Any) -> None:
    is_number = isinstance(probability, Real) and not isinstance(probability, bool)
    if not is_number or not 0 < probability <= 1:
        raise ValueError(
            f"{name} is {probability!r}; pass the probability that a unit is kept, in (0, 1] (1 drops nothing), or "
            "fastbp.Dropout(0.5, inputs=0.8)"
        )
