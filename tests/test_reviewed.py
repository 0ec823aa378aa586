"""Labels that somebody has reviewed replace the given ones, and correction leaves them alone."""

import json
import types

import numpy as np
import pandas
import pytest
from conftest import tiny
from sklearn.datasets import load_digits

import rmdnet_jax as rmd
from rmdnet_jax import sharding
from rmdnet_jax.app import correct, experiment
from rmdnet_jax.app.audit import outputs, page
from rmdnet_jax.app.reviewed import review
from rmdnet_jax.data.store import Source
from rmdnet_jax.errors import UserError
from rmdnet_jax.labels import noise

FILES = ("train/cat/1.png", "train/cat/2 ü.png", "train/dog/1.png", "train/dog/=3.png")
GIVEN = np.array([0, 0, 1, 1], np.int32)


def source(files=FILES, names=("cat", "dog", "=owl")):
    images = np.zeros((4, 2, 2, 1), np.uint8)
    return Source("folder", images, GIVEN, images[:0], GIVEN[:0], names, files)


def write(path, text, encoding="utf-8"):
    path.write_text(text, encoding=encoding)
    return str(path)


@pytest.mark.parametrize(
    ("text", "expected", "certain"),
    [
        ("index,label\n0,dog\n3,dog\n", [1, 0, 1, 1], [0, 3]),
        ("index,name,given,label,mark\n9,train/cat/1.png,cat,dog,wrong\n", [1, 0, 1, 1], [0]),
        ("file,label\ncat/1.png,'=owl\n2 ü.png,dog\n", [2, 1, 1, 1], [0, 1]),
        ("file;label\n'=3.png;cat\n", [0, 0, 1, 0], [3]),
        ("file,label\ncat\\1.png,dog\n", [1, 0, 1, 1], [0]),
        ("index,name,label\n1,,=owl\n", [0, 2, 1, 1], [1]),
        ("index,label\n0,1\n3,2\n", [1, 0, 1, 2], [0, 3]),
        ("index,label\n0,\n1,dog\n", [0, 1, 1, 1], [1]),
        ("index,label\n0.0,dog\n", [1, 0, 1, 1], [0]),
        ("index,name,given,label,decision,confidence\n2,,dog,cat,change,1\n", [0, 0, 0, 1], []),
        ("id,label\ncat/1.png,dog\n", [1, 0, 1, 1], [0]),
        ("index,id,label\n1,mine,dog\n", [0, 1, 1, 1], [1]),
        ("index,given,label\n0,0,1\n1,,1\n", [1, 1, 1, 1], [0, 1]),
        (
            "index,given_label,predicted_label,decision\n0,cat,dog,change\n1,cat,dog,keep\n",
            [1, 0, 1, 1],
            [],
        ),
    ],
)
def test_labels_replace_those_of_the_examples_named(tmp_path, text, expected, certain):
    found = review(write(tmp_path / "reviewed.csv", text, "utf-8-sig"), source(), GIVEN)
    assert found.given.tolist() == expected
    assert np.flatnonzero(found.certain).tolist() == certain
    changed = sum(a != b for a, b in zip(expected, GIVEN.tolist()))
    assert f"labels {changed} of 4 changed by reviewed.csv" in found.said
    assert ("none is certain" in found.said) == (not certain)
    assert ("1 rows without a label" in found.said) == ("0,\n" in text or "keep" in text)
    assert GIVEN.tolist() == [0, 0, 1, 1], "what was given stays"


def test_parquet_keeps_whole_numbers_and_text(tmp_path):
    for cat in ("cat", 0):  # beside a missing one 0 is 0.0
        frame = pandas.DataFrame({"index": [3, 1], "label": [cat, None]})
        frame.to_parquet(tmp_path / "reviewed.parquet")
        found = review(str(tmp_path / "reviewed.parquet"), source(), GIVEN)
        assert found.given.tolist() == [0, 0, 1, 0]
        assert np.flatnonzero(found.certain).tolist() == [3]


