"""Which labels are wrong, and what should they be? From features of any model, or its predictions.

No images, no training: examples that a model finds alike vote on each other's labels, see
`relations.propagation`. Where wrong labels are not proved, nothing is changed.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from rmdnet_jax.errors import within, wrong
from rmdnet_jax.labels import signals
from rmdnet_jax.labels.classes import alike, array, numbered, order
from rmdnet_jax.relations.neighbours import Item, unwatched
from rmdnet_jax.relations.propagation import Auto, Propagated, propagate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pandas import DataFrame

FEWEST = 20  # rows that say anything
WILD = 1e6  # times the usual row, from which on a row's length says nothing
LEARNED = " The model predicts every label as given: was it trained on them? It must not be."
SLACK = 0.01  # by which rows of probabilities may miss 1: float16 is welcome


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class LabelErrors:
    """What `find_label_errors` found. `n` examples, `C` classes.

    The table's columns:

    - `index`: the example's row in what was given, from 0.
    - `name`: what a pandas index calls it, where the labels had one of their own.
    - `given`, `suggested`: its label, and what it becomes; where it stays, the most likely one.
    - `probability`: how likely the given label is right, in [0, 1].
    - `confidence`: how likely the suggested label is right, in [0, 1].
    - `vote`: the neighbours' share for the given label. The example itself does not vote.
    - `target`: that share once the given label is heard, by Bayes' rule.
    - `probe`: what a linear probe says of the given label. It learned the labels of other folds.
    - `corrected_probe`: the same of a probe that learned corrected labels of other folds.
    - `margin`: the neighbours' share less the largest of another class.
    - `model`: the model's probability of the given label, where probabilities were given.
    - `outlier`: how far it is from its neighbours: 1/2 is usual, near 1 is far out.
    - `duplicate`: the row of a near-duplicate with another label, or -1.
    - `decision`: `keep`, `change`, or `in doubt`. In doubt, the label stays as it was given.
    """

    table: DataFrame  # a row an example, most suspect first
    labels: np.ndarray  # [n], corrected, of the kind that was given
    targets: np.ndarray  # float32 [n, C], soft labels to train on, rows sum to 1
    classes: np.ndarray  # [C], sorted: the columns of `targets` and `transition`
    noise_rate: float  # estimated share of wrong labels, in [0, 1]
    noise_interval: tuple[float, float]  # of 95 %
    transition: np.ndarray  # [C, C], estimated P(given j | class i), rows sum to 1
    transition_error: np.ndarray  # [C, C], its standard errors
    quality: DataFrame  # a row a class: class, examples, right (share), low, high
    in_doubt: bool  # whether neither wrong labels are proved nor their absence
    reason: str  # what was found, or why there is doubt, in plain words
    neighbours: np.ndarray  # int32 [n, k], the nearest others of each example, nearest first
    distances: np.ndarray  # float32 [n, k], cosine distances to them
    summary: dict[str, Any]  # what was chosen on the way, and all numbers

    def __repr__(self) -> str:
        worst = self.table.iloc[0]
        return (
            f"LabelErrors of {len(self.labels):,} labels in {len(self.classes)} classes. "
            f"{self.reason}\nMost suspect: index {worst['index']}, given {worst['given']}, "
            f"suggested {worst['suggested']}. All of them: .table"
        )


def find_label_errors(
    features: Any = None,
    labels: Any = None,
    *,
    probabilities: Any = None,
    seed: int = 0,
    neighbours: Auto | int = "auto",
    temperature: Auto | float = "auto",
    alpha: Auto | float = "auto",
    in_doubt: str = "keep",
    search: str = "auto",
    progress: bool = False,
) -> LabelErrors:
    """Ranks labels by how likely they are wrong, and corrects those that are.

    `probability_i = b_i[given_i]`, `b_iy ~ q_iy T[y, given_i]`. `q` pools witnesses that have not
    seen the label: its neighbours, linear probes, and `probabilities` if there are any. How much
    each counts, and the noise T, make the given labels likeliest. So it needs no clean label.
    Source: ours, see `relations.belief`.

    Args:
      features: [n, d] of any model: list, array, tensor or DataFrame. None: `probabilities` alone.
      labels: [n], possibly wrong: integers of any range, strings or booleans. Always needed.
      probabilities: [n, C] of a model that did not train on these examples. Columns are as the
        sorted classes, or as the headings of a DataFrame name them.
      seed: of the folds; the same input and seed give the same answer.
      neighbours: how many vote, below n, or `auto`.
      temperature: > 0, how little a vote loses with distance, or `auto`.
      alpha: in [0, 1), how far a label travels, or `auto`.
      in_doubt: `keep` leaves labels as given where there is doubt, `use` corrects nevertheless.
      search: of neighbours: `exact`, `approximate` (needs faiss) or `auto`.
      progress: whether a terminal shows a bar.

    Raises:
      UserError: an argument is not as said; the text names it.

    Warns where classes differ in nothing but case and spaces.

    Example:
      >>> import numpy as np
      >>> import rmdnet_jax as rmd
      >>> animals = np.repeat(["cat", "dog", "owl"], 40)
      >>> noise = 0.1 * np.random.default_rng(0).normal(size=(120, 3))
      >>> features = np.repeat(np.eye(3), 40, axis=0) + noise
      >>> animals[7] = "owl"
      >>> found = rmd.find_label_errors(features, animals)
      >>> found.table[["index", "given", "suggested"]].head(1)
         index given suggested
      0      7   owl       cat
    """
    within("seed", seed, "[0, inf)", whole=True)
    classes, given = _classes(labels)
    told = None if probabilities is None else _probabilities(probabilities, classes, len(given))
    rows = _features(features, told, len(given))
    watch = _bar if progress else unwatched
    found = propagate(
        rows, given, len(classes), int(seed), watch, told, neighbours=neighbours,
        temperature=temperature, alpha=alpha, in_doubt=in_doubt, search=search,
    )  # fmt: skip
    return _record(found, classes, given, _names(labels), told)


def _names(labels: Any) -> np.ndarray | None:
    """What the index of a pandas object calls each row; None where it only counts them."""
    names = getattr(labels, "index", None)  # of a list, a method
    counts = names is None or callable(names) or type(names).__name__ == "RangeIndex"
    return None if counts else np.asarray(names)


def _record(
    found: Propagated,
    classes: np.ndarray,
    given: np.ndarray,
    names: np.ndarray | None,
    told: np.ndarray | None,
) -> LabelErrors:
    index, distance = signals.near(found)
    learned = told is not None and bool(np.all(told.argmax(1) == given))
    seen, table = found.summary, signals.table(found, classes, given, index, distance)
    if names is not None:
        table.insert(1, "name", names[table["index"]])
    return LabelErrors(
        table=table,
        labels=classes[found.targets.argmax(1)],
        targets=found.targets,
        classes=classes,
        noise_rate=seen["noise_rate"],
        noise_interval=(seen["noise_low"], seen["noise_high"]),
        transition=found.transition,
        transition_error=found.transition_error,
        quality=signals.quality(found, classes, given),
        in_doubt=seen["in_doubt"],
        reason=signals.reason(seen, len(given)) + (LEARNED if learned else ""),
        neighbours=index,
        distances=distance,
        summary=seen,
    )


def _classes(labels: Any) -> tuple[np.ndarray, np.ndarray]:
    """The sorted classes [C], and each label's place among them, int32 [n]; refuses too few."""
    if labels is None:
        raise wrong("labels", "be given, [n], got None")
    given, classes = numbered(labels)
    if len(given) < FEWEST:
        raise wrong("labels", f"have at least {FEWEST} rows, got {len(given)}")
    if len(classes) < 2:
        raise wrong("labels", f"hold two classes or more, got only {classes[0]}")
    if 2 * len(classes) > len(given):
        raise wrong("labels", f"repeat, got {len(classes)} different ones in {len(given)} rows")
    lonely = np.flatnonzero(np.bincount(given) == 1)
    if len(lonely):
        got = f"one of {classes[lonely[0]]!s}"
        raise wrong("labels", f"hold each class twice or more, got {got}: leave it out")
    if note := alike(classes):
        warnings.warn(note, stacklevel=3)  # where the caller is
    return classes, given


