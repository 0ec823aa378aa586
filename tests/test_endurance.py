"""The break test can fail: it tells broken runs from those that held."""

import random
import shutil
import signal

import pytest
from conftest import tiny

from benchmarks import endurance
from benchmarks.endurance_runs import NAME, Said, failed, fields, phase, same
from rmdnet_jax.app import experiment
from rmdnet_jax.app.load import get_config
from rmdnet_jax.app.schema import TABLES

PROGRESS = "relation_guided: epoch 3.0/3  loss 1.2"
HELD = {
    "it ended": Said(0, "test accuracy", PROGRESS),
    "it was warned of": Said(0, "", f"{NAME}: checkpoint 8 cannot be read\n{PROGRESS}\n"),
    "refused": Said(2, "", f"{PROGRESS}\n{NAME}: the disk is full\n"),
    "killed": Said(-signal.SIGKILL, "", ""),
    "stopped": Said(143, "", f"{NAME}: saved\n"),
}
BROKE = {
    "a traceback": Said(2, "", f"Traceback (most recent call last):\n{NAME}: x\n"),
    "past Python": Said(0, "Task exception was never retrieved", ""),
    "without a word": Said(2, "", PROGRESS),
    "another status": Said(1, "", f"{NAME}: x\n"),
    "a line of somebody else's": Said(2, "", f"E0000 file.cc:12 bad\n{NAME}: x\n"),
}


@pytest.mark.parametrize("said", HELD.values(), ids=HELD)
def test_a_run_that_ends_or_is_refused_in_a_line_holds(said):
    assert failed(said) == ""


@pytest.mark.parametrize("said", BROKE.values(), ids=BROKE)
def test_a_run_that_ends_otherwise_does_not_hold(said):
    assert failed(said)


def test_what_differs_between_two_runs_is_named(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    assert phase(one) == "set-up"
    experiment.run(tiny(), one)
    assert phase(one) == "the audit"
    shutil.copytree(one, two)
    (two / "timing.jsonl").write_text("other times\n")
    assert same(one, two) == ""
    for name in ("metrics.jsonl", "student.safetensors", "teacher.json"):
        kept = (two / name).read_bytes()
        (two / name).write_bytes(kept + b" ")
        assert same(one, two) == f"other {name}"
        (two / name).write_bytes(kept)
    for name in ("teacher", "checkpoints/relation_guided"):
        (path,) = [max((x for x in (two / name).iterdir()), key=lambda x: int(x.name))]
        path.rename(two / "kept")
        assert same(one, two).startswith("other ")
        (two / "kept").rename(path)
    assert same(one, two) == ""


def test_each_break_changes_what_it_breaks(tmp_path):
    rng, ways = random.Random(0), set()
    for number in range(80):
        place = tmp_path / str(number)
        (place / "4" / "d").mkdir(parents=True)
        for name in ("a", "b"):
            (place / "4" / "d" / name).write_bytes(bytes(range(50)))
        files = {x: x.read_bytes() for x in place.rglob("*") if x.is_file()}
        before = set(place.rglob("*"))
        how = endurance.broken(place / "4" / rng.choice(("", "d/a")), rng)
        ways.add(how)
        now = {x: x.read_bytes() for x in place.rglob("*") if x.is_file()}
        # cutting behind the last byte, one case in 51, changes nothing
        assert (now, set(place.rglob("*"))) != (files, before) or how == "file, cut"
    assert len(ways) == 13


def test_settings_are_drawn_from_the_whole_schema():
    known, rng = fields({}), random.Random(0)
    assert {"relation_guided.method.name", "data.limit", "noise.rate", "controls"} <= {*known}
    assert fields({"relation_guided.method.name": "elr"}).keys() - known.keys()
    for name in TABLES:
        drawn = {endurance.value(f"{name}.name", "", rng) for _ in range(60)}
        assert len(drawn) > 1
    words = endurance.words(endurance.CASES["dividemix"])
    pairs = dict(word.removeprefix("--config.").split("=", 1) for word in words[1:])
    assert get_config("digits:quick", pairs).relation_guided.method.name == "dividemix"
