"""Where examples come from: embedded digits, a .npz file, a folder of images, or any TFDS image-classification data set.

Images are uint8 in [0, 255], NHWC; labels are int32 in [0, class). The row of an example is its index: the position in the original
training set, whatever the order on disk. A mistake of the user's is a `UserError` that names `data.name`, `data.dir`, ...
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rmdnet_jax.data import tfds
from rmdnet_jax.data.store import Allocate, Source, cached, checked, decode
from rmdnet_jax.errors import UserError, first_line

SUFFIXES = (".png", ".jpg", ".jpeg")


def load(name: str, *, dir: str = "", image_size: int = 32, limit: int = 0) -> Source:
    """Reads the data set `name`, cut to its first `limit` training examples by index (0: all; the test set stays whole)."""
    for field, value, least in (("data.limit", limit, 0), ("data.image_size", image_size, 1)):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
            raise UserError(f"{field} must be an integer of at least {least}, got {value!r}")
    source = KINDS.get(name, tfds.load)(name, dir, int(image_size))
    return (
        source._replace(images=source.images[:limit], labels=source.labels[:limit])
        if limit
        else source
    )


def _digits(name: str, dir: str, image_size: int) -> Source:
    """Scikit-learn's 1,797 embedded 8x8 digits; every fifth example of each class, in file order, is test."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images, labels = (
        np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1),
        labels.astype(np.int32),
    )
    test = np.isin(
        np.arange(len(labels)),
        np.concatenate([np.flatnonzero(labels == digit)[4::5] for digit in range(10)]),
    )
    return Source(
        name, images[~test], labels[~test], images[test], labels[test], tuple("0123456789")
    )


def _npz(name: str, dir: str, image_size: int) -> Source:
    """Arrays of a .npz file: `images`, `labels` and, where there, `test_images` with `test_labels`, and `names`."""
    try:
        with (
            open(os.path.expanduser(dir), "rb") as file,
            np.load(file, allow_pickle=False) as archive,
        ):
            arrays = {field: archive[field] for field in Source._fields[1:] if field in archive}
    except Exception as error:  # no such file, a bad zip, a bad header, a pickled object: each raises a type of its own
        raise UserError(
            f"data.dir must be a .npz file of plain arrays (no pickled objects), got {dir!r}: {first_line(error)}"
        ) from error
    if missing := sorted({"images", "labels"} - set(arrays)):
        raise UserError(
            f"data.dir: {dir!r} must hold the arrays images and labels, got no {missing[0]}"
        )
    return checked(name, arrays, f"data.dir: in {dir!r}, ")


def _folder(name: str, dir: str, image_size: int) -> Source:
    """Images under `dir/train/<class>/` and perhaps `dir/test/<class>/`, in sorted order, as RGB squares of `image_size`."""
    root = Path(dir).expanduser()
    train, test = _listing(root / "train"), _listing(root / "test")
    if not dir or not train:
        raise UserError(
            f"data.dir must be a folder that holds train/<class>/ for data.name=folder, got {dir!r}"
        )
    if unseen := sorted(set(test) - set(train)):
        raise UserError(
            f"data.dir: {str(root / 'test' / unseen[0])!r} must be one of the classes of train, {', '.join(train)}"
        )
    sets = (("images", train), ("test_images", test))
    pairs = {
        field: [(path, i) for i, label in enumerate(train) for path in split.get(label, [])]
        for field, split in sets
    }
    files = [
        (str(path), (stat := path.stat()).st_size, stat.st_mtime_ns)
        for split in pairs.values()
        for path, _ in split
    ]

    def build(allocate: Allocate) -> Source:
        arrays = {"names": np.array(list(train))}
        for field, split in pairs.items():
            arrays[field] = allocate(field, (len(split), image_size, image_size, 3))
            arrays[f"{field[:-6]}labels"] = np.array([label for _, label in split], np.int32)
            decode(
                arrays[field],
                ((row, path) for row, (path, _) in enumerate(split)),
                f"{name} {field}",
            )
        return checked(name, arrays, "data.dir: ")

    return cached(name, [str(root.resolve()), image_size, files], build)


def _listing(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class folder, both sorted; raises UserError for a class without one."""
    classes = sorted(path for path in folder.glob("[!.]*") if path.is_dir())
    listing = {
        path.name: sorted(file for file in path.glob("[!.]*") if file.suffix.lower() in SUFFIXES)
        for path in classes
    }
    if empty := [label for label, files in listing.items() if not files]:
        raise UserError(
            f"data.dir: class folder {str(folder / empty[0])!r} must hold at least one of *{', *'.join(SUFFIXES)}, got none"
        )
    return listing


KINDS: dict[str, Callable[[str, str, int], Source]] = {
    "digits": _digits,
    "npz": _npz,
    "folder": _folder,
}
