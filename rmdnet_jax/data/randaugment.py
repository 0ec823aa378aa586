"""RandAugment's operations on one image, by Pillow's arithmetic on bytes.

Under vmap a switch evaluates every branch. So an operation is told by what the kinds share: a blend
with another image, a table of 256 values a channel, and a map of places. Whatever an image is not
to have is the identity.

Images are float32 [height, width, channel] of whole numbers in [0, 255], one channel or RGB.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rmdnet_jax.types import Array

KINDS = (
    "identity", "brightness", "color", "contrast", "sharpness", "posterize", "solarize",
    "autocontrast", "equalize", "rotate", "shear_x", "shear_y", "translate_x", "translate_y",
)  # fmt: skip
NUMBER = {name: number for number, name in enumerate(KINDS)}
BLEND, BITS, SHEAR, TRANSLATE, DEGREES = 0.9, 4, 0.3, 150 / 331, 30.0  # at strength 1
LUMA = (19595, 38470, 7471)  # of 65,536: Pillow's conversion to grey


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
    image = blended(image, kind, 1 + BLEND * strength)
    image = looked_up(image, kind, jnp.abs(strength))
    return moved(image, kind, strength)


def grey(image: Array) -> Array:
    """Pillow's luma [height, width, 1]."""
    if image.shape[-1] == 1:
        return image
    weighted = image * jnp.array(LUMA, jnp.float32)[None, None]
    return jnp.floor((weighted.sum(-1, keepdims=True) + 2**15) / 2**16)


def smooth(image: Array) -> Array:
    """Pillow's SMOOTH: 3x3 means, the middle five times as heavy; the rim stays."""
    height, width = image.shape[:2]
    if min(height, width) < 3:
        return image
    parts = [
        image[y : y + height - 2, x : x + width - 2] * (5 if x == y == 1 else 1)
        for y in range(3)
        for x in range(3)
    ]
    inner = jnp.floor(sum(parts[1:], parts[0]) / 13 + 0.5)
    return image.at[1:-1, 1:-1].set(inner)


def blended(image: Array, kind: Array, factor: Array) -> Array:
    """`other + factor (image - other)`: black, grey, mean grey or a smooth image is the other."""
    luma = grey(image)
    other = jnp.where(kind == NUMBER["color"], luma, 0.0)
    other = jnp.where(kind == NUMBER["contrast"], jnp.floor(luma.mean() + 0.5), other)
    other = jnp.where(kind == NUMBER["sharpness"], smooth(image), other)
    mixed = jnp.floor(jnp.clip(other + factor * (image - other), 0, 255))
    return jnp.where((kind > 0) & (kind <= NUMBER["sharpness"]), mixed, image)


def looked_up(image: Array, kind: Array, strength: Array) -> Array:
    """Each value through a table of its channel."""
    value = jnp.arange(256, dtype=jnp.float32)[:, None]
    value = jnp.broadcast_to(value, (256, image.shape[-1]))
    table = value
    step = 2.0 ** jnp.round(BITS * strength)
    table = jnp.where(kind == NUMBER["posterize"], jnp.floor(value / step) * step, table)
    turned = jnp.where(value < 255 * (1 - strength), value, 255 - value)
    table = jnp.where(kind == NUMBER["solarize"], turned, table)
    table = jnp.where(kind == NUMBER["autocontrast"], stretched(image, value), table)
    table = jnp.where(kind == NUMBER["equalize"], equalized(image, value), table)
    found = jnp.take_along_axis(table, image.reshape(-1, image.shape[-1]).astype(jnp.int32), 0)
    return found.reshape(image.shape)


def stretched(image: Array, value: Array) -> Array:
    """The table [256, channel] that gives each channel the whole range."""
    low, high = image.min((0, 1))[None], image.max((0, 1))[None]
    table = jnp.floor(255 * (value - low) / jnp.maximum(high - low, 1))
    return jnp.where(high > low, jnp.clip(table, 0, 255), value)


def equalized(image: Array, value: Array) -> Array:
    """The table [256, channel] that makes each channel's values about as frequent."""
    count = histogram(image)
    last = jnp.take_along_axis(count, image.max((0, 1)).astype(jnp.int32)[None], 0)[0]
    step = jnp.floor((count.sum(0) - last) / 255)[None]
    before = jnp.cumsum(count, 0) - count
    table = jnp.floor((jnp.floor(step / 2) + before) / jnp.maximum(step, 1))
    return jnp.where(step > 0, jnp.clip(table, 0, 255), value)


def histogram(image: Array) -> Array:
    """How often each value occurs, [256, channel]."""
    if jax.default_backend() == "tpu":  # where scatters are slow: a product of two digits' places
        digits = jnp.arange(16, dtype=jnp.float32)[None, None, None]
        places = [(part[..., None] == digits).astype(jnp.float32) for part in jnp.divmod(image, 16)]
        return jnp.einsum("hwca,hwcb->abc", *places, precision="highest").reshape(256, -1)
    channel = jnp.arange(image.shape[-1])[None, None]
    start = jnp.zeros((256, image.shape[-1]), jnp.float32)
    return start.at[image.astype(jnp.int32), channel].add(1.0)


def moved(image: Array, kind: Array, strength: Array) -> Array:
    """Each pixel from the nearest place of a map; black where that lies outside."""
    height, width = image.shape[:2]

    def of(name: str, amount: Array) -> Array:
        return jnp.where(kind == NUMBER[name], amount, 0.0)

    angle = jnp.deg2rad(of("rotate", DEGREES * strength))
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    x, y = jnp.arange(width)[None] + 0.5, jnp.arange(height)[:, None] + 0.5
    right, down = x - width / 2, y - height / 2
    from_x = width / 2 + cosine * right - sine * down + of("shear_x", SHEAR * strength) * y
    from_x += jnp.trunc(of("translate_x", TRANSLATE * width * strength))
    from_y = height / 2 + sine * right + cosine * down + of("shear_y", SHEAR * strength) * x
    from_y += jnp.trunc(of("translate_y", TRANSLATE * height * strength))
    column, row = (jnp.floor(place).astype(jnp.int32) for place in (from_x, from_y))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    found = image[jnp.clip(row, 0, height - 1), jnp.clip(column, 0, width - 1)]
    return jnp.where(inside[..., None], found, 0.0)
