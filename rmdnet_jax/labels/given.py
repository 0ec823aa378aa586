"""A file of given labels, held against the data set that they are for.

A table may name each example by its file, or number it by its index; else labels are in the order
of the training set. A label is the name of a class, or its number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rmdnet_jax.errors import unknown, wrong
from rmdnet_jax.files import place as local
from rmdnet_jax.labels import files

if TYPE_CHECKING:
    from pandas import DataFrame

LABEL = ("label", "labels", "given", "given_label", "class")
HOME = re.compile(r"(~|\$\w+|\$\{\w+\})/")
SEVERAL = -2
WHOLE, LARGEST = 100, 10  # classes of a transition matrix that is kept whole; else shares a row


def read(
    path: str,
    field: str,
    names: Sequence[str],
    *,
    total: int,
    rows: np.ndarray | None = None,
    images: Sequence[str] = (),
) -> np.ndarray:
    """The labels int32 [n] of the training examples, as numbers of classes.

    Args:
      path: `.npy`, `.npz`, `.csv` or `.parquet`.
      field: of an `.npz`, or the heading of a column.
      names: of the classes.
      total: how many examples the whole training set has.
      rows: which of them the n examples are; None: all.
      images: the file of each of the n examples, where the data set has files.

    Raises:
      UserError: the file cannot be read, lacks an example, or names no class.
    """
    rows = np.arange(total) if rows is None else rows
    if not path:
        raise wrong("path", "name a .npy, .npz or .csv file of labels, got ''")
    if path.endswith(files.TABLES):
        table, columns = _table(path, field, total, images)
        label = next((columns[name] for name in (field, *LABEL) if name in columns), None)
        file = files.naming(table) if images else None
        file = None if str(file).lower() == "id" else file
        files.refuse_twice(table, f"path {path!r}", label, file, columns.get("index"))
        if label is not None and (file is not None or "index" in columns):
            if file is not None:
                cells = table[file].tolist()
                found, called = _by_file(path, cells, images), images
            else:
                cells = table[columns["index"]].tolist()
                found, called = _by_index(cells, rows), [*map(str, rows)]
            chosen = _each(path, found, called, cells)
            return numbers(path, files.values(table[label])[chosen], names)
        field = str(label or field)
    cells = files.read_array(path, field, usual="labels", rows=total)
    if cells.ndim != 1:
        raise wrong(f"path {path!r}", f"hold one label an example, got shape {cells.shape}")
    if len(cells) != total:
        must = f"hold {total} labels, one for each training example, got {len(cells)}"
        raise wrong("path", must)
    return numbers(path, cells[rows], names)


def _table(
    path: str, field: str, total: int, images: Sequence[str]
) -> tuple[DataFrame, dict[str, Any]]:
    """A table and its columns by their headings in small letters, which may be understood."""
    table = files.read_table(path, field=field, rows=total)
    first = [*map(str, table.iloc[0])] if len(table) else []
    if heading := next((x for x in first if x.lower() in LABEL and x not in table.columns), None):
        table = files.read_table(path, field=heading)
    elif len(first) == 2 and 0 in table.columns and first[0] in places(images):
        table = table.set_axis(["file", "label"], axis=1)
    return table, {str(name): name for name in table} | {str(n).lower(): n for n in table}


def _by_file(path: str, cells: list, images: Sequence[str]) -> list[int]:
    """The example of each row of a table; -1 for a file that is none of theirs."""
    known = places(images)
    found = [known.get(listed(cell).removeprefix("./"), -1) for cell in cells]
    if SEVERAL in found:
        name = cells[found.index(SEVERAL)]
        raise wrong(f"path {path!r}", f"tell files apart by their class folder, got {name!r}")
    return found


def listed(cell: object) -> str:
    """A file as a list names it, with `/`; `~/` or `$VARIABLE/` at its beginning is filled in."""
    file = files.plain(str(cell)).replace("\\", "/")
    return str(local(file, "a listed file")) if HOME.match(file) else file


def _by_index(cells: list, rows: np.ndarray) -> list[int]:
    known = {str(row): place for place, row in enumerate(rows.tolist())}
    return [known.get(str(cell).removesuffix(".0"), -1) for cell in cells]


def _each(path: str, found: list[int], called: Sequence[str], cells: list) -> np.ndarray:
    """The row of each example, from the example of each row; refuses none and two."""
    at = np.full(len(called), -1)
    for row, place in enumerate(found):
        if place >= 0 and at[place] >= 0:
            raise wrong(f"path {path!r}", f"name each example once, got {called[place]} twice")
        at[place] = row if place >= 0 else at[place]
    if (lost := np.flatnonzero(at < 0)).size:
        got = f"none for {lost.size} of {len(at)}, such as {called[lost[0]]}"
        if -1 in found:
            got += f"; no example is called {str(cells[found.index(-1)])!r}"
        raise wrong(f"path {path!r}", f"hold a label for each training example, got {got}")
    return at


def places(images: Sequence[str]) -> dict[str, int]:
    """The example of each file, by its path or the end of it; `SEVERAL` where several end so."""
    found: dict[str, int] = {}
    for row, image in enumerate(images):
        parts = image.split("/")
        for first in range(1, len(parts)):
            end = "/".join(parts[first:])
            found[end] = SEVERAL if end in found else row
    return found | {image: row for row, image in enumerate(images)}


def numbers(path: str, cells: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Labels as numbers of classes: by name where all are names, else they are numbers."""
    if cells.dtype.kind == "f" and np.array_equal(cells, np.trunc(cells)):
        cells = cells.astype(np.int64)
    distinct, inverse = np.unique(cells.astype(str), return_inverse=True)
    known = {name: number for number, name in enumerate(names)}
    if all(cell in known for cell in distinct.tolist()):
        return np.array([known[cell] for cell in distinct.tolist()], np.int32)[inverse]
    if cells.dtype.kind == "U":
        if not all(cell.isdecimal() and len(cell) < 19 for cell in distinct.tolist()):
            odd = min((c for c in distinct.tolist() if c not in known), key=str.isdecimal)
            raise unknown(f"path {path!r}: the label", odd, names)
        cells = cells.astype(np.int64)  # 007 is a name elsewhere
    if cells.dtype.kind not in "iu":
        got = f"{cells.dtype}"
        raise wrong(f"path {path!r}", f"hold one whole number or name an example, got {got}")
    if cells.min() < 0 or cells.max() >= len(names):
        got = f"[{cells.min()}, {cells.max()}]"
        raise wrong(f"path {path!r}", f"hold labels in [0, {len(names)}), got {got}")
    return cells.astype(np.int32)


