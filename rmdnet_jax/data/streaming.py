"""Data that need not fit in memory: images are decoded ahead of the steps that train on them.

All else is as for `resident`: the same batches in the same order, a function of (key, step) alone.
A process decodes the rows of its own devices.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np
from jax.sharding import Mesh

from rmdnet_jax import sharding
from rmdnet_jax.data.encoded import Encoded
from rmdnet_jax.data.resident import Examples, Pipeline, gather, ordered
from rmdnet_jax.types import Array

AT_ONCE = 2  # batches that are decoded together: the end of one is no time to rest
ROOM = 1 << 29  # bytes of batches that wait for their step
T = TypeVar("T")


class Ahead(Generic[T]):
    """`make(number)` by threads, for the number that is asked for and those behind it.

    Args:
      make: called for each number once, as long as they are asked for in order.
      end: there is no number from here on.
      most: results that may wait.
    """

    def __init__(self, make: Callable[[int], T], end: int, most: int):
        self._make, self._end, self._most = make, end, most
        self._found: dict[int, Future[T]] = {}
        self._first = self._next = 0
        self._lock = threading.RLock()  # a result that is there at once is told in the same thread
        self._pool = ThreadPoolExecutor(AT_ONCE, "ahead")

    def __call__(self, number: int) -> T:
        with self._lock:
            if number not in self._found:  # a jump
                self._found.clear()
                self._next = number
            self._found = {i: found for i, found in self._found.items() if i >= number}
            self._first = number
            self._fill()
            wanted = self._found[number]
        return wanted.result()

    def _fill(self, *done: Future) -> None:
        """Begins what there is room for. None is queued, so that a program can end at once."""
        with self._lock, contextlib.suppress(RuntimeError):  # the program ends
            end = max(self._first + 1, min(self._end, self._first + self._most))
            busy = sum(not found.done() for found in self._found.values())
            while self._next < end and (busy < AT_ONCE or self._next == self._first):
                begun = self._pool.submit(self._make, self._next)
                self._found[self._next] = begun
                self._next, busy = self._next + 1, busy + 1
                begun.add_done_callback(self._fill)


def streaming(
    examples: Examples,
    images: Encoded,
    rows: np.ndarray,
    batch_size: int,
    key: Array,
    mesh: Mesh,
    epochs: int,
) -> Pipeline:
    """Batches whose images are decoded when it is their turn.

    Args:
      examples: all columns but the images, on every device of the mesh.
      images: of all examples.
      rows: the examples to train on, each once an epoch; a last partial batch is dropped.
      batch_size: over all devices.
      key: fixes every epoch's order.
      mesh: the devices.
      epochs: nothing is decoded for a step beyond them.

    Raises:
      UserError: a batch size that cannot be; of `batch`, an image that cannot be read.
    """
    steps, index = ordered(rows, batch_size, key, mesh)

    def read(step: int) -> Array:
        return sharding.read(mesh, index(step), images.read)

    most = min(32, max(AT_ONCE, ROOM // (batch_size * math.prod(images.shape[1:]))))
    ahead = Ahead(read, epochs * steps, most)

    def batch(step: int) -> Examples:
        return gather(examples, sharding.split(mesh, index(step)))._replace(image=ahead(step))

    return Pipeline(steps, batch_size, batch)
