"""Where examples come from: arrays, digits, a .npz file, a folder or a list of images, TFDS.

Images are uint8 in [0, 255], NHWC; labels are int32 in [0, class). The row of an example is its
index: the position in the original training set, whatever the order on disk.
"""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from rmdnet_jax.data import folder, published, table, tfds
from rmdnet_jax.data.encoded import Encoded
from rmdnet_jax.data.images import MODES
from rmdnet_jax.data.source import FIELDS, Source, checked
from rmdnet_jax.data.store import Streams, never
from rmdnet_jax.errors import first_line, within, wrong
from rmdnet_jax.files import place
from rmdnet_jax.labels.classes import array, numbered
from rmdnet_jax.labels.given import check_stray


class Load(Protocol):
    """Reads a data set; `image_size` counts only where images have no size of their own."""

    def __call__(self, name: str, dir: str, image_size: int, /) -> Source: ...


def load(
    name: str,
    *,
    dir: str = "",
    image_size: int = 32,
    limit: int = 0,
    seed: int = 0,
    broken: str = "refuse",
    stream: Streams = never,
) -> Source:
    """Reads a data set by its name.

    Args:
      name: one of `KINDS`, or an image data set of TensorFlow Datasets.
      dir: the folder or file; for TFDS the folder of all data sets, "" for its own choice.
      image_size: side of the squares that images of free size become, pixels.
      limit: how many training examples to keep, a random sample of all classes; 0 keeps all.
      seed: of the sample.
      broken: whether to `refuse` images of a folder that cannot be read, or to `skip` them.
      stream: whether images of so many bytes stay encoded, until each is asked for: `Encoded`.

    Raises:
      UserError: for an unknown name, or for data that cannot be read.

    Example:
      >>> from rmdnet_jax.data import sources
      >>> digits = sources.load("digits", limit=100)
      >>> digits.images.shape, digits.test_images.shape
      ((100, 8, 8, 1), (355, 8, 8, 1))
    """
    within("limit", limit, "[0, inf)", whole=True)
    within("image_size", image_size, "[1, inf)", whole=True)
    within("seed", seed, "[0, inf)", whole=True)
    if name in PICTURES:
        source = PICTURES[name](name, dir, int(image_size), broken, stream)
        return _small(source.cut(limit, seed), stream)
    if broken != "refuse":
        names = " or ".join(map(repr, PICTURES))
        raise wrong("broken", f"be 'refuse' but for name={names}, got {broken!r}")
    if name == "digits" and dir:
        raise wrong("dir", f"be empty for name='digits', got {dir!r}: is name=folder meant?")
    if name in KINDS:
        return KINDS[name](name, dir, int(image_size)).cut(limit, seed)
    with tfds.reached(dir):
        return _small(tfds.load(name, dir, int(image_size), stream).cut(limit, seed), stream)


def _small(source: Source, stream: Streams) -> Source:
    """The source, its images decoded where a cut has left few of them."""
    images, test = source.images, source.test_images
    if not isinstance(images, Encoded) or stream(images.size + test.size):
        return source
    return source._replace(images=images[:], test_images=test[:])


def arrays(
    images: Any,
    labels: Any,
    test_images: Any = None,
    test_labels: Any = None,
    names: Sequence[str] | None = None,
    name: str = "arrays",
) -> Source:
    """A data set of arrays in memory: lists, or arrays of NumPy, JAX or PyTorch.

    Args:
      images: uint8 [n, h, w] or [n, h, w, 1, 3 or 4]; or floats in [0, 1], which become uint8.
      labels: [n], integers of any range or strings; possibly wrong.
      test_images: like `images`, of the same size; None for no test set.
      test_labels: [m], of the classes of `labels`.
      names: of the classes, in their sorted order. With more names than there are classes, a label
        is the position of its name. None takes the labels themselves.
      name: the data set's.

    Raises:
      UserError: for a wrong shape, type, value or class; it names the argument.

    Example:
      >>> import numpy as np
      >>> from rmdnet_jax.data import sources
      >>> source = sources.arrays(np.zeros((3, 8, 8), np.uint8), ["dog", "cat", "dog"])
      >>> source.names, source.labels.tolist()
      (('cat', 'dog'), [1, 0, 1])
    """
    if (test_images is None) != (test_labels is None):
        missing = "test_images" if test_images is None else "test_labels"
        raise wrong(missing, "be given, too: test images and test labels go together")
    numbers, distinct = numbered(labels, "labels")
    if names is None:
        check_stray("labels", distinct[numbers])
    classes = distinct.tolist()
    if names is not None and len(names) > len(classes):  # labels are positions in names
        _check_positions(classes, names)
        numbers, classes = distinct[numbers], list(range(len(names)))
    found = {"images": pixels(images), "labels": numbers}
    found["names"] = _names(classes if names is None else names, len(classes))
    if test_images is not None:
        found["test_images"] = pixels(test_images, "test_images")
        found["test_labels"], _ = numbered(test_labels, "test_labels", classes)
    return checked(name, found)


