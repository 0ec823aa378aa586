"""Image augmentation: pure functions of one image, to be vmapped over (keys, images).

Images are float32 [height, width, channel] in [0, 1] with one or three (RGB) channels, before and after every function except
`normalise`. Sizes, offsets and paddings are in pixels, probabilities and areas are fractions. Each augmentation is a deterministic
operation on fixed parameters (`flip`, `resized_crop`, `jitter`, ...) and a random draw of these parameters from a key. Shapes are
static; no draw depends on the x64 flag or on the rest of the batch.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from rmdnet_jax.errors import UserError
from rmdnet_jax.types import Array

Augment = Callable[[Array, Array], Array]  # (key, image) -> image of the same shape
Box = tuple[Array, Array, Array, Array]  # int32 (top, left, height, width)

GREY_WEIGHTS = (
    0.2989,
    0.587,
    0.114,
)  # torchvision's rgb_to_grayscale on tensors; they sum to 0.9999
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
CROP_RATIO = (
    3 / 4,
    4 / 3,
)  # width / height, and the number of tries: torchvision's RandomResizedCrop
CROP_TRIES = 10


def _uniforms(key: Array, count: int) -> Array:
    # One draw a function: each costs compile time, and jax.random.bernoulli's and permutation's would depend on the x64 flag.
    return jax.random.uniform(key, (count,), jnp.float32)


def _between(draws: Array, low: Array | float, high: Array | float) -> Array:
    return low + draws * (high - low)


def _below(draws: Array, count: Array | int) -> Array:
    return jnp.floor(draws * count).astype(jnp.int32)  # < count: draws are at most 1 - 2^-23


def _happens(key: Array, probability: float) -> Array:
    return _uniforms(key, 1)[0] < probability


def padded_crop(image: Array, top: Array, left: Array, padding: int) -> Array:
    """Pads with zeros on all four sides and cuts an image of the old size at (top, left), each in [0, 2 padding]."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return jax.lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), image.shape)


def flip(image: Array) -> Array:
    """Mirrors left and right."""
    return image[:, ::-1]


def resize_weights(start: Array, length: Array, size: int, new_size: int) -> Array:
    """Matrix [new_size, size] that resamples the pixels [start, start + length) of an axis bilinearly to new_size pixels.

    Pixel centres lie at half integers. With scale = length / new_size and width = max(scale, 1), output o weighs input i by
    `max(0, 1 - |i + 1/2 - start - scale (o + 1/2)| / width)`, 0 outside the crop, each row normalised to 1. So upsampling is plain
    bilinear interpolation, and downsampling is antialiased: the triangle widens with the scale. Source: Pillow's `Image.resize`.
    """
    pixel = jnp.arange(size, dtype=jnp.float32)[None, :]
    start, length = jnp.asarray(start, jnp.float32), jnp.asarray(length, jnp.float32)
    scale = length / new_size
    centre = start + scale * (jnp.arange(new_size, dtype=jnp.float32)[:, None] + 0.5)
    weight = jnp.maximum(0.0, 1.0 - jnp.abs(pixel + 0.5 - centre) / jnp.maximum(scale, 1.0))
    weight = jnp.where((pixel >= start) & (pixel < start + length), weight, 0.0)
    return weight / weight.sum(axis=1, keepdims=True)


def resized_crop(image: Array, box: Box, height: int, width: int) -> Array:
    """Cuts box = (top, left, height, width) from the image, then resizes it to [height, width, channel] by `resize_weights`."""
    top, left, box_height, box_width = box
    rows = resize_weights(top, box_height, image.shape[0], height)
    columns = resize_weights(left, box_width, image.shape[1], width)
    resized = jnp.einsum("yh,hwc,xw->yxc", rows, image, columns, precision="highest")
    return jnp.clip(resized, 0.0, 1.0)  # the rows sum to 1 only up to rounding


def fit_box(
    area: Array, log_ratio: Array, height: int, width: int, ratio: tuple[float, float]
) -> tuple[Array, Array, Array]:
    """(fitted, height, width) of the first of the candidates [try] that fits into the image, else the fallback's size.

    A candidate of area fraction a and aspect ratio r = width / height is `round(sqrt(a H W / r))` by `round(sqrt(a H W r))`.
    The fallback is the whole image, cut down to the nearest allowed ratio. Source: torchvision's `RandomResizedCrop`.
    """
    pixels, aspect = area * (height * width), jnp.exp(log_ratio)
    heights = jnp.round(jnp.sqrt(pixels / aspect)).astype(jnp.int32)
    widths = jnp.round(jnp.sqrt(pixels * aspect)).astype(jnp.int32)
    fits = (heights > 0) & (heights <= height) & (widths > 0) & (widths <= width)
    first, fitted = jnp.argmax(fits), jnp.any(fits)
    fallback_height = min(height, round(width / ratio[0]))
    fallback_width = min(width, round(height * ratio[1]))
    return (
        fitted,
        jnp.where(fitted, heights[first], fallback_height),
        jnp.where(fitted, widths[first], fallback_width),
    )


