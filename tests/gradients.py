"""A step of gradient descent against central differences of the loss (Cheng 9.2, SE)."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastbp


def check_step(
    backend: str,
    hidden: Any,
    output: Any,
    loss: str,
    *,
    sizes: tuple[int, ...] = (4, 5, 3),
    n: int = 6,
    seed: int = 1,
    dtype: str = "float64",
    **options: Any,
) -> None:
    """Assert that the step that SGD takes is minus the derivative of the reported loss, penalty included.

    Parameters
    ----------
    backend : str
        What is checked; the loss is evaluated by ``numpy`` in float64.
    hidden, output : str, Activation or sequence
    loss : str
    sizes : tuple of int
        The network's layers.
    n : int
        Number of samples.
    seed : int
        For parameters and data.
    dtype : str
    **options
        Of `fastbp.Network`.
    """
    rng = np.random.default_rng(seed + 2)
    X, y = rng.normal(size=(n, sizes[0])), rng.uniform(0.1, 0.9, (n, sizes[-1]))
    if loss == "cross_entropy" and output == "softmax":
        y /= y.sum(axis=1, keepdims=True)
    net = fastbp.Network(sizes, hidden, output, dtype=dtype, random_state=seed, backend=backend, **options)
    trainer = fastbp.Trainer(
        net, loss=loss, optimizer="sgd", learning_rate=1.0, batch_size=n, backend=backend, random_state=0
    )
    start = net.parameters.copy()
    trainer.fit(X, y, alpha=0.3)
    step = net.parameters - start

    judge = fastbp.Network(sizes, hidden, output, dtype="float64", backend="numpy", **options)
    judging = fastbp.Trainer(judge, loss=loss, batch_size=n, backend="numpy")

    def total(parameters: Any) -> float:
        judge.parameters[...] = parameters
        return judging.evaluate(X, y) + 0.5 * 0.3 * sum(float((W**2).sum()) for W in judge.weights) / n

    slope = np.empty(len(start))
    for k, h in enumerate(np.eye(len(start)) * 1e-6):
        slope[k] = (total(start + h) - total(start - h)) / 2e-6
    np.testing.assert_allclose(step, -slope, rtol=1e-3 if dtype == "float32" else 1e-6, atol=2e-6)
