"""P1, P3, P4: milliseconds of each training step, of a step of many, and of an evaluation.

    python -m benchmarks.gpu.steps DATA.npz OUT.json [--seconds 200] [--cases CASE:BATCH ...]

A case is one of `benchmarks.ours`; `+many` at its end runs `--many` steps a call.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import tempfile
import time

import jax

from benchmarks import ours
from benchmarks.gpu.record import Record, median
from rmdnet_jax.app.setup import setup
from rmdnet_jax.training import steps

CASES = ("ce:512", "simsiam:512", "online:512", "stored:512", "ce+many:512", "ce:128",
         "ce+many:128", "ce:1024", "simsiam:1024", "simsiam+many:512")  # fmt: skip


def timed(args: argparse.Namespace, case: str, batch: int) -> dict:
    """A case's row."""
    kind, _, many = case.partition("+")
    with tempfile.TemporaryDirectory() as folder:
        made = setup(
            ours.configured(args.data, args.network, kind, batch, 10), pathlib.Path(folder) / "w"
        )
        stage = ours.stage_of(made, kind)._replace(steps_per_call=args.many if many else 1)
        frozen, rows = stage.objective.frozen, stage.pipeline.batch(0)
        state = jax.jit(functools.partial(steps.initial, stage))(frozen, rows, stage.key)
        each, call = steps.caller(stage)
        start, held = time.perf_counter(), [state]

        def go():
            held[0], loss = call(held[0], 0, each)
            return loss

        jax.block_until_ready(go())
        row = {"case": case, "network": args.network, "batch": batch}
        row["first_seconds"] = time.perf_counter() - start
        found = median(go, 2, args.times)
        row |= {name: x / (1 if name == "n" else each) for name, x in found.items()}
        row["images_per_s"] = 1e3 * batch / row["ms"]
        if case == "ce" and batch == 512:
            test = made.images[1]
            row["evaluation"] = median(lambda: made.predict(held[0].variables, test), 1, 3)
            row["evaluation"]["images"] = len(test)
        row["peak_bytes"] = ours.peak_memory()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("out")
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--many", type=int, default=16, help="steps of a call")
    parser.add_argument("--seconds", type=float, default=200, help="start no case after these")
    args = parser.parse_args()
    record = Record(args.out, "steps")
    for text in args.cases:
        case, batch = text.split(":")
        if record.seconds() < args.seconds:
            record.add(**timed(args, case, int(batch)))


if __name__ == "__main__":
    main()
