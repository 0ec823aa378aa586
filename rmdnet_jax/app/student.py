"""What a run leaves for use: a trained student, which predicts, is saved, and is loaded anywhere.

A file of a student is a `.safetensors` file. Its metadata say all that prediction needs. The arrays
of the first peer have torchvision's names; those of a further one the same under `peer1.`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmdnet_jax import sharding
from rmdnet_jax.data.sources import pixels
from rmdnet_jax.errors import first_line, under, wrong
from rmdnet_jax.files import place
from rmdnet_jax.networks import weights
from rmdnet_jax.networks.adapters import adapt
from rmdnet_jax.networks.encoders import ENCODERS
from rmdnet_jax.networks.layers import Network
from rmdnet_jax.training.objectives import classifier, ensemble
from rmdnet_jax.training.predict import Predict, predictor
from rmdnet_jax.types import Array, Variables

FORMAT = 1  # of the file; a reader refuses what is newer
FILE = "student.safetensors"  # in a run's workdir
CUSTOM = {"name": "custom"}  # the description of a user's own network
JSON = {str, int, float, bool}  # labels that a file keeps as they are; others become text
BATCH = 128


@dataclasses.dataclass(frozen=True, eq=False)
class Student:
    """A trained classifier of one or more peers, whose mean logits decide.

    Args:
      encoder: the network below the linear head.
      variables: of `training.objectives.classifier`; params and stats are tuples, one tree a peer.
      classes: names or numbers, in the order of the columns of `predict`.
      mean: per-channel mean of the training pixels in [0, 1].
      std: per-channel standard deviation, likewise.
      image_shape: (height, width, channel) of the training images.
      description: the encoder's name and fields, or `CUSTOM`.
    """

    encoder: Network = dataclasses.field(repr=False)
    variables: Variables = dataclasses.field(repr=False)
    classes: tuple[str | int, ...]
    mean: np.ndarray
    std: np.ndarray
    image_shape: tuple[int, ...]
    description: dict[str, Any]

    def predict(self, images: Any) -> np.ndarray:
        """The probability of each class: float32 [n, class], rows of sum 1.

        Args:
          images: uint8, or floats in [0, 1], [n, height, width, channel]; [n, height, width] for
            one channel. Of any size that the encoder takes.

        Raises:
          UserError: images of another type, range or shape.
        """
        return self._outputs(images)[1]

    def features(self, images: Any) -> np.ndarray:
        """The encoder's output, of the first peer: float32 [n, dim]; images as for `predict`."""
        return self._outputs(images)[0]

    def save(self, path: str | os.PathLike) -> None:
        """Writes the student as a `.safetensors` file, for `load` and for other programs.

        Raises:
          UserError: the path has another ending, or cannot be written.
        """
        path = place(path)
        if path.suffix != ".safetensors":
            raise wrong("path", f"end in .safetensors, got {str(path)!r}")
        plain = (x.item() if isinstance(x, np.generic) else x for x in self.classes)
        about = {
            "format": FORMAT,
            "encoder": self.description,
            "classes": [x if type(x) in JSON else str(x) for x in plain],
            "mean": np.asarray(self.mean).tolist(),
            "std": np.asarray(self.std).tolist(),
            "image_shape": list(self.image_shape),
            "peers": len(self.variables.params),
        }
        own, state = self.description == CUSTOM, {}
        for peer, (params, stats) in enumerate(zip(*self.variables)):
            arrays = weights.state_dict(Variables(params, stats), own=own)
            state |= {_prefix(peer) + n.removeprefix("encoder."): x for n, x in arrays.items()}
        if sharding.is_main():
            weights.write(path, state, about)

    @functools.cached_property
    def _predictor(self) -> Predict:
        say = ensemble(classifier(self.encoder, len(self.classes)))

        def apply(variables: Variables, image: Array) -> tuple[Array, Array]:
            feature, logits = say(variables, image)
            return feature, jax.nn.softmax(logits)

        return predictor(apply, sharding.mesh(), BATCH, self.mean, self.std)

    def _outputs(self, images: Any) -> list[np.ndarray]:
        """Features and probabilities, float32 on the host."""
        images = _checked(images, self.image_shape)
        if not len(images):
            dim = self.variables.params[0]["head"]["kernel"].shape[0]
            return [np.zeros((0, n), np.float32) for n in (dim, len(self.classes))]
        try:
            found = self._predictor(self.variables, images)
        except Exception as error:  # of a user's network, perhaps, that takes one size only
            if images.shape[1:] == tuple(self.image_shape):
                raise
            must = f"have a size that the encoder takes, such as {self.image_shape}"
            got = f"got {images.shape[1:]}: {first_line(error)}"
            raise wrong("images", f"{must}, {got}") from error
        return [np.asarray(x, np.float32) for x in found]


def _prefix(peer: int) -> str:
    """What stands before the names of a peer's arrays in a file."""
    return f"peer{peer}." if peer else ""


def _checked(images: Any, image_shape: tuple[int, ...]) -> np.ndarray:
    """The images as uint8 [n, height, width, channel], with the channels of `image_shape`."""
    found, channels = pixels(images), image_shape[-1]
    if found.ndim and not len(found):
        return np.zeros((0, *image_shape), np.uint8)
    if found.ndim != 4 or found.shape[-1] != channels or not found.size:
        shape = np.shape(images)
        one = "; one image is images[None]" if len(shape) < 4 else ""
        must = f"be [n, height, width, channel] with {channels} channel{'s' * (channels > 1)}"
        raise wrong("images", f"{must}, got shape {tuple(shape)}{one}")
    return found


