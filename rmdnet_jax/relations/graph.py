"""The relation graph of a training set, as fixed-shape arrays, and what spreads over it.

`w_ij = exp((cos_ij - 1) / temperature)` for the k nearest neighbours by cosine similarity,
`W = A + A'`, `S = D^-1/2 W D^-1/2`. Over the mesh that is set each device multiplies by its own
rows of A.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from rmdnet_jax.sharding import devices, whole
from rmdnet_jax.types import AXIS, Array


class Graph(NamedTuple):
    """`S = A + A'`, `A_ij = weight` at (i, neighbour): symmetric, its eigenvalues in [-1, 1]."""

    neighbour: Array  # int32 [n, k]
    weight: Array  # float32 [n, k]


@jax.jit
def connect(neighbour: Array, cosine: Array, temperature: float | Array) -> Graph:
    """The normalised graph of these neighbours [n, k].

    A node without weight stays alone: its row of S is 0.
    """
    weight = jnp.exp((cosine - 1) / temperature)
    # Each device adds up its own rows. All n k weights at once are slow on a TPU.
    degree = product(Graph(neighbour, weight), jnp.ones((len(weight), 1)))[:, 0]
    scale = jnp.where(
        degree > 0, jax.lax.rsqrt(jnp.maximum(degree, jnp.finfo(jnp.float32).tiny)), 0.0
    )
    return whole(Graph(neighbour, weight * scale[:, None] * scale[neighbour]))


def product(graph: Graph, x: Array) -> Array:
    """`S x`, [n, m]."""

    def own(neighbour, weight, rows, every):
        """This device's rows of A, and their part of A'."""

        def add(sums, edge):  # one neighbour at a time: [n, m] instead of [n, k, m]
            to, by = edge[0], edge[1][:, None]
            return (sums[0] + by * every[to], sums[1].at[to].add(by * rows)), None

        return jax.lax.scan(
            add, (jnp.zeros_like(rows), jnp.zeros_like(every)), (neighbour.T, weight.T)
        )[0]

    count, size = devices(), len(x)
    if count == 1:
        given, part = own(*graph, x, x)
        return given + part

    def shared(neighbour, weight, rows, every):
        given, part = own(neighbour, weight, rows, every)
        return jax.lax.all_gather(given, AXIS, tiled=True) + jnp.pad(
            jax.lax.psum(part, AXIS), ((0, -size % count), (0, 0))
        )

    neighbour, weight, rows = (
        jnp.pad(a, ((0, -size % count), (0, 0))) for a in (*graph, x)
    )  # padding has weight 0
    split, whole = PartitionSpec(AXIS), PartitionSpec()
    return jax.shard_map(
        shared, in_specs=(split, split, split, whole), out_specs=whole, check_vma=False
    )(neighbour, weight, rows, x)[:size]


@jax.jit
def spread(graph: Graph, alpha: float | Array, right: Array) -> Array:
    """`(I - alpha S)^-1 right`, [n, m], by conjugate gradients to a relative residual of 1e-5."""
    return whole(
        jax.scipy.sparse.linalg.cg(
            lambda x: x - alpha * product(graph, x), right, tol=1e-5, maxiter=1000
        )[0]
    )
