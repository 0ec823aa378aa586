"""Networks that see features, float32 [batch, dim]: the classifier, and the heads of SSL."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from rmdnet_jax.errors import within
from rmdnet_jax.networks.layers import Network, computed, drawn, network, norm, positive, wide
from rmdnet_jax.types import Array


class _Dense(nn.Module):
    """x W + b, multiplied in `dtype` and summed in float32 or wider; [..., features]."""

    features: int
    dtype: str
    bias: bool = True

    @nn.compact
    def __call__(self, x: Array, train: bool = False) -> Array:
        scale, out, own = 1 / math.sqrt(x.shape[-1]), wide(self.dtype), computed(self.dtype)
        uniform = drawn(functools.partial(jax.random.uniform, minval=-1, maxval=1), scale)
        kernel = self.param("kernel", uniform, (x.shape[-1], self.features), out)
        y = jnp.matmul(x.astype(own), kernel.astype(own), preferred_element_type=out)
        if not self.bias:
            return y
        bias = self.param("bias", uniform, (self.features,), out)
        return y + jnp.broadcast_to(bias, y.shape)


class _MLP(nn.Module):
    """Dense, norm, ReLU for each hidden width; last dense and a plain norm, or a bias."""

    widths: tuple[int, ...]
    norm_last: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        last = len(self.widths)
        for i, width in enumerate(self.widths[:-1], start=1):
            x = _Dense(width, self.dtype, bias=False, name=f"dense{i}")(x)
            x = nn.relu(norm(x, train, name=f"norm{i}"))
        x = _Dense(self.widths[-1], self.dtype, bias=not self.norm_last, name=f"dense{last}")(x)
        return norm(x, train, name=f"norm{last}", affine=False) if self.norm_last else x


def linear(classes: int, *, dtype: str = "float32") -> Network:
    """Linear classifier: [batch, dim] -> logits [batch, classes].

    Weights and bias are uniform in ±1/√dim, PyTorch's default.
    """
    within("classes", classes, "[1, inf)", whole=True)
    return network(_Dense(classes, dtype), dtype)


def mlp(widths: Sequence[int], *, norm_last: bool = True, dtype: str = "float32") -> Network:
    """SSL head: [batch, dim] -> [batch, widths[-1]].

    A projector ends in a norm without scale and bias; a predictor has `norm_last=False`.

    Source: Chen, He 2021, "Exploring simple Siamese representation learning", appendix A; the
    depth is free here.
    """
    return network(_MLP(positive("widths", widths), norm_last, dtype), dtype)
