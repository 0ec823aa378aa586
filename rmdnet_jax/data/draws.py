"""What an augmentation draws for one image, and does with it; vmapped over (keys, images).

Images are float32 [height, width, channel] in [0, 1] with one or three (RGB) channels, before and
after every function except `normalise`. Paddings are in pixels, probabilities and areas are
fractions. No draw depends on the x64 flag or on the rest of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rmdnet_jax.data import randaugment
from rmdnet_jax.data.operations import (
    Box,
    fit_box,
    flip,
    greyscale,
    jitter,
    padded_crop,
    resized_crop,
)
from rmdnet_jax.types import Array

Augment = Callable[[Array, Array], Array]  # (key, image) -> image of the same shape

# width / height, and the number of tries: torchvision's RandomResizedCrop
CROP_RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10


def _uniforms(key: Array, count: int) -> Array:
    # One draw a function: each costs compile time, and jax.random.bernoulli's and permutation's
    # would depend on the x64 flag.
    return jax.random.uniform(key, (count,), jnp.float32)


def _between(draws: Array, low: Array | float, high: Array | float) -> Array:
    return low + draws * (high - low)


def _below(draws: Array, count: Array | int) -> Array:
    return jnp.floor(draws * count).astype(jnp.int32)  # < count: draws are at most 1 - 2^-23


def _happens(key: Array, probability: float) -> Array:
    return _uniforms(key, 1)[0] < probability


def draw_box(
    key: Array, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """Box (top, left, height, width): area uniform in scale, ratio log-uniform, position uniform.

    The fallback of `fit_box` lies in the centre.
    """
    draws = _uniforms(key, 2 * CROP_TRIES + 2)
    area = _between(draws[:CROP_TRIES], *scale)
    log_ratio = _between(draws[CROP_TRIES:-2], math.log(ratio[0]), math.log(ratio[1]))
    fitted, box_height, box_width = fit_box(area, log_ratio, height, width, ratio)
    room = jnp.stack([height - box_height, width - box_width])
    top, left = jnp.where(fitted, _below(draws[-2:], room + 1), room // 2)
    return top, left, box_height, box_width


def random_padded_crop(key: Array, image: Array, padding: int) -> Array:
    """`padded_crop` at a uniform offset: a shift by at most padding pixels each way."""
    top, left = _below(_uniforms(key, 2), 2 * padding + 1)
    return padded_crop(image, top, left, padding)


def random_flip(key: Array, image: Array, probability: float) -> Array:
    """`flip` with the given probability."""
    return jnp.where(_happens(key, probability), flip(image), image)


def random_resized_crop(
    key: Array, image: Array, scale: tuple[float, float], ratio: tuple[float, float] = CROP_RATIO
) -> Array:
    """`resized_crop` of a `draw_box`, back to the image's own size (so it never downsamples)."""
    height, width = image.shape[:2]
    return resized_crop(image, draw_box(key, height, width, scale, ratio), height, width)


def normalise(image: Array, mean: ArrayLike, std: ArrayLike) -> Array:
    """`(image - mean) / std` with mean and std [channel]: leaves [0, 1]."""
    mean, std = (jnp.asarray(x, jnp.float32)[None, None, :] for x in (mean, std))
    return (image - mean) / std


def draw_jitter(
    key: Array, strengths: tuple[float, ...], hue: float, probability: float
) -> tuple[Array, Array, Array | None, Array]:
    """(happens, factors [3], shift, order [4]) of `jitter`.

    Factors are uniform in [max(0, 1 - x), 1 + x] for strengths x, the shift in [-hue, hue]. A hue
    of 0 gives the shift None. Source: torchvision's `ColorJitter`.
    """
    draws = _uniforms(key, 9)
    strength = jnp.asarray(strengths, jnp.float32)
    factors = _between(draws[:3], jnp.maximum(0.0, 1.0 - strength), 1.0 + strength)
    shift = _between(draws[3], -hue, hue) if hue else None
    return draws[8] < probability, factors, shift, jnp.argsort(draws[4:8]).astype(jnp.int32)


def random_jitter(
    key: Array, image: Array, strengths: tuple[float, ...], hue: float, probability: float
) -> Array:
    """`jitter` by a `draw_jitter` with the given probability.

    The strengths are of brightness, contrast and saturation.
    """
    happens, factors, shift, order = draw_jitter(key, strengths, hue, probability)
    return jnp.where(happens, jitter(image, factors, shift, order), image)


def random_greyscale(key: Array, image: Array, probability: float) -> Array:
    """Replaces every channel by the luma with the given probability."""
    grey = jnp.broadcast_to(greyscale(image), image.shape)
    return jnp.where(_happens(key, probability), grey, image)


def chain(*steps: Augment) -> Augment:
    """Applies the augmentations one after another, each with a key of its own."""

    def augment(key: Array, image: Array) -> Array:
        for step, step_key in zip(steps, jax.random.split(key, len(steps))):
            image = step(step_key, image)
        return image

    return augment


def random_operations(key: Array, image: Array, count: int, strength: float) -> Array:
    """`count` of `randaugment.KINDS`, each kind as often, its strength uniform up to `strength`."""
    where = jax.default_backend(), jax.device_count()  # traced anew where these are others
    return _operations(key, image, count, strength, where)


@partial(jax.jit, static_argnums=(2, 3, 4))
def _operations(key: Array, image: Array, count: int, strength: float, _where: object) -> Array:
    draws = _uniforms(key, 3 * count).reshape(count, 3)

    def step(image: Array, draw: Array) -> tuple[Array, None]:
        kind, much, sign = draw
        direction = jnp.where(sign < 0.5, -1.0, 1.0)
        number = _below(kind, len(randaugment.KINDS))
        return randaugment.operation(image, number, direction * strength * much), None

    # A loop: XLA would otherwise do the first operation anew wherever the second reads a pixel.
    planes = jnp.moveaxis(jnp.round(255 * image), -1, 0)
    return jnp.moveaxis(jax.lax.scan(step, planes, draws)[0], 0, -1) / 255


def random_cutout(key: Array, image: Array, square: float) -> Array:
    """A grey square of that share of the shorter side; its centre is anywhere in the image."""
    height, width = image.shape[:2]
    at, size = _uniforms(key, 2), round(square * min(height, width))
    top, left = (_below(draw, side) - size // 2 for draw, side in zip(at, (height, width)))
    y, x = jnp.arange(height)[:, None], jnp.arange(width)[None]
    inside = (y >= top) & (y < top + size) & (x >= left) & (x < left + size)
    return jnp.where(inside[..., None], 0.5, image)
