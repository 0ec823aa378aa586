"""Networks as pairs of pure functions: the encoders that see images, and the heads that see features.

Inputs are normalised images, float32 NHWC (heads: float32 [batch, dim]). `dtype` is the type that is computed in: with "bfloat16" the
convolutions and matrix products run in bfloat16, while parameters, batch-norm statistics, pooled features and head outputs stay float32.
"float64" makes all of them float64; it is meant for parity tests and needs JAX's x64 mode.

Conventions are PyTorch's, so that published numbers compare: explicit symmetric padding (kernel // 2, also at stride 2, where "SAME"
would pad on one side only), no bias where batch norm follows, He-normal fan-out convolutions (torchvision), batch norm with scale 1,
bias 0, epsilon 1e-5 and momentum 0.9 (PyTorch calls it 0.1), dense layers uniform in ±1/√fan_in. One thing differs: the running
variance averages the biased batch variance, PyTorch's the unbiased one. Batch statistics are means over the whole batch: under
`jax.jit` on a batch that is sharded over devices they are global. Nothing here is random after `init`.

This is the only module that imports Flax.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from rmdnet_jax.errors import UserError, unknown
from rmdnet_jax.types import Array, PyTree, Variables

DTYPES = ("float32", "bfloat16", "float64")
STEMS = ("cifar", "imagenet")


class Network(NamedTuple):
    """A network without its arrays."""

    init: Callable  # (key, x) -> Variables; of x only the shape is read
    apply: Callable  # (variables, x, train: bool) -> (y, stats): in training by the batch's statistics, with stats moved towards them


def count(params: PyTree) -> int:
    """The number of scalars in a parameter tree."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


# --- layers: the type of `x` is the type that is computed in ---------------------------------------------------------------------------


def _wide(dtype: str | jnp.dtype) -> jnp.dtype:
    """The type of parameters, statistics and outputs: float32, or float64 where that is computed in."""
    return jnp.promote_types(dtype, jnp.float32)


def _drawn(sample: Callable, scale: float) -> Callable:
    """Initialiser: `scale` times a sample, drawn flat and reshaped because that compiles about three times faster on a CPU."""
    return lambda key, shape, dtype: scale * sample(key, (math.prod(shape),), dtype).reshape(shape)


def _conv(x: Array, features: int, kernel: int = 3, stride: int = 1, *, name: str) -> Array:
    """Square convolution without bias: [batch, height, width, channel] -> [batch, ⌈height/stride⌉, ⌈width/stride⌉, features]."""
    he = _drawn(jax.random.normal, math.sqrt(2 / (kernel**2 * features)))
    size, dtype, wide = (kernel, kernel), x.dtype, _wide(x.dtype)
    layer = nn.Conv(
        features,
        size,
        stride,
        kernel // 2,
        use_bias=False,
        dtype=dtype,
        param_dtype=wide,
        kernel_init=he,
        name=name,
    )
    return layer(x)


def _norm(x: Array, train: bool, *, name: str, affine: bool = True) -> Array:
    """Batch norm over all axes but the last; its statistics are computed in float32 or wider."""
    dtype, wide = x.dtype, _wide(x.dtype)
    layer = nn.BatchNorm(
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        param_dtype=wide,
        use_bias=affine,
        use_scale=affine,
        name=name,
    )
    return layer(x, use_running_average=not train)


def _pool(x: Array) -> Array:
    """Global average in float32 or wider: [batch, height, width, channel] -> [batch, channel]."""
    return jnp.mean(x, axis=(1, 2), dtype=_wide(x.dtype))


def _halve(x: Array) -> Array:
    """Max pooling over 2x2 windows; an axis already at one pixel stays there. Of equal values the first gets the gradient, as in PyTorch.

    By comparisons, because the gradient of a window reduction is ten times slower on a CPU.
    """
    for axis in (2, 1):
        if half := x.shape[axis] // 2:
            pairs = jax.lax.slice_in_dim(x, 0, 2 * half, axis=axis).reshape(
                *x.shape[:axis], half, 2, *x.shape[axis + 1 :]
            )
            first, second = (
                jax.lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in (0, 1)
            )
            x = jnp.where(first >= second, first, second)
    return x


class _Block(nn.Module):
    """Residual block, a chain of convolutions beside a shortcut that is a 1x1 convolution where the shape changes."""

    convs: tuple[tuple[int, int, int], ...]  # (features, kernel, stride) of each
    preact: bool  # norm and ReLU before the first convolution instead of after the last

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        features, stride = self.convs[-1][0], math.prod(stride for _, _, stride in self.convs)
        y = nn.relu(_norm(x, train, name="norm0")) if self.preact else x
        shortcut = x
        if stride != 1 or x.shape[-1] != features:
            shortcut = _conv(y, features, 1, stride, name="shortcut")
            if not self.preact:
                shortcut = _norm(shortcut, train, name="shortcut_norm")
        for i, conv in enumerate(self.convs[:-1], start=1):
            y = nn.relu(_norm(_conv(y, *conv, name=f"conv{i}"), train, name=f"norm{i}"))
        last = len(self.convs)
        y = _conv(y, *self.convs[-1], name=f"conv{last}")
        return (
            y + shortcut if self.preact else nn.relu(_norm(y, train, name=f"norm{last}") + shortcut)
        )


