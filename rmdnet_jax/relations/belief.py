"""What an example's class is, from several witnesses that have not seen its label.

Each witness s gives log-odds `f_s` [n, C]. They are pooled, and seen through the noise T:

    q_i = softmax(sum_s a_s f_si + b),    P(given = j | i) = sum_y q_iy T_yj.

Weights a >= 0, bias b and T are those under which the given labels are likeliest, by expectation
maximisation. `posterior_iy ~ q_iy T_y,given_i` is then found without a clean label. Three
kinds of noise: `none` (T = I), `even` (one rate, any class) and `by_class` (any T).

Source: ours; T as in Natarajan et al., NIPS 2013 and Patrini et al., CVPR 2017.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

KINDS = ("none", "even", "by_class")
STEPS = 60
START = 0.3  # rate of even noise that the search begins with
LEAST = 1e-6  # of a rate
LEAN = 3.0  # labels a class by which noise by class leans to even noise


class Noise(NamedTuple):
    """How witnesses are pooled, and the noise that is seen through them."""

    weight: np.ndarray  # [witnesses], >= 0
    bias: np.ndarray  # [C]
    transition: np.ndarray  # [C, C], rows of sum 1


def centred(witness: np.ndarray) -> np.ndarray:
    """Log-odds of each class against the mean of all."""
    return witness - witness.mean(-1, keepdims=True)


def pooled(witnesses: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """`softmax(sum_s a_s f_s + b)`, [n, C]; witnesses [s, n, C]."""
    logits = np.zeros(witnesses.shape[1:], witnesses.dtype) + bias.astype(witnesses.dtype)
    for part, odds in zip(weight, witnesses):  # faster than a product with so few rows
        logits += float(part) * odds
    q = np.exp(logits - logits.max(1, keepdims=True))
    return q / q.sum(1, keepdims=True)


def posterior(prior: np.ndarray, likelihood: np.ndarray) -> np.ndarray:
    """Bayes' rule, [n, C]: `prior * likelihood`, rows of sum 1."""
    joint = prior * likelihood
    joint /= joint.sum(1, keepdims=True)
    return joint


def fit(
    witnesses: np.ndarray,
    given: np.ndarray,
    kind: str,
    start: np.ndarray | None = None,
    lean: float = LEAN,
    steps: int = STEPS,
) -> Noise:
    """The likeliest `Noise` of one of `KINDS`; the search for `by_class` begins at `start`."""
    count, size, classes = witnesses.shape
    share = (np.bincount(given, minlength=classes) + 1) / (size + classes)
    noise = even(LEAST if kind == "none" else START, share)
    noise = start if kind == "by_class" and start is not None else noise
    weight, bias = np.ones(count), np.zeros(classes)
    for _ in range(steps):
        q = pooled(witnesses, weight, bias)
        belief = posterior(q, noise.astype(q.dtype)[:, given].T)
        if kind != "none":
            noise = _noise(belief, given, share, kind, lean)
        weight = _weight(witnesses, q, belief - q, weight)
        bias = _bias(pooled(witnesses, weight, bias), belief, bias)
    return Noise(weight, bias, noise)


def even(rate: float, share: np.ndarray) -> np.ndarray:
    """A label is redrawn with this probability, from all classes by their share."""
    return (1 - rate) * np.eye(len(share)) + rate * share


def _noise(belief, given, share, kind: str, lean: float) -> np.ndarray:
    """The likeliest noise for what is believed."""
    count = np.stack([np.bincount(given, row, minlength=len(share)) for row in belief.T])
    wrong = (count.sum() - np.trace(count)) / (len(given) * (1 - np.sum(share**2)))
    flat = even(float(np.clip(wrong, LEAST, 0.98)), share)
    if kind == "even":
        return flat
    count = count + lean * flat
    return count / count.sum(1, keepdims=True)


def _weight(witnesses, q, gap, weight) -> np.ndarray:
    """One step of Newton's method for the weights, kept in bounds."""
    slope = witnesses.reshape(len(weight), -1) @ gap.ravel()
    flat = (witnesses * np.sqrt(q)).reshape(len(weight), -1)
    mean = (witnesses * q).sum(2)
    curve = (flat @ flat.T - mean @ mean.T).astype(np.float64)
    step = np.linalg.solve(curve + np.eye(len(weight)), slope)
    return np.maximum(weight + np.clip(step, -2, 2), 0)


def _bias(q, belief, bias) -> np.ndarray:
    """One damped step for the bias."""
    curve = np.diag(q.sum(0)) - q.T @ q + (1 + 0.01 * len(q) / len(bias)) * np.eye(len(bias))
    return bias + np.clip(np.linalg.solve(curve, (belief - q).sum(0) - bias), -1, 1)


def seen(witnesses, given, noise: Noise) -> np.ndarray:
    """Log-likelihood [n] of each given label."""
    q = pooled(witnesses, noise.weight, noise.bias)
    return np.log(np.sum(q * noise.transition[:, given].T, axis=1))


def unseen(witnesses, given, fold, kind: str, start, lean: float, steps: int) -> np.ndarray:
    """Log-likelihood [n] of given labels under noise that is fitted without their fold."""
    found = np.empty(len(given))
    for part in np.unique(fold):
        own = fold == part
        noise = fit(witnesses[:, ~own], given[~own], kind, start, lean, steps)
        found[own] = seen(witnesses[:, own], given[own], noise)
    return found
