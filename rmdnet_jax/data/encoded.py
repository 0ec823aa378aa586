"""Images that need not fit in memory: read like an array, decoded when they are asked for."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rmdnet_jax.data import workers
from rmdnet_jax.errors import UserError, first_line

PIECE = 8  # images a task at least: a task costs more than a small image
READ = 10_000  # images whose content tells data apart
LOOKED_AT = 50_000  # images that tell the statistics of channels


class Stored(Protocol):
    """Encoded images by row, wherever they lie."""

    def encoded(self, row: int, /) -> Path | bytes:
        """The image's file, or what would be in it."""
        ...

    def name(self, row: int, /) -> str:
        """What errors call it."""
        ...

    def state(self, row: int, /) -> str:
        """What tells it apart at the cost of a look: its place in the data, its size."""
        ...


class Files:
    """Images in files, named from a folder on."""

    def __init__(self, root: str, names: Sequence[str]):
        self.root, self.names = os.path.abspath(root), names

    def encoded(self, row: int) -> Path:
        return Path(self.name(row))

    def name(self, row: int) -> str:
        return os.path.join(self.root, self.names[row])

    def state(self, row: int) -> str:
        try:
            size = os.stat(self.name(row)).st_size
        except OSError:  # a link that leads nowhere
            size = -1
        return f"{self.names[row]} {size}"


class Encoded:
    """Images uint8 [n, height, width, channel]; rows, slices and index arrays decode them.

    Args:
      stored: where they lie; an array holds them decoded.
      size: (height, width, channel) that each gets, as `images.unpacked` says.
      rows: which of the stored ones these are, in this order; None: `count` from the first.
      count: see `rows`.
      workers: processes that decode; 0: threads of this one.

    Example:
      >>> import numpy as np
      >>> from rmdnet_jax.data.encoded import Encoded
      >>> images = Encoded(np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1), (2, 2, 1), count=3)
      >>> images.shape, images[[2, 0]].ravel().tolist()
      ((3, 2, 2, 1), [8, 9, 10, 11, 0, 1, 2, 3])
    """

    dtype, ndim = np.dtype(np.uint8), 4

    def __init__(
        self,
        stored: Stored | np.ndarray,
        size: Sequence[int],
        rows: np.ndarray | None = None,
        count: int = 0,
        workers: int = 0,
    ):
        self.stored: Any = stored
        self.workers = workers
        self.rows = np.arange(count) if rows is None else np.asarray(rows)
        self.shape = (len(self.rows), *size)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def size(self) -> int:
        """The number of all values."""
        return math.prod(self.shape)

    nbytes = size  # once decoded

    def __getitem__(self, index: Any) -> np.ndarray:
        rows = np.arange(len(self))[index]
        return self.read(rows.ravel()).reshape(*rows.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self[:].astype(dtype or self.dtype, copy=False)

    def take(self, rows: np.ndarray) -> Encoded:
        """Some of the images, still encoded."""
        return Encoded(self.stored, self.shape[1:], self.rows[rows], workers=self.workers)

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Images of some rows [m]; raises `UserError` for one that cannot be read."""
        if isinstance(self.stored, np.ndarray):
            return self.stored[self.rows[rows]]
        distinct, place = np.unique(rows, return_inverse=True)
        if len(distinct) < len(rows):  # some only fill up a batch
            return self.read(distinct)[place]
        found = np.empty((len(rows), *self.shape[1:]), np.uint8)

        def fill(places: range) -> None:
            stored = self.rows[rows[places]].tolist()
            encoded = [self._encoded(at) for at in stored]
            for at, why in zip(stored, workers.unpack(encoded, found[places.start : places.stop])):
                if why:
                    raise self._broken(at, why)

        _each(fill, len(rows), self.workers)
        return found

    def _encoded(self, at: int) -> Path | bytes:
        """A stored image, as it lies there."""
        try:
            return self.stored.encoded(at)
        except Exception as error:  # whatever a damaged record raises
            raise self._broken(at, first_line(error)) from error

    def _broken(self, at: int, why: str) -> UserError:
        remedy = "repair it, or set data.broken=skip, and choose another workdir"
        return UserError(f"cannot read {self.stored.name(at)} ({why}): {remedy}")

    def digest(self) -> str:
        """What tells these images apart, and costs no pass over all of them.

        The sha256 of the names and sizes of all, and of the content of at most `READ`, evenly
        spaced.
        """
        assert not isinstance(self.stored, np.ndarray)
        states, count = [""] * len(self), min(READ, len(self))
        content = [b""] * count

        def state(places: range) -> None:
            for i in places:
                states[i] = self.stored.state(int(self.rows[i]))

        def read(places: range) -> None:
            for i in places:
                content[i] = _content(self.stored, int(self.rows[i * len(self) // count]))

        _each(state, len(self))
        _each(read, count)
        found = hashlib.sha256(repr(self.shape).encode())
        for part in (*(state.encode("utf-8", "surrogateescape") for state in states), *content):
            found.update(hashlib.sha256(part).digest())
        return found.hexdigest()


def _content(stored: Stored, row: int) -> bytes:
    """A hash of an image's bytes; of one that cannot be read, nothing."""
    try:
        encoded = stored.encoded(row)
        if isinstance(encoded, Path):
            encoded = encoded.read_bytes() if encoded.is_file() else b""
    except Exception:  # whatever a damaged record raises
        return b""
    return hashlib.sha256(encoded).digest()


def _each(work: Callable[[range], None], count: int, processes: int = 0) -> None:
    """Does `work` for pieces of `range(count)`, in all threads; raises the first piece's error."""
    pool = workers.pool(processes)
    piece = max(PIECE, -(-count // (2 * (processes or workers.THREADS))))
    parts: Iterator[range] = (range(i, min(i + piece, count)) for i in range(0, count, piece))
    for done in [pool.submit(work, part) for part in parts]:
        done.result()
