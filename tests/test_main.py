"""The command as a user types it: mistakes are one line and exit status 2, before anything is written."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from conftest import ROOT
from PIL import Image

from rmdnet_jax import main


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Runs the command in this process: (arguments) -> (exit status, lines on standard error)."""
    monkeypatch.chdir(ROOT)

    def run(*arguments, config="configs/digits.py:quick", workdir=None):
        known = [name for name in flags.FLAGS if name.startswith("config.")]
        for name in known:
            delattr(flags.FLAGS, name)
        flags.FLAGS.unparse_flags()
        argv = [
            "rmdnet_jax",
            "--config",
            config,
            "--workdir",
            str(workdir or tmp_path / "run"),
            *arguments,
        ]
        monkeypatch.setattr(sys, "argv", argv)  # ml_collections looks for overrides there
        status = main.main(argv)
        return status, capsys.readouterr().err.splitlines()

    return run


def folder(root, *, empty=False, broken=False):
    for label in ("cat", "dog"):
        (root / "train" / label).mkdir(parents=True)
        for i in range(0 if empty and label == "dog" else 3):
            Image.fromarray(np.full((9, 9, 3), 40 * i, np.uint8)).save(
                root / "train" / label / f"{i}.png"
            )
    if broken:
        (root / "train" / "cat" / "1.png").write_bytes(b"no image")
    return root


MISTAKES = {
    "unknown data set": (
        ["--config.data.name=cifar1"],
        "data.name must be one of the known names, got 'cifar1': did you mean cifar10",
    ),
    "rate": (["--config.noise.rate=1.4"], "noise.rate must be in [0, 1], got 1.4"),
    "unknown field": (["--config.noise.rat=0.4"], "unknown field 'rat'. Did you mean \"rate\""),
    "wrong type": (["--config.relation_guided.epochs=many"], "many"),
    "unknown flag": (["--wrkdir=x"], "wrkdir"),
    "stray argument": (["quickly"], "unknown argument 'quickly'"),
    "batch above data": (
        ["--config.relation_guided.batch_size=4096"],
        "relation_guided.batch_size must be in [2, 1442]",
    ),
    "batch and devices": (
        ["--config.relation_guided.batch_size=100"],
        "must be divisible by the 8 devices, got 100",
    ),
    "temperature": (
        ["--config.relation_guided.edge.student_temperature=0.0"],
        "temperature must be > 0",
    ),
    "learning rate": (
        ["--config.relation_guided.optimizer.learning_rate=0.0"],
        "optimizer.learning_rate must be > 0",
    ),
    "kind without field": (
        ["--config.noise.name=none"],
        "noise.none's field must be one of the known names, got",
    ),
    "unknown method": (["--config.relation_guided.method.name=elrr"], "did you mean elr"),
    "method without its fields": (
        ["--config.relation_guided.method.name=dividemix"],
        "needs alpha, confidence_penalty",
    ),
    "no teacher": (["--config.teacher=/nowhere"], "teacher must be the workdir of an earlier run"),
    "edge": (
        ["--config.relation_guided.edge.name=rkd"],
        "relation_guided.edge.name must be one of the known names, got 'rkd'",
    ),
}


@pytest.mark.parametrize(("arguments", "said"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_are_one_line_before_any_work(arguments, said, command, tmp_path):
    status, lines = command(*arguments)
    assert status == 2
    assert len(lines) == 1, lines
    assert said in lines[0]
    assert not (tmp_path / "run").exists()


def test_mistakes_in_files_are_one_line(command, tmp_path):
    cases = [
        (
            "configs/image_folder.py",
            [f"--config.data.dir={folder(tmp_path / 'e', empty=True)}"],
            "dog",
        ),
        (
            "configs/image_folder.py",
            [f"--config.data.dir={folder(tmp_path / 'b', broken=True)}"],
            "1.png",
        ),
        ("configs/image_folder.py", [f"--config.data.dir={tmp_path / 'absent'}"], "absent"),
        ("configs/image_folder.py:kind=npz,dir=absent.npz", [], "absent.npz"),
    ]
    for config, arguments, said in cases:
        status, lines = command(*arguments, config=config)
        assert (status, len(lines)) == (2, 1), lines
        assert said in lines[0]


def test_human_labels_of_the_wrong_length_are_refused(command, tmp_path):
    np.save(tmp_path / "short.npy", np.zeros(10, np.int64))
    config = tmp_path / "human.py"
    config.write_text(
        "from rmdnet_jax.app.config import *\nfrom rmdnet_jax.app.config import KINDS\ndef get_config(arg=''):\n    config = quick(default())\n"
        f"    with config.unlocked():\n        config.noise = choose(KINDS, 'file', path={str(tmp_path / 'short.npy')!r})\n"
        "        config.noise.seed = 0\n    return config\n"
    )
    status, lines = command(config=str(config))
    assert (status, len(lines)) == (2, 1), lines
    assert "noise.path must hold 1442 labels, one for each training example, got 10" in lines[0]


def test_workdirs_that_cannot_serve_are_refused(command, tmp_path):
    (tmp_path / "file").write_text("something of the user's")
    status, lines = command(workdir=tmp_path / "file")
    assert (status, len(lines)) == (2, 1)
    assert "--workdir must be a directory, got the file" in lines[0]
    assert (tmp_path / "file").read_text() == "something of the user's"
    status, lines = command(workdir="/proc/nowhere/run")
    assert (status, len(lines)) == (2, 1)
    assert "cannot be written" in lines[0]


def test_a_workdir_of_another_config_is_refused_with_the_differing_fields(command, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    from conftest import tiny

    (run / "config.json").write_text(json.dumps({**json.loads(tiny().to_json()), "seed": 5}))
    before = (run / "config.json").read_text()
    status, lines = command()
    assert (status, len(lines)) == (2, 1)
    assert "seed is 5 there, 0 here" in lines[0]
    assert "encoder.widths" in lines[0]
    assert "noise.rate" not in lines[0]
    assert (run / "config.json").read_text() == before


def test_an_absent_config_file_and_a_broken_one_are_one_line(command, tmp_path):
    for config in ("configs/absent.py", "configs/digits.py:rtae=0.2"):
        status, lines = command(config=config)
        assert (status, len(lines)) == (2, 1), lines


def test_help_says_what_can_be_given(capsys):
    assert main.main(["rmdnet_jax", "--help"]) == 0
    said = capsys.readouterr().out
    assert all(flag in said for flag in ("--config", "--workdir", "--[no]multihost"))


def test_flags_are_required(capsys):
    flags.FLAGS.unparse_flags()
    for name in ("config", "workdir"):
        flags.FLAGS[name].value = None
    assert main.main(["rmdnet_jax"]) == 2
    assert "--config and --workdir are required" in capsys.readouterr().err


def test_the_status_reaches_the_shell(tmp_path):
    flags = ["--config", "configs/digits.py", "--config.noise.rate=1.4", "--workdir", str(tmp_path)]
    command = [sys.executable, "-m", "rmdnet_jax.main", *flags]
    run = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.splitlines() == ["rmdnet_jax: noise.rate must be in [0, 1], got 1.4"]
    assert list(tmp_path.iterdir()) == []
