"""Tables over runs: means, spreads, paired gains, no mixing of columns or protocols. Figures."""

import csv
import json
import pathlib

import numpy as np
import pytest
from conftest import tiny

from rmdnet_jax import cli
from rmdnet_jax.app import arms, figures, report, tables
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.errors import UserError

OURS, BASE = np.array([0.80, 0.84, 0.79]), np.array([0.70, 0.71, 0.75])


def row(config, arm, accuracy, **more):
    """An arm's part of a summary, with the settings that `experiment` keeps of it."""
    accuracy = accuracy if isinstance(accuracy, dict) else {"last": accuracy}
    taught = {"relation_modeling": config.relation_modeling.to_dict()}
    settings = arms.settings(config, arm, taught)
    return {"test_accuracy": accuracy, "arm": arm.name, "settings": settings, **more}


def write(path, accuracies, own=None, **fields):
    """A finished run with these last accuracies: of its own arm, then of controls by name."""
    first, *controls = accuracies
    config = resolve(tiny(controls=tuple(controls), **fields))
    plan = arms.arms(config)
    assert plan[0].name == first
    assert [arm.name for arm in plan[1:]] == controls
    rows = {arm.name: row(config, arm, accuracies[arm.name]) for arm in plan}
    rows[first] |= own or {}
    path.mkdir()
    files = {
        "config": {**config.to_dict(), "given": {"config": "digits:quick"}},
        "summary": {"relation_guided": rows.pop(first), "controls": rows},
    }
    for name, content in files.items():
        (path / f"{name}.json").write_text(json.dumps(content))
    return str(path)


@pytest.fixture
def runs(tmp_path):
    """One run a seed, of the student and of the base method."""
    return [
        write(
            tmp_path / str(seed), {"rmdnet": {"last": ours, "best": 0.9}, "base": base}, seed=seed
        )
        for seed, (ours, base) in enumerate(zip(OURS, BASE))
    ]


def table(directories, column="last", best=False):
    """The lines of the table of these runs."""
    return tables.compare(tables.rows(directories, column, best), column)


def test_a_table_pairs_gains_by_seed(runs):
    rows = {row["arm"]: row for row in table(runs[::-1])}
    gain = 100 * (OURS - BASE)
    assert rows["ce"]["n"] == rows["ce + RMDNet"]["n"] == "3"
    assert rows["ce"]["last, %"] == f"{100 * BASE.mean():.1f} ± {100 * BASE.std(ddof=1):.1f}"
    assert (
        rows["ce + RMDNet"]["last, %"] == f"{100 * OURS.mean():.1f} ± {100 * OURS.std(ddof=1):.1f}"
    )
    assert (
        rows["ce + RMDNet"]["gain over base"]
        == f"{gain.mean():+.1f} ± {gain.std(ddof=1) / 3**0.5:.1f}"
    )
    assert rows["ce"]["gain over base"] == ""


def test_each_method_is_held_against_itself_alone(runs, tmp_path):
    more = [
        write(
            tmp_path / f"elr-{seed}",
            {"rmdnet": OURS[seed] - 0.2, "base": BASE[seed] - 0.3},
            seed=seed,
            teacher=runs[seed],
            method="elr",
        )
        for seed in range(3)
    ]
    rows = {row["arm"]: row for row in table([*runs, *more])}
    assert {row["settings"] for row in rows.values()} == {""}, (
        "a method's own hyper-parameters, all alike, are not settings"
    )
    for method, extra in (("ce", 0), ("elr", 10)):
        assert rows[f"{method} + RMDNet"]["gain over base"].startswith(
            f"{(100 * (OURS - BASE)).mean() + extra:+.1f} ±"
        )


