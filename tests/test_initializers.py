"""Initial parameters: their distribution by the formulas of the sources, and that a seed gives them bit for bit."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import fastbp
from fastbp.initializers import (
    INITIALIZERS,
    Constant,
    GlorotNormal,
    GlorotUniform,
    HeNormal,
    HeUniform,
    Initializer,
    LeCunNormal,
    Normal,
    Orthogonal,
    SklearnUniform,
    Uniform,
    Zeros,
)

FAN_IN, FAN_OUT = 600, 200
VARIANCES: dict[str, tuple[Any, float]] = {
    "glorot_uniform": ("glorot_uniform", 2 / (FAN_IN + FAN_OUT)),
    "glorot_normal": ("glorot_normal", 2 / (FAN_IN + FAN_OUT)),
    "glorot_normal, gain": (GlorotNormal(2.0), 8 / (FAN_IN + FAN_OUT)),
    "glorot_uniform, gain": (GlorotUniform(0.5), 0.5 / (FAN_IN + FAN_OUT)),
    "he_uniform": ("he_uniform", 2 / FAN_IN),
    "he_normal": ("he_normal", 2 / FAN_IN),
    "he_uniform, leaky": (HeUniform(0.5), 1.6 / FAN_IN),
    "he_normal, leaky": (HeNormal(negative_slope=0.5), 1.6 / FAN_IN),
    "lecun_uniform": ("lecun_uniform", 1 / FAN_IN),
    "lecun_normal": ("lecun_normal", 1 / FAN_IN),
    "normal": ("normal", 1.0),
    "normal, std": (Normal(0.1), 0.01),
    "uniform": ("uniform", 1 / 3),
    "uniform, bound": (Uniform(0.3), 0.03),
    "sklearn": ("sklearn", 2 / (FAN_IN + FAN_OUT)),
    "zeros": ("zeros", 0.0),
    "orthogonal": ("orthogonal", 1 / FAN_IN),
}


def weights(initializer: Any, shape: tuple[int, int] = (FAN_IN, FAN_OUT), seed: int = 0) -> Any:
    return fastbp.Network(shape, dtype="float64", initializer=initializer, random_state=seed).weights[0]


@pytest.mark.source("S11", "Cheng table 2", "Book 4.5.2")
@pytest.mark.parametrize("name", VARIANCES)
def test_weights_have_the_variance_of_the_source(name: str) -> None:
    """Cheng table 2 and Book 4.5.2."""
    initializer, variance = VARIANCES[name]
    W = weights(initializer)
    assert abs(W.mean()) <= 4 * np.sqrt(variance / W.size)
    np.testing.assert_allclose(np.mean(W**2), variance, rtol=0.02)


def test_every_name_was_looked_at() -> None:
    assert set(INITIALIZERS) <= set(VARIANCES)


@pytest.mark.source("S11", "Cheng table 2")
@pytest.mark.parametrize("name", ["glorot_uniform", "he_uniform", "lecun_uniform", "uniform", "sklearn"])
def test_uniform_weights_fill_their_interval(name: str) -> None:
    bound = np.sqrt(3 * VARIANCES[name][1])
    W = np.sort(weights(name).ravel())
    assert -bound <= W[0] < -0.999 * bound
    assert 0.999 * bound < W[-1] <= bound
    np.testing.assert_allclose(W, np.linspace(-bound, bound, W.size), atol=0.01 * bound)


@pytest.mark.source("S11", "Cheng table 2")
@pytest.mark.parametrize("name", ["glorot_normal", "he_normal", "lecun_normal", "normal"])
def test_normal_weights_are_not_cut_off(name: str) -> None:
    W = weights(name) / np.sqrt(VARIANCES[name][1])
    within = [np.mean(np.abs(W) < width) for width in (1, 2, 3)]
    np.testing.assert_allclose(within, [0.6827, 0.9545, 0.9973], atol=0.005)
    assert np.abs(W).max() > 4


def test_the_default_is_scikit_learns() -> None:
    """Cheng table 2 for tanh, biases from the same interval; logistic units have 2 for 6."""
    for activation, factor in (("tanh", 6), ("relu", 6), ("identity", 6), ("logistic", 2)):
        generator = np.random.RandomState(5)
        net = fastbp.Network((7, 5, 3), activation, dtype="float64", random_state=5)
        for W, b in zip(net.weights, net.biases, strict=True):
            bound = np.sqrt(factor / sum(W.shape))
            np.testing.assert_array_equal(W, generator.uniform(-bound, bound, W.shape))
            np.testing.assert_array_equal(b, generator.uniform(-bound, bound, b.shape))


@pytest.mark.parametrize("name", INITIALIZERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_seed_gives_the_same_bits_in_every_way(name: str, dtype: str) -> None:
    """By name and as an object, at once and redrawn; float32 is float64 rounded."""
    given: dict[str, Any] = {"layer_sizes": (9, 6, 4), "dtype": dtype}
    net = fastbp.Network(**given, initializer=name, random_state=3)
    for other in (
        fastbp.Network(**given, initializer=INITIALIZERS[name](), random_state=np.random.RandomState(3)),
        fastbp.Network(**given, initializer=[name, name], random_state=3),
        fastbp.Network(**{**given, "dtype": "float64"}, initializer=name, random_state=3),
        pickle.loads(pickle.dumps(net)),
    ):
        np.testing.assert_array_equal(other.parameters.astype(dtype), net.parameters)
    redrawn = fastbp.Network(**given, random_state=8)
    where = redrawn.parameters.ctypes.data
    assert (redrawn.parameters != net.parameters).any()
    redrawn.initialize(name, 3)
    np.testing.assert_array_equal(redrawn.parameters, net.parameters)
    assert redrawn.parameters.ctypes.data == where
    if name != "zeros":
        redrawn.initialize(name, 4)
        assert (redrawn.parameters != net.parameters).any()


@pytest.mark.parametrize("name", INITIALIZERS)
def test_biases_begin_at_zero_but_for_scikit_learns(name: str) -> None:
    for b in fastbp.Network((9, 6, 4), initializer=name, random_state=0).biases:
        assert b.any() == (name == "sklearn")


def test_biases_begin_as_wanted() -> None:
    def biases(initializer: Initializer) -> Any:
        net = fastbp.Network((90, 60, 400), dtype="float64", initializer=initializer, random_state=0)
        return net.biases[1]

    np.testing.assert_array_equal(biases(HeNormal(bias=0.25)), np.full(400, 0.25))
    np.testing.assert_array_equal(biases(SklearnUniform(bias=0)), np.zeros(400))
    np.testing.assert_array_equal(biases(Zeros(bias=Constant(-3))), np.full(400, -3.0))
    np.testing.assert_allclose(biases(GlorotUniform(bias="normal")).std(), 1, rtol=0.1)
    np.testing.assert_allclose(biases(LeCunNormal(bias=None)).std(), 1 / np.sqrt(60), rtol=0.1)
    np.testing.assert_allclose(biases(Constant(1, bias=Uniform(0.5))).std(), 0.5 / np.sqrt(3), rtol=0.1)


def test_a_network_without_biases_has_the_weights_of_one_with_zeros() -> None:
    with_biases, without = (
        fastbp.Network((6, 5, 3), bias=bias, initializer="he_normal", random_state=0) for bias in (True, False)
    )
    np.testing.assert_array_equal(without.parameters, with_biases.parameters[: without.n_parameters])


def test_each_layer_may_have_its_own() -> None:
    net = fastbp.Network((5, 4, 3, 2), initializer=("zeros", Constant(2, bias=1), "orthogonal"), random_state=0)
    assert not net.weights[0].any()
    assert (net.weights[1] == 2).all()
    assert (net.biases[1] == 1).all()
    np.testing.assert_allclose(net.weights[2].T @ net.weights[2], np.eye(2), atol=1e-6)


@pytest.mark.parametrize("shape", [(30, 12), (12, 30), (20, 20), (7, 2), (2, 1000)])
@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_orthogonal_weights_have_orthonormal_rows_or_columns(shape: tuple[int, int], gain: float) -> None:
    W = weights(Orthogonal(gain), shape, seed=4)
    product = W.T @ W if shape[0] >= shape[1] else W @ W.T
    np.testing.assert_allclose(product, gain**2 * np.eye(min(shape)), atol=1e-12)
    drawn = np.random.RandomState(4).standard_normal((max(shape), min(shape)))
    R = (W if shape[0] >= shape[1] else W.T).T @ drawn / gain
    np.testing.assert_allclose(np.tril(R, -1), 0, atol=1e-11)
    assert (np.diag(R) > 0).all()  # without it some orthogonal matrices would come more often than others


def test_orthogonal_weights_are_of_torchs_kind() -> None:
    torch = pytest.importorskip("torch")
    theirs, ours = np.empty((400, 3, 3)), np.empty((400, 3, 3))
    torch.manual_seed(0)
    for k in range(400):
        theirs[k] = torch.nn.init.orthogonal_(torch.empty(3, 3, dtype=torch.float64)).numpy()
        ours[k] = weights("orthogonal", (3, 3), seed=k)
    for found in (theirs, ours):
        np.testing.assert_allclose(np.mean(found, axis=0), 0, atol=0.12)
        np.testing.assert_allclose(np.mean(found**2, axis=0), 1 / 3, atol=0.06)
        np.testing.assert_allclose(np.mean(np.linalg.det(found) > 0), 0.5, atol=0.1)


@pytest.mark.parametrize("name", ["glorot_uniform", "glorot_normal", "he_uniform", "he_normal"])
def test_torch_draws_with_the_same_variance(name: str) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    W = torch.empty(FAN_OUT, FAN_IN, dtype=torch.float64)
    kind = name.replace("glorot", "xavier").replace("he_", "kaiming_")
    theirs = getattr(torch.nn.init, f"{kind}_")(W, **({"nonlinearity": "relu"} if "kaiming" in kind else {}))
    np.testing.assert_allclose(theirs.numpy().std(), weights(name).std(), rtol=0.02)
    if "uniform" in name:
        np.testing.assert_allclose(theirs.abs().max(), np.abs(weights(name)).max(), rtol=1e-3)


@pytest.mark.source("S11", "Book 4.5.1")
@pytest.mark.parametrize("initializer", ["zeros", Constant(0.1), Constant(0.1, bias=0.5)])
def test_a_constant_leaves_hidden_units_equal(initializer: Any) -> None:
    """Book 4.5.1: the same gradient for all of them, so that training never tells them apart."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    for chosen, are_equal in ((initializer, True), ("he_normal", False)):
        net = fastbp.Network((4, 6, 3), "tanh", dtype="float64", initializer=chosen, random_state=0)
        before = net.parameters.copy()
        fastbp.Trainer(net, random_state=0).fit(X, y, epochs=5)
        assert (net.parameters != before).any()
        assert np.allclose(net.weights[0], net.weights[0][:, :1], atol=1e-12) == are_equal


