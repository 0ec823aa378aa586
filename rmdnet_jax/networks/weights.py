"""Networks from and to files: state dicts in `.safetensors`, and PyTorch's `.pt` files to read.

A state dict is {name: NumPy array}. Our own networks have torchvision's names and PyTorch's layout:
convolutions [out, in, height, width], dense layers [out, in]. A user's network keeps its own names
and layout (`own=True`). Nothing that is read can run code.
"""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save

from rmdnet_jax.errors import UserError, first_line
from rmdnet_jax.files import whole
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
THEIRS = (  # parts of Hugging Face's names of a ResNet -> torchvision's, which timm has, too
    (r"embedder\.embedder\.convolution", "conv1"),
    (r"embedder\.embedder\.normalization", "bn1"),
    (r"encoder\.stages\.(\d+)\.layers", lambda m: f"layer{int(m[1]) + 1}"),
    (r"layer\.(\d+)\.convolution", lambda m: f"conv{int(m[1]) + 1}"),
    (r"layer\.(\d+)\.normalization", lambda m: f"bn{int(m[1]) + 1}"),
    (r"shortcut\.convolution", "downsample.0"),
    (r"shortcut\.normalization", "downsample.1"),
)
RESNETS: dict[tuple, str] = {  # (blocks of each stage, has bottlenecks) -> an entry of ENCODERS
    (2, 2, 2, 2, False): "resnet18",
    (3, 4, 6, 3, False): "resnet34",
    (3, 4, 6, 3, True): "resnet50",
}


def _renamed(part: str) -> str:
    """torchvision's name of a part of a path."""
    for pattern, new in RENAMED:
        if match := re.fullmatch(pattern, part):
            return match.expand(new) if isinstance(new, str) else new(match)
    return part


def _torchvisions(name: str) -> str:
    """torchvision's name of an entry that Hugging Face's transformers names.

    "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight" ->
    "resnet.layer2.0.downsample.0.weight".
    """
    for pattern, new in THEIRS:
        name = re.sub(rf"(?<![^.]){pattern}(?![^.])", new, name)
    return name


def described(state: Mapping[str, np.ndarray]) -> dict[str, Any] | None:
    """The name and fields of the ResNet that a state dict holds, by its names and shapes.

    The names are torchvision's, timm's or Hugging Face's. None: it is no such network.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from rmdnet_jax.networks import encoders, weights
      >>> resnet = encoders.resnet34(width=4)
      >>> variables = jax.eval_shape(resnet.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
      >>> state = weights.state_dict(jax.tree.map(lambda x: jnp.zeros(x.shape), variables))
      >>> weights.described(state)
      {'name': 'resnet34', 'stem': 'cifar', 'width': 4}
    """
    shapes = {_torchvisions(name): np.shape(array) for name, array in state.items()}
    first = "layer1.0.conv1.weight"
    before = _prefix(shapes, first)
    blocks = (
        sum(f"{before}layer{stage}.{block}.conv1.weight" in shapes for block in range(99))
        for stage in range(1, 5)
    )
    name = RESNETS.get((*blocks, f"{before}layer1.0.conv3.weight" in shapes))
    stem = shapes.get(f"{before}conv1.weight", ())
    if not name or len(stem) != 4 or f"{before}bn1.weight" not in shapes:
        return None
    return {"name": name, "stem": "imagenet" if stem[-1] == 7 else "cifar", "width": stem[0]}


def _prefix(names: Iterable[str], first: str) -> str:
    """What stands before the names of a network, `first` among them; the shortest such."""
    found = (n.removesuffix(first) for n in names if f".{n}".endswith(f".{first}"))
    return min(found, key=len, default="")


def _name(path: tuple, own: bool) -> str:
    """A leaf's name: `.params["stage1_block2"]["conv1"]["kernel"]` -> "layer1.1.conv1.weight".

    With `own`, "params.stage1_block2.conv1.kernel".
    """
    collection, *parts = path
    if own:
        return ".".join([collection.name, *(part.key for part in parts)])
    return ".".join(_renamed(part.key) for part in parts)


def _transposed(array: Any, own: bool, back: bool = False) -> Any:
    """Kernels from [height, width, in, out] or [in, out] to PyTorch's layout, or `back`."""
    axes = {4: (2, 3, 1, 0) if back else (3, 2, 0, 1), 2: (1, 0)}.get(array.ndim)
    return array.transpose(axes) if axes and not own else array


