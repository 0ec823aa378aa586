"""What the stages of one experiment share, checked and built from its config before anything is trained or written."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from rmdnet_jax import sharding
from rmdnet_jax.app import config as configuration
from rmdnet_jax.app import workdir as directory
from rmdnet_jax.app.config import build
from rmdnet_jax.data import resident as pipeline
from rmdnet_jax.data import sources, store, tfds
from rmdnet_jax.data.augment import AUGMENTATIONS
from rmdnet_jax.errors import UserError
from rmdnet_jax.labels import noise
from rmdnet_jax.networks.encoders import ENCODERS
from rmdnet_jax.networks.layers import Network
from rmdnet_jax.training import fit as training
from rmdnet_jax.training.metrics import Writer
from rmdnet_jax.training.objectives import Objective, classifier, ensemble
from rmdnet_jax.training.optimizer import OPTIMIZERS
from rmdnet_jax.types import Array, Config, Variables

PREDICT_BATCH = 512


class Run(NamedTuple):
    """What the stages of one experiment share."""

    config: Config
    workdir: pathlib.Path
    writer: Writer
    mesh: Mesh
    source: sources.Source
    noise: noise.Noise
    given: np.ndarray  # int32 [n], the noisy labels of all training examples
    train: np.ndarray  # int32, rows whose labels are trained on
    held: np.ndarray  # int32, rows of the noisy validation split
    images: Array  # source.images on every device
    labels: Array  # source.labels on every device
    statistics: tuple[np.ndarray, np.ndarray]  # per-channel mean and standard deviation
    encoder: Network
    features: Callable  # (encoder Variables, uint8 images [n, h, w, c]) -> float32 [n, dim]
    predict: Callable  # (student Variables, uint8 images [n, h, w, c]) -> Outputs


def keep_programs() -> None:
    """Keeps compiled programs on disk, beside decoded data unless `$JAX_COMPILATION_CACHE_DIR` says where: later runs need not compile."""
    jax.config.update(
        "jax_compilation_cache_dir",
        os.environ.get("JAX_COMPILATION_CACHE_DIR", str(store.root() / "compiled")),
    )


def setup(config: Config, workdir: pathlib.Path) -> Run:
    """Checks the config, loads the data and builds what the stages share; writes nothing."""
    configuration.check(config)
    directory.check(workdir, json.loads(config.to_json()))
    encoder = build(ENCODERS, "encoder", config.encoder)
    source = sources.load(
        config.data.name,
        dir=config.data.dir,
        image_size=config.data.image_size,
        limit=config.data.limit,
    )
    kind, given = corrupt(config, source)
    index = np.arange(len(source.labels), dtype=np.int32)
    shuffled = np.random.default_rng(config.noise.seed).permutation(index)
    held, train = np.split(shuffled, [round(config.data.validation * len(index))])
    mesh = sharding.mesh()
    statistics = pipeline.channel_statistics(source.images)

    def predictor(apply):
        return training.predictor(apply, mesh, PREDICT_BATCH, *statistics)

    return Run(
        config=config,
        workdir=workdir,
        writer=Writer(workdir, config.tensorboard),
        mesh=mesh,
        source=source,
        noise=kind,
        given=given,
        train=np.sort(train),
        held=np.sort(held),
        images=sharding.replicate(mesh, np.asarray(source.images)),
        labels=sharding.replicate(mesh, np.asarray(source.labels)),
        statistics=statistics,
        encoder=encoder,
        features=predictor(lambda variables, image: encoder.apply(variables, image, False)[0]),
        predict=predictor(ensemble(classifier(encoder, len(source.names)))),
    )


def corrupt(config: Config, source: sources.Source) -> tuple[noise.Noise, np.ndarray]:
    """The configured noise, and the label int32 [n] that it gives each training example."""
    kind = make_noise(config, source)
    index = np.arange(len(source.labels), dtype=np.int32)
    if kind.images:
        kind = noise.frozen(kind.labels(index, source.labels, source.images))
    return kind, np.asarray(jax.jit(kind.labels)(index, source.labels))


def make_noise(config: Config, source: sources.Source) -> noise.Noise:
    """The configured noise, an `auto` mapping resolved by the data set's name, labels without a path read from the TFDS data set itself."""
    fields = config.noise.to_dict()
    if fields["name"] == "file" and not fields["path"] and config.data.name not in sources.KINDS:
        return noise.frozen(
            tfds.labels(config.data.name, config.data.dir, fields["field"])[
                : config.data.limit or None
            ]
        )
    if fields.get("mapping") == "auto" and config.data.name in ("cifar10", "cifar100"):
        fields["mapping"] = config.data.name
    kind = noise.make(num_classes=len(source.names), **fields)
    size = kind.size if not config.data.limit else min(kind.size or 0, config.data.limit)
    if kind.size is not None and size != len(source.labels):
        raise UserError(
            f"noise.path must hold {len(source.labels)} labels, one for each training example, got {kind.size}"
        )
    return kind


def make_stage(
    made: Run,
    name: str,
    number: int,
    objective: Objective,
    evaluate: Callable,
    refresh: Callable | None = None,
) -> training.Stage:
    """A stage from its part of the config; stages of one `number` (0: relation modeling) share every random draw."""
    part = ("relation_modeling", "relation_guided")[number]
    config = made.config[part]
    key = jax.random.fold_in(jax.random.key(made.config.seed), number)
    order = jax.random.fold_in(key, training.ORDER)
    rows = (
        np.arange(len(made.given), dtype=np.int32) if number == 0 else made.train
    )  # relation modeling reads no labels
    sharding.check_batch(f"{part}.batch_size", config.batch_size, len(rows), made.mesh.size)
    batches = pipeline.resident(made.images, made.labels, rows, config.batch_size, order, made.mesh)
    augment = build(AUGMENTATIONS, f"{part}.augmentation", config.augmentation)
    optimizer = build(
        OPTIMIZERS, f"{part}.optimizer", config.optimizer, batches.steps_per_epoch, config.epochs
    )
    prepare = pipeline.prepare(made.noise, augment, objective.views, *made.statistics)
    stage = training.Stage(
        name,
        objective,
        optimizer,
        batches,
        prepare,
        key,
        config.epochs,
        config.average,
        evaluate,
        refresh,
    )
    like: Any = [
        jax.ShapeDtypeStruct((config.batch_size, *x.shape[1:]), x.dtype)
        for x in (made.images, made.labels, rows)
    ]
    with jax.set_mesh(made.mesh):
        training.shapes(
            stage, made.mesh, pipeline.Raw(*like)
        )  # so that whatever does not fit is refused before anything is written
    return stage


def train(made: Run, stage: training.Stage) -> Variables:
    """Fits a stage, its checkpoints under `workdir/checkpoints`."""
    state = training.fit(
        stage,
        made.mesh,
        made.workdir / "checkpoints" / stage.name,
        made.config.checkpoint_steps,
        made.writer,
    )
    return training.final_variables(state)
