"""Relations beyond the batch: to anchors, other examples that the teacher's features stand for."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rmdnet_jax.errors import wrong
from rmdnet_jax.relations.blockwise import MASKED, divergence
from rmdnet_jax.relations.rows import Rows, checked, pair, product, unit
from rmdnet_jax.types import Array


def anchored_kl(
    student: Rows,
    teacher: Rows,
    anchors: Rows,
    own: Array | None = None,
    *,
    teacher_temperature: float | Array = 0.04,
    student_temperature: float | Array = 0.1,
) -> Array:
    """Edge loss `mean_i KL(P_i || Q_i)` of a batch's relations to anchors.

    `P_i = softmax_j(cos(t_i, a_j) / teacher_temperature)`, and `Q_i` likewise for the student.
    A batch of 128 has few near examples; among thousands of anchors there are some.

    Args:
      student: float [batch >= 2, dim].
      teacher: float [batch, dim]; a constant.
      anchors: float [anchor >= 2, dim], the teacher's features of other examples; constants.
      own: bool [batch, anchor], true where an anchor is the example itself: it is left out.
      teacher_temperature: > 0; lower than the student's, it sharpens the target.
      student_temperature: > 0.

    Returns:
      A scalar >= 0; 0 where student and teacher see the anchors alike.

    Raises:
      UserError: for a wrong shape, dtype or temperature, or several dimensions.

    Source: ReSSL (Zheng et al., NeurIPS 2021), whose anchors are a queue of past features; here
    they are stored features of a frozen teacher.

    Example:
      >>> import numpy as np
      >>> import rmdnet_jax as rmd
      >>> anchors = np.eye(4)
      >>> teacher = anchors[:2] + 0.1
      >>> near = rmd.anchored_kl(2 * teacher, teacher, anchors, student_temperature=0.04)
      >>> far = rmd.anchored_kl(teacher[::-1], teacher, anchors)
      >>> print(f"{near:.3f}", near < far)
      0.000 True
    """
    s, t = pair(
        student,
        teacher,
        aligned=True,
        student_temperature=student_temperature,
        teacher_temperature=teacher_temperature,
    )
    a = unit(jax.lax.stop_gradient(checked("anchors", anchors)))
    if a.shape[1] != s.shape[1]:
        raise wrong("anchors", f"have the student's dimension {s.shape[1]}, got {a.shape[1]}")

    def log_share(rows: Array, temperature: float | Array) -> Array:
        logits = product(unit(rows), a) / temperature
        return jax.nn.log_softmax(logits if own is None else jnp.where(own, MASKED, logits))

    target = jax.lax.stop_gradient(log_share(t, teacher_temperature))
    guess = log_share(s, student_temperature)
    return divergence(target, guess)
