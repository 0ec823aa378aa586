"""Kills one of several processes that train together, and starts all again, as a supervisor does.

    python -m benchmarks.endurance_hosts --kills 20

Each process stands for a host. SIGKILL hits one of them at a random moment; the others end by
themselves, and the same command goes on. A run that ends has to be bit for bit as one that nothing
happened to. Ends with status 1 where that did not hold.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from benchmarks.endurance import CASES, Count, words
from benchmarks.endurance_runs import PATIENCE, environment, phase, same

ELR = CASES["elr, barlow twins, averaged"]  # its memory is split over the processes
SCRIPT = pathlib.Path(__file__).parents[1] / "launch" / "local.sh"


class Hosts:
    """A run in several processes of one device each."""

    def __init__(self, count: int, workdir: pathlib.Path, cache: pathlib.Path):
        train = [sys.executable, "-m", "rmdnet_jax.main", *words(ELR), f"--workdir={workdir}"]
        self._script = subprocess.Popen(
            ["bash", str(SCRIPT), str(count), "1", *train], env=environment(cache), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def processes(self) -> list[int]:
        """Those that train."""
        command = ["pgrep", "-P", str(self._script.pid), "-f", "rmdnet_jax.main"]
        said = subprocess.run(command, capture_output=True, text=True).stdout
        return [int(number) for number in said.split()]

    def end(self) -> tuple[int, str]:
        """The status with which all have ended, and what they said."""
        out, _ = self._script.communicate(timeout=PATIENCE)
        return self._script.returncode, out


def trials(kills: int, count: int, rng: random.Random, place: pathlib.Path) -> Count:
    """Kills one of `count` processes so often; each run that has ended is compared."""
    found, cache, whole = Count("hosts"), place / "cache", place / "whole"
    Hosts(count, place / "first", cache).end()  # compiles
    began = time.perf_counter()
    status, out = Hosts(count, whole, cache).end()
    if status:
        raise SystemExit(f"the run ends with status {status}: {out[-2000:]}")
    seconds, workdir = time.perf_counter() - began, place / "killed"
    killed = 0
    while killed < kills or workdir.exists():
        hosts = Hosts(count, workdir, cache)
        if killed < kills:
            time.sleep(rng.uniform(0, seconds))
            at = phase(workdir)
            for process in rng.sample(here := hosts.processes(), min(1, len(here))):
                os.kill(process, signal.SIGKILL)
                killed += 1
                found.add(f"SIGKILL in {at}", "")
        status, out = hosts.end()
        if status == 0:
            found.add("compared with the whole run", same(whole, workdir), out)
            shutil.rmtree(workdir)
        elif "Traceback" in out or (killed == kills and status not in (2, 137)):
            found.add("an end", f"status {status}", out)
            break
    return found


def main() -> int:
    """Runs the trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hosts-") as folder:
        rng = random.Random(f"{args.seed} hosts")
        told = trials(args.kills, args.processes, rng, pathlib.Path(folder)).report()
    return int(bool(told["bad"]))


if __name__ == "__main__":
    raise SystemExit(main())
