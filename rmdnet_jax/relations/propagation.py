"""Noisy labels corrected over the relation graph of the whole training set: our extension.

Labels spread on the graph of each example's nearest neighbours (`graph.connect`, `votes`). What is
ours: no example's own label speaks for it, so that

- the mutual information of votes and given labels chooses k, temperature and alpha,
- votes, a linear probe, and both of them again on corrected labels are witnesses that have not
  seen an example's label (`witnesses`),
- they are pooled and seen through the noise under which the given labels are likeliest (`belief`),
- and labels are corrected only where their noise is proved (`doubt`).

Memory is O(n (k + C)) beside the neighbours' own. Over the mesh that is set each device has its own
rows. Features are float32 [n, dim], labels int [n] in [0, C).
"""

from __future__ import annotations

import itertools
from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from rmdnet_jax.errors import one_of, within, wrong
from rmdnet_jax.relations import belief, doubt
from rmdnet_jax.relations.graph import connect
from rmdnet_jax.relations.neighbours import Neighbours, Watch, find, unwatched
from rmdnet_jax.relations.transition import noise_rate, standard_errors
from rmdnet_jax.relations.votes import FOLDS, LEAST, held_out, information, joined
from rmdnet_jax.relations.witnesses import MANY, Witnesses, witnesses

SCORED = 10_000  # examples whose held-out votes settings are chosen by, or a fold if that is more
WIDEST = 20_000_000  # votes, of all classes, that are held out for each setting, or a fold's
JUDGED = 5_000  # examples that noise is fitted and proved on, or 50 a class
Auto = Literal["auto"]
AUTO = {"neighbours": (5, 10, 20), "temperature": (0.05, 0.2), "alpha": (0.5, 0.8, 0.9, 0.95, 0.99)}
IN_DOUBT = ("keep", "use")  # the given labels there, the targets nevertheless
RIVAL = 0.9  # of how often a class bears its own name
CAUTION = 2 / 3  # weight of even noise where none is proved; the rest is noise by class
ABOVE = 4.0  # standard errors above chance at which votes know something


class Propagated(NamedTuple):
    """What `propagate` finds. The fields after `summary` hold whether labels are changed or not."""

    targets: np.ndarray  # float32 [n, C], rows sum to 1; the given labels where it is not used
    confidence: np.ndarray  # float32 [n], 1 - entropy(targets) / log C
    summary: dict  # what was chosen, what is proved, and how many labels are wrong
    transition: np.ndarray  # [C, C], P(given j | class y), rows sum to 1
    transition_error: np.ndarray  # [C, C], its standard errors
    belief: np.ndarray  # float64 [n, C], probability of each class, the given label heard
    prior: np.ndarray  # float32 [n, C], the same from the witnesses alone
    graph: np.ndarray  # float32 [n, C], the neighbours' votes joined with the given label
    witnesses: Witnesses  # what has not seen an example's label
    neighbours: Neighbours  # of each example, nearest first


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
    probabilities: np.ndarray | None = None,
    *,
    neighbours: Auto | int = "auto",
    temperature: Auto | float = "auto",
    alpha: Auto | float = "auto",
    mix: float = 1.0,
    in_doubt: str = "keep",
    search: str = "auto",
) -> Propagated:
    """Soft targets from the given labels, corrected where their noise is proved.

    Args:
      features: float [n, dim].
      given: int [n], each class among them.
      num_classes: C.
      seed: of the folds.
      watch: wraps the parts of long work, to show progress.
      probabilities: float [n, C] of a model that has not seen these labels, one more witness.
      neighbours: k, a number below n or `auto`.
      temperature: of the graph's weights, > 0 or `auto`.
      alpha: how far labels travel, in [0, 1) or `auto`.
      mix: how far a given label speaks for itself: 0 not at all, 1 by Bayes' rule.
      in_doubt: whether doubt leaves the given labels (`keep`) or they are corrected (`use`).
      search: for neighbours: `exact`, `approximate` by an index, or `auto`: the index on a CPU
        with very many examples.

    Returns:
      Targets, confidence and summary. Labels are `in_doubt` where neither noise is proved nor its
      absence, see `doubt`; then the targets are the given labels, unless `used` nevertheless.

    Raises:
      UserError: an argument is out of range, features are not finite, a class has no label.
    """
    grid = settings(neighbours, temperature, alpha, len(given))
    within("mix", mix, "[0, 1]")
    one_of("in_doubt", in_doubt, IN_DOUBT)
    check_labels(given, num_classes)
    features = np.ascontiguousarray(features, np.float32)  # sums depend on the layout
    fold = np.random.default_rng(seed).permutation(len(given)) % FOLDS
    found = _near(features, max(k for k, *_ in grid), search, watch)
    chosen = _chosen(found, given, num_classes, grid, fold, watch)
    k, tau, a = chosen
    made = connect(found.index[:, :k], found.cosine[:, :k], tau)
    along = doubt.hops(np.asarray(made.neighbour[:, :10]), given)
    told = witnesses(made, a, features, given, num_classes, fold, probabilities, along.clear, watch)
    seen = {**dict(zip(AUTO, chosen)), "recall": found.recall}
    return _judged(told, given, fold, along, mix, in_doubt == "use", seen, found)


