"""Wrong labels on purpose: what a run would train with, for your own labels and your own loop.

Labels are a vector [n] of any kind: integers, text, bools, in a list, a NumPy or JAX array, a
PyTorch tensor or a pandas Series. What comes back is a NumPy array of the same kind. The label at
position i depends on the seed, on i and on the label there, on nothing else. Rates are fractions
in [0, 1]. `classes` lists all classes in their order; left out, they are the distinct labels,
sorted. For labels 0, 1, ..., C - 1 the result is what an experiment draws with that kind and seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rmdnet_jax.errors import wrong
from rmdnet_jax.labels.classes import array, numbered

__all__ = ["Description", "asymmetric", "describe", "instance", "matrix", "pair", "symmetric"]


def symmetric(
    labels: Any,
    *,
    rate: float = 0.5,
    inclusive: bool = False,
    classes: Any = None,
    seed: int = 0,
) -> np.ndarray:
    """Each label moves with probability `rate` to another class, all equally likely.

    `P(given = j | y) = 1 - r` for j = y, else `r / (C - 1)`. With `inclusive` a label is redrawn
    from all C classes, so that `r (C - 1) / C` of them are wrong.

    Args:
      labels: [n], of any kind.
      rate: r in [0, 1].
      inclusive: whether a label that moves may land on its own class.
      classes: all classes, at least two; None: those in `labels`.
      seed: an integer >= 0.

    Returns:
      Given labels [n], of the same kind as `labels`.

    Raises:
      UserError: a wrong argument, named in one line.

    Source: inclusive as in Li et al., ICLR 2020 (DivideMix).

    Example:
      >>> import rmdnet_jax as rmd
      >>> labels = ["cat", "dog", "owl"] * 500
      >>> given = rmd.noise.symmetric(labels, rate=0.4, seed=0)
      >>> round(rmd.noise.describe(labels, given).rate, 1)
      0.4
    """
    return _drawn("symmetric", labels, classes, seed, rate=rate, inclusive=inclusive)


def asymmetric(
    labels: Any,
    *,
    rate: float = 0.4,
    mapping: str | Sequence[int] | Mapping = "auto",
    classes: Any = None,
    seed: int = 0,
) -> np.ndarray:
    """Each label moves with probability `rate` to the class that it is easily mistaken for.

    `P(given = t(y) | y) = r` and `P(given = y | y) = 1 - r`, with t the mapping.

    Args:
      labels: [n], of any kind.
      rate: r in [0, 1].
      mapping: a mapping from label to label, where a class that is left out stays; or one class
        number for each class; or a name: `cifar10`, `cifar100`, `superclass_uniform`,
        `blocks_of_five`, `next`, `pair`. `auto` is `pair`: each class to the next.
      classes: all classes, at least two; None: those in `labels`.
      seed: an integer >= 0.

    Returns:
      Given labels [n], of the same kind as `labels`.

    Raises:
      UserError: a wrong argument, named in one line.

    Source: Patrini et al., CVPR 2017.

    Example:
      >>> import rmdnet_jax as rmd
      >>> labels = ["cat", "dog", "owl", "cat"]
      >>> rmd.noise.asymmetric(labels, rate=1.0, mapping={"cat": "dog", "dog": "cat"}).tolist()
      ['dog', 'cat', 'owl', 'dog']
    """
    if isinstance(mapping, Mapping):
        classes = numbered(labels, "labels", classes)[1]
        sources, _ = numbered([*mapping.keys()], "mapping", classes)
        goals, _ = numbered([*mapping.values()], "mapping", classes)
        table = np.arange(len(classes))
        table[sources] = goals
        mapping = table.tolist()
    return _drawn("asymmetric", labels, classes, seed, rate=rate, mapping=mapping)


def pair(labels: Any, *, rate: float = 0.4, classes: Any = None, seed: int = 0) -> np.ndarray:
    """Each label moves with probability `rate` to the next class, the last one to the first.

    `P(given = (y + 1) mod C | y) = r` and `P(given = y | y) = 1 - r`.

    Args:
      labels: [n], of any kind.
      rate: r in [0, 1].
      classes: all classes in their order, at least two; None: those in `labels`, sorted.
      seed: an integer >= 0.

    Returns:
      Given labels [n], of the same kind as `labels`.

    Raises:
      UserError: a wrong argument, named in one line.

    Source: Han et al., NeurIPS 2018 (Co-teaching).

    Example:
      >>> import rmdnet_jax as rmd
      >>> rmd.noise.pair([3, 5, 9, 9], rate=1.0)
      array([5, 9, 3, 3])
    """
    return _drawn("pair", labels, classes, seed, rate=rate)


def instance(
    labels: Any, images: Any, *, rate: float = 0.4, classes: Any = None, seed: int = 0
) -> np.ndarray:
    """Labels move by what is in the image: similar images are mislabelled alike.

    `p = q softmax(x W_y without class y)`, `p_y = 1 - q`, and the given label is drawn from p. q is
    normal around `rate` with deviation 0.1, or less near 0 and 1, within [0, 1]; W_y is normal, one
    matrix a class; x are the pixels.

    Args:
      labels: [n], of any kind.
      images: uint8 [n, height, width, channel], the image of each label.
      rate: the mean of q, in [0, 1].
      classes: all classes, at least two; None: those in `labels`.
      seed: an integer >= 0.

    Returns:
      Given labels [n], of the same kind as `labels`.

    Raises:
      UserError: a wrong argument, named in one line.

    Source: Xia et al., NeurIPS 2020, Algorithm 2, whose x is normalised per channel.

    Example:
      >>> import numpy as np, rmdnet_jax as rmd
      >>> images = np.random.default_rng(0).integers(0, 256, (600, 8, 8, 1)).astype(np.uint8)
      >>> labels = np.arange(600) % 3
      >>> given = rmd.noise.instance(labels, images, rate=0.3)
      >>> round(rmd.noise.describe(labels, given).rate, 1)
      0.3
    """
    pixels = array(images, "images")
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or 0 in pixels.shape[1:]:
        got = f"{pixels.dtype} of shape {pixels.shape}"
        raise wrong("images", f"be uint8 [n, height, width, channel], got {got}")
    return _drawn("instance", labels, classes, seed, pixels, rate=rate)


def matrix(labels: Any, rows: Any, *, classes: Any = None, seed: int = 0) -> np.ndarray:
    """Labels move with the probabilities of any transition matrix.

    `P(given = j | y = i) = T_ij`.

    Args:
      labels: [n], of any kind.
      rows: T [C, C], entries >= 0; each row sums to 1.
      classes: all classes in the order of the rows; None: those in `labels`, sorted.
      seed: an integer >= 0.

    Returns:
      Given labels [n], of the same kind as `labels`.

    Raises:
      UserError: a wrong argument, named in one line.

    Source: Patrini et al., CVPR 2017 (the noise transition matrix).

    Example:
      >>> import rmdnet_jax as rmd
      >>> rows = [[0, 1, 0], [0, 1, 0], [0, 0, 1]]  # every cat becomes a dog
      >>> rmd.noise.matrix(["cat", "dog", "owl"], rows).tolist()
      ['dog', 'dog', 'owl']
    """
    return _drawn("matrix", labels, classes, seed, rows=array(rows, "rows"))


def _drawn(
    kind: str, labels: Any, classes: Any, seed: int, images: Any = None, **fields: Any
) -> np.ndarray:
    """The labels that a kind of noise gives, in the terms of those given."""
    numbers, known = numbered(labels, "labels", classes)
    if len(known) < 2 and kind != "matrix":
        text = (
            f"hold two classes or more, got {known.tolist()[0]!r} alone; name all by classes=[...]"
        )
        raise wrong("labels" if classes is None else "classes", text)
    if images is not None and len(images) != len(numbers):
        raise wrong("images", f"be one for each of the {len(numbers)} labels, got {len(images)}")
    from rmdnet_jax.labels import noise

    made = noise.make(kind, num_classes=len(known), seed=seed, **fields)
    return known[np.asarray(made.labels(np.arange(len(numbers)), numbers, images))]


class Description(NamedTuple):
    """What `describe` says of labels."""

    rate: float  # the share of labels that are wrong
    transition: np.ndarray  # [C, C]: the share of each class (row) given each label (column)
    sha256: str  # of the given labels' class numbers as little-endian int32
    classes: np.ndarray  # [C], in the order of rows and columns


def describe(clean: Any, given: Any, *, classes: Any = None) -> Description:
    """How many labels are wrong, which classes are mistaken for which, and a hash of the labels.

    `rate = mean(given_i != clean_i)` and `T_ij = P(given = j | clean = i)`. The row of a class
    without examples is 0.

    Args:
      clean: the right labels [n], of any kind.
      given: the labels to describe [n], of the same kind.
      classes: all classes in their order; None: those in `clean` and `given`, sorted.

    Returns:
      `Description(rate, transition, sha256, classes)`. Labels are the same where hashes are.

    Raises:
      UserError: a wrong argument, named in one line.

    Example:
      >>> import rmdnet_jax as rmd
      >>> found = rmd.noise.describe(["cat", "cat", "dog", "dog"], ["cat", "dog", "dog", "dog"])
      >>> found.rate
      0.25
      >>> found.transition
      array([[0.5, 0.5],
             [0. , 1. ]])
    """
    if classes is None:
        ours, theirs = numbered(clean, "clean")[1], numbered(given, "given")[1]
        classes = numbered([*ours.tolist(), *theirs.tolist()], "clean and given")[1]
    right, known = numbered(clean, "clean", classes)
    labels, _ = numbered(given, "given", classes)
    if len(right) != len(labels):
        raise wrong(
            "given", f"hold one label for each of the {len(right)} clean ones, got {len(labels)}"
        )
    from rmdnet_jax.labels import noise

    rate = float(np.mean(right != labels))
    table = noise.transition(right, labels, len(known))
    return Description(rate, table, noise.digest(labels), known)
