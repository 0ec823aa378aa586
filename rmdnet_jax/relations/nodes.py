"""Node losses: they compare the examples themselves, so both sides need the same dimension.

In a run where they differ, a linear map that is learnt takes the student's features to the
teacher's: see `training.objectives.relation_guided`.

Conventions are those of `losses`, which names them in its table `NODES`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rmdnet_jax.relations.rows import Rows, centred, pair, product, root, unit
from rmdnet_jax.types import Array


def cosine(student: Rows, teacher: Rows) -> Array:
    """Node loss `mean_i 1 - cos(s_i, t_i)`: each example should point where its teacher points.

    Args:
      student: float [batch >= 2, dim].
      teacher: float [batch, dim]; a constant.

    Returns:
      A scalar in [0, 2], 0 for equal directions, 2 for opposite ones.

    Raises:
      UserError: for a wrong shape or dtype, or two dimensions.

    Example:
      >>> import numpy as np
      >>> import rmdnet_jax as rmd
      >>> teacher = np.eye(3)
      >>> print(rmd.cosine(5 * teacher, teacher), rmd.cosine(-teacher, teacher))
      0.0 2.0
    """
    s, t = pair(student, teacher, aligned=True)
    return jnp.mean(1.0 - jnp.sum(unit(s) * unit(t), axis=-1))


def pearson_identity(student: Rows, teacher: Rows, *, normalize: bool = False) -> Array:
    """Node loss `||N - 1||_F`, N_ij the correlation of teacher i and student j over the features.

    Args:
      student: float [batch >= 2, dim].
      teacher: float [batch, dim]; a constant.
      normalize: divides by the batch size; without it the loss grows with the batch.

    Returns:
      A scalar >= 0. It is 0 where each pair correlates and different examples do not.

    Raises:
      UserError: for a wrong shape or dtype, or two dimensions.

    Source: EGA (Ma, Chen, Akata, BMVC 2022); `normalize` is ours.

    Example:
      >>> import numpy as np
      >>> import rmdnet_jax as rmd
      >>> teacher = np.array([[1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 1.0, -1.0]])
      >>> near = rmd.pearson_identity(3 * teacher + 7, teacher)
      >>> print(f"{near:.3f} {rmd.pearson_identity(teacher[::-1], teacher):.3f}")
      0.000 2.000
    """
    s, t = pair(student, teacher, aligned=True)
    across = product(centred(t), centred(s))
    return root(jnp.sum((across - jnp.eye(len(across))) ** 2)) / (len(across) if normalize else 1)


def infonce(student: Rows, teacher: Rows, *, temperature: float | Array = 0.5) -> Array:
    """Node loss `-mean_i log softmax_j(cos(s_i, t_j) / temperature)_i`.

    Each student row is to find its own teacher row among all teacher rows of the batch.

    Args:
      student: float [batch >= 2, dim].
      teacher: float [batch, dim]; a constant.
      temperature: > 0; the smaller, the more the hardest wrong row counts.

    Returns:
      A scalar > 0; `log(batch)` where every teacher row is equally near.

    Raises:
      UserError: for a wrong shape, dtype or temperature, or two dimensions.

    Source: the released code of EGA's authors (BMVC 2022).

    Example:
      >>> import numpy as np
      >>> import rmdnet_jax as rmd
      >>> teacher = np.eye(4)
      >>> found = rmd.infonce(teacher, teacher, temperature=0.1)
      >>> lost = rmd.infonce(np.ones((4, 4)), teacher, temperature=0.1)
      >>> print(f"{found:.3f} {lost:.3f} {np.log(4):.3f}")
      0.000 1.386 1.386
    """
    s, t = pair(student, teacher, aligned=True, temperature=temperature)
    scores = jax.nn.log_softmax(product(unit(s), unit(t)) / temperature, axis=-1)
    return -jnp.mean(jnp.diagonal(scores))
