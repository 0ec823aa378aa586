"""Breaks runs on purpose, counts what held, and ends with status 1 where anything did not.

    python -m benchmarks.endurance --kills 100 --damage 200 --disks 20 --settings 200

- Kills: SIGKILL or SIGTERM at random moments, over and over, until each run has ended.
- Damage: a file or folder of a run, its data, its labels or its cache is broken, then it goes on.
- Disks: a run whose files cannot grow beyond a random size, then the same command with room.
- Settings: random values of random fields.

A run holds where it ends bit for bit as one that nothing happened to, or is refused: status 2, one
line that says why, no traceback. The same seed breaks the same, but for moments of time.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import random
import shutil
import signal
import tempfile
import time

from benchmarks.endurance_runs import (
    Child,
    Worker,
    clean,
    failed,
    fields,
    inputs,
    phase,
    same,
)  # fmt: skip
from rmdnet_jax.app.resolve import NAMED
from rmdnet_jax.app.schema import TABLES
from rmdnet_jax.files import write_json

TINY = [
    "--config=digits:quick", "--config.data.limit=256", "--config.encoder.widths=(4,8)",
    "--config.batch_size=64", "--config.modeling=2", "--config.epochs=3",
    "--config.checkpoint_steps=3", "--config.controls=()",
]  # fmt: skip
CASES = {  # every method, every objective of stage 1, all that a run does behind them
    "ce, corrected labels, audit": ["targets=propagated", "audit=true", "controls=('base',)"],
    "gce, simclr, mixup": ["method=gce", "ssl=simclr", "relation_guided.mixup=1"],
    "sce, byol, stored features": ["method=sce", "ssl=byol",
                                   "relation_guided.teacher_features=stored"],
    "elr, barlow twins, averaged": ["method=elr", "ssl=barlow_twins",
                                    "relation_guided.average=0.9"],
    "co-teaching, vicreg": ["method=co_teaching", "ssl=vicreg", "validation=0.1"],
    "jocor, corrected labels": ["method=jocor", "targets=propagated",
                                "controls=('rmdnet','teacher_probe')"],
    "dividemix": ["method=dividemix", "epochs=4"],
}  # fmt: skip


def words(values: list[str]) -> list[str]:
    """The flags of a tiny run with values set."""
    return [*TINY, *(f"--config.{value}" for value in values)]


class Count:
    """What was tried and what did not hold."""

    def __init__(self, title: str):
        self.title, self.tried, self.bad = title, collections.Counter[str](), []

    def add(self, what: str, wrong: str, said: str = "") -> None:
        self.tried[what] += 1
        if not (tried := self.tried.total()) % 25:
            print(f"  {self.title}: {tried} tried", flush=True)
        if wrong:
            self.bad.append(f"{what}: {wrong}")
            print(f"  DID NOT HOLD  {self.title}, {what}: {wrong}\n{said[-3000:]}", flush=True)

    def report(self) -> dict:
        kinds = dict(sorted(self.tried.items()))
        tried, held = sum(kinds.values()), sum(kinds.values()) - len(self.bad)
        print(f"{self.title}: {held} of {tried} held", flush=True)
        for name, count in kinds.items():
            print(f"  {count:5} {name}", flush=True)
        return {"tried": tried, "held": held, "kinds": kinds, "bad": self.bad}


def kills(count: int, rng: random.Random, place: pathlib.Path, worker: Worker) -> Count:
    """Kills each case in turn; a run that has ended is compared, and begun anew."""
    found, ends = Count("kills"), Count("ends")
    runs = {name: words(values) for name, values in CASES.items()}
    if count < len(runs):
        runs = dict(list(runs.items())[:count])
    left, whole = {}, {}
    for number, (name, run) in enumerate(runs.items()):
        said = worker.run(run, place / f"whole{number}")
        if said.status:
            raise SystemExit(f"{name} cannot be run: {said.err}")
        whole[name] = place / f"whole{number}"
        began = time.perf_counter()
        Child(run, place / f"time{number}", worker.cache).end()
        left[name] = time.perf_counter() - began

    def finish(name: str, workdir: pathlib.Path) -> None:
        said = Child(runs[name], workdir, worker.cache).end()
        wrong = failed(said) or (f"status {said.status}" if said.status else "")
        ends.add(name, wrong or same(whole[name], workdir), said.err)
        shutil.rmtree(workdir, ignore_errors=True)

    for number in range(count):
        name = [*runs][number % len(runs)]
        workdir, which = place / f"killed{number % len(runs)}", rng.choice(("SIGKILL", "SIGTERM"))
        child = Child(runs[name], workdir, worker.cache)
        early = rng.random() < 0.15  # before or while it is set up
        if not early:
            child.begun()
        time.sleep(rng.uniform(0, left[name] * 0.6))
        at = phase(workdir)
        said = child.end(getattr(signal, which))
        # a signal before Python has taken it over ends a process as the system does
        right = (-signal.SIGKILL, 0) if which == "SIGKILL" else (143, -signal.SIGTERM, 0)
        wrong = failed(said) or ("" if said.status in right else f"status {said.status}")
        found.add("it had ended" if said.status == 0 else f"{which} in {at}", wrong, said.err)
        if said.status == 0:
            finish(name, workdir)
    for number, name in enumerate(runs):
        finish(name, place / f"killed{number}")
    found.tried += ends.tried
    found.bad += ends.bad
    return found


def broken(path: pathlib.Path, rng: random.Random) -> str:
    """Breaks a file or a folder; returns how."""
    if path.is_dir():
        how = rng.choice(("removed", "emptied", "half removed", "a file in its place", "stray"))
        if how == "stray":  # a newer step, perhaps, in which there is nothing
            (path.parent / (str(int(path.name) + 70) if path.name.isdecimal() else "99")).mkdir()
            return "folder, an empty one beside it"
        files = sorted(x for x in path.rglob("*") if x.is_file())
        if how == "half removed":
            for file in rng.sample(files, len(files) // 2):
                file.unlink()
            return "folder, half removed"
        shutil.rmtree(path)
        if how == "emptied":
            path.mkdir()
        elif how == "a file in its place":
            path.write_bytes(b"")
        return f"folder, {how}"
    how = rng.choice(
        ("a bit flipped", "cut", "emptied", "removed", "other bytes", "more bytes", "a folder",
         "a link to nowhere")
    )  # fmt: skip
    data = bytearray(path.read_bytes())
    if how in ("removed", "a folder", "a link to nowhere"):
        path.unlink()
        if how == "a folder":
            path.mkdir()
        elif how == "a link to nowhere":
            path.symlink_to(path.parent / "nowhere")
        return f"file, {how}"
    if how == "a bit flipped" and data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "cut":
        del data[rng.randrange(len(data) + 1) :]
    elif how == "emptied":
        data.clear()
    elif how == "other bytes":
        data[:] = rng.randbytes(len(data))
    else:
        data += rng.randbytes(9)
    path.write_bytes(data)
    return f"file, {how}"


def damage(count: int, rng: random.Random, place: pathlib.Path, worker: Worker) -> Count:
    """Breaks what a run of two epochs has left or reads, then asks for four and a control more."""
    found, here, kept = Count("damage"), place / "here", place / "kept"
    inputs(here)
    base = words([
        f"data.dir={here / 'photos'}", "data.name=folder", "data.image_size=8", "data.limit=0",
        f"noise.path={here / 'labels.csv'}", "noise.name=file", "targets=propagated",
        "relation_guided.optimizer.schedule=constant",
    ])  # fmt: skip
    more = [*base, "--config.epochs=4", "--config.controls=('base',)"]
    caching = {"RMDNET_CACHE": str(here / "cache")}
    for run in ([*base, "--config.epochs=2"], more):
        said = worker.run(run, here / "run", environ=caching)
        if said.status:
            raise SystemExit(f"cannot be run: {said.err}")
        if run is not more:
            shutil.copytree(here, kept, symlinks=True)
    whole = place / "whole"
    (here / "run").rename(whole)
    groups = ("run", "run/checkpoints", "run/checkpoints", "run/teacher", "photos", "cache", ".")
    for _ in range(count):
        shutil.rmtree(here)
        shutil.copytree(kept, here, symlinks=True)
        group = rng.choice(groups)
        inner = here.glob("*.*") if group == "." else (here / group).rglob("*")
        path = rng.choice(sorted(x for x in inner if "compiled" not in x.parts))
        what = f"{group if group != '.' else 'labels'}, {broken(path, rng)}"
        said = worker.run(more, here / "run", environ=caching)
        wrong = failed(said) or ("" if said.status else same(whole, here / "run"))
        what = f"{'refused' if said.status else 'ended alike'}: {what}"
        found.add(what, wrong and f"{path.relative_to(here)}: {wrong}", said.err)
    return found


def disks(count: int, rng: random.Random, place: pathlib.Path, worker: Worker) -> Count:
    """Limits the size of files as a full disk does, then gives room."""
    found, run = Count("disks"), words(CASES["ce, corrected labels, audit"])
    whole, workdir = place / "whole", place / "full"
    if (said := worker.run(run, whole)).status:
        raise SystemExit(f"cannot be run: {said.err}")
    sizes = [path.stat().st_size for path in whole.rglob("*") if path.is_file()]
    for _ in range(count):
        room = int(max(sizes) ** rng.random())  # as often between 10 and 100 as 100 and 1000
        said = worker.run(run, workdir, room=room)
        wrong = failed(said)
        again = worker.run(run, workdir)
        if not wrong:
            wrong = failed(again) or (f"then status {again.status}" if again.status else "")
        wrong = wrong or same(whole, workdir)
        what = "ended alike at once" if said.status == 0 else "refused, then ended alike"
        found.add(what, wrong and f"{room} bytes: {wrong}", said.err + again.err)
        shutil.rmtree(workdir, ignore_errors=True)
    return found


NUMBERS = ["0", "1", "2", "3", "5", "-1", "0.3", "0.9", "1e-8", "1e4", "1e38", "1e39", "nan",
           "inf", "-inf", "9" * 30, "", "x", "1,2", "None"]  # fmt: skip
TEXTS = ["", "x", "~nobody/x", "$NOWHERE/x", "gs://bucket/x", "/dev/null", "x" * 5000, "\u00e9",
         "auto", "0", "../x.csv", "x.npz", "x.safetensors"]  # fmt: skip
TUPLES = ["()", "(1,)", "(2,4)", "(0,)", "(-1,2)", "('base',)", "('base','base')", "x",
          "('rmdnet','teacher_knn')", "(1e99,)", "((1,2),)", "(", "[3]"]  # fmt: skip
SLOW = {"encoder.name": ["cnn", "x"]}  # larger networks take minutes to compile


def value(path: str, default: object, rng: random.Random) -> str:
    """A value for a field, more often one that it takes."""
    table = TABLES.get(path.removesuffix(".name")) if path.endswith(".name") else NAMED.get(path)
    if names := SLOW.get(path) or [*(table or ())]:
        return rng.choice([*names, "x"]) if rng.random() < 0.2 else rng.choice(names)
    if isinstance(default, bool):
        return rng.choice(("true", "false", "maybe", ""))
    if isinstance(default, int | float) and rng.random() < 0.5:  # near what it is
        return str(type(default)(default * rng.choice((0.5, 1, 1.5, 2))))
    kinds = {int: NUMBERS, float: NUMBERS, tuple: TUPLES}
    return rng.choice(kinds.get(type(default), [*TEXTS, *NUMBERS[:10]]))


def settings(count: int, rng: random.Random, place: pathlib.Path, worker: Worker) -> Count:
    """Random values of up to four fields; names come first, for they bring fields of their own."""
    found, named = Count("settings"), [*TABLES]
    for number in range(count):
        chosen = {f"{x}.name": "" for x in rng.sample(named, rng.choice((0, 1, 2)))}
        chosen = {path: value(path, "", rng) for path in chosen}
        known = fields(chosen)
        for path in rng.sample(sorted(known), rng.choice((1, 2))):
            chosen.setdefault(path, value(path, known[path], rng))
        run = words([f"{path}={x}" for path, x in chosen.items()])
        said = worker.run(["--config.data.limit=128", *run], place / f"run{number}")
        shown = " ".join(f"{path}={x:.40}" for path, x in chosen.items())
        found.add("refused" if said.status else "trained", failed(said) and shown, said.err)
        if not said.status and (wrong := clean(place / f"run{number}")):
            found.add("trained", f"{shown}: {wrong}")
        shutil.rmtree(place / f"run{number}", ignore_errors=True)
    return found


TRIALS = {"kills": kills, "damage": damage, "disks": disks, "settings": settings}


def main() -> int:
    """Runs the trials."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, count in zip(TRIALS, (100, 200, 20, 200)):
        parser.add_argument(f"--{name}", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="a .json file for the counts")
    args, told = parser.parse_args(), {}
    with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
        place = pathlib.Path(folder)
        for name, trial in TRIALS.items():
            if count := getattr(args, name):
                (place / name).mkdir()
                with Worker(place / "cache") as worker:
                    rng = random.Random(f"{args.seed} {name}")
                    told[name] = trial(count, rng, place / name, worker).report()
    if args.out:
        write_json(args.out, told)
    bad = sum(len(part["bad"]) for part in told.values())
    print(f"{bad} did not hold" if bad else "all held")
    return int(bad > 0)


if __name__ == "__main__":
    raise SystemExit(main())
