"""Residual blocks that are removed whole: which there are, and what is left without them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.efficientnet import MBConv
from torchvision.models.mobilenetv2 import InvertedResidual

from akgp import artifacts, params
from akgp.budgets import prune_by_params
from akgp.evaluation import count
from akgp.models import cifar_resnet
from akgp.pruning import (
    Pruned,
    PruningError,
    Sensitivity,
    prune,
    prune_gradually,
    residual_blocks,
    without_blocks,
)

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
EXAMPLE = torch.zeros(1, 3, 8, 8)


def network() -> nn.Module:
    torch.manual_seed(0)
    model = cifar_resnet(20, (8, 8, 16)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    return model


@torch.no_grad()
def outputs(model: nn.Module) -> Tensor:
    logits: Tensor = model.eval()(IMAGES)
    return logits


@torch.no_grad()
def masked(model: nn.Module, pruned: Pruned) -> Tensor:
    """What the dense network gives with the removed filters, and their BatchNorms, at zero."""
    zeroed = copy.deepcopy(model)
    for layer in pruned.layers:
        gone = [index for index in range(layer.dense_width) if index not in layer.kept]
        for name in (layer.name, layer.name.replace("conv", "bn")):
            for parameter in zeroed.get_submodule(name).parameters():
                parameter[gone] = 0
    return outputs(zeroed)


class Stream(nn.Module):
    """A block that computes in place, without an activation, called by a network whose stream is signed."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))

    def forward(self, x: Tensor) -> Tensor:
        x += self.branch(x)
        return x


def plain() -> nn.Sequential:
    """One such block; a layer, a block with a gate and one called twice hand on something else."""
    twice = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU())
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), Stream(), twice, nn.Sequential(nn.Conv2d(8, 8, 1), nn.Sigmoid()), twice,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def test_blocks_are_those_with_a_shortcut_and_nothing_else() -> None:
    assert residual_blocks(plain(), EXAMPLE) == ["1"]
    assert residual_blocks(network(), EXAMPLE) == [
        f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(3) if stage == 1 or block
    ]  # fmt: skip
    for model in (models.mobilenet_v2(num_classes=3), models.efficientnet_b0(num_classes=3)):
        by_torchvision = [
            name
            for name, module in model.named_modules()
            if isinstance(module, (MBConv, InvertedResidual)) and module.use_res_connect
        ]
        assert residual_blocks(model, torch.zeros(1, 3, 32, 32)) == by_torchvision
    transformer = models.VisionTransformer(8, 4, 2, 2, 8, 16, num_classes=3)
    names = [f"encoder.layers.encoder_layer_{number}" for number in range(2)]
    assert residual_blocks(transformer, EXAMPLE) == names


class Block(nn.Module):
    """With a BatchNorm that has statistics and, as an option, nothing else."""

    def __init__(self, affine: bool = True) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, affine=affine)
        assert self.norm.running_mean is not None
        self.norm.running_mean += 0.3

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return (x + scale * self.norm(self.conv(x))).relu()


