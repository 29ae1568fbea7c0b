"""The gradients of 240 random networks: every activation, loss, batch normalisation, dropout, maxout, in every mixture.

Each backend's unfused operations are judged by central differences of its loss, and its fused step by what the unfused
operations found.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import fastbp
from fastbp import diagnostics
from fastbp.activations import HIDDEN_ACTIVATIONS, OUTPUT_ACTIVATIONS

N_NETWORKS = 240
TOLERANCE = 1e-6
"""Of a gradient beside a central difference, relative to the largest of its block."""

FUSED = 1e-9
"""Of a fused step beside the unfused gradient, relative to the largest of its block."""

RATE = 64.0
"""Large, so that the step that is added to a parameter keeps the gradient's digits."""

PAIRS = (
    *(("squared_error", output) for output in OUTPUT_ACTIVATIONS if output != "sign"),
    *(("cross_entropy", output) for output in ("softmax", "logistic")),
    *(("poisson", output) for output in ("exp", "softplus")),
)
"""Losses and outputs that go together."""

VARIANTS: dict[str, tuple[Any, ...]] = {
    "relu": ("relu", fastbp.ReLU(0.5), fastbp.ReLU(1.0)),
    "leaky_relu": ("leaky_relu", fastbp.LeakyReLU(0.3, grad_at_zero=0.5)),
    "elu": ("elu", fastbp.ELU(0.4)),
    "maxout": (fastbp.Maxout(2), fastbp.Maxout(3), fastbp.Maxout(4)),
}
"""Activations with parameters; all others come by name."""


@dataclass(frozen=True)
class Problem:
    """A network and a batch, drawn by a number."""

    network: dict[str, Any]
    loss: str
    X: Any
    y: Any
    sample_weight: Any
    alpha: float
    reduction: str

    def trainer(self, backend: str) -> fastbp.Trainer:
        """Return a trainer of the network with drawn parameters, whose next step is plain descent on the batch."""
        net = fastbp.Network(**self.network, dtype="float64", backend=backend, initializer="glorot_normal")
        rng = np.random.default_rng(self.network["random_state"])
        for b in net.biases:
            b[...] = rng.normal(0, 0.5, b.shape)
        for gamma in net.gammas:
            gamma[...] = rng.uniform(0.5, 1.5, gamma.shape) * rng.choice([-1, 1], gamma.shape)
        options: dict[str, Any] = {"batch_size": "full", "random_state": 5, "backend": backend}
        return fastbp.Trainer(net, loss=self.loss, optimizer="sgd", learning_rate=RATE, **options)

    @property
    def options(self) -> dict[str, Any]:
        """What the loss depends on beside the samples, as ``fit`` and the diagnostics take it."""
        return {"sample_weight": self.sample_weight, "alpha": self.alpha, "reduction": self.reduction}


@functools.cache
def problem(number: int) -> Problem:
    """Draw a network and a batch. The first activation, batch normalisation and dropout go round, the rest is drawn."""
    rng = np.random.default_rng(number)
    names = HIDDEN_ACTIVATIONS
    mixture, first = divmod(number, len(names))
    is_normalized, is_dropping = bool(mixture & 1), bool(mixture & 2)
    n_hidden = int(rng.integers(1, 4))
    hidden = [_variant(names[k], rng) for k in (first, *rng.integers(len(names), size=n_hidden - 1))]
    batch_norm: list[Any] = [False] * n_hidden
    if is_normalized:
        batch_norm = [fastbp.BatchNorm(epsilon=float(rng.choice([1e-5, 1e-3, 0.1])), momentum=0.1), *batch_norm[1:]]
        batch_norm[1:] = [bool(draw) for draw in rng.integers(2, size=n_hidden - 1)]
    dropout = None
    if is_dropping:
        kept = [float(p) for p in rng.choice([0.5, 0.7, 0.9, 1.0], n_hidden - 1)]
        dropout = fastbp.Dropout([float(rng.choice([0.5, 0.8])), *kept], inputs=float(rng.choice([0.8, 1.0])))
    loss, output = PAIRS[number % len(PAIRS)]
    n_outputs = int(rng.integers(2, 5)) if output == "softmax" else int(rng.integers(1, 5))
    sizes = (int(rng.integers(2, 7)), *(int(size) for size in rng.integers(2, 8, n_hidden)), n_outputs)
    network = {
        "layer_sizes": sizes,
        "hidden_activation": hidden,
        "output": _variant(output, rng),
        "bias": is_normalized or bool(rng.integers(4)),
        "batch_norm": batch_norm,
        "dropout": dropout,
        "random_state": number,
    }
    n = int(rng.integers(2, 41))
    weight = rng.uniform(0.2, 2, n) if rng.integers(2) else None
    X, alpha, reduction = rng.normal(size=(n, sizes[0])), float(rng.choice([0, 0.3])), str(rng.choice(["mean", "sum"]))
    return Problem(network, loss, X, _targets(loss, output, (n, n_outputs), rng), weight, alpha, reduction)


def _variant(name: str, rng: np.random.Generator) -> Any:
    choices = VARIANTS.get(name, (name,))
    return choices[int(rng.integers(len(choices)))]


