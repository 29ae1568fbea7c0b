"""Activation functions, losses and update rules of single numbers, as kernels call them.

They are the reference's, number by number. Constants take the type of the argument: one of float64 would drag all
arithmetic there.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import math

from ..contract import FIRST_KEPT, SELU_ALPHA, SELU_SCALE, STEP, Activation, Loss, Optimizer
from .toolkit import device

(IDENTITY, RELU, LOGISTIC, TANH, SOFTMAX, EXP, LEAKY_RELU, ELU, SELU, SOFTPLUS, SIGN, GELU, SILU, RELU_AT_ZERO) = (
    int(code) for code in Activation if code < Activation.CUSTOM
)
FROM_KEPT = int(FIRST_KEPT)
SQUARED_ERROR, CROSS_ENTROPY, BINARY_CROSS_ENTROPY, POISSON = (int(code) for code in Loss if code < Loss.CUSTOM)
SGD, MOMENTUM, NESTEROV, ADAM, NADAM, RMSPROP, ADAGRAD = (int(code) for code in Optimizer)
FIELDS = tuple(STEP.names or ())
GRAD_SCALE, LOSS_SCALE, L2, KEEP = (FIELDS.index(name) for name in ("grad_scale", "loss_scale", "l2", "keep"))
RATE, VELOCITY, BETA_1, BETA_2, EPSILON, DECAY, GRAD_RATE, CLIP = (
    FIELDS.index(name) for name in ("rate", "momentum", "beta_1", "beta_2", "epsilon", "decay", "grad_rate", "clip")
)
ROOT_HALF, DENSITY_AT_ZERO = math.sqrt(0.5), 1 / math.sqrt(2 * math.pi)


@device
def act(z, code, parameter):
    """Return act(z). Softmax, which takes all outputs of a sample, leaves z as it is."""
    T = type(z)
    if code == IDENTITY or code == SOFTMAX:
        return z
    if code == RELU or code == RELU_AT_ZERO:
        return T(0) if z <= T(0) else z  # NaN stays
    if code == LOGISTIC:
        return T(1) / (T(1) + T(math.exp(-z)))
    if code == TANH:
        return T(math.tanh(z))
    if code == EXP:
        return T(math.exp(z))
    if code == LEAKY_RELU:
        return z if z > T(0) else T(parameter) * z
    if code == ELU:
        return z if z > T(0) else T(parameter) * T(math.expm1(z))
    if code == SELU:
        return T(SELU_SCALE) * (z if z > T(0) else T(SELU_ALPHA) * T(math.expm1(z)))
    if code == SOFTPLUS:
        return (z if z > T(0) else T(0)) + T(math.log1p(math.exp(-abs(z))))
    if code == SIGN:
        return T(1) if z > T(0) else (T(-1) if z < T(0) else z)
    if z == T(-math.inf):
        return T(0)
    if code == GELU:
        return z * normal(z)
    return z / (T(1) + T(math.exp(-z)))


@device
def normal(z):
    """Return Phi(z), the distribution function of N(0, 1)."""
    T = type(z)
    return T(0.5) * T(math.erfc(-z * T(ROOT_HALF)))


@device
def derivative(z, code, parameter, at_zero):
    """Return act'(z)."""
    T = type(z)
    if code == GELU:
        return normal(z) + (T(0) if math.isinf(z) else z * T(DENSITY_AT_ZERO) * T(math.exp(T(-0.5) * z * z)))
    if code == SILU:
        p = T(1) / (T(1) + T(math.exp(-z)))
        return p + (T(0) if math.isinf(z) else z * p * (T(1) - p))
    if code == RELU_AT_ZERO:
        return T(at_zero) if z == T(0) else (T(1) if z > T(0) else (T(0) if z < T(0) else z))
    return through(T(1), act(z, code, parameter), code, parameter, at_zero)


