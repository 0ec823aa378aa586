"""Whether wrong labels are proved, seen without a clean one.

Neighbours disagree because labels are wrong, or because features do not tell the classes apart.
Only wrong labels are corrected. So labels are corrected in five folds, each without its own labels.
Then the corrected and the given labels of four folds each teach a witness. Which of them tells the
labels of the fifth fold better? Likelihoods are in nats over all examples that are asked about.
`taught` and `even` also have to reach two standard errors; `lasts` counts one lower.

| test | asks | passed where |
|---|---|---|
| taught | Does a probe that learned corrected labels tell unseen given labels better? | 10 nats |
| both | Do the probe and the graph both, where noise is even? | 5 nats each, 15 together |
| even | Does even noise tell unseen labels better than no noise? | 6 nats |
| lasts | Do labels agree two steps along the graph as one, the probe no worse? | 0.8 or 0.85 |

One test is enough. `taught` and `lasts` prove noise of any kind, `even` and `both` even noise.
`taught` and `both` prove nothing where labels two steps along the graph agree far less than one
step along, `even` and `lasts` nothing where the probe is worse: there classes overlap. Where some
class seems to bear another's name more often than its own, `even` needs more, and a probe that
knows something.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from rmdnet_jax.relations import belief

NATS, EACH, TOGETHER = 10.0, 5.0, 15.0
ERRORS = 2.0  # standard errors that a difference in nats has to reach
LASTING, GAIN, MARGIN = 0.8, 30.0, 0.1
SURE, SURE_MARGIN, SURE_GAIN = 0.85, 0.3, 0.005
LEAST_EVEN = 6.0  # nats
UNSURE = 2.6  # standard errors that `even` has to reach where `margin` is below 0
LEFT = 0.15  # of a class's labels have to be left by a correction
GAIN_EACH = 0.03  # nats an example
LOST = 0.02  # of the nats that a probe knows: noise that depends on examples is forgotten, too
MANY = 5000  # examples, of which a probe learns well from wrong labels, too
EXPLAINED = 0.05  # of the nats that a probe knows, which noise explains besides
STRAIGHT = 0.65  # of transitivity, below which any smoothing of classes teaches better
VERY_CLEAR = 0.9  # transitivity, the same where a probe is proved worse
CLEAR = 0.85  # transitivity at which the graph is right about what is hard, too
CLEAN = 0.03  # estimated share of wrong labels below which nothing is wrong
LEAN = 0.2  # of a class's labels, by which noise by class leans to even noise in a comparison
STEPS = 25
STARTS = 20_000  # examples, at most about so many, that steps are taken from
BASE = ("vote", "probe", "corrected_probe", "model")  # what `even` noise is seen through


class Test(NamedTuple):
    """One test: what it asks, its value, standard error and bound."""

    asks: str
    value: float
    error: float
    bound: float
    passed: bool

    def __str__(self) -> str:
        return f"{self.asks} {self.value:.2f} ± {self.error:.2f}, needed {self.bound:g}"


class Hops(NamedTuple):
    """Agreement of given labels along the graph; a hop is a step to one of the neighbours."""

    agreement: float  # share of equal labels one hop apart
    chance: float  # and of any two examples
    transitivity: float  # agreement above chance two hops apart over one hop
    error: float  # its standard error, large where one hop is near chance

    @property
    def clear(self) -> bool:
        """Whether neighbours' neighbours agree nearly as often as neighbours do."""
        return self.transitivity - self.error >= CLEAR


