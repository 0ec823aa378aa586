"""Runs that `endurance` breaks: as processes of their own, or one after another in a worker."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import math
import os
import pathlib
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from typing import Any, NamedTuple

import numpy as np

from rmdnet_jax.app.load import get_config
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.app.schema import flatten
from rmdnet_jax.errors import UserError
from rmdnet_jax.files import digest
from rmdnet_jax.main import NAME

PATIENCE = 1200.0  # seconds that a tiny run may take on a machine with much else to do
TRIALS = 25  # of a worker, which is then replaced: compiled programs take memory
PROGRESS = ("relation_", "controls/", "corrected labels", "decoding", "\r")
NOISE = ("Traceback", "Task exception", "Future exception", "Exception ignored", "Fatal")
UNEQUAL = ("timing.jsonl", ".lock", "report.html")  # times, processes and dates stand in them
TIMES = ("seconds", "images_per_second", "session_seconds")


class Said(NamedTuple):
    """What a run said."""

    status: int
    out: str
    err: str


def failed(said: Said) -> str:
    """What is wrong about the end of a run; "" where it ended well, or in one line."""
    if said.status not in (0, 2, 143, -signal.SIGKILL, -signal.SIGTERM):
        return f"status {said.status}"
    lines = [line for line in said.err.splitlines() if line.strip()]
    all_lines = [*lines, *said.out.splitlines()]
    if odd := next((line for line in all_lines if any(x in line for x in NOISE)), ""):
        return odd
    told = [line for line in lines if line.startswith(NAME)]
    if said.status == 2 and (not told or lines[-1] != told[-1]):
        return f"status 2 and no last line: {lines[-1:]}"
    others = [x for x in lines if x not in told and not x.startswith(PROGRESS) and "|" not in x]
    return f"it says {others[0]!r}" if others else ""


def environment(cache: pathlib.Path) -> dict[str, str]:
    """Of all runs: one cache, which also keeps programs that compile fast; no network."""
    return {
        **os.environ, "RMDNET_CACHE": str(cache), "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache / "compiled"), "https_proxy": "http://127.0.0.1:9",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "http_proxy": "http://127.0.0.1:9",
    }  # fmt: skip


class Child:
    """A run in a process of its own."""

    def __init__(self, words: list[str], workdir: pathlib.Path, cache: pathlib.Path):
        self.workdir, command = workdir, [sys.executable, "-m", "rmdnet_jax.main", *words]
        self._there = (workdir / "config.json").stat().st_mtime_ns if self._stated() else 0
        self._process = subprocess.Popen(
            [*command, f"--workdir={workdir}"], env=environment(cache), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def _stated(self) -> bool:
        return (self.workdir / "config.json").exists()

    def begun(self) -> None:
        """Waits until it has taken the workdir, or has ended."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self._process.poll() is None:
            if self._stated() and (self.workdir / "config.json").stat().st_mtime_ns != self._there:
                return
            time.sleep(0.01)

    def end(self, number: int = 0) -> Said:
        """What it said when it ended, perhaps by a signal."""
        if number:
            self._process.send_signal(number)
        try:
            out, err = self._process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, err = self._process.communicate()
            err += f"\nFatal: it went on for {PATIENCE} seconds"
        return Said(self._process.returncode, out, err)


class Worker:
    """A process that runs one command after another: it imports once."""

    def __init__(self, cache: pathlib.Path):
        self.cache, self._process, self._tried = cache, None, 0

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: Any) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
        self._process = None

    def run(
        self, words: list[str], workdir: pathlib.Path, room: int | None = None,
        environ: dict[str, str] | None = None,
    ) -> Said:  # fmt: skip
        """Runs a command; `room`: bytes that its files may have."""
        if self._tried >= TRIALS or self._process is None:
            self.__exit__()
            self._tried = 0
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.endurance_runs"], env=environment(self.cache),
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
        self._tried += 1
        asked = [[NAME, *words, f"--workdir={workdir}"], room, environ or {}]
        process: Any = self._process
        process.stdin.write(json.dumps(asked).encode() + b"\n")
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], PATIENCE)
        line = process.stdout.readline() if ready else b""
        if not line:  # it hangs, or has died
            why = f"Fatal: the process ended with {process.poll()}" if ready else "Fatal: it hangs"
            self.__exit__()
            return Said(1, "", why)
        return Said(*json.loads(line))


