"""Normalised inputs (Book 4.6.1): the training set's mean and deviation for all samples, and in the model's file."""

from __future__ import annotations

import json
import pickle
import re
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.preprocessing import StandardScaler

import fastbp
from fastbp import cli, io, modelfile
from fastbp.preprocessing import Preprocessing
from fastbp.standardizer import Standardizer


def samples(n: int = 5000, dtype: Any = np.float64) -> Any:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 40)) * rng.uniform(0.01, 100, 40) + rng.uniform(-1e4, 1e4, 40)
    return X.astype(dtype)


@pytest.mark.source("S13", "Book 4.6.1")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_mean_and_deviation_are_the_training_sets(dtype: str) -> None:
    """sigma^2 divides by m, not m - 1."""
    X, later = samples(dtype=dtype), samples(100, dtype) + 3
    scale = Standardizer.fit(X)
    exact = X.astype(np.float64)
    np.testing.assert_allclose(scale.mean, exact.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(scale.deviation, exact.std(axis=0), rtol=1e-9)
    found = scale.transform(later)
    assert found.dtype == dtype
    expected = (later.astype(np.float64) - exact.mean(axis=0)) / exact.std(axis=0)
    np.testing.assert_allclose(found, expected, rtol=1e-6 if dtype == "float32" else 1e-9, atol=1e-6)
    back = scale.inverse_transform(found)
    assert back.dtype == dtype
    np.testing.assert_allclose(back, later, rtol=1e-6 if dtype == "float32" else 1e-12)


def test_the_numbers_are_scikit_learns() -> None:
    X = samples()
    theirs = StandardScaler().fit(X)
    ours = Standardizer.fit(X)
    np.testing.assert_allclose(ours.transform(X), theirs.transform(X), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(ours.deviation, theirs.scale_, rtol=1e-9)


@pytest.mark.source("S13", "Book 4.6.1")
@settings(max_examples=150, deadline=None)
@given(
    X=npst.arrays(
        st.sampled_from([np.float32, np.float64, np.int16]),
        st.tuples(st.integers(1, 40), st.integers(1, 4)),
        elements=st.integers(-1000, 1000),
    )
)
def test_every_column_has_mean_0_and_deviation_1_or_is_constant(X: Any) -> None:
    scale = Standardizer.fit(X)
    Z = scale.transform(X, "float64")
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-9)
    np.testing.assert_allclose(Z.std(axis=0), (np.ptp(X, axis=0) > 0).astype(float), atol=1e-9)
    np.testing.assert_allclose(scale.inverse_transform(Z), X, atol=1e-9)


@pytest.mark.source("S13", "Book 4.6.1")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 2, 3, 1000, 300_000])
@pytest.mark.parametrize("value", [0.0, 0.1, -1e-30, 1e30, 12345.678])
def test_constant_columns_are_not_divided_by_zero_or_rounding(value: float, n: int, dtype: str) -> None:
    X = np.full((n, 2), value, dtype)
    scale = Standardizer.fit(X)
    assert scale.deviation.tolist() == [1.0, 1.0]
    np.testing.assert_array_equal(scale.transform(X), np.zeros((n, 2)))
    sparse = Standardizer.fit(scipy.sparse.csr_matrix(X))
    assert sparse.deviation.tolist() == [1.0, 1.0]
    np.testing.assert_array_equal(sparse.transform(scipy.sparse.csr_matrix(X)).toarray(), X)


