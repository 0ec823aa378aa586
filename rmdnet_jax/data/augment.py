"""Random augmentations of one image, by name in a table; see `draws`.

Add one by writing a factory `f(*, fields) -> (key, image) -> image` and naming it in
`AUGMENTATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rmdnet_jax.data.draws import (
    Augment,
    chain,
    random_cutout,
    random_flip,
    random_greyscale,
    random_jitter,
    random_operations,
    random_padded_crop,
    random_resized_crop,
)
from rmdnet_jax.errors import all_within, within


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
      >>> keys = jax.random.split(jax.random.key(0), 8)
      >>> views = jax.jit(jax.vmap(augment))(keys, images)
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
      >>> augment = jax.jit(rmd.AUGMENTATIONS["digits"](min_scale=0.8))
      >>> augment(jax.random.key(0), jax.numpy.ones((8, 8, 1))).shape
      (8, 8, 1)
    """
    all_within("(0, 1]", min_scale=min_scale)
    within("padding", padding, "[0, inf)", whole=True)
    all_within("[0, inf)", brightness=brightness, contrast=contrast)
    all_within("[0, 1]", jitter_probability=jitter_probability)
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
      >>> augment = jax.jit(rmd.AUGMENTATIONS["simsiam"](hue=0.0))
      >>> keys = jax.random.split(jax.random.key(0))
      >>> image = jax.random.uniform(jax.random.key(1), (32, 32, 3))
      >>> one, two = (augment(key, image) for key in keys)  # two views of one image
      >>> bool((one == two).all())
      False
    """
    all_within("(0, 1]", min_scale=min_scale)
    all_within(f"[{min_scale}, 1]", max_scale=max_scale)
    all_within("[0, inf)", brightness=brightness, contrast=contrast, saturation=saturation)
    all_within("[0, 0.5]", hue=hue)
    all_within("[0, 1]", flip_probability=flip_probability, jitter_probability=jitter_probability)
    all_within("[0, 1]", grey_probability=grey_probability)
    strengths = (brightness, contrast, saturation)
    return chain(
        partial(random_resized_crop, scale=(min_scale, max_scale)),
        partial(random_flip, probability=flip_probability),
        partial(random_jitter, strengths=strengths, hue=hue, probability=jitter_probability),
        partial(random_greyscale, probability=grey_probability),
    )


def cutout(*, square: float = 0.5, padding: int = 4) -> Augment:
    """`crop_flip`, then a grey square.

    Args:
      square: its side, as a share of the image's shorter one, in [0, 1]; 0: none.
      padding: of `crop_flip`.

    Source: DeVries & Taylor 2017 (arXiv 1708.04552), which fills it with the mean.

    Example:
      >>> import jax, rmdnet_jax as rmd
      >>> augment = rmd.AUGMENTATIONS["cutout"](square=0.125)
      >>> image = augment(jax.random.key(0), jax.random.uniform(jax.random.key(1), (32, 32, 3)))
      >>> 4 <= int((image == 0.5).all(-1).sum()) <= 16
      True
    """
    all_within("[0, 1]", square=square)
    return chain(crop_flip(padding=padding), partial(random_cutout, square=square))


def randaugment(
    *, count: int = 2, strength: float = 1.0, square: float = 0.5, padding: int = 4
) -> Augment:
    """RandAugment: `crop_flip`, `count` operations of random strength, then a grey square.

    Args:
      count: operations, each out of the fourteen of `randaugment.KINDS`.
      strength: the most that one may have, in [0, 1].
      square: its side, as a share of the image's shorter one, in [0, 1]; 0: none.
      padding: of `crop_flip`.

    Source: Cubuk et al., NeurIPS 2020; the random strength and the square of FixMatch (Sohn et
    al., NeurIPS 2020).

    Example:
      >>> import jax, rmdnet_jax as rmd
      >>> augment = rmd.AUGMENTATIONS["randaugment"](strength=0.5)
      >>> image = jax.random.uniform(jax.random.key(1), (32, 32, 3))
      >>> augment(jax.random.key(0), image).shape
      (32, 32, 3)
    """
    within("count", count, "[0, 14]", whole=True)
    all_within("[0, 1]", strength=strength)
    operations = partial(random_operations, count=count, strength=strength)
    all_within("[0, 1]", square=square)
    return chain(crop_flip(padding=padding), operations, partial(random_cutout, square=square))


AUGMENTATIONS: dict[str, Callable[..., Augment]] = {
    "none": none,
    "shift": shift,
    "crop_flip": crop_flip,
    "digits": digits,
    "simsiam": simsiam,
    "cutout": cutout,
    "randaugment": randaugment,
}
"""Augmentations by name, `(*, fields) -> augment`, where `augment(key, image)` is one view."""
