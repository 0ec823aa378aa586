"""Labels of any kind become class numbers, or are refused in one line."""

import jax.numpy as jnp
import numpy as np
import pandas
import pytest

from rmdnet_jax.errors import UserError
from rmdnet_jax.labels.classes import array, numbered


def torch_tensor(values):
    return pytest.importorskip("torch").tensor(values)


def series(values, dtype=None):
    return pytest.importorskip("pandas").Series(values, dtype=dtype)


KINDS = {
    "list": lambda: [7, 3, 7, -1],
    "tuple": lambda: (7, 3, 7),
    "range": lambda: range(4),
    "uint8": lambda: np.array([7, 3, 7], np.uint8),
    "large": lambda: [2**62, 3, 2**70],
    "whole floats": lambda: np.array([2.0, 1.0, 2.0]),
    "bools": lambda: [True, False, True],
    "text": lambda: ["cat", "ant", "cat"],
    "text array": lambda: np.array(["cat", "ant"]),
    "objects": lambda: np.array(["cat", "ant"], object),
    "bytes": lambda: [b"b", b"a"],
    "jax": lambda: jnp.array([7, 3, 7]),
    "torch": lambda: torch_tensor([7, 3, 7]),
    "pandas": lambda: series([7, 3, 7]),
    "pandas text": lambda: series(["cat", "ant", "cat"]),
    "pandas category": lambda: series(["cat", "ant", "cat"], "category"),
    "pandas nullable": lambda: series([7, 3, 7], "Int64"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_the_places_of_the_labels_among_the_sorted_classes(kind):
    labels = KINDS[kind]()
    numbers, classes = numbered(labels)
    values = array(labels, "labels").tolist()
    assert classes.tolist() == sorted(set(values))
    assert [sorted(set(values)).index(value) for value in values] == numbers.tolist()
    assert numbers.dtype == np.int32
    assert classes.dtype == array(labels, "labels").dtype


def test_classes_say_the_order_and_what_else_there_is():
    numbers, classes = numbered(["b", "a", "b"], classes=["c", "b", "a"])
    assert numbers.tolist() == [1, 2, 1]
    assert classes.tolist() == ["c", "b", "a"]
    numbers, classes = numbered(["a"], classes=["long name", "a"])
    assert (numbers.tolist(), classes.tolist()) == ([1], ["long name", "a"])


def test_classes_come_in_the_labels_dtype_where_it_holds_them():
    labels = np.array([3, 1], np.uint8)
    assert numbered(labels, classes=range(10))[1].dtype == np.uint8
    assert numbered(labels, classes=range(300))[1].tolist() == [*range(300)]
    assert numbered([True], classes=[0, 1])[1].tolist() == [False, True]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "must hold at least one label"),
        ("cat", "one label an entry, got a str"),
        (3, "one label an entry, got a int"),
        (None, "one label an entry, got a NoneType"),
        ({"a": 1}, "one label an entry, got a dict"),
        (np.zeros((2, 2), int), r"one label an entry, got shape \(2, 2\)"),
        ([1, None], "missing values, got None at position 1"),
        (["a", "b", None], "missing values, got None at position 2"),
        (["a", float("nan")], "missing values, got nan at position 1"),
        (["a", ""], "missing values, got an empty text at position 1"),
        ([b"a", b""], "missing values, got an empty text at position 1"),
        (np.array(["a", ""], object), "missing values, got an empty text at position 1"),
        ([1.0, float("nan")], "missing values, got nan at position 1"),
        (np.array(["a", np.datetime64("NaT")], object), "missing values, got NaT at position 1"),
        (np.ma.array([1, 2], mask=[False, True]), "must not hold masked entries"),
        ([1, "a"], "must be of one kind that can be sorted, got int and str"),
        ([{}, {}], "must be of one kind that can be sorted, got dict"),
        ([[1], [1, 2]], "must be an array or a list"),
        ([1, 0.5], "must be whole numbers or text, got 0.5 at position 1"),
        ([float("inf")], "must be whole numbers or text, got inf at position 0"),
        ([1j], "must be whole numbers, text or bools, got complex128"),
    ],
)
def test_what_is_no_vector_of_labels_is_refused(labels, message):
    with pytest.raises(UserError, match=f"^given .*{message}") as error:
        numbered(labels, "given")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["Int64", "string", "category"])
def test_missing_values_of_pandas_are_refused(kind):
    labels = series([1, None] if kind == "Int64" else ["a", None], kind)
    with pytest.raises(UserError, match=r"missing values, got .* at position 1"):
        numbered(labels)


def test_a_frame_of_one_column_is_labels():
    numbers, classes = numbered(pandas.DataFrame({"label": ["cat", "ant", "cat"]}))
    assert classes[numbers].tolist() == ["cat", "ant", "cat"]
    with pytest.raises(UserError, match="one label an entry"):
        numbered(pandas.DataFrame({"a": [1, 2], "b": [1, 2]}))


def test_tensors_that_numpy_cannot_hold_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(UserError, match=r"^labels must be an array or a list, got Tensor"):
        numbered(torch.ones(3).to_sparse())
    assert array(torch.ones(3, dtype=torch.bfloat16), "features").tolist() == [1, 1, 1]
    assert array(torch.ones(3, requires_grad=True), "features").tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([1, 2, 2], "^classes must be distinct, got 2 twice"),
        ([3, 4], "^labels must be among the 2 classes, got 1"),
        ([1, float("nan")], "^classes must not hold missing values"),
        ([], "^classes must hold at least one"),
        (3, "^classes must be a list or an array"),
    ],
)
def test_classes_that_do_not_fit_are_refused(classes, message):
    with pytest.raises(UserError, match=message):
        numbered([1, 2], classes=classes)
