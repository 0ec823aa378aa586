"""Label noise as a pure function of (noise seed, example index).

An example's label is the same in every epoch, order, batch size and device count. `make(name,
num_classes=, seed=, **fields)` gives a `Noise`; `labels(index [n], clean [n]) -> given [n]`. Rates
are fractions in [0, 1]. Add a kind by writing a factory `f(num_classes, seed, *, fields) -> Noise`
and naming it in `KINDS`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Concatenate, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from rmdnet_jax.errors import one_of, unknown, within, wrong
from rmdnet_jax.labels import given as given_labels
from rmdnet_jax.labels import mappings
from rmdnet_jax.labels.files import read, read_array
from rmdnet_jax.types import Array, hyper


class Labels(Protocol):
    """Gives each example the label that it is trained with."""

    def __call__(self, index: Any, clean: Any, image: Any = None) -> Any:
        """Given labels int32 [n] of examples `index` [n] whose labels are `clean` [n].

        `image` is uint8 [n, height, width, channel], read by kinds with `Noise.images` alone.
        """
        ...


class Noise(NamedTuple):
    """A noise kind with its parameters fixed."""

    labels: Labels  # (index, clean, image) -> the labels that are given
    size: int | None = None  # number of examples it has labels for; None: any
    known: bool = True  # False: stored labels may be wrong already, so no rate can be stated
    images: bool = False  # whether `labels` reads images, on the host: drawn once, then `frozen`


NoiseKind = Callable[Concatenate[int, int, ...], Noise]  # (num_classes, seed, *, fields)


def draw(seed: int, index: ArrayLike, stream: int) -> Array:
    """Uniform float32 [n] in [0, 1), one an example; `stream` tells an example's draws apart."""
    key = jax.random.fold_in(jax.random.key(seed), stream)
    return jax.vmap(lambda i: jax.random.uniform(jax.random.fold_in(key, i), dtype=jnp.float32))(
        jnp.asarray(index)
    )


def _check(num_classes: int, rate: float) -> None:
    """What every kind that moves labels to other classes asks."""
    within("num_classes", num_classes, "[2, inf)", whole=True)
    within("rate", rate, "[0, 1]")


def none(num_classes: int, seed: int) -> Noise:
    """The labels as they are: real data, whose noise rate is unknown."""
    return Noise(lambda index, clean, image=None: jnp.asarray(clean, jnp.int32), known=False)


def symmetric(num_classes: int, seed: int, *, rate: float = 0.5, inclusive: bool = False) -> Noise:
    """Each label moves with probability `rate` to another class, all equally likely.

    With `inclusive` it is redrawn from all classes, so that the effective rate is
    `rate (C - 1) / C` (DivideMix and most papers that build on it).
    """
    _check(num_classes, rate)

    def labels(index, clean, image=None):
        clean = jnp.asarray(clean, jnp.int32)
        flip = draw(seed, index, 0) < rate
        choices = num_classes if inclusive else num_classes - 1
        pick = jnp.minimum((draw(seed, index, 1) * choices).astype(jnp.int32), choices - 1)
        other = pick if inclusive else (clean + 1 + pick) % num_classes
        return jnp.where(flip, other, clean)

    return Noise(labels)


def _mapped(table: np.ndarray, seed: int, rate: float) -> Noise:
    """Each label y moves with probability `rate` to one of `table[y]` [C, choices]."""
    choices = table.shape[1]

    def labels(index, clean, image=None):
        clean = jnp.asarray(clean, jnp.int32)
        pick = jnp.minimum((draw(seed, index, 1) * choices).astype(jnp.int32), choices - 1)
        return jnp.where(draw(seed, index, 0) < rate, jnp.asarray(table)[clean, pick], clean)

    return Noise(labels)


def pair(num_classes: int, seed: int, *, rate: float = 0.4) -> Noise:
    """`y -> (y + 1) mod C` with probability `rate`."""
    return asymmetric(num_classes, seed, rate=rate, mapping="pair")


