"""The callback of diagnostics: records at the cuts, tables, and trainings that do not notice it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from probed import CLASSES, VALUES, X, chain, positive_network

import fastbp
from fastbp import diagnostics


@pytest.mark.source("S20", "Cheng 9.3")
def test_the_record_of_a_linear_neuron_is_what_the_delta_rule_says(backend_name: str) -> None:
    """x = 1, so that each step multiplies the error by 1 - eta: a closed form for delta and gradient at every cut."""
    net = fastbp.Network((1, 1), output="identity", bias=False, dtype="float64", backend=backend_name)
    net.parameters[...] = 3.0
    trainer = fastbp.Trainer(net, loss="squared_error", optimizer="sgd", learning_rate=0.25, backend=backend_name)
    watch = diagnostics.Diagnostics([[1.0]], [1.0], every_n_steps=1)
    trainer.fit([[1.0]], [1.0], epochs=3, callbacks=[watch])
    trainer.fit([[1.0]], [1.0], epochs=2, callbacks=[watch])
    assert watch.epochs.tolist() == watch.steps.tolist() == [0, 1, 2, 3, 4, 5]
    for name in ("delta_norm", "gradient_norm"):
        np.testing.assert_allclose(watch[name][:, 0], 2 * 0.75 ** np.arange(6), rtol=1e-12)


@pytest.mark.source("S21", "Cheng 9.3.2")
@pytest.mark.source("S22", "P&P abstract")
def test_zeros_and_null_weights_by_layer_and_epoch() -> None:
    """A dead unit and the null weights between dead units stay, cut for cut."""
    net = fastbp.Network((4, 6, 3), dtype="float64", random_state=0)
    net.weights[0][:, :2], net.biases[0][:2], net.weights[1][:2, 0] = 0, -1, 0
    watch = diagnostics.Diagnostics(X, every_n_epochs=2)
    fastbp.Trainer(net, random_state=0).fit(X, CLASSES, epochs=5, callbacks=[watch])
    assert watch.epochs.tolist() == [0, 2, 4]
    np.testing.assert_array_equal(watch["n_null"], [[8, 2]] * 3)
    np.testing.assert_allclose(watch["null_weights"], [[8 / 24, 2 / 18]] * 3)
    assert (watch["n_dying"][:, 0] >= 2).all()
    assert set(watch.as_dict()) == {
        "epochs", "steps", "zero_activations", "dying_units", "n_dying", "null_weights", "small_weights", "n_null",
        "n_weights",
    }  # fmt: skip


@pytest.mark.source("S23", "P&P (11)-(18)")
def test_the_valuation_by_epoch() -> None:
    net = positive_network(0, (4, 5, 3), bias=False)
    watch = diagnostics.Diagnostics(np.abs(X), VALUES, measures=["valuation"])
    trainer = fastbp.Trainer(net, loss="squared_error", optimizer="sgd", learning_rate=1e-9)
    trainer.fit(np.abs(X), VALUES, epochs=2, callbacks=[watch])
    assert watch["holds"].all()
    np.testing.assert_allclose(watch["exact"], watch["error"], rtol=1e-12)
    assert watch["bound"].shape == (3, 2)


@pytest.mark.parametrize("options", [{}, {"batch_norm": True, "dropout": 0.5, "hidden_activation": "maxout"}], ids=len)
def test_training_is_the_same_bit_for_bit_with_diagnostics(backend_name: str, options: Any) -> None:
    def train(callbacks: Any) -> Any:
        net = fastbp.Network((4, 9, 3), **options, random_state=0, backend=backend_name)
        trainer = fastbp.Trainer(net, batch_size=2, random_state=0, backend=backend_name)
        trainer.fit(X, CLASSES, epochs=3, callbacks=callbacks)
        return net.buffer, trainer.m, trainer.v

    watch = diagnostics.Diagnostics(X, CLASSES, every_n_steps=3)
    for with_, without in zip(train([watch]), train([]), strict=True):
        np.testing.assert_array_equal(with_, without)
    assert watch.steps.tolist() == [0, 3, 4, 6, 8, 9, 12]


def test_the_masks_are_the_same_at_each_cut() -> None:
    net = fastbp.Network((4, 20, 3), "tanh", dropout=0.5, dtype="float64", random_state=0)
    watch, plain = diagnostics.Diagnostics(X, CLASSES), diagnostics.Diagnostics(X, CLASSES, dropout=False)
    trainer = fastbp.Trainer(net, optimizer="sgd", learning_rate=1e-12, random_state=0)
    trainer.fit(X, CLASSES, epochs=3, callbacks=[watch, plain])
    for record in (watch, plain):  # the network hardly changed
        np.testing.assert_allclose(record["delta_norm"], record["delta_norm"][[0] * 4], rtol=1e-9)
    seen = diagnostics.norms(diagnostics.probe(net, X, CLASSES, dropout=False))
    np.testing.assert_allclose(plain["delta_norm"][-1], seen.delta_norm)
    assert not np.allclose(plain["delta_norm"], watch["delta_norm"])


def test_bad_diagnostics_are_refused_and_change_nothing() -> None:
    with pytest.raises(ValueError, match="measures is 'norm'; choose from 'norms', 'zeros'"):
        diagnostics.Diagnostics(X, CLASSES, measures="norm")
    with pytest.raises(ValueError, match=r"measure 'norms' needs targets; pass Diagnostics\(X, y\)"):
        diagnostics.Diagnostics(X, measures=["zeros", "norms"])
    with pytest.raises(ValueError, match="every_n_epochs is 0"):
        diagnostics.Diagnostics(X, every_n_epochs=0)
    net = fastbp.Network((4, 5, 3), random_state=0)
    trainer, before = fastbp.Trainer(net, random_state=0), net.parameters.copy()
    with pytest.raises(ValueError, match="X has 3 features, but the network has 4"):
        trainer.fit(X, CLASSES, callbacks=[diagnostics.Diagnostics(X[:, :3])])
    np.testing.assert_array_equal(net.parameters, before)
    with pytest.raises(KeyError, match="was not measured; there is nothing yet"):
        diagnostics.Diagnostics(X)["gradient_norm"]


def test_epochs_are_counted_over_fits_that_end_between_cuts() -> None:
    watch = diagnostics.Diagnostics(X, CLASSES, every_n_epochs=2)
    trainer = fastbp.Trainer(fastbp.Network((4, 5, 3), random_state=0), batch_size=4, random_state=0)
    for epochs in (3, 1, 2):
        trainer.fit(X, CLASSES, epochs=epochs, callbacks=[watch])
    assert watch.epochs.tolist() == [0, 2, 3, 4, 6]
    assert (watch.steps == watch.epochs * (watch.steps[-1] // 6)).all()


def test_a_network_of_another_depth_needs_a_record_of_its_own() -> None:
    watch = diagnostics.Diagnostics(X, CLASSES)
    fastbp.Trainer(fastbp.Network((4, 5, 3), random_state=0)).fit(X, CLASSES, callbacks=[watch])
    deeper = fastbp.Trainer(fastbp.Network((4, 5, 5, 3), random_state=0))
    with pytest.raises(ValueError, match="a network of 2 layers, and the one to be trained has 3; pass a new Diag"):
        deeper.fit(X, CLASSES, callbacks=[watch])
    assert deeper.n_steps == 0


def test_tables(capsys: pytest.CaptureFixture[str]) -> None:
    net = chain("relu", 2)
    watch = diagnostics.Diagnostics([[2.0]], [[1.0]])
    fastbp.Trainer(net, loss="squared_error", optimizer="sgd", learning_rate=1e-9).fit(
        [[2.0]], [[1.0]], callbacks=[watch]
    )
    watch.table("gradient_norm")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["epoch", "step", "layer", "1", "layer", "2"] in lines
    assert ["0", "0", "2", "2"] in lines
    watch.table()
    assert "After epoch 1, step 1" in capsys.readouterr().out
    diagnostics.valuation(diagnostics.probe(net, [[2.0]], [[1.0]])).table()
    assert "yes" in capsys.readouterr().out
    diagnostics.check_gradient(net, [[2.0]], [[1.0]]).table()
    out = capsys.readouterr().out
    assert "tolerance 1e-06" in out
    assert len([line for line in out.splitlines() if line.endswith("yes")]) == 4


def test_diagnostics_import_neither_rich_nor_matplotlib() -> None:
    program = (
        "import sys, fastbp; assert 'fastbp.diagnostics' not in sys.modules; fastbp.diagnostics, fastbp.plots; "
        "assert not {'rich', 'matplotlib', 'numba'} & set(sys.modules)"
    )
    where = Path(fastbp.__file__).parents[1]
    subprocess.run([sys.executable, "-c", program], check=True, cwd=where)
