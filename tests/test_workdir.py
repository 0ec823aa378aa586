"""Whose a workdir is, and what it is of: other data is refused, moved data and more epochs not."""

import json
import os
import shutil
import signal
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, assert_same, tiny
from test_resume import final_states

from rmdnet_jax import files
from rmdnet_jax.app import correct, experiment, learning, lock, workdir
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.errors import UserError

# Who owns it.


def test_a_workdir_has_one_owner_at_a_time(tmp_path):
    place = tmp_path / "run"
    lock.refuse_used(place)
    first, second = lock.Owner(place), lock.Owner(place)
    first.take()
    for claim in (second.take, lambda: lock.refuse_used(place)):
        with pytest.raises(UserError, match=rf"run is in use by process {os.getpid()} on "):
            claim()
    first.close()
    lock.refuse_used(place)
    second.take()
    second.close()


def test_the_lock_of_a_dead_process_does_not_hold(tmp_path):
    code = (
        "import sys, time, pathlib\nfrom rmdnet_jax.app import lock\n"
        "owner = lock.Owner(pathlib.Path(sys.argv[1]))\nowner.take()\nprint(flush=True)\n"
        "time.sleep(1000)"
    )
    command, pipe = [sys.executable, "-c", code, str(tmp_path)], subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdout=pipe) as process:
        try:
            assert process.stdout.readline()
            with pytest.raises(UserError, match=rf"in use by process {process.pid} on "):
                lock.Owner(tmp_path).take()
        finally:
            process.kill()
    owner = lock.Owner(tmp_path)
    owner.take()
    owner.close()


def test_an_owner_notices_that_its_workdir_has_gone(tmp_path):
    place = tmp_path / "run"
    owner = lock.Owner(place)
    owner.check()  # nothing is owned yet
    owner.take()
    owner.check()
    shutil.rmtree(place)
    with pytest.raises(UserError, match="was deleted or replaced while the run went on"):
        owner.check()
    other = lock.Owner(place)
    other.take()
    with pytest.raises(UserError, match="was deleted or replaced"):
        owner.check()
    other.check()
    owner.close()
    other.close()


# Which settings may change.

CONSTANT = {"relation_guided.optimizer.schedule": "constant"}
PATHS = {"teacher": "a.npy", "data.dir": "a", "data.labels": "a.csv"}
MAY = {  # there, here, the fields that extend the run
    "nothing": ({}, {}, []),
    "harmless": ({}, {"checkpoint_steps": 50, "tensorboard": True, "audit": True}, []),
    "moved": (PATHS, {name: f"b/{path}" for name, path in PATHS.items()}, []),
    "controls": ({"controls": ("base",)}, {"controls": ("teacher_knn", "base")}, ["controls"]),
    "epochs": (CONSTANT, {**CONSTANT, "epochs": 9}, ["relation_guided.epochs"]),
    "a teacher alone": ({"epochs": 0}, {"epochs": 9}, ["relation_guided.epochs"]),
}
MAY_NOT = {  # there, here, what is said
    "seed": ({}, {"seed": 1}, "seed is 0 there, 1 here"),
    "limit": ({}, {"data.limit": 255}, "data.limit is 256 there, 255 here"),
    "a teacher": ({}, {"teacher": "a.npy"}, "teacher is  there, a.npy here"),
    "no labels": ({"data.labels": "a.csv"}, {}, "data.labels is a.csv there,  here"),
    "fewer controls": ({"controls": ("base",)}, {}, "controls can be added, not taken away"),
    "fewer epochs": ({**CONSTANT, "epochs": 9}, {**CONSTANT}, "epochs can be added, not taken"),
    "cosine": ({}, {"epochs": 9}, "2 there, 9 here: its learning rate follows a cosine"),
    "refreshed": (
        {**CONSTANT, "method": "jocor"},
        {**CONSTANT, "method": "jocor", "epochs": 9},
        "its method looks at all examples between epochs",
    ),
    "refreshed by the graph's rate": (
        {**CONSTANT, "method": "jocor", "relation_guided.method.rate": "graph"},
        {**CONSTANT, "method": "jocor", "relation_guided.method.rate": "graph", "epochs": 9},
        "its method looks at all examples between epochs",
    ),
    "teacher's epochs": ({}, {"modeling": 3}, "its students learn from the teacher as it was"),
}


