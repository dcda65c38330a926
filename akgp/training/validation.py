"""Validation of a network in training, by all workers together.

Finished networks, in other runtimes too, are measured by akgp.evaluation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from akgp.data.batches import BatchSource
from akgp.models.memory_format import format_of
from akgp.models.top1 import is_right
from akgp.training.workers import all_reduced, place

EVALUATION_BATCH = 512


class Metrics(NamedTuple):
    """Loss and accuracies of a network on a split."""

    loss: float
    """Mean cross-entropy, nats."""
    top1: float
    """Share of the images whose class is predicted as labelled, %."""
    balanced_top1: float
    """Mean over the classes that occur of each one's share, %: rare classes count as much as others."""


@torch.no_grad()
def evaluate(model: nn.Module, source: BatchSource) -> Metrics:
    """Put a network into eval mode and measure it.

    Every image is counted once over all workers, who call this together.
    """
    model.eval()
    rank, world = place()
    device = source.labels.device
    classes = int(source.labels.max()) + 1
    # Sums on the device, as reading a number waits for the GPU; in float64, as there may be many images.
    loss = torch.zeros(1, dtype=torch.float64, device=device)
    correct = torch.zeros(classes, dtype=torch.float64, device=device)
    channels_last = format_of(model) is torch.channels_last
    for batch in source.ordered(
        batch_size=EVALUATION_BATCH, rank=rank, world=world, channels_last=channels_last
    ):
        logits = model(batch.inputs).float()
        loss += F.cross_entropy(logits, batch.labels, reduction="sum")
        correct += batch.labels[is_right(logits, batch.labels)].bincount(minlength=classes)
    loss_sum, *right = all_reduced(torch.cat([loss, correct]))
    images_by_class = source.labels.bincount().tolist()
    shares = [one / count for one, count in zip(right, images_by_class, strict=True) if count]
    return Metrics(loss_sum / len(source), 100 * sum(right) / len(source), 100 * sum(shares) / len(shares))