def test_every_strength_is_held_against_the_one_base(runs, tmp_path):
    """K is nothing to the base method: runs that differ in K share theirs.

    Whether it ran beside them or by itself.
    """
    more = [
        write(
            tmp_path / f"weak-{seed}",
            {"rmdnet": BASE[seed] + 0.01},
            seed=seed,
            **{"relation_guided.weight": 1.0},
        )
        for seed in range(3)
    ]
    rows = table([*runs, *more])
    assert [row["n"] for row in rows if row["arm"] == "ce"] == ["3"]
    weak = next(row for row in rows if row["settings"] == "weight 1.0")
    assert weak["gain over base"] == "+1.0 ± 0.0"


def test_settings_are_in_the_order_of_their_numbers(tmp_path):
    strengths = (10.0, 0.3, 100.0, 3.0)
    runs = [
        write(tmp_path / f"{k:g}", {"rmdnet": 0.5}, **{"relation_guided.weight": k})
        for k in strengths
    ]
    assert [row["settings"] for row in table(runs)] == [f"weight {k}" for k in sorted(strengths)]


def test_a_setting_that_is_a_list_stays_whole(tmp_path):
    widths = {1: (16, 32, 64), 2: (32, 64, 128)}
    runs = [
        write(tmp_path / f"{i}", {"rmdnet": 0.5}, seed=0, **{"encoder.widths": value})
        for i, value in widths.items()
    ]
    assert [row["settings"] for row in table(runs)] == [
        "encoder.widths 16-32-64",
        "encoder.widths 32-64-128",
    ]


def test_settings_of_the_base_are_matched(runs, tmp_path):
    long = {"relation_guided.epochs": 7}
    more = [
        write(tmp_path / f"long-{s}", {"rmdnet": OURS[s], "base": OURS[s] - 0.05}, seed=s, **long)
        for s in range(3)
    ]
    rows = table([*runs, *more])
    gains = {row["settings"]: row["gain over base"] for row in rows if row["arm"] == "ce + RMDNet"}
    assert gains["epochs 7"] == "+5.0 ± 0.0"
    assert gains["epochs 2"].startswith(f"{(100 * (OURS - BASE)).mean():+.1f}")


def test_a_gain_over_other_settings_says_so(runs, tmp_path):
    long = {"relation_guided.epochs": 7}
    rows = table(
        [
            *runs,
            *(write(tmp_path / f"long-{s}", {"rmdnet": OURS[s]}, seed=s, **long) for s in range(3)),
        ]
    )
    same, other = sorted(
        (row["gain over base"] for row in rows if row["arm"] == "ce + RMDNet"), key=len
    )
    assert other == same + ", other settings"


def test_a_run_of_another_version_is_named(tmp_path):
    for name in ("config", "summary"):
        (tmp_path / f"{name}.json").write_text("{}")
    with pytest.raises(UserError, match=f"{tmp_path} has no 'noise.name'"):
        table([str(tmp_path)])


def test_settings_that_most_rows_share_are_said_once(runs, tmp_path):
    fields = (
        {"relation_guided.epochs": 7},
        {"relation_guided.weight": 3.0},
        {"relation_guided.edge.weight": 2.0},
    )
    more = [
        write(tmp_path / f"{s}-{i}", {"rmdnet": OURS[s]}, seed=s, **part)
        for i, part in enumerate(fields)
        for s in range(3)
    ]
    rows = table([*runs, *more])
    heading = next(name for name in rows[0] if name.startswith("settings"))
    assert set(heading.removeprefix("settings, else ").split(", ")) == {
        "epochs 2",
        "weight 30.0",
        "edge.weight 1.0",
    }
    assert sorted(row[heading] for row in rows) == [
        "",
        "",
        "edge.weight 2.0",
        "epochs 7",
        "weight 3.0",
    ]


def test_a_column_that_a_run_lacks_is_not_filled_from_another(runs):
    rows = table(runs, column="best")
    assert [row["arm"] for row in rows] == ["ce + RMDNet"], "only the student has that column"
    assert rows[0]["best, peeks at test, %"] == "90.0 ± 0.0"
    with pytest.raises(UserError, match=r"noisy_validation.* another column does not stand in"):
        table(runs, column="noisy_validation")


