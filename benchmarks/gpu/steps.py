"""P1, P3, P4: milliseconds of each training step, of a step of many, and of an evaluation.

    python -m benchmarks.gpu.steps DATA.npz OUT.json [--seconds 200] [--cases CASE:BATCH ...]

A case is one of `benchmarks.ours`. At its end `+many` runs `--many` steps a call, and `+raw` leaves
the augmentation of relation modeling out. Beside one case prediction, features and kNN are timed.
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
from rmdnet_jax.app.setup import Run, setup
from rmdnet_jax.app.teacher import nearest
from rmdnet_jax.training import steps
from rmdnet_jax.types import Variables

CASES = ("ce:512", "simsiam:512", "online:512", "stored:512", "ce+many:512", "ce:128",
         "ce+many:128", "ce:1024", "simsiam:1024", "simsiam+many:512", "simsiam+raw:512",
         "simclr:512", "simclr+raw:512")  # fmt: skip


def timed(args: argparse.Namespace, case: str, batch: int) -> dict:
    """A case's row."""
    kind, _, how = case.partition("+")
    raw = {"relation_modeling.augmentation.name": "none"} if how == "raw" else {}
    with tempfile.TemporaryDirectory() as folder:
        made = setup(
            ours.configured(args.data, args.network, kind, batch, 10, **raw),
            pathlib.Path(folder) / "w",
        )
        stage = ours.stage_of(made, kind)._replace(steps_per_call=args.many if how == "many" else 1)
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
        if f"{case}:{batch}" == args.evaluated:
            row |= evaluated(made, held[0].variables)
        row["peak_bytes"] = ours.peak_memory()
    return row


def evaluated(made: Run, variables: Variables) -> dict:
    """Milliseconds of an evaluation's parts, and how many images they see."""
    params, stats = (tree[0]["encoder"] for tree in variables)
    encoder, (train, test) = Variables(params, stats), made.images
    bank, query = (made.features(encoder, images) for images in (train, test))
    labels, found = made.source.labels, {}
    for name, part, images in (
        ("evaluation", lambda: made.predict(variables, test), test),
        ("features", lambda: made.features(encoder, train), train),
        ("knn", lambda: nearest(made)(bank, labels, query), test),
    ):
        found[name] = {**median(part, 1, 3), "images": len(images)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("out")
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--evaluated", default="ce:512", help="the case that more is timed of")
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
