"""Labels that somebody has looked at, back into an experiment: they replace the given ones.

A CSV (or parquet) with a column `label`, and `index` or `name` (or `file`) to say whose it is:

- `reviewed.csv`, as the report exports it, or your own: its labels are certain. Correction never
  changes them.
- `corrected_labels.csv`, as an audit writes it (it has a column `decision`): its labels are taken
  as they are, but nobody has looked at them, so they are not certain.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rmdnet_jax.data.sources import Source
from rmdnet_jax.errors import unknown, wrong
from rmdnet_jax.labels.files import TABLES, plain, read_table

if TYPE_CHECKING:
    from pandas import DataFrame

NAMES = ("name", "file")
ARGUMENT = "labels"


class Reviewed(NamedTuple):
    """The labels of all training examples after a review."""

    given: np.ndarray  # int32 [n]
    certain: np.ndarray  # bool [n], those that somebody has looked at
    said: str = ""  # what the file did, for a person


def review(path: str, source: Source, given: np.ndarray) -> Reviewed:
    """Replaces given labels by those of a file; "" for none.

    Args:
      path: of the `.csv` or `.parquet`.
      source: the data set, whose classes and files the table names.
      given: int32 [n].

    Raises:
      UserError: a row names no example or no class, or an example twice.
    """
    if not path:
        return Reviewed(given, np.zeros(len(given), bool))
    table = _read(path)
    rows = _examples(table, source, len(given))
    labels = _labels(table["label"].tolist(), source.names)
    known = labels >= 0
    after, certain = given.copy(), np.zeros(len(given), bool)
    after[rows[known]] = labels[known]
    looked = "decision" not in table.columns
    certain[rows[known]] = looked
    changed = int((after != given).sum())
    sure = f"; {known.sum():,} are certain" if looked else ", none is certain"
    left = f"; {(~known).sum():,} rows without a label change nothing" if not known.all() else ""
    where = pathlib.Path(path).name
    said = f"labels {changed:,} of {len(given):,} changed by {where}{sure}{left}"
    return Reviewed(after, certain, said)


def _read(path: str) -> DataFrame:
    """The table; refuses one without the columns that it needs, or without rows."""
    if not path.endswith(TABLES):
        raise wrong(ARGUMENT, f"be a .csv or .parquet file, got {path!r}")
    table = read_table(path, ARGUMENT, field="label")
    names = [*map(str, table.columns)]
    if "label" not in names:
        raise unknown(f"{ARGUMENT} {path!r}: the column", "label", names or ["(it is empty)"])
    if not {"index", *NAMES} & {*names}:
        raise unknown(f"{ARGUMENT} {path!r}: the column", "index or name", names)
    if not len(table):
        raise wrong(ARGUMENT, f"hold a row or more, got none in {path!r}")
    return table.fillna("").astype(str)


def _examples(table: DataFrame, source: Source, size: int) -> np.ndarray:
    """The example of each row: by its file where both sides name files, else by its index."""
    name = next((n for n in NAMES if n in table.columns and "" not in table[n].tolist()), None)
    if name is not None and (source.files or "index" not in table.columns):
        if not source.files:
            raise wrong(ARGUMENT, f"name examples of {source.name} by an index, got {name!r}")
        rows = [*_by_file([plain(cell) for cell in table[name]], source.files)]
    elif "index" in table.columns:
        rows = [*_by_index(table["index"].tolist(), size)]
    else:
        raise wrong(ARGUMENT, "name the example in each row, got an empty name")
    seen: set[int] = set()
    for row in rows:
        if row in seen:
            raise wrong(ARGUMENT, f"name each example once, got {_called(row, source)} twice")
        seen.add(row)
    return np.array(rows)


def _by_file(names: list[str], files: tuple[str, ...]) -> Iterator[int]:
    """Rows by file: its path below the folder, or the end of that path where one file has it."""
    places: dict[str, int] = {}
    for row, file in enumerate(files):
        parts = file.split("/")
        for first in range(1, len(parts)):
            end = "/".join(parts[first:])
            places[end] = -1 if end in places else row
    places |= {file: row for row, file in enumerate(files)}
    for name in names:
        row = places.get(name.replace("\\", "/"))
        if row is None:
            raise unknown(f"{ARGUMENT}: the file", name, files)
        if row < 0:
            raise wrong(ARGUMENT, f"tell files apart by their class folder, got {name!r}")
        yield row


def _by_index(cells: list[str], size: int) -> Iterator[int]:
    for cell in cells:
        text = cell.removesuffix(".0")
        if not text.isdecimal() or int(text) >= size:
            raise wrong(ARGUMENT, f"have an index in [0, {size}) in each row, got {cell!r}")
        yield int(text)


def _called(row: int, source: Source) -> str:
    return repr(source.files[row]) if source.files else f"index {row}"


def _labels(cells: list[str], names: tuple[str, ...]) -> np.ndarray:
    """The class of each cell, -1 where it is empty: by its name, or all by their numbers."""
    numbers = {name: number for number, name in enumerate(names)}
    cells = [cell if cell in numbers else plain(cell) for cell in cells]
    absent = [cell for cell in cells if cell and cell not in numbers]
    if absent:
        told = {str(number): number for number in range(len(names))}
        if any(cell and cell not in told for cell in cells):
            raise unknown(f"{ARGUMENT}: the label", absent[0], names)
        numbers = told
    return np.array([numbers.get(cell, -1) for cell in cells])
