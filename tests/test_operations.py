"""Values of every operation on every compiled backend against the float64 reference: dtype x shape x mode.

The reference itself is held by scikit-learn (test_parity.py) and by central differences (test_network.py).
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from fastbp.kernels import Op
from fastbp.kernels.reference.philox import philox
from hypothesis import given, settings
from hypothesis import strategies as st

import fastbp
from fastbp import kernels
from fastbp.bench.operations import Options, arguments_of, check_operation

DTYPES = ("float32", "float64")
SIZES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 23, 31, 32, 33, 47, 48, 49, 63, 64, 65, 97, 127, 128, 129)
"""One, primes, powers of two and their neighbours, and the widths of a panel of tiles."""
SHAPES = (
    (1, 1, 1),
    (1, 17, 33),
    (1, 64, 32),
    (2, 3, 1),
    (3, 1, 10),
    (7, 8, 9),
    (8, 16, 48),
    (9, 49, 5),
    (16, 15, 16),
    (31, 33, 47),
    (32, 5, 97),
    (33, 64, 65),
    (47, 23, 49),
    (64, 127, 17),
    (65, 129, 128),
    (97, 7, 1),
    (1, 300, 257),
    (129, 2, 31),
)
"""Batch, inputs, outputs."""

NO_FUNCTIONS = kernels.Activation.CUSTOM, kernels.Activation.KEPT
ACTIVATIONS = [code.name.lower() for code in kernels.Activation if code not in NO_FUNCTIONS]
OPTIMIZERS = [code.name.lower() for code in kernels.Optimizer]
KEPT = ("gelu", "silu", "relu_at_zero")

sizes = st.sampled_from(SIZES)


def options(shape: tuple[int, int, int], **modes: Any) -> Options:
    batch, inputs, outputs = shape
    return Options(batch=batch, inputs=inputs, outputs=outputs, **modes)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("operation", kernels.OPERATIONS)
def test_every_shape(compiled_name: str, operation: str, shape: tuple[int, int, int], dtype: str) -> None:
    check_operation(kernels.backend(compiled_name), operation, dtype, options(shape))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES[2::4])
def test_every_activation(
    compiled_name: str, shape: tuple[int, int, int], activation: str, bias: bool, dtype: str
) -> None:
    backend = kernels.backend(compiled_name)
    modes = {"activation": activation, "bias": bias}
    check_operation(backend, "linear_forward", dtype, options(shape, **modes))
    check_operation(backend, "activation_delta", dtype, options(shape, **modes))
    if activation not in KEPT:
        check_operation(backend, "output_delta", dtype, options(shape, **modes))
    if activation != "softmax":
        for operation in ("batch_norm", "normalize", "activate", "dropout"):
            check_operation(backend, operation, dtype, options(shape, **modes))
        check_operation(backend, "backprop_delta", dtype, options(shape, **modes))
        check_operation(backend, "train_steps", dtype, options(shape, **modes))
        check_operation(backend, "predict_rows", dtype, options(shape, **modes))


@pytest.mark.source("S3", "Porr (23)", "SE ReLU'", "Cheng 9.3.2")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("at_zero", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("activation", ["relu_at_zero", "leaky_relu"])
def test_the_derivative_at_zero_is_a_choice(compiled_name: str, activation: str, at_zero: float, dtype: str) -> None:
    backend, z = kernels.backend(compiled_name), np.array([[-1.0, 0.0, -0.0, 2.0]], dtype)
    function = kernels.activation_function(kernels.Activation[activation.upper()], at_zero=at_zero)
    a, saved = np.empty_like(z), np.empty_like(z)
    backend.activate(z, function, a, saved)
    below = function.parameter if activation == "leaky_relu" else 0.0
    np.testing.assert_array_equal(saved, np.array([[below, at_zero, at_zero, 1]], dtype))
    np.testing.assert_allclose(a, [[-below, 0, 0, 2]], rtol=1e-6)
    delta = np.ones_like(z)
    backend.activation_delta(saved if activation == "relu_at_zero" else a, function, delta)
    np.testing.assert_array_equal(delta, saved)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("loss", ["squared_error", "cross_entropy", "binary_cross_entropy", "poisson"])
@pytest.mark.parametrize("shape", [(1, 4, 1), (5, 4, 3), (33, 9, 17), (64, 7, 50)])
def test_every_loss(compiled_name: str, shape: tuple[int, int, int], loss: str, weighted: bool, dtype: str) -> None:
    if loss == "cross_entropy" and shape[2] == 1:
        pytest.skip("softmax over one output is always 1")
    backend = kernels.backend(compiled_name)
    for operation in ("output_delta", "train_steps"):
        check_operation(backend, operation, dtype, options(shape, loss=loss, weighted=weighted))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("clip", [0.0, 0.2])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("shape", [(1, 17, 10), (1, 9, 32), (5, 4, 3), (33, 65, 49)])
def test_every_optimizer(
    compiled_name: str, shape: tuple[int, int, int], optimizer: str, clip: float, bias: bool, l2: float, dtype: str
) -> None:
    backend = kernels.backend(compiled_name)
    decay = 0.0 if optimizer in ("sgd", "momentum", "nesterov") else 0.1
    modes = {"optimizer": optimizer, "bias": bias, "l2": l2, "decay": decay, "clip": clip}
    check_operation(backend, "linear_update", dtype, options(shape, **modes))
    check_operation(backend, "train_steps", dtype, options(shape, **modes))
    check_operation(backend, "linear_grad", dtype, options(shape, bias=bias, l2=l2, keep=1.0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES[2::4])
def test_what_was_kept_takes_the_place_of_a_derivative(
    compiled_name: str, shape: tuple[int, int, int], dtype: str
) -> None:
    for operation in ("dropout", "activation_delta", "backprop_delta"):
        check_operation(kernels.backend(compiled_name), operation, dtype, options(shape, activation="kept"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outputs", [1, 5, 17, 40])
@pytest.mark.parametrize("batch", [*range(1, 18), 31, 32, 33, 47, 48, 49, 50, 64, 70])
def test_what_stands_between_layers_takes_any_batch(compiled_name: str, batch: int, outputs: int, dtype: str) -> None:
    """Few samples lie in rows when packed, many in panels, the last of them filled up."""
    backend, shape = kernels.backend(compiled_name), (batch, 1, outputs)
    for operation in ("batch_norm", "normalize"):
        check_operation(backend, operation, dtype, options(shape, activation="identity"))
    for keep in (0.0, 1.0):
        check_operation(backend, "batch_norm_delta", dtype, options(shape, keep=keep))
    for pieces in (1, 2, 3, 5):
        check_operation(backend, "maxout", dtype, options(shape, pieces=pieces))
        check_operation(backend, "maxout_delta", dtype, options(shape, pieces=pieces))
    for keeps in (True, False):
        check_operation(backend, "dropout", dtype, options(shape, keeps=keeps))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("modes", ["batch_norm", "maxout", "drops", "batch_norm maxout drops"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam", "rmsprop"])
@pytest.mark.parametrize("shape", [(2, 4, 3), (3, 4, 5), (7, 9, 10), (33, 20, 17), (64, 31, 2)])
def test_plans_with_what_stands_between_layers(
    compiled_name: str, shape: tuple[int, int, int], optimizer: str, modes: str, dtype: str
) -> None:
    backend, present = kernels.backend(compiled_name), dict.fromkeys(modes.split(), True)
    activations = ["identity"] if "maxout" in modes else ["tanh", "gelu"]
    for activation in activations:
        check_operation(
            backend, "train_steps", dtype, options(shape, optimizer=optimizer, activation=activation, **present)
        )
        check_operation(backend, "predict", dtype, options(shape, activation=activation, **present))
        check_operation(backend, "predict_rows", dtype, options(shape, activation=activation, **present))
    modes_of_data = {"sparse": True, "classes": True, "loss": "cross_entropy", "weighted": True, "bias": True}
    check_operation(
        backend, "train_steps", dtype, options(shape, activation=activations[0], **modes_of_data, **present)
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", ["softmax", "maxout"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "gelu", "leaky_relu", "maxout"])
def test_few_rows_get_the_bits_of_many(backend: kernels.Backend, activation: str, output: str, dtype: str) -> None:
    """Normalised and maxout units by `predict_rows` and by `predict`, the batch in rows and in panels."""
    rng = np.random.default_rng(0)
    options = {"batch_norm": [True, False], "dtype": dtype, "random_state": 0, "backend": backend.name}
    net = fastbp.Network((7, 37, 19, 3), activation, output, **options)
    for mean, variance in zip(net.layout.means(net.buffer), net.layout.variances(net.buffer), strict=True):
        mean[:], variance[:] = rng.standard_normal(len(mean)), rng.uniform(0.1, 2, len(variance))
    net.parameters[:] += 0.1 * rng.standard_normal(len(net.parameters)).astype(dtype)
    X = rng.standard_normal((53, 7)).astype(dtype)
    many = net.forward(X)
    for first, n in ((0, 1), (7, 3), (40, 13)):
        np.testing.assert_array_equal(net.forward(X[first : first + n]), many[first : first + n])
    guarded = np.full((7, 3), 5, dtype)  # what is written elsewhere is seen
    net.predict_into(X[:5], guarded[1:6])
    np.testing.assert_array_equal(guarded[1:6], many[:5])
    assert (guarded[[0, 6]] == 5).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [3, 40])
def test_maxout_takes_nan_for_the_largest_and_the_first_of_equals(
    backend: kernels.Backend, batch: int, dtype: str
) -> None:
    nan = np.nan
    z = np.array([[1, 2], [2, 2], [2, 1], [nan, 3], [3, nan], [nan, nan], [-np.inf, -np.inf], [0, -0.0]], dtype)
    first = np.array([0, 1, 1, 1, 0, 1, 1, 1])  # whether the first piece is the one
    for a, b in ((z, first), (-z, np.array([1, 1, 0, 1, 0, 1, 1, 1]))):
        pieces = np.tile(np.concatenate([a[:, 0], a[:, 1]]), (batch, 1)).astype(dtype)
        out, delta_z, delta = np.empty((batch, 8), dtype), np.empty((batch, 16), dtype), np.full((batch, 8), 2, dtype)
        backend.maxout(pieces, out)
        np.testing.assert_array_equal(out, np.tile(np.where(b, a[:, 0], a[:, 1]), (batch, 1)))
        backend.maxout_delta(pieces, delta, delta_z)
        np.testing.assert_array_equal(delta_z, np.tile(np.concatenate([2 * b, 2 - 2 * b]), (batch, 1)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [2, 20])
def test_a_bad_sample_spoils_its_unit_in_batch_normalisation(backend: kernels.Backend, batch: int, dtype: str) -> None:
    """NaN in one unit of one sample is in all samples' outputs of that unit, and in no other."""
    z, rng = np.empty((batch, 19), dtype), np.random.default_rng(0)
    z[:] = rng.standard_normal(z.shape)
    z[1, 7] = np.nan
    vectors, (normalized, a) = np.ones((5, 19), dtype), np.empty((2, batch, 19), dtype)
    backend.batch_norm(z, vectors[0], vectors[1], 1e-5, 0.1, "identity", normalized, *vectors[2:], a)
    for each in (normalized, a, *vectors[2:]):
        assert np.isnan(each[..., 7]).all()
        assert np.isfinite(np.delete(each, 7, axis=-1)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 3, 20, 50])
