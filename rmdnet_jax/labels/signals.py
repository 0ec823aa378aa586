"""The columns of an audit: what each signal says of each label. Rows are examples [n], classes [C].

Distances are cosine distances. Shares and probabilities are fractions in [0, 1].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rmdnet_jax.relations.doubt import LEFT, tests
from rmdnet_jax.relations.propagation import Propagated
from rmdnet_jax.relations.transition import noise_rate

if TYPE_CHECKING:
    from pandas import DataFrame

SHOWN = 10  # neighbours of an example
SAME = 0.05  # of the usual distance to the nearest: nearer ones are duplicates


def near(found: Propagated) -> tuple[np.ndarray, np.ndarray]:
    """The nearest others int32 [n, k], and their distances float32 [n, k]; 1 where unknown."""
    cosine = np.asarray(found.neighbours.cosine)[:, :SHOWN]
    distance = np.where(np.isfinite(cosine), np.maximum(1 - cosine, 0), 1).astype(np.float32)
    return np.asarray(found.neighbours.index)[:, :SHOWN], distance


def outlier(distance: np.ndarray) -> np.ndarray:
    """`d / (d + median)` of the mean distance d to the neighbours: 1/2 is usual, 1 is far out."""
    mean = distance.mean(1)
    return mean / np.maximum(mean + np.median(mean), 1e-12)


def duplicate(index: np.ndarray, distance: np.ndarray, given: np.ndarray) -> np.ndarray:
    """The nearest duplicate with another label, or -1."""
    differs = given[index] != given[:, None]
    close = differs & (distance <= SAME * np.median(distance[:, 0]))
    first = close.argmax(1)
    return np.where(close.any(1), index[np.arange(len(index)), first], -1)


def table(
    found: Propagated, classes: np.ndarray, given: np.ndarray, index: np.ndarray, far: np.ndarray
) -> DataFrame:
    """The table of `LabelErrors`, most suspect first; ties in the order of votes, then of rows.

    `index` and `far` are the nearest others and their distances, see `near`.
    """
    import pandas

    own, shares = (np.arange(len(given)), given), found.witnesses.shares
    rest = shares["vote"].copy()
    rest[own] = -1
    label, likely = found.targets.argmax(1), found.belief.argmax(1)
    suggested = np.where(label == given, likely, label)  # with `in_doubt="use"`, against belief
    undone = np.where(suggested == given, "keep", "in doubt")
    columns: dict[str, Any] = {
        "index": own[0],
        "given": classes[given],
        "suggested": classes[suggested],
        "probability": found.belief[own],
        "confidence": found.belief[own[0], suggested],
        "vote": shares["vote"][own],
        "target": found.graph[own],
        "probe": shares["probe"][own],
        "corrected_probe": shares["corrected_probe"][own],
        "margin": shares["vote"][own] - rest.max(1),
        **({"model": shares["model"][own]} if "model" in shares else {}),
        "outlier": outlier(far),
        "duplicate": duplicate(index, far, given),
        "decision": np.where(label == given, undone, "change"),
    }
    order = np.lexsort((columns["vote"], columns["probability"]))
    return pandas.DataFrame({name: values[order] for name, values in columns.items()})


def quality(found: Propagated, classes: np.ndarray, given: np.ndarray) -> DataFrame:
    """How many of each class's given labels are right, with an interval of 95 %."""
    import pandas

    right, named = found.belief[np.arange(len(given)), given], found.prior.argmax(1)
    proved = found.summary["noise"] != "none" and not found.summary["in_doubt"]
    rows = []
    for y, name in enumerate(classes):
        rate, low, high = noise_rate(right[given == y], named[given == y] == y, proved)
        rows.append((name, int(np.sum(given == y)), 1 - rate, 1 - high, 1 - low))
    return pandas.DataFrame(rows, columns=["class", "examples", "right", "low", "high"])


def reason(summary: dict, size: int) -> str:
    """What was found, or why there is doubt, in plain words."""
    changed, rate = round(summary["changed"] * size), summary["noise_rate"]
    between = f"{summary['noise_low']:.0%} to {summary['noise_high']:.0%}"
    if summary["in_doubt"]:
        done = (
            f"{changed:,} were changed nevertheless" if summary["used"] else "No label was changed"
        )
        advice = "Features of another model, or scaled columns, may help."
        return f"In doubt: {doubted(summary)}. {done}. {advice}"
    if summary["noise"] == "none":
        done = f"{changed:,} were changed" if changed else "no label was changed"
        return f"No label is proved to be wrong ({between} may be); {done}."
    passed = {name for name, test in tests(summary).items() if test.passed}
    return (
        f"About {rate:.0%} of the labels look wrong ({between}); "
        f"{changed:,} of {size:,} are corrected. {next(PROOFS[x] for x in PROOFS if x in passed)}"
    )


def doubted(summary: dict) -> str:
    """Why there is doubt."""
    if summary["least_left"] < LEFT:
        return "a class would lose most of its labels"
    return "perhaps labels are wrong, perhaps the features are too weak to tell"


TAUGHT = "A model that learned corrected labels tells unseen labels better than one that did not."
PROOFS = {  # what each test of `doubt` says once it is passed
    "taught": TAUGHT,
    "both": TAUGHT,
    "lasts": "Most neighbours agree. So a label that disagrees with them is likely to be wrong.",
    "even": "Some labels wrong at random explain what is seen better than none.",
}
