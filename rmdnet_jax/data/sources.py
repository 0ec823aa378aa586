"""Where examples come from: embedded digits, a .npz file, a folder of images, or any TFDS image-classification data set.

Images are uint8 in [0, 255], NHWC; labels are int32 in [0, class). The row of an example is its index: the position in the original
training set, whatever the order on disk. A mistake of the user's is a `UserError` that names `data.name`, `data.dir`, ...

Decoded TFDS and folder data are kept as .npy files in `$RMDNET_CACHE`, else `~/.cache/rmdnet_jax`, and memory-mapped from there until the
files they came from change. TensorFlow is imported only to prepare a TFDS data set, or to read one prepared as tfrecord.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import itertools
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from rmdnet_jax.types import UserError, first_line, unknown

CHUNK = 1024  # examples decoded between two looks at the progress bar
THREADS = min(16, os.cpu_count() or 1)  # that decode; Pillow lets others run while it unpacks a large image
MAX_CLASSES = 1 << 16  # a larger label is a mistake, not a class
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's name of a channel count
SUFFIXES = (".png", ".jpg", ".jpeg")
TFDS_NAME = re.compile(r"\w+(/[\w.+-]+)?(:\d[\w.*]*)?")  # data set, config, version; no namespace: those ask the network
Allocate = Callable[[str, tuple[int, ...]], np.ndarray]  # (field, shape) -> uint8 array to fill


class Source(NamedTuple):
    """A data set in memory or memory-mapped; row i of the training arrays is example index i."""

    name: str
    images: np.ndarray  # uint8 [n, height, width, channel]
    labels: np.ndarray  # int32 [n], as stored: clean where the data set is clean
    test_images: np.ndarray  # uint8 [m, height, width, channel]; m may be 0
    test_labels: np.ndarray  # int32 [m]
    names: tuple[str, ...]  # of the classes


def load(name: str, *, dir: str = "", image_size: int = 32, limit: int = 0) -> Source:
    """Reads the data set `name`, cut to its first `limit` training examples by index (0: all; the test set stays whole)."""
    for field, value, least in (("data.limit", limit, 0), ("data.image_size", image_size, 1)):
        if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
            raise UserError(f"{field} must be an integer of at least {least}, got {value!r}")
    source = KINDS.get(name, _tfds)(name, dir, int(image_size))
    return source._replace(images=source.images[:limit], labels=source.labels[:limit]) if limit else source


def _digits(name: str, dir: str, image_size: int) -> Source:
    """Scikit-learn's 1,797 embedded 8x8 digits; every fifth example of each class, in file order, is test."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    images, labels = np.round(pixels * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1), labels.astype(np.int32)
    test = np.isin(np.arange(len(labels)), np.concatenate([np.flatnonzero(labels == digit)[4::5] for digit in range(10)]))
    return Source(name, images[~test], labels[~test], images[test], labels[test], tuple("0123456789"))