class Network(nn.Module):
    """Three blocks, and what its code does with them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.stem, self.head = kind, nn.Conv2d(3, 8, 3), nn.Linear(8, 3)
        self.blocks = nn.ModuleList([Block(affine=kind != "statistics alone") for _ in range(3)])
        if kind == "two names":
            self.last = self.blocks[0]
        if kind == "a shared layer":
            self.blocks[1].conv = self.blocks[0].conv
        if kind == "a hook":
            self.blocks[0].register_forward_hook(lambda *given: 2 * given[-1])
        self.listed = list(self.blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        if self.kind == "an attribute is read":
            x = x.to(self.blocks[0].get_parameter("conv.weight").dtype)
        for number, block in enumerate(self.listed if self.kind == "a list" else self.blocks):
            if self.kind == "two names" and number == 0:
                x = self.last(x)
            else:
                x = block(x, scale=0.5)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.mark.parametrize(
    ("kind", "blocks"),
    [
        ("plain", 3), ("two names", 3), ("a shared layer", 3), ("statistics alone", 3),
        ("an attribute is read", 2), ("a hook", 2), ("a list", 0),
    ],
)  # fmt: skip
def test_what_a_network_s_code_does_with_its_blocks(kind: str, blocks: int) -> None:
    """Those that are found can be removed, and whatever cannot is not found."""
    torch.manual_seed(0)
    model = Network(kind).eval()
    found = residual_blocks(model, EXAMPLE)
    assert found == [f"blocks.{number}" for number in range(3 - blocks, 3)]
    for name in found:
        whole = without_blocks(model, EXAMPLE, [name])
        zeroed = copy.deepcopy(model)
        if kind == "a shared layer":  # all but the layer
            zeroed.get_submodule(name).get_submodule("norm").get_parameter("weight").data.zero_()
            zeroed.get_submodule(name).get_submodule("norm").get_parameter("bias").data.zero_()
        else:
            for tensor in (*zeroed.get_submodule(name).parameters(), *zeroed.get_submodule(name).buffers()):
                tensor.data.zero_()
        torch.testing.assert_close(outputs(whole.model), outputs(zeroed))
        smaller = prune(whole.model, EXAMPLE, ratio=0.5, round_to=1, after=whole)
        there = {each for each, module in whole.model.named_modules() if isinstance(module, nn.Conv2d)}
        assert {layer.name for layer in smaller.layers if layer.kept} == there | {"head"}


@dataclass
class Output:
    """Of a kind whose fields torch does not see."""

    logits: Tensor


class Scaled(nn.Module):
    """Scales the output of its block by a number that the block has."""

    def __init__(self, end: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.block, self.head, self.end = Stream(), nn.Conv2d(8, 3, 1), end
        self.block.register_module("gain", nn.ReLU())

    def forward(self, x: Tensor) -> Any:
        x = self.block(x)
        return self.end(self.head(x if hasattr(self.block, "gain") else 2 * x))


@pytest.mark.parametrize("end", [lambda x: x, Output, lambda x: MappingProxyType({"x": x})])
def test_outputs_are_compared_wherever_they_are(end: Callable[[Tensor], Any]) -> None:
    """The network without its block computes twice of what it does with a block of zeros."""
    assert residual_blocks(Scaled(end), torch.zeros(1, 8, 4, 4)) == []


def test_layers_of_a_transformer_are_called_with_masks() -> None:
    """Of the first one torch's encoder reads attributes."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, norm_first=True, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    model = nn.Sequential(nn.Linear(5, 8), encoder, nn.Linear(8, 3))
    example = torch.zeros(2, 4, 5)
    assert residual_blocks(model, example) == ["1.layers.1"]
    smaller = without_blocks(model, example, ["1.layers.*"]).model
    assert count(smaller, example).params == 75 + count(layer, torch.zeros(2, 4, 8)).params


@pytest.mark.parametrize("amount", [{"macs": 0.95}, {"params": 0.95}, {"bytes": "280k"}])
def test_blocks_may_suffice_for_a_budget(amount: dict[str, Any]) -> None:
    pruned = prune_by_params(
        params.Prune(bypass=("layer3.*",), **amount), cifar_resnet(20).eval(), EXAMPLE, seed=0
    )
    assert pruned.budget and pruned.budget.reached < pruned.budget.asked
    assert pruned.budget.why and "bypassed blocks" in pruned.budget.why
    assert {layer.pruned_width for layer in pruned.layers} == {0, 16, 32, 64, 10}


def test_a_budget_that_the_widths_miss_is_not_missed_by_the_blocks() -> None:
    asked = params.Prune(macs=0.3, bypass=("layer1.2",), round_to=64)
    budget = prune_by_params(asked, cifar_resnet(20).eval(), EXAMPLE, seed=0).budget
    assert budget and budget.reached > 0.3 and budget.why and "blocks" not in budget.why


class Always(nn.Module):
    """Monte-Carlo dropout."""

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.2, True)


class Dropping(nn.Module):
    """Such dropout in a block and behind it."""

    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.inner, self.conv, self.drop = inner, nn.Conv2d(8, 8, 3, padding=1), Always()

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.inner is None else self.drop(self.inner(x))
        return x + self.drop(self.conv(x))


