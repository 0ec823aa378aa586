"""Runs one experiment, or continues it.

    python -m rmdnet_jax.main --config configs/digits_asym.py --workdir runs/demo
    python -m rmdnet_jax.main --config cifar10_sym:rate=0.8,seed=1 --workdir runs/sym80
    python -m rmdnet_jax.main --config digits --config.method=elr --workdir runs/elr

A config is a file or a preset's name. Values after its colon and `--config.field=value` mean the
same. `--print_config` shows every field.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable

from rmdnet_jax.errors import UserError

FIELD = "--config."


def main(argv: list[str]) -> int:
    """Runs the command; returns 0, 2 after one line on what the user can mend, 130 or 143."""
    if {"-h", "--help"} & set(argv[1:]):
        parser().print_help()
        return 0
    try:
        args, overrides = read(argv[1:])
        status = run(args, overrides)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # a reader such as head has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except UserError as error:
        return say(str(error), 2)
    except KeyboardInterrupt:
        return say("interrupted; the same command continues", 130)


def run(args: argparse.Namespace, overrides: dict[str, str]) -> int:
    """What was asked for."""
    from rmdnet_jax.app.load import get_config
    from rmdnet_jax.app.resolve import resolve

    config = resolve(get_config(args.config, overrides))
    if args.print_config:
        print(json.dumps(config.to_dict(), indent=2))
        return 0
    import jax

    from rmdnet_jax.app import experiment, setup
    from rmdnet_jax.training.fit import Stopped

    setup.keep_programs()
    if args.multihost:
        join(jax.distributed.initialize)
    try:
        experiment.run(config, args.workdir, given={"config": args.config, "overrides": overrides})
    except Stopped as stopped:
        return say(str(stopped), 143)
    return 0


def join(initialize: Callable) -> None:
    """Meets the other hosts' processes; raises `UserError` where no cluster answers."""
    try:
        initialize()
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise UserError(
            "--multihost needs a cluster that jax.distributed.initialize() finds by itself, "
            f"got: {text}"
        ) from None


def say(text: str, status: int) -> int:
    """Prints the one line that an exit status other than 0 comes with."""
    print(f"rmdnet_jax: {text}", file=sys.stderr)
    return status


class Parser(argparse.ArgumentParser):
    """One that raises `UserError`."""

    def error(self, message: str):
        raise UserError(message)


def parser() -> Parser:
    """The flags."""
    made = Parser(
        prog="python -m rmdnet_jax.main",
        usage="%(prog)s --config CONFIG --workdir WORKDIR [--config.field=value ...]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    made.add_argument("--config", help="a preset's name or a file, an argument after a colon")
    made.add_argument("--workdir", help="where everything is written; a run there continues")
    made.add_argument("--print_config", action="store_true", help="show every field, and end")
    made.add_argument(
        "--multihost", action="store_true", help="the same command on each host of a cluster"
    )
    return made


def read(argv: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
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
    args, stray = parser().parse_known_args(rest)
    if stray:
        raise UserError(
            f"unknown argument {stray[0]!r}; --config and --workdir are the ones to give"
        )
    if not (args.config and (args.workdir or args.print_config)):
        raise UserError(
            "--config and --workdir are required, as in "
            "--config configs/digits_asym.py --workdir runs/demo"
        )
    return args, overrides


if __name__ == "__main__":
    sys.exit(main(sys.argv))
