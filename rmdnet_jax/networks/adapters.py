"""Your own Flax network as an encoder: Linen or NNX, images in, features out.

An encoder sees normalised images, float32 [batch, height, width, channel]. It gives features
[batch, dim], so it usually ends in a global average. It may keep batch statistics. It draws no
random numbers once it is made, because equal runs must stay equal: no dropout.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from rmdnet_jax.errors import UserError, first_line, wrong
from rmdnet_jax.networks.layers import Network, linen, wide
from rmdnet_jax.types import Array, PyTree, Variables

# What a module may call its mode, and the value in training.
FLAGS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}
RANDOM = "draw no random numbers when it is applied: leave dropout out, or set its rate to 0"


def adapt(encoder: Any) -> Network:
    """A user's own Flax network as the pair of pure functions that training works with.

    Args:
      encoder: one of

        - a Linen module, called as `module(x)` or `module(x, train)`;
        - a function (or class) `rngs -> NNX module`, called likewise, its mode set by `train()` and
          `eval()`;
        - an NNX module, whose own arrays, pretrained perhaps, are the first ones whatever the seed;
        - a `Network`, which comes back as it is.

    Returns:
      `init(key, images) -> Variables` and `apply(variables, images, train) -> (features, stats)`.
      Features are float32 [batch, dim]. Parameters and statistics are nested dicts of arrays.

    Raises:
      UserError: for what is no such network, or has another call signature. From `init`: for a
        network that cannot run on the images, gives other than [batch, dim], draws random
        numbers, or changes its batch statistics in evaluation.

    Example:
      >>> import flax.linen as nn, jax, jax.numpy as jnp
      >>> import rmdnet_jax as rmd
      >>> class Small(nn.Module):
      ...     @nn.compact
      ...     def __call__(self, x, train):
      ...         x = nn.Conv(8, (3, 3))(x)
      ...         x = nn.BatchNorm(use_running_average=not train)(x)
      ...         return nn.relu(x).mean((1, 2))
      >>> encoder = rmd.adapt(Small())
      >>> images = jnp.zeros((2, 8, 8, 3))
      >>> variables = encoder.init(jax.random.key(0), images)
      >>> features, stats = encoder.apply(variables, images, False)
      >>> features.shape
      (2, 8)
    """
    if isinstance(encoder, Network):
        return encoder
    if isinstance(encoder, nn.Module):
        return _checked(linen(encoder, _mode(encoder)))
    if inspect.isclass(encoder) and issubclass(encoder, nn.Module):
        raise wrong("encoder", f"be a module, got the class: write {encoder.__name__}(...)")
    if isinstance(encoder, nnx.Module):
        return _checked(_nnx(lambda key: encoder))
    if callable(encoder):
        return _checked(_nnx(lambda key: _made(encoder, key)))
    kinds = "a Flax module (Linen or NNX), a function rngs -> NNX module, or a Network"
    raise wrong("encoder", f"be {kinds}, got {type(encoder).__name__}")


def _mode(module: Any) -> Callable[[bool], dict[str, bool]]:
    """`train -> keywords` that tell a module its mode, from its call's signature."""
    signature = inspect.signature(module.__call__)
    names = list(signature.parameters)
    variadic = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    needed = {
        p.name
        for p in signature.parameters.values()
        if p.default is p.empty and p.kind not in variadic
    }
    if not names or needed - {names[0], *FLAGS}:
        name = type(module).__name__
        raise wrong("encoder", f"be called as module(x) or module(x, train), got {name}{signature}")
    flags = [name for name in names[1:] if name in FLAGS]
    return lambda train: {name: FLAGS[name] == train for name in flags}


def _checked(network: Network) -> Network:
    """The network with float32 features, whose `init` tries both modes and tells what is wrong."""

    def apply(variables: Variables, x: Array, train: bool) -> tuple[Array, PyTree]:
        y, stats = network.apply(variables, x, train)
        if not isinstance(y, jax.Array) or y.ndim != 2 or len(y) != len(x):
            got = f"shape {y.shape}" if isinstance(y, jax.Array) else type(y).__name__
            must = "give features [batch, dim], by a global average perhaps"
            raise wrong("encoder", f"{must}; for images of shape {x.shape} got {got}")
        return y.astype(wide(y.dtype)), stats

    def evaluate(variables: Variables, x: Array) -> Array:
        y, stats = apply(variables, x, False)
        if not _same(stats, variables.stats):
            raise wrong("encoder", "keep its batch statistics in evaluation: let it take `train`")
        return y

    def init(key: Array, x: Array) -> Variables:
        image = jax.ShapeDtypeStruct((2, *x.shape[1:]), jnp.float32)
        with _told(f"images of shape {image.shape}"):
            variables = network.init(key, image)
            jax.eval_shape(evaluate, variables, image)
            jax.eval_shape(lambda v, x: apply(v, x, True), variables, image)
        return variables

    return Network(init, apply)


