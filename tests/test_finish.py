"""What a run leaves at its end: figures of all classes, suspects, an audit, a word of warning."""

import json

import numpy as np
import pandas
import pytest
from conftest import tiny
from test_audit_command import audit, stand_in

from rmdnet_jax.app import experiment, figures, finish, report, tables
from rmdnet_jax.errors import UserError


@pytest.mark.parametrize("classes", [2, 10, 150, 900])
def test_the_figure_of_relations_shows_all_classes_that_it_can(classes):
    labels = np.random.default_rng(0).integers(0, classes, 5000)
    rows = finish.of_each_class(labels)
    assert len(rows) <= finish.DRAWN
    assert len({*rows.tolist()}) == len(rows)
    shown = labels[rows]
    assert np.all(np.diff(shown) >= 0), "sorted by class"
    if classes <= finish.DRAWN:
        counts = [np.sum(shown == c) for c in range(classes)]
        assert counts == [min(finish.DRAWN // classes, np.sum(labels == c)) for c in range(classes)]
    else:
        assert shown[-1] > 0.9 * classes, "of many classes some, from the first to the last"


def test_sorted_data_do_not_hide_classes():
    labels = np.repeat(np.arange(10), 500)
    assert {*labels[finish.of_each_class(labels)]} == {*range(10)}


def summary(own, **controls):
    """What `report.below` reads: accuracies on held-out given labels."""

    def row(arm, value):
        held = {} if value is None else {"validation_accuracy": value}
        settings = {"relation_guided.method.name": "ce"}
        return {"arm": arm, "settings": settings, "test_accuracy": {"last": None}, **held}

    rows = {arm: row(arm, value) for arm, value in controls.items()}
    return {"relation_guided": row("rmdnet", own), "controls": rows}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (summary(0.5, base=0.75), "ce + RMDNet has 50.0 % of 400 given labels, below its control "
         "ce with 75.0 %: prefer the control"),
        (summary(0.5, base=0.6, propagation=0.75), "ce + corrected labels with 75.0 %"),
        (summary(0.5, base=0.505), "which may be chance"),
        (summary(0.75, base=0.5), ""),
        (summary(0.5, base=0.5), ""),
        (summary(0.5), ""),
        (summary(None, teacher_knn=None), ""),
    ],
)  # fmt: skip
def test_a_student_below_its_control_is_said_in_one_line(content, words):
    said = report.below(content, 400)
    assert words in said
    assert "\n" not in said
    assert bool(said) == bool(words)


def test_held_out_labels_have_a_column_of_their_own():
    content = summary(0.5, base=0.75)
    assert "50.00" in report.table({**content, "noise": {"rate": None}, "relation_modeling": {}})
    row = content["relation_guided"]
    assert tables.accuracy(row, "validation") == 0.5
    assert tables.accuracy(row, "last") is None


@pytest.fixture
def finder(monkeypatch):
    return stand_in(monkeypatch, "labels.audit", "app.finish")


def test_a_run_ends_with_the_audit_that_the_command_makes(tmp_path, finder, capsys, monkeypatch):
    """The teacher's features, the given labels, and the student's losses."""
    monkeypatch.chdir(tmp_path)
    drawn = []
    monkeypatch.setattr(figures, "relations", lambda *given: drawn.append(given))
    values = {"data.validation": 0.25, "relation_guided.propagation.in_doubt": "use"}
    experiment.run(tiny(audit=True, controls=("base",), **values), "run")
    assert "open run/audit/report.html" in capsys.readouterr().out
    assert len({*drawn[0][1].tolist()}) == 10, "all classes are in the figure"
    assert audit("run --out again") == 0
    (features, labels, own), (again, same, told) = finder
    assert own["in_doubt"] == told["in_doubt"] == "use", "as the run does"
    np.testing.assert_allclose(features, again, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(labels, same)
    assert len(labels) == 256, "held-out labels are audited, too"
    one, two = (pandas.read_csv(f"{place}/suspects.csv") for place in ("run/audit", "again"))
    assert one["index"].tolist() == two["index"].tolist()
    np.testing.assert_allclose(one["loss"], two["loss"], rtol=1e-4)
    assert (one["loss"] > 0).all()
    rows = tables.rows(["run"], "validation")
    assert [row.arm for row in rows] == ["base", "rmdnet"]
    held = json.loads((tmp_path / "run" / "summary.json").read_text())
    expected = [100 * held["controls"]["base"]["validation_accuracy"],
                100 * held["relation_guided"]["validation_accuracy"]]  # fmt: skip
    np.testing.assert_allclose([row.values[0] for row in rows], expected)


def test_what_cannot_be_audited_is_said_before_the_run(tmp_path, finder, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run" / "audit").mkdir(parents=True)
    (tmp_path / "run" / "audit" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"audit must be a new folder, got .* holds other files"):
        experiment.run(tiny(audit=True), "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["audit"]
    experiment.run(tiny(weight=0.0), "base")
    assert audit("base") == 2
    assert "name one by --teacher" in capsys.readouterr().err
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["data"]["name"] = "arrays"
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    assert audit("base") == 2
    assert "had arrays in memory" in capsys.readouterr().err
    (tmp_path / "base" / "config.json").write_text("{")
    assert audit("base") == 2
    assert capsys.readouterr().err.count("\n") == 1
