"""Early-learning regularisation: predictions are held to a moving average of what was predicted before labels were memorised."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rmdnet_jax import losses
from rmdnet_jax.errors import UserError
from rmdnet_jax.methods.method import Method


def elr(
    num_examples: int, num_classes: int, *, weight: float = 3.0, momentum: float = 0.7
) -> Method:
    """`CE + weight mean_i log(1 - <target_i, p_i>)`, `target_i <- momentum target_i + (1 - momentum) p_i / sum(p_i)`.

    Args:
      num_examples: rows of the memory, which holds each example's target [example, class], at first 0.
      num_classes: C.
      weight: the regulariser's, >= 0; 3 for CIFAR-10, 7 for CIFAR-100.
      momentum: of the targets, in [0, 1); 0.7 for CIFAR-10, 0.9 for CIFAR-100.

    Source: Liu et al., NeurIPS 2020, eq. 6 and 9; p is clipped to [1e-4, 1 - 1e-4] as in its code.
    """
    if weight < 0:
        raise UserError(f"relation_guided.method.weight must be >= 0, got {weight}")
    if not 0 <= momentum < 1:
        raise UserError(f"relation_guided.method.momentum must be in [0, 1), got {momentum}")

    def loss(outputs, batch, memory, forward, key, epoch):
        logits = outputs[0].logits[0]
        p = jnp.clip(jax.nn.softmax(logits), 1e-4, 1 - 1e-4)
        # The target is a constant: else the regulariser would be lowered by moving it.
        fresh = jax.lax.stop_gradient(p / jnp.sum(p, axis=-1, keepdims=True))
        target = momentum * memory[batch.index] + (1 - momentum) * fresh
        regulariser = jnp.mean(jnp.log(1 - jnp.sum(target * p, axis=-1)))
        value = (
            losses.expected(losses.cross_entropy, logits, batch.label).mean() + weight * regulariser
        )
        return value, memory.at[batch.index].set(target), {"regulariser": regulariser}

    return Method(peers=1, views=1, init=lambda: jnp.zeros((num_examples, num_classes)), loss=loss)