class _ResNet(nn.Module):
    """Stem, stages of residual blocks, each stage but the first at half the resolution, global average: images -> [batch, dim]."""

    stem_width: int
    widths: tuple[int, ...]  # of each stage; its output is four times as wide with bottlenecks
    blocks: tuple[int, ...]  # in each stage
    dtype: str
    stem: str = "cifar"
    bottleneck: bool = False
    preact: bool = False
    final_norm: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        kernel, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        x = _conv(x.astype(self.dtype), self.stem_width, kernel, stride, name="stem")
        if not self.preact:
            x = nn.relu(_norm(x, train, name="stem_norm"))
        if self.stem == "imagenet":
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # type: ignore[arg-type]  # Flax documents pairs, and annotates str
        for stage, (width, blocks) in enumerate(zip(self.widths, self.blocks), start=1):
            for block in range(1, blocks + 1):
                convs = self.convs(width, 2 if stage > 1 and block == 1 else 1)
                x = _Block(convs, self.preact, name=f"stage{stage}_block{block}")(x, train)
        if self.final_norm:
            x = nn.relu(_norm(x, train, name="final_norm"))
        return _pool(x)

    def convs(self, width: int, stride: int) -> tuple[tuple[int, int, int], ...]:
        """The (features, kernel, stride) of a block's convolutions; a bottleneck strides in its 3x3 ("v1.5")."""
        if self.bottleneck:
            return (width, 1, 1), (width, 3, stride), (4 * width, 1, 1)
        return (width, 3, stride), (width, 3, 1)


class _CNN(nn.Module):
    """3x3 convolution, norm, ReLU for each width, with 2x2 max pooling between them, global average: images -> [batch, widths[-1]]."""

    widths: tuple[int, ...]
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = x.astype(self.dtype)
        for i, width in enumerate(self.widths, start=1):
            if i > 1:
                x = _halve(x)
            x = nn.relu(_norm(_conv(x, width, name=f"conv{i}"), train, name=f"norm{i}"))
        return _pool(x)


class _Dense(nn.Module):
    """x W + b, multiplied in `dtype` and summed in float32 or wider: [..., dim] -> [..., features]."""

    features: int
    dtype: str
    bias: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        wide = _wide(self.dtype)
        uniform = _drawn(
            functools.partial(jax.random.uniform, minval=-1, maxval=1), 1 / math.sqrt(x.shape[-1])
        )
        kernel = self.param("kernel", uniform, (x.shape[-1], self.features), wide)
        y = jnp.matmul(x.astype(self.dtype), kernel.astype(self.dtype), preferred_element_type=wide)
        return (
            y + jnp.broadcast_to(self.param("bias", uniform, (self.features,), wide), y.shape)
            if self.bias
            else y
        )


class _MLP(nn.Module):
    """Dense, norm, ReLU for each hidden width; the last layer is dense with a norm without scale and bias, or with a bias of its own."""

    widths: tuple[int, ...]
    norm_last: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        for i, width in enumerate(self.widths[:-1], start=1):
            x = nn.relu(
                _norm(
                    _Dense(width, self.dtype, bias=False, name=f"dense{i}")(x),
                    train,
                    name=f"norm{i}",
                )
            )
        last = len(self.widths)
        x = _Dense(self.widths[-1], self.dtype, bias=not self.norm_last, name=f"dense{last}")(x)
        return _norm(x, train, name=f"norm{last}", affine=False) if self.norm_last else x


# --- from modules to networks ----------------------------------------------------------------------------------------------------------


def _network(module: nn.Module, dtype: str) -> Network:
    """The two pure functions of a module; refuses a `dtype` that cannot be computed in."""
    if dtype not in DTYPES:
        raise unknown("encoder.dtype", dtype, DTYPES)
    if dtype == "float64" and jnp.result_type(float) != dtype:
        raise UserError(
            "encoder.dtype must be 'float32' or 'bfloat16', got 'float64', which needs JAX_ENABLE_X64=1"
        )

    @functools.partial(
        jax.jit, static_argnums=1
    )  # compiled, the forward pass is dropped and only the initialisers run
    def initialise(key: Array, shape: tuple[int, ...]) -> Variables:
        tree = module.init(key, jnp.zeros(shape, jnp.float32), train=False)
        stats = jax.tree.map(lambda leaf: leaf.astype(_wide(dtype)), tree.get("batch_stats", {}))
        return Variables(tree["params"], stats)

    def init(key: Array, x: Array) -> Variables:
        return initialise(key, (1, *x.shape[1:]))

    def apply(variables: Variables, x: Array, train: bool) -> tuple[Array, PyTree]:
        tree = {"params": variables.params, "batch_stats": variables.stats}
        y, state = module.apply(tree, x, train=train, mutable=["batch_stats"])
        return y, state.get("batch_stats", {})

    return Network(init, apply)