def test_batch_normalisation_gives_mean_0_and_variance_1(backend: kernels.Backend, batch: int, dtype: str) -> None:
    """Of samples far from 0, too: squares of differences are added up, not of z. One sample has nothing but beta."""
    z = (1000 + np.random.default_rng(0).standard_normal((batch, 33))).astype(dtype)
    gamma, beta, mean, variance = np.full(33, 2, dtype), np.full(33, 3, dtype), np.zeros(33, dtype), np.ones(33, dtype)
    normalized, a, rstd = np.empty_like(z), np.empty_like(z), np.empty_like(gamma)
    backend.batch_norm(z, gamma, beta, 0.0 if batch > 1 else 1.0, 0.5, "identity", normalized, rstd, mean, variance, a)
    tolerance = 2e-3 if dtype == "float32" else 1e-11  # of the mean, whose own last place is 1000 times as large
    np.testing.assert_allclose(a.mean(axis=0), 3, atol=tolerance)
    np.testing.assert_allclose(a.std(axis=0), 2 if batch > 1 else 0, atol=tolerance)
    if batch > 1:
        np.testing.assert_allclose(mean, z.mean(axis=0, dtype="float64") / 2, rtol=1e-6)
        np.testing.assert_allclose(variance, 0.5 + z.var(axis=0, ddof=1, dtype="float64") / 2, rtol=tolerance)
    else:
        np.testing.assert_array_equal([mean, variance], [np.zeros(33), np.ones(33)])


