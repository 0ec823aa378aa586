"""Seconds and recall of indexes for approximate neighbours, on made-up features.

python -m benchmarks.indexes --examples 200000 --dim 256

Needs faiss-cpu, hnswlib, pynndescent; those not there are passed over.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.propagation import made_up
from rmdnet_jax.relations.neighbours import LINKS

K = 20


def inverted_file(rows: np.ndarray) -> Iterator[tuple[str, Callable]]:
    """faiss's k-means cells, of which some are searched for each row."""
    import faiss

    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(rows.shape[1]),
        rows.shape[1],
        round(4 * len(rows) ** 0.5),
        faiss.METRIC_INNER_PRODUCT,
    )
    index.cp.max_points_per_centroid = 64
    index.train(rows)
    index.add(rows)
    for probes in (4, 16, 64):
        index.nprobe = probes
        yield f"faiss inverted file, {probes} cells", lambda: index.search(rows, K + 1)[1]


def small_world(rows: np.ndarray) -> Iterator[tuple[str, Callable]]:
    """faiss's HNSW, as rmdnet_jax.neighbours has it but for building by one thread."""
    import faiss

    index = faiss.IndexHNSWFlat(rows.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
    index.add(rows)
    for breadth in (32, 64):
        index.hnsw.efSearch = breadth
        yield f"faiss HNSW, ef {breadth}", lambda: index.search(rows, K + 1)[1]


def hnswlib(rows: np.ndarray) -> Iterator[tuple[str, Callable]]:
    import hnswlib

    index = hnswlib.Index("ip", rows.shape[1])
    index.init_index(len(rows), M=LINKS, ef_construction=60)
    index.add_items(rows)
    for breadth in (32, 64):
        index.set_ef(breadth)
        yield f"hnswlib, ef {breadth}", lambda: index.knn_query(rows, K + 1)[0].astype(int)


def descent(rows: np.ndarray) -> Iterator[tuple[str, Callable]]:
    from pynndescent import NNDescent

    index = NNDescent(rows, metric="dot", n_neighbors=K + 1, random_state=0)
    yield "pynndescent", lambda: index.neighbor_graph[0]


INDEXES = {"faiss": (inverted_file, small_world), "hnswlib": (hnswlib,), "pynndescent": (descent,)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("examples", 200_000), ("dim", 256), ("classes", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    rows, _ = made_up(args.examples, args.dim, args.classes)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)
    sample = np.linspace(0, len(rows) - 1, 500).astype(int)
    true = [np.argpartition(-(rows @ rows[i]), K + 1)[: K + 1] for i in sample]
    for build in (
        build
        for package, builds in INDEXES.items()
        if importlib.util.find_spec(package)
        for build in builds
    ):
        began = time.perf_counter()
        for name, search in build(rows):
            built = time.perf_counter()
            found = search()
            recall = np.mean(
                [(len(np.intersect1d(a, found[i])) - 1) / K for a, i in zip(true, sample)]
            )  # but for the row itself
            print(
                f"{name:32s} {built - began:7.1f} s to build "
                f"{time.perf_counter() - built:7.1f} s to search  recall {recall:.3f}",
                flush=True,
            )
            began += time.perf_counter() - built  # the next search is of the same index


if __name__ == "__main__":
    main()
