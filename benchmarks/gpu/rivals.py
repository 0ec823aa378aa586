"""P5: a step of ours against one of a compiled PyTorch, in turns.

    python -m benchmarks.gpu.rivals DATA.npz OUT.json [--cases ce simsiam] [--seconds 150]

Each rival is a process of its own (`benchmarks.speed`, `benchmarks.theirs`). Where PyTorch cannot
compile there, it runs eager, and the row says so.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from importlib import metadata

from benchmarks import speed
from benchmarks.gpu.record import Record

EPOCHS = 10_000  # more than are run
RIVALS = ("ours", "theirs")


def compared(args: argparse.Namespace, case: str) -> dict:
    """A case's row."""
    given = (args.data, args.network, args.batch, EPOCHS)
    os.environ.pop("TORCHDYNAMO_DISABLE", None)
    with tempfile.TemporaryDirectory() as cache:
        for rival in ("compiled", "eager"):
            try:
                found = speed.compare(RIVALS, cache, args.turns, case, given)
            except SystemExit as error:  # one of the two has ended early
                why = str(error)
                os.environ["TORCHDYNAMO_DISABLE"] = "1"  # `torch.compile` does nothing then
                continue
            rates = {
                f"{name}_images_per_s": args.batch / found[name]["seconds"]["median"]
                for name in RIVALS
            }
            return {"torch": metadata.version("torch"), "rival": rival, **rates, **found}
        return {"error": why}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("out")
    parser.add_argument("--cases", nargs="+", default=("ce", "simsiam"), choices=speed.CASES[:-1])
    parser.add_argument("--network", default="resnet18")
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=150, help="start no case after these")
    args = parser.parse_args()
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # both share the card
    record = Record(args.out, "rivals")
    for case in args.cases:
        if record.seconds() < args.seconds:
            about = {"case": case, "network": args.network, "batch": args.batch}
            record.add(**about, **compared(args, case))


if __name__ == "__main__":
    main()
