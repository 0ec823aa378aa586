"""Compiles an experiment for chips that are not here: does it fit, and what do chips exchange?

    rmdnet compile --config cifar10_sym --topology v5e:4x4
    rmdnet compile --config image_folder:encoder=resnet50,batch_size=4096 --topology v5e:16x16 \\
        --examples 1000000 --classes 100 --image 224x224x3 --json pod.json

The compiler is the one that works there, so memory and collectives are what you will get. It tells
no times. A large network takes minutes a program. Data need not be here: say how many there are.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rmdnet_jax.app.command import Parser, parted
from rmdnet_jax.app.compile.facts import facts, largest_batch, too_much
from rmdnet_jax.app.compile.words import HEAD, SAYS, Row, line, opening, verdict
from rmdnet_jax.errors import UserError, within, wrong

if TYPE_CHECKING:
    from rmdnet_jax.app.compile.programs import Data, Program
    from rmdnet_jax.app.compile.target import Target

ALONE = {  # else libtpu looks for the machine that it is on, complains, and locks it
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
# Data that need not be prepared to be known: examples, classes, image, test examples.
KNOWN = {
    "cifar10": (50_000, 10, (32, 32, 3), 10_000),
    "cifar100": (50_000, 100, (32, 32, 3), 10_000),
}


def main(argv: list[str] | None = None) -> int:
    """The command `rmdnet compile`; 1 where the experiment does not fit."""
    args, overrides = read(sys.argv[1:] if argv is None else argv)
    prepare()
    from rmdnet_jax.app.compile.target import target
    from rmdnet_jax.app.load import get_config
    from rmdnet_jax.app.resolve import resolve
    from rmdnet_jax.files import place, write_json

    config = resolve(get_config(args.config, overrides))
    there = target(args.topology)
    data = shapes(config, args)
    path = args.json and place(args.json, "--json")
    if path and not path.parent.is_dir():
        raise wrong("--json", f"lie in a folder that is there, got {args.json!r}")
    found = about(args, overrides, config, data, there)
    for row in compiled(config, data, there, args.only):
        if not found["programs"]:  # what cannot be is refused by now
            print(opening(found), HEAD, sep="\n")
        found["programs"].append(row)
        print(line(row), flush=True)
        if path:  # again after each, as the next may take minutes
            write_json(path, found)
    print(verdict(found["programs"], there.memory))
    return int(not all(row["fits"] for row in found["programs"]))


def prepare() -> None:
    """Before JAX is imported: it uses no device of this machine, and asks no network what it is."""
    os.environ["JAX_PLATFORMS"] = "cpu"
    for name, value in ALONE.items():
        os.environ.setdefault(name, value)
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_gpu_autotune_level" not in flags:  # without a card no kernel can be timed
        os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_autotune_level=0".strip()


def read(argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The flags, and the values of `--config.field=value`."""
    usage = "%(prog)s --config CONFIG --topology TOPOLOGY [--config.field=value ...]"
    parser = Parser(prog="rmdnet compile", usage=usage, description=__doc__)
    parser.add_argument("--config", required=True, help="as for rmdnet train")
    parser.add_argument("--topology", required=True, help="v5e:2x2, v5p:4x4x4, h100:8, ...")
    parser.add_argument("--examples", type=int, help="to train on; else those of the config's data")
    parser.add_argument("--classes", type=int, help="likewise")
    parser.add_argument("--image", help="its size, HEIGHTxWIDTHxCHANNELS: 32x32x3")
    parser.add_argument("--only", help="some programs: modeling,guided,...")
    parser.add_argument("--json", help="a file for all that was found")
    rest, overrides = parted(argv)
    args = parser.parse_args(rest)
    for name in ("examples", "classes"):
        if (value := getattr(args, name)) is not None:
            within(f"--{name}", value, "[2, 2147483647]", whole=True)
    # not by argparse, which would hide what is wrong
    args.image = None if args.image is None else pixels(args.image)
    args.only = None if args.only is None else chosen(args.only)
    return args, overrides


def pixels(text: str) -> tuple[int, ...]:
    """The size of an image, "32x32x3" -> (32, 32, 3)."""
    if not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}x[1-4]", text):
        raise wrong("--image", f"be HEIGHTxWIDTHxCHANNELS, as in 32x32x3, got {text!r}")
    return tuple(map(int, text.split("x")))


def chosen(text: str) -> list[str]:
    """Names of programs, "guided,votes" -> ["guided", "votes"]."""
    names = text.split(",")
    if unknown := [name for name in names if name not in SAYS]:
        raise wrong("--only", f"be out of {', '.join(SAYS)}, got {unknown[0]!r}")
    return names


