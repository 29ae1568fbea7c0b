"""Labels and categories (Cheng 9.2): text or numbers, as class numbers, as one-hot inputs, and back."""

from __future__ import annotations

import pickle
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.preprocessing import LabelEncoder, OneHotEncoder

import fastbp
from fastbp import Labels, OneHot
from fastbp.preprocessing import MOST_CATEGORIES

LABELS = st.one_of(
    st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4), min_size=1, max_size=20),
    st.lists(st.integers(-5, 5), min_size=1, max_size=20),
    st.lists(st.booleans(), min_size=1, max_size=20),
)


@pytest.mark.source("S16", "Cheng 9.2")
@settings(max_examples=150, deadline=None)
@given(y=LABELS)
def test_labels_become_the_numbers_that_scikit_learn_gives_them(y: list[Any]) -> None:
    labels, theirs = Labels.fit(y), LabelEncoder().fit(y)
    assert labels.classes.tolist() == theirs.classes_.tolist()
    numbers = labels.encode(y)
    assert numbers.dtype == np.int64
    np.testing.assert_array_equal(numbers, theirs.transform(y))
    assert labels.decode(numbers).tolist() == y
    matrix = labels.one_hot(y)
    assert matrix.dtype == np.float32
    np.testing.assert_array_equal(matrix, numbers[:, None] == np.arange(len(labels.classes)))
    assert labels.decode(matrix).tolist() == y


@pytest.mark.parametrize(
    "y",
    [
        np.array(["b", "a", "b"]),
        np.array(["b", "a", "b"], object),
        ["b", "a", "b"],
        np.array([7, 3, 7], np.int8),
        np.array([7.0, 3.0, 7.0], np.float32),
        np.array([7, 3.0, np.int16(7)], object),
        np.array([True, False, True]),
    ],
)
def test_every_form_of_labels(y: Any) -> None:
    labels = Labels.fit(y)
    assert labels.encode(y).tolist() == [1, 0, 1]
    np.testing.assert_array_equal(labels.one_hot(y, "float64"), [[0, 1], [1, 0], [0, 1]])
    assert labels.decode([1, 0, 1]).tolist() == list(y)


@pytest.mark.source("S16", "Cheng (2)", "Cheng 9.2")
def test_a_training_on_text_labels_and_categories() -> None:
    """From text to text: the largest output is the label (arg max, Cheng 9.2)."""
    pandas = pytest.importorskip("pandas")
    rng = np.random.default_rng(0)
    table = pandas.DataFrame({"colour": rng.choice(["red", "green", "blue"], 200), "size": rng.integers(1, 4, 200)})
    answers = np.where(table["colour"] == "red", "stop", np.where(table["size"] > 1, "go", "wait"))
    rule, labels = OneHot.fit(table), Labels.fit(answers)
    X = rule.transform(table)
    assert X.shape == (200, rule.n_inputs) == (200, 6)
    net = fastbp.Network((rule.n_inputs, 8, len(labels.classes)), random_state=0)
    trainer = fastbp.Trainer(net, learning_rate=0.02, random_state=0)
    trainer.fit(X, labels.encode(answers), epochs=60)
    assert labels.decode(net.predict(X)).tolist() == answers.tolist()
    assert labels.decode(net.predict_proba(X)).tolist() == answers.tolist()