def _judged(
    told: Witnesses, given, fold, along, mix: float, use: bool, seen: dict, found
) -> Propagated:
    """The witnesses pooled, judged, and joined with the given labels."""
    classes = len(told.transition)
    part = _sample(told.judged, max(JUDGED, 50 * classes))
    pairs = 2 if told.judged.all() else 1  # folds that noise is fitted without, to be judged there
    seen |= doubt.evidence(told.of(part), given[part], fold[part] // pairs, told.transition, along)
    kind, names = doubt.kind(seen)
    even = _believed(told, names, given, part, "even", mix)
    by_class = _believed(told, tuple(told.odds), given, part, "by_class", mix)
    posterior, prior, noise = even if kind == "even" else by_class
    rate = min(seen["base_rate"], float(1 - _of(posterior, given).mean()))
    clean = rate < doubt.CLEAN
    kind = "none" if clean else kind
    if kind == "none":
        posterior, noise = (
            CAUTION * a + (1 - CAUTION) * b for a, b in ((even[0], posterior), (even[2], noise))
        )
    rivals = _rivals(noise, posterior.argmax(1), given)
    posterior = np.where(rivals[:, None], even[0], posterior)
    right = _of(posterior, given)
    seen |= _verdict(kind, posterior, given, clean)
    seen["used"] = use or not seen["in_doubt"]
    proved = kind != "none" and not seen["in_doubt"]
    label = np.eye(classes, dtype=np.float32)[given]
    targets = posterior if proved else by_class[0] if use else label
    keep = told.alone | (rivals & (not use))
    targets = np.where(keep[:, None], label, targets).astype(np.float32)
    seen["changed"] = float(np.mean(targets.argmax(1) != given))
    rate = noise_rate(right, prior.argmax(1) == given, proved)
    seen |= dict(zip(("noise_rate", "noise_low", "noise_high"), rate))
    return Propagated(
        targets, _confidence(targets), seen, noise, standard_errors(noise, posterior.sum(0)),
        posterior, prior.astype(np.float32),
        joined(told.shares["vote"], given, noise).astype(np.float32), told, found,
    )  # fmt: skip


def _sample(judged: np.ndarray, most: int) -> np.ndarray:
    """Rows, at most so many, spread over those that may be judged."""
    rows = np.flatnonzero(judged)
    return rows[np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int)]


def _believed(told: Witnesses, names: tuple, given, part, kind: str, mix: float):
    """Posterior [n, C], prior [n, C] and noise [C, C] of one kind, fitted to some examples.

    Of the witnesses with these names, where there are such.
    """
    odds = np.stack([told.odds[name] for name in names if name in told.odds])
    fitted = belief.fit(odds[:, part], given[part], kind, told.transition)
    prior = belief.pooled(odds, fitted.weight, fitted.bias)
    posterior = belief.posterior(prior, fitted.transition[:, given].T ** mix)
    posterior += (1 / prior.shape[1] - posterior) / len(prior)  # no surer than one in n
    return posterior, prior, fitted.transition


def _verdict(kind: str, posterior: np.ndarray, given, clean: bool) -> dict:
    """Which noise is proved, and whether labels are in doubt: none is, or a class would vanish."""
    held, left = (
        np.bincount(y, minlength=posterior.shape[1]) for y in (given, posterior.argmax(1))
    )
    share = np.where(left > 0, (left + 1) / np.maximum(held, 1), 0)  # small classes by chance
    least = 1.0 if kind == "none" else float(np.min(share))
    doubted = least < doubt.LEFT or (kind == "none" and not clean)
    return {"noise": kind, "least_left": least, "in_doubt": doubted}


def _rivals(noise: np.ndarray, suggested: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Whether the suggested class bears the given name about as often as its own: bool [n].

    Then nothing tells which of the two names is the right one.
    """
    own = noise[suggested, suggested]
    return (suggested != given) & (noise[suggested, given] >= RIVAL * own)


def _of(table: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Each row's entry for the given label."""
    return table[np.arange(len(given)), given]


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
) -> tuple:
    """The settings whose held-out votes have the highest information.

    Where most labels are wrong, votes that know nothing may be informative by chance, and of so
    many some are above chance, too. So settings are of an alpha at which the median is above
    chance, if there is one. Of very many examples alpha is chosen first, then the others.
    """
    if len(grid) == 1:
        return grid[0]
    if len(given) > MANY:  # where a setting takes most of a minute
        *middle, _ = grid[len(grid) // 2]
        line = [one for one in grid if [*one[:2]] == middle]
        best = _best(found, given, num_classes, line, fold, watch)
        grid = [one for one in grid if one[2] == best[2]]
    return _best(found, given, num_classes, grid, fold, watch)


def _best(
    found: Neighbours, given, num_classes: int, grid: list[tuple], fold: np.ndarray, watch: Watch
) -> tuple:
    folds = min(FOLDS, -(-SCORED * FOLDS // len(given)), WIDEST // (len(given) * num_classes))
    folds = max(folds, 1)
    heard = fold < folds
    informative: dict[tuple, float] = {}
    above: dict[float, list[float]] = {}
    for k, tau, alpha in watch(grid, "settings"):
        made = connect(found.index[:, :k], found.cosine[:, :k], tau)
        votes = np.asarray(held_out(made, alpha, given, fold, num_classes, folds))[heard]
        informative[k, tau, alpha] = information(votes, given[heard])
        above.setdefault(alpha, []).append(doubt.above_chance(votes, given[heard], fold[heard]))
    typical = {alpha: float(np.median(values)) for alpha, values in above.items()}
    return max(grid, key=lambda one: (typical[one[2]] > ABOVE, informative[one]))
