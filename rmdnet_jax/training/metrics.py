"""What a run writes while it trains: JSON lines that resume exactly, a progress bar, TensorBoard.

`metrics.jsonl` holds results only, so that the same config gives the same file. Times, in seconds,
go to `timing.jsonl`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import sys
import time
import zlib
from collections.abc import Iterator
from typing import Any

from tqdm import tqdm

from rmdnet_jax import sharding
from rmdnet_jax.errors import UserError, first_line
from rmdnet_jax.files import sync, write_text


class Records:
    """A JSON-lines file of records with `stage` and `step`; what is appended is on disk.

    Args:
      path: of the file.
      needed: whether a run stops where the file is damaged or cannot be written; else what cannot
        be read is passed over.
    """

    def __init__(self, path: pathlib.Path, needed: bool = True):
        self.path, self.needed = path, needed
        self.all: list[dict] = []
        with self._told("read"):
            self.there = path.exists()
            lines = path.read_bytes().split(b"\n") if self.there else []
            for number, line in enumerate(lines, 1):
                record = _record(line)
                if record:
                    self.all.append(record)
                elif (
                    line.strip() and needed and number < len(lines)
                ):  # a kill may have cut the last one short
                    raise ValueError(f"line {number} is damaged")
        self.stages = list(dict.fromkeys(record["stage"] for record in self.all))

    def of(self, stage: str) -> list[dict]:
        """The records of one stage, in order."""
        return [record for record in self.all if record["stage"] == stage]

    def digest(self, stage: str, step: int) -> int:
        """A number that tells apart the records of a stage up to a step, for its checkpoint."""
        rows = [record for record in self.of(stage) if record["step"] <= step]
        return zlib.crc32(json.dumps(rows).encode())

    def rewind(self, stage: str, step: int) -> None:
        """Drops the records of `stage` after `step`: those steps are run again."""
        self.all = [r for r in self.all if r["stage"] != stage or r["step"] <= step]
        if self.there:
            self._rewrite()

    def append(self, record: dict) -> None:
        """Adds a record, behind all of its stage."""
        self.all.append(record)
        if record["stage"] not in self.stages:
            self.stages.append(record["stage"])
        if record["stage"] != self.stages[-1]:
            self.all.sort(key=lambda r: self.stages.index(r["stage"]))
            self._rewrite()
        elif sharding.is_main():
            with self._told("written"):
                self._append(json.dumps(record).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        """Adds a line; a file that was there and is not is no new file: the workdir has gone."""
        flags = os.O_WRONLY | os.O_APPEND | (0 if self.there else os.O_CREAT)
        with open(os.open(self.path, flags, 0o666), "ab") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        if not self.there:
            sync(self.path.parent)
            self.there = True

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Makes one line of an error, or nothing where the file is not needed."""
        try:
            yield
        except (OSError, ValueError) as error:
            if self.needed:
                why = getattr(error, "strerror", None) or first_line(error)
                raise UserError(f"{self.path} cannot be {what}: {why}") from None

    def _rewrite(self) -> None:
        text = "".join(json.dumps(record) + "\n" for record in self.all)
        try:
            write_text(self.path, text)
        except UserError:
            if self.needed:
                raise


def _record(line: bytes) -> dict | None:
    """The record in a line; None where there is none."""
    try:
        record = json.loads(line)
        whole = type(record["step"]) is int and type(record["stage"]) is str
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return record if whole else None