@pytest.mark.parametrize(
    ("names", "text", "expected"),
    [
        (("0", "1", "2"), "index,label\n0,1\n3,2\n", [1, 0, 1, 2]),
        (("1", "2", "3"), "index,label\n0,1\n3,3\n", [0, 0, 1, 2]),
        (("1", "2", "3"), "index,label\n0,0\n", [0, 0, 1, 1]),
        (("10", "20", "30"), "index,label\n0,2\n2,0\n", [2, 0, 0, 1]),
        (("10", "20", "30"), "index,given,label\n0,10,30\n", [2, 0, 1, 1]),
        (("2", "1", "0"), "index,given_label,label\n2,1,0\n", [0, 0, 2, 1]),
        (("cat", "dog", "owl"), "index,label\n0,2.0\n1,\n", [2, 0, 1, 1]),
        (("1.0", "2.0", "3.0"), "index,label\n0,2.0\n", [1, 0, 1, 1]),
        (("1", "2", "3"), "index,label\n0,1\n1,0\n", "got '1', which is a name as well, and '0'"),
        (("1", "2", "3"), "index,given,label\n0,1,0\n", "got '1', which is a name as well, and"),
        (("10", "20", "30"), "index,label\n0,20\n1,2\n", "the label must be one of the known na"),
    ],
)
def test_names_that_are_numbers_are_names(tmp_path, names, text, expected):
    path = write(tmp_path / "r.csv", text)
    if isinstance(expected, str):
        with pytest.raises(UserError) as error:
            review(path, source(names=names), GIVEN)
        assert expected in str(error.value)
        return
    found = review(path, source(names=names), GIVEN)
    assert found.given.tolist() == expected
    cells = {cell for line in text.split()[1:] for cell in line.split(",")[1:]}
    twofold = cells <= {*names} and any(c != names[int(c)] for c in cells if c in ("0", "1", "2"))
    assert ("not their numbers" in found.said) == twofold


def test_without_a_file_nothing_changes():
    found = review("", source(), GIVEN)
    assert found.given is GIVEN
    assert not found.certain.any()
    assert found.said == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold a row or more, got the empty file"),
        ("index,label\n", "must hold a row or more, got none"),
        ("index,label,label\n0,cat,dog\n", "must have one column 'label', got 2"),
        ("index,index,label\n0,1,dog\n", "must have one column 'index', got 2"),
        ("index,class\n0,cat\n", "needs a column `label`; it has index, class"),
        (",label\n0,dog\n", "needs a column `index` or `file`; it has (unnamed), label"),
        ("given,label\ncat,dog\n", "needs a column `index` or `file`; it has given, label"),
        ("index,given,label\n0,cat,dog\n1,dog,dog\n2,cat,cat\n", "where 2 of 3 rows have another"),
        ("index,given_label,label\n3,cat,dog\n", "another 'given_label': another order, seed or"),
        ("index,given,label\n0,cow,dog\n", "the given must be one of the known names, got 'cow'"),
        ("index,label\n0,cat\n4,dog\n", "must have an index in [0, 4) in each row, got '4'"),
        ("index,label\n-1,cat\n", "must have an index in [0, 4) in each row, got '-1'"),
        ("index,label\n0.5,cat\n", "must have an index in [0, 4) in each row, got '0.5'"),
        ("index,label\n,cat\n", "must have an index in [0, 4) in each row, got ''"),
        ("index,label\n1,cat\n1,dog\n", "must name each example once, got 'train/cat/2 ü.png' tw"),
        ("file,label\ncat/1.png,cat\ntrain/cat/1.png,dog\n", "must name each example once"),
        (
            "file,label\ncat/9.png,cat\n",
            "must name one of the run's 4 files, got 'cat/9.png'; near: tr",
        ),
        ("file,label\n1.png,cat\n", "must tell files apart by their class folder, got '1.png'"),
        ("file,label\n,cat\n", "must name the example in each row, got an empty name"),
        ("index,label\n0,cow\n", "the label must be one of the known names, got 'cow'"),
        ("index,label\n0,3\n", "the label must be one of the known names, got '3'"),
        ("index,label\n0,1\n1,cat\n", "the label must be one of the known names, got '1'"),
        ("index,label\n0\n", "must have 2 columns in each row"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path, text, words):
    with pytest.raises(UserError, match=r"^labels") as error:
        review(write(tmp_path / "r.csv", text), source(), GIVEN)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_of_many_names_an_error_lists_few(tmp_path):
    many, images = tuple(f"train/cat/{i:04d}.png" for i in range(2000)), np.zeros((2000, 2, 2, 1))
    names, given = tuple(f"class {i}" for i in range(40)), np.zeros(2000, np.int32)
    data = Source("folder", images, given, images[:0], given[:0], names, many)
    for text, told in (
        ("file,label\ncat/1.jpg,\n", "2,000 files"),
        ("file,label\n0001.png,x\n", "30 more"),
    ):
        with pytest.raises(UserError, match=told) as error:
            review(write(tmp_path / "r.csv", text), data, given)
        assert len(str(error.value)) < 300


