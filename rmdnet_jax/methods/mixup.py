"""Mixup: learning from images between two images, with labels in the same proportion."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rmdnet_jax import losses
from rmdnet_jax.errors import within, wrong
from rmdnet_jax.methods.method import Method
from rmdnet_jax.types import Array


def mixed(key: Array, alpha: float, image: Array, target: Array) -> tuple[Array, Array]:
    """`l x_i + (1 - l) x_j` of images [view, batch, ...] and targets [batch, class].

    Both come back as [view, batch, ...]; j is of any view. One `l ~ Beta(alpha, alpha)` a batch,
    at least a half: a mixed image is nearer to the one whose place it takes.
    """
    part, order = jax.random.split(key)
    share = jax.random.beta(part, alpha, alpha)
    share = jnp.maximum(share, 1 - share)
    views, batch = image.shape[:2]
    other = jax.random.permutation(order, views * batch)

    def mix(x: Array) -> Array:
        flat = x.reshape(-1, *x.shape[2:])
        return (share * flat + (1 - share) * flat[other]).reshape(x.shape)

    return mix(image), mix(jnp.stack([target] * views))


def mixup(method: Method, alpha: float, num_classes: int) -> Method:
    """The method on mixed images with mixed targets; alpha 0 is the method itself.

    For methods that are one per-example loss. Methods that remember or select examples need
    images of one label.

    Source: Zhang et al., ICLR 2018, eq. 2.
    """
    within("mixup", alpha, "[0, 1000]")
    if alpha == 0:
        return method
    if method.peers > 1 or jax.tree.leaves(method.init()):
        plain = "methods that are one per-example loss (ce, gce, sce)"
        raise wrong("mixup", f"be 0 but for {plain}, got {alpha}")

    def loss(outputs, batch, memory, forward, key, epoch):
        target = losses.distribution(batch.label, num_classes)
        image, target = mixed(key, alpha, batch.image, target)
        mixture = batch._replace(image=image, label=target[0])
        return method.loss(forward((image,)), mixture, memory, forward, key, epoch)

    return method._replace(loss=loss)