def hops(near: np.ndarray, given: np.ndarray) -> Hops:
    """How far given labels agree one step and two steps apart on the neighbours `near` [n, k]."""
    chance = float(np.sum((np.bincount(given) / len(given)) ** 2))
    own = np.arange(0, len(given), -(-len(given) // STARTS))[:, None]
    one = near[own[:, 0]]
    two = near[one].reshape(len(one), -1)
    counted = (two != own) & ~np.any(two[:, :, None] == one[:, None, :], axis=2)
    agreement = float(np.mean(given[one] == given[own]))
    error = (chance * (1 - chance) / one.size) ** 0.5
    above = max(agreement - chance, error)
    ratio = (
        (float(np.mean((given[two] == given[own])[counted])) - chance) / above
        if counted.any()
        else 1.0
    )
    return Hops(agreement, chance, ratio, error * (1 + ratio**2) ** 0.5 / above)


def above_chance(votes: np.ndarray, given: np.ndarray, fold: np.ndarray) -> float:
    """By how many standard errors votes agree with given labels more often than chance.

    Chance is each fold's labels in a random order.
    """
    predicted, classes, folds = votes.argmax(1), votes.shape[1], fold.max() + 1
    voted, labelled = (
        np.bincount(fold * classes + y, minlength=folds * classes).reshape(folds, classes)
        for y in (predicted, given)
    )
    size = np.maximum(voted.sum(1), 1)
    chance = np.sum(voted * labelled, axis=1) / size**2
    return float(
        (np.sum(predicted == given) - np.sum(size * chance))
        / max(np.sum(size * chance * (1 - chance)), 1.0) ** 0.5
    )


def evidence(
    witnesses: dict[str, np.ndarray], given, fold, start: np.ndarray, along: Hops
) -> dict[str, float]:
    """What the tests are about.

    Args:
      witnesses: log-odds [n, C] by name; none of them has seen an example's own label.
      given: int [n].
      fold: int [n], of those that correct.
      start: [C, C], a first guess of the noise.
      along: see `hops`.
    """
    size, classes = witnesses["vote"].shape

    @functools.cache  # what the probe tells is asked for twice
    def told(kind: str, *names: str) -> np.ndarray:
        asked = np.stack([witnesses[name] for name in names])
        return belief.unseen(asked, given, fold, kind, start, LEAN * size / classes, STEPS)

    def better(kind: str, name: str, than: str) -> tuple[float, float]:
        return _total(told(kind, name) - told(kind, than))

    base = [name for name in BASE if name in witnesses]
    all_of_them = np.stack([witnesses[name] for name in base])
    found = {
        "taught": better("by_class", "corrected_probe", "probe"),
        "both_probe": better("even", "corrected_probe", "probe"),
        "both_graph": better("even", "corrected_vote", "vote")
        if "corrected_vote" in witnesses
        else (0.0, 0.0),
        "even": _total(told("even", *base) - told("none", *base)),
    }
    noise = belief.fit(all_of_them, given, "by_class", start)
    none = belief.fit(all_of_them, given, "none", steps=STEPS)
    gain = belief.seen(all_of_them, given, noise) - belief.seen(all_of_them, given, none)
    right = np.diag(noise.transition)
    alone = np.log((np.bincount(given, minlength=classes) / size)[given])
    informed = told("by_class", "probe") - alone
    seen = {"gain": float(gain.sum()), "told": size, "informed": float(informed.sum())}
    prior = belief.pooled(all_of_them, noise.weight, noise.bias)
    heard = belief.posterior(prior, noise.transition[:, given].T)
    seen["base_rate"] = float(1 - heard[np.arange(size), given].mean())
    seen["margin"] = float(np.min(right - (noise.transition - np.diag(right)).max(1)))
    for name, (value, error) in found.items():
        seen |= {name: value, f"{name}_error": error}
    return seen | {
        "transitivity": along.transitivity,
        "transitivity_error": along.error,
        "neighbour_agreement": along.agreement,
        "chance_agreement": along.chance,
    }


def _total(gain: np.ndarray) -> tuple[float, float]:
    """The sum over all examples, and its standard error."""
    return float(gain.sum()), float(gain.std() * len(gain) ** 0.5)


def tests(seen: dict) -> dict[str, Test]:
    """The four tests by name, of what `evidence` has seen, and `left` once labels are corrected."""
    taught, even = (seen["taught"], seen["taught_error"]), (seen["even"], seen["even_error"])
    both = seen["both_probe"], seen["both_graph"]
    lasts = min(seen["transitivity"], 1.0), seen["transitivity_error"]  # above 1 is luck
    told = "nats by which labels are told better that nobody has seen,"
    straight = seen["transitivity"] + seen["transitivity_error"] >= STRAIGHT
    left = seen.get("least_left", 1.0)
    asks = "the share of its labels that the smallest class is left with"
    after = {"left": Test(asks, left, 0.0, LEFT, passed=False)} if left < LEFT else {}
    return after | {
        "taught": Test(
            f"{told} by a probe that learned corrected labels",
            *(*taught, NATS, _proved(*taught) and straight),
        ),
        "both": Test(
            f"{told} by probe and graph if noise is even",
            sum(both),
            (seen["both_probe_error"] ** 2 + seen["both_graph_error"] ** 2) ** 0.5,
            TOGETHER,
            min(both) >= EACH and sum(both) >= TOGETHER and straight,
        ),
        "even": Test(f"{told} if some are wrong at random", *even, LEAST_EVEN, _even(seen)),
        "lasts": Test(
            "how far labels agree two steps along the graph, of what they do one step along",
            *lasts,
            LASTING,
            _lasts(seen, lasts[0] - lasts[1]),
        ),
    }


def _even(seen: dict) -> bool:
    """Whether even noise is proved, and no probe that learned corrected labels refutes it.

    More is asked where some class seems to bear another's name more often than its own.
    """
    value, error = seen["even"], seen["even_error"]
    if _refuted(seen):
        return False
    if seen["margin"] < 0:
        return seen["informed"] > 0 and _proved(value, error, LEAST_EVEN, UNSURE)
    return _proved(value, error, LEAST_EVEN)


def _lasts(seen: dict, value: float) -> bool:
    """Whether labels agree so far along the graph that what disagrees is noise.

    Nearly as far, if noise by class explains the labels better than none, or the probe does.
    """
    if _refuted(seen):
        return False
    sure = seen["margin"] >= SURE_MARGIN and value >= SURE
    if sure and _keeps(seen) and seen["gain"] >= SURE_GAIN * seen["told"]:
        return True
    explained = _keeps(seen) and seen["gain"] >= max(GAIN, GAIN_EACH * seen["told"])
    taught = _proved(seen["taught"], seen["taught_error"], EACH)
    return value >= LASTING and seen["margin"] > MARGIN and (explained or taught)


def _refuted(seen: dict) -> bool:
    """Whether a probe that learned corrected labels is proved worse.

    Of many examples it learns as well from wrong ones. So it says nothing where classes are clear
    along the graph, and noise explains much.
    """
    clear = seen["transitivity"] - seen["transitivity_error"] >= VERY_CLEAR
    explained = clear and seen["told"] >= MANY and seen["gain"] >= EXPLAINED * seen["informed"]
    return seen["taught"] <= -ERRORS * seen["taught_error"] < 0 and not explained


def _keeps(seen: dict) -> bool:
    """Whether the probe knows as much after correction, but for noise that depends on examples."""
    return seen["taught"] >= -LOST * seen["informed"]


def _proved(value: float, error: float, least: float = NATS, errors: float = ERRORS) -> bool:
    return value >= max(least, errors * error)


def kind(seen: dict) -> tuple[str, tuple[str, ...]]:
    """The kind of noise that is proved, one of `belief.KINDS`, and who bears witness to even noise.

    `both` is passed under even noise, with the help of corrected neighbours.
    """
    passed = {name for name, test in tests(seen).items() if test.passed}
    if "both" in passed:
        return "even", (*BASE, "corrected_vote")
    return "by_class" if passed & {"taught", "lasts"} else "even" if passed else "none", BASE
