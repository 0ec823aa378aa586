"""RandAugment's operations on one image, by Pillow's arithmetic on bytes.

A CPU takes a batch image by image, so that each meets its own operation only. Elsewhere all images
meet all operations, told by what the kinds share: a blend with another image, a table of 256
values a channel, and a map of places. Whatever an image is not to have is the identity. Both give
the same bits.

Images are float32 [channel, height, width] of whole numbers in [0, 255], one channel or RGB: no
device is quick at a last axis of 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from rmdnet_jax.errors import wrong
from rmdnet_jax.types import Array

KINDS = (
    "identity", "brightness", "color", "contrast", "sharpness", "posterize", "solarize",
    "autocontrast", "equalize", "rotate", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
NUMBER = {name: number for number, name in enumerate(KINDS)}
BLEND, BITS, SHEAR, TRANSLATE, DEGREES = 0.9, 4, 0.3, 150 / 331, 30.0  # at strength 1
LUMA = (19595, 38470, 7471)  # of 65,536: Pillow's conversion to grey


@jax.custom_batching.custom_vmap
def operation(image: Array, kind: Array, strength: Array) -> Array:
    """The image after one operation.

    Args:
      image: see above.
      kind: int32 [], the place of its name in `KINDS`.
      strength: float32 [] in [-1, 1]; the sign is a direction, where there is one. At 1 a factor is
        1.9, four bits are left, a threshold is 0, a turn is 30 degrees, a shear is 0.3, a shift is
        0.45 of the width.

    Source: Cubuk et al., NeurIPS 2020; ranges and the list of kinds of torchvision's `RandAugment`.
    """

    def branch(number: int) -> Callable[[Array, Array], Array]:
        blend, table = number <= NUMBER["sharpness"], number <= NUMBER["equalize"]
        step = blended if blend else looked_up if table else moved
        return lambda image, strength: step(image, number, strength)

    return jax.lax.switch(kind, [branch(number) for number in range(len(KINDS))], image, strength)


@operation.def_vmap
def _of_many(size: int, batched: Sequence[bool], *given: Array) -> tuple[Array, bool]:
    every = tuple(x if own else jnp.repeat(x[None], size, 0) for x, own in zip(given, batched))
    # of several devices each would take all images, one by one
    if jax.default_backend() == "cpu" and jax.device_count() == 1:
        return jax.lax.map(lambda one: operation(*one), every), True
    return jax.vmap(at_once)(*every), True


def at_once(image: Array, kind: Array, strength: Array) -> Array:
    """`operation` without branches."""
    for step in (blended, looked_up, moved):
        image = step(image, kind, strength)
    return image


def grey(image: Array) -> Array:
    """Pillow's luma [1, height, width]."""
    if len(image) == 1:
        return image
    if len(image) != 3:
        raise wrong("image", f"have 1 or 3 channels to change its colours, got {len(image)}")
    red, green, blue = (image[i : i + 1] * weight for i, weight in enumerate(LUMA))
    return jnp.floor((red + green + blue + 2**15) / 2**16)


def smooth(image: Array) -> Array:
    """Pillow's SMOOTH: 3x3 means, the middle five times as heavy; the rim stays."""
    height, width = image.shape[1:]
    if min(height, width) < 3:
        return image
    wide = jnp.pad(image, ((0, 0), (1, 1), (1, 1)))
    three = wide[:, :-2] + wide[:, 1:-1] + wide[:, 2:]
    nine = three[..., :-2] + three[..., 1:-1] + three[..., 2:]
    y, x = jnp.arange(height)[None, :, None], jnp.arange(width)[None, None]
    inner = (y > 0) & (y < height - 1) & (x > 0) & (x < width - 1)
    return jnp.where(inner, jnp.floor((nine + 4 * image) / 13 + 0.5), image)


def blended(image: Array, kind: Array | int, strength: Array) -> Array:
    """`other + factor (image - other)`: black, grey, mean grey or a smooth image is the other."""
    luma = grey(image)
    other = jnp.where(kind == NUMBER["color"], luma, 0.0)
    other = jnp.where(kind == NUMBER["contrast"], jnp.floor(luma.mean() + 0.5), other)
    other = jnp.where(kind == NUMBER["sharpness"], smooth(image), other)
    mixed = jnp.floor(jnp.clip(other + (1 + BLEND * strength) * (image - other), 0, 255))
    return jnp.where((kind > 0) & (kind <= NUMBER["sharpness"]), mixed, image)


