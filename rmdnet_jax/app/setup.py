"""What the arms of one experiment share, checked and built before anything is written."""

from __future__ import annotations

import contextlib
import importlib.util
import pathlib
import warnings
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from rmdnet_jax import sharding
from rmdnet_jax.app import checked, fits, lock
from rmdnet_jax.app import workdir as directory
from rmdnet_jax.app.arms import Arm, arms
from rmdnet_jax.app.resolve import build
from rmdnet_jax.app.reviewed import review
from rmdnet_jax.app.schema import Config
from rmdnet_jax.data import resident, sources, store, streaming, tfds
from rmdnet_jax.data.encoded import Encoded
from rmdnet_jax.data.resident import Examples
from rmdnet_jax.errors import UserError, under, wrong
from rmdnet_jax.files import place
from rmdnet_jax.labels import given as given_labels
from rmdnet_jax.labels import noise
from rmdnet_jax.networks.adapters import adapt
from rmdnet_jax.networks.layers import Network, grouped
from rmdnet_jax.training import fit, steps
from rmdnet_jax.training.metrics import Writer
from rmdnet_jax.training.objectives import Objective, classifier, ensemble
from rmdnet_jax.training.predict import Predict, features_of, predictor
from rmdnet_jax.types import Array, Variables

PREDICT_BATCH = 512
STAGES = ("relation_modeling", "relation_guided")


class Run(NamedTuple):
    """What the arms of one experiment share."""

    config: Config  # resolved
    arms: list[Arm]  # the experiment's own first
    workdir: pathlib.Path
    owner: lock.Owner  # of the workdir
    writer: Writer
    mesh: Mesh
    source: sources.Source
    known: bool  # whether the source's labels are clean
    given: np.ndarray  # int32 [n], the labels of all training examples after noise and review
    unreviewed: np.ndarray  # int32 [n], those before somebody has reviewed them: noise is theirs
    certain: np.ndarray  # bool [n], labels that somebody has reviewed: correction keeps them
    reviewed: str  # what a person should know of the labels and the set-up, in lines
    train: np.ndarray  # int32, rows whose labels are trained on
    held: np.ndarray  # int32, rows of the noisy validation split
    examples: Examples  # the columns, on every device; no images where these are streamed
    images: tuple[Any, Any]  # for training and test, where `predict` has them soonest
    statistics: tuple[np.ndarray, np.ndarray]  # per-channel mean and standard deviation
    encoder: Network
    features: Predict  # (encoder's Variables, images) -> float32 [n, dim]
    predict: Predict  # (student's Variables, images) -> Outputs

    @property
    def classes(self) -> int:
        """The number of classes."""
        return len(self.source.names)


def keep_programs() -> None:
    """Keeps compiled programs on disk, so that later runs need not compile them again."""
    # On a full disk each would tell so in a line of its own; a run needs none of them.
    warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
    with contextlib.suppress(UserError):  # a user without a home has no cache
        jax.config.update("jax_compilation_cache_dir", store.compiled())
        # All of them: a start compiles dozens that take less than the second JAX asks for.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def setup(
    config: Config,
    workdir: pathlib.Path,
    source: sources.Source | None = None,
    encoder: Any = None,
) -> Run:
    """Loads the data and builds what the arms share, from a resolved config; writes nothing.

    Args:
      config: resolved.
      workdir: of the run; refused if it holds a run of another config.
      source: examples in memory; None: those that the config names.
      encoder: a network of the user's; None: the one that the config names.
    """
    directory.check(workdir, config.to_dict())
    lock.refuse_used(workdir)
    if config.tensorboard and not importlib.util.find_spec("tensorflow"):
        raise wrong("tensorboard", f"be false without TensorFlow, or run {tfds.INSTALL}")
    network = network_of(config, encoder)
    source = fits.streamed(config, read(config) if source is None else source)
    kind, drawn = corrupt(config, source)
    with under("data"):
        path = local(config.data.labels, "labels")
        given, unreviewed, certain, said = review(path, source, drawn)
    index = np.arange(len(source.labels), dtype=np.int32)
    train, held = resident.split(index, config.data.validation, config.noise.seed)
    if config.relation_guided.epochs or config.audit:  # else no label is looked at
        checked.classes(source, train, given)
    mesh, plan = sharding.mesh(), arms(config)
    clean = source.labels if kind.known else None
    notes = checked.notes(config, source, train, plan, drawn if kind.size else None)
    columns = (fits.resident(source), given, index, clean)
    examples = Examples(*sharding.replicate(mesh, columns))
    statistics = resident.channel_statistics(source.images)
    student = ensemble(classifier(network, len(source.names)))

    return Run(
        config=config,
        arms=plan,
        workdir=workdir,
        owner=lock.Owner(workdir),
        writer=Writer(workdir, config.tensorboard),
        mesh=mesh,
        source=source,
        known=kind.known,
        given=given,
        unreviewed=unreviewed,
        certain=certain,
        reviewed="\n".join(filter(None, [*notes, said])),
        train=train,
        held=held,
        examples=examples,
        images=_near(mesh, source, examples),
        statistics=statistics,
        encoder=network,
        features=features(config, network, mesh, statistics),
        predict=predictor(student, mesh, PREDICT_BATCH, *statistics),
    )