@contextlib.contextmanager
def _told(images: str) -> Iterator[None]:
    """Tells what a network raises as one line about the argument `encoder`."""
    try:
        yield
    except UserError:
        raise
    except flax.errors.InvalidRngError as error:
        raise wrong("encoder", f"{RANDOM}; Flax says: {first_line(error)}") from error
    except Exception as error:  # whatever a user's code raises
        raise wrong("encoder", f"run on {images}, got: {first_line(error)}") from error


def _same(one: PyTree, two: PyTree) -> bool:
    """Whether two trees hold the very same arrays."""
    leaves = jax.tree.leaves(one), jax.tree.leaves(two)
    return len(leaves[0]) == len(leaves[1]) and all(a is b for a, b in zip(*leaves))


# --- NNX


def _made(factory: Any, key: Array) -> nnx.Module:
    """The module that a factory makes."""
    try:
        module = factory(rngs=nnx.Rngs(key)) if _named(factory) else factory(nnx.Rngs(key))
    except Exception as error:  # whatever a user's code raises
        raise wrong("encoder", f"make a module from rngs, got: {first_line(error)}") from error
    if not isinstance(module, nnx.Module):
        kinds = "a Flax module, or a function rngs -> NNX module"
        raise wrong("encoder", f"be {kinds}, got one that gives {type(module).__name__}")
    return module


def _named(factory: Any) -> bool:
    """Whether a factory takes an argument of the name `rngs`."""
    signed = factory.__init__ if inspect.isclass(factory) else factory
    return "rngs" in inspect.signature(signed).parameters


def _split(module: nnx.Module) -> Any:
    """(graph, parameters, random state, all other arrays)."""
    return nnx.split(module, nnx.Param, nnx.RngState, ...)


def _nnx(make: Callable[[Array], nnx.Module]) -> Network:
    """The network of an NNX module that `make` makes from a key."""
    module = nnx.eval_shape(lambda: nnx.clone(make(jax.random.key(0))))
    mode = _mode(module)
    _, params, random, others = _split(module)
    graphs = []
    for switch in (module.eval, module.train):
        switch()
        graphs.append(_split(module)[0])

    @jax.jit
    def initialise(key: Array) -> Variables:
        _, params, _, others = _split(make(key))
        return Variables(_nested(params), _nested(others))

    def apply(variables: Variables, x: Array, train: bool) -> tuple[Array, PyTree]:
        still = jax.tree.map(_still, random)
        before = jax.tree.leaves(still)  # what is merged is changed in place
        arrays = _filled(params, variables.params), still, _filled(others, variables.stats)
        run = nnx.merge(graphs[train], *arrays)
        y = run(x, **mode(train))
        _, _, after, stats = _split(run)
        if not _same(after, before):
            raise wrong("encoder", RANDOM)
        return y, _nested(stats)

    return Network(lambda key, x: initialise(key), apply)


def _still(shape: jax.ShapeDtypeStruct) -> Array:
    """A key or count that stands where a module keeps its random state; none may be used."""
    is_key = jnp.issubdtype(shape.dtype, jax.dtypes.prng_key)
    return jnp.broadcast_to(
        jax.random.key(0) if is_key else jnp.zeros((), shape.dtype), shape.shape
    )


def _names(path: tuple) -> list[str]:
    """The names of a leaf's place in a state: ["layers", "0", "kernel"]."""
    text = jax.tree_util.keystr(path, simple=True, separator="/")
    return text.removesuffix("/value").split("/")


def _nested(state: PyTree) -> dict:
    """The arrays of an NNX state as nested dicts."""
    tree: dict = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        *above, last = _names(path)
        node = tree
        for name in above:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def _filled(state: PyTree, tree: dict) -> PyTree:
    """An NNX state of these nested dicts' arrays."""

    def leaf(path: tuple, _: Any) -> Any:
        node: Any = tree
        for name in _names(path):
            node = node[name]
        return node

    return jax.tree_util.tree_map_with_path(leaf, state)
