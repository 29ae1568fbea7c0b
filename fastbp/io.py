"""Models in files: networks, trainers and estimators as safetensors, and back.

The container stands in `fastbp.modelfile`, the encoding of estimators' state in `fastbp.encoding`. What a file can make
is a closed table of kinds; nothing in a file is executed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import fitted, kernels, layers, modelfile
from .activations import OUTPUT_ACTIVATIONS, as_activation, as_hidden_activations, from_plain, to_plain
from .encoding import Decoder, Encoder
from .layers import BatchNorm, Dropout
from .layout import Layout
from .losses import CustomLoss
from .modelfile import ModelFileError
from .network import Network
from .optimizers import OPTIMIZERS, Optimizer
from .preprocessing import Preprocessing
from .schedules import SCHEDULES, Plateau, Schedule
from .standardizer import Standardizer
from .trainer import Trainer

__all__ = ["ModelFile", "ModelFileError", "load", "load_preprocessing", "load_standardizer", "read", "save"]

log = logging.getLogger("fastbp")

Tensors = Mapping[str, NDArray[Any]]

_STANDARDIZER = ("standardizer/mean", "standardizer/deviation")
"""Names of a standardizer's tensors; no part of an estimator has a slash in its name."""

_MALFORMED = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    MemoryError,
)
"""What a description that passed the hash, but that no fastbp wrote, may raise while a model is made from it."""


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds.

    Attributes
    ----------
    model : Network, Trainer, MLPClassifier or MLPRegressor
    preprocessing : Preprocessing or None
        How a table becomes the model's inputs.
    standardizer : Standardizer or None
        How a matrix becomes the model's inputs.
    written_by : dict of str to str
        The versions of the packages that wrote the file.
    sha256 : str
        The hash of its content, verified.
    """

    model: Any
    preprocessing: Preprocessing | None
    standardizer: Standardizer | None
    written_by: dict[str, str]
    sha256: str


def save(
    model: Any,
    path: str | os.PathLike[str],
    *,
    preprocessing: Preprocessing | None = None,
    standardizer: Standardizer | None = None,
) -> None:
    """Save a model so that `load` gives it back, bit for bit.

    The file is safetensors. It is written to a temporary file in the same folder, flushed to the disk and then
    moved into place: whatever happens, a whole file lies at ``path``, the old one or the new.

    Parameters
    ----------
    model : Network, Trainer, MLPClassifier or MLPRegressor
        A trainer is saved with its network, optimiser, moments and random state; an estimator, fitted or not,
        with its parameters, attributes, optimiser and random state. Training goes on from the file as if it had
        never stopped.
    path : str or os.PathLike
    preprocessing : Preprocessing, optional
        How a table becomes the model's inputs; `load_preprocessing` gives it back.
    standardizer : Standardizer, optional
        How a matrix becomes the model's inputs; `load_standardizer` gives it back. Not beside a preprocessing, which
        normalises numbers itself.

    Raises
    ------
    TypeError
        If the model is of another class (a subclass too: what it adds would be lost) or holds something that a
        file cannot.
    ValueError
        If an estimator's arrays, or the model and its preprocessing or standardizer, do not fit together.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import fastbp
    >>> net = fastbp.Network((4, 8, 2), random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder) / "net.safetensors"
    ...     fastbp.save(net, path)
    ...     copy = fastbp.load(path)
    >>> bool((copy.parameters == net.parameters).all())
    True
    """
    _check_kinds(preprocessing, standardizer)
    _check_inputs(preprocessing, standardizer, model)
    content, tensors = _encode(model)
    content["written_by"] = _versions()
    content["preprocessing"] = None if preprocessing is None else preprocessing.to_content()
    content["standardizer"] = standardizer is not None
    if standardizer is not None:
        tensors = {**tensors, **dict(zip(_STANDARDIZER, (standardizer.mean, standardizer.deviation), strict=True))}
    modelfile.write(path, content, tensors)


def _check_kinds(preprocessing: Any, standardizer: Any) -> None:
    """Refuse what is no preprocessing, or no standardizer."""
    kinds = {"preprocessing": (preprocessing, Preprocessing), "standardizer": (standardizer, Standardizer)}
    for name, (given, kind) in kinds.items():
        if given is not None and not isinstance(given, kind):
            raise TypeError(f"{name} is a {type(given).__name__}; pass a {kind.__name__}, or None")


def _encode(model: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Return what describes a model, and its tensors."""
    if type(model) is Network:
        return {"kind": "network", "network": _network_content(model)}, _network_tensors(model)
    return _encode_trainer(model) if type(model) is Trainer else _encode_estimator(model)


