"""Arrays in, numbers out: accuracies and the rest are fractions in [0, 1], losses are nats."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rmdnet_jax.errors import within, wrong
from rmdnet_jax.relations.neighbours import largest
from rmdnet_jax.relations.rows import unit
from rmdnet_jax.types import Array

BLOCK = 1000  # queries whose similarities to the whole bank are in memory at a time


def accuracy(predicted: np.ndarray, label: np.ndarray) -> float:
    """Share of equal entries; [n] each."""
    return float(np.mean(np.asarray(predicted) == np.asarray(label)))


def _finite(**arrays: np.ndarray) -> None:
    """Raises `UserError` for an array, by its name, that is not finite."""
    for argument, values in arrays.items():
        if not np.isfinite(values).all():
            raise wrong(argument, "be finite, got NaN or infinity")


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Logarithms of the softmax, float64 [n, class]; refuses what is not finite."""
    _finite(logits=logits)
    shifted = np.asarray(logits, np.float64) - np.max(logits, axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def cross_entropy(logits: np.ndarray, label: np.ndarray) -> np.ndarray:
    """`-log softmax(logits_i)[label_i]`, [n]; logits [n, class]."""
    return -log_softmax(logits)[np.arange(len(label)), label]


def negative_log_likelihood(logits: np.ndarray, label: np.ndarray) -> float:
    """Mean of `cross_entropy`."""
    return float(cross_entropy(logits, label).mean())


def small_loss_probability(loss: np.ndarray) -> np.ndarray:
    """The probability [n] that each loss is a small one, by a mixture of two Gaussians.

    Small is the component with the smaller mean. Losses are scaled to [0, 1] first. Where all are
    equal there is one component: 1.

    Source: Li et al., ICLR 2020 (DivideMix), section 3.1.
    """
    from sklearn.mixture import GaussianMixture

    _finite(loss=loss)
    low, high = float(np.min(loss)), float(np.max(loss))
    if not high > low:
        return np.ones(len(loss))
    scaled = ((np.asarray(loss, np.float64) - low) / (high - low))[:, None]
    mixture = GaussianMixture(2, max_iter=100, tol=1e-3, reg_covar=5e-4, random_state=0).fit(scaled)
    return mixture.predict_proba(scaled)[:, np.argmin(np.asarray(mixture.means_))]


def expected_calibration_error(logits: np.ndarray, label: np.ndarray, bins: int = 15) -> float:
    """`sum_b n_b / n |accuracy_b - confidence_b|` over `bins` equal bins of confidence.

    Source: Guo et al., ICML 2017.
    """
    within("bins", bins, "[1, inf)", whole=True)
    probability = np.exp(log_softmax(logits))
    confidence, right = probability.max(-1), probability.argmax(-1) == label
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gap = np.bincount(place, right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(label))


@functools.partial(jax.jit, static_argnames=("num_classes", "k", "temperature"))
def _vote(
    bank: Array, label: Array, query: Array, num_classes: int, k: int, temperature: float
) -> Array:
    similarity, near = largest(jnp.matmul(query, bank.T, precision=jax.lax.Precision.HIGHEST), k)
    weight = jnp.exp((similarity - 1.0) / temperature)
    votes = jax.nn.one_hot(label[near], num_classes) * weight[..., None]
    return jnp.argmax(jnp.sum(votes, axis=1), axis=-1)


def knn(
    bank: np.ndarray,
    label: np.ndarray,
    query: np.ndarray,
    num_classes: int,
    k: int = 200,
    temperature: float = 0.1,
) -> np.ndarray:
    """Weighted k-nearest-neighbour prediction: neighbours vote `exp(cos / temperature)` each.

    Args:
      bank: float [n, dim] features with labels.
      label: int [n].
      query: float [m, dim] features to classify.
      num_classes: C.
      k: neighbours >= 1; all n where it is more.
      temperature: of the votes, > 0.

    Returns:
      int [m].

    Raises:
      UserError: for wrong lengths, dimensions or values.

    Source: Wu et al., CVPR 2018, the protocol of SimSiam's kNN monitor.
    """
    within("k", k, "[1, inf)", whole=True)
    within("temperature", temperature, "(0, inf)")
    if len(label) != len(bank):
        raise wrong("label", f"have the bank's length {len(bank)}, got {len(label)}")
    if query.shape[-1] != bank.shape[-1]:
        raise wrong("query", f"have the bank's dimension {bank.shape[-1]}, got {query.shape[-1]}")
    _finite(bank=bank, query=query)
    rows, labels, k = unit(jnp.asarray(bank)), jnp.asarray(label), min(k, len(bank))
    parts = (unit(jnp.asarray(query[i : i + BLOCK])) for i in range(0, len(query), BLOCK))
    votes = [_vote(rows, labels, part, num_classes, k, temperature) for part in parts]
    return np.concatenate([np.asarray(vote) for vote in votes])


def linear_probe(bank: np.ndarray, label: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Prediction [m] of a logistic regression on standardised features; bank [n, dim].

    Raises:
      UserError: for labels of one class, or values that are not finite.
    """
    _finite(bank=bank, query=query)
    if len(there := np.unique(label)) < 2:
        raise wrong("label", f"be of two classes or more, got {there.tolist()} alone")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return probe.fit(bank, label).predict(query)


def columns(records: list[dict]) -> dict[str, float | None]:
    """The four test accuracies of a stage's epochs, never to be compared across columns.

    `last`: of the last epoch. `last10`: mean of the last ten. `best`: highest of all, which peeks
    at the test set. `noisy_validation`: at the epoch of the highest accuracy on held-out noisy
    labels. None where there is no such number.
    """
    test = [r["test_accuracy"] for r in records if "test_accuracy" in r]
    if not test:
        return dict.fromkeys(("last", "last10", "best", "noisy_validation"))
    chosen = max(
        (r for r in records if "validation_accuracy" in r),
        key=lambda r: r["validation_accuracy"],
        default={},
    )
    return {
        "last": test[-1],
        "last10": float(np.mean(test[-10:])),
        "best": max(test),
        "noisy_validation": chosen.get("test_accuracy"),
    }
