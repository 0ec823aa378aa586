"""Examples in memory or memory-mapped: checked, decoded by many threads, kept once decoded.

Decoded data are kept as .npy files in `root()`, and memory-mapped from there until the files that
they came from change.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from tqdm import tqdm

from rmdnet_jax.errors import UserError, first_line, wrong
from rmdnet_jax.files import place

CHUNK = 1024  # examples decoded between two looks at the progress bar
THREADS = min(16, os.cpu_count() or 1)  # Pillow lets others run while it unpacks a large image
MAX_CLASSES = 1 << 16  # a larger label is a mistake, not a class
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's name of a channel count


class Source(NamedTuple):
    """A data set in memory or memory-mapped; row i of the training arrays is example index i."""

    name: str
    images: np.ndarray  # uint8 [n, height, width, channel]
    labels: np.ndarray  # int32 [n], as stored: clean where the data set is clean
    test_images: np.ndarray  # uint8 [m, height, width, channel]; m may be 0
    test_labels: np.ndarray  # int32 [m]
    names: tuple[str, ...]  # of the classes
    files: tuple[str, ...] = ()  # of the training examples, below the folder; empty elsewhere

    def cut(self, limit: int) -> Source:
        """The first `limit` training examples, or all of them for 0; the test set stays whole."""
        keep = slice(limit or None)
        return self._replace(
            images=self.images[keep], labels=self.labels[keep], files=self.files[keep]
        )


class Allocate(Protocol):
    """Makes the uint8 array that a field's images are written to."""

    def __call__(self, field: str, shape: tuple[int, ...], /) -> np.ndarray: ...


class Build(Protocol):
    """Makes a source, its images in arrays that `allocate` made."""

    def __call__(self, allocate: Allocate, /) -> Source: ...


def root() -> Path:
    """Where decoded data and compiled programs lie: `$RMDNET_CACHE`, else ~/.cache/rmdnet_jax."""
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
    classes = 1 + max(labels.max(), test_labels.max(initial=0))
    names = arrays["names"] if "names" in arrays else np.arange(classes).astype(str)
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) < classes:
        got = f"{names.dtype} {[*names.shape]}"
        raise wrong(f"{where}names", f"be a string for each of {classes} classes, got {got}")
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


def decode(images: np.ndarray, items: Iterator[tuple[int, Path | bytes]], title: str) -> None:
    """Fills `images` from pairs (row, encoded image); a bar shows progress on a terminal."""

    def fill(part: list[tuple[int, Path | bytes]]) -> None:
        for row, encoded in part:
            images[row] = _pixels(encoded, images.shape[1:], f"{title} {row}")

    bar = tqdm(total=len(images), desc=f"decoding {title}", disable=None)
    with ThreadPoolExecutor(THREADS) as pool, bar:
        while chunk := list(itertools.islice(items, CHUNK)):
            # many images a task: a task costs more than a small image
            list(pool.map(fill, [chunk[i::THREADS] for i in range(THREADS)]))
            bar.update(len(chunk))


def _pixels(encoded: Path | bytes, shape: tuple[int, ...], where: str) -> np.ndarray:
    """The image in `shape`: the largest centred part of its aspect, scaled with antialiasing."""
    from PIL import Image, ImageOps

    height, width, channels = shape
    try:
        with Image.open(encoded if isinstance(encoded, Path) else io.BytesIO(encoded)) as file:
            image = file.convert(MODES[channels])
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        what = encoded if isinstance(encoded, Path) else where
        text = f"dir: cannot read image {what}: {first_line(error)}"
        raise UserError(text, argument=True) from error
    return np.asarray(image).reshape(shape)


def cached(name: str, key: object, build: Build) -> Source:
    """What `build` made the first time that it was called for this key, memory-mapped.

    The cache is written whole or not at all.
    """
    base = root()
    digest = hashlib.sha256(repr((1, key)).encode()).hexdigest()  # 1: raise it with decoding
    path = base / f"{name.replace('/', '_').replace(':', '_')}-{digest[:16]}"
    if (source := _read_cache(name, path)) is not None:
        return source
    try:
        source = _write_cache(name, path, build)
    except OSError as error:
        warnings.warn(
            f"cannot write the cache of decoded images in {str(base)!r} ({first_line(error)}): "
            "going on without",
            stacklevel=2,
        )
        return build(lambda field, shape: np.empty(shape, np.uint8))
    return _read_cache(name, path) or source


def _write_cache(name: str, path: Path, build: Build) -> Source:
    """Builds a source in a folder of its own, which is then renamed to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=path.parent) as partial:
        (whole := Path(partial) / "whole").mkdir()
        source = build(lambda field, shape: _reserve(whole / f"{field}.npy", shape))
        for field in Source._fields[1:]:
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
            for field in Source._fields[1:]
        }
        return checked(name, arrays)
    except Exception:  # a damaged file raises anything: decode again
        return None
