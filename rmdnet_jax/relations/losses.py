"""Losses that match a student's relations to a teacher's, within one batch.

An *edge* loss compares pairwise similarities, so the two dimensions may differ. A *node* loss
compares the examples themselves. Each entry of `EDGES` and `NODES` is a pure function: two feature
matrices in, a scalar out. Features are arrays of JAX or NumPy, or lists. Half precision is computed
in float32. The teacher is a constant: its gradient is zero. All work under `jit`, `grad`, `vmap`
and inside `shard_map`, where the batch is what one device sees. Cosines are in [-1, 1].
"""

from __future__ import annotations

from typing import Literal, Protocol

import jax
import jax.numpy as jnp

from rmdnet_jax.errors import within
from rmdnet_jax.relations import blockwise
from rmdnet_jax.relations.nodes import cosine, infonce, pearson_identity
from rmdnet_jax.relations.rows import Rows, centred, checked, pair, positive, product, root, unit
from rmdnet_jax.types import Array


class RelationLoss(Protocol):
    """An entry of `EDGES` or `NODES`; its hyper-parameters are keyword-only, with defaults."""

    def __call__(self, student: Rows, teacher: Rows) -> Array: ...


def log_matrix(features: Array, temperature: float | Array) -> Array:
    """Logarithm of `matrix`, with `blockwise.MASKED` or below on the diagonal; checks nothing."""
    rows = unit(features)
    logits = product(rows, rows) / temperature
    logits = jnp.where(jnp.eye(len(rows), dtype=bool), blockwise.MASKED, logits)
    return jax.nn.log_softmax(logits, axis=-1)


def matrix(features: Rows, temperature: float | Array) -> Array:
    """Relation matrix `R_ij = softmax_{j != i}(cos(z_i, z_j) / temperature)`: who is near whom.

    Args:
      features: float [batch >= 2, dim], z; gradients pass.
      temperature: > 0; the smaller, the more a row keeps to its nearest neighbours.

    Returns:
      float [batch, batch]; rows sum to 1, the diagonal is 0.

    Raises:
      UserError: for a wrong shape, dtype or temperature.

    Example:
      >>> import numpy as np
      >>> import rmdnet_jax as rmd
      >>> features = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
      >>> print(np.asarray(rmd.relation_matrix(features, 0.5), float).round(2))
      [[0.   0.88 0.12]
       [0.86 0.   0.14]
       [0.45 0.55 0.  ]]
    """
    rows = checked("features", features)
    positive("temperature", temperature)
    return jnp.exp(log_matrix(rows, temperature))


def softmax_kl(
    student: Rows,
    teacher: Rows,
    *,
    teacher_temperature: float | Array = 0.04,
    student_temperature: float | Array = 0.1,
    block: Literal["auto"] | int = "auto",
) -> Array:
    """Edge loss `mean_i KL(R(teacher)_i || R(student)_i)` of the two relation matrices.

    Scaling or rotating the student changes nothing.

    Args:
      student: float [batch >= 2, dim].
      teacher: float [batch, any dim]; a constant, with its temperature.
      teacher_temperature: > 0; lower than the student's, it sharpens the target.
      student_temperature: > 0.
      block: > 0 computes the same that many rows at a time, without a [batch, batch] matrix; the
        mesh axis `data` shares them. 0 computes all at once, `auto` what suits batch and devices.

    Returns:
      A scalar >= 0; 0 where both relation matrices agree.

    Raises:
      UserError: for a wrong shape, dtype, temperature or block.

    Source: ReSSL's temperatures and form (Zheng et al., NeurIPS 2021), here within one batch.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> import rmdnet_jax as rmd
      >>> teacher = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
      >>> student = teacher[[0, 2, 1, 3]]  # its pairs are the wrong ones
      >>> loss, slope = jax.jit(jax.value_and_grad(rmd.softmax_kl))(student, teacher)
      >>> better = rmd.softmax_kl(student - 0.1 * slope, teacher)
      >>> print(loss > better > rmd.softmax_kl(teacher, teacher))
      True
    """
    s, t = pair(
        student,
        teacher,
        student_temperature=student_temperature,
        teacher_temperature=teacher_temperature,
    )
    block = blockwise.rows_at_once(len(s)) if block == "auto" else block
    within("block", block, "[0, inf)", whole=True)
    if block:
        return blockwise.softmax_kl(
            unit(s), unit(t), student_temperature, teacher_temperature, block
        )
    target = jax.lax.stop_gradient(log_matrix(t, teacher_temperature))
    guess = log_matrix(s, student_temperature)
    return blockwise.divergence(target, guess)


def _smooth_l1(difference: Array) -> Array:
    """`x^2 / 2` where |x| < 1, else `|x| - 1/2`."""
    size = jnp.abs(difference)
    return jnp.where(size < 1.0, 0.5 * difference * difference, size - 0.5)


def pearson(student: Rows, teacher: Rows, *, normalize: bool = False) -> Array:
    """Edge loss `||E(teacher) - E(student)||_F`, E_ij the correlation of examples i and j.

    The paper's weight is 0.3, beside `pearson_identity` with 1.

    Args:
      student: float [batch >= 2, dim].
      teacher: float [batch, any dim]; a constant.
      normalize: divides by the batch size; without it the loss grows with the batch.

    Returns:
      A scalar >= 0.

    Raises:
      UserError: for a wrong shape or dtype.

    Source: EGA (Ma, Chen, Akata, BMVC 2022); `normalize` is ours.

    Example:
      >>> import numpy as np
      >>> import rmdnet_jax as rmd
      >>> teacher = np.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]])
      >>> near, far = rmd.pearson(3 * teacher + 7, teacher), rmd.pearson(teacher[[0, 0]], teacher)
      >>> print(f"{near:.3f} {far:.3f}")
      0.000 1.414
    """
    s, t = (centred(z) for z in pair(student, teacher))
    return root(jnp.sum((product(t, t) - product(s, s)) ** 2)) / (len(s) if normalize else 1)


