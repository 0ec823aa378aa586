"""SimSiam's loss, and the edge and node losses of relation distillation, on [batch, dim]."""

import torch
import torch.nn.functional as F
from torch import Tensor


def simsiam(z1: Tensor, z2: Tensor, p1: Tensor, p2: Tensor) -> Tensor:
    """Half the sum of the two negative cosines; the projections are constants."""
    return -0.5 * (
        F.cosine_similarity(p1, z2.detach()).mean() + F.cosine_similarity(p2, z1.detach()).mean()
    )


def _relation(features: Tensor, temperature: float) -> Tensor:
    """Log of the row-wise softmax of cosine similarities, self-similarity left out."""
    rows = F.normalize(features, dim=1)
    logits = rows @ rows.T / temperature
    return logits.masked_fill(
        torch.eye(len(rows), dtype=torch.bool, device=rows.device), -1e30
    ).log_softmax(1)


def edge(
    student: Tensor,
    teacher: Tensor,
    teacher_temperature: float = 0.04,
    student_temperature: float = 0.1,
) -> Tensor:
    """Mean over rows of KL(teacher relation || student relation)."""
    target = _relation(teacher, teacher_temperature)
    return F.kl_div(
        _relation(student, student_temperature), target, reduction="batchmean", log_target=True
    )


def node(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over examples of one minus the cosine of student and teacher."""
    return (1 - F.cosine_similarity(student, teacher)).mean()
