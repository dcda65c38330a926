"""What a network's code or operations do not allow to be cut stays dense, by layer, and the rest is cut."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from akgp.pruning import prune
from tests.support.hard_networks import Between, between

IMAGES = torch.zeros(2, 3, 8, 8)


def widths(model: nn.Module) -> dict[str, float]:
    """The share of filters that each layer keeps at a ratio of .5."""
    torch.manual_seed(0)
    pruned = prune(model, IMAGES, ratio=0.5, round_to=1)
    return {layer.name: layer.pruned_width / layer.dense_width for layer in pruned.layers}


class Modulated(Between):
    """FiLM (Perez et al. 2018), whose code reads the width of a layer where it splits another's output."""

    def __init__(self) -> None:
        super().__init__(24, side=nn.Conv2d(16, 24, 3), film=nn.Linear(16, 48))
        self.norm = nn.BatchNorm2d(24, affine=False)

    def hard(self, x: Tensor) -> Tensor:
        scale, shift = self.film(x.mean((2, 3))).split(self.side.out_channels, 1)
        return F.relu(self.norm(self.side(x)) * (1 + scale[..., None, None]) + shift[..., None, None])


def test_a_split_by_a_width_that_the_code_reads_is_cut() -> None:
    assert widths(Modulated()) == {"stem.0": 0.5, "side": 0.5, "film": 0.5, "after.0": 0.5, "head": 1}


class Narrowed(Modulated):
    """Which narrows where the other one splits."""

    def hard(self, x: Tensor) -> Tensor:
        both, width = self.film(x.mean((2, 3))), self.side.out_channels
        scale, shift = both.narrow(1, 0, width), both.narrow(1, width, width)
        return F.relu(self.norm(self.side(x)) * (1 + scale[..., None, None]) + shift[..., None, None])


def test_layers_whose_width_the_code_reads_stay_dense_alone() -> None:
    assert widths(Narrowed()) == {"stem.0": 0.5, "side": 1, "film": 1, "after.0": 0.5, "head": 1}


class Ending(nn.Module):
    def __init__(self, end: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.stem, self.head, self.end = nn.Conv2d(3, 8, 3), nn.Linear(8, 6), end

    def forward(self, x: Tensor) -> Any:
        return self.end(self.head(F.relu(self.stem(x)).mean((2, 3))))


@dataclass
class Output:
    logits: Tensor


class Named(OrderedDict[str, Tensor]):
    pass


def written(logits: Tensor) -> Tensor:
    out = torch.zeros(len(logits), 8)
    out[:, 1:7] = logits
    return out


@pytest.mark.parametrize(
    "end",
    [
        lambda y: y.log_softmax(1),
        lambda y: torch.log(y.softmax(1) + 1e-6),
        lambda y: y.argmax(1),
        lambda y: y.topk(3)[1],
        lambda y: Output(y),
        lambda y: Named(logits=y),
        written,
    ],
    ids=["log_softmax", "log of softmax", "argmax", "topk", "dataclass", "dictionary", "written"],
)
def test_classes_are_not_removed(end: Callable[[Tensor], Any]) -> None:
    assert widths(Ending(end)) == {"stem": 0.5, "head": 1}


def test_probabilities_within_the_network_are_cut() -> None:
    gated = between(lambda net, x: x * net.gate(x).softmax(1), gate=lambda: nn.Conv2d(16, 16, 1))
    assert widths(gated())["gate"] == 0.5


def test_object_without_tensors_that_are_seen() -> None:
    with pytest.raises(ValueError, match="returns no tensor"):
        prune(Ending(lambda y: {1, 2}), IMAGES, ratio=0.5)


def routed(net: Any, x: Tensor) -> Tensor:
    """A mixture of experts of which the last is never chosen."""
    tokens = x.flatten(2).transpose(1, 2).reshape(-1, 16)
    chosen = net.gate(tokens)[:, :2].argmax(1)
    out = torch.zeros(len(tokens), 24)
    for number, expert in enumerate(net.experts):
        rows = (chosen == number).nonzero()[:, 0]
        out[rows] = expert(tokens[rows])
    return out.reshape(len(x), -1, 24).transpose(1, 2).reshape(len(x), 24, *x.shape[2:])


def test_expert_at_which_nothing_arrives_stays_dense() -> None:
    build = between(
        routed,
        24,
        gate=lambda: nn.Linear(16, 3),
        experts=lambda: nn.ModuleList(nn.Linear(16, 24) for _ in range(3)),
    )
    model = build()
    kept = widths(model)
    assert kept["experts.2"] == 1 and kept["after.0"] == 0.5


class Standardised(nn.Conv2d):
    """Weight standardisation as timm has it: by batch_norm of the weight, or by var_mean."""

    def __init__(self, *args: int, by: str, groups: int = 1) -> None:
        super().__init__(*args, groups=groups)
        self.gain, self.by = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5), by

    def forward(self, x: Tensor) -> Tensor:
        if self.by == "var_mean":
            variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
            weight = (self.weight - mean) * torch.rsqrt(variance + 1e-6) * self.gain
        else:
            rows = self.weight.reshape(1, self.out_channels, -1)
            weight = F.batch_norm(rows, None, None, self.gain.view(-1), training=True).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, groups=self.groups)


@pytest.mark.parametrize("by", ["var_mean", "batch_norm"])
def test_filters_whose_weights_are_standardised_are_cut(by: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), Standardised(8, 16, 1, by=by), nn.ReLU(),
        Standardised(16, 16, 3, by=by, groups=4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 5),
    )  # fmt: skip
    assert widths(model) == {"0": 0.5, "2": 0.5, "4": 0.5, "7": 1}
    budget = prune(model, IMAGES, macs=0.5, round_to=1).budget
    assert budget is not None and budget.reached == pytest.approx(0.5, rel=0.02)
