"""Augmentations against Pillow, colorsys and slow NumPy on fixed parameters.

The random draws are tested by their statistics.
"""

import colorsys
import inspect
import itertools
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageEnhance

from rmdnet_jax.data import augment as A
from rmdnet_jax.data import draws as D
from rmdnet_jax.data import operations as O
from rmdnet_jax.errors import UserError

# Most of these tests' time is XLA's; unoptimised code compiles four times faster.
jit = partial(
    jax.jit,
    compiler_options={
        "xla_backend_optimization_level": 0,
        "xla_llvm_disable_expensive_passes": True,
    },
)
SHAPES = [(8, 8, 1), (32, 32, 3)]
TABLE = [
    pytest.param(name, shape, id=f"{name}-{shape[0]}")
    for name in A.AUGMENTATIONS
    for shape in SHAPES
]
NEUTRAL = {  # hyper-parameters that leave an image as it is
    "none": {},
    "shift": {"padding": 0},
    "digits": {"min_scale": 1.0, "padding": 0, "jitter_probability": 0.0},
    "simsiam": {
        "min_scale": 1.0,
        "flip_probability": 0.0,
        "jitter_probability": 0.0,
        "grey_probability": 0.0,
    },
}


@pytest.fixture(autouse=True)
def _explicit_ranks():
    with jax.numpy_rank_promotion("raise"):
        yield


def images(shape):
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def keys(count):
    return jax.random.split(jax.random.key(0), count)


def luma(image):
    image = image.astype(np.float64)
    return (
        image[..., 0] * 0.2989 + image[..., 1] * 0.587 + image[..., 2] * 0.114
        if image.shape[-1] == 3
        else image[..., 0]
    )


def slow_blend(image, kind, factor):
    other = [np.zeros(()), luma(image).mean(), luma(image)[..., None]][kind]
    return np.clip(factor * image.astype(np.float64) + (1 - factor) * other, 0, 1)


def slow_hue(image, shift):
    out = np.empty(image.shape)
    for y, x in np.ndindex(image.shape[:2]):
        hue, saturation, value = colorsys.rgb_to_hsv(*map(float, image[y, x]))
        out[y, x] = colorsys.hsv_to_rgb((hue + shift) % 1.0, saturation, value)
    return out


def about(count, probability, trials):
    """Is the count within five standard deviations of a binomial's mean?"""
    return abs(count - trials * probability) <= 5 * np.sqrt(
        trials * probability * (1 - probability)
    )


# Geometry


@pytest.mark.parametrize("backend", ["cpu", "tpu"])  # slices, or products with zeros and ones
def test_padded_crop_is_a_window_of_the_padded_image(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    image = images((4, 5, 3))
    padded = np.pad(image, ((2, 2), (2, 2), (0, 0)))
    for top, left in itertools.product(range(5), range(5)):
        np.testing.assert_array_equal(
            O.padded_crop(image, jnp.int32(top), jnp.int32(left), 2),
            padded[top : top + 4, left : left + 5],
        )


def test_random_padded_crop_draws_every_offset_as_often():
    image = np.zeros((3, 3, 1), np.float32)
    image[1, 1] = 1.0
    shifted = np.asarray(jit(jax.vmap(lambda key: D.random_padded_crop(key, image, 1)))(keys(1800)))
    counts = shifted.sum(axis=0).ravel()
    assert counts.sum() == 1800
    assert all(about(count, 1 / 9, 1800) for count in counts)


def test_random_flip_mirrors_width_with_its_probability():
    image = images((2, 3, 3))
    flipped = np.asarray(jit(jax.vmap(lambda key: D.random_flip(key, image, 0.3)))(keys(1000)))
    mirrored = (flipped == image[:, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored | (flipped == image).all(axis=(1, 2, 3))).all()
    assert about(mirrored.sum(), 0.3, 1000)


BOXES = [
    (0, 0, 20, 33),
    (3, 5, 9, 12),
    (19, 32, 1, 1),
    (0, 30, 20, 3),
    (7, 0, 13, 33),
    (2, 2, 2, 30),
]


@pytest.mark.parametrize(
    "size", [(20, 33), (32, 32), (7, 9), (1, 1)], ids=str
)  # the last two downsample most boxes
def test_resized_crop_is_pillows_bilinear(size):
    image = images((20, 33, 3))
    resize = jit(lambda box: O.resized_crop(image, box, *size))
    for top, left, height, width in BOXES:
        ours = resize(jnp.array([top, left, height, width], jnp.int32))
        for channel in range(3):  # Pillow's float mode: no rounding to bytes
            cut = Image.fromarray(image[..., channel]).crop((left, top, left + width, top + height))
            expected = np.asarray(cut.resize(size[::-1], Image.Resampling.BILINEAR))
            np.testing.assert_allclose(ours[..., channel], expected, atol=2e-6)


def slow_fit(areas, log_ratios, height, width, low, high):
    for area, log_ratio in zip(areas, log_ratios):
        ratio = np.exp(log_ratio)
        w, h = (
            round(np.sqrt(area * height * width * ratio)),
            round(np.sqrt(area * height * width / ratio)),
        )
        if 0 < w <= width and 0 < h <= height:
            return True, h, w
    if width / height < low:
        return False, round(width / low), width
    return (
        (False, height, round(height * high)) if width / height > high else (False, height, width)
    )


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 20), (10, 60), (9, 8)])
@pytest.mark.parametrize("areas", [[0.5, 0.3], [1.0, 0.2], [1.0, 1.0], [0.0001, 0.9]], ids=str)
def test_fit_box_takes_the_first_that_fits_or_falls_back(areas, height, width):
    log_ratios = [0.25, -0.21]
    ours = O.fit_box(
        jnp.array(areas, jnp.float32),
        jnp.array(log_ratios, jnp.float32),
        height,
        width,
        (3 / 4, 4 / 3),
    )
    assert tuple(map(int, ours)) == slow_fit(areas, log_ratios, height, width, 3 / 4, 4 / 3)


