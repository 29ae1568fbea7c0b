"""What a model file holds, in words and numbers."""

from __future__ import annotations

import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from . import io
from .activations import as_hidden_activations
from .fitted import layout_of
from .layers import as_dropout
from .layout import Layout
from .network import Network
from .optimizers import OPTIMIZERS, Optimizer
from .preprocessing import Preprocessing
from .trainer import Trainer


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what a model file holds, after its hash was verified.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    dict
        What JSON can hold: ``kind, layers, n_parameters, dtype, optimizer, training, preprocessing, standardizer,
        sha256, bytes, written_by``. A layer has ``pieces`` (maxout), ``batch_norm`` and ``kept`` (dropout: the
        probability) where it has them, and there is ``inputs_kept`` where inputs are dropped.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        As for `fastbp.load`.
    """
    file = io.read(path)
    model = file.model
    if isinstance(model, Network | Trainer):
        described = _describe_network(model.network if isinstance(model, Trainer) else model)
        if isinstance(model, Trainer):
            described |= _describe_training(model)
    else:
        described = _describe_estimator(model)
    preprocessing = None if file.preprocessing is None else _describe_preprocessing(file.preprocessing)
    standardizer = None if file.standardizer is None else {"n_inputs": file.standardizer.n_inputs}
    return {
        "file": str(path),
        "kind": type(model).__name__,
        **described,
        "preprocessing": preprocessing,
        "standardizer": standardizer,
        "sha256": file.sha256,
        "bytes": Path(path).stat().st_size,
        "written_by": file.written_by,
    }


def _describe_network(network: Network) -> dict[str, Any]:
    activations = [str(activation) for activation in network.functions]
    return {
        **_describe_layers(network.layout, activations, network.dropout),
        "n_parameters": network.n_parameters,
        "dtype": str(network.dtype),
    }


def _describe_training(trainer: Trainer) -> dict[str, Any]:
    schedule = {} if trainer.schedule is None else {"schedule": repr(trainer.schedule)}
    return {
        "optimizer": _describe_optimizer(trainer.optimizer),
        "training": {"loss": trainer.loss, "batch_size": trainer.batch_size, **schedule, "steps_done": trainer.n_steps},
    }


def _describe_optimizer(optimizer: Optimizer) -> dict[str, Any]:
    name = next(name for name, cls in OPTIMIZERS.items() if type(optimizer) is cls)
    return {"kind": name, **{field.name: getattr(optimizer, field.name) for field in fields(optimizer)}}  # type: ignore[arg-type]


_SOLVER_PARAMETERS = {
    "adam": ("learning_rate_init", "beta_1", "beta_2", "epsilon"),
    "sgd": ("learning_rate_init", "learning_rate", "momentum", "nesterovs_momentum"),
    "lbfgs": ("max_fun",),
}


def _describe_estimator(estimator: Any) -> dict[str, Any]:
    names = _SOLVER_PARAMETERS.get(estimator.solver, ())
    described = {
        "optimizer": {"kind": estimator.solver, **{name: _plain(getattr(estimator, name)) for name in names}},
        "training": {
            "loss": estimator.loss,
            "batch_size": estimator.batch_size,
            "alpha": _plain(estimator.alpha),
        },
    }
    if not hasattr(estimator, "coefs_"):
        return {"layers": [], "n_parameters": 0, "dtype": None, **described}
    layout = layout_of(estimator)
    hidden = as_hidden_activations(estimator.activation, layout.n_layers - 1)
    activations = [*map(str, hidden), estimator.out_activation_]
    described["training"] |= {"epochs_done": int(estimator.n_iter_), "final_loss": _plain(estimator.loss_)}
    classes = {"classes": _plain(estimator.classes_)} if hasattr(estimator, "classes_") else {}
    return {
        **_describe_layers(layout, activations, as_dropout(estimator.dropout, layout.n_layers - 1)),
        "n_parameters": layout.size,
        "dtype": str(estimator.coefs_[0].dtype),
        **classes,
        **described,
    }


def _describe_layers(layout: Layout, activations: list[str], kept: tuple[float, ...]) -> dict[str, Any]:
    """Return each layer's sizes and what stands in it; a normalised unit has gamma and beta."""
    layers, kept_of_all = [], (*kept, 1.0)
    for layer, (n_in, width) in enumerate(layout.shapes):
        n_out, norm = layout.layer_sizes[layer + 1], layout.norms[layer]
        n_vectors = layout.bias + (norm is not None)
        described: dict[str, Any] = {"inputs": n_in, "outputs": n_out, "activation": activations[layer]}
        described["parameters"] = (n_in + n_vectors) * width
        if width > n_out:
            described["pieces"] = width // n_out
        if norm is not None:
            described["batch_norm"] = asdict(norm)
        if kept_of_all[layer + 1] < 1:
            described["kept"] = kept_of_all[layer + 1]
        layers.append(described)
    return {"layers": layers, **({"inputs_kept": kept[0]} if kept[0] < 1 else {})}


def _describe_preprocessing(preprocessing: Preprocessing) -> dict[str, Any]:
    features = preprocessing.features
    return {
        "target": preprocessing.target.name,
        "task": preprocessing.target.task,
        "n_inputs": preprocessing.n_inputs,
        "numbers": [feature.name for feature in features if feature.scale is not None],
        "categories": {feature.name: len(feature.categories) for feature in features if feature.scale is None},
    }


def _plain(value: Any) -> Any:
    """Return a NumPy value as Python's, for JSON."""
    return value.tolist() if hasattr(value, "tolist") else value