def looked_up(image: Array, kind: Array | int, strength: Array) -> Array:
    """Each value through a table of its channel."""
    strength = jnp.abs(strength)
    value = jnp.arange(256, dtype=jnp.float32)[None]
    value = jnp.broadcast_to(value, (len(image), 256))
    step = 2.0 ** jnp.round(BITS * strength)
    table = jnp.where(kind == NUMBER["posterize"], jnp.floor(value / step) * step, value)
    turned = jnp.where(value < 255 * (1 - strength), value, 255 - value)
    table = jnp.where(kind == NUMBER["solarize"], turned, table)
    table = jnp.where(kind == NUMBER["autocontrast"], stretched(image, value), table)
    table = jnp.where(kind == NUMBER["equalize"], equalized(image, value), table)
    return taken(table, image.astype(jnp.int32))


def taken(planes: Array, index: Array) -> Array:
    """What stands at the places [channel, ...] of each channel's plane, by one flat gather."""
    size = planes[0].size
    start = size * jnp.arange(len(planes), dtype=jnp.int32)[:, None, None]
    return planes.reshape(-1)[(start + index).reshape(-1)].reshape(len(planes), *index.shape[1:])


def stretched(image: Array, value: Array) -> Array:
    """The table [channel, 256] that gives each channel the whole range."""
    low, high = image.min((1, 2))[:, None], image.max((1, 2))[:, None]
    table = jnp.floor(255 * (value - low) / jnp.maximum(high - low, 1))
    return jnp.where(high > low, jnp.clip(table, 0, 255), value)


def equalized(image: Array, value: Array) -> Array:
    """The table [channel, 256] that makes each channel's values about as frequent."""
    count = histogram(image)
    highest = value == image.max((1, 2))[:, None]
    last = jnp.where(highest, count, 0).sum(1, dtype=jnp.int32)
    step = ((image[0].size - last) // 255)[:, None]
    before = jnp.cumsum(count, 1, dtype=jnp.int32) - count
    above = (step // 2 + before).astype(jnp.float32) + 0.5  # far from where a division may err
    table = jnp.floor(above / jnp.maximum(step, 1).astype(jnp.float32))
    return jnp.where(step > 0, jnp.minimum(table, 255), value)


def histogram(image: Array) -> Array:
    """How often each value occurs, int32 [channel, 256]."""
    channels = len(image)
    if jax.default_backend() == "tpu":  # where scatters are slow: a product of two digits' places
        digits = jnp.arange(16, dtype=jnp.float32)[None, None, None]
        ones = ((part[..., None] == digits).astype(jnp.bfloat16) for part in jnp.divmod(image, 16))
        count = jnp.einsum("chwa,chwb->cab", *ones, preferred_element_type=jnp.float32)
        return count.reshape(channels, 256).astype(jnp.int32)
    start = 256 * jnp.arange(channels, dtype=jnp.int32)[:, None, None]
    place = (start + image.astype(jnp.int32)).reshape(-1)
    return jnp.zeros(256 * channels, jnp.int32).at[place].add(1).reshape(channels, 256)


def moved(image: Array, kind: Array | int, strength: Array) -> Array:
    """Each pixel from the nearest place of a map; black where that lies outside.

    Places are whole numbers of 1 / 65,536 pixel, as Pillow's: the same wherever it runs.
    """
    height, width = image.shape[1:]

    def of(name: str, amount: Array) -> Array:
        return jnp.where(kind == NUMBER[name], amount, 0.0)

    def fixed(part: Array) -> Array:
        return jnp.round(2**16 * part).astype(jnp.int32)

    # twice the middle of a pixel, from the corner and from the centre
    x, y = (2 * jnp.arange(size, dtype=jnp.int32) + 1 for size in (width, height))
    x, y = x[None], y[:, None]
    right, down = x - width, y - height
    angle = of("rotate", math.radians(DEGREES) * strength)
    cosine, sine = fixed(jnp.cos(angle)), fixed(jnp.sin(angle))
    column = cosine * right - sine * down + fixed(of("shear_x", SHEAR * strength)) * y
    row = sine * right + cosine * down + fixed(of("shear_y", SHEAR * strength)) * x
    over = width * 2**16 + fixed(2 * jnp.trunc(of("translate_x", TRANSLATE * width * strength)))
    up = height * 2**16 + fixed(2 * jnp.trunc(of("translate_y", TRANSLATE * height * strength)))
    column, row = (column + over) >> 17, (row + up) >> 17
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    pixel = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
    return jnp.where(inside[None], taken(image, pixel[None]), 0.0)
