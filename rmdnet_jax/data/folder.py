"""A folder of images in class folders, as users have them.

`dir/train/<class>/` is the training set; `dir/test/<class>/`, or else `dir/val/<class>/`, the test
set. Where there is no `train`, all of `dir/<class>/` is the training set. Images may lie deeper
within a class folder. Hidden files and folders do not count. A folder of images alone is one class,
`unlabelled`: enough for a teacher.
"""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path

import numpy as np

from rmdnet_jax.data.encoded import Encoded, Files
from rmdnet_jax.data.images import counted, decode, refuse, some, unreadable
from rmdnet_jax.data.source import Source, checked
from rmdnet_jax.data.store import Allocate, Streams, cached, never, noted
from rmdnet_jax.errors import UserError, one_of, wrong
from rmdnet_jax.files import place

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"
)  # fmt: skip
TRAIN = ("train", "training")
TEST = ("test", "testing", "val", "valid", "validation")  # the first that is there
JUNK = (  # what systems leave
    "__macosx", "thumbs.db", "desktop.ini", "@eadir", "lost+found", "$recycle.bin",
    "system volume information",
)  # fmt: skip
UNLABELLED = "unlabelled"
BROKEN = ("refuse", "skip")
MUST = "be a folder that holds train/<class>/ or <class>/ for name=folder"

Listing = dict[str, list[Path]]  # the image files of each class, both in natural order
Split = list[tuple[str, int]]  # files as they are named from a folder on, and their classes


def natural(name: str) -> tuple[list[str | int], str]:
    """A key that sorts as people count: 2 before 10.

    Example:
      >>> from rmdnet_jax.data.folder import natural
      >>> sorted(["10", "9", "b2", "b10", "a"], key=natural)
      ['9', '10', 'a', 'b2', 'b10']
    """
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)], name


def load(
    name: str, dir: str, image_size: int, broken: str = "refuse", stream: Streams = never
) -> Source:
    """The images as RGB squares, classes and files in natural order.

    Args:
      name: of the data set.
      dir: the folder.
      image_size: the side, pixels.
      broken: what is done about images that cannot be read: `refuse` names them, `skip` leaves
        them out, and says which. It tries all of them first.
      stream: whether images of so many bytes stay encoded.

    Raises:
      UserError: no such folder, a class without images, a class that is only in the test set.
    """
    one_of("broken", broken, BROKEN)
    root = place(dir, "dir")
    if not dir or not root.is_dir():
        gone = "" if not dir or root.exists() else ", which is not there"
        raise wrong("dir", f"{MUST}, got {dir!r}{gone}")
    try:
        train, test, left_out = _splits(root)
    except OSError as error:  # a folder that may not be read
        text = f"dir: {str(error.filename)!r} cannot be read: {error.strerror}"
        raise UserError(text, argument=True) from None
    if left_out:
        kinds = f"only *{', *'.join(SUFFIXES)} in class folders are taken"
        few = some(left_out)
        files = counted(len(left_out), "file")
        warnings.warn(f"{files} in {str(root)!r} left out: {few} ({kinds})", stacklevel=3)
    if unseen := [label for label in test if label not in train]:
        must = f"be one of the classes of train, {', '.join(train)}"
        first = test[unseen[0]][0].relative_to(root).parts[:2]
        raise UserError(f"dir: {str(root.joinpath(*first))!r} must {must}", argument=True)
    splits = {
        field: [
            (path.relative_to(root).as_posix(), i)
            for i, label in enumerate(train)
            for path in listing.get(label, [])
        ]
        for field, listing in {"images": train, "test_images": test}.items()
    }
    return read(name, root, image_size, [*train], splits, broken, stream)


def read(
    name: str,
    root: Path,
    image_size: int,
    classes: list[str],
    splits: dict[str, Split],
    broken: str,
    stream: Streams,
) -> Source:
    """The images of both splits, from the cache where they have not changed; or still encoded.

    Args:
      name: of the data set.
      root: where files are named from.
      image_size: the side, pixels.
      classes: names, by number.
      splits: `images` and `test_images`.
      broken: see `load`.
      stream: see `load`.
    """
    shape = (image_size, image_size, 3)
    if broken == "skip":
        splits = _sound(name, root, splits, shape)
    stored = {
        field: Encoded(Files(str(root), [file for file, _ in split]), shape, count=len(split))
        for field, split in splits.items()
    }
    told = tuple(stored.values())
    if stream(sum(images.size for images in told)):
        found = stored | _columns(classes, splits)
        return checked(name, found, "dir: ")._replace(stored=told)

    def build(allocate: Allocate) -> Source:
        images, unread = {}, {}
        for field, split in splits.items():
            images[field] = allocate(field, (len(split), *shape))
            items = enumerate(root / file for file, _ in split)
            unread |= decode(images[field], items, f"{name} {field}")
        refuse(unread)
        return checked(name, images | _columns(classes, splits), "dir: ")

    key = [image_size, classes, _states(root, splits)]
    return cached(name, str(root.resolve()), key, build)._replace(stored=told)


