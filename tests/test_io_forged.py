"""Model files with a true hash that no fastbp wrote, or an older one: refused with what contradicts, or loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastbp
from fastbp import modelfile
from fastbp.modelfile import ModelFileError

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

X, LABELS = np.random.default_rng(0).normal(size=(60, 5)), np.arange(60) % 3


def classifier(**parameters: Any) -> fastbp.MLPClassifier:
    return fastbp.MLPClassifier((6,), max_iter=4, random_state=0, **parameters)


def forge(path: Path, change: Callable[[dict[str, Any], dict[str, np.ndarray]], None], model: Any) -> None:
    """Write a model's file with its content changed and the hash taken anew."""
    fastbp.save(model, path)
    content, tensors, _ = modelfile.read(path)
    change(content, tensors)
    modelfile.write(path, content, tensors)


def set_in(*keys: Any, value: Any) -> Callable[[dict[str, Any], dict[str, np.ndarray]], None]:
    def change(content: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        place: Any = content
        for key in keys[:-1]:
            place = place[key]
        place[keys[-1]] = value

    return change


def tensor(name: str, value: Any) -> Callable[[dict[str, Any], dict[str, np.ndarray]], None]:
    return lambda content, tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in("network", "layer_sizes", value=[3, 10**12, 2]), "weights.0 has shape"),
        (set_in("network", "layer_sizes", value=[3, 2**62, 2**62]), "weights.0 has shape"),
        (set_in("network", "layer_sizes", value=[3, -4, 2]), "layer sizes are"),
        (set_in("network", "layer_sizes", value=[3, 4, 2, 2]), "KeyError: 'weights.2'"),
        (set_in("network", "layer_sizes", value=[3]), "at least inputs and outputs"),
        (set_in("network", "layer_sizes", value=None), "TypeError"),
        (set_in("network", "dtype", value="float64"), "has dtype float32, but the network has float64"),
        (set_in("network", "dtype", value="O"), "choose 'float32' or 'float64'"),
        (set_in("network", "output", value="step"), "output is 'step'"),
        (set_in("network", "n_threads", value=-1), "n_threads is -1"),
        (set_in("network", value={}), "KeyError"),
        (set_in("kind", value="os.system"), "KeyError: 'os.system'"),
        (set_in("kind", value=["network"]), "TypeError"),
        (set_in("preprocessing", value={"features": []}), "KeyError: 'target'"),
        (tensor("biases.1", np.zeros(7, np.float32)), "biases.1 has shape"),
        (tensor("weights.1", np.zeros((4, 2))), "weights.1 has dtype float64"),
    ],
)
def test_a_forged_network_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    forge(tmp_path / "net", change, fastbp.Network((3, 4, 2), random_state=0))
    with pytest.raises(ModelFileError, match=f"does not describe a model of fastbp .*{message}"):
        fastbp.load(tmp_path / "net")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in("trainer", "dict", "batch_size", value=0), "batch_size is 0"),
        (set_in("trainer", "dict", "step", value=-3), "step is -3"),
        (set_in("trainer", "dict", "loss", value="poisson"), "does not go with output"),
        (set_in("trainer", "dict", "optimizer", "dict", "kind", value="eval"), "KeyError: 'eval'"),
        (set_in("trainer", "dict", "optimizer", "dict", "beta_1", value=2.0), "beta_1 is 2.0"),
        (set_in("trainer", "dict", "random_state", value=None), "random_state is None"),
        (set_in("objects", value=[]), "refers to object 0 of 0"),
        (tensor("m.weights.0", np.zeros((1, 1), np.float32)), "m.weights.0 has shape"),
    ],
)
def test_a_forged_trainer_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    trainer = fastbp.Trainer(fastbp.Network((3, 4, 2), random_state=0), random_state=0)
    forge(tmp_path / "trainer", change, trainer)
    with pytest.raises(ModelFileError, match=message):
        fastbp.load(tmp_path / "trainer")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_in("attributes", "predict", value=1), "would replace MLPClassifier.predict"),
        (set_in("attributes", "__class__", value=1), "would replace MLPClassifier.__class__"),
        (set_in("attributes", "alpha", value=1), "would replace MLPClassifier.alpha"),
        (set_in("attributes", "_optimizer", value={"object": 10**6}), "refers to object"),
        (set_in("attributes", "n_features_in_", value=9), "n_features_in_ and n_outputs_ are"),
        (set_in("attributes", "out_activation_", value="step"), "out_activation_ is 'step'; choose one of"),
        (set_in("attributes", "coefs_", value={"tuple": []}), "coefs_ have the shapes"),
        (set_in("parameters", "colour", value=1), "parameters colour are unknown"),
        (set_in("objects", 0, value={"object": 0}), "KeyError"),
        (set_in("objects", 0, value={"instance": "Popen", "fields": {}}), "KeyError: 'Popen'"),
        (set_in("objects", 0, value={"array": ["a"], "shape": [1], "dtype": "U999999999"}), "elements of 'U999"),
        (set_in("objects", 0, value={"array": ["a"], "shape": [10**9], "dtype": "object"}), "has 1 elements"),
        (set_in("objects", 0, value={"tensor": "elsewhere"}), "KeyError: 'elsewhere'"),
        (tensor("_optimizer.ms.0", np.zeros((2, 2))), "the optimiser's ms have the shapes"),
        (tensor("intercepts_.0", np.zeros(600)), "coefs_ and intercepts_ have the shapes"),
        (tensor("intercepts_.0", np.zeros((6, 1))), "coefs_ and intercepts_ have the shapes"),
    ],
)
def test_a_forged_estimator_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    forge(tmp_path / "estimator", change, classifier().fit(X, LABELS))
    with pytest.raises(ModelFileError, match=message):
        fastbp.load(tmp_path / "estimator")