def _features(features: Any, told: np.ndarray | None, size: int) -> np.ndarray:
    """Finite features float32 [n, d]."""
    if features is None:
        if told is None:
            raise wrong("features", "be given, or probabilities, got neither")
        features = np.sqrt(told)
    rows = _numbers("features", features, size)
    peaks = np.abs(rows).max(1)
    if not peaks.any() or (peaks.max() < 1e9 and peaks.max() < WILD * np.median(peaks) > 1e-3):
        return rows
    # Powers of 2, by which cosines do not change: squares must not overflow, and a row with a
    # number like 1e38 must not drown the others.
    usual = np.median(peaks[peaks > 0])
    power = np.log2(np.where(peaks > WILD * usual, peaks, usual))
    return np.ldexp(rows, -power.astype(int)[:, None])


def _probabilities(probabilities: Any, classes: np.ndarray, size: int) -> np.ndarray:
    """Rows of sum 1, float64 [n, C], by the headings of a DataFrame where they are classes."""
    rows = _numbers("probabilities", probabilities, size).astype(np.float64)
    heads = [str(head) for head in _heads(probabilities)]
    if heads and (columns := order(heads, [*map(str, classes.tolist())], "probabilities")):
        rows = rows[:, columns]
    if rows.shape[1] != len(classes):
        need = f"have a column for each of the {len(classes)} classes of labels"
        raise wrong("probabilities", f"{need}, got {rows.shape[1]}")
    if rows.min() < 0:
        raise wrong("probabilities", f"be in [0, 1], got {rows.min():g}")
    sums = rows.sum(1)
    off = np.flatnonzero(np.abs(sums - 1) > SLACK)
    if len(off):
        raise wrong("probabilities", f"sum to 1 in each row, got {sums[off[0]]:g} in row {off[0]}")
    return rows / sums[:, None]