KNOWN_ANSWERS = {
    ((0, 0, 0, 0), (0, 0)): (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2): (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)): (
        *(0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
}
"""Of Philox4x32-10: counters, keys and words (Random123's file kat_vectors)."""


@pytest.mark.parametrize(("counter", "key"), KNOWN_ANSWERS)
def test_philox_gives_the_known_answers(counter: tuple[int, ...], key: tuple[int, int]) -> None:
    words = philox(tuple(np.array([word], np.uint64) for word in counter), key)
    assert tuple(int(word[0]) for word in words) == KNOWN_ANSWERS[counter, key]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 30])
@pytest.mark.parametrize("word", range(4))
def test_units_are_dropped_by_the_known_words(backend: kernels.Backend, word: int, batch: int, dtype: str) -> None:
    """The first sample's first four units have the counter and the key 0."""
    threshold = KNOWN_ANSWERS[(0, 0, 0, 0), (0, 0)][word]
    for probability, is_kept in ((threshold / 2**32, False), ((threshold + 0.5) / 2**32, True)):
        a = np.ones((batch, 7), dtype)
        backend.dropout(a, "identity", probability, 0, kernels.step_table(1), np.empty((0, 7), dtype))
        assert a[0, word] == (np.dtype(dtype).type(1 / probability) if is_kept else 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_masks_depend_on_seed_step_stream_and_unit_alone(backend: kernels.Backend, dtype: str) -> None:
    """Neither on the batch, of few samples or many, nor on how many units there are, nor on the dtype."""

    def mask(n_rows: int, n_units: int, kind: str = dtype, stream: int = 2, **step: float) -> np.ndarray:
        a, numbers = np.ones((n_rows, n_units), kind), {"seed": 2.0**52 + 1, "number": 2.0**47 + 3, **step}
        backend.dropout(a, "identity", 0.5, stream, kernels.step_table(1, **numbers), np.empty((0, n_units), kind))
        assert set(np.unique(a)) == {0, 2}
        return a != 0

    whole = mask(70, 130)
    assert abs(whole.mean() - 0.5) < 0.02
    for n_rows, n_units in ((70, 129), (70, 6), (20, 130), (5, 130), (5, 99), (3, 70)):
        np.testing.assert_array_equal(mask(n_rows, n_units), whole[:n_rows, :n_units])
    np.testing.assert_array_equal(mask(70, 130, "float64"), whole)
    others = [{"stream": 3}, {"seed": 1.0}, {"seed": 2.0**51 + 1}, {"number": 3.0}, {"number": 2.0**47 + 4}]
    for other in others:
        assert abs((mask(70, 130, **other) == whole).mean() - 0.5) < 0.03  # as two independent masks


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [True, False])
@pytest.mark.parametrize("sparse", [True, False])
def test_every_form_of_data(compiled_name: str, sparse: bool, classes: bool, dtype: str) -> None:
    backend = kernels.backend(compiled_name)
    modes = {"sparse": sparse, "classes": classes, "loss": "cross_entropy", "weighted": True}
    check_operation(backend, "train_steps", dtype, options((9, 21, 10), **modes))
    check_operation(backend, "predict", dtype, options((9, 21, 10), **modes))


