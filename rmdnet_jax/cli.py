"""The command `rmdnet`: each of its commands is imported only when it is called for."""

from __future__ import annotations

import importlib
import sys

import rmdnet_jax
from rmdnet_jax.app.command import guarded
from rmdnet_jax.errors import unknown

COMMANDS = {  # name: (module, what it does)
    "train": ("rmdnet_jax.main", "run an experiment, or continue it"),
    "audit": ("rmdnet_jax.app.audit.command", "find wrong labels, and write a report to review"),
    "report": ("rmdnet_jax.app.report", "compare several runs in one table"),
    "noise": ("rmdnet_jax.app.noise_tool", "make, show and compare files of noisy labels"),
    "compile": ("rmdnet_jax.app.compile.command", "say whether a pod that is not here would do"),
    "sweep": ("rmdnet_jax.app.sweep", "run the grid of a config, or print its commands"),
    "doctor": ("rmdnet_jax.app.doctor", "say what is installed, prepared and missing"),
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns its status, see `guarded`.

    Args:
      argv: the arguments behind `rmdnet`; those of this process unless given.
    """
    words = (sys.argv[1:] if argv is None else argv) or ["--help"]
    return guarded("rmdnet", lambda: run(*words))


def run(command: str, *rest: str) -> int | None:
    """Calls the main function of a command; raises `UserError` for an unknown one."""
    if command in ("-h", "--help", "help"):
        return print(screen())
    if command == "--version":
        return print(f"rmdnet {rmdnet_jax.__version__}")
    if command not in COMMANDS:
        raise unknown("the command", command, COMMANDS)
    module = importlib.import_module(COMMANDS[command][0])
    # main, which is a program of its own too, is told its name
    return module.main(["rmdnet train", *rest] if command == "train" else [*rest])


def screen() -> str:
    """What `rmdnet --help` shows."""
    title = f"rmdnet {rmdnet_jax.__version__}: train when labels are wrong, and find the wrong ones"
    rows = [f"  rmdnet {name:8}{what}" for name, (_, what) in COMMANDS.items()]
    first = "Try first:  rmdnet train --config digits_asym --workdir runs/demo"
    return "\n".join([title, "", *rows, "", "More on each:  rmdnet train --help", first])


if __name__ == "__main__":
    sys.exit(main())
