"""Activations and optimisers of the Numba backend, on one vector: what `product`, `update` and `apply` share."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

from numba import float64

from .contract import ACTIVATION, FIRST_KEPT, NONE, SELU_ALPHA, SELU_SCALE, STEP, Activation, Optimizer
from .numba_jit import inlined
from .numba_math import elu, exp, expm1, gelu, logistic, selu, silu, softplus, tanh
from .numba_vectors import (
    as_pointer_to,
    choose,
    fma,
    is_null,
    lanes,
    load,
    load_nth,
    load_vector,
    maximum,
    minimum,
    splat,
    sqrt,
    store_vector,
    store_whole,
)

(
    GRAD_SCALE, _LOSS_SCALE, L2, KEEP, RATE, MOMENTUM, BETA_1, BETA_2, EPSILON, DECAY, GRAD_RATE, CLIP, MAX_NORM,
    AVERAGE_DECAY, SEED, NUMBER,
) = range(len(STEP.names or ()))  # fmt: skip
"""Places in a STEP record."""

_CODE, _FUNCTION, _PARAMETER, _AT_ZERO = range(len(ACTIVATION.names or ()))
"""Places in an ACTIVATION record. Kernels hand on its address; null is the identity."""

(
    IN_SCALE, IN_L2, IN_KEEP, IN_RATE, IN_MOMENTUM, IN_BETA_1, IN_REST_1, IN_BETA_2, IN_REST_2, IN_EPSILON, IN_KEPT,
    IN_GRAD_RATE, IN_CLIP,
) = range(13)  # fmt: skip
"""Places of the vectors that `store_rates` leaves."""


@inlined
def code_of(activation):
    return Activation.IDENTITY.value if is_null(activation) else load(activation, _CODE)


@inlined
def function_of(activation):
    """Return the address of a custom activation."""
    return load(activation, _FUNCTION)


@inlined
def beta_of(activation):
    return 0.0 if is_null(activation) else load(as_pointer_to(activation, float64), _PARAMETER)


@inlined
def at_zero_of(activation):
    return 0.0 if is_null(activation) else load(as_pointer_to(activation, float64), _AT_ZERO)


@inlined
def act(code, beta, z):
    """Return act(z); softmax needs the whole row and comes later."""
    if code == Activation.RELU or code == Activation.RELU_AT_ZERO:
        return maximum(z, 0.0)
    if code == Activation.LOGISTIC:
        return logistic(z)
    if code == Activation.TANH:
        return tanh(z)
    if code == Activation.EXP:
        return exp(z)
    if code == Activation.LEAKY_RELU:
        return choose(z < 0.0, beta * z, z)
    if code == Activation.ELU:
        return elu(beta, z)
    if code == Activation.SELU:
        return selu(z)
    if code == Activation.SOFTPLUS:
        return softplus(z)
    if code == Activation.SIGN:
        return choose(z < 0.0, -1.0, choose(z > 0.0, 1.0, z))
    if code == Activation.GELU:
        return gelu(z)[0]
    if code == Activation.SILU:
        return silu(z)[0]
    return z


@inlined
def derivative_to_keep(code, at_zero, z):
    """Return act'(z) of those activations whose outputs do not tell it."""
    if code == Activation.GELU:
        return gelu(z)[1]
    if code == Activation.SILU:
        return silu(z)[1]
    return choose(z > 0.0, 1.0, choose(z < 0.0, 0.0, choose(z == 0.0, at_zero, z)))


@inlined
def times_derivative(code, beta, at_zero, a, delta):
    """Return delta act'(z), in terms of a = act(z); from GELU on, of the derivative itself."""
    if code == Activation.RELU:
        return choose(a == 0, 0.0, delta)
    if code == Activation.LOGISTIC:
        return delta * (a * (1.0 - a))
    if code == Activation.TANH:
        return delta * (1.0 - a * a)
    if code == Activation.LEAKY_RELU:
        return delta * choose(a > 0.0, 1.0, choose(a == 0.0, at_zero, beta))
    if code == Activation.ELU:
        return delta * choose(a > 0.0, 1.0, a + beta)
    if code == Activation.SELU:
        return delta * choose(a > 0.0, SELU_SCALE, a + SELU_SCALE * SELU_ALPHA)
    if code == Activation.SOFTPLUS:
        return -delta * expm1(-a)
    if code == Activation.SIGN:
        return delta * 0.0
    if code == Activation.EXP or code >= FIRST_KEPT.value:
        return delta * a
    return delta


@inlined
def store_rates(step, scale, rates):
    """Write a STEP record as vectors into memory, where an operation reads them: the registers are for sums."""
    vector = lanes(rates)
    beta_1, beta_2, decay = load(step, BETA_1), load(step, BETA_2), load(step, DECAY)
    plain = scale, load(step, L2), load(step, KEEP), load(step, RATE), load(step, MOMENTUM)
    adam = beta_1, 1.0 - beta_1, beta_2, 1.0 - beta_2, load(step, EPSILON), 1.0 - decay
    for index, value in enumerate(plain + adam + (load(step, GRAD_RATE), load(step, CLIP))):
        store_whole(rates, index * vector, splat(value, rates))


@inlined
def apply_rule(rule, rates, g, n, param, m, v):
    """Apply an optimiser to the first n lanes of a vector of parameters with gradient g; NONE keeps the gradient.

    Which products are fused with a sum is said, not left to the compiler: it is inlined in several places, and the bits
    must be the same in all. What stood there before is not even read if it is not to be kept, for it may be NaN.
    """
    if rule != NONE and load(rates, IN_CLIP * lanes(rates)) != 0:
        clip = load_nth(rates, IN_CLIP)
        g = minimum(maximum(g, -clip), clip)
    rate = load_nth(rates, IN_RATE)
    if rule == NONE:
        if load(rates, IN_KEEP * lanes(rates)) != 0:
            g = fma(load_nth(rates, IN_KEEP), load_vector(param, n, 0), g)
        store_vector(param, n, g)
    elif rule == Optimizer.SGD:
        store_vector(param, n, fma(-rate, g, load_vector(param, n, 0)))
    elif rule >= Optimizer.ADAM:
        change, square = rate * g, load_nth(rates, IN_REST_2) * (g * g)
        if rule <= Optimizer.NADAM:
            m_new = fma(load_nth(rates, IN_BETA_1), load_vector(m, n, 0), load_nth(rates, IN_REST_1) * g)
            store_vector(m, n, m_new)
            change = rate * m_new
        if rule == Optimizer.NADAM:
            change = fma(load_nth(rates, IN_GRAD_RATE), g, change)
        v_new = fma(load_nth(rates, IN_BETA_2), load_vector(v, n, 0), square)
        if rule == Optimizer.ADAGRAD:
            v_new = fma(g, g, load_vector(v, n, 0))
        store_vector(v, n, v_new)
        taken = change / (sqrt(v_new) + load_nth(rates, IN_EPSILON))
        store_vector(param, n, fma(load_nth(rates, IN_KEPT), load_vector(param, n, 0), -taken))
    else:
        momentum, descent = load_nth(rates, IN_MOMENTUM), -(rate * g)
        velocity = fma(momentum, load_vector(m, n, 0), descent)
        taken = velocity
        if rule == Optimizer.NESTEROV:
            taken = fma(momentum, velocity, descent)
        store_vector(m, n, velocity)
        store_vector(param, n, load_vector(param, n, 0) + taken)
