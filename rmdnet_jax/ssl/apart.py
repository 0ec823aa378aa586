"""Objectives that tell images, or dimensions, apart."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rmdnet_jax.errors import all_within, within
from rmdnet_jax.networks.heads import mlp
from rmdnet_jax.networks.layers import Network
from rmdnet_jax.relations.losses import log_matrix
from rmdnet_jax.relations.rows import product, unit
from rmdnet_jax.ssl.parts import SelfSupervised, chain, joint, projected, spread, widths
from rmdnet_jax.types import Array


def simclr(
    encoder: Network,
    dtype: str,
    *,
    projection: int = 256,
    hidden: int = 2048,
    temperature: float = 0.5,
) -> SelfSupervised:
    """SimCLR: each view is to find its image's other view among all others of the batch.

    The loss is a cross entropy over cosines divided by the temperature.

    Source: Chen et al., ICML 2020, eq. 1 (NT-Xent).
    """
    within("temperature", temperature, "(0, inf)")

    def loss(one, two):
        batch = len(one[1])
        other = (jnp.arange(2 * batch) + batch) % (2 * batch)
        scores = log_matrix(jnp.concatenate([one[1], two[1]]), temperature)
        return -jnp.mean(jnp.take_along_axis(scores, other[:, None], axis=-1))

    return joint(projected(encoder, dtype, hidden, projection), loss)


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
    """Barlow Twins: `sum_i (1 - C_ii)^2 + redundancy sum_{i != j} C_ij^2`.

    C is the correlation of both views' dimensions over the batch.

    Source: Zbontar et al., ICML 2021, eq. 1 and 2.
    """
    within("redundancy", redundancy, "[0, inf)")

    def standardised(z):
        return (z - jnp.mean(z, axis=0)) * jax.lax.rsqrt(jnp.var(z, axis=0) + 1e-5)

    def loss(one, two):
        a, b = standardised(one[1]), standardised(two[1])
        correlation = product(a.T, b.T) / len(a)
        alike = jnp.sum((1 - jnp.diagonal(correlation)) ** 2)
        return alike + redundancy * _off_diagonal(correlation)

    return joint(projected(encoder, dtype, hidden, projection), loss)


def vicreg(
    encoder: Network,
    dtype: str,
    *,
    projection: int = 2048,
    hidden: int = 2048,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> SelfSupervised:
    """VICReg: `invariance mean |z1 - z2|^2 + variance (v1 + v2) / 2 + covariance (c1 + c2)`.

    For each view, v is the mean of `max(0, 1 - std)` over dimensions. c is the sum of squared
    covariances beside the diagonal, over the dimension.

    Source: Bardes et al., ICLR 2022, eq. 1 to 6; v is halved as in its code.
    """
    all_within("[0, inf)", invariance=invariance, variance=variance, covariance=covariance)

    def terms(z):
        centred = z - jnp.mean(z, axis=0)
        batch, dim = z.shape
        deviation = jnp.sqrt(jnp.sum(centred**2, axis=0) / (batch - 1) + 1e-4)
        spill = _off_diagonal(product(centred.T, centred.T) / (batch - 1)) / dim
        return jnp.mean(jnp.maximum(0.0, 1.0 - deviation)), spill

    def loss(one, two):
        (v1, c1), (v2, c2) = terms(one[1]), terms(two[1])
        return (
            invariance * jnp.mean((one[1] - two[1]) ** 2)
            + variance * (v1 + v2) / 2
            + covariance * (c1 + c2)
        )

    return joint(projected(encoder, dtype, hidden, projection), loss)


def coding_rate(z: Array, eps: float) -> Array:
    """`log det(I + dim / (batch eps) z^T z) / 2` of z [batch, dim]: how much room its rows take."""
    batch, dim = z.shape
    rows = z if batch < dim else z.T  # both products have the same determinant
    square = jnp.eye(len(rows)) + dim / (batch * eps) * product(rows, rows)
    return jnp.sum(jnp.log(jnp.diagonal(jnp.linalg.cholesky(square))))


def emp(
    encoder: Network,
    dtype: str,
    *,
    projection: int = 1024,
    hidden: int = 4096,
    views: int = 20,
    invariance: float = 200.0,
    eps: float = 0.2,
) -> SelfSupervised:
    """EMP-SSL: `mean_v (invariance (1 - mean_i cos(z_vi, mean_u z_ui)) - R(z_v))`.

    Many small crops of an image come near their mean, while `coding_rate` R keeps images apart. All
    crops go through the networks together. It is made for few epochs, for crops of a quarter of the
    image (`max_scale` of the augmentation) and for a batch of about a hundred.

    Args:
      encoder: the network whose features are projected.
      dtype: what the heads compute in.
      projection: width of the unit vectors z.
      hidden: width of the two layers before.
      views: crops of each image; a step's cost grows with them.
      invariance: weight of the first term.
      eps: squared distortion that R allows.

    Source: Tong et al., EMP-SSL, 2023 (arXiv 2304.03977), with the batch statistics of its code.
    """
    widths(projection=projection, hidden=hidden)
    within("views", views, "[2, 200]", whole=True)
    within("invariance", invariance, "[0, inf)")
    within("eps", eps, "(0, inf)")
    projector = mlp((hidden, hidden, projection), norm_last=False, dtype=dtype)
    networks = chain(encoder=encoder, projector=projector)

    def loss(params, stats, memory, image, progress):
        batch = image.shape[1]
        crops = jnp.swapaxes(image, 0, 1).reshape(batch * views, *image.shape[2:])
        (_, z), stats = networks.forward(params, stats, crops)
        z = unit(z).reshape(batch, views, -1)
        near = jnp.mean(jnp.sum(z * unit(jnp.mean(z, axis=1))[:, None], axis=-1))
        rates = jax.vmap(coding_rate, (1, None))(z, eps)
        value = invariance * (1 - near) - jnp.mean(rates)
        return value, stats, memory, {"z_std": spread(jax.lax.stop_gradient(z[:, 0]))}

    return SelfSupervised(views, lambda key, image: (networks.init(key, image), ()), loss)
