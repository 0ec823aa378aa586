"""What an audit reads from files: features, labels, and what helps to recognise an example.

Rows of all files are in one order. A table may hold columns beside those that are meant: they come
back beside the answer, and the first that is called like one of `NAMES` names the examples.
"""

from __future__ import annotations

import argparse
import pathlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from rmdnet_jax.errors import wrong
from rmdnet_jax.files import place
from rmdnet_jax.labels.classes import numbered, order
from rmdnet_jax.labels.files import (
    NAMES,
    TABLES,
    column,
    named,
    naming,
    read_array,
    read_table,
    values,
)
from rmdnet_jax.labels.given import listed

if TYPE_CHECKING:
    from pandas import DataFrame

NUMBERS = ("", "index", "id")  # columns that count rows, no features
LABELS = ("labels", "label")
LARGE = 160  # pixels of a picture's longer side

Images = Callable[[int], np.ndarray | None]  # gives the picture of an index, uint8 [h, w, 3]


class Inputs(NamedTuple):
    """What an audit works on, by index; `n` examples."""

    labels: np.ndarray  # [n], of any kind
    features: np.ndarray | None  # [n, d]
    probabilities: np.ndarray | None = None  # [n, C]
    names: list[str] | None = None  # ids or file names
    texts: list[str] | None = None  # words to know an example by
    images: Images | None = None
    root: str | None = None  # the folder of the files that `names` names
    beside: DataFrame | None = None  # the user's other columns, text
    signals: dict[str, np.ndarray] = {}  # noqa: RUF012  # further numbers [n]
    clean: np.ndarray | None = None  # [n], where they are known, for evaluation only
    reviewed: dict[int, str] = {}  # noqa: RUF012  # labels that somebody has looked at, by index
    in_doubt: str = "keep"  # what a run does there
    said: str = ""  # where features come from, for a person


def of_files(args: argparse.Namespace) -> Inputs:
    """The inputs that the flags name."""
    label_path, label_field = named(args.labels)
    rows, own, said = None, None, "the probabilities"
    one_table = named(args.features)[0] == label_path
    columns = (label_field,) if label_field else LABELS
    known = 0 if one_table else _known(label_path, label_field)
    if args.features:
        rows, own, said = _features(args.features, columns if one_table else (), known)
    told, heads = None, None
    if args.probabilities:
        same = named(args.probabilities)[0] == label_path
        told, heads = _probabilities(args.probabilities, columns if same else (), known)
    size = next((len(x) for x in (rows, told) if x is not None and x.ndim), 0)
    name = next((name for name in columns if one_table and own is not None and name in own), None)
    if name is not None and own is not None:
        labels, beside = values(own[name]), own.drop(columns=name)
    else:
        labels, beside = _labels(label_path, label_field, size)
        _check_order(own, beside)
        beside = own if beside is None or not len(beside.columns) else beside
    names = _names(args.names, beside, len(labels))
    texts = _texts(args.texts, beside, len(labels))
    root = place(args.images or pathlib.Path(label_path).parent, "--images")
    if args.images and not root.is_dir():
        raise wrong("--images", f"be a folder, got {args.images!r}")
    return Inputs(
        labels=printable(labels),
        features=rows,
        probabilities=_sorted(told, heads, labels),
        names=None if names is None else printable(names).tolist(),
        texts=None if texts is None else printable(texts).tolist(),
        images=_pictures(root, names),
        root=str(root) if args.images else None,
        beside=beside,
        said=said,
    )


def _known(path: str, field: str) -> int:
    """How many labels there are; 0 where the first line of a table may be a heading or a label."""
    if not path.endswith(TABLES):
        return len(found) if (found := _labels(path, field, 0)[0]).ndim else 0
    table = _table(path, "--labels", field=field, text=() if field else LABELS)
    headed = any(isinstance(name, str) for name in table.columns)
    return len(table) if headed else 0


