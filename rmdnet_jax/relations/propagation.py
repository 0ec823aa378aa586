"""Noisy labels corrected over the relation graph of the whole training set: our extension.

On the graph S of each example's nearest neighbours (`graph.connect`) labels Y spread as
`Z = (I - alpha S)^-1 Y` (Zhou et al., NIPS 2004; Iscen et al., CVPR 2019). What is ours: an
example's own label does not vote on itself (`held_out`), so that

- the mutual information of these votes and the given labels chooses k, temperature and alpha
  without a clean label,
- the noise is read off the examples that the graph is surest of (`transition`),
- vote and given label are joined by Bayes' rule, `target_iy ~ q_iy T_y,given_i`: little noise
  leaves the given label, much the vote; and
- the targets spread in the labels' place, and are joined with the given labels again, in a few
  passes (`_passed`).

Memory is O(n (k + C)) beside the neighbours' own. Over the mesh that is set each device has its own
rows. Features are float32 [n, dim], labels int [n] in [0, C).
"""

from __future__ import annotations

import functools
import itertools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rmdnet_jax.errors import one_of, within, wrong
from rmdnet_jax.relations import doubt
from rmdnet_jax.relations.graph import Graph, connect, product, spread
from rmdnet_jax.relations.neighbours import Neighbours, Watch, find, unwatched
from rmdnet_jax.relations.transition import shares, transition
from rmdnet_jax.sharding import whole
from rmdnet_jax.types import Array

FOLDS = 10
SCORED = 20_000  # examples whose held-out votes settings are chosen by, or a fold if that is more
Auto = Literal["auto"]
AUTO = {"neighbours": (5, 10, 20), "temperature": (0.05, 0.2), "alpha": (0.5, 0.8, 0.9, 0.95, 0.99)}
SHARPNESS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
SUREST = 64  # votes a class that the noise is read off, at most half of them
PASSES, PASS_SHARPNESS = 4, 4.0
IN_DOUBT = ("keep", "use")  # the given labels there, the targets nevertheless
LEAST = 1e-12  # of a vote, so that its logarithm is finite


class Propagated(NamedTuple):
    """What `propagate` finds. The fields after `summary` hold whether the graph is used or not."""

    targets: np.ndarray  # float32 [n, C], rows sum to 1; the given labels where it is not used
    confidence: np.ndarray  # float32 [n], 1 - entropy(targets) / log C
    summary: dict  # what was chosen, and how much the graph knows
    transition: np.ndarray  # [C, C], P(given j | class y) as the graph sees it, rows sum to 1
    votes: np.ndarray  # [n, C], of the graph on each example, its own label unheard; rows sum to 1
    belief: np.ndarray  # [n, C], votes and given labels joined: the targets if the graph is used


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


def settings(
    neighbours: Auto | int, temperature: Auto | float, alpha: Auto | float, size: int
) -> list[tuple[int, float, float]]:
    """The (k, temperature, alpha) to choose among for `size` examples; raises `UserError`.

    One value where a number is given, those of `AUTO` for `auto`.
    """
    given = {"neighbours": neighbours, "temperature": temperature, "alpha": alpha}
    numbers = {name: value for name, value in given.items() if value != "auto"}
    for name, value in numbers.items():
        if isinstance(value, str):
            raise wrong(name, f"be 'auto' or a number, got {value!r}")
    if size <= min(AUTO["neighbours"]):
        raise wrong("features", f"have more than {min(AUTO['neighbours'])} rows, got {size}")
    within("neighbours", numbers.get("neighbours", 1), f"[1, {size - 1}]", whole=True)
    within("temperature", numbers.get("temperature", 1), "(0, inf)")
    within("alpha", numbers.get("alpha", 0), "[0, 1)")
    if np.float32(numbers.get("alpha", 0)) == 1:
        raise wrong("alpha", f"be in [0, 1) in float32, got {alpha!r}")
    choice = {name: (numbers[name],) if name in numbers else AUTO[name] for name in AUTO}
    choice["neighbours"] = tuple(k for k in choice["neighbours"] if k < size)
    return list(itertools.product(*choice.values()))


def check_labels(given: np.ndarray, num_classes: int) -> None:
    """Raises `UserError` where a class has no label to spread."""
    absent = np.flatnonzero(np.bincount(given, minlength=num_classes) == 0)
    if len(absent):
        raise wrong("given", f"hold a label of each class, got none of class {absent[0]}")


