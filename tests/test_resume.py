"""A run that is killed at any moment and started again ends bit for bit like one that was not."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
import warnings

import jax
import numpy as np
import pytest
from conftest import ROOT, assert_same, tiny

from rmdnet_jax.app import experiment, setup
from rmdnet_jax.errors import UserError
from rmdnet_jax.methods import METHODS
from rmdnet_jax.networks.encoders import cnn
from rmdnet_jax.ssl import SSL
from rmdnet_jax.training import checkpoint, steps
from rmdnet_jax.training.metrics import Records, Writer


def final_states(workdir):
    """The last checkpoint of every stage, as orbax reads it without being told a structure."""
    return newest(workdir, "checkpoints/**/[0-9]*")


def kept_teacher(workdir):
    """What later runs read, likewise."""
    return newest(workdir, "teacher/[0-9]*")["teacher"]


def newest(workdir, pattern):
    import orbax.checkpoint as ocp

    found = {}
    for directory in sorted(pathlib.Path(workdir).glob(pattern)):
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
    summary = experiment.run(tiny(controls=("base",)), workdir).summary
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


def break_off(config, workdir, at, monkeypatch):
    """Runs an experiment that breaks off before a step, counted over its stages."""
    count, original = iter(range(1, 1000)), setup.resident.resident

    def resident(*args):
        made = original(*args)

        def batch(number):
            if next(count) > at:
                raise Killed
            return made.batch(number)

        return made._replace(batch=batch)

    with monkeypatch.context() as patch:
        patch.setattr(setup.resident, "resident", resident)
        with pytest.raises(Killed):
            experiment.run(config, workdir)


def test_a_run_that_breaks_off_at_steps_ends_the_same(whole, tmp_path, monkeypatch):
    config = tiny(controls=("base",))
    for at in (1, 5, 12, 12):  # a checkpoint every 3 steps: before the first, then past it in each
        break_off(config, tmp_path, at, monkeypatch)
    experiment.run(config, tmp_path)
    assert_equal_runs(tmp_path, whole)


def test_many_steps_a_call_are_the_same_steps(whole, tmp_path, monkeypatch):
    """Where calls end, for a checkpoint or a kill, changes no bit; one step a call, only rounding.

    A stage of 4 steps an epoch is called for 3, and 1; with a checkpoint each 2, for 2, and 2.
    """
    many = tiny(controls=("base",), steps_per_call=3, checkpoint_steps=100)
    experiment.run(many, tmp_path / "many")
    often = tiny(controls=("base",), steps_per_call=3, checkpoint_steps=2)
    for at in (7, 14):
        break_off(often, tmp_path / "often", at, monkeypatch)
    experiment.run(often, tmp_path / "often")
    states, expected = final_states(tmp_path / "often"), final_states(tmp_path / "many")
    for place in expected:
        assert_same(states[place], expected[place])
    one, two = (Records(path / "metrics.jsonl").all for path in (whole[0], tmp_path / "many"))
    assert [record["step"] for record in one] == [record["step"] for record in two]
    for a, b in zip(one, two):
        np.testing.assert_allclose(a["loss"], b["loss"], rtol=1e-3)


# Steps after which a run breaks off: a checkpoint after its memory was refreshed by an epoch.
REFRESHED = {"co_teaching": 8, "jocor": 8, "dividemix": 11}


def remembers(name):
    """Whether an objective has a memory; without one it is resumed as SimSiam is."""
    objective = SSL[name](cnn(widths=(4,)), "float32", projection=8, hidden=4)
    images = jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32)
    _, memory = jax.eval_shape(objective.init, jax.random.key(0), images)
    return bool(jax.tree.leaves(memory))


REMEMBERING = [name for name in SSL if remembers(name)]
assert "byol" in REMEMBERING  # its target network


@pytest.mark.parametrize(
    ("short", "name"),
    [("method", name) for name in METHODS if name != "ce"]
    + [("ssl", name) for name in REMEMBERING]
    + [("targets", "ce"), ("targets", "co_teaching"), ("consistency", "elr"), ("auto", "elr")],
)
def test_what_a_method_or_an_objective_remembers_is_continued(short, name, tmp_path, monkeypatch):
    """Broken off after the first epoch, between two checkpoints."""
    at, stage = REFRESHED.get(name, 6), "relation_guided"
    if short == "method":
        config = tiny(method=name, weight=0.0, epochs=3 if name == "dividemix" else 2)
    elif short == "targets":
        use = {"relation_guided.propagation.in_doubt": "use"}  # a small teacher's graph is in doubt
        config, at = tiny(method=name, targets="propagated", **use), 9 + 8  # stage 1 comes first
    elif short == "auto":  # the running accuracy that K follows
        config, at = tiny(method=name, weight="auto"), 9 + 6
    elif short == "consistency":  # its averaged network and the classes' shares
        part = "relation_guided.consistency"
        config = tiny(method=name, weight=0.0, **{f"{part}.weight": 1.0, f"{part}.threshold": 0.0})
    else:
        widths = {f"relation_modeling.ssl.{field}": 8 for field in ("projection", "hidden")}
        config, stage = tiny(ssl=name, epochs=1, **widths), "relation_modeling"
    experiment.run(config, tmp_path / "whole")
    break_off(config, tmp_path / "broken", at, monkeypatch)
    memory = jax.tree.leaves(
        final_states(tmp_path / "broken")[f"checkpoints/{stage}"]["state"]["memory"]
    )
    if short == "method" and name in REFRESHED:
        assert np.any(memory[-1] != (1.0 if name == "dividemix" else 0.0)), "was refreshed"
    if short == "targets":  # they are data: in no checkpoint, and read again from their file
        assert sum(leaf.size for leaf in memory) < 256
        before = (tmp_path / "broken" / "propagated.npz").stat().st_mtime_ns
    experiment.run(config, tmp_path / "broken")
    if short == "targets":
        assert (tmp_path / "broken" / "propagated.npz").stat().st_mtime_ns == before
    states, expected = final_states(tmp_path / "broken"), final_states(tmp_path / "whole")
    assert states.keys() == expected.keys()
    for place in expected:
        assert_same(states[place], expected[place])


def test_a_finished_run_is_not_trained_again(whole, tmp_path, monkeypatch, capsys):
    shutil.copytree(whole[0], tmp_path / "run")
    monkeypatch.setattr(steps, "step", lambda *_: pytest.fail("a finished stage was trained"))
    again = experiment.run(tiny(controls=("base",)), tmp_path / "run").summary
    assert again["relation_guided"]["test_accuracy"] == whole[1]["relation_guided"]["test_accuracy"]
    assert again["noise"] == whole[1]["noise"]
    assert_equal_runs(tmp_path / "run", whole)
    printed = capsys.readouterr()
    (line,) = [line for line in printed.out.splitlines() if "has ended" in line]
    assert line.startswith(f"done   {tmp_path / 'run'} has ended, with student.safetensors, ")
    assert printed.err == ""


def other_number(lines):
    record = json.loads(lines[1])
    return [lines[0], json.dumps({**record, "loss": record["loss"] + 1}).encode(), *lines[2:]]


RECORDS = {  # what became of metrics.jsonl, and what is said
    "all lost": (lambda lines: [], "does not hold the records"),
    "one lost": (lambda lines: [lines[0], *lines[2:]], "does not hold the records"),
    "the last lost": (lambda lines: lines[:-1], "does not hold the records"),
    "twice": (lambda lines: [lines[0], *lines], "does not hold the records"),
    "another order": (lambda lines: [lines[1], lines[0], *lines[2:]], "does not hold the records"),
    "another number": (other_number, "does not hold the records"),
    "no JSON": (lambda lines: [lines[0], b'{"x": }', *lines[2:]], "line 2 is damaged"),
    "no object": (lambda lines: [b"[]", *lines[1:]], "line 1 is damaged"),
    "no stage": (lambda lines: [b'{"step": 3}', *lines[1:]], "line 1 is damaged"),
    "a step that is none": (
        lambda lines: [b'{"stage": "x", "step": "3"}', *lines],
        "line 1 is damaged",
    ),
    "no UTF-8": (lambda lines: [*lines, b"\xe9"], "line 4 is damaged"),
    "zeros": (lambda lines: [*lines[:2], bytes(90), *lines[2:]], "line 3 is damaged"),
}


@pytest.mark.parametrize(("change", "said"), RECORDS.values(), ids=RECORDS)
def test_records_that_are_not_those_of_the_checkpoint_are_named(change, said, tmp_path):
    writer = Writer(tmp_path)
    for epoch in (1, 2, 3):
        writer.write("x", 10 * epoch, {"epoch": epoch, "loss": 1 / epoch}, {"images": 1})
    digest, path = writer.metrics.digest("x", 30), tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    Writer(tmp_path).rewind("x", 30, digest)
    assert path.read_bytes() == whole
    path.write_bytes(b"".join(line + b"\n" for line in change(whole.splitlines())))
    damaged = path.read_bytes()
    with pytest.raises(UserError, match=rf"metrics\.jsonl .*{said}"):
        Writer(tmp_path).rewind("x", 30, digest)
    assert path.read_bytes() == damaged
    path.write_bytes(whole)
    Writer(tmp_path).rewind("x", 20, writer.metrics.digest("x", 20))
    assert path.read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])


def test_a_run_checks_its_records(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    path = tmp_path / "run" / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))
    with pytest.raises(UserError, match=r"metrics\.jsonl does not hold .* of controls/base up to"):
        experiment.run(tiny(controls=("base",)), tmp_path / "run")
    path.unlink()
    with pytest.raises(UserError, match=r"does not hold the records of relation_modeling up to"):
        experiment.run(tiny(controls=("base",)), tmp_path / "run")


@pytest.mark.parametrize("content", [None, b"", b"no JSON\n", b"\xff\n{}\n", "a folder"])
def test_times_never_stop_a_run(content, tmp_path):
    path = tmp_path / "timing.jsonl"
    times = {"images": 8, "train_seconds": 2.0, "evaluate_seconds": 1.0}
    Writer(tmp_path).write("x", 10, {"loss": 1.0}, times)
    path.unlink()
    if content == "a folder":
        path.mkdir()
    elif content is not None:
        path.write_bytes(content)
    writer = Writer(tmp_path)
    writer.rewind("x", 10, writer.metrics.digest("x", 10))
    assert writer.speed("x") == {"seconds": 0.0, "images_per_second": 0.0}
    writer.write("x", 20, {"loss": 1.0}, times)
    assert writer.speed("x") == {"seconds": 3.0, "images_per_second": 4.0}


def test_records_whose_folder_has_gone_are_not_begun_anew(tmp_path):
    records = Records(tmp_path / "run" / "metrics.jsonl")
    records.path.parent.mkdir()
    records.append({"stage": "x", "step": 1})
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be written: No such file"):
        records.append({"stage": "x", "step": 2})
    assert list((tmp_path / "run").iterdir()) == []


def remade(path, make):
    shutil.rmtree(path, ignore_errors=True)
    make(path)


FOLDERS = {  # what stands in the place of checkpoint 3, beside a good 1 and 2
    "empty": lambda path: path.mkdir(),
    "a file": lambda path: path.write_text("x"),
    "a link to nowhere": lambda path: path.symlink_to("/nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
    "metadata alone": lambda path: shutil.rmtree(path / "default"),
    "no item": lambda path: remade(path / "default", lambda item: item.mkdir()),
    "a file as item": lambda path: remade(path / "default", lambda item: item.write_text("")),
    "no arrays": lambda path: shutil.rmtree(path / "default" / "d"),
    "no manifest": lambda path: (path / "default" / "manifest.ocdbt").unlink(),
    "no names": lambda path: (path / "default" / "_METADATA").write_text("[]"),
}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("name", "damage"), FOLDERS.items(), ids=FOLDERS)
def test_a_damaged_newest_folder_does_not_hide_good_ones(name, damage, tmp_path):
    state = {"kernel": jax.numpy.arange(9.0)}
    with checkpoint.opened(tmp_path, 1) as manager:
        for step in (1, 2, 3):
            checkpoint.save(manager, step, {"kernel": state["kernel"] + step}, records=step)
            checkpoint.settle(manager)
    if name in ("empty", "a file") or "link" in name:
        shutil.rmtree(tmp_path / "3")
        shutil.copytree(tmp_path / "2", tmp_path / "1")  # of which two are kept
    damage(tmp_path / "3")
    with checkpoint.opened(tmp_path, 1) as manager:
        with pytest.warns(UserWarning, match="checkpoint 3 in .* cannot be read"):
            step, found, records = checkpoint.restore(manager, state, remove=True, records=True)
        assert (step, records) == (2, 2)
        np.testing.assert_array_equal(found["kernel"], np.arange(9.0) + 2)
        assert not os.path.lexists(tmp_path / "3"), "its step can be saved again"
        checkpoint.save(manager, 3, state, records=5)
    with checkpoint.opened(tmp_path, 1) as manager:
        assert checkpoint.restore(manager, state, records=True)[::2] == (3, 5)


@pytest.mark.parametrize("make", [lambda p: p.mkdir(), lambda p: p.write_text("")])
def test_what_may_be_a_checkpoint_is_not_written_over(make, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    place = tmp_path / "run" / "checkpoints" / "relation_modeling"
    remade(place, lambda path: path.mkdir())
    make(place / "7")
    message = "relation_modeling: no checkpoint in .* can be read; move them away"
    with pytest.warns(UserWarning, match="cannot be read"), pytest.raises(UserError, match=message):
        experiment.run(tiny(controls=("base",)), tmp_path / "run")
    assert (place / "7").exists()


def arrays(directory):
    """The files that hold arrays; which of them are read depends on the arrays' sizes."""
    return [path for path in directory.rglob("d/*") if path.is_file()]


