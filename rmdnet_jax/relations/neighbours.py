"""The nearest neighbours of each example by cosine: exact on the devices, or by an index on a CPU.

Exact neighbours cost `2 n^2 dim` operations, a block of rows at a time: seconds on an accelerator,
half an hour and more on two cores for a million rows. The index is faiss's HNSW, chosen by
measurement (docs/propagation.md). One thread builds it, so that any number of cores gives the same.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from rmdnet_jax.errors import one_of, wrong
from rmdnet_jax.relations.blockwise import blocks, logits, padded
from rmdnet_jax.relations.rows import unit
from rmdnet_jax.sharding import gathered, over_devices, whole
from rmdnet_jax.types import Array

BLOCK = 512  # rows whose similarities to all others are in memory at a time, on each device
MANY = 200_000  # rows from which `auto` takes the index on a CPU
LINKS, BREADTH = 16, 64  # of the index: links of a node, candidates kept in a search
PARTS = 20  # of a search, between which progress is shown
SAMPLE = 500  # rows that recall is measured on
SEARCHES = ("auto", "exact", "approximate")
Item = TypeVar("Item")


class Watch(Protocol):
    """Wraps the parts of long work, named `what`, to show progress."""

    def __call__(self, items: Iterable[Item], what: str) -> Iterable[Item]: ...


def unwatched(items: Iterable[Item], what: str) -> Iterable[Item]:
    """Shows nothing."""
    return items


class Neighbours(NamedTuple):
    """The k nearest other rows of each row, nearest first."""

    index: Array  # int32 [n, k]
    cosine: Array  # float32 [n, k]
    recall: float  # share of the true neighbours among them: 1 if exact, else measured on some rows


def find(
    features: np.ndarray, k: int, search: str = "auto", watch: Watch = unwatched
) -> Neighbours:
    """The k neighbours of each of features [n, dim], by a search of `SEARCHES`, see `chosen`."""
    if chosen(search, len(features)) == "approximate":
        return approximate(features, k, watch)
    return Neighbours(*exact(jnp.asarray(features), k), 1.0)


def chosen(search: str, size: int) -> str:
    """`exact` or `approximate`: what `auto` takes for so many rows on this device.

    Raises:
      UserError: `search` is not known, or needs a package that is not there.
    """
    one_of("search", search, SEARCHES)
    large = size > MANY and jax.default_backend() == "cpu"
    if search == "exact" or (search == "auto" and not large):
        return "exact"
    try:
        import faiss  # noqa: F401
    except ImportError:
        raise wrong(
            "search",
            f"be exact where faiss is missing, got {search} for {size} rows: pip install faiss-cpu "
            "(exact takes half an hour and more for a million rows on a CPU)",
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
            cosine, found = largest(logits(x, every, first, size, 1.0), k)
            return found.astype(jnp.int32), cosine

        return blocks(one, shift, block, part)

    found, cosine = over_devices(own, *rows)
    return whole((found[:size], cosine[:size]))


def largest(x: Array, k: int) -> tuple[Array, Array]:
    """`jax.lax.top_k` of rows [n, m]; on a GPU, where that sorts all of a row, by groups."""
    return by_groups(x, k) if jax.default_backend() == "gpu" else jax.lax.top_k(x, k)


def by_groups(x: Array, k: int) -> tuple[Array, Array]:
    """`jax.lax.top_k` of rows [n, m], of equal values the first, for much less than sorting a row.

    The k largest lie in the k groups of columns whose maxima are largest: only those are sorted.
    """
    rows, columns = x.shape
    width = max(1, round((columns / k) ** 0.5))  # sorts m / width maxima, then k width values
    count = -(-columns // width)
    if count <= 2 * k:
        return jax.lax.top_k(x, k)
    full = jnp.pad(x, ((0, 0), (0, count * width - columns)), constant_values=-jnp.inf)
    groups = full.reshape(rows, count, width)
    near = jnp.sort(jax.lax.top_k(groups.max(2), k)[1], axis=1)
    some = jnp.take_along_axis(groups, near[:, :, None], axis=1).reshape(rows, k * width)
    found, place = jax.lax.top_k(some, k)
    return found, jnp.take_along_axis(near, place // width, axis=1) * width + place % width


def approximate(features: np.ndarray, k: int, watch: Watch = unwatched) -> Neighbours:
    """Neighbours by a hierarchical graph (faiss's HNSW).

    Memory: the features three times, and n (k + 2 LINKS).

    Source: Malkov & Yashunin, *Efficient and robust approximate nearest neighbor search using HNSW
    graphs*, IEEE TPAMI 2020.
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
    """What was found for each row but the row itself, or but the last.

    Where too few were found the row stands in, weightless.
    """
    order = np.argsort(found == row[:, None], axis=1, kind="stable")[:, :-1]
    found, cosine = (np.take_along_axis(x, order, axis=1) for x in (found, cosine))
    return np.where(found < 0, row[:, None], found), np.where(found < 0, -np.inf, cosine)
