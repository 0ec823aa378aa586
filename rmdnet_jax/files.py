"""Files that are written whole or not at all, by the main process only."""

from __future__ import annotations

import json
import os
import pathlib
from typing import Any

import numpy as np

from rmdnet_jax import sharding


def write_text(path: pathlib.Path, text: str) -> None:
    """Writes a file whole or not at all, from the main process only."""
    if sharding.is_main():
        part = path.with_name(path.name + ".part")
        part.write_text(text)
        os.replace(part, path)


def write_arrays(path: pathlib.Path, **arrays: Any) -> None:
    """Writes a .npz file whole or not at all, from the main process only."""
    if sharding.is_main():
        part = path.with_suffix(".part.npz")
        np.savez(part, **arrays)
        os.replace(part, path)


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a JSON file whole or not at all, from the main process only."""
    write_text(path, json.dumps(content, indent=2) + "\n")