@pytest.mark.parametrize(
    ("field", "value"),
    [("data.limit", 9), ("data.name", "npz"), ("noise.inclusive", True), ("data.validation", 0.1)],
)
def test_protocols_are_not_mixed(field, value, runs, tmp_path):
    other = write(tmp_path / "other", {"rmdnet": 0.5}, **{field: value})
    with pytest.raises(UserError, match=f"one protocol .*{field} is .* {value} in {other}"):
        table([*runs, other])


def test_protocols_are_held_to_within_a_noise_kind_and_between(runs, tmp_path):
    pair = {"noise": "pair", "rate": 0.4}
    assert len(table([*runs, write(tmp_path / "pair", {"rmdnet": 0.5}, **pair)])) == 3, (
        "kinds without the field are no other protocol"
    )
    with pytest.raises(UserError, match=r"data\.limit"):
        table([*runs, write(tmp_path / "small", {"rmdnet": 0.5}, **pair, **{"data.limit": 9})])
    more = [
        write(tmp_path / f"{inclusive}", {"rmdnet": 0.5}, **{"noise.inclusive": inclusive})
        for inclusive in (False, True)
    ]
    with pytest.raises(UserError, match=r"noise\.inclusive is False .* True in"):
        table([str(tmp_path / "pair"), *more])


def test_noise_of_one_kind_and_rate_may_still_differ(runs, tmp_path):
    """Two maps of asymmetric noise, or two columns of a label file, are two noises."""
    maps = [
        write(
            tmp_path / mapping,
            {"rmdnet": 0.5},
            noise="asymmetric",
            **{"noise.mapping": mapping},
        )
        for mapping in ("next", "pair")
    ]
    files = [
        write(
            tmp_path / f,
            {"rmdnet": 0.5},
            noise="file",
            field=f,
            **{"noise.path": "n.npz"},
        )
        for f in ("aggre", "worse")
    ]
    assert {row["noise"] for row in table([*runs, *maps, *files])} == {
        "symmetric 0.5",
        "asymmetric 0.4 mapping next",
        "asymmetric 0.4 mapping pair",
        "file field aggre",
        "file field worse",
    }


def test_one_seed_has_one_accuracy(runs, tmp_path):
    """Two runs of a seed that differ in nothing the table shows, such as the teacher's path.

    With equal accuracies they are the same run, else they are refused.
    """
    again = write(tmp_path / "again", {"rmdnet": OURS[0]}, teacher="elsewhere")
    assert len(table([*runs, again])) == 2
    with pytest.raises(
        UserError, match=r"two runs of seed 0 are both .*ce \+ RMDNet, with 80.00 and 81.00 %"
    ):
        table([*runs, write(tmp_path / "other", {"rmdnet": 0.81}, teacher="elsewhere")])


def test_a_graph_in_doubt_is_counted(runs, tmp_path):
    for seed, used in enumerate((True, False)):
        runs.append(
            write(
                tmp_path / f"propagated-{seed}",
                {"rmdnet_propagation": 0.9},
                own={"propagation": {"used": used}},
                seed=seed,
                targets="propagated",
            )
        )
    assert {row["arm"]: row["n"] for row in table(runs)} == {
        "ce": "3",
        "ce + RMDNet": "3",
        "ce + RMDNet + corrected labels": "2, 1 in doubt",
    }


def test_each_teacher_has_its_own_row(tmp_path):
    for ssl, accuracy in (("simsiam", 0.9), ("byol", 0.8)):
        write(
            tmp_path / ssl,
            {"rmdnet": accuracy, "teacher_knn": accuracy - 0.1},
            ssl=ssl,
        )
    rows = tables.rows([str(tmp_path / ssl) for ssl in ("simsiam", "byol")])
    assert {row.values[0] for row in rows if row.arm == "teacher_knn"} == {80.0, 70.0}


