"""Labels that somebody has looked at, back into an experiment: they replace the given ones.

A CSV (or parquet) with a column `label`, and `index` or `file` (or `name`) to say whose it is:

- `reviewed.csv`, as the report exports it, or your own: its labels are certain. Correction never
  changes them, and what is noise is judged without them.
- `corrected_labels.csv` or `suspects.csv`, as an audit writes them (they have a column `decision`):
  their labels are taken as they are, but nobody has looked at them, so they are not certain.

Labels are names of classes, or else all of them are numbers. A `3` that may be both is a name.

Several files are joined by `+`: what a later one says of an example is what holds.
"""

from __future__ import annotations

import difflib
import pathlib
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rmdnet_jax.data.sources import Source
from rmdnet_jax.errors import UserError, unknown, wrong
from rmdnet_jax.labels.files import TABLES, naming, plain, read_table, refuse_twice
from rmdnet_jax.labels.given import listed

if TYPE_CHECKING:
    from pandas import DataFrame

ARGUMENT = "labels"
BEFORE = ("given", "given_label")  # columns of the labels that were reviewed
AUDITED = {"predicted_label", "decision"}  # columns of an audit's suspects


class Reviewed(NamedTuple):
    """The labels of all training examples after a review."""

    given: np.ndarray  # int32 [n]
    unreviewed: np.ndarray  # int32 [n], without what is certain: as noise has left them
    certain: np.ndarray  # bool [n], those that somebody has looked at
    said: str = ""  # what the files did, for a person


def review(path: str, source: Source, drawn: np.ndarray) -> Reviewed:
    """Replaces given labels by those of a file, or of several joined by `+`; "" for none.

    Args:
      path: of the `.csv` or `.parquet`.
      source: the data set, whose classes and files the table names.
      drawn: int32 [n], the labels before.

    Raises:
      UserError: a row names no example or no class, an example twice, or another given label.
    """
    found = Reviewed(drawn, drawn, np.zeros(len(drawn), bool))
    for one in [path] if pathlib.Path(path).is_file() else re.split(r"(?<=csv|uet)\+", path):
        found = _taken(one, source, drawn, found) if one else found
    # a class that only reviewed labels have could not be judged otherwise
    only = found.certain & ~np.isin(found.given, found.unreviewed)
    return found._replace(unreviewed=np.where(only, found.given, found.unreviewed))


def _taken(path: str, source: Source, drawn: np.ndarray, before: Reviewed) -> Reviewed:
    """The labels after one file."""
    table = _read(path)
    rows = _examples(table, source, len(drawn))
    told = [name for name in ("label", *BEFORE) if name in table.columns][:2]
    classes, note = _classes({name: table[name].tolist() for name in told}, source.names)
    labels, *old = (np.array([classes[cell] for cell in table[name]]) for name in told)
    if old:
        _check_given(path, told[1], old[0], drawn[rows], before.given[rows])
    rows, labels, empty = rows[labels >= 0], labels[labels >= 0], int(np.sum(labels < 0))
    looked = "decision" not in table.columns
    given, unreviewed, certain = (of.copy() for of in before[:3])
    given[rows], certain[rows] = labels, looked
    if not looked:
        unreviewed[rows] = labels
    changed = int((given != before.given).sum())
    sure = f"; {len(rows):,} are certain" if looked else ", none is certain"
    left = f"; {empty:,} rows without a label change nothing" if empty else ""
    where = pathlib.Path(path).name
    said = f"labels {changed:,} of {len(given):,} changed by {where}{sure}{left}{note}"
    said = f"{before.said}\n{said}" if before.said else said
    return Reviewed(given, unreviewed, certain, said)


def _check_given(
    path: str, column: str, told: np.ndarray, drawn: np.ndarray, now: np.ndarray
) -> None:
    """Refuses a file that was made of other labels than the run's, before or after a review."""
    if differ := int(np.sum((told >= 0) & (told != drawn) & (told != now))):
        got = f"{path!r}, where {differ:,} of {len(told):,} rows have another {column!r}"
        raise wrong(ARGUMENT, f"be of this run's labels, got {got}: another order, seed or data?")


