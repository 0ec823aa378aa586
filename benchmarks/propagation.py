"""Time and memory of label propagation on made-up features, half of the labels wrong.

The features are clouds of 16 dimensions, bent by a layer of ReLU.

    python -m benchmarks.propagation --examples 50000 --dim 512 --classes 10

    python -m benchmarks.propagation --examples 1000000 --dim 256 --save DIR
    rmdnet audit --features DIR/features.npy --labels DIR/labels.csv --out DIR/audit

Prints the seconds of each part, compilation included, and the highest memory of the process after
it. Without `--auto` the settings are given; with it they are chosen among `propagation.AUTO`.
"""

from __future__ import annotations

import argparse
import pathlib
import resource
import time

import jax
import numpy as np

from rmdnet_jax import sharding
from rmdnet_jax.labels import noise
from rmdnet_jax.relations import neighbours, propagation
from rmdnet_jax.relations.graph import connect, spread


def made_up(examples: int, dim: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Features float32 [examples, dim] >= 0, and their classes int32 [examples].

    They have 16 degrees of freedom: an encoder's have few.
    """
    generator = np.random.default_rng(0)
    clean = generator.integers(0, classes, examples).astype(np.int32)
    latent = generator.normal(size=(classes, 16))[clean] + 0.5 * generator.normal(
        size=(examples, 16)
    )
    return np.maximum(
        latent.astype(np.float32) @ generator.normal(size=(16, dim)).astype(np.float32), 0
    ), clean


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("examples", 50_000), ("dim", 512), ("classes", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--auto", action="store_true", help="choose the settings, too")
    parser.add_argument("--save", type=pathlib.Path, help="write the data here, and end")
    args = parser.parse_args()
    features, clean = made_up(args.examples, args.dim, args.classes)
    given = np.asarray(
        noise.make("symmetric", num_classes=args.classes, seed=0, rate=0.5).labels(
            np.arange(args.examples), clean
        )
    )
    if args.save:
        args.save.mkdir(parents=True, exist_ok=True)
        np.save(args.save / "features.npy", features)
        np.savetxt(args.save / "labels.csv", given, "%d", header="label", comments="")
        return
    began = time.perf_counter()

    def tell(part: str) -> None:
        nonlocal began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{part:44s} {time.perf_counter() - began:7.1f} s   peak {peak:5.2f} GiB", flush=True)
        began = time.perf_counter()

    tell("start")
    with jax.set_mesh(sharding.mesh()):
        found = jax.block_until_ready(neighbours.find(features, 10))
        tell(f"10 nearest neighbours, recall {found.recall:.3f}")
        graph = connect(found.index, found.cosine, 0.05)
        jax.block_until_ready(spread(graph, 0.99, jax.nn.one_hot(given, args.classes)))
        tell("one spread of the labels, alpha 0.99")
        settings = {} if args.auto else {"neighbours": 10, "temperature": 0.05, "alpha": 0.9}
        result = propagation.propagate(features, given, args.classes, **settings)
        tell("targets, settings " + ("chosen" if args.auto else "given (10, 0.05, 0.9)"))
    print(
        f"labels right: {np.mean(clean == given):.3f} before, "
        f"{np.mean(clean == result.targets.argmax(1)):.3f} after"
    )


if __name__ == "__main__":
    main()
