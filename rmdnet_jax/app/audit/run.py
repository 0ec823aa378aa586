"""What an audit reads from a run or a folder of images: their features are a teacher's."""

from __future__ import annotations

import argparse
import contextlib
import pathlib

import numpy as np

from rmdnet_jax import evaluation, files
from rmdnet_jax.app import schema, setup, student
from rmdnet_jax.app import teacher as teachers
from rmdnet_jax.app import workdir as directory
from rmdnet_jax.app.audit.inputs import Inputs, printable
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.app.schema import Config
from rmdnet_jax.app.setup import Run
from rmdnet_jax.app.teacher import Teacher
from rmdnet_jax.data.sources import Source
from rmdnet_jax.errors import UserError, first_line, wrong
from rmdnet_jax.labels.files import named, read_array
from rmdnet_jax.networks import weights

PATH = "the audited PATH"


def of_path(args: argparse.Namespace) -> Inputs:
    """The inputs of a run's workdir, or of a folder of images in class folders."""
    path = files.place(args.path, PATH)
    if (path / "config.json").is_file():
        return of_run(path, args.teacher)
    if not path.is_dir():
        raise wrong(PATH, f"be a run's workdir or a folder of images, got {args.path!r}")
    return of_folder(path, args)


def of_run(path: pathlib.Path, teacher: str) -> Inputs:
    """The inputs of a finished run: its data, its given labels, its teacher's features."""
    config = _config(path)
    if config.data.name == "arrays":
        how = "rmd.train(..., overrides={'audit': True}) writes their audit"
        raise wrong(PATH, f"be a run on stored data; {path} had arrays in memory: {how}")
    named_teacher = teacher or config.teacher or str(path)
    if named_teacher == str(path) and not (path / "teacher").is_dir():
        raise wrong(PATH, f"hold a teacher/; {str(path)!r} has none yet: name one by --teacher")
    made, found = _taught(config, named_teacher)
    return of(made, found.features, path)


def of(made: Run, features: np.ndarray, workdir: pathlib.Path) -> Inputs:
    """The inputs of a run's data, with the losses of its student where it has left one."""
    classes, images = printable(made.source.names), made.source.images
    signals = {}
    with contextlib.suppress(UserError):  # no student yet, or a network of the user's own
        logits = np.log(np.maximum(student.load(workdir).predict(images), 1e-30))
        signals["loss"] = evaluation.cross_entropy(logits, made.given)
    certain = np.flatnonzero(made.certain)
    return Inputs(
        labels=classes[made.unreviewed],
        features=features,
        names=printable(made.source.files).tolist() or None,
        images=lambda index: np.broadcast_to(images[index][..., :3], (*images.shape[1:3], 3)),
        root=setup.local(made.config.data.dir, "data.dir") if made.source.files else None,
        signals=signals,
        clean=classes[made.source.labels] if made.known else None,
        reviewed=dict(zip(certain.tolist(), classes[made.given[certain]].tolist())),
        in_doubt=made.config.relation_guided.propagation.in_doubt,
        said=f"the teacher's, {features.shape[1]} numbers for each image",
    )


def of_folder(path: pathlib.Path, args: argparse.Namespace) -> Inputs:
    """The inputs of a folder of images, with features from a file or of a teacher."""
    if not (args.features or args.teacher):
        raise UserError(
            f"{PATH} needs features of its images: --features FILE of any model, or --teacher "
            f"RUN, which `rmdnet train --config image_folder:dir={path} --workdir RUN` trains"
        )
    config = _seen(args)
    config.data.update({"name": "folder", "dir": str(path)})
    if args.features:
        made = setup.setup(resolve(config), path / "audit")
        features = read_array(*named(args.features), "--features", usual="features")
        return of(made, features, path)._replace(said=args.features)
    made, found = _taught(config, args.teacher)
    return of(made, found.features, path)


def _seen(args: argparse.Namespace) -> Config:
    """A config with the encoder and the image size of the teacher."""
    config, place = schema.digits(), files.place(args.teacher, "--teacher")
    config.noise = schema.choice("none")
    about = weights.about(place, "teacher") if place.suffix == ".safetensors" else {}
    if args.teacher and (place / "config.json").is_file():
        there = _config(place)
        config.encoder, config.data.image_size = there.encoder, there.data.image_size
    elif "encoder" in about:  # a student's file
        try:
            config.encoder = schema.made(about["encoder"])
            config.data.image_size = int(about["image_shape"][0])
        except (AttributeError, LookupError, TypeError, ValueError):
            raise wrong("--teacher", f"hold a saved student, got {args.teacher!r}") from None
    if args.encoder:
        config.encoder = schema.choice(args.encoder)
    if args.size:
        config.data.image_size = args.size
    return config


def _config(path: pathlib.Path) -> Config:
    """The config of a run."""
    file = path / "config.json"
    tree = directory.read(file)
    try:
        return resolve(schema.made(tree))
    except (AttributeError, KeyError, TypeError) as error:  # a section of another kind
        raise UserError(f"{file} cannot be read: {first_line(error)}") from None


def _taught(config: Config, name: str) -> tuple[Run, Teacher]:
    """A config's data, without its test set, and what a teacher says of them; nothing is written.

    The config trains nothing: it needs no relations, controls or batches.
    """
    config.teacher, config.controls = name, ()
    config.relation_guided.weight, config.relation_guided.targets = 0.0, "given"
    config.relation_guided.init = "random"
    config = resolve(config)
    source: Source = setup.read(config)
    source = source._replace(test_images=source.test_images[:0], test_labels=source.test_labels[:0])
    made = setup.setup(config, pathlib.Path(name) / "audit", source)
    found = teachers.prepared(made)
    assert isinstance(found, Teacher)
    return made, found
