"""What each stage minimises: relation modeling, or relation-guided learning around a method."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from rmdnet_jax.methods import Method
from rmdnet_jax.networks.heads import linear
from rmdnet_jax.networks.layers import Network
from rmdnet_jax.relations.losses import RelationLoss
from rmdnet_jax.ssl import SelfSupervised
from rmdnet_jax.types import Array, Batch, Outputs, PyTree, Variables

KEPT = 0.95  # of the accuracy on the labels learnt: a mean over the last twenty steps
GROWTH = 30.0  # of K's share in a step, times how much that accuracy is above its limit
ANCHORS = 1 << 20  # the stream of a step's key that draws them
MAP = "node"  # a peer's entry beside its network: the linear map to a teacher of another dimension


class Loss(Protocol):
    """A stage's loss. `predicted` [batch] are class numbers, or None where there are none."""

    def __call__(
        self, params: PyTree, stats: PyTree, memory: PyTree, frozen: PyTree, batch: Batch,
        key: Array, epoch: Array,
    ) -> tuple[Array, tuple[PyTree, PyTree, dict[str, Array], Array | None]]: ...  # fmt: skip


class Objective(NamedTuple):
    """What one stage minimises, as pure functions."""

    views: int
    frozen: PyTree  # arrays that `loss` reads and no step changes: an argument of the jitted step
    init: Callable[[Array, Array], tuple[Variables, PyTree]]  # (key, image) -> (.., memory)
    loss: Loss
    by_example: bool = False  # whether each axis 0 of the memory is of examples
    strong: int = 0  # so many of the views, the last ones, are strongly augmented
    averaged: Callable[[Variables, Array], Outputs] | None = None  # what teaches a strong view


class Anchors(NamedTuple):
    """Examples that each step draws anew, which a batch is related to by `anchored_kl`."""

    features: Array  # [rows >= examples, dim], the teacher's
    examples: int
    count: int  # of a step
    loss: Callable[..., Array]  # weighted: (student, teacher, anchors, own) -> scalar


def relation_modeling(ssl: SelfSupervised, epochs: int) -> Objective:
    """Stage 1: a self-supervised objective on all images; labels are not read."""

    def loss(params, stats, memory, frozen, batch, key, epoch):
        value, stats, memory, metrics = ssl.loss(
            params, stats, memory, batch.image, epoch / max(epochs, 1)
        )
        return value, (stats, memory, metrics, None)

    return Objective(ssl.views, (), ssl.init, loss)


def classifier(encoder: Network, num_classes: int, *, dtype: str = "float32") -> Network:
    """The student: an encoder below a linear head that computes in `dtype`; it gives `Outputs`."""
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
    """What peers say together, `(variables, image) -> Outputs`: mean logits, first's features."""

    def predict(variables, image):
        outputs = [student.apply(Variables(p, s), image, False)[0] for p, s in zip(*variables)]
        return Outputs(outputs[0].feature, jnp.mean(jnp.stack([o.logits for o in outputs]), axis=0))

    return predict


def relation_guided(
    student: Network,
    method: Method,
    encoder: Network,
    teacher: Variables | None,
    *,
    weight: float,
    edge: RelationLoss,
    node: RelationLoss,
    warmup_epochs: float = 0.0,
    start: Variables | None = None,
    anchors: Anchors | None = None,
    mapped: int = 0,
    limit: float | None = None,
) -> Objective:
    """Stage 2: `L = L_method + K (edge + node)` between each peer's features and the teacher's.

    Args:
      student: the classifier, see `classifier`; `method.peers` of them are trained.
      method: the base method; its view 0 of each image enters the relation terms.
      encoder: the teacher's network.
      teacher: its arrays, run on each batch; None: `batch.teacher` holds its features.
      weight: K >= 0. At 0 it is the base method, bit for bit: no teacher is run.
      edge: weighted edge loss of (student [batch, dim], teacher [batch, dim]).
      node: weighted node loss, likewise.
      warmup_epochs: K grows linearly from 0 over this many epochs.
      start: an encoder's arrays that students start from, a control; None: random ones.
      anchors: what each batch is related to, in place of its own examples.
      mapped: the teacher's dimension, to which each peer learns a linear map; 0: there is none.
      limit: accuracy on the labels learnt above which wrong ones are learnt. K grows from 0 to
        `weight` while a student is above it, and falls while it is below. None: K is `weight`.
    """
    forward = _forward(student)
    matched = _matching(encoder, edge, node, anchors)

    def loss(params, stats, memory, frozen, batch, key, epoch):
        outputs, new = forward(params, stats, [batch.image] * method.peers)

        def again(images):  # statistics are those of a step's first forward
            return forward(params, stats, images)[0]

        own, seen = (memory, None) if limit is None else memory
        value, own, metrics = method.loss(outputs, batch, own, again, key, epoch)
        predicted = jnp.argmax(sum(o.logits[0] for o in outputs), axis=-1)
        if weight:
            edges, nodes = matched(params, outputs, batch, frozen, key)
            share = jnp.minimum(epoch / warmup_epochs, 1.0) if warmup_epochs else 1.0
            metrics = {**metrics, "edge": edges, "node": nodes}
            if limit is not None and seen is not None:
                seen = _grown(seen, predicted, batch.label, limit)
                share *= seen[1]
                metrics["weight"] = weight * share
            value += weight * share * (edges + nodes)
        memory = own if limit is None else (own, seen)
        return value, (new, memory, metrics, predicted)

    init = _init(student, method, start, mapped, limit is not None)
    frozen = (teacher, anchors and anchors.features) if weight else None
    averaged = ensemble(student) if method.strong else None
    return Objective(method.views, frozen, init, loss, True, method.strong, averaged)


