"""Self-supervised objectives for relation modeling: images in, no labels.

A factory is `f(encoder, dtype, *, hyper-parameters) -> SelfSupervised`; its keyword defaults are the configuration. Every objective trains
`params["encoder"]`, which becomes the teacher, below heads of its own, and logs `z_std` (see `spread`), by which collapse is seen. Widths:
`hidden` and `projection` are of the projector, and of a predictor where there is one. `dtype` is what heads compute in, the encoder's own.
Statistics and negatives are of the whole batch, over all devices.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rmdnet_jax.errors import UserError
from rmdnet_jax.networks.heads import mlp
from rmdnet_jax.networks.layers import Network
from rmdnet_jax.relations.losses import cosine, log_matrix, unit
from rmdnet_jax.types import Array, PyTree, Variables


class SelfSupervised(NamedTuple):
    """A self-supervised objective as pure functions."""

    views: int
    init: Callable  # (key, image [batch, height, width, channel]) -> (Variables, memory)
    loss: Callable  # (params, stats, memory, image [view, batch, ...], progress in [0, 1]) -> (scalar, stats, memory, metrics)


class Chain(NamedTuple):
    """Networks one above the other, by name."""

    init: Callable  # (key, image) -> Variables
    forward: Callable  # (params, stats, image) -> (the output of each network, stats)


def chain(**parts: Network) -> Chain:
    """Networks by name, each above the one before."""

    def init(key: Array, image: Array) -> Variables:
        variables, x = {}, image
        for i, (name, part) in enumerate(parts.items()):
            variables[name] = part.init(jax.random.fold_in(key, i), x)
            x, _ = part.apply(variables[name], x, True)
        return Variables(
            {n: v.params for n, v in variables.items()}, {n: v.stats for n, v in variables.items()}
        )

    def forward(params: PyTree, stats: PyTree, image: Array) -> tuple[list[Array], PyTree]:
        outputs, x = [], image
        for name, part in parts.items():
            if name in params:
                x, new = part.apply(Variables(params[name], stats[name]), x, True)
                stats = {**stats, name: new}
                outputs.append(x)
        return outputs, stats

    return Chain(init, forward)


def joint(networks: Chain, loss: Callable) -> SelfSupervised:
    """An objective without memory: `loss(outputs of view 1, outputs of view 2) -> scalar`, outputs of the encoder, the projector, ..."""

    def run(params, stats, memory, image, progress):
        # Each view has batch statistics of its own; the running ones take in both, one after the other.
        one, stats = networks.forward(params, stats, image[0])
        two, stats = networks.forward(params, stats, image[1])
        return loss(one, two), stats, memory, {"z_std": spread(jax.lax.stop_gradient(one[1]))}

    return SelfSupervised(2, lambda key, image: (networks.init(key, image), ()), run)


def negative_cosine(prediction: Array, projection: Array) -> Array:
    """SimSiam's `D(p, z) = -mean_i cos(p_i, z_i)` in [-1, 1], without its stop-gradient; [batch, dim] each."""
    return cosine(prediction, projection) - 1.0


def spread(projection: Array) -> Array:
    """`std(z / ||z||) sqrt(dim)`, mean over dimensions: 1 for isotropic projections, 0 after collapse. [batch, dim] -> scalar."""
    return jnp.mean(jnp.std(unit(projection), axis=0)) * projection.shape[-1] ** 0.5


def simsiam(
    encoder: Network, dtype: str, *, projection: int = 2048, hidden: int = 512, layers: int = 2
) -> SelfSupervised:
    """SimSiam: `L = D(h(z1), sg(z2)) / 2 + D(h(z2), sg(z1)) / 2`, z = projection, h = predictor.

    Args:
      encoder: the network whose features are projected.
      dtype: what the heads compute in.
      projection: width of every projector layer; batch norm after each, the last without scale and offset.
      hidden: width of the predictor's bottleneck.
      layers: projector layers: 2 in the authors' CIFAR recipe, 3 on ImageNet.

    Source: Chen & He, CVPR 2021, Algorithm 1 and appendix D.
    """
    projector = mlp((projection,) * layers, dtype=dtype)
    predictor = mlp((hidden, projection), norm_last=False, dtype=dtype)

    def loss(one, two):
        (_, z1, p1), (_, z2, p2) = one, two
        # The stop-gradient makes the projection a fixed target: without it the constant solution is reached at once.
        t1, t2 = jax.lax.stop_gradient((z1, z2))
        return 0.5 * negative_cosine(p1, t2) + 0.5 * negative_cosine(p2, t1)

    return joint(chain(encoder=encoder, projector=projector, predictor=predictor), loss)


