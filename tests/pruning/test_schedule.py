"""Pruning in several cuts: they add up to one cut of the dense network, or are refused."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from akgp.evaluation import count
from akgp.models import cifar_resnet
from akgp.params.without_effect import LOOKING
from akgp.pruning import Limit, Pruned, PruningError, int8_bytes, prune, prune_gradually
from akgp.pruning.group_criteria import BY_IMAGES

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Shuffled(nn.Module):
    """A hard-coded shuffle between two convolutions: removed channels stay there as zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        x = x.reshape(-1, 4, 4, 6, 6).transpose(1, 2).reshape(-1, 16, 6, 6)
        logits: Tensor = self.head(self.second(x).relu().mean((2, 3)))
        return logits


def network(kind: str) -> nn.Module:
    torch.manual_seed(0)
    return (Shuffled() if kind == "shuffled" else cifar_resnet(8, (8, 8, 16))).eval()


@torch.no_grad()
def masked(model: nn.Module, pruned: Pruned) -> Tensor:
    """What the dense network gives with the removed filters, and their BatchNorms, at zero."""
    zeroed = copy.deepcopy(model)
    norms = {"conv1": "bn1", "conv2": "bn2"}
    for layer in pruned.layers:
        gone = [index for index in range(layer.dense_width) if index not in layer.kept]
        parent, _, leaf = layer.name.rpartition(".")
        after = f"{parent}.{norms[leaf]}".lstrip(".") if leaf in norms else layer.name
        for name in (layer.name, after):
            for parameter in zeroed.get_submodule(name).parameters():
                parameter[gone] = 0
    outputs: Tensor = zeroed(IMAGES)
    return outputs


@pytest.mark.parametrize("kind", ["resnet", "shuffled"])
def test_cuts_add_up_to_one_of_the_dense_network(kind: str) -> None:
    model = network(kind)
    every = list(prune_gradually(model, IMAGES, steps=2, macs=0.5, round_to=1))
    for pruned in every:
        with torch.no_grad():
            torch.testing.assert_close(pruned.model(IMAGES), masked(model, pruned), rtol=1e-4, atol=1e-5)
    dense = count(model, IMAGES).macs
    shares = [count(pruned.model, IMAGES).macs / dense for pruned in every]
    assert shares == pytest.approx([0.5**0.5, 0.5], rel=0.03)
    kept = [[set(layer.kept) for layer in pruned.layers] for pruned in every]
    assert all(small <= large for earlier, later in itertools.pairwise(kept)
               for large, small in zip(earlier, later, strict=True))  # fmt: skip


def test_shares_are_of_the_dense_network() -> None:
    """Without training between them the widths are those of one cut, single layers' and limits' included."""
    model, rules = (
        network("resnet"),
        {"layers": {"layer3.0.conv1": 0.75}, "limits": {"layer1.*": Limit(max=0.25)}},
    )
    options: dict[str, Any] = {"ratio": 0.5, "round_to": 1, **rules}
    first, last = prune_gradually(model, IMAGES, steps=2, **options)
    one = prune(model, IMAGES, **options)
    assert [layer.pruned_width for layer in last.layers] == [layer.pruned_width for layer in one.layers]
    assert [layer.rule for layer in last.layers] == [layer.rule for layer in one.layers]
    third = next(layer for layer in first.layers if layer.name == "layer3.0.conv1")
    assert third.pruned_width == 8  # half of 16: twice that is a quarter


def test_each_cut_is_scored_on_what_was_trained() -> None:
    model = network("shuffled")
    first, last = None, None
    for pruned in prune_gradually(model, IMAGES, steps=2, ratio=0.5, round_to=4, criterion="l1"):
        if first is None:
            first = pruned.layers[1].kept
            with torch.no_grad():
                weight = pruned.model.get_submodule("second").get_parameter("weight")
                weight *= torch.arange(len(weight)).flip(0)[:, None, None, None]
        else:
            last = pruned.layers[1].kept
    assert first is not None and last == first[: len(first) - 4]


def test_one_step_is_one_cut_and_bytes_have_parts() -> None:
    model = network("resnet")
    (only,) = prune_gradually(model, IMAGES, steps=1, macs=0.5)
    alone = prune(model, IMAGES, macs=0.5)
    assert only.layers == alone.layers
    values = int8_bytes(model) // 2
    first, last = prune_gradually(model, IMAGES, steps=2, bytes=values, round_to=1)
    assert int8_bytes(first.model) == pytest.approx(values * 2**0.5, rel=0.02)
    assert int8_bytes(last.model) == pytest.approx(values, rel=0.02)


@pytest.mark.parametrize(
    ("steps", "amount", "message"),
    [
        (0, {"macs": 0.5}, "steps must be a whole number of 1 or more, got 0"),
        (2.5, {"macs": 0.5}, "steps must be a whole number of 1 or more, got 2.5"),
        (3, {"ratio": 1.5}, r"ratio must be in \[0, 1\), got 1.5"),
        (2, {"bytes": -5}, r"bytes must be in \(0, inf\), got -5"),
        (2, {"macs": 0.5, "layers": {"conv1": 2.0}}, r"layers: 'conv1' must be .*got 2.0"),
        (2, {"latency_ms": 1.0}, "steps above 1 need one of ratio, macs, params, bytes, got latency_ms"),
    ],
)
def test_what_cannot_work_is_refused(steps: Any, amount: dict[str, Any], message: str) -> None:
    with pytest.raises(PruningError, match=message):
        next(prune_gradually(network("resnet"), IMAGES, steps=steps, **amount))


def test_only_the_last_cut_must_have_removed_something() -> None:
    """A sixth of 16 filters is less than half of a step of 8."""
    model = cifar_resnet(8, (16, 16, 16)).eval()
    widths = [
        [layer.pruned_width for layer in pruned.layers if layer.name.endswith("conv1")]
        for pruned in prune_gradually(model, IMAGES, steps=3, ratio=0.5, scope="inside")
    ]
    assert set(widths[0]) == {16} and widths[-1].count(8) == 3
    cuts = prune_gradually(model, IMAGES, steps=2, ratio=0.1, scope="inside")
    next(cuts)
    with pytest.raises(PruningError, match="nothing can be removed by ratio"):
        next(cuts)


def test_params_name_the_criteria_by_images() -> None:
    assert set(LOOKING) == set(BY_IMAGES)