def features(config: Config, network: Network, mesh: Mesh, statistics: tuple) -> Predict:
    """An encoder's features of clean images: of all of each, or over `teacher_crops`."""
    augment = config.relation_modeling.augmentation
    scale = augment.get("min_scale", 1.0), augment.get("max_scale", 1.0)
    crops = config.teacher_crops
    return features_of(network, mesh, PREDICT_BATCH, *statistics, crops=crops, scale=scale)


def network_of(config: Config, encoder: Any = None) -> Network:
    """The encoder that a config names, or the user's own; in training its batch norms by groups."""
    network = adapt(build("encoder", config) if encoder is None else encoder)
    with under("encoder"):
        return grouped(network, config.encoder.get("norm_group", 0))


def _near(mesh: Mesh, source: sources.Source, examples: Examples) -> tuple[Any, Any]:
    """Images for training and test: on an accelerator, or where a CPU reads them without a copy."""
    if jax.default_backend() == "cpu" or examples.image is None:
        return source.images, source.test_images
    return examples.image, sharding.replicate(mesh, resident.flat(np.asarray(source.test_images)))


def read(config: Config) -> sources.Source:
    """The data set that a config names."""
    data = config.data
    with under("data"):
        return sources.load(
            data.name,
            dir=data.dir if data.name not in sources.KINDS else local(data.dir, "dir"),
            image_size=data.image_size,
            limit=data.limit,
            seed=config.noise.seed,
            broken=data.broken,
            stream=fits.streams(config),
        )


def local(path: str, argument: str) -> str:
    """The path that a config's field means, see `files.place`; "" stays."""
    return path and str(place(path, argument))


def corrupt(config: Config, source: sources.Source) -> tuple[noise.Noise, np.ndarray]:
    """The configured noise, and the label int32 [n] that it gives each training example.

    Noise that is drawn knows an example by its row in the whole training set, whatever the limit.
    """
    kind = make_noise(config, source)
    size = len(source.labels)
    index = np.arange(size, dtype=np.int32) if kind.size or source.rows is None else source.rows
    if kind.images:
        return kind, fits.labels(kind, index, source)
    return kind, np.asarray(jax.jit(kind.labels)(index, source.labels))


def make_noise(config: Config, source: sources.Source) -> noise.Noise:
    """The configured noise; a `file` has a label for each example that the limit keeps.

    Without a path it reads the TFDS data set's own labels.
    """
    fields, data = config.noise, config.data
    total = source.total or len(source.labels)
    with under("noise"):
        if fields.name != "file":
            own = {name: value for name, value in fields.items() if name not in ("name", "seed")}
            return noise.make(fields.name, num_classes=len(source.names), seed=fields.seed, **own)
        if not fields.path and data.name not in (*sources.KINDS, "arrays"):
            found = tfds.labels(data.name, data.dir, fields.field)
            return noise.frozen(found if source.rows is None else found[source.rows])
        path, about = local(fields.path, "path"), {"rows": source.rows, "images": source.files}
        return noise.frozen(
            given_labels.read(path, fields.field, source.names, total=total, **about)
        )


