"""A study's grid: prints one command a point, or runs the points here.

    rmdnet sweep studies/digits.py --workdir runs/study                     # for a scheduler
    rmdnet sweep studies/digits.py --workdir runs/study --run [--match RE]  # one after the other
    rmdnet sweep studies/digits.py --workdir runs/study --jobs 4            # four at a time

Finished points are passed over. `--run` ends with the first point that fails. `--jobs` runs them
all, and lists those that failed at the end: status 1. Each is a process of its own, on its share of
the NVIDIA GPUs. After Ctrl-C or SIGTERM the runs save first; the same command continues.

The study defines `sweep(root) -> {directory below root: config argument}`. Teachers come before the
students that they serve. `--jobs` waits for them; a scheduler is to run those of
`--match '(^|/)teacher/'` first.
"""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from typing import IO, NamedTuple

from rmdnet_jax.app.command import Parser, say
from rmdnet_jax.app.load import get_config, module_of
from rmdnet_jax.errors import UserError, first_line, within, wrong


def main(argv: list[str] | None = None) -> int:
    """The command `rmdnet sweep`."""
    parser = Parser(prog="rmdnet sweep", description=__doc__)
    parser.add_argument("study")
    parser.add_argument("--workdir", required=True, help="the root of all points' workdirs")
    parser.add_argument("--run", action="store_true", help="run the points in this process")
    parser.add_argument("--jobs", type=int, help="run so many points at a time")
    parser.add_argument("--match", default="", help="only points whose directory matches")
    args = parser.parse_args(argv)
    if args.jobs is not None:
        within("--jobs", args.jobs, "[1, inf)", whole=True)
    try:
        wanted = re.compile(args.match)
    except re.error as error:
        raise UserError(f"--match {args.match!r} is no regular expression: {error}") from None
    if ":" in args.study:
        must = "be a file without a colon; put settings into its get_config or sweep"
        raise wrong("study", f"{must}, got {args.study!r}")
    study = module_of(args.study)
    if "sweep" not in study:
        raise UserError(f"{args.study} is one experiment, not a study: it has no sweep(root)")
    try:
        found = study["sweep"](args.workdir).items()
    except Exception as error:  # the user's own code
        told = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(f"{args.study}: sweep(root) failed: {told}") from error
    points = {name: arg for name, arg in found if wanted.search(name)}
    if found and not points:
        raise wrong("--match", f"match a point of {args.study}, got {args.match!r}")
    if args.jobs:
        return run_jobs(points, args.study, args.workdir, args.jobs)
    if args.run:
        return run_here(points, args.study, args.workdir)
    for name, arg in points.items():
        words = ("--config", f"{args.study}:{arg}", "--workdir", f"{args.workdir}/{name}")
        print(shlex.join(("rmdnet", "train", *words)))
    return 0


def run_here(points: dict[str, str], study: str, root: str) -> int:
    """Runs the points that are not finished; returns the status, after a line on what is wrong."""
    from tqdm import tqdm

    from rmdnet_jax import cpu, files
    from rmdnet_jax.app import experiment, setup, workdir
    from rmdnet_jax.app.resolve import resolve
    from rmdnet_jax.training.stop import Stopped

    cpu.keep_memory()
    setup.keep_programs()
    top = files.place(root, "--workdir")
    bar = tqdm(points.items(), unit="run")
    for name, arg in bar:
        place = top / name
        try:
            config = get_config(f"{study}:{arg}")
            there = (place / "summary.json").exists()
            if there and not workdir.check(place, resolve(config).to_dict()):
                continue  # the study may have changed since, or asks for more
            given = {"config": f"{study}:{arg}"}
            with open(os.devnull, "w") as quiet, redirect_stdout(quiet), redirect_stderr(quiet):
                experiment.run(config, place, given=given)
        except (UserError, Stopped) as error:
            bar.close()
            return say(name, error, error.status if isinstance(error, Stopped) else 2)
    return 0


class Job(NamedTuple):
    """A point that runs."""

    name: str
    slot: int  # out of as many as run at a time
    process: subprocess.Popen
    said: IO[str]  # its standard error


