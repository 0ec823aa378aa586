"""What a network says of many images: in batches, over all devices, by one compiled program."""

from __future__ import annotations

import functools
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from rmdnet_jax import sharding
from rmdnet_jax.data.augment import normalise
from rmdnet_jax.data.resident import to_float
from rmdnet_jax.types import Array, PyTree, Variables


class Evaluate(Protocol):
    """(variables, normalised images float32 [batch, h, w, c]) -> arrays [batch, ...]."""

    def __call__(self, variables: Any, image: Array, /) -> PyTree: ...


class Predict(Protocol):
    """(variables, images uint8 [n, h, w, c]) -> host arrays [n, ...], or of some rows only."""

    def __call__(
        self, variables: Variables, images: np.ndarray, /, rows: np.ndarray | None = None
    ) -> Any: ...


def predictor(
    apply: Evaluate, mesh: Mesh, batch_size: int, mean: np.ndarray, std: np.ndarray
) -> Predict:
    """`predict(variables, images)`: what `apply` gives for the normalised images, on the host.

    The last batch is padded with images whose outputs are dropped: each example counts once, and
    one compiled program serves every call.
    """
    size = -(-batch_size // mesh.size) * mesh.size

    @functools.partial(jax.jit, out_shardings=sharding.everywhere(mesh))
    def run(variables, images):
        return apply(variables, normalise(to_float(images), mean, std))

    def predict(variables, images, rows=None):
        parts, count = [], len(images) if rows is None else len(rows)
        for first in range(0, count, size):
            here = slice(first, first + size)
            part = images[here if rows is None else rows[here]]
            padded = np.concatenate(
                [part, np.zeros((size - len(part), *part.shape[1:]), part.dtype)]
            )
            parts.append(jax.device_get(run(variables, sharding.split(mesh, padded))))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)

    return predict
