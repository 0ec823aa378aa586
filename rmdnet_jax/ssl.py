"""Self-supervised objectives for relation modeling: images in, no labels.

A factory is `f(encoder, dtype, *, hyper-parameters) -> SelfSupervised`. Every objective trains
`params["encoder"]`, which becomes the teacher, below heads of its own. It logs `z_std` (see
`spread`), by which collapse is seen. `hidden` and `projection` are widths of projector and
predictor, `dtype` is what heads compute in. Statistics and negatives are of the whole batch.

Example:
  >>> import jax
  >>> import rmdnet_jax as rmd
  >>> encoder = rmd.ENCODERS["cnn"](widths=(4,))
  >>> ssl = rmd.SSL["simclr"](encoder, "float32", projection=8, hidden=8)
  >>> views = jax.random.uniform(jax.random.key(0), (ssl.views, 16, 8, 8, 1))
  >>> (params, stats), memory = ssl.init(jax.random.key(1), views[0])
  >>> loss, stats, memory, metrics = ssl.loss(params, stats, memory, views, 0.0)
  >>> sorted(params), sorted(metrics)
  (['encoder', 'projector'], ['z_std'])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rmdnet_jax.errors import within
from rmdnet_jax.networks.heads import mlp
from rmdnet_jax.networks.layers import Network
from rmdnet_jax.relations.losses import cosine, log_matrix
from rmdnet_jax.relations.rows import Rows, product, unit
from rmdnet_jax.types import Array, PyTree, Variables


class Loss(Protocol):
    """The loss of views [view, batch, ...] at `progress` in [0, 1]; new stats, memory, metrics."""

    def __call__(
        self,
        params: PyTree,
        stats: PyTree,
        memory: PyTree,
        image: Array,
        progress: float | Array,
        /,
    ) -> tuple[Array, PyTree, PyTree, dict[str, Array]]: ...


class SelfSupervised(NamedTuple):
    """A self-supervised objective as pure functions."""

    views: int
    init: Callable[[Array, Array], tuple[Variables, PyTree]]  # key, image; memory is the tree
    loss: Loss


class Factory(Protocol):
    """An entry of `SSL`; its hyper-parameters are keyword-only, with defaults."""

    def __call__(self, encoder: Network, dtype: str) -> SelfSupervised: ...


class Chain(NamedTuple):
    """Networks one above the other, by name."""

    init: Callable[[Array, Array], Variables]  # key, image
    forward: Callable[[PyTree, PyTree, Array], tuple[list[Array], PyTree]]  # params, stats, image


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


def joint(networks: Chain, loss: Callable[[list[Array], list[Array]], Array]) -> SelfSupervised:
    """An objective without memory: `loss` of what the networks give for view 1, and for view 2."""

    def run(params, stats, memory, image, progress):
        # Each view has its own batch statistics; the running ones take in both, one by one.
        one, stats = networks.forward(params, stats, image[0])
        two, stats = networks.forward(params, stats, image[1])
        return loss(one, two), stats, memory, {"z_std": spread(jax.lax.stop_gradient(one[1]))}

    return SelfSupervised(2, lambda key, image: (networks.init(key, image), ()), run)


def negative_cosine(prediction: Rows, projection: Rows) -> Array:
    """SimSiam's `D(p, z) = -mean_i cos(p_i, z_i)` in [-1, 1]; [batch, dim] each, z a constant."""
    return cosine(prediction, projection) - 1.0


def spread(projection: Array) -> Array:
    """`std(z / ||z||) sqrt(dim)`, mean over dimensions: 1 if isotropic, 0 after collapse."""
    return jnp.mean(jnp.std(unit(projection), axis=0)) * projection.shape[-1] ** 0.5


def _widths(**widths: int) -> None:
    for argument, value in widths.items():
        within(argument, value, "[1, inf)", whole=True)


def simsiam(
    encoder: Network, dtype: str, *, projection: int = 2048, hidden: int = 512, layers: int = 2
) -> SelfSupervised:
    """SimSiam: `L = D(h(z1), sg(z2)) / 2 + D(h(z2), sg(z1)) / 2`, z = projection, h = predictor.

    Args:
      encoder: the network whose features are projected.
      dtype: what the heads compute in.
      projection: width of every projector layer; batch norm follows each, the last is not affine.
      hidden: width of the predictor's bottleneck.
      layers: projector layers: 2 in the authors' CIFAR recipe, 3 on ImageNet.

    Source: Chen & He, CVPR 2021, Algorithm 1 and appendix D.
    """
    _widths(projection=projection, hidden=hidden, layers=layers)
    projector = mlp((projection,) * layers, dtype=dtype)
    predictor = mlp((hidden, projection), norm_last=False, dtype=dtype)

    def loss(one, two):
        (_, z1, p1), (_, z2, p2) = one, two
        # The projection is a fixed target: with its gradient all outputs become one constant.
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
    """BYOL: `L = 2 - 2 cos(h(z1), z2') + 2 - 2 cos(h(z2), z1')`, z' by the target network.

    The target is a moving average of encoder and projector. Its momentum rises from `momentum` to 1
    as a cosine over the stage. It is the memory, and uses batch statistics.

    Source: Grill et al., NeurIPS 2020, eq. 1 and 2.
    """
    _widths(projection=projection, hidden=hidden)
    within("momentum", momentum, "[0, 1]")
    head = mlp((hidden, projection), norm_last=False, dtype=dtype)
    whole = chain(encoder=encoder, projector=head, predictor=head)

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
        # The target's projections are constants; its statistics of the batch are not kept.
        t1, t2 = (jax.lax.stop_gradient(whole.forward(memory, stats, view)[0][1]) for view in image)
        (_, z1, p1), stats = whole.forward(params, stats, image[0])
        (_, _, p2), stats = whole.forward(params, stats, image[1])
        value = 2 * cosine(p1, t2) + 2 * cosine(p2, t1)
        return value, stats, memory, {"z_std": spread(jax.lax.stop_gradient(z1))}

    return SelfSupervised(2, init, loss)


def _projected(encoder: Network, dtype: str, hidden: int, projection: int) -> Chain:
    """The encoder below a projector of two layers."""
    _widths(projection=projection, hidden=hidden)
    projector = mlp((hidden, projection), norm_last=False, dtype=dtype)
    return chain(encoder=encoder, projector=projector)


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

    return joint(_projected(encoder, dtype, hidden, projection), loss)


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

    return joint(_projected(encoder, dtype, hidden, projection), loss)


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
    within("invariance", invariance, "[0, inf)")
    within("variance", variance, "[0, inf)")
    within("covariance", covariance, "[0, inf)")

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

    return joint(_projected(encoder, dtype, hidden, projection), loss)


SSL: dict[str, Factory] = {
    "simsiam": simsiam,
    "byol": byol,
    "simclr": simclr,
    "barlow_twins": barlow_twins,
    "vicreg": vicreg,
}
