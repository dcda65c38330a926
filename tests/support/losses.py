"""The loss of a batch by a strategy, from logits alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from akgp.data.batches import Batch
from akgp.distillation import distillation_objective
from akgp.distillation.strategies import TEACHER_WEIGHT
from akgp.params import Distill


def strategy_loss(
    student: Tensor,
    teachers: Tensor,
    labels: Tensor,
    *,
    params: Distill,
    weight: Tensor | None = None,
    progress: float = 0.0,
) -> Tensor:
    """The objective of `params.strategy` for logits [B, C] and [K, B, C] that are given."""

    def saying(logits: Tensor) -> Any:
        return lambda batch: logits

    objective = distillation_objective([saying(each) for each in teachers], params, prior=None)
    columns = {} if weight is None else {TEACHER_WEIGHT: weight}
    images = torch.zeros(len(student), 1, 1, 1)
    return objective(Batch(torch.arange(len(student)), images, labels, columns), student, progress)
