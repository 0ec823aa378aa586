"""Two processes, as two hosts would run them, end as one process with all devices does."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT

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


def start(*arguments):
    """Two processes of one device each."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    told = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    told["JAX_CPU_COLLECTIVES_IMPLEMENTATION"] = "gloo"
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    return [
        subprocess.Popen(
            [*MAIN, *arguments, "--multihost"],
            env={**environment(1), **told, "JAX_PROCESS_ID": str(i)},
            **pipes,
        )
        for i in range(2)
    ]


def finish(processes):
    try:
        said = [process.communicate(timeout=240)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def accuracies(workdir):
    return [
        json.loads(line)["test_accuracy"]
        for line in (workdir / "metrics.jsonl").read_text().splitlines()
        if "test_accuracy" in line
    ]


def test_two_processes_end_as_one_with_all_devices(tmp_path):
    local = ["bash", "launch/local.sh", "2", "1", *MAIN, *command(tmp_path / "two", "controls=()")]
    clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(local, cwd=ROOT, env=clean, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    subprocess.run(
        [*MAIN, *command(tmp_path / "one", "controls=()")],
        cwd=ROOT,
        env=environment(2),
        check=True,
        capture_output=True,
    )
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {path.name for path in (tmp_path / "two").iterdir()} == names
    for name in ("config.json", "data.json"):  # the same labels, too, by their hash
        assert (tmp_path / "two" / name).read_text() == (tmp_path / "one" / name).read_text()
    assert accuracies(tmp_path / "two") == pytest.approx(accuracies(tmp_path / "one"), abs=0.02)


def test_a_signal_to_one_process_stops_both_and_the_run_goes_on(tmp_path):
    more = ("relation_guided.epochs=12", "controls=()")
    processes = start(*command(tmp_path, *more))
    while "relation_guided" not in (
        (tmp_path / "metrics.jsonl").read_text() if (tmp_path / "metrics.jsonl").exists() else ""
    ):
        assert processes[1].poll() is None, finish(processes)
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    statuses, said = finish(processes)
    assert statuses == [143, 143], said
    assert len(accuracies(tmp_path)) < 12
    statuses, said = finish(start(*command(tmp_path, *more)))
    assert statuses == [0, 0], said
    assert len(accuracies(tmp_path)) == 12