def test_draw_box_has_the_ranges_of_torchvision():
    draw = jit(jax.vmap(lambda key: jnp.stack(D.draw_box(key, 64, 96, (0.1, 0.3), (0.5, 2.0)))))
    top, left, height, width = np.asarray(draw(keys(2000))).T
    assert ((top >= 0) & (left >= 0) & (top + height <= 64) & (left + width <= 96)).all()
    assert {top.min(), left.min(), (64 - top - height).min(), (96 - left - width).min()} == {0}
    area, log_ratio = height * width / (64 * 96), np.log2(width / height)
    for value, low, high, rounding in [(area, 0.1, 0.3, 0.006), (log_ratio, -1.0, 1.0, 0.08)]:
        assert low - rounding <= value.min() < low + rounding
        assert high - rounding < value.max() <= high + rounding
        quarters = np.histogram(value, np.linspace(low, high, 5))[0]
        assert quarters.min() > 0.8 * 500  # uniform
    assert abs((top / (64 - height)).mean() - 0.5) < 0.04
    assert abs((left / (96 - width)).mean() - 0.5) < 0.04


def test_draw_box_falls_back_to_the_centre():
    box = jit(lambda key: D.draw_box(key, 10, 60, (1.0, 1.0), (3 / 4, 4 / 3)))(jax.random.key(0))
    assert tuple(map(int, box)) == (0, (60 - 13) // 2, 10, 13)


# Colour


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("factor", [0.0, 0.6, 1.0, 1.4, 3.0])
def test_blends_are_torchvisions(factor, channels):
    image = images((6, 5, channels))
    for kind in (O.BRIGHTNESS, O.CONTRAST, O.SATURATION):
        expected = (
            image if (channels, kind) == (1, O.SATURATION) else slow_blend(image, kind, factor)
        )
        np.testing.assert_allclose(
            O.blend_towards(image, jnp.int32(kind), jnp.float32(factor)), expected, atol=1e-6
        )


@pytest.mark.parametrize(
    ("kind", "enhance"),
    [
        (O.BRIGHTNESS, ImageEnhance.Brightness),
        (O.CONTRAST, ImageEnhance.Contrast),
        (O.SATURATION, ImageEnhance.Color),
    ],
)
@pytest.mark.parametrize("factor", [0.6, 1.4])
def test_blends_are_pillows_up_to_its_rounding(kind, enhance, factor):
    image = (255 * images((6, 5, 3))).astype(np.uint8)
    ours = 255 * O.blend_towards(
        jnp.asarray(image / np.float32(255)), jnp.int32(kind), jnp.float32(factor)
    )
    np.testing.assert_allclose(ours, enhance(Image.fromarray(image)).enhance(factor), atol=2)


@pytest.mark.parametrize("shift", [-0.5, -0.1, 0.0, 0.07, 0.5])
def test_adjust_hue_is_colorsys(shift):
    image = images((8, 8, 3))
    image[0, :5] = [
        [0, 0, 0],
        [1, 1, 1],
        [1, 0, 0],
        [0.5, 0.5, 0.2],
        [0.3, 0.3, 0.3],
    ]  # black, white, a corner, a tie, grey
    np.testing.assert_allclose(
        jit(O.adjust_hue)(image, jnp.float32(shift)), slow_hue(image, shift), atol=2e-6
    )


def test_jitter_applies_the_operations_in_every_order():
    image, factors, shift = images((5, 4, 3)), np.float32([1.3, 1.4, 0.5]), 0.08
    orders = list(itertools.permutations(range(4)))
    ours = jit(jax.vmap(lambda order: O.jitter(image, factors, jnp.float32(shift), order)))(
        jnp.array(orders, jnp.int32)
    )
    for order, result in zip(orders, ours):
        expected = image
        for kind in order:
            expected = (
                slow_hue(expected, shift)
                if kind == O.HUE
                else slow_blend(expected, kind, factors[kind])
            )
        np.testing.assert_allclose(result, expected, atol=5e-6, err_msg=str(order))


def test_jitter_without_a_hue_shift_keeps_the_order_of_the_others():
    image, factors = images((5, 4, 3)), np.float32([1.5, 0.5, 2.0])
    expected = image
    for kind in (O.SATURATION, O.BRIGHTNESS, O.CONTRAST):
        expected = slow_blend(expected, kind, factors[kind])
    order = jnp.array([O.SATURATION, O.HUE, O.BRIGHTNESS, O.CONTRAST], jnp.int32)
    np.testing.assert_allclose(
        jit(lambda order: O.jitter(image, factors, None, order))(order), expected, atol=5e-6
    )


def test_draw_jitter_is_uniform_over_ranges_and_orders():
    happens, factors, shift, order = jit(
        jax.vmap(lambda key: D.draw_jitter(key, (0.4, 1.5, 0.0), 0.1, 0.3))
    )(keys(2400))
    assert about(happens.sum(), 0.3, 2400)
    for value, low, high in [
        (factors[:, 0], 0.6, 1.4),
        (factors[:, 1], 0.0, 2.5),
        (shift, -0.1, 0.1),
    ]:
        counts, _ = np.histogram(value, np.linspace(low - 1e-6, high + 1e-6, 5))
        assert counts.sum() == 2400
        assert all(about(count, 1 / 4, 2400) for count in counts)
    assert (factors[:, 2] == 1.0).all()
    for some in (order, order[happens]):
        found, counts = np.unique(some, axis=0, return_counts=True)
        assert {tuple(row) for row in found.tolist()} == set(itertools.permutations(range(4)))
        assert all(about(count, 1 / 24, len(some)) for count in counts)


def test_colour_changes_happen_with_their_probability():
    image = images((3, 3, 3))
    jittered, greyed = jit(
        jax.vmap(
            lambda key: (
                D.random_jitter(key, image, (0.4, 0.4, 0.4), 0.1, 0.8),
                D.random_greyscale(key, image, 0.2),
            )
        )
    )(keys(1000))
    changed = (np.asarray(jittered) != image).any(axis=(1, 2, 3))
    assert about(changed.sum(), 0.8, 1000)
    grey = np.isclose(greyed, luma(image)[..., None], atol=1e-6).all(axis=(1, 2, 3))
    assert (grey | (np.asarray(greyed) == image).all(axis=(1, 2, 3))).all()
    assert about(grey.sum(), 0.2, 1000)
    assert greyed.shape == (1000, 3, 3, 3)


def test_one_channel_has_no_colour_to_change():
    image = images((4, 4, 1))
    factors = jnp.array([[1.0, 1.0, 0.3], [0.5, 1.0, 1.0], [1.0, 0.5, 1.0]], jnp.float32)
    order = jnp.array([O.SATURATION, O.BRIGHTNESS, O.HUE, O.CONTRAST], jnp.int32)
    saturated, dark, flat = jit(
        jax.vmap(lambda factors: O.jitter(image, factors, jnp.float32(0.4), order))
    )(factors)
    np.testing.assert_array_equal(saturated, image)
    np.testing.assert_allclose(dark, 0.5 * image, atol=1e-6)
    np.testing.assert_allclose(flat, 0.5 * image + 0.5 * image.mean(), atol=1e-6)
    np.testing.assert_array_equal(D.random_greyscale(jax.random.key(0), image, 1.0), image)


def test_two_channels_are_refused():
    with pytest.raises(UserError, match="must have 1 or 3 channels to change its colours, got 2"):
        O.greyscale(jnp.zeros((4, 4, 2)))


def test_normalise_gives_each_channel_its_mean_and_std():
    image = images((6, 5, 3))
    mean, std = image.mean(axis=(0, 1)), image.std(axis=(0, 1))
    ours = D.normalise(image, mean, std)
    np.testing.assert_allclose(ours, (image - mean) / std, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.asarray(ours).std(axis=(0, 1)), 1, atol=1e-5)
    np.testing.assert_array_equal(D.normalise(image, (0.0,) * 3, (1.0,) * 3), image)


# Table


@cache
def batched(name):
    """The augmentation by its defaults, compiled, over (keys, images)."""
    return jit(jax.vmap(A.AUGMENTATIONS[name]()))


@pytest.mark.parametrize(("name", "shape"), TABLE)
def test_entries_keep_shape_dtype_and_range_and_change_something(name, shape):
    image = images((8, *shape))
    result = np.asarray(batched(name)(keys(8), image))
    assert result.shape == (8, *shape)
    assert result.dtype == np.float32
    assert np.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1
    assert (result == image).all() == (name == "none")


@pytest.mark.parametrize(("name", "shape"), list(zip(A.AUGMENTATIONS, itertools.cycle(SHAPES))))
def test_entries_depend_on_key_and_image_only(name, shape):
    image = images((8, *shape))
    whole = np.asarray(batched(name)(keys(8), image))
    np.testing.assert_array_equal(batched(name)(keys(8), image), whole)
    with jax.enable_x64(True):
        alone = jit(A.AUGMENTATIONS[name]())(keys(8)[3], image[3])
    assert alone.dtype == np.float32
    np.testing.assert_allclose(
        alone, whole[3], atol=5e-6
    )  # sums in another order may round differently


@pytest.mark.parametrize("name", [name for name in A.AUGMENTATIONS if name != "none"])
def test_entries_draw_anew_for_every_key(name):
    result = np.asarray(batched(name)(keys(8), np.stack([images(SHAPES[0])] * 8)))
    assert len(np.unique(result.reshape(8, -1), axis=0)) >= 4


@pytest.mark.parametrize("name", ["none", "shift", "digits"])  # simsiam below
def test_neutral_hyper_parameters_change_nothing(name):
    batch = images((8, 8, 8, 1))
    np.testing.assert_allclose(
        jit(jax.vmap(A.AUGMENTATIONS[name](**NEUTRAL[name])))(keys(8), batch), batch, atol=1e-6
    )


def test_crop_flip_flips_half_of_the_time():
    image = images((2, 3, 3))
    result = np.asarray(jit(jax.vmap(A.crop_flip(padding=0), in_axes=(0, None)))(keys(1000), image))
    mirrored = (result == image[:, ::-1]).all(axis=(1, 2, 3))
    assert (mirrored | (result == image).all(axis=(1, 2, 3))).all()
    assert about(mirrored.sum(), 0.5, 1000)


def test_simsiam_defaults_are_the_recipe_of_method_section_3():
    recipe = {
        "min_scale": 0.2,
        "max_scale": 1.0,
        "flip_probability": 0.5,
        "jitter_probability": 0.8,
        "grey_probability": 0.2,
    }
    recipe |= {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1}
    assert {
        name: p.default for name, p in inspect.signature(A.simsiam).parameters.items()
    } == recipe


JITTERS = {
    "jitter_probability": 1.0,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "hue": 0.0,
}
SIMSIAM_CHANGES = {
    "flip": ({"flip_probability": 1.0}, lambda old, new: (new == old[:, ::-1]).all()),
    "grey": ({"grey_probability": 1.0}, lambda old, new: np.ptp(new, axis=-1).max() == 0),
    "brightness": (JITTERS | {"brightness": 0.4}, lambda old, new: proportional(new, old)),
    "contrast": (
        JITTERS | {"contrast": 0.4},
        lambda old, new: proportional(new - luma(old).mean(), old - luma(old).mean()),
    ),
    "saturation": (
        JITTERS | {"saturation": 0.4},
        lambda old, new: proportional(new - luma(old)[..., None], old - luma(old)[..., None]),
    ),
    "hue": (
        JITTERS | {"hue": 0.1},
        lambda old, new: np.allclose(new.max(axis=-1), old.max(axis=-1), atol=1e-6),
    ),
}


def proportional(new, old):
    """Is new a multiple of old, by another factor than 0 and 1?"""
    factor = (new * old).sum() / (old * old).sum()
    return np.allclose(new, factor * old, atol=1e-4) and min(abs(factor), abs(factor - 1)) > 0.01


def test_each_simsiam_hyper_parameter_does_its_own_change():
    image = 0.3 + 0.3 * images((8, 8, 3))  # far from the clipping
    variants = {
        name: A.simsiam(**NEUTRAL["simsiam"] | hyper)
        for name, (hyper, _) in SIMSIAM_CHANGES.items()
    }
    variants["nothing"] = A.simsiam(**NEUTRAL["simsiam"])
    results = jit(lambda key: {name: augment(key, image) for name, augment in variants.items()})(
        jax.random.key(5)
    )
    np.testing.assert_allclose(results.pop("nothing"), image, atol=1e-6)
    for name, result in results.items():
        assert np.abs(result - image).max() > 0.003
        assert [
            other
            for other, (_, holds) in SIMSIAM_CHANGES.items()
            if holds(image, np.asarray(result))
        ] == [name]


BAD = [
    ("shift", "padding", -1, ">= 0"),
    ("crop_flip", "padding", 1.5, "an integer >= 0"),
    ("digits", "padding", -2, ">= 0"),
    ("digits", "min_scale", 0.0, r"in \(0, 1\]"),
    ("digits", "brightness", -0.1, ">= 0"),
    ("simsiam", "min_scale", 1.2, r"in \(0, 1\]"),
    ("simsiam", "min_scale", float("nan"), r"in \(0, 1\]"),
    ("simsiam", "flip_probability", 1.1, r"in \[0, 1\]"),
    ("simsiam", "jitter_probability", -0.1, r"in \[0, 1\]"),
    ("simsiam", "grey_probability", "often", r"in \[0, 1\]"),
    ("simsiam", "contrast", float("inf"), ">= 0 and finite"),
    ("simsiam", "saturation", -1, ">= 0"),
    ("simsiam", "hue", 0.6, r"in \[0, 0.5\]"),
]


@pytest.mark.parametrize(("name", "field", "value", "allowed"), BAD)
def test_bad_values_are_refused_by_name(name, field, value, allowed):
    with pytest.raises(UserError, match=rf"^{field} must be {allowed}, got {value!r}"):
        A.AUGMENTATIONS[name](**{field: value})


@pytest.mark.parametrize("name", A.AUGMENTATIONS)
def test_every_hyper_parameter_is_a_keyword_with_a_plain_default(name):
    for parameter in inspect.signature(A.AUGMENTATIONS[name]).parameters.values():
        assert parameter.kind is parameter.KEYWORD_ONLY
        assert isinstance(parameter.default, int | float)


def test_small_crops_are_of_one_size_alone():
    """EMP-SSL's: each shows a quarter of the image, whose sides differ by the ratio alone."""
    image = jnp.broadcast_to(jnp.arange(32.0)[:, None, None] / 32, (32, 32, 3))
    only = A.simsiam(min_scale=0.25, max_scale=0.25, flip_probability=0.0, jitter_probability=0.0,
                     grey_probability=0.0)  # fmt: skip
    found = np.asarray(jit(jax.vmap(only, in_axes=(0, None)))(keys(200), image))
    height = (found.max((1, 2, 3)) - found.min((1, 2, 3))) * 32
    low, high = (16 * ratio**0.5 for ratio in (3 / 4, 4 / 3))
    assert height.min() > low - 3  # pixels at the rim are cut, and sides are whole numbers
    assert height.max() < high + 1
    with pytest.raises(UserError, match=r"max_scale must be in \[0.5, 1\], got 0.2"):
        A.simsiam(min_scale=0.5, max_scale=0.2)
