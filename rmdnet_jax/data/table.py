"""A list of images and their labels: a `.csv` or `.parquet` with a row for each image.

Its columns are `file` and `label`; perhaps `split`, of `train` and `test`. Files are named from the
list's folder on, or by a whole path, which may begin with `~/` or `$VARIABLE/`. Labels are names,
or numbers of classes.
"""

from __future__ import annotations

import posixpath
import warnings
from typing import Any

import numpy as np

from rmdnet_jax.data import folder
from rmdnet_jax.data.images import counted, some
from rmdnet_jax.data.source import Source
from rmdnet_jax.data.store import Streams, never
from rmdnet_jax.errors import one_of, wrong
from rmdnet_jax.files import place
from rmdnet_jax.labels import files
from rmdnet_jax.labels.given import LABEL, listed

SPLIT = ("split", "subset", "set")
MUST = "be a .csv or .parquet with a column of files and one of labels for name=table"


def load(
    name: str, dir: str, image_size: int, broken: str = "refuse", stream: Streams = never
) -> Source:
    """The images of a list as RGB squares, in the order of its rows.

    Args:
      name: of the data set.
      dir: the list.
      image_size: the side, pixels.
      broken: see `folder.load`.
      stream: see `folder.load`.

    Raises:
      UserError: no such list or column, an empty cell, a class that is only in the test set.
    """
    one_of("broken", broken, folder.BROKEN)
    if not dir.endswith(files.TABLES):
        raise wrong("dir", f"{MUST}, got {dir!r}")
    path = place(dir, "dir")
    table = files.read_table(str(path), "dir", text=(*files.NAMES, *LABEL, *SPLIT))
    file, label, split = _columns(table, dir)
    for column in filter(lambda column: column is not None, (file, label, split)):
        empty = np.flatnonzero(table[column].isna() | (table[column].astype(str) == ""))
        if len(empty):
            raise wrong("dir", f"have no empty cell, got one in row {empty[0]} of {dir!r}")
    if odd := {type(cell).__name__ for cell in table[label]} & {"list", "ndarray", "dict"}:
        raise wrong("dir", f"have one label a row in column {label!r}, got a {min(odd)}")
    cells = files.values(table[label])
    if cells.dtype.kind == "f" and (cells == np.trunc(cells)).all():
        cells = cells.astype(np.int64)
    cells = cells.astype(str)
    tested = _tested(table, split, dir)
    classes, numbers = _classes(cells, tested, dir)
    named = [listed(cell) for cell in table[file]]
    splits = {
        field: [(named[i], int(numbers[i])) for i in np.flatnonzero(tested == test)]
        for field, test in (("images", False), ("test_images", True))
    }
    root = path.parent.as_posix()
    train, test = (_labels(splits[field], classes, root) for field in ("images", "test_images"))
    for where, found in (
        ("in train and test", sorted(train.keys() & test.keys())),
        ("more than once in train", _twice(train)),
        ("more than once in test", _twice(test)),
    ):
        if found:
            warnings.warn(f"{counted(len(found), 'image')} {where}: {some(found)}", stacklevel=3)
    return folder.read(name, path.parent, image_size, classes, splits, broken, stream)


def _columns(table: Any, dir: str) -> tuple:
    """The columns of files, of labels, and of splits or None."""
    known = {str(name).lower(): name for name in reversed(table.columns)}
    unnamed = [*table.columns] == [*range(len(table.columns))]
    if unnamed and 2 <= len(table.columns) <= 3:
        return (*table.columns, None)[:3]
    label, split = (next((known[n] for n in x if n in known), None) for x in (LABEL, SPLIT))
    file = files.naming(table)
    files.refuse_twice(table, "dir", file, label, split)
    if file is None or label is None or not len(table):
        got = f"{dir!r} with {', '.join(map(str, table.columns)) or 'no columns'}"
        raise wrong("dir", f"{MUST}, got {got}")
    return file, label, split


def _labels(split: folder.Split, classes: list[str], root: str) -> dict[str, list[str]]:
    """The labels that a split gives each file, however that is named."""
    found: dict[str, list[str]] = {}
    for file, label in split:
        whole = posixpath.normpath(posixpath.join(root, file))
        found.setdefault(whole.removeprefix(f"{root}/"), []).append(classes[label])
    return found


def _twice(found: dict[str, list[str]]) -> list[str]:
    """Files that are listed more than once, those with labels that differ first."""
    twice = {file: sorted({*labels}) for file, labels in found.items() if len(labels) > 1}
    twice = dict(sorted(twice.items(), key=lambda row: -len(row[1])))
    return [
        f"{file} (labels {', '.join(labels)})" if len(labels) > 1 else file
        for file, labels in twice.items()
    ]


def _tested(table: Any, split: object, dir: str) -> np.ndarray:
    """Which rows are of the test set, bool [n]."""
    if split is None:
        return np.zeros(len(table), bool)
    cells = table[split].astype(str).str.lower()
    if (odd := ~cells.isin((*folder.TRAIN, *folder.TEST))).any():
        got = table[split][odd].iloc[0]
        raise wrong("dir", f"have train or test in column {split!r}, got {got!r} in {dir!r}")
    name = next((name for name in folder.TEST if (cells == name).any()), "")
    tested = cells.isin(folder.TEST).to_numpy()
    if (others := tested & (cells != name).to_numpy()).any():
        got = f"{name!r} and {cells[others].iloc[0]!r}"
        raise wrong("dir", f"have one name for the test images in column {split!r}, got {got}")
    if tested.all():
        raise wrong("dir", f"name training images, got only test images in {dir!r}")
    return tested


def _classes(cells: np.ndarray, tested: np.ndarray, dir: str) -> tuple[list[str], np.ndarray]:
    """The names of the classes in natural order, and the number of each row's class."""
    trained = np.unique(cells[~tested]).tolist()
    if unseen := sorted({*cells[tested].tolist()} - {*trained}):
        must = f"have each class that is tested among train, got {unseen[0]!r} in test alone"
        raise wrong("dir", f"{must}, in {dir!r}")
    trained.sort(key=folder.natural)
    numbers = {label: i for i, label in enumerate(trained)}
    return trained, np.array([numbers[cell] for cell in cells.tolist()], np.int32)
