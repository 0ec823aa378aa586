"""Whether decoded images fit in memory, or are decoded each time that it is their turn."""

from __future__ import annotations

import contextlib
import math
import os
import pathlib

import jax
import numpy as np

from rmdnet_jax import sharding
from rmdnet_jax.app.schema import Config
from rmdnet_jax.data.encoded import Encoded
from rmdnet_jax.data.resident import Flat, flat
from rmdnet_jax.data.source import Source
from rmdnet_jax.data.store import Streams
from rmdnet_jax.labels.noise import Noise

SHARE = 0.5  # of memory, that images may take
TPU_SIDE = 96  # pixels; a TPU's compiler gathers no batches of larger images
AT_ONCE = 1 << 28  # bytes of images that noise reads at a time
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def streams(config: Config) -> Streams:
    """Whether images of so many bytes are streamed, as the config says or as they fit."""

    def decide(size: int) -> bool:
        if config.data.pipeline != "auto":
            return config.data.pipeline == "streaming"
        return not sharding.all_agree(size <= SHARE * room())

    return decide


def room() -> float:
    """Bytes of memory: of the host, or of a device where it has less and tells so."""
    found = [_host()]
    with contextlib.suppress(AttributeError, NotImplementedError):
        found.append((jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", _host()))
    return min(found)


def _host() -> float:
    """Bytes of memory of this machine, or what a container may take of it."""
    found = []
    with contextlib.suppress(AttributeError, ValueError, OSError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    for limit in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # none, or the word max
            found.append(int(pathlib.Path(limit).read_text()))
    return min(found, default=float("inf"))


def streamed(config: Config, source: Source) -> Source:
    """The source, its images to be streamed though they are in memory, where the config says so.

    Sets how many processes decode them.
    """
    images, test = source.images, source.test_images
    for one in (images, test):
        if isinstance(one, Encoded):
            one.workers = config.data.workers
    large = jax.default_backend() == "tpu" and max(images.shape[1:3]) > TPU_SIDE
    large &= config.data.pipeline == "auto"
    if isinstance(images, Encoded) or not (large or streams(config)(images.nbytes + test.nbytes)):
        return source
    encoded = (Encoded(np.asarray(x), x.shape[1:], count=len(x)) for x in (images, test))
    return source._replace(images=next(encoded), test_images=next(encoded))


def resident(source: Source) -> Flat | None:
    """The training images as a column; None where they are streamed."""
    return None if isinstance(source.images, Encoded) else flat(np.asarray(source.images))


def labels(kind: Noise, index: np.ndarray, source: Source) -> np.ndarray:
    """The labels int32 [n] of noise that reads images, some at a time."""
    few = max(1, AT_ONCE // math.prod(source.images.shape[1:]))
    parts = [slice(i, i + few) for i in range(0, len(index), few)]
    found = [kind.labels(index[x], source.labels[x], source.images[x]) for x in parts]
    return np.concatenate([np.asarray(drawn) for drawn in found])


def said(config: Config, source: Source) -> str:
    """What a person should know of streamed images, in a line."""
    size = (source.images.nbytes + source.test_images.nbytes) / 1e9
    images = f"images are streamed: {size:.3g} GB once decoded"
    if config.data.pipeline != "auto":
        return f"{images}; data.pipeline=auto keeps them in memory where they fit"
    return f"{images}, of {room() / 1e9:.3g} GB of memory; data.pipeline=resident keeps them there"