@settings(max_examples=60, deadline=None)
@given(
    operation=st.sampled_from(kernels.OPERATIONS),
    shape=st.tuples(sizes, sizes, sizes),
    dtype=st.sampled_from(DTYPES),
    activation=st.sampled_from(["identity", "logistic", "tanh", "softplus"]),
    bias=st.booleans(),
    weighted=st.booleans(),
    sparse=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_shape(
    compiled_name: str, operation: str, shape: tuple[int, int, int], dtype: str, seed: int, **modes: Any
) -> None:
    check_operation(kernels.backend(compiled_name), operation, dtype, options(shape, seed=seed, **modes))


@pytest.mark.parametrize("field", ["source", "delta"])
@pytest.mark.parametrize("loss", ["cross_entropy", "squared_error"])
@pytest.mark.parametrize("batch", [3, 20])
def test_classes_may_serve_more_than_a_cross_entropy(compiled_name: str, batch: int, loss: str, field: str) -> None:
    """What compiled backends keep of classes where a cross-entropy alone reads them shows in no other plan."""
    results = []
    for name in ("numpy", compiled_name):
        modes = {"loss": loss, "classes": True, "weighted": True}
        float64 = np.dtype("float64")
        made = arguments_of(kernels.backend(name), "train_steps", float64, float64, options((batch, 4, 9), **modes))
        plan = made["plan"] = made["plan"].copy()
        if field == "source":  # of rows that have none
            plan["source"][plan["op"] != Op.GATHER_ROWS] = 3
        else:
            last = np.flatnonzero(plan["op"] == Op.LINEAR_UPDATE)[0]
            plan["delta"][last] = plan["a"][plan["op"] == Op.GATHER_CLASSES][0]
        kernels.backend(name).train_steps(**made)
        results.append([made["losses"], made["buffers"].params])
    for expected, got in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.source("S9", "Cheng algorithm 9.1")
@given(n=st.integers(1, 3000), seed=st.integers(0, 1000), extreme=st.sampled_from([None, 0.0, 1 - 2.0**-53]))
def test_shuffle_writes_each_number_once(backend: kernels.Backend, n: int, seed: int, extreme: float | None) -> None:
    u, order = np.random.default_rng(seed).random(n), np.full(n, -1)
    if extreme is not None:
        u[:] = extreme
    backend.shuffle(u, order)
    np.testing.assert_array_equal(np.sort(order), np.arange(n))


@pytest.mark.source("S9", "Cheng algorithm 9.1")
def test_shuffle_prefers_no_order(backend: kernels.Backend) -> None:
    """Each of the 24 orders of four comes up as often as chance allows: chi squared of 23 degrees of freedom."""
    n_draws, order, numbers = 12_000, np.empty(4, np.int64), np.random.default_rng(0).random((12_000, 4))
    counts: Counter[tuple[int, ...]] = Counter()
    for u in numbers:
        backend.shuffle(u, order)
        counts[tuple(order.tolist())] += 1
    assert len(counts) == 24
    assert sum((count - n_draws / 24) ** 2 / (n_draws / 24) for count in counts.values()) < 49.7  # 1 in 1000


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_old_gradient_is_not_read_where_it_is_overwritten(compiled_name: str, dtype: str) -> None:
    backend = kernels.backend(compiled_name)
    a_prev, delta, W = (np.ones(shape, dtype) for shape in ((5, 3), (5, 17), (3, 17)))
    grad_W, grad_b = np.full((3, 17), np.nan, dtype), np.full(17, np.nan, dtype)
    backend.linear_grad(a_prev, delta, kernels.step_table(1), W, grad_W, grad_b)
    np.testing.assert_array_equal(grad_W, 5)
    np.testing.assert_array_equal(grad_b, 5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 9, 10), (5, 9, 10), (33, 20, 65)])