def test_files_that_cannot_be_are_one_line(tmp_path):
    for name, words in (("none.csv", "cannot be read"), ("x.txt", "must be a .csv or .parquet")):
        with pytest.raises(UserError, match=rf"^labels.*{words}"):
            review(str(tmp_path / name), source(), GIVEN)
    path = write(tmp_path / "r.csv", "file,label\n1.png,cat\n")
    with pytest.raises(UserError, match="must name examples of folder by an index, got 'file'"):
        review(path, source(files=()), GIVEN)


def test_several_files_of_which_later_ones_hold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "corrected_labels.csv", "index,label,decision\n0,dog,change\n3,cat,change\n")
    write(tmp_path / "reviewed.csv", "index,given,label\n3,cat,dog\n2,dog,cat\n")
    found = review("corrected_labels.csv+reviewed.csv", source(), GIVEN)
    assert found.given.tolist() == [1, 0, 0, 1]
    assert np.flatnonzero(found.certain).tolist() == [2, 3]
    assert found.unreviewed.tolist() == [1, 0, 1, 0], "nobody has reviewed the corrected ones"
    assert len(found.said.splitlines()) == 2
    write(tmp_path / "a.csv+b.csv", "index,label\n3,cat\n")
    assert review("a.csv+b.csv", source(), GIVEN).given.tolist() == [0, 0, 1, 0], "one file's name"


def test_a_class_that_only_reviewed_labels_have_is_judged_with_them(tmp_path):
    path = write(tmp_path / "r.csv", "index,label\n0,=owl\n3,cat\n")
    found = review(path, source(), GIVEN)
    assert found.given.tolist() == [2, 0, 1, 0]
    assert found.unreviewed.tolist() == [2, 0, 1, 1]


def digits_run(place, given, reviewed, clean):
    """What correction reads of a run on digits, some of whose labels are reviewed."""
    certain = np.isin(np.arange(len(clean)), reviewed)
    settings = {"neighbours": "auto", "temperature": "auto", "alpha": "auto"}
    options = types.SimpleNamespace(to_dict=lambda: settings)
    stage = types.SimpleNamespace(propagation=options)
    place.mkdir()
    return types.SimpleNamespace(
        workdir=place,
        mesh=sharding.mesh(),
        config=types.SimpleNamespace(seed=0, relation_guided=stage),
        given=np.where(certain, clean, given),
        unreviewed=given,
        certain=certain,
        classes=10,
        train=np.arange(len(clean)),
        known=True,
        source=types.SimpleNamespace(labels=clean, files=()),
    )


def test_a_review_never_makes_correction_worse(tmp_path):
    """Of 898 digits with half of the labels wrong, the 400 most suspect are reviewed."""
    features, clean = load_digits(return_X_y=True)
    features, clean = features[::2], clean[::2].astype(np.int32)
    given = np.asarray(rmd.noise.symmetric(clean, rate=0.5)).astype(np.int32)
    found = rmd.find_label_errors(features, given)
    suspect = found.table["index"].to_numpy()[:400]
    runs = [digits_run(tmp_path / f"{len(rows)}", given, rows, clean) for rows in ([], suspect)]
    before, after = (correct.corrected(made, features) for made in runs)
    assert after.summary["right"] >= before.summary["right"] > np.mean(given == clean)
    assert (after.targets.argmax(1) == clean)[suspect].all()
    assert (after.targets[suspect].max(1) == 1).all()
    assert after.summary["sha256"] == noise.digest(after.targets.argmax(1))
    assert after.summary["certain"] == 400
    again = correct.corrected(runs[1], features)
    np.testing.assert_array_equal(again.targets, after.targets)
    assert again.summary == after.summary


