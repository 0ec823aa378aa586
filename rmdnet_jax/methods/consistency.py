"""Consistency: what the averaged network is sure of, seen mildly, teaches the strong view."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from rmdnet_jax.errors import within, wrong
from rmdnet_jax.methods.method import Method
from rmdnet_jax.types import Array

MOMENTUM = 0.99  # of the classes' shares: a mean over the last hundred steps


def consistency(
    method: Method,
    num_classes: int,
    *,
    weight: float = 0.0,
    threshold: float = 0.8,
    temperature: float = 0.5,
    balance: float = 1.0,
) -> Method:
    """A method with one more view, strongly augmented: `L + weight mean_i [max p_i > t] CE_i`.

    p_i is what the averaged network says of view 0, and CE_i the cross entropy of the strong view
    with `p_i^(1 / temperature)`, scaled to sum 1. This term reads no label, so it also helps where
    one is wrong. A class that is rarely predicted has a lower threshold:
    `t = threshold (s_c / max s)^balance`, s the running mean of p, c the class of highest p_i.

    Args:
      method: of one peer and one view, whose labels or targets stay as they are.
      num_classes: C.
      weight: >= 0; 0 is the method itself.
      threshold: in [0, 1).
      temperature: > 0; below 1 it sharpens.
      balance: in [0, 1]; 0: one threshold for all classes.

    Source: FixMatch (Sohn et al., NeurIPS 2020) with an averaged teacher (Tarvainen & Valpola,
    NeurIPS 2017), thresholds by class as in FreeMatch (Wang et al., ICLR 2023). Theirs move as a
    whole, too; here the highest is fixed.
    """
    within("weight", weight, "[0, inf)")
    within("threshold", threshold, "[0, 1)")
    within("temperature", temperature, "(0, inf)")
    within("balance", balance, "[0, 1]")
    if not weight:
        return method
    if method.peers > 1 or method.views > 1 or method.refresh:
        plain = "methods of one network (ce, gce, sce, elr)"
        raise wrong("weight", f"be 0 but for {plain}, got {weight}")

    def loss(outputs, batch, memory, forward, key, epoch):
        own, share = memory
        mild = [jax.tree.map(lambda x: x[:1], o) for o in outputs]
        alone = batch._replace(image=batch.image[:1])
        value, own, metrics = method.loss(tuple(mild), alone, own, forward, key, epoch)
        p = jax.nn.softmax(batch.averaged)
        share = MOMENTUM * share + (1 - MOMENTUM) * jnp.mean(p, axis=0, keepdims=True)
        sure = jnp.max(p, axis=-1) > threshold * _eased(p, share, balance)
        target = jax.nn.softmax(batch.averaged / temperature)
        fit = -jnp.sum(target * jax.nn.log_softmax(outputs[0].logits[1]), axis=-1)
        term = jnp.mean(jnp.where(sure, fit, 0.0))
        told: dict[str, Any] = {**metrics, "consistency": term, "sure": jnp.mean(sure)}
        return value + weight * term, (own, share), told

    def init():
        return method.init(), jnp.full((1, num_classes), 1 / num_classes)

    return method._replace(views=2, strong=1, init=init, loss=loss)


def _eased(p: Array, share: Array, balance: float) -> Array:
    """By what each example's threshold is lowered [batch], for the class that p says."""
    return ((share / jnp.max(share)) ** balance)[0, jnp.argmax(p, axis=-1)]
