"""`rmdnet audit`: finds wrong labels from the features of any model, and writes them as a table.

    rmdnet audit --features e.npy --labels y.csv:label --out suspects.csv

FILE is .npy or .npz; labels may be .csv, too. A column or field follows a colon. Features are
numbers [n, d]; labels [n] are integers or text, in the same order.
"""

from __future__ import annotations

import argparse
import csv
import pathlib
import sys
from typing import Any

import numpy as np

from rmdnet_jax import files
from rmdnet_jax.errors import UserError, first_line, unknown, within, wrong

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet would calculate such a cell


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns 0."""
    parser = argparse.ArgumentParser(
        prog="rmdnet audit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--features", required=True, metavar="FILE[:FIELD]")
    parser.add_argument("--labels", required=True, metavar="FILE[:FIELD]")
    parser.add_argument("--out", required=True, metavar="FILE.csv", help="the table")
    parser.add_argument("--top", type=int, default=20, help="rows that are shown (20)")
    parser.add_argument("--force", action="store_true", help="replace a table that is there")
    args = parser.parse_args(argv)
    within("--top", args.top, "[0, inf)")
    out = pathlib.Path(args.out).expanduser()
    if out.exists() and not args.force:
        raise wrong("--out", f"be a new file, got {args.out!r}: --force replaces it")

    features = read("--features", args.features, "features")
    labels = read("--labels", args.labels, "labels", count=len(features))

    from rmdnet_jax.labels.audit import find_label_errors  # beside what is slow to import

    found = find_label_errors(features, labels)
    table = harmless(found.table)
    write(out, table.to_csv(index=False))
    print(found.reason)
    if args.top:
        print(table.head(args.top).to_string(index=False))
    print(f"{len(table)} rows, the most suspect first, are in {out}")
    return 0


def read(argument: str, text: str, field: str, count: int | None = None) -> np.ndarray:
    """The array that FILE[:FIELD] names.

    Args:
      argument: what errors call it.
      text: the file, with a field or column after a colon.
      field: the one to read unless one is told; a file of one array needs none.
      count: of the labels in a .csv without a column's name: one more is a heading.
    """
    path, told = text, ""
    if not pathlib.Path(text).expanduser().exists() and ":" in text:
        path, _, told = text.rpartition(":")
    place = pathlib.Path(path).expanduser()
    suffixes = (".npy", ".npz") if count is None else (".npy", ".npz", ".csv")
    if place.suffix not in suffixes:
        raise wrong(argument, f"end in {', '.join(suffixes)}, got {text!r}")
    try:
        if place.suffix == ".csv":
            with place.open(newline="", encoding="utf-8-sig") as file:
                rows = [row for row in csv.reader(file) if row]
            return column(argument, rows, told, count)
        data = np.load(place, allow_pickle=False)
        if isinstance(data, np.ndarray):
            return data
        with data:
            name = told or (data.files[0] if len(data.files) == 1 else field)
            if name not in data.files:
                raise unknown(f"{argument}: the field", name, data.files)
            return data[name]
    except UserError:
        raise
    except Exception as error:  # a damaged file raises anything
        raise UserError(f"{argument} {path!r} cannot be read: {first_line(error)}") from None


def column(argument: str, rows: list[list[str]], told: str, count: int | None) -> np.ndarray:
    """A column of a table: by its heading, or the only one; whole numbers where all are."""
    width = len(rows[0]) if rows else 0
    if told:
        if not rows or told not in rows[0]:
            raise unknown(f"{argument}: the column", told, rows[0] if rows else [])
        place, rows = rows[0].index(told), rows[1:]
    elif width != 1:
        raise wrong(argument, f"name one of {width} columns, as in labels.csv:label")
    else:
        place, rows = 0, rows[1:] if len(rows) - 1 == count else rows
    if short := [row for row in rows if len(row) <= place]:
        raise wrong(argument, f"have {place + 1} columns or more in each row, got {short[0]}")
    values = np.array([row[place] for row in rows], str)
    try:
        return values.astype(np.int64)
    except (ValueError, OverflowError):
        return values


def harmless(table: Any) -> Any:
    """The table with an apostrophe before each text that a spreadsheet would calculate."""

    def cell(value: object) -> object:
        return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value

    return table.apply(lambda values: values.map(cell))


def write(path: pathlib.Path, text: str) -> None:
    """Writes the table whole or not at all."""
    try:
        files.write_text(path, text)
    except OSError as error:
        path.with_name(path.name + ".part").unlink(missing_ok=True)
        raise UserError(f"--out {str(path)!r} cannot be written: {error.strerror}") from None


if __name__ == "__main__":
    sys.exit(main())
