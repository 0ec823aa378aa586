"""Per-example criteria in float32: logits [batch, class] and labels [batch] in, losses [batch] out.

`expected` takes soft targets [batch, class] as well.
"""

from __future__ import annotations

import math
from typing import Protocol

import jax
import jax.numpy as jnp
import optax

from rmdnet_jax.types import Array


class Criterion(Protocol):
    """Per-example losses [batch] of logits [batch, class] and int labels [batch]."""

    def __call__(self, logits: Array, label: Array, /) -> Array: ...


def distribution(label: Array, num_classes: int) -> Array:
    """Targets [batch, class]: the one-hot rows of int labels [batch]; targets stay as they are."""
    return label if label.ndim == 2 else jax.nn.one_hot(label, num_classes)


def expected(criterion: Criterion, logits: Array, label: Array) -> Array:
    """The criterion [batch] with int labels, or its mean over labels drawn from soft targets."""
    if label.ndim == 1:
        return criterion(logits, label)
    classes = jnp.arange(logits.shape[-1])
    each = jax.vmap(lambda c: criterion(logits, jnp.full(len(logits), c)), out_axes=1)(classes)
    return jnp.sum(label * each, axis=-1)


def cross_entropy(logits: Array, label: Array) -> Array:
    """Cross entropy with integer labels: `-log p_label`, p the softmax."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def generalized_cross_entropy(logits: Array, label: Array, q: float) -> Array:
    """`(1 - p_label^q) / q`, between cross entropy (q -> 0) and absolute error (q = 1).

    Source: Zhang & Sabuncu, NeurIPS 2018, eq. 6.
    """
    # By the logarithm: p^q has no finite slope at p = 0.
    return -jnp.expm1(-q * cross_entropy(logits, label)) / q


def symmetric_cross_entropy(logits: Array, label: Array, alpha: float, beta: float) -> Array:
    """`alpha CE + beta RCE`, RCE the cross entropy with label and prediction exchanged.

    With log 0 taken as log 1e-4, RCE is `-log(1e-4) (1 - p_label)`.
    Source: Wang et al., ICCV 2019, eq. 6 and 7, with the clipping of its code.
    """
    right = jnp.take_along_axis(jax.nn.softmax(logits), label[:, None], axis=-1)[:, 0]
    return alpha * cross_entropy(logits, label) - beta * math.log(1e-4) * (1.0 - right)
