"""Which class a class is mistaken for: the maps of asymmetric noise."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence

import numpy as np

from rmdnet_jax.errors import wrong

# truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog.
# Source: Patrini et al., CVPR 2017.
CIFAR10_MAP = (0, 1, 0, 5, 7, 3, 6, 7, 8, 1)

# The 20 superclasses of CIFAR-100's five classes each, by label number (alphabetical).
# Source: Krizhevsky 2009.
CIFAR100_SUPERCLASSES = (
    (4, 30, 55, 72, 95), (1, 32, 67, 73, 91), (54, 62, 70, 82, 92), (9, 10, 16, 28, 61),
    (0, 51, 53, 57, 83), (22, 39, 40, 86, 87), (5, 20, 25, 84, 94), (6, 7, 14, 18, 24),
    (3, 42, 43, 88, 97), (12, 17, 37, 68, 76), (23, 33, 49, 60, 71), (15, 19, 21, 31, 38),
    (34, 63, 64, 66, 75), (26, 45, 77, 79, 99), (2, 11, 35, 46, 98), (27, 29, 44, 78, 93),
    (36, 50, 65, 74, 80), (47, 52, 56, 59, 96), (8, 13, 48, 58, 90), (41, 69, 81, 85, 89),
)  # fmt: skip


def _next(count: int) -> list[int]:
    return [(y + 1) % count for y in range(count)]


def _superclass(y: int) -> tuple[int, ...]:
    """The four others of a class of CIFAR-100 in its superclass, in a circle from the next."""
    group = next(group for group in CIFAR100_SUPERCLASSES if y in group)
    place = group.index(y)
    return group[place + 1 :] + group[:place]


# What each class is mistaken for, by the number of classes.
MAPPINGS: dict[str, Callable[[int], Sequence]] = {
    "auto": _next,  # an experiment on CIFAR takes CIFAR's own map instead
    "cifar10": lambda count: CIFAR10_MAP,
    "cifar100": lambda count: [_superclass(y)[0] for y in range(100)],
    "superclass_uniform": lambda count: [sorted(_superclass(y)) for y in range(100)],
    "blocks_of_five": lambda count: [y // 5 * 5 + (y + 1) % 5 for y in range(count)],
    "next": _next,
    "pair": _next,
}


def table(mapping: str | Sequence[int], num_classes: int) -> np.ndarray:
    """What each class is mistaken for, int32 [C, choices], from a name or a sequence."""
    try:
        if not isinstance(mapping, str):
            found = [*map(operator.index, mapping)]
        elif mapping in MAPPINGS:
            found = MAPPINGS[mapping](num_classes)
        else:
            found = [*map(int, mapping.split())]
    except (TypeError, ValueError):
        text = f"be {', '.join(MAPPINGS)} or one class number a class, got {mapping!r}"
        raise wrong("mapping", text) from None
    classes = np.array(found)
    if len(classes) != num_classes or not ((classes >= 0) & (classes < num_classes)).all():
        text = f"give one class in [0, {num_classes}) for each of the {num_classes} classes"
        raise wrong("mapping", f"{text}, got {mapping!r}")
    return classes.astype(np.int32).reshape(num_classes, -1)
