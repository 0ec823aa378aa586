"""What a step takes as work grows: batch, devices, processes, data; and what follows for a pod.

    python -m benchmarks.scaling            # about five minutes on two idle cores
    python -m benchmarks.scaling --show     # the tables of docs/scaling.md

Every row is a run of its own: the relation-guided step of the small CNN, teacher online, started by
`launch/local.sh`. Devices and processes share the cores of one machine. So their rows show what
splitting costs, not what more chips would bring. The data of the last rows are JPEG files of
200x200 pixels, 1,000 of them and links to these; no decoded image is in a cache.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax

from benchmarks import ours, scaling_model, streaming
from benchmarks.endurance_hosts import SCRIPT
from benchmarks.speed import spread, write_data
from rmdnet_jax import sharding
from rmdnet_jax.app import processes, report
from rmdnet_jax.app.setup import setup
from rmdnet_jax.files import write_json
from rmdnet_jax.training import steps

FILE, PAGE = pathlib.Path("docs/scaling_steps.json"), pathlib.Path("docs/scaling.md")
BATCHES, DEVICES, PROCESSES = (32, 64, 128, 256, 512, 1024), (1, 2, 4, 8), (1, 2, 4)
FILES, SIDE, BATCH = (1_000, 16_000, 64_000, 256_000), 64, 128
WRITTEN, RESIDENT = 1_000, 64_000  # files of their own, the others are links; the most in memory
WARM, STEPS = 3, 30  # steps that do not count, and those that do
Row = dict[str, Any]


def rows(folder: pathlib.Path) -> Iterator[Row]:
    """What is to be measured."""
    base = {"batch": BATCH, "devices": 1, "processes": 1, "data": str(folder / "data.npz")}
    for name, values in (("batch", BATCHES), ("devices", DEVICES), ("processes", PROCESSES)):
        yield from ({**base, "grows": name, name: value} for value in values)
    for count, pipeline in itertools.product(FILES, ("resident", "streaming")):
        if pipeline == "resident" and count > RESIDENT:
            continue
        yield {**base, "grows": "files", "files": count, "pipeline": pipeline,
               "data": str(folder / f"photos{count}")}  # fmt: skip


def make(folder: pathlib.Path) -> None:
    """Writes the data."""
    write_data(str(folder / "data.npz"), 2 * max(BATCHES), 32, 20)
    (first := folder / "first").mkdir()
    streaming.make(first, WRITTEN)
    written = [*first.rglob("*.jpg")]
    for count in FILES:
        for number in range(count):
            file = written[number % WRITTEN]
            place = folder / f"photos{count}" / file.parent.name
            if number < WRITTEN:
                place.mkdir(parents=True, exist_ok=True)
            os.link(file, place / f"{number}.jpg")


def run(asked: Row, folder: pathlib.Path) -> Row:
    """A row, measured in processes of its own."""
    out = folder / "row.json"
    command = ["bash", SCRIPT, str(asked["processes"]), str(asked["devices"]), sys.executable]
    command += ["-m", "benchmarks.scaling", "--worker", json.dumps(asked), "--out", out]
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        env = {**os.environ, "RMDNET_CACHE": cache, "TF_CPP_MIN_LOG_LEVEL": "2"}
        subprocess.run(command, env=env, check=True)
    return {**asked, "data": pathlib.Path(asked["data"]).name, **json.loads(out.read_text())}


def measured(asked: Row) -> Row:
    """What one of the processes finds."""
    more: Row = {}
    if asked["grows"] == "files":
        more = {"name": "folder", "image_size": SIDE, "pipeline": asked["pipeline"]}
    config = ours.configured(asked["data"], "cnn", "online", asked["batch"], 10**4,
                             **{f"data.{name}": value for name, value in more.items()})  # fmt: skip
    before, began = memory(), time.perf_counter()
    with tempfile.TemporaryDirectory() as workdir:
        made = setup(config, pathlib.Path(workdir))
    stage = ours.stage_of(made, "online")
    jax.block_until_ready(rows := stage.pipeline.batch(0))
    held, start = memory() - before, time.perf_counter() - began
    frozen, key = stage.objective.frozen, stage.key
    with jax.set_mesh(made.mesh):
        init = functools.partial(steps.initial, stage)
        state = jax.jit(init, out_shardings=sharding.everywhere(made.mesh))(frozen, rows, key)
        program = steps.program(stage)[1].lower(state, frozen, rows, key).compile()
    took = []
    for step in range(WARM + STEPS):
        clock = time.perf_counter()
        state, loss = program(state, frozen, stage.pipeline.batch(step), key)
        loss.block_until_ready()
        took.append(time.perf_counter() - clock)
    size = program.memory_analysis()
    return {
        "ms": spread([1e3 * one for one in took[WARM:]]),
        "program_bytes": size.temp_size_in_bytes + size.argument_size_in_bytes,
        "data_bytes": held,
        "start_seconds": start,
    }


def memory() -> int:
    """Bytes of this process that lie in memory."""
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


def work(asked: Row, out: pathlib.Path) -> None:
    """One process of a row; the first tells."""
    ours.start()
    processes.join(jax.distributed.initialize)
    with processes.together("benchmarks.scaling"):  # none leaves before the others
        found = measured(asked)
        if jax.process_index() == 0:
            write_json(out, found)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--show", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=pathlib.Path, default=FILE)
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    parser.add_argument("--multihost", action="store_true", help=argparse.SUPPRESS)  # by local.sh
    args = parser.parse_args()
    if args.worker:
        return work(args.worker, args.out)
    if not args.show:
        with tempfile.TemporaryDirectory() as folder:
            place, found = pathlib.Path(folder), []
            environment = report.environment(sharding.mesh())
            make(place)
            for asked in rows(place):
                found.append(run(asked, place))
                write_json(args.out, {"environment": environment, "rows": found})
                print(found[-1], flush=True)
    scaling_model.show(PAGE, json.loads(args.out.read_text()))


if __name__ == "__main__":
    main()