def test_random_numbers_hide_no_block_and_stay_the_caller_s() -> None:
    model, example = nn.Sequential(Dropping(Dropping()), nn.Conv2d(8, 8, 1)), torch.zeros(1, 8, 4, 4)
    chain = nn.Sequential(nn.Conv2d(8, 8, 1), Always(), nn.ReLU(), nn.Conv2d(8, 8, 1))
    state = torch.get_rng_state()
    assert residual_blocks(model, example) == ["0.inner"]
    without_blocks(model, example, ["0.inner"])
    prune(chain, example, ratio=0.5, round_to=1)
    list(Sensitivity(chain, example, [0.5], lambda smaller: 0.0, round_to=1))
    assert torch.equal(torch.get_rng_state(), state)


def test_it_is_the_network_with_the_block_s_filters_at_zero() -> None:
    model = network()
    before = outputs(model)
    whole = without_blocks(model, EXAMPLE, ["layer1.[12]", "layer3.2"])
    assert [layer.name for layer in whole.layers if not layer.kept] == [
        f"layer{block}.conv{number}" for block in ("1.1", "1.2", "3.2") for number in (1, 2)
    ]
    torch.testing.assert_close(outputs(whole.model), masked(model, whole))
    smaller = prune(whole.model, EXAMPLE, macs=0.4, round_to=1, after=whole)
    torch.testing.assert_close(outputs(smaller.model), masked(model, smaller), rtol=1e-3, atol=1e-4)
    assert [layer.name for layer in smaller.layers] == [layer.name for layer in whole.layers]
    share = count(smaller.model, EXAMPLE).macs / count(model, EXAMPLE).macs
    assert smaller.budget and smaller.budget.reached == pytest.approx(share) == pytest.approx(0.4, rel=0.02)
    torch.testing.assert_close(outputs(model), before, rtol=0, atol=0)


def test_a_saved_one_is_loaded_as_it_is(tmp_path: Path) -> None:
    whole = without_blocks(network(), EXAMPLE, ["layer2.*"])
    smaller = prune(whole.model, EXAMPLE, ratio=0.5, round_to=1, after=whole).model
    artifacts.save(smaller, tmp_path)
    loaded = artifacts.load(tmp_path)
    torch.testing.assert_close(outputs(loaded), outputs(smaller), rtol=0, atol=0)
    artifacts.save(without_blocks(loaded, EXAMPLE, ["layer1.1"]).model, tmp_path)
    assert residual_blocks(artifacts.load(tmp_path), EXAMPLE) == [
        "layer1.0",
        "layer1.2",
        "layer3.1",
        "layer3.2",
    ]


def test_an_unknown_network_s_spec_is_found(tmp_path: Path) -> None:
    model = models.resnet18(num_classes=3).eval()
    artifacts.save(without_blocks(model, torch.zeros(1, 3, 32, 32), ["layer4.1"]).model, tmp_path)
    assert not [name for name, _ in artifacts.load(tmp_path).named_modules() if name.startswith("layer4.1.")]


def test_cuts_little_by_little_come_to_the_same() -> None:
    asked = params.Prune(ratio=0.5, round_to=1, bypass=("layer1.1",))
    model = network()
    once = prune_by_params(asked, model, EXAMPLE, seed=0)
    half = prune_by_params(asked, model, EXAMPLE, seed=0, done=0.5)
    twice = prune_by_params(asked, half.model, EXAMPLE, seed=0, after=half)
    assert [layer.pruned_width for layer in twice.layers] == [layer.pruned_width for layer in once.layers]
    first = without_blocks(model, EXAMPLE, ["layer1.1"])
    *_, last = prune_gradually(
        first.model, EXAMPLE, steps=2, after=first, ratio=0.5, round_to=1, scope="inside"
    )
    assert [layer.pruned_width for layer in last.layers] == [layer.pruned_width for layer in once.layers]


@pytest.mark.parametrize("name", ["layer2.0", "conv1", "nothing"])
def test_what_is_no_block_is_refused(name: str) -> None:
    with pytest.raises(
        PruningError, match=f"bypass: '{name}' is no residual block of CifarResNet; such are layer1"
    ):
        without_blocks(network(), EXAMPLE, ["layer1.1", name])


def test_names_are_a_list() -> None:
    with pytest.raises(PruningError, match="bypass must be a list of names"):
        without_blocks(network(), EXAMPLE, "layer1.1")
