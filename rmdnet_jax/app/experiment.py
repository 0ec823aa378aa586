"""One experiment: the teacher, then each arm in turn, then what came out."""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from rmdnet_jax import sharding
from rmdnet_jax.app import (
    correct,
    exact,
    finish,
    identity,
    learning,
    processes,
    report,
    rounds,
    setup,
)
from rmdnet_jax.app import teacher as teachers
from rmdnet_jax.app import workdir as directory
from rmdnet_jax.app.arms import OWN, Arm, settings
from rmdnet_jax.app.correct import Corrected
from rmdnet_jax.app.learning import Learner, fitted, learnt
from rmdnet_jax.app.measure import frozen, measured
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.app.schema import Config
from rmdnet_jax.app.setup import Run
from rmdnet_jax.app.student import Student
from rmdnet_jax.app.teacher import Teacher
from rmdnet_jax.data.sources import Source
from rmdnet_jax.errors import wrong
from rmdnet_jax.files import place, write_json, writing
from rmdnet_jax.labels import noise
from rmdnet_jax.training.metrics import Writer
from rmdnet_jax.training.steps import Stage
from rmdnet_jax.types import Variables


class Outcome(NamedTuple):
    """What an experiment ends with."""

    summary: dict  # the content of summary.json
    student: Student | None  # of the experiment's own arm; None after relation modeling alone


def run(
    config: Config,
    workdir: str | pathlib.Path,
    *,
    given: Mapping[str, Any] | None = None,
    source: Source | None = None,
    encoder: Any = None,
    teacher: Any = None,
    classes: tuple = (),
) -> Outcome:
    """Runs an experiment to its end, continuing what `workdir` holds.

    Args:
      config: of a preset with overrides; what is not set is resolved here.
      workdir: where everything is written.
      given: what the user gave, kept in `config.json`.
      source: examples in memory, in place of those that the config names.
      encoder: a network of the user's, in place of the one that the config names.
      teacher: features in memory or a model of the user's, whose name the config has.
      classes: as the user names them, in the order of the labels; else the source's names.

    Raises:
      UserError: the config, the data or the workdir do not allow the run, or it cannot go on.
      training.stop.Stopped: after SIGTERM or SIGINT, with everything saved.
    """
    began = time.perf_counter()
    config = resolve(config)
    exact.prepare(config)
    made = setup.setup(config, place(workdir, "workdir"), source, encoder)
    with contextlib.closing(made.owner):
        if not made.config.relation_guided.epochs:
            return modeled(made, given or {}, classes)
        return _run(made, given or {}, teacher, classes, began)


def _run(
    made: Run, given: Mapping[str, Any], own_teacher: Any, classes: tuple, began: float
) -> Outcome:
    """Runs what was set up."""
    parts = learning.learner(made)
    for arm in made.arms:  # everything is built, and so checked, before anything is written
        if arm.stage:
            learning.stage(rounds.held_out(made) if arm.targets == "rounds" else made, parts, arm)
    if graphs := [arm for arm in made.arms if arm.reads_graph]:
        correct.check(made)
    needed = any(arm.reads_teacher for arm in made.arms) or made.config.audit
    if made.config.audit:
        finish.check_audit(made)
    teacher = teachers.prepared(made, own_teacher) if needed else None
    made, labels = begin(made, given, teacher, classes)
    if isinstance(teacher, Stage):
        teacher = teachers.trained(made, teacher)
    corrected, whole = None, [arm for arm in graphs if arm.targets != "rounds"]
    if whole and teacher:  # rounds correct without the labels that judge them
        corrected = correct.corrected(made, teacher.features, identity.of_teacher(teacher))
        report.say(report.graph(corrected.summary, whole))
    results, students, learnt_by = {}, {}, []
    for arm in made.arms:
        found, student, own = result(made, parts, arm, teacher, corrected)
        results[arm.name], students[arm.name] = found, student
        learnt_by += [own] if own else []
    summary = {
        "relation_modeling": teacher.summary if teacher else {},
        OWN: results[made.arms[0].name],
        "controls": {name: results[name] for name in made.config.controls},
        "noise": {**json.loads(made.config.noise.to_json()), **labels},
        "environment": report.environment(made.mesh),
        # Of this process; the arms' own seconds count all.
        "session_seconds": round(time.perf_counter() - began, 3),
    }
    student = finish.end(made, summary, teacher, [*learnt_by, None][0], students, classes)
    return Outcome(summary, student)


