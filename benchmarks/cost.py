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
import concurrent.futures
import contextlib
import functools
import json
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from benchmarks import cost_figures, ours
from benchmarks.cost_runs import whole
from benchmarks.speed import BATCH, spread
from rmdnet_jax import sharding
from rmdnet_jax.app import experiment, report
from rmdnet_jax.app.arms import own
from rmdnet_jax.app.correct import Corrected
from rmdnet_jax.app.overrides import override
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.app.setup import setup
from rmdnet_jax.app.teacher import Teacher
from rmdnet_jax.methods import METHODS
from rmdnet_jax.training import fit
from rmdnet_jax.types import AXIS

VARIANTS: dict[str, dict[str, Any]] = {
    "alone": {"weight": 0.0},
    "online": {"relation_guided.teacher_features": "online"},
    "stored": {"relation_guided.teacher_features": "stored"},
    "corrected": {"weight": 0.0, "targets": "propagated"},
}
NETWORKS = ("cnn", "resnet18", "resnet34", "wrn28_2", "resnet50")
COMPILED = {"resnet50": 224}  # never run here; pixels of its images, where they are not 32
BATCHES = {kind: {**sizes, "resnet50": 128 if kind == "gpu" else 16}
           for kind, sizes in BATCH.items()}  # fmt: skip
EPOCHS = 100  # of the configs whose steps are taken
WARM, LEAST = 2, 0.2  # turns before those that count; seconds of a turn: short steps are repeated


def write_data(path: str, count: int, pixels: int) -> None:
    """Random images, every class among them."""
    images = np.random.default_rng(0).integers(0, 256, (count, pixels, pixels, 3), dtype=np.uint8)
    labels = np.arange(count, dtype=np.uint8) % 10
    np.savez(path, images=images, labels=labels, test_images=images[:2], test_labels=labels[:2])


def stage_of(data: str, network: str, method: str, variant: str, batch: int, real: bool):
    """The stage of one program; a teacher's arrays are random, or shapes alone."""
    known = ours.configured(data, network, "online", batch, EPOCHS)
    config = resolve(override(known, {"method": method, **VARIANTS[variant]}))
    made = setup(config, pathlib.Path(data).with_suffix(".none"))
    image = np.zeros((2, *made.source.images.shape[1:]), np.float32)
    init = functools.partial(made.encoder.init, jax.random.key(1))
    variables = jax.jit(init)(image) if real else jax.eval_shape(init, image)
    apply = lambda x: made.encoder.apply(x, image, False)[0]  # noqa: E731
    size, random = len(made.given), np.random.default_rng(1)
    dim = jax.eval_shape(apply, variables).shape[-1]
    teacher = Teacher(random.normal(size=(size, dim)).astype(np.float32), None, variables, {}, {})
    targets = random.dirichlet(np.ones(made.classes), size).astype(np.float32)
    parts, labels = experiment.learner(made), Corrected(targets, {})
    return experiment.stage(made, parts, own(config), teacher, labels), made.mesh


def lowered(stage: fit.Stage, mesh: Mesh, elsewhere: bool):
    """The step as a program that is not yet compiled, for the mesh's devices."""
    rows, frozen, key = stage.pipeline.batch(0), stage.objective.frozen, stage.key
    state = fit.shapes(stage, mesh, rows)
    if elsewhere:
        rows = _placed(NamedSharding(mesh, PartitionSpec(AXIS)), rows)
        frozen, key = _placed(sharding.everywhere(mesh), (frozen, key))
    with jax.set_mesh(mesh):
        step = jax.jit(functools.partial(fit.step, stage), donate_argnums=0)
        return step.lower(state, frozen, rows, key)


def _placed(where: NamedSharding, tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), tree)


