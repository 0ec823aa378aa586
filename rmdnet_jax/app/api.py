"""Training from Python: on arrays in memory or on any preset's data, in a script or a notebook."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from rmdnet_jax.app import experiment
from rmdnet_jax.app.load import get_config
from rmdnet_jax.app.overrides import override
from rmdnet_jax.app.schema import Config, choice, put
from rmdnet_jax.app.student import Student
from rmdnet_jax.data import sources
from rmdnet_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Trained:
    """A finished run."""

    summary: dict  # the content of summary.json: accuracies of all arms, noise, environment
    student: Student  # the trained classifier
    workdir: pathlib.Path

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of `predict`'s columns."""
        return self.student.classes

    def predict(self, images: Any) -> np.ndarray:
        """Class probabilities float32 [n, C] of images uint8 [n, height, width, channel]."""
        return self.student.predict(images)

    def features(self, images: Any) -> np.ndarray:
        """The student's features float32 [n, dim] of images, as in `predict`."""
        return self.student.features(images)

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the student as `.safetensors`, for `rmdnet_jax.load`."""
        self.student.save(path)

    def __repr__(self) -> str:
        last = self.summary["relation_guided"]["test_accuracy"]["last"]
        accuracy = "no test set" if last is None else f"test accuracy {100 * last:.2f} %"
        return f"Trained({accuracy}, {len(self.classes)} classes, workdir {str(self.workdir)!r})"


def train(
    preset_or_config: str | Config,
    workdir: str | pathlib.Path,
    *,
    images: Any = None,
    labels: Any = None,
    test_images: Any = None,
    test_labels: Any = None,
    names: Any = None,
    encoder: Any = None,
    overrides: Mapping[str, Any] | None = None,
) -> Trained:
    """Trains the teacher, the student and its controls; a workdir that holds this run continues.

    Args:
      preset_or_config: a preset's name, a config file or a config, see `get_config`. The noise of
        a preset is added to your labels too: `image_folder` adds none.
      workdir: where everything is written.
      images: uint8 [n, height, width] or [n, height, width, channel], or floats in [0, 1]; in place
        of the preset's data.
      labels: [n], whole numbers or strings.
      test_images: likewise, of examples whose labels are right.
      test_labels: likewise.
      names: of the classes, where labels are class numbers.
      encoder: the name of an encoder, or a Flax module of your own, see `adapt`.
      overrides: values by dotted or short names: `{"noise.rate": 0.2, "method": "elr"}`.

    Returns:
      A record with `summary`, `predict(images)`, `features(images)`, `classes` and `save(path)`.

    Raises:
      UserError: a wrong argument, or a workdir that holds another run; nothing is written then.

    Example:
      >>> import tempfile
      >>> import rmdnet_jax as rmd
      >>> from sklearn.datasets import load_digits
      >>> digits = load_digits()
      >>> images = (digits.images[:400] * 15.9).astype("uint8")
      >>> with tempfile.TemporaryDirectory() as workdir:
      ...     run = rmd.train(
      ...         "digits:quick", workdir, images=images, labels=digits.target[:400],
      ...         overrides={"noise.rate": 0.2, "controls": ()},
      ...     )
      data   arrays: 400 training and 0 test images of 8x8x1, 10 classes
      ...
      >>> run.predict(images[:5]).shape
      (5, 10)
    """
    given: dict[str, Any] = {"overrides": dict(overrides or {})}
    if isinstance(preset_or_config, str):
        given["config"] = preset_or_config
        config = get_config(preset_or_config, overrides)
    elif isinstance(preset_or_config, ConfigDict):
        config = override(preset_or_config, overrides or {})
    else:
        kind = type(preset_or_config).__name__
        raise UserError(f"preset_or_config must be a name, a file or a ConfigDict, got {kind}")
    if isinstance(encoder, str):
        config, encoder = override(config, {"encoder": encoder}), None
    elif encoder is not None:
        put(config, "encoder", choice("custom", network=_name(encoder)))
    source = _source(config, images, labels, test_images, test_labels, names)
    place = pathlib.Path(workdir).expanduser()
    done = experiment.run(config, place, given=given, source=source, encoder=encoder)
    return Trained(done.summary, done.student, place)


def _source(config: Config, images, labels, test_images, test_labels, names):
    """The arrays as a source, or None where there are none; the config says so."""
    if images is None:
        others = {"labels": labels, "test_images": test_images, "test_labels": test_labels}
        for name, value in others.items():
            if value is not None:
                raise UserError(f"{name} must come with images", argument=True)
        return None
    source = sources.arrays(images, labels, test_images, test_labels, names)
    put(config, "data.name", source.name)
    limit = config.data.limit
    if limit:
        source = source._replace(images=source.images[:limit], labels=source.labels[:limit])
    return source


def _name(encoder: Any) -> str:
    """A name for a network of the user's, by its type."""
    kind = (
        encoder
        if isinstance(encoder, type) or callable(getattr(encoder, "__name__", None))
        else type(encoder)
    )
    return f"{kind.__module__}.{kind.__qualname__}"
