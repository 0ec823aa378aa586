"""Optimisers with their schedule as one optax chain.

A factory is `f(steps_per_epoch, epochs, *, hyper-parameters) -> Optimizer`. Learning rates are per
step as in PyTorch's SGD: weight decay is added to the gradient before momentum. Lengths are epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from rmdnet_jax.errors import one_of, within, wrong
from rmdnet_jax.types import PyTree

SCHEDULES = ("constant", "cosine", "step")
DECAYS = ("all", "kernels")


class Optimizer(NamedTuple):
    """An optax transformation and the learning rate that it follows."""

    transform: optax.GradientTransformation
    learning_rate: Callable[[int], Any]  # step -> its rate


def _rates(
    steps_per_epoch: int,
    epochs: int,
    kind: str,
    rate: float,
    warmup: float,
    milestones: tuple,
    factor: float,
) -> optax.Schedule:
    """Linear warm-up from 0, then constant, cosine (to 0) or step (`factor` at each milestone)."""
    total, rise = epochs * steps_per_epoch, round(warmup * steps_per_epoch)
    if kind == "constant":
        body = optax.constant_schedule(rate)
    elif kind == "cosine":
        body = optax.cosine_decay_schedule(rate, max(total - rise, 1))
    else:
        drops = {round(m * steps_per_epoch) - rise: factor for m in milestones}
        body = optax.piecewise_constant_schedule(rate, drops)
    if not rise:
        return body
    return optax.join_schedules([optax.linear_schedule(0.0, rate, rise), body], [rise])


def _decay(weight_decay: float, kind: str) -> optax.GradientTransformation:
    """Weight decay on `all` parameters, or on `kernels` only, which have two axes or more."""
    within("weight_decay", weight_decay, "[0, inf)")
    one_of("decay", kind, DECAYS)
    mask = None if kind == "all" else lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    return optax.add_decayed_weights(weight_decay, mask)


def _scale(rates: optax.Schedule, fixed: str, rate: float) -> optax.GradientTransformation:
    """Minus the learning rate; an entry `fixed` of the (or each peer's) parameters keeps `rate`."""
    if not fixed:
        return optax.scale_by_learning_rate(rates)

    def labels(params: PyTree) -> PyTree:
        if isinstance(params, tuple):
            return tuple(labels(peer) for peer in params)
        if fixed not in params:
            raise wrong("fixed", f"name one of {', '.join(params)}, got {fixed!r}")
        return {name: "fixed" if name == fixed else "scheduled" for name in params}

    scales: dict = {
        "fixed": optax.scale_by_learning_rate(rate),
        "scheduled": optax.scale_by_learning_rate(rates),
    }
    return optax.multi_transform(scales, labels)


def _chain(
    steps_per_epoch: int,
    epochs: int,
    *core: optax.GradientTransformation,
    learning_rate: float,
    schedule: str,
    warmup_epochs: float,
    milestones: tuple,
    factor: float,
    clip_norm: float,
    fixed: str,
) -> Optimizer:
    """Clipping, the optimiser's own transformations, then the learning rate; see `sgd`."""
    within("learning_rate", learning_rate, "(0, inf)")
    within("factor", factor, "(0, inf)")
    within("warmup_epochs", warmup_epochs, f"[0, {epochs}]")
    within("clip_norm", clip_norm, "[0, inf)")
    one_of("schedule", schedule, SCHEDULES)
    for milestone in milestones:
        within("milestones", milestone, "[0, inf)")
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    rates = _rates(
        steps_per_epoch, epochs, schedule, learning_rate, warmup_epochs, milestones, factor
    )
    return Optimizer(optax.chain(*clip, *core, _scale(rates, fixed, learning_rate)), rates)


def sgd(
    steps_per_epoch: int,
    epochs: int,
    *,
    learning_rate: float = 0.05,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 5e-4,
    decay: str = "all",
    schedule: str = "cosine",
    warmup_epochs: float = 0.0,
    milestones: tuple = (),
    factor: float = 0.1,
    clip_norm: float = 0.0,
    fixed: str = "",
) -> Optimizer:
    """SGD with momentum.

    Args:
      steps_per_epoch: batches in an epoch.
      epochs: length of the stage.
      learning_rate: the highest rate.
      momentum: in [0, 1).
      nesterov: whether momentum looks ahead.
      weight_decay: added to the gradient times the parameter.
      decay: which parameters decay: `all` or `kernels`.
      schedule: `constant`, `cosine` or `step`.
      warmup_epochs: linear rise from 0.
      milestones: epochs at which `step` multiplies the rate by `factor`.
      factor: see `milestones`.
      clip_norm: largest global gradient norm; 0: no clipping.
      fixed: an entry of the parameters whose rate stays constant (SimSiam: `predictor`).

    Example:
      >>> from rmdnet_jax.training.optimizer import sgd
      >>> rate = sgd(100, 10, learning_rate=0.1, warmup_epochs=1).learning_rate
      >>> [round(float(rate(step)), 3) for step in (0, 50, 100, 550, 1000)]
      [0.0, 0.05, 0.1, 0.05, 0.0]
    """
    within("momentum", momentum, "[0, 1)")
    momentum_term = [optax.trace(momentum, nesterov)] if momentum else []
    return _chain(
        steps_per_epoch, epochs, _decay(weight_decay, decay), *momentum_term,
        learning_rate=learning_rate, schedule=schedule, warmup_epochs=warmup_epochs,
        milestones=milestones, factor=factor, clip_norm=clip_norm, fixed=fixed,
    )  # fmt: skip


def adamw(
    steps_per_epoch: int,
    epochs: int,
    *,
    learning_rate: float = 1e-3,
    b1: float = 0.9,
    b2: float = 0.999,
    weight_decay: float = 1e-2,
    decay: str = "kernels",
    schedule: str = "cosine",
    warmup_epochs: float = 0.0,
    milestones: tuple = (),
    factor: float = 0.1,
    clip_norm: float = 0.0,
    fixed: str = "",
) -> Optimizer:
    """Adam with decoupled weight decay; b1 and b2 in [0, 1), the rest as in `sgd`."""
    within("b1", b1, "[0, 1)")
    within("b2", b2, "[0, 1)")
    return _chain(
        steps_per_epoch, epochs, optax.scale_by_adam(b1, b2), _decay(weight_decay, decay),
        learning_rate=learning_rate, schedule=schedule, warmup_epochs=warmup_epochs,
        milestones=milestones, factor=factor, clip_norm=clip_norm, fixed=fixed,
    )  # fmt: skip


OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {"sgd": sgd, "adamw": adamw}
