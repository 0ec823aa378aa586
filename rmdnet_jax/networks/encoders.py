"""Encoders: networks that see images, float32 [batch, height, width, channel], and give features.

`dtype` is what a network computes in. With "bfloat16" convolutions and matrix products run in
bfloat16; parameters, statistics and features stay float32. On a CPU all is float32 then, see
`layers.computed`. "float64" is for parity tests and needs JAX's x64 mode. See `layers` for the
conventions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import flax.linen as nn

from rmdnet_jax.errors import one_of, within
from rmdnet_jax.networks.layers import (
    Network,
    computed,
    conv,
    halve,
    network,
    norm,
    normed,
    pool,
    positive,
)
from rmdnet_jax.types import Array

STEMS = ("cifar", "imagenet")


class _Block(nn.Module):
    """Residual block: a chain of convolutions beside a shortcut.

    The shortcut is a 1x1 convolution where the shape changes.
    """

    convs: tuple[tuple[int, int, int], ...]  # (features, kernel, stride) of each
    preact: bool  # norm and ReLU before the first convolution instead of after the last

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        features, stride = self.convs[-1][0], math.prod(stride for _, _, stride in self.convs)
        y = nn.relu(norm(x, train, name="norm0")) if self.preact else x
        shortcut = x
        if stride != 1 or x.shape[-1] != features:
            shape = features, 1, stride
            if self.preact:
                shortcut = conv(y, *shape, name="shortcut")
            else:
                shortcut = normed(y, train, *shape, name="shortcut", norm="shortcut_norm")
        for i, sizes in enumerate(self.convs[:-1], start=1):
            y = nn.relu(normed(y, train, *sizes, name=f"conv{i}", norm=f"norm{i}"))
        last = len(self.convs)
        if self.preact:
            return conv(y, *self.convs[-1], name=f"conv{last}") + shortcut
        y = normed(y, train, *self.convs[-1], name=f"conv{last}", norm=f"norm{last}")
        return nn.relu(y + shortcut)


class _ResNet(nn.Module):
    """Stem, stages of residual blocks, global average: images -> [batch, dim].

    Each stage but the first halves the resolution.
    """

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
        x, stem = x.astype(computed(self.dtype)), (self.stem_width, kernel, stride)
        if self.preact:
            x = conv(x, *stem, name="stem")
        else:
            x = nn.relu(normed(x, train, *stem, name="stem", norm="stem_norm"))
        if self.stem == "imagenet":
            # Flax documents pairs, and annotates str.
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # type: ignore[arg-type]
        for stage, (width, blocks) in enumerate(zip(self.widths, self.blocks), start=1):
            for block in range(1, blocks + 1):
                convs = self.convs(width, 2 if stage > 1 and block == 1 else 1)
                x = _Block(convs, self.preact, name=f"stage{stage}_block{block}")(x, train)
        if self.final_norm:
            x = nn.relu(norm(x, train, name="final_norm"))
        return pool(x)

    def convs(self, width: int, stride: int) -> tuple[tuple[int, int, int], ...]:
        """The (features, kernel, stride) of a block's convolutions."""
        if self.bottleneck:
            return (width, 1, 1), (width, 3, stride), (4 * width, 1, 1)
        return (width, 3, stride), (width, 3, 1)


class _CNN(nn.Module):
    """3x3 convolution, norm, ReLU for each width, 2x2 max pooling between, global average."""

    widths: tuple[int, ...]
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        x = x.astype(computed(self.dtype))
        for i, width in enumerate(self.widths, start=1):
            if i > 1:
                x = halve(x)
            x = nn.relu(normed(x, train, width, name=f"conv{i}", norm=f"norm{i}"))
        return pool(x)


def _resnet(
    blocks: tuple[int, ...],
    stem: str,
    width: int,
    dtype: str,
    bottleneck: bool = False,
    preact: bool = False,
) -> Network:
    one_of("stem", stem, STEMS)
    within("width", width, "[1, inf)", whole=True)
    widths = (width, 2 * width, 4 * width, 8 * width)
    return network(_ResNet(width, widths, blocks, dtype, stem, bottleneck, preact), dtype)


def cnn(*, widths: Sequence[int] = (16, 32, 64), dtype: str = "float32") -> Network:
    """Plain convolutional network for tiny images: images -> [batch, widths[-1]]."""
    return network(_CNN(positive("widths", widths), dtype), dtype)


def preact_resnet18(*, width: int = 64, dtype: str = "float32") -> Network:
    """PreAct ResNet-18 for 32x32 images: images -> [batch, 8 width].

    There is no norm at the stem or the end: the CIFAR form that papers on noisy labels use.
    Source: He, Zhang, Ren, Sun 2016, "Identity mappings in deep residual networks".
    """
    return _resnet((2, 2, 2, 2), "cifar", width, dtype, preact=True)


def resnet18(*, stem: str = "cifar", width: int = 64, dtype: str = "float32") -> Network:
    """ResNet-18: images -> [batch, 8 width].

    The stem "cifar" is a 3x3 convolution; "imagenet" is 7x7 at stride 2, then max pooling.
    Source: He, Zhang, Ren, Sun 2016, "Deep residual learning for image recognition".
    """
    return _resnet((2, 2, 2, 2), stem, width, dtype)


def resnet34(*, stem: str = "cifar", width: int = 64, dtype: str = "float32") -> Network:
    """ResNet-34: images -> [batch, 8 width]. Source and stems: see `resnet18`."""
    return _resnet((3, 4, 6, 3), stem, width, dtype)


def resnet50(*, stem: str = "imagenet", width: int = 64, dtype: str = "float32") -> Network:
    """ResNet-50: images -> [batch, 32 width]. Source and stems: see `resnet18`.

    Strides stand in the 3x3 convolutions ("v1.5"), as in torchvision.
    """
    return _resnet((3, 4, 6, 3), stem, width, dtype, bottleneck=True)


def wrn28_2(*, width: int = 16, dtype: str = "float32") -> Network:
    """Wide ResNet 28-2: images -> [batch, 8 width].

    Source: Zagoruyko, Komodakis 2016; no dropout, and ReLU where some SSL codes leak.
    """
    within("width", width, "[1, inf)", whole=True)
    widths = (2 * width, 4 * width, 8 * width)
    return network(_ResNet(width, widths, (4, 4, 4), dtype, preact=True, final_norm=True), dtype)


ENCODERS: dict[str, Callable[..., Network]] = {
    "cnn": cnn,
    "preact_resnet18": preact_resnet18,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "wrn28_2": wrn28_2,
}
"""Encoders by name, `(*, fields) -> Network`, or a Flax module."""
