"""`python -m rmdnet_jax.main --config configs/digits_asym.py --workdir runs/demo`: runs one experiment, or continues it."""

from __future__ import annotations

import os
import pathlib
import sys

from absl import flags
from ml_collections import config_flags

from rmdnet_jax.types import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, with arguments after a colon: configs/digits.py:rate=0.2.")
WORKDIR = flags.DEFINE_string("workdir", None, "Where everything is written; a run that is there already continues.")
MULTIHOST = flags.DEFINE_bool("multihost", False, "Call jax.distributed.initialize(): one process a host, the same command on each.")


def main(argv: list[str]) -> int:
    """Parses the flags, runs the experiment and returns the exit status: 0, or 2 after one line for what the user can mend."""
    try:
        flags.FLAGS(argv)
        if CONFIG.value is None or WORKDIR.value is None:
            raise UserError("--config and --workdir are required, for example --config configs/digits_asym.py --workdir runs/demo")
        import jax

        from rmdnet_jax import experiment

        jax.config.update("jax_compilation_cache_dir", os.environ.get("JAX_COMPILATION_CACHE_DIR", _cache()))
        if MULTIHOST.value:
            jax.distributed.initialize()
        experiment.run(CONFIG.value, WORKDIR.value)
    except (UserError, flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        print(f"rmdnet_jax: {error}", file=sys.stderr)
        return 2
    return 0


def _cache() -> str:
    root = os.environ.get("RMDNET_CACHE", pathlib.Path.home() / ".cache" / "rmdnet_jax")
    return str(pathlib.Path(root) / "compiled")


if __name__ == "__main__":
    sys.exit(main(sys.argv))
