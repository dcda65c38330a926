from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.evaluation.cost import count
from akgp.models import cifar_resnet
from akgp.pruning import PruningError, exact_cut, prune
from akgp.pruning.cutting import Removal
from akgp.pruning.entries import Entries
from tests.support.small_networks import IMAGES, Small


def wrong_inputs(name: str, dimension: int, kept: Tensor, count: int) -> Tensor:
    return torch.arange(count - len(kept), count) if dimension == 1 else kept


def wrong_statistics(name: str, dimension: int, kept: Tensor, count: int) -> Tensor:
    return torch.arange(count - len(kept), count) if name == "running_var" else kept


def wrong_order(name: str, dimension: int, kept: Tensor, count: int) -> Tensor:
    return kept.flip(0) if name == "weight" and dimension == 0 else kept


def one_wrong_filter(name: str, dimension: int, kept: Tensor, count: int) -> Tensor:
    """A single removed channel in the place of a kept one."""
    gone = sorted(set(range(count)) - set(kept.tolist()))
    return torch.tensor([gone[0], *kept.tolist()[1:]]) if dimension == 0 and name != "bias" else kept


def plain(model: Small) -> None:
    pass


def zero_head(model: Small) -> None:
    nn.init.zeros_(model.head.weight)


def zero_branch(model: Small) -> None:
    nn.init.zeros_(model.outer_norm.weight)
    nn.init.zeros_(model.outer_norm.bias)


def constant_output(model: Small) -> None:
    zero_head(model)
    nn.init.constant_(model.head.bias, 3.0)
    nn.init.constant_(model.both.bias, -1e6)  # all of its features are dead


def huge_constant(model: Small) -> None:
    model.head.weight.data *= 1e-3
    nn.init.constant_(model.head.bias, 1e6)


def huge_logits(model: Small) -> None:
    model.head.weight.data *= 1e6


def tiny_logits(model: Small) -> None:
    model.head.weight.data *= 1e-12
    model.head.bias.data *= 1e-12


@pytest.mark.parametrize(
    "weights", [plain, zero_head, zero_branch, constant_output, huge_constant, huge_logits, tiny_logits]
)
def test_wrong_surgery_is_found(weights: Callable[[Small], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the weights hide, and at the layer where it first shows; the right one passes."""

    def raise_again(layer: str, removed: Removal) -> None:
        raise  # what the check has found, in place of keeping the channels before the layer

    model = Small()
    weights(model)
    assert count(prune(model, IMAGES, ratio=0.5).model, IMAGES).macs < 0.5 * count(model, IMAGES).macs
    right = Entries.of
    for wrong in (wrong_inputs, wrong_statistics, wrong_order, one_wrong_filter):

        def of(self: Entries, tensor: Tensor, wrong: Any = wrong) -> Tensor:
            lines, leaf = self.lines, self.name.rpartition(".")[2]
            # The ids that the check of the cut goes by stay right: only the values are another channel's.
            self.lines = {
                d: wrong(leaf, d, kept, tensor.shape[d]) if len(kept) < tensor.shape[d] else kept
                for d, kept in lines.items()
            }
            values = right(self, tensor)
            self.lines = lines
            return values

        monkeypatch.setattr(Entries, "of", of)
        monkeypatch.setattr(exact_cut, "_keep_before", raise_again)
        with pytest.raises(
            PruningError, match=r"without the removed channels differs by .* in \w+, which varies"
        ):
            prune(model, IMAGES, ratio=0.5)
    monkeypatch.undo()


class Single(Small):
    """Insists on float32."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(torch.float32))


def deep() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()]
    for _ in range(60):
        layers += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


class GeM(Small):
    """Generalised mean pooling, which makes 1e-6 of zero."""

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        x = self.both(torch.cat([self.side(x), x], 1)).clamp(min=1e-6).pow(3)
        return self.head(F.adaptive_avg_pool2d(x, 2).pow(1 / 3).flatten(1))


class OneByOne(Small):
    """Takes one image at a time."""

    def forward(self, x: Tensor) -> Tensor:
        (image,) = x
        return super().forward(image[None])


@pytest.mark.parametrize(
    ("build", "batch"),
    [
        (Single, 2), (Single, 1), (deep, 2), (deep, 1), (GeM, 1), (GeM, 2), (OneByOne, 1),
        (lambda: cifar_resnet(56), 2),
    ],
)  # fmt: skip
def test_right_surgery_passes(build: Callable[[], nn.Module], batch: int) -> None:
    """Also where float64 cannot be had, signals fade (60 layers at default weights) or batches are of one."""
    torch.manual_seed(0)
    prune(build(), IMAGES[:batch], ratio=0.5)


def test_the_deviation_is_rounding() -> None:
    """In float64, or in float32 where a network insists on it."""
    assert 0 < prune(Small(), IMAGES, ratio=0.5).deviation < 1e-12
    assert 1e-12 < prune(Single(), IMAGES, ratio=0.5).deviation < 1e-5
