"""Arrays in files: `.npy`, `.npz` (a field) or `.csv` (a column); nothing is ever unpickled."""

from __future__ import annotations

import csv
import pathlib

import numpy as np

from rmdnet_jax.errors import UserError, first_line, unknown, wrong

SUFFIXES = (".npy", ".npz", ".csv")


def named(text: str) -> tuple[str, str]:
    """The file and the field, "" where none is told, that `FILE[:FIELD]` names."""
    path, _, field = text.rpartition(":")
    return (path, field) if path.endswith(SUFFIXES) else (text, "")


def fields(path: str) -> tuple[str, ...]:
    """The names of the arrays in an `.npz` that can be read; none in another file."""
    if not path.endswith(".npz"):
        return ()
    with np.load(pathlib.Path(path).expanduser(), allow_pickle=False) as data:
        return tuple(data.files)


def read_array(
    path: str, field: str = "", argument: str = "path", *, usual: str = "", rows: int = 0
) -> np.ndarray:
    """The array in a file.

    Args:
      path: `.npy`, `.npz` or `.csv`.
      field: of an `.npz`, or the heading of a column; a file of one array or column needs none.
      argument: what errors call the path.
      usual: the field that is read where none is told.
      rows: how many a `.csv` should have, so that one more is a heading; 0: not known.

    Returns:
      Of a `.csv` a column [n], or the whole table [n, columns] where no column is named: whole
      numbers where all are, else numbers, else text.

    Raises:
      UserError: the file cannot be read, or has no such field.
    """
    if not path.endswith(SUFFIXES):
        raise wrong(argument, f"end in .npy, .npz or .csv, got {path!r}")
    place = pathlib.Path(path).expanduser()
    try:
        if path.endswith(".csv"):
            with place.open(newline="", encoding="utf-8-sig") as file:
                lines = [line for line in csv.reader(file, skipinitialspace=True) if line]
            return _cells(lines, field, argument, usual, rows)
        data = np.load(place, allow_pickle=False)
        if isinstance(data, np.ndarray):
            return data
        with data:
            name = field or (data.files[0] if len(data.files) == 1 else usual)
            if name not in data.files:
                raise unknown(f"{argument}'s field", name, data.files)
            return data[name]
    except UserError:
        raise
    except Exception as error:  # a damaged file raises anything
        text = f"{argument} {path!r} cannot be read: {first_line(error)}"
        raise UserError(text, argument=True) from None


def _cells(lines: list[list[str]], field: str, argument: str, usual: str, rows: int) -> np.ndarray:
    """A column by its heading, or the only one; else the whole table."""
    lines = [line for line in lines if not line[0].startswith("# ")]  # as NumPy writes comments
    heading = lines[0] if lines else []
    width = len(heading)
    if short := [line for line in lines if len(line) < width]:
        raise wrong(argument, f"have {width} columns in each row, got {short[0]}")
    for name in (field, usual):
        if name and name in heading:
            place = heading.index(name)
            return _typed(np.array([line[place] for line in lines[1:]], str))
    if field and width > 1:
        raise unknown(f"{argument}'s column", field, heading)
    table = np.array([line[0] if width == 1 else line[:width] for line in lines], str)
    if rows:
        headed = len(table) == rows + 1
    else:
        headed = _as(float, table[:1]) is None and _as(float, table[1:]) is not None
    return _typed(table[headed:])


def _typed(cells: np.ndarray) -> np.ndarray:
    """Text as whole numbers, or else as numbers, where all are; a column of names stays text."""
    whole, found = _as(np.int64, cells), _as(np.float64, cells)
    if whole is not None or found is None:
        return cells if whole is None else whole
    # No class is a fraction; as floats, large numbers that differ would become the same.
    names = np.isfinite(found) & ((found != np.trunc(found)) | (np.abs(found) > 2**53))
    return cells if found.ndim == 1 and names.any() else found


def _as(kind: type, cells: np.ndarray) -> np.ndarray | None:
    try:
        return cells.astype(kind)
    except (ValueError, OverflowError):
        return None


def read(path: str, field: str = "labels") -> np.ndarray:
    """The labels in a file, one for each example of the training set in its original order.

    Args:
      path: `.npy`, `.npz` or `.csv`.
      field: of an `.npz`, or the heading of a column; a `.csv` of one column needs none.

    Returns:
      int32 [n], n > 0.

    Raises:
      UserError: no such file or field, or anything but whole numbers from 0.
    """
    if not path:
        raise wrong("path", "name a .npy, .npz or .csv file of labels, got ''")
    table = read_array(path, field)
    whole = np.issubdtype(table.dtype, np.number) and np.array_equal(table, np.trunc(table))
    if table.ndim != 1 or not whole:
        got = f"shape {table.shape} of {table.dtype}"
        raise wrong(f"path {path!r}", f"hold one whole number an example, got {got}")
    if table.size == 0 or not 0 <= table.min() <= table.max() < 2**31:
        got = f"{table.size}, between {table.min(initial=0)} and {table.max(initial=0)}"
        raise wrong(f"path {path!r}", f"hold labels from 0, got {got}")
    return table.astype(np.int32)
