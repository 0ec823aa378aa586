"""What the numbers of a run depend on beside its config, told by content: `data.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from rmdnet_jax.app import sight
from rmdnet_jax.app.setup import Run
from rmdnet_jax.app.teacher import Teacher, shapes
from rmdnet_jax.data import resident
from rmdnet_jax.data.encoded import Encoded
from rmdnet_jax.files import digest, place
from rmdnet_jax.labels import noise
from rmdnet_jax.networks.layers import count
from rmdnet_jax.types import Variables


def content(made: Run, teacher: Any, classes: tuple) -> dict[str, Any]:
    """Hashes of all that is read: images, labels, names of classes, the teacher's arrays.

    Args:
      made: what the arms share.
      teacher: one that the config names; anything else, of a run that trains its own.
      classes: as the user names them.
    """
    source, certain = made.source, np.flatnonzero(made.certain)
    return {
        "labels": noise.digest(made.given),
        "unreviewed": noise.digest(made.unreviewed),
        "stored_labels": noise.digest(source.labels),
        "images": _images(source.images, source.stored),
        "test_images": _images(source.test_images, source.stored[1:]),
        "test_labels": noise.digest(source.test_labels),
        "classes": digest([str(name) for name in classes or source.names]),
        "channels": [values.tolist() for values in made.statistics],
        "encoder_parameters": count(shapes(made).params),  # of a user's network, perhaps changed
        "certain": noise.digest(certain) if len(certain) else None,
        "teacher": of_teacher(teacher) if isinstance(teacher, Teacher) else None,
        "teacher_sees": _sight(made) if isinstance(teacher, Teacher) else None,
    }


def _images(images: resident.Images, stored: Sequence[Encoded]) -> str:
    """A hash of images: of the files that hold them, where there are; else of their pixels."""
    return stored[0].digest() if stored else digest(images)


def _sight(made: Run) -> str | None:
    """A hash of how the teacher's images are normalised and sized; None where nothing says so."""
    seen = sight.read(place(made.config.teacher), made.source.images.shape[-1])
    return seen and digest(seen.mean, seen.std, seen.size or ())


def of_teacher(teacher: Teacher) -> str:
    """A hash of a teacher's arrays: its network's, or the features where it is only those."""
    if teacher.variables is not None:
        return of(teacher.variables)
    given = (teacher.features, teacher.test_features)
    return digest(*(array for array in given if array is not None))


def of(variables: Variables) -> str:
    """A hash of a network's arrays."""
    return digest(*jax.tree.leaves(variables))
