"""What travels between the layers: batches and network variables.

Images are float32, NHWC, in [0, 1] until they are normalised per channel. Labels are int32 in
[0, class). `given` labels may be wrong; `clean` labels serve evaluation and metrics only and are
not part of a `Batch`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Array = jax.Array
PyTree = Any
AXIS = "data"  # the mesh's one axis, over which batches are split


class Batch(NamedTuple):
    """What one training step sees."""

    image: Array  # float32 [view, batch, height, width, channel]
    label: Array  # int32 [batch], possibly wrong; or corrected targets, float32 [batch, class]
    index: Array  # int32 [batch], position in the training set
    teacher: Array | None = None  # float32 [batch, dim], the teacher's features where stored
    averaged: Array | None = None  # float32 [batch, class], the averaged network's logits


class Variables(NamedTuple):
    """A network's arrays."""

    params: PyTree  # what the optimiser changes, float32
    stats: PyTree  # batch-norm running statistics, float32


class Outputs(NamedTuple):
    """What a classifier gives for a batch of images."""

    feature: Array  # float32 [..., dim], the encoder's output
    logits: Array  # float32 [..., class]


def hyper(factory: Callable) -> dict[str, Any]:
    """The hyper-parameters of a table entry: its keyword-only arguments with their defaults."""
    return {
        p.name: p.default
        for p in inspect.signature(factory).parameters.values()
        if p.kind is p.KEYWORD_ONLY
    }
