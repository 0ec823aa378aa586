"""Relations between the examples of one batch, and the losses that match a student's to a teacher's.

An *edge* loss compares pairwise similarities, a *node* loss the examples themselves. Each entry of `EDGES` and `NODES` is a function
`(student [batch, dim], teacher [batch, dim], *, hyper-parameters) -> scalar` in its plain, readable form: the specification.
The teacher is a constant: callers pass it behind a stop-gradient. Similarities are cosines in [-1, 1].
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rmdnet_jax.errors import UserError
from rmdnet_jax.relations import blockwise as distillation
from rmdnet_jax.relations.blockwise import MASKED
from rmdnet_jax.types import Array

TINY = 1e-12  # smallest squared norm: below it a row counts as zero, and its gradient stays finite


def unit(features: Array) -> Array:
    """Rows scaled to unit norm; a zero row stays zero. [batch, dim] -> [batch, dim]."""
    square = jnp.sum(features * features, axis=-1, keepdims=True)
    return features * jax.lax.rsqrt(jnp.maximum(square, TINY))


def _product(one: Array, two: Array) -> Array:
    """All inner products of rows, in full precision: an error of bfloat16 size (TPU's default), divided by 0.04, would be seen."""
    return jnp.matmul(one, two.T, precision=jax.lax.Precision.HIGHEST)


def _check(features: Array, temperature: float) -> None:
    if features.ndim != 2 or features.shape[0] < 2:
        raise UserError(f"relation features must be [batch >= 2, dim], got shape {features.shape}")
    if not temperature > 0:
        raise UserError(f"temperature must be > 0, got {temperature}")


def log_matrix(features: Array, temperature: float) -> Array:
    """Logarithm of `matrix`, with `MASKED` or below on the diagonal."""
    _check(features, temperature)
    rows = unit(features)
    logits = _product(rows, rows) / temperature
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
    return jnp.exp(log_matrix(features, temperature))


def softmax_kl(
    student: Array,
    teacher: Array,
    *,
    teacher_temperature: float = 0.04,
    student_temperature: float = 0.1,
    block: int = 0,
) -> Array:
    """Edge loss `mean_i KL(R(teacher)_i || R(student)_i)` of the two relation matrices.

    Zero where both relations agree; unchanged by scaling or rotating the student. The teacher's lower temperature sharpens the target.
    `block` > 0 computes the same that many rows at a time, without a [batch, batch] matrix: for batches of thousands.
    Source: temperatures and form of ReSSL (Zheng et al., NeurIPS 2021), here within one batch instead of a memory bank.
    """
    if block < 0:
        raise UserError(f"block must be >= 0, got {block}")
    if block:
        for features, temperature in (
            (student, student_temperature),
            (teacher, teacher_temperature),
        ):
            _check(features, temperature)
        return distillation.kl(
            unit(student), unit(teacher), (student_temperature, teacher_temperature), block
        )
    target = log_matrix(teacher, teacher_temperature)
    guess = log_matrix(student, student_temperature)
    return jnp.mean(jnp.sum(jnp.exp(target) * (target - guess), axis=-1))


def _root(square: Array) -> Array:
    """Square root whose gradient at 0 is 0; below `TINY` counts as 0."""
    real = square > TINY
    return jnp.where(real, jnp.sqrt(jnp.where(real, square, 1.0)), 0.0)


def _centred(features: Array) -> Array:
    """Rows without their mean, of unit norm: their products are Pearson correlations. A constant row has none."""
    return unit(features - jnp.mean(features, axis=-1, keepdims=True))


def _smooth_l1(difference: Array) -> Array:
    """`x^2 / 2` where |x| < 1, else `|x| - 1/2`."""
    size = jnp.abs(difference)
    return jnp.where(size < 1.0, 0.5 * difference * difference, size - 0.5)


def pearson(student: Array, teacher: Array, *, normalize: bool = False) -> Array:
    """Edge loss `||E(teacher) - E(student)||_F`, E_ij the correlation of examples i and j over the features.

    A norm, not a mean: it grows with the batch, unless `normalize` divides it by the batch's size. The paper's weight beside
    `pearson_identity` is 0.3. Source: EGA (Ma, Chen, Akata, BMVC 2022); `normalize` is ours.
    """
    s, t = _centred(student), _centred(teacher)
    return _root(jnp.sum((_product(t, t) - _product(s, s)) ** 2)) / (len(s) if normalize else 1)


def _distances(features: Array) -> Array:
    """Euclidean distances [batch, batch] over the mean of those above 0."""
    products, apart = _product(features, features), ~jnp.eye(len(features), dtype=bool)
    norms = jnp.diagonal(products)
    distances = _root(jnp.where(apart, norms[:, None] + norms - 2 * products, 0.0))
    count = jnp.maximum(jnp.sum(distances > 0), 1)
    mean = jnp.sum(distances) / count
    return distances / jnp.where(mean > 0, mean, 1.0)


def rkd_distance(student: Array, teacher: Array) -> Array:
    """Edge loss: smooth L1 between the distances of all pairs, each matrix over its mean. Source: Park et al., CVPR 2019, eq. 5 to 7."""
    return jnp.mean(_smooth_l1(_distances(student) - _distances(teacher)))


def _angles(features: Array) -> Array:
    """Cosines of the angles at example j between i and k, [j, i, k]; 0 where two of them coincide."""
    toward = unit(features[None] - features[:, None])
    return jnp.einsum("jid,jkd->jik", toward, toward, precision=jax.lax.Precision.HIGHEST)


def rkd_angle(student: Array, teacher: Array) -> Array:
    """Edge loss: smooth L1 between the angles of all triplets, O(batch^3); its paper weighs it 2.

    Source: Park et al., CVPR 2019, eq. 8 to 10.
    """
    return jnp.mean(_smooth_l1(_angles(student) - _angles(teacher)))


def similarity_preserving(student: Array, teacher: Array) -> Array:
    """Edge loss: mean squared difference of the Gram matrices, their rows of unit norm. Source: Tung & Mori, ICCV 2019, eq. 2 to 4."""
    return jnp.mean((unit(_product(student, student)) - unit(_product(teacher, teacher))) ** 2)


def pkt(student: Array, teacher: Array) -> Array:
    """Edge loss: mean over pairs of `T log(T / S)`, rows of `(cosine + 1) / 2` that sum to 1. Source: Passalis & Tefas, ECCV 2018."""
    rows = (
        z / (_root(jnp.sum(z * z, axis=-1, keepdims=True)) + 1e-7) for z in (student, teacher)
    )  # as its authors scale them
    s, t = ((_product(z, z) + 1.0) / 2.0 for z in rows)
    s, t = (p / jnp.sum(p, axis=-1, keepdims=True) for p in (s, t))
    return jnp.mean(t * jnp.log((t + 1e-7) / (s + 1e-7)))


def _same_shape(name: str, student: Array, teacher: Array) -> None:
    if student.shape != teacher.shape:
        raise UserError(
            f"node {name} needs student and teacher features of one shape, got {student.shape} and {teacher.shape}"
        )


def cosine(student: Array, teacher: Array) -> Array:
    """Node loss `mean_i 1 - cos(s_i, t_i)`, in [0, 2]; both sides need the same dimension."""
    _same_shape("cosine", student, teacher)
    return jnp.mean(1.0 - jnp.sum(unit(student) * unit(teacher), axis=-1))


def pearson_identity(student: Array, teacher: Array, *, normalize: bool = False) -> Array:
    """Node loss `||N - 1||_F`, N_ij the correlation of teacher i and student j; see `pearson`. Source: EGA (BMVC 2022)."""
    _same_shape("pearson_identity", student, teacher)
    across = _product(_centred(teacher), _centred(student))
    return _root(jnp.sum((across - jnp.eye(len(across))) ** 2)) / (len(across) if normalize else 1)


def infonce(student: Array, teacher: Array, *, temperature: float = 0.5) -> Array:
    """Node loss `-mean_i log softmax_j(cos(s_i, t_j) / temperature)_i`: each student row is to find its teacher row among the batch's."""
    _same_shape("infonce", student, teacher)
    _check(student, temperature)
    return -jnp.mean(
        jnp.diagonal(
            jax.nn.log_softmax(_product(unit(student), unit(teacher)) / temperature, axis=-1)
        )
    )


EDGES = {
    "softmax_kl": softmax_kl,
    "pearson": pearson,
    "rkd_distance": rkd_distance,
    "rkd_angle": rkd_angle,
    "similarity_preserving": similarity_preserving,
    "pkt": pkt,
}
NODES = {"cosine": cosine, "pearson_identity": pearson_identity, "infonce": infonce}
