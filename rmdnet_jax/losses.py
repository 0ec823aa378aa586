"""Per-example criteria: (logits [batch, class], label [batch]) -> loss [batch], in float32."""

from __future__ import annotations

import optax

from rmdnet_jax.types import Array


def cross_entropy(logits: Array, label: Array) -> Array:
    """Cross entropy with integer labels: `-log softmax(logits)[label]`."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)
