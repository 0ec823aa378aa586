"""What can be said without a GPU: the kit that measures one, and the switch for the same bits."""

import copy
import json
import os
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, tiny

from benchmarks.gpu import flags, students, teacher
from benchmarks.gpu.merge import merged, table
from rmdnet_jax.app import exact
from rmdnet_jax.app.load import get_config
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.app.setup import setup
from rmdnet_jax.errors import UserError
from rmdnet_jax.networks import weights
from rmdnet_jax.types import Variables

KIT = ROOT / "benchmarks" / "gpu"


def part(*rows, device="H100", git="a"):
    return {"part": "steps", "environment": {"device": device, "git": git}, "rows": [*rows]}


def test_parts_are_merged_row_by_row():
    old = {"case": "ce", "batch": 512, "ms": 7.0}
    kept, new = {**old, "batch": 128}, {**old, "ms": 6.0}
    assert merged([part(old, kept)], [part(new)]) == [part(kept, new)]
    for other in ({"device": "H200"}, {"git": "b"}):
        assert merged([part(old)], [part(new, **other)]) == [part(old), part(new, **other)]


def test_the_table_has_a_row_of_each_time():
    seconds = {"median": 0.004, "low": 0.003, "high": 0.005, "n": 7}
    beside = {"ms": 50.0, "low": 40.0, "high": 60.0, "n": 3, "images": 10_000}
    step = {"case": "ce", "batch": 512, "ms": 8.0, "low": 7.0, "high": 9.0, "n": 20.0}
    bits = {"case": "ce: bits", "batch": 512, "again": True}
    rows = step | {"knn": beside}, bits, {"case": "ce", "batch": 512, "ours": {"seconds": seconds}}
    lines = table([part(*rows)]).splitlines()[2:]
    assert [line.split(" | ", 2)[2] for line in lines] == [
        "ce | 512 | 8.00 (7.00 to 9.00; 20) | 64,000 |",
        "knn | 10,000 | 50.00 (40.00 to 60.00; 3) | 200,000 |",
        "ce, ours | 512 | 4.00 (3.00 to 5.00; 7) | 128,000 |",
    ]


def test_merging_what_is_there_changes_nothing():
    known = json.loads((ROOT / "docs" / "gpu.json").read_text())
    assert merged(copy.deepcopy(known), copy.deepcopy(known)) == known


def test_every_part_of_the_recipe_is_rehearsed():
    told = set(re.findall(r"-m benchmarks\.gpu\.(\w+)", (KIT / "README.md").read_text()))
    rehearsed = set(re.findall(r"^part (\w+)", (KIT / "rehearse.sh").read_text(), re.MULTILINE))
    scripts = {path.stem for path in KIT.glob("*.py")} - {"__init__", "record"}
    assert told == rehearsed == scripts


@pytest.mark.parametrize("noise", students.NOISES)
def test_students_learn_from_cifars_noise(noise):
    values = {"data.name": "npz", "dir": "none.npz", **students.NOISES[noise], "path": "none.npz"}
    if noise != "worse":
        del values["path"]
    config = resolve(get_config("cifar10_speedrun", values))
    assert config.noise.get("mapping", "cifar10") == "cifar10"
    assert config.noise.get("field", "worse_label") == "worse_label"


def test_a_carried_teacher_is_the_one_that_was_kept(tmp_path):
    made = setup(resolve(tiny()), tmp_path / "run")
    variables = made.encoder.init(jax.random.key(3), jnp.zeros((2, 8, 8, 1)))
    teacher.keep(tmp_path, variables, np.ones((3, 200), np.float32))
    students.carried(made, str(tmp_path / "weights.npz"), tmp_path / "teacher.safetensors")
    state = weights.read(tmp_path / "teacher.safetensors", "teacher")
    found = weights.from_state_dict(state, variables, "teacher")
    assert isinstance(found, Variables)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3), found, variables)


