"""What a base method is: how labels that may be wrong become a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Method(NamedTuple):
    """A base method as pure functions; all state is `memory`, carried in the train state."""

    peers: int  # networks trained side by side
    views: int  # augmented views of each image
    init: Callable  # () -> memory
    loss: Callable  # (outputs: one Outputs [view, batch, ...] a peer, batch, memory, forward, key, epoch) -> (scalar, memory, metrics)
    # After each epoch, outside the step: (logits: () -> [peer, example, class], given [example], memory, epochs done) -> memory
    refresh: Callable | None = None


def from_criterion(criterion: Callable) -> Method:
    """The method that minimises the batch mean of a per-example `criterion(logits [batch, class], label [batch]) -> [batch]`."""

    def loss(outputs, batch, memory, forward, key, epoch):
        return criterion(outputs[0].logits[0], batch.label).mean(), memory, {}

    return Method(peers=1, views=1, init=lambda: (), loss=loss)
