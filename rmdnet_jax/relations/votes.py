"""Votes over the relation graph: what neighbours say of an example that is not heard itself.

Labels Y spread as `Z = (I - alpha S)^-1 Y` (Zhou et al., NIPS 2004; Iscen et al., CVPR 2019). The
sum is linear in the labels. So each fold's labels spread once, and the votes without any two folds
are sums of what is there. Votes are rows of sum 1, [n, C]; labels and folds int [n].
"""

from __future__ import annotations

import functools
from collections.abc import Collection

import jax
import jax.numpy as jnp
import numpy as np

from rmdnet_jax.relations.belief import posterior
from rmdnet_jax.relations.graph import Graph, spread
from rmdnet_jax.relations.transition import shares, transition
from rmdnet_jax.sharding import whole
from rmdnet_jax.types import Array

FOLDS = 10
SHARPNESS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
PASSES, PASS_SHARPNESS = 4, 4.0
LEAST = 1e-12  # of a vote, so that its logarithm is finite


@functools.partial(jax.jit, static_argnames=("num_classes", "folds"))
def held_out(
    graph: Graph,
    alpha: float | Array,
    given: Array,
    fold: Array,
    num_classes: int,
    folds: int = FOLDS,
) -> Array:
    """Votes [n, C] on each example of the first `folds` folds by the labels of all other folds.

    Each class has as much of the vote as it has of the given labels, whatever the degrees of its
    nodes. Rows sum to 1, those of the other folds are NaN; `fold` int [n] in [0, FOLDS).
    """
    label = jax.nn.one_hot(given, num_classes)

    def hear(part, votes):
        own = (fold == part)[:, None]
        return jnp.where(
            own, jnp.maximum(spread(graph, alpha, jnp.where(own, 0.0, label)), LEAST), votes
        )

    votes = jax.lax.fori_loop(0, folds, hear, jnp.zeros_like(label))
    votes *= jnp.mean(label, axis=0) / jnp.sum(votes, axis=0)
    return whole(votes / jnp.sum(votes, axis=1, keepdims=True))


def by_fold(graph: Graph, alpha: float, given, fold, num_classes: int) -> np.ndarray:
    """What each fold's labels alone spread to all examples, float32 [FOLDS, n, C]."""
    label = np.eye(num_classes, dtype=np.float32)[given]
    return np.stack(
        [
            np.asarray(spread(graph, alpha, jnp.asarray(label * (fold == part)[:, None])))
            for part in range(FOLDS)
        ]
    )


def heard(parts: np.ndarray, fold, share: np.ndarray, out: Collection[int] = ()) -> np.ndarray:
    """Votes by the labels of all folds but the example's own and those `out`.

    `share` [C]: how much of all votes each class has.
    """
    votes = np.zeros(parts.shape[1:], np.float32)
    for part in set(range(FOLDS)) - set(out):
        votes += np.where((fold == part)[:, None], 0, parts[part])
    return _rows(np.maximum(votes, LEAST), share)


def _rows(votes: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Each class with its share of the vote, rows of sum 1."""
    total = np.maximum(votes.sum(0, dtype=np.float64), LEAST)
    votes = votes * (share / total).astype(votes.dtype)
    return np.maximum(votes / votes.sum(1, keepdims=True), LEAST)


def information(votes: np.ndarray, given: np.ndarray) -> float:
    """Mutual information in nats of the class voted for and the given label.

    No renaming of labels by noise lowers it, ignorance does.
    """
    joint = np.zeros((votes.shape[1],) * 2)
    np.add.at(joint, (votes.argmax(1), given), 1 / len(given))
    expected = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    return float(np.sum(joint[joint > 0] * np.log(joint[joint > 0] / expected[joint > 0])))


def sharpened(votes: np.ndarray, sharpness: float) -> np.ndarray:
    """`votes^sharpness`, rows of sum 1."""
    scaled = sharpness * np.log(votes)
    q = np.exp(scaled - scaled.max(1, keepdims=True))
    return q / q.sum(1, keepdims=True)


def best_sharpness(votes: np.ndarray, given: np.ndarray, noise: np.ndarray) -> float:
    """The one of `SHARPNESS` under which the given labels are likeliest."""
    seen = noise[:, given].T
    likelihood = {
        s: float(np.mean(np.log(np.sum(sharpened(votes, s) * seen, axis=1)))) for s in SHARPNESS
    }
    return max(likelihood, key=lambda s: likelihood[s])


def joined(votes: np.ndarray, given: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """`q T[:, given]` of the sharpened votes q, rows of sum 1."""
    q = sharpened(votes, best_sharpness(votes, given, noise))
    return posterior(q, noise[:, given].T)


def passed(
    graph: Graph, alpha: float, target: np.ndarray, seen: np.ndarray, share: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Targets after some passes, and the last votes.

    They spread, and what arrives is sharpened and joined by Bayes' rule with the given labels:
    `seen` [n, C] is their likelihood under each class, 1 where there is none.
    """
    votes = target
    for _ in range(PASSES):
        votes = np.array(spread(graph, alpha, jnp.asarray(target, jnp.float32)))
        votes = sharpened(_rows(np.maximum(votes, LEAST), share), PASS_SHARPNESS)
        target = posterior(votes, seen)
    return target, votes


def corrected(
    graph: Graph, alpha: float, parts: np.ndarray, given, fold, out: Collection[int], surest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Targets [n, C] and votes [n, C] of the last pass, from all labels but those of folds `out`.

    The examples of those folds take part without a label. The noise is read off so many `surest`
    votes of each class, at most half of them.
    """
    known = ~np.isin(fold, list(out))
    share = np.bincount(given[known], minlength=parts.shape[2]) / known.sum()
    votes = heard(parts, fold, share, out)
    noise = transition(votes[known], given[known], fold[known], surest)
    sharpness = best_sharpness(votes[known], given[known], noise)
    seen = np.where(known[:, None], noise[:, given].T, 1.0).astype(np.float32)
    target = posterior(sharpened(votes, sharpness), seen)
    return passed(graph, alpha, target, seen, shares(noise, given[known]))
