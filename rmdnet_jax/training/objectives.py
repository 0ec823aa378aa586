"""What each stage minimises: one `Objective` for relation modeling, one for relation-guided learning around any base method."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rmdnet_jax.methods import Method
from rmdnet_jax.networks.heads import linear
from rmdnet_jax.networks.layers import Network
from rmdnet_jax.ssl import SelfSupervised
from rmdnet_jax.types import Array, Batch, Outputs, PyTree, Variables


class Objective(NamedTuple):
    """What one stage minimises, as pure functions."""

    views: int
    frozen: PyTree  # arrays that `loss` reads and no step changes: handed to the jitted step, so never compiled in as constants
    init: Callable  # (key, image [batch, height, width, channel]) -> (Variables, memory)
    loss: Callable  # (params, stats, memory, frozen, batch, key, epoch) -> (scalar, (stats, memory, metrics, predicted [batch] or None))


class Teacher(NamedTuple):
    """A frozen encoder, and its features where they are stored."""

    variables: Variables
    features: Array | None = (
        None  # float32 [example, dim]: one clean view of each training example; None: computed online
    )


def relation_modeling(ssl: SelfSupervised, epochs: int) -> Objective:
    """Stage 1: a self-supervised objective on all images for so many epochs; labels are not read."""

    def loss(params, stats, memory, frozen, batch, key, epoch):
        value, stats, memory, metrics = ssl.loss(
            params, stats, memory, batch.image, epoch / max(epochs, 1)
        )
        return value, (stats, memory, metrics, None)

    return Objective(ssl.views, (), ssl.init, loss)


def classifier(encoder: Network, num_classes: int, *, dtype: str = "float32") -> Network:
    """The student: an encoder below a linear head that computes in `dtype`; `apply` returns `Outputs`."""
    head = linear(num_classes, dtype=dtype)

    def init(key, image):
        below = encoder.init(jax.random.fold_in(key, 0), image)
        feature, _ = encoder.apply(below, image, False)
        above = head.init(jax.random.fold_in(key, 1), feature)
        return Variables(
            {"encoder": below.params, "head": above.params},
            {"encoder": below.stats, "head": above.stats},
        )

    def apply(variables, image, train):
        params, stats = variables
        feature, below = encoder.apply(Variables(params["encoder"], stats["encoder"]), image, train)
        logits, above = head.apply(Variables(params["head"], stats["head"]), feature, train)
        return Outputs(feature, logits), {"encoder": below, "head": above}

    return Network(init, apply)


def ensemble(student: Network) -> Callable:
    """What the trained peers say together: `(variables, image) -> Outputs`, features of the first peer, mean logits of all."""

    def predict(variables, image):
        outputs = [student.apply(Variables(p, s), image, False)[0] for p, s in zip(*variables)]
        return Outputs(outputs[0].feature, jnp.mean(jnp.stack([o.logits for o in outputs]), axis=0))

    return predict


def relation_guided(
    student: Network,
    method: Method,
    encoder: Network,
    teacher: Teacher | None,
    *,
    weight: float,
    edge: Callable,
    node: Callable,
    warmup_epochs: float = 0.0,
    from_teacher: bool = False,
) -> Objective:
    """Stage 2: `L = L_method + K (edge + node)`, the relation terms between each peer's and the teacher's features of the batch.

    Args:
      student: the classifier, see `classifier`; `method.peers` of them are trained.
      method: the base method; its view 0 of each image enters the relation terms.
      encoder: the teacher's network.
      teacher: its arrays; needed unless `weight` is 0 and `from_teacher` is False.
      weight: K >= 0. At 0 the objective is the base method, bit for bit: no teacher is run.
      edge: weighted edge loss, (student [batch, dim], teacher [batch, dim]) -> scalar.
      node: weighted node loss, likewise.
      warmup_epochs: K grows linearly from 0 over this many epochs.
      from_teacher: students start from the teacher's encoder; the control for what good first weights alone give.
    """

    def init(key, image):
        students = [
            student.init(jax.random.fold_in(key, peer), image) for peer in range(method.peers)
        ]
        if from_teacher and teacher is not None:
            params, stats = teacher.variables
            students = [
                Variables({**v.params, "encoder": params}, {**v.stats, "encoder": stats})
                for v in students
            ]
        return Variables(
            tuple(v.params for v in students), tuple(v.stats for v in students)
        ), method.init()

    def run(params, stats, image):
        outputs, new = student.apply(
            Variables(params, stats), image.reshape(-1, *image.shape[2:]), True
        )
        return jax.tree.map(lambda x: x.reshape(*image.shape[:2], *x.shape[1:]), outputs), new

    def forward(params, stats, images):
        """Every peer's outputs [view, batch, ...]; callers drop the new statistics of all but a step's first forward."""
        outputs, new = zip(*(run(p, s, image) for p, s, image in zip(params, stats, images)))
        return outputs, new

    def loss(params, stats, memory, frozen, batch, key, epoch):
        outputs, new = forward(params, stats, [batch.image] * method.peers)
        value, memory, metrics = method.loss(
            outputs, batch, memory, lambda images: forward(params, stats, images)[0], key, epoch
        )
        if weight:
            edges, nodes = _relate(outputs, _target(encoder, frozen, batch), edge, node)
            value += (
                weight
                * (jnp.minimum(epoch / warmup_epochs, 1.0) if warmup_epochs else 1.0)
                * (edges + nodes)
            )
            metrics = {**metrics, "edge": edges, "node": nodes}
        predicted = jnp.argmax(sum(o.logits[0] for o in outputs), axis=-1)
        return value, (new, memory, metrics, predicted)

    return Objective(
        method.views, _frozen(teacher) if weight and teacher is not None else (), init, loss
    )


def _frozen(teacher: Teacher) -> Teacher:
    """What a step needs of the teacher: its features where stored, else its arrays."""
    return teacher if teacher.features is None else Teacher(Variables((), ()), teacher.features)


def _target(encoder: Network, teacher: Teacher, batch: Batch) -> Array:
    """The teacher's features of a batch, float32 [batch, dim]. No gradient may reach it: it is what the student is to match."""
    if teacher.features is None:
        return jax.lax.stop_gradient(encoder.apply(teacher.variables, batch.image[0], False)[0])
    return jax.lax.stop_gradient(teacher.features[batch.index])


def _relate(
    outputs: tuple[Outputs, ...], target: Array, edge: Callable, node: Callable
) -> tuple[Array, Array]:
    """The edge and the node term, each summed over the peers."""
    edges, nodes = (
        jnp.sum(jnp.stack([loss(o.feature[0], target) for o in outputs])) for loss in (edge, node)
    )
    return edges, nodes
