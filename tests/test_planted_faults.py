"""One operation's sign flipped on purpose makes tests fail: tried for every operation.

Compiled backends call their own inner functions, so their operations are flipped as called by hand, output by output,
under the value check; the reference's operations are flipped inside its ``train_steps`` and ``predict``, under the
comparison with scikit-learn, with central differences, or with compiled backends. A flipped gather turns the sign of
the data that it copies, a flipped shuffle that of the sample numbers, with which NumPy counts from the end.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import parity
import pytest
from fastbp.kernels import reference
from fastbp.kernels.reference import backward, forward, rules
from gradients import check_step
from numpy.testing import assert_allclose
from small_problem import CODES, X

import fastbp
from fastbp import kernels
from fastbp.bench.operations import OUTPUTS, Options, check_operation, output_arrays

UPDATING = (
    *(name for name in kernels.OPERATIONS if name.endswith("_step")),
    "linear_update",
    "train_steps",
)
"""Operations that change what is there already: their change is flipped."""


CALLERS = reference, forward, backward, rules
"""The reference's modules, which call each other's operations by the names under which they imported them."""


def plant(patch: pytest.MonkeyPatch, operation: str, output: str) -> None:
    """Flip an output of one of the reference's operations wherever it is called."""
    twin = flipped(operation, getattr(reference, operation), [output])
    for module in CALLERS:
        if hasattr(module, operation):
            patch.setattr(module, operation, twin)


class Flipped:
    """A backend one output of whose operation has the wrong sign."""

    def __init__(self, backend: kernels.Backend, operation: str, output: str) -> None:
        self.backend, self.operation, self.output = backend, operation, output

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.backend, name)
        return flipped(self.operation, found, [self.output]) if name == self.operation else found


def flipped(name: str, operation: Callable[..., Any], outputs: list[str]) -> Callable[..., Any]:
    """Return an operation's twin with the sign of some outputs, or of the change that it makes to them, flipped."""
    signature = inspect.signature(operation)

    @functools.wraps(operation)
    def twin(*args: Any, **kwargs: Any) -> Any:
        arrays = output_arrays(name, dict(signature.bind(*args, **kwargs).arguments))
        before = {output: array.copy() for output, array in arrays.items()}
        returned = operation(*args, **kwargs)
        for output, array in arrays.items():
            if output in outputs:
                array[...] = 2 * before[output] - array if name in UPDATING else -array
        return -returned if "returned" in outputs and returned is not None else returned

    return twin


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("operation", kernels.OPERATIONS)
def test_value_check_sees_each_flipped_output(operation: str, dtype: str, compiled_name: str) -> None:
    backend = kernels.backend(compiled_name)
    assert 0 <= check_operation(backend, operation, dtype, Options(weighted=True)) <= 1
    for output in OUTPUTS[operation]:
        with pytest.raises(AssertionError, match=f"{output} is off"):
            check_operation(Flipped(backend, operation, output), operation, dtype, Options(weighted=True))


PLAIN = parity.Case(
    task="one output",
    activation="tanh",
    solver="adam",
    learning_rate="constant",
    alpha=1e-4,
    patience="long",
    early_stopping=False,
    batch_size=17,
    shuffle=True,
    mode="fit",
    weights="random",
    form="C",
    dtype="float64",
    hidden_layer_sizes=(5,),
)
IN_SKLEARN = (
    "gather_rows",
    "gather_csr_rows",
    "gather_classes",
    "linear_forward",
    "output_delta",
    "backprop_delta",
    "linear_grad",
    "sgd_step",
    "momentum_step",
    "nesterov_step",
    "adam_step",
    "linear_update",
    "train_steps",
    "predict",
    "predict_rows",
)
"""Operations that scikit-learn's estimators have need of."""

EXERCISES = {
    "gather_csr_rows": {"form": "CSR"},
    "gather_classes": {"task": "multiclass"},
    "sgd_step": {"solver": "sgd"},
    "momentum_step": {"solver": "momentum"},
    "nesterov_step": {"solver": "nesterov"},
}
"""What a mix must have for an operation to run in it, where the plain one lacks it."""

BEYOND_SKLEARN = {"activate": ("gelu", "silu"), "activation_delta": ("tanh", "gelu")}
"""Operations that run in no network of scikit-learn's, and activations, hidden and output, with which they do."""

