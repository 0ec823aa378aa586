"""`rmdnet audit`: what it reads, what it writes, what it refuses."""

import dataclasses
import json
import os
import pathlib
import shlex
import signal
import time

import numpy as np
import pandas
import pytest
import scipy.sparse
from conftest import ROOT
from PIL import Image
from safetensors.numpy import save_file

from rmdnet_jax import cli
from rmdnet_jax.app import lock
from rmdnet_jax.app.audit import inputs, outputs
from rmdnet_jax.app.audit.command import parser
from rmdnet_jax.app.audit.words import told
from rmdnet_jax.app.schema import digits
from rmdnet_jax.errors import UserError
from rmdnet_jax.labels.files import FORMULA, read_table

SIZE, NEAR = 24, 10
FEATURES = np.random.default_rng(0).normal(size=(SIZE, 4)).astype(np.float32)
WORDS = np.array(["=1+1", "@dog", "bär", "zoo, 1"])
NUMBERS = np.arange(SIZE) % 4
LABELS = {
    "ints": (3 * NUMBERS + 1).tolist(),
    "text": WORDS[NUMBERS].tolist(),
    "padded": np.array(["01", "1", "010", "10"])[NUMBERS].tolist(),
}


@dataclasses.dataclass
class Found:
    """What the commands read of a `LabelErrors`."""

    table: pandas.DataFrame
    labels: np.ndarray
    targets: np.ndarray
    classes: np.ndarray
    noise_rate: float
    noise_interval: tuple
    transition: np.ndarray
    transition_error: np.ndarray
    quality: pandas.DataFrame
    neighbours: np.ndarray
    distances: np.ndarray
    in_doubt: bool = False
    reason: str = "About a quarter looks wrong."
    summary: dict = dataclasses.field(default_factory=lambda: {"folds": np.int64(5)})


