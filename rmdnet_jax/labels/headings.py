"""How a CSV is written: its comments, what stands between cells, its decimals, its heading."""

from __future__ import annotations

import csv
import itertools
import pathlib
import re
from typing import NamedTuple

from rmdnet_jax.errors import wrong

MISSING = ("", "nan", "NaN", "NA", "N/A", "null", "None")
COMMA, POINT = (
    re.compile(rf"[+-]?\d*{mark}\d+(e[+-]?\d+)?", re.IGNORECASE) for mark in (",", r"\.")
)
SURE = 4  # whole numbers in a row by which a first row counts, though rows below are whole, too


class Form(NamedTuple):
    """How the cells of a CSV are written."""

    skip: int = 0  # lines of comments, as NumPy writes them
    mark: str = ","  # between cells
    decimal: str = "."

    def point(self, cell: str) -> str:
        """A cell whose decimals have a point."""
        return cell.replace(self.decimal, ".")


def form(place: pathlib.Path) -> Form:
    """The form of a file, by its first two lines."""
    with place.open(newline="", encoding="utf-8-sig") as file:
        numbered = ((i, x) for i, x in enumerate(file) if x.strip() and not x.startswith("# "))
        skip, lines = 0, []
        for i, line in itertools.islice(numbered, 2):
            skip, lines = (skip if lines else i), [*lines, line]
    if any("\0" in line for line in lines):
        raise UnicodeError
    if not lines:
        return Form()
    rows = {mark: [next(csv.reader([x], delimiter=mark)) for x in lines] for mark in ",;\t|"}
    for mark in ";\t|":
        cells = [cell.strip() for cell in rows[mark][-1]]
        if len(rows[mark][0]) == len(cells) > 1 and any(map(COMMA.fullmatch, cells)):
            return Form(skip, mark, "." if any(map(POINT.fullmatch, cells)) else ",")
    return Form(skip, max(rows, key=lambda mark: len(rows[mark][0])))


def heading(first: list[str], second: list[str]) -> bool:
    """Whether a first row is a heading: text above a number, or it counts as pandas' columns do."""
    if not second:
        return any(cell not in MISSING and number(cell) is None for cell in first)
    pairs = [*zip(first, second)]
    if any(a not in MISSING and number(a) is None and number(b) is not None for a, b in pairs):
        return True
    above = [(a, b) for a, b in pairs if number(a) is not None]
    if first[0] == "" and second[0] not in MISSING and above:  # the index of a DataFrame
        return all(a.isdecimal() for a, _ in above)
    start = int(above[0][0] == "1") if above else 0
    if [a for a, _ in above] != [str(start + i) for i in range(len(above))]:
        return False
    whole = all(b.isdecimal() or b in MISSING for _, b in above)
    beside = len(above) < len(pairs)
    return len(above) >= (SURE if whole else 2 + beside)


def check_width(argument: str, width: int, line: list[str]) -> None:
    """Refuses a row of fewer or more cells than the first."""
    if len(line) < width or any(line[width:]):
        raise wrong(argument, f"have {width} columns in each row, got {line}")


def number(cell: str) -> float | None:
    """A cell as a number, None where it is none."""
    try:
        return float(cell)
    except ValueError:
        return None
