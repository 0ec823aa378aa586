"""What RMDNet costs beside every base method: time, memory, operations, bytes, and whole runs.

    python -m benchmarks.cost --networks cnn,resnet18             # steps, here
    python -m benchmarks.cost --networks resnet50 --compile       # by the compiler alone: no times
    python -m benchmarks.cost --networks resnet18 --h100 TARGET   # compiled for an H100: no times
    python -m benchmarks.cost --digits --seeds 0 1 2              # whole runs
    python -m benchmarks.cost --show                              # the table and the figure

Each method is taken alone, with RMDNet (teacher online, teacher stored), and on corrected labels.
The four take turns in one process, so that a drifting machine harms no comparison. Every command
puts what it found into one JSON file, in place of the same part and network. Table and figure come
from that file alone.

TARGET is a text file that describes the card to XLA's compiler (`GpuTargetConfigProto`). It needs
a jax that has the CUDA compiler, no card.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import sys
import tempfile
from collections.abc import Iterator
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from benchmarks import cost_figures, ours
from benchmarks.cost_runs import whole
from benchmarks.cost_steps import VARIANTS, rows_of
from benchmarks.speed import BATCH, write_data
from rmdnet_jax import cpu, sharding
from rmdnet_jax.app import report
from rmdnet_jax.methods import METHODS
from rmdnet_jax.types import AXIS

NETWORKS = ("cnn", "resnet18", "resnet34", "wrn28_2", "resnet50")
COMPILED = {"resnet50": 224}  # never run here; pixels of its images, where they are not 32
BATCHES = {kind: {**sizes, "resnet50": 128 if kind == "gpu" else 16}
           for kind, sizes in BATCH.items()}  # fmt: skip


@contextlib.contextmanager
def target(path: str) -> Iterator[Mesh | None]:
    """The card that a file describes, and all choices made as on a GPU; "": this machine."""
    if not path:
        yield None
        return
    text = pathlib.Path(path).read_text()
    try:
        card = topologies.get_topology_desc("card", "cuda", target_config=text, topology="1x1x1")
    except Exception as error:  # each version of jax has its own
        raise SystemExit(f"benchmarks.cost: this jax compiles for no {path}: {error}") from None
    with mock.patch("jax.default_backend", return_value="gpu"):
        yield Mesh(np.array(card.devices), (AXIS,), axis_types=(AxisType.Auto,))


def steps(args: argparse.Namespace, network: str) -> Iterator[dict[str, Any]]:
    """A network's block, again after each method."""
    with tempfile.TemporaryDirectory() as folder, target(args.h100) as mesh:
        kind = "cpu" if jax.default_backend() == "cpu" else "gpu"
        batch = args.batch or BATCHES[kind][network]
        data, pixels = f"{folder}/data.npz", COMPILED.get(network, 32)
        write_data(data, max(2 * batch, 20), pixels, 2)
        limits = None if args.compile or args.h100 else (args.turns, args.seconds)
        about = {"network": network, "batch": batch, "pixels": pixels, "dtype": ours.dtype()}
        rows: list[dict] = []
        for method in args.methods:
            rows += rows_of(data, network, method, batch, mesh, limits)
            yield {**about, "rows": [*rows]}


def blocks(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What the command line asks for, a part and network a block."""
    part = "digits" if args.digits else "h100" if args.h100 else "compile" if args.compile else ""
    words = [pathlib.Path(word).name for word in sys.argv[1:]]  # where files lie is no matter
    about = {
        "part": part or "steps",
        "command": " ".join(["python -m benchmarks.cost", *words]),
        "environment": report.environment(sharding.mesh()),
    }
    if args.digits:
        rows: list[dict] = []
        for row in whole(args.methods, args.seeds, args.epochs, args.modeling, VARIANTS):
            rows.append(row)
            yield {**about, "network": "digits", "rows": [*rows]}
        return
    for network in args.networks:
        for block in steps(args, network):
            yield {**about, **block}


def merged(known: list[dict], block: dict) -> list[dict]:
    """The blocks with one more, in place of the one of its part and network."""
    name = (block["part"], block["network"])
    return [x for x in known if (x["part"], x["network"]) != name] + [block]


def flags(words: list[str]) -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    lists = {"networks": (NETWORKS, "cnn"), "methods": (tuple(METHODS), ",".join(METHODS))}
    for name, (known, default) in lists.items():
        text = f"comma-separated, of {', '.join(known)}"
        parser.add_argument(f"--{name}", default=default, help=text)
    parser.add_argument("--compile", action="store_true", help="nothing is run: no times")
    parser.add_argument("--h100", metavar="TARGET", default="", help="compile for this card")
    parser.add_argument("--turns", type=int, default=16, help="of each variant, at most")
    parser.add_argument("--seconds", type=float, default=20, help="of a method's turns")
    parser.add_argument("--batch", type=int, default=0, help="0: as in benchmarks.speed")
    parser.add_argument("--digits", action="store_true", help="whole runs instead of steps")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--epochs", type=int, default=80, help="of a student on digits")
    parser.add_argument("--modeling", type=int, default=150, help="of the teacher on digits")
    parser.add_argument("--accuracy", type=float, default=0.9, help="that is to be reached")
    parser.add_argument("--show", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("docs/cost.json"))
    parser.add_argument("--page", type=pathlib.Path, help="puts the table between its two marks")
    args = parser.parse_args(words)
    for name, (known, _) in lists.items():
        setattr(args, name, getattr(args, name).split(","))
        if bad := sorted(set(getattr(args, name)) - set(known)):
            parser.error(f"--{name} must be out of {', '.join(known)}, got {', '.join(bad)}")
    runs = not (args.compile or args.h100 or args.digits or args.show)
    if runs and (found := set(args.networks) & set(COMPILED)):
        parser.error(f"--networks {', '.join(found)} needs --compile or --h100")
    if args.h100 and not pathlib.Path(args.h100).is_file():
        parser.error(f"--h100 must be a file that describes a card, got {args.h100}")
    if min(args.epochs, args.modeling) < 2:
        parser.error("--epochs and --modeling must be at least 2: the first epoch compiles")
    return args


def main() -> None:
    args = flags(sys.argv[1:])
    cpu.keep_memory()
    known = json.loads(args.out.read_text()) if args.out.exists() else []
    for block in () if args.show else blocks(args):
        known = merged(known, block)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(known, indent=1) + "\n")
        print(f"{block['part']}, {block['network']}: {len(block['rows'])} rows", flush=True)
    text = cost_figures.tables(known, args.accuracy)
    if args.page:
        args.page.write_text(cost_figures.placed(args.page.read_text(), text))
    cost_figures.figure(known, args.out.with_suffix(".png"))
    print(text, *cost_figures.shares(known), sep="\n")


if __name__ == "__main__":
    main()
