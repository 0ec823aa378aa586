"""Examples in memory or memory-mapped: checked, and kept once decoded.

Decoded data are kept as .npy files in `root()`, and memory-mapped from there until the files that
they came from change.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from rmdnet_jax.data.images import MODES, some
from rmdnet_jax.errors import first_line, wrong
from rmdnet_jax.files import place
from rmdnet_jax.labels.given import check_stray

MAX_CLASSES = 1 << 16  # a larger label is a mistake, not a class
FIELDS = ("images", "labels", "test_images", "test_labels", "names", "files")  # kept in files
KEPT = 2  # decoded copies of one folder or data set, of different states or sizes
DECODED = re.compile(r".+-[0-9a-f]{16}")
GIGABYTES = 64.0  # of all decoded data, unless $RMDNET_CACHE_GB says otherwise


class Source(NamedTuple):
    """A data set in memory or memory-mapped; row i of the training arrays is example index i."""

    name: str
    images: np.ndarray  # uint8 [n, height, width, channel]
    labels: np.ndarray  # int32 [n], as stored: clean where the data set is clean
    test_images: np.ndarray  # uint8 [m, height, width, channel]; m may be 0
    test_labels: np.ndarray  # int32 [m]
    names: tuple[str, ...]  # of the classes
    files: tuple[str, ...] = ()  # of the training examples, below the folder; empty elsewhere
    rows: np.ndarray | None = None  # int32 [n], where each example was before `cut`; None: there
    total: int = 0  # training examples before `cut`; 0: these are all

    def cut(self, limit: int, seed: int = 0) -> Source:
        """A random sample of `limit` training examples in their order, or all of them for 0.

        Each class keeps its share, and one example at least where there is room. The test set
        stays whole.
        """
        size = len(self.labels)
        if not 0 < limit < size:
            return self
        order = np.random.default_rng(seed).permutation(size)
        order = order[np.argsort(self.labels[order], kind="stable")]
        counts = np.bincount(self.labels)
        place = np.arange(size) - np.repeat(np.cumsum(counts) - counts, counts)  # in its class
        share = np.where(place, (place + 0.5) / np.repeat(counts, counts), -1.0)
        rows = np.sort(order[np.argsort(share, kind="stable")[:limit]]).astype(np.int32)
        return self._replace(
            images=self.images[rows],
            labels=self.labels[rows],
            files=tuple(self.files[row] for row in rows) if self.files else (),
            rows=rows if self.rows is None else self.rows[rows],
            total=self.total or size,
        )


class Allocate(Protocol):
    """Makes the uint8 array that a field's images are written to."""

    def __call__(self, field: str, shape: tuple[int, ...], /) -> np.ndarray: ...


class Build(Protocol):
    """Makes a source, its images in arrays that `allocate` made."""

    def __call__(self, allocate: Allocate, /) -> Source: ...


def root() -> Path:
    """Where decoded data and compiled programs lie: `$RMDNET_CACHE`, else ~/.cache/rmdnet_jax.

    Of decoded data at most `$RMDNET_CACHE_GB` gigabytes are kept, `GIGABYTES` where it is not set.
    """
    return place(os.environ.get("RMDNET_CACHE") or "~/.cache/rmdnet_jax", "RMDNET_CACHE")


def compiled() -> str:
    """Where compiled programs lie, perhaps in a bucket: as JAX is told, else below `root()`."""
    return os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(root() / "compiled")


def checked(name: str, arrays: dict[str, np.ndarray], where: str = "") -> Source:
    """The source made of arrays; refuses a wrong type, shape, length, label or number of names.

    Args:
      name: the data set's.
      arrays: `images` and `labels`; perhaps `test_images` with `test_labels`, `names`, `files`.
      where: what an error begins with, such as "dir: in 'x.npz', ".
    """
    for field, array in arrays.items():
        if not isinstance(array, np.ndarray):  # a .npz may hold other files
            raise wrong(f"{where}{field}", f"be a plain array, got {type(array).__name__}")
    images, labels = _channels(arrays["images"]), arrays["labels"]
    absent = {
        "test_images": np.zeros((0, *images.shape[1:]), np.uint8),
        "test_labels": np.zeros(0, np.int32),
        "files": np.zeros(0, str),
    }
    arrays = absent | arrays
    test_images, test_labels = _channels(arrays["test_images"]), arrays["test_labels"]
    files = arrays["files"]
    _check_images(f"{where}images", images, images.shape[1:])
    _check_images(f"{where}test_images", test_images, images.shape[1:])
    if not images.size:
        raise wrong(f"{where}images", f"hold at least one image, got {[*images.shape]}")
    _check_labels(f"{where}labels", labels, len(images))
    _check_labels(f"{where}test_labels", test_labels, len(test_images))
    if "names" not in arrays:
        labels, test_labels, arrays["names"] = _classes(where, labels, test_labels)
    names, classes = arrays["names"], 1 + max(labels.max(), test_labels.max(initial=0))
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) < classes:
        got = f"{names.dtype} {[*names.shape]}"
        raise wrong(f"{where}names", f"be a string for each of {classes} classes, got {got}")
    if twice := [name for name, count in Counter(names.tolist()).items() if count > 1]:
        raise wrong(f"{where}names", f"differ from each other, got {twice[0]!r} twice")
    if files.dtype.kind != "U" or files.shape not in ((0,), labels.shape):
        got = f"{files.dtype} {[*files.shape]}"
        raise wrong(f"{where}files", f"be a string for each of {len(images)} images, got {got}")
    return Source(
        name=name,
        images=images,
        labels=np.asarray(labels, np.int32),
        test_images=test_images,
        test_labels=np.asarray(test_labels, np.int32),
        names=tuple(names.tolist()),
        files=tuple(files.tolist()),
    )


