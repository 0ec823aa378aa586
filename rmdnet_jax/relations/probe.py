"""A linear probe on features, asked about examples that it was not fitted to.

Ridge regression of labels on standardised features, in closed form: what a fold's features add up
to serves every set of labels, one eigendecomposition every penalty. Features are float [n, dim],
targets [n, C] with rows of sum 1, folds int [n].
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

PENALTIES = (0.01, 0.1, 1.0, 10.0)  # in units of a standardised feature's variance
WIDEST = 1024  # dimensions; more are projected at random
FLAT = 1e-6  # deviations below this part of the largest count as none


class Probe(NamedTuple):
    """Standardised features, and what each fold's rows add up to."""

    rows: list[np.ndarray]  # of each fold, its examples
    features: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    sums: np.ndarray  # [folds, dim]
    squares: np.ndarray  # [folds, dim, dim]

    def part(self, fold: int) -> np.ndarray:
        """The standardised features of one fold."""
        return (self.features[self.rows[fold]] - self.mean) * self.scale


def made(features: np.ndarray, fold: np.ndarray) -> Probe:
    """A probe whose folds are `fold`; each of them is asked about by all others."""
    x = np.asarray(features, np.float32)
    if x.shape[1] > WIDEST:
        mix = np.random.default_rng(0).normal(size=(x.shape[1], WIDEST)).astype(np.float32)
        x = x @ (mix / WIDEST**0.5)
    deviation = x.std(0)
    scale = np.where(deviation > FLAT * deviation.max(), 1 / np.maximum(deviation, 1e-30), 0)
    rows = [np.flatnonzero(fold == part) for part in range(fold.max() + 1)]
    probe = Probe(rows, x, x.mean(0), scale.astype(np.float32), np.zeros(0), np.zeros(0))
    sums, squares = [], []
    for part in map(probe.part, range(len(rows))):
        sums.append(part.sum(0, dtype=np.float64))
        squares.append((part.T @ part).astype(np.float64))
    return probe._replace(sums=np.stack(sums), squares=np.stack(squares))


def asked(probe: Probe, fold: int, targets: np.ndarray, penalties: tuple[float, ...]) -> np.ndarray:
    """Scores [penalties, examples of `fold`, C] by a probe fitted to the targets of all others."""
    others = [part for part in range(len(probe.rows)) if part != fold]
    count = sum(len(probe.rows[part]) for part in others)
    mean = probe.sums[others].sum(0) / count
    square = probe.squares[others].sum(0) / count - np.outer(mean, mean)
    value, vector = np.linalg.eigh(square)
    base = np.concatenate([targets[probe.rows[part]] for part in others]).mean(0, dtype=np.float64)
    low = base.astype(np.float32)  # products of many rows are of float32: half the time
    cross = sum(probe.part(part).T @ (targets[probe.rows[part]] - low) for part in others)
    turned = vector.T @ (cross / count)
    shrunk = [vector @ (turned / (np.maximum(value, 0) + p)[:, None]) for p in penalties]
    weight = np.stack(shrunk).astype(np.float32)
    return (probe.part(fold) - mean.astype(np.float32)) @ weight + low


def chosen(scores: np.ndarray, targets: np.ndarray) -> int:
    """The penalty, by number, whose scores [penalties, n, C] are nearest to unseen targets."""
    return int(np.argmin([np.mean((one - targets) ** 2) for one in scores]))