def _columns(classes: list[str], splits: dict[str, Split]) -> dict[str, np.ndarray]:
    """All but the images of a data set."""
    labels = {
        f"{field[:-6]}labels": np.array([label for _, label in split], np.int32)
        for field, split in splits.items()
    }
    files = np.array([file for file, _ in splits["images"]], str)
    return {"names": np.array(classes), "files": files, **labels}


def _sound(
    name: str, root: Path, splits: dict[str, Split], shape: tuple[int, int, int]
) -> dict[str, Split]:
    """The images of both splits that can be read; says which cannot, and notes it for next time."""

    def tried() -> dict[str, np.ndarray]:
        bad: dict[str, str] = {}
        for field, split in splits.items():
            items = enumerate(root / file for file, _ in split)
            bad |= unreadable(items, shape, f"{name} {field} to try them")
        return {"files": np.array([*bad], str), "why": np.array([*bad.values()], str)}

    found = noted(f"broken, in {root.resolve()}", _states(root, splits), tried)
    bad = dict(zip(found["files"].tolist(), found["why"].tolist()))
    if bad:
        told = some(f"{file} ({why})" for file, why in bad.items())
        warnings.warn(f"{counted(len(bad), 'broken image')} skipped: {told}", stacklevel=4)
    kept = {
        field: [(file, label) for file, label in split if str(root / file) not in bad]
        for field, split in splits.items()
    }
    if not kept["images"]:
        must = f"hold an image that can be read, got {counted(len(bad), 'broken image')}"
        raise wrong("dir", must)
    return kept


def _states(root: Path, splits: dict[str, Split]) -> list[tuple[str, int, int]]:
    """What changes when any file does."""
    return [_state(root / file) for split in splits.values() for file, _ in split]


def _state(path: Path) -> tuple[str, int, int]:
    """What changes when a file does; of a link that leads nowhere, nothing."""
    try:
        found = path.stat()
    except OSError:
        return str(path), -1, -1
    return str(path), found.st_size, found.st_mtime_ns


def _splits(root: Path) -> tuple[Listing, Listing, list[str]]:
    """The training and the test images, and the files that are in neither."""
    folders = {path.name.lower(): path for path in _folders(root)}
    train = next((folders[name] for name in TRAIN if name in folders), None)
    test = next((folders[name] for name in TEST if name in folders), None)
    others = set(folders) - {*TRAIN, *TEST}
    if train is not None and not _folders(train) and others and test is None:
        train = None  # a class of trains
    if train is None and test is not None:
        raise wrong("dir", f"{MUST}, got {str(root)!r}, which holds {test.name}/ and no train/")
    listings = _listing(root if train is None else train), {} if test is None else _listing(test)
    if not _folders(root) and (files := [path for path in _walk(root) if _image(path)]):
        listings = {UNLABELLED: files}, {}
    _check_nesting(root, *listings)
    taken = {path for listing in listings for files in listing.values() for path in files}
    left_out = [str(path.relative_to(root)) for path in _walk(root) if path not in taken]
    return listings[0], listings[1], left_out


def _check_nesting(root: Path, train: Listing, test: Listing) -> None:
    """Refuses no class, and a sole class that seems to be a folder of classes."""
    if not train:
        raise wrong("dir", f"{MUST}, got {str(root)!r}")
    if UNLABELLED in train:
        return
    files = next(iter(train.values()))
    sole = next(parent for parent in files[0].parents if parent.name == next(iter(train)))
    if len(train) == 1 and all(path.parent != sole for path in files):
        raise wrong("dir", f"{MUST}, got {str(root)!r}: is {str(sole)!r} meant?")


def _folders(folder: Path) -> list[Path]:
    """The folders in a folder, in natural order."""
    return [path for path, inner in _entries(folder) if inner]


def _entries(folder: Path) -> list[tuple[Path, bool]]:
    """What is in a folder, in natural order, and whether each is a folder."""
    with os.scandir(folder) as found:
        entries = [entry for entry in found if not _hidden(entry.name)]
    entries.sort(key=lambda entry: natural(entry.name))
    # A link may lead round in a circle: `entry.is_dir` would raise.
    inner = (os.path.isdir(e) if e.is_symlink() else e.is_dir() for e in entries)
    return [(Path(entry.path), is_folder) for entry, is_folder in zip(entries, inner)]


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in JUNK


def _image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _listing(folder: Path) -> Listing:
    """The image files of each class folder; refuses a class without one."""
    listing = {
        path.name: [file for file in _walk(path) if _image(file)] for path in _folders(folder)
    }
    if empty := [label for label, files in listing.items() if not files]:
        must = f"hold at least one of *{', *'.join(SUFFIXES)}, got none"
        text = f"dir: class folder {str(folder / empty[0])!r} must {must}"
        raise UserError(text, argument=True)
    return listing


def _walk(folder: Path, above: frozenset[str] = frozenset()) -> list[Path]:
    """All files below a folder in natural order, through links, but never round in a circle."""
    real = os.path.realpath(folder)
    if real in above:
        return []
    found: list[Path] = []
    for path, inner in _entries(folder):
        found += _walk(path, above | {real}) if inner else [path]
    return found
