"""Objectives that predict one view's projection from another's: no negatives."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rmdnet_jax.errors import within
from rmdnet_jax.networks.heads import mlp
from rmdnet_jax.networks.layers import Network
from rmdnet_jax.relations.losses import cosine
from rmdnet_jax.ssl.parts import SelfSupervised, chain, joint, negative_cosine, spread, widths


def simsiam(
    encoder: Network,
    dtype: str,
    *,
    projection: int = 2048,
    hidden: int = 512,
    layers: int = 2,
    views: int = 2,
) -> SelfSupervised:
    """SimSiam: `L = mean_v D(h(z_v), sg(mean_{u != v} z_u))`, z = projection, h = predictor.

    With two views each predicts the other. With more the target is a mean over several, which is
    steadier (FastSiam).

    Args:
      encoder: the network whose features are projected.
      dtype: what the heads compute in.
      projection: width of every projector layer; batch norm follows each, the last is not affine.
      hidden: width of the predictor's bottleneck.
      layers: projector layers: 2 in the authors' CIFAR recipe, 3 on ImageNet.
      views: of each image: 2 in SimSiam, 4 in FastSiam; a step's cost grows with them.

    Source: Chen & He, CVPR 2021, Algorithm 1 and appendix D. More views: Pototzky et al., FastSiam,
    GCPR 2022.
    """
    within("views", views, "[2, 16]", whole=True)
    widths(projection=projection, hidden=hidden, layers=layers)
    projector = mlp((projection,) * layers, dtype=dtype)
    predictor = mlp((hidden, projection), norm_last=False, dtype=dtype)

    def loss(*outputs):
        # The projection is a fixed target: with its gradient all outputs become one constant.
        fixed = jax.lax.stop_gradient([projected for _, projected, _ in outputs])
        terms = []
        for view, (_, _, predicted) in enumerate(outputs):
            others = fixed[:view] + fixed[view + 1 :]
            terms.append(negative_cosine(predicted, sum(others[1:], others[0]) / len(others)))
        return sum(terms[1:], terms[0]) / views

    return joint(chain(encoder=encoder, projector=projector, predictor=predictor), loss, views)


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
    widths(projection=projection, hidden=hidden)
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
