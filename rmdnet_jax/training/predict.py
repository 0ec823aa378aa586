"""What a network says of many images: in batches, over all devices, by one compiled program."""

from __future__ import annotations

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rmdnet_jax import sharding
from rmdnet_jax.data.draws import CROP_RATIO, draw_box, normalise
from rmdnet_jax.data.encoded import Encoded
from rmdnet_jax.data.operations import flip, resized_crop
from rmdnet_jax.data.resident import Flat, to_float
from rmdnet_jax.data.streaming import Ahead
from rmdnet_jax.errors import UserError
from rmdnet_jax.networks.layers import Network
from rmdnet_jax.relations.rows import unit
from rmdnet_jax.types import Array, PyTree, Variables

ROOM = 32  # batches of one call on an accelerator
AHEAD = 2  # batches of encoded images that are decoded or wait


class Evaluate(Protocol):
    """(variables, normalised images float32 [batch, h, w, c]) -> arrays [batch, ...]."""

    def __call__(self, variables: Any, image: Array, /) -> PyTree: ...


class Predict(Protocol):
    """(variables, images uint8 [n, h, w, c]) -> host arrays [n, ...], or of some rows only.

    `Flat` images lie on the devices, and are not copied. `Encoded` ones are decoded some at a time.
    """

    def __call__(
        self,
        variables: Variables,
        images: np.ndarray | Flat | Encoded,
        /,
        rows: np.ndarray | None = None,
    ) -> Any: ...


def predictor(
    apply: Evaluate, mesh: Mesh, batch_size: int, mean: np.ndarray, std: np.ndarray
) -> Predict:
    """`predict(variables, images)`: what `apply` gives for the normalised images, on the host.

    The last batch is padded with images whose outputs are dropped: each example counts once, and
    one compiled program serves every call. Nothing is waited for until all is asked for, but for
    encoded images, which are decoded meanwhile. Outputs that are not finite are a `UserError`.
    """
    size = -(-batch_size // mesh.size) * mesh.size
    room = 1 if jax.default_backend() == "cpu" else ROOM  # a CPU is slow at convolutions in a loop

    @functools.partial(jax.jit, out_shardings=sharding.everywhere(mesh))
    def run(variables, images, count):
        def one(image):
            return apply(variables, normalise(to_float(image), mean, std))

        if len(images) == 1:
            return one(images[0])
        like = jax.eval_shape(one, images[0])
        begin = jax.tree.map(lambda y: jnp.zeros((room, *y.shape), y.dtype), like)
        found = jax.lax.fori_loop(
            0,
            count,
            lambda i, found: jax.tree.map(lambda y, x: y.at[i].set(x), found, one(images[i])),
            begin,
        )
        return jax.tree.map(lambda y: y.reshape(-1, *y.shape[2:]), found)

    def predict(variables, images, rows=None):
        rows = np.arange(len(images), dtype=np.int32) if rows is None else rows
        streamed, parts = isinstance(images, Encoded), []
        at_once = 1 if streamed else room
        here = [rows[i : i + at_once * size] for i in range(0, len(rows), at_once * size)]

        def take(i: int) -> Array:
            return _taken(mesh, images, here[i], at_once, size)

        taken = Ahead(take, len(here), AHEAD) if streamed else take
        for i in range(len(here)):
            parts.append(run(variables, taken(i), -(-len(here[i]) // size)))
            if streamed and i >= AHEAD:  # so that no more wait on the device
                parts[i - AHEAD] = jax.device_get(parts[i - AHEAD])
        found = jax.tree.map(
            lambda *leaves: np.concatenate(leaves)[: len(rows)], *jax.device_get(parts)
        )
        _refuse(found)
        return found

    return predict


def features_of(
    network: Network,
    mesh: Mesh,
    batch_size: int,
    mean: np.ndarray,
    std: np.ndarray,
    *,
    crops: int = 0,
    scale: tuple[float, float] = (1.0, 1.0),
) -> Predict:
    """`predict(variables, images)`: an encoder's features, float32 [n, dim].

    Args:
      network: the encoder.
      mesh: the devices.
      batch_size: images, or crops of them, that go through it at a time, about.
      mean: per-channel mean of the pixels in [0, 1].
      std: per-channel standard deviation, likewise.
      crops: of each image; 0: the whole image. The mean of their features' unit rows is what comes
        back. All images have the same crops, drawn from a fixed key, every other one mirrored.
      scale: least and largest area of a crop, fractions.

    Source: Tong et al., EMP-SSL, 2023, which averages over crops as it is trained with.
    """

    def whole(variables: Any, image: Array) -> Array:
        return network.apply(variables, image, False)[0]

    def averaged(variables: Any, image: Array) -> Array:
        height, width = image.shape[1:3]
        keys = jax.random.split(jax.random.key(0), crops)
        boxes = jax.vmap(lambda key: draw_box(key, height, width, scale, CROP_RATIO))(keys)

        def cut(box: Any, x: Array) -> Array:
            return normalise(resized_crop(x, box, height, width), mean, std)

        pixels = image * jnp.asarray(std) + jnp.asarray(mean)
        views = jax.vmap(jax.vmap(cut, (None, 0)), (0, None))(boxes, pixels)
        views = views.at[1::2].set(jax.vmap(jax.vmap(flip))(views[1::2]))
        rows = unit(whole(variables, views.reshape(-1, *image.shape[1:])))
        return rows.reshape(crops, len(image), -1).mean(0)

    if not crops:
        return predictor(whole, mesh, batch_size, mean, std)
    return predictor(averaged, mesh, max(1, batch_size // crops), mean, std)


def _taken(mesh: Mesh, images: Any, rows: np.ndarray, room: int, size: int) -> Array:
    """Rows of images as batches [room, size, h, w, c] on the devices; the first row fills up."""
    rows = np.pad(rows, (0, room * size - len(rows)), constant_values=rows[0])
    if isinstance(images, Encoded):
        return sharding.read(mesh, rows.reshape(room, size), lambda rows: images[rows])
    if isinstance(images, Flat):
        return _gather(images, sharding.split(mesh, rows.reshape(room, size), axis=1))
    return sharding.split(mesh, images[rows].reshape(room, size, *images.shape[1:]), axis=1)


@jax.jit
def _gather(images: Flat, rows: Array) -> Array:
    return images.taken(rows)


def _refuse(found: PyTree) -> None:
    """Raises `UserError` for outputs that are not finite: nothing can be measured by them."""
    for leaf in jax.tree.leaves(found):
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not (good := np.isfinite(leaf)).all():
            bad = int((~good.reshape(len(leaf), -1).all(1)).sum())
            raise UserError(
                f"the network's outputs are not finite for {bad} of {len(leaf)} images: its "
                "weights are too large, or, with a bfloat16 network of your own on a CPU, the "
                "compiler is wrong: compute in float32 there"
            )
