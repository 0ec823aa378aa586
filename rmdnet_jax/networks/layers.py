"""What a network is, and the layers that ours are made of.

Images are float32 [batch, height, width, channel], normalised per channel. A layer computes in the
type of its input. Parameters, statistics, pooled features and head outputs are float32, or float64
where that is computed in.

Conventions are PyTorch's, so that published numbers compare: symmetric padding of kernel // 2, no
bias before batch norm, He-normal fan-out convolutions, batch norm with epsilon 1e-5 and momentum
0.9 (PyTorch's 0.1), dense layers uniform in ±1/√fan_in. One thing differs: the running variance
averages the biased batch variance. Batch statistics are of the whole batch, over all devices.
"""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from rmdnet_jax import cpu
from rmdnet_jax.errors import one_of, within, wrong
from rmdnet_jax.types import Array, PyTree, Variables

EPSILON = 1e-5  # of batch norm
DTYPES = ("float32", "bfloat16", "float64")


class Init(Protocol):
    """Draws a network's arrays; of `x` only the shape is read."""

    def __call__(self, key: Array, x: Any, /) -> Variables: ...


class Apply(Protocol):
    """`(variables, x, train) -> (y, stats)`, in training by the batch's own statistics."""

    def __call__(self, variables: Variables, x: Array, train: bool, /) -> tuple[Any, PyTree]: ...


class Network(NamedTuple):
    """A network without its arrays, as two pure functions; nothing is random after `init`."""

    init: Init  # (key, images) -> variables
    apply: Apply  # (variables, images, train) -> (features, stats)


