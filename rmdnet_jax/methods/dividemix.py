"""DivideMix: two networks part the examples for each other, and learn both parts by MixMatch."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rmdnet_jax import evaluation, losses
from rmdnet_jax.errors import all_within, within
from rmdnet_jax.methods.method import Method
from rmdnet_jax.methods.mixup import mixed
from rmdnet_jax.methods.peers import known
from rmdnet_jax.types import Array, Outputs

RAMP = 16.0  # epochs in which the unlabelled weight grows to its full size


def _sharpen(p: Array, temperature: float) -> Array:
    """`p^(1/T)`, each row again of sum 1."""
    return jax.nn.softmax(jnp.log(jnp.maximum(p, 1e-12)) / temperature)


def _mean(value: Array, member: Array) -> Array:
    """Mean of `value` [n] over the rows where `member` [n] is 1; 0 where there is none."""
    return jnp.sum(value * member) / jnp.maximum(jnp.sum(member), 1.0)


def _targets(
    logits: list[Array],
    target: Array,
    clean: Array,
    peer: int,
    threshold: float,
    temperature: float,
) -> tuple[Array, Array]:
    """What a peer is to learn, [batch, class], and which examples count as labelled, [batch].

    Labelled: the given label and the peer's own prediction, weighed by how likely the label is
    right (co-refinement). Unlabelled: the mean prediction of both peers (co-guessing). Predictions
    are means over the views of `logits`, [view, batch, class] of each peer; targets are sharpened.
    """
    p = [jnp.mean(jax.nn.softmax(z), axis=0) for z in logits]
    labelled = clean > threshold
    refined = clean[:, None] * target + (1 - clean[:, None]) * p[peer]
    guessed = (p[0] + p[1]) / 2
    target = _sharpen(jnp.where(labelled[:, None], refined, guessed), temperature)
    return target, labelled.astype(jnp.float32)


def _semi_supervised(
    logits: Array, target: Array, labelled: Array, weight: Array
) -> tuple[Array, Array]:
    """`L_x + weight L_u + L_reg`, and L_u.

    L_x is cross entropy, L_u squared error, L_reg the divergence of the mean prediction from the
    uniform one.
    """
    log_p = jax.nn.log_softmax(logits)
    right = _mean(-jnp.sum(target * log_p, axis=-1), labelled)
    guessed = _mean(jnp.mean((jnp.exp(log_p) - target) ** 2, axis=-1), 1 - labelled)
    mean = jnp.maximum(jnp.mean(jnp.exp(log_p), axis=0), 1e-12)
    spread = -jnp.mean(jnp.log(mean)) - jnp.log(logits.shape[-1])
    return right + weight * guessed + spread, guessed


def _mixmatch(
    outputs, batch, clean, forward, key, alpha: float, weight: Array, settings: dict
) -> tuple[Array, dict[str, Array]]:
    """Both peers' loss on mixed images, and its metrics.

    `clean` [peer, batch] says how likely each given label is right.
    """
    views, num_classes = outputs[0].logits.shape[0], outputs[0].logits.shape[-1]
    target = losses.distribution(batch.label, num_classes)
    logits = [jax.lax.stop_gradient(o.logits) for o in outputs]
    parts = [_targets(logits, target, clean[peer], peer, **settings) for peer in range(2)]
    mixes = [
        mixed(jax.random.fold_in(key, peer), alpha, batch.image, q)
        for peer, (q, _) in enumerate(parts)
    ]
    images, targets = zip(*mixes)

    def learn(o: Outputs, q: Array, labelled: Array) -> tuple[Array, Array]:
        flat, q = o.logits.reshape(-1, num_classes), q.reshape(-1, num_classes)
        return _semi_supervised(flat, q, jnp.tile(labelled, views), weight)

    peers = zip(forward(images), targets, parts)
    values, guessed = zip(*(learn(o, q, labelled) for o, q, (_, labelled) in peers))
    return values[0] + values[1], {
        "labelled": jnp.mean(jnp.stack([part for _, part in parts])),
        "unlabelled_loss": (guessed[0] + guessed[1]) / 2,
    }


def _warm(logits: Array, label: Array, confidence_penalty: float) -> Array:
    """Mean cross entropy, and the penalty times the negative entropy of the predictions."""
    p = jax.nn.softmax(logits)
    confidence = jnp.mean(jnp.sum(p * jnp.log(p + 1e-8), axis=-1))
    fit = losses.expected(losses.cross_entropy, logits, label).mean()
    return fit + confidence_penalty * confidence


def _parted(
    logits: Any, given: np.ndarray, rate: float | None, threshold: float
) -> list[np.ndarray]:
    """How likely each given label is right, for each peer to learn by: what the other says."""
    values = [evaluation.cross_entropy(peer, given) for peer in logits]
    found = [(value, evaluation.small_loss_probability(value)) for value in reversed(values)]
    return [p if rate is None else _counted(value, p, rate, threshold) for value, p in found]


def _counted(
    loss: np.ndarray, probability: np.ndarray, rate: float, threshold: float
) -> np.ndarray:
    """The probabilities [n] of which those of the 1 - `rate` smallest losses pass the threshold.

    Where an example is on the other side of it, it goes no farther than there.
    """
    kept = max(int((1 - rate) * len(loss) + 1e-4), 1)  # as in `peers`
    small = np.argsort(np.argsort(loss, kind="stable")) < kept
    border = np.float32(threshold)
    above = np.nextafter(border, np.float32(1))
    return np.where(small, np.maximum(probability, above), np.minimum(probability, border))


def dividemix(
    num_examples: int,
    num_classes: int,
    *,
    warmup_epochs: int = 10,
    alpha: float = 4.0,
    temperature: float = 0.5,
    threshold: float = 0.5,
    unlabelled_weight: float = 25.0,
    confidence_penalty: float = 0.0,
    rate: str | float = "mixture",
) -> Method:
    """DivideMix: each peer's losses part the examples into likely right and wrong for the other.

    A warm-up by cross entropy comes first.

    Args:
      num_examples: rows of the memory [example, peer]: how likely a label is right, to this peer.
      num_classes: not read.
      warmup_epochs: of cross entropy, at least 2, as losses tell nothing before; the authors take
        10 for CIFAR-10, 30 for CIFAR-100.
      alpha: mixed images are `l x_i + (1 - l) x_j`, `l ~ Beta(alpha, alpha)`, at least a half.
      temperature: of sharpening, > 0.
      threshold: examples above this probability of a right label count as labelled.
      unlabelled_weight: of the squared error on guessed labels; theirs is 0, 25, 50 or 150, the
        more the noisier.
      confidence_penalty: of the warm-up, times the negative entropy of predictions; theirs is 1
        for asymmetric noise, else 0.
      rate: "mixture": two Gaussians on the losses part the examples, as theirs. A number r in
        [0, 1): the 1 - r of smallest losses are labelled. There Gaussians say how likely a label
        is right, at least the threshold. "graph": see `co_teaching`.

    Source: Li et al., ICLR 2020, Algorithm 1. Their steps take as many labelled as unlabelled
    images, one peer after the other. Here a batch is drawn from all, and both peers learn.
    """
    told = known(rate, "mixture")
    within("warmup_epochs", warmup_epochs, "[2, inf)", whole=True)
    within("threshold", threshold, "[0, 1]" if told is None else "[0, 1)")
    all_within("(0, inf)", alpha=alpha, temperature=temperature)
    within("unlabelled_weight", unlabelled_weight, "[0, inf)")
    within("confidence_penalty", confidence_penalty, "[0, inf)")
    settings = {"temperature": temperature, "threshold": threshold}
    about = {} if told is None else {"noise_rate": jnp.float32(told)}

    def loss(outputs, batch, memory, forward, key, epoch):
        clean = memory[batch.index].T
        weight = unlabelled_weight * jnp.clip((epoch - warmup_epochs) / RAMP, 0.0, 1.0)
        value, metrics = _mixmatch(outputs, batch, clean, forward, key, alpha, weight, settings)
        first = sum(_warm(o.logits[0], batch.label, confidence_penalty) for o in outputs)
        return jnp.where(epoch < warmup_epochs, first, value), memory, metrics | about

    def refresh(outputs, given, index, memory, epoch):
        if epoch < warmup_epochs:
            return memory
        memory = np.array(memory)
        memory[index] = np.stack(_parted(outputs().logits, given, told, threshold), axis=1)
        return memory

    return Method(2, 2, lambda: jnp.ones((num_examples, 2), jnp.float32), loss, refresh)
