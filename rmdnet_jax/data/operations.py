"""What an augmentation does to one image, with fixed parameters: crops, flips, colours.

Images are float32 [height, width, channel] in [0, 1] with one or three (RGB) channels, before and
after. Sizes, offsets and paddings are in pixels. Shapes are static.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rmdnet_jax.errors import wrong
from rmdnet_jax.types import Array

Box = tuple[Array, Array, Array, Array]  # int32 (top, left, height, width)

# torchvision's rgb_to_grayscale on tensors; they sum to 0.9999.
GREY_WEIGHTS = (0.2989, 0.587, 0.114)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)


def padded_crop(image: Array, top: Array, left: Array, padding: int) -> Array:
    """Pads with zeros on all four sides and cuts an image of the old size at (top, left).

    Both offsets lie in [0, 2 padding].
    """
    if jax.default_backend() == "tpu":  # where slices are a loop over the images: the same by ones
        rows, columns = (
            (jnp.arange(size)[None] == jnp.arange(size)[:, None] + start - padding).astype(
                image.dtype
            )
            for start, size in zip((top, left), image.shape[:2])
        )
        return jnp.einsum("yh,hwc,xw->yxc", rows, image, columns, precision="highest")
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    return jax.lax.dynamic_slice(padded, (top, left, jnp.zeros_like(top)), image.shape)


def flip(image: Array) -> Array:
    """Mirrors left and right."""
    return image[:, ::-1]


def resize_weights(start: Array, length: Array, size: int, new_size: int) -> Array:
    """Matrix [new_size, size] that resamples pixels [start, start + length) of an axis bilinearly.

    Pixel centres lie at half integers. With scale = length / new_size and width = max(scale, 1),
    output o weighs input i by `max(0, 1 - |i + 1/2 - start - scale (o + 1/2)| / width)`, 0 outside
    the crop, each row normalised to 1. So upsampling is plain bilinear interpolation, and
    downsampling is antialiased: the triangle widens with the scale. Source: Pillow's
    `Image.resize`.
    """
    pixel = jnp.arange(size, dtype=jnp.float32)[None, :]
    start, length = jnp.asarray(start, jnp.float32), jnp.asarray(length, jnp.float32)
    scale = length / new_size
    centre = start + scale * (jnp.arange(new_size, dtype=jnp.float32)[:, None] + 0.5)
    weight = jnp.maximum(0.0, 1.0 - jnp.abs(pixel + 0.5 - centre) / jnp.maximum(scale, 1.0))
    weight = jnp.where((pixel >= start) & (pixel < start + length), weight, 0.0)
    return weight / weight.sum(axis=1, keepdims=True)


def resized_crop(image: Array, box: Box, height: int, width: int) -> Array:
    """Cuts box = (top, left, height, width) out, then resizes it by `resize_weights`.

    What comes back is [height, width, channel].
    """
    top, left, box_height, box_width = box
    rows = resize_weights(top, box_height, image.shape[0], height)
    columns = resize_weights(left, box_width, image.shape[1], width)
    resized = jnp.einsum("yh,hwc,xw->yxc", rows, image, columns, precision="highest")
    return jnp.clip(resized, 0.0, 1.0)  # the rows sum to 1 only up to rounding


def fit_box(
    area: Array, log_ratio: Array, height: int, width: int, ratio: tuple[float, float]
) -> tuple[Array, Array, Array]:
    """(fitted, height, width) of the first candidate [try] that fits, else the fallback's size.

    A candidate of area fraction a and aspect ratio r = width / height is `round(sqrt(a H W / r))`
    by `round(sqrt(a H W r))`. The fallback is the whole image, cut down to the nearest allowed
    ratio. Source: torchvision's `RandomResizedCrop`.
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


def greyscale(image: Array) -> Array:
    """Luma [height, width, 1], `0.2989 R + 0.587 G + 0.114 B`; a one-channel image is its own."""
    if image.shape[-1] == 1:
        return image
    if image.shape[-1] != 3:
        raise wrong("image", f"have 1 or 3 channels to change its colours, got {image.shape[-1]}")
    red, green, blue = jnp.split(image, 3, axis=-1)
    return GREY_WEIGHTS[0] * red + GREY_WEIGHTS[1] * green + GREY_WEIGHTS[2] * blue


def blend_towards(image: Array, kind: Array, factor: Array) -> Array:
    """`factor image + (1 - factor) other`, clipped to [0, 1].

    The other is, as kind says, black, the mean luma or the luma: that changes brightness, contrast
    or saturation. A factor of 1 returns the image bit for bit, and so does the saturation of a
    one-channel image. Source: torchvision's `adjust_brightness`, `adjust_contrast` and
    `adjust_saturation` on tensors.
    """
    luma = greyscale(image)
    if image.shape[-1] == 1:
        factor = jnp.where(kind == SATURATION, 1.0, factor)
    other = jnp.where(kind == SATURATION, luma, jnp.where(kind == CONTRAST, luma.mean(), 0.0))
    return jnp.clip(factor * image + (1.0 - factor) * other, 0.0, 1.0)


def adjust_hue(image: Array, shift: Array) -> Array:
    """Adds shift, a fraction of the colour circle, to the hue in HSV; one channel stays as it is.

    With V = max RGB, C = V - min RGB and hue H in sixths, channel n in (5, 3, 1) is
    `V - C clip(min(k, 4 - k), 0, 1)`, `k = (n + H) mod 6`. Source: the closed form of HSV to RGB;
    the semantics are torchvision's `adjust_hue`.
    """
    if image.shape[-1] == 1:
        return image
    red, green, blue = image[..., 0], image[..., 1], image[..., 2]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    unit = 1.0 / jnp.where(chroma > 0.0, chroma, 1.0)
    from_red = (green - blue) * unit
    from_green = (blue - red) * unit + 2.0
    from_blue = (red - green) * unit + 4.0
    hue = jnp.where(value == red, from_red, jnp.where(value == green, from_green, from_blue))
    hue = hue + 6.0 * shift

    def channel(n: int) -> Array:
        k = n + hue
        k -= 6.0 * jnp.floor(k * (1.0 / 6.0))  # a remainder here is several times slower
        return value - chroma * jnp.clip(jnp.minimum(k, 4.0 - k), 0.0, 1.0)

    return jnp.clip(jnp.stack([channel(5), channel(3), channel(1)], axis=-1), 0.0, 1.0)


def jitter(image: Array, factors: Array, shift: Array | None, order: Array) -> Array:
    """The four colour operations, in the order of a permutation [4] of BRIGHTNESS, ..., HUE.

    factors [3] belong to the first three, shift to the hue; None leaves the hue alone. Under vmap a
    switch evaluates every branch, so the costly hue is evaluated once: the blends before it, the
    hue, the blends after it, where a blend out of turn has factor 1.
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
