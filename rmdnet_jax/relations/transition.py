"""The noise of given labels as a matrix, seen through votes on what they should be.

Votes are rows of sum 1, float [n, C]; labels and folds int [n].
"""

from __future__ import annotations

import numpy as np

STEPS = 3  # of finding the classes' shares


def transition(votes: np.ndarray, given: np.ndarray, fold: np.ndarray, most: int) -> np.ndarray:
    """The noise T[y, j] = P(given j | class y), [C, C], as seen on the surest votes for each class.

    At most `most` of them, the surest of each fold by itself: one that holds fewer labels y than
    others leaves more of them to vote, and would pass for surer. One count a class is spread as the
    given labels are, so that a class voted for nowhere has a row, too.
    """
    classes = votes.shape[1]
    predicted = votes.argmax(1)
    margin = np.diff(np.sort(np.log(votes), axis=1)[:, -2:], axis=1)[:, 0]
    counts = np.tile(np.bincount(given, minlength=classes) / len(given), (classes, 1))
    for y in range(classes):
        rows = np.flatnonzero(predicted == y)
        rows = rows[np.lexsort((-margin[rows], fold[rows]))]
        rank = np.arange(len(rows)) - np.searchsorted(fold[rows], fold[rows])
        surest = rows[np.argsort(rank, kind="stable")[: min(most, len(rows) // 2)]]
        counts[y] += np.bincount(given[surest], minlength=classes)
    return counts / counts.sum(1, keepdims=True)


def shares(noise: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The classes' shares [C] under which the given labels are likelier than under their own.

    By a few steps of expectation maximisation: the likeliest shares fit what is wrong with T, too.
    """
    seen = np.bincount(given, minlength=len(noise)) / len(given)
    share = seen
    for _ in range(STEPS):
        share = share * (noise @ (seen / np.maximum(share @ noise, 1e-300)))
    return share


def standard_errors(noise: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """Standard errors [C, C] of T where each class has so many `examples` [C]: binomial ones."""
    return np.sqrt(noise * (1 - noise) / np.maximum(examples, 1)[:, None])


def noise_rate(
    right: np.ndarray, agrees: np.ndarray, proved: bool = True
) -> tuple[float, float, float]:
    """The share of wrong labels, and the ends of its interval of 95 %.

    The estimate is the mean of `1 - right`. More labels differ from what the witnesses say, because
    the witnesses err. So far may the estimate be off, either way, and by two standard errors. Where
    nothing is proved, none may be wrong.

    Args:
      right: [n], the probability that each given label is right.
      agrees: bool [n], whether the witnesses name the given label.
      proved: whether the estimate bounds the share from below.
    """
    size = max(len(right), 1)
    rate, differs = float(np.mean(1 - right)), float(np.mean(~agrees))
    err = max(differs - rate, 0)
    spread = err + 2 * ((rate * (1 - rate) + float(np.mean(right * (1 - right)))) / size) ** 0.5
    low = max(rate - spread, 0.0) if proved else 0.0
    return rate, low, min(rate + spread + 1 / size, 1.0)
