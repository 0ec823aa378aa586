"""Two processes, as two hosts would run them, end as one process with all devices does."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from rmdnet_jax.app.lock import Owner

FIELDS = (
    "relation_guided.targets=propagated",
    "relation_guided.propagation.in_doubt=use",
    "relation_guided.propagation.alpha=0.5",
)
FIELDS += (
    "data.limit=256",
    "relation_modeling.batch_size=64",
    "relation_guided.batch_size=64",
    "checkpoint_steps=3",
)
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
        with contextlib.suppress(ProcessLookupError):  # all of it has ended
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def two(started):
    """Starts two processes of one device each."""

    def start(*arguments):
        with socket.socket() as probe:
            probe.bind(("localhost", 0))
            address = f"localhost:{probe.getsockname()[1]}"
        told = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
        told["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"
        environments = ({**environment(1), **told, "JAX_PROCESS_ID": str(i)} for i in range(2))
        return [started(*MAIN, *arguments, "--multihost", env=env) for env in environments]

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


def test_two_processes_end_as_one_with_all_devices(started, tmp_path):
    local = ["bash", "launch/local.sh", "2", "1", *MAIN, *command(tmp_path / "two", "controls=()")]
    clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    statuses, said = finish([started(*local, env=clean)])
    assert statuses == [0], said
    one = started(*MAIN, *command(tmp_path / "one", "controls=()"), env=environment(2))
    statuses, said = finish([one])
    assert statuses == [0], said
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {path.name for path in (tmp_path / "two").iterdir()} == names
    for name in ("config.json", "data.json"):  # the same labels, too, by their hash
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()
    assert accuracies(tmp_path / "two") == pytest.approx(accuracies(tmp_path / "one"), abs=0.02)


def test_a_signal_to_one_process_stops_both_and_the_run_goes_on(two, tmp_path):
    more = ("relation_guided.epochs=12", "controls=()")
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
    processes = two(*command(tmp_path, "relation_guided.epochs=999", "controls=()"))
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