def load(path: str | os.PathLike, encoder: Any = None) -> Student:
    """Loads a trained student, to predict with it.

    Args:
      path: the workdir of a finished run, or a `.safetensors` file that a student saved.
      encoder: your own network, where the run trained one: what `adapt` takes.

    Returns:
      The student, with `classes`, `predict(images)`, `features(images)` and `save(path)`.

    Raises:
      UserError: no such file, no finished run, no student in it, or another network.

    Example:
      >>> import tempfile, jax, numpy as np
      >>> import rmdnet_jax as rmd
      >>> from rmdnet_jax.app.student import Student
      >>> from rmdnet_jax.training.objectives import classifier
      >>> from rmdnet_jax.types import Variables
      >>> cnn, image = rmd.ENCODERS["cnn"](widths=(4, 8)), np.zeros((1, 8, 8, 1))
      >>> params, stats = classifier(cnn, 2).init(jax.random.key(0), image)
      >>> made = Student(cnn, Variables((params,), (stats,)), ("cat", "dog"),
      ...                np.array([0.5]), np.array([0.2]), (8, 8, 1),
      ...                {"name": "cnn", "widths": (4, 8)})
      >>> file = tempfile.mkdtemp() + "/student.safetensors"
      >>> made.save(file)
      >>> student = rmd.load(file)
      >>> student.classes
      ('cat', 'dog')
      >>> student.predict(np.zeros((3, 8, 8), np.uint8)).shape
      (3, 2)
    """
    file = _found(place(path))
    about = _about(file)
    described = about["encoder"]
    network = rebuilt(described, encoder)
    shape, classes = tuple(about["image_shape"]), tuple(about["classes"])
    image = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    like = jax.eval_shape(classifier(network, len(classes)).init, jax.random.key(0), image)
    return Student(
        network,
        _variables(file, like, about["peers"], described == CUSTOM),
        classes,
        np.asarray(about["mean"], np.float32),
        np.asarray(about["std"], np.float32),
        shape,
        described,
    )


def _found(path: pathlib.Path) -> pathlib.Path:
    """The student's file that a path means; raises `UserError` where there is none."""
    if path.is_dir():
        if (path / FILE).is_file():
            return path / FILE
        why = "no run is in it"
        if (path / "config.json").exists():
            why = "its run has not finished; start it again, and it goes on"
        raise wrong("path", f"hold {FILE}, got {str(path)!r}: {why}")
    if not path.exists():
        raise wrong("path", f"be a workdir or a .safetensors file, got {str(path)!r}: no such file")
    if path.suffix != ".safetensors":
        raise wrong("path", f"be a workdir or a .safetensors file, got {str(path)!r}")
    return path


def _sound(values: list, about: dict[str, Any]) -> bool:
    """Whether there is a finite number for each channel."""
    return np.shape(values) == (about["image_shape"][2],) and bool(np.isfinite(values).all())


# What a file says of its student, in the order of the checks; one that raises has failed.
FITS: dict[str, Callable[[Any, dict[str, Any]], bool]] = {
    "format": lambda value, about: value == FORMAT,
    "encoder": lambda value, about: isinstance(value["name"], str),
    "classes": lambda value, about: type(value) is list and set() < {*map(type, value)} <= JSON,
    "image_shape": lambda value, about: [*map(type, value)] == [int] * 3 and min(value) > 0,
    "mean": _sound,
    "std": _sound,
    "peers": lambda value, about: type(value) is int and value > 0,
}


def _about(file: pathlib.Path) -> dict[str, Any]:
    """What a file says of its student; raises `UserError` where it is none, newer or damaged."""
    about = weights.about(file, "path")
    if not {"format", "encoder", "image_shape"} <= about.keys():
        raise wrong("path", f"hold a saved student, got weights alone: {str(file)!r}")
    if type(about["format"]) is int and about["format"] > FORMAT:
        newer = f"{about['format']} of {str(file)!r}: a newer rmdnet_jax reads it"
        raise wrong("path", f"hold a student of format {FORMAT}, got {newer}")
    for name, fits in FITS.items():
        with contextlib.suppress(Exception):  # whatever another kind of value makes a check raise
            if fits(about[name], about):
                continue
        got = f"{name} {about.get(name)!r:.60} in {str(file)!r}"
        raise wrong("path", f"hold an undamaged student, got {got}")
    return about


def rebuilt(described: dict[str, Any], encoder: Any = None) -> Network:
    """The network of a description, or the one given in its place.

    Raises:
      UserError: there is no such network here, or it is the user's own and not given.
    """
    if encoder is not None:
        return adapt(encoder)
    if described == CUSTOM:
        raise wrong("encoder", "be given: this student's network is your own, not one of ENCODERS")
    fields = {name: value for name, value in described.items() if name != "name"}
    try:
        with under("encoder"):
            network = ENCODERS[described["name"]](**fields)
        return adapt(network)
    except (KeyError, TypeError):
        raise wrong("encoder", f"be given: this version knows no encoder {described}") from None


def _variables(file: pathlib.Path, like: Variables, peers: int, own: bool) -> Variables:
    """The arrays of a file's peers; raises `UserError` where they do not fit the network."""
    state, found = weights.read(file, "path"), []
    for peer in range(peers):
        prefix = _prefix(peer)
        part = {n.removeprefix(prefix): x for n, x in state.items() if n.startswith(prefix)}
        if not own:  # the encoder's names are torchvision's, so nothing stands before them
            part = {n if n.startswith("fc.") else f"encoder.{n}": x for n, x in part.items()}
        found.append(weights.from_state_dict(part, like, f"path {str(file)!r}", own=own))
    return Variables(tuple(v.params for v in found), tuple(v.stats for v in found))
