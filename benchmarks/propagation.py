"""Time and memory of label propagation on made-up features: a cloud around one direction a class, half of the labels wrong.

    python -m benchmarks.propagation --examples 50000 --dim 512 --classes 10

Prints the seconds of each part, compilation included, and the highest memory of the process after it. Without `--auto` the settings are
given, and the target is made once; with it they are chosen among `propagation.AUTO`.
"""

from __future__ import annotations

import argparse
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np

from rmdnet_jax import propagation, sharding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("examples", 50_000), ("dim", 512), ("classes", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--auto", action="store_true", help="choose the settings, too")
    args = parser.parse_args()
    generator = np.random.default_rng(0)
    clean = generator.integers(0, args.classes, args.examples).astype(np.int32)
    features = generator.normal(size=(args.examples, args.dim)).astype(np.float32)
    features += 8 * generator.normal(size=(args.classes, args.dim)).astype(np.float32)[clean] / 4
    moved = (clean + generator.integers(1, args.classes, args.examples)) % args.classes
    given = np.where(generator.random(args.examples) < 0.5, moved, clean).astype(np.int32)
    began = time.perf_counter()

    def tell(part: str) -> None:
        nonlocal began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{part:44s} {time.perf_counter() - began:7.1f} s   peak {peak:5.2f} GiB", flush=True)
        began = time.perf_counter()

    tell("start")
    with jax.set_mesh(sharding.mesh()):
        found, cosine = jax.block_until_ready(propagation.nearest(jnp.asarray(features), 10))
        tell("10 nearest neighbours")
        graph = propagation.graph(found, cosine, 0.05)
        jax.block_until_ready(propagation.spread(graph, 0.99, jax.nn.one_hot(given, args.classes)))
        tell("one spread of the labels, alpha 0.99")
        settings = {} if args.auto else {"neighbours": "10", "temperature": "0.05", "alpha": "0.9"}
        result = propagation.propagate(features, given, args.classes, **settings)
        tell("targets, settings " + ("chosen" if args.auto else "given (10, 0.05, 0.9)"))
    print(f"labels right: {np.mean(clean == given):.3f} before, {np.mean(clean == result.target.argmax(1)):.3f} after")


if __name__ == "__main__":
    main()