def shapes(config: Any, args: argparse.Namespace) -> Data:
    """What is known of the data: as the flags say, else those of the config, where they are."""
    from rmdnet_jax.app import setup
    from rmdnet_jax.app.compile.programs import Data

    told = {name: getattr(args, name) for name in ("examples", "classes", "image")}
    told = {name: value for name, value in told.items() if value is not None}
    if len(told) == 3:
        return Data(**told)
    if config.data.name in KNOWN:
        found = Data(*KNOWN[config.data.name])
        found = found._replace(examples=min(config.data.limit or found.examples, found.examples))
        return found._replace(**told)
    try:
        source = setup.read(config)
    except UserError as error:
        hint = "data that are elsewhere need --examples, --classes and --image"
        raise UserError(f"{error}; {hint}") from None
    size, *image = source.images.shape
    found = Data(size, len(source.names), tuple(image), len(source.test_labels))
    return found._replace(**told)


def about(args: argparse.Namespace, overrides: dict, config: Any, data: Data, there: Target) -> Row:
    """What was asked for, as the file says it."""
    import jax

    return {
        "topology": there.name,
        "chips": there.mesh.size,
        "chip": there.chip,
        "memory_bytes": there.memory,
        "config": args.config,
        "overrides": overrides,
        "encoder": config.encoder.to_dict(),
        "data": data._asdict(),
        "jax": jax.__version__,
        "compiler": there.compiler,
        "programs": [],
    }


def compiled(config: Any, data: Data, there: Target, only: Sequence[str] | None) -> Iterator[Row]:
    """A row for each program, as soon as it is compiled; `data` always is, others lie beside it."""
    from rmdnet_jax.app.compile.programs import programs
    from rmdnet_jax.app.compile.target import choosing

    near, held = images_near(config, data, there.memory), 0

    @functools.cache
    def here() -> dict[str, Program]:
        return {one.name: one for one in programs(config, data, one_cpu(), near)}

    with choosing(there.backend):
        for program in programs(config, data, there.mesh, near):
            if only is None or program.name in (*only, "data"):
                row = compiled_one(program, there, held, lambda: here()[program.name])  # noqa: B023
                held = held or row.get("argument_bytes", 0)
                yield row


def one_cpu() -> Any:
    """The mesh that programs are counted on where the compiler for a chip counts nothing."""
    import jax
    from jax.sharding import AxisType, Mesh

    from rmdnet_jax.types import AXIS

    return Mesh(jax.devices("cpu")[:1], (AXIS,), axis_types=(AxisType.Auto,))


def images_near(config: Any, data: Data, memory: int) -> bool:
    """Whether images lie on the chips: as `data.pipeline` says, or where half of one holds them."""
    asked = config.data.get("pipeline", "auto")
    height, width, channels = data.image
    size = (data.examples + data.tests) * height * width * channels
    return asked == "resident" or (asked == "auto" and size <= memory // 2)


def compiled_one(program: Program, there: Target, held: int, here: Callable[[], Program]) -> Row:
    """What one program takes of a chip that holds the data already; `here()` is it for a CPU."""
    began = time.perf_counter()
    row: Row = {"name": program.name, "unit": program.unit, "batch": program.batch}
    lowered = program.lower()
    try:
        made = lowered.compile()
    except Exception as error:  # the compiler refuses what cannot fit, and what it is too weak for
        need = too_much(str(error))
        if need is None:
            row["error"] = " ".join(str(error).split())[:300]
        return row | {"total_bytes": held + (need or 0), "fits": False, "data_bytes": held}
    flops = None
    if "flops" not in (made.cost_analysis() or {}):
        flops = here().lower().cost_analysis()["flops"] / there.mesh.size
    found = facts(made, flops)
    inside = found.arguments + found.temporaries + found.others
    growing = program.rows + found.temporaries
    return row | {
        "data_bytes": held,
        "argument_bytes": found.arguments,
        "temporary_bytes": found.temporaries,
        "other_bytes": found.others,
        "total_bytes": held + inside,
        "fits": held + inside <= there.memory,
        "batch_that_fits": program.batch and largest_batch(
            program.batch, there.mesh.size, there.memory, held + inside - growing, growing
        ),
        "flops": found.flops,
        "bytes": found.bytes,
        "kernels": found.kernels,
        "collectives": [one._asdict() for one in found.collectives],
        "seconds": round(time.perf_counter() - began, 1),
    }  # fmt: skip
