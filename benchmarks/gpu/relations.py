"""P6: the edge loss with its gradient, plain and in blocks, and the correction of labels.

    python -m benchmarks.gpu.relations OUT.json [--examples 50000] [--seconds 150]

In blocks a batch costs five products of [batch, batch, dim]: 10 batch^2 dim operations, from which
`tflops` follows.
"""

from __future__ import annotations

import argparse
import functools
import time

import jax
import numpy as np

from benchmarks.gpu.record import Record, median
from rmdnet_jax.errors import first_line
from rmdnet_jax.relations import losses
from rmdnet_jax.relations.propagation import propagate

# batch:rows of a block; 0 is the plain form, which needs 32 GiB at 65,536
CASES = ("4096:0", "4096:256", "16384:0", "16384:256", "65536:256", "65536:1024", "65536:0")


def edges(batch: int, block: int, dim: int, times: int) -> dict:
    """A row of the edge loss."""
    row = {"case": f"blocks of {block}" if block else "plain", "batch": batch, "dim": dim}
    loss = jax.value_and_grad(functools.partial(losses.softmax_kl, block=block))
    student, teacher = jax.random.normal(jax.random.key(0), (2, batch, dim))
    try:
        run = jax.jit(loss).lower(student, teacher).compile()
        memory = run.memory_analysis()
        row["temporary_bytes"] = memory.temp_size_in_bytes if memory else None
        row |= median(lambda: run(student, teacher), 1, times)
    except jax.errors.JaxRuntimeError as error:  # no memory
        return {**row, "error": first_line(error)[:300]}
    if block:
        row["tflops"] = 10 * batch**2 * dim / row["ms"] / 1e9
    return row


def correction(examples: int, dim: int) -> dict:
    """Half of the labels of ten clusters are wrong: seconds to correct them, twice, exact."""
    draw = np.random.default_rng(0)
    clean = np.arange(examples) % 10
    features = draw.normal(size=(10, dim))[clean] + draw.normal(size=(examples, dim))
    given = np.where(draw.random(examples) < 0.5, draw.integers(0, 10, examples), clean)
    seconds = []
    for _ in range(2):  # the first compiles
        began = time.perf_counter()
        found = propagate(features.astype(np.float32), given, 10, search="exact")
        seconds.append(time.perf_counter() - began)
    right = float(np.mean(found.targets.argmax(1) == clean))
    about = {"case": "propagation", "batch": examples, "dim": dim}
    return {**about, "first_seconds": seconds[0], "seconds": seconds[1], "right": right}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--cases", nargs="+", default=CASES)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--examples", type=int, default=50_000, help="of the propagation")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=150, help="start no case after these")
    args = parser.parse_args()
    record = Record(args.out, "relations")
    record.add(**correction(args.examples, args.dim))
    for text in args.cases:
        batch, block = map(int, text.split(":"))
        if record.seconds() < args.seconds:
            record.add(**edges(batch, block, args.dim, args.times))


if __name__ == "__main__":
    main()
