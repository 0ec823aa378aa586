"""Labels of any kind as class numbers.

Labels may be integers of any range, whole floats, bools, text or objects that can be sorted, in a
list, a NumPy or JAX array, a PyTorch tensor, a pandas Series or a DataFrame of one column.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from rmdnet_jax.errors import first_line, wrong


def array(values: Any, argument: str) -> np.ndarray:
    """A list, NumPy or JAX array, PyTorch tensor or pandas object as a NumPy array.

    A list of tensors is stacked, and so is a column whose cells are lists or arrays.

    Raises:
      UserError: where that is not possible: ragged lists, masked entries.
    """
    if np.ma.is_masked(values):
        raise wrong(argument, "not hold masked entries")
    parts = values if type(values) in (list, tuple) else ()
    if any(hasattr(part, "detach") for part in parts[:1]):
        return array([array(part, argument) for part in parts], argument)
    try:
        if hasattr(values, "detach"):  # a tensor of PyTorch, perhaps on a GPU
            values = values.detach().cpu()
            values = (values.float() if "bfloat16" in str(values.dtype) else values).numpy()
        found = np.asarray(values)
        if found.dtype.kind in "US" and isinstance(values, list | tuple):
            # NumPy makes text of [1, "a"] and of ["a", nan]: these stay what they are.
            objects = np.asarray(values, object)
            if {type(value) for value in objects.ravel()} - {str, bytes, np.str_, np.bytes_}:
                return objects
    except Exception as error:  # each library has errors of its own
        text = f"be an array or a list, got {type(values).__name__}: {first_line(error)}"
        raise wrong(argument, text) from None
    return stacked(found, argument)


def stacked(cells: np.ndarray, argument: str) -> np.ndarray:
    """Cells [n] or [n, 1] that are lists or arrays as one array [n, d]; others as they are.

    Raises:
      UserError: they have different lengths.
    """
    rows = cells.ravel()
    if cells.dtype != object or not (cells.ndim and cells.size == len(cells)):
        return cells
    if not any(isinstance(row, list | np.ndarray) for row in rows):
        return cells
    sizes = [np.size(row) if np.ndim(row) else f"{row}" for row in rows]
    for i, size in enumerate(sizes):
        if size != sizes[0]:
            got = f"{sizes[0]} in row 0 and {size} in row {i}"
            raise wrong(argument, f"hold as many numbers in each row, got {got}")
    return np.stack([*rows])


def numbered(
    labels: Any, argument: str = "labels", classes: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """The class number of each label, and the classes: `classes[numbers] == labels`.

    Args:
      labels: [n], of any kind.
      argument: how errors call the labels.
      classes: all classes [C], in the order of their numbers; None: the distinct labels, sorted.

    Returns:
      Numbers int32 [n] in [0, C), and classes [C] in the dtype of the labels where it can hold
      them.

    Raises:
      UserError: labels that are none, missing (None, NaN, a blank text), fractions, floats so
        large that whole numbers run together, or outside `classes`.

    Example:
      >>> from rmdnet_jax.labels.classes import numbered
      >>> numbered(["cat", "ant", "cat"])
      (array([1, 0, 1], dtype=int32), array(['ant', 'cat'], dtype='<U3'))
      >>> numbered([7, 3], classes=[3, 5, 7])
      (array([2, 0], dtype=int32), array([3, 5, 7]))
    """
    values = _vector(labels, argument)
    try:
        found, numbers = np.unique(values, return_inverse=True)
    except TypeError:
        kinds = " and ".join(sorted({type(value).__name__ for value in values}))
        raise wrong(argument, f"be of one kind that can be sorted, got {kinds}") from None
    if classes is None:
        return numbers.astype(np.int32), found
    named = _vector(classes, "classes")
    places = {value: place for place, value in reversed([*enumerate(named.tolist())])}
    if len(places) < len(named):
        twice = next(v for place, v in enumerate(named.tolist()) if places[v] != place)
        raise wrong("classes", f"be distinct, got {twice!r} twice")
    if absent := [value for value in found.tolist() if value not in places]:
        raise wrong(argument, f"be among the {len(named)} classes, got {absent[0]!r}")
    order = np.array([places[value] for value in found.tolist()], np.int32)
    return order[numbers], _cast(named, values.dtype)


def _vector(values: Any, argument: str) -> np.ndarray:
    """The labels as an array [n], n > 0, none missing; raises `UserError` on anything else."""
    found = array(values, argument)
    if found.dtype.kind == "f" and isinstance(values, list | tuple) and any(map(_large, values)):
        found = np.asarray(values, object)  # as floats, large numbers that differ would be one
    if found.ndim == 2 and found.shape[1] == 1 and hasattr(values, "columns"):
        found = found[:, 0]  # a DataFrame of one column
    if found.ndim != 1:
        got = f"shape {found.shape}" if found.ndim else f"a {type(values).__name__}"
        if found.ndim == 2:
            got += ": take .ravel()" if found.shape[1] == 1 else ": of one-hot rows take .argmax(1)"
        raise wrong(argument, f"be a list or an array [n], one label an entry, got {got}")
    if found.size == 0:
        raise wrong(argument, "hold at least one label, got none")
    if found.dtype.kind not in "biufUSTO":
        raise wrong(argument, f"be whole numbers, text or bools, got {found.dtype}")
    if found.dtype.kind in "fOUST" and (lost := np.flatnonzero(_missing(found))).size:
        row = int(lost[0])
        got = found[row]
        if isinstance(got, str | bytes):
            got = f"the blank text {str(got)!r}" if got else "an empty text"
        raise wrong(argument, f"not hold missing values, got {got} at position {row}")
    if found.dtype.kind == "f" and (part := np.flatnonzero(_fraction(found))).size:
        row = int(part[0])
        raise wrong(argument, f"be whole numbers or text, got {found[row]} at position {row}")
    if found.dtype.kind == "f" and np.abs(found).max() > (most := 2 / np.finfo(found.dtype).eps):
        got = f"{found[np.abs(found).argmax()]:.0f} as {found.dtype}"
        raise wrong(argument, f"be integers or text where they are beyond {most:.0f}, got {got}")
    return found


def _large(value: Any) -> bool:
    return isinstance(value, int | np.integer) and abs(int(value)) > 2**53


def _missing(values: np.ndarray) -> np.ndarray | list[bool]:
    """Which values are None, NaN, NaT, pandas' NA or an empty text."""
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind in "UST":
        return np.strings.str_len(np.strings.strip(values)) == 0

    def missing(value: Any) -> bool:
        try:
            blank = isinstance(value, str | bytes) and not value.strip()
            return value is None or blank or bool(value != value)
        except (TypeError, ValueError):  # NA is neither true nor false
            return True

    return [missing(value) for value in values]


