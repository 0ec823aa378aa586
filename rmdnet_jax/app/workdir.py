"""The directory of a run: refused if it holds one of another config or of other data, JSON written whole or not at all."""

from __future__ import annotations

import json
import pathlib

from rmdnet_jax.errors import UserError
from rmdnet_jax.files import flatten, write_json


def check(workdir: pathlib.Path, content: dict, what: str = "config") -> None:
    """Raises `UserError` unless `workdir` is new, holds no run, or holds a run of this very config, or data: `{what}.json` says so."""
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"--workdir must be a directory, got the file {workdir}")
    path = workdir / f"{what}.json"
    if not path.exists():
        return
    try:
        there, here = flatten(json.loads(path.read_text())), flatten(content)
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); choose another --workdir") from None
    names = [
        name
        for name in sorted(there | here)
        if there.get(name, "absent") != here.get(name, "absent")
    ]
    if names:
        rows = "; ".join(
            f"{name} is {there.get(name, 'absent')} there, {here.get(name, 'absent')} here"
            for name in names
        )
        raise UserError(
            f"--workdir {workdir} holds a run whose {what} differs ({rows}); choose another --workdir"
        )


def create(workdir: pathlib.Path, **contents: dict) -> None:
    """Makes the directory and states each of `contents` as `{name}.json`; raises `UserError` where that cannot be written."""
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            write_json(workdir / f"{name}.json", content)
    except OSError as error:
        raise UserError(f"--workdir {workdir} cannot be written: {error.strerror}") from None
