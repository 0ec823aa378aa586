"""Label noise as a pure function of (noise seed, example index): the same in every epoch, order, batch size and device count.

`make(name, num_classes=, seed=, **hyper)` gives a `Noise`; `labels(index [n], clean [n]) -> given [n]`. Rates are fractions in [0, 1].
Add a kind by writing a factory `f(num_classes, seed, *, hyper-parameters) -> Noise` and naming it in `KINDS`.
"""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmdnet_jax.errors import UserError, first_line, unknown
from rmdnet_jax.types import Array, entry

# truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog. Source: Patrini et al., CVPR 2017.
CIFAR10_MAP = (0, 1, 0, 5, 7, 3, 6, 7, 8, 1)

# The 20 superclasses of CIFAR-100's five classes each, by label number (alphabetical). Source: Krizhevsky 2009.
CIFAR100_SUPERCLASSES = (
    (4, 30, 55, 72, 95), (1, 32, 67, 73, 91), (54, 62, 70, 82, 92), (9, 10, 16, 28, 61), (0, 51, 53, 57, 83),
    (22, 39, 40, 86, 87), (5, 20, 25, 84, 94), (6, 7, 14, 18, 24), (3, 42, 43, 88, 97), (12, 17, 37, 68, 76),
    (23, 33, 49, 60, 71), (15, 19, 21, 31, 38), (34, 63, 64, 66, 75), (26, 45, 77, 79, 99), (2, 11, 35, 46, 98),
    (27, 29, 44, 78, 93), (36, 50, 65, 74, 80), (47, 52, 56, 59, 96), (8, 13, 48, 58, 90), (41, 69, 81, 85, 89),
)  # fmt: skip


class Noise(NamedTuple):
    """A noise kind with its parameters fixed."""

    labels: Callable  # (index [n], clean [n], image=None) -> given int32 [n]
    size: int | None = None  # number of examples it has labels for; None: any
    known: bool = (
        True  # False where the stored labels may be wrong already, so that no rate can be stated
    )
    images: bool = False  # whether `labels` reads images, uint8 [n, height, width, channel], on the host: drawn once, then `frozen`


def draw(seed: int, index: Array, stream: int) -> Array:
    """Uniform float32 [n] in [0, 1), one for each example; `stream` tells the draws of one example apart."""
    key = jax.random.fold_in(jax.random.key(seed), stream)
    return jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i), dtype=jnp.float32))(
        index
    )


def _check_rate(rate: float) -> None:
    if not 0.0 <= rate <= 1.0:
        raise UserError(f"noise.rate must be in [0, 1], got {rate}")


def none(num_classes: int, seed: int) -> Noise:
    """The labels as they are: real data, whose noise rate is unknown."""
    return Noise(lambda index, clean, image=None: jnp.asarray(clean, jnp.int32), known=False)


def symmetric(num_classes: int, seed: int, *, rate: float = 0.5, inclusive: bool = False) -> Noise:
    """Each label moves with probability `rate` to another class, or with `inclusive` is redrawn from all classes.

    The effective rate is `rate`, or `rate (C - 1) / C` with `inclusive` (DivideMix and most papers that build on it).
    """
    _check_rate(rate)

    def labels(index, clean, image=None):
        index, clean = jnp.asarray(index), jnp.asarray(clean, jnp.int32)
        flip = draw(seed, index, 0) < rate
        choices = num_classes if inclusive else num_classes - 1
        pick = jnp.minimum((draw(seed, index, 1) * choices).astype(jnp.int32), choices - 1)
        other = pick if inclusive else (clean + 1 + pick) % num_classes
        return jnp.where(flip, other, clean)

    return Noise(labels)


def _mapped(target: Sequence[int], seed: int, rate: float) -> Noise:
    """Each label y moves with probability `rate` to `target[y]`."""
    _check_rate(rate)
    table = np.asarray(target, np.int32)

    def labels(index, clean, image=None):
        clean = jnp.asarray(clean, jnp.int32)
        return jnp.where(draw(seed, jnp.asarray(index), 0) < rate, jnp.asarray(table)[clean], clean)

    return Noise(labels)


def pair(num_classes: int, seed: int, *, rate: float = 0.4) -> Noise:
    """`y -> (y + 1) mod C` with probability `rate`."""
    return _mapped([(y + 1) % num_classes for y in range(num_classes)], seed, rate)


NAMED = "auto, cifar10, cifar100, superclass_uniform, blocks_of_five, next, pair"