def draw_box(
    key: Array, height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float]
) -> Box:
    """Box (top, left, height, width): area uniform in scale, ratio log-uniform, position uniform, the fallback's in the centre."""
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


def normalise(image: Array, mean: Any, std: Any) -> Array:
    """`(image - mean) / std` with mean and std [channel]: leaves [0, 1]."""
    mean, std = (jnp.asarray(x, jnp.float32)[None, None, :] for x in (mean, std))
    return (image - mean) / std


def greyscale(image: Array) -> Array:
    """Luma [height, width, 1], `0.2989 R + 0.587 G + 0.114 B`; a one-channel image is its own."""
    if image.shape[-1] == 1:
        return image
    if image.shape[-1] != 3:
        raise UserError(
            f"image must have 1 or 3 channels to change its colours, got {image.shape[-1]}"
        )
    red, green, blue = jnp.split(image, 3, axis=-1)
    return GREY_WEIGHTS[0] * red + GREY_WEIGHTS[1] * green + GREY_WEIGHTS[2] * blue


def blend_towards(image: Array, kind: Array, factor: Array) -> Array:
    """`factor image + (1 - factor) other`, clipped to [0, 1], with other as kind says: black, the mean luma, the luma.

    That changes brightness, contrast or saturation; a factor of 1 returns the image bit for bit, and so does the saturation of a
    one-channel image. Source: torchvision's `adjust_brightness`, `adjust_contrast` and `adjust_saturation` on tensors.
    """
    luma = greyscale(image)
    if image.shape[-1] == 1:
        factor = jnp.where(kind == SATURATION, 1.0, factor)
    other = jnp.where(kind == SATURATION, luma, jnp.where(kind == CONTRAST, luma.mean(), 0.0))
    return jnp.clip(factor * image + (1.0 - factor) * other, 0.0, 1.0)


def adjust_hue(image: Array, shift: Array) -> Array:
    """Adds shift, a fraction of the colour circle, to the hue in HSV, mod 1; a one-channel image is unchanged.

    With V = max RGB, C = V - min RGB and hue H in sixths, channel n in (5, 3, 1) is `V - C clip(min(k, 4 - k), 0, 1)`,
    `k = (n + H) mod 6`. Source: the closed form of HSV to RGB; the semantics are torchvision's `adjust_hue`.
    """
    if image.shape[-1] == 1:
        return image
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    unit = 1.0 / jnp.where(chroma > 0.0, chroma, 1.0)
    from_red, from_green, from_blue = (
        (green - blue) * unit,
        (blue - red) * unit + 2.0,
        (red - green) * unit + 4.0,
    )
    hue = (
        jnp.where(value == red, from_red, jnp.where(value == green, from_green, from_blue))
        + 6.0 * shift
    )

    def channel(n: int) -> Array:
        k = n + hue
        k -= 6.0 * jnp.floor(k * (1.0 / 6.0))  # a remainder here is several times slower
        return value - chroma * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)

    return jnp.clip(jnp.stack([channel(5), channel(3), channel(1)], axis=-1), 0.0, 1.0)


def jitter(image: Array, factors: Array, shift: Array | None, order: Array) -> Array:
    """Applies the four colour operations in the given order, a permutation [4] of BRIGHTNESS, CONTRAST, SATURATION, HUE.

    factors [3] belong to the first three, shift to the hue; None leaves the hue alone. Under vmap a switch evaluates every branch,
    so the costly hue is evaluated once: the blends before it, the hue, the blends after it, where a blend out of turn has factor 1.
    """
    hue_position = jnp.argmax(order == HUE)
    factors = jnp.append(factors, jnp.ones(1, jnp.float32))[order]  # by position; 1 at the hue's
    for k in range(3):
        image = blend_towards(image, order[k], jnp.where(k < hue_position, factors[k], 1.0))
    if shift is not None:
        image = adjust_hue(image, shift)
    for k in range(1, 4):
        image = blend_towards(image, order[k], jnp.where(k > hue_position, factors[k], 1.0))
    return image


