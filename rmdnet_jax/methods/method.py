"""What a base method is: how labels that may be wrong become a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from rmdnet_jax import losses
from rmdnet_jax.types import Array, Batch, Outputs, PyTree

Peers = tuple[Outputs, ...]  # of each network: feature and logits [view, batch, ...]


class Forward(Protocol):
    """The peers' outputs for images that a method makes, [view, batch, ...] for each peer."""

    def __call__(self, images: Any, /) -> Peers: ...


class Loss(Protocol):
    """One step's `(scalar, memory, metrics)`; `epoch` is a fraction, `key` serves random draws."""

    def __call__(
        self,
        outputs: Peers,
        batch: Batch,
        memory: PyTree,
        forward: Forward,
        key: Array,
        epoch: Array,
        /,
    ) -> tuple[Array, PyTree, dict[str, Any]]: ...


class Refresh(Protocol):
    """The memory after so many epochs, made outside the step.

    `outputs()` gives `Outputs` [peer, example, ...] of the examples trained on, computed at the
    first call. `given` [example] are their labels, `index` their rows in the training set.
    """

    def __call__(
        self,
        outputs: Callable[[], Outputs],
        given: Any,
        index: Any,
        memory: PyTree,
        epoch: int,
        /,
    ) -> PyTree: ...


class Method(NamedTuple):
    """A base method as pure functions; all state is `memory`, carried in the train state."""

    peers: int  # networks trained side by side
    views: int  # augmented views of each image
    init: Callable[[], PyTree]  # the first memory
    loss: Loss  # one step's (scalar, memory, metrics)
    refresh: Refresh | None = None  # after each epoch but the last
    strong: int = 0  # so many of the views, the last ones, are strongly augmented


def from_criterion(criterion: losses.Criterion) -> Method:
    """The method that minimises the batch mean of a per-example loss.

    Example:
      Absolute error, as a method of its own:

      >>> import jax, jax.numpy as jnp
      >>> from rmdnet_jax.methods import from_criterion
      >>> from rmdnet_jax.types import Batch, Outputs
      >>> def mae(num_examples, num_classes):
      ...     def error(logits, label):
      ...         return 2 - 2 * jax.nn.softmax(logits)[jnp.arange(len(label)), label]
      ...     return from_criterion(error)
      >>> outputs = (Outputs(None, jnp.zeros((1, 2, 4))),)  # one view of two examples, undecided
      >>> batch = Batch(None, jnp.array([0, 3]), jnp.arange(2))
      >>> value, memory, metrics = mae(2, 4).loss(outputs, batch, (), None, None, 0.0)
      >>> float(value)
      1.5

      `METHODS["mae"] = mae` makes it a method that configs can name.
    """

    def loss(outputs, batch, memory, forward, key, epoch):
        return losses.expected(criterion, outputs[0].logits[0], batch.label).mean(), memory, {}

    return Method(peers=1, views=1, init=lambda: (), loss=loss)
