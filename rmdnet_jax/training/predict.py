"""What a network says of many images: in batches, over all devices, by one compiled program."""

from __future__ import annotations

import functools
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rmdnet_jax import sharding
from rmdnet_jax.data.augment import normalise
from rmdnet_jax.data.resident import to_float
from rmdnet_jax.errors import UserError
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
    one compiled program serves every call. Outputs that are not finite are a `UserError`.
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
        found = jax.tree.map(lambda *leaves: np.concatenate(leaves)[:count], *parts)
        _refuse(found)
        return found

    return predict


def _refuse(found: PyTree) -> None:
    """Raises `UserError` for outputs that are not finite: nothing can be measured by them."""
    for leaf in jax.tree.leaves(found):
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not (good := np.isfinite(leaf)).all():
            bad = int((~good.reshape(len(leaf), -1).all(1)).sum())
            raise UserError(
                f"the network's outputs are not finite for {bad} of {len(leaf)} images: its "
                "weights are too large, or, with a bfloat16 network of your own on a CPU, the "
                "compiler is wrong: compute in float32 there"
            )
