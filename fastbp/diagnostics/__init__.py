"""Diagnostics: what training does inside a network, layer by layer, on a batch that stays the same.

`probe` sends the batch through the unfused operations of a backend and keeps everything; `norms`, `zeros`,
`null_weights` and `valuation` measure what it kept, `check_gradient` compares gradients with central differences, and
the callback `Diagnostics` does this at the cuts of a training. `fastbp.plots` draws it.
"""

from __future__ import annotations

from .callback import Diagnostics
from .gradients import BlockCheck, GradientCheck, check_gradient
from .layers import ByLayer, Norms, NullWeights, Zeros, norms, null_weights, zeros
from .upper_error import Valuation, valuation
from .walk import Layer, Probe, probe

__all__ = [
    "BlockCheck",
    "ByLayer",
    "Diagnostics",
    "GradientCheck",
    "Layer",
    "Norms",
    "NullWeights",
    "Probe",
    "Valuation",
    "Zeros",
    "check_gradient",
    "norms",
    "null_weights",
    "probe",
    "valuation",
    "zeros",
]
