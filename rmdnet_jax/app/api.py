"""Training from Python: on arrays in memory or on any preset's data, in a script or a notebook."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from ml_collections import ConfigDict

from rmdnet_jax.app import experiment
from rmdnet_jax.app.load import get_config, whole
from rmdnet_jax.app.overrides import override, paths
from rmdnet_jax.app.resolve import resolve
from rmdnet_jax.app.schema import Config, choice, put
from rmdnet_jax.app.student import Student
from rmdnet_jax.data import sources
from rmdnet_jax.data.store import Source
from rmdnet_jax.errors import wrong
from rmdnet_jax.files import place
from rmdnet_jax.labels.classes import array, numbered


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """A finished run.

    Args:
      summary: the content of summary.json: accuracies of all arms, noise, environment.
      student: the trained classifier.
      workdir: where everything was written.
    """

    summary: dict
    student: Student
    workdir: pathlib.Path

    @property
    def classes(self) -> tuple[Any, ...]:
        """In the order of `predict`'s columns, as you gave them: integers stay integers."""
        return self.student.classes

    def predict(self, images: Any) -> np.ndarray:
        """Class probabilities float32 [n, C] of images [n, height, width, channel], see `train`."""
        return self.student.predict(images)

    def features(self, images: Any) -> np.ndarray:
        """The student's features float32 [n, dim] of images, as in `predict`."""
        return self.student.features(images)

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the student as `.safetensors`, for `rmdnet_jax.load`."""
        self.student.save(path)

    def __repr__(self) -> str:
        if "relation_guided" not in self.summary:
            return f"Trained(a teacher alone, workdir {str(self.workdir)!r})"
        last = self.summary["relation_guided"]["test_accuracy"]["last"]
        accuracy = "no test set" if last is None else f"test accuracy {100 * last:.2f} %"
        return f"Trained({accuracy}, {len(self.classes)} classes, workdir {str(self.workdir)!r})"


def train(
    preset_or_config: str | os.PathLike | Config,
    workdir: str | pathlib.Path,
    *,
    images: Any = None,
    labels: Any = None,
    test_images: Any = None,
    test_labels: Any = None,
    names: Any = None,
    encoder: Any = None,
    teacher: Any = None,
    reviewed: str | os.PathLike | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Trained:
    """Trains the teacher, the student and its controls; a workdir that holds this run continues.

    Args:
      preset_or_config: a preset's name, a config file or a config, see `get_config`. The noise of
        a preset is added to your labels too: `image_folder` adds none.
      workdir: where everything is written; a run in it continues with the same arrays only.
      images: uint8 or floats in [0, 1], [n, height, width] or [n, height, width, channel].
      labels: [n], whole numbers of any range or strings.
      test_images: likewise, of examples whose labels are right.
      test_labels: likewise.
      names: of the classes, in the sorted order of the labels; None: the labels themselves.
      encoder: the name of an encoder, or a Flax module of your own, see `adapt`.
      teacher: an earlier run's workdir; a file of weights or features; features [n, dim] of any
        model, or a dict of `features` and `test_features`; or a function of images uint8 [batch,
        height, width, channel] to features [batch, dim]. None: one is trained.
      reviewed: a CSV of labels that replace given ones, `reviewed.csv` or `corrected_labels.csv`.
      overrides: values by dotted or short names: `{"noise.rate": 0.2, "method": "elr"}`.

    Returns:
      A record with `summary`, `predict(images)`, `features(images)`, `classes` and `save(path)`.

    Raises:
      UserError: a wrong argument, or a workdir that holds another run; nothing is written then.

    Example:
      >>> import tempfile, rmdnet_jax as rmd
      >>> from sklearn.datasets import load_digits
      >>> images, labels = load_digits().images[:400] / 16, load_digits().target[:400]
      >>> values = {"noise.rate": 0.2, "controls": ()}
      >>> run = rmd.train("digits:quick", tempfile.mkdtemp(), images=images, labels=labels,
      ...                 overrides=values)
      data   arrays: 400 training and 0 test images of 8x8x1, 10 classes
      ...
      >>> run.predict(images[:5]).shape, run.classes[:3]
      ((5, 10), (0, 1, 2))
    """
    if images is not None:
        _alone(overrides, "images", ("data.name", "data.dir"))
    values = _values(overrides, encoder, teacher, reviewed)
    config, given = _config(preset_or_config, overrides, values)
    where, own = place(workdir, "workdir"), _own(config, encoder, teacher)
    if images is not None:
        config = resolve(config)  # now, while the preset's own data set is in it
    source, classes = _source(config, images, labels, test_images, test_labels, names)
    done = experiment.run(config, where, given=given, source=source, classes=classes, **own)
    return Trained(done.summary, cast(Student, done.student), where)  # none where epochs=0


def _values(overrides: Any, encoder: Any, teacher: Any, reviewed: Any) -> dict[str, Any]:
    """The values that arguments set; refuses overrides that set them, too."""
    values = {}
    if isinstance(encoder, str):
        values["encoder"] = encoder
    if encoder is not None:
        _alone(overrides, "encoder", ("encoder.name",) if values else ("encoder.",))
    if isinstance(teacher, str | os.PathLike):
        _alone(overrides, "teacher", ("teacher",))
        values["teacher"] = str(place(teacher, "teacher"))
    elif teacher is not None:
        _alone(overrides, "teacher", ("teacher", "relation_guided.teacher_features"))
    if reviewed is not None:
        _alone(overrides, "reviewed", ("data.labels",))
        values["data.labels"] = str(place(reviewed, "reviewed"))
    return values


def _own(config: Config, encoder: Any, teacher: Any) -> dict[str, Any]:
    """The network and the teacher that are in memory; the config names them."""
    own = {}
    if encoder is not None and not isinstance(encoder, str):
        own["encoder"] = encoder
        put(config, "encoder", choice("custom", network=_name(encoder)))
    if teacher is not None and not isinstance(teacher, str | os.PathLike):
        own["teacher"] = teacher
        put(config, "teacher", f"<{_name(teacher) if callable(teacher) else 'arrays'}>")
        put(config, "relation_guided.teacher_features", "stored")
    return own


def _alone(overrides: Any, argument: str, paths_: tuple[str, ...]) -> None:
    """Raises `UserError` where overrides set what an argument sets."""
    for name, value in overrides.items() if isinstance(overrides, Mapping) else ():
        given = paths(name, value)
        if any(p == own or (own[-1] == "." and p.startswith(own)) for p in given for own in paths_):
            raise wrong("overrides", f"not set {name!r} beside {argument}=, got {value!r:.60}")


def _config(preset_or_config: Any, overrides: Any, more: dict) -> tuple[Config, dict[str, Any]]:
    """The config, a copy, and what the user gave, as JSON can hold it."""
    values = {} if overrides is None else overrides
    if not isinstance(values, Mapping):
        raise wrong("overrides", f'be like {{"epochs": 10}}, got {values!r:.60}')
    values = {**values, **more}
    given: dict[str, Any] = {"overrides": {str(name): _plain(v) for name, v in values.items()}}
    if isinstance(preset_or_config, str | os.PathLike):
        given["config"] = os.fspath(preset_or_config)
        return get_config(given["config"], values), given
    if not isinstance(preset_or_config, ConfigDict):
        kind = type(preset_or_config).__name__
        raise wrong("preset_or_config", f"be a name, a file or a ConfigDict, got {kind}")
    return override(whole(preset_or_config, "preset_or_config"), values), given


def _plain(value: Any) -> Any:
    """A value of an override as JSON holds it."""
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float | str | None) else str(value)


def _source(
    config: Config, images: Any, labels: Any, test_images: Any, test_labels: Any, names: Any
) -> tuple[Source | None, tuple[Any, ...]]:
    """The arrays as a source, and the classes as the user gave them; the config says so."""
    if images is None:
        others = {"labels": labels, "test_images": test_images, "test_labels": test_labels}
        for name, value in {**others, "names": names}.items():
            if value is not None:
                raise wrong(name, "come with images")
        return None, ()
    if labels is None:
        raise wrong("labels", "be given with images")
    numbers, distinct = numbered(labels, "labels")
    pixels = array(images, "images")
    if pixels.ndim in (3, 4) and len(numbers) != len(pixels):
        raise wrong("labels", f"be one for each of {len(pixels)} images, got {len(numbers)}")
    if names is not None:
        if isinstance(names, str) or not hasattr(names, "__iter__"):
            raise wrong("names", f"be a list, one for each class, got {names!r:.60}")
        names = list(names)
    source = sources.arrays(pixels, labels, test_images, test_labels, names)
    if len(source.names) < 2 and config.relation_guided.epochs:
        raise wrong("labels", f"be of two or more classes, got {distinct.tolist()} alone")
    put(config, "data.name", source.name)
    put(config, "data.dir", _digest(source))
    classes = tuple(distinct.tolist() if names is None else names)
    return source.cut(config.data.limit, config.noise.seed), classes


def _digest(source: Source) -> str:
    """The sha256 of all pixels and test labels: a workdir continues with the same arrays only."""
    found = hashlib.sha256()
    for images in (source.images, source.test_images):
        for first in range(0, len(images), 1024):
            found.update(images[first : first + 1024].tobytes())
    found.update(source.test_labels.tobytes())
    return f"sha256 {found.hexdigest()[:16]}"


def _name(encoder: Any) -> str:
    """What a network or teacher of the user's is called: its own name, or its type's."""
    named = encoder if hasattr(encoder, "__qualname__") else type(encoder)
    return f"{named.__module__}.{named.__qualname__}"
