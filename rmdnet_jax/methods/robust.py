"""Base methods that are one robust per-example loss."""

from __future__ import annotations

import functools

from rmdnet_jax import losses
from rmdnet_jax.errors import within
from rmdnet_jax.methods.method import Method, from_criterion


def ce(num_examples: int, num_classes: int) -> Method:
    """Cross entropy on the given labels."""
    return from_criterion(losses.cross_entropy)


def gce(num_examples: int, num_classes: int, *, q: float = 0.7) -> Method:
    """Generalized cross entropy `(1 - p^q) / q`, q in (0, 1].

    Source: Zhang & Sabuncu, NeurIPS 2018; q 0.7 is theirs.
    """
    within("q", q, "(0, 1]")
    return from_criterion(functools.partial(losses.generalized_cross_entropy, q=q))


def sce(num_examples: int, num_classes: int, *, alpha: float = 0.1, beta: float = 1.0) -> Method:
    """Symmetric cross entropy `alpha CE + beta RCE`.

    Source: Wang et al., ICCV 2019; (0.1, 1) for CIFAR-10, (6, 0.1) for CIFAR-100.
    """
    within("alpha", alpha, "[0, inf)")
    within("beta", beta, "[0, inf)")
    return from_criterion(functools.partial(losses.symmetric_cross_entropy, alpha=alpha, beta=beta))
