"""Paths that users give, and files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from rmdnet_jax import sharding
from rmdnet_jax.errors import UserError, first_line, wrong

SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # as pathlib leaves it of gs://
VARIABLE = re.compile(r"\$(\w+|\{[^}]*\})")


def place(path: Any, argument: str = "path") -> pathlib.Path:
    """The local path that a text means: `~`, `~user` and `$VARIABLE` are filled in.

    Raises:
      UserError: no path, a URL such as `gs://`, a variable that is not set, an unknown user.
    """
    try:
        text = os.fspath(path)
    except TypeError:
        raise wrong(argument, f"be a path, got {path!r:.60}") from None
    if not isinstance(text, str) or "\0" in text:
        raise wrong(argument, f"be a path, got {path!r:.60}")
    if SCHEME.match(text):
        must = f"be a local path, got {text!r}: mount the storage as a folder, and name that"
        raise wrong(argument, must)
    if "$" in text and not os.path.lexists(text):
        text = os.path.expandvars(text)
        if unset := VARIABLE.search(text):
            raise wrong(argument, f"be a path, got {text!r}: {unset[0]} is not set")
    try:
        return pathlib.Path(text).expanduser()
    except RuntimeError:  # no such user, or this one has no home
        raise wrong(argument, f"be a path, got {text!r}: that home is not known") from None


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the path to write to, with the same suffix; what is there at the end becomes `path`.

    It is on disk before it replaces what was there.

    Raises:
      UserError: it cannot be written. A file that was there stays, and no part of a new one.
    """
    part = path.parent / f"{path.stem}.part{path.suffix}"
    with writing(path):
        try:
            yield part
            sync(part)
            os.replace(part, path)
            sync(path.parent)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)


def sync(path: pathlib.Path) -> None:
    """Waits until a file, or the names in a folder, are on disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError:  # some file systems know it for files alone
        if not path.is_dir():
            raise
    finally:
        os.close(opened)


@contextlib.contextmanager
def writing(path: pathlib.Path) -> Iterator[None]:
    """Makes a `UserError` of the system's refusal to write a file or a folder."""
    try:
        yield
    except OSError as error:
        why = error.strerror or first_line(error)
        raise UserError(f"{str(path)!r} cannot be written: {why}") from None


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all, from the main process only."""
    if sharding.is_main():
        with whole(path) as part:
            part.write_bytes(text.encode())


def write_arrays(path: pathlib.Path, **arrays: Any) -> None:
    """Writes a .npz file whole or not at all, from the main process only."""
    if sharding.is_main():
        with whole(path) as part:
            np.savez(part, **arrays)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file whole or not at all, from the main process only."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def digest(*arrays: Any) -> str:
    """The sha256 of arrays, their types and shapes; memory-mapped ones are read bit by bit.

    Example:
      >>> import numpy as np
      >>> from rmdnet_jax.files import digest
      >>> digest(np.arange(6)) == digest(np.arange(6)), digest(np.arange(6)) == digest([0, 1])
      (True, False)
    """
    found = hashlib.sha256()
    for array in arrays:
        if not hasattr(array, "nbytes"):  # else it may be one that is not all in memory
            array = np.asanyarray(array)
        found.update(f"{array.dtype.str} {array.shape}".encode())
        rows = max(1, (1 << 24) // max(1, array.nbytes // max(1, len(array)))) if array.ndim else 1
        for first in range(0, len(array) if array.ndim else 1, rows):
            part = array[first : first + rows] if array.ndim else array
            found.update(np.ascontiguousarray(part).tobytes())
    return found.hexdigest()
