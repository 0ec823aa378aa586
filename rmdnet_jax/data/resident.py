"""Data that lie on the devices: uint8 images and labels, gathered by index into batches.

The row of an example is its index. A permutation fixed by (key, epoch) says which rows a batch
has.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rmdnet_jax import sharding
from rmdnet_jax.data.draws import Augment, normalise
from rmdnet_jax.data.encoded import LOOKED_AT, Encoded
from rmdnet_jax.errors import wrong
from rmdnet_jax.types import Array, Batch

Images = np.ndarray | Encoded  # uint8 [n, height, width, channel]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Flat:
    """Images that lie on the devices, each a row of pixels.

    Of [n, height, width, channel] a TPU would copy all of them anew for each batch.
    """

    pixels: Any  # uint8 [n, height * width * channel]
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})  # of one image

    def __len__(self) -> int:
        return len(self.pixels)

    def taken(self, index: Array) -> Array:
        """Some of the images: [..., height, width, channel] for an index [...]."""
        return self.pixels[index].reshape(*index.shape, *self.shape)


def flat(images: np.ndarray) -> Flat:
    """Images uint8 [n, height, width, channel] as rows of pixels."""
    return Flat(images.reshape(len(images), math.prod(images.shape[1:])), images.shape[1:])


class Examples(NamedTuple):
    """The columns of a data set, or some rows of them."""

    image: Any  # uint8 [n, height, width, channel]; of a whole data set `Flat`
    given: Array  # int32 [n], the labels to learn from, possibly wrong
    index: Array  # int32 [n], the position in the training set
    clean: Array | None = None  # int32 [n], for metrics only; None where nobody knows them
    targets: Array | None = (
        None  # float32 [n, class], corrected labels; where there, they are learnt
    )
    teacher: Array | None = None  # float32 [n, dim], the teacher's features of one clean view


class Pipeline(NamedTuple):
    """Where a stage's batches come from."""

    steps_per_epoch: int
    batch_size: int
    batch: Callable[[int], Examples]  # step -> rows, split over the devices


class Prepare(Protocol):
    """(rows, key) -> `Batch` of augmented, normalised views, within the jitted step."""

    def __call__(self, rows: Examples, key: Array, /) -> Batch: ...


@jax.jit
def gather(examples: Examples, index: Array) -> Examples:
    """Some rows of columns whose images are `Flat`, or elsewhere: then the rows have none."""
    others = jax.tree.map(lambda column: column[index], examples._replace(image=None))
    return others if examples.image is None else others._replace(image=examples.image.taken(index))


def resident(
    examples: Examples, rows: np.ndarray, batch_size: int, key: Array, mesh: Mesh
) -> Pipeline:
    """Batches from columns that lie on every device.

    Args:
      examples: all columns, on every device of the mesh.
      rows: the examples to train on, each once an epoch; a last partial batch is dropped.
      batch_size: over all devices.
      key: fixes every epoch's order.
      mesh: the devices.
    """
    steps, index = ordered(rows, batch_size, key, mesh)
    return Pipeline(
        steps, batch_size, lambda step: gather(examples, sharding.split(mesh, index(step)))
    )


def ordered(
    rows: np.ndarray, batch_size: int, key: Array, mesh: Mesh
) -> tuple[int, Callable[[int], np.ndarray]]:
    """How many steps an epoch has, and the rows of each step's batch."""
    if not 2 <= batch_size <= len(rows):
        raise wrong(
            "batch_size", f"be in [2, {len(rows)}] (the training examples), got {batch_size}"
        )
    if batch_size % mesh.size:
        raise wrong("batch_size", f"be divisible by the {mesh.size} devices, got {batch_size}")
    steps = len(rows) // batch_size

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return rows[np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), len(rows)))]

    def index(step: int) -> np.ndarray:
        epoch, i = divmod(step, steps)
        return order(epoch)[i * batch_size : (i + 1) * batch_size]

    return steps, index


def split(index: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows to train on and a random share of them that is held out, both in order."""
    shuffled = np.random.default_rng(seed).permutation(index)
    held, train = np.split(shuffled, [round(share * len(index))])
    return np.sort(train), np.sort(held)


def prepare(augments: Sequence[Augment], mean: np.ndarray, std: np.ndarray) -> Prepare:
    """The part of the data path within the jitted step: `(rows, key) -> Batch`, a view each.

    Every draw is a function of the key (of a stage and step), the view and the example index.
    """

    def run(rows: Examples, key: Array) -> Batch:
        def view(number: int, augment: Augment) -> Array:
            base = jax.random.fold_in(key, number)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(base, rows.index)
            one = jax.vmap(lambda k, x: normalise(augment(k, x), mean, std))
            return one(keys, to_float(rows.image))

        label = rows.given if rows.targets is None else rows.targets
        image = jnp.stack([view(*one) for one in enumerate(augments)])
        return Batch(image, label, rows.index, rows.teacher)

    return run


def to_float(image: Array) -> Array:
    """uint8 [0, 255] -> float32 [0, 1]."""
    return image.astype(jnp.float32) / 255.0


def channel_statistics(images: Images) -> tuple[np.ndarray, np.ndarray]:
    """Per-channel mean and standard deviation of uint8 images [n, h, w, c], of pixels in [0, 1].

    Of more than `LOOKED_AT` images, so many evenly spaced ones are looked at. Some at a time:
    nothing of the size of all is made.
    """
    counts = np.zeros((images.shape[-1], 256), np.int64)
    size = math.prod(images.shape[1:])
    looked, few = min(len(images), LOOKED_AT), max(1, 2**20 // size)
    if isinstance(images, Encoded):  # each thread has some of them
        few = max(few, 2**23 // size)
    rows = np.arange(looked) * len(images) // looked
    for first in range(0, looked, few):
        part = images[rows[first : first + few]]
        for channel, count in enumerate(counts):
            count += np.bincount(part[..., channel].ravel(), minlength=256)
    value = np.arange(256) / 255.0
    share = counts / counts.sum(axis=1, keepdims=True)
    mean = share @ value
    variance = np.maximum(share @ value**2 - mean**2, 1e-6)
    return mean.astype(np.float32), np.sqrt(variance).astype(np.float32)


def alike(images: Images) -> bool:
    """Whether all images are the same one."""
    first, few = images[:1], max(1, 2**20 // math.prod(images.shape[1:]))
    return all((images[i : i + few] == first).all() for i in range(0, len(images), few))


def fitted(image: Array, height: int, width: int) -> Array:
    """Images [n, h, w, c] at another size: their largest centred part of its aspect, scaled.

    With antialiasing, as files are decoded.
    """
    _, h, w, _ = image.shape
    high, wide = (
        min(h, max(1, round(w * height / width))),
        min(w, max(1, round(h * width / height))),
    )
    top, left = (h - high) // 2, (w - wide) // 2
    part = image[:, top : top + high, left : left + wide]
    shape = (len(image), height, width, image.shape[-1])
    return image if shape == image.shape else jax.image.resize(part, shape, "linear")
