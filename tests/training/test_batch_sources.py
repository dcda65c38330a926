"""Data that does not lie in memory trains a network like data that does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.data.batches import Batch, BatchSource, IndexedSource
from akgp.data.normalization import normalize
from akgp.evaluation import predict_logits
from akgp.params import Training
from akgp.training import Objective, cross_entropy, evaluate, train

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
LABELS = torch.arange(50) % 3


def pixels() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 100, (50, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return noise + (LABELS * 70).to(torch.uint8)[:, None, None, None]


@dataclass
class FilePixels:
    """Images in a file of numpy's, of which only the asked ones are read."""

    file: Path
    reads: list[int] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return np.load(self.file, mmap_mode="r").shape

    def __getitem__(self, index: Tensor) -> Tensor:
        self.reads.append(len(index))
        return torch.from_numpy(np.load(self.file, mmap_mode="r")[index.numpy()])

    def to(self, device: torch.device | str) -> FilePixels:
        return self


def trained(source: BatchSource, validation: BatchSource, objective: Objective | None = None) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    params = Training(epochs=3, batch_size=16, learning_rate=0.05, precision="fp32")
    for _ in train(model, source, validation, params=params, objective=objective or cross_entropy(), seed=3):
        pass
    return model


def test_images_in_a_file_train_to_the_weights_of_images_in_memory(tmp_path: Path) -> None:
    """In training, validation, prediction and as a part of the images; never more than a batch is read."""
    np.save(tmp_path / "pixels.npy", pixels().numpy())
    on_file = FilePixels(tmp_path / "pixels.npy")
    memory, lazy = (IndexedSource(each, LABELS, MEAN, STD) for each in (pixels(), on_file))
    assert lazy.image_shape == memory.image_shape == (3, 8, 8)
    part = torch.tensor([4, 9, 0, 33, 12, 7, 21, 48, 3])
    expected, found = (trained(each, each.take(part)) for each in (memory, lazy))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    assert set(on_file.reads) == {16, 9}
    assert evaluate(found, lazy.take(part)) == evaluate(expected, memory.take(part))
    logits = predict_logits(found, lazy.take(part).take(torch.tensor([2, 0])), device="cpu", batch_size=1)
    assert torch.equal(logits, predict_logits(found, memory, device="cpu", batch_size=1)[[0, 4]])


@dataclass(frozen=True)
class Stream:
    """Images that can only be read in order, in shards of ten: each epoch begins with another shard."""

    images: Tensor
    labels: Tensor
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    image_shape = (3, 8, 8)

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Stream:
        return self

    def take(self, index: Tensor) -> Stream:
        raise NotImplementedError

    def with_columns(self, **columns: Tensor) -> Stream:
        raise NotImplementedError

    def epoch(self, *, seed: int, epoch: int, **asked: Any) -> Iterator[Batch]:
        for shard in range(5):
            yield self.batch((seed + epoch + shard) % 5)

    def ordered(self, **asked: Any) -> Iterator[Batch]:
        yield from map(self.batch, range(5))

    def batch(self, shard: int) -> Batch:
        index = torch.arange(10 * shard, 10 * shard + 10)
        return Batch(index, normalize(self.images[index], MEAN, STD), self.labels[index])


def test_a_source_may_have_an_order_of_its_own() -> None:
    source = Stream(pixels(), LABELS)
    assert evaluate(trained(source, source), source).top1 > 90  # a third by chance


def test_columns_come_with_the_images_that_they_are_of() -> None:
    """In every batch, of a part of the images too, and on the objective's side."""
    number = torch.arange(50)
    source = IndexedSource(pixels(), LABELS, MEAN, STD).with_columns(number=number, pair=torch.eye(50, 2))
    part = source.take(torch.arange(40).flip(0)).with_columns(twice=2 * number[:40].flip(0))
    seen: list[Tensor] = []

    def objective(batch: Batch, logits: Tensor, progress: float) -> Tensor:
        assert torch.equal(batch.labels, LABELS[batch.columns["number"]])
        assert torch.equal(batch.columns["pair"], torch.eye(50, 2)[batch.columns["number"]])
        assert torch.equal(batch.columns["twice"], 2 * batch.columns["number"])
        some = batch.take(torch.tensor([2, 0]))
        assert torch.equal(some.columns["number"], batch.columns["number"][[2, 0]])
        assert torch.equal(some.inputs, batch.inputs[[2, 0]])
        seen.append(batch.columns["number"])
        return F.cross_entropy(logits, batch.labels)

    trained(part, part, objective)
    assert len(torch.cat(seen[:2]).unique()) == 32 and max(torch.cat(seen)) < 40
    (batch,) = part.ordered(batch_size=50)
    assert batch.columns["number"].tolist() == list(range(40))[::-1]


@pytest.mark.parametrize("column", [torch.zeros(49), torch.tensor(1.0)])
def test_a_column_has_a_row_an_image(column: Tensor) -> None:
    source = IndexedSource(pixels(), LABELS, MEAN, STD)
    with pytest.raises(ValueError, match=r"column weight: must be \[50, ...\], a row for each image, got \["):
        source.with_columns(weight=column)
