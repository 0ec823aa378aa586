"""What all commands share: how they read flags, and how they end."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from rmdnet_jax.errors import UserError, first_line
from rmdnet_jax.training.stop import at_once

FIELD = "--config."
PATIENCE = 1.0  # seconds without a word
_wait = threading.Timer(0, print)


class Parser(argparse.ArgumentParser):
    """One whose help shows the description as it stands; a wrong flag is a `UserError`."""

    def __init__(self, **options: Any):
        kind = argparse.RawDescriptionHelpFormatter
        super().__init__(formatter_class=kind, allow_abbrev=False, **options)

    def error(self, message: str):
        raise UserError(message)


def parted(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The other words, and the values of `--config.field=value` or `--config.field value`."""
    rest, overrides, words = [], {}, iter(argv)
    for word in words:
        if not word.startswith(FIELD):
            rest.append(word)
            continue
        name, given, value = word.removeprefix(FIELD).partition("=")
        if not given and (value := next(words, None)) is None:
            raise UserError(f"{word} needs a value, as in {word}=1")
        overrides[name] = value
    return rest, overrides


def guarded(prog: str, call: Callable[[], int | None], interrupted: str = "interrupted") -> int:
    """The status that a command ends with, after one line where it is that of an error.

    Returns:
      What `call` returns; 2 after an error that the user can mend, the system's refusal to read or
      write a file among them; 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP; 141 where the
      reader of what it prints, such as `head`, has seen enough.
    """
    _prepare()
    try:
        with at_once(), warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: say(prog, message, 0)
            status = _called(call)
            sys.stdout.flush()
            return status
    except UserError as error:
        return say(prog, error, 2)
    except KeyboardInterrupt as stop:
        return say(prog, str(stop) or interrupted, getattr(stop, "status", 130))
    except BrokenPipeError:
        Lasting(sys.stdout).flush()
        return 141
    except OSError as error:
        warnings.filterwarnings("ignore", "coroutine .* was never awaited")  # a broken checkpoint's
        Lasting(sys.stdout).flush()  # perhaps it is what cannot be written
        where = f"{error.filename!r}: " if error.filename else ""
        return say(prog, where + (error.strerror or first_line(error)), 2)
    finally:
        spoken()


def _called(call: Callable[[], int | None]) -> int:
    """The status of a call."""
    try:
        return call() or 0
    except SystemExit as end:  # how argparse ends after --help
        if end.code:
            raise
        return 0


def _prepare() -> None:
    """Standard streams that are closed become empty ones; all show any text as they can."""
    if sys.unraisablehook is sys.__unraisablehook__:
        sys.unraisablehook = _no_echo  # for good: threads may outlast what is called
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # for the process's life
        with contextlib.suppress(AttributeError, OSError, ValueError):  # not every stream can
            getattr(sys, name).reconfigure(errors="backslashreplace")


def _drop(stream: TextIO) -> None:
    """What a stream still holds, and all that comes, goes nowhere."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class Lasting:
    """A stream that outlives its reader: what cannot be written is dropped."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except OSError:
            _drop(self._stream)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            _drop(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _no_echo(unraisable: Any) -> None:
    """Drops what is told in one line already: of a checkpoint that fails, each array says so.

    Those that are left over tell a loop that has ended, or are never asked.
    """
    code = getattr(unraisable.object, "cr_code", None)
    of_orbax = code is not None and "orbax" in code.co_filename
    if not of_orbax and str(unraisable.exc_value) != "Event loop is closed":
        sys.__unraisablehook__(unraisable)


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Within it work goes on when nobody reads what it prints: a closed pipe or terminal."""
    with contextlib.ExitStack() as stack:
        for name, redirect in (
            ("stdout", contextlib.redirect_stdout),
            ("stderr", contextlib.redirect_stderr),
        ):
            stream: Any = getattr(sys, name)
            if stream is getattr(sys, f"__{name}__"):  # none of a notebook's or a test's
                stack.enter_context(redirect(Lasting(stream)))
        yield


def soon(prog: str, text: str) -> None:
    """Says what goes on, unless something else is said within a second."""

    def tell() -> None:
        from tqdm import tqdm

        with contextlib.suppress(OSError, ValueError):
            tqdm.write(f"{prog}: {text}", sys.stderr)  # above a bar, if there is one

    global _wait
    spoken()
    _wait = threading.Timer(PATIENCE, tell)
    _wait.daemon = True
    _wait.start()


def spoken() -> None:
    """Ends the wait of `soon`."""
    _wait.cancel()


def say(prog: str, text: object, status: int) -> int:
    """Prints the one line that a warning is, or that comes with a status; returns that."""
    spoken()
    with contextlib.suppress(OSError):
        print(f"{prog}: {text}", file=sys.stderr, flush=True)
    return status
