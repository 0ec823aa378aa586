"""What tells an example's class without having seen its label: log-odds [n, C] by name.

| name | who |
|---|---|
| `vote` | its neighbours on the graph |
| `probe` | a linear probe fitted to the given labels of the other folds |
| `corrected_probe` | one fitted to labels that were corrected without the example's fold |
| `corrected_vote` | its neighbours after their labels were corrected without its fold |
| `model` | probabilities of somebody's model, if there are any |
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from rmdnet_jax.relations import probe, votes
from rmdnet_jax.relations.belief import centred
from rmdnet_jax.relations.graph import Graph, product
from rmdnet_jax.relations.neighbours import Watch
from rmdnet_jax.relations.transition import transition

OUTER = votes.FOLDS // 2  # pairs of folds that labels are corrected without
MANY = 200_000  # examples from which labels are corrected without one of these folds alone
SUREST = 64  # votes a class that the noise is read off, at most half of them
LEAST = {"vote": 1e-6, "corrected_vote": 1e-4, "model": 1e-4}  # of a share, before its logarithm


class Witnesses(NamedTuple):
    """What each witness says, and what was found on the way."""

    odds: dict[str, np.ndarray]  # float32 [n, C], each row of mean 0
    shares: dict[str, np.ndarray]  # float32 [n, C], the same as rows in [0, 1]
    judged: np.ndarray  # bool [n], whether labels were corrected without this example
    transition: np.ndarray  # [C, C], a first guess of the noise
    alone: np.ndarray  # bool [n], whether an example has no neighbour of any weight

    def of(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """The log-odds of some examples."""
        return {name: odds[rows] for name, odds in self.odds.items()}


def witnesses(
    graph: Graph,
    alpha: float,
    features: np.ndarray,
    given: np.ndarray,
    num_classes: int,
    fold: np.ndarray,
    model: np.ndarray | None,
    clear: bool,
    watch: Watch,
) -> Witnesses:
    """All witnesses; `fold` int [n] in [0, 10), `model` its probabilities [n, C] or None.

    Where the graph is `clear`, noise is read off a third of all votes, hard ones among them.
    """
    surest = max(SUREST, len(given) // (3 * num_classes)) if clear else SUREST
    parts = votes.by_fold(graph, alpha, given, fold, num_classes)
    share = np.bincount(given, minlength=num_classes) / len(given)
    shares = {"vote": votes.heard(parts, fold, share)}
    taught = probe.made(features, fold // 2)
    label = np.eye(num_classes, dtype=np.float32)[given]
    shares["probe"], penalty = _learned(taught, label)
    shares |= _corrected(graph, alpha, parts, given, fold, taught, penalty, surest, watch)
    if model is not None:
        shares["model"] = np.asarray(model, np.float32)
    noise = transition(shares["vote"], given, fold, surest)
    return Witnesses(
        {name: _odds(name, values) for name, values in shares.items()},
        {name: np.clip(values, 0, 1) for name, values in shares.items()},
        np.ones(len(given), bool) if "corrected_vote" in shares else fold < 2,
        0.9 * noise + 0.1 * np.eye(num_classes),
        np.asarray(product(graph, jnp.ones((len(given), 1))))[:, 0] == 0,
    )


def _odds(name: str, values: np.ndarray) -> np.ndarray:
    """A probe's scores as they are, else logarithms; each row less its mean."""
    return centred(np.log(np.maximum(values, LEAST[name])) if name in LEAST else values)


def _learned(taught: probe.Probe, label: np.ndarray) -> tuple[np.ndarray, float]:
    """Scores [n, C] of a probe on given labels, and its penalty."""
    found = np.empty((len(probe.PENALTIES), *label.shape), np.float32)
    for part, rows in enumerate(taught.rows):
        found[:, rows] = probe.asked(taught, part, label, probe.PENALTIES)
    best = probe.chosen(found, label)
    return found[best], probe.PENALTIES[best]


def _corrected(
    graph: Graph,
    alpha: float,
    parts,
    given,
    fold,
    taught: probe.Probe,
    penalty: float,
    surest,
    watch,
) -> dict[str, np.ndarray]:
    """What probe and graph say once labels are corrected without the fold that is asked about.

    Of very many examples labels are corrected once, without the first of these folds. All are asked
    about by a probe that was fitted without them; what is proved, is proved on that fold.
    """
    scores, last = np.empty(parts.shape[1:], np.float32), np.empty(parts.shape[1:], np.float32)
    many = len(given) > MANY
    for outer in watch(range(1 if many else OUTER), "corrections"):
        target, vote = votes.corrected(
            graph, alpha, parts, given, fold, (2 * outer, 2 * outer + 1), surest
        )
        last[taught.rows[outer]] = vote[taught.rows[outer]]
        for part in range(OUTER) if many else (outer,):
            scores[taught.rows[part]] = probe.asked(taught, part, target, (penalty,))[0]
    found = {"corrected_probe": scores}
    return found if many else {**found, "corrected_vote": last}