def stated(place, **values):
    place.mkdir()
    (place / "config.json").write_text(json.dumps(resolve(tiny(**values)).to_dict()))


@pytest.mark.parametrize(("there", "here", "extended"), MAY.values(), ids=MAY)
def test_what_changes_no_number_may_change(there, here, extended, tmp_path):
    stated(tmp_path / "run", **there)
    assert workdir.check(tmp_path / "run", resolve(tiny(**here)).to_dict()) == extended


@pytest.mark.parametrize(("there", "here", "said"), MAY_NOT.values(), ids=MAY_NOT)
def test_what_changes_a_number_is_refused_with_its_reason(there, here, said, tmp_path):
    stated(tmp_path / "run", **there)
    with pytest.raises(UserError) as error:
        workdir.check(tmp_path / "run", resolve(tiny(**here)).to_dict())
    assert said in str(error.value)
    assert "choose another workdir" in str(error.value)


def test_a_field_that_is_new_takes_its_default(tmp_path):
    stated(tmp_path / "run")
    path = tmp_path / "run" / "config.json"
    tree = json.loads(path.read_text())
    del tree["relation_guided"]["warmup_epochs"], tree["noise"]["inclusive"], tree["audit"]
    path.write_text(json.dumps(tree))
    assert workdir.check(tmp_path / "run", resolve(tiny()).to_dict()) == []
    other = resolve(tiny(**{"relation_guided.warmup_epochs": 1.0})).to_dict()
    with pytest.raises(UserError, match=r"warmup_epochs is 0\.0 there, 1\.0 here"):
        workdir.check(tmp_path / "run", other)
    path.write_text("{}")
    with pytest.raises(UserError, match=r"config\.json cannot be read \(it holds no settings\)"):
        workdir.check(tmp_path / "run", resolve(tiny()).to_dict())


def test_more_epochs_and_controls_end_as_if_they_had_been_there_from_the_start(tmp_path):
    less, more = {"epochs": 2, **CONSTANT}, {"epochs": 4, "controls": ("base",), **CONSTANT}
    experiment.run(tiny(**less), tmp_path / "a")
    assert (tmp_path / "a" / "summary.json").exists()
    extended = experiment.run(tiny(**more), tmp_path / "a").summary
    whole = experiment.run(tiny(**more), tmp_path / "b").summary
    assert (tmp_path / "a/metrics.jsonl").read_text() == (tmp_path / "b/metrics.jsonl").read_text()
    assert (
        extended["controls"]["base"]["test_accuracy"]
        == (whole["controls"]["base"]["test_accuracy"])
    )
    states, expected = final_states(tmp_path / "a"), final_states(tmp_path / "b")
    assert len(expected) == 3
    for name in expected:
        assert_same(states[name], expected[name])
    student = [(tmp_path / name / "student.safetensors").read_bytes() for name in "ab"]
    assert student[0] == student[1], "equal networks are equal files"


# What it is of.


class Began(Exception):
    pass


def data(**changes):
    draw = np.random.default_rng(0).integers
    made = {
        "images": draw(0, 256, (96, 8, 8, 1)).astype(np.uint8),
        "labels": np.arange(96) % 4,
        "test_images": draw(0, 256, (8, 8, 8, 1)).astype(np.uint8),
        "test_labels": np.arange(8) % 4,
        "names": np.array(["a", "b", "c", "d"]),
        "teacher": draw(0, 256, (96, 5)).astype(np.float32),
    }
    return {**made, **{name: change(made[name]) for name, change in changes.items()}}


@pytest.fixture
def begins(tmp_path, monkeypatch):
    """Starts a run on arrays, up to where it would train; the arrays' folder may move."""

    def train(*_):
        raise Began

    monkeypatch.setattr(learning, "train", train)

    def begin(folder="here", labels=(), **changes):
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        arrays = data(**changes)
        np.save(place / "teacher.npy", arrays.pop("teacher"))
        np.savez(place / "own.npz", **arrays)
        values = {
            "data.name": "npz", "data.dir": str(place / "own.npz"), "data.limit": 0, "weight": 0,
            "data.labels": "+".join(str(tmp_path / name) for name in labels),
            "teacher": str(place / "teacher.npy"), "controls": ("teacher_knn",),
            "relation_guided.batch_size": 32,
        }  # fmt: skip
        with pytest.raises(Began):
            experiment.run(tiny(**values), tmp_path / "run")

    return begin


