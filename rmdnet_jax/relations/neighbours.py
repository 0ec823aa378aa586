"""The nearest neighbours of each example by cosine: exact, a block of rows at a time on the devices, or by an index on a CPU.

Exact neighbours cost `2 n^2 dim` operations: seconds on an accelerator, half an hour and more on two cores for a million rows. The index is
faiss's HNSW, chosen by measurement (docs/propagation.md); one thread builds it, so that its answer is the same on any number of cores.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmdnet_jax.errors import UserError
from rmdnet_jax.relations.blockwise import blocks, logits, padded
from rmdnet_jax.relations.losses import unit
from rmdnet_jax.sharding import gathered, over_devices, whole
from rmdnet_jax.types import Array

BLOCK = 512  # rows whose similarities to all others are in memory at a time, on each device
MANY = 200_000  # rows from which `auto` takes the index on a CPU
LINKS, BREADTH = 16, 64  # of the index: links of a node, candidates kept in a search
PARTS = 20  # of a search, between which progress is shown
SAMPLE = 500  # rows that recall is measured on
SEARCHES = ("auto", "exact", "approximate")


class Neighbours(NamedTuple):
    """The k nearest other rows of each row, nearest first."""

    index: Array  # int32 [n, k]
    cosine: Array  # float32 [n, k]
    recall: float  # share of the true neighbours that are among them: 1 if exact, else as measured on some rows


def find(
    features: np.ndarray, k: int, search: str = "auto", watch: Callable = lambda items, what: items
) -> Neighbours:
    """The neighbours of each of features [n, dim], `exact`, `approximate` by an index, or as `auto` finds right for n and the device.

    `watch(items, what)` wraps the parts of long work, to show progress.
    """
    if chosen(search, len(features)) == "approximate":
        return approximate(features, k, watch)
    return Neighbours(*exact(jnp.asarray(features), k), 1.0)


def chosen(search: str, size: int) -> str:
    """What `search` means for so many rows; raises `UserError` where it needs a package that is not there."""
    large = size > MANY and jax.default_backend() == "cpu"
    if search == "exact" or (search == "auto" and not large):
        return "exact"
    try:
        import faiss  # noqa: F401
    except ImportError:
        raise UserError(
            f"relation_guided.propagation.search={search} with {size} examples needs a package: pip install faiss-cpu; or set it to exact, "
            "which takes half an hour and more for a million examples on a CPU"
        ) from None
    return "approximate"


def exact(features: Array, k: int) -> tuple[Array, Array]:
    """The k nearest other rows of each row, int32 [n, k], and their cosines, nearest first."""
    return _exact(jnp.asarray(features, jnp.float32), k, BLOCK)


@functools.partial(jax.jit, static_argnames=("k", "block"))
def _exact(features: Array, k: int, block: int) -> tuple[Array, Array]:
    size = len(features)
    rows, block = padded(block, unit(features))

    def own(part, sharded):
        """This device's rows."""
        every, _, shift = gathered(part, part, sharded)

        def one(first, x):
            cosine, found = jax.lax.top_k(logits(x, every, first, size, 1.0), k)
            return found.astype(jnp.int32), cosine

        return blocks(one, shift, block, part)

    found, cosine = over_devices(own, *rows)
    return whole((found[:size], cosine[:size]))


def approximate(features: np.ndarray, k: int, watch: Callable) -> Neighbours:
    """Neighbours by a hierarchical graph (faiss's HNSW). Memory: the features three times, and n (k + 2 LINKS).

    Source: Malkov & Yashunin, *Efficient and robust approximate nearest neighbor search using HNSW graphs*, IEEE TPAMI 2020.
    """
    import faiss

    rows = np.array(unit(jnp.asarray(features, jnp.float32)))
    size, dim = rows.shape
    index = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efSearch = max(BREADTH, 2 * k)
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # links depend on the order in which rows are added
    index.add(rows)  # at once: in parts, recall was lower
    faiss.omp_set_num_threads(threads)
    parts = [index.search(part, k + 1) for part in watch(np.array_split(rows, PARTS), "neighbours")]
    found, cosine = _others(np.arange(size), *map(np.concatenate, zip(*parts)))
    sample = np.linspace(0, size - 1, min(SAMPLE, size)).astype(int)
    true, _ = _others(sample, *faiss.knn(rows[sample], rows, k + 1, faiss.METRIC_INNER_PRODUCT))
    recall = float(
        np.mean([len(np.intersect1d(one, two)) / k for one, two in zip(true, found[sample])])
    )
    return Neighbours(jnp.asarray(found, jnp.int32), jnp.asarray(cosine), recall)


def _others(
    row: np.ndarray, cosine: np.ndarray, found: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What was found for each row but the row itself, or but the last; where too few were found the row stands in, weightless."""
    order = np.argsort(found == row[:, None], axis=1, kind="stable")[:, :-1]
    found, cosine = (np.take_along_axis(x, order, axis=1) for x in (found, cosine))
    return np.where(found < 0, row[:, None], found), np.where(found < 0, -np.inf, cosine)