def _check_positions(classes: list, names: Sequence[str]) -> None:
    """Refuses more names than classes unless each label tells its name's position."""
    for label in classes:
        if type(label) is not int or not 0 <= label < len(names):
            text = f"{len(names)} for {len(classes)} classes, such as {label!r}"
            raise wrong("names", f"be one for each class of labels, got {text}")


def _names(names: Sequence, count: int) -> np.ndarray:
    """The names as an array of strings, each of them once."""
    if len(names) != count:
        raise wrong("names", f"be one for each of {count} classes, got {len(names)}")
    values = [str(value) for value in names]
    if twice := sorted({value for value in values if values.count(value) > 1}):
        raise wrong("names", f"differ from each other, got {twice[0]!r} twice")
    return np.array(values, str)


def pixels(images: Any, argument: str = "images") -> Any:
    """Images as uint8 [n, height, width, channel], for training as for prediction.

    Args:
      images: uint8, or floats in [0, 1], which become `round(255 x)`; grey ones may come without
        their channel. A list, or an array of NumPy, JAX or PyTorch.
      argument: what errors call them.

    Raises:
      UserError: another type, values outside, or channels that come first. It looks at no other
        part of the shape.

    Example:
      >>> import numpy as np
      >>> from rmdnet_jax.data import sources
      >>> sources.pixels(np.array([[[0.0, 1.0], [0.2, 0.4]]])).ravel()
      array([  0, 255,  51, 102], dtype=uint8)
    """
    if isinstance(images, Encoded):
        return images
    images = array(images, argument)
    if images.ndim == 3 and images.shape[-1] > 1:  # else it may be one grey image
        images = images[..., None]
    if images.ndim == 4 and images.shape[-1] not in MODES and images.shape[1] in MODES:
        move = f"move them by np.moveaxis({argument}, 1, -1)"
        raise wrong(argument, f"have their channels last, got {[*images.shape]}: {move}")
    if images.dtype == np.uint8 or not images.size:
        return images.astype(np.uint8, copy=False)
    if images.dtype.kind not in "fiu" and images.dtype.name != "bfloat16":
        raise wrong(argument, f"be uint8 or floats in [0, 1], got {images.dtype}")
    low, high = float(images.min()), float(images.max())
    floats = images.dtype.kind not in "iu"
    if floats and low >= 0 and high <= 1:  # NaN fails
        return _rounded(images)
    got = f"{images.dtype} from {low:g} to {high:g}"
    if low >= 0 and high <= 255:
        advice = f"give {argument}.astype(np.uint8) if they are pixels in [0, 255]"
    elif np.isfinite([low, high]).all():
        advice = "undo the normalisation first"
    else:
        advice = "they hold NaN or infinity"
    raise wrong(argument, f"be uint8 or floats in [0, 1], got {got}: {advice}")


def _rounded(images: np.ndarray) -> np.ndarray:
    """[0, 1] -> {0, ..., 255}, some images at a time: no second copy of all as floats."""
    pixels = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), 1024):
        rows = slice(start, start + 1024)
        pixels[rows] = np.round(images[rows].astype(np.float32) * 255)
    return pixels


def _digits(name: str, dir: str, image_size: int) -> Source:
    """Scikit-learn's 1,797 digits of 8x8 pixels; in file order, every fifth of a class is test."""
    table = np.loadtxt(_scikit_learn() / "datasets/data/digits.csv.gz", np.uint8, delimiter=",")
    images = np.round(table[:, :-1] * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
    labels = table[:, -1].astype(np.int32)
    rows = [np.flatnonzero(labels == digit)[4::5] for digit in range(10)]
    test = np.isin(np.arange(len(labels)), np.concatenate(rows))
    names = tuple("0123456789")
    return Source(name, images[~test], labels[~test], images[test], labels[test], names)


def _scikit_learn() -> pathlib.Path:
    """Where it lies; importing it, only to read a file, would take a second."""
    found = importlib.util.find_spec("sklearn")
    if found is None or found.origin is None:
        raise wrong("name", "be another one without scikit-learn, which brings the digits")
    return pathlib.Path(found.origin).parent


def _npz(name: str, dir: str, image_size: int) -> Source:
    """Arrays of a .npz file: `images`, `labels`; perhaps `test_images`, `test_labels`, `names`."""
    try:
        with place(dir, "dir").open("rb") as file, np.load(file, allow_pickle=False) as archive:
            fields = {field: archive[field] for field in FIELDS if field in archive}
    except Exception as error:  # no such file, a bad zip or header, a pickle: types of their own
        must = f"be a .npz file of plain arrays (no pickled objects), got {dir!r}"
        raise wrong("dir", f"{must}: {first_line(error)}") from error
    if missing := sorted({"images", "labels"} - set(fields)):
        must = f"name a file that holds images and labels, got {dir!r} with no {missing[0]}"
        raise wrong("dir", must)
    return checked(name, fields, f"dir: in {dir!r}, ")


PICTURES = {"folder": folder.load, "table": table.load}
PICTURES |= dict.fromkeys(published.LISTS, published.load)
KINDS: dict[str, Load] = {"digits": _digits, "npz": _npz, **PICTURES}
