"""`find_label_errors`: what it finds, in any kind of label and array, and what it refuses."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from rmdnet_jax.errors import UserError
from rmdnet_jax.labels import audit
from rmdnet_jax.labels.audit import find_label_errors
from rmdnet_jax.relations import propagation

CLASSES, SIZE = 3, 60
GENERATOR = np.random.default_rng(0)
CLEAN = np.repeat(np.arange(CLASSES), SIZE)
FEATURES = np.eye(8, dtype=np.float32)[CLEAN] + 0.15 * GENERATOR.normal(
    size=(CLASSES * SIZE, 8)
).astype(np.float32)
WRONG = np.isin(np.arange(len(CLEAN)), GENERATOR.permutation(len(CLEAN))[:30])
GIVEN = (CLEAN + WRONG) % CLASSES
BLIND = GENERATOR.normal(size=FEATURES.shape).astype(np.float32)
# Each keeps the order of the classes.
NAMES = {
    "far integers": np.array([-7, 3, 10**12]),
    "unsigned": np.array([0, 5, 200], np.uint8),
    "strings": np.array(["ant", "bee", "cow"]),
    "objects": np.array(["ant", "bee", "cow"], object),
    "large": np.array([10**17, 10**17 + 1, 10**400], object),
    "beyond both": np.array([-1, 2**63, 2**64], object),
    "whole floats": np.array([0.0, 1.0, 7.0]),
}
FOUND = find_label_errors(FEATURES, GIVEN)


def assert_same(one, two):
    np.testing.assert_array_equal(one.targets, two.targets)
    np.testing.assert_array_equal(one.transition, two.transition)
    numbers = ["index", "probability", "confidence", "vote", "margin", "decision"]
    pd.testing.assert_frame_equal(one.table[numbers], two.table[numbers])


def test_wrong_labels_come_first_and_are_mended():
    table = FOUND.table
    assert set(table["index"][:30]) == set(np.flatnonzero(WRONG))
    assert np.all(np.diff(table["probability"]) >= 0)
    np.testing.assert_array_equal(table["given"], GIVEN[table["index"]])
    assert np.mean(FOUND.labels == CLEAN) > 0.98 > 0.84 > np.mean(GIVEN == CLEAN)
    np.testing.assert_array_equal(FOUND.labels, FOUND.classes[FOUND.targets.argmax(1)])
    assert not FOUND.in_doubt
    low, high = FOUND.noise_interval
    assert low <= 1 / 6 <= high < 0.3
    changed = FOUND.labels != GIVEN
    assert set(table["index"][table["decision"] == "change"]) == set(np.flatnonzero(changed))
    assert FOUND.noise_rate == pytest.approx(1 / 6, abs=0.08)
    np.testing.assert_allclose(FOUND.transition.sum(1), 1)
    assert f"{changed.sum()} of 180 are corrected" in FOUND.reason
    assert FOUND.reason in repr(FOUND)
    assert f"index {table['index'][0]}, given {table['given'][0]}" in repr(FOUND)


def test_what_the_table_says_is_what_propagation_found():
    seen = propagation.propagate(FEATURES, GIVEN, CLASSES)
    np.testing.assert_array_equal(FOUND.targets, seen.targets)
    shares = seen.witnesses.shares
    table = FOUND.table.sort_values("index")
    for i in range(0, len(GIVEN), 7):
        votes, row = list(shares["vote"][i]), table.iloc[i]
        own = votes.pop(GIVEN[i])
        assert row["probability"] == seen.belief[i, GIVEN[i]]
        assert row["confidence"] == seen.belief[i].max()
        assert (row["vote"], row["margin"]) == (own, own - max(votes))


@pytest.mark.parametrize("kind", NAMES)
def test_labels_come_back_as_they_were_given(kind):
    names = NAMES[kind]
    found = find_label_errors(FEATURES, names[GIVEN])
    assert_same(found, FOUND)
    assert found.labels.dtype == found.classes.dtype == names.dtype
    np.testing.assert_array_equal(found.labels, names[FOUND.labels])
    np.testing.assert_array_equal(found.table["given"], names[GIVEN][found.table["index"]])
    assert type(found.table["suggested"].tolist()[0]) is type(names.tolist()[0])


def test_large_numbers_in_a_list_do_not_run_together():
    """Beside a float or a negative one, NumPy makes floats of them."""
    for names in ([1.0, 10**17, 10**17 + 1], [-1, 2**63, 2**63 + 1]):
        found = find_label_errors(FEATURES, [names[y] for y in GIVEN])
        assert found.classes.tolist() == names
        assert_same(found, FOUND)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["cat", " cat", "cow"], r"labels hold ' cat' and 'cat': they are"),
        (["A b", "a  B", "c"], r"labels hold 'A b' and 'a  B': they are"),
        ([*"aA"], "labels hold 'A' and 'a': they"),
    ],
)
def test_classes_that_look_alike_are_told(names, words):
    labels = np.array(names)[GIVEN % len(names)]
    with pytest.warns(UserWarning, match=words):
        found = find_label_errors(FEATURES, labels)
    assert len(found.classes) == len(names)


def test_two_classes_may_be_booleans():
    yes = np.array([True, False])
    found = find_label_errors(FEATURES[: 2 * SIZE], yes[CLEAN[: 2 * SIZE]])
    assert found.labels.dtype == bool
    np.testing.assert_array_equal(found.labels, CLEAN[: 2 * SIZE] == 0)


@pytest.mark.parametrize(
    "labels",
    [GIVEN.tolist(), tuple(GIVEN.tolist()), list(GIVEN), jnp.asarray(GIVEN), pd.Series(GIVEN),
     pd.Series(GIVEN, index=np.arange(180)[::-1]), pd.Series(GIVEN, dtype="category"),
     pd.Series(NAMES["strings"][GIVEN]), NAMES["strings"][GIVEN].tolist()],
)  # fmt: skip
def test_labels_of_any_container_give_the_same(labels):
    assert_same(find_label_errors(FEATURES, labels), FOUND)


@pytest.mark.parametrize(
    "features",
    [FEATURES.tolist(), FEATURES.astype(np.float64), jnp.asarray(FEATURES), pd.DataFrame(FEATURES),
     np.asfortranarray(FEATURES), FEATURES * np.float32(2**66), FEATURES * np.float32(2**-40),
     pd.Series(list(FEATURES)), pd.DataFrame({"embedding": FEATURES.tolist()})],
    ids=["list", "float64", "jax", "pandas", "fortran", "huge", "tiny", "arrays", "lists"],
)  # fmt: skip
def test_features_of_any_kind_give_the_same(features):
    assert_same(find_label_errors(features, GIVEN), FOUND)


def test_torch_tensors_give_the_same():
    torch = pytest.importorskip("torch")
    features = torch.tensor(FEATURES, requires_grad=True)
    assert_same(find_label_errors(features, torch.tensor(GIVEN)), FOUND)
    assert_same(find_label_errors(list(features), list(torch.tensor(GIVEN))), FOUND)
    half = find_label_errors(features.bfloat16(), GIVEN)
    assert_same(half, find_label_errors(features.bfloat16().float(), GIVEN))


def test_whole_numbers_and_half_precision_are_features():
    whole = np.rint(40 * FEATURES).astype(np.int16)
    assert_same(find_label_errors(whole, GIVEN), find_label_errors(whole.astype(np.float32), GIVEN))
    half = FEATURES.astype(np.float16)
    assert_same(find_label_errors(half, GIVEN), find_label_errors(half.astype(float), GIVEN))


def test_classes_in_another_order_change_nothing_but_rounding():
    order = np.array([2, 0, 1])
    found = find_label_errors(FEATURES, order[GIVEN])
    np.testing.assert_array_equal(found.labels, order[FOUND.labels])
    np.testing.assert_allclose(found.targets[:, order], FOUND.targets, atol=1e-3)


def test_the_same_seed_gives_the_same():
    assert_same(find_label_errors(FEATURES, GIVEN, seed=np.int64(0)), FOUND)
    other = find_label_errors(FEATURES, GIVEN, seed=1).table["vote"].sort_index()
    assert not np.array_equal(other, FOUND.table["vote"].sort_index())


def test_where_in_doubt_labels_stay_but_are_ranked():
    names = NAMES["strings"]
    found = find_label_errors(BLIND, names[GIVEN])
    assert found.in_doubt
    np.testing.assert_array_equal(found.labels, names[GIVEN])
    np.testing.assert_array_equal(found.targets, np.eye(CLASSES)[GIVEN])
    assert set(found.table["decision"]) == {"keep", "in doubt"}
    assert np.all(np.diff(found.table["probability"]) >= 0)
    assert "In doubt" in found.reason
    assert "No label was changed" in found.reason
    used = find_label_errors(BLIND, names[GIVEN], in_doubt="use")
    assert used.in_doubt
    assert "changed nevertheless" in used.reason
    assert set(used.table["decision"]) == {"keep", "change"}
    assert np.any(used.labels != names[GIVEN])
    pd.testing.assert_series_equal(used.table["probability"], found.table["probability"])
    changed = used.table[used.table["decision"] == "change"]
    np.testing.assert_array_equal(changed["suggested"], used.labels[changed["index"]])
    assert np.any(changed["confidence"] < changed["probability"]), "against what is believed"


@pytest.mark.parametrize("value", [1e15, 1e38, -3e38])
@pytest.mark.parametrize("scale", [1, 2.0**-90])
def test_one_wild_number_does_not_drown_the_others(value, scale):
    """It counts as the same row of usual length; nobody else gets another neighbour."""
    usual, wild = FEATURES.copy(), FEATURES * np.float32(scale)
    wild[3, 7] = value  # a direction that nobody else has
    usual[3] = 0
    usual[3, 7] = 2 * np.frexp(np.float32(value))[0]  # in [1, 2), a power of 2 away
    found = find_label_errors(wild, GIVEN)
    assert_same(found, find_label_errors(usual, GIVEN))
    assert found.table["index"][found.table["outlier"].idxmax()] == 3
    others = np.arange(180) != 3
    for now, before in zip(found.neighbours[others], FOUND.neighbours[others]):
        expected = [i for i in before if i != 3]
        assert [i for i in now if i != 3][: len(expected)] == expected


def test_features_that_are_all_zero_leave_labels_alone():
    found = find_label_errors(np.zeros((len(GIVEN), 4)), GIVEN)
    assert found.in_doubt
    np.testing.assert_array_equal(found.labels, GIVEN)


def test_a_class_of_one_example_is_refused():
    labels = GIVEN.copy()
    labels[5] = 9
    with pytest.raises(UserError, match="labels must hold each class twice or more, got one of 9"):
        find_label_errors(FEATURES, labels)


def test_a_model_is_heard_where_it_knows_more():
    """Blind features alone leave the labels; with a model's probabilities they are mended."""
    model = np.full((len(GIVEN), CLASSES), 0.02)
    model[np.arange(len(GIVEN)), CLEAN] = 0.96
    found = find_label_errors(BLIND, GIVEN, probabilities=model.astype(np.float16))
    alone = find_label_errors(BLIND, GIVEN)
    np.testing.assert_allclose(
        found.table["model"], np.where(WRONG, 0.02, 0.96)[found.table["index"]], atol=1e-3
    )
    assert "model" not in alone.table
    assert set(found.table["index"][:30]) == set(np.flatnonzero(WRONG))
    assert set(alone.table["index"][:30]) != set(np.flatnonzero(WRONG))
    same = find_label_errors(BLIND, GIVEN, probabilities=np.full((180, CLASSES), 1 / CLASSES))
    np.testing.assert_allclose(same.table["probability"], alone.table["probability"], atol=0.01)


