"""Noisy labels corrected over the relation graph of the whole training set: our extension of relation distillation.

On the graph S of each example's nearest neighbours (`graph.connect`) labels Y spread as `Z = (I - alpha S)^-1 Y` (Zhou et al., NIPS
2004; Iscen et al., CVPR 2019). What is ours: an example's own label does not vote on itself (`held_out`), so that

- the mutual information of these votes and the given labels chooses k, temperature and alpha without a clean label,
- the noise is read off the examples that the graph is surest of (`transition`),
- vote and given label are joined by Bayes' rule, `target_iy ~ q_iy T_y,given_i`: little noise leaves the given label, much the vote; and
- the targets spread in the labels' place, and are joined with the given labels again, in a few passes (`_passed`).

Memory is O(n (k + C)) beside the neighbours' own. Over the mesh that is set each device has its own rows.
Features are float32 [n, dim], labels int [n] in [0, C).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmdnet_jax.errors import UserError
from rmdnet_jax.relations import doubt
from rmdnet_jax.relations.graph import Graph, connect, product, spread
from rmdnet_jax.relations.neighbours import Neighbours, find
from rmdnet_jax.sharding import whole
from rmdnet_jax.types import Array

FOLDS = 10
SCORED = 20_000  # examples whose held-out votes settings are chosen by, or a fold if that is more
AUTO = {"neighbours": (5, 10, 20), "temperature": (0.05, 0.2), "alpha": (0.5, 0.8, 0.9, 0.95, 0.99)}
SHARPNESS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
SUREST = 64  # votes a class that the noise is read off, at most half of them
STEPS = 3  # of finding the classes' shares
PASSES, PASS_SHARPNESS = 4, 4.0
IN_DOUBT = ("keep", "use")  # the given labels there, the targets nevertheless
LEAST = 1e-12  # of a vote, so that its logarithm is finite


class Propagated(NamedTuple):
    """What `propagate` finds."""

    target: np.ndarray  # float32 [n, C], rows sum to 1
    confidence: np.ndarray  # float32 [n], 1 - entropy(target) / log C
    summary: dict  # what was chosen, and how much the graph knows


@functools.partial(jax.jit, static_argnames=("num_classes", "folds"))
def held_out(
    graph: Graph,
    alpha: float | Array,
    given: Array,
    fold: Array,
    num_classes: int,
    folds: int = FOLDS,
) -> Array:
    """Votes [n, C] on each example of the first `folds` folds by the labels of all other folds; fold int [n] in [0, FOLDS).

    Each class has as much of the vote as it has of the given labels, whatever the degrees of its nodes; rows sum to 1, those of the
    other folds are NaN.
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


def information(votes: np.ndarray, given: np.ndarray) -> float:
    """Mutual information in nats of the class voted for and the given label: no renaming of labels by noise lowers it, ignorance does."""
    joint = np.zeros((votes.shape[1],) * 2)
    np.add.at(joint, (votes.argmax(1), given), 1 / len(given))
    expected = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    return float(np.sum(joint[joint > 0] * np.log(joint[joint > 0] / expected[joint > 0])))