def test_rows_are_told_apart_by_what_each_run_stored(tmp_path):
    """Not by its config: two teachers that were loaded look alike there, but for their places."""
    places = [write(tmp_path / f"{i}", {"rmdnet": 0.5 + i, "base": 0.4}) for i in range(2)]
    summary = json.loads((tmp_path / "1" / "summary.json").read_text())
    summary["relation_guided"]["settings"]["relation_modeling.epochs"] = 99
    (tmp_path / "1" / "summary.json").write_text(json.dumps(summary))
    found = {(row["arm"], row["settings"]): row["n"] for row in table(places)}
    assert found == {
        ("ce", ""): "1",
        ("ce + RMDNet", "relation_modeling.epochs 2"): "1",
        ("ce + RMDNet", "relation_modeling.epochs 99"): "1",
    }


def test_a_rate_of_a_graph_in_doubt_is_counted(tmp_path):
    told = {"method": "jocor", "relation_guided.method.rate": "graph"}
    places = [
        write(tmp_path / str(seed), {"rmdnet": 0.9}, own=rated(doubt), seed=seed, **told)
        for seed, doubt in enumerate((True, False, False))
    ]
    assert [row["n"] for row in table(places)] == ["3, 1 in doubt"]


def rated(doubt, error: float | None = -0.0125):
    ends = {"low": 0.25, "high": 0.5, "in_doubt": doubt}
    return {"noise_rate": {"used": 0.375, "source": "graph", **ends, "error": error}}


def test_a_run_says_the_noise_rate_that_was_used():
    summary = summary_of()
    summary["controls"]["base"] |= rated(False)
    summary["relation_guided"]["noise_rate"] = {"used": 0.0625, "source": "estimate", "error": None}
    assert report.table(summary).splitlines()[-2:] == [
        "noise rate of elr + RMDNet: 0.062 (estimate)",
        "noise rate of elr: 0.375 (graph, 0.250 to 0.500), off by -0.013",
    ]
    assert "0.250 to 0.500, in doubt)" in report.rate("elr", rated(True)["noise_rate"])


def test_a_run_says_what_it_could_not_measure_and_the_k_that_it_found():
    summary = summary_of()
    summary["controls"]["teacher_knn"]["test_accuracy"] = {"last": None}
    summary["relation_guided"] |= {"weight": 2.5, "graph": {"in_doubt": True}}
    assert report.table(summary).splitlines()[-2:] == [
        "–: the teacher gave no test_features: teacher kNN, given labels",
        "K of elr + RMDNet: 2.50 at the end, found by a graph in doubt",
    ]


@pytest.mark.parametrize("doubt", [False, True])
@pytest.mark.parametrize("targets", ["given", "propagated"])
def test_a_graph_tells_its_arms_what_they_asked_for(doubt, targets):
    told = {"method": "jocor", "relation_guided.method.rate": "graph", "targets": targets}
    numbers = {"noise_rate": 0.375, "noise_low": 0.25, "noise_high": 0.5, "changed": 0.3}
    about = {
        "neighbours": 5, "temperature": 0.05, "alpha": 0.9, "neighbour_agreement": 0.4,
        "chance_agreement": 0.1, "used": True, "in_doubt": doubt, "least_left": 1.0, **numbers,
    }  # fmt: skip
    text = report.graph(about, arms.arms(resolve(tiny(**told))))
    assert "0.375 of the given labels are wrong, 95 % interval 0.250 to 0.500" in text
    assert ("in doubt, used nevertheless: perhaps labels" in text) == doubt
    assert ("are changed" in text) == (targets == "propagated")
    alone = report.graph(about, arms.arms(resolve(tiny(targets="propagated"))))
    assert alone == report.propagated(about), "nobody asks for a rate"


