"""Runs one experiment, or continues it.

    python -m rmdnet_jax.main --config configs/digits_asym.py --workdir runs/demo
    python -m rmdnet_jax.main --config configs/cifar10_sym.py:rate=0.8,seed=1 --config.encoder.dtype=bfloat16 --workdir runs/sym80

A config's own arguments follow its colon; --config.field=value sets any field of the schema, which is `default()` in
rmdnet_jax/config.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from absl import flags
from ml_collections import config_flags

from rmdnet_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file of configs/, with arguments after a colon: configs/digits.py:rate=0.2."
)
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Where everything is written; a run that is there already continues."
)
MULTIHOST = flags.DEFINE_bool(
    "multihost", False, "Call jax.distributed.initialize(): the same command on each host."
)


def main(argv: list[str]) -> int:
    """Runs the command; returns 0, 2 after one line on what the user can mend, 130 or 143 after a signal."""
    if {"-h", "--help"} & set(argv[1:]):
        module = flags.FLAGS.find_module_defining_flag("workdir")
        print(__doc__, flags.FLAGS.module_help(module).partition(":\n")[2], sep="\n")
        return 0
    try:
        read_flags(argv)
        import jax

        from rmdnet_jax.app import experiment
        from rmdnet_jax.app import setup as run
        from rmdnet_jax.training import fit as training

        run.keep_programs()
        if MULTIHOST.value:
            join(jax.distributed.initialize)
        try:
            experiment.run(CONFIG.value, str(WORKDIR.value))
        except training.Stopped as stopped:
            return say(str(stopped), 143)
    except UserError as error:
        return say(str(error), 2)
    except KeyboardInterrupt:
        return say("interrupted; the same command continues", 130)
    return 0


def join(initialize: Callable) -> None:
    """Meets the other hosts' processes; raises `UserError` where no cluster is found or none answers."""
    try:
        initialize()
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        raise UserError(
            f"--multihost needs a cluster that jax.distributed.initialize() finds by itself, got: {text}"
        ) from None


def say(text: str, status: int) -> int:
    """Prints the one line that an exit status other than 0 comes with."""
    print(f"rmdnet_jax: {text}", file=sys.stderr)
    return status


def read_flags(argv: list[str]) -> None:
    """Parses the flags and the config; whatever is wrong with them raises `UserError`."""
    try:
        rest = flags.FLAGS(argv)[1:]
        given = None not in (
            CONFIG.value and CONFIG.value.seed,
            WORKDIR.value,
        )  # an absent file is told of when a field is read
    except (
        flags.Error,
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OSError,
        SyntaxError,
    ) as error:
        cause = (
            error.args[0] if error.args and isinstance(error.args[0], Exception) else error
        )  # ml_collections nests them
        lines = str(cause.args[0] if cause.args else cause).splitlines()
        text = lines[-1].strip().split("UserError: ")[-1] if len(lines) > 2 else ". ".join(lines)
        raise UserError(f"unknown field {text}" if isinstance(cause, KeyError) else text) from None
    if rest:
        raise UserError(
            f"unknown argument {rest[0]!r}; --config and --workdir are the ones to give"
        )
    if not given:
        raise UserError(
            "--config and --workdir are required, as in --config configs/digits_asym.py --workdir runs/demo"
        )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