def state_dict(variables: Variables, *, own: bool = False) -> dict[str, np.ndarray]:
    """A network's arrays under torchvision's names, or under its `own`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from rmdnet_jax.networks import encoders, weights
      >>> variables = encoders.cnn(widths=(4,)).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))
      >>> {name: array.shape for name, array in sorted(weights.state_dict(variables).items())}
      {'bn1.bias': (4,), 'bn1.running_mean': (4,), 'bn1.running_var': (4,), 'bn1.weight': (4,),
       'conv1.weight': (4, 3, 3, 3)}
    """
    leaves = jax.tree_util.tree_flatten_with_path(variables)[0]
    return {
        _name(path, own): np.ascontiguousarray(_transposed(np.asarray(leaf), own))
        for path, leaf in leaves
    }


def from_state_dict(
    state: Mapping[str, np.ndarray], like: Variables, field: str, *, own: bool = False
) -> Variables:
    """A network of the structure, shapes and types of `like` from a state dict that holds it.

    The names are torchvision's, timm's or Hugging Face's, or the network's `own`. Entries that the
    network lacks are passed over (a classifier above it, counters), and so is a prefix that all its
    names share (`module.`, `backbone.`).

    Raises:
      UserError: naming `field`, where an entry is missing, has another shape, or holds anything
        but finite floating-point numbers.
    """
    if not own:
        state = {_torchvisions(name): array for name, array in state.items()}
    # The longest ends no other: of a shorter one, "bn1.bias", "layer1.0.bn1.bias" is an end.
    names = [_name(path, own) for path, _ in jax.tree_util.tree_flatten_with_path(like)[0]]
    first = max(names, key=len)
    prefix = _prefix(state, first)

    def leaf(path: tuple, wanted: Any) -> np.ndarray:
        name = prefix + _name(path, own)
        must = f"{field} must hold this encoder, but"
        if name not in state:
            raise UserError(f"{must} has no entry {name!r}")
        array = _transposed(np.asarray(state[name]), own, back=True)
        if array.shape != wanted.shape:
            raise UserError(f"{must} its {name!r} has shape {np.shape(state[name])}")
        if not jnp.issubdtype(array.dtype, jnp.floating):
            raise UserError(f"{must} its {name!r} is of {array.dtype}, not of floats")
        with np.errstate(over="ignore"):  # what is too large becomes infinite
            array = array.astype(wanted.dtype)
        if not np.isfinite(array).all():
            raise UserError(f"{must} its {name!r} is not finite")
        return array

    found = jax.tree_util.tree_map_with_path(leaf, like)
    more = {name for name in state if name.startswith(prefix + "layer")}
    more -= {prefix + name for name in names}
    if strange := sorted(name for name in more if not name.endswith("num_batches_tracked")):
        raise UserError(f"{field} must hold this encoder, but has more layers: {strange[0]!r}")
    return found


def check(variables: Variables, field: str) -> None:
    """Raises `UserError`, naming `field`, for weights that are not finite."""
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables)):
        raise UserError(f"{field} holds weights that are not finite")


def read(path: pathlib.Path, field: str) -> dict[str, np.ndarray]:
    """The state dict in a `.safetensors` file, or in a `.pt` or `.pth` file, which needs PyTorch.

    Raises:
      UserError: naming `field`, where the file cannot be read.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        try:
            import torch
        except ImportError:
            needs = "needs PyTorch to be read (extra `torch`), or save it as .safetensors"
            raise UserError(f"{field} {str(path)!r} {needs}") from None
        found = torch.load(path, map_location="cpu", weights_only=True)
        inner = (found[n] for n in ("state_dict", "model") if isinstance(found.get(n), dict))
        return {
            name: (value.float() if value.is_floating_point() else value).numpy()
            for name, value in next(inner, found).items()
            if isinstance(value, torch.Tensor)
        }
    except UserError:
        raise
    except Exception as error:  # whatever a damaged or foreign file makes the readers raise
        raise UserError(f"{field} {str(path)!r} cannot be read: {first_line(error)}") from None


def about(path: pathlib.Path, field: str) -> dict[str, Any]:
    """The metadata of a `.safetensors` file that `write` wrote; {} for a file of weights alone."""
    try:
        with safe_open(path, "np") as file:
            found = file.metadata() or {}
        return {name: json.loads(value) for name, value in found.items()}
    except ValueError:  # metadata of somebody else's, such as {"format": "pt"}
        return {}
    except Exception as error:
        raise UserError(f"{field} {str(path)!r} cannot be read: {first_line(error)}") from None


def write(path: pathlib.Path, state: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Writes a `.safetensors` file whole or not at all.

    `about` becomes its metadata, each value as JSON.
    """
    content = save(state, {name: json.dumps(value) for name, value in about.items()})
    with whole(path) as part:
        part.write_bytes(_ordered(content))


def _ordered(content: bytes) -> bytes:
    """A `.safetensors` file with its metadata in order: equal networks are equal bytes."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the arrays stay aligned
    return len(text).to_bytes(8, "little") + text + content[end:]
