"""The teacher: trained by stage 1, loaded from a run or a file of weights, or given as features.

Its features are computed once. Stored relations, the graph, kNN and the probe read them; only an
online teacher runs in the step.
"""

from __future__ import annotations

import contextlib
import functools
import json
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmdnet_jax import evaluation, sharding
from rmdnet_jax.app import features as given_features
from rmdnet_jax.app import sight, student
from rmdnet_jax.app.resolve import build
from rmdnet_jax.app.setup import Run, make_stage, train
from rmdnet_jax.app.setup import features as features_by
from rmdnet_jax.app.sight import Sight
from rmdnet_jax.data import resident
from rmdnet_jax.errors import UserError, wrong
from rmdnet_jax.files import place
from rmdnet_jax.networks import weights
from rmdnet_jax.networks.layers import Network
from rmdnet_jax.relations.rows import unit
from rmdnet_jax.training import checkpoint
from rmdnet_jax.training.objectives import relation_modeling
from rmdnet_jax.training.steps import Stage
from rmdnet_jax.types import Variables

ALIKE = 1e-5  # below this, coordinates of unit rows differ by rounding alone
COLLAPSED = 0.1  # below this z_std * sqrt(dim), all projections have become one point
ARRAYS = given_features.SUFFIXES  # files of features


class Teacher(NamedTuple):
    """A frozen encoder and what it says of every example; or only what it says."""

    features: np.ndarray  # float32 [n, dim], of one clean view of each training example
    test_features: np.ndarray | None  # float32 [m, dim]; None where they were not given
    variables: Variables | None  # None where only features were given
    settings: dict[str, Any]  # how it came about, for tables
    summary: dict[str, Any]  # stage 1's part of the summary
    network: Network | None = None  # its encoder on this run's normalised images; None: the run's


def prepared(made: Run, own: Any = None) -> Teacher | Stage:
    """The teacher where the config names one, or the stage that trains it; writes nothing.

    Args:
      made: what the arms share.
      own: features in memory, or a model of the user's, see `features.read`; the config has its
        name.
    """
    name = made.config.teacher
    if own is not None:
        return _given(made, own, name)
    if not name:
        dtype = made.config.encoder.get("dtype", "float32")
        ssl = build("relation_modeling.ssl", made.config, made.encoder, dtype)
        objective = relation_modeling(ssl, made.config.relation_modeling.epochs)
        evaluate = functools.partial(watch, made)
        stage = make_stage(made, "relation_modeling", 0, objective, evaluate)
        if resident.alike(made.source.images):
            same = f"got {len(made.given)} times the same image"
            raise wrong("data", f"hold images that differ from each other, {same}")
        return stage
    path = place(name, "teacher")
    if path.suffix in ARRAYS:
        return _given(made, path, name)
    network, variables, settings = _loaded(made, path)
    seen = sight.read(path, made.source.images.shape[-1])
    return _described(made, network, variables, settings, {"teacher": name}, seen)


def _described(
    made: Run,
    encoder: Network,
    variables: Variables,
    settings: dict,
    summary: dict,
    own: Sight | None = None,
) -> Teacher:
    """A teacher with its features of all examples, fed as it was trained."""
    called = f"teacher {made.config.teacher!r}" if made.config.teacher else "relation_modeling"
    network = sight.fed(encoder, own, made.statistics, made.source.images.shape)
    features = made.features
    if network is not made.encoder:
        features = features_by(made.config, network, made.mesh, made.statistics)
    weights.check(variables, called)
    found, test = (features(variables, x) if len(x) else None for x in made.images)
    assert found is not None
    check_features(found, called)
    return Teacher(found, test, variables, settings, summary, network)


def check_features(features: np.ndarray, called: str) -> None:
    """Raises `UserError` where features [n, dim] all point one way: they relate nothing."""
    rows = np.array(unit(jnp.asarray(features)))
    if np.ptp(rows, axis=0).max() < ALIKE:
        what = "all zero" if not rows.any() else "all alike"
        raise UserError(f"{called} cannot teach: its features of {len(rows)} images are {what}")


def trained(made: Run, stage: Stage) -> Teacher:
    """Relation modeling; the teacher is kept apart from the stage's checkpoints, for other runs."""
    variables = _encoder(train(made, stage))
    steps = stage.epochs * stage.pipeline.steps_per_epoch
    checkpoint.keep(made.workdir / "teacher", steps, variables)
    sight.write(made.workdir, made.statistics, made.source.images.shape)
    last = (made.writer.metrics.of(stage.name) or [{}])[-1]
    kept = {
        name: value
        for name, value in last.items()
        if name in ("loss", "z_std") or name.startswith("knn")
    }
    settings = {"relation_modeling": made.config.relation_modeling.to_dict()}
    about = {"epochs": stage.epochs, **kept, **made.writer.speed(stage.name)}
    return _described(made, made.encoder, variables, settings, about)


def _encoder(variables: Variables) -> Variables:
    """The encoder within a stage's network."""
    return Variables(variables.params["encoder"], variables.stats["encoder"])


