"""Teachers in a student's training: frozen networks that are given the student's own batches.

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
"""A teacher as an objective calls it: its logits [B, C] for a batch, without gradients."""


def frozen_teacher(
    network: nn.Module, *, dtype: torch.dtype | None = None, channels_last: bool = True
) -> TeacherFn:
    """`network` as a teacher: in eval mode, without gradients, in `dtype` (None: as its weights are).

    Its mode and its memory format are changed, no parameter is. It sees every image as the student does, with
    the same augmentation.
    """
    network.eval()
    settled = False  # the memory format is chosen at the first batch, which shows the images' size

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
        teachers: K; one whose share is 0 is not called.
        shares: [K], 0 and above, with a sum of 1; on the device of the batches.
    """
    used = [teacher for teacher, share in zip(teachers, shares.tolist(), strict=True) if share > 0]
    weights = shares[shares > 0]
    return lambda batch: mean_teacher(torch.stack([teacher(batch) for teacher in used]), weights)