@device
def through(delta, a, code, parameter, at_zero):
    """Return delta act'(z), from the output a, or from the derivative where that was kept; not for softmax."""
    T = type(a)
    if code == IDENTITY:
        return delta
    if code == RELU:
        return T(0) if a == T(0) else delta
    if code == LOGISTIC:
        return delta * (a * (T(1) - a))
    if code == TANH:
        return delta * (T(1) - a * a)
    if code == EXP or code >= FROM_KEPT:
        return delta * a
    if code == LEAKY_RELU:
        return delta * (T(1) if a > T(0) else (T(at_zero) if a == T(0) else T(parameter)))
    if code == ELU:
        return delta * (T(1) if a > T(0) else a + T(parameter))
    if code == SELU:
        return delta * (T(SELU_SCALE) if a > T(0) else a + T(SELU_SCALE * SELU_ALPHA))
    if code == SOFTPLUS:
        return delta * -T(math.expm1(-a))
    return delta * T(0)


@device
def loss_of(a, y, loss, epsilon):
    """Return one output's part of a sample's loss, in float64; probabilities are clipped at ``epsilon``."""
    T = type(a)
    if loss == SQUARED_ERROR:
        d = float(a - y)
        return 0.5 * d * d
    if loss == POISSON:
        return float(x_log(y, y / a if a != T(0) else (T(math.inf) if y > T(0) else T(math.nan) * y)) - y + a)
    p = clipped(a, epsilon)
    if loss == CROSS_ENTROPY:
        return -float(x_log(y, p))
    return -float(x_log(y, p) + x_log(T(1) - y, T(1) - p))


@device
def x_log(x, y):
    """Return x log y, 0 where x is 0."""
    T = type(x)
    return T(0) if x == T(0) and not math.isnan(y) else x * log(y)


@device
def log(x):
    """Return log x, minus infinity of 0: Python, which runs this in the simulator, refuses it."""
    T = type(x)
    return T(-math.inf) if x == T(0) else (T(math.log(x)) if x > T(0) else T(math.nan))


@device
def clipped(a, epsilon):
    """Return a probability within [epsilon, 1 - epsilon]; NaN stays."""
    T = type(a)
    least, most = T(epsilon), T(1) - T(epsilon)
    return least if a < least else (most if a > most else a)


@device
def slope_of(a, y, loss, epsilon):
    """Return d loss / d a, where the output's derivative comes in later."""
    T = type(a)
    if loss == SQUARED_ERROR:
        return a - y
    if loss == POISSON:
        return T(1) - (T(0) if y == T(0) else y / a)
    p = clipped(a, epsilon)
    if loss == CROSS_ENTROPY:
        return T(0) if y == T(0) else -y / p
    return (p - y) / (p * (T(1) - p))


@device
def rule_values(steps, s, like):
    """Return what update rules need of a step's record, in the type of ``like``."""
    T = type(like)
    return (
        T(steps[s, RATE]),
        T(steps[s, VELOCITY]),
        T(steps[s, BETA_1]),
        T(steps[s, BETA_2]),
        T(steps[s, EPSILON]),
        T(steps[s, DECAY]),
        T(steps[s, GRAD_RATE]),
        T(steps[s, CLIP]),
    )


@device
def keeps_m(rule):
    """Tell whether an update rule has first moments, or a velocity."""
    return SGD < rule < RMSPROP


@device
def keeps_v(rule):
    """Tell whether an update rule has second moments."""
    return rule >= ADAM


@device
def applied(rule, values, g, w, m, v):
    """Return a parameter and its moments after a step."""
    T = type(g)
    rate, velocity, beta_1, beta_2, epsilon, decay, grad_rate, clip = values
    if clip != T(0):
        g = clip if g > clip else (-clip if g < -clip else g)
    if rule == SGD:
        return w - rate * g, m, v
    if rule <= NESTEROV:
        m = velocity * m - rate * g
        return (w + m if rule == MOMENTUM else w + (velocity * m - rate * g)), m, v
    if rule <= NADAM:
        m = beta_1 * m + (T(1) - beta_1) * g
    v = v + g * g if rule == ADAGRAD else beta_2 * v + (T(1) - beta_2) * g * g
    change = rate * g
    if rule == ADAM:
        change = rate * m
    elif rule == NADAM:
        change = rate * m + grad_rate * g
    return (w - decay * w) - change / (T(math.sqrt(v)) + epsilon), m, v