def asymmetric(
    num_classes: int, seed: int, *, rate: float = 0.4, mapping: str | Sequence[int] = "auto"
) -> Noise:
    """Each label y moves with probability `rate` to the class that it is easily mistaken for.

    Args:
      num_classes: C.
      seed: the noise seed.
      rate: probability for a class that has another target. CIFAR-10's map moves five of ten
        classes, so about `rate / 2` of all labels.
      mapping: `cifar10` (Patrini et al. 2017), `cifar100` (the circularly next class inside the
        true superclass), `superclass_uniform` (any other class inside it), `blocks_of_five` (the
        next of classes 0 to 4, 5 to 9, ...: Patrini's, JoCoR's, UNICON's and ELR's code), `next` or
        `pair` (y + 1 mod C), or one class for each class: "1 0 2". `auto` is `pair`.
    """
    _check(num_classes, rate)
    return _mapped(mappings.table(mapping, num_classes), seed, rate)


def instance(num_classes: int, seed: int, *, rate: float = 0.4) -> Noise:
    """Labels move by what is in the image: `p = q softmax(x W_y without class y)`, `p_y = 1 - q`.

    The given label is drawn from p. q is normal around `rate` with deviation 0.1, or less near 0
    and 1, within [0, 1]; `W_y ~ N(0, 1)` of shape [pixels, C] for each class; x are the pixels in
    [0, 1]. W is rounded to a grid: products with uint8 pixels are exact, so that no label depends
    on an addition's order. Source: Xia et al., NeurIPS 2020, Algorithm 2, x normalised there.
    """
    _check(num_classes, rate)

    def labels(index, clean, image=None):
        if image is None:
            raise wrong("image", "be given: noise of kind instance reads images")
        clean, pixels = np.asarray(clean), np.asarray(image).reshape(len(image), -1)
        flip = _flip_rates(seed, index, rate)
        number = np.asarray(draw(seed, index, 1), np.float64)
        given = np.array(clean, np.int32)
        for y in np.unique(clean):
            rows = np.flatnonzero(clean == y)
            logits = pixels[rows].astype(np.float64) @ _grid(seed, y, pixels.shape[1], num_classes)
            logits /= 255 * 2**16
            logits[:, y] = -np.inf
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            p *= flip[rows, None] / p.sum(axis=1, keepdims=True)
            p[:, y] = 1.0 - flip[rows]
            bounds = np.cumsum(p, axis=1)
            given[rows] = np.sum(number[rows, None] * bounds[:, -1:] >= bounds, axis=1)
        return given

    return Noise(labels, images=True)


def _flip_rates(seed: int, index: ArrayLike, rate: float) -> np.ndarray:
    """q float64 [n]: normal around `rate` with deviation 0.1 or less, within [0, 1]."""
    deviation = min(0.1, rate, 1.0 - rate)
    low, high = ((bound - rate) / (deviation or 1.0) for bound in (0.0, 1.0))
    key = jax.random.fold_in(jax.random.key(seed), 0)
    normal = jax.vmap(
        lambda i: jax.random.truncated_normal(
            jax.random.fold_in(key, i), low, high, dtype=jnp.float32
        )
    )
    return rate + deviation * np.asarray(normal(jnp.asarray(index)), np.float64)


