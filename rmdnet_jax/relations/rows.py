"""What each relation loss begins with: checked rows, rows of unit norm, and their products.

A row is one example's feature vector. Checks read shapes, dtypes and Python numbers only, so they
hold under `jit`, `grad`, `vmap` and `shard_map`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jax.typing import ArrayLike

from rmdnet_jax.errors import within, wrong
from rmdnet_jax.types import Array

Rows = ArrayLike | Sequence[Sequence[float]]  # float [batch, dim]: arrays of JAX or NumPy, lists
TINY = 1e-12  # smallest squared norm: below it a row counts as zero, and its gradient stays finite
HUGE = 1e8  # the sum of fourth powers of larger entries would overflow


def checked(argument: str, rows: Rows) -> Array:
    """Rows as float32 or wider; raises `UserError` unless they are float [batch >= 2, dim >= 1]."""
    must = "be a float array [batch >= 2, dim >= 1]"
    try:
        array = jnp.asarray(rows)
    except (TypeError, ValueError):
        raise wrong(argument, f"{must}, got what is no array: {type(rows).__name__}") from None
    shaped = array.ndim == 2 and array.shape[0] >= 2 and array.shape[1] >= 1
    if not (shaped and jnp.issubdtype(array.dtype, jnp.floating)):
        raise wrong(argument, f"{must}, got {array.dtype} {list(array.shape)}")
    if array.dtype.itemsize < 4:
        array = array.astype(jnp.float32)  # half precision cannot hold a cosine over 0.04
    if jax.sharding.get_abstract_mesh().explicit_axes:
        # With types that name their sharding, a product of all rows with all rows has none.
        array = jax.sharding.reshard(array, PartitionSpec(None, None))
    return _bounded(array)


def positive(argument: str, value: float | Array) -> None:
    """Raises `UserError` unless this is a number > 0; of an array only the shape is checked."""
    if not isinstance(value, jax.Array | np.ndarray):
        within(argument, value, "(0, inf)")
    elif value.shape:
        raise wrong(argument, f"be one number, got shape {list(value.shape)}")


def pair(
    student: Rows, teacher: Rows, *, aligned: bool = False, **temperatures: float | Array
) -> tuple[Array, Array]:
    """Student and teacher rows, checked; no gradient reaches the teacher, whoever calls.

    `aligned`: both need the same dimension. `temperatures` are checked under their names.
    """
    s, t = checked("student", student), jax.lax.stop_gradient(checked("teacher", teacher))
    if len(s) != len(t):
        raise wrong("teacher", f"have the student's batch size {len(s)}, got {len(t)}")
    if aligned and s.shape != t.shape:
        raise wrong("teacher", f"have the student's dimension {s.shape[1]}, got {t.shape[1]}")
    for argument, value in temperatures.items():
        positive(argument, value)
    return s, t


def _bounded(features: Array) -> Array:
    """Rows divided by one number where an entry is beyond `HUGE`: no loss asks for the scale."""
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(features)))
    return features / jnp.maximum(size / HUGE, 1.0)


def unit(features: Array) -> Array:
    """Rows scaled to unit norm; a zero row stays zero, and its gradient is zero, too."""
    square = jnp.sum(features * features, axis=-1, keepdims=True)
    real = square > TINY
    return features * jnp.where(real, jax.lax.rsqrt(jnp.where(real, square, 1.0)), 0.0)


def centred(features: Array) -> Array:
    """Rows without their mean, of unit norm: products are correlations. A constant row has none."""
    return unit(features - jnp.mean(features, axis=-1, keepdims=True))


def product(one: Array, two: Array) -> Array:
    """All inner products of rows, in full precision.

    An error of bfloat16 size, TPU's default, would be seen after division by 0.04.
    """
    return jnp.matmul(one, two.T, precision=jax.lax.Precision.HIGHEST)


def root(square: Array) -> Array:
    """Square root whose gradient at 0 is 0; below `TINY` counts as 0."""
    real = square > TINY
    return jnp.where(real, jnp.sqrt(jnp.where(real, square, 1.0)), 0.0)
