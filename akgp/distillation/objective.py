"""The objective of a distillation, as the training loop asks for it: teachers, weights, prior and loss.

It runs the teachers on what the student sees; what their logits are worth is said in `strategies`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from akgp.data.batches import Batch
from akgp.distillation.strategies import strategy_loss
from akgp.params import Distill


def guided(
    teachers: Sequence[nn.Module],
    params: Distill,
    *,
    weights: Tensor | None,
    prior: Tensor | None,
    dtype: torch.dtype | None,
) -> Callable[[Batch, Tensor, float], Tensor]:
    """The distillation objective: (batch, the student's logits [B, C], progress in [0, 1]) -> loss.

    Args:
        teachers: each gives logits [B, C] for the very inputs that the student sees. They are put
            into eval mode and get no gradients.
        weights: [N], the teacher's weight for each training image; None: see `teacher_weights`.
        prior: [C], log class prior added to the student's logits in training; None: no shift.
        dtype: in which the teachers compute, the student's; None: as their weights are.
    """
    needed = weights is None or bool((weights > 0).any())
    for teacher in teachers:
        teacher.requires_grad_(False).eval()
        if params.training.channels_last:
            teacher.to(memory_format=torch.channels_last)

    def objective(batch: Batch, logits: Tensor, progress: float) -> Tensor:
        with torch.no_grad(), torch.autocast(logits.device.type, dtype=dtype, enabled=dtype is not None):
            guides = (
                torch.stack([teacher(batch.inputs).float() for teacher in teachers])
                if needed
                else torch.zeros_like(logits)[None]
            )
        return strategy_loss(
            logits if prior is None else logits + prior,
            guides,
            batch.labels,
            params=params,
            weight=None if weights is None else weights[batch.index],
            progress=progress,
        )

    return objective
