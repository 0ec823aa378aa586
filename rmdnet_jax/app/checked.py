"""What data must be for an experiment, after loading, limit and split; and what to say of them."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from rmdnet_jax.app import fits
from rmdnet_jax.app.arms import Arm
from rmdnet_jax.app.schema import Config
from rmdnet_jax.data.encoded import Encoded
from rmdnet_jax.data.images import some
from rmdnet_jax.data.sources import Source
from rmdnet_jax.errors import wrong
from rmdnet_jax.labels import given as given_labels

SHOWN = 12  # classes in a line


def classes(source: Source, train: np.ndarray, given: np.ndarray) -> None:
    """Raises `UserError` for classes that cannot be learnt or measured.

    Args:
      source: the data set, cut to its limit.
      train: the rows that are trained on.
      given: int32 [n], the labels after noise and review.
    """
    names = np.array(source.names)
    for what, labels in (("", source.labels), (" after noise", given)):
        if len(there := np.unique(labels[train])) < 2:
            must = f"hold training images of two classes or more{what}"
            alone = f"got {str(names[there[0]])!r} alone (epochs=0 trains a teacher without labels)"
            raise wrong("data", f"{must}, {alone}")
    there, tested = (np.isin(np.arange(len(names)), x) for x in (
        source.labels[train], source.test_labels
    ))  # fmt: skip
    if (lost := np.flatnonzero(tested & ~there)).size:
        few = some(map(repr, names[lost].tolist()))
        must = f"hold training images of each class that is tested, got none of {few}"
        kept = f"; data.limit keeps {len(given)} of {source.total}" if source.total else ""
        raise wrong("data", f"{must}{kept}")


def notes(
    config: Config,
    source: Source,
    train: np.ndarray,
    plan: Sequence[Arm],
    filed: np.ndarray | None,
) -> list[str]:
    """What a person should know before a run: lines, each with a word in front.

    `filed`: the labels of a file, where they come from one.
    """
    named = [f"{i} {name}" for i, name in enumerate(source.names)]
    counted = [str(name) for name in source.names] == [str(i) for i in range(len(named))]
    lines = [] if counted else [f"classes {some(named, SHOWN)}"]
    counts = np.bincount(source.labels[train], minlength=len(named))
    if empty := [named[i] for i in np.flatnonzero(counts == 0)]:
        lines.append(f"note   no training image shows {some(empty, SHOWN)}")
    if filed is not None and (why := given_labels.by_chance(source.labels, filed)):
        lines.append(f"WARNING {why}")
    if isinstance(source.images, Encoded):
        lines.append(f"note   {fits.said(config, source)}")
    if config.encoder.get("dtype") == "bfloat16" and jax.default_backend() == "cpu":
        lines.append("note   encoder.dtype=bfloat16 is computed in float32 on a CPU")
    if config.encoder.name not in ("cnn", "custom") and jax.default_backend() == "cpu":
        lines.append(f"note   {config.encoder.name} is slow on a CPU; encoder=cnn is fast")
    if config.teacher and not (config.audit or any(arm.reads_teacher for arm in plan)):
        lines.append("note   the teacher is not used: no arm reads it")
    return lines


def anchors(config: Config) -> None:
    """Raises `UserError` for anchors that a batch cannot be related to."""
    guided = config.relation_guided
    if guided.anchors == 1:
        raise wrong("relation_guided.anchors", "be 0, or at least 2, got 1")
    if guided.anchors and guided.edge.name != "softmax_kl":
        must = f"be 0 but for edge=softmax_kl, got {guided.anchors} with {guided.edge.name}"
        raise wrong("relation_guided.anchors", must)


def batch(part: str, batch_size: int, rows: int, group: int) -> None:
    """Raises `UserError` for a batch that cannot be, and says what would fit.

    Args:
      part: of the config.
      batch_size: there.
      rows: of the training set.
      group: images that a batch norm sees at a time; 0: the whole batch.
    """
    if 0 < group < batch_size and batch_size % group:
        text = f"divide {part}.batch_size={batch_size}, got {group}"
        raise wrong("encoder.norm_group", text)
    if batch_size > rows > 1:
        fits = f"[2, {rows}] (the training examples), got {batch_size}"
        few = 1 << max(1, rows.bit_length() - 3)  # four to eight steps an epoch
        raise wrong(f"{part}.batch_size", f"be in {fits}; batch_size={few} sets all stages")


def steps(part: str, epochs: int, per_epoch: int) -> None:
    """Raises `UserError` for more steps than 32 bits count."""
    most = ((1 << 31) - 1) // per_epoch
    if epochs > most:
        raise wrong(f"{part}.epochs", f"be in [0, {most}] with these batches, got {epochs}")