def byol(
    encoder: Network,
    dtype: str,
    *,
    projection: int = 256,
    hidden: int = 4096,
    momentum: float = 0.99,
) -> SelfSupervised:
    """BYOL: `L = 2 - 2 cos(h(z1), z2') + 2 - 2 cos(h(z2), z1')`, z' by the target network, a moving average of encoder and projector.

    The average's momentum rises from `momentum` to 1 as a cosine over the stage. The target is the memory; it uses batch statistics.
    Source: Grill et al., NeurIPS 2020, eq. 1 and 2.
    """
    if not 0 <= momentum <= 1:
        raise UserError(f"relation_modeling.ssl.momentum must be in [0, 1], got {momentum}")
    projector, predictor = (
        mlp((hidden, projection), norm_last=False, dtype=dtype) for _ in range(2)
    )
    whole = chain(encoder=encoder, projector=projector, predictor=predictor)

    def init(key, image):
        variables = whole.init(key, image)
        return variables, {name: variables.params[name] for name in ("encoder", "projector")}

    def loss(params, stats, memory, image, progress):
        keep = 1 - (1 - momentum) * (jnp.cos(jnp.pi * progress) + 1) / 2
        memory = jax.tree.map(
            lambda old, new: keep * old + (1 - keep) * jax.lax.stop_gradient(new),
            memory,
            {n: params[n] for n in memory},
        )
        # The target network's projections are constants, its own statistics of the batch are not kept.
        t1, t2 = (jax.lax.stop_gradient(whole.forward(memory, stats, view)[0][1]) for view in image)
        (_, z1, p1), stats = whole.forward(params, stats, image[0])
        (_, _, p2), stats = whole.forward(params, stats, image[1])
        value = 2 * cosine(p1, t2) + 2 * cosine(p2, t1)
        return value, stats, memory, {"z_std": spread(jax.lax.stop_gradient(z1))}

    return SelfSupervised(2, init, loss)


def simclr(
    encoder: Network,
    dtype: str,
    *,
    projection: int = 256,
    hidden: int = 2048,
    temperature: float = 0.5,
) -> SelfSupervised:
    """SimCLR: each view is to find the other view of its image among all other views of the batch, cosines over a temperature.

    Source: Chen et al., ICML 2020, eq. 1 (NT-Xent).
    """
    if not temperature > 0:
        raise UserError(f"relation_modeling.ssl.temperature must be > 0, got {temperature}")

    def loss(one, two):
        batch = len(one[1])
        other = (jnp.arange(2 * batch) + batch) % (2 * batch)
        return -jnp.mean(
            jnp.take_along_axis(
                log_matrix(jnp.concatenate([one[1], two[1]]), temperature), other[:, None], axis=-1
            )
        )

    return joint(
        chain(encoder=encoder, projector=mlp((hidden, projection), norm_last=False, dtype=dtype)),
        loss,
    )


def _off_diagonal(square: Array) -> Array:
    """Sum of the squares beside the diagonal."""
    return jnp.sum(jnp.where(jnp.eye(len(square), dtype=bool), 0.0, square) ** 2)


def barlow_twins(
    encoder: Network,
    dtype: str,
    *,
    projection: int = 2048,
    hidden: int = 2048,
    redundancy: float = 5e-3,
) -> SelfSupervised:
    """Barlow Twins: `sum_i (1 - C_ii)^2 + redundancy sum_{i != j} C_ij^2`, C the correlation of both views' dimensions over the batch.

    Source: Zbontar et al., ICML 2021, eq. 1 and 2.
    """
    if redundancy < 0:
        raise UserError(f"relation_modeling.ssl.redundancy must be >= 0, got {redundancy}")

    def standardised(z):
        return (z - jnp.mean(z, axis=0)) * jax.lax.rsqrt(jnp.var(z, axis=0) + 1e-5)

    def loss(one, two):
        a, b = standardised(one[1]), standardised(two[1])
        correlation = a.T @ b / len(a)
        return jnp.sum((1 - jnp.diagonal(correlation)) ** 2) + redundancy * _off_diagonal(
            correlation
        )

    return joint(
        chain(encoder=encoder, projector=mlp((hidden, projection), norm_last=False, dtype=dtype)),
        loss,
    )


def vicreg(
    encoder: Network, dtype: str, *, projection: int = 2048, hidden: int = 2048, invariance: float = 25.0, variance: float = 25.0,
    covariance: float = 1.0,
) -> SelfSupervised:  # fmt: skip
    """VICReg: `invariance mean |z1 - z2|^2 + variance (v(z1) + v(z2)) / 2 + covariance (c(z1) + c(z2))`.

    v is the mean of `max(0, 1 - std)` over dimensions, c the sum of squared covariances beside the diagonal over the dimension.
    Source: Bardes et al., ICLR 2022, eq. 1 to 6; v is halved as in its code.
    """
    for name, value in (
        ("invariance", invariance),
        ("variance", variance),
        ("covariance", covariance),
    ):
        if value < 0:
            raise UserError(f"relation_modeling.ssl.{name} must be >= 0, got {value}")

    def terms(z):
        centred = z - jnp.mean(z, axis=0)
        batch, dim = z.shape
        deviation = jnp.sqrt(jnp.sum(centred**2, axis=0) / (batch - 1) + 1e-4)
        return jnp.mean(jnp.maximum(0.0, 1.0 - deviation)), _off_diagonal(
            centred.T @ centred / (batch - 1)
        ) / dim

    def loss(one, two):
        (v1, c1), (v2, c2) = terms(one[1]), terms(two[1])
        return (
            invariance * jnp.mean((one[1] - two[1]) ** 2)
            + variance * (v1 + v2) / 2
            + covariance * (c1 + c2)
        )

    return joint(
        chain(encoder=encoder, projector=mlp((hidden, projection), norm_last=False, dtype=dtype)),
        loss,
    )


SSL = {
    "simsiam": simsiam,
    "byol": byol,
    "simclr": simclr,
    "barlow_twins": barlow_twins,
    "vicreg": vicreg,
}
