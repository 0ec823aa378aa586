"""Whole runs on digits, timed epoch by epoch: the teacher, then every method with each variant."""

from __future__ import annotations

import itertools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from rmdnet_jax.app import correct, learning
from rmdnet_jax.app import teacher as teachers
from rmdnet_jax.app.arms import own
from rmdnet_jax.app.correct import Corrected
from rmdnet_jax.app.overrides import override
from rmdnet_jax.app.presets import digits
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.app.setup import Run, setup
from rmdnet_jax.app.teacher import Teacher
from rmdnet_jax.training import fit, steps
from rmdnet_jax.types import Variables
from studies.methods import K


def whole(
    methods: list[str], seeds: list[int], epochs: int, modeling: int, variants: Mapping[str, dict]
) -> Iterator[dict[str, Any]]:
    """A row of the teacher, then one a method and variant, for each seed; the noise hits half."""
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            place = pathlib.Path(folder)
            values = {"seed": seed, "noise": "symmetric", "rate": 0.5,
                      "epochs": epochs, "modeling": modeling}  # fmt: skip
            row, teacher, corrected = taught(override(digits(), values), place)
            yield {"seed": seed, **row}
            for method in methods:
                for variant, settings in variants.items():
                    own_values = {"method": method, "weight": K.get(method, 30.0), **settings}
                    config = override(digits(), {**values, **own_values})
                    found = student(config, place / f"{method}-{variant}", teacher, corrected)
                    yield {"seed": seed, "method": method, "variant": variant, **found}


def begun(config: Any, place: pathlib.Path) -> Run:
    """A run that has a place to write to."""
    place.mkdir()
    return setup(resolve(config), place)


def taught(config: Any, place: pathlib.Path) -> tuple[dict, Teacher, Corrected]:
    """The teacher, and the labels that it corrects."""
    made = begun(config, place / "teacher")
    stage = teachers.prepared(made)
    assert isinstance(stage, steps.Stage)
    variables, curve = clocked(made, stage)
    encoder = Variables(variables.params["encoder"], variables.stats["encoder"])
    images = made.source.images
    features, feature_seconds = second(lambda _: made.features(encoder, images))

    def relabelled(number: int) -> Corrected:  # each writes its file into a folder of its own
        (there := place / f"corrected{number}").mkdir()
        return correct.corrected(made._replace(workdir=there), features)

    corrected, correction_seconds = second(relabelled)
    row = {
        "method": "",
        "variant": "teacher",
        **curve,
        "feature_seconds": feature_seconds,
        "correction_seconds": correction_seconds,
        "right_before": float((made.given == made.source.labels).mean()),
        "right_after": float((corrected.targets.argmax(1) == made.source.labels).mean()),
    }
    return row, Teacher(features, None, encoder, {}, {}), corrected


def second(run: Callable[[int], Any]) -> tuple[Any, float]:
    """What a second call gives, and its seconds: the first one compiles."""
    run(0)
    began = time.perf_counter()
    return run(1), time.perf_counter() - began


def student(config: Any, place: pathlib.Path, teacher: Teacher, corrected: Corrected) -> dict:
    """One student's curve."""
    made = begun(config, place)
    parts, arm = learning.learner(made), own(made.config)
    return clocked(made, learning.stage(made, parts, arm, teacher, corrected))[1]


def clocked(made: Run, stage: steps.Stage) -> tuple[Variables, dict]:
    """Trains a stage; what it gives, and when each epoch had ended with which accuracy."""
    marks, accuracies = [], []

    def evaluate(*args):
        values = stage.evaluate(*args)
        marks.append(time.perf_counter())
        accuracies.append(values.get("test_accuracy", values.get("knn_accuracy")))
        return values

    watched = stage._replace(evaluate=evaluate)
    place = made.workdir / "checkpoints"
    state = fit.fit(watched, made.mesh, place, 10**9, made.writer)
    return steps.final_variables(state), {"ends": ends(marks), "accuracies": accuracies}


def ends(marks: list[float]) -> list[float]:
    """Seconds from the start to each epoch's end.

    The first epoch compiles. It counts as the median of the others.
    """
    lengths = [after - before for before, after in itertools.pairwise(marks)]
    first = statistics.median(lengths)
    return [round(first + mark - marks[0], 4) for mark in marks]