@pytest.mark.parametrize("form", ["csr_matrix", "csc_matrix", "csr_array", "coo_matrix"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sparse_samples_are_divided_only(form: str, dtype: str) -> None:
    X = samples(300, dtype) * (np.random.default_rng(1).random((300, 40)) < 0.2)
    X[:, 3] = 0
    given_X = getattr(scipy.sparse, form)(X)
    before = given_X.toarray()
    scale = Standardizer.fit(given_X)
    assert not scale.mean.any()
    expected = np.where(X.any(axis=0), X.astype(np.float64).std(axis=0), 1)
    np.testing.assert_allclose(scale.deviation, expected, rtol=1e-10)
    found = scale.transform(given_X)
    assert scipy.sparse.issparse(found)
    assert found.format == "csr"
    assert found.dtype == dtype
    np.testing.assert_allclose(found.toarray(), X / expected, rtol=1e-6)
    np.testing.assert_allclose(scale.transform(X), found.toarray(), rtol=1e-6)  # dense samples alike
    np.testing.assert_allclose(scale.inverse_transform(found).toarray(), X, rtol=1e-6)
    np.testing.assert_array_equal(given_X.toarray(), before)
    by_choice = Standardizer.fit(X, center=False)
    np.testing.assert_allclose(by_choice.deviation, expected, rtol=1e-10)
    np.testing.assert_array_equal(by_choice.transform(given_X).indices, found.indices)


def test_entries_given_in_parts_count_together() -> None:
    parts = scipy.sparse.csr_matrix((np.array([1.0, 2.0, 5.0]), np.array([0, 0, 1]), np.array([0, 2, 3])), (2, 2))
    np.testing.assert_allclose(Standardizer.fit(parts).deviation, [1.5, 2.5])
    assert parts.nnz == 3


def test_other_forms_of_samples() -> None:
    X = samples(50)
    scale = Standardizer.fit(X)
    for form in (X.tolist(), np.asfortranarray(X), X.astype(">f8"), np.repeat(X, 2, axis=0)[::2]):
        np.testing.assert_allclose(Standardizer.fit(form).transform(form), scale.transform(X), rtol=1e-9)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 9)).astype(np.uint8)
    scale = Standardizer.fit(pixels)
    assert scale.transform(pixels).dtype == np.float64
    small = scale.transform(pixels, "float32")
    assert small.dtype == np.float32
    np.testing.assert_allclose(small, StandardScaler().fit_transform(pixels.astype(float)), atol=1e-5)
    np.testing.assert_allclose(Standardizer.fit(pixels > 100).transform(pixels > 100).std(axis=0), 1)


