"""Soft targets of an experiment: the given labels corrected over the teacher's relation graph, kept in the workdir."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable

import jax
import numpy as np
from tqdm import tqdm

from rmdnet_jax import files, sharding
from rmdnet_jax.app.setup import Run
from rmdnet_jax.errors import UserError, first_line
from rmdnet_jax.labels import noise
from rmdnet_jax.relations import neighbours, propagation
from rmdnet_jax.relations.propagation import Propagated
from rmdnet_jax.types import Variables


def propagator(made: Run) -> Callable:
    """`(features [example, dim] of the examples trained on, their given labels) -> Propagated` as configured; checks the settings."""
    settings = {
        name: value
        for name, value in made.config.relation_guided.propagation.items()
        if name != "refresh"
    }
    classes, size = len(made.source.names), len(made.train)
    propagation.settings(settings["neighbours"], settings["temperature"], settings["alpha"], size)
    neighbours.chosen(settings["search"], size)
    propagation.check_labels(made.given[made.train], classes)

    def bar(items, what):
        return tqdm(
            items, desc=f"propagation, {what}", disable=None if sharding.is_main() else True
        )

    run = functools.partial(
        propagation.propagate, num_classes=classes, seed=made.config.seed, watch=bar, **settings
    )

    def propagate(features, given):
        with jax.set_mesh(made.mesh):
            return run(features, given)

    return propagate


def corrected(made: Run, teacher: Variables, propagate: Callable) -> tuple[np.ndarray, dict]:
    """Targets [n, C] of all training examples, one-hot where the example is held out, and the summary; read if they are there already."""
    path = made.workdir / "propagated.npz"
    if path.exists():
        try:
            with np.load(path, allow_pickle=False) as file:
                target, about = file["target"], json.loads(str(file["about"]))
        except Exception as error:  # a damaged file raises anything
            raise UserError(
                f"{path} cannot be read ({first_line(error)}); delete it and it is made again"
            ) from None
    else:
        found = propagate(
            made.features(teacher, made.source.images[made.train]), made.given[made.train]
        )
        target, about = found.target, keep(made, found, "propagated.npz")
    table = np.eye(target.shape[1], dtype=np.float32)[made.given]
    table[made.train] = target
    return table, about


def renewed(
    made: Run, propagate: Callable, features: np.ndarray, given: np.ndarray
) -> np.ndarray | None:
    """Targets by the graph of a student's features, the newest kept as `refreshed.npz`; None where that graph is in doubt."""
    found = propagate(features, given)
    if not found.summary["used"]:
        return None
    keep(made, found, "refreshed.npz")
    return found.target


def keep(made: Run, found: Propagated, name: str) -> dict:
    """Writes a file to the workdir and returns the summary, with the labels' hash and where clean labels are known how many are right.

    It holds, for the examples `index` that are trained on, `target`, `label` (its arg max), `confidence` and `given`.
    """
    given, label = made.given[made.train], found.target.argmax(1)
    about = {**found.summary, "sha256": noise.digest(label)}
    if made.noise.known:
        about["right"] = float(np.mean(label == made.source.labels[made.train]))
    arrays = {
        "index": made.train,
        "target": found.target,
        "label": label,
        "confidence": found.confidence,
        "given": given,
    }
    files.write_arrays(made.workdir / name, about=np.array(json.dumps(about)), **arrays)
    return about
