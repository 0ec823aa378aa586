"""Networks from and to PyTorch: state dicts under torchvision's names, in `.safetensors` files or read from `.pt` files.

A state dict is {name: NumPy array} in PyTorch's layout: convolutions [out, in, height, width], dense layers [out, in]. Nothing that is read
can run code.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from safetensors.numpy import load_file, save_file

from rmdnet_jax.errors import UserError, first_line
from rmdnet_jax.types import Variables

SUFFIXES = (".safetensors", ".pt", ".pth")
RENAMED = (  # a part of our path -> torchvision's
    (r"stem", "conv1"),
    (r"stem_norm", "bn1"),
    (r"stage(\d+)_block(\d+)", lambda m: f"layer{m[1]}.{int(m[2]) - 1}"),
    (r"shortcut", "downsample.0"),
    (r"shortcut_norm", "downsample.1"),
    (r"norm(\d+)", r"bn\1"),
    (r"final_norm", "bn"),
    (r"dense(\d+)", r"fc\1"),
    (r"head", "fc"),
    (r"kernel|scale", "weight"),
    (r"mean|var", r"running_\g<0>"),
)


def _name(path: tuple) -> str:
    """torchvision's name of a leaf: ("stage1_block2", "conv1", "kernel") -> "layer1.1.conv1.weight"."""
    parts = []
    for part in (key.key for key in path):
        found = ((re.fullmatch(pattern, part), new) for pattern, new in RENAMED)
        parts.append(
            next(
                (
                    match.expand(new) if isinstance(new, str) else new(match)
                    for match, new in found
                    if match
                ),
                part,
            )
        )
    return ".".join(parts)


def _transposed(array: Any, back: bool = False) -> Any:
    """Kernels from [height, width, in, out] or [in, out] to PyTorch's layout, or `back`; all else as it is."""
    axes = {4: (2, 3, 1, 0) if back else (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
    return array.transpose(axes) if axes else array


def state_dict(variables: Variables) -> dict[str, np.ndarray]:
    """A network's arrays under torchvision's names."""
    leaves = [leaf for tree in variables for leaf in jax.tree_util.tree_flatten_with_path(tree)[0]]
    return {
        _name(path): np.ascontiguousarray(_transposed(np.asarray(leaf))) for path, leaf in leaves
    }


def from_state_dict(state: Mapping[str, np.ndarray], like: Variables, field: str) -> Variables:
    """A network of the structure, shapes and types of `like` from a state dict that holds it.

    Entries that the network lacks (a classifier above it, counters) are passed over, and so is a prefix that all its names share
    (`module.`, `backbone.`). Raises `UserError`, naming `field`, where an entry is missing or of another shape.
    """
    names = {
        _name(path) for tree in like for path, _ in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
    first = min(names)
    prefix = min(
        (name.removesuffix(first) for name in state if name == first or name.endswith("." + first)),
        key=len,
        default="",
    )

    def leaf(path, wanted):
        name = prefix + _name(path)
        if name not in state:
            raise UserError(f"{field} must hold the configured encoder, but has no entry {name!r}")
        array = _transposed(np.asarray(state[name]), back=True)
        if array.shape != wanted.shape:
            raise UserError(
                f"{field} must hold the configured encoder, but its {name!r} has shape {np.shape(state[name])}"
            )
        return array.astype(wanted.dtype)

    return Variables(*(jax.tree_util.tree_map_with_path(leaf, tree) for tree in like))


def read(path: pathlib.Path, field: str) -> dict[str, np.ndarray]:
    """The state dict in a `.safetensors` file, or in a `.pt` or `.pth` file, which needs PyTorch; raises `UserError` naming `field`."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        try:
            import torch
        except ImportError:
            raise UserError(
                f"{field} {str(path)!r} needs PyTorch to be read (extra `torch`), or save it as .safetensors"
            ) from None
        found = torch.load(path, map_location="cpu", weights_only=True)
        found = next(
            (found[name] for name in ("state_dict", "model") if isinstance(found.get(name), dict)),
            found,
        )
        return {
            name: value.float().numpy()
            for name, value in found.items()
            if isinstance(value, torch.Tensor)
        }
    except UserError:
        raise
    except Exception as error:  # whatever a damaged or foreign file makes the readers raise
        raise UserError(f"{field} {str(path)!r} cannot be read: {first_line(error)}") from None


def write(path: pathlib.Path, state: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Writes a `.safetensors` file whole or not at all; `about` becomes its metadata, each value as JSON."""
    part = path.with_name(path.name + ".part")
    save_file(state, part, {name: json.dumps(value) for name, value in about.items()})
    os.replace(part, path)
