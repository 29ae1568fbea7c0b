"""Agreement with PyTorch, an implementation that is not ours: outputs, loss, gradients, parameters after ten steps.

In float64, to 1e-10 of an array's largest magnitude. Where PyTorch is missing these tests are skipped.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
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
    "maxout": ("maxout", lambda z: z.reshape(len(z), 2, -1).max(dim=1).values),
    "maxout(5)": (act.Maxout(5), lambda z: z.reshape(len(z), 5, -1).max(dim=1).values),
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


@pytest.fixture(autouse=True)
def one_thread_in_float64() -> Iterator[None]:
    """Its NAdam keeps a product in the default dtype; its threads are those that other tests look at."""
    n_threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_num_threads(n_threads)
    torch.set_default_dtype(dtype)


class Twin:
    """A fastbp network and trainer, and the same in PyTorch, on the same data."""

    def __init__(
        self,
        backend: str,
        hidden: str,
        output: str,
        loss: str,
        n: int,
        layers: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        self.loss, self.n = LOSSES[loss], n
        self.hidden, self.output = ACTIVATIONS[hidden][1], OUTPUTS[output][1]
        rng = np.random.default_rng(1)
        self.X, self.y = 0.3 * rng.standard_normal((n, SIZES[0])), rng.uniform(0.1, 0.9, (n, SIZES[-1]))
        if loss == "cross_entropy":
            self.y /= self.y.sum(axis=1, keepdims=True)
        kinds = ACTIVATIONS[hidden][0], OUTPUTS[output][0]
        self.net = fastbp.Network(SIZES, *kinds, dtype="float64", random_state=0, backend=backend, **(layers or {}))
        self.trainer = fastbp.Trainer(
            self.net, loss=loss.split()[-1], batch_size=n, backend=backend, random_state=0, **options
        )
        self.weights = [torch.tensor(W.copy(), requires_grad=True) for W in self.net.weights]
        self.biases = [torch.tensor(b.copy(), requires_grad=True) for b in self.net.biases]
        self.norms = [None] * len(SIZES)
        for layer, norm in enumerate(self.net.batch_norm):
            if norm is not None:
                width = len(self.biases[layer])
                self.norms[layer] = torch.nn.BatchNorm1d(width, norm.epsilon, norm.momentum)
                self.norms[layer].bias = torch.nn.Parameter(self.biases[layer])
                self.biases[layer] = self.norms[layer].bias

    @property
    def arrays(self) -> list[Any]:
        return [*self.net.weights, *self.net.biases, *self.net.gammas]

    @property
    def parameters(self) -> list[Any]:
        return [*self.weights, *self.biases, *(norm.weight for norm in self.norms if norm)]

    def forward(self, training: bool = True) -> Any:
        a = torch.tensor(self.X)
        for layer, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            norm = self.norms[layer]
            z = a @ W + b if norm is None else norm.train(training)(a @ W)
            a = (self.output if layer == len(self.weights) - 1 else self.hidden)(z)
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
        for ours, theirs in zip(self.arrays, self.parameters, strict=True):
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
    check(twin.net.forward(twin.X), twin.forward(training=False))
    before = [array.copy() for array in twin.arrays]
    ours, theirs = twin.step(torch.optim.SGD(twin.parameters, lr=RATE))
    assert ours == pytest.approx(theirs, rel=TOLERANCE)
    for start, now, parameter in zip(before, twin.arrays, twin.parameters, strict=True):
        check((start - now) / RATE, parameter.grad)


def check_ten_steps(twin: Twin, rate: float) -> None:
    optimizer = torch.optim.SGD(twin.parameters, lr=rate)
    for _ in range(10):
        ours, theirs = twin.step(optimizer)
    assert ours == pytest.approx(theirs, rel=TOLERANCE)
    twin.check_parameters()


NORMALIZED = {"both": True, "first": [True, False], "second": [False, fastbp.BatchNorm(1e-3, 0.3)]}


@pytest.mark.source("S14", "Book 4.6.2", "Book 4.6.3")
@pytest.mark.parametrize("n", [3, 7, 33, 130])
@pytest.mark.parametrize("where", NORMALIZED)
@pytest.mark.parametrize("hidden", ["relu", "tanh", "elu", "gelu", "maxout", "maxout(5)"])
def test_batch_norm(backend_name: str, hidden: str, where: str, n: int) -> None:
    """Outputs in training and prediction, gradients, running means and unbiased variances, ten steps on."""
    layers, pair = {"batch_norm": NORMALIZED[where]}, ("softmax", "cross_entropy")
    check_gradients(Twin(backend_name, hidden, *pair, n, layers, optimizer="sgd", learning_rate=RATE))
    check_normalized_steps(
        Twin(backend_name, hidden, *pair, n, layers, optimizer=OPTIMIZERS["momentum"][0]), "momentum"
    )


@pytest.mark.parametrize("n", [7, 130])
@pytest.mark.parametrize("hidden", ["tanh", "gelu"])
def test_batch_norm_with_adam(backend_name: str, hidden: str, n: int) -> None:
    """What shifts all of a unit's z alike has no gradient but rounding, which Adam blows up.

    Units of functions with linear parts would have such parameters.
    """
    layers, pair = {"batch_norm": True}, ("softmax", "cross_entropy")
    check_normalized_steps(Twin(backend_name, hidden, *pair, n, layers, optimizer=OPTIMIZERS["adam"][0]), "adam")


def check_normalized_steps(twin: Twin, optimizer_name: str) -> None:
    optimizer = OPTIMIZERS[optimizer_name][1](twin.parameters)
    for _ in range(10):
        losses = twin.step(optimizer)
        assert losses[0] == pytest.approx(losses[1], rel=TOLERANCE)
    norms = [norm for norm in twin.norms if norm is not None]
    for mean, variance, norm in zip(twin.net.running_means, twin.net.running_variances, norms, strict=True):
        check(mean, norm.running_mean)
        check(variance, norm.running_var)
    check(twin.net.forward(twin.X), twin.forward(training=False))
    twin.check_parameters()


@pytest.mark.parametrize("n", [1, 3, 40])
@pytest.mark.parametrize("hidden", ACTIVATIONS)
def test_dropout_that_drops_nothing(backend_name: str, hidden: str, n: int) -> None:
    """All words are less than 2^32 times this probability: the rows run, and the factor is 1 + 2^-50."""
    layers = {"dropout": fastbp.Dropout(1 - 2.0**-50, inputs=1 - 2.0**-50)}
    pair = "softmax", "cross_entropy"
    check_gradients(Twin(backend_name, hidden, *pair, n, layers, optimizer="sgd", learning_rate=RATE))
    check_ten_steps(Twin(backend_name, hidden, *pair, n, layers, optimizer="sgd", learning_rate=1e-3), 1e-3)


OPTIMIZERS: dict[str, tuple[Any, Callable[[list[Any]], Any]]] = {
    "sgd": (fastbp.SGD(0.05), lambda p: torch.optim.SGD(p, lr=0.05)),
    "momentum": (fastbp.SGD(0.05, 0.8), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8)),
    "nesterov": (fastbp.SGD(0.05, 0.8, True), lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.8, nesterov=True)),
    "adam": (fastbp.Adam(0.01, form="torch"), lambda p: torch.optim.Adam(p, lr=0.01)),
    "adamw": (fastbp.AdamW(0.01, weight_decay=0.1), lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1)),
    "nadam": (fastbp.Nadam(0.01), lambda p: torch.optim.NAdam(p, lr=0.01)),
    "nadam, other values": (
        fastbp.Nadam(0.02, 0.8, 0.95, 1e-6, 0.1),
        lambda p: torch.optim.NAdam(p, lr=0.02, betas=(0.8, 0.95), eps=1e-6, momentum_decay=0.1),
    ),
    "rmsprop": (fastbp.RMSprop(0.01), lambda p: torch.optim.RMSprop(p, lr=0.01)),
    "rmsprop, other values": (
        fastbp.RMSprop(0.01, 0.9, 1e-5),
        lambda p: torch.optim.RMSprop(p, lr=0.01, alpha=0.9, eps=1e-5),
    ),
    "adagrad": (fastbp.Adagrad(0.05), lambda p: torch.optim.Adagrad(p, lr=0.05)),
}


@pytest.mark.parametrize("n", [1, 5, 40])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(backend_name: str, name: str, n: int) -> None:
    ours, theirs = OPTIMIZERS[name]
    twin = Twin(backend_name, "tanh", "identity", "squared_error", n, optimizer=ours)
    optimizer = theirs(twin.parameters)
    for _ in range(10):
        losses = twin.step(optimizer)
        assert losses[0] == pytest.approx(losses[1], rel=TOLERANCE)
        twin.check_parameters()


@pytest.mark.source("S12", "Cheng 9.3.3", "Book 4.5.2")
@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "adagrad"])
@pytest.mark.parametrize("n", [1, 40])
@pytest.mark.parametrize("limits", [{"clip_value": 0.02}, {"clip_norm": 0.1}, {"clip_value": 0.03, "clip_norm": 0.2}])
def test_clipping(backend_name: str, limits: dict[str, float], n: int, name: str) -> None:
    """PyTorch's functions on gradients; of both, the norm's comes first."""
    ours, theirs = OPTIMIZERS[name]
    twin = Twin(backend_name, "tanh", "identity", "squared_error", n, optimizer=ours, **limits)
    optimizer = theirs(twin.parameters)
    norms = []

    def clip(*unused: Any) -> None:
        norms.append(torch.nn.utils.clip_grad_norm_(twin.parameters, limits.get("clip_norm", 1e9)).item())
        torch.nn.utils.clip_grad_value_(twin.parameters, limits.get("clip_value", 1e9))

    optimizer.register_step_pre_hook(clip)
    for _ in range(10):
        twin.step(optimizer)
        twin.check_parameters()
    assert max(norms) > limits.get("clip_norm", 0)


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_averages(backend_name: str, decay: float) -> None:
    twin = Twin(
        backend_name,
        "tanh",
        "identity",
        "squared_error",
        20,
        optimizer=fastbp.Adam(0.01, form="torch"),
        average_decay=decay,
    )
    optimizer, averages = torch.optim.Adam(twin.parameters, lr=0.01), [p.detach().clone() for p in twin.parameters]
    for _ in range(5):
        twin.step(optimizer)
        for average, parameter in zip(averages, twin.parameters, strict=True):
            average.lerp_(parameter.detach(), 1 - decay)
    averaged = twin.trainer.averaged()
    for ours, theirs in zip([*averaged.weights, *averaged.biases], averages, strict=True):
        check(ours, theirs)
    twin.check_parameters()
