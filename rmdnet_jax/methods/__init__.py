"""Base methods: how labels that may be wrong become a loss. Add one by writing a factory and naming it in `METHODS`.

A factory is `f(num_examples, num_classes, *, hyper-parameters) -> Method`; its keyword defaults are the configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rmdnet_jax import losses


class Method(NamedTuple):
    """A base method as pure functions; all state is `memory`, carried in the train state."""

    peers: int  # networks trained side by side
    views: int  # augmented views of each image
    init: Callable  # () -> memory
    loss: Callable  # (outputs: one Outputs [view, batch, ...] a peer, batch, memory, forward, key, epoch) -> (scalar, memory, metrics)


def from_criterion(criterion: Callable) -> Method:
    """The method that minimises the batch mean of a per-example `criterion(logits [batch, class], label [batch]) -> [batch]`."""

    def loss(outputs, batch, memory, forward, key, epoch):
        return criterion(outputs[0].logits[0], batch.label).mean(), memory, {}

    return Method(peers=1, views=1, init=lambda: (), loss=loss)


def ce(num_examples: int, num_classes: int) -> Method:
    """Cross entropy on the given labels."""
    return from_criterion(losses.cross_entropy)


METHODS = {"ce": ce}
