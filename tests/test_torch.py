"""Agreement with PyTorch, an implementation that is not ours: outputs, loss, gradients, parameters after ten steps.

In float64, to 1e-10 of an array's largest magnitude. Where PyTorch is missing these tests are skipped.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastbp
from fastbp import activations as act

if os.environ.get("FASTBP_REQUIRE_TORCH") == "1":
    import torch
else:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch")
functional = torch.nn.functional
torch.set_num_threads(1)

TOLERANCE = 1e-10

RATE = 1 / 64
"""A step of descent at this rate tells the gradient to 14 places."""

ACTIVATIONS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "identity": ("identity", lambda z: z),
    "relu": ("relu", functional.relu),
    "leaky_relu": ("leaky_relu", functional.leaky_relu),
    "leaky_relu(0.3)": (act.LeakyReLU(0.3), lambda z: functional.leaky_relu(z, 0.3)),
    "elu": ("elu", functional.elu),
    "elu(0.4)": (act.ELU(0.4), lambda z: functional.elu(z, 0.4)),
    "selu": ("selu", functional.selu),
    "logistic": ("logistic", torch.sigmoid),
    "tanh": ("tanh", torch.tanh),
    "softplus": ("softplus", functional.softplus),
    "gelu": ("gelu", functional.gelu),
    "silu": ("silu", functional.silu),
}
OUTPUTS = {**ACTIVATIONS, "softmax": ("softmax", lambda z: torch.softmax(z, 1)), "exp": ("exp", torch.exp)}

LOSSES: dict[str, Callable[[Any, Any], Any]] = {
    "squared_error": lambda a, y: 0.5 * ((a - y) ** 2).sum(),
    "cross_entropy": lambda a, y: -(y * a.log()).sum(),
    "binary cross_entropy": lambda a, y: functional.binary_cross_entropy(a, y, reduction="sum"),
    "poisson": lambda a, y: (y * (y / a).log() - y + a).sum(),
}
PAIRS = [
    *(("squared_error", output) for output in OUTPUTS),
    ("cross_entropy", "softmax"),
    ("binary cross_entropy", "logistic"),
    ("poisson", "exp"),
    ("poisson", "softplus"),
]
SIZES = (7, 11, 9, 5)


class Twin:
    """A fastbp network and trainer, and the same in PyTorch, on the same data."""

    def __init__(self, backend: str, hidden: str, output: str, loss: str, n: int, **options: Any) -> None:
        self.loss, self.n = LOSSES[loss], n
        self.hidden, self.output = ACTIVATIONS[hidden][1], OUTPUTS[output][1]
        rng = np.random.default_rng(1)
        self.X, self.y = 0.3 * rng.standard_normal((n, SIZES[0])), rng.uniform(0.1, 0.9, (n, SIZES[-1]))
        if loss == "cross_entropy":
            self.y /= self.y.sum(axis=1, keepdims=True)
        kinds = ACTIVATIONS[hidden][0], OUTPUTS[output][0]
        self.net = fastbp.Network(SIZES, *kinds, dtype="float64", random_state=0, backend=backend)
        self.trainer = fastbp.Trainer(
            self.net, loss=loss.split()[-1], batch_size=n, backend=backend, random_state=0, **options
        )
        self.weights = [torch.tensor(W.copy(), requires_grad=True) for W in self.net.weights]
        self.biases = [torch.tensor(b.copy(), requires_grad=True) for b in self.net.biases]

    @property
    def parameters(self) -> list[Any]:
        return [*self.weights, *self.biases]

    def forward(self) -> Any:
        a = torch.tensor(self.X)
        for layer, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            a = (self.output if layer == len(self.weights) - 1 else self.hidden)(a @ W + b)
        return a

    def step(self, optimizer: Any) -> tuple[float, float]:
        """Take a step in both; return both losses."""
        ours = self.trainer.fit(self.X, self.y, shuffle=False).loss[0]
        optimizer.zero_grad()
        theirs = self.loss(self.forward(), torch.tensor(self.y)) / self.n
        theirs.backward()
        optimizer.step()
        return ours, theirs.item()

    def check_parameters(self) -> None:
        for ours, theirs in zip([*self.net.weights, *self.net.biases], self.parameters, strict=True):
            check(ours, theirs)


def check(ours: Any, theirs: Any) -> None:
    wanted = theirs.detach().numpy()
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=TOLERANCE * np.abs(wanted).max())


@pytest.mark.parametrize(("hidden", "pair"), list(itertools.product(ACTIVATIONS, PAIRS)), ids=str)
def test_activations_and_losses(backend_name: str, hidden: str, pair: tuple[str, str]) -> None:
    """Outputs, loss and all gradients, and the parameters after ten steps."""
    loss, output = pair
    check_gradients(Twin(backend_name, hidden, output, loss, 33, optimizer="sgd", learning_rate=RATE))
    check_ten_steps(Twin(backend_name, hidden, output, loss, 33, optimizer="sgd", learning_rate=1e-3), 1e-3)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("pair", [("squared_error", "gelu"), ("cross_entropy", "softmax")], ids=str)
@pytest.mark.parametrize("hidden", ACTIVATIONS)
def test_few_samples(compiled_name: str, hidden: str, pair: tuple[str, str], n: int) -> None:
    loss, output = pair
    check_gradients(Twin(compiled_name, hidden, output, loss, n, optimizer="sgd", learning_rate=RATE))
    check_ten_steps(Twin(compiled_name, hidden, output, loss, n, optimizer="sgd", learning_rate=1e-3), 1e-3)


def check_gradients(twin: Twin) -> None:
    """Compare outputs, loss, and the change that descent makes."""
    check(twin.net.forward(twin.X), twin.forward())
    before = [array.copy() for array in (*twin.net.weights, *twin.net.biases)]
    ours, theirs = twin.step(torch.optim.SGD(twin.parameters, lr=RATE))
    assert ours == pytest.approx(theirs, rel=TOLERANCE)
    for start, now, parameter in zip(before, [*twin.net.weights, *twin.net.biases], twin.parameters, strict=True):
        check((start - now) / RATE, parameter.grad)


def check_ten_steps(twin: Twin, rate: float) -> None:
    optimizer = torch.optim.SGD(twin.parameters, lr=rate)
    for _ in range(10):
        ours, theirs = twin.step(optimizer)
    assert ours == pytest.approx(theirs, rel=TOLERANCE)
    twin.check_parameters()
