"""Batch normalisation: sums over a mini-batch, unit by unit. A lane takes a unit, the teams its samples."""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import math

from ..contract import NONE
from .blocks import LANES, STEP_NUMBER, TEAMS, pitch_of, rows_of_step, sum_over_teams
from .functions import GRAD_SCALE, KEEP, act, applied, keeps_m, keeps_v, rule_values
from .toolkit import cuda, device


@device
def batch_norm_part(
    block, n_blocks, room, cursor, batch_size, n_out, work, params, z, gamma, beta, epsilon, momentum, code, parameter,
    normalized, rstd, mean, variance, a,
):  # fmt: skip
    """Normalise z by the batch's mean and variance; move the running ones on."""
    n, row_pitch = rows_of_step(cursor, batch_size), pitch_of(n_out)
    team, lane = cuda.threadIdx.x // LANES, cuda.threadIdx.x % LANES
    for first in range(block * LANES, n_out if n > 0 else 0, n_blocks * LANES):
        u = first + lane
        end = n if u < n_out else 0
        total = squares = 0.0
        for r in range(team, end, TEAMS):
            total += work[z + r * row_pitch + u]
        mu = sum_over_teams(room, total) / n
        for r in range(team, end, TEAMS):
            d = work[z + r * row_pitch + u] - mu
            squares += d * d
        spread = sum_over_teams(room, squares) / n
        T = type(work[0])
        scale = T(1 / math.sqrt(spread + epsilon)) if spread + epsilon != 0 else T(math.inf)
        for r in range(team, end, TEAMS):
            x = (work[z + r * row_pitch + u] - T(mu)) * scale
            work[normalized + r * row_pitch + u] = x
            work[a + r * row_pitch + u] = act(params[gamma + u] * x + params[beta + u], code, parameter)
        if team == 0 and u < n_out:
            work[rstd + u] = scale
            if n > 1:
                params[mean + u] += momentum * (mu - params[mean + u])
                params[variance + u] += momentum * (spread * (n / (n - 1)) - params[variance + u])


@device
def normalize_part(
    block,
    n_blocks,
    cursor,
    batch_size,
    n_out,
    work,
    params,
    z,
    gamma,
    beta,
    mean,
    variance,
    epsilon,
    code,
    parameter,
    a,
):
    """Normalise z by the running mean and variance."""
    n, row_pitch = rows_of_step(cursor, batch_size), pitch_of(n_out)
    team, lane = cuda.threadIdx.x // LANES, cuda.threadIdx.x % LANES
    for r in range(block * TEAMS + team, n, n_blocks * TEAMS):
        for u in range(lane, n_out, LANES):
            T = type(work[0])
            scale = T(1) / T(math.sqrt(params[variance + u] + T(epsilon)))
            x = (work[z + r * row_pitch + u] - params[mean + u]) * scale
            work[a + r * row_pitch + u] = act(params[gamma + u] * x + params[beta + u], code, parameter)


@device
def batch_norm_delta_part(
    block, n_blocks, room, cursor, batch_size, steps, n_out, work, params, grads, m, v, normalized, rstd, gamma, beta,
    rule, delta,
):  # fmt: skip
    """Send errors through the normalisation; gamma and beta learn by a rule, or their gradients are kept for `NONE`."""
    n, row_pitch, s = rows_of_step(cursor, batch_size), pitch_of(n_out), cursor[STEP_NUMBER]
    team, lane = cuda.threadIdx.x // LANES, cuda.threadIdx.x % LANES
    for first in range(block * LANES, n_out if n > 0 else 0, n_blocks * LANES):
        u = first + lane
        end = n if u < n_out else 0
        along = total = 0.0
        for r in range(team, end, TEAMS):
            d = work[delta + r * row_pitch + u]
            along += d * work[normalized + r * row_pitch + u]
            total += d
        along, total = sum_over_teams(room, along), sum_over_teams(room, total)
        T = type(work[0])
        if u < n_out:
            scale, slope, shift = params[gamma + u] * work[rstd + u], T(along / n), T(total / n)
            for r in range(team, end, TEAMS):
                c = r * row_pitch + u
                work[delta + c] = (work[delta + c] - shift - work[normalized + c] * slope) * scale
        cuda.syncthreads()  # all have read gamma
        if team == 0 and u < n_out:
            learn_one(steps, s, rule, T(along), params, grads, m, v, gamma + u)
            learn_one(steps, s, rule, T(total), params, grads, m, v, beta + u)


@device
def learn_one(steps, s, rule, total, params, grads, m, v, at):
    """Let one parameter learn from the sum of its gradient, or keep that for `NONE`."""
    T = type(total)
    g, keep = T(steps[s, GRAD_SCALE]) * total, T(steps[s, KEEP])
    if rule == NONE:
        grads[at] = g if keep == T(0) else keep * grads[at] + g
        return
    old_m, old_v = m[at] if keeps_m(rule) else T(0), v[at] if keeps_v(rule) else T(0)
    w, new_m, new_v = applied(rule, rule_values(steps, s, total), g, params[at], old_m, old_v)
    params[at] = w
    if keeps_m(rule):
        m[at] = new_m
    if keeps_v(rule):
        v[at] = new_v
