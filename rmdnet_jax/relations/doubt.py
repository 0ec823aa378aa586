"""Whether a relation graph knows enough to correct labels, seen without a clean one.

The graph bears the burden of proof: it is in doubt unless it passes three tests, and a standard
error of the last two counts against it. A graph in doubt changes no label.

| test | asks | passed where |
|---|---|---|
| knows | Do votes tell the given labels better than chance? | `above_chance > 4` |
| lasts | Do labels agree two steps along as one step along? | `transitivity >= 0.75` |
| even | Do all votes agree with labels as the surest do? | `evenness` or `transitivity >= 0.8` |

Why: neighbours disagree because labels are noisy, or because the graph joins different classes.
Noise is the same for any number of steps along the graph, a graph's own mistakes add up: `lasts`.
Noise is the same for votes that are sure and for those that are not, mistakes are not: `even`. But
people err more on what is hard. So agreement that lasts makes up for agreement that is uneven.
Transitivity above 1 is luck: it counts as 1.

Votes are rows of sum 1, float [n, C]; labels and folds int [n].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ABOVE = 4.0  # standard errors above chance at which votes know something
EVEN, TRANSITIVE = 0.8, 0.75  # to be reached, each less its standard error
CLEAR = 0.85  # transitivity at which the graph is right about what is hard, too
STARTS = 20_000  # examples, at most about so many, that steps are taken from


class Test(NamedTuple):
    """One test of a graph, passed where `value - error` reaches the bound."""

    asks: str
    value: float
    error: float
    bound: float
    passed: bool

    def __str__(self) -> str:
        return f"{self.asks} {self.value:.2f} - {self.error:.2f} is below {self.bound:g}"


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


def evenness(
    votes: np.ndarray, given: np.ndarray, sure: np.ndarray, most: int
) -> tuple[float, float]:
    """How often votes agree with given labels over how often the surest do, and its error.

    `sure` [C]: how often the surest votes for each class agree, at most `most` of them and half.
    """
    predicted = votes.argmax(1)
    voted = np.bincount(predicted, minlength=len(sure))
    weight, counted = voted / len(given), np.maximum(np.minimum(most, voted // 2), 1)
    expected = float(np.sum(weight * sure))
    even = float(np.mean(predicted == given)) / expected
    return even, even * float(np.sum(weight**2 * sure * (1 - sure) / counted)) ** 0.5 / expected


def evidence(along: Hops, even: tuple[float, float], knows: float) -> dict[str, float | bool]:
    """What tells noise from doubt, and whether the graph is `in_doubt`.

    Args:
      along: see `hops`.
      even: see `evenness`.
      knows: see `above_chance`.
    """
    seen: dict[str, float | bool] = {
        "above_chance": knows,
        "evenness": even[0],
        "evenness_error": even[1],
        "transitivity": along.transitivity,
        "transitivity_error": along.error,
        "neighbour_agreement": along.agreement,
        "chance_agreement": along.chance,
    }
    return {"in_doubt": not all(test.passed for test in tests(seen).values()), **seen}


def tests(seen: dict) -> dict[str, Test]:
    """The three tests by name, of what `evidence` has seen."""
    knows = seen["above_chance"]
    lasts = min(seen["transitivity"], 1.0), seen["transitivity_error"]
    even = max((seen["evenness"], seen["evenness_error"]), lasts, key=lambda x: x[0] - x[1])
    return {
        "knows": Test(
            "do votes tell the given labels better than chance, in standard errors",
            *(knows, 0.0, ABOVE, knows > ABOVE),
        ),
        "lasts": Test(
            "how far labels agree two steps along the graph, of what they do one step along",
            *(*lasts, TRANSITIVE, lasts[0] - lasts[1] >= TRANSITIVE),
        ),
        "even": Test(
            "how far all votes agree with the labels, of what the surest do",
            *(*even, EVEN, even[0] - even[1] >= EVEN),
        ),
    }
