"""Examples that are kept once decoded.

Decoded data are kept as .npy files in `root()`, and memory-mapped from there until the files that
they came from change.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rmdnet_jax.data.source import FIELDS, Source, checked
from rmdnet_jax.errors import UserError, first_line, wrong
from rmdnet_jax.files import place, write_arrays

KEPT = 2  # decoded copies of one folder or data set, of different states or sizes
DECODED = re.compile(r".+-[0-9a-f]{16}")
GIGABYTES = 64.0  # of all decoded data, unless $RMDNET_CACHE_GB says otherwise


class Streams(Protocol):
    """Whether images of so many bytes are decoded when they are asked for, not all at once."""

    def __call__(self, size: int, /) -> bool: ...


def never(size: int) -> bool:
    """All is decoded at once."""
    return False


class Allocate(Protocol):
    """Makes the uint8 array that a field's images are written to."""

    def __call__(self, field: str, shape: tuple[int, ...], /) -> np.ndarray: ...


class Build(Protocol):
    """Makes a source, its images in arrays that `allocate` made."""

    def __call__(self, allocate: Allocate, /) -> Source: ...


def root() -> Path:
    """Where decoded data and compiled programs lie: `$RMDNET_CACHE`, else ~/.cache/rmdnet_jax.

    Of decoded data at most `$RMDNET_CACHE_GB` gigabytes are kept, `GIGABYTES` where it is not set.
    """
    return place(os.environ.get("RMDNET_CACHE") or "~/.cache/rmdnet_jax", "RMDNET_CACHE")


def compiled() -> str:
    """Where compiled programs lie, perhaps in a bucket: as JAX is told, else below `root()`."""
    return os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(root() / "compiled")


def cached(name: str, place: str, key: object, build: Build) -> Source:
    """What `build` made the first time that it was called for this key, memory-mapped.

    The cache is written whole or not at all. Older copies are deleted, see `_prune`.

    Args:
      name: the data set's.
      place: where it comes from; few copies of one place are kept.
      key: changes when the data do.
      build: reads them.
    """
    base = root()
    digests = [
        hashlib.sha256(repr((2, *x)).encode()).hexdigest()[:16]  # 2: raise with decoding
        for x in ([place], [place, key])
    ]
    path = base / "-".join([name.replace("/", "_").replace(":", "_"), digests[0][:8], digests[1]])
    if (source := _read_cache(name, path)) is not None:
        return source
    try:
        source = _write_cache(name, path, build)
        _prune(base, path)
    except OSError as error:
        warnings.warn(
            f"cannot write the cache of decoded images in {str(base)!r} ({first_line(error)}): "
            "going on without",
            stacklevel=2,
        )
        return build(lambda field, shape: np.empty(shape, np.uint8))
    return _read_cache(name, path) or source


def noted(place: str, key: object, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Small arrays that `make` made the first time that it was called for this key.

    Args:
      place: where they come from; one file of each place is kept.
      key: changes when they do.
      make: reads them.
    """
    told, own = (hashlib.sha256(repr(x).encode()).hexdigest() for x in (key, place))
    path = root() / f"noted-{own[:16]}.npz"
    with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as there:
        if str(there["key"]) == told:
            return {name: there[name] for name in there.files if name != "key"}
    found = make()
    with contextlib.suppress(OSError, UserError):  # a cache that may only be read
        path.parent.mkdir(parents=True, exist_ok=True)
        write_arrays(path, key=np.array(told), **found)
    return found


def _prune(base: Path, newest: Path) -> None:
    """Deletes what was longest not read: copies of a place beyond `KEPT`, all beyond the limit.

    What other processes have mapped stays readable for them.
    """
    limit, seen, size = _limit(), Counter[str](), 0
    found = {path.parent for path in base.glob("*/test_labels.npy") if path.parent != newest}
    found = [path for path in found if DECODED.fullmatch(path.name)]  # nothing of the user's
    for path in [newest, *sorted(found, key=_age, reverse=True)]:
        place, own = path.name[:-16], sum(file.stat().st_size for file in path.glob("*.npy"))
        if path != newest and (seen[place] >= KEPT or size + own > limit):
            shutil.rmtree(path, ignore_errors=True)
            continue
        seen[place] += 1
        size += own
    for path in base.glob(".partial-*"):  # of a process that was killed
        if time.time() - _age(path) > 24 * 3600:
            shutil.rmtree(path, ignore_errors=True)


def _age(path: Path) -> float:
    """When a folder was last read or written; 0 where it has just gone."""
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0


def _limit() -> float:
    """How many bytes of decoded data are kept."""
    text = os.environ.get("RMDNET_CACHE_GB") or GIGABYTES
    try:
        size = float(text)
    except ValueError:
        size = -1.0
    if not size >= 0:
        raise wrong("RMDNET_CACHE_GB", f"be a number of gigabytes, got {text!r}")
    return size * 1e9


def _write_cache(name: str, path: Path, build: Build) -> Source:
    """Builds a source in a folder of its own, which is then renamed to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=path.parent) as partial:
        (whole := Path(partial) / "whole").mkdir()
        source = build(lambda field, shape: _reserve(whole / f"{field}.npy", shape))
        for field in FIELDS:
            if not (whole / f"{field}.npy").exists():
                values = getattr(source, field)
                values = np.array(values, str) if isinstance(values, tuple) else values
                np.save(whole / f"{field}.npy", values, allow_pickle=False)
        if _read_cache(name, path) is None:  # damaged; else a faster process may be reading it
            shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process was faster
            whole.rename(path)
    return source


def _reserve(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A uint8 .npy file open for writing; on a full disk an OSError here, not a bus error later."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


def _read_cache(name: str, path: Path) -> Source | None:
    """The arrays of a cache directory, or None where there is none or it is damaged."""
    try:
        arrays = {
            field: np.load(path / f"{field}.npy", mmap_mode="r", allow_pickle=False)
            for field in FIELDS
        }
        source = checked(name, arrays)
        with contextlib.suppress(OSError):  # a cache that may only be read
            os.utime(path)  # it is in use: see `_prune`
        return source
    except Exception:  # a damaged file raises anything: decode again
        return None