def propagate(
    features: np.ndarray,
    given: np.ndarray,
    num_classes: int,
    seed: int = 0,
    watch: Watch = unwatched,
    *,
    neighbours: Auto | int = "auto",
    temperature: Auto | float = "auto",
    alpha: Auto | float = "auto",
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
      watch: wraps the parts of long work, to show progress.
      neighbours: k, a number below n or `auto`.
      temperature: of the graph's weights, > 0 or `auto`.
      alpha: how far labels travel, in [0, 1) or `auto`.
      mix: how far a given label speaks for itself: 0 not at all, 1 by Bayes' rule.
      in_doubt: whether a graph in doubt leaves the given labels (`keep`) or is used (`use`).
      search: for neighbours: `exact`, `approximate` by an index, or `auto`: the index on a CPU
        with very many examples.

    Returns:
      Targets, confidence and summary. The graph is `in_doubt` unless it proves that it knows
      better, see `doubt`; then the targets are the given labels, unless it is `used` nevertheless.

    Raises:
      UserError: an argument is out of range, features are not finite, a class has no label.
    """
    grid = settings(neighbours, temperature, alpha, len(given))
    within("mix", mix, "[0, 1]")
    one_of("in_doubt", in_doubt, IN_DOUBT)
    check_labels(given, num_classes)
    fold = np.random.default_rng(seed).permutation(len(given)) % FOLDS
    found = _near(features, max(k for k, *_ in grid), search, watch)
    chosen, typical = _chosen(found, given, num_classes, grid, fold, watch)
    k, tau, a = chosen
    made = connect(found.index[:, :k], found.cosine[:, :k], tau)
    votes, noise, belief, seen = _believed(made, a, given, num_classes, fold, mix, typical)
    used = in_doubt == "use" or not seen["in_doubt"]
    targets = belief if used else np.eye(num_classes)[given]
    summary = {**dict(zip(AUTO, chosen)), "recall": found.recall, **seen, "used": used}
    summary["changed"] = float(np.mean(targets.argmax(1) != given))
    return Propagated(
        targets.astype(np.float32), _confidence(targets), summary, noise, votes, belief
    )


def _believed(
    graph: Graph,
    alpha: float,
    given,
    num_classes: int,
    fold: np.ndarray,
    mix: float,
    typical: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict]:
    """Votes, transition and belief of a `Propagated`, and what was seen on the way."""
    votes = np.asarray(held_out(graph, alpha, given, fold, num_classes), np.float64)
    along = doubt.hops(np.asarray(graph.neighbour[:, :10]), given)
    # where the graph is clear off a third of all votes, hard ones among them
    most = max(SUREST, len(given) // (3 * num_classes)) if along.clear else SUREST
    noise = transition(votes, given, fold, most)
    belief, sharpness = _posterior(votes, given, noise, mix)
    belief = _passed(graph, alpha, belief, given, noise, mix)
    alone = np.asarray(product(graph, jnp.ones((len(given), 1)))) == 0
    belief = np.where(alone, np.eye(num_classes)[given], belief)
    even = doubt.evenness(votes, given, np.diag(noise), most)
    seen = {
        "sharpness": sharpness,
        "information": information(votes, given),
        **doubt.evidence(along, even, min(doubt.above_chance(votes, given, fold), typical)),
        "noise_rate": float(1 - np.sum(shares(noise, given) * np.diag(noise))),
    }
    return votes, noise, belief, seen


def _confidence(targets: np.ndarray) -> np.ndarray:
    """`1 - entropy / log C`, float32 [n]."""
    entropy = -np.sum(targets * np.log(np.maximum(targets, LEAST)), axis=1)
    return (1 - entropy / np.log(targets.shape[1])).astype(np.float32)


def _near(features: np.ndarray, k: int, search: str, watch: Watch) -> Neighbours:
    """Each example's neighbours, see `neighbours.find`.

    One whose features are all zero has no direction, so no neighbour of any weight.
    """
    if not np.isfinite(features).all():
        raise wrong("features", "be finite, got NaN or infinity")
    found = find(features, k, search, watch)
    blank = np.linalg.norm(features, axis=1) == 0
    return found._replace(
        cosine=jnp.where(blank[:, None] | blank[np.asarray(found.index)], -jnp.inf, found.cosine)
    )


def _chosen(
    found: Neighbours, given, num_classes: int, grid: list[tuple], fold: np.ndarray, watch: Watch
) -> tuple[tuple, float]:
    """The settings whose held-out votes have the highest information, and how much is known there.

    Where most labels are wrong, votes that know nothing may be informative by chance, and of so
    many some are above chance, too. So settings are of an alpha at which the median is above
    chance, if there is one; that median is what is returned.
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
    """`q T[:, given]^mix`, rows of sum 1, and the sharpness of the votes q.

    It is the one under which the given labels are likeliest.
    """
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
    """Targets after some passes: they spread, and what arrives is joined with the given labels.

    What arrives is sharpened first; they are joined by Bayes' rule.
    """
    share, seen = shares(noise, given), noise[:, given].T ** mix
    for _ in range(PASSES):
        votes = np.maximum(
            np.asarray(spread(graph, alpha, jnp.asarray(target, jnp.float32)), np.float64), LEAST
        )
        target = sharpened(votes * share / votes.sum(0), PASS_SHARPNESS) * seen
        target /= target.sum(1, keepdims=True)
    return target
