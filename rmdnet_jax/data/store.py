"""Examples in memory or memory-mapped: checked, decoded by many threads, kept on disk once decoded.

Decoded data are kept as .npy files in `root()` and memory-mapped from there until the files they came from change.
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
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from rmdnet_jax.errors import UserError, first_line

CHUNK = 1024  # examples decoded between two looks at the progress bar
THREADS = min(
    16, os.cpu_count() or 1
)  # that decode; Pillow lets others run while it unpacks a large image
MAX_CLASSES = 1 << 16  # a larger label is a mistake, not a class
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's name of a channel count
Allocate = Callable[[str, tuple[int, ...]], np.ndarray]  # (field, shape) -> uint8 array to fill


class Source(NamedTuple):
    """A data set in memory or memory-mapped; row i of the training arrays is example index i."""

    name: str
    images: np.ndarray  # uint8 [n, height, width, channel]
    labels: np.ndarray  # int32 [n], as stored: clean where the data set is clean
    test_images: np.ndarray  # uint8 [m, height, width, channel]; m may be 0
    test_labels: np.ndarray  # int32 [m]
    names: tuple[str, ...]  # of the classes


def root() -> Path:
    """Where decoded data and compiled programs are kept: `$RMDNET_CACHE`, else `~/.cache/rmdnet_jax`."""
    return Path(os.environ.get("RMDNET_CACHE") or "~/.cache/rmdnet_jax").expanduser()


def checked(name: str, arrays: dict[str, np.ndarray], where: str) -> Source:
    """The source made of these arrays; raises UserError for a wrong type, shape, length, label or number of names."""
    arrays = {
        field: value[..., None] if value.ndim == 3 and "images" in field else value
        for field, value in arrays.items()
    }
    images, labels = arrays["images"], arrays["labels"]
    test_images = arrays.get("test_images", np.zeros((0, *images.shape[1:]), np.uint8))
    test_labels = arrays.get("test_labels", np.zeros(0, np.int32))
    for field, x, y in (("images", images, labels), ("test_images", test_images, test_labels)):
        if (
            x.dtype != np.uint8
            or x.ndim != 4
            or x.shape[-1] not in MODES
            or x.shape[1:] != images.shape[1:]
            or not images.size
        ):
            raise UserError(
                f"{where}{field} must be uint8 [n, h, w] or [n, h, w, 1 to 4], test like train, got {x.dtype} {[*x.shape]}"
            )
        if y.dtype.kind not in "iu" or y.shape != (len(x),):
            raise UserError(
                f"{where}{field[:-6]}labels must be integers of shape [{len(x)}], got {y.dtype} {[*y.shape]}"
            )
    if (every := np.concatenate([labels, test_labels])).min() < 0 or every.max() >= MAX_CLASSES:
        raise UserError(
            f"{where}labels must be in [0, {MAX_CLASSES}), got {every.min()} to {every.max()}"
        )
    names = arrays["names"] if "names" in arrays else np.arange(every.max() + 1).astype(str)
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) <= every.max():
        raise UserError(
            f"{where}names must be a string for each of {every.max() + 1} classes, got {names.dtype} {[*names.shape]}"
        )
    return Source(
        name,
        images,
        np.asarray(labels, np.int32),
        test_images,
        np.asarray(test_labels, np.int32),
        tuple(names.tolist()),
    )


def decode(images: np.ndarray, items: Iterator[tuple[int, Path | bytes]], title: str) -> None:
    """Fills `images` from pairs (row, encoded image), with a progress bar where stderr is a terminal."""

    def fill(part: list[tuple[int, Path | bytes]]) -> None:
        for row, encoded in part:
            images[row] = _pixels(encoded, images.shape[1:], f"{title} {row}")

    with (
        ThreadPoolExecutor(THREADS) as pool,
        tqdm(total=len(images), desc=f"decoding {title}", disable=None) as bar,
    ):
        while chunk := list(itertools.islice(items, CHUNK)):
            list(
                pool.map(fill, [chunk[i::THREADS] for i in range(THREADS)])
            )  # many images a task: a task costs more than a small one
            bar.update(len(chunk))


def _pixels(encoded: Path | bytes, shape: tuple[int, ...], where: str) -> np.ndarray:
    """The image in `shape`: the largest centred part of its aspect, scaled (bilinear, antialiased); raises UserError if unreadable."""
    from PIL import Image, ImageOps

    height, width, channels = shape
    try:
        with Image.open(encoded if isinstance(encoded, Path) else io.BytesIO(encoded)) as file:
            image = ImageOps.fit(
                file.convert(MODES[channels]), (width, height), Image.Resampling.BILINEAR
            )
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"data.dir: cannot read image {encoded if isinstance(encoded, Path) else where}: {first_line(error)}"
        ) from error
    return np.asarray(image).reshape(shape)


def cached(name: str, key: Any, build: Callable[[Allocate], Source]) -> Source:
    """What `build` made the first time that it was called for this key, memory-mapped; writes the cache whole or not at all."""
    base = root()
    digest = hashlib.sha256(repr((1, key)).encode()).hexdigest()[
        :16
    ]  # 1: raise it when decoding changes
    path = base / f"{name.replace('/', '_').replace(':', '_')}-{digest}"
    if (source := _read_cache(name, path)) is not None:
        return source
    try:
        base.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=base) as partial:
            (whole := Path(partial) / "whole").mkdir()
            source = build(lambda field, shape: _reserve(whole / f"{field}.npy", shape))
            for field in (
                field for field in Source._fields[1:] if not (whole / f"{field}.npy").exists()
            ):
                np.save(
                    whole / f"{field}.npy", np.asarray(getattr(source, field)), allow_pickle=False
                )
            if (
                _read_cache(name, path) is None
            ):  # damaged; else another process was faster, and may be reading it
                shutil.rmtree(path, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process was faster
                whole.rename(path)
    except OSError as error:
        warnings.warn(
            f"cannot write the cache of decoded images in {str(base)!r} ({first_line(error)}): going on without",
            stacklevel=2,
        )
        return build(lambda field, shape: np.empty(shape, np.uint8))
    return _read_cache(name, path) or source


def _reserve(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A uint8 .npy file open for writing, its space taken now: a full disk is an OSError here and would be a bus error later."""
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
        return checked(name, arrays, "")
    except Exception:  # a damaged file raises anything: decode again
        return None