def count(params: PyTree) -> int:
    """The number of scalars in a parameter tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def wide(dtype: str | jnp.dtype) -> jnp.dtype:
    """The type of parameters, statistics and outputs: float32 or wider."""
    return jnp.promote_types(dtype, jnp.float32)


def computed(dtype: str) -> str:
    """What a network of a `dtype` computes in here: for bfloat16 on a CPU that is float32.

    XLA's bfloat16 is slower there, and with jax 0.11 and 0.12 it makes NaN of fused operations.
    """
    return "float32" if dtype == "bfloat16" and jax.default_backend() == "cpu" else dtype


def drawn(sample: Callable, scale: float) -> Callable:
    """Initialiser: `scale` times a sample.

    Drawn flat and reshaped, because that compiles about three times faster on a CPU.
    """
    return lambda key, shape, dtype: scale * sample(key, (math.prod(shape),), dtype).reshape(shape)


def conv(x: Array, features: int, kernel: int = 3, stride: int = 1, *, name: str) -> Array:
    """Square convolution without bias; [b, h, w, c] -> [b, ⌈h/stride⌉, ⌈w/stride⌉, features]."""
    return _conv(x, features, kernel, stride, name)(x)


def _conv(x: Array, features: int, kernel: int, stride: int, name: str) -> nn.Conv:
    return nn.Conv(
        features, (kernel, kernel), stride, kernel // 2, use_bias=False,
        dtype=x.dtype, param_dtype=wide(x.dtype), name=name,
        kernel_init=drawn(jax.random.normal, math.sqrt(2 / (kernel**2 * features))),
        conv_general_dilated=cpu.convolution if jax.default_backend() == "cpu" else None,
    )  # fmt: skip


def normed(
    x: Array, train: bool, features: int, kernel: int = 3, stride: int = 1, *, name: str, norm: str
) -> Array:
    """A convolution and the batch norm behind it, of two names.

    Where statistics are fixed both are one convolution with a bias, so images are passed over once:
    `w' = w s`, `b' = b - m s`, `s = gamma / sqrt(var + eps)`.
    """
    convolve, after = _conv(x, features, kernel, stride, name), _norm(x, norm)
    if train or after.is_initializing():
        return after(convolve(x), use_running_average=not train)
    known, stats = after.variables["params"], after.variables["batch_stats"]
    scale = known["scale"] * jax.lax.rsqrt(stats["var"] + EPSILON)
    weights = {"kernel": convolve.variables["params"]["kernel"] * scale}
    return convolve.clone(parent=None).apply({"params": weights}, x) + (
        known["bias"] - stats["mean"] * scale
    ).astype(x.dtype)


def norm(x: Array, train: bool, *, name: str, affine: bool = True) -> Array:
    """Batch norm over all axes but the last; statistics are computed in float32 or wider."""
    return _norm(x, name, affine)(x, use_running_average=not train)


def _norm(x: Array, name: str, affine: bool = True) -> nn.BatchNorm:
    return nn.BatchNorm(
        momentum=0.9, epsilon=EPSILON, dtype=x.dtype, param_dtype=wide(x.dtype),
        use_bias=affine, use_scale=affine, name=name,
    )  # fmt: skip


def pool(x: Array) -> Array:
    """Global average in float32 or wider: [batch, height, width, channel] -> [batch, channel]."""
    return jnp.mean(x, axis=(1, 2), dtype=wide(x.dtype))


def halve(x: Array) -> Array:
    """Max pooling over 2x2 windows; an axis of one pixel stays.

    Of equal values the first gets the gradient, as in PyTorch. By comparisons, because the
    gradient of a window reduction is ten times slower on a CPU.
    """
    for axis in (2, 1):
        if half := x.shape[axis] // 2:
            pairs = jax.lax.slice_in_dim(x, 0, 2 * half, axis=axis)
            pairs = pairs.reshape(*x.shape[:axis], half, 2, *x.shape[axis + 1 :])
            first, second = (
                jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1)
            )
            x = jnp.where(first >= second, first, second)
    return x


def positive(argument: str, values: Sequence[int]) -> tuple[int, ...]:
    """One or more widths as a tuple; refuses what is not an integer above zero."""
    whole = isinstance(values, Sequence) and all(isinstance(v, numbers.Integral) for v in values)
    if not whole or not values or min(values) < 1:
        raise wrong(argument, f"be one or more positive integers, got {values!r}")
    return tuple(values)


def linen(module: nn.Module, mode: Callable[[bool], dict], dtype: str = "float32") -> Network:
    """The network of a Linen module that is called as `module(x, **mode(train))`."""

    # Compiled, the forward pass is dropped and only the initialisers run.
    @functools.partial(jax.jit, static_argnums=1)
    def initialise(key: Array, shape: tuple[int, ...]) -> Variables:
        tree = nn.meta.unbox(module.init(key, jnp.zeros(shape, jnp.float32), **mode(False)))
        if other := sorted(set(tree) - {"params", "batch_stats"}):
            raise wrong("encoder", f"keep params and batch_stats only, got {', '.join(other)}")
        stats = jax.tree.map(lambda x: x.astype(wide(dtype)), tree.get("batch_stats", {}))
        return Variables(tree.get("params", {}), stats)

    def init(key: Array, x: Array) -> Variables:
        return initialise(key, (1, *x.shape[1:]))

    def apply(variables: Variables, x: Array, train: bool) -> tuple[Array, PyTree]:
        tree = {"params": variables.params, "batch_stats": variables.stats}
        y, state = module.apply(tree, x, **mode(train), mutable=["batch_stats"])
        return y, state.get("batch_stats", {})

    return Network(init, apply)


def grouped(network: Network, size: int) -> Network:
    """A network whose batch norms see at most `size` images at a time in training; 0: all.

    Devices then need not wait for each other in every layer. Running statistics become those of
    the mean group.

    Raises:
      UserError: in training, for a batch that is no whole number of groups.
    """
    within("norm_group", size, "[0, inf)", whole=True)

    def apply(variables: Variables, x: Array, train: bool) -> tuple[Any, PyTree]:
        if not train or len(x) <= size:
            return network.apply(variables, x, train)
        if len(x) % size:
            raise wrong("norm_group", f"divide the batch of {len(x)} images, got {size}")
        groups = x.reshape(-1, size, *x.shape[1:])
        y, stats = jax.vmap(lambda group: network.apply(variables, group, True))(groups)
        whole = jax.tree.map(lambda part: part.reshape(len(x), *part.shape[2:]), y)
        return whole, jax.tree.map(lambda part: jnp.mean(part, axis=0), stats)

    return Network(network.init, apply) if size else network


def network(module: nn.Module, dtype: str) -> Network:
    """The network of one of our modules; refuses a `dtype` that cannot be computed in."""
    one_of("dtype", dtype, DTYPES)
    if dtype == "float64" and jnp.result_type(float) != dtype:
        must = "be 'float32' or 'bfloat16', got 'float64', which needs JAX_ENABLE_X64=1"
        raise wrong("dtype", must)
    return linen(module, lambda train: {"train": train}, dtype)
