"""Batches that are decoded when it is their turn, beside decoding alone, in turns.

    python -m benchmarks.streaming                      # 20,000 JPEG files of 200x200 pixels
    python -m benchmarks.streaming --files 2000 --turns 3

A turn reads all files in the same random order: `decoding` into an array by as many threads, as
images are decoded that are kept in memory; `streamed` as the batches of an epoch, on the device;
`processes` likewise, decoded by as many processes as there are cores.
Seconds of the clock tell what a run gets; those of the processors depend less on whatever else the
machine does. A ratio is the median of the turns' ratios, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np
from PIL import Image

from rmdnet_jax import cpu, sharding
from rmdnet_jax.data import images, sources, streaming
from rmdnet_jax.data.encoded import Encoded
from rmdnet_jax.data.resident import Examples
from rmdnet_jax.data.source import Source

CLASSES, SIDE, SIZE, BATCH = 10, 200, 128, 128


def make(root: pathlib.Path, count: int) -> None:
    """Writes digits, scaled up, with some noise, as JPEG files in class folders."""
    digits, rng = sources.load("digits"), np.random.default_rng(0)
    for i in range(count):
        row = i % len(digits.images)
        place = root / str(digits.labels[row])
        place.mkdir(exist_ok=True)
        large = Image.fromarray(digits.images[row, ..., 0]).resize((SIDE, SIDE))
        noise = rng.integers(-20, 20, (SIDE // 4, SIDE // 4, 3)).repeat(4, 0).repeat(4, 1)
        pixels = np.clip(np.asarray(large, np.int16)[..., None] + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{i}.jpg", quality=90)


def decoding(source: Source, root: pathlib.Path) -> Callable[[], None]:
    """All images into an array."""
    order = np.random.default_rng(0).permutation(len(source.labels))[: turn(source)]
    array = np.zeros((len(order), SIZE, SIZE, 3), np.uint8)  # its pages are there by now
    files = [root / source.files[row] for row in order]
    return lambda: images.refuse(images.decode(array, enumerate(files), "turn"))


def streamed(source: Source, mesh: jax.sharding.Mesh, workers: int = 0) -> Callable[[], None]:
    """The batches of an epoch, each on the device when the next is asked for."""
    index = np.arange(len(source.labels), dtype=np.int32)
    columns = sharding.replicate(mesh, Examples(None, source.labels, index))
    assert isinstance(source.images, Encoded)
    stored = source.images.take(index)
    stored.workers = workers

    def run() -> None:
        key = jax.random.key(0)
        made = streaming.streaming(columns, stored, index, BATCH, key, mesh, 1)
        for step in range(made.steps_per_epoch):
            jax.block_until_ready(made.batch(step))

    return run


def turn(source: Source) -> int:
    """How many images a turn reads: whole batches."""
    return len(source.labels) // BATCH * BATCH


def seconds(run: Callable[[], None]) -> tuple[float, float]:
    """Of the clock, and of all processors."""
    began = time.perf_counter(), sum(os.times()[:2])
    run()
    return time.perf_counter() - began[0], sum(os.times()[:2]) - began[1]


def spread(values: list[float], form: str) -> str:
    """The median, the lowest and the highest."""
    middle = statistics.median(values)
    return f"{middle:{form}} ({min(values):{form}} to {max(values):{form}})"


def main(argv: list[str]) -> None:
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args(argv)
    cpu.keep_memory()  # as the command does
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        make(root, args.files)
        source = sources.load("folder", dir=folder, image_size=SIZE, stream=lambda size: True)
        mesh, cores = sharding.mesh(), os.cpu_count() or 1
        runs = {"decoding": decoding(source, root), "streamed": streamed(source, mesh),
                "processes": streamed(source, mesh, cores)}  # fmt: skip
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
        for number in range(args.turns + 1):
            for name in [*runs][:: 1 if number % 2 else -1]:
                taken = seconds(runs[name])
                if number:  # the first reads files from the disk, and compiles
                    found[name].append(taken)
    count = turn(source)
    print(f"{args.files:,} files, {args.turns} turns of {count:,} images, {os.cpu_count()} cores")
    for name, turns in found.items():
        print(f"{name:9} {spread([count / clock for clock, _ in turns], ',.0f')} images a second")
        each = [1e3 * used / count for _, used in turns]
        print(f"{'':9} {spread(each, '.2f')} ms of a processor an image")
    # the system counts processes that decode among the processors' seconds only once they end
    for name, place, kind in (
        ("streamed", 0, "clock"), ("streamed", 1, "processors"), ("processes", 0, "clock"),
    ):  # fmt: skip
        ratios = [b[place] / a[place] for a, b in zip(found["decoding"], found[name])]
        print(f"{name} / decoding, seconds of the {kind}: {spread(ratios, '.3f')}")


if __name__ == "__main__":
    main(sys.argv[1:])
