"""Files that replace others: all of them or none."""

from __future__ import annotations

import pathlib
import shutil

from rmdnet_jax.app import lock


def exchange(part: pathlib.Path, place: pathlib.Path) -> None:
    """Moves all files of `part`, a folder in `place`, to `place`: all of them or none."""
    undo: list[tuple[pathlib.Path, pathlib.Path]] = []
    old = part / "old"
    new = sorted(part.iterdir())
    old.mkdir()
    try:
        for path in new:
            if (place / path.name).exists():
                undo.append((old / path.name, place / path.name))
                (place / path.name).replace(old / path.name)
            undo.append((place / path.name, path))
            path.replace(place / path.name)
    except BaseException:  # the system's refusal, Ctrl-C
        for source, target in reversed(undo):
            if source.exists():
                source.replace(target)
        raise


def begun(part: pathlib.Path) -> int:
    """Makes a folder that `tidy` leaves alone, see `lock.hold`, for as long as this process works.

    What is returned is for `lock.drop`.
    """
    part.mkdir(parents=True)
    return lock.hold(part)


def tidy(place: pathlib.Path) -> None:
    """Deletes parts of `place`, within it or beside it, that a killed process has left."""
    for folder in (path for path in (place, place.parent) if path.is_dir()):
        for path in folder.iterdir():
            if path.name.startswith(f".{place.name}.part") and (held := lock.hold(path)) >= 0:
                shutil.rmtree(path, ignore_errors=True)
                lock.drop(held)
