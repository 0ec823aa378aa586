"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from rmdnet_jax import sharding
from rmdnet_jax.errors import UserError, first_line


@contextlib.contextmanager
def whole(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the path to write to, with the same suffix; what is there at the end becomes `path`.

    Raises:
      UserError: it cannot be written. A file that was there stays, and no part of a new one.
    """
    part = path.parent / f"{path.stem}.part{path.suffix}"
    with writing(path):
        try:
            yield part
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)


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
