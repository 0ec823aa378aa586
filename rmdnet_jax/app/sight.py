"""How a network sees images: its normalisation and their size, which travel with it.

A run leaves them beside its teacher, a student's file holds them. Plain weights bring none: then
images are normalised as the run's own.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any, NamedTuple

import numpy as np

from rmdnet_jax.data.resident import fitted
from rmdnet_jax.errors import UserError
from rmdnet_jax.files import write_json
from rmdnet_jax.networks import weights
from rmdnet_jax.networks.layers import Network
from rmdnet_jax.types import Array, PyTree, Variables

FILE = "teacher.json"  # in a run's workdir


class Sight(NamedTuple):
    """How a network was fed."""

    mean: np.ndarray  # float32 [channel], of pixels in [0, 1]
    std: np.ndarray  # float32 [channel]
    size: tuple[int, ...] | None = None  # height and width in pixels; None: nobody knows


def write(workdir: pathlib.Path, statistics: tuple[np.ndarray, ...], shape: tuple) -> None:
    """States how the teacher of a run on images of a shape [n, h, w, c] was fed."""
    mean, std = (values.tolist() for values in statistics)
    write_json(workdir / FILE, {"mean": mean, "std": std, "image_shape": list(shape[1:])})


def read(path: pathlib.Path, channels: int) -> Sight | None:
    """How the teacher of a run's workdir, or of a file, was fed; None where that is not told.

    Raises:
      UserError: what is told cannot be.
    """
    told: Any = None
    if path.suffix == ".safetensors":
        told = weights.about(path, "teacher")
        told = told if "mean" in told else None
    elif path.is_dir():
        told = _left(path)
    if told is None:
        return None
    try:
        mean, std = (np.asarray(told[name], np.float32) for name in ("mean", "std"))
        size = told.get("image_shape")
        size = None if size is None else (int(size[0]), int(size[1]))
        if mean.shape != (channels,) or std.shape != (channels,) or (size and min(size) < 1):
            raise ValueError(f"it is for {mean.size} channels, images have {channels}")
        if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
            raise ValueError("mean and std must be finite, std above 0")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"teacher {str(path)!r}: its normalisation cannot be: {error}") from None
    return Sight(mean, std, size)


def _left(workdir: pathlib.Path) -> Any:
    """What a run has left of it; an older one only the channels' statistics."""
    for name in (FILE, "data.json"):
        try:
            found = json.loads((workdir / name).read_text())
            if not isinstance(found, dict):
                raise ValueError(f"it holds {found!r:.20}")
            return found if name == FILE else dict(zip(("mean", "std"), found["channels"]))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"teacher: {workdir / name} cannot be read: {error}") from None
    return None


def fed(
    network: Network, own: Sight | None, statistics: tuple[np.ndarray, ...], shape: tuple
) -> Network:
    """The network on images [n, h, w, c] normalised by a run's statistics, fed as its own were.

    The very same network where nothing differs.
    """
    size = own.size if own and own.size else shape[1:3]
    if own is None:
        return network
    same = all(np.array_equal(x, y) for x, y in zip((own.mean, own.std), statistics))
    if same and tuple(size) == tuple(shape[1:3]):
        return network
    mean, std = statistics

    def apply(variables: Variables, x: Array, train: bool) -> tuple[Any, PyTree]:
        x = fitted(x * std + mean, *size)
        return network.apply(variables, (x - own.mean) / own.std, train)

    return Network(network.init, apply)
