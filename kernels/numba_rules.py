"""Activations and optimisers of the Numba backend, on one vector: what `product`, `update` and `apply` share."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from .contract import NONE, STEP, Activation, Optimizer
from .numba_jit import inlined
from .numba_math import exp, logistic, tanh
from .numba_vectors import choose, lanes, load, load_nth, load_vector, maximum, splat, sqrt, store_vector, store_whole

GRAD_SCALE, _LOSS_SCALE, L2, KEEP, RATE, MOMENTUM, BETA_1, BETA_2, EPSILON, DECAY = range(len(STEP.names or ()))
"""Places in a STEP record."""

IN_SCALE, IN_L2, IN_KEEP, IN_RATE, IN_MOMENTUM, IN_BETA_1, IN_REST_1, IN_BETA_2, IN_REST_2, IN_EPSILON, IN_KEPT = range(
    11
)
"""Places of the vectors that `store_rates` leaves."""


@inlined
def act(activation, z):
    """Return act(z); softmax needs the whole row and comes later."""
    if activation == Activation.RELU:
        return maximum(z, 0.0)
    if activation == Activation.LOGISTIC:
        return logistic(z)
    if activation == Activation.TANH:
        return tanh(z)
    if activation == Activation.EXP:
        return exp(z)
    return z


@inlined
def times_derivative(activation, a, delta):
    """Return delta act'(z), in terms of a = act(z)."""
    if activation == Activation.RELU:
        return choose(a == 0, 0.0, delta)
    if activation == Activation.LOGISTIC:
        return delta * (a * (1.0 - a))
    if activation == Activation.TANH:
        return delta * (1.0 - a * a)
    if activation == Activation.EXP:
        return delta * a
    return delta


@inlined
def store_rates(step, scale, rates):
    """Write a STEP record as vectors into memory, where an operation reads them: the registers are for sums."""
    vector = lanes(rates)
    beta_1, beta_2, decay = load(step, BETA_1), load(step, BETA_2), load(step, DECAY)
    plain = scale, load(step, L2), load(step, KEEP), load(step, RATE), load(step, MOMENTUM)
    adam = beta_1, 1.0 - beta_1, beta_2, 1.0 - beta_2, load(step, EPSILON), 1.0 - decay
    for index, value in enumerate(plain + adam):
        store_whole(rates, index * vector, splat(value, rates))


@inlined
def apply_rule(rule, rates, g, n, param, m, v):
    """Apply an optimiser to the first n lanes of a vector of parameters with gradient g; NONE keeps the gradient.

    What stood there before is not even read if it is not to be kept, for it may be NaN.
    """
    if rule == NONE:
        if load(rates, IN_KEEP * lanes(rates)) != 0:
            g = g + load_nth(rates, IN_KEEP) * load_vector(param, n, 0)
        store_vector(param, n, g)
    elif rule == Optimizer.SGD:
        store_vector(param, n, load_vector(param, n, 0) - load_nth(rates, IN_RATE) * g)
    elif rule == Optimizer.ADAM:
        m_new = load_nth(rates, IN_BETA_1) * load_vector(m, n, 0) + load_nth(rates, IN_REST_1) * g
        v_new = load_nth(rates, IN_BETA_2) * load_vector(v, n, 0) + load_nth(rates, IN_REST_2) * (g * g)
        kept = load_nth(rates, IN_KEPT) * load_vector(param, n, 0)
        store_vector(m, n, m_new)
        store_vector(v, n, v_new)
        store_vector(param, n, kept - load_nth(rates, IN_RATE) * m_new / (sqrt(v_new) + load_nth(rates, IN_EPSILON)))
    else:
        velocity = load_nth(rates, IN_MOMENTUM) * load_vector(m, n, 0) - load_nth(rates, IN_RATE) * g
        taken = velocity
        if rule == Optimizer.NESTEROV:
            taken = load_nth(rates, IN_MOMENTUM) * velocity - load_nth(rates, IN_RATE) * g
        store_vector(m, n, velocity)
        store_vector(param, n, load_vector(param, n, 0) + taken)
