"""What the tests of training share."""

from __future__ import annotations

import io
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.data.batches import Batch, IndexedSource
from akgp.params import Training
from akgp.training import (
    Epoch,
    Objective,
    cross_entropy,
    train,
)

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def images(count: int = 48, seed: int = 0) -> IndexedSource:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    pixels[:, :, :, :3] = (labels * 100).to(torch.uint8)[:, None, None, None]  # what is to be learned
    return IndexedSource(pixels, labels, MEAN, STD)


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)
    )


def dropping() -> nn.Module:
    """A network whose every training step draws random numbers, with BatchNorm."""
    return nn.Sequential(*network()[:4], nn.Dropout(0.5), nn.Linear(144, 3))


def run(
    params: Training,
    *,
    model: nn.Module | None = None,
    state: dict[str, Any] | None = None,
    stop: int | None = None,
    objective: Objective | None = None,
    count: int = 48,
) -> tuple[nn.Module, list[Epoch]]:
    model = model or network()
    epochs = []
    for epoch in train(
        model, images(count), images(24, 1), params=params,
        objective=objective or cross_entropy(), seed=3, state=state,
    ):  # fmt: skip
        epochs.append(epoch)
        if len(epochs) == stop:
            break
    return model, epochs


def from_disk(state: dict[str, Any]) -> dict[str, Any]:
    """A state written and read as the stages do: tensors and plain values only."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


class Learning(nn.Module):
    """An objective that learns: the loss is on logits times a vector, plus those of a head on the images."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.scale = nn.Parameter(torch.ones(3))
        self.head = nn.Conv2d(3, 3, 8)

    def forward(self, batch: Batch, logits: Tensor, progress: float) -> Tensor:
        head = self.head(batch.inputs).flatten(1)
        return F.cross_entropy(logits * self.scale, batch.labels) + F.cross_entropy(head, batch.labels)