def _positive(field: str, value: int | Sequence[int]) -> tuple[int, ...]:
    """A width, or one or more of them, as a tuple; refuses what is not an integer above zero."""
    values = (value,) if (one := not isinstance(value, Sequence)) else tuple(value)
    if not values or not all(isinstance(item, int) and item > 0 for item in values):
        raise UserError(
            f"{field} must be {'a positive integer' if one else 'one or more positive integers'}, got {value!r}"
        )
    return values


def _resnet(
    blocks: tuple[int, ...],
    stem: str,
    width: int,
    dtype: str,
    bottleneck: bool = False,
    preact: bool = False,
) -> Network:
    if stem not in STEMS:
        raise unknown("encoder.stem", stem, STEMS)
    _positive("encoder.width", width)
    widths = (width, 2 * width, 4 * width, 8 * width)
    return _network(_ResNet(width, widths, blocks, dtype, stem, bottleneck, preact), dtype)


def cnn(*, widths: Sequence[int] = (16, 32, 64), dtype: str = "float32") -> Network:
    """Plain convolutional network for tiny images: [batch, height, width, channel] -> [batch, widths[-1]]."""
    return _network(_CNN(_positive("encoder.widths", widths), dtype), dtype)


def preact_resnet18(*, width: int = 64, dtype: str = "float32") -> Network:
    """PreAct ResNet-18 for 32x32 images, without a norm at the stem or the end: images -> [batch, 8 width].

    Source: He, Zhang, Ren, Sun 2016, "Identity mappings in deep residual networks"; the CIFAR form that papers on noisy labels use.
    """
    return _resnet((2, 2, 2, 2), "cifar", width, dtype, preact=True)


def resnet18(*, stem: str = "cifar", width: int = 64, dtype: str = "float32") -> Network:
    """ResNet-18: images -> [batch, 8 width]. Source: He, Zhang, Ren, Sun 2016; the "cifar" stem is a 3x3 convolution and no pooling."""
    return _resnet((2, 2, 2, 2), stem, width, dtype)


def resnet34(*, stem: str = "cifar", width: int = 64, dtype: str = "float32") -> Network:
    """ResNet-34: images -> [batch, 8 width]. Source: He, Zhang, Ren, Sun 2016; stems as in `resnet18`."""
    return _resnet((3, 4, 6, 3), stem, width, dtype)


def resnet50(*, stem: str = "imagenet", width: int = 64, dtype: str = "float32") -> Network:
    """ResNet-50: images -> [batch, 32 width]. Source: He, Zhang, Ren, Sun 2016; strides stand in the 3x3 convolutions ("v1.5")."""
    return _resnet((3, 4, 6, 3), stem, width, dtype, bottleneck=True)


def wrn28_2(*, width: int = 16, dtype: str = "float32") -> Network:
    """Wide ResNet 28-2: images -> [batch, 8 width]. Source: Zagoruyko, Komodakis 2016; no dropout, ReLU where some SSL codes leak."""
    _positive("encoder.width", width)
    widths = (2 * width, 4 * width, 8 * width)
    return _network(_ResNet(width, widths, (4, 4, 4), dtype, preact=True, final_norm=True), dtype)


ENCODERS: dict[str, Callable[..., Network]] = {
    "cnn": cnn,
    "preact_resnet18": preact_resnet18,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "wrn28_2": wrn28_2,
}


def linear(classes: int, *, dtype: str = "float32") -> Network:
    """Linear classifier, weights and bias uniform in ±1/√dim (PyTorch's default): [batch, dim] -> logits [batch, classes]."""
    _positive("classes", classes)
    return _network(_Dense(classes, dtype), dtype)


def mlp(widths: Sequence[int], *, norm_last: bool = True, dtype: str = "float32") -> Network:
    """SSL head: [batch, dim] -> [batch, widths[-1]]; a projector ends in a norm without scale and bias; a predictor has `norm_last=False`.

    Source: Chen, He 2021, "Exploring simple Siamese representation learning", appendix A; the depth is free here.
    """
    return _network(_MLP(_positive("mlp.widths", widths), norm_last, dtype), dtype)
