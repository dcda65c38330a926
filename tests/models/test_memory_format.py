"""channels_last is honoured wherever a network computes, and one that cannot take it computes without."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from akgp.data.batches import Batch, IndexedSource
from akgp.distillation import cross_fitted, distillation_objective, frozen_teacher
from akgp.distillation.strategies import TEACHER_WEIGHT
from akgp.evaluation import predict_logits
from akgp.models import cifar_resnet
from akgp.models.memory_format import format_of, settle
from akgp.params import Augment, Distill, Training
from akgp.training import Objective, cross_entropy, evaluate, train

STILL = Augment(crop_padding=0, flip=False)


class Viewing(nn.Module):
    """Its forward takes contiguous feature maps alone."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(channels, 4, 3, padding=1), nn.Linear(4 * 36, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.convolution(x).relu()
        return self.head(x.view(x.size(0), -1))


def images(count: int = 16, seed: int = 0, channels: int = 3) -> IndexedSource:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, channels, 6, 6), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, (count,), generator=generator)
    return IndexedSource(pixels, labels, (0.5,) * channels, (0.25,) * channels)


def viewing(channels_last: bool = True) -> nn.Module:
    torch.manual_seed(1)
    network = Viewing()
    return network.to(memory_format=torch.channels_last) if channels_last else network


def trained(model: nn.Module, objective: Objective | None = None, **changes: object) -> nn.Module:
    params = Training(epochs=2, batch_size=8, augment=STILL, precision="fp32").model_copy(update=changes)
    objective = objective or cross_entropy()
    source = images().with_columns(**{TEACHER_WEIGHT: torch.full((16,), 0.5)})
    rows = train(model, source, images(8, 1), params=params, objective=objective, seed=0)
    assert len(list(rows)) == 2
    return model


@pytest.fixture
def seen() -> Iterator[set[bool]]:
    """Whether the images that any first convolution got were channels-last."""
    found: set[bool] = set()

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: object) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            found.add(not inputs[0].is_contiguous())

    handle = nn.modules.module.register_module_forward_hook(hook)
    yield found
    handle.remove()


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_parameter_is_honoured_wherever_a_network_computes(channels_last: bool, seen: set[bool]) -> None:
    teachers = [cifar_resnet(8, (4, 4, 4), 3) for _ in range(3)]
    guides = [
        frozen_teacher(teachers[0], channels_last=channels_last),
        cross_fitted(teachers[1:], torch.arange(16) % 2, channels_last=channels_last),
    ]
    objective = distillation_objective(guides, Distill(w0=0.5), prior=None)
    student = trained(cifar_resnet(8, (4, 4, 4), 3), objective, channels_last=channels_last, ema=0.9)
    assert format_of(student) is (torch.channels_last if channels_last else torch.contiguous_format)
    assert [format_of(teacher) for teacher in teachers] == [format_of(student)] * 3
    evaluate(student, images())
    predict_logits(student, images(), device="cpu")
    assert seen == {channels_last}


def test_a_network_that_views_its_feature_maps_computes_contiguously(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked, refused = trained(viewing(), channels_last=True), trained(viewing(), channels_last=False)
    (record,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert record.getMessage().startswith(
        "channels_last is not used, the network takes only contiguous images: view size is not compatible"
    )
    for name, tensor in asked.state_dict().items():
        assert torch.equal(tensor, refused.state_dict()[name]), name
    assert evaluate(asked, images()).loss == evaluate(refused, images()).loss


@pytest.mark.parametrize("channels_last", [False, True])
def test_images_of_one_channel_are_laid_out_by_their_strides(channels_last: bool) -> None:
    """They are contiguous in both senses, and augmentation leaves the strides of channels-last."""
    network = Viewing(channels=1)
    gray = images(channels=1)
    params = Training(epochs=1, batch_size=8, warmup_epochs=0, channels_last=channels_last, precision="fp32")
    list(train(network, gray, gray, params=params, objective=cross_entropy(), seed=0))
    teach = frozen_teacher(network, channels_last=channels_last)
    last = torch.rand(4, 6, 6, 1).permute(0, 3, 1, 2)
    assert teach(Batch(torch.arange(4), last, torch.zeros(4, dtype=torch.int64))).shape == (4, 3)


def test_such_a_teacher_answers_a_student_in_channels_last() -> None:
    batch = Batch(torch.arange(4), torch.rand(4, 3, 6, 6), torch.zeros(4, dtype=torch.int64))
    last = Batch(batch.index, batch.inputs.contiguous(memory_format=torch.channels_last), batch.labels)
    teach = frozen_teacher(viewing())
    assert torch.equal(teach(last), teach(batch))


def test_weights_of_five_dimensions_are_no_reason_to_fail() -> None:
    network = nn.Sequential(
        nn.Unflatten(1, (1, 3)), nn.Conv3d(1, 2, 3, padding=1), nn.Flatten(), nn.LazyLinear(2)
    )
    network(torch.zeros(1, 3, 6, 6))
    assert not settle(network, (3, 6, 6), channels_last=True)
    assert network(torch.zeros(1, 3, 6, 6)).shape == (1, 2)


def test_what_fails_anyway_is_left_to_the_training(caplog: pytest.LogCaptureFixture) -> None:
    assert not settle(viewing(), (3, 9, 9), channels_last=True)
    assert not caplog.records
