"""The columns of an audit: what each signal says of each label. Rows are examples [n], classes [C].

Distances are cosine distances. Shares and probabilities are fractions in [0, 1].
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from rmdnet_jax.relations.doubt import LEFT
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


def table(found: Propagated, classes: np.ndarray, given: np.ndarray) -> DataFrame:
    """The table of `LabelErrors`, most suspect first; ties in the order of votes, then of rows."""
    import pandas

    own, shares = (np.arange(len(given)), given), found.witnesses.shares
    rest = shares["vote"].copy()
    rest[own] = -1
    index, distance = near(found)
    suggested, label = found.belief.argmax(1), found.targets.argmax(1)
    undone = np.where(suggested == given, "keep", "in doubt")
    columns: dict[str, Any] = {
        "index": own[0],
        "given": classes[given],
        "suggested": classes[suggested],
        "probability": found.belief[own],
        "confidence": found.belief.max(1),
        "vote": shares["vote"][own],
        "target": found.graph[own],
        "probe": shares["probe"][own],
        "corrected_probe": shares["corrected_probe"][own],
        "margin": shares["vote"][own] - rest.max(1),
        **({"model": shares["model"][own]} if "model" in shares else {}),
        "outlier": outlier(distance),
        "duplicate": duplicate(index, distance, given),
        "decision": np.where(label == given, undone, "change"),
    }
    order = np.lexsort((columns["vote"], columns["probability"]))
    return pandas.DataFrame({name: values[order] for name, values in columns.items()})


def quality(found: Propagated, classes: np.ndarray, given: np.ndarray) -> DataFrame:
    """How many of each class's given labels are right, with an interval of 95 %."""
    import pandas

    right, named = found.belief[np.arange(len(given)), given], found.prior.argmax(1)
    proved = found.summary["noise"] != "none"
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
        done = f"{changed:,} are changed nevertheless" if summary["used"] else "none is changed"
        why = (
            "a class would lose most of its labels"
            if summary["least_left"] < LEFT
            else "nothing proves that the labels are wrong, and not the features weak"
        )
        return (
            f"In doubt whether the labels are wrong: {why}; {done}. "
            "Features of another model, or scaled columns, may help."
        )
    if summary["noise"] == "none":
        done = f"{changed:,} are changed" if changed else "none is changed"
        return f"No noise is proved; {between} of the labels may be wrong, {done}."
    if summary["taught"] >= 1:
        why = f"better than the given ones do, by {summary['taught']:,.0f} nats"
        why = f"Corrected labels predict labels that nobody has seen {why}."
    else:
        why = f"Wrong labels explain what is seen better, by {summary['even']:,.0f} nats."
    return (
        f"About {rate:.0%} of the labels look wrong ({between}); "
        f"{changed:,} of {size:,} are corrected. {why}"
    )