def make_stage(
    made: Run,
    name: str,
    number: int,
    objective: Objective,
    evaluate: steps.Evaluate,
    refresh: steps.Refresh | None = None,
    **columns: np.ndarray | None,
) -> steps.Stage:
    """A stage from its part of the config; a dry run over shapes refuses what cannot be.

    Args:
      made: what the arms share.
      name: of the stage's records and checkpoints.
      number: 0 for relation modeling, which reads no labels, 1 for relation-guided learning;
        stages of one number share every random draw.
      objective: what is minimised.
      evaluate: see `steps.Stage`.
      refresh: likewise.
      **columns: further columns of `Examples`, such as `targets`.
    """
    part = STAGES[number]
    config = made.config[part]
    key = jax.random.fold_in(jax.random.key(made.config.seed), number)
    rows = np.arange(len(made.given), dtype=np.int32) if number == 0 else made.train
    examples = made.examples._replace(
        **{k: sharding.spread(made.mesh, v) for k, v in columns.items() if v is not None}
    )
    checked.batch(part, config.batch_size, len(rows), made.config.encoder.get("norm_group", 0))
    with under(part):
        batches = _batches(made, examples, rows, config, key)
    checked.steps(part, config.epochs, batches.steps_per_epoch)
    augments = [build(f"{part}.augmentation", made.config)] * (objective.views - objective.strong)
    if objective.strong:
        augments += [build(f"{part}.strong", made.config)] * objective.strong
    optimizer = build(f"{part}.optimizer", made.config, batches.steps_per_epoch, config.epochs)
    stage = steps.Stage(
        name=name,
        objective=objective,
        optimizer=optimizer,
        pipeline=batches,
        prepare=resident.prepare(augments, *made.statistics),
        key=key,
        epochs=config.epochs,
        average=config.average,
        evaluate=evaluate,
        refresh=refresh,
        steps_per_call=made.config.steps_per_call,
    )
    _dry(made, stage, examples, part)
    return stage


def _dry(made: Run, stage: steps.Stage, examples: Examples, part: str) -> None:
    """Runs a stage over shapes; errors name the `part` of the config."""
    size = stage.pipeline.batch_size
    index = jax.ShapeDtypeStruct((size,), np.int32)
    image = jax.ShapeDtypeStruct((size, *made.source.images.shape[1:]), np.uint8)
    like = jax.eval_shape(resident.gather, examples, index)._replace(image=image)
    with jax.set_mesh(made.mesh):
        variables, _ = jax.eval_shape(stage.objective.init, stage.key, image)
        with under(f"{part}.optimizer"):
            jax.eval_shape(stage.optimizer.transform.init, variables.params)
        with under(part):
            steps.shapes(stage, made.mesh, like)


def _batches(
    made: Run, examples: Examples, rows: np.ndarray, config: Config, key: Array
) -> resident.Pipeline:
    """The batches of a stage, from images on the devices or streamed."""
    images, size = made.source.images, config.batch_size
    order = jax.random.fold_in(key, steps.ORDER)
    if isinstance(images, Encoded):
        return streaming.streaming(examples, images, rows, size, order, made.mesh, config.epochs)
    return resident.resident(examples, rows, size, order, made.mesh)


def train(made: Run, stage: steps.Stage) -> Variables:
    """Fits a stage, its checkpoints under `workdir/checkpoints`."""
    place = made.workdir / "checkpoints" / stage.name
    state = fit.fit(stage, made.mesh, place, made.config.checkpoint_steps, made.writer)
    made.owner.check()
    return steps.final_variables(state)