# ------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("initializer", "error", "message"),
    [
        ("he", ValueError, "unknown initializer 'he'; choose one of 'sklearn', 'glorot_uniform'"),
        (3, TypeError, "an initializer is a int; pass a name or an object"),
        (None, TypeError, "NoneType"),
        (HeNormal, TypeError, r"pass a name or an object such as fastbp.initializers.HeNormal\(\)"),
        (["zeros"], ValueError, "there are 1 initializers, but 2 layers with weights; pass one for all, or 2"),
        (["zeros", 3.5], TypeError, "an initializer is a float"),
        (["zeros", "ones"], ValueError, "unknown initializer 'ones'"),
        (Normal(1e300), ValueError, "drew values for layer 1 that are not finite in float32"),
        (["zeros", Constant(1e39)], ValueError, "for layer 2 that are not finite in float32"),
        (Zeros(bias=1e39), ValueError, "not finite in float32"),
        (Initializer(), NotImplementedError, "Initializer has no method draw"),
    ],
)
def test_bad_initializers_are_refused_and_change_nothing(
    initializer: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        fastbp.Network((3, 4, 2), initializer=initializer, random_state=0)
    net = fastbp.Network((3, 4, 2), random_state=0)
    before = net.parameters.copy()
    with pytest.raises(error, match=message):
        net.initialize(initializer, 1)
    np.testing.assert_array_equal(net.parameters, before)


class TooNarrow(Initializer):
    def draw(self, shape: tuple[int, ...], layer: Any, random_state: np.random.RandomState) -> Any:
        return np.ones(shape[-1])  # would be broadcast


def test_a_users_initializer_must_have_the_shape_asked_for() -> None:
    with pytest.raises(ValueError, match=r"drew shapes \(4,\) and \(4,\); layer 1 needs \(3, 4\)"):
        fastbp.Network((3, 4, 2), initializer=TooNarrow())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Normal(-1), ValueError, r"std is -1; pass a number in \[0, inf\)"),
        (lambda: Normal(float("nan")), ValueError, "std is nan"),
        (lambda: Uniform(float("inf")), ValueError, "bound is inf"),
        (lambda: Uniform(1.5e308), ValueError, "bound is 1.5e"),
        (lambda: Constant(float("inf")), ValueError, "value is inf"),
        (lambda: Constant("1"), TypeError, "value is '1'; pass a number"),  # type: ignore[arg-type]
        (lambda: GlorotNormal(0), ValueError, r"gain is 0; pass a number in \(0, inf\)"),
        (lambda: HeNormal(-0.1), ValueError, "negative_slope is -0.1"),
        (lambda: HeNormal(bias=float("nan")), ValueError, "bias is nan"),
        (lambda: HeNormal(bias="zero"), ValueError, "unknown initializer 'zero'"),
        (lambda: HeNormal(bias="orthogonal"), ValueError, "cannot be orthogonal"),
        (lambda: Orthogonal(bias=None), ValueError, "cannot be orthogonal"),
        (lambda: HeNormal(bias=[0.0]), TypeError, "bias is"),  # type: ignore[arg-type]
    ],
)
def test_bad_settings_are_refused(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def test_read_only_parameters_are_not_redrawn() -> None:
    net = fastbp.Network((3, 2), random_state=0)
    net.parameters.flags.writeable = False
    with pytest.raises(ValueError, match="parameters are read-only"):
        net.initialize("he_normal")


def test_initializers_cannot_be_changed_and_can_be_copied() -> None:
    for cls in INITIALIZERS.values():
        made = cls(bias=0.5)
        with pytest.raises(AttributeError):
            made.bias = 1.0  # type: ignore[misc]
        assert pickle.loads(pickle.dumps(made)) == made
    assert repr(Normal(0.1)) == "Normal(bias=0.0, std=0.1)"
    assert GlorotNormal() != GlorotUniform()


@pytest.mark.source("S11", "Cheng table 2")
def test_pieces_of_maxout_units_are_drawn_as_layers_of_their_own() -> None:
    """The variance goes by a piece's outputs, which are the units', not by all pieces' together."""
    net = fastbp.Network((300, 200, 3), fastbp.Maxout(4), dtype="float64", initializer="glorot_normal", random_state=0)
    W = net.weights[0]
    assert W.shape == (300, 800)
    assert W.std() == pytest.approx(np.sqrt(2 / 500), rel=0.01)
    assert np.abs(np.corrcoef(W[:, :200].ravel(), W[:, 200:400].ravel())[0, 1]) < 0.02