def _npz(name: str, dir: str, image_size: int) -> Source:
    """Arrays of a .npz file: `images`, `labels` and, where there, `test_images` with `test_labels`, and `names`."""
    try:
        with open(os.path.expanduser(dir), "rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {field: archive[field] for field in Source._fields[1:] if field in archive}
    except Exception as error:  # no such file, a bad zip, a bad header, a pickled object: each raises a type of its own
        raise UserError(f"data.dir must be a .npz file of plain arrays (no pickled objects), got {dir!r}: {first_line(error)}") from error
    if missing := sorted({"images", "labels"} - set(arrays)):
        raise UserError(f"data.dir: {dir!r} must hold the arrays images and labels, got no {missing[0]}")
    return _checked(name, arrays, f"data.dir: in {dir!r}, ")


def _checked(name: str, arrays: dict[str, np.ndarray], where: str) -> Source:
    """The source made of these arrays; raises UserError for a wrong type, shape, length, label or number of names."""
    arrays = {field: value[..., None] if value.ndim == 3 and "images" in field else value for field, value in arrays.items()}
    images, labels = arrays["images"], arrays["labels"]
    test_images = arrays.get("test_images", np.zeros((0, *images.shape[1:]), np.uint8))
    test_labels = arrays.get("test_labels", np.zeros(0, np.int32))
    for field, x, y in (("images", images, labels), ("test_images", test_images, test_labels)):
        if x.dtype != np.uint8 or x.ndim != 4 or x.shape[-1] not in MODES or x.shape[1:] != images.shape[1:] or not images.size:
            raise UserError(f"{where}{field} must be uint8 [n, h, w] or [n, h, w, 1 to 4], test like train, got {x.dtype} {[*x.shape]}")
        if y.dtype.kind not in "iu" or y.shape != (len(x),):
            raise UserError(f"{where}{field[:-6]}labels must be integers of shape [{len(x)}], got {y.dtype} {[*y.shape]}")
    if (every := np.concatenate([labels, test_labels])).min() < 0 or every.max() >= MAX_CLASSES:
        raise UserError(f"{where}labels must be in [0, {MAX_CLASSES}), got {every.min()} to {every.max()}")
    names = arrays["names"] if "names" in arrays else np.arange(every.max() + 1).astype(str)
    if names.ndim != 1 or names.dtype.kind != "U" or len(names) <= every.max():
        raise UserError(f"{where}names must be a string for each of {every.max() + 1} classes, got {names.dtype} {[*names.shape]}")
    return Source(name, images, np.asarray(labels, np.int32), test_images, np.asarray(test_labels, np.int32), tuple(names.tolist()))


def _folder(name: str, dir: str, image_size: int) -> Source:
    """Images under `dir/train/<class>/` and perhaps `dir/test/<class>/`, in sorted order, as RGB squares of `image_size`."""
    root = Path(dir).expanduser()
    train, test = _listing(root / "train"), _listing(root / "test")
    if not dir or not train:
        raise UserError(f"data.dir must be a folder that holds train/<class>/ for data.name=folder, got {dir!r}")
    if unseen := sorted(set(test) - set(train)):
        raise UserError(f"data.dir: {str(root / 'test' / unseen[0])!r} must be one of the classes of train, {', '.join(train)}")
    sets = (("images", train), ("test_images", test))
    pairs = {field: [(path, i) for i, label in enumerate(train) for path in split.get(label, [])] for field, split in sets}
    files = [(str(path), (stat := path.stat()).st_size, stat.st_mtime_ns) for split in pairs.values() for path, _ in split]

    def build(allocate: Allocate) -> Source:
        arrays = {"names": np.array(list(train))}
        for field, split in pairs.items():
            arrays[field] = allocate(field, (len(split), image_size, image_size, 3))
            arrays[f"{field[:-6]}labels"] = np.array([label for _, label in split], np.int32)
            _decode(arrays[field], ((row, path) for row, (path, _) in enumerate(split)), f"{name} {field}")
        return _checked(name, arrays, "data.dir: ")

    return _cached(name, [str(root.resolve()), image_size, files], build)


def _listing(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class folder, both sorted; raises UserError for a class without one."""
    classes = sorted(path for path in folder.glob("[!.]*") if path.is_dir())
    listing = {path.name: sorted(file for file in path.glob("[!.]*") if file.suffix.lower() in SUFFIXES) for path in classes}
    if empty := [label for label, files in listing.items() if not files]:
        raise UserError(f"data.dir: class folder {str(folder / empty[0])!r} must hold at least one of *{', *'.join(SUFFIXES)}, got none")
    return listing


def _decode(images: np.ndarray, items: Iterator[tuple[int, Path | bytes]], title: str) -> None:
    """Fills `images` from pairs (row, encoded image), with a progress bar where stderr is a terminal."""

    def fill(part: list[tuple[int, Path | bytes]]) -> None:
        for row, encoded in part:
            images[row] = _pixels(encoded, images.shape[1:], f"{title} {row}")

    with ThreadPoolExecutor(THREADS) as pool, tqdm(total=len(images), desc=f"decoding {title}", disable=None) as bar:
        while chunk := list(itertools.islice(items, CHUNK)):
            list(pool.map(fill, [chunk[i::THREADS] for i in range(THREADS)]))  # many images a task: a task costs more than a small one
            bar.update(len(chunk))


def _pixels(encoded: Path | bytes, shape: tuple[int, ...], where: str) -> np.ndarray:
    """The image in `shape`: the largest centred part of its aspect, scaled (bilinear, antialiased); raises UserError if unreadable."""
    from PIL import Image, ImageOps

    height, width, channels = shape
    try:
        with Image.open(encoded if isinstance(encoded, Path) else io.BytesIO(encoded)) as file:
            image = ImageOps.fit(file.convert(MODES[channels]), (width, height), Image.Resampling.BILINEAR)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"data.dir: cannot read image {encoded if isinstance(encoded, Path) else where}: {first_line(error)}") from error
    return np.asarray(image).reshape(shape)


def _tfds(name: str, dir: str, image_size: int) -> Source:
    """A data set of TensorFlow Datasets: the train split and the first of test and validation that has labels."""
    builder, shape = _open_tfds(name, dir, image_size)
    if not builder.data_path.exists() or not builder.is_prepared():  # is_prepared warns where nothing exists
        _prepare(name, builder)
    if "train" not in builder.info.splits:
        raise UserError(f"data.name must be a data set with a train split, got {name!r} with {', '.join(builder.info.splits)}")
    files = sorted((path.name, path.stat().length, path.stat().mtime) for path in builder.data_path.iterdir())

    def build(allocate: Allocate) -> Source:
        arrays = {"names": np.array(builder.info.features["label"].names)}
        for field, choice in (("images", ["train"]), ("test_images", ["test", "validation"])):
            for split in (split for split in choice if split in builder.info.splits):
                rows, labels = _rows_and_labels(builder, split)
                if split == "test" and labels.min(initial=0) < 0:  # -1 stands for a label that was never published
                    continue
                arrays |= {f"{field[:-6]}labels": labels, field: allocate(field, (len(rows), *shape))}
                _decode(arrays[field], ((row, record["image"]) for row, record in zip(rows, _records(builder, split))), f"{name} {split}")
                break
        return _checked(name, arrays, f"data.name: in {name!r}, ")

    return _cached(name, [builder.info.full_name, str(builder.data_path), files, shape], build)


def _open_tfds(name: str, dir: str, image_size: int) -> tuple[Any, tuple[int, int, int]]:
    """TFDS's builder of that name and the shape of its images, squares of `image_size` where it isn't fixed."""
    import tensorflow_datasets as tfds

    try:
        if not TFDS_NAME.fullmatch(name):
            raise tfds.core.DatasetNotFoundError
        builder: Any = tfds.builder(name, data_dir=os.path.expanduser(dir) or None)
    except tfds.core.DatasetNotFoundError:
        near = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), cutoff=0.5)
        raise unknown("data.name", name, dict.fromkeys([*KINDS, "cifar10", "cifar100", *near, "other image data sets of TFDS"])) from None
    except Exception as error:  # an unknown config or version, a package that the builder needs
        raise UserError(f"data.name: TFDS cannot open {name!r}: {first_line(error)}") from error
    features: dict[str, Any] = dict(builder.info.features or {})
    image, label = features.get("image"), features.get("label")
    if not isinstance(image, tfds.features.Image) or not isinstance(label, tfds.features.ClassLabel) or image.np_dtype != np.uint8:
        raise UserError(f"data.name must be a data set with an 8-bit `image` and a class `label`, got {name!r} with {', '.join(features)}")
    height, width, channels = features["image"].shape
    return builder, (height, width, channels) if height and width and channels else (image_size, image_size, channels or 3)


def _prepare(name: str, builder: Any) -> None:
    """Downloads and writes a TFDS data set as ArrayRecord; raises UserError that says how to do it elsewhere."""
    import requests

    try:
        for url in [url for url in builder.url_infos or () if url.startswith("http")][:1]:
            requests.head(url, timeout=(5, 60))  # without a network TFDS itself would try for minutes
        _import_tensorflow()
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # no network, no TensorFlow, no space, data that must be fetched by hand
        reason = "no network" if isinstance(error, requests.ConnectionError) else first_line(error)
        what = f"{name} is not prepared in {str(builder.data_dir_root)!r} and cannot be prepared here ({reason})"
        run = f"import tensorflow_datasets as t; t.builder('{name}', data_dir='DIR').download_and_prepare(file_format='array_record')"
        raise UserError(f'data.dir: {what}: where there is a network, run python -c "{run}", then let data.dir be DIR') from error


def _import_tensorflow() -> None:
    """Imports TensorFlow, for what TFDS can't do without it, and hides the GPUs from it, which are JAX's."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UserError(f"data.dir: preparing a TFDS data set and reading one in tfrecord format need TensorFlow: {error}") from None
    with contextlib.suppress(RuntimeError):  # already in use by the caller
        tf.config.set_visible_devices([], "GPU")


def _records(builder: Any, split: str) -> Iterator[dict[str, Any]]:
    """The examples of a split in the order on disk, images still encoded."""
    import tensorflow_datasets as tfds

    encoded = {key: tfds.decode.SkipDecoding() for key, value in builder.info.features.items() if isinstance(value, tfds.features.Image)}
    try:
        data = builder.as_data_source(split=split, decoders=encoded)
    except NotImplementedError:  # prepared as tfrecord
        _import_tensorflow()
        order = tfds.ReadConfig(interleave_cycle_length=1)
        yield from tfds.as_numpy(builder.as_dataset(split=split, decoders=encoded, shuffle_files=False, read_config=order))
        return
    for start in range(0, len(data), CHUNK):
        yield from data.__getitems__(list(range(start, min(start + CHUNK, len(data)))))


def _rows_and_labels(builder: Any, split: str) -> tuple[list[int], np.ndarray]:
    """The row of each example on disk, from ids such as `train_00042` where they number all examples, and the label of each row."""
    found = [(re.search(r"(\d+)'?$", str(record.get("id", ""))), int(record["label"])) for record in _records(builder, split)]
    rows = [int(number[1]) if number else -1 for number, _ in found]  # the quote: str() of bytes
    if sorted(rows) != list(range(len(rows))):
        rows = list(range(len(rows)))
    labels = np.empty(len(rows), np.int32)
    labels[rows] = [label for _, label in found]
    return rows, labels


def _cached(name: str, key: Any, build: Callable[[Allocate], Source]) -> Source:
    """What `build` made the first time that it was called for this key, memory-mapped; writes the cache whole or not at all."""
    root = Path(os.path.expanduser(os.environ.get("RMDNET_CACHE") or "~/.cache/rmdnet_jax"))
    digest = hashlib.sha256(repr((1, key)).encode()).hexdigest()[:16]  # 1: raise it when decoding changes
    path = root / f"{name.replace('/', '_').replace(':', '_')}-{digest}"
    if (source := _read_cache(name, path)) is not None:
        return source
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=root) as partial:
            (whole := Path(partial) / "whole").mkdir()
            source = build(lambda field, shape: _reserve(whole / f"{field}.npy", shape))
            for field in (field for field in Source._fields[1:] if not (whole / f"{field}.npy").exists()):
                np.save(whole / f"{field}.npy", np.asarray(getattr(source, field)), allow_pickle=False)
            shutil.rmtree(path, ignore_errors=True)  # damaged, or it would have been read
            with contextlib.suppress(OSError):  # another process was faster
                whole.rename(path)
    except OSError as error:
        warnings.warn(f"cannot write the cache of decoded images in {str(root)!r} ({first_line(error)}): going on without", stacklevel=2)
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
        arrays = {field: np.load(path / f"{field}.npy", mmap_mode="r", allow_pickle=False) for field in Source._fields[1:]}
        return _checked(name, arrays, "")
    except Exception:  # a damaged file raises anything: decode again
        return None


KINDS: dict[str, Callable[[str, str, int], Source]] = {"digits": _digits, "npz": _npz, "folder": _folder}