def _class_map(mapping: str | Sequence[int], num_classes: int) -> list[int]:
    """The target class of each class, from a name or a sequence."""
    if mapping == "cifar10":
        target = [*map(int, CIFAR10_MAP)]
    elif mapping == "cifar100":
        following = {
            group[k]: group[(k + 1) % 5] for group in CIFAR100_SUPERCLASSES for k in range(5)
        }
        target = [following[y] for y in range(100)]
    elif mapping == "blocks_of_five":
        target = [y // 5 * 5 + (y + 1) % 5 for y in range(num_classes)]
    elif mapping in ("pair", "next"):
        target = [(y + 1) % num_classes for y in range(num_classes)]
    else:
        try:
            target = [int(y) for y in (mapping.split() if isinstance(mapping, str) else mapping)]
        except ValueError:
            raise UserError(
                f"noise.mapping must be {NAMED} or one class number a class, got {mapping!r}"
            ) from None
    if len(target) != num_classes or not all(0 <= y < num_classes for y in target):
        raise UserError(
            f"noise.mapping must give one class in [0, {num_classes}) for each of the {num_classes} classes, got {mapping!r}"
        )
    return target


def _within_superclass(num_classes: int, seed: int, rate: float) -> Noise:
    """CIFAR-100: with probability `rate` to one of the four other classes of the true superclass."""
    if num_classes != 100:
        raise UserError(
            f"noise.mapping superclass_uniform is for the 100 classes of CIFAR-100, got {num_classes} classes"
        )
    _check_rate(rate)
    others = {
        y: [other for other in group if other != y]
        for group in CIFAR100_SUPERCLASSES
        for y in group
    }
    table = np.asarray([others[y] for y in range(100)], np.int32)

    def labels(index, clean, image=None):
        index, clean = jnp.asarray(index), jnp.asarray(clean, jnp.int32)
        pick = jnp.minimum((draw(seed, index, 1) * 4).astype(jnp.int32), 3)
        return jnp.where(draw(seed, index, 0) < rate, jnp.asarray(table)[clean, pick], clean)

    return Noise(labels)


def asymmetric(num_classes: int, seed: int, *, rate: float = 0.4, mapping: str = "auto") -> Noise:
    """Each label y moves with probability `rate` to the class that `mapping` gives it, a class that it is easily mistaken for.

    Args:
      num_classes: C.
      seed: the noise seed.
      rate: probability for a class that has another target; CIFAR-10's map moves five of ten classes, so about `rate / 2` of all labels.
      mapping: `cifar10` (Patrini et al. 2017), `cifar100` (the circularly next class inside the true superclass), `superclass_uniform` (any
        other class inside it), `blocks_of_five` (the next of classes 0 to 4, 5 to 9, ...: Patrini's, JoCoR's, UNICON's and ELR's code),
        `next` or `pair` (y + 1 mod C), or a map of one's own, one target for each class: "1 0 2". `auto`: an experiment on `cifar10`
        or `cifar100` takes the map of that name; else `pair`.
    """
    if mapping == "superclass_uniform":
        return _within_superclass(num_classes, seed, rate)
    return _mapped(_class_map("pair" if mapping == "auto" else mapping, num_classes), seed, rate)


def instance(num_classes: int, seed: int, *, rate: float = 0.4) -> Noise:
    """Labels move by what is in the image: `p = q softmax(x W_y without class y)`, `p_y = 1 - q`, the given label drawn from p.

    q is normal around `rate` with deviation 0.1, within [0, 1], for each example; W_y ~ N(0, 1) of shape [pixels, C] for each class;
    x are the pixels in [0, 1]. W is rounded to a grid, so that the products with uint8 pixels are exact and no label depends on
    the order of an addition. Source: Xia et al., NeurIPS 2020, Algorithm 2, whose x is normalised per channel.
    """
    _check_rate(rate)

    def labels(index, clean, image=None):
        if image is None:
            raise UserError("noise instance needs the images: labels(index, clean, image)")
        clean, pixels = np.asarray(clean), np.asarray(image).reshape(len(image), -1)
        low, high = (0.0 - rate) / 0.1, (1.0 - rate) / 0.1
        keys = jax.vmap(
            lambda i: jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 0), i)
        )(jnp.asarray(index))
        flip = rate + 0.1 * np.asarray(
            jax.vmap(lambda k: jax.random.truncated_normal(k, low, high, dtype=jnp.float32))(keys),
            np.float64,
        )
        given, number = (
            np.array(clean, np.int32),
            np.asarray(draw(seed, jnp.asarray(index), 1), np.float64),
        )
        for y in np.unique(clean):
            rows = np.flatnonzero(clean == y)
            key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2), int(y))
            grid = np.round(
                np.asarray(
                    jax.random.normal(key, (pixels.shape[1], num_classes), jnp.float32), np.float64
                )
                * 2**16
            )
            logits = pixels[rows].astype(np.float64) @ grid / (255 * 2**16)
            logits[:, y] = -np.inf
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p *= flip[rows, None] / p.sum(axis=1, keepdims=True)
            p[:, y] = 1.0 - flip[rows]
            bounds = np.cumsum(p, axis=1)
            given[rows] = np.sum(number[rows, None] * bounds[:, -1:] >= bounds, axis=1)
        return given

    return Noise(labels, images=True)


