"""The records of a prepared data set of TFDS: in the order on disk, or those that are asked for."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rmdnet_jax.data.encoded import Encoded
from rmdnet_jax.data.images import CHUNK
from rmdnet_jax.errors import UserError, first_line

SPLITS = ("train", "test", "validation")
INSTALL = "pip install 'rmdnet_jax[tfds]'"


class Records:
    """Images in the array records of a split, by their place on disk."""

    def __init__(self, builder: Any, split: str):
        self.data, self.called = _source(builder, split), f"{builder.info.full_name} {split}"

    def encoded(self, row: int) -> bytes:
        return self.data[row]["image"]

    def name(self, row: int) -> str:
        return f"record {row} of {self.called}"

    def state(self, row: int) -> str:
        return self.name(row)


def labelled(builder: Any) -> dict[str, np.ndarray]:
    """The labels of each split that is read, and where on disk each example lies."""
    found = {}
    for field, choice in (("images", SPLITS[:1]), ("test_images", SPLITS[1:])):
        for split, rows, labels in usable(builder, choice):
            places = np.argsort(np.asarray(rows))
            found |= {field: places, f"{field[:-6]}labels": labels, f"{field}_split": split}
    return {name: np.asarray(values) for name, values in found.items()}


def encoded_columns(
    builder: Any, found: dict[str, Any], shape: tuple[int, int, int]
) -> dict[str, Any]:
    """The columns of a data set whose images stay encoded."""
    columns = {}
    for field in [field for field in ("images", "test_images") if field in found]:
        stored = Records(builder, str(found[f"{field}_split"]))
        labels = f"{field[:-6]}labels"
        columns |= {field: Encoded(stored, shape, found[field]), labels: found[labels]}
    return columns


def whole(builder: Any, shape: tuple[int, int, int]) -> tuple[Encoded, ...]:
    """The images of all splits as they lie on disk; none where they cannot be read so."""
    if not random_access(builder):
        return ()
    counts = {name: split.num_examples for name, split in builder.info.splits.items()}
    return tuple(
        Encoded(Records(builder, split), shape, count=counts[split])
        for split in SPLITS
        if split in counts
    )


def usable(builder: Any, choice: Sequence[str]) -> Iterator[tuple[str, list[int], np.ndarray]]:
    """The first split of `choice` that is there and has labels, as `rows_and_labels` says."""
    for split in (split for split in choice if split in builder.info.splits):
        rows, labels = rows_and_labels(builder, split)
        if split == "test" and labels.min(initial=0) < 0:  # -1: a label that was never published
            continue
        yield split, rows, labels
        return


def import_tensorflow() -> None:
    """Imports TensorFlow where TFDS needs it, and hides the GPUs from it: those are JAX's."""
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":  # as JAX sets it
        os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")  # else it tells of them on the screen
    import tensorflow as tf

    with contextlib.suppress(RuntimeError):  # already in use by the caller
        tf.config.set_visible_devices([], "GPU")


def _skipping(builder: Any) -> dict[str, Any]:
    """How TFDS leaves images encoded."""
    import tensorflow_datasets as tfds

    return {
        key: tfds.decode.SkipDecoding()
        for key, value in builder.info.features.items()
        if isinstance(value, tfds.features.Image)
    }


def _source(builder: Any, split: str) -> Any:
    """The examples of a split by their place on disk, images still encoded."""
    return builder.as_data_source(split=split, decoders=_skipping(builder))


def random_access(builder: Any) -> bool:
    """Whether examples can be read in any order."""
    try:
        _source(builder, SPLITS[0])
    except NotImplementedError:  # prepared as tfrecord
        return False
    return True


def in_order(builder: Any, split: str) -> Iterator[dict[str, Any]]:
    """The examples of a split in the order on disk, images still encoded."""
    import tensorflow_datasets as tfds

    try:
        data = _source(builder, split)
    except NotImplementedError:  # prepared as tfrecord
        try:
            import_tensorflow()
        except ImportError as error:
            what = f"{str(builder.data_path)!r} holds tfrecord files, which need TensorFlow"
            text = f"dir: {what} ({first_line(error)}): {INSTALL}"
            raise UserError(text, argument=True) from None
        order = tfds.ReadConfig(interleave_cycle_length=1)
        data = builder.as_dataset(
            split=split, decoders=_skipping(builder), shuffle_files=False, read_config=order
        )
        yield from tfds.as_numpy(data)
        return
    for start in range(0, len(data), CHUNK):
        yield from data.__getitems__(list(range(start, min(start + CHUNK, len(data)))))


def rows_and_labels(builder: Any, split: str, field: str = "label") -> tuple[list[int], np.ndarray]:
    """The example index of each row on disk, and the label int32 [n] of each example.

    Ids such as `train_00042` tell the index, where they number all examples.
    """
    found = [(str(record.get("id", "")), record[field]) for record in in_order(builder, split)]
    numbers = [re.search(r"(\d+)'?$", text) for text, _ in found]  # the quote: str() of bytes
    rows = [int(number[1]) if number else -1 for number in numbers]
    if sorted(rows) != list(range(len(rows))):
        rows = list(range(len(rows)))
    labels = np.empty(len(rows), np.int32)
    labels[rows] = [int(label) for _, label in found]
    return rows, labels
