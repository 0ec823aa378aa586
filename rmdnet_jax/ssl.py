"""Self-supervised objectives for relation modeling: images in, no labels.

A factory is `f(encoder, dtype, *, hyper-parameters) -> SelfSupervised`; its keyword defaults are the configuration. Every objective trains
`params["encoder"]`, which becomes the teacher, below heads of its own, and logs `z_std` (see `spread`), by which collapse is seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rmdnet_jax.encoder import Network, mlp
from rmdnet_jax.relation import cosine, unit
from rmdnet_jax.types import Array, Variables


class SelfSupervised(NamedTuple):
    """A self-supervised objective as pure functions."""

    views: int
    init: Callable  # (key, image [batch, height, width, channel]) -> Variables
    loss: Callable  # (params, stats, image [view, batch, ...]) -> (scalar, stats, metrics)


def negative_cosine(prediction: Array, projection: Array) -> Array:
    """SimSiam's `D(p, z) = -mean_i cos(p_i, z_i)` in [-1, 1], without its stop-gradient; [batch, dim] each."""
    return cosine(prediction, projection) - 1.0


def spread(projection: Array) -> Array:
    """`std(z / ||z||) sqrt(dim)`, mean over dimensions: 1 for isotropic projections, 0 after collapse. [batch, dim] -> scalar."""
    return jnp.mean(jnp.std(unit(projection), axis=0)) * projection.shape[-1] ** 0.5


def simsiam(encoder: Network, dtype: str, *, projection: int = 2048, hidden: int = 512, layers: int = 2) -> SelfSupervised:
    """SimSiam: `L = D(h(z1), sg(z2)) / 2 + D(h(z2), sg(z1)) / 2`, z = projection, h = predictor.

    Args:
      encoder: the network whose features are projected.
      dtype: what the heads compute in, the encoder's own.
      projection: width of every projector layer; batch norm after each, the last without scale and offset.
      hidden: width of the predictor's bottleneck.
      layers: projector layers: 2 in the authors' CIFAR recipe, 3 on ImageNet.

    Source: Chen & He, CVPR 2021, Algorithm 1 and appendix D.
    """
    parts = {
        "encoder": encoder,
        "projector": mlp((projection,) * layers, dtype=dtype),
        "predictor": mlp((hidden, projection), norm_last=False, dtype=dtype),
    }

    def init(key, image):
        variables, x = {}, image
        for i, (name, part) in enumerate(parts.items()):
            variables[name] = part.init(jax.random.fold_in(key, i), x)
            x, _ = part.apply(variables[name], x, True)
        return Variables({n: v.params for n, v in variables.items()}, {n: v.stats for n, v in variables.items()})

    def forward(params, stats, image):
        outputs, x = [], image
        for name, part in parts.items():
            x, new = part.apply(Variables(params[name], stats[name]), x, True)
            stats = {**stats, name: new}
            outputs.append(x)
        return outputs[1], outputs[2], stats

    def loss(params, stats, image):
        # Each view has batch statistics of its own; the running ones take in both, one after the other.
        z1, p1, stats = forward(params, stats, image[0])
        z2, p2, stats = forward(params, stats, image[1])
        # The stop-gradient makes the projection a fixed target: without it the constant solution is reached at once.
        t1, t2 = jax.lax.stop_gradient((z1, z2))
        value = 0.5 * negative_cosine(p1, t2) + 0.5 * negative_cosine(p2, t1)
        return value, stats, {"z_std": spread(t1)}

    return SelfSupervised(views=2, init=init, loss=loss)


SSL = {"simsiam": simsiam}