def test_no_second_copy_in_float64_is_made() -> None:
    X = np.ones((200_000, 20), np.float32)
    tracemalloc.start()
    Standardizer.fit(X)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < X.nbytes


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s, X: Standardizer.fit(scipy.sparse.csr_matrix(X), center=True), ValueError, "X is sparse"),
        (lambda s, X: s.transform(scipy.sparse.csr_matrix(X)), ValueError, "learn the scale with center=False"),
        (lambda s, X: s.inverse_transform(scipy.sparse.csr_matrix(X)), ValueError, "or pass X dense"),
        (lambda s, X: s.transform(X[:, :3]), ValueError, "X has 3 columns, but the scale was learnt from 5"),
        (lambda s, X: s.transform(X, "float16"), ValueError, "dtype is 'float16'; choose 'float32' or 'float64'"),
        (lambda s, X: s.transform(np.full((2, 5), np.nan)), ValueError, "NaN"),
        (lambda s, X: Standardizer.fit(np.full((2, 5), np.inf)), ValueError, "infinity"),
        (lambda s, X: Standardizer.fit([["a"]]), ValueError, r"could not convert|dtype"),
        (lambda s, X: Standardizer.fit(np.zeros((2, 2), "M8[s]")), (TypeError, ValueError), r"numbers|DType|dtype"),
        (lambda s, X: Standardizer.fit(np.array([[1.0, -1e300], [1.0, 1e300]])), ValueError, "column 1 of X holds"),
        (lambda s, X: Standardizer.fit(np.empty((0, 3))), ValueError, "0 sample"),
        (lambda s, X: Standardizer([1.0], [0.0]), ValueError, "deviations above 0"),  # type: ignore[arg-type]
        (lambda s, X: Standardizer([np.nan], [1.0]), ValueError, "must be finite"),  # type: ignore[arg-type]
        (lambda s, X: Standardizer([1.0, 2.0], [1.0]), ValueError, r"have shapes \(2,\) and \(1,\)"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_what_cannot_be_scaled_is_refused(call: Any, error: Any, message: str) -> None:
    X = np.random.default_rng(0).normal(size=(9, 5)) + 4
    with pytest.raises(error, match=message):
        call(Standardizer.fit(X), X)


def test_a_standardizer_cannot_be_changed() -> None:
    scale = Standardizer.fit(samples(20))
    with pytest.raises(AttributeError):
        scale.mean = np.zeros(40)  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        scale.mean[0] = 0
    again = pickle.loads(pickle.dumps(scale))
    np.testing.assert_array_equal(again.transform(samples(9)), scale.transform(samples(9)))
    assert repr(scale) == "<fastbp.Standardizer of 40 columns, by mean and deviation>"
    assert repr(Standardizer.fit(samples(20), center=False)) == "<fastbp.Standardizer of 40 columns, by deviation>"


# -------------------------------------------------------------------------------------------------- in files


def models() -> dict[str, Any]:
    X = samples(30)
    net = fastbp.Network((40, 5, 2), random_state=0)
    estimator = fastbp.MLPRegressor(hidden_layer_sizes=(3,), random_state=0)
    estimator.partial_fit(Standardizer.fit(X).transform(X), X[:, 0])
    return {"network": net, "trainer": fastbp.Trainer(net, random_state=0), "estimator": estimator}


@pytest.mark.parametrize("kind", ["network", "trainer", "estimator"])
def test_a_model_file_keeps_it_bit_for_bit(kind: str, tmp_path: Path) -> None:
    model, scale = models()[kind], Standardizer.fit(samples(100))
    fastbp.save(model, tmp_path / "model", standardizer=scale)
    found = io.load_standardizer(tmp_path / "model")
    assert found is not None
    assert found.mean.tobytes() == scale.mean.tobytes()
    assert found.deviation.tobytes() == scale.deviation.tobytes()
    again = fastbp.load(tmp_path / "model")
    fastbp.save(again, tmp_path / "copy", standardizer=found)
    assert (tmp_path / "copy").read_bytes() == (tmp_path / "model").read_bytes()
    fastbp.save(model, tmp_path / "model")
    assert io.load_standardizer(tmp_path / "model") is None


def test_a_file_from_before_there_were_standardizers_is_read(tmp_path: Path) -> None:
    net = fastbp.Network((3, 2), random_state=0)
    fastbp.save(net, tmp_path / "net")
    content, tensors, _ = modelfile.read(tmp_path / "net")
    del content["standardizer"]
    modelfile.write(tmp_path / "net", content, tensors)
    np.testing.assert_array_equal(fastbp.load(tmp_path / "net").parameters, net.parameters)
    assert io.load_standardizer(tmp_path / "net") is None


def test_what_does_not_fit_the_model_is_refused(tmp_path: Path) -> None:
    net, scale = fastbp.Network((40, 2), random_state=0), Standardizer.fit(samples(20))
    with pytest.raises(ValueError, match="the standardizer makes 39 inputs, but the model takes 40"):
        fastbp.save(net, tmp_path / "net", standardizer=Standardizer.fit(samples(20)[:, 1:]))
    with pytest.raises(TypeError, match="standardizer is a StandardScaler; pass a Standardizer, or None"):
        fastbp.save(net, tmp_path / "net", standardizer=StandardScaler())  # type: ignore[arg-type]
    table = {str(k): column for k, column in enumerate(samples(20).T)}
    rule = Preprocessing.fit({**table, "y": np.arange(20.0)}, "y", "regression")
    with pytest.raises(ValueError, match="pass it or a standardizer, not both"):
        fastbp.save(net, tmp_path / "net", preprocessing=rule, standardizer=scale)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("standardizer/deviation", np.zeros(40), "deviations above 0"),
        ("standardizer/deviation", np.ones(3), "have shapes"),
        ("standardizer/mean", np.full(40, np.nan), "must be finite"),
        ("standardizer/mean", None, "KeyError"),
    ],
)
def test_a_forged_standardizer_is_refused(name: str, value: Any, message: str, tmp_path: Path) -> None:
    fastbp.save(fastbp.Network((40, 2)), tmp_path / "net", standardizer=Standardizer.fit(samples(20)))
    content, tensors, _ = modelfile.read(tmp_path / "net")
    tensors.pop(name)
    modelfile.write(tmp_path / "net", content, tensors if value is None else {**tensors, name: value})
    with pytest.raises(fastbp.ModelFileError, match=message):
        fastbp.load(tmp_path / "net")


def test_the_command_line_scales_what_it_predicts_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    X = samples(12)
    net, scale = fastbp.Network((40, 5, 1), output="identity", random_state=0), Standardizer.fit(X)
    fastbp.save(net, "net.safetensors", standardizer=scale)
    np.savez("X.npz", **{f"c{k:02d}": column for k, column in enumerate(X.T)})
    assert cli.main(["predict", "net.safetensors", "X.npz"]) == 0
    found = [float(line) for line in capsys.readouterr().out.splitlines()[1:]]
    np.testing.assert_allclose(found, net.predict(scale.transform(X)), rtol=1e-6)
    assert cli.main(["inspect", "net.safetensors", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["standardizer"] == {"n_inputs": 40}
    assert cli.main(["inspect", "net.safetensors"]) == 0
    assert re.search(r"standardizer\n\s*normalised\s+40 inputs", capsys.readouterr().out)