OTHERS = {
    "images mirrored": {"images": lambda x: x[:, :, ::-1]},
    "one pixel": {"images": lambda x: x ^ (np.arange(x.size).reshape(x.shape) == 77)},
    "other test images": {"test_images": lambda x: 255 - x},
    "other test labels": {"test_labels": lambda x: x[::-1]},
    "another teacher": {"teacher": lambda x: x + 1},
    "other names": {"names": lambda x: x[::-1]},
}


@pytest.mark.parametrize("changes", OTHERS.values(), ids=OTHERS)
def test_other_content_under_the_same_path_is_refused(changes, begins, tmp_path):
    begins()
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"holds a run whose data differs \("):
        begins(**changes)
    assert {path: path.read_bytes() for path in before} == before
    begins()


REVIEWS = {  # of examples of class a, after "0 is b" has been reviewed
    "another label": {"reviewed": "index,label\n0,c\n"},
    "one label more is certain": {"reviewed": "index,label\n0,b\n8,a\n"},
    "another label before the review": {"corrected": "index,label,decision\n0,d,change\n"},
}


@pytest.mark.parametrize("changed", REVIEWS.values(), ids=REVIEWS)
def test_other_reviewed_labels_under_the_same_path_are_refused(changed, begins, tmp_path):
    tables = {
        "corrected": "index,label,decision\n0,c,change\n", "reviewed": "index,label\n0,b\n"
    }  # fmt: skip

    def begin(tables):
        for name, text in tables.items():
            (tmp_path / f"{name}.csv").write_text(text)
        begins(labels=[f"{name}.csv" for name in tables])

    begin(tables)
    with pytest.raises(UserError, match=r"holds a run whose data differs \("):
        begin(tables | changed)
    begin(tables)


@pytest.mark.parametrize("name", ["config.json", "data.json"])
def test_checkpoints_that_nothing_says_what_they_are_of_are_refused(name, begins, tmp_path):
    begins()
    (tmp_path / "run" / "checkpoints").mkdir()
    begins()
    (tmp_path / "run" / name).rename(tmp_path / "kept")
    with pytest.raises(UserError, match=rf"holds checkpoints and no {name}: put it back"):
        begins()
    assert not (tmp_path / "run" / name).exists()
    (tmp_path / "kept").rename(tmp_path / "run" / name)
    begins()


def test_the_same_content_at_another_place_goes_on(begins, tmp_path):
    begins()
    begins(folder="moved")
    there = json.loads((tmp_path / "run" / "config.json").read_text())
    assert there["data"]["dir"] == str(tmp_path / "moved" / "own.npz")


def test_corrected_labels_of_another_teacher_are_not_taken(tmp_path):
    class Made:
        workdir, train, certain = tmp_path, np.arange(4), np.zeros(4, bool)
        given, classes, known = np.array([0, 1, 0, 1], np.int32), 2, False
        source = type("Source", (), {"files": ()})

    found = SimpleNamespace(
        targets=np.eye(2, dtype=np.float32)[Made.given], confidence=np.ones(4),
        summary={"used": 1}, belief=np.full((4, 2), 0.5), transition=np.eye(2),
    )  # fmt: skip
    correct._kept(Made, found, "a teacher's hash", tmp_path / correct.NAME)
    assert np.array_equal(
        correct.corrected(Made, np.zeros((4, 2)), "a teacher's hash").targets, found.targets
    )
    with pytest.raises(UserError, match=r"propagated\.npz cannot be read \(it is of another teach"):
        correct.corrected(Made, np.zeros((4, 2)), "another's")


def test_a_digest_tells_arrays_apart():
    x = np.arange(24, dtype=np.int32).reshape(4, 6)
    same = [files.digest(x), files.digest(np.asfortranarray(x)), files.digest(x.copy())]
    others = [x.T, x.reshape(6, 4), x.astype(np.int64), x[::-1], x[:-1], x + (x == 23)]
    found = [files.digest(y) for y in others]
    assert len({*same}) == 1
    assert len({*same, *found}) == 1 + len(found)
    assert files.digest(x[:2], x[2:]) != files.digest(x)