def load(path: str | os.PathLike[str]) -> Any:
    """Return the model in a file that `save` or ``fastbp train`` wrote.

    Nothing in the file is executed. A model saved with a backend that is not available here takes ``"auto"``.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    Network, Trainer, MLPClassifier or MLPRegressor
        What was saved.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ModelFileError
        If the file is damaged, foreign, of a newer format, or contradicts itself; the message says what to do.
    """
    return read(path).model


def load_preprocessing(path: str | os.PathLike[str]) -> Preprocessing | None:
    """Return how a table becomes the inputs of the model in a file; None if the file does not say.

    Parameters and errors are those of `load`.
    """
    return read(path).preprocessing


def load_standardizer(path: str | os.PathLike[str]) -> Standardizer | None:
    """Return how a matrix becomes the inputs of the model in a file; None if the file does not say.

    Parameters and errors are those of `load`.
    """
    return read(path).standardizer


def read(path: str | os.PathLike[str]) -> ModelFile:
    """Return everything that a model file holds. Parameters and errors are those of `load`."""
    content, tensors, sha256 = modelfile.read(path)
    try:
        model = _DECODERS[content["kind"]](content, tensors)
        kept = content["preprocessing"]
        preprocessing = None if kept is None else Preprocessing.from_content(kept)
        standardizer = None
        if content.get("standardizer"):  # files from before there were standardizers do not say
            standardizer = Standardizer(*(tensors[name] for name in _STANDARDIZER))
        _check_inputs(preprocessing, standardizer, model)
        written_by = {str(name): str(version) for name, version in content["written_by"].items()}
    except _MALFORMED as error:
        raise ModelFileError(
            f"{path} does not describe a model of fastbp ({type(error).__name__}: {error}); "
            "pass a file that fastbp.save or `fastbp train` wrote"
        ) from error
    return ModelFile(model, preprocessing, standardizer, written_by, sha256)


def _check_inputs(preprocessing: Preprocessing | None, standardizer: Standardizer | None, model: Any) -> None:
    """Refuse what does not make the model's inputs."""
    if preprocessing is not None and standardizer is not None:
        raise ValueError("a preprocessing normalises numbers already; pass it or a standardizer, not both")
    network = getattr(model, "network", model)
    n_inputs = network.layer_sizes[0] if isinstance(network, Network) else getattr(model, "n_features_in_", None)
    for name, given in (("preprocessing", preprocessing), ("standardizer", standardizer)):
        if given is not None and given.n_inputs != n_inputs:
            raise ValueError(f"the {name} makes {given.n_inputs} inputs, but the model takes {n_inputs}")


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    from . import __version__

    return {"fastbp": __version__, "numpy": np.__version__, "scikit-learn": version("scikit-learn")}


# ---------------------------------------------------------------------------------------------- networks


def check_data_only(network: Network, loss: Any = None) -> None:
    """Refuse what no model file can hold: functions of users.

    Raises
    ------
    TypeError
        If the network has a custom activation, or the loss is one.
    """
    if network.is_custom or isinstance(loss, CustomLoss):
        what = "network has a custom activation" if network.is_custom else "trainer has a custom loss"
        raise TypeError(
            f"the {what}, a Python function, and a model file holds data only; pickle it, or keep network.parameters "
            "with numpy.save and build it anew"
        )


def _network_content(network: Network) -> dict[str, Any]:
    check_data_only(network)
    return {**network.spec(), "backend": network.backend, "n_threads": network.n_threads}


def _network_tensors(network: Network) -> dict[str, NDArray[Any]]:
    layout, buffer = network.layout, network.buffer
    running = {"running_means": layout.means(buffer), "running_variances": layout.variances(buffer)}
    return _layers(layout, buffer) | _vectors(layout, running)


def _layers(layout: Layout, flat: NDArray[Any], prefix: str = "") -> dict[str, NDArray[Any]]:
    """Return a flat buffer's parts that an optimiser changes under the names of their tensors."""
    weights = {f"{prefix}weights.{layer}": W for layer, W in enumerate(layout.weights(flat))}
    biases = {f"{prefix}biases.{layer}": b for layer, b in enumerate(layout.biases(flat))}
    return weights | biases | _vectors(layout, {f"{prefix}gammas": layout.gammas(flat)})