def _table(path: str, argument: str, **how: Any) -> DataFrame:
    """A table without columns that only count its rows, as `to_csv` writes them."""
    table = read_table(path, argument, **how)
    if not len(table):
        got = f"none in {path!r}" if len(table.columns) else f"the empty file {path!r}"
        raise wrong(argument, f"hold a row or more, got {got}")
    count = [str(i) for i in range(len(table))]
    names, left = [], []
    for at, name in enumerate(map(str, table.columns)):
        unnamed = re.fullmatch(r"|Unnamed: [\d.]+", name)
        if unnamed and [str(x).removesuffix(".0") for x in table.iloc[:, at]] == count:
            continue
        first = unnamed and "" not in names
        names.append("" if first else table.columns[at])
        left.append(at)
    return table.iloc[:, left].set_axis(names, axis=1)


def _features(
    text: str, labels: tuple[str, ...], rows: int
) -> tuple[np.ndarray, DataFrame | None, str]:
    """Features, the columns beside them, labels among these, and which they are."""
    path, field = named(text)
    if not path.endswith(TABLES):
        return read_array(path, field, "--features", usual="features"), None, text
    table = _table(path, "--features", field=field, numbers=True, text=labels, rows=rows)
    if field and column(table, field, "--features") == field:
        found = values(table[field])
        return found.reshape(len(found), -1), _told(table.drop(columns=field)), text
    found, numbers = _measured(table, "--features", labels)
    beside = table.drop(columns=numbers)
    others = ", ".join(str(name) or "(unnamed)" for name in beside.columns[:5])
    ignored = f", all but {others}" if others else ""
    counted = all(isinstance(name, str) and name.isdecimal() for name in numbers)
    headed = f" headed {numbers[0]} to {numbers[-1]}" if counted else ""
    return found, _told(beside), f"{found.shape[1]} columns of {path}{headed}{ignored}"


def _measured(
    table: DataFrame, argument: str, labels: tuple[str, ...]
) -> tuple[np.ndarray, list[str]]:
    """The numbers [n, d], and their columns: one of lists, or all that do not count the rows."""
    left = [name for name in table.columns if str(name).lower() in NUMBERS or name in labels]
    rest = table.drop(columns=left)
    for name in rest.columns:
        if (found := values(rest[name])).ndim == 2:
            return found, [name]
    numbers = [*rest.select_dtypes("number").columns]
    if not numbers:
        got = ", ".join(map(str, table.columns[:5]))
        raise wrong(argument, f"hold columns of numbers, got {got}")
    return rest[numbers].to_numpy(na_value=np.nan), numbers


def _told(table: DataFrame) -> DataFrame:
    """A table as text; what is missing is empty."""
    return table.astype(str).where(table.notna(), "")


def _probabilities(
    text: str, labels: tuple[str, ...], rows: int
) -> tuple[np.ndarray, list[str] | None]:
    """Probabilities [n, C], and the classes that a table's headings name."""
    path, field = named(text)
    if not path.endswith(TABLES) or field:
        return read_array(path, field, "--probabilities", usual="probabilities"), None
    table = _table(path, "--probabilities", numbers=True, rows=rows)
    found, names = _measured(table, "--probabilities", labels)
    if _sums(found[1:2]) and not _sums(found[:1]) and not isinstance(names[0], str):
        return found[1:], [f"{name:.15g}" for name in found[0]]  # no row, but classes
    return found, [str(name) for name in names]


def _sums(row: np.ndarray) -> bool:
    return len(row) > 0 and bool((row >= 0).all()) and abs(row.sum() - 1) < 0.05


def _sorted(
    told: np.ndarray | None, heads: list[str] | None, labels: np.ndarray
) -> np.ndarray | None:
    """Probabilities with columns in the order of the sorted classes, where headings say classes."""
    if told is None or heads is None:
        return told
    classes = [str(label) for label in numbered(labels, "--labels")[1].tolist()]
    columns = order(heads, classes, "--probabilities")
    return told if columns is None else told[:, columns]


