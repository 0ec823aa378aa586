"""Early-learning regularisation: predictions stay near the mean of earlier predictions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rmdnet_jax import losses
from rmdnet_jax.errors import within
from rmdnet_jax.methods.method import Method


def elr(
    num_examples: int, num_classes: int, *, weight: float = 3.0, momentum: float = 0.7
) -> Method:
    """Early-learning regularisation: `CE + weight mean_i log(1 - <target_i, p_i>)`.

    `target_i <- momentum target_i + (1 - momentum) p_i / sum(p_i)`, at first 0.

    Args:
      num_examples: rows of the memory, each example's target [example, class].
      num_classes: C.
      weight: the regulariser's, >= 0; 3 for CIFAR-10, 7 for CIFAR-100.
      momentum: of the targets, in [0, 1); 0.7 for CIFAR-10, 0.9 for CIFAR-100.

    Source: Liu et al., NeurIPS 2020, eq. 6 and 9; p is clipped to [1e-4, 1 - 1e-4] as in its code.
    """
    within("weight", weight, "[0, inf)")
    within("momentum", momentum, "[0, 1)")

    def loss(outputs, batch, memory, forward, key, epoch):
        logits = outputs[0].logits[0]
        p = jnp.clip(jax.nn.softmax(logits), 1e-4, 1 - 1e-4)
        # The target is a constant: else the regulariser would be lowered by moving it.
        fresh = jax.lax.stop_gradient(p / jnp.sum(p, axis=-1, keepdims=True))
        target = momentum * memory[batch.index] + (1 - momentum) * fresh
        regulariser = jnp.mean(jnp.log(1 - jnp.sum(target * p, axis=-1)))
        fit = losses.expected(losses.cross_entropy, logits, batch.label).mean()
        value = fit + weight * regulariser
        return value, memory.at[batch.index].set(target), {"regulariser": regulariser}

    return Method(peers=1, views=1, init=lambda: jnp.zeros((num_examples, num_classes)), loss=loss)
