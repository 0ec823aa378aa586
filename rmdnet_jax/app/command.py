"""What all commands share: how they read flags, and how they end."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

from rmdnet_jax.errors import UserError


class Parser(argparse.ArgumentParser):
    """One whose help shows the description as it stands; a wrong flag is a `UserError`."""

    def __init__(self, **options: Any):
        kind = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=kind, allow_abbrev=False, **options)

    def error(self, message: str):
        raise UserError(message)


def guarded(prog: str, call: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """The status that a command ends with, after one line where it is that of an error.

    Returns:
      What `call` returns; 2 after an error that the user can mend; 130 after Ctrl-C; 141 where the
      reader of what it prints, such as `head`, has seen enough.
    """
    try:
        try:
            return call() or 0
        finally:
            sys.stdout.flush()
    except SystemExit as end:  # how argparse ends after --help
        if end.code:
            raise
        return 0
    except UserError as error:
        return say(prog, error, 2)
    except KeyboardInterrupt:
        return say(prog, interrupted, 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def say(prog: str, text: object, status: int) -> int:
    """Prints the one line that a status other than 0 comes with; returns the status."""
    print(f"{prog}: {text}", file=sys.stderr)
    return status