def _labels(path: str, field: str, rows: int) -> tuple[np.ndarray, DataFrame | None]:
    """The labels, and the columns beside them as they stand."""
    if not path.endswith(TABLES):
        labels, beside = read_array(path, field, "--labels", usual=LABELS[0]), None
    else:
        table = _table(path, "--labels", field=field, text=() if field else LABELS, rows=rows)
        usual = next((name for name in LABELS if name in table.columns), "")
        name = column(table.drop(columns="", errors="ignore"), field, "--labels", usual)
        if name is None:
            heads = ", ".join(map(str, table.columns[:10]))
            raise wrong("--labels", f"name a column, as in {path}:label, got {heads}")
        labels, beside = values(table[name]), table.drop(columns=name)
    if labels.ndim != 1:
        got = f"shape {labels.shape}: name a column, as in labels.csv:label"
        raise wrong("--labels", f"be one a row, got {got}")
    return labels, beside


def _check_order(own: DataFrame | None, beside: DataFrame | None) -> None:
    """Refuses features and labels whose tables name their rows in different orders."""
    if own is None or beside is None:
        return
    for name in (n for n in own.columns if str(n).lower() in NAMES and n in beside.columns):
        one, two = own[name].tolist(), beside[name].astype(str).tolist()
        for row, (a, b) in enumerate(zip(one, two)):
            if a != b:
                text = f"be in the order of --features, got {name} {b!r} in row {row}, there {a!r}"
                raise wrong("--labels", text)


def _names(text: str, beside: DataFrame | None, size: int) -> list[str] | None:
    """What the examples are called, each once."""
    argument, found = "--names", None
    if text:
        found = _column(text, argument, size)
    elif beside is not None:
        name = naming(beside)
        if name is None and "" in beside and values(beside[""]).dtype.kind == "U":
            name = ""  # the index of a DataFrame, as to_csv writes it
        argument = f"column {name!r}" if name else "the unnamed column"
        found = None if name is None else beside[name].tolist()
    if found is None:
        return None
    names, seen = [str(name) for name in found], set()
    for name in names:
        if name in seen:
            raise wrong(argument, f"hold each name once, got {name!r} twice")
        seen.add(name)
    return names


def _texts(text: str, beside: DataFrame | None, size: int) -> list[str] | None:
    """The words of each example: a column called text, or all that stands beside its label."""
    if text:
        return _column(text, "--texts", size)
    if beside is None or not len(beside.columns):
        return None
    if "text" in beside.columns:
        return beside["text"].astype(str).tolist()
    heads = [name for name in beside.columns if str(name).lower() not in ("", *NAMES)]
    rows = beside[heads].itertuples(index=False)
    return [" · ".join(f"{a}: {b}" for a, b in zip(heads, row)) for row in rows] if heads else None


def _column(text: str, argument: str, size: int) -> list[str]:
    """A column of text, one cell an example."""
    (path, field), usual = named(text), argument.removeprefix("--")
    if path.endswith(TABLES):
        table = _table(path, argument, field=field, rows=size)
        name = column(table, field, argument, usual)
        if name is None:
            raise wrong(argument, f"name a column, as in {path}:{usual.removesuffix('s')}")
        found = table[name].tolist()
    else:
        found = read_array(path, field, argument, usual=usual).tolist()
    if len(found) != size:
        raise wrong(argument, f"have one for each of the {size} labels, got {len(found)}")
    return [str(cell) for cell in found]


def _pictures(root: pathlib.Path, names: list[str] | None) -> Images | None:
    """The pictures of names that are image files below a folder."""
    if not names or not (root / listed(names[0])).is_file():
        return None

    def picture(index: int) -> np.ndarray | None:
        from PIL import Image

        try:
            with Image.open(root / listed(names[index])) as file:
                file.thumbnail((LARGE, LARGE))
                return np.asarray(file.convert("RGB"))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None  # a file that is no picture has none to show

    return picture


def printable(texts: Any) -> np.ndarray:
    """Texts, or anything else, as a file can hold them: half a letter becomes `\\udce4`."""
    found = np.asarray(texts)
    if found.dtype.kind != "U":
        return found
    cells = [cell.encode("utf-8", "backslashreplace").decode() for cell in found.tolist()]
    return np.array(cells, str)
