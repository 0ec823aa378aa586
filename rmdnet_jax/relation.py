"""Relations between the examples of one batch, and the losses that match a student's to a teacher's.

An *edge* loss compares pairwise similarities, a *node* loss the examples themselves. Each entry of `EDGES` and `NODES` is a function
`(student [batch, dim], teacher [batch, dim], *, hyper-parameters) -> scalar` in its plain, readable form: the specification.
The teacher is a constant: callers pass it behind a stop-gradient. Similarities are cosines in [-1, 1].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rmdnet_jax import distillation
from rmdnet_jax.distillation import MASKED
from rmdnet_jax.types import Array, UserError

TINY = 1e-12  # smallest squared norm: below it a row counts as zero, and its gradient stays finite


def unit(features: Array) -> Array:
    """Rows scaled to unit norm; a zero row stays zero. [batch, dim] -> [batch, dim]."""
    square = jnp.sum(features * features, axis=-1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(square, TINY))


def _check(features: Array, temperature: float) -> None:
    if features.ndim != 2 or features.shape[0] < 2:
        raise UserError(f"relation features must be [batch >= 2, dim], got shape {features.shape}")
    if not temperature > 0:
        raise UserError(f"temperature must be > 0, got {temperature}")


def _log_matrix(features: Array, temperature: float) -> Array:
    """Logarithm of `matrix`, with `MASKED` or below on the diagonal."""
    _check(features, temperature)
    rows = unit(features)
    # Full precision: a cosine error of bfloat16 size (TPU's default), divided by a temperature of 0.04, would change relations visibly.
    logits = jnp.matmul(rows, rows.T, precision=jax.lax.Precision.HIGHEST) / temperature
    logits = jnp.where(jnp.eye(len(rows), dtype=bool), MASKED, logits)
    return jax.nn.log_softmax(logits, axis=-1)


def matrix(features: Array, temperature: float) -> Array:
    """Relation matrix `R_ij = softmax_{j != i}(cos(z_i, z_j) / temperature)`.

    Args:
      features: [batch, dim], batch >= 2.
      temperature: > 0; the smaller, the more a row keeps to its nearest neighbours.

    Returns:
      [batch, batch]; rows sum to 1, the diagonal is 0.
    """
    return jnp.exp(_log_matrix(features, temperature))


def softmax_kl(
    student: Array, teacher: Array, *, teacher_temperature: float = 0.04, student_temperature: float = 0.1, block: int = 0
) -> Array:
    """Edge loss `mean_i KL(R(teacher)_i || R(student)_i)` of the two relation matrices.

    Zero where both relations agree; unchanged by scaling or rotating the student. The teacher's lower temperature sharpens the target.
    `block` > 0 computes the same that many rows at a time, without a [batch, batch] matrix: for batches of thousands.
    Source: temperatures and form of ReSSL (Zheng et al., NeurIPS 2021), here within one batch instead of a memory bank.
    """
    if block < 0:
        raise UserError(f"block must be >= 0, got {block}")
    if block:
        for features, temperature in ((student, student_temperature), (teacher, teacher_temperature)):
            _check(features, temperature)
        return distillation.kl(unit(student), unit(teacher), (student_temperature, teacher_temperature), block)
    target = _log_matrix(teacher, teacher_temperature)
    guess = _log_matrix(student, student_temperature)
    return jnp.mean(jnp.sum(jnp.exp(target) * (target - guess), axis=-1))


def cosine(student: Array, teacher: Array) -> Array:
    """Node loss `mean_i 1 - cos(s_i, t_i)`, in [0, 2]; both sides need the same dimension."""
    if student.shape != teacher.shape:
        raise UserError(f"node cosine needs student and teacher features of one shape, got {student.shape} and {teacher.shape}")
    return jnp.mean(1.0 - jnp.sum(unit(student) * unit(teacher), axis=-1))


EDGES = {"softmax_kl": softmax_kl}
NODES = {"cosine": cosine}
