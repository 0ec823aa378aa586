"""Base methods that train two networks side by side and learn from the examples of small loss."""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from rmdnet_jax import evaluation, losses
from rmdnet_jax.errors import within, wrong
from rmdnet_jax.methods.method import Method
from rmdnet_jax.types import Array


def _small(loss: Array, share: Array) -> Array:
    """Weights [batch]: the mean over the `share` of smallest losses, one example at least."""
    # 1e-4: a share of 0.75 of 64 is 48 in float32, too.
    kept = jnp.maximum(jnp.floor(share * len(loss) + 1e-4), 1.0)
    rank = jnp.argsort(jnp.argsort(jax.lax.stop_gradient(loss)))
    return (rank < kept) / kept


def known(rate: str | float, otherwise: str) -> float | None:
    """The noise rate as a number, or None where it is the word for another way to it."""
    if rate == otherwise:
        return None
    if rate == "graph":
        number = "find_label_errors(features, labels).noise_rate is such a number"
        raise wrong("rate", f"be a number outside of a run, got 'graph'; {number}")
    try:
        value = float(rate)
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value < 1:
        words = f"'{otherwise}', 'graph' or a number in [0, 1)"
        raise wrong("rate", f"be {words}, got {rate!r}")
    return value


class _Choose(Protocol):
    """(logits [batch, class] of both peers, label, share to learn) -> scalar."""

    def __call__(self, logits: list[Array], label: Array, share: Array, /) -> Array: ...


def _selecting(choose: _Choose, rate: str | float, ramp_epochs: float) -> Method:
    """A method of two peers that learns a falling share of each batch.

    The share is `1 - min(epoch / ramp_epochs, 1) r`. The memory is r: the given rate, or the
    newest estimate of it.
    """
    told = known(rate, "estimate")
    within("ramp_epochs", ramp_epochs, "(0, inf)")

    def loss(outputs, batch, memory, forward, key, epoch):
        share = 1.0 - jnp.minimum(epoch / ramp_epochs, 1.0) * memory
        value = choose([o.logits[0] for o in outputs], batch.label, share)
        return value, memory, {"noise_rate": memory, "kept": share}

    def refresh(outputs, given, index, memory, epoch):
        if told is not None or epoch > ramp_epochs:
            return memory
        loss = np.mean([evaluation.cross_entropy(peer, given) for peer in outputs().logits], axis=0)
        return np.float32(1.0 - evaluation.small_loss_probability(loss).mean())

    return Method(
        peers=2, views=1, init=lambda: jnp.float32(told or 0.0), loss=loss, refresh=refresh
    )


def co_teaching(
    num_examples: int,
    num_classes: int,
    *,
    rate: str | float = "estimate",
    ramp_epochs: float = 10.0,
) -> Method:
    """Co-teaching: each network learns the examples that have a small loss in the other.

    Args:
      num_examples: not read.
      num_classes: not read.
      rate: the noise rate, a number in [0, 1). "estimate": a mixture on the losses tells it
        after each epoch of the ramp. "graph": a run puts in what its teacher's graph tells, see
        `relations.propagation`; in a call of your own give the number.
      ramp_epochs: until the kept share has fallen to 1 - rate; T_k.

    Source: Han et al., NeurIPS 2018, Algorithm 1.
    """

    def choose(logits, label, share):
        one, two = (losses.expected(losses.cross_entropy, z, label) for z in logits)
        return jnp.sum(_small(two, share) * one) + jnp.sum(_small(one, share) * two)

    return _selecting(choose, rate, ramp_epochs)


def jocor(
    num_examples: int,
    num_classes: int,
    *,
    agreement: float = 0.9,
    rate: str | float = "estimate",
    ramp_epochs: float = 10.0,
) -> Method:
    """JoCoR: both networks learn the examples of small joint loss.

    The joint loss is `(1 - a) (CE1 + CE2) + a (KL(p1 || p2) + KL(p2 || p1))`.

    Args:
      num_examples: not read.
      num_classes: not read.
      agreement: a in [0, 1]; 0.9 is its authors'.
      rate: see `co_teaching`.
      ramp_epochs: see `co_teaching`.

    Source: Wei et al., CVPR 2020, eq. 1 to 5.
    """
    within("agreement", agreement, "[0, 1]")

    def choose(logits, label, share):
        one, two = (jax.nn.log_softmax(z) for z in logits)
        apart = jnp.sum((jnp.exp(one) - jnp.exp(two)) * (one - two), axis=-1)  # both divergences
        fit = sum(losses.expected(losses.cross_entropy, z, label) for z in logits)
        joint = (1 - agreement) * fit + agreement * apart
        return jnp.sum(_small(joint, share) * joint)

    return _selecting(choose, rate, ramp_epochs)