class Writer:
    """A run's records: `metrics` and `timing`, with TensorBoard beside them where asked for."""

    def __init__(self, workdir: pathlib.Path, tensorboard: bool = False):
        self.metrics = Records(workdir / "metrics.jsonl")
        self.timing = Records(workdir / "timing.jsonl", needed=False)
        self.tensorboard = workdir / "tensorboard" if tensorboard and sharding.is_main() else None

    def rewind(self, stage: str, step: int, digest: int | None = None) -> None:
        """Drops what a stage wrote after `step`; refuses records that have not the `digest`."""
        if digest is not None and self.metrics.digest(stage, step) != digest:
            raise UserError(
                f"{self.metrics.path} does not hold the records of {stage} up to step {step}: one "
                f"is missing or was changed. Put the file back, or delete checkpoints/{stage} and "
                "the stage is trained again"
            )
        self.metrics.rewind(stage, step)
        self.timing.rewind(stage, step)

    def write(
        self, stage: str, step: int, values: dict[str, float], times: dict[str, float]
    ) -> None:
        """Writes one epoch's results and times."""
        self.timing.append({"stage": stage, "step": step, **times})
        self.metrics.append({"stage": stage, "step": step, **values})
        if self.tensorboard:
            self._scalars.write_scalars(
                step, {f"{stage}/{name}": value for name, value in values.items()}
            )
            self._scalars.flush()

    @functools.cached_property
    def _scalars(self):
        from clu import metric_writers  # imports TensorFlow

        return metric_writers.SummaryWriter(str(self.tensorboard))

    def speed(self, stage: str) -> dict[str, float]:
        """Seconds of a stage over all sessions, and images/s: the median epoch but the first."""
        names = ("images", "train_seconds", "evaluate_seconds")
        read = [[record.get(name) for name in names] for record in self.timing.of(stage)]
        times: Any = [row for row in read if all(isinstance(x, int | float) for x in row)]
        rates = sorted(n / train for n, train, _ in (times[1:] or times) if train)
        seconds = sum(train + evaluate for _, train, evaluate in times)
        return {
            "seconds": round(seconds, 3),
            "images_per_second": round(rates[len(rates) // 2], 1) if rates else 0.0,
        }


class Progress:
    """A bar on a terminal or in a notebook, else a line every `interval` seconds.

    It begins by saying that a stage compiles; where all steps are done it says nothing.
    """

    def __init__(
        self,
        stage: str,
        steps: int,
        start: int,
        steps_per_epoch: int,
        batch_size: int,
        interval: float = 10.0,
    ):
        self.stage, self.steps, self.per_epoch, self.batch, self.interval = (
            stage,
            steps,
            steps_per_epoch,
            batch_size,
            interval,
        )
        self.mark, self.said = None, time.perf_counter()
        self.evaluated = False
        self.bar, shown = None, start < steps and sharding.is_main()
        text = f"{stage}: compiling" + (f", continues at step {start} of {steps}" if start else "")
        if shown and (sys.stderr.isatty() or _in_notebook()):
            self.bar = tqdm(total=steps, initial=start, desc=text, bar_format="|{bar:20}| {desc}")
        elif shown:
            print(text, file=sys.stderr, flush=True)

    def due(self, done: int) -> bool:
        """Whether it is time to show something: reading a loss from the device must stay rare."""
        now = time.perf_counter()
        if self.mark is None:
            self.mark = done, now  # the first step compiles: the clock starts behind it
        return now - self.said > (0.2 if self.bar else self.interval)

    def leave_out(self, seconds: float) -> None:
        """Leaves the first evaluation, which compiles, out of the rate."""
        if self.mark and not self.evaluated:
            self.mark = self.mark[0], self.mark[1] + seconds
        self.evaluated = True

    def show(self, done: int, loss: float, note: str = "") -> None:
        """Shows the state after `done` steps."""
        first, began = self.mark or (done, time.perf_counter())
        self.said = time.perf_counter()
        rate = (done - first) / max(self.said - began, 1e-9)
        epochs = f"{done / self.per_epoch:.1f}/{self.steps // self.per_epoch}"
        speed = f"  {self.batch * rate:,.0f} images/s" if rate else ""
        text = f"epoch {epochs}  loss {loss:.4f}{speed}{note}"
        if rate and done < self.steps:
            text += f"  {(self.steps - done) / rate:.0f} s left"
        if self.bar:
            self.bar.set_description_str(f"{self.stage}: {text}", refresh=False)
            self.bar.update(done - self.bar.n)
        elif sharding.is_main():
            print(f"{self.stage}: {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.bar:
            self.bar.close()


def _in_notebook() -> bool:
    """Whether a Jupyter kernel shows standard error: no terminal, but `\\r` works in it."""
    return type(sys.stderr).__module__.startswith("ipykernel.")
