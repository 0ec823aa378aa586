"""A run that is killed at any moment and started again ends bit for bit like one that was not."""

import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT, assert_same, tiny

from rmdnet_jax import checkpoint, experiment
from rmdnet_jax.metrics import Records


def final_states(workdir):
    """The last checkpoint of every stage, as orbax reads it without being told a structure."""
    import orbax.checkpoint as ocp

    found = {}
    for directory in sorted(pathlib.Path(workdir).glob("checkpoints/**/[0-9]*")):
        if directory.name.isdigit():
            name = str(directory.parent.relative_to(workdir))
            steps = [int(d.name) for d in directory.parent.iterdir() if d.name.isdigit()]
            if int(directory.name) == max(steps):
                found[name] = ocp.StandardCheckpointer().restore(directory / "default")
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("whole")
    summary = experiment.run(tiny(controls=("base",)), workdir)
    return workdir, summary


def assert_equal_runs(workdir, whole):
    assert (workdir / "metrics.jsonl").read_text() == (whole[0] / "metrics.jsonl").read_text()
    states, expected = final_states(workdir), final_states(whole[0])
    assert sorted(states) == sorted(expected)
    assert len(expected) == 3
    for name in expected:
        assert_same(states[name], expected[name])


class Killed(Exception):
    pass


@pytest.mark.parametrize("at", [1, 4, 11, 24])
def test_a_run_that_breaks_off_at_a_step_ends_the_same(at, whole, tmp_path, monkeypatch):
    """Breaks off before step `at` of all stages' 24; whatever was not yet saved is lost."""
    count, original = iter(range(1, 1000)), experiment.pipeline.resident

    def resident(*args):
        made = original(*args)

        def batch(number):
            if next(count) > at:
                raise Killed
            return made.batch(number)

        return made._replace(batch=batch)

    monkeypatch.setattr(experiment.pipeline, "resident", resident)
    with pytest.raises(Killed):
        experiment.run(tiny(controls=("base",)), tmp_path)
    monkeypatch.undo()
    experiment.run(tiny(controls=("base",)), tmp_path)
    assert_equal_runs(tmp_path, whole)


def test_a_finished_run_is_not_trained_again(whole, tmp_path, monkeypatch):
    shutil.copytree(whole[0], tmp_path / "run")
    monkeypatch.setattr(experiment.training, "step", lambda *_: pytest.fail("a finished stage was trained"))
    again = experiment.run(tiny(controls=("base",)), tmp_path / "run")
    assert again["relation_guided"]["test_accuracy"] == whole[1]["relation_guided"]["test_accuracy"]
    assert again["noise"] == whole[1]["noise"]
    assert_equal_runs(tmp_path / "run", whole)


def largest(directory):
    return max((p for p in directory.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def truncate(directory):
    path = largest(directory)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(directory):
    path = largest(directory)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def empty(directory):
    for path in directory.rglob("*"):
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_a_damaged_newest_checkpoint_falls_back_with_a_warning(damage, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    steps = sorted((int(d.name) for d in (tmp_path / "run/checkpoints/relation_guided").iterdir() if d.name.isdigit()))
    damage(tmp_path / f"run/checkpoints/relation_guided/{steps[-1]}")
    with pytest.warns(UserWarning, match=f"checkpoint {steps[-1]} .* cannot be read"):
        experiment.run(tiny(controls=("base",)), tmp_path / "run")
    assert_equal_runs(tmp_path / "run", whole)


def test_every_flipped_bit_changes_the_fingerprint():
    tree = {"a": jnp.arange(12, dtype=jnp.float32).reshape(3, 4), "b": (jnp.int32(7), jnp.array([True, False]))}
    seen = {int(checkpoint.fingerprint(tree))}
    for i in range(12):
        for bit in range(32):
            bits = np.asarray(tree["a"]).view(np.uint32).copy()
            bits[i // 4, i % 4] ^= np.uint32(1) << np.uint32(bit)
            seen.add(int(checkpoint.fingerprint({**tree, "a": jnp.asarray(bits.view(np.float32))})))
    assert len(seen) == 1 + 12 * 32
    swapped = {**tree, "a": tree["a"][::-1]}
    assert int(checkpoint.fingerprint(swapped)) != int(checkpoint.fingerprint(tree))
    assert checkpoint.fingerprint(jax.device_get(tree)) == checkpoint.fingerprint(tree)


def test_a_line_cut_short_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    records = Records(path)
    for step in (10, 20):
        records.append({"stage": "relation_guided", "step": step, "loss": step / 3})
    path.write_text(path.read_text() + '{"stage": "relation_guided", "step": 30, "lo')
    again = Records(path)
    again.rewind("relation_guided", 20)
    assert again.of("relation_guided") == records.all
    again.rewind("relation_guided", 10)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [10]


COMMAND = (sys.executable, "-m", "rmdnet_jax.main", "--config", "configs/digits.py:quick", "--config.checkpoint_steps=2")
COMMAND += ("--config.controls=()", "--config.relation_guided.epochs=30", "--workdir")


def start(workdir):
    return subprocess.Popen([*COMMAND, str(workdir)], cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def wait_for(workdir, stage, process):
    """Until the stage has written two epochs."""
    for _ in range(6000):
        if process.poll() is not None:
            raise AssertionError(process.stderr.read())
        path = workdir / "metrics.jsonl"
        if path.exists() and path.read_text().count(f'"stage": "{stage}"') >= 2:
            return
        time.sleep(0.01)
    raise AssertionError("the run wrote nothing within a minute")


def test_signals_at_any_moment_change_nothing(tmp_path):
    """SIGKILL loses what was not saved, SIGTERM saves first and says so: the end is the same."""
    calm = start(tmp_path / "calm")
    assert calm.wait(120) == 0, calm.stderr.read()
    shaken = tmp_path / "shaken"
    for number, stage in ((signal.SIGKILL, "relation_modeling"), (signal.SIGKILL, "relation_guided")):
        process = start(shaken)
        wait_for(shaken, stage, process)
        process.send_signal(number)
        assert process.wait(60) == -number
        if stage == "relation_modeling":
            continue
        process = start(shaken)
        wait_for(shaken, stage, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        assert "the same command continues" in process.stderr.read()
    process = start(shaken)
    assert process.wait(120) == 0, process.stderr.read()
    assert (shaken / "metrics.jsonl").read_text() == (tmp_path / "calm" / "metrics.jsonl").read_text()
    states, expected = final_states(shaken), final_states(tmp_path / "calm")
    assert sorted(expected) == ["checkpoints/relation_guided", "checkpoints/relation_modeling"]
    for name in expected:
        assert_same(states[name], expected[name])
