"""The relation loss `softmax_kl` a block of rows at a time, with its gradient by hand.

It is exact, without a [batch, batch] matrix. With cosine logits `S = s s' / tau_s` and
`T = t t' / tau_t` (diagonals left out) and row-wise log-sum-exps,

    kl_i = sum_j Rt_ij (T_ij - S_ij) - lse(T_i) + lse(S_i),    d kl_i / d S_ij = Rs_ij - Rt_ij.

S and T are symmetric, so a row's whole gradient is
`1 / tau_s sum_j [(Rs_ij - Rt_ij) + (Rs_ji - Rt_ji)] s_j` with `Rs_ji = exp(S_ij - lse(S_j))`: it
needs that row's logits and the log-sum-exps of all rows. Both passes go over blocks of rows; memory
is O(batch dim + block batch). Over a mesh each device has its own rows and gathers the unit vectors
[batch, dim] and the log-sum-exps [batch].
"""

from __future__ import annotations

import functools
import numbers

import jax
import jax.numpy as jnp

from rmdnet_jax.sharding import devices, gathered, over_devices
from rmdnet_jax.types import Array

MASKED = -1e30  # finite, so that masked logits never make a NaN
BLOCK = 1024  # rows at a time, where nobody asks for another number
WHOLE = {"cpu": 4096, "gpu": 32768, "tpu": 32768}  # batches from which blocks beat the matrix


def logits(rows: Array, all_rows: Array, first: Array, size: int, temperature: float) -> Array:
    """Cosine logits of a block of rows, the first being row `first` of all.

    They are masked at the diagonal and beyond `size` rows.
    """
    logits = jnp.matmul(rows, all_rows.T, precision=jax.lax.Precision.HIGHEST) / temperature
    column, row = jnp.arange(len(all_rows)), first + jnp.arange(len(rows))
    return jnp.where((column != row[:, None]) & (column < size), logits, MASKED)


def blocks(function, shift: Array, block: int, *rows: Array):
    """`function(first row, block of each of rows)` for every block, joined along the rows."""
    count = len(rows[0]) // block
    split = [x.reshape(count, block, *x.shape[1:]) for x in rows]
    joined = jax.lax.map(lambda part: function(*part), (shift + block * jnp.arange(count), *split))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), joined)


def _forward(
    student: Array,
    teacher: Array,
    size: int,
    temperatures: tuple[float, float],
    block: int,
    sharded: bool,
):
    """kl, lse(S) and lse(T) of this device's rows, [rows] each."""
    all_student, all_teacher, shift = gathered(student, teacher, sharded)

    def one(first, s, t):
        S, T = (
            logits(x, y, first, size, tau)
            for x, y, tau in zip((s, t), (all_student, all_teacher), temperatures)
        )
        lse_s, lse_t = jax.nn.logsumexp(S, axis=-1), jax.nn.logsumexp(T, axis=-1)
        difference = jnp.where(T > MASKED, T - S, 0.0)
        return (
            jnp.sum(jnp.exp(T - lse_t[:, None]) * difference, axis=-1) - lse_t + lse_s,
            lse_s,
            lse_t,
        )

    return blocks(one, shift, block, student, teacher)


def _backward(
    student,
    teacher,
    lse_s,
    lse_t,
    size: int,
    temperatures: tuple[float, float],
    block: int,
    sharded: bool,
) -> Array:
    """The gradient of the sum of all kl with respect to this device's student rows, [rows, dim]."""
    all_student, all_teacher, shift = gathered(student, teacher, sharded)
    all_lse_s, all_lse_t, _ = gathered(lse_s, lse_t, sharded)

    def one(first, s, t, own_s, own_t):
        S, T = (
            logits(x, y, first, size, tau)
            for x, y, tau in zip((s, t), (all_student, all_teacher), temperatures)
        )
        slope = (
            jnp.exp(S - own_s[:, None])
            - jnp.exp(T - own_t[:, None])
            + jnp.exp(S - all_lse_s)
            - jnp.exp(T - all_lse_t)
        )
        return jnp.matmul(slope, all_student, precision=jax.lax.Precision.HIGHEST) / temperatures[0]

    return blocks(one, shift, block, student, teacher, lse_s, lse_t)


def softmax_kl(
    student: Array,
    teacher: Array,
    student_temperature: float | Array,
    teacher_temperature: float | Array,
    block: int,
) -> Array:
    """`mean_i KL(R(teacher)_i || R(student)_i)` of unit rows.

    Args:
      student: [batch, dim], rows of unit norm, batch >= 2.
      teacher: [batch, any dim], rows of unit norm; gets no gradient.
      student_temperature: > 0.
      teacher_temperature: > 0; gets no gradient.
      block: rows at a time on each device.
    """
    student, tau_s = _divided(student, student_temperature)
    teacher, tau_t = _divided(teacher, teacher_temperature)
    return _kl(student, teacher, (tau_s, tau_t), block)


def _divided(rows: Array, temperature: float | Array) -> tuple[Array, float]:
    """The rows and what their products are divided by: a traced temperature goes into the rows."""
    if isinstance(temperature, numbers.Real):
        return rows, float(temperature)
    return rows / jnp.sqrt(jnp.asarray(temperature, rows.dtype)), 1.0


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _kl(student: Array, teacher: Array, temperatures: tuple[float, float], block: int) -> Array:
    return _kl_forward(student, teacher, temperatures, block)[0]


def divergence(target: Array, guess: Array) -> Array:
    """`mean_i sum_j P_ij (log P_ij - log Q_ij)` of logarithms of the target P and the guess Q."""
    return jnp.mean(jnp.sum(jnp.exp(target) * (target - guess), axis=-1))


def rows_at_once(batch: int) -> int:
    """The block that suits a batch of this size here; 0 where the matrix of all is faster."""
    whole = WHOLE.get(jax.default_backend(), WHOLE["cpu"])
    return 0 if devices() == 1 and batch < whole else BLOCK


def padded(block: int, *rows: Array) -> tuple[list[Array], int]:
    """Zero rows added until every device has whole blocks; and the block's size."""
    share = -(-len(rows[0]) // devices())
    block = min(block, share)
    total = -(-share // block) * block * devices()
    return [jnp.pad(x, ((0, total - len(x)), *((0, 0),) * (x.ndim - 1))) for x in rows], block


def _kl_forward(student, teacher, temperatures, block):
    size = len(student)
    rows, block = padded(block, student, teacher)
    run = functools.partial(_forward, size=size, temperatures=temperatures, block=block)
    value, lse_s, lse_t = (x[:size] for x in over_devices(run, *rows))
    return jnp.mean(value), (student, teacher, lse_s, lse_t)


def _kl_backward(temperatures, block, residuals, cotangent):
    student, teacher, lse_s, lse_t = residuals
    size = len(student)
    rows, block = padded(block, student, teacher, lse_s, lse_t)
    run = functools.partial(_backward, size=size, temperatures=temperatures, block=block)
    return over_devices(run, *rows)[:size] * (cotangent / size), None  # the teacher is a constant


_kl.defvjp(_kl_forward, _kl_backward)
