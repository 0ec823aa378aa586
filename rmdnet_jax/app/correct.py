"""Targets of an experiment: the given labels corrected over the teacher's graph, kept on disk."""

from __future__ import annotations

import json
import pathlib
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from rmdnet_jax import files, sharding
from rmdnet_jax.app.arms import Arm
from rmdnet_jax.app.setup import Run
from rmdnet_jax.errors import UserError, first_line, under
from rmdnet_jax.labels import noise
from rmdnet_jax.relations import neighbours, propagation
from rmdnet_jax.relations.propagation import Propagated

NAME = "propagated.npz"
PATH = "relation_guided.propagation"


class Corrected(NamedTuple):
    """Corrected labels of all training examples."""

    targets: np.ndarray  # float32 [n, class], rows sum to 1; the given label where held out
    summary: dict  # what the graph knows and what became of the labels
    transition: np.ndarray  # [C, C], P(given j | class y) as the graph tells it


def check(made: Run) -> None:
    """Raises `UserError` for settings or labels that cannot be."""
    settings, size = made.config.relation_guided.propagation, len(made.train)
    with under(PATH):
        propagation.settings(settings.neighbours, settings.temperature, settings.alpha, size)
        neighbours.chosen(settings.search, size)
    propagation.check_labels(made.unreviewed[made.train], made.classes)


def corrected(made: Run, features: np.ndarray, teacher: str = "", name: str = NAME) -> Corrected:
    """The labels corrected over the graph of the teacher's features [n, dim].

    Read from the file `name` where an earlier start of this run has found them, with the same
    `teacher` by its hash. What is noise is judged on the labels before a review, which takes the
    hardest first; those that are certain are put in afterwards.
    """
    path = made.workdir / name
    if sharding.main_says(path.exists()):
        return _read(made, teacher, path)

    def bar(items, what):
        silent = None if sharding.is_main() else True
        return tqdm(items, desc=f"corrected labels, {what}", disable=silent)

    with jax.set_mesh(made.mesh), under(PATH):
        found = propagation.propagate(
            features[made.train],
            made.unreviewed[made.train],
            num_classes=made.classes,
            seed=made.config.seed,
            watch=bar,
            **made.config.relation_guided.propagation.to_dict(),
        )
    return _kept(made, found, teacher, path)


def rate(found: Corrected, arm: Arm) -> dict:
    """The noise rate of the labels that an arm learns, as the graph tells it, with its interval.

    Of corrected labels it is that of what is left wrong, by the posterior of what each has become.
    Its interval is as wide as that of the given labels' rate: a wrong label too many or too few
    there is one that stays wrong, or becomes so.
    """
    about = found.summary
    used = about["wrong"]["given" if arm.targets == "given" else "propagated"]
    low = used - (about["noise_rate"] - about["noise_low"])
    high = used + (about["noise_high"] - about["noise_rate"])
    ends = {"low": max(low, 0.0), "high": min(high, 1.0)}
    return {"used": used, "source": "graph", **ends, "in_doubt": about["in_doubt"]}


def keep_certain(made: Run, targets: np.ndarray) -> np.ndarray:
    """Targets of the examples that are trained on; those reviewed are what they are."""
    one_hot = np.eye(made.classes, dtype=np.float32)[made.given[made.train]]
    return np.where(made.certain[made.train, None], one_hot, targets)


def _kept(made: Run, found: Propagated, teacher: str, path: pathlib.Path) -> Corrected:
    """Writes what was found, for the examples `index` that are trained on, and returns it.

    `name` is an example's file in an image folder.

    The summary says how many labels are right where clean ones are known, and holds a hash.
    """
    given, certain = made.given[made.train], made.certain[made.train]
    targets = keep_certain(made, found.targets)
    label = targets.argmax(1)
    about = {**found.summary, "sha256": noise.digest(label)}
    learnt = {"given": given, "propagated": label}
    about["wrong"] = {name: _wrong(found.belief, y, certain) for name, y in learnt.items()}
    if certain.any():
        about |= {"certain": int(certain.sum()), "changed": float(np.mean(label != given))}
    if made.known:
        about["right"] = float(np.mean(label == made.source.labels[made.train]))
    files.write_arrays(
        path,
        index=made.train,
        given=given,
        label=label,
        confidence=np.where(certain, 1, found.confidence).astype(np.float32),
        targets=targets,
        transition=found.transition,
        name=np.asarray(made.source.files or [""] * len(made.given))[made.train],
        about=np.array(json.dumps(about)),
        teacher=np.array(teacher),
    )
    return _whole(made, targets, about, found.transition)


def _wrong(belief: np.ndarray, label: np.ndarray, certain: np.ndarray) -> float:
    """The share of labels [n] that are wrong by the probability [n, class] of each class."""
    right = belief[np.arange(len(label)), label]
    return float(np.mean(1 - np.where(certain, 1, right)))


def _read(made: Run, teacher: str, path: pathlib.Path) -> Corrected:
    """What an earlier start of this run found."""
    try:
        with np.load(path, allow_pickle=False) as file:
            targets, about = file["targets"], json.loads(str(file["about"]))
            transition = file["transition"]
            same = np.array_equal(file["given"], made.given[made.train])
            same = same and np.array_equal(file["index"], made.train)
            if str(file["teacher"]) != teacher:
                raise ValueError("it is of another teacher")
        whole = targets.shape == (len(made.train), made.classes) and np.isfinite(targets).all()
        if not (same and whole and "used" in about):
            raise ValueError("it is not of these labels")
    except Exception as error:  # a damaged file raises anything
        raise UserError(
            f"{path} cannot be read ({first_line(error)}); delete it and it is made again"
        ) from None
    return _whole(made, targets, about, transition)


def _whole(made: Run, targets: np.ndarray, about: dict, transition: np.ndarray) -> Corrected:
    table = np.eye(made.classes, dtype=np.float32)[made.given]
    table[made.train] = targets
    return Corrected(table, about, transition)
