"""P2: what compiler flags cost, and with which of them a run is the same bit for bit.

    python -m benchmarks.gpu.flags DATA.npz OUT.json [--seconds 150]

Each variant trains by CE in a process of its own, which gives the milliseconds of a step. A second
process trains anew (`again`), and goes on from a copy of the first's checkpoint at half the run
(`resume`): are all bits of the final state the same? The second processes run side by side.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import jax

from benchmarks import ours
from benchmarks.gpu.record import Record
from rmdnet_jax import files
from rmdnet_jax.app import exact
from rmdnet_jax.app.setup import setup
from rmdnet_jax.training import fit
from rmdnet_jax.training.metrics import Writer

EXCLUDED = "--xla_gpu_exclude_nondeterministic_ops=true"
VARIANTS = {
    "as shipped": "",
    "deterministic=true": " ".join(exact.FLAGS),
    "autotuning off": "--xla_gpu_autotune_level=0",
    "no command buffers": "--xla_gpu_enable_command_buffer=",
    "no nondeterministic operations": EXCLUDED,
    "neither those nor autotuning": f"{EXCLUDED} --xla_gpu_autotune_level=0",
}
CASE = "ce"  # of `benchmarks.ours`


def train(data: str, network: str, batch: int, epochs: int, folders: list[str]) -> list[dict]:
    """Trains in each folder, from what is there; what the bits are, and each epoch's seconds."""
    made = setup(ours.configured(data, network, CASE, batch, epochs), pathlib.Path(folders[0]))
    stage = ours.stage_of(made, CASE)._replace(evaluate=lambda *_: {})
    steps, found = stage.pipeline.steps_per_epoch, []
    for folder in map(pathlib.Path, folders):
        folder.mkdir(exist_ok=True)
        writer, half = Writer(folder), epochs // 2 * steps
        state = fit.fit(stage, made.mesh, folder / "checkpoints", half, writer)
        seconds = [record["train_seconds"] for record in writer.timing.of(stage.name)]
        leaves = jax.tree.leaves(jax.device_get(state))
        found.append({"bits": files.digest(*leaves), "steps": steps, "seconds": seconds})
    return found


def process(flags: str, cache: str, *arguments: str) -> list[dict] | str:
    """`train` in a process with these flags and no compiled programs; or why it ended."""
    environment = os.environ | {
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    command = [sys.executable, "-m", "benchmarks.gpu.flags", "--train", *arguments]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    if run.returncode:
        return " ".join(run.stderr.split())[-300:]
    return json.loads(run.stdout.splitlines()[-1])


def halved(folder: pathlib.Path, copy: pathlib.Path) -> str:
    """A copy of a finished run as it was at half its steps."""
    shutil.copytree(folder, copy)
    places = sorted(
        (p for p in (copy / "checkpoints").iterdir() if p.name.isdigit()), key=lambda p: int(p.name)
    )
    assert len(places) == 2, places
    shutil.rmtree(places[1])
    return str(copy)


def cost(found: dict, batch: int) -> dict:
    """Milliseconds of a step by epoch, the first left out: it compiles."""
    ms = [1e3 * seconds / found["steps"] for seconds in found["seconds"][1:]]
    spread = {"ms": statistics.median(ms), "low": min(ms), "high": max(ms), "n": len(ms)}
    rate = 1e3 * batch / spread["ms"]
    return {**spread, "images_per_s": rate, "first_seconds": found["seconds"][0]}


def measure(args: argparse.Namespace, record: Record, root: pathlib.Path) -> None:
    """All variants: first each alone, then the second processes."""
    about = {"network": args.network, "batch": args.batch}
    given = (args.data, args.network, str(args.batch), str(args.epochs))
    first: dict[str, str] = {}

    def second(name: str) -> tuple[str, list[dict] | str]:
        here = root / name
        folders = str(here / "again"), halved(here / "first", here / "resume")
        return name, process(VARIANTS[name], str(here / "programs2"), *given, *folders)

    for name in args.variants:
        if record.seconds() > args.seconds:
            break
        here = root / name
        here.mkdir()
        ran = process(VARIANTS[name], str(here / "programs1"), *given, str(here / "first"))
        row = {"case": name, "flags": VARIANTS[name], **about}
        if isinstance(ran, str):
            record.add(**row, error=ran)
            continue
        first[name] = ran[0]["bits"]
        record.add(**row, **cost(ran[0], args.batch))
    with ThreadPoolExecutor(args.together) as pool:
        for name, ran in pool.map(second, first):
            row = {"case": f"{name}: bits", **about, "epochs": args.epochs}
            if isinstance(ran, str):
                record.add(**row, error=ran)
                continue
            again, resume = (one["bits"] == first[name] for one in ran)
            record.add(**row, again=again, resume=resume)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("out")
    parser.add_argument("--variants", nargs="+", default=VARIANTS, choices=VARIANTS)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=6, help="an even number")
    parser.add_argument("--together", type=int, default=6, help="processes side by side")
    parser.add_argument("--seconds", type=float, default=150, help="start no variant after these")
    args = parser.parse_args()
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    record = Record(args.out, "flags")
    with tempfile.TemporaryDirectory() as folder:
        measure(args, record, pathlib.Path(folder))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--train"]:
        data, network, batch, epochs, *folders = sys.argv[2:]
        print(json.dumps(train(data, network, int(batch), int(epochs), folders)))
    else:
        main()