def matrix(num_classes: int, seed: int, *, rows: tuple = (), path: str = "") -> Noise:
    """`P(given = j | clean = i) = T_ij` for any row-stochastic T [C, C], from `rows` or a file (`.npy`, `.csv`) at `path`."""
    content = _read(path, "") if path else rows
    try:
        table = np.asarray(content, np.float64)
    except ValueError:
        raise UserError(
            f"noise.rows must be a {num_classes} x {num_classes} matrix of numbers"
        ) from None
    if table.shape != (num_classes, num_classes):
        raise UserError(
            f"noise.rows must be a {num_classes} x {num_classes} matrix, got shape {table.shape}"
        )
    if not ((table >= 0).all() and np.abs(table.sum(1) - 1).max() <= 1e-6):
        worst = int(np.abs(table.sum(1) - 1).argmax())
        raise UserError(
            f"noise.rows must be >= 0 and each row must sum to 1, got row {worst} with sum {table[worst].sum():g}"
        )
    cumulative = np.cumsum(table, axis=1)
    cumulative = (cumulative / cumulative[:, -1:]).astype(
        np.float32
    )  # the last positive class ends at exactly 1

    def labels(index, clean, image=None):
        bounds = jnp.asarray(cumulative)[jnp.asarray(clean)]
        return jnp.sum(
            draw(seed, jnp.asarray(index), 0)[:, None] >= bounds, axis=1, dtype=jnp.int32
        )

    return Noise(labels)


def _read(path: str, field: str) -> np.ndarray:
    """The array in a `.npy`, `.npz` (by field) or `.csv` file, never unpickling."""
    place = pathlib.Path(path).expanduser()
    try:
        if path.endswith(".csv"):
            return np.loadtxt(place, delimiter=",", comments="#", ndmin=1)
        if not path.endswith((".npy", ".npz")):
            raise UserError(f"noise.path must end in .npy, .npz or .csv, got {path!r}")
        data = np.load(place, allow_pickle=False)
        if isinstance(data, np.ndarray):
            return data
        with data:
            if field not in data.files:
                raise unknown("noise.field", field, data.files)
            return data[field]
    except UserError:
        raise
    except Exception as error:  # a damaged file raises anything
        raise UserError(f"noise.path {path!r} cannot be read: {first_line(error)}") from None


def file(num_classes: int, seed: int, *, path: str = "", field: str = "labels") -> Noise:
    """Labels from a file, one for each example of the training set in its original order (human labels, or a frozen draw).

    Args:
      num_classes: C; every label in the file must lie in [0, C).
      seed: unused, labels are given.
      path: `.npy`, `.npz` or `.csv` (one label a line); an experiment on a TFDS data set may leave it empty.
      field: the array's name inside an `.npz`, or without a path the data set's own feature, such as `worse_label` of `cifar10_n`.
    """
    table = read(path, field)
    if table.max() >= num_classes:
        raise UserError(
            f"noise.path {path!r} must hold labels in [0, {num_classes}), got [{table.min()}, {table.max()}]"
        )
    return frozen(table)


def read(path: str, field: str) -> np.ndarray:
    """The labels in a file, int32 [n], see `file`; raises `UserError` unless they are whole numbers from 0."""
    if not path:
        raise UserError("noise.path must name a .npy, .npz or .csv file of labels, got ''")
    table = _read(path, field)
    if (
        table.ndim != 1
        or not np.issubdtype(table.dtype, np.number)
        or not np.array_equal(table, np.trunc(table))
    ):
        raise UserError(
            f"noise.path {path!r} must hold one whole number an example, got shape {table.shape} of {table.dtype}"
        )
    if table.size == 0 or not 0 <= table.min() <= table.max() < 2**31:
        raise UserError(
            f"noise.path {path!r} must hold labels from 0, got {table.size}, between {table.min(initial=0)} and {table.max(initial=0)}"
        )
    return table.astype(np.int32)


def frozen(given: np.ndarray, known: bool = True) -> Noise:
    """These labels, one for each example of the training set."""
    table = np.asarray(given, np.int32)
    return Noise(
        lambda index, clean, image=None: jnp.asarray(table)[jnp.asarray(index)],
        size=len(table),
        known=known,
    )


KINDS = {
    "none": none, "symmetric": symmetric, "asymmetric": asymmetric, "pair": pair, "instance": instance, "matrix": matrix, "file": file,
}  # fmt: skip


def make(name: str, *, num_classes: int, seed: int, **hyper) -> Noise:
    """The noise kind `name` with its parameters fixed; raises `UserError` on an unknown kind, field or value."""
    return entry(KINDS, "noise", name, hyper)(num_classes, seed, **hyper)


def digest(labels: np.ndarray) -> str:
    """The sha256 of labels as little-endian int32."""
    return hashlib.sha256(np.ascontiguousarray(labels, "<i4").tobytes()).hexdigest()


def describe(clean: np.ndarray, given: np.ndarray, num_classes: int, known: bool = True) -> dict:
    """What a run records of its labels: realised `rate` (None if unknown), `transition` matrix [C, C] and `sha256` of the int32 labels.

    `transition[i][j]` is the share of class i's examples given label j; the row of an empty class is 0.
    """
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (clean, given), 1)
    transition = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return {
        "rate": float(np.mean(clean != given)) if known else None,
        "transition": np.round(transition, 6).tolist(),
        "sha256": digest(given),
    }