def truncate(directory):
    for path in arrays(directory):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def flip(directory):
    for path in arrays(directory):
        flip_bit(path)


def empty(directory):
    for path in directory.rglob("*"):
        if path.is_file():
            path.unlink()


# orbax leaves the errors of its other failed reads to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [truncate, flip, empty])
def test_a_damaged_newest_checkpoint_falls_back_with_a_warning(damage, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    steps = sorted(
        int(d.name)
        for d in (tmp_path / "run/checkpoints/relation_guided").iterdir()
        if d.name.isdigit()
    )
    damage(tmp_path / f"run/checkpoints/relation_guided/{steps[-1]}")
    with pytest.warns(UserWarning, match=f"checkpoint {steps[-1]} .* cannot be read"):
        experiment.run(tiny(controls=("base",)), tmp_path / "run")
    assert_equal_runs(tmp_path / "run", whole)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [truncate, empty, shutil.rmtree, None])
def test_a_damaged_teacher_or_another_ones_is_written_again(damage, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    (path,) = (x for x in (tmp_path / "run/teacher").iterdir() if x.name.isdigit())
    if damage:
        damage(path)
    else:
        other = jax.tree.map(lambda x: x + 1, kept_teacher(tmp_path / "run"))
        shutil.rmtree(path)
        with checkpoint.opened(tmp_path / "run/teacher", 1) as manager:
            checkpoint.save(manager, int(path.name), other["state"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        experiment.run(tiny(controls=("base",)), tmp_path / "run")
    assert_same(kept_teacher(tmp_path / "run"), kept_teacher(whole[0]))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_checkpoints_of_which_none_can_be_read_are_kept(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    steps = [
        path
        for path in (tmp_path / "run/checkpoints/relation_guided").iterdir()
        if path.name.isdigit()
    ]
    for path in steps:
        truncate(path)
    message = "relation_guided: no checkpoint in .* can be read; move them away"
    with pytest.warns(UserWarning, match="cannot be read"), pytest.raises(UserError, match=message):
        experiment.run(tiny(controls=("base",)), tmp_path / "run")
    assert all(path.exists() for path in steps)
    shutil.rmtree(tmp_path / "run/checkpoints/relation_guided")
    experiment.run(tiny(controls=("base",)), tmp_path / "run")
    assert_equal_runs(tmp_path / "run", whole)


def test_a_run_does_not_go_on_with_other_labels(tmp_path, monkeypatch):
    draw = np.random.default_rng(0).integers
    images, labels = draw(0, 256, (256, 8, 8, 1)).astype(np.uint8), draw(0, 10, 256)
    np.savez(tmp_path / "own.npz", images=images, labels=labels)
    config = tiny(
        **{"data.name": "npz", "data.dir": str(tmp_path / "own.npz"), "relation_guided.weight": 0.0}
    )
    break_off(config, tmp_path / "run", 6, monkeypatch)
    np.savez(tmp_path / "own.npz", images=images, labels=np.roll(labels, 1))
    with pytest.raises(UserError, match=r"holds a run whose data differs \(labels is .* there"):
        experiment.run(config, tmp_path / "run")
    np.savez(tmp_path / "own.npz", images=images, labels=labels)
    experiment.run(config, tmp_path / "run")


def test_a_flipped_bit_inside_an_array_is_noticed(tmp_path):
    """The files' own checksums do not cover array contents: the fingerprint does."""
    state = {"kernel": jax.random.normal(jax.random.key(0), (300, 300))}
    with checkpoint.opened(tmp_path, 1) as manager:
        checkpoint.save(manager, 1, state)
        checkpoint.save(manager, 2, jax.tree.map(lambda x: x + 1, state))
    with checkpoint.opened(tmp_path, 1) as manager:
        assert checkpoint.restore(manager, state).step == 2
    flip_bit(max(arrays(tmp_path / "2"), key=lambda path: path.stat().st_size))
    with (
        checkpoint.opened(tmp_path, 1) as manager,
        pytest.warns(UserWarning, match="does not match its fingerprint"),
    ):
        step, found, _ = checkpoint.restore(manager, state)
    assert step == 1
    assert_same(found, state)


def test_every_flipped_bit_changes_the_fingerprint():
    tree = {
        "a": np.arange(12, dtype=np.float32).reshape(3, 4),
        "b": (np.int32(7), np.array([True, False])),
    }
    whole = int(checkpoint.fingerprint(tree))
    for i in range(12):
        for bit in range(32):
            bits = tree["a"].view(np.uint32).copy()
            bits[i // 4, i % 4] ^= np.uint32(1) << np.uint32(bit)
            assert int(checkpoint.fingerprint({**tree, "a": bits.view(np.float32)})) != whole
    assert int(checkpoint.fingerprint({**tree, "a": tree["a"][::-1]})) != whole


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


ONE_DEVICE = {**os.environ, "XLA_FLAGS": ""}
COMMAND = (
    sys.executable,
    "-m",
    "rmdnet_jax.main",
    "--config",
    "configs/digits.py:quick",
    "--config.checkpoint_steps=2",
)
COMMAND += ("--config.controls=()", "--config.relation_guided.epochs=12", "--workdir")


def start(workdir):
    command, silent = [*COMMAND, str(workdir)], subprocess.DEVNULL
    return subprocess.Popen(
        command, cwd=ROOT, env=ONE_DEVICE, stderr=subprocess.PIPE, stdout=silent, text=True
    )


def stop(workdir, stage, number):
    """Starts the run and signals it after two more epochs; returns its status and what it said."""

    def written():
        path = workdir / "metrics.jsonl"
        return path.read_text().count(f'"stage": "{stage}"') if path.exists() else 0

    before = written()
    with start(workdir) as process:
        deadline = time.monotonic() + 100
        while written() < before + 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(number)
        return process.wait(60), process.stderr.read()


def test_signals_at_any_moment_change_nothing(tmp_path):
    """SIGKILL loses what was not saved, SIGTERM saves first and says so: the end is the same."""
    calm, shaken = tmp_path / "calm", tmp_path / "shaken"
    subprocess.run([*COMMAND, str(calm)], cwd=ROOT, env=ONE_DEVICE, check=True, capture_output=True)
    assert stop(shaken, "relation_modeling", signal.SIGKILL)[0] == -signal.SIGKILL
    assert stop(shaken, "relation_guided", signal.SIGKILL)[0] == -signal.SIGKILL
    status, said = stop(shaken, "relation_guided", signal.SIGTERM)
    assert status == 143
    assert "the same command continues" in said
    subprocess.run(
        [*COMMAND, str(shaken)], cwd=ROOT, env=ONE_DEVICE, check=True, capture_output=True
    )
    assert (shaken / "metrics.jsonl").read_text() == (calm / "metrics.jsonl").read_text()
    states, expected = final_states(shaken), final_states(calm)
    assert sorted(expected) == ["checkpoints/relation_guided", "checkpoints/relation_modeling"]
    for name in expected:
        assert_same(states[name], expected[name])
