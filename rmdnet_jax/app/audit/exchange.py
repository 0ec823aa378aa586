"""Files that replace others: all of them or none."""

from __future__ import annotations

import pathlib


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
