"""Two processes, as two hosts would run them, end as one process with all devices does."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from rmdnet_jax.app.lock import Owner

FIELDS = (
    "data.limit=256",
    "relation_modeling.batch_size=64",
    "relation_guided.batch_size=64",
    "checkpoint_steps=3",
    "controls=()",
)
WHOLE = (  # both stages, and corrected labels between them
    "relation_guided.targets=propagated",
    "relation_guided.propagation.in_doubt=use",
    "relation_guided.propagation.alpha=0.5",
)
SHORT = "relation_guided.weight=0.0"  # one stage: to be broken off
MAIN = (sys.executable, "-m", "rmdnet_jax.main")


def command(workdir, *more):
    return [
        "--config",
        "configs/digits.py:quick",
        "--workdir",
        str(workdir),
        *(f"--config.{field}" for field in (*FIELDS, *more)),
    ]


def environment(devices):
    return {**os.environ, "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}"}


def session(number):
    """The processes of a session that still run, in whatever process group."""
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended since
            if path.read_text().rpartition(")")[2].split()[3] == str(number):
                yield int(path.parent.name)


@pytest.fixture
def started():
    """Starts a command, which ends with the test whatever happens, its own children too."""
    running = []

    def start(*command, **kinds):
        pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True, "cwd": ROOT}
        running.append(subprocess.Popen(command, start_new_session=True, **pipes, **kinds))
        return running[-1]

    yield start
    for process in running:
        for child in session(process.pid):
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                os.kill(child, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def two(started):
    """Starts two processes of one device each; the second may get words of its own."""

    def start(*arguments, second=()):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            address = f"localhost:{probe.getsockname()[1]}"
        told = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
        told["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"
        words = ((*MAIN, *arguments, "--multihost"), (*MAIN, *arguments, "--multihost", *second))
        return [
            started(*words[i], env={**environment(1), **told, "JAX_PROCESS_ID": str(i)})
            for i in range(2)
        ]

    return start


def finish(processes):
    """Statuses and standard errors, once all have ended: a busy machine takes its time."""
    said = [process.communicate(timeout=1200)[1] for process in processes]
    return [process.returncode for process in processes], said


def until_it_trains(workdir, processes):
    path = workdir / "metrics.jsonl"
    while not path.exists() or "relation_guided" not in path.read_text():
        assert all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.05)


def accuracies(workdir):
    return [
        json.loads(line)["test_accuracy"]
        for line in (workdir / "metrics.jsonl").read_text().splitlines()
        if "test_accuracy" in line
    ]


def test_two_processes_of_two_devices_end_as_one_of_four(started, tmp_path):
    words = command(tmp_path / "two", *WHOLE)
    clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    local = ["bash", "launch/local.sh", "2", "2", *MAIN, *words]
    statuses, said = finish([started(*local, env=clean)])
    assert statuses == [0], said
    one = started(*MAIN, *command(tmp_path / "one", *WHOLE), env=environment(4))
    statuses, said = finish([one])
    assert statuses == [0], said
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {path.name for path in (tmp_path / "two").iterdir()} == names
    for name in ("config.json", "data.json"):  # the same labels, too, by their hash
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()
    assert accuracies(tmp_path / "two") == pytest.approx(accuracies(tmp_path / "one"), abs=0.02)


def test_a_signal_to_one_process_stops_both_and_the_run_goes_on(two, tmp_path):
    more = ("relation_guided.epochs=12", SHORT)
    processes = two(*command(tmp_path, *more))
    until_it_trains(tmp_path, processes)
    processes[1].send_signal(signal.SIGTERM)
    statuses, said = finish(processes)
    assert statuses == [143, 143], said
    assert len(accuracies(tmp_path)) < 12
    statuses, said = finish(two(*command(tmp_path, *more)))
    assert statuses == [0, 0], said
    assert len(accuracies(tmp_path)) == 12


@pytest.mark.parametrize("dead", [0, 1])
def test_the_end_of_one_process_ends_the_other_with_a_line_that_names_it(dead, two, tmp_path):
    processes = two(*command(tmp_path, "relation_guided.epochs=999", SHORT))
    until_it_trains(tmp_path, processes)
    processes[dead].kill()
    (status,), (said,) = finish([processes[1 - dead]])
    assert status == 2, said
    assert f"process {dead} " in said.splitlines()[-1]
    assert said.splitlines()[-1].endswith("start all 2 processes again with the same command, and "
                                          "they continue")  # fmt: skip
    assert "Traceback" not in said


def test_an_error_of_one_process_is_told_to_the_other(two, tmp_path):
    owner = Owner(tmp_path)
    owner.take()  # only the first process looks at the lock
    try:
        statuses, said = finish(two(*command(tmp_path)))
    finally:
        owner.close()
    assert statuses == [2, 2], said
    assert "is in use by process" in said[0].splitlines()[-1]
    assert "process 0 has ended: workdir" in said[1].splitlines()[-1]
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def refused(processes, text):
    """Both end with status 2 and one line that says why."""
    statuses, said = finish(processes)
    assert statuses == [2, 2], said
    for lines in map(str.splitlines, said):
        assert text in lines[-1], said
        assert "Traceback" not in "".join(lines)


def test_a_host_with_another_config_is_named_before_anything_is_written(two, tmp_path):
    processes = two(*command(tmp_path / "run"), second=("--config.relation_guided.epochs=7",))
    host = socket.gethostname()
    text = f"process 1 on host {host} differs in its config from process 0 on {host}: "
    text += "relation_guided.epochs is 7, not 3"
    refused(processes, text)
    assert not (tmp_path / "run").exists()


def test_a_host_with_other_files_is_named(two, tmp_path):
    """Paths may differ; what lies there may not."""
    for name, first in (("a", 1), ("b", 1), ("c", 2)):  # of all 1,442 examples
        np.save(tmp_path / f"{name}.npy", np.arange(first, first + 1442) % 10)

    def labels(name):
        return f"--config.noise.path={tmp_path / name}.npy"

    words = (*command(tmp_path / "run", SHORT), "--config.noise=file", labels("a"))
    refused(two(*words, second=(labels("c"),)), "differs in its files from process 0")
    processes = two(*words, second=(labels("b"),))
    until_it_trains(tmp_path / "run", processes)


def test_a_host_with_another_workdir_is_named(two, tmp_path):
    """Hosts without a disk in common: the second sees nothing of a run that is there."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    processes = two(*command(tmp_path / "run"), second=("--workdir", str(tmp_path / "other")))
    refused(processes, "the workdir's config.json is absent, not ")


def test_images_that_differ_in_a_pixel_are_one_line(two, tmp_path):
    """Folders whose files have the same names and sizes."""
    rng = np.random.default_rng(0)
    for name in ("b/0/0", *(f"a/{i % 2}/{i}" for i in range(64))):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / f"{name}.bmp")
    one = (tmp_path / "b/0/0.bmp").read_bytes()
    shutil.copytree(tmp_path / "a", tmp_path / "b", dirs_exist_ok=True)
    (tmp_path / "b/0/0.bmp").write_bytes(one)
    fields = ("data.name=folder", "data.limit=0", "batch_size=16", f"data.dir={tmp_path / 'a'}")
    processes = two(
        *command(tmp_path / "run", *fields), second=(f"--config.data.dir={tmp_path / 'b'}",)
    )
    refused(processes, "differs in its data set from process 0 on ")