def watch(made: Run, variables: Variables, epoch: int, values: dict) -> dict:
    """Stage 1's evaluation: stops a collapsed run; kNN accuracy, an evaluation only."""
    config = made.config.relation_modeling
    if values["z_std"] < COLLAPSED:
        raise UserError(
            f"relation_modeling collapsed: z_std * sqrt(dim) is {values['z_std']:.3f} in epoch "
            f"{epoch}, below {COLLAPSED}. Likely causes: a learning rate too high, augmentation "
            "too weak, batches too small for batch norm"
        )
    if not len(made.source.test_labels) or (
        epoch % config.evaluate_every and epoch != config.epochs
    ):
        return {}
    encoder = _encoder(variables)
    bank = made.features(encoder, made.images[0], made.train)
    query = made.features(encoder, made.images[1])
    predicted = nearest(made)(bank, made.source.labels[made.train], query)
    return {"knn_accuracy": evaluation.accuracy(predicted, made.source.test_labels)}


def nearest(made: Run) -> Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]:
    """The configured kNN classifier: (bank, labels, query) -> predicted."""
    settings = made.config.relation_modeling.knn
    return functools.partial(
        evaluation.knn, num_classes=made.classes, k=settings.k, temperature=settings.temperature
    )


def shapes(made: Run, encoder: Network | None = None) -> Variables:
    """The shapes of an encoder on the run's images: of the run's own, or another."""
    image = jax.ShapeDtypeStruct((2, *made.source.images.shape[1:]), np.float32)
    return jax.eval_shape((encoder or made.encoder).init, jax.random.key(0), image)


def mapped(made: Run, teacher: Teacher) -> int:
    """The teacher's dimension where students' features are mapped to it, else 0: they are alike."""
    guided = made.config.relation_guided
    if teacher.features is None or not (guided.node.weight or guided.anchors):
        return 0  # a program is compiled only, or nothing compares the examples themselves
    image = jax.ShapeDtypeStruct((2, *made.source.images.shape[1:]), np.float32)
    own, _ = jax.eval_shape(lambda v, x: made.encoder.apply(v, x, False), shapes(made), image)
    dim = teacher.features.shape[1]
    return dim if dim != own.shape[1] else 0


def _loaded(made: Run, path: pathlib.Path) -> tuple[Network, Variables, dict]:
    """The encoder of an earlier run or of a file of weights, and its settings."""
    if path.suffix in weights.SUFFIXES:
        state = weights.read(path, "teacher")
        about = weights.about(path, "teacher") if path.suffix == ".safetensors" else {}
        told = about.get("encoder")  # of a student's file
        own = isinstance(told, dict) and told != student.CUSTOM
        described = told if own else weights.described(state)
        network = _encoder_of(made, path, described) if described else made.encoder
        like = shapes(made, network)
        variables = weights.from_state_dict(state, like, f"teacher {str(path)!r}")
        return network, sharding.replicate(made.mesh, variables), {"teacher": path.name}
    try:
        there = json.loads((path / "config.json").read_text())
        described = dict(there["encoder"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        kinds = ", ".join((*weights.SUFFIXES, *ARRAYS))
        raise UserError(
            f"teacher must be the workdir of an earlier run, or a file of weights or features "
            f"({kinds}): no config.json can be read in {str(path)!r}"
        ) from None
    network = _encoder_of(made, path, described)
    settings = {"relation_modeling": there.get("relation_modeling", {})}
    return network, _restored(made, path, network), settings


def _encoder_of(made: Run, path: pathlib.Path, described: dict) -> Network:
    """The teacher's network: the run's own, or another that students cannot start from."""
    there, here = (_network_of(x) for x in (described, json.loads(made.config.encoder.to_json())))
    if there == here:
        return made.encoder
    fields = {name: value for name, value in described.items() if name != "norm_group"}
    with contextlib.suppress(UserError):
        if not any(arm.init == "teacher" for arm in made.arms):
            return student.rebuilt(fields)
    raise UserError(
        f"teacher {str(path)!r} has another architecture: encoder {there} there, {here} here"
    )


def _network_of(encoder: dict) -> dict:
    """What of an encoder's config says which network it is, not how it is computed or trained."""
    return {name: value for name, value in encoder.items() if name not in ("dtype", "norm_group")}


def _restored(made: Run, path: pathlib.Path, encoder: Network) -> Variables:
    """The encoder that an earlier run left."""
    if not (path / "teacher").is_dir():
        raise UserError(
            f"teacher {str(path)!r} has not finished relation modeling: there is no teacher/ in it"
        )
    place = sharding.everywhere(made.mesh)
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), shapes(made, encoder)
    )
    with checkpoint.opened(path / "teacher", 1) as manager:
        found = checkpoint.restore(manager, like)
    if found is None:
        shape = made.source.images.shape[1:]
        name = made.config.encoder.name
        raise UserError(
            f"teacher {str(path)!r} cannot be read as {name} for images of shape {shape}"
        )
    return found[1]


def _given(made: Run, own: Any, name: str) -> Teacher:
    """Features [n, dim] of any model, by example index; raises `UserError` where arms need more."""
    guided, controls, needs = made.config.relation_guided, made.config.controls, []
    if any(arm.weight for arm in made.arms) and guided.teacher_features != "stored":
        needs.append("relation_guided.teacher_features=stored")
    if guided.init == "teacher":
        needs.append("relation_guided.init=random")
    if "base_from_teacher" in controls:
        kept = ",".join(repr(name) for name in controls if name != "base_from_teacher")
        needs.append(f"controls=({kept})")
    if made.config.teacher_crops:
        needs.append("teacher_crops=0")
    if needs:
        must = "be a network, not features, to start from it, see it online or average over crops"
        raise wrong("teacher", f"{must}: set {' and '.join(needs)}")
    features, test = given_features.read(own, made.source)
    check_features(features, f"teacher {name!r}")
    return Teacher(features, test, None, {"teacher": pathlib.Path(name).name}, {"teacher": name})