@pytest.mark.source("S16", "Cheng (2)")
@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(st.sampled_from(["x", "y", "zz"]), st.integers(0, 4), st.booleans()), min_size=1),
    later=st.lists(st.tuples(st.sampled_from(["x", "y", "w"]), st.integers(3, 6), st.booleans()), min_size=1),
)
def test_categories_become_the_inputs_that_scikit_learn_makes(rows: list[Any], later: list[Any]) -> None:
    train, test = np.array(rows, object), np.array(later, object)
    rule = OneHot.fit(rows)
    theirs = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(train)
    np.testing.assert_array_equal(rule.transform(rows), theirs.transform(train))
    assert rule.inverse_transform(rule.transform(train)).tolist() == [list(row) for row in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = rule.transform(later, "float64")
    np.testing.assert_array_equal(found, theirs.transform(test))
    assert rule.inverse_transform(found).tolist() == theirs.inverse_transform(found).tolist()


def test_a_category_that_was_not_in_training_is_said() -> None:
    rule = OneHot.fit([["a", 1], ["b", 2]])
    with pytest.warns(UserWarning, match="column 1: 2 of 3 values, such as 5, did not occur in training") as caught:
        matrix = rule.transform([["a", 5], ["b", 1], ["b", 6]])
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(matrix, [[1, 0, 0, 0], [0, 1, 1, 0], [0, 1, 0, 0]])
    assert rule.inverse_transform(matrix).tolist() == [["a", None], ["b", 1], ["b", None]]


def test_a_vector_is_one_column() -> None:
    rule = OneHot.fit(["b", "a"])
    np.testing.assert_array_equal(rule.transform(np.array(["a", "b", "a"])), [[1, 0], [0, 1], [1, 0]])
    np.testing.assert_array_equal(OneHot.fit(np.array([3, 1])).transform([1, 3]), [[1, 0], [0, 1]])


# ------------------------------------------------------------------------------------------- what is refused


LABELS_ABC = Labels(np.array(["a", "b", "c"]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: Labels.fit([0.5, 1.0]), ValueError, "y holds 0.5, which is no label; pass texts or whole numbers"),
        (lambda: Labels.fit(np.array([1.0, np.inf])), ValueError, "y holds inf"),
        (lambda: Labels.fit(["a", 1]), TypeError, "y holds int, str; pass either texts, or whole numbers"),
        (lambda: Labels.fit(["a", None]), ValueError, "y lacks 1 of 2 labels; fill them in"),
        (lambda: Labels.fit([1, float("nan")]), ValueError, "y lacks 1 of 2 labels"),
        (lambda: Labels.fit(np.array([1.0, np.nan])), ValueError, "y lacks 1 of 2 labels"),
        (lambda: Labels.fit([]), ValueError, r"y has shape \(0,\); pass a vector of labels"),
        (lambda: Labels.fit(np.eye(2)), ValueError, r"y has shape \(2, 2\)"),
        (lambda: Labels.fit(np.zeros(2, complex)), TypeError, "y has dtype complex128"),
        (lambda: Labels(np.array([2, 1])), ValueError, "in ascending order, or use Labels.fit"),
        (lambda: Labels(np.array(["a", "a"])), ValueError, "pass different ones"),
        (lambda: LABELS_ABC.encode(["a", "d", "e"]), ValueError, "none of the 3 classes: 'd', 'e'; remove them"),
        (lambda: LABELS_ABC.encode([1, 2]), TypeError, "y holds numbers, but the classes are texts"),
        (lambda: Labels.fit([1, 2]).encode(["1"]), TypeError, "y holds texts, but the classes are numbers"),
        (lambda: LABELS_ABC.one_hot(["z"]), ValueError, "none of the 3 classes"),
        (lambda: LABELS_ABC.decode([3]), ValueError, "numbers from 3 to 3; classes have 0 to 2"),
        (lambda: LABELS_ABC.decode([-1, 0]), ValueError, "numbers from -1 to 0"),
        (lambda: LABELS_ABC.decode([0.5]), ValueError, r"dtype float64; pass class numbers of shape \(n,\) or outputs"),
        (lambda: LABELS_ABC.decode(np.eye(2)), ValueError, r"outputs of shape \(n, 3\)"),
        (lambda: OneHot.fit([["a", 0.5]]), ValueError, "column 1 of X holds 0.5"),
        (lambda: OneHot.fit([["a"], [None]]), ValueError, "column 0 of X lacks 1 of 2"),
        (lambda: OneHot.fit(np.zeros((2, 0))), ValueError, r"X has shape \(2, 0\)"),
        (lambda: OneHot.fit(np.zeros((2, 2, 2))), ValueError, r"X has shape \(2, 2, 2\)"),
        (lambda: OneHot.fit(np.arange(2000)), ValueError, f"2000 different values, more than {MOST_CATEGORIES}"),
        (lambda: OneHot.fit([["a", "b"]]).transform([["a"]]), ValueError, "X has 1 columns, but had 2 in training"),
        (lambda: OneHot.fit(["a", "b"]).inverse_transform(np.eye(3)), ValueError, r"shape \(3, 3\); pass \(n, 2\)"),
        (lambda: OneHot((np.array([2, 1]),)), ValueError, "in ascending order"),
    ],
)  # fmt: skip
def test_what_is_no_label_is_refused(call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_they_cannot_be_changed_and_can_be_copied() -> None:
    labels, rule = Labels.fit(["b", "a"]), OneHot.fit([["a", 1], ["b", 2]])
    with pytest.raises(AttributeError):
        labels.classes = np.array([1])  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        labels.classes[0] = "c"
    assert pickle.loads(pickle.dumps(labels)).classes.tolist() == ["a", "b"]
    assert pickle.loads(pickle.dumps(rule)).n_inputs == 4
    assert repr(labels) == "<fastbp.Labels of 2 classes: 'a', 'b'>"
    assert repr(Labels.fit(range(9))) == "<fastbp.Labels of 9 classes: 0, 1, 2, 3, 4, ...>"
    assert repr(rule) == "<fastbp.OneHot of 2 columns, 2 + 2 inputs>"