def compiled(programs: dict[str, Any]) -> dict[str, Any]:
    """All of them compiled, side by side."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        return dict(zip(programs, pool.map(lambda program: program.compile(), programs.values())))


def facts(program: Any) -> dict[str, float]:
    """What the compiler says of a program: bytes of memory, operations, bytes read and written."""
    memory, cost = program.memory_analysis(), program.cost_analysis() or {}
    return {
        "temporary_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "flops": cost.get("flops", 0.0),
        "bytes": cost.get("bytes accessed", 0.0),
    }


def runner(stage: fit.Stage, mesh: Mesh, program: Any) -> Callable[[], None]:
    """Takes one step, and waits for it."""
    rows, frozen, key = stage.pipeline.batch(0), stage.objective.frozen, stage.key
    with jax.set_mesh(mesh):
        init = functools.partial(fit.initial, stage)
        state = jax.jit(init, out_shardings=sharding.everywhere(mesh))(frozen, rows, key)

    def run():
        nonlocal state
        state, loss = program(state, frozen, rows, key)
        loss.block_until_ready()

    return run


def in_turns(
    runs: dict[str, Callable[[], None]], turns: int, seconds: float
) -> dict[str, list[float]]:
    """Milliseconds of each run, by turns; at least three turns, then as many as `seconds` hold.

    Each turn begins with another run, so that none always follows the same.
    """
    names, took = [*runs], {name: [] for name in runs}
    began = time.perf_counter()
    for turn in range(-WARM, turns):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            start, count, spent = time.perf_counter(), 0, 0.0
            while spent < LEAST:
                runs[name]()
                count, spent = count + 1, time.perf_counter() - start
            if turn >= 0:
                took[name].append(1e3 * spent / count)
        if turn >= 2 and time.perf_counter() - began > seconds:
            break
    return took


def rows_of(
    data: str, network: str, method: str, batch: int, mesh: Mesh | None, limits: tuple | None
) -> list[dict[str, Any]]:
    """A method's rows; without `limits`, (turns, seconds), nothing is run."""
    stages = {
        name: stage_of(data, network, method, name, batch, limits is not None) for name in VARIANTS
    }
    programs = compiled(
        {
            name: lowered(stage, mesh or here, limits is None)
            for name, (stage, here) in stages.items()
        }
    )
    rows = {name: {"method": method, "variant": name, **facts(programs[name])} for name in VARIANTS}
    if limits:
        took = in_turns(
            {name: runner(*stages[name], programs[name]) for name in VARIANTS}, *limits
        )
        for name, row in rows.items():
            row["ms"] = spread(took[name])
            row["images_per_second"] = 1e3 * batch / row["ms"]["median"]
            row["times"] = spread([x / y for x, y in zip(took[name], took["alone"])])
    return [*rows.values()]


@contextlib.contextmanager
def target(path: str) -> Iterator[Mesh | None]:
    """The card that a file describes, and all choices made as on a GPU; "": this machine."""
    if not path:
        yield None
        return
    text = pathlib.Path(path).read_text()
    card = topologies.get_topology_desc("card", "cuda", target_config=text, topology="1x1x1")
    with mock.patch("jax.default_backend", lambda: "gpu"):
        yield Mesh(np.array(card.devices), (AXIS,), axis_types=(AxisType.Auto,))


def steps(args: argparse.Namespace, network: str) -> Iterator[dict[str, Any]]:
    """A network's block, again after each method."""
    with tempfile.TemporaryDirectory() as folder, target(args.h100) as mesh:
        kind = "cpu" if jax.default_backend() == "cpu" else "gpu"
        batch = args.batch or BATCHES[kind][network]
        data, pixels = f"{folder}/data.npz", COMPILED.get(network, 32)
        write_data(data, max(2 * batch, 20), pixels)
        limits = None if args.compile or args.h100 else (args.turns, args.seconds)
        about = {"network": network, "batch": batch, "pixels": pixels, "dtype": ours.dtype()}
        rows: list[dict] = []
        for method in args.methods:
            rows += rows_of(data, network, method, batch, mesh, limits)
            yield {**about, "rows": [*rows]}


def blocks(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What the command line asks for, a part and network a block."""
    part = "digits" if args.digits else "h100" if args.h100 else "compile" if args.compile else ""
    about = {
        "part": part or "steps",
        "command": " ".join(["python -m benchmarks.cost", *sys.argv[1:]]),
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
    parser.add_argument("--turns", type=int, default=15, help="of each variant, at most")
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
    if min(args.epochs, args.modeling) < 2:
        parser.error("--epochs and --modeling must be at least 2: the first epoch compiles")
    return args


def main() -> None:
    args = flags(sys.argv[1:])
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
