"""Products of a layer that one block forms alone, for networks whose steps are too short to be shared out.

Each thread takes a few samples and a vector of units, and reads the operands from where they are: from shared memory,
or from the nearest cache.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, misc"

from __future__ import annotations

import functools
from typing import Any

import numba
import numpy as np

from ..contract import NONE
from .blocks import LANES, pitch_of, sum_over_block
from .functions import GRAD_SCALE, KEEP, L2, act, applied, keeps_m, keeps_v, rule_values, through
from .products import update_bias
from .toolkit import THREADS, cuda, device
from .vectors import VECTOR_BYTES, load_vector, store_vector

SAMPLES = 4
"""Samples that a thread takes at once, or one where that leaves threads without work."""


@functools.cache
def block_products(dtype: str) -> tuple[Any, Any, Any]:
    """Return the device functions of a layer's forward product, backward product and update, by one block."""
    T, V = getattr(numba, dtype), VECTOR_BYTES // np.dtype(dtype).itemsize
    MANY, SQUARE = SAMPLES * V, V * V

    @device
    def add_forward(sums, count, work, a_at, a_pitch, n_rows, params, w_at, w_pitch, n_in):
        """Add the products of ``count`` samples with a vector of units to their sums."""
        for k in range(n_in):
            w = load_vector(params, w_at + k * w_pitch)
            for i in range(count):
                if i < n_rows:
                    x = work[a_at + i * a_pitch + k]
                    for e in range(V):
                        sums[i * V + e] += x * w[e]

    @device
    def forward(n, work, params, n_in, n_out, a_prev, W, b, code, parameter, a):
        in_pitch, out_pitch = pitch_of(n_in), pitch_of(n_out)
        across = out_pitch // V
        count = SAMPLES if n * across >= SAMPLES * THREADS else 1
        sums = cuda.local.array(MANY, T)
        for item in range(cuda.threadIdx.x, (n + count - 1) // count * across, THREADS):
            r, c = item // across * count, item % across * V
            for i in range(MANY):
                sums[i] = 0
            below, weights = (work, a_prev + r * in_pitch, in_pitch, n - r), (params, W + c, out_pitch, n_in)
            if count == SAMPLES:
                add_forward(sums, SAMPLES, *below, *weights)
            else:
                add_forward(sums, 1, *below, *weights)
            for i in range(min(count, n - r)):
                for e in range(V):
                    z = sums[i * V + e]
                    if b != NONE:
                        z += params[b + c + e]
                    sums[i * V + e] = act(z, code, parameter) if c + e < n_out else T(0)
                store_vector(work, a + (r + i) * out_pitch + c, sums, i * V)

    @device
    def backprop(n, work, params, n_in, n_out, delta, W, known, code, parameter, at_zero, delta_prev):
        in_pitch, out_pitch = pitch_of(n_in), pitch_of(n_out)
        sums = cuda.local.array(SAMPLES, T)
        for item in range(cuda.threadIdx.x, (n + SAMPLES - 1) // SAMPLES * n_in, THREADS):
            r, u = item // n_in * SAMPLES, item % n_in
            for i in range(SAMPLES):
                sums[i] = 0
            for k in range(0, n_out, V):
                w = load_vector(params, W + u * out_pitch + k)
                for i in range(SAMPLES):
                    if r + i < n:
                        d = load_vector(work, delta + (r + i) * out_pitch + k)
                        for e in range(V):
                            sums[i] += d[e] * w[e]
            for i in range(SAMPLES):
                if r + i < n:
                    at = (r + i) * in_pitch + u
                    work[delta_prev + at] = through(sums[i], work[known + at], code, parameter, at_zero)

    @device
    def update(room, n, s, steps, work, params, grads, m, v, n_in, n_out, a_prev, delta, rule, W, b, squares, slot):
        in_pitch, out_pitch = pitch_of(n_in), pitch_of(n_out)
        across = out_pitch // V
        sums, total = cuda.local.array(SQUARE, T), 0.0
        for item in range(cuda.threadIdx.x, in_pitch // V * across, THREADS):
            u, c = item // across * V, item % across * V
            for i in range(SQUARE):
                sums[i] = 0
            for r in range(n):
                x, d = load_vector(work, a_prev + r * in_pitch + u), load_vector(work, delta + r * out_pitch + c)
                for i in range(V):
                    for e in range(V):
                        sums[i * V + e] += x[i] * d[e]
            scale, l2, keep = T(steps[s, GRAD_SCALE]), T(steps[s, L2]), T(steps[s, KEEP])
            for i in range(min(V, n_in - u)):
                for e in range(min(V, n_out - c)):
                    at = W + (u + i) * out_pitch + c + e
                    w, g = params[at], sums[i * V + e]
                    if l2 != T(0):
                        g += l2 * w
                        total += float(w) * float(w)
                    g = scale * g
                    if rule == NONE:
                        grads[at] = g if keep == T(0) else keep * grads[at] + g
                    else:
                        old_m, old_v = m[at] if keeps_m(rule) else g, v[at] if keeps_v(rule) else g
                        params[at], new_m, new_v = applied(rule, rule_values(steps, s, g), g, w, old_m, old_v)
                        if keeps_m(rule):
                            m[at] = new_m
                        if keeps_v(rule):
                            v[at] = new_v
        if steps[s, L2] != 0:
            total = sum_over_block(room, total)
            if cuda.threadIdx.x == 0:
                squares[slot] = total
        if b != NONE:
            for first in range(0, n_out, LANES):
                update_bias(room, n, s, first, steps, work, params, grads, m, v, n_out, delta, rule, b)

    return forward, backprop, update
