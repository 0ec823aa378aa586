"""Optimisers with their schedule as one optax chain. A factory is `f(steps_per_epoch, epochs, *, hyper-parameters) -> Optimizer`.

Learning rates are per step as in PyTorch's SGD: weight decay is added to the gradient before momentum. Lengths are epochs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import optax

from rmdnet_jax.errors import UserError
from rmdnet_jax.types import PyTree


class Optimizer(NamedTuple):
    """An optax transformation and the learning rate that it follows."""

    transform: optax.GradientTransformation
    learning_rate: Callable  # step -> learning rate


def _rates(
    steps_per_epoch: int,
    epochs: int,
    kind: str,
    rate: float,
    warmup: float,
    milestones: tuple,
    factor: float,
) -> Callable:
    """Linear warm-up from 0 over `warmup` epochs, then `kind`: constant, cosine (to 0) or step (`factor` at each milestone epoch)."""
    total, rise = epochs * steps_per_epoch, round(warmup * steps_per_epoch)
    if kind == "constant":
        body = optax.constant_schedule(rate)
    elif kind == "cosine":
        body = optax.cosine_decay_schedule(rate, max(total - rise, 1))
    elif kind == "step":
        body = optax.piecewise_constant_schedule(
            rate, {round(m * steps_per_epoch) - rise: factor for m in milestones}
        )
    else:
        raise UserError(f"optimizer.schedule must be constant, cosine or step, got {kind!r}")
    return (
        optax.join_schedules([optax.linear_schedule(0.0, rate, rise), body], [rise])
        if rise
        else body
    )


def _decay(weight_decay: float, kind: str) -> optax.GradientTransformation:
    """Weight decay on `all` parameters, or on `kernels` only (neither biases nor batch-norm scales)."""
    if not weight_decay >= 0:
        raise UserError(f"optimizer.weight_decay must be >= 0, got {weight_decay}")
    if kind not in ("all", "kernels"):
        raise UserError(f"optimizer.decay must be all or kernels, got {kind!r}")
    mask = None if kind == "all" else lambda params: jax.tree.map(lambda p: p.ndim > 1, params)
    return optax.add_decayed_weights(weight_decay, mask)


def _scale(rates: Callable, fixed: str, rate: float) -> optax.GradientTransformation:
    """Minus the learning rate, held at its first value for the entry of the parameter tree, or of each peer's, named `fixed`."""
    if not fixed:
        return optax.scale_by_learning_rate(rates)

    def labels(params: PyTree) -> PyTree:
        if isinstance(params, tuple):
            return tuple(labels(peer) for peer in params)
        if fixed not in params:
            raise UserError(f"optimizer.fixed must name one of {', '.join(params)}, got {fixed!r}")
        return {name: "fixed" if name == fixed else "scheduled" for name in params}

    scales: dict = {
        "fixed": optax.scale_by_learning_rate(rate),
        "scheduled": optax.scale_by_learning_rate(rates),
    }
    return optax.multi_transform(scales, labels)


def _chain(
    steps_per_epoch: int,
    epochs: int,
    *core,
    learning_rate,
    schedule,
    warmup_epochs,
    milestones,
    factor,
    clip_norm,
    fixed,
) -> Optimizer:
    """Clipping, the optimiser's own transformations, then the learning rate; see `sgd` for the arguments."""
    if not learning_rate > 0:
        raise UserError(f"optimizer.learning_rate must be > 0, got {learning_rate}")
    if not factor > 0:
        raise UserError(f"optimizer.factor must be > 0, got {factor}")
    if not 0 <= warmup_epochs <= epochs:
        raise UserError(
            f"optimizer.warmup_epochs must be in [0, {epochs}] (the stage's epochs), got {warmup_epochs}"
        )
    if not clip_norm >= 0:
        raise UserError(f"optimizer.clip_norm must be >= 0, got {clip_norm}")
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm else []
    rates = _rates(
        steps_per_epoch, epochs, schedule, learning_rate, warmup_epochs, milestones, factor
    )
    return Optimizer(optax.chain(*clip, *core, _scale(rates, fixed, learning_rate)), rates)


def _check_decay_rate(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise UserError(f"optimizer.{name} must be in [0, 1), got {value}")


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
    """
    _check_decay_rate("momentum", momentum)
    momentum_term = [optax.trace(momentum, nesterov)] if momentum else []
    return _chain(
        steps_per_epoch, epochs, _decay(weight_decay, decay), *momentum_term, learning_rate=learning_rate, schedule=schedule,
        warmup_epochs=warmup_epochs, milestones=milestones, factor=factor, clip_norm=clip_norm, fixed=fixed,
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
    """Adam with decoupled weight decay; b1 and b2 in [0, 1), the arguments it shares with `sgd` mean the same."""
    _check_decay_rate("b1", b1)
    _check_decay_rate("b2", b2)
    return _chain(
        steps_per_epoch, epochs, optax.scale_by_adam(b1, b2), _decay(weight_decay, decay), learning_rate=learning_rate, schedule=schedule,
        warmup_epochs=warmup_epochs, milestones=milestones, factor=factor, clip_norm=clip_norm, fixed=fixed,
    )  # fmt: skip


OPTIMIZERS = {"sgd": sgd, "adamw": adamw}
