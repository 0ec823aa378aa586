"""RandAugment against Pillow, byte for byte."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from rmdnet_jax.data import randaugment
from rmdnet_jax.data.augment import AUGMENTATIONS
from rmdnet_jax.errors import UserError

STRENGTHS = (-1.0, -0.6, -0.13, 0.0, 0.27, 0.5, 1.0)


def picture(seed, shape=(32, 24, 3)):
    """A smooth scene with some noise, that uses a part of the range."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 210, (4, 3, shape[2])).repeat(8, 0).repeat(8, 1)
    noise = rng.integers(-15, 16, (32, 24, shape[2]))
    return np.clip(coarse + noise, 0, 255).astype(np.uint8)[: shape[0], : shape[1]]


def affine(image, x, y):
    """Output pixel (column, row) -> input place."""
    data = (*x, *y)
    return image.transform(image.size, Image.Transform.AFFINE, data, Image.Resampling.NEAREST)


def pillow(name, image, s):
    """The operation as Pillow has it."""
    width, height = image.size
    enhance = {"brightness": "Brightness", "color": "Color", "contrast": "Contrast",
               "sharpness": "Sharpness"}  # fmt: skip
    if name in enhance:
        factor = float(np.float32(1) + np.float32(0.9) * np.float32(s))
        return getattr(ImageEnhance, enhance[name])(image).enhance(factor)
    return {
        "identity": lambda: image,
        "posterize": lambda: ImageOps.posterize(image, 8 - int(np.round(4 * abs(s)))),
        "solarize": lambda: ImageOps.solarize(image, int(np.ceil(255 * (1 - np.float32(abs(s)))))),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "rotate": lambda: image.rotate(30 * s, Image.Resampling.NEAREST),
        "shear_x": lambda: affine(image, (1, 0.3 * s, 0), (0, 1, 0)),
        "shear_y": lambda: affine(image, (1, 0, 0), (0.3 * s, 1, 0)),
        "translate_x": lambda: affine(image, (1, 0, int(150 / 331 * width * s)), (0, 1, 0)),
        "translate_y": lambda: affine(image, (1, 0, 0), (0, 1, int(150 / 331 * height * s))),
    }[name]()


@jax.jit
def ours(image, kind, strength):
    planes = jnp.moveaxis(image, -1, 0)
    return jnp.moveaxis(randaugment.operation(planes, kind, strength), 0, -1)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("name", randaugment.KINDS)
def test_operations_are_pillows(name, channels):
    number = randaugment.NUMBER[name]
    for seed, strength in enumerate(STRENGTHS):
        pixels = picture(seed, (32, 24, channels))
        shown = Image.fromarray(pixels if channels == 3 else pixels[..., 0])
        wanted = np.asarray(pillow(name, shown, strength)).reshape(pixels.shape)
        found = np.asarray(ours(pixels.astype(np.float32), number, strength))
        assert found.min() >= 0
        assert found.max() <= 255
        differ = np.abs(found - wanted.astype(np.float32))
        if name == "rotate":  # places on the edge of two pixels
            assert (differ > 0).any(-1).mean() < 0.005, (strength, (differ > 0).mean())
        elif number >= randaugment.NUMBER["rotate"]:
            np.testing.assert_array_equal(found, wanted)
        else:  # Pillow rounds otherwise where a value lies on the edge of two
            assert (differ > 0).mean() < (0.03 if name == "autocontrast" else 0.005)
            assert differ.max() <= 1


@pytest.mark.parametrize("shape", [(32, 24, 3), (7, 9, 1)], ids=str)
def test_a_cpus_images_one_by_one_get_the_same_bits(shape, monkeypatch):
    """As all at once, which several devices and accelerators do."""
    count = 16 * len(randaugment.KINDS)
    images = np.stack([np.moveaxis(picture(seed, shape), -1, 0) for seed in range(count)])
    kinds = np.arange(count, dtype=np.int32) % len(randaugment.KINDS)
    strengths = np.random.default_rng(0).uniform(-1, 1, count).astype(np.float32)
    given = images.astype(np.float32), kinds, strengths
    wanted = np.asarray(jax.jit(jax.vmap(randaugment.at_once))(*given))
    assert {len(set(map(bytes, part))) for part in (wanted, images)} == {count}
    for devices in (8, 1):
        monkeypatch.setattr(jax, "device_count", lambda devices=devices: devices)
        jitted = jax.jit(jax.vmap(lambda *one: randaugment.operation(*one)))
        assert ("scan[" in str(jax.make_jaxpr(jitted)(*given))) == (devices == 1)
        np.testing.assert_array_equal(jitted(*given), wanted)
        some = [part[5:12] for part in given]
        np.testing.assert_array_equal(jitted(*some), wanted[5:12])
    many = jax.vmap(jax.vmap(randaugment.operation, (None, 0, None)), (0, None, 0))
    found = jax.jit(many)(given[0][:3], kinds[:4], strengths[:3])
    np.testing.assert_array_equal(found[0, 0], wanted[0])
    assert found.shape == (3, 4, *images.shape[1:])
    one = jax.jit(randaugment.operation)
    alone = [one(*(part[i] for part in given)) for i in range(9)]
    np.testing.assert_array_equal(np.stack(alone), wanted[:9])