def neighbours(features, k=NEAR):
    """By hand: the k most alike by cosine, itself not among them."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    far = 1 - unit.astype(np.float64) @ unit.T
    np.fill_diagonal(far, np.inf)
    near = np.argsort(far, axis=1, kind="stable")[:, :k]
    return near.astype(np.int32), np.take_along_axis(far, near, 1).astype(np.float32)


def found(features, labels):
    """An answer in which the examples 4 and 1 are suspect."""
    labels = np.asarray(labels)
    classes, n = np.unique(labels), len(labels)
    order = np.array([4, 1, *(i for i in range(n) if i not in (1, 4))])
    suggested = labels.copy()
    suggested[[4, 1]] = labels[[1, 4]]
    rank = np.arange(n)
    table = pandas.DataFrame({
        "index": order, "given": labels[order], "suggested": suggested[order],
        "probability": 0.25 + rank / (2 * n), "confidence": 0.75, "vote": 0.5, "target": 0.5,
        "probe": 0.5, "corrected_probe": 0.5, "margin": -0.25, "outlier": 0.125, "duplicate": -1,
        "decision": np.where(rank == 0, "change", np.where(rank == 1, "in doubt", "keep")),
    })  # fmt: skip
    corrected = labels.copy()
    corrected[4] = suggested[4]
    c = len(classes)
    quality = {"class": classes, "examples": n // c, "right": 0.75, "low": 0.5, "high": 0.875}
    return Found(
        table, corrected, np.full((n, c), 1 / c, np.float32), classes, 0.25, (0.125, 0.375),
        np.eye(c), np.full((c, c), 0.125), pandas.DataFrame(quality),
        *neighbours(np.ones((n, 2)) if features is None else np.asarray(features, float)),
    )  # fmt: skip


def stand_in(monkeypatch, *modules):
    """Stands in for the audit itself in these modules; the list of what it is given."""
    given = []

    def find_label_errors(features, labels, **options):
        given.append((features, labels, options))
        return found(features, labels)

    for module in modules:
        monkeypatch.setattr(f"rmdnet_jax.{module}.find_label_errors", find_label_errors)
    return given


@pytest.fixture
def finder(monkeypatch):
    return stand_in(monkeypatch, "labels.audit")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with features and labels in many forms, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    np.save("e.npy", FEATURES)
    np.savez("e.npz", features=FEATURES, other=FEATURES[:1])
    np.savetxt("e.csv", FEATURES, delimiter=",", header="two numbers,\na row")
    frame = pandas.DataFrame(FEATURES, columns=[*"abcd"])
    frame.to_csv("headed_e.csv", index=False)
    frame.to_parquet("e.parquet")
    pandas.DataFrame({"id": range(SIZE), "embedding": [*FEATURES]}).to_parquet("lists.parquet")
    return tmp_path


def audit(line):
    """Runs the command."""
    return cli.main(["audit", *shlex.split(line)])


def write(kind):
    """Writes labels in each form."""
    labels = LABELS[kind]
    np.save("y.npy", labels)
    np.savez("y.npz", labels=labels, y=labels)
    frame = pandas.DataFrame({"file": names(), "my label:1": labels, "note": "ö;x"})
    frame.to_csv("wide.csv", index=False)
    frame.to_csv("excel.csv", index=False, sep=";", encoding="utf-8-sig", lineterminator="\r\n")
    frame.to_csv("tabs.csv", index=False, sep="\t")
    frame.to_parquet("y.parquet")
    frame[["my label:1"]].to_csv("y.csv", index=False, header=False)
    frame[["my label:1"]].to_csv("headed.csv", index=False)


def names():
    return [f"tiere/bild {i}.png" for i in range(SIZE)]


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize(
    "labels",
    ["y.npy", "y.npz", "y.npz:y", "y.csv", "headed.csv", "'wide.csv:my label:1'",
     "'excel.csv:my label:1'", "'tabs.csv:my label:1'", "'y.parquet:my label:1'"],
)  # fmt: skip
def test_labels_come_in_each_form(place, finder, kind, labels):
    write(kind)
    assert audit(f"--features e.npy --labels {labels} --out out.csv") == 0
    np.testing.assert_array_equal(finder[0][0], FEATURES)
    assert finder[0][1].tolist() == LABELS[kind], "01 and 1 are two classes"


@pytest.mark.parametrize(
    "features",
    ["e.npy", "e.npz", "e.npz:features", "e.csv", "headed_e.csv", "e.parquet", "lists.parquet",
     "lists.parquet:embedding"],
)  # fmt: skip
def test_features_come_in_each_form(place, finder, features):
    write("ints")
    assert audit(f"--features {features} --labels y.npy --out out.csv") == 0
    np.testing.assert_allclose(finder[0][0], FEATURES, rtol=1e-6)


@pytest.mark.parametrize("labels", [*LABELS.values(), ["NA", "None"] * (SIZE // 2)])
def test_one_table_may_hold_all(place, finder, capsys, labels):
    """Names, counts and the label itself are no features."""
    frame = pandas.DataFrame(FEATURES, columns=[*"abcd"])
    frame.insert(0, "id", range(100, 100 + SIZE))
    frame.insert(1, "file", names())
    frame["class"] = labels
    frame.to_csv("all.csv", index=False)
    assert audit("--features all.csv --labels all.csv:class --out out.csv") == 0
    np.testing.assert_allclose(finder[0][0], FEATURES, rtol=1e-6)
    assert finder[0][1].tolist() == labels
    table = pandas.read_csv("out.csv")
    assert table["name"].tolist()[:2] == [names()[4], names()[1]]
    assert table["id"].tolist()[:2] == [104, 101]
    assert "a" not in table.columns
    assert "4 columns of all.csv, all but id, file, class" in capsys.readouterr().out


def test_the_index_of_a_frame_names_the_examples(place, finder, capsys):
    """As `to_csv` writes it, a column without a heading; where it only counts it is no name."""
    frame = pandas.DataFrame({"a": FEATURES[:, 0], "label": LABELS["ints"]}, index=names())
    frame.to_csv("y.csv")
    assert audit("--features y.csv --labels y.csv --out out.csv") == 0
    assert pandas.read_csv("out.csv")["name"].tolist()[:2] == [names()[4], names()[1]]
    assert "1 columns of y.csv, all but (unnamed), label" in capsys.readouterr().out
    frame.reset_index(drop=True).to_csv("y.csv")
    assert audit("--features y.csv --labels y.csv --out out.csv --force --in-doubt use") == 0
    assert "name" not in pandas.read_csv("out.csv")
    assert finder[1][2]["in_doubt"] == "use"


LABELLED = {  # how the labels are written beside features with headings that are numbers
    "npy": lambda y: np.save("y.npy", y),
    "csv": lambda y: pandas.Series(y, name="label").to_csv("y.csv", index=False),
    "bare csv": lambda y: pandas.Series(y).to_csv("y.csv", index=False, header=False),
    "unnamed csv": lambda y: pandas.Series(y).to_csv("y.csv", index=False),
    "indexed csv": lambda y: pandas.Series(y).to_csv("y.csv"),
    "parquet": lambda y: pandas.DataFrame({0: y}).to_parquet("y.parquet"),
}


@pytest.mark.parametrize("index", ["none", "counts", "twice", "names"])
@pytest.mark.parametrize("labels", LABELLED)
@pytest.mark.parametrize("kind", ["ints", "text"])
def test_headings_may_be_numbers(place, finder, capsys, index, labels, kind):
    """As `to_csv` and `to_parquet` write a table of features, with and without its index."""
    LABELLED[labels](LABELS[kind])
    frame = pandas.DataFrame(FEATURES, index=names() if index == "names" else None)
    frame.to_csv("x.csv", index=index != "none")
    if index == "twice":
        pandas.read_csv("x.csv").to_csv("x.csv")
    pandas.read_csv("x.csv").to_parquet("x.parquet")
    for file in ("x.csv", "x.parquet"):
        line = f"--features {file} --labels y.{labels.split()[-1]} --out out.csv --force"
        assert audit(line) == 0
        np.testing.assert_allclose(finder[-1][0], FEATURES, rtol=1e-6)
        assert finder[-1][1].tolist() == LABELS[kind]
        assert f"4 columns of {file} headed 0 to 3" in capsys.readouterr().out
        named = index == "names"
        assert pandas.read_csv("out.csv").get("name", [None])[0] == (names()[4] if named else None)


@pytest.mark.parametrize("labels", ["npy", "csv"])
@pytest.mark.parametrize("first", [[0, 1], [1], [1, 2, 3], [7, 3]])
def test_a_first_row_is_a_heading_where_the_labels_are_one_fewer(place, finder, labels, first):
    """Whole numbers below: only the number of labels tells."""
    rows = np.random.default_rng(0).integers(1, 9, (SIZE, len(first)))
    rows[0] = first
    LABELLED[labels](LABELS["text"])
    for heads in (False, [*map(str, first)]):
        pandas.DataFrame(rows).to_csv("x.csv", index=False, header=heads)
        assert audit(f"--features x.csv --labels y.{labels} --out out.csv --force") == 0
        np.testing.assert_array_equal(finder[-1][0], rows)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0,5;0,25\n1,5;2\n", [[0.5, 0.25], [1.5, 2]]),
        ("a;b\n0,5;0,25\n1,5;2\n", [[0.5, 0.25], [1.5, 2]]),
        ("a\tb\n-0,5\t1,5e1\n2\t3\n", [[-0.5, 15], [2, 3]]),
        ("a;b\n0.5;0.25\n", [[0.5, 0.25]]),
        ("0.5,,0.25\n1,2,3\n", [[0.5, np.nan, 0.25], [1, 2, 3]]),
        ("a,b\nNA,2\n1,2\n", [[np.nan, 2], [1, 2]]),
    ],
)
def test_decimals_may_have_a_comma_and_cells_be_missing(tmp_path, text, expected):
    (tmp_path / "x.csv").write_text(text)
    found = read_table(str(tmp_path / "x.csv"), numbers=True)
    np.testing.assert_allclose(found.to_numpy(), expected)


@pytest.mark.parametrize("index", [False, True])
@pytest.mark.parametrize("heads", [[0, 1, 2, 3], [10, 7, 4, 1], [1, 2, 3, 4]])
def test_probabilities_may_be_headed_by_numbers(place, finder, heads, index):
    """Columns that are called as the classes are follow them; others stay where they are."""
    write("ints")
    told = np.random.default_rng(1).dirichlet(np.ones(4), SIZE)
    pandas.DataFrame(told, columns=heads).to_csv("p.csv", index=index)
    expected = told[:, ::-1] if heads[0] == 10 else told
    for labels in ("y.npy", "headed.csv", "y.csv"):
        assert audit(f"--probabilities p.csv --labels {labels} --out out.csv --force") == 0
        np.testing.assert_allclose(finder[-1][2]["probabilities"], expected)
        assert finder[-1][1].tolist() == LABELS["ints"]


def test_probabilities_follow_their_headings(place, finder):
    write("text")
    told = np.random.default_rng(1).dirichlet(np.ones(4), SIZE)
    frame = pandas.DataFrame(told, columns=WORDS)
    frame[frame.columns[::-1]].to_csv("p.csv", index=False)
    assert audit("--probabilities p.csv --labels y.npy --out out.csv --seed 3") == 0
    features, _, options = finder[0]
    assert features is None
    assert options["seed"] == 3
    np.testing.assert_allclose(options["probabilities"], told[:, np.argsort(WORDS)])


@pytest.mark.parametrize("heads", ["p_{}", "proba: {}", "{} "])
def test_headings_may_be_the_classes_and_more(place, finder, heads):
    """The file also holds the labels and a column that counts the rows."""
    write("text")
    told = np.random.default_rng(1).dirichlet(np.ones(4), SIZE)
    frame = pandas.DataFrame(told, columns=[heads.format(word).upper() for word in WORDS])
    frame = frame[frame.columns[::-1]].assign(id=range(SIZE), label=LABELS["text"])
    frame.to_csv("p.csv", index=False)
    assert audit("--probabilities p.csv --labels p.csv:label --out out.csv") == 0
    np.testing.assert_allclose(finder[0][2]["probabilities"], told[:, np.argsort(WORDS)])


def test_numbers_beside_labels_that_are_numbers_are_probabilities(place, finder):
    write("ints")
    told = np.random.default_rng(1).dirichlet(np.ones(4), SIZE)
    pandas.DataFrame(told).assign(label=LABELS["ints"]).to_csv("p.csv", index=False)
    assert audit("--probabilities p.csv --labels p.csv --out out.csv") == 0
    np.testing.assert_allclose(finder[0][2]["probabilities"], told)


def test_missing_numbers_and_lists_in_a_parquet_are_named(place, capsys):
    write("ints")
    labels, rows = LABELS["ints"], np.load("e.npy")
    for embedding, words in (
        ([None, *rows[1:]], f"got None in row 0 and {rows.shape[1]} in row 1"),
        ([*rows[:-1], rows[-1, :-1]], f"in row 0 and {rows.shape[1] - 1} in row {SIZE - 1}"),
    ):
        pandas.DataFrame({"e": pandas.Series([*embedding]), "label": labels}).to_parquet(
            "t.parquet"
        )
        assert audit("--features t.parquet --labels t.parquet --out out") == 2
        error = capsys.readouterr().err
        assert "column 'e' must hold as many numbers in each row" in error
        assert words in error
    whole = pandas.array([1] * (SIZE - 1) + [None], "Int64")
    pandas.DataFrame(rows).add_prefix("c").assign(whole=whole, label=labels).to_parquet("t.parquet")
    assert audit("--features t.parquet --labels t.parquet --out out") == 2
    assert f"--features must be finite, row {SIZE - 1} has NaN" in capsys.readouterr().err


@pytest.mark.parametrize("features", ["e.npy", "t.parquet", "t.parquet:e"])
@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_label_is_no_class(place, capsys, features, missing):
    write("text")
    labels = [*LABELS["text"]]
    labels[2] = labels[5] = missing
    rows = {"e": list(np.load("e.npy")), "label": pandas.Series(labels, dtype=object)}
    pandas.DataFrame(rows).to_parquet("t.parquet")
    assert audit(f"--features {features} --labels t.parquet:label --out out") == 2
    assert "--labels must not hold missing values, got" in capsys.readouterr().err


def test_probabilities_may_be_a_column_of_lists(place, finder, capsys):
    write("ints")
    told = np.random.default_rng(1).dirichlet(np.ones(4), SIZE)
    pandas.DataFrame({"p": list(told), "label": LABELS["ints"]}).to_parquet("p.parquet")
    assert audit("--probabilities p.parquet --labels p.parquet --out out.csv") == 0
    np.testing.assert_allclose(finder[0][2]["probabilities"], told)
    pandas.DataFrame({"p": ["a"] * SIZE}).to_parquet("p.parquet")
    assert audit("--probabilities p.parquet --labels y.npy --out out.csv --force") == 2
    assert "--probabilities must hold columns of numbers, got p" in capsys.readouterr().err


def test_the_table_is_safe_to_open_and_keeps_the_users_columns(place, finder, capsys):
    write("text")
    frame = pandas.DataFrame({"file": names(), "label": LABELS["text"], "=note": "-x"})
    frame["degrees"], frame["index"] = "-3.5", "mine"
    frame.to_csv("labels.csv", index=False)
    assert audit("--features e.npy --labels labels.csv --out out.csv --top 1") == 0
    table = pandas.read_csv("out.csv")
    head = ["index", "name", "is_label_issue", "label_score", "given_label", "predicted_label"]
    assert [*table.columns[:6]] == head
    assert table["index"].tolist()[:2] == [4, 1]
    assert table["is_label_issue"].tolist() == [True] + [False] * (SIZE - 1), "not what is in doubt"
    assert table["given_label"].tolist()[:2] == ["'=1+1", "'@dog"]
    assert table["degrees"].tolist() == [-3.5] * SIZE, "a number stays a number"
    assert table["'=note"].tolist() == ["'-x"] * SIZE
    assert table["index (yours)"].tolist() == ["mine"] * SIZE
    cells = [cell for column in pandas.read_csv("out.csv", dtype=str) for cell in table[column]]
    assert not [c for c in cells if isinstance(c, str) and c.startswith(FORMULA)]
    printed = capsys.readouterr().out
    assert "tiere/bild 4.png" in printed
    assert "tiere/bild 1.png" not in printed, "one row is shown"
    assert "wrong     25%; between 12% and 38% of the labels (95 % interval)" in printed
    assert not list(place.glob("*.part*"))


def test_a_terminal_is_never_surer_than_the_page(place, finder, capsys, monkeypatch):
    write("ints")
    shares = {0.0: "<1%", 0.05: "5.0%", 0.5: "50%", 0.955: "95.5%", 0.999: ">99%"}
    monkeypatch.setattr("rmdnet_jax.labels.audit.find_label_errors", lambda *given, **options: (
        sure := found(FEATURES, LABELS["ints"]),
        sure.table.__setitem__("probability", np.resize([*shares], SIZE)),
    )[0])  # fmt: skip
    assert audit("--features e.npy --labels y.npy --out out.csv --top 5") == 0
    lines = capsys.readouterr().out.splitlines()
    head = next(i for i, line in enumerate(lines) if "given is right" in line)
    place = lines[head].index("given is right")
    assert [line[place:].split()[0] for line in lines[head + 1 : head + 6]] == [*shares.values()]


def test_a_folder_holds_all_that_one_may_want(place, finder):
    write("text")
    command = "--features e.npy --labels 'wide.csv:my label:1' --out deep/audit"
    assert audit(command) == 0
    out = place / "deep" / "audit"
    assert {path.name for path in out.iterdir()} == {
        "suspects.csv", "suspects.parquet", "corrected_labels.csv", "knn_graph.npz",
        "label_studio.json", "label_studio.xml", "report.html", "summary.json",
    }  # fmt: skip
    assert [path.name for path in out.parent.iterdir()] == ["audit"]
    suspects = pandas.read_parquet(out / "suspects.parquet")
    assert suspects["given_label"].tolist()[:2] == ["=1+1", "@dog"]
    assert len(pandas.read_csv(out / "suspects.csv")) == len(suspects) == SIZE
    corrected = pandas.read_csv(out / "corrected_labels.csv")
    assert [*corrected] == ["index", "name", "given", "label", "decision", "confidence"]
    assert corrected["index"].tolist() == [*range(SIZE)]
    assert corrected["name"].tolist() == names()
    assert corrected["decision"].tolist()[:5] == ["keep", "in doubt", "keep", "keep", "change"]
    changed = corrected["given"] != corrected["label"]
    assert np.flatnonzero(changed).tolist() == [4]
    summary = json.loads((out / "summary.json").read_text())
    assert summary["noise_rate"] == 0.25
    assert summary["noise_interval"] == [0.125, 0.375]
    assert summary["decisions"] == {"keep": SIZE - 2, "change": 1, "in doubt": 1}
    assert summary["command"] == ["rmdnet", "audit", *shlex.split(command)]
    assert summary["details"] == {"folds": 5}
    assert {"python", "jax"} <= summary["versions"].keys()


def test_the_graph_holds_the_distances_in_order(place, finder):
    write("ints")
    twins = FEATURES.copy()
    twins[1] = twins[0]
    np.save("e.npy", twins)
    assert audit("--features e.npy --labels y.npy --out out") == 0
    graph = scipy.sparse.load_npz("out/knn_graph.npz")
    near, far = neighbours(twins)
    assert graph.shape == (SIZE, SIZE)
    assert graph.nnz == SIZE * NEAR, "a distance of 0 stays"
    for i in range(SIZE):
        row = slice(graph.indptr[i], graph.indptr[i + 1])
        np.testing.assert_array_equal(graph.indices[row], near[i])
        np.testing.assert_allclose(graph.data[row], far[i], atol=1e-6)
        assert np.all(np.diff(graph.data[row]) >= 0)


@pytest.mark.filterwarnings("ignore")
def test_cleanlab_takes_the_graph(place, finder):
    """Datalab finds in it the outliers that it finds in the features themselves."""
    pytest.importorskip("datasets", reason="Datalab needs it: cleanlab[datalab]")
    datalab = pytest.importorskip("cleanlab").Datalab
    write("ints")
    assert audit("--features e.npy --labels y.npy --out out") == 0
    issues = []
    graph = scipy.sparse.load_npz("out/knn_graph.npz")
    for given in ({"knn_graph": graph}, {"features": FEATURES}):
        lab = datalab({"label": LABELS["ints"]}, label_name="label", verbosity=0)
        lab.find_issues(**given, issue_types={"outlier": {}, "near_duplicate": {}})
        issues.append(lab.get_issues()[["outlier_score", "near_duplicate_score"]].to_numpy())
    np.testing.assert_allclose(issues[0], issues[1], atol=1e-5)
    assert len(np.unique(issues[0])) > SIZE, "scores that say something"


def test_an_audit_is_replaced_only_when_told_to(place, finder, capsys):
    write("ints")
    command = "--features e.npy --labels y.npy --out out"
    assert audit(command) == 0
    (place / "out" / "mine.txt").write_text("a note")
    capsys.readouterr()
    assert audit(command) == 2
    assert "got an audit in 'out': --force replaces it" in capsys.readouterr().err
    assert (place / "out" / "mine.txt").exists()
    assert len(finder) == 1, "refused before the work"
    (place / "out" / "suspects.csv").write_text("old")
    assert audit(command + " --force") == 0
    assert (place / "out" / "mine.txt").read_text() == "a note", "what is not the audit's stays"
    assert (place / "out" / "suspects.csv").read_text() != "old"
    assert not [path.name for path in place.iterdir() if path.name.startswith(".")]


def test_a_run_is_no_audit_to_replace(place, finder, capsys):
    """A run has a summary and suspects, too."""
    write("ints")
    (place / "run").mkdir()
    for name in ("summary.json", "suspects.csv", "student.safetensors"):
        (place / "run" / name).write_text("a run's")
    assert audit("--features e.npy --labels y.npy --out run --force") == 2
    assert "which holds other files" in capsys.readouterr().err
    assert {path.read_text() for path in (place / "run").iterdir()} == {"a run's"}


def test_letters_that_no_file_can_hold_are_written_out(place, finder, capsys):
    """As file names of an old encoding have them: halves of pairs, which UTF-8 has not."""
    write("ints")
    np.save("y.npy", np.array(["a", "b\udce4"])[NUMBERS % 2])
    np.save("n.npy", [f"\udcfc{i}.png" for i in range(SIZE)])
    line = "--features e.npy --labels y.npy --names n.npy --texts n.npy --out out"
    assert audit(line) == 0
    assert "\\udcfc4.png" in capsys.readouterr().out
    table = pandas.read_csv("out/corrected_labels.csv")
    assert table["name"].tolist() == [f"\\udcfc{i}.png" for i in range(SIZE)]
    assert {*table["label"]} == {"a", "b\\udce4"}


def test_classes_that_look_alike_are_one_line(place, capsys):
    pandas.Series(np.array(["Cat", "cat"])[NUMBERS % 2]).to_csv("y.csv", index=False)
    assert audit("--features e.npy --labels y.csv --out out.csv") == 0
    printed = capsys.readouterr()
    note = "note      labels hold 'Cat' and 'cat': they are taken as classes apart\n"
    assert printed.out.count(note) == 1
    assert "Cat" not in printed.err


def tree(place):
    """All that a folder holds, with what files hold."""
    return {
        str(path.relative_to(place)): path.is_dir() or path.read_bytes()
        for path in place.rglob("*")
    }


def raising(error):
    def fail(*args, **options):
        raise error

    return fail


def ended(*args, **options):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(10)


@pytest.mark.parametrize("out", ["out", "new", "deep/new", "empty"])
@pytest.mark.parametrize(
    ("fail", "status"),
    [
        (raising(OSError(28, "No space left on device")), 2),
        (raising(KeyboardInterrupt()), 130),
        (ended, 128 + signal.SIGTERM),
    ],
)
def test_nothing_is_half_written(place, finder, monkeypatch, capsys, out, fail, status):
    write("ints")
    (place / "empty").mkdir()
    assert audit("--features e.npy --labels y.npy --out out") == 0
    before = tree(place)
    monkeypatch.setattr("scipy.sparse.save_npz", fail)
    line = f"--features e.npy --labels y.npy --out {out} --force --seed 1"
    assert audit(line) == status
    assert tree(place) == before
    words = f"'{out}/knn_graph.npz' cannot be written: No space left on device"
    assert (words in capsys.readouterr().err) == (status == 2)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_signal_does_not_stop_the_tidying(place, finder, monkeypatch):
    write("ints")
    before, remove = tree(place), outputs.shutil.rmtree

    def interrupted(*args, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
        remove(*args, **options)

    monkeypatch.setattr("scipy.sparse.save_npz", ended)
    monkeypatch.setattr(outputs.shutil, "rmtree", interrupted)
    assert audit("--features e.npy --labels y.npy --out out") == 128 + signal.SIGTERM
    assert tree(place) == before


@pytest.mark.parametrize("there", [False, True])
def test_what_a_killed_audit_has_left_is_deleted_and_what_lives_is_not(tmp_path, there):
    out = tmp_path / "audit"
    base = out if there else tmp_path
    for name in (".audit.part1", ".audit.part2", ".other.part3"):
        (base / name).mkdir(parents=True)
        (base / name / "suspects.csv").write_text("half")
    held = lock.hold(base / ".audit.part2")
    with outputs.folder(out) as part:
        (part / "suspects.csv").write_text("whole")
        assert lock.hold(part) < 0, "others leave it alone"
    os.close(held)
    assert (out / "suspects.csv").read_text() == "whole"
    left = {path.name for path in base.iterdir() if path.name.startswith(".")}
    assert left == {".audit.part2", ".other.part3"}


@pytest.mark.parametrize("failing", range(1, 6))
def test_an_audit_is_replaced_as_a_whole(tmp_path, monkeypatch, failing):
    """Two files are moved away, and three are moved in: where one cannot be, all stay."""
    out, moves, replace = tmp_path / "out", [], pathlib.Path.replace
    out.mkdir()
    for name in "abc":
        (out / name).write_text("old")
    before = tree(tmp_path)

    def write_new():
        with outputs.folder(out) as place:
            for name in "bcd":
                (place / name).write_text("new")

    def moved(self, target):
        moves.append(target)
        if len(moves) == failing:
            raise OSError(5, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(pathlib.Path, "replace", moved)
    with pytest.raises(UserError, match="out' cannot be written: Input/output error"):
        write_new()
    assert tree(tmp_path) == before
    write_new()
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "a": "old", "b": "new", "c": "new", "d": "new",
    }  # fmt: skip


@pytest.mark.parametrize("out", [".", "link", "dangling", "../elsewhere/there/"])
def test_an_audit_goes_where_a_path_leads(place, finder, monkeypatch, out):
    write("ints")
    home = place / "elsewhere"
    home.mkdir()
    monkeypatch.chdir(home)
    (home / "there").mkdir()
    (home / "link").symlink_to("there")
    (home / "dangling").symlink_to("later")
    if out == ".":
        monkeypatch.chdir(home / "there")
    line = f"--features {place}/e.npy --labels {place}/y.npy --out {out}"
    assert audit(line) == 0
    assert audit(line) == 2
    assert audit(f"{line} --force") == 0
    where = home / ("later" if out == "dangling" else "there")
    assert len([*where.iterdir()]) == 8
    assert (home / "link").is_symlink()
    assert (home / "dangling").is_symlink()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--features none.npy --labels y.npy --out a", "--features 'none.npy' cannot be read"),
        ("runs/nope", "of images, got 'runs/nope', which is not there"),
        ("--features e.npy --labels objects.npy --out a", "save text by .astype('U'), or write"),
        ("--features e.txt --labels y.npy --out a", "--features must end in .npy, .npz, .csv or"),
        ("--features e.npz:featurs --labels y.npy --out a", "did you mean features?"),
        ("--features words.csv --labels y.npy --out a", "--features must hold columns of numbers"),
        ("--features empty.csv --labels y.npy --out a", "hold a row or more, got the empty file"),
        ("--features head.csv --labels y.npy --out a", "--features must hold a row or more, got"),
        ("--features e.npy --labels head.csv:b --out a", "must hold a row or more, got none in 'h"),
        ("--features two.npz --labels y.npy --out a", "--features must name one of the arrays in"),
        ("--features wide_e.csv --labels y.npy --out a", "--features must have 2 columns in each"),
        ("--features e.npy --labels wide.csv --out a", "--labels must name a column, as in"),
        ("--features e.npy --labels wide.csv:lab --out a", "--labels's column must be one of"),
        ("--features e.npy --labels e.npy --out a", "--labels must be one a row, got shape"),
        ("--features e.npy --labels wide.csv:mylabel --out a", "did you mean my label:1? known"),
        (
            "--features e.npy --labels both.csv:colum --out a",
            "did you mean column? known: label, c",
        ),
        ("--features e.npy --labels headed.csv:lab --out a", "got 'lab': known: my label:1"),
        ("--features e.npy --labels y.csv:lab --out a", "--labels's column must be one of"),
        ("--features e.npy --labels y.npz:lab --out a", "--labels's field must be one of"),
        ("--features e.npy --labels empty.csv --out a", "hold a row or more, got the empty file"),
        ("--features e.npy --labels twice.csv:label --out a", "have one column 'label', got 2"),
        ("--features e.npy --labels ragged.csv:b --out a", "--labels must have 2 columns in each"),
        ("--features e.npy --labels latin.csv:b --out a", "it is not UTF-8 text: save it as"),
        ("--features utf16.csv --labels y.npy --out a", "it is not UTF-8 text: save it as"),
        ("--features bare16.csv --labels y.npy --out a", "it is not UTF-8 text: save it as"),
        ("--features e.npy --labels broken.npz --out a", "--labels 'broken.npz' cannot be read"),
        ("--features e.npy --labels ids.csv --out a", "column 'id' must hold each name once"),
        ("--features named.csv --labels other.csv --out a", "--labels must be in the order of"),
        ("--features e.npy --labels y.npy --names few.csv --out a", "--names must have one for"),
        ("--features e.npy --labels y.npy --names ids.csv --out a", "--names must name a column"),
        ("--features e.npy --labels y.npy --names ids.csv:id --out a", "--names must hold each"),
        ("--features e.npy --labels y.npy --images none --out a", "--images must be a folder"),
        ("--features e.npy --labels y.npy --top=-1 --out a", "--top must be >= 0, got -1"),
        ("--features e.npy --labels y.npy", "--out must be given"),
        ("--features e.npy --labels y.npy --out y.npy", "--out must be a folder or a .csv file"),
        ("--features e.npy --labels y.npy --out .", "--out must not hold the inputs"),
        ("--features e.npy --labels y.npy --out full --force", "which holds other files"),
        ("--features e.npy --labels y.npy --out file", "got the file 'file'"),
        ("--features e.npy --labels y.npy --out filelink", "got the file 'filelink'"),
        ("--features e.npy --labels y.npy --out folder.csv", "got the folder 'folder.csv'"),
        ("--features e.npy --labels y.npy --out file/a", "'file/a' cannot be written"),
        (
            "--features e.npy --labels y.npy --out no/a.csv",
            "--out must be in a folder that is there, got 'no",
        ),
        ("--features e.npy --labels wide.csv:note --out wide.csv", "be a file beside the inputs"),
        ("--features e.npy --labels y.npy --out few.csv", "be a new file, got 'few.csv'"),
        ("--labels y.npy --out a", "name --features or --probabilities, and --labels"),
        ("--features e.npy --out a", "name --features or --probabilities, and --labels"),
        ("--features e.npy --labels y.npy --teacher x --out a", "--teacher must come with a fold"),
        ("none --out a", "must be a run's workdir or a folder of images, got 'none'"),
        ("full --out a", "--features FILE of any model, or --teacher"),
        ("full --labels y.npy --out a", "--labels must be left out beside 'full'"),
        ("full --teacher none --out a", "must be a folder that holds train/<class>/"),
        ("full --features e.npy --out a", "must be a folder that holds train/<class>/"),
    ],
)
def test_bad_files_are_one_line(place, finder, capsys, line, words):
    write("ints")
    (place / "ragged.csv").write_text("a,b\n1\n")
    (place / "twice.csv").write_text("label,label\n1,2\n")
    (place / "latin.csv").write_bytes("a,b\n1,ä\n".encode("latin-1"))
    (place / "utf16.csv").write_bytes("a,b\n1,2\n".encode("utf-16"))
    (place / "bare16.csv").write_bytes("a,b\n1,2\n".encode("utf-16-le"))
    (place / "head.csv").write_text("a,b\n")
    (place / "wide_e.csv").write_text("a,b\n0,5,0,7\n")
    (place / "both.csv").write_text("label,column\n1,2\n")
    np.savez("two.npz", a=FEATURES, b=FEATURES)
    (place / "broken.npz").write_bytes(b"PK")
    (place / "empty.csv").write_text("")
    np.save("objects.npy", np.array(LABELS["text"], object))
    (place / "file").write_text("mine")
    (place / "filelink").symlink_to("file")
    (place / "folder.csv").mkdir()
    (place / "full").mkdir()
    (place / "full" / "mine.txt").write_text("mine")
    (place / "few.csv").write_text("names\na\nb\n")
    pandas.DataFrame({"word": names()}).to_csv("words.csv", index=False)
    pandas.DataFrame({"id": "a", "label": LABELS["ints"]}).to_csv("ids.csv", index=False)
    named = pandas.DataFrame({"file": names(), "a": 1.0, "label": LABELS["ints"]})
    named.to_csv("named.csv", index=False)
    named[::-1].to_csv("other.csv", index=False)
    assert audit(line) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("rmdnet: ")
    assert printed.err.count("\n") == 1
    assert words in printed.err
    assert not finder, "refused before the work"
    assert not (place / "a").exists()


def of_labels(labels):
    np.save("y.npy", labels)
    return "--features e.npy"


def of_features(row):
    np.save("y.npy", LABELS["ints"])
    features = FEATURES.copy()
    features[7] = row
    np.save("bad.npy", features)
    return "--features bad.npy"


def of_probabilities(table):
    np.save("y.npy", LABELS["ints"])
    np.save("p.npy", table)
    return "--features e.npy --probabilities p.npy"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: of_labels(LABELS["ints"][:-1]), "--features must have a row for each of the 23"),
        (lambda: of_labels(["a"] * SIZE), "--labels must hold two classes or more, got only a"),
        (lambda: of_labels([*range(SIZE)]), "--labels must repeat, got 24 different ones"),
        (lambda: of_labels(["a", ""] * 12), "--labels must not hold missing values, got an empty"),
        (lambda: of_labels([1.0, np.nan] * 12), "--labels must not hold missing values, got nan"),
        (lambda: of_labels([1.5, 2.0] * 12), "--labels must be whole numbers or text, got 1.5"),
        (lambda: of_features(np.nan), "--features must be finite, row 7 has NaN"),
        (lambda: of_features(np.inf), "--features must be finite, row 7 has NaN"),
        (lambda: of_probabilities(np.ones((SIZE, 4))), "--probabilities must sum to 1"),
        (lambda: of_probabilities(np.ones((SIZE, 3)) / 3), "--probabilities must have a column"),
        (lambda: of_probabilities(np.ones((3, 4)) / 4), "--probabilities must have a row for each"),
    ],
)
@pytest.mark.parametrize("out", ["a.csv", "a"])
def test_bad_values_are_one_line_that_names_the_flag(place, capsys, make, words, out):
    """Of the real `find_label_errors`; nothing is left."""
    line = make()
    assert audit(f"{line} --labels y.npy --out {out}") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert words in error
    assert not (place / out).exists()
    assert not [path.name for path in place.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("content", ["[]", "{}", "5", "{", '{"data": 3}', "[" * 9999], ids=range(6))
def test_a_run_whose_config_is_of_another_kind_is_one_line(place, capsys, content):
    (place / "run").mkdir()
    (place / "run" / "config.json").write_text(content)
    assert audit("run") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("rmdnet: run/config.json cannot be read")


@pytest.mark.parametrize("section", ["data", "encoder", "noise", "relation_guided"])
@pytest.mark.parametrize("content", [[], {}, 3])
def test_a_section_of_another_kind_is_one_line(place, capsys, section, content):
    tree = json.loads(digits().to_json_best_effort()) | {section: content}
    (place / "run" / "teacher").mkdir(parents=True)
    (place / "run" / "config.json").write_text(json.dumps(tree))
    assert audit("run") == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("about", [{"encoder": '"x"'}, {"encoder": "{}", "image_shape": "[]"}])
def test_a_teacher_file_of_another_kind_is_one_line(place, capsys, about):
    save_file({"x": np.zeros(1)}, "t.safetensors", about)
    (place / "photos").mkdir()
    assert audit("photos --teacher t.safetensors --out out") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--teacher must hold a saved student, got 't.safetensors'" in line


def test_a_folder_of_images_needs_features_of_any_model(place, finder):
    from PIL import Image

    for i in range(SIZE):
        (place / "photos" / f"<b>{NUMBERS[i]}").mkdir(parents=True, exist_ok=True)
        image = np.full((9, 12, 3), i, np.uint8)
        Image.fromarray(image).save(place / "photos" / f"<b>{NUMBERS[i]}" / f"{i:02d}.png")
    assert audit("photos --features e.npy --out out --size 8") == 0
    files = sorted(f"<b>{NUMBERS[i]}/{i:02d}.png" for i in range(SIZE))
    corrected = pandas.read_csv("out/corrected_labels.csv")
    assert corrected["name"].tolist() == files
    assert corrected["given"].tolist() == [file.split("/")[0] for file in files]
    assert "data:image/webp" in (place / "out" / "report.html").read_text()
    task = json.loads((place / "out" / "label_studio.json").read_text())[0]
    assert files[4].split("/")[1] in task["data"]["image"]


def test_in_doubt_no_share_of_wrong_labels_is_told():
    doubtful = dataclasses.replace(found(FEATURES, NUMBERS), in_doubt=True)
    lines = told(doubtful, inputs.Inputs(NUMBERS, FEATURES), top=0).splitlines()
    assert "wrong     unknown; between 12% and 38% of the labels (95 % interval)" in lines


def test_a_small_share_of_wrong_labels_is_not_rounded_to_none():
    few = dataclasses.replace(
        found(FEATURES, NUMBERS), noise_rate=0.004, noise_interval=(0.0, 0.012)
    )
    lines = told(few, inputs.Inputs(NUMBERS, FEATURES), top=0).splitlines()
    assert "wrong     0.4%; between 0% and 1.2% of the labels (95 % interval)" in lines


def test_the_guide_begins_with_what_runs_in_an_empty_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "docs" / "guides" / "label-errors.md").read_text()
    code, after, *_ = guide.split("```python\n")[1].split("```\n")
    exec(code, {})
    (line,) = [x for x in after.splitlines()[:4] if x.startswith("    rmdnet audit ")]
    assert audit(line.removeprefix("    rmdnet audit ")) == 0
    assert "1,797 in 10 classes" in capsys.readouterr().out
    assert (tmp_path / "audit" / "report.html").exists()


def test_an_audit_of_digits_finds_wrong_labels(place, capsys):
    """End to end, pixels as features: of the 20 most suspect labels, most are the wrong ones."""
    from rmdnet_jax.data import sources

    source = sources.load("digits")
    wrong = np.arange(0, len(source.labels), 10)
    labels = source.labels.copy()
    labels[wrong] = (labels[wrong] + 1) % 10
    np.save("e.npy", source.images.reshape(len(labels), -1).astype(np.float32))
    np.save("y.npy", labels)
    assert audit("--features e.npy --labels y.npy --out out.csv") == 0
    top = pandas.read_csv("out.csv")["index"][:20]
    assert np.isin(top, wrong).mean() > 0.8


def test_a_table_may_name_pictures_from_the_home_on(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "home" / "0.png")
    table = "file,label\n" + "~/0.png,a\n" + "".join(f"{i}.png,b\n" for i in range(1, 20))
    (tmp_path / "y.csv").write_text(table)
    np.save(tmp_path / "x.npy", np.zeros((20, 2)))
    words = ["--features", f"{tmp_path}/x.npy", "--labels", f"{tmp_path}/y.csv:label"]
    pictures = inputs.of_files(parser().parse_args(words)).images
    assert pictures is not None
    np.testing.assert_array_equal(pictures(0), pixels)
