"""Image-classification data sets of TensorFlow Datasets, examples in their original order.

TensorFlow is imported only to prepare a data set, or to read one prepared as tfrecord.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from rmdnet_jax.data.store import CHUNK, Allocate, Source, cached, checked, decode
from rmdnet_jax.errors import UserError, first_line, unknown

NAME = re.compile(
    r"\w+(/[\w.+-]+)?(:\d[\w.*]*)?"
)  # data set, config, version; no namespace: those ask the network


def load(name: str, dir: str, image_size: int) -> Source:
    """A data set of TensorFlow Datasets: the train split and the first of test and validation that has labels."""
    builder, shape = _open_tfds(name, dir, image_size)
    if (
        not builder.data_path.exists() or not builder.is_prepared()
    ):  # is_prepared warns where nothing exists
        _prepare(name, builder)
    if "train" not in builder.info.splits:
        raise UserError(
            f"data.name must be a data set with a train split, got {name!r} with {', '.join(builder.info.splits)}"
        )
    files = sorted(
        (path.name, path.stat().length, path.stat().mtime) for path in builder.data_path.iterdir()
    )

    def build(allocate: Allocate) -> Source:
        arrays = {"names": np.array(builder.info.features["label"].names)}
        for field, choice in (("images", ["train"]), ("test_images", ["test", "validation"])):
            for split in (split for split in choice if split in builder.info.splits):
                rows, labels = _rows_and_labels(builder, split)
                if (
                    split == "test" and labels.min(initial=0) < 0
                ):  # -1 stands for a label that was never published
                    continue
                arrays |= {
                    f"{field[:-6]}labels": labels,
                    field: allocate(field, (len(rows), *shape)),
                }
                decode(
                    arrays[field],
                    ((row, record["image"]) for row, record in zip(rows, _records(builder, split))),
                    f"{name} {split}",
                )
                break
        return checked(name, arrays, f"data.name: in {name!r}, ")

    return cached(name, [builder.info.full_name, str(builder.data_path), files, shape], build)


def labels(name: str, dir: str, field: str) -> np.ndarray:
    """Another class label of a prepared data set's training examples, int32 [n] in their original order: human labels of `cifar10_n`."""
    import tensorflow_datasets as tfds

    builder, _ = _open_tfds(name, dir, 1)
    features: dict[str, Any] = dict(builder.info.features or {})
    kinds = [
        key
        for key, value in features.items()
        if isinstance(value, tfds.features.ClassLabel) and key != "label"
    ]
    kinds = [key for key in kinds if features[key].num_classes == features["label"].num_classes]
    if field not in kinds:
        raise unknown(
            "noise.field", field, kinds or [f"({name} has no label of its classes but its own)"]
        )
    return _rows_and_labels(builder, "train", field)[1]


def _open_tfds(name: str, dir: str, image_size: int) -> tuple[Any, tuple[int, int, int]]:
    """TFDS's builder of that name and the shape of its images, squares of `image_size` where it isn't fixed."""
    import tensorflow_datasets as tfds

    try:
        if not NAME.fullmatch(name):
            raise tfds.core.DatasetNotFoundError
        builder: Any = tfds.builder(name, data_dir=os.path.expanduser(dir) or None)
    except tfds.core.DatasetNotFoundError:
        near = difflib.get_close_matches(
            name, tfds.list_builders(with_community_datasets=False), cutoff=0.5
        )
        known = dict.fromkeys(
            [
                "digits",
                "npz",
                "folder",
                "cifar10",
                "cifar100",
                *near,
                "other image data sets of TFDS",
            ]
        )
        raise unknown("data.name", name, known) from None
    except Exception as error:  # an unknown config or version, a package that the builder needs
        raise UserError(f"data.name: TFDS cannot open {name!r}: {first_line(error)}") from error
    features: dict[str, Any] = dict(builder.info.features or {})
    image, label = features.get("image"), features.get("label")
    if (
        not isinstance(image, tfds.features.Image)
        or not isinstance(label, tfds.features.ClassLabel)
        or image.np_dtype != np.uint8
    ):
        raise UserError(
            f"data.name must be a data set with an 8-bit `image` and a class `label`, got {name!r} with {', '.join(features)}"
        )
    height, width, channels = features["image"].shape
    return builder, (height, width, channels) if height and width and channels else (
        image_size,
        image_size,
        channels or 3,
    )


def _prepare(name: str, builder: Any) -> None:
    """Downloads and writes a TFDS data set as ArrayRecord; raises UserError that says how to do it elsewhere."""
    import requests

    try:
        for url in [url for url in builder.url_infos or () if url.startswith("http")][:1]:
            requests.head(
                url, timeout=(5, 60)
            )  # without a network TFDS itself would try for minutes
        _import_tensorflow()
        builder.download_and_prepare(file_format="array_record")
    except (
        Exception
    ) as error:  # no network, no TensorFlow, no space, data that must be fetched by hand
        reason = "no network" if isinstance(error, requests.ConnectionError) else first_line(error)
        what = f"{name} is not prepared in {str(builder.data_dir_root)!r} and cannot be prepared here ({reason})"
        run = f"import tensorflow_datasets as t; t.builder('{name}', data_dir='DIR').download_and_prepare(file_format='array_record')"
        raise UserError(
            f'data.dir: {what}: where there is a network, run python -c "{run}", then let data.dir be DIR'
        ) from error


def _import_tensorflow() -> None:
    """Imports TensorFlow, for what TFDS can't do without it, and hides the GPUs from it, which are JAX's."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise UserError(
            f"data.dir: preparing a TFDS data set and reading one in tfrecord format need TensorFlow: {error}"
        ) from None
    with contextlib.suppress(RuntimeError):  # already in use by the caller
        tf.config.set_visible_devices([], "GPU")


def _records(builder: Any, split: str) -> Iterator[dict[str, Any]]:
    """The examples of a split in the order on disk, images still encoded."""
    import tensorflow_datasets as tfds

    encoded = {
        key: tfds.decode.SkipDecoding()
        for key, value in builder.info.features.items()
        if isinstance(value, tfds.features.Image)
    }
    try:
        data = builder.as_data_source(split=split, decoders=encoded)
    except NotImplementedError:  # prepared as tfrecord
        _import_tensorflow()
        order = tfds.ReadConfig(interleave_cycle_length=1)
        yield from tfds.as_numpy(
            builder.as_dataset(
                split=split, decoders=encoded, shuffle_files=False, read_config=order
            )
        )
        return
    for start in range(0, len(data), CHUNK):
        yield from data.__getitems__(list(range(start, min(start + CHUNK, len(data)))))


def _rows_and_labels(
    builder: Any, split: str, field: str = "label"
) -> tuple[list[int], np.ndarray]:
    """The row of each example on disk, from ids such as `train_00042` where they number all examples, and the label of each row."""
    found = [
        (re.search(r"(\d+)'?$", str(record.get("id", ""))), int(record[field]))
        for record in _records(builder, split)
    ]
    rows = [int(number[1]) if number else -1 for number, _ in found]  # the quote: str() of bytes
    if sorted(rows) != list(range(len(rows))):
        rows = list(range(len(rows)))
    labels = np.empty(len(rows), np.int32)
    labels[rows] = [label for _, label in found]
    return rows, labels
