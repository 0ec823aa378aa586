"""Relation-guided learning: what students have in common, and the stage that trains one."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmdnet_jax import sharding
from rmdnet_jax.app import checked, correct
from rmdnet_jax.app import teacher as teachers
from rmdnet_jax.app.arms import Arm
from rmdnet_jax.app.correct import Corrected
from rmdnet_jax.app.measure import test
from rmdnet_jax.app.resolve import bound, build
from rmdnet_jax.app.schema import Config
from rmdnet_jax.app.setup import Run, make_stage, train
from rmdnet_jax.app.teacher import Teacher
from rmdnet_jax.errors import under
from rmdnet_jax.methods import Method, consistency, mixup
from rmdnet_jax.methods.method import Refresh
from rmdnet_jax.networks.layers import Network
from rmdnet_jax.relations.anchors import anchored_kl
from rmdnet_jax.relations.losses import RelationLoss
from rmdnet_jax.training.objectives import (
    Anchors,
    alone,
    classifier,
    relation_guided,
    within,
)
from rmdnet_jax.training.steps import Stage
from rmdnet_jax.types import Outputs, Variables


class Learner(NamedTuple):
    """What all students of an experiment have in common."""

    method: Method
    edge: RelationLoss  # weighted
    node: RelationLoss  # weighted
    student: Network


def learner(made: Run) -> Learner:
    """The method, the relation losses and the student that a config names."""
    edge, node = matching(made.config, "edge"), matching(made.config, "node")
    checked.anchors(made.config)
    return Learner(method(made), edge, node, classifier(made.encoder, made.classes))


def method(made: Run, rate: float = 0.0) -> Method:
    """The method that a config names; with this noise rate, where it is to be the graph's."""
    rows = sharding.padded(len(made.given))
    found = build("relation_guided.method", made.config, rows, made.classes, rate=rate)
    guided = made.config.relation_guided
    with under("relation_guided"):
        found = mixup(found, guided.mixup, made.classes)
    with under("relation_guided.consistency"):
        return consistency(found, made.classes, **guided.consistency)


def matching(config: Config, part: str) -> RelationLoss:
    """An edge or node loss with its weight, tried on two examples: bad values are refused now."""
    path = f"relation_guided.{part}"
    weight, loss = config.relation_guided[part].weight, bound(path, config)
    example = jax.ShapeDtypeStruct((2, 2), np.float32)
    with under(path):
        jax.eval_shape(loss, example, example)
    return lambda student, teacher: weight * loss(student, teacher) if weight else jnp.zeros(())


def anchors(made: Run, teacher: Teacher) -> Anchors | None:
    """What batches are related to where that is not themselves, split over the devices."""
    config = made.config.relation_guided
    if not config.anchors:
        return None
    edge, count = config.edge, len(teacher.features)
    temperatures = {name: edge[name] for name in ("teacher_temperature", "student_temperature")}

    def loss(*rows):
        return edge.weight * anchored_kl(*rows, **temperatures)

    return Anchors(sharding.spread(made.mesh, teacher.features), count, config.anchors, loss)


def stage(
    made: Run,
    parts: Learner,
    arm: Arm,
    teacher: Teacher | None = None,
    corrected: Corrected | None = None,
) -> Stage:
    """Relation-guided learning as configured, for an arm.

    Without a teacher it is the base method's, which is enough to check the settings.
    """
    config, base = made.config.relation_guided, parts.method
    rate = correct.rate(corrected, arm) if corrected and arm.reads_rate else None
    if arm.rated and rate:
        base = method(made, rate["used"])
    stored = config.teacher_features == "stored"
    variables = teacher.variables if teacher else None
    objective = relation_guided(
        parts.student,
        base,
        (teacher and teacher.network) or made.encoder,
        None if stored else variables,
        weight=arm.weight if teacher else 0.0,
        edge=parts.edge,
        node=parts.node,
        warmup_epochs=config.warmup_epochs,
        start=variables if arm.init == "teacher" else None,
        anchors=anchors(made, teacher) if teacher and arm.weight else None,
        mapped=teachers.mapped(made, teacher) if teacher and arm.weight else 0,
        limit=_limit(rate) if teacher and arm.auto else None,
    )
    targets = corrected.targets if corrected and arm.targets != "given" else None
    refresh = None
    if base.refresh is not None:
        refresh = functools.partial(remember, made, base.refresh, learnt(made, arm, corrected))
    if refresh and arm.auto and teacher:
        refresh = within(refresh)
    features = teacher.features if teacher and stored and arm.weight else None
    return make_stage(
        made, arm.stage, 1, objective, functools.partial(test, made), refresh,
        targets=targets, teacher=features,
    )  # fmt: skip


def _limit(rate: dict | None) -> float:
    """The share of labels that are right by the graph: a student above it learns wrong ones."""
    return 1 - (rate["used"] if rate else 0.0)


def learnt(made: Run, arm: Arm, corrected: Corrected | None) -> np.ndarray:
    """The labels int32 [n] that an arm learns: as given, or the likeliest of corrected targets."""
    return corrected.targets.argmax(1) if corrected and arm.targets != "given" else made.given


def remember(
    made: Run, refresh: Refresh, labels: np.ndarray, variables: Variables, memory: Any, epoch: int
) -> Any:
    """A method's memory after an epoch, from what each peer says of the examples trained on."""

    @functools.cache
    def outputs() -> Outputs:
        peers = [Variables((params,), (stats,)) for params, stats in zip(*variables)]
        said = [made.predict(peer, made.images[0], made.train) for peer in peers]
        return jax.tree.map(lambda *x: np.stack(x), *said)

    return refresh(outputs, labels[made.train], made.train, memory, epoch)


def fitted(
    parts: Learner,
    arm: Arm,
    teacher: Teacher | None,
    made: Run,
    corrected: Corrected | None,
    name: str,
) -> tuple[Stage, Variables]:
    """A student of an arm, and the stage of this name that trained it."""
    built = stage(made, parts, arm._replace(stage=name), teacher, corrected)
    return built, alone(train(made, built))
