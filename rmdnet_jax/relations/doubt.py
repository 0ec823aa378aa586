"""Whether a relation graph knows enough to correct labels, seen without a clean one.

Neighbours disagree because labels are noisy, or because the graph joins different classes. Noise is taken to be the same for every example
and for any number of steps along the graph; the graph's own mistakes are not. People err more on what is hard, so that agreement which
lasts along the graph (`transitivity`) makes up for agreement that differs between examples (`evenness`).

Votes are rows of sum 1, float [n, C]; labels and folds int [n].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

ABOVE = 4.0  # standard errors above chance at which votes know something
EVEN, TRANSITIVE = 0.8, 0.75  # below these the graph is in doubt
CLEAR = 0.85  # transitivity at which the graph is right about what is hard, too
STARTS = 20_000  # examples, at most about so many, that steps are taken from


class Hops(NamedTuple):
    """Agreement of given labels along the graph; a hop is a step from an example to one of its neighbours."""

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
    """By how many standard errors votes agree with given labels more often than if each fold's labels were in a random order."""
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
    """How often votes agree with given labels over how often the surest do, and its standard error.

    `sure` [C]: how often the surest votes for each class agree, at most `most` of them and half.
    """
    predicted = votes.argmax(1)
    voted = np.bincount(predicted, minlength=len(sure))
    weight, counted = voted / len(given), np.maximum(np.minimum(most, voted // 2), 1)
    expected = float(np.sum(weight * sure))
    even = float(np.mean(predicted == given)) / expected
    return even, even * float(np.sum(weight**2 * sure * (1 - sure) / counted)) ** 0.5 / expected


def evidence(along: Hops, even: tuple[float, float], knows: float) -> dict:
    """What tells noise from doubt, and whether the graph is `in_doubt`; `even` see `evenness`, `knows` see `above_chance`."""
    alike = max(even[0] + 2 * even[1], along.transitivity - along.error) >= EVEN
    return {
        "in_doubt": not (knows > ABOVE and along.transitivity + along.error >= TRANSITIVE and alike),
        "above_chance": knows, "evenness": even[0], "evenness_error": even[1], "transitivity": along.transitivity,
        "transitivity_error": along.error, "neighbour_agreement": along.agreement, "chance_agreement": along.chance,
    }  # fmt: skip