@pytest.mark.parametrize("name", arms.NAMES)
def test_an_arm_stores_what_it_reads_and_nothing_else(name):
    """A field that an arm stores changes its row; one that it does not read cannot."""
    fields = {
        "rmdnet": {},
        "rmdnet_propagation": {"targets": "propagated"},
        "propagation": {"targets": "propagated", "weight": 0},
        "base": {"weight": 0},
        "base_from_teacher": {"weight": 0, "relation_guided.init": "teacher"},
    }
    config = resolve(tiny(controls=(name,), **fields.get(name, {})))
    arm = next(arm for arm in arms.arms(config) if arm.name == name)
    taught = {"relation_modeling": config.relation_modeling.to_dict()}
    stored = arms.settings(config, arm, taught)
    related, frozen = name.startswith("rmdnet"), name in arms.FROZEN
    reads = {
        "encoder.widths": True,
        "data.limit": True,
        "data.dir": False,  # it may move
        "relation_guided.epochs": not frozen,
        "relation_guided.method.name": not frozen,
        "relation_guided.weight": related,
        "relation_guided.edge.name": related,
        "relation_guided.edge.weight": related,
        "relation_guided.node.weight": related,
        "relation_guided.teacher_features": related,
        "relation_guided.propagation.alpha": name.endswith(("propagation", "rounds")),
        "relation_guided.rounds": name.endswith("rounds"),
        "relation_modeling.ssl.name": name != "base",
        "relation_modeling.epochs": name != "base",
        "knn.k": name == "teacher_knn",
    }
    assert {field: field in stored for field in reads} == reads
    assert not any("seed" in field or field.startswith("noise") for field in stored)
    assert stored == json.loads(json.dumps(stored)) | {
        key: value for key, value in stored.items() if isinstance(value, tuple)
    }, "plain values, which JSON keeps"


def test_an_arm_that_takes_its_rate_from_the_graph_stores_what_that_depends_on():
    told = {"method": "co_teaching", "relation_guided.method.rate": "graph", "weight": 0}
    config = resolve(tiny(**told, controls=("teacher_knn",)))
    base, frozen = arms.arms(config)
    assert base.reads_teacher
    stored = arms.settings(config, base, {"relation_modeling.epochs": 2})
    assert {"relation_modeling.epochs", "relation_guided.propagation.alpha"} <= stored.keys()
    assert not frozen.rated


def test_a_control_stores_what_it_would_as_an_experiment_of_its_own():
    """So a base method is one row, beside RMDNet and by itself."""
    plan = arms.arms(resolve(tiny(controls=("base", "propagation", "base_from_teacher"))))
    alone = {
        "base": {"weight": 0},
        "propagation": {"weight": 0, "targets": "propagated"},
        "base_from_teacher": {"weight": 0, "relation_guided.init": "teacher"},
    }
    config = resolve(tiny())
    for arm in plan[1:]:
        other = resolve(tiny(**alone[arm.name]))
        (own,) = arms.arms(other)
        assert own.name == arm.name
        assert arms.settings(config, arm, {}) == arms.settings(other, own, {})


def test_gains_of_corrected_labels_are_over_the_same_controls(runs, tmp_path):
    more = [
        write(
            tmp_path / f"both-{s}",
            {"rmdnet_propagation": BASE[s] + 0.1, "propagation": BASE[s] + 0.2},
            seed=s,
            targets="propagated",
        )
        for s in range(3)
    ]
    gains = {row["arm"]: row["gain over base"] for row in table([*runs, *more])}
    assert gains["ce + RMDNet + corrected labels"] == "+10.0 ± 0.0"
    assert gains["ce + corrected labels"] == "+20.0 ± 0.0"
    assert gains["ce"] == ""


def test_best_keeps_the_settings_of_the_highest_mean(runs, tmp_path):
    long = write(tmp_path / "long", {"rmdnet": 0.95}, **{"relation_guided.epochs": 7})
    assert len(table([*runs, long])) == 3
    rows = table([*runs, long], best=True)
    assert {row["arm"]: row["settings"] for row in rows}["ce + RMDNet"] == "epochs 7"
    assert len(rows) == 2