def test_a_teacher_has_the_epochs_that_fit_and_one_at_least(tmp_path):
    row = {"case": "simsiam", "batch": 512, "ms": 10.0}
    (tmp_path / "steps.json").write_text(json.dumps({"rows": [row]}))
    epochs = [
        teacher.epochs_within(seconds, str(tmp_path / "steps.json"), 512, 51_200)
        for seconds in (1, 400, 800)
    ]
    assert epochs[0] == 1
    # an epoch of 100 steps takes 1 s, and a little for records and evaluation
    assert 300 < epochs[1] < 400 - 27
    assert 700 < epochs[2] < 800 - 27


def test_a_run_is_resumed_at_half(tmp_path):
    for step in ("90", "180"):
        (tmp_path / "run" / "checkpoints" / step).mkdir(parents=True)
    (tmp_path / "run" / "metrics.jsonl").write_text("kept")
    flags.halved(tmp_path / "run", tmp_path / "copy")
    assert [p.name for p in (tmp_path / "copy" / "checkpoints").iterdir()] == ["90"]
    assert (tmp_path / "copy" / "metrics.jsonl").read_text() == "kept"
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2


def fresh(code, *words, **environment):
    """What a new interpreter, in which JAX has not started, prints last."""
    clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    run = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=ROOT, capture_output=True, text=True, env={**clean, **environment},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()[-1]


COMMAND = """
import os, sys
from rmdnet_jax import main
from rmdnet_jax.app import exact, processes, setup
from rmdnet_jax.errors import UserError
def stop(*arguments, **named):
    print(exact.started(), os.environ.get("XLA_FLAGS"))
    raise UserError("enough")
setup.setup = processes.join = stop
main.main(["x", "--config", "digits:quick", "--workdir", "none", *sys.argv[1:]])
"""
ON = "--config.deterministic=true"


@pytest.mark.parametrize("words", [(), (ON,), (ON, "--multihost")], ids=["off", "on", "hosts"])
def test_the_command_sets_the_flags_before_jax_starts(words):
    """Those that a user has set stay."""
    flags_ = ("--a=1", *exact.FLAGS) if words else ("--a=1",)
    assert fresh(COMMAND, *words, XLA_FLAGS="--a=1") == f"False {' '.join(flags_)}"


def test_the_compiler_gets_the_flags(tmp_path):
    """Set after all imports, it tells them in what it dumps."""
    code = f"""
import jax
from rmdnet_jax.app import exact, experiment
from rmdnet_jax.app.load import get_config
from rmdnet_jax.app.resolve import resolve
exact.FLAGS = (*exact.FLAGS, "--xla_dump_to={tmp_path}")
exact.prepare(resolve(get_config("digits:quick,deterministic=true")))
print(jax.jit(lambda x: x + 1)(1))
"""
    assert fresh(code) == "2"
    options = "".join(path.read_text() for path in tmp_path.glob("*debug_options*"))
    for flag in exact.FLAGS:
        name, value = flag.removeprefix("--").split("=")
        assert f"{name}: {value}" in options


def test_too_late_on_a_gpu_is_one_line(monkeypatch):
    jax.devices()
    config = resolve(tiny(deterministic=True))
    exact.prepare(config)  # on a CPU it is never too late
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    exact.prepare(resolve(tiny()))
    with pytest.raises(UserError, match=r"^deterministic must be set before JAX starts, got true"):
        exact.prepare(config)
    monkeypatch.setenv("XLA_FLAGS", "--a=1 " + " ".join(exact.FLAGS))
    exact.prepare(config)  # it began with them


@pytest.mark.parametrize("name", flags.VARIANTS)
def test_the_compiler_knows_each_flag(name):
    if flags.VARIANTS[name]:
        assert fresh("import jax; print(jax.jit(abs)(-3))", XLA_FLAGS=flags.VARIANTS[name]) == "3"
