"""Runs one experiment, or continues it.

    rmdnet train --config configs/digits_asym.py --workdir runs/demo
    rmdnet train --config cifar10_sym:rate=0.8,seed=1 --workdir runs/sym80
    rmdnet train --config digits --config.method=elr --workdir runs/elr

A config is a file or a preset's name. Values after its colon and `--config.field=value` mean the
same. `--print_config` shows every field.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence

from rmdnet_jax.app.command import Parser, guarded, say
from rmdnet_jax.errors import UserError

FIELD, NAME = "--config.", "python -m rmdnet_jax.main"


def main(argv: list[str]) -> int:
    """Runs the command that `argv[0]` names; returns its status, see `guarded`; 143: stopped."""
    again = "interrupted; the same command continues"
    return guarded(argv[0], lambda: run(*argv), again)


def run(prog: str, *words: str) -> int:
    """What was asked for."""
    args, overrides = read(words, prog)
    from rmdnet_jax.app.load import get_config
    from rmdnet_jax.app.resolve import resolve

    config = resolve(get_config(args.config, overrides))
    if args.print_config:
        print(json.dumps(config.to_dict(), indent=2))
        return 0
    import jax

    from rmdnet_jax.app import experiment, setup
    from rmdnet_jax.training.stop import Stopped

    setup.keep_programs()
    if args.multihost:
        join(jax.distributed.initialize)
    try:
        experiment.run(config, args.workdir, given={"config": args.config, "overrides": overrides})
    except Stopped as stopped:
        return say(prog, stopped, 143)
    return 0


def join(initialize: Callable) -> None:
    """Meets the other hosts' processes; raises `UserError` where no cluster answers.

    JAX finds a cluster by itself. Elsewhere `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID` tell it.
    """
    told = {name: os.environ.get(f"JAX_{name.upper()}") for name in ("num_processes", "process_id")}
    try:
        initialize(**{name: int(value) for name, value in told.items() if value})
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise UserError(
            "--multihost needs a cluster that jax.distributed.initialize() finds by itself, "
            f"got: {text}"
        ) from None


def parser(prog: str) -> Parser:
    """The flags."""
    usage = "%(prog)s --config CONFIG --workdir WORKDIR [--config.field=value ...]"
    made = Parser(prog=prog, usage=usage, description=__doc__)
    made.add_argument("--config", help="a preset's name or a file, an argument after a colon")
    made.add_argument("--workdir", help="where everything is written; a run there continues")
    made.add_argument("--print_config", action="store_true", help="show every field, and end")
    made.add_argument(
        "--multihost", action="store_true", help="the same command on each host of a cluster"
    )
    return made


def read(argv: Sequence[str], prog: str = NAME) -> tuple[argparse.Namespace, dict[str, str]]:
    """The flags, and the values of `--config.field=value` or `--config.field value`."""
    rest, overrides, words = [], {}, iter(argv)
    for word in words:
        if not word.startswith(FIELD):
            rest.append(word)
            continue
        name, given, value = word.removeprefix(FIELD).partition("=")
        if not given and (value := next(words, None)) is None:
            raise UserError(f"{word} needs a value, as in {word}=1")
        overrides[name] = value
    args = parser(prog).parse_args(rest)
    if not (args.config and (args.workdir or args.print_config)):
        raise UserError(
            "--config and --workdir are required, as in "
            "--config configs/digits_asym.py --workdir runs/demo"
        )
    return args, overrides


if __name__ == "__main__":
    sys.exit(main([NAME, *sys.argv[1:]]))
