"""Image-classification data sets of TensorFlow Datasets, examples in their original order.

TensorFlow is imported only to prepare a data set, or to read one prepared as tfrecord.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rmdnet_jax.data.encoded import LOOKED_AT
from rmdnet_jax.data.images import decode, refuse
from rmdnet_jax.data.records import (
    INSTALL,
    SPLITS,
    encoded_columns,
    import_tensorflow,
    in_order,
    labelled,
    random_access,
    rows_and_labels,
    usable,
    whole,
)
from rmdnet_jax.data.source import Source, checked
from rmdnet_jax.data.store import Allocate, Streams, cached, never, noted
from rmdnet_jax.errors import UserError, first_line, unknown, wrong
from rmdnet_jax.files import SCHEME, place

# data set, config, version; no namespace: those ask the network
NAME = re.compile(r"\w+(/[\w.+-]+)?(:\d[\w.*]*)?")
VERSION = re.compile(r"\d+\.\d+\.\d+")
OTHERS = [
    "digits",
    "npz",
    "folder",
    "table",
    "clothing1m",
    "webvision",
    "cifar10",
    "cifar100",
]  # named in errors


def load(name: str, dir: str, image_size: int, stream: Streams = never) -> Source:
    """A data set of TFDS: its train split, and the first of test and validation with labels.

    Args:
      name: perhaps with its config and version.
      dir: the folder of all data sets, "" for TFDS's own choice.
      image_size: side of the squares that images of free size become, pixels.
      stream: whether images of so many bytes stay encoded.

    Raises:
      UserError: an unknown name, a data set without classes, one that is not prepared.
    """
    builder, shape = _open_tfds(name, dir, image_size)
    # is_prepared warns where nothing exists
    if not builder.data_path.exists() or not builder.is_prepared():
        _prepare(name, builder)
    if "train" not in builder.info.splits:
        got = f"{name!r} with {', '.join(builder.info.splits)}"
        raise wrong("name", f"be a data set with a train split, got {got}")
    paths = [(path.name, path.stat()) for path in builder.data_path.iterdir()]
    files = sorted((path, stat.length, stat.mtime) for path, stat in paths)

    names = {"names": np.array(builder.info.features["label"].names)}
    key, where = [builder.info.full_name, files, shape], f"name: in {name!r}, "
    counts = {name: split.num_examples for name, split in builder.info.splits.items()}
    # Of a larger data set nobody reads all to tell it apart.
    stored = whole(builder, shape) if counts["train"] > LOOKED_AT else ()
    if stream(sum(counts.get(split, 0) for split in SPLITS) * math.prod(shape)):
        if not random_access(builder):
            must = "hold array records, which can be read in any order, for pipeline=streaming"
            raise wrong("dir", f"{must}, got tfrecord in {str(builder.data_path)!r}")
        found = noted(str(builder.data_path), key, lambda: labelled(builder))
        columns = names | encoded_columns(builder, found, shape)
        return checked(name, columns, where)._replace(stored=stored)

    def build(allocate: Allocate) -> Source:
        arrays = dict(names)
        arrays |= _split(builder, name, "images", SPLITS[:1], shape, allocate)
        arrays |= _split(builder, name, "test_images", SPLITS[1:], shape, allocate)
        return checked(name, arrays, where)

    return cached(name, str(builder.data_path), key, build)._replace(stored=stored)


def _split(
    builder: Any,
    name: str,
    field: str,
    choice: Sequence[str],
    shape: tuple[int, int, int],
    allocate: Allocate,
) -> dict[str, np.ndarray]:
    """Images and labels of the first split of `choice` that is there and has labels."""
    for split, rows, labels in usable(builder, choice):
        images = allocate(field, (len(rows), *shape))
        encoded = (record["image"] for record in in_order(builder, split))
        refuse(decode(images, zip(rows, encoded), f"{name} {split}"))
        return {field: images, f"{field[:-6]}labels": labels}
    return {}


def labels(name: str, dir: str, field: str) -> np.ndarray:
    """Another class label of the training examples, such as the human labels of `cifar10_n`.

    Args:
      name: a prepared data set.
      dir: where it lies, as for `load`.
      field: the label's name in the data set.

    Returns:
      int32 [n], in the examples' original order.
    """
    import tensorflow_datasets as tfds

    builder, _ = _open_tfds(name, dir, 1)
    features: dict[str, Any] = dict(builder.info.features or {})
    classes = features.pop("label").num_classes
    kinds = [
        key
        for key, value in features.items()
        if isinstance(value, tfds.features.ClassLabel) and value.num_classes == classes
    ]
    if field not in kinds:
        none = f"({name} has no label of its classes but its own)"
        raise unknown("field", field, kinds or [none])
    return rows_and_labels(builder, "train", field)[1]


@contextlib.contextmanager
def reached(dir: str) -> Iterator[None]:
    """Makes one line of what a bucket refuses; imports its reader, TensorFlow."""
    bucket = SCHEME.match(dir)
    if bucket:
        with contextlib.suppress(ImportError):
            import_tensorflow()  # else TFDS does it, and shows it our GPUs
    try:
        yield
    except Exception as error:
        if not (bucket and (said := _refusal(error))):
            raise
        raise UserError(f"dir: {dir!r} cannot be read: {said}", argument=True) from error


def _refusal(error: BaseException) -> str:
    """What a bucket answers: PermissionDeniedError: ... -> permission denied: ...; "": nothing."""
    error = error.__cause__ or error  # TFDS puts a long text before it
    if not (isinstance(error, OSError) or hasattr(error, "error_code")):  # TensorFlow's have one
        return ""
    kind = re.sub("(?<=[a-z])(?=[A-Z])", " ", type(error).__name__.removesuffix("Error")).lower()
    answer = re.search(r'"message": "([^"]*)', str(error))  # of the JSON that is in the text
    return f"{kind}: {answer[1] if answer else first_line(error)}"


def _open_tfds(name: str, dir: str, image_size: int) -> tuple[Any, tuple[int, int, int]]:
    """TFDS's builder of that name, and its images' shape: squares where it is not fixed."""
    import tensorflow_datasets as tfds

    if dir and not SCHEME.match(dir):  # TFDS reads buckets by itself
        dir = str(place(dir, "dir"))
    try:
        if not NAME.fullmatch(name):
            raise tfds.core.DatasetNotFoundError
        builder: Any = _builder(name, dir)
    except tfds.core.DatasetNotFoundError:
        names = tfds.list_builders(with_community_datasets=False)
        near = difflib.get_close_matches(name, names, cutoff=0.5)
        known = dict.fromkeys([*OTHERS, *near, "other image data sets of TFDS"])
        raise unknown("name", name, known) from None
    except Exception as error:  # an unknown config or version, a package that the builder needs
        if SCHEME.match(dir) and _refusal(error):
            raise
        text = f"name: TFDS cannot open {name!r}: {first_line(error)}"
        raise UserError(text, argument=True) from error
    features: dict[str, Any] = dict(builder.info.features or {})
    image, label = features.get("image"), features.get("label")
    pictures = isinstance(image, tfds.features.Image) and image.np_dtype == np.uint8
    if not pictures or not isinstance(label, tfds.features.ClassLabel):
        must = "be a data set with an 8-bit `image` and a class `label`"
        raise wrong("name", f"{must}, got {name!r} with {', '.join(features)}")
    height, width, channels = features["image"].shape
    if height and width and channels:
        return builder, (height, width, channels)
    return builder, (image_size, image_size, channels or 3)


def _builder(name: str, dir: str) -> Any:
    """TFDS's builder; `dir` may also be the data set's own folder, or that of its version."""
    import tensorflow_datasets as tfds

    first = tfds.builder(name, data_dir=dir or None)
    if not dir or first.data_path.exists():
        return first
    place = pathlib.Path(dir).absolute()
    place = place.parent if VERSION.fullmatch(place.name) else place
    own = first.data_path.relative_to(first.data_dir_root).parts[:-1]  # cifar10, or name/config
    for depth in range(1, len(own) + 1):
        if place.parts[-depth:] == own[:depth]:
            found = tfds.builder(name, data_dir=place.parents[depth - 1])
            if found.data_path.exists() or _versions(found):
                return found
    return first


def _versions(builder: Any) -> str:
    """A hint at other versions of a data set that are prepared where it was looked for."""
    place = builder.data_path.parent
    found = sorted(path.name for path in place.iterdir()) if place.exists() else []
    versions = [name for name in found if VERSION.fullmatch(name)]
    if not versions:
        return ""
    full = builder.info.full_name.rpartition("/")[0]
    return f" (there is version {', '.join(versions)}: name={full}:{versions[-1]} reads it)"


def _prepare(name: str, builder: Any) -> None:
    """Downloads a data set and writes it as ArrayRecord; or says how to do it elsewhere."""
    try:
        _ask_network(builder)
        import_tensorflow()
        builder.download_and_prepare(file_format="array_record")
    except Exception as error:  # no network, TensorFlow or space, or data to be fetched by hand
        what = f"{name} is not prepared in {str(builder.data_dir_root)!r}{_versions(builder)}"
        call = f"t.builder('{name}', data_dir='DIR').download_and_prepare"
        code = f"import tensorflow_datasets as t; {call}(file_format='array_record')"
        text = (
            f"dir: {what} and cannot be prepared here ({first_line(error)}): "
            f'where there is a network, run {INSTALL} and python -c "{code}", then give DIR'
        )
        raise UserError(text, argument=True) from error


def _ask_network(builder: Any) -> None:
    """Raises an error where there is no network: TFDS itself would try for minutes."""
    import requests

    try:
        for url in [url for url in builder.url_infos or () if url.startswith("http")][:1]:
            requests.head(url, timeout=(5, 60))
    except requests.ConnectionError:
        raise ConnectionError("no network") from None
