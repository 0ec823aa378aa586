"""Runs one experiment, or continues it.

    rmdnet train --config configs/digits_asym.py --workdir runs/demo
    rmdnet train --config cifar10_sym:rate=0.8,seed=1 --workdir runs/sym80
    rmdnet train --config digits --config.method=elr --workdir runs/elr

A config is a file or a preset's name. Values after its colon and `--config.field=value` mean the
same. `--print_config` shows every field.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Sequence

from rmdnet_jax.app.command import Parser, guarded, lasting, parted, soon
from rmdnet_jax.errors import UserError

NAME = "python -m rmdnet_jax.main"


def main(argv: list[str]) -> int:
    """Runs the command that `argv[0]` names; returns its status, see `guarded`."""
    again = "interrupted; the same command continues"
    return guarded(argv[0], lambda: run(*argv), again)


def run(prog: str, *words: str) -> int:
    """What was asked for."""
    args, overrides = read(words, prog)
    if not args.print_config:
        soon(prog, "loading JAX and the data")
    if args.multihost:  # before the runtime is loaded, which would warn of what we ask it for
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from rmdnet_jax.app.load import get_config
    from rmdnet_jax.app.resolve import resolve

    config = resolve(get_config(args.config, overrides))
    if args.print_config:
        print(json.dumps(config.to_dict(), indent=2))
        return 0
    import jax

    from rmdnet_jax import cpu
    from rmdnet_jax.app import exact, experiment, processes, setup
    from rmdnet_jax.files import place

    exact.prepare(config)  # before processes meet, which starts JAX
    place(args.workdir, "workdir")  # before other processes are met
    cpu.keep_memory()
    setup.keep_programs()
    given = {"config": args.config, "overrides": overrides}
    with contextlib.ExitStack() as stack:
        stack.enter_context(lasting())
        if args.multihost:
            processes.join(jax.distributed.initialize)
            stack.enter_context(processes.together(prog))
            processes.check(config, args.workdir)
        experiment.run(config, args.workdir, given=given)
    return 0


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
    rest, overrides = parted(argv)
    args = parser(prog).parse_args(rest)
    if not (args.config and (args.workdir or args.print_config)):
        raise UserError(
            "--config and --workdir are required, as in "
            "--config configs/digits_asym.py --workdir runs/demo"
        )
    return args, overrides


if __name__ == "__main__":
    sys.exit(main([NAME, *sys.argv[1:]]))