def serve() -> None:
    """Runs the commands that come in; answers a line each."""
    import jax

    from rmdnet_jax.main import main

    answers = os.fdopen(os.dup(1), "w")
    told = tempfile.TemporaryFile()  # noqa: SIM115  # what goes past Python's own streams
    os.dup2(told.fileno(), 1)
    os.dup2(told.fileno(), 2)
    for line in sys.stdin:
        words, room, environ = json.loads(line)
        os.environ.update(environ)
        out, err = io.StringIO(), io.StringIO()
        most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            if room is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, most))
            try:
                status = main(words)
            except BaseException:  # whatever it is, it should not have come this far
                status = 1
                traceback.print_exc()
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            jax.clear_caches()
            gc.collect()  # some errors are told when what they belong to goes
        told.seek(0)
        said = out.getvalue() + told.read().decode(errors="replace")
        told.seek(0)
        told.truncate()
        answers.write(json.dumps([status, said, err.getvalue()]) + "\n")
        answers.flush()


def phase(workdir: pathlib.Path) -> str:
    """What a run is at, by what it has written."""
    if not (workdir / "config.json").exists():
        return "set-up"
    for name, what in (("summary.json", "the audit"), ("student.safetensors", "the end")):
        if (workdir / name).exists():
            return what
    with contextlib.suppress(OSError, ValueError, IndexError):
        last = (workdir / "metrics.jsonl").read_bytes().split(b"\n")[-2]
        stage = json.loads(last)["stage"]
        return stage if stage in ("relation_modeling", "relation_guided") else "a control"
    return "the start"


def content(workdir: pathlib.Path) -> dict[str, Any]:
    """All files that a run has left, but for its times and checkpoints."""
    found: dict[str, Any] = {}
    for path in sorted(workdir.rglob("*")):
        name, parts = str(path.relative_to(workdir)), path.relative_to(workdir).parts
        if parts[0] in ("checkpoints", "teacher") or not path.is_file() or path.name in UNEQUAL:
            continue
        found[name] = digest(np.frombuffer(path.read_bytes(), np.uint8))
        if path.name == "summary.json":
            flat = flatten(json.loads(path.read_text()))
            gone = (*TIMES, "date", "command")
            found[name] = {key: x for key, x in flat.items() if not key.endswith(gone)}
    return found


def newest(folder: pathlib.Path, like: Any = None) -> tuple[int, Any]:
    """The step and the arrays of the newest checkpoint that can be read; of the arrays `like`."""
    import orbax.checkpoint as ocp

    handler = ocp.Checkpointer(ocp.StandardCheckpointHandler())
    steps = [int(x.name) for x in folder.glob("*") if x.name.isdecimal()]
    for step in sorted(steps, reverse=True):
        with contextlib.suppress(Exception):  # whatever is damaged
            path = folder / str(step) / "default"
            return step, handler.restore(path, args=ocp.args.StandardRestore(like))
    return -1, None


def same(one: pathlib.Path, two: pathlib.Path) -> str:
    """What differs between two finished runs, the first one whole; "" where nothing does."""
    import jax

    a, b = content(one), content(two)
    names = [name for name in sorted(a | b) if a.get(name) != b.get(name)]
    for folder in sorted({path.parents[1].relative_to(one) for path in one.rglob("default")}):
        step, tree = newest(one / folder)
        found = newest(two / folder, tree)
        if (step, digest(*jax.tree.leaves(tree))) != (found[0], digest(*jax.tree.leaves(found[1]))):
            names.append(str(folder))
    return f"other {', '.join(names)}" if names else ""


def clean(workdir: pathlib.Path) -> str:
    """What is wrong about a run that said it had ended; "" where nothing is."""
    summary = flatten(json.loads((workdir / "summary.json").read_text()))
    bad = [name for name, x in summary.items() if isinstance(x, float) and not math.isfinite(x)]
    return f"not finite: {', '.join(bad)}" if bad else ""


def fields(chosen: dict[str, str]) -> dict[str, Any]:
    """The fields that there are with these names, and their values."""
    try:
        config = resolve(get_config("digits:quick", chosen))
    except UserError:
        config = resolve(get_config("digits:quick"))
    return flatten(config.to_dict())


def inputs(place: pathlib.Path) -> None:
    """A folder of 256 digits as images, and a table of labels of which a fifth is wrong."""
    from PIL import Image

    from rmdnet_jax.data import sources

    digits, rows = sources.load("digits", limit=256), []
    for row, (image, label) in enumerate(zip(digits.images, digits.labels)):
        path = place / "photos" / "train" / str(label) / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
        rows.append(f"train/{label}/{row}.png,{(label + (row % 5 == 0)) % 10}")
    for row, (image, label) in enumerate(zip(digits.test_images[:100], digits.test_labels)):
        path = place / "photos" / "test" / str(label) / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).save(path)
    (place / "labels.csv").write_text("\n".join(["file,label", *rows]) + "\n")


if __name__ == "__main__":
    serve()
