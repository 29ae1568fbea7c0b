"""Model files: what is saved comes back bit for bit, and what is no whole model file is refused."""

from __future__ import annotations

import json
import os
import pickle
import stat
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from sklearn import neural_network

import fastbp
from fastbp import files, modelfile
from fastbp.encoding import Decoder, Encoder
from fastbp.io import ModelFileError, load_preprocessing, read
from fastbp.preprocessing import Preprocessing

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def assert_same(got: Any, wanted: Any, where: str = "model") -> None:
    """Types, values and the bits of every float agree, all the way down."""
    assert type(got) is type(wanted), where
    if isinstance(wanted, np.ndarray):
        assert got.dtype == wanted.dtype, where
        assert got.shape == wanted.shape, where
        if wanted.dtype == object:
            assert_same(got.tolist(), wanted.tolist(), where)
        else:
            assert got.tobytes() == wanted.tobytes(), where
    elif isinstance(wanted, dict):
        assert list(got) == list(wanted), where
        for name in wanted:
            assert_same(got[name], wanted[name], f"{where}.{name}")
    elif isinstance(wanted, list | tuple):
        assert len(got) == len(wanted), where
        for i, item in enumerate(wanted):
            assert_same(got[i], item, f"{where}[{i}]")
    elif isinstance(wanted, np.random.RandomState):
        assert_same(got.get_state(legacy=False), wanted.get_state(legacy=False), where)
    elif isinstance(wanted, float):
        assert np.float64(got).tobytes() == np.float64(wanted).tobytes(), where
    elif hasattr(wanted, "__dict__") and not isinstance(wanted, np.generic):
        assert_same(vars(got), vars(wanted), where)
    else:
        assert got == wanted, where


def rows(n: int = 60, n_features: int = 5, dtype: Any = np.float64) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, n_features)).astype(dtype)


# ------------------------------------------------------------------------------------- networks and trainers


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("sizes", "hidden", "output", "bias"),
    [((5, 7, 3), "tanh", "softmax", True), ((5, 4, 3, 1), "relu", "identity", False), ((1, 1), "relu", "exp", True)],
)
def test_a_network_comes_back_bit_for_bit(
    sizes: tuple[int, ...], hidden: str, output: str, bias: bool, dtype: str, tmp_path: Path
) -> None:
    net = fastbp.Network(sizes, hidden, output, bias=bias, dtype=dtype, random_state=1, backend="numpy", n_threads=2)
    fastbp.save(net, tmp_path / "net")
    copy = fastbp.load(tmp_path / "net")
    assert type(copy) is fastbp.Network
    assert copy.spec() == net.spec()
    assert (copy.backend, copy.n_threads) == ("numpy", 2)
    assert_same(copy.parameters, net.parameters)
    X = rows(9, sizes[0])
    assert_same(copy.predict(X), net.predict(X))