BEYOND_DESCENT: dict[str, dict[str, Any]] = {
    "shuffle": {"optimizer": "sgd"},
    "nadam_step": {"optimizer": fastbp.Nadam(0.01)},
    "rmsprop_step": {"optimizer": fastbp.RMSprop(0.01)},
    "adagrad_step": {"optimizer": fastbp.Adagrad(0.01)},
    "clip_norm": {"optimizer": "sgd", "clip_norm": 0.01},
    "average_step": {"optimizer": "sgd", "average_decay": 0.9},
}
"""Operations before and after the gradient that are not scikit-learn's, and trainers in which they run."""

BETWEEN_LAYERS: dict[str, dict[str, Any]] = {
    "batch_norm": {"batch_norm": True},
    "normalize": {"batch_norm": True},
    "maxout": {"hidden_activation": "maxout"},
    "dropout": {"dropout": 0.5},
    "maxout_delta": {"hidden_activation": "maxout"},
    "batch_norm_delta": {"batch_norm": True},
}
"""Operations between the products of layers that are not scikit-learn's, and networks in which they run."""


def test_every_operation_has_a_planted_fault() -> None:
    """One that is added must be in one of the lists, with all that it writes and returns in ``OUTPUTS``."""
    lists = IN_SKLEARN, BEYOND_SKLEARN, BEYOND_DESCENT, BETWEEN_LAYERS
    assert sorted(name for names in lists for name in names) == sorted(kernels.OPERATIONS)
    assert OUTPUTS.keys() == set(kernels.OPERATIONS)
    assert all(OUTPUTS.values())


@pytest.mark.parametrize("operation", IN_SKLEARN)
def test_parity_sees_each_flipped_output(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = dataclasses.replace(PLAIN, **EXERCISES.get(operation, {}))
    theirs = parity.sklearn_observation(case)
    monkeypatch.setenv("FASTBP_BACKEND", "numpy")
    parity.compare(case, parity.observe(case, fastbp), theirs)
    for output in OUTPUTS[operation]:
        with monkeypatch.context() as patch:
            plant(patch, operation, output)
            ours = parity.observe(case, fastbp)
        with pytest.raises(AssertionError):
            parity.compare(case, ours, theirs)


@pytest.mark.parametrize("operation", BEYOND_SKLEARN)
def test_central_differences_see_each_flipped_output(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden, output = BEYOND_SKLEARN[operation]
    check_step("numpy", hidden, output, "squared_error")
    for flipped_output in OUTPUTS[operation]:
        with monkeypatch.context() as patch:
            plant(patch, operation, flipped_output)
            with pytest.raises(AssertionError):
                check_step("numpy", hidden, output, "squared_error")


@pytest.mark.parametrize("operation", [*BEYOND_DESCENT, *BETWEEN_LAYERS])
def test_compiled_backends_see_each_flipped_output(
    operation: str, compiled_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They agree with the reference as it is, and not with one that has an output flipped."""
    options = {"network": BETWEEN_LAYERS.get(operation, {}), **BEYOND_DESCENT.get(operation, {})}
    wanted = trained(compiled_name, **options)
    assert_allclose(trained("numpy", **options), wanted, rtol=1e-9, atol=1e-12)
    for output in (output for output in OUTPUTS[operation] if output != "returned"):
        with monkeypatch.context() as patch, np.errstate(invalid="ignore"):
            plant(patch, operation, output)
            # a root of something negative is no number at all, which the fit refuses
            with pytest.raises((AssertionError, ValueError), match=r"Not equal to tolerance|non-finite parameter"):
                assert_allclose(trained("numpy", **options), wanted, rtol=1e-6, atol=1e-9)


def trained(backend: str, network: dict[str, Any], **options: Any) -> Any:
    """Return what two epochs of training change: parameters, moments, average, outputs."""
    network = {"hidden_activation": "tanh", **network}
    net = fastbp.Network((6, 8, 3), dtype="float64", random_state=0, backend=backend, **network)
    trainer = fastbp.Trainer(net, batch_size=13, backend=backend, random_state=0, **options)
    trainer.fit(X, CODES, epochs=2)
    return np.concatenate([net.parameters, trainer.m, trainer.v, trainer.average, net.forward(X).ravel()])
