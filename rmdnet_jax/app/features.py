"""Features as a teacher: of a file, of arrays in memory, or of any function of images."""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tqdm import tqdm

from rmdnet_jax.data.sources import Source
from rmdnet_jax.errors import first_line, wrong
from rmdnet_jax.labels import files as label_files
from rmdnet_jax.labels.classes import array

SUFFIXES = (".npy", ".npz")
FIELDS = ("features", "test_features")
BATCH = 256  # images of one call of a model


def read(own: Any, source: Source) -> tuple[np.ndarray, np.ndarray | None]:
    """Features float32 [n, dim] of the training examples by index, and of the test ones if told.

    Args:
      own: the path of a `.npy` file or of an `.npz` of `FIELDS`; an array, or a dict of `FIELDS`;
        or a function of images uint8 [batch, height, width, channel] to features [batch, dim].
      source: the examples.

    Raises:
      UserError: it is none of these, or features are not finite, or not one row an example.
    """
    called = f"teacher {str(own)!r}" if isinstance(own, pathlib.Path) else "teacher"
    given, tables = _tables(own, source), {}
    for field, rows in zip(FIELDS, (len(source.labels), len(source.test_labels))):
        if field in given:
            tables[field] = _checked(given[field], f"{field} [{rows}, dim]", rows, called)
    dims = [str(table.shape[1]) for table in tables.values()]
    if len({*dims}) > 1:
        raise wrong(called, f"have features of one length, got {' and '.join(dims)}")
    return tables["features"], tables.get("test_features")


def _tables(own: Any, source: Source) -> dict[str, np.ndarray]:
    """The arrays that there are, by their fields."""
    if isinstance(own, pathlib.Path):
        tables = {FIELDS[0]: label_files.read_array(str(own), FIELDS[0], "teacher")}
        if FIELDS[1] in label_files.fields(str(own)):
            tables[FIELDS[1]] = label_files.read_array(str(own), FIELDS[1], "teacher")
        return tables
    if callable(own):
        parts = zip(FIELDS, (source.images, source.test_images))
        return {field: _said(own, images) for field, images in parts if len(images)}
    if not isinstance(own, Mapping):
        return {FIELDS[0]: array(own, "teacher")}
    if FIELDS[0] not in own or {*own} - {*FIELDS}:
        got = ", ".join(map(str, own)) or "none"
        raise wrong("teacher", f"hold {FIELDS[0]}, and perhaps {FIELDS[1]}, got {got:.60}")
    return {field: array(own[field], f"teacher's {field}") for field in own}


def _said(model: Callable[[np.ndarray], Any], images: Any) -> np.ndarray:
    """What a model says of images, a batch at a time."""
    parts: list[np.ndarray] = []
    starts = range(0, len(images), BATCH)
    for first in tqdm(starts, "teacher", leave=False, unit="batch", disable=len(starts) < 2):
        batch = np.asarray(images[np.arange(first, min(first + BATCH, len(images)))])
        try:
            found = array(model(batch), "teacher")
        except Exception as error:  # whatever a user's code raises
            got = f"uint8 {list(batch.shape)}, got: {first_line(error)}"
            raise wrong("teacher", f"give features of images {got}") from error
        dim = parts[0].shape[1] if parts else "dim"
        if found.ndim != 2 or len(found) != len(batch) or (parts and found.shape[1] != dim):
            must = f"give features [{len(batch)}, {dim}] of images {list(batch.shape)}"
            raise wrong("teacher", f"{must}, got shape {list(found.shape)}")
        parts.append(found)
    return np.concatenate(parts)


def _checked(table: np.ndarray, what: str, rows: int, called: str) -> np.ndarray:
    """A table as float32; raises `UserError` unless it is finite numbers, one row an example."""
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        x = table.astype(np.float32) if table.dtype.kind in "fiu" else table
    fits = x.ndim == 2 and len(x) == rows and x.shape[1] and x.dtype == np.float32
    if not (fits and np.isfinite(x).all()):
        got = f"{x.dtype} of shape {x.shape}"
        if fits:
            got += f", row {np.flatnonzero(~np.isfinite(x).all(1))[0]} is not finite"
        raise wrong(called, f"hold finite {what}, got {got}")
    return x
