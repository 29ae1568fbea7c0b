"""Plots: titles, labels and the numbers behind what is drawn; nothing is shown, and pyplot stays out of it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastbp
from fastbp import diagnostics, plots

if importlib.util.find_spec("matplotlib") is None:
    pytest.skip("matplotlib is not installed: pip install 'fastbp[plot]'", allow_module_level=True)

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(24, 6)), np.arange(24) % 3


@pytest.fixture(scope="module")
def trained() -> tuple[fastbp.Network, fastbp.History, diagnostics.Diagnostics]:
    net = fastbp.Network((6, 8, 5, 3), random_state=0)
    watch = diagnostics.Diagnostics(X, Y)
    trainer = fastbp.Trainer(net, random_state=0, batch_size=8, learning_rate=0.01)
    history = trainer.fit(X, Y, epochs=4, validation_data=(X, Y), callbacks=[watch])
    return net, history, watch


def legend(ax: Any) -> list[str]:
    return [entry.get_text() for entry in ax.get_legend().get_texts()]


def check(ax: Any, title: str, xlabel: str, ylabel: str) -> None:
    """Assert what must be read, and that all of it can be drawn."""
    assert ax.get_title() == title
    assert (ax.get_xlabel(), ax.get_ylabel()) == (xlabel, ylabel)
    ax.figure.canvas.draw()


def test_loss_curves(trained: Any) -> None:
    _, history, _ = trained
    ax = plots.loss_curves(history)
    check(ax, "Loss by epoch", "epoch", "mean loss")
    assert legend(ax) == ["training", "validation"]
    for line, curve in zip(ax.lines, (history.loss, history.validation_loss), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.column_stack([[1, 2, 3, 4], curve]))
    assert ax.get_yscale() == "log"
    alone = plots.loss_curves(fastbp.History(loss=[1.0, 0.5]))
    assert legend(alone) == ["training"]


@pytest.mark.source("S20", "Cheng 9.3")
def test_norms_by_layer_and_epoch(trained: Any) -> None:
    watch = trained[2]
    ax = plots.by_layer(watch, "delta_norm")
    check(ax, "Error by layer", "epoch", "norm of delta (root mean square over samples)")
    assert legend(ax) == ["layer 1", "layer 2", "layer 3 (output)"]
    assert ax.get_yscale() == "log"
    for layer, line in enumerate(ax.lines):
        np.testing.assert_array_equal(line.get_xdata(), [0, 1, 2, 3, 4])
        np.testing.assert_array_equal(line.get_ydata(), watch["delta_norm"][:, layer])


@pytest.mark.source("S21", "Cheng 9.3.2")
@pytest.mark.source("S22", "P&P abstract")
def test_shares_are_in_per_cent(trained: Any) -> None:
    watch = trained[2]
    labels = {
        "zero_activations": ("Activations at zero by layer", "share of activations (%)"),
        "dying_units": ("Dying units by layer: at zero for all samples", "share of units (%)"),
        "null_weights": ("Null weights by layer", "share of weights that are 0 (%)"),
        "small_weights": ("Small weights by layer", "share of weights up to 0.001 from 0 (%)"),
    }
    for measure, (title, ylabel) in labels.items():
        ax = plots.by_layer(watch, measure)
        check(ax, title, "epoch", ylabel)
        assert ax.get_yscale() == "linear"
        np.testing.assert_allclose(ax.lines[0].get_ydata(), 100 * watch[measure][:, 0])
    with pytest.raises(KeyError, match="'nonsense' was not measured"):
        plots.by_layer(watch, "nonsense")


def test_every_measure_can_be_drawn() -> None:
    net = fastbp.Network((6, 4, 2), output="identity", random_state=0)
    watch = diagnostics.Diagnostics(X, X[:, :2], every_n_steps=1, measures=diagnostics.callback.MEASURES)
    fastbp.Trainer(net, loss="squared_error").fit(X, X[:, :2], callbacks=[watch])
    for measure in set(watch.as_dict()) - {"epochs", "steps"}:
        ax = plots.by_layer(watch, measure)
        check(ax, ax.get_title(), "steps", ax.get_ylabel())
        assert ax.get_title()
        assert ax.get_ylabel()


@pytest.mark.source("S23", "P&P (11)-(18)")
def test_the_valuation() -> None:
    net = fastbp.Network((6, 4, 4, 2), output="identity", dtype="float64", random_state=0)
    found = diagnostics.valuation(diagnostics.probe(net, X, X[:, :2]))
    ax = plots.valuation(found)
    share = f"{100 * found.positive.mean():.0f}%"
    title = f"Valuation of the error by layer ({share} of U at least 0)"
    check(ax, title, "layer", "norm (root mean square over samples)")
    drawn = dict(zip(legend(ax), (line.get_ydata() for line in ax.lines), strict=True))
    np.testing.assert_array_equal(drawn["true error E"], found.error)
    np.testing.assert_array_equal(drawn["exact form, all U taken for positive"], found.exact)
    np.testing.assert_array_equal(drawn["estimate B X"], found.estimate)
    np.testing.assert_array_equal(drawn["estimate B X with ReLU masks"], found.masked_estimate)
    np.testing.assert_array_equal(drawn["bound: product of norms of W"], found.bound)


@pytest.mark.source("S18", "Book 4.8.1")
def test_the_confusion_matrix_counts() -> None:
    ax = plots.confusion_matrix(["a", "a", "b", "b", "b"], ["a", "b", "b", "b", "a"])
    check(ax, "Confusion matrix: 3 of 5 samples right", "predicted class", "true class")
    assert {text.get_position(): text.get_text() for text in ax.texts} == {
        (0, 0): "1", (1, 0): "1", (0, 1): "1", (1, 1): "2"
    }  # fmt: skip
    np.testing.assert_allclose(ax.images[0].get_array(), [[50, 50], [100 / 3, 200 / 3]])
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]
    named = plots.confusion_matrix([0, 1], [0, 1], labels=[0, 1, 2])
    assert [tick.get_text() for tick in named.get_xticklabels()] == ["0", "1", "2"]


@pytest.mark.source("S18", "Book 4.8.1")
def test_first_layer_weights_are_images_of_the_units(trained: Any) -> None:
    net = trained[0]
    ax = plots.first_layer_weights(net, (2, 3), n_units=5)
    check(ax, "Weights of 5 of the 8 units in layer 1", "input pixels, 3 across", "input pixels, 2 down")
    mosaic = np.ma.filled(ax.images[0].get_array(), np.nan)
    largest = np.sort(np.argsort((net.weights[0] ** 2).sum(axis=0))[-5:])
    np.testing.assert_array_equal(mosaic[:2, :3], net.weights[0][:, largest[0]].reshape(2, 3))
    np.testing.assert_array_equal(mosaic[:2, 4:7], net.weights[0][:, largest[1]].reshape(2, 3))
    assert np.isnan(mosaic[:, 3]).all()
    with pytest.raises(ValueError, match=r"shape is \(4, 4\), 16 pixels, but the network has 6 inputs"):
        plots.first_layer_weights(net, (4, 4))


def test_the_histogram_of_activations_adds_up() -> None:
    net = fastbp.Network((6, 8, 3), random_state=0)
    seen = diagnostics.probe(net, X)
    ax = plots.activations(seen, bins=20)
    check(ax, "Activations by layer, 24 samples", "activation a", "share of the layer (%)")
    zeros = (np.maximum(X @ net.weights[0] + net.biases[0], 0) == 0).mean()
    assert legend(ax) == [f"layer 1: {zeros:.0%} at zero", "layer 2 (output): 0% at zero"]
    for stairs in ax.patches:
        assert np.nansum(stairs.get_data().values) == pytest.approx(100)


def test_a_plot_goes_into_the_axes_it_is_given(trained: Any) -> None:
    net, history, watch = trained
    seen = diagnostics.probe(net, X, Y)
    top, bottom = plots.new_axes(2, 1)
    assert plots.loss_curves(history, ax=top) is top
    assert plots.by_layer(watch, ax=bottom) is bottom
    assert plots.activations(seen, ax=plots.new_axes()).figure is not top.figure
    for draw in (
        lambda ax: plots.confusion_matrix(Y, net.predict(X), ax=ax),
        lambda ax: plots.first_layer_weights(net, (2, 3), ax=ax),
    ):
        ax = plots.new_axes()
        assert draw(ax) is ax


def test_without_matplotlib_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'fastbp\[plot\]'"):
        plots.loss_curves(fastbp.History(loss=[1.0]))


def test_pyplot_is_left_alone() -> None:
    program = (
        "import sys, fastbp; ax = fastbp.plots.loss_curves(fastbp.History(loss=[1.0, 0.5])); "
        "ax.figure.savefig(sys.stdout.buffer, format='png'); assert 'matplotlib.pyplot' not in sys.modules"
    )
    where = Path(fastbp.__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", program], check=True, cwd=where, capture_output=True)
    assert done.stdout.startswith(b"\x89PNG")