def _distances(features: Array) -> Array:
    """Euclidean distances [batch, batch] over the mean of those above 0."""
    products, apart = product(features, features), ~jnp.eye(len(features), dtype=bool)
    norms = jnp.diagonal(products)
    distances = root(jnp.where(apart, norms[:, None] + norms - 2 * products, 0.0))
    count = jnp.maximum(jnp.sum(distances > 0), 1)
    mean = jnp.sum(distances) / count
    return distances / jnp.where(mean > 0, mean, 1.0)


def rkd_distance(student: Rows, teacher: Rows) -> Array:
    """Edge loss: smooth L1 between the distances of all pairs, each matrix over its mean.

    Scaling, rotating or shifting the student changes nothing.

    Args:
      student: float [batch >= 2, dim].
      teacher: float [batch, any dim]; a constant.

    Returns:
      A scalar >= 0, the mean over batch^2 pairs.

    Raises:
      UserError: for a wrong shape or dtype.

    Source: Park et al., CVPR 2019, eq. 5 to 7.

    Example:
      >>> import numpy as np
      >>> import rmdnet_jax as rmd
      >>> line, triangle = np.array([[0.0], [1.0], [2.0]]), np.eye(3)
      >>> near, far = rmd.rkd_distance(5 * line + 1, line), rmd.rkd_distance(triangle, line)
      >>> print(f"{near:.3f} {far:.3f}")
      0.000 0.042
    """
    s, t = pair(student, teacher)
    return jnp.mean(_smooth_l1(_distances(s) - _distances(t)))


def _angles(features: Array) -> Array:
    """Cosines of the angles at example j between i and k, [j, i, k]; 0 where two coincide."""
    toward = unit(features[None] - features[:, None])
    return jnp.einsum("jid,jkd->jik", toward, toward, precision=jax.lax.Precision.HIGHEST)


def rkd_angle(student: Rows, teacher: Rows) -> Array:
    """Edge loss: smooth L1 between the angles of all triplets; its paper weighs it 2.

    Time and memory are O(batch^3).

    Args:
      student: float [batch >= 2, dim].
      teacher: float [batch, any dim]; a constant.

    Returns:
      A scalar >= 0, the mean over batch^3 triplets of the cosines' smooth L1.

    Raises:
      UserError: for a wrong shape or dtype.

    Source: Park et al., CVPR 2019, eq. 8 to 10.

    Example:
      >>> import numpy as np
      >>> import rmdnet_jax as rmd
      >>> corner = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
      >>> flat = corner * [1.0, 0.1]
      >>> print(f"{rmd.rkd_angle(2 * corner, corner):.3f} {rmd.rkd_angle(flat, corner):.3f}")
      0.000 0.017
    """
    s, t = pair(student, teacher)
    return jnp.mean(_smooth_l1(_angles(s) - _angles(t)))


def similarity_preserving(student: Rows, teacher: Rows) -> Array:
    """Edge loss: mean squared difference of the Gram matrices, their rows of unit norm.

    Args:
      student: float [batch >= 2, dim].
      teacher: float [batch, any dim]; a constant.

    Returns:
      A scalar >= 0.

    Raises:
      UserError: for a wrong shape or dtype.

    Source: Tung & Mori, ICCV 2019, eq. 2 to 4.

    Example:
      >>> import numpy as np
      >>> import rmdnet_jax as rmd
      >>> teacher = np.eye(2)
      >>> print(rmd.similarity_preserving(-teacher, teacher))
      0.0
    """
    s, t = pair(student, teacher)
    return jnp.mean((unit(product(s, s)) - unit(product(t, t))) ** 2)


def pkt(student: Rows, teacher: Rows) -> Array:
    """Edge loss: mean over pairs of `T log(T / S)`, rows of `(cosine + 1) / 2` that sum to 1.

    Args:
      student: float [batch >= 2, dim].
      teacher: float [batch, any dim]; a constant.

    Returns:
      A scalar >= 0; small, as it is a mean over batch^2 pairs.

    Raises:
      UserError: for a wrong shape or dtype.

    Source: Passalis & Tefas, ECCV 2018.

    Example:
      >>> import numpy as np
      >>> import rmdnet_jax as rmd
      >>> teacher = np.eye(3)
      >>> near, far = rmd.pkt(2 * teacher, teacher), rmd.pkt(np.ones((3, 3)), teacher)
      >>> print(f"{near:.3f} {far:.3f}")
      0.000 0.020
    """
    rows = (  # as its authors scale them
        z / (root(jnp.sum(z * z, axis=-1, keepdims=True)) + 1e-7) for z in pair(student, teacher)
    )
    s, t = ((product(z, z) + 1.0) / 2.0 for z in rows)
    s, t = (p / jnp.sum(p, axis=-1, keepdims=True) for p in (s, t))
    return jnp.mean(t * jnp.log((t + 1e-7) / (s + 1e-7)))


EDGES: dict[str, RelationLoss] = {
    "softmax_kl": softmax_kl,
    "pearson": pearson,
    "rkd_distance": rkd_distance,
    "rkd_angle": rkd_angle,
    "similarity_preserving": similarity_preserving,
    "pkt": pkt,
}
"""Edge losses by name, `(student, teacher) -> scalar`. The two dimensions may differ."""
NODES: dict[str, RelationLoss] = {
    "cosine": cosine, "pearson_identity": pearson_identity, "infonce": infonce,
}  # fmt: skip
"""Node losses by name, likewise. Both sides need the same dimension."""
