"""Random augmentations of one image, to be vmapped over (keys, images); each by name in a table.

Images are float32 [height, width, channel] in [0, 1] with one or three (RGB) channels, before and
after every function except `normalise`. Paddings are in pixels, probabilities and areas are
fractions. Each augmentation draws the parameters of an operation (`operations.py`) from a key. No
draw depends on the x64 flag or on the rest of the batch. Add one by writing a factory
`f(*, fields) -> (key, image) -> image` and naming it in `AUGMENTATIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from rmdnet_jax.data.operations import (
    Box,
    fit_box,
    flip,
    greyscale,
    jitter,
    padded_crop,
    resized_crop,
)
from rmdnet_jax.errors import within
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


def _within(interval: str, **values: float) -> None:
    for name, value in values.items():
        within(name, value, interval)


def none() -> Augment:
    """The image as it is."""
    return lambda key, image: image


def shift(*, padding: int = 1) -> Augment:
    """Zero padding and a random crop: a shift by at most `padding` pixels each way."""
    within("padding", padding, "[0, inf)", whole=True)
    return partial(random_padded_crop, padding=padding)


def crop_flip(*, padding: int = 4) -> Augment:
    """Zero padding, random crop and flip: the usual supervised augmentation of CIFAR.

    Args:
      padding: the shift is at most so many pixels each way, >= 0.

    Example:
      >>> import jax, rmdnet_jax as rmd
      >>> augment = rmd.AUGMENTATIONS["crop_flip"](padding=2)
      >>> images = jax.numpy.ones((8, 32, 32, 3))
      >>> views = jax.vmap(augment)(jax.random.split(jax.random.key(0), 8), images)
      >>> views.shape
      (8, 32, 32, 3)
    """
    within("padding", padding, "[0, inf)", whole=True)
    return chain(
        partial(random_padded_crop, padding=padding), partial(random_flip, probability=0.5)
    )


def digits(
    *,
    min_scale: float = 0.5,
    padding: int = 1,
    brightness: float = 0.4,
    contrast: float = 0.4,
    jitter_probability: float = 0.8,
) -> Augment:
    """A light set for small pictures of digits: resized crop, shift, brightness and contrast.

    There is no flip: digits have a handedness.

    Args:
      min_scale: the least area of the resized crop, a fraction in (0, 1].
      padding: the shift is at most so many pixels each way, >= 0.
      brightness: its factor is uniform in [max(0, 1 - x), 1 + x], x >= 0.
      contrast: as brightness.
      jitter_probability: how often brightness and contrast change, in [0, 1].

    Example:
      >>> import jax, rmdnet_jax as rmd
      >>> augment = rmd.AUGMENTATIONS["digits"](min_scale=0.8)
      >>> augment(jax.random.key(0), jax.numpy.ones((8, 8, 1))).shape
      (8, 8, 1)
    """
    _within("(0, 1]", min_scale=min_scale)
    within("padding", padding, "[0, inf)", whole=True)
    _within("[0, inf)", brightness=brightness, contrast=contrast)
    _within("[0, 1]", jitter_probability=jitter_probability)
    strengths = (brightness, contrast, 0.0)
    return chain(
        partial(random_resized_crop, scale=(min_scale, 1.0)),
        partial(random_padded_crop, padding=padding),
        partial(random_jitter, strengths=strengths, hue=0.0, probability=jitter_probability),
    )


def simsiam(
    *,
    min_scale: float = 0.2,
    max_scale: float = 1.0,
    flip_probability: float = 0.5,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    jitter_probability: float = 0.8,
    grey_probability: float = 0.2,
) -> Augment:
    """SimSiam's views of CIFAR: resized crop, flip, colour jitter, greyscale; no blur.

    Args:
      min_scale: the least area of the resized crop, a fraction in (0, 1].
      max_scale: the largest, from `min_scale` on; 0.25 for both gives EMP-SSL's small crops.
      flip_probability: in [0, 1], as all probabilities.
      brightness: its factor is uniform in [max(0, 1 - x), 1 + x], x >= 0.
      contrast: as brightness.
      saturation: as brightness.
      hue: its shift is uniform in [-x, x], a fraction of the colour circle, in [0, 0.5].
      jitter_probability: how often these four change.
      grey_probability: how often the image turns grey.

    Source: Chen & He 2021, appendix D.

    Example:
      >>> import jax, rmdnet_jax as rmd
      >>> augment = rmd.AUGMENTATIONS["simsiam"](hue=0.0)
      >>> keys = jax.random.split(jax.random.key(0))
      >>> image = jax.random.uniform(jax.random.key(1), (32, 32, 3))
      >>> one, two = (augment(key, image) for key in keys)  # two views of one image
      >>> bool((one == two).all())
      False
    """
    _within("(0, 1]", min_scale=min_scale)
    _within(f"[{min_scale}, 1]", max_scale=max_scale)
    _within("[0, inf)", brightness=brightness, contrast=contrast, saturation=saturation)
    _within("[0, 0.5]", hue=hue)
    _within("[0, 1]", flip_probability=flip_probability, jitter_probability=jitter_probability)
    _within("[0, 1]", grey_probability=grey_probability)
    strengths = (brightness, contrast, saturation)
    return chain(
        partial(random_resized_crop, scale=(min_scale, max_scale)),
        partial(random_flip, probability=flip_probability),
        partial(random_jitter, strengths=strengths, hue=hue, probability=jitter_probability),
        partial(random_greyscale, probability=grey_probability),
    )


AUGMENTATIONS: dict[str, Callable[..., Augment]] = {
    "none": none,
    "shift": shift,
    "crop_flip": crop_flip,
    "digits": digits,
    "simsiam": simsiam,
}