def alike(classes: np.ndarray) -> str:
    """A note on classes that differ in nothing but case and spaces; "" where there are none."""
    seen: dict[str, list[str]] = {}
    for name in (name for name in classes.tolist() if isinstance(name, str)):
        seen.setdefault(" ".join(name.casefold().split()), []).append(name)
    twins = [names for names in seen.values() if len(names) > 1]
    if not twins:
        return ""
    more = f", and {len(twins) - 1} more such" if len(twins) > 1 else ""
    return f"labels hold {' and '.join(map(repr, twins[0]))}{more}: they are taken as classes apart"


def order(heads: Sequence[str], classes: Sequence[str], argument: str) -> list[int] | None:
    """The column of each class, by headings such as `cat`, `Cat` or `p_cat`; None: they tell none.

    Raises:
      UserError: some headings are classes and some are not; headings that only count may be.

    Example:
      >>> from rmdnet_jax.labels.classes import order
      >>> order(["p_dog", "p_cat"], ["cat", "dog"], "probabilities")
      [1, 0]
    """
    start = len(os.path.commonprefix([*heads]))  # noqa: RUF071, letters are meant
    wanted = [_loose(name) for name in classes]
    for found, named in (
        (heads, classes),
        ([_loose(head) for head in heads], wanted),
        ([_loose(head[start:]) for head in heads], wanted),
    ):
        if sorted(found) == sorted(named) and len({*named}) == len(named):
            return [found.index(name) for name in named]
    odd = [head for head in heads if head not in classes]
    if 0 < len(odd) < len(heads) and not all(head.isdecimal() for head in heads):
        text = f"have all classes as headings, or none, got {odd[0]!r}, which is no class of labels"
        raise wrong(argument, text)
    return None


def _loose(name: str) -> str:
    return " ".join(name.casefold().split()).removesuffix(".0")


def _fraction(values: np.ndarray) -> np.ndarray:
    """Which floats are not whole numbers: infinity is none."""
    return (values != np.trunc(values)) | np.isinf(values)


def _cast(classes: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The classes in the labels' dtype, if it holds them all."""
    if dtype.kind == "O" or {classes.dtype.kind, dtype.kind} <= set("biuf"):
        found = classes.astype(dtype)
        return found if np.array_equal(found, classes) else classes
    return classes