def test_nothing_is_written_beyond_the_outputs(compiled_name: str, shape: tuple[int, int, int], dtype: str) -> None:
    """Outputs lie between guards; partial vectors and tiles must not touch them."""
    backend = kernels.backend(compiled_name)
    batch, inputs, outputs = shape
    rng = np.random.default_rng(0)

    def guarded(*size: int) -> tuple[np.ndarray, np.ndarray]:
        whole = np.full(int(np.prod(size)) + 128, 7, dtype)
        return whole, whole[64:-64].reshape(size)

    a_whole, a = guarded(batch, outputs)
    W_whole, W = guarded(inputs, outputs)
    d_whole, delta_prev = guarded(batch, inputs)
    a_prev, delta = rng.normal(size=(batch, inputs)).astype(dtype), rng.normal(size=(batch, outputs)).astype(dtype)
    W[...] = rng.normal(size=W.shape)
    backend.linear_forward(a_prev, W, np.zeros(outputs, dtype), "softmax", a)
    backend.backprop_delta(delta, W, a_prev, "tanh", delta_prev)
    m, v, b = np.zeros_like(W), np.zeros_like(W), np.zeros((3, outputs), dtype)
    step = kernels.step_table(1, rate=0.1, beta_1=0.9, beta_2=0.9, epsilon=1e-8)
    backend.linear_update(a_prev, delta, "adam", step, W, b[0], m, b[1], v, b[2])
    z_whole, z = guarded(batch, 3 * outputs)
    n_whole, normalized = guarded(batch, outputs)
    v_whole, vectors = guarded(3, outputs)
    z[...], vectors[...] = rng.normal(size=z.shape), 1
    function = "tanh"
    backend.batch_norm(delta, b[0], b[1], 0.1, 0.1, function, normalized, *vectors, a)
    backend.batch_norm_delta(normalized, vectors[0].copy(), b[0], step, a, *vectors[1:])
    backend.maxout_delta(z.copy(), delta, z)
    backend.maxout(z.copy(), a)
    backend.dropout(a, function, 0.5, 0, step, normalized)
    backend.normalize(delta, b[0], b[1], b[2], np.ones_like(b[0]), 0.1, function, a)
    for whole in (a_whole, W_whole, d_whole, z_whole, n_whole, v_whole):
        assert (whole[:64] == 7).all()
        assert (whole[-64:] == 7).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_stay_visible(compiled_name: str, dtype: str, value: float) -> None:
    """One bad sample spoils its own row in the forward pass, and the loss, but no other row."""
    backend = kernels.backend(compiled_name)
    X = np.ones((11, 20), dtype)
    X[4, 7] = value
    W = np.full((20, 33), 0.01, dtype)
    a = np.empty((11, 33), dtype)
    for activation in ("identity", "relu", "logistic", "tanh", "softmax"):
        backend.linear_forward(X, W, np.zeros(33, dtype), activation, a)
        if np.isnan(value):
            assert np.isnan(a[4]).all(), activation
        assert np.isfinite(np.delete(a, 4, axis=0)).all(), activation
    y = np.zeros_like(a)
    y[:, 0] = 1
    backend.linear_forward(X, W, np.zeros(33, dtype), "softmax", a)
    loss = backend.output_delta(a, y, np.empty(0, dtype), "softmax", "cross_entropy", np.empty_like(a))
    assert np.isnan(loss)


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # of the reference
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 2, 40])
def test_zero_times_infinity_is_not_skipped(backend: kernels.Backend, batch: int, dtype: str, value: float) -> None:
    """A zero input meets a bad weight, or a bad delta, whatever the size of the batch."""
    a_prev, W, a = np.zeros((batch, 3), dtype), np.ones((3, 20), dtype), np.empty((batch, 20), dtype)
    a_prev[:, 1], W[0] = 1, value
    backend.linear_forward(a_prev, W, np.zeros(20, dtype), "identity", a)
    assert np.isnan(a).all()
    W[0], delta, empty = 1, np.ones((batch, 20), dtype), np.empty((3, 20), dtype)
    delta[0, 5], none = value, np.empty(0, dtype)
    step = kernels.step_table(rate=0.1)
    backend.linear_update(a_prev, delta, "sgd", step, W, none, empty, none, empty.copy(), none)
    assert np.isnan(W[[0, 2], 5]).all()
    assert np.isfinite(np.delete(W, 5, axis=1)).all()


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
def test_weight_decay_of_one_sample_does_not_drift(backend: kernels.Backend, optimizer: str) -> None:
    """In float32 a penalty far below a weight's last place is lost at every step, but never magnified."""
    n_steps, rate, l2 = 2000, 3e-4, 1e-4
    W, zeros = np.full((3, 20), 1.2, np.float32), np.zeros((3, 20), np.float32)
    none = np.empty(0, np.float32)
    step = kernels.step_table(rate=rate, l2=l2)
    for _ in range(n_steps):
        backend.linear_update(zeros[:1, :3], zeros[:1], optimizer, step, W, none, zeros * 0, none, zeros * 0, none)
    assert (1.2 * (1 - rate * l2) ** n_steps - 1e-6 <= W).all()


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # of the reference
@pytest.mark.parametrize("dtype", DTYPES)
def test_poisson_loss_of_a_rate_of_zero_is_scikit_learns(backend: kernels.Backend, dtype: str) -> None:
    """It is NaN where the target is 0 too: 0 log (0 / 0)."""
    y, a = np.array([[0.0], [0.0], [2.0]], dtype), np.array([[0.0], [0.5], [0.5]], dtype)
    got = [
        backend.output_delta(a[i : i + 1], y[i : i + 1], np.empty(0, dtype), "exp", "poisson", np.empty((1, 1), dtype))
        for i in range(3)
    ]
    np.testing.assert_allclose(got, [np.nan, 0.5, 2 * np.log(4) - 1.5], rtol=1e-6)


def test_more_than_two_billion_elements(compiled_name: str) -> None:
    """Offsets have 64 bits: the last row of a matrix of more than 2^31 elements is found."""
    backend = kernels.backend(compiled_name)
    try:
        X = np.zeros((2**23 + 3, 257), np.float32)  # 8.6 GB of zero pages, of which two rows are touched
    except MemoryError:
        pytest.skip("this machine promises no 8.6 GB")
    assert X.size > 2**31
    X[-1] = np.arange(257)
    out = np.empty((2, 257), np.float32)
    backend.gather_rows(X, np.array([len(X) - 1, 0]), out)
    np.testing.assert_array_equal(out, [np.arange(257), np.zeros(257)])