def test_the_headings_of_probabilities_are_heard():
    names = NAMES["strings"]
    model = np.full((len(GIVEN), CLASSES), 0.02)
    model[np.arange(len(GIVEN)), CLEAN] = 0.96
    expected = find_label_errors(FEATURES, names[GIVEN], probabilities=model)
    frame = pd.DataFrame(model, columns=names)[names[::-1]]
    assert_same(find_label_errors(FEATURES, names[GIVEN], probabilities=frame), expected)
    words = "probabilities must have all classes as headings, or none, got 'x', which is no class"
    with pytest.raises(UserError, match=words):
        find_label_errors(
            FEATURES, names[GIVEN], probabilities=frame.set_axis(["x", *names[1:]], axis=1)
        )


@pytest.mark.parametrize(("wrong", "asked"), [(0, True), (1, False)])
def test_a_model_that_knows_every_label_is_asked_whether_it_was_trained_on_them(wrong, asked):
    model = np.eye(CLASSES)[GIVEN]
    model[:wrong] = np.roll(model[:wrong], 1, axis=1)
    found = find_label_errors(FEATURES, GIVEN, probabilities=model)
    assert ("was it trained on them?" in found.reason) == asked


def test_predictions_alone_are_enough():
    model = np.exp(3 * FEATURES[:, :CLASSES])
    model /= model.sum(1, keepdims=True)
    found = find_label_errors(probabilities=model, labels=GIVEN)
    both = find_label_errors(np.sqrt(model), GIVEN, probabilities=model)
    np.testing.assert_allclose(found.targets, both.targets, atol=1e-5)
    assert set(found.table["index"][:30]) == set(np.flatnonzero(WRONG))


