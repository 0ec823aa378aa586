"""The command `rmdnet`: what it prints, what it calls, how it ends."""

import importlib.util
import subprocess
import sys
import types

import numpy as np
import pandas
import pytest
from conftest import ROOT

import rmdnet_jax
from rmdnet_jax import cli
from rmdnet_jax.errors import UserError


def call(monkeypatch, action):
    """Lets all commands call `action`; returns the modules that were asked for."""
    asked = []

    def load(name):
        asked.append(name)
        return types.SimpleNamespace(main=action)

    monkeypatch.setattr(cli.importlib, "import_module", load)
    return asked


@pytest.mark.parametrize("argv", [[], ["--help"], ["-h"]])
def test_help_is_one_screen_with_a_line_a_command(capsys, argv):
    assert cli.main(argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80
    for name in cli.COMMANDS:
        assert sum(line.startswith(f"  rmdnet {name} ") for line in lines) == 1


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"rmdnet {rmdnet_jax.__version__}\n"


def test_help_imports_nothing_heavy():
    code = "import sys; from rmdnet_jax import cli; cli.main([]); print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    loaded = set(run.stdout.splitlines()[-1].split())
    assert "rmdnet_jax.errors" in loaded
    assert not loaded & {"numpy", "jax", "pandas", "matplotlib", "ml_collections"}


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_has_its_module(name):
    assert importlib.util.find_spec(cli.COMMANDS[name][0])


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_is_called_with_the_rest(monkeypatch, name):
    given = []
    asked = call(monkeypatch, lambda argv: given.append(argv))
    assert cli.main([name, "--a", "b"]) == 0
    assert asked == [cli.COMMANDS[name][0]]
    assert given == [["rmdnet train", "--a", "b"] if name == "train" else ["--a", "b"]]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_each_command_refuses_an_unknown_flag_in_one_line_and_has_a_help(capsys, name):
    assert cli.main([name, "--nonsense"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("rmdnet")
    assert printed.err.count("\n") == 1
    assert cli.main([name, "--help"]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f"usage: rmdnet {name} ")
    assert printed.err == ""


def test_an_unknown_command_names_the_nearest(capsys):
    assert cli.main(["trian"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("rmdnet: the command must be one of the known names, got 'trian'")
    assert "did you mean train?" in printed.err


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (UserError("rate must be in [0, 1], got 2"), 2, "rmdnet: rate must be in [0, 1], got 2\n"),
        (KeyboardInterrupt(), 130, "rmdnet: interrupted\n"),
        (SystemExit(0), 0, ""),
        (None, 7, ""),
    ],
)
def test_how_a_command_ends(monkeypatch, capsys, error, status, words):
    def action(argv):
        if error:
            raise error
        return 7

    call(monkeypatch, action)
    assert cli.main(["report"]) == status
    assert capsys.readouterr().err == words


def test_a_reader_that_has_seen_enough_ends_it_quietly():
    code = "import sys; from rmdnet_jax import cli; sys.exit(cli.main(['doctor', '--help']))"
    run = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    run.stdout.close()
    errors = run.stderr.read()
    run.stderr.close()
    run.wait()
    assert b"Traceback" not in errors


FEATURES = np.arange(12, dtype=np.float32).reshape(6, 2)
LABELS = {"ints": [3, 1, 3, 1, 3, 1], "text": ["cat", "=1+1", "cat", "@dog", "-x", "+y"]}
SUSPECTS = [4, 1]


@pytest.fixture
def finder(monkeypatch):
    """Stands in for the audit itself: tells what it was given, and two suspects."""
    given = []

    def find_label_errors(features, labels):
        given.append((features, labels))
        table = pandas.DataFrame({"index": SUSPECTS, "given": np.asarray(labels)[SUSPECTS]})
        table["suggested"], table["probability"] = np.asarray(labels)[[0, 0]], [-0.25, 0.5]
        return types.SimpleNamespace(table=table, reason="in doubt: features tell nothing")

    module = types.ModuleType("rmdnet_jax.labels.audit")
    module.find_label_errors = find_label_errors
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return given


def run_audit(features, labels, out, *more):
    given = [f"--features={features}", f"--labels={labels}", f"--out={out}", *more]
    return cli.main(["audit", *given])


def write(folder, suffix, labels):
    """Writes features and labels; returns what names them on the command line."""
    np.save(folder / "e.npy", FEATURES)
    np.savez(folder / "e.npz", features=FEATURES, other=FEATURES[:1])
    np.savetxt(folder / "e.csv", FEATURES, delimiter=",", header="two numbers,\na row")
    rows = [",".join(map(str, row)) for row in FEATURES.tolist()]
    (folder / "headed_e.csv").write_text("\n".join(["a,b", *rows]))
    np.savez(folder / "y.npz", labels=labels, y=labels)
    np.save(folder / "y.npy", labels)
    text = [str(label) for label in labels]
    (folder / "y.csv").write_text("\n".join(text) + "\n")
    (folder / "headed.csv").write_text("\n".join(["class", *text]) + "\n")
    wide = [f"{i},{label}" for i, label in enumerate(text)]
    (folder / "wide.csv").write_text("\n".join(["id,class", *wide]) + "\n")
    return folder / "e.npy", folder / suffix


@pytest.mark.parametrize("kind", LABELS)
@pytest.mark.parametrize(
    "suffix",
    ["y.npy", "y.npz", "y.npz:y", "y.csv", "headed.csv", "headed.csv:class", "wide.csv:class"],
)
def test_audit_reads_labels_of_each_kind(tmp_path, finder, kind, suffix):
    features, labels = write(tmp_path, suffix, LABELS[kind])
    assert run_audit(features, labels, tmp_path / "out.csv") == 0
    np.testing.assert_array_equal(finder[0][0], FEATURES)
    assert finder[0][1].tolist() == LABELS[kind]


@pytest.mark.parametrize("features", ["e.npy", "e.npz", "e.npz:features", "e.csv", "headed_e.csv"])
def test_audit_writes_a_table_that_is_safe_to_open(tmp_path, finder, capsys, features):
    _, labels = write(tmp_path, "y.npy", LABELS["text"])
    out = tmp_path / "out.csv"
    assert run_audit(tmp_path / features, labels, out, "--top", "1") == 0
    np.testing.assert_array_equal(finder[0][0], FEATURES)
    table = pandas.read_csv(out)
    assert table["given"].tolist() == ["'-x", "'=1+1"]
    assert table["suggested"].tolist() == ["cat", "cat"]
    assert table["probability"].tolist() == [-0.25, 0.5], "a number stays a number"
    assert table["index"].tolist() == SUSPECTS
    printed = capsys.readouterr().out
    assert "'-x" in printed
    assert "=1+1" not in printed, "one row is shown"
    assert not list(tmp_path.glob("*.part*"))


def test_audit_replaces_a_table_only_when_told_to(tmp_path, finder, capsys):
    features, labels = write(tmp_path, "y.npy", LABELS["ints"])
    out = tmp_path / "out.csv"
    out.write_text("mine")
    assert run_audit(features, labels, out) == 2
    assert out.read_text() == "mine"
    assert not finder, "refused before the work"
    assert "--force replaces it" in capsys.readouterr().err
    for _ in range(2):
        assert run_audit(features, labels, out, "--force") == 0
    assert out.read_text().startswith("index,given")
    assert "in doubt: features tell nothing" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("features", "labels", "more", "words"),
    [
        ("none.npy", "y.npy", [], "--features '{}/none.npy' cannot be read"),
        ("e.txt", "y.npy", [], "--features must end in .npy, .npz or .csv"),
        ("e.npz:featurs", "y.npy", [], "--features's field must be one of the known names"),
        ("e.npy", "wide.csv", [], "--labels must be one a row, got shape (6, 2): name a column"),
        ("e.npy", "wide.csv:clas", [], "did you mean class?"),
        ("e.npy", "y.txt", [], "--labels must end in .npy, .npz or .csv"),
        ("e.npy", "ragged.csv:b", [], "--labels must have 2 columns in each row"),
        ("e.npy", "broken.npz", [], "--labels '{}/broken.npz' cannot be read"),
        ("e.npy", "y.npy", ["--top=-1"], "--top must be >= 0, got -1"),
        ("e.npy", "y.npy", ["--out={}/none/out.csv"], "--out: '{}/none/out.csv' cannot be written"),
    ],
)
def test_audit_errors(tmp_path, finder, capsys, features, labels, more, words):
    write(tmp_path, "y.npy", LABELS["ints"])
    (tmp_path / "ragged.csv").write_text("a,b\n1\n")
    (tmp_path / "broken.npz").write_bytes(b"PK")
    more = [text.format(tmp_path) for text in more]
    assert run_audit(tmp_path / features, tmp_path / labels, tmp_path / "out.csv", *more) == 2
    error = capsys.readouterr().err
    assert error.startswith("rmdnet: ")
    assert error.count("\n") == 1
    assert words.format(tmp_path) in error


def test_audit_of_digits_finds_wrong_labels(tmp_path, capsys):
    """End to end, pixels as features: of the 20 most suspect labels, most are the wrong ones."""
    from rmdnet_jax.data import sources

    source = sources.load("digits")
    wrong = np.arange(0, len(source.labels), 10)
    labels = source.labels.copy()
    labels[wrong] = (labels[wrong] + 1) % 10
    np.save(tmp_path / "e.npy", source.images.reshape(len(labels), -1).astype(np.float32))
    np.save(tmp_path / "y.npy", labels)
    assert run_audit(tmp_path / "e.npy", tmp_path / "y.npy", tmp_path / "out.csv") == 0
    top = pandas.read_csv(tmp_path / "out.csv")["index"][:20]
    assert np.isin(top, wrong).mean() > 0.8


@pytest.mark.parametrize("out", ["table.npy", "labels.csv"])
def test_an_audit_never_writes_over_its_inputs(out, tmp_path, capsys):
    np.save(tmp_path / "x.npy", np.zeros((20, 2)))
    (tmp_path / "labels.csv").write_text("a\n" * 20)
    words = ["--features", str(tmp_path / "x.npy"), "--labels", str(tmp_path / "labels.csv")]
    assert cli.main(["audit", *words, "--out", str(tmp_path / out), "--force"]) == 2
    assert "--out must be a .csv file beside the inputs" in capsys.readouterr().err
    assert (tmp_path / "labels.csv").read_text() == "a\n" * 20