def test_an_audit_keeps_what_was_reviewed():
    """Reviewed labels are right, come last, and are no twin of another label."""
    features = np.random.default_rng(0).normal(size=(90, 3)) + 4 * np.repeat(np.eye(3), 30, axis=0)
    labels = np.repeat(["cat", "dog", "owl"], 30)
    labels[[3, 40]] = "owl", "cat"
    features[4] = features[3]
    found = rmd.find_label_errors(features, labels)
    twin = found.table.set_index("index")["duplicate"]
    assert twin[3] == 4
    kept = outputs.keep_reviewed(found, {3: "cat", 40: "cat"})
    table = kept.table.set_index("index")
    assert table["given"][[3, 40]].tolist() == ["cat", "cat"]
    assert (table.loc[[3, 40], ["probability", "confidence"]] == 1).all(axis=None)
    assert table["decision"][[3, 40]].tolist() == ["reviewed", "reviewed"]
    assert table["duplicate"][[3, 4]].tolist() == [-1, -1]
    witnesses = ["vote", "target", "probe", "corrected_probe", "margin"]
    assert table.loc[3, witnesses].isna().all(), "they spoke of another label"
    before = found.table.set_index("index")[witnesses]
    pandas.testing.assert_frame_equal(table[witnesses].drop(3), before.loc[table.index].drop(3))
    row = kept.table.index[kept.table["index"] == 3][0]
    assert row not in page.suspects(kept)
    assert {*kept.table["index"][-2:]} == {3, 40}
    assert kept.labels[[3, 40]].tolist() == ["cat", "cat"]
    assert kept.targets[[3, 40]].tolist() == [[1, 0, 0], [1, 0, 0]]
    others = [i for i in found.table["index"] if i not in (3, 40)]
    assert kept.table["index"].tolist()[:-2] == others, "the others keep their order"
    assert outputs.keep_reviewed(found, {}) is found


def corrected(value):
    return {"targets": "propagated", "in_doubt": "use", "weight": 0.0, "labels": value}


def test_a_run_takes_reviewed_labels_and_says_so(tmp_path, capsys):
    """Each reviewed label is trained on as it stands; the file's content is the run's identity."""
    path = tmp_path / "reviewed.csv"
    frame = pandas.DataFrame({"index": [5, 7, 11], "label": [0, 1, 2]})
    frame.to_csv(path, index=False)
    experiment.run(tiny(**corrected(str(path))), tmp_path / "run")
    assert "changed by reviewed.csv; 3 are certain" in capsys.readouterr().out
    suspects = pandas.read_csv(tmp_path / "run" / "suspects.csv")
    assert len(suspects) > 10
    assert not {5, 7, 11} & {*suspects["index"]}
    assert (suspects["given_label"] != suspects["predicted_label"]).all()
    about = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert about["relation_guided"]["propagation"]["certain"] == 3
    again = tiny(**corrected(str(tmp_path / "run" / "suspects.csv")))
    experiment.run(again, tmp_path / "again")
    assert f"labels {len(suspects)} of 256 changed by suspects.csv" in capsys.readouterr().out
    frame.assign(decision="change").to_csv(path, index=False)
    with pytest.raises(UserError, match=r"whose data differs \(certain is"):
        experiment.run(tiny(**corrected(str(path))), tmp_path / "run")


def test_from_python_by_the_file_of_a_run_or_a_report(tmp_path, capsys):
    """Classes are named as the user names them."""
    generator = np.random.default_rng(0)
    images = generator.random((64, 8, 8))
    labels = np.array([10, 20])[generator.integers(0, 2, 64)]
    path = write(tmp_path / "r.csv", "index,label\n0,20\n1,10\n")
    values = {"noise": "none", "controls": (), "weight": 0.0, "relation_guided.batch_size": 32}
    run = rmd.train("digits:quick", tmp_path / "run", images=images, labels=labels,
                    reviewed=path, overrides=values)  # fmt: skip
    changed = int(labels[0] != 20) + int(labels[1] != 10)
    assert f"labels {changed} of 64 changed by r.csv; 2 are certain" in capsys.readouterr().out
    assert run.summary["noise"]["transition"] is None, "no identity where nobody knows"
    assert "clean" not in json.dumps(run.summary)
    with pytest.raises(UserError, match="overrides must not set 'labels' beside reviewed="):
        rmd.train("digits:quick", tmp_path / "b", reviewed=path, overrides={"labels": path})
    with pytest.raises(UserError, match="reviewed must be a path, got 3"):
        rmd.train("digits:quick", tmp_path / "b", reviewed=3)
    write(tmp_path / "r.csv", "index,label\n0,30\n")
    with pytest.raises(UserError, match=r"^data.labels: the label must be .* got '30'"):
        rmd.train("digits:quick", tmp_path / "b", images=images, labels=labels, reviewed=path,
                  overrides=values)  # fmt: skip
    assert not (tmp_path / "b").exists()