def run_jobs(points: dict[str, str], study: str, root: str, jobs: int) -> int:
    """Runs the points that are not finished, so many at a time; lists those that failed."""
    from tqdm import tqdm

    from rmdnet_jax import files

    top = files.place(root, "--workdir")
    failed: dict[str, str] = {}
    waiting = unfinished(points, study, top, failed)
    running: list[Job] = []
    with tqdm(total=len(points), initial=len(points) - len(waiting), unit="run") as bar:
        try:
            while waiting or running:
                for name in ready(waiting, running, failed)[: jobs - len(running)]:
                    slot = min({*range(jobs)} - {job.slot for job in running})
                    words = ("--config", f"{study}:{points[name]}", "--workdir", str(top / name))
                    running.append(start(name, slot, words, environment(slot, jobs)))
                    del waiting[name]
                time.sleep(0.05)
                for job in [job for job in running if job.process.poll() is not None]:
                    running.remove(job)
                    bar.update()
                    if line := ended(job):
                        failed[job.name] = line
        finally:  # after a signal they save, and end
            for job in running:
                job.process.terminate()
            for job in running:
                job.process.wait()
    for name, line in failed.items():
        say(name, line, 1)
    return say("rmdnet sweep", f"{len(failed)} of {len(points)} failed", 1) if failed else 0


def unfinished(
    points: dict[str, str], study: str, top: pathlib.Path, failed: dict[str, str]
) -> dict[str, str]:
    """The points to run, each with the one whose teacher it needs or ""; bad ones have failed."""
    from rmdnet_jax.app import workdir
    from rmdnet_jax.app.resolve import resolve

    before: dict[str, str] = {}  # the points so far, by their places
    found: dict[str, str] = {}
    for name, arg in points.items():
        try:
            config = resolve(get_config(f"{study}:{arg}"))
            extended = workdir.check(top / name, config.to_dict())
            if extended or not (top / name / "summary.json").exists():
                found[name] = before.get(os.path.abspath(os.path.expanduser(config.teacher)), "")
        except UserError as error:
            failed[name] = str(error)
        before[os.path.abspath(top / name)] = name
    return found


def ready(waiting: dict[str, str], running: list[Job], failed: dict[str, str]) -> list[str]:
    """The points whose teacher is there; those whose teacher failed have failed, too."""
    for name, teacher in [*waiting.items()]:
        if teacher in failed:
            failed[name] = f"its teacher {teacher} failed"
            del waiting[name]
    busy = {*waiting, *(job.name for job in running)}
    return [name for name, teacher in waiting.items() if teacher not in busy]


def environment(slot: int, jobs: int) -> dict[str, str]:
    """The variables of a run: its share of the GPUs, or of the memory of one."""
    own, gpus = {**os.environ}, visible()
    if not gpus:
        return own
    own["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[slot::jobs] or [gpus[slot % len(gpus)]])
    if jobs > len(gpus):  # JAX takes three quarters of one's memory by itself
        share = 0.9 / -(-jobs // len(gpus))
        own.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{share:.3f}")
    return own


def visible() -> list[str]:
    """The NVIDIA GPUs that runs may use, as `CUDA_VISIBLE_DEVICES` names them."""
    if (told := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in told.split(",") if name.strip()]
    query = ("nvidia-smi", "--query-gpu=index", "--format=csv,noheader")
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):  # there is none
        return []


def start(name: str, slot: int, words: tuple[str, ...], env: dict[str, str]) -> Job:
    """Starts a point's command, out of reach of the terminal's Ctrl-C: it is told once, by us."""
    said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # until it has ended
    process = subprocess.Popen(
        (sys.executable, "-m", "rmdnet_jax.cli", "train", *words),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=said,
        env=env,
        start_new_session=True,
    )
    return Job(name, slot, process, said)


def ended(job: Job) -> str:
    """The last line of a run that failed; "" of one that did not."""
    with job.said as said:
        if not job.process.returncode:
            return ""
        said.seek(0)
        lines = [line for line in said.read().splitlines() if line.strip()]
    line = lines[-1] if lines else f"ended with status {job.process.returncode}"
    return line.removeprefix("rmdnet train: ")