def _targets(loss: str, output: str, shape: tuple[int, int], rng: np.random.Generator) -> Any:
    """Return class numbers, probabilities, counts or values, as the loss has them."""
    n, n_outputs = shape
    if output == "softmax" and rng.integers(2):
        return rng.integers(n_outputs, size=n)
    if output == "softmax":
        return rng.dirichlet(np.ones(n_outputs), n)
    if loss == "cross_entropy":
        return rng.integers(2, size=shape).astype(float)
    return rng.poisson(2, shape).astype(float) if loss == "poisson" else rng.normal(size=shape)


@functools.cache
def _traits(number: int) -> tuple[set[str], tuple[str, str], bool, bool, Problem]:
    one = problem(number)
    net = fastbp.Network(**one.network, backend="numpy")
    names = {f"maxout({f.pieces})" if f.name == "maxout" else f.name for f in net.functions[:-1]}
    return names, (one.loss, net.functions[-1].name), any(net.batch_norm), any(p < 1 for p in net.dropout), one


def test_the_networks_cover_every_mixture() -> None:
    seen = [_traits(number) for number in range(N_NETWORKS)]
    assert len(seen) >= 200
    names = (*(name for name in HIDDEN_ACTIVATIONS if name != "maxout"), "maxout(2)", "maxout(3)", "maxout(4)")
    on_off = (False, True)
    for name, has_norm, has_dropout in itertools.product(names, on_off, on_off):
        assert any(name in found and (norm, drop) == (has_norm, has_dropout) for found, _, norm, drop, _ in seen)
    for pair, has_norm, has_dropout in itertools.product(PAIRS, on_off, on_off):
        assert any((pair, has_norm, has_dropout) == (found, norm, drop) for _, found, norm, drop, _ in seen)
    problems = [one for *_, one in seen]
    assert {len(one.X) for one in problems} == set(range(2, 41))
    assert {one.network["bias"] for one in problems} == {one.alpha > 0 for one in problems} == {False, True}
    assert {one.sample_weight is None for one in problems} == {np.ndim(one.y) == 1 for one in problems} == {False, True}
    dropouts = [one.network["dropout"] for one in problems if one.network["dropout"] is not None]
    assert {dropout.inputs < 1 for dropout in dropouts} == {False, True}


def without_effect(net: fastbp.Network) -> set[str]:
    """Return the biases that the batch normalisation above takes out again: their gradient is 0."""
    norms, kinds = net.layout.norms, [function.name for function in net.functions]
    return {
        f"b{layer}"
        for layer in range(1, len(kinds))
        if norms[layer] and kinds[layer - 1] == "identity" and net.dropout[layer] == 1
    }


@pytest.mark.source("S24", "Cheng 9.2", "SE")
@pytest.mark.source("S4", "Cheng table 1")
@pytest.mark.source("S14", "Book 4.6.2")
@pytest.mark.source("S15", "Book 4.7")
@pytest.mark.parametrize("number", range(N_NETWORKS))
def test_gradients_agree_with_central_differences(backend_name: str, number: int) -> None:
    one = problem(number)
    trainer = one.trainer(backend_name)
    found = diagnostics.check_gradient(trainer, one.X, one.y, **one.options, per_block=1, random_state=number)
    constant = without_effect(trainer.network)
    for block in found.blocks:
        assert block.error <= TOLERANCE or block.name in constant
        assert block.n_left_out == 0
        assert block.n_checked > 0


@pytest.mark.source("S24", "Cheng 9.2", "SE")
@pytest.mark.source("S4", "Cheng table 1")
@pytest.mark.source("S14", "Book 4.6.2", "Book 4.6.3")
@pytest.mark.source("S15", "Book 4.7")
@pytest.mark.parametrize("number", range(N_NETWORKS))
def test_a_fused_step_is_minus_the_gradient(backend_name: str, number: int) -> None:
    one = problem(number)
    trainer = one.trainer(backend_name)
    net, seen = trainer.network, diagnostics.probe(trainer, one.X, one.y, **one.options)
    before = net.parameters.copy()
    trainer.fit(one.X, one.y, **one.options, shuffle=False)
    step, layers = (before - net.parameters) / RATE, seen.layers
    constant = without_effect(net)
    kinds = {
        "W": (net.layout.weights(step), [layer.grad_W for layer in layers]),
        "b": (net.layout.biases(step), [layer.grad_b for layer in layers if layer.b.size]),
        "gamma": (net.layout.gammas(step), [layer.grad_gamma for layer in layers if layer.gamma.size]),
    }
    for kind, pair in kinds.items():
        for layer, (got, wanted) in enumerate(zip(*pair, strict=True), start=1):
            largest = 1e-5 if f"{kind}{layer}" in constant else np.abs(wanted).max()
            np.testing.assert_allclose(got, wanted, rtol=0, atol=FUSED * largest, err_msg=f"{kind}, block {layer}")
    normalized = [layer.z for layer in layers if layer.gamma.size]
    running = zip(normalized, net.running_means, net.running_variances, strict=True)
    for z, mean, variance in running:  # momentum 0.1, from mean 0 and variance 1
        np.testing.assert_allclose(mean, 0.1 * z.mean(axis=0), rtol=FUSED, atol=1e-12)
        np.testing.assert_allclose(variance, 0.9 + 0.1 * z.var(axis=0, ddof=1), rtol=FUSED)
