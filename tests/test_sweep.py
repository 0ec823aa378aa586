"""`rmdnet sweep --jobs`: several points at a time, each a process of its own."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import pytest
from conftest import ROOT

from rmdnet_jax import cli
from rmdnet_jax.app import sweep

STUDY = """
from rmdnet_jax.app.load import get_config as preset

def get_config(arg=""):
    small = "data.limit=128,batch_size=32,controls=(),relation_guided.epochs=2"
    return preset(",".join(filter(None, ("digits:quick", small, arg))))

def sweep(root):
    return {points}
"""


@pytest.fixture
def study(tmp_path):
    """Writes a study of these points; returns its file."""

    def write(points):
        text = ", ".join(f"{name!r}: f{arg!r}" for name, arg in points.items())
        (tmp_path / "study.py").write_text(STUDY.replace("{points}", f"{{{text}}}"))
        return str(tmp_path / "study.py")

    return write


@pytest.fixture
def pretend(monkeypatch):
    """Short processes in place of runs; returns when each began and ended, and where."""
    spans = {}

    def begin(name, slot, words, env):
        said = tempfile.TemporaryFile("w+")  # noqa: SIM115  # `ended` closes it
        process = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(0.3)"], stderr=said
        )
        spans[name] = [time.monotonic(), slot, env.get("CUDA_VISIBLE_DEVICES")]
        return sweep.Job(name, slot, process, said)

    def end(job):
        spans[job.name].append(time.monotonic())
        return ended(job)

    ended = sweep.ended
    monkeypatch.setattr(sweep, "start", begin)
    monkeypatch.setattr(sweep, "ended", end)
    return spans


def test_points_run_and_those_that_fail_are_listed_at_the_end(study, tmp_path, capfd):
    points = {
        "teacher/a": "seed=1",
        "student": "teacher={root}/teacher/a",
        "bad": "rate=1.5",
        "lost": "teacher=/nowhere",
        "orphan": "teacher={root}/bad",
    }
    runs = tmp_path / "runs"
    words = ["sweep", study(points), "--workdir", str(runs), "--jobs", "2"]
    assert cli.main(words) == 1
    lines = [line for line in capfd.readouterr().err.splitlines() if "run/s" not in line]
    bad, orphan, lost, last = [line for line in lines if ": " in line and "%|" not in line]
    assert bad == "bad: noise.rate must be in [0, 1], got 1.5"
    assert orphan == "orphan: its teacher bad failed"
    assert lost.startswith("lost: teacher must be the workdir of an earlier run, ")
    assert last == "rmdnet sweep: 3 of 5 failed"
    times = [(runs / name / "summary.json").stat().st_mtime_ns for name in ("teacher/a", "student")]
    assert times == sorted(times)
    before = (runs / "student" / "summary.json").read_text()
    assert cli.main([*words, "--match", "teacher/|student"]) == 0  # both are finished
    assert (runs / "student" / "summary.json").read_text() == before


def test_so_many_run_at_a_time_and_teachers_come_first(study, pretend, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    points = {f"teacher/{i}": f"seed={i}" for i in range(2)}
    points |= {f"student-{i}": f"teacher={{root}}/teacher/{i % 2}" for i in range(4)}
    words = ["sweep", study(points), "--workdir", str(tmp_path / "runs"), "--jobs", "3"]
    assert cli.main(words) == 0
    assert pretend.keys() == points.keys()
    at_once = [
        sum(began <= moment < ended for began, *_, ended in pretend.values())
        for moment, *_ in pretend.values()
    ]
    assert max(at_once) == 3
    for i in range(4):
        assert pretend[f"student-{i}"][0] >= pretend[f"teacher/{i % 2}"][-1]


@pytest.mark.parametrize(
    ("gpus", "jobs", "shares", "memory"),
    [
        ("0,1,2,3", 2, ["0,2", "1,3"], None),
        ("2,5", 2, ["2", "5"], None),
        ("4", 2, ["4", "4"], "0.450"),
        ("0,1", 3, ["0", "1", "0"], "0.450"),
        ("", 2, ["", ""], None),
    ],
)
def test_each_run_has_its_share_of_the_gpus(gpus, jobs, shares, memory, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", gpus)
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION", raising=False)
    found = [sweep.environment(slot, jobs) for slot in range(jobs)]
    assert [env["CUDA_VISIBLE_DEVICES"] for env in found] == shares
    assert {env.get("XLA_PYTHON_CLIENT_MEM_FRACTION") for env in found} == {memory}


def test_a_pattern_that_matches_no_point_is_one_line(study, tmp_path, capsys):
    words = ["sweep", study({"a": ""}), "--workdir", str(tmp_path / "runs"), "--match", "zzz"]
    assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--match must match a point of" in line
    assert "got 'zzz'" in line


@pytest.mark.parametrize("jobs", ["0", "-1", "two"])
def test_a_wrong_number_of_jobs_is_one_line(jobs, study, tmp_path, capsys):
    words = ["sweep", study({"a": ""}), "--workdir", str(tmp_path / "runs"), "--jobs", jobs]
    assert cli.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--jobs" in line
    assert jobs in line
    assert not (tmp_path / "runs").exists()


def test_after_a_signal_the_runs_have_saved(study, tmp_path):
    points = {"a": "relation_guided.epochs=400,checkpoint_steps=100000"}
    words = ("sweep", study(points), "--workdir", str(tmp_path / "runs"), "--jobs", "2")
    command = (sys.executable, "-m", "rmdnet_jax.cli", *words)
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "runs" / "a" / "metrics.jsonl"
    while not (metrics.exists() and "relation_guided" in metrics.read_text()):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    saved = [json.loads(line) for line in metrics.read_text().splitlines()]
    epochs = sum("test_accuracy" in record for record in saved)
    assert 0 < epochs < 400
    assert list((tmp_path / "runs" / "a" / "checkpoints").rglob("*"))