# Paths.


def test_paths_may_name_a_home_and_variables(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MINE", "deep")
    assert files.place("~/a") == tmp_path / "a"
    assert files.place("~/$MINE/${MINE}x") == tmp_path / "deep" / "deepx"
    odd = tmp_path / "$MINE"
    odd.mkdir()
    assert files.place(odd) == odd, "a name that is there is taken as it stands"


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("gs://bucket/run", "local path, got 'gs://bucket/run': mount the storage"),
        ("gs:/bucket/run", "local path"),
        ("S3://bucket", "local path"),
        ("file:///run", "local path"),
        ("~nobodyknows/run", "that home is not known"),
        ("$RMDNET_NOT_SET/run", r"\$RMDNET_NOT_SET is not set"),
        ("a\0b", "be a path, got"),
        (3, "be a path, got 3"),
        (b"run", "be a path, got b'run'"),
    ],
)
def test_a_path_that_cannot_be_is_one_line(path, said):
    with pytest.raises(UserError, match=rf"^workdir must be a .*{said}|^workdir must {said}"):
        files.place(path, "workdir")


def test_a_user_without_a_home_is_told_so(monkeypatch):
    import pwd

    def nobody(*_):
        raise KeyError("uid not found")

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    with pytest.raises(UserError, match="path must be a path, got '~/a': that home is not known"):
        files.place("~/a")


# The surroundings.

COMMAND = (sys.executable, "-m", "rmdnet_jax.main", "--config", "digits:quick")
COMMAND += ("--config.controls=()", "--config.data.limit=256", "--config.encoder.widths=(4,8)")
COMMAND += ("--config.batch_size=64", "--workdir")


def test_a_full_disk_is_one_line_and_costs_nothing(tmp_path):
    text = {"cwd": ROOT, "env": {**os.environ, "XLA_FLAGS": ""}, "text": True}
    text |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    subprocess.run([*COMMAND, str(tmp_path / "calm")], check=True, **text)
    for kib in (1, 6):  # files of at most so much: to the program that is what a full disk is
        limited = ["bash", "-c", f'ulimit -f {kib}; exec "$0" "$@"', *COMMAND]
        full = subprocess.run([*limited, str(tmp_path / "full")], **text)
        *before, last = full.stderr.splitlines()
        assert full.returncode == 2, full.stderr
        assert "written" in last
        assert last.endswith(": File too large")
        assert all(": loading" in line or line.startswith("relation_") for line in before), (
            full.stderr
        )
    subprocess.run([*COMMAND, str(tmp_path / "full")], check=True, **text)
    for name in ("metrics.jsonl", "student.safetensors"):
        one, two = ((tmp_path / run / name).read_bytes() for run in ("calm", "full"))
        assert one == two


def test_training_goes_on_when_nobody_listens(tmp_path):
    """A reader such as `head` has closed the pipes of both streams."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([*COMMAND, str(tmp_path)], cwd=ROOT, stdout=write, stderr=write)
    os.close(write)
    assert done.returncode == 0
    assert (tmp_path / "summary.json").exists()


def test_a_workdir_deleted_under_way_ends_in_an_error(tmp_path):
    place = tmp_path / "run"
    command = [*COMMAND, str(place), "--config.epochs=400", "--config.checkpoint_steps=4"]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, **pipes) as process:
        try:
            while not (place / "metrics.jsonl").exists():
                assert process.poll() is None, process.stderr.read()
            shutil.rmtree(place)
            said = process.communicate(timeout=300)[1].splitlines()
        finally:
            process.kill()
    assert process.returncode == 2, said
    assert all(": loading" in line or line.startswith("relation_") for line in said[:-1]), said
    assert str(place) in said[-1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_in_a_run_says_its_status(number, tmp_path):
    """While it is set up, or trains: whenever it comes."""
    command = [*COMMAND, str(tmp_path / "run"), "--config.epochs=400"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    with subprocess.Popen(command, **pipes) as process:
        try:
            process.stdout.readline()  # the data are read
            process.send_signal(number)
            said = process.communicate(timeout=300)[1].splitlines()
        finally:
            process.kill()
    assert process.returncode == 128 + number
    assert said[-1].endswith("the same command continues")
    assert not any("Traceback" in line for line in said)