def test_a_pandas_index_names_the_rows():
    rows = [f"row {i}" for i in range(180)]
    for labels in (pd.Series(GIVEN, rows), pd.DataFrame({"label": GIVEN}, rows)):
        table = find_label_errors(FEATURES, labels).table
        assert [*table.columns[:3]] == ["index", "name", "given"]
        assert table["name"].tolist() == [rows[i] for i in table["index"]]
        pd.testing.assert_frame_equal(table.drop(columns="name"), FOUND.table)
    for labels in (pd.Series(GIVEN), GIVEN.tolist()):
        assert "name" not in find_label_errors(FEATURES, labels).table


def test_progress_is_shown_only_if_asked_for(monkeypatch, capsys):
    seen, bar = [], audit._bar
    monkeypatch.setattr(audit, "_bar", lambda items, what: seen.append(what) or bar(items, what))
    find_label_errors(FEATURES, GIVEN)
    assert not seen
    find_label_errors(FEATURES, GIVEN, progress=True)
    assert seen == ["settings", "corrections"]
    assert capsys.readouterr().err == "", "this is no terminal"


HOLED = FEATURES.copy()
HOLED[[4, 9], 1] = np.nan, np.inf
EVEN = np.full((180, CLASSES), 1 / CLASSES)
REFUSED = {
    "features must have a row for each of the 180 labels, got 179": {"features": FEATURES[1:]},
    "features must be finite, row 4 (the first of 2) has NaN or infinity": {"features": HOLED},
    "features must be a table [n, columns], got shape (180,)": {"features": FEATURES[:, 0]},
    "features must be a table [n, columns], got shape (180, 0)": {"features": FEATURES[:, :0]},
    "features must be real numbers, got the text '1.' in column 0": {
        "features": np.full((180, 2), "1.")
    },
    "features must be real numbers, got the text 'a' in column 0": {
        "features": np.full((180, 2), "a", object)
    },
    "features must be real numbers, got complex64": {"features": FEATURES.astype(np.complex64)},
    "features must be real numbers, got Timestamp in column 'day'": {
        "features": pd.DataFrame(FEATURES).assign(day=pd.Timestamp("2020"))
    },
    "features must be real numbers, got the text 'late' in column 'a'": {  # twice there
        "features": pd.DataFrame([[0, 0]] * 179 + [[0, "late"]], columns=["a", "a"])
    },
    "features must be finite, row 179 has NaN": {  # NA of pandas
        "features": pd.DataFrame({"a": pd.array([1] * 179 + [None], "Int64")}).assign(b=1.0)
    },
    "features must hold as many numbers in each row, got 1 in row 0 and 2 in row 1": {
        "features": pd.Series([[1.0], [1.0, 2.0]] * 90)
    },
    "features must be an array or a list, got list": {"features": [[1.0], [1.0, 2.0]]},
    "features must not hold masked entries": {"features": np.ma.masked_less(FEATURES, 0)},
    "features must be an array, a list of rows or a DataFrame, got a csr_matrix: call its .toa": {
        "features": scipy.sparse.csr_matrix(FEATURES)
    },
    "features must be an array, a list of rows or a DataFrame, got a dict": {"features": {"a": 1}},
    "features must be an array, a list of rows or a DataFrame, got a str": {"features": "e.npy"},
    "features must be finite, got whole numbers that no float32": {"features": [[10**400]] * 180},
    "features must be finite, row 0 (the first of 180)": {"features": FEATURES + np.full(8, 1e39)},
    "features must be given, or probabilities, got neither": {"features": None},
    "labels must be given, [n], got None": {"labels": None},
    "features must be real numbers, got the text 'red' in column 'colour'": {
        "features": pd.DataFrame(FEATURES).assign(colour="red")
    },
    "labels must hold two classes or more, got only 0": {"labels": np.zeros(180, int)},
    "labels must repeat, got 180 different ones in 180 rows": {"labels": np.arange(180)},
    "labels must not hold missing values, got None at": {"labels": [0, 1, 1, None] + [1] * 176},
    "labels must not hold missing values, got nan at": {"labels": [np.nan, "a"] * 90},
    "labels must not hold missing values, got the blank text ' ' at": {"labels": ["a", " "] * 90},
    "labels must be integers or text where they are beyond 16777216, got 16777220 as float32": {
        "labels": np.float32([2**24 + 4, 1] * 90)
    },
    "labels must not hold masked entries": {"labels": np.ma.masked_equal(GIVEN, 1)},
    "labels must be of one kind that can be sorted": {"labels": [1, "a"] * 90},
    "labels must be whole numbers or text, got 0.5": {"labels": np.arange(180) / 2},
    "labels must be whole numbers or text, got inf": {"labels": np.where(WRONG, np.inf, GIVEN)},
    "labels must be a list or an array [n], one label an entry, got shape (180, 3): of one-hot": {
        "labels": np.eye(CLASSES)[GIVEN]
    },
    "labels must be a list or an array [n], one label an entry, got shape (180, 1): take .ravel": {
        "labels": GIVEN[:, None]
    },
    "labels must have at least 20 rows, got 3": {"labels": [0, 1, 1], "features": FEATURES[:3]},
    "probabilities must sum to 1 in each row, got 1.5 in row 0": {"probabilities": EVEN * 1.5},
    "probabilities must be in [0, 1], got -": {"probabilities": EVEN - 0.5},
    "probabilities must have a column for each of the 3": {"probabilities": np.full((180, 2), 0.5)},
    "probabilities must have a column for each of the 3 classes of labels, got 1": {
        "probabilities": pd.DataFrame({"1": np.ones(180)})
    },
    "probabilities must have a row for each of the 180 labels": {"probabilities": EVEN[1:]},
    "probabilities must be finite, row 0": {"probabilities": EVEN * np.nan},
    "seed must be an integer >= 0, got 1.5": {"seed": 1.5},
    "seed must be >= 0, got -1": {"seed": -1},
    "neighbours must be in [1, 179], got 180": {"neighbours": 180},
    "in_doubt must be one of the known names, got 'no'": {"in_doubt": "no"},
}


@pytest.mark.parametrize("text", REFUSED)
def test_bad_input_gets_one_line_that_names_it(text):
    with pytest.raises(UserError) as caught:
        find_label_errors(**{"features": FEATURES, "labels": GIVEN} | REFUSED[text])
    assert str(caught.value).startswith(text)
    assert "\n" not in str(caught.value)
    assert caught.value.argument
