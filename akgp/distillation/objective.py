"""The objective of a distillation, as the training loop asks for it: teachers, weights, prior and loss.

It runs the teachers on what the student sees; what their logits are worth is said in `strategies`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from akgp.data.batches import Batch
from akgp.distillation.losses import mean_teacher
from akgp.distillation.strategies import strategy_loss
from akgp.models.memory_format import as_weights, settle
from akgp.params import Distill

TeacherFn = Callable[[Batch], Tensor]
"""A teacher as the objective asks it: its logits [B, C] for a batch, without gradients."""


def frozen_teacher(
    network: nn.Module, *, dtype: torch.dtype | None = None, channels_last: bool = True
) -> TeacherFn:
    """`network` as a teacher: frozen, in eval mode, computing in `dtype` (None: as its weights are).

    Every image is answered from what the student sees of it, augmented alike.
    """
    network.requires_grad_(False).eval()
    settled = False

    def logits(batch: Batch) -> Tensor:
        nonlocal settled
        if not settled:
            settle(network, batch.inputs.shape[1:], channels_last=channels_last)
            settled = True
        on = batch.inputs.device.type
        with torch.no_grad(), torch.autocast(on, dtype=dtype, enabled=dtype is not None):
            answer: Tensor = network(as_weights(batch.inputs, network))
        return answer.float()

    return logits


def weighted_ensemble(guides: Sequence[TeacherFn], shares: Tensor) -> TeacherFn:
    """Several teachers as one, whose probabilities are the weighted mean of theirs.

    Args:
        guides: K teachers; one whose share is 0 is not asked.
        shares: [K], 0 and above, with a sum of 1; on the device of the batches.
    """
    asked = [guide for guide, share in zip(guides, shares.tolist(), strict=True) if share > 0]
    weights = shares[shares > 0]
    return lambda batch: mean_teacher(torch.stack([guide(batch) for guide in asked]), weights)


def distillation_objective(
    guides: Sequence[TeacherFn], params: Distill, *, weights: Tensor | None, prior: Tensor | None
) -> Callable[[Batch, Tensor, float], Tensor]:
    """The distillation objective: (batch, the student's logits [B, C], progress in [0, 1]) -> loss.

    Args:
        guides: the teachers; not asked where no weight of any image is above 0.
        weights: [N], the teacher's weight for each training image; None: see `teacher_weights`.
        prior: [C], log class prior added to the student's logits in training; None: no shift.
    """
    needed = weights is None or bool((weights > 0).any())

    def objective(batch: Batch, logits: Tensor, progress: float) -> Tensor:
        answers = (
            torch.stack([guide(batch) for guide in guides]) if needed else torch.zeros_like(logits)[None]
        )
        return strategy_loss(
            logits if prior is None else logits + prior,
            answers,
            batch.labels,
            params=params,
            weight=None if weights is None else weights[batch.index],
            progress=progress,
        )

    return objective