def test_markdown_and_csv_are_the_same_table(runs, tmp_path, capsys):
    assert cli.main(["report", "table", *runs, "--csv", str(tmp_path / "table.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    with open(tmp_path / "table.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in lines
        if not line.startswith("|---")
    ] == rows
    assert cli.main(["report", "table", *runs, "--csv", str(tmp_path / "no" / "table.csv")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{str(tmp_path / 'no' / 'table.csv')!r} cannot be written: " in line


def test_the_figure_of_a_table_is_written_where_it_is_asked_for(runs, tmp_path, capsys):
    place = tmp_path / "new" / "table.png"
    assert cli.main(["report", "table", *runs, "--figure", str(place)]) == 0
    capsys.readouterr()
    assert (tmp_path / "new" / "table.png").read_bytes()[:4] == b"\x89PNG"
    other = tmp_path / "table.csv"
    for path, message in (
        (tmp_path / "table.pdf", "must end in .png"),
        (tmp_path / "0" / "config.json" / "a.png", "cannot be written"),
        ("gs://bucket/a.png", "--figure must be a local path"),
        ("~nobodyknows/a.png", "--figure must be a path"),
    ):
        more = ["--figure", str(path), "--csv", str(other)]
        assert cli.main(["report", "table", *runs, *more]) == 2
        assert not other.exists()
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line


def test_a_table_is_drawn_with_every_seed(runs, tmp_path, monkeypatch):
    """One panel a noise; each row's dots are its seeds, and its mean is marked."""
    shown = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: shown.append(figure))
    other = write(tmp_path / "pair", {"rmdnet": 0.5}, noise="pair", rate=0.4)
    figures.scores(tables.rows([*runs, other]), "last", tmp_path / "table.png")
    pair, symmetric = shown[0].axes
    assert (pair.get_title(), symmetric.get_title()) == ("pair 0.4", "symmetric 0.5")
    assert [label.get_text() for label in pair.get_yticklabels()] == ["ce", "ce + RMDNet"]
    dots = {
        line.get_ydata()[0]: sorted(line.get_xdata())
        for line in symmetric.lines
        if len(line.get_xdata()) == 3
    }
    np.testing.assert_allclose([dots[0], dots[1]], 100 * np.sort([BASE, OURS]))
    assert [(*line.get_xdata(),) for line in pair.lines if len(line.get_xdata()) == 1] == [
        (50.0,)
    ] * 2


def summary_of(rate=0.5, knn=0.75, **values):
    """What `report.table` reads of a summary, of one experiment with two controls."""
    config = resolve(tiny(method="elr", controls=("base", "teacher_knn"), **values))
    plan = {arm.name: arm for arm in arms.arms(config)}
    accuracies = {
        "rmdnet": {"last": 0.8125, "last10": 0.8, "best": 0.9, "noisy_validation": None},
        "base": {"last": 0.5, "last10": 0.25, "best": 0.625, "noisy_validation": 0.375},
        "teacher_knn": {"last": 0.7},
    }
    rows = {name: row(config, plan[name], value) for name, value in accuracies.items()}
    return {
        "relation_modeling": {} if knn is None else {"knn_accuracy": knn},
        "relation_guided": rows.pop("rmdnet"),
        "controls": rows,
        "noise": {"rate": rate},
    }


def test_a_run_ends_with_one_line_an_arm():
    lines = report.table(summary_of()).splitlines()
    cells = [[cell for cell in line.split("  ") if cell.strip()] for line in lines]
    found = [[cell.strip() for cell in line] for line in cells]
    assert found == [
        ["test accuracy, %", *(v for k, v in tables.COLUMNS.items() if k != "validation")],
        ["elr + RMDNet", "81.25", "80.00", "90.00", "–"],
        ["elr", "50.00", "25.00", "62.50", "37.50"],
        ["teacher kNN, given labels", "70.00", "–", "–", "–"],
        ["teacher kNN with clean labels (an evaluation only): 75.00 %"],
    ]
    assert len({len(line) for line in lines[:4]}) == 1, "columns stand below each other"


def test_an_arm_is_called_by_all_that_its_method_is_trained_with():
    """Controls get consistency, too: a row that hid it would pass for the method alone."""
    summary = summary_of(**{"relation_guided.consistency.weight": 1.0})
    names = [line.split("  ")[0] for line in report.table(summary).splitlines()]
    trained, knn = ["elr + consistency + RMDNet", "elr + consistency"], "teacher kNN, given labels"
    assert names[1:4] == [*trained, knn]


def test_nothing_is_called_clean_that_nobody_knows_to_be():
    assert report.table(summary_of(rate=None)).splitlines()[-1] == (
        "teacher kNN with the labels as they are: 75.00 %"
    )
    assert "clean" not in report.table(summary_of(rate=None))
    assert "clean" in report.table(summary_of(rate=0.0)).splitlines()[-1], "no label is wrong"
    assert len(report.table(summary_of(knn=None)).splitlines()) == 4


def test_a_run_says_first_how_many_labels_are_wrong():
    from rmdnet_jax.data import sources
    from rmdnet_jax.labels import noise

    config = resolve(tiny(seed=3))
    clean = np.arange(40) % 4
    given = np.where(np.arange(40) < 10, (clean + 1) % 4, clean)
    images = np.zeros((40, 8, 8, 1), np.uint8)
    source = sources.arrays(images, clean, images[:5], clean[:5], None)
    for known, said in ((True, "0.2500 of the labels are wrong"), (False, "unknown rate")):
        about = noise.describe(clean, given, 4, known)
        data, kind, *_ = report.describe(config, source, about).splitlines()
        assert "40 training and 5 test images of 8x8x1, 4 classes" in data
        assert kind.startswith(f"noise  symmetric, seed 3: {said}")
        assert kind.endswith(noise.digest(given)[:16])


def test_a_directory_without_a_run_is_named(tmp_path):
    with pytest.raises(UserError, match="nothing"):
        table([str(tmp_path / "nothing")])


@pytest.mark.parametrize("content", [{}, [], 5, "text", {"noise": {}}, {"noise": 3, "seed": 0}])
def test_a_config_of_another_kind_is_one_line(content, runs, capsys):
    pathlib.Path(runs[1], "config.json").write_text(json.dumps(content))
    assert cli.main(["report", "table", *runs]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "not a run of this version" in line


def test_a_transition_matrix_is_drawn_for_few_and_many_classes(tmp_path):
    for classes in (3, 30):
        figures.transition(
            np.eye(classes), tuple(map(str, range(classes))), tmp_path / f"{classes}.png"
        )
        assert (tmp_path / f"{classes}.png").read_bytes()[:4] == b"\x89PNG"
    assert len(report.matrix(np.eye(3).tolist())) == 4
    assert report.matrix(np.eye(30).tolist()) == []


def test_relation_figures_need_features(tmp_path):
    figures.relations({}, np.arange(3), 0.1, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
    features = {"teacher": np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)}
    figures.relations(features, np.sort(np.arange(20) % 4), 0.1, tmp_path / "some.png")
    assert (tmp_path / "some.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.filterwarnings("ignore")  # TensorFlow's own
def test_tensorboard_is_written_when_asked_for(tmp_path):
    pytest.importorskip("tensorflow", reason="TensorBoard's files are written by TensorFlow")
    from rmdnet_jax.training.metrics import Writer

    Writer(tmp_path / "quiet").metrics.of("x")
    tmp_path.joinpath("loud").mkdir()
    writer = Writer(tmp_path / "loud", tensorboard=True)
    writer.write(
        "relation_guided",
        5,
        {"loss": 1.0},
        {"train_seconds": 1.0, "evaluate_seconds": 0.0, "images": 10},
    )
    assert list((tmp_path / "loud" / "tensorboard").rglob("events*"))
    assert writer.metrics.of("relation_guided") == [
        {"stage": "relation_guided", "step": 5, "loss": 1.0}
    ]
    assert writer.speed("relation_guided") == {"seconds": 1.0, "images_per_second": 10.0}