def _vectors(layout: Layout, parts: dict[str, list[NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Return the parts of layers that are normalised, by the layer's number."""
    return {
        f"{name}.{layer}": vector
        for name, vectors in parts.items()
        for layer, vector in zip(layout.normalized, vectors, strict=True)
    }


def _decode_network(content: dict[str, Any], tensors: Tensors) -> Network:
    spec = content["network"]
    _check_layer_sizes(spec, tensors)
    network = Network(
        spec["layer_sizes"],
        spec["hidden_activation"],
        spec["output"],
        bias=spec["bias"],
        batch_norm=spec.get("batch_norm", False),  # files say nothing of what there is not
        dropout=spec.get("dropout"),
        initializer="zeros",
        dtype=spec["dtype"],
        backend=_available(spec["backend"]),
        n_threads=spec["n_threads"],
    )
    wanted = _network_tensors(network)
    _refuse_unknown(wanted, tensors)
    _fill(wanted, tensors)
    return network


def _check_layer_sizes(spec: dict[str, Any], tensors: Tensors) -> None:
    """Refuse sizes that the weights do not have, before anything is allocated by them."""
    sizes = spec["layer_sizes"]
    if not all(type(size) is int and size > 0 for size in sizes):
        raise ValueError(f"layer sizes are {sizes}")
    hidden = as_hidden_activations(spec["hidden_activation"], max(0, len(sizes) - 2))
    output = as_activation(spec["output"], OUTPUT_ACTIVATIONS, "output")
    pieces = (*(one.pieces for one in hidden), output.pieces)[: len(sizes) - 1]
    for layer, shape in enumerate(Layout(tuple(sizes), pieces=pieces).shapes):
        _check_shape(f"weights.{layer}", tensors[f"weights.{layer}"], shape)


def _refuse_unknown(wanted: Iterable[str], tensors: Tensors) -> None:
    """Refuse parts of batch normalisation that the architecture has no place for."""
    parts = ("gammas.", "running_means.", "running_variances.")
    unknown = [name for name in tensors if name.startswith(parts) and name not in wanted]
    if unknown:
        raise ValueError(f"there is {unknown[0]}, but the architecture does not normalise that layer")


def _check_shape(name: str, array: NDArray[Any], wanted: tuple[int, ...]) -> None:
    if array.shape != wanted:
        raise ValueError(f"{name} has shape {array.shape}, but the architecture wants {wanted}")


def _fill(views: dict[str, NDArray[Any]], tensors: Tensors) -> None:
    """Copy tensors into a network's or trainer's buffers."""
    for name, view in views.items():
        tensor = tensors[name]
        _check_shape(name, tensor, view.shape)
        if tensor.dtype != view.dtype:
            raise ValueError(f"{name} has dtype {tensor.dtype}, but the network has {view.dtype}")
        view[...] = tensor


def _available(backend: str) -> str:
    """Return a saved backend's name, or ``"auto"`` where it is not available."""
    if kernels.backends().get(backend) == kernels.AVAILABLE:
        return backend
    log.warning("the model was saved with backend %r, which is not available here; it takes 'auto'", backend)
    return "auto"


# ---------------------------------------------------------------------------------------------- trainers


def _encode_trainer(trainer: Trainer) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    encoder, network = Encoder(), trainer.network
    if type(network) is not Network:
        raise TypeError(f"the trainer's network is a {type(network).__name__}; only fastbp.Network itself can be saved")
    check_data_only(network, trainer.loss)
    state = {
        "loss": trainer.loss,
        "batch_size": trainer.batch_size,
        "step": trainer.n_steps,
        "backend": trainer.backend,
        "n_threads": trainer.n_threads,
        "optimizer": _optimizer_content(trainer.optimizer),
        "schedule": _schedule_content(trainer.schedule),
        "plateau": tuple(trainer.plateau),
        "clip_value": trainer.clip_value,
        "clip_norm": trainer.clip_norm,
        "average_decay": trainer.average_decay,
        "random_state": trainer.random_state,
        "seed": trainer._seed,
    }
    coded = encoder.value(state, "trainer")
    trainer._sync_last()
    moments = _layers(network.layout, trainer._m, "m.") | _layers(network.layout, trainer._v, "v.")
    if trainer.average.size:
        moments |= _layers(network.layout, trainer.average, "average.")
    tensors = {**_network_tensors(network), **moments, **encoder.tensors}
    described = {
        "kind": "trainer",
        "network": _network_content(network),
        "trainer": coded,
        "objects": encoder.objects,
    }
    return described, tensors


def _optimizer_content(optimizer: Optimizer) -> dict[str, Any]:
    for name, cls in OPTIMIZERS.items():
        if type(optimizer) is cls:
            return {"kind": name, **{field.name: getattr(optimizer, field.name) for field in fields(cls)}}  # type: ignore[arg-type]
    names = ", ".join(cls.__name__ for cls in OPTIMIZERS.values())
    raise TypeError(f"the optimiser is a {type(optimizer).__name__}; a model file can hold {names}")


def _schedule_content(schedule: Schedule | None) -> dict[str, Any] | None:
    if schedule is None:
        return None
    for name, cls in SCHEDULES.items():
        if type(schedule) is cls:
            values = {field.name: getattr(schedule, field.name) for field in fields(cls)}  # type: ignore[arg-type]
            inner = {key: _schedule_content(value) for key, value in values.items() if isinstance(value, Schedule)}
            return {"kind": name, **values, **inner}
    raise TypeError(f"the schedule is a {type(schedule).__name__}; a model file can hold those of fastbp.schedules")


def _as_schedule(content: dict[str, Any] | None) -> Schedule | None:
    if content is None:
        return None
    values = {key: _as_schedule(value) if isinstance(value, dict) else value for key, value in content.items()}
    del values["kind"]
    return SCHEDULES[content["kind"]](**values)


def _as_plateau(values: tuple[Any, ...]) -> Plateau:
    """Return what a schedule has seen, from a file: numbers of the kinds that it works with."""
    plateau = Plateau(*values)
    whole = all(type(number) is int and number >= 0 for number in plateau[2:])
    if not whole or not all(type(number) is float for number in plateau[:2]) or not 0 <= plateau.factor <= 1:
        raise ValueError(f"plateau is {values}")
    return plateau


def _decode_trainer(content: dict[str, Any], tensors: Tensors) -> Trainer:
    network = _decode_network(content, tensors)
    state = Decoder(content["objects"], tensors).value(content["trainer"])
    settings, random_state = dict(state["optimizer"]), state["random_state"]
    if not isinstance(random_state, np.random.Generator):
        raise TypeError(f"random_state is {random_state!r}")
    trainer = Trainer(
        network,
        loss=state["loss"],
        optimizer=OPTIMIZERS[settings.pop("kind")](**settings),
        schedule=_as_schedule(state.get("schedule")),  # older files have none of this and the next three
        clip_value=state.get("clip_value"),
        clip_norm=state.get("clip_norm"),
        average_decay=state.get("average_decay"),
        batch_size=state["batch_size"],
        backend=_available(state["backend"]),
        n_threads=state["n_threads"],
        random_state=0,
    )
    trainer.random_state = random_state  # from which nothing may be drawn here
    trainer._seed = _counter("seed", state.get("seed", 0), 2**53)
    _counter("step", state["step"], 2**48)
    trainer.n_steps, trainer.plateau = state["step"], _as_plateau(state.get("plateau", Plateau()))
    kept = _layers(network.layout, trainer.m, "m.") | _layers(network.layout, trainer.v, "v.")
    if trainer.average.size:
        kept |= _layers(network.layout, trainer.average, "average.")
    _fill(kept, tensors)
    return trainer


def _counter(name: str, value: Any, end: int) -> int:
    """Return what dropout's masks go by, if it is a whole number in [0, end)."""
    if type(value) is not int or not 0 <= value < end:
        raise ValueError(f"{name} is {value!r}")
    return value


# -------------------------------------------------------------------------------------------- estimators


_LAYER_KINDS: dict[str, type[BatchNorm] | type[Dropout]] = {"batch_norm": BatchNorm, "dropout": Dropout}
"""Parameters of estimators that may hold objects of ours."""


def _estimators() -> dict[str, type]:
    from .estimators import MLPClassifier, MLPRegressor

    return {"MLPClassifier": MLPClassifier, "MLPRegressor": MLPRegressor}


def _parts() -> dict[str, type]:
    """Return the classes of the objects that a fitted estimator holds."""
    from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
    from sklearn.preprocessing import LabelBinarizer

    return {cls.__name__: cls for cls in (AdamOptimizer, SGDOptimizer, LabelBinarizer)}


def _encode_estimator(estimator: Any) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    kind = next((name for name, cls in _estimators().items() if type(estimator) is cls), None)
    if kind is None:
        raise TypeError(
            f"model is a {type(estimator).__module__}.{type(estimator).__qualname__}; pass a fastbp.Network, "
            "fastbp.Trainer, fastbp.MLPClassifier or fastbp.MLPRegressor (scikit-learn's own: through from_sklearn)"
        )
    _check_estimator(estimator)
    encoder, names = Encoder(_parts()), set(estimator.get_params(deep=False))
    plain = {**vars(estimator), "activation": to_plain(estimator.activation)}
    plain |= {name: layers.to_plain(getattr(estimator, name)) for name in _LAYER_KINDS}
    state = {name: encoder.value(value, name) for name, value in plain.items()}
    content = {
        "kind": kind,
        "parameters": {name: value for name, value in state.items() if name in names},
        "attributes": {name: value for name, value in state.items() if name not in names},
        "objects": encoder.objects,
    }
    return content, encoder.tensors


def _decode_estimator(content: dict[str, Any], tensors: Tensors) -> Any:
    cls = _estimators()[content["kind"]]
    decoder = Decoder(content["objects"], tensors, _parts())
    parameters = {name: decoder.value(value) for name, value in content["parameters"].items()}
    known = set(cls().get_params(deep=False))
    if not parameters.keys() <= known:
        unknown = ", ".join(sorted(parameters.keys() - known))
        raise ValueError(f"its parameters {unknown} are unknown to this version of scikit-learn")
    parameters["activation"] = from_plain(parameters["activation"])
    for name in _LAYER_KINDS.keys() & parameters.keys():  # older files have neither
        parameters[name] = layers.from_plain(parameters[name], _LAYER_KINDS[name])
    estimator = cls(**parameters)
    for name, value in content["attributes"].items():
        if hasattr(cls, name) or name in known:
            raise ValueError(f"it would replace {cls.__name__}.{name}")
        setattr(estimator, name, decoder.value(value))
    _check_estimator(estimator)
    return estimator


def _check_estimator(estimator: Any) -> None:
    """Refuse a fitted estimator whose arrays do not fit together: the kernels rely on it."""
    if not hasattr(estimator, "coefs_"):
        return
    shapes = [np.shape(W) for W in estimator.coefs_]
    if not shapes or any(len(shape) != 2 or 0 in shape for shape in shapes):
        raise ValueError(f"coefs_ have the shapes {shapes}; pass matrices")
    layout = fitted.layout_of(estimator)
    sizes, wanted = list(layout.layer_sizes), fitted.shapes_of(layout)
    trained = [shape for part in wanted[:3] for shape in part]
    optimizer = getattr(estimator, "_optimizer", None)
    _check_arrays("coefs_ and intercepts_", _learned(estimator, fitted.NAMES[:2]), [*wanted[0], *wanted[1]], sizes)
    for name, part in zip(fitted.BATCH_NORM, wanted[2:], strict=True):
        _check_arrays(name, getattr(estimator, name, []), part, sizes)
    for name, part in zip(fitted.NAMES, wanted, strict=True):
        _check_arrays(f"the best {name}", getattr(estimator, fitted.best_name(name), None), part, sizes)
    for name in ("ms", "vs", "velocities"):
        _check_arrays(f"the optimiser's {name}", getattr(optimizer, name, None), trained, sizes)
    ends = (estimator.n_features_in_, estimator.n_outputs_)
    if ends != (sizes[0], sizes[-1]):
        raise ValueError(f"n_features_in_ and n_outputs_ are {ends}, but the layers have {sizes} units")
    layers.as_dropout(estimator.dropout, layout.n_layers - 1)
    seed, n_steps = getattr(estimator, "_dropout_state", (0, 0))
    _counter("dropout's seed", seed, 2**53)
    _counter("dropout's number of steps", n_steps, 2**48)
    as_activation(estimator.out_activation_, OUTPUT_ACTIVATIONS, "out_activation_")


def _learned(estimator: Any, names: Iterable[str]) -> list[Any]:
    return [array for name in names for array in getattr(estimator, name)]


def _check_arrays(name: str, arrays: Any, wanted: list[tuple[int, ...]], sizes: list[int]) -> None:
    """Refuse what are not numeric arrays of these shapes; None stands for what an estimator need not have."""
    if arrays is None:
        return
    got = [np.shape(array) for array in arrays]
    if got != wanted:
        raise ValueError(f"{name} have the shapes {got}, but layers of {sizes} units want {wanted}")
    if not all(isinstance(array, np.ndarray) and array.dtype.kind in "biuf" for array in arrays):
        raise TypeError(f"{name} must be numeric arrays")


_DECODERS = {
    "network": _decode_network,
    "trainer": _decode_trainer,
    "MLPClassifier": _decode_estimator,
    "MLPRegressor": _decode_estimator,
}