def without(*keys: str) -> Callable[[dict[str, Any], dict[str, np.ndarray]], None]:
    """Take a tensor out, or what stands in the content behind several keys."""

    def change(content: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        place: Any = tensors if len(keys) == 1 else content
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return change


KEPT = {"hidden": [0.5, 0.5], "inputs": 1.0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("gammas.0"), "KeyError: 'gammas.0'"),
        (without("running_variances.1"), "KeyError: 'running_variances.1'"),
        (tensor("gammas.0", np.ones(7, np.float32)), "gammas.0 has shape"),
        (tensor("running_means.1", np.ones(12)), "running_means.1 has dtype float64"),
        (without("network", "batch_norm"), "there is gammas.0, but the arch"),
        (set_in("network", "batch_norm", value=[None, {}]), "there is gammas.0, but the architecture does not normal"),
        (set_in("network", "batch_norm", value=[{}]), "batch_norm has 1 entries"),
        (set_in("network", "batch_norm", value=[{"epsilon": -1}] * 2), "epsilon is -1"),
        (set_in("network", "batch_norm", value=[{"beta": 1}] * 2), "TypeError"),
        (set_in("network", "batch_norm", value="all"), "TypeError: batch_norm is 'all'"),
        (set_in("network", "dropout", value={**KEPT, "hidden": [0.5, 1.5]}), "dropout is 1.5"),
        (set_in("network", "dropout", value={**KEPT, "hidden": [0.5]}), "dropout has 1 probabilities"),
        (set_in("network", "dropout", value={**KEPT, "inputs": 0}), "inputs is 0"),
        (set_in("network", "dropout", value={"p": 1}), "TypeError"),
        (set_in("network", "hidden_activation", value={"name": "maxout", "k": 2}), "weights.0 has shape .* wants"),
        (set_in("network", "hidden_activation", value={"name": "maxout", "k": 10**12}), "weights.0 has shape .* wants"),
        (set_in("network", "hidden_activation", value={"name": "maxout", "k": 1}), "k is 1"),
        (set_in("network", "hidden_activation", value={"name": "maxout", "k": "3"}), "k is '3'"),
        (set_in("network", "hidden_activation", value="relu"), "weights.0 has shape"),
        (set_in("trainer", "dict", "seed", value=-1), "seed is -1"),
        (set_in("trainer", "dict", "seed", value=2**53), "seed is 9007199254740992"),
        (set_in("trainer", "dict", "seed", value=1.5), "seed is 1.5"),
        (tensor("m.gammas.1", np.ones(3, np.float32)), "m.gammas.1 has shape"),
    ],
)
def test_forged_layers_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    net = fastbp.Network((3, 4, 4, 2), fastbp.Maxout(3), batch_norm=True, dropout=0.5, random_state=0)
    forge(tmp_path / "trainer", change, fastbp.Trainer(net, random_state=0))
    with pytest.raises(ModelFileError, match=f"does not describe a model of fastbp .*{message}"):
        fastbp.load(tmp_path / "trainer")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("attributes", "batch_norm_scales_"), "batch_norm_scales_ have"),
        (without("attributes", "batch_norm_means_"), "batch_norm_means_ have"),
        (tensor("batch_norm_variances_.0", np.ones(6)), "batch_norm_variances_ have the shapes"),
        (tensor("_best_batch_norm_scales.0", np.ones(6)), "the best batch_norm_scales_ have the shapes"),
        (tensor("_optimizer.ms.4", np.ones(6)), "the optimiser's ms have the shapes"),
        (set_in("parameters", "batch_norm", value=False), "batch_norm_scales_ have the shapes"),
        (set_in("parameters", "batch_norm", value="yes"), "TypeError: batch_norm is 'yes'"),
        (set_in("parameters", "batch_norm", value={"dict": {"eps": 1}}), "TypeError"),
        (set_in("parameters", "dropout", value=1.5), "dropout is 1.5"),
        (set_in("parameters", "dropout", value={"dict": {"hidden": 0.5, "inputs": -1}}), "inputs is -1"),
        (set_in("parameters", "activation", value="relu"), "n_features_in_ and n_outputs_ are|have the shapes"),
        (set_in("attributes", "_dropout_state", value={"tuple": [2**60, 0]}), "dropout's seed is"),
        (set_in("attributes", "_dropout_state", value={"tuple": [1, -1]}), "dropout's number of steps is -1"),
        (set_in("attributes", "_dropout_state", value=3), "TypeError"),
    ],
)
def test_forged_layers_of_an_estimator_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    estimator = classifier(activation="maxout", batch_norm=True, dropout=0.5).fit(X, LABELS)
    forge(tmp_path / "estimator", change, estimator)
    with pytest.raises(ModelFileError, match=message):
        fastbp.load(tmp_path / "estimator")


def test_files_from_before_there_was_any_of_it_load(tmp_path: Path) -> None:
    """Such files name no batch normalisation, no dropout and no seed."""

    def age(content: dict[str, Any], tensors: dict[str, np.ndarray]) -> None:
        for name in ("batch_norm", "dropout"):
            content.get("network", {}).pop(name, None)
            content.get("parameters", {}).pop(name, None)
        if "trainer" in content:
            del content["trainer"]["dict"]["seed"]

    trainer = fastbp.Trainer(fastbp.Network((5, 4, 3), random_state=0), random_state=0)
    for model in (trainer, classifier().fit(X, LABELS)):
        forge(tmp_path / "model", age, model)
        copy = fastbp.load(tmp_path / "model")
        for each in (model, copy):
            each.fit(X, LABELS)
        if model is trainer:
            np.testing.assert_array_equal(copy.network.parameters, model.network.parameters)
        else:
            np.testing.assert_array_equal(copy.coefs_[0], model.coefs_[0])
            np.testing.assert_array_equal(copy.predict_proba(X), model.predict_proba(X))
