"""Base methods that are one robust per-example loss."""

from __future__ import annotations

import functools

from rmdnet_jax import losses
from rmdnet_jax.errors import within
from rmdnet_jax.methods.method import Method, from_criterion


def ce(num_examples: int, num_classes: int) -> Method:
    """Cross entropy on the given labels: the batch mean of `-log p_given`, p the softmax.

    Args:
      num_examples: not read: it keeps no memory of examples.
      num_classes: not read: the logits [batch, class] tell.
    """
    return from_criterion(losses.cross_entropy)


def gce(num_examples: int, num_classes: int, *, q: float = 0.7) -> Method:
    """Generalized cross entropy: the batch mean of `(1 - p_given^q) / q`.

    Args:
      num_examples: not read, as for `ce`.
      num_classes: not read, likewise.
      q: in (0, 1]: near 0 it is cross entropy, at 1 absolute error, which noise moves least.

    Source: Zhang & Sabuncu, NeurIPS 2018; q 0.7 is theirs.
    """
    within("q", q, "(0, 1]")
    return from_criterion(functools.partial(losses.generalized_cross_entropy, q=q))


def sce(num_examples: int, num_classes: int, *, alpha: float = 0.1, beta: float = 1.0) -> Method:
    """Symmetric cross entropy: the batch mean of `alpha CE + beta RCE`.

    RCE exchanges label and prediction: `-log(1e-4) (1 - p_given)`.

    Args:
      num_examples: not read, as for `ce`.
      num_classes: not read, likewise.
      alpha: the weight of cross entropy, >= 0; 0.1 for CIFAR-10, 6 for CIFAR-100.
      beta: the weight of RCE, >= 0; 1 for CIFAR-10, 0.1 for CIFAR-100.

    Source: Wang et al., ICCV 2019.
    """
    within("alpha", alpha, "[0, inf)")
    within("beta", beta, "[0, inf)")
    return from_criterion(functools.partial(losses.symmetric_cross_entropy, alpha=alpha, beta=beta))