def _classes(
    where: str, labels: np.ndarray, test_labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels and test labels as places among the distinct labels, and those as names."""
    distinct = np.unique(labels)
    check_stray(f"{where}labels", labels)
    if (unseen := np.setdiff1d(test_labels, distinct)).size:
        text = f"be among the labels that are trained on, got {unseen[0]} and no training image"
        raise wrong(f"{where}test_labels", text)
    if distinct[-1] != len(distinct) - 1:
        few = some(map(str, distinct))
        warnings.warn(f"labels are the names of {len(distinct)} classes: {few}", stacklevel=4)
    labels, test_labels = (np.searchsorted(distinct, x) for x in (labels, test_labels))
    return labels, test_labels, distinct.astype(str)


def _channels(images: np.ndarray) -> np.ndarray:
    """The images with an axis of channels."""
    return images[..., None] if images.ndim == 3 else images


def _check_images(argument: str, images: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuses what is no uint8 array [n, *shape] of grey, RGB or RGBA images."""
    shown = f"{images.dtype} {[*images.shape]}"
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in MODES:
        must = f"be uint8 [n, h, w] or [n, h, w, channel of {', '.join(map(str, MODES))}]"
        raise wrong(argument, f"{must}, got {shown}")
    if images.shape[1:] != shape:
        raise wrong(argument, f"have the shape {[*shape]} of the training images, got {shown}")


def _check_labels(argument: str, labels: np.ndarray, count: int) -> None:
    """Refuses what are no `count` numbers of classes."""
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        got = f"{labels.dtype} {[*labels.shape]}"
        raise wrong(argument, f"be integers of shape [{count}], got {got}")
    if count and (labels.min() < 0 or labels.max() >= MAX_CLASSES):
        got = f"{labels.min()} to {labels.max()}"
        raise wrong(argument, f"be in [0, {MAX_CLASSES}), got {got}")


def cached(name: str, place: str, key: object, build: Build) -> Source:
    """What `build` made the first time that it was called for this key, memory-mapped.

    The cache is written whole or not at all. Older copies are deleted, see `_prune`.

    Args:
      name: the data set's.
      place: where it comes from; few copies of one place are kept.
      key: changes when the data do.
      build: reads them.
    """
    base = root()
    digests = [
        hashlib.sha256(repr((2, *x)).encode()).hexdigest()[:16]  # 2: raise with decoding
        for x in ([place], [place, key])
    ]
    path = base / "-".join([name.replace("/", "_").replace(":", "_"), digests[0][:8], digests[1]])
    if (source := _read_cache(name, path)) is not None:
        return source
    try:
        source = _write_cache(name, path, build)
        _prune(base, path)
    except OSError as error:
        warnings.warn(
            f"cannot write the cache of decoded images in {str(base)!r} ({first_line(error)}): "
            "going on without",
            stacklevel=2,
        )
        return build(lambda field, shape: np.empty(shape, np.uint8))
    return _read_cache(name, path) or source


def _prune(base: Path, newest: Path) -> None:
    """Deletes what was longest not read: copies of a place beyond `KEPT`, all beyond the limit.

    What other processes have mapped stays readable for them.
    """
    limit, seen, size = _limit(), Counter[str](), 0
    found = {path.parent for path in base.glob("*/test_labels.npy") if path.parent != newest}
    found = [path for path in found if DECODED.fullmatch(path.name)]  # nothing of the user's
    for path in [newest, *sorted(found, key=_age, reverse=True)]:
        place, own = path.name[:-16], sum(file.stat().st_size for file in path.glob("*.npy"))
        if path != newest and (seen[place] >= KEPT or size + own > limit):
            shutil.rmtree(path, ignore_errors=True)
            continue
        seen[place] += 1
        size += own
    for path in base.glob(".partial-*"):  # of a process that was killed
        if time.time() - _age(path) > 24 * 3600:
            shutil.rmtree(path, ignore_errors=True)


def _age(path: Path) -> float:
    """When a folder was last read or written; 0 where it has just gone."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _limit() -> float:
    """How many bytes of decoded data are kept."""
    text = os.environ.get("RMDNET_CACHE_GB") or GIGABYTES
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not size >= 0:
        raise wrong("RMDNET_CACHE_GB", f"be a number of gigabytes, got {text!r}")
    return size * 1e9


def _write_cache(name: str, path: Path, build: Build) -> Source:
    """Builds a source in a folder of its own, which is then renamed to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=path.parent) as partial:
        (whole := Path(partial) / "whole").mkdir()
        source = build(lambda field, shape: _reserve(whole / f"{field}.npy", shape))
        for field in FIELDS:
            if not (whole / f"{field}.npy").exists():
                values = getattr(source, field)
                values = np.array(values, str) if isinstance(values, tuple) else values
                np.save(whole / f"{field}.npy", values, allow_pickle=False)
        if _read_cache(name, path) is None:  # damaged; else a faster process may be reading it
            shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process was faster
            whole.rename(path)
    return source


def _reserve(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A uint8 .npy file open for writing; on a full disk an OSError here, not a bus error later."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _read_cache(name: str, path: Path) -> Source | None:
    """The arrays of a cache directory, or None where there is none or it is damaged."""
    try:
        arrays = {
            field: np.load(path / f"{field}.npy", mmap_mode="r", allow_pickle=False)
            for field in FIELDS
        }
        source = checked(name, arrays)
        with contextlib.suppress(OSError):  # a cache that may only be read
            os.utime(path)  # it is in use: see `_prune`
        return source
    except Exception:  # a damaged file raises anything: decode again
        return None
