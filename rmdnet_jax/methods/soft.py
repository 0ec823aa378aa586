"""A base method on soft targets of its own instead of the given labels."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from rmdnet_jax.methods.method import Method


def on_targets(
    method: Method, target: np.ndarray, renew: Callable | None = None, every: int = 0
) -> Method:
    """`method` with `target` [example, class], rows of sum 1, in place of labels; its memory is (targets, the method's memory).

    Every so many epochs `renew(feature [example, dim] of the first peer, given [example]) -> target` makes the trained examples' rows anew;
    None leaves them.
    """

    def loss(outputs, batch, memory, forward, key, epoch):
        table, inner = memory
        value, inner, metrics = method.loss(
            outputs, batch._replace(label=table[batch.index]), inner, forward, key, epoch
        )
        return value, (table, inner), metrics

    def refresh(outputs, given, index, memory, epoch):
        table, inner = memory
        if renew is not None and every and epoch % every == 0:
            rows = renew(outputs().feature[0], given)
            if rows is not None:
                table = np.array(table)
                table[index] = rows
        if method.refresh is not None:  # what it compares losses with is what it learns
            inner = method.refresh(outputs, np.argmax(table[index], axis=-1), index, inner, epoch)
        return table, inner

    return method._replace(
        init=lambda: (jnp.asarray(target, jnp.float32), method.init()),
        loss=loss,
        refresh=refresh if every or method.refresh else None,
    )