def test_other_channels_are_refused():
    with pytest.raises(UserError, match=r"^image must have 1 or 3 channels .*, got 2"):
        ours(np.zeros((8, 8, 2), np.float32), 0, 0.0)


def test_flat_and_tiny_images_stay_whole():
    for shape in ((2, 2, 3), (1, 5, 1), (32, 24, 3)):
        flat = np.full(shape, 77.0, np.float32)
        for name in ("autocontrast", "equalize", "sharpness", "contrast", "color", "identity"):
            found = ours(flat, randaugment.NUMBER[name], 0.7)
            np.testing.assert_array_equal(found, flat, err_msg=name)


def test_every_kind_and_both_directions_are_drawn():
    image = jnp.asarray(picture(0)) / 255.0
    keys = jax.random.split(jax.random.key(0), 700)
    augment = AUGMENTATIONS["randaugment"](count=1, square=0.0, padding=0)
    found = np.asarray(jax.jit(jax.vmap(augment, (0, None)))(keys, image))
    assert found.min() >= 0
    assert found.max() <= 1
    np.testing.assert_allclose(found * 255, np.round(found * 255), atol=1e-3)
    mirrored = np.asarray(image)[:, ::-1]
    same = [np.abs(found - other).max((1, 2, 3)) < 1e-6 for other in (image, mirrored)]
    # the identity, and the others where they are weak: a fourteenth at least
    assert 700 / 14 - 25 < np.sum(same[0] | same[1]) < 700 / 5
    black = found[:, :, 0].sum((1, 2)) == 0, found[:, :, -1].sum((1, 2)) == 0
    assert all(10 < np.sum(side) < 120 for side in black)  # translate_x either way, at least


def test_strength_0_changes_nothing():
    for name, number in randaugment.NUMBER.items():
        if name not in ("autocontrast", "equalize"):
            found = ours(picture(1).astype(np.float32), number, 0.0)
            np.testing.assert_array_equal(found, picture(1), err_msg=name)
    image = jnp.asarray(picture(1)) / 255.0
    only = AUGMENTATIONS["randaugment"](count=0, square=0.0, padding=0)
    found = np.asarray(only(jax.random.key(3), image))
    assert any(np.allclose(found, x, atol=1e-6) for x in (image, image[:, ::-1]))


def test_a_square_of_half_a_side_lies_anywhere():
    cut = jax.jit(jax.vmap(AUGMENTATIONS["cutout"](padding=0), (0, None)))
    found = np.asarray(cut(jax.random.split(jax.random.key(0), 4000), jnp.ones((16, 16, 3))))
    grey = (found == 0.5).all(-1)
    assert grey.sum((1, 2)).max() == 64
    assert grey.sum((1, 2)).min() == 16  # a centre in a corner leaves a quarter
    # a row is touched by the squares of those centres, of sixteen, that reach it
    wanted = [sum(c - 4 <= y < c + 4 for c in range(16)) / 16 for y in range(16)]
    np.testing.assert_allclose(grey.any(2).mean(0), wanted, atol=0.04)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [("randaugment", "count", -1), ("randaugment", "strength", 1.5), ("cutout", "square", 2.0)],
)
def test_values_that_cannot_be_are_refused(name, field, value):
    with pytest.raises(UserError, match=f"^{field} must be .*, got {value}"):
        AUGMENTATIONS[name](**{field: value})


@pytest.mark.parametrize("backend", ["cpu", "tpu"])
def test_values_are_counted_alike_everywhere(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    image = picture(3)
    found = randaugment.histogram(jnp.asarray(np.moveaxis(image, -1, 0), jnp.float32))
    slow = [np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)]
    np.testing.assert_array_equal(found, np.stack(slow))
