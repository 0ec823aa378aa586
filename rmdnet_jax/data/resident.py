"""From a data set to batches: images stay uint8 on the devices; rows are gathered by a permutation that (key, epoch) fixes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rmdnet_jax import sharding
from rmdnet_jax.data.augment import normalise
from rmdnet_jax.labels.noise import Noise
from rmdnet_jax.types import Array, Batch


class Raw(NamedTuple):
    """Examples as stored, before noise and augmentation."""

    image: Array  # uint8 [batch, height, width, channel]
    label: Array  # int32 [batch], clean
    index: Array  # int32 [batch], position in the training set


class Pipeline(NamedTuple):
    """Where a stage's batches come from."""

    steps_per_epoch: int
    batch_size: int
    batch: Callable  # step -> Raw, split over the devices


@jax.jit
def _gather(images: Array, labels: Array, index: Array) -> Raw:
    return Raw(images[index], labels[index], index)


def resident(
    images: Array, labels: Array, rows: np.ndarray, batch_size: int, key: Array, mesh: Mesh
) -> Pipeline:
    """Batches from arrays that lie on every device.

    Args:
      images: uint8 [example, height, width, channel], on every device.
      labels: int32 [example], clean, likewise.
      rows: the examples to train on; each epoch visits them in another order and drops the last partial batch.
      batch_size: over all devices.
      key: fixes every epoch's order.
      mesh: the devices.
    """
    steps = len(rows) // batch_size

    @functools.lru_cache(maxsize=2)
    def order(epoch: int) -> np.ndarray:
        return rows[np.asarray(jax.random.permutation(jax.random.fold_in(key, epoch), len(rows)))]

    def batch(step: int) -> Raw:
        epoch, i = divmod(step, steps)
        return _gather(
            images,
            labels,
            sharding.split(mesh, order(epoch)[i * batch_size : (i + 1) * batch_size]),
        )

    return Pipeline(steps, batch_size, batch)


def prepare(
    noise: Noise, augment: Callable, views: int, mean: np.ndarray, std: np.ndarray
) -> Callable:
    """The part of the data path that runs inside the jitted step: `(raw, key) -> Batch`, noisy labels and augmented, normalised views.

    Every draw is a function of the key (of a stage and step), the view and the example index.
    """

    def run(raw: Raw, key: Array) -> Batch:
        def view(number: int) -> Array:
            keys = jax.vmap(jax.random.fold_in, (None, 0))(
                jax.random.fold_in(key, number), raw.index
            )
            return jax.vmap(lambda k, x: normalise(augment(k, x), mean, std))(
                keys, to_float(raw.image)
            )

        image = jnp.stack([view(number) for number in range(views)])
        return Batch(image, noise.labels(raw.index, raw.label), raw.index)

    return run


def to_float(image: Array) -> Array:
    """uint8 [0, 255] -> float32 [0, 1]."""
    return image.astype(jnp.float32) / 255.0


def channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per-channel mean and standard deviation of uint8 images [n, h, w, c], float32 [c] in the scale [0, 1]."""
    value = np.arange(256) / 255.0
    share = (
        np.stack(
            [np.bincount(images[..., c].ravel(), minlength=256) for c in range(images.shape[-1])]
        )
        / images[..., 0].size
    )
    mean = share @ value
    return mean.astype(np.float32), np.sqrt(np.maximum(share @ value**2 - mean**2, 1e-6)).astype(
        np.float32
    )
