"""Arrays in files: `.npy`, `.npz` (a field), `.csv` or `.parquet` (a column); never unpickled.

A CSV is UTF-8 text. Its cells may be apart by a comma, a semicolon, a tab or a bar; its decimals
may have a comma where that is not what is between cells.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import pathlib
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from rmdnet_jax.errors import UserError, first_line, unknown, wrong
from rmdnet_jax.files import place as local
from rmdnet_jax.labels.classes import stacked
from rmdnet_jax.labels.headings import Form, check_width, form, heading, number

if TYPE_CHECKING:
    from pandas import DataFrame

SUFFIXES = (".npy", ".npz", ".csv", ".parquet")
TABLES = (".csv", ".parquet")
NAMES = (  # headings of a column that says who a row is of
    "file", "filename", "file_name", "path", "filepath", "file_path", "name", "image", "id"
)  # fmt: skip
LABELS = "labels"  # the field of label files; one column needs no such heading
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would calculate such a cell


def named(text: str) -> tuple[str, str]:
    """The file and the field, "" where none is told, that `FILE[:FIELD]` names."""
    found = re.fullmatch(r"(.*?\.(?:npy|npz|csv|parquet)):(.*)", text, re.DOTALL)
    return (found[1], found[2]) if found and not pathlib.Path(text).exists() else (text, "")


def fields(path: str) -> tuple[str, ...]:
    """The names of the arrays in an `.npz` that can be read; none in another file."""
    if not path.endswith(".npz"):
        return ()
    with np.load(local(path), allow_pickle=False) as data:
        return tuple(data.files)


@contextlib.contextmanager
def _reading(path: str, argument: str) -> Iterator[pathlib.Path]:
    """The place of a file that is read; each error is one line."""
    if not path.endswith(SUFFIXES):
        raise wrong(argument, f"end in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, got {path!r}")
    try:
        yield local(path, argument)
    except UserError:
        raise
    except Exception as error:  # a damaged file raises anything
        why = getattr(error, "strerror", None) or first_line(error)
        if isinstance(error, UnicodeError):
            why = "it is not UTF-8 text: save it as `CSV UTF-8`"
        if "pickled (object) data" in why:
            why = "it is no file of NumPy"
        elif "allow_pickle" in why:
            why = "it holds Python objects: save text by .astype('U'), or write a CSV"
        text = f"{argument} {path!r} cannot be read: {why}"
        raise UserError(text, argument=True) from None


def read_array(
    path: str, field: str = "", argument: str = "path", *, usual: str = "", rows: int = 0
) -> np.ndarray:
    """The array in a file.

    Args:
      path: `.npy`, `.npz`, `.csv` or `.parquet`.
      field: of an `.npz`, or the heading of a column; a file of one array or column needs none.
      argument: what errors call the path.
      usual: the field that is read where none is told.
      rows: how many a `.csv` should have, so that one more is a heading; 0: not known.

    Returns:
      Of a table a column [n], or the whole [n, columns] where no column is named: whole numbers
      where all are, else numbers, else text. "01" and "1" are two texts.

    Raises:
      UserError: the file cannot be read, or has no such field.
    """
    if path.endswith(TABLES):
        table = read_table(path, argument, field=field or usual, rows=rows)
        name = column(table, field, argument, usual)
        if name is not None:
            return values(table[name])
        found = table.to_numpy()
        return _typed(found.astype(str)) if found.dtype == object and len(found) else found
    with _reading(path, argument) as place:
        data = np.load(place, allow_pickle=False)
        if isinstance(data, np.ndarray):
            return data
        with data:
            name = field or (data.files[0] if len(data.files) == 1 else usual)
            if not field and name not in data.files:
                got = ", ".join(data.files[:10]) or "none"
                text = f"name one of the arrays in it, as in {path}:NAME, got {got}"
                raise wrong(argument, text)
            if name not in data.files:
                raise unknown(f"{argument}'s field", name, data.files)
            if not isinstance(found := data[name], np.ndarray):
                raise wrong(argument, f"hold plain arrays, got {name!r} of {path!r}, which is none")
            return found


def read_table(
    path: str,
    argument: str = "path",
    *,
    field: str = "",
    rows: int = 0,
    numbers: bool = False,
    text: tuple[str, ...] = (),
) -> DataFrame:
    """The table in a `.csv` or `.parquet`; without a heading its columns are 0, 1, ...

    Args:
      path: of the file.
      argument: what errors call the path.
      field: a column; a first line that holds it is a heading.
      rows: how many rows there should be, so that one more is a heading; 0: not known.
        Without it a first row is one that has text above numbers, or counts: 0, 1, ...
      numbers: whether columns of a `.csv` that can be numbers are; else its cells stay text.
      text: columns that stay text nevertheless; a first line that holds one is a heading, too.

    Raises:
      UserError: it cannot be read, or a row is too short.
    """
    with _reading(path, argument) as place:
        import pandas

        if path.endswith(".parquet"):
            return _named(pandas.read_parquet(place))
        how = form(place)
        with place.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(itertools.islice(file, how.skip, None), delimiter=how.mark)
            rest = ([cell.strip() for cell in line] for line in lines if line)
            if not numbers:
                return _text([*rest], (field, *text), argument, rows)
            first, second = next(rest, []), next(rest, [])
        if not first:
            return pandas.DataFrame()
        check_width(argument, len(first), second or first)
        told = any(name in first for name in (field, *text) if name)
        headed = told or heading(*([how.point(cell) for cell in row] for row in (first, second)))
        found = _numbers(place, how, first, headed, text)
        other = rows and not told and len(found) == rows + (-1 if headed else 1)
        if other and all(number(how.point(cell)) is not None for cell in first):
            return _numbers(place, how, first, not headed, text)
        return found


def _numbers(
    place: pathlib.Path, how: Form, first: list[str], headed: bool, text: tuple[str, ...]
) -> DataFrame:
    """A table whose columns are numbers where they can be."""
    import pandas

    missing = {name: ["", "nan", "NaN", "NA"] for name in first if name not in text}
    found = pandas.read_csv(
        place, sep=how.mark, decimal=how.decimal, skiprows=how.skip, header=0 if headed else None,
        index_col=False, encoding="utf-8-sig", skipinitialspace=True, low_memory=False,
        dtype=dict.fromkeys(text, str), keep_default_na=not headed,
        na_values=missing if headed else None,
    )  # fmt: skip
    return found.set_axis(first, axis=1) if headed else found


def _named(table: DataFrame) -> DataFrame:
    """A table of a `.parquet` as a CSV would have it: an index that does not count is a column."""
    names = [str(name) for name in table.columns]
    table = table.set_axis(names, axis=1)
    if type(table.index).__name__ != "RangeIndex":
        table.insert(0, str(table.index.name or ""), table.index.to_numpy())
    return table.reset_index(drop=True)


def _text(lines: list[list[str]], heads: tuple[str, ...], argument: str, rows: int) -> DataFrame:
    """A table of text; a first line that holds one of `heads` is a heading."""
    import pandas

    first, second = [*lines, [], []][:2]
    width = len(first)
    for line in lines:
        check_width(argument, width, line)
    headed = len(lines) == rows + 1 if rows else bool(second) and heading(first, second)
    said = [*first, *(cell.lower() for cell in first)]  # File is a heading as file is
    headed = headed or any(name in said for name in heads if name)
    names = first if headed else range(width)
    return pandas.DataFrame([line[:width] for line in lines[headed:]], columns=names, dtype=object)


def column(table: DataFrame, field: str, argument: str, usual: str = "") -> str | None:
    """The column that is meant, or the only one; None: all. Refuses a name that is not there."""
    names, name = [*table.columns], field or usual
    refuse_twice(table, argument, name)
    if name and name in names:
        return name
    if field and names and (len(names) > 1 or field != LABELS):
        headed = isinstance(names[0], str) or not len(table)
        raise unknown(f"{argument}'s column", field, map(str, names if headed else table.iloc[0]))
    return names[0] if len(names) == 1 else None


def refuse_twice(table: DataFrame, argument: str, *names: str | None) -> None:
    """Raises `UserError` where one of these columns is there twice."""
    for name in filter(None, names):
        if (count := [*table.columns].count(name)) > 1:
            raise wrong(argument, f"have one column {name!r}, got {count}")


def naming(table: DataFrame) -> str | None:
    """The column that says whose each row is, by its heading, see `NAMES`; None: no such column."""
    called = {str(name).lower(): name for name in reversed(table.columns)}
    return next((called[name] for name in NAMES if name in called), None)


def values(cells: Any) -> np.ndarray:
    """A pandas column: text as numbers where all are; rows [n, d] where its cells are lists."""
    found = stacked(cells.to_numpy(), f"column {cells.name!r}")
    text = all(isinstance(cell, str) for cell in found)  # of no rows, too; missing ones are none
    return _typed(np.array([*found], str)) if text else found


def plain(cell: str) -> str:
    """A cell without the apostrophe that makes a formula harmless, see `harmless`."""
    return cell[1:] if cell.startswith("'") and cell[1:].startswith(FORMULA) else cell


def harmless(table: DataFrame) -> DataFrame:
    """The table with an apostrophe before each text that a spreadsheet would calculate."""

    def cell(value: object) -> object:
        formula = isinstance(value, str) and value.startswith(FORMULA) and _as(float, value) is None
        return f"'{value}" if formula else value

    safe = table.copy()
    safe.columns = [cell(name) for name in table.columns]
    for place, kind in enumerate(table.dtypes):
        if kind.kind not in "biuf":
            safe.isetitem(place, table.iloc[:, place].map(cell))
    return safe


def _typed(cells: np.ndarray) -> np.ndarray:
    """Text as whole numbers, or else as numbers, where all are; a column of names stays text."""
    whole, found = _as(np.int64, cells), _as(np.float64, cells)
    if found is None or (
        cells.ndim == 1 and whole is not None and np.any(whole.astype(str) != cells)
    ):
        return cells  # 007 is a name
    if whole is not None:
        return whole
    # No class is a fraction; as floats, large numbers that differ would become the same.
    names = np.isfinite(found) & ((found != np.trunc(found)) | (np.abs(found) > 2**53))
    return cells if found.ndim == 1 and names.any() else found


def _as(kind: type, cells: np.ndarray | str) -> np.ndarray | None:
    try:
        return np.asarray(cells).astype(kind)
    except (ValueError, OverflowError):
        return None


def read(path: str, field: str = "labels") -> np.ndarray:
    """The labels in a file, one for each example of the training set in its original order.

    Args:
      path: `.npy`, `.npz`, `.csv` or `.parquet`.
      field: of an `.npz`, or the heading of a column; a table of one column needs none.

    Returns:
      int32 [n], n > 0.

    Raises:
      UserError: no such file or field, or anything but whole numbers from 0.
    """
    if not path:
        raise wrong("path", "name a .npy, .npz or .csv file of labels, got ''")
    table = read_array(path, field)
    if table.dtype.kind == "U" and (padded := _as(np.int64, table)) is not None:
        table = padded  # 007 is a name elsewhere
    whole = np.issubdtype(table.dtype, np.number) and np.array_equal(table, np.trunc(table))
    if table.ndim != 1 or not whole:
        got = f"shape {table.shape} of {table.dtype}"
        raise wrong(f"path {path!r}", f"hold one whole number an example, got {got}")
    if table.size == 0 or not 0 <= table.min() <= table.max() < 2**31:
        got = f"{table.size}, between {table.min(initial=0)} and {table.max(initial=0)}"
        raise wrong(f"path {path!r}", f"hold labels from 0, got {got}")
    return table.astype(np.int32)
