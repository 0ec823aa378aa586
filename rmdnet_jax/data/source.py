"""A data set: images, labels and names, checked."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any, NamedTuple

import numpy as np

from rmdnet_jax.data.encoded import Encoded
from rmdnet_jax.data.images import MODES, some
from rmdnet_jax.errors import wrong
from rmdnet_jax.labels.given import check_stray

MAX_CLASSES = 1 << 16  # a larger label is a mistake, not a class
FIELDS = ("images", "labels", "test_images", "test_labels", "names", "files")  # kept in files


class Source(NamedTuple):
    """A data set in memory or memory-mapped; row i of the training arrays is example index i."""

    name: str
    images: np.ndarray | Encoded  # uint8 [n, height, width, channel]
    labels: np.ndarray  # int32 [n], as stored: clean where the data set is clean
    test_images: np.ndarray | Encoded  # uint8 [m, height, width, channel]; m may be 0
    test_labels: np.ndarray  # int32 [m]
    names: tuple[str, ...]  # of the classes
    files: tuple[str, ...] = ()  # of the training examples, below the folder; empty elsewhere
    rows: np.ndarray | None = None  # int32 [n], where each example was before `cut`; None: there
    total: int = 0  # training examples before `cut`; 0: these are all
    stored: tuple[Encoded, ...] = ()  # training and test images before `cut`, where files hold them

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
        encoded = isinstance(self.images, Encoded)
        return self._replace(
            images=self.images.take(rows) if encoded else self.images[rows],
            labels=self.labels[rows],
            files=tuple(self.files[row] for row in rows) if self.files else (),
            rows=rows if self.rows is None else self.rows[rows],
            total=self.total or size,
        )


def checked(name: str, arrays: dict[str, Any], where: str = "") -> Source:
    """The source made of arrays; refuses a wrong type, shape, length, label or number of names.

    Args:
      name: the data set's.
      arrays: `images` and `labels`; perhaps `test_images` with `test_labels`, `names`, `files`.
      where: what an error begins with, such as "dir: in 'x.npz', ".
    """
    for field, array in arrays.items():
        if not isinstance(array, np.ndarray | Encoded):  # a .npz may hold other files
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


def _channels(images: Any) -> Any:
    """The images with an axis of channels."""
    return images[..., None] if images.ndim == 3 else images


def _check_images(argument: str, images: Any, shape: tuple[int, ...]) -> None:
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