def within(refresh: Callable) -> Callable:
    """A method's refresh where the memory holds K's share, too, see `limit`."""
    return lambda variables, memory, epoch: (refresh(variables, memory[0], epoch), memory[1])


def _grown(
    seen: tuple[Array, Array], predicted: Array, label: Array, limit: float
) -> tuple[Array, Array]:
    """The running accuracy on the labels learnt, or their targets' classes, and K's share by it."""
    right = predicted == (label if label.ndim == 1 else jnp.argmax(label, axis=-1))
    accuracy = KEPT * seen[0] + (1 - KEPT) * jnp.mean(right)
    return accuracy, jnp.clip(seen[1] + GROWTH * (accuracy - limit), 0.0, 1.0)


def _matching(
    encoder: Network, edge: RelationLoss, node: RelationLoss, anchors: Anchors | None
) -> Callable:
    """`(params, outputs, batch, frozen, key) -> (edge, node)`, each summed over the peers."""

    def matched(params, outputs, batch, frozen, key):
        guide, bank = frozen
        target = _target(encoder, guide, batch)
        own, there = _features(params, outputs)
        related = anchors and _anchored(anchors, bank, batch, key)
        edges = _summed(related or edge, there if related else own, target)
        return edges, _summed(node, there, target)

    return matched


def _anchored(anchors: Anchors, bank: Array, batch: Batch, key: Array) -> RelationLoss:
    """The edge loss to a step's own draw of anchors."""
    draw = jax.random.fold_in(key, ANCHORS)
    index = jax.random.randint(draw, (anchors.count,), 0, anchors.examples)
    own = index == batch.index[:, None]
    return lambda student, teacher: anchors.loss(student, teacher, bank[index], own)


def _init(
    student: Network, method: Method, start: Variables | None, mapped: int, watched: bool
) -> Callable:
    """`(key, image) -> (Variables, memory)` of all peers, from `start`'s encoder where given.

    `watched`: the memory holds the accuracy on the labels learnt, too.
    """

    def init(key, image):
        keys = [jax.random.fold_in(key, peer) for peer in range(method.peers)]
        students = [student.init(own, image) for own in keys]
        if start is not None:
            students = [
                Variables(
                    {**v.params, "encoder": start.params}, {**v.stats, "encoder": start.stats}
                )
                for v in students
            ]
        params, stats = zip(*students)
        if mapped:
            params = tuple(_with_map(p, own, mapped) for p, own in zip(params, keys))
        memory = (method.init(), (jnp.float32(0), jnp.float32(0))) if watched else method.init()
        return Variables(params, stats), memory

    return init


def _forward(student: Network) -> Callable:
    """`(params, stats, images) -> (outputs [view, batch, ...], new statistics)`, of each peer."""

    def run(params, stats, image):
        flat = image.reshape(-1, *image.shape[2:])
        outputs, new = student.apply(Variables(params, stats), flat, True)
        return jax.tree.map(lambda x: x.reshape(*image.shape[:2], *x.shape[1:]), outputs), new

    def forward(params, stats, images):
        outputs, new = zip(*(run(p, s, image) for p, s, image in zip(params, stats, images)))
        return outputs, new

    return forward


def _target(encoder: Network, teacher: Variables | None, batch: Batch) -> Array:
    """The teacher's features of a batch, float32 [batch, dim]: a constant for the student."""
    if teacher is None:
        assert batch.teacher is not None
        return batch.teacher
    return jax.lax.stop_gradient(encoder.apply(teacher, batch.image[0], False)[0])


def _summed(loss: RelationLoss, features: list[Array], target: Array) -> Array:
    """A relation term, summed over the peers."""
    return jnp.sum(jnp.stack([loss(x, target) for x in features]))


def _with_map(params: PyTree, key: Array, dim: int) -> PyTree:
    """A peer's parameters and a linear map to `dim` dimensions, uniform in ±1/√own."""
    own = params["head"]["kernel"]
    draw = jax.random.uniform(
        jax.random.fold_in(key, 2), (len(own), dim), own.dtype, minval=-1, maxval=1
    )
    return {**params, MAP: {"kernel": draw / len(own) ** 0.5}}


def _features(params: PyTree, outputs: tuple[Outputs, ...]) -> tuple[list[Array], list[Array]]:
    """Each peer's features [batch, own], and mapped to the teacher's space where there is a map."""
    own = [o.feature[0] for o in outputs]
    precise = jax.lax.Precision.HIGHEST
    there = [
        jnp.matmul(x, peer[MAP]["kernel"], precision=precise) if MAP in peer else x
        for x, peer in zip(own, params)
    ]
    return own, there


def alone(variables: Variables) -> Variables:
    """The peers as they predict: without the maps that only their training needed."""
    params = ({n: x for n, x in peer.items() if n != MAP} for peer in variables.params)
    return Variables(tuple(params), variables.stats)