def by_chance(stored: np.ndarray, given: np.ndarray) -> str:
    """What to say of a file whose labels agree with stored ones no more than by chance, else "".

    Chance is `sum_c p_c q_c`, of shares of class c on both sides. Above it by less than three
    standard errors counts as chance.
    """
    size = 1 + int(max(stored.max(), given.max()))
    p, q = (np.bincount(x, minlength=size) / len(x) for x in (stored, given))
    chance, agree = float(p @ q), float(np.mean(stored == given))
    if agree > chance + 3 * np.sqrt(chance * (1 - chance) / len(stored)) or chance > 0.99:
        return ""
    return (
        f"the labels agree with the stored ones in {100 * agree:.1f} % of the examples, which is "
        f"no more than chance ({100 * chance:.1f} %): are they in another order, or numbered "
        "otherwise?"
    )


def largest(clean: np.ndarray, given: np.ndarray, num_classes: int) -> list[dict[str, float]]:
    """The `LARGEST` shares of each class's examples, by given label: of a matrix that is large."""
    pairs = clean.astype(np.int64) * num_classes + given
    found, counts = np.unique(pairs, return_counts=True)
    size = np.bincount(clean, minlength=num_classes)
    rows: list[dict[str, float]] = [{} for _ in range(num_classes)]
    for place in np.argsort(-counts, kind="stable"):
        row, column = divmod(int(found[place]), num_classes)
        if len(rows[row]) < LARGEST:
            rows[row][str(column)] = round(float(counts[place] / size[row]), 6)
    return rows


def check_stray(argument: str, labels: np.ndarray) -> None:
    """Refuses rare labels far above all others: mistakes, or marks for no class."""
    found, counts = np.unique(labels, return_counts=True)
    if len(found) < 3 or found.dtype.kind not in "iu":
        return
    first = 1 + int(np.argmax(np.diff(found)))  # above the widest gap
    low, high, top = (int(found[i]) for i in (0, first - 1, first))
    rare = 10 * counts[first:].max() <= np.median(counts[:first])
    if first > 1 and rare and top - high > high - low + 1:
        often = int(counts[first:].sum())
        text = f"be classes, got {top} or more {often} times, far above the others, {low} to {high}"
        raise wrong(argument, f"{text}: mend it, or give the names of the classes")
