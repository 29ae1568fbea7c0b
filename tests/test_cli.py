"""The command line: tables in, models and predictions out; every mistake is one line."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from sklearn.datasets import load_diabetes, load_iris

import fastbp
from fastbp import cli, io, kernels, tables
from fastbp.preprocessing import Preprocessing, Scale, guess_task
from fastbp.run import Run

IRIS = load_iris()
MEASURES = ("sepal length", "sepal width", "petal length", "petal width")


def iris_rows() -> list[dict[str, Any]]:
    """Iris in an order in which the species are mixed, with a column of text and a constant one."""
    order = np.random.default_rng(0).permutation(len(IRIS.target))
    return [
        {
            **dict(zip(MEASURES, IRIS.data[i], strict=True)),
            "garden": ("north", "south", "west")[i % 3],
            "planet": 1,
            "species": str(IRIS.target_names[IRIS.target[i]]),
        }
        for i in order
    ]


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


class Shell:
    """Runs commands in a folder."""

    def __init__(self, folder: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.folder, self._capture = folder, capture

    def __call__(self, *arguments: Any) -> str:
        """Run a command that must succeed; return its output and keep `err`."""
        code, out, self.err = self.run(*arguments)
        assert code == 0, self.err
        return out

    def run(self, *arguments: Any) -> tuple[int, str, str]:
        code = cli.main([str(argument) for argument in arguments])
        return (code, *self._capture.readouterr())

    def fails(self, *arguments: Any) -> str:
        """Run a command that must be refused with one line; return the line."""
        code, out, err = self.run(*arguments)
        assert code == 2
        assert out == ""
        assert re.fullmatch(r"fastbp: error: [^\n]+\n", err)
        return err


@pytest.fixture
def fastbp_(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.chdir(tmp_path)
    return Shell(tmp_path, capsys)


@pytest.fixture
def iris(tmp_path: Path) -> Path:
    pytest.importorskip("pandas")
    return write_csv(tmp_path / "iris.csv", iris_rows())


@pytest.fixture
def model(fastbp_: Shell, iris: Path) -> Path:
    """A model trained on iris."""
    fastbp_("train", iris, "--target", "species", "--epochs", 60, "--learning-rate", 0.01)
    return iris.with_name("model.safetensors")


# ------------------------------------------------------------------------------------- train, predict, inspect


def test_train_predict_and_inspect_a_classifier(fastbp_: Shell, iris: Path) -> None:
    out = fastbp_("train", iris, "--target", "species", "--epochs", 80, "--learning-rate", 0.01, "--hidden", "20,10")
    assert "classification (the target is text)" in out
    assert "120 to train on, 30 held out" in out
    assert "8 from 6 columns" in out
    assert "8-20-10-3, relu, float32" in out
    score = re.search(r"accuracy (\d\.\d+) \(always the most frequent class: 0\.3333\)", out)
    assert score is not None
    assert float(score[1]) >= 0.9
    predictions = read_csv(fastbp_("predict", "model.safetensors", iris))
    answers = [row["species"] for row in iris_rows()]
    right = np.mean([row["species"] == answer for row, answer in zip(predictions, answers, strict=True)])
    assert right >= 0.95
    assert fastbp_.err == f"accuracy {right:.4f} on 150 rows\n"
    out = fastbp_("inspect", "model.safetensors")
    for text in ("MLPClassifier", "423 of float32", "(verified)", "setosa, versicolor, virginica", "garden (3)"):
        assert text in out


def test_the_held_out_score_is_that_of_the_saved_model_on_rows_it_never_saw(fastbp_: Shell, iris: Path) -> None:
    """Trained on noise, the model knows its training rows by heart and nothing else."""
    rng = np.random.default_rng(0)
    np.savez("noise.npz", X=rng.normal(size=(200, 30)), y=rng.integers(2, size=200))
    out = fastbp_("train", "noise.npz", "--target", "y", "--learning-rate", 0.01, "--seed", 5)
    held_out = float(re.search(r"accuracy (\d\.\d+)", out)[1])  # type: ignore[index]
    assert held_out < 0.75
    fastbp_("predict", "model.safetensors", "noise.npz", "--out", "all.csv")
    overall = float(re.search(r"accuracy (\d\.\d+)", fastbp_.err)[1])  # type: ignore[index]
    assert overall == pytest.approx(0.8 + 0.2 * held_out, abs=1e-9)


def test_the_command_equals_the_api(fastbp_: Shell) -> None:
    """What the command trains is MLPRegressor on normalised columns, number by number."""
    X, y = load_diabetes(return_X_y=True, scaled=False)
    np.savez("diabetes.npz", X=X, y=y)
    fastbp_(
        "train",
        "diabetes.npz",
        "--target",
        "y",
        "--test-fraction",
        0,
        "--dtype",
        "float64",
        "--epochs",
        9,
        "--alpha",
        0.1,
        "--batch-size",
        50,
        "--activation",
        "tanh",
        "--seed",
        3,
        "--optimizer",
        "sgd",
    )
    wanted = fastbp.MLPRegressor(activation="tanh", alpha=0.1, batch_size=50, max_iter=9, random_state=3, solver="sgd")
    scaled = (X - X.mean(axis=0)) / X.std(axis=0)
    with pytest.warns(match="Maximum iterations"):
        wanted.fit(scaled, (y - y.mean()) / y.std())
    model = fastbp.load("model.safetensors")
    np.testing.assert_allclose(model.coefs_[0], wanted.coefs_[0], rtol=1e-9, atol=1e-12)
    rows = read_csv(fastbp_("predict", "model.safetensors", "diabetes.npz"))
    predictions = wanted.predict(scaled) * y.std() + y.mean()
    np.testing.assert_allclose([float(row["y"]) for row in rows], predictions, rtol=1e-9)
    residual, total = np.sum((y - predictions) ** 2), np.sum((y - y.mean()) ** 2)
    assert fastbp_.err == f"R² {1 - residual / total:.4f} on 442 rows\n"


def test_a_loaded_model_is_usable_without_the_command(model: Path, iris: Path) -> None:
    classifier, rule = fastbp.load(model), io.load_preprocessing(model)
    assert isinstance(classifier, fastbp.MLPClassifier)
    assert rule is not None
    X = rule.transform(tables.read_table(iris), classifier.coefs_[0].dtype)
    assert classifier.score(X, [row["species"] for row in iris_rows()]) > 0.9


def test_columns_may_come_in_any_order_and_more_or_fewer(fastbp_: Shell, model: Path, iris: Path) -> None:
    wanted = fastbp_("predict", model, iris)
    reordered = [{"note": "x", **dict(reversed(row.items()))} for row in iris_rows()]
    assert fastbp_("predict", model, write_csv(iris.with_name("b.csv"), reordered)) == wanted
    for row in reordered:
        del row["species"]
    assert fastbp_("predict", model, write_csv(iris.with_name("c.csv"), reordered)) == wanted
    assert fastbp_.err == ""
    for row in reordered:
        del row["petal width"], row["garden"]
    error = fastbp_.fails("predict", model, write_csv(iris.with_name("d.csv"), reordered))
    assert "lacks columns 'petal width', 'garden'" in error


def test_probabilities_are_the_models(fastbp_: Shell, model: Path, iris: Path) -> None:
    rows = read_csv(fastbp_("predict", model, iris, "--proba"))
    names = [f"proba_{name}" for name in IRIS.target_names]
    assert list(rows[0]) == ["species", *names]
    values = np.array([[float(row[name]) for name in names] for row in rows])
    np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-5)
    assert [IRIS.target_names[i] for i in values.argmax(axis=1)] == [row["species"] for row in rows]


def test_predictions_are_written_to_a_file_or_stay_unwritten(fastbp_: Shell, model: Path, iris: Path) -> None:
    printed = fastbp_("predict", model, iris)
    assert fastbp_("predict", model, iris, "--out", "out.csv") == ""
    assert Path("out.csv").read_text() == printed
    before = sorted(os.listdir())
    assert "let its name end in .csv" in fastbp_.fails("predict", model, iris, "--out", "out.parquet")
    assert "choose another file" in fastbp_.fails("predict", model, iris, "--out", iris)
    assert "there is no folder" in fastbp_.fails("predict", model, iris, "--out", "no/out.csv")
    assert sorted(os.listdir()) == before


def test_a_regression_on_parquet(fastbp_: Shell) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = load_diabetes(as_frame=True, scaled=False).frame
    frame["sex"] = frame["sex"].map({1.0: "f", 2.0: "m"}).astype("category")
    frame["since"] = pandas.Timestamp("2020-01-01")
    frame.to_parquet("d.parquet")
    assert "column 'since' holds datetime64" in fastbp_.fails("train", "d.parquet", "--target", "target")
    out = fastbp_("train", "d.parquet", "--target", "target", "--exclude", "since", "--alpha", 1, "--out", "m.st")
    assert "regression (the target holds decimal numbers)" in out
    assert "11 from 10 columns" in out
    assert float(re.search(r"R² (\S+)", out)[1]) > 0.2  # type: ignore[index]
    values = [float(row["target"]) for row in read_csv(fastbp_("predict", "m.st", "d.parquet"))]
    assert np.corrcoef(values, frame["target"])[0, 1] > 0.7


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (np.array([True, False]), "true or false"),
        (np.array([7, -2]), "2 different whole numbers"),
        (np.array(["ja", "nein"]), "is text"),
    ],
)
def test_labels_are_printed_as_they_were(labels: np.ndarray, reason: str, fastbp_: Shell) -> None:
    x = np.linspace(-1, 1, 60)
    np.savez("t.npz", x=x, noise=np.cos(99 * x), label=labels[(x > 0).astype(int)])
    arguments = ("--optimizer", "lbfgs", "--hidden", "none", "--test-fraction", 0)
    out = fastbp_("train", "t.npz", "--target", "label", *arguments)
    assert reason in out
    assert "2-1, relu, float64" in out
    rows = read_csv(fastbp_("predict", "model.safetensors", "t.npz", "--proba"))
    assert [row["label"] for row in rows] == [str(labels[int(value > 0)]) for value in x]
    assert list(rows[0])[1:] == [f"proba_{label}" for label in sorted(labels.tolist())]


def test_text_that_looks_like_numbers_can_stay_text(fastbp_: Shell, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    rows = [{"code": code, "y": int(code == "07") * 2.5} for code in ("07", "7", "11")] * 20
    table = write_csv(tmp_path / "codes.csv", rows)
    out = fastbp_("train", table, "--target", "y", "--categorical", "code", "--optimizer", "lbfgs")
    assert "3 from 1 columns" in out
    values = [float(row["y"]) for row in read_csv(fastbp_("predict", "model.safetensors", table))][:3]
    np.testing.assert_allclose(values, [2.5, 0, 0], atol=0.1)


def test_unknown_categories_are_counted_in_a_warning(fastbp_: Shell, model: Path, iris: Path) -> None:
    rows = iris_rows()[:10]
    rows[0]["garden"] = rows[4]["garden"] = "moon"
    out = fastbp_("predict", model, write_csv(iris.with_name("b.csv"), rows))
    assert len(read_csv(out)) == 10
    warning, score = fastbp_.err.splitlines()
    assert warning == (
        "fastbp: warning: column 'garden': 2 of 10 values, such as 'moon', did not occur in training; "
        "their inputs are all 0"
    )
    assert score.startswith("accuracy")


def test_other_separators(fastbp_: Shell, iris: Path) -> None:
    table = write_csv(iris.with_name("semicolon.csv"), iris_rows(), ";")
    assert "pass --separator" in fastbp_.fails("train", table, "--target", "species")
    fastbp_("train", table, "--target", "species", "--separator", ";", "--epochs", 3)
    assert fastbp_("predict", "model.safetensors", table, "--separator", ";").startswith("species\n")


def test_answers_that_are_partly_missing_are_scored_where_they_are_known(
    fastbp_: Shell, model: Path, iris: Path
) -> None:
    rows = iris_rows()
    for row in rows[:100]:
        row["species"] = ""
    fastbp_("predict", model, write_csv(iris.with_name("b.csv"), rows))
    assert fastbp_.err.endswith("on 50 rows\n")
    for row in rows:
        row["species"] = ""
    fastbp_("predict", model, write_csv(iris.with_name("b.csv"), rows))
    assert fastbp_.err == ""


def test_missing_and_infinite_values_are_refused_by_name(fastbp_: Shell, iris: Path, model: Path) -> None:
    rows = iris_rows()
    rows[3]["garden"], rows[4]["petal width"], rows[9]["petal width"] = "", "", "nan"
    table = write_csv(iris.with_name("gaps.csv"), rows)
    for arguments in (("train", table, "--target", "species"), ("predict", model, table)):
        error = fastbp_.fails(*arguments)
        assert "missing values in 'petal width' (2 of 150), 'garden' (1 of 150); fill them in, or remove" in error
    rows = iris_rows()
    rows[0]["petal width"] = "inf"
    error = fastbp_.fails("predict", model, write_csv(table, rows))
    assert "infinite values in 'petal width' (1 of 150)" in error


def test_models_without_preprocessing_predict_from_numbers(fastbp_: Shell, tmp_path: Path) -> None:
    net = fastbp.Network((4, 5, 3), random_state=0)
    X = IRIS.data.astype(np.float32)
    np.savez("X.npz", X=X)
    for kept in (net, fastbp.Trainer(net)):
        fastbp.save(kept, "net.safetensors")
        rows = read_csv(fastbp_("predict", "net.safetensors", "X.npz"))
        assert [int(row["prediction"]) for row in rows] == net.predict(X).tolist()
        assert "4 64 relu" not in fastbp_("inspect", "net.safetensors")
    several = fastbp.Network((4, 2), output="identity", random_state=0)
    fastbp.save(several, "net.safetensors")
    assert fastbp_("predict", "net.safetensors", "X.npz").startswith("prediction_0,prediction_1\n")
    assert "gives no probabilities" in fastbp_.fails("predict", "net.safetensors", "X.npz", "--proba")


def test_what_inspect_prints_as_json(fastbp_: Shell, model: Path) -> None:
    found = json.loads(fastbp_("inspect", model, "--json"))
    assert found["kind"] == "MLPClassifier"
    assert found["n_parameters"] == sum(layer["parameters"] for layer in found["layers"]) == 8 * 100 + 100 + 303
    assert found["layers"][1] == {"inputs": 100, "outputs": 3, "activation": "softmax", "parameters": 303}
    assert found["optimizer"]["kind"] == "adam"
    assert found["optimizer"]["learning_rate_init"] == 0.01
    assert found["classes"] == IRIS.target_names.tolist()
    assert found["preprocessing"]["categories"] == {"garden": 3}
    assert found["sha256"] == io.read(model).sha256
    assert found["bytes"] == model.stat().st_size


@pytest.mark.parametrize("kind", ["network", "trainer", "unfitted"])
def test_every_kind_can_be_inspected(kind: str, fastbp_: Shell) -> None:
    net = fastbp.Network((4, 5, 3), "tanh", random_state=0, dtype="float64", bias=False)
    trainer = fastbp.Trainer(net, optimizer=fastbp.SGD(0.1, momentum=0.5), random_state=0)
    fastbp.save({"network": net, "trainer": trainer, "unfitted": fastbp.MLPRegressor()}[kind], "m")
    text, found = fastbp_("inspect", "m"), json.loads(fastbp_("inspect", "m", "--json"))
    if kind == "unfitted":
        assert "it is not fitted" in text
    else:
        assert "35 of float64" in text
        assert found["n_parameters"] == 35
    if kind == "trainer":
        assert found["optimizer"] == {"kind": "sgd", "learning_rate": 0.1, "momentum": 0.5, "nesterov": False}
        assert found["training"]["steps_done"] == 0


def test_inspect_shows_what_stands_between_layers(fastbp_: Shell) -> None:
    dropout = fastbp.Dropout([1, 0.5], inputs=0.8)
    net = fastbp.Network((4, 5, 6, 3), ["tanh", fastbp.Maxout(3)], batch_norm=[True, None], dropout=dropout)
    fastbp.save(net, "m")
    text, found = fastbp_("inspect", "m"), json.loads(fastbp_("inspect", "m", "--json"))
    assert re.search(r"1 +4 +5 +batch norm, tanh +30\n", text)
    assert re.search(r"2 +5 +6 +maxout of 3 pieces, dropout \(kept with probability 0\.5\) +108\n", text)
    assert "an input is kept with probability 0.8" in text
    assert [layer["parameters"] for layer in found["layers"]] == [4 * 5 + 2 * 5, 5 * 18 + 18, 6 * 3 + 3]
    assert found["n_parameters"] == net.parameters.size
    assert found["inputs_kept"] == 0.8
    assert found["layers"][0]["batch_norm"] == {"epsilon": 1e-5, "momentum": 0.1}
    assert (found["layers"][1]["pieces"], found["layers"][1]["kept"]) == (3, 0.5)


def test_train_with_batch_norm_dropout_and_maxout(fastbp_: Shell, iris: Path) -> None:
    options = ("--batch-norm", "--dropout", 0.9, "--activation", "maxout", "--hidden", "20,10", "--learning-rate", 0.01)
    out = fastbp_("train", iris, "--target", "species", "--epochs", 60, *options)
    assert "8-20-10-3, maxout, batch norm, dropout (kept with probability 0.9), float32" in out
    score = re.search(r"accuracy (\d\.\d+)", out)
    assert float(score[1]) > 0.8  # type: ignore[index]
    model = io.load("model.safetensors")
    assert (model.batch_norm, model.dropout, model.activation) == (True, 0.9, "maxout")
    found = json.loads(fastbp_("inspect", "model.safetensors", "--json"))
    assert [layer["parameters"] for layer in found["layers"]] == [8 * 40 + 80, 20 * 20 + 40, 33]
    predicted = fastbp_("predict", "model.safetensors", iris)
    assert len(read_csv(predicted)) == 150


def test_a_damaged_model_file_is_refused(fastbp_: Shell, model: Path, iris: Path) -> None:
    content = bytearray(model.read_bytes())
    content[-5] ^= 1
    model.write_bytes(content)
    for arguments in (("inspect", model), ("predict", model, iris)):
        assert "is damaged: its content has the SHA-256" in fastbp_.fails(*arguments)


# -------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train", "arguments are required: data, --target; see: fastbp train --help"),
        ("train iris.csv", "arguments are required: --target"),
        ("train none.csv --target x", "there is no file none.csv"),
        ("train . --target x", "is a folder"),
        ("train model.txt --target x", "has an unknown ending; pass a .csv, .parquet or .npz file"),
        ("train iris.csv --target colour", "there is no column 'colour'; the table has 'sepal length'"),
        ("train iris.csv --target species --task regression", "is text such as"),
        ("train iris.csv --target petal_width --task classification", "there is no column 'petal_width'"),
        ("train iris.csv --target planet", "'planet' is 1 in every row"),
        ("train iris.csv --target species --exclude species", "--exclude names the target"),
        ("train iris.csv --target species --exclude hue", "there is no column 'hue' to leave out"),
        ("train iris.csv --target species --categorical hue", "--categorical names 'hue'"),
        ("train iris.csv --target species --out iris.csv", "--out iris.csv is the table itself"),
        ("train iris.csv --target species --out no/m", "there is no folder"),
        ("train iris.csv --target species --out .", "is no regular file"),
        ("train iris.csv --target species --hidden 5,x", "argument --hidden: got 'x', wanted a whole number"),
        ("train iris.csv --target species --epochs 0", "got '0', wanted a whole number of at least 1"),
        ("train iris.csv --target species --learning-rate nan", "wanted a number greater than 0"),
        ("train iris.csv --target species --alpha -1", "wanted a number of at least 0"),
        ("train iris.csv --target species --test-fraction 1", "at least 0 and less than 1"),
        ("train iris.csv --target species --optimizer lion", "invalid choice: 'lion'"),
        ("train iris.csv --target species --dropout 0", "got '0', wanted a probability greater than 0 and at most 1"),
        ("train iris.csv --target species --dropout 1.1", "wanted a probability greater than 0 and at most 1"),
        ("train iris.csv --target species --dropout nan", "wanted a probability greater than 0 and at most 1"),
        ("train iris.csv --target species --dropout some", "wanted a probability greater than 0 and at most 1"),
        ("train iris.csv --target species --batch-norm --optimizer lbfgs", "choose solver='adam' or solver='sgd'"),
        ("train iris.csv --target species --dropout 0.5 --optimizer lbfgs", "choose solver='adam' or solver='sgd'"),
        ("train iris.csv --target species --batch-norm --batch-size 1", "choose a larger batch_size"),
        ("train broken.csv --target x", "broken.csv cannot be read as CSV"),
        ("train broken.parquet --target x", "broken.parquet cannot be read as Parquet"),
        ("train broken.npz --target x", "broken.npz cannot be read as a .npz file"),
        ("train empty.csv --target x", "empty.csv has no rows"),
        ("train void.csv --target x", "void.csv cannot be read as CSV"),
        ("predict iris.csv iris.csv", "iris.csv is no model file"),
        ("predict none iris.csv", "there is no file none"),
        ("inspect none", "there is no file none"),
        ("fly", "invalid choice: 'fly'"),
        ("info --yaml", "unrecognized arguments: --yaml"),
        ("demo --max-iter 0", "wanted a whole number of at least 1"),
        ("demo --out no/x.png", "there is no folder"),
    ],
)
def test_mistakes_are_refused_in_one_line(arguments: str, message: str, fastbp_: Shell, iris: Path) -> None:
    Path("broken.csv").write_text('x,y\n1,2\n3,4,5\n"')
    Path("broken.parquet").write_bytes(b"PAR1")
    Path("broken.npz").write_bytes(b"PK\x03\x04")
    Path("empty.csv").write_text("x,y\n")
    Path("void.csv").write_text("")
    Path("model.txt").write_text("")
    before = sorted(os.listdir())
    assert message in fastbp_.fails(*arguments.split())
    assert sorted(os.listdir()) == before


def test_bad_arrays_in_npz_are_refused(fastbp_: Shell) -> None:
    for arrays, message in (
        ({"X": np.ones((2, 2, 2)), "y": np.ones(2)}, "array 'X' in a.npz has shape (2, 2, 2)"),
        ({"X": np.ones((3, 2)), "y": np.ones(2)}, "different lengths: {'X': 3, 'y': 2}"),
        ({"X": np.array([{}, {}]), "y": np.ones(2)}, "without pickled objects"),
        ({"X": np.array([1j, 2]), "y": np.ones(2)}, "column 'X' holds complex128"),
        ({"X": np.full((3, 1), 1e300), "y": np.ones(3), "z": np.array([-1e300, 1, 1])}, "scale it down"),
    ):
        np.savez("a.npz", **arrays)
        assert message in fastbp_.fails("train", "a.npz", "--target", "y", "--test-fraction", 0)


def test_a_column_of_numbers_that_holds_text_later_is_named(fastbp_: Shell, model: Path, iris: Path) -> None:
    rows = iris_rows()
    rows[7]["petal width"] = "wide"
    error = fastbp_.fails("predict", model, write_csv(iris.with_name("b.csv"), rows))
    assert "column 'petal width' held numbers in training, but here it holds text such as 'wide'" in error


def test_missing_pandas_is_said_and_npz_works_without(
    fastbp_: Shell, iris: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = tables.importlib.util.find_spec
    monkeypatch.setattr(tables.importlib.util, "find_spec", lambda name: None if name == "pandas" else find_spec(name))
    error = fastbp_.fails("train", iris, "--target", "species")
    assert "needs pandas, which is not installed; run: pip install 'fastbp[data]', or pass a .npz file" in error
    np.savez("iris.npz", X=IRIS.data, y=IRIS.target_names[IRIS.target])
    fastbp_("train", "iris.npz", "--target", "y", "--epochs", 2)
    assert len(read_csv(fastbp_("predict", "model.safetensors", "iris.npz"))) == 150


# --------------------------------------------------------------------------------------- info, demo, streams


def test_info_names_what_there_is(fastbp_: Shell) -> None:
    found = json.loads(fastbp_("info", "--json"))
    assert found["fastbp"] == fastbp.__version__
    assert found["backends"] == kernels.backends()
    assert found["auto_backend"] == kernels.resolve("auto")
    assert found["libraries"]["numpy"] == np.__version__
    assert found["threads"]["usable"] >= 1
    if found["backends"]["cython"] == kernels.AVAILABLE:
        assert found["cython"]["instruction_set"] in found["cython"]["instruction_sets"]
    text = fastbp_("info")
    for word in (found["cpu"]["model"], *kernels.MODULES, "OMP_NUM_THREADS", "scikit-learn", np.__version__):
        assert word in text


def test_info_says_why_a_backend_is_missing(fastbp_: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    others = kernels._why_not
    monkeypatch.setattr(kernels, "_why_not", lambda name: "no compiler; get one" if name == "cython" else others(name))
    assert re.search(r"cython\s+no compiler; get one", fastbp_("info"))
    found = json.loads(fastbp_("info", "--json"))
    assert found["cython"]["instruction_set"] is None
    assert found["backends"]["cython"] == "no compiler; get one"


def test_the_demo_compares_and_draws(fastbp_: Shell) -> None:
    pytest.importorskip("matplotlib")
    out = fastbp_("demo", "--max-iter", 5, "--out", "curves.png")
    lines = [line.split() for line in out.splitlines()]
    ours = next(line for line in lines if line[:1] == ["fastbp"] and line[1].startswith("("))
    theirs = next(line for line in lines if line[:1] == ["scikit-learn"])
    assert ours[-2:] == theirs[-2:]  # final loss and test accuracy
    difference = float(re.search(r"Largest difference of the loss curves: (\S+)", out)[1])  # type: ignore[index]
    assert difference < 1e-9
    assert Path("curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_demo_goes_on_without_matplotlib(fastbp_: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name))
    out = fastbp_("demo", "--max-iter", 2)
    assert "pip install 'fastbp[plot]'" in out
    assert not os.listdir()


def test_help_version_and_no_command(fastbp_: Shell) -> None:
    assert fastbp_("--version") == f"fastbp {fastbp.__version__}\n"
    assert fastbp_() == fastbp_("--help")
    for command in ("info", "demo", "train", "predict", "inspect"):
        assert command in fastbp_("--help")
        assert fastbp_(command, "--help").startswith(f"usage: fastbp {command}")


def test_ctrl_c_while_training_writes_no_model(fastbp_: Shell, iris: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = Run.steps

    def interrupted(run: Run, *arguments: Any, **named: Any) -> None:
        steps(run, *arguments, **named)
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "steps", interrupted)
    code, out, err = fastbp_.run("train", iris, "--target", "species")
    assert (code, out, err) == (130, "", "fastbp: interrupted; no file was written\n")
    assert os.listdir() == ["iris.csv"]


def test_ctrl_c_ends_the_demo(fastbp_: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both estimators' fit would bear it and go on to the next run."""
    monkeypatch.setattr(Run, "steps", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    code, out, _ = fastbp_.run("demo", "--max-iter", 2)
    assert (code, out) == (130, "")
    assert not os.listdir()


MAIN = "import sys; from fastbp.cli import main; sys.exit(main())"


def command(*arguments: Any, code: str = MAIN) -> subprocess.Popen[str]:
    """Start the command in a process of its own."""
    program = [sys.executable, "-c", code, *map(str, arguments)]
    path = os.pathsep.join([str(Path(cli.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    elsewhere = tempfile.gettempdir()  # in a checkout the sources would stand before what is installed
    return subprocess.Popen(
        program, env=environment, cwd=elsewhere, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGPIPE")
def test_a_reader_that_stops_is_no_error(tmp_path: Path) -> None:
    fastbp.save(fastbp.Network((1, 1), output="identity", random_state=0), tmp_path / "net")
    np.savez(tmp_path / "x.npz", X=np.arange(50_000.0)[:, None])
    process = command("predict", tmp_path / "net", tmp_path / "x.npz")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "prediction\n"
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(60) == 141
    process.stderr.close()


INTERRUPTED_AFTER_200_MS = """
import os, signal, threading, time
from fastbp import run
from fastbp.cli import main

steps, start = run.Run.steps, None

def watched(*arguments):
    global start
    if start is None:
        start = time.perf_counter()
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    steps(*arguments)

run.Run.steps = watched
code = main()
print(time.perf_counter() - start - 0.2)
raise SystemExit(code)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for one process")
def test_ctrl_c_ends_a_real_training_soon(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "big.npz", X=rng.normal(size=(5000, 50)), y=rng.normal(size=5000))
    arguments = ("--target", "y", "--out", tmp_path / "m", "--hidden", "1000,1000", "--epochs", 1000)
    process = command("train", tmp_path / "big.npz", *arguments, code=INTERRUPTED_AFTER_200_MS)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "fastbp: interrupted; no file was written\n")
    assert float(out) < 2  # 250 ms on a machine that has nothing else to do
    assert not (tmp_path / "m").exists()


def test_the_command_answers_before_anything_heavy_is_imported() -> None:
    heavy = ("numpy", "sklearn", "scipy", "pandas", "matplotlib", "numba", "rich", "safetensors")
    code = (
        "import sys; from fastbp.cli import main; main(['--help']); "
        f"print('imported:', [name for name in {heavy} if name in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.splitlines()[-1] == "imported: []"


def test_no_colours_reach_a_pipe(fastbp_: Shell, model: Path) -> None:
    for arguments in (("inspect", model), ("info",)):
        process = command(*arguments)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "\x1b" not in out + err
        assert all(line == line.rstrip() for line in out.splitlines())


# ---------------------------------------------------------------------------------------------- preprocessing


NUMBERS = st.floats(-1e6, 1e6).map(lambda value: round(value, 3))


@settings(max_examples=100, deadline=None)
@given(values=npst.arrays(np.float64, st.integers(2, 30), elements=NUMBERS))
def test_numbers_are_normalised_and_constants_stay_finite(values: np.ndarray) -> None:
    scale = Scale.fit(values, "x")
    scaled = scale.apply(values)
    np.testing.assert_allclose(scale.undo(scaled), values, rtol=1e-9, atol=1e-9 * np.abs(values).max())
    if np.ptp(values) > 1e-6 * np.abs(values).max():
        np.testing.assert_allclose([scaled.mean(), scaled.std()], [0, 1], atol=1e-6)
    elif not np.ptp(values):
        np.testing.assert_allclose(scaled, 0, atol=1e-9 * (1 + np.abs(values).max()))


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(st.text(max_size=3), min_size=1, max_size=20), later=st.lists(st.text(max_size=3), min_size=1))
@pytest.mark.filterwarnings("ignore:column 't'")
def test_a_text_becomes_its_own_input_or_none(texts: list[str], later: list[str]) -> None:
    table = {"t": np.array([*texts, None], object)[:-1], "y": np.arange(len(texts), dtype=float)}
    rule = Preprocessing.fit(table, "y", "regression")
    categories = rule.features[0].categories
    assert categories == tuple(sorted(set(texts)))
    X = rule.transform({"t": np.array([*later, None], object)[:-1]})
    for row, text in zip(X, later, strict=True):
        assert row.tolist() == [float(text == category) for category in categories]
    assert Preprocessing.from_content(json.loads(json.dumps(rule.to_content()))) == rule


def test_only_the_training_rows_are_learnt_from(fastbp_: Shell) -> None:
    """The held-out rows' outlier would move the mean."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=100)
    np.savez("t.npz", x=x, y=2 * x)
    fastbp_("train", "t.npz", "--target", "y", "--epochs", 1, "--seed", 1)
    kept = io.load_preprocessing("model.safetensors")
    assert kept is not None
    scale = kept.features[0].scale
    assert scale is not None
    assert scale.mean != pytest.approx(x.mean(), rel=1e-6)


def test_too_many_categories_are_refused() -> None:
    table = {"name": np.array([f"n{i}" for i in range(1001)], object), "y": np.arange(1001.0)}
    with pytest.raises(ValueError, match=r"'name' has 1001 different texts.* --exclude name"):
        Preprocessing.fit(table, "y", "regression")


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (np.array(["a", "b"], object), "classification"),
        (np.array([True, False]), "classification"),
        (np.arange(20), "classification"),
        (np.arange(21), "regression"),
        (np.array([0.0, 1.0]), "regression"),
    ],
)
def test_the_task_is_guessed(values: np.ndarray, task: str) -> None:
    assert guess_task(values)[0] == task


def test_columns_of_every_type_of_pandas(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    frame = pandas.DataFrame(
        {
            "integers": pandas.array([1, None], dtype="Int64"),
            "arrow": pandas.array([1, 2], dtype="int64[pyarrow]"),
            "flags": pandas.array([True, None], dtype="boolean"),
            "text": pandas.array(["a", None], dtype="string"),
            "kinds": pandas.Categorical(["x", None]),
        }
    )
    frame.to_parquet(tmp_path / "t.parquet")
    table = tables.read_table(tmp_path / "t.parquet")
    wanted: dict[str, list[Any]] = {
        "integers": [1.0, np.nan],
        "arrow": [1, 2],
        "flags": [1.0, np.nan],
        "text": ["a", None],
        "kinds": ["x", None],
    }
    assert {name: repr(values.tolist()) for name, values in table.items()} == {
        name: repr(values) for name, values in wanted.items()
    }
    numbered = tables._as_column("n", pandas.Series(pandas.Categorical([1, 2])), False)
    assert numbered.tolist() == ["1", "2"]
