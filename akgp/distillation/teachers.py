"""Teachers as a student's training asks them: frozen networks that answer its own batches.

K: teachers, N: training images, B: samples of a batch, C: classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from akgp.data.batches import Batch
from akgp.distillation.losses import mean_teacher
from akgp.models.memory_format import as_weights, settle

TeacherFn = Callable[[Batch], Tensor]
"""A teacher as an objective asks it: its logits [B, C] for a batch, without gradients."""


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


def weighted_ensemble(teachers: Sequence[TeacherFn], shares: Tensor) -> TeacherFn:
    """Several teachers as one, whose probabilities are the weighted mean of theirs.

    Args:
        teachers: K; one whose share is 0 is not asked.
        shares: [K], 0 and above, with a sum of 1; on the device of the batches.
    """
    asked = [teacher for teacher, share in zip(teachers, shares.tolist(), strict=True) if share > 0]
    weights = shares[shares > 0]
    return lambda batch: mean_teacher(torch.stack([teacher(batch) for teacher in asked]), weights)