def modeled(made: Run, given: Mapping[str, Any], classes: tuple) -> Outcome:
    """Relation modeling alone: it needs no labels, and leaves a teacher but no student."""
    if made.config.teacher:
        raise wrong("relation_guided.epochs", "be > 0 where the teacher is given, got 0")
    stage = teachers.prepared(made)
    assert isinstance(stage, Stage)
    if made.config.audit:
        finish.check_audit(made)
    made, _ = begin(made, given, stage, classes)
    teacher = teachers.trained(made, stage)
    summary = {
        "relation_modeling": teacher.summary,
        "environment": report.environment(made.mesh),
    }
    made.owner.check()
    write_json(made.workdir / finish.SUMMARY, summary)
    report.say(f"teacher  {made.workdir}: teacher={made.workdir} uses it, or rmdnet audit")
    if made.config.audit:
        finish.audit(made, teacher)
    return Outcome(summary, None)


def begin(made: Run, given: Mapping[str, Any], teacher: Any, classes: tuple) -> tuple[Run, dict]:
    """Takes the workdir, and states there and on the screen what the run is of.

    Returns:
      The run with the records that are there, and what its labels are.
    """
    labels = noise.describe(made.source.labels, made.given, made.classes, made.known)
    config, data = made.config.to_dict(), identity.content(made, teacher, classes)
    processes.agree("data set", data)
    directory.check(made.workdir, data, "data")
    made.owner.take()
    extended = directory.check(made.workdir, config)  # again: nobody changes it from now on
    directory.check(made.workdir, data, "data")
    made = made._replace(writer=Writer(made.workdir, made.config.tensorboard))
    if extended and sharding.is_main():  # the run there is no finished one any more
        with writing(made.workdir):
            (made.workdir / finish.SUMMARY).unlink(missing_ok=True)
    directory.create(made.workdir, config={**config, directory.GIVEN: dict(given)}, data=data)
    report.say(report.describe(made.config, made.source, labels, made.reviewed))
    if (made.workdir / finish.SUMMARY).exists():
        report.say(finish.complete(made.workdir))
    return made, labels


def result(
    made: Run, parts: Learner, arm: Arm, teacher: Teacher | None, corrected: Corrected | None
) -> tuple[dict, Variables | None, Corrected | None]:
    """An arm's part of the summary, its student and its corrected labels, where there are such."""
    read = settings(made.config, arm, teacher.settings if teacher else {})
    about: dict[str, Any] = {"arm": arm.name, "settings": read}
    if not arm.stage:
        assert teacher is not None
        return {**frozen(made, arm, teacher), **about}, None, None
    if arm.targets == "rounds":
        assert teacher is not None
        made = rounds.held_out(made)
        fit = functools.partial(fitted, parts, arm, teacher)
        last, about["rounds"] = rounds.trained(made, teacher, arm.stage, fit)
        built, variables, corrected, _ = last
    else:
        built, variables = fitted(parts, arm, teacher, made, corrected, arm.stage)
    if arm.targets != "given" and corrected:
        about["propagation"] = corrected.summary
    rate = correct.rate(corrected, arm) if arm.reads_rate and corrected else None
    if arm.auto and rate:
        about["graph"] = rate
    own = rate if arm.rated else None
    found = measured(made, built, variables, learnt(made, arm, corrected), own)
    return {**found, **about}, variables, corrected if arm.targets != "given" else None