BETWEEN_LAYERS: dict[str, dict[str, Any]] = {
    "batch norm": {"batch_norm": True},
    "of one layer": {"batch_norm": [None, fastbp.BatchNorm(epsilon=0.1, momentum=np.float32(0.3))]},
    "dropout": {"dropout": 0.5},
    "of inputs": {"dropout": fastbp.Dropout([0.5, 1], inputs=0.9)},
    "maxout": {"hidden_activation": "maxout", "output": "maxout"},
    "all": {"hidden_activation": [fastbp.Maxout(3), "relu"], "batch_norm": True, "dropout": [0.5, np.float64(0.7)]},
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", BETWEEN_LAYERS)
def test_what_stands_between_layers_comes_back(name: str, dtype: str, tmp_path: Path) -> None:
    options = {"output": "identity", **BETWEEN_LAYERS[name]}
    net = fastbp.Network((5, 6, 4, 2), dtype=dtype, random_state=2, **options)
    trainer = fastbp.Trainer(net, loss="squared_error", batch_size=7, average_decay=0.9, random_state=3)
    trainer.fit(X, TARGETS, epochs=2)
    for model in (net, trainer):
        fastbp.save(model, tmp_path / "model")
        copy = fastbp.load(tmp_path / "model")
        fastbp.save(copy, tmp_path / "again")
        assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()
        network = getattr(copy, "network", copy)
        assert network.spec() == net.spec()
        assert_same(network.buffer, net.buffer)
        assert_same(network.predict(X), net.predict(X))
    histories = [each.fit(X, TARGETS, epochs=2) for each in (trainer, copy)]
    assert_same(histories[1].loss, histories[0].loss)
    for array in ("m", "v", "average"):
        assert_same(getattr(copy, array), getattr(trainer, array))
    assert_same(copy.network.buffer, net.buffer)


def test_parts_of_batch_normalisation_are_tensors_of_their_own(tmp_path: Path) -> None:
    net = fastbp.Network((3, 4, 5, 2), batch_norm=[None, True], random_state=0)
    fastbp.Trainer(net, random_state=0).fit(np.eye(3), [0, 1, 0])
    fastbp.save(net, tmp_path / "net")
    tensors = load_file(tmp_path / "net")
    for name, vector in {
        "gammas.1": net.gammas[0],
        "running_means.1": net.running_means[0],
        "running_variances.1": net.running_variances[0],
    }.items():
        assert_same(tensors[name], vector)


OPTIMIZERS = {
    "sgd": fastbp.SGD(0.05),
    "momentum": fastbp.SGD(0.05, momentum=0.8),
    "nesterov": fastbp.SGD(0.05, momentum=0.8, nesterov=True),
    "adam": fastbp.Adam(np.float32(0.01), beta_1=0.85),
    "adamw": fastbp.AdamW(0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_trainer_goes_on_bit_for_bit(name: str, dtype: str, tmp_path: Path) -> None:
    X, y = rows(), np.arange(60) % 3
    net = fastbp.Network((5, 6, 3), dtype=dtype, random_state=2)
    trainer = fastbp.Trainer(net, optimizer=OPTIMIZERS[name], batch_size=7, random_state=3)
    trainer.fit(X, y, epochs=2)
    fastbp.save(trainer, tmp_path / "trainer")
    copy = fastbp.load(tmp_path / "trainer")
    assert type(copy) is fastbp.Trainer
    assert copy.optimizer == trainer.optimizer
    assert copy.n_steps == trainer.n_steps == 18
    histories = [each.fit(X, y, epochs=3, alpha=0.1) for each in (trainer, copy)]
    assert_same(histories[1].loss, histories[0].loss)
    assert_same(copy.network.parameters, trainer.network.parameters)
    assert_same(copy.m, trainer.m)
    assert_same(copy.v, trainer.v)
    assert copy.n_steps == trainer.n_steps


def test_a_trainer_that_was_never_saved_differs_without_its_random_state(tmp_path: Path) -> None:
    """The test above would notice a forgotten random state."""
    X, y = rows(), np.arange(60) % 3
    losses = []
    for seed in (3, 4):
        net = fastbp.Network((5, 6, 3), random_state=2)
        losses.append(fastbp.Trainer(net, batch_size=7, random_state=seed).fit(X, y).loss)
    assert losses[0] != losses[1]


@pytest.mark.parametrize("kind", ["MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"])
def test_every_bit_generator_of_numpy_is_kept(kind: str, tmp_path: Path) -> None:
    generator = np.random.Generator(getattr(np.random, kind)(5))
    generator.integers(2**32, size=3, dtype=np.uint32)
    net = fastbp.Network((2, 2), random_state=0)
    trainer = fastbp.Trainer(net, loss="cross_entropy", batch_size=3, random_state=generator)
    fastbp.save(trainer, tmp_path / "trainer")
    copy = fastbp.load(tmp_path / "trainer")
    assert type(copy.random_state.bit_generator).__name__ == kind
    assert_same(
        copy.random_state.integers(2**32, size=9, dtype=np.uint32), generator.integers(2**32, size=9, dtype=np.uint32)
    )


def test_a_checkpoint_is_a_trainer(tmp_path: Path) -> None:
    X, y = rows(), np.arange(60) % 3
    trainer = fastbp.Trainer(fastbp.Network((5, 6, 3), random_state=0), random_state=0)
    trainer.fit(X, y, epochs=2, callbacks=[fastbp.Checkpoint(tmp_path / "epoch-{epoch}")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["epoch-1", "epoch-2"]
    assert_same(fastbp.load(tmp_path / "epoch-2").network.parameters, trainer.network.parameters)


def test_a_backend_that_is_missing_here_is_replaced_aloud(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net = fastbp.Network((3, 2), random_state=0)
    net.backend = "cuda"
    fastbp.save(net, tmp_path / "net")
    assert fastbp.load(tmp_path / "net").backend == fastbp.Network((3, 2)).backend
    assert "'cuda'" in caplog.text


# ------------------------------------------------------------------------------------------------ estimators


X, LABELS = rows(), np.arange(60) % 3
TARGETS = X[:, :2] ** 2
NAMES = np.array(["ant", "bee", "wasp"])


def classifier(**parameters: Any) -> fastbp.MLPClassifier:
    return fastbp.MLPClassifier(**{"hidden_layer_sizes": (6,), "max_iter": 4, "random_state": 0, **parameters})


def regressor(**parameters: Any) -> fastbp.MLPRegressor:
    return fastbp.MLPRegressor(**{"hidden_layer_sizes": (6,), "max_iter": 4, "random_state": 0, **parameters})


def sequence(estimator: Any, y: Any) -> Any:
    for _ in range(3):
        estimator.partial_fit(X, y, classes=np.unique(y))
    return estimator


ESTIMATORS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "adam": lambda: (classifier().fit(X, LABELS), LABELS),
    "float32": lambda: (classifier().fit(X.astype(np.float32), LABELS), LABELS),
    "sgd, inverse scaling": lambda: (classifier(solver="sgd", learning_rate="invscaling").fit(X, LABELS), LABELS),
    "sgd, adaptive": lambda: (
        classifier(solver="sgd", learning_rate="adaptive", tol=1, n_iter_no_change=1, max_iter=9).fit(X, LABELS),
        LABELS,
    ),
    "sgd, plain": lambda: (classifier(solver="sgd", momentum=0).fit(X, LABELS), LABELS),
    "lbfgs": lambda: (classifier(solver="lbfgs").fit(X, LABELS), LABELS),
    "early stopping": lambda: (classifier(early_stopping=True, max_iter=9, n_iter_no_change=2).fit(X, LABELS), LABELS),
    "partial fit": lambda: (sequence(classifier(), LABELS), LABELS),
    "a RandomState": lambda: (classifier(random_state=np.random.RandomState(7)).fit(X, LABELS), LABELS),
    "layers as a list": lambda: (classifier(hidden_layer_sizes=[4, 3]).fit(X, LABELS), LABELS),
    "an int of NumPy": lambda: (classifier(batch_size=np.int64(9), alpha=np.float32(0.1)).fit(X, LABELS), LABELS),
    "binary": lambda: (classifier().fit(X, LABELS > 0), LABELS > 0),
    "strings": lambda: (classifier().fit(X, NAMES[LABELS]), NAMES[LABELS]),
    "strings as objects": lambda: (classifier().fit(X, NAMES[LABELS].astype(object)), NAMES[LABELS].astype(object)),
    "small integers": lambda: (classifier().fit(X, LABELS.astype(np.int8)), LABELS.astype(np.int8)),
    "floats": lambda: (classifier().fit(X, LABELS.astype(np.float32)), LABELS.astype(np.float32)),
    "multilabel": lambda: (classifier().fit(X, (X[:, :3] > 0).astype(int)), (X[:, :3] > 0).astype(int)),
    "regression": lambda: (regressor().fit(X, X[:, 0]), X[:, 0]),
    "many outputs": lambda: (regressor().fit(X, TARGETS), TARGETS),
    "poisson": lambda: (regressor(loss="poisson").fit(X, X[:, 0] ** 2), X[:, 0] ** 2),
    "regression by lbfgs": lambda: (regressor(solver="lbfgs").fit(X, TARGETS), TARGETS),
    "batch norm": lambda: (classifier(batch_norm=True).fit(X, LABELS), LABELS),
    "batch norm by sgd": lambda: (
        classifier(batch_norm=[fastbp.BatchNorm(0.1), False], hidden_layer_sizes=(4, 3), solver="sgd").fit(X, LABELS),
        LABELS,
    ),
    "batch norm, early stopping": lambda: (
        classifier(batch_norm=(True,), early_stopping=True, max_iter=9, n_iter_no_change=2).fit(X, LABELS),
        LABELS,
    ),
    "dropout": lambda: (sequence(classifier(dropout=fastbp.Dropout([0.5], inputs=0.8)), LABELS), LABELS),
    "maxout": lambda: (regressor(activation=fastbp.Maxout(3)).fit(X, TARGETS), TARGETS),
    "maxout by lbfgs": lambda: (regressor(activation="maxout", solver="lbfgs").fit(X, TARGETS), TARGETS),
    "regression, float32": lambda: (regressor().fit(X.astype(np.float32), TARGETS), TARGETS),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_estimator_comes_back_and_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    estimator, y = ESTIMATORS[name]()
    fastbp.save(estimator, tmp_path / "estimator")
    copy = fastbp.load(tmp_path / "estimator")
    assert_same(copy, estimator)
    assert_same(copy.predict(X), estimator.predict(X))
    for each in (estimator, copy):  # training goes on from where it stood
        if each.solver == "lbfgs" or each.early_stopping:
            each.set_params(warm_start=True).fit(X, y)
        else:
            each.partial_fit(X, y)
    assert_same(copy, estimator)
    for each in (estimator, copy):
        each.set_params(warm_start=True).fit(X, y)
    assert_same(copy, estimator)


def test_a_fit_on_the_global_random_state_goes_on_alike(tmp_path: Path) -> None:
    np.random.seed(3)  # noqa: NPY002  what random_state=None means
    estimator = classifier(random_state=None).fit(X, LABELS)
    fastbp.save(estimator, tmp_path / "estimator")
    copy = fastbp.load(tmp_path / "estimator")
    assert_same(copy._random_state, np.random.mtrand._rand)
    assert copy._random_state is not np.random.mtrand._rand


@pytest.mark.parametrize(
    "estimator",
    [
        classifier(),
        regressor(random_state=np.random.RandomState(1)),
        classifier(hidden_layer_sizes=np.array([3, 2]), alpha=0.5, backend="numpy"),
        regressor(batch_norm=[fastbp.BatchNorm(momentum=0.5)], dropout=fastbp.Dropout((0.5,), inputs=0.5)),
    ],
)
def test_an_unfitted_estimator_comes_back_with_its_parameters(estimator: Any, tmp_path: Path) -> None:
    fastbp.save(estimator, tmp_path / "estimator")
    copy = fastbp.load(tmp_path / "estimator")
    assert_same(copy, estimator)
    y = LABELS if hasattr(estimator, "predict_proba") else TARGETS
    assert_same(copy.fit(X, y).coefs_, estimator.fit(X, y).coefs_)


def test_names_of_features_are_kept(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X, columns=list("abcde"))
    estimator = classifier().fit(frame, NAMES[LABELS])
    fastbp.save(estimator, tmp_path / "estimator")
    copy = fastbp.load(tmp_path / "estimator")
    assert_same(copy.feature_names_in_, estimator.feature_names_in_)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_same(copy.predict(frame), estimator.predict(frame))


def test_what_was_one_object_is_one_object(tmp_path: Path) -> None:
    """After early stopping, coefs_ is _best_coefs: where no epoch is better, both hold the last epoch's."""
    shared = np.random.RandomState(1)
    estimator = classifier(early_stopping=True, random_state=shared, max_iter=9, n_iter_no_change=2).fit(X, LABELS)
    assert estimator.coefs_ is estimator._best_coefs
    fastbp.save(estimator, tmp_path / "estimator")
    copy = fastbp.load(tmp_path / "estimator")
    assert copy.coefs_ is copy._best_coefs
    assert copy.random_state is copy._random_state
    assert copy.classes_ is copy._label_binarizer.classes_


def test_edited_coefficients_of_any_layout_are_kept(tmp_path: Path) -> None:
    estimator = classifier().fit(X, LABELS)
    estimator.coefs_[0] = np.asfortranarray(estimator.coefs_[0] * 2).astype(">f8")
    estimator.coefs_[1] = np.repeat(estimator.coefs_[1], 2, axis=0)[::2]
    fastbp.save(estimator, tmp_path / "estimator")
    copy = fastbp.load(tmp_path / "estimator")
    for got, wanted in zip(copy.coefs_, estimator.coefs_, strict=True):
        np.testing.assert_array_equal(got, wanted)
        assert got.dtype == np.float64
        assert got.flags.c_contiguous
        assert got.flags.writeable


class Subclass(fastbp.MLPClassifier):
    """What it adds would be lost."""


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (Subclass(), TypeError, "Subclass; pass a fastbp.Network"),
        (neural_network.MLPClassifier(), TypeError, "from_sklearn"),
        (classifier(hidden_layer_sizes=(x for x in [3])), TypeError, "hidden_layer_sizes is a builtins.generator"),
        ("text", TypeError, "str; pass a fastbp.Network"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_leaves_nothing(
    model: Any, error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        fastbp.save(model, tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_attributes_that_a_user_added_are_kept_or_refused_by_name(tmp_path: Path) -> None:
    estimator = classifier().fit(X, LABELS)
    estimator.notes_ = {"site": "north", "seen": [1, 2.5, float("inf"), None], "nan": np.float32("nan")}
    fastbp.save(estimator, tmp_path / "estimator")
    copy = fastbp.load(tmp_path / "estimator")
    assert copy.notes_["seen"] == [1, 2.5, float("inf"), None]
    assert np.isnan(copy.notes_["nan"])
    before = (tmp_path / "estimator").read_bytes()
    estimator.notes_ = {"made by": open}
    with pytest.raises(TypeError, match=r"notes_\.made by is a builtins\.builtin_function"):
        fastbp.save(estimator, tmp_path / "estimator")
    assert (tmp_path / "estimator").read_bytes() == before


def test_arrays_that_do_not_fit_together_are_refused_when_saved(tmp_path: Path) -> None:
    estimator = classifier().fit(X, LABELS)
    estimator.intercepts_[0] = np.zeros(9)
    with pytest.raises(ValueError, match=r"intercepts_ have the shapes .* want"):
        fastbp.save(estimator, tmp_path / "estimator")


# ------------------------------------------------------------------------------------------ the file itself


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A model file's bytes."""
    path = tmp_path_factory.mktemp("whole") / "net"
    fastbp.save(fastbp.Network((3, 4, 2), random_state=0), path)
    return path.read_bytes()


def test_equal_models_make_equal_files(whole: bytes, tmp_path: Path) -> None:
    for _ in range(5):
        fastbp.save(fastbp.Network((3, 4, 2), random_state=0), tmp_path / "net")
        assert (tmp_path / "net").read_bytes() == whole


def test_the_file_is_safetensors_that_others_can_read(whole: bytes, tmp_path: Path) -> None:
    (tmp_path / "net").write_bytes(whole)
    net = fastbp.load(tmp_path / "net")
    tensors = load_file(tmp_path / "net")
    assert sorted(tensors) == ["biases.0", "biases.1", "weights.0", "weights.1"]
    assert_same(tensors["weights.1"], np.array(net.weights[1]))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_no_flipped_bit_goes_unnoticed(whole: bytes, data: st.DataObject, tmp_path_factory: Any) -> None:
    """Either the file is refused, or the bit meant nothing: the model is what it was."""
    path = tmp_path_factory.getbasetemp() / "flipped"
    position = data.draw(st.integers(0, len(whole) - 1))
    damaged = bytearray(whole)
    damaged[position] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(damaged)
    try:
        net = fastbp.load(path)
    except ModelFileError:
        return
    fastbp.save(net, path)
    assert path.read_bytes() == whole


def test_every_tensor_byte_is_covered_by_the_hash(whole: bytes, tmp_path: Path) -> None:
    start = 8 + int.from_bytes(whole[:8], "little")
    for position in range(start, len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        (tmp_path / "net").write_bytes(damaged)
        with pytest.raises(ModelFileError, match="is damaged: its content has the SHA-256"):
            fastbp.load(tmp_path / "net")


def test_the_description_is_covered_by_the_hash_too(tmp_path: Path) -> None:
    fastbp.save(classifier(alpha=0.125).fit(X, LABELS), tmp_path / "estimator")
    content = (tmp_path / "estimator").read_bytes()
    assert content.count(b'"alpha\\":0.125') == 1
    (tmp_path / "estimator").write_bytes(content.replace(b'"alpha\\":0.125', b'"alpha\\":0.126'))
    with pytest.raises(ModelFileError, match="is damaged"):
        fastbp.load(tmp_path / "estimator")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_truncated_or_longer_file_is_refused(whole: bytes, data: st.DataObject, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "cut"
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    for content in (cut, whole + data.draw(st.binary(min_size=1, max_size=9))):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match="cannot be read as safetensors"):
            fastbp.load(path)


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_refused(content: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes"
    path.write_bytes(content)
    with pytest.raises(ModelFileError):
        fastbp.load(path)


class Trap:
    """Unpickling this would be noticed."""

    def __reduce__(self) -> Any:
        return os._exit, (99,)


def test_foreign_files_are_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "foreign"
    cases: list[tuple[Any, str]] = [
        (lambda: save_file({"a": np.ones(2)}, path), r"of another kind \(its metadata: none\)"),
        (lambda: save_file({"a": np.ones(2)}, path, {"format": "pt"}), r"another kind \(its metadata: 'format'\)"),
        (lambda: save_file({"a": np.ones(2)}, path, {"fastbp": "text"}), "is no JSON"),
        (lambda: save_file({"a": np.ones(2)}, path, {"fastbp": "[1]"}), "another format"),
        (lambda: save_file({"a": np.ones(2)}, path, {"fastbp": '{"format": "x"}'}), "another format"),
        (lambda: save_file({}, path, {"fastbp": '{"format": "fastbp-model"}'}), "has no version"),
        (lambda: save_file({}, path, {"fastbp": "[" * 100_000}), "is no JSON"),
        (lambda: save_file({}, path, {"fastbp": '{"format": NaN}'}), "is no JSON"),
        (lambda: path.write_bytes(pickle.dumps(Trap())), "cannot be read as safetensors"),
        (lambda: path.write_text("a,b\n1,2\n"), "cannot be read as safetensors"),
        (lambda: path.write_bytes(b""), "cannot be read as safetensors"),
    ]
    for write, message in cases:
        write()
        with pytest.raises(ModelFileError, match=message):
            fastbp.load(path)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        fastbp.load(tmp_path / "missing")
    with pytest.raises(ModelFileError, match="is no regular file"):
        fastbp.load(tmp_path)


def test_a_newer_format_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(modelfile, "VERSION", 2)
        fastbp.save(fastbp.Network((3, 2), random_state=0), tmp_path / "net")
    with pytest.raises(ModelFileError, match=r"format version 2, .* up to 1; upgrade with: pip install"):
        fastbp.load(tmp_path / "net")


# ------------------------------------------------------------------------------------------------ encoding


@pytest.mark.parametrize("position", [-1, 625, 2**40, "1", None])
def test_a_random_state_that_points_beyond_its_buffer_is_refused(position: Any) -> None:
    encoder = Encoder()
    coded = encoder.value(np.random.RandomState(0), "random_state")
    encoder.objects[-1]["random_state"]["dict"]["state"]["dict"]["pos"] = position
    with pytest.raises(ValueError, match="pos is"):
        Decoder(encoder.objects, encoder.tensors).value(coded)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(width=64)
    | st.text()
    | st.floats(width=32).map(np.float32)
    | st.integers(0, 255).map(np.uint8),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.lists(inner).map(tuple),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(value=VALUES)
def test_values_survive_encoding_and_json(value: Any) -> None:
    encoder = Encoder()
    coded = encoder.value(value, "value")
    text = json.dumps([coded, encoder.objects], allow_nan=False)
    coded, objects = json.loads(text)
    assert repr(Decoder(objects, encoder.tensors).value(coded)) == repr(value)


# ------------------------------------------------------------------------------------------- writing files


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("step", ["save", "fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    step: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, whole: bytes
) -> None:
    path = tmp_path / "net"
    path.write_bytes(whole)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    module: Any = {"save": safetensors.numpy, "fsync": os, "replace": os}[step]
    monkeypatch.setattr(module, step, fail)
    with pytest.raises(OSError, match="No space left"):
        fastbp.save(fastbp.Network((9, 9), random_state=1), path)
    assert path.read_bytes() == whole
    assert listing(tmp_path) == ["net"]


def test_content_reaches_the_disk_before_the_name_and_the_name_after(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    events = []
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        events.append(f"sync {kind}" if kind == "folder" or os.fstat(descriptor).st_size else "sync empty file")
        fsync(descriptor)

    def watched_replace(source: Any, target: Any) -> None:
        assert Path(source).parent == Path(target).parent
        events.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    fastbp.save(fastbp.Network((3, 2), random_state=0), tmp_path / "net")
    assert events == ["sync file", "replace", "sync folder"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes and links need rights")
def test_modes_and_links_are_kept(tmp_path: Path, whole: bytes) -> None:
    net = fastbp.Network((3, 4, 2), random_state=0)
    umask = os.umask(0o027)
    try:
        fastbp.save(net, tmp_path / "new")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    (tmp_path / "new").chmod(0o600)
    (tmp_path / "link").symlink_to("new")
    fastbp.save(net, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o600
    assert (tmp_path / "new").read_bytes() == whole


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    net = fastbp.Network((3, 2), random_state=0)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*missing; make it"):
        fastbp.save(net, tmp_path / "missing" / "net")
    with pytest.raises(IsADirectoryError, match="is no regular file"):
        fastbp.save(net, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_block_leaves_nothing(tmp_path: Path) -> None:
    def write() -> None:
        with files.replacing(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------- preprocessing


def test_preprocessing_is_kept_beside_the_model(tmp_path: Path) -> None:
    table = {"size": np.array([1.0, 2.0, 4.0]), "ö": np.array(["a", "b", "a"], object), "y": np.array([0.5, 1.5, 9.0])}
    rule = Preprocessing.fit(table, "y", "regression")
    model = regressor().fit(rule.transform(table), rule.targets(table))
    fastbp.save(model, tmp_path / "model", preprocessing=rule)
    assert load_preprocessing(tmp_path / "model") == rule
    assert read(tmp_path / "model").written_by["fastbp"] == fastbp.__version__
    assert_same(fastbp.load(tmp_path / "model"), model)
    fastbp.save(model, tmp_path / "model")
    assert load_preprocessing(tmp_path / "model") is None


def test_preprocessing_that_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    table = {"a": np.array([1.0, 2.0]), "y": np.array([0.5, 1.5])}
    rule = Preprocessing.fit(table, "y", "regression")
    with pytest.raises(ValueError, match=r"preprocessing makes 1 inputs, but the model takes 5"):
        fastbp.save(regressor().fit(X, TARGETS), tmp_path / "model", preprocessing=rule)
    with pytest.raises(TypeError, match="preprocessing is a dict"):
        fastbp.save(regressor(), tmp_path / "model", preprocessing={})  # type: ignore[arg-type]