def _grid(seed: int, y: int, pixels: int, num_classes: int) -> np.ndarray:
    """`2^16 W_y` [pixels, C], rounded to integers."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2), int(y))
    weights = jax.random.normal(key, (pixels, num_classes), jnp.float32)
    return np.round(np.asarray(weights, np.float64) * 2**16)


def matrix(num_classes: int, seed: int, *, rows: Sequence = (), path: str = "") -> Noise:
    """`P(given = j | clean = i) = T_ij` for any row-stochastic T [C, C].

    T comes from `rows` or from a file (`.npy`, `.csv`) at `path`.
    """
    size = f"{num_classes} x {num_classes}"
    content = read_array(path) if path else rows
    try:
        table = np.asarray(content, np.float64)
    except (TypeError, ValueError):
        raise wrong("rows", f"be a {size} matrix of numbers") from None
    if table.shape != (num_classes, num_classes):
        raise wrong("rows", f"be a {size} matrix, got shape {table.shape}")
    sums = table.sum(axis=1)
    if not ((table >= 0).all() and np.abs(sums - 1).max() <= 1e-6):
        worst = int(np.argmax((table < 0).any(axis=1) | ~(np.abs(sums - 1) <= 1e-6)))
        row = f"row {worst} with sum {sums[worst]:g} and least entry {table[worst].min():g}"
        raise wrong("rows", f"be >= 0 and each row must sum to 1, got {row}")
    cumulative = np.cumsum(table, axis=1)
    # The last positive class ends at exactly 1.
    cumulative = (cumulative / cumulative[:, -1:]).astype(np.float32)

    def labels(index, clean, image=None):
        bounds = jnp.asarray(cumulative)[jnp.asarray(clean)]
        return jnp.sum(draw(seed, index, 0)[:, None] >= bounds, axis=1, dtype=jnp.int32)

    return Noise(labels)


def file(num_classes: int, seed: int, *, path: str = "", field: str = "labels") -> Noise:
    """Labels from a file, one for each example of the training set in its original order.

    They are human labels, or a draw that was frozen.

    Args:
      num_classes: C; every label in the file must lie in [0, C).
      seed: unused, labels are given.
      path: `.npy`, `.npz` or `.csv` (one label a line); an experiment on a TFDS data set may leave
        it empty.
      field: the array's name inside an `.npz`; without a path the data set's own feature, such as
        `worse_label` of `cifar10_n`.
    """
    table = read(path, field)
    if table.max() >= num_classes:
        text = f"hold labels in [0, {num_classes}), got [{table.min()}, {table.max()}]"
        raise wrong(f"path {path!r}", text)
    return frozen(table)


def frozen(given: ArrayLike, known: bool = True) -> Noise:
    """These labels, one for each example of the training set."""
    table = np.asarray(given, np.int32)

    def labels(index, clean, image=None):
        return jnp.asarray(table)[jnp.asarray(index)]

    return Noise(labels, size=len(table), known=known)


KINDS: dict[str, NoiseKind] = {
    "none": none, "symmetric": symmetric, "asymmetric": asymmetric, "pair": pair,
    "instance": instance, "matrix": matrix, "file": file,
}  # fmt: skip
"""Kinds of noise by name, `(num_classes, seed, *, fields) -> Noise`."""


def make(name: str, *, num_classes: int, seed: int, **fields: Any) -> Noise:
    """The noise kind `name` with its parameters fixed.

    Args:
      name: of `KINDS`.
      num_classes: C; labels lie in [0, C).
      seed: an integer in [0, 2^31).
      **fields: keyword arguments of the kind; what is left out has the kind's default.

    Raises:
      UserError: an unknown kind or field, a value out of range.

    Example:
      >>> import numpy as np
      >>> from rmdnet_jax.labels import noise
      >>> kind = noise.make("pair", num_classes=3, seed=0, rate=1.0)
      >>> kind.labels(np.arange(4), np.array([0, 1, 2, 2])).tolist()
      [1, 2, 0, 0]
    """
    one_of("name", name, KINDS)
    within("num_classes", num_classes, "[1, inf)", whole=True)
    within("seed", seed, "[0, 2147483648)", whole=True)
    allowed = hyper(KINDS[name])
    for field in fields.keys() - allowed.keys():
        raise unknown(f"{name}'s field", field, allowed or ["(it has none)"])
    return KINDS[name](num_classes, seed, **fields)


def digest(labels: ArrayLike) -> str:
    """The sha256 of labels as little-endian int32."""
    return hashlib.sha256(np.ascontiguousarray(labels, "<i4").tobytes()).hexdigest()


def transition(clean: np.ndarray, given: np.ndarray, num_classes: int) -> np.ndarray:
    """`T_ij`, the share of class i's examples given label j, [C, C]; 0 where a class has none."""
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (clean, given), 1)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def describe(
    clean: np.ndarray, given: np.ndarray, num_classes: int, known: bool = True
) -> dict[str, Any]:
    """What a run records of its labels: `rate` and `transition`, None if unknown, and `sha256`.

    Of many classes, the transition matrix is its largest shares, see `given.largest`.
    """
    shares = given_labels.largest(clean, given, num_classes)
    if num_classes <= given_labels.WHOLE:
        shares = np.round(transition(clean, given, num_classes), 6).tolist()
    return {
        "rate": float(np.mean(clean != given)) if known else None,
        "transition": shares if known else None,
        "sha256": digest(given),
    }
