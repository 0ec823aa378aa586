"""Labels and matrices in files: `.npy`, `.npz` (by field) or `.csv`; nothing is ever unpickled."""

from __future__ import annotations

import pathlib

import numpy as np

from rmdnet_jax.errors import UserError, first_line, unknown, wrong

SUFFIXES = (".npy", ".npz", ".csv")


def read_array(path: str, field: str = "") -> np.ndarray:
    """The array in a file; `field` names it in an `.npz`."""
    if not path.endswith(SUFFIXES):
        raise wrong("path", f"end in .npy, .npz or .csv, got {path!r}")
    place = pathlib.Path(path).expanduser()
    try:
        if path.endswith(".csv"):
            return np.loadtxt(place, delimiter=",", comments="#", ndmin=1)
        data = np.load(place, allow_pickle=False)
        if isinstance(data, np.ndarray):
            return data
        with data:
            if field not in data.files:
                raise unknown("field", field, data.files)
            return data[field]
    except UserError:
        raise
    except Exception as error:  # a damaged file raises anything
        text = f"path {path!r} cannot be read: {first_line(error)}"
        raise UserError(text, argument=True) from None


def read(path: str, field: str = "labels") -> np.ndarray:
    """The labels in a file, one for each example of the training set in its original order.

    Args:
      path: `.npy`, `.npz` or `.csv` (one label a line).
      field: the array's name inside an `.npz`.

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