def _numbers(name: str, table: Any, size: int) -> np.ndarray:
    """A table of finite numbers as float32 [size, columns]."""
    rows = array(table, name)
    if rows.ndim == 0:  # NumPy wraps what it does not know
        hint = ": call its .toarray()" if hasattr(table, "toarray") else ""
        got = f"{type(table).__name__}{hint}"
        raise wrong(name, f"be an array, a list of rows or a DataFrame, got a {got}")
    if rows.ndim != 2 or 0 in rows.shape:
        raise wrong(name, f"be a table [n, columns], got shape {rows.shape}")
    if len(rows) != size:
        raise wrong(name, f"have a row for each of the {size} labels, got {len(rows)}")
    if rows.dtype == object and getattr(table, "shape", 0) == rows.shape and hasattr(table, "isna"):
        rows = np.where(table.isna(), np.nan, rows)  # pandas' NA is no number
    words = rows.dtype.kind in "cmMSTU" or (
        rows.dtype == object and any(isinstance(value, str | bytes) for value in rows.flat)
    )
    try:
        if words:
            raise TypeError
        with np.errstate(over="ignore"):
            rows = rows.astype(np.float32, copy=False)
    except OverflowError:
        raise wrong(name, "be finite, got whole numbers that no float32 holds") from None
    except (TypeError, ValueError):
        raise wrong(name, f"be real numbers, got {_other(table, rows)}") from None
    bad = np.flatnonzero(~np.isfinite(rows).all(1))
    if len(bad):
        of = f" (the first of {len(bad)})" if len(bad) > 1 else ""
        raise wrong(name, f"be finite, row {bad[0]}{of} has NaN or infinity as float32")
    return rows


def _heads(table: Any) -> list[Any]:
    """The headings of a DataFrame, or of a table of Arrow; none of an array."""
    return [*getattr(table, "column_names", getattr(table, "columns", ()))]


def _other(table: Any, rows: np.ndarray) -> str:
    """What is in a table that is no number, and its column."""
    for name, cells in zip(_heads(table) or range(rows.shape[1]), rows.T):
        for kind, cell in {type(cell): cell for cell in cells[::-1]}.items():  # the first of each
            if np.asarray(cell).dtype.kind not in "biuf":
                what = f"the text {str(cell)!r:.40}" if isinstance(cell, str) else kind.__name__
                return f"{what} in column {name!r}"
    return f"{rows.dtype} with other values"


def _bar(items: Iterable[Item], what: str) -> Iterable[Item]:
    from tqdm import tqdm

    return tqdm(items, desc=what, disable=None)