def draw_jitter(
    key: Array, strengths: tuple[float, ...], hue: float, probability: float
) -> tuple[Array, Array, Array | None, Array]:
    """(happens, factors [3], shift, order [4]): factors uniform in [max(0, 1 - x), 1 + x] for strengths x, shift in [-hue, hue].

    A hue of 0 gives the shift None. Source: torchvision's `ColorJitter`.
    """
    draws = _uniforms(key, 9)
    strength = jnp.asarray(strengths, jnp.float32)
    factors = _between(draws[:3], jnp.maximum(0.0, 1.0 - strength), 1.0 + strength)
    shift = _between(draws[3], -hue, hue) if hue else None
    return draws[8] < probability, factors, shift, jnp.argsort(draws[4:8]).astype(jnp.int32)


def random_jitter(
    key: Array, image: Array, strengths: tuple[float, ...], hue: float, probability: float
) -> Array:
    """`jitter` by a `draw_jitter` with the given probability; strengths of brightness, contrast and saturation."""
    happens, factors, shift, order = draw_jitter(key, strengths, hue, probability)
    return jnp.where(happens, jitter(image, factors, shift, order), image)


def random_greyscale(key: Array, image: Array, probability: float) -> Array:
    """Replaces every channel by the luma with the given probability; the number of channels stays."""
    return jnp.where(
        _happens(key, probability), jnp.broadcast_to(greyscale(image), image.shape), image
    )


def chain(*steps: Augment) -> Augment:
    """Applies the augmentations one after another, each with a key of its own."""

    def augment(key: Array, image: Array) -> Array:
        for step, step_key in zip(steps, jax.random.split(key, len(steps))):
            image = step(step_key, image)
        return image

    return augment


def _require(allowed: str, holds: Callable[[Any], bool], **values: Any) -> None:
    for name, value in values.items():
        if not (isinstance(value, numbers.Real) and holds(value)):
            raise UserError(f"augmentation.{name} must be {allowed}, got {value!r}")


_require_scale = partial(_require, "in (0, 1]", lambda x: 0 < x <= 1)
_require_padding = partial(
    _require, "an integer >= 0", lambda x: isinstance(x, numbers.Integral) and int(x) >= 0
)
_require_probability = partial(_require, "in [0, 1]", lambda x: 0 <= x <= 1)
_require_strength = partial(_require, "a finite number >= 0", lambda x: 0 <= x < math.inf)
_require_hue = partial(_require, "in [0, 0.5]", lambda x: 0 <= x <= 0.5)


def none() -> Augment:
    """The image as it is."""
    return lambda key, image: image


def shift(*, padding: int = 1) -> Augment:
    """Zero padding and a random crop."""
    _require_padding(padding=padding)
    return partial(random_padded_crop, padding=padding)


def crop_flip(*, padding: int = 4) -> Augment:
    """Zero padding, random crop and flip: the usual supervised augmentation of CIFAR."""
    _require_padding(padding=padding)
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
    """A light set for small pictures of digits: resized crop, shift, brightness and contrast; no flip, as digits have a handedness."""
    _require_scale(min_scale=min_scale)
    _require_padding(padding=padding)
    _require_strength(brightness=brightness, contrast=contrast)
    _require_probability(jitter_probability=jitter_probability)
    return chain(
        partial(random_resized_crop, scale=(min_scale, 1.0)),
        partial(random_padded_crop, padding=padding),
        partial(
            random_jitter,
            strengths=(brightness, contrast, 0.0),
            hue=0.0,
            probability=jitter_probability,
        ),
    )


def simsiam(
    *,
    min_scale: float = 0.2,
    flip_probability: float = 0.5,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    hue: float = 0.1,
    jitter_probability: float = 0.8,
    grey_probability: float = 0.2,
) -> Augment:
    """SimSiam's views of CIFAR: resized crop, flip, colour jitter, greyscale; no blur. Source: Chen & He 2021, appendix D."""
    _require_scale(min_scale=min_scale)
    _require_strength(brightness=brightness, contrast=contrast, saturation=saturation)
    _require_hue(hue=hue)
    _require_probability(
        flip_probability=flip_probability,
        jitter_probability=jitter_probability,
        grey_probability=grey_probability,
    )
    return chain(
        partial(random_resized_crop, scale=(min_scale, 1.0)),
        partial(random_flip, probability=flip_probability),
        partial(
            random_jitter,
            strengths=(brightness, contrast, saturation),
            hue=hue,
            probability=jitter_probability,
        ),
        partial(random_greyscale, probability=grey_probability),
    )


AUGMENTATIONS: dict[str, Callable] = {
    "none": none,
    "shift": shift,
    "crop_flip": crop_flip,
    "digits": digits,
    "simsiam": simsiam,
}
