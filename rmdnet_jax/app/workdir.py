"""The directory of a run: refused if it holds one of another config or of other data."""

from __future__ import annotations

import json
import pathlib

from rmdnet_jax.app.schema import flatten
from rmdnet_jax.errors import UserError, wrong
from rmdnet_jax.files import write_json, writing

GIVEN = "given"  # the entry of config.json that holds what the user gave: it may differ


def check(workdir: pathlib.Path, content: dict, what: str = "config") -> None:
    """Raises `UserError` unless `workdir` is new, or holds a run of this very config, or data."""
    path = workdir / f"{what}.json"
    try:
        if workdir.exists() and not workdir.is_dir():
            raise wrong("workdir", f"be a directory, got the file {str(workdir)!r}")
        if not path.exists():
            return
    except OSError as error:  # a name that is too long
        raise wrong("workdir", f"be a path that can be used, got {error.strerror}") from None
    try:
        there = json.loads(path.read_text())
        if not isinstance(there, dict):
            raise ValueError("it holds no settings")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); choose another workdir") from None
    there.pop(GIVEN, None)
    there, here, gone = flatten(there), flatten(json.loads(json.dumps(content))), "absent"
    pairs = {name: (there.get(name, gone), here.get(name, gone)) for name in sorted(there | here)}
    rows = [f"{name} is {a} there, {b} here" for name, (a, b) in pairs.items() if a != b]
    if rows:
        differs = f"holds a run whose {what} differs ({'; '.join(rows)})"
        raise UserError(f"workdir {workdir} {differs}; choose another workdir")


def create(workdir: pathlib.Path, **contents: dict) -> None:
    """Makes the directory and states each of `contents` as `{name}.json`."""
    with writing(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        write_json(workdir / f"{name}.json", content)