def _read(path: str) -> DataFrame:
    """The table; refuses one without the columns that it needs, or without rows."""
    if not path.endswith(TABLES):
        raise wrong(ARGUMENT, f"be a .csv or .parquet file, got {path!r}")
    table = read_table(path, ARGUMENT, field="label")
    names = {*map(str, table.columns)}
    told = ("label", "index", naming(table), *BEFORE, *AUDITED)
    refuse_twice(table, f"{ARGUMENT} {path!r}", *told)
    if not names:
        raise wrong(ARGUMENT, f"hold a row or more, got the empty file {path!r}")
    suspects = names >= AUDITED
    if not suspects and "label" not in names:
        raise _lacking(path, "`label`", table)
    if "index" not in names and naming(table) is None:
        raise _lacking(path, "`index` or `file`", table)
    if not len(table):
        raise wrong(ARGUMENT, f"hold a row or more, got none in {path!r}")
    table = table.astype(object).where(table.notna(), "").astype(str)
    if suspects:  # its other labels are kept
        table["label"] = table["predicted_label"].where(table["decision"] == "change", "")
    return table


def _lacking(path: str, what: str, table: DataFrame) -> UserError:
    heads = ", ".join(str(name) or "(unnamed)" for name in table.columns[:10])
    return UserError(f"{ARGUMENT} {path!r} needs a column {what}; it has {heads}", argument=True)


def _examples(table: DataFrame, source: Source, size: int) -> np.ndarray:
    """The example of each row: by its file where both sides name files, else by its index."""
    name, indexed = naming(table), "index" in table.columns
    if name is not None and "" in table[name].tolist():
        name = None
    if name is not None and (not indexed or (source.files and name.lower() != "id")):
        if not source.files:
            raise wrong(ARGUMENT, f"name examples of {source.name} by an index, got {name!r}")
        rows = [*_by_file(map(listed, table[name]), source.files)]
    elif indexed:
        rows = [*_by_index(table["index"].tolist(), size)]
    else:
        raise wrong(ARGUMENT, "name the example in each row, got an empty name")
    seen: set[int] = set()
    for row in rows:
        if row in seen:
            raise wrong(ARGUMENT, f"name each example once, got {_called(row, source)} twice")
        seen.add(row)
    return np.array(rows)


def _by_file(names: Iterable[str], files: tuple[str, ...]) -> Iterator[int]:
    """Rows by file: its path below the folder, or the end of that path where one file has it."""
    places: dict[str, int] = {}
    for row, file in enumerate(files):
        parts = file.split("/")
        for first in range(1, len(parts)):
            end = "/".join(parts[first:])
            places[end] = -1 if end in places else row
    places |= {file.strip(): row for row, file in enumerate(files)}
    places |= {file: row for row, file in enumerate(files)}
    for name in names:
        row = places.get(name)
        if row is None:
            near = difflib.get_close_matches(name, files, n=5, cutoff=0.5)
            hint = f"; near: {', '.join(near)}" if near else ""
            raise wrong(ARGUMENT, f"name one of the run's {len(files):,} files, got {name!r}{hint}")
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


def _classes(columns: dict[str, list[str]], names: tuple[str, ...]) -> tuple[dict[str, int], str]:
    """The class of each cell, -1 where it is empty: all by name, else all by number; and a note.

    What may be both is a name.
    """
    numbers = {str(number): number for number in range(len(names))}
    named = {name.strip(): number for number, name in enumerate(names)}  # as cells are read
    named |= {name: number for number, name in enumerate(names)}
    meant, of = {"": ""}, {}
    for what, cells in columns.items():
        for cell in dict.fromkeys(filter(None, cells)):
            meant[cell] = cell if cell in named else plain(cell)
            if meant[cell] not in named and meant[cell].endswith(".0"):
                meant[cell] = meant[cell][:-2]  # a number, in a column where some are missing
            of.setdefault(meant[cell], what)
    absent = [cell for cell in of if cell not in named]
    twofold = [
        cell for cell in of if cell in named and numbers.get(cell, named[cell]) != named[cell]
    ]
    if absent and not of.keys() <= numbers.keys():
        raise unknown(f"{ARGUMENT}: the {of[absent[0]]}", absent[0], names)
    if absent and twofold:
        got = f"{twofold[0]!r}, which is a name as well, and {absent[0]!r}, which is none"
        raise wrong(ARGUMENT, f"hold names of classes, or their numbers, got {got}")
    classes = {**(numbers if absent else named), "": -1}
    note = "; its labels are the names of classes, not their numbers" if twofold else ""
    return {cell: classes[name] for cell, name in meant.items()}, note
