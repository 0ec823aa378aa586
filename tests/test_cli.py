"""The command `rmdnet`: what it prints, what it calls, how it ends."""

import importlib.util
import subprocess
import sys
import types

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
