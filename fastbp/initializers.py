"""Initial weights and biases."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def glorot_uniform(
    fan_in: int, fan_out: int, hidden_activation: str, random_state: np.random.RandomState
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw one layer as scikit-learn does: uniform in [-r, r], r = sqrt(6 / (fan_in + fan_out)), 2 for 6 if logistic.

    Parameters
    ----------
    fan_in, fan_out : int
    hidden_activation : str
    random_state : numpy.random.RandomState
        Drawn from: first the weights, then the bias.

    Returns
    -------
    W : ndarray of shape (fan_in, fan_out)
    b : ndarray of shape (fan_out,)

    Notes
    -----
    Cheng table 2 (Xavier, uniform). The bias is drawn too, from the same interval, as in scikit-learn.
    """
    factor = 2.0 if hidden_activation == "logistic" else 6.0
    bound = np.sqrt(factor / (fan_in + fan_out))
    return random_state.uniform(-bound, bound, (fan_in, fan_out)), random_state.uniform(-bound, bound, fan_out)


def as_random_state(random_state: Any) -> np.random.RandomState:
    """Return a `numpy.random.RandomState` from None, a seed or such an object, as scikit-learn does.

    Raises
    ------
    ValueError
        If ``random_state`` is none of them.
    """
    if random_state is None:
        return np.random.RandomState()
    if isinstance(random_state, np.random.RandomState):
        return random_state
    if isinstance(random_state, int | np.integer) and not isinstance(random_state, bool):
        return np.random.RandomState(random_state)
    raise ValueError(f"random_state is {random_state!r}; pass None, a whole number, or a numpy.random.RandomState")
