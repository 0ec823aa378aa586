"""What a base method is: how labels that may be wrong become a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rmdnet_jax import losses


class Method(NamedTuple):
    """A base method as pure functions; all state is `memory`, carried in the train state."""

    peers: int  # networks trained side by side
    views: int  # augmented views of each image
    init: Callable  # () -> memory
    # (outputs: one Outputs [view, batch, ...] a peer, batch, memory, forward, key, epoch) -> (scalar, memory, metrics);
    # forward(images: [view, batch, ...] for each peer) -> outputs of images that the method makes
    loss: Callable
    # After each epoch, outside the step: (outputs: () -> Outputs [peer, example, ...] of the examples trained on, given [example], index
    # [example], memory, epochs done) -> memory; `given` are their labels, `index` their positions in the training set.
    refresh: Callable | None = None


def from_criterion(criterion: Callable) -> Method:
    """The method that minimises the batch mean of a per-example `criterion(logits [batch, class], label [batch]) -> [batch]`."""

    def loss(outputs, batch, memory, forward, key, epoch):
        return losses.expected(criterion, outputs[0].logits[0], batch.label).mean(), memory, {}

    return Method(peers=1, views=1, init=lambda: (), loss=loss)