def transition(votes: np.ndarray, given: np.ndarray, fold: np.ndarray, most: int) -> np.ndarray:
    """The noise as seen on the surest examples voted into each class, at most `most`: T[y, j] = P(given j | class y), [C, C].

    The surest are of each fold by itself: one that holds fewer labels y than others leaves more of them to vote, and would pass for surer.
    One count a class is spread as the given labels are, so that a class voted for nowhere has a row, too.
    """
    classes = votes.shape[1]
    predicted, margin = (
        votes.argmax(1),
        np.diff(np.sort(np.log(votes), axis=1)[:, -2:], axis=1)[:, 0],
    )
    counts = np.tile(np.bincount(given, minlength=classes) / len(given), (classes, 1))
    for y in range(classes):
        rows = np.flatnonzero(predicted == y)
        rows = rows[np.lexsort((-margin[rows], fold[rows]))]
        rank = np.arange(len(rows)) - np.searchsorted(fold[rows], fold[rows])
        surest = rows[np.argsort(rank, kind="stable")[: min(most, len(rows) // 2)]]
        counts[y] += np.bincount(given[surest], minlength=classes)
    return counts / counts.sum(1, keepdims=True)


def shares(noise: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The classes' shares [C] under which the given labels are likelier, by a few steps of expectation maximisation from their own shares.

    A few: the likeliest shares fit what is wrong with T, too.
    """
    seen = np.bincount(given, minlength=len(noise)) / len(given)
    share = seen
    for _ in range(STEPS):
        share = share * (noise @ (seen / (share @ noise)))
    return share


def sharpened(votes: np.ndarray, sharpness: float) -> np.ndarray:
    """`votes^sharpness`, rows of sum 1."""
    scaled = sharpness * np.log(votes)
    q = np.exp(scaled - scaled.max(1, keepdims=True))
    return q / q.sum(1, keepdims=True)


def settings(
    neighbours: str, temperature: str, alpha: str, size: int
) -> list[tuple[int, float, float]]:
    """The (k, temperature, alpha) to choose among: one value where a number is given, those of `AUTO` for `auto`; checks them."""
    chosen = []
    for name, text in (("neighbours", neighbours), ("temperature", temperature), ("alpha", alpha)):
        try:
            chosen.append(
                AUTO[name] if text == "auto" else ((int if name == "neighbours" else float)(text),)
            )
        except ValueError:
            raise UserError(
                f"relation_guided.propagation.{name} must be 'auto' or a number, got {text!r}"
            ) from None
    ks, temperatures, alphas = (
        tuple(k for k in chosen[0] if k < size or neighbours != "auto"),
        *chosen[1:],
    )
    if not ks or not 1 <= min(ks) <= max(ks) < size:
        raise UserError(
            f"relation_guided.propagation.neighbours must be in [1, {size - 1}], below the training examples, got {neighbours}"
        )
    if not min(temperatures) > 0:
        raise UserError(f"relation_guided.propagation.temperature must be > 0, got {temperature}")
    if not 0 <= min(alphas) <= np.float32(max(alphas)) < 1:
        raise UserError(f"relation_guided.propagation.alpha must be in [0, 1), got {alpha}")
    return list(itertools.product(ks, temperatures, alphas))


def check_labels(given: np.ndarray, num_classes: int) -> None:
    """Raises `UserError` where a class has no label to spread."""
    absent = np.flatnonzero(np.bincount(given, minlength=num_classes) == 0)
    if len(absent):
        raise UserError(
            f"relation_guided.targets=propagated needs each class among the given labels, got none of class {absent[0]}"
        )


def propagate(
    features: np.ndarray,
    given: np.ndarray,
    num_classes: int,
    seed: int = 0,
    watch: Callable = lambda items, what: items,
    *,
    neighbours: str = "auto",
    temperature: str = "auto",
    alpha: str = "auto",
    mix: float = 1.0,
    in_doubt: str = "keep",
    search: str = "auto",
) -> Propagated:
    """Soft targets from the given labels, corrected over the features' graph.

    Args:
      features: float [n, dim].
      given: int [n], each class among them.
      num_classes: C.
      seed: of the folds.
      watch: see `neighbours.find`.
      neighbours: k, a number below n or `auto`.
      temperature: of the graph's weights, > 0 or `auto`.
      alpha: how far labels travel, in [0, 1) or `auto`.
      mix: how far a given label speaks for itself: 0 not at all, 1 by Bayes' rule.
      in_doubt: whether a graph in doubt leaves the given labels (`keep`) or is used nevertheless (`use`).
      search: for neighbours: `exact`, `approximate` by an index, or `auto`: the index on a CPU with very many examples.

    Returns:
      Targets, confidence and summary. The graph is `in_doubt` where it knows no more of the given labels than chance, or where
      disagreement is its own rather than the labels' noise, see `doubt`; unless it is `used` nevertheless, the targets are the given
      labels then.
    """
    grid = settings(neighbours, temperature, alpha, len(given))
    check_labels(given, num_classes)
    fold = np.random.default_rng(seed).permutation(len(given)) % FOLDS
    found = _near(features, max(k for k, *_ in grid), search, watch)
    (k, tau, a), typical = _chosen(found, given, num_classes, grid, fold, watch)
    made = connect(found.index[:, :k], found.cosine[:, :k], tau)
    votes = np.asarray(held_out(made, a, given, fold, num_classes), np.float64)
    along = doubt.hops(np.asarray(made.neighbour[:, :10]), given)
    most = (
        max(SUREST, len(given) // (3 * num_classes)) if along.clear else SUREST
    )  # a third of all votes, hard ones among them
    noise = transition(votes, given, fold, most)
    target, sharpness = _posterior(votes, given, noise, mix)
    target = _passed(made, a, target, given, noise, mix)
    even = doubt.evenness(votes, given, np.diag(noise), most)
    evidence = doubt.evidence(along, even, min(doubt.above_chance(votes, given, fold), typical))
    used = in_doubt == "use" or not evidence["in_doubt"]
    alone = np.asarray(product(made, jnp.ones((len(given), 1)))) == 0
    target = np.where(alone | (not used), np.eye(num_classes)[given], target)
    entropy = -np.sum(target * np.log(np.maximum(target, LEAST)), axis=1)
    summary = {
        "neighbours": k,
        "recall": found.recall,
        "temperature": tau,
        "alpha": a,
        "sharpness": sharpness,
    }
    rate = 1 - np.sum(shares(noise, given) * np.diag(noise))
    summary |= {
        "information": information(votes, given),
        **evidence,
        "used": used,
        "noise_rate": float(rate),
    }
    summary["changed"] = float(np.mean(target.argmax(1) != given))
    return Propagated(
        target.astype(np.float32), (1 - entropy / np.log(num_classes)).astype(np.float32), summary
    )


def _near(features: np.ndarray, k: int, search: str, watch: Callable) -> Neighbours:
    """Each example's neighbours, see `neighbours.find`. One whose features are all zero has no direction, so none of any weight."""
    if not np.isfinite(features).all():
        raise UserError(
            "relation_guided.targets=propagated needs finite features, got NaN or infinity from the teacher"
        )
    found = find(features, k, search, watch)
    blank = np.linalg.norm(features, axis=1) == 0
    return found._replace(
        cosine=jnp.where(blank[:, None] | blank[np.asarray(found.index)], -jnp.inf, found.cosine)
    )


def _chosen(
    found: Neighbours, given, num_classes: int, grid: list[tuple], fold: np.ndarray, watch: Callable
) -> tuple[tuple, float]:
    """The settings of the grid whose held-out votes have the highest information, and how far above chance the median of their alpha is.

    Where most labels are wrong, votes that know nothing may be informative by chance, and of so many some are above chance, too: so
    settings are of an alpha at which the median is, if there is one.
    """
    if len(grid) == 1:
        return grid[0], np.inf
    folds = min(FOLDS, -(-SCORED * FOLDS // len(given)))
    heard = fold < folds
    informative: dict[tuple, float] = {}
    above: dict[float, list[float]] = {}
    for k, tau, alpha in watch(grid, "settings"):
        made = connect(found.index[:, :k], found.cosine[:, :k], tau)
        votes = np.asarray(held_out(made, alpha, given, fold, num_classes, folds), np.float64)[
            heard
        ]
        informative[k, tau, alpha] = information(votes, given[heard])
        above.setdefault(alpha, []).append(doubt.above_chance(votes, given[heard], fold[heard]))
    typical = {alpha: float(np.median(values)) for alpha, values in above.items()}
    best = max(grid, key=lambda setting: (typical[setting[2]] > doubt.ABOVE, informative[setting]))
    return best, typical[best[2]]


def _posterior(
    votes: np.ndarray, given: np.ndarray, noise: np.ndarray, mix: float
) -> tuple[np.ndarray, float]:
    """`q T[:, given]^mix`, rows of sum 1, with q the votes at the sharpness under which the given labels are likeliest; and it."""
    seen = noise[:, given].T
    likelihood = {
        s: float(np.mean(np.log(np.sum(sharpened(votes, s) * seen, axis=1)))) for s in SHARPNESS
    }
    sharpness = max(likelihood, key=lambda s: likelihood[s])
    target = sharpened(votes, sharpness) * seen**mix
    return target / target.sum(1, keepdims=True), sharpness


def _passed(
    graph: Graph, alpha: float, target: np.ndarray, given: np.ndarray, noise: np.ndarray, mix: float
) -> np.ndarray:
    """Targets after `PASSES` times spreading them and joining what arrives, sharpened, with the given labels by Bayes' rule."""
    share, seen = shares(noise, given), noise[:, given].T ** mix
    for _ in range(PASSES):
        votes = np.maximum(
            np.asarray(spread(graph, alpha, jnp.asarray(target, jnp.float32)), np.float64), LEAST
        )
        target = sharpened(votes * share / votes.sum(0), PASS_SHARPNESS) * seen
        target /= target.sum(1, keepdims=True)
    return target
