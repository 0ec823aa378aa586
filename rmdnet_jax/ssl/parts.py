"""What self-supervised objectives are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rmdnet_jax.errors import all_within
from rmdnet_jax.networks.heads import mlp
from rmdnet_jax.networks.layers import Network
from rmdnet_jax.relations.losses import cosine
from rmdnet_jax.relations.rows import Rows, unit
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

    views: int  # of each image
    init: Callable[[Array, Array], tuple[Variables, PyTree]]  # key, image; memory is the tree
    loss: Loss  # one step's (scalar, stats, memory, metrics)


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


def joint(networks: Chain, loss: Callable[..., Array], views: int = 2) -> SelfSupervised:
    """An objective without memory: `loss(one, two, ...)` of what the networks give for each view.

    Each is a list of outputs, that of the lowest network first.
    """

    def run(params, stats, memory, image, progress):
        # Each view has its own batch statistics; the running ones take in all, one by one.
        outputs = []
        for view in range(views):
            output, stats = networks.forward(params, stats, image[view])
            outputs.append(output)
        told = {"z_std": spread(jax.lax.stop_gradient(outputs[0][1]))}
        return loss(*outputs), stats, memory, told

    return SelfSupervised(views, lambda key, image: (networks.init(key, image), ()), run)


def negative_cosine(prediction: Rows, projection: Rows) -> Array:
    """SimSiam's `D(p, z) = -mean_i cos(p_i, z_i)` in [-1, 1]; [batch, dim] each, z a constant."""
    return cosine(prediction, projection) - 1.0


def spread(projection: Array) -> Array:
    """`std(z / ||z||) sqrt(dim)`, mean over dimensions: 1 if isotropic, 0 after collapse."""
    return jnp.mean(jnp.std(unit(projection), axis=0)) * projection.shape[-1] ** 0.5


def widths(**given: int) -> None:
    """Refuses a width that cannot be."""
    all_within("[1, inf)", whole=True, **given)


def projected(encoder: Network, dtype: str, hidden: int, projection: int) -> Chain:
    """The encoder below a projector of two layers."""
    widths(projection=projection, hidden=hidden)
    projector = mlp((hidden, projection), norm_last=False, dtype=dtype)
    return chain(encoder=encoder, projector=projector)
